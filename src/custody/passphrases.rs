//! Master keys that a passphrase opens, kept in the repository (SPEC.md §2, `keys/`).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::PassphraseKeys;
use super::uri::NamedKey;
use crate::crypto::{self, Argon2Cost};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{
    KeyId, KeyState, MAX_PASSPHRASE_OBJECT, MAX_SEAL, ObjectName, Part, PassphraseObject, Seal,
    Stanza, names,
};
use crate::keys::{KeyFuture, KeySet, LocalKey, create_passphrase_object, open_passphrase_object};
use crate::secret::SecretBytes;
use crate::store::{ObjectInfo, Repository};
use crate::task::run_blocking;

/// What opening all passphrase keys may cost together: sixty-four times what one costs by default.
const MAX_WORK: u64 = 64 * 3 * 64 * 1024;
/// Generations of one key that are tried.
const MAX_TRIES: usize = 8;
/// Seals that are read for the keys they name, where more keys are found than are tried.
const FIRST_SEALS: usize = 64;
/// What opening a key may cost at most: 1 GiB.
const MAX_ARGON2_KIB: u32 = 1 << 20;

/// The generations of every passphrase key in the repository.
///
/// # Errors
/// Those of the store.
pub async fn passphrase_keys(repository: &Repository) -> Result<BTreeMap<KeyId, Vec<u32>>> {
    let mut keys: BTreeMap<KeyId, Vec<u32>> = BTreeMap::new();
    for info in repository.list("keys").await? {
        if let Some(ObjectName::Key { id, generation }) = ObjectName::parse(&info.name) {
            keys.entry(id).or_default().push(generation);
        }
    }
    keys.values_mut().for_each(|generations| generations.sort_unstable());
    Ok(keys)
}

/// Makes a master key, seals it under `passphrase` and stores it.
///
/// # Errors
/// [`ErrorKind::Usage`] for an empty passphrase; those of the store.
pub async fn create_passphrase_key(
    repository: &Repository,
    passphrase: SecretBytes,
    cost: Argon2Cost,
) -> Result<LocalKey> {
    check_cost(cost)?;
    let (key, object) = run_blocking(move || {
        let rng = &mut crypto::system_rng();
        let key = LocalKey::generate(rng);
        let object = create_passphrase_object(&key, 1, &passphrase, cost, rng)?;
        Ok((key, object))
    })
    .await?;
    let name = names::key_name(key.id(), 1);
    repository.put_once(&name, object.print()?.into()).await?;
    Ok(key)
}

/// The keys of a repository behind the passphrase that `ask` gives, which is called only if one is needed.
pub struct InRepository<'a, F> {
    repository: &'a Repository,
    ask: Option<F>,
}

impl<'a, F: FnOnce() -> Result<SecretBytes> + Send> InRepository<'a, F> {
    /// The keys of `repository`, and where their passphrase comes from.
    pub fn new(repository: &'a Repository, ask: F) -> Self {
        Self { repository, ask: Some(ask) }
    }
}

impl<F: FnOnce() -> Result<SecretBytes> + Send> PassphraseKeys for InRepository<'_, F> {
    fn open<'a>(
        &'a mut self,
        named: &'a [Option<NamedKey>],
        keys: &'a mut KeySet,
    ) -> KeyFuture<'a, ()> {
        let word = self.ask.take().ok_or_else(|| Error::usage("the passphrase was asked for"));
        let repository = self.repository;
        Box::pin(
            async move { open_named(repository, word.and_then(|ask| ask())?, named, keys).await },
        )
    }
}

/// Adds the keys that `word` opens: the named ones to seal, and without a name all the others to open only.
///
/// # Errors
/// [`WrongKey`](ErrorKind::WrongKey) when `word` does not open a key that is named; those of [`open_passphrase_keys`].
async fn open_named(
    repository: &Repository,
    word: SecretBytes,
    named: &[Option<NamedKey>],
    keys: &mut KeySet,
) -> Result<()> {
    let is_named = |id: KeyId| named.iter().flatten().any(|named| named.id == id);
    let again = SecretBytes::new(word.expose().to_vec());
    let mut opened = match named.iter().all(Option::is_none) {
        true => Vec::new(),
        false => open_some(repository, word, is_named).await?,
    };
    for NamedKey { id, retiring } in named.iter().flatten().copied() {
        let Some(at) = opened.iter().position(|key| key.id() == id) else {
            let message = format!("the passphrase does not open key {id}");
            return Err(Error::new(ErrorKind::WrongKey, message)
                .hint("`strongroom key list` shows the passphrase keys of the repository"));
        };
        let state = if retiring { KeyState::Retiring } else { KeyState::Sealing };
        keys.add(Arc::new(opened.swap_remove(at)), state);
        keys.note_passphrase(id);
    }
    let opened_none = named.iter().all(Option::is_none);
    if named.contains(&None) {
        // Whoever can write to the repository can put an old key's object back: it opens, and vouches for nothing.
        let others = open_some(repository, again, |id| !is_named(id)).await;
        let others = match others {
            // There may be none but those that are named.
            Err(error) if !opened_none && !error.kind().is_general() => Vec::new(),
            others => others?,
        };
        for key in others {
            keys.note_passphrase(key.id());
            keys.add(Arc::new(key), KeyState::Retired);
        }
    }
    Ok(())
}

