//! Which of an object's seals, or ends, are read: anybody who can write to the repository can add others ([S5.12]).

use std::collections::BTreeMap;

use super::ObjectInfo;
use crate::error::Error;

/// The most seals of one object that are read, and their most bytes.
const MOST: usize = 1000;
const MOST_BYTES: u64 = 64 << 20;

/// The generations of `objects` to read, from the highest down, and whether those are all. Of too many the highest and the
/// lowest are read: whoever plants seals beside one that he cannot delete has only the numbers above it, and the few below.
pub(crate) fn generations(objects: &BTreeMap<u32, ObjectInfo>) -> (Vec<u32>, bool) {
    let bytes = objects.values().map(|info| info.len).fold(0, u64::saturating_add);
    if objects.len() <= MOST && bytes <= MOST_BYTES {
        return (objects.keys().rev().copied().collect(), true);
    }
    let mut read = half(objects.iter().rev());
    read.extend(half(objects.iter()));
    (read, false)
}

/// As many of `objects` as half the bounds allow.
fn half<'a>(objects: impl Iterator<Item = (&'a u32, &'a ObjectInfo)>) -> Vec<u32> {
    let mut bytes = 0u64;
    let fits = |(_, info): &(&u32, &ObjectInfo)| {
        bytes = bytes.saturating_add(info.len);
        bytes <= MOST_BYTES / 2
    };
    objects.take(MOST / 2).take_while(fits).map(|(generation, _)| *generation).collect()
}

/// The first generation above `highest` that is not taken; if there is none, the greatest below. A seal of the last
/// generation there is, which anybody can plant, does not stop re-sealing.
pub(crate) fn free_generation(highest: u32, is_taken: impl Fn(u32) -> bool) -> Option<u32> {
    let is_free = |number: &u32| !is_taken(*number);
    let above = (highest..u32::MAX).map(|below| below + 1).find(is_free);
    above.or_else(|| (1..highest).rev().find(is_free))
}

/// That `what` has more seals than are read.
pub(crate) fn too_many(what: &str) -> Error {
    let message = format!(
        "{what} has more than {MOST} seals, or more than {} MiB of them: whether it counts is unknown",
        MOST_BYTES >> 20
    );
    Error::tampered(message)
        .hint("remove those that do not belong to it: somebody else put them there")
}
