//! A line of the log, in the forms of the Acumos logging standard

use std::fmt::{self, Write as _};

use http::StatusCode;
use jiff::Timestamp;

/// What a line looks like
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    /// Of the Boreas release and all that followed: eight columns between tabs
    #[default]
    Boreas,
    /// Of the Athena release: 29 columns between bars
    Athena,
}

/// How far the work is that a line tells of
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// Not over
    Underway,
    /// Over, with this status; 0 if there was no answer
    Answered(u16),
}

/// Everything that a line may say, with empty texts for what is not known and not mandatory
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) time: Timestamp,
    pub(super) thread: String,
    pub(super) level: tracing::Level,
    pub(super) logger: String,
    pub(super) marker: String,
    pub(super) request_id: String,
    pub(super) invocation_id: String,
    pub(super) instance: String,
    pub(super) method: String,
    pub(super) service_name: String,
    pub(super) partner_name: String,
    pub(super) progress: Progress,
    pub(super) server_fqdn: String,
    pub(super) server_address: String,
    pub(super) client_address: String,
    pub(super) entered: Option<Timestamp>,
    pub(super) invoked: Option<Timestamp>,
    pub(super) elapsed_ms: Option<u64>,
    pub(super) target_entity: String,
    pub(super) target_service: String,
    pub(super) user: String,
    pub(super) message: String,
    pub(super) exception: String,
}

impl Entry {
    /// The line with its end; whatever is in it, it is one
    pub(super) fn format(&self, format: Format) -> String {
        match format {
            Format::Boreas => self.boreas(),
            Format::Athena => self.athena(),
        }
    }

    fn boreas(&self) -> String {
        let mut line = String::with_capacity(768);
        let _ = write!(line, "{}\t", Time(self.time));
        for column in [
            &self.thread,
            self.level.as_str(),
            &self.logger,
            &self.marker,
        ] {
            escape(&mut line, column, None);
            line.push('\t');
        }
        let optional = [
            ("EntryTimestamp", time(self.entered)),
            ("InvokeTimestamp", time(self.invoked)),
            ("TargetEntity", self.target_entity.clone()),
            ("TargetServiceName", self.target_service.clone()),
            ("User", self.user.clone()),
            ("Method", self.method.clone()),
        ];
        let mut first = true;
        let mut add = |name: &str, value: &str| {
            if !std::mem::take(&mut first) {
                line.push_str(", ");
            }
            line.push_str(name);
            line.push('=');
            // A comma would let whoever chose the value choose fields too.
            escape(&mut line, value, Some(','));
        };
        for (name, value) in [
            ("RequestID", self.request_id.as_str()),
            ("InvocationID", &self.invocation_id),
            ("InstanceUUID", &self.instance),
            ("ServiceName", &self.service_name),
            ("PartnerName", &self.partner_name),
            ("StatusCode", self.status_code()),
            ("ResponseCode", &self.response_code().to_string()),
            ("ResponseDescription", self.response_description()),
            ("Severity", self.level.as_str()),
            ("ServerFQDN", &self.server_fqdn),
            ("ClientIPAddress", &self.client_address),
        ] {
            add(name, value);
        }
        for (name, value) in &optional {
            if !value.is_empty() {
                add(name, value);
            }
        }
        line.push('\t');
        escape(&mut line, &self.message, None);
        // The platform's expression wants this tab, with an exception or without.
        line.push('\t');
        escape(&mut line, &self.exception, None);
        line.push('\n');
        line
    }

