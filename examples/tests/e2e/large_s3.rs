//! A large layer, pushed to an object store in little memory, whose bytes pass once

use std::io::{BufReader, Read, Write};
use std::time::Instant;

use registry_core::{Algorithm, Digest, Hasher};

use crate::support::garage::Garage;
use crate::support::http::{self, Streaming, with_query};
use crate::support::image::Noise;
use crate::support::meter::{Meter, Passed};
use crate::support::moto::Moto;
use crate::support::process::Server;
use crate::support::site::Site;

const MIB: u64 = 1 << 20;

/// What a part of an upload has, if the configuration does not say otherwise
const PART: u64 = 8 * MIB;

/// What the registry may take of memory
const MEMORY: u64 = 64 * MIB;

/// How many mebibytes the layer has; `REGISTRY_E2E_LARGE_MIB` says otherwise
fn mebibytes() -> u64 {
    match std::env::var("REGISTRY_E2E_LARGE_MIB") {
        Ok(count) => count.parse().expect("REGISTRY_E2E_LARGE_MIB is a number"),
        Err(_) => 300,
    }
}

/// A store with the bucket `images`: on disk where there is one, else in memory
enum Store {
    Disk(Garage),
    Memory(Moto),
}

impl Store {
    /// Or a visible skip
    #[track_caller]
    fn start() -> Option<Self> {
        if let Some(garage) = Garage::start_if_there() {
            return Some(Self::Disk(garage));
        }
        let moto = Moto::start()?;
        moto.make_bucket("images");
        Some(Self::Memory(moto))
    }

    fn address(&self) -> &str {
        match self {
            Self::Disk(garage) => &garage.address,
            Self::Memory(moto) => &moto.address,
        }
    }

    /// The entry under `storage`, by way of a meter
    fn storage(&self, meter: &Meter) -> String {
        let direct = match self {
            Self::Disk(garage) => garage.storage(),
            Self::Memory(moto) => moto.storage("images", ""),
        };
        direct.replace(self.address(), &meter.address)
    }
}

/// A layer that is nowhere as a whole
struct Layer {
    seed: u64,
    mebibytes: u64,
    digest: Digest,
}

impl Layer {
    fn new(seed: u64, mebibytes: u64) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        pieces(seed, mebibytes, |piece| hasher.update(piece));
        Self {
            seed,
            mebibytes,
            digest: hasher.finish(),
        }
    }

    /// Sends it as the body of one request
    #[track_caller]
    fn send(&self, address: &str, method: &str, path: &str) -> http::Response {
        let mut body = Streaming::begin(address, method, path).expect("the registry runs");
        pieces(self.seed, self.mebibytes, |piece| {
            body.write(piece).expect("the registry reads on");
        });
        body.finish().expect("answered")
    }
}

/// A mebibyte of noise as often, each time with another number at its start
fn pieces(seed: u64, mebibytes: u64, mut each: impl FnMut(&[u8])) {
    let mut piece = Noise::new(seed).bytes(MIB as usize);
    for number in 0..mebibytes {
        piece[..8].copy_from_slice(&number.to_le_bytes());
        each(&piece);
    }
}

/// The digest and size of what is at a URL
#[track_caller]
fn digest_at(url: &str) -> (Digest, u64) {
    let rest = url.strip_prefix("http://").expect("a URL without TLS");
    let (address, path) = rest.split_once('/').expect("a path");
    let mut stream = http::open(address).expect("the store runs");
    let head = http::head(address, "GET", &format!("/{path}"), &[]) + "\r\n";
    stream.write_all(head.as_bytes()).expect("sent");
    let mut reader = BufReader::new(stream);
    let (status, headers) = http::read_head(&mut reader).expect("answered");
    assert_eq!(status, 200, "{headers:?}");
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let (mut buffer, mut size) = (vec![0; MIB as usize], 0);
    loop {
        match reader.read(&mut buffer).expect("readable") {
            0 => return (hasher.finish(), size),
            count => {
                hasher.update(&buffer[..count]);
                size += count as u64;
            }
        }
    }
}

/// The registry has the layer; its bytes came to the store once, and the registry took little memory
#[track_caller]
fn passed_once(how: &str, server: &Server, layer: &Layer, passed: &Passed) {
    let size = layer.mebibytes * MIB;
    let peak = server.resident_peak();
    eprintln!(
        "{} MiB {how}: {} requests to the store, {} of them copies within it; {} bytes more than \
         the layer has sent, {} bytes in the answers; {} MiB of memory at most",
        layer.mebibytes,
        passed.requests.len(),
        passed.copies(),
        passed.sent() as i64 - size as i64,
        passed.answered,
        peak / MIB,
    );
    assert!(peak < MEMORY, "{} MiB were resident", peak / MIB);
    // What does not fill a part is kept beside the parts until the next request.
    let slack = 2 * PART;
    assert!((size..size + slack).contains(&passed.sent()), "{passed:?}");
    assert!(passed.answered < slack, "{passed:?}");
    let mut requests = passed.requests.iter();
    let read =
        requests.find(|request| request.method == "GET" && request.target.contains("/blobs/"));
    assert!(read.is_none(), "{read:?}");

    let blob = format!("/v2/large/layer/blobs/{}", layer.digest);
    let answer = http::get(&server.address, &blob).expect(&[307]);
    let url = answer.header("location").expect("a Location");
    assert_eq!(digest_at(url), (layer.digest, size));
}

#[test]
fn a_large_layer_passes_once_and_in_little_memory() {
    let Some(store) = Store::start() else { return };
    let meter = Meter::before(store.address());
    let site = Site::new();
    let server = site.serve_with(&format!(
        "version: 0.1\nhttp: {{addr: '127.0.0.1:0'}}\nstorage: {{{}}}\n",
        store.storage(&meter)
    ));
    let address = &server.address;
    meter.take();

    // The digest comes at the end: the store puts the blob where it stays by itself.
    let layer = Layer::new(1, mebibytes());
    let started = Instant::now();
    let location = http::start_upload(address, "large/layer");
    let sent = layer.send(address, "PATCH", &location).expect(&[202]);
    assert_eq!(sent.offset(), layer.mebibytes * MIB);
    let target = with_query(&sent.location(), &format!("digest={}", layer.digest));
    let committed = Instant::now();
    http::request(address, "PUT", &target).expect(&[201]);
    eprintln!(
        "sent in {:?}, committed in {:?}",
        committed - started,
        committed.elapsed()
    );
    let passed = meter.take();
    assert!(passed.copies() > 0, "{passed:?}");
    passed_once("in one PATCH", &server, &layer, &passed);
    meter.take();

    // The digest comes first: the blob is where it stays as soon as its last part is.
    let layer = Layer::new(2, mebibytes());
    let path = format!("/v2/large/layer/blobs/uploads/?digest={}", layer.digest);
    let started = Instant::now();
    layer.send(address, "POST", &path).expect(&[201]);
    eprintln!("sent and committed in {:?}", started.elapsed());
    let passed = meter.take();
    assert_eq!(passed.copies(), 0, "{passed:?}");
    passed_once("in one POST", &server, &layer, &passed);
    assert!(server.stop().success());
}
