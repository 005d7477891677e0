//! What must hold of a registry: over HTTP, and of the folder while nothing runs

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use registry_core::{Digest, Manifest};

use super::http;
use super::image::digest_of_file;

/// Every media type of a manifest that a client may ask for
pub(crate) const ACCEPT: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.oci.image.index.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json";

/// GETs a manifest, checks that it is what its headers say, and gives digest, type and body
#[track_caller]
pub(crate) fn manifest(
    address: &str,
    repository: &str,
    reference: &str,
) -> (Digest, String, Vec<u8>) {
    let path = format!("/v2/{repository}/manifests/{reference}");
    let accept = [("Accept", ACCEPT)];
    let response = http::send(address, "GET", &path, &accept, &[])
        .expect("an answer")
        .expect(&[200]);
    let digest = Digest::sha256(&response.body);
    let said = response.header("docker-content-digest");
    assert_eq!(said, Some(digest.to_string().as_str()), "GET {path}");
    let media_type = response.header("content-type").expect("a type").to_owned();
    let head = http::send(address, "HEAD", &path, &accept, &[])
        .expect("an answer")
        .expect(&[200]);
    assert_eq!(head.header("docker-content-digest"), said, "HEAD {path}");
    (digest, media_type, response.body)
}

/// Everything that a registry serves: path to media type and digest
///
/// Reads each repository of the catalog, each tag of it, each manifest by tag and by digest,
/// and each blob, and checks every digest.
#[track_caller]
pub(crate) fn inventory(address: &str) -> BTreeMap<String, (String, Digest)> {
    let mut inventory = BTreeMap::new();
    for repository in list(address, "/v2/_catalog?n=1000", "repositories") {
        let tags = format!("/v2/{repository}/tags/list");
        for tag in list(address, &tags, "tags") {
            let (digest, media_type, _) = manifest(address, &repository, &tag);
            let path = format!("/v2/{repository}/manifests/{tag}");
            inventory.insert(path, (media_type, digest));
            image(address, &repository, &digest, &mut inventory);
        }
    }
    inventory
}

/// The strings of one list in a JSON answer; repositories and tags need no escapes
pub(crate) fn list(address: &str, path: &str, field: &str) -> Vec<String> {
    let text = http::get(address, path).expect(&[200]).text();
    let (_, rest) = text
        .split_once(&format!("\"{field}\":"))
        .unwrap_or_else(|| panic!("no `{field}` in {text}"));
    let (items, _) = rest.split_once(']').unwrap_or(("", ""));
    items
        .split('"')
        .skip(1)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

fn image(
    address: &str,
    repository: &str,
    digest: &Digest,
    inventory: &mut BTreeMap<String, (String, Digest)>,
) {
    let (got, media_type, body) = manifest(address, repository, &digest.to_string());
    assert_eq!(got, *digest);
    let parsed = parse(&body);
    let path = format!("/v2/{repository}/manifests/{digest}");
    inventory.insert(path, (media_type, got));
    let children = parsed.kind().is_index();
    for dependency in parsed.dependencies() {
        let digest = dependency.descriptor.digest.to_string();
        let digest: Digest = digest.parse().expect("a digest");
        if children {
            image(address, repository, &digest, inventory);
        } else {
            let path = format!("/v2/{repository}/blobs/{digest}");
            let response = http::get(address, &path).followed().expect(&[200]);
            assert_eq!(Digest::sha256(&response.body), digest, "GET {path}");
            assert_eq!(response.body.len() as u64, dependency.descriptor.size);
            inventory.insert(path, ("blob".to_owned(), digest));
        }
    }
}

/// A manifest, from its bytes
pub(crate) fn parse(body: &[u8]) -> Manifest {
    Manifest::parse(
        body.to_vec().into(),
        None,
        &registry_core::manifest::Limits::default(),
    )
    .expect("a manifest")
}

/// Checks a folder that no process has open: what is published is whole
///
/// Each blob has the digest that it is stored under, each link names a blob that is there, and
/// each manifest refers to nothing that is missing. Of a layer that was just being published
/// there may be the link alone, as long as its upload still has all the bytes: it goes on.
#[track_caller]
pub(crate) fn store_is_whole(root: &Path) {
    let top = root.join("docker/registry/v2");
    let blobs = top.join("blobs");
    for file in files(&blobs) {
        assert_eq!(file.file_name(), Some("data".as_ref()), "{file:?}");
        let hex = name_of(file.parent());
        assert_eq!(digest_of_file(&file).hex(), hex, "half a blob at {file:?}");
    }
    for file in files(&top.join("repositories")) {
        if file.file_name() != Some("link".as_ref())
            || file.components().any(|part| part.as_os_str() == "_uploads")
        {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a link");
        let digest: Digest = text
            .parse()
            .unwrap_or_else(|error| panic!("half a link at {file:?}: {error}"));
        let blob = blob_path(&blobs, &digest);
        if !blob.is_file() {
            let layers = file.ancestors().find(|path| path.ends_with("_layers"));
            let uploads = layers.map(|layers| layers.with_file_name("_uploads"));
            assert!(
                uploads.is_some_and(|uploads| an_upload_has(&uploads, &digest)),
                "{file:?} names {digest}, which neither is there nor can still be completed"
            );
            continue;
        }
        if file
            .components()
            .any(|part| part.as_os_str() == "_manifests")
        {
            for dependency in parse(&fs::read(&blob).expect("readable")).dependencies() {
                let digest = dependency.descriptor.digest.to_string();
                let blob = blob_path(&blobs, &digest.parse().expect("a digest"));
                assert!(
                    blob.is_file(),
                    "{file:?} needs {digest}, which is not there"
                );
            }
        }
    }
}

/// Whether the bytes of an open upload have this digest
fn an_upload_has(uploads: &Path, digest: &Digest) -> bool {
    files(uploads)
        .iter()
        .any(|file| file.file_name() == Some("data".as_ref()) && digest_of_file(file) == *digest)
}

fn blob_path(blobs: &Path, digest: &Digest) -> PathBuf {
    let hex = digest.hex();
    blobs
        .join(digest.algorithm().as_str())
        .join(&hex[..2])
        .join(hex)
        .join("data")
}

fn name_of(path: Option<&Path>) -> &str {
    path.and_then(Path::file_name)
        .and_then(|name| name.to_str())
        .unwrap_or_default()
}

/// Every file below a folder
pub(crate) fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        for entry in entries {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("a type").is_dir() {
                folders.push(entry.path());
            } else {
                found.push(entry.path());
            }
        }
    }
    found
}
