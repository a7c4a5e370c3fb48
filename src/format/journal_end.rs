//! A change journal's end: what it held when it ended (SPEC.md §13.2).

use serde::{Deserialize, Serialize};

use super::header::message_length;
use super::ids::{ClusterName, Sha256, SnapshotId, Uuid};
use super::json::{self, Base64, MAX_INTEGER, Object, Text};
use super::mac_text::{MacText, mac_text, signed_bytes};
use crate::error::{Error, Result};

/// The longest end that is read or written, in bytes.
pub const MAX_END: usize = 1 << 20;
/// The most segments of one journal: the end has to name them all.
pub const MAX_SEGMENTS: u64 = 4096;

const END_FAMILY: &str = "strongroom-journal-end/";
const END: &str = "journal end";
/// The role of a segment in an end.
const SEGMENT: &str = "segment";

/// Why a recording ended: the number in the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EndReason(pub u8);

impl EndReason {
    /// Another process wrote the end: the recorder did not.
    pub const UNKNOWN: Self = Self(0);
    /// The next journal of the same recorder follows.
    pub const ROLLED: Self = Self(1);
    /// The recorder was stopped.
    pub const STOPPED: Self = Self(2);
    /// Another agent leads.
    pub const LOST_LEAD: Self = Self(3);
    /// etcd compacted what was still to be recorded.
    pub const COMPACTED: Self = Self(4);
    /// etcd's history is another one, or went back.
    pub const PARTED: Self = Self(5);
    /// Too many revisions were missing.
    pub const BEHIND: Self = Self(6);
    /// The store took no more.
    pub const STORE: Self = Self(7);

    /// Whether what is recorded next does not follow.
    #[must_use]
    pub const fn breaks(self) -> bool {
        matches!(self, Self::COMPACTED | Self::PARTED | Self::BEHIND)
    }

    /// What it means, in words.
    #[must_use]
    pub const fn words(self) -> &'static str {
        match self.0 {
            0 => "another process ended it",
            1 => "the next journal follows",
            2 => "the recorder was stopped",
            3 => "another agent leads",
            4 => "etcd compacted what was still to be recorded",
            5 => "etcd's history is a different one, or went back",
            6 => "too many revisions were missing",
            7 => "the store took no more",
            _ => "a reason of a newer version",
        }
    }
}

/// One segment as an end names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentEntry {
    /// Length of the whole object in bytes.
    pub length: u64,
    /// Digest of the whole object.
    pub sha256: Sha256,
}

/// What a finished journal consists of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndObjects {
    /// Its segments, from number 1 on.
    Segments(Vec<SegmentEntry>),
    /// One object with the bodies of all of them.
    Bundle {
        /// The bundle.
        object: SegmentEntry,
        /// Digest of the last segment that it replaces. The others' digests are in the bodies.
        replaces: Sha256,
    },
}

/// What a journal held when it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndBody {
    /// The repository it was made in.
    pub origin: Uuid,
    /// The journal; equal to the path's.
    pub journal: SnapshotId,
    /// The cluster it is of.
    pub cluster: ClusterName,
    /// How many segments it had.
    pub segments: u64,
    /// The last complete main revision.
    pub last: u64,
    /// Every revision committed before this moment is in it: UTC in milliseconds, 0 for unknown.
    pub complete_ms: u64,
    /// Why it ended.
    pub reason: EndReason,
    /// Its objects.
    pub objects: EndObjects,
    /// The data-key commitment DC.
    pub commitment: [u8; 32],
}

#[derive(Serialize, Deserialize)]
struct WireEnd {
    origin: Text<Uuid>,
    journal: Text<SnapshotId>,
    cluster: Text<ClusterName>,
    segments: u64,
    last: u64,
    complete_ms: u64,
    reason: u8,
    #[serde(skip_serializing_if = "Option::is_none")]
    objects: Option<Vec<Object<WireSegment>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bundle: Option<Object<WireBundle>>,
    commitment: Base64<[u8; 32]>,
}

#[derive(Serialize, Deserialize)]
struct WireSegment {
    role: String,
    n: u64,
    length: u64,
    sha256: Text<Sha256>,
}

#[derive(Serialize, Deserialize)]
struct WireBundle {
    length: u64,
    sha256: Text<Sha256>,
    replaces: Text<Sha256>,
}

impl EndBody {
    /// What the MAC covers: lines 1 and 2 with both LFs.
    ///
    /// # Errors
    /// Usage when the body breaks a rule of §13.2; refused when it is longer than a reader takes.
    pub fn signed_bytes(&self) -> Result<Vec<u8>> {
        self.check().map_err(|why| Error::usage(format!("{END}: {why}")))?;
        let (objects, bundle) = match &self.objects {
            EndObjects::Segments(segments) => {
                let wire = |(n, entry): (u64, &SegmentEntry)| {
                    let (length, sha256) = (entry.length, Text(entry.sha256));
                    Object(WireSegment { role: SEGMENT.into(), n, length, sha256 })
                };
                (Some((1..).zip(segments).map(wire).collect()), None)
            }
            EndObjects::Bundle { object: SegmentEntry { length, sha256 }, replaces } => {
                let (length, sha256, replaces) = (*length, Text(*sha256), Text(*replaces));
                (None, Some(Object(WireBundle { length, sha256, replaces })))
            }
        };
        let wire = WireEnd {
            origin: Text(self.origin),
            journal: Text(self.journal),
            cluster: Text(self.cluster.clone()),
            segments: self.segments,
            last: self.last,
            complete_ms: self.complete_ms,
            reason: self.reason.0,
            objects,
            bundle,
            commitment: Base64(self.commitment),
        };
        signed_bytes(END, END_FAMILY, MAX_END, &wire)
    }

