//! The service: from a request to its response, one step after the other

use std::borrow::Cow;
use std::convert::Infallible;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body::Body;
use ipnet::IpNet;
use registry_auth::{Access, Authenticator, Authorizer};
use registry_core::manifest::Limits;
use registry_core::upload::UploadId;
use registry_core::{Digest, Manifest, Operation, RepositoryName, route};
use registry_storage::{Memory, Store};
use tracing::{Instrument, Span};

use crate::access::{AccessControl, Asked, Caller};
use crate::access_log::{Observer, Recorder};
use crate::body::ResponseBody;
use crate::events::{Events, Reporter};
use crate::forwarded::{self, Client};
use crate::location::{self, Locations, Prefix, Root};
use crate::manifest_urls::ManifestUrls;
use crate::readiness::Readiness;
use crate::redirect::{BlobRedirect, Redirects, WantedBlob};
use crate::reply::{API_VERSION, Reply};
use crate::request_body::RequestBody;
use crate::request_id::{RequestId, X_REQUEST_ID};
use crate::respond::{Cause, Failure};
use crate::response_headers::ResponseHeaders;
use crate::sendfile::TakesFiles;
use crate::{blobs, lists, manifests, uploads};

/// How many repositories the catalog lists at most at once; a `Link` leads to the rest
const CATALOG_LIMIT: NonZeroUsize = NonZeroUsize::new(1000).expect("1000 is not 0");

/// How long a client may send nothing in the middle of a body
///
/// Long enough for a push over a link that drops out and comes back, short enough that the
/// session's lock is free again when the client tries anew.
const BODY_PATIENCE: Duration = Duration::from_secs(5 * 60);

/// A container registry, as a service for hyper and for tower
///
/// Cheap to clone; all clones are one registry. It needs a tokio runtime with timers. See the
/// [crate]'s first page for an example.
///
/// What changes the store runs to its end even when the client goes away: an upload keeps what
/// arrived, and nothing is left half done.
#[derive(Clone)]
pub struct RegistryService {
    inner: Arc<Inner>,
}

impl RegistryService {
    /// A registry on `store`, in which `authenticator` says who asks and `authorizer` who may
    pub fn builder(
        store: Store,
        authenticator: Arc<dyn Authenticator>,
        authorizer: Arc<dyn Authorizer>,
    ) -> Builder {
        Self::with_access(store, AccessControl::new(authenticator, authorizer))
    }

    /// A registry on `store`, to which `access` lets people
    pub fn with_access(store: Store, access: AccessControl) -> Builder {
        Builder {
            locations: Locations::default(),
            inner: Inner {
                store,
                nothing: Store::new(Arc::new(Memory::new())),
                access,
                limits: Limits::default(),
                allow_delete: true,
                body_patience: BODY_PATIENCE,
                observer: None,
                trusted_proxies: forwarded::loopback(),
                prefix: Prefix::default(),
                root: Root::new(&Locations::default(), &Prefix::default()),
                response_headers: ResponseHeaders::default(),
                read_only: false,
                catalog_limit: CATALOG_LIMIT.get(),
                manifest_urls: None,
                readiness: Readiness::default(),
                events: None,
                redirects: None,
            },
        }
    }

    /// Answers a request, whichever kind of service this is used as
    fn answer<B>(
        &self,
        request: Request<B>,
    ) -> BoxFuture<'static, Result<Response<ResponseBody>, Infallible>>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (mut parts, body) = request.into_parts();
        let mut body = RequestBody::new(&parts, body, self.inner.body_patience);
        let inner = self.inner.clone();
        // Request and body stay where they are and are lent on the way in: each future that
        // takes them has room for them twice.
        Box::pin(async move { Ok(inner.handle(&mut parts, &mut body).await) })
    }
}

crate::http_service::http_service!(RegistryService);

impl fmt::Debug for RegistryService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryService")
            .field("access", &self.inner.access)
            .field("store", &self.inner.store)
            .finish_non_exhaustive()
    }
}

