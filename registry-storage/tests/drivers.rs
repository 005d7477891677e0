//! The shared suite on the drivers of this crate, and what is a folder's alone

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use registry_storage::{
    Append, Entry, FileSystem, Key, Measured, Memory, Objects, OpenError, StorageError,
    StorageObserver, StorageReport, Uploads, suite,
};
use tempfile::TempDir;

fn folder() -> (TempDir, FileSystem) {
    let root = tempfile::tempdir().unwrap();
    let folder = FileSystem::open(root.path()).unwrap();
    (root, folder)
}

fn key(text: &str) -> Key {
    Key::parse(text).unwrap()
}

fn temporary_files(root: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(root.path().join("_tmp")).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

async fn open_when_free(folder: &FileSystem, upload: &Key) -> Box<dyn Append> {
    loop {
        match folder.append(upload).await {
            Err(StorageError::Busy { .. }) => tokio::task::yield_now().await,
            opened => return opened.unwrap(),
        }
    }
}

/// Whether permissions bind whoever runs the tests
fn permissions_bind(root: &TempDir) -> bool {
    let probe = root.path().join("probe");
    fs::write(&probe, "").unwrap();
    fs::set_permissions(&probe, Permissions::from_mode(0o000)).unwrap();
    let binds = File::open(&probe).is_err();
    fs::remove_file(&probe).unwrap();
    if !binds {
        eprintln!("not tested: permissions do not bind root; run the tests as another user");
    }
    binds
}

#[tokio::test(flavor = "multi_thread")]
async fn a_measured_folder_passes_the_suite() {
    #[derive(Debug, Default)]
    struct Calls(AtomicU64);

    impl StorageObserver for Calls {
        fn called(&self, _: &StorageReport) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    let (_root, folder) = folder();
    let calls = Arc::new(Calls::default());
    suite::run(Arc::new(Measured::new(folder, calls.clone()))).await;
    assert!(calls.0.load(Ordering::Relaxed) > 100);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_passes_the_suite() {
    let (root, folder) = folder();
    suite::run(Arc::new(folder.clone())).await;
    // And again, on what the first run left.
    suite::run(Arc::new(folder)).await;
    assert_eq!(temporary_files(&root), [""; 0]);
}

#[tokio::test]
async fn a_folder_passes_the_suite_on_one_thread() {
    let (_root, folder) = folder();
    suite::run(Arc::new(folder)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_passes_the_suite() {
    let memory = Memory::new();
    suite::run(Arc::new(memory.clone())).await;
    suite::run(Arc::new(memory)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_may_share_a_folder() {
    let (root, one) = folder();
    // Nothing is shared between the two but the folder, as if they were two processes.
    let other = FileSystem::open(root.path()).unwrap();
    suite::run_shared(Arc::new(one.clone()), Arc::new(other.clone())).await;
    suite::run_shared(Arc::new(other), Arc::new(one)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clones_of_a_memory_are_one() {
    let memory = Memory::new();
    suite::run_shared(Arc::new(memory.clone()), Arc::new(memory)).await;
}

#[tokio::test]
async fn bytes_and_paths_are_as_given() {
    let (root, folder) = folder();
    let path = key("docker/registry/v2/x/link");
    folder.write(&path, "sha256:0".into()).await.unwrap();
    let found = fs::read(root.path().join(path.as_str())).unwrap();
    assert_eq!(found, b"sha256:0");
    let mut append = folder.append(&key("up/data")).await.unwrap();
    append.write("abc".into()).await.unwrap();
    // Without a sync: what is small is there for other processes at once.
    assert_eq!(fs::read(root.path().join("up/data")).unwrap(), b"abc");
    // What another program put there is served.
    fs::write(root.path().join("docker/other"), "x").unwrap();
    assert_eq!(folder.read(&key("docker/other"), 10).await.unwrap(), "x");
}

#[tokio::test]
async fn the_temporary_folder_is_not_listed_and_comes_back() {
    let (root, folder) = folder();
    assert_eq!(folder.list(None, None, 10).await.unwrap(), []);
    fs::remove_dir(root.path().join("_tmp")).unwrap();
    folder.write(&key("a/b"), "x".into()).await.unwrap();
    fs::remove_dir(root.path().join("_tmp")).unwrap();
    folder.delete_tree(&key("nothing")).await.unwrap();
    folder.write(&key("c"), "x".into()).await.unwrap();
    fs::remove_dir(root.path().join("_tmp")).unwrap();
    folder.delete_tree(&key("a")).await.unwrap();
    let found = folder.list(None, None, 10).await.unwrap();
    assert_eq!(found, [Entry::object("c")]);
}

#[tokio::test]
async fn what_is_neither_file_nor_folder_is_passed_over() {
    let (root, folder) = folder();
    folder.write(&key("a/file"), "x".into()).await.unwrap();
    let path = |name: &str| root.path().join("a").join(name);
    std::os::unix::fs::symlink("file", path("to-file")).unwrap();
    std::os::unix::fs::symlink(".", path("to-folder")).unwrap();
    std::os::unix::fs::symlink("nowhere", path("to-nowhere")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
    let found = folder.list(Some(&key("a")), None, 10).await.unwrap();
    let expected = [
        Entry::object("file"),
        Entry::object("socket"),
        Entry::object("to-file"),
        Entry::folder("to-folder"),
    ];
    assert_eq!(found, expected);
    assert_eq!(folder.read(&key("a/to-file"), 10).await.unwrap(), "x");
    for absent in ["a/to-nowhere", "a/to-folder"] {
        let error = folder.read(&key(absent), 10).await.unwrap_err();
        assert!(error.is_not_found(), "{absent}: {error}");
    }
    // Deleting a tree removes links, not what they lead to.
    folder.write(&key("b/kept"), "x".into()).await.unwrap();
    std::os::unix::fs::symlink("../b", path("to-b")).unwrap();
    folder.delete_tree(&key("a")).await.unwrap();
    assert!(!root.path().join("a").exists());
    assert_eq!(folder.read(&key("b/kept"), 10).await.unwrap(), "x");
    assert_eq!(temporary_files(&root), [""; 0]);
}

#[tokio::test]
async fn a_folder_where_an_object_should_be_is_corrupt() {
    let (_root, folder) = folder();
    folder.write(&key("a/b/c"), "x".into()).await.unwrap();
    folder.write(&key("d"), "x".into()).await.unwrap();
    for result in [
        folder.write(&key("a/b"), "y".into()).await,
        folder.write(&key("d/e"), "y".into()).await,
        folder.write(&key("d/e/f"), "y".into()).await,
        folder.rename(&key("d"), &key("a/b")).await,
        folder.append(&key("a/b")).await.map(|_| ()),
        folder.append(&key("d/e")).await.map(|_| ()),
    ] {
        let error = result.unwrap_err();
        assert!(error.is_corrupt(), "{error}");
    }
    assert_eq!(folder.read(&key("a/b/c"), 10).await.unwrap(), "x");
    assert_eq!(folder.read(&key("d"), 10).await.unwrap(), "x");
}

#[tokio::test]
async fn a_root_that_is_deleted_is_an_outage() {
    let (root, folder) = folder();
    folder.write(&key("a/b"), "x".into()).await.unwrap();
    fs::remove_dir_all(root.path()).unwrap();
    // Another folder of the same name is another storage, which was not asked for.
    fs::create_dir(root.path()).unwrap();
    let results = [
        folder.read(&key("a/b"), 10).await.map(|_| ()),
        folder.stat(&key("a/b")).await.map(|_| ()),
        folder.stream(&key("a/b"), None).await.map(|_| ()),
        folder.list(None, None, 10).await.map(|_| ()),
        folder.list(Some(&key("a")), None, 10).await.map(|_| ()),
        folder.write(&key("a/b"), "x".into()).await,
        folder.delete(&key("a/b")).await,
        folder.delete_tree(&key("a")).await,
        folder.rename(&key("a/b"), &key("c")).await,
        folder.append(&key("up/data")).await.map(|_| ()),
    ];
    for (index, result) in results.into_iter().enumerate() {
        let error = result.unwrap_err();
        assert!(error.is_transient(), "{index}: {error}");
    }
    let error = folder.stat(&key("a/b")).await.unwrap_err().to_string();
    assert!(error.contains("was deleted or unmounted"), "{error}");
}

#[tokio::test]
async fn a_file_that_shrinks_under_a_stream_ends_it_with_an_error() {
    let (root, folder) = folder();
    let path = key("blob");
    folder
        .write(&path, vec![1; 1_000_000].into())
        .await
        .unwrap();
    let (_, mut stream) = folder.stream(&path, None).await.unwrap();
    let file = File::options()
        .write(true)
        .open(root.path().join("blob"))
        .unwrap();
    file.set_len(300_000).unwrap();
    assert!(stream.try_next().await.unwrap().is_some());
    let error = stream.try_next().await.unwrap_err();
    assert!(error.is_corrupt(), "{error}");
    let text = error.to_string();
    assert!(
        text.contains("1000000") && text.contains("300000"),
        "{text}"
    );
    assert!(stream.try_next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_file_that_grows_under_a_stream_ends_where_it_ended() {
    let (_root, folder) = folder();
    let path = key("up/data");
    let mut append = folder.append(&path).await.unwrap();
    append.write(vec![1; 300_000].into()).await.unwrap();
    append.sync().await.unwrap();
    let (size, stream) = folder.stream(&path, None).await.unwrap();
    append.write(vec![2; 300_000].into()).await.unwrap();
    append.sync().await.unwrap();
    let parts: Vec<Bytes> = stream.try_collect().await.unwrap();
    assert_eq!(size, 300_000);
    assert_eq!(parts.concat(), vec![1; 300_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_waited_never_writes_into_a_blob() {
    // One has the upload's file open and waits for the lock while another publishes it: the
    // file is a blob by then, and the first must not get it under its old name.
    let (_root, folder) = folder();
    let (upload, blob) = (key("u/data"), key("b/data"));
    for round in 0..200_u32 {
        let text = round.to_string();
        let mut append = folder.append(&upload).await.unwrap();
        append.write(text.clone().into()).await.unwrap();
        append.sync().await.unwrap();
        let other = tokio::spawn({
            let (folder, upload) = (folder.clone(), upload.clone());
            async move {
                let mut append = open_when_free(&folder, &upload).await;
                let size = append.size();
                append.write("overwritten".into()).await.unwrap();
                size
            }
        });
        append.publish(&blob).await.unwrap();
        drop(append);
        assert_eq!(other.await.unwrap(), 0, "got the published file");
        assert_eq!(folder.read(&blob, 100).await.unwrap(), text);
        folder.delete(&upload).await.unwrap();
    }
}

#[test]
fn a_dropped_writer_keeps_the_lock_until_its_write_is_done() {
    // One thread in the pool, and that is kept busy: the write cannot have begun when its
    // writer is dropped.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (root, folder) = folder();
    let path = root.path().join("up/data");
    runtime.block_on(async {
        let mut append = folder.append(&key("up/data")).await.unwrap();
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || wait.recv());
        append.write(vec![1; 100_000].into()).await.unwrap();
        drop(append);
        let other = File::options().write(true).open(&path).unwrap();
        assert!(
            matches!(other.try_lock(), Err(fs::TryLockError::WouldBlock)),
            "the lock was let go before the write"
        );
        assert_eq!(other.metadata().unwrap().len(), 0);
        release.send(()).unwrap();
        busy.await.unwrap().unwrap();
        let next = open_when_free(&folder, &key("up/data")).await;
        assert_eq!(next.size(), 100_000);
    });
}

#[test]
fn a_caller_that_stops_waiting_neither_loses_nor_reorders_a_write() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .max_blocking_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let (_root, folder) = folder();
    let upload = key("up/data");
    runtime.block_on(async {
        let mut append = folder.append(&upload).await.unwrap();
        let (release, wait) = std::sync::mpsc::channel::<()>();
        let busy = tokio::task::spawn_blocking(move || wait.recv());
        append.write(vec![1; 100_000].into()).await.unwrap();
        // The second has to wait for the first, and is given up.
        let second = append.write(vec![2; 100_000].into());
        let given_up = tokio::time::timeout(Duration::from_millis(20), second).await;
        assert!(given_up.is_err(), "two writes under way");
        assert_eq!(append.size(), 100_000, "what was given up is not counted");
        release.send(()).unwrap();
        busy.await.unwrap().unwrap();
        append.write(vec![3; 100_000].into()).await.unwrap();
        append.sync().await.unwrap();
        let found = folder.read(&upload, usize::MAX).await.unwrap();
        assert_eq!(found, [vec![1; 100_000], vec![3; 100_000]].concat());
    });
}

#[tokio::test]
async fn after_a_failed_write_an_upload_says_so_until_it_is_opened_again() {
    // Behind this link every write fails for want of room, as on a full disk.
    let (root, folder) = folder();
    fs::create_dir(root.path().join("up")).unwrap();
    std::os::unix::fs::symlink("/dev/full", root.path().join("up/data")).unwrap();
    let mut append = folder.append(&key("up/data")).await.unwrap();
    // A large one is not waited for: the next call has its error.
    append.write(vec![1; 100_000].into()).await.unwrap();
    let error = append.sync().await.unwrap_err();
    assert!(error.is_full(), "{error}");
    for error in [
        append.write("x".into()).await.unwrap_err(),
        append.sync().await.unwrap_err(),
        append.truncate(0).await.unwrap_err(),
    ] {
        assert!(
            error.to_string().contains("an earlier write failed"),
            "{error}"
        );
    }
    drop(append);
    // A small one is.
    let mut append = open_when_free(&folder, &key("up/data")).await;
    assert!(append.write("x".into()).await.unwrap_err().is_full());
}

#[tokio::test]
async fn a_write_that_is_given_up_is_whole_or_not_there() {
    let (root, folder) = folder();
    for size in [10, 1_000_000] {
        for pause in 0..20 {
            let path = key(&format!("{size}/{pause}"));
            let writing = folder.write(&path, vec![7; size].into());
            let pause = Duration::from_micros(pause * 40);
            let _ = tokio::time::timeout(pause, writing).await;
            match folder.read(&path, usize::MAX).await {
                Ok(found) => assert_eq!(found, vec![7; size]),
                Err(error) => assert!(error.is_not_found(), "{error}"),
            }
        }
    }
    // What was begun is finished in the pool, and leaves nothing behind.
    let mut waited = 0;
    while !temporary_files(&root).is_empty() {
        waited += 1;
        assert!(waited < 1000, "{:?}", temporary_files(&root));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn what_a_killed_process_left_is_harmless_and_goes_after_a_day() {
    let (root, folder) = folder();
    folder.write(&key("a/kept"), "x".into()).await.unwrap();
    let left = root.path().join("_tmp");
    fs::create_dir_all(left.join("old-tree/sub")).unwrap();
    fs::write(left.join("old-tree/sub/file"), "half").unwrap();
    fs::write(left.join("old-file"), "half").unwrap();
    fs::write(left.join("new-file"), "being written").unwrap();
    let two_days_ago = SystemTime::now() - Duration::from_secs(2 * 24 * 60 * 60);
    for old in ["old-tree", "old-file"] {
        let file = File::open(left.join(old)).unwrap();
        file.set_modified(two_days_ago).unwrap();
    }
    let folder = FileSystem::open(root.path()).unwrap();
    assert_eq!(temporary_files(&root), ["new-file"]);
    assert_eq!(folder.read(&key("a/kept"), 10).await.unwrap(), "x");
    // A killed writer's lock went with it, and its bytes are there to be cut.
    fs::create_dir(root.path().join("up")).unwrap();
    fs::write(root.path().join("up/data"), "12345").unwrap();
    let mut append = folder.append(&key("up/data")).await.unwrap();
    assert_eq!(append.size(), 5);
    append.truncate(3).await.unwrap();
    append.sync().await.unwrap();
    assert_eq!(folder.read(&key("up/data"), 10).await.unwrap(), "123");
}

#[test]
fn opening_creates_the_folder_and_those_above_it() {
    let root = tempfile::tempdir().unwrap();
    let path = root.path().join("a/b/c");
    FileSystem::open(&path).unwrap();
    FileSystem::open(&path).unwrap();
    assert!(path.join("_tmp").is_dir());
    std::os::unix::fs::symlink("a/b/c", root.path().join("link")).unwrap();
    FileSystem::open(&root.path().join("link")).unwrap();
}

#[test]
fn what_cannot_be_a_storage_is_refused_with_what_to_do() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    fs::write(&file, "").unwrap();
    for path in [file.clone(), file.join("below")] {
        let error = FileSystem::open(&path).unwrap_err();
        assert!(matches!(error, OpenError::NotAFolder { .. }), "{error:?}");
        assert_eq!(
            error.to_string(),
            format!(
                "`{}` is not a folder; choose a folder for the storage, or a name that is free",
                path.display()
            )
        );
    }
    let error = FileSystem::open(Path::new("/proc/no-such-folder")).unwrap_err();
    assert!(matches!(error, OpenError::Create { .. }), "{error:?}");
    assert!(
        error.to_string().contains("create it for the user"),
        "{error}"
    );
    let error = FileSystem::open(Path::new("/proc")).unwrap_err();
    assert!(matches!(error, OpenError::Write { .. }), "{error:?}");
    assert!(
        error.to_string().contains("check its owner and mode"),
        "{error}"
    );
    let error = FileSystem::open(Path::new("")).unwrap_err();
    assert!(matches!(error, OpenError::Create { .. }), "{error:?}");
}

#[tokio::test]
async fn what_is_forbidden_is_denied_and_not_absent() {
    let (root, folder) = folder();
    if !permissions_bind(&root) {
        return;
    }
    let path = key("a/b");
    folder.write(&path, "x".into()).await.unwrap();
    let mode = |name: &str, mode| {
        let mode = Permissions::from_mode(mode);
        fs::set_permissions(root.path().join(name), mode).unwrap();
    };
    mode("a", 0o000);
    let reading = [
        folder.read(&path, 10).await.map(|_| ()),
        folder.stat(&path).await.map(|_| ()),
        folder.list(Some(&key("a")), None, 10).await.map(|_| ()),
        folder.write(&path, "y".into()).await,
        folder.delete(&path).await,
        folder.append(&path).await.map(|_| ()),
    ];
    mode("a", 0o500);
    let writing = [
        folder.write(&key("a/c"), "y".into()).await,
        folder.delete(&path).await,
        folder.append(&key("a/c/d")).await.map(|_| ()),
    ];
    mode("a", 0o700);
    for result in reading.into_iter().chain(writing) {
        let error = result.unwrap_err();
        assert!(error.is_denied(), "{error}");
    }
    assert_eq!(folder.read(&path, 10).await.unwrap(), "x");

    fs::set_permissions(root.path(), Permissions::from_mode(0o500)).unwrap();
    fs::remove_dir(root.path().join("_tmp")).unwrap_err();
    let inside = FileSystem::open(&root.path().join("new")).unwrap_err();
    fs::set_permissions(root.path(), Permissions::from_mode(0o000)).unwrap();
    let closed = FileSystem::open(root.path()).unwrap_err();
    fs::set_permissions(root.path(), Permissions::from_mode(0o700)).unwrap();
    assert!(matches!(inside, OpenError::Create { .. }), "{inside:?}");
    assert!(matches!(closed, OpenError::Open { .. }), "{closed:?}");
}

#[test]
fn errors_of_the_system_keep_their_source() {
    let error = FileSystem::open(Path::new("/proc/no-such-folder")).unwrap_err();
    let source = std::error::Error::source(&error).unwrap();
    assert!(source.downcast_ref::<io::Error>().is_some());
}
