//! The registries on one S3 server: how fast, and with how many requests to it

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

use registry_benches::Result;
use registry_benches::content::{Blob, Image, Way};
use registry_benches::count::Counter;
use registry_benches::load::{Load, Outcome};
use registry_benches::process::Server;
use registry_benches::report::{Measure, Row};
use registry_benches::s3::{Program, Store};
use registry_benches::site::Kind;

use crate::images::{image, per_image, pull, push};
use crate::requests::BY_TAG;
use crate::runner::{REPOSITORY, Runner, per_gibibyte, per_request, size};

pub(crate) const ID: &str = "s3";
pub(crate) const PUSH: &str = "push";
const PULL: &str = "pull";
const BLOBS: &str = "s3 blobs";
const MANIFESTS: &str = "s3 manifests";
const COUNTS: &str = "s3 requests";

/// How many images a round pushes, and how many it pulls
const IMAGES: u64 = 2;

pub(crate) fn measure(runner: &mut Runner) -> Result<()> {
    // Parts of blobs are what is fast or slow here; a whole GiB would wait for the store.
    let bytes = runner.sizes.large / 4;
    let push_blob = format!("push of {} in one stream", size(bytes));
    let pull_blob = format!("pull of {}, 1 client", size(bytes));
    let wanted = [
        (ID, PUSH),
        (ID, PULL),
        (BLOBS, &push_blob),
        (BLOBS, &pull_blob),
        (MANIFESTS, BY_TAG),
        (COUNTS, PUSH),
        (COUNTS, PULL),
    ];
    if !wanted.iter().any(|(id, what)| runner.wants(id, what)) {
        return Ok(());
    }
    let program = match (runner.store, Program::installed().first()) {
        (Some(program), _) => program,
        (None, Some(program)) => *program,
        (None, None) => {
            let note = "no S3 server is installed: `cargo install garage`, or `pip install \
                        'moto[server]'` and set REGISTRY_E2E_PYTHON to the Python that has it";
            runner.notes.push(note.to_owned());
            return Ok(());
        }
    };
    let store = program.start()?;
    let about = format!(
        "Both on one {}, on the same machine, with the same configuration; content goes through \
         the registry.",
        store.name
    );
    let kinds = runner.site.installed(&Kind::REGISTRIES);
    let roots = AtomicU32::new(0);
    let address = &store.server.address;
    // Each round in a folder of its own: what is there already need not be written.
    let fresh = |runner: &registry_benches::site::Site, kind, address: &str| {
        let number = roots.fetch_add(1, Ordering::Relaxed);
        let storage = store.storage(address, &format!("/{kind}-{number}"));
        runner.start(kind, &storage, false)
    };

    let images: Vec<Image> = (1..=IMAGES).map(image).collect();
    let measures = [
        Measure::more("images a second"),
        Measure::less("ms of the registry's CPU each"),
    ];
    runner.section(ID, "Images of 10 layers and 54 MiB on S3", &measures);
    runner.note(ID, about);
    runner.case(ID, PUSH, &kinds, |site, kind| {
        let server = fresh(site, kind, address)?;
        push(&server, &images).map(|outcome| per_image(&outcome))
    });
    let mut served = Vec::new();
    for kind in kinds.iter().copied() {
        let filled = fresh(&runner.site, kind, address).and_then(|server| {
            push(&server, &images)?;
            Ok(server)
        });
        match filled {
            Ok(server) => served.push((kind, server)),
            Err(error) => runner.notes.push(format!("{ID}: {kind} failed: {error}")),
        }
    }
    let ready: Vec<Kind> = served.iter().map(|(kind, _)| *kind).collect();
    let of = |kind| {
        let server = served.iter().find(|(known, _)| *known == kind);
        server.map(|(_, server)| server).ok_or("it was not started")
    };
    runner.case(ID, PULL, &ready, |_, kind| {
        pull(of(kind)?, &images, IMAGES).map(|outcome| per_image(&outcome))
    });
    runner.finish();

    let measures = [
        Measure::more("requests a second"),
        Measure::less("us of the registry's CPU each"),
    ];
    runner.section(MANIFESTS, "Manifests on S3, 8 clients", &measures);
    let load = Load {
        headers: Image::accept(),
        ..Load::get(format!("/v2/{REPOSITORY}/manifests/v0"), 8, runner.duration)
    };
    runner.case(MANIFESTS, BY_TAG, &ready, |_, kind| {
        Ok(per_request(&load.put_on(of(kind)?)?))
    });
    runner.finish();

    let measures = [
        Measure::more("GB a second"),
        Measure::less("ms of the registry's CPU per GiB"),
    ];
    runner.section(BLOBS, "Blobs on S3", &measures);
    let blob = Blob::new(5, bytes);
    let once = |server: &Server, work: &dyn Fn(&Server) -> Result<()>| {
        Outcome::of(server, || {
            work(server)?;
            Ok((1, blob.size))
        })
    };
    runner.case(BLOBS, &push_blob, &kinds, |site, kind| {
        let server = fresh(site, kind, address)?;
        let outcome = once(&server, &|server| {
            blob.push(&mut server.connect()?, REPOSITORY, Way::Streamed)
        })?;
        Ok(per_gibibyte(&outcome))
    });
    if runner.wants(BLOBS, &pull_blob) {
        for (kind, server) in &served {
            let pushed = server.connect().and_then(|mut connection| {
                blob.push(&mut connection, REPOSITORY, Way::Streamed)?;
                blob.verify(&mut connection, REPOSITORY)
            });
            if let Err(error) = pushed {
                runner
                    .notes
                    .push(format!("{BLOBS}: {kind} failed: {error}"));
            }
        }
    }
    runner.case(BLOBS, &pull_blob, &ready, |_, kind| {
        let outcome = once(of(kind)?, &|server| {
            blob.pull(&mut server.connect()?, REPOSITORY)
        })?;
        Ok(per_gibibyte(&outcome))
    });
    runner.finish();
    drop(served);
    counts(runner, &store, &kinds, fresh)
}

