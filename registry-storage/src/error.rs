//! What can go wrong in a storage, by what the caller should do about it

use std::error::Error;
use std::time::Duration;

/// Why a storage did not do what it was asked
///
/// The kinds are kept apart because they are answered differently: what is not found may be
/// pushed, what is busy or transient may be tried again, what is denied, full or corrupt needs
/// a person. Only [`StorageError::NotFound`] means absence. A storage that cannot be reached
/// never says it.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use registry_storage::StorageError;
///
/// let error = StorageError::Busy {
///     key: "uploads/1".to_owned(),
///     retry_after: Duration::from_secs(1),
/// };
/// assert!(!error.is_not_found());
/// assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// Someone else is writing there
    #[error("`{key}` is being written by another request; try again in {} s", .retry_after.as_secs())]
    Busy {
        /// What was asked for
        key: String,
        /// When it is worth trying again
        retry_after: Duration,
    },
    /// What is stored is not what it should be; trying again does not help
    #[error("`{key}` is damaged or out of place in the storage: {detail}")]
    Corrupt {
        /// What was asked for
        key: String,
        /// What was expected and what is there
        detail: String,
    },
    /// The registry may not do this in its own storage
    #[error(
        "the storage denies access to `{key}`: {source}; let the user that runs the registry read and write it"
    )]
    Denied {
        /// What was asked for
        key: String,
        /// What the storage said
        source: Box<dyn Error + Send + Sync>,
    },
    /// There is no room
    #[error(
        "the storage is full or its quota used up, `{key}` was not written; make room and try again"
    )]
    Full {
        /// What was to be written
        key: String,
    },
    /// It is not there, and the storage is sure of it
    #[error("`{key}` is not in the storage")]
    NotFound {
        /// What was asked for
        key: String,
    },
    /// The storage failed for now; the same call may succeed later
    #[error("the storage failed at `{key}`: {source}")]
    Transient {
        /// What was asked for
        key: String,
        /// What the storage said
        source: Box<dyn Error + Send + Sync>,
    },
}

impl StorageError {
    /// Whether someone else is writing there
    pub fn is_busy(&self) -> bool {
        matches!(self, Self::Busy { .. })
    }

    /// Whether what is stored is not what it should be
    pub fn is_corrupt(&self) -> bool {
        matches!(self, Self::Corrupt { .. })
    }

    /// Whether the registry lacks permission in its own storage
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. })
    }

    /// Whether there is no room
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }

    /// Whether it is certainly absent
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the storage failed for now
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Transient { .. })
    }

    /// What was asked for
    pub fn key(&self) -> &str {
        match self {
            Self::Busy { key, .. }
            | Self::Corrupt { key, .. }
            | Self::Denied { key, .. }
            | Self::Full { key }
            | Self::NotFound { key }
            | Self::Transient { key, .. } => key,
        }
    }

    /// When the same call is worth trying again; `None` if it is not without someone's help
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Busy { retry_after, .. } => Some(*retry_after),
            // Long enough for a server or a network to come back, and not for a client to
            // give up.
            Self::Transient { .. } => Some(Duration::from_secs(5)),
            Self::Corrupt { .. }
            | Self::Denied { .. }
            | Self::Full { .. }
            | Self::NotFound { .. } => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_say_what_and_what_to_do() {
        let key = || "a/b".to_owned();
        let source = || Box::<dyn Error + Send + Sync>::from("input/output error");
        let table = [
            (
                StorageError::Busy {
                    key: key(),
                    retry_after: Duration::from_secs(2),
                },
                "`a/b` is being written by another request; try again in 2 s",
            ),
            (
                StorageError::Corrupt {
                    key: key(),
                    detail: "expected 3 bytes, found 2".to_owned(),
                },
                "`a/b` is damaged or out of place in the storage: expected 3 bytes, found 2",
            ),
            (
                StorageError::Denied {
                    key: key(),
                    source: source(),
                },
                "the storage denies access to `a/b`: input/output error; \
                 let the user that runs the registry read and write it",
            ),
            (
                StorageError::Full { key: key() },
                "the storage is full or its quota used up, `a/b` was not written; \
                 make room and try again",
            ),
            (
                StorageError::NotFound { key: key() },
                "`a/b` is not in the storage",
            ),
            (
                StorageError::Transient {
                    key: key(),
                    source: source(),
                },
                "the storage failed at `a/b`: input/output error",
            ),
        ];
        for (error, text) in table {
            assert_eq!(error.to_string(), text);
            assert_eq!(error.key(), "a/b");
            let kinds = [
                error.is_busy(),
                error.is_corrupt(),
                error.is_denied(),
                error.is_full(),
                error.is_not_found(),
                error.is_transient(),
            ];
            assert_eq!(kinds.iter().filter(|kind| **kind).count(), 1, "{error:?}");
            assert_eq!(
                error.retry_after().is_some(),
                error.is_busy() || error.is_transient()
            );
        }
    }
}
