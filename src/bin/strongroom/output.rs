//! Results for people and for programs.

use std::collections::BTreeSet;
use std::io::{self, BufWriter, IsTerminal, Write};
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use comfy_table::{CellAlignment, Table, presets};
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::{Value, json};
use strongroom::format::{SnapshotId, Time};
use strongroom::text::is_hidden;
use strongroom::{Error, Result};

use crate::args::WriteOut;
use crate::log;

/// Exit status of a command that did its work and found something to look at.
pub(crate) const FINDINGS: u8 = 3;

/// Where results, warnings and advice go.
#[derive(Clone, Copy)]
pub(crate) struct Output {
    pub(crate) format: WriteOut,
    pub(crate) quiet: bool,
}

impl Output {
    /// The result of a command: `document` as JSON, or what `table` prints for a person.
    pub(crate) fn result(
        self,
        document: impl Serialize,
        table: impl FnOnce() -> String,
    ) -> Result<()> {
        write_stdout(self.text(document, table)?.trim_end())
    }

    /// For a command whose result is a page for a person.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`](strongroom::ErrorKind::Usage) when JSON is asked for.
    pub(crate) fn refuse_json(self, what: &str) -> Result<()> {
        match self.format {
            WriteOut::Table => Ok(()),
            WriteOut::Json => Err(Error::usage(format!("{what}, and has no JSON document"))
                .hint("leave --write-out (STRONGROOM_WRITE_OUT) out, or give -w table")),
        }
    }

    /// As [`result`](Self::result), of a command that changed something and ends with `status`: a full disk behind standard
    /// output, or a reader that is gone, does not undo it. What was done then stands on standard error.
    pub(crate) fn done(
        self,
        status: ExitCode,
        document: impl Serialize,
        table: impl FnOnce() -> String,
    ) -> Result<ExitCode> {
        let text = self.text(document, table)?;
        let Err(error) = print(text.trim_end()) else { return Ok(status) };
        let error = Error::io("standard output", error);
        self.warn(&format!("it is done, but the result could not be printed: {error}"));
        write_stderr(text.trim_end());
        Ok(if status == ExitCode::SUCCESS { ExitCode::from(FINDINGS) } else { status })
    }

    /// As [`done`](Self::done) if the command changed something, else as [`result`](Self::result).
    pub(crate) fn done_if(
        self,
        changed: bool,
        status: ExitCode,
        document: impl Serialize,
        table: impl FnOnce() -> String,
    ) -> Result<ExitCode> {
        match changed {
            true => self.done(status, document, table),
            false => self.result(document, table).map(|()| status),
        }
    }

    fn text(self, document: impl Serialize, table: impl FnOnce() -> String) -> Result<String> {
        match self.format {
            WriteOut::Json => serde_json::to_string_pretty(&document)
                .map_err(|error| Error::io("standard output", error.into())),
            WriteOut::Table => Ok(painted(safe(&table()))),
        }
    }

    /// Something the operator should look at.
    pub(crate) fn warn(self, warning: &str) {
        match log::is_on() {
            true => tracing::warn!(event = "warning", warning),
            false => write_stderr(&format!("warning: {warning}")),
        }
    }

    /// What was done, and what to do next: left out when quiet.
    pub(crate) fn note(self, note: &str) {
        if !self.quiet && self.format == WriteOut::Table {
            write_stderr(note);
        }
    }

