//! What operators look at: metrics by a Prometheus client's parser, health, and variables

use std::collections::BTreeMap;
use std::io::{BufReader, Read, Write};
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::clients::find_python;
use crate::support::hooks::{Mood, Receiver};
use crate::support::http;
use crate::support::image::Noise;
use crate::support::peer::Peer;
use crate::support::process::{eventually, finish_with};
use crate::support::site::Site;

/// The samples of a scrape by name and labels, as `name{label="value",…}` in order
struct Samples(BTreeMap<String, f64>);

impl Samples {
    /// Scrapes, and lets the client library parse it
    #[track_caller]
    fn scrape(python: &Path, debug: &str, format: &str, accept: &str) -> Self {
        let headers = [("Accept", accept)];
        let answer = http::send(debug, "GET", "/metrics", &headers, &[]);
        let answer = answer.expect("answered").expect(&[200]);
        let media_type = answer.header("content-type").expect("a type");
        let expected = accept.split(';').next().expect("a type");
        assert!(media_type.starts_with(expected), "{media_type}");
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/support/scrape.py");
        let mut command = Command::new(python);
        let (status, stdout, stderr) = finish_with(command.arg(script).arg(format), &answer.text());
        assert!(status.success(), "{stderr}\n{}", answer.text());
        let samples: Vec<(String, BTreeMap<String, String>, f64)> =
            serde_json::from_str(&stdout).expect("what the script prints");
        let named = samples.into_iter().map(|(name, labels, value)| {
            let labels: Vec<String> = labels
                .into_iter()
                .map(|(label, value)| format!("{label}=\"{value}\""))
                .collect();
            (format!("{name}{{{}}}", labels.join(",")), value)
        });
        Self(named.collect())
    }

    /// One sample; what was never counted is 0
    fn get(&self, name: &str) -> f64 {
        self.0.get(name).copied().unwrap_or(0.0)
    }

    /// The sum of a metric over the labels that are not given
    fn sum(&self, name: &str, labels: &[&str]) -> f64 {
        let named = self.0.iter().filter(|(sample, _)| {
            sample.split('{').next() == Some(name)
                && labels.iter().all(|label| sample.contains(label))
        });
        named.map(|(_, value)| value).sum()
    }
}

#[test]
fn prometheus_counts_what_happened() {
    let Some(python) = find_python("prometheus_client", "prometheus-client") else {
        return;
    };
    let site = Site::new();
    let receiver = Receiver::start(Mood::Takes);
    let server = site.serve_with(&format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: $SITE/root}}}}\n\
         http: {{addr: \"127.0.0.1:0\", debug: {{addr: \"127.0.0.1:0\", prometheus: {{enabled: true, path: /metrics}}}}}}\n\
         notifications: {{endpoints: [{{name: hook, url: \"http://{}/\"}}]}}\n",
        receiver.address
    ));
    let debug = server.debug_address();
    let peer = Peer::plain(&server.address);

    for _ in 0..3 {
        peer.get("/v2/").expect(&[200]);
    }
    peer.push_image("team/app", "v1", 61);
    for _ in 0..2 {
        peer.pull_image("team/app", "v1");
    }
    peer.get("/v2/team/app/manifests/none").expect(&[404]);
    peer.get("/v2/team/app/tags/list").expect(&[200]);
    peer.get("/v2/_catalog").expect(&[200]);
    peer.get("/nothing/of/ours").expect(&[404]);
    let config = "{\"seed\":61}".len() as f64;

    let formats = [
        ("text", "text/plain;version=0.0.4"),
        ("openmetrics", "application/openmetrics-text;version=1.0.0"),
    ];
    for (format, accept) in formats {
        let scrape = || Samples::scrape(&python, &debug, format, accept);
        // A request is counted at the end of its answer, which the client may see before.
        let expected = [
            ("base", "get", 200, 3.0),
            ("blob_upload", "post", 202, 2.0),
            ("blob_upload_chunk", "put", 201, 2.0),
            ("manifest", "put", 201, 1.0),
            ("manifest", "get", 200, 2.0),
            ("blob", "get", 200, 4.0),
            ("manifest", "get", 404, 1.0),
            ("tags", "get", 200, 1.0),
            ("catalog", "get", 200, 1.0),
            ("none", "get", 404, 1.0),
        ];
        let samples = eventually("everything is counted", || {
            let samples = scrape();
            let total = samples.sum("registry_http_requests_total", &[]);
            let all: f64 = expected.iter().map(|(.., count)| count).sum();
            (total >= all).then_some(samples)
        });
        for (handler, method, code, count) in expected {
            let name = format!(
                "registry_http_requests_total{{code=\"{code}\",handler=\"{handler}\",method=\"{method}\"}}"
            );
            assert_eq!(samples.get(&name), count, "{name}");
        }
        let total = samples.sum("registry_http_requests_total", &[]);
        assert_eq!(total, 18.0, "something was counted twice");
        let seconds = "registry_http_request_duration_seconds_count";
        assert_eq!(samples.sum(seconds, &[]), total);
        let bytes = |direction: &str, handler: &str| {
            let name = format!("registry_http_{direction}_size_bytes_sum");
            samples.sum(&name, &[&format!("handler=\"{handler}\"")])
        };
        assert_eq!(bytes("response", "blob"), 2.0 * (20_000.0 + config));
        assert_eq!(bytes("request", "blob_upload_chunk"), 20_000.0 + config);
        assert_eq!(samples.sum("registry_http_in_flight_requests", &[]), 0.0);
        let written = samples.sum("registry_storage_bytes_total", &["action=\"Append\""]);
        // Beside the content, the dates of the two uploads.
        let content = 20_000.0 + config;
        assert!((content..content + 200.0).contains(&written), "{written}");
        let calls = samples.sum("registry_storage_action_seconds_count", &[]);
        assert!(calls > 10.0 && samples.sum("registry_storage_calls_total", &[]) == calls);
        assert_eq!(samples.sum("registry_storage_uploads_open", &[]), 0.0);
        let resident = samples.get("process_resident_memory_bytes{}");
        let really = server.resident() as f64;
        assert!(
            (really / 2.0..really * 2.0).contains(&resident),
            "{resident} {really}"
        );
        let version = format!(
            "registry_build_info{{version=\"{}\"}}",
            env!("CARGO_PKG_VERSION")
        );
        assert_eq!(samples.get(&version), 1.0);
    }

    // Three pushes and six pulls; both sides agree when nothing is pending.
    let samples = eventually("all events are taken", || {
        let (format, accept) = formats[0];
        let samples = Samples::scrape(&python, &debug, format, accept);
        (samples.get("registry_notifications_events_total{endpoint=\"hook\",type=\"Successes\"}")
            >= 9.0)
            .then_some(samples)
    });
    let events = |kind: &str| {
        let labels = format!("endpoint=\"hook\",type=\"{kind}\"");
        samples.get(&format!("registry_notifications_events_total{{{labels}}}"))
    };
    assert_eq!(
        ["Events", "Successes", "Failures", "Errors"].map(events),
        [9.0, 9.0, 0.0, 0.0]
    );
    assert_eq!(receiver.taken().len(), 9);
    assert_eq!(
        samples.sum("registry_notifications_pending_total", &[]),
        0.0
    );
    assert!(server.stop().success());
}

