//! Where distribution v2 keeps what, to the byte
//!
//! Everything is below `docker/registry/v2/`. Keys are only ever made from validated types, so
//! what a client sends reaches a path through a grammar that has no `..` and no empty
//! component. The one folder that distribution does not know, `_referrers`, starts with an
//! underscore: its walks skip such folders.

use registry_core::{Algorithm, Digest, RepositoryName, Tag, UploadId};

use crate::driver::Key;
use crate::store::SessionKeyId;

const ROOT: &str = "docker/registry/v2";

const REPOSITORIES: &str = "docker/registry/v2/repositories/";

/// `blobs/<algorithm>/<first two hex digits>/<hex>/data`
pub(crate) fn blob(digest: &Digest) -> Key {
    let text = digest.text();
    let (algorithm, hex) = (digest.algorithm().as_str(), text.hex());
    key([
        ROOT,
        "/blobs/",
        algorithm,
        "/",
        &hex[..2],
        "/",
        hex,
        "/data",
    ]
    .concat())
}

/// Whether there can only be one content under this key: that of a blob
pub(crate) fn is_blob(key: &Key) -> bool {
    let parts: Option<Vec<&str>> = key
        .as_str()
        .strip_prefix(ROOT)
        .map(|rest| rest.split('/').collect());
    match parts.as_deref() {
        Some(["", "blobs", algorithm, _, hex, "data"]) => {
            Digest::try_from(format!("{algorithm}:{hex}").as_str())
                .is_ok_and(|digest| blob(&digest) == *key)
        }
        _ => false,
    }
}

/// Whether it says what a repository has, in a few bytes: a tag, a manifest, a layer, a referrer
pub(crate) fn is_link(key: &Key) -> bool {
    key.name() == "link"
}

/// Beside a blob's data: a copy that did not hash to its name and was moved out of the way
pub(crate) fn damaged_blob(digest: &Digest) -> Key {
    let hex = digest.hex();
    key(format!(
        "{ROOT}/blobs/{}/{}/{hex}/damaged",
        digest.algorithm(),
        &hex[..2]
    ))
}

/// The folder of the secrets that all processes on the storage share; distribution never looks
/// there
pub(crate) fn session_keys() -> Key {
    key(format!("{ROOT}/session-keys"))
}

/// One of those secrets
pub(crate) fn session_key(id: &SessionKeyId) -> Key {
    key(format!("{ROOT}/session-keys/{id}"))
}

/// The folder of all repositories
pub(crate) fn repositories() -> Key {
    key(format!("{ROOT}/repositories"))
}

/// The folder of one repository, which may hold other repositories too
pub(crate) fn repository(name: &str) -> Key {
    key(format!("{ROOT}/repositories/{name}"))
}

/// Says that the repository has the blob
pub(crate) fn layer_link(name: &RepositoryName, digest: &Digest) -> Key {
    link(name, "/_layers/", digest)
}

/// The folder of the blobs of one algorithm that the repository has
pub(crate) fn layers(name: &RepositoryName, algorithm: Algorithm) -> Key {
    key(format!("{ROOT}/repositories/{name}/_layers/{algorithm}"))
}

/// The folder without which distribution does not list a repository
pub(crate) fn manifests(name: &str) -> Key {
    key(format!("{ROOT}/repositories/{name}/_manifests"))
}

/// The folder of the manifests of one algorithm
pub(crate) fn revisions(name: &RepositoryName, algorithm: Algorithm) -> Key {
    key(format!(
        "{ROOT}/repositories/{name}/_manifests/revisions/{algorithm}"
    ))
}

/// Says that the repository has the manifest
pub(crate) fn revision_link(name: &RepositoryName, digest: &Digest) -> Key {
    link(name, "/_manifests/revisions/", digest)
}

/// The folder of all tags
pub(crate) fn tags(name: &RepositoryName) -> Key {
    key(format!("{ROOT}/repositories/{name}/_manifests/tags"))
}

/// The folder of one tag
pub(crate) fn tag(name: &RepositoryName, tag: &Tag) -> Key {
    key(format!("{ROOT}/repositories/{name}/_manifests/tags/{tag}"))
}

/// What the tag points to
pub(crate) fn tag_current(name: &RepositoryName, tag: &Tag) -> Key {
    let (name, tag) = (name.as_str(), tag.as_str());
    key([
        REPOSITORIES,
        name,
        "/_manifests/tags/",
        tag,
        "/current/link",
    ]
    .concat())
}

