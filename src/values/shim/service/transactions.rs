//! Transactions that the shim makes: of an operation on both sides of the reserved prefix, and of one that compares what
//! etcd cannot read.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use tonic::Status;

use super::super::budget::Room;
use super::super::compare::Read;
use super::super::method::Method;
use super::super::op::Op;
use super::super::rewrite::Rewriter;
use super::super::status::Failure;
use super::super::txn::{Txn, responses, took_effect};
use super::super::upstream::{Answer, Shim};
use crate::protobuf::fields::{HEADER, header, op, range, txn};
use crate::protobuf::{Singles, put_message, put_number, without};

/// Pauses between attempts at a transaction when another client was faster: from, to.
const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));
/// See [`Shim::compared`].
const MOST_READS: usize = 64;
/// Comparisons in one transaction that are decided here, each after a read. etcd takes 128 by default.
const MOST_COMPARES: usize = 4096;

impl Shim {
    /// An operation on both sides of the reserved prefix, at one moment.
    pub(super) async fn split(&mut self, headers: &HeaderMap, op: &Op) -> Result<Answer, Failure> {
        let mut request = Vec::new();
        op.put(&mut request, txn::SUCCESS, &[], true);
        let answer = if op.writes() {
            self.write(Method::Txn, headers, &request, None).await?
        } else {
            self.ask(Method::Txn, headers, &request).await?
        };
        let kind = if matches!(op, Op::Range { .. }) { op::RANGE } else { op::DELETE_RANGE };
        let given = &answer.message.clone();
        let work = |with: &Rewriter<'_>| {
            let mut parts = Vec::new();
            for op in responses(given)? {
                let part = Singles::<3>::read(op)?.message(kind)?.unwrap_or_default();
                // Its header would be one read before the request.
                parts.push(Vec::new());
                without(part, &[HEADER], parts.last_mut().ok_or_else(Failure::malformed)?)?;
            }
            let parts: Vec<_> = parts.iter().map(Vec::as_slice).collect();
            let mut message = Vec::new();
            if let Some(header) = Singles::<1>::read(given)?.message(HEADER)? {
                put_message(&mut message, HEADER, header);
            }
            message.extend(op.response(&parts, with)?);
            Ok(message)
        };
        self.rewritten(answer, op.writes(), work).await
    }

    /// A transaction that compares what etcd cannot read.
    pub(super) async fn decided(
        &mut self,
        headers: &HeaderMap,
        txn: &mut Txn,
        needs: usize,
        due: Instant,
    ) -> Result<Answer, Failure> {
        let shared = Arc::clone(&self.shared);
        let mut is_checked = false;
        let due = txn.stores(&shared.scope).then_some(due);
        let mut pause = PAUSE.0;
        loop {
            let (read, rooms) = self.compared(headers, txn).await?;
            let guarded = shared.opened(|with| txn.decide(&read, with, needs)).await?;
            drop((read, rooms));
            if guarded.is_partial && !is_checked {
                for check in txn.checks(needs)? {
                    self.ask(Method::Txn, headers, &check).await?;
                }
                is_checked = true;
            }
            let answer = if txn.writes() {
                self.write(Method::Txn, headers, &guarded.request, due).await?
            } else {
                self.ask(Method::Txn, headers, &guarded.request).await?
            };
            if took_effect(&answer.message)? {
                let message = &answer.message.clone();
                let work = |with: &Rewriter<'_>| txn.answer(message, with);
                return self.rewritten(answer, txn.writes(), work).await;
            }
            tokio::time::sleep(pause).await;
            pause = pause.saturating_mul(2).min(PAUSE.1);
        }
    }

    /// All that a transaction compares, at one revision, and what keeps room for it.
    async fn compared(
        &mut self,
        headers: &HeaderMap,
        txn: &Txn,
    ) -> Result<(Vec<Read>, Vec<Room>), Failure> {
        let mut compares = Vec::new();
        txn.compares(&mut compares);
        if compares.len() > MOST_COMPARES {
            // As etcd says it.
            let refused = "etcdserver: too many operations in txn request";
            return Err(Status::invalid_argument(refused).into());
        }
        let cipher = self.shared.namespace.cipher();
        let shared = Arc::clone(&self.shared);
        let with = shared.rewriter(&cipher);
        let asked: Vec<_> = compares.iter().map(|compare| compare.requests(&with)).collect();
        let all: Vec<_> = asked.iter().flatten().collect();
        let (mut revision, mut parts, mut rooms) = (0, Vec::new(), Vec::new());
        // Fewer than any etcd takes by default, so that its own limit need not be known.
        for chunk in all.chunks(MOST_READS) {
            let mut request = Vec::new();
            for range in chunk {
                let (mut range, mut message) = ((*range).clone(), Vec::new());
                put_number(&mut range, range::REVISION, revision);
                put_message(&mut message, op::RANGE, &range);
                put_message(&mut request, txn::SUCCESS, &message);
            }
            let answer = self.ask(Method::Txn, headers, &request).await?;
            for response in responses(&answer.message)? {
                let part = Singles::<1>::read(response)?.bytes(op::RANGE)?;
                parts.push(answer.message.slice_ref(part));
            }
            if revision == 0 {
                let header = Singles::<1>::read(&answer.message)?.bytes(HEADER)?;
                revision = Singles::<3>::read(header)?.number(header::REVISION)?;
            }
            rooms.extend(answer.room);
        }
        let mut parts = parts.into_iter();
        let read = asked.iter().map(|requests| Read {
            revision,
            parts: parts.by_ref().take(requests.len()).collect(),
        });
        Ok((read.collect(), rooms))
    }
}
