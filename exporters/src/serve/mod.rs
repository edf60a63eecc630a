//! The endpoint: a server of bounded patience, and its routes.

pub mod endpoint;
pub mod http;
mod profiles;
