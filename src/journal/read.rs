//! Reading journals: what is stored is kept on disk as it is, encrypted, and opened each time it is read.

use std::collections::BTreeMap;
use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use super::sealed::{bundle_bodies, open_segment};
use crate::crypto;
use crate::envelope::DataKey;
use crate::error::{Error, Result};
use crate::format::{
    Body, Continues, EndReason, Entry, HeadBody, Role, SegmentEntry, Sha256, Signature, SnapshotId,
};
use crate::keys::{KeySet, PublicSigner};
use crate::mvcc::{Reading, Recorded, Recording, Revision};

/// A journal lives an hour: what was received this much after it began does not count ([S13.8]).
pub(crate) const LONGEST_MS: u64 = 65 * 60 * 1000;

/// What the entries of one journal may tell is kept in memory: a moment for each millisecond it lives, and as much again.
const MOST_TOLD: usize = 2 * LONGEST_MS as usize;

/// What of one journal opens and follows, as far as it counts.
pub(crate) struct ReadJournal {
    pub(super) data_key: Arc<DataKey>,
    first: i64,
    pub(super) file: File,
    pub(super) stored: Stored,
    pub(super) rules: Rules,
    pub(crate) survey: Survey,
    /// A segment, or the bundle, could not be fetched now: there may be more than what was read.
    pub(crate) is_cut: bool,
}

/// What is in the file.
pub(super) enum Stored {
    /// Segments: where each begins, and its length.
    Segments(Vec<(u64, u64)>),
    /// A bundle of this length.
    Bundle(u64),
}

/// What a segment must be to count.
pub(super) struct Rules {
    pub(super) id: SnapshotId,
    /// Each segment must be signed, by one of these.
    pub(super) must_be_signed: bool,
    pub(super) signers: Vec<PublicSigner>,
}

/// What the segments of one journal say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Survey {
    /// Digest of each segment's object.
    pub(crate) segments: Vec<Sha256>,
    /// The last complete revision after each segment.
    pub(crate) lasts: Vec<i64>,
    /// Every revision committed before this moment is recorded; 0 for unknown.
    pub(crate) complete_ms: u64,
    /// When a revision was received, from that one on: revision and moment.
    pub(crate) moments: Vec<(i64, u64)>,
    /// Moments by which everything up to a revision was recorded.
    pub(crate) completes: Vec<(i64, u64)>,
    /// Revisions behind which another watch was opened: when what follows was committed is not known.
    pub(crate) breaks: Vec<i64>,
    /// How far etcd had compacted, behind the record's main revision.
    pub(crate) compacted: Vec<(i64, i64)>,
    /// Granted times to live by lease, 0 if unknown, of each segment.
    pub(crate) ttls: Vec<BTreeMap<i64, i64>>,
    /// Each state of users and roles, with the revision that was the last then.
    pub(crate) auth: Vec<(i64, bool, u64)>,
    /// Why the recording ended, if it says so.
    pub(crate) reason: Option<EndReason>,
    /// Number of records.
    pub(crate) records: u64,
    /// Length of the segments' objects, or of the bundle.
    pub(crate) stored_bytes: u64,
    /// What is odd.
    pub(crate) findings: Vec<String>,
    /// Number of entries that are not records.
    pub(super) told: usize,
}

fn check_told(told: usize) -> Result<()> {
    match told > MOST_TOLD {
        true => Err(Error::tampered("it holds more entries beside records than a recorder writes")),
        false => Ok(()),
    }
}

impl Survey {
    /// The last complete revision; one less than the first without one.
    fn last(&self) -> Option<i64> {
        self.lasts.last().copied()
    }

    /// Whether both are of the same segments, however these are stored.
    pub(super) fn says_the_same(&self, other: &Self) -> bool {
        let stored_bytes = self.stored_bytes;
        let findings = self.findings.clone();
        Self { stored_bytes, findings, ..other.clone() } == *self
    }

    /// Adds what the next segment says.
    ///
    /// # Errors
    /// Tampered when there is more than a recorder writes.
    pub(super) fn add(&mut self, news: Self) -> Result<()> {
        self.told = self.told.saturating_add(news.told);
        check_told(self.told)?;
        self.segments.extend(news.segments);
        self.lasts.extend(news.lasts);
        self.complete_ms = news.complete_ms;
        self.moments.extend(news.moments);
        self.completes.extend(news.completes);
        self.breaks.extend(news.breaks);
        self.compacted.extend(news.compacted);
        self.ttls.extend(news.ttls);
        self.auth.extend(news.auth);
        self.reason = news.reason;
        self.records = self.records.saturating_add(news.records);
        self.stored_bytes = self.stored_bytes.saturating_add(news.stored_bytes);
        Ok(())
    }
}

