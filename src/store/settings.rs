//! Which repository, and how its store is reached.

use std::collections::BTreeMap;

use super::url::RepositoryUrl;
use crate::format::Uuid;

/// Which repository, and how its store is reached.
#[derive(Clone, Default)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct RepositorySettings {
    /// Repository: a path, file:///…, s3://bucket/prefix, gs://bucket/prefix or az://container/prefix
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "repository.url",
            short = 'r',
            long = "repository",
            value_name = "URL",
            env = "STRONGROOM_REPOSITORY"
        )
    )]
    pub url: Option<RepositoryUrl>,
    /// Refuse a repository with another id than this
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "repository.id",
            long = "repository-id",
            value_name = "UUID",
            env = "STRONGROOM_REPOSITORY_ID"
        )
    )]
    pub id: Option<Uuid>,
    /// The store's options (see [`connect`](super::connect)), which may hold secrets.
    #[cfg_attr(feature = "cli", arg(skip))]
    pub options: BTreeMap<String, String>,
}
