//! The manual: what the interface does not say by itself.
//!
//! - [`how_to`]: take it into use, read what it says, tune it.
//! - [`design`]: what it is made of, in the order in which a block meets it.
//! - [`threats`]: what it does about programs that misuse memory, and what may be read by whom.
//! - [`costs`]: time, memory and threads, each with the command that measures it.
//! - [`system_calls`]: which the allocator makes, where and why, and what happens without them.
//!
//! The figures that a process exports are explained in the documentation of `slackwater-exporters`; what is
//! in which file, and why, in `ARCHITECTURE.md`.

pub mod how_to {
    #![doc = include_str!("how_to.md")]
}

pub mod design {
    #![doc = include_str!("design.md")]
}

pub mod threats {
    #![doc = include_str!("threats.md")]
}

pub mod costs {
    #![doc = include_str!("costs.md")]
}

pub mod system_calls {
    #![doc = include_str!("system_calls.md")]
}
