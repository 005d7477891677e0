//! One line per request, in the combined log format

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, Uri, Version, header};
use jiff::Timestamp;

use crate::request_id::RequestId;

/// Learns of every request once it is over
pub trait Observer: Send + Sync + 'static {
    /// It is known what a request asks for, and work on it begins
    ///
    /// [`Observer::finished`] follows, with the same `operation` in its record. Requests that
    /// are none of the registry's, or only ask whether it is there, do not come here: they are
    /// over at once.
    ///
    /// Must not block, as [`Observer::finished`].
    fn started(&self, operation: &'static str) {
        let _ = operation;
    }

    /// The last byte of the response body was handed to the connection, or the client went away
    ///
    /// Called once per request, on a thread that serves other requests too: it must not block.
    fn finished(&self, record: &AccessRecord);
}

/// All of them, in order
impl Observer for Vec<Arc<dyn Observer>> {
    fn started(&self, operation: &'static str) {
        for observer in self {
            observer.started(operation);
        }
    }

    fn finished(&self, record: &AccessRecord) {
        for observer in self {
            observer.finished(record);
        }
    }
}

/// What happened in one request
///
/// Its `Display` is the combined log format of nginx and Apache httpd: address, `-`, user,
/// time of receipt in UTC, request line, status, bytes of the response body, referrer and user
/// agent. What came from outside is escaped as nginx escapes it (`\x22` for a quote), so that
/// a line is always one line and its fields stay apart.
///
/// # Examples
///
/// ```
/// use registry_http::{AccessRecord, Observer};
///
/// struct Print;
///
/// impl Observer for Print {
///     fn finished(&self, record: &AccessRecord) {
///         // 192.0.2.7 - - [22/Mar/2019:23:22:10 +0000] "GET /v2/ HTTP/1.1" 200 2 "-" "docker/18.06.3"
///         println!("{record}");
///     }
/// }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct AccessRecord {
    /// The client's address: what a trusted proxy says, else where the connection came from, if
    /// the server told ([`RemoteAddr`](crate::RemoteAddr))
    pub remote: Option<IpAddr>,
    /// The user that the credentials proved
    pub user: Option<String>,
    /// When the request came
    pub received: SystemTime,
    /// How long it took, to the end of the response body
    pub elapsed: Duration,
    /// The method
    pub method: Method,
    /// The target as it came, which may hold anything that a URI may
    pub uri: Uri,
    /// The protocol version
    pub version: Version,
    /// The status of the response; 499, as in nginx, when the client went away before there
    /// was one
    pub status: StatusCode,
    /// The bytes of the response body that were handed to the connection
    pub bytes: u64,
    /// The bytes of the request body that were read
    pub received_bytes: u64,
    /// Whether the response body was handed over to its end; `bytes` is its length then
    pub complete: bool,
    /// The `Referer` header
    pub referer: Option<HeaderValue>,
    /// The `User-Agent` header
    pub user_agent: Option<HeaderValue>,
    /// What was asked for, as a constant name such as `get_manifest`; nothing when the request
    /// was none of the registry's
    pub operation: Option<&'static str>,
    /// The name of the request; the line does not have it
    pub request_id: RequestId,
}

/// The parameters whose values are shown: those of the API, and those of Docker's own clients
const SHOWN_PARAMETERS: [&str; 10] = [
    "artifactType",
    "digest",
    "digest-algorithm",
    "from",
    "last",
    "mount",
    "n",
    "ns",
    "service",
    "tag",
];

impl AccessRecord {
    /// Path and query of the target, with `***` for the values of parameters that are none of
    /// the API's
    ///
    /// The registry takes no secret in a query, but a confused client may send one. `None` for
    /// a target without a path, such as that of `CONNECT`.
    pub fn target(&self) -> Option<Cow<'_, str>> {
        let target = self.uri.path_and_query()?;
        let Some(query) = target.query() else {
            return Some(target.path().into());
        };
        let is_shown = |parameter: &str| {
            let name = parameter.split('=').next().unwrap_or_default();
            SHOWN_PARAMETERS.contains(&name)
        };
        if query.split('&').all(is_shown) {
            return Some(target.as_str().into());
        }
        let parameters: Vec<Cow<'_, str>> = query
            .split('&')
            .map(|parameter| match parameter.split_once('=') {
                Some((name, _)) if !is_shown(parameter) => format!("{name}=***").into(),
                None if !is_shown(parameter) && !parameter.is_empty() => "***".into(),
                _ => parameter.into(),
            })
            .collect();
        Some(format!("{}?{}", target.path(), parameters.join("&")).into())
    }
}

