//! What a purge of uploads removes, and what it leaves alone

mod support;

use std::fmt::Debug;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{Stream, stream};
use registry_core::upload::{ChunkHeader, UploadId};
use registry_core::{Algorithm, Digest, RepositoryName};
use registry_storage::{
    AppendError, CompleteUploadError, Driver, FileSystem, Key, Memory, Objects, PurgeOptions,
    PurgeReport, Store, Upload, UploadError,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Of any age
fn all() -> PurgeOptions {
    PurgeOptions::default().with_older_than(Duration::ZERO)
}

fn name(text: &str) -> RepositoryName {
    RepositoryName::try_from(text).unwrap()
}

fn body(bytes: &'static [u8]) -> impl Stream<Item = Result<Bytes, String>> + Send + Unpin {
    stream::iter([Ok(Bytes::from_static(bytes))])
}

async fn upload(store: &Store, repository: &str, bytes: &'static [u8]) -> Upload {
    let name = name(repository);
    let started = store.start_upload(&name, Algorithm::Sha256);
    let mut upload = started.await.unwrap();
    let appended = upload.append(ChunkHeader::default(), body(bytes));
    appended.await.unwrap();
    upload
}

fn key(repository: &str, id: &UploadId, file: &str) -> Key {
    let folder = format!("docker/registry/v2/repositories/{repository}/_uploads/{id}");
    let key = Key::parse(&folder).unwrap();
    match file {
        "" => key,
        file => key.child(file).unwrap(),
    }
}

/// Makes an upload begin some time ago, as far as the driver keeps that
async fn age<D: Driver>(driver: &D, repository: &str, id: &UploadId, age: Duration) {
    let started = jiff_text(SystemTime::now() - age);
    support::set_began(driver, &key(repository, id, ""), &started).await;
}

fn jiff_text(time: SystemTime) -> String {
    let time = jiff::Timestamp::try_from(time).unwrap();
    format!("{time:.0}")
}

fn counts(report: &PurgeReport) -> [u64; 5] {
    let purged: Vec<_> = report.purged.iter().map(|purged| purged.bytes).collect();
    assert_eq!(purged.len() as u64, report.removed);
    assert_eq!(purged.iter().sum::<u64>(), report.bytes);
    assert_eq!(report.errors.len() as u64, report.failed, "{report:?}");
    [
        report.sessions,
        report.removed,
        report.bytes,
        report.in_use,
        report.failed,
    ]
}

fn is_unknown<T: Debug>(result: Result<T, UploadError>) -> bool {
    matches!(result, Err(UploadError::Unknown { .. }))
}

/// Runs one test on each driver
macro_rules! on_every_driver {
    ($($test:ident),+ $(,)?) => {
        mod on_a_folder {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                let root = tempfile::tempdir().unwrap();
                let driver = super::FileSystem::open(root.path()).unwrap();
                super::$test(std::sync::Arc::new(driver)).await;
            })+
        }
        mod in_memory {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $test() {
                super::$test(std::sync::Arc::new(super::Memory::new())).await;
            })+
        }
        /// One after the other, on one server of each kind
        #[cfg(feature = "object-stores")]
        mod in_a_bucket {
            use super::support::{Kind, Server};

            async fn of(kind: Kind) {
                let Some(server) = Server::start(kind) else { return };
                $(
                    eprintln!("{}", stringify!($test));
                    let bucket = server.bucket("purge", stringify!($test));
                    bucket.probe().await.unwrap();
                    super::$test(std::sync::Arc::new(bucket)).await;
                )+
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_moto() {
                of(Kind::Moto).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_garage() {
                of(Kind::Garage).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_localstack() {
                of(Kind::LocalStack).await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn of_azurite() {
                of(Kind::Azurite).await;
            }
        }
    };
}

on_every_driver!(
    old_uploads_go_wherever_they_are,
    a_dry_run_changes_nothing,
    an_upload_that_got_bytes_lately_stays,
    an_upload_that_is_held_open_stays,
    a_resumed_upload_is_whole_or_unknown,
    several_purges_at_once_remove_each_upload_once,
    strangers_are_left_alone,
    uploads_live_as_long_as_they_are_told,
);

async fn old_uploads_go_wherever_they_are<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    assert_eq!(counts(&store.purge_uploads(&all()).await), [0; 5]);
    let mut uploads = Vec::new();
    // Repositories in repositories, and names of folders that a repository has too.
    for repository in ["a", "a/b", "a/b/c/d", "uploads/blobs", "z"] {
        uploads.push((repository, upload(&store, repository, b"12345").await.id()));
    }
    let kept = upload(&store, "a", b"kept").await;
    let digest = Digest::sha256(b"kept");
    kept.complete(digest).await.unwrap();

    let report = store.purge_uploads(&PurgeOptions::default()).await;
    assert_eq!(counts(&report), [5, 0, 0, 0, 0]);
    let report = store.purge_uploads(&all()).await;
    assert_eq!(counts(&report), [5, 5, 25, 0, 0]);
    for (repository, id) in uploads {
        let repository = name(repository);
        let purged = report.purged.iter().find(|purged| purged.id == id);
        assert_eq!(purged.unwrap().name, repository);
        assert!(is_unknown(store.open_upload(&repository, &id).await));
    }
    assert_eq!(store.stat_blob(&name("a"), &digest).await.unwrap(), 4);
    assert_eq!(counts(&store.purge_uploads(&all()).await), [0; 5]);
}

async fn a_dry_run_changes_nothing<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver);
    let id = upload(&store, "a", b"12345").await.id();
    let dry = all().with_dry_run(true);
    for _ in 0..2 {
        assert_eq!(counts(&store.purge_uploads(&dry).await), [1, 1, 5, 0, 0]);
    }
    let opened = store.open_upload(&name("a"), &id).await.unwrap();
    assert_eq!(opened.offset(), 5);
}

