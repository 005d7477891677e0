//! Lists: tags, repositories, referrers

use std::collections::BTreeMap;

use http::{Response, StatusCode, header};
use registry_core::page::next_link;
use registry_core::{Digest, MediaType, Page, RepositoryName, Tag};
use registry_storage::Referrer;
use serde::Serialize;

use crate::body::ResponseBody;
use crate::compress;
use crate::reply::{FILTERS_APPLIED, Reply};
use crate::respond::Failure;
use crate::service::Call;

/// How many repositories are listed when the client names no number, as in distribution
const REPOSITORIES: usize = 100;

/// How long a list of referrers may get: clients take 4 MiB (specification, "Listing
/// Referrers"), and some count the whole document
const MAX_REFERRERS_BYTES: usize = 7 << 19;

#[derive(Serialize)]
struct Catalog {
    repositories: Vec<RepositoryName>,
}

#[derive(Serialize)]
struct TagList<'a> {
    name: &'a RepositoryName,
    tags: Vec<Tag>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor<'a> {
    media_type: &'a MediaType,
    digest: &'a Digest,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    artifact_type: Option<&'a str>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    annotations: &'a BTreeMap<String, String>,
}

pub(crate) async fn repositories(
    call: &Call,
    page: &Page,
) -> Result<Response<ResponseBody>, Failure> {
    let limit = page.limit.unwrap_or(REPOSITORIES).min(call.catalog_limit());
    let mut next = None;
    let mut repositories = Vec::new();
    if limit > 0 {
        let listing = call
            .store()
            .repositories(page.last.as_deref(), limit)
            .await?;
        if let (true, Some(last)) = (listing.more, listing.items.last()) {
            let query = [("n", &*limit.to_string()), ("last", last.as_str())];
            next = Some(next_link("/v2/_catalog", &query));
        }
        repositories = listing.items;
    }
    Ok(json(
        call,
        "application/json",
        to_json(&Catalog { repositories }),
        next,
    ))
}

pub(crate) async fn tags(
    call: &Call,
    name: &RepositoryName,
    page: &Page,
) -> Result<Response<ResponseBody>, Failure> {
    let listing = call
        .store()
        .tags(name, page.last.as_deref(), page.limit)
        .await?;
    let mut next = None;
    // After a page of no tags there is no last one to go on from, so `n=0` has no next page.
    if let (true, Some(last)) = (listing.more, listing.items.last()) {
        let limit = page.limit.map(|limit| limit.to_string());
        let mut query = Vec::new();
        query.extend(limit.as_deref().map(|limit| ("n", limit)));
        query.push(("last", last.as_str()));
        next = Some(next_link(&format!("/v2/{name}/tags/list"), &query));
    }
    let tags = TagList {
        name,
        tags: listing.items,
    };
    Ok(json(call, "application/json", to_json(&tags), next))
}

pub(crate) async fn referrers(
    call: &Call,
    name: &RepositoryName,
    subject: &Digest,
    artifact_type: Option<&str>,
    page: &Page,
) -> Result<Response<ResponseBody>, Failure> {
    let referrers = call.store().referrers(name, subject).await?;
    // A `+` that came unescaped through a form decoder is a space, which no type has.
    let filter = artifact_type.map(|wanted| wanted.replace(' ', "+"));
    let (list, last) = index(&referrers, filter.as_deref(), page, MAX_REFERRERS_BYTES);
    let next = last.map(|last| {
        let limit = page.limit.map(|limit| limit.to_string());
        let last = last.to_string();
        let mut query = Vec::new();
        query.extend(filter.as_deref().map(|filter| ("artifactType", filter)));
        query.extend(limit.as_deref().map(|limit| ("n", limit)));
        query.push(("last", &*last));
        next_link(&format!("/v2/{name}/referrers/{subject}"), &query)
    });
    let mut response = json(call, MediaType::OCI_INDEX.as_str(), list, next);
    if filter.is_some() {
        crate::reply::set(response.headers_mut(), FILTERS_APPLIED, "artifactType");
    }
    Ok(response)
}

