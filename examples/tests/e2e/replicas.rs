//! Several replicas on one storage, behind a load balancer, with what operators get to set it up

use std::collections::BTreeMap;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use registry_core::{Digest, MediaType};

use crate::support::balancer::{Balancer, deploy, replaced};
use crate::support::check;
use crate::support::clients::Home;
use crate::support::crowd::{Clients, Troubles, USER, chunk, send, upload_in_chunks};
use crate::support::fleet::Fleet;
use crate::support::http::{Response, with_query};
use crate::support::image::{Noise, Stored, descriptor};
use crate::support::moto::Moto;
use crate::support::process::{Server, registry};
use crate::support::site::Site;

/// How many images the clients push and pull, in all
///
/// `REGISTRY_E2E_IMAGES` says otherwise: on two cores that do nothing else, on a folder, five are done
/// in a second.
fn images(default: usize) -> usize {
    match std::env::var("REGISTRY_E2E_IMAGES") {
        Ok(count) => count.parse().expect("REGISTRY_E2E_IMAGES is a number"),
        Err(_) => default,
    }
}

/// Three replicas on one storage, with the configuration of `examples/deploy/replicas/`
struct Site3 {
    fleet: Fleet,
    /// None on a folder
    bucket: Option<Moto>,
    site: Site,
}

impl Site3 {
    /// On a folder
    #[track_caller]
    fn start() -> Self {
        Self::start_on(None)
    }

    /// On a bucket, if there is one
    #[track_caller]
    fn start_on(bucket: Option<Moto>) -> Self {
        let site = Site::new();
        site.user(USER[0], USER[1], 5);
        let mut text = configuration(&site);
        if let Some(bucket) = &bucket {
            let root = site.path("root").display().to_string();
            let folder = format!("filesystem:\n    rootdirectory: {root}\n");
            text = replaced(
                &text,
                &folder,
                &format!("{}\n", bucket.storage("images", "")),
            );
        }
        let config = site.write("config.yml", &text);
        let fleet = Fleet::start(3, move |address| {
            Server::launch(registry(&["serve", "--listen", address]).arg(&config))
        });
        Self {
            fleet,
            bucket,
            site,
        }
    }

    fn address(&self, number: usize) -> &str {
        &self.fleet.addresses[number % self.fleet.len()]
    }

    /// Stops all, and looks at what they leave behind
    #[track_caller]
    fn ends_whole(self) {
        thread::scope(|scope| {
            for number in 0..self.fleet.len() {
                let fleet = &self.fleet;
                scope.spawn(move || fleet.stop(number));
            }
        });
        let root = self.site.path("root");
        if let Some(bucket) = &self.bucket {
            bucket.download("images", &root);
        }
        check::store_is_whole(&root);
    }
}

/// The configuration that operators get, with the paths of this test
fn configuration(site: &Site) -> String {
    let text = fs::read_to_string(deploy("config.yml")).expect("readable");
    let path = |name: &str| site.path(name).display().to_string();
    let text = replaced(&text, "/var/lib/registry", &path("root"));
    let text = replaced(&text, "/etc/registry/htpasswd", &path("htpasswd"));
    replaced(&text, "10.20.0.0/16", "127.0.0.0/8")
}

/// As [`send`], to a registry that answers
#[track_caller]
fn ask(address: &str, method: &str, path: &str, body: &[u8]) -> Response {
    send(address, method, path, body).unwrap_or_else(|error| panic!("{method} {path}: {error}"))
}

/// An image of one layer, whose blobs are there already: its manifest
fn manifest_of(seed: u64, blobs: &[Stored; 2]) -> Vec<u8> {
    format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","config":{},"layers":[{}],"annotations":{{"seed":"{seed}"}}}}"#,
        MediaType::OCI_MANIFEST,
        descriptor(&MediaType::OCI_CONFIG, &blobs[0], ""),
        descriptor(&MediaType::OCI_LAYER_TAR, &blobs[1], ""),
    )
    .into_bytes()
}

