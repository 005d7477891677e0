//! What two registries on one share owe each other, through the memories of two machines
//!
//! `REGISTRY_SHARES` names two mounts of one share, separated by a colon, each of another client,
//! the first of them this process's own.
//! Without it both are one folder of this machine, which has nothing to put right: the rules
//! hold there too, and so the tests are known to be right. See `examples/tests/nfs`.

use std::env;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use futures::TryStreamExt;
use registry_core::Digest;
use registry_storage::{Append, FileSystem, Key, Objects, Uploads, suite};

/// How often what depends on time is tried; few, because an emulated machine is slow
const ROUNDS: usize = 7;

/// Two drivers on one share; the folder goes with the guard
struct Share {
    one: FileSystem,
    other: FileSystem,
    _root: tempfile::TempDir,
}

impl Share {
    fn open() -> Self {
        let Some(shares) = env::var_os("REGISTRY_SHARES") else {
            let root = tempfile::tempdir().unwrap();
            return Self {
                one: FileSystem::open(root.path()).unwrap(),
                other: FileSystem::open(root.path()).unwrap(),
                _root: root,
            };
        };
        let mounts: Vec<PathBuf> = env::split_paths(&shares).collect();
        let [one, other] = &*mounts else {
            panic!("REGISTRY_SHARES: expected two folders separated by a colon, got {shares:?}");
        };
        let root = tempfile::tempdir_in(one).unwrap();
        let name = root.path().file_name().unwrap();
        // The other machine must see what is new there for all that it remembers.
        let below = other.join(name);
        assert!(std::fs::read_dir(other).is_ok());
        Self {
            one: FileSystem::open(root.path()).unwrap(),
            other: FileSystem::open(&below).unwrap(),
            _root: root,
        }
    }

