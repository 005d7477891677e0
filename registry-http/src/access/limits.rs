//! Limits: how often one principal, or one address, may ask

use std::fmt;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::{NoOpMiddleware, StateInformationMiddleware};
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use quick_cache::sync::Cache;
use registry_auth::Principal;

use super::session::identity;
use crate::respond::whole_seconds;

/// How many addresses, and how many principals, are counted at once
///
/// Some hundred bytes each. Of more than that, those who have not come for a while are
/// forgotten, and begin anew.
const COUNTED: usize = 65_536;

/// So many in so much time
///
/// # Examples
///
/// ```
/// use std::num::NonZeroU32;
/// use std::time::Duration;
///
/// use registry_http::Rate;
///
/// // Docker Hub's for whoever has no account: 100 in six hours, which may come all at once.
/// let hub = Rate::new(NonZeroU32::new(100).unwrap(), Duration::from_secs(6 * 3600));
/// // Ten a second on average, and up to 200 at once.
/// let steady = Rate::new(NonZeroU32::new(10).unwrap(), Duration::from_secs(1))
///     .with_burst(NonZeroU32::new(200).unwrap());
/// # let _ = (hub, steady);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: NonZeroU32,
    per: Duration,
    burst: NonZeroU32,
}

impl Rate {
    /// `count` in each `per`, which may come all at once
    ///
    /// A `per` of nothing is no limit.
    pub fn new(count: NonZeroU32, per: Duration) -> Self {
        Self {
            count,
            per,
            burst: count,
        }
    }

    /// How many may come at once; by default as many as in the whole time
    #[must_use]
    pub fn with_burst(mut self, burst: NonZeroU32) -> Self {
        self.burst = burst;
        self
    }

    fn quota(self) -> Quota {
        // Within what 64 bits hold of nanoseconds, burst and age of the process included.
        let most = u64::MAX / 4 / u64::from(self.burst.get());
        let interval = (self.per / self.count.get()).as_nanos();
        let interval = u64::try_from(interval).unwrap_or(most).clamp(1, most);
        Quota::with_period(Duration::from_nanos(interval))
            .expect("it is at least a nanosecond")
            .allow_burst(self.burst)
    }
}

/// How often one principal, or one address, may ask; by default as often as they like
///
/// Whoever asks more often gets 429 with `Retry-After`, and an average rate just below the limit if they go
/// on regardless: what is refused is not counted.
///
/// - *Requests* are all, except `/livez`, `/readyz` and what is no request to the API.
/// - *Pulls* are `GET`s of a manifest, whether or not it is there.
/// - *Failures* are refused credentials, and denials. When an address has used them up, nothing that
///   comes from it is looked at until a new one has grown, so that no password is hashed for whoever guesses.
///   Requests without credentials that are told to bring some are none, for each `docker pull` begins
///   with one; nor are tokens that have expired; nor is what is answered as if it did not exist, for a limit
///   would tell it from what does not.
///
/// An address is what a trusted proxy says, else where the connection came from; of IPv6, the
/// network of 64 bits that is one customer's. Whoever has no address, as over a Unix socket
/// without headers, is not limited by it. Whoever has no name is limited by address alone.
///
/// Each process counts for itself. At most 65,536 addresses and as many principals are counted at
/// once; those that have not come for longest are forgotten first.
///
/// # Examples
///
/// ```
/// use std::num::NonZeroU32;
/// use std::sync::Arc;
/// use std::time::Duration;
///
/// use registry_auth::{AllowAll, Anyone};
/// use registry_http::{AccessControl, Rate, RateLimits};
///
/// let minute = |count| Rate::new(NonZeroU32::new(count).unwrap(), Duration::from_secs(60));
/// let limits = RateLimits::default()
///     .requests_per_address(minute(6000))
///     .failures_per_address(minute(20))
///     .pulls_per_principal(minute(100));
/// let access = AccessControl::new(Arc::new(Anyone), Arc::new(AllowAll)).with_limits(limits);
/// # let _ = access;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct RateLimits {
    address: Rates,
    principal: Rates,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Rates {
    requests: Option<Rate>,
    failures: Option<Rate>,
    pulls: Option<Rate>,
}

