//! The content of a container registry: blobs, manifests, tags and uploads on a driver
//!
//! [`Store`] keeps distribution v2's layout, to the byte, on anything that implements
//! [`Objects`] and [`Uploads`]. [`FileSystem`] is a folder, [`Memory`] is gone with the
//! process. [`Measured`] reports the calls of either. A directory that distribution wrote is
//! served as it is, and can go back.
//!
//! [`copy`] moves a whole registry from one driver to another, and says whether one is whole.
//!
//! What is acknowledged is durable first; several processes may serve one storage; and errors
//! say what they are: an outage is never reported as absence.
//!
//! # Features
//!
//! - `object-stores`: `Bucket`, object stores as storage.
//! - `suite`: the test suite that every driver passes, for drivers of one's own.

#[cfg(feature = "object-stores")]
pub mod bucket;
pub mod copy;
pub mod driver;
pub mod error;
pub mod filesystem;
mod layout;
pub mod measured;
pub mod memory;
pub mod piece;
mod store;
#[cfg(any(test, feature = "suite"))]
pub mod suite;

#[cfg(feature = "object-stores")]
pub use crate::bucket::Bucket;
pub use crate::driver::{
    Append, ByteStream, Driver, Entry, Key, Look, Notes, Objects, Stat, Uploads,
};
pub use crate::error::StorageError;
pub use crate::filesystem::{FileSystem, Mount, MountWarning, OpenError};
pub use crate::measured::{Measured, StorageCall, StorageObserver, StorageOutcome, StorageReport};
pub use crate::memory::Memory;
pub use crate::piece::{FilePiece, Piece, PieceStream};
pub use crate::store::{
    AppendError, BlobError, CompleteUploadError, DeleteBlobError, HintCounts, Listing,
    ManifestReadError, MissingDependency, PurgeOptions, PurgeReport, PurgedUpload,
    PutManifestError, Referrer, SessionKey, SessionKeyId, SessionKeyIdError, Store, StoredManifest,
    Upload, UploadError,
};
