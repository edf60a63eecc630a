//! Work that is done once, without the standard library's lock.

use core::sync::atomic::{AtomicU32, Ordering};

const TO_DO: u32 = 0;
const BEING_DONE: u32 = 1;
const DONE: u32 = 2;

pub struct Once(AtomicU32);

impl Once {
    pub const fn new() -> Once {
        Once(AtomicU32::new(TO_DO))
    }

    /// Does this once, and returns when it is done, whichever thread does it.
    pub fn call(&self, work: impl FnOnce()) {
        // Acquire: partner of the Release below.
        match self.0.compare_exchange(TO_DO, BEING_DONE, Ordering::Acquire, Ordering::Acquire) {
            Ok(_) => {
                work();
                self.0.store(DONE, Ordering::Release);
            }
            Err(_) => {
                while self.0.load(Ordering::Acquire) != DONE {
                    slackwater::yield_now();
                }
            }
        }
    }
}