impl RateLimits {
    /// How many requests may come from one address
    pub fn requests_per_address(mut self, rate: Rate) -> Self {
        self.address.requests = Some(rate);
        self
    }

    /// How many requests from one address may fail before it has to wait
    pub fn failures_per_address(mut self, rate: Rate) -> Self {
        self.address.failures = Some(rate);
        self
    }

    /// How many manifests may be pulled from one address
    pub fn pulls_per_address(mut self, rate: Rate) -> Self {
        self.address.pulls = Some(rate);
        self
    }

    /// How many requests one principal may send
    pub fn requests_per_principal(mut self, rate: Rate) -> Self {
        self.principal.requests = Some(rate);
        self
    }

    /// How many requests of one principal may be denied before they have to wait
    pub fn failures_per_principal(mut self, rate: Rate) -> Self {
        self.principal.failures = Some(rate);
        self
    }

    /// How many manifests one principal may pull
    pub fn pulls_per_principal(mut self, rate: Rate) -> Self {
        self.principal.pulls = Some(rate);
        self
    }
}

/// Somebody has asked too often
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many {what} from {whose}; try again in {} seconds", whole_seconds(*.retry_after))]
pub(crate) struct TooMany {
    pub(crate) what: &'static str,
    pub(crate) whose: &'static str,
    pub(crate) retry_after: Duration,
}

/// Counts who asks how often, and refuses who does so too often
pub(super) struct Limits<C: Clock = DefaultClock> {
    addresses: Counters<IpAddr, C>,
    principals: Counters<Name, C>,
}

/// A principal's kind and name
type Name = (&'static str, String);

impl Limits {
    pub(super) fn new(limits: RateLimits) -> Self {
        Self::with_clock(limits, DefaultClock::default())
    }
}

impl<C: Clock + Clone> Limits<C> {
    fn with_clock(limits: RateLimits, clock: C) -> Self {
        Self {
            addresses: Counters::new(limits.address, clock.clone()),
            principals: Counters::new(limits.principal, clock),
        }
    }

    /// Counts a request of an address, before anything else is done for it
    pub(super) fn admit_address(
        &self,
        address: Option<IpAddr>,
        pulls: bool,
    ) -> Result<(), TooMany> {
        let counter = self.addresses.of(|| address.map(network));
        admit(counter, pulls, "your address")
    }

    /// Counts a request of a principal, before it is asked what they may do
    pub(super) fn admit_principal(
        &self,
        principal: &Principal,
        pulls: bool,
    ) -> Result<(), TooMany> {
        let counter = self.principals.of(|| name(principal));
        admit(counter, pulls, "your account")
    }

    /// Counts a request that failed; of whoever is not known, by address alone
    pub(super) fn failed(&self, address: Option<IpAddr>, principal: Option<&Principal>) {
        if let Some(counter) = self.addresses.of(|| address.map(network)) {
            counter.failed();
        }
        if let Some(counter) = self.principals.of(|| principal.and_then(name)) {
            counter.failed();
        }
    }
}

impl<C: Clock> fmt::Debug for Limits<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("addresses", &self.addresses.rates)
            .field("principals", &self.principals.rates)
            .finish_non_exhaustive()
    }
}

fn admit<C: Clock>(
    counter: Option<Arc<Counter<C>>>,
    pulls: bool,
    whose: &'static str,
) -> Result<(), TooMany> {
    let Some(counter) = counter else {
        return Ok(());
    };
    counter.admit(pulls).map_err(|(what, retry_after)| TooMany {
        what,
        whose,
        retry_after,
    })
}

fn name(principal: &Principal) -> Option<Name> {
    identity(principal).map(|(kind, name)| (kind, name.to_owned()))
}

/// The network that is one customer's
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        address => address,
    }
}

/// The counters of all that are of one kind
struct Counters<K, C: Clock> {
    rates: Rates,
    clock: C,
    known: Cache<K, Arc<Counter<C>>>,
}

impl<K: Clone + Eq + Hash, C: Clock + Clone> Counters<K, C> {
    fn new(rates: Rates, clock: C) -> Self {
        Self {
            rates,
            clock,
            known: Cache::new(COUNTED),
        }
    }

