//! Secrets go in everywhere and come out nowhere

use std::fs;

use serde_json::Value;

use crate::support::check::files;
use crate::support::hooks::{Mood, Receiver};
use crate::support::http::{Response, basic};
use crate::support::peer::Peer;
use crate::support::process::{eventually, finish, finish_with, free_address, registry};
use crate::support::site::Site;
use crate::support::tls::Authority;

/// What no output may have: each begins with this, and says where it went in
const MARK: &str = "5ecret";

/// Checks that a text has no secret, as it is or as clients encode it
#[track_caller]
fn has_none(what: &str, text: &str) {
    let encoded = [
        basic("ann", "5ecret-password"),
        basic("ann", "5ecret-wrong"),
        basic("5ecret-as-user", "5ecret-as-password"),
        basic("hook", "5ecret-userinfo"),
    ];
    let encoded = encoded.iter().map(|value| &value["Basic ".len()..]);
    for secret in [MARK].into_iter().chain(encoded) {
        if let Some(at) = text.find(secret) {
            let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            let line = text[start..].lines().next().unwrap_or_default();
            panic!("{what} has a secret: {line}");
        }
    }
}

/// Keys that are honoured, and keys that are only warned about, with a secret in each
fn config(formatter: &str, auth: &str, receiver: &Receiver) -> String {
    format!(
        "\
version: 0.1
log: {{level: debug, formatter: {formatter}, fields: {{service: registry}}}}
storage:
  filesystem: {{rootdirectory: $SITE/root}}
http:
  addr: 127.0.0.1:0
  secret: 5ecret-of-http
  debug: {{addr: \"127.0.0.1:0\", prometheus: {{enabled: true, path: /metrics}}}}
auth: {auth}
notifications:
  endpoints:
    - name: taken
      url: http://hook:5ecret-userinfo@{taken}/callback?token=5ecret-url-query
      headers: {{X-Api-Key: [5ecret-header]}}
      backoff: 100ms
    - name: unreachable
      url: http://hook:5ecret-userinfo@{nobody}/callback?token=5ecret-url-query
      headers: {{Authorization: [Bearer 5ecret-header]}}
      timeout: 200ms
      threshold: 2
      backoff: 100ms
health:
  http:
    - uri: http://{nobody}/healthy?key=5ecret-health-query
      headers: {{Authorization: [Bearer 5ecret-health-header]}}
      interval: 200ms
      threshold: 1000
redis: {{addr: \"localhost:6379\", password: 5ecret-redis}}
proxy: {{remoteurl: \"https://user:5ecret-remote@example.com\", username: u, password: 5ecret-proxy}}
",
        taken = receiver.address,
        nobody = free_address(),
    )
}

/// Feeds a registry secrets, and reads all that it says
fn feed_and_read(formatter: &str, auth: &str) {
    let site = Site::new();
    let receiver = Receiver::start(Mood::Refuses);
    site.user("ann", "5ecret-password", 4);
    site.write("trusted.crt", &Authority::new().pem);
    let text = config(formatter, auth, &receiver);
    let server = site.serve_with(&text);
    let debug = Peer::plain(&server.debug_address());
    let anyone = Peer::plain(&server.address);
    let ann = anyone.clone().user("ann", "5ecret-password");

    let mut answers = Vec::new();
    let mut keep = |answer: Response| {
        answers.push(format!("{answer:?}\n{}", answer.text()));
    };
    let is_htpasswd = auth.contains("htpasswd");
    if is_htpasswd {
        ann.push_image("team/app", "v1", 71);
        ann.pull_image("team/app", "v1");
        eventually("deliveries fail in both ways", || {
            let variables = debug.get("/debug/vars").body;
            let variables: Value = serde_json::from_slice(&variables).expect("JSON");
            let endpoints = &variables["registry"]["notifications"]["endpoints"];
            let count = |endpoint: usize, kind: &str| endpoints[endpoint]["Metrics"][kind].as_u64();
            let failed = count(0, "Failures") > Some(0) && count(1, "Errors") > Some(0);
            failed.then_some(())
        });
        receiver.set(Mood::Takes);
        eventually("deliveries succeed", || {
            (!receiver.taken().is_empty()).then_some(())
        });
        let delivery = receiver.deliveries().remove(0);
        assert_eq!(delivery.headers["x-api-key"], "5ecret-header");
        let sent = delivery.headers.get("authorization").map(String::as_str);
        assert_eq!(sent, Some(&*basic("hook", "5ecret-userinfo")));
        for event in receiver.taken() {
            has_none("an event", &event.to_string());
        }
    }
    keep(anyone.clone().user("ann", "5ecret-wrong").get("/v2/"));
    keep(
        anyone
            .clone()
            .user("5ecret-as-user", "5ecret-as-password")
            .get("/v2/"),
    );
    for value in [
        "Bearer 5ecret-token",
        "Bearer eyJhbGciOiJFUzI1NiJ9.5ecret-payload.5ecret-signature",
        "Basic 5ecret-that-is-no-base64",
        "Digest username=\"ann\", response=\"5ecret-digest\"",
        "5ecret-without-a-scheme",
    ] {
        for (method, path) in [
            ("GET", "/v2/"),
            ("POST", "/v2/team/app/blobs/uploads/"),
            ("GET", "/v2/team/app/manifests/v1"),
            ("GET", "/no/such/path"),
        ] {
            let headers = [
                ("Authorization", value),
                ("Cookie", "session=5ecret-cookie"),
            ];
            keep(anyone.send(method, path, &headers, &[]).expect("answered"));
        }
    }

    // A file that is broken has hashes, which are secrets too.
    if is_htpasswd {
        let said_before = server.errors().len();
        site.write("htpasswd", "eve:{SHA}5ecret-hash\nann:$2y$04$5ecret-hash\n");
        server.reload();
        server.says_after(said_before, &["htpasswd"]);
    }
    let said_before = server.errors().len();
    site.configure(&text.replace("secret: 5ecret", "secret: [5ecret-a]\n  secrte: 5ecret"));
    server.reload();
    server.says_after(said_before, &["config.yml"]);
    site.configure(&text);

    for path in ["/debug/vars", "/debug/health", "/metrics", "/readyz", "/"] {
        has_none(path, &debug.get(path).text());
    }
    for answer in &answers {
        has_none("an answer", answer);
    }
    // What waits to be told is on disk.
    for file in files(&site.path("root")) {
        let content = fs::read(&file).expect("readable");
        has_none(
            &file.display().to_string(),
            &String::from_utf8_lossy(&content),
        );
    }
    let (output, errors) = (server.output(), server.errors());
    assert!(errors.lines().count() > 5, "nothing was logged: {errors}");
    // The reload said it with the file, not with what is in it.
    let (status, stdout, stderr) =
        finish(registry(&["config", "check"]).arg(site.path("config.yml")));
    assert!(status.success(), "{stderr}");
    assert!(server.stop().success());
    has_none("standard output", &output);
    has_none("standard error", &errors);
    has_none("config check", &stdout);
    has_none("config check's warnings", &stderr);
}

const HTPASSWD: &str = "{htpasswd: {realm: basic-realm, path: $SITE/htpasswd}}";

const TOKEN: &str = "{token: {realm: \"https://auth.example/token\", service: registry, \
    issuer: auth.example, rootcertbundle: $SITE/trusted.crt}}";

#[test]
fn as_text() {
    feed_and_read("text", HTPASSWD);
}

#[test]
fn as_json() {
    feed_and_read("json", HTPASSWD);
}

#[test]
fn with_tokens() {
    feed_and_read("text", TOKEN);
    feed_and_read("logstash", TOKEN);
}

#[test]
fn not_in_what_health_says() {
    let site = Site::new();
    let server = site.serve_with(&format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: $SITE/root}}}}\n\
         http: {{addr: \"127.0.0.1:0\", debug: {{addr: \"127.0.0.1:0\"}}}}\nhealth:\n  http:\n\
         \x20   - uri: http://{}/healthy?key=5ecret-query\n\
         \x20     headers: {{Authorization: [Bearer 5ecret-header]}}\n      interval: 100ms\n",
        free_address()
    ));
    let debug = Peer::plain(&server.debug_address());
    let health = eventually("the check fails", || {
        let health = debug.get("/debug/health");
        (health.status == 503).then_some(health)
    });
    assert!(health.text().contains("/healthy"), "{}", health.text());
    has_none("/debug/health", &health.text());
    has_none("/readyz", &debug.get("/readyz").text());
    has_none(
        "an answer",
        &Peer::plain(&server.address).get("/v2/").text(),
    );
    server.says(&["ERROR", "/healthy"]);
    has_none("the log", &server.log());
}

#[test]
fn not_in_what_is_refused() {
    let site = Site::new();
    let storage = "version: 0.1\nstorage: {filesystem: {rootdirectory: $SITE/root}}\n";
    let endpoint = "notifications: {endpoints: [{name: hook, url: ";
    for more in [
        "http: {secret: [5ecret-in-a-list]}\n".to_owned(),
        "http: {secret: {5ecret-as-key: x}}\n".to_owned(),
        "http: {secret: 'half 5ecret\n".to_owned(),
        format!("{endpoint} \"5ecret no url\"}}]}}\n"),
        format!("{endpoint} \"ftp://user:5ecret@example.com/\"}}]}}\n"),
        format!("{endpoint} \"http://user:5ecret@/\"}}]}}\n"),
        format!("{endpoint} \"http://a/\", headers: {{X: [\"5ecret\\n\"]}}}}]}}\n"),
        format!("{endpoint} \"http://a/\", headers: 5ecret}}]}}\n"),
        "health: {http: [{uri: \"http://user:5ecret@example.com/\"}]}\n".to_owned(),
        "auth: {htpasswd: {realm: r, path: $SITE/htpasswd}}\n".to_owned(),
    ] {
        site.write("htpasswd", "ann:{SHA}5ecret-hash\n");
        has_none("a refusal", &site.refusal(&format!("{storage}{more}")));
    }
    let config = site.configure(storage);
    for (name, value) in [
        ("REGISTRY_HTTP_SECRET", "{5ecret: ["),
        ("REGISTRY_HTTP_SECRET", "[5ecret]"),
        ("REGISTRY_HTTP_DRAINTIMEOUT_5ECRET", "5ecret"),
        (
            "REGISTRY_NOTIFICATIONS_ENDPOINTS",
            "[{name: a, url: 5ecret}]",
        ),
    ] {
        let mut command = registry(&["config", "check"]);
        let (_, stdout, stderr) = finish(command.arg(&config).env(name, value));
        let said = stdout + &stderr;
        assert!(said.contains(name), "{said}");
        has_none("config check", &said);
    }
    // Nor does the command that makes hashes show a password.
    let mut command = registry(&["htpasswd", "--cost", "4"]);
    command.arg(site.path("none/htpasswd")).arg("ann");
    let (status, stdout, stderr) = finish_with(&mut command, "5ecret-password\n");
    assert_eq!(status.code(), Some(1), "{stdout}{stderr}");
    has_none("a refusal", &(stdout + &stderr));
}
