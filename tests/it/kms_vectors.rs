//! Golden ciphertexts of the KMS plugin: what a released version encrypted must decrypt permanently, here and by a reader
//! written from SPEC.md alone.
//!
//! `cargo test --test it -- --ignored write_missing_kms_vectors` writes `tests/vectors/kms.json` if there is none.

use std::fs;

use data_encoding::BASE64_NOPAD as BASE64;
use serde_json::{Value, json};
use strongroom::crypto::system_rng;
use strongroom::format::{KeyId, Time};
use strongroom::keys::{Keyring, MAX_KUBERNETES_TEXT};

use crate::support::vector;

fn vectors() -> Value {
    serde_json::from_slice(&fs::read(vector("kms.json")).unwrap()).unwrap()
}

fn bytes(value: &Value) -> Vec<u8> {
    BASE64.decode(value.as_str().unwrap().as_bytes()).unwrap()
}

/// [S12.4]
#[test]
fn golden_ciphertexts_decrypt() {
    let vectors = vectors();
    let keyring = Keyring::parse(vectors["keyring"].as_str().unwrap().as_bytes()).unwrap();
    let cases = vectors["cases"].as_array().unwrap();
    assert!(cases.len() >= 12);
    for case in cases {
        let id: KeyId = case["key_id"].as_str().unwrap().parse().unwrap();
        let got = keyring.decrypt(id, &bytes(&case["ciphertext"]));
        let class = got.as_ref().map_or_else(|error| error.kind().name(), |_| "ok");
        assert_eq!(class, case["class"], "{}", case["name"]);
        if let Ok(text) = got {
            assert_eq!(text[..], bytes(&case["text"]), "{}", case["name"]);
        }
    }
}

#[test]
fn golden_ciphertexts_decrypt_by_the_independent_reader() {
    let mut reader = crate::support::python();
    let out = reader.arg(vector("open_kms.py")).arg("--vectors").arg(vector("kms.json"));
    let out = crate::end_to_end::run(out);
    assert!(out.contains(" 0 failed"), "{out}");
}

#[test]
#[ignore = "writes vectors"]
fn write_missing_kms_vectors() {
    if vector("kms.json").exists() {
        return;
    }
    let (rng, at) = (&mut system_rng(), Time::from_unix);
    let ring = Keyring::generate(at(1_800_000_000), rng).unwrap();
    let (gone, by_gone) = ring.encrypt(&[1; 32], at(1_800_000_000), rng).unwrap();
    let (ring, old) = ring.rotate(at(1_800_000_100), rng).unwrap();
    let (_, by_old) = ring.encrypt(&[2; 32], at(1_800_000_100), rng).unwrap();
    let (ring, new) = ring.rotate(at(1_800_000_200), rng).unwrap();
    let (ring, staged) = ring.stage(at(1_800_000_200), rng).unwrap();
    let (ring, now) = (ring.destroy(gone, at(1_800_000_200)).unwrap(), at(1_800_000_200));
    // As another node that has promoted it already.
    let ahead = Keyring::parse(ring.print().expose()).unwrap().promote(staged, now, now).unwrap();
    let (_, by_staged) = ahead.encrypt(&[3; 32], now, rng).unwrap();
    let mut sealed = |text: &[u8]| ring.encrypt(text, now, rng).unwrap().1;
    let good = sealed(b"a seed of thirty-two bytes, here");
    let changed = |at: usize| {
        let mut changed = good.clone();
        changed[at] ^= 1;
        changed
    };
    let longest = [9; MAX_KUBERNETES_TEXT];
    let cases = [
        ("a seed", new, good.clone(), "ok", Some(&b"a seed of thirty-two bytes, here"[..])),
        ("one byte", new, sealed(b"x"), "ok", Some(b"x")),
        ("the longest", new, sealed(&longest), "ok", Some(&longest)),
        ("a retiring key", old, by_old, "ok", Some(&[2; 32])),
        ("a staged key", staged, by_staged, "ok", Some(&[3; 32])),
        ("a destroyed key", gone, by_gone, "wrong-key", None),
        ("an unknown key", KeyId([7; 16]), good.clone(), "not-found", None),
        ("another key's", old, good.clone(), "tampered", None),
        ("salt changed", new, changed(0), "tampered", None),
        ("commitment changed", new, changed(30), "tampered", None),
        ("text changed", new, changed(60), "tampered", None),
        ("tag changed", new, changed(103), "tampered", None),
        ("cut by one", new, good[..103].to_vec(), "tampered", None),
        ("cut to its prefix", new, good[..56].to_vec(), "truncated", None),
        ("extended", new, [&good[..], b"x"].concat(), "tampered", None),
        ("nothing", new, Vec::new(), "truncated", None),
    ];
    let cases = cases.map(|(name, id, ciphertext, class, text)| {
        let ciphertext = BASE64.encode(&ciphertext);
        let mut case = json!({
            "name": name, "key_id": id.to_string(), "ciphertext": ciphertext, "class": class,
        });
        if let Some(text) = text {
            case["text"] = BASE64.encode(text).into();
        }
        case
    });
    let keyring = String::from_utf8(ring.print().expose().to_vec()).unwrap();
    let vectors = json!({"keyring": keyring, "cases": cases});
    fs::write(vector("kms.json"), serde_json::to_string_pretty(&vectors).unwrap() + "\n").unwrap();
}
