//! Lines of text, written by a thread of its own

use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// How many lines may wait for a slow reader before whoever has the next one waits too
///
/// Waiting, not dropping: a line that is missing from a log misleads.
const QUEUE: usize = 8192;

/// For how long lines are gathered before they are written together
///
/// To wake the thread costs as much as the rest of a short request, and nobody reads this fast.
const GATHER: Duration = Duration::from_millis(5);

/// Hands lines to the writing thread; all clones write to the same place
#[derive(Clone, Debug)]
pub struct Lines(Arc<End>);

/// Says in a line of its own how many lines are missing before it
pub(crate) type Missing = Box<dyn Fn(u64) -> String + Send>;

/// The writing thread; it ends when every [`Lines`] of it is gone
#[derive(Debug)]
pub struct Writer(JoinHandle<()>);

/// The end of the queue at which lines come in
#[derive(Debug)]
struct End(Arc<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    /// There is something for the writing thread to do
    work: Condvar,
    /// It has taken what there was, or written it
    progress: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    batch: Batch,
    /// How many lines were dropped since the last batch, where nobody ever waits
    dropped: u64,
    never_waits: bool,
    /// Whether the writing thread sleeps until it is woken
    asleep: bool,
    /// Whether somebody waits for what is there to be written
    hurry: bool,
    closed: bool,
    /// How many batches were taken, and how many of them written
    taken: u64,
    written: u64,
    /// How many threads wait for progress
    held_up: usize,
}

/// Lines one after the other
#[derive(Debug, Default)]
struct Batch {
    text: String,
    /// Where each of them ends
    ends: Vec<usize>,
}

impl Lines {
    /// Lines that go to `out`, some at a time
    pub fn new(mut out: impl Write + Send + 'static) -> (Self, Writer) {
        // Whoever reads the log may have gone; the registry serves on.
        Self::start(false, move |batch, _| {
            let _ = out.write_all(batch.text.as_bytes());
            let _ = out.flush();
        })
    }

    /// Lines that go to `out` one by one, and that nobody ever waits for
    ///
    /// Those for which the queue has no room are dropped, and `missing` makes the line that says
    /// so. For files on disks that may stand still while requests must not.
    pub(crate) fn never_waiting(
        mut out: impl Write + Send + 'static,
        missing: Missing,
    ) -> (Self, Writer) {
        Self::start(true, move |batch, dropped| {
            for line in batch.lines() {
                let _ = out.write_all(line.as_bytes());
            }
            if dropped > 0 {
                let _ = out.write_all(missing(dropped).as_bytes());
            }
            let _ = out.flush();
        })
    }

    /// `write` gets a batch, and how many lines were dropped behind it
    fn start(
        never_waits: bool,
        mut write: impl FnMut(&Batch, u64) + Send + 'static,
    ) -> (Self, Writer) {
        let queue = Arc::new(Queue::default());
        queue.lock().never_waits = never_waits;
        let end = Self(Arc::new(End(queue.clone())));
        let thread = std::thread::spawn(move || {
            let mut batch = Batch::default();
            while let Some(dropped) = queue.take(&mut batch) {
                write(&batch, dropped);
                queue.done();
            }
        });
        (end, Writer(thread))
    }

    /// Waits until all lines that were handed over are written
    ///
    /// For the end of a process that does not end all threads that log.
    pub fn flush(&self) {
        let queue = &self.0.0;
        let mut waiting = queue.lock();
        // What is there is part of the next batch; without anything, of the last.
        let last = match waiting.is_idle() {
            true => waiting.taken,
            false => waiting.taken + 1,
        };
        if last > waiting.taken {
            waiting.hurry = true;
            waiting.asleep = false;
            queue.work.notify_one();
        }
        while waiting.written < last {
            waiting = queue.hold_up(waiting);
        }
    }

    /// Hands over a line, with its end
    pub(crate) fn send(&self, line: impl AsRef<str>) {
        let queue = &self.0.0;
        let mut waiting = queue.lock();
        while waiting.batch.ends.len() >= QUEUE {
            if waiting.never_waits {
                waiting.dropped += 1;
                return;
            }
            waiting = queue.hold_up(waiting);
        }
        waiting.batch.push(line.as_ref());
        if std::mem::take(&mut waiting.asleep) || waiting.batch.ends.len() == QUEUE / 2 {
            drop(waiting);
            queue.work.notify_one();
        }
    }
}

