//! What an agent is set to do.

use std::time::Duration;

use super::{CommonSettings, LogFormat, Schedule};
use crate::backup::{
    BackupOptions, CopySettings, DrillOptions, Period, RecordOptions, Retention, drill_version,
};
use crate::error::{Error, Result};
use crate::format::ClusterName;
#[cfg(feature = "cli")]
use crate::format::parse_duration;
use crate::posture::AuditSettings;

/// How long journals are kept where nothing is said of them.
const KEPT: Period = Period { years: 0, months: 0, weeks: 0, days: 7, hours: 0 };

/// What an agent is set to do.
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct AgentSettings {
    /// The repository, the master keys and etcd.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub common: CommonSettings,
    #[cfg_attr(feature = "cli", command(flatten))]
    /// When.
    pub schedules: Schedules,
    /// Record every change between the snapshots, as `journal record` does
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "agent.continuous",
            long = "continuous",
            value_name = "BOOL",
            env = "STRONGROOM_AGENT_CONTINUOUS",
            default_value = "true",
            action = clap::ArgAction::Set
        )
    )]
    pub continuous: bool,
    /// Delay each operation by a random time up to this, so that many clusters do not begin at once
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "agent.jitter",
            long = "jitter",
            value_name = "TIME",
            env = "STRONGROOM_AGENT_JITTER",
            value_parser = parse_duration
        )
    )]
    pub jitter: Option<Duration>,
    /// Address of the status page, /metrics, /healthz and /readyz
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "agent.listen",
            long = "listen",
            value_name = "HOST:PORT",
            env = "STRONGROOM_AGENT_LISTEN",
            value_parser = crate::status_server::parse_address
        )
    )]
    pub listen: Option<String>,
    /// Format of the log on standard error
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "agent.log",
            long = "log",
            value_name = "FORMAT",
            env = "STRONGROOM_AGENT_LOG",
            value_enum,
            default_value_t
        )
    )]
    pub log: LogFormat,
    /// Name of this agent in logs and on the status page [default: the host's name]
    #[cfg_attr(
        feature = "cli",
        arg(id = "agent.name", long = "name", value_name = "NAME", env = "STRONGROOM_AGENT_NAME")
    )]
    pub name: Option<String>,
    #[cfg_attr(feature = "cli", command(flatten))]
    /// How backups are taken.
    pub backup: BackupOptions,
    #[cfg_attr(feature = "cli", command(flatten))]
    /// How changes are recorded.
    pub record: RecordOptions,
    #[cfg_attr(feature = "cli", command(flatten))]
    /// What is kept.
    pub retention: Retention,
    #[cfg_attr(feature = "cli", command(flatten))]
    /// The second repository.
    pub copy: CopySettings,
    #[cfg_attr(feature = "cli", command(flatten))]
    /// How drills are done.
    pub drill: DrillOptions,
    #[cfg_attr(feature = "cli", command(flatten))]
    /// What audits accept.
    pub audit: AuditSettings,
}

impl AgentSettings {
    /// The same for the repository, the keys and the etcd of `common`. Where none is given it has the host's name, a
    /// schedule of backups, and with a schedule of prune a span for which journals are kept.
    #[must_use]
    pub fn with_common(mut self, common: CommonSettings) -> Self {
        self.backup.cluster = common.cluster.clone().unwrap_or_default();
        self.record.cluster = self.backup.cluster.clone();
        self.backup.recovery = common.recovery;
        self.drill.allow_untested = common.etcd.allow_untested;
        self.common = common;
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        self.name.get_or_insert_with(host);
        // What is recorded makes hourly snapshots unnecessary.
        let hours = if self.continuous { 24 } else { 1 };
        self.schedules.backup.get_or_insert_with(|| Schedule::every_hours(hours));
        // Journals that nobody removes would fill the repository.
        if self.continuous && self.schedules.prune.is_some() {
            self.retention.continuous.get_or_insert(KEPT);
        }
        self
    }

    /// The owner's name for the etcd cluster.
    #[must_use]
    pub fn cluster(&self) -> &ClusterName {
        &self.backup.cluster
    }

