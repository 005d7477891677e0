//! From method, path and query to an [`Operation`], as a pure function

use crate::digest::{Algorithm, Digest, DigestError};
use crate::error::{ErrorCode, ErrorDetail};
use crate::name::{NameError, RepositoryName, Tag, TagError, TagOrDigest};
use crate::operation::{Operation, StartUpload};
use crate::page::{Page, PageError, percent_decode};
use crate::upload::UploadId;

/// The most tags that one manifest push may set through `?tag=`
///
/// The distribution specification asks for at least 10 ("Pushing Manifests", end-7b).
pub const MAX_TAGS: usize = 64;

/// Reads what a request asks for
///
/// `path` is the path as it came, still percent-encoded; `query` is what stands behind the
/// `?`. `HEAD` routes as `GET`. Each segment is decoded once; an encoded slash never becomes
/// a separator. Names may contain `blobs`, `manifests` and the like as components, so the path
/// is read from its right end. Unknown query parameters are ignored (specification,
/// "Registry Proxying": `ns`).
///
/// # Errors
///
/// [`RouteError`], which names the status and code to answer with.
///
/// # Examples
///
/// ```
/// use registry_core::{Operation, RouteError, route};
///
/// assert_eq!(route("GET", "/v2/", None)?, Operation::Ping);
/// assert!(matches!(
///     route("GET", "/v2/app/manifests/..%2F..%2Fetc", None),
///     Err(RouteError::Tag(_)),
/// ));
/// # Ok::<(), RouteError>(())
/// ```
pub fn route(method: &str, path: &str, query: Option<&str>) -> Result<Operation, RouteError> {
    let rest = match path.strip_prefix("/v2") {
        Some("" | "/") => {
            return match method {
                "GET" | "HEAD" => Ok(Operation::Ping),
                _ => Err(RouteError::Method {
                    allowed: "GET, HEAD",
                }),
            };
        }
        Some(rest) => match rest.strip_prefix('/') {
            Some(rest) => rest,
            None => return Err(RouteError::NoSuchPath),
        },
        None => return Err(RouteError::NoSuchPath),
    };
    if rest == "_catalog" {
        return match method {
            "GET" | "HEAD" => Ok(Operation::Catalog { page: page(query)? }),
            _ => Err(RouteError::Method {
                allowed: "GET, HEAD",
            }),
        };
    }
    if rest.starts_with('_') {
        return Err(RouteError::Extension);
    }

    // The keyword is looked for at fixed places from the right, so at most four segments are
    // split off and everything before them is the name.
    let mut right = rest.rsplitn(4, '/');
    let last = right.next().unwrap_or_default();
    let second = right.next();
    let third = right.next();
    let before = |count: usize| {
        let mut end = rest.len();
        for segment in rest.rsplit('/').take(count) {
            end = end.saturating_sub(segment.len() + 1);
        }
        &rest[..end]
    };

    match (third, second, last) {
        (Some("blobs"), Some("uploads"), "") => start_upload(method, before(3), query),
        (Some("blobs"), Some("uploads"), id) => upload(method, before(3), id, query),
        (_, Some("blobs"), "uploads") => start_upload(method, before(2), query),
        (_, Some("blobs"), digest) => blob(method, before(2), digest),
        (_, Some("manifests"), reference) => manifest(method, before(2), reference, query),
        (_, Some("tags"), "list") => match method {
            "GET" | "HEAD" => Ok(Operation::ListTags {
                name: name(before(2))?,
                page: page(query)?,
            }),
            _ => Err(RouteError::Method {
                allowed: "GET, HEAD",
            }),
        },
        (_, Some("referrers"), subject) => match method {
            "GET" | "HEAD" => Ok(Operation::ListReferrers {
                name: name(before(2))?,
                digest: digest(&decode(subject)?)?,
                artifact_type: Query(query).first("artifactType")?,
                page: page(query)?,
            }),
            _ => Err(RouteError::Method {
                allowed: "GET, HEAD",
            }),
        },
        _ if rest.split('/').any(|segment| segment.starts_with('_')) => Err(RouteError::Extension),
        _ => Err(RouteError::NoSuchPath),
    }
}