/// What a [`RegistryService`] is made of
#[must_use]
pub struct Builder {
    inner: Inner,
    locations: Locations,
}

impl Builder {
    /// What a manifest may be; by default 4 MiB, which is what clients read
    pub fn manifest_limits(mut self, limits: Limits) -> Self {
        self.inner.limits = limits;
        self
    }

    /// Whether blobs, manifests and tags can be deleted by those whom the policy lets; by
    /// default they can
    pub fn allow_delete(mut self, allow: bool) -> Self {
        self.inner.allow_delete = allow;
        self
    }

    /// How long a client may send nothing in the middle of a body; by default five minutes
    pub fn body_patience(mut self, patience: Duration) -> Self {
        self.inner.body_patience = patience;
        self
    }

    /// Who learns of every request; by default nobody
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.inner.observer = Some(observer);
        self
    }

    /// From where `X-Forwarded-For`, `-Proto` and `-Host`, `X-Real-IP` and `Forwarded`
    /// (RFC 7239) are believed; by default from this machine's loopback addresses
    ///
    /// The client's address is then the rightmost one in the list that is not in these
    /// networks. Whoever connects over a Unix socket ([`UnixPeer`](crate::UnixPeer)) is always
    /// believed. A proxy that writes `Forwarded` must remove the headers that start with `X`,
    /// for those go first.
    pub fn trusted_proxies(mut self, networks: Vec<IpNet>) -> Self {
        self.inner.trusted_proxies = networks;
        self
    }

    /// Under which path the API is, such as `/docker/`; by default directly under `/`
    ///
    /// Only `/`, where load balancers look, is answered outside of it.
    pub fn prefix(mut self, prefix: Prefix) -> Self {
        self.inner.prefix = prefix;
        self
    }

    /// How `Location` and `Link` name their target; by default by path
    pub fn locations(mut self, locations: Locations) -> Self {
        self.locations = locations;
        self
    }

    /// What is added to every response; by default nothing
    pub fn response_headers(mut self, headers: ResponseHeaders) -> Self {
        self.inner.response_headers = headers;
        self
    }

    /// Whether everything that changes content is refused, with 405 and a message that says so;
    /// by default it is not
    ///
    /// For maintenance, such as copying the storage or collecting garbage in it.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.inner.read_only = read_only;
        self
    }

    /// How many repositories the catalog lists at once, whatever the client asks for; by
    /// default 1000
    ///
    /// Who asks for more gets that many and a `Link` to the rest.
    pub fn catalog_limit(mut self, limit: NonZeroUsize) -> Self {
        self.inner.catalog_limit = limit.get();
        self
    }

    /// Which addresses layers may name; by default any
    pub fn manifest_urls(mut self, urls: ManifestUrls) -> Self {
        self.inner.manifest_urls = Some(urls);
        self
    }

    /// Whether requests are wanted; by default always
    ///
    /// It answers `/livez` and `/readyz`, and while a health check fails all requests are
    /// refused: see [`Readiness`].
    pub fn readiness(mut self, readiness: Readiness) -> Self {
        self.inner.readiness = readiness;
        self
    }

    /// Who learns of every pull, push, mount and deletion; by default nobody
    pub fn events(mut self, events: Events) -> Self {
        self.inner.events = Some(events);
        self
    }

    /// Who knows where else clients can get blobs; by default nobody
    ///
    /// They are then sent there with 307, once it is known that they may read the blob and that
    /// it is there.
    pub fn redirects(mut self, redirects: Arc<dyn BlobRedirect>) -> Self {
        self.inner.redirects = Some(Redirects::new(redirects));
        self
    }

    /// The service
    pub fn build(mut self) -> RegistryService {
        self.inner.root = Root::new(&self.locations, &self.inner.prefix);
        RegistryService {
            inner: Arc::new(self.inner),
        }
    }
}

impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").finish_non_exhaustive()
    }
}

