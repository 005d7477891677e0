//! Hashing beside the receiving and the writing of a body

use std::sync::Arc;
use std::thread::available_parallelism;

use bytes::Bytes;
use registry_core::Hasher;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{JoinError, JoinHandle};

/// The processors that are lent to uploads for nothing but their hashes
///
/// Half of them: an upload that has one still receives on another. When all are lent there is
/// work for every processor anyway, and a thread more is only one more that has to be woken.
#[derive(Debug)]
pub(super) struct Processors(Arc<Semaphore>);

/// One of the processors, until it is dropped
#[derive(Debug)]
pub(super) struct Processor {
    _permit: OwnedSemaphorePermit,
    running: Option<JoinHandle<Hasher>>,
}

impl Default for Processors {
    fn default() -> Self {
        let all = available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new(all / 2)))
    }
}

impl Processors {
    /// One that nobody has, if there is one
    pub(super) fn lend(&self) -> Option<Processor> {
        let permit = self.0.clone().try_acquire_owned().ok()?;
        Some(Processor {
            _permit: permit,
            running: None,
        })
    }
}

impl Processor {
    /// Begins to hash these pieces; what was begun before must have been waited for
    pub(super) fn begin(&mut self, mut hasher: Hasher, pieces: Vec<Bytes>) {
        debug_assert!(self.running.is_none());
        self.running = Some(tokio::task::spawn_blocking(move || {
            pieces.iter().for_each(|piece| hasher.update(piece));
            hasher
        }));
    }

    /// The hash that was begun last, if it was not waited for yet
    pub(super) async fn wait(&mut self) -> Result<Option<Hasher>, JoinError> {
        match self.running.take() {
            Some(running) => running.await.map(Some),
            None => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use registry_core::{Algorithm, Digest};

    use super::*;

    #[tokio::test]
    async fn a_processor_hashes_and_is_given_back() {
        let processors = Processors(Arc::new(Semaphore::new(1)));
        let mut processor = processors.lend().unwrap();
        assert!(processors.lend().is_none());
        assert!(processor.wait().await.unwrap().is_none());
        let pieces = ["ab", "c"].map(|piece| Bytes::from_static(piece.as_bytes()));
        processor.begin(Hasher::new(Algorithm::Sha256), pieces.into());
        let hasher = processor.wait().await.unwrap().unwrap();
        assert_eq!(hasher.finish(), Digest::sha256(b"abc"));
        assert!(processor.wait().await.unwrap().is_none());
        drop(processor);
        assert!(processors.lend().is_some());
    }
}
