//! `copy`

use std::process::ExitCode;

use serde::Serialize;
use strongroom::backup::{CopyReport, JournalsCopied, copy};
use strongroom::keys::KeySet;
use strongroom::store::RepositoryUrl;
use strongroom::text::counted;
use strongroom::{Error, ErrorKind, Result};

use super::{Context, FINDINGS};
use crate::args::CopyArgs;
use crate::output::bytes;

#[derive(Serialize)]
struct Document<'a> {
    to: String,
    #[serde(flatten)]
    report: &'a CopyReport,
}

pub(super) async fn run(args: CopyArgs, context: &Context) -> Result<ExitCode> {
    let source = context.repository().await?;
    let opened = context.settings.open_replica(&args.copy, &source, args.trust_store).await?;
    opened.warnings.iter().for_each(|warning| context.output.warn(warning));
    let (target, url) = (opened.repository, opened.url);
    let mut keys = context.master_keys(&source).await?;
    // Keys that only open cannot tell what counts.
    if !keys.can_vouch() {
        keys = KeySet::new();
    }
    let ids = context.find_all(&source, &keys, &args.ids).await?;
    let scope = context.scope(&ids);
    let report = copy(&source, &target, &keys, scope, &context.control).await?;
    warn(&report, &url, context);
    let left_out = !report.left_out.is_empty() || !report.journals.left_out.is_empty();
    let found = left_out || !report.differing.is_empty();
    let status = if found { ExitCode::from(FINDINGS) } else { ExitCode::SUCCESS };
    let document = Document { to: url.to_string(), report: &report };
    let status = context.output.done(status, document, || {
        format!(
            "{} copied to {url}, {} existed already, {} of these compared{}; {} written",
            report.copied.len(),
            report.present,
            report.compared.len(),
            of_journals(&report.journals),
            bytes(report.written_bytes),
        )
    })?;
    let lefts = [(report.not_compared, "snapshot"), (report.journals.not_compared, "journal")];
    for (left, what) in lefts {
        if let Some(left) = left.filter(|left| *left > 0) {
            context
                .output
                .note(&format!("left to the next runs to compare: {}", counted(left, what)));
        }
    }
    context.output.note(&format!(
        "next: `strongroom verify --all --digests -r {url}` reads all of the copy, without a key"
    ));
    let journals = &report.journals;
    if report.failed.is_empty() && journals.failed.is_empty() {
        return Ok(status);
    }
    let (snapshots, journals) = (report.failed.len(), journals.failed.len());
    let message = match journals {
        0 => format!("damaged: {}", counted(snapshots, "snapshot")),
        _ => format!(
            "damaged: {} and {}",
            counted(snapshots, "snapshot"),
            counted(journals, "journal")
        ),
    };
    Err(Error::new(ErrorKind::Tampered, message)
        .hint("`strongroom verify` and `strongroom journal verify` show what is wrong with each"))
}

/// Says what was not copied, and why.
fn warn(report: &CopyReport, url: &RepositoryUrl, context: &Context) {
    for (id, why) in &report.failed {
        context.output.warn(&format!("not copied: snapshot {id}: {why}"));
    }
    for (id, why) in &report.left_out {
        context.output.warn(&format!("left out: snapshot {id}: {why}"));
    }
    for (id, why) in &report.journals.failed {
        context.output.warn(&format!("not copied completely: journal {id}: {why}"));
    }
    for (id, why) in &report.journals.left_out {
        context.output.warn(&format!("left out: journal {id}: {why}"));
    }
    for name in &report.differing {
        context.output.warn(&format!(
            "the copy has another {name}: `strongroom key reseal --all -r {url}` seals the copy to the present keys"
        ));
    }
    if let Some(why) = &report.not_remembered {
        context.output.warn(&format!("the next copy compares the same snapshots again: {why}"));
    }
}

/// Nothing where there are no journals.
fn of_journals(journals: &JournalsCopied) -> String {
    match (journals.copied.len(), journals.present) {
        (0, 0) => String::new(),
        (copied, present) => {
            format!("; {} copied, {present} existed already", counted(copied, "journal"))
        }
    }
}
