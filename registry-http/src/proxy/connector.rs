//! Connections to the upstream: never waited for without end, and for redirects, never to where only this
//! machine can go

use std::collections::HashSet;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::Authority;
use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

use super::error::Source;

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A connector that gives up after a while, whatever it is at: names, TCP or TLS
#[derive(Clone)]
pub(crate) struct Timed<C> {
    inner: C,
    timeout: Duration,
}

impl<C> Timed<C> {
    pub(crate) fn new(inner: C, timeout: Duration) -> Self {
        Self { inner, timeout }
    }
}

/// A connection was not made in time
#[derive(Debug, thiserror::Error)]
#[error("no connection within {} ms", .0.as_millis())]
pub(crate) struct ConnectTimedOut(Duration);

impl<C> Service<Uri> for Timed<C>
where
    C: Service<Uri, Error = Source>,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = Source;
    type Future = Boxed<Result<C::Response, Source>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Source>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let timeout = self.timeout;
        let connecting = self.inner.call(uri);
        Box::pin(async move {
            match tokio::time::timeout(timeout, connecting).await {
                Ok(result) => result,
                Err(_) => Err(ConnectTimedOut(timeout).into()),
            }
        })
    }
}

/// Where the upstream may send the proxy though it is not on the open internet
///
/// Hosts at any port, and hosts at one.
#[derive(Debug, Default)]
pub(crate) struct Places(HashSet<(String, Option<u16>)>);

impl Places {
    pub(crate) fn add(&mut self, authority: &Authority) {
        self.0
            .insert((bare(authority.host()), authority.port_u16()));
    }

    /// A host at this very port, which no other of its ports is trusted for
    pub(crate) fn add_at(&mut self, host: &str, port: u16) {
        self.0.insert((bare(host), Some(port)));
    }

    fn has(&self, host: &str, port: Option<u16>) -> bool {
        let host = bare(host);
        self.0.contains(&(host.clone(), None)) || port.is_some() && self.0.contains(&(host, port))
    }

    fn has_some_port_of(&self, host: &str) -> bool {
        let host = bare(host);
        self.0.iter().any(|(known, _)| *known == host)
    }
}

/// A host in its one spelling: lower case, and addresses without brackets
fn bare(host: &str) -> String {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    match host.parse::<IpAddr>() {
        Ok(address) => address.to_canonical().to_string(),
        Err(_) => host.trim_end_matches('.').to_ascii_lowercase(),
    }
}

/// The port of a URL, said or not
pub(crate) fn port_of(uri: &Uri) -> Option<u16> {
    uri.port_u16().or_else(|| match uri.scheme_str() {
        Some("http") => Some(80),
        Some("https") => Some(443),
        _ => None,
    })
}

/// Whether two URLs are of the same host and port, however that is written
pub(crate) fn same_place(one: &Uri, other: &Uri) -> bool {
    let place = |uri: &Uri| Some((bare(uri.host()?), port_of(uri)?));
    place(one).is_some_and(|one| place(other) == Some(one))
}

/// A resolver that finds only public addresses, except for hosts that are trusted
///
/// Asked again for each connection, so that a name cannot be public when it is looked at and private when it
/// is used.
#[derive(Clone)]
pub(crate) struct PublicOnly {
    places: Arc<Places>,
    inner: GaiResolver,
}

impl PublicOnly {
    pub(crate) fn new(places: Places) -> Self {
        Self {
            places: Arc::new(places),
            inner: GaiResolver::new(),
        }
    }

    /// Whether a place may be asked, as far as its URL shows it: names are resolved when it is connected to
    pub(crate) fn admits(&self, uri: &Uri) -> bool {
        let host = uri.host().unwrap_or_default();
        if self.trusts(uri) {
            return true;
        }
        match bare(host).parse() {
            Ok(address) => is_public(address),
            // The resolver knows no ports: of a host that is trusted for one, the others are not admitted.
            Err(_) => !self.places.has_some_port_of(host),
        }
    }

    pub(crate) fn trusts(&self, uri: &Uri) -> bool {
        let host = uri.host().unwrap_or_default();
        self.places.has(host, port_of(uri))
    }
}

impl Service<Name> for PublicOnly {
    type Response = std::vec::IntoIter<SocketAddr>;
    type Error = io::Error;
    type Future = Boxed<io::Result<Self::Response>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let trusted = self.places.has_some_port_of(name.as_str());
        let found = self.inner.call(name);
        Box::pin(async move {
            let addresses: Vec<_> = found
                .await?
                .filter(|address| trusted || is_public(address.ip()))
                .collect();
            if addresses.is_empty() {
                return Err(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    "the host has no public address, and is not among those that are trusted",
                ));
            }
            Ok(addresses.into_iter())
        })
    }
}

