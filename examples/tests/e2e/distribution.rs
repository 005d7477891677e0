//! One folder, two registries: Debian's `docker-registry` and ours read what the other wrote

use std::path::Path;

use registry_core::{Digest, MediaType};
use tempfile::TempDir;

use crate::support::check::{inventory, list};
use crate::support::clients::{Home, Skopeo};
use crate::support::http::{self, push_manifest};
use crate::support::image::Layout;
use crate::support::process::Server;

/// Pushes images of both families of media types under several names
///
/// Those of `compressed` with gzip.
pub(crate) fn push_everything(
    skopeo: &Skopeo<'_>,
    layout: &Layout,
    compressed: &Layout,
    address: &str,
    prefix: &str,
) {
    let to = |name: &str| format!("docker://{address}/{prefix}/{name}");
    let (one, multi) = (layout.reference("v1"), layout.reference("multi"));
    // As they are; otherwise skopeo compresses what it pushes.
    let same = "--preserve-digests";
    skopeo.copy(&[same], &one, &to("one:v1"));
    skopeo.copy(&[same], &one, &to("one:latest"));
    skopeo.copy(&[same, "--all"], &multi, &to("multi:v1"));
    skopeo.copy(&["--format", "v2s2"], &one, &to("docker/one:v1"));
    skopeo.copy(
        &["--format", "v2s2", "--all"],
        &multi,
        &to("docker/multi:v1"),
    );
    // The first also into a repository below the path of another.
    let one = compressed.reference("v1");
    skopeo.copy(&["--dest-compress"], &one, &to("one/below/it:v1"));
    skopeo.copy(
        &["--dest-compress", "--format", "v2s2"],
        &one,
        &to("docker/one:gzip"),
    );
}

#[track_caller]
pub(crate) fn has_both_families(served: &std::collections::BTreeMap<String, (String, Digest)>) {
    for media_type in [
        MediaType::OCI_MANIFEST,
        MediaType::OCI_INDEX,
        MediaType::DOCKER_MANIFEST,
        MediaType::DOCKER_MANIFEST_LIST,
    ] {
        let count = served
            .values()
            .filter(|(served, _)| served == media_type.as_str())
            .count();
        assert!(count > 0, "nothing of {media_type} in {served:#?}");
    }
}

/// Both registries, one after the other, serve exactly the same from a folder
#[track_caller]
fn both_serve_the_same(root: &Path) -> usize {
    let reference = Server::reference(root).expect("found before");
    let by_reference = inventory(&reference.address);
    drop(reference);
    let ours = Server::ours(root);
    let by_ours = inventory(&ours.address);
    assert_eq!(by_ours, by_reference);
    has_both_families(&by_ours);
    by_ours.len()
}

#[test]
fn the_reference_serves_what_ours_wrote() {
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let root = TempDir::new().expect("a folder");
    if Server::reference(root.path()).is_none() {
        return;
    }
    let layout = Layout::write(&home.path("layout"), 10, &[40_000, 3_000, 700_000]);
    let compressed = Layout::write(&home.path("compressed"), 15, &[60_000]);
    let ours = Server::ours(root.path());
    push_everything(&skopeo, &layout, &compressed, &ours.address, "ours");
    let written = inventory(&ours.address);
    assert!(ours.stop().success());

    let reference = Server::reference(root.path()).expect("found before");
    assert_eq!(inventory(&reference.address), written);
    pull_back(&skopeo, &home, &layout, &reference.address, "ours");
    drop(reference);
    both_serve_the_same(root.path());
}

#[test]
fn ours_serves_what_the_reference_wrote() {
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let root = TempDir::new().expect("a folder");
    let Some(reference) = Server::reference(root.path()) else {
        return;
    };
    let layout = Layout::write(&home.path("layout"), 20, &[40_000, 3_000, 700_000]);
    let compressed = Layout::write(&home.path("compressed"), 25, &[60_000]);
    push_everything(&skopeo, &layout, &compressed, &reference.address, "theirs");
    let written = inventory(&reference.address);
    drop(reference);

    let ours = Server::ours(root.path());
    assert_eq!(inventory(&ours.address), written);
    pull_back(&skopeo, &home, &layout, &ours.address, "theirs");
    drop(ours);
    both_serve_the_same(root.path());
}

