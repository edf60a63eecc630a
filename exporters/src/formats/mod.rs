//! From figures to what others read: text for Prometheus, JSON, a map, a service's own recorder or traces.

#[cfg(feature = "endpoint")]
pub mod exposition;
#[cfg(feature = "endpoint")]
pub mod groups;
#[cfg(feature = "endpoint")]
pub mod json;
pub mod map;
pub(crate) mod periodic;
#[cfg(feature = "endpoint")]
pub(crate) mod preference;
pub mod publisher;
#[cfg(feature = "tracing")]
pub mod trace;
