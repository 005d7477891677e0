//! What one process, three and a hundred can do, from what an operation costs on this machine
//!
//! ```text
//! cargo build --release
//! cargo run --release -p registry-benches --bin scale -- [--write benches/SCALE.md]
//! ```
//!
//! Measures what requests and bytes cost a registry on a folder, checks a simulation made of these
//! costs against the same registry under load, and then lets it say what more processes in front of
//! a store would do. The calls of a store for an image are not measured here: `--bin compare --
//! --only 's3 requests'` counts them.

use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Parser;
use registry_benches::content::{Blob, Image, Way};
use registry_benches::load::{Load, Outcome, at_once};
use registry_benches::process::{Server, ours, own_cpu};
use registry_benches::report::shown;
use registry_benches::simulate::{Arrivals, Plan, Store, Work};
use registry_benches::{Result, machine};

/// What many processes could do, from what an operation costs one
#[derive(Parser)]
struct Arguments {
    /// How many calls of the store a pull of an image of 10 layers is
    #[arg(long, requires = "store_calls_per_push")]
    store_calls_per_pull: Option<usize>,
    /// How many calls of the store a push of an image of 10 layers is
    #[arg(long, requires = "store_calls_per_pull")]
    store_calls_per_push: Option<usize>,
    /// Milliseconds until the store answers: an assumption
    #[arg(long, default_value_t = 5.0)]
    store_latency: f64,
    /// Calls a second that the store takes: an assumption
    #[arg(long, default_value_t = 50_000.0)]
    store_calls: f64,
    /// MiB of an image: an assumption
    #[arg(long, default_value_t = 54)]
    image_mib: u64,
    /// Gbit a second that reach a process: an assumption
    #[arg(long, default_value_t = 25.0)]
    network: f64,
    /// Seconds for each measurement
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Replace what stands between the marks in this file
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
}

const REPOSITORY: &str = "bench/scale";
const CLIENTS: usize = 8;
const LAYERS: usize = 10;
/// Manifest, configuration and layers
const PULL_REQUESTS: usize = LAYERS + 2;
/// For each blob HEAD, POST, PATCH and PUT, and then the manifest
const PUSH_REQUESTS: usize = (LAYERS + 1) * 4 + 1;
/// For each blob, and for the manifest
const DURABLE: usize = LAYERS + 2;
const PUSHED: u64 = 256 << 20;
const SMALL: u64 = 4 << 10;
/// The part of the day's operations that push
const PUSHES: f64 = 0.1;
/// How much of what a process could do it should do, so that it answers at once
const HEADROOM: f64 = 0.7;
/// The busiest minute of a day, to the day's average: an assumption
const PEAK: f64 = 5.0;
const OPERATIONS_A_DAY: f64 = 250e6;
const SIMULATED: usize = 20_000;
const MARKS: (&str, &str) = ("<!-- measured -->", "<!-- /measured -->");

/// Seconds of processor time, of the server and of the client
#[derive(Clone, Copy)]
struct Cost {
    server: f64,
    client: f64,
}

/// What was measured
struct Costs {
    /// Of a request for something small
    request: Cost,
    /// Of a byte that is pulled
    pulled: Cost,
    /// Of a small blob that is pushed with three requests
    blob: Cost,
    /// Of a byte that is pushed
    pushed: Cost,
    /// Seconds until a small blob is on stable storage, beyond processor time
    durable: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let root = tempfile::Builder::new().prefix("scale").tempdir()?;
    let mut text = String::new();
    for fact in machine::describe(root.path()) {
        writeln!(text, "- {fact}")?;
    }
    if cfg!(debug_assertions) {
        writeln!(
            text,
            "- **built without optimization: these numbers say nothing**"
        )?;
    }
    let server = Server::announced(
        Command::new(ours("registry")?)
            .args(["serve", "--listen", "127.0.0.1:0", "--root"])
            .arg(root.path()),
    )?;
    let duration = Duration::from_secs_f64(arguments.seconds);
    eprintln!("what requests and bytes cost");
    let costs = measure(&server, duration)?;
    costs.table(&mut text)?;
    eprintln!("the simulation beside this machine");
    check(&server, &costs, duration, &mut text)?;
    eprintln!("what more processes could do");
    project(&arguments, &costs, &mut text)?;
    println!("{text}");
    if let Some(path) = arguments.write {
        let document = fs::read_to_string(&path)?;
        let between = document.split_once(MARKS.0).and_then(|(before, rest)| {
            let (_, after) = rest.split_once(MARKS.1)?;
            Some((before, after))
        });
        let (before, after) = between
            .ok_or_else(|| format!("{} has no `{}` and `{}`", path.display(), MARKS.0, MARKS.1))?;
        fs::write(
            &path,
            format!("{before}{}\n{text}{}{after}", MARKS.0, MARKS.1),
        )?;
    }
    Ok(())
}

