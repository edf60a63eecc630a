//! A filter of system calls, as sandboxes have it.

use std::io;

/// Has the kernel refuse the calling thread a system call (`EPERM`), for good.
pub(crate) fn forbid(call: libc::c_long) {
    answer(call, libc::EPERM);
}

/// Has the calling thread's system call do nothing, and return this error, or success where that is 0. For good.
pub(crate) fn answer(call: libc::c_long, error: libc::c_int) {
    set(&[call], libc::SECCOMP_RET_ERRNO | error as u32).expect("the kernel takes a filter");
}

/// Has the kernel give this answer (a `SECCOMP_RET_…`) to system calls of the calling thread with one of these numbers,
/// 13 at most. For good. Allocates nothing, so that a child may do it before it executes a program.
pub(crate) fn set(calls: &[libc::c_long], answer: u32) -> io::Result<()> {
    let statement = |code: u32, jt, k: u32| libc::sock_filter { code: code as u16, jt, jf: 0, k };
    let (mut filter, mut length) = ([statement(0, 0, 0); 16], 0);
    let mut push = |statement| {
        filter[length] = statement;
        length += 1;
    };
    // The system call's number is first.
    push(statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0));
    for (i, &call) in calls.iter().enumerate() {
        let to_the_end = (calls.len() - i) as u8;
        push(statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, to_the_end, call as u32));
    }
    push(statement(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW));
    push(statement(libc::BPF_RET | libc::BPF_K, 0, answer));
    let program = libc::sock_fprog { len: length as u16, filter: filter.as_mut_ptr() };
    // SAFETY: takes numbers.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let mode = libc::SECCOMP_MODE_FILTER;
    // SAFETY: the program is valid; the kernel copies it.
    match unsafe { libc::prctl(libc::PR_SET_SECCOMP, mode, &raw const program) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
