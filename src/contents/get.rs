//! One key at a revision.

use super::keys::KeyState;
use crate::error::{Error, ErrorKind, Result};
use crate::mvcc::RecordSource;
use crate::text::printable;

/// How many revisions are looked through first, second and so on: records are in order of their revisions, not of
/// their keys. Each step may fetch the same frames again, so there are few.
const WINDOWS: [i64; 3] = [16, 256, i64::MAX];

/// The state of `key` at the main revision `at`, the last one if `None`;
/// [`value`](RecordSource::value) of its [`modified`](KeyState::modified) reads the value.
///
/// Looks backwards from the revision, so that a key is the cheaper the later it was changed.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) when there was no such key, with the revision to ask for if it was deleted, and
/// when the revision is compacted or was never reached; [`Tampered`](ErrorKind::Tampered) when the database breaks a
/// rule of bolt's or etcd's; those of the source.
pub fn get<S: RecordSource + ?Sized>(source: &S, key: &[u8], at: Option<i64>) -> Result<KeyState> {
    let span = source.span()?;
    let at = at.unwrap_or(span.last);
    span.check(at)?;
    let named = || format!("key {}", printable(key));
    let Some(state) = latest(source, key, at)? else {
        return Err(Error::new(
            ErrorKind::NotFound,
            format!("{}: not there at revision {at}", named()),
        )
        .hint("ls lists the keys of a snapshot; history shows when a key came and went"));
    };
    if !state.deleted() {
        return Ok(state);
    }
    let deleted = state.modified.main;
    let message = format!("{}: deleted at revision {deleted}", named());
    let before = deleted.saturating_sub(1);
    Err(Error::new(ErrorKind::NotFound, message).hint(if before >= span.compacted {
        format!("--revision {before} has its last value")
    } else {
        "its last value was compacted: an older snapshot may have it".to_owned()
    }))
}

/// The latest change of `key` up to main revision `at`.
fn latest<S: RecordSource + ?Sized>(source: &S, key: &[u8], at: i64) -> Result<Option<KeyState>> {
    if key.is_empty() {
        // A key in etcd cannot be empty, and the record that --bump-revision adds has one.
        return Ok(None);
    }
    let (mut end, base) = (at, source.span()?.base);
    // What was recorded is read from its beginning, however little of it is wanted.
    let recorded = at.saturating_sub(base);
    for width in (recorded > 0).then_some(recorded).into_iter().chain(WINDOWS) {
        let start = end.saturating_sub(width).saturating_add(1).max(0);
        let mut found: Option<KeyState> = None;
        source.scan(start..=end, &mut |record| {
            let later = found.is_none_or(|found| found.modified < record.revision);
            if record.kv.key == key && later {
                found = Some(KeyState::of(&record, ()));
            }
            Ok(())
        })?;
        if found.is_some() || start == 0 {
            return Ok(found);
        }
        end = start.saturating_sub(1);
    }
    Ok(None)
}
