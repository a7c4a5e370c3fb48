//! Golden vectors: what a released version wrote must open for ever.
//!
//! `tests/vectors/repositories/<name>/` is a repository, `<name>.json` beside it says what opening it must come to.
//! Append-only: `cargo test --test it -- --ignored write_missing_vectors` adds what is missing and never changes what is there.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use strongroom::backup::{Accept, BackupOptions, Scope, Source, backup, reseal};
use strongroom::custody::{create_passphrase_key, open_passphrase_keys};

use strongroom::crypto::{Argon2Cost, CHUNK_LEN, SEALED_CHUNK_LEN, Suite, system_rng};
use strongroom::custody::keyfile;
use strongroom::envelope::{DataKey, NewSeal, ObjectOpener, ObjectSealer};
use strongroom::format::{self, KeyState, KeyringEntry, Manifest, Role, Seal, SnapshotId};
use strongroom::keys::{IdentityFile, KeySet, Signer, SigningKey};
use strongroom::secret::{SecretBytes, SecretKey};
use strongroom::store::Repository;
use strongroom::task::Control;
use strongroom::{Error, Result};

use crate::kms_fault::Plugin;
use crate::support::{
    TestRepo, key, keys, local, open_seal, restore_bytes, seal_data_key, small_database, vector,
};

const PASSPHRASE: &str = "TEST-ONLY correct horse battery staple";

pub fn repositories() -> PathBuf {
    vector("repositories")
}

fn keyring(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("keys/test-only").join(name)
}

/// The outcome classes of SPEC.md §8.
pub fn class(error: &Error) -> &'static str {
    error.kind().name()
}

pub async fn open(spec: &Value, dir: &Path) -> Result<(Vec<u8>, String)> {
    let repository = Repository::open(local(dir), None).await?;
    let mut keys = KeySet::new();
    let plugin = spec.get("kms").filter(|kms| kms["provider"].is_null()).map(Plugin::answering);
    if let Some(plugin) = &plugin {
        keys = strongroom::custody::open(&[plugin.uri().parse()?], None).await?;
    }
    if let Some(path) = spec["keyring"].as_str() {
        let text = fs::read(repositories().join(path)).unwrap();
        keys.add_keyring(&strongroom::keys::Keyring::parse(&text)?, keyfile::now());
    }
    if let Some(path) = spec["identity"].as_str() {
        let text = fs::read_to_string(repositories().join(path)).unwrap();
        let identities = IdentityFile::parse(&text)?.identities;
        identities.into_iter().for_each(|key| keys.add(Arc::new(key), KeyState::Sealing));
    }
    if let Some(path) = spec["signers"].as_str() {
        let text = fs::read_to_string(repositories().join(path)).unwrap();
        Signer::parse_file(&text)?.into_iter().for_each(|signer| keys.trust(signer));
    }
    if let Some(word) = spec["passphrase"].as_str() {
        let word = SecretBytes::new(word.into());
        for key in open_passphrase_keys(&repository, word).await? {
            keys.add(Arc::new(key), KeyState::Sealing);
        }
    }
    let id = spec["snapshot"].as_str().unwrap().parse().unwrap();
    let (bytes, report) = restore_bytes(&repository, &keys, id).await?;
    Ok((bytes, report.sha256.to_string()))
}

#[tokio::test]
async fn every_golden_vector_comes_to_what_it_must() {
    let mut classes: BTreeMap<String, usize> = BTreeMap::new();
    for entry in fs::read_dir(repositories()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "json") {
            continue;
        }
        let spec: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        let mut expected = spec["class"].as_str().unwrap();
        if spec["kms"]["provider"].is_string() {
            // Not without its service: `kms_stanza_vectors` opens it.
            expected = "wrong-key";
        }
        *classes.entry(expected.into()).or_default() += 1;
        let name = path.file_stem().unwrap().display();
        match open(&spec, &path.with_extension("")).await {
            Ok((_, sha256)) => {
                assert_eq!(expected, "ok", "{name} opens");
                assert_eq!(spec["sha256"], sha256, "{name}");
            }
            Err(error) => assert_eq!(expected, class(&error), "{name}: {error}"),
        }
    }
    for class in ["ok", "wrong-key", "unsupported", "truncated", "tampered"] {
        assert!(classes.contains_key(class), "no vector of class {class}");
    }
    assert!(classes.values().sum::<usize>() >= 35, "{classes:?}");
}

