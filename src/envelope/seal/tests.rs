use std::sync::Arc;

use super::*;
use crate::crypto::system_rng;
use crate::format::{SnapshotId, Subject};
use crate::keys::{LocalKey, at_once};

const OBJECT: Sha256 = Sha256([3; 32]);

fn keys_of(states: &[KeyState]) -> (Vec<Arc<LocalKey>>, KeySet) {
    let mut keys = KeySet::new();
    let add = |state: &KeyState| {
        let key = Arc::new(LocalKey::generate(&mut system_rng()));
        keys.add(key.clone(), *state);
        key
    };
    (states.iter().map(add).collect(), keys)
}

fn only(key: &Arc<LocalKey>, state: KeyState) -> KeySet {
    let mut keys = KeySet::new();
    keys.add(key.clone(), state);
    keys
}

fn new_data_key() -> DataKey {
    DataKey::generate(Subject::Snapshot(SnapshotId(7)), &mut system_rng())
}

fn sealed(data_key: &DataKey, keys: &KeySet) -> Seal {
    at_once(seal_data_key(data_key, NewSeal::first(OBJECT), keys, &mut system_rng())).unwrap()
}

fn opened(seal: &Seal, object: Sha256, keys: &KeySet) -> Result<Opened> {
    at_once(open_seal(seal, object, keys))
}

fn edited(seal: &Seal, edit: impl FnOnce(String) -> String) -> Seal {
    Seal::parse(edit(String::from_utf8(seal.print()).unwrap()).as_bytes()).unwrap()
}

#[test]
fn any_one_key_opens_what_was_sealed_to_all() {
    let (all, keys) = keys_of(&[KeyState::Primary; 3]);
    let data_key = new_data_key();
    let seal = sealed(&data_key, &keys);
    for key in all {
        let opened = opened(&seal, OBJECT, &only(&key, KeyState::Retired)).unwrap();
        assert_eq!((opened.opened_by, opened.state), (key.id(), KeyState::Retired));
        assert_eq!(opened.data_key.commitment(), data_key.commitment());
    }
}

#[test]
fn a_key_that_vouches_is_preferred() {
    let (all, keys) = keys_of(&[KeyState::Sealing; 3]);
    let seal = sealed(&new_data_key(), &keys);
    for order in [[0, 1, 2], [1, 2, 0], [2, 0, 1]] {
        let states = [KeyState::Retired, KeyState::Retiring, KeyState::Primary];
        let mut keys = KeySet::new();
        for (at, state) in order.iter().zip(states) {
            keys.add(all[*at].clone(), state);
            let best = if state == KeyState::Staged { KeyState::Retired } else { state };
            assert_eq!(opened(&seal, OBJECT, &keys).unwrap().state, best);
        }
    }
}

#[test]
fn another_key_is_told_which_would_open() {
    let (all, keys) = keys_of(&[KeyState::Primary; 2]);
    let (_, others) = keys_of(&[KeyState::Primary]);
    let error = opened(&sealed(&new_data_key(), &keys), OBJECT, &others).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    assert!(all.iter().all(|key| error.to_string().contains(&key.id().to_string())));
}

/// [S5.1]: a stanza stands for one subject and one object, whatever the lines around it say.
#[test]
fn a_stanza_moved_to_another_subject_or_object_does_not_open() {
    let (_, keys) = keys_of(&[KeyState::Primary]);
    let data_key = new_data_key();
    let seal = sealed(&data_key, &keys);
    let of = |id: u128| SnapshotId(id).to_string();
    let moved = edited(&seal, |text| text.replace(&of(7), &of(8)));
    assert_eq!(opened(&moved, OBJECT, &keys).err().unwrap().kind(), ErrorKind::Tampered);
    let other = Sha256([4; 32]);
    assert_eq!(opened(&seal, other, &keys).err().unwrap().kind(), ErrorKind::Tampered);
    // Who knows the data key can make the MAC, and still not the stanza.
    let body = seal.body();
    let (subject, stanzas) = (body.subject(), body.stanzas().to_vec());
    let forged = SealBody::new(subject, 1, other, *body.commitment(), stanzas, Vec::new());
    let forged = forged.unwrap();
    let mac = data_key.seal_mac(&forged.signed_bytes());
    let error = opened(&forged.finish(mac), other, &keys).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Tampered);
}

