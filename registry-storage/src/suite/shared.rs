//! What two drivers on one storage owe each other

use super::{assert_absent, assert_no_upload, child, content, empty, pattern, read, reopen};
use crate::driver::{Driver, Entry};

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
