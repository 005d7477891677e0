//! `registry.limits`: how often one user, or one address, may ask

use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::time::Duration;

use super::duration;
use super::render::Out;
use super::section::Section;
use super::value::Problem;

/// `registry.limits`: how often one user, or one address, may ask; as often as they like unless
/// it is said
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Of an address
    pub addresses: Limited,
    /// Of whoever is logged in
    pub users: Limited,
}

/// What is limited
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limited {
    /// How many requests there may be
    pub requests: Option<Limit>,
    /// How many of them may fail for want of the right to it
    pub failures: Option<Limit>,
    /// How many manifests may be pulled
    pub pulls: Option<Limit>,
}

/// So many in so much time, such as `100/6h` or `10/s burst 200`
///
/// The time is a unit (`s`, `m`, `h`) or a duration. All of them may come at once, or as many as
/// `burst` says.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use registry_examples::config::Limit;
///
/// let limit: Limit = "10/s burst 200".parse()?;
/// assert_eq!((limit.count.get(), limit.per), (10, Duration::from_secs(1)));
/// assert_eq!(limit.burst.unwrap().get(), 200);
/// assert_eq!("100/6h".parse::<Limit>()?.to_string(), "100/6h");
/// assert!("0/s".parse::<Limit>().is_err());
/// # Ok::<(), String>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// How many
    pub count: NonZeroU32,
    /// In which time; never nothing
    pub per: Duration,
    /// How many may come at once, if not as many as in the whole time
    pub burst: Option<NonZeroU32>,
}

impl FromStr for Limit {
    type Err = String;

    /// # Errors
    ///
    /// What was expected and what came.
    fn from_str(text: &str) -> Result<Self, String> {
        let parse = || {
            let (rate, burst) = match text.split_once(" burst ") {
                Some((rate, burst)) => (rate, Some(burst.trim().parse().ok()?)),
                None => (text, None),
            };
            let (count, per) = rate.split_once('/')?;
            let per = match per.trim() {
                unit @ ("s" | "m" | "h") => duration::parse(&format!("1{unit}")),
                // A number alone would count nanoseconds.
                per if per.bytes().all(|byte| byte.is_ascii_digit()) => return None,
                per => duration::parse(per),
            };
            Some(Self {
                count: count.trim().parse().ok()?,
                per: per.ok().filter(|per| !per.is_zero())?,
                burst,
            })
        };
        parse().ok_or_else(|| {
            format!(
                "expected a limit such as `100/m`, `100/6h` or `10/s burst 200`, got `{}`",
                text.escape_debug()
            )
        })
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, duration::format(self.per))?;
        match self.burst {
            Some(burst) => write!(f, " burst {burst}"),
            None => Ok(()),
        }
    }
}

/// Reads `limits`
pub(super) fn read(section: &Section<'_>) -> Result<Limits, Problem> {
    Ok(Limits {
        addresses: limited(&section.section("addresses"))?,
        users: limited(&section.section("users"))?,
    })
}

fn limited(section: &Section<'_>) -> Result<Limited, Problem> {
    let limit = |key: &str| {
        section
            .text(key)?
            .map(|text| {
                text.parse()
                    .map_err(|problem: String| section.problem(key, problem))
            })
            .transpose()
    };
    Ok(Limited {
        requests: limit("requests")?,
        failures: limit("failures")?,
        pulls: limit("pulls")?,
    })
}

/// What stands under `limits`
pub(super) fn out(limits: &Limits) -> Out {
    let limited = |limited: &Limited| {
        let limit = |limit: Option<Limit>| limit.map(|limit| Out::text(limit.to_string()));
        Out::some([
            ("requests", limit(limited.requests)),
            ("failures", limit(limited.failures)),
            ("pulls", limit(limited.pulls)),
        ])
    };
    Out::map([
        ("addresses", limited(&limits.addresses)),
        ("users", limited(&limits.users)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_so_many_in_so_much_time() {
        for (text, count, seconds, burst) in [
            ("1000/m", 1000, 60, None),
            ("1/s", 1, 1, None),
            ("50 / 6h", 50, 6 * 3600, None),
            ("10/1m30s burst 20", 10, 90, Some(20)),
        ] {
            let limit: Limit = text.parse().unwrap();
            let read = (limit.count.get(), limit.per.as_secs());
            assert_eq!(read, (count, seconds), "{text}");
            assert_eq!(limit.burst.map(NonZeroU32::get), burst, "{text}");
            assert_eq!(limit.to_string().parse(), Ok(limit), "{text}");
        }
        for text in [
            "",
            "10",
            "/s",
            "10/",
            "0/s",
            "-1/s",
            "10/0s",
            "10/60",
            "10/x",
            "1.5/s",
            "10/s burst",
            "10/s burst 0",
            "99999999999/s",
            "10/s burst 5 burst 6",
        ] {
            let error = text.parse::<Limit>().unwrap_err();
            assert!(error.starts_with("expected a limit such as"), "{error}");
        }
    }
}
