//! The words of a container registry: names, digests, manifests, uploads, routes and errors
//!
//! This crate has no I/O, no clock, no randomness and no async runtime. It turns text and
//! bytes into validated types and back, and holds the upload session as a state machine whose
//! effects the caller carries out. Whoever only needs to read a name or a manifest takes this
//! crate alone.
//!
//! A request enters at [`route`](mod@route), which makes an [`Operation`] of validated parts; every later
//! step (authorization, storage, metrics, audit) speaks that one type.
//!
//! ```
//! use registry_core::{Operation, route};
//!
//! let operation = route("GET", "/v2/library/alpine/manifests/3.20", None)?;
//! let Operation::GetManifest { name, reference } = operation else {
//!     panic!("a manifest was asked for")
//! };
//! assert_eq!(name.as_str(), "library/alpine");
//! assert_eq!(reference.to_string(), "3.20");
//! # Ok::<(), registry_core::RouteError>(())
//! ```
//!
//! Requirements are cited by the section of the OCI distribution or image specification, or of
//! Docker's registry API, that they come from.

pub mod digest;
pub mod error;
pub mod event;
pub mod hasher;
pub mod manifest;
pub mod media_type;
pub mod name;
pub mod operation;
pub mod page;
pub mod range;
pub mod reference;
pub mod route;
pub mod upload;

pub use crate::digest::{Algorithm, Digest, DigestError, DigestText};
pub use crate::error::{ErrorCode, ErrorDetail, ErrorResponse};
pub use crate::event::{Envelope, Event, EventAction};
pub use crate::hasher::{Hasher, HasherStateError};
pub use crate::manifest::{Manifest, ManifestError, ManifestKind};
pub use crate::media_type::MediaType;
pub use crate::name::{RepositoryName, Tag, TagOrDigest};
pub use crate::operation::{Access, Action, Operation, Resource, StartUpload};
pub use crate::page::Page;
pub use crate::range::{ByteRange, ChunkRange, RangeHeader};
pub use crate::reference::Reference;
pub use crate::route::{RouteError, route};
pub use crate::upload::UploadId;
