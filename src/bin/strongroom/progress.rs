//! Progress on standard error.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};
use serde_json::json;
use strongroom::task::{Control, Step, Unit};

use crate::args::ProgressMode;
use crate::output::{Output, show_bar, with_bar, write_stderr};

/// How often a bar is drawn again while nothing is counted.
const TICK: Duration = Duration::from_millis(200);

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
        ProgressMode::Auto if has_bars(output) => Control::default().on_step(draw),
        _ => Control::default().on_step(move |step| {
            if let Step::Note(note) = step {
                output.note(&note);
            }
        }),
    }
}

fn has_bars(output: Output) -> bool {
    std::io::stderr().is_terminal() && !output.quiet
}

/// Shows that `what` is under way, until the value is dropped. For work that counts nothing.
pub(crate) fn busy(mode: ProgressMode, output: Output, what: &str) -> Busy {
    if mode == ProgressMode::Auto && has_bars(output) {
        begin(what.to_owned(), None, "{msg} {spinner} {elapsed}");
    }
    Busy
}

/// See [`busy`].
pub(crate) struct Busy;

impl Drop for Busy {
    fn drop(&mut self) {
        show_bar(None);
    }
}

/// Shows one bar at a time. None is longer than 80 columns: with a snapshot's id before it, little of the bar itself is left.
fn draw(step: Step) {
    match step {
        Step::Begin { what, total, unit } => {
            let template = match (unit, total.is_some()) {
                (Unit::Bytes, true) => {
                    "{msg} {wide_bar} {percent:>3}% {binary_total_bytes} {binary_bytes_per_sec} {eta}"
                }
                (Unit::Bytes, false) => "{msg} {spinner} {elapsed}",
                (_, true) => "{msg} {wide_bar} {pos}/{len} {eta}",
                (_, false) => "{msg} {spinner} {pos}",
            };
            begin(what, total, template);
        }
        Step::Advance(by) => {
            let done = with_bar(|bar| {
                bar.inc(by);
                bar.length().is_some_and(|length| bar.position() >= length)
            });
            if done == Some(true) {
                show_bar(None);
            }
        }
        Step::Note(note) => write_stderr(&note),
        _ => {}
    }
}

fn begin(what: String, total: Option<u64>, template: &str) {
    let bar = total.map_or_else(ProgressBar::no_length, ProgressBar::new);
    let bar = bar.with_finish(ProgressFinish::AndClear);
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar.enable_steady_tick(TICK);
    show_bar(Some(bar));
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
