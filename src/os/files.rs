//! The kernel's small files, the environment, and a line on standard error.

use core::ffi::{CStr, c_int};

use super::errno::keep_errno;

/// Room for the text of one of the kernel's small files.
pub(crate) const TEXT_BYTES: usize = 4096;

/// Reads a file's beginning into `buffer`; `path` ends with a zero. `None` if there is none, or it is
/// empty.
pub(crate) fn read_file<'a>(path: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let path = CStr::from_bytes_until_nul(path).ok()?;
    keep_errno(|| {
        let (place, flags) = (libc::AT_FDCWD, libc::O_RDONLY | libc::O_CLOEXEC);
        // SAFETY: the path ends with a zero.
        let file = unsafe { libc::syscall(libc::SYS_openat, place, path.as_ptr(), flags) };
        if file < 0 {
            return None;
        }
        let (start, count) = (buffer.as_mut_ptr(), buffer.len());
        // SAFETY: the buffer has room for `count` bytes.
        let length = unsafe { libc::syscall(libc::SYS_read, file, start, count) };
        // SAFETY: the descriptor was opened above.
        unsafe { close(file as c_int) };
        usize::try_from(length).ok().filter(|&length| length > 0).map(|length| &buffer[..length])
    })
}

/// Whether there is something at `path`.
pub(crate) fn is_there(path: &CStr) -> bool {
    let place = libc::AT_FDCWD;
    // SAFETY: the path ends with a zero.
    let result = keep_errno(|| unsafe {
        libc::syscall(libc::SYS_faccessat, place, path.as_ptr(), libc::F_OK)
    });
    result == 0
}

/// The number of the mount that is seen at `path`, as mountinfo has it; `None` where there is nothing,
/// or the kernel does not say (before 5.8).
pub(crate) fn mount_id(path: &CStr) -> Option<u64> {
    /// The beginning of what the kernel writes, and room for the rest. libc does not name the number
    /// for every C library.
    #[repr(C)]
    struct Statx {
        mask: u32,
        before: [u32; 35],
        mount_id: u64,
        after: [u64; 13],
    }
    const _: () = assert!(size_of::<Statx>() == 256);
    const STATX_MNT_ID: u32 = 0x1000;
    let mut found = Statx { mask: 0, before: [0; 35], mount_id: 0, after: [0; 13] };
    let (at, flags) = (libc::AT_FDCWD, libc::AT_NO_AUTOMOUNT);
    let to = &raw mut found;
    // SAFETY: the path ends with a zero, and the kernel writes no more than 256 bytes.
    let result = keep_errno(|| unsafe {
        libc::syscall(libc::SYS_statx, at, path.as_ptr(), flags, STATX_MNT_ID, to)
    });
    (result == 0 && found.mask & STATX_MNT_ID != 0).then_some(found.mount_id)
}

/// Hands the lines of a file to `visit`, cut to what fits into `buffer`, until that says `false`.
pub(crate) fn each_line(path: &CStr, buffer: &mut [u8], mut visit: impl FnMut(&[u8]) -> bool) {
    let (place, flags) = (libc::AT_FDCWD, libc::O_RDONLY | libc::O_CLOEXEC);
    let file = keep_errno(|| {
        // SAFETY: the path ends with a zero.
        unsafe { libc::syscall(libc::SYS_openat, place, path.as_ptr(), flags) }
    });
    if file < 0 {
        return;
    }
    // What `buffer` holds of the line, and whether the line's rest is to be left out.
    let (mut held, mut is_cut) = (0, false);
    loop {
        let (start, count) = (buffer[held..].as_mut_ptr(), buffer.len() - held);
        // SAFETY: the buffer has room for `count` bytes from there.
        let read = keep_errno(|| unsafe { libc::syscall(libc::SYS_read, file, start, count) });
        if read <= 0 {
            break;
        }
        held += read as usize;
        let mut done = 0;
        let mut goes_on = true;
        while goes_on
            && let Some(length) = buffer[done..held].iter().position(|&byte| byte == b'\n')
        {
            goes_on = is_cut || visit(&buffer[done..done + length]);
            is_cut = false;
            done += length + 1;
        }
        if done == 0 && held == buffer.len() {
            goes_on = is_cut || visit(&buffer[..held]);
            is_cut = true;
            done = held;
        }
        buffer.copy_within(done..held, 0);
        held -= done;
        if !goes_on {
            break;
        }
    }
    // SAFETY: the descriptor was opened above.
    keep_errno(|| unsafe { close(file as c_int) });
}

/// The value of an environment variable, without copying it. The reference is used at once, while
/// the process starts: a later `setenv` may free what it points to.
pub(crate) fn environment(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: `name` is NUL-terminated.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: getenv returns NUL-terminated strings.
    Some(unsafe { CStr::from_ptr(value) }.to_bytes())
}

/// A copy of descriptor 2 that outlives programs which close their stderr early.
pub(crate) fn duplicate_stderr() -> c_int {
    // SAFETY: fcntl on a descriptor number touches no memory.
    keep_errno(|| unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, 512) })
}

/// Closes a descriptor. Like all calls here that libc makes a point of cancellation, not through its
/// wrapper: threads that libc does not know of come here, too.
///
/// # Safety
/// The descriptor is the caller's, and used by nobody else.
pub(super) unsafe fn close(descriptor: c_int) {
    // SAFETY: the caller says so.
    unsafe { libc::syscall(libc::SYS_close, descriptor) };
}

/// Writes to stderr, as far as it goes. A thread that has left the process's descriptors goes by way
/// of `/proc`, where they are still to be found.
pub(crate) fn write_stderr(bytes: &[u8]) {
    // SAFETY: fcntl on a descriptor number touches no memory.
    let is_open = keep_errno(|| unsafe { libc::fcntl(libc::STDERR_FILENO, libc::F_GETFD) } >= 0);
    if is_open {
        return write(libc::STDERR_FILENO, bytes);
    }
    let (path, flags) = (c"/proc/self/fd/2", libc::O_WRONLY | libc::O_APPEND | libc::O_CLOEXEC);
    // SAFETY: the path ends with a zero.
    let file = keep_errno(|| unsafe {
        libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags)
    });
    if file >= 0 {
        write(file as c_int, bytes);
        // SAFETY: the descriptor was opened above.
        keep_errno(|| unsafe { close(file as c_int) });
    }
}

/// Writes to a descriptor, as far as it goes.
pub(crate) fn write(descriptor: c_int, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let (start, count) = (rest.as_ptr(), rest.len());
        // SAFETY: `rest` is a valid slice of `count` bytes.
        let written =
            keep_errno(|| unsafe { libc::syscall(libc::SYS_write, descriptor, start, count) });
        if written <= 0 {
            return;
        }
        rest = &rest[written as usize..];
    }
}

/// Ends the process with SIGABRT.
pub(crate) fn abort() -> ! {
    // SAFETY: abort has no preconditions.
    unsafe { libc::abort() }
}
