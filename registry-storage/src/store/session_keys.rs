//! Secrets that all processes on one storage have, without being told

use std::fmt;

use uuid::Uuid;

use super::{SMALL_READ_LIMIT, Store};
use crate::error::StorageError;
use crate::layout;

/// How many keys are looked at to find one to use: there is one, and perhaps a few more of processes
/// that made their first at the same time
const LOOKED_AT: usize = 16;

/// A secret that is kept beside the content, for whoever serves it
///
/// With it one process seals what a client takes to another. Whoever reads the storage knows it,
/// so it must not protect anything from them. `Debug` does not show it.
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_storage::{Memory, Store};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let driver = Arc::new(Memory::new());
/// let (one, other) = (Store::new(driver.clone()), Store::new(driver));
/// let key = one.session_key().await?;
/// let same = other.find_session_key(&key.id()).await?.expect("one made it");
/// assert_eq!(same.secret(), key.secret());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct SessionKey {
    id: SessionKeyId,
    secret: [u8; Self::LENGTH],
}

/// The name of a [`SessionKey`], which is no secret: 32 hexadecimal digits in lower case
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionKeyId(Uuid);

/// A text is no [`SessionKeyId`]
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected the name of a session key: 32 hexadecimal digits in lower case")]
pub struct SessionKeyIdError;

impl SessionKey {
    /// How many bytes the secret has
    pub const LENGTH: usize = 32;

    /// Its name
    pub fn id(&self) -> SessionKeyId {
        self.id
    }

    /// The secret
    pub fn secret(&self) -> &[u8] {
        &self.secret
    }

    fn random() -> Self {
        let mut secret = [0; Self::LENGTH];
        let (start, end) = secret.split_at_mut(Self::LENGTH / 2);
        start.copy_from_slice(Uuid::new_v4().as_bytes());
        end.copy_from_slice(Uuid::new_v4().as_bytes());
        Self {
            id: SessionKeyId(Uuid::new_v4()),
            secret,
        }
    }

    fn encode(&self) -> String {
        let digits = self.secret.iter().map(|byte| format!("{byte:02x}"));
        digits.collect()
    }

    fn decode(id: SessionKeyId, text: &[u8]) -> Option<Self> {
        let mut secret = [0; Self::LENGTH];
        let text = std::str::from_utf8(text).ok()?;
        if text.len() != 2 * Self::LENGTH || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        for (number, byte) in secret.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * number..2 * number + 2], 16).ok()?;
        }
        Some(Self { id, secret })
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionKey")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for SessionKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.simple(), f)
    }
}

impl TryFrom<&str> for SessionKeyId {
    type Error = SessionKeyIdError;

    fn try_from(text: &str) -> Result<Self, SessionKeyIdError> {
        let id = Uuid::try_parse(text).map(Self);
        // Other spellings would be other keys of the storage.
        id.ok()
            .filter(|id| id.to_string() == text)
            .ok_or(SessionKeyIdError)
    }
}

impl Store {
    /// The key that is in the storage, or a new one
    ///
    /// Processes that ask at the same time on a new storage may each make one: whoever comes later
    /// takes one of them, and [`Store::find_session_key`] finds all. So nothing is asked of the
    /// storage that object stores do not have.
    ///
    /// # Errors
    ///
    /// What the storage says.
    pub async fn session_key(&self) -> Result<SessionKey, StorageError> {
        let folder = layout::session_keys();
        let entries = match self.objects().list(Some(&folder), None, LOOKED_AT).await {
            Ok(entries) => entries,
            Err(StorageError::NotFound { .. }) => Vec::new(),
            Err(error) => return Err(error),
        };
        for entry in entries {
            if let Ok(id) = SessionKeyId::try_from(&*entry.name)
                && let Some(key) = self.find_session_key(&id).await?
            {
                return Ok(key);
            }
        }
        let key = SessionKey::random();
        let at = layout::session_key(&key.id);
        self.objects()
            .write(&at, key.encode().into_bytes().into())
            .await?;
        Ok(key)
    }

    /// The key of this name, if there is one
    ///
    /// # Errors
    ///
    /// What the storage says.
    pub async fn find_session_key(
        &self,
        id: &SessionKeyId,
    ) -> Result<Option<SessionKey>, StorageError> {
        let at = layout::session_key(id);
        match self.objects().read(&at, SMALL_READ_LIMIT).await {
            Ok(text) => {
                let key = SessionKey::decode(*id, &text);
                if key.is_none() {
                    tracing::warn!(key = %at, "not a session key; another is used, and this can be deleted");
                }
                Ok(key)
            }
            Err(StorageError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::driver::{Key, Objects};
    use crate::memory::Memory;

    #[tokio::test]
    async fn whoever_comes_later_takes_what_is_there() {
        let driver = Arc::new(Memory::new());
        let store = Store::new(driver.clone());
        let key = store.session_key().await.unwrap();
        assert_eq!(Store::new(driver).session_key().await.unwrap(), key);
        let other = Store::new(Arc::new(Memory::new())).session_key().await;
        let other = other.unwrap();
        assert_ne!(other.secret(), key.secret());
        assert_eq!(store.find_session_key(&other.id()).await.unwrap(), None);
    }

    #[tokio::test]
    async fn those_who_begin_at_once_find_the_keys_of_all() {
        let driver = Arc::new(Memory::new());
        let stores: Vec<_> = (0..8).map(|_| Store::new(driver.clone())).collect();
        let keys = futures::future::join_all(stores.iter().map(Store::session_key)).await;
        for key in keys {
            let key = key.unwrap();
            for store in &stores {
                let found = store.find_session_key(&key.id()).await.unwrap();
                assert_eq!(found.as_ref(), Some(&key));
            }
        }
    }

    #[tokio::test]
    async fn what_is_no_key_is_not_taken_for_one() {
        let driver = Arc::new(Memory::new());
        let store = Store::new(driver.clone());
        let id = SessionKey::random().id();
        for text in ["", "x", &"0".repeat(63), &"g".repeat(64), &"+1".repeat(32)] {
            let text = text.to_owned().into_bytes();
            driver
                .write(&layout::session_key(&id), text.into())
                .await
                .unwrap();
            assert_eq!(store.find_session_key(&id).await.unwrap(), None);
        }
        let key = store.session_key().await.unwrap();
        assert_ne!(key.id(), id);
        assert_eq!(store.session_key().await.unwrap(), key);
    }

    #[test]
    fn a_name_has_one_spelling_and_a_secret_is_not_shown() {
        let key = SessionKey::random();
        let name = key.id().to_string();
        assert_eq!(SessionKeyId::try_from(&*name), Ok(key.id()));
        let hyphens = key.id().0.hyphenated().to_string();
        for bad in [
            "",
            "..",
            "a/b",
            &name[1..],
            &hyphens,
            &format!("{{{name}}}"),
        ] {
            assert!(SessionKeyId::try_from(bad).is_err(), "{bad}");
        }
        assert!(Key::parse(layout::session_key(&key.id()).as_str()).is_ok());
        let shown = format!("{key:?}");
        assert!(shown.contains(&name[..8]) && !shown.contains(&key.encode()));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
