//! A snapshot's seals: which of them opens it, and what all of them are worth (SPEC.md §5.2, §5.3).

use super::folder::Folder;
use crate::crypto;
use crate::envelope::{Asked, Judged, Opened, judge_seal, judge_to_vouch};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{MAX_SEAL, Manifest, Part, Seal, Sha256, SnapshotId, Subject};
use crate::keys::KeySet;
use crate::keys::trust::Standing;
use crate::store::{Repository, seals as of_store};

/// What a manifest's seals came to.
pub(crate) struct Authentic {
    /// The seal that is worth most.
    pub(crate) seal: Seal,
    /// What it is worth. Unless it opened or counts, nothing has authenticated the manifest.
    pub(crate) judged: Judged,
    /// Seals that do not open, and why. The snapshot opens all the same.
    pub(crate) findings: Vec<String>,
}

/// What a snapshot's seals vouch for.
pub(crate) fn manifest_digest(manifest: &Manifest) -> Sha256 {
    Sha256(crypto::sha256(&[&manifest.print()]))
}

/// Reads the seals of `manifest`'s snapshot from the newest down, until one counts and, if there is a key that may open
/// one, opens.
///
/// # Errors
/// Those of SPEC.md §5.2 when none opens and none is signed; tampered when there are too many to tell.
pub(crate) async fn authenticate(
    repository: &Repository,
    folder: &Folder,
    keys: &KeySet,
    manifest: &Manifest,
) -> Result<Authentic> {
    let id = manifest.body().snapshot;
    let mut tried = Tried::new(manifest, keys, false);
    let (generations, all) = generations(folder);
    let last = generations.last().copied();
    for generation in generations {
        if Some(generation) == last {
            tried.asked.at_last();
        }
        tried.add(generation, read_seal(repository, id, generation).await).await?;
        if tried.is_decided() {
            return tried.finish();
        }
    }
    if !all {
        return Err(too_many(id));
    }
    tried.finish()
}

pub(crate) fn too_many(id: SnapshotId) -> Error {
    of_store::too_many(&format!("snapshot {id}"))
}

/// The generations to read, from the highest down, and whether those are all.
pub(crate) fn generations(folder: &Folder) -> (Vec<u32>, bool) {
    of_store::generations(&folder.seals)
}

/// Reads one seal of `id`, which must be of that snapshot and generation.
pub(crate) async fn read_seal(
    repository: &Repository,
    id: SnapshotId,
    generation: u32,
) -> Result<Seal> {
    let name = Part::Seal(generation).of(id);
    let seal = async {
        let seal = Seal::parse(&repository.get(&name, MAX_SEAL as u64).await?)?;
        let body = seal.body();
        if body.subject() != Subject::Snapshot(id) || body.generation() != generation {
            return Err(Error::tampered("its lines name another snapshot or generation"));
        }
        Ok(seal)
    };
    seal.await.context(name)
}

/// What the seals of a manifest that were read so far have shown.
pub(crate) struct Tried<'a> {
    manifest: &'a Manifest,
    object: Sha256,
    keys: &'a KeySet,
    vouching: bool,
    best: Option<(Seal, Judged)>,
    /// The class that decides when none opens, with its rank.
    worst: Option<(u8, Error)>,
    /// Some seal of this manifest that authenticates carries a signature.
    signed: bool,
    /// Some other carries a line that looks like one.
    claims_signed: bool,
    findings: Vec<String>,
    asked: Asked,
}

impl<'a> Tried<'a> {
    /// With `vouching`, a key that seals makes a seal count although signers are configured.
    pub(crate) fn new(manifest: &'a Manifest, keys: &'a KeySet, vouching: bool) -> Self {
        let object = manifest_digest(manifest);
        Self {
            manifest,
            object,
            keys,
            vouching,
            best: None,
            worst: None,
            signed: false,
            claims_signed: false,
            findings: Vec::new(),
            asked: Asked::default(),
        }
    }

