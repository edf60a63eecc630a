//! How a request is answered: at once, or by work that may last while its client waits.

use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::message::Response;

/// How a request is answered.
pub enum Answer {
    /// On the server's thread: nobody else is served meanwhile, so it takes a few milliseconds at
    /// most.
    Now(Response),
    /// On a thread of its own, where it may take as long as it likes.
    Later(Work),
    /// The same from the body of a POST request, of 1 MiB at most. Every other answer to one is
    /// replaced by a refusal.
    ToBody(WorkOnBody),
}

/// What makes a response.
pub type Work = Box<dyn FnOnce(&Caller) -> Response + Send>;

/// What makes a response from a body.
pub type WorkOnBody = Box<dyn FnOnce(&[u8]) -> Response + Send>;

/// The client that waits for an answer which lasts.
#[derive(Debug, Default)]
pub struct Caller {
    has_gone: Mutex<bool>,
    changed: Condvar,
}

impl Caller {
    /// Waits that long. `false`, and at once: the client has closed its side of the connection, or the
    /// server is stopped, so nobody waits for the answer any more.
    pub fn wait(&self, time: Duration) -> bool {
        let has_gone = self.has_gone.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_timeout_while(has_gone, time, |has_gone| !*has_gone);
        !*waited.unwrap_or_else(PoisonError::into_inner).0
    }

    pub(super) fn leave(&self) {
        *self.has_gone.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }
}

/// Tells the work when its connection ends, in whatever way.
pub(super) struct Connected(pub Arc<Caller>);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.leave();
    }
}

impl From<Response> for Answer {
    fn from(response: Response) -> Answer {
        Answer::Now(response)
    }
}
