//! A connection, and who waits for it

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rusqlite::Connection;
use tokio::sync::oneshot;

use super::{EmbeddedError, failed};

/// A connection that serves one after the other, on a thread that may block
///
/// The thread goes on for as long as anyone waits. To hand the connection from thread to thread
/// takes several times as long as to answer a question.
pub(super) struct Line {
    connection: Mutex<Connection>,
    queue: Mutex<Queue>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Work>,
    /// Whether a thread serves them
    served: bool,
}

type Work = Box<dyn FnOnce(&mut Connection) + Send>;

impl Line {
    pub(super) fn new(connection: Connection) -> Self {
        Self {
            connection: Mutex::new(connection),
            queue: Mutex::default(),
        }
    }

    /// Does this when it is its turn, unless whoever asked is gone by then
    pub(super) async fn run<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&mut Connection) -> Result<T, EmbeddedError> + Send + 'static,
    ) -> Result<T, EmbeddedError> {
        let (sender, receiver) = oneshot::channel();
        let work: Work = Box::new(move |connection| {
            if !sender.is_closed() {
                // Who asked may be gone by now.
                let _ = sender.send(work(connection));
            }
        });
        let server = {
            let mut queue = self.queue();
            queue.waiting.push_back(work);
            let is_first = !std::mem::replace(&mut queue.served, true);
            is_first.then(|| Server(Some(self.clone())))
        };
        if let Some(server) = server {
            // Not awaited: the answers come through their channels.
            drop(tokio::task::spawn_blocking(move || server.serve()));
        }
        receiver
            .await
            .unwrap_or_else(|_| Err(failed("its thread ended early; try again".to_owned())))
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Line").finish_non_exhaustive()
    }
}

/// Serves a line until nobody waits; then it has none
struct Server(Option<Arc<Line>>);

impl Server {
    fn serve(mut self) {
        let Some(line) = self.0.clone() else { return };
        let mut connection = line
            .connection
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        loop {
            let mut queue = line.queue();
            let Some(work) = queue.waiting.pop_front() else {
                // Under the same lock as the look: who comes next finds that nobody serves.
                queue.served = false;
                self.0 = None;
                return;
            };
            drop(queue);
            // A panic is for whoever asked, who gets no answer, and not for those behind. It leaves
            // the connection whole: a transaction that is dropped is rolled back.
            let _ = catch_unwind(AssertUnwindSafe(|| work(&mut connection)));
        }
    }
}

impl Drop for Server {
    /// Where its runtime ends before it began, nobody waits for ever
    fn drop(&mut self) {
        if let Some(line) = &self.0 {
            let mut queue = line.queue();
            queue.served = false;
            let waiting = std::mem::take(&mut queue.waiting);
            drop(queue);
            // Their senders are dropped, which says that there is no answer.
            drop(waiting);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line() -> Arc<Line> {
        Arc::new(Line::new(Connection::open_in_memory().unwrap()))
    }

    #[tokio::test]
    async fn all_are_served_in_their_order() {
        let line = line();
        let order = Arc::new(Mutex::new(Vec::new()));
        let asked = (0..100).map(|number| {
            let (line, order) = (line.clone(), order.clone());
            async move {
                let push = move |_: &mut Connection| {
                    order.lock().unwrap().push(number);
                    Ok(number)
                };
                assert_eq!(line.run(push).await.unwrap(), number);
            }
        });
        let tasks: Vec<_> = asked.map(tokio::spawn).collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*order.lock().unwrap(), (0..100).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn after_a_panic_it_goes_on() {
        let line = line();
        let panicked: Result<(), _> = line.run(|_| panic!("as a test does")).await;
        assert!(panicked.is_err());
        let within: Result<(), _> = line
            .run(|connection| {
                let writing = connection.transaction()?;
                writing.execute_batch("CREATE TABLE t (x)")?;
                panic!("as a test does")
            })
            .await;
        assert!(within.is_err());
        let count = |connection: &mut Connection| {
            let count = "SELECT count(*) FROM sqlite_schema";
            Ok(connection.query_row(count, [], |row| row.get::<_, i64>(0))?)
        };
        assert_eq!(line.run(count).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn who_waits_for_a_thread_that_never_begins_is_told() {
        let line = line();
        // As it is while a runtime ends: it drops what it did not begin.
        line.queue().served = true;
        let server = Server(Some(line.clone()));
        let asked = tokio::spawn({
            let line = line.clone();
            async move { line.run(|_| Ok(1)).await }
        });
        tokio::task::yield_now().await;
        drop(server);
        assert!(asked.await.unwrap().is_err());
        assert_eq!(line.run(|_| Ok(2)).await.unwrap(), 2);
    }
}
