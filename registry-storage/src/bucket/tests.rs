//! The driver on object_store's own storage in memory, which needs no network

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::memory::InMemory;
use object_store::multipart::PartId;
use object_store::{ListResult, ObjectStore, PutResult};

use super::*;
use crate::suite;

/// Lists as S3 does: in the order of keys, in pages
#[derive(Debug)]
struct Lists {
    store: Arc<InMemory>,
    page: usize,
}

#[async_trait]
impl PaginatedListStore for Lists {
    async fn list_paginated(
        &self,
        prefix: Option<&str>,
        options: PaginatedListOptions,
    ) -> object_store::Result<PaginatedListResult> {
        let prefix = prefix.unwrap_or_default();
        let all: Vec<_> = self.store.list(None).try_collect().await?;
        let start = options.page_token.clone().max(options.offset.clone());
        let mut keys = BTreeMap::new();
        for meta in all {
            let key = meta.location.to_string();
            let Some(rest) = key.strip_prefix(prefix) else {
                continue;
            };
            match rest.split_once('/') {
                Some((folder, _)) if options.delimiter.is_some() => {
                    keys.insert(format!("{prefix}{folder}/"), None);
                }
                _ => {
                    keys.insert(key, Some(meta));
                }
            }
        }
        let mut keys = keys
            .into_iter()
            .filter(|(key, _)| start.as_ref().is_none_or(|start| key > start));
        let limit = options.max_keys.unwrap_or(1000).min(self.page);
        let mut result = ListResult {
            common_prefixes: Vec::new(),
            objects: Vec::new(),
            extensions: Default::default(),
        };
        let mut last = None;
        for (key, meta) in keys.by_ref().take(limit) {
            match meta {
                Some(meta) => result.objects.push(meta),
                None => result.common_prefixes.push(Path::from(&*key)),
            }
            last = Some(key);
        }
        Ok(PaginatedListResult {
            result,
            page_token: keys.next().and(last),
        })
    }
}

/// Takes parts as S3 does: what is completed must be what was sent
#[derive(Debug)]
struct Parts {
    store: Arc<InMemory>,
    /// Takes parts as Azure does, for a key
    by_key: bool,
    uploads: Mutex<HashMap<String, Sent>>,
}

/// The parts of one upload, by number
type Sent = BTreeMap<usize, (String, PutPayload)>;

fn no_such_upload(path: &Path) -> object_store::Error {
    object_store::Error::NotFound {
        path: path.to_string(),
        source: "<Code>NoSuchUpload</Code>".into(),
    }
}

#[async_trait]
impl MultipartStore for Parts {
    async fn create_multipart(&self, path: &Path) -> object_store::Result<String> {
        if self.by_key {
            return Ok(String::new());
        }
        let id = format!("{path}?{}", uuid::Uuid::new_v4());
        let mut uploads = self.uploads.lock().unwrap();
        uploads.insert(id.clone(), BTreeMap::new());
        Ok(id)
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &String,
        index: usize,
        payload: PutPayload,
    ) -> object_store::Result<PartId> {
        let mut uploads = self.uploads.lock().unwrap();
        if self.by_key {
            let parts = uploads.entry(path.to_string()).or_default();
            let content_id = uuid::Uuid::new_v4().to_string();
            let number = parts.keys().last().map_or(0, |last| last + 1);
            parts.insert(number, (content_id.clone(), payload));
            return Ok(PartId { content_id });
        }
        assert!(id.starts_with(path.as_ref()), "another object's upload");
        let parts = uploads.get_mut(id).ok_or_else(|| no_such_upload(path))?;
        let content_id = uuid::Uuid::new_v4().to_string();
        parts.insert(index, (content_id.clone(), payload));
        Ok(PartId { content_id })
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &String,
        ids: Vec<PartId>,
    ) -> object_store::Result<PutResult> {
        let payload = if self.by_key {
            let mut uploads = self.uploads.lock().unwrap();
            let parts = uploads.entry(path.to_string()).or_default();
            let mut bytes = Vec::new();
            for part in &ids {
                let found = parts.values().find(|(id, _)| *id == part.content_id);
                let (_, payload) = found.ok_or_else(|| object_store::Error::Generic {
                    store: "Parts",
                    source: "<Code>InvalidBlockList</Code>".into(),
                })?;
                bytes.extend(payload.iter().cloned());
            }
            // What was put together can be so again, and all else is gone.
            parts.retain(|_, (id, _)| ids.iter().any(|part| part.content_id == *id));
            PutPayload::from_iter(bytes)
        } else {
            let mut uploads = self.uploads.lock().unwrap();
            let parts = uploads.get(id).ok_or_else(|| no_such_upload(path))?;
            let mut bytes = Vec::new();
            for (index, part) in ids.iter().enumerate() {
                match parts.get(&index) {
                    Some((content_id, payload)) if *content_id == part.content_id => {
                        bytes.extend(payload.iter().cloned());
                    }
                    _ => {
                        return Err(object_store::Error::Generic {
                            store: "Parts",
                            source: "<Code>InvalidPart</Code>".into(),
                        });
                    }
                }
            }
            uploads.remove(id);
            PutPayload::from_iter(bytes)
        };
        self.store.put(path, payload).await
    }

