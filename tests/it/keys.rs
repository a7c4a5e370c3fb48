//! Giving up a key must never strand a snapshot.

use std::fs;
use std::sync::Arc;

use strongroom::ErrorKind;
use strongroom::backup::{
    Accept, BackupOptions, Scope, Source, VerifyLevel, backup, check_removable, reseal, show,
    verify,
};
use strongroom::crypto::{self, Argon2Cost, CryptoRng, Suite, system_rng};
use strongroom::custody::{self, InRepository, MasterKeyUri, NamedKey, create_passphrase_key};
use strongroom::envelope::NewSeal;
use strongroom::format::{KeyId, KeyState, Seal, Signature, Stanza};
use strongroom::keys::trust::{Distrust, Standing};
use strongroom::keys::{Binding, Identity, KeyFuture, KeySet, Recipient};
use strongroom::secret::{SecretBytes, SecretKey};
use strongroom::task::Control;

use crate::support::{TestRepo, key, keys, open_seal, seal_data_key, small_database};

fn opening(fills: &[u8]) -> KeySet {
    let mut keys = KeySet::new();
    fills.iter().for_each(|fill| keys.add(Arc::new(key(*fill)), KeyState::Retiring));
    keys
}

/// Two keys seal; each is rotated in its own keyring. Whoever removes the first old key, then the second, would be
/// told each time that the seal names another one.
#[tokio::test]
async fn a_key_that_a_seal_names_is_no_reason_to_give_up_another() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[1, 2])).await.id;
    check_removable(&repo.repository, &opening(&[1, 2]), key(1).id(), false).await.unwrap();
    let error =
        check_removable(&repo.repository, &opening(&[2, 3]), key(2).id(), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains(&id.to_string()), "{error}");
    let control = Control::default();
    let mut now = opening(&[2]);
    now.add(Arc::new(key(4)), KeyState::Sealing);
    reseal(&repo.repository, &now, Scope::All, &[], Accept::Counting, &control).await.unwrap();
    check_removable(&repo.repository, &now, key(2).id(), false).await.unwrap();
    assert!(repo.restore(&opening(&[4]), id).await.is_ok());
}

#[tokio::test]
async fn a_snapshot_that_no_key_opens_keeps_no_key_and_is_named() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[1, 2])).await.id;
    std::fs::write(repo.object(id, "seal.1"), b"nothing of the kind").unwrap();
    let named =
        check_removable(&repo.repository, &opening(&[1, 2]), key(1).id(), false).await.unwrap();
    assert!(named.len() == 1 && named[0].contains(&id.to_string()), "{named:?}");
    // What a later version may have written is unknown.
    std::fs::write(repo.object(id, "seal.1"), b"strongroom-seal/2\n").unwrap();
    let error =
        check_removable(&repo.repository, &opening(&[1, 2]), key(1).id(), false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[tokio::test]
async fn one_clusters_snapshots_and_those_that_do_not_say_whose_they_are() {
    let repo = TestRepo::new().await;
    let mut ids = Vec::new();
    for name in ["east", "west", "west"] {
        let options = BackupOptions { cluster: name.parse().unwrap(), ..BackupOptions::default() };
        let source = Source::File(small_database());
        let control = Control::default();
        let done = backup(&repo.repository, &keys(&[1]), source, &options, &control).await;
        ids.push(done.unwrap().id);
    }
    let west = "west".parse().unwrap();
    let resealed = reseal(
        &repo.repository,
        &keys(&[1, 2]),
        Scope::Cluster(&west),
        &[],
        Accept::Counting,
        &Control::default(),
    )
    .await
    .unwrap();
    assert_eq!(resealed.resealed, ids[1..]);
    let checked = async || {
        let scope = Scope::Cluster(&west);
        verify(&repo.repository, &keys(&[1]), scope, VerifyLevel::Quick, &Control::default()).await
    };
    assert_eq!(checked().await.unwrap().snapshots.len(), 2);
    std::fs::write(repo.object(ids[0], "manifest"), b"{}").unwrap();
    let report = checked().await.unwrap();
    assert_eq!(report.snapshots.len(), 3);
    assert!(report.worst().is_some());
    let nowhere = "north".parse().unwrap();
    std::fs::remove_dir_all(repo.path(&format!("snapshots/{}", ids[0]))).unwrap();
    let scope = Scope::Cluster(&nowhere);
    let nothing =
        verify(&repo.repository, &keys(&[1]), scope, VerifyLevel::Quick, &Control::default()).await;
    assert_eq!(nothing.unwrap_err().kind(), ErrorKind::NotFound);
}

/// A key of before a rotation may be sealed to by a backup that is still running.
#[tokio::test]
async fn a_backup_in_flight_keeps_its_key() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[1])).await.id;
    let running = repo.backup(&keys(&[1])).await.id;
    let both = opening(&[1, 2]);
    let mut to_both = KeySet::new();
    [1, 2].iter().for_each(|fill| to_both.add(Arc::new(key(*fill)), KeyState::Sealing));
    let done = reseal(
        &repo.repository,
        &to_both,
        Scope::Ids(&[id]),
        &[],
        Accept::Counting,
        &Control::default(),
    )
    .await;
    assert_eq!(done.unwrap().resealed, [id]);
    // As it is just before the manifest is written, and before the seal is.
    for part in ["manifest", "seal.1"] {
        std::fs::remove_file(repo.object(running, part)).unwrap();
        let refused =
            check_removable(&repo.repository, &both, key(1).id(), false).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Refused, "{part}");
        assert!(refused.to_string().contains(&running.to_string()), "{refused}");
    }
    for part in ["payload", "index"] {
        std::fs::remove_file(repo.object(running, part)).unwrap();
    }
    check_removable(&repo.repository, &both, key(1).id(), false).await.unwrap();
}

