//! The keys that a URL gives, kept up to date

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CACHE_CONTROL, ETAG, IF_NONE_MATCH};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::http_client::{HttpClient, HttpError};
use crate::invocation::Invocation;
use crate::token::jwks_url::{JwksUrl, JwksUrlError};
use crate::token::trust::{MAX_FILE, Trust, TrustProblem};

/// The keys at a URL, and the task that fetches them, which ends with this
#[derive(Debug)]
pub(super) struct Published {
    source: Arc<Source>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Published {
    /// Begins to fetch, if there is a runtime already; else upon first use
    pub(super) fn new(url: JwksUrl) -> Result<Self, JwksUrlError> {
        let http = HttpClient::new(url.tls.clone(), url.is_tls())?;
        let published = Self {
            source: Arc::new(Source {
                http,
                state: watch::Sender::new(State {
                    keys: None,
                    completed: 0,
                    is_pending: true,
                    failures: 0,
                    next: Instant::now(),
                }),
                wanted: Notify::new(),
                asked: Mutex::new(None),
                url,
            }),
            task: Mutex::new(None),
        };
        published.ensure_task();
        Ok(published)
    }

    /// The keys of the last fetch that succeeded; the same value as long as they are the same
    pub(super) fn keys(&self) -> Option<Arc<Trust>> {
        self.source.state.borrow().keys.clone()
    }

    /// Waits for the very first fetch, if it is still under way
    pub(super) async fn begun(&self) {
        self.ensure_task();
        if self.source.state.borrow().completed == 0 {
            self.completed(0).await;
        }
    }

    /// Whether keys were fetched because of a token of a key that is not known
    pub(super) async fn ask_again(&self) -> bool {
        let completed = {
            let mut asked = self
                .source
                .asked
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let (is_pending, completed) = {
                let state = self.source.state.borrow();
                (state.is_pending, state.completed)
            };
            if !is_pending {
                if asked.is_some_and(|at| at.elapsed() < PAUSE) {
                    return false;
                }
                *asked = Some(Instant::now());
                // At once, so that those who come next wait for the same fetch.
                self.source
                    .state
                    .send_modify(|state| state.is_pending = true);
                self.source.wanted.notify_one();
            }
            completed
        };
        self.completed(completed).await
    }

    /// When to try again with a token that was refused, if more keys may be known then
    ///
    /// A token of a key that `is_unknown` may be good while the URL does not answer; before there are any keys,
    /// nothing is known of any.
    pub(super) fn retry_after(&self, is_unknown: bool) -> Option<Duration> {
        let state = self.source.state.borrow();
        let is_open = state.keys.is_none() || is_unknown && state.failures > 0;
        is_open.then(|| {
            let wait = state.next.saturating_duration_since(Instant::now());
            // The header has whole seconds, and a fetch takes a moment.
            Duration::from_secs(wait.as_secs() + 1)
        })
    }

    /// Waits until more fetches than `before` have ended, or none can be expected to
    async fn completed(&self, before: u64) -> bool {
        let mut state = self.source.state.subscribe();
        let ended = state.wait_for(|state| state.completed > before);
        // A fetch ends by itself in time, unless the runtime that it is in is at its end.
        let patience = self.source.url.timeout + Duration::from_secs(1);
        matches!(tokio::time::timeout(patience, ended).await, Ok(Ok(_)))
    }

    /// Starts the task where there is none, or where the runtime of the former one is no more
    fn ensure_task(&self) {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.as_ref().is_none_or(JoinHandle::is_finished)
            && let Ok(runtime) = Handle::try_current()
        {
            *task = Some(runtime.spawn(self.source.clone().keep()));
        }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task {
            task.abort();
        }
    }
}

struct Source {
    url: JwksUrl,
    http: HttpClient,
    state: watch::Sender<State>,
    /// Tells the task not to wait until the next fetch is due
    wanted: Notify,
    /// When a token of an unknown key last led to a fetch
    asked: Mutex<Option<Instant>>,
}

struct State {
    keys: Option<Arc<Trust>>,
    /// How many fetches have ended, in whatever way
    completed: u64,
    /// Whether a fetch is under way, or about to begin
    is_pending: bool,
    /// How many fetches have failed since the last that succeeded
    failures: u32,
    /// When the next fetch is due
    next: Instant,
}

/// What an answer is compared with
#[derive(Default)]
struct Known {
    etag: Option<HeaderValue>,
    hash: Option<[u8; 32]>,
}

/// What a fetch gives
struct Fetched {
    /// Unless they are as before
    keys: Option<Trust>,
    max_age: Option<Duration>,
}

impl Source {
    /// Fetches the keys whenever it is time
    async fn keep(self: Arc<Self>) {
        let mut known = Known::default();
        loop {
            self.state.send_modify(|state| state.is_pending = true);
            let fetched = self.fetch(&mut known).await;
            let next = self.conclude(fetched);
            // Either the time is over, or somebody wants them before.
            drop(tokio::time::timeout_at(next, self.wanted.notified()).await);
        }
    }

