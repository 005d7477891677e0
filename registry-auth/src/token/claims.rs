//! What a token says

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::token::scope::{ResourceActions, ScopeError};

/// The claims of a token (Docker token specification, "Token Authentication Implementation")
///
/// Times are seconds since 1970 in UTC. Fields that are not listed are ignored, a field that
/// comes twice is an error.
///
/// # Examples
///
/// ```
/// use registry_auth::token::Claims;
///
/// let claims: Claims = serde_json::from_str(
///     r#"{"iss": "auth.example", "sub": "ada", "aud": "registry.example", "exp": 1700000300,
///         "access": [{"type": "repository", "name": "team/app", "actions": ["pull"]}]}"#,
/// )?;
/// assert_eq!(claims.access[0].name, "team/app");
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct Claims {
    /// Who issued it
    #[serde(rename = "iss", deserialize_with = "or_default")]
    pub issuer: String,
    /// Whom it is about; empty for a token that anyone gets
    #[serde(rename = "sub", deserialize_with = "or_default")]
    pub subject: String,
    /// The services that it is for
    #[serde(
        rename = "aud",
        deserialize_with = "audience",
        serialize_with = "write_audience"
    )]
    pub audience: Vec<String>,
    /// Until when it is accepted; a token without it is refused
    #[serde(
        rename = "exp",
        deserialize_with = "time",
        skip_serializing_if = "Option::is_none"
    )]
    pub expires: Option<i64>,
    /// Before when it is not accepted
    #[serde(
        rename = "nbf",
        deserialize_with = "time",
        skip_serializing_if = "Option::is_none"
    )]
    pub not_before: Option<i64>,
    /// When it was made
    #[serde(
        rename = "iat",
        deserialize_with = "time",
        skip_serializing_if = "Option::is_none"
    )]
    pub issued_at: Option<i64>,
    /// Its own name, by which it could be recognised
    #[serde(rename = "jti", skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What it grants
    #[serde(deserialize_with = "or_default")]
    pub access: Vec<AccessEntry>,
}

/// One entry of a token's access list
///
/// As it stands in the token: issuers also write what is not in the grammar of scopes, such as
/// patterns for other registries. Such an entry grants nothing here and is no reason to refuse the
/// token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default)]
pub struct AccessEntry {
    /// The type of the resource
    #[serde(rename = "type")]
    pub kind: String,
    /// The class of the resource
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The name of the resource
    pub name: String,
    /// What may be done to it
    #[serde(deserialize_with = "or_default")]
    pub actions: Vec<String>,
}

impl From<&ResourceActions> for AccessEntry {
    fn from(resource: &ResourceActions) -> Self {
        Self {
            kind: resource.kind().to_owned(),
            class: resource.class().map(ToOwned::to_owned),
            name: resource.name().to_owned(),
            actions: resource.actions().to_vec(),
        }
    }
}

impl TryFrom<&AccessEntry> for ResourceActions {
    type Error = ScopeError;

    fn try_from(entry: &AccessEntry) -> Result<Self, Self::Error> {
        Self::new(
            &entry.kind,
            entry.class.as_deref(),
            &entry.name,
            &entry.actions,
        )
    }
}

/// `null` stands for nothing, as issuers written in Go send it for an empty list
fn or_default<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(
    deserializer: D,
) -> Result<T, D::Error> {
    Option::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// One audience or a list of them (RFC 7519, section 4.1.3)
fn audience<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "`aud` is neither a text nor a list of texts")]
    enum Audience {
        One(String),
        Several(Vec<String>),
    }
    Ok(match Option::deserialize(deserializer)? {
        None => Vec::new(),
        Some(Audience::One(one)) => vec![one],
        Some(Audience::Several(several)) => several,
    })
}

/// One audience as a text: there are verifiers that read no lists
fn write_audience<S: Serializer>(audience: &[String], serializer: S) -> Result<S::Ok, S::Error> {
    match audience {
        [one] => one.serialize(serializer),
        several => several.serialize(serializer),
    }
}

/// A NumericDate, which may have a fraction (RFC 7519, section 2)
fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "a time is not a number of seconds")]
    enum Time {
        Whole(i64),
        Fractional(f64),
    }
    Ok(Option::deserialize(deserializer)?.map(|time| match time {
        Time::Whole(seconds) => seconds,
        // Saturates: a time that does not fit is as good as never.
        Time::Fractional(seconds) => seconds as i64,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_write_the_same_in_different_ways() {
        let read = |text: &str| serde_json::from_str::<Claims>(text);
        let one = read(r#"{"aud": "a", "exp": 10, "nbf": 1.9, "access": null}"#).unwrap();
        let list =
            read(r#"{"aud": ["a"], "exp": 10.0, "nbf": 1, "sub": "", "other": {}}"#).unwrap();
        assert_eq!(one, list);
        assert_eq!(read("{}").unwrap(), Claims::default());
        for (text, reason) in [
            (r#"{"aud": 1}"#, "`aud` is neither"),
            (r#"{"exp": "10"}"#, "not a number of seconds"),
            (r#"{"iss": "a", "iss": "b"}"#, "duplicate field `iss`"),
            (r#"{"access": {}}"#, "expected a sequence"),
            (r#"{"access": [1]}"#, "invalid type: integer"),
            (
                r#"{"access": [{"type": "repository", "name": "a", "actions": "pull"}]}"#,
                "expected a sequence",
            ),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let resource: ResourceActions = "repository(plugin):a/b:pull,push".parse().unwrap();
        let claims = Claims {
            issuer: "i".to_owned(),
            audience: vec!["a".to_owned()],
            expires: Some(10),
            access: vec![AccessEntry::from(&resource)],
            ..Claims::default()
        };
        let text = serde_json::to_string(&claims).unwrap();
        assert!(!text.contains("nbf"), "{text}");
        assert!(text.contains(r#""aud":"a""#), "{text}");
        let read: Claims = serde_json::from_str(&text).unwrap();
        assert_eq!(read, claims);
        assert_eq!(ResourceActions::try_from(&read.access[0]), Ok(resource));
    }
}
