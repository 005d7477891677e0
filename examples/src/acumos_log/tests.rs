//! The log as a whole, as the platform's collector sees it

use std::fs;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Empty};
use hyper::service::Service;
use regex::{Captures, Regex};
use registry_auth::{AllowAll, Anyone};
use registry_http::RegistryService;
use registry_storage::{Memory, Store};
use tempfile::TempDir;

use super::*;
use crate::lines::tests::Sink;

/// The definitions of logstash-patterns-core, `patterns/legacy/grok-patterns` and
/// `patterns/legacy/java`, as they are, but for the atomic group of `YEAR`, `(?>\d\d){1,2}`, which
/// this crate does not have and which means the same before a `-`.
const GROK: [(&str, &str); 11] = [
    (
        "TIMESTAMP_ISO8601",
        "%{YEAR}-%{MONTHNUM}-%{MONTHDAY}[T ]%{HOUR}:?%{MINUTE}(?::?%{SECOND})?%{ISO8601_TIMEZONE}?",
    ),
    ("ISO8601_TIMEZONE", "(?:Z|[+-]%{HOUR}(?::?%{MINUTE}))"),
    ("YEAR", r"(?:\d\d){1,2}"),
    ("MONTHNUM", "(?:0?[1-9]|1[0-2])"),
    ("MONTHDAY", "(?:(?:0[1-9])|(?:[12][0-9])|(?:3[01])|[1-9])"),
    ("HOUR", "(?:2[0123]|[01]?[0-9])"),
    ("MINUTE", "(?:[0-5][0-9])"),
    ("SECOND", "(?:(?:[0-5]?[0-9]|60)(?:[:.,][0-9]+)?)"),
    ("GREEDYDATA", ".*"),
    (
        "LOGLEVEL",
        "([Aa]lert|ALERT|[Tt]race|TRACE|[Dd]ebug|DEBUG|[Nn]otice|NOTICE|[Ii]nfo?(?:rmation)?|\
         INFO?(?:RMATION)?|[Ww]arn?(?:ing)?|WARN?(?:ING)?|[Ee]rr?(?:or)?|ERR?(?:OR)?|\
         [Cc]rit?(?:ical)?|CRIT?(?:ICAL)?|[Ff]atal|FATAL|[Ss]evere|SEVERE|EMERG(?:ENCY)?|\
         [Ee]merg(?:ency)?)",
    ),
    (
        "JAVACLASS",
        r"(?:[a-zA-Z$_][a-zA-Z$_0-9]*\.)*[a-zA-Z$_][a-zA-Z$_0-9]*",
    ),
];

/// What the platform's logstash applies to each event
const PLATFORM: &str = r"%{TIMESTAMP_ISO8601:LogTimestamp}\t%{GREEDYDATA:Thread}\t%{LOGLEVEL:Level}\t%{JAVACLASS:Logger}\t%{GREEDYDATA:Marker}\t(?:[^\t]+\t)*(?<Mdc>.*)\t%{GREEDYDATA:Message}\t";

/// What the platform's filebeat is shipped with, to know where an event begins
const OLD_MULTILINE: &str = r"^[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2},[0-9]{3}";

/// What `LOGGING.md` tells operators to set instead
const MULTILINE: &str = "^[0-9]{4}-[0-9]{2}-[0-9]{2}T";

/// A grok expression as a regular one
fn grok(expression: &str) -> Regex {
    let name = Regex::new(r"%\{(\w+)(?::(\w+))?\}").unwrap();
    let mut expanded = expression.to_owned();
    while name.is_match(&expanded) {
        expanded = name
            .replace_all(&expanded, |found: &Captures<'_>| {
                let (_, definition) = GROK.iter().find(|(name, _)| *name == &found[1]).unwrap();
                match found.get(2) {
                    Some(field) => format!("(?<{}>{definition})", field.as_str()),
                    None => format!("(?:{definition})"),
                }
            })
            .into_owned();
    }
    Regex::new(&expanded).unwrap()
}

