//! What operators do with a registry: read-only mode, a prefix, purges, and logs

use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime};

use registry_core::{Digest, MediaType};
use serde_json::Value;

use crate::support::check::{ACCEPT, files};
use crate::support::http;
use crate::support::peer::Peer;
use crate::support::process::{Server, eventually};
use crate::support::site::Site;

const STORAGE: &str = "version: 0.1\nstorage: {filesystem: {rootdirectory: $SITE/root}";

#[test]
fn read_only_refuses_what_writes_and_says_so() {
    let site = Site::new();
    let http = "http: {addr: \"127.0.0.1:0\"}\n";
    let server = site.serve_with(&format!("{STORAGE}, delete: {{enabled: true}}}}\n{http}"));
    let digest = Peer::plain(&server.address).push_image("team/app", "v1", 81);
    let session = http::start_upload(&server.address, "team/app");
    assert!(server.stop().success());

    let server = site.serve_with(&format!(
        "{STORAGE}, delete: {{enabled: true}}, maintenance: {{readonly: {{enabled: true}}}}}}\n{http}"
    ));
    let peer = Peer::plain(&server.address);
    let before = files(&site.path("root"));
    assert_eq!(peer.pull_image("team/app", "v1"), digest);
    peer.get("/v2/_catalog").expect(&[200]);
    for (method, path) in [
        ("POST", "/v2/team/app/blobs/uploads/".to_owned()),
        ("PATCH", session.clone()),
        ("PUT", format!("{session}?digest={digest}")),
        ("DELETE", session.clone()),
        ("PUT", "/v2/team/app/manifests/v2".to_owned()),
        ("DELETE", "/v2/team/app/manifests/v1".to_owned()),
        ("DELETE", format!("/v2/team/app/blobs/{digest}")),
    ] {
        let refused = peer.request(method, &path).expect(&[405]);
        let text = refused.text();
        assert!(
            text.contains("UNSUPPORTED") && text.contains("read-only"),
            "{text}"
        );
        assert!(refused.header("allow").is_some(), "{method} {path}");
    }
    assert_eq!(peer.pull_image("team/app", "v1"), digest);
    assert!(server.stop().success());
    assert_eq!(files(&site.path("root")), before, "something was written");
}

#[test]
fn under_a_prefix() {
    let site = Site::new();
    let server = site.serve_with(&format!(
        "{STORAGE}}}\nhttp: {{addr: \"127.0.0.1:0\", prefix: /docker/}}\n"
    ));
    let peer = Peer::plain(&server.address);
    peer.get("/docker/v2/").expect(&[200]);
    // Load balancers look here.
    peer.get("/").expect(&[200]);
    let outside = peer.get("/v2/").expect(&[404]);
    assert!(outside.text().contains("/docker/v2/"), "{}", outside.text());
    let started = peer
        .request("POST", "/docker/v2/app/blobs/uploads/")
        .expect(&[202]);
    let location = started.location();
    assert!(
        location.starts_with("/docker/v2/app/blobs/uploads/"),
        "{location}"
    );
    let digest = Digest::sha256(b"prefixed");
    let target = http::with_query(&location, &format!("digest={digest}"));
    let done = peer
        .send("PUT", &target, &[], b"prefixed")
        .expect("answered")
        .expect(&[201]);
    let blob = done.location();
    assert_eq!(blob, format!("/docker/v2/app/blobs/{digest}"));
    assert_eq!(peer.get(&blob).expect(&[200]).body, b"prefixed");
    // It is a matter of URLs: the folder knows nothing of it.
    assert!(
        site.path("root/docker/registry/v2/repositories/app")
            .is_dir()
    );
    assert!(server.stop().success());
}

/// An upload session that has been left alone for two hours, and its folder
fn abandoned(site: &Site, server: &Server) -> (String, PathBuf) {
    let location = http::start_upload(&server.address, "team/app");
    let chunk = http::send(&server.address, "PATCH", &location, &[], b"12345");
    let location = chunk.expect("answered").expect(&[202]).location();
    let uploads = site.path("root/docker/registry/v2/repositories/team/app/_uploads");
    let id = location.rsplit('/').next().expect("a path");
    let id = id.split('?').next().expect("a path");
    let folder = uploads.join(id);
    fs::write(folder.join("startedat"), "2016-03-09T12:01:02Z").expect("written");
    let then = SystemTime::now() - Duration::from_secs(2 * 3600);
    for path in files(&folder) {
        let file = File::options().write(true).open(path).expect("opened");
        file.set_modified(then).expect("made older");
    }
    (location, folder)
}

