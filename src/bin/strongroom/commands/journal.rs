//! `journal …`

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Instant;

use serde::Serialize;
use serde_json::{Value, json};
use strongroom::Result;
use strongroom::backup::{
    CopySettings, Covered, Gap, JournalSummary, KnownStretch, RecordOptions, Stretch,
    StretchOutcome, Stretches, VerifiedStretch, journals, known_stretches, record, store_report,
    stretches_report, verify_journals, verify_stretches,
};
use strongroom::format::{ClusterName, SnapshotId};
use strongroom::keys::KeySet;
use strongroom::keys::trust::Standing;
use strongroom::store::Repository;
use strongroom::task::Step;
use strongroom::text::counted;

use super::{Context, FINDINGS};
use crate::args::{JournalCommand, JournalVerifyArgs, RecordArgs};
use crate::output::{bytes, created, moment, table};

pub(super) async fn run(command: JournalCommand, context: &Context) -> Result<ExitCode> {
    match command {
        JournalCommand::Record(args) => begin(*args, context).await,
        JournalCommand::List => list(None, context).await,
        JournalCommand::Verify(args) => list(Some(args), context).await,
    }
}

async fn begin(args: RecordArgs, context: &Context) -> Result<ExitCode> {
    let settings = &context.settings;
    let cluster = settings.cluster.clone().unwrap_or_default();
    let options = RecordOptions { cluster, ..args.record };
    let repository = context.swept_repository().await?;
    let keys = context.needed_keys(&repository).await?;
    let output = context.output;
    let control = context.control.clone().on_step(move |step| {
        if let Some(note) = note(&step) {
            output.note(&note);
        }
    });
    let etcd = settings.etcd()?;
    let second = match options.copies {
        true => second_place(&args.copy, &repository, context).await,
        false => None,
    };
    let (second, snapshots) = (second.as_ref(), &args.options);
    let recording = record(&repository, second, &keys, &etcd, &options, snapshots, &control);
    let report = Box::pin(recording).await?;
    let stored = report.seen <= report.last;
    let is_good = stored && report.differs_at.is_none();
    let status = if is_good { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) };
    let status = context.output.done(status, &report, || {
        let (journals, snapshots) = (report.journals.len(), report.snapshots.len());
        format!(
            "recorded up to revision {}; journals: {journals}, snapshots: {snapshots}",
            report.last
        )
    })?;
    if let Some(revision) = report.differs_at {
        context.output.warn(&format!(
            "a snapshot and what was recorded differ at revision {revision}: see Journal disagrees in the operations guide"
        ));
    }
    if stored {
        return Ok(status);
    }
    let (from, seen) = (report.last.saturating_add(1), report.seen);
    if report.spooled > report.last {
        context.output.warn(&format!(
            "revisions {from} to {} are in the spool, and not stored yet: the store could not be reached",
            report.spooled
        ));
        context.output.note("start the recorder again on this host: it stores them first");
    }
    if report.spooled < seen {
        let from = from.max(report.spooled.saturating_add(1));
        context.output.warn(&format!(
            "revisions {from} to {seen} are not stored: the store could not be reached"
        ));
        context.output.note("start the recorder again while etcd still has them");
    }
    Ok(status)
}

/// The second repository. The recording does not wait for it: if it cannot be opened now, `copy` brings everything.
async fn second_place(
    copy: &CopySettings,
    source: &Repository,
    context: &Context,
) -> Option<Repository> {
    match context.settings.open_replica(copy, source, false).await {
        Ok(opened) => {
            opened.warnings.iter().for_each(|warning| context.output.warn(warning));
            Some(opened.repository)
        }
        Err(error) => {
            context.output.warn(&format!("nothing is stored in the second place: {error}"));
            None
        }
    }
}

/// What people are told of a step.
fn note(step: &Step) -> Option<String> {
    match step {
        Step::Note(note) => Some(note.clone()),
        Step::Journal(step) => step.note(),
        _ => None,
    }
}

/// What is known of the stretches between snapshots, and the report that was stored of it.
#[derive(Default)]
struct Checked {
    json: Vec<Value>,
    text: String,
    findings: Vec<String>,
    report: Option<SnapshotId>,
}

