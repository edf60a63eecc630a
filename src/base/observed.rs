//! Whether this build observes what is allocated. Every build does but one, which `scripts/bench observed` makes with
//! `--cfg slackwater_unobserved` to measure what the observer costs. It is for that alone: nobody who uses the
//! allocator would want it, so it is no feature.
//!
//! What is left out there: the tally of each allocation and its bytes, and with it the countdowns to samples and the
//! look at the clock that each of them ends with; samples, so that neither a free nor a resize asks whether a block is
//! one. What is not: counters of slow paths, pages and ticks, most of which the allocator goes by itself.

/// Constant, so that a build without the observer has no code of it, and compilers check that code all the same.
pub(crate) const IS_OBSERVED: bool = !cfg!(slackwater_unobserved);
