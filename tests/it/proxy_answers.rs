//! etcd's answers, decoded, and what of them is certain.

use std::fmt;

use crate::raw::{Node, decode};

/// A type of message.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    Range,
    Put,
    Delete,
    Txn,
    /// `ResponseOp`.
    Op,
    TimeToLive,
    Leases,
    Leader,
    Campaign,
    Watch,
    Event,
    Header,
    /// One without messages in it, such as `KeyValue`.
    Plain,
    /// Another answer, without messages but for its header.
    Other,
}

impl Kind {
    /// The type of the message that is in `field`, if it is one.
    fn inner(self, field: u64) -> Option<Self> {
        match (self, field) {
            (Self::Header | Self::Plain, _) => None,
            (Self::Op, 1) => Some(Self::Range),
            (Self::Op, 2) => Some(Self::Put),
            (Self::Op, 3) => Some(Self::Delete),
            (Self::Op, 4) => Some(Self::Txn),
            (Self::Event, 2 | 3) => Some(Self::Plain),
            (Self::Event, _) => None,
            (_, 1) => Some(Self::Header),
            (Self::Range | Self::Put | Self::Leader | Self::Campaign | Self::Leases, 2)
            | (Self::Delete, 3) => Some(Self::Plain),
            (Self::Txn, 3) => Some(Self::Op),
            (Self::Watch, 11) => Some(Self::Event),
            _ => None,
        }
    }
}

/// A field: its number, and its value as a number, as bytes or as a message.
#[derive(Clone, PartialEq)]
pub(crate) struct Field {
    pub(crate) number: u64,
    pub(crate) value: u64,
    pub(crate) bytes: Vec<u8>,
    pub(crate) message: Option<Vec<Field>>,
}

impl Field {
    /// A field of the message that it is; all zero when it is not there.
    pub(crate) fn inner(&self, number: u64) -> Self {
        let found = self.message.iter().flatten().find(|field| field.number == number);
        let none = Self { number, value: 0, bytes: Vec::new(), message: None };
        found.cloned().unwrap_or(none)
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.number)?;
        match &self.message {
            Some(message) => write!(f, "{message:?}"),
            None if self.bytes.is_empty() => write!(f, "={}", self.value),
            None => write!(f, "=\"{}\"", self.bytes.escape_ascii()),
        }
    }
}

/// The fields of a message in the order of their numbers, without what names the server and its term.
pub(crate) fn fields(kind: Kind, message: &[u8]) -> Vec<Field> {
    let mut all: Vec<_> = decode(message)
        .into_iter()
        .filter(|(number, ..)| kind != Kind::Header || *number == 3)
        .map(|(number, value, bytes)| match kind.inner(number) {
            Some(inner) => {
                let message = Some(fields(inner, &bytes));
                Field { number, value: 0, bytes: Vec::new(), message }
            }
            None => Field { number, value, bytes, message: None },
        })
        .collect();
    all.sort_by_key(|field| field.number);
    all
}

/// The number of a request's field.
fn number(request: &[Node], field: u64) -> u64 {
    let found = request.iter().find(|node| node.field() == field);
    found.map_or(0, |node| match node {
        Node::Number(_, number) | Node::Choice(_, number) => *number,
        _ => 0,
    })
}

/// Brings into one order what etcd answers in no certain order, and leaves out what is only chance.
pub(crate) fn settle(kind: Kind, request: &[Node], answer: &mut [Field]) {
    match kind {
        Kind::Range => settle_range(request, answer),
        Kind::Txn => {
            let succeeded = answer.iter().any(|field| field.number == 2 && field.value == 1);
            let branch = if succeeded { 2 } else { 3 };
            let ops = request.iter().filter(|node| node.field() == branch);
            for (op, answer) in ops.zip(answer.iter_mut().filter(|field| field.number == 3)) {
                let (Node::Many(_, op), Some(answer)) = (op, &mut answer.message) else { continue };
                if let ([Node::Message(kind, request)], [Field { message: Some(answer), .. }]) =
                    (&op[..], &mut answer[..])
                {
                    match kind {
                        1 => settle(Kind::Range, request, answer),
                        4 => settle(Kind::Txn, request, answer),
                        _ => {}
                    }
                }
            }
        }
        // The seconds that are left go by between two requests; etcd lists a lease's keys as they come.
        Kind::TimeToLive => {
            for left in answer.iter_mut().filter(|field| field.number == 3) {
                left.value = if (left.value as i64) < 0 { left.value } else { 1 };
            }
            answer
                .sort_by(|one, other| (one.number, &one.bytes).cmp(&(other.number, &other.bytes)));
        }
        Kind::Leases => answer.sort_by_key(|field| (field.number, field.inner(1).value)),
        _ => {}
    }
}

/// Keys that are equal in what they are sorted by come in no certain order, and with a limit it is chance which of the
/// last ones come.
fn settle_range(request: &[Node], answer: &mut [Field]) {
    let target = number(request, 6);
    if target == 0 {
        return;
    }
    let more = answer.iter().any(|field| field.number == 3 && field.value == 1);
    let by = |kv: &Field| match target {
        1 => kv.inner(4),
        2 => kv.inner(2),
        3 => kv.inner(3),
        // Not in the answer when only keys are asked for: then all are equal here.
        _ => kv.inner(5),
    };
    let begin = answer.iter().position(|field| field.number == 2).unwrap_or(answer.len());
    let length = answer[begin..].iter().take_while(|field| field.number == 2).count();
    let kvs = &mut answer[begin..begin + length];
    let mut groups: Vec<_> = kvs.chunk_by_mut(|one, other| by(one) == by(other)).collect();
    for group in &mut groups {
        group.sort_by(|one, other| one.inner(1).bytes.cmp(&other.inner(1).bytes));
    }
    if more && let Some(last) = groups.last_mut() {
        for kv in &mut **last {
            kv.message = Some(vec![by(kv)]);
        }
    }
}
