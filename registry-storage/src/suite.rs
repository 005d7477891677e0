//! The test suite that every driver passes
//!
//! Each function tests one rule and panics where it is broken. All work below a folder of
//! their own name, which they empty first, so that a storage need not be new.
//!
//! # Examples
//!
//! ```
//! # #[cfg(feature = "suite")]
//! # #[tokio::main] async fn main() {
//! use std::sync::Arc;
//!
//! use registry_storage::{Memory, suite};
//!
//! let memory = Memory::new();
//! suite::run(Arc::new(memory.clone())).await;
//! suite::run_shared(Arc::new(memory.clone()), Arc::new(memory)).await;
//! # }
//! # #[cfg(not(feature = "suite"))]
//! # fn main() {}
//! ```

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use registry_core::range::ByteRange;

use crate::driver::{Append, ByteStream, Driver, Entry, Key};
use crate::error::StorageError;

/// Tests all rules for one driver
///
/// Needs a tokio runtime.
///
/// # Panics
///
/// If the driver breaks a rule.
pub async fn run(driver: Arc<dyn Driver>) {
    reads_back_what_was_written(driver.clone()).await;
    refuses_to_read_more_than_the_limit(driver.clone()).await;
    says_not_found_of_what_is_absent(driver.clone()).await;
    takes_no_folder_for_an_object(driver.clone()).await;
    streams_whole_objects_and_ranges(driver.clone()).await;
    a_stream_never_mixes_versions(driver.clone()).await;
    deletes_objects_and_trees(driver.clone()).await;
    renames_objects(driver.clone()).await;
    lists_in_byte_order(driver.clone()).await;
    lists_names_that_are_prefixes_of_others(driver.clone()).await;
    racing_writers_leave_one_whole_value(driver.clone()).await;
    writers_outlive_deleters(driver.clone()).await;
    appends_and_publishes(driver.clone()).await;
    publishes_what_was_not_synced(driver.clone()).await;
    writes_pieces_while_it_syncs(driver.clone()).await;
    publishes_in_company(driver.clone()).await;
    gives_back_what_was_written(driver.clone()).await;
    reopens_only_what_is_there(driver.clone()).await;
    cuts_an_upload(driver.clone()).await;
    keeps_notes_with_the_bytes(driver.clone()).await;
    one_writer_per_upload(driver.clone()).await;
    a_dropped_writer_loses_only_the_lock(driver.clone()).await;
    a_deleted_upload_stays_deleted(driver.clone()).await;
    racing_publishers_leave_one_whole_object(driver).await;
}

/// Tests what two drivers on one storage owe each other, such as those of two processes
///
/// # Panics
///
/// If they break a rule.
pub async fn run_shared(one: Arc<dyn Driver>, other: Arc<dyn Driver>) {
    sees_what_the_other_does(&*one, &*other).await;
    is_kept_from_uploads_that_the_other_has_open(&*one, &*other).await;
    goes_on_with_the_uploads_of_the_other(&*one, &*other).await;
}

/// A write is read back, whole, replaced and replaced by nothing
pub async fn reads_back_what_was_written(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "reads-back").await;
    for (name, bytes) in [
        ("short", pattern(3, 1)),
        ("deep/er/and/deeper", pattern(100, 2)),
        ("long", pattern(3 * 1024 * 1024 + 1, 3)),
        ("_strange name-é..", pattern(1, 4)),
        ("empty", Bytes::new()),
    ] {
        let key = child(&folder, name);
        driver.write(&key, bytes.clone()).await.unwrap();
        assert!(read(&*driver, &key).await == bytes, "{name} as written");
        assert_eq!(driver.stat(&key).await.unwrap().size, bytes.len() as u64);
        // The same again, then something else of the same size, then nothing.
        driver.write(&key, bytes.clone()).await.unwrap();
        assert!(read(&*driver, &key).await == bytes, "{name} written twice");
        let other = pattern(bytes.len(), 9);
        driver.write(&key, other.clone()).await.unwrap();
        assert!(read(&*driver, &key).await == other, "{name} replaced");
        driver.write_unsynced(&key, bytes.clone()).await.unwrap();
        assert!(read(&*driver, &key).await == bytes, "{name} without a sync");
        driver.write(&key, Bytes::new()).await.unwrap();
        assert_eq!(read(&*driver, &key).await, "", "{name} emptied");
        assert_eq!(driver.stat(&key).await.unwrap().size, 0);
    }
}

/// An object of more bytes than the limit is an error, never a part
pub async fn refuses_to_read_more_than_the_limit(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "limit").await;
    for size in [10, 200_000] {
        let key = child(&folder, "object");
        driver.write(&key, pattern(size, 1)).await.unwrap();
        assert_eq!(driver.read(&key, size).await.unwrap().len(), size);
        let error = driver.read(&key, size - 1).await.unwrap_err();
        assert!(error.is_corrupt(), "{error}");
        assert_eq!(error.key(), key.as_str());
    }
}