/// How many requests reach the store for one image
fn counts(
    runner: &mut Runner,
    store: &Store,
    kinds: &[Kind],
    fresh: impl Fn(&registry_benches::site::Site, Kind, &str) -> Result<Server>,
) -> Result<()> {
    if !runner.wants(COUNTS, PUSH) && !runner.wants(COUNTS, PULL) {
        return Ok(());
    }
    eprintln!("{COUNTS}");
    let measures = [Measure::less("requests")];
    runner.section(
        COUNTS,
        "Requests to S3 for one image of 10 layers and 54 MiB",
        &measures,
    );
    let counter = Counter::start(&store.server.address)?;
    let image = image(77);
    let mut tables: BTreeMap<&str, BTreeMap<Kind, BTreeMap<String, u64>>> = BTreeMap::new();
    for kind in kinds.iter().copied() {
        let counted = fresh(&runner.site, kind, &counter.address).and_then(|server| {
            // What a start asks is not what an image asks.
            let mut connection = server.connect()?;
            connection.request("GET", "/v2/", "")?;
            connection.expect(200)?;
            counter.take();
            image.push(&server, REPOSITORY, "v0")?;
            let push = counter.take();
            // Another client than the one that pushed, and the second one: what is remembered helps.
            image.pull(&server, REPOSITORY, "v0")?;
            counter.take();
            image.pull(&server, REPOSITORY, "v0")?;
            Ok((push, counter.take()))
        });
        match counted {
            Ok((push, pull)) => {
                tables.entry(PUSH).or_default().insert(kind, push);
                tables.entry(PULL).or_default().insert(kind, pull);
            }
            Err(error) => runner
                .notes
                .push(format!("{COUNTS}: {kind} failed: {error}")),
        }
    }
    for what in [PUSH, PULL] {
        let Some(counts) = tables.get(what) else {
            continue;
        };
        let mut row = |what: String, count: &dyn Fn(&BTreeMap<String, u64>) -> u64| {
            let cells = counts
                .iter()
                .map(|(kind, counts)| (*kind, vec![count(counts) as f64]));
            let row = Row {
                what,
                cells: cells.collect(),
            };
            runner.row(COUNTS, row);
        };
        row(format!("{what}, all"), &|counts| counts.values().sum());
        let names: BTreeSet<&String> = counts.values().flat_map(BTreeMap::keys).collect();
        for name in names {
            row(format!("{what}: {name}"), &|counts| {
                counts.get(name).copied().unwrap_or(0)
            });
        }
    }
    runner.note(
        COUNTS,
        "Counted by a proxy in front of the store. The pull is the second one of the same image \
         from the same process.",
    );
    runner.finish();
    Ok(())
}
