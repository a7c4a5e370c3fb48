//! A bucket's records in order, one page of each level in memory.

use std::ops::ControlFlow;
use std::sync::Arc;

use super::bucket::{Bucket, MAX_DEPTH, Root, bytes_of};
use super::db::Db;
use super::page::{Kind, Page, Value, tampered};
use super::source::ReadAt;
use crate::error::Result;

/// The pages a walk has read. A page belongs to one place of one tree, so the second visit ends the walk:
/// no circle, shared page or overlap makes it read more than the file.
pub(super) struct Visited {
    bits: Vec<u64>,
    count: u64,
}

impl Visited {
    /// None yet; `pages` is checked against the file's length, which so bounds the memory (1/32768 of it).
    pub(super) fn new(pages: u64) -> Self {
        let words = usize::try_from(pages.div_ceil(64)).unwrap_or(usize::MAX);
        Self { bits: vec![0; words], count: 0 }
    }

    /// Marks `pages` pages from `first`, the extent of page `first`.
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered) when one is marked already.
    pub(super) fn mark(&mut self, first: u64, pages: u64) -> Result<()> {
        for page in first..first.saturating_add(pages) {
            let mask = 1_u64 << (page % 64);
            let word = usize::try_from(page / 64).ok().and_then(|at| self.bits.get_mut(at));
            match word {
                Some(word) if *word & mask == 0 => *word |= mask,
                _ => {
                    return Err(tampered(
                        first,
                        &format!("it covers page {page}, which has its place elsewhere"),
                    ));
                }
            }
        }
        self.count = self.count.saturating_add(pages);
        Ok(())
    }

    pub(super) fn contains(&self, page: u64) -> bool {
        let word = usize::try_from(page / 64).ok().and_then(|at| self.bits.get(at));
        word.is_some_and(|word| word & (1 << (page % 64)) != 0)
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }
}

struct Step {
    page: Arc<Page>,
    at: usize,
}

/// A place in a bucket that moves forward, record by record. Every page is checked when it is come to.
pub struct Cursor<'db, R> {
    db: &'db Db<R>,
    /// From the root to a leaf; empty behind the last record.
    path: Vec<Step>,
    visited: Visited,
    /// The record under the cursor was not given out yet.
    fresh: bool,
}

impl<R: ReadAt> Bucket<'_, R> {
    /// A cursor before the first record whose key is not less than `start` (empty: before the first of all).
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered) when a page on the way breaks a rule, and those of the source.
    pub fn cursor(&self, start: &[u8]) -> Result<Cursor<'_, R>> {
        self.cursor_with(start, Visited::new(self.db.meta().high_water))
    }

    pub(super) fn cursor_with(&self, start: &[u8], visited: Visited) -> Result<Cursor<'_, R>> {
        let mut cursor = Cursor { db: self.db, path: Vec::new(), visited, fresh: true };
        match &self.root {
            Root::Inline(page) => {
                cursor.path.push(Step { page: Arc::clone(page), at: page.find_from(start) });
            }
            Root::Page(id) => {
                let seek = |page: &Page| match page.kind {
                    Kind::Branch => page.find_child(start),
                    Kind::Leaf => page.find_from(start),
                };
                cursor.descend(*id, seek)?;
            }
        }
        Ok(cursor)
    }

    /// Gives each record from `start` on to `visit`, in order, until it breaks.
    ///
    /// # Errors
    /// As [`cursor`](Self::cursor), and those of `visit`.
    pub fn for_each(
        &self,
        start: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<ControlFlow<()>>,
    ) -> Result<()> {
        let mut cursor = self.cursor(start)?;
        while let Some((key, value)) = cursor.next_record()? {
            if visit(key, value)?.is_break() {
                break;
            }
        }
        Ok(())
    }
}

impl<R: ReadAt> Cursor<'_, R> {
    /// The next record: key and value, `None` behind the last.
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered) when a page on the way breaks a rule, and those of the source.
    pub fn next_record(&mut self) -> Result<Option<(&[u8], &[u8])>> {
        match self.next_value()? {
            None => Ok(None),
            Some((page, key, value)) => Ok(Some((key, bytes_of(page, value)?))),
        }
    }

    /// The next key and value, and the page they are in.
    pub(super) fn next_value(&mut self) -> Result<Option<(u64, &[u8], Value<'_>)>> {
        if !self.fresh
            && let Some(leaf) = self.path.last_mut()
        {
            leaf.at = leaf.at.saturating_add(1);
        }
        self.fresh = false;
        if self.path.last().is_some_and(|leaf| leaf.at >= leaf.page.len()) {
            self.next_leaf()?;
        }
        Ok(self.path.last().and_then(|leaf| {
            let value = leaf.page.value(leaf.at)?;
            Some((leaf.page.id(), leaf.page.key(leaf.at), value))
        }))
    }

    pub(super) fn into_visited(self) -> Visited {
        self.visited
    }

    /// Goes to the first record of the next leaf, or off the path behind the last.
    fn next_leaf(&mut self) -> Result<()> {
        self.path.pop();
        while let Some(branch) = self.path.last_mut() {
            branch.at = branch.at.saturating_add(1);
            if let Some(child) = branch.page.child(branch.at) {
                return self.descend(child, |_| 0);
            }
            self.path.pop();
        }
        Ok(())
    }

    /// Goes from page `id` down to a leaf, to the element that `seek` picks in each page.
    fn descend(&mut self, mut id: u64, seek: impl Fn(&Page) -> usize) -> Result<()> {
        while self.path.len() < MAX_DEPTH {
            let page = self.db.page(id)?;
            let size = u64::from(self.db.meta().page_size);
            self.visited.mark(id, page.extent() as u64 / size)?;
            page.check_bounds(self.low(), self.high())?;
            let at = seek(&page);
            let child = page.child(at).filter(|_| page.kind == Kind::Branch);
            if page.len() == 0 && !self.path.is_empty() {
                return Err(tampered(id, "an empty leaf below a branch"));
            }
            self.path.push(Step { page: Arc::new(page), at });
            match child {
                Some(child) => id = child,
                None => return Ok(()),
            }
        }
        Err(tampered(id, "the tree is too deep"))
    }

    /// The least key that the child under the cursor may hold.
    fn low(&self) -> Option<&[u8]> {
        self.path.last().map(|branch| branch.page.key(branch.at))
    }

    /// The key that all of the child under the cursor must be below.
    fn high(&self) -> Option<&[u8]> {
        self.path.iter().rev().find_map(|branch| {
            let next = branch.at.saturating_add(1);
            (next < branch.page.len()).then(|| branch.page.key(next))
        })
    }
}
