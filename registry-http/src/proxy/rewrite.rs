//! What names places and what may pass: headers, the locations of uploads, and links
//!
//! An upload session is somewhere at the upstream, often with a state in the query that must come back. The
//! client gets a location of the proxy instead, and where the upstream's is more than `/v2/<name>/blobs/uploads/<uuid>`,
//! that whole location in a parameter, with a seal: any replica of the proxy finds the session again, and no client can make up
//! a place for the proxy to go to.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use http::header::{self, HeaderMap, HeaderName};
use http::uri::{Authority, Scheme, Uri};
use registry_core::page::{percent_decode, percent_encode};
use registry_core::{RepositoryName, UploadId};
use sha2::{Digest as _, Sha256};

use crate::reply::{FILTERS_APPLIED, SUBJECT, TAG, UPLOAD_UUID};

/// The parameter that carries what is the upstream's
const PARAMETER: &str = "_upstream";

/// The longest location of an upstream that is carried; a request line has 64 KiB at least
const MAX_LOCATION: usize = 8 * 1024;

/// What of a client's request goes on to the upstream
pub(crate) const REQUEST_HEADERS: [HeaderName; 9] = [
    header::ACCEPT,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    header::IF_RANGE,
    header::RANGE,
    header::USER_AGENT,
];

/// What of the upstream's response goes on to the client
///
/// Places are not among them, for they are written anew; nor are cookies, challenges and what names the
/// upstream's software.
const RESPONSE_HEADERS: [HeaderName; 21] = [
    header::ACCEPT_RANGES,
    header::AGE,
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::CONTENT_TYPE,
    header::ETAG,
    header::EXPIRES,
    header::LAST_MODIFIED,
    header::RANGE,
    header::RETRY_AFTER,
    header::VARY,
    header::WARNING,
    crate::reply::CONTENT_DIGEST,
    FILTERS_APPLIED,
    SUBJECT,
    TAG,
    HeaderName::from_static("oci-chunk-min-length"),
    HeaderName::from_static("ratelimit-limit"),
    HeaderName::from_static("ratelimit-remaining"),
    HeaderName::from_static("ratelimit-reset"),
];

/// The headers of a response that may go on to the client
pub(crate) fn passed(headers: &HeaderMap) -> HeaderMap {
    let mut passed = HeaderMap::new();
    for name in RESPONSE_HEADERS {
        for value in headers.get_all(&name) {
            passed.append(name.clone(), value.clone());
        }
    }
    passed
}

/// Lets only the client itself keep the content
///
/// Who may have it is decided here, and the upstream, which may be open to everyone, knows nothing of that: what it
/// says may be kept for all must not end up in a cache between the proxy and its clients.
pub(crate) fn keep_private(headers: &mut HeaderMap) {
    let said = headers.get_all(header::CACHE_CONTROL).iter();
    let mut directives = vec!["private".to_owned()];
    for line in said.filter_map(|value| value.to_str().ok()) {
        for directive in line.split(',').map(str::trim) {
            let name = directive.split('=').next().unwrap_or_default().trim();
            let shared = ["public", "private", "s-maxage", "proxy-revalidate"];
            if !name.is_empty() && !shared.iter().any(|known| name.eq_ignore_ascii_case(known)) {
                directives.push(directive.to_owned());
            }
        }
    }
    if directives.len() == 1 && !headers.contains_key(header::EXPIRES) {
        headers.remove(header::CACHE_CONTROL);
        return;
    }
    crate::reply::set(headers, header::CACHE_CONTROL, directives.join(", "));
}

/// Where a session is, for the client
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Session {
    pub(crate) location: String,
    pub(crate) id: UploadId,
}

/// Seals what belongs to the upstream and comes back by the client
#[derive(Clone)]
pub(super) struct Seal(Hmac<Sha256>);