    /// The counter of whoever `key` names; none where nothing is limited
    fn of(&self, key: impl FnOnce() -> Option<K>) -> Option<Arc<Counter<C>>> {
        if self.rates == Rates::default() {
            return None;
        }
        let key = key()?;
        let new =
            || Ok::<_, std::convert::Infallible>(Counter::new(self.rates, &self.clock).into());
        match self.known.get_or_insert_with(&key, new) {
            Ok(counter) => Some(counter),
            Err(never) => match never {},
        }
    }
}

type Limiter<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// What one address, or one principal, has left
struct Counter<C: Clock> {
    clock: C,
    requests: Option<Limiter<C>>,
    failures: Option<Failures<C>>,
    pulls: Option<Limiter<C>>,
}

/// What has been done too often, and how long to wait until it can be done again
type Refused = (&'static str, Duration);

impl<C: Clock + Clone> Counter<C> {
    fn new(rates: Rates, clock: &C) -> Self {
        let limiter = |rate: Rate| Limiter::direct_with_clock(rate.quota(), clock.clone());
        Self {
            clock: clock.clone(),
            requests: rates.requests.map(limiter),
            failures: rates.failures.map(|rate| Failures {
                limiter: limiter(rate).with_middleware(),
                until: Mutex::new(None),
            }),
            pulls: rates.pulls.map(limiter),
        }
    }
}

impl<C: Clock> Counter<C> {
    fn admit(&self, pulls: bool) -> Result<(), Refused> {
        if let Some(wait) = self.failures.as_ref().and_then(|one| one.wait(&self.clock)) {
            return Err(("refused requests", wait));
        }
        let check = |limiter: &Option<Limiter<C>>, what| match limiter.as_ref().map(Limiter::check)
        {
            None | Some(Ok(())) => Ok(()),
            Some(Err(until)) => Err((what, until.wait_time_from(self.clock.now()))),
        };
        check(&self.requests, "requests")?;
        if pulls {
            check(&self.pulls, "pulls")?;
        }
        Ok(())
    }

    fn failed(&self) {
        if let Some(failures) = &self.failures {
            failures.count(&self.clock);
        }
    }
}

/// Failures, which are counted only once they have happened
///
/// The limiter is asked when there is one; until when to look at nothing is kept beside it.
struct Failures<C: Clock> {
    limiter: RateLimiter<NotKeyed, InMemoryState, C, StateInformationMiddleware>,
    until: Mutex<Option<C::Instant>>,
}

impl<C: Clock> Failures<C> {
    fn count(&self, clock: &C) {
        let until = match self.limiter.check() {
            Ok(left) if left.remaining_burst_capacity() > 0 => return,
            // The last one: the next has grown after an interval at most.
            Ok(left) => clock.now() + left.quota().replenish_interval().into(),
            // Requests under way at the same time failed as well.
            Err(until) => until.earliest_possible(),
        };
        *self.until.lock().unwrap_or_else(PoisonError::into_inner) = Some(until);
    }

    /// How long to wait, if there is none left
    fn wait(&self, clock: &C) -> Option<Duration> {
        use governor::clock::Reference;

        let until = (*self.until.lock().unwrap_or_else(PoisonError::into_inner))?;
        let wait: Duration = until.duration_since(clock.now()).into();
        (!wait.is_zero()).then_some(wait)
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn rate(count: u32, seconds: u64) -> Rate {
        Rate::new(
            NonZeroU32::new(count).unwrap(),
            Duration::from_secs(seconds),
        )
    }

    fn limits(limits: RateLimits) -> (Limits<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        (Limits::with_clock(limits, clock.clone()), clock)
    }

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    fn refusal(result: Result<(), TooMany>) -> Option<String> {
        result.err().map(|too_many| too_many.to_string())
    }

    #[test]
    fn what_is_not_limited_is_not_counted() {
        let (limits, _) = limits(RateLimits::default().pulls_per_address(rate(1, 60)));
        for _ in 0..1000 {
            assert!(limits.admit_address(ip("192.0.2.1"), false).is_ok());
            let ada = Principal::user("ada");
            assert!(limits.admit_principal(&ada, true).is_ok());
            limits.failed(ip("192.0.2.1"), Some(&ada));
        }
        assert!(limits.admit_address(ip("192.0.2.1"), true).is_ok());
        assert!(limits.admit_address(ip("192.0.2.1"), true).is_err());
        assert!(limits.admit_address(ip("192.0.2.1"), false).is_ok());
        for _ in 0..3 {
            assert!(limits.admit_address(None, true).is_ok());
        }
    }

    #[test]
    fn who_asks_too_often_waits_as_long_as_it_says() {
        let wanted = RateLimits::default()
            .requests_per_address(rate(6, 60).with_burst(NonZeroU32::new(2).unwrap()));
        let (limits, clock) = limits(wanted);
        let ask = || refusal(limits.admit_address(ip("192.0.2.1"), false));
        assert_eq!((ask(), ask()), (None, None));
        clock.advance(Duration::from_millis(1500));
        assert_eq!(
            ask().as_deref(),
            Some("too many requests from your address; try again in 9 seconds")
        );
        // Another's are another's.
        assert!(limits.admit_address(ip("192.0.2.2"), false).is_ok());
        clock.advance(Duration::from_millis(8499));
        assert!(ask().is_some());
        clock.advance(Duration::from_millis(1));
        // The refused ones were not counted.
        assert_eq!(ask(), None);
        assert!(ask().is_some());
    }

    #[test]
    fn who_has_failed_too_often_is_not_looked_at() {
        let wanted = RateLimits::default()
            .failures_per_address(rate(3, 30))
            .failures_per_principal(rate(1, 10));
        let (limits, clock) = limits(wanted);
        let ask = || refusal(limits.admit_address(ip("192.0.2.1"), false));
        for _ in 0..100 {
            assert_eq!(ask(), None);
        }
        for _ in 0..3 {
            assert_eq!(ask(), None);
            limits.failed(ip("192.0.2.1"), None);
        }
        assert_eq!(
            ask().as_deref(),
            Some("too many refused requests from your address; try again in 10 seconds")
        );
        clock.advance(Duration::from_secs(10));
        assert_eq!(ask(), None);
        limits.failed(ip("192.0.2.1"), None);
        assert!(ask().is_some());
        // Requests that were under way do not make it longer than it is.
        limits.failed(ip("192.0.2.1"), None);
        clock.advance(Duration::from_secs(10));
        assert_eq!(ask(), None);

        let ada = Principal::user("ada");
        limits.failed(ip("198.51.100.1"), Some(&ada));
        assert!(limits.admit_address(ip("198.51.100.1"), false).is_ok());
        assert_eq!(
            refusal(limits.admit_principal(&ada, false)).as_deref(),
            Some("too many refused requests from your account; try again in 10 seconds")
        );
        for other in [Principal::service("ada"), Principal::user("bob")] {
            assert!(limits.admit_principal(&other, false).is_ok());
        }
        assert!(limits.admit_principal(&Principal::Anonymous, false).is_ok());
    }

    #[test]
    fn a_customers_network_is_one_address() {
        for (address, same) in [
            ("192.0.2.1", "192.0.2.1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
            ("2001:db8:1:2:ffff::1", "2001:db8:1:2::"),
            ("2001:db8:1:3::1", "2001:db8:1:3::"),
        ] {
            let address: IpAddr = address.parse().unwrap();
            assert_eq!(network(address).to_string(), same);
        }
    }

    #[test]
    fn every_rate_is_a_quota() {
        let most = NonZeroU32::MAX;
        for rate in [
            Rate::new(most, Duration::ZERO),
            Rate::new(NonZeroU32::MIN, Duration::MAX),
            Rate::new(NonZeroU32::MIN, Duration::MAX).with_burst(most),
            Rate::new(most, Duration::MAX),
        ] {
            let (limits, clock) = limits(RateLimits::default().failures_per_address(rate));
            clock.advance(Duration::from_secs(1 << 30));
            for _ in 0..3 {
                limits.failed(ip("192.0.2.1"), None);
                let _ = limits.admit_address(ip("192.0.2.1"), true);
            }
        }
    }

    #[test]
    fn memory_is_bounded() {
        let (limits, _) = limits(RateLimits::default().requests_per_address(rate(1, 60)));
        for number in 0..2 * COUNTED as u32 {
            let address = std::net::Ipv4Addr::from_bits(number).into();
            let _ = limits.admit_address(Some(address), false);
        }
        assert!(limits.addresses.known.len() <= COUNTED);
    }
}
