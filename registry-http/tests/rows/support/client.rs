//! A client that sends exact bytes and takes nothing for granted in the answer

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The codes that a response may carry: the table of the distribution specification, and what
/// Docker's API has besides for what the table has no word for
const CODES: [&str; 18] = [
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DENIED",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "PAGINATION_NUMBER_INVALID",
    "SIZE_INVALID",
    "TAG_INVALID",
    "TOOMANYREQUESTS",
    "UNAUTHORIZED",
    "UNAVAILABLE",
    "UNKNOWN",
    "UNSUPPORTED",
];

/// Waits for what is sure to come, and fails the test instead of hanging it
pub(crate) async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future)
        .await
        .expect("took longer than 30 seconds")
}

/// Asks again and again until the answer is the one that is waited for
pub(crate) async fn eventually<T, F>(mut ask: impl FnMut() -> F, wanted: T)
where
    T: PartialEq + std::fmt::Debug,
    F: Future<Output = T>,
{
    for _ in 0..200 {
        if ask().await == wanted {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(ask().await, wanted, "still not so after five seconds");
}

/// A request, and how it is written
#[must_use]
pub(crate) struct Request {
    address: SocketAddr,
    method: String,
    target: String,
    version: &'static str,
    headers: Vec<(String, String)>,
    body: Body,
}

enum Body {
    /// No body and no header that speaks of one
    None,
    /// With `Content-Length`
    Sized(Vec<u8>),
    /// With `Transfer-Encoding: chunked`, in these parts
    Chunked(Vec<Vec<u8>>),
}

impl Request {
    pub(crate) fn new(address: SocketAddr, method: &str, target: String) -> Self {
        Self {
            address,
            method: method.to_owned(),
            target,
            version: "HTTP/1.1",
            headers: Vec::new(),
            body: Body::None,
        }
    }

    pub(crate) fn header(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    pub(crate) fn body(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.body = Body::Sized(bytes.as_ref().to_vec());
        self
    }

    pub(crate) fn chunked(mut self, parts: &[&[u8]]) -> Self {
        self.body = Body::Chunked(parts.iter().map(|part| part.to_vec()).collect());
        self
    }

    /// As old proxies ask: HTTP/1.0, without `Host`
    pub(crate) fn http10(mut self) -> Self {
        self.version = "HTTP/1.0";
        self
    }

    /// Sends it on a connection of its own and checks what is true of every response
    pub(crate) async fn send(self) -> Response {
        let response = self.send_unchecked().await;
        response.check();
        response
    }

    /// The same for answers that are not the registry's own
    pub(crate) async fn send_unchecked(mut self) -> Response {
        if self.version == "HTTP/1.1" {
            self.headers
                .insert(0, ("Host".into(), "registry.test".into()));
            self.headers.push(("Connection".into(), "close".into()));
        }
        let mut connection = Connection::open(self.address).await;
        connection.send(&self.encode()).await;
        let mut response = connection.receive(&self.method).await;
        response.line = format!("{} {}", self.method, self.target);
        assert_eq!(
            connection.rest().await,
            b"",
            "{} is followed by bytes that belong to nothing",
            response.line
        );
        response
    }

    fn encode(&mut self) -> Vec<u8> {
        let mut bytes = format!("{} {} {}\r\n", self.method, self.target, self.version);
        match &self.body {
            Body::None => {}
            Body::Sized(body) => self
                .headers
                .push(("Content-Length".into(), body.len().to_string())),
            Body::Chunked(_) => self
                .headers
                .push(("Transfer-Encoding".into(), "chunked".into())),
        }
        for (name, value) in &self.headers {
            bytes.push_str(&format!("{name}: {value}\r\n"));
        }
        bytes.push_str("\r\n");
        let mut bytes = bytes.into_bytes();
        match &self.body {
            Body::None => {}
            Body::Sized(body) => bytes.extend_from_slice(body),
            Body::Chunked(parts) => {
                for part in parts {
                    bytes.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                    bytes.extend_from_slice(part);
                    bytes.extend_from_slice(b"\r\n");
                }
                bytes.extend_from_slice(b"0\r\n\r\n");
            }
        }
        bytes
    }
}

/// A connection on which the test writes each byte itself
pub(crate) struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        let stream = in_time(TcpStream::connect(address)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self {
            stream,
            buffer: Vec::new(),
        }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        in_time(self.stream.write_all(bytes.as_ref()))
            .await
            .unwrap();
    }

    /// Says that nothing more will come, and still listens
    pub(crate) async fn end_sending(&mut self) {
        in_time(self.stream.shutdown()).await.unwrap();
    }

    /// Waits for `100 Continue`: the registry has taken the request and now wants its body
    pub(crate) async fn continued(&mut self) {
        let head = in_time(self.read_head())
            .await
            .expect("an interim response");
        assert_eq!(head.status, 100, "{:?}", head.headers);
    }

    /// Reads one response to a request of this method
    pub(crate) async fn receive(&mut self, method: &str) -> Response {
        in_time(self.read_response(method))
            .await
            .expect("the connection ended before the response did")
    }

    /// Asserts how the answer begins, and reads no more of it
    pub(crate) async fn begins(&mut self, text: &str) {
        let begin = in_time(self.read_exactly(text.len())).await;
        let begin = begin.expect("the connection ended before the response did");
        assert_eq!(String::from_utf8_lossy(&begin), text);
    }

    /// Whatever still comes until the server closes the connection
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        in_time(async {
            loop {
                if !self.fill().await {
                    return self.buffer;
                }
            }
        })
        .await
    }

    /// Whether nothing comes for a while
    pub(crate) async fn is_silent(&mut self, wait: Duration) -> bool {
        self.buffer.is_empty() && tokio::time::timeout(wait, self.fill()).await.is_err()
    }

    async fn read_response(&mut self, method: &str) -> Option<Response> {
        let mut interim = Vec::new();
        loop {
            let mut response = self.read_head().await?;
            if response.status < 200 {
                interim.push(response.status);
                continue;
            }
            response.interim = interim;
            response.line = method.to_owned();
            response.head = method == "HEAD";
            let empty = response.head || matches!(response.status, 204 | 304);
            if empty {
                return Some(response);
            }
            if let Some(coding) = response.find("Transfer-Encoding") {
                assert_eq!(coding, "chunked");
                response.body = self.read_chunks().await?;
            } else if let Some(length) = response.find("Content-Length") {
                let length: usize = length.parse().unwrap();
                response.body = self.read_exactly(length).await?;
            } else {
                while self.fill().await {}
                response.body = std::mem::take(&mut self.buffer);
            }
            return Some(response);
        }
    }

    async fn read_head(&mut self) -> Option<Response> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            if !self.fill().await {
                return None;
            }
        };
        let head: Vec<u8> = self.buffer.drain(..end + 4).collect();
        let head = String::from_utf8(head).expect("a head in ASCII");
        let mut lines = head.trim_end().split("\r\n");
        let mut status = lines.next().unwrap().splitn(3, ' ');
        let version = status.next().unwrap().to_owned();
        Some(Response {
            version,
            status: status.next().unwrap().parse().unwrap(),
            headers: lines
                .map(|line| line.split_once(':').expect("a header line"))
                .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
                .collect(),
            body: Vec::new(),
            interim: Vec::new(),
            line: String::new(),
            head: false,
        })
    }

    async fn read_chunks(&mut self) -> Option<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = find(&self.buffer, b"\r\n") {
                    break end;
                }
                if !self.fill().await {
                    return None;
                }
            };
            let line = String::from_utf8(self.read_exactly(end + 2).await?).unwrap();
            let length = usize::from_str_radix(line.trim_end(), 16).unwrap();
            body.extend(self.read_exactly(length).await?);
            assert_eq!(self.read_exactly(2).await?, b"\r\n");
            if length == 0 {
                return Some(body);
            }
        }
    }

    async fn read_exactly(&mut self, length: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < length {
            if !self.fill().await {
                return None;
            }
        }
        Some(self.buffer.drain(..length).collect())
    }

    /// Reads some more; `false` at the end, also at the harsh end of a reset
    async fn fill(&mut self) -> bool {
        let mut part = vec![0; 64 * 1024];
        match self.stream.read(&mut part).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&part[..count]);
                true
            }
        }
    }
}