impl Seal {
    pub(super) fn new(secret: &[u8]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("HMAC takes a key of any length"))
    }

    /// `text` as a parameter's value, good only for what `context` is about
    fn close(&self, context: &str, text: &str) -> String {
        let tag = self.mac(context, text).finalize().into_bytes();
        let encoded = URL_SAFE_NO_PAD.encode(text);
        format!("{encoded}.{}", URL_SAFE_NO_PAD.encode(&tag[..16]))
    }

    fn open(&self, context: &str, sealed: &str) -> Option<String> {
        let (text, tag) = sealed.split_once('.')?;
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        if tag.len() != 16 {
            return None;
        }
        let mac = self.mac(context, &text);
        mac.verify_truncated_left(&tag).ok()?;
        Some(text)
    }

    fn mac(&self, context: &str, text: &str) -> Hmac<Sha256> {
        let mut mac = self.0.clone();
        mac.update(&(context.len() as u64).to_be_bytes());
        mac.update(context.as_bytes());
        mac.update(text.as_bytes());
        mac
    }

    /// The client's location for a session that is at `location` at the upstream, a path with a query
    pub(super) fn session(
        &self,
        name: &RepositoryName,
        canonical: &str,
        location: &str,
    ) -> Session {
        let path = location.split('?').next().unwrap_or_default();
        let own = path
            .strip_prefix(canonical)
            .and_then(|id| id.parse::<UploadId>().ok());
        let id = own.unwrap_or_else(|| {
            let hash = Sha256::digest(path.as_bytes());
            let mut bytes = [0; 16];
            bytes.copy_from_slice(&hash[..16]);
            UploadId::from_random_bytes(bytes)
        });
        let mut text = format!("/v2/{name}/blobs/uploads/{id}");
        if own.is_none() || location.len() > path.len() {
            let sealed = self.close(&session_context(name, &id), location);
            text.push_str(&format!("?{PARAMETER}={sealed}"));
        }
        Session { location: text, id }
    }

    /// Where a client's session is at the upstream; `None` for one that the proxy never gave out
    pub(super) fn find(
        &self,
        name: &RepositoryName,
        id: &UploadId,
        canonical: &str,
        query: Option<&str>,
    ) -> Option<String> {
        match parameter(query) {
            Some(sealed) => self.open(&session_context(name, id), sealed?),
            None => Some(format!("{canonical}{id}")),
        }
    }

    /// The client's query for the next page, of which the upstream's is known
    ///
    /// What all registries know stays as it is; what only this upstream knows is sealed.
    pub(super) fn next_page(&self, path: &str, query: &str) -> String {
        let known = |pair: &str| {
            let name = pair.split('=').next().unwrap_or_default();
            matches!(name, "n" | "last" | "artifactType")
        };
        let mut pairs: Vec<_> = query.split('&').filter(|pair| known(pair)).collect();
        let sealed;
        if query.split('&').any(|pair| !known(pair)) {
            sealed = format!("{PARAMETER}={}", self.close(path, query));
            pairs.push(&sealed);
        }
        pairs.join("&")
    }

    /// The upstream's query for a page that [`Seal::next_page`] led to; `Some(None)` where nothing was sealed
    pub(super) fn page(&self, path: &str, query: Option<&str>) -> Option<Option<String>> {
        match parameter(query) {
            Some(sealed) => Some(Some(self.open(path, sealed?)?)),
            None => Some(None),
        }
    }
}

fn session_context(name: &RepositoryName, id: &UploadId) -> String {
    format!("session {id} {name}")
}

/// The value of [`PARAMETER`]; `Some(None)` if it is there several times
fn parameter(query: Option<&str>) -> Option<Option<&str>> {
    let mut values = query?
        .split('&')
        .filter_map(|pair| pair.strip_prefix(PARAMETER)?.strip_prefix('='));
    let value = values.next()?;
    Some(values.next().is_none().then_some(value))
}

