//! The parameters of a challenge

use std::fmt;
use std::str::FromStr;

/// A text as a quoted string (RFC 9110, section 5.6.4), such as a realm
///
/// Printable ASCII only: a header has no agreed way to carry anything else, and clients show
/// what they make of it. Quotes and backslashes are escaped. `Display` is the quoted form,
/// quotes included.
///
/// # Examples
///
/// ```
/// use registry_auth::Quoted;
///
/// let realm: Quoted = r#"the "inner" registry"#.parse()?;
/// assert_eq!(realm.to_string(), r#""the \"inner\" registry""#);
/// assert!("Büro".parse::<Quoted>().is_err());
/// # Ok::<(), registry_auth::QuotedError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quoted(String);

impl FromStr for Quoted {
    type Err = QuotedError;

    fn from_str(text: &str) -> Result<Self, QuotedError> {
        let mut quoted = String::with_capacity(text.len() + 2);
        quoted.push('"');
        for (index, character) in text.chars().enumerate() {
            if !matches!(character, ' '..='~') {
                return Err(QuotedError {
                    character,
                    position: index + 1,
                });
            }
            if matches!(character, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(character);
        }
        quoted.push('"');
        Ok(Self(quoted))
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A text that no challenge can carry
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected printable ASCII, which is all that a challenge can carry, but character {position} is `{}`; leave it out",
    .character.escape_debug()
)]
pub struct QuotedError {
    character: char,
    position: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printable_ascii_is_quoted_and_nothing_else_is_taken() {
        for (text, quoted) in [
            ("Registry Realm", r#""Registry Realm""#),
            ("", r#""""#),
            (r#"a"b\c"#, r#""a\"b\\c""#),
            ("~ !", r#""~ !""#),
        ] {
            assert_eq!(text.parse::<Quoted>().unwrap().to_string(), quoted);
        }
        for (text, character, position) in [
            ("a\r\nSet-Cookie: b", r"\r", 2),
            ("Büro", "ü", 2),
            ("\u{7f}", r"\u{7f}", 1),
            ("tab\there", r"\t", 4),
        ] {
            assert_eq!(
                text.parse::<Quoted>().unwrap_err().to_string(),
                format!(
                    "expected printable ASCII, which is all that a challenge can carry, but character {position} is `{character}`; leave it out"
                )
            );
        }
    }
}
