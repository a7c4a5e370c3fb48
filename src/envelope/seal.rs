//! Sealing a data key to master keys, and opening it again (SPEC.md §5).

use super::DataKey;
use crate::crypto::{self, CryptoRng, Label};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{KeyId, SEALED_KEY_LEN, Seal, SealBody, Stanza, Subject};
use crate::keys::{MasterKey, MasterKeys};

/// The one stanza type that this version writes.
const LOCAL: &str = "local";

/// A seal that opened.
pub struct Opened {
    /// The data key.
    pub data_key: DataKey,
    /// The master key that opened it.
    pub opened_by: KeyId,
}

/// The stanzas of `seal` that a re-seal keeps byte for byte: those whose key is not at hand,
/// except the ones to `drop`.
pub fn kept_stanzas(seal: &Seal, keys: &MasterKeys, drop: &[KeyId]) -> Vec<Stanza> {
    let kept = |stanza: &&Stanza| !keys.holds(stanza.key_id()) && !drop.contains(&stanza.key_id());
    seal.body().stanzas().iter().filter(kept).cloned().collect()
}

/// Prints generation `generation` of the seal of `data_key`: a stanza for each of `keys`'
/// sealing keys, and `kept` as they are.
///
/// # Errors
/// [`ErrorKind::Refused`] when nothing would open it; those of a remote master key.
pub fn seal_data_key(
    data_key: &DataKey,
    generation: u32,
    keys: &MasterKeys,
    kept: Vec<Stanza>,
    rng: &mut dyn CryptoRng,
) -> Result<Vec<u8>> {
    let commitment = data_key.commitment();
    let mut stanzas = kept;
    for key in keys.sealing() {
        if key.stanza_type() != LOCAL {
            let kind = key.stanza_type();
            return Err(Error::unsupported(format!("a master key of the type {kind} cannot seal")));
        }
        let context = binding(data_key.subject(), &commitment, key.id(), key.stanza_type());
        let sealed: [u8; SEALED_KEY_LEN] = key
            .seal(&context, data_key.key(), rng)?
            .try_into()
            .map_err(|_| Error::usage("a local stanza has one length"))?;
        stanzas.push(Stanza::local(key.id(), &sealed));
    }
    if stanzas.is_empty() {
        return Err(Error::new(ErrorKind::Refused, "no master key to seal to")
            .hint("give one with --master-key, for example file:/etc/strongroom/keyring"));
    }
    let body = SealBody::new(data_key.subject(), generation, commitment, stanzas)?;
    let mac = data_key.seal_mac(&body.signed_bytes());
    Ok(body.finish(mac).print())
}

/// Opens `seal` with the first of `keys` that it names.
///
/// # Errors
/// [`ErrorKind::WrongKey`] when it names none of them, listing the key ids that would open it;
/// [`ErrorKind::Tampered`] when one is named and still does not open it.
pub fn open_seal(seal: &Seal, keys: &MasterKeys) -> Result<Opened> {
    let mut failure = None;
    for stanza in seal.body().stanzas() {
        let Some(key) = keys.get(stanza.key_id()).filter(|key| key.stanza_type() == stanza.kind())
        else {
            continue;
        };
        match open_stanza(seal, stanza, key) {
            Ok(data_key) => return Ok(Opened { data_key, opened_by: stanza.key_id() }),
            Err(error) => {
                failure = Some(error.context(format!("the stanza of key {}", stanza.key_id())));
            }
        }
    }
    Err(failure.unwrap_or_else(|| wrong_key(seal)))
}

fn open_stanza(seal: &Seal, stanza: &Stanza, key: &dyn MasterKey) -> Result<DataKey> {
    let body = seal.body();
    let context = binding(body.subject(), body.commitment(), stanza.key_id(), stanza.kind());
    let wrapped = stanza
        .wrapped()
        .ok_or_else(|| Error::unsupported(format!("stanza type {}", stanza.kind())))?;
    let data_key = DataKey::new(key.open(&context, &wrapped)?, body.subject());
    DataKey::check("the data-key commitment", &data_key.commitment(), body.commitment())?;
    DataKey::check("the seal's MAC", &data_key.seal_mac(&seal.signed_bytes()), seal.mac())?;
    Ok(data_key)
}

