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

/// A resolver that finds only public addresses, except for hosts that are trusted
///
/// Asked again for each connection, so that a name cannot be public when it is looked at and private when it
/// is used.
#[derive(Clone)]
pub(crate) struct PublicOnly {
    pub(crate) trusted: Arc<HashSet<String>>,
    inner: GaiResolver,
}

impl PublicOnly {
    pub(crate) fn new(trusted: HashSet<String>) -> Self {
        Self {
            trusted: Arc::new(trusted),
            inner: GaiResolver::new(),
        }
    }

    /// Whether a host may be asked, as far as its name shows it: addresses are not resolved
    pub(crate) fn admits(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match host.parse() {
            Ok(address) => self.trusts(host) || is_public(address),
            Err(_) => true,
        }
    }

    pub(crate) fn trusts(&self, host: &str) -> bool {
        self.trusted.contains(&host.to_ascii_lowercase())
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
        let trusted = self.trusts(name.as_str());
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
                || (first == 198 && (18..20).contains(&second)))
        }
        // Only global unicast addresses, without those that lead into IPv4 or are for documents.
        IpAddr::V6(address) => {
            let segments = address.segments();
            segments[0] & 0xe000 == 0x2000
                && segments[0] != 0x2002
                && !(segments[0] == 0x2001 && (segments[1] == 0 || segments[1] == 0xdb8))
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
        ] {
            assert_eq!(is_public(address.parse().unwrap()), public, "{address}");
        }
    }

    #[test]
    fn an_address_must_be_public_or_trusted() {
        let resolver = PublicOnly::new(["10.0.0.1".to_owned()].into());
        assert!(resolver.admits("10.0.0.1") && resolver.admits("1.1.1.1"));
        assert!(!resolver.admits("10.0.0.2") && !resolver.admits("[::1]"));
    }
}
