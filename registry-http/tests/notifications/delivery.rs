//! Delivery: to receivers that fail, hang, close and go away

use std::time::{Duration, Instant};

use registry_core::event::EventAction;
use registry_http::notifications::{EndpointError, NotifierError, WhenFull};
use registry_http::{EventSink, EventSinkError, NotifierOptions};

use crate::receiver::{Answer, Receiver};
use crate::{endpoint, event, ids, notifier, until};

fn on(folder: &tempfile::TempDir) -> NotifierOptions {
    NotifierOptions::default()
        .with_folder(folder.path().to_owned())
        .with_adopt_interval(Duration::from_millis(20))
}

#[tokio::test]
async fn all_arrives_in_order_whatever_the_receiver_does() {
    let receiver = Receiver::start().await;
    receiver.answer(&[
        Answer::Status(500),
        Answer::Close,
        Answer::Hang,
        Answer::Status(302),
        Answer::Status(200),
        Answer::Status(404),
    ]);
    let notifier = notifier(
        NotifierOptions::default(),
        vec![endpoint("a", &receiver.url())],
    )
    .await;
    for id in 0..100 {
        notifier.record(vec![event(id)]).await.unwrap();
    }
    until("all arrived", || receiver.taken().len() >= 100).await;
    assert_eq!(receiver.taken_ids(), ids(0..100));

    // What was refused came again, with the same id.
    let posts = receiver.posts();
    let first: Vec<_> = posts[..5].iter().map(|post| &post.events[0].id).collect();
    assert_eq!(first, ["0"; 5]);

    until("the last is counted", || {
        notifier.stats().outbox.waiting == 0
    })
    .await;
    let stats = notifier.stats().endpoints.remove(0);
    assert_eq!(
        (stats.pending, stats.events, stats.successes),
        (0, 100, 100)
    );
    assert!(stats.failures >= 3 && stats.errors >= 2, "{stats:?}");
    assert_eq!((stats.statuses[&500], stats.statuses[&302]), (1, 1));
    let vars = serde_json::to_value(notifier.vars()).unwrap();
    assert_eq!(vars["endpoints"][0]["Metrics"]["Statuses"]["200 OK"], 100);
}

#[tokio::test]
async fn one_event_goes_alone_and_a_backlog_in_envelopes() {
    let receiver = Receiver::start().await;
    receiver.always(Some(Answer::Status(503)));
    let notifier = notifier(
        NotifierOptions::default(),
        vec![endpoint("a", &receiver.url())],
    )
    .await;
    for id in 0..500 {
        notifier.record(vec![event(id)]).await.unwrap();
    }
    until("it was tried", || receiver.posts().len() > 2).await;
    assert!(receiver.posts().iter().all(|post| post.events.len() == 1));
    receiver.always(None);
    until("all arrived", || receiver.taken().len() == 500).await;
    let posts = receiver.posts();
    let sizes: Vec<_> = posts
        .iter()
        .filter(|post| post.taken)
        .map(|post| post.events.len())
        .collect();
    assert_eq!(sizes[..7], [1, 2, 4, 8, 16, 32, 64]);
    assert!(sizes.iter().all(|size| *size <= 64));
    assert_eq!(
        posts[0].headers["content-type"],
        "application/vnd.docker.distribution.events.v1+json"
    );
    until("idle", || notifier.stats().outbox.waiting == 0).await;
    notifier.record(vec![event("alone")]).await.unwrap();
    until("it arrived", || receiver.taken().len() == 501).await;
    assert_eq!(receiver.posts().last().unwrap().events.len(), 1);
}

#[tokio::test]
async fn a_failing_endpoint_is_left_alone_for_its_backoff() {
    let receiver = Receiver::start().await;
    receiver.answer(&[Answer::Status(500); 4]);
    let backoff = Duration::from_millis(250);
    let endpoint = endpoint("a", &receiver.url())
        .with_threshold(3)
        .with_backoff(backoff);
    let notifier = notifier(NotifierOptions::default(), vec![endpoint]).await;
    let started = Instant::now();
    notifier.record(vec![event(0)]).await.unwrap();
    until("it arrived", || receiver.taken().len() == 1).await;
    // After the third failure and after the fourth; those before pause for less.
    assert!(started.elapsed() >= 2 * backoff);
    assert_eq!(receiver.posts().len(), 5);
}

