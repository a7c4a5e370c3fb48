//! `journal …`

use std::collections::BTreeSet;
use std::process::ExitCode;

use serde_json::{Value, json};
use strongroom::Result;
use strongroom::backup::{
    Covered, Gap, JournalSummary, RecordOptions, journals, record, verify_journals,
};
use strongroom::format::Time;
use strongroom::task::Step;

use super::{Context, FINDINGS};
use crate::args::{JournalCommand, RecordArgs};
use crate::output::{bytes, created, table};

pub(super) async fn run(command: JournalCommand, context: &Context) -> Result<ExitCode> {
    match command {
        JournalCommand::Record(args) => begin(args, context).await,
        JournalCommand::List => list(context, false).await,
        JournalCommand::Verify => list(context, true).await,
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
    let report = record(&repository, None, &keys, &etcd, &options, &args.options, &control).await?;
    context.output.result(&report, || {
        let (journals, snapshots) = (report.journals.len(), report.snapshots.len());
        format!(
            "recorded up to revision {}; journals: {journals}, snapshots: {snapshots}",
            report.last
        )
    })?;
    if report.seen <= report.last {
        return Ok(ExitCode::SUCCESS);
    }
    context.output.warn(&format!(
        "revisions {} to {} are not stored: the store could not be reached",
        report.last.saturating_add(1),
        report.seen
    ));
    context.output.note("start the recorder again while etcd still has them");
    Ok(ExitCode::from(FINDINGS))
}

/// What people are told of a step.
fn note(step: &Step) -> Option<String> {
    match step {
        Step::Note(note) => Some(note.clone()),
        Step::Journal(step) => step.note(),
        _ => None,
    }
}

async fn list(context: &Context, verifies: bool) -> Result<ExitCode> {
    let repository = context.repository().await?;
    let keys = context.needed_keys(&repository).await?;
    let cluster = context.settings.cluster.as_ref();
    let Covered { journals, gaps, findings, unopened, .. } = match verifies {
        true => verify_journals(&repository, &keys, cluster).await?,
        false => journals(&repository, &keys, cluster).await?,
    };
    findings.iter().for_each(|finding| context.output.warn(finding));
    for gap in &gaps {
        let Gap { last, first, after, before, .. } = gap;
        context.output.warn(&format!(
            "there is a gap between journal {after}, which ends with revision {last}, and journal {before}, which begins with {first}"
        ));
    }
    let documents: Vec<_> = journals.iter().map(document).collect();
    let json =
        json!({ "journals": documents, "gaps": gaps, "findings": findings, "unopened": unopened });
    context.output.result(json, || {
        let row = |journal: &JournalSummary| {
            vec![
                journal.id.to_string(),
                journal.cluster.to_string(),
                created(journal.id),
                until(journal).unwrap_or_default(),
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
        table(&header, &[4, 5], journals.iter().map(row).collect())
    })?;
    let segments: u64 = journals.iter().map(|journal| journal.segments).sum();
    context.output.note(&match journals.len() {
        0 if unopened > 0 => format!("journals that do not open here: {unopened}"),
        0 => "no journals; `strongroom journal record` records one".into(),
        n if verifies && findings.is_empty() => {
            format!("verified: {n} journal(s), {segments} segments")
        }
        1 => "1 journal".into(),
        n => format!("{n} journals"),
    });
    Ok(if findings.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(FINDINGS) })
}

/// What the journals that count hold of each cluster: a line for it, and one for each gap.
pub(super) fn coverage(covered: &Covered) -> Vec<String> {
    let counting: Vec<_> = covered.journals.iter().filter(|one| one.standing.counts()).collect();
    let clusters: BTreeSet<_> = counting.iter().map(|one| &one.cluster).collect();
    let mut lines = Vec::new();
    for cluster in clusters {
        let all = || counting.iter().filter(|one| one.cluster == *cluster);
        let (Some(first), Some(newest)) = (all().next(), all().next_back()) else { continue };
        let until = match all().filter_map(|one| one.complete_ms).max().map(time) {
            Some(until) if newest.ended.is_some() => until,
            _ => "now, or until its recorder was killed".into(),
        };
        let revisions =
            all().map(|one| one.first).min().zip(all().filter_map(|one| last(one)).max());
        let revisions = revisions.map(|(begin, end)| format!(", revisions {begin}–{end}"));
        let revisions = revisions.unwrap_or_default();
        let (count, stored) = (all().count(), all().map(|one| one.stored_bytes).sum());
        lines.push(format!(
            "continuous {cluster}: {} – {until}{revisions}, {count} journals, {}",
            created(first.id),
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

/// The moment up to which a journal is complete.
fn until(journal: &JournalSummary) -> Option<String> {
    journal.complete_ms.map(time)
}

fn time(ms: u64) -> String {
    Time::from_unix(i64::try_from(ms / 1000).unwrap_or(i64::MAX)).to_string()
}

fn document(journal: &JournalSummary) -> Value {
    json!({
        "id": journal.id.to_string(),
        "cluster": journal.cluster.as_str(),
        "created": created(journal.id),
        "recorded_until": until(journal),
        "first_revision": journal.first,
        "last_revision": last(journal),
        "segments": journal.segments,
        "stored_bytes": journal.stored_bytes,
        "ended": journal.ended,
        "trust": journal.standing.to_string(),
    })
}
