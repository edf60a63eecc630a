//! Work that is done now and then again, on a thread of its own, until it is stopped.

use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The shortest period that is kept to.
const SHORTEST_PERIOD: Duration = Duration::from_millis(10);

/// Work that goes on, every so often. Dropping this changes nothing: it goes on for as long as the
/// process lives, or until it is stopped.
#[derive(Debug)]
pub struct Periodic(Arc<Stop>);

#[derive(Debug, Default)]
struct Stop {
    is_stopped: Mutex<bool>,
    changed: Condvar,
}

impl Periodic {
    /// Ends it, after what is being done now, if anything is. Does not wait.
    pub fn stop(self) {
        *self.0.is_stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.0.changed.notify_all();
    }

    /// Starts a thread that works now and then every `period`, or every 10 ms if that is less.
    ///
    /// # Errors
    ///
    /// When the system gives no thread.
    pub(crate) fn start(
        name: &str,
        period: Duration,
        mut work: impl FnMut() + Send + 'static,
    ) -> io::Result<Periodic> {
        let period = period.max(SHORTEST_PERIOD);
        let stop = Arc::new(Stop::default());
        let periodic = Periodic(stop.clone());
        thread::Builder::new().name(name.into()).spawn(move || {
            while !stop.is_set_after(Duration::ZERO) {
                work();
                if stop.is_set_after(period) {
                    break;
                }
            }
        })?;
        Ok(periodic)
    }
}

impl Stop {
    /// Waits that long, or until it is set, and says whether it is.
    fn is_set_after(&self, time: Duration) -> bool {
        let is_stopped = self.is_stopped.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(is_stopped, time, |is_stopped| !*is_stopped);
        *waited.unwrap_or_else(PoisonError::into_inner).0
    }
}
