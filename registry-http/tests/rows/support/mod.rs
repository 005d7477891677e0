//! A registry in this process, and what is pushed to it
//!
//! With `REGISTRY_TEST_SERVICE=proxy` in the environment, all is asked of a proxy in front of the registry. These
//! then fail, for a proxy answers otherwise by design:
//!
//! - `behind_a_proxy` (those that configure or observe the registry, which nobody asks directly, and errors of
//!   the registry's own, which are 502), but for its tests of what a client sees;
//! - rows 019, 020, 090, 091, 097 and 099: what the upstream does not have is not there in the same words, whether
//!   its repository is there or not;
//! - row 051: a mount without a source is an upload, for the upstream would look where the caller may not;
//! - row Q08: lists come as the upstream sends them, which is not asked to compress;
//! - row Q13: whether a session exists is known only when its content is on its way.

mod client;
mod content;
mod http2;
mod login;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use futures::future::BoxFuture;
use registry_auth::{AllowAll, Anyone, Authenticator, Authorizer};
use registry_core::manifest::Limits;
use registry_http::{
    AccessControl, Builder, Observer, ProxyService, RegistryService, ServeOptions, Upstream,
    UpstreamOptions, serve,
};
use registry_storage::{FileSystem, Key, Memory, Objects, StorageError, Store};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;

pub(crate) use self::client::{Connection, Request, Response, eventually, in_time};
pub(crate) use self::content::{
    Blob, CONFIG, DOCKER_FOREIGN_LAYER, DOCKER_LIST, DOCKER_MANIFEST, INDEX, LAYER, MANIFEST,
    descriptor, docker_image, docker_list, image, index, noise, pretty, sha256, sha512,
};
pub(crate) use self::http2::Http2;
pub(crate) use self::login::{Login, Recorded, Rules, basic};

/// A digest that nothing has
pub(crate) const NOBODY: &str =
    "sha256:0000000000000000000000000000000000000000000000000000000000000000";

/// A session that never was
pub(crate) const NO_SESSION: &str = "8cd5b4e7-9b0f-4d3a-8f6c-2f5f6f0f0a11";

/// A registry that serves on a port of its own until the test is over
pub(crate) struct Registry {
    address: SocketAddr,
    objects: Arc<dyn Objects>,
    _folder: Option<TempDir>,
}

/// What a [`Registry`] is made of
pub(crate) struct Setup {
    authenticator: Arc<dyn Authenticator>,
    policy: Arc<dyn Authorizer>,
    limits: Option<Limits>,
    allow_delete: bool,
    on_disk: bool,
    configure: Box<dyn FnOnce(Builder) -> Builder>,
}

impl Setup {
    /// Whatever else the builder can do
    pub(crate) fn with(mut self, configure: impl FnOnce(Builder) -> Builder + 'static) -> Self {
        let before = self.configure;
        self.configure = Box::new(move |builder| configure(before(builder)));
        self
    }

    /// Who learns of every request
    pub(crate) fn observer(self, observer: Arc<dyn Observer>) -> Self {
        self.with(|builder| builder.observer(observer))
    }

    /// Who may ask, instead of anyone
    pub(crate) fn authenticator(mut self, authenticator: impl Authenticator) -> Self {
        self.authenticator = Arc::new(authenticator);
        self
    }

    /// Who may do what, instead of everyone everything
    pub(crate) fn policy(mut self, policy: impl Authorizer) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// What a manifest may be
    pub(crate) fn limits(mut self, limits: Limits) -> Self {
        self.limits = Some(limits);
        self
    }

    /// Without deletion
    pub(crate) fn keep_everything(mut self) -> Self {
        self.allow_delete = false;
        self
    }

    /// On a folder, whatever the other tests run on
    pub(crate) fn on_disk(mut self) -> Self {
        self.on_disk = true;
        self
    }