#[test]
fn abandoned_uploads_go() {
    let site = Site::new();
    let config = |dry_run: bool| {
        format!(
            "{STORAGE}, maintenance: {{uploadpurging: {{enabled: true, age: 1h, interval: 1s, \
             dryrun: {dry_run}}}}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n"
        )
    };
    let server = site.serve_with(&config(true));
    let (_, folder) = abandoned(&site, &server);
    let line = server.says(&["purge", "removed=1", "dry_run=true"]);
    assert!(line.contains("INFO"), "{line}");
    assert!(folder.join("data").is_file(), "a dry run removed something");
    assert!(server.stop().success());

    let server = site.serve_with(&config(false));
    let young = http::start_upload(&server.address, "team/app");
    eventually("the old session is gone", || {
        (!folder.exists()).then_some(())
    });
    server.says(&["purge", "removed=1", "dry_run=false"]);
    http::get(&server.address, &young).expect(&[204]);
    // The interval goes on.
    let (location, folder) = abandoned(&site, &server);
    eventually("the next one goes too", || (!folder.exists()).then_some(()));
    http::get(&server.address, &location).expect(&[404]);
    assert!(server.stop().success());
}

#[test]
fn logs_are_json_with_the_requests_name() {
    let site = Site::new();
    let config = format!(
        "{STORAGE}}}\nlog: {{level: debug, formatter: json, fields: {{service: registry, environment: test}}}}\n\
         http: {{addr: \"127.0.0.1:0\"}}\n"
    );
    let Some(server) = site.serve_restrained(&config) else {
        return;
    };
    let peer = Peer::plain(&server.address);
    peer.push_image("team/app", "v1", 82);
    let named = peer.send(
        "GET",
        "/v2/_catalog",
        &[("X-Request-ID", "the-first/1")],
        &[],
    );
    let named = named.expect("answered").expect(&[200]);
    assert_eq!(named.header("x-request-id"), Some("the-first/1"));
    let unnamed = peer.get("/v2/_catalog").expect(&[200]);
    let made = unnamed.header("x-request-id").expect("a name").to_owned();

    // An error that the operator has to look at.
    site.close_root();
    let failed = peer.send(
        "GET",
        "/v2/team/app/manifests/v1",
        &[("X-Request-ID", "the-failed-1")],
        &[],
    );
    let failed = failed.expect("answered").expect(&[500, 503]);
    assert!(failed.text().contains("the-failed-1"), "{}", failed.text());
    site.open_root();
    server.says(&["the-failed-1"]);
    eventually("the last request is logged", || {
        server.output().contains("the-failed-1").then_some(())
    });

    let parse = |line: &str| -> Value {
        serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
    };
    let errors = server.errors();
    let mut explained = false;
    for line in errors.lines() {
        let record = parse(line);
        assert!(
            record["time"].is_string() && record["level"].is_string(),
            "{line}"
        );
        assert!(record["msg"].is_string(), "{line}");
        assert_eq!(record["service"], "registry", "{line}");
        assert_eq!(record["environment"], "test", "{line}");
        explained |= record["level"] == "error" && line.contains("the-failed-1");
    }
    assert!(explained, "{errors}");
    let output = server.output();
    let records: Vec<Value> = output
        .lines()
        .filter(|line| line.starts_with('{'))
        .map(parse)
        .collect();
    // Before them stand only the lines for whoever started it.
    let first = output.lines().position(|line| line.starts_with('{'));
    assert_eq!(
        output.lines().count() - first.expect("some"),
        records.len(),
        "{output}"
    );
    for (id, uri, status) in [
        ("the-first/1", "/v2/_catalog", 200),
        (&*made, "/v2/_catalog", 200),
        (
            "the-failed-1",
            "/v2/team/app/manifests/v1",
            u64::from(failed.status),
        ),
    ] {
        let mut of_id = records
            .iter()
            .filter(|record| record["http.request.id"] == id);
        let record = of_id
            .next()
            .unwrap_or_else(|| panic!("no {id} in {output}"));
        assert!(of_id.next().is_none(), "{id} is there twice");
        assert_eq!(record["http.request.uri"], uri);
        assert_eq!(record["http.request.method"], "GET");
        assert_eq!(record["http.response.status"], status);
        assert_eq!(record["service"], "registry");
    }
    assert!(server.stop().success());
}

#[test]
fn a_reload_changes_the_level() {
    let site = Site::new();
    let config = |level: &str, users: &str| {
        format!(
            "{STORAGE}}}\nlog: {{level: {level}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n\
             auth: {{htpasswd: {{realm: r, path: $SITE/htpasswd}}}}\n\
             registry: {{reload: {{interval: 1h}}}}\n# {users}\n"
        )
    };
    site.user("first", "one", 4);
    let server = site.serve_with(&config("error", ""));
    let peer = Peer::plain(&server.address);
    // A reload is over when it lets a new user in.
    let reload = |level: &str, user: &str| {
        site.configure(&config(level, user));
        site.user(user, "password", 4);
        let said_before = server.errors().len();
        server.reload();
        eventually("the reload is in force", || {
            let answer = peer.clone().user(user, "password").get("/v2/");
            (answer.status == 200).then_some(())
        });
        said_before
    };
    let said_before = reload("error", "quiet");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(
        server.errors()[said_before..],
        *"",
        "less than an error was logged"
    );
    let said_before = reload("info", "second");
    reload("info", "third");
    server.says_after(said_before, &["INFO"]);
    let said_before = reload("error", "fourth");
    // The last that is said at the level that was.
    server.says_after(said_before, &["SIGHUP"]);
    let said_before = reload("error", "fifth");
    thread::sleep(Duration::from_millis(300));
    assert_eq!(
        server.errors()[said_before..],
        *"",
        "less than an error was logged"
    );
    assert!(server.stop().success());
}

