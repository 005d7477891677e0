//! Events: what a request did, told to whoever wants to know
//!
//! Which operation tells what is distribution's choice, for receivers count on it:
//!
//! | operation | event |
//! |---|---|
//! | `GET` or `HEAD` of a blob, whole or in part, sent from here or redirected | `pull` |
//! | `GET` or `HEAD` of a manifest | `pull`, with the tag if it was asked for by tag |
//! | a blob's upload is complete, in however many requests | `push` |
//! | `PUT` of a manifest | `push`, one for each tag, or one without |
//! | mount of a blob | `mount` |
//! | `DELETE` of a blob | `delete` |
//! | `DELETE` of a tag | `delete` with the tag |
//! | `DELETE` of a manifest | `delete` with the digest, then one for each tag that it had |
//!
//! What was not sent, because the client has it already (304), was not pulled.

use std::fmt;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use http::header;
use http::request::Parts;
use jiff::Timestamp;
use registry_auth::Principal;
use registry_core::event::{
    ActorRecord, Event, EventAction, EventReference, RequestRecord, SourceRecord, Target,
};
use registry_core::manifest::Limits;
use registry_core::{Digest, Manifest, MediaType, RepositoryName, Tag};
use uuid::Uuid;

use crate::forwarded::Client;
use crate::listener::RemoteAddr;
use crate::location::Root;
use crate::request_id::RequestId;
use crate::respond::Failure;

/// Learns of what happens in the registry
///
/// A change is told in two steps. [`admit`](Self::admit) comes before anything is changed, so
/// that a registry that cannot tell of a change does not make it. [`record`](Self::record)
/// comes after it and before the client is answered: what was acknowledged has been told.
///
/// The gap between the two is on the safe side: if the process dies in it, a change is stored
/// that no client was told of.
#[async_trait]
pub trait EventSink: fmt::Debug + Send + Sync + 'static {
    /// Whether anybody wants events now; by default somebody does
    ///
    /// Asked at the beginning of each request. If nobody does, none are made.
    fn is_listening(&self) -> bool {
        true
    }

    /// Whether there is room for the events of a change
    ///
    /// # Errors
    ///
    /// Why not; the request is then refused (503), and nothing has changed.
    async fn admit(&self) -> Result<(), EventSinkError>;

    /// Takes the events of a change, all or none, and keeps them beyond a crash
    ///
    /// # Errors
    ///
    /// When they are not kept. The request is then refused (503) although its content is
    /// stored: to acknowledge it would lose its events, and a client that pushes again finds
    /// its content there.
    async fn record(&self, events: Vec<Event>) -> Result<(), EventSinkError>;

    /// Takes the event of a read; must not block
    fn notice(&self, event: Event);
}

/// Why events are not taken
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EventSinkError {
    /// The sink was closed: the registry is going down
    #[error("the registry is shutting down; try again")]
    Closed,
    /// They could not be written
    #[error(
        "the registry cannot write down the events that it owes to its notification endpoints; its log says why, for its operator"
    )]
    Failed(#[source] io::Error),
    /// There is no room for more
    #[error(
        "the registry keeps {limit} bytes of events that its notification endpoints have not taken, and takes no more changes until they do; its operator must mend the endpoints or allow more"
    )]
    Full {
        /// How many bytes it keeps at most
        limit: u64,
    },
}

/// Where events go, and what each of them says of the registry
///
/// # Examples
///
/// ```
/// use std::sync::Arc;
///
/// use registry_core::event::SourceRecord;
/// use registry_http::Events;
/// use registry_http::notifications::{Notifier, NotifierOptions};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let notifier = Arc::new(Notifier::open(NotifierOptions::default(), Vec::new()).await?);
/// let source = SourceRecord {
///     addr: "registry-1:5000".to_owned(),
///     instance_id: "a53db899-3b4b-4a62-a067-8dd013beaca4".to_owned(),
/// };
/// let events = Events::new(notifier, source).with_references(true);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Events {
    sink: Arc<dyn EventSink>,
    source: SourceRecord,
    references: bool,
}

impl Events {
    /// Events go to `sink` and say that they come from `source`
    pub fn new(sink: Arc<dyn EventSink>, source: SourceRecord) -> Self {
        Self {
            sink,
            source,
            references: false,
        }
    }

    /// Whether events of manifests list what the manifest refers to; by default they do not
    pub fn with_references(mut self, references: bool) -> Self {
        self.references = references;
        self
    }
}

/// Tells of one request
pub(crate) struct Reporter(Option<Box<Scene>>);

struct Scene {
    events: Events,
    request: RequestRecord,
    actor: ActorRecord,
    /// The URL of the registry, as the client used it; empty if the client named no host
    root: String,
}

