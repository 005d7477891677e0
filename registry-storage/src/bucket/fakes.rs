//! Stores in memory that behave as stores on a network do

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use object_store::list::{PaginatedListOptions, PaginatedListResult, PaginatedListStore};
use object_store::memory::InMemory;
use object_store::multipart::PartId;
use object_store::{ListResult, ObjectStore, PutResult};

use super::*;

/// Lists as S3 does: in the order of keys, in pages
#[derive(Debug)]
pub(super) struct Lists {
    pub(super) store: Arc<InMemory>,
    pub(super) page: usize,
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
pub(super) struct Parts {
    pub(super) store: Arc<InMemory>,
    /// Takes parts as Azure does, for a key
    pub(super) by_key: bool,
    uploads: Mutex<HashMap<String, Sent>>,
}

/// The parts of one upload, by number
pub(super) type Sent = BTreeMap<usize, (String, PutPayload)>;

pub(super) fn no_such_upload(path: &Path) -> object_store::Error {
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
pub(super) struct Shared {
    pub(super) store: Arc<InMemory>,
    pub(super) parts: Arc<Parts>,
}

impl Shared {
    pub(super) fn new() -> Self {
        Self::with_parts(false)
    }

    pub(super) fn with_parts(by_key: bool) -> Self {
        let store = Arc::new(InMemory::new());
        let parts = Arc::new(Parts {
            store: store.clone(),
            by_key,
            uploads: Mutex::default(),
        });
        Self { store, parts }
    }

    pub(super) fn multipart_uploads(&self) -> usize {
        self.parts.uploads.lock().unwrap().len()
    }
}

/// Stands between the driver and a store: counts calls, and lets some go wrong
#[derive(Debug)]
pub(super) struct Between {
    pub(super) store: Arc<InMemory>,
    pub(super) parts: Arc<Parts>,
    calls: Mutex<BTreeMap<&'static str, usize>>,
    /// One in so many calls goes wrong; none if it is 0
    pub(super) rarity: AtomicU64,
    chance: AtomicU64,
    /// Whether it takes no notice of the conditions of a write
    pub(super) careless: AtomicBool,
}

impl std::fmt::Display for Between {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Between")
    }
}

impl Between {
    pub(super) fn new(seed: u64, rarity: u64) -> Arc<Self> {
        let Shared { store, parts } = Shared::with_parts(seed.is_multiple_of(2));
        Arc::new(Self {
            store,
            parts,
            calls: Mutex::default(),
            rarity: AtomicU64::new(rarity),
            chance: AtomicU64::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1),
            careless: AtomicBool::new(false),
        })
    }

    pub(super) fn bucket(self: &Arc<Self>, part_size: u64) -> Bucket {
        let faces = Faces {
            objects: self.clone(),
            multipart: self.clone(),
            lists: self.clone(),
            signer: None,
            parts_by_key: self.parts.by_key,
            s3: None,
        };
        let options = BucketOptions {
            part_size,
            ..BucketOptions::default()
        };
        Bucket::of_any_size(faces, options).unwrap()
    }

    pub(super) fn roll(&self, sides: u64) -> u64 {
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

    pub(super) fn take_calls(&self) -> BTreeMap<&'static str, usize> {
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
        let options = match self.careless.load(Ordering::Relaxed) {
            true => PutOptions::default(),
            false => options,
        };
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
