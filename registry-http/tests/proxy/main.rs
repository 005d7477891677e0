//! A proxy over real sockets, in front of this crate's registry and of servers that mean no good

mod attacks;
mod bad_days;
#[path = "../rows/support/client.rs"]
#[allow(dead_code)] // shared with tests that use more of it
mod client;
#[path = "../rows/support/content.rs"]
#[allow(dead_code)]
mod content;
mod credentials;
#[path = "../rows/support/login.rs"]
#[allow(dead_code)]
mod login;
mod passing;
mod secure;
mod support;
mod tags;
