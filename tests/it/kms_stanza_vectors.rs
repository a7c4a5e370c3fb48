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
