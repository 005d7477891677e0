//! How the proxy logs in to its upstream: by password, or by the tokens that the upstream's challenge asks for

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Scheme;
use http::{Request, StatusCode, Uri};
use registry_auth::Password;
use registry_core::page::percent_encode;
use serde::Deserialize;

use super::error::UpstreamError;
use super::upstream::{Upstream, UpstreamSetupError};

/// The most bytes that a token service's answer may have
const MAX_ANSWER: usize = 1 << 20;

/// How many tokens are kept, each for other repositories or actions
const MAX_TOKENS: usize = 4096;

/// How long a token is good for whose service does not say it (Docker token specification)
const DEFAULT_LIFETIME: u64 = 60;

/// How long before its end a token is no longer used, so that it does not end on its way
const MARGIN: Duration = Duration::from_secs(10);

/// Where tokens may come from
#[derive(Debug)]
pub(super) struct Realms {
    /// The scheme of the upstream: passwords do not leave TLS once they are in it
    pub(super) own: Scheme,
    pub(super) authority: String,
    /// Besides the upstream, in lower case
    pub(super) trusted: Vec<String>,
}

impl Realms {
    fn trust(&self, realm: &Uri) -> bool {
        let known = match realm.scheme() {
            Some(scheme) if *scheme == Scheme::HTTPS => true,
            Some(scheme) if *scheme == Scheme::HTTP => self.own == Scheme::HTTP,
            _ => false,
        };
        realm.authority().is_some_and(|authority| {
            let authority = authority.as_str().to_ascii_lowercase();
            known && (authority == self.authority || self.trusted.contains(&authority))
        })
    }
}

/// What the upstream wants to see
#[derive(Clone, Debug, PartialEq, Eq)]
enum Challenge {
    /// A name and a password, if there are any
    Basic,
    /// A token
    Bearer {
        realm: String,
        service: Option<String>,
    },
}

struct Token {
    header: HeaderValue,
    until: Instant,
}

type Slot = Arc<tokio::sync::Mutex<Option<Token>>>;

/// The proxy's account at its upstream
pub(super) struct Login {
    basic: Option<HeaderValue>,
    realms: Realms,
    challenge: Mutex<Option<Challenge>>,
    /// Held by the one that asks for the challenge, so that it is asked for once
    asking: tokio::sync::Mutex<()>,
    tokens: Mutex<HashMap<String, Slot>>,
}

impl Login {
    pub(super) fn new(
        credentials: Option<(String, Password)>,
        realms: Realms,
    ) -> Result<Self, UpstreamSetupError> {
        let basic = match credentials {
            None => None,
            Some((user, password)) => {
                let clean = !user.contains(':')
                    && !format!("{user}{}", password.expose()).contains(char::is_control);
                if !clean {
                    return Err(UpstreamSetupError::User);
                }
                let pair = STANDARD.encode(format!("{user}:{}", password.expose()));
                Some(sensitive(&format!("Basic {pair}")).ok_or(UpstreamSetupError::User)?)
            }
        };
        Ok(Self {
            basic,
            realms,
            challenge: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
            tokens: Mutex::default(),
        })
    }

    /// What a request for `scope` says of who sends it
    pub(super) async fn authorization(
        &self,
        upstream: &Upstream,
        scope: &str,
    ) -> Result<Option<HeaderValue>, UpstreamError> {
        match self.challenge(upstream).await? {
            Challenge::Basic => Ok(self.basic.clone()),
            Challenge::Bearer { realm, service } => {
                let slot = self.slot(scope);
                // Whoever waits here gets the token that another is asking for.
                let mut token = slot.lock().await;
                if let Some(token) = &*token
                    && token.until > Instant::now()
                {
                    return Ok(Some(token.header.clone()));
                }
                let new = self
                    .token(upstream, &realm, service.as_deref(), scope)
                    .await?;
                Ok(Some(token.insert(new).header.clone()))
            }
        }
    }

    /// Learns from a 401; returns whether another attempt may go better
    pub(super) fn refused(&self, headers: &HeaderMap, scope: &str, had_credentials: bool) -> bool {
        let new = challenge_of(headers);
        let mut known = lock(&self.challenge);
        let had_token = matches!(*known, Some(Challenge::Bearer { .. }));
        let changed = *known != new;
        *known = new.clone();
        drop(known);
        // A token may have ended, or been withdrawn, before its time.
        lock(&self.tokens).remove(scope);
        match new {
            Some(Challenge::Bearer { .. }) => changed || had_token,
            Some(Challenge::Basic) => self.basic.is_some() && (had_token || !had_credentials),
            None => false,
        }
    }

