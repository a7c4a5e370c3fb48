//! Makes the changes that a plan holds.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::ops::ControlFlow;
use std::pin::pin;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Action, Leases, Plan, Planned};
use crate::backup::{Inside, look_inside};
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::{Choice, Outcome, Write};
use crate::format::serial;
use crate::keys::KeySet;
use crate::mvcc::{RENEWED_LEASE_TTL, RecordSource, Revision};
use crate::secret::SecretBytes;
use crate::store::Repository;
use crate::task::interrupted;
use crate::task::{Control, Step, Unit};

/// Changes a second: a running cluster and its watchers do not feel it.
pub const DEFAULT_RATE: NonZeroU32 = match NonZeroU32::new(200) {
    Some(rate) => rate,
    None => NonZeroU32::MIN,
};
/// Changes under way at once, and values read ahead.
const IN_FLIGHT: usize = 8;
/// How far the pace may be behind and still catch up: timers are no finer than a millisecond.
const CATCH_UP: Duration = Duration::from_millis(20);
/// How long an interrupted job waits for the answers that are under way.
const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// A change that etcd refused.
#[derive(Debug, Serialize)]
#[non_exhaustive]
pub struct Refused {
    /// The key.
    #[serde(flatten, serialize_with = "serial::key")]
    pub key: Box<[u8]>,
    /// Why.
    #[serde(flatten, serialize_with = "message")]
    pub error: Error,
}

fn message<S: Serializer>(error: &Error, out: S) -> Result<S::Ok, S::Error> {
    let mut map = out.serialize_map(Some(2))?;
    map.serialize_entry("message", &error.to_string())?;
    map.serialize_entry("hint", &error.hint_text())?;
    map.end()
}

/// What was done of a plan.
#[derive(Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Applied {
    /// Keys created.
    pub created: u64,
    /// Keys changed.
    pub changed: u64,
    /// Keys deleted.
    pub deleted: u64,
    /// Keys that were changed by somebody else since the plan was made, and left as they are; in order.
    #[serde(serialize_with = "keys")]
    pub conflicts: Vec<Box<[u8]>>,
    /// Keys that etcd refused, in order.
    pub refused: Vec<Refused>,
    /// Keys of the plan that were not tried, or whose answer was lost.
    pub left: u64,
    /// Leases granted.
    pub leases_granted: u64,
    /// Why it ended before the plan's end, if it did. Another plan goes on where this one ended.
    #[serde(serialize_with = "kind")]
    pub stopped: Option<Error>,
    /// Wall time.
    #[serde(rename = "duration_seconds", serialize_with = "serial::seconds")]
    pub duration: Duration,
}

fn keys<S: Serializer>(keys: &[Box<[u8]>], out: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Named<'a>(#[serde(serialize_with = "serial::key")] &'a [u8]);
    out.collect_seq(keys.iter().map(|key| Named(key)))
}

fn kind<S: Serializer>(error: &Option<Error>, out: S) -> Result<S::Ok, S::Error> {
    error.as_ref().map(|error| error.kind().name()).serialize(out)
}

/// One change, ready to be made.
struct Job {
    at: usize,
    /// `None` to delete.
    value: Option<SecretBytes>,
}

/// Makes the plan's changes, at most `rate` a second, in the order in which the snapshot's cluster saw them, deletions
/// last. Each is a transaction that changes its key only if that still is as the plan saw it. What fails underway, or
/// an interruption, shows in [`Applied::stopped`].
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) when `choice` is of another etcd cluster than the plan.
pub async fn apply_plan(
    repository: &Repository,
    keys: &KeySet,
    plan: &Plan,
    choice: &Choice,
    rate: NonZeroU32,
    control: &Control,
) -> Result<Applied> {
    if choice.member.cluster_id != plan.etcd_cluster {
        return Err(Error::new(ErrorKind::Refused, "the plan was made for another etcd cluster"));
    }
    let started = Instant::now();
    let order = order(plan);
    let total = order.len() as u64;
    control.begin_counting("writing keys", Some(total), Unit::Keys);
    let (sender, jobs) = mpsc::channel(IN_FLIGHT);
    let reading = look_inside(repository, keys, plan.view.clone(), move |inside| {
        read_values(inside, order, &sender)
    });
    let mut writing = pin!(Writer::new(plan, choice, rate).run(jobs, control));
    let mut reading = pin!(reading);
    let mut read = None;
    let mut applied = loop {
        tokio::select! {
            applied = &mut writing => break applied,
            ended = &mut reading, if read.is_none() => read = Some(ended),
        }
    };
    // The writer ends when there are no more values, whether they were all read or not.
    if applied.stopped.is_none() {
        let ended = match read {
            Some(ended) => ended,
            None => reading.await,
        };
        applied.stopped = ended.err();
    }
    let done = [applied.created, applied.changed, applied.deleted].iter().sum::<u64>();
    let told = done + applied.conflicts.len() as u64 + applied.refused.len() as u64;
    applied.left = total.saturating_sub(told);
    applied.conflicts.sort_unstable();
    applied.refused.sort_unstable_by(|a, b| a.key.cmp(&b.key));
    applied.duration = started.elapsed();
    Ok(applied)
}

