//! Webhooks whose receiver fails, hangs, or is there when the registry is killed

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use registry_core::{Digest, MediaType};
use serde_json::Value;

use crate::support::check::ACCEPT;
use crate::support::hooks::{Mood, Receiver};
use crate::support::http::{push_blob, push_manifest};
use crate::support::image::{Noise, Stored};
use crate::support::peer::{Peer, manifest};
use crate::support::process::eventually;
use crate::support::site::Site;

/// A configuration with these endpoints, by name and receiver
fn config(endpoints: &[(&str, &Receiver)]) -> String {
    let endpoints: String = endpoints
        .iter()
        .map(|(name, receiver)| {
            format!(
                "    - {{name: {name}, url: \"http://{}/{name}\", headers: {{X-Hook: [{name}]}}, \
                 timeout: 300ms, threshold: 2, backoff: 200ms}}\n",
                receiver.address
            )
        })
        .collect();
    format!(
        "version: 0.1\nstorage: {{filesystem: {{rootdirectory: $SITE/root}}, delete: {{enabled: true}}}}\n\
         http: {{addr: \"127.0.0.1:0\"}}\nnotifications:\n  endpoints:\n{endpoints}"
    )
}

/// The tag, the digest and the id of each event of a manifest that was pushed by a tag
fn pushes(events: &[Value]) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events
        .iter()
        .filter(|event| event["action"] == "push" && event["target"]["tag"].is_string())
        .map(|event| {
            let target = &event["target"];
            (
                text(&target["tag"]),
                text(&target["digest"]),
                text(&event["id"]),
            )
        })
        .collect()
}

/// Pushes manifests one after the other until the registry is gone, and notes each that was
/// acknowledged
fn push_until_gone(
    address: &str,
    who: usize,
    blobs: [&Stored; 2],
    acknowledged: &Mutex<Vec<(String, String)>>,
) {
    for number in 0.. {
        let text = manifest(blobs[0], blobs[1]);
        // Another manifest each time: with a space more somewhere.
        let text = text.replacen('{', &format!("{{{}", " ".repeat(who + 4 * number)), 1);
        let tag = format!("{who}-{number}");
        let media_type = MediaType::OCI_MANIFEST;
        let answer = push_manifest(
            address,
            "hooked",
            &tag,
            media_type.as_str(),
            text.as_bytes(),
        );
        let Ok(answer) = answer else { return };
        answer.expect(&[201]);
        let digest = Digest::sha256(text.as_bytes()).to_string();
        acknowledged.lock().expect("no panic").push((tag, digest));
    }
}

#[test]
fn every_acknowledged_push_is_told_although_the_registry_is_killed() {
    let site = Site::new();
    let steady = Receiver::start(Mood::Takes);
    let refusing = Receiver::start(Mood::Refuses);
    let hanging = Receiver::start(Mood::Hangs);
    let endpoints = [
        ("steady", &steady),
        ("refusing", &refusing),
        ("hanging", &hanging),
    ];
    site.configure(&config(&endpoints));
    let acknowledged = Mutex::new(Vec::new());

    // Killed again and again, each time at another moment of the work.
    for round in 0..3 {
        let mut server = site.serve();
        let address = server.address.clone();
        let push = |content: &[u8]| {
            let answer = push_blob(&address, "hooked", content);
            answer.expect("answered").expect(&[201]);
            Stored {
                digest: Digest::sha256(content),
                size: content.len() as u64,
            }
        };
        let (config, layer) = (push(b"{}"), push(&Noise::new(round).bytes(5_000)));
        let before = acknowledged.lock().expect("no panic").len();
        thread::scope(|scope| {
            for who in 0..3 {
                let (address, acknowledged) = (&address, &acknowledged);
                let blobs = [&config, &layer];
                // A name that no other round has.
                let who = who + 3 * round as usize;
                scope.spawn(move || push_until_gone(address, who, blobs, acknowledged));
            }
            eventually("manifests are acknowledged", || {
                let so_far = acknowledged.lock().expect("no panic").len();
                (so_far >= before + 40 + 13 * round as usize).then_some(())
            });
            server.kill();
        });
    }
    let acknowledged = acknowledged.into_inner().expect("no panic");
    assert!(refusing.taken().is_empty() && hanging.taken().is_empty());
    assert!(!refusing.deliveries().is_empty(), "it was never tried");

    refusing.set(Mood::Takes);
    hanging.set(Mood::Takes);
    let server = site.serve();
    for (name, receiver) in endpoints {
        eventually(&format!("`{name}` is told everything"), || {
            let told: BTreeSet<(String, String)> = pushes(&receiver.taken())
                .into_iter()
                .map(|(tag, digest, _)| (tag, digest))
                .collect();
            let missing = acknowledged.iter().find(|push| !told.contains(*push));
            missing.is_none().then_some(())
        });
        let taken = receiver.taken();

        // A duplicate is the same event once more.
        let mut ids = BTreeMap::new();
        let mut events = BTreeMap::new();
        for (tag, digest, id) in pushes(&taken) {
            let known = ids.entry((tag, digest)).or_insert_with(|| id.clone());
            assert_eq!(*known, id, "one push was told as two");
        }
        for event in &taken {
            let id = event["id"].as_str().expect("an id").to_owned();
            let known = events.entry(id).or_insert(event);
            assert_eq!(*known, event, "one id for two events");
        }

        // Each pusher waited for its answer before it went on, and so is the order.
        let mut last = BTreeMap::new();
        let mut seen = BTreeSet::new();
        for (tag, ..) in pushes(&taken) {
            if !seen.insert(tag.clone()) {
                continue;
            }
            let (who, number) = tag.split_once('-').expect("as pushed");
            let number: i64 = number.parse().expect("as pushed");
            let before = last.insert(who.to_owned(), number).unwrap_or(-1);
            assert!(
                number > before,
                "`{name}` was told {tag} after {who}-{before}"
            );
        }
        for delivery in receiver.deliveries() {
            assert_eq!(delivery.headers["x-hook"], name);
            let line = &delivery.headers[":line"];
            assert_eq!(*line, format!("POST /{name} HTTP/1.1"));
            let media_type = &*delivery.headers["content-type"];
            assert_eq!(
                media_type,
                "application/vnd.docker.distribution.events.v1+json"
            );
        }
    }
    assert!(server.stop().success());
}

