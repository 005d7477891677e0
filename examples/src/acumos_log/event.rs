//! From an event of `tracing` to a line of the log

use std::error::Error;
use std::fmt::{self, Write as _};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jiff::Timestamp;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;
use uuid::Uuid;

use super::line::{Entry, Format, Progress};
use super::logger::{is_own, logger};
use super::redact::{HIDDEN, is_secret_name, redact};
use crate::lines::Lines;
use crate::logging::{Fields, Formatter, Line};

/// What the services of this component are called by
pub(super) const COMPONENT: &str = "docker-proxy";

/// What stands in a mandatory field of which nothing is known
const UNKNOWN: &str = "UNKNOWN";

/// What every line says of the process it comes from
#[derive(Clone, Debug)]
pub(super) struct Instance {
    pub(super) id: String,
    pub(super) fqdn: String,
    pub(super) address: String,
}

/// Makes lines of events: all of them for the file, the important ones for the console
///
/// A span called `request` says on whose behalf everything within it happens, by its fields `id`,
/// `service`, `client`, `agent` and `user`.
#[derive(Debug)]
pub struct AcumosLog {
    pub(super) instance: Arc<Instance>,
    pub(super) format: Format,
    pub(super) file: Option<Lines>,
    pub(super) console: Option<(LevelFilter, Lines)>,
}

impl<S> Layer<S> for AcumosLog
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut values = Values::default();
            attributes.record(&mut values);
            let request = (span.name() == "request").then(|| Entered {
                at: now(),
                invocation: Uuid::new_v4(),
            });
            span.extensions_mut().replace(OfSpan { request, values });
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id)
            && let Some(known) = span.extensions_mut().get_mut::<OfSpan>()
        {
            values.record(&mut known.values);
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let level = event.metadata().level();
        // Whatever the filter lets through, libraries have to say how they are, not what they
        // carry: their debugging output may hold headers.
        if *level > Level::INFO && !is_own(event.metadata().target()) {
            return;
        }
        let console = self
            .console
            .as_ref()
            .filter(|(least, _)| level <= least)
            .map(|(_, lines)| lines);
        if self.file.is_none() && console.is_none() {
            return;
        }
        let mut entered = None;
        let mut values = Values::default();
        let mut other = Fields::new();
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(of_span) = span.extensions().get::<OfSpan>() {
                match &of_span.request {
                    // The outer one is the client's; one within is a service's behind ours.
                    Some(request) => {
                        entered.get_or_insert(*request);
                        for (name, value) in &of_span.values.fields {
                            values.fields.insert(name.clone(), value.clone());
                        }
                    }
                    None => other.extend(of_span.values.fields.clone()),
                }
            }
        }
        let mut of_event = Values::default();
        event.record(&mut of_event);
        let entry = self.entry(event, entered, values, of_event, other);
        if let Some(lines) = console {
            lines.send(for_console(&entry, event.metadata().target()));
        }
        if let Some(lines) = &self.file {
            lines.send(entry.format(self.format));
        }
    }
}

impl AcumosLog {
    /// A line of our own about the log itself
    pub(super) fn notice(instance: &Instance, level: Level, message: String) -> Entry {
        Entry {
            time: now(),
            thread: thread(),
            level,
            logger: logger("registry_examples::log"),
            marker: String::new(),
            request_id: instance.id.clone(),
            invocation_id: instance.id.clone(),
            instance: instance.id.clone(),
            method: String::new(),
            service_name: COMPONENT.to_owned(),
            partner_name: UNKNOWN.to_owned(),
            progress: match level {
                Level::ERROR => Progress::Answered(500),
                _ => Progress::Underway,
            },
            server_fqdn: instance.fqdn.clone(),
            server_address: instance.address.clone(),
            client_address: UNKNOWN.to_owned(),
            entered: None,
            invoked: None,
            elapsed_ms: None,
            target_entity: String::new(),
            target_service: String::new(),
            user: String::new(),
            message,
            exception: String::new(),
        }
    }

