//! The observer at work beside a bench: its endpoint, to be scraped, and a subscriber for what it traces.
//!
//! Of the build `observed` alone, and only where somebody watches; elsewhere there is nothing.

/// The variable with the address at which the bench is to be scraped.
pub const ADDRESS: &str = "SLACKWATER_BENCH_WATCHED";

/// The variable with the seconds for which the bench goes on to be watched when its row is done.
pub const LINGER: &str = "SLACKWATER_BENCH_LINGER";

#[cfg(feature = "observed")]
mod at_work {
    use std::env;
    use std::thread;
    use std::time::Duration;

    use slackwater_exporters::{Endpoint, Periodic, trace_every};
    use tracing::span::{Attributes, Id, Record};
    use tracing::{Event, Metadata, Subscriber};

    /// How often ticks, purges and take-overs are handed to the subscriber: as the documentation has it.
    const TRACED_EVERY: Duration = Duration::from_millis(100);

    /// The observer, until this is dropped.
    pub struct Watched {
        _endpoint: Endpoint,
        _trace: Periodic,
        linger: Duration,
    }

    /// Begins, where somebody watches.
    pub fn start() -> Option<Watched> {
        let address = env::var(super::ADDRESS).ok()?;
        let endpoint = Endpoint::bind(&address).expect("the address is free");
        tracing::subscriber::set_global_default(BlackHole).expect("a process has one");
        let trace = trace_every(TRACED_EVERY).expect("the system gives a thread");
        let linger = env::var(super::LINGER).map_or(0, |seconds| seconds.parse().expect("seconds"));
        let linger = Duration::from_secs(linger);
        Some(Watched { _endpoint: endpoint, _trace: trace, linger })
    }

    impl Drop for Watched {
        fn drop(&mut self) {
            thread::sleep(self.linger);
        }
    }

    /// A subscriber that wants everything, and does nothing with it.
    struct BlackHole;

    impl Subscriber for BlackHole {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &Attributes<'_>) -> Id {
            Id::from_u64(1)
        }

        fn record(&self, _: &Id, _: &Record<'_>) {}

        fn record_follows_from(&self, _: &Id, _: &Id) {}

        fn event(&self, _: &Event<'_>) {}

        fn enter(&self, _: &Id) {}

        fn exit(&self, _: &Id) {}
    }
}

#[cfg(feature = "observed")]
pub use at_work::start;

/// Nobody watches this build.
#[cfg(not(feature = "observed"))]
pub fn start() -> Option<std::convert::Infallible> {
    None
}
