//! The `Authorization` header

use http::{HeaderMap, header};
use registry_auth::{Credentials, Password};

/// Reads the credentials of a request (RFC 7617, RFC 6750)
///
/// # Errors
///
/// [`Malformed`] when there is an `Authorization` that no authenticator could check. The
/// header itself is never quoted anywhere: it holds a secret.
pub(crate) fn credentials(headers: &HeaderMap) -> Result<Credentials, Malformed> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(Credentials::None);
    };
    if values.next().is_some() {
        return Err(Malformed);
    }
    let text = value.to_str().map_err(|_| Malformed)?.trim();
    let (scheme, secret) = text.split_once(' ').ok_or(Malformed)?;
    let secret = secret.trim_start();
    if secret.is_empty() || secret.contains(' ') {
        return Err(Malformed);
    }
    if scheme.eq_ignore_ascii_case("bearer") {
        return Ok(Credentials::Bearer(Password::new(secret)));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return Err(Malformed);
    }
    let decoded = base64(secret).ok_or(Malformed)?;
    let decoded = String::from_utf8(decoded).map_err(|_| Malformed)?;
    // The user name cannot contain a colon, the password can.
    let (user, password) = decoded.split_once(':').ok_or(Malformed)?;
    Ok(Credentials::Basic {
        user: user.to_owned(),
        password: Password::new(password),
    })
}

/// An `Authorization` header that is neither Basic nor Bearer
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Decodes base64 (RFC 4648, section 4); the padding may be missing
fn base64(text: &str) -> Option<Vec<u8>> {
    let digits = text.trim_end_matches('=');
    if text.len() - digits.len() > 2 || digits.len() % 4 == 1 {
        return None;
    }
    let mut bytes = Vec::with_capacity(digits.len() * 3 / 4);
    let mut buffer = 0_u32;
    let mut bits = 0;
    for digit in digits.bytes() {
        let value = match digit {
            b'A'..=b'Z' => digit - b'A',
            b'a'..=b'z' => digit - b'a' + 26,
            b'0'..=b'9' => digit - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        buffer = buffer << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
            buffer &= (1 << bits) - 1;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn parse(value: &[u8]) -> Result<Credentials, Malformed> {
        let mut headers = HeaderMap::new();
        headers.insert(
            header::AUTHORIZATION,
            HeaderValue::from_bytes(value).unwrap(),
        );
        credentials(&headers)
    }

    fn basic(user: &str, password: &str) -> Result<Credentials, Malformed> {
        Ok(Credentials::Basic {
            user: user.to_owned(),
            password: Password::new(password),
        })
    }

    #[test]
    fn both_schemes_are_read() {
        // The examples of RFC 7617.
        assert_eq!(
            parse(b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="),
            basic("Aladdin", "open sesame")
        );
        assert_eq!(parse(b"bAsIc dGVzdDoxMjPCow=="), basic("test", "123\u{a3}"));
        assert_eq!(parse(b"Basic dGVzdDoxMjPCow"), basic("test", "123\u{a3}"));
        assert_eq!(parse(b"Basic YTpiOmM="), basic("a", "b:c"));
        assert_eq!(parse(b"Basic Og=="), basic("", ""));
        assert_eq!(
            parse(b"Bearer a.b-c_d~e+f/g="),
            Ok(Credentials::Bearer(Password::new("a.b-c_d~e+f/g=")))
        );
        assert_eq!(credentials(&HeaderMap::new()), Ok(Credentials::None));
    }

    #[test]
    fn what_cannot_be_checked_is_malformed() {
        for value in [
            &b""[..],
            b"Basic",
            b"Basic ",
            b"Basic a",
            b"Basic YQ==",
            b"Basic ####",
            b"Basic YTpi====",
            b"Basic YTr//w==",
            b"Basic \xff\xfe",
            b"Bearer a b",
            b"Negotiate abc",
        ] {
            assert_eq!(parse(value), Err(Malformed), "{value:?}");
        }
        let mut headers = HeaderMap::new();
        headers.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer a"));
        headers.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer b"));
        assert_eq!(credentials(&headers), Err(Malformed));
    }
}
