//! What proxies in front say of the client: its address, and the URL that it used
//!
//! Only what a trusted proxy wrote is believed. Each proxy adds at the right end of a list what
//! it saw, so a list is read from the right, as long as the hop that wrote an entry is trusted;
//! what stands further to the left may be the client's invention.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName};
use http::request::Parts;
use http::uri::{Authority, Scheme};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::listener::{RemoteAddr, UnixPeer};
use crate::tls::OverTls;

const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const X_REAL_IP: HeaderName = HeaderName::from_static("x-real-ip");

/// The proxies that are believed unless others are named: those on this machine
pub(crate) fn loopback() -> Vec<IpNet> {
    vec![
        Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8).into(),
        Ipv6Net::new_assert(Ipv6Addr::LOCALHOST, 128).into(),
    ]
}

/// Whether who sent this request is believed what it says of others
pub(crate) fn is_believed(parts: &Parts, trusted: &[IpNet]) -> bool {
    match peer_of(parts) {
        Some(peer) => is_in(trusted, peer),
        None => parts.extensions.get::<UnixPeer>().is_some(),
    }
}

fn peer_of(parts: &Parts) -> Option<IpAddr> {
    let address = parts.extensions.get::<RemoteAddr>()?;
    Some(address.0.ip().to_canonical())
}

/// Who asks, and by which URL, as far as it is known
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Client {
    /// The address; that of the nearest hop that is known where the client's own is not
    pub(crate) address: Option<IpAddr>,
    /// `http` or `https`, if a trusted proxy said it
    pub(crate) scheme: Option<Scheme>,
    /// Host and port, if a trusted proxy said them
    pub(crate) authority: Option<Authority>,
}

impl Client {
    /// Reads what the connection and the headers of a request say
    pub(crate) fn of(parts: &Parts, trusted: &[IpNet]) -> Self {
        let peer = peer_of(parts);
        if !is_believed(parts, trusted) {
            return Self {
                address: peer,
                ..Self::default()
            };
        }
        forwarded(peer, &parts.headers, trusted)
    }

    /// The URL's part before the path, as the client used it; `None` without a host
    ///
    /// What proxies say goes before what this request says: they change both on the way.
    pub(crate) fn origin(&self, parts: &Parts) -> Option<String> {
        let own = || match parts.uri.authority() {
            Some(authority) => authority_of(authority.as_str()),
            None => parts
                .headers
                .get(header::HOST)
                .and_then(|host| authority_of(host.to_str().ok()?)),
        };
        let authority = self.authority.clone().or_else(own)?;
        let own = match parts.extensions.get::<OverTls>() {
            Some(OverTls) => Some(&Scheme::HTTPS),
            None => parts.uri.scheme(),
        };
        let scheme = self.scheme.as_ref().or(own).unwrap_or(&Scheme::HTTP);
        Some(format!("{scheme}://{authority}"))
    }
}

/// What the headers that a trusted peer sent say
///
/// The headers that start with an `X` go first: most proxies set those, and let a `Forwarded`
/// that the client made up pass. A proxy that writes `Forwarded` must remove the others.
fn forwarded(peer: Option<IpAddr>, headers: &HeaderMap, trusted: &[IpNet]) -> Client {
    let known = [
        X_FORWARDED_FOR,
        X_REAL_IP,
        X_FORWARDED_PROTO,
        X_FORWARDED_HOST,
    ];
    let mut client = Client {
        address: peer,
        ..Client::default()
    };
    if !known.iter().any(|name| headers.contains_key(name)) {
        if headers.contains_key(header::FORWARDED) {
            rfc_7239(&mut client, headers, trusted);
        }
        return client;
    }
    let mut hop = 0;
    for (index, entry) in entries(headers, &X_FORWARDED_FOR).enumerate() {
        hop = index;
        let Some(address) = node(entry) else { break };
        client.address = Some(address);
        if !is_in(trusted, address) {
            break;
        }
    }
    if !headers.contains_key(X_FORWARDED_FOR)
        && let Some(address) = entries(headers, &X_REAL_IP).next().and_then(node)
    {
        client.address = Some(address);
    }
    client.scheme = at(headers, &X_FORWARDED_PROTO, hop).and_then(scheme_of);
    client.authority = at(headers, &X_FORWARDED_HOST, hop).and_then(authority_of);
    client
}