struct Inner {
    store: Store,
    /// Has nothing and gets nothing: what may not be seen is looked for in it
    nothing: Store,
    access: AccessControl,
    limits: Limits,
    allow_delete: bool,
    body_patience: Duration,
    observer: Option<Arc<dyn Observer>>,
    trusted_proxies: Vec<IpNet>,
    prefix: Prefix,
    /// What prefix and locations come to
    root: Root,
    response_headers: ResponseHeaders,
    read_only: bool,
    catalog_limit: usize,
    manifest_urls: Option<ManifestUrls>,
    readiness: Readiness,
    events: Option<Events>,
    redirects: Option<Redirects>,
}

impl Inner {
    async fn handle(
        self: &Arc<Self>,
        parts: &mut Parts,
        body: &mut RequestBody,
    ) -> Response<ResponseBody> {
        let id = RequestId::of(&parts.headers);
        // Of the highest level: where only errors are logged, they are to have the name too.
        let span = tracing::error_span!("request", %id);
        let handled = self.handle_named(parts, body, &id);
        let response = handled.instrument(span.clone()).await;
        // What goes wrong while the content is sent belongs to the request too.
        response.map(|body| body.in_span(span))
    }

    async fn handle_named(
        self: &Arc<Self>,
        parts: &mut Parts,
        body: &mut RequestBody,
        id: &RequestId,
    ) -> Response<ResponseBody> {
        let client = Client::of(parts, &self.trusted_proxies);
        let mut recorder = self.observer.as_ref().map(|observer| {
            let observer = observer.clone();
            Box::new(Recorder::begin(
                observer,
                parts,
                client.address,
                id.clone(),
                body.received(),
            ))
        });
        let head = parts.method == Method::HEAD;
        let root = match self.root.of(&client, parts) {
            Cow::Borrowed("") => None,
            root => Some(root.into_owned()),
        };
        parts.extensions.insert(id.clone());
        let responded = self
            .respond(parts, body, &client, id, recorder.as_deref_mut())
            .await;
        let mut response = match responded {
            Ok(response) => response,
            Err(failure) => failure.respond(id),
        };
        let headers = response.headers_mut();
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        if let Some(id) = id.value() {
            headers.insert(X_REQUEST_ID, id);
        }
        if let Some(root) = &root {
            location::place(headers, root);
        }
        self.response_headers.add_to(headers);
        set_length(&mut response, head);
        if let Some(recorder) = &mut recorder {
            recorder.status(response.status());
        }
        response.map(|body| body.recorded(recorder))
    }

    async fn respond(
        self: &Arc<Self>,
        parts: &mut Parts,
        body: &mut RequestBody,
        client: &Client,
        id: &RequestId,
        mut recorder: Option<&mut Recorder>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        if reads && let Some(answer) = self.readiness.probe(parts.uri.path()) {
            return Ok(answer);
        }
        // Where load balancers ask whether anybody is there.
        if reads && parts.uri.path() == "/" && !self.readiness.is_failing() {
            return Ok(Reply::new(StatusCode::OK).empty());
        }
        let Some(path) = self.prefix.strip(parts.uri.path()) else {
            let prefix = self.prefix.clone();
            return Err(Cause::OutsidePrefix { prefix }.into());
        };
        if reads && matches!(path, "" | "/") && !self.readiness.is_failing() {
            return Ok(Reply::new(StatusCode::OK).empty());
        }
        let operation = route(parts.method.as_str(), path, parts.uri.query());
        if let (Some(recorder), Ok(operation)) = (&mut recorder, &operation) {
            recorder.operation(operation.label());
        }
        if self.readiness.is_failing() {
            return Err(Cause::Unhealthy.into());
        }
        let operation = operation?;
        let asked = Asked {
            parts,
            client,
            id,
            operation: &operation,
        };
        let caller = self.access.identify(&asked).await?;
        if let Some(recorder) = &mut recorder {
            recorder.user(caller.principal.name());
        }
        let hidden = match self.access.authorize(&asked, &caller).await {
            // A repository that is nowhere answers for it, so that the two cannot differ.
            Err(failure) if failure.is_hidden() => true,
            authorized => {
                authorized?;
                false
            }
        };
        if self.read_only
            && let Some(allow) = left_without_writing(&operation)
        {
            return Err(Cause::ReadOnly { allow }.into());
        }
        let principal = &caller.principal;
        let events = Reporter::of(self.events.as_ref(), parts, principal, client, &self.root);
        let call = Call {
            client: client.address,
            events,
            head: parts.method == Method::HEAD,
            takes_files: parts.extensions.get::<TakesFiles>().is_some(),
            headers: std::mem::take(&mut parts.headers),
            hidden,
            inner: self.clone(),
            caller,
        };
        match reads {
            true => perform(&call, body, &operation).await,
            false => {
                perform_to_the_end(call, body.take(), operation)
                    .boxed()
                    .await
            }
        }
    }
}

