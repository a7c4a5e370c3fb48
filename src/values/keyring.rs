//! Value keys: made, rotated, retired, and sealed as one record under the master keys.

use crate::crypto::{self, CryptoRng, Label, Suite};
use crate::envelope::{DataKey, NewSeal, open_seal, seal_data_key};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{
    SealedRecord, Sha256, Subject, Time, Uuid, ValueKeyEntry, ValueKeyId, ValueKeyState,
    ValueKeyring,
};
use crate::keys::trust::{self, Standing};
use crate::keys::{KeySet, at_once};
use crate::secret::SecretKey;

/// A namespace of its own with one value key, made at `now`.
#[must_use]
pub fn generate(now: Time, rng: &mut dyn CryptoRng) -> ValueKeyring {
    let namespace = Uuid::from_random(crypto::random(rng));
    let mut keyring = ValueKeyring { namespace, serial: 1, keys: Vec::new(), migrate: Vec::new() };
    add(&mut keyring, ValueKeyState::Primary, now, rng);
    keyring
}

/// Adds a key that opens but does not seal yet, so that every reader has it before a writer uses it.
pub fn stage(keyring: &mut ValueKeyring, now: Time, rng: &mut dyn CryptoRng) -> ValueKeyId {
    add(keyring, ValueKeyState::Staged, now, rng)
}

fn add(
    keyring: &mut ValueKeyring,
    state: ValueKeyState,
    now: Time,
    rng: &mut dyn CryptoRng,
) -> ValueKeyId {
    loop {
        let key = SecretKey::random(rng);
        let id = id(keyring.namespace, &key);
        // Four bytes collide now and then: another key is drawn (SPEC.md [S10.2.3]).
        if id.0 != [0; 4] && keyring.keys.iter().all(|entry| entry.id != id) {
            keyring.keys.push(ValueKeyEntry { id, state, created: now, key: Some(key) });
            return id;
        }
    }
}

/// X(value key, value-key-id, namespace, 4).
fn id(namespace: Uuid, key: &SecretKey) -> ValueKeyId {
    let [a, b, c, d, ..] = *crypto::expand(key, Label::ValueKeyId, &namespace.0).expose();
    ValueKeyId([a, b, c, d])
}

/// Makes a staged or enabled key the primary one; the primary before it still opens.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound) for an unknown id, [`Refused`](ErrorKind::Refused) for a disabled or destroyed key.
pub fn promote(keyring: &mut ValueKeyring, id: ValueKeyId) -> Result<()> {
    match find(keyring, id)?.state {
        ValueKeyState::Primary => return Ok(()),
        ValueKeyState::Staged | ValueKeyState::Enabled => {}
        state => return Err(refused(id, state, "made primary")),
    }
    for entry in &mut keyring.keys {
        if entry.state == ValueKeyState::Primary {
            entry.state = ValueKeyState::Enabled;
        }
    }
    find(keyring, id)?.state = ValueKeyState::Primary;
    Ok(())
}

/// Takes a key out of use; it can be enabled again.
///
/// # Errors
/// As [`promote`]; the primary key is refused.
pub fn disable(keyring: &mut ValueKeyring, id: ValueKeyId) -> Result<()> {
    change(keyring, id, &[ValueKeyState::Staged, ValueKeyState::Enabled], ValueKeyState::Disabled)
}

/// Puts a disabled key back into use for opening.
///
/// # Errors
/// As [`promote`].
pub fn enable(keyring: &mut ValueKeyring, id: ValueKeyId) -> Result<()> {
    change(keyring, id, &[ValueKeyState::Disabled], ValueKeyState::Enabled)
}

/// Forgets a disabled key: no value that it sealed opens again.
///
/// # Errors
/// As [`promote`]; a key that is not disabled is refused.
pub fn destroy(keyring: &mut ValueKeyring, id: ValueKeyId) -> Result<()> {
    change(keyring, id, &[ValueKeyState::Disabled], ValueKeyState::Destroyed)?;
    find(keyring, id)?.key = None;
    Ok(())
}

