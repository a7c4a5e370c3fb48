//! One page: its header and elements, checked when parsed.

use std::ops::Range;

use crate::error::{Error, Result};

/// Length of a page's header and of an element of either kind.
pub(super) const HEADER: usize = 16;
pub(super) const BRANCH: u16 = 1;
pub(super) const LEAF: u16 = 2;
pub(super) const META: u16 = 4;
pub(super) const FREELIST: u16 = 0x10;
pub(super) const IS_BUCKET: u32 = 1;
/// Bolt's `MaxKeySize`.
pub(super) const MAX_KEY: usize = 32 * 1024;

/// A page's header.
pub(super) struct Header {
    pub(super) id: u64,
    pub(super) flags: u16,
    pub(super) count: u16,
    pub(super) overflow: u32,
}

impl Header {
    pub(super) fn parse(bytes: &[u8; HEADER]) -> Self {
        let [a, b, c, d, e, f, g, h, flags @ .., c0, c1, o0, o1, o2, o3] = *bytes;
        Self {
            id: u64::from_le_bytes([a, b, c, d, e, f, g, h]),
            flags: u16::from_le_bytes(flags),
            count: u16::from_le_bytes([c0, c1]),
            overflow: u32::from_le_bytes([o0, o1, o2, o3]),
        }
    }
}

/// What a page's elements point to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To further pages.
    Branch,
    /// To values.
    Leaf,
}

struct Element {
    key: Range<usize>,
    /// Leaf: where the value is.
    value: Range<usize>,
    /// Branch: the child's page id.
    child: u64,
    is_bucket: bool,
}