fn measure(server: &Server, duration: Duration) -> Result<Costs> {
    let image = image(1, SMALL);
    image.push(server, REPOSITORY, "v1")?;
    let (outcome, client) = costing(|| {
        let load = Load {
            headers: Image::accept(),
            ..Load::get(format!("/v2/{REPOSITORY}/manifests/v1"), CLIENTS, duration)
        };
        load.put_on(server)
    })?;
    let request = per(&outcome, client, outcome.requests);

    let large = Blob::new(2, 64 << 20);
    large.push(&mut server.connect()?, REPOSITORY, Way::Streamed)?;
    let path = format!("/v2/{REPOSITORY}/blobs/{}", large.digest);
    let (outcome, client) = costing(|| Load::get(path, CLIENTS, duration).put_on(server))?;
    let pulled = per(&outcome, client, outcome.bytes);

    let (outcome, client) = costing(|| push_small(server, duration))?;
    let blob = per(&outcome, client, outcome.requests);
    let each = outcome.elapsed.as_secs_f64() / outcome.requests as f64;
    let durable = (each - blob.server - blob.client).max(0.0);

    let large = Blob::new(3, PUSHED);
    let (outcome, client) = costing(|| {
        Outcome::of(server, || {
            large.push(&mut server.connect()?, REPOSITORY, Way::Streamed)?;
            Ok((1, large.size))
        })
    })?;
    let pushed = per(&outcome, client, outcome.bytes);
    Ok(Costs {
        request,
        pulled,
        blob,
        pushed,
        durable,
    })
}

/// Also gives the processor time that this program took
fn costing(work: impl FnOnce() -> Result<Outcome>) -> Result<(Outcome, Duration)> {
    let before = own_cpu()?;
    let outcome = work()?;
    Ok((outcome, own_cpu()?.saturating_sub(before)))
}

fn per(outcome: &Outcome, client: Duration, count: u64) -> Cost {
    Cost {
        server: outcome.cpu.as_secs_f64() / count as f64,
        client: client.as_secs_f64() / count as f64,
    }
}

/// Pushes small blobs one after the other
fn push_small(server: &Server, duration: Duration) -> Result<Outcome> {
    Outcome::of(server, || {
        let started = Instant::now();
        let mut connection = server.connect()?;
        let mut count = 0;
        while started.elapsed() < duration {
            let blob = Blob::new(1_000_000 + count, SMALL);
            blob.push(&mut connection, REPOSITORY, Way::Streamed)?;
            count += 1;
        }
        Ok((count, count * SMALL))
    })
}

/// An image of layers of one size
fn image(seed: u64, layer: u64) -> Image {
    let layers = (0..LAYERS as u64).map(|number| Blob::new(seed * 1_000 + number, layer));
    Image::new(seed * 1_000 + 999, layers.collect())
}

impl Costs {
    fn table(&self, text: &mut String) -> Result<()> {
        let gibibyte = f64::from(1 << 30);
        writeln!(
            text,
            "\n| cost | server CPU | client CPU |\n|---|---:|---:|"
        )?;
        for (what, cost, factor, unit) in [
            ("a request for something small", self.request, 1e6, "us"),
            ("a GiB pulled", self.pulled, 1e3 * gibibyte, "ms"),
            (
                "a small blob pushed (POST, PATCH, PUT)",
                self.blob,
                1e6,
                "us",
            ),
            ("a GiB pushed", self.pushed, 1e3 * gibibyte, "ms"),
        ] {
            let (server, client) = (shown(cost.server * factor), shown(cost.client * factor));
            writeln!(text, "| {what} | {server} {unit} | {client} {unit} |")?;
        }
        let durable = shown(self.durable * 1e3);
        writeln!(
            text,
            "\nA small blob waits {durable} ms for stable storage."
        )?;
        Ok(())
    }

