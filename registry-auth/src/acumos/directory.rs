//! Where facts come from, asked once and remembered for a short time

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::facts::{Answer, License, Query, Right};
use crate::request;

/// Answers what the rules ask about the platform
///
/// A file, an embedded database, the platform's services. [`Query::Tags`] is not asked of it:
/// that is for [`TagsOf`](super::TagsOf).
#[async_trait]
pub trait Directory: fmt::Debug + Send + Sync + 'static {
    /// The answer to a question, of the question's kind
    ///
    /// # Errors
    ///
    /// [`DirectoryError`] when it cannot be known now. What does not exist is an answer.
    async fn answer(&self, query: &Query) -> Result<Answer, DirectoryError>;
}

#[async_trait]
impl<D: Directory + ?Sized> Directory for Arc<D> {
    async fn answer(&self, query: &Query) -> Result<Answer, DirectoryError> {
        (**self).answer(query).await
    }
}

/// Why a question has no answer
///
/// Its text is for operators, not for whoever made the request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DirectoryError {
    /// It answered something that is no answer; asking again hardly helps
    #[error("the directory gave no proper answer: {cause}")]
    Invalid {
        /// What was expected and what came
        cause: String,
    },
    /// It cannot be reached, or says that it cannot answer now
    #[error("the directory cannot be asked: {cause}")]
    Unavailable {
        /// When it is worth asking again
        retry_after: Duration,
        /// What failed
        cause: String,
    },
}

impl DirectoryError {
    /// When it is worth asking again
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Invalid { .. } => INVALID_RETRY_AFTER,
            Self::Unavailable { retry_after, .. } => *retry_after,
        }
    }
}

/// For how long answers are kept, and how many
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use registry_auth::acumos::CacheOptions;
///
/// let options = CacheOptions::default().with_honour_for(Some(Duration::from_secs(600)));
/// assert_eq!(options.account, Duration::from_secs(60));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct CacheOptions {
    /// How long an account is kept; by default a minute, for that is how long someone who was
    /// locked out still gets in
    pub account: Duration,
    /// How long the rest of what is known about solutions is kept, their owners, catalogues and
    /// licences; by default a minute, in which a pull or push asks the same many times
    pub solution: Duration,
    /// How long the revisions of a solution are kept; by default 10 seconds, since the platform
    /// adds one just before it pushes the image of it
    pub revisions: Duration,
    /// How long a right that was granted is kept; by default a quarter of an hour, since asking
    /// counts as a use of it and all requests of one pull are one use
    pub right: Duration,
    /// How long an answer is kept that lets nobody in, such as that there is no such solution;
    /// by default 5 seconds: enough for the requests of one attempt, and whoever is given
    /// something need not wait for it
    pub negative: Duration,
    /// How long after an error the same is not asked again, and the error given instead; by
    /// default a second, which spares a directory that is coming back the crowd
    pub back_off: Duration,
    /// How long a call may take; by default 10 seconds, longer than whoever asks waits, so that
    /// a slow answer is still there for the next one who asks
    pub timeout: Duration,
    /// For how long since it was given an answer may be used when the directory is
    /// unavailable; `None`, the default, for no longer than at other times
    ///
    /// Whoever is locked out, or loses a right, meanwhile keeps it for that time. An answer
    /// that lets nobody in is never used longer.
    pub honour_for: Option<Duration>,
    /// How many facts are kept, a list counting as many as it is long; by default 100,000,
    /// some tens of megabytes
    pub capacity: u64,
    /// How many calls are made at the same time; by default 256, and what is asked beyond is
    /// turned away as unavailable
    pub max_calls: usize,
}

impl Default for CacheOptions {
    fn default() -> Self {
        Self {
            account: Duration::from_secs(60),
            solution: Duration::from_secs(60),
            revisions: Duration::from_secs(10),
            right: Duration::from_secs(15 * 60),
            negative: Duration::from_secs(5),
            back_off: Duration::from_secs(1),
            timeout: Duration::from_secs(10),
            honour_for: None,
            capacity: 100_000,
            max_calls: 256,
        }
    }
}

impl CacheOptions {
    /// Sets [`CacheOptions::account`]
    #[must_use]
    pub fn with_account(mut self, keep: Duration) -> Self {
        self.account = keep;
        self
    }

