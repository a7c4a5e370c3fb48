//! The whole file's structure.

use super::cursor::Visited;
use super::db::Db;
use super::page::{FREELIST, HEADER, Header, tampered};
use super::scan::Span;
use super::source::ReadAt;
use crate::error::{Context, Result};

/// Ids of free pages read at once.
const BATCH: usize = 4096;

/// A database whose structure holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Pages of the file: those in use, the free ones and the two meta pages.
    pub pages: u64,
    /// Pages in a tree.
    pub reachable: u64,
    /// Pages in no tree, whose bytes are left over from earlier transactions.
    pub free: u64,
    /// The buckets in order.
    pub buckets: Vec<BucketSize>,
}

/// What a bucket holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSize {
    /// Name.
    pub name: Vec<u8>,
    /// Number of records.
    pub records: u64,
    /// Bytes of all keys and values.
    pub bytes: u64,
}

/// Reads every page that a tree reaches, and checks all that the format promises: each page in one place
/// of one tree, none overlapping another, keys ascending and inside their parents' bounds, and a freelist
/// (if there is one) that names no page of a tree.
///
/// # Errors
/// [`Tampered`](crate::ErrorKind::Tampered) naming page and rule, and those of the source.
pub fn check<R: ReadAt>(db: &Db<R>) -> Result<Checked> {
    check_with(db, Order::File, |_, _, _| Ok(()))
}

/// In which order a walk comes to a bucket's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// By key.
    Key,
    /// As they lie in the file (see [`Bucket::scan`](super::Bucket::scan)).
    File,
}

/// As [`check`], and gives each record to `visit` on the way: its bucket's name, key and value, bucket by bucket.
///
/// # Errors
/// As [`check`], and those of `visit`.
pub fn check_with<R: ReadAt>(
    db: &Db<R>,
    order: Order,
    mut visit: impl FnMut(&[u8], &[u8], &[u8]) -> Result<()>,
) -> Result<Checked> {
    let root = db.root();
    let mut cursor = root.cursor_with(&[], Visited::new(db.meta().high_water))?;
    let found = db.collect_buckets(&mut cursor)?;
    let mut visited = cursor.into_visited();
    let mut buckets = Vec::with_capacity(found.len());
    for (name, bucket) in found {
        let what = format!("bucket {:?}", String::from_utf8_lossy(&name));
        let (mut records, mut bytes) = (0_u64, 0_u64);
        let mut count = |key: &[u8], value: &[u8]| {
            records = records.saturating_add(1);
            bytes = bytes.saturating_add(key.len() as u64).saturating_add(value.len() as u64);
            visit(&name, key, value)
        };
        visited = match order {
            Order::File => bucket.scan_with(Span::ALL, visited, count).context(what)?,
            Order::Key => {
                let mut cursor = bucket.cursor_with(&[], visited).context(what.clone())?;
                while let Some((key, value)) = cursor.next_record().context(what.clone())? {
                    count(key, value)?;
                }
                cursor.into_visited()
            }
        };
        buckets.push(BucketSize { name, records, bytes });
    }
    let reachable = visited.count();
    if let Some(page) = db.meta().freelist {
        check_freelist(db, page, &mut visited).context("freelist")?;
    }
    let pages = db.meta().high_water;
    let free = pages.saturating_sub(2).saturating_sub(visited.count());
    Ok(Checked { pages, reachable, free, buckets })
}

/// Checks that the freelist is a page of its own and that what it lists is free.
fn check_freelist<R: ReadAt>(db: &Db<R>, page: u64, visited: &mut Visited) -> Result<()> {
    db.check_id(page)?;
    let size = u64::from(db.meta().page_size);
    let start = page.saturating_mul(size);
    let mut header = [0; HEADER];
    db.source().read_at(start, &mut header)?;
    let header = Header::parse(&header);
    let extent = u64::from(header.overflow).saturating_add(1);
    if header.flags != FREELIST || header.id != page {
        return Err(tampered(page, "it is not a freelist"));
    }
    if page.saturating_add(extent) > db.meta().high_water {
        return Err(tampered(page, "its overflow pages are outside the database"));
    }
    visited.mark(page, extent)?;
    let mut offset = HEADER as u64;
    let mut count = u64::from(header.count);
    if header.count == u16::MAX {
        let mut real = [0; 8];
        db.source().read_at(start.saturating_add(offset), &mut real)?;
        count = u64::from_le_bytes(real);
        offset = offset.saturating_add(8);
    }
    if count.saturating_mul(8).saturating_add(offset) > extent.saturating_mul(size) {
        return Err(tampered(page, &format!("{count} ids do not fit in {extent} pages")));
    }
    let (mut batch, mut last) = (vec![0; 8 * BATCH], 1);
    while count > 0 {
        let now = count.min(BATCH as u64);
        let bytes = batch.get_mut(..8 * now as usize).unwrap_or_default();
        db.source().read_at(start.saturating_add(offset), bytes)?;
        for id in bytes.as_chunks().0.iter().copied().map(u64::from_le_bytes) {
            db.check_id(id)?;
            if id <= last || visited.contains(id) {
                return Err(tampered(id, "listed as free twice, or in use"));
            }
            last = id;
        }
        count = count.saturating_sub(now);
        offset = offset.saturating_add(now.saturating_mul(8));
    }
    Ok(())
}
