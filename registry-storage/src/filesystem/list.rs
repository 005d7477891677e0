//! Listing folders, and keeping the lists of large ones
//!
//! A page of a list costs as much as reading the whole folder. So of a few large folders on
//! local file systems the sorted names are kept, and used while the folder is the same: while its
//! modification and change times are. They change whenever a name in it comes, goes or is
//! replaced, whoever does it, in the same step as far as a reader of the folder can tell: the
//! kernel lets nobody read the folder meanwhile.
//!
//! A clock ticks, and two changes within one tick (up to 10 ms, on old file systems a second)
//! leave the same time. Therefore a list is only kept if it was begun when the folder had not
//! changed for longer than that: any change since then has another time. The times are of the
//! clock of this machine, because the file system is local. If that clock is set back, a change
//! would have to fall into the very tick of the last one before to be missed.

use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{self, AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::mount::tells_of_changes;
use super::share::is_silly;
use super::{Root, TEMPORARY, failed};
use crate::driver::{Entry, Key};
use crate::error::StorageError;

/// For how long a folder must not have changed, so that its next change has another time
const SETTLED: Duration = Duration::from_secs(2);

/// From how many names on a list is kept; reading fewer takes two milliseconds at most
const LARGE: usize = 2000;

/// How many lists are kept
const KEPT: usize = 4;

/// How many bytes all kept lists have together
const BYTES: usize = 16 * 1024 * 1024;

/// Up to how many entries are taken from a kept list where they are asked for
const INLINE: usize = 2000;

/// The lists that are kept of one storage
#[derive(Debug)]
pub(super) struct Listings {
    /// The file system of the root, if its folders tell that they changed
    device: Option<u64>,
    settled: Duration,
    /// The one that was used last at the end
    kept: Mutex<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    path: String,
    state: State,
    names: Arc<Names>,
}

/// What is another when a folder is another, or has other names in it
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    /// Seconds and nanoseconds
    modified: (i64, i64),
    changed: (i64, i64),
}

/// The names in a folder, in order once they are sorted
#[derive(Debug, Default)]
struct Names {
    text: String,
    entries: Vec<Name>,
}

/// A name in the text
#[derive(Clone, Copy, Debug)]
struct Name {
    start: u32,
    length: u16,
    is_dir: bool,
}

/// The first entries of a folder after a name
struct Page<'a> {
    after: Option<&'a str>,
    limit: usize,
    entries: BTreeMap<String, bool>,
}

impl Listings {
    /// None yet, of what is below `root`
    pub(super) fn of(root: &File) -> Self {
        let metadata = root.metadata().ok().filter(|_| tells_of_changes(root));
        Self {
            device: metadata.map(|metadata| metadata.dev()),
            settled: SETTLED,
            kept: Mutex::default(),
        }
    }

    fn kept(&self) -> MutexGuard<'_, Vec<Kept>> {
        // What is guarded is nothing that a panic could leave half done.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn has(&self, path: &str) -> bool {
        self.kept().iter().any(|kept| kept.path == path)
    }

    /// The names in the folder, if they are kept and it is as it was; otherwise they are forgotten
    fn get(&self, path: &str, state: &State) -> Option<Arc<Names>> {
        let mut all = self.kept();
        let place = all.iter().position(|kept| kept.path == path)?;
        let kept = all.remove(place);
        if kept.state != *state {
            return None;
        }
        let names = kept.names.clone();
        all.push(kept);
        Some(names)
    }

    fn keep(&self, path: &str, state: State, names: Arc<Names>) {
        let mut all = self.kept();
        all.retain(|kept| kept.path != path);
        all.push(Kept {
            path: path.to_owned(),
            state,
            names,
        });
        while all.len() > KEPT || all.iter().map(|kept| kept.names.bytes()).sum::<usize>() > BYTES {
            all.remove(0);
        }
    }

    /// Whether a list that is begun now would be another if the folder changed
    fn may_keep(&self, state: &State) -> bool {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        let settled = |(seconds, nanoseconds): (i64, i64)| {
            let since = Duration::new(
                u64::try_from(seconds).unwrap_or_default(),
                u32::try_from(nanoseconds).unwrap_or_default(),
            );
            now.checked_sub(since).is_some_and(|age| age > self.settled)
        };
        self.device == Some(state.device) && settled(state.modified) && settled(state.changed)
    }
}