/// A value in a leaf.
pub(super) enum Value<'a> {
    Bytes(&'a [u8]),
    Bucket(&'a [u8]),
}

/// A branch or leaf whose every element lies inside it behind the one before, and whose keys ascend.
pub(super) struct Page {
    id: u64,
    pub(super) kind: Kind,
    bytes: Vec<u8>,
    elements: Vec<Element>,
}

impl Page {
    /// Parses a page of `bytes`, overflow pages included. `id` names it in errors.
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered) naming page and rule.
    pub(super) fn parse(id: u64, bytes: Vec<u8>) -> Result<Self> {
        let header =
            bytes.first_chunk().ok_or_else(|| tampered(id, "it is shorter than a page header"))?;
        let header = Header::parse(header);
        let kind = match header.flags {
            BRANCH => Kind::Branch,
            LEAF => Kind::Leaf,
            flags => {
                return Err(tampered(
                    id,
                    &format!("flags {flags:#x} where a branch or leaf must be"),
                ));
            }
        };
        if kind == Kind::Branch && header.count == 0 {
            return Err(tampered(id, "a branch without children"));
        }
        let count = usize::from(header.count);
        if count.saturating_add(1).saturating_mul(HEADER) > bytes.len() {
            return Err(tampered(
                id,
                &format!("{count} elements do not fit in {} bytes", bytes.len()),
            ));
        }
        let mut page = Self { id, kind, elements: Vec::with_capacity(count), bytes };
        // As bolt writes them (bbolt `node.write`): one behind the other. So a page yields no byte twice.
        let mut free = 0;
        for at in 0..count {
            let element = page.element(at, count)?;
            if element.key.start < free {
                return Err(tampered(id, &format!("element {at} of {count} overlaps another")));
            }
            free = element.value.end;
            page.elements.push(element);
        }
        page.check_order()?;
        Ok(page)
    }

    fn element(&self, at: usize, count: usize) -> Result<Element> {
        let wrong = |what: &str| tampered(self.id, &format!("element {at} of {count}: {what}"));
        let start = at.saturating_add(1).saturating_mul(HEADER);
        let raw = self.bytes.get(start..).and_then(|bytes| bytes.first_chunk::<HEADER>());
        let [a, b, c, d] = words(raw.ok_or_else(|| wrong("it is cut off"))?);
        let (pos, ksize, vsize, child, flags) = match self.kind {
            Kind::Branch => (a, b, 0, u64::from(c) | u64::from(d) << 32, 0),
            Kind::Leaf => (b, c, d, 0, a),
        };
        if flags & !IS_BUCKET != 0 {
            return Err(wrong(&format!("unknown flags {flags:#x}")));
        }
        if ksize == 0 || ksize as usize > MAX_KEY {
            return Err(wrong(&format!("a key of {ksize} bytes")));
        }
        let table_end = count.saturating_add(1).saturating_mul(HEADER) as u64;
        let key = (start as u64).saturating_add(u64::from(pos));
        let value = key.saturating_add(u64::from(ksize));
        let end = value.saturating_add(u64::from(vsize));
        if key < table_end {
            return Err(wrong("its key lies in the element table"));
        }
        let (Ok(key), Ok(value), Ok(end)) =
            (usize::try_from(key), usize::try_from(value), usize::try_from(end))
        else {
            return Err(wrong("it lies outside its page"));
        };
        if end > self.bytes.len() {
            return Err(wrong("it lies outside its page"));
        }
        Ok(Element { key: key..value, value: value..end, child, is_bucket: flags == IS_BUCKET })
    }

    fn check_order(&self) -> Result<()> {
        let keys = (0..self.len()).map(|at| self.key(at));
        if keys.clone().zip(keys.skip(1)).any(|(one, next)| one >= next) {
            return Err(tampered(self.id, "its keys are not in order"));
        }
        Ok(())
    }

    /// Checks that every key is within `[low, high)`, the parent's bounds.
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered).
    pub(super) fn check_bounds(&self, low: Option<&[u8]>, high: Option<&[u8]>) -> Result<()> {
        // Keys ascend, so the outer two stand for all.
        let Some(last) = self.len().checked_sub(1) else {
            return Ok(());
        };
        if low.is_some_and(|low| self.key(0) < low)
            || high.is_some_and(|high| self.key(last) >= high)
        {
            return Err(tampered(self.id, "its keys are outside those of its parent"));
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.elements.len()
    }

    /// The key of element `at`; empty past the end.
    pub(super) fn key(&self, at: usize) -> &[u8] {
        self.elements
            .get(at)
            .and_then(|element| self.bytes.get(element.key.clone()))
            .unwrap_or_default()
    }

    /// The value of element `at` of a leaf.
    pub(super) fn value(&self, at: usize) -> Option<Value<'_>> {
        let element = self.elements.get(at)?;
        let bytes = self.bytes.get(element.value.clone())?;
        Some(if element.is_bucket { Value::Bucket(bytes) } else { Value::Bytes(bytes) })
    }

    /// The page id that element `at` of a branch points to.
    pub(super) fn child(&self, at: usize) -> Option<u64> {
        self.elements.get(at).map(|element| element.child)
    }

    /// The element with exactly `key`.
    pub(super) fn find(&self, key: &[u8]) -> Option<usize> {
        self.elements
            .binary_search_by(|element| {
                self.bytes.get(element.key.clone()).unwrap_or_default().cmp(key)
            })
            .ok()
    }

    /// The first element whose key is not less than `key`.
    pub(super) fn find_from(&self, key: &[u8]) -> usize {
        self.elements.partition_point(|element| {
            self.bytes.get(element.key.clone()).unwrap_or_default() < key
        })
    }

    /// Length in bytes, overflow pages included.
    pub(super) fn extent(&self) -> usize {
        self.bytes.len()
    }

    /// The child of a branch under which `key` is: the last whose key is not greater, else the first.
    pub(super) fn find_child(&self, key: &[u8]) -> usize {
        self.elements
            .partition_point(|element| {
                self.bytes.get(element.key.clone()).unwrap_or_default() <= key
            })
            .saturating_sub(1)
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

fn words(bytes: &[u8; HEADER]) -> [u32; 4] {
    let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *bytes;
    [[a, b, c, d], [e, f, g, h], [i, j, k, l], [m, n, o, p]].map(u32::from_le_bytes)
}

/// An error that names the page and the rule it breaks.
pub(super) fn tampered(page: u64, rule: &str) -> Error {
    Error::tampered(format!("database page {page}: {rule}"))
}
