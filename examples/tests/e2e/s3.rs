//! The registry on S3: what is the same as on a folder, and what can be wrong with a bucket

use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use registry_core::Digest;

use crate::support::check::list;
use crate::support::http::{self, with_query};
use crate::support::image::Noise;
use crate::support::moto::Moto;
use crate::support::peer::Peer;
use crate::support::process::{Server, eventually, free_address, registry};
use crate::support::site::Site;

const HTTP: &str = "http: {addr: \"127.0.0.1:0\", debug: {addr: \"127.0.0.1:0\"}}\n";

/// A configuration with this under `storage`
fn config(storage: &str) -> String {
    format!("version: 0.1\nstorage: {{{storage}}}\n{HTTP}")
}

#[test]
fn chunks_tags_and_deletes_outlive_a_process() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket("images");
    let site = Site::new();
    let storage = moto.storage("images", ", rootdirectory: /some/root/");
    let text = config(&format!("{storage}, delete: {{enabled: true}}"));
    let server = site.serve_with(&text);
    let line = server.says(&["INFO", "conditional create: yes"]);
    assert!(line.contains("conditional update: yes"), "{line}");
    server.prints("storing in the S3 bucket images at http://127.0.0.1:");
    server.prints("below some/root/");
    let ready = http::get(&server.debug_address(), "/readyz").expect(&[200]);
    assert!(
        ready.text().contains("conditional create: yes"),
        "{}",
        ready.text()
    );
    let peer = Peer::plain(&server.address);
    let image = peer.push_image("team/app", "v1", 1);
    peer.push_image("team/app", "v2", 2);

    // As docker uploads: in chunks, of which one is more than a part of S3 and one is less, and
    // another process takes the last.
    let layer = Noise::new(3).bytes(9_000_000);
    let mut location = http::start_upload(&server.address, "team/app");
    let mut sent = 0;
    for length in [6_000_000, 1_000, 2_000_000] {
        let chunk = &layer[sent..sent + length];
        let range = format!("{sent}-{}", sent + length - 1);
        let headers = [("Content-Range", range.as_str())];
        let answer = http::send(&server.address, "PATCH", &location, &headers, chunk);
        let answer = answer.expect("answered").expect(&[202]);
        sent += length;
        assert_eq!(answer.offset(), sent as u64);
        location = answer.location();
    }
    assert!(server.stop().success());

    let server = site.serve();
    let address = &server.address;
    let digest = Digest::sha256(&layer);
    let target = with_query(&location, &format!("digest={digest}"));
    let done = http::send(address, "PUT", &target, &[], &layer[sent..]);
    done.expect("answered").expect(&[201]);
    let blob = format!("/v2/team/app/blobs/{digest}");
    assert!(http::get(address, &blob).followed().expect(&[200]).body == layer);
    // A client asks again for the same where it is sent.
    let range = [("Range", "bytes=5999990-6000009")];
    let sent = http::send(address, "GET", &blob, &range, &[]);
    let sent = sent.expect("answered").expect(&[307]);
    let some = http::ask("GET", sent.header("location").expect("a Location"), &range);
    let some = some.expect(&[206]);
    assert!(some.body == layer[5_999_990..6_000_010]);

    let peer = Peer::plain(address);
    assert_eq!(peer.pull_image("team/app", "v1"), image);
    let tags = || list(address, "/v2/team/app/tags/list", "tags");
    assert_eq!(tags(), ["v1", "v2"]);
    peer.request("DELETE", "/v2/team/app/manifests/v2")
        .expect(&[202]);
    assert_eq!(tags(), ["v1"]);
    peer.request("DELETE", &format!("/v2/team/app/manifests/{image}"))
        .expect(&[202]);
    peer.get("/v2/team/app/manifests/v1").expect(&[404]);
    peer.request("DELETE", &blob).expect(&[202]);
    peer.get(&blob).expect(&[404]);
    assert!(server.stop().success());
    // Under the prefix, in distribution's layout.
    let keys = moto.keys("images");
    let starts = |start: &str| keys.iter().any(|key| key.starts_with(start));
    assert!(starts("some/root/docker/registry/v2/blobs/"), "{keys:?}");
    assert!(!starts("docker"), "{keys:?}");
}

#[test]
fn abandoned_uploads_go_from_a_bucket() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket("images");
    let site = Site::new();
    let purging = "maintenance: {uploadpurging: {enabled: true, age: 3s, interval: 1s}}";
    let storage = moto.storage("images", "");
    let server = site.serve_with(&config(&format!("{storage}, {purging}")));
    let location = http::start_upload(&server.address, "team/app");
    let chunk = Noise::new(4).bytes(6_000_000);
    let answer = http::send(&server.address, "PATCH", &location, &[], &chunk);
    let location = answer.expect("answered").expect(&[202]).location();
    server.says(&["purge", "removed=1", "dry_run=false"]);
    http::get(&server.address, &location).expect(&[404]);
    eventually("nothing is left of it", || {
        let keys = moto.keys("images");
        (!keys.iter().any(|key| key.contains("_uploads"))).then_some(())
    });
    let parts = http::get(&moto.address, "/images?uploads")
        .expect(&[200])
        .text();
    assert!(!parts.contains("<UploadId>"), "{parts}");
    assert!(server.stop().success());
}

