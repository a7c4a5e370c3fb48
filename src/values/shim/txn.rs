//! Transactions: values sealed in their operations, comparisons of values decided here.
//!
//! etcd cannot compare what it cannot read. When a transaction compares values, everything it compares is read at one
//! revision and decided here; what is then submitted is the branch that was chosen, guarded by modification revisions
//! such that it runs only if every decision on the way to it still stands. When it does not run, somebody was faster,
//! and it starts again: so the transaction takes effect at one moment, as it would in etcd alone.
//!
//! The branch that was not chosen is sent along where it is never run, so that etcd checks the whole transaction as
//! it would have (`server/etcdserver/api/v3rpc/key.go`, `checkTxnRequest`). Where that would be more than etcd takes at
//! once, the branches are sent for the check alone before.

use super::compare::{Compare, Read};
use super::op::{Op, put_answers};
use super::rewrite::Rewriter;
use super::scope::Scope;
use super::status::Failure;
#[cfg(feature = "proxy")]
use crate::protobuf::Malformed;
use crate::protobuf::fields::{op, txn, txn_response};
use crate::protobuf::{Raw, Singles, put_message, put_number};

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
    /// Whether the branches that are not run are left out, for etcd would count them together with the rest. Then etcd
    /// has to be asked about them apart: see [`Txn::checks`].
    pub(super) is_partial: bool,
}

impl Txn {
    pub(super) fn read(rewriter: &Rewriter<'_>, request: &[u8]) -> Result<Self, Failure> {
        let (mut compares, mut success, mut failure) = (Vec::new(), Vec::new(), Vec::new());
        let mut fields = Raw::new(request);
        while let Some((number, field, _)) = fields.next()? {
            match number {
                txn::COMPARE => compares.push(Compare::read(field.bytes()?)?),
                txn::SUCCESS => success.push(Op::read(rewriter, field.bytes()?)?),
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

    /// Decides all comparisons by what was `read` for them, in the order of [`compares`](Self::compares). The request
    /// had `needs` (see [`need`]).
    pub(super) fn decide(
        &mut self,
        read: &[Read],
        rewriter: &Rewriter<'_>,
        needs: usize,
    ) -> Result<Guarded, Failure> {
        let (mut read, mut guards) = (read.iter(), Vec::new());
        self.settle(&mut read, rewriter, true, &mut guards)?;
        guards.sort();
        guards.dedup();
        let mut all = Vec::new();
        self.compares(&mut all);
        let first = all.first().ok_or_else(Failure::malformed)?;
        let mut request = guarded(&guards, &self.encode(&first.never(), true));
        let is_partial = need(&request)? > needs;
        if is_partial {
            request = guarded(&guards, &self.encode(&first.never(), false));
        }
        // Etcd refuses it when it would have refused the client's.
        let own = guards.len();
        Ok(Guarded { request: padded(request, own, &first.always(), needs)?, is_partial })
    }

    /// Requests that etcd takes if it would take this one, which had `needs`, and that change nothing: one with each
    /// branch. No value to compare with is in them.
    pub(super) fn checks(&self, needs: usize) -> Result<Vec<Vec<u8>>, Failure> {
        let mut all = Vec::new();
        self.compares(&mut all);
        let never = all.first().ok_or_else(Failure::malformed)?.never();
        let check = |ops: &[Op]| {
            let mut request = Vec::new();
            put_message(&mut request, txn::COMPARE, &never);
            ops.iter().for_each(|op| op.put_unrun(&mut request, txn::SUCCESS));
            padded(request, 1, &never, needs)
        };
        Ok(vec![check(&self.success)?, check(&self.failure)?])
    }

    /// It, as etcd is to look at it and never to run it.
    pub(super) fn unrun(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for compare in &self.compares {
            put_message(&mut out, txn::COMPARE, &compare.never());
        }
        self.success.iter().for_each(|op| op.put_unrun(&mut out, txn::SUCCESS));
        self.failure.iter().for_each(|op| op.put_unrun(&mut out, txn::FAILURE));
        out
    }

    /// Decides this level and those within; adds guards where the way leads through.
    fn settle(
        &mut self,
        read: &mut std::slice::Iter<'_, Read>,
        rewriter: &Rewriter<'_>,
        on_the_way: bool,
        guards: &mut Vec<Vec<u8>>,
    ) -> Result<(), Failure> {
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
                    txn.settle(read, rewriter, on_the_way && chosen, guards)?;
                }
            }
        }
        Ok(())
    }