/// What the tag has pointed to at some time
pub(crate) fn tag_index(name: &RepositoryName, tag: &Tag, digest: &Digest) -> Key {
    key(format!(
        "{ROOT}/repositories/{name}/_manifests/tags/{tag}/index/{}/{}/link",
        digest.algorithm(),
        digest.hex()
    ))
}

/// The folder of what the tag has pointed to, by the algorithm of the digests
pub(crate) fn tag_history(name: &RepositoryName, tag: &Tag, algorithm: Algorithm) -> Key {
    key(format!(
        "{ROOT}/repositories/{name}/_manifests/tags/{tag}/index/{algorithm}"
    ))
}

/// The folder of the referrers of a subject, by the algorithm of their own digests
pub(crate) fn referrers(name: &RepositoryName, subject: &Digest, algorithm: Algorithm) -> Key {
    key(format!(
        "{ROOT}/repositories/{name}/_referrers/{}/{}/{algorithm}",
        subject.algorithm(),
        subject.hex()
    ))
}

/// Says that `referrer` has `subject` as its subject
pub(crate) fn referrer_link(name: &RepositoryName, subject: &Digest, referrer: &Digest) -> Key {
    key(format!(
        "{ROOT}/repositories/{name}/_referrers/{}/{}/{}/{}/link",
        subject.algorithm(),
        subject.hex(),
        referrer.algorithm(),
        referrer.hex()
    ))
}

/// The last component of [`uploads`]
pub(crate) const UPLOADS: &str = "_uploads";

/// The folder of all upload sessions of a repository
pub(crate) fn uploads(name: &RepositoryName) -> Key {
    key(format!("{ROOT}/repositories/{name}/{UPLOADS}"))
}

/// The folder of an upload session
pub(crate) fn upload(name: &RepositoryName, id: &UploadId) -> Key {
    key(format!("{ROOT}/repositories/{name}/_uploads/{id}"))
}

/// The bytes of an upload so far
pub(crate) fn upload_data(name: &RepositoryName, id: &UploadId) -> Key {
    key(format!("{ROOT}/repositories/{name}/_uploads/{id}/data"))
}

/// When the upload began
pub(crate) fn upload_started(name: &RepositoryName, id: &UploadId) -> Key {
    key(format!(
        "{ROOT}/repositories/{name}/_uploads/{id}/startedat"
    ))
}

/// The folder of the folders of saved hashes
pub(crate) fn upload_algorithms(name: &RepositoryName, id: &UploadId) -> Key {
    key(format!(
        "{ROOT}/repositories/{name}/_uploads/{id}/hashstates"
    ))
}

/// The folder of the saved hashes of one algorithm
pub(crate) fn upload_states(name: &RepositoryName, id: &UploadId, algorithm: Algorithm) -> Key {
    key(format!(
        "{ROOT}/repositories/{name}/_uploads/{id}/hashstates/{algorithm}"
    ))
}

/// The saved hash of the first `offset` bytes
pub(crate) fn upload_state(
    name: &RepositoryName,
    id: &UploadId,
    algorithm: Algorithm,
    offset: u64,
) -> Key {
    key(format!(
        "{ROOT}/repositories/{name}/_uploads/{id}/hashstates/{algorithm}/{offset}"
    ))
}

/// A mark that tells for a moment whether two storages are one
pub(crate) fn mark(id: &UploadId) -> Key {
    key(format!("{ROOT}/copy-{id}"))
}

/// What says that the repository has the content of a digest
///
/// Put together without a formatter, as is what else each pull asks for.
fn link(name: &RepositoryName, folder: &str, digest: &Digest) -> Key {
    let text = digest.text();
    let (algorithm, hex) = (digest.algorithm().as_str(), text.hex());
    key([
        REPOSITORIES,
        name.as_str(),
        folder,
        algorithm,
        "/",
        hex,
        "/link",
    ]
    .concat())
}

fn key(path: String) -> Key {
    // Names, tags, digests and upload ids have no empty, `.` or `..` component and no control
    // character by their grammars; the rest of each path is written above.
    Key::of_valid(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_are_told_by_their_keys() {
        let digest = Digest::sha256(b"hello");
        assert!(is_blob(&blob(&digest)));
        let name = RepositoryName::try_from("a/b").unwrap();
        for other in [
            damaged_blob(&digest),
            layer_link(&name, &digest),
            tag_current(&name, &Tag::try_from("data").unwrap()),
            Key::parse(&format!("{ROOT}/blobs/sha256/00/{}/data", digest.hex())).unwrap(),
            Key::parse("blobs/data").unwrap(),
        ] {
            assert!(!is_blob(&other), "{other}");
        }
    }
}
