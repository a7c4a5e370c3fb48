//! Which member to back up.

use std::collections::BTreeSet;
use std::time::Duration;

use etcd_client::{AlarmType, Client};
use futures::future::join_all;

#[cfg(feature = "backup")]
use super::probe::ask;
use super::probe::{Listed, Member, Probe, probe};
use super::settings::EtcdSettings;
use super::stream::SnapshotStream;
use crate::error::{Error, ErrorKind, Result};
use crate::mvcc::EtcdVersion;

/// How many log entries a member may be behind: as many as etcd itself lets wait before it turns
/// requests away (`maxGapBetweenApplyAndCommitIndex`). Under load, a few hundred lie between two answers.
const MAX_LAG: u64 = 5000;

/// The member to back up, and why.
pub struct Choice {
    /// The member.
    pub member: Member,
    /// Which member and why, in one line.
    pub reason: String,
    /// The other endpoints.
    pub rejected: Vec<Rejected>,
    /// What the owner of the cluster should know: alarms, unreachable endpoints, a doubtful choice.
    pub warnings: Vec<String>,
    /// The other members that answered.
    pub(super) others: Vec<(Member, Client)>,
    /// All members, as the chosen one lists them.
    pub(super) members: Vec<Listed>,
    client: Client,
    /// Only this one may be asked: how others are reached is not known.
    pub(super) alone: bool,
    idle: Duration,
}

/// An endpoint that was not chosen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    /// The endpoint as it was given.
    pub endpoint: String,
    /// Why.
    pub why: String,
}

impl Choice {
    /// Begins to stream the member's database.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) when etcd refuses (it asks for the role root),
    /// [`Unreachable`](ErrorKind::Unreachable) when the member has gone,
    /// [`Protocol`](ErrorKind::Protocol) when the stream is empty.
    pub async fn snapshot(&self) -> Result<SnapshotStream> {
        SnapshotStream::open(&mut self.client.maintenance_client(), self.idle)
            .await
            .map_err(|error| error.context(self.member.endpoint.clone()))
    }

    /// How long one request may take.
    pub(super) fn timeout(&self) -> Duration {
        self.idle
    }

    /// The client of this one member.
    pub fn client(&self) -> Client {
        self.client.clone()
    }
}

/// Asks every endpoint, each by itself and all at once, and chooses the member to back up: a sound one
/// that votes and is up to date, a follower before the leader, the first given before later ones.
///
/// When no member is sound the least bad one is chosen with a warning, as a doubtful backup is better
/// than none.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) or [`Io`](ErrorKind::Io) for wrong settings; [`Unreachable`](ErrorKind::Unreachable)
/// when no endpoint answers; [`Denied`](ErrorKind::Denied) when etcd refuses the user;
/// [`Refused`](ErrorKind::Refused) when the endpoints belong to more than one cluster;
/// [`Unsupported`](ErrorKind::Unsupported) when a member is of an etcd later than the last one tested.
pub async fn choose_member(settings: &EtcdSettings) -> Result<Choice> {
    let plan = settings.plan()?;
    let answers = join_all(plan.targets.iter().map(|target| probe(settings, target))).await;
    let mut probes = Vec::new();
    let mut failures = Vec::new();
    for (target, answer) in plan.targets.iter().zip(answers) {
        match answer {
            Ok(probe) => probes.push(probe),
            Err(error) => failures.push((target.name.clone(), error)),
        }
    }
    choose(settings, probes, failures, plan.warnings)
}

/// The member that `client` reaches, which is the one to back up. It has to be the same for all calls: a channel to one
/// member. Others are not sought.
///
/// # Errors
/// As [`choose_member`].
#[cfg(feature = "backup")]
pub(crate) async fn member_of(client: Client) -> Result<Choice> {
    let settings = EtcdSettings::default();
    let probe = ask(&settings, "the client given", client, Vec::new()).await?;
    let choice = choose(&settings, vec![probe], Vec::new(), Vec::new())?;
    Ok(Choice { alone: true, ..choice })
}

