//! Segments and bundles as they are stored: what is inside them, body by body (SPEC.md §13.3).

use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::os::unix::fs::FileExt;

use zeroize::Zeroizing;

use crate::compress::{decompress_at_most, decompress_padded_by};
use crate::envelope::{DataKey, ObjectOpener};
use crate::error::{Error, Result};
use crate::format::{MAX_BODY, Role, SnapshotId, padme};

/// The longest segment's object, and the longest frame of a bundle.
pub(crate) const LONGEST: u64 = (MAX_BODY as u64) + (MAX_BODY as u64) / 4;
/// No message is shorter, padding included.
const SHORTEST: u64 = 4096;
/// No segment's object is shorter.
pub(super) const SHORTEST_OBJECT: u64 = SHORTEST;
/// The most that a frame of a bundle holds: a body and its length.
pub(super) const MAX_FRAME: usize = MAX_BODY + LENGTH;
/// Bytes of a length, before a frame of a bundle and before each body in it.
const LENGTH: usize = 4;
/// Padding that is read at once.
const PIECE: u64 = 1 << 20;

/// The length of a message of `length` bytes with the zeros behind it.
pub(super) fn padded(length: u64) -> u64 {
    padme(length.max(SHORTEST)).unwrap_or(u64::MAX)
}

/// The body of a segment.
///
/// # Errors
/// Those of SPEC.md §8.
pub(super) fn open_segment(
    data_key: &DataKey,
    id: SnapshotId,
    number: u64,
    bytes: Vec<u8>,
) -> Result<Zeroizing<Vec<u8>>> {
    // What is opened in place is secret, also where it ends with an error.
    let mut bytes = Zeroizing::new(bytes);
    let length = bytes.len() as u64;
    let (head, sealed) = bytes
        .split_at_mut_checked(ObjectOpener::HEAD_LEN as usize)
        .ok_or_else(|| Error::truncated("shorter than its header"))?;
    let key = data_key.journal_key();
    let opener = ObjectOpener::new(head, Role::Segment(number), id, &key, length)?;
    let message = opener.open(&(0..opener.message_len()), sealed)?;
    decompress_padded_by(message, padded, MAX_BODY as u64).map(Zeroizing::new)
}

/// A bundle in a file.
struct Bundle<'a> {
    file: &'a File,
    opener: ObjectOpener,
}

/// Takes the bodies of a bundle with their numbers.
pub(super) type Visit<'a> = dyn FnMut(u64, &[u8]) -> Result<ControlFlow<()>> + 'a;

/// Gives `visit` the bodies of the bundle in `file`, which has `length` bytes, with their numbers, until it breaks off.
///
/// # Errors
/// Those of SPEC.md §8, of the file and of `visit`.
pub(super) fn bundle_bodies(
    (file, length): (&File, u64),
    data_key: &DataKey,
    id: SnapshotId,
    visit: &mut Visit<'_>,
) -> Result<()> {
    if length < ObjectOpener::HEAD_LEN {
        return Err(Error::truncated("shorter than its header"));
    }
    let mut head = [0; ObjectOpener::HEAD_LEN as usize];
    file.read_exact_at(&mut head, 0).map_err(|error| Error::io("scratch file", error))?;
    let opener = ObjectOpener::new(&head, Role::Bundle, id, &data_key.journal_key(), length)?;
    let bundle = Bundle { file, opener };
    let (mut at, mut number) = (0, 0_u64);
    while let Some(frame) = bundle.frame(&mut at)? {
        let mut rest = frame.as_slice();
        if rest.is_empty() {
            return Err(Error::tampered("a frame of the bundle is empty"));
        }
        while !rest.is_empty() {
            let body = body(&mut rest).ok_or_else(|| Error::tampered("a body is cut off"))?;
            number = number.saturating_add(1);
            if visit(number, body)?.is_break() {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// The next body of a frame.
fn body<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let (length, behind) = rest.split_first_chunk::<LENGTH>()?;
    let length = usize::try_from(u32::from_be_bytes(*length)).ok()?;
    let (body, behind) = behind.split_at_checked(length)?;
    *rest = behind;
    Some(body)
}

impl Bundle<'_> {
    /// The frame at `at`, which is moved behind it; none behind the last one.
    fn frame(&self, at: &mut u64) -> Result<Option<Zeroizing<Vec<u8>>>> {
        let all = self.opener.message_len();
        let first = at.saturating_add(LENGTH as u64);
        if first > all {
            return self.check_padding(*at).map(|()| None);
        }
        let length = self.message(*at..first)?;
        let length = length.first_chunk::<LENGTH>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        if length == 0 {
            return self.check_padding(*at).map(|()| None);
        }
        let end = first.saturating_add(u64::from(length));
        if u64::from(length) > LONGEST || end > all {
            return Err(Error::tampered("a frame of the bundle is too long"));
        }
        let frame = self.message(first..end)?;
        *at = end;
        decompress_at_most(&frame, MAX_FRAME as u64).map(|frame| Some(Zeroizing::new(frame)))
    }

    /// That nothing but the right number of zeros stands behind `used` bytes ([S13.9]).
    fn check_padding(&self, used: u64) -> Result<()> {
        let all = self.opener.message_len();
        let refuse = || Error::tampered("what follows the bundle's frames is not its padding");
        if padded(used) != all {
            return Err(refuse());
        }
        let mut at = used;
        while at < all {
            let end = at.saturating_add(PIECE).min(all);
            if self.message(at..end)?.iter().any(|byte| *byte != 0) {
                return Err(refuse());
            }
            at = end;
        }
        Ok(())
    }

    /// These bytes of the message.
    fn message(&self, range: Range<u64>) -> Result<Zeroizing<Vec<u8>>> {
        let at = self.opener.sealed_range(&range)?;
        let length = usize::try_from(at.end.saturating_sub(at.start)).unwrap_or(usize::MAX);
        let mut bytes = Zeroizing::new(vec![0; length]);
        self.file
            .read_exact_at(&mut bytes, at.start)
            .map_err(|error| Error::io("scratch file", error))?;
        Ok(Zeroizing::new(self.opener.open(&range, &mut bytes)?.to_vec()))
    }
}
