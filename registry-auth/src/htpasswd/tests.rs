//! Tests of the authenticator with real hashes, of the lowest cost

use std::fs;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use tempfile::TempDir;
use tokio::task;

use super::checker::{FAILURES, RETRY_AFTER, Worker};
use super::*;
use crate::{ChallengeReason, Password};

struct Registry {
    htpasswd: Arc<Htpasswd>,
    _folder: TempDir,
}

fn line(user: &str, password: &str, cost: u32) -> String {
    format!(
        "{}\n",
        Entry::new(user, &Password::new(password), cost).unwrap()
    )
}

fn open(text: &str) -> Registry {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("htpasswd");
    fs::write(&path, text).unwrap();
    let options = Options {
        concurrency: NonZeroUsize::MIN,
        ..Options::default()
    };
    let htpasswd = Htpasswd::open(path, "Registry \"Realm\"".parse().unwrap(), options).unwrap();
    Registry {
        htpasswd: Arc::new(htpasswd),
        _folder: folder,
    }
}

fn basic(user: &str, password: &str) -> Credentials {
    Credentials::Basic {
        user: user.to_owned(),
        password: Password::new(password),
    }
}

fn accepted(user: &str) -> Result<Principal, AuthenticateError> {
    Ok(Principal::user(user))
}

const REJECTED: Result<Principal, AuthenticateError> = Err(AuthenticateError::Rejected);

/// A login that is in nobody's hands but the test's
///
/// For tests without a runtime: tokio lets a task of its own come only so far in one go.
struct Login {
    future: Pin<Box<dyn Future<Output = Result<Principal, AuthenticateError>>>>,
    answer: Option<Result<Principal, AuthenticateError>>,
}

impl Login {
    fn poll(&mut self) -> Option<&Result<Principal, AuthenticateError>> {
        if self.answer.is_none()
            && let Poll::Ready(answer) = self
                .future
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop()))
        {
            self.answer = Some(answer);
        }
        self.answer.as_ref()
    }
}

impl Registry {
    async fn login(&self, user: &str, password: &str) -> Result<Principal, AuthenticateError> {
        self.htpasswd.authenticate(&basic(user, password)).await
    }

    /// What a login has to be told without waiting for anything
    fn login_now(&self, user: &str, password: &str) -> Result<Principal, AuthenticateError> {
        let login = self.begin(user, password);
        login
            .answer
            .unwrap_or_else(|| panic!("`{user}` has to wait"))
    }

    fn spawn(
        &self,
        user: &str,
        password: &str,
    ) -> task::JoinHandle<Result<Principal, AuthenticateError>> {
        let htpasswd = self.htpasswd.clone();
        let credentials = basic(user, password);
        tokio::spawn(async move { htpasswd.authenticate(&credentials).await })
    }

    /// A login that got as far as it can without a hash
    fn begin(&self, user: &str, password: &str) -> Login {
        let htpasswd = self.htpasswd.clone();
        let credentials = basic(user, password);
        let mut login = Login {
            future: Box::pin(async move { htpasswd.authenticate(&credentials).await }),
            answer: None,
        };
        login.poll();
        login
    }

    /// Takes the place of the workers: nothing is hashed except by its steps
    fn worker(&self) -> Worker {
        let checker = self.htpasswd.checker.clone();
        checker.queue().workers = checker.options.concurrency.get();
        Worker {
            checker,
            run: None,
            counted: false,
        }
    }

    fn write(&self, text: &str) {
        fs::write(self.htpasswd.path(), text).unwrap();
    }

    fn rounds(&self) -> u64 {
        self.htpasswd.counts().rounds
    }

    fn hashes(&self) -> u64 {
        self.htpasswd.counts().hashes
    }
}

/// Lets every task come as far as it can
async fn settle() {
    for _ in 0..10 {
        task::yield_now().await;
    }
}

