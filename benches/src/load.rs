//! Many clients that ask for the same, and what the server spends on them

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::process::Server;

/// Enough for a client, and little enough for a thousand of them
const STACK: usize = 512 * 1024;

/// What clients ask for, again and again, each over a connection of its own
#[derive(Clone, Debug)]
pub struct Load {
    /// `GET` or `HEAD`
    pub method: &'static str,
    /// The path with its query
    pub path: String,
    /// Further headers, each ending in `\r\n`
    pub headers: String,
    /// How many clients
    pub connections: usize,
    /// For how long; each client asks at least once
    pub duration: Duration,
    /// The status that each answer must have
    pub expected: u16,
}

/// What came of a load
#[derive(Clone, Copy, Debug)]
pub struct Outcome {
    /// Requests that were answered
    pub requests: u64,
    /// Bytes of content
    pub bytes: u64,
    /// From the first request to the last answer
    pub elapsed: Duration,
    /// The processor time of the server that was asked
    pub cpu: Duration,
}

impl Outcome {
    /// What `work` did to a server, which gives the numbers of requests and bytes
    ///
    /// # Errors
    ///
    /// Those of `work`, and a server that has ended.
    pub fn of(server: &Server, work: impl FnOnce() -> Result<(u64, u64)>) -> Result<Self> {
        let cpu = server.cpu()?;
        let started = Instant::now();
        let (requests, bytes) = work()?;
        Ok(Self {
            requests,
            bytes,
            elapsed: started.elapsed(),
            cpu: server.cpu()?.saturating_sub(cpu),
        })
    }

    /// Requests a second
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.elapsed.as_secs_f64()
    }

    /// Content a second, in GB
    pub fn throughput(&self) -> f64 {
        self.bytes as f64 / 1e9 / self.elapsed.as_secs_f64()
    }

    /// The server's processor time for a request, in microseconds
    pub fn cpu_per_request(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.requests as f64
    }

    /// The server's processor time for a GiB, in milliseconds
    pub fn cpu_per_gibibyte(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e3 / (self.bytes as f64 / f64::from(1 << 30))
    }
}

impl Load {
    /// Clients that `GET` this for a while, each answered with 200
    pub fn get(path: impl Into<String>, connections: usize, duration: Duration) -> Self {
        Self {
            method: "GET",
            path: path.into(),
            headers: String::new(),
            connections,
            duration,
            expected: 200,
        }
    }

    /// Puts the load on a server
    ///
    /// # Errors
    ///
    /// The first answer of another status, and connections that break.
    pub fn put_on(&self, server: &Server) -> Result<Outcome> {
        Outcome::of(server, || {
            let until = Instant::now() + self.duration;
            let counts = at_once(self.connections, |_| self.ask(server, until))?;
            let requests = counts.iter().map(|(requests, _)| requests).sum();
            Ok((requests, counts.iter().map(|(_, bytes)| bytes).sum()))
        })
    }

    /// Asks until it is time, and gives the number of requests and bytes
    fn ask(&self, server: &Server, until: Instant) -> Result<(u64, u64)> {
        let mut connection = server.connect()?;
        let request = connection.head(self.method, &self.path, &self.headers);
        let (mut requests, mut bytes) = (0, 0);
        while requests == 0 || Instant::now() < until {
            connection.body().write_all(&request)?;
            let answer = connection.skip(self.method == "HEAD")?;
            if answer.status != self.expected {
                let (method, path, address) = (self.method, &self.path, &server.address);
                return Err(format!("{method} {path} at {address}: {answer:?}").into());
            }
            requests += 1;
            bytes += answer.bytes;
            if answer.closes {
                connection = server.connect()?;
            }
        }
        Ok((requests, bytes))
    }
}

/// Runs `work` for each client in a thread of its own, and gives what they gave
///
/// # Errors
///
/// The first error of a client.
pub fn at_once<T: Send>(
    clients: usize,
    work: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let work = &work;
    thread::scope(|scope| {
        let clients = (0..clients).map(|client| {
            thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, move || work(client))
        });
        let clients = clients.collect::<io::Result<Vec<_>>>()?;
        clients
            .into_iter()
            .map(|client| client.join().map_err(|_| "a client panicked")?)
            .collect()
    })
}