#[test]
fn an_event_is_as_documented() {
    let site = Site::new();
    let receiver = Receiver::start(Mood::Takes);
    let server = site.serve_with(&config(&[("hook", &receiver)]));
    let peer = Peer::plain(&server.address);
    let digest = peer.push_image("documented", "v1", 41).to_string();
    peer.pull_image("documented", "v1");
    let delete = format!("/v2/documented/manifests/{digest}");
    peer.request("DELETE", &delete).expect(&[202]);
    let taken = eventually("push, pull and delete are told", || {
        let taken = receiver.taken();
        let told = |action: &str| {
            taken.iter().any(|event| {
                event["action"] == action && event["target"]["digest"] == digest.as_str()
            })
        };
        (told("push") && told("pull") && told("delete")).then_some(taken)
    });
    let manifests = taken
        .iter()
        .filter(|event| event["target"]["digest"] == digest.as_str());
    let actions: Vec<&str> = manifests
        .clone()
        .filter_map(|event| event["action"].as_str())
        .collect();
    assert_eq!(actions, ["push", "pull", "delete"]);
    for event in manifests {
        assert_eq!(event["target"]["repository"], "documented", "{event}");
        assert!(
            event["id"].is_string() && event["timestamp"].is_string(),
            "{event}"
        );
        assert!(event["request"]["id"].is_string(), "{event}");
        assert_eq!(event["request"]["host"], server.address.as_str(), "{event}");
        assert!(event["source"]["addr"].is_string(), "{event}");
        if event["action"] != "delete" {
            let target = &event["target"];
            assert_eq!(
                target["mediaType"],
                MediaType::OCI_MANIFEST.as_str(),
                "{event}"
            );
            assert_eq!(target["tag"], "v1", "{event}");
            let url = target["url"].as_str().expect("a URL");
            let end = format!("{}/v2/documented/manifests/{digest}", server.address);
            assert!(url.ends_with(&end), "{event}");
            assert_eq!(
                event["request"]["method"].as_str().map(str::len),
                Some(3),
                "{event}"
            );
        }
    }
    // Blobs are pushed and pulled too.
    let blobs = taken
        .iter()
        .filter(|event| event["target"]["mediaType"] == "application/octet-stream");
    assert!(blobs.count() >= 4, "{taken:#?}");
    assert!(server.stop().success());
}

#[test]
fn a_reload_replaces_the_endpoints() {
    let site = Site::new();
    let [first, second] = [Mood::Refuses, Mood::Takes].map(Receiver::start);
    let server = site.serve_with(&config(&[("hook", &first)]));
    let peer = Peer::plain(&server.address);
    peer.push_image("reloaded", "v1", 42);
    eventually("the first one is tried", || {
        (!first.deliveries().is_empty()).then_some(())
    });

    // What is waiting for this endpoint goes where it is now, with what comes.
    site.configure(&config(&[("hook", &second)]));
    server.reload();
    eventually("the second one is told", || {
        let told = pushes(&second.taken());
        told.iter().any(|(tag, ..)| tag == "v1").then_some(())
    });
    // What was on its way to the first one may still come.
    thread::sleep(Duration::from_millis(500));
    let before = first.deliveries().len();
    peer.push_image("reloaded", "v2", 43);
    eventually("the second one is told of what comes", || {
        let told = pushes(&second.taken());
        told.iter().any(|(tag, ..)| tag == "v2").then_some(())
    });
    thread::sleep(Duration::from_millis(500));
    assert_eq!(
        first.deliveries().len(),
        before,
        "the old one is still told"
    );

    // A file that cannot be in force changes nothing, and is said with its line.
    let said_before = server.errors().len();
    site.configure(&config(&[("hook", &first)]).replace("timeout: 300ms", "timeout: soon"));
    server.reload();
    server.says_after(said_before, &["config.yml", "timeout"]);
    peer.push_image("reloaded", "v3", 44);
    eventually("the second one is still told", || {
        let told = pushes(&second.taken());
        told.iter().any(|(tag, ..)| tag == "v3").then_some(())
    });

    // One more, and one less.
    site.configure(&config(&[("other", &first)]));
    first.set(Mood::Takes);
    server.reload();
    eventually("the other one is told", || {
        peer.push_image("reloaded", "v4", 45);
        let told = pushes(&first.taken());
        told.iter().any(|(tag, ..)| tag == "v4").then_some(())
    });
    assert!(server.stop().success());
}

