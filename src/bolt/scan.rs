//! A bucket's records as they lie in the file, for sources where going back and forth is dear.
//!
//! bolt writes a page wherever one is free, so that in a database of some age neighbours in key order lie far apart:
//! read in that order through a cache of encrypted frames, each frame would be fetched dozens of times.

use super::bucket::{Bucket, MAX_DEPTH, Root, bytes_of};
use super::cursor::Visited;
use super::page::{Kind, Page, tampered};
use super::source::ReadAt;
use crate::error::Result;

/// A branch's children and what bounds their keys.
struct Family {
    /// Page id and least key of each.
    children: Vec<(u64, Box<[u8]>)>,
    /// What all keys are below.
    high: Option<Box<[u8]>>,
}

impl Family {
    fn of(branch: &Page, high: Option<&[u8]>) -> Result<Self> {
        let keys = (0..branch.len()).map(|at| branch.key(at).len());
        // Many long keys in the same few bytes would make much memory of a small file.
        if keys.fold(0, usize::saturating_add) > branch.extent() {
            return Err(tampered(branch.id(), "its keys overlap"));
        }
        let child = |at| branch.child(at).map(|id| (id, branch.key(at).into()));
        let children = (0..branch.len()).filter_map(child).collect();
        Ok(Self { children, high: high.map(Box::from) })
    }

    /// What the keys of child `at` are not below, and what they are below.
    fn bounds(&self, at: usize) -> (Option<&[u8]>, Option<&[u8]>) {
        let low = |at| self.children.get(at).map(|(_, low): &(u64, Box<[u8]>)| &**low);
        (low(at), low(at.saturating_add(1)).or(self.high.as_deref()))
    }
}

/// Keys from one, the included, to another.
#[derive(Clone, Copy)]
pub(super) struct Span<'a> {
    pub(super) from: &'a [u8],
    /// Excluded; `None` for no end.
    pub(super) end: Option<&'a [u8]>,
}

impl Span<'_> {
    pub(super) const ALL: Self = Self { from: &[], end: None };

    /// Whether keys of `[low, high)` are in it.
    fn meets(&self, (low, high): (Option<&[u8]>, Option<&[u8]>)) -> bool {
        high.is_none_or(|high| high > self.from)
            && self.end.zip(low).is_none_or(|(end, low)| low < end)
    }
}

impl<R: ReadAt> Bucket<'_, R> {
    /// Gives `visit` each record whose key is not less than `from` and less than `end` (`None`: no end), in no
    /// order. The file is gone through once from front to back for each level of the tree: two to four times, of
    /// which all but the last touch one page in fifty.
    ///
    /// Memory: about 70 bytes for each page.
    ///
    /// # Errors
    /// [`Tampered`](crate::ErrorKind::Tampered) when a page breaks a rule, those of the source and of `visit`.
    pub fn scan(
        &self,
        from: &[u8],
        end: Option<&[u8]>,
        visit: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let visited = Visited::new(self.db.meta().high_water);
        self.scan_with(Span { from, end }, visited, visit).map(drop)
    }

    pub(super) fn scan_with(
        &self,
        span: Span<'_>,
        mut visited: Visited,
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<()>,
    ) -> Result<Visited> {
        let root = match &self.root {
            Root::Inline(page) => return visit_leaf(page, span, &mut visit).map(|()| visited),
            Root::Page(id) => *id,
        };
        let mut level = vec![Family { children: vec![(root, Box::default())], high: None }];
        let size = u64::from(self.db.meta().page_size);
        for depth in 0..MAX_DEPTH {
            let mut next = Vec::new();
            for (id, family, at) in in_file_order(&level, span) {
                let Some(family) = level.get(family) else { continue };
                let (low, high) = family.bounds(at);
                let page = self.db.page(id)?;
                visited.mark(id, page.extent() as u64 / size)?;
                page.check_bounds(low, high)?;
                match page.kind {
                    Kind::Branch => next.push(Family::of(&page, high)?),
                    Kind::Leaf if page.len() == 0 && depth > 0 => {
                        return Err(tampered(id, "an empty leaf below a branch"));
                    }
                    Kind::Leaf => visit_leaf(&page, span, &mut visit)?,
                }
            }
            if next.is_empty() {
                return Ok(visited);
            }
            level = next;
        }
        Err(tampered(root, "the tree is too deep"))
    }
}

/// Page id, family and place in it of all children with keys in `span`.
fn in_file_order(level: &[Family], span: Span<'_>) -> Vec<(u64, usize, usize)> {
    let places = level.iter().enumerate().flat_map(|(number, family)| {
        let children = family.children.iter().enumerate();
        let meets = children.filter(move |(at, _)| span.meets(family.bounds(*at)));
        meets.map(move |(at, (id, _))| (*id, number, at))
    });
    let mut places: Vec<_> = places.collect();
    places.sort_unstable();
    places
}

fn visit_leaf(
    page: &Page,
    span: Span<'_>,
    visit: &mut impl FnMut(&[u8], &[u8]) -> Result<()>,
) -> Result<()> {
    for at in page.find_from(span.from)..page.len() {
        let key = page.key(at);
        if span.end.is_some_and(|end| key >= end) {
            break;
        }
        let Some(value) = page.value(at) else { break };
        visit(key, bytes_of(page.id(), value)?)?;
    }
    Ok(())
}
