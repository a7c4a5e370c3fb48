//! What is stored beside a snapshot comes back as it was, and is checked like everything else.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};

use crate::place::Place;
use crate::support::small_database;

fn with_pki() -> (Place, Vec<String>) {
    let place = Place::new();
    let pki = place.path("kubernetes/pki");
    fs::create_dir_all(pki.join("etcd")).unwrap();
    fs::write(pki.join("ca.key"), "the cluster's CA").unwrap();
    fs::set_permissions(pki.join("ca.key"), Permissions::from_mode(0o600)).unwrap();
    fs::write(pki.join(format!("etcd/{}.crt", "long".repeat(50))), vec![7; 100_000]).unwrap();
    symlink("ca.key", pki.join("current.key")).unwrap();
    symlink("/nowhere", pki.join("dangling")).unwrap();
    fs::write(place.path("token"), "").unwrap();
    fs::copy(small_database(), place.path("etcd.db")).unwrap();
    let args = ["backup", "--file", "etcd.db", "--include", "kubernetes", "--include", "token"];
    (place, args.map(Into::into).into())
}

fn refs(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

#[test]
fn they_come_back_as_they_were() {
    let (place, backup) = with_pki();
    place.succeed(&refs(&backup));
    place.succeed(&["verify", "latest"]);
    let report = place.json(&["restore", "latest", "--companions-to", "back", "-o", "out.db"]);
    assert_eq!(report["companions"].as_array().unwrap().len(), 8, "{report}");
    let root = place.dir.path().canonicalize().unwrap();
    let back = place.path("back").join(root.strip_prefix("/").unwrap());
    let pki = back.join("kubernetes/pki");
    assert_eq!(fs::read(pki.join("ca.key")).unwrap(), b"the cluster's CA");
    assert_eq!(fs::metadata(pki.join("ca.key")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_link(pki.join("current.key")).unwrap().to_str(), Some("ca.key"));
    assert_eq!(fs::read_link(pki.join("dangling")).unwrap().to_str(), Some("/nowhere"));
    let long = pki.join(format!("etcd/{}.crt", "long".repeat(50)));
    assert_eq!(fs::read(long).unwrap(), vec![7; 100_000]);
    assert_eq!(fs::read(back.join("token")).unwrap(), b"");
    let shut = fs::metadata(place.path("back")).unwrap().permissions().mode() & 0o777;
    assert_eq!(shut, 0o700);
    // Alone, and never over what is there.
    place.succeed(&["restore", "latest", "--companions-to", "alone"]);
    let error = place.fail(1, &["restore", "latest", "--companions-to", "alone"]);
    assert!(error.contains("not empty"), "{error}");
}

#[test]
fn what_is_missing_or_too_much_stops_the_backup() {
    let (place, backup) = with_pki();
    let with = |path: &str| -> Vec<String> {
        backup.iter().cloned().chain(["--include".into(), path.into()]).collect()
    };
    let error = place.fail(1, &refs(&with("not/there")));
    assert!(error.contains("not/there"), "{error}");
    fs::write(place.path("big"), vec![0; 65 << 20]).unwrap();
    let error = place.fail(2, &refs(&with("big")));
    assert!(error.contains("more than 64 MiB"), "{error}");
    let error = place.fail(2, &refs(&with("/dev/null")));
    assert!(error.contains("not a file, directory or link"), "{error}");
    assert!(place.objects().is_empty());
    // A snapshot without any says so.
    place.backup();
    let error = place.fail(1, &["restore", "latest", "--companions-to", "none"]);
    assert!(error.contains("no companions") && !place.path("none").exists(), "{error}");
}

#[test]
fn each_byte_of_them_counts() {
    let (place, backup) = with_pki();
    place.succeed(&refs(&backup));
    let object = place.objects().into_iter().find(|path| path.ends_with("companions")).unwrap();
    let whole = fs::read(&object).unwrap();
    assert!(!whole.windows(13).any(|part| part == b"the cluster's"), "in clear");
    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let last = whole.len() - 1;
    let mut cases: Vec<_> = [0, 8, 9, 20, 40, 60, 200, last / 2, last].map(flipped).into();
    cases.push(whole[..last].to_vec());
    cases.push([&whole[..], b"x"].concat());
    cases.push(Vec::new());
    for bytes in cases {
        fs::write(&object, bytes).unwrap();
        place.fail(13, &["verify", "latest"]);
        place.fail(13, &["restore", "latest", "--companions-to", "back"]);
        assert!(!place.path("back").exists());
    }
    fs::remove_file(&object).unwrap();
    place.fail(13, &["verify", "latest", "--quick"]);
    fs::write(&object, whole).unwrap();
    place.succeed(&["verify", "latest"]);
}