    pub(crate) async fn start(self) -> Registry {
        let (store, objects, folder): (_, Arc<dyn Objects>, _) = if self.on_disk {
            let folder = TempDir::new().unwrap();
            let driver = Arc::new(FileSystem::open(folder.path()).unwrap());
            (Store::new(driver.clone()), driver, Some(folder))
        } else {
            let driver = Arc::new(Memory::new());
            (Store::new(driver.clone()), driver, None)
        };
        // `REGISTRY_TEST_SERVICE=proxy` asks a proxy in front of the registry, which decides who may what.
        let proxied = std::env::var("REGISTRY_TEST_SERVICE").is_ok_and(|name| name == "proxy");
        let (open, decides): (Deciders, _) = match proxied {
            true => (
                (Arc::new(Anyone), Arc::new(AllowAll)),
                Some((self.authenticator, self.policy)),
            ),
            false => ((self.authenticator, self.policy), None),
        };
        let mut builder =
            RegistryService::builder(store, open.0, open.1).allow_delete(self.allow_delete);
        if let Some(limits) = self.limits {
            builder = builder.manifest_limits(limits);
        }
        let builder = (self.configure)(builder);
        let mut address = listen(builder.build()).await;
        if let Some((authenticator, policy)) = decides {
            let upstream = UpstreamOptions::new(format!("http://{address}"));
            let access = AccessControl::new(authenticator, policy);
            let proxy = ProxyService::builder(Upstream::new(upstream).unwrap(), access)
                .manifest_limits(self.limits.unwrap_or_default());
            address = listen(proxy.build()).await;
        }
        Registry {
            address,
            objects,
            _folder: folder,
        }
    }
}

/// Who says who asks, and who may
type Deciders = (Arc<dyn Authenticator>, Arc<dyn Authorizer>);

async fn listen<S>(service: S) -> SocketAddr
where
    S: hyper::service::Service<
            http::Request<hyper::body::Incoming>,
            Response = http::Response<registry_http::ResponseBody>,
            Error = std::convert::Infallible,
            Future: Send,
        > + Clone
        + Send
        + Sync
        + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let options = ServeOptions::default();
    tokio::spawn(serve(listener, service, options, std::future::pending()));
    address
}

/// An image that a repository has
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) digest: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) config: Blob,
    pub(crate) layer: Blob,
}

impl Registry {
    /// Open to everyone for everything
    pub(crate) async fn start() -> Self {
        Self::setup().start().await
    }

    pub(crate) fn setup() -> Setup {
        Setup {
            authenticator: Arc::new(Anyone),
            policy: Arc::new(AllowAll),
            limits: None,
            allow_delete: true,
            on_disk: std::env::var("REGISTRY_TEST_DRIVER").is_ok_and(|name| name == "filesystem"),
            configure: Box::new(|builder| builder),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.address).await
    }

    pub(crate) fn request(&self, method: &str, target: impl fmt::Display) -> Request {
        Request::new(self.address, method, target.to_string())
    }

    pub(crate) fn get(&self, target: impl fmt::Display) -> Request {
        self.request("GET", target)
    }

    pub(crate) fn head(&self, target: impl fmt::Display) -> Request {
        self.request("HEAD", target)
    }

    pub(crate) fn post(&self, target: impl fmt::Display) -> Request {
        self.request("POST", target)
    }

    pub(crate) fn put(&self, target: impl fmt::Display) -> Request {
        self.request("PUT", target)
    }

    pub(crate) fn patch(&self, target: impl fmt::Display) -> Request {
        self.request("PATCH", target)
    }

    pub(crate) fn delete(&self, target: impl fmt::Display) -> Request {
        self.request("DELETE", target)
    }

    /// Starts an upload session; returns its location
    pub(crate) async fn start_upload(&self, name: &str) -> String {
        self.post(format!("/v2/{name}/blobs/uploads/"))
            .send()
            .await
            .expect(202)
            .location()
    }

    /// Pushes a blob in two requests
    pub(crate) async fn push_blob(&self, name: &str, blob: &Blob) {
        let location = self.start_upload(name).await;
        self.put(format!("{location}?digest={}", blob.digest))
            .body(&blob.bytes)
            .send()
            .await
            .expect(201);
    }

    /// A request that pushes a manifest, for tests that look at the answer
    pub(crate) fn put_manifest(
        &self,
        name: &str,
        reference: impl fmt::Display,
        media_type: &str,
        bytes: &[u8],
    ) -> Request {
        self.put(format!("/v2/{name}/manifests/{reference}"))
            .header("Content-Type", media_type)
            .body(bytes)
    }