    /// Why a command failed.
    pub(crate) fn error(self, error: &Error) {
        show_bar(None);
        match self.format {
            _ if log::is_on() => tracing::error!(
                event = "failed",
                error = %error,
                kind = error.kind().name(),
                hint = error.hint_text(),
            ),
            WriteOut::Json => {
                let (kind, hint) = (error.kind().name(), error.hint_text());
                let error = json!({"kind": kind, "message": error.to_string(), "hint": hint});
                write_stderr(&json!({ "error": error }).to_string());
            }
            WriteOut::Table => {
                let (red, plain) =
                    if has_colours(&io::stderr()) { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
                let text = safe(&error.to_string());
                // There is nobody to tell when that fails.
                let _ = writeln!(io::stderr().lock(), "{red}strongroom: {text}{plain}");
                if let Some(hint) = error.hint_text() {
                    write_stderr(&format!("  hint: {hint}"));
                }
            }
        }
    }
}

/// Whether `stream` may have colours: on a terminal, unless `NO_COLOR` is set (<https://no-color.org>).
fn has_colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|text| text.is_empty())
}

/// A table with `failed` in red, where colours are shown.
fn painted(text: String) -> String {
    match has_colours(&io::stdout()) {
        true => text.replace(" failed ", " \x1b[1;31mfailed\x1b[0m "),
        false => text,
    }
}

/// Writes a line to standard output.
///
/// # Errors
/// [`ErrorKind::Io`](strongroom::ErrorKind::Io); a reader that closed the pipe early is none.
pub(crate) fn write_stdout(text: &str) -> Result<()> {
    match print(text) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("standard output", error))
        }
        _ => Ok(()),
    }
}

fn print(text: &str) -> io::Result<()> {
    show_bar(None);
    let mut out = io::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush())
}

/// Lets `write` write to standard output what is too long to hold in memory.
///
/// # Errors
/// As [`write_stdout`].
pub(crate) fn stream(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
    show_bar(None);
    let mut out = BufWriter::new(io::stdout().lock());
    match write(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::io("standard output", error))
        }
        _ => Ok(()),
    }
}

/// Writes a table row by row; `rows` is asked twice, first for the widths. The last column is as wide as it comes.
pub(crate) fn lines<const N: usize, I: Iterator<Item = [String; N]>>(
    out: &mut dyn Write,
    header: [&str; N],
    right: &[usize],
    rows: impl Fn() -> I,
) -> io::Result<()> {
    let width = |text: &str| text.chars().count();
    let mut widths = header.map(width);
    for row in rows() {
        for (widest, cell) in widths.iter_mut().zip(&row) {
            *widest = width(cell).max(*widest);
        }
    }
    for row in std::iter::once(header.map(str::to_owned)).chain(rows()) {
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            match at {
                _ if at.saturating_add(1) == N => writeln!(out, "{cell}")?,
                _ if right.contains(&at) => write!(out, "{cell:>width$}  ")?,
                _ => write!(out, "{cell:<width$}  ")?,
            }
        }
    }
    Ok(())
}

/// Writes one JSON document: `head`, and in it the list `name`, one item a line.
pub(crate) fn json_lines(
    out: &mut dyn Write,
    head: impl Serialize,
    name: &str,
    items: impl Iterator<Item = impl Serialize>,
) -> io::Result<()> {
    write!(out, "{{")?;
    for (name, value) in serde_json::to_value(head)?.as_object().into_iter().flatten() {
        write!(out, "{}: {value}, ", Value::from(name.as_str()))?;
    }
    write!(out, "{}: [", Value::from(name))?;
    for (at, item) in items.enumerate() {
        let item = serde_json::to_string(&item)?;
        write!(out, "{}\n  {item}", if at == 0 { "" } else { "," })?;
    }
    writeln!(out, "\n]}}")
}

/// The bar that is shown: what else is written to the terminal must not run into it.
static BAR: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// Shows `bar` instead of the one before.
pub(crate) fn show_bar(bar: Option<ProgressBar>) {
    let mut shown = BAR.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(before) = std::mem::replace(&mut *shown, bar) {
        before.finish_and_clear();
    }
}

/// What `work` does with the bar, if one is shown.
pub(crate) fn with_bar<T>(work: impl FnOnce(&ProgressBar) -> T) -> Option<T> {
    BAR.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(work)
}

