//! Copies that the store makes itself

use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderName, HeaderValue, Method, Request};
use object_store::client::{HttpClient, HttpRequestBody};
use object_store::multipart::PartId;
use object_store::path::Path;
use object_store::signer::{SignedUrlOptions, Signer};
use object_store::{CopyOptions, Error as Answer};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use super::Inner;
use super::error::failed;
use crate::driver::Key;
use crate::error::StorageError;

/// What a copy source is written with: all that has no meaning in a URL's path
const PLAIN: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'-')
    .remove(b'.')
    .remove(b'/')
    .remove(b'_')
    .remove(b'~');

/// How many pieces S3 takes
const PIECES: u64 = 10_000;

/// How often a piece is tried
const ATTEMPTS: u32 = 4;

/// For how long the store takes a call for a piece
const EXPIRY: Duration = Duration::from_secs(15 * 60);

/// What is needed for the calls of S3 that object_store does not have
pub(crate) struct S3Calls {
    pub(crate) client: HttpClient,
    pub(crate) bucket: String,
}

impl Inner {
    /// Has the store copy an object of `size` bytes, replacing what is there
    pub(super) async fn copy(&self, from: &Key, to: &Key, size: u64) -> Result<(), StorageError> {
        let (source, target) = (self.path(from)?, self.path(to)?);
        if size > self.copy_threshold
            && let (Some(calls), Some(signer)) = (&self.faces.s3, &self.faces.signer)
        {
            let copied = self
                .copy_in_pieces(calls, &**signer, &source, to, size)
                .await;
            match copied {
                // Some stores know no copies of ranges, but copy more at a time than S3 does.
                Err(error) if !error.is_transient() => {
                    let error = &error as &dyn std::error::Error;
                    tracing::debug!(key = %to, error, "an object is copied as a whole");
                }
                copied => return copied,
            }
        }
        let copied = self
            .faces
            .objects
            .copy_opts(&source, &target, CopyOptions::default())
            .await;
        match copied {
            Ok(()) => {
                self.saw();
                Ok(())
            }
            Err(error @ Answer::NotFound { .. }) => Err(self.missed(from.as_str(), error).await),
            Err(error) => Err(failed(to.as_str(), error)),
        }
    }

    async fn copy_in_pieces(
        &self,
        calls: &S3Calls,
        signer: &dyn Signer,
        source: &Path,
        to: &Key,
        size: u64,
    ) -> Result<(), StorageError> {
        let target = &self.path(to)?;
        let multipart = &self.faces.multipart;
        let id = &self.create_multipart(to).await?;
        let piece = self.copy_piece.max(size.div_ceil(PIECES));
        let source = format!("/{}/{source}", calls.bucket);
        let source = &utf8_percent_encode(&source, PLAIN).to_string();
        let parts: Result<Vec<PartId>, StorageError> = stream::iter(0..size.div_ceil(piece))
            .map(|index| async move {
                let start = index * piece;
                let end = (start + piece).min(size) - 1;
                let range = format!("bytes={start}-{end}");
                let mut attempt = 0;
                loop {
                    attempt += 1;
                    let number = index + 1;
                    let copied =
                        copy_piece(calls, signer, target, id, number, source, &range).await;
                    match copied {
                        Ok(id) => return Ok(PartId { content_id: id }),
                        Err(Refusal::ForNow(_)) if attempt < ATTEMPTS => {
                            tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
                        }
                        Err(Refusal::ForNow(error)) => {
                            return Err(StorageError::Transient {
                                key: to.to_string(),
                                source: error.into(),
                            });
                        }
                        Err(Refusal::ForEver(error)) => {
                            return Err(StorageError::Denied {
                                key: to.to_string(),
                                source: error.into(),
                            });
                        }
                    }
                }
            })
            .buffered(self.copy_concurrency)
            .try_collect()
            .await;
        let completed = match parts {
            Ok(parts) => multipart
                .complete_multipart(target, id, parts)
                .await
                .map_err(|error| failed(to.as_str(), error)),
            Err(error) => Err(error),
        };
        if completed.is_err()
            && let Err(error) = multipart.abort_multipart(target, id).await
        {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(key = %to, error, "pieces of a copy were left behind");
        }
        completed?;
        self.saw();
        Ok(())
    }
}

/// Why a piece was not copied
enum Refusal {
    ForEver(String),
    ForNow(String),
}

/// Copies one range (S3's `UploadPartCopy`) and returns the part's ETag
async fn copy_piece(
    calls: &S3Calls,
    signer: &dyn Signer,
    target: &Path,
    id: &str,
    number: u64,
    source: &str,
    range: &str,
) -> Result<String, Refusal> {
    let for_ever = |error: &dyn std::error::Error| Refusal::ForEver(error.to_string());
    let for_now = |error: &dyn std::error::Error| Refusal::ForNow(error.to_string());
    let mut options = SignedUrlOptions::new().with_query([
        ("partNumber", number.to_string()),
        ("uploadId", id.to_owned()),
    ]);
    let mut request = Request::builder().method(Method::PUT);
    for (name, value) in [
        ("x-amz-copy-source", source),
        ("x-amz-copy-source-range", range),
    ] {
        let name = HeaderName::from_static(name);
        let value = HeaderValue::from_str(value).map_err(|error| for_ever(&error))?;
        options = options.with_signed_header(name.clone(), value.clone());
        request = request.header(name, value);
    }
    let url = signer
        .signed_url_opts(Method::PUT, target, EXPIRY, &options)
        .await
        .map_err(|error| for_now(&error))?;
    let request = request
        .uri(String::from(url))
        .body(HttpRequestBody::empty())
        .map_err(|error| for_ever(&error))?;
    let answer = calls.client.execute(request).await;
    let answer = answer.map_err(|error| for_now(&error))?;
    let status = answer.status();
    let body: Bytes = answer
        .into_body()
        .bytes()
        .await
        .map_err(|error| for_now(&error))?;
    let body = String::from_utf8_lossy(&body);
    if status.is_success() {
        // A copy that fails after it began says so with a good status.
        return etag(&body).ok_or_else(|| Refusal::ForNow(body.into_owned()));
    }
    let text = format!("{status}: {body}");
    match status.as_u16() {
        408 | 429 | 500 | 502..=599 => Err(Refusal::ForNow(text)),
        _ => Err(Refusal::ForEver(text)),
    }
}

/// The ETag in a `CopyPartResult`
fn etag(body: &str) -> Option<String> {
    let (_, rest) = body.split_once("<ETag>")?;
    let (etag, _) = rest.split_once("</ETag>")?;
    Some(etag.replace("&quot;", "\"").replace("&#34;", "\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_etag_is_found_in_the_answer() {
        let body = "<CopyPartResult><LastModified>x</LastModified>\
                    <ETag>&quot;abc&quot;</ETag></CopyPartResult>";
        assert_eq!(etag(body).unwrap(), "\"abc\"");
        assert_eq!(etag("<Error><Code>InternalError</Code></Error>"), None);
    }
}