    fn athena(&self) -> String {
        let mut line = String::with_capacity(768);
        let elapsed = self.elapsed_ms.map(|elapsed| elapsed.to_string());
        let mdc = match &*self.method {
            "" => String::new(),
            method => format!("Method={method}"),
        };
        let columns: [&str; 29] = [
            &Time(self.time).to_string(),
            &time(self.entered),
            &time(self.invoked),
            &self.request_id,
            &self.invocation_id,
            &self.instance,
            // No name of its own, no virtual server, no context: blank, as the standard says.
            "",
            &self.thread,
            &self.service_name,
            &self.partner_name,
            self.status_code(),
            &self.response_code().to_string(),
            self.response_description(),
            self.level.as_str(),
            self.level.as_str(),
            &self.server_address,
            elapsed.as_deref().unwrap_or_default(),
            &self.server_fqdn,
            &self.client_address,
            "",
            "",
            &self.target_entity,
            &self.target_service,
            "",
            &self.user,
            &self.logger,
            &mdc,
            &self.message,
            &self.exception,
        ];
        for (index, column) in columns.into_iter().enumerate() {
            if index > 0 {
                line.push('|');
            }
            escape(&mut line, column, Some('|'));
        }
        line.push('\n');
        line
    }

    fn status_code(&self) -> &'static str {
        match self.progress {
            Progress::Underway => "INPROGRESS",
            Progress::Answered(1..=399) => "COMPLETED",
            Progress::Answered(_) => "ERROR",
        }
    }

    /// The status, for what is under way that which HTTP has for it
    ///
    /// The standard wants the field filled on every line.
    fn response_code(&self) -> u16 {
        match self.progress {
            Progress::Underway => StatusCode::PROCESSING.as_u16(),
            Progress::Answered(code) => code,
        }
    }

    fn response_description(&self) -> &'static str {
        match self.response_code() {
            0 => "No Response",
            499 => "Client Closed Request",
            code => StatusCode::from_u16(code)
                .ok()
                .and_then(|status| status.canonical_reason())
                .unwrap_or("Unknown Status"),
        }
    }
}

/// A time as the standard writes it, in UTC to the millisecond
struct Time(Timestamp);

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.3}", self.0)
    }
}

fn time(time: Option<Timestamp>) -> String {
    time.map(|time| Time(time).to_string()).unwrap_or_default()
}

