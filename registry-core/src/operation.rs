//! What a request asks for, made of validated parts

use std::fmt;

use crate::digest::{Algorithm, Digest};
use crate::name::{RepositoryName, Tag, TagOrDigest};
use crate::page::Page;
use crate::upload::UploadId;

/// One request to the registry, understood
///
/// Made by [`route`](crate::route::route()). The same value gives the permission needed
/// ([`Operation::access`]), the token scope ([`Access`]'s `Display`) and the metric label
/// ([`Operation::label`]), so that those can never disagree.
///
/// # Examples
///
/// ```
/// use registry_core::{Operation, route};
///
/// let operation = route("DELETE", "/v2/team/app/manifests/v1", None)?;
/// assert_eq!(operation.label(), "delete_manifest");
/// assert_eq!(operation.access()[0].to_string(), "repository:team/app:delete");
/// # Ok::<(), registry_core::RouteError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// `DELETE /v2/<name>/blobs/uploads/<id>` (end-14)
    CancelUpload {
        /// The repository of the session
        name: RepositoryName,
        /// The session
        id: UploadId,
    },
    /// `GET /v2/_catalog` (Docker's registry API, "Catalog")
    Catalog {
        /// Which page
        page: Page,
    },
    /// `PUT /v2/<name>/blobs/uploads/<id>?digest=` (end-6)
    CompleteUpload {
        /// The repository of the session
        name: RepositoryName,
        /// The session
        id: UploadId,
        /// The digest of the whole blob
        digest: Digest,
    },
    /// `DELETE /v2/<name>/blobs/<digest>` (end-10)
    DeleteBlob {
        /// The repository
        name: RepositoryName,
        /// The blob
        digest: Digest,
    },
    /// `DELETE /v2/<name>/manifests/<tag-or-digest>` (end-9)
    DeleteManifest {
        /// The repository
        name: RepositoryName,
        /// The tag to remove, or the manifest with all tags that point to it
        reference: TagOrDigest,
    },
    /// `GET` or `HEAD /v2/<name>/blobs/<digest>` (end-2)
    GetBlob {
        /// The repository
        name: RepositoryName,
        /// The blob
        digest: Digest,
    },
    /// `GET` or `HEAD /v2/<name>/manifests/<tag-or-digest>` (end-3)
    GetManifest {
        /// The repository
        name: RepositoryName,
        /// The manifest
        reference: TagOrDigest,
    },
    /// `GET /v2/<name>/referrers/<digest>` (end-12)
    ListReferrers {
        /// The repository
        name: RepositoryName,
        /// The subject
        digest: Digest,
        /// Only referrers of this artifact type
        artifact_type: Option<String>,
        /// Which page
        page: Page,
    },
    /// `GET /v2/<name>/tags/list` (end-8)
    ListTags {
        /// The repository
        name: RepositoryName,
        /// Which page
        page: Page,
    },
    /// `GET /v2/` (end-1)
    Ping,
    /// `PUT /v2/<name>/manifests/<tag-or-digest>` (end-7)
    PutManifest {
        /// The repository
        name: RepositoryName,
        /// The tag to set, or the digest that the body must have
        reference: TagOrDigest,
        /// Tags to set besides (`?tag=`, only with a digest)
        tags: Vec<Tag>,
    },
    /// `POST /v2/<name>/blobs/uploads/` (end-4, end-11)
    StartUpload {
        /// The repository
        name: RepositoryName,
        /// Which kind of upload
        start: StartUpload,
    },
    /// `PATCH /v2/<name>/blobs/uploads/<id>` (end-5)
    UploadChunk {
        /// The repository of the session
        name: RepositoryName,
        /// The session
        id: UploadId,
    },
    /// `GET /v2/<name>/blobs/uploads/<id>` (end-13)
    UploadStatus {
        /// The repository of the session
        name: RepositoryName,
        /// The session
        id: UploadId,
    },
}

/// How an upload begins
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StartUpload {
    /// The whole blob is the body of this request (end-4b)
    Monolithic {
        /// The digest that the body must have
        digest: Digest,
    },
    /// Take a blob that another repository already has (end-11)
    Mount {
        /// The blob
        digest: Digest,
        /// The repository that has it; without one, any that the caller may pull from
        from: Option<RepositoryName>,
    },
    /// Bytes follow in later requests (end-4a, end-4c)
    Session {
        /// The algorithm of the digest that will close the session
        algorithm: Algorithm,
    },
}

