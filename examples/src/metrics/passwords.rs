//! The numbers of the checks of passwords

use std::fmt;
use std::sync::OnceLock;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use registry_auth::htpasswd::Counts;

type Ask = Box<dyn Fn() -> Counts + Send + Sync>;

/// Asks for the numbers at each scrape
#[derive(Default)]
pub(super) struct Passwords(OnceLock<Ask>);

impl Passwords {
    pub(super) fn set(&self, ask: impl Fn() -> Counts + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(ask));
    }
}

impl Collector for Passwords {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(ask) = self.0.get() else {
            return Ok(());
        };
        let counts = ask();
        for (name, help, value) in [
            (
                "registry_htpasswd_hashes",
                "Hashes of passwords that were begun",
                counts.hashes,
            ),
            (
                "registry_htpasswd_rounds",
                "Rounds of these hashes, which is what they cost",
                counts.rounds,
            ),
            (
                "registry_htpasswd_unavailable",
                "Requests that were told to come back, for too many waited for a hash",
                counts.unavailable,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        for (name, help, value) in [
            (
                "registry_htpasswd_waiting",
                "Requests that wait for a hash",
                counts.waiting,
            ),
            (
                "registry_htpasswd_users",
                "Users of the file in force",
                counts.users,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Passwords {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Passwords").finish_non_exhaustive()
    }
}