impl Rules {
    /// What the next body says, if it is read as what follows `reading`; `complete_ms` was known before it. Its segment's
    /// digest and length are for the caller to add.
    ///
    /// # Errors
    /// Tampered when it breaks a rule.
    pub(super) fn survey(
        &self,
        body: &Body<'_>,
        complete_ms: u64,
        reading: &Reading,
    ) -> Result<(Survey, Reading)> {
        let (mut facts, mut next) = (Survey::default(), reading.clone());
        let (limit, mut moment) = (self.id.unix_ms().saturating_add(LONGEST_MS), None);
        let mut at = Revision { main: next.last(), sub: 0 };
        let (mut is_signed, mut ttls) = (false, BTreeMap::new());
        next.body(body, &mut |recorded| {
            if !matches!(recorded, Recorded::Record(_)) {
                facts.told = facts.told.saturating_add(1);
                check_told(facts.told)?;
            }
            match recorded {
                Recorded::Record(record) => {
                    facts.records = facts.records.saturating_add(1);
                    if let Some(moment) = moment.take() {
                        facts.moments.push((record.revision.main, moment));
                    }
                    at = record.revision;
                }
                Recorded::Entry(Entry::Moment(ms)) if ms > limit => {
                    return Err(Error::tampered(
                        "it was received more than 65 minutes after its head",
                    ));
                }
                Recorded::Entry(Entry::Moment(ms)) => moment = Some(ms),
                Recorded::Entry(Entry::Member { .. }) => facts.breaks.push(at.main),
                Recorded::Entry(Entry::Compacted(main)) => facts.compacted.push((at.main, main)),
                Recorded::Entry(Entry::Lease { id, ttl }) => {
                    ttls.insert(id, ttl);
                }
                Recorded::Entry(Entry::Auth { enabled, revision }) => {
                    facts.auth.push((at.main, enabled, revision));
                }
                Recorded::Entry(Entry::End(reason)) => facts.reason = Some(reason),
                Recorded::Entry(Entry::Signature { key_id, bytes, covers }) => {
                    is_signed = self.signs(body, &Signature { key_id, bytes }, covers);
                }
                Recorded::Entry(_) => {}
            }
            Ok(())
        })?;
        if self.must_be_signed && !is_signed {
            return Err(Error::tampered("no trusted signer signed it"));
        }
        if let Some(moment) = moment {
            // The segment was cut between the moment and its record.
            facts.moments.push((at.main.saturating_add(1), moment));
        }
        facts.ttls.push(ttls);
        facts.lasts.push(next.last());
        // One that is later than a journal lives comes from a clock that was set.
        let told = Some(body.head().complete_ms).filter(|told| *told <= limit);
        facts.complete_ms = complete_ms.max(told.unwrap_or(0));
        facts.completes.push((next.last(), facts.complete_ms));
        Ok((facts, next))
    }
}

impl Rules {
    /// Whether one of the signers signed what a segment's signature `covers` of `body`.
    fn signs(&self, body: &Body<'_>, signature: &Signature, covers: &[u8]) -> bool {
        let role = Role::Segment(body.head().number);
        let covered = Sha256(crypto::sha256(&[covers]));
        let verifies =
            |signer: &PublicSigner| signer.verifies_segment(self.id, role, covered, signature);
        self.signers.iter().any(verifies)
    }
}

impl ReadJournal {
    /// The journal.
    pub(crate) fn id(&self) -> SnapshotId {
        self.rules.id
    }

    /// The first main revision that it may hold.
    pub(crate) fn first(&self) -> i64 {
        self.first
    }

    /// The last complete main revision; one less than the first if there is none.
    pub(crate) fn last(&self) -> i64 {
        self.survey.last().unwrap_or(self.first.saturating_sub(1))
    }

    /// Nothing yet of the journal that `head` describes, which will be kept in `file`.
    pub(super) fn new(
        keys: &KeySet,
        head: &HeadBody,
        (data_key, has_end): (Arc<DataKey>, bool),
        file: File,
    ) -> Self {
        // What an end names is vouched for by its seal; without one, each segment by itself ([S13.8]).
        let must_be_signed = !has_end && !keys.signers().is_empty();
        let signers = keys.trusted_for(Some(&head.cluster));
        Self {
            first: head.first.cast_signed(),
            file,
            stored: Stored::Segments(Vec::new()),
            rules: Rules { id: head.journal, must_be_signed, signers },
            survey: Survey::default(),
            is_cut: false,
            data_key,
        }
    }