/// What came back
#[derive(Clone, Debug)]
pub(crate) struct Response {
    pub(crate) version: String,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// The statuses below 200 that came before
    pub(crate) interim: Vec<u16>,
    line: String,
    head: bool,
}

impl Response {
    /// Itself, if it has this status
    #[track_caller]
    pub(crate) fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status,
            status,
            "{}: {:?} {}",
            self.line,
            self.headers,
            self.text()
        );
        self
    }

    /// All values of a header
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        self.headers
            .iter()
            .filter(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
            .collect()
    }

    /// The value of a header that is there once at most
    #[track_caller]
    pub(crate) fn find(&self, name: &str) -> Option<&str> {
        let values = self.all(name);
        assert!(
            values.len() <= 1,
            "{}: {name} came as {values:?}",
            self.line
        );
        values.first().copied()
    }

    /// The value of a header that is there once
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> &str {
        self.find(name)
            .unwrap_or_else(|| panic!("{}: no {name} in {:?}", self.line, self.headers))
    }

    /// The `Location`, a path on this server
    #[track_caller]
    pub(crate) fn location(&self) -> String {
        let location = self.header("Location");
        assert!(location.starts_with("/v2/"), "{location}");
        location.to_owned()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{}: {error} in {}", self.line, self.text()))
    }

    /// The errors of the body: code, message and detail
    #[track_caller]
    pub(crate) fn errors(&self) -> Vec<(String, String, Value)> {
        let json = self.json();
        let errors = json["errors"].as_array().expect("errors").clone();
        errors
            .into_iter()
            .map(|error| {
                let text = |key: &str| error[key].as_str().expect(key).to_owned();
                (text("code"), text("message"), error["detail"].clone())
            })
            .collect()
    }

    /// The message of the one error, which has this code
    #[track_caller]
    pub(crate) fn refused(&self, status: u16, code: &str) -> String {
        assert_eq!(
            self.status,
            status,
            "{}: {:?} {}",
            self.line,
            self.headers,
            self.text()
        );
        let errors = self.errors();
        assert_eq!(errors.len(), 1, "{}: {}", self.line, self.text());
        assert_eq!(errors[0].0, code, "{}: {}", self.line, self.text());
        errors[0].1.clone()
    }

    /// What is true of every response of the registry, whatever was asked
    #[track_caller]
    pub(crate) fn check(&self) {
        assert_eq!(
            self.header("Docker-Distribution-API-Version"),
            "registry/2.0",
            "{}",
            self.line
        );
        assert!(!self.header("Date").is_empty());
        assert!(!self.header("X-Request-ID").is_empty());
        // Lengths are always known, so nothing has to be sent in chunks.
        assert_eq!(self.find("Transfer-Encoding"), None, "{}", self.line);
        match self.status {
            204 | 304 => assert_eq!(self.find("Content-Length"), None, "{}", self.line),
            _ => {
                self.header("Content-Length");
            }
        }
        if self.find("Location").is_some() {
            self.location();
        }
        if self.status >= 400 {
            assert_eq!(self.header("Content-Type"), "application/json");
            if !self.head {
                self.check_errors();
            }
        }
    }

    #[track_caller]
    fn check_errors(&self) {
        let json = self.json();
        assert_eq!(keys(&json), ["errors"], "{}", self.text());
        let errors = json["errors"].as_array().unwrap();
        assert!(!errors.is_empty(), "{}", self.line);
        for error in errors {
            assert_eq!(keys(error), ["code", "detail", "message"], "{error}");
            let code = error["code"].as_str().unwrap();
            assert!(CODES.contains(&code), "{code}");
            let message = error["message"].as_str().unwrap();
            assert!(!message.is_empty() && !message.ends_with('.'), "{message}");
            assert!(!message.contains('\n'), "{message}");
            if self.status >= 500 {
                // What the user quotes, and the operator finds in the log.
                let named = format!("(request `{}`)", self.header("X-Request-ID"));
                assert!(message.ends_with(&named), "{message}");
            }
        }
    }
}

fn keys(value: &Value) -> Vec<&str> {
    let object = value.as_object().unwrap_or_else(|| panic!("{value}"));
    let mut keys: Vec<&str> = object.keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes
        .windows(wanted.len())
        .position(|window| window == wanted)
}
