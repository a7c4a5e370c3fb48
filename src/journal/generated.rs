//! Journals of made-up changes, for benchmarks: written as a recorder writes them, without an etcd.

use std::time::Duration;

use super::cut::Cutter;
use super::write::{JournalWriter, NewJournal};
use crate::crypto::Suite;
use crate::error::Result;
use crate::etcd::changes::{Change, ChangeValue, Complete, digest_of};
use crate::format::{ClusterName, EndReason, Entry, JournalFacts, SnapshotId};
use crate::keys::KeySet;
use crate::mvcc::Revision;
use crate::store::Repository;

/// One revision.
#[derive(Clone, Debug)]
pub struct Generated {
    /// The main revision.
    pub main: i64,
    /// When it is received, after the journal began.
    pub after: Duration,
    /// Each change: the bucket's value, or the key that was deleted.
    pub changes: Vec<std::result::Result<Vec<u8>, Vec<u8>>>,
    /// How far etcd is known to have compacted by then, where that is news.
    pub compacted: Option<i64>,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// Changes.
    pub events: u64,
    /// Bytes of their records.
    pub raw_bytes: u64,
    /// Segments.
    pub segments: u64,
    /// Bytes of their objects.
    pub stored_bytes: u64,
}

/// Stores a journal of `revisions`, in segments of `interval`.
///
/// # Errors
/// Those of the keys and of the store.
pub async fn generate(
    repository: &Repository,
    keys: &KeySet,
    cluster: ClusterName,
    interval: Duration,
    revisions: impl IntoIterator<Item = Generated>,
) -> Result<Written> {
    let mut revisions = revisions.into_iter().peekable();
    let first = revisions.peek().map_or(2, |revision| revision.main);
    let facts = JournalFacts {
        cluster_id: 0,
        member_id: 0,
        version: None,
        raft_term: 0,
        interval_ms: interval.as_millis() as u64,
        continues: None,
    };
    let new = NewJournal { cluster, first, facts };
    let (mut writer, beginning) =
        JournalWriter::new(repository.id(), keys, new, Suite::Aes256Gcm).await?;
    for object in beginning {
        repository.put_once(&object.name, object.bytes).await?;
    }
    let begun = SnapshotId::unix_ms(writer.id());
    let (mut cutter, mut next, mut written) = (Cutter::new(first), interval, Written::default());
    for revision in revisions {
        let mut cuts = Vec::new();
        let moment = begun.saturating_add(revision.after.as_millis() as u64);
        if revision.after >= next {
            cutter.complete(moment);
            cuts.push(cutter.cut());
            next = next.saturating_add(interval);
        }
        if let Some(compacted) = revision.compacted {
            cutter.entry(&Entry::Compacted(compacted))?;
        }
        let complete = complete(revision, &mut written);
        cutter.revision(&complete, moment, &mut cuts)?;
        for cut in cuts {
            let object = writer.segment(cut)?;
            repository.put_once(&object.name, object.bytes).await?;
        }
    }
    if cutter.has_entries() {
        cutter.complete(begun.saturating_add(next.as_millis() as u64));
        let object = writer.segment(cutter.cut())?;
        repository.put_once(&object.name, object.bytes).await?;
    }
    (written.segments, written.stored_bytes) = (writer.segments(), writer.bytes());
    for object in writer.end(EndReason::STOPPED).await? {
        repository.put_once(&object.name, object.bytes).await?;
    }
    Ok(written)
}

fn complete(generated: Generated, written: &mut Written) -> Complete {
    let Generated { main, changes, .. } = generated;
    let change = |(sub, change): (i64, std::result::Result<Vec<u8>, Vec<u8>>)| {
        let value = match change {
            Ok(value) => ChangeValue::Put(value.into()),
            Err(key) => ChangeValue::Deletion(key.into()),
        };
        Change { revision: Revision { main, sub }, value }
    };
    let changes: Vec<_> = (0..).zip(changes).map(change).collect();
    let length = |change: &Change| match &change.value {
        ChangeValue::Put(bytes) => bytes.len() as u64,
        ChangeValue::Deletion(key) => key.len() as u64,
    };
    written.events = written.events.saturating_add(changes.len() as u64);
    let raw = changes.iter().map(length).fold(0, u64::saturating_add);
    written.raw_bytes = written.raw_bytes.saturating_add(raw);
    Complete { main, digest: digest_of(&changes), changes }
}
