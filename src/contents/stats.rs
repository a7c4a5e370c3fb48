//! What takes the space, and what of it is encrypted.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::encryption::{KeyInUse, Protection, Protections, is_kubernetes};
use super::groups::Groups;
use crate::bolt::{Checked, Db, Order, ReadAt, check_with};
use crate::error::Result;
use crate::format::serial;
use crate::mvcc::{Record, Revision, database_facts, leases};

/// Of so many largest values the keys are told.
const LARGEST: usize = 10;

/// What a database holds.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Stats {
    /// Its last main revision.
    pub revision: i64,
    /// Changes before this main revision are gone.
    pub compact_revision: i64,
    /// Keys at the last revision.
    pub keys: u64,
    /// Bytes of those keys and their values.
    pub bytes: u64,
    /// Changes of all keys, deletions included.
    #[serde(rename = "changes")]
    pub records: u64,
    /// Deletions.
    pub deletions: u64,
    /// Leases.
    pub leases: u64,
    /// Keys that are attached to a lease.
    pub leased_keys: u64,
    /// bolt's page size in bytes.
    pub page_size: u32,
    /// Pages of the database.
    pub pages: u64,
    /// Pages that no tree reaches: what a defragmentation frees.
    pub free_pages: u64,
    /// By prefix, the one with the most bytes in all its changes first.
    #[serde(rename = "prefixes")]
    pub groups: Vec<Group>,
    /// The keys with the largest values at the last revision, the largest first; ten at most.
    pub largest: Vec<Large>,
    /// The keys of Kubernetes' API server that values need, with how many values at the last revision and
    /// how many in all changes.
    #[serde(rename = "encryption_keys", serialize_with = "in_use")]
    pub keys_in_use: Vec<(KeyInUse, u64, u64)>,
    /// Changes, to keys below none of Kubernetes' roots, whose values only Kubernetes writes.
    #[serde(skip)]
    pub kubernetes_elsewhere: u64,
}

fn in_use<S: Serializer>(keys: &[(KeyInUse, u64, u64)], out: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Counted<'a> {
        #[serde(flatten)]
        key: &'a KeyInUse,
        values: u64,
        values_of_all_changes: u64,
    }
    out.collect_seq(keys.iter().map(|(key, now, all)| Counted {
        key,
        values: *now,
        values_of_all_changes: *all,
    }))
}

/// What a prefix holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The prefix; empty for keys without a `/`.
    #[serde(flatten, serialize_with = "serial::prefix")]
    pub prefix: Vec<u8>,
    /// Kubernetes' resource; `None` for what is not below one of its roots.
    #[serde(flatten, serialize_with = "serial::resource")]
    pub resource: Option<Vec<u8>>,
    /// Keys at the last revision.
    pub keys: u64,
    /// Bytes of those keys and their values.
    pub bytes: u64,
    /// Changes, deletions included.
    #[serde(rename = "changes")]
    pub records: u64,
    /// Bytes of all changes' records.
    #[serde(rename = "change_bytes")]
    pub record_bytes: u64,
    /// Values at the last revision that whoever has the database can read.
    pub unencrypted: u64,
    /// Values at the last revision that Kubernetes' API server encrypted.
    pub encrypted: u64,
    /// Values at the last revision that begin as an encrypted one does, and go on like none.
    pub unknown: u64,
    /// Values of earlier revisions that whoever has the database can read.
    pub unencrypted_before: u64,
}

/// A key with a large value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Large {
    /// The key.
    #[serde(flatten, serialize_with = "serial::key")]
    pub key: Vec<u8>,
    /// The value's length.
    pub value_bytes: u64,
    /// Main revision of its latest change.
    #[serde(rename = "mod_revision")]
    pub revision: i64,
}

/// A key at the latest revision read.
struct Latest {
    revision: Revision,
    value_bytes: u64,
    leased: bool,
    /// The value's number in [`Protections`]; `None` for a deletion.
    protection: Option<usize>,
}

/// Reads the whole database, and checks its structure on the way. Memory: about 100 bytes and the key for each
/// key, and for each prefix.
///
/// # Errors
/// [`Tampered`](crate::ErrorKind::Tampered) when the database breaks a rule of bolt's or etcd's, and those of the
/// source.
pub fn stats<R: ReadAt>(db: &Db<R>, groups: &Groups) -> Result<Stats> {
    let facts = database_facts(db)?;
    let mut collected = Collected { by: groups.clone(), ..Collected::default() };
    let checked = check_with(db, Order::File, |bucket, key, value| {
        if bucket == b"key" {
            collected.record(&Record::parse(key, value)?);
        }
        Ok(())
    })?;
    let mut stats = collected.into_stats(&checked);
    stats.revision = facts.revision;
    stats.compact_revision = facts.compact_revision;
    stats.page_size = facts.page_size;
    stats.leases = leases(db)?.len() as u64;
    Ok(stats)
}

