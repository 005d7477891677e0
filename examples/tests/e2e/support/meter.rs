//! What stands between a registry and its store, and counts

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::{mem, thread};

/// A request that the store got
#[derive(Debug)]
pub(crate) struct Request {
    /// Such as `PUT`
    pub(crate) method: String,
    /// Path and query
    pub(crate) target: String,
    /// How many bytes its body has
    pub(crate) size: u64,
    /// Whether the store is told to take the content from another object
    pub(crate) copies: bool,
}

/// All that passed since the last look
#[derive(Debug)]
pub(crate) struct Passed {
    pub(crate) requests: Vec<Request>,
    /// How many bytes the answers had, with their heads
    pub(crate) answered: u64,
}

impl Passed {
    /// How many bytes the bodies of the requests had
    pub(crate) fn sent(&self) -> u64 {
        self.requests.iter().map(|request| request.size).sum()
    }

    /// How many requests had the store copy
    pub(crate) fn copies(&self) -> usize {
        let copies = self.requests.iter().filter(|request| request.copies);
        copies.count()
    }
}

#[derive(Default)]
struct Counts {
    requests: Mutex<Vec<Request>>,
    answered: AtomicU64,
}

/// Passes on everything that a store is asked and answers
pub(crate) struct Meter {
    /// `127.0.0.1:<port>`, for whoever asks the store
    pub(crate) address: String,
    counts: Arc<Counts>,
}

impl Meter {
    /// Before the store at this address
    pub(crate) fn before(store: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound").to_string();
        let counts = Arc::new(Counts::default());
        let (seen, store) = (Arc::clone(&counts), store.to_owned());
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let (seen, store) = (Arc::clone(&seen), store.clone());
                thread::spawn(move || {
                    // A line ends when either side has had enough.
                    let _ = pass(client, &store, &seen);
                });
            }
        });
        Self { address, counts }
    }

    /// What passed since the last look
    pub(crate) fn take(&self) -> Passed {
        Passed {
            requests: mem::take(&mut *self.counts.requests.lock().expect("whole")),
            answered: self.counts.answered.swap(0, Ordering::Relaxed),
        }
    }
}

fn pass(client: TcpStream, store: &str, counts: &Arc<Counts>) -> io::Result<()> {
    let mut upstream = TcpStream::connect(store)?;
    client.set_nodelay(true)?;
    upstream.set_nodelay(true)?;
    let (mut answers, mut to, seen) = (
        upstream.try_clone()?,
        client.try_clone()?,
        Arc::clone(counts),
    );
    thread::spawn(move || {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = answers.read(&mut buffer) {
            seen.answered.fetch_add(count as u64, Ordering::Relaxed);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
    });
    let mut client = BufReader::new(client);
    while let Some((head, request)) = read_request(&mut client)? {
        let size = request.size;
        counts.requests.lock().expect("whole").push(request);
        upstream.write_all(head.as_bytes())?;
        io::copy(&mut (&mut client).take(size), &mut upstream)?;
    }
    upstream.shutdown(Shutdown::Both)
}

/// The next request of a connection, up to its body
fn read_request(client: &mut impl BufRead) -> io::Result<Option<(String, Request)>> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if client.read_line(&mut head)? == 0 {
            return Ok(None);
        }
    }
    let header = |name: &str| {
        head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    };
    let length = header("content-length").map_or(Ok(0), str::parse);
    let size = length.map_err(io::Error::other)?;
    let copies = header("x-amz-copy-source").is_some();
    let mut words = head.split(' ').map(str::to_owned);
    let request = Request {
        method: words.next().unwrap_or_default(),
        target: words.next().unwrap_or_default(),
        size,
        copies,
    };
    Ok(Some((head, request)))
}
