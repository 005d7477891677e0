//! Upload sessions: what was allowed when an upload began holds until it ends

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use registry_auth::Principal;
use registry_core::RepositoryName;
use registry_core::upload::UploadId;
use sha2::Sha256;
use uuid::Uuid;

/// The parameter of an upload's `Location` that has the seal
///
/// The specification's own parameters have no underscore, and distribution's is `_state`.
const PARAMETER: &str = "_session";

/// What the seal is a seal of, so that nothing else under the same secret passes for one
const PURPOSE: &[u8] = b"registry upload session 1";

/// The secret under which upload sessions are sealed
///
/// All replicas of a registry have the same, for an upload may go on at any of them. `Debug`
/// does not show it.
///
/// # Examples
///
/// ```
/// use registry_http::SessionSecret;
///
/// assert!(SessionSecret::new("correct horse battery staple").is_ok());
/// assert!(SessionSecret::new("horse").is_err());
/// ```
#[derive(Clone)]
pub struct SessionSecret(Hmac<Sha256>);

/// Why a text is no [`SessionSecret`]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a secret of at least {} bytes, got {length}; `openssl rand -hex 32` makes one",
    SessionSecret::MIN_LENGTH
)]
pub struct SessionSecretError {
    length: usize,
}

impl SessionSecret {
    /// How many bytes a secret has at least
    pub const MIN_LENGTH: usize = 16;

    /// The secret that an operator chose
    ///
    /// # Errors
    ///
    /// [`SessionSecretError`] when it has fewer than [`SessionSecret::MIN_LENGTH`] bytes.
    pub fn new(secret: impl AsRef<[u8]>) -> Result<Self, SessionSecretError> {
        let secret = secret.as_ref();
        match secret.len() {
            length if length < Self::MIN_LENGTH => Err(SessionSecretError { length }),
            _ => Ok(Self::keyed(secret)),
        }
    }

    /// A secret that nobody knows, for a registry that is one process
    ///
    /// After a restart, uploads that were under way need good credentials again, as without
    /// sessions.
    pub fn random() -> Self {
        let halves = [Uuid::new_v4(), Uuid::new_v4()];
        Self::keyed(&halves.map(Uuid::into_bytes).concat())
    }

    fn keyed(secret: &[u8]) -> Self {
        // HMAC is defined for keys of every length (RFC 2104, section 2).
        Self(Hmac::new_from_slice(secret).expect("every length is good"))
    }
}

impl fmt::Debug for SessionSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionSecret(***)")
    }
}

/// Seals uploads, and knows its own seals again
#[derive(Clone, Debug)]
pub(super) struct Sessions {
    pub(super) secret: SessionSecret,
    /// How long after its beginning a session can be gone on with
    pub(super) lifetime: Duration,
}

/// What a seal is about
#[derive(Clone, Copy)]
pub(super) struct Upload<'a> {
    pub(super) name: &'a RepositoryName,
    pub(super) id: &'a UploadId,
}

impl Sessions {
    /// The seal of an upload that begins now, as a query parameter
    ///
    /// `None` for whoever has no name: nobody could be told from anybody else later.
    pub(super) fn seal(&self, upload: Upload<'_>, principal: &Principal) -> Option<String> {
        self.seal_at(upload, principal, seconds(SystemTime::now()))
    }

    fn seal_at(&self, upload: Upload<'_>, principal: &Principal, start: u64) -> Option<String> {
        let mac = self.mac(upload, principal, start)?.finalize().into_bytes();
        let mac = URL_SAFE_NO_PAD.encode(mac);
        Some(format!("{PARAMETER}={start:x}.{mac}"))
    }

    /// The parameter of the query, if it seals this very upload for this very principal
    pub(super) fn find<'a>(
        &self,
        query: Option<&'a str>,
        upload: Upload<'_>,
        principal: &Principal,
    ) -> Option<&'a str> {
        self.find_at(query, upload, principal, seconds(SystemTime::now()))
    }

    fn find_at<'a>(
        &self,
        query: Option<&'a str>,
        upload: Upload<'_>,
        principal: &Principal,
        now: u64,
    ) -> Option<&'a str> {
        let is_seal = |parameter: &&str| {
            let rest = parameter.strip_prefix(PARAMETER);
            rest.is_some_and(|rest| rest.starts_with('='))
        };
        let parameter = query?.split('&').find(is_seal)?;
        let (_, value) = parameter.split_once('=')?;
        let (start, mac) = value.split_once('.')?;
        let start = u64::from_str_radix(start, 16).ok()?;
        let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
        // In constant time: how long it takes says nothing about the seal that would be right.
        self.mac(upload, principal, start)?
            .verify_slice(&mac)
            .ok()?;
        // The clock of the replica that sealed it may be ahead of this one's.
        let age = Duration::from_secs(now.saturating_sub(start));
        (age < self.lifetime).then_some(parameter)
    }

    fn mac(&self, upload: Upload<'_>, principal: &Principal, start: u64) -> Option<Hmac<Sha256>> {
        let (kind, who) = identity(principal)?;
        let mut mac = self.secret.0.clone();
        let id = upload.id.to_string();
        // Each part behind its length, so that no two lists of parts are the same bytes.
        for part in [
            PURPOSE,
            upload.name.as_str().as_bytes(),
            id.as_bytes(),
            kind.as_bytes(),
            who.as_bytes(),
        ] {
            mac.update(&(part.len() as u64).to_be_bytes());
            mac.update(part);
        }
        mac.update(&start.to_be_bytes());
        Some(mac)
    }
}

