//! Hashing beside the receiving and the writing of a body

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::available_parallelism;

use bytes::Bytes;
use registry_core::Hasher;
use registry_core::upload::{Chunk, ChunkError};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// The processors that are lent to uploads for nothing but their hashes
///
/// Half of them: an upload that has one still receives on another. When all are lent there is
/// work for every processor anyway, and a thread more is only one more that has to be woken.
#[derive(Clone, Debug)]
pub(super) struct Processors(Arc<Semaphore>);

/// The hash of a body, computed on another processor as long as there is one to be had and work
/// for it
#[derive(Debug)]
pub(super) struct Beside {
    processors: Processors,
    run: Option<Run>,
}

/// Why bytes could not be hashed
#[derive(Debug)]
pub(super) enum HashError {
    /// They are not to be in this chunk
    Chunk(ChunkError),
    /// The thread has ended without an answer
    Lost,
}

/// Work of a thread, which ends when it has none
#[derive(Debug)]
struct Run {
    queue: Arc<Mutex<Queue>>,
    /// A hash after each part of the work
    hashed: UnboundedReceiver<Hasher>,
    /// How many parts there was no hash of yet
    outstanding: usize,
}

/// Parts of a body that wait to be hashed
#[derive(Debug)]
enum Queue {
    Open(VecDeque<Vec<Bytes>>),
    Closed,
}

impl Default for Processors {
    fn default() -> Self {
        let all = available_parallelism().map_or(1, usize::from);
        Self(Arc::new(Semaphore::new(all / 2)))
    }
}

impl Beside {
    pub(super) fn new(processors: &Processors) -> Self {
        Self {
            processors: processors.clone(),
            run: None,
        }
    }

    /// Whether what comes next may be hashed on another processor
    ///
    /// Otherwise whoever receives it hashes it best, while it is in the processor's cache.
    pub(super) fn is_open(&self) -> bool {
        self.run.is_some() || self.processors.0.available_permits() > 0
    }

    /// Hashes these pieces, on another processor if there is one
    pub(super) async fn hash(
        &mut self,
        chunk: &mut Chunk<'_>,
        pieces: &[Bytes],
    ) -> Result<(), HashError> {
        if self.run.as_mut().is_some_and(|run| run.go_on(pieces)) {
            return Ok(());
        }
        self.settle(chunk, 0).await?;
        self.run = match self.processors.0.clone().try_acquire_owned() {
            Ok(processor) => Some(Run::begin(processor, chunk.hasher().clone(), pieces)),
            Err(_) => {
                for piece in pieces {
                    let _ = chunk.append(piece)?;
                }
                None
            }
        };
        Ok(())
    }

    /// Waits until only so many parts are not hashed yet; those that are, the chunk has then
    pub(super) async fn settle(
        &mut self,
        chunk: &mut Chunk<'_>,
        at_most: usize,
    ) -> Result<(), HashError> {
        while let Some(run) = &mut self.run
            && run.outstanding > at_most
        {
            let hasher = run.hashed.recv().await.ok_or(HashError::Lost)?;
            run.outstanding -= 1;
            let _ = chunk.append_hashed(hasher)?;
        }
        Ok(())
    }
}

impl Run {
    fn begin(processor: OwnedSemaphorePermit, hasher: Hasher, pieces: &[Bytes]) -> Self {
        let queue = Arc::new(Mutex::new(Queue::Open(VecDeque::new())));
        let (sender, hashed) = unbounded_channel();
        let (waiting, pieces) = (queue.clone(), pieces.to_vec());
        tokio::task::spawn_blocking(move || work(processor, hasher, pieces, &waiting, &sender));
        Self {
            queue,
            hashed,
            outstanding: 1,
        }
    }

    /// Adds to the work, unless it has ended
    fn go_on(&mut self, pieces: &[Bytes]) -> bool {
        match &mut *lock(&self.queue) {
            Queue::Open(parts) => parts.push_back(pieces.to_vec()),
            Queue::Closed => return false,
        }
        self.outstanding += 1;
        true
    }
}

