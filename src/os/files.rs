//! The kernel's small files, the environment, and a line on standard error.

use core::ffi::{CStr, c_char, c_int};

use super::raw::system_call;

/// Where paths begin that do not begin with `/`.
const CURRENT_FOLDER: usize = libc::AT_FDCWD as usize;

/// Room for the text of one of the kernel's small files.
pub(crate) const TEXT_BYTES: usize = 4096;

/// Reads a file's beginning into `buffer`; `path` ends with a zero. `None` if there is none, or it is
/// empty.
pub(crate) fn read_file<'a>(path: &[u8], buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    let path = CStr::from_bytes_until_nul(path).ok()?;
    let file = open(path, libc::O_RDONLY)?;
    let length = read(file, buffer);
    // SAFETY: the descriptor was opened above.
    unsafe { close(file) };
    (length > 0).then(|| &buffer[..length])
}

/// Whether there is something at `path`.
pub(crate) fn is_there(path: &CStr) -> bool {
    let arguments = [CURRENT_FOLDER, path.as_ptr() as usize, libc::F_OK as usize];
    // SAFETY: the path ends with a zero.
    unsafe { system_call(libc::SYS_faccessat, arguments) == 0 }
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
    let (flags, to) = (libc::AT_NO_AUTOMOUNT as usize, &raw mut found as usize);
    let arguments = [CURRENT_FOLDER, path.as_ptr() as usize, flags, STATX_MNT_ID as usize, to];
    // SAFETY: the path ends with a zero, and the kernel writes no more than 256 bytes.
    let result = unsafe { system_call(libc::SYS_statx, arguments) };
    (result == 0 && found.mask & STATX_MNT_ID != 0).then_some(found.mount_id)
}

/// Hands the lines of a file to `visit`, cut to what fits into `buffer`, until that says `false`.
pub(crate) fn each_line(path: &CStr, buffer: &mut [u8], mut visit: impl FnMut(&[u8]) -> bool) {
    let Some(file) = open(path, libc::O_RDONLY) else { return };
    // What `buffer` holds of the line, and whether the line's rest is to be left out.
    let (mut held, mut is_cut) = (0, false);
    loop {
        let length = read(file, &mut buffer[held..]);
        if length == 0 {
            break;
        }
        held += length;
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
    unsafe { close(file) };
}

unsafe extern "C" {
    /// The pointers to the texts of the environment's variables, which end with a null; null before there is one.
    static environ: *const *const c_char;
}

/// The texts of the environment's variables, `NAME=value`. They are used at once, while the process starts: a later
/// `setenv` may free them.
fn variables() -> impl Iterator<Item = *const c_char> {
    // SAFETY: libc's variable, which is read as any program does.
    let mut next = unsafe { environ };
    core::iter::from_fn(move || {
        // SAFETY: null, or a pointer in the list.
        let text = *unsafe { next.as_ref() }?;
        if text.is_null() {
            return None;
        }
        // SAFETY: the list goes on, for this was not its end.
        next = unsafe { next.add(1) };
        Some(text)
    })
}

/// What follows `start` in a text, if it begins so.
fn rest_of(text: *const c_char, start: &[u8]) -> Option<*const c_char> {
    let mut at = text;
    for &byte in start {
        // SAFETY: the text ends with a zero, which `start` does not have, and has not ended yet.
        if unsafe { *at } as u8 != byte {
            return None;
        }
        // SAFETY: as said.
        at = unsafe { at.add(1) };
    }
    Some(at)
}

/// Is there a variable whose name begins so? In one pass: whoever would ask for many of them asks this first.
pub(crate) fn has_variables(prefix: &[u8]) -> bool {
    variables().any(|text| rest_of(text, prefix).is_some())
}

/// The value of an environment variable, without copying it. The reference is used at once, while the process starts:
/// a later `setenv` may free what it points to.
pub(crate) fn environment(name: &CStr) -> Option<&'static [u8]> {
    let value = |text| rest_of(rest_of(text, name.to_bytes())?, b"=");
    let value = variables().find_map(value)?;
    // SAFETY: the texts end with a zero.
    Some(unsafe { CStr::from_ptr(value) }.to_bytes())
}

/// A copy of descriptor 2 that outlives programs which close their stderr early.
pub(crate) fn duplicate_stderr() -> c_int {
    control(libc::STDERR_FILENO, libc::F_DUPFD_CLOEXEC, 512) as c_int
}

/// Opens a file, which no program that is executed inherits.
fn open(path: &CStr, flags: c_int) -> Option<c_int> {
    let flags = (flags | libc::O_CLOEXEC) as usize;
    // SAFETY: the path ends with a zero.
    let file =
        unsafe { system_call(libc::SYS_openat, [CURRENT_FOLDER, path.as_ptr() as usize, flags]) };
    (file >= 0).then_some(file as c_int)
}

/// Reads what fits into `buffer`; 0 at the end, and if it cannot.
fn read(file: c_int, buffer: &mut [u8]) -> usize {
    let arguments = [file as usize, buffer.as_mut_ptr() as usize, buffer.len()];
    // SAFETY: the buffer has room for that many bytes.
    unsafe { system_call(libc::SYS_read, arguments) }.max(0) as usize
}

/// `fcntl(2)`, of those that take a number.
fn control(descriptor: c_int, command: c_int, argument: usize) -> isize {
    // SAFETY: no memory is touched.
    unsafe { system_call(libc::SYS_fcntl, [descriptor as usize, command as usize, argument]) }
}

/// Closes a descriptor.
///
/// # Safety
/// The descriptor is the caller's, and used by nobody else.
pub(super) unsafe fn close(descriptor: c_int) {
    // SAFETY: the caller says so.
    unsafe { system_call(libc::SYS_close, [descriptor as usize]) };
}

/// Writes to stderr, as far as it goes. A thread that has left the process's descriptors goes by way
/// of `/proc`, where they are still to be found.
pub(crate) fn write_stderr(bytes: &[u8]) {
    let is_open = control(libc::STDERR_FILENO, libc::F_GETFD, 0) >= 0;
    if is_open {
        return write(libc::STDERR_FILENO, bytes);
    }
    if let Some(file) = open(c"/proc/self/fd/2", libc::O_WRONLY | libc::O_APPEND) {
        write(file, bytes);
        // SAFETY: the descriptor was opened above.
        unsafe { close(file) };
    }
}

/// Writes to a descriptor, as far as it goes.
pub(crate) fn write(descriptor: c_int, bytes: &[u8]) {
    let mut rest = bytes;
    while !rest.is_empty() {
        let arguments = [descriptor as usize, rest.as_ptr() as usize, rest.len()];
        // SAFETY: `rest` is a valid slice of that many bytes.
        let written = unsafe { system_call(libc::SYS_write, arguments) };
        if written <= 0 {
            return;
        }
        rest = &rest[written as usize..];
    }
}