async fn an_upload_that_got_bytes_lately_stays<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver.clone()).with_upload_lifetime(None);
    let id = upload(&store, "a", b"12345").await.id();
    age(&*driver, "a", &id, 30 * DAY).await;
    let report = store.purge_uploads(&PurgeOptions::default()).await;
    assert_eq!(counts(&report), [1, 0, 0, 1, 0]);
    let opened = store.open_upload(&name("a"), &id).await.unwrap();
    assert_eq!(opened.offset(), 5);
}

async fn an_upload_that_is_held_open_stays<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver.clone());
    let id = upload(&store, "a", b"12345").await.id();
    let held = driver.reopen(&key("a", &id, "data")).await.unwrap();
    assert_eq!(counts(&store.purge_uploads(&all()).await), [1, 0, 0, 1, 0]);
    drop(held);
    assert_eq!(counts(&store.purge_uploads(&all()).await), [1, 1, 5, 0, 0]);
}

async fn a_resumed_upload_is_whole_or_unknown<D: Driver>(driver: Arc<D>) {
    let mut ended = 0;
    for _ in 0..40 {
        let store = Store::new(driver.clone());
        let id = upload(&store, "a", b"12345").await.id();
        let purging = {
            let store = store.clone();
            tokio::spawn(async move { store.purge_uploads(&all()).await })
        };
        let repository = name("a");
        let digest = Digest::sha256(b"1234567");
        let finished = match store.open_upload(&repository, &id).await {
            Ok(upload) => {
                let header = ChunkHeader::default();
                upload
                    .append_and_complete(header, body(b"67"), digest)
                    .await
            }
            Err(UploadError::Unknown { .. }) => Err(AppendError::Unknown { id }.into()),
            Err(error) => panic!("{error}"),
        };
        let report = purging.await.unwrap();
        assert_eq!(report.failed, 0, "{report:?}");
        match finished {
            Ok(()) => {
                assert_eq!(store.stat_blob(&repository, &digest).await.unwrap(), 7);
                // At most the empty session, whose bytes were a blob by then.
                assert_eq!(report.bytes, 0);
                store.delete_blob(&repository, &digest).await.unwrap();
            }
            Err(CompleteUploadError::Append(AppendError::Unknown { .. })) => {
                ended += 1;
                assert_eq!(report.removed, 1);
            }
            // It holds the lock, and has not ended the session yet: another try says so.
            Err(CompleteUploadError::Append(AppendError::Storage(error))) if error.is_busy() => {
                assert_eq!(report.removed, 1);
            }
            Err(error) => panic!("{error:?}"),
        }
        assert!(is_unknown(store.open_upload(&repository, &id).await));
        let folder = key("a", &id, "");
        let left = driver.list(Some(&folder), None, 10).await;
        assert!(left.unwrap_err().is_not_found());
    }
    eprintln!("{ended} of 40 uploads were purged first");
}