#[tokio::test]
async fn users_are_known_by_their_passwords() {
    let registry = open(&(line("ada", "correct horse", 4) + &line("bob", "a:b", 5)));
    for _ in 0..2 {
        assert_eq!(
            registry.login("ada", "correct horse").await,
            accepted("ada")
        );
        assert_eq!(registry.login("bob", "a:b").await, accepted("bob"));
        assert_eq!(registry.login("ada", "a:b").await, REJECTED);
        assert_eq!(registry.login("ada", "").await, REJECTED);
        assert_eq!(registry.login("Ada", "correct horse").await, REJECTED);
        assert_eq!(registry.login("", "").await, REJECTED);
    }
    let bearer = Credentials::Bearer(Password::new("correct horse"));
    assert_eq!(registry.htpasswd.authenticate(&bearer).await, REJECTED);
    let nobody = registry.htpasswd.authenticate(&Credentials::None).await;
    assert_eq!(nobody, Ok(Principal::Anonymous));
    assert_eq!(
        registry
            .htpasswd
            .challenge(&[], ChallengeReason::LoginRequired)
            .unwrap(),
        r#"Basic realm="Registry \"Realm\"""#
    );
    let shown = format!("{:?}", registry.htpasswd);
    assert!(
        shown.contains("users: 2") && !shown.contains("$2"),
        "{shown}"
    );
}

#[tokio::test]
async fn a_file_without_entries_or_none_at_all_is_no_open_door() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("htpasswd");
    let error = || {
        Htpasswd::open(&path, "r".parse().unwrap(), Options::default())
            .unwrap_err()
            .to_string()
    };
    let shown = path.display();
    assert_eq!(
        error(),
        format!("`{shown}` does not exist; make it with `registry htpasswd` or `htpasswd -cB`")
    );
    for text in ["", "\n\n", "# nobody\n"] {
        fs::write(&path, text).unwrap();
        assert_eq!(
            error(),
            format!("`{shown}` has no entry; add a user with `registry htpasswd` or `htpasswd -B`")
        );
    }
}

#[tokio::test]
async fn answers_are_remembered() {
    let registry = open(&line("ada", "right", 4));
    assert_eq!(registry.login("ada", "right").await, accepted("ada"));
    assert_eq!(registry.login("ada", "wrong").await, REJECTED);
    assert_eq!(registry.login("eve", "right").await, REJECTED);
    let hashes = registry.hashes();
    assert_eq!(hashes, 3);
    for _ in 0..100 {
        assert_eq!(registry.login_now("ada", "right"), accepted("ada"));
        assert_eq!(registry.login_now("ada", "wrong"), REJECTED);
        assert_eq!(registry.login_now("eve", "right"), REJECTED);
    }
    assert_eq!(registry.hashes(), hashes);
}

#[tokio::test]
async fn what_was_not_used_for_long_is_forgotten() {
    let registry = open(&line("ada", "right", 4));
    let mut short = open(&line("ada", "right", 4));
    let inner = Arc::get_mut(&mut short.htpasswd).unwrap();
    Arc::get_mut(&mut inner.checker).unwrap().options.remember = Duration::ZERO;
    for (registry, hashes) in [(&registry, 1), (&short, 2)] {
        for _ in 0..2 {
            assert_eq!(registry.login("ada", "right").await, accepted("ada"));
        }
        assert_eq!(registry.hashes(), hashes);
    }
}

#[tokio::test]
async fn every_refusal_is_the_same_work() {
    // Different costs, and the user who is tried is not of the highest.
    let text = line("ada", "right", 4) + &line("bob", "right", 7) + &line("eve", "right", 5);
    let registry = open(&text);
    assert_eq!(registry.login("eve", "right").await, accepted("eve"));
    for (user, password) in [
        ("ada", "wrong"),
        ("bob", "wrong"),
        // Whose right password is remembered.
        ("eve", "wrong"),
        ("nobody", "wrong"),
        ("", "wrong"),
        (&"n".repeat(100_000), "wrong"),
        ("ada", "\0"),
        ("ada", ""),
        ("ada", &"p".repeat(100_000)),
        ("nobody", &"p".repeat(100_000)),
    ] {
        let before = registry.rounds();
        assert_eq!(registry.login(user, password).await, REJECTED);
        assert_eq!(
            registry.rounds() - before,
            1 << 7,
            "{user:.9} {password:.9}"
        );
    }
    // Where costs are equal, one hash is one hash.
    let registry = open(&(line("ada", "right", 4) + &line("bob", "right", 4)));
    for user in ["ada", "bob", "nobody"] {
        let before = registry.hashes();
        assert_eq!(registry.login(user, "wrong").await, REJECTED);
        assert_eq!(registry.hashes() - before, 1);
    }
}

