//! A client of a registry that costs next to nothing, so that what is measured is the server

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;

use rustix::net::RecvFlags;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use crate::Result;

/// How much is read at once
const BUFFER: usize = 256 * 1024;

/// What connections speak: TLS that trusts one certificate, or nothing on top of TCP
pub type Tls = Option<Arc<ClientConfig>>;

/// A connection to a registry, with no more HTTP than these programs need
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<Stream>,
    headers: String,
    line: String,
    /// Where bytes go that nobody looks at
    waste: Vec<u8>,
}

/// What a connection writes to and reads from
#[derive(Debug)]
pub enum Stream {
    /// TCP alone
    Plain(TcpStream),
    /// TLS on TCP
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
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
    /// Whether the server closes the connection after it
    pub closes: bool,
}

/// How long the content of an answer is
enum Length {
    Known(u64),
    Chunked,
    /// It ends with the connection
    Open,
}

impl Connection {
    /// Connects to `<host>:<port>`
    ///
    /// # Errors
    ///
    /// What the operating system says.
    pub fn open(address: &str) -> Result<Self> {
        Self::open_over(address, &None)
    }

    /// Connects to `<host>:<port>`, with TLS if there is one
    ///
    /// # Errors
    ///
    /// What the operating system says, and a host that no certificate can be for.
    pub fn open_over(address: &str, tls: &Tls) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        let stream = match tls {
            None => Stream::Plain(stream),
            Some(config) => {
                let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
                let name = ServerName::try_from(host.to_owned())?;
                let session = ClientConnection::new(config.clone(), name)?;
                Stream::Tls(Box::new(StreamOwned::new(session, stream)))
            }
        };
        Ok(Self {
            stream: BufReader::with_capacity(BUFFER, stream),
            headers: String::new(),
            line: String::new(),
            waste: Vec::new(),
        })
    }

    /// Sends these headers, each ending in `\r\n`, with every request from now on
    #[must_use]
    pub fn with_headers(mut self, headers: impl Into<String>) -> Self {
        self.headers = headers.into();
        self
    }

    /// The head of a request; `headers` end in `\r\n` each
    pub fn head(&self, method: &str, path: &str, headers: &str) -> Vec<u8> {
        let own = &self.headers;
        format!("{method} {path} HTTP/1.1\r\nHost: registry\r\n{own}{headers}\r\n").into_bytes()
    }

    /// Sends a request's head; `headers` end in `\r\n` each
    ///
    /// # Errors
    ///
    /// A connection that broke.
    pub fn request(&mut self, method: &str, path: &str, headers: &str) -> io::Result<()> {
        let head = self.head(method, path, headers);
        self.body().write_all(&head)
    }

    /// Sends a request with its content, all at once
    ///
    /// # Errors
    ///
    /// A connection that broke.
    pub fn send(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> io::Result<()> {
        let headers = format!("{headers}Content-Length: {}\r\n", body.len());
        let mut request = self.head(method, path, &headers);
        request.extend_from_slice(body);
        self.body().write_all(&request)
    }

    /// Where a request's content goes
    pub fn body(&mut self) -> &mut Stream {
        self.stream.get_mut()
    }

    /// Reads an answer, which must have that status
    ///
    /// # Errors
    ///
    /// Another status, or a connection that broke.
    pub fn expect(&mut self, expected: u16) -> Result<Answer> {
        let mut content = Vec::new();
        let answer = self.read(false, |piece| {
            let rest = 500_usize.saturating_sub(content.len());
            content.extend_from_slice(&piece[..rest.min(piece.len())]);
        })?;
        if answer.status == expected {
            return Ok(answer);
        }
        let content = String::from_utf8_lossy(&content);
        Err(format!("expected {expected}, got {answer:?}: {content}").into())
    }

    /// Reads an answer and hands on its content; one to a `HEAD` has none
    ///
    /// # Errors
    ///
    /// A connection that broke, or something that is no answer.
    pub fn read(&mut self, to_head: bool, mut each: impl FnMut(&[u8])) -> Result<Answer> {
        self.answer(to_head, |this, rest| this.pass_on(rest, &mut each))
    }

    /// Reads an answer and throws its content away
    ///
    /// Without TLS the kernel throws it away, and nothing is copied: the client shares the
    /// processor with the server that is measured.
    ///
    /// # Errors
    ///
    /// A connection that broke, or something that is no answer.
    pub fn skip(&mut self, to_head: bool) -> Result<Answer> {
        self.answer(to_head, Self::throw_away)
    }

    fn answer(
        &mut self,
        to_head: bool,
        mut content: impl FnMut(&mut Self, u64) -> io::Result<u64>,
    ) -> Result<Answer> {
        let (mut answer, length) = self.read_head()?;
        match length {
            _ if to_head => {}
            Length::Known(length) => {
                answer.bytes = content(self, length)?;
                if answer.bytes != length {
                    let got = answer.bytes;
                    return Err(format!("the content ended after {got} of {length} bytes").into());
                }
            }
            Length::Open => answer.bytes = content(self, u64::MAX)?,
            Length::Chunked => loop {
                self.read_line()?;
                let size = u64::from_str_radix(self.line.trim_end(), 16)?;
                let got = content(self, size)?;
                answer.bytes += got;
                if got != size {
                    return Err("the content ended in the middle of a piece".into());
                }
                self.read_line()?;
                if size == 0 {
                    break;
                }
            },
        }
        Ok(answer)
    }

    fn read_head(&mut self) -> Result<(Answer, Length)> {
        self.read_line()?;
        let status = self.line.split(' ').nth(1).ok_or("no answer")?.parse()?;
        let mut answer = Answer {
            status,
            ..Answer::default()
        };
        // Without a length the answer ends with the connection; such are asked with `close`.
        let mut length = match status {
            200 => Length::Open,
            _ => Length::Known(0),
        };
        loop {
            self.read_line()?;
            let Some((name, value)) = self.line.trim_end().split_once(':') else {
                return Ok((answer, length));
            };
            let value = value.trim();
            if name.eq_ignore_ascii_case("location") {
                path_of(value).clone_into(&mut answer.location);
            } else if name.eq_ignore_ascii_case("content-length") {
                length = Length::Known(value.parse()?);
            } else if name.eq_ignore_ascii_case("connection") {
                answer.closes = value.eq_ignore_ascii_case("close");
            } else if name.eq_ignore_ascii_case("transfer-encoding")
                && value.eq_ignore_ascii_case("chunked")
            {
                length = Length::Chunked;
            }
        }
    }

    fn read_line(&mut self) -> io::Result<()> {
        self.line.clear();
        self.stream.read_line(&mut self.line)?;
        Ok(())
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

    /// As [`pass_on`](Self::pass_on), to nobody
    fn throw_away(&mut self, rest: u64) -> io::Result<u64> {
        if matches!(self.stream.get_ref(), Stream::Tls(_)) {
            return self.pass_on(rest, &mut |_| {});
        }
        let here = self.stream.buffer().len();
        let here = here.min(usize::try_from(rest).unwrap_or(usize::MAX));
        self.stream.consume(here);
        let mut bytes = here as u64;
        if bytes < rest && self.waste.is_empty() {
            self.waste.resize(BUFFER, 0);
        }
        while bytes < rest {
            let Stream::Plain(stream) = self.stream.get_ref() else {
                break;
            };
            let most = usize::try_from(rest - bytes).unwrap_or(usize::MAX);
            let most = most.min(self.waste.len());
            let flags = RecvFlags::TRUNC;
            match rustix::net::recv(stream, &mut self.waste[..most], flags) {
                Ok((_, 0)) => break,
                Ok((_, count)) => bytes += count as u64,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(bytes)
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(buffer),
            Self::Tls(stream) => stream.write(buffer),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    fn answering(answers: &'static [u8]) -> Connection {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            client.write_all(answers).unwrap();
        });
        Connection::open(&address).unwrap()
    }

    #[test]
    fn answers_are_read_with_and_without_a_length() {
        let mut connection = answering(
            b"HTTP/1.1 202 Accepted\r\nLocation: http://h/v2/x?y=1\r\nContent-Length: 2\r\n\r\nab\
              HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n\
              HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n\
              HTTP/1.1 404 Not Found\r\nContent-Length: 1\r\nConnection: close\r\n\r\n!",
        );
        let answer = connection.expect(202).unwrap();
        assert_eq!((&*answer.location, answer.bytes), ("/v2/x?y=1", 2));
        assert_eq!(connection.skip(false).unwrap().bytes, 3);
        // An answer to HEAD has a length and no content.
        assert_eq!(connection.skip(true).unwrap().status, 200);
        let text = connection.expect(200).unwrap_err().to_string();
        assert!(text.contains("404") && text.ends_with(": !"), "{text}");
    }

    #[test]
    fn content_that_ends_early_is_an_error() {
        let mut connection = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
        let text = connection.skip(false).unwrap_err().to_string();
        assert_eq!(text, "the content ended after 3 of 10 bytes");
    }
}