    async fn challenge(&self, upstream: &Upstream) -> Result<Challenge, UpstreamError> {
        if let Some(challenge) = lock(&self.challenge).clone() {
            return Ok(challenge);
        }
        let _asking = self.asking.lock().await;
        if let Some(challenge) = lock(&self.challenge).clone() {
            return Ok(challenge);
        }
        let mut request = Request::new(());
        *request.uri_mut() = upstream.uri(&upstream.path("/v2/"))?;
        let (status, headers, _) = upstream.read(request, MAX_ANSWER).await?;
        let challenge = match status {
            StatusCode::UNAUTHORIZED => challenge_of(&headers).ok_or_else(|| {
                UpstreamError::NotARegistry(
                    "it answered 401 without a `WWW-Authenticate` of Basic or Bearer".into(),
                )
            })?,
            // Anonymous users may look around, and the proxy is none.
            status if status.is_success() => Challenge::Basic,
            status if status.is_server_error() => {
                return Err(UpstreamError::Status {
                    status,
                    retry_after: None,
                });
            }
            status => {
                let text = format!("it answered `GET /v2/` with {status}");
                return Err(UpstreamError::NotARegistry(text.into()));
            }
        };
        *lock(&self.challenge) = Some(challenge.clone());
        Ok(challenge)
    }

    fn slot(&self, scope: &str) -> Slot {
        let mut tokens = lock(&self.tokens);
        if tokens.len() >= MAX_TOKENS && !tokens.contains_key(scope) {
            let now = Instant::now();
            tokens.retain(|_, slot| match slot.try_lock() {
                Ok(token) => token.as_ref().is_some_and(|token| token.until > now),
                Err(_) => true,
            });
            if tokens.len() >= MAX_TOKENS {
                tokens.clear();
            }
        }
        tokens.entry(scope.to_owned()).or_default().clone()
    }

    async fn token(
        &self,
        upstream: &Upstream,
        realm: &str,
        service: Option<&str>,
        scope: &str,
    ) -> Result<Token, UpstreamError> {
        let elsewhere = |why: &str| {
            let shown: String = realm
                .chars()
                .take(200)
                .flat_map(char::escape_debug)
                .collect();
            let text = format!(
                "it sends to the token service `{shown}`, {why}; add its host to those that are trusted if it is meant to be"
            );
            UpstreamError::Elsewhere(text.into())
        };
        let uri: Uri = realm.parse().map_err(|_| elsewhere("which is no URL"))?;
        if !self.realms.trust(&uri) {
            return Err(elsewhere("which is not trusted"));
        }
        let mut target = realm.to_owned();
        let mut separator = if uri.query().is_some() { '&' } else { '?' };
        let scopes = scope.split(' ').filter(|scope| !scope.is_empty());
        for (name, value) in service
            .map(|service| ("service", service))
            .into_iter()
            .chain(scopes.map(|scope| ("scope", scope)))
        {
            target.push(separator);
            target.push_str(&format!("{name}={}", percent_encode(value)));
            separator = '&';
        }
        let mut request = Request::new(());
        *request.uri_mut() = target.parse().map_err(|_| elsewhere("which is no URL"))?;
        if let Some(basic) = &self.basic {
            let headers = request.headers_mut();
            headers.insert(header::AUTHORIZATION, basic.clone());
        }
        let begun = Instant::now();
        let (status, _, body) = upstream.read(request, MAX_ANSWER).await?;
        match status {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let text = format!("its token service answered {status}");
                return Err(UpstreamError::Credentials(text.into()));
            }
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                return Err(UpstreamError::Status {
                    status,
                    retry_after: None,
                });
            }
            status => {
                let text = format!("its token service answered {status}");
                return Err(UpstreamError::NotARegistry(text.into()));
            }
        }
        #[derive(Deserialize)]
        struct Issued {
            token: Option<String>,
            access_token: Option<String>,
            expires_in: Option<u64>,
        }
        // What is wrong with it is not repeated: it may be a token.
        let malformed = || UpstreamError::NotARegistry("its token service sent no token".into());
        let issued: Issued = serde_json::from_slice(&body).map_err(|_| malformed())?;
        let token = issued.token.filter(|token| !token.is_empty());
        let token = token.or(issued.access_token).ok_or_else(malformed)?;
        let lifetime = Duration::from_secs(issued.expires_in.unwrap_or(DEFAULT_LIFETIME));
        let margin = MARGIN.min(lifetime / 4);
        Ok(Token {
            header: sensitive(&format!("Bearer {token}")).ok_or_else(malformed)?,
            until: begun + lifetime.min(Duration::from_secs(24 * 3600)) - margin,
        })
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a 401 asks for; Bearer where there is a choice, as the registries that offer both prefer it
fn challenge_of(headers: &HeaderMap) -> Option<Challenge> {
    let mut basic = false;
    for line in headers.get_all(header::WWW_AUTHENTICATE) {
        for (scheme, parameters) in challenges(line.to_str().unwrap_or_default()) {
            if scheme.eq_ignore_ascii_case("basic") {
                basic = true;
            } else if scheme.eq_ignore_ascii_case("bearer") {
                let value = |name: &str| {
                    let found = parameters.iter().find(|(known, _)| known == name);
                    found.map(|(_, value)| value.clone())
                };
                if let Some(realm) = value("realm") {
                    return Some(Challenge::Bearer {
                        realm,
                        service: value("service"),
                    });
                }
            }
        }
    }
    basic.then_some(Challenge::Basic)
}

