//! Buckets: a key's value, the last key.

use std::sync::Arc;

use super::cursor::Cursor;
use super::db::Db;
use super::page::{Kind, Page, Value, tampered};
use super::source::ReadAt;
use crate::error::{Error, Result};

/// A tree of 2^48 pages is less deep even with two children to a branch; a cycle ends here.
pub(super) const MAX_DEPTH: usize = 48;
pub(super) const BUCKET_HEADER: usize = 16;
const MAX_BUCKETS: usize = 1000;

/// A bucket: keys and their values, in byte order.
pub struct Bucket<'db, R> {
    pub(super) db: &'db Db<R>,
    pub(super) root: Root,
}

pub(super) enum Root {
    Page(u64),
    /// A small bucket, whose only page lies in its value.
    Inline(Arc<Page>),
}

impl<R: ReadAt> Db<R> {
    /// The bucket `name`, `None` if there is none.
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered) when a page on the way breaks a rule, and those of the source.
    pub fn bucket(&self, name: &[u8]) -> Result<Option<Bucket<'_, R>>> {
        self.root().lookup(name, |page, value| self.bucket_of(page, value))
    }

    /// All buckets with their names, in order.
    ///
    /// # Errors
    /// As [`bucket`](Self::bucket); [`Unsupported`](crate::ErrorKind::Unsupported) when there are over 1000,
    /// and etcd has a dozen.
    pub fn buckets(&self) -> Result<Vec<(Vec<u8>, Bucket<'_, R>)>> {
        let root = self.root();
        let mut cursor = root.cursor(&[])?;
        self.collect_buckets(&mut cursor)
    }

    /// The buckets that `cursor`, one over the root bucket, comes to.
    pub(super) fn collect_buckets<'db>(
        &'db self,
        cursor: &mut Cursor<'_, R>,
    ) -> Result<Vec<(Vec<u8>, Bucket<'db, R>)>> {
        let mut buckets = Vec::new();
        while let Some((page, name, value)) = cursor.next_value()? {
            if buckets.len() == MAX_BUCKETS {
                return Err(Error::unsupported(format!(
                    "database: it has over {MAX_BUCKETS} buckets"
                )));
            }
            buckets.push((name.to_vec(), self.bucket_of(page, value)?));
        }
        Ok(buckets)
    }

    pub(super) fn root(&self) -> Bucket<'_, R> {
        Bucket { db: self, root: Root::Page(self.meta().root) }
    }

    fn bucket_of(&self, page: u64, value: Value<'_>) -> Result<Bucket<'_, R>> {
        match value {
            Value::Bucket(bytes) => Ok(Bucket { db: self, root: self.bucket_root(page, bytes)? }),
            Value::Bytes(_) => Err(tampered(page, "a value among the buckets")),
        }
    }

    /// The root that a bucket's value names or holds; the value lies in `page`.
    fn bucket_root(&self, page: u64, bytes: &[u8]) -> Result<Root> {
        let (Some(root), Some(inline)) = (bytes.first_chunk(), bytes.get(BUCKET_HEADER..)) else {
            return Err(tampered(page, "a bucket of less than 16 bytes"));
        };
        let root = u64::from_le_bytes(*root);
        if root != 0 {
            self.check_id(root)?;
            return Ok(Root::Page(root));
        }
        // Bolt moves a bucket of over a quarter page to pages of its own.
        if inline.len() > self.meta().page_size as usize {
            return Err(tampered(page, "an inline bucket larger than a page"));
        }
        let inline = Page::parse(page, inline.to_vec())?;
        let nested = (0..inline.len()).any(|at| matches!(inline.value(at), Some(Value::Bucket(_))));
        if inline.kind == Kind::Branch || nested {
            return Err(tampered(page, "an inline bucket holds more than values"));
        }
        Ok(Root::Inline(Arc::new(inline)))
    }
}

impl<R: ReadAt> Bucket<'_, R> {
    /// The value of `key`, `None` if the bucket has no such key.
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered) when a page on the way breaks a rule, and those of the source.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.lookup(key, |page, value| bytes_of(page, value).map(<[u8]>::to_vec))
    }

    /// The greatest key and its value, `None` if the bucket is empty.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    pub fn last(&self) -> Result<Option<(Vec<u8>, Vec<u8>)>> {
        self.leaf(
            |page| page.len().saturating_sub(1),
            |leaf| {
                let Some(at) = leaf.len().checked_sub(1) else {
                    return Ok(None);
                };
                let value = leaf.value(at).map(|value| bytes_of(leaf.id(), value)).transpose()?;
                Ok(value.map(|value| (leaf.key(at).to_vec(), value.to_vec())))
            },
        )
    }

    /// What `take` makes of the value of `key` and the id of the page it is in.
    fn lookup<T>(
        &self,
        key: &[u8],
        take: impl Fn(u64, Value<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        self.leaf(
            |branch| branch.find_child(key),
            |leaf| {
                leaf.find(key)
                    .and_then(|at| leaf.value(at))
                    .map(|value| take(leaf.id(), value))
                    .transpose()
            },
        )
    }

    /// Goes down to a leaf, at each branch to the child that `choose` picks, and gives it to `take`.
    fn leaf<T>(
        &self,
        choose: impl Fn(&Page) -> usize,
        take: impl Fn(&Page) -> Result<T>,
    ) -> Result<T> {
        let mut id = match &self.root {
            Root::Inline(page) => return take(page),
            Root::Page(id) => *id,
        };
        let (mut low, mut high): (Option<Vec<u8>>, Option<Vec<u8>>) = (None, None);
        for depth in 0..MAX_DEPTH {
            let page = self.db.page(id)?;
            page.check_bounds(low.as_deref(), high.as_deref())?;
            if page.kind == Kind::Leaf {
                if page.len() == 0 && depth > 0 {
                    return Err(tampered(id, "an empty leaf below a branch"));
                }
                return take(&page);
            }
            let at = choose(&page);
            low = Some(page.key(at).to_vec());
            let next = at.saturating_add(1);
            if next < page.len() {
                high = Some(page.key(next).to_vec());
            }
            id = page.child(at).ok_or_else(|| tampered(page.id(), "a branch without children"))?;
        }
        Err(Error::tampered(format!("database page {id}: too deep: the pages form a cycle")))
    }
}

pub(super) fn bytes_of<'a>(page: u64, value: Value<'a>) -> Result<&'a [u8]> {
    match value {
        Value::Bytes(bytes) => Ok(bytes),
        Value::Bucket(_) => Err(tampered(page, "a bucket where a value must be")),
    }
}
