//! Upload sessions, monolithic uploads and mounts

use http::{HeaderMap, Response, StatusCode, header};
use registry_auth::{Access, Action, Resource};
use registry_core::upload::{ChunkError, ChunkHeader, UploadId};
use registry_core::{Algorithm, ChunkRange, Digest, ErrorCode, RepositoryName, StartUpload};
use registry_storage::{AppendError, CompleteUploadError, Upload};

use crate::body::ResponseBody;
use crate::reply::{CONTENT_DIGEST, Reply, UPLOAD_UUID, UploadState};
use crate::request_body::{RequestBody, RequestBodyError};
use crate::respond::{Cause, Failure};
use crate::service::Call;

pub(crate) async fn start(
    call: &Call,
    body: &mut RequestBody,
    name: &RepositoryName,
    start: &StartUpload,
) -> Result<Response<ResponseBody>, Failure> {
    let algorithm = match start {
        StartUpload::Monolithic { digest } => return monolithic(call, body, name, digest).await,
        StartUpload::Mount { digest, from } => {
            if let Some(source) = mount(call, name, digest, from.as_ref()).await? {
                if call.events.is_on() {
                    let size = call.store().stat_blob(name, digest).await?;
                    call.events
                        .blob_mounted(name, digest, size, source.as_ref())
                        .await?;
                }
                return Ok(created(name, digest));
            }
            digest.algorithm()
        }
        StartUpload::Session { algorithm } => *algorithm,
        _ => Algorithm::default(),
    };
    let upload = call.store().start_upload(name, algorithm).await?;
    Ok(state(call, name, &upload).reply(StatusCode::ACCEPTED))
}

pub(crate) async fn status(
    call: &Call,
    name: &RepositoryName,
    id: &UploadId,
) -> Result<Response<ResponseBody>, Failure> {
    let upload = call.store().open_upload(name, id).await?;
    Ok(state(call, name, &upload).reply(StatusCode::NO_CONTENT))
}

pub(crate) async fn chunk(
    call: &Call,
    body: &mut RequestBody,
    name: &RepositoryName,
    id: &UploadId,
) -> Result<Response<ResponseBody>, Failure> {
    let mut upload = call.store().open_upload(name, id).await?;
    let header = chunk_header(call, body)?;
    match upload.append(header, &mut *body).await {
        Ok(()) => Ok(state(call, name, &upload).reply(StatusCode::ACCEPTED)),
        Err(error) => Err(append_failure(call, body, name, id, error)),
    }
}

pub(crate) async fn complete(
    call: &Call,
    body: &mut RequestBody,
    name: &RepositoryName,
    id: &UploadId,
    digest: &Digest,
) -> Result<Response<ResponseBody>, Failure> {
    let mut upload = call.store().open_upload(name, id).await?;
    call.events.admit().await?;
    // The algorithm is known for sure only now; while there are no bytes it costs nothing to
    // hash with it from the start.
    upload.set_algorithm(digest.algorithm());
    let empty = body.is_empty().await.map_err(body_failure)?;
    let result = if empty {
        // A `Content-Range` without a body means nothing; some clients send one.
        upload.complete(*digest).await
    } else {
        let header = chunk_header(call, body)?;
        upload
            .append_and_complete(header, &mut *body, *digest)
            .await
    };
    match result {
        Ok(()) => pushed(call, name, digest).await,
        Err(CompleteUploadError::Append(error)) => Err(append_failure(call, body, name, id, error)),
        Err(error) => Err(error.into()),
    }
}

pub(crate) async fn cancel(
    call: &Call,
    name: &RepositoryName,
    id: &UploadId,
) -> Result<Response<ResponseBody>, Failure> {
    call.store().open_upload(name, id).await?.cancel().await?;
    Ok(Reply::new(StatusCode::NO_CONTENT)
        .header(UPLOAD_UUID, id)
        .empty())
}

