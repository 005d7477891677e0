//! From outcomes to responses: the one table of errors, statuses and codes

use std::time::Duration;

use http::header;
use http::{Response, StatusCode};
use registry_auth::{AuthenticateError, AuthorizeError};
use registry_core::manifest::ManifestError;
use registry_core::media_type::MediaTypeError;
use registry_core::range::ChunkRangeError;
use registry_core::upload::ChunkError;
use registry_core::{Digest, ErrorCode, ErrorDetail, ErrorResponse, RouteError};
use registry_storage::{
    AppendError, BlobError, CompleteUploadError, DeleteBlobError, ManifestReadError,
    PutManifestError, StorageError, UploadError,
};

use crate::access::{Refusal, TooMany};
use crate::body::ResponseBody;
use crate::events::EventSinkError;
use crate::location::Prefix;
use crate::manifest_urls::UrlRefused;
use crate::proxy::UpstreamError;
use crate::reply::{Reply, UploadState, set};
use crate::request_body::RequestBodyError;
use crate::request_id::RequestId;

/// When to try again after a failure that names no time of its own
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Why a request did not succeed
#[derive(Debug)]
pub(crate) struct Failure(Box<Cause>);

/// All that can go wrong, by who found it
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cause {
    /// Another request than this takes the content of a chunk, or the chunk does not fit
    #[error("{error}")]
    Append {
        #[source]
        error: AppendError,
        /// Where the session stands, if it is known
        state: Option<UploadState>,
    },
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// The client stopped sending
    #[error("{error}")]
    Body {
        #[source]
        error: RequestBodyError,
        /// The code of what was being sent
        code: ErrorCode,
    },
    #[error(transparent)]
    Complete(#[from] CompleteUploadError),
    #[error(transparent)]
    ContentRange(#[from] ChunkRangeError),
    #[error(transparent)]
    ContentType(#[from] MediaTypeError),
    #[error(transparent)]
    DeleteBlob(#[from] DeleteBlobError),
    #[error("this registry does not delete; its operator can allow it in the configuration")]
    DeleteDisabled { allow: &'static str },
    #[error("{reason}")]
    Denied { reason: String },
    #[error("expected content of digest `{expected}`, what came has `{computed}`")]
    DigestMismatch { expected: Digest, computed: Digest },
    #[error(transparent)]
    Events(#[from] EventSinkError),
    /// What may not be seen, and is to look like this
    #[error("{absence}")]
    Hidden { absence: Box<Self> },
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    #[error(transparent)]
    ManifestRead(#[from] ManifestReadError),
    /// The registry is elsewhere on this host
    #[error("no such path; the registry's API is under `{prefix}/v2/`")]
    OutsidePrefix { prefix: Prefix },
    /// A handler panicked; the panic hook has said where
    #[error("a request could not be handled to its end")]
    Panicked,
    #[error(transparent)]
    PutManifest(#[from] PutManifestError),
    #[error("no byte of the range lies within the content, which has {size} bytes")]
    Range { size: u64 },
    #[error(
        "this registry is read-only for maintenance: pulling works, pushing and deleting do not; try again later or ask its operator"
    )]
    ReadOnly { allow: &'static str },
    /// Known or not, they may not do this
    #[error("{0}")]
    Refused(Refusal),
    #[error(transparent)]
    Route(#[from] RouteError),
    #[error(transparent)]
    Storage(#[from] StorageError),
    #[error(transparent)]
    TooMany(#[from] TooMany),
    #[error("{reason}")]
    Unauthenticated { reason: String, challenge: String },
    #[error(transparent)]
    Undecided(#[from] AuthorizeError),
    /// The checker has logged which check fails, once
    #[error(
        "the registry's health checks fail; try again later, or ask its operator to look at them"
    )]
    Unhealthy,
    #[error("{error}")]
    Unidentified {
        #[source]
        error: AuthenticateError,
        retry_after: Duration,
    },
    #[error(transparent)]
    Upload(#[from] UploadError),
    /// The registry behind a proxy
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    #[error(transparent)]
    Url(#[from] UrlRefused),
}

impl<T> From<T> for Failure
where
    Cause: From<T>,
{
    fn from(cause: T) -> Self {
        Self(Box::new(cause.into()))
    }
}

/// The table: what each cause is to the client
fn verdict(cause: &Cause) -> (StatusCode, ErrorCode) {
    use ErrorCode as Code;
    use StatusCode as Status;

    match cause {
        Cause::Append { error, .. } => append_verdict(error),
        Cause::Blob(BlobError::Storage(error)) => storage_verdict(error),
        Cause::Blob(_) => (Status::NOT_FOUND, Code::BlobUnknown),
        Cause::Body { error, code } => match error {
            RequestBodyError::Broken(_) => (Status::BAD_REQUEST, *code),
            RequestBodyError::Stalled { .. } => (Status::REQUEST_TIMEOUT, *code),
        },
        Cause::Complete(CompleteUploadError::Append(error)) => append_verdict(error),
        Cause::Complete(CompleteUploadError::Storage(error)) => storage_verdict(error),
        Cause::Complete(_) => (Status::BAD_REQUEST, Code::DigestInvalid),
        Cause::ContentRange(_) => (Status::BAD_REQUEST, Code::BlobUploadInvalid),
        Cause::ContentType(_) => (Status::BAD_REQUEST, Code::ManifestInvalid),
        Cause::DeleteBlob(DeleteBlobError::Storage(error)) => storage_verdict(error),
        // Of the codes that the conformance suite takes for a refused deletion, the one that
        // says that the blob is there.
        Cause::DeleteBlob(DeleteBlobError::InUse { .. })
        | Cause::DeleteDisabled { .. }
        | Cause::ReadOnly { .. } => (Status::METHOD_NOT_ALLOWED, Code::Unsupported),
        Cause::DeleteBlob(_) => (Status::NOT_FOUND, Code::BlobUnknown),
        Cause::Denied { .. } => (Status::FORBIDDEN, Code::Denied),
        Cause::DigestMismatch { .. } => (Status::BAD_REQUEST, Code::DigestInvalid),
        Cause::Events(_) => (Status::SERVICE_UNAVAILABLE, Code::Unavailable),
        Cause::Hidden { absence } => verdict(absence),
        Cause::Manifest(ManifestError::TooLarge { .. }) => {
            (Status::PAYLOAD_TOO_LARGE, Code::ManifestInvalid)
        }
        Cause::Manifest(_) => (Status::BAD_REQUEST, Code::ManifestInvalid),
        Cause::ManifestRead(ManifestReadError::Storage(error)) => storage_verdict(error),
        Cause::ManifestRead(ManifestReadError::RepositoryUnknown { .. }) => {
            (Status::NOT_FOUND, Code::NameUnknown)
        }
        // A damaged manifest too: clients look before they push, and only what they do not
        // find do they push again, which mends it.
        Cause::ManifestRead(_) => (Status::NOT_FOUND, Code::ManifestUnknown),
        Cause::OutsidePrefix { .. } => (Status::NOT_FOUND, Code::Unsupported),
        Cause::Panicked => (Status::INTERNAL_SERVER_ERROR, Code::Unknown),
        Cause::PutManifest(PutManifestError::Storage(error)) => storage_verdict(error),
        // docker and podman know this code by the status 400.
        Cause::PutManifest(_) => (Status::BAD_REQUEST, Code::ManifestBlobUnknown),
        Cause::Range { .. } => (Status::RANGE_NOT_SATISFIABLE, Code::SizeInvalid),
        Cause::Refused(refusal) => match refusal.challenge() {
            Some(_) => (Status::UNAUTHORIZED, Code::Unauthorized),
            None => (Status::FORBIDDEN, Code::Denied),
        },
        Cause::Route(error) => (
            StatusCode::from_u16(error.status()).unwrap_or(Status::BAD_REQUEST),
            error.detail().code(),
        ),
        Cause::Storage(error) => storage_verdict(error),
        Cause::TooMany(_) => (Status::TOO_MANY_REQUESTS, Code::TooManyRequests),
        Cause::Unauthenticated { .. } => (Status::UNAUTHORIZED, Code::Unauthorized),
        Cause::Undecided(_) | Cause::Unhealthy | Cause::Unidentified { .. } => {
            (Status::SERVICE_UNAVAILABLE, Code::Unavailable)
        }
        Cause::Upload(UploadError::Storage(error)) => storage_verdict(error),
        Cause::Upload(_) => (Status::NOT_FOUND, Code::BlobUploadUnknown),
        Cause::Upstream(error) => error.verdict(),
        Cause::Url(_) => (Status::BAD_REQUEST, Code::ManifestInvalid),
    }
}

fn append_verdict(error: &AppendError) -> (StatusCode, ErrorCode) {
    match error {
        AppendError::Chunk(ChunkError::OutOfOrder { .. }) => (
            StatusCode::RANGE_NOT_SATISFIABLE,
            ErrorCode::BlobUploadInvalid,
        ),
        AppendError::Chunk(_) => (StatusCode::BAD_REQUEST, ErrorCode::SizeInvalid),
        AppendError::Storage(error) => storage_verdict(error),
        AppendError::Unknown { .. } => (StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown),
        _ => (StatusCode::BAD_REQUEST, ErrorCode::BlobUploadInvalid),
    }
}

fn storage_verdict(error: &StorageError) -> (StatusCode, ErrorCode) {
    match error {
        StorageError::Busy { .. } | StorageError::Transient { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable)
        }
        StorageError::Full { .. } => (StatusCode::INSUFFICIENT_STORAGE, ErrorCode::Unavailable),
        _ => (StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown),
    }
}

impl Failure {
    /// What may not be seen, as what is not there
    pub(crate) fn hidden(absence: Cause) -> Self {
        Self(Box::new(Cause::Hidden {
            absence: Box::new(absence),
        }))
    }

    /// Whether it may not be known that there is anything
    ///
    /// The response says what nothing says, in so far as that is an error.
    pub(crate) fn is_hidden(&self) -> bool {
        matches!(*self.0, Cause::Hidden { .. })
    }

    /// Builds the response, and logs what the operator should know
    ///
    /// `id` is what the user quotes when it is the operator's to mend, and what the log has.
    pub(crate) fn respond(self, id: &RequestId) -> Response<ResponseBody> {
        let cause = match *self.0 {
            Cause::Hidden { absence } => *absence,
            cause => cause,
        };
        let (status, code) = verdict(&cause);
        if status.is_server_error() && !matches!(cause, Cause::Unhealthy) {
            let error = &cause as &(dyn std::error::Error + 'static);
            if matches!(cause, Cause::Unidentified { .. }) {
                // Whoever guesses passwords brings this about as often as he likes: it must not
                // fill the log. The access log and the metrics have each of them.
                tracing::debug!(error, "it cannot be known now who asks");
            } else if matches!(storage_error(&cause), Some(StorageError::Busy { .. })) {
                tracing::warn!(error, "another request holds what this one needs");
            } else if matches!(cause, Cause::Upstream(UpstreamError::Busy)) {
                // As many of these come as clients ask: whoever refuses them says so, now and then.
                tracing::debug!(error, "a request was refused");
            } else {
                tracing::error!(error, status = status.as_u16(), "a request failed");
            }
        }
        let named = status.is_server_error().then_some(id);
        let errors = ErrorResponse::new(errors(&cause, code, named));
        let mut response = Reply::new(status)
            .header(header::CONTENT_TYPE, "application/json")
            .body(errors.to_json());
        let headers = response.headers_mut();
        match &cause {
            Cause::Append {
                state: Some(state), ..
            } => state.write(headers),
            // What still comes of the body, if anything, belongs to no request any more.
            Cause::Body { .. } => set(headers, header::CONNECTION, "close"),
            Cause::DeleteBlob(DeleteBlobError::InUse { .. }) => {
                set(headers, header::ALLOW, "GET, HEAD");
            }
            Cause::DeleteDisabled { allow } | Cause::ReadOnly { allow } => {
                set(headers, header::ALLOW, allow);
            }
            Cause::Range { size } => {
                set(
                    headers,
                    header::CONTENT_RANGE,
                    format_args!("bytes */{size}"),
                );
            }
            Cause::Refused(refusal) => {
                if let Some(challenge) = refusal.challenge() {
                    set(headers, header::WWW_AUTHENTICATE, challenge);
                }
            }
            Cause::Route(RouteError::Method { allowed }) => set(headers, header::ALLOW, allowed),
            Cause::Unauthenticated { challenge, .. } => {
                set(headers, header::WWW_AUTHENTICATE, challenge);
            }
            _ => {}
        }
        if let Some(wait) = retry_after(&cause, status) {
            set(headers, header::RETRY_AFTER, whole_seconds(wait).max(1));
        }
        response
    }
}

/// The errors of the response body, with the request's name if that helps
fn errors(cause: &Cause, code: ErrorCode, id: Option<&RequestId>) -> Vec<ErrorDetail> {
    if let Some(id) = id {
        let id = format_args!("request `{id}`");
        return vec![match storage_error(cause) {
            Some(error) => ErrorDetail::new(code, format!("{} ({id})", storage_explanation(error))),
            None => ErrorDetail::new(code, format!("{cause} ({id})")),
        }];
    }
    match cause {
        Cause::Blob(BlobError::Unknown { digest, .. })
        | Cause::DeleteBlob(DeleteBlobError::Unknown { digest, .. }) => vec![
            ErrorDetail::new(code, cause.to_string())
                .with_detail(serde_json::json!({ "digest": digest })),
        ],
        Cause::PutManifest(PutManifestError::Missing(missing)) => missing
            .iter()
            .map(|missing| {
                ErrorDetail::new(code, missing.to_string())
                    .with_detail(serde_json::json!({ "digest": missing.digest }))
            })
            .collect(),
        Cause::Refused(refusal) => {
            vec![ErrorDetail::new(code, refusal.to_string()).with_detail(refusal.detail())]
        }
        Cause::Route(error) => vec![error.detail()],
        _ => vec![ErrorDetail::new(code, cause.to_string())],
    }
}

/// The storage's part in it, if it has one
fn storage_error(cause: &Cause) -> Option<&StorageError> {
    match cause {
        Cause::Append {
            error: AppendError::Storage(error),
            ..
        }
        | Cause::Blob(BlobError::Storage(error))
        | Cause::Complete(
            CompleteUploadError::Append(AppendError::Storage(error))
            | CompleteUploadError::Storage(error),
        )
        | Cause::DeleteBlob(DeleteBlobError::Storage(error))
        | Cause::ManifestRead(ManifestReadError::Storage(error))
        | Cause::PutManifest(PutManifestError::Storage(error))
        | Cause::Storage(error)
        | Cause::Upload(UploadError::Storage(error)) => Some(error),
        _ => None,
    }
}

/// What a client may know of a storage error: what to do, and no path of this machine
fn storage_explanation(error: &StorageError) -> &'static str {
    match error {
        StorageError::Busy { .. } => "another request is at work on the same content; try again",
        StorageError::Corrupt { .. } => {
            "what is stored is damaged; the registry's log says where, for its operator"
        }
        StorageError::Denied { .. } => {
            "the storage refuses the registry access; its operator must give it the right to read and write"
        }
        StorageError::Full { .. } => "storage is full; the registry's operator must make room",
        StorageError::Transient { .. } => "the storage does not answer as it should; try again",
        _ => "the storage failed; the registry's log says how, for its operator",
    }
}

fn retry_after(cause: &Cause, status: StatusCode) -> Option<Duration> {
    match (cause, storage_error(cause)) {
        (
            Cause::TooMany(TooMany { retry_after, .. })
            | Cause::Undecided(AuthorizeError { retry_after, .. })
            | Cause::Unidentified { retry_after, .. },
            _,
        ) => Some(*retry_after),
        (_, Some(StorageError::Busy { retry_after, .. })) => Some(*retry_after),
        (Cause::Upstream(error), _) if error.retry_after().is_some() => error.retry_after(),
        _ => (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER),
    }
}

/// Rounded up: to come back too early is to come back in vain
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use registry_core::upload::UploadId;
    use registry_core::{ChunkRange, MediaType, RepositoryName, route};

    use super::*;
    use crate::reply::UPLOAD_UUID;

    fn storage() -> Vec<(StorageError, &'static str)> {
        let key = || "a/b".to_owned();
        let source = || "secret".into();
        vec![
            (
                StorageError::Busy {
                    key: key(),
                    retry_after: Duration::from_millis(1500),
                },
                "503 UNAVAILABLE retry-after 2",
            ),
            (
                StorageError::Corrupt {
                    key: key(),
                    detail: "secret".to_owned(),
                },
                "500 UNKNOWN",
            ),
            (
                StorageError::Denied {
                    key: key(),
                    source: source(),
                },
                "500 UNKNOWN",
            ),
            (StorageError::Full { key: key() }, "507 UNAVAILABLE"),
            (StorageError::NotFound { key: key() }, "500 UNKNOWN"),
            (
                StorageError::Transient {
                    key: key(),
                    source: source(),
                },
                "503 UNAVAILABLE retry-after 5",
            ),
        ]
    }

    fn name() -> RepositoryName {
        RepositoryName::try_from("app").unwrap()
    }

    fn digest() -> Digest {
        Digest::sha256(b"")
    }

    fn id() -> RequestId {
        RequestId("r-1".into())
    }

    fn state() -> Option<UploadState> {
        Some(UploadState {
            location: "/v2/app/blobs/uploads/x".to_owned(),
            id: "x".to_owned(),
            offset: 10,
        })
    }

    /// Status, code and the headers that tell the client something
    fn summary(failure: Failure) -> String {
        let (_, code) = verdict(&failure.0);
        let response = failure.respond(&id());
        let mut summary = format!("{} {code}", response.status().as_u16());
        for name in [
            header::ALLOW,
            header::CONNECTION,
            header::CONTENT_RANGE,
            header::LOCATION,
            header::RANGE,
            header::RETRY_AFTER,
            header::WWW_AUTHENTICATE,
            UPLOAD_UUID,
        ] {
            if let Some(value) = response.headers().get(&name) {
                summary.push_str(&format!(" {name} {}", value.to_str().unwrap()));
            }
        }
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json");
        summary
    }

    #[test]
    fn every_error_has_its_status_and_code() {
        let id = UploadId::from_random_bytes([0; 16]);
        let chunk = |error: ChunkError| Cause::Append {
            error: error.into(),
            state: state(),
        };
        let session = "location /v2/app/blobs/uploads/x range 0-9 docker-upload-uuid x";
        let routes = |method: &str, path: &str| Cause::from(route(method, path, None).unwrap_err());
        let table: Vec<(Cause, String)> = vec![
            (
                chunk(ChunkError::OutOfOrder {
                    expected: 10,
                    got: 4,
                }),
                format!("416 BLOB_UPLOAD_INVALID {session}"),
            ),
            (
                Cause::Append {
                    error: AppendError::Body("gone".to_owned()),
                    state: state(),
                },
                format!("400 BLOB_UPLOAD_INVALID {session}"),
            ),
            (
                Cause::Append {
                    error: AppendError::Unknown { id },
                    state: None,
                },
                "404 BLOB_UPLOAD_UNKNOWN".to_owned(),
            ),
            (
                BlobError::Unknown {
                    name: name(),
                    digest: digest(),
                }
                .into(),
                "404 BLOB_UNKNOWN".to_owned(),
            ),
            (
                Cause::Body {
                    error: RequestBodyError::Broken("gone".into()),
                    code: ErrorCode::ManifestInvalid,
                },
                "400 MANIFEST_INVALID connection close".to_owned(),
            ),
            (
                Cause::Body {
                    error: RequestBodyError::Stalled {
                        patience: Duration::from_secs(300),
                    },
                    code: ErrorCode::BlobUploadInvalid,
                },
                "408 BLOB_UPLOAD_INVALID connection close".to_owned(),
            ),
            (
                ChunkRange::parse("x").unwrap_err().into(),
                "400 BLOB_UPLOAD_INVALID".to_owned(),
            ),
            (
                MediaType::from_content_type("x").unwrap_err().into(),
                "400 MANIFEST_INVALID".to_owned(),
            ),
            (
                DeleteBlobError::InUse {
                    digest: digest(),
                    manifest: digest(),
                }
                .into(),
                "405 UNSUPPORTED allow GET, HEAD".to_owned(),
            ),
            (
                DeleteBlobError::Unknown {
                    name: name(),
                    digest: digest(),
                }
                .into(),
                "404 BLOB_UNKNOWN".to_owned(),
            ),
            (
                Cause::DeleteDisabled {
                    allow: "GET, HEAD, PUT",
                },
                "405 UNSUPPORTED allow GET, HEAD, PUT".to_owned(),
            ),
            (
                Cause::Denied {
                    reason: "no".to_owned(),
                },
                "403 DENIED".to_owned(),
            ),
            (
                Cause::DigestMismatch {
                    expected: digest(),
                    computed: digest(),
                },
                "400 DIGEST_INVALID".to_owned(),
            ),
            (
                EventSinkError::Full { limit: 4 }.into(),
                "503 UNAVAILABLE retry-after 5".to_owned(),
            ),
            (
                ManifestError::TooLarge { limit: 4, got: 5 }.into(),
                "413 MANIFEST_INVALID".to_owned(),
            ),
            (
                ManifestError::Schema1.into(),
                "400 MANIFEST_INVALID".to_owned(),
            ),
            (
                ManifestReadError::Damaged { digest: digest() }.into(),
                "404 MANIFEST_UNKNOWN".to_owned(),
            ),
            (
                ManifestReadError::RepositoryUnknown { name: name() }.into(),
                "404 NAME_UNKNOWN".to_owned(),
            ),
            (
                ManifestReadError::Unknown {
                    name: name(),
                    reference: "x".parse().unwrap(),
                }
                .into(),
                "404 MANIFEST_UNKNOWN".to_owned(),
            ),
            (
                Cause::OutsidePrefix {
                    prefix: Prefix::default(),
                },
                "404 UNSUPPORTED".to_owned(),
            ),
            (
                Cause::Hidden {
                    absence: Box::new(ManifestReadError::RepositoryUnknown { name: name() }.into()),
                },
                "404 NAME_UNKNOWN".to_owned(),
            ),
            (
                Cause::TooMany(TooMany {
                    what: "requests",
                    whose: "your address",
                    retry_after: Duration::from_millis(1500),
                }),
                "429 TOOMANYREQUESTS retry-after 2".to_owned(),
            ),
            (Cause::Panicked, "500 UNKNOWN".to_owned()),
            (
                PutManifestError::Missing(Vec::new()).into(),
                "400 MANIFEST_BLOB_UNKNOWN".to_owned(),
            ),
            (
                Cause::Range { size: 7 },
                "416 SIZE_INVALID content-range bytes */7".to_owned(),
            ),
            (
                Cause::ReadOnly { allow: "GET, HEAD" },
                "405 UNSUPPORTED allow GET, HEAD".to_owned(),
            ),
            (
                routes("PUT", "/v2/"),
                "405 UNSUPPORTED allow GET, HEAD".to_owned(),
            ),
            (
                routes("GET", "/v2/A/tags/list"),
                "400 NAME_INVALID".to_owned(),
            ),
            (routes("GET", "/v2/a/tags/x"), "404 UNSUPPORTED".to_owned()),
            (
                routes("GET", "/v2/a/blobs/uploads/x"),
                "404 BLOB_UPLOAD_UNKNOWN".to_owned(),
            ),
            (
                Cause::Unauthenticated {
                    reason: "who".to_owned(),
                    challenge: "Basic realm=\"r\"".to_owned(),
                },
                "401 UNAUTHORIZED www-authenticate Basic realm=\"r\"".to_owned(),
            ),
            (
                Cause::Undecided(AuthorizeError {
                    retry_after: Duration::from_secs(7),
                    cause: "the directory is down".to_owned(),
                }),
                "503 UNAVAILABLE retry-after 7".to_owned(),
            ),
            (Cause::Unhealthy, "503 UNAVAILABLE retry-after 5".to_owned()),
            (
                Cause::Unidentified {
                    error: AuthenticateError::Rejected,
                    retry_after: Duration::from_secs(9),
                },
                "503 UNAVAILABLE retry-after 9".to_owned(),
            ),
            (
                UploadError::Unknown { id }.into(),
                "404 BLOB_UPLOAD_UNKNOWN".to_owned(),
            ),
            (
                UrlRefused {
                    layer: "x".to_owned(),
                    url: "y".to_owned(),
                }
                .into(),
                "400 MANIFEST_INVALID".to_owned(),
            ),
        ];
        for (cause, expected) in table {
            let description = format!("{cause:?}");
            assert_eq!(summary(Failure::from(cause)), expected, "{description}");
        }
    }

    #[test]
    fn storage_errors_mean_the_same_in_every_operation() {
        let wrap: [fn(StorageError) -> Cause; 8] = [
            |error| Cause::Storage(error),
            |error| BlobError::Storage(error).into(),
            |error| DeleteBlobError::Storage(error).into(),
            |error| ManifestReadError::Storage(error).into(),
            |error| PutManifestError::Storage(error).into(),
            |error| UploadError::Storage(error).into(),
            |error| CompleteUploadError::Storage(error).into(),
            |error| CompleteUploadError::Append(AppendError::Storage(error)).into(),
        ];
        for wrap in wrap {
            for (error, expected) in storage() {
                let cause = wrap(error);
                let (_, code) = verdict(&cause);
                let body = ErrorResponse::new(errors(&cause, code, Some(&id()))).to_json();
                let body = String::from_utf8(body).unwrap();
                assert!(body.contains("(request `r-1`)"), "{body}");
                assert!(!body.contains("secret") && !body.contains("a/b"), "{body}");
                assert_eq!(summary(Failure::from(cause)), expected);
            }
        }
    }

    #[test]
    fn every_missing_dependency_is_named() {
        let missing = |digest: &str| registry_storage::MissingDependency {
            digest: digest.to_owned(),
            reason: "is not there".to_owned(),
        };
        let cause = Cause::from(PutManifestError::Missing(vec![missing("a"), missing("b")]));
        let body = ErrorResponse::new(errors(&cause, verdict(&cause).1, None)).to_json();
        let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(body["errors"][1]["detail"]["digest"], "b");
        assert_eq!(body["errors"].as_array().unwrap().len(), 2);
    }
}