async fn several_purges_at_once_remove_each_upload_once<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver.clone());
    for number in 0..20 {
        upload(&store, &format!("r{number}"), b"12345").await;
    }
    let purges = (0..4).map(|_| {
        let store = Store::new(driver.clone());
        tokio::spawn(async move { store.purge_uploads(&all()).await })
    });
    let mut ids = Vec::new();
    for purge in purges.collect::<Vec<_>>() {
        let report = purge.await.unwrap();
        assert_eq!(report.failed, 0, "{report:?}");
        ids.extend(report.purged.into_iter().map(|purged| purged.id));
    }
    ids.sort_by_key(ToString::to_string);
    let count = ids.len();
    ids.dedup();
    assert_eq!((ids.len(), count), (20, 20));
}

async fn strangers_are_left_alone<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver.clone());
    let root = "docker/registry/v2/repositories";
    let old = "2001-01-01T00:00:00Z";
    let strangers = [
        // No ids, or not written as any registry writes them.
        format!("{root}/a/_uploads/note"),
        format!("{root}/a/_uploads/folder/startedat"),
        format!("{root}/a/_uploads/8CD5B4E7-9B0F-4D3A-8F6C-2F5F6F0F0A11/startedat"),
        // No repositories.
        format!("{root}/_uploads/8cd5b4e7-9b0f-4d3a-8f6c-2f5f6f0f0a11/startedat"),
        format!("{root}/A/_uploads/8cd5b4e7-9b0f-4d3a-8f6c-2f5f6f0f0a11/startedat"),
        format!("{root}/a/_layers/_uploads/8cd5b4e7-9b0f-4d3a-8f6c-2f5f6f0f0a11/startedat"),
    ];
    for stranger in &strangers {
        let key = Key::parse(stranger).unwrap();
        driver.write(&key, old.into()).await.unwrap();
    }
    assert_eq!(counts(&store.purge_uploads(&all()).await), [0; 5]);
    for stranger in &strangers {
        driver.stat(&Key::parse(stranger).unwrap()).await.unwrap();
    }
}

async fn uploads_live_as_long_as_they_are_told<D: Driver>(driver: Arc<D>) {
    let store = Store::new(driver.clone());
    let id = upload(&store, "a", b"12345").await.id();
    age(&*driver, "a", &id, 10 * DAY).await;
    let repository = name("a");
    let for_ever = store.clone().with_upload_lifetime(None);
    assert_eq!(
        for_ever
            .open_upload(&repository, &id)
            .await
            .unwrap()
            .offset(),
        5
    );
    let longer = store.clone().with_upload_lifetime(Some(11 * DAY));
    assert_eq!(
        longer.open_upload(&repository, &id).await.unwrap().offset(),
        5
    );
    assert!(is_unknown(store.open_upload(&repository, &id).await));
    assert!(is_unknown(for_ever.open_upload(&repository, &id).await));
}

/// A folder whose files can be made older than they are
struct Old {
    root: tempfile::TempDir,
    driver: Arc<FileSystem>,
    store: Store,
}

impl Old {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let driver = Arc::new(FileSystem::open(root.path()).unwrap());
        let store = Store::new(driver.clone());
        Self {
            root,
            driver,
            store,
        }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.path().join(key.as_str())
    }

    /// Makes every file of an upload so old
    fn touch(&self, id: &UploadId, age: Duration) {
        fn below(folder: &Path, time: SystemTime) {
            for entry in std::fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    below(&path, time);
                } else {
                    let file = std::fs::File::options().write(true).open(path).unwrap();
                    file.set_modified(time).unwrap();
                }
            }
        }
        below(&self.path(&key("a", id, "")), SystemTime::now() - age);
    }

    fn remove(&self, id: &UploadId, file: &str) {
        std::fs::remove_file(self.path(&key("a", id, file))).unwrap();
    }

    async fn purge(&self) -> [u64; 5] {
        counts(&self.store.purge_uploads(&PurgeOptions::default()).await)
    }
}

