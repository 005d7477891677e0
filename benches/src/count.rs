//! A man in the middle who counts requests

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::Result;

/// Passes every connection on, and counts the requests that go through by what they are for
#[derive(Debug)]
pub struct Counter {
    /// Where it listens, as `<host>:<port>`
    pub address: String,
    counts: Counts,
}

type Counts = Arc<Mutex<BTreeMap<String, u64>>>;

/// What a request's head says of its content
enum Content {
    Length(u64),
    Chunked,
}

impl Counter {
    /// Listens in front of `<host>:<port>`, until the program ends
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn start(upstream: &str) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = listener.local_addr()?.to_string();
        let counts = Counts::default();
        let counter = Self {
            address,
            counts: counts.clone(),
        };
        let upstream = upstream.to_owned();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let (upstream, counts) = (upstream.clone(), counts.clone());
                // A connection that breaks is what the two at its ends have to deal with.
                thread::spawn(move || pass(client, &upstream, &counts));
            }
        });
        Ok(counter)
    }

    /// What went through since the last time
    pub fn take(&self) -> BTreeMap<String, u64> {
        std::mem::take(&mut self.counts.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn pass(client: TcpStream, upstream: &str, counts: &Counts) -> io::Result<()> {
    let server = TcpStream::connect(upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let mut answers = (server.try_clone()?, client.try_clone()?);
    thread::spawn(move || {
        let _ = io::copy(&mut answers.0, &mut answers.1);
        let _ = answers.1.shutdown(Shutdown::Both);
    });
    let mut requests = BufReader::with_capacity(64 * 1024, client);
    let mut server = server;
    let result = pass_requests(&mut requests, &mut server, |kind| {
        let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.entry(kind).or_default() += 1;
    });
    let _ = server.shutdown(Shutdown::Write);
    result
}

fn pass_requests(
    requests: &mut impl BufRead,
    server: &mut impl Write,
    mut count: impl FnMut(String),
) -> io::Result<()> {
    let mut head = String::new();
    loop {
        head.clear();
        let mut content = Content::Length(0);
        let mut copies = false;
        loop {
            let start = head.len();
            if requests.read_line(&mut head)? == 0 {
                return Ok(());
            }
            let line = head[start..].trim_end();
            if line.is_empty() {
                break;
            }
            let Some((name, value)) = line.split_once(':') else {
                continue;
            };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    let length = value.trim().parse();
                    content = Content::Length(length.map_err(io::Error::other)?);
                }
                "transfer-encoding" => content = Content::Chunked,
                "x-amz-copy-source" => copies = true,
                _ => {}
            }
        }
        count(kind(&head, copies));
        server.write_all(head.as_bytes())?;
        match content {
            Content::Length(length) => {
                io::copy(&mut requests.take(length), server)?;
            }
            Content::Chunked => pass_chunks(requests, server)?,
        }
    }
}

fn pass_chunks(requests: &mut impl BufRead, server: &mut impl Write) -> io::Result<()> {
    let mut line = String::new();
    loop {
        line.clear();
        requests.read_line(&mut line)?;
        server.write_all(line.as_bytes())?;
        let digits = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(digits, 16).map_err(io::Error::other)?;
        // The content and the end of its line; after the last, a line of its own.
        io::copy(&mut requests.take(size + 2), server)?;
        if size == 0 {
            return Ok(());
        }
    }
}

/// What a request to S3 is for
fn kind(head: &str, copies: bool) -> String {
    let mut words = head.split_whitespace();
    let method = words.next().unwrap_or_default();
    let (path, query) = words
        .next()
        .and_then(|target| target.split_once('?'))
        .unwrap_or_default();
    let has = |name: &str| {
        query
            .split('&')
            .any(|parameter| parameter.split('=').next() == Some(name))
    };
    // A listing is asked of the bucket, which is the whole path.
    let of_the_bucket = path.trim_matches('/').split('/').count() == 1;
    let what = match method {
        "PUT" if copies && has("partNumber") => " of a part by copy",
        "PUT" if copies => " by copy",
        "PUT" if has("partNumber") => " of a part",
        "POST" if has("uploads") => " to begin parts",
        "POST" if has("uploadId") => " to finish parts",
        "POST" if has("delete") => " to delete several",
        "DELETE" if has("uploadId") => " of parts",
        "GET" if has("uploads") => " of all uploads",
        "GET" if has("uploadId") => " of the parts of an upload",
        "GET" if of_the_bucket && !query.is_empty() => " of a list",
        _ => "",
    };
    format!("{method}{what}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_pass_unchanged_and_are_counted() {
        let sent = "PUT /b/k HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc\
                    POST /b/k?uploads HTTP/1.1\r\n\r\n\
                    PUT /b/k?partNumber=1&uploadId=x HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n\
                    3\r\nGET\r\n0\r\n\r\n\
                    PUT /b/l HTTP/1.1\r\nx-amz-copy-source: b/k\r\n\r\n\
                    GET /b/?list-type=2&prefix=k HTTP/1.1\r\n\r\n\
                    GET /b/k?x-id=GetObject HTTP/1.1\r\n\r\n";
        let (mut passed, mut kinds) = (Vec::new(), Vec::new());
        pass_requests(&mut sent.as_bytes(), &mut passed, |kind| kinds.push(kind)).unwrap();
        assert_eq!(String::from_utf8(passed).unwrap(), sent);
        assert_eq!(
            kinds,
            [
                "PUT",
                "POST to begin parts",
                "PUT of a part",
                "PUT by copy",
                "GET of a list",
                "GET"
            ]
        );
    }
}