/// Logs of this thread only
struct Logs {
    directory: TempDir,
    console: Sink,
    handle: AcumosLogHandle,
    _guard: tracing::subscriber::DefaultGuard,
}

impl Logs {
    fn new(options: AcumosLogOptions) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let options = AcumosLogOptions {
            directory: Some(directory.path().to_owned()),
            ..options
        };
        let console = Sink::default();
        let (subscriber, handle) = subscriber(&options, console.clone());
        Self {
            directory,
            console,
            handle,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    fn lines(&self) -> Vec<String> {
        self.handle.flush();
        let path = self.directory.path().join("docker-proxy/docker-proxy.log");
        let text = fs::read_to_string(path).unwrap();
        text.lines().map(str::to_owned).collect()
    }
}

/// One field of the diagnostic context of a line
fn mdc(line: &str, name: &str) -> Option<String> {
    line.split('\t')
        .nth(5)
        .unwrap()
        .split(", ")
        .filter_map(|field| field.split_once('='))
        .find(|(known, _)| *known == name)
        .map(|(_, value)| value.to_owned())
}

/// What the proxy logs of a request, by the conventions of its services
fn request(service: &str, user: Option<&str>, calls: &[(&str, &str, u16)], code: u16) {
    let span = tracing::error_span!(
        "request",
        id = "3f2c",
        service,
        client = "192.0.2.7",
        agent = "docker/28.0, (linux)",
        user = tracing::field::Empty
    );
    let _entered = span.enter();
    tracing::info!(target: "registry::request", marker = "ENTRY");
    for (entity, service, code) in calls {
        let invocation = Uuid::new_v4();
        tracing::info!(target: "registry::invoke", marker = "INVOKE", entity, service, %invocation);
        if *code == 0 {
            tracing::warn!(target: "registry::invoke", marker = "INVOKE_RETURN", entity, service, %invocation, code, elapsed_ms = 12_u64, error = "connection refused", "no answer");
        } else {
            tracing::info!(target: "registry::invoke", marker = "INVOKE_RETURN", entity, service, %invocation, code, elapsed_ms = 12_u64, "answered");
        }
        // Who it is is known from the first.
        if let Some(user) = user {
            span.record("user", user);
        }
    }
    tracing::info!(target: "registry_http::proxy", "forwarding\twith a tab and\na second line");
    tracing::info!(target: "registry::request", marker = "EXIT", code, elapsed_ms = 40_u128, bytes = 7, "request answered");
}

const IMAGE: &str = "/v2/iris_5968f2ae-e0d6-46e6-81c1-dc19db3c4965";

fn login_pull_and_push() {
    request("GET /v2/", None, &[], 401);
    request(
        "GET /v2/",
        Some("ada"),
        &[("CDS", "POST /ccds/user/login", 200)],
        200,
    );
    let manifest = format!("{IMAGE}/manifests/1.0.0");
    request(
        &format!("GET {manifest}"),
        Some("ada"),
        &[
            ("CDS", "GET /ccds/solution/5968f2ae/revision", 200),
            ("LUM", "PUT /api/v1/asset-usage", 402),
            ("upstream", &format!("GET {manifest}"), 200),
        ],
        200,
    );
    request(
        &format!("PUT {manifest}"),
        Some("ada"),
        &[
            ("CDS", "GET /ccds/solution/5968f2ae", 200),
            ("upstream", &format!("PUT {manifest}"), 0),
        ],
        502,
    );
}

#[test]
fn the_platform_parses_every_line_of_a_login_a_pull_and_a_push() {
    let logs = Logs::new(AcumosLogOptions::default());
    tracing::info!(target: "docker_proxy", "starting");
    login_pull_and_push();
    tracing::error!(target: "hyper-util::client", error = "broken\tpipe", "outside of any request");
    let lines = logs.lines();
    assert_eq!(lines.len(), 2 + 4 * 3 + 2 * 6);

    let platform = grok(PLATFORM);
    for line in &lines {
        let parsed = platform.captures(line).unwrap_or_else(|| panic!("{line}"));
        let columns: Vec<&str> = line.split('\t').collect();
        assert_eq!(columns.len(), 8, "{line}");
        for (name, column) in [
            ("LogTimestamp", 0),
            ("Thread", 1),
            ("Level", 2),
            ("Logger", 3),
            ("Marker", 4),
            ("Mdc", 5),
            ("Message", 6),
        ] {
            assert_eq!(&parsed[name], columns[column], "{name} of {line}");
        }
        for mandatory in [
            "RequestID",
            "InvocationID",
            "InstanceUUID",
            "ServiceName",
            "PartnerName",
            "StatusCode",
            "ResponseCode",
            "ResponseDescription",
            "Severity",
            "ServerFQDN",
            "ClientIPAddress",
        ] {
            let value = mdc(line, mandatory);
            assert!(
                value.is_some_and(|value| !value.is_empty()),
                "{mandatory} of {line}"
            );
        }
    }
}

#[test]
fn what_a_line_says_is_what_happened() {
    let logs = Logs::new(AcumosLogOptions {
        server_name: Some("proxy.example".to_owned()),
        ..AcumosLogOptions::default()
    });
    login_pull_and_push();
    let lines = logs.lines();
    let of = |marker: &str, service: &str, method: &str| -> Vec<&String> {
        lines
            .iter()
            .filter(|line| line.split('\t').nth(4) == Some(marker))
            .filter(|line| mdc(line, "ServiceName").as_deref() == Some(service))
            .filter(|line| mdc(line, "Method").as_deref() == Some(method))
            .collect()
    };
    let has = |line: &str, expected: &[(&str, &str)]| {
        for (name, value) in expected {
            assert_eq!(mdc(line, name).as_deref(), Some(*value), "{name} of {line}");
        }
    };
    let service = format!("docker-proxy{IMAGE}/manifests/1.0.0");

    // Before it is known who asks, it is who the client says it is.
    let entry = of("ENTRY", &service, "GET")[0];
    has(
        entry,
        &[
            ("RequestID", "3f2c"),
            ("PartnerName", r"docker/28.0\x2c (linux)"),
            ("StatusCode", "INPROGRESS"),
            ("ServerFQDN", "proxy.example"),
            ("ClientIPAddress", "192.0.2.7"),
        ],
    );
    assert_eq!(mdc(entry, "User"), None);
    let exit = of("EXIT", &service, "GET")[0];
    has(
        exit,
        &[
            ("PartnerName", "ada"),
            ("User", "ada"),
            ("StatusCode", "COMPLETED"),
            ("ResponseCode", "200"),
        ],
    );
    assert_eq!(mdc(exit, "InvocationID"), mdc(entry, "InvocationID"));
    assert_eq!(mdc(exit, "EntryTimestamp"), mdc(entry, "EntryTimestamp"));
    assert!(
        exit.contains("\trequest answered bytes=7 elapsed_ms=40\t"),
        "{exit}"
    );
    // An event without a text gets one.
    assert!(
        entry.ends_with(&format!("\tENTRY GET {IMAGE}/manifests/1.0.0\t")),
        "{entry}"
    );
    let refused = of("EXIT", "docker-proxy/v2/", "GET")[0];
    has(
        refused,
        &[
            ("StatusCode", "ERROR"),
            ("ResponseDescription", "Unauthorized"),
        ],
    );

    let asked = of("INVOKE", &service, "GET");
    let answered = of("INVOKE_RETURN", &service, "GET");
    assert_eq!((asked.len(), answered.len()), (3, 3));
    for (asked, answered) in asked.iter().zip(&answered) {
        for name in ["InvocationID", "TargetEntity", "TargetServiceName"] {
            assert_eq!(mdc(asked, name), mdc(answered, name));
        }
        let text = format!("INVOKE {} ", mdc(asked, "TargetEntity").unwrap());
        assert!(
            asked.split('\t').nth(6).unwrap().starts_with(&text),
            "{asked}"
        );
        assert_ne!(mdc(asked, "InvocationID"), mdc(entry, "InvocationID"));
        assert!(mdc(answered, "InvokeTimestamp").as_deref() < answered.split('\t').next());
    }
    has(
        answered[1],
        &[
            ("TargetEntity", "LUM"),
            ("TargetServiceName", "PUT /api/v1/asset-usage"),
            ("StatusCode", "ERROR"),
            ("ResponseDescription", "Payment Required"),
        ],
    );
    let failed = of("INVOKE_RETURN", &service, "PUT")[1];
    has(
        failed,
        &[
            ("ResponseCode", "0"),
            ("StatusCode", "ERROR"),
            ("Severity", "WARN"),
        ],
    );
    assert!(
        failed.ends_with("\tno answer elapsed_ms=12\tconnection refused"),
        "{failed}"
    );

    // Of the console, what needs a person.
    let console = logs.console.text();
    assert_eq!(console.lines().count(), 1, "{console}");
    for part in [
        " WARN registry::invoke: no answer",
        "request=3f2c",
        "user=ada",
        "error=\"connection refused\"",
    ] {
        assert!(console.contains(part), "{part} in {console}");
    }
}

#[tokio::test]
async fn the_collector_takes_the_log_and_nothing_else_and_knows_where_events_begin() {
    let logs = Logs::new(AcumosLogOptions::default());
    login_pull_and_push();
    let store = Store::new(Arc::new(Memory::new()));
    let service = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll))
        .observer(logs.handle.access_log().unwrap())
        .build();
    let request = Request::get("/v2/")
        .header("referer", "http://ada:hunter2@h/")
        .header("user-agent", "docker/28.0")
        .body(Empty::<Bytes>::new())
        .unwrap();
    let response = service.call(request).await.unwrap();
    response.into_body().collect().await.unwrap();
    let lines = logs.lines();

    // `/filebeat-logs/*/*.log`, where `*` stands for anything but `/`.
    let glob = Regex::new(r"^/filebeat-logs/[^/]*/[^/]*\.log$").unwrap();
    let taken = |path: &Path| {
        let path = path.strip_prefix(logs.directory.path()).unwrap();
        glob.is_match(&format!("/filebeat-logs/{}", path.display()))
    };
    let folder = logs.directory.path().join("docker-proxy");
    let access = folder.join("access/docker-proxy-access.log");
    assert!(taken(&folder.join("docker-proxy.log")));
    assert!(!taken(&access));
    for rolled in [
        "docker-proxy.2126-11-21.log.rolled",
        "docker-proxy.2126-11-21.log.zip",
        "docker-proxy.2126-11-21.1.log.zip.part",
        "access/docker-proxy-access.2126-11-21.log.zip",
    ] {
        assert!(!taken(&folder.join(rolled)), "{rolled}");
    }
    let text = fs::read_to_string(&access).unwrap();
    assert!(
        text.ends_with("\"http://***@h/\" \"docker/28.0\"\n")
            && text.contains("\"GET /v2/ HTTP/1.1\" 200 "),
        "{text}"
    );

    let (old, new) = (
        Regex::new(OLD_MULTILINE).unwrap(),
        Regex::new(MULTILINE).unwrap(),
    );
    assert!(lines.iter().all(|line| new.is_match(line)));
    // As shipped, no line begins an event: the reason for what our document asks for.
    assert!(!lines.iter().any(|line| old.is_match(line)));
    let document = include_str!("../../deploy/LOGGING.md");
    assert!(document.contains(&format!("multiline.pattern: '{MULTILINE}'")));
}

