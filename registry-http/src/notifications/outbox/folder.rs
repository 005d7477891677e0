//! An outbox's folder: who owns it, and what a process that is gone left in it
//!
//! Below the configured folder each process has one of its own, named by a random id:
//!
//! - `lock`, which the process holds with `flock` as long as it lives;
//! - `cursors.json`, what each endpoint has taken;
//! - `<first sequence number>.changes` and `….pulls`, the segments.
//!
//! A folder that is not locked belongs to whoever locks it.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use registry_core::event::Event;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::record::{MAGIC, decode};
use super::state::{Kind, Lane};

const LOCK: &str = "lock";
const CURSORS: &str = "cursors.json";

/// Events name users and their addresses: they are for the registry alone
const FOLDER_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// A folder that this process has locked
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Unlocked when it is closed
    _lock: File,
}

/// What is in a folder
#[derive(Debug, Default)]
pub(super) struct Contents {
    /// How far each endpoint was; `None` when that is not known
    pub(super) cursors: Option<BTreeMap<String, u64>>,
    /// In the order of their first events
    pub(super) segments: Vec<FoundSegment>,
    /// In their order
    pub(super) events: Vec<FoundEvent>,
}

#[derive(Debug)]
pub(super) struct FoundSegment {
    pub(super) id: u64,
    pub(super) lane: Lane,
    pub(super) file: File,
    pub(super) path: PathBuf,
    pub(super) len: u64,
}

#[derive(Debug)]
pub(super) struct FoundEvent {
    pub(super) seq: u64,
    /// Its segment, by the number in [`Contents::segments`]
    pub(super) segment: usize,
    pub(super) offset: u64,
    pub(super) len: usize,
    pub(super) only: Option<Vec<String>>,
    pub(super) kind: Kind,
}

#[derive(Serialize, Deserialize)]
struct Cursors {
    endpoints: BTreeMap<String, u64>,
}

impl Contents {
    /// The first sequence number that was never used
    pub(super) fn next(&self) -> u64 {
        let cursors = self.cursors.iter().flat_map(BTreeMap::values).copied();
        let last = self
            .events
            .iter()
            .map(|event| event.seq)
            .chain(self.segments.iter().map(|segment| segment.id))
            .chain(cursors)
            .max();
        last.unwrap_or(0) + 1
    }

