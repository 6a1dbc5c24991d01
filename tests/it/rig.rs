//! What tests run against that is not hoist.

pub mod server;
