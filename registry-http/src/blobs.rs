//! Blobs: to read, in whole or in part, and to delete

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use registry_core::range::Resolved;
use registry_core::{ByteRange, Digest, RangeHeader, RepositoryName};
use registry_storage::{BlobError, Store};
use uuid::Uuid;

use crate::body::{BodyError, ResponseBody};
use crate::conditional;
use crate::ranges::{Multipart, content_range};
use crate::redirect;
use crate::reply::Reply;
use crate::respond::{Cause, Failure};
use crate::service::Call;

/// Content under a digest never changes
const CACHE_CONTROL: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Nothing is known of what is in it
const CONTENT_TYPE: HeaderValue = HeaderValue::from_static("application/octet-stream");

pub(crate) async fn get(
    call: &Call,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Response<ResponseBody>, Failure> {
    let reply = |status| {
        Reply::new(status)
            .digest(digest)
            .value(header::CACHE_CONTROL, CACHE_CONTROL)
            .value(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"))
    };
    let whole = || reply(StatusCode::OK).value(header::CONTENT_TYPE, CONTENT_TYPE);
    if !call.head && !call.redirects() && is_for_the_whole(&call.headers) {
        // What most pulls ask for, in one look at the blob.
        let (size, body) = open(call, name, digest, None).await?;
        call.events.blob_pulled(name, digest, size);
        return Ok(whole().body(body));
    }
    let size = call.store().stat_blob(name, digest).await?;
    if conditional::client_has(&call.headers, digest) {
        return Ok(reply(StatusCode::NOT_MODIFIED).empty());
    }
    if call.head {
        // The length of the whole: a range means something to GET alone (RFC 9110, section
        // 14.2).
        call.events.blob_pulled(name, digest, size);
        return Ok(whole().value(header::CONTENT_LENGTH, size.into()).empty());
    }
    let wanted = resolve(&call.headers, digest, size);
    if redirect::is_for_others(&call.headers, &wanted)
        && let Some(location) = call.redirect(name, digest, size).await
    {
        call.events.blob_pulled(name, digest, size);
        return Ok(redirect::respond(digest, &location));
    }
    let parts = match wanted {
        Resolved::Whole => {
            let (_, body) = open(call, name, digest, None).await?;
            call.events.blob_pulled(name, digest, size);
            return Ok(whole().body(body));
        }
        Resolved::Parts(parts) => parts,
        Resolved::Unsatisfiable => return Err(Cause::Range { size }.into()),
    };
    if let [range] = parts[..] {
        let (_, body) = open(call, name, digest, Some(range)).await?;
        call.events.blob_pulled(name, digest, size);
        return Ok(reply(StatusCode::PARTIAL_CONTENT)
            .value(header::CONTENT_TYPE, CONTENT_TYPE)
            .header(header::CONTENT_RANGE, content_range(range, size))
            .body(body));
    }
    let multipart = Multipart::new(parts, size, Uuid::new_v4());
    let reply =
        reply(StatusCode::PARTIAL_CONTENT).header(header::CONTENT_TYPE, multipart.content_type());
    let length = multipart.length();
    call.events.blob_pulled(name, digest, size);
    let stream = parts_of(call.store().clone(), name.clone(), *digest, multipart);
    Ok(reply.body(ResponseBody::stream(length, stream)))
}

/// The size of a blob, and the body with all of it or a part
async fn open(
    call: &Call,
    name: &RepositoryName,
    digest: &Digest,
    range: Option<ByteRange>,
) -> Result<(u64, ResponseBody), BlobError> {
    let length = |size| range.map_or(size, |range| range.len());
    Ok(if call.takes_files {
        let (size, pieces) = call.store().open_blob_pieces(name, digest, range).await?;
        (size, ResponseBody::pieces(length(size), pieces))
    } else {
        let (size, stream) = call.store().open_blob(name, digest, range).await?;
        let stream = stream.map_err(BodyError::from);
        (size, ResponseBody::stream(length(size), stream))
    })
}

pub(crate) async fn delete(
    call: &Call,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Response<ResponseBody>, Failure> {
    call.require_delete("GET, HEAD")?;
    call.events.admit().await?;
    call.store().delete_blob(name, digest).await?;
    call.events.blob_deleted(name, digest).await?;
    Ok(Reply::new(StatusCode::ACCEPTED).empty())
}

/// Whether nothing is asked for but all of the blob, whatever the client has
fn is_for_the_whole(headers: &HeaderMap) -> bool {
    !headers.contains_key(header::RANGE) && !headers.contains_key(header::IF_NONE_MATCH)
}

fn resolve(headers: &HeaderMap, digest: &Digest, size: u64) -> Resolved {
    if !conditional::range_applies(headers, digest) {
        return Resolved::Whole;
    }
    headers
        .get(header::RANGE)
        .and_then(|value| value.to_str().ok())
        .and_then(RangeHeader::parse)
        .map_or(Resolved::Whole, |range| range.resolve(size))
}

/// The ranges one after the other, each opened when its turn comes
fn parts_of(
    store: Store,
    name: RepositoryName,
    digest: Digest,
    multipart: Multipart,
) -> impl Stream<Item = Result<bytes::Bytes, BodyError>> + Send + 'static {
    let (parts, end) = multipart.into_parts();
    let open = move |range: ByteRange| {
        let (store, name) = (store.clone(), name.clone());
        async move {
            let stream = store.read_blob(&name, &digest, Some(range)).await?;
            Ok::<_, BodyError>(stream.map_err(BodyError::from))
        }
    };
    stream::iter(parts)
        .flat_map(move |(head, range)| {
            let content = stream::once(open(range)).try_flatten();
            stream::iter([Ok(head)]).chain(content).boxed()
        })
        .chain(stream::iter([Ok(end)]))
}