/// Somebody with an old keyring must not replace a newer seal that it does not open.
#[tokio::test]
async fn a_newer_seal_of_others_is_not_replaced() {
    let repo = TestRepo::new().await;
    let id = repo.backup(&keys(&[1])).await.id;
    let old = std::fs::read(repo.object(id, "seal.1")).unwrap();
    let mut new = opening(&[1]);
    new.add(Arc::new(key(2)), KeyState::Sealing);
    let (drop, control) = ([key(1).id()], Control::default());
    reseal(&repo.repository, &new, Scope::All, &drop, Accept::Counting, &control).await.unwrap();
    // It could not be deleted.
    std::fs::write(repo.object(id, "seal.1"), old).unwrap();
    let accept = Accept::Counting;
    let report = reseal(&repo.repository, &keys(&[1]), Scope::All, &[], accept, &control).await;
    assert!(report.unwrap().lingering[0].contains("seal.2"));
    assert!(repo.object(id, "seal.2").exists());
    assert!(repo.restore(&keys(&[2]), id).await.is_ok());
}

/// The cluster in a manifest is in clear: who alters it must not hide the snapshot from a verification of its cluster.
#[tokio::test]
async fn a_manifest_that_was_moved_to_another_cluster_fails() {
    let repo = TestRepo::new().await;
    let ids = [repo.backup(&keys(&[1])).await.id, repo.backup(&keys(&[1])).await.id];
    let path = repo.object(ids[1], "manifest");
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("\"cluster\":\"default\"", "\"cluster\":\"defaulu\""))
        .unwrap();
    let scope = "default".parse().unwrap();
    let scope = Scope::Cluster(&scope);
    let report =
        verify(&repo.repository, &keys(&[1]), scope, VerifyLevel::Quick, &Control::default()).await;
    let report = report.unwrap();
    assert_eq!(report.worst().map(strongroom::Error::kind), Some(ErrorKind::Tampered));
    // Without a key that could tell, it is at least counted.
    let report =
        verify(&repo.repository, &keys(&[1]), scope, VerifyLevel::Digests, &Control::default())
            .await;
    assert_eq!(report.unwrap().snapshots.len(), 2);
}

