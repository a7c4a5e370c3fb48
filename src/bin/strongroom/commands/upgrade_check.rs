//! `upgrade-check`

use std::fmt::Write as _;
use std::fs;
use std::process::ExitCode;

use strongroom::backup::{BackupOptions, Source, backup};
use strongroom::posture::{
    ClusterState, Plan, RepositoryOptions, UpgradeOptions, UpgradeReport, upgrade_check,
};
use strongroom::{Error, Result};

use super::Context;
use super::audit::{text as findings, write, write_all};
use crate::args::UpgradeArgs;

/// The tag of the snapshot that `--backup` takes.
const TAG: &str = "before-upgrade";

pub(super) async fn run(args: UpgradeArgs, context: &Context) -> Result<ExitCode> {
    let etcd = context.settings.etcd()?;
    let options = options(&args)?;
    let opened = match (&args.after, args.backup || context.settings.repository_url().is_ok()) {
        (None, true) => {
            let repository = context.repository().await?;
            let keys = context.master_keys(&repository).await?;
            Some((repository, keys))
        }
        _ => None,
    };
    let of = opened.as_ref().map(|(repository, keys)| RepositoryOptions {
        repository,
        keys,
        cluster: context.settings.cluster.as_ref(),
        recovery: context.settings.recovery,
        copy: Err("an upgrade does not ask for it".into()),
    });
    if let Some(of) = of.as_ref().filter(|_| args.backup) {
        take_snapshot(of, context).await?;
    }
    let report = upgrade_check(&etcd, of.as_ref(), options, &context.control).await?;
    write(args.save.as_ref(), || format!("{:#}\n", serde_json::json!(report.state)))?;
    write_all(&args.outcome, &report.report)?;
    report.report.notes.iter().for_each(|note| context.output.warn(note));
    let status = ExitCode::from(report.report.exit);
    context.output.done_if(args.backup, status, &report, || text(&report))
}

fn options(args: &UpgradeArgs) -> Result<UpgradeOptions> {
    let before = match &args.after {
        Some(path) => {
            let text = fs::read_to_string(path).map_err(|error| Error::io(path, error))?;
            let named = |error: Error| error.context(path.display().to_string());
            Some(ClusterState::parse(&text).map_err(named)?)
        }
        None => None,
    };
    let to = args.to.clone().or_else(|| before.as_ref().map(|state| state.target.clone()));
    Ok(UpgradeOptions {
        to: to.unwrap_or_default(),
        etcd: args.target_etcd.clone(),
        current_etcd: args.current_etcd.clone(),
        scratch_dir: args.scratch_dir.clone(),
        max_age: args.max_age,
        host: args.host.is_named().then(|| args.host.options()),
        advisories: args.files.read_advisories()?,
        waivers: args.files.read_waivers()?,
        before,
    })
}

async fn take_snapshot(of: &RepositoryOptions<'_>, context: &Context) -> Result<()> {
    let settings = &context.settings;
    settings.check_keys()?;
    let options = BackupOptions {
        cluster: settings.cluster.clone().unwrap_or_default(),
        recovery: settings.recovery,
        compare_members: true,
        tags: vec![TAG.into()],
        ..BackupOptions::default()
    };
    let source = Source::Etcd(settings.etcd()?);
    let report = backup(of.repository, of.keys, source, &options, &context.control).await?;
    report.warnings.iter().for_each(|warning| context.output.warn(warning));
    context.output.note(&format!("snapshot {}: revision {}", report.id, report.revision));
    Ok(())
}

fn text(report: &UpgradeReport) -> String {
    let mut text = findings(&report.report);
    if let Some(plan) = &report.plan {
        put(&mut text, plan, report.report.exit == 0);
    }
    text
}

fn put(text: &mut String, plan: &Plan, ready: bool) {
    let _ = writeln!(text, "\nPlan for {}", plan.target);
    if !ready {
        let _ = writeln!(text, "  do not begin: not every gate passes");
    }
    let mut list = |name: &str, lines: &[String]| {
        let _ = writeln!(text, "  {name}");
        for line in lines {
            let _ = writeln!(text, "    - {line}");
        }
    };
    list("first", &plan.before);
    let members: Vec<_> = plan
        .order
        .iter()
        .map(|one| {
            let leader = if one.leader { ", the leader" } else { "" };
            format!("{} ({}{leader})", one.name, one.endpoint)
        })
        .collect();
    match members.is_empty() {
        true => list(
            "one member after the other",
            &["the order is not known: give every member as an endpoint".into()],
        ),
        false => list("one member after the other", &members),
    }
    list("for each member", &plan.each);
    list("stop if", &plan.stop);
    list("when all run it", &plan.after);
    list("the way back", &plan.back);
}