#[tokio::test]
async fn a_hanging_endpoint_delays_nobody() {
    let (hanging, other) = (Receiver::start().await, Receiver::start().await);
    hanging.always(Some(Answer::Hang));
    let notifier = notifier(
        NotifierOptions::default(),
        vec![
            endpoint("hanging", &hanging.url()).with_timeout(Duration::from_secs(3600)),
            endpoint("other", &other.url()),
        ],
    )
    .await;
    notifier.record(vec![event(0)]).await.unwrap();
    until("it hangs", || hanging.posts().len() == 1).await;
    for id in 1..50 {
        notifier.record(vec![event(id)]).await.unwrap();
    }
    until("the other has all", || other.taken().len() == 50).await;
    assert_eq!(other.taken_ids(), ids(0..50));
    assert_eq!(hanging.posts().len(), 1);
    let stats = notifier.stats();
    assert_eq!(stats.endpoints[0].pending, 50);
    notifier.close(Duration::from_millis(10)).await;
}

#[tokio::test]
async fn what_was_not_taken_arrives_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await;
    let address = receiver.address;
    receiver.answer(&[Answer::Status(200), Answer::Status(200)]);
    receiver.always(Some(Answer::Status(500)));
    let endpoints = || vec![endpoint("a", &format!("http://{address}/callback"))];
    let before = notifier(on(&folder), endpoints()).await;
    before.record(vec![event(0)]).await.unwrap();
    until("the first arrived", || receiver.taken().len() == 1).await;
    before.record(vec![event(1)]).await.unwrap();
    until("the second arrived", || receiver.taken().len() == 2).await;
    for id in 2..40 {
        before.record(vec![event(id)]).await.unwrap();
    }
    until("the third was refused", || receiver.posts().len() > 2).await;
    before.close(Duration::ZERO).await;
    assert!(matches!(
        before.record(vec![event("late")]).await,
        Err(EventSinkError::Closed)
    ));
    drop(before);
    drop(receiver);

    let after = notifier(on(&folder), endpoints()).await;
    assert_eq!(after.stats().outbox.waiting, 38);
    after.record(vec![event(40)]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;
    let receiver = Receiver::on(address).await;
    until("all arrived", || receiver.taken().len() == 39).await;
    let mut expected = ids(2..40);
    expected.push("40".to_owned());
    assert_eq!(receiver.taken_ids(), expected);
    assert!(
        after.stats().endpoints[0].errors > 0,
        "nobody listened at first"
    );
}

