//! The file: its meta pages, and pages by id.

use super::page::{BRANCH, HEADER, Header, META, Page, tampered};
use super::source::ReadAt;
use crate::error::{Error, Result};

pub(super) const MAGIC: u32 = 0xED0C_DAED;
pub(super) const VERSION: u32 = 2;
/// In place of the freelist's page id when none is kept.
pub(super) const NO_FREELIST: u64 = u64::MAX;
/// Bolt's page size is the machine's; it accepts from 1 KiB, and no machine that runs etcd has over 64.
pub(super) const MIN_PAGE_SIZE: u32 = 1024;
pub(super) const MAX_PAGE_SIZE: u32 = 64 * 1024;
pub(super) const META_LEN: usize = 64;
/// The longest run of pages read at once. etcd's requests, and so its values, are 1.5 MiB unless raised.
pub(super) const MAX_EXTENT: u64 = 64 << 20;
/// The same for a branch: bolt splits one that outgrows its page and has more than four keys.
const MAX_BRANCH_EXTENT: u64 = 1 << 20;

/// A valid meta page: the state after one transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// Page size in bytes, a power of two.
    pub page_size: u32,
    /// Page id of the root bucket.
    pub root: u64,
    /// Page id after the last one in use.
    pub high_water: u64,
    /// Transaction id.
    pub txid: u64,
    /// Page id of the list of free pages; `None` if it is not kept (etcd on Linux), so that the pages
    /// which no tree reaches are the free ones.
    pub freelist: Option<u64>,
}

/// A bolt database, opened for reading.
pub struct Db<R> {
    source: R,
    meta: Meta,
}

impl<R: ReadAt> Db<R> {
    /// Reads and checks the meta pages; the valid one of the later transaction counts.
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered) when neither is valid or they contradict the file's
    /// length, [`Truncated`](crate::ErrorKind::Truncated) when the file is shorter than they say.
    pub fn open(source: R) -> Result<Self> {
        let first = read_meta(&source, 0, 0)?;
        let second = match first {
            Some(meta) => read_meta(&source, u64::from(meta.page_size), 1)?,
            None => probe(&source)?,
        };
        if let (Some(first), Some(second)) = (first, second)
            && first.page_size != second.page_size
        {
            return Err(tampered(1, "the meta pages name different page sizes"));
        }
        let meta =
            first.into_iter().chain(second).max_by_key(|meta| meta.txid).ok_or_else(|| {
                Error::tampered("database: neither meta page is valid")
                    .hint("this is not a bolt database, or its beginning is damaged")
            })?;
        let size = u64::from(meta.page_size);
        if meta.root < 2 || meta.root >= meta.high_water {
            return Err(Error::tampered(format!(
                "database: the root is page {} of {}",
                meta.root, meta.high_water
            )));
        }
        let wanted = meta.high_water.checked_mul(size);
        if wanted.is_none_or(|wanted| wanted > source.size()) {
            return Err(Error::truncated(format!(
                "database: {} bytes hold less than its {} pages of {size}",
                source.size(),
                meta.high_water
            )));
        }
        Ok(Self { source, meta })
    }

    /// Where its bytes come from.
    #[must_use]
    pub fn source(&self) -> &R {
        &self.source
    }

    /// The meta page in force.
    pub fn meta(&self) -> Meta {
        self.meta
    }

    /// Reads and checks page `id` with its overflow pages.
    pub(super) fn page(&self, id: u64) -> Result<Page> {
        self.check_id(id)?;
        let size = u64::from(self.meta.page_size);
        // Below the high-water mark, whose byte offset was checked: no overflow.
        let offset = id.saturating_mul(size);
        let mut bytes = vec![0; self.meta.page_size as usize];
        self.source.read_at(offset, &mut bytes)?;
        let header = bytes.first_chunk().map(Header::parse);
        let header = header.ok_or_else(|| tampered(id, "it is shorter than a page header"))?;
        if header.id != id {
            return Err(tampered(id, &format!("its header says page {}", header.id)));
        }
        let overflow = u64::from(header.overflow);
        if id.saturating_add(overflow) >= self.meta.high_water {
            return Err(tampered(id, "its overflow pages are outside the database"));
        }
        let extent = overflow.saturating_add(1).saturating_mul(size);
        let limit = if header.flags == BRANCH { MAX_BRANCH_EXTENT } else { MAX_EXTENT };
        let Some(extent) = usize::try_from(extent).ok().filter(|_| extent <= limit) else {
            return Err(tampered(
                id,
                &format!("it spans {extent} bytes, over the limit of {limit}"),
            ));
        };
        let first = bytes.len();
        bytes.resize(extent, 0);
        let rest = bytes.get_mut(first..).unwrap_or_default();
        self.source.read_at(offset.saturating_add(first as u64), rest)?;
        Page::parse(id, bytes)
    }

    /// Checks that `id` can be the page of a tree.
    pub(super) fn check_id(&self, id: u64) -> Result<()> {
        if id < 2 || id >= self.meta.high_water {
            return Err(tampered(
                id,
                &format!(
                    "out of range: the database has pages 2 to {}",
                    self.meta.high_water.saturating_sub(1)
                ),
            ));
        }
        Ok(())
    }
}

/// Meta page 1 at every place where it can be, for when page 0 is of no use.
fn probe<R: ReadAt>(source: &R) -> Result<Option<Meta>> {
    let mut size = MIN_PAGE_SIZE;
    while size <= MAX_PAGE_SIZE {
        let found = read_meta(source, u64::from(size), 1)?.filter(|meta| meta.page_size == size);
        if found.is_some() {
            return Ok(found);
        }
        size = size.saturating_mul(2);
    }
    Ok(None)
}

/// The meta page `id` at `offset`, if there is a valid one.
fn read_meta<R: ReadAt>(source: &R, offset: u64, id: u64) -> Result<Option<Meta>> {
    let mut bytes = [0; HEADER + META_LEN];
    if offset.saturating_add(bytes.len() as u64) > source.size() {
        return Ok(None);
    }
    source.read_at(offset, &mut bytes)?;
    let (Some(header), Some(meta)) = (bytes.first_chunk(), bytes.last_chunk()) else {
        return Ok(None);
    };
    let header = Header::parse(header);
    Ok(Some(meta).filter(|_| header.flags == META && header.id == id).and_then(parse_meta))
}

fn parse_meta(bytes: &[u8; META_LEN]) -> Option<Meta> {
    let u64_at = |at: usize| Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let u32_at = |at: usize| Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?));
    let meta = Meta {
        page_size: u32_at(8)?,
        root: u64_at(16)?,
        high_water: u64_at(40)?,
        txid: u64_at(48)?,
        freelist: Some(u64_at(32)?).filter(|page| *page != NO_FREELIST),
    };
    let valid = u32_at(0)? == MAGIC
        && u32_at(4)? == VERSION
        && u64_at(56)? == fnv1a_64(bytes.get(..56)?)
        && meta.page_size.is_power_of_two()
        && (MIN_PAGE_SIZE..=MAX_PAGE_SIZE).contains(&meta.page_size);
    valid.then_some(meta)
}

/// FNV-1a, 64 bits: bolt's checksum of a meta page.
pub(super) fn fnv1a_64(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Test vectors of draft-eastlake-fnv, appendix C.
    #[test]
    fn fnv_vectors() {
        assert_eq!(fnv1a_64(b""), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a_64(b"a"), 0xaf63_dc4c_8601_ec8c);
        assert_eq!(fnv1a_64(b"foobar"), 0x8594_4171_f739_67e8);
    }
}