/// A repository being made into a vector.
struct Draft {
    repo: TestRepo,
    id: SnapshotId,
    passphrase: Option<&'static str>,
    keyring: Option<&'static str>,
    identity: Option<&'static str>,
}

impl Draft {
    async fn new() -> Self {
        Self::of(small_database(), Suite::Aes256Gcm).await
    }

    /// A payload of several chunks.
    async fn long() -> Self {
        Self::of(vector("etcd/etcd-3.5-random.db"), Suite::Aes256Gcm).await
    }

    async fn of(database: PathBuf, suite: Suite) -> Self {
        let repo = TestRepo::new().await;
        let id = Self::backup(&repo, database, suite, &keys(&[1, 2])).await;
        Self { repo, id, passphrase: None, keyring: Some("keyring"), identity: None }
    }

    async fn backup(repo: &TestRepo, database: PathBuf, suite: Suite, keys: &KeySet) -> SnapshotId {
        let options = BackupOptions { suite, ..BackupOptions::default() };
        let control = Control::default();
        backup(&repo.repository, keys, Source::File(database), &options, &control).await.unwrap().id
    }

    fn path(&self, part: &str) -> PathBuf {
        self.repo.object(self.id, part)
    }

    fn read(&self, part: &str) -> Vec<u8> {
        fs::read(self.path(part)).unwrap()
    }

    fn write(&self, part: &str, bytes: &[u8]) {
        fs::write(self.path(part), bytes).unwrap();
    }

    fn remove(self, part: &str) -> Self {
        fs::remove_file(self.path(part)).unwrap();
        self
    }

    fn flip(self, part: &str, bit: usize) -> Self {
        let mut bytes = self.read(part);
        bytes[bit / 8] ^= 1 << (bit % 8);
        self.write(part, &bytes);
        self
    }

    fn replace(self, part: &str, from: &str, to: &str) -> Self {
        let text = String::from_utf8(self.read(part)).unwrap();
        assert!(text.contains(from), "{from}");
        self.write(part, text.replacen(from, to, 1).as_bytes());
        self
    }

    /// Puts payload chunks into another order.
    fn chunks(self, order: &[usize]) -> Self {
        let bytes = self.read("payload");
        let (head, rest) = bytes.split_at(ObjectOpener::HEAD_LEN as usize);
        let chunks: Vec<&[u8]> = rest.chunks(SEALED_CHUNK_LEN).collect();
        assert!(chunks.len() >= 3);
        let mut out = head.to_vec();
        order.iter().for_each(|at| out.extend_from_slice(chunks[*at]));
        self.write("payload", &out);
        self
    }

    fn data_key(&self) -> DataKey {
        let seal = Seal::parse(&self.read("seal.1")).unwrap();
        open_seal(&seal, seal.body().object(), &keys(&[1])).unwrap().data_key
    }

    /// Writes the manifest again with its JSON changed, and a right MAC and seal.
    fn manifest(self, change: impl FnOnce(&str) -> String) -> Self {
        let text = String::from_utf8(self.read("manifest")).unwrap();
        let (signed, _) = text.split_once("hmac-sha256").unwrap();
        let signed = change(signed);
        let mac =
            data_encoding::BASE64_NOPAD.encode(&self.data_key().manifest_mac(signed.as_bytes()));
        let manifest = format!("{signed}hmac-sha256 {mac}\n");
        self.write("seal.1", &seal_of(&self.data_key(), manifest.as_bytes()).print());
        self.write("manifest", manifest.as_bytes());
        self
    }

