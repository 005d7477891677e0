//! What is said of the calls to the services, for whoever keeps a log of them

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::thread::{self, ThreadId};
use std::time::Duration;

use registry_auth::acumos::Cds;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

use crate::support::{Reply, SOLUTION, Server, ok, page};

/// Level and fields of each event of a call
type Seen = Vec<(Level, BTreeMap<&'static str, String>)>;

/// What is said on this thread: the other tests, each on its own, are heard too
#[derive(Clone)]
struct Log(Arc<Mutex<Seen>>, ThreadId);

impl<S: Subscriber> Layer<S> for Log {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target() == "registry::invoke" && thread::current().id() == self.1 {
            let mut fields = Fields::default();
            event.record(&mut fields);
            let seen = (*event.metadata().level(), fields.0);
            self.0.lock().unwrap().push(seen);
        }
    }
}

#[derive(Default)]
struct Fields(BTreeMap<&'static str, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }
}

impl Log {
    /// The two events of one call: that it began, and that it ended
    fn take(
        &self,
    ) -> (
        BTreeMap<&'static str, String>,
        Level,
        BTreeMap<&'static str, String>,
    ) {
        let seen = std::mem::take(&mut *self.0.lock().unwrap());
        let [(Level::INFO, begin), (level, end)] = &seen[..] else {
            panic!("{seen:?}");
        };
        let all = format!("{seen:?}");
        for secret in ["service-secret", "Y2Nkc19jbGll", "hunter2", "?", "ada"] {
            assert!(!all.contains(secret), "{secret}: {all}");
        }
        assert_eq!(begin["marker"], "INVOKE");
        assert_eq!(end["marker"], "INVOKE_RETURN");
        assert_eq!(begin.len(), 4, "{begin:?}");
        for name in ["entity", "service", "invocation"] {
            assert_eq!(begin[name], end[name]);
        }
        assert!(uuid::Uuid::parse_str(&begin["invocation"]).is_ok());
        let _: u64 = end["elapsed_ms"].parse().unwrap();
        (begin.clone(), *level, end.clone())
    }
}

/// What is answered matters elsewhere
async fn ask(cds: &Cds) {
    drop(cds.solution(&SOLUTION.parse().unwrap()).await);
}

#[tokio::test]
async fn each_call_is_told_of_when_it_begins_and_when_it_ends() {
    let log = Log(Arc::default(), thread::current().id());
    let subscriber = tracing_subscriber::registry().with(log.clone());
    // For all threads, since what one of them finds unheard is otherwise silent on every one.
    tracing::subscriber::set_global_default(subscriber).unwrap();
    let server = Server::new(|asked, _| match asked.line.as_str() {
        line if line.contains("/solution/") => Reply::Json(500, "hunter2".to_owned()),
        _ => ok(page(&[], 0, true)),
    })
    .await;
    let cds = server.cds();

    assert!(cds.account("ada").await.unwrap().is_none());
    let (begin, level, end) = log.take();
    assert_eq!(begin["entity"], "CDS");
    // Who it is about is in the query.
    assert_eq!(begin["service"], "GET /user/search");
    assert_eq!((level, end["code"].as_str()), (Level::INFO, "200"));
    assert_eq!(end.get("error"), None);

    // A status is an answer, whatever it says.
    ask(&cds).await;
    let (begin, level, end) = log.take();
    assert_eq!(begin["service"], format!("GET /solution/{SOLUTION}"));
    assert_eq!((level, end["code"].as_str()), (Level::INFO, "500"));

    let broken = Server::new(|_, _| Reply::Break).await;
    ask(&broken.cds()).await;
    let (_, level, end) = log.take();
    assert_eq!((level, end["code"].as_str()), (Level::WARN, "0"));
    assert!(end["error"].contains("CDS cannot be reached"), "{end:?}");

    let silent = Server::new(|_, _| Reply::Silence).await;
    let patience = Duration::from_millis(200);
    let hasty = Cds::new(silent.endpoint().with_timeout(patience)).unwrap();
    ask(&hasty).await;
    let (_, level, end) = log.take();
    assert_eq!((level, end["code"].as_str()), (Level::WARN, "0"));
    assert!(end["error"].contains("within 200 ms"), "{end:?}");

    // Whoever asked has gone before there was an answer.
    let cds = silent.cds();
    let call = tokio::time::timeout(patience, ask(&cds));
    assert!(call.await.is_err());
    let (_, level, end) = log.take();
    assert_eq!((level, end["code"].as_str()), (Level::WARN, "0"));
    assert_eq!(end["error"], "given up");
    assert!(end["elapsed_ms"].parse::<u64>().unwrap() >= 100, "{end:?}");
}
