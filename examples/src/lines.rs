//! Lines of text, written by a thread of its own

use std::io::Write;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// How many lines may wait for a slow reader before whoever has the next one waits too
///
/// Waiting, not dropping: a line that is missing from a log misleads.
const QUEUE: usize = 8192;

/// Hands lines to the writing thread; all clones write to the same place
#[derive(Clone, Debug)]
pub struct Lines {
    queue: SyncSender<Message>,
}

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
    pub fn new(mut out: impl Write + Send + 'static) -> (Self, Writer) {
        let (queue, messages) = sync_channel(QUEUE);
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
                let _ = out.flush();
            }
        });
        (Self { queue }, Writer(thread))
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
        let _ = self.queue.send(Message::Line(line));
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
}
