//! Serving: sockets, TLS, and how it ends

mod blobs;
mod drain;
mod files;
mod patience;
mod sockets;
mod support;
mod tls;
