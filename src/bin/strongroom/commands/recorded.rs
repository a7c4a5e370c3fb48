//! What was recorded after a snapshot, for the commands that restore it or look at it.

use std::path::Path;

use strongroom::Result;
use strongroom::backup::{Moment, Recorded, View, plan_restore};
use strongroom::keys::KeySet;
use strongroom::store::Repository;
use strongroom::text::counted;

use super::Context;
use crate::args::{At, Which};
use crate::output::moment;

impl At {
    /// The moment that was asked for.
    pub(super) fn moment(&self) -> Option<Moment> {
        let time = self.time.map(|time| Moment::Time(time.as_millisecond().max(0).unsigned_abs()));
        time.or(self.revision.map(Moment::Revision))
    }
}

/// What a command looks at.
pub(super) struct Seen {
    pub(super) view: View,
    /// The revision in it, the last if `None`.
    pub(super) revision: Option<i64>,
    /// The journals that it takes.
    pub(super) journals: Vec<String>,
}

impl Context {
    /// The snapshot and the journals that hold `moment`. With latest any snapshot may be the base, else only the one that
    /// `which` names. Journals are fetched below `dir`, encrypted as they are stored.
    pub(super) async fn recorded(
        &self,
        (repository, keys): (&Repository, &mut KeySet),
        which: &Which,
        moment: Moment,
        dir: &Path,
    ) -> Result<Recorded> {
        let is_latest = which.id == "latest" && which.before.is_none();
        let base = match is_latest {
            true => None,
            false => Some(self.find(repository, keys, which).await?),
        };
        let cluster = self.settings.cluster.as_ref();
        let recorded = plan_restore(repository, keys, cluster, base, moment, dir).await?;
        recorded.warnings.iter().for_each(|warning| self.output.warn(warning));
        if !recorded.journals.is_empty() {
            let until = until(&recorded).unwrap_or_else(|| "an unknown moment".into());
            self.output.note(&format!(
                "revision {}: snapshot {} and {}, recorded until {until}",
                recorded.revision,
                recorded.base,
                counted(recorded.journals.len(), "journal")
            ));
        }
        Ok(recorded)
    }

    /// What to look at.
    pub(super) async fn view(
        &self,
        (repository, keys): (&Repository, &mut KeySet),
        which: &Which,
        moment: Option<Moment>,
    ) -> Result<Seen> {
        let Some(moment) = moment else {
            let view = self.find(repository, keys, which).await?.into();
            return Ok(Seen { view, revision: None, journals: Vec::new() });
        };
        let dir = std::env::temp_dir();
        let recorded = self.recorded((repository, keys), which, moment, &dir).await?;
        let journals = journals_of(Some(&recorded));
        Ok(Seen { view: recorded.view(), revision: Some(recorded.revision), journals })
    }
}

/// The moment up to which everything is recorded.
pub(super) fn until(recorded: &Recorded) -> Option<String> {
    Some(recorded.recorded_until).filter(|ms| *ms > 0).map(moment)
}

/// Ids of the journals that were used.
pub(super) fn journals_of(recorded: Option<&Recorded>) -> Vec<String> {
    recorded.map(|plan| plan.journals.iter().map(ToString::to_string).collect()).unwrap_or_default()
}

/// Why it may be less than what was recorded.
pub(super) fn missing(recorded: Option<&Recorded>) -> &[String] {
    recorded.map_or(&[], |plan| &plan.findings)
}
