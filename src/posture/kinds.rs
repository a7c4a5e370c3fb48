//! Where facts come from, which part of a guide a check belongs to, and what it says of one subject.

use serde::Serialize;

use super::fact::Judgement;

/// Where facts come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[cfg_attr(feature = "cli", derive(clap::ValueEnum))]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// The endpoints: handshakes, HTTP, gRPC
    Live,
    /// A member's host: its process, settings and files
    Host,
    /// Files of Kubernetes' API server
    Kubernetes,
    /// The repository: backups, reports, what the newest snapshot has
    Repository,
}

/// The part of a security guide that a check belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Section {
    /// Who may connect.
    Authentication,
    /// What they may do.
    Authorization,
    /// What others can read.
    Encryption,
    /// Who can reach it.
    Network,
    /// Whether anyone would notice.
    Monitoring,
    /// Whether it is maintained, and can be brought back.
    Updates,
}

impl Section {
    /// In words.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Authentication => "Authentication",
            Self::Authorization => "Authorization",
            Self::Encryption => "Encryption",
            Self::Network => "Network",
            Self::Monitoring => "Monitoring",
            Self::Updates => "Updates and recovery",
        }
    }
}

/// What a check says of one member, or of the cluster.
pub(crate) struct Judged {
    /// The endpoint or member; nothing for the cluster.
    pub(crate) subject: Option<String>,
    /// Its own title and address, where one check stands for many.
    pub(crate) detail: Option<(String, String)>,
    pub(crate) judgement: Judgement,
}

impl Judged {
    pub(crate) fn of(subject: Option<String>, judgement: Judgement) -> Self {
        Self { subject, detail: None, judgement }
    }
}
