//! Which addresses the layers of an image may name

use http::Uri;
use regex::{Regex, RegexBuilder};
use registry_core::Manifest;
use registry_core::manifest::Role;

/// How large one expression may get when it is compiled
const MAX_EXPRESSION: usize = 1024 * 1024;

/// How much of an address is repeated to the client
const SHOWN: usize = 200;

/// The rule for the `urls` of layers, from which clients fetch content that no registry checked
///
/// Each address must be `http` or `https` without a fragment, match one of the `allow`
/// expressions if there are any, and none of the `deny` expressions. Without an expression of
/// either list, none is taken. Expressions match anywhere in the address unless they have `^`
/// and `$`; matching takes time linear in its length.
///
/// # Examples
///
/// ```
/// use registry_http::ManifestUrls;
///
/// let urls = ManifestUrls::new([r"^https://mcr\.microsoft\.com/"], [r"\.internal/"])?;
/// assert!(ManifestUrls::new(["("], [""; 0]).is_err());
/// # let _ = urls;
/// # Ok::<(), registry_http::manifest_urls::ManifestUrlsError>(())
/// ```
#[derive(Clone, Debug)]
pub struct ManifestUrls {
    allow: Vec<Regex>,
    deny: Vec<Regex>,
}

/// An expression that cannot be used
#[derive(Clone, Debug, thiserror::Error)]
#[error("expected a regular expression, `{expression}` is none: {source}")]
pub struct ManifestUrlsError {
    expression: String,
    source: Box<regex::Error>,
}

impl ManifestUrlsError {
    /// The expression
    pub fn expression(&self) -> &str {
        &self.expression
    }
}

/// An address that a manifest must not have
#[derive(Debug, thiserror::Error)]
#[error(
    "expected layers with addresses that this registry allows, `{layer}` has `{url}`; push the layer itself, or ask the registry's operator to allow the address"
)]
pub(crate) struct UrlRefused {
    pub(crate) layer: String,
    pub(crate) url: String,
}

impl ManifestUrls {
    /// Compiles the expressions of both lists
    ///
    /// # Errors
    ///
    /// [`ManifestUrlsError`] for the first that is none, or is too large.
    pub fn new(
        allow: impl IntoIterator<Item: AsRef<str>>,
        deny: impl IntoIterator<Item: AsRef<str>>,
    ) -> Result<Self, ManifestUrlsError> {
        Ok(Self {
            allow: compile(allow)?,
            deny: compile(deny)?,
        })
    }

    /// Looks at the addresses of every layer
    pub(crate) fn check(&self, manifest: &Manifest) -> Result<(), UrlRefused> {
        for dependency in manifest.dependencies() {
            if dependency.role != Role::Layer {
                continue;
            }
            let layer = &dependency.descriptor;
            if let Some(url) = layer.urls.iter().find(|url| !self.allows(url)) {
                return Err(UrlRefused {
                    layer: layer.digest.to_string(),
                    url: shortened(url),
                });
            }
        }
        Ok(())
    }

    fn allows(&self, url: &str) -> bool {
        let known = !url.contains('#')
            && url.parse::<Uri>().is_ok_and(|uri| {
                matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some()
            });
        let listed = |list: &[Regex]| list.iter().any(|expression| expression.is_match(url));
        let allowed = match (self.allow.as_slice(), self.deny.as_slice()) {
            ([], []) => false,
            ([], _) => true,
            (allow, _) => listed(allow),
        };
        known && allowed && !listed(&self.deny)
    }
}

fn compile(
    expressions: impl IntoIterator<Item: AsRef<str>>,
) -> Result<Vec<Regex>, ManifestUrlsError> {
    expressions
        .into_iter()
        .map(|expression| {
            let expression = expression.as_ref();
            RegexBuilder::new(expression)
                .size_limit(MAX_EXPRESSION)
                .build()
                .map_err(|source| ManifestUrlsError {
                    expression: expression.to_owned(),
                    source: source.into(),
                })
        })
        .collect()
}

fn shortened(url: &str) -> String {
    let shown: String = url.chars().take(SHOWN).collect();
    let more = if shown.len() < url.len() { "…" } else { "" };
    format!("{}{more}", shown.escape_debug())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn urls(allow: &[&str], deny: &[&str]) -> ManifestUrls {
        ManifestUrls::new(allow, deny).unwrap()
    }

    #[test]
    fn an_address_is_allowed_and_not_denied() {
        let both = urls(
            &["^https?://[^/]+\\.example/", "^https://other/"],
            &["^https?://www\\.example/"],
        );
        for (url, allowed) in [
            ("https://a.example/layer", true),
            ("http://a.example/layer", true),
            ("https://other/x", true),
            ("https://www.example/layer", false),
            ("https://example.com/layer", false),
            ("https://a.example/layer#part", false),
            ("ftp://a.example/layer", false),
            ("https://other/ x", false),
            ("/layer", false),
            ("", false),
        ] {
            assert_eq!(both.allows(url), allowed, "{url}");
        }
    }

    #[test]
    fn without_expressions_nothing_is_allowed() {
        assert!(!urls(&[], &[]).allows("https://a.example/layer"));
        let denied = urls(&[], &["internal"]);
        assert!(denied.allows("https://a.example/layer"));
        assert!(!denied.allows("https://internal/layer"));
        // Still no way out of the web.
        assert!(!denied.allows("file:///etc/passwd"));
    }

    #[test]
    fn expressions_are_bounded_and_named() {
        let error = ManifestUrls::new(["ok", "("], [""; 0]).unwrap_err();
        assert_eq!(error.expression(), "(");
        assert!(
            error
                .to_string()
                .starts_with("expected a regular expression, `(` is none: ")
        );
        assert!(ManifestUrls::new(["(((a{100}){100}){100}){100}"], [""; 0]).is_err());
    }

    #[test]
    fn an_address_is_repeated_in_part() {
        let long = shortened(&format!("https://a/{}", "é".repeat(5000)));
        assert!(long.chars().count() <= SHOWN + 1 && long.ends_with('…'));
        assert_eq!(shortened("a\nb"), "a\\nb");
    }
}
