//! Proves that a log is what its writer wrote.

use std::fmt;
use std::path::{Path, PathBuf};

use super::line::{Chain, Header, Kind, Line, Lost, Resumed, START, hex};
use super::reader::{LineReader, Next};
use crate::crypto;
use crate::envelope::{DataKey, open_seal};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{Seal, Sha256, SnapshotId, Subject};
use crate::keys::{KeySet, at_once};

/// The most findings that a report keeps; more are counted.
const MAX_FINDINGS: usize = 1000;

/// What [`verify`] found.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Files read.
    pub files: u64,
    /// Lines read, those of the log itself included.
    pub lines: u64,
    /// Requests among them.
    pub records: u64,
    /// Number of the first line.
    pub first_seq: Option<u64>,
    /// Number of the last line and its chain value in hexadecimal. Kept elsewhere, they show a log that was cut since.
    pub last: Option<(u64, String)>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// How many more findings there were.
    pub omitted: u64,
    worst: Option<ErrorKind>,
}

impl Report {
    /// The worst class among the findings: tampered, else wrong-key; `None` if none has a class.
    pub fn worst(&self) -> Option<ErrorKind> {
        self.worst
    }
}

/// Something that is wrong, and where.
#[derive(Debug)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The line in it, from 1.
    pub line: u64,
    /// What.
    pub problem: Problem,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: line {}: {}", self.file.display(), self.line, self.problem)
    }
}

/// What can be wrong.
#[derive(Debug)]
#[non_exhaustive]
pub enum Problem {
    /// The line is not the one that its chain value was made of, or the line before was changed.
    Edited,
    /// The lines from `from` to `to` are missing.
    Missing {
        /// The first that is missing.
        from: u64,
        /// The last.
        to: u64,
    },
    /// A line of a number that was there already.
    Repeated {
        /// Its number.
        seq: u64,
    },
    /// It has not the form of a line, or not in this place.
    Malformed(&'static str),
    /// The MAC is not of this line: the lines before it were written again by somebody without the key.
    Forged,
    /// The file's data key did not open: what it holds is chained, but not authenticated.
    Key(Error),
    /// The log begins with the line `seq`: what came before is not here.
    Earlier {
        /// The file's first line.
        seq: u64,
    },
    /// The file is not closed. Its last lines are chained but not authenticated, and whether more followed is
    /// unknown: it is still being written, or its writer crashed, or it was cut.
    Open {
        /// How many lines follow the last checkpoint.
        lines: u64,
    },
    /// The last line does not end.
    Torn {
        /// How many bytes of it there are.
        bytes: u64,
        /// Whether another file follows: then its writer had cut them off.
        followed: bool,
    },
    /// The writer says that the file before did not end well.
    Resumed {
        /// Bytes of torn lines that it cut off.
        cut: u64,
        /// Lines of that file that no checkpoint authenticated before the crash.
        lines: u64,
        /// Whether the current file was gone.
        missing: bool,
    },
    /// The writer says that records could not be written.
    Lost {
        /// How many.
        records: u64,
    },
}

impl Problem {
    /// Its class; `None` for what may have an innocent cause and is to be looked at.
    pub fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Edited
            | Self::Missing { .. }
            | Self::Repeated { .. }
            | Self::Malformed(_)
            | Self::Forged
            | Self::Torn { followed: true, .. } => Some(ErrorKind::Tampered),
            Self::Key(error) if error.kind() == ErrorKind::WrongKey => Some(ErrorKind::WrongKey),
            Self::Key(_) => Some(ErrorKind::Tampered),
            _ => None,
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Edited => {
                f.write_str("the chain is broken: this line or the one before was changed")
            }
            Self::Missing { from, to } if from == to => {
                write!(f, "record {from} is missing before this line")
            }
            Self::Missing { from, to } => write!(f, "records {from} to {to} are missing before this line"),
            Self::Repeated { seq } => write!(f, "its number is {seq}, which came before"),
            Self::Malformed(why) => f.write_str(why),
            Self::Forged => f.write_str("its MAC does not verify: lines up to it were forged"),
            Self::Key(error) => write!(f, "nothing in this file is authenticated: {error}"),
            Self::Earlier { seq } => {
                write!(f, "the log begins with record {seq}: older files are not here")
            }
            Self::Open { lines: 0 } => f.write_str(
                "the file does not end with a closing line: it is in use, its writer crashed, or it was cut",
            ),
            Self::Open { lines } => write!(
                f,
                "the file does not end with a closing line: it is in use, its writer crashed, or it was cut; its last \
                 {lines} lines are not authenticated"
            ),
            Self::Torn { bytes, .. } => write!(f, "the line is incomplete: {bytes} bytes without a line end"),
            Self::Resumed { missing: true, .. } => f.write_str(
                "the writer found no current file when it started: it crashed, or somebody removed the file",
            ),
            Self::Resumed { cut, lines, .. } => write!(
                f,
                "the previous file was not closed: the writer removed {cut} bytes of an incomplete line, and the last \
                 {lines} lines were not authenticated"
            ),
            Self::Lost { records } => write!(f, "{records} records before this line could not be written"),
        }
    }
}

