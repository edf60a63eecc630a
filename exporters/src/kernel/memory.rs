//! The memory of a process, this one's or another's, read with `process_vm_readv`.
//!
//! Nothing in the process is stopped or changed, and its state does not matter: it may hang. The
//! kernel lets a process read itself always, others as it lets a debugger attach (same user and
//! `ptrace_scope` 0, or the capability `CAP_SYS_PTRACE`).

use std::io;

use slackwater::remote::Memory;

/// A process's memory.
#[derive(Clone, Copy, Debug)]
pub struct ProcessMemoryReader {
    process: libc::pid_t,
}

/// Pieces in one system call: the kernel's limit.
const MAX_PIECES: usize = 1024;

impl ProcessMemoryReader {
    /// This process's own.
    pub fn own() -> ProcessMemoryReader {
        ProcessMemoryReader { process: std::process::id() as libc::pid_t }
    }

    /// Another's, by its id in this process's namespace.
    pub fn of(process: u32) -> ProcessMemoryReader {
        ProcessMemoryReader { process: process as libc::pid_t }
    }

    /// Fills `into` with what is at `address`.
    ///
    /// # Errors
    ///
    /// The kernel's: `EPERM` without the right to, `ESRCH` when the process has ended, `EFAULT`
    /// where nothing is mapped.
    pub fn try_read(&self, address: u64, into: &mut [u8]) -> io::Result<()> {
        let bytes = into.len();
        self.read_pieces(&[(address, bytes)], into)
    }

    /// Fills `into` with the pieces (address and length) one after the other.
    fn read_pieces(&self, pieces: &[(u64, usize)], into: &mut [u8]) -> io::Result<()> {
        let local = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
        let remote: Vec<libc::iovec> = pieces
            .iter()
            .map(|&(address, bytes)| libc::iovec {
                iov_base: address as usize as *mut libc::c_void,
                iov_len: bytes,
            })
            .collect();
        let count = remote.len() as libc::c_ulong;
        // SAFETY: the kernel writes to `local`, which is `into`, no more than its length; what is
        // read from it checks.
        let read =
            unsafe { libc::process_vm_readv(self.process, &local, 1, remote.as_ptr(), count, 0) };
        match usize::try_from(read) {
            Ok(read) if read == into.len() => Ok(()),
            // A part: the rest is not mapped.
            Ok(_) => Err(io::Error::from_raw_os_error(libc::EFAULT)),
            Err(_) => Err(io::Error::last_os_error()),
        }
    }
}

impl Memory for ProcessMemoryReader {
    fn read(&self, address: u64, into: &mut [u8]) -> bool {
        self.try_read(address, into).is_ok()
    }

    fn read_strided(&self, first: u64, stride: u64, bytes: usize, into: &mut [u8]) -> bool {
        let addresses = (0..).map(|i: u64| first.wrapping_add(stride.wrapping_mul(i)));
        let pieces: Vec<_> =
            addresses.zip(into.chunks_exact(bytes)).map(|(at, piece)| (at, piece.len())).collect();
        pieces
            .chunks(MAX_PIECES)
            .zip(into.chunks_mut(MAX_PIECES * bytes))
            .all(|(pieces, into)| self.read_pieces(pieces, into).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_memory_is_read_in_one_piece_and_in_strides() {
        let memory = ProcessMemoryReader::own();
        let numbers: Vec<u64> = (0..5000).collect();
        let start = numbers.as_ptr().addr() as u64;
        let mut bytes = [0; 16];
        assert!(memory.read(start + 8, &mut bytes));
        assert_eq!(bytes[..8], 1u64.to_le_bytes());
        assert_eq!(bytes[8..], 2u64.to_le_bytes());
        let mut third = vec![0; 1500 * 8];
        assert!(memory.read_strided(start, 24, 8, &mut third));
        for (i, word) in third.chunks_exact(8).enumerate() {
            assert_eq!(word, (3 * i as u64).to_le_bytes());
        }
    }

    #[test]
    fn what_cannot_be_read_says_why() {
        let code = |error: io::Error| error.raw_os_error();
        let own = ProcessMemoryReader::own();
        assert_eq!(own.try_read(8, &mut [0]).map_err(code), Err(Some(libc::EFAULT)));
        let nobody = ProcessMemoryReader::of(i32::MAX as u32);
        assert_eq!(nobody.try_read(8, &mut [0]).map_err(code), Err(Some(libc::ESRCH)));
    }
}
