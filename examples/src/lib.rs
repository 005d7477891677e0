//! How the `registry` binary is put together from the crates
//!
//! [`config`] reads what an operator wrote, [`compose`] makes a service of it, and
//! [`access_log`] writes a line per request. [`watch`] notices that files changed, and [`acme`]
//! gets certificates. The binary itself parses arguments and prints; `examples/embed.rs` shows
//! the registry inside a service of one's own.

pub mod access_log;
pub mod acme;
pub mod compose;
pub mod config;
pub mod watch;
