//! Reading files and folders

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::IoSliceMut;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use rustix::buffer::spare_capacity;
use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::{self, Errno, ReadWriteFlags};

use super::{FileSystem, Root, TEMPORARY, failed, pooled};
use crate::driver::{ByteStream, Entry, Key, Stat};
use crate::error::StorageError;

/// How many bytes of a blob are read at a time
///
/// Larger reads cost more cache misses than they save calls, smaller ones more trips to the
/// pool.
const READ_SIZE: u64 = 256 * 1024;

/// Up to which size an object is read where it is asked for
///
/// Copying that much from the page cache takes about as long as the trip to the pool and back
/// that it saves, some ten microseconds.
const INLINE: u64 = 64 * 1024;

/// Without blocking on what is no regular file
const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

/// A regular file, and what was known of it when it was opened
#[derive(Debug)]
pub(super) struct Object {
    pub(super) file: File,
    metadata: Metadata,
    /// Whether its bytes may be in this machine's page cache
    cached: bool,
}

impl FileSystem {
    /// Opens an object here if that needs no disk, otherwise in the pool
    pub(super) async fn open_object(&self, key: &Key) -> Result<Object, StorageError> {
        if let Some(opened) = self.root.open_cached(key) {
            return opened;
        }
        let path = key.clone();
        self.pooled(key.as_str(), move |root| root.open_object(&path))
            .await
    }
}

impl Root {
    /// Opens an object unless that has to wait for anything but memory
    ///
    /// `None` if it has to, or if the kernel cannot tell: it knows since version 5.12.
    fn open_cached(&self, key: &Key) -> Option<Result<Object, StorageError>> {
        if self.remote {
            return None;
        }
        match fs::openat2(
            &self.fd,
            key.as_str(),
            OPEN,
            Mode::empty(),
            ResolveFlags::CACHED,
        ) {
            Ok(file) => Some(self.object(key, File::from(file))),
            Err(errno @ (Errno::NOENT | Errno::NOTDIR)) => {
                Some(Err(self.missed(key.as_str(), errno)))
            }
            Err(_) => None,
        }
    }

    /// Reads an object unless that has to wait for anything but memory
    pub(super) fn read_cached(
        &self,
        key: &Key,
        limit: usize,
    ) -> Option<Result<Bytes, StorageError>> {
        let object = match self.open_cached(key)? {
            Ok(object) => object,
            Err(error) => return Some(Err(error)),
        };
        let length = match object.length(key, limit) {
            Ok(length) => length,
            Err(error) => return Some(Err(error)),
        };
        object.read_cached(0, length as u64).map(Ok)
    }

    pub(super) fn open_object(&self, key: &Key) -> Result<Object, StorageError> {
        let open = || fs::openat(&self.fd, key.as_str(), OPEN, Mode::empty());
        let opened = match open() {
            Err(Errno::NOENT) if self.remote => {
                self.refresh(key);
                open()
            }
            // The file was replaced on another machine between its being found and opened.
            Err(Errno::STALE) => open(),
            opened => opened,
        };
        match opened {
            Ok(file) => self.object(key, File::from(file)),
            Err(errno) => Err(self.missed(key.as_str(), errno)),
        }
    }

    pub(super) fn read(&self, key: &Key, limit: usize) -> Result<Bytes, StorageError> {
        let object = self.open_object(key)?;
        let length = object.length(key, limit)?;
        object.read(key, 0, length)
    }

