//! The audit log of a proxy: who touched which key when, in lines that cannot be changed unseen (SPEC.md §11).
//!
//! One JSON line a request, never a value. Every line carries the SHA-256 of all before it; at least every
//! [`CHECKPOINT_LINES`] lines or [`CHECKPOINT_AFTER`] a checkpoint adds a MAC whose key only the master keys open,
//! and is forced to disk. Each file's first line names the end of the file before, so that an edited or removed line,
//! and a removed file, show in [`verify()`].
//!
//! # What it does not prove
//! - Lines after the last checkpoint are chained but not authenticated until the next one: whoever can write the file
//!   can change them. After a crash that is what the last seconds before it are worth.
//! - Whether the newest file was cut at a checkpoint, or removed together with what followed: keep the last `seq` and
//!   `chain` that [`verify()`] reports elsewhere, or ship the lines away.
//! - A power cut can lose the lines since the last checkpoint, since only checkpoints are forced to disk; the end of
//!   a process alone loses none that [`AuditLog::record`] confirmed.

mod file;
mod line;
mod query;
mod reader;
mod record;
#[cfg(test)]
mod tests;
mod verify;
mod writer;

pub use file::{CHECKPOINT_AFTER, CHECKPOINT_LINES};
pub use line::MAX_LINE;
pub use query::{Entry, Filter, KeyFilter, query};
pub use reader::files;
pub use record::{KeyRange, MAX_KEY_BYTES, MAX_KEYS, Record};
pub use verify::{Finding, Problem, Report, verify};
pub use writer::{AuditLog, Options, Reserved};