    /// Processor time of a pull, of the server alone or with the client's
    fn pull(&self, bytes: f64, of: fn(&Cost) -> f64) -> f64 {
        PULL_REQUESTS as f64 * of(&self.request) + bytes * of(&self.pulled)
    }

    /// Processor time of a push; the manifest costs what a blob costs
    fn push(&self, bytes: f64, of: fn(&Cost) -> f64) -> f64 {
        let looks = (LAYERS + 1) as f64 * of(&self.request);
        DURABLE as f64 * of(&self.blob) + looks + bytes * of(&self.pushed)
    }
}

/// The simulation of this machine beside this machine
fn check(server: &Server, costs: &Costs, duration: Duration, text: &mut String) -> Result<()> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let layer = 100 << 10;
    let images: Vec<Image> = (10..18).map(|seed| image(seed, layer)).collect();
    let bytes = images[0].size() as f64;
    let both = |cost: &Cost| cost.server + cost.client;
    let simulated = |requests, cpu, calls, latency| {
        let work = Work {
            requests,
            cpu,
            calls,
        };
        let plan = Plan {
            processes: 1,
            processors,
            store: Store {
                latency,
                calls: f64::INFINITY,
            },
            work: vec![(1.0, work)],
            arrivals: Arrivals::Closed(CLIENTS),
            operations: SIMULATED,
        };
        plan.run(1).rate
    };
    // Images that nobody has pushed before, each client one after the other.
    let started = Instant::now();
    let counts = at_once(CLIENTS, |client| {
        let mut connection = server.connect()?;
        let mut count = 0_u64;
        while started.elapsed() < duration {
            let image = image(1_000 * (client as u64 + 1) + count, layer / 10);
            for blob in image.layers.iter().chain([&image.config]) {
                let path = format!("/v2/{REPOSITORY}/blobs/{}", blob.digest);
                connection.request("HEAD", &path, "")?;
                connection.skip(true)?;
                blob.push(&mut connection, REPOSITORY, Way::Streamed)?;
            }
            image.push_manifest(&mut connection, REPOSITORY, &format!("c{client}-{count}"))?;
            count += 1;
        }
        Ok(count)
    })?;
    let pushes = counts.iter().sum::<u64>() as f64 / started.elapsed().as_secs_f64();
    let small = image(1, layer / 10).size() as f64;
    let push = simulated(
        PUSH_REQUESTS,
        costs.push(small, both),
        DURABLE,
        costs.durable,
    );

    for (number, image) in images.iter().enumerate() {
        image.push(server, REPOSITORY, &format!("p{number}"))?;
    }
    let started = Instant::now();
    let counts = at_once(CLIENTS, |client| {
        let mut connection = server.connect()?.with_headers(Image::accept());
        let image = &images[client % images.len()];
        let manifest = format!("/v2/{REPOSITORY}/manifests/p{}", client % images.len());
        let mut count = 0_u64;
        while started.elapsed() < duration {
            connection.request("GET", &manifest, "")?;
            connection.skip(false)?;
            for blob in image.layers.iter().chain([&image.config]) {
                blob.pull(&mut connection, REPOSITORY)?;
            }
            count += 1;
        }
        Ok(count)
    })?;
    let pulls = counts.iter().sum::<u64>() as f64 / started.elapsed().as_secs_f64();
    let pull = simulated(PULL_REQUESTS, costs.pull(bytes, both), 0, 0.0);

    writeln!(
        text,
        "\nThe simulation beside the machine that it is about ({CLIENTS} clients on the same \
         {processors} processors, a folder):\n\n\
         | operation | measured a second | simulated a second | simulated / measured |\n\
         |---|---:|---:|---:|"
    )?;
    for (what, measured, simulated) in [
        ("pull of 10 layers of 100 KiB", pulls, pull),
        ("push of 10 layers of 10 KiB", pushes, push),
    ] {
        let ratio = shown(simulated / measured);
        let (measured, simulated) = (shown(measured), shown(simulated));
        writeln!(text, "| {what} | {measured} | {simulated} | {ratio}x |")?;
    }
    Ok(())
}

