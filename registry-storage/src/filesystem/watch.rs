//! Links that are read again and again, kept while nothing on the way to them changes
//!
//! To open, read and close a file costs ten times as much as to ask the kernel whether anything
//! happened to it. So of some links the bytes are kept, and their folder and all folders
//! above it are watched (`inotify(7)`). The kernel puts an event into the queue before the call
//! that changes something returns, whichever process makes it. Therefore what is kept is the
//! truth while the queue is empty, and that is asked each time; otherwise the events are applied
//! first.
//!
//! Watched first, then read: a change in between leaves an event. What the kernel does not tell of
//! is not kept: files with several names, files behind a symbolic link or on another mount, and
//! all files on file systems that others may change. What happens behind the kernel's back all
//! the same (another file system mounted over a folder, a snapshot rolled back) is seen
//! after [`TRUSTED`].

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, Reader, WatchFlags};
use rustix::fs::{self, Mode, ResolveFlags};
use rustix::io::{Errno, ioctl_fionread};

use super::mount::tells_of_changes;
use super::read::{OPEN, read_small};

/// How many files are kept
///
/// Each has two or three folders that no other file has. How many folders may be watched is
/// limited for each user of the system (`fs.inotify.max_user_watches`, 8,192 at least), and other
/// programs want to watch some too.
const FILES: usize = 1024;

/// The largest file that is kept, in bytes; a link has 71, or 135 with SHA-512
const LARGEST: usize = 512;

/// How long a file is kept before it is read once more
const TRUSTED: Duration = Duration::from_secs(1);

/// How much time is between two files that are taken in, which takes some 20 microseconds: so
/// where every file is another one, that costs a hundredth, and those read often come first
const PAUSE: Duration = Duration::from_millis(2);

/// What leaves an event: all that can make another file, or none, of a path in this folder
const CHANGES: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::DELETE)
    .union(WatchFlags::MODIFY)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::ATTRIB)
    .union(WatchFlags::ONLYDIR)
    .union(WatchFlags::DONT_FOLLOW);

/// The small files that are kept of one storage
#[derive(Debug)]
pub(super) struct Watched {
    /// Nothing where the kernel cannot tell
    state: Option<RwLock<State>>,
}

#[derive(Debug)]
struct State {
    inotify: OwnedFd,
    /// By their paths from the root
    files: HashMap<String, Kept>,
    /// Those that files are kept of, and all above them; the root is the empty path
    folders: HashMap<String, Folder>,
    /// The folders by what events call them
    paths: HashMap<i32, String>,
    /// When a file was taken in last
    taken_in: Option<Instant>,
}

#[derive(Debug)]
struct Kept {
    bytes: Bytes,
    read: Instant,
    /// Whether anybody wanted it again since there was no room the last time
    used: AtomicBool,
}

#[derive(Debug)]
struct Folder {
    watch: i32,
    /// How many kept files and watched folders are in it
    entries: usize,
}

impl Watched {
    /// None yet, of what is below `root`
    pub(super) fn of(root: &File) -> Self {
        let inotify = tells_of_changes(root)
            .then(|| inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).ok())
            .flatten();
        Self {
            state: inotify.map(|inotify| RwLock::new(State::new(inotify))),
        }
    }

    /// What the file has now, if it is kept and has at most `limit` bytes
    pub(super) fn get(&self, path: &str, limit: usize) -> Option<Bytes> {
        let state = self.state.as_ref()?;
        {
            let state = read(state);
            let bytes = state.bytes(path, limit)?;
            if state.is_current() {
                return Some(bytes);
            }
        }
        let mut state = write(state);
        state.catch_up();
        state.bytes(path, limit)
    }

    /// Keeps a small file that was just read, unless another was taken in just now
    pub(super) fn keep(&self, root: &File, path: &str, length: usize) {
        let Some(state) = self.state.as_ref().filter(|_| length <= LARGEST) else {
            return;
        };
        if read(state).wants(path) {
            write(state).keep(root, path);
        }
    }
}

