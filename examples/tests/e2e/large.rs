//! A layer of one gibibyte, through each kind of client

use std::fs;

use registry_core::Digest;
use tempfile::TempDir;

use crate::engines::{Containerd, Docker};
use crate::support::check::{self, manifest};
use crate::support::clients::{Home, find_oras};
use crate::support::image::{Layout, digest_of_file};
use crate::support::process::{Server, run};

/// One test, and one after the other: each of them needs the disk for itself.
#[test]
fn a_layer_of_a_gibibyte() {
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let root = TempDir::new().expect("a folder");
    let server = Server::ours(root.path());
    let address = server.address.as_str();
    let layout = Layout::write(&home.path("layout"), 9, &[1 << 30]);
    let layer = &layout.layers[0];
    let blob = layout.blob(&layer.digest);

    let name = format!("{address}/large/skopeo:v1");
    skopeo.copy(
        &["--preserve-digests"],
        &layout.reference("v1"),
        &format!("docker://{name}"),
    );
    assert_eq!(
        manifest(address, "large/skopeo", "v1").0,
        layout.amd64.digest
    );
    let pulled = home.path("pulled");
    skopeo.copy(
        &["--preserve-digests"],
        &format!("docker://{name}"),
        &format!("dir:{}", pulled.display()),
    );
    assert_eq!(
        digest_of_file(&pulled.join(layer.digest.hex())),
        layer.digest
    );
    fs::remove_dir_all(&pulled).expect("removed");

    // The others push it to a registry that does not have it yet.
    let second_root = TempDir::new().expect("a folder");
    let second = Server::ours(second_root.path());
    if let Some(python) = find_oras() {
        let script = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/e2e/support/oras_client.py"
        );
        let target = format!("{}/large/oras:v1", second.address);
        let oras = |arguments: &[&str]| run(home.command(&python).arg(script).args(arguments));
        let digest: Digest = oras(&["push", &target, &blob.display().to_string(), "67108864"])
            .trim()
            .parse()
            .expect("a digest");
        assert_eq!(manifest(&second.address, "large/oras", "v1").0, digest);
        oras(&["pull", &target, "oras"]);
        let pulled = home.path("oras").join(layer.digest.hex());
        assert_eq!(digest_of_file(&pulled), layer.digest);
        fs::remove_dir_all(home.path("oras")).expect("removed");
    }
    if let Some(containerd) = Containerd::start(&home) {
        let third_root = TempDir::new().expect("a folder");
        let third = Server::ours(third_root.path());
        let to = format!("{}/large/containerd:v1", third.address);
        run(&mut containerd.command(&["content", "fetch", "--plain-http", &name]));
        run(&mut containerd.command(&["images", "push", "--plain-http", &to, &name]));
        assert_eq!(
            manifest(&third.address, "large/containerd", "v1").0,
            layout.amd64.digest
        );
        assert!(third.stop().success());
        check::store_is_whole(third_root.path());
    }
    if let Some(docker) = Docker::start(&home) {
        // Docker compresses what it pushes, so it makes a layer of its own.
        let to = format!("{}/large/docker:v1", second.address);
        run(&mut docker.command(&["pull", "--quiet", &name]));
        run(&mut docker.command(&["tag", &name, &to]));
        let said = run(&mut docker.command(&["push", &to]));
        let (digest, ..) = manifest(&second.address, "large/docker", "v1");
        assert!(said.contains(&format!("digest: {digest}")), "{said}");
    }
    for (server, root) in [(server, &root), (second, &second_root)] {
        assert!(server.stop().success());
        check::store_is_whole(root.path());
    }
}