#[test]
fn what_is_wrong_with_a_bucket_is_said_by_its_key() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket("images");
    let site = Site::new();
    let nowhere = free_address();
    let at = |address: &str, bucket: &str| {
        format!(
            "s3: {{bucket: {bucket}, regionendpoint: 'http://{address}', accesskey: k, secretkey: \
             hunter2}}"
        )
    };
    for (storage, parts) in [
        (
            at(&moto.address, "another"),
            ["`storage.s3.bucket`", "no such bucket; create it"],
        ),
        (
            at(&moto.address, "another").replace("s3:", "s3aws:"),
            ["`storage.s3aws.bucket`", "no such bucket"],
        ),
        (
            at(&nowhere, "images"),
            ["`storage.s3.regionendpoint`", "could not be reached"],
        ),
        (
            "s3: {bucket: images}".to_owned(),
            ["`storage.s3.region`", "`AWS_REGION`"],
        ),
        (
            at(&moto.address, "images").replace("{bucket", "{chunksize: 1000, bucket"),
            ["`storage.s3.chunksize`", "from 5242880"],
        ),
    ] {
        let own = "log: {level: warn}\nregistry: {storage: {patience: 1s}}\n";
        let said = site.refusal(&format!("{}{own}", config(&storage)));
        for part in parts {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn a_store_that_starts_late_is_waited_for() {
    let Some(moto) = Moto::start() else { return };
    moto.make_bucket("images");
    // Whoever is between them breaks off more calls than one attempt makes, then passes them on.
    let between = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = between.local_addr().expect("bound");
    let upstream = moto.address.clone();
    thread::spawn(move || {
        for client in between.incoming().skip(12).map_while(Result::ok) {
            let server = TcpStream::connect(&upstream).expect("moto runs");
            let clone = |stream: &TcpStream| stream.try_clone().expect("a second handle");
            for (mut from, mut to) in [
                (clone(&client), clone(&server)),
                (clone(&server), clone(&client)),
            ] {
                thread::spawn(move || {
                    let _ = io::copy(&mut from, &mut to);
                    let _ = to.shutdown(Shutdown::Write);
                });
            }
        }
    });
    let site = Site::new();
    let server = site.serve_with(&config(&format!(
        "s3: {{bucket: images, regionendpoint: 'http://{address}', accesskey: k, secretkey: s}}"
    )));
    server.says(&["WARN", "is tried again"]);
    server.says(&["INFO", "conditional create: yes"]);
    Peer::plain(&server.address).push_image("team/app", "v1", 5);
    assert!(server.stop().success());
}

#[test]
fn credentials_are_asked_for_what_they_permit() {
    let Some((moto, writer, reader)) = Moto::with_users() else {
        return;
    };
    let site = Site::new();
    let storage = |id: &str, secret: &str, more: &str| {
        config(&format!(
            "s3: {{bucket: images, region: us-east-1, regionendpoint: 'http://{}', accesskey: \
             '{id}', secretkey: '{secret}'}}{more}",
            moto.address
        ))
    };
    let said = site.refusal(&storage("AKIAUNKNOWN", "hunter2", ""));
    assert!(said.contains("`storage.s3.accesskey`"), "{said}");
    let said = site.refusal(&storage(&reader.id, &reader.secret, ""));
    assert!(said.contains("`storage.s3.bucket`"), "{said}");
    assert!(said.contains("not permitted"), "{said}");
    assert!(!said.contains(&reader.secret), "{said}");

    // From the file in which Amazon's own tools have them.
    let profile = site.path("credentials");
    let text = format!(
        "[build]\naws_access_key_id = {}\naws_secret_access_key = {}\n",
        writer.id, writer.secret
    );
    std::fs::write(&profile, text).expect("written");
    let from_profile = storage("", "", "");
    let path = site.configure(&from_profile);
    let mut command = registry(&["serve"]);
    command
        .arg(path)
        .env("AWS_PROFILE", "build")
        .env("AWS_SHARED_CREDENTIALS_FILE", &profile)
        .env("AWS_CONFIG_FILE", site.path("none"));
    let server = Server::launch(&mut command);
    let image = Peer::plain(&server.address).push_image("team/app", "v1", 6);
    assert!(server.stop().success());

    // Who only reads can serve what is there. Through the registry: where moto verifies
    // credentials, it fails at signed URLs.
    let more = ", redirect: {disable: true}, maintenance: {readonly: {enabled: true}}";
    let server = site.serve_with(&storage(&reader.id, &reader.secret, more));
    let peer = Peer::plain(&server.address);
    assert_eq!(peer.pull_image("team/app", "v1"), image);
    server.says(&["INFO", "read-only"]);
    assert!(server.stop().success());
}