#[test]
fn a_new_generation_keeps_stanzas_byte_for_byte() {
    let states = [KeyState::Primary; 5];
    let (all, keys) = keys_of(&states);
    let data_key = new_data_key();
    let seal = sealed(&data_key, &keys);
    let mut mine = KeySet::new();
    let states = [KeyState::Primary, KeyState::Retiring, KeyState::Retired, KeyState::Staged];
    all.iter().zip(states).for_each(|(key, state)| mine.add(key.clone(), state));
    let ids = |stanzas: &[Stanza]| {
        let mut ids: Vec<_> = stanzas.iter().map(Stanza::key_id).collect();
        ids.sort_unstable();
        ids
    };
    let of = |which: &[usize]| {
        let mut ids: Vec<_> = which.iter().map(|at| all[*at].id()).collect();
        ids.sort_unstable();
        ids
    };
    let kept = kept_stanzas(&seal, &mine, &[]);
    assert_eq!(ids(&kept), of(&[1, 3, 4]));
    assert!(kept.iter().all(|stanza| seal.body().stanzas().contains(stanza)));
    assert_eq!(ids(&kept_stanzas(&seal, &mine, &[all[4].id()])), of(&[1, 3]));
    let signatures = vec![Signature { key_id: KeyId([1; 16]), bytes: [2; 64] }];
    let signatures_of = signatures.clone();
    let new =
        NewSeal { generation: 2, object: OBJECT, kept, signatures: signatures_of, sign: false };
    let next = at_once(seal_data_key(&data_key, new, &mine, &mut system_rng())).unwrap();
    assert_eq!(next.body().signatures(), signatures);
    assert_eq!(ids(next.body().stanzas()), of(&[0, 1, 3, 4]));
    for at in [0, 1, 3, 4] {
        assert!(opened(&next, OBJECT, &only(&all[at], KeyState::Primary)).is_ok());
    }
}

/// As the key of a service, and counts how often it is asked.
struct OfService(Arc<LocalKey>, std::sync::atomic::AtomicUsize);

impl Identity for OfService {
    fn ids(&self) -> Vec<KeyId> {
        vec![self.0.id()]
    }

    fn unwrap<'a>(
        &'a self,
        stanza: &'a Stanza,
        binding: &'a Binding,
    ) -> crate::keys::KeyFuture<'a, Option<crate::secret::SecretKey>> {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        self.0.unwrap(stanza, binding)
    }

    fn effort(&self, _: &Stanza) -> crate::keys::Effort {
        crate::keys::Effort::Service
    }
}

/// A genuine signature stands beside planted stanzas, in many seals.
#[test]
fn a_service_is_asked_for_few_stanzas_of_one_object() {
    let (all, mut keys) = keys_of(&[KeyState::Primary]);
    keys.sign_with(crate::keys::SigningKey::generate(&mut system_rng()));
    let genuine = sealed(&new_data_key(), &keys);
    let body = genuine.body();
    // Sealed to the same key, of another data key: the stanza does not open here.
    let stanzas = sealed(&new_data_key(), &keys).body().stanzas().to_vec();
    let signatures = body.signatures().to_vec();
    let planted = SealBody::new(body.subject(), 2, OBJECT, *body.commitment(), stanzas, signatures);
    let planted = planted.unwrap().finish(*genuine.mac());
    let service = Arc::new(OfService(all[0].clone(), Default::default()));
    let mut keys_of_service = KeySet::new();
    keys_of_service.add_identity(service.clone(), KeyState::Primary);
    keys.signers().iter().for_each(|signer| keys_of_service.trust(signer.clone()));
    let calls = || service.1.load(std::sync::atomic::Ordering::Relaxed);
    let mut asked = Asked::default();
    let judge = |seal: &Seal, asked: &mut Asked| {
        at_once(judge_seal(seal, OBJECT, None, &keys_of_service, asked))
    };
    for _ in 0..20 {
        let judged = judge(&planted, &mut asked);
        assert!(judged.is_err() || judged.unwrap().opened.is_none());
    }
    assert_eq!((calls(), asked.is_too_many()), (3, true));
    // What is signed counts whether it opens or not, and the first seal of all is tried.
    let judged = judge(&genuine, &mut asked).unwrap();
    assert!(judged.opened.is_none() && judged.standing.counts());
    asked.at_last();
    assert!(judge(&genuine, &mut asked).unwrap().opened.is_some());
    assert_eq!(calls(), 4);
    // Who named it by its id has it tried.
    keys_of_service.ask_unsigned();
    let opened = judge_seal(&genuine, OBJECT, None, &keys_of_service, &mut asked);
    assert!(at_once(opened).unwrap().opened.is_some());
}