/// What is absent is not found by any method, also below an object
pub async fn says_not_found_of_what_is_absent(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "absent").await;
    let object = child(&folder, "object");
    driver.write(&object, pattern(3, 1)).await.unwrap();
    for key in [
        child(&folder, "nothing"),
        child(&folder, "no/such/folder"),
        child(&object, "below"),
        child(&folder, "objec"),
        child(&folder, "object2"),
        child(&folder, &"x".repeat(255)),
    ] {
        assert_absent(&*driver, &key).await;
        let error = driver.delete(&key).await.unwrap_err();
        assert!(error.is_not_found(), "delete {key}: {error}");
        let to = child(&folder, "to/there");
        let error = driver.rename(&key, &to).await.unwrap_err();
        assert!(error.is_not_found(), "rename {key}: {error}");
        let error = driver.reopen(&key).await.unwrap_err();
        assert!(error.is_not_found(), "reopen {key}: {error}");
        let error = driver.progress(&key).await.unwrap_err();
        assert!(error.is_not_found(), "progress {key}: {error}");
        let error = driver.list(Some(&key), None, 10).await.unwrap_err();
        assert!(error.is_not_found(), "list {key}: {error}");
        driver.delete_tree(&key).await.unwrap();
    }
    assert_eq!(read(&*driver, &object).await.len(), 3);
    assert_absent(&*driver, &child(&folder, "to/there")).await;
}

/// A folder is not found where an object is asked for, and stays
pub async fn takes_no_folder_for_an_object(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "folder").await;
    let object = child(&folder, "sub/object");
    driver.write(&object, pattern(3, 1)).await.unwrap();
    let sub = child(&folder, "sub");
    assert_absent(&*driver, &sub).await;
    assert!(driver.delete(&sub).await.unwrap_err().is_not_found());
    let to = child(&folder, "to");
    assert!(driver.rename(&sub, &to).await.unwrap_err().is_not_found());
    assert_eq!(read(&*driver, &object).await.len(), 3);
    // Nor is an object a folder.
    let error = driver.list(Some(&object), None, 10).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
}

/// Streams give the size and exactly the bytes asked for
pub async fn streams_whole_objects_and_ranges(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "streams").await;
    let key = child(&folder, "object");
    for size in [0, 1, 1000, 262_144, 262_145, 1_500_000] {
        let bytes = pattern(size, 7);
        driver.write(&key, bytes.clone()).await.unwrap();
        let (found, whole) = collect(&*driver, &key, None).await.unwrap();
        assert_eq!(found, size as u64);
        assert!(whole == bytes, "all of {size}");
        for (start, end) in [
            (0, 0),
            (0, size.saturating_sub(1)),
            (size / 2, size.saturating_sub(1)),
            (size / 3, size / 2),
            (size.saturating_sub(1), size.saturating_sub(1)),
        ] {
            let range = ByteRange::new(start as u64, end as u64).unwrap();
            let part = collect(&*driver, &key, Some(range)).await;
            if size == 0 {
                assert!(part.unwrap_err().is_corrupt());
                continue;
            }
            let (found, part) = part.unwrap();
            assert_eq!(found, size as u64);
            assert!(part == bytes.slice(start..=end), "{range} of {size}");
        }
        for (start, end) in [(0, size), (size, size), (size + 5, size + 9)] {
            let range = ByteRange::new(start as u64, end as u64).unwrap();
            let error = collect(&*driver, &key, Some(range)).await.unwrap_err();
            assert!(error.is_corrupt(), "{range} of {size}: {error}");
        }
    }
}

/// A stream goes on with what it began with, or fails
pub async fn a_stream_never_mixes_versions(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "versions").await;
    let key = child(&folder, "object");
    let before = pattern(1_000_000, 1);
    for replace in [true, false] {
        driver.write(&key, before.clone()).await.unwrap();
        let (_, mut stream) = driver.stream(&key, None).await.unwrap();
        let first = stream.try_next().await.unwrap().unwrap();
        if replace {
            driver.write(&key, pattern(900_000, 2)).await.unwrap();
        } else {
            driver.delete(&key).await.unwrap();
        }
        let mut all = first.to_vec();
        let ended = loop {
            match stream.try_next().await {
                Ok(Some(bytes)) => all.extend_from_slice(&bytes),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        assert!(before.starts_with(&all), "bytes of another version");
        if ended.is_ok() {
            assert_eq!(all.len(), before.len());
        } else {
            // And after an error there is nothing more.
            assert!(matches!(stream.try_next().await, Ok(None)));
        }
    }
}

/// Deleting takes what was named, and not what only begins alike
pub async fn deletes_objects_and_trees(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "deletes").await;
    let names = ["a/b", "a/b2", "a/c/d/e", "a-b", "a.b/c", "a0", "ab/c", "a "];
    for name in names {
        driver
            .write(&child(&folder, name), pattern(5, 1))
            .await
            .unwrap();
    }
    let gone = child(&folder, "a/b");
    driver.delete(&gone).await.unwrap();
    assert_absent(&*driver, &gone).await;
    assert!(driver.delete(&gone).await.unwrap_err().is_not_found());
    assert_eq!(read(&*driver, &child(&folder, "a/b2")).await.len(), 5);

    driver.delete_tree(&child(&folder, "a")).await.unwrap();
    for name in names {
        let key = child(&folder, name);
        if name.starts_with("a/") {
            assert_absent(&*driver, &key).await;
        } else {
            assert_eq!(read(&*driver, &key).await.len(), 5, "{name}");
        }
    }
    let error = driver.list(Some(&child(&folder, "a")), None, 1).await;
    assert!(error.unwrap_err().is_not_found());
    // Of what is not there, nothing is deleted; of an object, the object.
    driver.delete_tree(&child(&folder, "a")).await.unwrap();
    driver.delete_tree(&child(&folder, "a0")).await.unwrap();
    assert_absent(&*driver, &child(&folder, "a0")).await;
    // The same names can be used again.
    driver
        .write(&child(&folder, "a/b"), pattern(6, 1))
        .await
        .unwrap();
    assert_eq!(read(&*driver, &child(&folder, "a/b")).await.len(), 6);
    assert_absent(&*driver, &child(&folder, "a/b2")).await;
}

