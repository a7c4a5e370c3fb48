//! Which keys are encrypted, and which clients may not use.

use std::borrow::Cow;

use crate::mvcc::{NO_END, prefix_end};

/// Says which etcd keys hold encrypted values: those under a prefix that is included and none that is excluded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    include: Vec<Vec<u8>>,
    exclude: Vec<Vec<u8>>,
}

impl Default for Scope {
    /// All keys.
    fn default() -> Self {
        Self { include: vec![Vec::new()], exclude: Vec::new() }
    }
}

impl Scope {
    /// The keys under a prefix of `include` and under none of `exclude`. No `include` means all keys.
    #[must_use]
    pub fn new(include: Vec<Vec<u8>>, exclude: Vec<Vec<u8>>) -> Self {
        let include = if include.is_empty() { vec![Vec::new()] } else { include };
        Self { include, exclude }
    }

    /// Whether the value of `key` is encrypted.
    #[must_use]
    pub fn encrypts(&self, key: &[u8]) -> bool {
        let under = |prefixes: &[Vec<u8>]| prefixes.iter().any(|prefix| key.starts_with(prefix));
        under(&self.include) && !under(&self.exclude)
    }
}

/// A range of keys, as etcd's requests name it: `end` empty for the one key, a zero byte for no end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Span<'a> {
    pub(super) key: Cow<'a, [u8]>,
    pub(super) end: Cow<'a, [u8]>,
}

/// What of a span lies outside the reserved prefix, in order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outside<'a> {
    /// All of it.
    All,
    /// One part.
    One(Span<'a>),
    /// What comes before and what comes after.
    Two(Span<'a>, Span<'a>),
    /// Nothing.
    Nothing,
}

/// The prefix that strongroom keeps for itself.
#[derive(Clone, Debug)]
pub(in crate::values) struct Reserved {
    start: Vec<u8>,
    /// The first key after all that begin with it; a zero byte when there is none.
    end: Vec<u8>,
}

impl Reserved {
    pub(in crate::values) fn new(prefix: &[u8]) -> Self {
        Self { start: prefix.to_vec(), end: prefix_end(prefix) }
    }

    pub(super) fn prefix(&self) -> &[u8] {
        &self.start
    }

    pub(in crate::values) fn holds(&self, key: &[u8]) -> bool {
        key.starts_with(&self.start)
    }

    /// What of `span` clients may see.
    pub(super) fn outside<'a>(&'a self, span: &Span<'a>) -> Outside<'a> {
        let (key, end) = (&span.key, &span.end);
        if end.is_empty() {
            return if self.holds(key) { Outside::Nothing } else { Outside::All };
        }
        let endless = &**end == NO_END;
        if !endless && **end <= *self.start || *self.end != *NO_END && **key >= *self.end {
            return Outside::All;
        }
        let before = (**key < *self.start)
            .then(|| Span { key: key.clone(), end: Cow::Borrowed(&*self.start) });
        let goes_beyond = *self.end != *NO_END && (endless || **end > *self.end);
        let after = goes_beyond.then(|| Span { key: Cow::Borrowed(&*self.end), end: end.clone() });
        match (before, after) {
            (Some(before), Some(after)) => Outside::Two(before, after),
            (Some(part), None) | (None, Some(part)) => Outside::One(part),
            (None, None) => Outside::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span<'a>(key: &'a [u8], end: &'a [u8]) -> Span<'a> {
        Span { key: key.into(), end: end.into() }
    }

    fn within(span: &Span<'_>, key: &[u8]) -> bool {
        match &*span.end {
            b"" => *span.key == *key,
            b"\0" => *key >= *span.key,
            end => *key >= *span.key && key < end,
        }
    }

    #[test]
    fn include_and_exclude() {
        let scope = Scope::new(vec![b"/a/".to_vec()], vec![b"/a/x/".to_vec()]);
        assert!(scope.encrypts(b"/a/b") && !scope.encrypts(b"/b") && !scope.encrypts(b"/a/x/y"));
        assert!(Scope::default().encrypts(b"") && Scope::new(vec![], vec![]).encrypts(b"k"));
    }

    proptest! {
        #[test]
        fn the_outside_is_what_is_not_reserved(
            prefix in "[ab\u{7f}]{1,2}",
            high in any::<bool>(),
            key in "[ab]{1,3}",
            end in prop_oneof![Just(String::new()), Just("\0".to_owned()), "[abc]{1,3}"],
            probes in prop::collection::vec("[abc]{1,4}", 30),
        ) {
            let prefix = if high { vec![0xff; prefix.len()] } else { prefix.into_bytes() };
            let reserved = Reserved::new(&prefix);
            let asked = span(key.as_bytes(), end.as_bytes());
            let parts = match reserved.outside(&asked) {
                Outside::All => vec![asked.clone()],
                Outside::One(part) => vec![part],
                Outside::Two(before, after) => vec![before, after],
                Outside::Nothing => vec![],
            };
            for probe in probes.iter().map(String::as_bytes).chain([&prefix[..]]) {
                let expected = within(&asked, probe) && !probe.starts_with(&prefix);
                let times = parts.iter().filter(|part| within(part, probe)).count();
                prop_assert_eq!(times, usize::from(expected), "{:?}", probe);
            }
        }
    }
}
