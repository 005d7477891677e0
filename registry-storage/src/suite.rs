//! The tests that every driver passes
//!
//! For a driver of your own, turn on the feature `suite` for tests and run [`run`] on a fresh
//! storage. It panics at the first rule that the driver breaks.
//!
//! ```
//! use std::sync::Arc;
//!
//! use registry_storage::{Memory, suite};
//!
//! # #[tokio::main] async fn main() {
//! suite::run(Arc::new(Memory::new())).await;
//! # }
//! ```

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use registry_core::ByteRange;

use crate::driver::{Driver, Key};
use crate::error::StorageError;

/// Runs every rule on an empty storage, each in a folder of its own
///
/// # Panics
///
/// When the driver breaks a rule.
pub async fn run<D: Driver>(driver: Arc<D>) {
    an_empty_storage_has_an_empty_root(&*driver).await;
    what_is_written_is_read(&*driver).await;
    what_is_not_there_is_not_found(&*driver).await;
    a_folder_is_no_object(&*driver).await;
    ranges_are_exact(&*driver).await;
    large_objects_stream_whole(&*driver).await;
    lists_are_in_order_and_paged(&*driver).await;
    prefixes_of_names_are_names(&*driver).await;
    trees_are_deleted_whole(&*driver).await;
    renames_replace(&*driver).await;
    uploads_grow_and_are_published(&*driver).await;
    an_upload_has_one_writer(&*driver).await;
    an_upload_is_cut(&*driver).await;
    racing_writers_leave_one_whole(driver.clone()).await;
    writing_beside_deleting_works(driver).await;
}

fn key(path: &str) -> Key {
    Key::parse(path).expect("the suite's keys are valid")
}

async fn put<D: Driver>(driver: &D, path: &str, bytes: impl Into<Bytes>) {
    driver
        .write(&key(path), bytes.into())
        .await
        .unwrap_or_else(|error| panic!("writing {path}: {error}"));
}

async fn get<D: Driver>(driver: &D, path: &str) -> Bytes {
    driver
        .read(&key(path), 1 << 20)
        .await
        .unwrap_or_else(|error| panic!("reading {path}: {error}"))
}

async fn streamed<D: Driver>(driver: &D, path: &str, range: Option<ByteRange>) -> (u64, Vec<u8>) {
    let (size, mut stream) = driver
        .stream(&key(path), range)
        .await
        .unwrap_or_else(|error| panic!("opening {path}: {error}"));
    let mut bytes = Vec::new();
    while let Some(part) = stream
        .try_next()
        .await
        .unwrap_or_else(|error| panic!("streaming {path}: {error}"))
    {
        bytes.extend_from_slice(&part);
    }
    (size, bytes)
}

async fn names<D: Driver>(
    driver: &D,
    folder: &str,
    after: Option<&str>,
    limit: usize,
) -> Vec<String> {
    driver
        .list(Some(&key(folder)), after, limit)
        .await
        .unwrap_or_else(|error| panic!("listing {folder}: {error}"))
        .into_iter()
        .map(|entry| entry.name + if entry.is_dir { "/" } else { "" })
        .collect()
}

fn assert_not_found<T: std::fmt::Debug>(result: Result<T, StorageError>) {
    match result {
        Err(StorageError::NotFound { .. }) => {}
        other => panic!("expected that it is not found, got {other:?}"),
    }
}

async fn an_empty_storage_has_an_empty_root<D: Driver>(driver: &D) {
    let entries = driver
        .list(None, None, 100)
        .await
        .expect("the root is there");
    let visible = entries.iter().filter(|entry| !entry.name.starts_with('_'));
    assert_eq!(visible.count(), 0);
}

async fn what_is_written_is_read<D: Driver>(driver: &D) {
    put(driver, "rw/a/b/c", "first").await;
    assert_eq!(get(driver, "rw/a/b/c").await, "first");
    put(driver, "rw/a/b/c", "second, and longer").await;
    assert_eq!(get(driver, "rw/a/b/c").await, "second, and longer");
    put(driver, "rw/a/b/c", "third").await;
    put(driver, "rw/a/b/c", "third").await;
    assert_eq!(get(driver, "rw/a/b/c").await, "third");
    put(driver, "rw/empty", "").await;
    assert_eq!(
        driver.stat(&key("rw/empty")).await.expect("is there").size,
        0
    );
    assert_eq!(streamed(driver, "rw/empty", None).await, (0, vec![]));
    assert!(matches!(
        driver.read(&key("rw/a/b/c"), 4).await,
        Err(StorageError::Corrupt { .. })
    ));
    driver.delete(&key("rw/a/b/c")).await.expect("deletes");
    assert_not_found(driver.read(&key("rw/a/b/c"), 100).await);
}