    /// Seals the changed message of payload or index under the same data key, and names it in the manifest.
    fn message(self, role: Role, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Self {
        let (data_key, bytes) = (self.data_key(), self.read(&role.part().unwrap().to_string()));
        let key = match role {
            Role::Payload => data_key.payload_key(),
            _ => data_key.index_key(),
        };
        let (head, sealed) = bytes.split_at(ObjectOpener::HEAD_LEN as usize);
        let opener = ObjectOpener::new(head, role, self.id, &key, bytes.len() as u64).unwrap();
        let mut sealed = sealed.to_vec();
        let message = opener.open(&(0..opener.message_len()), &mut sealed).unwrap().to_vec();
        let mut sealer =
            ObjectSealer::new(Suite::Aes256Gcm, role, self.id, &key, &mut system_rng());
        sealer.write(&change(message)).unwrap();
        let (bytes, object) = sealer.finish().unwrap();
        let manifest = Manifest::parse(&self.read("manifest")).unwrap();
        let old = manifest.body().object(&role.part().unwrap()).unwrap().clone();
        self.write(&role.part().unwrap().to_string(), &bytes);
        self.manifest(|text| {
            let entry =
                |length: u64, sha256| format!("\"length\":{length},\"sha256\":\"{sha256}\"");
            let (old, new) = (entry(old.length, old.sha256), entry(object.length, object.sha256));
            assert!(text.contains(&old));
            text.replace(&old, &new)
        })
    }

    /// The same for the index's JSON.
    fn index(self, change: impl FnOnce(String) -> String) -> Self {
        self.message(Role::Index, |message| {
            let json = zstd::stream::decode_all(zstd_frame(&message)).unwrap();
            let json = change(String::from_utf8(json).unwrap());
            let mut message = zstd::bulk::compress(json.as_bytes(), 1).unwrap();
            message.resize(message.len().next_multiple_of(4096), 0);
            message
        })
    }

    /// Adds a line before the seal's MAC, with a right MAC.
    fn stanza(self, line: &str) -> Self {
        let text = String::from_utf8(self.read("seal.1")).unwrap();
        let (before, _) = text.split_once("---").unwrap();
        let signed = format!("{before}{line}\n---");
        let mac = data_encoding::BASE64_NOPAD.encode(&self.data_key().seal_mac(signed.as_bytes()));
        self.write("seal.1", format!("{signed} {mac}\n").as_bytes());
        self
    }
}

/// The first seal of a snapshot with this manifest.
fn seal_of(data_key: &DataKey, manifest: &[u8]) -> Seal {
    let object = format::Sha256(strongroom::crypto::sha256(&[manifest]));
    let new = NewSeal::first(object);
    seal_data_key(data_key, new, &keys(&[1, 2]), &mut system_rng()).unwrap()
}

/// The zstd frame that `message` begins with.
fn zstd_frame(message: &[u8]) -> &[u8] {
    &message[..zstd::zstd_safe::find_frame_compressed_size(message).unwrap()]
}

fn last_byte_set(mut message: Vec<u8>) -> Vec<u8> {
    let last = message.last_mut().unwrap();
    assert_eq!(*last, 0, "padding");
    *last = 1;
    message
}

fn longer(mut message: Vec<u8>, by: usize) -> Vec<u8> {
    message.resize(message.len() + by, 0);
    message
}

async fn behind_a_passphrase() -> Draft {
    let repo = TestRepo::new().await;
    let word = SecretBytes::new(PASSPHRASE.into());
    let key = create_passphrase_key(&repo.repository, word, Argon2Cost::default()).await.unwrap();
    let mut keys = KeySet::new();
    keys.add(Arc::new(key), KeyState::Sealing);
    let id = Draft::backup(&repo, small_database(), Suite::Aes256Gcm, &keys).await;
    Draft { repo, id, passphrase: Some(PASSPHRASE), keyring: None, identity: None }
}

async fn resealed() -> Draft {
    let draft = Draft::new().await;
    let control = Control::default();
    let drop = [key(2).id()];
    let report = reseal(
        &draft.repo.repository,
        &keys(&[1]),
        Scope::Ids(&[draft.id]),
        &drop,
        Accept::Counting,
        &control,
    )
    .await
    .unwrap();
    assert_eq!(report.resealed.len(), 1);
    draft
}

/// A draft whose `part` is another snapshot's.
async fn swapped(part: &str) -> Draft {
    let draft = Draft::new().await;
    let other =
        Draft::backup(&draft.repo, small_database(), Suite::Aes256Gcm, &keys(&[1, 2])).await;
    fs::copy(draft.repo.object(other, part), draft.path(part)).unwrap();
    draft
}

fn set<T>(value: T, change: impl FnOnce(&mut T)) -> T {
    let mut value = value;
    change(&mut value);
    value
}

/// Every vector: its name, its class, how it is made.
#[expect(clippy::too_many_lines, reason = "a table")]
async fn drafts() -> Vec<(&'static str, &'static str, Draft)> {
    let long = async || Draft::long().await;
    let new = async || Draft::new().await;
    let cut = async |at: usize| {
        let draft = Draft::long().await;
        let bytes = draft.read("payload");
        draft.write("payload", &bytes[..at]);
        draft
    };
    let head = ObjectOpener::HEAD_LEN as usize;
    let mut drafts = vec![
        ("full-aes", "ok", new().await),
        ("full-aes-long", "ok", long().await),
        ("full-chacha", "ok", Draft::of(small_database(), Suite::ChaCha20Poly1305).await),
        ("old-etcd", "ok", Draft::of(vector("etcd/etcd-3.4.db"), Suite::Aes256Gcm).await),
        ("passphrase", "ok", behind_a_passphrase().await),
        ("resealed", "ok", resealed().await),
        (
            "unknown-stanza",
            "ok",
            new().await.stanza("-> zz-later 00112233445566778899aabbccddeeff anything goes AAAA"),
        ),
        (
            "manifest-unknown-key",
            "ok",
            new().await.manifest(|text| text.replacen("{\"", "{\"later\":[1],\"", 1)),
        ),
    ];
    let planted = new().await;
    planted.write("seal.7", b"garbage\n");
    drafts.push(("planted-seal", "ok", planted));
    let bad_passphrase = behind_a_passphrase().await;
    drafts.extend([
        ("wrong-keyring", "wrong-key", set(new().await, |d| d.keyring = Some("keyring-other"))),
        ("wrong-passphrase", "wrong-key", set(bad_passphrase, |d| d.passphrase = Some("wrong"))),
        ("no-manifest", "truncated", new().await.remove("manifest")),
        ("no-seal", "truncated", new().await.remove("seal.1")),
        ("no-index", "truncated", new().await.remove("index")),
        ("no-payload", "truncated", new().await.remove("payload")),
        ("payload-cut-before-chunk-0", "truncated", cut(head).await),
        ("payload-cut-before-chunk-1", "truncated", cut(head + SEALED_CHUNK_LEN).await),
        ("payload-cut-before-chunk-2", "truncated", cut(head + 2 * SEALED_CHUNK_LEN).await),
        ("payload-cut-in-header", "truncated", cut(31).await),
        ("payload-chunks-swapped", "tampered", long().await.chunks(&[1, 0, 2])),
        ("payload-chunk-repeated", "tampered", long().await.chunks(&[0, 0, 2])),
        ("payload-chunk-appended", "tampered", long().await.chunks(&[0, 1, 2, 2])),
        ("payload-bit", "tampered", long().await.flip("payload", (head + CHUNK_LEN) * 8)),
        ("header-magic", "tampered", new().await.flip("payload", 3)),
        ("header-version", "unsupported", new().await.flip("payload", 7 * 8 + 4)),
        ("header-suite", "tampered", new().await.flip("payload", 8 * 8).flip("payload", 8 * 8 + 1)),
        ("header-suite-unknown", "unsupported", new().await.flip("payload", 8 * 8 + 6)),
        ("header-role", "tampered", new().await.flip("payload", 9 * 8)),
        ("header-zero", "tampered", new().await.flip("payload", 12 * 8)),
        ("header-snapshot", "tampered", new().await.flip("payload", 20 * 8)),
        ("salt", "tampered", new().await.flip("payload", 40 * 8)),
        ("commitment", "tampered", new().await.flip("payload", 60 * 8)),
        ("index-bit", "tampered", new().await.flip("index", 100 * 8)),
        ("index-swapped", "tampered", swapped("index").await),
        ("payload-padding", "tampered", long().await.message(Role::Payload, last_byte_set)),
        ("payload-padded-more", "tampered", new().await.message(Role::Payload, |m| longer(m, 512))),
        ("index-padding", "tampered", new().await.message(Role::Index, last_byte_set)),
        ("index-padded-more", "tampered", new().await.message(Role::Index, |m| longer(m, 4096))),
        (
            "index-frame-digest",
            "tampered",
            new().await.index(|json| {
                let at = json.find("\"frames\":[[").unwrap();
                let at = at + json[at..].find(",\"").unwrap() + 2;
                let other = if json[at..].starts_with('A') { "B" } else { "A" };
                format!("{}{other}{}", &json[..at], &json[at + 1..])
            }),
        ),
        (
            "index-frame-size",
            "tampered",
            new().await.index(|json| {
                assert!(json.contains("\"frame_size\":1048576"));
                json.replace("\"frame_size\":1048576", "\"frame_size\":1048575")
            }),
        ),
        ("seal-swapped", "tampered", swapped("seal.1").await),
        ("manifest-swapped", "tampered", swapped("manifest").await),
        (
            "manifest-revision",
            "tampered",
            new().await.replace("manifest", "\"revision\":33", "\"revision\":34"),
        ),
        (
            "manifest-duplicate-key",
            "tampered",
            new().await.manifest(|text| text.replacen("{\"", "{\"cluster\":\"x\",\"", 1)),
        ),
        (
            "manifest-requires",
            "unsupported",
            new().await.manifest(|text| text.replacen("{\"", "{\"requires\":[\"later\"],\"", 1)),
        ),
        (
            "manifest-version",
            "unsupported",
            new().await.replace("manifest", "manifest/1", "manifest/2"),
        ),
        ("manifest-no-last-line", "truncated", {
            let draft = new().await;
            let text = String::from_utf8(draft.read("manifest")).unwrap();
            draft.write("manifest", text.split("hmac").next().unwrap().as_bytes());
            draft
        }),
    ]);
    let renamed = new().await;
    fs::rename(renamed.path("seal.1"), renamed.path("seal.2")).unwrap();
    drafts.push(("seal-renamed", "tampered", renamed));
    let moved = new().await;
    let other = Draft::backup(&moved.repo, small_database(), Suite::Aes256Gcm, &keys(&[1])).await;
    let text = String::from_utf8(fs::read(moved.repo.object(other, "seal.1")).unwrap()).unwrap();
    let theirs = text.lines().find(|line| line.starts_with("->")).unwrap().to_owned();
    let text = String::from_utf8(moved.read("seal.1")).unwrap();
    let id = key(1).id().to_string();
    let mine = text.lines().find(|line| line.contains(&id)).unwrap().to_owned();
    drafts.push(("stanza-moved", "tampered", moved.replace("seal.1", &mine, &theirs)));
    drafts.extend(sealed_otherwise().await);
    drafts.extend(sealed_to_recipients().await);
    drafts
}

/// Seals of the rules [S5.9], [S5.10] and [S5.17].
async fn sealed_otherwise() -> Vec<(&'static str, &'static str, Draft)> {
    let signature = format!("ed25519 {} {}", "0".repeat(32), "A".repeat(86));
    let other = format!("mldsa65-ed25519 {} AAAA", "0".repeat(32));
    let object = |draft: Draft| {
        let key = draft.data_key();
        let text = String::from_utf8(draft.read("seal.1")).unwrap();
        let line = text.lines().find(|line| line.starts_with("object")).unwrap();
        let text = text.replace(line, &format!("object {}", "0".repeat(64)));
        let signed = text.split_inclusive("---").next().unwrap();
        let mac = data_encoding::BASE64_NOPAD.encode(&key.seal_mac(signed.as_bytes()));
        draft.write("seal.1", format!("{signed} {mac}\n").as_bytes());
        draft
    };
    let keys = "\"previous\":{\"snapshot\":\"01ARZ3NDEKTSV4RRFFQ69G5FAV\",\"sha256\":\"@\"},\
                \"tags\":[\"a b\",\"weekly\"],\"included\":[\"/etc/kubernetes/pki\"],";
    let keys = keys.replace('@', &"0".repeat(64));
    let with = |keys: &str| {
        let keys = format!("{keys}\"commitment\"");
        move |text: &str| text.replacen("\"commitment\"", &keys, 1)
    };
    let signed = "\"requires\":[\"signed\"],";
    let new = async || Draft::new().await;
    vec![
        ("seal-signature", "ok", new().await.stanza(&signature)),
        ("seal-signature-unknown", "unsupported", new().await.stanza(&other)),
        ("seal-object", "tampered", object(new().await)),
        ("manifest-keys", "ok", new().await.manifest(with(&keys))),
        ("manifest-signed", "ok", new().await.manifest(with(signed)).stanza(&signature)),
        ("manifest-unsigned", "tampered", new().await.manifest(with(signed))),
    ]
}

const XWING: &str = "identity";
const X25519: &str = "identity-x25519";

/// Sealed to the recipients of these identities and signed; opened with the first of them.
async fn to_recipients(names: &[&'static str]) -> Draft {
    let mut keys = KeySet::new();
    keys.mix_quantum_weak();
    let read = |name| fs::read_to_string(keyring(name)).unwrap();
    for name in names {
        let identities = IdentityFile::parse(&read(name)).unwrap().identities;
        identities.iter().for_each(|key| {
            keys.add_recipient(Arc::new(key.recipient().clone()), KeyState::Sealing)
        });
    }
    keys.sign_with(SigningKey::parse(&read("signing-key")).unwrap());
    let repo = TestRepo::new().await;
    let id = Draft::backup(&repo, small_database(), Suite::Aes256Gcm, &keys).await;
    Draft { repo, id, passphrase: None, keyring: None, identity: names.first().copied() }
}

/// [S5.9], [S5.11], [S5.19]
async fn sealed_to_recipients() -> Vec<(&'static str, &'static str, Draft)> {
    let changed = |draft: Draft, change: &dyn Fn(Vec<u8>) -> Vec<u8>| {
        let text = String::from_utf8(draft.read("seal.1")).unwrap();
        let body = Seal::parse(text.as_bytes()).unwrap().body().stanzas()[0].body().to_vec();
        let print = |body: &[u8]| data_encoding::BASE64_NOPAD.encode(body);
        draft.replace("seal.1", &print(&body), &print(&change(body.clone())))
    };
    let low = |body: Vec<u8>| {
        set(body, |body| {
            let end = body.len() - 48;
            body[end - 32..end].fill(0);
        })
    };
    let short = |body: Vec<u8>| set(body, |body| body.truncate(body.len() - 1));
    let triple = |body: Vec<u8>| set(body, |body| body[5] = 3);
    let bit = |body: Vec<u8>| set(body, |body| body[700] ^= 1);
    let to = async |names: &[&'static str]| to_recipients(names).await;
    let moved = async || {
        let (draft, other) = (to_recipients(&[XWING]).await, to_recipients(&[XWING]).await);
        let text = String::from_utf8(other.read("seal.1")).unwrap();
        let line =
            |text: &str| text.lines().find(|line| line.starts_with("->")).unwrap().to_owned();
        let mine = line(&String::from_utf8(draft.read("seal.1")).unwrap());
        draft.replace("seal.1", &mine, &line(&text))
    };
    let signature = async || {
        let draft = to_recipients(&[XWING]).await;
        let text = String::from_utf8(draft.read("seal.1")).unwrap();
        let line = text.lines().find(|line| line.starts_with("ed25519")).unwrap().to_owned();
        let (head, body) = line.rsplit_once(' ').unwrap();
        let other = if body.starts_with('A') { "B" } else { "A" };
        draft.replace("seal.1", &line, &format!("{head} {other}{}", &body[1..]))
    };
    let mut wrong = to(&[XWING]).await;
    wrong.identity = Some(X25519);
    vec![
        ("recipient-xwing", "ok", to(&[XWING]).await),
        ("recipient-x25519", "ok", to(&[X25519]).await),
        ("recipient-both", "ok", to(&[X25519, XWING]).await),
        ("recipient-wrong", "wrong-key", wrong),
        ("recipient-low-order", "tampered", changed(to(&[XWING]).await, &low)),
        ("recipient-low-order-x25519", "tampered", changed(to(&[X25519]).await, &low)),
        ("recipient-length", "tampered", changed(to(&[XWING]).await, &short)),
        ("recipient-algorithms", "unsupported", changed(to(&[XWING]).await, &triple)),
        ("recipient-bit", "tampered", changed(to(&[XWING]).await, &bit)),
        ("recipient-moved", "tampered", moved().await),
        ("recipient-signature", "tampered", signature().await),
    ]
}

fn write_keyring(name: &str, fill: u8) {
    let path = keyring(name);
    if path.exists() {
        return;
    }
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let entry = KeyringEntry {
        id: key(fill).id(),
        state: KeyState::Primary,
        since: "2026-01-01T00:00:00Z".parse().unwrap(),
        master: Some(SecretKey::new(|bytes| bytes.fill(fill))),
    };
    let text = format::Keyring::new(vec![entry]).unwrap().print();
    keyfile::create(&path, &strongroom::keys::Keyring::parse(text.expose()).unwrap()).unwrap();
}

/// Copies a directory, with the times of its files.
pub fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_tree(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), &to).unwrap();
            let modified = entry.metadata().unwrap().modified().unwrap();
            fs::File::options().write(true).open(to).unwrap().set_modified(modified).unwrap();
        }
    }
}

