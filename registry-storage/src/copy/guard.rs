//! Many things at once, until there is no sense in going on

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::{Stream, StreamExt};
use registry_core::RepositoryName;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, JoinSet};

use super::CopyError;
use super::progress::{Problem, Progress};
use crate::error::StorageError;

/// After how many failures in a row, for each of those that go on at once, a storage is given up
const PATIENCE: usize = 4;

/// Works on many things at once, and stops when there is no sense in going on
///
/// Failures are problems; they do not keep the rest from being done, unless there are only
/// failures.
#[derive(Debug)]
pub(super) struct Guard {
    concurrency: usize,
    /// Shared by all repositories
    permits: Arc<Semaphore>,
    progress: Arc<Progress>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    in_a_row: usize,
    /// How much was done at the last failure
    done: u64,
    stopped: Option<Arc<StorageError>>,
}

impl Guard {
    pub(super) fn new(concurrency: usize, progress: Arc<Progress>) -> Self {
        Self {
            concurrency,
            permits: Arc::new(Semaphore::new(concurrency)),
            progress,
            state: Mutex::default(),
        }
    }

    /// Does `work` for each repository, which itself calls [`Guard::each`]
    pub(super) async fn repositories<F>(
        &self,
        names: impl Stream<Item = Result<RepositoryName, StorageError>>,
        work: impl Fn(RepositoryName) -> F,
    ) where
        F: Future<Output = ()> + Send + 'static,
    {
        self.run(names, |name| {
            let work = work(name);
            async {
                work.await;
                Ok(())
            }
        })
        .await;
    }

    /// Does `work` for each of the items, in tasks of their own
    pub(super) async fn each<T, F>(
        &self,
        items: impl Stream<Item = Result<T, StorageError>>,
        work: impl Fn(T) -> F,
    ) where
        F: Future<Output = Result<(), StorageError>> + Send + 'static,
    {
        self.run(items, |item| {
            let (permits, work) = (self.permits.clone(), work(item));
            async {
                // It is an error only if nobody is to go on any more.
                let _permit = permits.acquire_owned().await;
                work.await
            }
        })
        .await;
    }

    async fn run<T, F>(
        &self,
        items: impl Stream<Item = Result<T, StorageError>>,
        work: impl Fn(T) -> F,
    ) where
        F: Future<Output = Result<(), StorageError>> + Send + 'static,
    {
        let mut items = pin!(items);
        let mut tasks = JoinSet::new();
        while let Some(item) = items.next().await {
            while tasks.len() >= self.concurrency
                && let Some(ended) = tasks.join_next().await
            {
                self.ended(ended);
            }
            if self.lock().stopped.is_some() {
                break;
            }
            match item {
                Ok(item) => {
                    tasks.spawn(work(item));
                }
                Err(error) => self.failed(error),
            }
        }
        while let Some(ended) = tasks.join_next().await {
            self.ended(ended);
        }
    }

    /// Why it was stopped, if it was
    pub(super) fn result(&self) -> Result<(), CopyError> {
        match &self.lock().stopped {
            Some(error) => Err(CopyError::Storage(error.clone())),
            None => Ok(()),
        }
    }

    fn ended(&self, task: Result<Result<(), StorageError>, JoinError>) {
        match task {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.failed(error),
            Err(error) => {
                // Nobody aborts a task that is waited for.
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }

    fn failed(&self, error: StorageError) {
        let done = self.progress.done();
        let mut state = self.lock();
        if state.done != done {
            state.done = done;
            state.in_a_row = 0;
        }
        state.in_a_row += 1;
        // Where there is no room, there will be none for the next one.
        if error.is_full() || state.in_a_row >= PATIENCE * self.concurrency {
            state.stopped.get_or_insert_with(|| Arc::new(error));
        } else {
            drop(state);
            self.progress.problem(Problem::Storage(error));
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No change leaves it half done, so one that another thread gave up is usable.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