fn read(state: &RwLock<State>) -> RwLockReadGuard<'_, State> {
    // Nothing that could panic runs while it is held for writing.
    state.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(state: &RwLock<State>) -> RwLockWriteGuard<'_, State> {
    state.write().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    fn new(inotify: OwnedFd) -> Self {
        Self {
            inotify,
            files: HashMap::new(),
            folders: HashMap::new(),
            paths: HashMap::new(),
            taken_in: None,
        }
    }

    fn bytes(&self, path: &str, limit: usize) -> Option<Bytes> {
        let kept = self.files.get(path)?;
        if kept.bytes.len() > limit || kept.read.elapsed() > TRUSTED {
            return None;
        }
        kept.used.store(true, Ordering::Relaxed);
        Some(kept.bytes.clone())
    }

    /// Whether all events have been applied
    fn is_current(&self) -> bool {
        ioctl_fionread(&self.inotify) == Ok(0)
    }

    /// Whether it is time to take in another file, or to read one again
    fn wants(&self, path: &str) -> bool {
        self.files.contains_key(path) || self.taken_in.is_none_or(|last| last.elapsed() >= PAUSE)
    }

    fn keep(&mut self, root: &File, path: &str) {
        let known = self.files.contains_key(path);
        if !known {
            self.taken_in = Some(Instant::now());
            if self.files.len() >= FILES {
                self.make_room();
            }
            // Too many are watched, or a folder has just gone or is none. Or it is watched under the
            // name that it had before, which the events tell.
            if self.watch(root, path).is_err() {
                return self.catch_up();
            }
        }
        if let Some(bytes) = read_alone(root, path) {
            let kept = Kept {
                bytes,
                read: Instant::now(),
                used: AtomicBool::new(known),
            };
            self.files.insert(path.to_owned(), kept);
        } else {
            self.files.remove(path);
            self.remove_entry(parent(path));
        }
        self.catch_up();
    }

    /// Watches all folders on the way to a file that is about to be kept
    fn watch(&mut self, root: &File, path: &str) -> Result<(), Errno> {
        let mut parent: Option<&str> = None;
        for folder in folders(path) {
            if !self.folders.contains_key(folder) {
                let watch = self.add_watch(root, folder).inspect_err(|_| {
                    if let Some(parent) = parent {
                        self.release_empty(parent);
                    }
                })?;
                let entries = 0;
                self.folders
                    .insert(folder.to_owned(), Folder { watch, entries });
                self.paths.insert(watch, folder.to_owned());
                self.add_entry(parent);
            }
            parent = Some(folder);
        }
        self.add_entry(parent);
        Ok(())
    }

    fn add_watch(&self, root: &File, folder: &str) -> Result<i32, Errno> {
        let root = root.as_raw_fd();
        let path = match folder {
            // Without the dot it is a link.
            "" => format!("/proc/self/fd/{root}/."),
            folder => format!("/proc/self/fd/{root}/{folder}"),
        };
        let watch = inotify::add_watch(&self.inotify, path, CHANGES)?;
        match self.paths.contains_key(&watch) {
            // The same folder under two names: it is mounted twice.
            true => Err(Errno::XDEV),
            false => Ok(watch),
        }
    }

    fn add_entry(&mut self, folder: Option<&str>) {
        if let Some(folder) = folder.and_then(|folder| self.folders.get_mut(folder)) {
            folder.entries += 1;
        }
    }

    /// Does not keep a file any longer
    fn forget(&mut self, path: &str) {
        if self.files.remove(path).is_some() {
            self.remove_entry(parent(path));
        }
    }

    /// Does not keep the files below a folder any longer
    fn forget_below(&mut self, folder: &str) {
        let is_below = |path: &str| {
            let rest = path.strip_prefix(folder);
            folder.is_empty() || rest.is_some_and(|rest| rest.starts_with('/'))
        };
        let below = self.files.keys().filter(|path| is_below(path));
        for path in below.cloned().collect::<Vec<_>>() {
            self.forget(&path);
        }
    }

    fn remove_entry(&mut self, folder: &str) {
        if let Some(known) = self.folders.get_mut(folder) {
            known.entries -= 1;
            self.release_empty(folder);
        }
    }

    /// Does not watch a folder any longer of which nothing is kept, nor those above it
    fn release_empty(&mut self, folder: &str) {
        let mut next = Some(folder);
        while let Some(folder) = next {
            match self.folders.get(folder) {
                Some(known) if known.entries == 0 => {
                    // The kernel has removed it already if the folder is gone.
                    let _ = inotify::remove_watch(&self.inotify, known.watch);
                    self.paths.remove(&known.watch);
                }
                _ => return,
            }
            self.folders.remove(folder);
            next = (!folder.is_empty()).then(|| parent(folder));
            if let Some(known) = next.and_then(|next| self.folders.get_mut(next)) {
                known.entries -= 1;
            }
        }
    }

    /// Forgets what nobody wanted a second time since the last time, or else half of everything
    fn make_room(&mut self) {
        let unused = |(path, kept): (&String, &Kept)| {
            (!kept.used.swap(false, Ordering::Relaxed)).then(|| path.clone())
        };
        let mut paths: Vec<String> = self.files.iter().filter_map(unused).collect();
        if paths.is_empty() {
            paths = self
                .files
                .keys()
                .take(self.files.len() / 2)
                .cloned()
                .collect();
        }
        paths.iter().for_each(|path| self.forget(path));
    }

    /// Applies all events
    fn catch_up(&mut self) {
        let mut changed = Vec::new();
        let end = {
            let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
            let mut events = Reader::new(&self.inotify, &mut buffer);
            loop {
                match events.next() {
                    Ok(event) if event.events().contains(ReadFlags::QUEUE_OVERFLOW) => {
                        break Errno::OVERFLOW;
                    }
                    Ok(event) => {
                        // A folder that was let go meanwhile has no path.
                        let Some(folder) = self.paths.get(&event.wd()) else {
                            continue;
                        };
                        changed.push(match event.file_name().map(|name| name.to_str()) {
                            None => folder.clone(),
                            Some(Ok(name)) if folder.is_empty() => name.to_owned(),
                            Some(Ok(name)) => [folder, "/", name].concat(),
                            // No key is like that.
                            Some(Err(_)) => continue,
                        });
                    }
                    Err(Errno::INTR) => {}
                    Err(errno) => break errno,
                }
            }
        };
        match end {
            Errno::AGAIN => changed.iter().for_each(|path| self.changed(path)),
            // Nobody knows what has changed.
            _ => self.forget_below(""),
        }
    }

    fn changed(&mut self, path: &str) {
        if self.folders.contains_key(path) {
            self.forget_below(path);
        } else {
            self.forget(path);
        }
    }
}

