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
        assert!(id.starts_with(path.as_ref()), "another object's upload");
        let mut uploads = self.uploads.lock().unwrap();
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
        let payload = {
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
        let store = Arc::new(InMemory::new());
        let parts = Arc::new(Parts {
            store: store.clone(),
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
        s3: None,
    }
}

fn bucket(store: &Shared, root: &str, part_size: u64) -> Bucket {
    Bucket::with_part_size(faces(store), root, part_size, None).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_passes_the_suite_in_parts_of_any_size() {
    for (root, part_size) in [("", 64 * 1024), ("a/root", 1000), ("", 8 * 1024 * 1024)] {
        let store = Shared::new();
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
    let (one, other) = (bucket(&store, "", 1000), bucket(&store, "", 1000));
    for driver in [&one, &other] {
        driver.inner.conditional.store(false, Ordering::Relaxed);
    }
    let upload = Key::parse("u/data").unwrap();
    let mut append = one.append(&upload).await.unwrap();
    append.write(vec![1; 2500].into()).await.unwrap();
    append.sync().await.unwrap();
    let error = other.reopen(&upload).await.unwrap_err();
    assert!(error.is_transient(), "{error}");
    assert!(error.to_string().contains("one process"), "{error}");
    drop(append);
    assert_eq!(one.reopen(&upload).await.unwrap().size(), 2500);
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