/// Nobody may make a key that nobody would open.
fn check_cost(cost: Argon2Cost) -> Result<()> {
    cost.check(MAX_ARGON2_KIB).map_err(|error| Error::usage(error.to_string()))
}

/// Opens every passphrase key in the repository that `passphrase` opens.
///
/// # Errors
/// [`ErrorKind::WrongKey`] when it opens none; [`ErrorKind::NotFound`] when there is none.
pub async fn open_passphrase_keys(
    repository: &Repository,
    passphrase: SecretBytes,
) -> Result<Vec<LocalKey>> {
    open_some(repository, passphrase, |_| true).await
}

/// As [`open_passphrase_keys`], of those that are `wanted`: others, which anybody may have planted, cost nothing.
async fn open_some(
    repository: &Repository,
    passphrase: SecretBytes,
    wanted: impl Fn(KeyId) -> bool,
) -> Result<Vec<LocalKey>> {
    let objects = all_objects(repository, wanted).await?;
    let all = objects.iter().map(|(_, object)| object.as_ref().map_or(0, work_of));
    // Only if somebody may have planted keys: what was written first was there before them.
    let first = match all.fold(0, u64::saturating_add) > MAX_WORK {
        true => named_by_first_seals(repository).await?,
        false => Vec::new(),
    };
    let objects = ordered(objects, &first, work_of);
    run_blocking(move || {
        let mut keys: Vec<LocalKey> = Vec::new();
        let mut failure: Option<Error> = None;
        let (mut work, mut not_tried) = (MAX_WORK, 0);
        for (id, object) in objects {
            // The first generation that opens is the key.
            if keys.iter().any(|key| key.id() == id) {
                continue;
            }
            let cost = object.as_ref().map_or(0, work_of);
            if cost > work {
                not_tried += 1;
                continue;
            }
            work -= cost;
            match object
                .and_then(|object| open_passphrase_object(&object, &passphrase, MAX_ARGON2_KIB))
            {
                Ok(key) => keys.push(key),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        match failure {
            _ if !keys.is_empty() => Ok(keys),
            _ if not_tried > 0 => Err(Error::tampered(format!(
                "the passphrase keys ask for more Argon2id work than is reasonable: {not_tried} were not tried, and the \
                 passphrase opens none of the others"
            ))
            .hint("name the key with --master-key passphrase:KEYID: only its own objects are tried then")),
            Some(error) => Err(error),
            None => Ok(keys),
        }
    })
    .await
}

/// The order in which objects are tried: first those of the keys that `first` names, as there; of the others the cheap ones
/// first, so that planted ones that cost much do not use up what may be spent on the good one.
fn ordered<T>(
    mut objects: Vec<(KeyId, Result<T>)>,
    first: &[KeyId],
    work_of: impl Fn(&T) -> u64,
) -> Vec<(KeyId, Result<T>)> {
    let rank = |id: &KeyId| first.iter().position(|named| named == id).unwrap_or(first.len());
    objects.sort_by_key(|(id, object)| (rank(id), object.as_ref().map_or(0, &work_of)));
    objects
}

/// KiB of memory gone through.
fn work_of(object: &PassphraseObject) -> u64 {
    u64::from(object.argon2.m_kib) * u64::from(object.argon2.t)
}

/// The keys that the first seals in the repository name, in the order in which the store says that those were written.
/// Whoever plants keys later cannot plant a seal earlier.
async fn named_by_first_seals(repository: &Repository) -> Result<Vec<KeyId>> {
    let is_seal = |info: &ObjectInfo| {
        let name = ObjectName::parse(&info.name);
        matches!(name, Some(ObjectName::Snapshot { part: Part::Seal(_), .. }))
    };
    let mut seals = repository.list("snapshots").await?;
    seals.retain(is_seal);
    seals.sort_by_key(|info| info.modified);
    let mut named = Vec::new();
    for info in seals.iter().take(FIRST_SEALS) {
        let seal = match repository.get(&info.name, MAX_SEAL as u64).await {
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            seal => seal.and_then(|bytes| Seal::parse(&bytes)),
        };
        let Ok(seal) = seal else { continue };
        for id in seal.body().stanzas().iter().map(Stanza::key_id) {
            if !named.contains(&id) {
                named.push(id);
            }
        }
    }
    Ok(named)
}

/// The objects of each key that is `wanted`, highest generation first. A planted one that does not open is passed over,
/// and so many of them that they would cost an hour of Argon2id are not tried.
async fn all_objects(
    repository: &Repository,
    wanted: impl Fn(KeyId) -> bool,
) -> Result<Vec<(KeyId, Result<PassphraseObject>)>> {
    let keys = passphrase_keys(repository).await?;
    if keys.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "this repository has no passphrase key").hint(
            "`strongroom init --master-key passphrase` makes one, also in a repository that exists",
        ));
    }
    let mut objects = Vec::new();
    for (id, generations) in keys.into_iter().filter(|(id, _)| wanted(*id)) {
        // Many may have been planted: the newest and the oldest are tried.
        let oldest =
            generations.iter().take(generations.len().saturating_sub(MAX_TRIES).min(MAX_TRIES));
        for generation in generations.iter().rev().take(MAX_TRIES).chain(oldest).copied() {
            let name = names::key_name(id, generation);
            let object = repository
                .get(&name, MAX_PASSPHRASE_OBJECT as u64)
                .await
                .and_then(|bytes| PassphraseObject::parse(&bytes))
                .and_then(|object| check_place(object, id, generation))
                .context(name);
            match object {
                Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
                object => objects.push((id, object)),
            }
        }
    }
    Ok(objects)
}