/// The entry of a list that belongs to a hop, counted from the right
///
/// Proxies that replace the header instead of adding to it leave one entry for all.
fn at<'a>(headers: &'a HeaderMap, name: &HeaderName, hop: usize) -> Option<&'a str> {
    entries(headers, name).take(hop + 1).last()
}

/// The entries of a list header from the right, over all of its lines
fn entries<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .iter()
        .rev()
        // A line that is no text is one entry that means nothing.
        .flat_map(|line| line.to_str().unwrap_or("?").rsplit(','))
        .map(str::trim)
}

/// Reads `Forwarded` (RFC 7239); one that is out of grammar says nothing
fn rfc_7239(client: &mut Client, headers: &HeaderMap, trusted: &[IpNet]) {
    let mut elements = Vec::new();
    for line in headers.get_all(header::FORWARDED) {
        let Some(parsed) = line.to_str().ok().and_then(elements_of) else {
            return;
        };
        elements.extend(parsed);
    }
    for element in elements.iter().rev() {
        if let Some(scheme) = element.proto.as_deref().and_then(scheme_of) {
            client.scheme = Some(scheme);
        }
        if let Some(authority) = element.host.as_deref().and_then(authority_of) {
            client.authority = Some(authority);
        }
        // A hop that hides its address ends what is known.
        let Some(address) = element.from.as_deref().and_then(node) else {
            break;
        };
        client.address = Some(address);
        if !is_in(trusted, address) {
            break;
        }
    }
}

/// What one proxy says in `Forwarded`
#[derive(Debug, Default, PartialEq, Eq)]
struct Element {
    from: Option<String>,
    host: Option<String>,
    proto: Option<String>,
}

/// Parses one line of `Forwarded` (RFC 7239, section 4); `None` if it is out of grammar
fn elements_of(line: &str) -> Option<Vec<Element>> {
    let mut elements = Vec::new();
    let mut element = Element::default();
    let mut rest = line.trim_start();
    loop {
        if !rest.is_empty() && !rest.starts_with([';', ',']) {
            let (name, after) = rest.split_once('=')?;
            if !is_token(name) {
                return None;
            }
            let (value, after) = value_of(after)?;
            rest = after.trim_start();
            let slot = match name {
                _ if name.eq_ignore_ascii_case("for") => Some(&mut element.from),
                _ if name.eq_ignore_ascii_case("host") => Some(&mut element.host),
                _ if name.eq_ignore_ascii_case("proto") => Some(&mut element.proto),
                _ => None,
            };
            // Each parameter is there once at most.
            if let Some(slot) = slot
                && slot.replace(value).is_some()
            {
                return None;
            }
        }
        match rest.as_bytes().first() {
            None => break,
            Some(b';') => {}
            Some(b',') => elements.push(std::mem::take(&mut element)),
            Some(_) => return None,
        }
        rest = rest[1..].trim_start();
    }
    elements.push(element);
    Some(elements)
}

/// A token or a quoted string, and what follows it
fn value_of(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text
            .find(|character: char| !is_token_character(character))
            .unwrap_or(text.len());
        let (token, rest) = text.split_at(end);
        return (!token.is_empty()).then(|| (token.to_owned(), rest));
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return Some((value, &quoted[index + 1..])),
            '\\' => value.push(characters.next()?.1),
            character => value.push(character),
        }
    }
    None
}

fn is_token(text: &str) -> bool {
    !text.is_empty() && text.chars().all(is_token_character)
}

/// Whether it may stand in a token (RFC 9110, section 5.6.2)
fn is_token_character(character: char) -> bool {
    character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)
}