    /// Sets [`CacheOptions::solution`]
    #[must_use]
    pub fn with_solution(mut self, keep: Duration) -> Self {
        self.solution = keep;
        self
    }

    /// Sets [`CacheOptions::revisions`]
    #[must_use]
    pub fn with_revisions(mut self, keep: Duration) -> Self {
        self.revisions = keep;
        self
    }

    /// Sets [`CacheOptions::right`]
    #[must_use]
    pub fn with_right(mut self, keep: Duration) -> Self {
        self.right = keep;
        self
    }

    /// Sets [`CacheOptions::negative`]
    #[must_use]
    pub fn with_negative(mut self, keep: Duration) -> Self {
        self.negative = keep;
        self
    }

    /// Sets [`CacheOptions::back_off`]
    #[must_use]
    pub fn with_back_off(mut self, wait: Duration) -> Self {
        self.back_off = wait;
        self
    }

    /// Sets [`CacheOptions::timeout`]
    #[must_use]
    pub fn with_timeout(mut self, wait: Duration) -> Self {
        self.timeout = wait;
        self
    }

    /// Sets [`CacheOptions::honour_for`]
    #[must_use]
    pub fn with_honour_for(mut self, keep: Option<Duration>) -> Self {
        self.honour_for = keep;
        self
    }

    /// Sets [`CacheOptions::capacity`]
    #[must_use]
    pub fn with_capacity(mut self, facts: u64) -> Self {
        self.capacity = facts;
        self
    }

    /// Sets [`CacheOptions::max_calls`]
    #[must_use]
    pub fn with_max_calls(mut self, calls: usize) -> Self {
        self.max_calls = calls;
        self
    }

    /// For how long this answer is kept
    fn keep(&self, answer: &Answer) -> Duration {
        if lets_nobody_in(answer) {
            return self.negative;
        }
        match answer {
            Answer::Account(_) => self.account,
            Answer::Revisions(_) => self.revisions,
            Answer::Right(_) => self.right,
            _ => self.solution,
        }
    }
}

/// A directory whose answers are kept for a short time
///
/// However many ask the same at the same time, the directory is asked once; and that call goes
/// on when whoever asked first has gone, since it may count as a use. Cheap to clone; all
/// clones share what is kept. Needs a tokio runtime.
#[derive(Debug)]
pub struct CachedDirectory<D> {
    inner: Arc<Inner<D>>,
}

impl<D> Clone for CachedDirectory<D> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
        }
    }
}

impl<D: Directory> CachedDirectory<D> {
    /// Keeps the answers of `directory`
    pub fn new(directory: D, options: CacheOptions) -> Self {
        let expected = KEPT.min(usize::try_from(options.capacity).unwrap_or(KEPT));
        Self {
            inner: Arc::new(Inner {
                directory,
                kept: Cache::with_weighter(expected, options.capacity, Size),
                options,
                calls: Mutex::default(),
            }),
        }
    }
}

#[async_trait]
impl<D: Directory> Directory for CachedDirectory<D> {
    async fn answer(&self, query: &Query) -> Result<Answer, DirectoryError> {
        if let Some(outcome) = self.inner.known(query) {
            return outcome;
        }
        let mut call = match Inner::join_or_call(&self.inner, query) {
            Ok(call) => call,
            Err(outcome) => return *outcome,
        };
        match call.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or_else(|| Err(broken_off(query))),
            Err(_) => Err(broken_off(query)),
        }
    }
}

type Outcome = Result<Answer, DirectoryError>;

/// Becomes the outcome of a call
type Call = watch::Receiver<Option<Outcome>>;

#[derive(Debug)]
struct Inner<D> {
    directory: D,
    options: CacheOptions,
    kept: Cache<Query, Arc<Kept>, Size>,
    /// The calls that are under way
    calls: Mutex<HashMap<Query, Call>>,
}

impl<D: Directory> Inner<D> {
    /// What is known without asking
    fn known(&self, query: &Query) -> Option<Outcome> {
        let now = Instant::now();
        let kept = self.kept.get(query)?;
        if let Some((answer, asked)) = &kept.answer
            && now.duration_since(*asked) < self.options.keep(answer)
        {
            return Some(Ok(answer.clone()));
        }
        let (error, asked) = kept.error.as_ref()?;
        (now.duration_since(*asked) < self.options.back_off)
            .then(|| self.despite(error, &kept, query, now))
    }