fn work(
    processor: OwnedSemaphorePermit,
    mut hasher: Hasher,
    mut pieces: Vec<Bytes>,
    queue: &Mutex<Queue>,
    hashed: &UnboundedSender<Hasher>,
) {
    loop {
        pieces.iter().for_each(|piece| hasher.update(piece));
        // Whoever waits may not be there any more.
        let _ = hashed.send(hasher.clone());
        let mut queue = lock(queue);
        let next = match &mut *queue {
            Queue::Open(parts) => parts.pop_front(),
            Queue::Closed => None,
        };
        pieces = match next {
            Some(next) => next,
            None => {
                // Whoever sees that this has ended finds the processor free.
                drop(processor);
                *queue = Queue::Closed;
                return;
            }
        };
    }
}

fn lock(queue: &Mutex<Queue>) -> MutexGuard<'_, Queue> {
    // What is guarded is nothing that a panic could leave half done.
    queue.lock().unwrap_or_else(PoisonError::into_inner)
}

impl From<ChunkError> for HashError {
    fn from(error: ChunkError) -> Self {
        Self::Chunk(error)
    }
}

#[cfg(test)]
mod tests {
    use registry_core::upload::{ChunkHeader, Session, UploadId};
    use registry_core::{Algorithm, Digest};

    use super::*;

    fn with(processors: usize) -> Processors {
        Processors(Arc::new(Semaphore::new(processors)))
    }

    fn session() -> Session {
        Session::begin(UploadId::from_random_bytes([1; 16]), Algorithm::Sha256)
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn it_is_the_same_hash_wherever_it_is_computed() {
        for processors in [with(0), with(1)] {
            let (mut one, mut other) = (session(), session());
            let mut chunks = [&mut one, &mut other]
                .map(|session| session.chunk(ChunkHeader::default()).unwrap());
            let mut beside = [Beside::new(&processors), Beside::new(&processors)];
            let mut expected = Vec::new();
            for number in 0..200_u8 {
                let pieces = [vec![number; 3000], vec![!number; 70]].map(Bytes::from);
                expected.extend_from_slice(&pieces.concat());
                for (chunk, beside) in chunks.iter_mut().zip(&mut beside) {
                    beside.hash(chunk, &pieces).await.unwrap();
                    let outstanding = usize::from(number % 3);
                    beside.settle(chunk, outstanding).await.unwrap();
                    assert!(chunk.offset() + outstanding as u64 * 3070 >= expected.len() as u64);
                }
            }
            for (mut chunk, mut beside) in chunks.into_iter().zip(beside) {
                beside.settle(&mut chunk, 0).await.unwrap();
                assert_eq!(chunk.offset(), expected.len() as u64);
                assert_eq!(chunk.hasher().clone().finish(), Digest::sha256(&expected));
            }
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_processor_is_given_back_when_there_is_no_work_for_it() {
        let processors = with(1);
        let mut session = session();
        let mut chunk = session.chunk(ChunkHeader::default()).unwrap();
        let mut beside = Beside::new(&processors);
        assert!(beside.is_open());
        let pieces = [Bytes::from_static(b"abc")];
        beside.hash(&mut chunk, &pieces).await.unwrap();
        beside.settle(&mut chunk, 0).await.unwrap();
        // The thread is about to end.
        drop(processors.0.acquire().await.unwrap());
        // Somebody else has it, so it is hashed here.
        let taken = processors.0.clone().acquire_owned().await.unwrap();
        beside.hash(&mut chunk, &pieces).await.unwrap();
        assert_eq!(chunk.offset(), 6);
        assert!(!beside.is_open());
        drop(taken);
        assert!(beside.is_open());
        assert_eq!(chunk.hasher().clone().finish(), Digest::sha256(b"abcabc"));
    }

    #[tokio::test]
    async fn more_than_was_announced_is_refused() {
        for processors in [with(0), with(1)] {
            let mut session = session();
            let header = ChunkHeader {
                length: Some(4),
                ..ChunkHeader::default()
            };
            let mut chunk = session.chunk(header).unwrap();
            let mut beside = Beside::new(&processors);
            let pieces = [Bytes::from_static(b"abc")];
            beside.hash(&mut chunk, &pieces).await.unwrap();
            let second = beside.hash(&mut chunk, &pieces).await;
            let refused = second.and(beside.settle(&mut chunk, 0).await);
            assert!(matches!(
                refused,
                Err(HashError::Chunk(ChunkError::TooLong))
            ));
        }
    }
}
