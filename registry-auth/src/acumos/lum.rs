//! The license usage manager: what licences demand, and who has a right to use

use std::collections::HashSet;

use jiff::Timestamp;
use serde::Deserialize;
use uuid::Uuid;

use super::client::{Client, Endpoint, EndpointError, Path, ServiceError};
use super::facts::{License, RevisionId, Right};
use crate::http_client::one_line;

/// Asks LUM
///
/// Cheap to clone; clones share their connections. LUM knows revisions as software id tags, and
/// users by their login names.
///
/// # Examples
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use registry_auth::acumos::{Endpoint, License, Lum, RevisionId};
///
/// let lum = Lum::new(Endpoint::new("http://lum-server:2080")?)?;
/// let revision = RevisionId::new("6f6a4f1c-6a0e-4f0a-a3f0-1f2a4c0a6e3d");
/// if lum.license(&revision).await? == License::RightRequired {
///     let right = lum.use_once(&revision, "ada").await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Lum {
    client: Client,
    instance: String,
    component: String,
}

impl Lum {
    /// The service at this endpoint
    ///
    /// # Errors
    ///
    /// [`EndpointError`] when TLS cannot be set up.
    pub fn new(endpoint: Endpoint) -> Result<Self, EndpointError> {
        Ok(Self {
            client: Client::new("LUM", endpoint)?,
            instance: INSTANCE.to_owned(),
            component: COMPONENT.to_owned(),
        })
    }

    /// Sets which installation of the platform uses are recorded for
    /// (`swMgtSystemInstanceId`); by default `acumos`
    #[must_use]
    pub fn with_instance(mut self, instance: impl Into<String>) -> Self {
        self.instance = instance.into();
        self
    }

    /// Sets as which component of the platform uses are recorded (`swMgtSystemComponent`); by
    /// default `docker-proxy`, whose place the registry takes
    #[must_use]
    pub fn with_component(mut self, component: impl Into<String>) -> Self {
        self.component = component.into();
        self
    }

    /// The same, sending this request id (`X-ACUMOS-RequestID`, `X-ACUMOS-Request-Id`)
    #[must_use]
    pub fn for_request(&self, id: &str) -> Self {
        Self {
            client: self.client.for_request(id),
            ..self.clone()
        }
    }

    /// What the licence of a revision demands; only reads
    ///
    /// A revision that LUM does not know, or for which it has no licence profile, is
    /// [`License::Unknown`].
    ///
    /// # Errors
    ///
    /// [`ServiceError`] when that cannot be known now.
    pub async fn license(&self, revision: &RevisionId) -> Result<License, ServiceError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Found {
            swid_tag: Tag,
            license_profile: Option<Profile>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Tag {
            sw_tag_id: String,
            swid_tag_active: Option<bool>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Profile {
            is_rtu_required: Option<bool>,
            license_profile_active: Option<bool>,
        }
        let path = Path::new(&["api", "v1", "swid-tag"]).with("swTagId", &revision.0);
        let reply = self.client.get(&path).await?;
        match reply.status.as_u16() {
            204 => return Ok(License::Unknown),
            REVOKED => return Ok(License::Revoked),
            _ => {}
        }
        let found: Found = reply.ok()?;
        if found.swid_tag.sw_tag_id != *revision.0 {
            return Err(reply.malformed("it is about another revision"));
        }
        let Some(profile) = found.license_profile else {
            return Ok(License::Unknown);
        };
        // Free is only what all of them say.
        Ok(
            match (
                found.swid_tag.swid_tag_active,
                profile.license_profile_active,
                profile.is_rtu_required,
            ) {
                (Some(false), ..) | (_, Some(false), _) => License::Revoked,
                (Some(true), Some(true), Some(false)) => License::Free,
                (_, _, Some(true)) => License::RightRequired,
                _ => License::Unknown,
            },
        )
    }

    /// The revisions that a user could use now; only reads, and counts no use
    ///
    /// # Errors
    ///
    /// [`ServiceError`] when that cannot be known now.
    pub async fn usable(&self, login: &str) -> Result<HashSet<RevisionId>, ServiceError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Found {
            user_id: String,
            swid_tags_with_available_entitlement: Vec<Tag>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Tag {
            sw_tag_id: String,
        }
        let path = Path::new(&["api", "v1", "swid-tags", "available-entitlement"])
            .with("userId", login)
            .with("action", DOWNLOAD);
        let reply = self.client.get(&path).await?;
        if reply.status == http::StatusCode::NO_CONTENT {
            return Ok(HashSet::new());
        }
        let found: Found = reply.ok()?;
        if found.user_id != login {
            return Err(reply.malformed("it is about another user"));
        }
        Ok(found
            .swid_tags_with_available_entitlement
            .into_iter()
            .map(|tag| RevisionId::new(tag.sw_tag_id))
            .collect())
    }

    /// Whether a user may use a revision; **counts as a use** if so
    ///
    /// Every call counts, and so does one whose answer was lost: it is made once, unless there
    /// was no connection to send it over.
    ///
    /// # Errors
    ///
    /// [`ServiceError`] when that cannot be known now.
    pub async fn use_once(
        &self,
        revision: &RevisionId,
        login: &str,
    ) -> Result<Right, ServiceError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Found {
            usage_entitled: bool,
            asset_usage: Usage,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Usage {
            sw_tag_id: Option<String>,
            usage_entitled: Option<bool>,
            asset_usage_denial_summary: Option<String>,
        }
        // One for each user and revision, so that LUM's records of a user's uses hang together.
        let id = format!("{}/{}/{login}", self.component, revision.0);
        let path = Path::new(&["api", "v1", "asset-usage"]).with("assetUsageId", &id);
        let body = serde_json::json!({
            "requestId": Uuid::new_v4().to_string(),
            "requested": format!("{:.3}", Timestamp::now()),
            "userId": login,
            "swMgtSystemId": "Acumos",
            "swMgtSystemInstanceId": self.instance,
            "swMgtSystemComponent": self.component,
            "assetUsageReq": {
                "swTagId": &*revision.0,
                "assetUsageId": id,
                "action": DOWNLOAD,
                "isIncludedAsset": false,
            },
        });
        let reply = self
            .client
            .send_json(http::Method::PUT, &path, &body)
            .await?;
        let found: Found = match reply.status.as_u16() {
            200 | 402 => reply.json()?,
            _ => return Err(reply.unexpected()),
        };
        let usage = found.asset_usage;
        if usage.sw_tag_id.is_some_and(|id| id != *revision.0) {
            return Err(reply.malformed("it is about another revision"));
        }
        let is_entitled = reply.status == http::StatusCode::OK
            && found.usage_entitled
            && usage.usage_entitled != Some(false);
        Ok(match is_entitled {
            true => Right::Own,
            false => Right::None {
                reason: usage
                    .asset_usage_denial_summary
                    .map(|summary| one_line(&summary))
                    .filter(|summary| !summary.is_empty())
                    .unwrap_or_else(|| "the license usage manager denied it".to_owned()),
            },
        })
    }
}

/// What a pull is for LUM: a download, as in the portal
const DOWNLOAD: &str = "acumos:download";

/// LUM's own status for what was revoked, in the range of success
const REVOKED: u16 = 224;

/// As which component uses are recorded
const COMPONENT: &str = "docker-proxy";

/// For which installation uses are recorded
const INSTANCE: &str = "acumos";