    async fn abort_multipart(&self, path: &Path, id: &String) -> object_store::Result<()> {
        if self.by_key {
            return Ok(());
        }
        let removed = self.uploads.lock().unwrap().remove(id);
        removed.map(|_| ()).ok_or_else(|| no_such_upload(path))
    }
}

/// A store that several processes share
#[derive(Clone)]
struct Shared {
    store: Arc<InMemory>,
    parts: Arc<Parts>,
}

impl Shared {
    fn new() -> Self {
        Self::with_parts(false)
    }

    fn with_parts(by_key: bool) -> Self {
        let store = Arc::new(InMemory::new());
        let parts = Arc::new(Parts {
            store: store.clone(),
            by_key,
            uploads: Mutex::default(),
        });
        Self { store, parts }
    }

    fn multipart_uploads(&self) -> usize {
        self.parts.uploads.lock().unwrap().len()
    }
}

fn faces(shared: &Shared) -> Faces {
    Faces {
        objects: shared.store.clone(),
        multipart: shared.parts.clone(),
        lists: Arc::new(Lists {
            store: shared.store.clone(),
            page: 7,
        }),
        signer: None,
        parts_by_key: shared.parts.by_key,
        s3: None,
    }
}

fn bucket(store: &Shared, root: &str, part_size: u64) -> Bucket {
    Bucket::of_any_size(faces(store), options(root, part_size)).unwrap()
}

