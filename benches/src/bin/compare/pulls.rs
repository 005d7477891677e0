//! Blobs out of the servers: sizes, numbers of clients, whole and in part, plain and over TLS

use std::fs::{self, File};
use std::io::{BufWriter, Write};

use registry_benches::Result;
use registry_benches::content::{Blob, Way};
use registry_benches::load::Load;
use registry_benches::process::Server;
use registry_benches::report::Measure;
use registry_benches::site::{Kind, Storage};
use tempfile::TempDir;

use crate::runner::{REPOSITORY, Runner, clients, per_gibibyte, size};

pub(crate) const PLAIN: &str = "pulls";
pub(crate) const TLS: &str = "pulls over TLS";
pub(crate) const CLIENTS: [usize; 3] = [1, 8, 64];
/// How much of a blob a client asks for that asks for a part
const PART: u64 = 1 << 20;

/// The name of a case
pub(crate) fn whole(bytes: u64, count: usize) -> String {
    format!("{}, {}", size(bytes), clients(count))
}

pub(crate) fn measure(runner: &mut Runner) -> Result<()> {
    let measures = [
        Measure::more("GB a second"),
        Measure::less("ms of server CPU per GiB"),
    ];
    let blobs = runner.blobs();
    let [small, medium, _] = &blobs;
    let mut cases: Vec<(String, Load)> = Vec::new();
    for blob in &blobs {
        for count in CLIENTS {
            let load = Load::get(path(blob), count, runner.duration);
            cases.push((whole(blob.size, count), load));
        }
    }
    for count in CLIENTS {
        let start = medium.size / 2;
        let load = Load {
            headers: format!("Range: bytes={start}-{}\r\n", start + PART - 1),
            expected: 206,
            ..Load::get(path(medium), count, runner.duration)
        };
        let what = format!("{} of {}", size(PART), whole(medium.size, count));
        cases.push((what, load));
    }
    let over_tls: Vec<(String, Load)> = [small, medium]
        .into_iter()
        .flat_map(|blob| CLIENTS.map(|count| (blob, count)))
        .map(|(blob, count)| {
            let load = Load::get(path(blob), count, runner.duration);
            (whole(blob.size, count), load)
        })
        .collect();

    runner.section(PLAIN, "Blob pulls", &measures);
    let wanted = |runner: &Runner, id, cases: &[(String, Load)]| {
        cases.iter().any(|(what, _)| runner.wants(id, what))
    };
    let (plain, tls) = (
        wanted(runner, PLAIN, &cases),
        wanted(runner, TLS, &over_tls),
    );
    if !plain && !tls {
        runner.finish();
        return Ok(());
    }
    let stores = fill(runner, &blobs)?;
    let start = |runner: &Runner, tls| {
        let started = stores.iter().map(|(kind, root)| {
            let storage = Storage::Folder(root.path().to_owned());
            let server = runner.site.start(*kind, &storage, tls)?;
            for blob in &blobs {
                blob.verify(&mut server.connect()?, REPOSITORY)?;
            }
            Ok((*kind, server))
        });
        started.collect::<Result<Vec<(Kind, Server)>>>()
    };
    if plain {
        let servers = start(runner, false)?;
        for (what, load) in &cases {
            runner.load(PLAIN, what, &servers, load, per_gibibyte);
        }
        runner.note(
            PLAIN,
            "The client has the kernel throw away what arrives, so that it takes as little as it \
             can of the processors that it shares with the servers.",
        );
    }
    runner.section(TLS, "Blob pulls over TLS 1.3 (AES-128-GCM)", &measures);
    if tls {
        let servers = start(runner, true)?;
        for (what, load) in &over_tls {
            runner.load(TLS, what, &servers, load, per_gibibyte);
        }
    }
    runner.finish();
    Ok(())
}

/// A folder with the blobs for each server
fn fill(runner: &Runner, blobs: &[Blob]) -> Result<Vec<(Kind, TempDir)>> {
    let mut stores = Vec::new();
    for kind in runner.site.installed(&Kind::ALL) {
        let root = runner.site.root()?;
        if kind == Kind::Nginx {
            for blob in blobs {
                let path = root.path().join(path(blob).trim_start_matches('/'));
                fs::create_dir_all(path.parent().unwrap_or_else(|| root.path()))?;
                let mut file = BufWriter::new(File::create(path)?);
                blob.each_piece(0, blob.size, |piece| file.write_all(piece))?;
                file.flush()?;
            }
        } else {
            let storage = Storage::Folder(root.path().to_owned());
            let server = runner.site.start(kind, &storage, false)?;
            for blob in blobs {
                blob.push(&mut server.connect()?, REPOSITORY, Way::Streamed)?;
            }
        }
        stores.push((kind, root));
    }
    Ok(stores)
}

fn path(blob: &Blob) -> String {
    format!("/v2/{REPOSITORY}/blobs/{}", blob.digest)
}
