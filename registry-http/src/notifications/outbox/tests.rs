use std::fs;
use std::path::Path;
use std::task::{Context, Waker};

use futures::FutureExt;
use futures::future::join_all;
use registry_core::event::{ActorRecord, EventAction, RequestRecord, SourceRecord, Target};

use super::*;

fn event(id: &str, action: EventAction) -> Event {
    Event {
        id: id.to_owned(),
        timestamp: "2006-01-02T15:04:05Z".to_owned(),
        action,
        target: Target::default(),
        request: RequestRecord::default(),
        actor: ActorRecord::default(),
        source: SourceRecord::default(),
    }
}

fn push(id: impl ToString) -> Event {
    event(&id.to_string(), EventAction::Push)
}

fn pull(id: impl ToString) -> Event {
    event(&id.to_string(), EventAction::Pull)
}

fn options(folder: Option<&Path>) -> OutboxOptions {
    OutboxOptions {
        folder: folder.map(Path::to_owned),
        limit: 1024 * 1024,
        when_full: WhenFull::Refuse,
    }
}

fn endpoints(names: &[&str]) -> Vec<(String, Filter)> {
    names
        .iter()
        .map(|name| ((*name).to_owned(), Filter::default()))
        .collect()
}

fn open(folder: &Path, names: &[&str]) -> Outbox {
    Outbox::open(&options(Some(folder)), &endpoints(names)).unwrap()
}

/// The ids of all that waits for an endpoint
async fn waiting(outbox: &Outbox, name: &str) -> Vec<String> {
    let (events, _) = outbox.next(name, usize::MAX, usize::MAX).await.unwrap();
    let id = |json: &Vec<u8>| serde_json::from_slice::<Event>(json).unwrap().id;
    events.iter().map(id).collect()
}

/// Takes the first events of an endpoint
async fn take(outbox: &Outbox, name: &str, events: usize) {
    let (_, last) = outbox.next(name, events, usize::MAX).await.unwrap();
    outbox.acknowledge(name, last);
}

/// Waits until all that was sent to the writer is done
async fn settle(outbox: &Outbox) {
    outbox.ask(|done| Command::Probe { done }).await.unwrap();
}

fn own_folder(outbox: &Outbox) -> &Path {
    outbox.folder.as_deref().unwrap()
}

fn segments(outbox: &Outbox) -> Vec<PathBuf> {
    let mut paths: Vec<_> = fs::read_dir(own_folder(outbox))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext != "json"))
        .collect();
    paths.sort();
    paths
}

fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|id| id.to_string()).collect()
}

#[tokio::test]
async fn events_wait_in_order_until_each_endpoint_took_them() {
    let base = tempfile::tempdir().unwrap();
    for folder in [None, Some(base.path())] {
        let outbox = Outbox::open(&options(folder), &endpoints(&["a", "b"])).unwrap();
        for id in 0..3 {
            outbox.append(&[push(id)]).await.unwrap();
        }
        outbox.notice(&pull(3));
        settle(&outbox).await;
        outbox.append(&[push(4), push(5)]).await.unwrap();
        take(&outbox, "a", 2).await;
        assert_eq!(waiting(&outbox, "a").await, ids(2..6));
        assert_eq!(waiting(&outbox, "b").await, ids(0..6));
        assert_eq!(outbox.stats().waiting, 10);
        take(&outbox, "b", 6).await;
        take(&outbox, "a", 4).await;
        assert_eq!((outbox.stats().waiting, outbox.stats().bytes), (0, 0));
        outbox.close().await;
    }
}

