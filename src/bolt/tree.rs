//! A tree of pages that grows from sorted records: leaves are written as they fill, branches after them.

use std::io::Write;

use super::db::MAX_EXTENT;
use super::page::{BRANCH, HEADER, IS_BUCKET, LEAF, MAX_KEY};
use crate::error::{Error, ErrorKind, Result};

/// Where finished pages go, in order of their ids.
pub(super) struct Sink<W> {
    pub(super) out: W,
    pub(super) page_size: usize,
    /// Id of the next page.
    pub(super) next: u64,
}

impl<W: Write> Sink<W> {
    /// Writes a page made of header and element table `head` and of `data`, whose id it gives back.
    fn page(&mut self, flags: u16, count: u16, head: &mut [u8], data: &[u8]) -> Result<u64> {
        let len = head.len().saturating_add(data.len());
        let extent = len.next_multiple_of(self.page_size);
        let pages = extent.checked_div(self.page_size).unwrap_or(1) as u64;
        let id = self.next;
        let overflow = u32::try_from(pages.saturating_sub(1)).unwrap_or(u32::MAX);
        let header = [&id.to_le_bytes()[..], &flags.to_le_bytes(), &count.to_le_bytes()].concat();
        let header = header.into_iter().chain(overflow.to_le_bytes());
        head.iter_mut().zip(header).for_each(|(to, from)| *to = from);
        let padding = vec![0; extent.saturating_sub(len)];
        for part in [head, data, &padding] {
            self.out.write_all(part).map_err(output)?;
        }
        self.next = id.saturating_add(pages);
        Ok(id)
    }
}

/// The error of an output whose name only the caller knows.
pub(super) fn output(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Io, format!("database: {error}")).because(error)
}

/// One child of a branch.
struct Child {
    key: Vec<u8>,
    page: u64,
}

/// A branch with a single child makes bbolt fail later (`node.rebalance`).
const MIN_CHILDREN: usize = 2;

/// How many of `children` fill a page, if there are more.
fn full(children: &[Child], page_size: usize) -> Option<usize> {
    let mut len = HEADER;
    children.iter().enumerate().position(|(at, child)| {
        len = len.saturating_add(HEADER).saturating_add(child.key.len());
        len > page_size && at >= MIN_CHILDREN
    })
}

fn write_branch<W: Write>(sink: &mut Sink<W>, children: Vec<Child>) -> Result<Child> {
    let table_len = children.len().saturating_mul(HEADER);
    let (mut head, mut data) = (vec![0; HEADER], Vec::new());
    for (at, child) in children.iter().enumerate() {
        let pos = table_len.saturating_sub(at.saturating_mul(HEADER)).saturating_add(data.len());
        head.extend(word(pos)?);
        head.extend(word(child.key.len())?);
        head.extend(child.page.to_le_bytes());
        data.extend_from_slice(&child.key);
    }
    // At most a page of them, or four long ones.
    let count = u16::try_from(children.len()).unwrap_or(u16::MAX);
    let page = sink.page(BRANCH, count, &mut head, &data)?;
    let key = children.into_iter().next().map(|first| first.key).unwrap_or_default();
    Ok(Child { key, page })
}

fn word(number: usize) -> Result<[u8; 4]> {
    u32::try_from(number)
        .map(u32::to_le_bytes)
        .map_err(|_| Error::usage(format!("{number} bytes are too many for a database page")))
}

/// A bucket's tree in the making. Memory: a leaf, and for each level what one branch and a child more name.
#[derive(Default)]
pub(super) struct Tree {
    /// Flags, key length and value length of each record of the leaf; keys and values are in `data`.
    table: Vec<(u32, usize, usize)>,
    data: Vec<u8>,
    first_key: Vec<u8>,
    last_key: Vec<u8>,
    /// Children whose branch is not written yet, level by level, that of the leaves first.
    levels: Vec<Vec<Child>>,
}

