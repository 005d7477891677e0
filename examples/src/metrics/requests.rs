//! The numbers of requests, by what they asked for and what came of them

use std::array;
use std::sync::OnceLock;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use registry_http::AccessRecord;

use super::{NONE, seconds};

/// Operations, and what distribution calls the routes on which they are
const OPERATIONS: [(&str, &str); 15] = [
    // Those first of which there are most.
    ("get_manifest", "manifest"),
    ("get_blob", "blob"),
    (NONE, NONE),
    ("ping", "base"),
    ("cancel_upload", "blob_upload_chunk"),
    ("catalog", "catalog"),
    ("complete_upload", "blob_upload_chunk"),
    ("delete_blob", "blob"),
    ("delete_manifest", "manifest"),
    ("list_referrers", "referrers"),
    ("list_tags", "tags"),
    ("put_manifest", "manifest"),
    ("start_upload", "blob_upload"),
    ("upload_chunk", "blob_upload_chunk"),
    ("upload_status", "blob_upload_chunk"),
];

/// Methods, and their labels; the last is that of all others, whatever clients make up
const METHODS: [(&str, &str); 8] = [
    ("GET", "get"),
    ("HEAD", "head"),
    ("POST", "post"),
    ("PUT", "put"),
    ("PATCH", "patch"),
    ("DELETE", "delete"),
    ("OPTIONS", "options"),
    ("", "other"),
];

/// The statuses that most requests get
const CODES: [u16; 9] = [200, 201, 202, 206, 304, 307, 401, 404, 499];

/// Counts requests
///
/// Each request counts in eight series. To look each of them up by its labels takes longer than to
/// count, so what is found once is kept.
#[derive(Debug)]
pub(super) struct Requests {
    families: Families,
    /// By the place in [`OPERATIONS`]
    known: [OnceLock<OfOperation>; OPERATIONS.len()],
}

#[derive(Debug)]
struct Families {
    in_flight: Family<HandlerLabel, Gauge>,
    requests: Family<RequestLabels, Counter>,
    durations: Family<DurationLabels, Histogram, fn() -> Histogram>,
    request_sizes: Family<HandlerLabel, Histogram, fn() -> Histogram>,
    response_sizes: Family<HandlerLabel, Histogram, fn() -> Histogram>,
    operations: Family<OperationLabels, Counter>,
    operation_durations: Family<OperationLabel, Histogram, fn() -> Histogram>,
    incomplete: Counter,
}

/// The series that all requests of an operation share
#[derive(Debug)]
struct OfOperation {
    in_flight: Gauge,
    request_sizes: Histogram,
    response_sizes: Histogram,
    durations: Histogram,
    /// By the place in [`METHODS`]
    methods: [OnceLock<OfMethod>; METHODS.len()],
}

/// Those that all of them with the same method share
#[derive(Debug)]
struct OfMethod {
    durations: Histogram,
    /// By the place in [`CODES`]
    codes: [OnceLock<OfCode>; CODES.len()],
}

