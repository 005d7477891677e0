//! Where clients are sent for blobs: `storage.redirect` and `middleware.storage`

use std::path::PathBuf;
use std::time::Duration;

use super::render::Out;
use super::section::Section;
use super::value::Problem;
use super::{Url, Warning};

/// `storage.redirect`: whether clients are sent to the bucket for blobs
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Whether every blob is sent by the registry, whatever else is configured
    pub disable: bool,
    /// How long a URL into the bucket is good; distribution's 20 minutes
    ///
    /// It must be used for the first time before then, not be done.
    pub expiry: Duration,
}

impl Default for Redirect {
    fn default() -> Self {
        Self {
            disable: false,
            expiry: LIFETIME,
        }
    }
}

/// How long a URL is good in distribution
const LIFETIME: Duration = Duration::from_secs(20 * 60);

/// What no store takes: the longest that S3 signs for is a week
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);

/// One of `middleware.storage`: where else clients find what is stored
///
/// The last that knows where to find a blob is asked; what it leaves open is for the one before
/// it, and at last for the bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum StorageMiddleware {
    /// `cloudfront`: Amazon's network, with signed URLs
    CloudFront(CloudFront),
    /// `redirect`: a server that has what the storage has
    Redirect {
        /// `baseurl`: what stands before the path of a blob
        base: Url,
    },
}

/// `middleware.storage`, of the name `cloudfront`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CloudFront {
    /// `baseurl`: where the distribution is
    pub base: Url,
    /// `privatekey`: a file with the key that signs (PEM)
    pub private_key: PathBuf,
    /// `keypairid`: what Amazon calls its public half
    pub key_pair: String,
    /// `duration`: how long a URL is good; distribution's 20 minutes
    pub duration: Duration,
    /// `ipfilteredby`: who is sent to the bucket itself; nobody by default
    pub direct: Option<Direct>,
}

/// The clients that are sent to the bucket and not to CloudFront: those in Amazon's own networks
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Direct {
    /// `awsregion`: in which regions; in all without any
    pub regions: Vec<String>,
    /// `iprangesurl`: where Amazon tells its networks
    pub ranges: Url,
    /// `updatefrequency`: how often they are read; distribution's 12 hours
    pub update: Duration,
}

/// Where Amazon tells its networks
const RANGES: &str = "https://ip-ranges.amazonaws.com/ip-ranges.json";

/// Reads `storage.redirect`
pub(super) fn redirect(section: &Section<'_>) -> Result<Redirect, Problem> {
    let default = Redirect::default();
    Ok(Redirect {
        disable: section.flag("disable")?.unwrap_or(default.disable),
        expiry: lifetime(section, "expirydelay")?.unwrap_or(default.expiry),
    })
}

/// How long a URL is good: whole seconds of the clocks of others
fn lifetime(section: &Section<'_>, key: &str) -> Result<Option<Duration>, Problem> {
    let Some(lifetime) = section.interval(key)? else {
        return Ok(None);
    };
    if (Duration::from_secs(1)..=LONGEST).contains(&lifetime) {
        return Ok(Some(lifetime));
    }
    let text = format!("expected from `1s` to `168h`, got {lifetime:?}");
    Err(section.problem(key, text))
}

/// Reads `middleware.storage`, of which `root` is the section above
pub(super) fn middleware(
    root: &Section<'_>,
    warnings: &mut Vec<Warning>,
) -> Result<Vec<StorageMiddleware>, Problem> {
    let mut found = Vec::new();
    for section in root.sections("storage") {
        if section.flag("disabled")?.unwrap_or(false) {
            continue;
        }
        let options = section.section("options");
        let name = section.needed_text("name")?;
        if matches!(name.as_str(), "cloudfront" | "redirect") {
            section.needed("options", options.node)?;
        }
        match name.as_str() {
            "cloudfront" => found.push(StorageMiddleware::CloudFront(cloudfront(&options)?)),
            "redirect" => found.push(StorageMiddleware::Redirect {
                base: base(&options, options.url("baseurl")?)?,
            }),
            _ => warnings.push(Warning {
                keys: vec![section.path("name")],
                origin: section.origin("name"),
                what: "middleware of distribution is Go code, of which this build has \
                       `cloudfront` and `redirect`; requests go on without it"
                    .to_owned(),
            }),
        }
    }
    Ok(found)
}

