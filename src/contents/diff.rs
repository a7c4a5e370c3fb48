//! What differs between two states of the keys.

use std::cmp::Ordering;
use std::iter;

use super::history::What;
use super::keys::{Contents, KeyState};
use crate::crypto;

/// Stands for a value, which may be long: its SHA-256.
pub type ValueDigest = [u8; 32];

/// The digest of `value`, for [`read`](super::read).
pub fn digest(value: &[u8]) -> ValueDigest {
    crypto::sha256(&[value])
}

/// A key whose value is not the same in both states.
#[derive(Clone, Copy, Debug)]
pub struct Difference<'a> {
    /// The key.
    pub key: &'a [u8],
    /// As it was in the first state.
    pub before: Option<&'a KeyState<ValueDigest>>,
    /// As it was in the second.
    pub after: Option<&'a KeyState<ValueDigest>>,
}

impl Difference<'_> {
    /// What happened from the first state to the second.
    pub fn what(&self) -> What {
        match (self.before, self.after) {
            (None, _) => What::Created,
            (_, None) => What::Deleted,
            _ => What::Changed,
        }
    }
}

/// The differences in order of their keys. Only values count: a key that was written anew with the same value, or has
/// another lease, is the same.
pub fn diff<'a>(
    before: &'a Contents<ValueDigest>,
    after: &'a Contents<ValueDigest>,
) -> impl Iterator<Item = Difference<'a>> {
    let (mut old, mut new) = (before.keys.iter().peekable(), after.keys.iter().peekable());
    iter::from_fn(move || {
        loop {
            let order = match (old.peek(), new.peek()) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((old, _)), Some((new, _))) => old.cmp(new),
            };
            let before = if order.is_le() { old.next() } else { None };
            let after = if order.is_ge() { new.next() } else { None };
            let key = before.or(after)?.0;
            let (before, after) = (before.map(|(_, state)| state), after.map(|(_, state)| state));
            let same = before.zip(after).is_some_and(|(before, after)| before.value == after.value);
            if !same {
                return Some(Difference { key, before, after });
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::mvcc::Revision;

    type Model = BTreeMap<Vec<u8>, u8>;

    fn contents(keys: &Model) -> Contents<ValueDigest> {
        let state = |value: u8| KeyState {
            modified: Revision::default(),
            create_revision: 0,
            version: 1,
            lease: 0,
            value_bytes: 1,
            value: digest(&[value]),
        };
        let keys = keys.iter().map(|(key, value)| (key.clone().into(), state(*value)));
        Contents { revision: 1, keys: keys.collect() }
    }

    fn model() -> impl Strategy<Value = Model> {
        prop::collection::btree_map(prop::collection::vec(0_u8..3, 1..4), 0_u8..3, 0..30)
    }

    proptest! {
        #[test]
        fn what_differs_turns_the_first_into_the_second(before in model(), after in model()) {
            let mut turned = before.clone();
            let (old, new) = (contents(&before), contents(&after));
            let mut last = Vec::new();
            for difference in diff(&old, &new) {
                prop_assert!(difference.key > last.as_slice());
                last = difference.key.to_vec();
                match (difference.what(), after.get(difference.key)) {
                    (What::Deleted, None) => prop_assert!(turned.remove(difference.key).is_some()),
                    (What::Created, Some(value)) => prop_assert_eq!(turned.insert(last.clone(), *value), None),
                    (What::Changed, Some(value)) => {
                        let old = turned.insert(last.clone(), *value);
                        prop_assert!(old.is_some_and(|old| old != *value));
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert_eq!(turned, after);
        }
    }
}
