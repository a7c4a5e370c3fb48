//! What differs between a snapshot and a running etcd.

use std::collections::{BTreeMap, HashMap};

use super::{Action, Leases, Plan, Planned, RESERVED, Wanted, WantedKeys};
use crate::backup::{Inside, View, look_inside};
use crate::contents::{self, KeyState, Selection, ValueDigest, digest};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::etcd::Choice;
use crate::keys::KeySet;
use crate::mvcc::{KeyValue, RENEWED_LEASE_TTL, RecordSource};
use crate::secret::SecretBytes;
use crate::store::Repository;
use crate::task::{Control, Step};
use crate::text::printable;

/// What Kubernetes' API server puts before a value that it encrypted; the key is part of what it authenticates.
const ENCRYPTED: &[u8] = b"k8s:enc:";

/// A key as etcd has it.
struct Live {
    mod_revision: i64,
    lease: i64,
    digest: ValueDigest,
}

type LiveKeys = BTreeMap<Box<[u8]>, Live>;

/// A value as the snapshot has it.
#[derive(Clone, Copy)]
struct Seen {
    digest: ValueDigest,
    encrypted: bool,
}

fn seen(value: &[u8]) -> Seen {
    Seen { digest: digest(value), encrypted: value.starts_with(ENCRYPTED) }
}

/// Compares the wanted keys of the snapshot that `view` shows, and of what was recorded after it, with those of etcd, as they are now at one revision. Changes nothing.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) when the snapshot has none of the keys, or not the revision;
/// [`Usage`](ErrorKind::Usage) for an empty key; those of [`look_inside`], and of
/// [`Choice::for_each_key`].
pub async fn plan_to_cluster(
    repository: &Repository,
    keys: &KeySet,
    view: impl Into<View>,
    wanted: &Wanted,
    choice: &Choice,
    control: &Control,
) -> Result<Plan> {
    control
        .guard(async {
            control.step(Step::Note(choice.reason.clone()));
            let (live_revision, live) = read_live(choice, wanted).await?;
            let target = Target {
                live,
                live_revision,
                member: choice.member.endpoint.clone(),
                etcd_cluster: choice.member.cluster_id,
            };
            let (wanted, view) = (wanted.clone(), view.into());
            look_inside(repository, keys, view.clone(), move |inside| {
                let (revision, source) = read_snapshot(&inside.records(), &wanted)?;
                target.compare((inside, view), revision, source, &wanted)
            })
            .await
        })
        .await
}

async fn read_live(choice: &Choice, wanted: &Wanted) -> Result<(i64, LiveKeys)> {
    let mut live = LiveKeys::new();
    let note = |kv: KeyValue<'_>| {
        let (mod_revision, lease) = (kv.mod_revision, kv.lease);
        live.insert(kv.key.into(), Live { mod_revision, lease, digest: digest(kv.value) });
    };
    let revision = match &wanted.keys {
        WantedKeys::One(key) if key.is_empty() => {
            return Err(Error::usage("a key in etcd cannot be empty"));
        }
        WantedKeys::One(key) => choice.key(key, note).await?,
        WantedKeys::Prefix { to, .. } => choice.for_each_key(to, note).await?,
    };
    Ok((revision, live))
}

type Source = Vec<(Box<[u8]>, KeyState<Seen>)>;

