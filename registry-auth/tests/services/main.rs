//! The clients of the services of the platform, against servers that answer as they do
//!
//! The real services cannot be had: the platform's project ended in 2021, and its images are no
//! longer published. What the servers here answer follows the shapes that were read from the
//! last public sources of CDS (2.2 to 3.1.1) and LUM (1.3): endpoints, page objects, field names,
//! statuses and error texts. It was never compared with a running installation.

mod broken;
mod events;
mod facts;
mod login;
mod pull;
mod support;
