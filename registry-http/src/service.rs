//! The service: from a request to its response, one step after the other

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http::request::Parts;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body::Body;
use registry_auth::{Access, AuthenticateError, Authenticator, Credentials, Policy, Principal};
use registry_core::manifest::Limits;
use registry_core::{Operation, route};
use registry_storage::Store;

use crate::access_log::{Observer, Recorder};
use crate::body::ResponseBody;
use crate::credentials::credentials;
use crate::events::{Events, Reporter};
use crate::request_body::RequestBody;
use crate::respond::{API_VERSION, Cause, Failure, Reply, set};
use crate::{blobs, lists, manifests, uploads};

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
    /// A registry on `store`, in which `authenticator` says who asks and `policy` who may
    pub fn builder(
        store: Store,
        authenticator: Arc<dyn Authenticator>,
        policy: Arc<dyn Policy>,
    ) -> Builder {
        Builder {
            inner: Inner {
                store,
                authenticator,
                policy,
                limits: Limits::default(),
                allow_delete: true,
                body_patience: BODY_PATIENCE,
                observer: None,
                events: None,
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
        let (parts, body) = request.into_parts();
        let body = RequestBody::new(&parts, body, self.inner.body_patience);
        let inner = self.inner.clone();
        Box::pin(async move { Ok(inner.handle(parts, body).await) })
    }
}

impl<B> hyper::service::Service<Request<B>> for RegistryService
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn call(&self, request: Request<B>) -> Self::Future {
        self.answer(request)
    }
}

impl<B> tower_service::Service<Request<B>> for RegistryService
where
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    type Response = Response<ResponseBody>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.answer(request)
    }
}

impl fmt::Debug for RegistryService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistryService")
            .field("authenticator", &self.inner.authenticator)
            .field("policy", &self.inner.policy)
            .field("store", &self.inner.store)
            .finish_non_exhaustive()
    }
}

/// What a [`RegistryService`] is made of
#[must_use]
pub struct Builder {
    inner: Inner,
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

    /// Who learns of every pull, push, mount and deletion; by default nobody
    pub fn events(mut self, events: Events) -> Self {
        self.inner.events = Some(events);
        self
    }

    /// The service
    pub fn build(self) -> RegistryService {
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
    authenticator: Arc<dyn Authenticator>,
    policy: Arc<dyn Policy>,
    limits: Limits,
    allow_delete: bool,
    body_patience: Duration,
    observer: Option<Arc<dyn Observer>>,
    events: Option<Events>,
}

impl Inner {
    async fn handle(self: Arc<Self>, parts: Parts, body: RequestBody) -> Response<ResponseBody> {
        let mut recorder = self
            .observer
            .as_ref()
            .map(|observer| Box::new(Recorder::begin(observer.clone(), &parts)));
        let head = parts.method == Method::HEAD;
        let mut response = match self.respond(parts, body, recorder.as_deref_mut()).await {
            Ok(response) => response,
            Err(failure) => failure.respond(),
        };
        set(response.headers_mut(), API_VERSION, "registry/2.0");
        set_length(&mut response, head);
        if let Some(recorder) = &mut recorder {
            recorder.status(response.status());
        }
        response.map(|body| body.recorded(recorder))
    }

    async fn respond(
        self: Arc<Self>,
        parts: Parts,
        body: RequestBody,
        mut recorder: Option<&mut Recorder>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let reads = matches!(parts.method, Method::GET | Method::HEAD);
        if reads && parts.uri.path() == "/" {
            // Where load balancers ask whether anybody is there.
            return Ok(Reply::new(StatusCode::OK).empty());
        }
        let operation = route(parts.method.as_str(), parts.uri.path(), parts.uri.query())?;
        if let Some(recorder) = &mut recorder {
            recorder.operation(operation.label());
        }
        let principal = self.identify(&parts.headers, &operation).await?;
        if let Some(recorder) = &mut recorder {
            recorder.user(principal.name());
        }
        self.authorize(&principal, &operation)?;
        let events = Reporter::of(self.events.as_ref(), &parts, &principal);
        let call = Call {
            events,
            head: parts.method == Method::HEAD,
            headers: parts.headers,
            inner: self,
            principal,
        };
        if reads {
            return perform(call, body, operation).await;
        }
        // hyper drops the future of a request when its client goes away. A task of its own
        // goes on, and ends what it began.
        match tokio::spawn(perform(call, body, operation)).await {
            Ok(result) => result,
            Err(_) => Err(Cause::Panicked.into()),
        }
    }

