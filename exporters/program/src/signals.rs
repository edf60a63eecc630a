//! The signals that ask a program to end.

use super::failure::Failure;

/// Calls `tell`, on a thread of its own, for each SIGINT, SIGTERM and SIGHUP, instead of ending.
pub fn on_stop(tell: impl FnMut() + Send + 'static) -> Result<(), Failure> {
    ctrlc::set_handler(tell)
        .map_err(|error| Failure::broken(format_args!("signal handler: {error}")))
}
