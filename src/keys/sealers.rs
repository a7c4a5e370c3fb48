//! Which keys can seal now, and whether they are enough: the service behind one may be down.

use super::KeySet;
use crate::error::{Error, ErrorKind, Result};
use crate::format::KeyId;

/// A key that could not seal, and why.
#[derive(Debug)]
pub struct Missing {
    /// The key.
    pub key: KeyId,
    /// Why.
    pub error: Error,
}

impl KeySet {
    /// That what is sealed without the keys that are `missing` is sealed to enough.
    ///
    /// # Errors
    /// Of the class of the key that is missing; [`ErrorKind::Refused`] when too few are configured.
    pub(crate) fn check_enough(&self, missing: &[Missing]) -> Result<()> {
        let of_key = |id: KeyId| missing.iter().find(|one| one.key == id).map(|one| &one.error);
        for id in &self.required {
            let seals = self.sealing().any(|key| key.id() == *id);
            match of_key(*id) {
                Some(why) => {
                    return Err(Error::new(why.kind(), format!("{why}; key {id} is required"))
                        .hint("see --require-key (keys.require): without it, backups go on with the other keys"));
                }
                None if seals => {}
                None => {
                    let message =
                        format!("key {id} is required, and no master key given seals as it");
                    return Err(Error::new(ErrorKind::Refused, message).hint(
                        "give it with --master-key, or take it out of --require-key (keys.require)",
                    ));
                }
            }
        }
        let all = self.sealing().count();
        let left = all.saturating_sub(missing.len());
        let first = missing.first().map(|one| &one.error);
        match first {
            _ if left >= self.min_sealers.max(1) => Ok(()),
            // One that is down is worth another try; what is refused is not.
            Some(first) => {
                let down = missing.iter().find(|one| one.error.kind() == ErrorKind::Unreachable);
                let why: Vec<String> = missing.iter().map(|one| one.error.to_string()).collect();
                let kind = down.map_or(first.kind(), |one| one.error.kind());
                let message = format!("{left} of {all} master keys can seal: {}", why.join("; "));
                let hint = first.hint_text().filter(|_| kind != ErrorKind::Unreachable);
                Err(Error::new(kind, message).hint(
                    hint.unwrap_or("nothing was written; try again when the service is back"),
                ))
            }
            None if all == 0 => Ok(()),
            None => Err(Error::new(
                ErrorKind::Refused,
                format!("{all} master keys seal, and {} are wanted", self.min_sealers),
            )
            .hint("give more with --master-key, or lower --min-sealers (keys.min_sealers)")),
        }
    }

    /// The same, of which all that seal have to.
    #[cfg(feature = "backup")]
    #[must_use]
    pub(crate) fn sealing_with_all(&self) -> Self {
        let mut all = self.with(|_| true);
        all.min_sealers = all.sealing().count();
        all
    }

    /// The same without the keys whose service does not answer now, and those.
    #[cfg(feature = "backup")]
    pub(crate) async fn available(&self) -> (Self, Vec<Missing>) {
        let mut missing = Vec::new();
        for key in &self.recipients {
            // What may not seal may still open.
            if let Some(error) =
                key.check().await.err().filter(|error| error.kind() == ErrorKind::Unreachable)
            {
                missing.push(Missing { key: key.id(), error });
            }
        }
        let is_there = |id| missing.iter().all(|one: &Missing| one.key != id);
        (self.with(is_there), missing)
    }
}
