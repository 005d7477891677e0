//! Redirects: clients that get a blob from where it is kept, and not through the registry

use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{HeaderMap, Response, StatusCode, Uri, header};
use registry_core::range::Resolved;
use registry_core::{Digest, RepositoryName};

use crate::body::ResponseBody;
use crate::reply::{CONTENT_DIGEST, Reply};

/// How long an address may be looked for: after it the registry sends the blob itself
///
/// A signature takes microseconds, but its credentials may have to be fetched first.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long after a failure was logged further ones are only counted
const QUIET: Duration = Duration::from_secs(60);

/// A blob that someone may read, and wants to
///
/// # Examples
///
/// ```
/// use registry_core::Digest;
/// use registry_http::redirect::WantedBlob;
///
/// let name = "library/alpine".parse()?;
/// let digest = Digest::sha256(b"content");
/// let blob = WantedBlob { name: &name, digest: &digest, size: 7, client: None };
/// assert_eq!(blob.size, 7);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct WantedBlob<'a> {
    /// The repository in which it was asked for
    pub name: &'a RepositoryName,
    /// The blob
    pub digest: &'a Digest,
    /// How many bytes it has
    pub size: u64,
    /// The address of the client, as far as it is known: what a trusted proxy says, else who
    /// has connected
    pub client: Option<IpAddr>,
}

/// Knows where else a blob can be had
///
/// Asked for each `GET` of a blob that is in the repository, when the client may read it. A
/// `HEAD` is always answered by the registry, since what is signed for one method is worth
/// nothing for another, and manifests are always sent by it.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use async_trait::async_trait;
/// use http::Uri;
/// use registry_auth::{AllowAll, Anyone};
/// use registry_http::RegistryService;
/// use registry_http::redirect::{BlobRedirect, BlobRedirectError, WantedBlob};
/// use registry_storage::{Memory, Store};
///
/// /// A web server has the folder of the registry
/// #[derive(Debug)]
/// struct Mirror;
///
/// #[async_trait]
/// impl BlobRedirect for Mirror {
///     async fn location(&self, blob: &WantedBlob<'_>) -> Result<Option<Uri>, BlobRedirectError> {
///         let key = Store::blob_key(blob.digest);
///         let url = format!("https://mirror.example/{key}");
///         url.parse().map(Some).map_err(BlobRedirectError::new)
///     }
/// }
///
/// let store = Store::new(Arc::new(Memory::new()));
/// let service = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll))
///     .redirects(Arc::new(Mirror))
///     .build();
/// ```
#[async_trait]
pub trait BlobRedirect: fmt::Debug + Send + Sync + 'static {
    /// The whole URL under which this client can `GET` the blob and any range of it, without
    /// credentials, for the next few minutes; `None` if the registry is to send it
    ///
    /// # Errors
    ///
    /// When it should be elsewhere and cannot be said. The registry then sends the blob itself,
    /// and logs why once in a while.
    async fn location(&self, blob: &WantedBlob<'_>) -> Result<Option<Uri>, BlobRedirectError>;
}

/// Why it cannot be said where a blob can be had
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct BlobRedirectError {
    reason: String,
}

impl BlobRedirectError {
    /// An error for the log, without secrets
    pub fn new(reason: impl fmt::Display) -> Self {
        Self {
            reason: reason.to_string(),
        }
    }
}

/// Asks where blobs are, and bears with whoever does not know
pub(crate) struct Redirects {
    to: Arc<dyn BlobRedirect>,
    failures: Mutex<Failures>,
}

/// What has failed since something was logged
#[derive(Default)]
struct Failures {
    logged: Option<Instant>,
    unlogged: u64,
}

impl Failures {
    /// Counts one more, and says how many are to be logged now, if any are
    fn one_more(&mut self, now: Instant) -> Option<u64> {
        self.unlogged += 1;
        let is_quiet = |logged: Instant| now.saturating_duration_since(logged) < QUIET;
        if self.logged.is_some_and(is_quiet) {
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.unlogged))
    }
}

impl Redirects {
    pub(crate) fn new(to: Arc<dyn BlobRedirect>) -> Self {
        Self {
            to,
            failures: Mutex::default(),
        }
    }

    /// Where a blob can be had; `None` if the registry is to send it
    pub(crate) async fn location(&self, blob: &WantedBlob<'_>) -> Option<Uri> {
        let failed = match tokio::time::timeout(PATIENCE, self.to.location(blob)).await {
            // A path would be taken for one of the registry's own.
            Ok(Ok(Some(uri))) if uri.scheme().is_none() => {
                "expected a whole URL, found a path".to_owned()
            }
            Ok(Ok(location)) => return location,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("there was no answer within {} s", PATIENCE.as_secs()),
        };
        // A count is never left half changed, so one that another thread gave up is usable.
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(blobs) = failures.one_more(Instant::now()) {
            tracing::warn!(
                blobs,
                "blobs are sent from here, for it cannot be said where else they are: {failed}"
            );
        }
        None
    }
}

/// Whether what a request asks for can be had from whoever has nothing but the blob
///
/// The conditions of a request name our tags, which no store knows. Several ranges at once are
/// more than most stores can do. What is not there at all we can say ourselves.
pub(crate) fn is_for_others(headers: &HeaderMap, wanted: &Resolved) -> bool {
    let is_ours = [header::IF_RANGE, header::IF_MATCH]
        .iter()
        .any(|name| headers.contains_key(name));
    !is_ours
        && match wanted {
            Resolved::Whole => true,
            Resolved::Parts(parts) => parts.len() == 1,
            Resolved::Unsatisfiable => false,
        }
}

/// Sends a client to `location`
///
/// Nothing may keep the answer: the next client may not be allowed what this one is, and the
/// URL does not last.
pub(crate) fn respond(digest: &Digest, location: &Uri) -> Response<ResponseBody> {
    Reply::new(StatusCode::TEMPORARY_REDIRECT)
        .header(header::LOCATION, location)
        .header(CONTENT_DIGEST, digest)
        .header(header::CACHE_CONTROL, "no-store")
        .empty()
}

#[cfg(test)]
mod tests {
    use registry_core::RangeHeader;

    use super::*;

    #[test]
    fn failures_are_logged_at_the_first_and_then_now_and_then() {
        let mut failures = Failures::default();
        let begin = Instant::now();
        let table = [
            (0, Some(1)),
            (1, None),
            (59, None),
            (60, Some(3)),
            (61, None),
            (500, Some(2)),
        ];
        for (seconds, logged) in table {
            let now = begin + Duration::from_secs(seconds);
            assert_eq!(failures.one_more(now), logged, "{seconds}");
        }
    }

    #[test]
    fn what_only_the_registry_can_answer_is_not_sent_elsewhere() {
        let resolved = |text: &str| RangeHeader::parse(text).unwrap().resolve(10);
        let none = HeaderMap::new();
        assert!(is_for_others(&none, &Resolved::Whole));
        assert!(is_for_others(&none, &resolved("bytes=2-4")));
        assert!(is_for_others(&none, &resolved("bytes=-3")));
        assert!(!is_for_others(&none, &resolved("bytes=0-1,5-6")));
        assert!(!is_for_others(&none, &resolved("bytes=10-")));
        for name in [header::IF_RANGE, header::IF_MATCH] {
            let headers = HeaderMap::from_iter([(name, "\"x\"".parse().unwrap())]);
            assert!(!is_for_others(&headers, &Resolved::Whole));
        }
    }
}
