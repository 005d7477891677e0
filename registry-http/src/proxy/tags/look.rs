//! A look at a repository of the upstream: its tags, and what they lead to

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, StatusCode};
use registry_core::manifest::DescriptorDigest;
use registry_core::{Access, Action, Digest, Manifest, MediaType, RepositoryName, Resource, Tag};
use serde::Deserialize;

use super::Inner;
use super::known::{Found, Memory};
use crate::proxy::error::causes;
use crate::proxy::rewrite;
use crate::proxy::upstream::{Answer, Call, CallError, Content, scope_of};
use crate::reply::CONTENT_DIGEST;

/// How deep indexes nest
const MAX_DEPTH: usize = 4;

/// The most bytes of a list of tags
const MAX_LIST: usize = 16 << 20;

impl Inner {
    /// All tags of a repository, and what they lead to
    pub(super) async fn look(
        self: &Arc<Self>,
        name: &RepositoryName,
    ) -> Result<Vec<Found>, String> {
        let tags = self.list(name).await?;
        let memory = Arc::new(self.known().memory(name));
        let seen = Arc::new(Mutex::new(HashMap::new()));
        stream::iter(tags.into_iter().map(|tag| {
            let (inner, name) = (self.clone(), name.clone());
            let (memory, seen) = (memory.clone(), seen.clone());
            async move { inner.lead(&name, tag, &memory, &seen).await }
        }))
        .buffer_unordered(self.limits.parallel)
        .filter_map(|found| async { found.transpose() })
        .collect::<Vec<_>>()
        .await
        .into_iter()
        .collect()
    }

    async fn list(&self, name: &RepositoryName) -> Result<Vec<Tag>, String> {
        #[derive(Deserialize)]
        struct List {
            tags: Option<Vec<String>>,
        }
        let mut tags = Vec::new();
        let mut query = String::new();
        loop {
            let target = format!("/v2/{name}/tags/list{query}");
            let Some((headers, bytes)) = self.get(name, &target, false, MAX_LIST).await? else {
                return Ok(tags);
            };
            let list: List = serde_json::from_slice(&bytes)
                .map_err(|_| "the upstream's list of tags is none".to_owned())?;
            let page = list.tags.unwrap_or_default();
            let is_empty = page.is_empty();
            // What is out of grammar nobody can pull.
            tags.extend(
                page.iter()
                    .filter_map(|tag| Tag::try_from(tag.as_str()).ok()),
            );
            let max = self.limits.max_tags;
            if tags.len() > max {
                return Err(format!("`{name}` has more than {max} tags"));
            }
            match rewrite::next_query(&headers) {
                Some(next) if !is_empty => query = format!("?{next}"),
                _ => return Ok(tags),
            }
        }
    }

    /// What a tag leads to; `None` if it is gone meanwhile
    async fn lead(
        &self,
        name: &RepositoryName,
        tag: Tag,
        memory: &Memory,
        seen: &Mutex<HashMap<Digest, Arc<Manifest>>>,
    ) -> Result<Option<Found>, String> {
        if memory.tags.contains(&tag) {
            match self.digest(name, &tag).await? {
                Head::Nothing => return Ok(None),
                Head::Digest(root) => {
                    if let Some(all) = memory.content.get(&root) {
                        return Ok(Some(Found {
                            tag,
                            root,
                            all: all.clone(),
                            is_whole: true,
                        }));
                    }
                }
                Head::Unsaid => {}
            }
        }
        let Some((root, manifest)) = self.manifest(name, tag.as_str()).await? else {
            return Ok(None);
        };
        // Of what cannot be read now, a later version may know more; and what is missing may be pushed.
        let mut is_whole = manifest.is_some();
        let mut all: HashSet<Digest> = [root].into();
        let mut level = vec![manifest];
        for _ in 0..=MAX_DEPTH {
            let mut next = Vec::new();
            for manifest in level {
                let Some(manifest) = manifest else { continue };
                for child in reached(&manifest) {
                    let is_new = all.insert(child);
                    if !is_new || !manifest.kind().is_index() {
                        continue;
                    }
                    let known = seen
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .get(&child)
                        .cloned();
                    let found = match known {
                        Some(known) => Some(known),
                        None => self
                            .manifest(name, &child.to_string())
                            .await?
                            .and_then(|(_, manifest)| manifest),
                    };
                    if let Some(found) = &found {
                        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                        seen.insert(child, found.clone());
                    }
                    is_whole &= found.is_some();
                    next.push(found);
                }
            }
            level = next;
            if level.is_empty() {
                break;
            }
        }
        is_whole &= level.is_empty();
        Ok(Some(Found {
            tag,
            root,
            all: Arc::new(all),
            is_whole,
        }))
    }

