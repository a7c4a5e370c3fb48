//! Snapshots sealed again to the present master keys, or signed.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::catalog::{self, Scope};
use super::continuous::{JournalJob, reseal_journals};
use serde::Serialize;

use crate::crypto;
use crate::envelope::{
    DataKey, Judged, NewSeal, check_sealers, is_genuine, kept_stanzas, key_ids, open_seal,
    seal_data_key, stanza_opens, wrong_key,
};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::serial;
use crate::format::{
    KeyId, MAX_SIGNATURES, MAX_STANZAS, Manifest, Part, Seal, Signature, SnapshotId, Stanza,
};
use crate::keys::KeySet;
use crate::keys::trust::{Distrust, Standing};
use crate::snapshot::folder::Folder;
use crate::snapshot::open;
use crate::snapshot::seals::{self, Authentic, Tried};
use crate::store::Repository;
use crate::store::seals::{is_always_read, next_generation};
use crate::task::{Control, Step, Unit};

/// Which snapshots are sealed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accept {
    /// Those that count (SPEC.md §5.3).
    Counting,
    /// All that open: somebody has looked at each of them.
    Untrusted,
    /// Those that count by a key in use; and by a retiring one only what existed before this time: the snapshot's id and
    /// the store's time of its manifest are both earlier; of a revoked signer that of a seal with its signature, too.
    Before(SystemTime),
}

/// What re-sealing did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ResealReport {
    /// Snapshots that have a new seal.
    pub resealed: Vec<SnapshotId>,
    /// Snapshots whose seal named the right keys already.
    pub unchanged: Vec<SnapshotId>,
    /// Snapshots that open, do not count and are as they were.
    pub untrusted: Vec<Untrusted>,
    /// Snapshots that could not be re-sealed, and why. They are as they were.
    pub failed: Vec<(SnapshotId, Error)>,
    /// Those of `failed` that count: what makes them count is the seal they have, so its keys are still needed.
    pub counting: Vec<SnapshotId>,
    /// Journals that have a new seal.
    pub journals: Vec<SnapshotId>,
    /// Journals that were not sealed again, and why.
    pub journals_left: Vec<String>,
    /// Older or planted seals that stay, and why.
    pub lingering: Vec<String>,
}

/// A snapshot that was not sealed again, and the evidence about it for a person to judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Untrusted {
    /// The snapshot; its id says when it was begun.
    pub id: SnapshotId,
    /// When the store says that its manifest was written.
    #[serde(serialize_with = "serial::time")]
    pub written: Option<SystemTime>,
    /// When the store says that the first seal by which it is worth that was written.
    #[serde(serialize_with = "serial::time")]
    pub sealed: Option<SystemTime>,
    /// What it is worth.
    #[serde(rename = "trust")]
    pub standing: Standing,
}

/// Seals the data keys of the snapshots in `scope` to `keys`' sealing keys, the removed ones that can be brought back
/// included.
///
/// Headers only: payloads and manifests stay as they are. Stanzas of keys that are not available or are retiring are
/// kept, unless they are to `drop`; stanzas of retired keys go. Each snapshot is one step of its own: interrupted half-way,
/// every snapshot still opens, and running it again does the rest.
///
/// It is no revocation: who kept an old seal and its master key can still open that snapshot.
///
/// # Errors
/// [`ErrorKind::Unreachable`] once the store is gone, and [`ErrorKind::Interrupted`]; what was re-sealed until then
/// stays so. What else one snapshot meets stands in the report.
pub async fn reseal(
    repository: &Repository,
    keys: &KeySet,
    scope: Scope<'_>,
    drop: &[KeyId],
    accept: Accept,
    control: &Control,
) -> Result<ResealReport> {
    if let Some(key) = keys.sealing().map(|key| key.id()).find(|id| drop.contains(id)) {
        return Err(Error::usage(format!("key {key} cannot be dropped: it also seals"))
            .hint("it is the primary key of a keyring given, or the passphrase's: rotate, or leave it out"));
    }
    run(repository, keys, (drop, false), scope, accept, control).await
}

/// Signs the snapshots that count with the signing key. A snapshot that is not signed by it yet gets a new seal, as by
/// [`reseal`]. Only here does a snapshot that a sealing key opens count although signers are configured.
///
/// # Errors
/// Those of [`reseal`]; [`ErrorKind::Usage`] without a signing key.
pub async fn vouch(
    repository: &Repository,
    keys: &KeySet,
    scope: Scope<'_>,
    accept: Accept,
    control: &Control,
) -> Result<ResealReport> {
    if keys.signing().is_none() {
        return Err(Error::usage("no signing key given").hint(
            "give one with --signing-key; `strongroom key generate --signing -o FILE` makes one",
        ));
    }
    keys.check_sealing(None, true)?;
    run(repository, keys, (&[], true), scope, accept, control).await
}

