//! A snapshot's seals: which of them opens it, and what all of them are worth (SPEC.md §5.2, §5.3).

use super::folder::Folder;
use crate::crypto;
use crate::envelope::{Judged, Opened, judge_seal, open_seal};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{MAX_SEAL, Manifest, Part, Seal, Sha256, SnapshotId, Subject};
use crate::keys::KeySet;
use crate::keys::trust::{Distrust, Standing, standing};
use crate::store::{ObjectInfo, Repository};

/// The most seals of one snapshot that are read, and their most bytes ([S5.12]).
const MOST_SEALS: usize = 1000;
const MOST_SEAL_BYTES: u64 = 64 << 20;
/// The numbers from the first up, and from the last down, whose seals are within half of the bounds whatever their lengths.
const ENDS: u32 = 20;
const _: () = assert!(ENDS as u64 * MAX_SEAL as u64 <= MOST_SEAL_BYTES / 2);

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
    for generation in generations {
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
    let message = format!(
        "snapshot {id} has more than {MOST_SEALS} seals, or more than {} MiB of them: whether it counts is unknown",
        MOST_SEAL_BYTES >> 20
    );
    Error::tampered(message)
        .hint("remove those that do not belong to it: somebody else put them there")
}

/// The generations to read, from the highest down, and whether those are all. Of too many the highest and the lowest are
/// read: whoever plants seals beside one that he cannot delete has only the numbers above it, and the few below ([S5.12]).
pub(crate) fn generations(folder: &Folder) -> (Vec<u32>, bool) {
    let bytes = folder.seals.values().map(read_length).fold(0, u64::saturating_add);
    if folder.seals.len() <= MOST_SEALS && bytes <= MOST_SEAL_BYTES {
        return (folder.seals.keys().rev().copied().collect(), true);
    }
    let mut read = half(folder.seals.iter().rev());
    read.extend(half(folder.seals.iter()));
    (read, false)
}

/// How much of an object is read as a seal at most: a longer one is none, and its length pushes no other out.
fn read_length(info: &ObjectInfo) -> u64 {
    info.len.min(MAX_SEAL as u64)
}

/// The number of a new seal: the first above `highest` that is free, if it is one of the first or last [`ENDS`], which
/// [`generations`] reads whatever else is there; otherwise the greatest of those that is free.
pub(crate) fn next_generation(highest: u32, folder: &Folder) -> Option<u32> {
    let is_free = |number: &u32| !folder.seals.contains_key(number);
    let last = u32::MAX - ENDS + 1..=u32::MAX;
    let above = (highest..u32::MAX).map(|below| below + 1).find(is_free);
    above
        .filter(|number| *number <= ENDS || last.contains(number))
        .or_else(|| last.rev().find(is_free))
        .or_else(|| (1..=ENDS).rev().find(is_free))
}

/// As many of `seals` as half the bounds allow.
fn half<'a>(seals: impl Iterator<Item = (&'a u32, &'a ObjectInfo)>) -> Vec<u32> {
    let mut bytes = 0u64;
    let fits = |(_, info): &(&u32, &ObjectInfo)| {
        bytes = bytes.saturating_add(read_length(info));
        bytes <= MOST_SEAL_BYTES / 2
    };
    seals.take(MOST_SEALS / 2).take_while(fits).map(|(generation, _)| *generation).collect()
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
        if rank != 2 && self.findings.len() < MOST_SEALS {
            self.findings.push(error.to_string());
        }
        if self.worst.as_ref().is_none_or(|(worst, _)| rank > *worst) {
            self.worst = Some((rank, error));
        }
        Ok(None)
    }

    async fn judge(&self, seal: &Seal) -> Result<Judged> {
        let cluster = Some(&self.manifest.body().cluster);
        let judged = judge_seal(seal, self.object, cluster, self.keys).await?;
        if !self.vouching || judged.standing.counts() {
            return Ok(judged);
        }
        let opened = open_seal(seal, self.object, self.keys).await?;
        // By what it is when there are no signers; that a revoked one signed it is for the caller to judge.
        let standing = match judged.standing {
            revoked @ Standing::NotTrusted(Distrust::Revoked) => revoked,
            _ => standing(&[], [opened.evidence()]),
        };
        Ok(Judged { opened: Some(opened), standing })
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
    fn is_decided(&self) -> bool {
        let best = (Standing::Counts, !self.keys.is_blind());
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

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn folder(numbers: impl IntoIterator<Item = u32>, len: u64) -> Folder {
        let mut folder = Folder::default();
        for number in numbers {
            let name = Part::Seal(number).of(SnapshotId(1));
            folder.seals.insert(number, ObjectInfo { name, len, modified: SystemTime::UNIX_EPOCH });
        }
        folder
    }

    #[test]
    fn a_new_seal_is_always_among_those_that_are_read() {
        let next = |highest, taken: &[u32]| next_generation(highest, &folder(taken.to_vec(), 1));
        assert_eq!(next(1, &[1, 2, u32::MAX]), Some(3));
        assert_eq!(next(u32::MAX, &[1, u32::MAX]), Some(u32::MAX - 1));
        let mut planted: Vec<u32> = (1..=601).collect();
        let number = next(1, &planted).unwrap();
        assert_eq!(number, u32::MAX);
        assert_eq!(next(1, &(1..=20).chain(u32::MAX - 19..=u32::MAX).collect::<Vec<_>>()), None);
        planted.extend(10_000..11_000);
        planted.push(number);
        // Neither their number nor their lengths hide it.
        for len in [1, 1 << 30] {
            assert!(generations(&folder(planted.clone(), len)).0.contains(&number));
            assert!(generations(&folder(planted.clone(), len)).0.contains(&ENDS));
        }
    }
}