    /// Both ways round
    fn pairs(&self) -> [(&FileSystem, &FileSystem); 2] {
        [(&self.one, &self.other), (&self.other, &self.one)]
    }
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

/// The key that a blob of these bytes has
fn blob(bytes: &[u8]) -> Key {
    let hex = Digest::sha256(bytes).hex().to_string();
    key(&format!(
        "docker/registry/v2/blobs/sha256/{}/{hex}/data",
        &hex[..2]
    ))
}

fn pattern(length: usize, seed: u8) -> Bytes {
    (0..length).map(|at| (at % 251) as u8 ^ seed).collect()
}

async fn add(append: &mut dyn Append, bytes: &Bytes) {
    append.write(bytes.clone()).await.unwrap();
    append.sync().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shared_suite_passes() {
    let share = Share::open();
    eprintln!("on {} and {}", share.one.mount(), share.other.mount());
    for (one, other) in share.pairs() {
        suite::run_shared(Arc::new(one.clone()), Arc::new(other.clone())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_suite_passes() {
    let share = Share::open();
    suite::run(Arc::new(share.other.clone())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_found_is_found_when_the_other_has_stored_it() {
    let share = Share::open();
    for (way, (one, other)) in share.pairs().into_iter().enumerate() {
        for round in 0..ROUNDS {
            // In a folder that is there, in one that is new, and in new ones in a new one.
            for path in ["known/FILE", "new-FILE/link", "a-FILE/b/c/d/link"] {
                let path = key(&path.replace("FILE", &format!("{way}-{round}")));
                let folder = key(path.parent().unwrap());
                assert!(other.read(&path, 10).await.unwrap_err().is_not_found());
                assert!(other.stat(&path).await.unwrap_err().is_not_found());
                assert!(other.progress(&path).await.unwrap_err().is_not_found());
                assert!(other.reopen(&path).await.unwrap_err().is_not_found());
                let _ = other.list(Some(&folder), None, 10).await;
                one.write(&path, "x".into()).await.unwrap();
                match round % 7 {
                    0 => assert_eq!(other.read(&path, 10).await.unwrap(), "x", "{path}"),
                    1 => assert_eq!(other.stat(&path).await.unwrap().size, 1, "{path}"),
                    2 => assert_eq!(other.progress(&path).await.unwrap().size, 1, "{path}"),
                    3 => assert_eq!(other.reopen(&path).await.unwrap().size(), 1, "{path}"),
                    4 => {
                        let names = other.list(Some(&folder), None, 1000).await.unwrap();
                        assert!(
                            names.iter().any(|entry| entry.name == path.name()),
                            "{path}"
                        );
                    }
                    5 => other.delete(&path).await.unwrap(),
                    _ => {
                        other.delete_tree(&path).await.unwrap();
                        assert!(one.read(&path, 10).await.unwrap_err().is_not_found());
                    }
                }
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_replaced_is_read_anew() {
    let share = Share::open();
    for (one, other) in share.pairs() {
        let path = key("tag/current/link");
        for round in 0..ROUNDS {
            // Of the same size: nothing but the content tells them apart.
            let value = Bytes::from(format!("{round:04}"));
            one.write(&path, value.clone()).await.unwrap();
            assert_eq!(other.read(&path, 10).await.unwrap(), value);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_deleted_is_gone_also_while_someone_has_it_open() {
    let share = Share::open();
    let path = key("tags/v1/current/link");
    let tree = key("tags/v1");
    for (one, other) in share.pairs() {
        for round in 0..ROUNDS {
            one.write(&path, "x".into()).await.unwrap();
            assert_eq!(other.read(&path, 10).await.unwrap(), "x");
            assert_eq!(one.read(&path, 10).await.unwrap(), "x");
            let held = match round % 3 {
                0 => None,
                1 => Some(other.stream(&path, None).await.unwrap()),
                _ => Some(one.stream(&path, None).await.unwrap()),
            };
            one.delete(&path).await.unwrap();
            for driver in [other, one] {
                let error = driver.read(&path, 10).await.unwrap_err();
                assert!(error.is_not_found(), "round {round}: {error}");
                assert!(driver.stat(&path).await.unwrap_err().is_not_found());
            }
            one.delete_tree(&tree).await.unwrap();
            for driver in [other, one] {
                let listed = driver.list(Some(&tree), None, 10).await;
                assert!(listed.unwrap_err().is_not_found(), "round {round}");
            }
            drop(held);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_stored_where_the_other_deleted_stays() {
    let share = Share::open();
    let (path, tree) = (key("tags/v1/current/link"), key("tags/v1"));
    for round in 0..ROUNDS {
        let [(one, other), _] = share.pairs();
        one.write(&path, "old".into()).await.unwrap();
        assert_eq!(other.read(&path, 10).await.unwrap(), "old");
        one.delete_tree(&tree).await.unwrap();
        other.write(&path, "new".into()).await.unwrap();
        for driver in [one, other] {
            assert_eq!(driver.read(&path, 10).await.unwrap(), "new", "{round}");
        }
        other.delete(&path).await.unwrap();
        other.delete_tree(&tree).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_stored_again_is_read_to_its_end() {
    let share = Share::open();
    let bytes = pattern(3 * 1024 * 1024 + 7, 1);
    let path = blob(&bytes);
    for (one, other) in share.pairs() {
        other.write(&path, bytes.clone()).await.unwrap();
        let (size, mut stream) = one.stream(&path, None).await.unwrap();
        assert_eq!(size, bytes.len() as u64);
        let mut read = BytesMut::from(&*stream.try_next().await.unwrap().unwrap());
        assert!(read.len() < bytes.len());
        for writer in [other, one, other] {
            writer.write(&path, bytes.clone()).await.unwrap();
        }
        while let Some(part) = stream.try_next().await.unwrap() {
            read.extend_from_slice(&part);
        }
        assert!(read == bytes, "the blob as it was written");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_replaced_again_and_again_is_always_there_and_never_older() {
    let share = Share::open();
    let path = key("tags/hot/current/link");
    share.one.write(&path, "0".into()).await.unwrap();
    let (written, done) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let readers: Vec<_> = [&share.one, &share.other, &share.other]
        .into_iter()
        .map(|driver| {
            let (driver, path) = (driver.clone(), path.clone());
            let (written, done) = (written.clone(), done.clone());
            tokio::spawn(async move {
                loop {
                    let last = done.load(Ordering::SeqCst);
                    let least = written.load(Ordering::SeqCst);
                    let text = driver.read(&path, 20).await.unwrap();
                    let value: usize = std::str::from_utf8(&text).unwrap().parse().unwrap();
                    assert!(value >= least, "read {value} after {least} was stored");
                    if last {
                        break;
                    }
                    tokio::task::yield_now().await;
                }
            })
        })
        .collect();
    for value in 1..=5 * ROUNDS {
        let driver = [&share.one, &share.other][value / 5 % 2];
        driver.write(&path, value.to_string().into()).await.unwrap();
        written.store(value, Ordering::SeqCst);
    }
    done.store(true, Ordering::SeqCst);
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_goes_to_and_fro() {
    let share = Share::open();
    for (way, (one, other)) in share.pairs().into_iter().enumerate() {
        let path = key(&format!("uploads/{way}/data"));
        assert!(other.progress(&path).await.unwrap_err().is_not_found());
        drop(one.append(&path).await.unwrap());
        let mut content = BytesMut::new();
        for round in 0..ROUNDS {
            let (writer, reader) = if round % 2 == 0 {
                (other, one)
            } else {
                (one, other)
            };
            assert_eq!(
                writer.progress(&path).await.unwrap().size,
                content.len() as u64
            );
            let mut append = writer.reopen(&path).await.unwrap();
            assert_eq!(append.size(), content.len() as u64, "in round {round}");
            assert!(reader.reopen(&path).await.unwrap_err().is_busy());
            // Of all sizes, and not at the borders of pages.
            let bytes = pattern(1 + round * 3001, (round + 100 * way) as u8);
            add(&mut *append, &bytes).await;
            content.extend_from_slice(&bytes);
            assert_eq!(
                reader.progress(&path).await.unwrap().size,
                content.len() as u64
            );
        }
        let target = blob(&content);
        assert!(other.stat(&target).await.unwrap_err().is_not_found());
        let mut append = one.reopen(&path).await.unwrap();
        let read: BytesMut = append.content().await.unwrap().try_collect().await.unwrap();
        assert!(read == content, "the upload before it is published");
        append.publish(&target).await.unwrap();
        for driver in [other, one] {
            assert!(driver.reopen(&path).await.unwrap_err().is_not_found());
            assert!(driver.progress(&path).await.unwrap_err().is_not_found());
            let (_, stream) = driver.stream(&target, None).await.unwrap();
            let read: BytesMut = stream.try_collect().await.unwrap();
            assert!(read == content, "the blob as it was uploaded");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_writes_into_what_the_other_has_published() {
    let share = Share::open();
    for round in 0..ROUNDS {
        let [(one, other), _] = share.pairs();
        let path = key(&format!("uploads/{round}/data"));
        let bytes = pattern(1000, round as u8);
        let target = blob(&bytes);
        let mut append = one.append(&path).await.unwrap();
        add(&mut *append, &bytes).await;
        // It is known there by name and content.
        assert_eq!(other.progress(&path).await.unwrap().size, 1000);
        let waiting = tokio::spawn({
            let (other, path) = (other.clone(), path.clone());
            async move {
                loop {
                    match other.reopen(&path).await {
                        Err(error) if error.is_busy() => {}
                        opened => return opened.map(drop),
                    }
                }
            }
        });
        append.publish(&target).await.unwrap();
        drop(append);
        assert!(waiting.await.unwrap().unwrap_err().is_not_found());
        assert_eq!(other.read(&target, 2000).await.unwrap(), bytes);
    }
}

#[test]
fn a_share_is_known_by_its_mount() {
    let share = Share::open();
    let mount = share.one.mount();
    if env::var_os("REGISTRY_SHARES").is_some() {
        assert!(mount.is_nfs() && share.other.mount().is_nfs(), "{mount}");
        let told = mount.to_string();
        assert!(told.starts_with("nfs") && told.contains("vers="), "{told}");
    }
    assert_eq!(mount.warnings(), []);
}
