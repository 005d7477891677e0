//! Under which URL a bucket of S3 is

use super::{BucketError, S3Options};

/// Where a bucket is
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// With the bucket in it, unless that is in the path
    pub(super) url: String,
    /// Whether it is
    pub(super) path_style: bool,
}

/// Where the bucket of these options is: at `endpoint`, or at Amazon in `region`
pub(super) fn place(
    s3: &S3Options,
    endpoint: Option<&str>,
    region: &str,
) -> Result<Place, BucketError> {
    let unless_said = match s3.plain_http {
        true => "http",
        false => "https",
    };
    // The certificate of a store is for one name in front of its own.
    let dotted = s3.bucket.contains('.') && !s3.plain_http;
    let path_style = s3.force_path_style.unwrap_or(endpoint.is_some() || dotted);
    let (scheme, host) = match endpoint {
        Some(endpoint) => match endpoint.split_once("://") {
            Some((scheme @ ("http" | "https"), host)) => (scheme, host.to_owned()),
            None => (unless_said, endpoint.to_owned()),
            Some(_) => {
                return Err(BucketError::Option {
                    name: "regionendpoint",
                    detail: format!("expected an http or https URL, found `{endpoint}`"),
                });
            }
        },
        None => (unless_said, amazon(s3, region)),
    };
    let host = host.trim_end_matches('/');
    // Whoever addresses buckets by host name has the bucket there already, for object_store.
    let url = match path_style {
        true => format!("{scheme}://{host}"),
        false => format!("{scheme}://{}.{host}", s3.bucket),
    };
    Ok(Place { url, path_style })
}

/// Amazon's host for a region
fn amazon(s3: &S3Options, region: &str) -> String {
    let dual_stack = if s3.dual_stack { ".dualstack" } else { "" };
    if s3.accelerate {
        return format!("s3-accelerate{dual_stack}.amazonaws.com");
    }
    let fips = if s3.fips { "-fips" } else { "" };
    let china = if region.starts_with("cn-") { ".cn" } else { "" };
    format!("s3{fips}{dual_stack}.{region}.amazonaws.com{china}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(change: impl FnOnce(&mut S3Options)) -> S3Options {
        let mut s3 = S3Options {
            bucket: "b".to_owned(),
            ..S3Options::default()
        };
        change(&mut s3);
        s3
    }

    #[test]
    fn amazons_hosts_are_as_documented() {
        type Change = fn(&mut S3Options);
        let table: [(Change, &str, &str); 9] = [
            (|_| (), "eu-west-1", "https://b.s3.eu-west-1.amazonaws.com"),
            (
                |_| (),
                "cn-north-1",
                "https://b.s3.cn-north-1.amazonaws.com.cn",
            ),
            (
                |s3| s3.dual_stack = true,
                "eu-west-1",
                "https://b.s3.dualstack.eu-west-1.amazonaws.com",
            ),
            (
                |s3| s3.fips = true,
                "us-gov-west-1",
                "https://b.s3-fips.us-gov-west-1.amazonaws.com",
            ),
            (
                |s3| (s3.fips, s3.dual_stack) = (true, true),
                "us-east-1",
                "https://b.s3-fips.dualstack.us-east-1.amazonaws.com",
            ),
            (
                |s3| s3.accelerate = true,
                "us-east-1",
                "https://b.s3-accelerate.amazonaws.com",
            ),
            (
                |s3| s3.plain_http = true,
                "us-east-1",
                "http://b.s3.us-east-1.amazonaws.com",
            ),
            (
                |s3| s3.bucket = "a.b".to_owned(),
                "us-east-1",
                "https://s3.us-east-1.amazonaws.com",
            ),
            (
                |s3| s3.force_path_style = Some(true),
                "us-east-1",
                "https://s3.us-east-1.amazonaws.com",
            ),
        ];
        for (change, region, expected) in table {
            let s3 = options(change);
            assert_eq!(place(&s3, None, region).unwrap().url, expected, "{s3:?}");
        }
    }

    #[test]
    fn an_endpoint_says_how_it_is_reached_or_the_options_do() {
        let at = |endpoint, change: fn(&mut S3Options)| {
            place(&options(change), Some(endpoint), "r").map(|place| place.url)
        };
        assert_eq!(at("http://h:1/", |_| ()).unwrap(), "http://h:1");
        assert_eq!(at("h:1", |_| ()).unwrap(), "https://h:1");
        let plain: fn(&mut S3Options) = |s3| s3.plain_http = true;
        assert_eq!(at("h:1", plain).unwrap(), "http://h:1");
        assert_eq!(at("https://h:1", plain).unwrap(), "https://h:1");
        let by_name: fn(&mut S3Options) = |s3| s3.force_path_style = Some(false);
        assert_eq!(at("https://h", by_name).unwrap(), "https://b.h");
        let error = at("ftp://h", |_| ()).unwrap_err().to_string();
        assert!(error.contains("regionendpoint"), "{error}");
    }
}