impl fmt::Display for AccessRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        remote(f, self.remote)?;
        f.write_str(" - ")?;
        match &self.user {
            // The user field is not quoted, so a space would start the next one.
            Some(user) if !user.is_empty() => escape(f, user.as_bytes(), b' ')?,
            _ => f.write_str("-")?,
        }
        f.write_str(" [")?;
        received(f, self.received)?;
        f.write_str("] \"")?;
        escape(f, self.method.as_str().as_bytes(), b'"')?;
        f.write_str(" ")?;
        match self.target() {
            Some(target) => escape(f, target.as_bytes(), b'"')?,
            None => f.write_str("-")?,
        }
        f.write_str(" ")?;
        f.write_str(version(self.version))?;
        f.write_str("\" ")?;
        f.write_str(self.status.as_str())?;
        write!(f, " {} ", self.bytes)?;
        quoted(f, self.referer.as_ref())?;
        f.write_str(" ")?;
        quoted(f, self.user_agent.as_ref())
    }
}

/// Writes an address, which the line before it most often had too
fn remote(f: &mut fmt::Formatter<'_>, address: Option<IpAddr>) -> fmt::Result {
    thread_local! {
        static LAST: RefCell<(Option<IpAddr>, String)> =
            const { RefCell::new((None, String::new())) };
    }
    let Some(address) = address else {
        return f.write_str("-");
    };
    LAST.with_borrow_mut(|(last, text)| {
        if *last != Some(address) {
            *text = address.to_string();
            *last = Some(address);
        }
        f.write_str(text)
    })
}

/// As the formatter of a version has it, without one
fn version(version: Version) -> &'static str {
    match version {
        Version::HTTP_09 => "HTTP/0.9",
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_11 => "HTTP/1.1",
        Version::HTTP_2 => "HTTP/2.0",
        Version::HTTP_3 => "HTTP/3.0",
        _ => "HTTP",
    }
}

/// Writes the second of a time, which the lines before it most often had too
fn received(f: &mut fmt::Formatter<'_>, time: SystemTime) -> fmt::Result {
    thread_local! {
        static LAST: RefCell<(i64, String)> = const { RefCell::new((i64::MIN, String::new())) };
    }
    let Ok(time) = Timestamp::try_from(time) else {
        return f.write_str("-");
    };
    LAST.with_borrow_mut(|(second, text)| {
        if *second != time.as_second() {
            *text = time.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string();
            *second = time.as_second();
        }
        f.write_str(text)
    })
}

fn quoted(f: &mut fmt::Formatter<'_>, value: Option<&HeaderValue>) -> fmt::Result {
    f.write_str("\"")?;
    match value {
        Some(value) if !value.is_empty() => escape(f, value.as_bytes(), b'"')?,
        _ => f.write_str("-")?,
    }
    f.write_str("\"")
}

/// Which bytes stand for themselves in a line
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = b' ';
    while byte <= b'~' {
        plain[byte as usize] = !matches!(byte, b'"' | b'\\');
        byte += 1;
    }
    plain
};

/// Writes `text` with `\xHH` for quotes, backslashes, `besides`, and all that is not printable
/// ASCII
fn escape(f: &mut fmt::Formatter<'_>, text: &[u8], besides: u8) -> fmt::Result {
    let is_plain = |byte: &u8| PLAIN[usize::from(*byte)] && *byte != besides;
    let mut rest = text;
    loop {
        let plain = rest.iter().take_while(|byte| is_plain(byte)).count();
        let (plain, other) = rest.split_at(plain);
        // Printable ASCII is UTF-8.
        f.write_str(std::str::from_utf8(plain).unwrap_or_default())?;
        let Some((byte, after)) = other.split_first() else {
            return Ok(());
        };
        write!(f, "\\x{byte:02X}")?;
        rest = after;
    }
}

/// A record under way: it tells the observer when it is dropped
pub(crate) struct Recorder {
    observer: Arc<dyn Observer>,
    started: Instant,
    /// Counts the bytes of the request body, wherever that is read
    received: Arc<AtomicU64>,
    record: AccessRecord,
}