/// A rename moves the bytes, replaces what was there, and makes the folders
pub async fn renames_objects(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "renames").await;
    let (from, to) = (child(&folder, "from"), child(&folder, "new/folder/to"));
    for bytes in [pattern(10, 1), pattern(300_000, 2)] {
        driver.write(&from, bytes.clone()).await.unwrap();
        driver.rename(&from, &to).await.unwrap();
        assert_absent(&*driver, &from).await;
        assert!(read(&*driver, &to).await == bytes);
    }
    driver.rename(&to, &to).await.unwrap();
    assert_eq!(read(&*driver, &to).await.len(), 300_000);
}

/// Lists are in byte order, from any name on, of any length
pub async fn lists_in_byte_order(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "lists").await;
    let mut expected = vec![
        Entry::object("-"),
        Entry::object("0"),
        Entry::object("A"),
        Entry::object("_"),
        Entry::folder("a"),
        Entry::folder("a-b"),
        Entry::object("a.b"),
        Entry::object("z"),
        Entry::object("é"),
    ];
    for entry in &expected {
        let name = if entry.is_dir {
            format!("{}/x/y", entry.name)
        } else {
            entry.name.clone()
        };
        driver
            .write(&child(&folder, &name), pattern(1, 1))
            .await
            .unwrap();
    }
    for index in 0..300 {
        let entry = Entry::object(format!("n{index:03}"));
        driver
            .write(&child(&folder, &entry.name), pattern(1, 1))
            .await
            .unwrap();
        expected.push(entry);
    }
    expected.sort_by(|a, b| a.name.cmp(&b.name));

    let all = driver.list(Some(&folder), None, usize::MAX).await.unwrap();
    assert_eq!(all, expected);
    assert_eq!(driver.list(Some(&folder), None, 0).await.unwrap(), []);
    for limit in [1, 2, 7, 100, expected.len()] {
        let mut pages = Vec::new();
        loop {
            let after = pages.last().map(|entry: &Entry| entry.name.clone());
            let page = driver
                .list(Some(&folder), after.as_deref(), limit)
                .await
                .unwrap();
            if page.is_empty() {
                break;
            }
            assert!(page.len() <= limit);
            pages.extend(page);
        }
        assert_eq!(pages, expected, "in pages of {limit}");
    }
    // A name to start after need not exist.
    for after in ["", "a-", "a-a", "a.", "n", "n1", "zz", "\u{10ffff}"] {
        let rest: Vec<_> = expected
            .iter()
            .filter(|entry| *entry.name > *after)
            .cloned()
            .collect();
        let found = driver.list(Some(&folder), Some(after), 400).await.unwrap();
        assert_eq!(found, rest, "after `{after}`");
    }
    // The topmost folder is there even if nothing is in it, and has only what was put there.
    let top = driver.list(None, None, usize::MAX).await.unwrap();
    assert!(top.contains(&Entry::folder("suite")), "{top:?}");
    let last = driver.list(None, Some("\u{10ffff}"), 1).await.unwrap();
    assert_eq!(last, []);
}

/// A folder whose name begins with another's is listed beside it
pub async fn lists_names_that_are_prefixes_of_others(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "prefixes").await;
    for name in [
        "team/x", "team-a/x", "team.b/x", "team0/x", "teams/x", "tea/x",
    ] {
        driver
            .write(&child(&folder, name), pattern(1, 1))
            .await
            .unwrap();
    }
    let expected = ["tea", "team", "team-a", "team.b", "team0", "teams"];
    let found = driver.list(Some(&folder), None, 100).await.unwrap();
    assert_eq!(found, expected.map(Entry::folder));
    for pair in expected.windows(2) {
        let found = driver.list(Some(&folder), Some(pair[0]), 1).await.unwrap();
        assert_eq!(found, [Entry::folder(pair[1])]);
    }
    // And inside one there is nothing of the others.
    for name in expected {
        let found = driver.list(Some(&child(&folder, name)), None, 100).await;
        assert_eq!(found.unwrap(), [Entry::object("x")], "{name}");
    }
}