/// The address of a hop, with or without a port; none for `unknown` and made-up names
fn node(text: &str) -> Option<IpAddr> {
    let address = text.parse().ok().or_else(|| {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(address.ip());
        }
        let (address, port) = match text.strip_prefix('[') {
            Some(rest) => {
                let (address, after) = rest.split_once(']')?;
                (IpAddr::V6(address.parse().ok()?), after.strip_prefix(':'))
            }
            None => {
                let (address, port) = text.split_once(':')?;
                (IpAddr::V4(address.parse().ok()?), Some(port))
            }
        };
        // Ports may be hidden behind a name too (RFC 7239, section 6).
        let bare = text.ends_with(']');
        (bare || port.is_some_and(|port| port.starts_with('_') && is_token(port)))
            .then_some(address)
    });
    address.map(|address: IpAddr| address.to_canonical())
}

fn scheme_of(text: &str) -> Option<Scheme> {
    if text.eq_ignore_ascii_case("https") {
        Some(Scheme::HTTPS)
    } else if text.eq_ignore_ascii_case("http") {
        Some(Scheme::HTTP)
    } else {
        None
    }
}

/// Host and port, without anything that a `Host` header does not have
fn authority_of(text: &str) -> Option<Authority> {
    let authority: Authority = text.parse().ok()?;
    (!authority.host().is_empty() && !text.contains('@')).then_some(authority)
}

