//! The numbers of the notification endpoints

use std::collections::BTreeMap;
use std::fmt;
use std::sync::OnceLock;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

/// What one endpoint has been told and not been told yet
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndpointNumbers {
    /// The endpoint's name in the configuration
    pub endpoint: String,
    /// Events in its outbox
    pub pending: u64,
    /// Events that came
    pub events: u64,
    /// Events that it took
    pub successes: u64,
    /// Attempts that it answered, but refused
    pub failures: u64,
    /// Attempts that it did not answer
    pub errors: u64,
    /// Answers by status, such as `200 OK`
    pub statuses: BTreeMap<String, u64>,
}

type Ask = Box<dyn Fn() -> Vec<EndpointNumbers> + Send + Sync>;

/// Asks for the numbers at each scrape
#[derive(Default)]
pub(super) struct Notifications(OnceLock<Ask>);

impl Notifications {
    pub(super) fn set(&self, ask: impl Fn() -> Vec<EndpointNumbers> + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(ask));
    }
}

impl Collector for Notifications {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(ask) = self.0.get() else {
            return Ok(());
        };
        let endpoints = ask();
        let mut metric = encoder.encode_descriptor(
            "registry_notifications_events",
            "The number of total events",
            None,
            MetricType::Counter,
        )?;
        for numbers in &endpoints {
            for (kind, count) in [
                ("Events", numbers.events),
                ("Successes", numbers.successes),
                ("Failures", numbers.failures),
                ("Errors", numbers.errors),
            ] {
                let labels = [("type", kind), ("endpoint", &numbers.endpoint)];
                ConstCounter::new(count).encode(metric.encode_family(&labels)?)?;
            }
        }
        let mut metric = encoder.encode_descriptor(
            "registry_notifications_pending_total",
            "The gauge of pending events in queue",
            None,
            MetricType::Gauge,
        )?;
        for numbers in &endpoints {
            let labels = [("endpoint", &*numbers.endpoint)];
            ConstGauge::new(numbers.pending).encode(metric.encode_family(&labels)?)?;
        }
        let mut metric = encoder.encode_descriptor(
            "registry_notifications_status",
            "The number of status code",
            None,
            MetricType::Counter,
        )?;
        for numbers in &endpoints {
            for (code, count) in &numbers.statuses {
                let labels = [("code", &**code), ("endpoint", &numbers.endpoint)];
                ConstCounter::new(*count).encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

impl fmt::Debug for Notifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifications").finish_non_exhaustive()
    }
}