#[tokio::test]
async fn a_restart_goes_on_where_each_endpoint_was() {
    let base = tempfile::tempdir().unwrap();
    let outbox = open(base.path(), &["a", "b"]);
    outbox.append(&[push(0), push(1), push(2)]).await.unwrap();
    take(&outbox, "a", 2).await;
    outbox.close().await;
    assert!(matches!(
        outbox.append(&[push(9)]).await,
        Err(EventSinkError::Closed)
    ));

    let outbox = open(base.path(), &["a", "b", "new"]);
    assert_eq!(waiting(&outbox, "a").await, ["2"]);
    assert_eq!(waiting(&outbox, "b").await, ids(0..3));
    assert!(waiting(&outbox, "new").await.is_empty());
    outbox.append(&[push(3)]).await.unwrap();
    assert_eq!(waiting(&outbox, "a").await, ids(2..4));
    assert_eq!(waiting(&outbox, "new").await, ["3"]);
    for name in ["a", "b", "new"] {
        take(&outbox, name, 9).await;
    }
    outbox.close().await;

    let outbox = open(base.path(), &["a", "b"]);
    assert!(waiting(&outbox, "a").await.is_empty());
    outbox.append(&[push(4)]).await.unwrap();
    assert_eq!(
        waiting(&outbox, "b").await,
        ["4"],
        "numbers are not used twice"
    );
}

#[tokio::test]
async fn what_was_half_written_is_cut_off() {
    for (cut, kept) in [(0, 3), (1, 2), (100, 2)] {
        let base = tempfile::tempdir().unwrap();
        let outbox = open(base.path(), &["a"]);
        for id in 0..3 {
            outbox.append(&[push(id)]).await.unwrap();
        }
        let segment = segments(&outbox).remove(0);
        outbox.close().await;
        let bytes = fs::read(&segment).unwrap();
        let mut torn = bytes[..bytes.len() - cut].to_vec();
        torn.extend_from_slice(&[0; 13]);
        fs::write(&segment, torn).unwrap();

        let outbox = open(base.path(), &["a"]);
        assert_eq!(waiting(&outbox, "a").await, ids(0..kept), "{cut} bytes cut");
        outbox.append(&[push(kept)]).await.unwrap();
        outbox.close().await;
        let outbox = open(base.path(), &["a"]);
        assert_eq!(waiting(&outbox, "a").await, ids(0..kept + 1));
    }
}

#[tokio::test]
async fn a_file_of_another_version_is_left_alone() {
    let base = tempfile::tempdir().unwrap();
    let outbox = open(base.path(), &["a"]);
    outbox.append(&[push(0)]).await.unwrap();
    let segment = segments(&outbox).remove(0);
    outbox.close().await;
    let newer = b"events2\n and more";
    fs::write(&segment, newer).unwrap();
    let error = Outbox::open(&options(Some(base.path())), &[]).unwrap_err();
    assert!(error.to_string().contains("move the file away"), "{error}");

    let other = tempfile::tempdir().unwrap();
    let serving = open(other.path(), &["a"]);
    let left = other.path().join("left");
    fs::rename(segment.parent().unwrap(), &left).unwrap();
    assert_eq!(serving.adopt().unwrap(), 0);
    assert_eq!(
        fs::read(left.join(segment.file_name().unwrap())).unwrap(),
        newer
    );

    // What a crash before the first record leaves is none.
    for torn in [&b""[..], b"eve", &[0; 30]] {
        fs::write(left.join(segment.file_name().unwrap()), torn).unwrap();
        let contents = Folder::claim(other.path()).unwrap().load().unwrap();
        assert_eq!((contents.segments.len(), contents.events.len()), (1, 0));
    }
}

#[tokio::test]
async fn without_cursors_all_is_sent_again() {
    let base = tempfile::tempdir().unwrap();
    let outbox = open(base.path(), &["a"]);
    outbox.append(&[push(0), push(1)]).await.unwrap();
    take(&outbox, "a", 1).await;
    let cursors = own_folder(&outbox).join("cursors.json");
    outbox.close().await;
    fs::write(&cursors, "{").unwrap();
    let outbox = open(base.path(), &["a"]);
    assert_eq!(waiting(&outbox, "a").await, ids(0..2));
}

