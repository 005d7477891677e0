//! Clients without a daemon: skopeo, podman, buildah and oras, on each kind of storage

use std::fs;
use std::path::Path;
use std::process::Command;

use registry_core::{Digest, MediaType};

use crate::support::check::{inventory, list, manifest};
use crate::support::clients::{Home, find_for_root, find_oras};
use crate::support::http;
use crate::support::image::{Layout, Noise, digest_of_file};
use crate::support::moto::{Content, everywhere};
use crate::support::process::{run, run_failing};

everywhere!(buildah, oras, podman, skopeo);

fn skopeo(kept: &Content) {
    let home = Home::new();
    let Some(skopeo) = home.skopeo() else { return };
    let server = kept.serve();
    let address = &server.address;
    let layout = Layout::write(&home.path("layout"), 1, &[30_000, 500_000]);
    let (one, multi) = (layout.reference("v1"), layout.reference("multi"));
    let at = |name: &str| format!("docker://{address}/{name}");

    // Push: what is served is what was in the layout, byte for byte.
    skopeo.copy(&["--preserve-digests"], &one, &at("skopeo/one:v1"));
    let (digest, media_type, body) = manifest(address, "skopeo/one", "v1");
    assert_eq!(digest, layout.amd64.digest);
    assert_eq!(media_type, MediaType::OCI_MANIFEST.as_str());
    assert_eq!(body, fs::read(layout.blob(&digest)).expect("readable"));
    skopeo.copy(
        &["--all", "--preserve-digests"],
        &multi,
        &at("skopeo/multi:v1"),
    );
    let (digest, media_type, _) = manifest(address, "skopeo/multi", "v1");
    assert_eq!(digest, layout.index.digest);
    assert_eq!(media_type, MediaType::OCI_INDEX.as_str());

    // Docker's media types, gzip and zstd.
    skopeo.copy(&["--format", "v2s2"], &one, &at("skopeo/one:docker"));
    let (_, media_type, _) = manifest(address, "skopeo/one", "docker");
    assert_eq!(media_type, MediaType::DOCKER_MANIFEST.as_str());
    skopeo.copy(
        &["--format", "v2s2", "--all"],
        &multi,
        &at("skopeo/multi:docker"),
    );
    let (_, media_type, _) = manifest(address, "skopeo/multi", "docker");
    assert_eq!(media_type, MediaType::DOCKER_MANIFEST_LIST.as_str());
    for (seed, format) in [(11, "gzip"), (13, "zstd")] {
        // Other content each time: skopeo takes a layer that is there as it is.
        let fresh = Layout::write(&home.path(format), seed, &[80_000]);
        let options = ["--dest-compress", "--dest-compress-format", format];
        let to = at(&format!("skopeo/one:{format}"));
        skopeo.copy(&options, &fresh.reference("v1"), &to);
        let (.., body) = manifest(address, "skopeo/one", format);
        let body = String::from_utf8(body).expect("text");
        assert!(body.contains(&format!("tar+{format}")), "{body}");
    }

    // From one repository to another of the same registry, which mounts the layers.
    let posts = server.log().matches("mount=").count();
    skopeo.copy(&["--all"], &at("skopeo/multi:v1"), &at("skopeo/copy:v1"));
    assert_eq!(
        manifest(address, "skopeo/copy", "v1").0,
        layout.index.digest
    );
    assert!(
        server.log().matches("mount=").count() > posts,
        "nothing was mounted"
    );

    // Pull, by tag and by digest.
    for (number, source) in [
        at("skopeo/multi:v1"),
        at(&format!("skopeo/copy@{}", layout.index.digest)),
    ]
    .iter()
    .enumerate()
    {
        let folder = home.path(format!("pulled-{number}"));
        let to = format!("oci:{}:x", folder.display());
        skopeo.copy(&["--all", "--preserve-digests"], source, &to);
        for stored in [&layout.index, &layout.amd64, &layout.arm64]
            .into_iter()
            .chain(&layout.layers)
        {
            let blob = folder.join("blobs/sha256").join(stored.digest.hex());
            assert_eq!(digest_of_file(&blob), stored.digest);
        }
    }

    let listed = run(&mut skopeo.command(&["list-tags", "--tls-verify=false", &at("skopeo/one")]));
    for tag in ["v1", "docker", "gzip", "zstd"] {
        assert!(listed.contains(&format!("\"{tag}\"")), "{listed}");
    }
    let shown =
        run(&mut skopeo.command(&["inspect", "--tls-verify=false", &at("skopeo/multi:v1")]));
    assert!(shown.contains(&layout.index.digest.to_string()), "{shown}");

    // skopeo deletes the manifest that a tag names, and so every tag of it.
    let delete = ["delete", "--tls-verify=false", &at("skopeo/one:v1")];
    run(&mut skopeo.command(&delete));
    http::get(address, "/v2/skopeo/one/manifests/v1").expect(&[404]);
    let said = run_failing(&mut skopeo.command(&delete));
    assert!(said.contains("may not exist"), "{said}");
    let tags = list(address, "/v2/skopeo/one/tags/list", "tags");
    assert_eq!(tags, ["docker", "gzip", "zstd"]);
    inventory(address);
    assert!(server.stop().success());
    kept.is_whole();
}

