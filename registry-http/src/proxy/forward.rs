//! A request on its way to the upstream, and the answer on its way back

use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::Body;
use registry_auth::{Access, Action, Principal, Resource};
use registry_core::manifest::ManifestError;
use registry_core::page::{Page, percent_encode};
use registry_core::{
    Algorithm, Digest, ErrorCode, ErrorDetail, ErrorResponse, Manifest, Operation, RouteError,
    StartUpload, TagOrDigest, UploadId,
};
use registry_storage::{DeleteBlobError, ManifestReadError, UploadError};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use super::Inner;
use super::error::UpstreamError;
use super::flow::Receiving;
use super::redirect::{self, Led};
use super::rewrite::{self, REQUEST_HEADERS, Session};
use super::upstream::{Answer, Call, CallError, Content, scope_of};
use crate::access::{Caller, absence};
use crate::body::ResponseBody;
use crate::forwarded::Client;
use crate::reply::{CONTENT_DIGEST, Reply, UPLOAD_UUID, set};
use crate::request_body::RequestBody;
use crate::request_id::RequestId;
use crate::respond::{Cause, Failure};
use crate::tls::OverTls;

/// The most bytes of an error of the upstream's that are read
const MAX_ERROR: usize = 64 * 1024;

/// A request that was let in
pub(super) struct Forward<'a> {
    pub(super) proxy: &'a Inner,
    pub(super) parts: &'a Parts,
    pub(super) client: &'a Client,
    pub(super) id: &'a RequestId,
    pub(super) caller: &'a Caller,
    pub(super) operation: &'a Operation,
    /// What it is counted by
    pub(super) permit: OwnedSemaphorePermit,
}

