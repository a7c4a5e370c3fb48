//! An answer to a write for which there is no memory: what it says, without the values.
//!
//! The write has happened, and its client has to learn that. The answer is read as it comes, and what is kept of it is
//! small: everything but values, and of their keys as many as there is room for.

use bytes::{Buf, Bytes};
use tonic::Status;

use super::frames::Frames;
use super::method::Method;
use super::rewrite::Lenient;
use super::txn::MAX_DEPTH;
use crate::protobuf::fields::{
    delete_range_response, key_value, op, put_response, range_response, txn_response,
};
use crate::protobuf::{put_message, put_varint};

/// Bytes of keys and the like that are kept; the call's room covers them.
const KEPT: usize = 16 << 10;
/// Bytes of all that is kept.
const MOST: usize = 1 << 20;
/// A transaction within a transaction takes two messages, and the deepest one holds answers with keys.
const DEEPEST: usize = 2 * MAX_DEPTH + 4;

/// A message of an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Range,
    Put,
    Delete,
    Txn,
    Op,
    KeyValue,
}

impl Kind {
    /// The answer to a write of `method`.
    pub(super) fn of(method: Method) -> Option<Self> {
        match method {
            Method::Put => Some(Self::Put),
            Method::DeleteRange => Some(Self::Delete),
            Method::Txn => Some(Self::Txn),
            _ => None,
        }
    }

    /// The message in its field `number`, if that is looked into.
    fn within(self, number: u64) -> Option<Self> {
        Some(match (self, number) {
            (Self::Range, range_response::KVS)
            | (Self::Put, put_response::PREV_KV)
            | (Self::Delete, delete_range_response::PREV_KVS) => Self::KeyValue,
            (Self::Txn, txn_response::RESPONSES) => Self::Op,
            (Self::Op, op::RANGE) => Self::Range,
            (Self::Op, op::PUT) => Self::Put,
            (Self::Op, op::DELETE_RANGE) => Self::Delete,
            (Self::Op, op::TXN) => Self::Txn,
            _ => return None,
        })
    }

    fn is_key(self, number: u64) -> bool {
        self == Self::KeyValue && number == key_value::KEY
    }

    fn is_value(self, number: u64) -> bool {
        self == Self::KeyValue && number == key_value::VALUE
    }
}

/// A message that is being read.
struct Open {
    number: u64,
    kind: Kind,
    /// Bytes of it that are still to come.
    left: usize,
    kept: Vec<u8>,
    key: Vec<u8>,
    has_value: bool,
}

impl Open {
    fn new(number: u64, kind: Kind, left: usize) -> Self {
        Self { number, kind, left, kept: Vec::new(), key: Vec::new(), has_value: false }
    }

    fn takes(&mut self, bytes: usize) -> Result<(), Status> {
        self.left = self.left.checked_sub(bytes).ok_or_else(malformed)?;
        Ok(())
    }
}

/// The answer to a write. That has happened: if there is no room for the answer, its values are left out, and their keys
/// are returned.
pub(super) async fn written(
    frames: &mut Frames,
    kind: Kind,
) -> Result<Option<(Bytes, Option<Lenient>)>, Status> {
    if let Some((length, false)) = frames.announced().await? {
        frames.skip_prefix();
        let (message, left_out) = skim(frames, kind, length).await?;
        return Ok(Some((message.into(), Some(left_out))));
    }
    Ok(frames.next().await?.map(|message| (message, None)))
}

/// Reads a message of `length` bytes, which begins now. The message without its values, and whose they were.
async fn skim(
    frames: &mut Frames,
    kind: Kind,
    length: usize,
) -> Result<(Vec<u8>, Lenient), Status> {
    let (lenient, mut kept) = (Lenient::default(), 0_usize);
    let mut open = vec![Open::new(0, kind, length)];
    while let Some(mut top) = open.pop() {
        if top.left == 0 {
            if top.has_value {
                lenient.add(&top.key);
            }
            let Some(parent) = open.last_mut() else { return Ok((top.kept, lenient)) };
            put_message(&mut parent.kept, top.number, &top.kept);
            continue;
        }
        let tag = varint(frames, &mut top).await?;
        kept = kept.saturating_add(2);
        match tag & 7 {
            0 => {
                let number = varint(frames, &mut top).await?;
                put_varint(&mut top.kept, tag);
                put_varint(&mut top.kept, number);
            }
            2 => {
                let length = field_length(frames, &mut top).await?;
                let (number, full) = (tag >> 3, kept.saturating_add(length) > KEPT);
                match top.kind.within(number) {
                    Some(Kind::KeyValue) if kept > KEPT => {
                        skip(frames, length).await?;
                        lenient.unnamed();
                    }
                    Some(kind) => {
                        open.push(top);
                        top = Open::new(number, kind, length);
                    }
                    None if top.kind.is_value(number) || full => {
                        skip(frames, length).await?;
                        top.has_value |= top.kind.is_value(number) && length > 0;
                    }
                    None => {
                        let bytes = take(frames, length).await?;
                        put_message(&mut top.kept, number, &bytes);
                        kept = kept.saturating_add(length);
                        if top.kind.is_key(number) {
                            top.key = bytes;
                        }
                    }
                }
            }
            _ => return Err(malformed()),
        }
        if open.len() > DEEPEST || kept > MOST {
            return Err(malformed());
        }
        open.push(top);
    }
    Err(malformed())
}

async fn varint(frames: &mut Frames, of: &mut Open) -> Result<u64, Status> {
    let (mut number, mut shift) = (0_u64, 0_u32);
    loop {
        let byte = take(frames, 1).await?.first().copied().ok_or_else(malformed)?;
        of.takes(1)?;
        number |= u64::from(byte & 0x7f).checked_shl(shift).ok_or_else(malformed)?;
        if byte < 0x80 {
            return Ok(number);
        }
        shift = shift.saturating_add(7);
    }
}

/// Length of the field that comes, which is part of `of`.
async fn field_length(frames: &mut Frames, of: &mut Open) -> Result<usize, Status> {
    let length = varint(frames, of).await?;
    let length = usize::try_from(length).map_err(|_| malformed())?;
    of.takes(length)?;
    Ok(length)
}

/// The next bytes, which are few.
async fn take(frames: &mut Frames, length: usize) -> Result<Vec<u8>, Status> {
    while frames.buffer().len() < length {
        more(frames).await?;
    }
    Ok(frames.buffer().split_to(length).to_vec())
}

async fn skip(frames: &mut Frames, length: usize) -> Result<(), Status> {
    let mut left = length;
    while left > 0 {
        if frames.buffer().is_empty() {
            more(frames).await?;
        }
        let now = frames.buffer().len().min(left);
        frames.buffer().advance(now);
        left = left.saturating_sub(now);
    }
    Ok(())
}

async fn more(frames: &mut Frames) -> Result<(), Status> {
    if frames.more().await? { Ok(()) } else { Err(super::status::broke_off()) }
}

fn malformed() -> Status {
    super::status::Failure::malformed().status()
}