#[test]
fn variables_have_the_notifications_as_documented() {
    let site = Site::new();
    let [well, unwell] = [Mood::Takes, Mood::Refuses].map(Receiver::start);
    let server = site.serve_with(&format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: $SITE/root}}}}\n\
         http: {{addr: \"127.0.0.1:0\", debug: {{addr: \"127.0.0.1:0\"}}}}\n\
         notifications:\n  endpoints:\n\
         \x20   - {{name: well, url: \"http://{}/callback\", timeout: 1s, threshold: 10, backoff: 1s}}\n\
         \x20   - {{name: unwell, url: \"http://{}/callback\", timeout: 500ms, threshold: 2, backoff: 100ms}}\n",
        well.address, unwell.address
    ));
    let debug = Peer::plain(&server.debug_address());
    let peer = Peer::plain(&server.address);
    peer.push_image("varied", "v1", 62);
    let endpoints = eventually("the endpoints were told", || {
        let answer = debug.get("/debug/vars").expect(&[200]);
        let variables: Value = serde_json::from_slice(&answer.body).expect("JSON");
        let endpoints = variables["registry"]["notifications"]["endpoints"].clone();
        let done = endpoints[0]["Metrics"]["Successes"] == 3
            && endpoints[1]["Metrics"]["Failures"].as_u64() > Some(0);
        done.then_some(endpoints)
    });
    let (first, second) = (&endpoints[0], &endpoints[1]);
    assert_eq!(first["name"], "well");
    assert_eq!(first["url"], format!("http://{}/callback", well.address));
    assert_eq!(
        first["Timeout"], 1_000_000_000,
        "in nanoseconds, as Go has it"
    );
    assert_eq!(first["Threshold"], 10);
    assert_eq!(first["Backoff"], 1_000_000_000);
    let metrics = &first["Metrics"];
    for (name, count) in [
        ("Pending", 0),
        ("Events", 3),
        ("Failures", 0),
        ("Errors", 0),
    ] {
        assert_eq!(metrics[name], count, "{name} in {first}");
    }
    assert!(metrics["Statuses"]["200 OK"].as_u64() > Some(0), "{first}");
    let metrics = &second["Metrics"];
    assert_eq!(
        (&metrics["Pending"], &metrics["Successes"]),
        (&3.into(), &0.into())
    );
    let refused = metrics["Statuses"]["500 Internal Server Error"].as_u64();
    assert!(refused > Some(0), "{second}");
    assert!(server.stop().success());
}

