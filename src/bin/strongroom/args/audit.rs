//! What `audit` takes.

use std::path::PathBuf;

use clap::Args;
use strongroom::posture::{Probe, Severity, UnknownPolicy};

/// `audit`
#[derive(Args)]
pub(crate) struct AuditArgs {
    /// How much to ask about TLS
    #[arg(long, value_name = "HOW", default_value = "full")]
    pub(crate) probe: Probe,
    /// Only these checks
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub(crate) only: Vec<String>,
    /// Not these checks
    #[arg(long, value_name = "ID,…", value_delimiter = ',')]
    pub(crate) skip: Vec<String>,
    /// List the checks, and do nothing
    #[arg(long)]
    pub(crate) list: bool,
    /// Exit with status 3 for failures of this severity and above
    #[arg(long, value_name = "SEVERITY", default_value = "high")]
    pub(crate) fail_on: Severity,
    /// What to do with checks that cannot be made
    #[arg(long, value_name = "HOW", default_value = "fail")]
    pub(crate) unknown: UnknownPolicy,
    /// How many users may have the role root
    #[arg(long, value_name = "N", default_value = "1")]
    pub(crate) expect_root: usize,
    /// Read known vulnerabilities from this file instead of this program's own table
    #[arg(long, value_name = "FILE")]
    pub(crate) advisories: Option<PathBuf>,
}