/// What tells one principal from all others: its kind and its name, if it has one
pub(super) fn identity(principal: &Principal) -> Option<(&'static str, &str)> {
    let kind = match principal {
        Principal::Service { .. } => "service",
        Principal::Token { .. } => "token",
        Principal::User { .. } => "user",
        // Of kinds that a newer registry-auth knows, nobody is told from anybody else.
        _ => return None,
    };
    Some((kind, principal.name()?))
}

fn seconds(time: SystemTime) -> u64 {
    // A clock before 1970 is one that is not set.
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use registry_auth::token::Grants;

    use super::*;

    const START: u64 = 1_800_000_000;

    fn under(secret: &str) -> Sessions {
        Sessions {
            secret: SessionSecret::new(secret).unwrap(),
            lifetime: Duration::from_secs(3600),
        }
    }

    fn id(byte: u8) -> UploadId {
        UploadId::from_random_bytes([byte; 16])
    }

    #[test]
    fn a_seal_holds_for_what_it_was_made_for_and_for_nothing_else() {
        let (app, other): (RepositoryName, RepositoryName) =
            ("team/app".parse().unwrap(), "team/ap".parse().unwrap());
        let (one, two) = (id(1), id(2));
        let upload = Upload {
            name: &app,
            id: &one,
        };
        let ada = Principal::user("ada");
        let sessions = under("correct horse battery");
        let seal = sessions.seal_at(upload, &ada, START).unwrap();

        let find = |query: &str, upload, principal: &Principal, now| {
            let found = sessions.find_at(Some(query), upload, principal, now);
            found.map(str::to_owned)
        };
        let query = format!("a=b&{seal}&digest=sha256:x");
        assert_eq!(find(&query, upload, &ada, START), Some(seal.clone()));
        assert_eq!(find(&query, upload, &ada, START + 3599), Some(seal.clone()));
        // The roles may have changed meanwhile.
        let promoted = Principal::user("ada").with_roles(["Admin"]);
        assert_eq!(find(&query, upload, &promoted, START), Some(seal.clone()));
        // The clock of another replica is behind.
        assert_eq!(find(&query, upload, &ada, START - 30), Some(seal.clone()));

        assert_eq!(find(&query, upload, &ada, START + 3600), None);
        for (name, id) in [(&app, &two), (&other, &one)] {
            assert_eq!(find(&query, Upload { name, id }, &ada, START), None);
        }
        let token = |subject: Option<&str>| Principal::Token {
            subject: subject.map(str::to_owned),
            grants: Grants::default(),
        };
        for stranger in [
            Principal::user("bob"),
            Principal::service("ada"),
            token(Some("ada")),
            token(None),
            Principal::Anonymous,
        ] {
            assert_eq!(find(&query, upload, &stranger, START), None);
        }
        let elsewhere = under("battery horse correct");
        assert_eq!(elsewhere.find_at(Some(&seal), upload, &ada, START), None);
    }

    #[test]
    fn nothing_but_the_seal_itself_is_one() {
        let app: RepositoryName = "app".parse().unwrap();
        let one = id(1);
        let upload = Upload {
            name: &app,
            id: &one,
        };
        let ada = Principal::user("ada");
        let sessions = under("correct horse battery");
        let seal = sessions.seal_at(upload, &ada, START).unwrap();
        let later = seal.replacen(&format!("{START:x}"), &format!("{:x}", START + 1), 1);
        assert_ne!(later, seal);
        for forged in [
            &later,
            &seal[..seal.len() - 1],
            &seal[..seal.len() - 8],
            &seal.replace('.', ""),
            &seal.replace('=', "=+"),
            "_session",
            "_session=",
            "_session=.",
            &format!("x{seal}"),
            &format!("_session=x&{seal}"),
        ] {
            assert_eq!(
                sessions.find_at(Some(forged), upload, &ada, START),
                None,
                "{forged}"
            );
        }
        assert_eq!(sessions.find_at(None, upload, &ada, START), None);
        // Every bit of it counts.
        let value = seal.find('.').unwrap() + 1;
        let mac = URL_SAFE_NO_PAD.decode(&seal[value..]).unwrap();
        for bit in 0..mac.len() * 8 {
            let mut forged = mac.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let forged = format!("{}{}", &seal[..value], URL_SAFE_NO_PAD.encode(forged));
            assert_eq!(sessions.find_at(Some(&forged), upload, &ada, START), None);
        }
    }

    #[test]
    fn nobody_without_a_name_gets_a_seal() {
        let app: RepositoryName = "app".parse().unwrap();
        let one = id(1);
        let upload = Upload {
            name: &app,
            id: &one,
        };
        let nameless = Principal::Token {
            subject: None,
            grants: Grants::default(),
        };
        for principal in [Principal::Anonymous, nameless] {
            let sessions = under("correct horse battery");
            assert_eq!(sessions.seal_at(upload, &principal, START), None);
        }
    }

    #[test]
    fn the_secret_is_long_enough_and_is_not_shown() {
        let error = SessionSecret::new("0123456789abcde").unwrap_err();
        assert!(error.to_string().contains("at least 16 bytes, got 15"));
        let secret = SessionSecret::new("0123456789abcdef").unwrap();
        assert_eq!(format!("{secret:?}"), "SessionSecret(***)");
        let app: RepositoryName = "app".parse().unwrap();
        let one = id(1);
        let upload = Upload {
            name: &app,
            id: &one,
        };
        let seal = |secret| {
            let lifetime = Duration::from_secs(1);
            let sessions = Sessions { secret, lifetime };
            sessions.seal_at(upload, &Principal::user("ada"), START)
        };
        assert_ne!(seal(SessionSecret::random()), seal(SessionSecret::random()));
    }
}
