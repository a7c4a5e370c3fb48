//! `audit`

use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use strongroom::posture::{
    self, AuditOptions, Group, KubernetesOptions, ProxyLogOptions, Report, RepositoryOptions,
    Scope, Section, Status, rules,
};
use strongroom::{Error, Result, custody};

use super::Context;
use crate::args::{AuditArgs, OutcomeFiles};
use crate::output::table;

pub(super) async fn run(args: AuditArgs, context: &Context) -> Result<ExitCode> {
    if args.list {
        return list(context);
    }
    let etcd = context.settings.etcd()?;
    let opened = match args.report || args.scope.contains(&Scope::Repository) {
        true => {
            let repository = context.repository().await?;
            let keys = context.master_keys(&repository).await?;
            let copy = context.settings.open_copy(&args.copy, &repository).await;
            let copy = copy.map(|opened| opened.repository).map_err(|error| error.to_string());
            Some((repository, keys, copy))
        }
        false => None,
    };
    let of = opened.as_ref().map(|(repository, keys, copy)| RepositoryOptions {
        repository,
        keys,
        cluster: context.settings.cluster.as_ref(),
        recovery: context.settings.recovery,
        copy: copy.as_ref().map_err(Clone::clone),
    });
    let audited = of.as_ref().filter(|_| args.scope.contains(&Scope::Repository));
    let mut report = posture::audit(&etcd, audited, options(&args).await?).await?;
    if let Some(of) = &of {
        match report.difference(of).await {
            Ok(since) => report.since = since,
            Err(error) => {
                context
                    .output
                    .warn(&format!("the last audit that was kept cannot be read: {error}"));
            }
        }
    }
    write_all(&args.files, &report)?;
    report.notes.iter().for_each(|note| context.output.warn(note));
    context.output.result(&report, || text(&report))?;
    if let Some(of) = of.as_ref().filter(|_| args.report) {
        let id = report.store(of).await?;
        context.output.note(&format!("kept as report {id}"));
    }
    Ok(ExitCode::from(report.exit))
}

pub(super) fn write_all(files: &OutcomeFiles, report: &Report) -> Result<()> {
    write(files.sarif.as_ref(), || format!("{:#}\n", report.sarif()))?;
    write(files.junit.as_ref(), || report.junit())?;
    write(files.markdown.as_ref(), || report.markdown())
}

pub(super) fn write(path: Option<&PathBuf>, text: impl FnOnce() -> String) -> Result<()> {
    path.map_or(Ok(()), |path| std::fs::write(path, text()).map_err(|error| Error::io(path, error)))
}

async fn options(args: &AuditArgs) -> Result<AuditOptions> {
    let in_scope = |scope, is_named: bool| match args.scope.is_empty() {
        true => is_named,
        false => args.scope.contains(&scope),
    };
    let of_kubernetes = args.apiserver_manifest.is_some() || args.encryption_config.is_some();
    let kubernetes = KubernetesOptions {
        apiserver: args.apiserver_manifest.clone(),
        encryption: args.encryption_config.clone(),
    };
    let proxy_log = match &args.audit_log {
        Some(file) => {
            let keys = custody::open(&args.values.master_keys()?, None).await?;
            Some(ProxyLogOptions { file: file.clone(), keys: Arc::new(keys) })
        }
        None => None,
    };
    Ok(AuditOptions {
        live: in_scope(Scope::Live, true),
        host: in_scope(Scope::Host, args.host.is_named()).then(|| args.host.options()),
        kubernetes: in_scope(Scope::Kubernetes, of_kubernetes).then_some(kubernetes),
        prometheus: args.prometheus.clone(),
        proxy_log,
        deep: args.deep,
        probe: args.probe,
        only: args.only.clone(),
        skip: args.skip.clone(),
        fail_on: args.fail_on,
        unknown: args.unknown,
        expect_root: args.settings.expect_root,
        advisories: args.settings.files.read_advisories()?,
        waivers: args.settings.files.read_waivers()?,
    })
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
pub(super) fn text(report: &Report) -> String {
    let mut text = String::new();
    let groups = report.groups();
    let shown = |group: &&Group<'_>| matches!(group.first.status, Status::Fail | Status::Unknown);
    let mut section: Option<Section> = None;
    let mut last = "";
    for group in groups.iter().filter(shown) {
        if section != Some(group.first.section) {
            section = Some(group.first.section);
            let gap = if text.is_empty() { "" } else { "\n" };
            let _ = writeln!(text, "{gap}{}", group.first.section.name());
        }
        // What to do about one vulnerability is what to do about all.
        put(&mut text, group, group.first.id != last);
        last = group.first.id;
    }
    let gap = if text.is_empty() { "" } else { "\n" };
    if let Some(since) = &report.since {
        let list =
            |names: &[String]| if names.is_empty() { "none".into() } else { names.join(", ") };
        let _ = writeln!(
            text,
            "{gap}since report {}: new failures: {}; gone: {}",
            since.report,
            list(&since.new),
            list(&since.gone)
        );
    }
    let _ = writeln!(text, "{gap}{}", summary(report));
    text
}

fn put(text: &mut String, group: &Group<'_>, with_remedy: bool) {
    let one = group.first;
    let status = match (&one.waiver, one.status) {
        (Some(_), _) => "waived ",
        (None, Status::Fail) => "failed ",
        (None, _) => "unknown",
    };
    let _ = writeln!(text, "  {status} {:<8} {:<6} {}", one.severity.name(), one.id, one.title);
    for one in &group.all {
        let member = one.member.as_ref().map(|name| format!("{name}: ")).unwrap_or_default();
        for said in one.said() {
            let _ = writeln!(text, "      {member}{said}");
        }
    }
    if let Some(waiver) = &one.waiver {
        let _ = writeln!(
            text,
            "      waived until {} by {}: {}",
            waiver.until, waiver.by, waiver.reason
        );
    } else if one.status == Status::Fail && with_remedy {
        let _ = writeln!(text, "      to do: {}", one.remedy);
    }
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
        "{} passed, {} failed{failures}, {} unknown, {} not applicable; {} of these are waived; known vulnerabilities up to {}",
        counts.pass,
        counts.fail,
        counts.unknown,
        counts.not_applicable,
        counts.waived,
        report.advisories_to
    )
}
