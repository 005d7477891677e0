//! One bucket, two registries at a time: Debian's `docker-registry` and ours serve what the other
//! writes and deletes there

use registry_core::{Digest, MediaType};

use crate::distribution::{has_both_families, pull_back, push_everything};
use crate::support::check::{inventory, list, manifest};
use crate::support::clients::{Home, Skopeo};
use crate::support::http::{self, push_manifest, with_query};
use crate::support::image::{Layout, Noise};
use crate::support::moto::Moto;
use crate::support::process::Server;
use crate::support::site::Site;

/// Both registries, on one bucket
struct Both {
    ours: Server,
    theirs: Server,
    _moto: Moto,
    _site: Site,
}

impl Both {
    /// With their content below this folder of the bucket; or a visible skip
    #[track_caller]
    fn start(root: &str) -> Option<Self> {
        let moto = Moto::start()?;
        moto.make_bucket("shared");
        // The same words for both.
        let more = format!(", region: us-east-1, secure: false, v4auth: true{root}");
        let storage = format!(
            "{}, redirect: {{disable: true}}",
            moto.storage("shared", &more)
        );
        let theirs = Server::reference_on(&storage, "")?;
        let site = Site::new();
        let ours = site.serve_with(&format!(
            "version: 0.1\nstorage: {{{storage}, delete: {{enabled: true}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n"
        ));
        Some(Self {
            ours,
            theirs,
            _moto: moto,
            _site: site,
        })
    }

    /// Both have the same repositories, tags, manifests and blobs, every byte of them; how many
    #[track_caller]
    fn serve_the_same(&self) -> usize {
        let (ours, theirs) = (&self.ours.address, &self.theirs.address);
        let by_ours = inventory(ours);
        assert_eq!(by_ours, inventory(theirs));
        has_both_families(&by_ours);
        by_ours.len()
    }
}

/// What is pushed by one, is pulled from the other, goes on there and comes back
#[track_caller]
fn goes_on(home: &Home, skopeo: &Skopeo<'_>, both: &Both, (first, second): (&str, &str)) {
    let layout = Layout::write(&home.path("layout"), 10, &[40_000, 3_000, 9_000_000]);
    let compressed = Layout::write(&home.path("compressed"), 15, &[60_000]);
    push_everything(skopeo, &layout, &compressed, first, "a");
    let pushed = both.serve_the_same();
    pull_back(skopeo, home, &layout, second, "a");

    // Other images, a tag in a repository that is there, and one that moves.
    let other = Layout::write(&home.path("other"), 32, &[9_500]);
    push_everything(skopeo, &other, &compressed, second, "b");
    let same = ["--preserve-digests"];
    let at = |address: &str, tag: &str| format!("docker://{address}/a/one:{tag}");
    skopeo.copy(&same, &other.reference("v1"), &at(second, "new"));
    skopeo.copy(&same, &other.reference("v1"), &at(second, "latest"));
    assert!(both.serve_the_same() > pushed, "nothing was added");
    for address in [first, second] {
        assert_eq!(
            list(address, "/v2/a/one/tags/list", "tags"),
            ["latest", "new", "v1"]
        );
        assert_eq!(manifest(address, "a/one", "latest").0, other.amd64.digest);
        assert_eq!(manifest(address, "a/one", "v1").0, layout.amd64.digest);
    }
    pull_back(skopeo, home, &other, first, "b");

    // By digest, with all tags that have it; both deletes are the second's.
    let one = format!("/v2/a/one/manifests/{}", layout.amd64.digest);
    http::request(second, "DELETE", &one).expect(&[202]);
    let layer = format!("/v2/a/one/blobs/{}", layout.layers[0].digest);
    http::request(second, "DELETE", &layer).expect(&[202]);
    for address in [first, second] {
        assert_eq!(
            list(address, "/v2/a/one/tags/list", "tags"),
            ["latest", "new"]
        );
        for path in [&one, "/v2/a/one/manifests/v1", &layer] {
            http::get(address, path).expect(&[404]);
        }
        // Another repository has it still.
        let there = format!("/v2/a/multi/blobs/{}", layout.layers[0].digest);
        http::request(address, "HEAD", &there).expect(&[200]);
    }
    both.serve_the_same();

    // And it comes back by a push to the first.
    skopeo.copy(&same, &layout.reference("v1"), &at(first, "v1"));
    assert_eq!(manifest(second, "a/one", "v1").0, layout.amd64.digest);
    pull_back(skopeo, home, &layout, second, "a");
    both.serve_the_same();
}