fn options(root: &str, part_size: u64) -> BucketOptions {
    BucketOptions {
        root: root.to_owned(),
        part_size,
        ..BucketOptions::default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_passes_the_suite_in_parts_of_any_size() {
    for (root, part_size, by_key) in [
        ("", 64 * 1024, false),
        ("a/root", 1_000_000, true),
        ("", 8 * 1024 * 1024, false),
    ] {
        let store = Shared::with_parts(by_key);
        let driver = Arc::new(bucket(&store, root, part_size));
        suite::run(driver.clone()).await;
        // And again, on what the first run left.
        suite::run(driver.clone()).await;
        let other = Arc::new(bucket(&store, root, part_size));
        suite::run_shared(driver.clone(), other.clone()).await;
        suite::run_shared(other, driver).await;
    }
}

#[tokio::test]
async fn a_published_upload_leaves_nothing_behind() {
    let store = Shared::new();
    let driver = bucket(&store, "root", 1000);
    let key = |text| Key::parse(text).unwrap();
    for size in [10, 1000, 5500] {
        for aim in [false, true] {
            let mut append = driver.append(&key("u/data")).await.unwrap();
            append.write(vec![1; size].into()).await.unwrap();
            append.sync().await.unwrap();
            append.write(vec![2; size].into()).await.unwrap();
            append.sync().await.unwrap();
            drop(append);
            let mut append = driver.reopen(&key("u/data")).await.unwrap();
            if aim {
                append.aim(&key("blob"));
            }
            append.write(vec![3; size].into()).await.unwrap();
            append.publish(&key("blob")).await.unwrap();
            drop(append);
            let all: Vec<_> = store
                .store
                .list(None)
                .map_ok(|meta| meta.location.to_string())
                .try_collect()
                .await
                .unwrap();
            assert_eq!(all, ["root/blob"], "{size} {aim}");
            assert_eq!(store.multipart_uploads(), 0, "{size} {aim}");
            let found = driver.read(&key("blob"), usize::MAX).await.unwrap();
            assert_eq!(
                found,
                [vec![1; size], vec![2; size], vec![3; size]].concat()
            );
        }
    }
}

#[tokio::test]
async fn bytes_that_were_synced_outlive_an_aim_that_missed() {
    let store = Shared::new();
    let driver = bucket(&store, "", 1000);
    let key = |text| Key::parse(text).unwrap();
    let mut append = driver.append(&key("u/data")).await.unwrap();
    append.write(vec![1; 300].into()).await.unwrap();
    append.sync().await.unwrap();
    drop(append);
    let mut append = driver.reopen(&key("u/data")).await.unwrap();
    append.aim(&key("blob"));
    append.write(vec![2; 5000].into()).await.unwrap();
    append.sync().await.unwrap();
    assert_eq!(append.size(), 300);
    let content: Vec<_> = append.content().await.unwrap().try_collect().await.unwrap();
    assert_eq!(content.concat(), vec![1; 300]);
    append.publish(&key("other")).await.unwrap();
    assert!(driver.stat(&key("blob")).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn an_upload_whose_end_was_cut_short_is_published_by_the_next() {
    let store = Shared::new();
    let driver = bucket(&store, "", 1000);
    let key = |text| Key::parse(text).unwrap();
    let (upload, to) = (key("u/data"), key("blob"));
    let mut append = driver.append(&upload).await.unwrap();
    append.write(vec![1; 5500].into()).await.unwrap();
    append.sync().await.unwrap();
    // Put together, as by a process that was killed before it copied the whole.
    drop(append.content().await.unwrap());
    drop(append);
    let mut append = driver.reopen(&upload).await.unwrap();
    assert_eq!(append.size(), 5500);
    append.truncate(5500).await.unwrap();
    append.publish(&to).await.unwrap();
    assert_eq!(driver.stat(&to).await.unwrap().size, 5500);
    drop(append);
    assert!(driver.progress(&upload).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn without_conditions_an_upload_stays_in_its_process() {
    let store = Shared::new();
    let (one, other) = (bucket(&store, "", 100_000), bucket(&store, "", 100_000));
    for driver in [&one, &other] {
        driver.inner.conditional.store(false, Ordering::Relaxed);
    }
    let upload = Key::parse("u/data").unwrap();
    let mut append = one.append(&upload).await.unwrap();
    append.write(vec![1; 250_000].into()).await.unwrap();
    append.sync().await.unwrap();
    let error = other.reopen(&upload).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("one process"), "{error}");
    drop(append);
    assert_eq!(one.reopen(&upload).await.unwrap().size(), 250_000);
    suite::run(Arc::new(one)).await;
    other.delete_tree(&Key::parse("u").unwrap()).await.unwrap();
    assert!(other.reopen(&upload).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn a_probe_finds_conditions_and_leaves_nothing() {
    let store = Shared::new();
    let driver = bucket(&store, "root", 1000);
    let capabilities = driver.probe().await.unwrap();
    assert!(capabilities.shares_uploads(), "{capabilities}");
    assert_eq!(driver.list(None, None, 10).await.unwrap(), []);
    let text = capabilities.to_string();
    assert!(text.contains("conditional create: yes"), "{text}");
}

#[test]
fn parts_double_so_that_ten_thousand_are_enough() {
    for (size, parts) in [(0, 0_u64), (8 << 20, 10_000)] {
        let total: u64 = (0..parts).map(|part| size << (part / 1000).min(9)).sum();
        assert!(parts == 0 || total > 5 << 40, "{total}");
    }
}

#[test]
fn options_that_do_not_fit_are_refused() {
    let s3 = |edit: fn(&mut S3Options)| {
        let mut options = S3Options {
            bucket: "b".to_owned(),
            ..S3Options::default()
        };
        edit(&mut options);
        let connect = ConnectOptions {
            danger_skip_verify: true,
            ..ConnectOptions::default()
        };
        Bucket::s3(&options, BucketOptions::default(), &connect).map(|_| ())
    };
    s3(|_| {}).unwrap();
    for (edit, name) in [
        ((|s3| s3.bucket.clear()) as fn(&mut S3Options), "bucket"),
        (|s3| s3.access_key = Some("x".to_owned()), "accesskey"),
        (
            |s3| s3.region_endpoint = Some("ftp://x".to_owned()),
            "regionendpoint",
        ),
    ] {
        let error = s3(edit).unwrap_err().to_string();
        assert!(error.contains(&format!("`{name}`")), "{error}");
        assert!(error.contains("expected"), "{error}");
    }
    let store = Shared::new();
    for part_size in [0, 1 << 20, 1 << 40] {
        let options = BucketOptions {
            part_size,
            ..BucketOptions::default()
        };
        let error = Bucket::new(faces(&store), options).unwrap_err().to_string();
        assert!(error.contains("chunksize"), "{error}");
    }
}

/// Stands between the driver and a store: counts calls, and lets some go wrong
#[derive(Debug)]
struct Between {
    store: Arc<InMemory>,
    parts: Arc<Parts>,
    calls: Mutex<BTreeMap<&'static str, usize>>,
    /// One in so many calls goes wrong; none if it is 0
    rarity: AtomicU64,
    chance: AtomicU64,
}

impl std::fmt::Display for Between {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Between")
    }
}

impl Between {
    fn new(seed: u64, rarity: u64) -> Arc<Self> {
        let Shared { store, parts } = Shared::with_parts(seed.is_multiple_of(2));
        Arc::new(Self {
            store,
            parts,
            calls: Mutex::default(),
            rarity: AtomicU64::new(rarity),
            chance: AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
        })
    }

    fn bucket(self: &Arc<Self>, part_size: u64) -> Bucket {
        let faces = Faces {
            objects: self.clone(),
            multipart: self.clone(),
            lists: self.clone(),
            signer: None,
            parts_by_key: self.parts.by_key,
            s3: None,
        };
        Bucket::of_any_size(faces, options("", part_size)).unwrap()
    }

    fn roll(&self, sides: u64) -> u64 {
        let mut state = self.chance.load(Ordering::Relaxed);
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        self.chance.store(state, Ordering::Relaxed);
        (state >> 11) % sides
    }

    /// Makes a call; its answer may be lost, or it may not arrive at all
    async fn call<T>(
        &self,
        name: &'static str,
        call: impl Future<Output = object_store::Result<T>>,
    ) -> object_store::Result<T> {
        *self.calls.lock().unwrap().entry(name).or_default() += 1;
        let rarity = self.rarity.load(Ordering::Relaxed);
        let error = |text: &str| object_store::Error::Generic {
            store: "Between",
            source: text.into(),
        };
        if rarity == 0 || self.roll(rarity) != 0 {
            return call.await;
        }
        if self.roll(2) == 0 {
            return Err(error("503 <Code>SlowDown</Code>"));
        }
        let _ = call.await;
        Err(error("connection reset"))
    }

    fn take_calls(&self) -> BTreeMap<&'static str, usize> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

#[async_trait]
impl ObjectStore for Between {
    async fn put_opts(
        &self,
        path: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> object_store::Result<PutResult> {
        let call = self.store.put_opts(path, payload, options);
        self.call("PUT", call).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        options: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn object_store::MultipartUpload>> {
        self.store.put_multipart_opts(path, options).await
    }

    async fn get_opts(
        &self,
        path: &Path,
        options: GetOptions,
    ) -> object_store::Result<object_store::GetResult> {
        let name = if options.head { "HEAD" } else { "GET" };
        self.call(name, self.store.get_opts(path, options)).await
    }

    fn delete_stream(
        &self,
        paths: stream::BoxStream<'static, object_store::Result<Path>>,
    ) -> stream::BoxStream<'static, object_store::Result<Path>> {
        *self.calls.lock().unwrap().entry("DELETE").or_default() += 1;
        self.store.delete_stream(paths)
    }

    fn list(
        &self,
        prefix: Option<&Path>,
    ) -> stream::BoxStream<'static, object_store::Result<object_store::ObjectMeta>> {
        *self.calls.lock().unwrap().entry("LIST").or_default() += 1;
        self.store.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(
        &self,
        from: &Path,
        to: &Path,
        options: object_store::CopyOptions,
    ) -> object_store::Result<()> {
        let call = self.store.copy_opts(from, to, options);
        self.call("COPY", call).await
    }
}

#[async_trait]
impl MultipartStore for Between {
    async fn create_multipart(&self, path: &Path) -> object_store::Result<String> {
        self.call("CREATE", self.parts.create_multipart(path)).await
    }

    async fn put_part(
        &self,
        path: &Path,
        id: &String,
        index: usize,
        payload: PutPayload,
    ) -> object_store::Result<PartId> {
        let call = self.parts.put_part(path, id, index, payload);
        self.call("PART", call).await
    }

    async fn complete_multipart(
        &self,
        path: &Path,
        id: &String,
        ids: Vec<PartId>,
    ) -> object_store::Result<PutResult> {
        let call = self.parts.complete_multipart(path, id, ids);
        self.call("COMPLETE", call).await
    }

    async fn abort_multipart(&self, path: &Path, id: &String) -> object_store::Result<()> {
        let call = self.parts.abort_multipart(path, id);
        self.call("ABORT", call).await
    }
}

#[async_trait]
impl PaginatedListStore for Between {
    async fn list_paginated(
        &self,
        prefix: Option<&str>,
        options: PaginatedListOptions,
    ) -> object_store::Result<PaginatedListResult> {
        let lists = Lists {
            store: self.store.clone(),
            page: 1000,
        };
        self.call("LIST", lists.list_paginated(prefix, options))
            .await
    }
}

/// Chunks arrive on bad days: whatever was acknowledged is in the blob, and nothing else
#[tokio::test]
async fn every_acknowledged_byte_stays_whatever_goes_wrong() {
    let (mut started, mut published, mut failures) = (0, 0, 0);
    for seed in 1..=300_u64 {
        let between = Between::new(seed, 6);
        let name = registry_core::RepositoryName::try_from("a").unwrap();
        // Each request in another process, as behind a load balancer.
        let store = || crate::Store::new(Arc::new(between.bucket(1000)));
        let Ok(upload) = store()
            .start_upload(&name, registry_core::Algorithm::Sha256)
            .await
        else {
            continue;
        };
        started += 1;
        let id = upload.id();
        let mut sent: Vec<u8> = Vec::new();
        let mut offset = 0;
        for chunk in 0..8_u8 {
            let size = 1 + between.roll(3500) as usize;
            let Ok(mut upload) = store().open_upload(&name, &id).await else {
                failures += 1;
                continue;
            };
            // What was acknowledged is there; what was not may be.
            let stored = upload.offset() as usize;
            assert!(stored >= offset, "seed {seed}: {stored} of {offset} bytes");
            assert!(stored <= sent.len(), "seed {seed}: {stored} bytes");
            sent.truncate(stored);
            offset = stored;
            let bytes: Vec<u8> = (0..size).map(|index| chunk ^ (index as u8)).collect();
            sent.extend_from_slice(&bytes);
            let body = stream::iter([Ok::<_, std::io::Error>(Bytes::from(bytes))]);
            match upload.append(Default::default(), body).await {
                Ok(()) => offset = sent.len(),
                Err(_) => failures += 1,
            }
        }
        between.rarity.store(10, Ordering::Relaxed);
        for _ in 0..40 {
            let Ok(upload) = store().open_upload(&name, &id).await else {
                failures += 1;
                continue;
            };
            let stored = upload.offset() as usize;
            assert!((offset..=sent.len()).contains(&stored), "seed {seed}");
            let digest = registry_core::Digest::sha256(&sent[..stored]);
            let completed = upload.complete(digest).await;
            // Whatever is there by now is the whole of it.
            between.rarity.store(0, Ordering::Relaxed);
            if let Ok(size) = store().stat_blob(&name, &digest).await {
                let read = store().read_blob(&name, &digest, None).await.unwrap();
                let found: Vec<Bytes> = read.try_collect().await.unwrap();
                assert!(found.concat() == sent[..stored], "seed {seed}");
                assert_eq!(size, stored as u64);
                published += 1;
                break;
            }
            assert!(
                completed.is_err(),
                "seed {seed}: acknowledged, and not there"
            );
            failures += 1;
            between.rarity.store(10, Ordering::Relaxed);
        }
    }
    assert!(failures > 1000, "only {failures} failures");
    assert!(started > 100, "only {started} uploads");
    // Of some the store has lost parts, which is told to whoever sent them.
    assert!(published * 10 >= started * 9, "{published} of {started}");
}

/// What a push and a pull cost, so that a change which makes them dearer is seen
#[tokio::test]
async fn a_push_and_a_pull_take_few_calls() {
    use registry_core::{Algorithm, Digest, RepositoryName};

    let between = Between::new(1, 0);
    let store = crate::Store::new(Arc::new(between.bucket(8 << 20)));
    let name = RepositoryName::try_from("team/app").unwrap();
    let body = |bytes: &Bytes| stream::iter([Ok::<_, std::io::Error>(bytes.clone())]);
    let total = |calls: &BTreeMap<&str, usize>| calls.values().sum::<usize>();

    // As docker does: begin, send, close.
    let bytes = Bytes::from(vec![1; 100_000]);
    let digest = Digest::sha256(&bytes);
    let id = store
        .start_upload(&name, Algorithm::Sha256)
        .await
        .unwrap()
        .id();
    let mut upload = store.open_upload(&name, &id).await.unwrap();
    upload
        .append(Default::default(), body(&bytes))
        .await
        .unwrap();
    let upload = store.open_upload(&name, &id).await.unwrap();
    upload.complete(digest).await.unwrap();
    let in_three = between.take_calls();
    // As containerd and skopeo do: begin, send and close.
    let bytes = Bytes::from(vec![2; 100_000]);
    let digest = Digest::sha256(&bytes);
    let id = store
        .start_upload(&name, Algorithm::Sha256)
        .await
        .unwrap()
        .id();
    let upload = store.open_upload(&name, &id).await.unwrap();
    let sent = upload.append_and_complete(Default::default(), body(&bytes), digest);
    sent.await.unwrap();
    let in_two = between.take_calls();
    let read = store.read_blob(&name, &digest, None).await.unwrap();
    let _: Vec<Bytes> = read.try_collect().await.unwrap();
    let pull = between.take_calls();
    assert_eq!(total(&pull), 2, "{pull:?}");
    assert!(total(&in_two) <= 13, "{} {in_two:?}", total(&in_two));
    assert!(total(&in_three) <= 28, "{} {in_three:?}", total(&in_three));
    eprintln!("in three requests {in_three:?}, in two {in_two:?}, a pull {pull:?}");
}

/// Two who go on with one upload at the same time, where parts belong to a key
#[tokio::test]
async fn parts_of_two_writers_are_not_mixed_up() {
    let store = Shared::with_parts(true);
    let (one, other) = (bucket(&store, "", 1000), bucket(&store, "", 1000));
    let key = |text| Key::parse(text).unwrap();
    let mut append = one.append(&key("u/data")).await.unwrap();
    append.write(vec![0; 1500].into()).await.unwrap();
    append.sync().await.unwrap();
    drop(append);
    let mut first = one.reopen(&key("u/data")).await.unwrap();
    let mut second = other.reopen(&key("u/data")).await.unwrap();
    first.write(vec![1; 3000].into()).await.unwrap();
    second.write(vec![2; 3000].into()).await.unwrap();
    second.truncate(1500).await.unwrap();
    first.publish(&key("blob")).await.unwrap();
    assert!(second.sync().await.is_err());
    let found = one.read(&key("blob"), usize::MAX).await.unwrap();
    assert_eq!(found, [vec![0; 1500], vec![1; 3000]].concat());
    // And two who push the same blob at the same time, of whom one lies.
    let (mut honest, mut liar) = (
        one.append(&key("h/data")).await.unwrap(),
        one.append(&key("l/data")).await.unwrap(),
    );
    for (append, byte) in [(&mut honest, 3), (&mut liar, 4)] {
        append.aim(&key("aimed"));
        append.write(vec![byte; 4500].into()).await.unwrap();
    }
    liar.sync().await.unwrap();
    honest.publish(&key("aimed")).await.unwrap();
    let found = one.read(&key("aimed"), usize::MAX).await.unwrap();
    assert_eq!(found, vec![3; 4500]);
}