/// Adds a text that keeps to its line and its column
///
/// A tab becomes the two characters `\t` and a line end `\n`, as logback is told to do in all of
/// the platform's components; other control characters are written likewise, and `separator`, if
/// the column has one more, as `\x` and its number.
fn escape(to: &mut String, text: &str, separator: Option<char>) {
    for character in text.chars() {
        match character {
            '\t' => to.push_str("\\t"),
            '\n' => to.push_str("\\n"),
            '\r' => to.push_str("\\r"),
            // Some readers end a line at these two.
            '\u{2028}' | '\u{2029}' => to.extend(character.escape_unicode()),
            other if other.is_control() => to.extend(other.escape_unicode()),
            other if Some(other) == separator => {
                let _ = write!(to, "\\x{:02x}", u32::from(other));
            }
            other => to.push(other),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::acumos_log) fn entry() -> Entry {
        Entry {
            time: "2020-05-14T17:34:58.123456Z".parse().unwrap(),
            thread: "tokio-worker".to_owned(),
            level: tracing::Level::INFO,
            logger: "org.acumos.docker_proxy.Request".to_owned(),
            marker: "EXIT".to_owned(),
            request_id: "r-1".to_owned(),
            invocation_id: "i-1".to_owned(),
            instance: "u-1".to_owned(),
            method: "GET".to_owned(),
            service_name: "docker-proxy/v2/".to_owned(),
            partner_name: "ada".to_owned(),
            progress: Progress::Answered(200),
            server_fqdn: "proxy.example".to_owned(),
            server_address: "192.0.2.1".to_owned(),
            client_address: "192.0.2.7".to_owned(),
            entered: Some("2020-05-14T17:34:58Z".parse().unwrap()),
            invoked: None,
            elapsed_ms: Some(123),
            target_entity: String::new(),
            target_service: String::new(),
            user: "ada".to_owned(),
            message: "done".to_owned(),
            exception: String::new(),
        }
    }

    #[test]
    fn boreas_is_eight_columns_between_tabs() {
        let line = entry().format(Format::Boreas);
        assert_eq!(
            line.split('\t').collect::<Vec<_>>(),
            [
                "2020-05-14T17:34:58.123Z",
                "tokio-worker",
                "INFO",
                "org.acumos.docker_proxy.Request",
                "EXIT",
                "RequestID=r-1, InvocationID=i-1, InstanceUUID=u-1, ServiceName=docker-proxy/v2/, \
                 PartnerName=ada, StatusCode=COMPLETED, ResponseCode=200, ResponseDescription=OK, \
                 Severity=INFO, ServerFQDN=proxy.example, ClientIPAddress=192.0.2.7, \
                 EntryTimestamp=2020-05-14T17:34:58.000Z, User=ada, Method=GET",
                "done",
                "\n"
            ]
        );
    }

    #[test]
    fn athena_is_its_columns_between_bars() {
        let line = entry().format(Format::Athena);
        assert_eq!(
            line,
            "2020-05-14T17:34:58.123Z|2020-05-14T17:34:58.000Z||r-1|i-1|u-1||tokio-worker|\
             docker-proxy/v2/|ada|COMPLETED|200|OK|INFO|INFO|192.0.2.1|123|proxy.example|192.0.2.7\
             ||||||ada|org.acumos.docker_proxy.Request|Method=GET|done|\n"
        );
    }

    #[test]
    fn whatever_is_in_it_a_line_is_one_and_its_columns_stay() {
        let nasty = "a\tb\nc\rd|e\u{0}f\u{1b}[2Jg\u{85}h\u{2028}i, StatusCode=COMPLETED";
        let entry = Entry {
            thread: nasty.to_owned(),
            marker: nasty.to_owned(),
            partner_name: nasty.to_owned(),
            user: nasty.to_owned(),
            message: nasty.to_owned(),
            exception: nasty.to_owned(),
            progress: Progress::Answered(403),
            ..entry()
        };
        let line = entry.format(Format::Boreas);
        assert_eq!(line.matches('\t').count(), 7, "{line}");
        let escaped = r"a\tb\nc\rd|e\u{0}f\u{1b}[2Jg\u{85}h\u{2028}i, StatusCode=COMPLETED";
        assert_eq!(line.matches(escaped).count(), 4, "{line}");
        let mdc = line.split('\t').nth(5).unwrap();
        let of = |name: &str| {
            let fields = mdc.split(", ").filter_map(|field| field.split_once('='));
            fields
                .filter(|(known, _)| *known == name)
                .map(|(_, value)| value)
                .collect::<Vec<_>>()
        };
        assert_eq!(of("StatusCode"), ["ERROR"]);
        assert!(
            of("User")[0].ends_with(r"i\x2c StatusCode=COMPLETED"),
            "{mdc}"
        );

        let athena = entry.format(Format::Athena);
        assert_eq!(athena.matches('|').count(), 28, "{athena}");
        for line in [line, athena] {
            let body = line.strip_suffix('\n').unwrap();
            let odd = |c: char| (c.is_control() && c != '\t') || c == '\u{2028}';
            assert!(!body.contains(odd), "{body:?}");
        }
    }

    #[test]
    fn every_progress_has_a_status_a_code_and_a_description() {
        for (progress, status, code, description) in [
            (Progress::Underway, "INPROGRESS", 102, "Processing"),
            (Progress::Answered(201), "COMPLETED", 201, "Created"),
            (
                Progress::Answered(307),
                "COMPLETED",
                307,
                "Temporary Redirect",
            ),
            (Progress::Answered(404), "ERROR", 404, "Not Found"),
            (
                Progress::Answered(499),
                "ERROR",
                499,
                "Client Closed Request",
            ),
            (Progress::Answered(799), "ERROR", 799, "Unknown Status"),
            (Progress::Answered(0), "ERROR", 0, "No Response"),
        ] {
            let entry = Entry {
                progress,
                ..entry()
            };
            assert_eq!(entry.status_code(), status);
            assert_eq!(entry.response_code(), code);
            assert_eq!(entry.response_description(), description);
        }
    }
}