    /// Puts in force what was fetched, and says when the next fetch is due
    fn conclude(&self, fetched: Result<Fetched, FetchError>) -> Instant {
        let failed_before = self.state.borrow().failures;
        let (keys, failures, wait) = match fetched {
            Ok(fetched) => {
                if failed_before > 0 {
                    tracing::info!(url = %self.url, "the keys of tokens can be fetched again");
                }
                let wait = fetched.max_age.unwrap_or(self.url.refresh);
                (fetched.keys.map(Arc::new), 0, wait)
            }
            Err(error) => {
                if failed_before == 0 {
                    tracing::warn!(
                        url = %self.url,
                        %error,
                        "the keys of tokens cannot be fetched; those that are known stay in force"
                    );
                }
                let wait = RETRY.saturating_mul(1 << failed_before.min(6));
                (
                    None,
                    failed_before.saturating_add(1),
                    wait.min(LONGEST_RETRY),
                )
            }
        };
        let next = Instant::now() + wait;
        self.state.send_modify(|state| {
            state.keys = keys.or_else(|| state.keys.take());
            state.completed += 1;
            state.is_pending = false;
            state.failures = failures;
            state.next = next;
        });
        next
    }

    async fn fetch(&self, known: &mut Known) -> Result<Fetched, FetchError> {
        let mut request = Request::get(self.url.uri.clone())
            .header(ACCEPT, "application/jwk-set+json, application/json");
        if let Some(etag) = &known.etag {
            request = request.header(IF_NONE_MATCH, etag);
        }
        let request = request.body(Full::new(Bytes::new()))?;
        let invocation = Invocation::begin("keys", format!("GET {}", self.url.uri.path()));
        let until = Instant::now() + self.url.timeout;
        // The limit is that of a file, which fits into any `usize`.
        let sent = self.http.send(request, MAX_FILE as usize, until).await;
        match &sent {
            Ok(response) => invocation.answered(response.status()),
            Err(error) => invocation.failed(error),
        }
        self.take(sent?, known)
    }

    fn take(&self, response: Response<Bytes>, known: &mut Known) -> Result<Fetched, FetchError> {
        let max_age = max_age(response.headers());
        match response.status() {
            StatusCode::NOT_MODIFIED if known.etag.is_some() => Ok(Fetched {
                keys: None,
                max_age,
            }),
            StatusCode::OK => {
                let hash: [u8; 32] = Sha256::digest(response.body()).into();
                let is_same = known.hash == Some(hash);
                let keys = match is_same {
                    true => None,
                    false => Some(Trust::of_published(response.body(), &self.url)?),
                };
                *known = Known {
                    etag: response.headers().get(ETAG).cloned(),
                    hash: Some(hash),
                };
                Ok(Fetched { keys, max_age })
            }
            status => Err(FetchError::Status { status }),
        }
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

/// Why a fetch gave no keys
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Http(#[from] HttpError),
    #[error("{0}")]
    Problem(#[from] TrustProblem),
    #[error("it cannot be asked: {0}")]
    Request(#[from] http::Error),
    #[error("expected the key set with status 200, got {}", .status.as_u16())]
    Status { status: StatusCode },
}

/// For how long an answer says that it is good (RFC 9111, section 5.2.2.1), within bounds
fn max_age(headers: &HeaderMap) -> Option<Duration> {
    headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .find_map(|directive| {
            let (name, value) = directive.trim().split_once('=')?;
            let seconds = value.trim_matches('"').parse().ok()?;
            name.eq_ignore_ascii_case("max-age")
                .then(|| Duration::from_secs(seconds).clamp(SHORTEST_AGE, LONGEST_AGE))
        })
}

/// How often at most tokens of unknown keys lead to a fetch
const PAUSE: Duration = Duration::from_secs(10);

/// How soon a fetch that failed is tried again; each time twice as late
const RETRY: Duration = Duration::from_secs(1);

/// How late a fetch that failed is tried again at most
const LONGEST_RETRY: Duration = Duration::from_secs(60);

/// The shortest time that an answer can demand
const SHORTEST_AGE: Duration = Duration::from_secs(60);

/// The longest time that an answer can demand, for which a key that was stolen stays in force
const LONGEST_AGE: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_say_how_long_they_are_good_within_bounds() {
        for (header, expected) in [
            ("max-age=3600", Some(3600)),
            ("public, Max-Age=\"120\", immutable", Some(120)),
            ("max-age=0", Some(60)),
            ("max-age=99999999999", Some(86_400)),
            ("s-maxage=120", None),
            ("no-cache", None),
            ("max-age=-1", None),
            ("max-age=99999999999999999999999", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, header.parse().unwrap());
            let expected = expected.map(Duration::from_secs);
            assert_eq!(max_age(&headers), expected, "{header}");
        }
        assert_eq!(max_age(&HeaderMap::new()), None);
    }
}
