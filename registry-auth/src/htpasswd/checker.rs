//! Who checks passwords, and what it remembers

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quick_cache::sync::Cache;
use tokio::sync::oneshot;
use tokio::task;

use super::account::{Account, Memory};
use super::entry::Entry;
use super::fingerprint::{Fingerprint, Fingerprints, taken_in};
use super::hash::{Meter, waste};
use super::lanes::{Full, Lanes, Question, Run, Verdict};
use super::{Counts, Options};
use crate::authenticator::AuthenticateError;

/// How many wrong credentials are remembered; some megabytes
pub(super) const FAILURES: usize = 16 * 1024;

/// When to come back where there is no room to wait: room is made with every check
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Checks passwords, wherever the accounts are from
///
/// See the [module](super) for what it does against attacks.
pub(crate) struct Checker {
    fingerprints: Fingerprints,
    /// Credentials that are wrong, and stay so: those of a changed entry are others
    pub(super) failures: Cache<Fingerprint, ()>,
    queue: Mutex<Queue>,
    meter: Meter,
    unavailable: AtomicU64,
    highest_cost: AtomicU32,
    pub(super) options: Options,
}

#[derive(Default)]
pub(super) struct Queue {
    pub(super) lanes: Lanes,
    pub(super) workers: usize,
}

impl Checker {
    pub(crate) fn new(options: Options) -> Result<Self, getrandom::Error> {
        Ok(Self {
            fingerprints: Fingerprints::new()?,
            failures: Cache::new(FAILURES),
            queue: Mutex::default(),
            meter: Meter::default(),
            unavailable: AtomicU64::new(0),
            highest_cost: AtomicU32::new(Entry::DEFAULT_COST),
            options,
        })
    }

    /// Makes every refusal take the work of this cost: the highest that an account has
    pub(crate) fn set_highest_cost(&self, cost: u32) {
        self.highest_cost.store(cost, Ordering::Relaxed);
    }

    /// What it did and does, without users
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            hashes: self.meter.hashes(),
            rounds: self.meter.rounds(),
            unavailable: self.unavailable.load(Ordering::Relaxed),
            waiting: self.queue().lanes.waiting() as u64,
            users: 0,
        }
    }

    /// Whether this is the password of the account; it is of none
    ///
    /// The account is the same value for as long as its hash is the same: it remembers.
    pub(crate) async fn check(
        self: &Arc<Self>,
        user: &str,
        password: &str,
        account: Option<&Arc<Account>>,
    ) -> Result<Verdict, AuthenticateError> {
        let password = taken_in(password.as_bytes());
        let credentials = self.credentials(user, password, account);
        let memory = match self.memory(&credentials, password, account) {
            Ok(verdict) => return Ok(verdict),
            Err(memory) => memory,
        };
        let question = match (account, memory) {
            (Some(account), Memory::Unknown) => Question::Check {
                account: account.clone(),
                password: password.into(),
            },
            _ => Question::Shadow,
        };
        let unavailable = || {
            self.unavailable.fetch_add(1, Ordering::Relaxed);
            AuthenticateError::Unavailable {
                retry_after: RETRY_AFTER,
            }
        };
        let name = self.fingerprints.name(user);
        let answer = self
            .ask(name, credentials, question)
            .map_err(|_| unavailable())?;
        answer.await.map_err(|_| unavailable())
    }

    /// What is known without a check
    pub(crate) fn recall(
        &self,
        user: &str,
        password: &str,
        account: Option<&Arc<Account>>,
    ) -> Option<Verdict> {
        let password = taken_in(password.as_bytes());
        let credentials = self.credentials(user, password, account);
        self.memory(&credentials, password, account).ok()
    }

    fn credentials(
        &self,
        user: &str,
        password: &[u8],
        account: Option<&Arc<Account>>,
    ) -> Fingerprint {
        let hash = account.map(|account| &account.hash);
        self.fingerprints.credentials(user, password, hash)
    }

    /// What is remembered, or what to make a check of
    fn memory(
        &self,
        credentials: &Fingerprint,
        password: &[u8],
        account: Option<&Arc<Account>>,
    ) -> Result<Verdict, Memory> {
        let memory = match account {
            // bcrypt takes a password that repeats itself with zeros between for the
            // password alone. No client may send zeros, and no tool makes such an entry.
            Some(_) if password.contains(&0) => Memory::Wrong,
            Some(account) => account.recall(credentials, Instant::now(), self.options.remember),
            None => Memory::Wrong,
        };
        match memory {
            Memory::Right => Ok(Verdict::Right),
            _ if self.failures.get(credentials).is_some() => Ok(Verdict::Wrong),
            unknown => Err(unknown),
        }
    }

    fn ask(
        self: &Arc<Self>,
        name: Fingerprint,
        credentials: Fingerprint,
        question: Question,
    ) -> Result<oneshot::Receiver<Verdict>, Full> {
        let (sender, receiver) = oneshot::channel();
        let worker = {
            let mut queue = self.queue();
            queue
                .lanes
                .enqueue(name, credentials, question, sender, Instant::now())?;
            (queue.workers < self.options.concurrency.get()).then(|| {
                queue.workers += 1;
                Worker {
                    checker: self.clone(),
                    run: None,
                    counted: true,
                }
            })
        };
        if let Some(worker) = worker {
            // Not awaited: the answers come through their channels.
            drop(task::spawn_blocking(move || worker.work()));
        }
        Ok(receiver)
    }

    /// Makes the hash of a run, and remembers what it tells
    fn perform(&self, run: &Run) -> Verdict {
        let highest_cost = self.highest_cost.load(Ordering::Relaxed);
        match run {
            Run::Check {
                credentials,
                account,
                password,
                ..
            } => {
                if account.hash.check(password, highest_cost, &self.meter) {
                    account.succeeded(*credentials, Instant::now());
                    Verdict::Right
                } else {
                    account.failed(Instant::now());
                    self.failures.insert(*credentials, ());
                    Verdict::Wrong
                }
            }
            Run::Shadow(heads) => {
                waste(highest_cost, &self.meter);
                for (_, credentials) in heads {
                    self.failures.insert(*credentials, ());
                }
                Verdict::Wrong
            }
        }
    }

    pub(super) fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Makes hashes until nobody waits for one
pub(super) struct Worker {
    pub(super) checker: Arc<Checker>,
    pub(super) run: Option<Run>,
    pub(super) counted: bool,
}

impl Worker {
    fn work(mut self) {
        while self.step() {}
    }

    /// Makes one hash, if there is one to make
    pub(super) fn step(&mut self) -> bool {
        let mut queue = self.checker.queue();
        let Some(run) = queue.lanes.next(Instant::now()) else {
            // Under the same lock as the look: what comes next finds that a worker is missing.
            queue.workers -= usize::from(self.counted);
            self.counted = false;
            return false;
        };
        drop(queue);
        let run = self.run.insert(run);
        let verdict = self.checker.perform(run);
        let senders = self.checker.queue().lanes.finish(run, verdict);
        self.run = None;
        for sender in senders {
            // Who asked may be gone.
            let _ = sender.send(verdict);
        }
        true
    }
}

impl Drop for Worker {
    /// Whatever ends a worker early, nobody waits for it for ever
    fn drop(&mut self) {
        if self.run.is_none() && !self.counted {
            return;
        }
        let mut queue = self.checker.queue();
        queue.workers -= usize::from(self.counted);
        if let Some(run) = &self.run {
            // The senders are dropped, which says that there is no answer.
            drop(queue.lanes.finish(run, Verdict::Wrong));
        }
    }
}
