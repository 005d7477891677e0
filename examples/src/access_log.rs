//! The access log: a line per request

use std::fmt::Write as _;
use std::io::Write;

use http::HeaderValue;
use registry_http::{AccessRecord, Observer};
use serde_json::Value;

use crate::lines::{Lines, Writer};
use crate::logging::{Fields, Formatter, Line, LogOptions};

/// How many bytes most lines have at most
const USUAL: usize = 384;

/// Hands a line per request to the writing thread
#[derive(Debug)]
pub struct AccessLog {
    lines: Lines,
    formatter: Formatter,
    fields: Fields,
}

impl AccessLog {
    /// A log in the combined format, written to `out`
    pub fn new(out: impl Write + Send + 'static) -> (Self, Writer) {
        Self::with_options(out, &LogOptions::default())
    }

    /// A log in the format of the other logs, written to `out`
    ///
    /// As text it is the combined format. As JSON a line has the names that distribution uses,
    /// `http.request.method` and so on, and the time the request took
    /// (`http.response.duration`, in seconds).
    pub fn with_options(out: impl Write + Send + 'static, options: &LogOptions) -> (Self, Writer) {
        let (lines, writer) = Lines::new(out);
        let log = Self {
            lines,
            formatter: options.formatter,
            fields: options.fields.clone(),
        };
        (log, writer)
    }

    fn json(&self, record: &AccessRecord) -> String {
        let mut line = Line {
            time: record.received,
            level: tracing::Level::INFO,
            target: "access",
            message: "response completed".to_owned(),
            fields: self.fields.clone(),
        };
        let header = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let values: [(&str, Option<Value>); 13] = [
            ("auth.user.name", record.user.clone().map(Value::from)),
            (
                "http.request.id",
                Some(record.request_id.to_string().into()),
            ),
            ("http.request.received", Some(record.received_bytes.into())),
            ("http.request.method", Some(record.method.as_str().into())),
            ("http.request.operation", record.operation.map(Value::from)),
            (
                "http.request.referer",
                record.referer.as_ref().map(header).map(Value::from),
            ),
            (
                "http.request.remoteaddr",
                record.remote.map(|address| address.to_string().into()),
            ),
            (
                "http.request.uri",
                record.target().map(|target| target.into_owned().into()),
            ),
            (
                "http.request.useragent",
                record.user_agent.as_ref().map(header).map(Value::from),
            ),
            ("http.response.complete", Some(record.complete.into())),
            (
                "http.response.duration",
                Some(record.elapsed.as_secs_f64().into()),
            ),
            ("http.response.status", Some(record.status.as_u16().into())),
            ("http.response.written", Some(record.bytes.into())),
        ];
        for (name, value) in values {
            if let Some(value) = value {
                line.fields.insert(name.to_owned(), value);
            }
        }
        line.format(self.formatter)
    }
}

impl Observer for AccessLog {
    fn finished(&self, record: &AccessRecord) {
        match self.formatter {
            Formatter::Text => {
                // Of one size, so that it need not grow while it is written.
                let mut line = String::with_capacity(USUAL);
                // A string takes whatever is written to it.
                let _ = writeln!(line, "{record}");
                self.lines.send(line);
            }
            Formatter::Json | Formatter::Logstash => self.lines.send(self.json(record)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http::Request;
    use http_body_util::{BodyExt, Full};
    use hyper::service::Service;
    use registry_auth::{AllowAll, Anyone};
    use registry_http::RegistryService;
    use registry_storage::{Memory, Store};
    use serde_json::json;

    use super::*;
    use crate::lines::tests::Sink;

    async fn logged(options: &LogOptions) -> String {
        let sink = Sink::default();
        let (log, writer) = AccessLog::with_options(sink.clone(), options);
        let store = Store::new(Arc::new(Memory::new()));
        let service = RegistryService::builder(store, Arc::new(Anyone), Arc::new(AllowAll))
            .observer(Arc::new(log))
            .build();
        let request = Request::put("/v2/a/manifests/x?tag=%22")
            .header("user-agent", "quoted \"\tx")
            .header("x-request-id", "r1")
            .header("authorization", "Basic c2VjcmV0OnNlY3JldA==")
            .body(Full::new(Bytes::from_static(b"12345")))
            .unwrap();
        let response = service.call(request).await.unwrap();
        response.into_body().collect().await.unwrap();
        drop(service);
        writer.join();
        sink.text()
    }

    #[tokio::test]
    async fn text_is_the_combined_format() {
        let line = logged(&LogOptions::default()).await;
        assert!(
            line.contains("\"PUT /v2/a/manifests/x?tag=%22 HTTP/1.1\" 400 "),
            "{line}"
        );
        assert!(line.ends_with("\"-\" \"quoted \\x22\\x09x\"\n"), "{line}");
        assert!(!line.contains("c2VjcmV0"), "{line}");
    }

    #[tokio::test]
    async fn json_has_the_names_of_distribution() {
        for (formatter, message, time) in [
            (Formatter::Json, "msg", "time"),
            (Formatter::Logstash, "message", "@timestamp"),
        ] {
            let options = LogOptions {
                formatter,
                fields: [("service".to_owned(), json!("registry"))].into(),
                ..LogOptions::default()
            };
            let line = logged(&options).await;
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            let value: Value = serde_json::from_str(&line).unwrap();
            for (name, expected) in [
                (message, json!("response completed")),
                ("level", json!("info")),
                ("service", json!("registry")),
                ("http.request.id", json!("r1")),
                ("http.request.method", json!("PUT")),
                ("http.request.operation", json!("put_manifest")),
                ("http.request.received", json!(5)),
                ("http.request.uri", json!("/v2/a/manifests/x?tag=%22")),
                ("http.request.useragent", json!("quoted \"\tx")),
                ("http.response.complete", json!(true)),
                ("http.response.status", json!(400)),
            ] {
                assert_eq!(value[name], expected, "{name} in {line}");
            }
            assert!(value[time].as_str().unwrap().ends_with('Z'), "{line}");
            assert!(value["http.response.duration"].as_f64().unwrap() < 60.0);
            assert!(value["http.response.written"].as_u64().unwrap() > 0);
            assert!(!line.contains("c2VjcmV0"), "{line}");
        }
    }
}