    /// The call that answers this; the outcome if there is one by now, or there can be none
    fn join_or_call(this: &Arc<Self>, query: &Query) -> Result<Call, Box<Outcome>> {
        let mut calls = this.calls();
        if let Some(call) = calls.get(query) {
            return Ok(call.clone());
        }
        // One may have ended since it was looked for. It leaves its answer before it goes.
        if let Some(outcome) = this.known(query) {
            return Err(Box::new(outcome));
        }
        if calls.len() >= this.options.max_calls {
            return Err(Box::new(Err(DirectoryError::Unavailable {
                retry_after: this.options.back_off,
                cause: format!(
                    "{} calls are under way already, so {query} was not asked for",
                    calls.len()
                ),
            })));
        }
        let (done, call) = watch::channel(None);
        calls.insert(query.clone(), call.clone());
        drop(calls);
        let under_way = UnderWay {
            inner: this.clone(),
            query: query.clone(),
        };
        // Of all requests that wait for it, it is made in the name of the one that began it.
        let asker = request::name();
        tokio::spawn(async move {
            let outcome = request::maybe_on_behalf_of(asker, async {
                under_way.inner.ask(&under_way.query).await
            });
            let outcome = outcome.await;
            drop(under_way);
            // Nobody may be left who waits for it.
            let _ = done.send(Some(outcome));
        });
        Ok(call)
    }

    async fn ask(&self, query: &Query) -> Outcome {
        // An answer is as old as its question: what changes meanwhile is not in it.
        let asked = Instant::now();
        let outcome = match timeout(self.options.timeout, self.directory.answer(query)).await {
            Ok(outcome) => outcome.and_then(|answer| fitting(query, answer)),
            Err(_) => Err(DirectoryError::Unavailable {
                retry_after: self.options.back_off,
                cause: format!(
                    "it did not tell {query} in {} s",
                    self.options.timeout.as_secs()
                ),
            }),
        };
        match outcome {
            Ok(answer) => {
                let kept = Kept {
                    answer: Some((answer.clone(), asked)),
                    error: None,
                };
                self.kept.insert(query.clone(), Arc::new(kept));
                Ok(answer)
            }
            Err(error) => {
                let now = Instant::now();
                let kept = Kept {
                    answer: self.kept.get(query).and_then(|kept| kept.answer.clone()),
                    error: Some((error.clone(), now)),
                };
                let outcome = self.despite(&error, &kept, query, now);
                self.kept.insert(query.clone(), Arc::new(kept));
                outcome
            }
        }
    }

    /// What there is in spite of an error: an older answer, if the operator allows for it
    fn despite(&self, error: &DirectoryError, kept: &Kept, query: &Query, now: Instant) -> Outcome {
        if let (DirectoryError::Unavailable { .. }, Some(honour_for), Some((answer, asked))) =
            (error, self.options.honour_for, &kept.answer)
            && now.duration_since(*asked) < honour_for
            && !lets_nobody_in(answer)
        {
            let age = now.duration_since(*asked).as_secs();
            tracing::warn!(%query, %error, age, "honouring an older answer of the directory");
            return Ok(answer.clone());
        }
        Err(error.clone())
    }
}

