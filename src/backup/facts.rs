//! What a snapshot is of: read back from the stored bytes, sealed into the manifest.

use super::inside::Frames;
use super::snapshot::DatabaseReader;
use crate::bolt::Db;
use crate::crypto::{self, CryptoRng, Label, Suite};
use crate::envelope::DataKey;
use crate::error::Result;
use crate::format::{EtcdFacts, Facts, Manifest, SnapshotId};
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

/// Seals `facts` for the manifest of `id`.
///
/// # Errors
/// None that a caller can cause.
pub(crate) fn seal(
    facts: &Facts,
    data_key: &DataKey,
    id: SnapshotId,
    rng: &mut dyn CryptoRng,
) -> Result<Vec<u8>> {
    let context = crypto::labelled(Label::Facts, &[&id.to_bytes()]);
    crypto::seal(Suite::Aes256Gcm, &data_key.facts_key(), &context, &facts.print()?, rng)
}

/// Opens the facts in `manifest`.
///
/// # Errors
/// [`ErrorKind::Tampered`](crate::ErrorKind::Tampered).
pub(crate) fn open(manifest: &Manifest, data_key: &DataKey) -> Result<Facts> {
    let context = crypto::labelled(Label::Facts, &[&manifest.body().snapshot.to_bytes()]);
    let key = data_key.facts_key();
    Facts::parse(&crypto::open(Suite::Aes256Gcm, &key, &context, &manifest.body().facts)?)
}
