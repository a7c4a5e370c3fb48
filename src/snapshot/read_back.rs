//! What a snapshot is of, read back from its stored bytes: what etcd says beside its stream may be of another moment.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::inside::Frames;
use super::reader::DatabaseReader;
use crate::bolt::Db;
use crate::error::Result;
use crate::etcd::seen::{Compared, Seen};
use crate::format::{EtcdFacts, Facts, RecordedFacts};
use crate::mvcc;
use crate::task::run_blocking;

/// How long a recording is waited for that has not seen the snapshot's revision yet.
const PATIENCE: Duration = Duration::from_secs(2);
const PAUSE: Duration = Duration::from_millis(20);

/// Reads revision, term and index out of the database behind `reader`, and adds them to `etcd`; compares its records with
/// what a recording has seen.
///
/// # Errors
/// [`ErrorKind::Tampered`](crate::ErrorKind::Tampered) when it is not an etcd database.
pub(crate) async fn read_back(
    reader: DatabaseReader,
    etcd: EtcdFacts,
    seen: Option<Arc<Seen>>,
) -> Result<(Facts, Option<Compared>)> {
    let size = reader.index().database().size;
    let frames = Frames::new(reader, &std::env::temp_dir());
    let (found, compared) = run_blocking(move || {
        let db = Db::open(frames)?;
        let found = mvcc::database_facts(&db)?;
        let compared = match seen {
            Some(seen) => {
                wait_for(&seen, found.revision);
                seen.compare(&db)?
            }
            None => None,
        };
        Ok((found, compared))
    })
    .await?;
    let etcd = EtcdFacts {
        revision: found.revision.unsigned_abs(),
        compact_revision: found.compact_revision.unsigned_abs(),
        raft_term: found.raft_term.unwrap_or(0),
        raft_index: found.raft_index,
        storage_version: found.storage_version,
        ..etcd
    };
    let journal = compared.and_then(|compared| {
        let positive = |(from, to): (i64, i64)| (from.unsigned_abs(), to.unsigned_abs());
        Some(RecordedFacts { segment: compared.stored?, equal: compared.equal.map(positive) })
    });
    Ok((Facts { etcd, database_size: size, journal }, compared))
}

/// Waits until `revision` was seen, if anything is.
fn wait_for(seen: &Seen, revision: i64) {
    let begun = Instant::now();
    while seen.last().is_some_and(|last| last < revision) && begun.elapsed() < PATIENCE {
        std::thread::sleep(PAUSE);
    }
}
