//! A day in minutes: 250,000 pushes and pulls against one registry
//!
//! ```text
//! cargo build --release
//! cargo run --release -p registry-benches --bin day -- [--operations N] [--minutes N] [--registry HOST:PORT]
//! ```
//!
//! Ten of a hundred operations push an image of 5 to 10 layers, of which three are shared with
//! others; the rest pull one, by Zipf. Layers have 4 KiB to 4 MiB, each size half as often as the
//! one before it. A push looks for each blob, sends what is not there as docker does, and then the
//! manifest; a pull gets the manifest by its tag, compares its digest, and gets every blob, whose
//! length is compared; one pull of a hundred compares all digests. Any other answer than the right
//! one is an error, and with any error the program ends with status 1.

use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use clap::Parser;
use registry_benches::content::{Image, Way, verify};
use registry_benches::day::{image, place, popular, pushes};
use registry_benches::http::Connection;
use registry_benches::load::at_once;
use registry_benches::process::{Server, ours};
use registry_benches::random::Random;
use registry_benches::report::shown;
use registry_benches::{Result, machine, mebibytes, median};

/// A day of pushes and pulls in minutes
#[derive(Parser)]
struct Arguments {
    /// How many pushes and pulls
    #[arg(long, default_value_t = 250_000)]
    operations: u64,
    /// Over how many minutes they are spread evenly; an hour of the day has 10,417 operations
    /// [default: one begins as soon as another is done]
    #[arg(long)]
    minutes: Option<u32>,
    /// How many of a hundred are pushes
    #[arg(long, default_value_t = 10)]
    pushes: u64,
    /// How many clients there are, with a connection each
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// What the randomness follows from
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The registry, which is empty and speaks plain HTTP [default: one of its own is started]
    #[arg(long, value_name = "HOST:PORT")]
    registry: Option<String>,
}

/// One pull of so many is compared to the last byte
const LOOK_CLOSELY: u64 = 100;
/// How often memory is looked at
const LOOKS: u64 = 20;
/// How many errors are shown
const SHOWN: usize = 5;

/// What clients share
struct Day {
    address: String,
    pushes: u64,
    operations: u64,
    /// How long after one the next may begin
    interval: Duration,
    started: Instant,
    begun: AtomicU64,
    done: AtomicU64,
    numbers: AtomicU64,
    bytes: AtomicU64,
    /// What was acknowledged, in that order
    there: RwLock<Vec<(u64, Arc<Image>)>>,
    errors: Mutex<Vec<String>>,
}

/// How long operations took, in seconds
#[derive(Default)]
struct Times {
    pushes: Vec<f64>,
    pulls: Vec<f64>,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let root = tempfile::Builder::new().prefix("day").tempdir()?;
    for fact in machine::describe(root.path()) {
        println!("- {fact}");
    }
    let server = match &arguments.registry {
        Some(_) => None,
        None => Some(Server::announced(
            Command::new(ours("registry")?)
                .args(["serve", "--listen", "127.0.0.1:0", "--root"])
                .arg(root.path()),
        )?),
    };
    let address = match (&server, arguments.registry) {
        (Some(server), _) => server.address.clone(),
        (None, registry) => registry.unwrap_or_default(),
    };
    let minutes = arguments.minutes.unwrap_or_default();
    let spread = Duration::from_secs(u64::from(minutes) * 60);
    let day = Day {
        address,
        pushes: arguments.pushes,
        operations: arguments.operations,
        interval: spread.div_f64(arguments.operations.max(1) as f64),
        started: Instant::now(),
        begun: AtomicU64::new(0),
        done: AtomicU64::new(0),
        numbers: AtomicU64::new(0),
        bytes: AtomicU64::new(0),
        there: RwLock::default(),
        errors: Mutex::default(),
    };
    let cpu = server.as_ref().map(Server::cpu).transpose()?;
    let over = AtomicBool::new(false);
    let (times, memory) = thread::scope(|scope| {
        let watcher = scope.spawn(|| watch(&day, server.as_ref(), &over));
        let seed = arguments.seed;
        let times = at_once(arguments.clients, |client| {
            Ok(day.client(Random::new(seed << 32 | client as u64)))
        });
        over.store(true, Ordering::Relaxed);
        let memory = watcher.join().map_err(|_| "the watcher panicked")?;
        Ok::<_, Box<dyn std::error::Error + Send + Sync>>((times?, memory))
    })?;
    let elapsed = day.started.elapsed();
    let cpu = match (&server, cpu) {
        (Some(server), Some(before)) => Some(server.cpu()?.saturating_sub(before)),
        _ => None,
    };
    let looked_at = day.look_again(&mut Random::new(arguments.seed));

