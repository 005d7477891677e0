//! Where the upstream says that a blob is: followed, or passed on to the client

use http::header::{self, HeaderMap};
use http::uri::Scheme;
use http::{Method, Request, Uri};

use super::connector::same_place;
use super::error::UpstreamError;
use super::upstream::{Answer, Upstream};

/// How many redirects are followed, one after the other
const MAX_REDIRECTS: usize = 5;

/// What becomes of a redirect to where a blob is stored
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Redirects {
    /// The proxy fetches the blob and sends it on; the default
    ///
    /// For clients that reach nothing but the proxy. It goes nowhere but over TLS to public addresses, and to hosts
    /// that are named ([`UpstreamOptions::trusted_storage`](super::UpstreamOptions::trusted_storage)), and
    /// without credentials.
    #[default]
    Follow,
    /// The client goes there by itself
    ///
    /// Only a whole URL of `https`, or of a host that is named, is passed on; one of the upstream itself is
    /// followed, for the client is not to know where that is.
    Pass,
}

/// Where a redirect led
pub(crate) enum Led {
    Answer(Answer),
    Away(Uri),
}

/// Goes where the upstream's answer redirects to
pub(crate) async fn follow(
    upstream: &Upstream,
    redirects: Redirects,
    method: &Method,
    headers: &HeaderMap,
    answered: &HeaderMap,
) -> Result<Led, UpstreamError> {
    let mut at = upstream.uri("/")?;
    let mut next = target(&at, answered)?;
    for hop in 0..MAX_REDIRECTS {
        check(upstream, &at, &next)?;
        if hop == 0 && redirects == Redirects::Pass && !is_own(upstream, &next) {
            return Ok(Led::Away(next));
        }
        if !upstream.inner.storage_rules.admits(&next) {
            return Err(elsewhere(
                "it redirects to an address that is not public, or to another port of a host that is trusted for one",
            ));
        }
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        *request.uri_mut() = next.clone();
        for name in [header::RANGE, header::IF_RANGE, header::USER_AGENT] {
            if let Some(value) = headers.get(&name) {
                request.headers_mut().insert(name, value.clone());
            }
        }
        let answer = upstream.fetch(request).await?;
        if !is_redirect(answer.response.status().as_u16()) {
            return Ok(Led::Answer(answer));
        }
        at = next;
        next = target(&at, answer.response.headers())?;
    }
    Err(elsewhere("it redirects without end"))
}

pub(crate) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

fn target(at: &Uri, answered: &HeaderMap) -> Result<Uri, UpstreamError> {
    let location = answered
        .get(header::LOCATION)
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| elsewhere("it redirects and does not say where to"))?;
    let uri: Uri = location
        .parse()
        .map_err(|_| elsewhere("it redirects to something that is no URL"))?;
    if uri.authority().is_some() && uri.scheme().is_some() {
        return Ok(uri);
    }
    if !location.starts_with('/') || location.starts_with("//") {
        return Err(elsewhere(
            "it redirects to something that is neither URL nor path",
        ));
    }
    let mut parts = at.clone().into_parts();
    parts.path_and_query = uri.path_and_query().cloned();
    Uri::from_parts(parts).map_err(|_| elsewhere("it redirects to something that is no URL"))
}

fn check(upstream: &Upstream, at: &Uri, next: &Uri) -> Result<(), UpstreamError> {
    let authority = next.authority().map_or("", |authority| authority.as_str());
    if authority.contains('@') {
        return Err(elsewhere("it redirects to a URL with a user in it"));
    }
    let trusted = upstream.inner.storage_rules.trusts(next);
    let is_https = next.scheme() == Some(&Scheme::HTTPS);
    // Who came over TLS does not leave it.
    let downgrade = at.scheme() == Some(&Scheme::HTTPS) && !is_https && is_host(upstream, next);
    if is_https || (trusted && next.scheme() == Some(&Scheme::HTTP) && !downgrade) {
        return Ok(());
    }
    Err(elsewhere(
        "it redirects to something else than `https`; name the host as trusted storage if it is meant to",
    ))
}

fn is_own(upstream: &Upstream, uri: &Uri) -> bool {
    let own = upstream.uri("/");
    own.is_ok_and(|own| same_place(&own, uri))
}

/// Whether it is the upstream's machine, at whatever port
fn is_host(upstream: &Upstream, uri: &Uri) -> bool {
    let own = upstream.inner.authority.host();
    uri.host()
        .is_some_and(|host| host.eq_ignore_ascii_case(own))
}

fn elsewhere(why: &str) -> UpstreamError {
    UpstreamError::Elsewhere(why.into())
}
