//! Small requests: manifests, blobs that are and are not there, tags

use std::fs;

use registry_benches::Result;
use registry_benches::content::{Blob, Image, verify};
use registry_benches::load::Load;
use registry_benches::report::Measure;
use registry_benches::site::{Kind, Storage};
use registry_core::Digest;

use crate::runner::{REPOSITORY, Runner, per_request};

const ID: &str = "requests";
const CLIENTS: usize = 8;
const TAGS: usize = 10;

pub(crate) const BY_TAG: &str = "manifest by tag";
pub(crate) const BY_DIGEST: &str = "manifest by digest";
const PRESENT: &str = "HEAD of a blob that is there";
const ABSENT: &str = "HEAD of a blob that is not";
const LIST: &str = "tags of a repository with 10";

pub(crate) fn measure(runner: &mut Runner) -> Result<()> {
    let measures = [
        Measure::more("requests a second"),
        Measure::less("us of server CPU each"),
    ];
    runner.section(ID, "Small requests, 8 clients", &measures);
    let all = [BY_TAG, BY_DIGEST, PRESENT, ABSENT, LIST];
    if all.iter().any(|what| runner.wants(ID, what)) {
        cases(runner)?;
    }
    runner.finish();
    Ok(())
}

fn cases(runner: &mut Runner) -> Result<()> {
    let layers = (0..10).map(|seed| Blob::new(100 + seed, 10_000));
    let image = Image::new(99, layers.collect());
    let tags: Vec<String> = (0..TAGS).map(|tag| format!("v{tag}")).collect();
    let tag_list = format!(
        r#"{{"name":"{REPOSITORY}","tags":["{}"]}}"#,
        tags.join(r#"",""#)
    );
    let manifest = |reference: &str| format!("/v2/{REPOSITORY}/manifests/{reference}");
    let by_digest = manifest(&image.digest.to_string());
    let blob = |digest: &Digest| format!("/v2/{REPOSITORY}/blobs/{digest}");
    let present = blob(&image.layers[0].digest);

    let mut roots = Vec::new();
    let mut servers = Vec::new();
    for kind in runner.site.installed(&Kind::ALL) {
        let root = runner.site.root()?;
        if kind == Kind::Nginx {
            for (path, content) in [
                (&manifest("v0"), image.manifest.clone()),
                (&by_digest, image.manifest.clone()),
                (&present, vec![0; 10_000]),
                (
                    &format!("/v2/{REPOSITORY}/tags/list"),
                    tag_list.clone().into_bytes(),
                ),
            ] {
                let path = root.path().join(path.trim_start_matches('/'));
                fs::create_dir_all(path.parent().unwrap_or_else(|| root.path()))?;
                fs::write(path, content)?;
            }
        }
        let storage = Storage::Folder(root.path().to_owned());
        let server = runner.site.start(kind, &storage, false)?;
        if kind != Kind::Nginx {
            for tag in &tags {
                image.push(&server, REPOSITORY, tag)?;
            }
        }
        // What is compared must be the same.
        let mut connection = server.connect()?.with_headers(Image::accept());
        verify(&mut connection, &manifest("v0"), &image.digest)?;
        verify(&mut connection, &by_digest, &image.digest)?;
        roots.push(root);
        servers.push((kind, server));
    }
    let get = |path: &str| Load {
        headers: Image::accept(),
        ..Load::get(path, CLIENTS, runner.duration)
    };
    let loads = [
        (BY_TAG, get(&manifest("v0"))),
        (BY_DIGEST, get(&by_digest)),
        (
            PRESENT,
            Load {
                method: "HEAD",
                ..get(&present)
            },
        ),
        (
            ABSENT,
            Load {
                method: "HEAD",
                expected: 404,
                ..get(&blob(&Digest::sha256(b"absent")))
            },
        ),
        (LIST, get(&format!("/v2/{REPOSITORY}/tags/list"))),
    ];
    for (what, load) in &loads {
        runner.load(ID, what, &servers, load, per_request);
    }
    runner.note(ID, format!(
        "The manifest has {} bytes. nginx serves files of the same bytes under the same paths, to \
         anyone and without looking at what they are.",
        image.manifest.len()
    ));
    Ok(())
}
