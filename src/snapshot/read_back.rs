//! What a snapshot is of, read back from its stored bytes: what etcd says beside its stream may be of another moment.

use super::inside::Frames;
use super::reader::DatabaseReader;
use crate::bolt::Db;
use crate::error::Result;
use crate::format::{EtcdFacts, Facts};
use crate::mvcc;
use crate::task::run_blocking;

/// Reads revision, term and index out of the database behind `reader`, and adds them to `etcd`.
///
/// # Errors
/// [`ErrorKind::Tampered`](crate::ErrorKind::Tampered) when it is not an etcd database.
pub(crate) async fn read_back(reader: DatabaseReader, etcd: EtcdFacts) -> Result<Facts> {
    let size = reader.index().database().size;
    let frames = Frames::new(reader, &std::env::temp_dir());
    let found = run_blocking(move || mvcc::database_facts(&Db::open(frames)?)).await?;
    let etcd = EtcdFacts {
        revision: found.revision.unsigned_abs(),
        compact_revision: found.compact_revision.unsigned_abs(),
        raft_term: found.raft_term.unwrap_or(0),
        raft_index: found.raft_index,
        storage_version: found.storage_version,
        ..etcd
    };
    Ok(Facts { etcd, database_size: size })
}