/// Why a request is no [`Operation`]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouteError {
    /// A digest in the path or query is out of grammar or of an unknown algorithm
    #[error(transparent)]
    Digest(#[from] DigestError),
    /// The digest that closes an upload is missing
    #[error(
        "expected the blob's digest as `?digest=<algorithm>:<hex>`, none came; send it with the closing request"
    )]
    DigestMissing,
    /// A component of the name contains an encoded slash
    #[error(
        "expected a component of a repository name, got `{part}`; an encoded slash does not separate components, write `/`"
    )]
    EncodedSlash {
        /// The component, decoded
        part: String,
    },
    /// A percent-escape is broken or does not decode to UTF-8
    #[error("expected percent-encoded UTF-8, `{part}` is not")]
    Encoding {
        /// The part of the path or query
        part: String,
    },
    /// The path belongs to an extension that this registry does not have
    #[error("no extension of the distribution specification is offered under this path")]
    Extension,
    /// The path exists, the method does not
    #[error("this path takes {allowed}")]
    Method {
        /// The methods that the path takes, as an `Allow` header lists them
        allowed: &'static str,
    },
    /// The repository name is out of grammar
    #[error(transparent)]
    Name(#[from] NameError),
    /// The path is none of the registry's
    #[error("no such path; the registry's API is under `/v2/`")]
    NoSuchPath,
    /// The page size is not a number
    #[error(transparent)]
    Page(#[from] PageError),
    /// The tag is out of grammar
    #[error(transparent)]
    Tag(#[from] TagError),
    /// More tags in one request than the registry sets
    #[error(
        "at most {MAX_TAGS} `tag` parameters are taken, {count} came; push the others in a second request"
    )]
    TooManyTags {
        /// How many came
        count: usize,
    },
    /// What stands for an upload session is no session id
    #[error(
        "`{id}` is no upload session of this registry; start one with `POST /v2/<name>/blobs/uploads/`"
    )]
    UploadId {
        /// What came
        id: String,
    },
}

impl RouteError {
    /// The HTTP status to answer with
    pub fn status(&self) -> u16 {
        match self {
            Self::Digest(_)
            | Self::DigestMissing
            | Self::EncodedSlash { .. }
            | Self::Encoding { .. }
            | Self::Name(_)
            | Self::Page(_)
            | Self::Tag(_) => 400,
            Self::Extension | Self::NoSuchPath | Self::UploadId { .. } => 404,
            Self::Method { .. } => 405,
            Self::TooManyTags { .. } => 414,
        }
    }

    /// The error to put into the response
    pub fn detail(&self) -> ErrorDetail {
        let code = match self {
            Self::Digest(_) | Self::DigestMissing => ErrorCode::DigestInvalid,
            Self::EncodedSlash { .. } | Self::Encoding { .. } | Self::Name(_) => {
                ErrorCode::NameInvalid
            }
            Self::Extension | Self::Method { .. } | Self::NoSuchPath => ErrorCode::Unsupported,
            Self::Page(_) => ErrorCode::PaginationNumberInvalid,
            Self::Tag(_) | Self::TooManyTags { .. } => ErrorCode::TagInvalid,
            Self::UploadId { .. } => ErrorCode::BlobUploadUnknown,
        };
        ErrorDetail::new(code, self.to_string())
    }
}

fn start_upload(method: &str, path: &str, query: Option<&str>) -> Result<Operation, RouteError> {
    if method != "POST" {
        return Err(RouteError::Method { allowed: "POST" });
    }
    let name = name(path)?;
    let query = Query(query);
    let algorithm = match query.first("digest-algorithm")? {
        Some(algorithm) => Algorithm::try_from(algorithm.as_str())?,
        None => Algorithm::default(),
    };
    if let Some(text) = query.first("mount")? {
        // "Mounting a blob": whatever is wrong with a mount, the client gets a session to
        // upload to, never an error.
        let digest = Digest::try_from(text.as_str());
        let from = query
            .first("from")?
            .map(|from| RepositoryName::try_from(from.as_str()))
            .transpose();
        return Ok(Operation::StartUpload {
            name,
            start: match (digest, from) {
                (Ok(digest), Ok(from)) => StartUpload::Mount { digest, from },
                _ => StartUpload::Session { algorithm },
            },
        });
    }
    let start = match query.first("digest")? {
        Some(text) => StartUpload::Monolithic {
            digest: digest(&text)?,
        },
        None => StartUpload::Session { algorithm },
    };
    Ok(Operation::StartUpload { name, start })
}