    pub(super) fn list(
        &self,
        folder: Option<&Key>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let path = folder.map_or(".", Key::as_str);
        let fail = |errno| self.missed(path, errno);
        let opened = match (self.open_folder(path), folder) {
            (Err(Errno::NOENT), Some(key)) if self.remote => {
                self.refresh(key);
                self.open_folder(path)
            }
            (opened, _) => opened,
        };
        let opened = opened.map_err(fail)?;
        // In a root that was deleted there is nothing to be seen, and no error either.
        if folder.is_none()
            && let error @ StorageError::Transient { .. } = self.absent(path)
        {
            return Err(error);
        }
        // Of a large folder only the page that is asked for is kept.
        let mut page: BTreeMap<String, bool> = BTreeMap::new();
        for entry in Dir::read_from(&opened).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            // Names that are not UTF-8 are no keys.
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if matches!(name, "." | "..")
                || (folder.is_none() && name == TEMPORARY)
                || after.is_some_and(|after| name <= after)
            {
                continue;
            }
            if page.len() >= limit
                && page
                    .last_key_value()
                    .is_none_or(|(last, _)| name >= last.as_str())
            {
                continue;
            }
            let is_dir = match entry.file_type() {
                FileType::Directory => true,
                // Not every file system tells, and a link may lead to a folder.
                FileType::Unknown | FileType::Symlink => {
                    match fs::statat(&opened, entry.file_name(), AtFlags::empty()) {
                        Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                        // Deleted since, or a link to nowhere.
                        Err(Errno::NOENT) => continue,
                        Err(errno) => return Err(failed(path, errno)),
                    }
                }
                _ => false,
            };
            page.insert(name.to_owned(), is_dir);
            if page.len() > limit {
                page.pop_last();
            }
        }
        Ok(page
            .into_iter()
            .map(|(name, is_dir)| Entry { name, is_dir })
            .collect())
    }

    /// Opens a folder, for its entries or for what is in it
    pub(super) fn open_folder(&self, path: &str) -> Result<File, Errno> {
        fs::openat(
            &self.fd,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map(File::from)
    }

    fn object(&self, key: &Key, file: File) -> Result<Object, StorageError> {
        let metadata = file.metadata().map_err(|source| StorageError::Transient {
            key: key.to_string(),
            source: source.into(),
        })?;
        if !metadata.is_file() {
            return Err(self.absent(key.as_str()));
        }
        Ok(Object {
            file,
            metadata,
            cached: !self.remote,
        })
    }

    /// Makes the client of a share forget that it did not find `key`
    ///
    /// An NFS client remembers for up to a minute that a name is absent. Another process may
    /// have made it since, and so a push through one replica would not be found by the next.
    /// Asking the server for the folder's attributes is what corrects it, asking for the file
    /// itself is not; and the folder may itself be among the names that are remembered wrongly.
    fn refresh(&self, key: &Key) {
        let ask = |folder: &str| {
            fs::statx(
                &self.fd,
                folder,
                AtFlags::STATX_FORCE_SYNC,
                StatxFlags::BASIC_STATS,
            )
            .is_ok()
        };
        let mut unknown = Vec::new();
        let mut folder = key.parent();
        while let Some(path) = folder {
            if ask(path) {
                break;
            }
            unknown.push(path);
            folder = path.rsplit_once('/').map(|(parent, _)| parent);
        }
        if folder.is_none() {
            ask(".");
        }
        // Down again, as far as it goes.
        unknown.into_iter().rev().all(ask);
    }
}

impl Object {
    pub(super) fn stat(&self) -> Stat {
        Stat {
            size: self.metadata.len(),
            modified: self.metadata.modified().ok(),
        }
    }

    /// The bytes from `start` up to `end`
    pub(super) fn stream(self, key: Key, start: u64, end: u64) -> ByteStream {
        let object = Arc::new(self);
        stream::try_unfold(start, move |offset| {
            let (key, object) = (key.clone(), object.clone());
            async move {
                if offset >= end {
                    return Ok(None);
                }
                let length = (end - offset).min(READ_SIZE);
                if let Some(bytes) = object.read_cached(offset, length) {
                    return Ok(Some((bytes, offset + length)));
                }
                let path = key.clone();
                // Made here and not in the pool, each of whose many threads would have the
                // allocator keep room for it.
                let buffer = Vec::with_capacity(length as usize);
                let bytes = pooled(key.as_str(), move || {
                    object.read_into(buffer, &path, offset, length as usize)
                })
                .await?;
                Ok(Some((bytes, offset + length)))
            }
        })
        .boxed()
    }

    /// The size as a length in memory
    fn length(&self, key: &Key, limit: usize) -> Result<usize, StorageError> {
        let size = self.metadata.len();
        match usize::try_from(size) {
            Ok(length) if length <= limit => Ok(length),
            _ => Err(StorageError::Corrupt {
                key: key.to_string(),
                detail: format!("expected at most {limit} bytes, found {size}"),
            }),
        }
    }

    /// Exactly `length` bytes, if they are few and all in the page cache
    fn read_cached(&self, offset: u64, length: u64) -> Option<Bytes> {
        if !self.cached || length > INLINE {
            return None;
        }
        let mut buffer = vec![0; length as usize];
        let read = io::preadv2(
            &self.file,
            &mut [IoSliceMut::new(&mut buffer)],
            offset,
            ReadWriteFlags::NOWAIT,
        );
        // What is missing, or fails, is read again by whoever may wait for it.
        (read == Ok(buffer.len())).then(|| buffer.into())
    }

    /// Exactly `length` bytes
    pub(super) fn read(
        &self,
        key: &Key,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, StorageError> {
        self.read_into(Vec::with_capacity(length), key, offset, length)
    }

    fn read_into(
        &self,
        mut buffer: Vec<u8>,
        key: &Key,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, StorageError> {
        while buffer.len() < length {
            let at = offset + buffer.len() as u64;
            match io::pread(&self.file, spare_capacity(&mut buffer), at) {
                Ok(0) => {
                    return Err(StorageError::Corrupt {
                        key: key.to_string(),
                        detail: format!(
                            "expected {} bytes as it had when it was opened, found {at}",
                            self.metadata.len()
                        ),
                    });
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed(key.as_str(), errno)),
            }
        }
        // The allocator may have given more than was asked for.
        buffer.truncate(length);
        Ok(buffer.into())
    }
}