impl Forward<'_> {
    pub(super) async fn run(
        self,
        mut body: RequestBody,
    ) -> Result<Response<ResponseBody>, Failure> {
        // What may not be read is not mounted; the client uploads it instead.
        let mounted = match self.operation {
            Operation::StartUpload {
                start:
                    StartUpload::Mount {
                        digest,
                        from: Some(from),
                    },
                ..
            } => {
                let access = Access {
                    resource: Resource::Repository(from.clone()),
                    action: Action::Pull,
                    reference: Some((*digest).into()),
                };
                let allowed = self.proxy.access.allows(self.caller, &access).await;
                allowed.then_some(access)
            }
            _ => None,
        };
        let (content, pushed) = match self.operation {
            Operation::PutManifest { .. } => {
                let bytes = self.manifest(&mut body).await?;
                (Content::Whole(bytes.clone()), Some(bytes))
            }
            Operation::CompleteUpload { .. }
            | Operation::UploadChunk { .. }
            | Operation::StartUpload {
                start: StartUpload::Monolithic { .. },
                ..
            } if body.length() != Some(0) => (Content::Streamed(body), None),
            _ => (Content::Empty, None),
        };
        let mut needed = self.operation.access();
        needed.extend(mounted.clone());
        let call = Call {
            method: self.parts.method.clone(),
            target: self.target(mounted.is_some())?,
            headers: self.headers(),
            content,
            scope: scope_of(&needed),
        };
        let answer = self.proxy.upstream.call(call).await;
        let answer = answer.map_err(|error| match error {
            CallError::Client(error) => Failure::from(Cause::Body {
                error,
                code: ErrorCode::BlobUploadInvalid,
            }),
            CallError::Upstream(error) => error.into(),
        })?;
        let status = answer.response.status();
        if redirect::is_redirect(status.as_u16())
            && matches!(self.operation, Operation::GetBlob { .. })
        {
            return self.redirected(answer).await;
        }
        if status.is_success() || status == StatusCode::NOT_MODIFIED {
            return self.succeeded(answer, pushed).await;
        }
        self.refused(answer).await
    }

    async fn manifest(&self, body: &mut RequestBody) -> Result<Bytes, Failure> {
        let limit = self.proxy.limits.max_bytes;
        let announced = body.length();
        let read = body.read_all(limit).await;
        let read = read.map_err(|error| Cause::Body {
            error,
            code: ErrorCode::ManifestInvalid,
        })?;
        let bytes = read.ok_or_else(|| {
            let got = announced.map(|length| usize::try_from(length).unwrap_or(usize::MAX));
            let got = got.unwrap_or_else(|| limit.saturating_add(1));
            ManifestError::TooLarge { limit, got }
        })?;
        if let Operation::PutManifest {
            reference: TagOrDigest::Digest(expected),
            ..
        } = self.operation
        {
            let computed = Digest::of(expected.algorithm(), &bytes);
            if computed != *expected {
                return Err(Cause::DigestMismatch {
                    expected: *expected,
                    computed,
                }
                .into());
            }
        }
        Ok(bytes)
    }

    /// Path and query at the upstream, made of what the operation says and nothing else
    fn target(&self, mount: bool) -> Result<String, Failure> {
        let upstream = &self.proxy.upstream;
        let path = match self.operation {
            Operation::Catalog { page } => return self.list("/v2/_catalog", Vec::new(), page),
            Operation::ListTags { name, page } => {
                return self.list(&format!("/v2/{name}/tags/list"), Vec::new(), page);
            }
            Operation::ListReferrers {
                name,
                digest,
                artifact_type,
                page,
            } => {
                let filter = artifact_type.clone().map(|kind| ("artifactType", kind));
                let path = format!("/v2/{name}/referrers/{digest}");
                return self.list(&path, filter.into_iter().collect(), page);
            }
            Operation::GetBlob { name, digest } | Operation::DeleteBlob { name, digest } => {
                format!("/v2/{name}/blobs/{digest}")
            }
            Operation::GetManifest { name, reference }
            | Operation::DeleteManifest { name, reference } => {
                format!("/v2/{name}/manifests/{reference}")
            }
            Operation::PutManifest {
                name,
                reference,
                tags,
            } => {
                let tags: Vec<_> = tags.iter().map(|tag| ("tag", tag.to_string())).collect();
                let query = rewrite::query(&tags);
                format!("/v2/{name}/manifests/{reference}{query}")
            }
            Operation::StartUpload { name, start } => {
                let pairs = match start {
                    StartUpload::Monolithic { digest } => vec![("digest", digest.to_string())],
                    StartUpload::Mount {
                        digest,
                        from: Some(from),
                    } if mount => {
                        vec![("mount", digest.to_string()), ("from", from.to_string())]
                    }
                    StartUpload::Session { algorithm } if *algorithm != Algorithm::default() => {
                        vec![("digest-algorithm", algorithm.as_str().to_owned())]
                    }
                    _ => Vec::new(),
                };
                format!("/v2/{name}/blobs/uploads/{}", rewrite::query(&pairs))
            }
            Operation::CancelUpload { id, .. }
            | Operation::UploadChunk { id, .. }
            | Operation::UploadStatus { id, .. } => return self.session(id),
            Operation::CompleteUpload { id, digest, .. } => {
                let session = self.session(id)?;
                let separator = if session.contains('?') { '&' } else { '?' };
                let digest = percent_encode(&digest.to_string());
                return Ok(format!("{session}{separator}digest={digest}"));
            }
            // The proxy answers for itself that it is there; and what a newer core knows is not known here.
            _ => return Err(RouteError::NoSuchPath.into()),
        };
        Ok(upstream.path(&path))
    }

    fn list(
        &self,
        path: &str,
        mut pairs: Vec<(&'static str, String)>,
        page: &Page,
    ) -> Result<String, Failure> {
        let upstream = &self.proxy.upstream;
        let sealed = upstream.inner.seal.page(path, self.parts.uri.query());
        // A forged page is the first one.
        if let Some(Some(query)) = sealed {
            return Ok(upstream.path(&format!("{path}?{query}")));
        }
        pairs.extend(page.limit.map(|limit| ("n", limit.to_string())));
        pairs.extend(page.last.clone().map(|last| ("last", last)));
        Ok(upstream.path(&format!("{path}{}", rewrite::query(&pairs))))
    }

    /// Where a session is at the upstream
    fn session(&self, id: &UploadId) -> Result<String, Failure> {
        let found = self.operation.repository().and_then(|name| {
            let seal = &self.proxy.upstream.inner.seal;
            seal.find(name, id, &self.sessions(), self.parts.uri.query())
        });
        Ok(found.ok_or(UploadError::Unknown { id: *id })?)
    }

    /// Where the upstream has its sessions, if it does as most do
    fn sessions(&self) -> String {
        let name = self.operation.repository().map_or("", |name| name.as_str());
        self.proxy
            .upstream
            .path(&format!("/v2/{name}/blobs/uploads/"))
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for name in REQUEST_HEADERS {
            for value in self.parts.headers.get_all(&name) {
                headers.append(name.clone(), value.clone());
            }
        }
        // What comes is hashed, and passed on as it is.
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        if let Some(address) = self.client.address {
            set(
                &mut headers,
                HeaderName::from_static("x-forwarded-for"),
                address,
            );
        }
        let own = self.parts.extensions.get::<OverTls>().map(|_| "https");
        let scheme = self.client.scheme.as_ref().map(|scheme| scheme.as_str());
        let scheme = scheme.or(own).unwrap_or("http");
        set(
            &mut headers,
            HeaderName::from_static("x-forwarded-proto"),
            scheme,
        );
        if let Some(id) = self.id.value() {
            for name in &self.proxy.request_ids {
                headers.insert(name.clone(), id.clone());
            }
        }
        headers
    }

    async fn redirected(self, answer: Answer) -> Result<Response<ResponseBody>, Failure> {
        let headers = answer.response.headers().clone();
        // Its connection may be the last one there is.
        drop(answer);
        let upstream = &self.proxy.upstream;
        let led = redirect::follow(
            upstream,
            self.proxy.redirects,
            &self.parts.method,
            &self.parts.headers,
            &headers,
        );
        match led.await? {
            Led::Away(uri) => Ok(Reply::new(StatusCode::TEMPORARY_REDIRECT)
                .header(header::LOCATION, uri)
                .empty()),
            Led::Answer(answer) => {
                let status = answer.response.status();
                if status.is_success() || status == StatusCode::NOT_MODIFIED {
                    return self.succeeded(answer, None).await;
                }
                if status == StatusCode::RANGE_NOT_SATISFIABLE {
                    return self.refused(answer).await;
                }
                let text = format!("where it redirects to answers {status}");
                Err(UpstreamError::NotARegistry(text.into()).into())
            }
        }
    }

    async fn succeeded(
        self,
        answer: Answer,
        pushed: Option<Bytes>,
    ) -> Result<Response<ResponseBody>, Failure> {
        let (parts, body) = answer.response.into_parts();
        let mut headers = rewrite::passed(&parts.headers);
        if self.caller.principal != Principal::Anonymous {
            rewrite::keep_private(&mut headers);
        }
        let status = parts.status;
        let reply = |status, body: ResponseBody, headers: HeaderMap| {
            let mut response = Response::new(body);
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            response
        };
        let is_read = matches!(self.parts.method, Method::GET | Method::HEAD);
        if is_read && status == StatusCode::NOT_MODIFIED {
            return Ok(reply(status, ResponseBody::default(), headers));
        }
        let is_head = self.parts.method == Method::HEAD;
        match self.operation {
            Operation::Catalog { .. }
            | Operation::GetBlob { .. }
            | Operation::GetManifest { .. }
            | Operation::ListReferrers { .. }
            | Operation::ListTags { .. } => {
                self.check_type(status, &headers)?;
                if let Operation::GetBlob { digest, .. } = self.operation {
                    set(&mut headers, CONTENT_DIGEST, digest);
                }
                if let Some(query) = rewrite::next_query(&parts.headers) {
                    let path = self.parts.uri.path();
                    let path = self.proxy.prefix.strip(path).unwrap_or(path);
                    let seal = &self.proxy.upstream.inner.seal;
                    let query = seal.next_page(path, &query);
                    set(
                        &mut headers,
                        header::LINK,
                        format_args!("<{path}?{query}>; rel=\"next\""),
                    );
                }
                if is_head {
                    if let Some(length) = parts.headers.get(header::CONTENT_LENGTH) {
                        headers.insert(header::CONTENT_LENGTH, length.clone());
                    }
                    let nothing = ResponseBody::stream_of(None, futures::stream::empty());
                    return Ok(reply(status, nothing, headers));
                }
                if let Operation::GetManifest { name, reference } = self.operation
                    && status == StatusCode::OK
                {
                    let limit = self.proxy.limits.max_bytes;
                    let bytes = self.proxy.upstream.collect(body, limit).await?;
                    if !headers.contains_key(header::CONTENT_ENCODING) {
                        let digest = match reference {
                            TagOrDigest::Digest(digest) => Digest::of(digest.algorithm(), &bytes),
                            TagOrDigest::Tag(_) => Digest::sha256(&bytes),
                        };
                        if matches!(reference, TagOrDigest::Digest(asked) if *asked != digest) {
                            let text = format!("it sent a manifest of digest {digest} for another");
                            return Err(UpstreamError::NotARegistry(text.into()).into());
                        }
                        if !headers.contains_key(CONTENT_DIGEST) {
                            set(&mut headers, CONTENT_DIGEST, digest);
                        }
                        if let (Some(tags), TagOrDigest::Tag(tag)) = (&self.proxy.tags, reference) {
                            let manifest =
                                Manifest::parse(bytes.clone(), None, &self.proxy.limits).ok();
                            tags.learn(name, tag, digest, manifest.as_ref(), false);
                        }
                    }
                    return Ok(reply(status, bytes.into(), headers));
                }
                let length = body.size_hint().exact();
                let receiving = Receiving::new(
                    body,
                    self.proxy.upstream.inner.idle_timeout,
                    self.proxy.body_patience,
                    vec![answer.permit, self.permit],
                );
                Ok(reply(
                    status,
                    ResponseBody::stream_of(length, receiving),
                    headers,
                ))
            }
            Operation::StartUpload { start, name } => {
                let digest = match start {
                    StartUpload::Monolithic { digest } | StartUpload::Mount { digest, .. } => {
                        Some(digest)
                    }
                    _ => None,
                };
                match (status, digest) {
                    (StatusCode::CREATED, Some(digest)) => Ok(self.created(headers, digest)),
                    (StatusCode::ACCEPTED, _) => {
                        let location = self.location(&parts.headers)?.ok_or_else(|| {
                            UpstreamError::NotARegistry(
                                "it began an upload and did not say where".into(),
                            )
                        })?;
                        let seal = &self.proxy.upstream.inner.seal;
                        let session = seal.session(name, &self.sessions(), &location);
                        self.set_session(&mut headers, session);
                        Ok(reply(status, ResponseBody::default(), headers))
                    }
                    _ => Err(unexpected(status)),
                }
            }
            Operation::UploadChunk { name, id } | Operation::UploadStatus { name, id } => {
                let location = match self.location(&parts.headers)? {
                    Some(location) => location,
                    None => self.session(id)?,
                };
                let seal = &self.proxy.upstream.inner.seal;
                let session = seal.session(name, &self.sessions(), &location);
                self.set_session(&mut headers, session);
                headers.remove(header::CONTENT_TYPE);
                let status = match self.operation {
                    Operation::UploadChunk { .. } => StatusCode::ACCEPTED,
                    _ => StatusCode::NO_CONTENT,
                };
                Ok(reply(status, ResponseBody::default(), headers))
            }
            Operation::CompleteUpload { digest, .. } => Ok(self.created(headers, digest)),
            Operation::PutManifest {
                name,
                reference,
                tags,
            } => {
                let bytes = pushed.unwrap_or_default();
                let digest = match reference {
                    TagOrDigest::Digest(digest) => *digest,
                    TagOrDigest::Tag(_) => Digest::sha256(&bytes),
                };
                if let Some(learner) = &self.proxy.tags {
                    let manifest = Manifest::parse(bytes, None, &self.proxy.limits).ok();
                    let tag = match reference {
                        TagOrDigest::Tag(tag) => Some(tag),
                        TagOrDigest::Digest(_) => None,
                    };
                    for tag in tag.into_iter().chain(tags) {
                        learner.learn(name, tag, digest, manifest.as_ref(), true);
                    }
                }
                headers.remove(header::CONTENT_TYPE);
                set(
                    &mut headers,
                    header::LOCATION,
                    format_args!("/v2/{name}/manifests/{digest}"),
                );
                if !headers.contains_key(CONTENT_DIGEST) {
                    set(&mut headers, CONTENT_DIGEST, digest);
                }
                Ok(reply(StatusCode::CREATED, ResponseBody::default(), headers))
            }
            Operation::DeleteManifest { name, .. } | Operation::DeleteBlob { name, .. } => {
                if let Some(tags) = &self.proxy.tags {
                    tags.forget(name);
                }
                headers.remove(header::CONTENT_TYPE);
                Ok(reply(
                    StatusCode::ACCEPTED,
                    ResponseBody::default(),
                    headers,
                ))
            }
            Operation::CancelUpload { id, .. } => Ok(Reply::new(StatusCode::NO_CONTENT)
                .header(UPLOAD_UUID, id)
                .empty()),
            _ => Err(unexpected(status)),
        }
    }

    /// Refuses what cannot be the answer to this, such as the page of a login or of a wrong port
    fn check_type(&self, status: StatusCode, headers: &HeaderMap) -> Result<(), Failure> {
        let expected = match self.operation {
            Operation::GetBlob { .. } => {
                matches!(status, StatusCode::OK | StatusCode::PARTIAL_CONTENT)
            }
            _ => status == StatusCode::OK,
        };
        if !expected {
            return Err(unexpected(status));
        }
        let kind = headers.get(header::CONTENT_TYPE);
        let kind = kind
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let kind = kind
            .split(';')
            .next()
            .unwrap_or_default()
            .trim()
            .to_ascii_lowercase();
        let fits = match self.operation {
            Operation::Catalog { .. }
            | Operation::ListTags { .. }
            | Operation::ListReferrers { .. } => {
                kind == "application/json" || kind.ends_with("+json")
            }
            _ => !matches!(&*kind, "text/html" | "application/xhtml+xml"),
        };
        if fits {
            return Ok(());
        }
        let kind: String = kind.chars().take(80).flat_map(char::escape_debug).collect();
        let text = format!("it answered with content of type `{kind}`");
        Err(UpstreamError::NotARegistry(text.into()).into())
    }

    /// A blob is there
    fn created(&self, mut headers: HeaderMap, digest: &Digest) -> Response<ResponseBody> {
        headers.remove(header::CONTENT_TYPE);
        if let Some(name) = self.operation.repository() {
            set(
                &mut headers,
                header::LOCATION,
                format_args!("/v2/{name}/blobs/{digest}"),
            );
        }
        set(&mut headers, CONTENT_DIGEST, digest);
        let mut response = Reply::new(StatusCode::CREATED).empty();
        *response.headers_mut() = headers;
        response
    }

    /// Where the upstream says a session is
    fn location(&self, headers: &HeaderMap) -> Result<Option<String>, Failure> {
        let Some(location) = headers.get(header::LOCATION) else {
            return Ok(None);
        };
        let base = self.proxy.upstream.uri("/")?;
        let own = location
            .to_str()
            .ok()
            .and_then(|location| rewrite::own_location(location, &base));
        match own {
            Some(own) => Ok(Some(own)),
            None => Err(UpstreamError::Elsewhere(
                "it has its upload at another host than itself, or at no proper path".into(),
            )
            .into()),
        }
    }

    fn set_session(&self, headers: &mut HeaderMap, mut session: Session) {
        headers.remove(header::CONTENT_TYPE);
        if let Some(name) = self.operation.repository()
            && let Some(seal) = self.proxy.access.seal(self.caller, name, &session.id)
        {
            let separator = if session.location.contains('?') {
                '&'
            } else {
                '?'
            };
            session.location.push(separator);
            session.location.push_str(&seal);
        }
        rewrite::set_session(headers, &session);
    }

    /// The upstream says no
    async fn refused(self, answer: Answer) -> Result<Response<ResponseBody>, Failure> {
        let (parts, body) = answer.response.into_parts();
        let status = parts.status;
        match status {
            StatusCode::NOT_FOUND => return Err(self.absent()),
            StatusCode::UNAUTHORIZED => {
                return Err(UpstreamError::Credentials("it answered 401".into()).into());
            }
            StatusCode::FORBIDDEN => {
                return Err(UpstreamError::Forbidden("it answered 403".into()).into());
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                let retry_after = parts
                    .headers
                    .get(header::RETRY_AFTER)
                    .and_then(|value| value.to_str().ok()?.trim().parse().ok())
                    .map(Duration::from_secs);
                return Err(UpstreamError::Status {
                    status,
                    retry_after,
                }
                .into());
            }
            status if !status.is_client_error() => return Err(unexpected(status)),
            _ => {}
        }
        let bytes = match self.parts.method {
            Method::HEAD => Bytes::new(),
            _ => self.proxy.upstream.collect(body, MAX_ERROR).await?,
        };
        let errors = serde_json::from_slice::<Errors>(&bytes).ok();
        let errors = errors.filter(|errors| !errors.errors.is_empty());
        let json = match errors.and_then(|errors| serde_json::to_vec(&errors).ok()) {
            Some(json) => json,
            None => ErrorResponse::from(ErrorDetail::new(
                code_of(status),
                format!("the registry behind this proxy answers {status} and not why"),
            ))
            .to_json(),
        };
        let mut response = Reply::new(status)
            .header(header::CONTENT_TYPE, "application/json")
            .body(json);
        let headers = response.headers_mut();
        for name in [header::ALLOW, header::CONTENT_RANGE, header::RANGE] {
            if let Some(value) = parts.headers.get(&name) {
                headers.insert(name, value.clone());
            }
        }
        // A chunk out of order: the session is where it was.
        if let Operation::UploadChunk { name, id } | Operation::CompleteUpload { name, id, .. } =
            self.operation
            && status == StatusCode::RANGE_NOT_SATISFIABLE
        {
            let location = match self.location(&parts.headers)? {
                Some(location) => location,
                None => self.session(id)?,
            };
            let seal = &self.proxy.upstream.inner.seal;
            let session = seal.session(name, &self.sessions(), &location);
            let kind = headers.get(header::CONTENT_TYPE).cloned();
            self.set_session(headers, session);
            headers.extend(kind.map(|kind| (header::CONTENT_TYPE, kind)));
        }
        Ok(response)
    }

    /// What is not there, in the words that hide what may not be seen
    fn absent(&self) -> Failure {
        if let Some(absence) = absence(self.operation) {
            return absence.into();
        }
        match self.operation {
            Operation::DeleteBlob { name, digest } => DeleteBlobError::Unknown {
                name: name.clone(),
                digest: *digest,
            }
            .into(),
            Operation::DeleteManifest { name, reference } => ManifestReadError::Unknown {
                name: name.clone(),
                reference: reference.clone(),
            }
            .into(),
            Operation::CancelUpload { id, .. }
            | Operation::CompleteUpload { id, .. }
            | Operation::UploadChunk { id, .. }
            | Operation::UploadStatus { id, .. } => UploadError::Unknown { id: *id }.into(),
            operation => match operation.repository() {
                Some(name) => ManifestReadError::RepositoryUnknown { name: name.clone() }.into(),
                None => RouteError::NoSuchPath.into(),
            },
        }
    }
}

/// The errors of a registry, as far as they are passed on
#[derive(Deserialize, Serialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize, Serialize)]
struct OneError {
    code: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    detail: serde_json::Value,
}

fn code_of(status: StatusCode) -> ErrorCode {
    match status {
        StatusCode::METHOD_NOT_ALLOWED => ErrorCode::Unsupported,
        StatusCode::PAYLOAD_TOO_LARGE | StatusCode::RANGE_NOT_SATISFIABLE => ErrorCode::SizeInvalid,
        _ => ErrorCode::Unknown,
    }
}

fn unexpected(status: StatusCode) -> Failure {
    UpstreamError::NotARegistry(format!("it answered {status}").into()).into()
}