fn is_in(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Request};
    use proptest::prelude::*;

    use super::*;

    fn parts(peer: Option<&str>, headers: &[(&'static str, &str)]) -> Parts {
        let mut request = Request::get("/v2/").body(()).unwrap();
        if let Some(peer) = peer {
            let peer: IpAddr = peer.parse().unwrap();
            request
                .extensions_mut()
                .insert(RemoteAddr(SocketAddr::new(peer, 4711)));
        }
        for (name, value) in headers {
            request
                .headers_mut()
                .append(*name, HeaderValue::from_str(value).unwrap());
        }
        request.into_parts().0
    }

    fn networks(texts: &[&str]) -> Vec<IpNet> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    /// Address, scheme and authority as text, behind a proxy on this machine
    fn seen(headers: &[(&'static str, &str)]) -> String {
        let trusted = networks(&["127.0.0.0/8", "10.0.0.0/8", "fd00::/8"]);
        let client = Client::of(&parts(Some("127.0.0.1"), headers), &trusted);
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
        format!(
            "{} {} {}",
            or_dash(client.address.map(|address| address.to_string())),
            or_dash(client.scheme.map(|scheme| scheme.to_string())),
            or_dash(client.authority.map(|authority| authority.to_string())),
        )
    }

    #[test]
    fn the_client_is_the_rightmost_that_is_not_trusted() {
        for (list, expected) in [
            ("192.0.2.7", "192.0.2.7 - -"),
            ("1.1.1.1, 192.0.2.7", "192.0.2.7 - -"),
            ("1.1.1.1, 192.0.2.7, 10.0.0.1,10.0.0.2", "192.0.2.7 - -"),
            ("10.0.0.9, 10.0.0.1", "10.0.0.9 - -"),
            ("192.0.2.7:443", "192.0.2.7 - -"),
            ("2001:db8::1", "2001:db8::1 - -"),
            ("[2001:db8::1]:443", "2001:db8::1 - -"),
            ("1.1.1.1, [2001:db8::1], fd00::1", "2001:db8::1 - -"),
            ("::ffff:192.0.2.7", "192.0.2.7 - -"),
            // What is no address ends the walk, with what was known before it.
            ("192.0.2.7, nonsense", "127.0.0.1 - -"),
            ("192.0.2.7, nonsense, 10.0.0.1", "10.0.0.1 - -"),
            ("192.0.2.7, ", "127.0.0.1 - -"),
            ("", "127.0.0.1 - -"),
        ] {
            assert_eq!(seen(&[("x-forwarded-for", list)]), expected, "{list}");
        }
        // Lines are one list.
        let lines = [
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-for", "10.0.0.1"),
        ];
        assert_eq!(seen(&lines), "192.0.2.7 - -");
    }

    #[test]
    fn scheme_and_host_are_those_of_the_same_hop() {
        let table: [(&[(&str, &str)], &str); 9] = [
            (&[("x-forwarded-proto", "https")], "127.0.0.1 https -"),
            (
                &[
                    ("x-forwarded-proto", "HTTPS"),
                    ("x-forwarded-host", "r.example:5000"),
                ],
                "127.0.0.1 https r.example:5000",
            ),
            // One proxy, and a client that made something up.
            (
                &[
                    ("x-forwarded-for", "1.1.1.1, 192.0.2.7"),
                    ("x-forwarded-proto", "http, https"),
                    ("x-forwarded-host", "evil.example, r.example"),
                ],
                "192.0.2.7 https r.example",
            ),
            // Two proxies that each add what they saw.
            (
                &[
                    ("x-forwarded-for", "192.0.2.7, 10.0.0.1"),
                    ("x-forwarded-proto", "https, http"),
                    ("x-forwarded-host", "r.example, inner"),
                ],
                "192.0.2.7 https r.example",
            ),
            // Two proxies, of which the inner one passes on what the outer one said.
            (
                &[
                    ("x-forwarded-for", "192.0.2.7, 10.0.0.1"),
                    ("x-forwarded-proto", "https"),
                ],
                "192.0.2.7 https -",
            ),
            (
                &[("x-real-ip", "192.0.2.7"), ("x-forwarded-proto", "gopher")],
                "192.0.2.7 - -",
            ),
            (
                &[("x-real-ip", "1.1.1.1"), ("x-forwarded-for", "192.0.2.7")],
                "192.0.2.7 - -",
            ),
            (&[("x-forwarded-host", "user@r.example")], "127.0.0.1 - -"),
            (&[("x-forwarded-host", "r.example/path")], "127.0.0.1 - -"),
        ];
        for (headers, expected) in table {
            assert_eq!(seen(headers), expected, "{headers:?}");
        }
    }

    #[test]
    fn the_standard_header_says_the_same() {
        for (line, expected) in [
            ("for=192.0.2.7", "192.0.2.7 - -"),
            (
                "For=\"[2001:db8::1]:4711\";PROTO=https;by=10.0.0.1;host=\"r.example:5000\"",
                "2001:db8::1 https r.example:5000",
            ),
            (
                "for=192.0.2.7;proto=https;host=r.example, for=10.0.0.1;proto=http",
                "192.0.2.7 https r.example",
            ),
            ("for=1.1.1.1;proto=https, for=192.0.2.7", "192.0.2.7 - -"),
            ("for=unknown;proto=https", "127.0.0.1 https -"),
            ("for=_hidden, for=10.0.0.1", "10.0.0.1 - -"),
            ("for=\"192.0.2.7:_x\"", "192.0.2.7 - -"),
            ("for=192.0.2.7;ext=\"a\\\"b,c\"", "192.0.2.7 - -"),
            // Out of grammar: it says nothing at all.
            ("for=192.0.2.7;for=1.1.1.1", "127.0.0.1 - -"),
            ("for=192.0.2.7 proto=https", "127.0.0.1 - -"),
            ("for=\"192.0.2.7", "127.0.0.1 - -"),
            ("for =192.0.2.7", "127.0.0.1 - -"),
            ("192.0.2.7", "127.0.0.1 - -"),
            ("for=[2001:db8::1]", "127.0.0.1 - -"),
            ("", "127.0.0.1 - -"),
        ] {
            assert_eq!(seen(&[("forwarded", line)]), expected, "{line}");
        }
        // Most proxies let this header pass unseen; theirs goes first.
        let both = [
            ("forwarded", "for=1.1.1.1;host=evil.example"),
            ("x-forwarded-for", "192.0.2.7"),
        ];
        assert_eq!(seen(&both), "192.0.2.7 - -");
    }

    const ALL: [(&str, &str); 5] = [
        ("x-forwarded-for", "1.1.1.1"),
        ("x-real-ip", "1.1.1.1"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-host", "evil.example"),
        ("forwarded", "for=1.1.1.1;proto=https;host=evil.example"),
    ];

    #[test]
    fn only_trusted_peers_are_believed() {
        let trusted = loopback();
        let alone = |peer: &str| Client {
            address: Some(peer.parse().unwrap()),
            ..Client::default()
        };
        assert_eq!(
            Client::of(&parts(Some("192.0.2.7"), &ALL), &trusted),
            alone("192.0.2.7")
        );
        assert_eq!(
            Client::of(&parts(Some("127.0.0.1"), &ALL), &[]),
            alone("127.0.0.1")
        );
        // A server that does not say where requests come from vouches for nobody.
        assert_eq!(Client::of(&parts(None, &ALL), &trusted), Client::default());
        let mut local = parts(None, &ALL);
        local.extensions.insert(UnixPeer);
        let client = Client::of(&local, &trusted);
        assert_eq!(client.address, Some([1, 1, 1, 1].into()));
        assert_eq!(client.scheme, Some(Scheme::HTTPS));
        for peer in ["127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            let client = Client::of(&parts(Some(peer), &ALL), &trusted);
            assert_eq!(client.address, Some([1, 1, 1, 1].into()), "{peer}");
        }
    }

    #[test]
    fn the_origin_is_what_the_client_used() {
        let origin = |request: http::request::Builder| {
            let parts = request.body(()).unwrap().into_parts().0;
            Client::default().origin(&parts)
        };
        let get = Request::get;
        assert_eq!(
            origin(get("/v2/").header("host", "r.example:5000")).as_deref(),
            Some("http://r.example:5000")
        );
        assert_eq!(
            origin(get("https://r.example/v2/")).as_deref(),
            Some("https://r.example")
        );
        assert_eq!(
            origin(get("/v2/").header("host", "r.example").extension(OverTls)).as_deref(),
            Some("https://r.example")
        );
        assert_eq!(origin(get("/v2/")), None);
        assert_eq!(origin(get("/v2/").header("host", "a@b/c")), None);
        let client = Client {
            scheme: Some(Scheme::HTTPS),
            ..Client::default()
        };
        let request = get("/v2/").header("host", "r.example").body(()).unwrap();
        assert_eq!(
            client.origin(&request.into_parts().0).as_deref(),
            Some("https://r.example")
        );
    }

    fn address() -> impl Strategy<Value = IpAddr> {
        prop_oneof![
            any::<[u8; 4]>().prop_map(IpAddr::from),
            any::<[u8; 16]>().prop_map(|bytes| IpAddr::from(bytes).to_canonical()),
        ]
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read(
            lines in prop::collection::vec((0..5usize, "[ -~\t\u{80}-\u{ff}]{0,60}"), 0..6)
        ) {
            let names = ALL.map(|(name, _)| name);
            let mut parts = parts(Some("127.0.0.1"), &[]);
            for (name, line) in lines {
                if let Ok(value) = HeaderValue::from_str(&line) {
                    parts.headers.append(names[name], value);
                }
            }
            let client = Client::of(&parts, &loopback());
            prop_assert!(client.address.is_some());
            if let Some(origin) = client.origin(&parts) {
                prop_assert!(origin.parse::<http::Uri>().is_ok(), "{}", origin);
            }
        }

        /// Whatever a client sends, its address is the one that the outermost trusted proxy saw
        #[test]
        fn nobody_can_pretend(
            invented in "[ -~]{0,60}",
            from in address(),
            inner in prop::collection::vec(any::<[u8; 3]>(), 0..4),
            standard: bool,
        ) {
            let trusted = networks(&["127.0.0.0/8", "10.0.0.0/8"]);
            prop_assume!(!is_in(&trusted, from));
            let hops = std::iter::once(from)
                .chain(inner.iter().map(|[b, c, d]| IpAddr::from([10, *b, *c, *d])));
            let list: Vec<String> = hops
                .map(|hop| match (standard, hop) {
                    (false, hop) => hop.to_string(),
                    (true, IpAddr::V4(hop)) => format!("for={hop}"),
                    (true, IpAddr::V6(hop)) => format!("for=\"[{hop}]\""),
                })
                .collect();
            let name = if standard { "forwarded" } else { "x-forwarded-for" };
            // Proxies that add a line of their own are safe from whatever quotes a client opens.
            let mut parts = parts(Some("127.0.0.1"), &[(name, &invented)]);
            parts.headers.append(name, list.join(", ").parse().unwrap());
            let address = Client::of(&parts, &trusted).address;
            let ignored = standard && elements_of(&invented).is_none();
            let expected = if ignored { [127, 0, 0, 1].into() } else { from };
            prop_assert_eq!(address, Some(expected));
        }
    }
}