#[test]
fn what_the_reference_wrote_goes_on_with_ours() {
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let Some(both) = Both::start("") else { return };
    let addresses = (&*both.theirs.address, &*both.ours.address);
    goes_on(&home, &skopeo, &both, addresses);
    assert!(both.ours.stop().success());
}

#[test]
fn what_ours_wrote_goes_on_with_the_reference() {
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let Some(both) = Both::start(", rootdirectory: /some/root") else {
        return;
    };
    let addresses = (&*both.ours.address, &*both.theirs.address);
    goes_on(&home, &skopeo, &both, addresses);
    assert!(both.ours.stop().success());
}

#[test]
fn a_tag_that_one_deletes_is_gone_for_both_and_chunks_are_a_blob_for_both() {
    let Some(both) = Both::start("") else { return };
    let (ours, theirs) = (&both.ours.address, &both.theirs.address);
    // In chunks that are less than a part, one, and more than one.
    let layer = Noise::new(3).bytes(21_000_000);
    let mut location = http::start_upload(ours, "team/app");
    let mut start = 0;
    for length in [1_000, 8 << 20, 12_000_000] {
        let range = format!("{start}-{}", start + length - 1);
        let headers = [("Content-Range", range.as_str())];
        let chunk = &layer[start..start + length];
        let answer = http::send(ours, "PATCH", &location, &headers, chunk);
        location = answer.expect("answered").expect(&[202]).location();
        start += length;
    }
    let digest = Digest::sha256(&layer);
    let target = with_query(&location, &format!("digest={digest}"));
    let done = http::send(ours, "PUT", &target, &[], &layer[start..]);
    done.expect("answered").expect(&[201]);
    let config = http::push_blob(ours, "team/app", b"{}").expect("answered");
    config.expect(&[201]);
    let blob = format!("/v2/team/app/blobs/{digest}");
    assert!(http::get(theirs, &blob).expect(&[200]).body == layer);

    let text = format!(
        r#"{{"schemaVersion":2,"mediaType":"{0}","config":{{"mediaType":"{1}","size":2,"digest":"{2}"}},"layers":[{{"mediaType":"{3}","size":{4},"digest":"{digest}"}}]}}"#,
        MediaType::OCI_MANIFEST,
        MediaType::OCI_CONFIG,
        Digest::sha256(b"{}"),
        MediaType::OCI_LAYER_TAR,
        layer.len(),
    );
    let media_type = MediaType::OCI_MANIFEST;
    for (tag, address) in [("a", ours), ("b", theirs), ("c", ours)] {
        let pushed = push_manifest(
            address,
            "team/app",
            tag,
            media_type.as_str(),
            text.as_bytes(),
        );
        pushed.expect("answered").expect(&[201]);
    }
    let tags = |address: &str| list(address, "/v2/team/app/tags/list", "tags");
    for address in [ours, theirs] {
        assert_eq!(tags(address), ["a", "b", "c"]);
    }
    http::request(ours, "DELETE", "/v2/team/app/manifests/b").expect(&[202]);
    http::get(theirs, "/v2/team/app/manifests/b").expect(&[404]);
    for address in [ours, theirs] {
        assert_eq!(tags(address), ["a", "c"]);
        assert_eq!(manifest(address, "team/app", "c").2, text.as_bytes());
    }
    // Theirs knows no deletes of tags; by digest it deletes them all.
    let path = format!("/v2/team/app/manifests/{}", Digest::sha256(text.as_bytes()));
    http::request(theirs, "DELETE", &path).expect(&[202]);
    for tag in ["a", "c"] {
        let path = format!("/v2/team/app/manifests/{tag}");
        http::get(ours, &path).expect(&[404]);
    }
    assert!(both.ours.stop().success());
}