    /// Its last segment, if a revision is complete in it.
    pub(crate) fn continues(&self) -> Option<Continues> {
        let (sha256, last) = (*self.survey.segments.last()?, self.last());
        let number = self.survey.segments.len() as u64;
        let is_there = last >= self.first;
        let last = last.unsigned_abs();
        is_there.then_some(Continues { journal: self.id(), number, last, sha256 })
    }

    /// Its segments, as an end names them; `None` of a bundle.
    pub(crate) fn entries(&self) -> Option<Vec<SegmentEntry>> {
        let Stored::Segments(places) = &self.stored else { return None };
        let entry = |((_, length), sha256): (&(u64, u64), &Sha256)| SegmentEntry {
            length: *length,
            sha256: *sha256,
        };
        Some(places.iter().zip(&self.survey.segments).map(entry).collect())
    }

    /// Leaves out what is behind the segment of this digest.
    pub(crate) fn cut_after(&mut self, sha256: Option<Sha256>) {
        let at = self.survey.segments.iter().position(|found| Some(*found) == sha256);
        let keep = at.map_or(0, |at| at.saturating_add(1));
        // What is left out is not read again: the survey tells how many there are.
        self.survey.segments.truncate(keep);
        self.survey.lasts.truncate(keep);
        self.survey.completes.truncate(keep);
        let (last, complete) = self.survey.completes.last().copied().unwrap_or((0, 0));
        self.survey.complete_ms = complete;
        self.survey.moments.retain(|(main, _)| *main <= last);
        self.survey.reason = None;
    }

    /// Gives `visit` the body of each segment, with its number.
    ///
    /// # Errors
    /// Those of reading, and of `visit`.
    pub(super) fn for_each_body(
        &self,
        visit: &mut dyn FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let (id, count) = (self.id(), self.survey.segments.len() as u64);
        let part = |number: u64| move || format!("journal {id}, segment {number}");
        match &self.stored {
            Stored::Segments(places) => {
                for (number, (at, length)) in (1..=count).zip(places) {
                    let read = || {
                        let length = usize::try_from(*length).unwrap_or(usize::MAX);
                        let mut bytes = vec![0; length];
                        self.file
                            .read_exact_at(&mut bytes, *at)
                            .map_err(|error| Error::io("scratch file", error))?;
                        let body = open_segment(&self.data_key, id, number, bytes)?;
                        visit(number, &body)
                    };
                    let mut read = read;
                    read().map_err(|error| error.context(part(number)()))?;
                }
                Ok(())
            }
            Stored::Bundle(length) => {
                bundle_bodies((&self.file, *length), &self.data_key, id, &mut |number, body| {
                    if number > count {
                        return Ok(ControlFlow::Break(()));
                    }
                    visit(number, body).map_err(|error| error.context(part(number)()))?;
                    Ok(ControlFlow::Continue(()))
                })
            }
        }
    }
}

impl Recording for ReadJournal {
    fn for_each(&self, visit: &mut dyn FnMut(Recorded<'_>) -> Result<()>) -> Result<()> {
        let mut reading = Reading::new(self.first);
        self.for_each_body(&mut |_, body| reading.body(&Body::parse(body)?, visit))
    }
}

#[cfg(test)]
mod corrupted;

/// Journals that join, one after the other: what several have is read once.
pub(crate) struct Chain(pub(crate) Vec<Arc<ReadJournal>>);

impl Recording for Chain {
    fn for_each(&self, visit: &mut dyn FnMut(Recorded<'_>) -> Result<()>) -> Result<()> {
        let mut done = 0;
        for journal in &self.0 {
            let last = journal.last();
            journal.for_each(&mut |recorded| match recorded {
                // What is behind the last complete revision is in the next journal, complete.
                Recorded::Record(record)
                    if record.revision.main <= done || record.revision.main > last =>
                {
                    Ok(())
                }
                other => visit(other),
            })?;
            done = last.max(done);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// What segments tell takes a limited part of memory, however many there are.
    #[test]
    fn a_journal_that_tells_too_much_is_not_read() {
        let news = || Survey { told: MOST_TOLD / 2, ..Survey::default() };
        let mut survey = Survey::default();
        survey.add(news()).unwrap();
        survey.add(news()).unwrap();
        let error = survey.add(Survey { told: 1, ..Survey::default() }).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Tampered);
    }
}
