//! Waits for the disk that are had at once

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;
use tokio::runtime::Handle;

/// How many errands are with the pool at a time: about as many as one push has at once
///
/// More pushes at once keep the disk busy by themselves, and then each thread more is only one
/// more that has to be woken.
const AT_ONCE: usize = 4;

type Work = Box<dyn FnOnce() -> Result<(), Errno> + Send>;

/// Sends errands
#[derive(Debug, Default)]
pub(super) struct Errands {
    with_pool: Arc<AtomicUsize>,
}

/// Something that a thread of the pool does meanwhile
///
/// Nobody waits for the pool: what it has not begun when it is waited for is done by whoever
/// waits. So a pool all of whose threads wait for errands goes on all the same, and where the
/// processors are busy, and the wait would be for them, there is none.
pub(super) struct Errand(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    done: Condvar,
}

enum State {
    Waiting(Work),
    Running,
    Done(Result<(), Errno>),
}

impl Errands {
    /// Sends one on its way, unless too many are under way: then it waits for whoever waits for it
    pub(super) fn send(&self, work: impl FnOnce() -> Result<(), Errno> + Send + 'static) -> Errand {
        let shared = Arc::new(Shared {
            state: Mutex::new(State::Waiting(Box::new(work))),
            done: Condvar::new(),
        });
        if let Ok(runtime) = Handle::try_current()
            && let Some(place) = self.place()
        {
            let shared = shared.clone();
            runtime.spawn_blocking(move || {
                shared.run();
                drop(place);
            });
        }
        Errand(shared)
    }

    fn place(&self) -> Option<Place> {
        let one_more = |taken| (taken < AT_ONCE).then_some(taken + 1);
        let order = Ordering::Relaxed;
        let taken = self.with_pool.fetch_update(order, order, one_more);
        taken.is_ok().then(|| Place(self.with_pool.clone()))
    }
}

impl Errand {
    /// What came of it
    pub(super) fn wait(self) -> Result<(), Errno> {
        self.0.run();
        let mut state = self.0.state();
        loop {
            match *state {
                State::Done(result) => return result,
                State::Waiting(_) | State::Running => {
                    let waited = self.0.done.wait(state);
                    state = waited.unwrap_or_else(PoisonError::into_inner);
                }
            }
        }
    }
}

/// One of the errands that are with the pool, until it is dropped
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing that could panic runs while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what is to be done, unless somebody does it or has done it
    fn run(&self) {
        let mut state = self.state();
        match std::mem::replace(&mut *state, State::Running) {
            State::Waiting(work) => {
                drop(state);
                // Work that panics has done nobody knows what, and must not be waited for.
                let result = catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(Errno::IO));
                *self.state() = State::Done(result);
                self.done.notify_all();
            }
            begun => *state = begun,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    #[test]
    fn without_a_pool_whoever_waits_does_it() {
        let here = thread::current().id();
        let (sender, done) = mpsc::channel();
        let errand = Errands::default().send(move || {
            let _ = sender.send(thread::current().id());
            Err(Errno::NOSPC)
        });
        assert_eq!(errand.wait(), Err(Errno::NOSPC));
        assert_eq!(done.recv(), Ok(here));
    }

    #[tokio::test]
    async fn what_the_pool_has_begun_is_waited_for() {
        tokio::task::spawn_blocking(|| {
            let (begin, begun) = mpsc::channel();
            let (end, ended) = mpsc::channel::<()>();
            let errand = Errands::default().send(move || {
                begin.send(thread::current().id()).unwrap();
                ended.recv().unwrap();
                Err(Errno::IO)
            });
            assert_ne!(begun.recv().unwrap(), thread::current().id());
            end.send(()).unwrap();
            assert_eq!(errand.wait(), Err(Errno::IO));
        })
        .await
        .unwrap();
    }

    #[test]
    fn a_pool_without_a_free_thread_is_not_waited_for() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .max_blocking_threads(1)
            .build()
            .unwrap();
        let count = Arc::new(AtomicUsize::new(0));
        runtime.block_on(async {
            let counted = count.clone();
            tokio::task::spawn_blocking(move || {
                let sender = Errands::default();
                let errands: Vec<_> = (0..2 * AT_ONCE)
                    .map(|_| {
                        let counted = counted.clone();
                        sender.send(move || {
                            counted.fetch_add(1, Ordering::Relaxed);
                            Ok(())
                        })
                    })
                    .collect();
                errands.into_iter().for_each(|errand| {
                    errand.wait().unwrap();
                });
            })
            .await
            .unwrap();
        });
        drop(runtime);
        assert_eq!(count.load(Ordering::Relaxed), 2 * AT_ONCE, "each once");
    }

    #[tokio::test]
    async fn no_more_than_a_few_are_with_the_pool_and_each_place_is_given_back() {
        let sender = Errands::default();
        for _ in 0..3 {
            let places: Vec<_> = std::iter::repeat_with(|| sender.place())
                .take(AT_ONCE + 1)
                .collect();
            assert_eq!(places.iter().flatten().count(), AT_ONCE);
            drop(places);
            let errand = sender.send(|| Ok(()));
            let waited = tokio::task::spawn_blocking(move || errand.wait());
            assert_eq!(waited.await.unwrap(), Ok(()));
            while sender.with_pool.load(Ordering::Relaxed) > 0 {
                tokio::task::yield_now().await;
            }
        }
    }

    #[test]
    fn what_panics_has_failed() {
        assert_eq!(
            Errands::default().send(|| panic!("on purpose")).wait(),
            Err(Errno::IO)
        );
    }
}
