//! Keeps secrets out of lines that should have had none

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};

/// What stands in place of a secret
pub(super) const HIDDEN: &str = "***";

/// Words that name a secret wherever they stand before `=` or `:`
const NAMES: &str = "pass(?:word|wd|phrase)|pwd|secret|credentials?|authorization|cookie\
    |(?:api|access|refresh|auth|id|jwt|bearer)[_-]?token|(?:api|private|secret)[_-]?key";

/// Every shape of secret that is looked for; the parts that stay are named `keep…`
static SECRETS: LazyLock<Regex> = LazyLock::new(|| {
    // A value in quotes, also quotes that are escaped because the whole is within others, or up
    // to the next separator. Debug output may wrap it.
    let quoted = r#"b?"(?:[^"\\]|\\.)*"?|\\+"[^"]*"?|'[^']*'?"#;
    let value = format!(r#"(?:Some\()?(?:{quoted}|[^\s,;&"'}}\])]+)"#);
    let pattern = [
        // These two headers have values of several parts; hyper writes the names in quotes.
        format!(
            r#"(?<keep_header>authorization\\*["']?\s*[=:]\s*)(?:(?:basic|bearer|digest|negotiate|aws4-[a-z0-9-]+)\s[^\n]*|{value})"#
        ),
        format!(r#"(?<keep_cookie>\bcookie\\*["']?\s*[=:]\s*)(?:{quoted}|[^\n]*)"#),
        format!(r#"(?<keep_name>(?:{NAMES})\\*["']?\s*[=:]\s*){value}"#),
        // These two words are too common in prose for a colon to count.
        format!(r#"(?<keep_word>\b(?:token|pass)(?:\\*["']\s*:\s*|\\*["']?=)){value}"#),
        r"(?<keep_scheme>\b(?:basic|bearer)\s+)(?<credentials>[A-Za-z0-9+/=._~-]{4,})".to_owned(),
        // A JSON web token begins with `{"` in base64.
        r"\beyJ[A-Za-z0-9_-]{4,}\.[A-Za-z0-9_-]*(?:\.[A-Za-z0-9_-]*)?".to_owned(),
        r"(?<keep_url>[a-z][a-z0-9+.-]*://)[^\s/@?#]+(?<keep_at>@)".to_owned(),
    ]
    .join("|");
    Regex::new(&format!("(?i){pattern}")).expect("the tests compile it")
});

/// The same text with `***` in place of what looks like a secret
///
/// Defence in depth: nothing in this workspace logs one. It looks for values of `Authorization`,
/// Basic and Bearer credentials, JSON web tokens, values that are called passwords, tokens or
/// secrets, and credentials in URLs.
pub(super) fn redact(text: &str) -> Cow<'_, str> {
    // Most texts hold nothing, and then nothing is copied.
    SECRETS.replace_all(text, |found: &Captures<'_>| {
        let kept = |name| found.name(name).map_or("", |part| part.as_str());
        if let Some(credentials) = found.name("credentials")
            && is_prose(credentials.as_str())
        {
            return found[0].to_owned();
        }
        let before = [
            "keep_header",
            "keep_cookie",
            "keep_name",
            "keep_word",
            "keep_scheme",
            "keep_url",
        ]
        .map(kept)
        .concat();
        format!("{before}{HIDDEN}{}", kept("keep_at"))
    })
}

/// Whether the name of a field says that its value is a secret
pub(super) fn is_secret_name(name: &str) -> bool {
    static NAME: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(&format!("(?i)(?:{NAMES}|^(?:token|pass))$")).expect("the tests compile it")
    });
    NAME.is_match(name)
}

/// Whether a word after `basic` or `bearer` is one of a sentence, as in "bearer tokens"
///
/// Credentials of that shape, one case only and nothing else, are next to impossible.
fn is_prose(word: &str) -> bool {
    let word = word.trim_end_matches('.');
    word.len() < 16 && word.bytes().all(|byte| byte.is_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_hidden() {
        for text in [
            "Authorization: Basic aHVudGVyMg==",
            "authorization: Bearer hunter2",
            r#"{"authorization": "Basic hunter2"}"#,
            r#"headers: {"proxy-authorization": b"Digest hunter2"}"#,
            r#""{\"password\":\"hunter2\"}""#,
            r#"{"request_body":{"username":"u","password":"hun\"hunter2"}}"#,
            r#"Login { user: "u", password: Some("hunter2") }"#,
            "password=hunter2&x=1",
            "password = 'hunter2 hunter2'",
            "CDS_PASSWORD=hunter2",
            "apiToken: hunter2",
            "api_token=hunter2",
            "\"token\":\"hunter2\"",
            "?token=hunter2",
            "got eyJhbGciOiJIUzI1NiJ9.hunter2.hunter2",
            "sent Bearer hunter2-A",
            "sent bearer hunter2hunter2hunter2",
            "http://ccds_client:hunter2@cds:8000/ccds failed",
            "https://hunter2@cds/",
            "Set-Cookie: a=b; c=hunter2",
            "Authorization: Digest username=\"u\", response=\"hunter2\"",
            "authorization: hunter2",
        ] {
            let hidden = redact(text);
            assert!(!hidden.contains("hunter2"), "{text} became {hidden}");
            assert!(hidden.contains(HIDDEN), "{text} became {hidden}");
            assert_eq!(redact(&hidden), hidden, "{text}");
        }
        assert_eq!(
            redact("GET http://u:p@h/x password=p, user=u"),
            "GET http://***@h/x password=***, user=u"
        );
    }

    #[test]
    fn what_does_not_stays() {
        for text in [
            "",
            "GET /v2/iris_5968f2ae-e0d6-46e6-81c1-dc19db3c4965/manifests/1.0.0",
            "the token expired: log in again",
            "basic authentication is required, bearer tokens too",
            "http://cds:8000/ccds/user/login answered 400",
            "mail ada@example.com",
            "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
        ] {
            assert_eq!(redact(text), text);
        }
    }

    #[test]
    fn names_of_fields_say_what_is_secret() {
        for name in [
            "password",
            "cds_password",
            "token",
            "api-token",
            "Authorization",
        ] {
            assert!(is_secret_name(name), "{name}");
        }
        for name in ["user", "tokens", "passed", "authorized", "compass"] {
            assert!(!is_secret_name(name), "{name}");
        }
    }
}
