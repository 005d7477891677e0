//! The logs of the registry itself: set up from options, as text or as JSON

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::io;
use std::time::SystemTime;

use jiff::Timestamp;
use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry, reload};

use crate::lines::Lines;

/// What is logged, and how
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogOptions {
    /// The least important lines that are written
    pub level: Level,
    /// What a line looks like
    pub formatter: Formatter,
    /// Fields that every line has
    pub fields: Fields,
}

/// Fields of a line by name
pub type Fields = BTreeMap<String, Value>;

/// How important a line must be to be written
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Level {
    /// Only what needs a person
    Error,
    /// What may soon
    Warn,
    /// What changes the state of the registry
    #[default]
    Info,
    /// What helps to find out why; of the registry's own crates, for what libraries say at this
    /// level drowns it
    Debug,
}

/// What a line looks like
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Formatter {
    /// For people
    #[default]
    Text,
    /// One JSON object per line, with `time`, `level`, `msg` and the fields
    Json,
    /// One JSON object per line, with `@timestamp`, `@version`, `level`, `message` and the fields
    Logstash,
}

impl Level {
    /// The directives of `RUST_LOG` that mean the same
    fn directives(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            // All crates of the registry begin with this word.
            Self::Debug => "info,registry=debug",
        }
    }
}

/// Changes what is logged while the registry runs
#[derive(Clone, Debug)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    overridden: bool,
    lines: Lines,
}

impl LogHandle {
    /// Sets the level; `false` if `RUST_LOG` is set, which then stays in force
    pub fn set_level(&self, level: Level) -> bool {
        // It fails only when the subscriber is gone, and then nothing is logged.
        !self.overridden
            && self
                .filter
                .reload(EnvFilter::new(level.directives()))
                .is_ok()
    }

    /// Waits until all that was logged is written
    ///
    /// Before the process ends: the lines are written by a thread of their own.
    pub fn flush(&self) {
        self.lines.flush();
    }
}

/// Logs to standard error from now on, for the whole process
///
/// `RUST_LOG`, if it is set, decides what is logged, instead of the level. If it cannot be
/// read, that is logged and the level decides.
///
/// # Errors
///
/// If the process logs already.
///
/// # Examples
///
/// ```
/// use registry_examples::logging::{self, Level, LogOptions};
///
/// let logs = logging::init(&LogOptions::default())?;
/// tracing::info!(answer = 42, "as text on standard error");
/// logs.set_level(Level::Warn);
/// logs.flush();
/// # Ok::<(), tracing::subscriber::SetGlobalDefaultError>(())
/// ```
pub fn init(options: &LogOptions) -> Result<LogHandle, tracing::subscriber::SetGlobalDefaultError> {
    let directives = std::env::var("RUST_LOG").ok();
    let (subscriber, handle, problem) = subscriber(options, directives.as_deref(), io::stderr());
    tracing::subscriber::set_global_default(subscriber)?;
    if let Some(problem) = problem {
        tracing::warn!(
            problem,
            "RUST_LOG cannot be read; the level of the configuration is in force"
        );
    }
    Ok(handle)
}

/// A subscriber that writes to `out`, and what is wrong with the directives
fn subscriber(
    options: &LogOptions,
    directives: Option<&str>,
    out: impl io::Write + Send + 'static,
) -> (
    impl Subscriber + Send + Sync + 'static,
    LogHandle,
    Option<String>,
) {
    let directives = directives.filter(|directives| !directives.is_empty());
    let (overriding, problem) = match directives.map(EnvFilter::try_new) {
        Some(Ok(filter)) => (Some(filter), None),
        Some(Err(error)) => (None, Some(error.to_string())),
        None => (None, None),
    };
    let overridden = overriding.is_some();
    let filter = overriding.unwrap_or_else(|| EnvFilter::new(options.level.directives()));
    let (filter, handle) = reload::Layer::new(filter);
    // The thread ends with the process, which flushes through the handle.
    let (lines, _) = Lines::new(out);
    let layer = LineLayer {
        formatter: options.formatter,
        fields: options.fields.clone(),
        lines: lines.clone(),
    };
    let handle = LogHandle {
        filter: handle,
        overridden,
        lines,
    };
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    (subscriber, handle, problem)
}

