//! Golden vectors only become more. `tests/vectors/frozen` has a digest of each, and lines are only added to it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;
use strongroom::crypto::sha256;

use crate::support::vector;

/// Files with lists of vectors.
const LISTS: [&str; 3] = ["kms.json", "slip39.json", "values.json"];

fn hex(bytes: &[u8]) -> String {
    data_encoding::HEXLOWER.encode(&sha256(&[bytes]))
}

/// Adds the files below `path`, each with its digest.
fn files(path: &Path, name: &str, lines: &mut String) {
    if path.is_file() {
        writeln!(lines, "{} {name}", hex(&fs::read(path).unwrap())).unwrap();
        return;
    }
    let mut names: Vec<_> = fs::read_dir(path)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    for below in names {
        files(&path.join(&below), &format!("{name}/{below}"), lines);
    }
}

/// JSON with its keys in one order.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let map: BTreeMap<_, _> = map.iter().collect();
            let pairs = map.iter().map(|(key, value)| format!("{key:?}:{}", canonical(value)));
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        }
        Value::Array(all) => {
            format!("[{}]", all.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// Every vector that is there, and its digest.
fn vectors() -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    for entry in fs::read_dir(vector("repositories")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let mut lines = String::new();
            files(&path, &format!("{name}.json"), &mut lines);
            files(&path.with_extension(""), &name, &mut lines);
            all.insert(format!("repositories/{name}"), hex(lines.as_bytes()));
        }
    }
    for list in LISTS {
        let text = fs::read(vector(list)).unwrap();
        let Value::Object(map) = serde_json::from_slice(&text).unwrap() else { panic!("{list}") };
        for (key, value) in map {
            match value {
                Value::Array(cases) => all.extend(cases.iter().enumerate().map(|(at, case)| {
                    (format!("{list} {key} {at}"), hex(canonical(case).as_bytes()))
                })),
                value => {
                    drop(all.insert(format!("{list} {key}"), hex(canonical(&value).as_bytes())))
                }
            }
        }
    }
    all
}

/// What `tests/vectors/frozen` says.
fn frozen() -> BTreeMap<String, String> {
    let text = fs::read_to_string(vector("frozen")).unwrap_or_default();
    let lines = text.lines().map(|line| line.split_once(' ').unwrap());
    lines.map(|(digest, name)| (name.to_owned(), digest.to_owned())).collect()
}

#[test]
fn golden_vectors_are_what_they_were() {
    let (frozen, there) = (frozen(), vectors());
    assert!(frozen.len() > 150, "{}", frozen.len());
    for (name, digest) in &frozen {
        assert_eq!(there.get(name), Some(digest), "{name}: vectors are never changed or removed");
    }
    let new: Vec<_> = there.keys().filter(|name| !frozen.contains_key(*name)).collect();
    assert!(new.is_empty(), "run `cargo test --test it -- --ignored freeze_new_vectors`: {new:?}");
}

#[test]
#[ignore = "adds the digests of new golden vectors to tests/vectors/frozen"]
fn freeze_new_vectors() {
    let (frozen, mut text) = (frozen(), fs::read_to_string(vector("frozen")).unwrap_or_default());
    for (name, digest) in vectors().into_iter().filter(|(name, _)| !frozen.contains_key(name)) {
        writeln!(text, "{digest} {name}").unwrap();
    }
    fs::write(vector("frozen"), text).unwrap();
}
