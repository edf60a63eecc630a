//! The process's first thread, and what it leaves when it ends by itself.
//!
//! A process ends with its last thread, whose code is then the process's. libc ends the process when the last of its
//! threads ends; but the first thread may end by the system call alone, as it does where a function returns that
//! `clone(3)` has called. Then a thread of our own would be the last, keep the process there, and end with its code.

use super::files::{TEXT_BYTES, read_file};

/// The code with which the process's first thread has ended, if of the others only the calling one is left. By a
/// thread of our own: opens a file, for which the kernel looks at every thread. See proc_pid_stat(5).
pub(crate) fn code_if_only_this_is_left() -> Option<i32> {
    code_in(read_file(b"/proc/self/stat\0", &mut [0; TEXT_BYTES])?)
}

fn code_in(stat: &[u8]) -> Option<i32> {
    // The second field is a name in brackets, with anything in it. The next one is the third.
    let end_of_name = stat.iter().rposition(|&byte| byte == b')')?;
    let mut fields = stat[end_of_name + 1..].trim_ascii().split(|&byte| byte == b' ');
    let state = fields.next()?;
    let threads = fields.nth(16)?;
    let exit_code = core::str::from_utf8(fields.nth(31)?).ok()?;
    // As `wait` has it: the code in the second byte, a signal in the first.
    let exit_code = exit_code.parse::<i32>().ok()?;
    (state == b"Z" && threads == b"2").then_some(exit_code >> 8 & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_is_that_of_a_first_thread_that_has_ended() {
        let stat = |state: &str, threads: u32, code: u32| {
            let rest = "1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16";
            let after = (21..52).map(|field| field.to_string()).collect::<Vec<_>>().join(" ");
            format!("77 (a ) Z 2 (b) {state} {rest} {threads} {after} {code}\n")
        };
        assert_eq!(code_in(stat("Z", 2, 7 << 8).as_bytes()), Some(7));
        assert_eq!(code_in(stat("Z", 2, 0).as_bytes()), Some(0));
        assert_eq!(code_in(stat("S", 2, 7 << 8).as_bytes()), None, "it is there");
        assert_eq!(code_in(stat("Z", 3, 7 << 8).as_bytes()), None, "another thread is");
        assert_eq!(code_in(b"77 (a) Z 1 2"), None);
        assert_eq!(code_if_only_this_is_left(), None);
    }
}
