//! Progress on standard error.

use std::io::IsTerminal;
use std::sync::Mutex;

use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use strongroom::task::{Control, Step, Unit};

use crate::args::ProgressMode;
use crate::output::{Output, write_stderr};

/// A control that shows `mode`'s kind of progress.
pub(crate) fn control(mode: ProgressMode, output: Output) -> Control {
    match mode {
        ProgressMode::Json => {
            let lines = Mutex::new(Lines::default());
            Control::default().on_step(move |step| {
                if let Ok(mut lines) = lines.lock() {
                    lines.step(step);
                }
            })
        }
        ProgressMode::Auto if std::io::stderr().is_terminal() && !output.quiet => {
            let bar = Mutex::new(ProgressBar::hidden());
            Control::default().on_step(move |step| {
                if let Ok(mut bar) = bar.lock() {
                    draw(&mut bar, step);
                }
            })
        }
        _ => Control::default().on_step(move |step| {
            if let Step::Note(note) = step {
                output.note(&note);
            }
        }),
    }
}

fn draw(bar: &mut ProgressBar, step: Step) {
    const KNOWN: &str =
        "{msg} {bar:30} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
    const UNKNOWN: &str = "{msg} {spinner} {binary_bytes} {binary_bytes_per_sec}";
    match step {
        Step::Begin { what, total, unit } => {
            bar.finish_and_clear();
            *bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
            let template = match (unit, total.is_some()) {
                (Unit::Bytes, true) => KNOWN,
                (Unit::Bytes, false) => UNKNOWN,
                (_, true) => "{msg} {bar:30} {pos}/{len} {eta}",
                (_, false) => "{msg} {spinner} {pos}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(what);
        }
        Step::Advance(by) => {
            bar.inc(by);
            if bar.length().is_some_and(|length| bar.position() >= length) {
                bar.finish_and_clear();
            }
        }
        Step::Note(note) => bar.suspend(|| write_stderr(&note)),
        _ => {}
    }
}

/// At most a line for each percent, or each 16 MiB where the end is unknown.
#[derive(Default)]
struct Lines {
    what: String,
    done: u64,
    total: Option<u64>,
    unit: &'static str,
    next: u64,
}

/// As it stands in JSON.
fn name(unit: Unit) -> &'static str {
    match unit {
        Unit::Snapshots => "snapshots",
        Unit::Keys => "keys",
        _ => "bytes",
    }
}

impl Lines {
    fn step(&mut self, step: Step) {
        match step {
            Step::Begin { what, total, unit } => {
                *self = Self { what, total, unit: name(unit), ..Self::default() };
            }
            Step::Advance(by) => self.done += by,
            Step::Note(note) => return write_stderr(&json!({ "note": note }).to_string()),
            _ => return,
        }
        if self.done >= self.next {
            let step = self.total.map_or(16 << 20, |total| (total / 100).max(1));
            self.next = (self.done + step).min(self.total.unwrap_or(u64::MAX).max(self.done + 1));
            let Self { what, done, total, unit, .. } = self;
            let line = json!({"what": what, "done": done, "total": total, "unit": unit});
            write_stderr(&line.to_string());
        }
    }
}