#[derive(Default)]
struct Collected {
    by: Groups,
    keys: BTreeMap<Box<[u8]>, Latest>,
    groups: BTreeMap<Vec<u8>, Group>,
    protections: Protections,
    records: u64,
    deletions: u64,
    kubernetes_elsewhere: u64,
}

impl Collected {
    fn record(&mut self, record: &Record<'_>) {
        let (key, value) = (record.kv.key, record.kv.value);
        // The record that --bump-revision adds has no key.
        if key.is_empty() {
            return;
        }
        add(&mut self.records, 1);
        let (prefix, resource) = self.by.of(key);
        if !self.groups.contains_key(prefix) {
            let group = Group { prefix: prefix.to_vec(), ..Group::default() };
            self.groups.insert(prefix.to_vec(), group);
        }
        let Some(group) = self.groups.get_mut(prefix) else { return };
        // At depth 1 of a root, objects without a resource share its prefix.
        group.resource = group.resource.take().or(resource.map(<[u8]>::to_vec));
        add(&mut group.records, 1);
        add(&mut group.record_bytes, length(record.raw.0).saturating_add(length(record.raw.1)));
        if !record.tombstone && resource.is_none() && is_kubernetes(value) {
            add(&mut self.kubernetes_elsewhere, 1);
        }
        let protection = if record.tombstone {
            add(&mut self.deletions, 1);
            None
        } else {
            let protection = Protection::of(value);
            add(&mut group.unencrypted_before, (protection == Protection::Unencrypted).into());
            Some(self.protections.count(protection))
        };
        let latest = Latest {
            revision: record.revision,
            value_bytes: length(value),
            leased: record.kv.lease != 0,
            protection,
        };
        match self.keys.get_mut(key) {
            Some(known) if known.revision > latest.revision => {}
            Some(known) => *known = latest,
            None => drop(self.keys.insert(Box::from(key), latest)),
        }
    }

    fn into_stats(mut self, checked: &Checked) -> Stats {
        self.keys.retain(|_, latest| latest.protection.is_some());
        let protections = self.protections.into_all();
        let mut values = vec![0_u64; protections.len()];
        let (mut bytes, mut leased_keys) = (0, 0);
        for (key, latest) in &self.keys {
            let size = length(key).saturating_add(latest.value_bytes);
            add(&mut bytes, size);
            add(&mut leased_keys, latest.leased.into());
            let protection = latest.protection.unwrap_or_default();
            values.get_mut(protection).into_iter().for_each(|count| add(count, 1));
            let Some(group) = self.groups.get_mut(self.by.of(key).0) else { continue };
            add(&mut group.keys, 1);
            add(&mut group.bytes, size);
            match protections.get(protection) {
                Some((Protection::Unencrypted, _)) => {
                    add(&mut group.unencrypted, 1);
                    // All were counted, the latest among them.
                    group.unencrypted_before = group.unencrypted_before.saturating_sub(1);
                }
                Some((Protection::Encrypted(_), _)) => add(&mut group.encrypted, 1),
                _ => add(&mut group.unknown, 1),
            }
        }
        let mut groups: Vec<_> = self.groups.into_values().collect();
        groups.sort_by_key(|group| std::cmp::Reverse(group.record_bytes));
        let in_use = protections.into_iter().zip(values).filter_map(|((protection, all), now)| {
            match protection {
                Protection::Encrypted(key) => Some((key, now, all)),
                _ => None,
            }
        });
        let mut keys_in_use: Vec<_> = in_use.collect();
        keys_in_use.sort();
        Stats {
            revision: 0,
            compact_revision: 0,
            keys: self.keys.len() as u64,
            bytes,
            records: self.records,
            deletions: self.deletions,
            leases: 0,
            leased_keys,
            page_size: 0,
            pages: checked.pages,
            free_pages: checked.free,
            groups,
            largest: largest(&self.keys),
            keys_in_use,
            kubernetes_elsewhere: self.kubernetes_elsewhere,
        }
    }
}

fn largest(keys: &BTreeMap<Box<[u8]>, Latest>) -> Vec<Large> {
    let mut all: Vec<_> = keys.iter().collect();
    all.sort_by_key(|(_, latest)| std::cmp::Reverse(latest.value_bytes));
    let largest = all.into_iter().take(LARGEST).map(|(key, latest)| Large {
        key: key.to_vec(),
        value_bytes: latest.value_bytes,
        revision: latest.revision.main,
    });
    largest.collect()
}

fn add(sum: &mut u64, more: u64) {
    *sum = sum.saturating_add(more);
}

fn length(bytes: &[u8]) -> u64 {
    bytes.len() as u64
}
