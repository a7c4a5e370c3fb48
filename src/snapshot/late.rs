//! Stanzas that come after the snapshot: of keys that could not seal when it was written.

use std::time::Duration;

use super::seals::read_seal;
use crate::crypto;
use crate::envelope::{DataKey, NewSeal, is_genuine, key_ids, seal_to_most};
use crate::error::{Context, Error, ErrorKind, Result};
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
    /// The number of the next seal.
    next: u32,
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
        let next = seal.body().generation().saturating_add(1);
        (!missing.is_empty()).then_some(Self { id, data_key, seal, missing, next })
    }

    /// The snapshot.
    pub(crate) fn id(&self) -> SnapshotId {
        self.id
    }

    /// Tries for ten minutes to add what is missing.
    ///
    /// # Errors
    /// What the last try met; at once, what no further try changes.
    #[cfg(feature = "agent")]
    pub(crate) async fn keep_trying(
        mut self,
        repository: &Repository,
        keys: &KeySet,
    ) -> Result<()> {
        let mut met = None;
        let tries = async {
            loop {
                tokio::time::sleep(PAUSE).await;
                match self.add(repository, keys).await {
                    Err(error) if !is_final(&error) => met = Some(error),
                    done => return done,
                }
            }
        };
        match tokio::time::timeout(LONGEST, tries).await {
            Ok(done) => done,
            Err(_) => Err(met.unwrap_or_else(|| {
                Error::new(ErrorKind::Unreachable, "no answer within 10 minutes")
            })),
        }
    }

    /// Writes the next generation of the seal, with the stanzas of the missing keys that can seal by now.
    ///
    /// # Errors
    /// Those of the keys, as long as one is missing; those of the store.
    pub(crate) async fn add(&mut self, repository: &Repository, keys: &KeySet) -> Result<()> {
        let body = self.seal.body();
        let (object, number, generation) = (body.object(), body.generation(), self.next);
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
        match repository.put_once(&name, seal.print().into()).await {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                return self.take_over(repository, error).await;
            }
            put => put?,
        }
        if read_seal(repository, self.id, generation).await.context(name.clone())? != seal {
            return Err(Error::tampered(format!("{name}: the store returns another seal")));
        }
        // It has no stanza that the new one lacks; without the right to delete both stay, and that is no harm.
        let _ = repository.delete(&Part::Seal(number).of(self.id)).await;
        (self.seal, self.next) = (seal, generation.saturating_add(1));
        self.missing = missing.iter().map(|one| one.key).collect();
        match missing.into_iter().next() {
            None => Ok(()),
            Some(missing) => Err(missing.error),
        }
    }

    /// Of the seal that stands where the next one should: goes on from it if somebody with the data key made it, as an
    /// earlier try whose answer was lost. Another one is passed over by the next try.
    async fn take_over(&mut self, repository: &Repository, error: Error) -> Result<()> {
        let there = match read_seal(repository, self.id, self.next).await {
            Err(error) if error.kind().is_general() => return Err(error),
            // Anybody can have put it there.
            read => read.ok(),
        };
        let object = self.seal.body().object();
        if let Some(seal) =
            there.filter(|seal| seal.body().object() == object && is_genuine(seal, &self.data_key))
        {
            let opening = key_ids(&seal);
            self.missing.retain(|key| !opening.contains(key));
            self.seal = seal;
        }
        self.next = self.next.saturating_add(1);
        if self.missing.is_empty() { Ok(()) } else { Err(error) }
    }
}

/// Whether no further try changes it.
#[cfg(feature = "agent")]
fn is_final(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Refused | ErrorKind::Tampered | ErrorKind::NotFound)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use object_store::memory::InMemory;

    use super::*;
    use crate::crypto::system_rng;
    use crate::envelope::seal_data_key;
    use crate::format::{KeyState, Subject};
    use crate::keys::LocalKey;

    const ID: SnapshotId = SnapshotId(7);

    fn data_key() -> DataKey {
        DataKey::generate(Subject::Snapshot(ID), &mut system_rng())
    }

    async fn sealed(data_key: &DataKey, generation: u32, object: Sha256, keys: &KeySet) -> Seal {
        let new = NewSeal { generation, ..NewSeal::first(object) };
        seal_data_key(data_key, new, keys, &mut system_rng()).await.unwrap()
    }

    /// What an earlier try stored, and could not read back, is gone on from; what somebody planted is passed over.
    #[tokio::test]
    async fn a_seal_that_is_there_already_ends_no_try() {
        let mut keys = KeySet::new();
        let all = [0; 2].map(|_| Arc::new(LocalKey::generate(&mut system_rng())));
        all.iter().for_each(|key| keys.add(Arc::clone(key), KeyState::Primary));
        let [first, second] = all.map(|key| key.id());
        for ours in [true, false] {
            let store = Arc::new(InMemory::new());
            let (repository, _) = Repository::init(store, true, &mut system_rng()).await.unwrap();
            let manifest = b"a manifest";
            repository.put_once(&Part::Manifest.of(ID), manifest.to_vec().into()).await.unwrap();
            let object = Sha256(crypto::sha256(&[manifest]));
            let own = data_key();
            let seal = sealed(&own, 1, object, &keys.only(&[first])).await;
            let there = match ours {
                true => sealed(&own, 2, object, &keys).await,
                false => sealed(&data_key(), 2, object, &keys).await,
            };
            repository.put_once(&Part::Seal(2).of(ID), there.print().into()).await.unwrap();
            let error = Error::new(ErrorKind::Unreachable, "it is down");
            let missing = [Missing { key: second, error }];
            let mut late = LateSeal::new(own, ID, seal, &missing).unwrap();
            let met = late.add(&repository, &keys).await;
            assert_eq!(
                met.map_err(|error| error.kind()),
                if ours { Ok(()) } else { Err(ErrorKind::AlreadyExists) }
            );
            if !ours {
                late.add(&repository, &keys).await.unwrap();
                let seal = read_seal(&repository, ID, 3).await.unwrap();
                assert_eq!(key_ids(&seal).len(), 2);
            }
            assert!(late.missing.is_empty());
        }
    }
}
