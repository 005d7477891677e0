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