/// Of writers at the same time one wins, and readers only ever see whole values
pub async fn racing_writers_leave_one_whole_value(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "racing-writers").await;
    let key = child(&folder, "new/folder/object");
    let value = |writer: u8| pattern(2000 + usize::from(writer) * 1000, writer);
    let writers = join_all((0..8).map(|writer: u8| {
        let (driver, key) = (driver.clone(), key.clone());
        tokio::spawn(async move {
            for _ in 0..5 {
                driver.write(&key, value(writer)).await.unwrap();
                let found = driver.read(&key, usize::MAX).await.unwrap();
                assert!((0..8).any(|writer| value(writer) == found), "a torn value");
            }
        })
    }));
    for writer in writers.await {
        writer.unwrap();
    }
    let found = driver.read(&key, usize::MAX).await.unwrap();
    assert!((0..8).any(|writer| value(writer) == found));
}

/// A writer whose folder is deleted under it makes it anew
pub async fn writers_outlive_deleters(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "deleters").await;
    let top = child(&folder, "top");
    let writers = (0..4).map(|writer| {
        let (driver, top) = (driver.clone(), top.clone());
        tokio::spawn(async move {
            for index in 0..20 {
                let key = child(&top, &format!("a/{}/b{writer}", index % 3));
                eventually(|| driver.write(&key, pattern(100, 1))).await;
            }
        })
    });
    let deleters = (0..2).map(|_| {
        let (driver, top) = (driver.clone(), top.clone());
        tokio::spawn(async move {
            for _ in 0..40 {
                driver.delete_tree(&top).await.unwrap();
                tokio::task::yield_now().await;
            }
        })
    });
    for task in join_all(writers.chain(deleters).collect::<Vec<_>>()).await {
        task.unwrap();
    }
    let key = child(&top, "a/0/b");
    driver.write(&key, pattern(5, 1)).await.unwrap();
    assert_eq!(read(&*driver, &key).await.len(), 5);
}

/// An upload grows, in several openings, and becomes an object
pub async fn appends_and_publishes(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "appends").await;
    let (upload, to) = (child(&folder, "up/data"), child(&folder, "to/ab/data"));
    for (round, sizes) in [
        vec![],
        vec![1],
        vec![10, 0, 20_000, 5],
        vec![600_000; 8],
        vec![1; 100],
    ]
    .into_iter()
    .enumerate()
    {
        let mut expected = Vec::new();
        for half in sizes.chunks(sizes.len().div_ceil(2).max(1)) {
            let mut append = driver.append(&upload).await.unwrap();
            assert_eq!(append.size(), expected.len() as u64);
            for size in half {
                let bytes = pattern(*size, expected.len() as u8);
                expected.extend_from_slice(&bytes);
                append.write(bytes).await.unwrap();
                assert_eq!(append.size(), expected.len() as u64);
            }
            append.sync().await.unwrap();
            let stat = driver.progress(&upload).await.unwrap();
            assert_eq!(stat.size, expected.len() as u64, "what is synced is seen");
            append.sync().await.unwrap();
            drop(append);
        }
        if sizes.is_empty() {
            drop(driver.append(&upload).await.unwrap());
        }
        let mut append = reopen(&*driver, &upload).await;
        append.publish(&to).await.unwrap();
        assert!(append.write(pattern(1, 1)).await.is_err(), "it has ended");
        assert!(append.publish(&to).await.is_err(), "it has ended");
        drop(append);
        assert_no_upload(&*driver, &upload).await;
        assert!(read(&*driver, &to).await == expected, "round {round}");
    }
}

/// An upload is published without a sync, wherever it was aimed, or kept after all
pub async fn publishes_what_was_not_synced(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "unsynced").await;
    let (upload, to) = (child(&folder, "up/data"), child(&folder, "to/ab/data"));
    for (size, aim) in [
        (0, None),
        (10, None),
        (10, Some(&to)),
        (3_000_000, None),
        (3_000_000, Some(&to)),
    ] {
        let mut append = driver.append(&upload).await.unwrap();
        if let Some(aim) = aim {
            append.aim(aim);
        }
        append.write(pattern(size, 1)).await.unwrap();
        append.write(pattern(size, 2)).await.unwrap();
        append.publish(&to).await.unwrap();
        drop(append);
        assert_no_upload(&*driver, &upload).await;
        let expected = [pattern(size, 1), pattern(size, 2)].concat();
        assert!(read(&*driver, &to).await == expected, "{size} {aim:?}");
        driver.delete(&to).await.unwrap();

        let mut append = driver.append(&upload).await.unwrap();
        if let Some(aim) = aim {
            append.aim(aim);
        }
        append.write(pattern(size, 3)).await.unwrap();
        append.sync().await.unwrap();
        let kept = append.size();
        assert!(kept == size as u64 || (aim.is_some() && kept == 0));
        append.write(pattern(size, 4)).await.unwrap();
        append.sync().await.unwrap();
        drop(append);
        assert_absent(&*driver, &to).await;
        let found = content(&*driver, &upload).await;
        let all = [pattern(size, 3), pattern(size, 4)].concat();
        assert!(all[size - kept as usize..] == found, "{size} {aim:?}");
        driver.delete_tree(&child(&folder, "up")).await.unwrap();
    }
}