    /// How far an endpoint was; `None` for one that is new
    ///
    /// Where nothing is known, all that is there is sent again: twice is better than never.
    pub(super) fn cursor(&self, name: &str) -> Option<u64> {
        match &self.cursors {
            Some(cursors) => cursors.get(name).copied(),
            None => Some(0),
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }
}

impl Folder {
    /// Takes a folder below `base` that nobody has, or makes one
    pub(super) fn claim(base: &Path) -> io::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(FOLDER_MODE)
            .create(base)?;
        if let Some(folder) = Self::free(base, None)?.into_iter().next() {
            return Ok(folder);
        }
        loop {
            let path = base.join(Uuid::new_v4().to_string());
            DirBuilder::new().mode(FOLDER_MODE).create(&path)?;
            let lock = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(FILE_MODE)
                .open(path.join(LOCK))?;
            match lock.try_lock() {
                Ok(()) => {
                    sync_folder(&path)?;
                    sync_folder(base)?;
                    return Ok(Self { path, _lock: lock });
                }
                // Another process took it for abandoned, in the instant in which it was.
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error),
            }
        }
    }

    /// The folders beside a process's own that nobody has, now locked
    pub(super) fn abandoned(own: &Path) -> io::Result<Vec<Self>> {
        match own.parent() {
            Some(base) => Self::free(base, Some(own)),
            None => Ok(Vec::new()),
        }
    }

    fn free(base: &Path, own: Option<&Path>) -> io::Result<Vec<Self>> {
        let mut folders = Vec::new();
        for entry in fs::read_dir(base)? {
            let path = entry?.path();
            if Some(path.as_path()) == own {
                continue;
            }
            match Self::try_lock(path.clone()) {
                Ok(folder) => folders.extend(folder),
                // One folder that is out of order keeps nobody from the others.
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, folder = %path.display(), "it cannot be found out whether a process has this folder of events");
                }
            }
        }
        Ok(folders)
    }

    fn try_lock(path: PathBuf) -> io::Result<Option<Self>> {
        let lock_path = path.join(LOCK);
        let lock = match OpenOptions::new().write(true).open(&lock_path) {
            Ok(lock) => lock,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Ok(None),
            Err(TryLockError::Error(error)) => return Err(error),
        }
        // Whoever had it may have emptied and removed the folder before letting go.
        let same = match fs::metadata(&lock_path) {
            Ok(found) => {
                let held = lock.metadata()?;
                (found.dev(), found.ino()) == (held.dev(), held.ino())
            }
            Err(error) if is_absent(&error) => false,
            Err(error) => return Err(error),
        };
        Ok(same.then_some(Self { path, _lock: lock }))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Reads what is there, and cuts off what a crash left half written
    pub(super) fn load(&self) -> io::Result<Contents> {
        let mut contents = Contents {
            cursors: self.cursors()?,
            ..Contents::default()
        };
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str());
            if let Some((id, lane)) = name.and_then(segment_name) {
                names.push((id, lane, path));
            }
        }
        names.sort_by_key(|(id, ..)| *id);
        for (id, lane, path) in names {
            self.load_segment(&mut contents, id, lane, path)?;
        }
        contents.events.sort_by_key(|event| event.seq);
        Ok(contents)
    }

    fn load_segment(
        &self,
        contents: &mut Contents,
        id: u64,
        lane: Lane,
        path: PathBuf,
    ) -> io::Result<()> {
        let bytes = fs::read(&path)?;
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let segment = contents.segments.len();
        let start = &bytes[..bytes.len().min(MAGIC.len())];
        let mut at = if start == MAGIC {
            MAGIC.len()
        } else if MAGIC.starts_with(start) || start.iter().all(|byte| *byte == 0) {
            // A crash came before the first record.
            0
        } else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "`{}` is no file of events that this version can read: start the version that wrote it until all is delivered, or move the file away",
                    path.display()
                ),
            ));
        };
        while at > 0
            && let Some(record) = decode(&bytes[at..])
        {
            match serde_json::from_slice::<Event>(record.event) {
                Ok(event) => contents.events.push(FoundEvent {
                    seq: record.seq,
                    segment,
                    offset: (at + record.event_at) as u64,
                    len: record.event.len(),
                    only: record.only,
                    kind: Kind::of(&event),
                }),
                Err(error) => {
                    tracing::error!(path = %path.display(), at, %error, "an event of the outbox cannot be read and is left out");
                }
            }
            at += record.len;
        }
        let len = at as u64;
        if at < bytes.len() {
            tracing::warn!(path = %path.display(), at, bytes = bytes.len() - at, "the end of a file of events was not written whole, or is damaged; it was cut off");
            file.set_len(len)?;
            file.sync_data()?;
        }
        contents.segments.push(FoundSegment {
            id,
            lane,
            file,
            path,
            len,
        });
        Ok(())
    }

    fn cursors(&self) -> io::Result<Option<BTreeMap<String, u64>>> {
        let path = self.path.join(CURSORS);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(error),
        };
        match serde_json::from_slice::<Cursors>(&bytes) {
            Ok(cursors) => Ok(Some(cursors.endpoints)),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "it is not known which events were delivered; all that are kept are sent again");
                Ok(None)
            }
        }
    }

    /// Writes down how far the endpoints are
    ///
    /// Without `sync` a power failure can bring back older cursors, and with them events that
    /// were delivered already.
    pub(super) fn save_cursors(
        &self,
        cursors: &BTreeMap<String, u64>,
        sync: bool,
    ) -> io::Result<()> {
        let temporary = self.path.join("cursors.new");
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(FILE_MODE)
            .open(&temporary)?;
        let cursors = Cursors {
            endpoints: cursors.clone(),
        };
        file.write_all(&serde_json::to_vec(&cursors)?)?;
        if sync {
            file.sync_data()?;
        }
        fs::rename(&temporary, self.path.join(CURSORS))?;
        if sync {
            sync_folder(&self.path)?;
        }
        Ok(())
    }

    /// Makes a segment that starts with this sequence number
    pub(super) fn create_segment(&self, id: u64, lane: Lane) -> io::Result<(File, PathBuf)> {
        let path = self.path.join(format!("{id:016x}.{}", suffix(lane)));
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(FILE_MODE)
            .open(&path)?;
        let made = file.write_all(MAGIC).and_then(|()| match lane {
            Lane::Changes => sync_folder(&self.path),
            Lane::Pulls => Ok(()),
        });
        if let Err(error) = made {
            // It may not be removed either; then it is an empty segment at the next start.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok((file, path))
    }

    /// Removes it with all that is in it
    pub(super) fn remove(self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            if path.file_name().is_some_and(|name| name != LOCK) {
                fs::remove_file(path)?;
            }
        }
        fs::remove_file(self.path.join(LOCK))?;
        // On NFS a file that is still open stays under another name and keeps the folder. One
        // without a lock is nobody's, and does no harm.
        let _ = fs::remove_dir(&self.path);
        Ok(())
    }
}