#[tokio::test]
async fn another_process_on_the_share_delivers_what_one_left() {
    let folder = tempfile::tempdir().unwrap();
    let (down, up) = (Receiver::start().await, Receiver::start().await);
    down.always(Some(Answer::Status(500)));
    // The address is part of the configuration of the one that goes, the name is the same.
    let one = notifier(on(&folder), vec![endpoint("a", &down.url())]).await;
    let two = notifier(on(&folder), vec![endpoint("a", &up.url())]).await;
    for id in 0..20 {
        one.record(vec![event(id)]).await.unwrap();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(up.taken().len(), 0, "one is alive, its events are its own");
    // Without a word, as if it had crashed: only the lock goes.
    drop(one);
    until("two delivered all", || up.taken().len() == 20).await;
    assert_eq!(up.taken_ids(), ids(0..20));
    until("it is counted", || two.stats().outbox.adopted == 20).await;
    let left = || std::fs::read_dir(folder.path()).unwrap().count();
    until("the folder is gone", || left() == 1).await;
}

#[tokio::test]
async fn endpoints_change_without_loss() {
    let (old, new) = (Receiver::start().await, Receiver::start().await);
    old.always(Some(Answer::Hang));
    let notifier = notifier(NotifierOptions::default(), vec![endpoint("a", &old.url())]).await;
    for id in 0..10 {
        notifier.record(vec![event(id)]).await.unwrap();
    }
    until("it hangs", || !old.posts().is_empty()).await;

    let twice = vec![endpoint("a", &new.url()), endpoint("a", &old.url())];
    assert!(matches!(
        notifier.set_endpoints(twice).await,
        Err(NotifierError::Endpoint(EndpointError::Twice { .. }))
    ));
    assert_eq!(new.posts().len(), 0, "the old ones stay");

    let late = Receiver::start().await;
    notifier
        .set_endpoints(vec![
            endpoint("a", &new.url()),
            endpoint("late", &late.url()),
        ])
        .await
        .unwrap();
    notifier.record(vec![event(10)]).await.unwrap();
    until("the new url has all", || new.taken().len() == 11).await;
    assert_eq!(new.taken_ids(), ids(0..11));
    until("the new endpoint has what came since", || {
        late.taken().len() == 1
    })
    .await;
    assert_eq!(late.taken_ids(), ["10"]);

    notifier
        .set_endpoints(vec![endpoint("a", &new.url()).with_disabled(true)])
        .await
        .unwrap();
    notifier.record(vec![event(11)]).await.unwrap();
    assert_eq!(notifier.stats().outbox.waiting, 0);
    assert!(notifier.vars().endpoints.is_empty());
    assert_eq!(new.taken().len(), 11);
}

#[tokio::test]
async fn an_endpoint_is_told_what_it_wants_and_with_its_headers() {
    let receiver = Receiver::start().await;
    let url = format!("http://ada:s%3Acret@{}/callback", receiver.address);
    let picky = endpoint("picky", &url)
        .with_header("X-Key", "one")
        .unwrap()
        .with_ignored_actions(vec![EventAction::Pull])
        .with_ignored_media_types(vec!["application/octet-stream".to_owned()]);
    let notifier = notifier(NotifierOptions::default(), vec![picky]).await;
    let mut blob = event("blob");
    blob.target.media_type = Some("application/octet-stream".parse().unwrap());
    let mut pull = event("pull");
    pull.action = EventAction::Pull;
    notifier.notice(pull);
    notifier.record(vec![blob, event("wanted")]).await.unwrap();
    until("it arrived", || receiver.taken().len() == 1).await;
    assert_eq!(receiver.taken_ids(), ["wanted"]);
    let headers = &receiver.posts()[0].headers;
    assert_eq!(headers["x-key"], "one");
    // `ada:s:cret`
    assert_eq!(headers["authorization"], "Basic YWRhOnM6Y3JldA==");
    assert!(
        headers["user-agent"]
            .to_str()
            .unwrap()
            .starts_with("registry/")
    );
}

#[tokio::test]
async fn a_full_outbox_refuses_until_there_is_room() {
    let receiver = Receiver::start().await;
    receiver.always(Some(Answer::Status(500)));
    let options = NotifierOptions::default().with_limit(16 * 1024);
    assert_eq!(options.when_full, WhenFull::Refuse);
    let notifier = notifier(options, vec![endpoint("a", &receiver.url())]).await;
    let mut recorded = 0;
    let refused = loop {
        match notifier.admit().await {
            Ok(()) => notifier.record(vec![event(recorded)]).await.unwrap(),
            Err(error) => break error,
        }
        recorded += 1;
        assert!(recorded < 1000, "it is never full");
    };
    assert!(matches!(refused, EventSinkError::Full { limit: 16_384 }));
    assert_eq!(notifier.stats().outbox.refused, 1);
    receiver.always(None);
    until("all arrived", || receiver.taken().len() == recorded).await;
    assert_eq!(receiver.taken_ids(), ids(0..recorded));
    notifier.admit().await.unwrap();
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let options = NotifierOptions::default().with_folder(file.clone());
    let error = registry_http::Notifier::open(options, Vec::new())
        .await
        .unwrap_err();
    assert!(
        error.to_string().contains(file.to_str().unwrap()),
        "{error}"
    );
}
