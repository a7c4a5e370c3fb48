//! A small etcd for tests: takes changes, compacts, and writes the database that etcd would.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::ops::ControlFlow;

use proptest::prelude::*;

use super::*;
use crate::bolt::{Db, Writer};
use crate::error::{ErrorKind, Result};
use crate::format::{self, Body, BodyHead, BodyWriter, Sha256};

#[derive(Clone, Debug, PartialEq)]
struct Change {
    revision: Revision,
    key: Vec<u8>,
    /// Created, version, value, lease; none for a deletion.
    put: Option<(i64, i64, Vec<u8>, i64)>,
}

/// A record's value. etcd's order of fields; zeros are left out.
fn value_of(change: &Change) -> Vec<u8> {
    let mut value = vec![0x0a, change.key.len() as u8];
    value.extend(&change.key);
    if let Some((created, version, user_value, lease)) = &change.put {
        let mut number = |tag: u8, mut number: u64| {
            value.push(tag);
            while number >= 0x80 {
                value.push(number as u8 | 0x80);
                number >>= 7;
            }
            value.push(number as u8);
        };
        number(0x10, *created as u64);
        number(0x18, change.revision.main as u64);
        number(0x20, *version as u64);
        number(0x2a, user_value.len() as u64);
        value.extend(user_value);
        if *lease != 0 {
            value.extend([0x30, *lease as u8]);
        }
    }
    value
}

/// A database of these changes.
fn database(changes: &[Change], scheduled: i64, finished: i64) -> Vec<u8> {
    let mut writer = Writer::new(Cursor::new(Vec::new()), 1024).unwrap();
    writer.bucket(b"key").unwrap();
    for change in changes {
        writer.put(&change.revision.to_key(change.put.is_none()), &value_of(change)).unwrap();
    }
    writer.bucket(b"meta").unwrap();
    for (name, main) in [("finishedCompactRev", finished), ("scheduledCompactRev", scheduled)] {
        if main > 0 {
            writer.put(name.as_bytes(), &Revision { main, sub: 0 }.to_key(false)).unwrap();
        }
    }
    writer.bucket(b"lease").unwrap();
    writer.put(&9_i64.to_be_bytes(), &[0x08, 9, 0x10, 60]).unwrap();
    writer.finish().unwrap().0.into_inner()
}

/// Transactions, each of which changes some of eight keys; a set bit of `deletes` deletes if there is one.
fn run(transactions: &[(u8, u8)]) -> Vec<Change> {
    let mut live: BTreeMap<u8, (i64, i64)> = BTreeMap::new();
    let (mut changes, mut main) = (Vec::new(), 1);
    for (touched, deletes) in transactions {
        let mut sub = 0;
        for key in (0..8_u8).filter(|key| touched >> key & 1 == 1) {
            let revision = Revision { main: main + 1, sub };
            let put = if deletes >> key & 1 == 1 {
                if live.remove(&key).is_none() {
                    continue;
                }
                None
            } else {
                let (created, version) = live.entry(key).or_insert((main + 1, 0));
                *version += 1;
                Some((*created, *version, vec![key; usize::from(*touched)], i64::from(key / 4) * 9))
            };
            changes.push(Change { revision, key: format!("k{}/{key}", key / 2).into(), put });
            sub += 1;
        }
        main += i64::from(sub > 0);
    }
    changes
}

/// The latest change of each key up to `at`.
fn latest(changes: &[Change], at: i64) -> BTreeMap<Vec<u8>, &Change> {
    let until = changes.iter().take_while(|change| change.revision.main <= at);
    until.map(|change| (change.key.clone(), change)).collect()
}

/// What a finished compaction at `at` leaves; etcd before 3.4.34 and 3.5.16 removes deletions at `at` too.
fn compact(changes: &[Change], at: i64, old: bool) -> Vec<Change> {
    let latest = latest(changes, at);
    let kept = |change: &&Change| {
        let deletion_kept = !old && change.revision.main == at;
        change.revision.main > at
            || latest[&change.key] == *change && (change.put.is_some() || deletion_kept)
    };
    changes.iter().filter(kept).cloned().collect()
}

