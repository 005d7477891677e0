//! Notifications: what a registry tells others of what happened in it
//!
//! The envelope and its events as Docker's registry sends them (documentation of
//! docker/distribution, "Notifications"), field by field and in its order, so that receivers
//! written for it read ours. As there, fields without a value are left out. Ids and times are
//! given by the caller.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::manifest::{Descriptor, Manifest};
use crate::media_type::MediaType;
use crate::name::{RepositoryName, Tag};

/// The media type of an [`Envelope`]
pub const EVENTS_MEDIA_TYPE: &str = "application/vnd.docker.distribution.events.v1+json";

/// What is sent to an endpoint: one event or several, which need not be related
///
/// # Examples
///
/// ```
/// use registry_core::event::{Envelope, EventAction};
///
/// let envelope: Envelope = serde_json::from_str(r#"{"events":[{
///     "id": "320678d8-ca14-430f-8bb6-4ca139cd83f7",
///     "timestamp": "2016-03-09T14:44:26.402973972-08:00",
///     "action": "delete",
///     "target": {
///         "digest": "sha256:d89e1bee20d9cb344674e213b581f14fbd8e70274ecf9d10c514bab78a307845",
///         "repository": "library/test"
///     },
///     "request": {"id": "6df24a34", "method": "DELETE", "useragent": "curl/7.38.0"},
///     "actor": {},
///     "source": {"addr": "xtal.local:5000"}
/// }]}"#)?;
/// assert_eq!(envelope.events[0].action, EventAction::Delete);
/// assert_eq!(envelope.events[0].target.size, 0);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Envelope {
    /// The events
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub events: Vec<Event>,
}

/// Something that happened
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What tells it from all others; an event that is sent again has the same
    pub id: String,
    /// When it happened (RFC 3339)
    pub timestamp: String,
    /// What was done
    pub action: EventAction,
    /// What it was done to
    #[serde(default)]
    pub target: Target,
    /// The request that did it
    #[serde(default)]
    pub request: RequestRecord,
    /// Who asked for it
    #[serde(default)]
    pub actor: ActorRecord,
    /// The registry that did it
    #[serde(default)]
    pub source: SourceRecord,
}

/// What was done
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum EventAction {
    /// A blob, a manifest or a tag was taken away
    Delete,
    /// A repository was given a blob that another has
    Mount,
    /// A blob or a manifest was read
    Pull,
    /// A blob or a manifest was stored
    Push,
}

impl EventAction {
    /// The action of this name, as events and configurations write it
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Delete, Self::Mount, Self::Pull, Self::Push]
            .into_iter()
            .find(|action| action.as_str() == name)
    }

    /// Its name
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Delete => "delete",
            Self::Mount => "mount",
            Self::Pull => "pull",
            Self::Push => "push",
        }
    }
}

impl fmt::Display for EventAction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What it was done to
///
/// A deletion names the repository and the digest, or for a tag the repository and the tag,
/// and nothing else.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Target {
    /// The type of the content
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<MediaType>,
    /// Its size in bytes
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
    /// Its digest
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// The same as `size`, for receivers of the time before that had its name
    #[serde(default, skip_serializing_if = "is_zero")]
    pub length: u64,
    /// The repository
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<RepositoryName>,
    /// The repository that a mounted blob came from
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_repository: Option<RepositoryName>,
    /// Where the content can be had
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub url: String,
    /// The tag by which the manifest was asked for or stored, or that was deleted
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
    /// What the manifest refers to, where that is asked for
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub references: Vec<EventReference>,
}

/// Content that the manifest of an event refers to
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EventReference {
    /// Its type, as the manifest writes it
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Its size in bytes
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: u64,
    /// Its digest, as the manifest writes it
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// Where else it can be had
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
}

impl EventReference {
    /// All that a manifest is made of
    pub fn all_of(manifest: &Manifest) -> Vec<Self> {
        manifest
            .dependencies()
            .iter()
            .map(|dependency| Self::from(&dependency.descriptor))
            .collect()
    }
}

impl From<&Descriptor> for EventReference {
    fn from(descriptor: &Descriptor) -> Self {
        Self {
            media_type: descriptor.media_type.clone(),
            size: descriptor.size,
            digest: descriptor.digest.to_string(),
            urls: descriptor.urls.clone(),
        }
    }
}

/// The request that an event comes from
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RequestRecord {
    /// Its id, which is in the registry's logs too
    #[serde(default)]
    pub id: String,
    /// The address of the client
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub addr: String,
    /// The registry's name, as the client knows it
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub host: String,
    /// The method
    #[serde(default)]
    pub method: String,
    /// The `User-Agent` header
    #[serde(default)]
    pub useragent: String,
}

