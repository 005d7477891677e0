//! Many clients that ask for the same, and what the server spends on them

use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::http::Connection;
use crate::process::Server;

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
    /// For how long
    pub duration: Duration,
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
    /// Puts the load on a server
    ///
    /// # Errors
    ///
    /// The first answer that is not 200, and connections that break.
    pub fn put_on(&self, server: &Server) -> Result<Outcome> {
        let cpu = server.cpu()?;
        let started = Instant::now();
        let counts = thread::scope(|scope| {
            let clients: Vec<_> = (0..self.connections)
                .map(|_| scope.spawn(|| self.ask(&server.address, started + self.duration)))
                .collect();
            clients
                .into_iter()
                .map(|client| client.join().map_err(|_| "a client panicked")?)
                .collect::<Result<Vec<(u64, u64)>>>()
        })?;
        Ok(Outcome {
            requests: counts.iter().map(|(requests, _)| requests).sum(),
            bytes: counts.iter().map(|(_, bytes)| bytes).sum(),
            elapsed: started.elapsed(),
            cpu: server.cpu()?.saturating_sub(cpu),
        })
    }

    /// Asks until it is time, and gives the number of requests and bytes
    fn ask(&self, address: &str, until: Instant) -> Result<(u64, u64)> {
        let mut connection = Connection::open(address)?.with_headers(&*self.headers);
        let (mut requests, mut bytes) = (0, 0);
        while requests == 0 || Instant::now() < until {
            connection.request(self.method, &self.path, "")?;
            let answer = connection.read(self.method == "HEAD", |_| {})?;
            if answer.status != 200 {
                let (method, path) = (self.method, &self.path);
                return Err(format!("{method} {path} at {address}: {answer:?}").into());
            }
            requests += 1;
            bytes += answer.bytes;
        }
        Ok((requests, bytes))
    }
}