/// Pieces keep their order, also while those before them are being synced
pub async fn writes_pieces_while_it_syncs(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "pieces").await;
    let (upload, to) = (child(&folder, "up/data"), child(&folder, "to/ab/data"));
    let mut append = driver.append(&upload).await.unwrap();
    let mut expected = Vec::new();
    for round in 0..6 {
        let pieces: Vec<_> = [0, 1, 100_000, 0, 300_000, 7]
            .into_iter()
            .map(|size| pattern(size, round))
            .collect();
        expected.extend(pieces.concat());
        append.write_vectored(pieces).await.unwrap();
        append.write_vectored(Vec::new()).await.unwrap();
        assert_eq!(append.size(), expected.len() as u64);
        if round % 2 == 1 {
            append.sync_behind().await.unwrap();
        }
    }
    // What is cut off does not come back with a sync that began before.
    append.sync().await.unwrap();
    append.write(pattern(200_000, 9)).await.unwrap();
    if driver.notes().is_none() {
        append.sync_behind().await.unwrap();
    }
    append.truncate(expected.len() as u64).await.unwrap();
    append.write(pattern(10, 10)).await.unwrap();
    expected.extend(pattern(10, 10));
    append.sync_behind().await.unwrap();
    append.publish(&to).await.unwrap();
    assert!(read(&*driver, &to).await == expected);
}

/// What is to be there before an upload becomes an object is there with it, or is refused
pub async fn publishes_in_company(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "company").await;
    let (upload, to) = (child(&folder, "up/data"), child(&folder, "to/ab/data"));
    let link = child(&folder, "links/ab/link");
    // Not there; there with the same content; there with other content.
    for text in ["one", "one", "another"] {
        let mut append = driver.append(&upload).await.unwrap();
        append.write(pattern(100_000, 1)).await.unwrap();
        let before = driver.read(&link, 100).await.ok();
        let stored = append.accompany(&link, text.into());
        assert_eq!(driver.read(&link, 100).await.ok(), before, "too early");
        append.publish(&to).await.unwrap();
        assert!(read(&*driver, &to).await == pattern(100_000, 1));
        match stored {
            true => assert_eq!(driver.read(&link, 100).await.unwrap(), text),
            false => assert_eq!(driver.read(&link, 100).await.ok(), before),
        }
    }

    // One that is not published brings nothing with it.
    let mut append = driver.append(&upload).await.unwrap();
    let _ = append.accompany(&child(&folder, "links/no/link"), "no".into());
    append.sync().await.unwrap();
    drop(append);
    assert_absent(&*driver, &child(&folder, "links/no/link")).await;
}

/// What was written is read once more, and then published, or cut to nothing
pub async fn gives_back_what_was_written(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "content").await;
    let (upload, to) = (child(&folder, "up/data"), child(&folder, "to"));
    for size in [0, 10, 3_000_000] {
        let mut append = driver.append(&upload).await.unwrap();
        append.write(pattern(size, 1)).await.unwrap();
        append.sync().await.unwrap();
        append.write(pattern(size, 2)).await.unwrap();
        let expected = [pattern(size, 1), pattern(size, 2)].concat();
        for _ in 0..2 {
            let found = whole(append.content().await.unwrap()).await;
            assert!(found == expected, "{size}");
        }
        append.sync().await.unwrap();
        assert_eq!(append.size(), expected.len() as u64);
        drop(append);
        let mut append = reopen(&*driver, &upload).await;
        assert_eq!(append.size(), expected.len() as u64);
        append.publish(&to).await.unwrap();
        drop(append);
        assert!(read(&*driver, &to).await == expected, "{size}");

        let mut append = driver.append(&upload).await.unwrap();
        append.write(pattern(size, 3)).await.unwrap();
        drop(append.content().await.unwrap());
        append.truncate(0).await.unwrap();
        append.write(pattern(size, 4)).await.unwrap();
        append.publish(&to).await.unwrap();
        drop(append);
        assert!(read(&*driver, &to).await == pattern(size, 4), "{size}");
    }
}

/// An upload that was published or deleted does not come back
pub async fn reopens_only_what_is_there(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "reopens").await;
    let upload = child(&folder, "session/data");
    let error = driver.reopen(&upload).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_no_upload(&*driver, &upload).await;

    let mut append = driver.append(&upload).await.unwrap();
    append.write(pattern(10, 1)).await.unwrap();
    append.sync().await.unwrap();
    let error = driver.reopen(&upload).await.unwrap_err();
    assert!(matches!(error, StorageError::Busy { .. }), "{error}");
    drop(append);
    let mut append = driver.reopen(&upload).await.unwrap();
    assert_eq!(append.size(), 10);

    let to = child(&folder, "blob");
    append.publish(&to).await.unwrap();
    drop(append);
    let error = driver.reopen(&upload).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    drop(driver.append(&upload).await.unwrap());
    driver
        .delete_tree(&child(&folder, "session"))
        .await
        .unwrap();
    let error = driver.reopen(&upload).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_no_upload(&*driver, &upload).await;
}

