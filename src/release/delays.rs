//! How long pages of each kind rest before they are given back: longer where they were given back
//! and soon wanted again.

use crate::base::units::Epoch;

/// Kinds of pages with a delay of their own: one for each release reason, and the pages inside spans.
pub(crate) const KINDS: usize = 5;

/// The kind of the pages inside spans.
pub(crate) const INTERIOR: usize = 4;

/// For so many epochs a purge counts as done lately.
const LATELY_EPOCHS: u64 = 20;

/// Of the pages purged lately, the part that may come back soon: one in so many.
const TOLERATED_PART: u64 = 20;

/// The extra delay starts at the first of these, doubles up to the second (half a second of the usual
/// epochs, so that an idle program is back at its live size within one), and is halved after so many
/// epochs without a cause.
const FIRST_EPOCHS: u64 = 2;
const MOST_EPOCHS: u64 = 10;
const PATIENCE_EPOCHS: u64 = 200;

/// By kind, since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Experience {
    /// Pages purged.
    pub purged: [u64; KINDS],
    /// Pages that came back within [`SOON`](crate::geometry::segment::SOON) of a purge.
    pub soon: [u64; KINDS],
}

/// The extra delays, and what they were learned from.
pub(crate) struct Delays {
    extra: [u64; KINDS],
    /// When the delay was last raised or halved.
    changed: [Epoch; KINDS],
    /// Pages purged lately: a sum in which an epoch counts a bit less than the next.
    lately: [u64; KINDS],
    seen: Experience,
}

impl Delays {
    pub const fn new() -> Delays {
        Delays {
            extra: [0; KINDS],
            changed: [Epoch(0); KINDS],
            lately: [0; KINDS],
            seen: Experience { purged: [0; KINDS], soon: [0; KINDS] },
        }
    }

    /// Learns from what happened up to now. Once per tick.
    pub fn learn(&mut self, now: Epoch, experience: Experience) {
        for kind in 0..KINDS {
            let purged = experience.purged[kind].saturating_sub(self.seen.purged[kind]);
            let soon = experience.soon[kind].saturating_sub(self.seen.soon[kind]);
            self.lately[kind] -= self.lately[kind].div_ceil(LATELY_EPOCHS);
            self.lately[kind] += purged;
            if soon * TOLERATED_PART > self.lately[kind] {
                self.extra[kind] = (self.extra[kind] * 2).clamp(FIRST_EPOCHS, MOST_EPOCHS);
                self.changed[kind] = now;
            } else if now.since(self.changed[kind]) >= PATIENCE_EPOCHS {
                self.extra[kind] /= 2;
                self.changed[kind] = now;
            }
        }
        self.seen = experience;
    }

    /// The delay of each kind, given what the gate asks for.
    pub fn added_to(&self, epochs: u64) -> [u64; KINDS] {
        self.extra.map(|extra| epochs + extra)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Story {
        delays: Delays,
        now: Epoch,
        experience: Experience,
    }

    impl Story {
        fn new() -> Story {
            let experience = Experience::default();
            Story { delays: Delays::new(), now: Epoch(0), experience }
        }

        /// An epoch in which so many pages of kind 1 were purged, and so many came back soon.
        fn epoch(&mut self, purged: u64, soon: u64) -> u64 {
            self.now.0 += 1;
            self.experience.purged[1] += purged;
            self.experience.soon[1] += soon;
            self.delays.learn(self.now, self.experience);
            let delays = self.delays.added_to(0);
            assert_eq!([delays[0], delays[2], delays[3], delays[4]], [0; 4], "others' own");
            delays[1]
        }
    }

    #[test]
    fn pages_that_come_back_soon_rest_longer() {
        let mut story = Story::new();
        assert_eq!(story.epoch(1000, 0), 0);
        assert_eq!(story.epoch(1000, 400), 2);
        assert_eq!(story.epoch(1000, 400), 4);
        for _ in 0..10 {
            story.epoch(1000, 400);
        }
        assert_eq!(story.epoch(1000, 400), MOST_EPOCHS, "and no longer");
    }

    #[test]
    fn a_few_that_come_back_change_nothing() {
        let mut story = Story::new();
        story.epoch(10_000, 0);
        for _ in 0..100 {
            assert_eq!(story.epoch(1000, 40), 0, "one in 25");
        }
    }

    #[test]
    fn without_a_cause_the_delay_goes_down_again() {
        let mut story = Story::new();
        story.epoch(100, 100);
        assert_eq!(story.epoch(100, 100), 4);
        let mut seen = Vec::new();
        for _ in 0..3 * PATIENCE_EPOCHS {
            let delay = story.epoch(100, 0);
            if seen.last() != Some(&delay) {
                seen.push(delay);
            }
        }
        assert_eq!(seen, [4, 2, 1, 0]);
    }

    #[test]
    fn the_gates_delay_is_added() {
        let mut story = Story::new();
        story.epoch(100, 100);
        assert_eq!(story.delays.added_to(10), [10, 12, 10, 10, 10]);
    }
}