impl<D> Inner<D> {
    fn calls(&self) -> MutexGuard<'_, HashMap<Query, Call>> {
        // Nothing is done under the lock that could leave the map half changed.
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says that a call is under way, until it is dropped, be it by a panic
struct UnderWay<D> {
    inner: Arc<Inner<D>>,
    query: Query,
}

impl<D> Drop for UnderWay<D> {
    fn drop(&mut self) {
        self.inner.calls().remove(&self.query);
    }
}

/// What is kept about a question, with when it was asked or went wrong
#[derive(Debug)]
struct Kept {
    answer: Option<(Answer, Instant)>,
    error: Option<(DirectoryError, Instant)>,
}

/// How much of the capacity an answer takes
#[derive(Clone, Debug)]
struct Size;

impl Weighter<Query, Arc<Kept>> for Size {
    fn weight(&self, _: &Query, kept: &Arc<Kept>) -> u64 {
        let length = match kept.answer.as_ref().map(|(answer, _)| answer) {
            Some(Answer::Account(Some(account))) => account.roles.len(),
            Some(Answer::Catalogs(list)) => list.len(),
            Some(Answer::Claimants(list)) => list.len(),
            Some(Answer::CoOwners(list)) => list.len(),
            Some(Answer::Revisions(list)) => list.iter().map(|one| 1 + one.images.len()).sum(),
            Some(Answer::Tags(list)) => list.len(),
            Some(
                Answer::Account(None) | Answer::License(_) | Answer::Right(_) | Answer::Solution(_),
            )
            | None => 0,
        };
        1 + length as u64
    }
}

/// The answer, if it is one to the question: of its kind, and about whom or what was asked for
///
/// Whoever searches loosely, as the platform's services do, may find somebody else.
pub(super) fn fitting(query: &Query, answer: Answer) -> Outcome {
    let came = match (query, &answer) {
        (Query::Account(login), Answer::Account(Some(account))) if account.login != *login => {
            format!("the account `{}`", account.login.escape_debug())
        }
        (Query::Solution(id), Answer::Solution(Some(solution))) if solution.id != *id => {
            format!("solution {}", solution.id)
        }
        (Query::Account(_), Answer::Account(_))
        | (Query::Catalogs(_), Answer::Catalogs(_))
        | (Query::Claimants(_), Answer::Claimants(_))
        | (Query::CoOwners(_), Answer::CoOwners(_))
        | (Query::License(_), Answer::License(_))
        | (Query::Revisions(_), Answer::Revisions(_))
        | (Query::Right(..), Answer::Right(_))
        | (Query::Solution(_), Answer::Solution(_))
        | (Query::Tags(..), Answer::Tags(_)) => return Ok(answer),
        _ => "an answer of another kind".to_owned(),
    };
    Err(DirectoryError::Invalid {
        cause: format!("expected {query}, got {came}"),
    })
}

/// Whether an answer cannot be what an allow rests on
fn lets_nobody_in(answer: &Answer) -> bool {
    match answer {
        Answer::Account(account) => account.as_ref().is_none_or(|account| !account.active),
        Answer::Catalogs(list) => list.is_empty(),
        Answer::Claimants(list) => list.is_empty(),
        // Most solutions have no co-owners, and their owners are let in.
        Answer::CoOwners(_) => false,
        Answer::License(license) => *license == License::Revoked,
        Answer::Revisions(list) => list.is_empty(),
        Answer::Right(right) => matches!(right, Right::None { .. }),
        Answer::Solution(solution) => solution.as_ref().is_none_or(|solution| !solution.active),
        Answer::Tags(list) => list.is_empty(),
    }
}

fn broken_off(query: &Query) -> DirectoryError {
    DirectoryError::Invalid {
        cause: format!("the call for {query} broke off"),
    }
}

/// How many questions are expected to be kept: what is allocated at first
const KEPT: usize = 1024;

/// When to ask again where an answer was garbage: that takes a person
const INVALID_RETRY_AFTER: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::sync::Semaphore;
    use tokio::time::advance;

    use super::super::facts::{Account, RevisionId, UserId};
    use super::*;

    /// Says what it is told to say, and counts
    #[derive(Debug)]
    struct Scripted {
        outcome: Mutex<Outcome>,
        calls: AtomicUsize,
        /// How many calls may end
        gate: Semaphore,
    }

    impl Scripted {
        fn new(outcome: Outcome) -> Arc<Self> {
            Arc::new(Self {
                outcome: Mutex::new(outcome),
                calls: AtomicUsize::new(0),
                gate: Semaphore::new(Semaphore::MAX_PERMITS),
            })
        }

        fn say(&self, outcome: Outcome) {
            *self.outcome.lock().unwrap() = outcome;
        }

        fn calls(&self) -> usize {
            self.calls.load(Ordering::SeqCst)
        }
    }

    #[async_trait]
    impl Directory for Scripted {
        async fn answer(&self, query: &Query) -> Outcome {
            self.calls.fetch_add(1, Ordering::SeqCst);
            let _permit = self.gate.acquire().await.unwrap();
            assert_ne!(*query, Query::Account("panic".to_owned()), "on purpose");
            self.outcome.lock().unwrap().clone()
        }
    }

    fn ada() -> Query {
        Query::Account("ada".to_owned())
    }

    fn account() -> Answer {
        Answer::Account(Some(Account {
            user: UserId::new("u1"),
            login: "ada".to_owned(),
            active: true,
            roles: Vec::new(),
        }))
    }

