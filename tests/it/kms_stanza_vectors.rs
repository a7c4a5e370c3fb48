//! Golden vectors of stanzas that a service opens: `kms` in a vector's JSON says what the service answers.

use std::fs;

use serde_json::{Value, json};
use strongroom::format::Seal;

use crate::kms_fault::Plugin;
use crate::support::TestRepo;
use crate::vectors::{class, copy_tree, open, repositories};

#[tokio::test]
#[ignore = "writes new golden vectors"]
async fn write_missing_vectors_of_services() {
    type Change = fn(&mut Vec<u8>);
    let none: Change = |_| {};
    let cases: [(&str, &str, Change, bool); 5] = [
        ("kms-plugin", "ok", none, true),
        // The last byte of C(W, A, data key).
        ("kms-bit", "tampered", |body| *body.last_mut().unwrap() ^= 1, true),
        ("kms-provider", "tampered", |body| body[0] = 9, true),
        ("kms-length", "tampered", |body| body[2] += 1, true),
        // The service answers with another plaintext.
        ("kms-answer", "tampered", none, false),
    ];
    for (name, class, change, answers) in cases {
        let dir = repositories().join(name);
        if dir.exists() {
            continue;
        }
        let plugin = Plugin::named("vectors".into());
        let uri = plugin.uri().parse().unwrap();
        let keys = strongroom::custody::open(&[uri], None).await.unwrap();
        let repo = TestRepo::new().await;
        let id = repo.backup(&keys).await.id;
        let path = repo.object(id, "seal.1");
        let text = fs::read_to_string(&path).unwrap();
        let mut body = Seal::parse(text.as_bytes()).unwrap().body().stanzas()[0].body().to_vec();
        let print = |body: &[u8]| data_encoding::BASE64_NOPAD.encode(body);
        let before = print(&body);
        change(&mut body);
        fs::write(&path, text.replace(&before, &print(&body))).unwrap();
        let mut kms = plugin.answers();
        if !answers {
            kms["answers"][0]["plaintext"] = json!("00".repeat(32));
        }
        let mut spec = json!({"class": class, "snapshot": id.to_string(), "kms": kms});
        let outcome: Result<_, _> = open(&spec, repo.dir.path()).await;
        match &outcome {
            Ok((_, sha256)) => spec["sha256"] = Value::String(sha256.clone()),
            Err(error) => assert_eq!(class, self::class(error), "{name}: {error}"),
        }
        assert_eq!(outcome.is_ok(), class == "ok", "{name}");
        copy_tree(repo.dir.path(), &dir);
        fs::write(dir.with_extension("json"), format!("{spec:#}\n")).unwrap();
    }
}

/// Golden vectors of the other services: each opens with a service that answers as the vector says, run as for the other tests.
#[cfg(all(feature = "age-plugins", feature = "aws-kms", feature = "pkcs11", feature = "vault"))]
mod others {
    use std::path::Path;

    use data_encoding::{BASE64, HEXLOWER};
    use strongroom::format::KmsBody;

    use super::*;
    use crate::age_plugins::{Plugged, RECIPIENT, recipient};
    use crate::aws_kms::Kms;
    use crate::blind::exits_with;
    use crate::pkcs11::Token;
    use crate::place::{Place, exits};
    use crate::support::small_database;
    use crate::transit_double::{TOKEN, Transit};

    const TRANSIT: &str = "vectors";

    fn spec(name: &str) -> Value {
        let path = repositories().join(name).with_extension("json");
        serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
    }