/// A request that was let in, and what its handler needs
pub(crate) struct Call {
    inner: Arc<Inner>,
    caller: Caller,
    /// Whether what the operation is about may not be seen
    hidden: bool,
    /// The address of the client, if it is known
    client: Option<IpAddr>,
    pub(crate) events: Reporter,
    pub(crate) head: bool,
    pub(crate) headers: HeaderMap,
    /// Whether the connection can send files
    pub(crate) takes_files: bool,
}

impl Call {
    pub(crate) fn store(&self) -> &Store {
        match self.hidden {
            true => &self.inner.nothing,
            false => &self.inner.store,
        }
    }

    /// Whether blobs may be elsewhere
    pub(crate) fn redirects(&self) -> bool {
        self.inner.redirects.is_some()
    }

    /// Where else the caller can get a blob that is in the repository
    pub(crate) async fn redirect(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        size: u64,
    ) -> Option<Uri> {
        let redirects = self.inner.redirects.as_ref()?;
        let blob = WantedBlob {
            name,
            digest,
            size,
            client: self.client,
        };
        redirects.location(&blob).await
    }

    /// The path of an upload, with what the caller needs to go on with it
    pub(crate) fn upload_path(&self, name: &RepositoryName, id: &UploadId) -> String {
        match self.inner.access.seal(&self.caller, name, id) {
            Some(seal) => format!("/v2/{name}/blobs/uploads/{id}?{seal}"),
            None => format!("/v2/{name}/blobs/uploads/{id}"),
        }
    }

    pub(crate) fn manifest_limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn catalog_limit(&self) -> usize {
        self.inner.catalog_limit
    }

    /// Refuses a manifest whose layers are where this registry sends nobody
    pub(crate) fn check_urls(&self, manifest: &Manifest) -> Result<(), Failure> {
        if let Some(urls) = &self.inner.manifest_urls {
            urls.check(manifest)?;
        }
        Ok(())
    }

    pub(crate) fn body_patience(&self) -> Duration {
        self.inner.body_patience
    }

    /// Whether the caller may do something besides what the operation needs
    ///
    /// What cannot be known now is a no: nothing asked here is needed.
    pub(crate) async fn allows(&self, access: &Access) -> bool {
        self.inner.access.allows(&self.caller, access).await
    }

    /// Refuses a deletion where there are none; `allow` lists the methods that are left
    pub(crate) fn require_delete(&self, allow: &'static str) -> Result<(), Failure> {
        match self.inner.allow_delete {
            true => Ok(()),
            false => Err(Cause::DeleteDisabled { allow }.into()),
        }
    }
}

/// The methods that are left of a path when nothing may be changed, if the operation would
///
/// None at all is a list too (RFC 9110, section 10.2.1): of a path that is switched off for now.
fn left_without_writing(operation: &Operation) -> Option<&'static str> {
    match operation {
        Operation::StartUpload { .. } => Some(""),
        Operation::CancelUpload { .. }
        | Operation::CompleteUpload { .. }
        | Operation::DeleteBlob { .. }
        | Operation::DeleteManifest { .. }
        | Operation::PutManifest { .. }
        | Operation::UploadChunk { .. } => Some("GET, HEAD"),
        Operation::Catalog { .. }
        | Operation::GetBlob { .. }
        | Operation::GetManifest { .. }
        | Operation::ListReferrers { .. }
        | Operation::ListTags { .. }
        | Operation::Ping
        | Operation::UploadStatus { .. } => None,
        // Of what a newer core knows, it is not known what it changes.
        _ => Some(""),
    }
}

