//! The numbers of the notification endpoints

use std::fmt;
use std::sync::OnceLock;

use http::StatusCode;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use registry_http::notifications::NotifierStats;

type Ask = Box<dyn Fn() -> NotifierStats + Send + Sync>;

/// Asks for the numbers at each scrape
#[derive(Default)]
pub(super) struct Notifications(OnceLock<Ask>);

impl Notifications {
    pub(super) fn set(&self, ask: impl Fn() -> NotifierStats + Send + Sync + 'static) {
        let _ = self.0.set(Box::new(ask));
    }
}

impl Collector for Notifications {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Some(ask) = self.0.get() else {
            return Ok(());
        };
        let NotifierStats {
            outbox, endpoints, ..
        } = ask();
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
                let labels = [("type", kind), ("endpoint", numbers.name.as_str())];
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
            let labels = [("endpoint", numbers.name.as_str())];
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
                // As Go writes it: `200 OK`.
                let code = StatusCode::from_u16(*code)
                    .map_or_else(|_| code.to_string(), |code| code.to_string());
                let labels = [("code", code.as_str()), ("endpoint", numbers.name.as_str())];
                ConstCounter::new(*count).encode(metric.encode_family(&labels)?)?;
            }
        }
        for (name, help, value) in [
            (
                "registry_notifications_outbox_events",
                "Events that wait in the outbox, once for each endpoint",
                outbox.waiting,
            ),
            (
                "registry_notifications_outbox_bytes",
                "Bytes that the outbox takes",
                outbox.bytes,
            ),
            (
                "registry_notifications_outbox_limit_bytes",
                "Bytes that the outbox may take",
                outbox.limit,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(value).encode(metric)?;
        }
        for (name, help, value) in [
            (
                "registry_notifications_outbox_dropped",
                "Events that were given up for lack of room",
                outbox.dropped_pulls + outbox.dropped_changes,
            ),
            (
                "registry_notifications_outbox_refused",
                "Changes that were refused because their events could not be kept",
                outbox.refused,
            ),
        ] {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            ConstCounter::new(value).encode(metric)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Notifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifications").finish_non_exhaustive()
    }
}
