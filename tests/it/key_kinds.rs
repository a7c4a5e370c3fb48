//! Every kind of master key beside every other: a seal to both opens with each alone, and is sealed again from each to each.

use std::sync::Arc;

use strongroom::ErrorKind;
use strongroom::backup::{Accept, Scope, reseal};
use strongroom::crypto::{Argon2Cost, Kem, system_rng};
use strongroom::custody::create_passphrase_key;
use strongroom::format::{KeyId, KeyState};
use strongroom::keys::{HpkeIdentity, Identity, KeySet, Recipient, Signer, SigningKey};
use strongroom::secret::SecretBytes;
use strongroom::task::Control;

use crate::support::{TestRepo, key};

/// A key that seals and opens.
#[derive(Clone)]
struct Kind {
    name: &'static str,
    recipient: Arc<dyn Recipient>,
    identity: Arc<dyn Identity>,
}

impl Kind {
    fn new(name: &'static str, key: impl Recipient + Identity + 'static) -> Self {
        let key = Arc::new(key);
        Self { name, recipient: Arc::clone(&key) as _, identity: key }
    }

    fn id(&self) -> KeyId {
        self.recipient.id()
    }
}

/// One of each kind.
async fn all(repo: &TestRepo) -> Vec<Kind> {
    let passphrase = SecretBytes::new(b"a passphrase of this test".to_vec());
    let cost = Argon2Cost { m_kib: 64, t: 1, p: 1 };
    let passphrase = create_passphrase_key(&repo.repository, passphrase, cost).await.unwrap();
    let generate = |kem| HpkeIdentity::generate(kem, &mut system_rng()).unwrap();
    vec![
        Kind::new("local", key(1)),
        Kind::new("passphrase", passphrase),
        Kind::new("hpke, X-Wing", generate(Kem::XWing)),
        Kind::new("hpke, X25519", generate(Kem::X25519)),
    ]
}

/// Keys that seal to `seal`, open with `open`, and sign. What seals to a public key counts by its signature.
fn keys(signing: &[u8], seal: &[&Kind], open: &[&Kind]) -> KeySet {
    let mut keys = KeySet::new();
    for kind in open {
        keys.add_identity(Arc::clone(&kind.identity), KeyState::Sealing);
    }
    for kind in seal {
        keys.add_recipient(Arc::clone(&kind.recipient), KeyState::Sealing);
    }
    keys.mix_quantum_weak();
    let text = std::str::from_utf8(signing).unwrap();
    let key = SigningKey::parse(text).unwrap();
    keys.trust(Signer::new(key.public()));
    keys.sign_with(key);
    keys
}

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_beside_and_after_each() {
    let repo = TestRepo::new().await;
    let kinds = all(&repo).await;
    let signing = SigningKey::generate(&mut system_rng()).print().unwrap();
    let keys = |seal: &[&Kind], open: &[&Kind]| keys(signing.expose(), seal, open);
    for one in &kinds {
        for other in &kinds {
            let pair = format!("{} and {}", one.name, other.name);
            let both = [one, other];
            let id = repo.backup(&keys(&both, &both)).await.id;
            for opener in both {
                repo.restore(&keys(&[], &[opener]), id).await.expect(&pair);
            }
            for third in kinds.iter().filter(|kind| both.iter().all(|one| one.id() != kind.id())) {
                let error = repo.restore(&keys(&[], &[third]), id).await.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::WrongKey, "{pair}: {}", third.name);
            }
            if one.id() == other.id() {
                continue;
            }
            // From the one alone to the other alone.
            let id = repo.backup(&keys(&[one], &[one])).await.id;
            let (ids, drop, control) = ([id], [one.id()], Control::default());
            let to = keys(&[other], &both);
            let scope = Scope::Ids(&ids);
            let done = reseal(&repo.repository, &to, scope, &drop, Accept::Counting, &control);
            assert_eq!(done.await.unwrap().resealed, ids, "{pair}");
            repo.restore(&keys(&[], &[other]), id).await.expect(&pair);
            let error = repo.restore(&keys(&[], &[one]), id).await.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WrongKey, "{pair}");
        }
    }
}
