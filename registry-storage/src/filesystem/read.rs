//! Reading files and folders

use std::fs::{File, Metadata};
use std::io::IoSliceMut;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, stream};
use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::{self, Errno, ReadWriteFlags};

use super::{FileSystem, Root, failed, pooled};
use crate::driver::{ByteStream, Key, Stat};
use crate::error::StorageError;
use crate::layout;
use crate::piece::{FilePiece, Piece, PieceStream};

/// Up to which size an object is read where it is asked for
///
/// Copying that much from the page cache takes about as long as the trip to the pool and back
/// that it saves, some ten microseconds.
const INLINE: usize = 64 * 1024;

/// How many bytes of a file are given out at a time to be sent from it
///
/// Whether they are in the page cache is asked for once for as many, at a few places.
const WINDOW: u64 = 1024 * 1024;

/// How many places those are: one for each 128 KiB, which most systems read ahead
const LOOKS: u64 = 9;

/// How many bytes are read of what may be small, before anybody asks how large it is
///
/// No page is smaller.
const SMALL: usize = 4096;

/// Without blocking on what is no regular file
pub(super) const OPEN: OFlags = OFlags::RDONLY
    .union(OFlags::CLOEXEC)
    .union(OFlags::NONBLOCK);

/// A regular file, and what was known of it when it was opened
#[derive(Debug)]
pub(super) struct Object {
    pub(super) file: Arc<File>,
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
    pub(super) fn open_cached(&self, key: &Key) -> Option<Result<Object, StorageError>> {
        Some(
            self.open_file_cached(key)?
                .and_then(|file| self.look(key, file)),
        )
    }