#[tokio::test]
async fn a_password_counts_up_to_its_72nd_byte_and_zeros_never_do() {
    let password = "p".repeat(72);
    let registry = open(&(line("ada", &password, 4) + &line("bob", "b", 4)));
    for _ in 0..2 {
        let longer = format!("{password}and more");
        assert_eq!(registry.login("ada", &longer).await, accepted("ada"));
        assert_eq!(registry.login("ada", &password).await, accepted("ada"));
        assert_eq!(registry.login("ada", &password[1..]).await, REJECTED);
        // For bcrypt alone this is the same password.
        assert!(
            bcrypt::verify(
                "b\0b",
                registry
                    .htpasswd
                    .table()
                    .account("bob")
                    .unwrap()
                    .hash
                    .as_str()
            )
            .unwrap()
        );
        assert_eq!(registry.login("bob", "b\0b").await, REJECTED);
        assert_eq!(registry.login("bob", "b").await, accepted("bob"));
    }
}

#[tokio::test]
async fn a_changed_file_is_in_force_at_once() {
    let eve = line("eve", "same", 4);
    let registry = open(&(line("ada", "old", 4) + &line("bob", "b", 4) + &eve));
    for (user, password) in [("ada", "old"), ("bob", "b"), ("eve", "same")] {
        assert_eq!(registry.login(user, password).await, accepted(user));
    }
    assert_eq!(registry.login("ada", "new").await, REJECTED);
    assert_eq!(registry.login("zoe", "z").await, REJECTED);

    registry.write(&(line("ada", "new", 4) + &eve + &line("zoe", "z", 4)));
    assert_eq!(registry.login_now("ada", "old"), accepted("ada"));
    assert_eq!(registry.htpasswd.reload().unwrap(), 3);
    let before = registry.hashes();
    assert_eq!(registry.login_now("eve", "same"), accepted("eve"));
    assert_eq!(registry.hashes(), before);
    // Neither the success nor the failures of before count.
    assert_eq!(registry.login("ada", "old").await, REJECTED);
    assert_eq!(registry.login("ada", "new").await, accepted("ada"));
    assert_eq!(registry.login("bob", "b").await, REJECTED);
    assert_eq!(registry.login("zoe", "z").await, accepted("zoe"));

    // The same password with another salt is another entry, too.
    registry.write(&line("ada", "new", 4));
    registry.htpasswd.reload().unwrap();
    let before = registry.hashes();
    assert_eq!(registry.login("ada", "new").await, accepted("ada"));
    assert_eq!(registry.hashes() - before, 1);
}

#[tokio::test]
async fn a_bad_new_file_leaves_the_old_in_force() {
    let registry = open(&line("ada", "a", 4));
    assert_eq!(registry.login("ada", "a").await, accepted("ada"));
    let path = registry.htpasswd.path().display().to_string();
    for (text, expected) in [
        (
            "ada:a\n".to_owned(),
            format!("`{path}`, line 1: the password of `ada` is hashed with crypt or not at all, "),
        ),
        (
            line("ada", "b", 4) + "bob",
            format!("`{path}`, line 2: expected `user:hash`, there is no colon"),
        ),
        (String::new(), format!("`{path}` has no entry; ")),
    ] {
        registry.write(&text);
        let error = registry.htpasswd.reload().unwrap_err().to_string();
        assert!(error.starts_with(&expected), "{error}");
        assert_eq!(registry.login_now("ada", "a"), accepted("ada"));
    }
    fs::remove_file(registry.htpasswd.path()).unwrap();
    let error = registry.htpasswd.reload().unwrap_err().to_string();
    assert!(
        error.starts_with(&format!("`{path}` does not exist; ")),
        "{error}"
    );
    assert_eq!(registry.login_now("ada", "a"), accepted("ada"));
    assert_eq!(registry.htpasswd.counts().users, 1);
}

#[tokio::test]
async fn a_file_that_changes_during_a_check_decides() {
    let registry = open(&(line("ada", "old", 4) + &line("bob", "b", 4)));
    let mut worker = registry.worker();
    let old = registry.spawn("ada", "old");
    let new = registry.spawn("ada", "new");
    let bob = registry.spawn("bob", "b");
    let zoe = registry.spawn("zoe", "z");
    settle().await;
    registry.write(&(line("ada", "new", 4) + &line("zoe", "z", 4)));
    registry.htpasswd.reload().unwrap();
    for _ in 0..20 {
        worker.step();
        settle().await;
    }
    assert_eq!(old.await.unwrap(), REJECTED);
    assert_eq!(new.await.unwrap(), accepted("ada"));
    assert_eq!(bob.await.unwrap(), REJECTED);
    assert_eq!(zoe.await.unwrap(), accepted("zoe"));
}