async fn what_is_not_there_is_not_found<D: Driver>(driver: &D) {
    put(driver, "nf/file", "x").await;
    for path in ["nf/absent", "absent/deep/down", "nf/file/below-a-file"] {
        assert_not_found(driver.read(&key(path), 100).await);
        assert_not_found(driver.stat(&key(path)).await);
        assert_not_found(driver.stream(&key(path), None).await.map(|(size, _)| size));
        assert_not_found(driver.delete(&key(path)).await);
        assert_not_found(driver.list(Some(&key(path)), None, 10).await);
        assert_not_found(driver.rename(&key(path), &key("nf/target")).await);
        assert_not_found(driver.publish(&key(path), &key("nf/target")).await);
        driver
            .delete_tree(&key(path))
            .await
            .expect("nothing is deleted");
    }
    assert_not_found(driver.stat(&key("nf/target")).await);
}

async fn a_folder_is_no_object<D: Driver>(driver: &D) {
    put(driver, "folder/sub/file", "x").await;
    assert_not_found(driver.read(&key("folder/sub"), 100).await);
    assert_not_found(driver.stat(&key("folder/sub")).await);
    assert_not_found(driver.delete(&key("folder/sub")).await);
    assert_eq!(get(driver, "folder/sub/file").await, "x");
}

async fn ranges_are_exact<D: Driver>(driver: &D) {
    put(driver, "range/digits", "0123456789").await;
    for (start, end) in [(0, 9), (0, 0), (9, 9), (3, 5)] {
        let range = ByteRange::new(start, end).expect("in order");
        let (size, bytes) = streamed(driver, "range/digits", Some(range)).await;
        assert_eq!(size, 10);
        assert_eq!(bytes, b"0123456789"[start as usize..=end as usize]);
    }
    let beyond = ByteRange::new(5, 10);
    assert!(matches!(
        driver
            .stream(&key("range/digits"), beyond)
            .await
            .map(|(size, _)| size),
        Err(StorageError::Corrupt { .. })
    ));
}

async fn large_objects_stream_whole<D: Driver>(driver: &D) {
    let bytes: Vec<u8> = (0..3_000_001_u32).map(|i| (i % 253) as u8).collect();
    put(driver, "large/object", bytes.clone()).await;
    assert!(streamed(driver, "large/object", None).await == (3_000_001, bytes.clone()));
    let range = ByteRange::new(262_143, 1_048_577);
    let (_, part) = streamed(driver, "large/object", range).await;
    assert!(part == bytes[262_143..=1_048_577]);
}

async fn lists_are_in_order_and_paged<D: Driver>(driver: &D) {
    for name in ["b", "a", "B", "a-b", "a.b", "a_b", "10", "9"] {
        put(driver, &format!("list/{name}"), "x").await;
    }
    put(driver, "list/folder/x/y", "x").await;
    let all = ["10", "9", "B", "a", "a-b", "a.b", "a_b", "b", "folder/"];
    assert_eq!(names(driver, "list", None, 100).await, all);
    assert_eq!(names(driver, "list", None, 3).await, all[..3]);
    assert_eq!(names(driver, "list", Some("B"), 2).await, all[3..5]);
    assert_eq!(names(driver, "list", Some("a-c"), 100).await, all[5..]);
    assert!(names(driver, "list", Some("zzz"), 100).await.is_empty());
    assert_eq!(names(driver, "list", None, usize::MAX).await, all);
}

async fn prefixes_of_names_are_names<D: Driver>(driver: &D) {
    for path in ["prefix/a/x", "prefix/ab/x", "prefix/a-b/x", "prefix/a/b/x"] {
        put(driver, path, path.to_owned()).await;
    }
    assert_eq!(
        names(driver, "prefix", None, 10).await,
        ["a/", "a-b/", "ab/"]
    );
    assert_eq!(names(driver, "prefix/a", None, 10).await, ["b/", "x"]);
    assert_not_found(driver.list(Some(&key("pref")), None, 10).await);
    driver.delete_tree(&key("prefix/a")).await.expect("deletes");
    assert_eq!(names(driver, "prefix", None, 10).await, ["a-b/", "ab/"]);
}