/// Pushes a config and a layer through one replica
#[track_caller]
fn push_blobs(address: &str, repository: &str, seed: u64) -> [Stored; 2] {
    let layer = Noise::new(seed).bytes(30_000);
    [b"{}".to_vec(), layer].map(|content| {
        let digest = Digest::sha256(&content);
        let path = format!("/v2/{repository}/blobs/uploads/");
        let started = ask(address, "POST", &path, &[]).expect(&[202]);
        let target = with_query(&started.location(), &format!("digest={digest}"));
        ask(address, "PUT", &target, &content).expect(&[201]);
        Stored {
            digest,
            size: content.len() as u64,
        }
    })
}

#[test]
fn each_request_of_an_upload_may_reach_another_replica() {
    let place = Site3::start();
    thread::scope(|scope| {
        for client in 0..6 {
            let place = &place;
            scope.spawn(move || {
                let content = Noise::new(700 + client as u64).bytes(900_000 + client * 70_001);
                let digest = Digest::sha256(&content);
                let at = |request: usize| place.address(client + request);
                let started = ask(at(0), "POST", "/v2/replicas/chunks/blobs/uploads/", &[]);
                let mut location = started.expect(&[202]).location();
                let mut requests = 1;
                let mut start = 0;
                for piece in content[..content.len() - 1000].chunks(190_000) {
                    // Where the upload is, says a replica that had nothing to do with it.
                    let status = ask(at(requests), "GET", &location, &[]).expect(&[204]);
                    assert_eq!(status.offset(), start as u64);
                    let answer = chunk(at(requests + 1), &location, start, piece)
                        .expect("answered")
                        .expect(&[202]);
                    location = answer.location();
                    start += piece.len();
                    assert_eq!(answer.offset(), start as u64);
                    requests += 2;
                }
                // A chunk that is there already, sent again to another, is not taken twice.
                chunk(at(requests), &location, 0, &content[..1000])
                    .expect("answered")
                    .expect(&[416]);
                let target = with_query(&location, &format!("digest={digest}"));
                ask(at(requests + 1), "PUT", &target, &content[start..]).expect(&[201]);
                // It is there at once for all, and the session has ended for all.
                for number in 0..3 {
                    let path = format!("/v2/replicas/chunks/blobs/{digest}");
                    let got = ask(place.address(number), "GET", &path, &[]).expect(&[200]);
                    assert!(got.body == content, "other bytes under {digest}");
                    ask(place.address(number), "GET", &location, &[]).expect(&[404]);
                }
            });
        }
    });
    place.ends_whole();
}

#[test]
fn a_tag_is_what_was_pushed_last_for_all_replicas_at_once() {
    let place = Site3::start();
    let repository = "replicas/moved";
    let blobs = push_blobs(place.address(0), repository, 11);
    let path = format!("/v2/{repository}/manifests/latest");
    for round in 0..60 {
        let manifest = manifest_of(round, &blobs);
        let by = place.address(round as usize);
        ask(by, "PUT", &path, &manifest).expect(&[201]);
        for number in 0..3 {
            let got = ask(place.address(number), "GET", &path, &[]).expect(&[200]);
            assert!(got.body == manifest, "replica {number} has another");
            let head = ask(place.address(number), "HEAD", &path, &[]).expect(&[200]);
            let said = head.header("docker-content-digest");
            assert_eq!(said, Some(&*Digest::sha256(&manifest).to_string()));
        }
    }
    // A tag that is deleted is gone for all at once, too.
    ask(place.address(1), "DELETE", &path, &[]).expect(&[202]);
    for number in 0..3 {
        ask(place.address(number), "GET", &path, &[]).expect(&[404]);
    }
    place.ends_whole();
}

