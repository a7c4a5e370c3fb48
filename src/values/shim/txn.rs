//! Transactions: values sealed in their operations, comparisons of values decided here.
//!
//! etcd cannot compare what it cannot read. When a transaction compares values, everything it compares is read at one
//! revision and decided here; what is then submitted is the branch that was chosen, guarded by modification revisions
//! such that it runs only if every decision on the way to it still stands. When it does not run, somebody was faster,
//! and it starts again: so the transaction takes effect at one moment, as it would in etcd alone.
//!
//! The branch that was not chosen travels along where it is never run, so that etcd checks the whole transaction as
//! it would have (`server/etcdserver/api/v3rpc/key.go`, `checkTxnRequest`).

use super::compare::{Compare, Read};
use super::op::{Op, put_answers};
use super::rewrite::Rewriter;
use super::scope::Scope;
use super::status::Failure;
use super::wire::{Raw, Singles, put_message, put_number, without};
#[cfg(feature = "proxy")]
use crate::mvcc::proto::Malformed;

/// Transactions within transactions, at most. etcd has no limit but that of a request's size.
pub(super) const MAX_DEPTH: usize = 100;

/// A `TxnRequest`.
pub(super) struct Txn {
    compares: Vec<Compare>,
    success: Vec<Op>,
    failure: Vec<Op>,
    /// What its comparisons come to, when that is decided here.
    verdict: Option<bool>,
}

/// What is submitted in a transaction's place once it is decided.
pub(super) struct Guarded {
    pub(super) request: Vec<u8>,
    /// How many transactions stand around it, each with some of the guards.
    layers: usize,
}

impl Txn {
    pub(super) fn read(rewriter: &Rewriter<'_>, request: &[u8]) -> Result<Self, Failure> {
        let (mut compares, mut success, mut failure) = (Vec::new(), Vec::new(), Vec::new());
        let mut fields = Raw::new(request);
        while let Some((number, field, _)) = fields.next()? {
            match number {
                1 => compares.push(Compare::read(field.bytes()?)?),
                2 => success.push(Op::read(rewriter, field.bytes()?)?),
                _ => failure.push(Op::read(rewriter, field.bytes()?)?),
            }
        }
        Ok(Self { compares, success, failure, verdict: None })
    }

    /// Whether it may change something, whichever way it goes.
    pub(super) fn writes(&self) -> bool {
        self.success.iter().chain(&self.failure).any(Op::writes)
    }

    /// Whether it may store a value that is encrypted, or is to be.
    pub(super) fn stores(&self, scope: &Scope) -> bool {
        self.success.iter().chain(&self.failure).any(|op| op.stores(scope))
    }

    /// Whether etcd cannot decide it: it compares values that are encrypted, or reserved keys.
    pub(super) fn is_ours_to_decide(&self, rewriter: &Rewriter<'_>) -> bool {
        self.any(&|compare| compare.is_ours_to_decide(rewriter))
    }

    fn any(&self, test: &dyn Fn(&Compare) -> bool) -> bool {
        self.compares.iter().any(test) || self.nested().any(|txn| txn.any(test))
    }

    fn nested(&self) -> impl Iterator<Item = &Self> {
        self.success.iter().chain(&self.failure).filter_map(|op| match op {
            Op::Txn(txn) => Some(&**txn),
            _ => None,
        })
    }

