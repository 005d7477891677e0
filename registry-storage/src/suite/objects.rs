//! Rules of objects: whole values under keys

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::join_all;
use registry_core::range::ByteRange;

use super::{assert_absent, child, collect, empty, eventually, in_pieces, pattern, read};
use crate::driver::{Driver, Entry};

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
        let pieces = in_pieces(&*driver, &key, None).await.unwrap();
        assert!(pieces == (found, whole), "the pieces of {size}");
        for (start, end) in [
            (0, 0),
            (0, size.saturating_sub(1)),
            (size / 2, size.saturating_sub(1)),
            (size / 3, size / 2),
            (size.saturating_sub(1), size.saturating_sub(1)),
        ] {
            let range = ByteRange::new(start as u64, end as u64).unwrap();
            let part = collect(&*driver, &key, Some(range)).await;
            let pieces = in_pieces(&*driver, &key, Some(range)).await;
            if size == 0 {
                assert!(part.unwrap_err().is_corrupt());
                assert!(pieces.unwrap_err().is_corrupt());
                continue;
            }
            let (found, part) = part.unwrap();
            assert_eq!(found, size as u64);
            assert!(part == bytes.slice(start..=end), "{range} of {size}");
            assert!(
                pieces.unwrap() == (found, part),
                "the pieces of {range} of {size}"
            );
        }
        for (start, end) in [(0, size), (size, size), (size + 5, size + 9)] {
            let range = ByteRange::new(start as u64, end as u64).unwrap();
            let error = collect(&*driver, &key, Some(range)).await.unwrap_err();
            assert!(error.is_corrupt(), "{range} of {size}: {error}");
            let error = in_pieces(&*driver, &key, Some(range)).await.unwrap_err();
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