/// An upload is cut to what is known of it, and never lengthened
pub async fn cuts_an_upload(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "cuts").await;
    let upload = child(&folder, "data");
    let mut append = driver.append(&upload).await.unwrap();
    append.write(pattern(100_000, 1)).await.unwrap();
    append.sync().await.unwrap();
    append.write(pattern(100_000, 2)).await.unwrap();
    // Where nothing was synced it may be possible or not.
    let size = match append.truncate(100_010).await {
        Ok(()) => 100_010,
        Err(error) => {
            assert!(error.is_corrupt(), "{error}");
            200_000
        }
    };
    assert_eq!(append.size(), size);
    append.truncate(100_000).await.unwrap();
    append.truncate(100_000).await.unwrap();
    let error = append.truncate(100_001).await.unwrap_err();
    assert!(error.is_corrupt(), "{error}");
    assert_eq!(append.size(), 100_000);
    append.write(pattern(20, 3)).await.unwrap();
    append.sync().await.unwrap();
    drop(append);

    // After a restart the end is taken for what was not acknowledged.
    let mut append = driver.append(&upload).await.unwrap();
    assert_eq!(append.size(), 100_020);
    append.write(pattern(300_000, 5)).await.unwrap();
    append.sync().await.unwrap();
    drop(append);
    let mut append = reopen(&*driver, &upload).await;
    assert_eq!(append.size(), 400_020);
    let mut expected = [pattern(100_000, 1), pattern(20, 3)].concat();
    if driver.notes().is_none() {
        append.truncate(100_020).await.unwrap();
    } else {
        expected.extend(pattern(300_000, 5));
    }
    append.write(pattern(5, 4)).await.unwrap();
    append.sync().await.unwrap();
    drop(append);
    expected.extend(pattern(5, 4));
    assert!(content(&*driver, &upload).await == expected);
    let mut append = reopen(&*driver, &upload).await;
    append.truncate(0).await.unwrap();
    append.sync().await.unwrap();
    append.write(pattern(7, 6)).await.unwrap();
    append.sync().await.unwrap();
    drop(append);
    assert_eq!(content(&*driver, &upload).await, pattern(7, 6));
}

/// A note, where a driver keeps any, is of the bytes that are kept and of no others
pub async fn keeps_notes_with_the_bytes(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "notes").await;
    let upload = child(&folder, "data");
    let Some(notes) = driver.notes() else {
        let mut append = driver.append(&upload).await.unwrap();
        append.annotate("nowhere".into());
        append.sync().await.unwrap();
        assert_eq!(append.note(), None);
        return;
    };
    let error = notes.look(&upload).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    notes.begin(&upload, "a\nnote".into()).await.unwrap();
    let look = notes.look(&upload).await.unwrap();
    assert_eq!((look.stat().size, &*look.note()), (0, &b"a\nnote"[..]));
    let stale = notes.look(&upload).await.unwrap();

    let mut append = look.open().await.unwrap();
    let error = notes.look(&upload).await.unwrap().open().await.unwrap_err();
    assert!(error.is_busy(), "{error}");
    append.write(pattern(200_000, 1)).await.unwrap();
    append.annotate("another".into());
    append.sync().await.unwrap();
    assert_eq!(append.note().unwrap(), "another");
    append.write(pattern(10, 2)).await.unwrap();
    append.annotate("of what is lost".into());
    drop(append);
    // Whoever looked before goes on from what was kept since.
    let mut append = stale.open().await.unwrap();
    assert_eq!(append.size(), 200_000);
    assert_eq!(append.note().unwrap(), "another");
    // Without bytes too, and where others are cut off.
    append.annotate("of less".into());
    append.truncate(0).await.unwrap();
    append.sync().await.unwrap();
    drop(append);
    let look = notes.look(&upload).await.unwrap();
    assert_eq!((look.stat().size, &*look.note()), (0, &b"of less"[..]));
    let mut append = look.open().await.unwrap();
    append.write(pattern(5, 3)).await.unwrap();
    let to = child(&folder, "to");
    append.publish(&to).await.unwrap();
    drop(append);
    assert_no_upload(&*driver, &upload).await;
    let error = notes.look(&upload).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    assert_eq!(read(&*driver, &to).await, pattern(5, 3));
}

/// Of several that open an upload one gets it, and the others are told to come back
pub async fn one_writer_per_upload(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "one-writer").await;
    let upload = child(&folder, "sub/data");
    let openings = join_all((0..8).map(|_| {
        let (driver, upload) = (driver.clone(), upload.clone());
        tokio::spawn(async move { driver.append(&upload).await })
    }));
    let openings: Vec<_> = openings.await.into_iter().map(Result::unwrap).collect();
    let (mine, others): (Vec<_>, Vec<_>) = openings.into_iter().partition(Result::is_ok);
    assert_eq!(mine.len(), 1, "writers at the same time");
    for error in others {
        let error = error.unwrap_err();
        assert!(error.is_busy(), "{error}");
        assert!(error.retry_after().is_some());
    }
    // Another upload is another matter, and so is reading.
    drop(driver.append(&child(&folder, "sub/data2")).await.unwrap());
    assert_eq!(driver.progress(&upload).await.unwrap().size, 0);
    drop(mine);
    reopen(&*driver, &upload).await;
}

