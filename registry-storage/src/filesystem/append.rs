//! An upload's file, open for one writer

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{self, AtFlags, FlockOperation, OFlags};
use rustix::io::{self, Errno};
use tokio::task::JoinHandle;

use super::publish::FILE_MODE;
use super::{Root, failed};
use crate::driver::{Append, Key};
use crate::error::StorageError;

/// When a client should come back to an upload that another request is writing
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// An upload's file, locked
///
/// The lock belongs to the open file, which a write that is still running shares. It is let go
/// only when that write has ended, even if this was dropped before.
#[derive(Debug)]
pub(super) struct AppendFile {
    key: Key,
    file: Arc<OwnedFd>,
    size: u64,
    /// The last write, which runs while the caller hashes the next bytes
    running: Option<JoinHandle<Result<(), Errno>>>,
}

impl AppendFile {
    pub(super) fn open(root: &Root, key: &Key) -> Result<Self, StorageError> {
        let fail = |errno| failed(key.as_str(), errno);
        loop {
            let opened = fs::openat(
                &root.fd,
                key.as_str(),
                OFlags::WRONLY | OFlags::CREATE | OFlags::CLOEXEC,
                FILE_MODE,
            );
            let file = match opened {
                Ok(file) => file,
                Err(Errno::NOENT) => {
                    root.make_parents(key)?;
                    continue;
                }
                Err(errno) => return Err(fail(errno)),
            };
            match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => {}
                Err(Errno::INTR) => continue,
                Err(Errno::WOULDBLOCK) => {
                    return Err(StorageError::Busy {
                        key: key.to_string(),
                        retry_after: RETRY_AFTER,
                    });
                }
                Err(errno) => return Err(fail(errno)),
            }
            // Before the lock was had, the file may have been published as a blob or deleted.
            let locked = fs::fstat(&file).map_err(fail)?;
            match fs::statat(&root.fd, key.as_str(), AtFlags::empty()) {
                Ok(named) if (named.st_dev, named.st_ino) == (locked.st_dev, locked.st_ino) => {
                    return Ok(Self {
                        key: key.clone(),
                        file: Arc::new(file),
                        size: super::read::size(&locked),
                        running: None,
                    });
                }
                Ok(_) | Err(Errno::NOENT) => {}
                Err(errno) => return Err(fail(errno)),
            }
        }
    }

    /// Waits for the write that runs
    async fn settle(&mut self) -> Result<(), StorageError> {
        let Some(running) = self.running.take() else {
            return Ok(());
        };
        match running.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(errno)) => Err(failed(self.key.as_str(), errno)),
            Err(error) => Err(StorageError::Transient {
                key: self.key.to_string(),
                source: Box::new(error),
            }),
        }
    }

    /// Starts work on the file in the pool
    fn start(&mut self, work: impl FnOnce(&OwnedFd) -> Result<(), Errno> + Send + 'static) {
        let file = self.file.clone();
        self.running = Some(tokio::task::spawn_blocking(move || work(&file)));
    }
}

#[async_trait]
impl Append for AppendFile {
    fn size(&self) -> u64 {
        self.size
    }

    async fn truncate(&mut self, size: u64) -> Result<(), StorageError> {
        self.settle().await?;
        if size > self.size {
            return Err(StorageError::Corrupt {
                key: self.key.to_string(),
                detail: format!("expected at least {size} bytes, found {}", self.size),
            });
        }
        if size < self.size {
            self.start(move |file| fs::ftruncate(file, size));
            self.settle().await?;
            self.size = size;
        }
        Ok(())
    }

    async fn write(&mut self, bytes: Bytes) -> Result<(), StorageError> {
        self.settle().await?;
        let mut offset = self.size;
        self.size += bytes.len() as u64;
        self.start(move |file| {
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                match io::pwrite(file, rest, offset) {
                    Ok(count) => {
                        rest = &rest[count..];
                        offset += count as u64;
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => return Err(errno),
                }
            }
            Ok(())
        });
        Ok(())
    }

    async fn sync(&mut self) -> Result<(), StorageError> {
        self.settle().await?;
        self.start(|file| fs::fdatasync(file));
        self.settle().await
    }
}