    /// Opens whatever is there, as [`Root::open_cached`] does
    fn open_file_cached(&self, key: &Key) -> Option<Result<File, StorageError>> {
        if self.mount.is_remote() {
            return None;
        }
        match fs::openat2(
            &self.fd,
            key.as_str(),
            OPEN,
            Mode::empty(),
            ResolveFlags::CACHED,
        ) {
            Ok(file) => Some(Ok(file.into())),
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
        if let Some(bytes) = self.watched.get(key.as_str(), limit) {
            return Some(Ok(bytes));
        }
        let file = match self.open_file_cached(key)? {
            Ok(file) => file,
            Err(error) => return Some(Err(error)),
        };
        if limit <= SMALL
            && let Some(bytes) = read_small(&file, limit)
        {
            // What else is small belongs to an upload, and is soon gone.
            if layout::is_link(key) {
                self.watched.keep(&self.fd, key.as_str(), bytes.len());
            }
            return Some(Ok(bytes));
        }
        let object = match self.look(key, file) {
            Ok(object) => object,
            Err(error) => return Some(Err(error)),
        };
        match object.length(key, limit) {
            Ok(length) => object.read_cached(length).map(Ok),
            Err(error) => Some(Err(error)),
        }
    }

    pub(super) fn open_object(&self, key: &Key) -> Result<Object, StorageError> {
        let open = || {
            let file = fs::openat(&self.fd, key.as_str(), OPEN, Mode::empty())?;
            self.known(File::from(file))
        };
        let mut opened = self.believing(key.as_str(), open);
        // Deleted or replaced on another machine, and found only because somebody has it open.
        // Replaced again by now, it was the right one when it was looked for.
        if self.mount.is_nfs() && matches!(&opened, Ok(object) if object.metadata.nlink() == 0) {
            self.refresh(key.as_str());
            opened = self.believing(key.as_str(), open);
        }
        match opened {
            Ok(object) => self.regular(key, object),
            Err(errno) => Err(self.missed(key.as_str(), errno)),
        }
    }

    pub(super) fn stat(&self, key: &Key) -> Result<Stat, StorageError> {
        let _opening = self.opening(key);
        Ok(self.open_object(key)?.stat())
    }

    pub(super) fn read(&self, key: &Key, limit: usize) -> Result<Bytes, StorageError> {
        let _opening = self.opening(key);
        let object = self.open_object(key)?;
        let length = object.length(key, limit)?;
        let mut buffer = vec![0; length];
        match object.fill(&mut buffer, 0) {
            // Deleted or replaced on another machine since: then what is there now.
            Err(Errno::STALE) => {
                let object = self.open_object(key)?;
                let length = object.length(key, limit)?;
                object.read(key, 0, length)
            }
            filled => {
                object.filled(key, 0, length, filled)?;
                Ok(buffer.into())
            }
        }
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

    /// An open file with what is known of it
    fn known(&self, file: File) -> Result<Object, Errno> {
        let metadata = file
            .metadata()
            .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        Ok(Object {
            file: Arc::new(file),
            metadata,
            cached: !self.mount.is_remote(),
        })
    }

    /// What is known of an open file, if it is an object
    fn look(&self, key: &Key, file: File) -> Result<Object, StorageError> {
        let object = self
            .known(file)
            .map_err(|errno| failed(key.as_str(), errno))?;
        self.regular(key, object)
    }

    fn regular(&self, key: &Key, object: Object) -> Result<Object, StorageError> {
        if object.metadata.is_file() {
            Ok(object)
        } else {
            Err(self.absent(key.as_str()))
        }
    }

    /// Opens once more what the server of a share does not have any more
    ///
    /// What was read of it so far must be the same in what is there now: so it is only for blobs,
    /// which are named for their content, and which a second push of the same replaces.
    fn reopen(&self, key: &Key, object: &Object) -> Result<Object, StorageError> {
        let again = if layout::is_blob(key) {
            self.open_object(key)?
        } else {
            return Err(failed(key.as_str(), Errno::STALE));
        };
        let (size, before) = (again.metadata.len(), object.metadata.len());
        if size == before {
            Ok(again)
        } else {
            Err(StorageError::Corrupt {
                key: key.to_string(),
                detail: format!(
                    "expected {before} bytes as it had when it was opened, found {size} in what \
                     has replaced it since"
                ),
            })
        }
    }
}

impl Object {
    pub(super) fn stat(&self) -> Stat {
        Stat {
            size: self.metadata.len(),
            modified: self.metadata.modified().ok(),
        }
    }

    /// What tells it from all other files, as [`share::identity`](super::share::identity)
    pub(super) fn identity(&self) -> (u64, u64) {
        (self.metadata.dev(), self.metadata.ino())
    }

    /// The bytes from `start` up to `end`
    pub(super) fn stream(self, root: Arc<Root>, key: Key, start: u64, end: u64) -> ByteStream {
        let first = Reading::new(self, root, key, start, end);
        stream::try_unfold(first, async |mut reading| {
            if reading.is_over() {
                return Ok(None);
            }
            // Nothing here may ever wait, and whoever only computes would keep the thread.
            tokio::task::coop::consume_budget().await;
            let bytes = reading.next().await?;
            Ok(Some((bytes, reading)))
        })
        .boxed()
    }

    /// The pieces from `start` up to `end`: where in the file they are, as far as they are in
    /// the page cache
    pub(super) fn pieces(self, root: Arc<Root>, key: Key, start: u64, end: u64) -> PieceStream {
        let first = Reading::new(self, root, key, start, end);
        stream::try_unfold(first, async |mut reading| {
            if reading.is_over() {
                return Ok(None);
            }
            tokio::task::coop::consume_budget().await;
            let piece = match reading.next_cached() {
                Some(piece) => Piece::File(piece),
                None => Piece::Bytes(reading.next().await?),
            };
            Ok(Some((piece, reading)))
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

    /// The first `length` bytes, if they are few and all in the page cache
    fn read_cached(&self, length: usize) -> Option<Bytes> {
        if length > INLINE {
            return None;
        }
        let mut buffer = vec![0; length];
        (self.fill_cached(&mut buffer, 0) == length).then(|| buffer.into())
    }

    /// Fills `room` as far as the bytes are in the page cache, and says how far that is
    ///
    /// What is missing, or fails, is for whoever may wait for it.
    fn fill_cached(&self, room: &mut [u8], offset: u64) -> usize {
        if !self.cached {
            return 0;
        }
        let room = &mut [IoSliceMut::new(room)];
        io::preadv2(&self.file, room, offset, ReadWriteFlags::NOWAIT).unwrap_or_default()
    }

    /// Exactly `length` bytes
    pub(super) fn read(
        &self,
        key: &Key,
        offset: u64,
        length: usize,
    ) -> Result<Bytes, StorageError> {
        let mut buffer = vec![0; length];
        self.filled(key, offset, length, self.fill(&mut buffer, offset))?;
        Ok(buffer.into())
    }

    /// Fills `room`, all of it but where the file ends, and says how far
    fn fill(&self, room: &mut [u8], offset: u64) -> Result<usize, Errno> {
        let mut length = 0;
        while length < room.len() {
            match io::pread(&self.file, &mut room[length..], offset + length as u64) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(Errno::INTR) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(length)
    }

    /// Whether [`Object::fill`] read all that it should
    fn filled(
        &self,
        key: &Key,
        offset: u64,
        length: usize,
        filled: Result<usize, Errno>,
    ) -> Result<(), StorageError> {
        let read = filled.map_err(|errno| failed(key.as_str(), errno))?;
        if read == length {
            return Ok(());
        }
        Err(StorageError::Corrupt {
            key: key.to_string(),
            detail: format!(
                "expected {} bytes as it had when it was opened, found {}",
                self.metadata.len(),
                offset + read as u64
            ),
        })
    }
}

/// An object that is read from its beginning to its end, or a part of it
struct Reading {
    object: Arc<Object>,
    root: Arc<Root>,
    key: Key,
    /// Where the next byte is
    offset: u64,
    /// Behind the last one
    end: u64,
    /// Whether the disk had to be waited for lately
    waits: bool,
}

impl Reading {
    fn new(object: Object, root: Arc<Root>, key: Key, offset: u64, end: u64) -> Self {
        Self {
            object: Arc::new(object),
            root,
            key,
            offset,
            end,
            waits: false,
        }
    }

    fn is_over(&self) -> bool {
        self.offset >= self.end
    }

    /// The next bytes
    ///
    /// What is in the page cache is copied here: the trip to the pool and back costs more than
    /// half as much as copying so much does, and makes another core's cache fetch it.
    async fn next(&mut self) -> Result<Bytes, StorageError> {
        let offset = self.offset;
        let mut buffer = self.root.buffers.lend(self.end - offset);
        let length = buffer.room().len();
        let read = self.object.fill_cached(buffer.room(), offset);
        self.waits = read < length;
        if read == length {
            self.offset += length as u64;
            return Ok(buffer.into_bytes(length));
        }
        let (object, root, key) = (self.object.clone(), self.root.clone(), self.key.clone());
        let (bytes, object) = pooled(self.key.as_str(), move || {
            let rest = object.fill(&mut buffer.room()[read..], offset + read as u64);
            match rest.map(|rest| read + rest) {
                Err(Errno::STALE) => {
                    let object = Arc::new(root.reopen(&key, &object)?);
                    Ok((object.read(&key, offset, length)?, object))
                }
                filled => {
                    object.filled(&key, offset, length, filled)?;
                    Ok((buffer.into_bytes(length), object))
                }
            }
        })
        .await?;
        self.object = object;
        self.offset += bytes.len() as u64;
        Ok(bytes)
    }

    /// Where the next bytes are, if they are many and seem to be in the page cache
    fn next_cached(&mut self) -> Option<FilePiece> {
        let left = self.end - self.offset;
        if left <= INLINE as u64 || self.waits {
            return None;
        }
        let length = left.min(WINDOW);
        // To ask for a page that is not there begins to read it: so from the first on, and not
        // again before what was missing has been waited for. Where one is missing all the same,
        // whoever sends the file waits for the disk, as any server does that sends files.
        let mut byte = [0];
        let mut places = (0..LOOKS).map(|look| self.offset + (length - 1) * look / (LOOKS - 1));
        if places.any(|place| self.object.fill_cached(&mut byte, place) == 0) {
            self.waits = true;
            return None;
        }
        let piece = FilePiece::new(self.object.file.clone(), self.offset, length as usize);
        self.offset += length;
        Some(piece)
    }
}

/// The whole of a regular file of less than [`SMALL`] and at most `limit` bytes, unless it is
/// empty or not in the page cache
///
/// A read within one page of a regular file brings fewer bytes than asked for only where the
/// file ends: pages are in the page cache or are not. So nobody has to ask for the size. Whatever
/// else it may be (a folder, a pipe, a device) fails to be read at an offset, or reads as empty or
/// endless, and is to be looked at.
pub(super) fn read_small(file: &File, limit: usize) -> Option<Bytes> {
    let mut buffer = [0; SMALL];
    let asked = SMALL.min(limit.saturating_add(1));
    let room = &mut [IoSliceMut::new(&mut buffer[..asked])];
    let read = io::preadv2(file, room, 0, ReadWriteFlags::NOWAIT).ok()?;
    (1..asked)
        .contains(&read)
        .then(|| Bytes::copy_from_slice(&buffer[..read]))
}