fn podman(kept: &Content) {
    let Some(program) = find_for_root("podman", "podman") else {
        return;
    };
    let home = Home::new();
    let podman = |arguments: &[&str]| podman_command(&home, &program, arguments);
    let server = kept.serve();
    let address = server.address.as_str();
    let layout = Layout::write(&home.path("layout"), 2, &[30_000, 500_000]);

    // Into podman's own storage, and from there to the registry.
    let id = run(&mut podman(&["pull", "--quiet", &layout.reference("v1")]));
    let id = id.trim();
    let pushed = home.path("digest");
    for (name, format) in [("podman/one:v1", "oci"), ("podman/one:docker", "v2s2")] {
        run(
            podman(&["push", "--quiet", "--tls-verify=false", "--format", format])
                .arg("--digestfile")
                .arg(&pushed)
                .args([id, &format!("{address}/{name}")]),
        );
        let (repository, tag) = name.split_once(':').expect("a tag");
        let (digest, ..) = manifest(address, repository, tag);
        let said = fs::read_to_string(&pushed).expect("a digest");
        assert_eq!(said.trim(), digest.to_string());

        let by_digest = format!("{address}/{repository}@{digest}");
        run(&mut podman(&["rmi", "--all", "--force"]));
        let pulled = run(&mut podman(&[
            "pull",
            "--quiet",
            "--tls-verify=false",
            &by_digest,
        ]));
        assert_eq!(
            pulled.trim(),
            id,
            "another image came back from {by_digest}"
        );
    }

    // A multi-platform index, made and pushed by podman.
    run(&mut podman(&["manifest", "create", "list"]));
    run(podman(&["manifest", "add", "--all", "list"]).arg(layout.reference("multi")));
    let to = format!("docker://{address}/podman/multi:v1");
    run(&mut podman(&[
        "manifest",
        "push",
        "--all",
        "--tls-verify=false",
        "list",
        &to,
    ]));
    let (_, media_type, body) = manifest(address, "podman/multi", "v1");
    assert!(media_type.ends_with("index.v1+json") || media_type.ends_with("list.v2+json"));
    let index = String::from_utf8(body).expect("text");
    assert!(
        index.contains("arm64") && index.contains("amd64"),
        "{index}"
    );
    let from = format!("{address}/podman/multi:v1");
    run(&mut podman(&[
        "pull",
        "--quiet",
        "--tls-verify=false",
        "--platform=linux/arm64",
        &from,
    ]));
    let shown = run(&mut podman(&[
        "image",
        "inspect",
        "--format={{.Architecture}}",
        &from,
    ]));
    assert_eq!(shown.trim(), "arm64");

    let search = format!("{address}/podman/one");
    let listed = run(&mut podman(&[
        "search",
        "--tls-verify=false",
        "--list-tags",
        &search,
    ]));
    assert!(
        listed.contains("docker") && listed.contains("v1"),
        "{listed}"
    );
    let catalog = run(&mut podman(&[
        "search",
        "--tls-verify=false",
        &format!("{address}/podman"),
    ]));
    assert!(catalog.contains("podman/multi"), "{catalog}");

    http::request(address, "DELETE", "/v2/podman/one/manifests/v1").expect(&[202]);
    let gone = format!("{address}/podman/one:v1");
    let said = run_failing(&mut podman(&["pull", "--tls-verify=false", &gone]));
    assert!(said.contains("manifest unknown"), "{said}");
    inventory(address);
}

