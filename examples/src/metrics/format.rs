//! The two text formats that Prometheus reads

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;

/// The format of a scrape
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextFormat {
    /// OpenMetrics 1.0
    OpenMetrics,
    /// Prometheus' own text format, version 0.0.4
    Prometheus,
}

impl TextFormat {
    /// What an `Accept` header asks for; without a wish for OpenMetrics the format that every
    /// reader knows
    ///
    /// # Examples
    ///
    /// ```
    /// use registry_examples::metrics::TextFormat;
    ///
    /// let accept = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5";
    /// assert_eq!(TextFormat::negotiate(Some(accept)), TextFormat::OpenMetrics);
    /// assert_eq!(TextFormat::negotiate(Some("*/*")), TextFormat::Prometheus);
    /// assert_eq!(TextFormat::negotiate(None), TextFormat::Prometheus);
    /// ```
    pub fn negotiate(accept: Option<&str>) -> Self {
        let (mut open, mut plain) = (0.0, 0.0);
        for range in accept.unwrap_or_default().split(',') {
            let mut parts = range.split(';').map(str::trim);
            let media = parts.next().unwrap_or_default();
            let quality = parts
                .find_map(|parameter| parameter.strip_prefix("q="))
                .map_or(1.0, |quality| quality.parse().unwrap_or(0.0));
            if media.eq_ignore_ascii_case("application/openmetrics-text") {
                open = f32::max(open, quality);
            } else if ["text/plain", "text/*", "*/*"]
                .iter()
                .any(|known| media.eq_ignore_ascii_case(known))
            {
                plain = f32::max(plain, quality);
            }
        }
        if open > 0.0 && open >= plain {
            Self::OpenMetrics
        } else {
            Self::Prometheus
        }
    }

    /// The media type, for `Content-Type`
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
        }
    }
}

pub(super) fn encode(registry: &Registry, format: TextFormat) -> String {
    let mut open = String::new();
    // A `String` takes whatever is written to it; only a metric that breaks the format fails,
    // and then what precedes it is still worth having.
    if text::encode(&mut open, registry).is_err() {
        tracing::error!("a metric could not be written, and those after it are missing");
    }
    match format {
        TextFormat::OpenMetrics => open,
        TextFormat::Prometheus => prometheus(&open),
    }
}

/// The older format, made of the newer one
///
/// Their samples are the same. In the older one the comments of a counter carry the name of
/// its samples, with `_total`, and there are neither units nor an end mark.
fn prometheus(open: &str) -> String {
    let mut text = String::with_capacity(open.len());
    let mut help: Option<(&str, &str)> = None;
    for line in open.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ');
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|rest| rest.split_once(' '))
        {
            let suffix = if kind == "counter" { "_total" } else { "" };
            if let Some((_, explanation)) = help.take() {
                text.push_str(&format!("# HELP {name}{suffix} {explanation}\n"));
            }
            text.push_str(&format!("# TYPE {name}{suffix} {kind}\n"));
        } else if !line.starts_with('#') {
            text.push_str(line);
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;

    #[test]
    fn both_formats_say_the_same() {
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        counter.inc_by(3);
        registry.register("things", "Things made", counter);
        registry.register("level", "How high", Gauge::<i64>::default());
        assert_eq!(
            encode(&registry, TextFormat::OpenMetrics),
            "# HELP things Things made.\n# TYPE things counter\nthings_total 3\n\
             # HELP level How high.\n# TYPE level gauge\nlevel 0\n# EOF\n"
        );
        assert_eq!(
            encode(&registry, TextFormat::Prometheus),
            "# HELP things_total Things made.\n# TYPE things_total counter\nthings_total 3\n\
             # HELP level How high.\n# TYPE level gauge\nlevel 0\n"
        );
    }

    #[test]
    fn the_format_is_the_one_that_is_wanted_more() {
        let open = "application/openmetrics-text";
        for (accept, expected) in [
            (
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1".to_owned(),
                TextFormat::OpenMetrics,
            ),
            (open.to_owned(), TextFormat::OpenMetrics),
            (format!("{open};q=0"), TextFormat::Prometheus),
            (format!("{open}; q=0.2, text/plain"), TextFormat::Prometheus),
            ("text/html".to_owned(), TextFormat::Prometheus),
            (String::new(), TextFormat::Prometheus),
        ] {
            assert_eq!(TextFormat::negotiate(Some(&accept)), expected, "{accept}");
        }
    }
}
