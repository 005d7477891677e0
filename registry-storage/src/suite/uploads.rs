//! Rules of uploads: files that grow, and become objects

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;

use super::{
    assert_absent, assert_no_upload, child, collect, content, empty, pattern, read, reopen, whole,
};
use crate::driver::Driver;
use crate::error::StorageError;

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

/// The first and the last of an upload may be done together with something else, or are refused
pub async fn begins_and_ends_in_few_steps(driver: Arc<dyn Driver>) {
    let folder = empty(&*driver, "few").await;
    let (session, to) = (child(&folder, "up/1"), child(&folder, "to/ab/data"));
    let (upload, beside) = (child(&session, "data"), child(&session, "begun"));
    for size in [0, 10, 4096, 20_000, 2_000_000] {
        match driver.begin_with(&upload, &beside, "now".into()) {
            Some(begun) => {
                begun.await.unwrap();
                assert_eq!(driver.progress(&upload).await.unwrap().size, 0);
                assert_eq!(driver.read(&beside, 100).await.unwrap(), "now");
            }
            None => {
                drop(driver.append(&upload).await.unwrap());
                driver.write(&beside, "now".into()).await.unwrap();
            }
        }
        let other = child(&session, "states/0");
        driver.write(&other, "x".into()).await.unwrap();

        // What comes last is there for whatever is done next.
        let parts = [pattern(size, 1), pattern(size, 2), pattern(size, 3)];
        let mut append = reopen(&*driver, &upload).await;
        append.write_last(vec![parts[0].clone()]).await.unwrap();
        assert_eq!(append.size(), size as u64);
        append.sync().await.unwrap();
        assert_eq!(driver.progress(&upload).await.unwrap().size, size as u64);
        let last = vec![parts[1].clone(), Bytes::new()];
        append.write_last(last).await.unwrap();
        append.sync().await.unwrap();
        drop(append);
        let mut append = reopen(&*driver, &upload).await;
        assert_eq!(append.size(), 2 * size as u64);
        append.write_last(vec![parts[2].clone()]).await.unwrap();
        if size == 4096 {
            assert!(whole(append.content().await.unwrap()).await == parts.concat());
        }
        let goes = append.vacate();
        assert_eq!(driver.read(&beside, 100).await.unwrap(), "now", "too early");
        append.publish(&to).await.unwrap();
        drop(append);
        assert!(read(&*driver, &to).await == parts.concat(), "{size}");
        assert_no_upload(&*driver, &upload).await;
        for key in [&beside, &other] {
            match goes {
                true => assert_absent(&*driver, key).await,
                false => assert!(driver.read(key, 100).await.is_ok()),
            }
        }
        driver.delete_tree(&session).await.unwrap();
    }
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