    fn right() -> Query {
        Query::Right(RevisionId::new("r1"), UserId::new("u1"))
    }

    fn unavailable() -> DirectoryError {
        DirectoryError::Unavailable {
            retry_after: Duration::from_secs(7),
            cause: "connection refused".to_owned(),
        }
    }

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_thousand_who_ask_the_same_make_one_call() {
        let directory = Scripted::new(Ok(account()));
        directory.gate.forget_permits(Semaphore::MAX_PERMITS);
        let cached = CachedDirectory::new(directory.clone(), CacheOptions::default());
        let asking: Vec<_> = (0..1000)
            .map(|_| {
                let cached = cached.clone();
                tokio::spawn(async move { cached.answer(&ada()).await })
            })
            .collect();
        while directory.calls() == 0 {
            tokio::task::yield_now().await;
        }
        directory.gate.add_permits(1000);
        for one in asking {
            assert_eq!(one.await.unwrap(), Ok(account()));
        }
        assert_eq!(directory.calls(), 1);
        assert!(cached.inner.calls().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_goes_on_when_whoever_asked_has_gone() {
        let directory = Scripted::new(Ok(Answer::Right(Right::Own)));
        directory.gate.forget_permits(Semaphore::MAX_PERMITS);
        let cached = CachedDirectory::new(directory.clone(), CacheOptions::default());
        assert!(timeout(seconds(1), cached.answer(&right())).await.is_err());
        directory.gate.add_permits(1);
        assert_eq!(cached.answer(&right()).await, Ok(Answer::Right(Right::Own)));
        assert_eq!(directory.calls(), 1, "a use was counted twice");
    }

    #[tokio::test(start_paused = true)]
    async fn each_kind_of_answer_is_kept_for_its_own_time() {
        let id = || "9d294c20-7b1f-4ab7-b8b3-03bc7f069ac1".parse().unwrap();
        let none = Right::None {
            reason: "no agreement".to_owned(),
        };
        for (query, answer, keep) in [
            (ada(), account(), 60),
            (ada(), Answer::Account(None), 5),
            (Query::CoOwners(id()), Answer::CoOwners(Vec::new()), 60),
            (Query::Catalogs(id()), Answer::Catalogs(Vec::new()), 5),
            (Query::Solution(id()), Answer::Solution(None), 5),
            (Query::Revisions(id()), Answer::Revisions(Vec::new()), 5),
            (
                Query::License(RevisionId::new("r")),
                Answer::License(License::Free),
                60,
            ),
            (right(), Answer::Right(Right::Own), 900),
            (right(), Answer::Right(Right::Everyone), 900),
            (right(), Answer::Right(none), 5),
        ] {
            let directory = Scripted::new(Ok(answer.clone()));
            let cached = CachedDirectory::new(directory.clone(), CacheOptions::default());
            assert_eq!(cached.answer(&query).await, Ok(answer.clone()));
            advance(seconds(keep) - Duration::from_millis(1)).await;
            assert_eq!(cached.answer(&query).await, Ok(answer.clone()));
            assert_eq!(directory.calls(), 1, "{answer:?}");
            advance(Duration::from_millis(1)).await;
            assert_eq!(cached.answer(&query).await, Ok(answer.clone()));
            assert_eq!(directory.calls(), 2, "{answer:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_error_is_kept_for_the_back_off_and_no_longer() {
        let directory = Scripted::new(Err(unavailable()));
        let cached = CachedDirectory::new(directory.clone(), CacheOptions::default());
        for _ in 0..3 {
            assert_eq!(cached.answer(&ada()).await, Err(unavailable()));
        }
        assert_eq!(directory.calls(), 1);
        advance(seconds(1)).await;
        directory.say(Ok(account()));
        assert_eq!(cached.answer(&ada()).await, Ok(account()));
        assert_eq!(directory.calls(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_answer_is_used_only_where_the_operator_says_so() {
        let directory = Scripted::new(Ok(account()));
        let cached = CachedDirectory::new(directory.clone(), CacheOptions::default());
        assert!(cached.answer(&ada()).await.is_ok());
        directory.say(Err(unavailable()));
        advance(seconds(60)).await;
        assert_eq!(cached.answer(&ada()).await, Err(unavailable()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_older_answer_is_used_for_a_bounded_time() {
        let options = || CacheOptions::default().with_honour_for(Some(seconds(300)));
        let directory = Scripted::new(Ok(account()));
        let cached = CachedDirectory::new(directory.clone(), options());
        assert!(cached.answer(&ada()).await.is_ok());
        directory.say(Err(unavailable()));
        advance(seconds(299)).await;
        for _ in 0..3 {
            assert_eq!(cached.answer(&ada()).await, Ok(account()));
        }
        assert_eq!(directory.calls(), 2, "the back-off counts here too");
        advance(seconds(1)).await;
        assert_eq!(cached.answer(&ada()).await, Err(unavailable()));

        // Garbage is no outage: somebody may have been locked out, and this is how it says so.
        let garbage = DirectoryError::Invalid {
            cause: "not JSON".to_owned(),
        };
        directory.say(Ok(account()));
        advance(seconds(1)).await;
        assert!(cached.answer(&ada()).await.is_ok());
        directory.say(Err(garbage.clone()));
        advance(seconds(60)).await;
        assert_eq!(cached.answer(&ada()).await, Err(garbage));

        // An outage is not reported as absence.
        let directory = Scripted::new(Ok(Answer::Account(None)));
        let cached = CachedDirectory::new(directory.clone(), options());
        assert!(cached.answer(&ada()).await.is_ok());
        directory.say(Err(unavailable()));
        advance(seconds(5)).await;
        assert_eq!(cached.answer(&ada()).await, Err(unavailable()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_does_not_end_is_given_up() {
        let directory = Scripted::new(Ok(account()));
        directory.gate.forget_permits(Semaphore::MAX_PERMITS);
        let cached = CachedDirectory::new(directory.clone(), CacheOptions::default());
        let error = cached.answer(&ada()).await.unwrap_err();
        assert_eq!(error.retry_after(), seconds(1));
        assert!(error.to_string().contains("in 10 s"), "{error}");
        assert!(cached.inner.calls().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_calls_than_allowed_are_under_way() {
        let directory = Scripted::new(Ok(Answer::Account(None)));
        directory.gate.forget_permits(Semaphore::MAX_PERMITS);
        let options = CacheOptions::default().with_max_calls(2);
        let cached = CachedDirectory::new(directory.clone(), options);
        for login in ["one", "two"] {
            let query = Query::Account(login.to_owned());
            assert!(timeout(seconds(1), cached.answer(&query)).await.is_err());
        }
        let error = cached.answer(&ada()).await.unwrap_err();
        assert!(error.to_string().contains("2 calls"), "{error}");
        directory.gate.add_permits(3);
        advance(seconds(1)).await;
        let query = Query::Account("one".to_owned());
        assert!(cached.answer(&query).await.is_ok());
        assert_eq!(directory.calls(), 2);
    }

    #[tokio::test]
    async fn a_call_that_panics_is_an_error_and_the_next_one_is_made() {
        let directory = Scripted::new(Ok(account()));
        let cached = CachedDirectory::new(directory.clone(), CacheOptions::default());
        let query = Query::Account("panic".to_owned());
        for calls in 1..=2 {
            let error = cached.answer(&query).await.unwrap_err();
            assert!(error.to_string().contains("broke off"), "{error}");
            assert_eq!(directory.calls(), calls);
        }
    }

    #[tokio::test]
    async fn an_answer_about_something_else_is_none() {
        let directory = Scripted::new(Ok(account()));
        let cached = CachedDirectory::new(directory.clone(), CacheOptions::default());
        let error = cached.answer(&Query::Account("ADA".to_owned())).await;
        assert_eq!(
            error.unwrap_err().to_string(),
            "the directory gave no proper answer: expected the account `ADA`, got the account `ada`"
        );
        assert!(matches!(
            cached.answer(&right()).await,
            Err(DirectoryError::Invalid { .. })
        ));
    }

    #[tokio::test]
    async fn what_is_kept_is_bounded() {
        let directory = Scripted::new(Ok(Answer::Account(None)));
        let options = CacheOptions::default().with_capacity(1000);
        let cached = CachedDirectory::new(directory, options);
        for number in 0..5000 {
            let query = Query::Account(format!("user{number}"));
            assert!(cached.answer(&query).await.is_ok());
        }
        // Each of the cache's parts rounds up.
        assert!(cached.inner.kept.weight() <= 1100);
        assert!(!cached.inner.kept.is_empty());
    }
}
