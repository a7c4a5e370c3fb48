//! The seals that a copy brings: all that authenticate, and some that no key here can judge.

use super::Copying;
use super::report::CopyReport;
use crate::envelope::{Asked, judge_seal};
use crate::error::{Error, Result};
use crate::format::{MAX_SEAL, Manifest, Part, Seal, SnapshotId};
use crate::snapshot::open::read_manifest;
use crate::snapshot::seals;

/// Seals of one snapshot that the copy may have, if some of them are to be copied that nothing here authenticates: they may
/// be of keys that are elsewhere. Half of these are the highest, half the lowest.
const MOST_UNVERIFIED: usize = 64;

impl Copying<'_> {
    /// Copies the seals that the copy does not have, and says where it has others under the same number.
    ///
    /// # Errors
    /// Tampered when the copy has other seals under the numbers of all by which the snapshot counts.
    pub(super) async fn seals(&self, id: SnapshotId, report: &mut CopyReport) -> Result<u64> {
        let mut written = 0;
        let Some(from) = self.from.get(&id).filter(|_| !self.is_removed_there(id)) else {
            return Ok(written);
        };
        let there = self.there.get(&id).map(|folder| &folder.seals);
        let (mut same, mut differing, mut missing) = (Vec::new(), Vec::new(), Vec::new());
        for generation in seals::generations(from).0 {
            let Some(there) = there.and_then(|seals| seals.get(&generation)) else {
                missing.push(generation);
                continue;
            };
            // Both repositories may have been sealed again, each on its own. A first seal is written once, with
            // the snapshot: its length tells enough.
            let name = Part::Seal(generation).of(id);
            let length = from.seals.get(&generation).map(|info| info.len);
            match length == Some(there.len) && (generation == 1 || self.is_same(&name).await?) {
                true => same.push(generation),
                false => {
                    report.differing.push(name);
                    differing.push(generation);
                }
            }
        }
        if missing.is_empty() && differing.is_empty() {
            return Ok(written);
        }
        let manifest = read_manifest(self.source, id).await?;
        let (mut counts_there, mut unverified) = (false, Vec::new());
        let mut asked = Asked::default();
        for generation in missing {
            let Some(seal) = self.read(id, generation).await? else { continue };
            match self.worth(&seal, &manifest, &mut asked).await? {
                None => unverified.push(generation),
                Some(counts) => {
                    written += self.put(id, generation, &seal).await?;
                    counts_there |= counts;
                }
            }
        }
        for generation in self.chosen(unverified, same.len() + differing.len()) {
            if let Some(seal) = self.read(id, generation).await? {
                written += self.put(id, generation, &seal).await?;
            }
        }
        let is_lost = !counts_there && self.any_counts(&differing, &manifest).await?;
        if is_lost && !self.any_counts(&same, &manifest).await? {
            return Err(Error::tampered(
                "the copy has other seals under the numbers of those by which the snapshot counts",
            )
            .hint("`strongroom verify` in both places shows which ones are good"));
        }
        Ok(written)
    }

    /// One seal of the source; none if it breaks a rule of the format: what is planted beside a good one stays behind.
    async fn read(&self, id: SnapshotId, generation: u32) -> Result<Option<Seal>> {
        match seals::read_seal(self.source, id, generation).await {
            Err(error) if error.kind().is_general() => Err(error),
            read => Ok(read.ok()),
        }
    }

    async fn put(&self, id: SnapshotId, generation: u32, seal: &Seal) -> Result<u64> {
        let bytes = seal.print();
        let length = bytes.len() as u64;
        self.target.put_once(&Part::Seal(generation).of(id), bytes.into()).await?;
        Ok(length)
    }

    /// Whether `manifest`'s snapshot counts by `seal`; none if nothing here authenticates it.
    async fn worth(
        &self,
        seal: &Seal,
        manifest: &Manifest,
        asked: &mut Asked,
    ) -> Result<Option<bool>> {
        let body = manifest.body();
        if *seal.body().commitment() != body.commitment {
            return Ok(None);
        }
        let object = seals::manifest_digest(manifest);
        match judge_seal(seal, object, Some(&body.cluster), self.keys, asked).await {
            Err(error) if error.kind().is_general() => Err(error),
            Ok(judged) if judged.is_authentic() => Ok(Some(judged.standing.counts())),
            Ok(_) | Err(_) => Ok(None),
        }
    }

    async fn any_counts(&self, generations: &[u32], manifest: &Manifest) -> Result<bool> {
        let mut asked = Asked::default();
        for generation in generations {
            if let Some(seal) = self.read(manifest.body().snapshot, *generation).await?
                && self.worth(&seal, manifest, &mut asked).await? == Some(true)
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Those of the seals that nothing authenticates, from the highest down, which are copied: without a key or a signer
    /// all, for then the good ones are among them.
    fn chosen(&self, mut unverified: Vec<u32>, there: usize) -> Vec<u32> {
        let room = MOST_UNVERIFIED.saturating_sub(there);
        if unverified.len() > room && !self.keys.is_empty() {
            let low = room / 2;
            unverified.drain(room - low..unverified.len() - low);
        }
        unverified
    }

    async fn is_same(&self, name: &str) -> Result<bool> {
        let source = self.source.get(name, MAX_SEAL as u64).await?;
        Ok(source == self.target.get(name, MAX_SEAL as u64).await?)
    }
}