    /// Which agent this is.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// That all is there that the schedules need: what is missing is to be said now, not at night.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) without a repository, a master key, rules for what to keep, a spool that can be
    /// created, or a key that opens and an etcd to drill with.
    pub async fn check(&self) -> Result<()> {
        if self.schedules.prune.is_some() && self.retention.is_empty() {
            return Err(Error::usage("agent.prune is set, and none of prune.keep_…")
                .hint("say what to keep, such as keep_daily = 14 in [prune]"));
        }
        self.common.repository_url()?;
        self.common.etcd()?;
        self.common.check_keys()?;
        self.common.check_credentials()?;
        self.common.check_signing(self.backup.unsigned)?;
        if self.continuous {
            self.record.check()?;
        }
        if self.schedules.audit.is_some() {
            self.audit.files.read_advisories()?;
            self.audit.files.read_waivers()?;
        }
        if self.schedules.drill.is_some() {
            if self.common.is_blind() {
                return Err(Error::usage("agent.drill is set, and a drill needs a key that opens")
                    .hint("this host only seals: run drills where the identity is"));
            }
            drill_version(&self.drill).await.map_err(|error| {
                Error::usage(format!("agent.drill is set, and drills cannot start etcd: {error}"))
                    .hint("install etcd, or name it with etcd = \"…\" in [drill]")
            })?;
        }
        Ok(())
    }
}

/// When an agent does what: crontab fields with a time zone, or `@every 15m`.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct Schedules {
    /// When backups are taken [default: every 24h, or every 1h with `--continuous false`]
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "agent.backup",
            long = "backup",
            value_name = "SCHEDULE",
            env = "STRONGROOM_AGENT_BACKUP"
        )
    )]
    pub backup: Option<Schedule>,
    /// When retention is applied, by the rules of `[prune]` [default: never]
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "agent.prune",
            long = "prune",
            value_name = "SCHEDULE",
            env = "STRONGROOM_AGENT_PRUNE"
        )
    )]
    pub prune: Option<Schedule>,
    /// When the newest snapshot and a random other one are verified [default: never]
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "agent.verify",
            long = "verify",
            value_name = "SCHEDULE",
            env = "STRONGROOM_AGENT_VERIFY"
        )
    )]
    pub verify: Option<Schedule>,
    /// When all snapshots are verified [default: never]
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "agent.verify_all",
            long = "verify-all",
            value_name = "SCHEDULE",
            env = "STRONGROOM_AGENT_VERIFY_ALL"
        )
    )]
    pub verify_all: Option<Schedule>,
    /// When an etcd is started from the newest snapshot [default: never]
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "agent.drill",
            long = "drill",
            value_name = "SCHEDULE",
            env = "STRONGROOM_AGENT_DRILL"
        )
    )]
    pub drill: Option<Schedule>,
    /// When it is checked how the cluster is set up, as `audit` does [default: never]
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "agent.audit",
            long = "audit",
            value_name = "SCHEDULE",
            env = "STRONGROOM_AGENT_AUDIT"
        )
    )]
    pub audit: Option<Schedule>,
}

#[cfg(all(test, feature = "cli"))]
mod tests {
    use clap::{Args, Command, FromArgMatches};

    use super::*;

    fn settings(args: &[&str]) -> AgentSettings {
        let command = AgentSettings::augment_args(Command::new("agent").no_binary_name(true));
        let matches = command.try_get_matches_from(args).unwrap();
        let parsed = AgentSettings::from_arg_matches(&matches).unwrap();
        parsed.with_common(CommonSettings::default())
    }

    #[test]
    fn what_is_not_given_depends_on_whether_it_records() {
        for (args, backup, kept) in [
            (&[][..], "@every 24h", None),
            (&["--prune", "@daily"], "@every 24h", Some(KEPT)),
            (&["--continuous", "false", "--prune", "@daily"], "@every 1h", None),
            (&["--backup", "@every 5m"], "@every 5m", None),
        ] {
            let found = settings(args);
            assert_eq!(found.schedules.backup.unwrap().to_string(), backup, "{args:?}");
            assert_eq!(found.retention.continuous, kept, "{args:?}");
        }
        let given = settings(&["--prune", "@daily", "--keep-continuous", "2d"]);
        assert_eq!(given.retention.continuous, Some(Period { days: 2, ..Period::default() }));
    }
}