/// Places in the plan with the change that has the value, in order of the changes: so the snapshot is read straight on.
fn order(plan: &Plan) -> Vec<(usize, Option<Revision>)> {
    let written = plan.keys.iter().enumerate().filter(|(_, key)| key.action != Action::Leave);
    let mut order: Vec<_> = written.map(|(at, key)| (at, key.source)).collect();
    order.sort_unstable_by_key(|(at, source)| (source.is_none(), *source, *at));
    order
}

/// Reads the values and sends them, until nobody takes them any more.
fn read_values(
    inside: &Inside,
    order: Vec<(usize, Option<Revision>)>,
    sender: &mpsc::Sender<Job>,
) -> Result<()> {
    // Deletions are last.
    let revisions: Vec<_> = order.iter().filter_map(|(_, source)| *source).collect();
    let mut places = order.iter().map(|(at, _)| *at);
    let send = |at, value: Option<Vec<u8>>| {
        let job = Job { at, value: value.map(SecretBytes::new) };
        match sender.blocking_send(job) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    };
    inside.records().values(&revisions, &mut |value| {
        Ok(places.next().map_or(ControlFlow::Break(()), |at| send(at, Some(value))))
    })?;
    let _ = places.try_for_each(|at| send(at, None));
    Ok(())
}

struct Writer<'a> {
    plan: &'a Plan,
    choice: &'a Choice,
    period: Duration,
    /// When the next change may be made.
    next: Instant,
    /// New leases by the old ones.
    granted: HashMap<i64, i64>,
    applied: Applied,
}

impl<'a> Writer<'a> {
    fn new(plan: &'a Plan, choice: &'a Choice, rate: NonZeroU32) -> Self {
        Self {
            plan,
            choice,
            period: Duration::from_secs(1) / rate.get(),
            next: Instant::now(),
            granted: HashMap::new(),
            applied: Applied::default(),
        }
    }

    async fn run(mut self, mut jobs: mpsc::Receiver<Job>, control: &Control) -> Applied {
        let choice = self.choice;
        let mut flying = FuturesUnordered::new();
        let mut stopped = pin!(control.stopped());
        let mut waiting_limit = Duration::MAX;
        while self.applied.stopped.is_none() {
            let next = self.next;
            tokio::select! {
                biased;
                () = &mut stopped => {
                    self.applied.stopped = Some(interrupted());
                    waiting_limit = LAST_ANSWERS;
                }
                Some((planned, outcome)) = flying.next() => self.note(planned, outcome, control),
                job = async { sleep_until(next).await; jobs.recv().await }, if flying.len() < IN_FLIGHT => {
                    let Some(job) = job else { break };
                    match self.begin(job).await {
                        Ok(Some((planned, write))) => flying.push(async move {
                            (planned, choice.write(&planned.key, planned.live_mod_revision, write).await)
                        }),
                        Ok(None) => {}
                        Err(error) => self.applied.stopped = Some(error),
                    }
                }
            }
        }
        let last_answers = async {
            while let Some((planned, outcome)) = flying.next().await {
                self.note(planned, outcome, control);
            }
        };
        // Answers that do not come count among those left.
        let _ = timeout(waiting_limit, last_answers).await;
        self.applied
    }

    /// Takes its turn and its lease.
    async fn begin(&mut self, job: Job) -> Result<Option<(&'a Planned, Write)>> {
        let Some(planned) = self.plan.keys.get(job.at) else { return Ok(None) };
        let earliest = Instant::now().checked_sub(CATCH_UP).unwrap_or(self.next);
        self.next = self.next.max(earliest) + self.period;
        let write = match job.value {
            None => Write::Delete,
            Some(value) => Write::Put(value, self.lease(planned.lease).await?),
        };
        Ok(Some((planned, write)))
    }

    /// The lease to attach a key to that had `old`.
    async fn lease(&mut self, old: i64) -> Result<i64> {
        match self.plan.leases {
            _ if old == 0 => Ok(0),
            Leases::Drop => Ok(0),
            Leases::Keep => Ok(old),
            Leases::New => {
                if let Some(new) = self.granted.get(&old) {
                    return Ok(*new);
                }
                let ttl = self.plan.ttls.get(&old).copied().unwrap_or(RENEWED_LEASE_TTL);
                let new = self.choice.grant(ttl).await?;
                self.applied.leases_granted = self.applied.leases_granted.saturating_add(1);
                self.granted.insert(old, new);
                Ok(new)
            }
        }
    }

    fn note(&mut self, planned: &Planned, outcome: Result<Outcome>, control: &Control) {
        let applied = &mut self.applied;
        match outcome {
            Ok(Outcome::Done) => {
                let count = match planned.action {
                    Action::Create => &mut applied.created,
                    Action::Change => &mut applied.changed,
                    Action::Delete | Action::Leave => &mut applied.deleted,
                };
                *count = count.saturating_add(1);
            }
            Ok(Outcome::Conflict) => applied.conflicts.push(planned.key.clone()),
            Ok(Outcome::Refused(error)) => {
                applied.refused.push(Refused { key: planned.key.clone(), error });
            }
            Err(error) => {
                applied.stopped.get_or_insert(error);
                return;
            }
        }
        control.step(Step::Advance(1));
    }
}
