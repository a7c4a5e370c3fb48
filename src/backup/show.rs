//! All that is known of one snapshot.

use crate::envelope::key_ids;
use crate::error::{Context, Error, Result};
use crate::format::{Facts, KeyId, Manifest, Seal, SnapshotId};
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::snapshot::facts;
use crate::snapshot::folder;
use crate::snapshot::open;
use crate::snapshot::seals;
use crate::store::Repository;

/// One snapshot in full.
#[non_exhaustive]
pub struct Details {
    /// The manifest. Believe it only when [`facts`](Self::facts) is there, or it counts: then a key or a trusted signature
    /// has authenticated it.
    pub manifest: Manifest,
    /// Length of all its objects in the store.
    pub stored_bytes: u64,
    /// Generation of the newest seal.
    pub generation: u32,
    /// The master keys that the newest seal names.
    pub sealed_by: Vec<KeyId>,
    /// The keys that signed the newest seal; whose they are is what the standing says.
    pub signed_by: Vec<KeyId>,
    /// The key that opened it, if one that is available does.
    pub opened_by: Option<KeyId>,
    /// What its seals are worth.
    pub standing: Standing,
    /// What the sealed facts say, if a key at hand opens them.
    pub facts: Option<Facts>,
    /// Oddities that do not keep it from being restored.
    pub findings: Vec<String>,
}

/// Reads all that is known of `id`; what needs a key only if one at hand opens it.
///
/// # Errors
/// Those of SPEC.md §8, when manifest or seal are not whole. Keys that do not open it are no error here.
pub async fn show(repository: &Repository, keys: &KeySet, id: SnapshotId) -> Result<Details> {
    let folder = folder::list_or_look_up(repository, id).await?;
    let lengths = folder.objects.values().chain(folder.seals.values()).chain(&folder.manifest);
    let stored_bytes = lengths.map(|info| info.len).sum();
    let unsealed = match open::unseal(repository, id, &folder, keys).await {
        Err(error) if error.kind() == crate::ErrorKind::WrongKey => None,
        unsealed => Some(unsealed.with(id)?),
    };
    let Some(unsealed) = unsealed else {
        let manifest = open::read_manifest(repository, id).await?;
        let generation = folder.seals.keys().next_back().copied();
        let generation = generation.ok_or_else(|| Error::truncated("it has no seal")).with(id)?;
        let seal = seals::read_seal(repository, id, generation).await?;
        return Ok(Details {
            manifest,
            stored_bytes,
            generation,
            sealed_by: key_ids(&seal),
            signed_by: signers(&seal),
            opened_by: None,
            standing: Standing::Unverified,
            facts: None,
            findings: Vec::new(),
        });
    };
    let opened = unsealed.opened.as_ref();
    let facts = opened.map(|opened| facts::open(&unsealed.manifest, &opened.data_key));
    Ok(Details {
        facts: facts.transpose().with(id)?,
        opened_by: opened.map(|opened| opened.opened_by),
        manifest: unsealed.manifest,
        stored_bytes,
        generation: unsealed.seal.body().generation(),
        sealed_by: key_ids(&unsealed.seal),
        signed_by: signers(&unsealed.seal),
        standing: unsealed.standing,
        findings: unsealed.findings,
    })
}

fn signers(seal: &Seal) -> Vec<KeyId> {
    seal.body().signatures().iter().map(|signature| signature.key_id).collect()
}

trait Named<T> {
    fn with(self, id: SnapshotId) -> Result<T>;
}

impl<T> Named<T> for Result<T> {
    fn with(self, id: SnapshotId) -> Result<T> {
        self.context(format!("snapshot {id}"))
    }
}
