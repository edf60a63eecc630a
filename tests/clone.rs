//! A child by bare `clone`, made while other threads are inside malloc: it can allocate.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use slackwater::fork;
use slackwater::malloc::{allocate, free};

/// Takes and gives blocks of all kinds, and writes to them.
fn work(rounds: usize) {
    let mut kept = [std::ptr::null_mut::<u8>(); 64];
    for round in 0..rounds {
        let bytes = 1 + round * 7919 % (if round % 50 == 0 { 200_000 } else { 3000 });
        let place = &mut kept[round % 64];
        // SAFETY: null, or a live block that is given up.
        unsafe { free(*place) };
        *place = allocate(bytes);
        // SAFETY: the block has a byte at least.
        unsafe { place.write(round as u8) };
    }
    for block in kept {
        // SAFETY: null, or a live block that is given up.
        unsafe { free(block) };
    }
}

#[test]
fn a_child_allocates_whatever_other_threads_were_doing() {
    let is_done = AtomicBool::new(false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !is_done.load(Ordering::Relaxed) {
                    work(100);
                }
            });
        }
        for _ in 0..100 {
            let clone = || {
                let nothing = 0 as libc::c_ulong;
                // SAFETY: a copy of this process, without a signal at its end.
                unsafe {
                    libc::syscall(libc::SYS_clone, nothing, nothing, nothing, nothing, nothing)
                }
            };
            // SAFETY: `clone` is one system call, which returns 0 in the copy alone.
            let child = unsafe { fork::around(clone) };
            if child == 0 {
                work(2000);
                // SAFETY: ends the child, and runs nothing.
                unsafe { libc::_exit(7) };
            }
            assert!(child > 0, "{}", std::io::Error::last_os_error());
            let child = child as libc::pid_t;
            let (mut status, mut ended) = (0, 0);
            // Not an asserted time: a test that hangs says nothing.
            let patience = Instant::now() + Duration::from_secs(120);
            while ended == 0 && Instant::now() < patience {
                thread::sleep(Duration::from_micros(200));
                // SAFETY: `status` is a valid place; the child is ours.
                ended = unsafe { libc::waitpid(child, &mut status, libc::__WALL | libc::WNOHANG) };
            }
            if ended == 0 {
                // SAFETY: a signal to a child that has not been waited for.
                unsafe { libc::kill(child, libc::SIGKILL) };
            }
            let is_right = ended == child && libc::WIFEXITED(status);
            if !is_right || libc::WEXITSTATUS(status) != 7 {
                is_done.store(true, Ordering::Relaxed);
                panic!("the child did not come to its end: {ended} {status:#x}");
            }
        }
        is_done.store(true, Ordering::Relaxed);
    });
}
