//! How the `registry` binary is put together from the crates
//!
//! [`config`] reads what an operator wrote and [`compose`] makes a registry of it: with a [`gate`]
//! for who is let in ([`service_accounts`]) and who may do what, by [`rules`] of a file or those of the
//! platform ([`acumos`], which ask the store by [`store_tags`]); with tokens of its own
//! ([`token_key`]) issued at its [`front`]; with [`access_log`], [`audit`], [`logging`] and [`metrics`] to see
//! it by, [`health`] to know how it is, [`debug`] for operators to ask, [`notifier`] to tell
//! others, [`purge`] to remove abandoned uploads, and [`acme`] to get certificates. [`serve`] runs
//! it on its [`storage`], and [`reload`] takes up what changes meanwhile ([`watch`]). [`directory`] fills the embedded
//! database of who owns what, [`password`] reads what is typed. [`proxy`] is the docker-proxy,
//! and [`acumos_log`] its log; both programs [`explain`] decisions. The binaries themselves parse arguments; `examples/embed.rs` shows
//! the registry inside a service of one's own.

pub mod access_log;
pub mod acme;
pub mod acumos;
pub mod acumos_log;
pub mod audit;
pub mod compose;
pub mod config;
pub mod debug;
pub mod directory;
pub mod explain;
pub mod front;
pub mod gate;
pub mod health;
pub mod lines;
pub mod logging;
pub mod metrics;
pub mod notifier;
pub mod password;
pub mod proxy;
pub mod purge;
pub mod reload;
pub mod rules;
pub mod serve;
pub mod service_accounts;
pub mod storage;
pub mod store_tags;
pub mod token_key;
pub mod watch;
