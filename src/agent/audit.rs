//! The audit that an agent makes.

use std::collections::BTreeSet;

use tracing::info;

use super::{AgentSettings, Places, warn};
use crate::error::{Error, ErrorKind, Result};
use crate::posture::{
    self, AuditOptions, Probe, Report, RepositoryOptions, Severity, Status, UnknownPolicy,
};

/// From this severity on, a failure needs attention.
const FAIL_ON: Severity = Severity::High;

/// What an audit found, whether it needs attention, and what logs it.
type Audited<L> = (Box<Report>, Option<Error>, L);

/// Asks the endpoints and the repository, and keeps what came out.
pub(super) async fn audit(
    options: &AgentSettings,
    places: &Places,
) -> Result<Audited<impl FnOnce(f64) + Send + 'static>> {
    let Places { repository, keys } = places;
    let copy = options.common.open_copy(&options.copy, repository).await;
    let copy = copy.map(|opened| opened.repository).map_err(|error| error.to_string());
    let of = RepositoryOptions {
        repository,
        keys,
        cluster: Some(options.cluster()),
        recovery: options.common.recovery,
        copy: copy.as_ref().map_err(Clone::clone),
    };
    let mut report = posture::audit(&options.common.etcd()?, Some(&of), how(options)?).await?;
    warn(&report.notes);
    match report.difference(&of).await {
        Ok(since) => report.since = since,
        Err(error) => warn(&[format!("the last audit cannot be read: {error}")]),
    }
    let id = report.store(&of).await?;
    let cluster = options.cluster().clone();
    let counts = report.counts;
    let changes = report.since.clone();
    let finding = finding(&report);
    let log = move |seconds| {
        let list = |names: &[String]| (!names.is_empty()).then(|| names.join(", "));
        info!(
            event = "audit_finished",
            cluster = %cluster,
            operation = "audit",
            seconds,
            report = %id,
            passed = counts.pass,
            failed = counts.fail,
            unknown = counts.unknown,
            not_applicable = counts.not_applicable,
            waived = counts.waived,
            new = changes.as_ref().and_then(|changes| list(&changes.new)),
            gone = changes.as_ref().and_then(|changes| list(&changes.gone)),
        );
    };
    Ok((Box::new(report), finding, log))
}

fn how(options: &AgentSettings) -> Result<AuditOptions> {
    Ok(AuditOptions {
        live: true,
        host: None,
        kubernetes: None,
        prometheus: None,
        proxy_log: None,
        deep: false,
        probe: Probe::Full,
        only: Vec::new(),
        skip: Vec::new(),
        fail_on: FAIL_ON,
        // Some checks are unknown by nature: how many is a metric.
        unknown: UnknownPolicy::Warn,
        expect_root: options.audit.expect_root,
        advisories: options.audit.files.read_advisories()?,
        waivers: options.audit.files.read_waivers()?,
    })
}

/// That checks fail which matter and which nobody accepted.
fn finding(report: &Report) -> Option<Error> {
    let severe = report.checks.iter().filter(|one| {
        one.status == Status::Fail && one.waiver.is_none() && one.severity >= FAIL_ON
    });
    let ids: BTreeSet<_> = severe.map(|one| one.id).collect();
    let ids = ids.into_iter().collect::<Vec<_>>().join(", ");
    (!ids.is_empty()).then(|| {
        Error::new(ErrorKind::Refused, format!("checks of the cluster fail: {ids}"))
            .hint("`strongroom audit` says what to do, and audit.waivers names what is accepted")
    })
}