impl Operation {
    /// The repository it is about, if any
    pub fn repository(&self) -> Option<&RepositoryName> {
        match self {
            Self::Catalog { .. } | Self::Ping => None,
            Self::CancelUpload { name, .. }
            | Self::CompleteUpload { name, .. }
            | Self::DeleteBlob { name, .. }
            | Self::DeleteManifest { name, .. }
            | Self::GetBlob { name, .. }
            | Self::GetManifest { name, .. }
            | Self::ListReferrers { name, .. }
            | Self::ListTags { name, .. }
            | Self::PutManifest { name, .. }
            | Self::StartUpload { name, .. }
            | Self::UploadChunk { name, .. }
            | Self::UploadStatus { name, .. } => Some(name),
        }
    }

    /// What the caller must be allowed to do, all of it
    ///
    /// Nothing for [`Operation::Ping`]. A mount's source is not among them: without the right
    /// to pull from it the request is still a good one and becomes an ordinary upload
    /// (distribution specification, "Mounting a blob from another repository").
    pub fn access(&self) -> Vec<Access> {
        let repository = |name: &RepositoryName, action, reference: Option<TagOrDigest>| Access {
            resource: Resource::Repository(name.clone()),
            action,
            reference,
        };
        match self {
            Self::Ping => Vec::new(),
            Self::Catalog { .. } => vec![Access {
                resource: Resource::Catalog,
                action: Action::All,
                reference: None,
            }],
            Self::GetBlob { name, digest } | Self::ListReferrers { name, digest, .. } => {
                vec![repository(name, Action::Pull, Some((*digest).into()))]
            }
            Self::GetManifest { name, reference } => {
                vec![repository(name, Action::Pull, Some(reference.clone()))]
            }
            Self::ListTags { name, .. } => vec![repository(name, Action::Pull, None)],
            Self::CancelUpload { name, .. }
            | Self::CompleteUpload { name, .. }
            | Self::StartUpload { name, .. }
            | Self::UploadChunk { name, .. }
            | Self::UploadStatus { name, .. } => vec![
                repository(name, Action::Pull, None),
                repository(name, Action::Push, None),
            ],
            Self::PutManifest {
                name,
                reference,
                tags,
            } => {
                let references = std::iter::once(reference.clone())
                    .chain(tags.iter().cloned().map(TagOrDigest::Tag));
                std::iter::once(repository(name, Action::Pull, None))
                    .chain(
                        references.map(|reference| repository(name, Action::Push, Some(reference))),
                    )
                    .collect()
            }
            Self::DeleteBlob { name, digest } => {
                vec![repository(name, Action::Delete, Some((*digest).into()))]
            }
            Self::DeleteManifest { name, reference } => {
                vec![repository(name, Action::Delete, Some(reference.clone()))]
            }
        }
    }

    /// A short constant name for metrics and logs
    pub fn label(&self) -> &'static str {
        match self {
            Self::CancelUpload { .. } => "cancel_upload",
            Self::Catalog { .. } => "catalog",
            Self::CompleteUpload { .. } => "complete_upload",
            Self::DeleteBlob { .. } => "delete_blob",
            Self::DeleteManifest { .. } => "delete_manifest",
            Self::GetBlob { .. } => "get_blob",
            Self::GetManifest { .. } => "get_manifest",
            Self::ListReferrers { .. } => "list_referrers",
            Self::ListTags { .. } => "list_tags",
            Self::Ping => "ping",
            Self::PutManifest { .. } => "put_manifest",
            Self::StartUpload { .. } => "start_upload",
            Self::UploadChunk { .. } => "upload_chunk",
            Self::UploadStatus { .. } => "upload_status",
        }
    }
}

/// One permission: an action on a resource
///
/// Its `Display` is the token scope of Docker's token specification, such as
/// `repository:team/app:pull`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Access {
    /// What it is about
    pub resource: Resource,
    /// What is done to it
    pub action: Action,
    /// To which of its content; `None` when it is about the whole, or not known yet
    ///
    /// The blobs of a push come before the manifest that says for which tag they are. No part
    /// of a token scope.
    pub reference: Option<TagOrDigest>,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.resource {
            Resource::Catalog => write!(f, "registry:catalog:{}", self.action.as_str()),
            Resource::Repository(name) => write!(f, "repository:{name}:{}", self.action.as_str()),
        }
    }
}

/// What a permission is about
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Resource {
    /// The list of all repositories
    Catalog,
    /// One repository
    Repository(RepositoryName),
}

/// What may be done to a resource
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Action {
    /// Everything (`*`)
    All,
    /// Remove content
    Delete,
    /// Read content
    Pull,
    /// Add content
    Push,
}

impl Action {
    /// The action as a token scope writes it
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "*",
            Self::Delete => "delete",
            Self::Pull => "pull",
            Self::Push => "push",
        }
    }
}
