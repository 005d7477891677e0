//! Responses under construction: their headers, and where an upload stands

use std::fmt::Display;

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Response, StatusCode};
use registry_core::Digest;
use registry_core::upload::range_header;

use crate::body::ResponseBody;
use crate::conditional::etag;

/// The header by which old clients know a registry
pub(crate) const API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");
/// The digest of what is served or was stored
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The id of an upload session
pub(crate) const UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// The filters that a list of referrers went through
pub(crate) const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");
/// The subject of a manifest that was stored
pub(crate) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// The tags that were set besides the digest
pub(crate) const TAG: HeaderName = HeaderName::from_static("oci-tag");

/// For how many headers a response has room before it gets more
const HEADERS: usize = 10;

/// A response under construction
pub(crate) struct Reply {
    response: Response<ResponseBody>,
}

impl Reply {
    pub(crate) fn new(status: StatusCode) -> Self {
        let mut response = Response::new(ResponseBody::default());
        *response.status_mut() = status;
        // What most answers have: to grow on the way is to place all of them again.
        response.headers_mut().reserve(HEADERS);
        Self { response }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: impl Display) -> Self {
        set(self.response.headers_mut(), name, value);
        self
    }

    /// As [`Reply::header`], of what is text already
    pub(crate) fn text(self, name: HeaderName, value: &str) -> Self {
        match HeaderValue::from_str(value) {
            Ok(value) => self.value(name, value),
            Err(_) => {
                left_out(&name);
                self
            }
        }
    }

    /// A header whose value is one already
    pub(crate) fn value(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.response.headers_mut().insert(name, value);
        self
    }

    /// The two headers that say the digest of what is served
    pub(crate) fn digest(self, digest: &Digest) -> Self {
        let digest = digest.text();
        self.text(CONTENT_DIGEST, digest.as_str())
            .value(header::ETAG, etag(&digest))
    }

    pub(crate) fn body(mut self, body: impl Into<ResponseBody>) -> Response<ResponseBody> {
        *self.response.body_mut() = body.into();
        self.response
    }

    pub(crate) fn empty(self) -> Response<ResponseBody> {
        self.response
    }
}

/// Where an upload session stands
#[derive(Debug)]
pub(crate) struct UploadState {
    /// The path to go on with. A path, not a URL: whatever host, port and scheme the client
    /// used, behind whatever proxy, stays right.
    pub(crate) location: String,
    pub(crate) id: String,
    pub(crate) offset: u64,
}

impl UploadState {
    pub(crate) fn write(&self, headers: &mut HeaderMap) {
        set(headers, header::LOCATION, &self.location);
        set(headers, header::RANGE, range_header(self.offset));
        set(headers, UPLOAD_UUID, &self.id);
    }

    pub(crate) fn reply(&self, status: StatusCode) -> Response<ResponseBody> {
        let mut response = Reply::new(status).empty();
        self.write(response.headers_mut());
        response
    }
}

/// Sets a header, unless the value cannot stand in one
pub(crate) fn set(headers: &mut HeaderMap, name: HeaderName, value: impl Display) {
    match HeaderValue::try_from(value.to_string()) {
        Ok(value) => {
            headers.insert(name, value);
        }
        Err(_) => left_out(&name),
    }
}

/// Only what an embedder's authenticator or old content brings can get here
fn left_out(name: &HeaderName) {
    tracing::warn!(%name, "a header was left out, its value has control characters");
}