    fn parse(json: &[u8]) -> Result<Self> {
        let wire: WireEnd = json::parse(END, json)?;
        let refuse = |why| Error::tampered(format!("{END}: {why}"));
        let objects = match (wire.objects, wire.bundle) {
            (Some(objects), None) => {
                let mut segments = Vec::with_capacity(objects.len());
                for (at, Object(object)) in (1..).zip(objects) {
                    if object.role != SEGMENT || object.n != at {
                        return Err(refuse("its objects are not its segments in order"));
                    }
                    let (length, sha256) = (object.length, object.sha256.0);
                    segments.push(SegmentEntry { length, sha256 });
                }
                EndObjects::Segments(segments)
            }
            (None, Some(Object(WireBundle { length, sha256, replaces }))) => {
                let object = SegmentEntry { length, sha256: sha256.0 };
                EndObjects::Bundle { object, replaces: replaces.0 }
            }
            _ => return Err(refuse("it does not name either segments or a bundle")),
        };
        let body = Self {
            origin: wire.origin.0,
            journal: wire.journal.0,
            cluster: wire.cluster.0,
            segments: wire.segments,
            last: wire.last,
            complete_ms: wire.complete_ms,
            reason: EndReason(wire.reason),
            objects,
            commitment: wire.commitment.0,
        };
        body.check().map_err(refuse)?;
        Ok(body)
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.segments > MAX_SEGMENTS {
            return Err("too many segments");
        }
        if self.last == 0 || self.last > MAX_INTEGER || self.complete_ms > MAX_INTEGER {
            return Err("a number is out of range");
        }
        let objects = match &self.objects {
            EndObjects::Segments(segments) if segments.len() as u64 != self.segments => {
                return Err("it names another number of segments than it has");
            }
            EndObjects::Segments(segments) => segments.as_slice(),
            EndObjects::Bundle { .. } if self.segments == 0 => {
                return Err("it names a bundle of no segments");
            }
            EndObjects::Bundle { object, .. } => std::slice::from_ref(object),
        };
        let possible = |object: &SegmentEntry| {
            object.length <= MAX_INTEGER && message_length(object.length).is_some()
        };
        if objects.iter().all(possible) { Ok(()) } else { Err("no object has this length") }
    }
}

mac_text!(
    /// A journal's end as it stands in a repository. Its MAC is not yet checked.
    JournalEnd, EndBody, END, END_FAMILY, MAX_END
);

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::error::ErrorKind;

    const JOURNAL: &str = "01ARZ3NDEKTSV4RRFFQ69G5FAV";

    pub(in super::super) fn end(objects: EndObjects) -> JournalEnd {
        let body = EndBody {
            origin: "f81d4fae-7dec-41d0-a765-00a0c91e6bf6".parse().unwrap(),
            journal: JOURNAL.parse().unwrap(),
            cluster: ClusterName::default(),
            segments: 2,
            last: 77,
            complete_ms: 1_469_922_850_259,
            reason: EndReason::ROLLED,
            objects,
            commitment: [6; 32],
        };
        JournalEnd::finish(body, [9; 32]).unwrap()
    }

    pub(in super::super) fn segments() -> EndObjects {
        let of = |byte| SegmentEntry { length: 4200, sha256: Sha256([byte; 32]) };
        EndObjects::Segments(vec![of(1), of(2)])
    }

    #[test]
    fn an_end_names_segments_or_a_bundle() {
        // [S13.11]
        let object = SegmentEntry { length: 4200, sha256: Sha256([1; 32]) };
        let bundle = EndObjects::Bundle { object, replaces: Sha256([2; 32]) };
        for objects in [segments(), bundle.clone()] {
            let end = end(objects);
            assert_eq!(JournalEnd::parse(&end.print()).unwrap(), end);
        }
        let bundled = String::from_utf8(end(bundle).print()).unwrap();
        let text = bundled.replace("\"segments\":2", "\"segments\":0");
        assert_eq!(JournalEnd::parse(text.as_bytes()).unwrap_err().kind(), ErrorKind::Tampered);
        let at = bundled.find("\"bundle\"").unwrap();
        let bundle = &bundled[at..bundled.find("\"commitment\"").unwrap()];
        let bundle = format!("{bundle}\"commitment\"");
        let text = String::from_utf8(end(segments()).print()).unwrap();
        for text in [
            text.replace("\"segments\":2", "\"segments\":3"),
            text.replace("\"n\":2", "\"n\":3"),
            text.replace("\"n\":1", "\"n\":2"),
            text.replace("\"role\":\"segment\"", "\"role\":\"bundle\""),
            text.replace("4200", "103"),
            text.replace("\"last\":77", "\"last\":0"),
            text.replace("\"reason\":1", "\"reason\":256"),
            text.replace("\"commitment\"", &bundle),
            text.replace("\"objects\"", "\"things\""),
            text.replace("journal-end/1", "journal/1"),
        ] {
            let error = JournalEnd::parse(text.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Tampered, "{text}");
        }
    }

    /// The end of the longest journal can be written.
    #[test]
    fn an_end_names_as_many_segments_as_a_journal_has() {
        let entry = SegmentEntry { length: 88 + 16_400 * 4000 + 16, sha256: Sha256([1; 32]) };
        let mut body = end(segments()).body().clone();
        body.segments = MAX_SEGMENTS;
        body.objects = EndObjects::Segments(vec![entry; MAX_SEGMENTS as usize]);
        let printed = JournalEnd::finish(body.clone(), [0; 32]).unwrap().print();
        assert_eq!(JournalEnd::parse(&printed).unwrap().body(), &body);
        body.segments += 1;
        assert_eq!(JournalEnd::finish(body, [0; 32]).unwrap_err().kind(), ErrorKind::Usage);
    }
}
