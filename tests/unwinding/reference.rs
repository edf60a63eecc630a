//! The calling thread's stack as sampling has it, and as libgcc has it: `backtrace(3)` is what
//! debuggers and exceptions agree with.

use std::ffi::{c_int, c_void};

use slackwater::stack::{MAX_FRAMES, Scratch, address_in_frame, capture};

unsafe extern "C" {
    fn backtrace(buffer: *mut *mut c_void, size: c_int) -> c_int;
}

/// A stack, walked twice from the same place.
pub struct Both {
    pub ours: Vec<u64>,
    pub libgcc: Vec<u64>,
}

/// Whoever calls this is the first in both.
#[inline(never)]
pub fn both() -> Both {
    let mut scratch = Box::new(Scratch::new());
    let mut frames = [0; MAX_FRAMES];
    let count = capture(&mut scratch, &mut frames, address_in_frame());
    let mut buffer = [std::ptr::null_mut(); MAX_FRAMES + 1];
    // SAFETY: the buffer has room for that many.
    let found = unsafe { backtrace(buffer.as_mut_ptr(), buffer.len() as c_int) };
    Both {
        ours: frames[..count].to_vec(),
        // The first is the place in this function.
        libgcc: buffer[1..found as usize].iter().map(|&frame| frame as u64).collect(),
    }
}

impl Both {
    /// How many frames there are; the error says where the two differ. `signals` is how many functions
    /// on the stack were interrupted by signals: there the place is one further in ours.
    pub fn agree(&self, signals: usize) -> Result<usize, String> {
        let steps: Vec<_> =
            self.ours.iter().zip(&self.libgcc).map(|(a, b)| a.wrapping_sub(*b)).collect();
        let interrupted = steps.iter().filter(|&&step| step == 1).count();
        let is_same = self.ours.len() == self.libgcc.len()
            && steps.iter().all(|&step| step <= 1)
            && interrupted == signals;
        if is_same {
            Ok(self.ours.len())
        } else {
            Err(format!("{:#x?}", [&self.ours, &self.libgcc]))
        }
    }

    /// Fails the test where the two differ.
    pub fn assert_same(&self, signals: usize) -> usize {
        self.agree(signals).unwrap_or_else(|differ| panic!("ours, libgcc: {differ}"))
    }
}
