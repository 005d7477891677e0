//! The error codes of the OCI distribution specification and the JSON that carries them

use std::fmt;

use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};

/// A code of the registry error table
///
/// The OCI table is in the distribution specification, section "Error Codes". The codes that
/// only Docker's registry API knows are marked; clients of both families meet them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorCode {
    /// The blob is not in this repository
    BlobUnknown,
    /// The upload cannot take this request: a chunk out of order, a body that breaks off
    BlobUploadInvalid,
    /// There is no such upload session (any more)
    BlobUploadUnknown,
    /// The caller is known and may not do this
    Denied,
    /// A digest is malformed, of an unsupported algorithm, or not that of the content
    DigestInvalid,
    /// A manifest refers to a blob or manifest that the repository does not have
    ManifestBlobUnknown,
    /// The manifest is not one, or is of another type than announced
    ManifestInvalid,
    /// The manifest is not in this repository
    ManifestUnknown,
    /// The repository name is out of grammar
    NameInvalid,
    /// There is no such repository
    NameUnknown,
    /// The page size is not a number (Docker's registry API)
    PaginationNumberInvalid,
    /// A length or range does not fit the content
    SizeInvalid,
    /// The tag is out of grammar (Docker's registry API, legacy in OCI)
    TagInvalid,
    /// Too many requests; try again later
    TooManyRequests,
    /// The caller must say who they are
    Unauthorized,
    /// The registry cannot do this now; try again later (Docker's registry API)
    Unavailable,
    /// Something went wrong inside the registry (Docker's registry API)
    Unknown,
    /// The registry does not do this
    Unsupported,
}

impl ErrorCode {
    /// Every code, for tables and tests
    pub const ALL: [Self; 18] = [
        Self::BlobUnknown,
        Self::BlobUploadInvalid,
        Self::BlobUploadUnknown,
        Self::Denied,
        Self::DigestInvalid,
        Self::ManifestBlobUnknown,
        Self::ManifestInvalid,
        Self::ManifestUnknown,
        Self::NameInvalid,
        Self::NameUnknown,
        Self::PaginationNumberInvalid,
        Self::SizeInvalid,
        Self::TagInvalid,
        Self::TooManyRequests,
        Self::Unauthorized,
        Self::Unavailable,
        Self::Unknown,
        Self::Unsupported,
    ];

    /// The code as it stands in JSON
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::Denied => "DENIED",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
            Self::Unsupported => "UNSUPPORTED",
        }
    }

    /// The short text that the specification gives for the code
    pub fn message(self) -> &'static str {
        match self {
            Self::BlobUnknown => "blob unknown to registry",
            Self::BlobUploadInvalid => "blob upload invalid",
            Self::BlobUploadUnknown => "blob upload unknown to registry",
            Self::Denied => "requested access to the resource is denied",
            Self::DigestInvalid => "provided digest did not match uploaded content",
            Self::ManifestBlobUnknown => {
                "manifest references a manifest or blob unknown to registry"
            }
            Self::ManifestInvalid => "manifest invalid",
            Self::ManifestUnknown => "manifest unknown to registry",
            Self::NameInvalid => "invalid repository name",
            Self::NameUnknown => "repository name not known to registry",
            Self::PaginationNumberInvalid => "invalid number of results requested",
            Self::SizeInvalid => "provided length did not match content length",
            Self::TagInvalid => "invalid tag",
            Self::TooManyRequests => "too many requests",
            Self::Unauthorized => "authentication required",
            Self::Unavailable => "service unavailable",
            Self::Unknown => "unknown error",
            Self::Unsupported => "the operation is unsupported",
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for ErrorCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// One error of a response: the code, its message, and what helps in this very case
///
/// # Examples
///
/// ```
/// use registry_core::{ErrorCode, ErrorDetail, ErrorResponse};
///
/// let response = ErrorResponse::from(ErrorDetail::new(ErrorCode::TagInvalid, "a tag has at most 128 characters, this has 300"));
/// assert_eq!(
///     response.to_json(),
///     br#"{"errors":[{"code":"TAG_INVALID","message":"invalid tag: a tag has at most 128 characters, this has 300","detail":null}]}"#,
/// );
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorDetail {
    code: ErrorCode,
    explanation: String,
    detail: serde_json::Value,
}

impl ErrorDetail {
    /// An error with what was expected, what came and what to do in `explanation`
    ///
    /// The explanation stands in `message` behind the code's own text: docker and podman
    /// print `message` and nothing else.
    pub fn new(code: ErrorCode, explanation: impl Into<String>) -> Self {
        Self {
            code,
            explanation: explanation.into(),
            detail: serde_json::Value::Null,
        }
    }

    /// Adds facts for programs, such as the digest in question
    pub fn with_detail(mut self, detail: serde_json::Value) -> Self {
        self.detail = detail;
        self
    }

    /// The code
    pub fn code(&self) -> ErrorCode {
        self.code
    }
}

impl Serialize for ErrorDetail {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut out = serializer.serialize_struct("ErrorDetail", 3)?;
        out.serialize_field("code", &self.code)?;
        if self.explanation.is_empty() {
            out.serialize_field("message", self.code.message())?;
        } else {
            out.serialize_field(
                "message",
                &format_args!("{}: {}", self.code.message(), self.explanation),
            )?;
        }
        out.serialize_field("detail", &self.detail)?;
        out.end()
    }
}

/// The body of an error response (distribution specification, "Error Codes")
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ErrorResponse {
    errors: Vec<ErrorDetail>,
}

impl ErrorResponse {
    /// A response of several errors, such as one per missing layer
    ///
    /// An empty list becomes one [`ErrorCode::Unknown`]: docker reports a response without
    /// errors as "unexpected".
    pub fn new(errors: Vec<ErrorDetail>) -> Self {
        if errors.is_empty() {
            return Self::from(ErrorDetail::new(ErrorCode::Unknown, ""));
        }
        Self { errors }
    }

    /// The errors
    pub fn errors(&self) -> &[ErrorDetail] {
        &self.errors
    }

    /// The JSON bytes
    pub fn to_json(&self) -> Vec<u8> {
        // Strings, null and values that are JSON already: there is nothing here that
        // serde_json refuses to write.
        serde_json::to_vec(self).expect("an error response is always valid JSON")
    }
}

impl From<ErrorDetail> for ErrorResponse {
    fn from(error: ErrorDetail) -> Self {
        Self {
            errors: vec![error],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_of_the_specified_alphabet() {
        for (index, code) in ErrorCode::ALL.iter().enumerate() {
            assert!(
                code.as_str()
                    .bytes()
                    .all(|byte| byte == b'_' || byte.is_ascii_uppercase())
            );
            assert!(!code.message().is_empty());
            for other in &ErrorCode::ALL[index + 1..] {
                assert_ne!(code.as_str(), other.as_str());
            }
        }
    }

    #[test]
    fn a_response_is_never_empty() {
        assert_eq!(ErrorResponse::new(Vec::new()).errors().len(), 1);
    }

    #[test]
    fn details_are_any_json() {
        let error = ErrorDetail::new(ErrorCode::BlobUnknown, "")
            .with_detail(serde_json::json!({"digest": "sha256:\"x\""}));
        assert_eq!(
            String::from_utf8(ErrorResponse::from(error).to_json()).unwrap(),
            r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry","detail":{"digest":"sha256:\"x\""}}]}"#
        );
    }
}