/// The folders on the way to a path, the root first
fn folders(path: &str) -> impl Iterator<Item = &str> {
    let slashes = path.match_indices('/').map(|(at, _)| &path[..at]);
    std::iter::once("").chain(slashes)
}

/// The folder that a path is in
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// What a small file has that can be reached and changed in one way only
fn read_alone(root: &File, path: &str) -> Option<Bytes> {
    let resolve = ResolveFlags::CACHED | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let file = File::from(fs::openat2(root, path, OPEN, Mode::empty(), resolve).ok()?);
    let metadata = file.metadata().ok()?;
    let is_alone = metadata.is_file() && metadata.nlink() == 1;
    is_alone.then(|| read_small(&file, LARGEST)).flatten()
}

#[cfg(test)]
mod tests {
    use std::fs as std_fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::Path;
    use std::sync::atomic::AtomicU64;
    use std::thread;

    use super::*;
    use crate::driver::{Key, Objects};
    use crate::filesystem::FileSystem;

    /// Nothing where the kernel does not tell, which is said
    fn open(root: &Path) -> Option<FileSystem> {
        let folder = FileSystem::open(root).unwrap();
        if folder.root.watched.state.is_none() {
            eprintln!("not tested: nothing is kept of this file system; use ext4, xfs or tmpfs");
            return None;
        }
        Some(folder)
    }

