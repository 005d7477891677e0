//! How the `registry` binary is put together from the crates
//!
//! [`config`] reads what an operator wrote and [`compose`] makes a registry of it: with
//! [`access_log`], [`logging`] and [`metrics`] to see it by, [`health`] to know how it is,
//! [`debug`] for operators to ask, and [`purge`] to remove abandoned uploads. The binary itself
//! parses arguments and prints; `examples/embed.rs` shows the registry inside a service of
//! one's own.

pub mod access_log;
pub mod compose;
pub mod config;
pub mod debug;
pub mod health;
pub mod lines;
pub mod logging;
pub mod metrics;
pub mod purge;