impl Tree {
    /// Adds a record, or a bucket's header.
    ///
    /// # Errors
    /// [`Usage`](ErrorKind::Usage) when the key is not greater than the one before or not of 1 to 32768
    /// bytes, or the record is longer than the reader takes (64 MiB); those of the output.
    pub(super) fn put<W: Write>(
        &mut self,
        sink: &mut Sink<W>,
        key: &[u8],
        value: &[u8],
        is_bucket: bool,
    ) -> Result<()> {
        if key.is_empty() || key.len() > MAX_KEY {
            return Err(Error::usage(format!(
                "a key of {} bytes: bolt takes 1 to {MAX_KEY}",
                key.len()
            )));
        }
        if key <= self.last_key.as_slice() {
            return Err(Error::usage("a record whose key is not greater than the one before"));
        }
        let added = HEADER.saturating_add(key.len()).saturating_add(value.len());
        let alone = added.saturating_add(HEADER).next_multiple_of(sink.page_size);
        if alone as u64 > MAX_EXTENT {
            return Err(Error::usage(format!(
                "a value of {} bytes: a page and its overflow may take {MAX_EXTENT}",
                value.len()
            )));
        }
        // The last overflow page of a long record may have room for more.
        let room = self.leaf_len().next_multiple_of(sink.page_size);
        if !self.table.is_empty() && self.leaf_len().saturating_add(added) > room {
            self.flush_leaf(sink)?;
        }
        if self.table.is_empty() {
            key.clone_into(&mut self.first_key);
        }
        // At most 4095 to a page of 64 KiB, so the count stays far from bolt's limit.
        self.table.push((if is_bucket { IS_BUCKET } else { 0 }, key.len(), value.len()));
        self.data.extend_from_slice(key);
        self.data.extend_from_slice(value);
        key.clone_into(&mut self.last_key);
        Ok(())
    }

    /// True before the first record.
    pub(super) fn is_empty(&self) -> bool {
        self.last_key.is_empty()
    }

    /// Writes what is left and gives the root's page id. The tree without a record is an empty leaf.
    pub(super) fn finish<W: Write>(mut self, sink: &mut Sink<W>) -> Result<u64> {
        if self.levels.is_empty() {
            return self.write_leaf(sink);
        }
        self.flush_leaf(sink)?;
        let mut at = 0;
        loop {
            let mut children = self.levels.get_mut(at).map(std::mem::take).unwrap_or_default();
            let above = at.saturating_add(1);
            // A page is written when two more children wait, so one page and one child may be left.
            if let Some(full) = full(&children, sink.page_size).filter(|full| *full > MIN_CHILDREN)
            {
                let rest = children.split_off(full.saturating_sub(1));
                let first = write_branch(sink, children)?;
                self.add_child(sink, above, first)?;
                children = rest;
            }
            let last = write_branch(sink, children)?;
            if above >= self.levels.len() {
                return Ok(last.page);
            }
            self.add_child(sink, above, last)?;
            at = above;
        }
    }

    fn leaf_len(&self) -> usize {
        HEADER.saturating_mul(self.table.len().saturating_add(1)).saturating_add(self.data.len())
    }

    fn flush_leaf<W: Write>(&mut self, sink: &mut Sink<W>) -> Result<()> {
        let page = self.write_leaf(sink)?;
        let key = std::mem::take(&mut self.first_key);
        self.add_child(sink, 0, Child { key, page })
    }

    fn write_leaf<W: Write>(&mut self, sink: &mut Sink<W>) -> Result<u64> {
        let mut head = vec![0; HEADER];
        let (mut left, mut before) = (self.table.len().saturating_mul(HEADER), 0_usize);
        for (flags, key, value) in &self.table {
            head.extend(flags.to_le_bytes());
            head.extend(word(left.saturating_add(before))?);
            head.extend(word(*key)?);
            head.extend(word(*value)?);
            left = left.saturating_sub(HEADER);
            before = before.saturating_add(*key).saturating_add(*value);
        }
        let count = u16::try_from(self.table.len()).unwrap_or(u16::MAX);
        let page = sink.page(LEAF, count, &mut head, &self.data)?;
        self.table.clear();
        self.data.clear();
        Ok(page)
    }

    fn add_child<W: Write>(
        &mut self,
        sink: &mut Sink<W>,
        level: usize,
        child: Child,
    ) -> Result<()> {
        let (mut at, mut child) = (level, child);
        loop {
            if at == self.levels.len() {
                self.levels.push(Vec::new());
            }
            let Some(children) = self.levels.get_mut(at) else {
                return Ok(());
            };
            children.push(child);
            let many = |full: &usize| children.len().saturating_sub(*full) >= MIN_CHILDREN;
            let Some(full) = full(children, sink.page_size).filter(many) else {
                return Ok(());
            };
            let rest = children.split_off(full);
            child = write_branch(sink, std::mem::replace(children, rest))?;
            at = at.saturating_add(1);
        }
    }
}