impl Recorder {
    pub(crate) fn begin(
        observer: Arc<dyn Observer>,
        parts: &Parts,
        remote: Option<IpAddr>,
        request_id: RequestId,
        received: Arc<AtomicU64>,
    ) -> Self {
        Self {
            observer,
            started: Instant::now(),
            received,
            record: AccessRecord {
                remote,
                user: None,
                received: SystemTime::now(),
                elapsed: Duration::ZERO,
                method: parts.method.clone(),
                uri: parts.uri.clone(),
                version: parts.version,
                status: client_closed_request(),
                bytes: 0,
                received_bytes: 0,
                complete: false,
                referer: parts.headers.get(header::REFERER).cloned(),
                user_agent: parts.headers.get(header::USER_AGENT).cloned(),
                operation: None,
                request_id,
            },
        }
    }

    pub(crate) fn operation(&mut self, label: &'static str) {
        self.record.operation = Some(label);
        self.observer.started(label);
    }

    pub(crate) fn user(&mut self, name: Option<&str>) {
        self.record.user = name.map(str::to_owned);
    }

    pub(crate) fn status(&mut self, status: StatusCode) {
        self.record.status = status;
    }

    pub(crate) fn sent(&mut self, bytes: usize) {
        self.record.bytes += bytes as u64;
    }

    pub(crate) fn complete(&mut self) {
        self.record.complete = true;
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.record.elapsed = self.started.elapsed();
        self.record.received_bytes = self.received.load(Ordering::Relaxed);
        self.observer.finished(&self.record);
    }
}

fn client_closed_request() -> StatusCode {
    // 499 is a number between 100 and 999, which is all that this asks for.
    StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(agent: &'static [u8]) -> AccessRecord {
        AccessRecord {
            remote: Some([204, 178, 3, 200].into()),
            user: None,
            received: SystemTime::UNIX_EPOCH + Duration::from_secs(1_553_296_930),
            elapsed: Duration::ZERO,
            method: Method::GET,
            uri: Uri::from_static("/v2/"),
            version: Version::HTTP_11,
            status: StatusCode::OK,
            bytes: 5,
            received_bytes: 0,
            complete: true,
            referer: None,
            user_agent: Some(HeaderValue::from_bytes(agent).unwrap()),
            operation: Some("ping"),
            request_id: RequestId("r-1".into()),
        }
    }

    #[test]
    fn a_line_is_the_one_that_nginx_writes() {
        assert_eq!(
            record(b"docker/18.06.3-ce go/go1.10.3 UpstreamClient(Docker-Client/18.06.3-ce \\(linux\\))").to_string(),
            "204.178.3.200 - - [22/Mar/2019:23:22:10 +0000] \"GET /v2/ HTTP/1.1\" 200 5 \"-\" \"docker/18.06.3-ce go/go1.10.3 UpstreamClient(Docker-Client/18.06.3-ce \\x5C(linux\\x5C))\"",
        );
    }

    #[test]
    fn values_that_the_api_does_not_know_are_not_shown() {
        for (target, shown) in [
            ("/v2/", "/v2/"),
            ("/v2/_catalog?n=5&last=a/b", "/v2/_catalog?n=5&last=a/b"),
            ("/v2/?token=hunter2", "/v2/?token=***"),
            ("/v2/?hunter2", "/v2/?***"),
            ("/v2/?n=5&password=hunter2=&x", "/v2/?n=5&password=***&***"),
            ("/v2/?", "/v2/?"),
            ("/v2/?digest=&", "/v2/?digest=&"),
        ] {
            let mut record = record(b"-");
            record.uri = Uri::try_from(target).unwrap();
            assert_eq!(record.target().unwrap(), shown);
        }
    }

    #[test]
    fn nothing_from_outside_leaves_its_field() {
        let mut record = record(b"a\"b\tc\xff");
        record.user = Some("ada \"x\"\n[".to_owned());
        record.referer = Some(HeaderValue::from_static(""));
        record.uri = Uri::from_static("http://example.org/v2/?tag=%22");
        record.version = Version::HTTP_2;
        record.remote = None;
        assert_eq!(
            record.to_string(),
            "- - ada\\x20\\x22x\\x22\\x0A[ [22/Mar/2019:23:22:10 +0000] \"GET /v2/?tag=%22 HTTP/2.0\" 200 5 \"-\" \"a\\x22b\\x09c\\xFF\"",
        );
    }
}