/// Performs what changes the store, whether its client waits for the answer or not
///
/// hyper drops the future of a request when its client goes away. A task of its own goes on, and
/// ends what it began.
async fn perform_to_the_end(
    call: Call,
    body: RequestBody,
    operation: Operation,
) -> Result<Response<ResponseBody>, Failure> {
    let performed = async move {
        let mut body = body;
        perform(&call, &mut body, &operation).await
    };
    match tokio::spawn(performed.instrument(Span::current())).await {
        Ok(result) => result,
        Err(_) => Err(Cause::Panicked.into()),
    }
}

/// Only what pulls do many times a second has room in this future; the rest has its own
async fn perform(
    call: &Call,
    body: &mut RequestBody,
    operation: &Operation,
) -> Result<Response<ResponseBody>, Failure> {
    match operation {
        Operation::GetBlob { name, digest } => blobs::get(call, name, digest).await,
        Operation::GetManifest { name, reference } => manifests::get(call, name, reference).await,
        Operation::Ping => Ok(Reply::new(StatusCode::OK)
            .value(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/json"),
            )
            .body("{}")),
        Operation::Catalog { page } => lists::repositories(call, page).boxed().await,
        Operation::ListReferrers {
            name,
            digest,
            artifact_type,
            page,
        } => {
            lists::referrers(call, name, digest, artifact_type.as_deref(), page)
                .boxed()
                .await
        }
        Operation::ListTags { name, page } => lists::tags(call, name, page).boxed().await,
        Operation::CancelUpload { name, id } => uploads::cancel(call, name, id).boxed().await,
        Operation::CompleteUpload { name, id, digest } => {
            uploads::complete(call, body, name, id, digest)
                .boxed()
                .await
        }
        Operation::DeleteBlob { name, digest } => blobs::delete(call, name, digest).boxed().await,
        Operation::DeleteManifest { name, reference } => {
            manifests::delete(call, name, reference).boxed().await
        }
        Operation::PutManifest {
            name,
            reference,
            tags,
        } => {
            manifests::put(call, body, name, reference, tags)
                .boxed()
                .await
        }
        Operation::StartUpload { name, start } => {
            uploads::start(call, body, name, start).boxed().await
        }
        Operation::UploadChunk { name, id } => uploads::chunk(call, body, name, id).boxed().await,
        Operation::UploadStatus { name, id } => uploads::status(call, name, id).boxed().await,
        // The router of a newer core knows more than this table.
        _ => Err(registry_core::RouteError::NoSuchPath.into()),
    }
}