    async fn identify(
        &self,
        headers: &HeaderMap,
        operation: &Operation,
    ) -> Result<Principal, Failure> {
        let challenge = || self.authenticator.challenge(&operation.access());
        let credentials = match credentials(headers) {
            Ok(credentials) => credentials,
            Err(_) => match challenge() {
                Some(challenge) => {
                    return Err(Cause::Unauthenticated {
                        reason: "expected `Authorization: Basic` or `Bearer` with credentials, something else came".to_owned(),
                        challenge,
                    }
                    .into());
                }
                // Where no credentials are ever asked for, it does not matter which came.
                None => Credentials::None,
            },
        };
        let principal = match self.authenticator.authenticate(&credentials).await {
            Ok(principal) => principal,
            Err(error @ AuthenticateError::Unavailable { retry_after }) => {
                return Err(Cause::Unidentified { error, retry_after }.into());
            }
            Err(error) => {
                let reason = error.to_string();
                return Err(match challenge() {
                    Some(challenge) => Cause::Unauthenticated { reason, challenge },
                    None => Cause::Denied { reason },
                }
                .into());
            }
        };
        // docker and podman learn here, and nowhere else, that there is something to log in
        // to. Whoever brought credentials has learnt it, be they those of an anonymous token.
        if *operation == Operation::Ping
            && principal == Principal::Anonymous
            && credentials == Credentials::None
            && let Some(challenge) = challenge()
        {
            return Err(Cause::Unauthenticated {
                reason: "log in to use this registry".to_owned(),
                challenge,
            }
            .into());
        }
        Ok(principal)
    }

    fn authorize(&self, principal: &Principal, operation: &Operation) -> Result<(), Failure> {
        let needed = operation.access();
        for access in &needed {
            let decision = self.policy.decide(principal, access);
            if decision.is_allow() {
                continue;
            }
            tracing::debug!(%principal, %access, rule = decision.rule(), "denied");
            let reason = decision.reason().to_owned();
            let challenge = (*principal == Principal::Anonymous)
                .then(|| self.authenticator.challenge(&needed))
                .flatten();
            return Err(match challenge {
                Some(challenge) => Cause::Unauthenticated { reason, challenge },
                None => Cause::Denied { reason },
            }
            .into());
        }
        Ok(())
    }
}

/// A request that was let in, and what its handler needs
pub(crate) struct Call {
    inner: Arc<Inner>,
    principal: Principal,
    pub(crate) events: Reporter,
    pub(crate) head: bool,
    pub(crate) headers: HeaderMap,
}

impl Call {
    pub(crate) fn store(&self) -> &Store {
        &self.inner.store
    }

    pub(crate) fn manifest_limits(&self) -> &Limits {
        &self.inner.limits
    }

    pub(crate) fn body_patience(&self) -> Duration {
        self.inner.body_patience
    }

    /// Whether the caller may do something besides what the operation needs
    pub(crate) fn allows(&self, access: &Access) -> bool {
        self.inner.policy.decide(&self.principal, access).is_allow()
    }

    /// Refuses a deletion where there are none; `allow` lists the methods that are left
    pub(crate) fn require_delete(&self, allow: &'static str) -> Result<(), Failure> {
        match self.inner.allow_delete {
            true => Ok(()),
            false => Err(Cause::DeleteDisabled { allow }.into()),
        }
    }
}

async fn perform(
    call: Call,
    mut body: RequestBody,
    operation: Operation,
) -> Result<Response<ResponseBody>, Failure> {
    let (call, body) = (&call, &mut body);
    match &operation {
        Operation::CancelUpload { name, id } => uploads::cancel(call, name, id).await,
        Operation::Catalog { page } => lists::repositories(call, page).await,
        Operation::CompleteUpload { name, id, digest } => {
            uploads::complete(call, body, name, id, digest).await
        }
        Operation::DeleteBlob { name, digest } => blobs::delete(call, name, digest).await,
        Operation::DeleteManifest { name, reference } => {
            manifests::delete(call, name, reference).await
        }
        Operation::GetBlob { name, digest } => blobs::get(call, name, digest).await,
        Operation::GetManifest { name, reference } => manifests::get(call, name, reference).await,
        Operation::ListReferrers {
            name,
            digest,
            artifact_type,
            page,
        } => lists::referrers(call, name, digest, artifact_type.as_deref(), page).await,
        Operation::ListTags { name, page } => lists::tags(call, name, page).await,
        Operation::Ping => Ok(Reply::new(StatusCode::OK)
            .header(header::CONTENT_TYPE, "application/json")
            .body("{}")),
        Operation::PutManifest {
            name,
            reference,
            tags,
        } => manifests::put(call, body, name, reference, tags).await,
        Operation::StartUpload { name, start } => uploads::start(call, body, name, start).await,
        Operation::UploadChunk { name, id } => uploads::chunk(call, body, name, id).await,
        Operation::UploadStatus { name, id } => uploads::status(call, name, id).await,
        // The router of a newer core knows more than this table.
        _ => Err(registry_core::RouteError::NoSuchPath.into()),
    }
}

/// Says how long the content is; with the answer to a `HEAD`, instead of sending it
fn set_length(response: &mut Response<ResponseBody>, head: bool) {
    let has_content = !matches!(
        response.status(),
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED
    );
    if has_content && !response.headers().contains_key(header::CONTENT_LENGTH) {
        let length = response.body().remaining();
        set(response.headers_mut(), header::CONTENT_LENGTH, length);
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
    use registry_auth::{AllowAll, Anyone};
    use registry_storage::Memory;

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

        fn challenge(&self, _: &[Access]) -> Option<String> {
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

    #[test]
    fn the_futures_are_small() {
        let size = std::mem::size_of::<RegistryService>();
        assert_eq!(size, std::mem::size_of::<usize>());
        assert!(std::mem::size_of::<Result<Response<ResponseBody>, Failure>>() <= 160);
    }
}
