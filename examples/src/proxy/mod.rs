//! How the `docker-proxy` binary is put together from the crates
//!
//! Its configuration is [`crate::config::proxy`]. [`serve`] runs it, and [`reload`] takes up what
//! changes meanwhile.

pub mod reload;
pub mod serve;
