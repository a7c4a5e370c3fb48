//! What the agent says: one line an event, in JSON or for people.

use std::io::Write;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value};

/// How lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// `2026-11-25T10:00:00Z INFO backup done cluster=prod`
    #[default]
    Text,
    /// `{"time":…,"level":"info","event":"backup done","cluster":"prod"}`
    Json,
}

/// Where lines go. What they hold is never secret: ids, names, numbers and errors.
#[derive(Clone)]
pub struct Log {
    format: LogFormat,
    to: Arc<dyn Fn(&str) + Send + Sync>,
}

impl Log {
    /// To standard error.
    pub fn to_stderr(format: LogFormat) -> Self {
        Self::to(format, |line| {
            // There is nobody to tell when that fails.
            let _ = writeln!(std::io::stderr().lock(), "{line}");
        })
    }

    /// To whatever takes lines.
    pub fn to(format: LogFormat, to: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self { format, to: Arc::new(to) }
    }

    pub(super) fn info(&self, event: &str, fields: &[(&str, Value)]) {
        self.line("info", event, fields);
    }

    /// Something that did not go as it should, and does not keep the agent from working.
    pub fn warn(&self, event: &str, fields: &[(&str, Value)]) {
        self.line("warning", event, fields);
    }

    pub(super) fn error(&self, event: &str, fields: &[(&str, Value)]) {
        self.line("error", event, fields);
    }

    fn line(&self, level: &str, event: &str, fields: &[(&str, Value)]) {
        let time = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
        let line = match self.format {
            LogFormat::Json => {
                let head =
                    [("time", time.into()), ("level", level.into()), ("event", event.into())];
                let all = head.into_iter().chain(fields.iter().cloned());
                let map: Map<_, _> = all.map(|(name, value)| (name.to_owned(), value)).collect();
                Value::from(map).to_string()
            }
            LogFormat::Text => {
                let mut line = format!("{time} {} {event}", level.to_uppercase());
                for (name, value) in fields {
                    // As JSON, so that nothing in it ends the line.
                    line += &format!(" {name}={value}");
                }
                line
            }
        };
        (self.to)(&line);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    #[test]
    fn a_line_is_one_line() {
        let lines = Arc::new(Mutex::new(Vec::new()));
        for format in [LogFormat::Text, LogFormat::Json] {
            let to = Arc::clone(&lines);
            let log = Log::to(format, move |line| to.lock().unwrap().push(line.to_owned()));
            log.warn(
                "backup failed",
                &[("error", "two\nlines \u{1b}[2J".into()), ("try", 3.into())],
            );
        }
        let lines = lines.lock().unwrap();
        assert!(lines.iter().all(|line| !line.contains('\n') && !line.contains('\u{1b}')));
        assert!(lines[0].ends_with(r#" WARNING backup failed error="two\nlines \u001b[2J" try=3"#));
        let json: Value = serde_json::from_str(&lines[1]).unwrap();
        assert_eq!((&json["level"], &json["try"]), (&"warning".into(), &3.into()));
    }
}