#[test]
fn racing_pushes_of_a_tag_leave_one_of_them_whole() {
    let place = Site3::start();
    let repository = "replicas/raced";
    let blobs = push_blobs(place.address(0), repository, 12);
    let path = format!("/v2/{repository}/manifests/latest");
    let pushed: Vec<Vec<u8>> = (0..12).map(|seed| manifest_of(seed, &blobs)).collect();
    let done = AtomicBool::new(false);
    for _ in 0..8 {
        thread::scope(|scope| {
            let readers: Vec<_> = (0..3)
                .map(|number| {
                    let (place, path, pushed, done) = (&place, &path, &pushed, &done);
                    scope.spawn(move || {
                        while !done.load(Ordering::Relaxed) {
                            let got = ask(place.address(number), "GET", path, &[]);
                            let known = pushed.contains(&got.body);
                            // Before the first of all there is none.
                            assert!(known || got.status == 404, "{}: {}", got.status, got.text());
                        }
                    })
                })
                .collect();
            let writers: Vec<_> = pushed
                .iter()
                .enumerate()
                .map(|(number, manifest)| {
                    let (place, path) = (&place, &path);
                    scope.spawn(move || {
                        ask(place.address(number), "PUT", path, manifest).expect(&[201]);
                    })
                })
                .collect();
            let writers: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
            done.store(true, Ordering::Relaxed);
            for result in writers
                .into_iter()
                .chain(readers.into_iter().map(|reader| reader.join()))
            {
                result.expect("no panic");
            }
        });
        done.store(false, Ordering::Relaxed);
        let winner = ask(place.address(0), "GET", &path, &[]).expect(&[200]).body;
        assert!(pushed.contains(&winner), "nobody pushed what the tag has");
        for number in 1..3 {
            let got = ask(place.address(number), "GET", &path, &[]).expect(&[200]);
            assert!(got.body == winner, "replicas do not agree");
        }
        // Those that lost are there all the same, by digest.
        for manifest in &pushed {
            let digest = Digest::sha256(manifest);
            let path = format!("/v2/{repository}/manifests/{digest}");
            let got = ask(place.address(1), "GET", &path, &[]).expect(&[200]);
            assert!(got.body == *manifest);
        }
    }
    place.ends_whole();
}

#[test]
fn images_pass_through_haproxy_while_replicas_are_killed() {
    images_pass(images(40), Site3::start());
}

#[test]
fn images_pass_to_a_bucket_while_replicas_are_killed() {
    let Some(bucket) = Moto::start() else { return };
    bucket.make_bucket("images");
    images_pass(images(12), Site3::start_on(Some(bucket)));
}

#[track_caller]
fn images_pass(count: usize, place: Site3) {
    let home = Home::new();
    let Some(clients) = Clients::prepare(&home, count) else {
        return;
    };
    let Some(balancer) = Balancer::haproxy(&place.site.path(""), &place.fleet.addresses) else {
        return;
    };
    let started = Instant::now();
    let kills = under_kills(&place.fleet, |kills| {
        clients.run_all(&balancer.address, kills);
    });
    eprintln!(
        "{count} images pushed and pulled in {:?} with {kills} kills; on the way: {:#?}",
        started.elapsed(),
        clients.troubles.take()
    );
    // Each request to the next: all of them did their share.
    for number in 0..3 {
        let log = place.fleet.log_of(number);
        for method in ["POST", "PATCH", "PUT", "HEAD", "GET"] {
            assert!(log.contains(method), "replica {number} got no {method}");
        }
    }
    let pushed = clients.pushed.lock().expect("whole");
    assert_eq!(pushed.len(), count);
    for number in 0..3 {
        whole_at(place.address(number), &pushed);
    }
    place.ends_whole();
}

/// Runs this while replicas are killed, one after the other, and says how many were
fn under_kills(fleet: &Fleet, run: impl FnOnce(&AtomicUsize)) -> usize {
    let (kills, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let killer = scope.spawn(|| fleet.kill_in_turn(Duration::from_secs(2), &kills, &stop));
        // Even if it fails: otherwise the killer would never end.
        let result = catch_unwind(AssertUnwindSafe(|| run(&kills)));
        stop.store(true, Ordering::Relaxed);
        killer.join().expect("replicas start again");
        if let Err(panic) = result {
            resume_unwind(panic);
        }
    });
    kills.into_inner()
}

