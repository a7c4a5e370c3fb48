//! Comparisons of transactions, decided as etcd decides them (`server/etcdserver/apply.go`, `applyCompare`).

use std::cmp::Ordering;

use bytes::Bytes;

use super::rewrite::Rewriter;
use super::scope::{Outside, Span};
use super::status::Failure;
use crate::mvcc::KeyValue;
use crate::protobuf::fields::{compare, range, range_response};
use crate::protobuf::{Raw, Singles, put_bytes, put_number};

/// `Compare.CompareTarget`.
const VERSION: i64 = 0;
const MOD: i64 = 2;
const VALUE: i64 = 3;
const LEASE: i64 = 4;
/// `Compare.CompareResult`.
const GREATER: i64 = 1;
const LESS: i64 = 2;

/// A `Compare`.
pub(super) struct Compare {
    raw: Vec<u8>,
    result: i64,
    target: i64,
    key: Vec<u8>,
    end: Vec<u8>,
    number: i64,
    value: Vec<u8>,
}

/// A key and its modification revision.
pub(super) type Witness = (Vec<u8>, i64);

/// What a comparison is about, as it stood at `revision`: `RangeResponse`s.
pub(super) struct Read {
    pub(super) revision: i64,
    pub(super) parts: Vec<Bytes>,
}

impl Compare {
    pub(super) fn read(raw: &[u8]) -> Result<Self, Failure> {
        let fields = Singles::<64>::read(raw)?;
        let target = fields.number(compare::TARGET)?;
        // The fields that hold what is compared with are 4 to 8, one for each target; etcd takes another's for zero.
        let number = match target {
            VERSION..=MOD => {
                fields.number(compare::VERSION.saturating_add(target.unsigned_abs()))?
            }
            LEASE => fields.number(compare::LEASE)?,
            _ => 0,
        };
        Ok(Self {
            result: fields.number(compare::RESULT)?,
            target,
            key: fields.bytes(compare::KEY)?.to_vec(),
            end: fields.bytes(compare::RANGE_END)?.to_vec(),
            number,
            value: fields.bytes(compare::VALUE)?.to_vec(),
            raw: raw.to_vec(),
        })
    }

    pub(super) fn raw(&self) -> &[u8] {
        &self.raw
    }

    fn span(&self) -> Span<'_> {
        Span { key: (&*self.key).into(), end: (&*self.end).into() }
    }

    /// What of it clients may see: none, one or two spans.
    fn spans<'a>(&'a self, rewriter: &'a Rewriter<'_>) -> Vec<Span<'a>> {
        match rewriter.reserved.outside(&self.span()) {
            Outside::All => vec![self.span()],
            Outside::One(part) => vec![part],
            Outside::Two(before, after) => vec![before, after],
            Outside::Nothing => Vec::new(),
        }
    }

    /// Whether etcd cannot decide it.
    pub(super) fn is_ours_to_decide(&self, rewriter: &Rewriter<'_>) -> bool {
        let encrypted = !self.end.is_empty() || rewriter.scope.encrypts(&self.key);
        let touched = rewriter.reserved.outside(&self.span()) != Outside::All;
        self.target == VALUE && encrypted || touched
    }

    /// The `RangeRequest`s that fetch what it is about.
    pub(super) fn requests(&self, rewriter: &Rewriter<'_>) -> Vec<Vec<u8>> {
        let spans = self.spans(rewriter).into_iter();
        spans
            .map(|span| {
                let mut request = Vec::new();
                put_bytes(&mut request, range::KEY, &span.key);
                put_bytes(&mut request, range::RANGE_END, &span.end);
                // `keys_only`, where the key's revisions are enough: etcd 3.7 leaves out the lease then, too.
                let keys_only = (VERSION..=MOD).contains(&self.target);
                put_number(&mut request, range::KEYS_ONLY, i64::from(keys_only));
                request
            })
            .collect()
    }

    /// What it comes to, and a key with its modification revision on which that hangs: the one that is not as it
    /// should be, or one of those that are. None when there is no key at all.
    pub(super) fn decide(
        &self,
        read: &Read,
        rewriter: &Rewriter<'_>,
    ) -> Result<(bool, Option<Witness>), Failure> {
        let mut witness = None;
        for part in &read.parts {
            let mut fields = Raw::new(part);
            while let Some((number, field, _)) = fields.next()? {
                if number != range_response::KVS {
                    continue;
                }
                let kv = KeyValue::parse_strict(field.bytes()?)?;
                let holds = self.holds(&kv, rewriter)?;
                if !holds || witness.is_none() {
                    witness = Some((kv.key.to_vec(), kv.mod_revision));
                }
                if !holds {
                    return Ok((false, witness));
                }
            }
        }
        let verdict = match witness {
            Some(_) => true,
            // The value of no key is equal to none, not even to the empty one.
            None => self.target != VALUE && self.order(&KeyValue::default(), &[]),
        };
        Ok((verdict, witness))
    }

    fn holds(&self, kv: &KeyValue<'_>, rewriter: &Rewriter<'_>) -> Result<bool, Failure> {
        let value = if self.target == VALUE { rewriter.open(kv)? } else { Vec::new() };
        Ok(self.order(kv, &value))
    }

    fn order(&self, kv: &KeyValue<'_>, value: &[u8]) -> bool {
        let order = match self.target {
            VERSION => kv.version.cmp(&self.number),
            1 => kv.create_revision.cmp(&self.number),
            MOD => kv.mod_revision.cmp(&self.number),
            VALUE => value.cmp(&self.value),
            LEASE => kv.lease.cmp(&self.number),
            _ => Ordering::Equal,
        };
        match self.result {
            0 => order.is_eq(),
            GREATER => order.is_gt(),
            LESS => order.is_lt(),
            3 => order.is_ne(),
            _ => true,
        }
    }

    /// Appends the `Compare`s under which it comes to the same as [`decide`](Self::decide) said of `read`.
    pub(super) fn guard(
        &self,
        read: &Read,
        (verdict, witness): &(bool, Option<Witness>),
        rewriter: &Rewriter<'_>,
        guards: &mut Vec<Vec<u8>>,
    ) {
        if let Some((key, revision)) = witness {
            guards.push(compare_mod(key, &[], 0, *revision));
            if !verdict || self.end.is_empty() {
                return;
            }
        }
        // No key of the range has changed or come since; when there was none, there is none.
        let beyond = witness.as_ref().map_or(1, |_| read.revision.saturating_add(1));
        for span in self.spans(rewriter) {
            guards.push(compare_mod(&span.key, &span.end, LESS, beyond));
        }
    }

    /// A comparison of the same key that is never true: no version is below 0.
    pub(super) fn never(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_number(&mut out, compare::RESULT, LESS);
        put_bytes(&mut out, compare::KEY, &self.key);
        out
    }

    /// A comparison of the same key that is always true.
    pub(super) fn always(&self) -> Vec<u8> {
        let mut out = Vec::new();
        put_number(&mut out, compare::RESULT, GREATER);
        put_bytes(&mut out, compare::KEY, &self.key);
        put_number(&mut out, compare::VERSION, -1);
        out
    }
}

/// A `Compare` of modification revisions.
fn compare_mod(key: &[u8], end: &[u8], result: i64, revision: i64) -> Vec<u8> {
    let mut out = Vec::new();
    put_number(&mut out, compare::RESULT, result);
    put_number(&mut out, compare::TARGET, MOD);
    put_bytes(&mut out, compare::KEY, key);
    put_number(&mut out, compare::MOD_REVISION, revision);
    put_bytes(&mut out, compare::RANGE_END, end);
    out
}
