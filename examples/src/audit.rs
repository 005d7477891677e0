//! Each decision about who may do what as a line of JSON

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::time::SystemTime;

use jiff::Timestamp;
use registry_auth::{Audit, AuditRecord, Explanation};
use serde_json::{Value, json};

use crate::config;
use crate::lines::Lines;

/// Writes decisions down, by a thread of its own
///
/// A line is what an [`Explanation`] serializes to, with `time`, `elapsed_ms` and `request`, the id
/// of the request. Where it could not be decided, `allow` is null and `error` says why.
#[derive(Debug)]
pub struct AuditLog {
    lines: Lines,
}

impl AuditLog {
    /// Opens what a configuration names; a file is added to
    ///
    /// # Errors
    ///
    /// What the system says of the file.
    pub fn open(at: &config::Audit) -> io::Result<Self> {
        Ok(match at {
            config::Audit::File(path) => Self::new(
                OpenOptions::new()
                    .append(true)
                    .create(true)
                    .mode(0o640)
                    .open(path)?,
            ),
            config::Audit::Stderr => Self::new(io::stderr()),
            config::Audit::Stdout => Self::new(io::stdout()),
        })
    }

    /// Written to `out`
    pub fn new(out: impl Write + Send + 'static) -> Self {
        // Whoever needs all of it written says so by `flush`; the thread ends with the log.
        let (lines, _) = Lines::new(out);
        Self { lines }
    }

    /// Waits until all decisions so far are written
    pub fn flush(&self) {
        self.lines.flush();
    }
}

impl Audit for AuditLog {
    fn decided(&self, record: &AuditRecord<'_>) {
        let mut line = match record.outcome {
            Ok(decision) => json!(Explanation::new(record.principal, record.access, decision)),
            Err(error) => json!({
                "principal": { "name": record.principal.name() },
                "access": { "scope": record.access.to_string() },
                "allow": null,
                "error": error.cause,
            }),
        };
        if let Value::Object(fields) = &mut line {
            let time = Timestamp::try_from(SystemTime::now()).map(|time| time.to_string());
            fields.insert("time".to_owned(), time.unwrap_or_default().into());
            let elapsed = record.elapsed.as_secs_f64() * 1000.0;
            fields.insert("elapsed_ms".to_owned(), elapsed.into());
            let request = record.request.as_deref().map(Value::from);
            fields.insert("request".to_owned(), request.unwrap_or_default());
        }
        self.lines.send(format!("{line}\n"));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use registry_auth::{Audited, Authorizer, Principal, PullOnly, request};
    use registry_core::route;

    use super::*;
    use crate::lines::tests::Sink;

    #[tokio::test]
    async fn a_decision_is_a_line() {
        let sink = Sink::default();
        let log = Arc::new(AuditLog::new(sink.clone()));
        let audited = Audited::new(Arc::new(PullOnly), log.clone());
        let ada = Principal::user("ada");
        for access in route("POST", "/v2/app/blobs/uploads/", None)
            .unwrap()
            .access()
        {
            let decide = audited.authorize(&ada, &access);
            let _ = request::on_behalf_of("r-1".into(), decide).await;
        }
        log.flush();
        let text = sink.text();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        for (line, (allow, action)) in lines.iter().zip([(true, "pull"), (false, "push")]) {
            assert_eq!(line["allow"], allow, "{line}");
            assert_eq!(line["access"]["action"], action, "{line}");
            assert_eq!(line["principal"]["name"], "ada", "{line}");
            assert_eq!(line["rule"], "pull-only", "{line}");
            assert_eq!(line["request"], "r-1", "{line}");
            assert!(line["elapsed_ms"].is_f64(), "{line}");
            assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
        }
    }
}