impl State {
    fn of(folder: &Metadata) -> Self {
        Self {
            device: folder.dev(),
            inode: folder.ino(),
            modified: (folder.mtime(), folder.mtime_nsec()),
            changed: (folder.ctime(), folder.ctime_nsec()),
        }
    }
}

impl Names {
    /// Adds a name, unless that makes them too many to be kept
    fn push(&mut self, name: &str, is_dir: bool) -> bool {
        let (Ok(start), Ok(length)) = (u32::try_from(self.text.len()), name.len().try_into())
        else {
            return false;
        };
        if self.text.len() + name.len() + (self.entries.len() + 1) * size_of::<Name>() > BYTES {
            return false;
        }
        self.text.push_str(name);
        self.entries.push(Name {
            start,
            length,
            is_dir,
        });
        true
    }

    fn sort(&mut self) {
        let text = &self.text;
        self.entries.sort_unstable_by_key(|entry| entry.of(text));
        self.text.shrink_to_fit();
        self.entries.shrink_to_fit();
    }

    fn bytes(&self) -> usize {
        self.text.capacity() + self.entries.capacity() * size_of::<Name>()
    }

    fn page(&self, after: Option<&str>, limit: usize) -> Vec<Entry> {
        let first = after.map_or(0, |after| {
            let passed = |entry: &Name| entry.of(&self.text) <= after;
            self.entries.partition_point(passed)
        });
        let page = self.entries[first..].iter().take(limit);
        page.map(|entry| Entry {
            name: entry.of(&self.text).to_owned(),
            is_dir: entry.is_dir,
        })
        .collect()
    }
}

impl Name {
    fn of(self, text: &str) -> &str {
        let start = self.start as usize;
        &text[start..start + usize::from(self.length)]
    }
}

impl<'a> Page<'a> {
    /// Whether an entry of this name is on the page, as far as is known
    fn has_room_for(&self, name: &str) -> bool {
        self.after.is_none_or(|after| name > after)
            && (self.entries.len() < self.limit
                || self
                    .entries
                    .last_key_value()
                    .is_some_and(|(last, _)| name < last.as_str()))
    }

    fn add(&mut self, name: &str, is_dir: bool) {
        if self.has_room_for(name) {
            self.entries.insert(name.to_owned(), is_dir);
            if self.entries.len() > self.limit {
                self.entries.pop_last();
            }
        }
    }

    fn into_entries(self) -> Vec<Entry> {
        let entries = self.entries.into_iter();
        entries
            .map(|(name, is_dir)| Entry { name, is_dir })
            .collect()
    }
}

impl Root {
    /// A page of a folder whose list is kept, unless that has to wait for anything but memory
    pub(super) fn list_kept(
        &self,
        folder: Option<&Key>,
        after: Option<&str>,
        limit: usize,
    ) -> Option<Vec<Entry>> {
        let path = folder?.as_str();
        if limit > INLINE || self.mount.is_remote() || !self.listings.has(path) {
            return None;
        }
        let opened = fs::openat2(
            &self.fd,
            path,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::CACHED,
        );
        let state = State::of(&File::from(opened.ok()?).metadata().ok()?);
        Some(self.listings.get(path, &state)?.page(after, limit))
    }