/// The wanted keys of the snapshot under the names they are to have, in order, and the revision they are of.
fn read_snapshot(records: &impl RecordSource, wanted: &Wanted) -> Result<(i64, Source)> {
    let (from, to) = match &wanted.keys {
        WantedKeys::One(key) => {
            let state = contents::get(records, key, wanted.revision)?;
            let value = SecretBytes::new(records.value(state.modified)?);
            let revision = wanted.revision.map_or_else(|| Ok(records.span()?.last), Ok)?;
            let state = with(&state, seen(value.expose()));
            return Ok((revision, vec![(key.as_slice().into(), state)]));
        }
        WantedKeys::Prefix { from, to } => (from, to),
    };
    let selection = Selection { prefix: from, revision: wanted.revision, ..Selection::default() };
    let found = contents::read(records, &selection, seen)?;
    if found.keys.is_empty() {
        let prefix = printable(from);
        let message = format!(
            "no key has the prefix {prefix:?} at revision {} of the snapshot",
            found.revision
        );
        return Err(Error::new(ErrorKind::NotFound, message)
            .hint("`strongroom ls` lists its keys, --deleted those that were there before"));
    }
    let renamed = found.keys.into_iter().map(|(key, state)| {
        let rest = key.get(from.len()..).unwrap_or_default();
        (if from == to { key } else { [to, rest].concat().into() }, state)
    });
    let renamed: Source = renamed.collect();
    if renamed.iter().any(|(key, _)| key.is_empty()) {
        return Err(Error::usage("a key would be left without a name: give a longer --to-prefix"));
    }
    Ok((found.revision, renamed))
}

fn with(state: &KeyState, value: Seen) -> KeyState<Seen> {
    KeyState {
        modified: state.modified,
        create_revision: state.create_revision,
        version: state.version,
        lease: state.lease,
        value_bytes: state.value_bytes,
        value,
    }
}

/// The etcd to compare with.
struct Target {
    live: LiveKeys,
    live_revision: i64,
    member: String,
    etcd_cluster: u64,
}

impl Target {
    fn compare(
        self,
        (inside, view): (&Inside, View),
        revision: i64,
        source: Source,
        wanted: &Wanted,
    ) -> Result<Plan> {
        let Self { mut live, live_revision, member, etcd_cluster } = self;
        let (mut keys, mut unchanged, mut encrypted) = (Vec::new(), 0_u64, 0_u64);
        for (key, state) in source {
            let there = live.remove(&key);
            if there.as_ref().is_some_and(|there| is_same(there, &state, wanted.leases)) {
                unchanged = unchanged.saturating_add(1);
                continue;
            }
            encrypted = encrypted.saturating_add(state.value.encrypted.into());
            keys.push(Planned {
                key,
                action: if there.is_some() { Action::Change } else { Action::Create },
                source: Some(state.modified),
                value_bytes: state.value_bytes,
                lease: state.lease,
                live_mod_revision: there.map_or(0, |there| there.mod_revision),
            });
        }
        let action = if wanted.delete { Action::Delete } else { Action::Leave };
        keys.extend(live.into_iter().map(|(key, there)| Planned {
            key,
            action,
            source: None,
            value_bytes: 0,
            lease: 0,
            live_mod_revision: there.mod_revision,
        }));
        keys.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        let ttls = granted(inside, &keys)?;
        let mut warnings = warnings(&keys, wanted, encrypted);
        warnings.extend(lease_warning(&keys, wanted.leases, &ttls));
        let origin = inside.facts.etcd.cluster_id;
        if let Some(origin) = origin.filter(|origin| *origin != etcd_cluster) {
            warnings.push(format!(
                "the snapshot is of etcd cluster {origin:x}, and {member} belongs to {etcd_cluster:x}: make sure that \
                 it is the one you mean"
            ));
        }
        let leases = wanted.leases;
        Ok(Plan {
            id: inside.id,
            view,
            revision,
            live_revision,
            member,
            keys,
            unchanged,
            warnings,
            leases,
            ttls,
            etcd_cluster,
        })
    }
}

/// Whether etcd's key needs no change. Under a policy that gives leases other ids, a key that has any where the
/// snapshot's has one is the same: so what is done already is not done again.
fn is_same(there: &Live, state: &KeyState<Seen>, policy: Leases) -> bool {
    let leased = match policy {
        Leases::Drop => there.lease == 0,
        Leases::New => there.lease != 0 && state.lease != 0,
        Leases::Keep => false,
    };
    there.digest == state.value.digest && (there.lease == state.lease || leased)
}

