//! The shared suite, and the examples of it, on the drivers of this crate

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use registry_storage::{FileSystem, Key, Memory, Objects, OpenError, StorageError, Uploads, suite};

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_passes_the_suite() {
    let root = tempfile::tempdir().unwrap();
    suite::run(Arc::new(FileSystem::open(root.path()).unwrap())).await;
    // Nothing temporary is left.
    assert_eq!(root.path().join("_tmp").read_dir().unwrap().count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_passes_the_suite() {
    suite::run(Arc::new(Memory::new())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_a_folder() {
    let root = tempfile::tempdir().unwrap();
    let one = FileSystem::open(root.path()).unwrap();
    let two = FileSystem::open(root.path()).unwrap();
    let key = Key::parse("a/b/data").unwrap();
    let mut append = one.append(&key).await.unwrap();
    assert!(matches!(
        two.append(&key).await,
        Err(StorageError::Busy { .. })
    ));
    append.write("from one".into()).await.unwrap();
    append.sync().await.unwrap();
    drop(append);
    assert_eq!(two.append(&key).await.unwrap().size(), 8);
    assert_eq!(two.read(&key, 100).await.unwrap(), "from one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_that_waited_never_writes_into_a_blob() {
    // One opens the upload's file, the other publishes it: the first must not get the file
    // under its old name any more, for it is a blob by now.
    let root = tempfile::tempdir().unwrap();
    let folder = FileSystem::open(root.path()).unwrap();
    let (data, blob) = (Key::parse("u/data").unwrap(), Key::parse("b/data").unwrap());
    for round in 0..200_u32 {
        let mut append = folder.append(&data).await.unwrap();
        append
            .write(round.to_string().into_bytes().into())
            .await
            .unwrap();
        append.sync().await.unwrap();
        let other = tokio::spawn({
            let (folder, data) = (folder.clone(), data.clone());
            async move {
                loop {
                    match folder.append(&data).await {
                        Err(StorageError::Busy { .. }) => tokio::task::yield_now().await,
                        other => return other.unwrap().size(),
                    }
                }
            }
        });
        folder.publish(&data, &blob).await.unwrap();
        drop(append);
        assert_eq!(
            other.await.unwrap(),
            0,
            "the waiting writer got the published file"
        );
        assert_eq!(folder.read(&blob, 100).await.unwrap(), round.to_string());
        folder.delete(&data).await.unwrap();
    }
}

#[test]
fn abandoned_temporary_files_are_removed_at_start() {
    let root = tempfile::tempdir().unwrap();
    FileSystem::open(root.path()).unwrap();
    let (old, new) = (root.path().join("_tmp/old"), root.path().join("_tmp/new"));
    std::fs::create_dir(&old).unwrap();
    std::fs::write(old.join("file"), "x").unwrap();
    std::fs::write(&new, "x").unwrap();
    let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(3 * 86_400);
    std::fs::File::open(&old)
        .unwrap()
        .set_modified(long_ago)
        .unwrap();
    FileSystem::open(root.path()).unwrap();
    assert!(!old.exists());
    assert!(new.exists());
}

#[test]
fn a_root_that_cannot_be_used_is_said() {
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("file");
    std::fs::write(&file, "x").unwrap();
    for path in [
        &file,
        &file.join("below"),
        Path::new("/proc/no-such-folder"),
    ] {
        let error = FileSystem::open(path).unwrap_err();
        assert!(matches!(error, OpenError::Open { .. }), "{error}");
        assert!(
            error.to_string().contains(path.to_str().unwrap()),
            "{error}"
        );
    }
    let error = FileSystem::open(Path::new("/proc")).unwrap_err();
    assert!(matches!(error, OpenError::Write { .. }), "{error}");
}

#[tokio::test]
async fn a_folder_without_permission_is_denied_and_not_absent() {
    let root = tempfile::tempdir().unwrap();
    let folder = FileSystem::open(root.path()).unwrap();
    let key = Key::parse("a/b").unwrap();
    folder.write(&key, "x".into()).await.unwrap();
    let closed = std::fs::Permissions::from_mode(0o000);
    std::fs::set_permissions(root.path().join("a"), closed).unwrap();
    let result = folder.read(&key, 100).await;
    // Root may read everything; then there is nothing to see here.
    let binding = std::fs::read(root.path().join("a/b")).is_err();
    let open = std::fs::Permissions::from_mode(0o700);
    std::fs::set_permissions(root.path().join("a"), open).unwrap();
    if binding {
        assert!(
            matches!(result, Err(StorageError::Denied { .. })),
            "{result:?}"
        );
    } else {
        eprintln!("SKIPPED: permissions do not bind this user; run the tests as another than root");
    }
}

#[tokio::test]
async fn a_file_that_shrinks_while_it_is_read_is_an_error() {
    use futures::TryStreamExt;

    let root = tempfile::tempdir().unwrap();
    let folder = FileSystem::open(root.path()).unwrap();
    let key = Key::parse("a").unwrap();
    folder.write(&key, vec![1; 1_000_000].into()).await.unwrap();
    let (_, stream) = folder.stream(&key, None).await.unwrap();
    let file = std::fs::File::options()
        .write(true)
        .open(root.path().join("a"))
        .unwrap();
    file.set_len(500_000).unwrap();
    let result: Result<Vec<_>, _> = stream.try_collect().await;
    assert!(matches!(result, Err(StorageError::Corrupt { .. })));
}
