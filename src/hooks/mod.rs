//! Places where somebody may listen: static probes, and the begin and end of slow sections.

pub mod probes;
pub mod sections;
