//! What a snapshot is of: read back from the stored bytes, sealed into the manifest.

use tokio::runtime::Handle;

use super::blocking::run_blocking;
use super::snapshot::DatabaseReader;
use crate::bolt::{Db, ReadAt};
use crate::crypto::{self, CryptoRng, Label, Suite};
use crate::envelope::DataKey;
use crate::error::{Error, Result};
use crate::format::{EtcdFacts, Facts, Manifest, SnapshotId};
use crate::mvcc;

/// Reads revision, term and index out of the database behind `reader`, and adds them to `etcd`.
///
/// # Errors
/// [`ErrorKind::Tampered`](crate::ErrorKind::Tampered) when it is not an etcd database.
pub(crate) async fn read_back(reader: DatabaseReader, etcd: EtcdFacts) -> Result<Facts> {
    let size = reader.index().database.size;
    let handle = Handle::current();
    let found = run_blocking(move || {
        let db = Db::open(Frames { reader, handle, cached: None.into() })?;
        mvcc::database_facts(&db)
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

/// Random access to the database through its frames, the last one kept.
struct Frames {
    reader: DatabaseReader,
    handle: Handle,
    cached: std::cell::RefCell<Option<(usize, Vec<u8>)>>,
}

impl ReadAt for Frames {
    fn read_at(&self, offset: u64, mut buf: &mut [u8]) -> Result<()> {
        let frame_size = self.reader.index().database.frame_size;
        let mut offset = offset;
        while !buf.is_empty() {
            let at = (offset / frame_size) as usize;
            let within = (offset % frame_size) as usize;
            let mut cached = self.cached.borrow_mut();
            if cached.as_ref().is_none_or(|(cached, _)| *cached != at) {
                *cached = Some((at, self.handle.block_on(self.reader.frame(at))?));
            }
            let frame = cached.as_ref().and_then(|(_, frame)| frame.get(within..));
            let frame = frame.filter(|frame| !frame.is_empty()).ok_or_else(|| {
                Error::tampered(format!("offset {offset} lies behind the database's end"))
            })?;
            let length = frame.len().min(buf.len());
            let (now, later) = buf.split_at_mut(length);
            now.copy_from_slice(frame.get(..length).unwrap_or_default());
            buf = later;
            offset += length as u64;
        }
        Ok(())
    }

    fn size(&self) -> u64 {
        self.reader.index().database.size
    }
}
