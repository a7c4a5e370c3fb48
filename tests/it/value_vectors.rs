//! Golden values: what a released version sealed must open for ever, here and by a reader written from SPEC.md alone.
//!
//! `cargo test --test it -- --ignored write_missing_value_vectors` writes `tests/vectors/values.json` if there is none.

use std::fs;
use std::path::{Path, PathBuf};

use data_encoding::BASE64_NOPAD as BASE64;
use serde_json::{Value, json};
use strongroom::crypto::{Extended, system_rng};
use strongroom::format::{Migration, MigrationPhase};
use strongroom::keys::{KeySet, Keyring};
use strongroom::values::{ValueCipher, keyring};

use crate::proxied::NOW;
use crate::support::vector;

const MASTER: &str = "../../keys/test-only/keyring";

fn path() -> PathBuf {
    vector("values.json")
}

fn masters() -> KeySet {
    let text =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("keys/test-only/keyring")).unwrap();
    let mut keys = KeySet::new();
    keys.add_keyring(&Keyring::parse(&text).unwrap(), NOW);
    keys
}

fn bytes(value: &Value) -> Vec<u8> {
    BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

fn cases() -> Vec<Value> {
    let vectors: Value = serde_json::from_slice(&fs::read(path()).unwrap()).unwrap();
    let opened = keyring::open_at_once(&bytes(&vectors["record"]), &masters()).unwrap();
    let cipher = ValueCipher::new(&opened).unwrap();
    let cases = vectors["cases"].as_array().unwrap().clone();
    for case in &cases {
        let got = cipher.open(&bytes(&case["key"]), &bytes(&case["sealed"]));
        let class = got.as_ref().map_or_else(|error| error.kind().name(), |_| "ok");
        assert_eq!(class, case["class"], "{}", case["name"]);
        if let Ok(value) = got {
            assert_eq!(value, bytes(&case["value"]), "{}", case["name"]);
        }
    }
    cases
}

#[test]
fn golden_values_open() {
    assert!(cases().len() >= 30);
}

#[test]
fn golden_values_open_by_the_independent_reader() {
    let output = crate::support::python()
        .arg(vector("open_value.py"))
        .arg("--vectors")
        .arg(path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{error}");
    assert!(text.contains(" 0 failed"), "{text}");
}

#[test]
#[ignore = "writes vectors"]
fn write_missing_value_vectors() {
    if path().exists() {
        return;
    }
    let mut rng = system_rng();
    let mut ring = keyring::generate(NOW, &mut rng);
    let mut sealed_by = Vec::new();
    for _ in 0..3 {
        sealed_by.push(ValueCipher::new(&ring).unwrap());
        let staged = keyring::stage(&mut ring, NOW, &mut rng);
        keyring::promote(&mut ring, staged).unwrap();
    }
    keyring::disable(&mut ring, sealed_by[0].primary()).unwrap();
    keyring::disable(&mut ring, sealed_by[1].primary()).unwrap();
    keyring::destroy(&mut ring, sealed_by[1].primary()).unwrap();
    let old = sealed_by[2].seal(b"/a", b"by an enabled key").unwrap();
    keyring::stage(&mut ring, NOW, &mut rng);
    for phase in MigrationPhase::ALL.into_iter().filter(|phase| *phase != MigrationPhase::Done) {
        ring.migrate.push(Migration { prefix: format!("/{}/", phase.name()).into(), phase });
    }
    ring.serial = 7;
    let cipher = ValueCipher::with_algorithm(&ring, Extended::Xaes256Gcm).unwrap();
    let xchacha = ValueCipher::with_algorithm(&ring, Extended::XChaCha20Poly1305).unwrap();
    let good = cipher.seal(b"/app/password", b"hunter2").unwrap();
    let changed = |at: usize| {
        let mut changed = good.clone();
        changed[at] ^= 1;
        changed
    };
    let seal = |key: &[u8]| cipher.seal(key, b"v").unwrap();
    let key = b"/app/password";
    let cases = [
        ("a value", &key[..], good.clone(), "ok", Some(&b"hunter2"[..])),
        ("an empty value", b"/e", cipher.seal(b"/e", b"").unwrap(), "ok", Some(b"")),
        ("the empty key", b"", cipher.seal(b"", b"v").unwrap(), "ok", Some(b"v")),
        ("bytes", b"\0\xff", cipher.seal(b"\0\xff", b"\xff\0SR").unwrap(), "ok", Some(b"\xff\0SR")),
        ("an enabled key", b"/a", old, "ok", Some(b"by an enabled key")),
        ("unencrypted in admit", b"/admit/x", b"text".to_vec(), "ok", Some(b"text")),
        ("unencrypted in encrypt", b"/encrypt/x", b"text".to_vec(), "ok", Some(b"text")),
        ("unencrypted in admit-back", b"/admit-back/x", b"text".to_vec(), "ok", Some(b"text")),
        ("unencrypted in decrypt", b"/decrypt/x", b"text".to_vec(), "ok", Some(b"text")),
        ("unencrypted in off", b"/off/x", b"text".to_vec(), "ok", Some(b"text")),
        ("encrypted in admit", b"/admit/x", seal(b"/admit/x"), "ok", Some(b"v")),
        ("encrypted in encrypt", b"/encrypt/x", seal(b"/encrypt/x"), "ok", Some(b"v")),
        ("encrypted in admit-back", b"/admit-back/x", seal(b"/admit-back/x"), "ok", Some(b"v")),
        ("encrypted in decrypt", b"/decrypt/x", seal(b"/decrypt/x"), "ok", Some(b"v")),
        ("encrypted in off", b"/off/x", seal(b"/off/x"), "tampered", None),
        ("xchacha", b"/x", xchacha.seal(b"/x", b"xchacha").unwrap(), "ok", Some(b"xchacha")),
        ("unencrypted", b"/app/x", b"text".to_vec(), "tampered", None),
        ("nothing", b"/app/x", Vec::new(), "tampered", None),
        ("moved to another key", b"/app/passwore", good.clone(), "tampered", None),
        ("magic changed", key, changed(1), "tampered", None),
        ("algorithm changed", key, changed(3), "unsupported", None),
        ("key id changed", key, changed(4), "wrong-key", None),
        ("nonce changed", key, changed(8), "tampered", None),
        ("ciphertext changed", key, changed(33), "tampered", None),
        ("tag changed", key, changed(good.len() - 1), "tampered", None),
        ("cut by one", key, good[..good.len() - 1].to_vec(), "tampered", None),
        ("cut to its header", key, good[..47].to_vec(), "truncated", None),
        ("magic alone", key, good[..3].to_vec(), "truncated", None),
        ("extended", key, [&good[..], b"x"].concat(), "tampered", None),
        ("a disabled key", b"/a", sealed_by[0].seal(b"/a", b"").unwrap(), "wrong-key", None),
        ("a destroyed key", b"/a", sealed_by[1].seal(b"/a", b"").unwrap(), "wrong-key", None),
    ];
    let cases: Vec<_> = cases
        .iter()
        .map(|(name, key, sealed, class, value)| {
            let mut case = json!({
                "name": name, "key": BASE64.encode(key), "sealed": BASE64.encode(sealed), "class": class,
            });
            if let Some(value) = value {
                case["value"] = BASE64.encode(value).into();
            }
            case
        })
        .collect();
    let record = keyring::seal_at_once(&ring, &masters(), &mut rng).unwrap();
    let vectors = json!({"keyring": MASTER, "record": BASE64.encode(&record), "cases": cases});
    let text = serde_json::to_string_pretty(&vectors).unwrap();
    fs::write(path(), format!("{text}\n")).unwrap();
}