impl Drop for End {
    fn drop(&mut self) {
        self.0.lock().closed = true;
        self.0.work.notify_one();
    }
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Nothing between two changes of it panics.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the writing thread has got further
    fn hold_up<'a>(&self, mut waiting: MutexGuard<'a, Waiting>) -> MutexGuard<'a, Waiting> {
        waiting.held_up += 1;
        let mut waiting = self
            .progress
            .wait(waiting)
            .unwrap_or_else(PoisonError::into_inner);
        waiting.held_up -= 1;
        waiting
    }

    /// Waits for lines and takes them, and how many were dropped behind them; `None` at the end
    fn take(&self, batch: &mut Batch) -> Option<u64> {
        batch.clear();
        let mut waiting = self.lock();
        while waiting.is_idle() {
            if waiting.closed {
                return None;
            }
            waiting.asleep = true;
            waiting = self
                .work
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
        waiting.asleep = false;
        let gathers = |waiting: &mut Waiting| {
            !waiting.closed && !waiting.hurry && waiting.batch.ends.len() < QUEUE / 2
        };
        let (mut waiting, _) = self
            .work
            .wait_timeout_while(waiting, GATHER, gathers)
            .unwrap_or_else(PoisonError::into_inner);
        std::mem::swap(&mut waiting.batch, batch);
        waiting.taken += 1;
        waiting.hurry = false;
        let dropped = std::mem::take(&mut waiting.dropped);
        self.report(&waiting);
        Some(dropped)
    }

    /// What was taken last is written
    fn done(&self) {
        let mut waiting = self.lock();
        waiting.written = waiting.taken;
        self.report(&waiting);
    }

    fn report(&self, waiting: &Waiting) {
        if waiting.held_up > 0 {
            self.progress.notify_all();
        }
    }
}

impl Waiting {
    fn is_idle(&self) -> bool {
        self.batch.ends.is_empty() && self.dropped == 0
    }
}

impl Batch {
    fn push(&mut self, line: &str) {
        self.text.push_str(line);
        self.ends.push(self.text.len());
    }

    fn lines(&self) -> impl Iterator<Item = &str> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts
            .zip(&self.ends)
            .map(|(start, end)| &self.text[start..*end])
    }

    /// Keeps the room that it had, but for what only a flood needs
    fn clear(&mut self) {
        const USUAL: usize = 256 * 1024;
        self.text.clear();
        self.text.shrink_to(USUAL);
        self.ends.clear();
    }
}

impl Writer {
    /// Waits until everything is written
    pub fn join(self) {
        let _ = self.0.join();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    /// Keeps what is written to it
    #[derive(Clone, Debug, Default)]
    pub(crate) struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Sink {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn no_line_is_lost_or_torn() {
        let sink = Sink::default();
        let (lines, writer) = Lines::new(sink.clone());
        let threads: Vec<_> = (0..4)
            .map(|thread| {
                let lines = lines.clone();
                std::thread::spawn(move || {
                    for line in 0..QUEUE {
                        lines.send(format!("{thread} {line}\n"));
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().unwrap();
        }
        lines.flush();
        assert_eq!(sink.text().lines().count(), 4 * QUEUE);
        for thread in 0..4 {
            let prefix = format!("{thread} ");
            let text = sink.text();
            let mine = text.lines().filter_map(|line| line.strip_prefix(&prefix));
            assert!(mine.eq((0..QUEUE).map(|line| line.to_string())));
        }
        lines.send("last\n");
        drop(lines);
        writer.join();
        assert!(sink.text().ends_with("last\n"));
    }

    #[test]
    fn a_line_is_written_although_none_follows() {
        let sink = Sink::default();
        let (lines, _writer) = Lines::new(sink.clone());
        for count in 1..=3 {
            lines.send("x\n");
            let started = std::time::Instant::now();
            while sink.text().lines().count() < count {
                assert!(started.elapsed() < Duration::from_secs(60), "line {count}");
                std::thread::yield_now();
            }
        }
        // With nothing to write there is nothing to wait for.
        lines.flush();
        lines.flush();
    }

    /// Writes only while the test lets it
    struct Gate(Sink, Arc<Mutex<()>>);

    impl Write for Gate {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _open = self.1.lock().unwrap();
            self.0.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn who_never_waits_is_told_what_is_missing() {
        let (sink, gate) = (Sink::default(), Arc::new(Mutex::new(())));
        let missing = Box::new(|count| format!("{count} missing\n"));
        let (lines, writer) = Lines::never_waiting(Gate(sink.clone(), gate.clone()), missing);
        let shut = gate.lock().unwrap();
        let sent = 4 * QUEUE;
        for _ in 0..sent {
            lines.send("x\n");
        }
        drop(shut);
        drop(lines);
        writer.join();
        let text = sink.text();
        let written = text.lines().filter(|line| *line == "x").count();
        let told = text
            .lines()
            .filter_map(|line| line.strip_suffix(" missing"));
        let told: usize = told.map(|count| count.parse::<usize>().unwrap()).sum();
        // The thread may hold as many lines that are no longer in the queue.
        assert!((QUEUE..=2 * QUEUE).contains(&written), "{written}");
        assert_eq!(written + told, sent);
    }
}
