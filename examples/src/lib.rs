//! How the `registry` binary is put together from the crates
//!
//! [`config`] reads what an operator wrote, and [`compose`] makes a service of it. What operators
//! look at: [`access_log`] writes a line per request and [`logging`] the rest, [`metrics`] counts,
//! [`health`] checks, and [`debug`] shows both on an address of its own. The binary itself parses
//! arguments and prints; `examples/embed.rs` shows the registry inside a service of one's own.

pub mod access_log;
pub mod compose;
pub mod config;
pub mod debug;
pub mod health;
pub mod lines;
pub mod logging;
pub mod metrics;
