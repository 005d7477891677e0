//! Removing abandoned uploads from time to time

use std::convert::Infallible;
use std::fmt::Write;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use registry_storage::{PurgeOptions, PurgeReport, Store};

/// When uploads are purged
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use registry_examples::purge::Schedule;
///
/// let schedule = Schedule::default();
/// assert_eq!(schedule.interval, Duration::from_secs(24 * 60 * 60));
/// assert!(schedule.delay < Duration::from_secs(60 * 60));
/// ```
#[derive(Clone, Debug)]
pub struct Schedule {
    /// What is removed
    pub options: PurgeOptions,
    /// How long to wait after one purge has ended before the next begins; a day by default, as
    /// in distribution
    pub interval: Duration,
    /// How long to wait before the first
    ///
    /// By default a random time of less than an hour, as in distribution: replicas that start
    /// together then do not search the storage together, and a start is not slowed down.
    pub delay: Duration,
}

impl Default for Schedule {
    fn default() -> Self {
        // The keys of the standard library's hash maps are random numbers of the system.
        let random = RandomState::new().hash_one(());
        Self {
            options: PurgeOptions::default(),
            interval: Duration::from_secs(24 * 60 * 60),
            delay: Duration::from_secs(random % (60 * 60)),
        }
    }
}

/// Purges again and again, and tells `done` of each time
///
/// Never ends by itself; drop the future to stop it, at any time: what a purge has begun with
/// one session, the next goes on with.
pub async fn run_periodically(
    store: Store,
    schedule: Schedule,
    mut done: impl FnMut(&PurgeReport),
) -> Infallible {
    let mut wait = schedule.delay;
    loop {
        tracing::info!("starting upload purge in {}", spoken(wait));
        tokio::time::sleep(wait).await;
        let report = store.purge_uploads(&schedule.options).await;
        tracing::info!(
            sessions = report.sessions,
            removed = report.removed,
            bytes = report.bytes,
            in_use = report.in_use,
            failed = report.failed,
            dry_run = schedule.options.dry_run,
            "upload purge done",
        );
        done(&report);
        wait = schedule.interval;
    }
}

/// A time as `1h45m`, as the configuration writes it
fn spoken(time: Duration) -> String {
    let seconds = time.as_secs();
    let mut text = String::new();
    for (amount, unit) in [
        (seconds / 3600, 'h'),
        (seconds / 60 % 60, 'm'),
        (seconds % 60, 's'),
    ] {
        if amount > 0 {
            // Writing to a string does not fail.
            let _ = write!(text, "{amount}{unit}");
        }
    }
    match text.is_empty() {
        true => "0s".to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use registry_core::{Algorithm, RepositoryName};
    use registry_storage::Memory;
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn uploads_are_purged_again_and_again() {
        let store = Store::new(Arc::new(Memory::new()));
        let name = RepositoryName::try_from("a").unwrap();
        let start = || async {
            let started = store.start_upload(&name, Algorithm::Sha256).await;
            started.unwrap().id()
        };
        let schedule = Schedule {
            options: PurgeOptions::default().with_older_than(Duration::ZERO),
            interval: Duration::from_millis(20),
            delay: Duration::ZERO,
        };
        let (sender, mut reports) = mpsc::unbounded_channel();
        let purging = run_periodically(store.clone(), schedule, move |report| {
            // Nobody listens any more once the test is over.
            let _ = sender.send(report.removed);
        });
        let first = start().await;
        let purging = tokio::spawn(purging);
        assert_eq!(reports.recv().await, Some(1));
        assert!(store.open_upload(&name, &first).await.is_err());
        let second = start().await;
        let mut removed = 0;
        while removed == 0 {
            removed = reports.recv().await.unwrap();
        }
        assert_eq!(removed, 1);
        assert!(store.open_upload(&name, &second).await.is_err());
        purging.abort();
        assert!(purging.await.unwrap_err().is_cancelled());
    }

    #[tokio::test]
    async fn the_first_purge_waits() {
        let store = Store::new(Arc::new(Memory::new()));
        let schedule = Schedule {
            delay: Duration::from_secs(60 * 60),
            ..Schedule::default()
        };
        let purging = run_periodically(store, schedule, |_| panic!("it did not wait"));
        let purging = tokio::time::timeout(Duration::from_millis(50), purging);
        assert!(purging.await.is_err());
    }

    #[test]
    fn replicas_begin_at_different_times() {
        let delays: std::collections::BTreeSet<_> =
            (0..20).map(|_| Schedule::default().delay).collect();
        assert!(delays.len() > 1);
        assert!(delays.iter().all(|delay| delay.as_secs() < 60 * 60));
    }

    #[test]
    fn times_are_said_as_they_are_configured() {
        for (seconds, text) in [(0, "0s"), (59, "59s"), (2700, "45m"), (90_061, "25h1m1s")] {
            assert_eq!(spoken(Duration::from_secs(seconds)), text);
        }
    }
}