/// A real client takes both images by digest and gets the bytes that were pushed
pub(crate) fn pull_back(
    skopeo: &Skopeo<'_>,
    home: &Home,
    layout: &Layout,
    address: &str,
    prefix: &str,
) {
    for (name, stored) in [("one", &layout.amd64), ("multi", &layout.index)] {
        let folder = home.path(format!("back-{name}"));
        skopeo.copy(
            &["--all", "--preserve-digests"],
            &format!("docker://{address}/{prefix}/{name}@{}", stored.digest),
            &format!("dir:{}", folder.display()),
        );
        let manifest = std::fs::read(folder.join("manifest.json")).expect("a manifest");
        assert_eq!(Digest::sha256(&manifest), stored.digest);
    }
}

#[test]
fn both_take_turns_on_one_folder() {
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let root = TempDir::new().expect("a folder");
    if Server::reference(root.path()).is_none() {
        return;
    }
    let layout = Layout::write(&home.path("layout"), 30, &[9_000]);
    let other = Layout::write(&home.path("other"), 32, &[9_500]);
    let mut entries = 0;
    for turn in 0..4 {
        let server = if turn % 2 == 0 {
            Server::ours(root.path())
        } else {
            Server::reference(root.path()).expect("found before")
        };
        let address = &server.address;
        push_everything(&skopeo, &layout, &other, address, &format!("turn{turn}"));
        // The other's repository: a new tag, a tag that moves, and a blob that is there.
        skopeo.copy(
            &[],
            &layout.reference("v1"),
            &format!("docker://{address}/shared/x:from-{turn}"),
        );
        let moving = if turn % 2 == 0 { &layout } else { &other };
        skopeo.copy(
            &[],
            &moving.reference("v1"),
            &format!("docker://{address}/shared/x:moving"),
        );
        drop(server);
        let now = both_serve_the_same(root.path());
        assert!(now > entries, "turn {turn} added nothing");
        entries = now;
    }
}

#[test]
fn a_delete_by_one_is_seen_by_the_other() {
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let root = TempDir::new().expect("a folder");
    let Some(reference) = Server::reference(root.path()) else {
        return;
    };
    let layout = Layout::write(&home.path("layout"), 40, &[9_000]);
    let tags = |address: &str| {
        let mut tags = list(address, "/v2/a/x/tags/list", "tags");
        // The reference lists them as the file system does.
        tags.sort();
        tags
    };
    let by_digest = format!("/v2/a/x/manifests/{}", layout.amd64.digest);
    for tag in ["a", "b"] {
        let to = format!("docker://{}/a/x:{tag}", reference.address);
        skopeo.copy(&["--preserve-digests"], &layout.reference("v1"), &to);
    }
    drop(reference);

    let ours = Server::ours(root.path());
    assert_eq!(tags(&ours.address), ["a", "b"]);
    http::request(&ours.address, "DELETE", "/v2/a/x/manifests/a").expect(&[202]);
    assert!(ours.stop().success());
    let reference = Server::reference(root.path()).expect("found before");
    assert_eq!(tags(&reference.address), ["b"]);
    http::request(&reference.address, "DELETE", &by_digest).expect(&[202]);
    drop(reference);

    let ours = Server::ours(root.path());
    http::get(&ours.address, &by_digest).expect(&[404]);
    http::get(&ours.address, "/v2/a/x/manifests/b").expect(&[404]);
    // And it comes back by a push.
    let manifest = std::fs::read(layout.blob(&layout.amd64.digest)).expect("readable");
    let media_type = MediaType::OCI_MANIFEST;
    push_manifest(&ours.address, "a/x", "b", media_type.as_str(), &manifest)
        .expect("answered")
        .expect(&[201]);
    drop(ours);
    let reference = Server::reference(root.path()).expect("found before");
    assert_eq!(tags(&reference.address), ["b"]);
    inventory(&reference.address);
}