fn upload(
    method: &str,
    path: &str,
    id: &str,
    query: Option<&str>,
) -> Result<Operation, RouteError> {
    let name = name(path)?;
    let id = decode(id)?;
    let id = UploadId::try_from(id.as_str()).map_err(|_| RouteError::UploadId { id })?;
    match method {
        "GET" | "HEAD" => Ok(Operation::UploadStatus { name, id }),
        "PATCH" => Ok(Operation::UploadChunk { name, id }),
        "PUT" => {
            // Clients append `digest=` to whatever query the location had, so it is looked up
            // by name (specification, "POST then PUT").
            let text = Query(query)
                .first("digest")?
                .ok_or(RouteError::DigestMissing)?;
            Ok(Operation::CompleteUpload {
                name,
                id,
                digest: digest(&text)?,
            })
        }
        "DELETE" => Ok(Operation::CancelUpload { name, id }),
        _ => Err(RouteError::Method {
            allowed: "GET, HEAD, PATCH, PUT, DELETE",
        }),
    }
}

fn blob(method: &str, path: &str, text: &str) -> Result<Operation, RouteError> {
    let name = name(path)?;
    let digest = digest(&decode(text)?)?;
    match method {
        "GET" | "HEAD" => Ok(Operation::GetBlob { name, digest }),
        "DELETE" => Ok(Operation::DeleteBlob { name, digest }),
        _ => Err(RouteError::Method {
            allowed: "GET, HEAD, DELETE",
        }),
    }
}

fn manifest(
    method: &str,
    path: &str,
    reference: &str,
    query: Option<&str>,
) -> Result<Operation, RouteError> {
    let name = name(path)?;
    let text = decode(reference)?;
    // A string with a colon is never a tag (specification, "Pulling manifests").
    let reference = if text.contains(':') {
        TagOrDigest::Digest(digest(&text)?)
    } else {
        TagOrDigest::Tag(Tag::try_from(text.as_str())?)
    };
    match method {
        "GET" | "HEAD" => Ok(Operation::GetManifest { name, reference }),
        "PUT" => {
            let mut tags = Vec::new();
            if matches!(reference, TagOrDigest::Digest(_)) {
                for text in Query(query).all("tag") {
                    let tag = Tag::try_from(text?.as_str())?;
                    if !tags.contains(&tag) {
                        tags.push(tag);
                    }
                    if tags.len() > MAX_TAGS {
                        return Err(RouteError::TooManyTags {
                            count: Query(query).all("tag").count(),
                        });
                    }
                }
            }
            Ok(Operation::PutManifest {
                name,
                reference,
                tags,
            })
        }
        "DELETE" => Ok(Operation::DeleteManifest { name, reference }),
        _ => Err(RouteError::Method {
            allowed: "GET, HEAD, PUT, DELETE",
        }),
    }
}

fn name(path: &str) -> Result<RepositoryName, RouteError> {
    if !path.contains('%') {
        return Ok(RepositoryName::try_from(path)?);
    }
    // An encoded slash decodes to a character that no component has. It must not join two
    // components, so each is checked before they are put together again.
    let mut decoded = String::with_capacity(path.len());
    for (index, segment) in path.split('/').enumerate() {
        let segment = decode(segment)?;
        if segment.contains('/') {
            return Err(RouteError::EncodedSlash { part: segment });
        }
        if index > 0 {
            decoded.push('/');
        }
        decoded.push_str(&segment);
    }
    Ok(RepositoryName::try_from(decoded.as_str())?)
}

fn digest(text: &str) -> Result<Digest, DigestError> {
    Digest::try_from(text)
}

fn decode(segment: &str) -> Result<String, RouteError> {
    percent_decode(segment).ok_or_else(|| RouteError::Encoding {
        part: segment.to_owned(),
    })
}

fn page(query: Option<&str>) -> Result<Page, RouteError> {
    let query = Query(query);
    let limit = query.first("n")?;
    let last = query.first("last")?;
    Ok(Page::new(limit.as_deref(), last.as_deref())?)
}

