//! The log of the services: one line on standard error for each event of this crate.

use std::fmt::{Debug, Write as _};
use std::io::Write as _;

use serde_json::{Map, Value};
use strongroom::settings::LogFormat;
use strongroom::{Error, ErrorKind, Result};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

use strongroom::text::is_hidden;

/// Writes lines in `format` from now on.
///
/// # Errors
/// [`ErrorKind::Usage`] when there is a log already.
pub(crate) fn begin(format: LogFormat) -> Result<()> {
    tracing::subscriber::set_global_default(Lines(format))
        .map_err(|_| Error::new(ErrorKind::Usage, "the log has been set up already"))
}

/// Whether this process writes a log.
pub(crate) fn is_on() -> bool {
    tracing::dispatcher::has_been_set()
}

/// Takes the events of this crate and its library, and of no other.
struct Lines(LogFormat);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let target = metadata.target();
        metadata.is_event()
            && *metadata.level() <= Level::INFO
            && (target == "strongroom" || target.starts_with("strongroom::"))
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }

    fn event(&self, event: &Event<'_>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let time = jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let line = line(self.0, &time, level(event.metadata().level()), fields);
        // There is nobody to tell when that fails.
        let _ = writeln!(std::io::stderr().lock(), "{line}");
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// The fields of one event, in their order.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().into(), format!("{value:?}").into());
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().into(), value.into());
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.0.insert(field.name().into(), value.into());
    }
}

fn level(level: &Level) -> &'static str {
    match *level {
        Level::ERROR => "error",
        Level::WARN => "warning",
        _ => "info",
    }
}

fn line(format: LogFormat, time: &str, level: &str, mut fields: Fields) -> String {
    let name = fields.0.shift_remove("event").unwrap_or_else(|| "note".into());
    let text = match format {
        LogFormat::Json => {
            let head = [("time", time.into()), ("level", level.into()), ("event", name)];
            let head = head.map(|(name, value)| (name.to_owned(), value));
            Value::from_iter(head.into_iter().chain(fields.0)).to_string()
        }
        LogFormat::Text => {
            let name = name.as_str().unwrap_or("note");
            let mut line = format!("{time} {} {name}", level.to_uppercase());
            for (name, value) in fields.0 {
                // As JSON, so that nothing in it ends the line. Writing to a string does not fail.
                let _ = write!(line, " {name}={value}");
            }
            line
        }
    };
    escaped(&text)
}

/// With what a terminal would obey or hide as JSON's escapes: what JSON leaves of it stands within strings.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            c if c.is_control() || is_hidden(c) => {
                let _ = write!(safe, "\\u{:04x}", u32::from(c));
            }
            c => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line() {
        let fields = || {
            let error = "two\nlines \u{1b}[2J\u{9b}1m\u{202e}\u{7f} \"end";
            let fields = [("event", "backup_failed".into()), ("error", error.into())];
            let fields = fields.into_iter().chain([("try", 3.into())]);
            Fields(fields.map(|(name, value): (&str, Value)| (name.into(), value)).collect())
        };
        let text = line(LogFormat::Text, "T", "warning", fields());
        let error = r#""two\nlines \u001b[2J\u009b1m\u202e\u007f \"end""#;
        assert_eq!(text, format!("T WARNING backup_failed error={error} try=3"));
        let json = line(LogFormat::Json, "T", "warning", fields());
        assert!(!json.contains(|c: char| c.is_control() || is_hidden(c)), "{json}");
        let json: Value = serde_json::from_str(&json).unwrap();
        assert_eq!(json["error"].as_str().unwrap().chars().nth(3), Some('\n'));
        assert_eq!((&json["level"], &json["try"]), (&"warning".into(), &3.into()));
        let names: Vec<_> = json.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, ["time", "level", "event", "error", "try"]);
    }
}