/// A of SPEC.md §5: ties a stanza to its subject, its data key and its master key.
fn binding(subject: Subject, commitment: &[u8; 32], key: KeyId, kind: &str) -> Vec<u8> {
    crypto::labelled(Label::DataKey, &[&subject.to_bytes(), commitment, &key.0, kind.as_bytes()])
}

/// The master keys that a seal names.
pub fn key_ids(seal: &Seal) -> Vec<KeyId> {
    seal.body().stanzas().iter().map(Stanza::key_id).collect()
}

fn wrong_key(seal: &Seal) -> Error {
    let ids: Vec<String> = key_ids(seal).iter().map(ToString::to_string).collect();
    Error::new(
        ErrorKind::WrongKey,
        format!("no master key at hand opens it; these would: {}", ids.join(", ")),
    )
    .hint("give the keyring or passphrase that holds one of them with --master-key")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::crypto::system_rng;
    use crate::format::SnapshotId;
    use crate::keys::LocalKey;

    fn keys_of(n: usize) -> (Vec<Arc<LocalKey>>, MasterKeys) {
        let all: Vec<_> = (0..n).map(|_| Arc::new(LocalKey::generate(&mut system_rng()))).collect();
        let mut keys = MasterKeys::new();
        all.iter().for_each(|key| keys.add(key.clone(), true));
        (all, keys)
    }

    fn subject() -> Subject {
        Subject::Snapshot(SnapshotId(7))
    }

    #[test]
    fn any_one_key_opens_what_was_sealed_to_all() {
        let (all, keys) = keys_of(3);
        let data_key = DataKey::generate(subject(), &mut system_rng());
        let text = seal_data_key(&data_key, 1, &keys, Vec::new(), &mut system_rng()).unwrap();
        let seal = Seal::parse(&text).unwrap();
        for key in all {
            let mut one = MasterKeys::new();
            one.add(key.clone(), true);
            let opened = open_seal(&seal, &one).unwrap();
            assert_eq!(opened.opened_by, key.id());
            assert_eq!(opened.data_key.commitment(), data_key.commitment());
        }
    }

    #[test]
    fn another_key_is_told_which_would_open() {
        let (all, keys) = keys_of(2);
        let (_, others) = keys_of(1);
        let data_key = DataKey::generate(subject(), &mut system_rng());
        let text = seal_data_key(&data_key, 1, &keys, Vec::new(), &mut system_rng()).unwrap();
        let error = open_seal(&Seal::parse(&text).unwrap(), &others).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::WrongKey);
        assert!(all.iter().all(|key| error.to_string().contains(&key.id().to_string())));
    }

    #[test]
    fn a_stanza_moved_to_another_subject_does_not_open() {
        let (_, keys) = keys_of(1);
        let data_key = DataKey::generate(subject(), &mut system_rng());
        let text = seal_data_key(&data_key, 1, &keys, Vec::new(), &mut system_rng()).unwrap();
        let text = String::from_utf8(text).unwrap();
        let text = text.replace(&SnapshotId(7).to_string(), &SnapshotId(8).to_string());
        let seal = Seal::parse(text.as_bytes()).unwrap();
        assert_eq!(open_seal(&seal, &keys).err().unwrap().kind(), ErrorKind::Tampered);
    }

    #[test]
    fn a_reseal_keeps_foreign_stanzas_byte_for_byte() {
        let (all, keys) = keys_of(2);
        let data_key = DataKey::generate(subject(), &mut system_rng());
        let text = seal_data_key(&data_key, 1, &keys, Vec::new(), &mut system_rng()).unwrap();
        let seal = Seal::parse(&text).unwrap();
        let mut mine = MasterKeys::new();
        mine.add(all[0].clone(), true);
        let kept = kept_stanzas(&seal, &mine, &[]);
        assert_eq!(kept.len(), 1);
        assert_eq!(kept[0].key_id(), all[1].id());
        assert!(kept_stanzas(&seal, &mine, &[all[1].id()]).is_empty());
        let text = seal_data_key(&data_key, 2, &mine, kept, &mut system_rng()).unwrap();
        assert!(open_seal(&Seal::parse(&text).unwrap(), &keys).is_ok());
    }
}