#[tokio::test]
async fn a_session_of_distribution_goes_by_its_date() {
    let old = Old::new();
    let id = upload(&old.store, "a", b"12345").await.id();
    // With offset and fraction, as Go writes dates too.
    let started = key("a", &id, "startedat");
    let date = "2016-03-09T12:01:02.5+01:00";
    old.driver.write(&started, date.into()).await.unwrap();
    assert_eq!(old.purge().await, [1, 0, 0, 1, 0]);
    old.touch(&id, Duration::from_secs(2 * 60 * 60));
    let report = old.store.purge_uploads(&PurgeOptions::default()).await;
    assert_eq!(counts(&report), [1, 1, 5, 0, 0]);
    let started = jiff_text(report.purged[0].started);
    assert_eq!(started, "2016-03-09T11:01:02Z");
}

#[tokio::test]
async fn a_young_session_stays_whatever_its_files_say() {
    let old = Old::new();
    let id = upload(&old.store, "a", b"12345").await.id();
    old.touch(&id, 30 * DAY);
    assert_eq!(old.purge().await, [1, 0, 0, 0, 0]);
    // One from the future is not old either.
    let date = jiff_text(SystemTime::now() + DAY);
    let started = key("a", &id, "startedat");
    old.driver.write(&started, date.into()).await.unwrap();
    old.touch(&id, 30 * DAY);
    assert_eq!(
        counts(&old.store.purge_uploads(&all()).await),
        [1, 0, 0, 0, 0]
    );
}

#[tokio::test]
async fn an_unreadable_date_is_as_old_as_its_file() {
    let old = Old::new();
    for date in ["", "yesterday", "\u{0}", &"9".repeat(5000)] {
        let id = upload(&old.store, "a", b"12345").await.id();
        let started = key("a", &id, "startedat");
        let written = date.to_owned().into_bytes();
        old.driver.write(&started, written.into()).await.unwrap();
        old.touch(&id, 6 * DAY);
        assert_eq!(old.purge().await, [1, 0, 0, 0, 0], "{date:?}");
        old.touch(&id, 8 * DAY);
        assert_eq!(old.purge().await, [1, 1, 5, 0, 0], "{date:?}");
    }
}

#[tokio::test]
async fn what_a_killed_process_left_goes_when_it_is_old() {
    let old = Old::new();
    for left in [&["startedat"][..], &["data"], &["startedat", "data"]] {
        let id = upload(&old.store, "a", b"12345").await.id();
        for file in left {
            old.remove(&id, file);
        }
        let is_session = !left.contains(&"startedat");
        let bytes = if left.contains(&"data") { 0 } else { 5 };
        // A session that is just being made looks like this too.
        let young = counts(&old.store.purge_uploads(&all().with_dry_run(true)).await);
        let removed = u64::from(is_session);
        assert_eq!(young, [1, removed, removed * bytes, 0, 0], "{left:?}");
        old.touch(&id, 6 * DAY);
        assert_eq!(old.purge().await, [1, 0, 0, 0, 0], "{left:?}");
        old.touch(&id, 8 * DAY);
        if is_session {
            age(&*old.driver, "a", &id, 8 * DAY).await;
            old.touch(&id, 8 * DAY);
        }
        assert_eq!(old.purge().await, [1, 1, bytes, 0, 0], "{left:?}");
        assert!(!old.path(&key("a", &id, "")).exists());
    }
    let empty = key("a", &UploadId::from_random_bytes([7; 16]), "");
    std::fs::create_dir_all(old.path(&empty)).unwrap();
    assert_eq!(
        counts(&old.store.purge_uploads(&all()).await),
        [1, 0, 0, 0, 0]
    );
    assert!(old.path(&empty).exists());
}

#[tokio::test]
async fn a_failure_is_reported_and_the_rest_goes_on() {
    let old = Old::new();
    let mut ids = Vec::new();
    for repository in ["a", "b", "c"] {
        ids.push(upload(&old.store, repository, b"12345").await.id());
    }
    // A link to itself, which no system opens, for its date.
    let started = old.path(&key("b", &ids[1], "startedat"));
    std::fs::remove_file(&started).unwrap();
    std::os::unix::fs::symlink("startedat", &started).unwrap();
    let report = old.store.purge_uploads(&all()).await;
    assert_eq!(counts(&report), [3, 2, 10, 0, 1]);
    assert!(report.errors[0].key().ends_with("/startedat"), "{report:?}");
    assert!(started.symlink_metadata().is_ok());
}