    /// A manifest of the upstream, without its content if it is of a kind that leads nowhere that is known
    async fn manifest(
        &self,
        name: &RepositoryName,
        reference: &str,
    ) -> Result<Option<(Digest, Option<Arc<Manifest>>)>, String> {
        let target = format!("/v2/{name}/manifests/{reference}");
        let limit = self.manifests.max_bytes;
        let Some((headers, bytes)) = self.get(name, &target, true, limit).await? else {
            return Ok(None);
        };
        let said = headers
            .get(&CONTENT_DIGEST)
            .and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        let root = match said {
            Some(said) if Digest::of(said.algorithm(), &bytes) == said => said,
            _ => Digest::sha256(&bytes),
        };
        let manifest = Manifest::parse(bytes, None, &self.manifests).ok();
        Ok(Some((root, manifest.map(Arc::new))))
    }

    /// Which digest a tag leads to, as far as the upstream says so without sending it
    async fn digest(&self, name: &RepositoryName, tag: &Tag) -> Result<Head, String> {
        let target = format!("/v2/{name}/manifests/{tag}");
        let answer = self.ask(Method::HEAD, name, &target, true).await?;
        let (parts, _) = answer.response.into_parts();
        let said = parts
            .headers
            .get(&CONTENT_DIGEST)
            .and_then(|value| value.to_str().ok()?.parse().ok());
        Ok(match (parts.status, said) {
            (StatusCode::NOT_FOUND, _) => Head::Nothing,
            (StatusCode::OK, Some(digest)) => Head::Digest(digest),
            _ => Head::Unsaid,
        })
    }

    /// A document of the upstream; `None` if it is not there
    async fn get(
        &self,
        name: &RepositoryName,
        target: &str,
        is_manifest: bool,
        limit: usize,
    ) -> Result<Option<(HeaderMap, Bytes)>, String> {
        let answer = self.ask(Method::GET, name, target, is_manifest).await?;
        let (parts, body) = answer.response.into_parts();
        match parts.status {
            StatusCode::OK => {
                let bytes = self.upstream.collect(body, limit).await;
                Ok(Some((
                    parts.headers,
                    bytes.map_err(|error| causes(&error))?,
                )))
            }
            StatusCode::NOT_FOUND => Ok(None),
            status => {
                // What is in its query is the upstream's own.
                let path = target.split('?').next().unwrap_or_default();
                Err(format!("the upstream answered `{path}` with {status}"))
            }
        }
    }

    async fn ask(
        &self,
        method: Method,
        name: &RepositoryName,
        target: &str,
        is_manifest: bool,
    ) -> Result<Answer, String> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::ACCEPT_ENCODING,
            HeaderValue::from_static("identity"),
        );
        if is_manifest {
            for kind in [
                MediaType::OCI_MANIFEST,
                MediaType::OCI_INDEX,
                MediaType::DOCKER_MANIFEST,
                MediaType::DOCKER_MANIFEST_LIST,
            ] {
                if let Ok(kind) = HeaderValue::from_str(kind.as_str()) {
                    headers.append(header::ACCEPT, kind);
                }
            }
        }
        let pull = Access {
            resource: Resource::Repository(name.clone()),
            action: Action::Pull,
            reference: None,
        };
        let call = Call {
            method,
            target: self.upstream.path(target),
            headers,
            content: Content::Empty,
            scope: scope_of(&[pull]),
        };
        let answer = self.upstream.call(call).await;
        answer.map_err(|error| match error {
            CallError::Upstream(error) => causes(&error),
            CallError::Client(error) => causes(&error),
        })
    }
}

/// What a question for a tag's digest brings
enum Head {
    Digest(Digest),
    /// There is no such tag
    Nothing,
    /// Not every registry says it
    Unsaid,
}

/// What a manifest is made of
pub(super) fn reached(manifest: &Manifest) -> impl Iterator<Item = Digest> + '_ {
    let digests = manifest.dependencies().iter();
    digests.filter_map(|dependency| match &dependency.descriptor.digest {
        DescriptorDigest::Known(digest) => Some(*digest),
        _ => None,
    })
}