    /// The `TxnRequest` to send. Comparisons that are decided are not in it; the branches that were not chosen are, if it
    /// is `whole`.
    pub(super) fn encode(&self, never: &[u8], whole: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let Some(verdict) = self.verdict else {
            for compare in &self.compares {
                put_message(&mut out, txn::COMPARE, compare.raw());
            }
            self.success.iter().for_each(|op| op.put(&mut out, txn::SUCCESS, never, whole));
            self.failure.iter().for_each(|op| op.put(&mut out, txn::FAILURE, never, whole));
            return out;
        };
        let (chosen, other) = self.chosen(verdict);
        chosen.iter().for_each(|op| op.put(&mut out, txn::SUCCESS, never, whole));
        if whole && !other.is_empty() {
            let (mut unchosen, mut nested) = (Vec::new(), Vec::new());
            put_message(&mut unchosen, txn::COMPARE, never);
            other.iter().for_each(|op| op.put(&mut unchosen, txn::SUCCESS, never, whole));
            put_message(&mut nested, op::TXN, &unchosen);
            put_message(&mut out, txn::FAILURE, &nested);
        }
        out
    }

    fn chosen(&self, verdict: bool) -> (&[Op], &[Op]) {
        if verdict { (&self.success, &self.failure) } else { (&self.failure, &self.success) }
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
            if !matches!(number, txn_response::SUCCEEDED | txn_response::RESPONSES) {
                out.extend_from_slice(raw);
            }
        }
        let succeeded = match self.verdict {
            Some(verdict) => verdict,
            None => took_effect(response)?,
        };
        put_number(&mut out, txn_response::SUCCEEDED, i64::from(succeeded));
        let (chosen, responses) = (self.chosen(succeeded).0, responses(response)?);
        put_answers(chosen, &responses, rewriter, &mut out, txn_response::RESPONSES)?;
        Ok(out)
    }
}

/// Whether etcd ran a [`Guarded`] one, of which this is the answer; otherwise another client was faster.
pub(super) fn took_effect(response: &[u8]) -> Result<bool, Failure> {
    Ok(Singles::<2>::read(response)?.flag(txn_response::SUCCEEDED)?)
}

/// `request`, which has no comparisons, if all `guards` hold.
fn guarded(guards: &[Vec<u8>], request: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    guards.iter().for_each(|guard| put_message(&mut out, txn::COMPARE, guard));
    out.extend_from_slice(request);
    out
}

/// `request`, which has so many `own` comparisons, with others besides, such that it needs what the client's needed.
fn padded(request: Vec<u8>, own: usize, with: &[u8], needs: usize) -> Result<Vec<u8>, Failure> {
    let (width, within) = measures(&request)?;
    let wanted = needs.saturating_sub(within);
    if wanted <= width {
        return Ok(request);
    }
    let mut out = Vec::new();
    (own..wanted).for_each(|_| put_message(&mut out, txn::COMPARE, with));
    out.extend(request);
    Ok(out)
}

/// The smallest `--max-txn-ops` with which etcd takes a `TxnRequest`: a transaction counts its comparisons, or the
/// operations of a branch if those are more, and one within another counts besides (`server/etcdserver/api/v3rpc/key.go`).
pub(super) fn need(request: &[u8]) -> Result<usize, Failure> {
    let (width, within) = measures(request)?;
    Ok(width.saturating_add(within))
}

/// What a `TxnRequest` counts, and the most that one within it needs.
fn measures(request: &[u8]) -> Result<(usize, usize), Failure> {
    let (mut counts, mut within, mut fields) = ([0_usize; 3], 0, Raw::new(request));
    while let Some((number, field, _)) = fields.next()? {
        let [compares, success, failure] = &mut counts;
        let count = match number {
            txn::COMPARE => compares,
            txn::SUCCESS => success,
            _ => failure,
        };
        *count = count.saturating_add(1);
        if number != txn::COMPARE
            && let Some(txn) = Singles::<4>::read(field.bytes()?)?.message(op::TXN)?
        {
            within = within.max(need(txn)?);
        }
    }
    Ok((counts.into_iter().max().unwrap_or(0), within))
}

/// How many comparisons and operations a `TxnRequest` has, with those of the transactions within.
#[cfg(feature = "proxy")]
pub(super) fn parts(request: &[u8]) -> Result<usize, Malformed> {
    let (mut count, mut fields) = (0_usize, Raw::new(request));
    while let Some((number, field, _)) = fields.next()? {
        count = count.saturating_add(1);
        if number != txn::COMPARE
            && let Some(txn) = Singles::<4>::read(field.bytes()?)?.message(op::TXN)?
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
        if number == txn_response::RESPONSES {
            ops.push(field.bytes()?);
        }
    }
    Ok(ops)
}