#[tokio::test]
async fn equal_credentials_at_the_same_time_are_checked_once() {
    let registry = open(&line("ada", "a", 4));
    let logins: Vec<_> = (0..100).map(|_| registry.spawn("ada", "a")).collect();
    for login in logins {
        assert_eq!(login.await.unwrap(), accepted("ada"));
    }
    assert_eq!(registry.hashes(), 1);
}

/// Ten thousand wrong ones for each hash, which is more than come in a second
#[test]
fn a_flood_delays_a_right_password_by_few_hashes_and_a_remembered_one_by_none() {
    let text = line("ada", "a", 4) + &line("bob", "b", 4) + &line("eve", "e", 4);
    let registry = open(&text);
    let mut worker = registry.worker();
    let mut bob = registry.begin("bob", "b");
    worker.step();
    assert_eq!(bob.poll(), Some(&accepted("bob")));
    let mut number = 0;
    let mut pending = Vec::new();
    let mut flood = || {
        for _ in 0..3_333 {
            number += 1;
            let wrong = format!("wrong {number}");
            // A name that is made up, a user whose password is remembered, and one whose was
            // never seen.
            for user in [&format!("name {number}"), "bob", "eve"] {
                pending.push(registry.begin(user, &wrong));
            }
        }
        pending.retain_mut(|login| match login.poll() {
            Some(answer) => {
                assert!(answer.is_err());
                false
            }
            None => true,
        });
        pending.len()
    };
    for _ in 0..4 {
        flood();
        worker.step();
    }
    let mut ada = registry.begin("ada", "a");
    let before = registry.hashes();
    let answer = loop {
        let waiting = flood();
        assert!(waiting <= 512 + 8192, "{waiting}");
        assert_eq!(registry.login_now("bob", "b"), accepted("bob"));
        worker.step();
        if let Some(answer) = ada.poll() {
            break answer;
        }
    };
    assert_eq!(*answer, accepted("ada"));
    let waited = registry.hashes() - before;
    assert!(waited <= 2, "she waited for {waited} hashes");
    assert!(registry.htpasswd.counts().unavailable > 0);

    // One whose name the flood tries itself is told to come back, and is let in when she does.
    let mut eve = registry.begin("eve", "e");
    let unavailable = Err(AuthenticateError::Unavailable {
        retry_after: RETRY_AFTER,
    });
    assert_eq!(eve.poll(), Some(&unavailable));
    flood();
    worker.step();
    let mut eve = registry.begin("eve", "e");
    let before = registry.hashes();
    while eve.poll().is_none() {
        flood();
        worker.step();
    }
    assert_eq!(eve.poll(), Some(&accepted("eve")));
    let waited = registry.hashes() - before;
    assert!(waited <= 2, "she waited for {waited} hashes");

    // The flood is over, and nothing of it remains but what has a fixed size.
    while worker.step() {}
    assert_eq!(registry.htpasswd.counts().waiting, 0);
    assert!(registry.htpasswd.checker.failures.len() <= FAILURES);
    assert_eq!(registry.login_now("bob", "b"), accepted("bob"));
    assert_eq!(registry.login_now("ada", "a"), accepted("ada"));
}

#[test]
fn failures_do_not_push_out_successes() {
    let registry = open(&line("ada", "a", 4));
    let mut worker = registry.worker();
    let mut ada = registry.begin("ada", "a");
    worker.step();
    assert_eq!(ada.poll(), Some(&accepted("ada")));
    let count = 4 * FAILURES;
    for first in (0..count).step_by(8192) {
        let mut logins: Vec<_> = (first..first + 8192)
            .map(|number| registry.begin(&number.to_string(), "wrong"))
            .collect();
        worker.step();
        for login in &mut logins {
            assert_eq!(login.poll(), Some(&REJECTED));
        }
    }
    let remembered = registry.htpasswd.checker.failures.len();
    assert!(remembered <= FAILURES, "{remembered}");
    assert_eq!(registry.login_now("ada", "a"), accepted("ada"));
}