async fn run(
    repository: &Repository,
    keys: &KeySet,
    (drop, sign): (&[KeyId], bool),
    scope: Scope<'_>,
    accept: Accept,
    control: &Control,
) -> Result<ResealReport> {
    control
        .guard(async {
            let folders = catalog::folders_with_removed(repository, scope).await?;
            control.begin_counting("re-sealing", Some(folders.len() as u64), Unit::Snapshots);
            let keys = &keys.sharing();
            // Before anything is written; a service also tells by which of its keys it seals now.
            if !sign && let Some(missing) = check_sealers(keys).await?.into_iter().next() {
                return Err(missing.error);
            }
            let mut nothing = KeySet::new();
            nothing.mix_quantum_weak();
            // Whoever signs adds no key.
            let sealing = if sign { &nothing } else { keys };
            let report = ResealReport::default();
            let mut work = Resealing { repository, keys, sealing, drop, accept, sign, report };
            for (id, folder) in folders {
                match work.one(id, &folder).await {
                    Ok(()) => {}
                    // Each further one would be tried for minutes; what is done is done.
                    Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                    Err(error) => work.report.failed.push((id, error)),
                }
                control.step(Step::Advance(1));
            }
            work.journals(scope).await?;
            Ok(work.report)
        })
        .await
}

struct Resealing<'a> {
    repository: &'a Repository,
    keys: &'a KeySet,
    /// What new seals are sealed to.
    sealing: &'a KeySet,
    drop: &'a [KeyId],
    accept: Accept,
    /// Whether the signing key signs, too.
    sign: bool,
    report: ResealReport,
}

/// One generation, as it was read, and what it is worth, unless it fails.
struct Generation {
    number: u32,
    seal: Option<Seal>,
    standing: Option<Standing>,
    /// Whether somebody who had the data key made it: only then its number and all of its lines mean something.
    is_genuine: bool,
}