/// Every image that was acknowledged is there, with every byte of it
#[track_caller]
fn whole_at(address: &str, pushed: &BTreeMap<String, Digest>) {
    let get = |path: &str, expected: &Digest| {
        let got = ask(address, "GET", path, &[]).followed().expect(&[200]);
        assert_eq!(
            Digest::sha256(&got.body),
            *expected,
            "GET {path} at {address}"
        );
        got.body
    };
    for (image, digest) in pushed {
        let (repository, tag) = image.split_once(':').expect("a tag");
        let body = get(&format!("/v2/{repository}/manifests/{tag}"), digest);
        for dependency in check::parse(&body).dependencies() {
            let digest = dependency.descriptor.digest.to_string();
            let digest = digest.parse().expect("a digest");
            get(&format!("/v2/{repository}/blobs/{digest}"), &digest);
        }
    }
}

/// Everyday requests, one after the other, each of which must be answered well: what a pull and a
/// push of a small image are made of
#[track_caller]
fn everyday(address: &str, repository: &str, seed: u64) {
    let blobs = push_blobs(address, repository, seed);
    let manifest = manifest_of(seed, &blobs);
    let path = format!("/v2/{repository}/manifests/t{seed}");
    ask(address, "PUT", &path, &manifest).expect(&[201]);
    let got = ask(address, "GET", &path, &[]).expect(&[200]);
    assert!(got.body == manifest);
    for blob in &blobs {
        let path = format!("/v2/{repository}/blobs/{}", blob.digest);
        ask(address, "HEAD", &path, &[]).expect(&[200]);
        let got = ask(address, "GET", &path, &[]).expect(&[200]);
        assert_eq!(Digest::sha256(&got.body), blob.digest);
    }
}

/// Everyday requests of several clients while this runs; how many images they pushed and pulled
#[track_caller]
fn under_load(address: &str, run: impl FnOnce()) -> usize {
    let (stop, pushed) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for client in 0..4 {
            let (stop, pushed) = (&stop, &pushed);
            scope.spawn(move || {
                for number in 0.. {
                    if stop.load(Ordering::Relaxed) {
                        return;
                    }
                    everyday(address, "replicas/load", client * 100_000 + number);
                    pushed.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let result = catch_unwind(AssertUnwindSafe(run));
        stop.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            resume_unwind(panic);
        }
    });
    pushed.into_inner()
}

#[test]
fn a_rolling_restart_behind_haproxy_fails_no_request() {
    let place = Site3::start();
    let Some(balancer) = Balancer::haproxy(&place.site.path(""), &place.fleet.addresses) else {
        return;
    };
    let pushed = under_load(&balancer.address, || {
        for number in 0..place.fleet.len() {
            place.fleet.stop(number);
            place.fleet.begin(number);
            // Until haproxy has seen it: with the others it has enough for now.
            thread::sleep(Duration::from_millis(800));
        }
    });
    eprintln!("{pushed} images pushed and pulled while all replicas were restarted");
    assert!(pushed > 3, "only {pushed} pushes");
    place.ends_whole();
}

#[test]
fn nginx_finds_the_replicas_that_are_there() {
    let place = Site3::start();
    let Some(balancer) = Balancer::nginx(&place.site.path(""), &place.fleet.addresses) else {
        return;
    };
    let pause = || thread::sleep(Duration::from_millis(1500));
    under_load(&balancer.address, pause);
    for number in 0..3 {
        let log = place.fleet.log_of(number);
        assert!(log.contains("PUT"), "replica {number} got nothing");
    }
    // While one is away, the others do its work.
    place.fleet.stop(1);
    let pushed = under_load(&balancer.address, pause);
    assert!(pushed > 0, "no push was done");
    place.fleet.begin(1);
    let content = Noise::new(77).bytes(700_000);
    let troubles = Troubles::default();
    upload_in_chunks(&balancer.address, "replicas/chunks", &content, &troubles);
    let troubles = troubles.take();
    assert!(troubles.is_empty(), "{troubles:?}");
    place.ends_whole();
}