/// Says how long the content is; with the answer to a `HEAD`, instead of sending it
pub(crate) fn set_length(response: &mut Response<ResponseBody>, head: bool) {
    let has_content = !matches!(
        response.status(),
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if has_content
        && !response.headers().contains_key(header::CONTENT_LENGTH)
        && let Some(length) = response.body().remaining()
    {
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    if head {
        *response.body_mut() = ResponseBody::default();
    }
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::sync::Mutex;

    use http_body_util::{BodyExt, Empty};
    use registry_auth::{
        AllowAll, Anyone, AuthenticateError, ChallengeReason, Credentials, Principal,
    };

    use super::*;
    use crate::access_log::AccessRecord;

    #[derive(Default)]
    struct Lines(Mutex<Vec<AccessRecord>>);

    impl Observer for Lines {
        fn finished(&self, record: &AccessRecord) {
            self.0.lock().unwrap().push(record.clone());
        }
    }

    fn request(method: &str, target: &str) -> Request<Empty<Bytes>> {
        Request::builder()
            .method(method)
            .uri(target)
            .body(Empty::new())
            .unwrap()
    }

    #[tokio::test]
    async fn a_request_is_recorded_when_its_body_has_ended() {
        let lines = Arc::new(Lines::default());
        let store = Store::new(Arc::new(Memory::new()));
        let service = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll))
            .observer(lines.clone())
            .build();

        let response = service.answer(request("GET", "/v2/")).await.unwrap();
        assert!(lines.0.lock().unwrap().is_empty());
        assert_eq!(response.collect().await.unwrap().to_bytes(), "{}");

        let response = service.answer(request("HEAD", "/v2/")).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_LENGTH], "2");
        drop(response);
        // The client is gone before the body was sent.
        drop(service.answer(request("GET", "/v2/nobody")).await.unwrap());

        let facts: Vec<_> = std::mem::take(&mut *lines.0.lock().unwrap())
            .iter()
            .map(|line| {
                let status = line.status.as_u16();
                (status, line.bytes, line.complete, line.operation)
            })
            .collect();
        assert_eq!(
            facts,
            [
                (200, 2, true, Some("ping")),
                (200, 0, true, Some("ping")),
                (404, 0, false, None),
            ]
        );
    }

    #[derive(Debug)]
    struct Undecided;

    impl Authenticator for Undecided {
        fn authenticate<'a, 'b, 'c>(
            &'a self,
            _: &'b Credentials,
        ) -> Pin<Box<dyn Future<Output = Result<Principal, AuthenticateError>> + Send + 'c>>
        where
            'a: 'c,
            'b: 'c,
            Self: 'c,
        {
            Box::pin(std::future::pending())
        }

        fn challenge(&self, _: &[Access], _: ChallengeReason) -> Option<String> {
            None
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_wait_is_recorded_as_gone() {
        let lines = Arc::new(Lines::default());
        let store = Store::new(Arc::new(Memory::new()));
        let service = RegistryService::builder(store, Arc::new(Undecided), Arc::new(AllowAll))
            .observer(lines.clone())
            .build();
        let mut future = service.answer(request("GET", "/v2/"));
        assert!(futures::poll!(&mut future).is_pending());
        drop(future);
        assert_eq!(lines.0.lock().unwrap()[0].status.as_u16(), 499);
    }

    /// Each request copies its future a few times on its way in, and lets the allocator find room
    /// for it: what only some requests need has a future of its own.
    #[tokio::test]
    async fn the_futures_are_small() {
        assert_eq!(size_of::<RegistryService>(), size_of::<usize>());
        assert!(size_of::<Result<Response<ResponseBody>, Failure>>() <= 160);

        let store = Store::new(Arc::new(Memory::new()));
        let (name, digest) = ("a".parse().unwrap(), Digest::sha256(b""));
        let reference = digest.into();
        let service = RegistryService::builder(store.clone(), Arc::new(Anyone), Arc::new(AllowAll));
        let (service, request) = (service.build(), request("GET", "/v2/"));
        let (parts, _) = request.clone().into_parts();
        let (id, client) = (RequestId::of(&parts.headers), Client::default());
        let asked = Asked {
            parts: &parts,
            client: &client,
            id: &id,
            operation: &Operation::Ping,
        };
        let access = &service.inner.access;
        let caller = access.identify(&asked).await.unwrap();
        for (what, size, most) in [
            ("identify", size_of_val(&access.identify(&asked)), 400),
            (
                "authorize",
                size_of_val(&access.authorize(&asked, &caller)),
                288,
            ),
            (
                "manifest",
                size_of_val(&store.manifest(&name, &reference)),
                496,
            ),
            (
                "stat_blob",
                size_of_val(&store.stat_blob(&name, &digest)),
                176,
            ),
            (
                "open_blob",
                size_of_val(&store.open_blob(&name, &digest, None)),
                224,
            ),
            ("the whole", size_of_val(&*service.answer(request)), 1984),
        ] {
            assert!(size <= most, "{what} has {size} bytes, more than {most}");
        }
    }
}
