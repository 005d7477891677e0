//! Memory for the bytes of streams, used again and again
//!
//! A read that must not wait fills only memory that has values already, and to clear fresh memory
//! for each would be work for nothing. And how much of it there is at once must not grow with the
//! number of slow readers: the more is lent, the less a reader gets.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// How many bytes of a blob are read at a time
///
/// Larger reads cost more cache misses than they save calls, smaller ones more calls.
pub(super) const LARGE: usize = 256 * 1024;

/// How many bytes are read at a time when [`PLENTY`] are lent, and when [`SCARCE`] are
const MIDDLE: usize = 64 * 1024;
const SMALL: usize = 16 * 1024;

/// Up to how many lent bytes nobody has to save: 64 large buffers
const PLENTY: usize = 16 * 1024 * 1024;

/// From how many lent bytes on everybody gets little
///
/// A thousand readers, each with two buffers, then have 64 MiB.
const SCARCE: usize = 32 * 1024 * 1024;

/// How many large buffers are kept for the next reader, 2 MiB in all
///
/// As many as are filled at one time, on the machines that there are; not as many as are waiting
/// to be sent.
const IDLE: usize = 8;

/// The buffers of one storage
#[derive(Debug, Default)]
pub(super) struct Buffers {
    idle: Mutex<Vec<Box<[u8]>>>,
    lent: AtomicUsize,
}

/// A buffer until it is dropped, or the last of the [`Bytes`] that were made of it is
#[derive(Debug)]
pub(super) struct Lent {
    memory: Box<[u8]>,
    /// How much of the memory is to be used
    length: usize,
    home: Arc<Buffers>,
}

impl Buffers {
    /// A buffer for the next of `wanted` bytes, which are at least one
    pub(super) fn lend(self: &Arc<Self>, wanted: u64) -> Lent {
        let most = match self.lent.load(Ordering::Relaxed) {
            ..PLENTY => LARGE,
            PLENTY..SCARCE => MIDDLE,
            _ => SMALL,
        };
        let length = usize::try_from(wanted).map_or(most, |wanted| wanted.min(most));
        let memory = if length > MIDDLE {
            self.idle().pop().unwrap_or_else(|| vec![0; LARGE].into())
        } else {
            vec![0; length].into()
        };
        self.lent.fetch_add(memory.len(), Ordering::Relaxed);
        Lent {
            memory,
            length,
            home: self.clone(),
        }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Box<[u8]>>> {
        // What is guarded is nothing that a panic could leave half done.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lent {
    /// What is to be filled
    pub(super) fn room(&mut self) -> &mut [u8] {
        &mut self.memory[..self.length]
    }

    /// The first `length` bytes, for as long as somebody has them
    pub(super) fn into_bytes(mut self, length: usize) -> Bytes {
        self.length = self.length.min(length);
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.memory[..self.length]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.home
            .lent
            .fetch_sub(self.memory.len(), Ordering::Relaxed);
        if self.memory.len() == LARGE {
            let mut idle = self.home.idle();
            if idle.len() < IDLE {
                idle.push(std::mem::take(&mut self.memory));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_its_last_bytes_are_dropped() {
        let buffers = Arc::new(Buffers::default());
        let mut lent = buffers.lend(u64::MAX);
        assert_eq!(lent.room().len(), LARGE);
        lent.room()[..5].copy_from_slice(b"hello");
        let place = lent.room().as_ptr();
        let bytes = lent.into_bytes(5);
        let part = bytes.slice(1..3);
        assert_eq!((&*bytes, &*part), (&b"hello"[..], &b"el"[..]));
        drop(bytes);
        assert_ne!(buffers.lend(u64::MAX).room().as_ptr(), place);
        assert_eq!(part, "el");
        drop(part);
        assert_eq!(buffers.lent.load(Ordering::Relaxed), 0);
        let two = [buffers.lend(100_000), buffers.lend(u64::MAX)];
        assert!(two.iter().any(|lent| lent.memory.as_ptr() == place));
        assert_eq!(two[0].length, 100_000);
    }

    #[test]
    fn many_readers_get_less_each_and_little_is_kept() {
        let buffers = Arc::new(Buffers::default());
        let many: Vec<_> = (0..2000).map(|_| buffers.lend(1 << 30)).collect();
        let lent = buffers.lent.load(Ordering::Relaxed);
        let sum: usize = many.iter().map(|lent| lent.memory.len()).sum();
        assert_eq!(lent, sum);
        assert!(lent < 64 * 1024 * 1024, "{lent}");
        assert_eq!(many[0].length, LARGE);
        assert_eq!(many[100].length, MIDDLE);
        assert_eq!(many[1999].length, SMALL);
        drop(many);
        assert_eq!(buffers.lent.load(Ordering::Relaxed), 0);
        assert_eq!(buffers.idle().len(), IDLE);
        assert_eq!(buffers.lend(1).room().len(), 1);
    }
}
