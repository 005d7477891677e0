//! Lines of text, written by a thread of its own

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

/// How many lines may wait for a slow reader before whoever has the next one waits too
///
/// Waiting, not dropping: a line that is missing from a log misleads.
const QUEUE: usize = 8192;

/// Hands lines to the writing thread; all clones write to the same place
#[derive(Clone, Debug)]
pub struct Lines {
    queue: SyncSender<Message>,
    /// How many lines there was no room for, if they are dropped
    dropped: Option<Arc<AtomicU64>>,
}

/// Says in a line of its own how many lines are missing before it
pub(crate) type Missing = Box<dyn Fn(u64) -> String + Send>;

/// The writing thread; it ends when every [`Lines`] of it is gone
#[derive(Debug)]
pub struct Writer(JoinHandle<()>);

#[derive(Debug)]
enum Message {
    Line(String),
    /// Answered once all that came before is written
    Flush(SyncSender<()>),
}

impl Lines {
    /// Lines that go to `out`
    pub fn new(out: impl Write + Send + 'static) -> (Self, Writer) {
        Self::start(out, None)
    }

    /// Lines that go to `out`, and that nobody ever waits for
    ///
    /// Those for which the queue has no room are dropped, and `missing` makes the line that says
    /// so. For files on disks that may stand still while requests must not.
    pub(crate) fn never_waiting(
        out: impl Write + Send + 'static,
        missing: Missing,
    ) -> (Self, Writer) {
        Self::start(out, Some(missing))
    }

    fn start(mut out: impl Write + Send + 'static, missing: Option<Missing>) -> (Self, Writer) {
        let (queue, messages) = sync_channel(QUEUE);
        let dropped = missing.is_some().then(Arc::<AtomicU64>::default);
        let counted = missing.zip(dropped.clone());
        let thread = std::thread::spawn(move || {
            let take = |message, out: &mut dyn Write| match message {
                // Whoever reads the log may have gone; the registry serves on.
                Message::Line(line) => drop(out.write_all(String::as_bytes(&line))),
                Message::Flush(done) => {
                    let _ = out.flush();
                    let _ = SyncSender::send(&done, ());
                }
            };
            while let Ok(message) = messages.recv() {
                take(message, &mut out);
                // As many lines as there are go out together.
                while let Ok(message) = messages.try_recv() {
                    take(message, &mut out);
                }
                if let Some((missing, dropped)) = &counted
                    && let count @ 1.. = dropped.swap(0, Ordering::Relaxed)
                {
                    take(Message::Line(missing(count)), &mut out);
                }
                let _ = out.flush();
            }
        });
        (Self { queue, dropped }, Writer(thread))
    }

    /// Waits until all lines that were handed over are written
    ///
    /// For the end of a process that does not end all threads that log.
    pub fn flush(&self) {
        let (done, wait) = sync_channel(1);
        if self.queue.send(Message::Flush(done)).is_ok() {
            let _ = wait.recv();
        }
    }

    /// Hands over a line, with its end
    pub(crate) fn send(&self, line: String) {
        // The thread ends only after the last sender, and it does not panic.
        let Some(dropped) = &self.dropped else {
            let _ = self.queue.send(Message::Line(line));
            return;
        };
        if let Err(TrySendError::Full(_)) = self.queue.try_send(Message::Line(line)) {
            dropped.fetch_add(1, Ordering::Relaxed);
        }
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
        lines.send("last\n".to_owned());
        drop(lines);
        writer.join();
        assert!(sink.text().ends_with("last\n"));
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
        let sent = 2 * QUEUE;
        for _ in 0..sent {
            lines.send("x\n".to_owned());
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
        // The thread may hold one line that is no longer in the queue.
        assert!((QUEUE..=QUEUE + 1).contains(&written), "{written}");
        assert_eq!(written + told, sent);
    }
}
