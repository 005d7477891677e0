//! What the end-to-end tests share

pub(crate) mod check;
pub(crate) mod clients;
pub(crate) mod grok;
pub(crate) mod hooks;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod moto;
pub(crate) mod peer;
pub(crate) mod platform;
pub(crate) mod process;
pub(crate) mod site;
pub(crate) mod tls;