/// Path and query of a `Location` of the upstream; `None` if it leads elsewhere
pub(crate) fn own_location(location: &str, base: &Uri) -> Option<String> {
    if location.len() > MAX_LOCATION {
        return None;
    }
    let uri: Uri = location.parse().ok()?;
    let own = match (uri.authority(), base.authority()) {
        (None, _) => location.starts_with('/') && !location.starts_with("//"),
        (Some(theirs), Some(own)) => {
            let http = |scheme: Option<&Scheme>| {
                scheme.is_some_and(|scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS)
            };
            // Registries behind TLS that they know nothing of name themselves by the wrong scheme.
            http(uri.scheme()) && host(theirs) == host(own)
        }
        (Some(_), None) => false,
    };
    let target = uri.path_and_query()?;
    let dots = |segment: &str| {
        percent_decode(segment).is_none_or(|segment| matches!(&*segment, "." | ".."))
    };
    if !own || target.path().split('/').any(dots) {
        return None;
    }
    Some(target.as_str().to_owned())
}

/// Host and port, without the ports that need not be said
fn host(authority: &Authority) -> String {
    let text = authority.as_str().to_ascii_lowercase();
    let text = text.strip_suffix(":80").unwrap_or(&text);
    text.strip_suffix(":443").unwrap_or(text).to_owned()
}

/// The query of the next page in a `Link` (RFC 8288)
pub(crate) fn next_query(headers: &HeaderMap) -> Option<String> {
    for line in headers.get_all(header::LINK) {
        let line = line.to_str().ok()?;
        let (target, parameters) = line.split_once('<')?.1.split_once('>')?;
        let is_next = parameters.split(';').any(|parameter| {
            let parameter = parameter.trim().to_ascii_lowercase();
            matches!(&*parameter, "rel=next" | "rel=\"next\"")
        });
        if is_next && target.len() <= MAX_LOCATION {
            let query = target.split_once('?')?.1;
            let clean = query
                .bytes()
                .all(|byte| byte.is_ascii_graphic() && !b"<>\"#\\^`{|}".contains(&byte));
            return clean.then(|| query.to_owned());
        }
    }
    None
}

/// A query of known parameters
pub(crate) fn query(pairs: &[(&str, String)]) -> String {
    let pairs: Vec<_> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={}", percent_encode(value)))
        .collect();
    match pairs.is_empty() {
        true => String::new(),
        false => format!("?{}", pairs.join("&")),
    }
}

