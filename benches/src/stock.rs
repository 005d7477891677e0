//! Stores with many repositories and many tags, made as files

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use registry_core::Digest;

use crate::Result;

const MANIFEST: &[u8] =
    br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// The folder of a repository, in the layout that distribution writes
fn repository(root: &Path, name: &str) -> PathBuf {
    root.join("docker/registry/v2/repositories").join(name)
}

/// The repository with this number, a thousand to a group
pub fn name(number: u32) -> String {
    format!("group-{:03}/name-{number:06}", number / 1_000)
}

/// The tag with this number
pub fn tag(number: u32) -> String {
    format!("v{number:06}")
}

/// Makes repositories with one tag each, `latest`
///
/// # Errors
///
/// What the operating system says.
pub fn make_repositories(root: &Path, count: u32) -> Result<()> {
    let digest = make_manifest(root)?;
    for number in 0..count {
        let repository = repository(root, &name(number));
        make_revision(&repository, &digest)?;
        make_tag(&repository, "latest", &digest)?;
    }
    Ok(())
}

/// Makes one repository with many tags of one manifest
///
/// # Errors
///
/// What the operating system says.
pub fn make_tags(root: &Path, name: &str, count: u32) -> Result<()> {
    let digest = make_manifest(root)?;
    let repository = repository(root, name);
    make_revision(&repository, &digest)?;
    (0..count).try_for_each(|number| make_tag(&repository, &tag(number), &digest))
}

fn make_manifest(root: &Path) -> Result<Digest> {
    let digest = Digest::sha256(MANIFEST);
    let hex = digest.hex();
    let blobs = root.join("docker/registry/v2/blobs/sha256");
    let blob = blobs.join(&hex[..2]).join(&hex);
    fs::create_dir_all(&blob)?;
    fs::write(blob.join("data"), MANIFEST)?;
    Ok(digest)
}

/// The manifest as one of a repository's own
fn make_revision(repository: &Path, digest: &Digest) -> Result<()> {
    let revisions = repository.join("_manifests/revisions/sha256");
    make_link(&revisions.join(digest.hex()), digest)
}

fn make_tag(repository: &Path, tag: &str, digest: &Digest) -> Result<()> {
    let tags = repository.join("_manifests/tags");
    make_link(&tags.join(tag).join("current"), digest)
}

fn make_link(folder: &Path, digest: &Digest) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("link"), digest.to_string())?;
    Ok(())
}

/// How long it takes to read the names of all tags of a repository, and to sort them
///
/// # Errors
///
/// What the operating system says.
pub fn list_tags(root: &Path, name: &str) -> Result<Duration> {
    let started = Instant::now();
    let tags = repository(root, name).join("_manifests/tags");
    names_in(&tags)?;
    Ok(started.elapsed())
}

/// How long it takes to look into each folder for repositories, and to sort their names
///
/// # Errors
///
/// What the operating system says.
pub fn list_repositories(root: &Path) -> Result<Duration> {
    let started = Instant::now();
    let top = repository(root, "");
    let mut found = Vec::new();
    let mut folders = vec![top];
    while let Some(folder) = folders.pop() {
        for name in names_in(&folder)? {
            match name.as_str() {
                "_manifests" => found.push(folder.clone()),
                name if name.starts_with('_') => {}
                name => folders.push(folder.join(name)),
            }
        }
    }
    found.sort();
    Ok(started.elapsed())
}

fn names_in(folder: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