fn change(
    keyring: &mut ValueKeyring,
    id: ValueKeyId,
    from: &[ValueKeyState],
    to: ValueKeyState,
) -> Result<()> {
    let entry = find(keyring, id)?;
    if !from.contains(&entry.state) && entry.state != to {
        return Err(refused(id, entry.state, to.name()));
    }
    entry.state = to;
    Ok(())
}

fn find(keyring: &mut ValueKeyring, id: ValueKeyId) -> Result<&mut ValueKeyEntry> {
    keyring.keys.iter_mut().find(|entry| entry.id == id).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("there is no value key {id}"))
            .hint("`strongroom value status` lists the keys")
    })
}

fn refused(id: ValueKeyId, state: ValueKeyState, what: &str) -> Error {
    let state = state.name();
    Error::new(ErrorKind::Refused, format!("value key {id} is {state} and cannot be {what}"))
}

/// The record's bytes: `keyring` under a fresh data key, sealed to the master keys that seal.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) when no key seals; usage when the keyring breaks a rule; those of a remote master key.
pub async fn seal(
    keyring: &ValueKeyring,
    keys: &KeySet,
    rng: &mut (dyn CryptoRng + Send),
) -> Result<Vec<u8>> {
    let data_key = DataKey::generate(Subject::Values(keyring.namespace), rng);
    let context = context(keyring.namespace, keyring.serial);
    let key = data_key.value_keyring_key();
    let message = crypto::seal(Suite::Aes256Gcm, &key, &context, keyring.print()?.expose(), rng)?;
    let new = NewSeal { generation: keyring.serial, ..NewSeal::first(object(&message)) };
    let seal = seal_data_key(&data_key, new, keys, rng).await?;
    Ok(SealedRecord { seal, message }.print())
}

/// Opens a record.
///
/// # Errors
/// [`WrongKey`](ErrorKind::WrongKey) when no master key that was given opens it, naming those that would;
/// [`Tampered`](ErrorKind::Tampered), truncated or unsupported when it is not as specified; those of a remote master key.
pub async fn open(record: &[u8], keys: &KeySet) -> Result<ValueKeyring> {
    Ok(open_judged(record, keys).await?.0)
}

/// As [`open`]; also whether whoever sealed the record had a key that is in use (SPEC.md §5.3).
///
/// # Errors
/// As [`open`].
pub async fn open_judged(record: &[u8], keys: &KeySet) -> Result<(ValueKeyring, Standing)> {
    let SealedRecord { seal, message } = SealedRecord::parse(record)?;
    let Subject::Values(namespace) = seal.body().subject() else {
        return Err(Error::tampered("the value keyring's seal is of another subject"));
    };
    let serial = seal.body().generation();
    let opened = open_seal(&seal, object(&message), keys).await?;
    let standing = trust::standing(&[], [opened.evidence()]);
    let key = opened.data_key.value_keyring_key();
    let json = crypto::open(Suite::Aes256Gcm, &key, &context(namespace, serial), &message)?;
    let keyring = ValueKeyring::parse(namespace, serial, &json)?;
    for entry in &keyring.keys {
        if entry.key.as_ref().is_some_and(|key| id(namespace, key) != entry.id) {
            return Err(Error::tampered(format!(
                "value key {} has the id of another key",
                entry.id
            )));
        }
    }
    Ok((keyring, standing))
}

/// As [`seal`], at once, for a program without a runtime.
///
/// # Errors
/// As [`seal`]; unsupported for a remote master key.
pub fn seal_at_once(
    keyring: &ValueKeyring,
    keys: &KeySet,
    rng: &mut (dyn CryptoRng + Send),
) -> Result<Vec<u8>> {
    at_once(seal(keyring, keys, rng))
}

