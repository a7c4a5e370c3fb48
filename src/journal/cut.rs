//! Revisions written into bodies, which are cut into segments.

use crate::error::Result;
use crate::etcd::changes::{ChangeValue, Complete};
use crate::format::{BodyWriter, Entry};

/// A segment is cut when it has so many bytes, before compression.
pub(super) const RAW: usize = 4 << 20;

/// What is to become a segment.
pub(super) struct Cut {
    pub(super) body: BodyWriter,
    pub(super) main: i64,
    pub(super) sub: i64,
    pub(super) last: i64,
    pub(super) complete_ms: u64,
}

/// The segment that is being filled.
pub(super) struct Cutter {
    body: BodyWriter,
    /// The first record in it.
    first: Option<(i64, i64)>,
    /// The next record to come.
    next: (i64, i64),
    /// The last complete revision.
    last: i64,
    complete_ms: u64,
    moment: u64,
    /// `complete_ms` is later than in the segment before.
    is_news: bool,
}

impl Cutter {
    /// Begins with main revision `first`.
    pub(super) fn new(first: i64) -> Self {
        Self {
            body: BodyWriter::default(),
            first: None,
            next: (first, 0),
            last: first.saturating_sub(1),
            complete_ms: 0,
            moment: 0,
            is_news: false,
        }
    }

    /// Adds a revision that was received at `moment`; what it filled is added to `cuts`.
    ///
    /// # Errors
    /// Refused for a record that no body holds.
    pub(super) fn revision(
        &mut self,
        complete: &Complete,
        moment: u64,
        cuts: &mut Vec<Cut>,
    ) -> Result<()> {
        if moment > self.moment {
            self.moment = moment;
            self.body.push(&Entry::Moment(moment))?;
        }
        for change in &complete.changes {
            if !self.body.is_empty() && !self.body.fits(change.value.len().saturating_add(64)) {
                cuts.push(self.cut());
            }
            self.body.push(&match &change.value {
                ChangeValue::Put(value) => Entry::Put(value),
                ChangeValue::Deletion(key) => Entry::Deletion { main: complete.main, key },
            })?;
            let sub = change.revision.sub;
            self.first.get_or_insert((complete.main, sub));
            self.next = (complete.main, sub.saturating_add(1));
            if self.body.len() >= RAW {
                cuts.push(self.cut());
            }
        }
        self.next = (complete.main.saturating_add(1), 0);
        self.last = complete.main;
        Ok(())
    }

    /// Adds an entry that is not a record.
    ///
    /// # Errors
    /// Refused when the body is full.
    pub(super) fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.body.push(entry)
    }

    /// Every revision committed before `moment` is recorded.
    pub(super) fn complete(&mut self, moment: u64) {
        self.is_news |= moment > self.complete_ms;
        self.complete_ms = self.complete_ms.max(moment);
    }

    /// Whether something was recorded since the last cut.
    pub(super) fn has_entries(&self) -> bool {
        !self.body.is_empty()
    }

    /// Whether a later moment is complete than at the last cut.
    pub(super) fn has_news(&self) -> bool {
        self.is_news
    }

    /// What was recorded so far.
    pub(super) fn cut(&mut self) -> Cut {
        let (main, sub) = self.first.take().unwrap_or(self.next);
        self.is_news = false;
        let body = std::mem::take(&mut self.body);
        Cut { body, main, sub, last: self.last, complete_ms: self.complete_ms }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::changes::{Change, digest_of};
    use crate::format::{Body, BodyHead, Sha256};
    use crate::mvcc::{Reading, Recorded, Revision};
    use crate::protobuf::{put_message, put_number};

    fn revision(main: i64, sizes: &[usize]) -> Complete {
        let change = |(sub, size): (i64, &usize)| {
            let value = if *size == 0 {
                ChangeValue::Deletion(b"key"[..].into())
            } else {
                let mut kv = Vec::new();
                put_message(&mut kv, 1, b"key");
                put_number(&mut kv, 2, main);
                put_number(&mut kv, 3, main);
                put_number(&mut kv, 4, 1);
                put_message(&mut kv, 5, &vec![7; *size]);
                ChangeValue::Put(kv.into())
            };
            Change { revision: Revision { main, sub }, value }
        };
        let changes: Vec<_> = (0..).zip(sizes).map(change).collect();
        Complete { main, digest: digest_of(&changes), changes }
    }

    /// What is cut reads as one history, also where a revision spans segments.
    #[test]
    fn cuts_are_one_history() {
        let mut cutter = Cutter::new(5);
        let mut cuts = vec![cutter.cut()];
        let large = [RAW / 2; 5];
        for (main, sizes) in [(5, &[1][..]), (6, &large), (7, &[1, 0, 2]), (8, &[0])] {
            cutter.revision(&revision(main, sizes), main as u64, &mut cuts).unwrap();
            cutter.complete(main as u64);
            if main == 7 {
                cuts.push(cutter.cut());
            }
        }
        cuts.push(cutter.cut());
        cuts.push(cutter.cut());
        assert!(!cutter.has_entries() && !cutter.has_news());
        assert_eq!(cuts.len(), 6);
        let mut reading = Reading::new(5);
        let mut records = Vec::new();
        let mut lasts = Vec::new();
        for (number, Cut { body, main, sub, last, complete_ms }) in (1..).zip(cuts) {
            let head = BodyHead { number, previous: Sha256::NONE, main, sub, last, complete_ms };
            let bytes = body.finish(&head);
            reading
                .body(&Body::parse(&bytes).unwrap(), &mut |recorded| {
                    if let Recorded::Record(record) = recorded {
                        records.push((record.revision.main, record.revision.sub));
                    }
                    Ok(())
                })
                .unwrap();
            lasts.push(reading.last());
        }
        let expected: Vec<_> = [(5, 1), (6, 5), (7, 3), (8, 1)]
            .into_iter()
            .flat_map(|(main, subs)| (0..subs).map(move |sub| (main, sub)))
            .collect();
        assert_eq!(records, expected);
        assert_eq!(lasts, [4, 5, 5, 7, 8, 8]);
    }
}
