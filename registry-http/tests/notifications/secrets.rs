//! What is secret of an endpoint is sent to it and shown nowhere

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use registry_http::{EventSink, NotifierOptions};
use tracing_subscriber::fmt::MakeWriter;

use crate::receiver::{Answer, Receiver};
use crate::{endpoint, event, notifier, until};

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn no_log_shows_an_endpoints_secrets() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_writer(log.clone())
        .with_ansi(false)
        .finish();
    // For all tests of this program: one that is set for a thread misses what another thread
    // was the first to log.
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let receiver = Receiver::start().await;
    receiver.answer(&[
        Answer::Status(500),
        Answer::Status(307),
        Answer::Close,
        Answer::Hang,
    ]);
    let at = |address| format!("http://ada:5ecret@{address}/callback?token=5ecret");
    let failing = endpoint("failing", &at(receiver.address))
        .with_header("Authorization-2", "5ecret")
        .unwrap();
    // Nobody listens at port 9 of an address that is for documentation.
    let absent = endpoint("absent", &at("192.0.2.1:9".parse().unwrap()));
    let notifier = notifier(NotifierOptions::default(), vec![failing, absent]).await;
    notifier.record(vec![event(0)]).await.unwrap();
    until("both failed", || {
        let stats = notifier.stats().endpoints;
        stats[0].successes == 1 && stats[1].errors > 1
    })
    .await;
    assert!(receiver.posts()[0].headers["authorization-2"] == "5ecret");
    let shown = format!(
        "{notifier:?} {}",
        serde_json::to_string(&notifier.vars()).unwrap()
    );
    notifier.close(Duration::ZERO).await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    for text in [
        "configuring endpoint",
        "did not take an event",
        "backing off",
        "takes events again",
    ] {
        let is_there = |line: &str| line.contains(text) && line.contains("endpoint=\"failing\"");
        assert!(log.lines().any(is_there), "`{text}` is not in {log}");
    }
    // `ada:5ecret` in base64 too
    for secret in ["5ecret", "YWRhOjVlY3JldA"] {
        assert!(!log.contains(secret), "{log}");
        assert!(!shown.contains(secret), "{shown}");
    }
}