/// Makes a line of each event
struct LineLayer {
    formatter: Formatter,
    fields: Fields,
    lines: Lines,
}

/// The fields of a span, kept with it
///
/// A list, for a request has a span and most requests have no line that shows it.
struct SpanFields(Vec<(Cow<'static, str>, Value)>);

impl<S> Layer<S> for LineLayer
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut collected = Collected::default();
            attributes.record(&mut collected);
            let fields = collected.of_span(span.name());
            span.extensions_mut().replace(SpanFields(fields));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        if let Some(span) = context.span(id) {
            let mut collected = Collected::default();
            values.record(&mut collected);
            let fields = collected.of_span(span.name());
            if let Some(SpanFields(known)) = span.extensions_mut().get_mut() {
                known.extend(fields);
            }
        }
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = self.fields.clone();
        // What is nearer to the event wins.
        for span in context
            .event_scope(event)
            .into_iter()
            .flat_map(|scope| scope.from_root())
        {
            if let Some(SpanFields(of_span)) = span.extensions().get() {
                fields.extend(named(of_span.iter().cloned()));
            }
        }
        let mut collected = Collected::default();
        event.record(&mut collected);
        fields.extend(named(collected.fields));
        let metadata = event.metadata();
        let line = Line {
            time: SystemTime::now(),
            level: *metadata.level(),
            target: metadata.target(),
            message: collected.message,
            fields,
        };
        self.lines.send(line.format(self.formatter));
    }
}

/// The same fields, to be found by name
fn named(
    fields: impl IntoIterator<Item = (Cow<'static, str>, Value)>,
) -> impl Iterator<Item = (String, Value)> {
    let fields = fields.into_iter();
    fields.map(|(name, value)| (name.into_owned(), value))
}

/// The values of an event or a span
#[derive(Default)]
struct Collected {
    message: String,
    fields: Vec<(Cow<'static, str>, Value)>,
}

impl Collected {
    /// The fields of a span, under the names that they have in a line
    fn of_span(mut self, span: &str) -> Vec<(Cow<'static, str>, Value)> {
        if span == "request" {
            for (name, _) in self.fields.iter_mut().filter(|(name, _)| name == "id") {
                // Distribution's name.
                *name = "http.request.id".into();
            }
        }
        self.fields
    }

    fn add(&mut self, field: &Field, value: impl Into<Value>) {
        let name = field.name();
        let name = name.strip_prefix("r#").unwrap_or(name);
        self.fields.push((name.into(), value.into()));
    }

    fn add_text(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = text;
        } else {
            self.add(field, text);
        }
    }
}

impl Visit for Collected {
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add_text(field, format!("{value:?}"));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn Error + 'static)) {
        let mut last = value.to_string();
        let mut causes = Vec::new();
        let mut source = value.source();
        while let Some(cause) = source {
            let text = cause.to_string();
            // Many errors say their cause themselves.
            if !last.contains(&text) {
                causes.push(Value::from(text.clone()));
                last = text;
            }
            source = cause.source();
        }
        self.add(field, value.to_string());
        if !causes.is_empty() {
            let name = format!("{}.causes", field.name());
            self.fields.push((name.into(), causes.into()));
        }
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.add(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.add(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.add_text(field, value.to_owned());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.add(field, value);
    }
}

/// A line of a log, before it is text
pub(crate) struct Line<'a> {
    pub(crate) time: SystemTime,
    pub(crate) level: tracing::Level,
    pub(crate) target: &'a str,
    pub(crate) message: String,
    pub(crate) fields: Fields,
}

impl Line<'_> {
    /// The line with its end; whatever is in it, it is one
    pub(crate) fn format(&self, formatter: Formatter) -> String {
        let mut line = match formatter {
            Formatter::Text => self.text(),
            Formatter::Json => self.json(&[
                ("time", self.time().into()),
                ("level", self.level_name().into()),
                ("msg", self.message.as_str().into()),
                ("target", self.target.into()),
            ]),
            Formatter::Logstash => self.json(&[
                ("@timestamp", self.time().into()),
                ("@version", "1".into()),
                ("level", self.level_name().into()),
                ("message", self.message.as_str().into()),
                ("target", self.target.into()),
            ]),
        };
        line.push('\n');
        line
    }

    /// The time as RFC 3339 writes it, in UTC, to the microsecond
    fn time(&self) -> String {
        match Timestamp::try_from(self.time) {
            Ok(time) => format!("{time:.6}"),
            // A clock beyond the year 9999.
            Err(_) => "-".to_owned(),
        }
    }

    /// The level as distribution's JSON names it
    fn level_name(&self) -> &'static str {
        match self.level {
            tracing::Level::ERROR => "error",
            tracing::Level::WARN => "warning",
            tracing::Level::INFO => "info",
            tracing::Level::DEBUG => "debug",
            tracing::Level::TRACE => "trace",
        }
    }

    fn text(&self) -> String {
        let mut text = format!("{} {:>5} {}: ", self.time(), self.level, self.target);
        plain(&mut text, &self.message);
        for (name, value) in &self.fields {
            text.push(' ');
            plain(&mut text, name);
            text.push('=');
            match value {
                Value::String(value) if is_word(value) => text.push_str(value),
                Value::String(value) => {
                    text.push('"');
                    for character in value.chars() {
                        match character {
                            '"' | '\\' => text.extend(['\\', character]),
                            character => plain(&mut text, character.encode_utf8(&mut [0; 4])),
                        }
                    }
                    text.push('"');
                }
                // JSON has no control characters.
                other => {
                    let _ = write!(text, "{other}");
                }
            }
        }
        text
    }

    fn json(&self, own: &[(&str, Value)]) -> String {
        let mut json = String::from("{");
        let mut add = |name: &str, value: &Value| {
            if json.len() > 1 {
                json.push(',');
            }
            let _ = write!(json, "{}:{value}", Value::from(name));
        };
        for (name, value) in own {
            add(name, value);
        }
        for (name, value) in &self.fields {
            // As distribution does with names that are taken.
            if own.iter().any(|(taken, _)| taken == name) {
                add(&format!("fields.{name}"), value);
            } else {
                add(name, value);
            }
        }
        json.push('}');
        json
    }
}

