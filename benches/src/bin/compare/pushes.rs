//! Blobs into the registries: one stream, several, and many small ones

use registry_benches::Result;
use registry_benches::content::{Blob, Way};
use registry_benches::load::{Outcome, at_once};
use registry_benches::report::Measure;
use registry_benches::site::{Kind, Storage};

use crate::runner::{REPOSITORY, Runner, clients, per_gibibyte, per_request, size};

pub(crate) const LARGE: &str = "pushes";
pub(crate) const SMALL: &str = "small pushes";
const CHUNK: u64 = 16 << 20;
const STREAMS: usize = 8;
const SMALL_SIZE: u64 = 4 << 10;

const WAYS: [(&str, Way); 3] = [
    ("monolithic", Way::Monolithic),
    ("streamed", Way::Streamed),
    ("in chunks of 16 MiB", Way::Chunks(CHUNK)),
];

/// The name of a case; `streams` share the bytes
pub(crate) fn large(bytes: u64, streams: usize, way: &str) -> String {
    match streams {
        1 => format!("{} in one stream, {way}", size(bytes)),
        streams => format!("{} in {streams} streams, {way}", size(bytes)),
    }
}

/// The name of a case
pub(crate) fn small(count: usize, streams: usize) -> String {
    format!(
        "{count} blobs of {}, {}",
        size(SMALL_SIZE),
        clients(streams)
    )
}

pub(crate) fn measure(runner: &mut Runner) -> Result<()> {
    let measures = [
        Measure::more("GB a second"),
        Measure::less("ms of server CPU per GiB"),
    ];
    runner.section(
        LARGE,
        "Pushes of large blobs, each into an empty store",
        &measures,
    );
    let bytes = runner.sizes.large;
    for streams in [1, STREAMS] {
        let mut blobs = Vec::new();
        for (name, way) in WAYS {
            let what = large(bytes, streams, name);
            if !runner.wants(LARGE, &what) {
                continue;
            }
            if blobs.is_empty() {
                let each = bytes / streams as u64;
                blobs = (0..streams)
                    .map(|seed| Blob::new(10 + seed as u64, each))
                    .collect();
            }
            push(runner, LARGE, &what, &blobs, streams, way, per_gibibyte);
        }
    }
    runner.note(
        LARGE,
        "Ours has what it acknowledges on stable storage first: the file and the folder that it \
         is in.",
    );
    runner.finish();

    let measures = [
        Measure::more("blobs a second"),
        Measure::less("us of server CPU each"),
    ];
    runner.section(
        SMALL,
        "Pushes of small blobs, each into an empty store",
        &measures,
    );
    let count = runner.sizes.many;
    let blobs: Vec<Blob> = (0..count)
        .map(|seed| Blob::new(1_000 + seed as u64, SMALL_SIZE))
        .collect();
    for streams in [1, STREAMS] {
        for (name, way) in &WAYS[..2] {
            let what = format!("{}, {name}", small(count, streams));
            push(runner, SMALL, &what, &blobs, streams, *way, per_request);
        }
    }
    runner.finish();
    Ok(())
}

fn push(
    runner: &mut Runner,
    id: &str,
    what: &str,
    blobs: &[Blob],
    streams: usize,
    way: Way,
    numbers: fn(&Outcome) -> Vec<f64>,
) {
    let kinds = runner.site.installed(&Kind::REGISTRIES);
    runner.case(id, what, &kinds, |site, kind| {
        let root = site.root()?;
        let storage = Storage::Folder(root.path().to_owned());
        let server = site.start(kind, &storage, false)?;
        let outcome = Outcome::of(&server, || {
            at_once(streams, |stream| {
                let mut connection = server.connect()?;
                let mut own = blobs.iter().skip(stream).step_by(streams);
                own.try_for_each(|blob| blob.push(&mut connection, REPOSITORY, way))
            })?;
            let bytes = blobs.iter().map(|blob| blob.size).sum();
            Ok((blobs.len() as u64, bytes))
        })?;
        if let Some(sample) = blobs.last() {
            sample.verify(&mut server.connect()?, REPOSITORY)?;
        }
        if id == SMALL {
            // It goes with the site. While thousands of files are being forgotten, new ones cost
            // whoever is measured next several times as much: ext4 passes over their inodes.
            let _ = root.keep();
        }
        Ok(numbers(&outcome))
    });
}
