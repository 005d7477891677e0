//! Reading files and folders

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt, stream};
use rustix::fs::{self, Dir, FileType, Mode, OFlags};
use rustix::io::{self, Errno};

use super::{Root, failed, modified, pooled};
use crate::driver::{ByteStream, Entry, Key, Stat};
use crate::error::StorageError;

/// How many bytes of a blob are read at a time
///
/// Larger reads cost more cache misses than they save calls, smaller ones more trips to the
/// pool.
const READ_SIZE: usize = 256 * 1024;

impl Root {
    /// Opens a regular file and tells its size
    pub(super) fn open_file(&self, key: &Key) -> Result<(OwnedFd, u64), StorageError> {
        let fail = |errno| failed(key.as_str(), errno);
        let file = fs::openat(
            &self.fd,
            key.as_str(),
            OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK,
            Mode::empty(),
        )
        .map_err(fail)?;
        let stat = fs::fstat(&file).map_err(fail)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(fail(Errno::NOENT));
        }
        Ok((file, size(&stat)))
    }

    pub(super) fn stat(&self, key: &Key) -> Result<Stat, StorageError> {
        let fail = |errno| failed(key.as_str(), errno);
        let stat = fs::statat(&self.fd, key.as_str(), fs::AtFlags::empty()).map_err(fail)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(fail(Errno::NOENT));
        }
        Ok(Stat {
            size: size(&stat),
            modified: modified(&stat),
        })
    }

    pub(super) fn read(&self, key: &Key, limit: usize) -> Result<Bytes, StorageError> {
        let (file, size) = self.open_file(key)?;
        if size > limit as u64 {
            return Err(StorageError::Corrupt {
                key: key.to_string(),
                detail: format!("expected at most {limit} bytes, found {size}"),
            });
        }
        read_at(key, &file, 0, size as usize)
    }

    pub(super) fn list(
        &self,
        path: &str,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let fail = |errno| failed(path, errno);
        let folder = fs::openat(
            &self.fd,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .map_err(fail)?;
        // Of a large folder only the page that is asked for is kept.
        let mut page: BTreeMap<String, bool> = BTreeMap::new();
        for entry in Dir::read_from(&folder).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            // Names that are not UTF-8 are none of ours.
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if matches!(name, "." | "..") || after.is_some_and(|after| name <= after) {
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
                    match fs::statat(&folder, entry.file_name(), fs::AtFlags::empty()) {
                        Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                        Err(Errno::NOENT) => continue,
                        Err(errno) => return Err(fail(errno)),
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
}

/// The bytes from `start` up to `end`
pub(super) fn stream(key: Key, file: OwnedFd, start: u64, end: u64) -> ByteStream {
    let file = Arc::new(file);
    stream::try_unfold(start, move |offset| {
        let (key, file) = (key.clone(), file.clone());
        async move {
            if offset >= end {
                return Ok(None);
            }
            let length = (end - offset).min(READ_SIZE as u64) as usize;
            let path = key.clone();
            let bytes = pooled(key.as_str(), move || read_at(&path, &file, offset, length)).await?;
            Ok(Some((bytes, offset + length as u64)))
        }
    })
    .boxed()
}

/// Exactly `length` bytes
fn read_at(key: &Key, file: &OwnedFd, offset: u64, length: usize) -> Result<Bytes, StorageError> {
    let mut buffer = BytesMut::zeroed(length);
    let mut filled = 0;
    while filled < length {
        match io::pread(file, &mut buffer[filled..], offset + filled as u64) {
            Ok(0) => {
                return Err(StorageError::Corrupt {
                    key: key.to_string(),
                    detail: format!(
                        "expected {} bytes, found {}",
                        offset + length as u64,
                        offset + filled as u64
                    ),
                });
            }
            Ok(count) => filled += count,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(failed(key.as_str(), errno)),
        }
    }
    Ok(buffer.freeze())
}

pub(super) fn size(stat: &fs::Stat) -> u64 {
    u64::try_from(stat.st_size).unwrap_or_default()
}
