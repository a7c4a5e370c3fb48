//! `audit`

use std::fmt::Write;
use std::path::Path;
use std::process::ExitCode;

use strongroom::posture::{
    self, Advisories, AuditOptions, Group, Outcome, Report, Section, Status, rules,
};
use strongroom::{Error, Result};

use super::Context;
use crate::args::AuditArgs;
use crate::output::table;

pub(super) async fn run(args: AuditArgs, context: &Context) -> Result<ExitCode> {
    if args.list {
        return list(context);
    }
    let options = AuditOptions {
        probe: args.probe,
        only: args.only,
        skip: args.skip,
        fail_on: args.fail_on,
        unknown: args.unknown,
        expect_root: args.expect_root,
        advisories: match &args.advisories {
            Some(path) => read_advisories(path)?,
            None => Advisories::built_in()?,
        },
    };
    let etcd = context.settings.etcd()?;
    let report = posture::audit(&etcd, options).await?;
    context.output.result(&report, || text(&report))?;
    Ok(ExitCode::from(report.exit))
}

fn read_advisories(path: &Path) -> Result<Advisories> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
    Advisories::parse(&text).map_err(|error| error.context(path.display().to_string()))
}

fn list(context: &Context) -> Result<ExitCode> {
    let rules = rules();
    context.output.result(&rules, || {
        let rows = rules.iter().map(|rule| {
            vec![
                rule.id.to_owned(),
                rule.severity.name().to_owned(),
                rule.cis.join(", "),
                rule.title.to_owned(),
            ]
        });
        table(&["ID", "SEVERITY", "CIS", "WHAT FAILS"], &[], rows.collect())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// What failed and what is unknown, by section; what passed is counted.
fn text(report: &Report) -> String {
    let mut text = String::new();
    let groups = report.groups();
    let shown = |group: &&Group<'_>| matches!(group.first.status, Status::Fail | Status::Unknown);
    let mut section: Option<Section> = None;
    for group in groups.iter().filter(shown) {
        if section != Some(group.first.section) {
            section = Some(group.first.section);
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}{}", group.first.section.name());
        }
        put(&mut text, group);
    }
    let gap = if text.is_empty() { "" } else { "\n" };
    let _ = writeln!(text, "{gap}{}", summary(report));
    text
}

fn put(text: &mut String, group: &Group<'_>) {
    let one = group.first;
    let status = if one.status == Status::Fail { "failed " } else { "unknown" };
    let _ = writeln!(text, "  {status} {:<8} {:<6} {}", one.severity.name(), one.id, one.title);
    for one in &group.all {
        let member = one.member.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        for said in said(one) {
            let _ = writeln!(text, "      {member}{said}");
        }
    }
    if one.status == Status::Fail {
        let _ = writeln!(text, "      to do: {}", one.remedy);
    }
}

fn said(one: &Outcome) -> Vec<String> {
    let evidence = one.evidence.iter().map(|seen| format!("{} [{}]", seen.what(), seen.source()));
    evidence.chain(one.why.clone()).collect()
}

fn summary(report: &Report) -> String {
    let counts = report.counts;
    let failures: Vec<_> = report
        .failures()
        .iter()
        .map(|(severity, count)| format!("{count} {}", severity.name()))
        .collect();
    let failures =
        if failures.is_empty() { String::new() } else { format!(" ({})", failures.join(", ")) };
    format!(
        "{} passed, {} failed{failures}, {} unknown, {} not applicable; known vulnerabilities up to {}",
        counts.pass, counts.fail, counts.unknown, counts.not_applicable, report.advisories_to
    )
}