fn suffix(lane: Lane) -> &'static str {
    match lane {
        Lane::Changes => "changes",
        Lane::Pulls => "pulls",
    }
}

fn segment_name(name: &str) -> Option<(u64, Lane)> {
    let (id, kind) = name.split_once('.')?;
    let lane = Lane::ALL.into_iter().find(|lane| suffix(*lane) == kind)?;
    Some((u64::from_str_radix(id, 16).ok()?, lane))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_belongs_to_one_at_a_time() {
        let base = tempfile::tempdir().unwrap();
        let first = Folder::claim(base.path()).unwrap();
        let second = Folder::claim(base.path()).unwrap();
        assert_ne!(first.path, second.path);
        assert!(Folder::abandoned(&first.path).unwrap().is_empty());

        let path = second.path.clone();
        drop(second);
        let found = Folder::abandoned(&first.path).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].path, path);
        drop(found);
        let again = Folder::claim(base.path()).unwrap();
        assert_eq!(again.path, path, "what is free is used before one is made");

        again.remove().unwrap();
        assert!(!path.exists());
        assert!(Folder::abandoned(&first.path).unwrap().is_empty());
    }

    #[test]
    fn a_folder_that_is_being_removed_is_not_taken() {
        let base = tempfile::tempdir().unwrap();
        let folder = Folder::claim(base.path()).unwrap();
        let (path, lock) = (folder.path.clone(), folder.path.join(LOCK));
        fs::remove_file(&lock).unwrap();
        drop(folder);
        assert!(Folder::try_lock(path).unwrap().is_none());
    }

    #[test]
    fn cursors_that_cannot_be_read_are_none() {
        let base = tempfile::tempdir().unwrap();
        let folder = Folder::claim(base.path()).unwrap();
        assert_eq!(folder.load().unwrap().cursor("a"), Some(0));
        let cursors = BTreeMap::from([("a".to_owned(), 7)]);
        folder.save_cursors(&cursors, true).unwrap();
        let contents = folder.load().unwrap();
        assert_eq!(
            (contents.cursor("a"), contents.cursor("b")),
            (Some(7), None)
        );
        assert_eq!(contents.next(), 8);
        fs::write(folder.path.join(CURSORS), b"{\"endp").unwrap();
        assert_eq!(folder.load().unwrap().cursor("a"), Some(0));
    }
}