/// [S2.4] Whoever can create objects plants generations of the key, and other keys, that cost as much Argon2id as is
/// spent at all: the key that is named opens all the same.
#[tokio::test]
async fn planted_passphrase_keys_do_not_use_up_what_may_be_spent() {
    let repo = TestRepo::new().await;
    let word = || SecretBytes::new(b"correct horse".to_vec());
    let key = create_passphrase_key(&repo.repository, word(), Argon2Cost::default()).await.unwrap();
    let text = fs::read_to_string(repo.path(&format!("keys/{}.1", key.id()))).unwrap();
    let cost = Argon2Cost::default();
    let from = format!("argon2id {} ", cost.m_kib);
    assert!(text.contains(&from));
    for n in 2..=9 {
        let planted = text
            .replace("generation 1\n", &format!("generation {n}\n"))
            .replace(&from, &format!("argon2id {} ", 8 * cost.m_kib));
        fs::write(repo.path(&format!("keys/{}.{n}", key.id())), &planted).unwrap();
        let other = format!("{n:032}");
        let planted = text
            .replace(&key.id().to_string(), &other)
            .replace(&from, &format!("argon2id {} ", 8 * cost.m_kib));
        fs::write(repo.path(&format!("keys/{other}.1")), planted).unwrap();
    }
    let named = MasterKeyUri::Passphrase(Some(NamedKey { id: key.id(), retiring: false }));
    let keys = opened(&repo, &[named], word()).await.unwrap();
    assert_eq!(keys.state(key.id()), Some(KeyState::Sealing));
}

async fn opened(
    repo: &TestRepo,
    uris: &[MasterKeyUri],
    word: SecretBytes,
) -> strongroom::Result<KeySet> {
    custody::open(uris, Some(&mut InRepository::new(&repo.repository, || Ok(word)))).await
}

/// [S2.4] A good passphrase must not be called wrong because planted keys used up what may be spent.
#[tokio::test]
async fn it_is_said_when_passphrase_keys_were_not_tried() {
    let repo = TestRepo::new().await;
    let word = || SecretBytes::new(b"correct horse".to_vec());
    let key = create_passphrase_key(&repo.repository, word(), Argon2Cost::default()).await.unwrap();
    let name = repo.path(&format!("keys/{}.1", key.id()));
    let text = fs::read_to_string(&name).unwrap();
    let cost = Argon2Cost::default();
    let (from, to) =
        (format!("argon2id {} ", cost.m_kib), format!("argon2id {} ", 128 * cost.m_kib));
    assert!(text.contains(&from));
    // It asks for more than is ever spent, as many planted ones together would.
    fs::write(name, text.replace(&from, &to)).unwrap();
    let bare = [MasterKeyUri::Passphrase(None)];
    let error = opened(&repo, &bare, word()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Tampered);
    assert!(error.to_string().contains("1 were not tried"), "{error}");
    assert!(error.hint_text().unwrap().contains("passphrase:KEYID"));
}

/// A key of a service that answers later.
struct Remote {
    kind: &'static str,
    id: KeyId,
    secret: SecretKey,
}

impl Remote {
    fn new(kind: &'static str) -> Arc<Self> {
        Arc::new(Self { kind, id: KeyId([7; 16]), secret: SecretKey::new(|key| key.fill(9)) })
    }
}

impl Recipient for Remote {
    fn id(&self) -> KeyId {
        self.id
    }

    fn wrap<'a>(
        &'a self,
        data_key: &'a SecretKey,
        binding: &'a Binding,
        rng: &'a mut (dyn CryptoRng + Send),
    ) -> KeyFuture<'a, Stanza> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let context = binding.context(self.id, self.kind);
            let sealed =
                crypto::seal(Suite::Aes256Gcm, &self.secret, &context, data_key.expose(), rng)?;
            Stanza::new(self.kind, self.id, &["region=x"], sealed)
        })
    }
}

impl Identity for Remote {
    fn ids(&self) -> Vec<KeyId> {
        vec![self.id]
    }

    fn unwrap<'a>(
        &'a self,
        stanza: &'a Stanza,
        binding: &'a Binding,
    ) -> KeyFuture<'a, Option<SecretKey>> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            let context = binding.context(self.id, self.kind);
            let opened = crypto::open(Suite::Aes256Gcm, &self.secret, &context, stanza.body())?;
            Ok(SecretKey::from_slice(&opened))
        })
    }
}