#[test]
fn a_full_outbox_refuses_changes_and_serves_reads() {
    let site = Site::new();
    let receiver = Receiver::start(Mood::Refuses);
    let server = site.serve_with(&format!(
        "{}registry: {{notifications: {{outbox: {{maxbytes: 1048576}}}}}}\n",
        config(&[("hook", &receiver)])
    ));
    let peer = Peer::plain(&server.address);
    let digest = peer.push_image("full", "v1", 48);
    let read = |path: &str| peer.send("GET", path, &[("Accept", ACCEPT)], &[]);
    let image = read("/v2/full/manifests/v1");
    let image = image.expect("answered").expect(&[200]).body;
    let media_type = MediaType::OCI_MANIFEST;
    // An event says what the client calls itself.
    let agent = "long/".repeat(1600);
    let headers = [
        ("Content-Type", media_type.as_str()),
        ("User-Agent", &*agent),
    ];
    let push = |tag: &str| {
        let path = format!("/v2/full/manifests/{tag}");
        let answer = peer.send("PUT", &path, &headers, &image);
        answer.expect("answered").expect(&[201, 503])
    };
    let mut acknowledged = vec!["v1".to_owned()];
    let refused = loop {
        let tag = format!("t{}", acknowledged.len());
        let answer = push(&tag);
        if answer.status == 503 {
            break answer;
        }
        acknowledged.push(tag);
        // Each event has 8000 bytes.
        assert!(acknowledged.len() < 200, "the outbox has no bound");
    };
    assert!(acknowledged.len() > 50, "{acknowledged:?}");
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    let text = refused.text();
    assert!(text.contains("notification endpoints"), "{text}");
    let tag = format!("/v2/full/manifests/t{}", acknowledged.len());
    read(&tag).expect("answered").expect(&[404]);
    assert_eq!(peer.pull_image("full", "v1"), digest);

    receiver.set(Mood::Takes);
    eventually("changes are taken again", || {
        (push("again").status == 201).then_some(())
    });
    acknowledged.push("again".to_owned());
    eventually("every acknowledged push is told", || {
        let told = pushes(&receiver.taken());
        let told: BTreeSet<String> = told.into_iter().map(|(tag, ..)| tag).collect();
        acknowledged
            .iter()
            .all(|tag| told.contains(tag))
            .then_some(())
    });
    assert!(server.stop().success());
}

#[test]
fn what_is_ignored_is_not_told() {
    let site = Site::new();
    let [all, some] = [Mood::Takes; 2].map(Receiver::start);
    let text = config(&[("all", &all), ("some", &some)]);
    let ignore = "ignoredmediatypes: [application/octet-stream], ignore: {actions: [pull]}";
    let text = text.replace("{name: some,", &format!("{{name: some, {ignore},"));
    let server = site.serve_with(&text);
    let peer = Peer::plain(&server.address);
    peer.push_image("ignored", "v1", 46);
    peer.pull_image("ignored", "v1");
    peer.push_image("ignored", "end", 47);
    for receiver in [&all, &some] {
        eventually("the last push is told", || {
            let told = pushes(&receiver.taken());
            told.iter().any(|(tag, ..)| tag == "end").then_some(())
        });
    }
    let summary = |receiver: &Receiver| -> BTreeSet<(String, bool)> {
        let taken = receiver.taken().into_iter();
        taken
            .map(|event| {
                let blob = event["target"]["mediaType"] == "application/octet-stream";
                (
                    event["action"].as_str().expect("an action").to_owned(),
                    blob,
                )
            })
            .collect()
    };
    let told = |action: &str, blob| (action.to_owned(), blob);
    assert_eq!(
        summary(&all),
        BTreeSet::from([
            told("pull", false),
            told("pull", true),
            told("push", false),
            told("push", true)
        ])
    );
    assert_eq!(summary(&some), BTreeSet::from([told("push", false)]));
    assert!(server.stop().success());
}
