//! Search: who used which keys, and when.

use std::path::PathBuf;

use jiff::Timestamp;

use super::line::{Kind, Line};
use super::reader::{LineReader, Next};
use super::record::Record;
use crate::error::{Error, Result};
use crate::mvcc::prefix_end;

/// Which keys are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyFilter {
    /// This one.
    Exact(Vec<u8>),
    /// Those that begin with this.
    Prefix(Vec<u8>),
}

impl KeyFilter {
    /// Whether the request may have touched such a key: named it, or a range with it, or more than its line holds.
    fn matches(&self, record: &Record) -> bool {
        let touched = match self {
            Self::Exact(key) => record.keys.iter().any(|range| range.covers(key)),
            Self::Prefix(prefix) => {
                let end = Some(prefix_end(prefix)).filter(|end| *end != [0]);
                record.keys.iter().any(|range| range.touches(prefix, end.as_deref()))
            }
        };
        touched || record.more > 0
    }
}

/// What a record must be like; what is `None` does not matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// The keys that it touched.
    pub key: Option<KeyFilter>,
    /// The client, as the record has it.
    pub client: Option<String>,
    /// The etcd user.
    pub user: Option<String>,
    /// The method, whole or its last part: `Range`.
    pub method: Option<String>,
    /// The time from which on.
    pub since: Option<Timestamp>,
    /// The time before which.
    pub until: Option<Timestamp>,
    /// The gRPC code's name.
    pub outcome: Option<String>,
}

impl Filter {
    /// Whether `record` is such a one.
    pub fn matches(&self, record: &Record) -> bool {
        let is = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found == Some(wanted))
        };
        let last = record.method.rsplit('/').next();
        is(&self.client, record.client.as_deref())
            && is(&self.user, record.user.as_deref())
            && (is(&self.method, Some(&record.method)) || is(&self.method, last))
            && is(&self.outcome, Some(&record.outcome))
            && self.since.is_none_or(|since| record.time >= since)
            && self.until.is_none_or(|until| record.time < until)
            && self.key.as_ref().is_none_or(|key| key.matches(record))
    }
}

/// A record and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its file.
    pub file: PathBuf,
    /// Its line there, from 1.
    pub line: u64,
    /// Its number in the log.
    pub seq: u64,
    /// What it says. Proved by [`verify`](super::verify()) only.
    pub record: Record,
}

/// The records of `files` that match `filter`, in the files' order. A line that is no line of a log is an error, and
/// the next item goes on after it; so is a file that cannot be read.
pub fn query(files: Vec<PathBuf>, filter: Filter) -> impl Iterator<Item = Result<Entry>> {
    Query { files: files.into_iter(), reader: None, filter }
}

struct Query {
    files: std::vec::IntoIter<PathBuf>,
    reader: Option<LineReader>,
    filter: Filter,
}

impl Iterator for Query {
    type Item = Result<Entry>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let Some(mut reader) = self.reader.take() else {
                match LineReader::open(&self.files.next()?) {
                    Ok(reader) => self.reader = Some(reader),
                    Err(error) => return Some(Err(error)),
                }
                continue;
            };
            let found = match reader.next() {
                Ok(Next::End) => continue,
                Ok(Next::Line(text)) => parse(text),
                Ok(Next::Overlong) => Err("it is too long"),
                Ok(Next::Torn(_)) => Err("it does not end"),
                // The file is given up: the same read might always fail.
                Err(error) => return Some(Err(error)),
            };
            let (file, line) = (reader.path().to_owned(), reader.number);
            self.reader = Some(reader);
            match found {
                Ok(Some((seq, record))) if self.filter.matches(&record) => {
                    return Some(Ok(Entry { file, line, seq, record }));
                }
                Ok(_) => {}
                Err(why) => {
                    let message = format!("{}: line {line}: {why}", file.display());
                    return Some(Err(
                        Error::tampered(message).hint("`strongroom audit-log verify` says more")
                    ));
                }
            }
        }
    }
}

fn parse(text: &[u8]) -> Result<Option<(u64, Record)>, &'static str> {
    let line = Line::parse(text).ok_or("not a line of an audit log")?;
    if line.kind != Kind::Request {
        return Ok(None);
    }
    let record = line.content().ok_or("it holds no record")?;
    Ok(Some((line.seq, record)))
}
