//! The audit log of a proxy before etcd: whether it is kept, and verifies.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::super::fact::Fact;
use crate::audit_log::{Problem, files, verify};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Time;
use crate::keys::KeySet;
use crate::task::run_blocking;

/// Findings that are named.
const MAX_NAMED: usize = 5;

/// The log, and the keys that its MACs verify with.
pub struct ProxyLogOptions {
    /// The current file.
    pub file: PathBuf,
    /// The master keys of the proxy's values.
    pub keys: Arc<KeySet>,
}

impl std::fmt::Debug for ProxyLogOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ProxyLogOptions").field("file", &self.file).finish_non_exhaustive()
    }
}

/// What the log showed.
#[derive(Clone, Debug)]
pub(crate) struct ProxyLog {
    pub(crate) records: u64,
    /// When it was last written.
    pub(crate) written: Time,
    /// What was changed in it, or is lost.
    pub(crate) broken: Vec<String>,
    /// Why it is not authenticated.
    pub(crate) unopened: Option<String>,
}

/// Reads and verifies all of it.
pub(crate) async fn read(options: Option<&ProxyLogOptions>) -> Fact<ProxyLog> {
    let Some(options) = options else {
        return Fact::unknown(
            "etcd has no audit log; needs that of strongroom's proxy (--audit-log)",
        );
    };
    let (file, keys) = (options.file.clone(), Arc::clone(&options.keys));
    let read = run_blocking(move || look(&file, &keys)).await;
    Fact::read(read, options.file.display().to_string())
}

fn look(file: &std::path::Path, keys: &KeySet) -> Result<ProxyLog> {
    let files = files(file)?;
    let mut written = UNIX_EPOCH;
    for file in &files {
        let of_file = std::fs::metadata(file).and_then(|metadata| metadata.modified());
        written = written.max(of_file.map_err(|error| Error::io(file, error))?);
    }
    let report = verify(&files, keys)?;
    let (mut broken, mut unopened) = (Vec::new(), None);
    for finding in &report.findings {
        match finding.problem.kind() {
            Some(ErrorKind::WrongKey) => unopened = Some(finding.to_string()),
            Some(_) => broken.push(finding.to_string()),
            None if matches!(finding.problem, Problem::Lost { .. }) => {
                broken.push(finding.to_string());
            }
            None => {}
        }
    }
    broken.truncate(MAX_NAMED);
    // What the report has no room for may be anything.
    if report.omitted > 0 && broken.is_empty() {
        broken.push(format!("{} findings are not shown", report.omitted));
    }
    Ok(ProxyLog { records: report.records, written: at(written), broken, unopened })
}

fn at(time: SystemTime) -> Time {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Time::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
}