/// Writes a line to standard error; there is nobody to tell when that fails.
pub(crate) fn write_stderr(text: &str) {
    let text = safe(text);
    let write = || {
        let _ = writeln!(std::io::stderr().lock(), "{text}");
    };
    if with_bar(|bar| bar.suspend(write)).is_none() {
        write();
    }
}

/// Without what a terminal would obey or hide: names of objects and keys come from others.
fn safe(text: &str) -> String {
    let obeyed = |c: char| c.is_control() && c != '\n';
    text.chars().map(|c| if obeyed(c) || is_hidden(c) { '?' } else { c }).collect()
}

/// A table without rules; columns named in `right` are numbers.
pub(crate) fn table(header: &[&str], right: &[usize], rows: Vec<Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header.to_vec());
    for row in rows {
        table.add_row(row);
    }
    for (at, column) in table.column_iter_mut().enumerate() {
        column.set_padding((0, 2));
        if right.contains(&at) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.lines().map(|line| line.trim_end().to_owned() + "\n").collect()
}

/// `1.2 GiB`: for people; JSON has the bytes.
pub(crate) fn bytes(bytes: u64) -> String {
    indicatif::BinaryBytes(bytes).to_string()
}

/// A snapshot's time, RFC 3339 in UTC, to the second.
pub(crate) fn created(id: SnapshotId) -> String {
    id.created().to_string()
}

/// A moment in Unix milliseconds.
pub(crate) fn moment(ms: u64) -> String {
    Time::from_unix(i64::try_from(ms / 1000).unwrap_or(i64::MAX)).to_string()
}

/// How long ago a snapshot was taken: `5 m`, `3 h`, `12 d`.
pub(crate) fn age(id: SnapshotId) -> String {
    let Ok(age) = SystemTime::now().duration_since(id.begun()) else { return "-".into() };
    match age.as_secs() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} m", seconds / 60),
        seconds @ 7200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

/// The shortest ends of `ids`, of at least 8 characters, by which each can be told from the others.
pub(crate) fn short_ids(ids: &[SnapshotId]) -> Vec<String> {
    let full: Vec<_> = ids.iter().map(ToString::to_string).collect();
    let end =
        |id: &str, length: usize| id.get(id.len().saturating_sub(length)..).map(str::to_owned);
    let shortened = |length: usize| {
        let ends: Option<Vec<String>> = full.iter().map(|id| end(id, length)).collect();
        ends.filter(|ends| ends.iter().collect::<BTreeSet<_>>().len() == ends.len())
    };
    (8..26).find_map(shortened).unwrap_or(full)
}

/// A report about a snapshot, and when that was taken.
#[derive(Serialize)]
pub(crate) struct Dated<'a, T> {
    #[serde(flatten)]
    report: &'a T,
    created: Time,
}

impl<'a, T> Dated<'a, T> {
    pub(crate) fn new(report: &'a T, id: SnapshotId) -> Self {
        Self { report, created: id.created() }
    }
}

/// `word` as a shell takes it for one word.
pub(crate) fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/:=,.-_@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ids_tell_snapshots_apart() {
        let id = |ms, end| SnapshotId::new(ms, [0, 0, 0, 0, 0, 0, 0, 0, 0, end]);
        let short = short_ids(&[id(1, 7), id(2, 8)]);
        assert_eq!(short, ["00000007", "00000008"]);
        let same = short_ids(&[id(1, 7), id(2, 7)]);
        assert!(same[0] != same[1] && same[0].len() > 8, "{same:?}");
        assert!(short_ids(&[]).is_empty());
    }

    #[test]
    fn words() {
        assert_eq!(shell_word("a=https://10.0.0.1:2380,b"), "a=https://10.0.0.1:2380,b");
        assert_eq!(shell_word("a b"), "'a b'");
        assert_eq!(shell_word("it's"), r"'it'\''s'");
        assert_eq!(shell_word(""), "''");
    }
}