/// A blob in one request; what fails leaves no session behind, for the client never saw one
async fn monolithic(
    call: &Call,
    body: &mut RequestBody,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Response<ResponseBody>, Failure> {
    call.events.admit().await?;
    let upload = call.store().start_upload(name, digest.algorithm()).await?;
    let id = upload.id();
    let header = ChunkHeader {
        range: None,
        length: body.length(),
    };
    let Err(error) = upload
        .append_and_complete(header, &mut *body, *digest)
        .await
    else {
        return pushed(call, name, digest).await;
    };
    if let Ok(upload) = call.store().open_upload(name, &id).await
        && let Err(error) = upload.cancel().await
    {
        tracing::warn!(%name, %id, error = &error as &dyn std::error::Error, "a failed upload was left behind; it expires");
    }
    match error {
        CompleteUploadError::Append(AppendError::Body(_)) if body.stalled() => {
            Err(body_failure(RequestBodyError::Stalled {
                patience: call.body_patience(),
            }))
        }
        error => Err(error.into()),
    }
}

/// Tries to give the repository a blob that is in the registry already
///
/// Whatever is in the way of it, the client can still upload the blob (specification,
/// "Mounting a blob"), so nothing here is an error, except that nobody could be told of it.
///
/// Returns where the blob came from, `Some(None)` when the repository had it already and the
/// client named no other that has it. A client that mounts again because it never got the
/// answer to the first time is answered, and told of, as the first time.
async fn mount(
    call: &Call,
    name: &RepositoryName,
    digest: &Digest,
    from: Option<&RepositoryName>,
) -> Result<Option<Option<RepositoryName>>, Failure> {
    call.events.admit().await?;
    let may_read = async |source: &RepositoryName| {
        let access = Access {
            resource: Resource::Repository(source.clone()),
            action: Action::Pull,
            reference: Some((*digest).into()),
        };
        call.allows(&access).await
    };
    if call.store().stat_blob(name, digest).await.is_ok() {
        let source = match from {
            Some(from)
                if call.events.is_on()
                    && may_read(from).await
                    && call.store().stat_blob(from, digest).await.is_ok() =>
            {
                Some(from.clone())
            }
            _ => None,
        };
        return Ok(Some(source));
    }
    let sources = match from {
        Some(from) => vec![from.clone()],
        None => call.store().blob_sources(digest),
    };
    for source in sources {
        if !may_read(&source).await {
            continue;
        }
        match call.store().mount_blob(&source, name, digest).await {
            Ok(true) => return Ok(Some(Some(source))),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%source, %name, %digest, error = &error as &dyn std::error::Error, "a mount failed, the client has to upload");
            }
        }
    }
    Ok(None)
}

/// Tells of a blob that was stored, and answers
async fn pushed(
    call: &Call,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Response<ResponseBody>, Failure> {
    if call.events.is_on() {
        let size = call.store().stat_blob(name, digest).await?;
        call.events.blob_pushed(name, digest, size).await?;
    }
    Ok(created(name, digest))
}

fn created(name: &RepositoryName, digest: &Digest) -> Response<ResponseBody> {
    Reply::new(StatusCode::CREATED)
        .header(header::LOCATION, format_args!("/v2/{name}/blobs/{digest}"))
        .header(CONTENT_DIGEST, digest)
        .empty()
}

fn state(call: &Call, name: &RepositoryName, upload: &Upload) -> UploadState {
    state_at(call, name, &upload.id(), upload.offset())
}

fn state_at(call: &Call, name: &RepositoryName, id: &UploadId, offset: u64) -> UploadState {
    UploadState {
        location: call.upload_path(name, id),
        id: id.to_string(),
        offset,
    }
}

fn append_failure(
    call: &Call,
    body: &RequestBody,
    name: &RepositoryName,
    id: &UploadId,
    error: AppendError,
) -> Failure {
    if body.stalled() {
        return body_failure(RequestBodyError::Stalled {
            patience: call.body_patience(),
        });
    }
    let state = match &error {
        AppendError::Chunk(ChunkError::OutOfOrder { expected, .. }) => {
            Some(state_at(call, name, id, *expected))
        }
        _ => None,
    };
    Cause::Append { error, state }.into()
}

fn body_failure(error: RequestBodyError) -> Failure {
    Cause::Body {
        error,
        code: ErrorCode::BlobUploadInvalid,
    }
    .into()
}

fn chunk_header(call: &Call, body: &RequestBody) -> Result<ChunkHeader, Failure> {
    Ok(ChunkHeader {
        range: chunk_range(&call.headers)?,
        length: body.length(),
    })
}

fn chunk_range(headers: &HeaderMap) -> Result<Option<ChunkRange>, Failure> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(value.as_bytes());
    Ok(Some(ChunkRange::parse(&text)?))
}