    pub(super) fn list(
        &self,
        folder: Option<&Key>,
        after: Option<&str>,
        limit: usize,
    ) -> Result<Vec<Entry>, StorageError> {
        let path = folder.map_or(".", Key::as_str);
        let fail = |errno| self.missed(path, errno);
        let opened = self
            .believing(path, || self.open_folder(path))
            .map_err(fail)?;
        // In a root that was deleted there is nothing to be seen, and no error either.
        if folder.is_none()
            && let error @ StorageError::Transient { .. } = self.absent(path)
        {
            return Err(error);
        }
        // Before the first name is read: what changes from now on makes it another.
        let state = match opened.metadata() {
            Ok(metadata) if folder.is_some() && !self.mount.is_remote() => {
                Some(State::of(&metadata))
            }
            _ => None,
        };
        if let Some(state) = &state
            && let Some(names) = self.listings.get(path, state)
        {
            return Ok(names.page(after, limit));
        }
        let state = state.filter(|state| self.listings.may_keep(state));

        // Of a folder whose list cannot be kept, only the page that is asked for is.
        let mut page = Page {
            after,
            limit,
            entries: BTreeMap::new(),
        };
        let mut gathered = state.is_some().then(Names::default);
        for entry in Dir::read_from(&opened).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            // Names that are not UTF-8 are no keys.
            let Ok(name) = entry.file_name().to_str() else {
                continue;
            };
            if matches!(name, "." | "..")
                || (folder.is_none() && name == TEMPORARY)
                || is_silly(name)
                || (gathered.is_none() && !page.has_room_for(name))
            {
                continue;
            }
            let told = entry.file_type();
            let is_dir = match told {
                FileType::Directory => true,
                // Not every file system tells, and a link may lead to a folder.
                FileType::Unknown | FileType::Symlink => {
                    match fs::statat(&opened, entry.file_name(), AtFlags::empty()) {
                        Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Directory,
                        // Deleted since, or a link to nowhere, which may be somewhere soon.
                        Err(Errno::NOENT) => {
                            give_up(&mut gathered, &mut page);
                            continue;
                        }
                        Err(errno) => return Err(failed(path, errno)),
                    }
                }
                _ => false,
            };
            // Where a link leads can change, and the folder that it is in stays as it is.
            if matches!(told, FileType::Unknown | FileType::Symlink) {
                give_up(&mut gathered, &mut page);
            }
            let fits = |names: &mut Names| names.push(name, is_dir);
            if !gathered.as_mut().is_some_and(fits) {
                give_up(&mut gathered, &mut page);
                page.add(name, is_dir);
            }
        }
        let (Some(state), Some(mut names)) = (state, gathered) else {
            return Ok(page.into_entries());
        };
        names.sort();
        let entries = names.page(after, limit);
        if names.entries.len() >= LARGE {
            self.listings.keep(path, state, Arc::new(names));
        }
        Ok(entries)
    }
}