fn buildah(kept: &Content) {
    let Some(program) = find_for_root("buildah", "buildah") else {
        return;
    };
    let home = Home::new();
    let buildah = |arguments: &[&str]| -> Command {
        let mut command = storage_command(&home, &program);
        command.args(arguments);
        command
    };
    let server = kept.serve();
    let address = server.address.as_str();
    let content = Noise::new(3).bytes(300_000);
    fs::write(home.path("content"), &content).expect("written");
    let name = format!("{address}/buildah/built:v1");

    run(&mut buildah(&["from", "--name=work", "scratch"]));
    run(&mut buildah(&["copy", "work", "content", "/content"]));
    let id = run(&mut buildah(&[
        "commit",
        "--quiet",
        "--timestamp=0",
        "work",
        &name,
    ]));
    let said = home.path("digest");
    run(
        buildah(&["push", "--quiet", "--tls-verify=false", "--digestfile"])
            .arg(&said)
            .arg(&name),
    );
    let (digest, ..) = manifest(address, "buildah/built", "v1");
    let said = fs::read_to_string(&said).expect("a digest");
    assert_eq!(said.trim(), digest.to_string());

    // Another image on top: its base layer is there already.
    run(&mut buildah(&["rm", "work"]));
    run(&mut buildah(&["rmi", "--all", "--force"]));
    let by_digest = format!("{address}/buildah/built@{digest}");
    let pulled = run(&mut buildah(&[
        "pull",
        "--quiet",
        "--tls-verify=false",
        &by_digest,
    ]));
    assert_eq!(pulled.trim(), id.trim());
    run(&mut buildah(&["from", "--name=next", &by_digest]));
    run(&mut buildah(&["copy", "next", "digest", "/digest"]));
    let next = format!("{address}/buildah/next:v1");
    run(&mut buildah(&["commit", "--quiet", "next", &next]));
    run(&mut buildah(&[
        "push",
        "--quiet",
        "--tls-verify=false",
        &next,
    ]));

    let layout = Layout::write(&home.path("layout"), 4, &[20_000]);
    run(&mut buildah(&["manifest", "create", "list"]));
    run(buildah(&["manifest", "add", "--all", "list"]).arg(layout.reference("multi")));
    let to = format!("docker://{address}/buildah/multi:v1");
    run(&mut buildah(&[
        "manifest",
        "push",
        "--all",
        "--tls-verify=false",
        "list",
        &to,
    ]));
    let (.., body) = manifest(address, "buildah/multi", "v1");
    let index = String::from_utf8(body).expect("text");
    assert!(
        index.contains("arm64") && index.contains("amd64"),
        "{index}"
    );
    let served = inventory(address);
    assert!(served.contains_key("/v2/buildah/next/manifests/v1"));
    assert!(server.stop().success());
    kept.is_whole();
}

/// A command of podman with a storage of its own
pub(crate) fn podman_command(home: &Home, program: &Path, arguments: &[&str]) -> Command {
    let mut command = storage_command(home, program);
    command
        .arg("--tmpdir")
        .arg(home.path("run/libpod"))
        .args(["--cgroup-manager=cgroupfs", "--events-backend=none"])
        .args(arguments);
    command
}

/// A command of podman or buildah with a storage of its own
fn storage_command(home: &Home, program: &Path) -> Command {
    let mut command = home.command(program);
    command
        .arg("--root")
        .arg(home.path("storage"))
        .arg("--runroot")
        .arg(home.path("run/storage"))
        .arg("--storage-driver=vfs");
    command
}

fn oras(kept: &Content) {
    let Some(python) = find_oras() else { return };
    let home = Home::new();
    let script = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/e2e/support/oras_client.py"
    );
    let oras = |arguments: &[&str]| -> String {
        run(home.command(&python).arg(script).args(arguments))
            .trim()
            .to_owned()
    };
    let server = kept.serve();
    let address = server.address.as_str();
    let content = Noise::new(5).bytes(700_000);
    fs::write(home.path("artifact.bin"), &content).expect("written");
    fs::write(home.path("note.txt"), "signed, sealed, delivered").expect("written");
    let target = |tag: &str| format!("{address}/oras/artifact:{tag}");

    // In one piece and in chunks.
    let digest: Digest = oras(&["push", &target("v1"), "artifact.bin"])
        .parse()
        .expect("a digest");
    let chunked = oras(&["push", &target("chunked"), "artifact.bin", "100000"]);
    assert_eq!(
        chunked,
        digest.to_string(),
        "the same content, another digest"
    );
    for tag in ["v1", "chunked"] {
        oras(&["pull", &target(tag), tag]);
        let pulled = fs::read(home.path(tag).join("artifact.bin")).expect("pulled");
        assert!(pulled == content, "other bytes came back from {tag}");
    }

    // A referrer, attached and listed.
    let (served, media_type, body) = manifest(address, "oras/artifact", "v1");
    assert_eq!(served, digest);
    let subject = format!(
        r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{}}}"#,
        body.len()
    );
    let referrer = oras(&["push", &target("note"), "note.txt", "0", &subject]);
    let referrers = format!("/v2/oras/artifact/referrers/{digest}");
    let listed = http::get(address, &referrers).expect(&[200]);
    assert_eq!(
        listed.header("content-type"),
        Some(MediaType::OCI_INDEX.as_str())
    );
    let text = listed.text();
    assert!(text.contains(&referrer), "{text}");
    assert!(text.contains("end to end"), "no annotations in {text}");
    assert_eq!(text.matches("sha256:").count(), 1, "{text}");

    let tags = oras(&["tags", &format!("{address}/oras/artifact")]);
    assert_eq!(tags.lines().collect::<Vec<_>>(), ["chunked", "note", "v1"]);

    let repository = format!("{address}/oras/artifact");
    assert_eq!(oras(&["delete", &repository, "note"]), "note");
    let text = http::get(address, &referrers).expect(&[200]).text();
    assert!(!text.contains("sha256:"), "{text}");
    inventory(address);
}
