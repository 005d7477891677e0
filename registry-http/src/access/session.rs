//! Upload sessions: what was allowed when an upload began holds until it ends

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use registry_auth::Principal;
use registry_core::RepositoryName;
use registry_core::upload::UploadId;
use registry_storage::{SessionKey, SessionKeyId, StorageError, Store};
use sha2::Sha256;
use tokio::sync::OnceCell;
use uuid::Uuid;

/// The parameter of an upload's `Location` that has the seal
///
/// The specification's own parameters have no underscore, and distribution's is `_state`.
const PARAMETER: &str = "_session";

/// What the seal is a seal of, so that nothing else under the same secret passes for one
const PURPOSE: &[u8] = b"registry upload session 1";

/// What the name of a secret is a seal of; no list of parts is this
const NAME: &[u8] = b"registry upload session: which secret";

/// The secret under which upload sessions are sealed
///
/// All replicas of a registry have the same, for an upload may go on at any of them.
/// [`SessionSecret::in_storage`] sees to that. `Debug` does not show it.
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
pub struct SessionSecret(Source);

#[derive(Clone)]
enum Source {
    /// One that this process was told, or made up
    Own(Arc<Key>),
    /// Those in the storage
    Shared(Arc<Shared>),
}

/// What seals, and the name by which another process knows it
struct Key {
    id: String,
    mac: Hmac<Sha256>,
}

struct Shared {
    store: Store,
    /// The one that this process seals with
    own: OnceCell<Arc<Key>>,
    /// Others in the storage that were needed so far
    others: Mutex<HashMap<SessionKeyId, Arc<Key>>>,
}

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
            _ => Ok(Self::own(secret)),
        }
    }

    /// A secret that nobody knows, for a registry that is one process
    ///
    /// After a restart, uploads that were under way need good credentials again, as without
    /// sessions.
    pub fn random() -> Self {
        let halves = [Uuid::new_v4(), Uuid::new_v4()];
        Self::own(&halves.map(Uuid::into_bytes).concat())
    }

    /// The secret that all processes on this storage have ([`Store::session_key`])
    ///
    /// It is read, or made, when the first upload begins whose client has a name; where that fails,
    /// this upload is as without sessions. Whoever reads the storage can seal. That gains them
    /// nothing but to go on with an upload that they know of without being allowed to push there,
    /// and only with credentials of their own.
    pub fn in_storage(store: Store) -> Self {
        Self(Source::Shared(Arc::new(Shared {
            store,
            own: OnceCell::new(),
            others: Mutex::default(),
        })))
    }

    fn own(secret: &[u8]) -> Self {
        let mac = keyed(secret);
        // So much of it that two secrets are told apart, for those who look for what is wrong.
        let name = mac.clone().chain_update(NAME).finalize().into_bytes();
        let id = URL_SAFE_NO_PAD.encode(&name[..6]);
        Self(Source::Own(Arc::new(Key { id, mac })))
    }

    /// Gets what [`SessionSecret::sealing`] needs
    async fn prepare(&self) -> Result<(), StorageError> {
        if let Source::Shared(shared) = &self.0 {
            let make = || async { Ok(named(&shared.store.session_key().await?)) };
            shared.own.get_or_try_init(make).await?;
        }
        Ok(())
    }

    /// The key to seal with, if there is one
    fn sealing(&self) -> Option<&Key> {
        match &self.0 {
            Source::Own(key) => Some(key),
            Source::Shared(shared) => shared.own.get().map(|key| &**key),
        }
    }

    /// The key of this name
    async fn find(&self, id: &str) -> Result<Option<Arc<Key>>, StorageError> {
        let shared = match &self.0 {
            Source::Own(key) => return Ok((key.id == id).then(|| key.clone())),
            Source::Shared(shared) => shared,
        };
        let Ok(id) = SessionKeyId::try_from(id) else {
            return Ok(None);
        };
        // Whole whenever it is free: each change is one call.
        let others = || shared.others.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = others().get(&id) {
            return Ok(Some(known.clone()));
        }
        // Only what is there is remembered, so that nobody can fill the memory with names.
        let found = shared.store.find_session_key(&id).await?;
        Ok(found.map(|key| others().entry(id).or_insert_with(|| named(&key)).clone()))
    }
}

