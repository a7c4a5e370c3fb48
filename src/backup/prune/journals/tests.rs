//! Which journals and snapshots a window keeps.

use super::*;

const HOUR: u64 = 3_600_000;
/// Midnight.
const START: u64 = 20_000 * 24 * HOUR;

fn id(hours: u64) -> SnapshotId {
    SnapshotId::new(START + hours * HOUR, [3; 10])
}

/// A journal of an hour, in which ten revisions are made; it repeats the last one of the hour before.
fn journal(hour: u64) -> Counting {
    let ends_ms = START + (hour + 1) * HOUR;
    let first = 10 * hour as i64 + 1;
    let (last, id) = (first + 10, id(hour));
    Counting { id, first, last, ends_ms, complete_ms: ends_ms, is_last: false }
}

fn snapshot(hour: u64) -> (SnapshotId, i64) {
    (SnapshotId::new(START + hour * HOUR + 1, [4; 10]), 10 * hour as i64 + 1)
}

fn hours(ids: &BTreeSet<SnapshotId>) -> Vec<u64> {
    ids.iter().map(|id| (id.unix_ms() - START) / HOUR).collect()
}

#[test]
fn a_window_keeps_what_restores_within_it() {
    let journals: Vec<_> = (0..100).map(journal).collect();
    let snapshots: Vec<_> = (0..100).step_by(6).map(snapshot).collect();
    let decided = decide(&journals, &snapshots, START + 40 * HOUR);
    // The one before, and of each day the newest.
    assert_eq!(hours(&decided.bases), [36, 42, 66, 90, 96]);
    assert_eq!(hours(&decided.remove), (0..36).collect::<Vec<_>>());
    assert!(decided.baseless.is_empty());
    // Without a snapshot before the window: what the first one is followed by.
    let decided = decide(&journals, &snapshots[8..], START + 40 * HOUR);
    assert_eq!(hours(&decided.bases), [48, 66, 90, 96]);
    assert_eq!(hours(&decided.remove), (0..39).collect::<Vec<_>>());
    let decided = decide(&journals, &[], START + 40 * HOUR);
    assert_eq!(decided.baseless, [(id(0), id(99))]);
    assert_eq!(hours(&decided.remove), (0..39).collect::<Vec<_>>());
}

#[test]
fn each_stretch_has_its_base() {
    let mut journals: Vec<_> = (0..100).map(journal).collect();
    // Not recorded; another history.
    journals.retain(|journal| !(50..55).contains(&((journal.id.unix_ms() - START) / HOUR)));
    journals[60].is_last = true;
    let snapshots: Vec<_> = (0..100).step_by(3).map(snapshot).collect();
    let decided = decide(&journals, &snapshots, START + 40 * HOUR);
    // Of each stretch the first one, but for that which the window begins in: 57 and 66 here.
    assert_eq!(hours(&decided.bases), [39, 45, 48, 57, 63, 66, 69, 93, 99]);
    let decided = decide(&journals, &snapshots, START + 60 * HOUR);
    assert_eq!(hours(&decided.bases), [57, 63, 66, 69, 93, 99]);
    let gone: Vec<_> = (0..57).filter(|hour| !(50..55).contains(hour)).collect();
    assert_eq!(hours(&decided.remove), gone);
}
