//! The pure parts that every request passes

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use registry_core::manifest::Limits;
use registry_core::page::next_link;
use registry_core::upload::{ChunkHeader, Session};
use registry_core::{
    Algorithm, ChunkRange, Digest, ErrorCode, ErrorDetail, ErrorResponse, Hasher, Manifest, Page,
    RangeHeader, Reference, RepositoryName, TagOrDigest, UploadId, route,
};

const DIGEST: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";

/// A list of eleven platforms, as a real registry serves it
const LIST: &[u8] = include_bytes!("../../fuzz/corpus/manifest/hello-world-list.json");

fn parsers(c: &mut Criterion) {
    c.bench_function("digest/parse", |b| {
        b.iter(|| black_box(DIGEST).parse::<Digest>());
    });
    let digest: Digest = DIGEST.parse().unwrap();
    c.bench_function("digest/print", |b| b.iter(|| black_box(digest).to_string()));
    c.bench_function("name/parse", |b| {
        b.iter(|| black_box("library/team/some-app").parse::<RepositoryName>());
    });
    c.bench_function("reference/parse", |b| {
        b.iter(|| black_box("localhost:5000/library/some-app:v1.2.3").parse::<Reference>());
    });
    c.bench_function("range/resolve", |b| {
        b.iter(|| {
            RangeHeader::parse(black_box("bytes=0-499,-500")).map(|header| header.resolve(10_000))
        });
    });
    c.bench_function("range/chunk", |b| {
        b.iter(|| ChunkRange::parse(black_box("1048576-2097151")));
    });
    c.bench_function("tag or digest/parse", |b| {
        b.iter(|| black_box("v1.2.3").parse::<TagOrDigest>());
    });
}

fn lists(c: &mut Criterion) {
    c.bench_function("link/next page", |b| {
        let query = [("n", "100"), ("last", "v1.2.3+build")];
        b.iter(|| {
            next_link(
                black_box("/v2/library/some-app/tags/list"),
                black_box(&query),
            )
        });
    });
    c.bench_function("link/which page", |b| {
        b.iter(|| Page::new(black_box(Some("100")), black_box(Some("v1.2.3"))));
    });
}

fn errors(c: &mut Criterion) {
    c.bench_function("error/blob unknown", |b| {
        b.iter(|| {
            let error = ErrorDetail::new(ErrorCode::BlobUnknown, black_box(DIGEST));
            ErrorResponse::new(vec![error]).to_json()
        });
    });
}

fn routing(c: &mut Criterion) {
    let blob = format!("/v2/library/some-app/blobs/{DIGEST}");
    let upload = "/v2/library/some-app/blobs/uploads/8cd5b4e7-9b0f-4d3a-8f6c-2f5f6f0f0a11";
    let query = format!("digest={DIGEST}");
    c.bench_function("route/manifest by tag", |b| {
        b.iter(|| {
            route(
                "GET",
                black_box("/v2/library/some-app/manifests/v1.2.3"),
                None,
            )
        });
    });
    c.bench_function("route/blob", |b| {
        b.iter(|| route("GET", black_box(&blob), None))
    });
    c.bench_function("route/complete upload", |b| {
        b.iter(|| route("PUT", black_box(upload), Some(black_box(&query))));
    });
    c.bench_function("route/a page of tags", |b| {
        let path = "/v2/library/some-app/tags/list";
        b.iter(|| route("GET", black_box(path), black_box(Some("n=100&last=v1.2.3"))));
    });
    let operation = route("PUT", upload, Some(&query)).unwrap();
    c.bench_function("operation/access and label", |b| {
        b.iter(|| (black_box(&operation).access(), operation.label()));
    });
}

fn manifests(c: &mut Criterion) {
    let raw = bytes::Bytes::from_static(LIST);
    let limits = Limits::default();
    let mut group = c.benchmark_group("manifest");
    group.throughput(Throughput::Bytes(LIST.len() as u64));
    group.bench_function("parse", |b| {
        b.iter(|| Manifest::parse(black_box(raw.clone()), None, &limits));
    });
    group.bench_function("detect media type", |b| {
        b.iter(|| Manifest::detect_media_type(black_box(LIST)));
    });
    group.bench_function("digest", |b| b.iter(|| Digest::sha256(black_box(LIST))));

    // What costs most per byte, as large as it may be: a push must not occupy a core for long.
    let config = format!(r#"{{"mediaType":"a/b","digest":"{DIGEST}","size":2}}"#);
    let filled = |filling: &str, times: usize| {
        let filling = vec![filling; times].join(",");
        bytes::Bytes::from(format!(
            r#"{{"schemaVersion":2,"config":{config},"layers":[{filling}],"annotations":{{}}}}"#
        ))
    };
    let image = filled(&config, 10);
    let layers = filled(&config, 10_000);
    let unknown = r#""x":0,"#.repeat(600_000);
    let keys = filled(&format!("{{{unknown}{}", &config[1..]), 1);
    for (what, raw) in [
        ("10 layers", image),
        ("10,000 layers", layers),
        ("600,000 unknown keys", keys),
    ] {
        assert!(
            Manifest::parse(raw.clone(), None, &limits).is_ok(),
            "{what}"
        );
        group.throughput(Throughput::Bytes(raw.len() as u64));
        group.bench_function(format!("parse {what}"), |b| {
            b.iter(|| Manifest::parse(black_box(raw.clone()), None, &limits));
        });
    }
    group.finish();
}

fn uploads(c: &mut Criterion) {
    let chunk = vec![7; 1 << 20];
    let mut group = c.benchmark_group("upload");
    group.throughput(Throughput::Bytes(chunk.len() as u64));
    for algorithm in [Algorithm::Sha256, Algorithm::Sha512] {
        group.bench_function(format!("append 1 MiB, {algorithm}"), |b| {
            let mut session = Session::begin(UploadId::from_random_bytes([1; 16]), algorithm);
            b.iter(|| {
                let mut receiving = session.chunk(ChunkHeader::default()).unwrap();
                receiving
                    .append(black_box(&chunk))
                    .map(|append| append.offset)
            });
        });
    }
    group.finish();
    let mut hasher = Hasher::new(Algorithm::Sha256);
    hasher.update(&chunk[..1000]);
    c.bench_function("upload/save and restore the hash", |b| {
        b.iter(|| Hasher::restore(Algorithm::Sha256, &black_box(&hasher).save()));
    });
}

criterion_group!(benches, parsers, routing, lists, errors, manifests, uploads);
criterion_main!(benches);