/// Those that all of these with the same status share
#[derive(Debug)]
struct OfCode {
    requests: Counter,
    operations: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandlerLabel {
    handler: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    handler: &'static str,
    method: &'static str,
    code: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DurationLabels {
    handler: &'static str,
    method: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabel {
    operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    operation: &'static str,
    code: u16,
}

impl Requests {
    /// Makes the metrics and shows them in `registry`
    pub(super) fn new(registry: &mut Registry) -> Self {
        let families = Families {
            in_flight: Family::default(),
            requests: Family::default(),
            durations: Family::new_with_constructor(seconds as fn() -> Histogram),
            request_sizes: Family::new_with_constructor(sizes as fn() -> Histogram),
            response_sizes: Family::new_with_constructor(sizes as fn() -> Histogram),
            operations: Family::default(),
            operation_durations: Family::new_with_constructor(seconds as fn() -> Histogram),
            incomplete: Counter::default(),
        };
        // Counters get their `_total` when they are written.
        registry.register(
            "registry_http_in_flight_requests",
            "The in-flight HTTP requests",
            families.in_flight.clone(),
        );
        registry.register(
            "registry_http_requests",
            "Total number of HTTP requests made",
            families.requests.clone(),
        );
        registry.register(
            "registry_http_request_duration_seconds",
            "The HTTP request latencies in seconds",
            families.durations.clone(),
        );
        registry.register(
            "registry_http_request_size_bytes",
            "The HTTP request sizes in bytes",
            families.request_sizes.clone(),
        );
        registry.register(
            "registry_http_response_size_bytes",
            "The HTTP response sizes in bytes",
            families.response_sizes.clone(),
        );
        registry.register(
            "registry_http_operations",
            "Requests by what they asked for",
            families.operations.clone(),
        );
        registry.register(
            "registry_http_operation_duration_seconds",
            "How long requests took to the end of the response, by what they asked for",
            families.operation_durations.clone(),
        );
        registry.register(
            "registry_http_incomplete_responses",
            "Responses that did not reach their end, most often because the client went away",
            families.incomplete.clone(),
        );
        Self {
            families,
            known: array::from_fn(|_| OnceLock::new()),
        }
    }

    pub(super) fn started(&self, operation: &str) {
        self.of(operation).1.in_flight.inc();
    }

    pub(super) fn finished(&self, record: &AccessRecord) {
        let (labels, of_operation) = self.of(record.operation.unwrap_or(NONE));
        let method = method(record.method.as_str());
        let of_method = of_operation.methods[method]
            .get_or_init(|| self.families.of_method(labels, METHODS[method].1));
        let code = record.status.as_u16();
        let elapsed = record.elapsed.as_secs_f64();
        if record.operation.is_some() {
            of_operation.in_flight.dec();
        }
        let count = |of_code: &OfCode| {
            of_code.requests.inc();
            of_code.operations.inc();
        };
        let made = || self.families.of_code(labels, METHODS[method].1, code);
        match CODES.iter().position(|known| *known == code) {
            Some(known) => count(of_method.codes[known].get_or_init(made)),
            None => count(&made()),
        }
        of_method.durations.observe(elapsed);
        of_operation
            .request_sizes
            .observe(record.received_bytes as f64);
        of_operation.response_sizes.observe(record.bytes as f64);
        of_operation.durations.observe(elapsed);
        if !record.complete {
            self.families.incomplete.inc();
        }
    }

    /// The labels and the series of an operation; what is not known counts as none
    fn of(&self, operation: &str) -> ((&'static str, &'static str), &OfOperation) {
        let place = place(operation);
        let labels = OPERATIONS[place];
        let series = self.known[place].get_or_init(|| self.families.of_operation(labels));
        (labels, series)
    }
}

impl Families {
    fn of_operation(&self, (operation, handler): (&'static str, &'static str)) -> OfOperation {
        let label = HandlerLabel { handler };
        OfOperation {
            in_flight: self.in_flight.get_or_create_owned(&label),
            request_sizes: self.request_sizes.get_or_create_owned(&label),
            response_sizes: self.response_sizes.get_or_create_owned(&label),
            durations: self
                .operation_durations
                .get_or_create_owned(&OperationLabel { operation }),
            methods: array::from_fn(|_| OnceLock::new()),
        }
    }

    fn of_method(&self, (_, handler): (&str, &'static str), method: &'static str) -> OfMethod {
        OfMethod {
            durations: self
                .durations
                .get_or_create_owned(&DurationLabels { handler, method }),
            codes: array::from_fn(|_| OnceLock::new()),
        }
    }

    fn of_code(
        &self,
        (operation, handler): (&'static str, &'static str),
        method: &'static str,
        code: u16,
    ) -> OfCode {
        OfCode {
            requests: self.requests.get_or_create_owned(&RequestLabels {
                handler,
                method,
                code,
            }),
            operations: self
                .operations
                .get_or_create_owned(&OperationLabels { operation, code }),
        }
    }
}

/// From 1 KiB to 2 GiB, as distribution has them
fn sizes() -> Histogram {
    Histogram::new(exponential_buckets(1024.0, 2.0, 22))
}

/// The place of an operation in [`OPERATIONS`]; that of [`NONE`] if it has none
fn place(operation: &str) -> usize {
    let place_of = |wanted: &str| OPERATIONS.iter().position(|(known, _)| *known == wanted);
    place_of(operation)
        .or_else(|| place_of(NONE))
        .unwrap_or_default()
}

/// The place of a method in [`METHODS`]
fn method(method: &str) -> usize {
    METHODS
        .iter()
        .position(|(known, _)| *known == method)
        .unwrap_or(METHODS.len() - 1)
}

#[cfg(test)]
mod tests {
    use registry_core::route;

    use super::*;

    #[test]
    fn every_operation_has_a_place_and_a_handler() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let session = "8cd5b4e7-9b0f-4d3a-8f6c-2f5f6f0f0a11";
        let (blob, upload) = (
            format!("/v2/a/blobs/{digest}"),
            format!("/v2/a/blobs/uploads/{session}"),
        );
        let referrers = format!("/v2/a/referrers/{digest}");
        let complete = format!("digest={digest}");
        let mut places = vec![place(NONE)];
        for (method, path, query, expected) in [
            ("GET", "/v2/", None, "base"),
            ("GET", &*blob, None, "blob"),
            ("DELETE", &blob, None, "blob"),
            ("POST", "/v2/a/blobs/uploads/", None, "blob_upload"),
            ("GET", &upload, None, "blob_upload_chunk"),
            ("PATCH", &upload, None, "blob_upload_chunk"),
            ("PUT", &upload, Some(&*complete), "blob_upload_chunk"),
            ("DELETE", &upload, None, "blob_upload_chunk"),
            ("GET", "/v2/_catalog", None, "catalog"),
            ("GET", "/v2/a/manifests/x", None, "manifest"),
            ("PUT", "/v2/a/manifests/x", None, "manifest"),
            ("DELETE", "/v2/a/manifests/x", None, "manifest"),
            ("GET", &referrers, None, "referrers"),
            ("GET", "/v2/a/tags/list", None, "tags"),
        ] {
            let operation = route(method, path, query).unwrap();
            let found = OPERATIONS[place(operation.label())];
            assert_eq!(found, (operation.label(), expected), "{operation:?}");
            places.push(place(operation.label()));
        }
        places.sort_unstable();
        assert!(places.into_iter().eq(0..OPERATIONS.len()));
        assert_eq!(OPERATIONS[place("what a newer core knows")], (NONE, NONE));
    }

    #[test]
    fn methods_are_a_few_whatever_clients_send() {
        for (sent, label) in [
            ("GET", "get"),
            ("OPTIONS", "options"),
            ("get", "other"),
            ("PROPFIND", "other"),
        ] {
            assert_eq!(METHODS[method(sent)].1, label);
        }
    }
}
