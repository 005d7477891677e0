//! The bytes of blobs

use std::sync::atomic::Ordering;

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use registry_core::upload::UploadId;
use registry_core::{ByteRange, Digest, Hasher, RepositoryName};

use super::Inner;
use super::progress::{Problem, add};
use super::side::{Side, Waits};
use crate::driver::{Append, ByteStream, Key};
use crate::error::StorageError;
use crate::layout;

/// Up to how many bytes a blob is read into memory and written at once, which a bucket takes in
/// one call; in tests small, so that they take the other way too
const SMALL: u64 = if cfg!(test) { 4096 } else { 4 * 1024 * 1024 };

/// How many bytes of a large blob are written at once
const WRITE_SIZE: usize = 512 * 1024;

/// What became of a blob
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blob {
    /// The source's bytes are not what they should be
    Damaged,
    /// The target has it
    Whole,
}

/// Why it is not known what became of a blob
pub(super) enum BlobFailure {
    /// The source does not have it, or not any more
    Missing,
    Storage(StorageError),
}

impl From<StorageError> for BlobFailure {
    fn from(error: StorageError) -> Self {
        Self::Storage(error)
    }
}

impl Inner {
    /// Sees to it that the target has the bytes of a blob, which the repository has
    ///
    /// What several ask for at once is copied once.
    pub(super) async fn blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Blob, BlobFailure> {
        self.blobs
            .get_or_insert_async(digest, self.copy_blob(name, digest))
            .await
    }

    async fn copy_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<Blob, BlobFailure> {
        let Some(size) = self.from.blob_size(digest).await? else {
            return Err(BlobFailure::Missing);
        };
        let mut present = self.to.blob_size(digest).await? == Some(size);
        if present && self.options.verify {
            present = match is_whole(&self.to, digest, size, |_| ()).await {
                Err(StorageError::NotFound { .. }) => false,
                whole => whole?,
            };
        }
        if present {
            add(&self.progress.present.blobs, 1);
            add(&self.progress.present.bytes, size);
            return Ok(Blob::Whole);
        }
        if self.options.dry_run {
            add(&self.progress.done.blobs, 1);
            add(&self.progress.done.bytes, size);
            return Ok(Blob::Whole);
        }
        let copied = if size <= SMALL {
            self.copy_small(digest).await?
        } else {
            self.copy_large(name, digest, size).await?
        };
        match copied {
            Blob::Whole => add(&self.progress.done.blobs, 1),
            Blob::Damaged => self.progress.problem(Problem::DamagedBlob {
                name: name.clone(),
                digest: *digest,
            }),
        }
        Ok(copied)
    }