#[test]
fn silly_is_silly() {
    let site = Site::new();
    let server = site.serve_with(&format!(
        "{STORAGE}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\nauth: {{silly: {{realm: silly-realm, service: silly-service}}}}\n"
    ));
    let anyone = Peer::plain(&server.address);
    let refused = anyone.get("/v2/").expect(&[401]);
    let challenge = refused.header("www-authenticate").expect("a challenge");
    assert!(challenge.contains("silly-realm"), "{challenge}");
    anyone.user("any", "body").get("/v2/").expect(&[200]);
    // Nobody should mistake it for a lock.
    server.prints("open to everyone who sends");
    assert!(server.stop().success());
}

#[test]
fn a_reload_says_what_waits_for_the_next_start() {
    let site = Site::new();
    let config = |delete: bool| {
        format!("{STORAGE}, delete: {{enabled: {delete}}}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\n")
    };
    let server = site.serve_with(&config(false));
    site.configure(&config(true));
    server.reload();
    server.says(&["WARN", "`storage` has changed", "next start"]);
    let digest = Peer::plain(&server.address).push_image("team/app", "v1", 83);
    let path = format!("/v2/team/app/manifests/{digest}");
    let peer = Peer::plain(&server.address);
    peer.request("DELETE", &path).expect(&[405]);
    assert!(server.stop().success());
    let server = site.serve();
    let peer = Peer::plain(&server.address);
    peer.request("DELETE", &path).expect(&[202]);
    assert!(server.stop().success());
}

#[test]
fn on_a_socket_of_the_file_system() {
    let site = Site::new();
    let server = site.serve_with(&format!(
        "{STORAGE}}}\nhttp: {{net: unix, addr: $SITE/socket}}\n"
    ));
    assert_eq!(server.address, site.path("socket").display().to_string());
    let ask = || {
        let stream = UnixStream::connect(&server.address).expect("connected");
        // Who can open the socket is believed what it says of clients.
        let headers = [("X-Forwarded-For", "192.0.2.7")];
        let answer = http::send_over(stream, "registry.test", "GET", "/v2/", &headers, &[]);
        answer.expect("answered").expect(&[200]);
    };
    ask();
    eventually("the request is logged", || {
        server.output().contains("192.0.2.7 - - [").then_some(())
    });
    // A killed one leaves its socket behind; the next start takes it over.
    let mut server = server;
    server.kill();
    assert!(site.path("socket").exists());
    let server = site.serve();
    let stream = UnixStream::connect(&server.address).expect("connected");
    let answer = http::send_over(stream, "registry.test", "GET", "/v2/", &[], &[]);
    answer.expect("answered").expect(&[200]);
    assert!(server.stop().success());
    assert!(!site.path("socket").exists(), "it cleans up");
}

#[test]
fn limits_and_the_log_are_as_configured() {
    let site = Site::new();
    let server = site.serve_with(&format!(
        "{STORAGE}}}\nhttp: {{addr: \"127.0.0.1:0\"}}\ncatalog: {{maxentries: 2}}\n\
         log: {{accesslog: {{disabled: true}}}}\n\
         validation: {{manifests: {{urls: {{deny: ['^https?://blocked']}}}}}}\n"
    ));
    let peer = Peer::plain(&server.address);
    for name in ["a", "b", "c"] {
        peer.push_image(name, "v1", 84);
    }
    let page = peer.get("/v2/_catalog?n=100").expect(&[200]);
    assert_eq!(page.text(), r#"{"repositories":["a","b"]}"#);
    let link = page.header("link").expect("a link to the rest");
    let (path, _) = link
        .trim_start_matches('<')
        .split_once('>')
        .expect("a link");
    assert_eq!(peer.get(path).text(), r#"{"repositories":["c"]}"#);

    let read = peer.send("GET", "/v2/a/manifests/v1", &[("Accept", ACCEPT)], &[]);
    let image = read.expect("answered").expect(&[200]).text();
    let media_type = MediaType::OCI_MANIFEST;
    let put = |url: &str| {
        let urls = format!("\"size\":20000,\"urls\":[\"{url}\"]");
        let image = image.replace("\"size\":20000", &urls);
        let headers = [("Content-Type", media_type.as_str())];
        let answer = peer.send("PUT", "/v2/a/manifests/urls", &headers, image.as_bytes());
        answer.expect("answered")
    };
    let refused = put("https://blocked.example/layer").expect(&[400]);
    assert!(
        refused.text().contains("blocked.example"),
        "{}",
        refused.text()
    );
    put("https://allowed.example/layer").expect(&[201]);
    let output = server.output();
    assert!(!output.contains("/v2/"), "{output}");
    assert!(server.stop().success());
}