/// HashKV as a member answers it that has the records `there` (`kvHasher.WriteKeyValue`), of all `changes`.
fn answer(changes: &[Change], there: &[Change], revision: i64, compacted: i64, old: bool) -> u32 {
    let keep: Vec<_> = latest(changes, revision)
        .into_values()
        .filter(|change| change.put.is_some())
        .map(|change| change.revision)
        .collect();
    let mut bytes = b"key".to_vec();
    for change in there {
        let main = change.revision.main;
        let skip = main <= compacted && !keep.is_empty() && !keep.contains(&change.revision);
        let deletion = !old && main == compacted && change.put.is_none();
        if main <= revision && !skip && !deletion {
            bytes.extend(change.revision.to_key(change.put.is_none()));
            bytes.extend(value_of(change));
        }
    }
    crc32c::crc32c(&bytes)
}

/// The bodies of a journal's segments, as [`Reading`] takes them.
struct Bodies {
    first: i64,
    bodies: Vec<Vec<u8>>,
}

impl Recording for Bodies {
    fn for_each(&self, visit: &mut dyn FnMut(Recorded<'_>) -> Result<()>) -> Result<()> {
        let mut reading = Reading::new(self.first);
        self.bodies.iter().try_for_each(|bytes| reading.body(&Body::parse(bytes)?, visit))
    }
}

/// Bodies of `cut` changes each, wherever that falls, and an empty one at the end.
fn bodies(changes: &[Change], first: i64, cut: usize) -> Vec<Vec<u8>> {
    let mut bodies = Vec::new();
    let (mut next, mut last) = (Revision { main: first, sub: 0 }, first - 1);
    for (number, part) in (1..).zip(changes.chunks(cut).chain([&[][..]])) {
        let mut writer = BodyWriter::default();
        writer.push(&format::Entry::Moment(number)).unwrap();
        let Revision { main, sub } = part.first().map_or(next, |change| change.revision);
        for change in part {
            let value = value_of(change);
            writer
                .push(&match change.put {
                    Some(_) => format::Entry::Put(&value),
                    None => {
                        format::Entry::Deletion { main: change.revision.main, key: &change.key }
                    }
                })
                .unwrap();
            let after = changes.iter().find(|later| later.revision > change.revision);
            let Revision { main, sub } = change.revision;
            let ends = after.is_none_or(|after| after.revision.main > main);
            last = if ends { main } else { last };
            next = if ends {
                Revision { main: main + 1, sub: 0 }
            } else {
                Revision { main, sub: sub + 1 }
            };
        }
        let head = BodyHead { number, previous: Sha256([0; 32]), main, sub, last, complete_ms: 0 };
        bodies.push(writer.finish(&head).to_vec());
    }
    bodies
}

/// What a database's records say.
fn changes_in(db: &Db<&[u8]>) -> Vec<Change> {
    let mut changes = Vec::new();
    for_each_record(db, Revision::default(), |record| {
        let kv = record.kv;
        let put = (!record.tombstone)
            .then(|| (kv.create_revision, kv.version, kv.value.to_vec(), kv.lease));
        changes.push(Change { revision: record.revision, key: kv.key.to_vec(), put });
        assert_eq!(record.raw.1, value_of(changes.last().unwrap()));
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    changes
}

fn transactions() -> impl Strategy<Value = Vec<(u8, u8)>> {
    prop::collection::vec((any::<u8>(), prop_oneof![any::<u8>(), Just(0xff), Just(0)]), 1..12)
}

fn conclusive(db: &[u8], revision: i64, compacted: i64) -> Option<u32> {
    match hash_kv(&Db::open(db).unwrap(), revision, compacted).unwrap() {
        HashKv::Hash(hash) => Some(hash),
        HashKv::Inconclusive(_) => None,
    }
}

proptest! {
    /// One hash whether the compaction is to come, running or finished, and whichever version did it.
    #[test]
    fn a_hash_outlives_its_compaction(run_of in transactions()) {
        let changes = run(&run_of);
        let Some(last) = changes.last().map(|change| change.revision.main) else { return Ok(()) };
        let full = database(&changes, 0, 0);
        for compacted in 2..=last {
            let running = database(&changes, compacted, 0);
            let (old, new) = (compact(&changes, compacted, true), compact(&changes, compacted, false));
            let answers = |revision| {
                [(&old, true), (&new, false)]
                    .map(|(there, old)| Some(answer(&changes, there, revision, compacted, old)))
            };
            let (old_db, new_db) =
                (database(&old, compacted, compacted), database(&new, compacted, compacted));
            for revision in compacted..=last {
                let hash = conclusive(&full, revision, compacted);
                prop_assert_eq!(answers(revision), [hash; 2]);
                for other in [&running, &old_db, &new_db] {
                    prop_assert_eq!(conclusive(other, revision, compacted), hash);
                }
                prop_assert_eq!(conclusive(&new_db, revision, compacted - 1), None);
            }
            prop_assert_eq!(conclusive(&full, compacted - 1, compacted), None);
        }
        prop_assert_eq!(conclusive(&full, last + 1, 0), None);
    }

    #[test]
    fn the_key_space_is_the_model(run_of in transactions(), compacted in 0..8_i64, prefix in 0..4_u8) {
        let changes = run(&run_of);
        let Some(last) = changes.last().map(|change| change.revision.main) else { return Ok(()) };
        let compacted = compacted.min(last);
        let there = compact(&changes, compacted, false);
        let bytes = database(&there, compacted, compacted);
        let db = Db::open(bytes.as_slice()).unwrap();
        let prefix = format!("k{prefix}").into_bytes();
        for at in compacted.max(1)..=last {
            let keys = KeySpace::at(&db, at).unwrap();
            prop_assert_eq!(keys.revision(), at);
            let expected = latest(&changes, at);
            let live: Vec<_> = keys.live(&prefix).collect();
            let wanted: Vec<_> = expected
                .iter()
                .filter(|(key, _)| key.starts_with(&prefix))
                .filter_map(|(key, change)| Some((key, change.revision, change.put.clone()?)))
                .collect();
            prop_assert_eq!(live.len(), wanted.len());
            for (entry, (key, modified, (created, version, value, lease))) in live.iter().zip(wanted) {
                let wanted = Entry { key, modified, create_revision: created, version, lease };
                prop_assert_eq!(entry, &wanted);
                prop_assert_eq!(value_at(&db, modified).unwrap(), Some(value));
                prop_assert_eq!(keys.get(key), Some(*entry));
            }
            let deleted = keys.deleted(b"").map(|entry| (entry.key.to_vec(), entry.modified));
            let wanted = latest(&there, at).into_iter().filter(|(_, change)| change.put.is_none());
            prop_assert!(deleted.eq(wanted.map(|(key, change)| (key, change.revision))));
            // Written anew, the records up to `at` are a database at that revision.
            let mut until = Vec::new();
            for_each_record_at(&db, at, |record| { until.push(record.revision); Ok(()) }).unwrap();
            let wanted = there.iter().map(|change| change.revision).filter(|now| now.main <= at);
            prop_assert!(until.iter().copied().eq(wanted));
        }
        for at in [compacted - 1, last + 1] {
            let error = KeySpace::at(&db, at).err().map(|error| error.kind());
            prop_assert_eq!(error, Some(ErrorKind::NotFound));
        }
    }

    #[test]
    fn rewritten_it_is_what_it_was(run_of in transactions(), bump in 0..3_i64, without_lease: bool) {
        let changes = run(&run_of);
        let Some(last) = changes.last().map(|change| change.revision.main) else { return Ok(()) };
        let bytes = database(&changes, 0, 0);
        let db = Db::open(bytes.as_slice()).unwrap();
        for at in 1..=last {
            let mut how = Changes { revision: Some(at), bump, mark_compacted: bump > 0, ..Changes::default() };
            if without_lease {
                how.buckets.insert(b"lease".to_vec(), Records::new());
            }
            let (out, written) = rewrite(&db, &how, Cursor::new(Vec::new())).unwrap();
            prop_assert_eq!((written.last_change, written.revision), (at, at + bump));
            let bytes = out.into_inner();
            prop_assert_eq!(bytes.len() as u64, written.database_bytes);
            let again = Db::open(bytes.as_slice()).unwrap();
            crate::bolt::check(&again).unwrap();
            check_history(&again).unwrap();
            prop_assert_eq!(database_facts(&again).unwrap().revision, at + bump);
            let compacted = if bump > 0 { at + bump } else { 0 };
            prop_assert_eq!(compaction(&again).unwrap().scheduled, compacted);
            let live = |keys: &KeySpace| keys.live(b"").map(|entry| (entry.key.to_vec(), entry.modified, entry.lease)).collect::<Vec<_>>();
            let keys = KeySpace::at(&again, at + bump).unwrap();
            prop_assert_eq!(live(&keys), live(&KeySpace::at(&db, at).unwrap()));
            // Every lease that a key has is there; and none was made up.
            let leased = keys.live(b"").any(|entry| entry.lease != 0);
            let expected = match (without_lease, leased) {
                (false, _) => vec![Lease { id: 9, ttl: 60, remaining_ttl: 0 }],
                (true, true) => vec![Lease { id: 9, ttl: RENEWED_LEASE_TTL, remaining_ttl: 0 }],
                (true, false) => vec![],
            };
            prop_assert_eq!(written.renewed_leases, u64::from(without_lease && leased));
            prop_assert_eq!(leases(&again).unwrap(), expected);
        }
    }

    /// Whatever the base, the recording's beginning and the recorded compaction: after a compaction nothing tells the
    /// result from the live database.
    #[test]
    fn with_its_tail_it_is_what_it_became(
        run_of in transactions(), base: prop::sample::Index, begin: prop::sample::Index,
        base_compacted: prop::sample::Index, compacted: prop::sample::Index, cut in 1..7_usize,
    ) {
        let changes = run(&run_of);
        let Some(last) = changes.last().map(|change| change.revision.main) else { return Ok(()) };
        let base = 1 + base.index(last as usize) as i64;
        let base_compacted = base_compacted.index(base as usize) as i64;
        let begin = 2 + begin.index(base as usize) as i64;
        let until = |at: i64| changes.iter().filter(move |change| change.revision.main <= at).cloned().collect::<Vec<_>>();
        let bytes = database(&compact(&until(base), base_compacted, false), base_compacted, base_compacted);
        let db = Db::open(bytes.as_slice()).unwrap();
        if database_facts(&db).unwrap().revision != base { return Ok(()) };
        let tail: Vec<_> = changes.iter().filter(|change| change.revision.main >= begin).cloned().collect();
        let bodies = Bodies { first: begin, bodies: bodies(&tail, begin, cut) };
        let ttls = BTreeMap::from([(9, 77)]);
        for at in base..=last {
            let compacted = base_compacted.max(compacted.index(at as usize + 1) as i64);
            let how = Changes { revision: Some(at), ..Changes::default() };
            let tail = Tail { recording: &bodies, compacted, ttls: &ttls };
            let (out, written) = rewrite_with(&db, &how, Some(tail), Cursor::new(Vec::new())).unwrap();
            prop_assert_eq!((written.last_change, written.renewed_leases), (at, 0));
            let bytes = out.into_inner();
            let again = Db::open(bytes.as_slice()).unwrap();
            crate::bolt::check(&again).unwrap();
            let facts = database_facts(&again).unwrap();
            prop_assert_eq!(facts.revision, at);
            let scheduled = if at == base { base_compacted } else { compacted };
            prop_assert_eq!(facts.compact_revision, scheduled);
            let records = changes_in(&again);
            let live = until(at);
            prop_assert_eq!(compact(&records, scheduled, false), compact(&live, scheduled, false));
            if scheduled <= base_compacted {
                prop_assert_eq!(&records, &compact(&live, base_compacted, false));
            }
            // A lease that was granted again behind the base has the time to live that was recorded.
            let is_behind = KeySpace::at(&again, at).unwrap().live(b"").any(|entry| entry.lease != 0 && entry.modified.main > base);
            let ttl = if is_behind { 77 } else { 60 };
            prop_assert_eq!(leases(&again).unwrap(), vec![Lease { id: 9, ttl, remaining_ttl: 0 }]);
            let full = database(&live, 0, 0);
            prop_assert_eq!(conclusive(&bytes, at, scheduled), conclusive(&full, at, scheduled));
        }
    }

    #[test]
    fn a_recording_with_a_gap_is_refused(run_of in transactions(), gone: prop::sample::Index, cut in 1..7_usize) {
        let mut changes = run(&run_of);
        let Some(last) = changes.last().map(|change| change.revision.main) else { return Ok(()) };
        let read = |changes: &[Change]| Bodies { first: 2, bodies: bodies(changes, 2, cut) }.for_each(&mut |_| Ok(()));
        prop_assert!(read(&changes).is_ok());
        let gone = 2 + gone.index(last as usize - 1) as i64;
        changes.retain(|change| change.revision.main != gone);
        // The last one is not missed.
        prop_assert_eq!(read(&changes).is_err(), gone < last);
    }

    #[test]
    fn a_missing_change_is_found(run_of in transactions(), compacted in 0..6_i64, gone: prop::sample::Index) {
        let changes = run(&run_of);
        let Some(last) = changes.last().map(|change| change.revision) else { return Ok(()) };
        let compacted = compacted.min(last.main);
        let mut there = compact(&changes, compacted, false);
        let bytes = database(&there, compacted, compacted);
        let history = check_history(&Db::open(bytes.as_slice()).unwrap()).unwrap();
        prop_assert_eq!(history.records, there.len() as u64);
        prop_assert_eq!(history.last, there.last().map(|change| change.revision));
        let behind = there.iter().filter(|change| change.revision.main > compacted).count();
        // The last change, and the last of a transaction, are not missed by the next.
        if behind > 1 {
            let at = there.len() - behind + gone.index(behind - 1);
            let missed = there[at].revision;
            let next = there[at + 1].revision;
            there.remove(at);
            let bytes = database(&there, compacted, compacted);
            let found = check_history(&Db::open(bytes.as_slice()).unwrap());
            prop_assert!(found.is_err() || (missed.sub > 0 && next.main > missed.main));
        }
    }

    #[test]
    fn damage_never_panics(
        run_of in transactions(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..20),
    ) {
        let mut bytes = database(&run(&run_of), 3, 2);
        let pages = bytes.len() - 2048;
        for (at, byte) in edits {
            bytes[2048 + at.index(pages)] = byte;
        }
        for (_, target) in fuzzing::ALL {
            target(&bytes);
            target(&bytes[2048..]);
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for (_, target) in fuzzing::ALL {
            target(&bytes);
        }
    }
}

#[test]
fn a_bump_is_no_gap() {
    let changes = run(&[(1, 0), (3, 0), (1, 1)]);
    let mut writer = Writer::new(Cursor::new(Vec::new()), 4096).unwrap();
    writer.bucket(b"key").unwrap();
    let bytes = database(&changes, 0, 0);
    let db = Db::open(bytes.as_slice()).unwrap();
    for_each_record_at(&db, 4, |record| writer.put(record.raw.0, record.raw.1)).unwrap();
    let bump = Revision { main: 1000, sub: 0 };
    writer.put(&bump.to_key(false), b"").unwrap();
    writer.bucket(b"meta").unwrap();
    writer.put(b"scheduledCompactRev", &bump.to_key(false)).unwrap();
    let bytes = writer.finish().unwrap().0.into_inner();
    let db = Db::open(bytes.as_slice()).unwrap();
    assert_eq!(check_history(&db).unwrap().last, Some(bump));
    assert_eq!(compaction(&db).unwrap(), Compaction { scheduled: 1000, finished: 0 });
    let keys = KeySpace::at(&db, 1000).unwrap();
    assert_eq!(keys.live(b"").map(|entry| entry.key).collect::<Vec<_>>(), [b"k0/1"]);
    assert!(matches!(hash_kv(&db, 1000, 1000).unwrap(), HashKv::Hash(_)));
    assert!(leases(&db).unwrap().is_empty());
}

#[test]
fn records_that_contradict_themselves() {
    let good = run(&[(1, 0), (1, 0)]);
    let check = |changes: &[Change]| {
        let bytes = database(changes, 0, 0);
        check_history(&Db::open(bytes.as_slice()).unwrap())
    };
    assert_eq!(check(&good).unwrap().records, 2);
    for (created, version) in [(4, 2), (0, 2), (2, 0), (2, -1)] {
        let mut bad = good.clone();
        bad[1].put = Some((created, version, Vec::new(), 0));
        let error = check(&bad).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tampered);
        assert!(error.to_string().contains("revision 3.0"), "{error}");
    }
    let mut bad = good.clone();
    bad[1].key.clear();
    assert!(check(&bad).is_err());
    let bytes = database(&good, 0, 0);
    let leases = leases(&Db::open(bytes.as_slice()).unwrap()).unwrap();
    assert_eq!(leases, [Lease { id: 9, ttl: 60, remaining_ttl: 0 }]);
}