fn choose(
    settings: &EtcdSettings,
    probes: Vec<Probe>,
    failures: Vec<(String, Error)>,
    mut warnings: Vec<String>,
) -> Result<Choice> {
    one_cluster(&probes)?;
    for Probe { member, .. } in &probes {
        EtcdVersion::check_tested(&member.endpoint, &member.version, settings.allow_untested)?;
    }
    warnings.extend(warnings_of(&probes, &failures));
    let committed =
        probes.iter().map(|p| p.member.raft_index.max(p.member.raft_applied)).max().unwrap_or(0);
    let verdicts: Vec<_> = probes.iter().map(|probe| Verdict::of(probe, committed)).collect();
    let Some(best) = (0..verdicts.len()).min_by_key(|at| verdicts.get(*at)) else {
        return Err(none_answers(failures));
    };
    let mut rejected: Vec<_> = failures
        .into_iter()
        .map(|(endpoint, error)| Rejected { endpoint, why: error.to_string() })
        .collect();
    let mut others = Vec::new();
    let mut chosen = None;
    for (at, (probe, verdict)) in probes.into_iter().zip(&verdicts).enumerate() {
        if at == best {
            chosen = Some((probe, verdict));
        } else {
            let endpoint = probe.member.endpoint.clone();
            rejected.push(Rejected { endpoint, why: verdict.why_not() });
            others.push((probe.member, probe.client));
        }
    }
    let (probe, verdict) =
        chosen.ok_or_else(|| Error::new(ErrorKind::Unreachable, "no endpoint answers"))?;
    if verdict.is_doubtful() {
        warnings.push(format!(
            "{}: {}, and no better member answers: verify this backup with care",
            probe.member.endpoint,
            verdict.why_not()
        ));
    }
    Ok(Choice {
        reason: reason(&probe.member, verdict, rejected.len()),
        member: probe.member,
        rejected,
        warnings,
        others,
        members: probe.members,
        client: probe.client,
        alone: false,
        idle: settings.command_timeout,
    })
}

/// What speaks against a member, the gravest first; the smallest is the best.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Verdict {
    corrupt: bool,
    no_leader: bool,
    learner: bool,
    /// Entries behind, 0 when within [`MAX_LAG`].
    behind: u64,
    leader: bool,
}

impl Verdict {
    fn of(probe: &Probe, committed: u64) -> Self {
        let member = &probe.member;
        let lag = committed.saturating_sub(member.raft_applied);
        Self {
            corrupt: probe.has_alarm(AlarmType::Corrupt),
            no_leader: !probe.has_leader,
            learner: member.learner,
            behind: if lag > MAX_LAG { lag } else { 0 },
            leader: member.leader,
        }
    }

    fn is_doubtful(&self) -> bool {
        self.corrupt || self.no_leader || self.learner || self.behind > 0
    }

    fn why_not(&self) -> String {
        if self.corrupt {
            "etcd raised the alarm CORRUPT for it".into()
        } else if self.no_leader {
            "it knows no leader".into()
        } else if self.learner {
            "it is a learner".into()
        } else if self.behind > 0 {
            format!("it is {} log entries behind", self.behind)
        } else if self.leader {
            "it leads, and a follower answers too".into()
        } else {
            "equally good, but listed later".into()
        }
    }
}

impl Probe {
    /// Whether the alarm names this member, or no member.
    fn has_alarm(&self, alarm: AlarmType) -> bool {
        self.alarms
            .iter()
            .any(|(id, kind)| *kind == alarm as i32 && (*id == self.member.id || *id == 0))
    }
}

fn one_cluster(probes: &[Probe]) -> Result<()> {
    let clusters: BTreeSet<u64> = probes.iter().map(|probe| probe.member.cluster_id).collect();
    if clusters.len() < 2 {
        return Ok(());
    }
    let each: Vec<_> = probes
        .iter()
        .map(|probe| format!("{} in cluster {:x}", probe.member.endpoint, probe.member.cluster_id))
        .collect();
    Err(Error::new(
        ErrorKind::Refused,
        format!("the endpoints belong to more than one cluster: {}", each.join(", ")),
    )
    .hint("give the endpoints of one cluster"))
}

