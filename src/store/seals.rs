//! Which of an object's seals, or ends, are read: anybody who can write to the repository can add others ([S5.12]).

use std::collections::BTreeMap;

use super::ObjectInfo;
use crate::error::Error;
use crate::format::MAX_SEAL;

/// The most seals of one object that are read, and their most bytes.
pub(crate) const MOST: usize = 1000;
const MOST_BYTES: u64 = 64 << 20;
/// The numbers from the first up, and from the last down, that are within half of the bounds whatever their lengths.
const ENDS: u32 = 20;
const _: () = assert!(ENDS as u64 * MAX_SEAL as u64 <= MOST_BYTES / 2);

/// The generations of `objects` to read, from the highest down, and whether those are all. Of too many the highest and the
/// lowest are read: whoever plants seals beside one that he cannot delete has only the numbers above it, and the few below.
pub(crate) fn generations(objects: &BTreeMap<u32, ObjectInfo>) -> (Vec<u32>, bool) {
    let bytes = objects.values().map(read_length).fold(0, u64::saturating_add);
    if objects.len() <= MOST && bytes <= MOST_BYTES {
        return (objects.keys().rev().copied().collect(), true);
    }
    let mut read = half(objects.iter().rev());
    read.extend(half(objects.iter()));
    (read, false)
}

/// The numbers of at most `most` of `objects`, in order: half of them the lowest, half the highest. Whatever else is there,
/// those that [`next_generation`] gives are among them, if `most` is twice [`ENDS`] or more.
pub(crate) fn lowest_and_highest(objects: &BTreeMap<u32, ObjectInfo>, most: usize) -> Vec<u32> {
    let highest = objects.len().saturating_sub(most / 2);
    let is_read = |(at, _): &(usize, &u32)| *at < most / 2 || *at >= highest;
    objects.keys().enumerate().filter(is_read).map(|(_, number)| *number).collect()
}

/// How much of an object is read as a seal at most: a longer one is none, and its length pushes no other out.
fn read_length(info: &ObjectInfo) -> u64 {
    info.len.min(MAX_SEAL as u64)
}

/// As many of `objects` as half the bounds allow.
fn half<'a>(objects: impl Iterator<Item = (&'a u32, &'a ObjectInfo)>) -> Vec<u32> {
    let mut bytes = 0u64;
    let fits = |(_, info): &(&u32, &ObjectInfo)| {
        bytes = bytes.saturating_add(read_length(info));
        bytes <= MOST_BYTES / 2
    };
    objects.take(MOST / 2).take_while(fits).map(|(generation, _)| *generation).collect()
}

/// The number of a new object: the first above `highest` that is free, if it is one of the first or last [`ENDS`], which
/// [`generations`] reads whatever else is there; otherwise the greatest of those that is free.
pub(crate) fn next_generation(highest: u32, is_taken: impl Fn(u32) -> bool) -> Option<u32> {
    let is_free = |number: &u32| !is_taken(*number);
    let above = (highest..u32::MAX).map(|below| below + 1).find(is_free);
    above
        .filter(|number| is_always_read(*number))
        .or_else(|| LAST.rev().find(is_free))
        .or_else(|| (1..=ENDS).rev().find(is_free))
}

/// The last [`ENDS`] numbers.
const LAST: std::ops::RangeInclusive<u32> = u32::MAX - ENDS + 1..=u32::MAX;

/// Whether an object of this number is read whatever else is there: one of another number can be buried among planted ones.
pub(crate) fn is_always_read(number: u32) -> bool {
    number <= ENDS || LAST.contains(&number)
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn objects(numbers: &[u32], len: u64) -> BTreeMap<u32, ObjectInfo> {
        let info = |number| {
            let name = format!("seal.{number}");
            (number, ObjectInfo { name, len, modified: SystemTime::UNIX_EPOCH })
        };
        numbers.iter().copied().map(info).collect()
    }

    #[test]
    fn a_new_seal_is_always_among_those_that_are_read() {
        let next = |highest, taken: &[u32]| next_generation(highest, |n| taken.contains(&n));
        assert_eq!(next(1, &[1, 2, u32::MAX]), Some(3));
        assert_eq!(next(u32::MAX, &[1, u32::MAX]), Some(u32::MAX - 1));
        let mut planted: Vec<u32> = (1..=601).collect();
        let number = next(1, &planted).unwrap();
        assert_eq!(number, u32::MAX);
        assert_eq!(next(1, &(1..=20).chain(u32::MAX - 19..=u32::MAX).collect::<Vec<_>>()), None);
        planted.extend(10_000..11_000);
        planted.push(number);
        // Neither their number nor their lengths hide it.
        for len in [1, 1 << 30] {
            assert!(generations(&objects(&planted, len)).0.contains(&number));
            assert!(generations(&objects(&planted, len)).0.contains(&ENDS));
            let few = lowest_and_highest(&objects(&planted, len), 64);
            assert!(few.len() == 64 && few.is_sorted());
            assert!(few.contains(&number) && few.contains(&ENDS));
        }
    }
}