/// Granted seconds of the leases that the keys to write had, as far as the snapshot still knows them.
fn granted(inside: &Inside, keys: &[Planned]) -> Result<HashMap<i64, i64>> {
    let mut needed: Vec<i64> = keys.iter().map(|key| key.lease).filter(|id| *id != 0).collect();
    needed.sort_unstable();
    needed.dedup();
    if needed.is_empty() {
        return Ok(HashMap::new());
    }
    let mut known = inside.records().lease_ttls().context("leases")?;
    known.retain(|id, _| needed.binary_search(id).is_ok());
    Ok(known)
}

fn warnings(keys: &[Planned], wanted: &Wanted, encrypted: u64) -> Vec<String> {
    let mut warnings = Vec::new();
    let moved = matches!(&wanted.keys, WantedKeys::Prefix { from, to } if from != to);
    if moved && encrypted > 0 {
        warnings.push(format!(
            "{encrypted} of the values are encrypted by Kubernetes' API server (k8s:enc:) and bound to the key they \
             had: below another prefix it cannot decrypt them"
        ));
    }
    let touched = keys.iter().filter(|key| key.action != Action::Leave);
    let reserved = touched.filter(|key| key.key.starts_with(RESERVED)).count();
    if reserved > 0 {
        warnings.push(format!(
            "{reserved} of the keys lie below /strongroom/, which is reserved for strongroom's own state"
        ));
    }
    warnings
}

fn lease_warning(keys: &[Planned], policy: Leases, ttls: &HashMap<i64, i64>) -> Vec<String> {
    let leased = || keys.iter().filter(|key| key.lease != 0);
    let count = leased().count();
    if count == 0 {
        return Vec::new();
    }
    let mut warnings = vec![match policy {
        Leases::New => format!(
            "{count} of the keys had a lease: each gets a new one, granted for as long, and vanishes when it ends \
             unless its owner renews it (--leases drop keeps such keys permanently)"
        ),
        Leases::Keep => format!(
            "{count} of the keys had a lease and are attached to the same again: etcd refuses those whose lease is gone"
        ),
        Leases::Drop => format!(
            "{count} of the keys had a lease and are written WITHOUT: they will never expire, so that locks stay held \
             and registrations stay listed until somebody deletes them"
        ),
    }];
    let forgotten = leased().filter(|key| !ttls.contains_key(&key.lease)).count();
    if policy == Leases::New && forgotten > 0 {
        warnings.push(format!(
            "{forgotten} of them had a lease that was revoked before the snapshot was taken: how long it was granted \
             for is not known, so they get {RENEWED_LEASE_TTL} s"
        ));
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mvcc::Revision;

    fn state(value: &[u8], lease: i64) -> KeyState<Seen> {
        KeyState {
            modified: Revision::default(),
            create_revision: 1,
            version: 1,
            lease,
            value_bytes: value.len() as u64,
            value: seen(value),
        }
    }

    #[test]
    fn what_is_done_is_not_done_again() {
        let same = |value: &[u8], live: i64, snapshot: i64, policy| {
            let there = Live { mod_revision: 5, lease: live, digest: digest(value) };
            is_same(&there, &state(b"a", snapshot), policy)
        };
        use Leases::{Drop, Keep, New};
        for policy in [New, Keep, Drop] {
            assert!(same(b"a", 0, 0, policy) && same(b"a", 7, 7, policy));
            assert!(!same(b"b", 0, 0, policy) && !same(b"b", 7, 7, policy));
            // The snapshot's key is to stay, etcd's will vanish.
            assert!(!same(b"a", 7, 0, policy), "{policy:?}");
        }
        assert_eq!([New, Keep, Drop].map(|policy| same(b"a", 8, 7, policy)), [true, false, false]);
        assert_eq!([New, Keep, Drop].map(|policy| same(b"a", 0, 7, policy)), [false, false, true]);
    }
}
