//! One-line messages to stderr, and the end of a process whose heap is no longer sound.
//!
//! Written with `write(2)` from a buffer on the stack: this runs inside `malloc` and `free`.

use super::{files, threads};

/// A line under construction: what does not fit is cut.
pub(crate) struct Line {
    bytes: [u8; 256],
    len: usize,
}

impl Line {
    pub fn new() -> Line {
        let mut line = Line { bytes: [0; 256], len: 0 };
        line.text("slackwater: ");
        line
    }

    pub fn text(&mut self, text: &str) -> &mut Line {
        self.raw(text.as_bytes())
    }

    pub fn raw(&mut self, bytes: &[u8]) -> &mut Line {
        for &byte in bytes {
            // One place is kept for the newline.
            if self.len < self.bytes.len() - 1 {
                self.bytes[self.len] = byte;
                self.len += 1;
            }
        }
        self
    }

    pub fn hex(&mut self, value: usize) -> &mut Line {
        self.text("0x");
        let digits = (usize::BITS - value.leading_zeros()).div_ceil(4).max(1);
        for digit in (0..digits).rev() {
            let nibble = (value >> (digit * 4) & 15) as u8;
            self.raw(&[if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 }]);
        }
        self
    }

    pub fn number(&mut self, value: u64) -> &mut Line {
        let mut digits = [0; 20];
        let mut at = digits.len();
        let mut rest = value;
        loop {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        self.raw(&digits[at..])
    }

    /// Writes the line to stderr.
    pub fn send(&mut self) {
        self.bytes[self.len] = b'\n';
        files::write_stderr(&self.bytes[..=self.len]);
    }
}

/// Reports a broken heap or a broken caller and aborts: going on would corrupt memory.
#[cold]
#[inline(never)]
pub(crate) fn fail(what: &str, address: usize) -> ! {
    Line::new().text(what).text(" at ").hex(address).text("; aborting").send();
    threads::abort()
}

/// Reports a panic in a library without the standard one, and aborts.
#[cold]
pub(crate) fn end_by_panic((file, line): (&str, u32)) -> ! {
    Line::new().text("panicked at ").text(file).text(":").number(line as u64).send();
    threads::abort()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_holds_text_and_numbers_and_is_cut_at_its_end() {
        let mut line = Line::new();
        line.text("a ").hex(0).text(" ").hex(0xdead_beef).text(" ").number(0).text(" ");
        line.number(u64::MAX);
        assert_eq!(&line.bytes[..line.len], b"slackwater: a 0x0 0xdeadbeef 0 18446744073709551615");
        for _ in 0..100 {
            line.text("0123456789");
        }
        assert_eq!(line.len, 255);
    }
}