    /// All comparisons of it and of those within, in the order in which they are decided.
    pub(super) fn compares<'a>(&'a self, into: &mut Vec<&'a Compare>) {
        into.extend(&self.compares);
        self.nested().for_each(|txn| txn.compares(into));
    }

    /// Decides all comparisons by what was `read` for them, in the order of [`compares`](Self::compares).
    pub(super) fn decide(
        &mut self,
        read: &[Read],
        rewriter: &Rewriter<'_>,
    ) -> Result<Guarded, Failure> {
        let (mut read, mut guards, mut widest) = (read.iter(), Vec::new(), 1);
        self.settle(&mut read, rewriter, true, &mut guards, &mut widest)?;
        guards.sort();
        guards.dedup();
        let mut all = Vec::new();
        self.compares(&mut all);
        let never = all.first().map_or_else(Vec::new, |compare| compare.never());
        Ok(self.guarded(&guards, widest, &never))
    }

    /// Decides this level and those within; adds guards where the way leads through.
    fn settle(
        &mut self,
        read: &mut std::slice::Iter<'_, Read>,
        rewriter: &Rewriter<'_>,
        on_the_way: bool,
        guards: &mut Vec<Vec<u8>>,
        widest: &mut usize,
    ) -> Result<(), Failure> {
        *widest = (*widest).max(self.compares.len());
        let (mut verdict, mut own) = (true, Vec::new());
        for compare in &self.compares {
            let read = read.next().ok_or_else(Failure::malformed)?;
            let decided = compare.decide(read, rewriter)?;
            // One that is false settles it, whatever becomes of the others.
            if verdict {
                verdict = decided.0;
                if !verdict {
                    own.clear();
                }
                compare.guard(read, &decided, rewriter, &mut own);
            }
        }
        self.verdict = Some(verdict);
        if on_the_way {
            guards.append(&mut own);
        }
        for (ops, chosen) in [(&mut self.success, verdict), (&mut self.failure, !verdict)] {
            for op in ops {
                if let Op::Txn(txn) = op {
                    txn.settle(read, rewriter, on_the_way && chosen, guards, widest)?;
                }
            }
        }
        Ok(())
    }

    /// What is sent when the guards, at most `widest` to a transaction, stand around it.
    fn guarded(&self, guards: &[Vec<u8>], widest: usize, never: &[u8]) -> Guarded {
        let (mut request, mut layers) = (self.encode(never), 0);
        let mut chunks: Vec<_> = guards.chunks(widest).collect();
        // Those next to it stand in its own place: it has no comparisons left.
        if let Some(guards) = chunks.pop() {
            let mut own = Vec::new();
            guards.iter().for_each(|guard| put_message(&mut own, 1, guard));
            own.append(&mut request);
            request = own;
        }
        for guards in chunks.into_iter().rev() {
            let mut outer = Vec::new();
            guards.iter().for_each(|guard| put_message(&mut outer, 1, guard));
            let mut op = Vec::new();
            put_message(&mut op, 4, &request);
            put_message(&mut outer, 2, &op);
            (request, layers) = (outer, layers + 1);
        }
        Guarded { request, layers }
    }

    /// The `TxnRequest` to send. Comparisons that are decided are not in it.
    pub(super) fn encode(&self, never: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(verdict) = self.verdict else {
            self.compares.iter().for_each(|compare| put_message(&mut out, 1, compare.raw()));
            self.success.iter().for_each(|op| op.put(&mut out, 2, never));
            self.failure.iter().for_each(|op| op.put(&mut out, 3, never));
            return out;
        };
        let (chosen, other) = self.chosen(verdict);
        chosen.iter().for_each(|op| op.put(&mut out, 2, never));
        if !other.is_empty() {
            let (mut unchosen, mut op) = (Vec::new(), Vec::new());
            put_message(&mut unchosen, 1, never);
            other.iter().for_each(|op| op.put(&mut unchosen, 2, never));
            put_message(&mut op, 4, &unchosen);
            put_message(&mut out, 3, &op);
        }
        out
    }

    fn chosen(&self, verdict: bool) -> (&[Op], &[Op]) {
        if verdict { (&self.success, &self.failure) } else { (&self.failure, &self.success) }
    }

    /// Whether etcd ran it; otherwise another client was faster than the guards.
    pub(super) fn took_effect(&self, guarded: &Guarded, response: &[u8]) -> Result<bool, Failure> {
        Ok(guarded.inner(response)?.is_some())
    }

    /// The client's answer to a [`Guarded`] one that took effect.
    pub(super) fn guarded_answer(
        &self,
        guarded: &Guarded,
        response: &[u8],
        rewriter: &Rewriter<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let inner = guarded.inner(response)?.ok_or_else(Failure::malformed)?;
        if guarded.layers == 0 {
            return self.answer(inner, rewriter);
        }
        // The header is that of the outermost transaction; etcd leaves it empty within.
        let mut message = Vec::with_capacity(response.len());
        if let Some(header) = Singles::<1>::read(response)?.message(1)? {
            put_message(&mut message, 1, header);
        }
        without(inner, &[1], &mut message)?;
        self.answer(&message, rewriter)
    }

    /// The client's `TxnResponse` for etcd's.
    pub(super) fn answer(
        &self,
        response: &[u8],
        rewriter: &Rewriter<'_>,
    ) -> Result<Vec<u8>, Failure> {
        let mut out = Vec::with_capacity(response.len());
        let mut fields = Raw::new(response);
        while let Some((number, _, raw)) = fields.next()? {
            if !matches!(number, 2 | 3) {
                out.extend_from_slice(raw);
            }
        }
        let succeeded = match self.verdict {
            Some(verdict) => verdict,
            None => Singles::<2>::read(response)?.flag(2)?,
        };
        put_number(&mut out, 2, i64::from(succeeded));
        put_answers(self.chosen(succeeded).0, &responses(response)?, rewriter, &mut out, 3)?;
        Ok(out)
    }
}

impl Guarded {
    /// The `TxnResponse` within all guards; `None` when one of them did not hold.
    fn inner<'a>(&self, response: &'a [u8]) -> Result<Option<&'a [u8]>, Failure> {
        let mut inner = response;
        for layer in 0..=self.layers {
            if !Singles::<2>::read(inner)?.flag(2)? {
                return Ok(None);
            }
            if layer < self.layers {
                let op = responses(inner)?.first().copied().ok_or_else(Failure::malformed)?;
                inner = Singles::<4>::read(op)?.message(4)?.ok_or_else(Failure::malformed)?;
            }
        }
        Ok(Some(inner))
    }
}

/// How many comparisons and operations a `TxnRequest` has, with those of the transactions within.
#[cfg(feature = "proxy")]
pub(super) fn parts(request: &[u8]) -> Result<usize, Malformed> {
    let (mut count, mut fields) = (0_usize, Raw::new(request));
    while let Some((number, field, _)) = fields.next()? {
        count = count.saturating_add(1);
        if number != 1
            && let Some(txn) = Singles::<4>::read(field.bytes()?)?.message(4)?
        {
            count = count.saturating_add(parts(txn)?);
        }
    }
    Ok(count)
}

/// The `ResponseOp`s of a `TxnResponse`.
pub(super) fn responses(response: &[u8]) -> Result<Vec<&[u8]>, Failure> {
    let (mut ops, mut fields) = (Vec::new(), Raw::new(response));
    while let Some((number, field, _)) = fields.next()? {
        if number == 3 {
            ops.push(field.bytes()?);
        }
    }
    Ok(ops)
}
