//! What an audit is set to do, by hand and by the agent.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use super::advisories::Advisories;
use super::waivers::Waiver;
use crate::error::{Error, Result};
use crate::format::Time;

/// What a check of the cluster reads beside it.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct AuditFiles {
    /// TOML file of failures that are accepted until a given day
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "audit.waivers",
            long = "waivers",
            value_name = "FILE",
            env = "STRONGROOM_AUDIT_WAIVERS"
        )
    )]
    pub waivers: Option<PathBuf>,
    /// Read known vulnerabilities from this file instead of this program's own table
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "audit.advisories",
            long = "advisories",
            value_name = "FILE",
            env = "STRONGROOM_AUDIT_ADVISORIES"
        )
    )]
    pub advisories: Option<PathBuf>,
}

/// What an audit is set to do, by hand and by the agent.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct AuditSettings {
    #[cfg_attr(feature = "cli", command(flatten))]
    /// Waivers, and the table of known vulnerabilities.
    pub files: AuditFiles,
    /// How many users may have the role root
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "audit.expect_root",
            long = "expect-root",
            value_name = "N",
            env = "STRONGROOM_AUDIT_EXPECT_ROOT",
            default_value = "1"
        )
    )]
    pub expect_root: usize,
}

impl AuditFiles {
    /// The table of known vulnerabilities.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when the file cannot be read or is no such table.
    pub fn read_advisories(&self) -> Result<Advisories> {
        let Some(path) = &self.advisories else { return Advisories::built_in() };
        Advisories::parse(&read(path)?).map_err(|error| error.context(path.display().to_string()))
    }

    /// The failures that are accepted.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when the file cannot be read or is no file of waivers.
    pub fn read_waivers(&self) -> Result<Vec<Waiver>> {
        let Some(path) = &self.waivers else { return Ok(Vec::new()) };
        let waivers = Waiver::parse(&read(path)?, now());
        waivers
            .and_then(|waivers| super::check_waivers(&waivers).map(|()| waivers))
            .map_err(|error| error.context(path.display().to_string()))
    }
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(|error| Error::io(path, error))
}

/// The time, in whole seconds.
pub(super) fn now() -> Time {
    let seconds =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |now| now.as_secs());
    Time::from_unix(i64::try_from(seconds).unwrap_or(i64::MAX))
}