    fn state(folder: &FileSystem) -> RwLockWriteGuard<'_, State> {
        write(folder.root.watched.state.as_ref().unwrap())
    }

    /// Keeps it, however lately another was taken in
    fn keep(folder: &FileSystem, path: &str) -> bool {
        // A rename anywhere on the machine may make the kernel say that it would have to wait.
        (0..20).any(|_| {
            let mut state = state(folder);
            state.keep(&folder.root.fd, path);
            state.files.contains_key(path)
        })
    }

    async fn read_until_kept(folder: &FileSystem, key: &Key) {
        for _ in 0..100 {
            assert_eq!(folder.read(key, 10).await.unwrap(), "text");
            if let Some(bytes) = kept(folder, key.as_str()) {
                assert_eq!(bytes, "text");
                return;
            }
            tokio::time::sleep(PAUSE).await;
        }
        panic!("`{key}` is not kept");
    }

    fn kept(folder: &FileSystem, path: &str) -> Option<Bytes> {
        folder.root.watched.get(path, LARGEST)
    }

    #[tokio::test]
    async fn links_that_are_read_are_kept() {
        let root = tempfile::tempdir().unwrap();
        let Some(folder) = open(root.path()) else {
            return;
        };
        let key = Key::parse("a/b/link").unwrap();
        folder.write(&key, "text".into()).await.unwrap();
        read_until_kept(&folder, &key).await;
        assert_eq!(folder.read(&key, 4).await.unwrap(), "text");
        let error = folder.read(&key, 3).await.unwrap_err().to_string();
        assert!(error.contains("at most 3 bytes, found 4"), "{error}");
        // Not without end.
        if let Some(kept) = state(&folder).files.get_mut("a/b/link") {
            kept.read = Instant::now().checked_sub(TRUSTED * 2).unwrap();
        }
        assert_eq!(kept(&folder, "a/b/link"), None);
        read_until_kept(&folder, &key).await;
        assert_eq!(state(&folder).folders.len(), 3);
        let other = Key::parse("a/b/startedat").unwrap();
        state(&folder).taken_in = None;
        folder.write(&other, "text".into()).await.unwrap();
        assert_eq!(folder.read(&other, 10).await.unwrap(), "text");
        assert_eq!(kept(&folder, "a/b/startedat"), None);
    }

    #[tokio::test]
    async fn whatever_changes_it_is_seen_at_once() {
        type Change = fn(&Path);
        let changes: [(&str, Change, Option<&str>); 11] = [
            (
                "written in place",
                |root| std_fs::write(root.join("a/b/c"), "new").unwrap(),
                Some("new"),
            ),
            (
                "emptied",
                |root| drop(File::create(root.join("a/b/c")).unwrap()),
                Some(""),
            ),
            (
                "replaced",
                |root| {
                    std_fs::write(root.join("new"), "new").unwrap();
                    std_fs::rename(root.join("new"), root.join("a/b/c")).unwrap();
                },
                Some("new"),
            ),
            (
                "stored through another storage on the folder",
                |root| {
                    let other = FileSystem::open(root).unwrap();
                    let key = Key::parse("a/b/c").unwrap();
                    other.root.write(&key, b"new").unwrap();
                },
                Some("new"),
            ),
            (
                "deleted",
                |root| std_fs::remove_file(root.join("a/b/c")).unwrap(),
                None,
            ),
            (
                "renamed",
                |root| std_fs::rename(root.join("a/b/c"), root.join("a/b/d")).unwrap(),
                None,
            ),
            (
                "below a folder that was renamed",
                |root| std_fs::rename(root.join("a/b"), root.join("a/d")).unwrap(),
                None,
            ),
            (
                "below a folder that was renamed far above",
                |root| std_fs::rename(root.join("a"), root.join("d")).unwrap(),
                None,
            ),
            (
                "below a folder that was exchanged",
                |root| {
                    std_fs::create_dir_all(root.join("d/b")).unwrap();
                    std_fs::write(root.join("d/b/c"), "new").unwrap();
                    fs::renameat_with(
                        fs::CWD,
                        root.join("a"),
                        fs::CWD,
                        root.join("d"),
                        fs::RenameFlags::EXCHANGE,
                    )
                    .unwrap();
                },
                Some("new"),
            ),
            (
                "below a folder that was deleted",
                |root| std_fs::remove_dir_all(root.join("a")).unwrap(),
                None,
            ),
            (
                "below a folder that is a link now",
                |root| {
                    std_fs::rename(root.join("a"), root.join("d")).unwrap();
                    symlink("d", root.join("a")).unwrap();
                    std_fs::write(root.join("d/b/c"), "new").unwrap();
                },
                Some("new"),
            ),
        ];
        for (what, change, expected) in changes {
            let root = tempfile::tempdir().unwrap();
            let Some(folder) = open(root.path()) else {
                return;
            };
            let key = Key::parse("a/b/c").unwrap();
            folder.write(&key, "old".into()).await.unwrap();
            assert!(keep(&folder, "a/b/c"), "{what}");
            change(root.path());
            let read = folder.read(&key, 10).await.ok();
            assert_eq!(read.as_deref(), expected.map(str::as_bytes), "{what}");
        }
    }

    #[tokio::test]
    async fn what_was_renamed_is_kept_under_its_new_name() {
        let root = tempfile::tempdir().unwrap();
        let Some(folder) = open(root.path()) else {
            return;
        };
        let key = Key::parse("a/b/c").unwrap();
        folder.write(&key, "text".into()).await.unwrap();
        assert!(keep(&folder, "a/b/c"));
        std_fs::rename(root.path().join("a"), root.path().join("d")).unwrap();
        // Though nobody asks for the old one any more.
        assert!(keep(&folder, "d/b/c"));
        assert_eq!(kept(&folder, "a/b/c"), None);
        assert_eq!(kept(&folder, "d/b/c").unwrap(), "text");
    }

    #[tokio::test]
    async fn who_may_not_read_it_any_more_is_not_told() {
        let root = tempfile::tempdir().unwrap();
        let Some(folder) = open(root.path()) else {
            return;
        };
        let key = Key::parse("a/b").unwrap();
        folder.write(&key, "text".into()).await.unwrap();
        for path in ["a/b", "a", ""] {
            assert!(keep(&folder, "a/b"), "{path}");
            // Whether it can be read with that mode is for the kernel to say, who asks.
            let mode = std_fs::Permissions::from_mode(0o755);
            std_fs::set_permissions(root.path().join(path), mode).unwrap();
            assert_eq!(kept(&folder, "a/b"), None, "{path:?}");
        }
    }

    #[tokio::test]
    async fn what_can_change_unseen_is_not_kept() {
        let root = tempfile::tempdir().unwrap();
        let Some(folder) = open(root.path()) else {
            return;
        };
        let here = |path: &str| root.path().join(path);
        std_fs::create_dir(here("a")).unwrap();
        std_fs::write(here("a/large"), [b'x'; LARGEST + 1]).unwrap();
        std_fs::write(here("a/empty"), "").unwrap();
        std_fs::write(here("a/one"), "one").unwrap();
        std_fs::hard_link(here("a/one"), here("a/other")).unwrap();
        symlink("one", here("a/link")).unwrap();
        symlink("a", here("folder")).unwrap();
        for path in [
            "a/large",
            "a/empty",
            "a/one",
            "a/link",
            "folder/one",
            "a",
            "a/one/b",
            "a/absent",
            "b/absent/c",
        ] {
            assert!(!keep(&folder, path), "{path}");
            let state = state(&folder);
            assert!(state.folders.is_empty() && state.paths.is_empty(), "{path}");
        }
        std_fs::remove_file(here("a/other")).unwrap();
        assert!(keep(&folder, "a/one"));
    }

    #[tokio::test]
    async fn no_more_are_kept_than_there_is_room_for() {
        let root = tempfile::tempdir().unwrap();
        let Some(folder) = open(root.path()) else {
            return;
        };
        let paths: Vec<String> = (0..FILES + 100).map(|n| format!("a/{n}/link")).collect();
        for path in &paths {
            let path = root.path().join(path);
            std_fs::create_dir_all(path.parent().unwrap()).unwrap();
            std_fs::write(path, "text").unwrap();
        }
        let (hot, cold) = paths.split_at(10);
        for paths in hot.chunks(10).chain(cold.chunks(50)) {
            for path in paths.iter().chain(hot) {
                assert!(keep(&folder, path));
            }
        }
        {
            let mut state = state(&folder);
            assert!(state.files.len() <= FILES, "{}", state.files.len());
            assert!(hot.iter().all(|path| state.files.contains_key(path)));
            assert_eq!(state.folders.len(), state.files.len() + 2);
            assert_eq!(state.paths.len(), state.folders.len());
            // Where all are wanted, some go.
            for kept in state.files.values() {
                kept.used.store(true, Ordering::Relaxed);
            }
            state.make_room();
            assert!((1..FILES).contains(&state.files.len()));
        }
        // What is gone is not watched.
        std_fs::remove_dir_all(root.path().join("a")).unwrap();
        let mut state = state(&folder);
        state.catch_up();
        assert!(state.files.is_empty() && state.folders.is_empty() && state.paths.is_empty());
    }

    #[tokio::test]
    async fn of_more_changes_than_the_kernel_remembers_none_is_missed() {
        let root = tempfile::tempdir().unwrap();
        let Some(folder) = open(root.path()) else {
            return;
        };
        let limit = std_fs::read_to_string("/proc/sys/fs/inotify/max_queued_events").unwrap();
        let limit: usize = limit.trim().parse().unwrap();
        let key = Key::parse("a/b").unwrap();
        folder.write(&key, "old".into()).await.unwrap();
        assert!(keep(&folder, "a/b"));
        // Each is two events; that of `a/b` has no room any more.
        for number in 0..=limit / 2 {
            let path = root.path().join(format!("a/{number}"));
            drop(File::create(&path).unwrap());
            std_fs::remove_file(&path).unwrap();
        }
        std_fs::write(root.path().join("a/b"), "new").unwrap();
        assert_eq!(folder.read(&key, 10).await.unwrap(), "new");
        assert!(keep(&folder, "a/b"));
        std_fs::write(root.path().join("a/b"), "newer").unwrap();
        assert_eq!(folder.read(&key, 10).await.unwrap(), "newer");
    }

    #[test]
    fn nobody_reads_what_was_replaced_before_they_asked() {
        let root = tempfile::tempdir().unwrap();
        let Some(folder) = open(root.path()) else {
            return;
        };
        let key = Key::parse("a/b").unwrap();
        let path = root.path().join("a/b");
        std_fs::create_dir(root.path().join("a")).unwrap();
        let write = |number: u64| {
            let new = root.path().join("new");
            std_fs::write(&new, number.to_string()).unwrap();
            std_fs::rename(&new, &path).unwrap();
        };
        write(0);
        let written = AtomicU64::new(0);
        let until = Instant::now() + Duration::from_millis(500);
        let hits = AtomicU64::new(0);
        thread::scope(|scope| {
            scope.spawn(|| {
                for number in 1.. {
                    write(number);
                    written.store(number, Ordering::SeqCst);
                    if Instant::now() > until {
                        return;
                    }
                    // So that it is read from memory in between.
                    thread::sleep(Duration::from_micros(number % 7 * 50));
                }
            });
            for _ in 0..3 {
                scope.spawn(|| {
                    while Instant::now() < until {
                        let before = written.load(Ordering::SeqCst);
                        let bytes = match kept(&folder, "a/b") {
                            Some(bytes) => {
                                hits.fetch_add(1, Ordering::Relaxed);
                                bytes
                            }
                            None => match folder.root.read_cached(&key, 20) {
                                Some(read) => read.unwrap(),
                                None => folder.root.read(&key, 20).unwrap(),
                            },
                        };
                        let number: u64 = std::str::from_utf8(&bytes).unwrap().parse().unwrap();
                        assert!(number >= before, "{number} after {before}");
                        keep(&folder, "a/b");
                    }
                });
            }
        });
        assert!(written.into_inner() > 100);
        assert!(hits.into_inner() > 100);
    }
}
