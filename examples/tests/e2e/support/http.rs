//! A small HTTP/1.1 client that shows what was really answered, one connection per request

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;

/// Longer than anything that a test waits for, so that a hang becomes a failure
const PATIENCE: Duration = Duration::from_secs(120);

/// An answer with its body
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Response {
    /// The value of a header, whatever the case of its name
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The body as text
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Path and query of `Location`, which may be absolute or relative
    pub(crate) fn location(&self) -> String {
        let location = self.header("location").expect("a Location");
        match location.split_once("://") {
            Some((_, rest)) => rest[rest.find('/').expect("a path")..].to_owned(),
            None => location.to_owned(),
        }
    }

    /// How many bytes an upload session has, by its `Range: 0-<last>`
    ///
    /// `0-0` is what registries say of an empty session; the tests never send a single byte.
    pub(crate) fn offset(&self) -> u64 {
        let range = self.header("range").expect("a Range");
        let last = range.strip_prefix("0-").expect("a Range from 0");
        match last.parse().expect("a number") {
            0 => 0,
            last => last + 1,
        }
    }

    /// What is at the place that this answer sends its client to, if it does, as clients have it
    #[track_caller]
    pub(crate) fn followed(self) -> Self {
        if self.status != 307 {
            return self;
        }
        ask("GET", self.header("location").expect("a Location"), &[])
    }

    /// This answer, when its status is one of `expected`
    #[track_caller]
    pub(crate) fn expect(self, expected: &[u16]) -> Self {
        assert!(
            expected.contains(&self.status),
            "expected {expected:?}, got {} with {:?}: {}",
            self.status,
            self.headers,
            self.text()
        );
        self
    }
}

/// Sends a request with a whole body
pub(crate) fn send(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    send_over(open(address)?, address, method, path, headers, body)
}

/// Asks whoever has this URL
#[track_caller]
pub(crate) fn ask(method: &str, url: &str, headers: &[(&str, &str)]) -> Response {
    let rest = url.strip_prefix("http://").expect("a URL without TLS");
    let (address, path) = rest.split_once('/').expect("a path");
    send(address, method, &format!("/{path}"), headers, &[]).expect("answered")
}

/// As [`send`], over a connection that is there, to `host`; the connection ends with the answer
pub(crate) fn send_over(
    mut stream: impl Read + Write,
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Response> {
    let mut head = head(host, method, path, headers);
    if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    // A refusal may come, and the connection end, before the body is through.
    let sent = stream.write_all(body);
    read_response(stream, method).or_else(|error| sent.and(Err(error)))
}

/// The value of `Authorization` with which clients send a name and a password
pub(crate) fn basic(user: &str, password: &str) -> String {
    let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
    format!("Basic {encoded}")
}

/// A request without a body that reaches the registry
#[track_caller]
pub(crate) fn request(address: &str, method: &str, path: &str) -> Response {
    send(address, method, path, &[], &[])
        .unwrap_or_else(|error| panic!("{method} {path} got no answer: {error}"))
}

/// GET
#[track_caller]
pub(crate) fn get(address: &str, path: &str) -> Response {
    request(address, "GET", path)
}

/// Appends a query parameter to a location that may have some
pub(crate) fn with_query(location: &str, query: &str) -> String {
    let separator = if location.contains('?') { '&' } else { '?' };
    format!("{location}{separator}{query}")
}

/// Starts an upload session and gives its location
pub(crate) fn start_upload(address: &str, repository: &str) -> String {
    request(address, "POST", &format!("/v2/{repository}/blobs/uploads/"))
        .expect(&[202])
        .location()
}

/// Pushes a blob by POST and PUT; an error is a connection that broke
pub(crate) fn push_blob(address: &str, repository: &str, content: &[u8]) -> io::Result<Response> {
    let started = send(
        address,
        "POST",
        &format!("/v2/{repository}/blobs/uploads/"),
        &[],
        &[],
    )?
    .expect(&[202]);
    let digest = registry_core::Digest::sha256(content);
    let target = with_query(&started.location(), &format!("digest={digest}"));
    send(address, "PUT", &target, &[], content)
}

/// Pushes a manifest under a tag or digest; an error is a connection that broke
pub(crate) fn push_manifest(
    address: &str,
    repository: &str,
    reference: &str,
    media_type: &str,
    content: &[u8],
) -> io::Result<Response> {
    send(
        address,
        "PUT",
        &format!("/v2/{repository}/manifests/{reference}"),
        &[("Content-Type", media_type)],
        content,
    )
}

/// A request whose body is sent piece by piece, in chunked transfer coding
pub(crate) struct Streaming {
    stream: TcpStream,
    method: String,
}

impl Streaming {
    /// Sends the head
    pub(crate) fn begin(address: &str, method: &str, path: &str) -> io::Result<Self> {
        let mut stream = open(address)?;
        let mut head = head(address, method, path, &[]);
        head.push_str("Transfer-Encoding: chunked\r\n\r\n");
        stream.write_all(head.as_bytes())?;
        Ok(Self {
            stream,
            method: method.to_owned(),
        })
    }

    /// Sends one piece
    pub(crate) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        let mut framed = format!("{:x}\r\n", piece.len()).into_bytes();
        framed.extend_from_slice(piece);
        framed.extend_from_slice(b"\r\n");
        self.stream.write_all(&framed)
    }

    /// Ends the body and reads the answer
    pub(crate) fn finish(mut self) -> io::Result<Response> {
        self.stream.write_all(b"0\r\n\r\n")?;
        read_response(self.stream, &self.method)
    }
}

/// Connects, with the patience of every test
pub(crate) fn open(address: &str) -> io::Result<TcpStream> {
    prepare(TcpStream::connect(address)?)
}

/// Gives a connection the patience of every test
pub(crate) fn prepare(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// A request's first lines, without the empty one that ends them
pub(crate) fn head(address: &str, method: &str, path: &str, headers: &[(&str, &str)]) -> String {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head
}

/// Reads an answer to its end
pub(crate) fn read_response(stream: impl Read, method: &str) -> io::Result<Response> {
    let mut reader = BufReader::new(stream);
    let (status, headers) = loop {
        let (status, headers) = read_head(&mut reader)?;
        if status >= 200 {
            break (status, headers);
        }
    };
    let mut response = Response {
        status,
        headers,
        body: Vec::new(),
    };
    if method == "HEAD" || status == 204 || status == 304 {
        return Ok(response);
    }
    if response.header("transfer-encoding").is_some() {
        response.body = read_chunked(&mut reader)?;
    } else if let Some(length) = response.header("content-length") {
        let length = length.parse().map_err(io::Error::other)?;
        response.body = vec![0; length];
        reader.read_exact(&mut response.body)?;
    } else {
        reader.read_to_end(&mut response.body)?;
    }
    Ok(response)
}

/// Reads status and headers
pub(crate) fn read_head(reader: &mut impl BufRead) -> io::Result<(u16, Vec<(String, String)>)> {
    let line = read_line(reader)?;
    let status = line
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::UnexpectedEof, format!("got `{line}`")))?;
    let mut headers = Vec::new();
    loop {
        let line = read_line(reader)?;
        let Some((name, value)) = line.split_once(':') else {
            return Ok((status, headers));
        };
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

fn read_chunked(reader: &mut impl BufRead) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(reader)?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        if length == 0 {
            return Ok(body);
        }
        let start = body.len();
        body.resize(start + length, 0);
        reader.read_exact(&mut body[start..])?;
        read_line(reader)?;
    }
}

fn read_line(reader: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(line.trim_end().to_owned())
}