/// As [`open`], at once, for a program without a runtime.
///
/// # Errors
/// As [`open`]; unsupported for a remote master key.
pub fn open_at_once(record: &[u8], keys: &KeySet) -> Result<ValueKeyring> {
    at_once(open(record, keys))
}

/// What the record's seal vouches for: its last line.
fn object(message: &[u8]) -> Sha256 {
    Sha256(crypto::sha256(&[&SealedRecord::line(message)]))
}

fn context(namespace: Uuid, serial: u32) -> Vec<u8> {
    crypto::labelled(Label::ValueKeyring, &[&namespace.0, &u64::from(serial).to_be_bytes()])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;
    use crate::keys::Keyring;

    const NOW: Time = Time::from_unix(1_769_860_800);

    fn masters() -> KeySet {
        let mut masters = KeySet::new();
        masters.add_keyring(&Keyring::generate(NOW, &mut system_rng()).unwrap(), NOW);
        masters
    }

    fn states(keyring: &ValueKeyring) -> Vec<ValueKeyState> {
        keyring.keys.iter().map(|entry| entry.state).collect()
    }

    #[test]
    fn a_record_opens_with_its_master_keys_only() {
        let (mine, others) = (masters(), masters());
        let mut keyring = generate(NOW, &mut system_rng());
        let phase = crate::format::MigrationPhase::Admit;
        keyring.migrate.push(crate::format::Migration { prefix: b"/a/".to_vec(), phase });
        let record = seal_at_once(&keyring, &mine, &mut system_rng()).unwrap();
        let opened = open_at_once(&record, &mine).unwrap();
        assert_eq!(opened.print().unwrap().expose(), keyring.print().unwrap().expose());
        assert_eq!(opened.namespace, keyring.namespace);
        assert_eq!(open_at_once(&record, &others).err().unwrap().kind(), ErrorKind::WrongKey);
        let text = String::from_utf8(record).unwrap();
        let other = Uuid([1; 16]).to_string();
        let moved = text.replace(&keyring.namespace.to_string(), &other);
        assert_eq!(
            open_at_once(moved.as_bytes(), &mine).err().unwrap().kind(),
            ErrorKind::Tampered
        );
        let older = text.replace("generation 1", "generation 2");
        assert_eq!(
            open_at_once(older.as_bytes(), &mine).err().unwrap().kind(),
            ErrorKind::Tampered
        );
        let none = KeySet::new();
        let unsealed = seal_at_once(&keyring, &none, &mut system_rng());
        assert_eq!(unsealed.err().unwrap().kind(), ErrorKind::Refused);
    }

    #[test]
    fn a_key_lives_from_staged_to_destroyed() {
        use ValueKeyState::{Destroyed, Enabled, Primary, Staged};
        let mut keyring = generate(NOW, &mut system_rng());
        let first = keyring.keys[0].id;
        let second = stage(&mut keyring, NOW, &mut system_rng());
        assert_eq!(states(&keyring), [Primary, Staged]);
        assert!(disable(&mut keyring, first).is_err(), "the primary key");
        promote(&mut keyring, second).unwrap();
        assert_eq!(states(&keyring), [Enabled, Primary]);
        assert!(destroy(&mut keyring, first).is_err(), "still enabled");
        disable(&mut keyring, first).unwrap();
        assert_eq!(states(&keyring), [ValueKeyState::Disabled, Primary]);
        enable(&mut keyring, first).unwrap();
        disable(&mut keyring, first).unwrap();
        destroy(&mut keyring, first).unwrap();
        assert_eq!(states(&keyring), [Destroyed, Primary]);
        assert!(keyring.keys[0].key.is_none());
        assert!(promote(&mut keyring, first).is_err() && enable(&mut keyring, first).is_err());
        assert!(promote(&mut keyring, ValueKeyId([0; 4])).is_err());
        keyring.print().unwrap();
    }
}
