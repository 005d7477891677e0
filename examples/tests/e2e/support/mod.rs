//! What the end-to-end tests share

pub(crate) mod balancer;
pub(crate) mod check;
pub(crate) mod clients;
pub(crate) mod crowd;
pub(crate) mod fleet;
pub(crate) mod garage;
pub(crate) mod grok;
pub(crate) mod hooks;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod meter;
pub(crate) mod moto;
pub(crate) mod peer;
pub(crate) mod platform;
pub(crate) mod process;
pub(crate) mod site;
pub(crate) mod tls;
