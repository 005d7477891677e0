//! A receiver of notifications that can be told to fail

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use serde_json::Value;

/// What a receiver does with a delivery
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    /// Takes it: 200
    Takes,
    /// Refuses it: 500
    Refuses,
    /// Reads it, and does not answer before the mood changes
    Hangs,
}

/// One request that came
#[derive(Clone, Debug)]
pub(crate) struct Delivery {
    /// By their names in lower case
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) events: Vec<Value>,
    /// Whether it was answered with 200
    pub(crate) taken: bool,
}

/// A webhook on a port of its own
pub(crate) struct Receiver {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    mood: Mood,
    stopped: bool,
    deliveries: Vec<Delivery>,
}

impl Receiver {
    /// Starts to listen
    pub(crate) fn start(mood: Mood) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                mood,
                stopped: false,
                deliveries: Vec::new(),
            }),
            changed: Condvar::new(),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.lock().stopped {
                    return;
                }
                let shared = accepting.clone();
                thread::spawn(move || {
                    // A sender that is killed breaks off; what it sent to the end is kept.
                    let _ = stream.and_then(|stream| shared.serve(stream));
                });
            }
        });
        Self { address, shared }
    }

    /// Changes what becomes of deliveries from now on; those that hang are answered accordingly
    pub(crate) fn set(&self, mood: Mood) {
        self.shared.lock().mood = mood;
        self.shared.changed.notify_all();
    }

    /// All that came, in order
    pub(crate) fn deliveries(&self) -> Vec<Delivery> {
        self.shared.lock().deliveries.clone()
    }

    /// The events that were taken, in order, duplicates included
    pub(crate) fn taken(&self) -> Vec<Value> {
        let deliveries = self.deliveries().into_iter();
        deliveries
            .filter(|delivery| delivery.taken)
            .flat_map(|delivery| delivery.events)
            .collect()
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.lock().stopped = true;
        self.shared.changed.notify_all();
        // The thread that accepts looks up when somebody comes.
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no other thread panicked")
    }

    fn serve(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(Duration::from_secs(120)))?;
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        while let Some((headers, body)) = read_request(&mut reader)? {
            let envelope: Value = serde_json::from_slice(&body).map_err(io::Error::other)?;
            let events = envelope["events"].as_array().cloned().unwrap_or_default();
            let mut state = self.lock();
            while state.mood == Mood::Hangs && !state.stopped {
                state = self.changed.wait(state).expect("no other thread panicked");
            }
            let taken = state.mood == Mood::Takes && !state.stopped;
            // Noted before it is answered: what is answered has been noted.
            state.deliveries.push(Delivery {
                headers,
                events,
                taken,
            });
            drop(state);
            let status = if taken {
                "200 OK"
            } else {
                "500 Internal Server Error"
            };
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n");
            stream.write_all(answer.as_bytes())?;
        }
        Ok(())
    }
}

/// Headers, with the request line as `:line`, and body
type Request = (BTreeMap<String, String>, Vec<u8>);

/// Reads one request; `None` when there are no more
fn read_request(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let mut headers = BTreeMap::from([(":line".to_owned(), line.trim_end().to_owned())]);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => {
                headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
            }
            None => break,
        }
    }
    let length = headers
        .get("content-length")
        .and_then(|text| text.parse().ok());
    let length = length.ok_or_else(|| io::Error::other("no Content-Length"))?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Some((headers, body)))
}
