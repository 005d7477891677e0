//! What the end-to-end tests share

pub(crate) mod check;
pub(crate) mod clients;
pub(crate) mod http;
pub(crate) mod image;
pub(crate) mod process;