fn keyed(secret: &[u8]) -> Hmac<Sha256> {
    // HMAC is defined for keys of every length (RFC 2104, section 2).
    Hmac::new_from_slice(secret).expect("every length is good")
}

fn named(key: &SessionKey) -> Arc<Key> {
    Arc::new(Key {
        id: key.id().to_string(),
        mac: keyed(key.secret()),
    })
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

/// Why a request does not go on by a seal
#[derive(Debug)]
pub(super) enum Unsealed {
    /// It has none, or one that is forged, too old, or for something or somebody else
    Not,
    /// It was sealed under a secret that this process does not know
    OtherSecret,
    /// Whether its secret is one of ours cannot be known now
    Storage(StorageError),
}

impl Sessions {
    /// Gets what it takes to seal; without it there are no seals
    pub(super) async fn prepare(&self) -> Result<(), StorageError> {
        self.secret.prepare().await
    }

    /// The seal of an upload that begins now, as a query parameter
    ///
    /// `None` for whoever has no name: nobody could be told from anybody else later.
    pub(super) fn seal(&self, upload: Upload<'_>, principal: &Principal) -> Option<String> {
        self.seal_at(upload, principal, seconds(SystemTime::now()))
    }

    fn seal_at(&self, upload: Upload<'_>, principal: &Principal, start: u64) -> Option<String> {
        let key = self.secret.sealing()?;
        let mac = sealed(key, upload, principal, start)?;
        let mac = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        Some(format!("{PARAMETER}={start:x}.{}.{mac}", key.id))
    }

    /// The parameter of the query, if it seals this very upload for this very principal
    pub(super) async fn find<'a>(
        &self,
        query: Option<&'a str>,
        upload: Upload<'_>,
        principal: &Principal,
    ) -> Result<&'a str, Unsealed> {
        self.find_at(query, upload, principal, seconds(SystemTime::now()))
            .await
    }

    async fn find_at<'a>(
        &self,
        query: Option<&'a str>,
        upload: Upload<'_>,
        principal: &Principal,
        now: u64,
    ) -> Result<&'a str, Unsealed> {
        let Some((parameter, seal)) = query.and_then(Seal::parse) else {
            return Err(Unsealed::Not);
        };
        let key = self.secret.find(seal.key).await;
        let key = key.map_err(Unsealed::Storage)?;
        let key = key.ok_or(Unsealed::OtherSecret)?;
        let mac = sealed(&key, upload, principal, seal.start).ok_or(Unsealed::Not)?;
        // In constant time: how long it takes says nothing about the seal that would be right.
        mac.verify_slice(&seal.mac).map_err(|_| Unsealed::Not)?;
        // The clock of the replica that sealed it may be ahead of this one's.
        let age = Duration::from_secs(now.saturating_sub(seal.start));
        match age < self.lifetime {
            true => Ok(parameter),
            false => Err(Unsealed::Not),
        }
    }
}

/// The parts of a seal, not verified
struct Seal<'a> {
    start: u64,
    key: &'a str,
    mac: Vec<u8>,
}

impl<'a> Seal<'a> {
    /// The parameter that is a seal, and its parts
    fn parse(query: &'a str) -> Option<(&'a str, Self)> {
        let is_seal = |parameter: &&str| {
            let rest = parameter.strip_prefix(PARAMETER);
            rest.is_some_and(|rest| rest.starts_with('='))
        };
        let parameter = query.split('&').find(is_seal)?;
        let (_, value) = parameter.split_once('=')?;
        let (start, rest) = value.split_once('.')?;
        let (key, mac) = rest.split_once('.')?;
        let seal = Self {
            start: u64::from_str_radix(start, 16).ok()?,
            key,
            mac: URL_SAFE_NO_PAD.decode(mac).ok()?,
        };
        Some((parameter, seal))
    }
}

