//! A client of a registry that costs next to nothing, so that what is measured is the server

use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;

use crate::Result;

/// A connection to a registry, with no more HTTP than these programs need
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
    headers: String,
}

/// An answer without its content
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Answer {
    /// The status
    pub status: u16,
    /// The path and query of `Location`, if there is one
    pub location: String,
    /// How many bytes of content there were
    pub bytes: u64,
}

impl Connection {
    /// Connects to `<host>:<port>`
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::with_capacity(256 * 1024, stream),
            headers: String::new(),
        })
    }

    /// Sends these headers, each ending in `\r\n`, with every request from now on
    #[must_use]
    pub fn with_headers(mut self, headers: impl Into<String>) -> Self {
        self.headers = headers.into();
        self
    }

    /// Sends a request's head; `headers` end in `\r\n` each
    ///
    /// # Errors
    ///
    /// A connection that broke.
    pub fn request(&mut self, method: &str, path: &str, headers: &str) -> io::Result<()> {
        let own = &self.headers;
        let head = format!("{method} {path} HTTP/1.1\r\nHost: registry\r\n{own}{headers}\r\n");
        self.body().write_all(head.as_bytes())
    }

    /// Where a request's content goes
    pub fn body(&mut self) -> &mut TcpStream {
        self.stream.get_mut()
    }

    /// Reads an answer, which must have that status
    ///
    /// # Errors
    ///
    /// Another status, or a connection that broke.
    pub fn expect(&mut self, expected: u16) -> Result<Answer> {
        let answer = self.read(false, |_| {})?;
        match answer.status == expected {
            true => Ok(answer),
            false => Err(format!("expected {expected}, got {answer:?}").into()),
        }
    }

    /// Reads an answer and hands on its content; one to a `HEAD` has none
    ///
    /// # Errors
    ///
    /// A connection that broke, or something that is no answer.
    pub fn read(&mut self, to_head: bool, mut each: impl FnMut(&[u8])) -> Result<Answer> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let status = line.split(' ').nth(1).ok_or("no answer")?.parse()?;
        let (mut location, mut length, mut chunked) = (String::new(), None, false);
        loop {
            line.clear();
            self.stream.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(':') else {
                break;
            };
            let value = value.trim();
            if name.eq_ignore_ascii_case("location") {
                location = path_of(value).to_owned();
            } else if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.parse()?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case("chunked");
            }
        }
        let mut bytes = 0;
        if !to_head && chunked {
            loop {
                line.clear();
                self.stream.read_line(&mut line)?;
                let size = u64::from_str_radix(line.trim_end(), 16)?;
                bytes += self.pass_on(size, &mut each)?;
                line.clear();
                self.stream.read_line(&mut line)?;
                if size == 0 {
                    break;
                }
            }
        } else if !to_head {
            // Without a length the answer ends with the connection; such are asked with `close`.
            let rest = length.unwrap_or(if status == 200 { u64::MAX } else { 0 });
            bytes = self.pass_on(rest, &mut each)?;
            if length.is_some_and(|length| length != bytes) {
                return Err(format!("the content ended after {bytes} bytes").into());
            }
        }
        Ok(Answer {
            status,
            location,
            bytes,
        })
    }

    /// Up to so many bytes of content
    fn pass_on(&mut self, mut rest: u64, each: &mut impl FnMut(&[u8])) -> io::Result<u64> {
        let mut bytes = 0;
        while rest > 0 {
            let piece = self.stream.fill_buf()?;
            let count = piece.len().min(usize::try_from(rest).unwrap_or(usize::MAX));
            if count == 0 {
                break;
            }
            each(&piece[..count]);
            self.stream.consume(count);
            bytes += count as u64;
            rest -= count as u64;
        }
        Ok(bytes)
    }
}

/// Path and query of a location, which may be a URL
pub fn path_of(location: &str) -> &str {
    match location.split_once("://") {
        Some((_, rest)) => &rest[rest.find('/').unwrap_or(rest.len())..],
        None => location,
    }
}

/// A location with one more parameter
pub fn with_query(location: &str, parameter: &str) -> String {
    let separator = if location.contains('?') { '&' } else { '?' };
    format!("{location}{separator}{parameter}")
}