#[test]
#[ignore = "writes new golden vectors"]
fn write_missing_vectors() {
    // The table of all drafts is one large future.
    let write = || tokio::runtime::Runtime::new().unwrap().block_on(write_vectors());
    std::thread::Builder::new().stack_size(64 << 20).spawn(write).unwrap().join().unwrap();
}

async fn write_vectors() {
    write_keyring("keyring", 1);
    write_keyring("keyring-other", 3);
    fs::create_dir_all(repositories()).unwrap();
    for (name, class, draft) in drafts().await {
        let dir = repositories().join(name);
        if dir.exists() {
            continue;
        }
        let mut spec = json!({"class": class, "snapshot": draft.id.to_string()});
        if let Some(name) = draft.keyring {
            spec["keyring"] = json!(format!("../../../keys/test-only/{name}"));
        }
        if let Some(name) = draft.identity {
            spec["identity"] = json!(format!("../../../keys/test-only/{name}"));
            spec["signers"] = json!("../../../keys/test-only/signers");
        }
        if let Some(word) = draft.passphrase {
            spec["passphrase"] = json!(word);
        }
        let outcome = open(&spec, draft.repo.dir.path()).await;
        match &outcome {
            Ok((_, sha256)) => spec["sha256"] = json!(sha256),
            Err(error) => assert_eq!(class, self::class(error), "{name}: {error}"),
        }
        assert_eq!(outcome.is_ok(), class == "ok", "{name}");
        copy_tree(draft.repo.dir.path(), &dir);
        fs::write(dir.with_extension("json"), format!("{spec:#}\n")).unwrap();
    }
}