/// Verifies the stretches if `args` ask for that, else tells what reports say of them.
async fn check_stretches(
    (repository, keys): (&Repository, &KeySet),
    args: Option<&JournalVerifyArgs>,
    has_findings: bool,
    context: &Context,
) -> Result<Checked> {
    let cluster = context.settings.cluster.clone();
    let mut wanted = Stretches { cluster: cluster.clone(), ..Stretches::default() };
    let Some(args) = args else {
        let known = known_stretches(repository, keys, &wanted).await?;
        let json = known.iter().map(|one| serde_json::to_value(one).unwrap_or_default()).collect();
        return Ok(Checked { json, text: known_text(&known), ..Checked::default() });
    };
    if !args.deep {
        return Ok(Checked::default());
    }
    let begun = Instant::now();
    if let Some(since) = args.since {
        wanted.since = since.as_millisecond().max(0).unsigned_abs();
    }
    let dir = std::env::temp_dir();
    let verified = verify_stretches(repository, keys, &wanted, &dir, &context.control).await?;
    let findings: Vec<_> = verified.iter().filter_map(VerifiedStretch::finding).collect();
    let has_findings = has_findings || !findings.is_empty();
    let report = match args.record {
        true => {
            let took = begun.elapsed();
            let report = stretches_report(&verified, cluster.as_ref(), has_findings, took);
            Some(store_report(repository, keys, &report).await?)
        }
        false => None,
    };
    let json = verified.iter().map(stretch_json).collect();
    Ok(Checked { json, text: stretches_text(&verified), findings, report })
}

/// A verified stretch, for programs.
pub(super) fn stretch_json(one: &VerifiedStretch) -> Value {
    let VerifiedStretch { stretch, outcome, .. } = one;
    let (outcome, hash) = match outcome {
        StretchOutcome::Verified(hash) => ("verified", Some(hash)),
        StretchOutcome::Differs(_) => ("differs", None),
        StretchOutcome::Incomplete(_) => ("incomplete", None),
        StretchOutcome::NotVerified => ("not verified", None),
        _ => ("not recorded", None),
    };
    json!({
        "cluster": stretch.cluster.as_str(),
        "from": stretch.from.to_string(),
        "to": stretch.to.to_string(),
        "first_revision": stretch.first_revision,
        "last_revision": stretch.last_revision,
        "outcome": outcome,
        "hash_kv": hash,
        "detail": one.to_string(),
    })
}

/// A table of verified stretches; nothing if there are none.
pub(super) fn stretches_text(stretches: &[VerifiedStretch]) -> String {
    let row = |one: &VerifiedStretch| {
        let status = match one.outcome {
            StretchOutcome::Verified(_) => "ok",
            StretchOutcome::Differs(_) => "DIFFERS",
            StretchOutcome::Incomplete(_) => "INCOMPLETE",
            StretchOutcome::NotVerified => "not verified",
            _ => "not recorded",
        };
        let Stretch { from, to, .. } = &one.stretch;
        vec![from.to_string(), to.to_string(), status.into(), one.to_string()]
    };
    match stretches.is_empty() {
        true => String::new(),
        false => table(
            &["JOURNALS FROM", "TO", "STATUS", "DETAIL"],
            &[],
            stretches.iter().map(row).collect(),
        ),
    }
}

/// A table of what is known of stretches; nothing if there are none.
fn known_text(stretches: &[KnownStretch]) -> String {
    let row = |one: &KnownStretch| {
        let Stretch { from, to, first_revision, last_revision, .. } = &one.stretch;
        let revisions = format!("{first_revision}–{last_revision}");
        let verified = match one.compared_from.zip(one.compared_to) {
            Some((from, to)) => format!("not yet; compared: {from}–{to}"),
            None => one.verified.to_owned(),
        };
        vec![from.to_string(), to.to_string(), revisions, verified]
    };
    match stretches.is_empty() {
        true => String::new(),
        false => table(
            &["BETWEEN SNAPSHOT", "AND", "REVISIONS", "VERIFIED"],
            &[2],
            stretches.iter().map(row).collect(),
        ),
    }
}

