//! Headers of S3 for each object that is written, which object_store does not send
//!
//! Who else may read it, and the storage class of what the store copies itself.

use std::fmt;
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderName, Method};
use object_store::ClientOptions;
use object_store::aws::{AwsAuthorizer, AwsCredentialProvider};
use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
};

/// Who else may read an object
pub(super) const ACL: HeaderName = HeaderName::from_static("x-amz-acl");

/// Its storage class
pub(super) const STORAGE_CLASS: HeaderName = HeaderName::from_static("x-amz-storage-class");

const DATE: HeaderName = HeaderName::from_static("x-amz-date");
const PAYLOAD: HeaderName = HeaderName::from_static("x-amz-content-sha256");

/// Adds headers to each call that makes an object, and signs it again
///
/// It stands between object_store, which has signed already, and the connection: a store takes
/// no header of this kind that is not signed.
#[derive(Clone)]
pub(super) struct Written {
    headers: HeaderMap,
    region: String,
    /// Known once the store has been made that sends through this
    credentials: Arc<OnceLock<AwsCredentialProvider>>,
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Written")
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

impl Written {
    pub(super) fn new(headers: HeaderMap, region: &str) -> Self {
        Self {
            headers,
            region: region.to_owned(),
            credentials: Arc::default(),
        }
    }

    /// A connector whose clients send them
    pub(super) fn over<C: HttpConnector>(&self, connector: C) -> WrittenConnector<C> {
        WrittenConnector {
            written: self.clone(),
            connector,
        }
    }

    /// Says by which credentials calls are signed
    pub(super) fn sign_with(&self, credentials: AwsCredentialProvider) {
        // There is one store for each, which says so once.
        let _ = self.credentials.set(credentials);
    }

    async fn add(&self, request: &mut HttpRequest) -> Result<(), HttpError> {
        let Some(credentials) = self.credentials.get().filter(|_| !self.headers.is_empty()) else {
            return Ok(());
        };
        let fail = |error: object_store::Error| HttpError::new(HttpErrorKind::Request, error);
        let credential = credentials.get_credential().await.map_err(fail)?;
        let headers = request.headers_mut();
        for (name, value) in &self.headers {
            headers.insert(name, value.clone());
        }
        headers.remove(AUTHORIZATION);
        headers.remove(DATE);
        // The body was hashed once already.
        let payload = headers.remove(PAYLOAD);
        let digest = payload.as_ref().and_then(|value| unhex(value.as_bytes()));
        AwsAuthorizer::new(&credential, "s3", &self.region)
            .with_sign_payload(digest.is_some())
            .try_authorize(request, digest.as_deref())
            .map_err(|error| HttpError::new(HttpErrorKind::Request, error))
    }
}

/// Whether this is a signed call that makes an object: at once, by a copy, or by parts to come
fn makes_an_object(request: &HttpRequest) -> bool {
    let signed = request.headers().get(AUTHORIZATION);
    let signed = signed.is_some_and(|value| value.as_bytes().starts_with(b"AWS4-HMAC-SHA256"));
    let has = |name: &str| {
        let query = request.uri().query().unwrap_or_default();
        query
            .split('&')
            .any(|pair| pair.split('=').next() == Some(name))
    };
    signed
        && match *request.method() {
            Method::PUT => !has("uploadId") && !has("tagging"),
            Method::POST => has("uploads"),
            _ => false,
        }
}

fn unhex(text: &[u8]) -> Option<Vec<u8>> {
    if text.len() != 64 {
        return None;
    }
    let digit = |byte: u8| char::from(byte).to_digit(16);
    text.chunks_exact(2)
        .map(|pair| Some((digit(pair[0])? * 16 + digit(pair[1])?) as u8))
        .collect()
}

#[derive(Debug)]
pub(super) struct WrittenConnector<C> {
    written: Written,
    connector: C,
}

impl<C: HttpConnector> HttpConnector for WrittenConnector<C> {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        Ok(HttpClient::new(WrittenService {
            written: self.written.clone(),
            client: self.connector.connect(options)?,
        }))
    }
}

#[derive(Debug)]
struct WrittenService {
    written: Written,
    client: HttpClient,
}

#[async_trait]
impl HttpService for WrittenService {
    async fn call(&self, mut request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if makes_an_object(&request) {
            self.written.add(&mut request).await?;
        }
        self.client.execute(request).await
    }
}

#[cfg(test)]
mod tests {
    use object_store::StaticCredentialProvider;
    use object_store::aws::AwsCredential;
    use object_store::client::HttpRequestBody;

    use super::*;

    fn request(method: Method, uri: &str, authorization: &str) -> HttpRequest {
        http::Request::builder()
            .method(method)
            .uri(uri)
            .header(AUTHORIZATION, authorization)
            .header(PAYLOAD, "ab".repeat(32))
            .body(HttpRequestBody::empty())
            .unwrap()
    }

    #[test]
    fn only_what_makes_an_object_has_headers_of_its_own() {
        for (method, uri, made) in [
            (Method::PUT, "http://h/b/key", true),
            (Method::PUT, "http://h/b/key?partNumber=1&uploadId=x", false),
            (Method::PUT, "http://h/b/key?tagging", false),
            (Method::POST, "http://h/b/key?uploads=", true),
            (Method::POST, "http://h/b/key?uploads", true),
            (Method::POST, "http://h/b/key?uploadId=x", false),
            (Method::POST, "http://h/b?delete", false),
            (Method::GET, "http://h/b/key", false),
        ] {
            let request = |by| request(method.clone(), uri, by);
            assert_eq!(
                makes_an_object(&request("AWS4-HMAC-SHA256 x")),
                made,
                "{method} {uri}"
            );
            assert!(!makes_an_object(&request("Bearer x")));
        }
    }

    #[tokio::test]
    async fn the_headers_are_signed() {
        let headers = [
            (ACL, http::HeaderValue::from_static("public-read")),
            (STORAGE_CLASS, http::HeaderValue::from_static("STANDARD_IA")),
        ];
        let written = Written::new(headers.into_iter().collect(), "eu-central-1");
        written.sign_with(Arc::new(StaticCredentialProvider::new(AwsCredential {
            key_id: "key".to_owned(),
            secret_key: "secret".to_owned(),
            token: None,
        })));
        let mut request = request(Method::PUT, "http://h/b/key", "AWS4-HMAC-SHA256 old");
        written.add(&mut request).await.unwrap();
        let header = |name: &HeaderName| request.headers()[name].to_str().unwrap();
        assert_eq!(header(&ACL), "public-read");
        assert_eq!(header(&PAYLOAD), "ab".repeat(32));
        let signed = header(&AUTHORIZATION);
        assert!(signed.contains("Credential=key/") && signed.contains("/eu-central-1/s3/"));
        for name in [ACL, STORAGE_CLASS] {
            assert!(signed.contains(name.as_str()), "{signed}");
        }
        assert!(!signed.contains("old"), "{signed}");
        assert!(!format!("{written:?}").contains("secret"));
    }
}