/// Reads `files`, oldest first, and checks every line against the one before it and every MAC with the data keys that
/// `keys` open. Holds one line at a time.
///
/// # Errors
/// [`ErrorKind::Io`] when a file cannot be read. What is wrong with a log is no error but a [`Finding`].
pub fn verify(files: &[PathBuf], keys: &KeySet) -> Result<Report> {
    let mut checker = Checker { keys, report: Report::default(), at: None };
    for (number, file) in files.iter().enumerate() {
        let followed = number.saturating_add(1) < files.len();
        checker.file(file, followed)?;
    }
    let Checker { mut report, at, .. } = checker;
    report.last = at.map(|(seq, chain)| (seq, hex(&chain)));
    Ok(report)
}

struct Checker<'a> {
    keys: &'a KeySet,
    report: Report,
    /// The last line's number and chain value.
    at: Option<(u64, Chain)>,
}

/// What is known of the current file.
#[derive(Default)]
struct State {
    data_key: Option<DataKey>,
    unauthenticated: u64,
    closed: bool,
}

impl Checker<'_> {
    fn file(&mut self, path: &Path, followed: bool) -> Result<()> {
        self.report.files += 1;
        let mut reader = LineReader::open(path)?;
        let mut state = State::default();
        loop {
            let next = reader.next()?;
            let (mut found, mut last) = (Vec::new(), false);
            match next {
                Next::Line(text) => match Line::parse(text) {
                    Some(line) => self.line(&line, &mut state, &mut found),
                    None => found.push(Problem::Malformed("not a line of an audit log")),
                },
                Next::Overlong => found.push(Problem::Malformed("the line is too long")),
                Next::Torn(bytes) => found.push(Problem::Torn { bytes, followed }),
                Next::End => last = true,
            }
            self.report.lines += u64::from(!last);
            let number = reader.number;
            if number == 1 && state.data_key.is_none() && found.is_empty() {
                found.push(Problem::Malformed("the file does not start with a header"));
            }
            if last && number == 0 {
                found.push(Problem::Malformed("the file is empty"));
            } else if last && !state.closed && (!followed || state.unauthenticated > 0) {
                found.push(Problem::Open { lines: state.unauthenticated });
            }
            found.into_iter().for_each(|problem| self.add(path, number, problem));
            if last {
                return Ok(());
            }
        }
    }

    fn line(&mut self, line: &Line<'_>, state: &mut State, found: &mut Vec<Problem>) {
        if state.closed {
            found.push(Problem::Malformed("a line after the one that closes the file"));
        }
        if line.kind == Kind::Log {
            self.header(line, state, found);
        } else {
            self.follows(line, self.at, found);
        }
        self.at = Some((line.seq, line.chain));
        self.report.first_seq.get_or_insert(line.seq);
        state.closed = line.kind == Kind::Closed;
        match (&state.data_key, line.mac) {
            (Some(key), Some(mac)) => {
                let expected = key.audit_mac(&line.chain, line.seq);
                if crypto::constant_time_eq(&expected, &mac) {
                    state.unauthenticated = 0;
                } else {
                    found.push(Problem::Forged);
                }
            }
            _ => state.unauthenticated += 1,
        }
        self.content(line, found);
    }

    fn content(&mut self, line: &Line<'_>, found: &mut Vec<Problem>) {
        match line.kind {
            Kind::Request => self.report.records += 1,
            Kind::Resumed => found.push(match line.content() {
                Some(Resumed { cut, unauthenticated: lines, missing, .. }) => {
                    Problem::Resumed { cut, lines, missing }
                }
                None => Problem::Malformed("it does not say how the file before ended"),
            }),
            Kind::Lost => found.push(match line.content() {
                Some(Lost { records, .. }) => Problem::Lost { records },
                None => Problem::Malformed("it does not say how many records were lost"),
            }),
            Kind::Log | Kind::Checkpoint | Kind::Closed => {}
        }
    }

    /// Whether `line` comes next after the line `before`.
    fn follows(&self, line: &Line<'_>, before: Option<(u64, Chain)>, found: &mut Vec<Problem>) {
        let Some((seq, chain)) = before else {
            return found.push(Problem::Malformed("a log begins with a header"));
        };
        let expected = seq.saturating_add(1);
        if line.seq > expected {
            found.push(Problem::Missing { from: expected, to: line.seq.saturating_sub(1) });
        } else if line.seq < expected {
            found.push(Problem::Repeated { seq: line.seq });
        } else if !line.follows(&chain) {
            found.push(Problem::Edited);
        }
    }

    fn header(&self, line: &Line<'_>, state: &mut State, found: &mut Vec<Problem>) {
        let Some(header) = line.content::<Header>() else {
            return found.push(Problem::Malformed("the header is malformed"));
        };
        let previous = match &header.previous {
            None => Some((0, START)),
            Some(previous) => previous.chain().map(|chain| (previous.seq, chain)),
        };
        let Some(previous) = previous else {
            return found.push(Problem::Malformed("the header's link is malformed"));
        };
        match self.at {
            Some(at) if at.0 == previous.0 && at.1 != previous.1 => found.push(Problem::Edited),
            Some(at) => self.follows(line, Some((at.0, previous.1)), found),
            None => {
                self.follows(line, Some(previous), found);
                if header.previous.is_some() {
                    found.push(Problem::Earlier { seq: line.seq });
                }
            }
        }
        match open(&header, self.keys) {
            Ok(key) => state.data_key = Some(key),
            Err(error) => found.push(Problem::Key(error)),
        }
    }

    fn add(&mut self, file: &Path, line: u64, problem: Problem) {
        let kind = problem.kind();
        if kind == Some(ErrorKind::Tampered) || self.report.worst.is_none() {
            self.report.worst = kind;
        }
        if self.report.findings.len() < MAX_FINDINGS {
            self.report.findings.push(Finding { file: file.into(), line, problem });
        } else {
            self.report.omitted += 1;
        }
    }
}

/// The data key that a header seals.
fn open(header: &Header, keys: &KeySet) -> Result<DataKey> {
    if header.version != 1 {
        let message = format!("version {} of the audit log is not known here", header.version);
        return Err(Error::unsupported(message).hint("use a newer strongroom"));
    }
    let log: SnapshotId = header.log.parse()?;
    let seal = Seal::parse(header.seal.as_bytes())?;
    if seal.body().subject() != Subject::Audit(log) || seal.body().generation() != 1 {
        return Err(Error::tampered("the seal is of another subject"));
    }
    Ok(at_once(open_seal(&seal, Sha256::NONE, keys))?.data_key)
}