    println!("\n| operation | count | p50 ms | p99 ms | max ms |\n|---|---:|---:|---:|---:|");
    let (mut pushed, mut pulled) = (Vec::new(), Vec::new());
    for own in times {
        pushed.extend(own.pushes);
        pulled.extend(own.pulls);
    }
    for (what, mut times) in [("push", pushed), ("pull", pulled)] {
        times.sort_by(f64::total_cmp);
        let at = |share: f64| {
            let index = (times.len() as f64 * share) as usize;
            let time = times.get(index.min(times.len().saturating_sub(1)));
            shown(time.copied().unwrap_or(f64::NAN) * 1e3)
        };
        let (count, p50, p99, max) = (times.len(), at(0.5), at(0.99), at(1.0));
        println!("| {what} | {count} | {p50} | {p99} | {max} |");
    }
    let bytes = day.bytes.load(Ordering::Relaxed);
    println!(
        "\n{} operations in {:.1} s ({} a second), {} MiB moved",
        day.operations,
        elapsed.as_secs_f64(),
        shown(day.operations as f64 / elapsed.as_secs_f64()),
        shown(mebibytes(bytes))
    );
    if let Some(cpu) = cpu {
        println!(
            "server CPU: {:.1} s, {} us an operation",
            cpu.as_secs_f64(),
            shown(cpu.as_secs_f64() * 1e6 / day.operations as f64)
        );
    }
    if let [.., last] = memory[..] {
        let later = memory[memory.len() / 4..].to_vec();
        println!(
            "memory: {} MiB at the end, {} MiB in the middle of what it was after a quarter",
            shown(last),
            shown(median(later))
        );
    }
    println!("{looked_at} images compared to the last byte at the end");
    let errors = day
        .errors
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    println!("errors: {}", errors.len());
    for error in errors.iter().take(SHOWN) {
        println!("  {error}");
    }
    Ok(match errors.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Prints how far it is and how much memory there is, and gives the latter in MiB
fn watch(day: &Day, server: Option<&Server>, over: &AtomicBool) -> Vec<f64> {
    let mut memory = Vec::new();
    println!("\n| operations | seconds | MiB resident |\n|---:|---:|---:|");
    for look in 1..=LOOKS {
        while day.done.load(Ordering::Relaxed) < day.operations * look / LOOKS
            && !over.load(Ordering::Relaxed)
        {
            thread::sleep(Duration::from_millis(20));
        }
        let resident = server.and_then(|server| server.resident().ok());
        let resident = resident.map(mebibytes);
        memory.extend(resident);
        println!(
            "| {} | {:.1} | {} |",
            day.done.load(Ordering::Relaxed),
            day.started.elapsed().as_secs_f64(),
            resident.map_or_else(|| "-".to_owned(), shown)
        );
    }
    memory
}

impl Day {
    /// One client until all operations have begun
    fn client(&self, mut random: Random) -> Times {
        let mut times = Times::default();
        let mut connection = None;
        loop {
            let begun = self.begun.fetch_add(1, Ordering::Relaxed);
            if begun >= self.operations {
                return times;
            }
            let at = self.interval.mul_f64(begun as f64);
            thread::sleep(at.saturating_sub(self.started.elapsed()));
            let there = self.there.read().unwrap_or_else(PoisonError::into_inner);
            let count = there.len() as u64;
            let pushes = pushes(&mut random, count, self.pushes);
            let pulled = match pushes {
                true => None,
                false => there.get(popular(&mut random, count) as usize).cloned(),
            };
            drop(there);
            let (result, time, kind) = match pulled {
                None => {
                    let number = self.numbers.fetch_add(1, Ordering::Relaxed);
                    // Made before the clock runs: to hash is the client's work.
                    let image = image(number);
                    let started = Instant::now();
                    let result = self.push(&mut connection, number, image);
                    (result, started.elapsed(), &mut times.pushes)
                }
                Some((number, image)) => {
                    let closely = random.below(LOOK_CLOSELY) == 0;
                    let started = Instant::now();
                    let result = self.pull(&mut connection, number, &image, closely);
                    (result, started.elapsed(), &mut times.pulls)
                }
            };
            kind.push(time.as_secs_f64());
            if let Err(error) = result {
                // What the connection is in the middle of is not known.
                connection = None;
                self.failed(error);
            }
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn failed(&self, error: impl ToString) {
        let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.push(error.to_string());
    }

    fn push(&self, connection: &mut Option<Connection>, number: u64, image: Image) -> Result<()> {
        let connection = self.connected(connection)?;
        let (repository, tag) = place(number);
        for blob in image.layers.iter().chain([&image.config]) {
            let path = format!("/v2/{repository}/blobs/{}", blob.digest);
            connection.request("HEAD", &path, "")?;
            match connection.skip(true)?.status {
                200 => {}
                404 => {
                    blob.push(connection, &repository, Way::Streamed)?;
                    self.bytes.fetch_add(blob.size, Ordering::Relaxed);
                }
                status => return Err(format!("HEAD {path} got {status}").into()),
            }
        }
        image.push_manifest(connection, &repository, &tag)?;
        let mut there = self.there.write().unwrap_or_else(PoisonError::into_inner);
        there.push((number, Arc::new(image)));
        Ok(())
    }

    fn pull(
        &self,
        connection: &mut Option<Connection>,
        number: u64,
        image: &Image,
        closely: bool,
    ) -> Result<()> {
        let connection = self.connected(connection)?;
        let (repository, tag) = place(number);
        let manifest = format!("/v2/{repository}/manifests/{tag}");
        verify(connection, &manifest, &image.digest)?;
        for blob in image.layers.iter().chain([&image.config]) {
            match closely {
                true => blob.verify(connection, &repository)?,
                false => blob.pull(connection, &repository)?,
            }
        }
        self.bytes.fetch_add(image.size(), Ordering::Relaxed);
        Ok(())
    }

    fn connected<'a>(&self, connection: &'a mut Option<Connection>) -> Result<&'a mut Connection> {
        Ok(match connection {
            Some(connection) => connection,
            None => {
                let opened = Connection::open(&self.address)?.with_headers(Image::accept());
                connection.insert(opened)
            }
        })
    }

    /// Compares some of what was acknowledged, and gives how many
    fn look_again(&self, random: &mut Random) -> usize {
        let there = self.there.read().unwrap_or_else(PoisonError::into_inner);
        let count = there.len().min(500);
        let mut connection = None;
        for _ in 0..count {
            let Some((number, image)) = there.get(random.below(there.len() as u64) as usize) else {
                break;
            };
            if let Err(error) = self.pull(&mut connection, *number, image, true) {
                connection = None;
                self.failed(error);
            }
        }
        count
    }
}
