//! Which objects are a journal's segments: others can put more beside them.

use std::collections::BTreeMap;

use super::One;
use crate::error::{Error, Result};
use crate::format::{ObjectHeader, Role, SegmentEntry, SnapshotId};
use crate::journal::fetch::MAX_WASTED;
use crate::journal::open::digest;
use crate::journal::sealed::LONGEST;
use crate::store::ObjectInfo;

impl One<'_> {
    /// Copies the segments in their order, to the first that is missing.
    pub(super) async fn segments(&mut self, named: Option<&[SegmentEntry]>) -> Result<()> {
        let all = std::mem::take(&mut self.from.segments);
        let there = std::mem::take(&mut self.there.segments);
        let there: BTreeMap<_, _> =
            there.into_values().flatten().map(|info| (info.name, info.len)).collect();
        let mut reached = 0_u64;
        for (number, infos) in &all {
            let pinned = named.map(|named| {
                usize::try_from(number.saturating_sub(1)).ok().and_then(|at| named.get(at))
            });
            if *number != reached + 1 || pinned == Some(None) {
                break;
            }
            self.segment(*number, infos, pinned.flatten(), &there).await?;
            reached = *number;
        }
        match named.map(|named| named.len() as u64).filter(|named| reached < *named) {
            Some(named) => {
                Err(Error::truncated(format!("{reached} of its {named} segments are there")))
            }
            None => Ok(()),
        }
    }

    /// Copies the segment `number`: the object that the end names, or without an end each that may be it, the shortest first.
    async fn segment(
        &mut self,
        number: u64,
        infos: &[ObjectInfo],
        pinned: Option<&SegmentEntry>,
        there: &BTreeMap<String, u64>,
    ) -> Result<()> {
        let (mut failure, mut is_there) = (None, false);
        let fits = |info: &&ObjectInfo| pinned.is_none_or(|entry| entry.length == info.len);
        let mut infos: Vec<_> = infos.iter().filter(fits).collect();
        infos.sort_by_key(|info| info.len);
        for info in infos {
            if self.passed_over > MAX_WASTED {
                let text =
                    "so many objects are planted beside its segments that the rest is not copied";
                failure = Some(Error::tampered(text).hint("delete what does not belong to it"));
                break;
            }
            match self.candidate(number, info, pinned, there).await {
                // It was read now. What the copy had before may be another one of this length.
                Ok(()) if pinned.is_some() && !there.contains_key(&info.name) => return Ok(()),
                Ok(()) if !is_there => is_there = true,
                Ok(()) => self.passed_over = self.passed_over.saturating_add(info.len),
                Err(error) if error.kind().is_general() => return Err(error),
                Err(error) => {
                    self.passed_over = self.passed_over.saturating_add(info.len);
                    failure = Some(error);
                }
            }
        }
        if is_there {
            return Ok(());
        }
        let failure = failure.unwrap_or_else(|| Error::truncated("it is missing"));
        Err(failure.context(format!("segment {number}")))
    }

    /// Copies the object that `info` describes, if it may be the segment `number`.
    async fn candidate(
        &mut self,
        number: u64,
        info: &ObjectInfo,
        pinned: Option<&SegmentEntry>,
        there: &BTreeMap<String, u64>,
    ) -> Result<()> {
        match there.get(&info.name) {
            Some(length) if *length == info.len => {
                if self.reads_there {
                    let expected = pinned.map(|entry| entry.sha256);
                    self.compare(&info.name, expected, LONGEST).await?;
                }
                Ok(())
            }
            Some(_) => Err(Error::tampered("it has another length in the copy")),
            None => {
                let bytes = self.source.get(&info.name, LONGEST).await?;
                is_segment(self.id, number, &bytes, pinned)?;
                self.put(&info.name, bytes).await
            }
        }
    }
}

/// That an object is this segment of the journal `id`, and the one that its end names.
fn is_segment(
    id: SnapshotId,
    number: u64,
    bytes: &[u8],
    pinned: Option<&SegmentEntry>,
) -> Result<()> {
    let header = ObjectHeader::parse(bytes)?;
    if header.snapshot != id || header.role != Role::Segment(number) {
        return Err(Error::tampered("it is an object of another place"));
    }
    if pinned.is_some_and(|entry| entry.sha256 != digest(bytes)) {
        return Err(Error::tampered("it is not the object that the end names"));
    }
    Ok(())
}