/// A key need not be here: sealing, opening and sealing again wait for it.
#[tokio::test]
async fn a_remote_key_seals_and_opens() {
    let repo = TestRepo::new().await;
    let mut remote = KeySet::new();
    remote.add(Remote::new("kms"), KeyState::Sealing);
    let id = repo.backup(&remote).await.id;
    let restored = repo.restore(&remote, id).await.unwrap();
    assert_eq!(restored, fs::read(small_database()).unwrap());
    assert_eq!(show(&repo.repository, &remote, id).await.unwrap().standing, Standing::Counts);
    let text = fs::read_to_string(repo.object(id, "seal.1")).unwrap();
    assert!(text.contains(&format!("-> kms {} region=x ", KeyId([7; 16]))), "{text}");
    // Where nothing can wait it is refused, and not taken for a key that does not open.
    let seal = Seal::parse(text.as_bytes()).unwrap();
    let error = open_seal(&seal, seal.body().object(), &remote).err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    remote.set_state(KeyId([7; 16]), KeyState::Retiring);
    remote.add(Arc::new(key(1)), KeyState::Sealing);
    let (accept, control) = (Accept::Counting, Control::default());
    let report = reseal(&repo.repository, &remote, Scope::All, &[], accept, &control).await;
    assert_eq!(report.unwrap().resealed, [id]);
    assert_eq!(repo.restore(&keys(&[1]), id).await.unwrap(), restored);
}

/// Anyone can seal to a public key.
#[tokio::test]
async fn a_stanza_of_a_public_key_vouches_for_nothing() {
    let repo = TestRepo::new().await;
    let mut public = KeySet::new();
    public.add(Remote::new("hpke"), KeyState::Sealing);
    let id = repo.backup(&public).await.id;
    let standing = show(&repo.repository, &public, id).await.unwrap().standing;
    assert_eq!(standing, Standing::NotTrusted(Distrust::Public));
    assert_eq!(repo.restore(&public, id).await.unwrap_err().kind(), ErrorKind::Refused);
}

/// Whoever knows the data key can make seals with as many signatures as fit: they crowd out none of a seal that counts.
#[tokio::test]
async fn junk_signatures_crowd_out_no_other() {
    let repo = TestRepo::new().await;
    let (old, new) = (key(1).id(), key(2));
    let id = repo.backup(&keys(&[1, 2])).await.id;
    let first = Seal::parse(&fs::read(repo.object(id, "seal.1")).unwrap()).unwrap();
    let object = first.body().object();
    let data_key = open_seal(&first, object, &keys(&[1])).unwrap().data_key;
    let signature = |n: u8| Signature { key_id: KeyId([n; 16]), bytes: [n; 64] };
    let write = |generation: u32, signatures: Vec<Signature>, keys: &KeySet| {
        let seal = NewSeal { generation, signatures, ..NewSeal::first(object) };
        let seal = seal_data_key(&data_key, seal, keys, &mut system_rng()).unwrap();
        fs::write(repo.object(id, &format!("seal.{generation}")), seal.print()).unwrap();
    };
    // The genuine signature stands in an older seal that counts; the newest is the thief's.
    write(1, vec![signature(99)], &keys(&[1, 2]));
    write(2, Vec::new(), &keys(&[2]));
    write(3, (1..=16).map(signature).collect(), &keys(&[1]));
    let mut owner = KeySet::new();
    owner.add(Arc::new(key(1)), KeyState::Retired);
    owner.add(Arc::new(new), KeyState::Primary);
    let (accept, control) = (Accept::Counting, Control::default());
    let report = reseal(&repo.repository, &owner, Scope::All, &[old], accept, &control).await;
    let report = report.unwrap();
    assert_eq!(report.resealed, [id]);
    let newest = Seal::parse(&fs::read(repo.object(id, "seal.4")).unwrap()).unwrap();
    let signed: Vec<_> = newest.body().signatures().iter().map(|one| one.key_id).collect();
    assert!(signed.contains(&KeyId([99; 16])), "{signed:?}");
    // What has no room is not thrown away.
    assert!(repo.object(id, "seal.3").exists() && !repo.object(id, "seal.1").exists());
    assert!(report.lingering[0].contains("no room for its signature"), "{:?}", report.lingering);
}
