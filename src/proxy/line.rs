//! A request's line in the audit log. It cannot be skipped: a place in the log is reserved before the request has any
//! effect, and the line is written even if the client goes away before the answer.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use tonic::{Code, Status};

use super::gate::Gate;
use crate::audit_log::{KeyRange, Record, Reserved};
use crate::status_server::code_name;
use crate::values::About;

/// Lines for refused requests of a connection within [`A_WHILE`]; more are only counted.
const MAX_REFUSED: u32 = 50;
const A_WHILE: Duration = Duration::from_secs(30);

/// The refused requests of one connection, so that a flood of them does not fill the log.
pub(super) struct Refusals(Mutex<Counts>);

struct Counts {
    since: Instant,
    lines: u32,
    skipped: u64,
}

impl Refusals {
    pub(super) fn new() -> Self {
        Self(Mutex::new(Counts { since: Instant::now(), lines: 0, skipped: 0 }))
    }

    /// The number of requests that were counted and have no line, if the next one gets a line.
    fn next(&self, refused: bool) -> Option<u64> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.since.elapsed() > A_WHILE {
            (counts.since, counts.lines) = (Instant::now(), 0);
        }
        if refused {
            if counts.lines >= MAX_REFUSED {
                counts.skipped = counts.skipped.saturating_add(1);
                return None;
            }
            counts.lines = counts.lines.saturating_add(1);
        }
        Some(std::mem::take(&mut counts.skipped))
    }

    fn take(&self) -> u64 {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut counts.skipped)
    }
}

/// The line of one request under way.
pub(super) struct Line {
    gate: Arc<Gate>,
    /// None when there is no log.
    place: Option<Reserved>,
    method: String,
    user: Option<String>,
    time: Timestamp,
    begun: Instant,
    about: About,
    /// Whether etcd is asked: then the request may have an effect, and its line is never left out.
    asked: bool,
}

impl Line {
    /// Reserves a place for a request to `method`.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the log cannot be written and requests depend on it.
    pub(super) async fn begin(
        gate: &Arc<Gate>,
        method: &str,
        user: Option<String>,
    ) -> Result<Self, Status> {
        let mut line = Self {
            gate: Arc::clone(gate),
            place: None,
            method: method.to_owned(),
            user,
            time: Timestamp::now(),
            begun: Instant::now(),
            about: About::default(),
            asked: false,
        };
        if let Some(audit) = gate.audit() {
            match audit.log.reserve().await {
                Ok(place) => line.place = Some(place),
                Err(_) if audit.fail_open => {}
                Err(error) => return Err(unwritable(&error)),
            }
        }
        Ok(line)
    }

    /// What the request is about, once that is known.
    pub(super) fn about(&mut self, about: About) {
        self.about = about;
    }

    /// Notes that etcd is asked from now on.
    pub(super) fn asks(&mut self) {
        self.asked = true;
    }

    /// What the request turned out to be about besides.
    pub(super) fn subject(&mut self, subject: Option<String>) {
        self.about.subject = subject.or(self.about.subject.take());
    }

    /// The user that logs in.
    pub(super) fn of_user(&mut self, user: Option<String>) {
        self.user = user;
    }

    /// Writes the line of a request that ended with `code`, at `revision` if that is known.
    ///
    /// # Errors
    /// `UNAVAILABLE` when the log cannot be written and requests depend on it.
    pub(super) async fn end(mut self, code: Code, revision: Option<i64>) -> Result<(), Status> {
        let Some(place) = self.place.take() else { return Ok(()) };
        let Some(repeats) = self.gate.refusals.next(self.is_refusal(code)) else { return Ok(()) };
        let record = self.record(code, revision, repeats);
        self.gate.written(place.record(record).await)
    }

    /// Whether nothing came of the request. An answer for which there is no memory says nothing about that.
    fn is_refusal(&self, code: Code) -> bool {
        is_refusal(code) || code == Code::ResourceExhausted && !self.asked
    }

    fn record(&mut self, code: Code, revision: Option<i64>, repeats: u64) -> Record {
        let about = std::mem::take(&mut self.about);
        let asked = about.keys.iter().map(|touched| touched.revision).find(|asked| *asked > 0);
        let keys = about.keys.into_iter().map(|touched| KeyRange::range(touched.key, touched.end));
        Record {
            time: self.time,
            client: self.gate.client().map(str::to_owned),
            user: self.user.take(),
            peer: self.gate.peer().to_string(),
            method: std::mem::take(&mut self.method),
            keys: keys.collect(),
            more: 0,
            subject: about.subject,
            repeats,
            revision: revision.or(asked).or(about.revision),
            outcome: code_name(code).into(),
            duration_us: u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX),
        }
    }
}

impl Drop for Line {
    /// The client went away: whether its request had an effect is unknown.
    fn drop(&mut self) {
        let Some(place) = self.place.take() else { return };
        if let Some(repeats) = self.gate.refusals.next(!self.asked) {
            let record = self.record(Code::Cancelled, None, repeats);
            place.leave(record);
        }
    }
}

impl Gate {
    /// Writes how many refused requests have no line yet, when the connection ends.
    pub(super) async fn close(self: &Arc<Self>) {
        let repeats = self.refusals.take();
        if repeats == 0 {
            return;
        }
        if let Ok(mut line) = Line::begin(self, "", None).await
            && let Some(place) = line.place.take()
        {
            // The line itself stands for one of them.
            let record = line.record(Code::PermissionDenied, None, repeats.saturating_sub(1));
            place.leave(record);
        }
    }
}

/// What etcd did not act on, and what was refused here.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::PermissionDenied
            | Code::InvalidArgument
            | Code::Unimplemented
            | Code::Unauthenticated
            | Code::FailedPrecondition
    )
}

pub(super) fn unwritable(error: &dyn std::fmt::Display) -> Status {
    Status::unavailable(format!("strongroom: the audit log cannot be written: {error}"))
}