fn none_answers(failures: Vec<(String, Error)>) -> Error {
    // A refusal says more than silence: it came from etcd.
    let first = failures
        .iter()
        .find(|(_, error)| error.kind() != ErrorKind::Unreachable)
        .or(failures.first());
    let kind = first.map_or(ErrorKind::Unreachable, |(_, error)| error.kind());
    let hint = first.and_then(|(_, error)| error.hint_text().map(str::to_owned));
    let each: Vec<_> =
        failures.iter().map(|(endpoint, error)| format!("{endpoint}: {error}")).collect();
    let error = Error::new(kind, each.join("; ")).context("no etcd endpoint can be used");
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn warnings_of(probes: &[Probe], failures: &[(String, Error)]) -> Vec<String> {
    // The same alarm is told by every member: a set says it once.
    let mut warnings = BTreeSet::new();
    for (endpoint, error) in failures {
        warnings.insert(format!("{endpoint} is left out: {error}"));
    }
    for probe in probes {
        warnings.extend(probe.warnings.iter().cloned());
        for (id, kind) in &probe.alarms {
            warnings.insert(alarm_warning(*kind, &name_of(*id, probe)));
        }
        if probe.alarms.is_empty() {
            let endpoint = &probe.member.endpoint;
            warnings.extend(
                probe.errors.iter().map(|text| format!("{endpoint}: etcd reports: {text}")),
            );
        }
    }
    warnings.into_iter().collect()
}

fn alarm_warning(kind: i32, member: &str) -> String {
    if kind == AlarmType::Nospace as i32 {
        format!(
            "alarm NOSPACE by {member}: the cluster takes no writes until it is compacted, defragmented and disarmed"
        )
    } else if kind == AlarmType::Corrupt as i32 {
        format!("alarm CORRUPT for {member}: members disagree, and its data is not to be trusted")
    } else {
        format!("alarm {kind} by {member}")
    }
}

fn name_of(id: u64, probe: &Probe) -> String {
    let listed = probe.members.iter().find(|listed| listed.id == id).cloned();
    listed.unwrap_or(Listed { id, ..Listed::default() }).to_string()
}

fn reason(member: &Member, verdict: &Verdict, others: usize) -> String {
    let which =
        if member.name.is_empty() { format!("{:x}", member.id) } else { member.name.clone() };
    let why = if verdict.is_doubtful() {
        "the best of those that answer"
    } else if others == 0 {
        "the only endpoint given"
    } else if member.leader {
        "the leader: no healthy follower answers"
    } else {
        "a healthy follower, up to date"
    };
    format!("member {which} at {}: {why}", member.endpoint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_preference() {
        let sound =
            Verdict { corrupt: false, no_leader: false, learner: false, behind: 0, leader: false };
        let order = [
            sound.clone(),
            Verdict { leader: true, ..sound.clone() },
            Verdict { behind: 6000, ..sound.clone() },
            Verdict { behind: 7000, ..sound.clone() },
            Verdict { learner: true, ..sound.clone() },
            Verdict { no_leader: true, ..sound.clone() },
            Verdict { corrupt: true, ..sound },
        ];
        assert!(order.is_sorted());
        assert!(order.iter().skip(2).all(Verdict::is_doubtful));
        assert!(!order[1].is_doubtful());
    }

    #[test]
    fn a_refusal_is_told_before_silence() {
        let error = none_answers(vec![
            ("a:1".into(), Error::new(ErrorKind::Unreachable, "connection refused")),
            (
                "b:1".into(),
                Error::new(ErrorKind::Denied, "status: auth: permission denied").hint("root"),
            ),
        ]);
        assert_eq!(error.kind(), ErrorKind::Denied);
        assert_eq!(error.hint_text(), Some("root"));
        assert!(error.to_string().contains("a:1: connection refused; b:1: status"));
    }
}