/// The challenges of one line (RFC 9110, section 11.6.1): schemes with their parameters
fn challenges(line: &str) -> Vec<(String, Vec<(String, String)>)> {
    let mut found: Vec<(String, Vec<(String, String)>)> = Vec::new();
    let mut rest = line.trim_start();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c == ',' || c.is_whitespace());
        let (word, after) = rest.split_at(end.unwrap_or(rest.len()));
        let after = after.trim_start();
        match after.strip_prefix('=').filter(|_| !found.is_empty()) {
            Some(value) => {
                let (value, after) = value_of(value.trim_start());
                if let Some((_, parameters)) = found.last_mut() {
                    parameters.push((word.to_ascii_lowercase(), value));
                }
                rest = after;
            }
            None => {
                if !word.is_empty() {
                    found.push((word.to_owned(), Vec::new()));
                }
                rest = after.trim_start_matches('=');
            }
        }
        rest = rest.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
    }
    found
}

/// A token or a quoted string, and what follows it
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c == ',' || c.is_whitespace());
        let (token, rest) = text.split_at(end.unwrap_or(text.len()));
        return (token.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((index, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[index + 1..]),
            '\\' => value.extend(characters.next().map(|(_, character)| character)),
            character => value.push(character),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(lines: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(line));
        }
        challenge_of(&headers)
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer {
                realm: realm.to_owned(),
                service: service.map(str::to_owned),
            })
        };
        for (lines, expected) in [
            (
                vec![r#"Basic realm="Nexus, \"the\" one""#],
                Some(Challenge::Basic),
            ),
            (vec!["BASIC realm=x"], Some(Challenge::Basic)),
            (
                vec![
                    r#"Bearer realm="https://a/token",service="r.example",scope="repository:a:pull,push""#,
                ],
                bearer("https://a/token", Some("r.example")),
            ),
            (
                vec![r#"Basic realm="x", bearer service="s", realm="https://a/t?x=1""#],
                bearer("https://a/t?x=1", Some("s")),
            ),
            (
                vec![r#"Basic realm="x""#, "Bearer realm=y"],
                bearer("y", None),
            ),
            (vec!["Bearer"], None),
            (vec!["Negotiate"], None),
            (vec!["", "=", ",,", "\"", "Bearer realm"], None),
            (vec![], None),
        ] {
            assert_eq!(asked(&lines), expected, "{lines:?}");
        }
    }

    #[test]
    fn only_the_upstream_and_trusted_hosts_issue_tokens() {
        let realms = |own: Scheme| Realms {
            own,
            authority: "r.example:5000".to_owned(),
            trusted: vec!["auth.example".to_owned()],
        };
        for (realm, https, http) in [
            ("https://r.example:5000/token", true, true),
            ("https://R.example:5000/token", true, true),
            ("https://auth.example/token", true, true),
            ("http://r.example:5000/token", false, true),
            ("https://r.example/token", false, false),
            ("https://r.example:5001/token", false, false),
            ("https://evil.example/token", false, false),
            ("https://r.example:5000@evil.example/token", false, false),
            ("https://r.example:5000.evil.example/", false, false),
            ("/token", false, false),
            ("ftp://r.example:5000/token", false, false),
        ] {
            let Ok(uri) = realm.parse::<Uri>() else {
                assert!(!https, "{realm}");
                continue;
            };
            assert_eq!(realms(Scheme::HTTPS).trust(&uri), https, "{realm}");
            assert_eq!(realms(Scheme::HTTP).trust(&uri), http, "{realm}");
        }
    }
}