/// The image index of one page, and its last digest if more follow
fn index(
    referrers: &[Referrer],
    artifact_type: Option<&str>,
    page: &Page,
    max_bytes: usize,
) -> (Vec<u8>, Option<Digest>) {
    let mut list = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":["#,
        MediaType::OCI_INDEX.as_str()
    )
    .into_bytes();
    let limit = page.limit.unwrap_or(usize::MAX);
    let mut shown: Option<Digest> = None;
    let mut count = 0;
    let mut more = false;
    for referrer in referrers {
        if artifact_type.is_some_and(|wanted| referrer.artifact_type.as_deref() != Some(wanted)) {
            continue;
        }
        // The cursor is where the last page ended, be the entry of that digest still there or
        // not.
        if let Some(last) = &page.last
            && referrer.digest.to_string() <= *last
        {
            continue;
        }
        let entry = to_json(&Descriptor {
            media_type: &referrer.media_type,
            digest: &referrer.digest,
            size: referrer.size,
            artifact_type: referrer.artifact_type.as_deref(),
            annotations: &referrer.annotations,
        });
        // One entry always fits, else nobody would ever get past it.
        if count == limit || (count > 0 && list.len() + entry.len() > max_bytes) {
            more = true;
            break;
        }
        if count > 0 {
            list.push(b',');
        }
        list.extend_from_slice(&entry);
        shown = Some(referrer.digest);
        count += 1;
    }
    list.extend_from_slice(b"]}");
    (list, shown.filter(|_| more))
}

fn json(
    call: &Call,
    content_type: &str,
    list: Vec<u8>,
    next: Option<String>,
) -> Response<ResponseBody> {
    let mut reply = Reply::new(StatusCode::OK)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::VARY, "Accept-Encoding");
    if let Some(next) = next {
        reply = reply.header(header::LINK, next);
    }
    match compress::gzip(&call.headers, &list) {
        Some(short) => reply.header(header::CONTENT_ENCODING, "gzip").body(short),
        None => reply.body(list),
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    // Structs of strings, numbers and maps with string keys: serde_json refuses none of them.
    serde_json::to_vec(value).expect("a list is always valid JSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn referrer(content: &str, artifact_type: Option<&str>) -> Referrer {
        Referrer {
            digest: Digest::sha256(content.as_bytes()),
            media_type: MediaType::OCI_MANIFEST,
            size: 7,
            artifact_type: artifact_type.map(str::to_owned),
            annotations: BTreeMap::from([("k".to_owned(), content.to_owned())]),
        }
    }

    fn sorted(count: usize) -> Vec<Referrer> {
        let mut referrers: Vec<_> = (0..count)
            .map(|n| {
                referrer(
                    &n.to_string(),
                    Some(if n % 2 == 0 { "a/even" } else { "a/odd" }),
                )
            })
            .collect();
        referrers.sort_by_key(|referrer| referrer.digest);
        referrers
    }

    fn digests(list: &[u8]) -> Vec<String> {
        let list: serde_json::Value = serde_json::from_slice(list).unwrap();
        assert_eq!(list["schemaVersion"], 2);
        assert_eq!(list["mediaType"], MediaType::OCI_INDEX.as_str());
        list["manifests"]
            .as_array()
            .unwrap()
            .iter()
            .map(|entry| entry["digest"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn pages_are_disjoint_and_complete() {
        let referrers = sorted(50);
        for (limit, max_bytes) in [
            (Some(7), usize::MAX),
            (None, 1000),
            (None, 1),
            (Some(3), 1000),
        ] {
            for filter in [None, Some("a/odd")] {
                let mut seen = Vec::new();
                let mut page = Page { limit, last: None };
                loop {
                    let (list, last) = index(&referrers, filter, &page, max_bytes);
                    let found = digests(&list);
                    assert!(found.len() == 1 || list.len() <= max_bytes.saturating_add(2));
                    seen.extend(found);
                    match last {
                        Some(last) => page.last = Some(last.to_string()),
                        None => break,
                    }
                }
                let expected: Vec<_> = referrers
                    .iter()
                    .filter(|entry| filter.is_none() || entry.artifact_type.as_deref() == filter)
                    .map(|entry| entry.digest.to_string())
                    .collect();
                assert_eq!(seen, expected);
            }
        }
    }

    #[test]
    fn an_entry_has_what_it_has() {
        let mut plain = referrer("x", None);
        plain.annotations.clear();
        let page = Page {
            limit: None,
            last: None,
        };
        let (list, last) = index(&[plain], None, &page, 1 << 20);
        assert_eq!(last, None);
        assert_eq!(
            String::from_utf8(list).unwrap(),
            format!(
                r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":7}}]}}"#,
                Digest::sha256(b"x")
            )
        );
        let none = Page {
            limit: Some(0),
            last: None,
        };
        let (list, last) = index(&sorted(3), None, &none, 1 << 20);
        assert!(digests(&list).is_empty());
        assert_eq!(last, None);
    }
}