    fn text<'a>(value: &'a Value, name: &str) -> &'a str {
        value[name].as_str().unwrap()
    }

    fn to_base64(hex: &str) -> String {
        BASE64.encode(&HEXLOWER.decode(hex.as_bytes()).unwrap())
    }

    fn copied(name: &str, to: &Path) -> String {
        let to = to.join("golden");
        copy_tree(&repositories().join(name), &to);
        to.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_golden_vector_of_a_token_opens() {
        let (token, spec) = (Token::with_key(7), spec("kms-pkcs11"));
        let repository = copied("kms-pkcs11", token.path("").as_ref());
        let (code, said) =
            token.on(&repository, &token.uri("backups"), &["verify", text(&spec, "snapshot")]);
        assert_eq!(code, 0, "{said}");
        let (other, id) = (Token::with_key(8), text(&spec, "snapshot"));
        assert_eq!(other.on(&repository, &other.uri("backups"), &["verify", id]).0, 13);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_golden_vector_of_transit_opens() {
        let (transit, place, spec) = (Transit::start().await, Place::new(), spec("kms-transit"));
        let repository = copied("kms-transit", place.dir.path());
        let verify = || {
            let mut command = place.bare(&["-r", &repository, "-k", &transit.uri(TRANSIT)]);
            command.env("VAULT_TOKEN", TOKEN).args(["verify", text(&spec, "snapshot")]);
            command
        };
        exits(13, &mut verify());
        let answer = &spec["kms"]["answers"][0];
        transit.knows(text(answer, "ciphertext"), &to_base64(text(answer, "plaintext")));
        exits(0, &mut verify());
    }

    #[test]
    fn a_golden_vector_of_aws_opens() {
        let (kms, spec) = (Kms::new(), spec("kms-aws"));
        let repository = copied("kms-aws", kms.path("").as_ref());
        let verify = |key: &str| {
            let arn = text(&spec["kms"], "name");
            kms.answering(&repository, arn, key, &["verify", text(&spec, "snapshot")])
        };
        let (code, said) = verify(&to_base64(text(&spec["kms"]["answers"][0], "plaintext")));
        assert_eq!(code, 0, "{said}");
        assert_eq!(verify(&BASE64.encode(&[1; 32])).0, 13);
    }

    #[test]
    fn a_golden_vector_of_a_plugin_of_age_opens() {
        let (plugged, spec) = (Plugged::new(), spec("age-plugin"));
        let repository = copied("age-plugin", plugged.0.place.dir.path());
        let id = text(&spec, "snapshot");
        let restore = |identity| {
            let to = ["restore", id, "--accept-untrusted", "--force", "--output", "restored"];
            plugged.command(identity, "", &[&["-r", &repository][..], &to].concat())
        };
        exits(12, &mut restore("identity:identity"));
        exits(0, &mut restore("identity:plugged"));
        plugged.is_restored();
    }

    /// Stores the repository at `from`, whose only snapshot is opened as `kms` says.
    fn store(name: &str, from: &Path, kms: Value) {
        let dir = repositories().join(name);
        let folders = fs::read_dir(from.join("snapshots")).unwrap();
        let [id] = &folders.map(|one| one.unwrap().file_name()).collect::<Vec<_>>()[..] else {
            panic!("one snapshot")
        };
        let database = fs::read(small_database()).unwrap();
        // Without etcd's trailer.
        let sha256 = strongroom::crypto::sha256(&[&database[..database.len() - 32]]);
        let sha256 = HEXLOWER.encode(&sha256);
        let spec = json!({"class": "ok", "snapshot": id.to_str(), "sha256": sha256, "kms": kms});
        copy_tree(from, &dir);
        fs::write(dir.with_extension("json"), format!("{spec:#}\n")).unwrap();
    }

    fn body(repository: &Path) -> Vec<u8> {
        let folder = fs::read_dir(repository.join("snapshots")).unwrap().next().unwrap();
        let seal = fs::read(folder.unwrap().path().join("seal.1")).unwrap();
        Seal::parse(&seal).unwrap().body().stanzas()[0].body().to_vec()
    }

    #[tokio::test(flavor = "multi_thread")]
    #[ignore = "writes new golden vectors"]
    async fn write_missing_vectors_of_other_services() {
        for name in ["kms-pkcs11", "kms-transit", "kms-aws", "age-plugin"] {
            if repositories().join(name).exists() {
                continue;
            }
            match name {
                "kms-pkcs11" => {
                    let token = Token::with_key(7);
                    let kms = json!({"provider": "pkcs11", "name": "object=backups;token=vault",
                                     "key": "07".repeat(32)});
                    store(name, token.repository().as_ref(), kms);
                }
                "kms-transit" => {
                    let (transit, place) = (Transit::start().await, Place::new());
                    let file = small_database();
                    let args = ["backup", "--file", file.to_str().unwrap()];
                    let mut command = place.command_with(&transit.uri(TRANSIT), &args);
                    exits(0, command.env("VAULT_TOKEN", TOKEN));
                    let stanza = body(&place.path("repo"));
                    let ciphertext = KmsBody::parse(&stanza).unwrap().blob;
                    let ciphertext = std::str::from_utf8(ciphertext).unwrap();
                    let plaintext = BASE64.decode(transit.sealed()[ciphertext].as_bytes()).unwrap();
                    let answer =
                        json!({"ciphertext": ciphertext, "plaintext": HEXLOWER.encode(&plaintext)});
                    let kms = json!({"provider": "transit", "name": TRANSIT, "answers": [answer]});
                    store(name, &place.path("repo"), kms);
                }
                "kms-aws" => {
                    let kms = Kms::new();
                    let (repository, key) = kms.repository();
                    let stanza = body(repository.as_ref());
                    let blob = KmsBody::parse(&stanza).unwrap().blob;
                    // A number of pairs, 1, and the pair team = etcd.
                    let ciphertext = &blob[2 + 2 + 4 + 2 + 4..];
                    let plaintext = BASE64.decode(key.as_bytes()).unwrap();
                    let answer = json!({"context": {"team": "etcd"}, "ciphertext": HEXLOWER.encode(ciphertext),
                                        "plaintext": HEXLOWER.encode(&plaintext)});
                    let uri = kms.uri();
                    let arn = uri.trim_start_matches("aws-kms:").split('?').next().unwrap();
                    let kms = json!({"provider": "aws-kms", "name": arn, "answers": [answer]});
                    store(name, repository.as_ref(), kms);
                }
                _ => {
                    let plugged = Plugged::new();
                    exits_with(&mut plugged.backup(&recipient(), ""));
                    let repository = plugged.0.place.path("repo");
                    let stanza = body(&repository);
                    let length = usize::from(stanza[0]) << 8 | usize::from(stanza[1]);
                    let inner = std::str::from_utf8(&stanza[2..][..length]).unwrap();
                    let hidden = inner.split('\n').nth(1).unwrap();
                    let hidden = data_encoding::BASE64_NOPAD.decode(hidden.as_bytes()).unwrap();
                    let key: Vec<_> = hidden.iter().map(|byte| byte ^ 0x55).collect();
                    let answer = json!({"ciphertext": inner, "plaintext": HEXLOWER.encode(&key)});
                    let kms = json!({"provider": "age", "name": RECIPIENT, "answers": [answer]});
                    store(name, &repository, kms);
                }
            }
        }
    }
}