    /// Pushes a manifest of the type that it names; returns its bytes and its digest
    pub(crate) async fn push_manifest(
        &self,
        name: &str,
        reference: &str,
        manifest: &Value,
    ) -> (String, Vec<u8>) {
        let bytes = pretty(manifest);
        let media_type = manifest["mediaType"].as_str().unwrap();
        let response = self
            .put_manifest(name, reference, media_type, &bytes)
            .send()
            .await
            .expect(201);
        (response.header("Docker-Content-Digest").to_owned(), bytes)
    }

    /// Pushes an image whose content depends on `seed`
    pub(crate) async fn push_image(&self, name: &str, tag: &str, seed: &str) -> Image {
        let config = Blob::new(format!(
            r#"{{"architecture":"amd64","os":"linux","seed":"{seed}"}}"#
        ));
        let layer = Blob::new(noise(seed, 5000));
        self.push_blob(name, &config).await;
        self.push_blob(name, &layer).await;
        let (digest, bytes) = self
            .push_manifest(name, tag, &image(&config, &[&layer]))
            .await;
        assert_eq!(digest, sha256(&bytes));
        Image {
            digest,
            bytes,
            config,
            layer,
        }
    }

    /// Pushes an image without layers that refers to `subject`; returns its digest
    pub(crate) async fn push_referrer(
        &self,
        name: &str,
        subject: &Value,
        artifact_type: &str,
    ) -> (String, Vec<u8>) {
        let config = Blob::empty();
        self.push_blob(name, &config).await;
        let mut manifest = image(&config, &[]);
        manifest["artifactType"] = artifact_type.into();
        manifest["subject"] = subject.clone();
        let bytes = pretty(&manifest);
        let digest = sha256(&bytes);
        self.put_manifest(name, &digest, MANIFEST, &bytes)
            .send()
            .await
            .expect(201);
        (digest, bytes)
    }

    /// Tags of a repository, in the order of the list
    pub(crate) async fn tags(&self, name: &str) -> Vec<String> {
        let response = self.get(format!("/v2/{name}/tags/list")).send().await;
        strings(&response.expect(200).json()["tags"])
    }

    /// Writes an object behind the registry's back
    pub(crate) async fn plant(&self, key: &str, bytes: impl Into<bytes::Bytes>) {
        let key = Key::parse(key).unwrap();
        self.objects.write(&key, bytes.into()).await.unwrap();
    }

    /// Removes a folder behind the registry's back
    pub(crate) async fn uproot(&self, folder: &str) {
        let folder = Key::parse(folder).unwrap();
        self.objects.delete_tree(&folder).await.unwrap();
    }

    /// All that is stored but for running uploads: the length of each object by its key
    pub(crate) async fn content(&self) -> BTreeMap<String, u64> {
        let mut everything = self.everything().await;
        everything.retain(|key, _| !key.contains("/_uploads/") && !key.starts_with("_tmp/"));
        everything
    }

    /// All that is stored
    pub(crate) async fn everything(&self) -> BTreeMap<String, u64> {
        let mut found = BTreeMap::new();
        walk(&*self.objects, None, &mut found).await;
        found
    }
}

/// The strings of a JSON array
pub(crate) fn strings(array: &Value) -> Vec<String> {
    let array = array
        .as_array()
        .unwrap_or_else(|| panic!("no array: {array}"));
    array
        .iter()
        .map(|value| value.as_str().unwrap().to_owned())
        .collect()
}

fn walk<'a>(
    objects: &'a dyn Objects,
    folder: Option<String>,
    found: &'a mut BTreeMap<String, u64>,
) -> BoxFuture<'a, ()> {
    Box::pin(async move {
        let key = folder.as_deref().map(|folder| Key::parse(folder).unwrap());
        let entries = match objects.list(key.as_ref(), None, usize::MAX).await {
            Ok(entries) => entries,
            Err(StorageError::NotFound { .. }) => return,
            Err(error) => panic!("{error}"),
        };
        for entry in entries {
            let path = match &folder {
                Some(folder) => format!("{folder}/{}", entry.name),
                None => entry.name,
            };
            if entry.is_dir {
                walk(objects, Some(path), found).await;
            } else if let Ok(stat) = objects.stat(&Key::parse(&path).unwrap()).await {
                found.insert(path, stat.size);
            }
        }
    })
}