/// The query of a request
struct Query<'a>(Option<&'a str>);

impl<'a> Query<'a> {
    fn all(&self, key: &'static str) -> impl Iterator<Item = Result<String, RouteError>> + 'a {
        self.0
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .filter(move |(name, _)| *name == key)
            .map(|(_, value)| decode(value))
    }

    /// The first value that is not empty
    fn first(&self, key: &'static str) -> Result<Option<String>, RouteError> {
        self.all(key)
            .find(|value| !matches!(value, Ok(value) if value.is_empty()))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    const UUID: &str = "8cd5b4e7-9b0f-4d3a-8f6c-2f5f6f0f0a11";

    fn ok(method: &str, target: &str) -> Operation {
        try_route(method, target).unwrap_or_else(|error| panic!("{method} {target}: {error}"))
    }

    fn try_route(method: &str, target: &str) -> Result<Operation, RouteError> {
        match target.split_once('?') {
            Some((path, query)) => route(method, path, Some(query)),
            None => route(method, target, None),
        }
    }

    fn status(method: &str, target: &str) -> u16 {
        try_route(method, target)
            .expect_err("should be refused")
            .status()
    }

    #[test]
    fn every_endpoint_has_its_operation() {
        let table = [
            ("GET", "/v2/".to_owned(), "ping"),
            ("HEAD", "/v2".to_owned(), "ping"),
            ("GET", "/v2/_catalog?n=5".to_owned(), "catalog"),
            ("GET", "/v2/a/tags/list".to_owned(), "list_tags"),
            ("GET", "/v2/a/b/manifests/v1".to_owned(), "get_manifest"),
            ("PUT", "/v2/a/b/manifests/v1".to_owned(), "put_manifest"),
            (
                "DELETE",
                format!("/v2/a/manifests/sha256:{HEX}"),
                "delete_manifest",
            ),
            ("HEAD", format!("/v2/a/blobs/sha256:{HEX}"), "get_blob"),
            (
                "DELETE",
                format!("/v2/a/blobs/sha256%3A{HEX}"),
                "delete_blob",
            ),
            ("POST", "/v2/a/blobs/uploads/".to_owned(), "start_upload"),
            ("POST", "/v2/a/blobs/uploads".to_owned(), "start_upload"),
            (
                "GET",
                format!("/v2/a/blobs/uploads/{UUID}"),
                "upload_status",
            ),
            (
                "PATCH",
                format!("/v2/a/blobs/uploads/{UUID}"),
                "upload_chunk",
            ),
            (
                "PUT",
                format!("/v2/a/blobs/uploads/{UUID}?_s=1&digest=sha256:{HEX}"),
                "complete_upload",
            ),
            (
                "DELETE",
                format!("/v2/a/blobs/uploads/{UUID}"),
                "cancel_upload",
            ),
            (
                "GET",
                format!("/v2/a/referrers/sha256:{HEX}"),
                "list_referrers",
            ),
        ];
        for (method, target, label) in table {
            assert_eq!(ok(method, &target).label(), label, "{method} {target}");
        }
    }

    #[test]
    fn names_may_contain_the_keywords() {
        for name in [
            "blobs",
            "manifests",
            "tags",
            "uploads",
            "referrers",
            "blobs/uploads",
            "tags/list",
            "a/blobs/uploads",
            "manifests/manifests",
            "a/tags/list/b",
            "v2",
        ] {
            for (method, target) in [
                ("GET", format!("/v2/{name}/manifests/latest")),
                ("GET", format!("/v2/{name}/tags/list")),
                ("GET", format!("/v2/{name}/blobs/sha256:{HEX}")),
                ("POST", format!("/v2/{name}/blobs/uploads/")),
                ("PATCH", format!("/v2/{name}/blobs/uploads/{UUID}")),
                ("GET", format!("/v2/{name}/referrers/sha256:{HEX}")),
            ] {
                let operation = ok(method, &target);
                assert_eq!(operation.repository().unwrap().as_str(), name, "{target}");
            }
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        for target in [
            "/v2/a/../b/manifests/x",
            "/v2/../a/manifests/x",
            "/v2/a%2Fb/manifests/x",
            "/v2/a//b/manifests/x",
            "/v2//a/manifests/x",
            "/v2/A/manifests/x",
            "/v2/%2e%2e/manifests/x",
            "/v2/a/manifests/..",
            "/v2/a/manifests/%2e%2e%2fx",
            "/v2/a/manifests/",
            "/v2/a%00/manifests/x",
            "/v2/a/manifests/%ff",
            "/v2/a/manifests/%4",
            "/v2/manifests/x",
            "/v2/a/blobs/sha256:..",
            "/v2/a/../blobs/x",
            "/v2/a/manifests/sha256:baddigeststring",
        ] {
            assert_eq!(status("GET", target), 400, "{target}");
        }
        for target in [
            "/",
            "/v1/",
            "/v2x/",
            "/v22/_catalog",
            "/v2/a",
            "/v2/a/b/c",
            "//v2/",
            "/foo/v2/",
            "/V2/",
            "/v2/a/manifests/x/y/",
            "/v2/_oci/ext/discover",
            "/v2/a/_oci/ext/discover",
            "/v2/a/blobs/uploads/not-a-session",
            "/v2/a/blobs/uploads/..",
            "/v2/a/blobs/../x",
        ] {
            assert_eq!(status("GET", target), 404, "{target}");
        }
        assert_eq!(status("PUT", &format!("/v2/a/blobs/uploads/{UUID}")), 400);
        assert_eq!(status("POST", "/v2/a/blobs/uploads/?digest=sha256:x"), 400);
        assert_eq!(
            status("POST", "/v2/a/blobs/uploads/?digest-algorithm=md5"),
            400
        );
        assert_eq!(status("GET", "/v2/a/tags/list?n=-1"), 400);
        assert_eq!(status("GET", "/v2/a/blobs/uploads/"), 405);
        assert_eq!(status("POST", "/v2/a/manifests/x"), 405);
    }

    #[test]
    fn a_mount_never_fails() {
        let mount = |query: &str| match ok("POST", &format!("/v2/a/blobs/uploads/?{query}")) {
            Operation::StartUpload { start, .. } => start,
            other => panic!("{other:?}"),
        };
        assert!(matches!(
            mount(&format!("mount=sha256%3A{HEX}&from=library%2Falpine&origin=x")),
            StartUpload::Mount { from: Some(from), .. } if from.as_str() == "library/alpine"
        ));
        assert!(matches!(
            mount(&format!("mount=sha256:{HEX}")),
            StartUpload::Mount { from: None, .. }
        ));
        for query in [
            "mount=sha256:bad&from=b".to_owned(),
            format!("mount=sha256:{HEX}&from=.."),
        ] {
            assert!(
                matches!(mount(&query), StartUpload::Session { .. }),
                "{query}"
            );
        }
    }

    #[test]
    fn tags_of_a_push_by_digest() {
        let Operation::PutManifest { tags, .. } = ok(
            "PUT",
            &format!("/v2/a/manifests/sha256:{HEX}?tag=a&tag=b&tag=a"),
        ) else {
            panic!()
        };
        assert_eq!(tags.len(), 2);
        let Operation::PutManifest { tags, .. } = ok("PUT", "/v2/a/manifests/v1?tag=b") else {
            panic!()
        };
        assert!(tags.is_empty());
        let many: String = (0..100).map(|i| format!("&tag=t{i}")).collect();
        assert_eq!(
            status("PUT", &format!("/v2/a/manifests/sha256:{HEX}?x=1{many}")),
            414
        );
        assert_eq!(
            status("PUT", &format!("/v2/a/manifests/sha256:{HEX}?tag=..")),
            400
        );
    }

    #[test]
    fn access_follows_the_reference_registry() {
        let scopes = |method: &str, target: &str| -> Vec<String> {
            ok(method, target)
                .access()
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(scopes("GET", "/v2/"), Vec::<String>::new());
        assert_eq!(scopes("GET", "/v2/_catalog"), ["registry:catalog:*"]);
        assert_eq!(scopes("GET", "/v2/a/b/tags/list"), ["repository:a/b:pull"]);
        assert_eq!(
            scopes("DELETE", &format!("/v2/a/blobs/uploads/{UUID}")),
            ["repository:a:pull", "repository:a:push"]
        );
    }
}