fn sealed(
    key: &Key,
    upload: Upload<'_>,
    principal: &Principal,
    start: u64,
) -> Option<Hmac<Sha256>> {
    let (kind, who) = identity(principal)?;
    let mut mac = key.mac.clone();
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
    use registry_storage::{Memory, Objects};

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

    /// What of a query is a seal
    async fn find(
        sessions: &Sessions,
        query: Option<&str>,
        upload: Upload<'_>,
        principal: &Principal,
        now: u64,
    ) -> Option<String> {
        let found = sessions.find_at(query, upload, principal, now).await;
        found.ok().map(str::to_owned)
    }

    #[tokio::test]
    async fn a_seal_holds_for_what_it_was_made_for_and_for_nothing_else() {
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

        let find = async |query: &str, upload: Upload<'_>, principal: &Principal, now| {
            find(&sessions, Some(query), upload, principal, now).await
        };
        let query = format!("a=b&{seal}&digest=sha256:x");
        assert_eq!(find(&query, upload, &ada, START).await, Some(seal.clone()));
        assert_eq!(
            find(&query, upload, &ada, START + 3599).await,
            Some(seal.clone())
        );
        // The roles may have changed meanwhile.
        let promoted = Principal::user("ada").with_roles(["Admin"]);
        assert_eq!(
            find(&query, upload, &promoted, START).await,
            Some(seal.clone())
        );
        // The clock of another replica is behind.
        assert_eq!(
            find(&query, upload, &ada, START - 30).await,
            Some(seal.clone())
        );

        assert_eq!(find(&query, upload, &ada, START + 3600).await, None);
        for (name, id) in [(&app, &two), (&other, &one)] {
            assert_eq!(find(&query, Upload { name, id }, &ada, START).await, None);
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
            assert_eq!(find(&query, upload, &stranger, START).await, None);
        }
        // Whoever looks for what is wrong is told so.
        let elsewhere = under("battery horse correct");
        let found = elsewhere.find_at(Some(&seal), upload, &ada, START).await;
        assert!(matches!(found, Err(Unsealed::OtherSecret)), "{found:?}");
    }

    #[tokio::test]
    async fn nothing_but_the_seal_itself_is_one() {
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
            "_session",
            "_session=",
            "_session=.",
            &format!("x{seal}"),
            &format!("_session=x&{seal}"),
        ] {
            assert_eq!(
                find(&sessions, Some(forged), upload, &ada, START).await,
                None,
                "{forged}"
            );
        }
        assert_eq!(find(&sessions, None, upload, &ada, START).await, None);
        // Every bit of it counts.
        let value = seal.rfind('.').unwrap() + 1;
        let mac = URL_SAFE_NO_PAD.decode(&seal[value..]).unwrap();
        for bit in 0..mac.len() * 8 {
            let mut forged = mac.clone();
            forged[bit / 8] ^= 1 << (bit % 8);
            let forged = format!("{}{}", &seal[..value], URL_SAFE_NO_PAD.encode(forged));
            let found = find(&sessions, Some(&forged), upload, &ada, START).await;
            assert_eq!(found, None);
        }
    }

    #[tokio::test]
    async fn a_secret_in_the_storage_is_that_of_all_processes_on_it() {
        let driver = Arc::new(Memory::new());
        let on = |driver: &Arc<Memory>| Sessions {
            secret: SessionSecret::in_storage(Store::new(driver.clone())),
            lifetime: Duration::from_secs(3600),
        };
        let (one, other) = (on(&driver), on(&driver));
        let app: RepositoryName = "app".parse().unwrap();
        let id = id(1);
        let upload = Upload {
            name: &app,
            id: &id,
        };
        let ada = Principal::user("ada");
        // Until it was looked for there is none, and the storage is left alone.
        assert_eq!(one.seal_at(upload, &ada, START), None);
        assert!(driver.list(None, None, 1).await.unwrap().is_empty());

        one.prepare().await.unwrap();
        let seal = one.seal_at(upload, &ada, START).unwrap();
        for sessions in [&one, &other, &on(&driver)] {
            let found = find(sessions, Some(&seal), upload, &ada, START).await;
            assert_eq!(found, Some(seal.clone()));
            let bob = Principal::user("bob");
            let found = find(sessions, Some(&seal), upload, &bob, START).await;
            assert_eq!(found, None);
        }
        // Of those who make their first at the same time, each knows those of the others.
        other.prepare().await.unwrap();
        let seal = other.seal_at(upload, &ada, START).unwrap();
        assert!(find(&one, Some(&seal), upload, &ada, START).await.is_some());

        let elsewhere = on(&Arc::new(Memory::new()));
        for query in [&*seal, "_session=1.x.AAAA", "_session=1...AAAA"] {
            let found = elsewhere.find_at(Some(query), upload, &ada, START).await;
            let unknown = matches!(found, Err(Unsealed::OtherSecret | Unsealed::Not));
            assert!(unknown, "{query}: {found:?}");
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
