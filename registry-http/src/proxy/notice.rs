//! What the log is told now and then, however often it happens

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often at most
const EVERY: Duration = Duration::from_secs(60);

/// When the log was last told
#[derive(Debug, Default)]
pub(super) struct Notice(Mutex<Option<Instant>>);

impl Notice {
    /// Whether it is time to tell the log, which then is taken for told
    pub(super) fn is_due(&self) -> bool {
        self.is_due_at(Instant::now())
    }

    fn is_due_at(&self, now: Instant) -> bool {
        let mut told = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let due = told.is_none_or(|told| now.saturating_duration_since(told) >= EVERY);
        if due {
            *told = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_told_once_a_minute() {
        let notice = Notice::default();
        let begun = Instant::now();
        assert!(notice.is_due_at(begun));
        assert!(!notice.is_due_at(begun) && !notice.is_due_at(begun + EVERY / 2));
        assert!(notice.is_due_at(begun + EVERY));
        assert!(!notice.is_due_at(begun + EVERY));
    }
}