/// Says which session it is
pub(crate) fn set_session(headers: &mut HeaderMap, session: &Session) {
    crate::reply::set(headers, header::LOCATION, &session.location);
    crate::reply::set(headers, UPLOAD_UUID, session.id);
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    const ID: &str = "3f2c1b7e-9b0f-4d3a-8f6c-2f5f6f0f0a11";

    fn name(text: &str) -> RepositoryName {
        RepositoryName::try_from(text).unwrap()
    }

    #[test]
    fn a_session_comes_back_to_where_it_is() {
        let seal = Seal::new(b"secret");
        let canonical = "/repository/docker/v2/a/blobs/uploads/";
        for (location, plain) in [
            (format!("{canonical}{ID}"), true),
            (format!("{canonical}{ID}?_state=x%3D&y"), false),
            (format!("{canonical}not-a-uuid"), false),
            (
                "/artifacts-uploads/namespaces/p/uploads/AF2".to_owned(),
                false,
            ),
        ] {
            let session = seal.session(&name("a"), canonical, &location);
            let (path, query) = match session.location.split_once('?') {
                Some((path, query)) => (path, Some(query)),
                None => (&*session.location, None),
            };
            assert_eq!(path, format!("/v2/a/blobs/uploads/{}", session.id));
            assert_eq!(query.is_none(), plain, "{location}");
            let found = seal.find(&name("a"), &session.id, canonical, query);
            assert_eq!(found.as_deref(), Some(&*location));
            // Clients add to the query, and what they add does not get further.
            let longer = query.map(|query| format!("mount=x&{query}&digest=y"));
            let found = seal.find(&name("a"), &session.id, canonical, longer.as_deref());
            assert_eq!(found.as_deref(), Some(&*location));
        }
    }

    #[test]
    fn nobody_makes_up_a_place_to_go_to() {
        let seal = Seal::new(b"secret");
        let id: UploadId = ID.parse().unwrap();
        let target = "/service/rest/v1/users";
        let forged = Seal::new(b"guess").close(&session_context(&name("a"), &id), target);
        let other = seal.close(&session_context(&name("b"), &id), target);
        let good = seal.close(&session_context(&name("a"), &id), target);
        let (text, _) = good.split_once('.').unwrap();
        for sealed in [
            forged.as_str(),
            &other,
            text,
            &format!("{text}."),
            &format!("{text}.AAAA"),
            "",
            ".",
            "%2F",
            &format!("{good}&{PARAMETER}={good}"),
        ] {
            let query = format!("{PARAMETER}={sealed}");
            assert_eq!(
                seal.find(&name("a"), &id, "/v2/", Some(&query)),
                None,
                "{sealed}"
            );
        }
    }

    #[test]
    fn a_location_is_the_upstreams_own() {
        let base: Uri = "https://r.example/".parse().unwrap();
        for (location, own) in [
            (
                "/v2/a/blobs/uploads/1?x=y",
                Some("/v2/a/blobs/uploads/1?x=y"),
            ),
            ("https://r.example/v2/1", Some("/v2/1")),
            ("https://R.Example:443/v2/1", Some("/v2/1")),
            ("http://r.example/v2/1", Some("/v2/1")),
            ("https://evil.example/v2/1", None),
            ("https://r.example@evil.example/v2/1", None),
            ("https://r.example:8443/v2/1", None),
            ("//evil.example/v2/1", None),
            ("file:///etc/passwd", None),
            ("v2/1", None),
            ("/v2/../service", None),
            ("/v2/%2e%2E/service", None),
            ("", None),
        ] {
            assert_eq!(own_location(location, &base).as_deref(), own, "{location}");
        }
    }

    #[test]
    fn the_next_page_is_one_of_the_proxy() {
        let seal = Seal::new(b"secret");
        let link = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LINK, HeaderValue::from_static(text));
            next_query(&headers)
        };
        let query = link(r#"<https://r.example/v2/a/tags/list?n=2&last=b%2F>; rel="next""#);
        assert_eq!(seal.next_page("/p", &query.unwrap()), "n=2&last=b%2F");
        let query = link("</v2/a/tags/list?n=2&next_page=tok>; rel=next").unwrap();
        let sealed = seal.next_page("/p", &query);
        assert!(sealed.starts_with("n=2&_upstream="), "{sealed}");
        assert_eq!(seal.page("/p", Some(&sealed)), Some(Some(query)));
        assert_eq!(seal.page("/q", Some(&sealed)), None);
        assert_eq!(seal.page("/q", Some("n=5")), Some(None));
        assert_eq!(link("<https://x/?n=2>; rel=\"prev\""), None);
        assert_eq!(link("nonsense"), None);
    }

    #[test]
    fn what_was_let_out_for_one_is_kept_for_no_other() {
        for (said, kept) in [
            (&["public, max-age=60"][..], Some("private, max-age=60")),
            (&["S-MaxAge=60", "PUBLIC"], None),
            (&["no-store"], Some("private, no-store")),
            (
                &["max-age=5", "must-revalidate"],
                Some("private, max-age=5, must-revalidate"),
            ),
            (&["private=\"x\""], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for line in said {
                headers.append(header::CACHE_CONTROL, HeaderValue::from_static(line));
            }
            keep_private(&mut headers);
            let found = headers.get(header::CACHE_CONTROL);
            assert_eq!(found.map(|value| value.to_str().unwrap()), kept, "{said:?}");
            assert!(headers.get_all(header::CACHE_CONTROL).iter().count() <= 1);
        }
        let mut headers = HeaderMap::new();
        headers.insert(
            header::EXPIRES,
            HeaderValue::from_static("Thu, 01 Jan 2099"),
        );
        keep_private(&mut headers);
        assert_eq!(headers[header::CACHE_CONTROL], "private");
    }

    #[test]
    fn only_what_is_listed_passes() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("set-cookie", "NXSESSIONID=1"),
            ("server", "Nexus/3"),
            ("www-authenticate", "Basic"),
            ("connection", "close"),
            ("location", "/x"),
            ("etag", "\"1\""),
            ("warning", "299 - a"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        let passed = passed(&headers);
        let names: Vec<_> = passed.keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["etag", "warning"]);
    }
}