/// A writer that is dropped in the middle leaves what it wrote, and then the next can go on
pub async fn a_dropped_writer_loses_only_the_lock(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "dropped").await;
    for round in 0..10 {
        let upload = child(&folder, &format!("{round}/data"));
        let mut append = driver.append(&upload).await.unwrap();
        append.write(pattern(1000, 1)).await.unwrap();
        append.sync().await.unwrap();
        append.write(pattern(2_000_000, 2)).await.unwrap();
        drop(append);
        let mut append = reopen(&*driver, &upload).await;
        assert!((1000..=2_001_000).contains(&append.size()));
        append.truncate(1000).await.unwrap();
        append.write(pattern(2_000_000, 3)).await.unwrap();
        append.sync().await.unwrap();
        drop(append);
        let expected = [pattern(1000, 1), pattern(2_000_000, 3)].concat();
        assert!(
            content(&*driver, &upload).await == expected,
            "writers mixed"
        );
    }
}

/// A writer whose upload is deleted or published does not bring it back
pub async fn a_deleted_upload_stays_deleted(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "deleted-upload").await;
    let session = child(&folder, "session");
    let upload = child(&session, "data");
    let to = child(&folder, "blob");
    for publish in [false, true] {
        let mut append = driver.append(&upload).await.unwrap();
        append.write(pattern(100_000, 1)).await.unwrap();
        append.sync().await.unwrap();
        if publish {
            append.publish(&to).await.unwrap();
        }
        driver.delete_tree(&session).await.unwrap();
        // Whether this is an error does not matter, nobody is to be told that it worked.
        if !publish {
            let _ = append.write(pattern(100_000, 2)).await;
            let _ = append.sync().await;
        }
        drop(append);
        assert_no_upload(&*driver, &upload).await;
    }
    // Nor does a deleted one, which may become an object and nothing else.
    let mut append = driver.append(&upload).await.unwrap();
    append.write(pattern(3_000_000, 3)).await.unwrap();
    append.sync().await.unwrap();
    driver.delete_tree(&session).await.unwrap();
    let expected = match append.publish(&to).await {
        Ok(()) => pattern(3_000_000, 3),
        Err(_) => pattern(100_000, 1),
    };
    drop(append);
    assert_no_upload(&*driver, &upload).await;
    assert!(read(&*driver, &to).await == expected);
    // The name is free for another, which begins anew.
    assert_eq!(reopen(&*driver, &upload).await.size(), 0);
}

/// Of uploads that become the same object at the same time, each succeeds and one remains
pub async fn racing_publishers_leave_one_whole_object(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "racing-publishers").await;
    let to = child(&folder, "blobs/ab/data");
    let publishers = join_all((0..8).map(|index: u8| {
        let (driver, to) = (driver.clone(), to.clone());
        let upload = child(&folder, &format!("uploads/{index}/data"));
        tokio::spawn(async move {
            let mut append = driver.append(&upload).await.unwrap();
            append.write(pattern(300_000, index)).await.unwrap();
            append.publish(&to).await.unwrap();
            let (_, found) = collect(&*driver, &to, None).await.unwrap();
            assert!((0..8).any(|index| pattern(300_000, index) == found));
        })
    }));
    for publisher in publishers.await {
        publisher.unwrap();
    }
    let found = read(&*driver, &to).await;
    assert!((0..8).any(|index| pattern(300_000, index) == found));
}

/// What one writes, renames and deletes, the other sees at once
pub async fn sees_what_the_other_does(one: &dyn Driver, other: &dyn Driver) {
    let folder = empty(one, "shared-objects").await;
    let (a, b) = (child(&folder, "sub/a"), child(&folder, "sub/b"));
    // The absence that was seen must not be remembered.
    assert_absent(other, &a).await;
    one.write(&a, pattern(10, 1)).await.unwrap();
    assert_eq!(read(other, &a).await, pattern(10, 1));
    other.write(&a, pattern(10, 2)).await.unwrap();
    assert_eq!(read(one, &a).await, pattern(10, 2));
    assert_absent(other, &b).await;
    one.rename(&a, &b).await.unwrap();
    assert_absent(other, &a).await;
    assert_eq!(read(other, &b).await, pattern(10, 2));
    let found = other.list(Some(&child(&folder, "sub")), None, 10).await;
    assert_eq!(found.unwrap(), [Entry::object("b")]);
    one.delete(&b).await.unwrap();
    assert_absent(other, &b).await;
    other.write(&b, pattern(10, 3)).await.unwrap();
    one.delete_tree(&folder).await.unwrap();
    assert_absent(other, &b).await;
}

