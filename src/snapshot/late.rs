//! Stanzas that come after the snapshot: of keys that could not seal when it was written.

use std::time::Duration;

use super::seals::read_seal;
use crate::crypto;
use crate::envelope::{DataKey, NewSeal, seal_to_most};
use crate::error::{Context, Error, Result};
use crate::format::{KeyId, MAX_MANIFEST, Part, Seal, Sha256, SnapshotId};
use crate::keys::{KeySet, Missing};
use crate::store::Repository;

/// The pause between two tries.
const PAUSE: Duration = Duration::from_secs(15);
/// For how long a data key is kept: a host that cannot open has it no longer than this after the backup.
const LONGEST: Duration = Duration::from_secs(600);

/// A snapshot whose seal lacks the stanzas of some keys, and its data key, in memory only.
pub(crate) struct LateSeal {
    id: SnapshotId,
    data_key: DataKey,
    seal: Seal,
    missing: Vec<KeyId>,
}

impl LateSeal {
    /// Of a snapshot with this first seal; none if no key is missing.
    pub(crate) fn new(
        data_key: DataKey,
        id: SnapshotId,
        seal: Seal,
        missing: &[Missing],
    ) -> Option<Self> {
        let missing: Vec<KeyId> = missing.iter().map(|one| one.key).collect();
        (!missing.is_empty()).then_some(Self { id, data_key, seal, missing })
    }

    /// The snapshot.
    pub(crate) fn id(&self) -> SnapshotId {
        self.id
    }

    /// Tries for ten minutes to add what is missing.
    ///
    /// # Errors
    /// What the last try met.
    #[cfg(feature = "agent")]
    pub(crate) async fn keep_trying(
        mut self,
        repository: &Repository,
        keys: &KeySet,
    ) -> Result<()> {
        let begun = std::time::Instant::now();
        loop {
            tokio::time::sleep(PAUSE).await;
            match self.add(repository, keys).await {
                Ok(()) => return Ok(()),
                Err(error) if begun.elapsed() > LONGEST => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Writes the next generation of the seal, with the stanzas of the missing keys that can seal by now.
    ///
    /// # Errors
    /// Those of the keys, as long as one is missing; those of the store.
    pub(crate) async fn add(&mut self, repository: &Repository, keys: &KeySet) -> Result<()> {
        let body = self.seal.body();
        let (object, number) = (body.object(), body.generation());
        let generation = number.saturating_add(1);
        let new = NewSeal {
            generation,
            object,
            kept: body.stanzas().to_vec(),
            signatures: body.signatures().to_vec(),
            sign: false,
        };
        let lacking = keys.only(&self.missing);
        lacking.check_current()?;
        let rng = &mut crypto::system_rng();
        let (seal, missing) = seal_to_most(&self.data_key, new, &lacking, rng).await?;
        let manifest = repository.get(&Part::Manifest.of(self.id), MAX_MANIFEST as u64).await?;
        if Sha256(crypto::sha256(&[&manifest])) != object {
            return Err(Error::tampered(format!(
                "snapshot {}: its manifest was replaced",
                self.id
            )));
        }
        let name = Part::Seal(generation).of(self.id);
        repository.put_once(&name, seal.print().into()).await?;
        if read_seal(repository, self.id, generation).await.context(name.clone())? != seal {
            return Err(Error::tampered(format!("{name}: the store returns another seal")));
        }
        // It has no stanza that the new one lacks; without the right to delete both stay, and that is no harm.
        let _ = repository.delete(&Part::Seal(number).of(self.id)).await;
        self.seal = seal;
        self.missing = missing.iter().map(|one| one.key).collect();
        match missing.into_iter().next() {
            None => Ok(()),
            Some(missing) => Err(missing.error),
        }
    }
}