impl Resealing<'_> {
    /// Journals, too, unless the job is about single snapshots. A person has to look at those that do not count: they are
    /// left as they are, and reported.
    async fn journals(&mut self, scope: Scope<'_>) -> Result<()> {
        let cluster = match scope {
            Scope::All => None,
            Scope::Cluster(cluster) => Some(cluster),
            Scope::Ids(_) => return Ok(()),
        };
        let changes = matches!(self.accept, Accept::Counting);
        let job = JournalJob { drop: self.drop, sign: self.sign, changes };
        let done = reseal_journals(self.repository, self.keys, cluster, &job).await?;
        self.report.journals = done.resealed;
        self.report.counting.extend(done.failed.iter().map(|(id, _)| *id));
        self.report.failed.extend(done.failed);
        self.report.journals_left = done.left;
        Ok(())
    }

    /// [S5.8]
    async fn one(&mut self, id: SnapshotId, folder: &Folder) -> Result<()> {
        let read = async {
            let manifest = open::read_head(self.repository, id, folder).await?;
            self.read(&manifest, folder).await
        };
        let (generations, authentic) = match read.await {
            // What was removed and is not authentic cannot be brought back.
            Err(error)
                if folder.manifest.is_none()
                    && matches!(error.kind(), ErrorKind::Tampered | ErrorKind::Truncated) =>
            {
                return Ok(());
            }
            read => read?,
        };
        let standing = authentic.judged.standing;
        // Of a removed one the store no longer tells when its manifest was written.
        let written = folder.manifest.as_ref().map(|info| info.modified);
        let same = generations.iter().filter(|one| one.standing == Some(standing));
        let sealed = same.filter_map(|one| folder.seals.get(&one.number)).map(|info| info.modified);
        let one = Untrusted { id, written, sealed: sealed.min(), standing };
        if !self.accepts(&one) {
            self.report.untrusted.push(one);
            return Ok(());
        }
        let counts = standing.counts();
        let done = self.renew(id, folder, generations, authentic).await;
        if done.is_err() && counts {
            self.report.counting.push(id);
        }
        done
    }

    /// Writes the next generation, unless the present one is what it would be, and deletes those that it replaces.
    async fn renew(
        &mut self,
        id: SnapshotId,
        folder: &Folder,
        mut generations: Vec<Generation>,
        authentic: Authentic,
    ) -> Result<()> {
        // From the seal by which it counts, never from a manifest fetched again.
        let seal = authentic.seal;
        let Judged { opened, unopened, .. } = authentic.judged;
        let unopened = || unopened.unwrap_or_else(|| wrong_key(&seal));
        let data_key = opened.ok_or_else(unopened)?.data_key;
        for one in &mut generations {
            let same = one.seal.as_ref().filter(|one| one.body().object() == seal.body().object());
            one.is_genuine = same.is_some_and(|one| is_genuine(one, &data_key));
        }
        let genuine = generations.iter().filter(|one| one.is_genuine);
        let highest = genuine.map(|one| one.number).max();
        let is_taken = |number| folder.seals.contains_key(&number);
        let next = next_generation(highest.unwrap_or_default(), is_taken);
        let mut kept = match self.sign {
            true => seal.body().stanzas().to_vec(),
            false => kept_stanzas(&seal, self.keys, self.drop),
        };
        // Whoever knows the data key can fill a seal up. What has no room stays in the old seal, which then stays too.
        kept.truncate(MAX_STANZAS.saturating_sub(self.sealing.sealing().count()));
        let mut signatures = signatures(&seal, &generations, self.keys);
        let own = self.keys.signing().filter(|_| self.sign);
        let own = own.map(|key| key.sign(seal.body().subject(), seal.body().object()));
        if let Some(own) = own.filter(|own| !signatures.contains(own)) {
            // One that does not verify may stand under the same name.
            signatures.retain(|one| one.key_id != own.key_id);
            signatures.truncate(MAX_SIGNATURES - 1);
            signatures.push(own);
            signatures.sort_by_key(|signature| signature.key_id);
        }
        let number = seal.body().generation();
        let current = (highest == Some(number) || next.is_none_or(|next| next < number))
            && (next.is_none() || is_always_read(number))
            && signatures == seal.body().signatures()
            && self.is_current(&seal, &kept).await;
        let seal = if current {
            self.report.unchanged.push(id);
            seal
        } else {
            let generation = next.ok_or_else(|| {
                Error::tampered(format!("{id} has used up its generations of seals")).hint(format!(
                    "`strongroom prune --quarantine {id} --seals` deletes those that fail"
                ))
            })?;
            let object = seal.body().object();
            let new = NewSeal { generation, object, kept, signatures, sign: false };
            let seal = self.write(id, new, &data_key).await?;
            self.report.resealed.push(id);
            seal
        };
        self.clean_up(id, &seal, generations).await;
        Ok(())
    }

    /// Every seal, and what they come to.
    async fn read(
        &self,
        manifest: &Manifest,
        folder: &Folder,
    ) -> Result<(Vec<Generation>, Authentic)> {
        let id = manifest.body().snapshot;
        // Whoever vouches for snapshots looks at what opens: that they are not signed yet is why.
        let mut tried = Tried::new(manifest, self.keys, self.sign);
        let (numbers, all) = seals::generations(folder);
        let mut generations = Vec::new();
        for number in numbers {
            let read = seals::read_seal(self.repository, id, number).await;
            let seal = read.as_ref().ok().cloned();
            let standing = tried.add(number, read).await?;
            generations.push(Generation { number, seal, standing, is_genuine: false });
        }
        let authentic = tried.finish()?;
        if !all && !authentic.judged.standing.counts() {
            return Err(seals::too_many(id));
        }
        Ok((generations, authentic))
    }

    fn accepts(&self, one: &Untrusted) -> bool {
        match self.accept {
            Accept::Counting => one.standing.counts(),
            Accept::Untrusted => true,
            Accept::Before(time) => match one.standing {
                Standing::Counts => true,
                Standing::Retiring | Standing::NotTrusted(Distrust::Revoked) => {
                    let is_before = |at: Option<SystemTime>| at.is_some_and(|at| at < time);
                    // A manifest that somebody planted before the theft can be signed after it. A key's seals may be as
                    // new as the last rotation.
                    let is_sealed = one.standing == Standing::Retiring || is_before(one.sealed);
                    one.id.begun() < time && is_before(one.written) && is_sealed
                }
                Standing::NotTrusted(_) | Standing::Unverified => false,
            },
        }
    }

    /// Whether `seal` is what would be written: the same keys, and each sealing key's stanza opens.
    async fn is_current(&self, seal: &Seal, kept: &[Stanza]) -> bool {
        let sealing: Vec<KeyId> = self.sealing.sealing().map(|key| key.id()).collect();
        let mut wanted: Vec<KeyId> = kept.iter().map(Stanza::key_id).collect();
        wanted.extend(&sealing);
        wanted.sort_unstable();
        let mut present = key_ids(seal);
        present.sort_unstable();
        if wanted != present {
            return false;
        }
        for stanza in seal.body().stanzas() {
            // Of a public key nobody here can tell; the seal's MAC covers its stanza.
            // A service is not asked: whoever made the seal had the data key.
            let is_ours = sealing.contains(&stanza.key_id())
                && self.keys.holds(stanza.key_id())
                && !self.keys.would_ask(stanza);
            if self.sealing.is_older(stanza)
                || (is_ours && !stanza_opens(seal, stanza, self.keys).await)
            {
                return false;
            }
        }
        true
    }

    async fn write(&self, id: SnapshotId, new: NewSeal, data_key: &DataKey) -> Result<Seal> {
        let (generation, object) = (new.generation, new.object);
        let seal = seal_data_key(data_key, new, self.sealing, &mut crypto::system_rng()).await?;
        let name = Part::Seal(generation).of(id);
        self.repository.put_once(&name, seal.print().into()).await?;
        // Only a new seal that is known to open may replace the old ones: if no key here can tell, it is the one that was
        // made of this data key.
        let written = seals::read_seal(self.repository, id, generation).await?;
        if written != seal {
            return Err(Error::tampered(format!("{name}: the store returns another seal")));
        }
        if key_ids(&written).iter().any(|key| self.keys.holds(*key)) {
            let opened = open_seal(&written, object, self.keys).await.context(name)?;
            if opened.data_key.commitment() != data_key.commitment() {
                return Err(Error::tampered("the new seal does not hold the snapshot's data key"));
            }
        }
        Ok(written)
    }

    /// Deletes the seals that `seal` replaces, which hold nothing it lacks; the others stay, as findings.
    async fn clean_up(&mut self, id: SnapshotId, seal: &Seal, generations: Vec<Generation>) {
        let number = seal.body().generation();
        for old in generations.into_iter().filter(|one| one.number != number) {
            let name = Part::Seal(old.number).of(id);
            let stays = match old.seal {
                None => Some("it cannot be read".to_owned()),
                Some(_) if old.number > number && !old.is_genuine => {
                    Some("no available key opens it".into())
                }
                Some(seal_of_old) => self.lost(&seal_of_old, old.is_genuine, seal).await,
            };
            let stays = match stays {
                Some(why) => Some(why),
                None => self.repository.delete(&name).await.err().map(|error| error.to_string()),
            };
            self.report.lingering.extend(stays.map(|why| format!("{name}: {why}")));
        }
    }

    /// What would go with `old`, as far as one can tell here: a key's way to the data key, or a signature.
    async fn lost(&self, old: &Seal, is_genuine: bool, new: &Seal) -> Option<String> {
        for stanza in old.body().stanzas() {
            let key = stanza.key_id();
            let sealed_again = || {
                self.sealing.sealing().any(|sealing| sealing.id() == key)
                    && key_ids(new).contains(&key)
            };
            let is_safe = self.drop.contains(&key)
                || new.body().stanzas().contains(stanza)
                || (!self.keys.holds(key) && sealed_again())
                || match self.keys.would_ask(stanza) {
                    // Nobody's planted stanza is shown to a service.
                    true => is_genuine && sealed_again(),
                    false => stanza_opens(old, stanza, self.keys).await,
                };
            if !is_safe {
                return Some(format!(
                    "its stanza for key {key} is in no newer seal (--drop {key} removes it)"
                ));
            }
        }
        let mut signatures = old.body().signatures().iter();
        let signature = signatures.find(|one| !new.body().signatures().contains(one))?;
        let why = match new.body().signatures().len() < MAX_SIGNATURES {
            true => "the newer seal does not have its signature",
            false => "the newer seal has no room for its signature",
        };
        Some(format!("{why} by {}", signature.key_id))
    }
}

/// The signatures that a new generation carries, as many as there is room for: those of known signers that verify, from any
/// generation, and of other signers those of the genuine generations, first of those that are worth most. Any other line may
/// be planted.
fn signatures(seal: &Seal, generations: &[Generation], keys: &KeySet) -> Vec<Signature> {
    let mut others: Vec<_> = generations.iter().collect();
    others.sort_by_key(|one| std::cmp::Reverse(one.standing));
    let others = others.into_iter().filter_map(|one| Some((one.is_genuine, one.seal.as_ref()?)));
    let (mut all, mut unknown) = (Vec::new(), Vec::new());
    for (is_genuine, one) in std::iter::once((true, seal)).chain(others) {
        for line in one.body().signatures() {
            match keys.verifies(seal, line) {
                Some(true) => all.push(line.clone()),
                None if is_genuine => unknown.push(line.clone()),
                Some(false) | None => {}
            }
        }
    }
    all.extend(unknown);
    let mut seen = BTreeSet::new();
    all.retain(|line: &Signature| seen.insert(line.key_id));
    all.truncate(MAX_SIGNATURES);
    all.sort_by_key(|signature| signature.key_id);
    all
}