/// Of two that go on with an upload at the same time, one keeps it
pub async fn is_kept_from_uploads_that_the_other_has_open(one: &dyn Driver, other: &dyn Driver) {
    let folder = empty(one, "shared-lock").await;
    for publish in [false, true] {
        let upload = child(&folder, "up/data");
        let mut mine = one.append(&upload).await.unwrap();
        match other.reopen(&upload).await {
            Err(error) => assert!(error.is_busy(), "{error}"),
            Ok(mut theirs) => {
                theirs.write(pattern(3_000_000, 1)).await.unwrap();
                mine.write(pattern(3_000_000, 2)).await.unwrap();
                theirs.sync().await.unwrap();
                let to = child(&folder, "to");
                let late = match publish {
                    true => mine.publish(&to).await,
                    false => mine.sync().await,
                };
                drop(theirs);
                match late {
                    Err(error) => {
                        assert!(error.is_busy(), "{error}");
                        assert_absent(one, &to).await;
                    }
                    // What is published needs nothing of the upload any more.
                    Ok(()) => {
                        assert!(publish, "both synced");
                        assert!(read(other, &to).await == pattern(3_000_000, 2));
                        continue;
                    }
                }
                let found = content(other, &upload).await;
                assert!(found == pattern(3_000_000, 1));
            }
        }
        drop(mine);
        drop(reopen(other, &upload).await);
        drop(reopen(one, &upload).await);
        one.delete_tree(&folder).await.unwrap();
    }
}

/// What one has synced, the other goes on with and publishes
pub async fn goes_on_with_the_uploads_of_the_other(one: &dyn Driver, other: &dyn Driver) {
    let folder = empty(one, "shared-uploads").await;
    let (upload, to) = (child(&folder, "up/data"), child(&folder, "to/data"));
    let mut append = one.append(&upload).await.unwrap();
    append.write(pattern(100_000, 1)).await.unwrap();
    append.sync().await.unwrap();
    drop(append);
    let mut append = reopen(other, &upload).await;
    assert_eq!(append.size(), 100_000);
    append.write(pattern(100_000, 2)).await.unwrap();
    append.sync().await.unwrap();
    drop(append);
    let mut append = reopen(one, &upload).await;
    append.publish(&to).await.unwrap();
    drop(append);
    assert_no_upload(other, &upload).await;
    let expected = [pattern(100_000, 1), pattern(100_000, 2)].concat();
    assert!(read(other, &to).await == expected);
}

/// An empty folder of the rule's own
async fn empty(driver: &dyn Driver, rule: &str) -> Key {
    let folder = child(&Key::parse("suite").unwrap(), rule);
    driver.delete_tree(&folder).await.unwrap();
    folder
}

fn child(folder: &Key, path: &str) -> Key {
    folder.child(path).unwrap()
}

/// Bytes in which a shift, a gap or a piece of another seed would show
fn pattern(size: usize, seed: u8) -> Bytes {
    let mut state = u64::from(seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(size);
    bytes.into()
}

async fn read(driver: &dyn Driver, key: &Key) -> Bytes {
    driver.read(key, usize::MAX).await.unwrap()
}

async fn collect(
    driver: &dyn Driver,
    key: &Key,
    range: Option<ByteRange>,
) -> Result<(u64, Bytes), StorageError> {
    let (size, stream) = driver.stream(key, range).await?;
    Ok((size, gathered(stream).await?))
}

async fn gathered(mut stream: ByteStream) -> Result<Bytes, StorageError> {
    let mut all = Vec::new();
    while let Some(bytes) = stream.try_next().await? {
        assert!(!bytes.is_empty(), "an empty part");
        all.extend_from_slice(&bytes);
    }
    Ok(all.into())
}

async fn whole(stream: ByteStream) -> Bytes {
    gathered(stream).await.unwrap()
}

/// What is kept of an upload that nobody has open
async fn content(driver: &dyn Driver, upload: &Key) -> Bytes {
    let mut append = reopen(driver, upload).await;
    let found = whole(append.content().await.unwrap()).await;
    assert_eq!(append.size(), found.len() as u64);
    found
}

async fn assert_no_upload(driver: &dyn Driver, upload: &Key) {
    let error = driver.progress(upload).await.unwrap_err();
    assert!(error.is_not_found(), "progress {upload}: {error}");
    let error = driver.reopen(upload).await.unwrap_err();
    assert!(error.is_not_found(), "reopen {upload}: {error}");
    assert_absent(driver, upload).await;
}

async fn assert_absent(driver: &dyn Driver, key: &Key) {
    let error = driver.read(key, 100).await.unwrap_err();
    assert!(error.is_not_found(), "read {key}: {error}");
    let error = driver.stat(key).await.unwrap_err();
    assert!(error.is_not_found(), "stat {key}: {error}");
    let error = driver.stream(key, None).await.map(|_| ()).unwrap_err();
    assert!(error.is_not_found(), "stream {key}: {error}");
}

/// Opens an upload whose last writer was dropped and may still have a write under way
async fn reopen(driver: &dyn Driver, upload: &Key) -> Box<dyn Append> {
    for _ in 0..1000 {
        match driver.append(upload).await {
            Err(StorageError::Busy { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            opened => return opened.unwrap(),
        }
    }
    panic!("{upload} is still locked ten seconds after its writer was dropped");
}

/// Tries until the driver is no longer busy
async fn eventually<F>(mut attempt: impl FnMut() -> F)
where
    F: Future<Output = Result<(), StorageError>>,
{
    for _ in 0..1000 {
        match attempt().await {
            Err(StorageError::Busy { .. }) => tokio::time::sleep(Duration::from_millis(10)).await,
            done => return done.unwrap(),
        }
    }
    panic!("busy for ten seconds");
}