/// Whether a text needs no quotes to stay one word
fn is_word(text: &str) -> bool {
    !text.is_empty()
        && !text
            .chars()
            .any(|c| c.is_whitespace() || c.is_control() || matches!(c, '"' | '=' | '\\'))
}

/// Adds text on which a terminal acts in no way
fn plain(to: &mut String, text: &str) {
    for character in text.chars() {
        if character.is_control() || matches!(character, '\u{2028}' | '\u{2029}') {
            to.extend(character.escape_default());
        } else {
            to.push(character);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lines::tests::Sink;

    struct Log {
        sink: Sink,
        handle: LogHandle,
        problem: Option<String>,
        _guard: tracing::subscriber::DefaultGuard,
    }

    /// Logs of this thread only
    fn log(options: &LogOptions, directives: Option<&str>) -> Log {
        let sink = Sink::default();
        let (subscriber, handle, problem) = subscriber(options, directives, sink.clone());
        Log {
            sink,
            handle,
            problem,
            _guard: tracing::subscriber::set_default(subscriber),
        }
    }

    impl Log {
        fn text(&self) -> String {
            self.handle.flush();
            self.sink.text()
        }
    }

    fn with(formatter: Formatter) -> LogOptions {
        LogOptions {
            formatter,
            fields: [
                ("service".to_owned(), json!("reg")),
                ("shard".to_owned(), json!(3)),
            ]
            .into(),
            ..LogOptions::default()
        }
    }

    #[derive(Debug, thiserror::Error)]
    #[error("the upload broke")]
    struct Outer(#[source] io::Error);

    /// Without the time, which is checked
    fn after_time(line: &str) -> &str {
        let (time, rest) = line.split_once(' ').unwrap();
        time.parse::<Timestamp>().unwrap();
        rest
    }

    #[test]
    fn text_is_for_people_and_stays_on_its_line() {
        let log = log(&with(Formatter::Text), None);
        let error = Outer(io::Error::other("disk\nfull"));
        tracing::warn!(
            target: "registry_x",
            error = &error as &(dyn Error + 'static),
            path = %"a b",
            count = 2,
            empty = "",
            quoted = "x\"\u{1b}[1m",
            "went\nwrong"
        );
        assert_eq!(
            after_time(&log.text()),
            " WARN registry_x: went\\nwrong count=2 empty=\"\" error=\"the upload broke\" \
             error.causes=[\"disk\\nfull\"] path=\"a b\" quoted=\"x\\\"\\u{1b}[1m\" service=reg shard=3\n"
        );
    }

    #[test]
    fn json_is_one_object_with_the_request_id_and_the_causes() {
        let log = log(&with(Formatter::Json), None);
        let request = tracing::info_span!("request", id = "r-1", user = tracing::field::Empty);
        request.in_scope(|| {
            let inner = tracing::info_span!("inner", id = 7, shard = 4);
            let _entered = inner.enter();
            request.record("user", "ada");
            let error = Outer(io::Error::other("disk full"));
            let error = &error as &(dyn Error + 'static);
            tracing::error!(target: "registry_x", error, time = "mine", ok = true, "a \"b\"\n");
        });
        tracing::info!(target: "registry_x", "outside");
        let text = log.text();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect();
        assert_eq!(lines.len(), 2, "{text}");
        let mut first = lines[0].clone();
        let time = first.as_object_mut().unwrap().remove("time").unwrap();
        time.as_str().unwrap().parse::<Timestamp>().unwrap();
        assert_eq!(
            first,
            json!({
                "level": "error", "msg": "a \"b\"\n", "target": "registry_x",
                "error": "the upload broke", "error.causes": ["disk full"],
                "fields.time": "mine", "ok": true, "service": "reg", "shard": 4,
                "http.request.id": "r-1", "id": 7, "user": "ada",
            })
        );
        assert_eq!(lines[1]["shard"], 3);
        assert_eq!(lines[1].get("http.request.id"), None);
    }

    #[test]
    fn logstash_has_its_own_names() {
        let log = log(&with(Formatter::Logstash), None);
        tracing::warn!(target: "registry_x", "hello");
        let value: Value = serde_json::from_str(&log.text()).unwrap();
        assert_eq!(value["@version"], "1");
        assert_eq!(
            (&value["message"], &value["level"]),
            (&json!("hello"), &json!("warning"))
        );
        let time = value["@timestamp"].as_str().unwrap();
        time.parse::<Timestamp>().unwrap();
        assert_eq!(value.get("time"), None);
    }

    #[test]
    fn the_level_can_be_changed_and_spares_libraries() {
        let log = log(&LogOptions::default(), None);
        let say = |word: &str| {
            tracing::debug!(target: "registry_x", "{word} debug");
            tracing::debug!(target: "hyper::client", "{word} library");
            tracing::info!(target: "registry_x", "{word} info");
            tracing::error!(target: "registry_x", "{word} error");
        };
        say("first");
        assert!(log.handle.set_level(Level::Debug));
        say("second");
        assert!(log.handle.set_level(Level::Error));
        say("third");
        let text = log.text();
        let said: Vec<&str> = text
            .lines()
            .map(|line| line.split_once(": ").unwrap().1)
            .collect();
        assert_eq!(
            said,
            [
                "first info",
                "first error",
                "second debug",
                "second info",
                "second error",
                "third error"
            ]
        );
    }

    #[test]
    fn directives_win_over_the_level_if_they_can_be_read() {
        let log_1 = log(&LogOptions::default(), Some("registry_x=error"));
        assert!(!log_1.handle.set_level(Level::Debug));
        tracing::info!(target: "registry_x", "silent");
        tracing::error!(target: "registry_x", "loud");
        assert_eq!(log_1.text().lines().count(), 1);
        assert_eq!(log_1.problem, None);
        drop(log_1);

        let log_2 = log(&LogOptions::default(), Some("registry_x=loud=er"));
        assert!(log_2.problem.is_some());
        tracing::info!(target: "registry_x", "heard");
        assert_eq!(log_2.text().lines().count(), 1);
        assert!(log_2.handle.set_level(Level::Error));
        drop(log_2);

        assert_eq!(log(&LogOptions::default(), Some("")).problem, None);
    }
}