#[test]
fn no_secret_gets_through_at_any_level() {
    let mut all = BTreeMap::new();
    for library in ["hyper", "rustls", "h2", "hyper_util"] {
        all.insert(library.to_owned(), LevelFilter::TRACE);
    }
    for format in [Format::Boreas, Format::Athena] {
        let logs = Logs::new(AcumosLogOptions {
            level: LevelFilter::TRACE,
            targets: all.clone(),
            console: Some(LevelFilter::TRACE),
            format,
            ..AcumosLogOptions::default()
        });
        let headers = http::HeaderMap::from_iter([(
            http::header::AUTHORIZATION,
            HeaderValue::from_static("Basic aHVudGVyMg=="),
        )]);
        let span = tracing::error_span!(
            "request",
            id = "r",
            service = "GET /v2/?password=hunter2",
            agent = "Bearer hunter2-X",
            user = "ada"
        );
        let _entered = span.enter();
        macro_rules! say {
            ($($level:ident)*) => {$(
                tracing::$level!(target: "registry_http::proxy", ?headers, "own password=hunter2");
                tracing::$level!(target: "registry_http::proxy", password = "hunter2", token = 7_u64, "own");
                tracing::$level!(target: "registry_auth", error = &std::io::Error::other("at http://u:hunter2@h/") as &dyn std::error::Error, "own");
                // As a library might, in a way that no guard knows.
                if tracing::Level::INFO < tracing::level_filters::LevelFilter::from_level(level::$level()) {
                    tracing::$level!(target: "hyper::proto", "foreign raw hunter2");
                    tracing::$level!(target: "rustls::client", "foreign raw hunter2");
                }
            )*};
        }
        mod level {
            pub(super) fn error() -> tracing::Level {
                tracing::Level::ERROR
            }
            pub(super) fn warn() -> tracing::Level {
                tracing::Level::WARN
            }
            pub(super) fn info() -> tracing::Level {
                tracing::Level::INFO
            }
            pub(super) fn debug() -> tracing::Level {
                tracing::Level::DEBUG
            }
            pub(super) fn trace() -> tracing::Level {
                tracing::Level::TRACE
            }
        }
        say!(error warn info debug trace);
        let lines = logs.lines();
        assert_eq!(lines.len(), 15, "{lines:#?}");
        let console = logs.console.text();
        assert_eq!(console.lines().count(), 15, "{console}");
        for text in [lines.join("\n"), console] {
            assert!(
                !text.contains("hunter2") && !text.contains("aHVudGVy"),
                "{text}"
            );
            assert!(text.contains("own password=***"), "{text}");
        }
    }
}