/// Who asked for it
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ActorRecord {
    /// The user's name; empty for someone anonymous
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// The registry that an event comes from
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRecord {
    /// Name of the machine and port
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub addr: String,
    /// The running process: another after each start
    #[serde(
        default,
        rename = "instanceID",
        skip_serializing_if = "String::is_empty"
    )]
    pub instance_id: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::manifest::Limits;

    const DIGEST: &str = "sha256:fea8895f450959fa676bcc1df0611ea93823a735a01205fd8622846041d0c7cf";

    fn documented() -> Value {
        json!({"events": [{
            "id": "320678d8-ca14-430f-8bb6-4ca139cd83f7",
            "timestamp": "2016-03-09T14:44:26.402973972-08:00",
            "action": "pull",
            "target": {
                "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
                "size": 708,
                "digest": DIGEST,
                "length": 708,
                "repository": "hello-world",
                "url": format!("http://192.168.100.227:5000/v2/hello-world/manifests/{DIGEST}"),
                "tag": "latest"
            },
            "request": {
                "id": "6df24a34-0959-4923-81ca-14f09767db19",
                "addr": "192.168.64.11:42961",
                "host": "192.168.100.227:5000",
                "method": "GET",
                "useragent": "curl/7.38.0"
            },
            "actor": {},
            "source": {
                "addr": "xtal.local:5000",
                "instanceID": "a53db899-3b4b-4a62-a067-8dd013beaca4"
            }
        }]})
    }

    #[test]
    fn the_documented_pull_is_read_and_written() {
        let envelope: Envelope = serde_json::from_value(documented()).unwrap();
        let event = &envelope.events[0];
        assert_eq!(event.target.size, 708);
        assert_eq!(event.target.tag.as_ref().unwrap().as_str(), "latest");
        assert_eq!(event.actor.name, "");
        assert_eq!(serde_json::to_value(&envelope).unwrap(), documented());
    }

    #[test]
    fn the_documented_envelope_of_pushes_is_read_and_written() {
        let event = |n: u64, media_type: &str, kind: &str| {
            json!({
                "id": format!("asdf-asdf-asdf-asdf-{n}"),
                "timestamp": "2006-01-02T15:04:05Z",
                "action": "push",
                "target": {
                    "mediaType": media_type,
                    "length": n + 1,
                    "digest": DIGEST,
                    "repository": "library/test",
                    "url": format!("http://example.com/v2/library/test/{kind}/{DIGEST}")
                },
                "request": {
                    "id": "asdfasdf",
                    "addr": "client.local",
                    "host": "registrycluster.local",
                    "method": "PUT",
                    "useragent": "test/0.1"
                },
                "actor": {"name": "test-actor"},
                "source": {"addr": "hostname.local:port"}
            })
        };
        let layer = "application/vnd.docker.container.image.rootfs.diff+x-gtar";
        let document = json!({"events": [
            event(0, "application/vnd.docker.distribution.manifest.v1+json", "manifests"),
            event(1, layer, "blobs"),
            event(2, layer, "blobs"),
        ]});
        let envelope: Envelope = serde_json::from_value(document.clone()).unwrap();
        assert_eq!(envelope.events[2].target.length, 3);
        assert_eq!(serde_json::to_value(&envelope).unwrap(), document);
    }

    #[test]
    fn fields_stand_in_distributions_order() {
        let mut event: Event = serde_json::from_value(documented()["events"][0].clone()).unwrap();
        event.target.from_repository = Some("base".parse().unwrap());
        event.target.references = vec![EventReference {
            media_type: "a/b".to_owned(),
            size: 1,
            digest: DIGEST.to_owned(),
            urls: vec!["https://example.com/".to_owned()],
        }];
        event.actor.name = "ada".to_owned();
        let text = serde_json::to_string(&event).unwrap();
        let order = [
            "{\"id\":",
            "\"timestamp\":",
            "\"action\":",
            "\"target\":{\"mediaType\":",
            "\"size\":",
            "\"digest\":",
            "\"length\":",
            "\"repository\":",
            "\"fromRepository\":",
            "\"url\":",
            "\"tag\":",
            "\"references\":[{\"mediaType\":",
            "\"size\":1",
            "\"digest\":",
            "\"urls\":",
            "\"request\":{\"id\":",
            "\"addr\":",
            "\"host\":",
            "\"method\":",
            "\"useragent\":",
            "\"actor\":{\"name\":",
            "\"source\":{\"addr\":",
            "\"instanceID\":",
        ];
        let mut at = 0;
        for part in order {
            let found = text[at..].find(part);
            at += found.unwrap_or_else(|| panic!("{part} is not after byte {at} of {text}"));
            at += part.len();
        }
    }

    #[test]
    fn what_has_no_value_is_left_out() {
        let event = Event {
            id: "1".to_owned(),
            timestamp: "2006-01-02T15:04:05Z".to_owned(),
            action: EventAction::Delete,
            target: Target {
                repository: Some("app".parse().unwrap()),
                ..Target::default()
            },
            request: RequestRecord::default(),
            actor: ActorRecord::default(),
            source: SourceRecord::default(),
        };
        assert_eq!(
            serde_json::to_string(&event).unwrap(),
            r#"{"id":"1","timestamp":"2006-01-02T15:04:05Z","action":"delete","target":{"repository":"app"},"request":{"id":"","method":"","useragent":""},"actor":{},"source":{}}"#,
        );
        assert_eq!(serde_json::to_string(&Envelope::default()).unwrap(), "{}");
    }

    #[test]
    fn an_action_has_one_name() {
        for action in ["delete", "mount", "pull", "push"] {
            let parsed = EventAction::from_name(action).unwrap();
            assert_eq!(parsed.to_string(), action);
            assert_eq!(serde_json::to_value(parsed).unwrap(), action);
        }
        assert_eq!(EventAction::from_name("Push"), None);
    }

    #[test]
    fn references_are_what_the_manifest_says() {
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 2},
            "layers": [{"mediaType": "application/x-layer", "digest": DIGEST, "size": 7, "urls": ["https://example.com/"]}]
        });
        let manifest =
            Manifest::parse(manifest.to_string().into(), None, &Limits::default()).unwrap();
        let references = serde_json::to_value(EventReference::all_of(&manifest)).unwrap();
        assert_eq!(
            references,
            json!([
                {"mediaType": "application/vnd.oci.image.config.v1+json", "size": 2, "digest": DIGEST},
                {"mediaType": "application/x-layer", "size": 7, "digest": DIGEST, "urls": ["https://example.com/"]}
            ])
        );
    }
}
