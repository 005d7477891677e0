use registry_http::notifications::EndpointStats;

use super::*;

#[test]
fn calls_share_an_action_only_where_distribution_has_one() {
    let mut shared = std::collections::BTreeMap::new();
    for call in StorageCall::ALL {
        shared
            .entry(action(call))
            .or_insert_with(Vec::new)
            .push(call);
    }
    shared.retain(|_, calls| calls.len() > 1);
    assert_eq!(
        shared.keys().copied().collect::<Vec<_>>(),
        ["Delete", "Move"]
    );
}

#[test]
fn what_comes_later_is_shown_from_then_on() {
    let metrics = Metrics::new("inmemory");
    let before = metrics.encode(TextFormat::Prometheus);
    assert!(!before.contains("registry_storage_cache_total"), "{before}");
    assert!(!before.contains("registry_notifications"), "{before}");
    assert!(!before.contains("registry_htpasswd"), "{before}");
    metrics.watch_hints(Arc::default());
    metrics.watch_htpasswd(|| {
        let mut counts = Counts::default();
        counts.hashes = 6;
        counts.waiting = 1;
        counts
    });
    metrics.watch_notifications(|| {
        let mut endpoint = EndpointStats::default();
        endpoint.name = "a \"hook\"".to_owned();
        endpoint.pending = 4;
        endpoint.events = 9;
        endpoint.successes = 5;
        endpoint.failures = 2;
        endpoint.errors = 1;
        endpoint.statuses = [(200, 5), (500, 2)].into();
        let mut stats = NotifierStats::default();
        stats.outbox.waiting = 4;
        stats.outbox.dropped_pulls = 3;
        stats.endpoints.push(endpoint);
        stats
    });
    let after = metrics.encode(TextFormat::Prometheus);
    for line in [
        "registry_storage_cache_total{type=\"Request\"} 0",
        "registry_htpasswd_hashes_total 6",
        "registry_htpasswd_waiting 1",
        "registry_notifications_events_total{type=\"Events\",endpoint=\"a \\\"hook\\\"\"} 9",
        "registry_notifications_events_total{type=\"Successes\",endpoint=\"a \\\"hook\\\"\"} 5",
        "registry_notifications_events_total{type=\"Failures\",endpoint=\"a \\\"hook\\\"\"} 2",
        "registry_notifications_events_total{type=\"Errors\",endpoint=\"a \\\"hook\\\"\"} 1",
        "# TYPE registry_notifications_pending_total gauge",
        "registry_notifications_outbox_events 4",
        "registry_notifications_outbox_dropped_total 3",
        "registry_notifications_pending_total{endpoint=\"a \\\"hook\\\"\"} 4",
        "registry_notifications_status_total{code=\"200 OK\",endpoint=\"a \\\"hook\\\"\"} 5",
    ] {
        assert!(
            after.lines().any(|found| found == line),
            "{line} in {after}"
        );
    }
}