#[tokio::test]
async fn who_has_no_room_to_wait_is_told_to_come_back() {
    let registry = open(&line("ada", "a", 4));
    let mut worker = registry.worker();
    for user in ["ada", "nobody"] {
        let logins: Vec<_> = (0..20)
            .map(|number| registry.spawn(user, &format!("wrong {number}")))
            .collect();
        settle().await;
        while worker.step() {}
        let mut answers = Vec::new();
        for login in logins {
            answers.push(login.await.unwrap());
        }
        let unavailable = Err(AuthenticateError::Unavailable {
            retry_after: RETRY_AFTER,
        });
        assert_eq!(answers[..16], vec![REJECTED; 16], "{user}");
        assert_eq!(answers[16..], vec![unavailable; 4], "{user}");
    }
    assert_eq!(registry.htpasswd.counts().unavailable, 8);
}

#[tokio::test]
async fn a_worker_that_ends_early_leaves_nobody_waiting() {
    let registry = open(&line("ada", "a", 4));
    let checker = &registry.htpasswd.checker;
    checker.queue().workers = 1;
    let ada = registry.spawn("ada", "a");
    settle().await;
    let run = checker.queue().lanes.next(Instant::now());
    drop(Worker {
        checker: checker.clone(),
        run,
        counted: true,
    });
    assert!(matches!(
        ada.await.unwrap(),
        Err(AuthenticateError::Unavailable { .. })
    ));
    assert_eq!(checker.queue().workers, 0);
    assert_eq!(registry.login("ada", "a").await, accepted("ada"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn under_a_real_flood_the_right_ones_come_in() {
    let text = line("ada", "a", 6) + &line("bob", "b", 6) + &line("eve", "e", 6);
    let registry = open(&text);
    assert_eq!(registry.login("bob", "b").await, accepted("bob"));
    let stop = Arc::new(AtomicBool::new(false));
    let flood: Vec<_> = (0..64)
        .map(|task| {
            let (htpasswd, stop) = (registry.htpasswd.clone(), stop.clone());
            tokio::spawn(async move {
                let mut number = 0;
                while !stop.load(Ordering::Relaxed) {
                    number += 1;
                    let user = match task % 3 {
                        0 => "bob".to_owned(),
                        1 => "eve".to_owned(),
                        _ => format!("{task} {number}"),
                    };
                    let wrong = basic(&user, &format!("{task} {number}"));
                    let answer = htpasswd.authenticate(&wrong).await;
                    assert!(answer.is_err());
                    task::yield_now().await;
                }
                number
            })
        })
        .collect();
    while registry.htpasswd.counts().unavailable == 0 {
        task::yield_now().await;
    }
    assert_eq!(registry.login("ada", "a").await, accepted("ada"));
    assert_eq!(registry.login_now("bob", "b"), accepted("bob"));
    stop.store(true, Ordering::Relaxed);
    for task in flood {
        assert!(task.await.unwrap() > 0);
    }
}

#[tokio::test]
async fn refresh_tokens_end_with_the_user_and_with_the_password() {
    use std::time::SystemTime;

    use super::{Entry, File};
    use crate::Password;
    use crate::token::Accounts;

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users");
    let entry = |user, password| Entry::new(user, &Password::new(password), 4).unwrap();
    let file = File::default()
        .with(entry("ada", "one"))
        .with(entry("bob", "one"));
    file.save(&path).unwrap();
    let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    let opened = std::fs::File::options().write(true).open(&path).unwrap();
    opened.set_modified(written).unwrap();
    let htpasswd = Htpasswd::open(&path, "r".parse().unwrap(), Options::default()).unwrap();
    let good = async |user: &str, since| match htpasswd.account(user, since).await {
        Ok(principal) => principal == Principal::user(user),
        Err(error) => {
            assert_eq!(error, AuthenticateError::Rejected);
            false
        }
    };
    let second = Duration::from_secs(1);
    for user in ["ada", "bob"] {
        assert!(good(user, written).await);
        assert!(!good(user, written - second).await);
    }
    assert!(!good("eve", SystemTime::now()).await);

    let before = SystemTime::now() - second;
    let file = file.with(entry("ada", "two"));
    file.clone().save(&path).unwrap();
    htpasswd.reload().unwrap();
    assert!(!good("ada", before).await);
    assert!(good("ada", SystemTime::now() + second).await);
    assert!(good("bob", written).await);
    file.without("bob").unwrap().save(&path).unwrap();
    htpasswd.reload().unwrap();
    assert!(!good("bob", SystemTime::now()).await);
}