#[tokio::test]
async fn segments_that_all_have_passed_are_deleted() {
    let base = tempfile::tempdir().unwrap();
    let mut options = options(Some(base.path()));
    options.limit = 64 * 1024;
    let outbox = Outbox::open(&options, &endpoints(&["a", "b"])).unwrap();
    let long = "x".repeat(1000);
    for _ in 0..40 {
        outbox.append(&[push(&long)]).await.unwrap();
    }
    let before = segments(&outbox).len();
    assert!(before > 5, "{before} segments");
    take(&outbox, "a", 40).await;
    outbox.close().await;
    assert!(segments(&outbox).len() >= before - 1, "b has taken nothing");
    let outbox = Outbox::open(&options, &endpoints(&["a", "b"])).unwrap();
    take(&outbox, "b", 40).await;
    outbox.close().await;
    assert_eq!(segments(&outbox), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn many_requests_share_a_sync() {
    let base = tempfile::tempdir().unwrap();
    let outbox = open(base.path(), &["a"]);
    let mut appends = join_all((0..200).map(|id| {
        let outbox = &outbox;
        async move { outbox.append(&[push(id)]).await }
    }));
    {
        // The writer cannot go on, as if the disk were slow, while all requests come.
        let _state = outbox.shared.state();
        assert!(
            appends
                .poll_unpin(&mut Context::from_waker(Waker::noop()))
                .is_pending()
        );
    }
    for result in appends.await {
        result.unwrap();
    }
    assert_eq!(waiting(&outbox, "a").await, ids(0..200));
    let stats = outbox.stats();
    assert_eq!(stats.recorded, 200);
    assert!((1..=2).contains(&stats.syncs), "{} syncs", stats.syncs);
}

#[tokio::test]
async fn reads_make_room_for_changes_and_then_changes_are_refused() {
    let base = tempfile::tempdir().unwrap();
    let long = "x".repeat(1000);
    for folder in [None, Some(base.path())] {
        let mut options = options(folder);
        options.limit = 32 * 1024;
        let outbox = Outbox::open(&options, &endpoints(&["a"])).unwrap();
        for _ in 0..20 {
            outbox.notice(&pull(&long));
            settle(&outbox).await;
        }
        outbox.admit().await.unwrap();
        assert_eq!(outbox.stats().dropped_pulls, 0);
        let mut pushed = 0;
        while outbox.admit().await.is_ok() {
            outbox.append(&[push(pushed), push(&long)]).await.unwrap();
            pushed += 1;
            assert!(pushed < 100, "it is never full");
        }
        assert!(pushed > 20, "full after {pushed}");
        let stats = outbox.stats();
        assert_eq!((stats.dropped_pulls, stats.dropped_changes), (20, 0));
        assert_eq!(stats.refused, 1);
        outbox.notice(&pull("late"));
        settle(&outbox).await;
        assert_eq!(outbox.stats().dropped_pulls, 21);
        let found = waiting(&outbox, "a").await;
        let found: Vec<_> = found.into_iter().filter(|id| *id != long).collect();
        assert_eq!(found, ids(0..pushed), "no change is lost");

        take(&outbox, "a", pushed).await;
        outbox.admit().await.unwrap();
        outbox.close().await;
    }
}

#[tokio::test]
async fn the_oldest_changes_go_where_that_is_the_policy() {
    let base = tempfile::tempdir().unwrap();
    let mut options = options(Some(base.path()));
    options.limit = 32 * 1024;
    options.when_full = WhenFull::DropOldest;
    let outbox = Outbox::open(&options, &endpoints(&["a"])).unwrap();
    for id in 0..100 {
        outbox.admit().await.unwrap();
        outbox
            .append(&[push(id), push("x".repeat(1000))])
            .await
            .unwrap();
        assert!(outbox.stats().bytes <= 32 * 1024);
    }
    let stats = outbox.stats();
    assert_eq!(stats.dropped_changes + stats.waiting, 200);
    assert!(stats.dropped_changes > 100 && stats.waiting > 20);
    let found = waiting(&outbox, "a").await;
    assert!(found.contains(&"99".to_owned()) && !found.contains(&"0".to_owned()));
    outbox.close().await;
    let again = Outbox::open(&options, &endpoints(&["a"])).unwrap();
    assert_eq!(waiting(&again, "a").await, found);
}

#[tokio::test]
async fn an_outbox_that_cannot_be_written_says_so_until_it_can() {
    let base = tempfile::tempdir().unwrap();
    let outbox = open(base.path(), &["a"]);
    let folder = own_folder(&outbox).to_owned();
    fs::remove_dir_all(&folder).unwrap();
    outbox.admit().await.unwrap();
    assert!(matches!(
        outbox.append(&[push(0)]).await,
        Err(EventSinkError::Failed(_))
    ));
    assert!(matches!(
        outbox.admit().await,
        Err(EventSinkError::Failed(_))
    ));
    assert!(waiting(&outbox, "a").await.is_empty());
    fs::create_dir(&folder).unwrap();
    outbox.admit().await.unwrap();
    outbox.append(&[push(1)]).await.unwrap();
    assert_eq!(waiting(&outbox, "a").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_process_left_goes_to_those_who_did_not_take_it() {
    let base = tempfile::tempdir().unwrap();
    let gone = open(base.path(), &["a", "b", "old"]);
    let serving = open(base.path(), &["a", "b", "new"]);
    assert_ne!(own_folder(&gone), own_folder(&serving));
    gone.append(&[push(0), push(1)]).await.unwrap();
    take(&gone, "a", 1).await;
    serving.append(&[push(9)]).await.unwrap();
    assert_eq!(serving.adopt().unwrap(), 0, "it is alive");
    gone.close().await;

    let serving = Arc::new(serving);
    let adopt = || {
        let serving = serving.clone();
        tokio::task::spawn_blocking(move || serving.adopt().unwrap())
    };
    assert_eq!(adopt().await.unwrap(), 2);
    assert!(!own_folder(&gone).exists());
    assert_eq!(waiting(&serving, "a").await, ["9", "1"]);
    assert_eq!(waiting(&serving, "b").await, ["9", "0", "1"]);
    assert_eq!(waiting(&serving, "new").await, ["9"]);
    assert_eq!(adopt().await.unwrap(), 0);
    serving.close().await;

    let again = open(base.path(), &["a", "b", "new"]);
    assert_eq!(waiting(&again, "a").await, ["9", "1"]);
    assert_eq!(waiting(&again, "b").await, ["9", "0", "1"]);
    assert_eq!(waiting(&again, "new").await, ["9"]);
}

#[tokio::test]
async fn endpoints_change_while_events_come_in() {
    let base = tempfile::tempdir().unwrap();
    let outbox = open(base.path(), &["a", "b"]);
    outbox.append(&[push(0)]).await.unwrap();
    outbox.subscribe(endpoints(&["a", "c"])).await.unwrap();
    outbox.append(&[push(1)]).await.unwrap();
    assert_eq!(waiting(&outbox, "a").await, ids(0..2));
    assert_eq!(waiting(&outbox, "c").await, ["1"]);
    assert_eq!(outbox.stats().waiting, 3);
    // A crash right after: nothing but what is on disk is left.
    let folder = own_folder(&outbox).to_owned();
    let copy = tempfile::tempdir().unwrap();
    let into = copy.path().join("gone");
    fs::create_dir(&into).unwrap();
    for entry in fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, into.join(path.file_name().unwrap())).unwrap();
    }
    let after = open(copy.path(), &["a", "c"]);
    assert_eq!(waiting(&after, "a").await, ids(0..2));
    assert_eq!(waiting(&after, "c").await, ["1"]);
}

#[tokio::test]
async fn nobody_is_told_what_it_ignores() {
    let mut filter = Filter {
        actions: vec![EventAction::Pull],
        ..Filter::default()
    };
    filter
        .media_types
        .push("application/octet-stream".to_owned());
    let outbox = Outbox::open(&options(None), &[("a".to_owned(), filter)]).unwrap();
    let mut blob = push(0);
    blob.target.media_type = Some("application/octet-stream".try_into().unwrap());
    outbox.append(&[blob, push(1)]).await.unwrap();
    outbox.notice(&pull(2));
    settle(&outbox).await;
    assert_eq!(waiting(&outbox, "a").await, ["1"]);
    assert_eq!(outbox.endpoint_stats("a").events, 1);
    assert_eq!(outbox.stats().dropped_pulls, 0);
}