    async fn copy_small(&self, digest: &Digest) -> Result<Blob, BlobFailure> {
        let key = layout::blob(digest);
        let bytes = match self.from.read(&key, SMALL as usize).await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => return Err(BlobFailure::Missing),
            // It has grown since it was looked at, which no blob does.
            Err(StorageError::Corrupt { .. }) => return Ok(Blob::Damaged),
            Err(error) => return Err(error.into()),
        };
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            return Ok(Blob::Damaged);
        }
        self.to.write(&key, &bytes).await?;
        add(&self.progress.done.bytes, bytes.len() as u64);
        Ok(Blob::Whole)
    }

    async fn copy_large(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        size: u64,
    ) -> Result<Blob, BlobFailure> {
        let id = upload_id(digest);
        let upload = layout::upload_data(name, &id);
        let mut waits = Waits::new(self.to.retries);
        loop {
            let mut sent = 0;
            let attempt = self.stream(&upload, digest, size, &mut sent).await;
            if !matches!(attempt, Ok(Blob::Whole)) {
                self.progress.done.bytes.fetch_sub(sent, Ordering::Relaxed);
            }
            match attempt {
                // Whoever else copies may be done with it by now.
                Err(BlobFailure::Storage(error)) if waits.another(&error).await => {
                    if error.is_busy() && self.to.blob_size(digest).await? == Some(size) {
                        add(&self.progress.done.bytes, size);
                        return Ok(Blob::Whole);
                    }
                }
                // A leftover goes when somebody else begins anew, or is purged.
                Err(BlobFailure::Storage(error)) => return Err(error.into()),
                ended => {
                    let folder = layout::upload(name, &id);
                    self.to
                        .patiently(|| self.to.driver.delete_tree(&folder))
                        .await?;
                    return ended;
                }
            }
        }
    }

    /// Copies a blob by an upload at the target, and publishes it if it is whole
    async fn stream(
        &self,
        upload: &Key,
        digest: &Digest,
        size: u64,
        sent: &mut u64,
    ) -> Result<Blob, BlobFailure> {
        let key = layout::blob(digest);
        let mut file = self.to.driver.append(upload).await?;
        // What a killed run left there was hashed by nobody.
        file.truncate(0).await?;
        file.aim(&key);
        let mut send = async |file: &mut Box<dyn Append>, bytes: Bytes| {
            let count = bytes.len() as u64;
            file.write(bytes).await?;
            *sent += count;
            add(&self.progress.done.bytes, count);
            Ok::<_, StorageError>(())
        };
        let mut reader = Reader::new(&self.from, digest, size);
        let mut hasher = Hasher::new(digest.algorithm());
        let mut buffer = BytesMut::new();
        loop {
            match reader.next().await {
                Ok(Some(bytes)) => {
                    hasher.update(&bytes);
                    buffer.extend_from_slice(&bytes);
                    if buffer.len() >= WRITE_SIZE {
                        send(&mut file, buffer.split().freeze()).await?;
                    }
                }
                Ok(None) => break,
                Err(StorageError::NotFound { .. }) => return Err(BlobFailure::Missing),
                // It has become shorter than it was.
                Err(StorageError::Corrupt { .. }) => return Ok(Blob::Damaged),
                Err(error) => return Err(error.into()),
            }
        }
        if hasher.finish() != *digest {
            return Ok(Blob::Damaged);
        }
        if !buffer.is_empty() {
            send(&mut file, buffer.freeze()).await?;
        }
        file.publish(&key).await?;
        Ok(Blob::Whole)
    }
}

/// Whether the bytes under a digest are what they should be
///
/// # Errors
///
/// What the storage says; [`StorageError::NotFound`] if there is no such blob.
pub(super) async fn is_whole(
    side: &Side,
    digest: &Digest,
    size: u64,
    mut read: impl FnMut(u64),
) -> Result<bool, StorageError> {
    let mut reader = Reader::new(side, digest, size);
    let mut hasher = Hasher::new(digest.algorithm());
    loop {
        match reader.next().await {
            Ok(Some(bytes)) => {
                hasher.update(&bytes);
                read(bytes.len() as u64);
            }
            Ok(None) => return Ok(hasher.finish() == *digest),
            Err(StorageError::Corrupt { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
    }
}

/// The bytes of a blob, gone on with where the storage failed
struct Reader<'a> {
    side: &'a Side,
    key: Key,
    size: u64,
    at: u64,
    open: Option<ByteStream>,
    waits: Waits,
}

impl<'a> Reader<'a> {
    fn new(side: &'a Side, digest: &Digest, size: u64) -> Self {
        Self {
            side,
            key: layout::blob(digest),
            size,
            at: 0,
            open: None,
            waits: Waits::new(side.retries),
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, StorageError> {
        while self.at < self.size {
            match self.try_next().await {
                Ok(Some(bytes)) => {
                    self.at += bytes.len() as u64;
                    self.waits = Waits::new(self.side.retries);
                    return Ok(Some(bytes));
                }
                Ok(None) => {
                    return Err(StorageError::Corrupt {
                        key: self.key.to_string(),
                        detail: format!("expected {} bytes, found {}", self.size, self.at),
                    });
                }
                Err(error) => {
                    self.open = None;
                    if !self.waits.another(&error).await {
                        return Err(error);
                    }
                }
            }
        }
        Ok(None)
    }

    async fn try_next(&mut self) -> Result<Option<Bytes>, StorageError> {
        let stream = match &mut self.open {
            Some(stream) => stream,
            None => {
                let range = ByteRange::new(self.at, self.size - 1);
                let (_, stream) = self.side.driver.stream(&self.key, range).await?;
                self.open.insert(stream)
            }
        };
        stream.try_next().await
    }
}

/// The upload by which a blob comes, the same in every run, which so finds what was left
fn upload_id(digest: &Digest) -> UploadId {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.as_bytes()[..16]);
    UploadId::from_random_bytes(bytes)
}