/// Goes on with the page alone
fn give_up(gathered: &mut Option<Names>, page: &mut Page<'_>) {
    if let Some(names) = gathered.take() {
        for entry in &names.entries {
            page.add(entry.of(&names.text), entry.is_dir);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::super::FileSystem;
    use super::super::mount::Care;
    use super::*;
    use crate::driver::Objects;

    /// Longer than any tick, and shorter than anybody wants to wait
    const SOON: Duration = Duration::from_millis(30);

    fn open(root: &Path) -> FileSystem {
        let mut folder = FileSystem::open(root).unwrap();
        let opened = Arc::get_mut(&mut folder.root).unwrap();
        opened.listings.settled = SOON;
        if opened.listings.device.is_none() {
            eprintln!("not tested: no lists are kept here; use ext4, xfs, btrfs or tmpfs");
        }
        folder
    }

    fn key(text: &str) -> Key {
        Key::parse(text).unwrap()
    }

    fn fill(root: &Path, folder: &str, count: usize) -> Vec<String> {
        std::fs::create_dir_all(root.join(folder)).unwrap();
        let name = |index| format!("n{index:05}");
        // Not in their order.
        for index in (0..count).rev() {
            std::fs::write(root.join(folder).join(name(index)), "").unwrap();
        }
        (0..count).map(name).collect()
    }

    async fn names(folder: &FileSystem, path: &str, after: Option<&str>) -> Vec<String> {
        let all = folder.list(Some(&key(path)), after, 1_000_000).await;
        all.unwrap().into_iter().map(|entry| entry.name).collect()
    }

    fn paths(folder: &FileSystem) -> Vec<String> {
        let kept = folder.root.listings.kept();
        kept.iter().map(|kept| kept.path.clone()).collect()
    }

    #[tokio::test]
    async fn the_list_of_a_large_folder_is_kept_once_it_has_settled() {
        let root = tempfile::tempdir().unwrap();
        let folder = open(root.path());
        if folder.root.listings.device.is_none() {
            return;
        }
        let expected = fill(root.path(), "a", LARGE);
        fill(root.path(), "small", LARGE - 1);
        let path = key("a");
        // Touched now, so that it has not settled whatever the machine is doing.
        let settle = |settled| {
            let mut folder = FileSystem::open(root.path()).unwrap();
            Arc::get_mut(&mut folder.root).unwrap().listings.settled = settled;
            folder
        };
        let hasty = settle(Duration::from_secs(3600));
        assert_eq!(names(&hasty, "a", None).await, expected);
        assert!(paths(&hasty).is_empty());

        tokio::time::sleep(SOON * 2).await;
        assert!(folder.root.list_kept(Some(&path), None, 1).is_none());
        assert_eq!(names(&folder, "a", None).await, expected);
        assert_eq!(names(&folder, "small", None).await.len(), LARGE - 1);
        assert_eq!(paths(&folder), ["a"]);
        assert_eq!(names(&folder, "a", None).await, expected);
        assert_eq!(names(&folder, "a", Some("n00100")).await, expected[101..]);
        assert_eq!(names(&folder, "a", Some("z")).await, [""; 0]);
        let page = folder.list(Some(&path), Some("n00100x"), 2).await.unwrap();
        assert_eq!(page, [Entry::object("n00101"), Entry::object("n00102")]);
        match folder.root.list_kept(Some(&path), Some("n00100"), 1) {
            Some(page) => assert_eq!(page, [Entry::object("n00101")]),
            None => eprintln!("not tested: no cached opening here; use Linux 5.12"),
        }

        // What is gone or replaced is forgotten.
        std::fs::rename(root.path().join("a"), root.path().join("b")).unwrap();
        let gone = folder.list(Some(&path), None, 1).await.unwrap_err();
        assert!(gone.is_not_found());
        fill(root.path(), "a", 1);
        assert_eq!(names(&folder, "a", None).await, ["n00000"]);
        assert!(paths(&folder).is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_list_is_older_than_the_last_change() {
        let root = tempfile::tempdir().unwrap();
        // Two processes, as far as they know.
        let (one, other) = (open(root.path()), open(root.path()));
        let mut expected = fill(root.path(), "a", LARGE);
        let mut kept = 0;
        for round in 0..150_u32 {
            // Some changes come at once, some when the lists are kept, some in between.
            let pause = SOON * (round % 5) / 3;
            if round % 5 > 0 {
                tokio::time::sleep(pause).await;
            }
            for folder in [&one, &other] {
                assert_eq!(names(folder, "a", None).await, expected, "before {round}");
            }
            kept += paths(&one).len() + paths(&other).len();
            let name = format!("m{round:05}");
            if round % 3 == 0 {
                let place = round as usize % expected.len();
                let name = expected.remove(place);
                one.delete(&key("a").child(&name).unwrap()).await.unwrap();
            } else {
                let changed = if round % 2 == 0 { &one } else { &other };
                let added = key("a").child(&name).unwrap();
                changed.write(&added, "".into()).await.unwrap();
                let place = expected.partition_point(|other| *other < name);
                expected.insert(place, name);
            }
            for folder in [&other, &one] {
                assert_eq!(names(folder, "a", None).await, expected, "after {round}");
            }
        }
        // Otherwise nothing was tested.
        assert!(kept > 20 || one.root.listings.device.is_none(), "{kept}");
    }

    #[tokio::test]
    async fn readers_at_the_same_time_see_what_was_there_when_they_began() {
        let root = tempfile::tempdir().unwrap();
        let folder = open(root.path());
        fill(root.path(), "a", LARGE);
        let added = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let writer = std::thread::spawn({
            let (added, root) = (added.clone(), root.path().join("a"));
            move || {
                for index in 0..200 {
                    std::fs::write(root.join(format!("z{index:05}")), "").unwrap();
                    added.store(index + 1, std::sync::atomic::Ordering::SeqCst);
                    // Long enough for lists to be kept at times.
                    std::thread::sleep(SOON * (index as u32 % 7) / 4);
                }
            }
        });
        while !writer.is_finished() {
            let begun = added.load(std::sync::atomic::Ordering::SeqCst);
            let seen = names(&folder, "a", Some("z")).await.len();
            let now = added.load(std::sync::atomic::Ordering::SeqCst);
            // One may be written and not yet counted.
            assert!((begun..=now + 1).contains(&seen), "{begun} {seen} {now}");
        }
        writer.join().unwrap();
        assert_eq!(names(&folder, "a", Some("z")).await.len(), 200);
    }

    #[tokio::test]
    async fn what_can_change_unseen_is_not_kept() {
        let root = tempfile::tempdir().unwrap();
        let mut folder = open(root.path());
        let mut expected = fill(root.path(), "links", LARGE);
        fill(root.path(), "top", LARGE);
        std::fs::create_dir(root.path().join("elsewhere")).unwrap();
        symlink("../elsewhere", root.path().join("links/n01000x")).unwrap();
        expected.insert(1001, "n01000x".to_owned());
        tokio::time::sleep(SOON * 2).await;
        let links = key("links");
        let link = || folder.list(Some(&links), Some("n01000"), 1);
        assert_eq!(names(&folder, "links", None).await, expected);
        assert_eq!(link().await.unwrap(), [Entry::folder("n01000x")]);
        std::fs::remove_dir(root.path().join("elsewhere")).unwrap();
        assert_eq!(link().await.unwrap(), [Entry::object("n01001")]);
        std::fs::write(root.path().join("elsewhere"), "").unwrap();
        assert_eq!(link().await.unwrap(), [Entry::object("n01000x")]);
        assert!(paths(&folder).is_empty());

        for care in [Care::Remote, Care::Nfs] {
            Arc::get_mut(&mut folder.root).unwrap().mount.care = care;
            assert_eq!(names(&folder, "top", None).await.len(), LARGE);
            assert!(paths(&folder).is_empty());
        }
    }

    #[test]
    fn few_lists_are_kept_and_not_too_large_ones() {
        let root = tempfile::tempdir().unwrap();
        let folder = open(root.path());
        let listings = &folder.root.listings;
        let state = State::of(&folder.root.fd.metadata().unwrap());
        let long = "x".repeat(200);
        let names = |count: usize| {
            let mut names = Names::default();
            let all = (0..count).all(|index| names.push(&format!("{index}{long}"), false));
            names.sort();
            (Arc::new(names), all)
        };
        let (small, _) = names(10);
        for path in ["a", "b", "c", "d", "e"] {
            listings.keep(path, state, small.clone());
        }
        assert_eq!(paths(&folder), ["b", "c", "d", "e"]);
        assert!(listings.get("b", &state).is_some());
        listings.keep("f", state, small);
        assert_eq!(paths(&folder), ["d", "e", "b", "f"]);
        let (large, all) = names(40_000);
        assert!(all && large.bytes() > BYTES / 2 && large.bytes() <= BYTES);
        listings.keep("g", state, large.clone());
        assert_eq!(paths(&folder), ["e", "b", "f", "g"]);
        listings.keep("h", state, large);
        assert_eq!(paths(&folder), ["h"]);
        let (full, all) = names(100_000);
        assert!(!all && full.bytes() <= BYTES);
    }
}