/// What more processes could do
fn project(arguments: &Arguments, costs: &Costs, text: &mut String) -> Result<()> {
    let bytes = (arguments.image_mib << 20) as f64;
    let server = |cost: &Cost| cost.server;
    let (pull, push) = (costs.pull(bytes, server), costs.push(bytes, server));
    let cpu = (1.0 - PUSHES) * pull + PUSHES * push;
    writeln!(
        text,
        "\nAn image of 10 layers and {} MiB takes {} ms of a processor to pull and {} ms to push.",
        arguments.image_mib,
        shown(pull * 1e3),
        shown(push * 1e3)
    )?;
    let calls = arguments
        .store_calls_per_pull
        .zip(arguments.store_calls_per_push);
    let (Some((pull_calls, push_calls)), latency) = (calls, arguments.store_latency / 1e3) else {
        writeln!(
            text,
            "\nNot projected: how many calls of the store an image takes \
             (`--store-calls-per-pull`, `--store-calls-per-push`)."
        )?;
        return Ok(());
    };
    let work = |redirected: bool| {
        // What the client fetches from the store itself is no byte of the registry's.
        let pull = if redirected {
            costs.pull(0.0, server)
        } else {
            pull
        };
        let pulls = Work {
            requests: PULL_REQUESTS,
            cpu: pull,
            calls: pull_calls,
        };
        let pushes = Work {
            requests: PUSH_REQUESTS,
            cpu: push,
            calls: push_calls,
        };
        vec![(1.0 - PUSHES, pulls), (PUSHES, pushes)]
    };
    let store_calls = (1.0 - PUSHES) * pull_calls as f64 + PUSHES * push_calls as f64;
    let bound_by_store = arguments.store_calls / store_calls;
    writeln!(
        text,
        "\nAssumed: processes of 2 processors and {} Gbit/s; a store that answers in {} ms and takes \
         {} calls a second; a pull is {pull_calls} calls of it and a push {push_calls}; one \
         operation of ten is a push; images of {} MiB. The times are simulated at {:.0} % of what is \
         possible.\n\n\
         | processes | blobs | operations a second, at most | bound by | p50 ms | p99 ms |\n\
         |---:|---|---:|---|---:|---:|",
        arguments.network,
        arguments.store_latency,
        shown(arguments.store_calls),
        arguments.image_mib,
        HEADROOM * 100.0
    )?;
    for processes in [1, 3, 100] {
        for redirected in [false, true] {
            let work = work(redirected);
            let cpu: f64 = work.iter().map(|(share, work)| share * work.cpu).sum();
            let moved = if redirected { PUSHES * bytes } else { bytes };
            let network = processes as f64 * arguments.network / 8.0 * 1e9 / moved;
            let bounds = [
                (2.0 * processes as f64 / cpu, "its processors"),
                (network, "its network"),
                (bound_by_store, "calls of the store"),
            ];
            let bound = bounds.into_iter().min_by(|a, b| a.0.total_cmp(&b.0));
            let (most, by) = bound.unwrap_or_default();
            let plan = Plan {
                processes,
                processors: 2,
                store: Store {
                    latency,
                    calls: arguments.store_calls,
                },
                work,
                arrivals: Arrivals::Open(HEADROOM * most),
                operations: SIMULATED,
            };
            let outcome = plan.run(1);
            let blobs = if redirected {
                "redirected"
            } else {
                "through it"
            };
            writeln!(
                text,
                "| {processes} | {blobs} | {} | {by} | {} | {} |",
                shown(most),
                shown(outcome.p50 * 1e3),
                shown(outcome.p99 * 1e3)
            )?;
        }
    }
    let average = OPERATIONS_A_DAY / 86_400.0;
    let peak = average * PEAK;
    let needed = |bound: f64| (peak / HEADROOM / bound).ceil();
    let network = arguments.network / 8.0 * 1e9 / bytes;
    writeln!(
        text,
        "\n250 million operations a day are {} a second on average and {} in a busiest minute of \
         {PEAK} times the average (assumed). That minute needs {} processes by their processors and {} \
         by their network at {:.0} % of what is possible, {} GB a second to clients, and {} calls a \
         second of the store.",
        shown(average),
        shown(peak),
        needed(2.0 / cpu),
        needed(network),
        HEADROOM * 100.0,
        shown(peak * bytes / 1e9),
        shown(peak * store_calls)
    )?;
    Ok(())
}