/// Whether an address is one of the open internet
fn is_public(address: IpAddr) -> bool {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            let [first, second, third, _] = address.octets();
            !(address.is_private()
                || address.is_loopback()
                || address.is_link_local()
                || address.is_unspecified()
                || address.is_multicast()
                || address.is_broadcast()
                || address.is_documentation()
                || first == 0
                || first >= 240
                || (first == 100 && (64..128).contains(&second))
                || (first == 192 && second == 0 && third == 0)
                || (first == 192 && second == 88 && third == 99)
                || (first == 198 && (18..20).contains(&second)))
        }
        // Only global unicast addresses, without those that lead into IPv4 or are for documents.
        IpAddr::V6(address) => {
            let segments = address.segments();
            segments[0] & 0xe000 == 0x2000
                && segments[0] != 0x2002
                && !(segments[0] == 0x2001 && (segments[1] < 0x200 || segments[1] == 0xdb8))
                && !(segments[0] == 0x3fff && segments[1] < 0x1000)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_open_internet_are_public() {
        for (address, public) in [
            ("1.1.1.1", true),
            ("2606:4700::1", true),
            ("10.1.2.3", false),
            ("100.64.0.1", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("172.31.0.1", false),
            ("192.168.0.1", false),
            ("198.18.0.1", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("::1", false),
            ("::ffff:127.0.0.1", false),
            ("fd00:ec2::254", false),
            ("fe80::1", false),
            ("2002:7f00:1::", false),
            ("64:ff9b::7f00:1", false),
            ("::127.0.0.1", false),
            ("2001:10::1", false),
            ("3fff:1::1", false),
            ("192.88.99.1", false),
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }

    #[test]
    fn an_address_must_be_public_or_trusted() {
        let mut places = Places::default();
        for place in ["10.0.0.1", "minio:9000", "[fd00::1]:9000"] {
            places.add(&place.parse().unwrap());
        }
        places.add_at("Nexus.example", 8082);
        let resolver = PublicOnly::new(places);
        for (url, trusted, admitted) in [
            ("http://10.0.0.1/", true, true),
            ("http://10.0.0.1:9200/", true, true),
            // The same address in the clothes of IPv6.
            ("http://[::ffff:10.0.0.1]/", true, true),
            ("https://1.1.1.1/", false, true),
            ("https://10.0.0.2/", false, false),
            ("https://[::1]/", false, false),
            ("https://[::ffff:169.254.169.254]/", false, false),
            ("https://[::ffff:a9fe:a9fe]/", false, false),
            ("http://minio:9000/", true, true),
            ("http://MINIO:9000/", true, true),
            ("http://minio.:9000/", true, true),
            // The console beside the storage.
            ("https://minio:9001/", false, false),
            ("https://minio/", false, false),
            ("http://[fd00::1]:9000/", true, true),
            ("https://[fd00:0:0::1]:9001/", false, false),
            ("http://nexus.example:8082/", true, true),
            ("https://nexus.example:8081/", false, false),
            // A name, of which the resolver sees what it leads to.
            ("https://storage.example/", false, true),
            ("https://127.1/", false, true),
            ("https://0x7f000001/", false, true),
        ] {
            let uri: Uri = url.parse().unwrap();
            assert_eq!(resolver.trusts(&uri), trusted, "{url}");
            assert_eq!(resolver.admits(&uri), admitted, "{url}");
        }
    }

    #[tokio::test]
    async fn a_name_that_leads_to_this_machine_is_refused_when_it_is_resolved() {
        let mut resolver = PublicOnly::new(Places::default());
        for name in ["localhost", "127.1", "0x7f000001", "2130706433"] {
            let name: Name = name.parse().unwrap();
            let found = resolver.call(name.clone()).await;
            assert!(found.is_err(), "{name}");
        }
        let mut places = Places::default();
        places.add(&"localhost".parse().unwrap());
        let mut resolver = PublicOnly::new(places);
        let found = resolver.call("localhost".parse().unwrap()).await.unwrap();
        assert!(found.count() > 0);
    }

    #[test]
    fn a_place_is_the_same_however_it_is_written() {
        for (one, other, same) in [
            ("https://r.example/", "https://R.Example:443/x", true),
            ("http://r.example/", "http://r.example:80/", true),
            ("http://r.example/", "https://r.example/", false),
            ("http://[::1]:80/", "http://[0:0::1]/", true),
            ("http://r.example:81/", "http://r.example/", false),
            ("http://r.example/", "/path", false),
        ] {
            let [one, other]: [Uri; 2] = [one, other].map(|text| text.parse().unwrap());
            assert_eq!(same_place(&one, &other), same, "{one} {other}");
        }
    }
}
