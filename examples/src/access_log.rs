//! The access log: a line per request, written by a thread of its own

use std::io::Write;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use registry_http::{AccessRecord, Observer};

/// How many lines may wait for a slow reader before requests wait too
///
/// Waiting, not dropping: a line that is missing from an access log misleads.
const QUEUE: usize = 8192;

/// Hands records to the writing thread
#[derive(Debug)]
pub struct AccessLog {
    lines: SyncSender<String>,
}

/// The writing thread; it ends when every [`AccessLog`] of it is gone
#[derive(Debug)]
pub struct Writer(JoinHandle<()>);

impl AccessLog {
    /// A log that writes its lines to `out`
    pub fn new(mut out: impl Write + Send + 'static) -> (Self, Writer) {
        let (lines, queue) = sync_channel::<String>(QUEUE);
        let thread = std::thread::spawn(move || {
            while let Ok(line) = queue.recv() {
                // Whoever reads the log may have gone; the registry serves on.
                let _ = out.write_all(line.as_bytes());
                // As many lines as there are go out together.
                while let Ok(line) = queue.try_recv() {
                    let _ = out.write_all(line.as_bytes());
                }
                let _ = out.flush();
            }
        });
        (Self { lines }, Writer(thread))
    }
}

impl Observer for AccessLog {
    fn finished(&self, record: &AccessRecord) {
        // The thread ends only after the last sender, and it does not panic.
        let _ = self.lines.send(format!("{record}\n"));
    }
}

impl Writer {
    /// Waits until everything is written
    pub fn join(self) {
        let _ = self.0.join();
    }
}
