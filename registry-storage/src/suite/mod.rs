//! The test suite that every driver passes
//!
//! Each function tests one rule and panics where it is broken. All work below a folder of
//! their own name, which they empty first, so that a storage need not be new.
//!
//! # Examples
//!
//! ```
//! # #[cfg(feature = "suite")]
//! # #[tokio::main] async fn main() {
//! use std::sync::Arc;
//!
//! use registry_storage::{Memory, suite};
//!
//! let memory = Memory::new();
//! suite::run(Arc::new(memory.clone())).await;
//! suite::run_shared(Arc::new(memory.clone()), Arc::new(memory)).await;
//! # }
//! # #[cfg(not(feature = "suite"))]
//! # fn main() {}
//! ```

mod objects;
mod shared;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use registry_core::range::ByteRange;

pub use self::objects::*;
pub use self::shared::*;
pub use self::uploads::*;
use crate::driver::{Append, ByteStream, Driver, Key};
use crate::error::StorageError;
use crate::piece::Piece;

/// Tests all rules for one driver
///
/// Needs a tokio runtime.
///
/// # Panics
///
/// If the driver breaks a rule.
pub async fn run(driver: Arc<dyn Driver>) {
    reads_back_what_was_written(driver.clone()).await;
    refuses_to_read_more_than_the_limit(driver.clone()).await;
    says_not_found_of_what_is_absent(driver.clone()).await;
    takes_no_folder_for_an_object(driver.clone()).await;
    streams_whole_objects_and_ranges(driver.clone()).await;
    a_stream_never_mixes_versions(driver.clone()).await;
    deletes_objects_and_trees(driver.clone()).await;
    renames_objects(driver.clone()).await;
    lists_in_byte_order(driver.clone()).await;
    lists_names_that_are_prefixes_of_others(driver.clone()).await;
    racing_writers_leave_one_whole_value(driver.clone()).await;
    writers_outlive_deleters(driver.clone()).await;
    appends_and_publishes(driver.clone()).await;
    publishes_what_was_not_synced(driver.clone()).await;
    writes_pieces_while_it_syncs(driver.clone()).await;
    begins_and_ends_in_few_steps(driver.clone()).await;
    publishes_in_company(driver.clone()).await;
    gives_back_what_was_written(driver.clone()).await;
    reopens_only_what_is_there(driver.clone()).await;
    cuts_an_upload(driver.clone()).await;
    keeps_notes_with_the_bytes(driver.clone()).await;
    one_writer_per_upload(driver.clone()).await;
    a_dropped_writer_loses_only_the_lock(driver.clone()).await;
    a_deleted_upload_stays_deleted(driver.clone()).await;
    racing_publishers_leave_one_whole_object(driver).await;
}

/// Tests what two drivers on one storage owe each other, such as those of two processes
///
/// # Panics
///
/// If they break a rule.
pub async fn run_shared(one: Arc<dyn Driver>, other: Arc<dyn Driver>) {
    sees_what_the_other_does(&*one, &*other).await;
    is_kept_from_uploads_that_the_other_has_open(&*one, &*other).await;
    goes_on_with_the_uploads_of_the_other(&*one, &*other).await;
}

/// An empty folder of the rule's own
async fn empty(driver: &dyn Driver, rule: &str) -> Key {
    let folder = child(&Key::parse("suite").unwrap(), rule);
    driver.delete_tree(&folder).await.unwrap();
    folder
}

fn child(folder: &Key, path: &str) -> Key {
    folder.child(path).unwrap()
}

/// Bytes in which a shift, a gap or a piece of another seed would show
fn pattern(size: usize, seed: u8) -> Bytes {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

async fn read(driver: &dyn Driver, key: &Key) -> Bytes {
    driver.read(key, usize::MAX).await.unwrap()
}

async fn collect(
    driver: &dyn Driver,
    key: &Key,
    range: Option<ByteRange>,
) -> Result<(u64, Bytes), StorageError> {
    let (size, stream) = driver.stream(key, range).await?;
    Ok((size, gathered(stream).await?))
}

async fn gathered(mut stream: ByteStream) -> Result<Bytes, StorageError> {
    let mut all = Vec::new();
    while let Some(bytes) = stream.try_next().await? {
        assert!(!bytes.is_empty(), "an empty part");
        all.extend_from_slice(&bytes);
    }
    Ok(all.into())
}

/// As [`collect`], by the piece
async fn in_pieces(
    driver: &dyn Driver,
    key: &Key,
    range: Option<ByteRange>,
) -> Result<(u64, Bytes), StorageError> {
    let (size, mut pieces) = driver.pieces(key, range).await?;
    let mut all = Vec::new();
    while let Some(piece) = pieces.try_next().await? {
        assert!(!piece.is_empty(), "an empty piece");
        match piece {
            Piece::Bytes(bytes) => all.extend_from_slice(&bytes),
            Piece::File(piece) => all.extend_from_slice(&piece.read().await.unwrap()),
        }
    }
    Ok((size, all.into()))
}

async fn whole(stream: ByteStream) -> Bytes {
    gathered(stream).await.unwrap()
}

/// What is kept of an upload that nobody has open
async fn content(driver: &dyn Driver, upload: &Key) -> Bytes {
    let mut append = reopen(driver, upload).await;
    let found = whole(append.content().await.unwrap()).await;
    assert_eq!(append.size(), found.len() as u64);
    found
}

async fn assert_no_upload(driver: &dyn Driver, upload: &Key) {
    let error = driver.progress(upload).await.unwrap_err();
    assert!(error.is_not_found(), "progress {upload}: {error}");
    let error = driver.reopen(upload).await.unwrap_err();
    assert!(error.is_not_found(), "reopen {upload}: {error}");
    assert_absent(driver, upload).await;
}

async fn assert_absent(driver: &dyn Driver, key: &Key) {
    let error = driver.read(key, 100).await.unwrap_err();
    assert!(error.is_not_found(), "read {key}: {error}");
    let error = driver.stat(key).await.unwrap_err();
    assert!(error.is_not_found(), "stat {key}: {error}");
    let error = driver.stream(key, None).await.map(|_| ()).unwrap_err();
    assert!(error.is_not_found(), "stream {key}: {error}");
}

/// Opens an upload whose last writer was dropped and may still have a write under way
async fn reopen(driver: &dyn Driver, upload: &Key) -> Box<dyn Append> {
    for _ in 0..1000 {
        match driver.append(upload).await {
            Err(StorageError::Busy { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            opened => return opened.unwrap(),
        }
    }
    panic!("{upload} is still locked ten seconds after its writer was dropped");
}

/// Tries until the driver is no longer busy
async fn eventually<F>(mut attempt: impl FnMut() -> F)
where
    F: Future<Output = Result<(), StorageError>>,
{
    for _ in 0..1000 {
        match attempt().await {
            Err(StorageError::Busy { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            done => return done.unwrap(),
        }
    }
    panic!("busy for ten seconds");
}
