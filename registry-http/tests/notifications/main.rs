//! Notifications from end to end: requests in, envelopes out to receivers that behave badly

mod delivery;
mod operations;
mod receiver;
mod secrets;
mod tls;

use std::time::Duration;

use registry_core::event::{ActorRecord, Event, EventAction, RequestRecord, SourceRecord, Target};
use registry_http::{Endpoint, Notifier, NotifierOptions};

/// An event that is told from others by its id
fn event(id: impl ToString) -> Event {
    Event {
        id: id.to_string(),
        timestamp: "2006-01-02T15:04:05Z".to_owned(),
        action: EventAction::Push,
        target: Target::default(),
        request: RequestRecord::default(),
        actor: ActorRecord::default(),
        source: SourceRecord::default(),
    }
}

/// An endpoint that is tried again at once
fn endpoint(name: &str, url: &str) -> Endpoint {
    Endpoint::new(name, url)
        .unwrap()
        .with_timeout(Duration::from_millis(300))
        .with_threshold(3)
        .with_backoff(Duration::from_millis(20))
}

async fn notifier(options: NotifierOptions, endpoints: Vec<Endpoint>) -> Notifier {
    Notifier::open(options, endpoints).await.unwrap()
}

/// Waits for what is sure to come
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not so after ten seconds: {what}");
}

fn ids(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|id| id.to_string()).collect()
}
