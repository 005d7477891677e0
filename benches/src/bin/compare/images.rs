//! Whole images of ten layers, as clients push and pull them

use registry_benches::Result;
use registry_benches::content::{Blob, Image};
use registry_benches::load::Outcome;
use registry_benches::process::Server;
use registry_benches::report::Measure;
use registry_benches::site::{Kind, Storage};

use crate::runner::{REPOSITORY, Runner};

pub(crate) const ID: &str = "images";
pub(crate) const PUSH: &str = "push";
pub(crate) const PULL: &str = "pull";

/// A base of 30 MiB and what is built upon it, 54 MiB together
const LAYERS_KIB: [u64; 10] = [
    30 << 10,
    10 << 10,
    6 << 10,
    4 << 10,
    2 << 10,
    1 << 10,
    512,
    256,
    64,
    4,
];
/// How many images a round pushes
const PUSHED: u64 = 5;
/// How many pulls a round has
const PULLED: u64 = 20;

/// An image that shares nothing with that of another seed
pub(crate) fn image(seed: u64) -> Image {
    let layers = LAYERS_KIB.iter().enumerate();
    let layers = layers.map(|(layer, size)| Blob::new(seed * 100 + layer as u64, size << 10));
    Image::new(seed * 100 + 99, layers.collect())
}

/// Images a second, and milliseconds of processor time for each
pub(crate) fn per_image(outcome: &Outcome) -> Vec<f64> {
    vec![outcome.rate(), outcome.cpu_per_request() / 1e3]
}

pub(crate) fn measure(runner: &mut Runner) -> Result<()> {
    let measures = [
        Measure::more("images a second"),
        Measure::less("ms of server CPU each"),
    ];
    runner.section(
        ID,
        "Images of 10 layers and 54 MiB, three layers at once",
        &measures,
    );
    if !runner.wants(ID, PUSH) && !runner.wants(ID, PULL) {
        runner.finish();
        return Ok(());
    }
    let images: Vec<Image> = (1..=PUSHED).map(image).collect();
    let kinds = runner.site.installed(&Kind::REGISTRIES);
    runner.case(ID, PUSH, &kinds, |site, kind| {
        let root = site.root()?;
        let storage = Storage::Folder(root.path().to_owned());
        let server = site.start(kind, &storage, false)?;
        push(&server, &images).map(|outcome| per_image(&outcome))
    });
    let mut stores = Vec::new();
    for kind in kinds.iter().copied() {
        let root = runner.site.root()?;
        let storage = Storage::Folder(root.path().to_owned());
        let server = runner.site.start(kind, &storage, false)?;
        push(&server, &images)?;
        stores.push((kind, server, root));
    }
    runner.case(ID, PULL, &kinds, |_, kind| {
        let store = stores.iter().find(|(known, ..)| *known == kind);
        let (_, server, _) = store.ok_or("it was not started")?;
        pull(server, &images, PULLED).map(|outcome| per_image(&outcome))
    });
    runner.finish();
    Ok(())
}

/// Pushes each under its number
pub(crate) fn push(server: &Server, images: &[Image]) -> Result<Outcome> {
    Outcome::of(server, || {
        for (number, image) in images.iter().enumerate() {
            image.push(server, REPOSITORY, &format!("v{number}"))?;
        }
        Ok((images.len() as u64, images.iter().map(Image::size).sum()))
    })
}

/// Pulls so many of them, one after the other
pub(crate) fn pull(server: &Server, images: &[Image], times: u64) -> Result<Outcome> {
    Outcome::of(server, || {
        let mut bytes = 0;
        for (number, image) in images.iter().enumerate().cycle().take(times as usize) {
            image.pull(server, REPOSITORY, &format!("v{number}"))?;
            bytes += image.size();
        }
        Ok((times, bytes))
    })
}
