//! Functions that take any bytes and must not panic. For fuzz targets and tests.

use std::ops::ControlFlow;

use super::{
    KeySpace, KeyValue, Record, Revision, check_history, compaction, database_facts,
    for_each_record, for_each_record_at, hash_kv, history, leases, value_at,
};
use crate::bolt::Db;

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const ALL: &[(&str, Target)] =
    &[("key_value", key_value), ("record", record), ("database", database)];

/// A record's value.
pub fn key_value(data: &[u8]) {
    if let Some(kv) = KeyValue::parse(data) {
        assert!(kv.key.len().saturating_add(kv.value.len()) <= data.len());
    }
}

/// A record's key, and its value behind.
pub fn record(data: &[u8]) {
    for length in [17, 18] {
        let Some((key, value)) = data.split_at_checked(length) else { return };
        if let Ok(record) = Record::parse(key, value) {
            assert!(record.revision.to_key(record.tombstone) == key);
        }
    }
}

/// All that is asked of a database.
pub fn database(data: &[u8]) {
    let Ok(db) = Db::open(data) else { return };
    let _ = (compaction(&db), leases(&db), check_history(&db));
    let Ok(facts) = database_facts(&db) else { return };
    let _ = hash_kv(&db, facts.revision, facts.compact_revision);
    let _ = hash_kv(&db, facts.revision, facts.revision);
    let _ = for_each_record_at(&db, facts.revision, |_| Ok(()));
    let mut some: Option<(Vec<u8>, Revision)> = None;
    let _ = for_each_record(&db, Revision::default(), |record| {
        some = Some((record.kv.key.to_vec(), record.revision));
        Ok(ControlFlow::Continue(()))
    });
    if let Some((key, revision)) = some {
        let _ = history(&db, &key, |_| Ok(()));
        let _ = value_at(&db, revision);
    }
    if let Ok(keys) = KeySpace::at(&db, facts.revision) {
        for entry in keys.live(b"").chain(keys.deleted(b"")) {
            assert!(keys.get(entry.key) == Some(entry));
        }
    }
}
