//! A user of the file in force, and what was seen of the password

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::fingerprint::Fingerprint;
use super::hash::Hash;

/// For how long a failure counts against a user who waits
const LATELY: Duration = Duration::from_secs(60);

/// The entry of a user, with what is remembered of it
///
/// Of all passwords one is right, so one fingerprint is all that success has to remember: as
/// much memory as there are entries, and no attack can push it out. Once it is there, every
/// other password is known to be wrong.
pub(crate) struct Account {
    pub(crate) hash: Hash,
    history: Mutex<History>,
}

#[derive(Default)]
struct History {
    /// The right credentials, and when they came last
    right: Option<(Fingerprint, Instant)>,
    /// How often a check failed since an instant
    failures: Option<(u32, Instant)>,
}

/// What is remembered of some credentials
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    Right,
    /// Others are right
    Wrong,
    /// Only a check can tell
    Unknown,
}

impl Account {
    pub(crate) fn new(hash: Hash) -> Self {
        Self {
            hash,
            history: Mutex::default(),
        }
    }

    /// What is known of these credentials; right ones are remembered for longer
    pub(super) fn recall(
        &self,
        credentials: &Fingerprint,
        now: Instant,
        remember: Duration,
    ) -> Memory {
        let mut history = self.history();
        match &mut history.right {
            Some((_, last)) if now.saturating_duration_since(*last) >= remember => {
                history.right = None;
                Memory::Unknown
            }
            Some((right, last)) if right == credentials => {
                *last = now;
                Memory::Right
            }
            Some(_) => Memory::Wrong,
            None => Memory::Unknown,
        }
    }

    pub(super) fn succeeded(&self, credentials: Fingerprint, now: Instant) {
        *self.history() = History {
            right: Some((credentials, now)),
            failures: None,
        };
    }

    pub(super) fn failed(&self, now: Instant) {
        let failures = self.failures(now);
        let mut history = self.history();
        let since = match history.failures {
            Some((_, since)) if failures > 0 => since,
            _ => now,
        };
        history.failures = Some((failures.saturating_add(1), since));
    }

    /// How often a check failed lately
    pub(super) fn failures(&self, now: Instant) -> u32 {
        match self.history().failures {
            Some((count, since)) if now.saturating_duration_since(since) < LATELY => count,
            _ => 0,
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        // It is whole at any time: each change is one assignment.
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn account() -> Account {
        Account::new(
            Hash::parse("$2y$04$1OPuzxJJhXT5NoTnCgjGeu/f/Nf3FH214vJZnGn0oOaD4pYB4pnQa").unwrap(),
        )
    }

    #[test]
    fn the_right_password_is_remembered_while_it_is_used() {
        let remember = Duration::from_secs(100);
        let (right, wrong) = (Fingerprint::of(1), Fingerprint::of(2));
        let account = account();
        let start = Instant::now();
        let recall = |credentials, after| {
            account.recall(credentials, start + Duration::from_secs(after), remember)
        };
        assert_eq!(recall(&right, 0), Memory::Unknown);
        account.succeeded(right, start);
        assert_eq!(recall(&wrong, 1), Memory::Wrong);
        assert_eq!(recall(&right, 99), Memory::Right);
        // A wrong one does not keep it.
        assert_eq!(recall(&wrong, 198), Memory::Wrong);
        assert_eq!(recall(&right, 199), Memory::Unknown);
        assert_eq!(recall(&wrong, 199), Memory::Unknown);
    }

    #[test]
    fn failures_count_for_a_while() {
        let account = account();
        let start = Instant::now();
        assert_eq!(account.failures(start), 0);
        account.failed(start);
        account.failed(start + LATELY / 2);
        assert_eq!(account.failures(start + LATELY / 2), 2);
        assert_eq!(account.failures(start + LATELY), 0);
        account.failed(start + LATELY);
        assert_eq!(account.failures(start + LATELY), 1);
        account.succeeded(Fingerprint::of(1), start + LATELY);
        assert_eq!(account.failures(start + LATELY), 0);
    }
}
