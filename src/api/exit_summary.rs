//! When the process exits: the one-shot summary, if `SLACKWATER_SUMMARY=1` asked for it; and no ticker from then on.

use core::fmt::{self, Write};
use core::sync::atomic::{AtomicI32, Ordering};

use crate::figures::snapshot::{Snapshot, Summary};
use crate::heap::HEAP;
use crate::os::{self, Linux};
use crate::release::{RELEASE, start_no_more};

/// Where the summary goes: a copy of stderr, made before a program that closes its own (coreutils
/// do) gets to it. Negative: no summary is wanted.
static OUTPUT: AtomicI32 = AtomicI32::new(-1);

#[used]
#[unsafe(link_section = ".init_array")]
static START: extern "C" fn() = start;

#[used]
#[unsafe(link_section = ".fini_array")]
static FINISH: extern "C" fn() = finish;

#[unsafe(link_section = "slackwater_start")]
extern "C" fn start() {
    if crate::heap::knobs::summary_wanted() {
        OUTPUT.store(os::duplicate_stderr(), Ordering::Relaxed);
    }
}

#[unsafe(link_section = "slackwater_start")]
extern "C" fn finish() {
    let output = OUTPUT.swap(-1, Ordering::Relaxed);
    if output >= 0 {
        let mut text = Text { bytes: [0; 512], len: 0 };
        // A summary that does not fit is cut, which its seven numbers cannot cause.
        let _ = writeln!(text, "{}", Summary(&Snapshot::take(&HEAP, &RELEASE, &Linux)));
        os::write(output, &text.bytes[..text.len]);
    }
    if HEAP.is_ready() {
        start_no_more(&RELEASE);
    }
}

/// Formatted text on the stack: this may run after the program's last use of its heap, and must not
/// be the next.
struct Text {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Text {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let place = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}