async fn trees_are_deleted_whole<D: Driver>(driver: &D) {
    for path in ["tree/a/b/c", "tree/a/d", "tree/e"] {
        put(driver, path, "x").await;
    }
    drop(
        driver
            .append(&key("tree/a/upload/data"))
            .await
            .expect("opens"),
    );
    driver.delete_tree(&key("tree/a")).await.expect("deletes");
    assert_eq!(names(driver, "tree", None, 10).await, ["e"]);
    assert_not_found(driver.stat(&key("tree/a/upload/data")).await);
    put(driver, "tree/a/b/c", "again").await;
    assert_eq!(get(driver, "tree/a/b/c").await, "again");
}

async fn renames_replace<D: Driver>(driver: &D) {
    put(driver, "rename/from", "new").await;
    put(driver, "rename/to/there", "old").await;
    let (from, to) = (key("rename/from"), key("rename/to/there"));
    driver.rename(&from, &to).await.expect("renames");
    assert_eq!(get(driver, "rename/to/there").await, "new");
    assert_not_found(driver.stat(&from).await);
}

async fn uploads_grow_and_are_published<D: Driver>(driver: &D) {
    let (data, blob) = (key("up/one/data"), key("up/blobs/x/data"));
    let mut append = driver.append(&data).await.expect("opens");
    assert_eq!(append.size(), 0);
    append.write("hello ".into()).await.expect("writes");
    append.write("world".into()).await.expect("writes");
    append.sync().await.expect("syncs");
    assert_eq!(append.size(), 11);
    assert_eq!(driver.stat(&data).await.expect("is there").size, 11);
    drop(append);
    let mut append = driver.append(&data).await.expect("opens again");
    assert_eq!(append.size(), 11);
    append.write("!".into()).await.expect("writes");
    append.sync().await.expect("syncs");
    assert_eq!(get(driver, "up/one/data").await, "hello world!");
    let range = ByteRange::new(4, 6);
    assert_eq!(
        streamed(driver, "up/one/data", range).await,
        (12, b"o w".to_vec())
    );
    driver.publish(&data, &blob).await.expect("publishes");
    drop(append);
    assert_eq!(get(driver, "up/blobs/x/data").await, "hello world!");
    assert_not_found(driver.stat(&data).await);
    assert_eq!(names(driver, "up/blobs/x", None, 10).await, ["data"]);
}

async fn an_upload_has_one_writer<D: Driver>(driver: &D) {
    let data = key("lock/data");
    let first = driver.append(&data).await.expect("opens");
    match driver.append(&data).await {
        Err(error @ StorageError::Busy { .. }) => assert!(error.retry_after().is_some()),
        other => panic!("expected that it is busy, got {other:?}"),
    }
    drop(first);
    driver.append(&data).await.expect("opens once it is free");
}

async fn an_upload_is_cut<D: Driver>(driver: &D) {
    let data = key("cut/data");
    let mut append = driver.append(&data).await.expect("opens");
    append.write("0123456789".into()).await.expect("writes");
    append.truncate(4).await.expect("cuts");
    append.write("xy".into()).await.expect("writes");
    append.sync().await.expect("syncs");
    assert_eq!(append.size(), 6);
    assert!(matches!(
        append.truncate(7).await,
        Err(StorageError::Corrupt { .. })
    ));
    drop(append);
    assert_eq!(get(driver, "cut/data").await, "0123xy");
}

async fn racing_writers_leave_one_whole<D: Driver>(driver: Arc<D>) {
    let writers = (0..16_u8).map(|number| {
        let driver = driver.clone();
        tokio::spawn(async move {
            put(&*driver, "race/deep/folder/file", vec![number; 10_000]).await;
        })
    });
    for writer in futures::future::join_all(writers).await {
        writer.expect("no writer fails");
    }
    let bytes = get(&*driver, "race/deep/folder/file").await;
    assert_eq!(bytes.len(), 10_000);
    assert!(bytes.iter().all(|byte| *byte == bytes[0]));
    assert_eq!(
        names(&*driver, "race/deep/folder", None, 10).await,
        ["file"]
    );
}

async fn writing_beside_deleting_works<D: Driver>(driver: Arc<D>) {
    let deleter = {
        let driver = driver.clone();
        tokio::spawn(async move {
            for _ in 0..50 {
                driver.delete_tree(&key("beside/a")).await.expect("deletes");
            }
        })
    };
    for _ in 0..50 {
        put(&*driver, "beside/a/b/c", "x").await;
    }
    deleter.await.expect("the deleter does not fail");
    put(&*driver, "beside/a/b/c", "last").await;
    assert_eq!(get(&*driver, "beside/a/b/c").await, "last");
}