    /// Takes note of a seal; what it is worth, unless it fails.
    ///
    /// # Errors
    /// Only [`ErrorKind::Unreachable`]: a seal that does not open is a finding, and others may.
    pub(crate) async fn add(
        &mut self,
        generation: u32,
        seal: Result<Seal>,
    ) -> Result<Option<Standing>> {
        let body = self.manifest.body();
        let seal = match seal {
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            seal => seal,
        };
        // A key that is named and fails outweighs no key that is named, and that a seal that is none ([S5.7]).
        let (rank, error) = match seal {
            Err(error) => (1, error),
            Ok(seal) if *seal.body().commitment() != body.commitment => {
                (1, Error::tampered("it seals a different data key than the manifest names"))
            }
            Ok(seal) => match self.judge(&seal).await {
                Ok(judged) => {
                    return Ok(Some(self.note(seal, judged)));
                }
                Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                Err(error) if error.kind() == ErrorKind::WrongKey => (2, error),
                Err(error) => (3, error),
            },
        };
        let name = Part::Seal(generation).of(body.snapshot);
        let error = if error.to_string().contains(&name) { error } else { error.context(name) };
        if rank != 2 && self.findings.len() < of_store::MOST {
            self.findings.push(error.to_string());
        }
        if self.worst.as_ref().is_none_or(|(worst, _)| rank > *worst) {
            self.worst = Some((rank, error));
        }
        Ok(None)
    }

    async fn judge(&mut self, seal: &Seal) -> Result<Judged> {
        let cluster = Some(&self.manifest.body().cluster);
        match self.vouching {
            true => judge_to_vouch(seal, self.object, cluster, self.keys, &mut self.asked).await,
            false => judge_seal(seal, self.object, cluster, self.keys, &mut self.asked).await,
        }
    }

    fn note(&mut self, seal: Seal, judged: Judged) -> Standing {
        let has_line = !seal.body().signatures().is_empty();
        // What is authentic and did not open has a trusted signature that verifies; what opened, a MAC over its lines.
        self.signed |= has_line && judged.is_authentic();
        self.claims_signed |= has_line;
        let (standing, worth) = (judged.standing, worth(&judged));
        if self.best.as_ref().is_none_or(|(_, best)| worth > self::worth(best)) {
            self.best = Some((seal, judged));
        }
        standing
    }

    /// Whether no further seal can change what comes out.
    pub(crate) fn is_decided(&self) -> bool {
        let best = (Standing::Counts, !self.keys.is_blind() && !self.keys.is_sparing());
        let counts = self.best.as_ref().is_some_and(|(_, judged)| worth(judged) >= best);
        counts && (self.signed || !self.manifest.body().signed)
    }

    /// What they come to: the manifest is authenticated by the data key of the best, or by a signature over all of it.
    pub(crate) fn finish(self) -> Result<Authentic> {
        let (body, id) = (self.manifest.body(), self.manifest.body().snapshot);
        let Some((seal, judged)) = self.best else {
            let none = || Error::truncated(format!("snapshot {id} has no seal"));
            return Err(self.worst.map_or_else(none, |(_, error)| error));
        };
        let manifest = Part::Manifest.of(id);
        if let Some(Opened { data_key, .. }) = &judged.opened {
            let (signed, mac) = (self.manifest.signed_bytes(), self.manifest.mac());
            let authentic = data_key.authenticate_manifest(&body.commitment, signed, mac);
            authentic.context(manifest.clone())?;
        }
        let signed = if judged.is_authentic() { self.signed } else { self.claims_signed };
        if body.signed && !signed {
            return Err(
                Error::tampered("no seal carries the signature that it requires").context(manifest)
            );
        }
        Ok(Authentic { seal, judged, findings: self.findings })
    }
}

/// Of two seals that are worth the same, one that opened is of more use.
fn worth(judged: &Judged) -> (Standing, bool) {
    (judged.standing, judged.opened.is_some())
}
