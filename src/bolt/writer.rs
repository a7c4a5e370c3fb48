//! Writes a database in one pass.

use std::collections::BTreeMap;
use std::io::{Seek, SeekFrom, Write};

use super::bucket::BUCKET_HEADER;
use super::db::{MAGIC, MAX_PAGE_SIZE, META_LEN, MIN_PAGE_SIZE, NO_FREELIST, VERSION, fnv1a_64};
use super::page::{HEADER, LEAF, META};
use super::tree::{Sink, Tree, output};
use crate::error::{Error, Result};

/// Root page and sequence of an empty bucket, and its page, all inline: what bbolt's `CreateBucket` writes.
const EMPTY_BUCKET: [u8; BUCKET_HEADER + HEADER] = {
    let mut bytes = [0; BUCKET_HEADER + HEADER];
    bytes[BUCKET_HEADER + 8] = LEAF as u8;
    bytes
};

/// The later of the two transactions; its meta page is the one bolt would give it, and overwrite next but one.
const TXID: u64 = 2;

/// Writes a database of full pages, none of them free: bucket by bucket, each record by record in key order.
///
/// The same records give the same bytes. No freelist is written, as etcd on Linux does it. Wrap a file in a
/// [`BufWriter`](std::io::BufWriter): pages are written one by one.
pub struct Writer<W> {
    sink: Sink<W>,
    /// Where in the output the database begins.
    base: u64,
    current: Option<(Vec<u8>, Tree)>,
    /// Root page of each finished bucket, `None` for an empty one.
    buckets: BTreeMap<Vec<u8>, Option<u64>>,
}

impl<W: Write + Seek> Writer<W> {
    /// A database with pages of `page_size` bytes at the output's position, which becomes its beginning.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when the size is no power of two from 1 to 64 KiB, and
    /// [`Io`](crate::ErrorKind::Io).
    pub fn new(mut out: W, page_size: u32) -> Result<Self> {
        if !page_size.is_power_of_two() || !(MIN_PAGE_SIZE..=MAX_PAGE_SIZE).contains(&page_size) {
            return Err(Error::usage(format!(
                "a database page of {page_size} bytes: a power of two from {MIN_PAGE_SIZE} to {MAX_PAGE_SIZE} is needed"
            )));
        }
        let base = out.stream_position().map_err(output)?;
        // Room for the meta pages, which name the root and so come last.
        let page_size = page_size as usize;
        out.write_all(&vec![0; page_size.saturating_mul(2)]).map_err(output)?;
        let sink = Sink { out, page_size, next: 2 };
        Ok(Self { sink, base, current: None, buckets: BTreeMap::new() })
    }

    /// Ends the bucket before and begins `name`. A bucket without a record is an empty bucket.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when there is a bucket of that name, and [`Io`](crate::ErrorKind::Io).
    pub fn bucket(&mut self, name: &[u8]) -> Result<()> {
        self.end_bucket()?;
        if self.buckets.contains_key(name) {
            return Err(Error::usage(format!(
                "a second bucket {:?}",
                String::from_utf8_lossy(name)
            )));
        }
        self.current = Some((name.to_vec(), Tree::default()));
        Ok(())
    }

    /// Adds a record to the bucket last begun.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when no bucket was begun, when the key is not greater than the one
    /// before or is not of 1 to 32768 bytes, or when the record takes over 64 MiB (bolt would take 2 GiB,
    /// the reader does not); [`Io`](crate::ErrorKind::Io).
    pub fn put(&mut self, key: &[u8], value: &[u8]) -> Result<()> {
        let Some((name, tree)) = &mut self.current else {
            return Err(Error::usage("a record outside of any bucket"));
        };
        tree.put(&mut self.sink, key, value, false)
            .map_err(|error| error.context(format!("bucket {:?}", String::from_utf8_lossy(name))))
    }

    /// Writes what is left and the meta pages. Gives the output back, behind the database, and the
    /// database's length in bytes. Syncing it to disk is the caller's.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io), and [`Usage`](crate::ErrorKind::Usage) for a bucket's name that is no key.
    pub fn finish(mut self) -> Result<(W, u64)> {
        self.end_bucket()?;
        let mut tree = Tree::default();
        for (name, root) in &self.buckets {
            let value =
                root.map_or(EMPTY_BUCKET.to_vec(), |root| [root.to_le_bytes(), [0; 8]].concat());
            tree.put(&mut self.sink, name, &value, true)?;
        }
        let root = tree.finish(&mut self.sink)?;
        let Sink { mut out, page_size, next } = self.sink;
        let length = next.saturating_mul(page_size as u64);
        out.seek(SeekFrom::Start(self.base)).map_err(output)?;
        for id in [0, 1] {
            let mut page = meta_page(id, page_size, root, next);
            page.resize(page_size, 0);
            out.write_all(&page).map_err(output)?;
        }
        out.seek(SeekFrom::Start(self.base.saturating_add(length))).map_err(output)?;
        out.flush().map_err(output)?;
        Ok((out, length))
    }

    fn end_bucket(&mut self) -> Result<()> {
        let Some((name, tree)) = self.current.take() else {
            return Ok(());
        };
        let root = if tree.is_empty() { None } else { Some(tree.finish(&mut self.sink)?) };
        self.buckets.insert(name, root);
        Ok(())
    }
}

/// Meta page `id`, header included. Both name the same state, as after bbolt's `Tx.WriteTo`.
fn meta_page(id: u64, page_size: usize, root: u64, high_water: u64) -> Vec<u8> {
    let mut meta = Vec::with_capacity(META_LEN);
    meta.extend(MAGIC.to_le_bytes());
    meta.extend(VERSION.to_le_bytes());
    meta.extend((page_size as u32).to_le_bytes());
    meta.extend(0_u32.to_le_bytes());
    for number in [root, 0, NO_FREELIST, high_water, TXID.saturating_sub(id)] {
        meta.extend(number.to_le_bytes());
    }
    meta.extend(fnv1a_64(&meta).to_le_bytes());
    let mut page = id.to_le_bytes().to_vec();
    page.extend(META.to_le_bytes());
    page.extend([0; 6]);
    page.extend(meta);
    page
}