async fn list(args: Option<JournalVerifyArgs>, context: &Context) -> Result<ExitCode> {
    let verifies = args.is_some();
    let repository = context.repository().await?;
    let keys = context.needed_keys(&repository).await?;
    let cluster = context.settings.cluster.as_ref();
    let Covered { journals, gaps, mut findings, unopened, .. } = match verifies {
        true => verify_journals(&repository, &keys, cluster).await?,
        false => journals(&repository, &keys, cluster).await?,
    };
    let has_findings = !findings.is_empty();
    let checked =
        check_stretches((&repository, &keys), args.as_ref(), has_findings, context).await?;
    findings.extend(checked.findings.iter().cloned());
    findings.iter().for_each(|finding| context.output.warn(finding));
    for gap in &gaps {
        let Gap { last, first, after, before, .. } = gap;
        context.output.warn(&format!(
            "there is a gap between journal {after}, which ends with revision {last}, and journal {before}, which begins with {first}"
        ));
    }
    let documents: Vec<_> = journals.iter().map(Document::new).collect();
    let mut json = json!({
        "journals": documents, "gaps": gaps, "findings": findings, "unopened": unopened,
        "stretches": checked.json,
    });
    if let Some(map) = json.as_object_mut().filter(|_| verifies) {
        map.insert("report".into(), checked.report.map(|id| id.to_string()).into());
    }
    let status = if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) };
    let status = context.output.done_if(checked.report.is_some(), status, json, || {
        let row = |journal: &JournalSummary| {
            vec![
                journal.id.to_string(),
                journal.cluster.to_string(),
                created(journal.id),
                journal.complete_ms.map(moment).unwrap_or_default(),
                match last(journal) {
                    Some(last) => format!("{}–{last}", journal.first),
                    None => format!("{}–", journal.first),
                },
                bytes(journal.stored_bytes),
                journal.standing.to_string(),
                journal.ended.unwrap_or("open (recording, or killed)").to_owned(),
            ]
        };
        let header = ["ID", "CLUSTER", "FROM", "UNTIL", "REVISIONS", "STORED", "TRUST", "END"];
        table(&header, &[4, 5], journals.iter().map(row).collect()) + &checked.text
    })?;
    let segments: u64 = journals.iter().map(|journal| journal.segments).sum();
    context.output.note(&match journals.len() {
        0 if unopened > 0 => format!("journals that do not open here: {unopened}"),
        0 => "no journals; `strongroom journal record` records one".into(),
        n if verifies && findings.is_empty() => {
            format!("verified: {}, {}", counted(n, "journal"), counted(segments, "segment"))
        }
        n => counted(n, "journal"),
    });
    Ok(status)
}

/// What the journals that count hold of each cluster: a line for it, and one for each gap.
pub(super) fn coverage(covered: &Covered) -> Vec<String> {
    let counting: Vec<_> = covered.journals.iter().filter(|one| one.standing.counts()).collect();
    let clusters: BTreeSet<_> = counting.iter().map(|one| &one.cluster).collect();
    let mut lines = Vec::new();
    for cluster in clusters {
        let all = || counting.iter().filter(|one| one.cluster == *cluster);
        let (Some(first), Some(newest)) = (all().next(), all().next_back()) else { continue };
        let until = match all().filter_map(|one| one.complete_ms).max().map(moment) {
            Some(until) if newest.ended.is_some() => until,
            _ => "now, or until its recorder was killed".into(),
        };
        let revisions =
            all().map(|one| one.first).min().zip(all().filter_map(|one| last(one)).max());
        let revisions = revisions.map(|(begin, end)| format!(", revisions {begin}–{end}"));
        let revisions = revisions.unwrap_or_default();
        let (count, stored) = (all().count(), all().map(|one| one.stored_bytes).sum());
        lines.push(format!(
            "continuous {cluster}: {} – {until}{revisions}, {}, {}",
            created(first.id),
            counted(count, "journal"),
            bytes(stored)
        ));
        let own = |gap: &&Gap| all().any(|one| one.id == gap.after);
        lines.extend(covered.gaps.iter().filter(own).map(|gap| {
            let (last, first) = (gap.last, gap.first);
            format!("gap: recorded up to revision {last}, and again from revision {first} on")
        }));
    }
    lines
}

/// The last revision that a journal holds, if it is known.
fn last(journal: &JournalSummary) -> Option<i64> {
    journal.last_is_known.then_some(journal.last)
}

/// A journal, for programs.
#[derive(Serialize)]
struct Document<'a> {
    id: SnapshotId,
    cluster: &'a ClusterName,
    created: String,
    recorded_until: Option<String>,
    first_revision: i64,
    last_revision: Option<i64>,
    segments: u64,
    stored_bytes: u64,
    ended: Option<&'static str>,
    trust: Standing,
}

impl<'a> Document<'a> {
    fn new(journal: &'a JournalSummary) -> Self {
        Self {
            id: journal.id,
            cluster: &journal.cluster,
            created: created(journal.id),
            recorded_until: journal.complete_ms.map(moment),
            first_revision: journal.first,
            last_revision: last(journal),
            segments: journal.segments,
            stored_bytes: journal.stored_bytes,
            ended: journal.ended,
            trust: journal.standing,
        }
    }
}