#[test]
fn storage_that_is_gone_is_told_and_not_served() {
    let site = Site::new();
    let config = "version: 0.1\nstorage: {filesystem: {rootdirectory: $SITE/root}}\n\
         http: {addr: \"127.0.0.1:0\", debug: {addr: \"127.0.0.1:0\"}}\n\
         health: {storagedriver: {enabled: true, interval: 200ms, threshold: 3}}\n";
    let Some(server) = site.serve_restrained(config) else {
        return;
    };
    let debug = Peer::plain(&server.debug_address());
    let peer = Peer::plain(&server.address);
    let digest = peer.push_image("team/app", "v1", 63);
    let status = |peer: &Peer, path: &str| peer.get(path).status;
    for path in ["/debug/health", "/livez", "/readyz"] {
        assert_eq!(status(&debug, path), 200, "{path}");
    }
    assert_eq!(status(&peer, "/"), 200);

    site.close_root();
    let health = eventually("the check fails", || {
        let health = debug.get("/debug/health");
        (health.status == 503).then_some(health)
    });
    let failures: Value = serde_json::from_slice(&health.body).expect("JSON");
    assert!(
        failures["storagedriver_filesystem"].is_string(),
        "{failures}"
    );
    assert_eq!(
        [status(&debug, "/readyz"), status(&debug, "/livez")],
        [503, 200]
    );
    for path in ["/v2/", "/v2/team/app/manifests/v1", "/"] {
        let refused = peer.get(path).expect(&[503]);
        let retry: u64 = refused
            .header("retry-after")
            .and_then(|text| text.parse().ok())
            .expect("a time to come back");
        assert!(retry > 0);
        let root = site.path("root").display().to_string();
        assert!(!refused.text().contains(&root), "{}", refused.text());
    }
    server.says(&["ERROR", "storagedriver_filesystem"]);

    site.open_root();
    eventually("the check passes", || {
        (status(&debug, "/debug/health") == 200).then_some(())
    });
    assert_eq!(status(&debug, "/readyz"), 200);
    assert_eq!(peer.pull_image("team/app", "v1"), digest);
    assert!(server.stop().success());
}

#[test]
fn a_moment_without_storage_is_below_the_threshold() {
    let site = Site::new();
    let config = "version: 0.1\nstorage: {filesystem: {rootdirectory: $SITE/root}}\n\
         http: {addr: \"127.0.0.1:0\", debug: {addr: \"127.0.0.1:0\"}}\n\
         health: {storagedriver: {enabled: true, interval: 1s, threshold: 60}}\n";
    let Some(server) = site.serve_restrained(config) else {
        return;
    };
    let debug = Peer::plain(&server.debug_address());
    let peer = Peer::plain(&server.address);
    peer.push_image("team/app", "v1", 64);
    site.close_root();
    // A request that needs the storage is told the truth; others are still served.
    let refused = peer.get("/v2/team/app/manifests/v1");
    let base = peer.get("/v2/").status;
    let health = debug.get("/debug/health").status;
    site.open_root();
    assert!(matches!(refused.status, 500 | 503), "{refused:?}");
    assert_eq!((base, health), (200, 200));
    assert!(server.stop().success());
}

#[test]
fn draining_is_told_before_the_port_closes() {
    let site = Site::new();
    let mut server = site.serve_with(
        "version: 0.1\nstorage: {filesystem: {rootdirectory: $SITE/root}}\n\
         http: {addr: \"127.0.0.1:0\", draintimeout: 60s, debug: {addr: \"127.0.0.1:0\"}}\n\
         registry: {draindelay: 5s}\n",
    );
    let debug = Peer::plain(&server.debug_address());
    let peer = Peer::plain(&server.address);
    let content = Noise::new(65).bytes(1 << 20).repeat(64);
    let blob = peer.push_blob("large", &content).expect("answered");

    // A pull that is under way when the signal comes, whose reader takes its time.
    let mut connection = http::open(&server.address).expect("connected");
    let path = format!("/v2/large/blobs/{}", blob.digest);
    let request = http::head(&server.address, "GET", &path, &[]) + "\r\n";
    connection.write_all(request.as_bytes()).expect("sent");
    let mut reader = BufReader::new(connection);
    let (status, _) = http::read_head(&mut reader).expect("answered");
    assert_eq!(status, 200);
    let mut received = vec![0; 1 << 20];
    reader.read_exact(&mut received).expect("the beginning");

    server.begin_to_stop();
    let ready = eventually("readiness is off", || {
        let ready = debug.get("/readyz");
        (ready.status == 503).then_some(ready)
    });
    assert!(ready.text().contains("drain"), "{}", ready.text());
    assert_eq!(debug.get("/livez").status, 200);
    // Until load balancers have heard of it, whoever comes is served.
    peer.get("/v2/").expect(&[200]);
    eventually("the port closes", || {
        http::open(&server.address).is_err().then_some(())
    });
    assert_eq!(debug.get("/readyz").status, 503);
    assert!(server.runs(), "it ended with a transfer under way");
    reader.read_to_end(&mut received).expect("the rest");
    assert!(received == content, "other bytes came");
    assert!(server.ends().success());
}
