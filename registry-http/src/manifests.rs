//! Manifests: to read, to push, to delete

use http::{HeaderMap, Response, StatusCode, header};
use registry_core::manifest::{DescriptorDigest, ManifestError};
use registry_core::{
    Algorithm, Digest, ErrorCode, Manifest, MediaType, RepositoryName, Tag, TagOrDigest,
};

use crate::body::ResponseBody;
use crate::conditional;
use crate::reply::{CONTENT_DIGEST, Reply, SUBJECT, TAG};
use crate::request_body::RequestBody;
use crate::respond::{Cause, Failure};
use crate::service::Call;

/// Serves the stored bytes under the stored type, whatever `Accept` says
///
/// A registry that converts, or hides what the client did not ask for, serves other bytes
/// than the digest names, or none. Clients check the type themselves.
pub(crate) async fn get(
    call: &Call,
    name: &RepositoryName,
    reference: &TagOrDigest,
) -> Result<Response<ResponseBody>, Failure> {
    let manifest = call.store().manifest(name, reference).await?;
    let reply = |status| Reply::new(status).digest(&manifest.digest);
    if conditional::client_has(&call.headers, &manifest.digest) {
        return Ok(reply(StatusCode::NOT_MODIFIED).empty());
    }
    let tag = match reference {
        TagOrDigest::Tag(tag) => Some(tag),
        TagOrDigest::Digest(_) => None,
    };
    call.events
        .manifest_pulled(name, &manifest, tag, call.manifest_limits());
    Ok(reply(StatusCode::OK)
        .text(header::CONTENT_TYPE, manifest.media_type.as_str())
        .body(manifest.bytes))
}

pub(crate) async fn put(
    call: &Call,
    body: &mut RequestBody,
    name: &RepositoryName,
    reference: &TagOrDigest,
    tags: &[Tag],
) -> Result<Response<ResponseBody>, Failure> {
    let media_type = content_type(&call.headers)?;
    let limits = *call.manifest_limits();
    let bytes = match body.read_all(limits.max_bytes).await {
        Ok(Some(bytes)) => bytes,
        Ok(None) => {
            let announced = body
                .length()
                .and_then(|length| usize::try_from(length).ok());
            return Err(ManifestError::TooLarge {
                limit: limits.max_bytes,
                got: announced.unwrap_or(limits.max_bytes + 1),
            }
            .into());
        }
        Err(error) => {
            return Err(Cause::Body {
                error,
                code: ErrorCode::ManifestInvalid,
            }
            .into());
        }
    };
    let (digest, tags) = match reference {
        TagOrDigest::Digest(expected) => {
            let computed = Digest::of(expected.algorithm(), &bytes);
            if computed != *expected {
                return Err(Cause::DigestMismatch {
                    expected: *expected,
                    computed,
                }
                .into());
            }
            (computed, tags)
        }
        TagOrDigest::Tag(tag) => (
            Digest::of(Algorithm::default(), &bytes),
            std::slice::from_ref(tag),
        ),
    };
    let manifest = Manifest::parse(bytes, media_type.as_ref(), &limits)?;
    call.check_urls(&manifest)?;
    call.events.admit().await?;
    call.store()
        .put_manifest(name, &manifest, digest, tags)
        .await?;
    call.events
        .manifest_pushed(name, &digest, &manifest, tags)
        .await?;

    let mut reply = Reply::new(StatusCode::CREATED)
        .header(
            header::LOCATION,
            format_args!("/v2/{name}/manifests/{digest}"),
        )
        .header(CONTENT_DIGEST, digest);
    // Without this header the client keeps the list of referrers itself, under a tag.
    if let Some(subject) = manifest.subject()
        && let DescriptorDigest::Known(subject) = &subject.digest
    {
        reply = reply.header(SUBJECT, subject);
    }
    if matches!(reference, TagOrDigest::Digest(_)) && !tags.is_empty() {
        let tags: Vec<&str> = tags.iter().map(Tag::as_str).collect();
        reply = reply.header(TAG, tags.join(", "));
    }
    Ok(reply.empty())
}

pub(crate) async fn delete(
    call: &Call,
    name: &RepositoryName,
    reference: &TagOrDigest,
) -> Result<Response<ResponseBody>, Failure> {
    call.require_delete("GET, HEAD, PUT")?;
    call.events.admit().await?;
    match reference {
        TagOrDigest::Tag(tag) => {
            call.store().delete_tag(name, tag).await?;
            call.events.tag_deleted(name, tag).await?;
        }
        TagOrDigest::Digest(digest) => {
            let tags = call.store().delete_manifest(name, digest).await?;
            call.events.manifest_deleted(name, digest, &tags).await?;
        }
    }
    Ok(Reply::new(StatusCode::ACCEPTED).empty())
}

/// The type that the client says the manifest has, if it says one
fn content_type(headers: &HeaderMap) -> Result<Option<MediaType>, Failure> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    Ok(Some(MediaType::from_content_type(&text)?))
}
