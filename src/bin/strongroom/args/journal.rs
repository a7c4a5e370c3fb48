//! `journal …`

use clap::{Args, Subcommand};
use strongroom::backup::{BackupOptions, CopySettings, RecordOptions};

use super::moment;
use crate::help;

/// `journal …`
#[derive(Subcommand)]
pub(crate) enum JournalCommand {
    /// Record every change of etcd until it is stopped
    #[command(
        long_about = help::JOURNAL_RECORD,
        after_long_help = help::JOURNAL_RECORD_MORE,
        // They are for journals, too.
        mut_arg("backup.suite", |arg| arg.help_heading(None)),
        mut_arg("backup.unsigned", |arg| arg.help_heading(None))
    )]
    Record(Box<RecordArgs>),
    /// List the journals and what they hold
    #[command(long_about = help::JOURNAL_LIST, after_long_help = help::JOURNAL_LIST_MORE)]
    List,
    /// Open every segment, and compare journals that overlap
    #[command(long_about = help::JOURNAL_VERIFY, after_long_help = help::JOURNAL_VERIFY_MORE)]
    Verify(JournalVerifyArgs),
}

/// `journal verify`
#[derive(Args)]
pub(crate) struct JournalVerifyArgs {
    /// Also rebuild each snapshot from the one before it and the journals between them, and compare
    #[arg(long)]
    pub(crate) deep: bool,
    /// With --deep: only snapshots begun since this time, such as 2026-11-23 or 2d (ago) [default: all]
    #[arg(long, value_name = "TIME", requires = "deep", value_parser = moment)]
    pub(crate) since: Option<jiff::Timestamp>,
    /// With --deep: store the result as a report in the repository
    #[arg(long, requires = "deep")]
    pub(crate) record: bool,
}

/// `journal record`
#[derive(Args)]
pub(crate) struct RecordArgs {
    #[command(flatten)]
    pub(crate) record: RecordOptions,
    #[command(flatten)]
    pub(crate) copy: CopySettings,
    #[command(flatten, next_help_heading = "Snapshots taken at gaps")]
    pub(crate) options: BackupOptions,
}