fn check_place(object: PassphraseObject, id: KeyId, generation: u32) -> Result<PassphraseObject> {
    if object.key == id && object.generation == generation {
        Ok(object)
    } else {
        Err(Error::tampered("its lines name another key or generation"))
    }
}

/// Seals the key that `old` opens under `new`: writes the next generation, proves it, removes the older ones.
///
/// # Errors
/// [`ErrorKind::WrongKey`] when `old` opens none, [`ErrorKind::Usage`] when it opens several and `id` names none.
pub async fn change_passphrase(
    repository: &Repository,
    id: Option<KeyId>,
    old: SecretBytes,
    new: SecretBytes,
    cost: Argon2Cost,
) -> Result<KeyId> {
    let keys = open_passphrase_keys(repository, old).await?;
    let mut fitting = keys.into_iter().filter(|key| id.is_none_or(|id| key.id() == id));
    let key = match (fitting.next(), fitting.next()) {
        (Some(key), None) => key,
        (Some(_), Some(_)) => {
            return Err(
                Error::usage("the passphrase opens several keys").hint("name one by its id")
            );
        }
        (None, _) => {
            return Err(Error::new(ErrorKind::WrongKey, "the passphrase does not open that key"));
        }
    };
    check_cost(cost)?;
    let id = key.id();
    let generations = passphrase_keys(repository).await?.remove(&id).unwrap_or_default();
    let next = free_number(&generations)
        .ok_or_else(|| Error::tampered(format!("key {id} has used up its generations")))?;
    let object = run_blocking(move || {
        let object = create_passphrase_object(&key, next, &new, cost, &mut crypto::system_rng())?;
        open_passphrase_object(&object, &new, MAX_ARGON2_KIB)?;
        Ok(object)
    })
    .await?;
    let (name, text) = (names::key_name(id, next), object.print()?);
    repository.put_once(&name, text.clone().into()).await?;
    // Only what the store gives back may replace what opens now.
    if repository.get(&name, MAX_PASSPHRASE_OBJECT as u64).await? != text {
        return Err(Error::new(
            ErrorKind::Protocol,
            format!("{name}: the store returns different bytes"),
        )
        .hint("the old passphrase still opens the key"));
    }
    for generation in generations {
        repository.delete(&names::key_name(id, generation)).await.map_err(|error| {
            error.hint("the old passphrase still opens the key until that object is deleted")
        })?;
    }
    Ok(id)
}

/// The generation after the last, or if there is none the greatest that is free: a planted object under the last number
/// there is does not stop a change.
fn free_number(generations: &[u32]) -> Option<u32> {
    let last = generations.last().copied().unwrap_or(0);
    let is_free = |number: &u32| generations.binary_search(number).is_err();
    last.checked_add(1).or_else(|| (1..last).rev().find(is_free))
}

/// Deletes every generation of a passphrase key. Whether a snapshot needs it is for the caller to ask first.
///
/// # Errors
/// [`ErrorKind::NotFound`]; those of the store.
pub async fn remove_passphrase_key(repository: &Repository, id: KeyId) -> Result<()> {
    let generations = passphrase_keys(repository).await?.remove(&id).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("no passphrase key {id} in this repository"))
    })?;
    for generation in generations {
        repository.delete(&names::key_name(id, generation)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_last_generation_leaves_a_number() {
        assert_eq!(free_number(&[]), Some(1));
        assert_eq!(free_number(&[1, 2]), Some(3));
        assert_eq!(free_number(&[1, u32::MAX - 1, u32::MAX]), Some(u32::MAX - 2));
    }

    /// Planted keys that cost as little as the good one must not be tried before it.
    #[test]
    fn keys_that_the_first_seals_name_are_tried_first() {
        let key = |n| KeyId([n; 16]);
        let objects = |ids: &[u8]| ids.iter().map(|n| (key(*n), Ok(u64::from(*n)))).collect();
        let order = |ids: &[u8], first: &[u8]| {
            let first: Vec<_> = first.iter().map(|n| key(*n)).collect();
            let ordered = ordered(objects(ids), &first, |work| *work);
            ordered.into_iter().map(|(id, _)| id.0[0]).collect::<Vec<_>>()
        };
        assert_eq!(order(&[3, 1, 2, 9], &[]), [1, 2, 3, 9]);
        assert_eq!(order(&[3, 1, 2, 9], &[9, 7, 3]), [9, 3, 1, 2]);
    }
}