    /// The line of an event
    ///
    /// What its fields say that is no column follows the message.
    fn entry(
        &self,
        event: &Event<'_>,
        entered: Option<Entered>,
        mut request: Values,
        mut own: Values,
        other: Fields,
    ) -> Entry {
        let metadata = event.metadata();
        let mut entry = Self::notice(&self.instance, *metadata.level(), String::new());
        entry.logger = logger(metadata.target());
        if let Some(entered) = entered {
            entry.entered = Some(entered.at);
            entry.invocation_id = entered.invocation.to_string();
        }
        if let Some(id) = request.take("id") {
            entry.request_id = id;
        }
        if let Some(service) = request.take("service") {
            let (method, path) = service.split_once(' ').unwrap_or(("", &service));
            entry.method = method.to_owned();
            entry.service_name = format!("{COMPONENT}{path}");
        }
        if let Some(client) = request.take("client") {
            entry.client_address = client;
        }
        let agent = request.take("agent");
        entry.user = request.take("user").unwrap_or_default();
        if !entry.user.is_empty() {
            entry.partner_name.clone_from(&entry.user);
        } else if let Some(agent) = agent {
            entry.partner_name = agent;
        }

        entry.marker = own.take("marker").unwrap_or_default();
        match &*entry.marker {
            "INVOKE" | "INVOKE_RETURN" => {
                entry.target_entity = own.take("entity").unwrap_or_default();
                entry.target_service = own.take("service").unwrap_or_default();
                if let Some(invocation) = own.take("invocation") {
                    entry.invocation_id = invocation;
                }
                entry.invoked = Some(entry.time);
                if entry.marker == "INVOKE_RETURN" {
                    entry.progress = Progress::Answered(own.number("code").unwrap_or(0));
                    entry.elapsed_ms = own.number("elapsed_ms");
                    entry.invoked = entry.elapsed_ms.and_then(|elapsed| {
                        entry.time.checked_sub(Duration::from_millis(elapsed)).ok()
                    });
                } else {
                    entry.progress = Progress::Underway;
                }
            }
            "EXIT" => {
                entry.progress = Progress::Answered(own.number("code").unwrap_or(0));
                entry.elapsed_ms = own.number("elapsed_ms");
            }
            _ => {}
        }
        entry.exception = own.take("error").unwrap_or_default();
        for cause in own.causes {
            let _ = write!(entry.exception, "; caused by: {cause}");
        }
        // What is nearer to the event wins.
        let mut rest = request.fields;
        rest.extend(other);
        rest.extend(own.fields);
        entry.message = own.message;
        // A column in one form of the line only.
        if let Some(elapsed) = entry.elapsed_ms {
            rest.insert("elapsed_ms".to_owned(), elapsed.into());
        }
        for (name, value) in &rest {
            let space = if entry.message.is_empty() { "" } else { " " };
            let _ = match value {
                Value::String(text) => write!(entry.message, "{space}{name}={text}"),
                other => write!(entry.message, "{space}{name}={other}"),
            };
        }
        entry
    }
}

/// A line for people, without what is the same on every line or of use only to machines
fn for_console(entry: &Entry, target: &str) -> String {
    let mut fields = Fields::new();
    let mut add = |name: &str, value: &str| {
        if !value.is_empty() {
            fields.insert(name.to_owned(), value.into());
        }
    };
    if entry.entered.is_some() {
        add("request", &entry.request_id);
        add("client", &entry.client_address);
        add("user", &entry.user);
        let service = entry.service_name.strip_prefix(COMPONENT);
        let service = format!("{} {}", entry.method, service.unwrap_or_default());
        add("service", service.trim());
    }
    add("marker", &entry.marker);
    add("entity", &entry.target_entity);
    add("invoked", &entry.target_service);
    add("error", &entry.exception);
    if let Progress::Answered(code) = entry.progress
        && !entry.marker.is_empty()
    {
        fields.insert("code".to_owned(), code.into());
    }
    let line = Line {
        time: SystemTime::from(entry.time),
        level: entry.level,
        target,
        message: entry.message.clone(),
        fields,
    };
    line.format(Formatter::Text)
}

/// When a request came, and what this part of its way is called by
#[derive(Clone, Copy)]
struct Entered {
    at: Timestamp,
    invocation: Uuid,
}

/// What is kept with a span
struct OfSpan {
    /// Of the spans of requests only
    request: Option<Entered>,
    values: Values,
}

/// The values of an event or a span, free of secrets
#[derive(Default)]
struct Values {
    message: String,
    fields: Fields,
    causes: Vec<String>,
}

impl Values {
    /// A field as text, if there is one that says something
    fn take(&mut self, name: &str) -> Option<String> {
        let text = match self.fields.remove(name)? {
            Value::String(text) => text,
            other => other.to_string(),
        };
        (!text.is_empty()).then_some(text)
    }

    fn number<N: FromStr>(&mut self, name: &str) -> Option<N> {
        self.take(name)?.parse().ok()
    }

    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        let name = field.name();
        let name = name.strip_prefix("r#").unwrap_or(name);
        let value = if is_secret_name(name) {
            HIDDEN.into()
        } else {
            value.into()
        };
        self.fields.insert(name.to_owned(), value);
    }

    fn add_text(&mut self, field: &Field, text: &str) {
        let text = redact(text);
        if field.name() == "message" {
            self.message = text.into_owned();
        } else {
            self.add(field, text.into_owned());
        }
    }
}

impl Visit for Values {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add_text(field, &format!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut last = value.to_string();
        self.add_text(field, &last);
        let mut source = value.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many errors say their cause themselves.
            if !last.contains(&text) {
                self.causes.push(redact(&text).into_owned());
                last = text;
            }
            source = cause.source();
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }
}

fn now() -> Timestamp {
    // It ends in the year 9999.
    Timestamp::try_from(SystemTime::now()).unwrap_or(Timestamp::MAX)
}

/// What the thread is called, or its number
fn thread() -> String {
    let thread = std::thread::current();
    match thread.name() {
        Some(name) => name.to_owned(),
        None => format!("{:?}", thread.id()),
    }
}