fn cloudfront(options: &Section<'_>) -> Result<CloudFront, Problem> {
    // A host alone is enough for distribution.
    let url = match options.text("baseurl")? {
        Some(host) if !host.contains("://") => {
            let url = format!("https://{host}").parse();
            Some(url.map_err(|error: String| {
                options.problem("baseurl", format!("expected a URL, but it is {error}"))
            })?)
        }
        _ => options.url("baseurl")?,
    };
    let key_pair = options.needed_text("keypairid")?;
    if !key_pair.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let text = "expected letters and digits, as Amazon gives them";
        return Err(options.problem("keypairid", text));
    }
    Ok(CloudFront {
        base: base(options, url)?,
        private_key: options.needed_text("privatekey")?.into(),
        key_pair,
        duration: lifetime(options, "duration")?.unwrap_or(LIFETIME),
        direct: direct(options)?,
    })
}

/// What a path can be put after
fn base(options: &Section<'_>, url: Option<Url>) -> Result<Url, Problem> {
    let url = options.needed("baseurl", url)?;
    if url.expose().contains(['?', '#', '@']) {
        let text = "expected a URL without user, query and fragment, for clients get to see it";
        return Err(options.problem("baseurl", text));
    }
    Ok(url)
}

fn direct(options: &Section<'_>) -> Result<Option<Direct>, Problem> {
    let filter = options.text("ipfilteredby")?.map(|by| by.to_lowercase());
    let regions = match filter.as_deref() {
        Some("aws") => Vec::new(),
        Some("awsregion") => {
            let regions = options.needed_text("awsregion")?;
            let regions = regions.split(',').map(|name| name.trim().to_lowercase());
            regions.filter(|name| !name.is_empty()).collect()
        }
        _ => return Ok(None),
    };
    // The second name is how distribution once wrote it.
    let update = match options.interval("updatefrequency")? {
        Some(update) => Some(update),
        None => options.interval("updatefrenquency")?,
    };
    let ranges = match options.url("iprangesurl")? {
        Some(ranges) => ranges,
        None => RANGES
            .parse()
            .map_err(|error: String| options.problem("iprangesurl", error))?,
    };
    Ok(Some(Direct {
        regions,
        ranges,
        update: update.unwrap_or(Duration::from_secs(12 * 3600)),
    }))
}

/// What stands under `storage.redirect`
pub(super) fn redirect_out(redirect: &Redirect) -> Out {
    let Redirect { disable, expiry } = redirect;
    Out::map([
        ("disable", Out::Flag(*disable)),
        ("expirydelay", Out::duration(*expiry)),
    ])
}

/// What stands under `middleware`
pub(super) fn middleware_out(middleware: &[StorageMiddleware]) -> Out {
    let item =
        |name: &str, options: Out| Out::map([("name", Out::text(name)), ("options", options)]);
    let storage = middleware.iter().map(|one| match one {
        StorageMiddleware::CloudFront(cloudfront) => item("cloudfront", cloudfront_out(cloudfront)),
        StorageMiddleware::Redirect { base } => item(
            "redirect",
            Out::map([("baseurl", Out::text(base.to_string()))]),
        ),
    });
    Out::map([("storage", Out::List(storage.collect()))])
}

fn cloudfront_out(cloudfront: &CloudFront) -> Out {
    let CloudFront {
        base,
        private_key,
        key_pair,
        duration,
        direct,
    } = cloudfront;
    let filter = match direct {
        None => "none",
        Some(direct) if direct.regions.is_empty() => "aws",
        Some(_) => "awsregion",
    };
    let direct = direct.as_ref();
    let regions = direct.filter(|direct| !direct.regions.is_empty());
    Out::some([
        ("baseurl", Some(Out::text(base.to_string()))),
        ("privatekey", Some(Out::path(private_key))),
        ("keypairid", Some(Out::text(key_pair))),
        ("duration", Some(Out::duration(*duration))),
        ("ipfilteredby", Some(Out::text(filter))),
        (
            "awsregion",
            regions.map(|direct| Out::text(direct.regions.join(","))),
        ),
        (
            "iprangesurl",
            direct.map(|direct| Out::text(direct.ranges.to_string())),
        ),
        (
            "updatefrequency",
            direct.map(|direct| Out::duration(direct.update)),
        ),
    ])
}