#[test]
fn levels_can_be_changed_and_targets_keep_theirs() {
    let logs = Logs::new(AcumosLogOptions {
        targets: [("registry_auth".to_owned(), LevelFilter::DEBUG)].into(),
        console: None,
        access_log: false,
        ..AcumosLogOptions::default()
    });
    assert!(logs.handle.access_log().is_none());
    let say = |word: &str| {
        tracing::debug!(target: "registry_auth::acumos", "{word} auth");
        tracing::debug!(target: "registry_http", "{word} http");
        tracing::info!(target: "registry_http", "{word} http info");
        tracing::debug!(target: "hyper", "{word} library");
        tracing::info!(target: "hyper", "{word} library info");
    };
    say("first");
    logs.handle.set_level(LevelFilter::TRACE);
    say("second");
    logs.handle.set_level(LevelFilter::ERROR);
    say("third");
    let lines = logs.lines();
    let said: Vec<&str> = lines
        .iter()
        .map(|line| line.split('\t').nth(6).unwrap())
        .collect();
    assert_eq!(
        said,
        [
            "first auth",
            "first http info",
            "first library info",
            "second auth",
            "second http",
            "second http info",
            "second library info",
            "third auth",
        ]
    );
    assert_eq!(logs.console.text(), "");
}

#[test]
fn files_are_opened_again_when_told() {
    let logs = Logs::new(AcumosLogOptions::default());
    tracing::info!(target: "docker_proxy", "first");
    assert_eq!(logs.lines().len(), 1);
    let path = logs.directory.path().join("docker-proxy/docker-proxy.log");
    fs::rename(&path, path.with_extension("log.1")).unwrap();
    logs.handle.reopen();
    tracing::info!(target: "docker_proxy", "second");
    assert_eq!(logs.lines().len(), 1);
    assert_eq!(
        fs::read_to_string(path.with_extension("log.1"))
            .unwrap()
            .lines()
            .count(),
        1
    );
}