impl Reporter {
    /// Takes from the request what its events will say of it
    pub(crate) fn of(
        events: Option<&Events>,
        parts: &Parts,
        principal: &Principal,
        client: &Client,
        root: &Root,
    ) -> Self {
        let Some(events) = events.filter(|events| events.sink.is_listening()) else {
            return Self(None);
        };
        let header = |name| {
            parts
                .headers
                .get(name)
                .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let id = match parts.extensions.get::<RequestId>() {
            Some(RequestId(id)) => id.to_string(),
            None => Uuid::new_v4().to_string(),
        };
        let host = match (&client.authority, parts.uri.authority()) {
            (Some(authority), _) | (None, Some(authority)) => authority.to_string(),
            (None, None) => header(header::HOST).unwrap_or_default(),
        };
        let root = root.absolute(client, parts);
        // With its port where the client itself has connected, as distribution has it.
        let peer = parts.extensions.get::<RemoteAddr>();
        let addr = match (client.address, peer) {
            (Some(address), Some(peer)) if peer.0.ip().to_canonical() == address => {
                peer.0.to_string()
            }
            (Some(address), _) => address.to_string(),
            (None, _) => String::new(),
        };
        Self(Some(Box::new(Scene {
            events: events.clone(),
            request: RequestRecord {
                id,
                addr,
                host,
                method: parts.method.to_string(),
                useragent: header(header::USER_AGENT).unwrap_or_default(),
            },
            actor: ActorRecord {
                name: principal.name().unwrap_or_default().to_owned(),
            },
            root,
        })))
    }

    /// Whether anybody is told
    pub(crate) fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Refuses a change of which nobody could be told
    pub(crate) async fn admit(&self) -> Result<(), Failure> {
        match &self.0 {
            Some(scene) => Ok(scene.events.sink.admit().await?),
            None => Ok(()),
        }
    }

    pub(crate) async fn blob_pushed(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        size: u64,
    ) -> Result<(), Failure> {
        self.record(|scene| vec![scene.blob(EventAction::Push, name, digest, size)])
            .await
    }

    pub(crate) async fn blob_mounted(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        size: u64,
        from: Option<&RepositoryName>,
    ) -> Result<(), Failure> {
        self.record(|scene| {
            let mut event = scene.blob(EventAction::Mount, name, digest, size);
            event.target.from_repository = from.cloned();
            vec![event]
        })
        .await
    }

    pub(crate) fn blob_pulled(&self, name: &RepositoryName, digest: &Digest, size: u64) {
        if let Some(scene) = &self.0 {
            let event = scene.blob(EventAction::Pull, name, digest, size);
            scene.events.sink.notice(event);
        }
    }

    pub(crate) async fn blob_deleted(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<(), Failure> {
        self.record(|scene| vec![scene.deleted(name, Some(digest), None)])
            .await
    }

    pub(crate) async fn manifest_pushed(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        manifest: &Manifest,
        tags: &[Tag],
    ) -> Result<(), Failure> {
        self.record(|scene| {
            let mut event = scene.content(
                EventAction::Push,
                name,
                digest,
                manifest.media_type(),
                manifest.raw().len() as u64,
                "manifests",
            );
            if scene.events.references {
                event.target.references = EventReference::all_of(manifest);
            }
            if tags.is_empty() {
                return vec![event];
            }
            let tagged = |tag: &Tag| {
                let mut event = event.clone();
                event.id = Uuid::new_v4().to_string();
                event.target.tag = Some(tag.clone());
                event
            };
            tags.iter().map(tagged).collect()
        })
        .await
    }

    pub(crate) fn manifest_pulled(
        &self,
        name: &RepositoryName,
        manifest: &registry_storage::StoredManifest,
        tag: Option<&Tag>,
        limits: &Limits,
    ) {
        let Some(scene) = &self.0 else { return };
        let mut event = scene.content(
            EventAction::Pull,
            name,
            &manifest.digest,
            manifest.media_type.clone(),
            manifest.bytes.len() as u64,
            "manifests",
        );
        event.target.tag = tag.cloned();
        if scene.events.references
            && let Ok(manifest) = Manifest::parse(manifest.bytes.clone(), None, limits)
        {
            event.target.references = EventReference::all_of(&manifest);
        }
        scene.events.sink.notice(event);
    }

    pub(crate) async fn manifest_deleted(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        tags: &[Tag],
    ) -> Result<(), Failure> {
        self.record(|scene| {
            let tags = tags.iter().map(|tag| scene.deleted(name, None, Some(tag)));
            std::iter::once(scene.deleted(name, Some(digest), None))
                .chain(tags)
                .collect()
        })
        .await
    }

    pub(crate) async fn tag_deleted(
        &self,
        name: &RepositoryName,
        tag: &Tag,
    ) -> Result<(), Failure> {
        self.record(|scene| vec![scene.deleted(name, None, Some(tag))])
            .await
    }

    async fn record(&self, events: impl FnOnce(&Scene) -> Vec<Event>) -> Result<(), Failure> {
        match &self.0 {
            Some(scene) => Ok(scene.events.sink.record(events(scene)).await?),
            None => Ok(()),
        }
    }
}

impl Scene {
    fn blob(
        &self,
        action: EventAction,
        name: &RepositoryName,
        digest: &Digest,
        size: u64,
    ) -> Event {
        self.content(action, name, digest, MediaType::OCTET_STREAM, size, "blobs")
    }

    fn content(
        &self,
        action: EventAction,
        name: &RepositoryName,
        digest: &Digest,
        media_type: MediaType,
        size: u64,
        kind: &str,
    ) -> Event {
        let target = Target {
            media_type: Some(media_type),
            size,
            digest: Some(*digest),
            length: size,
            repository: Some(name.clone()),
            url: format!("{}/v2/{name}/{kind}/{digest}", self.root),
            ..Target::default()
        };
        self.event(action, target)
    }

    fn deleted(&self, name: &RepositoryName, digest: Option<&Digest>, tag: Option<&Tag>) -> Event {
        let target = Target {
            digest: digest.copied(),
            repository: Some(name.clone()),
            tag: tag.cloned(),
            ..Target::default()
        };
        self.event(EventAction::Delete, target)
    }

    fn event(&self, action: EventAction, target: Target) -> Event {
        Event {
            id: Uuid::new_v4().to_string(),
            timestamp: Timestamp::now().to_string(),
            action,
            target,
            request: self.request.clone(),
            actor: self.actor.clone(),
            source: self.events.source.clone(),
        }
    }
}
