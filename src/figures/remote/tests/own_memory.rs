//! This process's own memory, read as another's would be. `tests/remote.rs` has it, too.

use super::Memory;

/// This process.
pub struct Own;

impl Memory for Own {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote =
            libc::iovec { iov_base: address as usize as *mut libc::c_void, iov_len: into.len() };
        let process = std::process::id() as libc::pid_t;
        // SAFETY: the kernel writes to `local`, which is `into`, and checks `remote`.
        let read = unsafe { libc::process_vm_readv(process, &local, 1, &remote, 1, 0) };
        read == into.len() as isize
    }
}
