//! What the answers of an object store mean

use std::error::Error;
use std::path::PathBuf;
use std::time::Duration;

use object_store::Error as Answer;

use crate::error::StorageError;

/// When it is worth trying again after someone else was faster
pub(super) const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Why a bucket cannot be a storage
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BucketError {
    /// The certificates to trust cannot be had
    #[error("cannot read the certificates to trust{}: {source}; expected a PEM file of at least one certificate", .path.as_ref().map(|path| format!(" from `{}`", path.display())).unwrap_or_default())]
    Certificates {
        /// The file; `None` for those of the system
        path: Option<PathBuf>,
        /// Why
        source: Box<dyn Error + Send + Sync>,
    },
    /// An option has a value that it cannot have
    #[error("the option `{name}` of the object store does not fit: {detail}")]
    Option {
        /// Which, as distribution spells it
        name: &'static str,
        /// What was expected and what was found
        detail: String,
    },
    /// The client cannot be made
    #[error("the object store cannot be used as configured: {0}")]
    Store(#[source] object_store::Error),
}

/// What an error of the store means for `key`
pub(super) fn failed(key: &str, error: Answer) -> StorageError {
    let key = key.to_owned();
    let text = error.to_string();
    // Nothing of a bucket that is not there is absent: it is out of reach.
    if text.contains("NoSuchBucket") || text.contains("ContainerNotFound") {
        return StorageError::Denied {
            key,
            source: format!("the bucket does not exist; create it or name another ({error})")
                .into(),
        };
    }
    // Signatures are of their time.
    for (code, advice) in [
        (
            "RequestTimeTooSkewed",
            "the clock of this machine and that of the object store differ too much; set them right",
        ),
        (
            "ExpiredToken",
            "the credentials for the object store have expired; give the registry new ones",
        ),
    ] {
        if text.contains(code) {
            return StorageError::Denied {
                key,
                source: format!("{advice} ({error})").into(),
            };
        }
    }
    if text.contains("QuotaExceeded") || text.contains("507 Insufficient Storage") {
        return StorageError::Full { key };
    }
    // Of some calls object_store does not tell these from other failures.
    let refused = ["status code: 401", "status code: 403"];
    if refused.iter().any(|status| text.contains(status)) {
        return StorageError::Denied {
            key,
            source: error.into(),
        };
    }
    match error {
        Answer::NotFound { .. } => StorageError::NotFound { key },
        error @ (Answer::PermissionDenied { .. } | Answer::Unauthenticated { .. }) => {
            StorageError::Denied {
                key,
                source: error.into(),
            }
        }
        Answer::Precondition { .. } | Answer::AlreadyExists { .. } => StorageError::Busy {
            key,
            retry_after: RETRY_AFTER,
        },
        error @ (Answer::NotImplemented { .. } | Answer::NotSupported { .. }) => {
            StorageError::Denied {
                key,
                source: error.into(),
            }
        }
        error => StorageError::Transient {
            key,
            source: error.into(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_keep_their_kinds() {
        let path = || "a".to_owned();
        let source = || Box::<dyn Error + Send + Sync>::from("text");
        let generic = |text: &str| Answer::Generic {
            store: "S3",
            source: text.into(),
        };
        let missing_bucket = Answer::NotFound {
            path: path(),
            source: "<Code>NoSuchBucket</Code>".into(),
        };
        type Is = fn(&StorageError) -> bool;
        let table: [(Answer, Is); 12] = [
            (
                Answer::NotFound {
                    path: path(),
                    source: source(),
                },
                StorageError::is_not_found,
            ),
            (missing_bucket, StorageError::is_denied),
            (
                Answer::PermissionDenied {
                    path: path(),
                    source: source(),
                },
                StorageError::is_denied,
            ),
            (
                Answer::Unauthenticated {
                    path: path(),
                    source: source(),
                },
                StorageError::is_denied,
            ),
            (
                Answer::Precondition {
                    path: path(),
                    source: source(),
                },
                StorageError::is_busy,
            ),
            (
                Answer::AlreadyExists {
                    path: path(),
                    source: source(),
                },
                StorageError::is_busy,
            ),
            (
                generic("503 <Code>SlowDown</Code>"),
                StorageError::is_transient,
            ),
            (generic("connection refused"), StorageError::is_transient),
            (generic("<Code>QuotaExceeded</Code>"), StorageError::is_full),
            (
                generic("returned non-2xx status code: 403 Forbidden"),
                StorageError::is_denied,
            ),
            (
                generic("403 <Code>RequestTimeTooSkewed</Code>"),
                StorageError::is_denied,
            ),
            (
                generic("400 <Code>ExpiredToken</Code>"),
                StorageError::is_denied,
            ),
        ];
        for (answer, is_kind) in table {
            let text = answer.to_string();
            let error = failed("k", answer);
            assert!(is_kind(&error), "{text}: {error:?}");
            assert_eq!(error.key(), "k");
        }
    }
}
