//! A version of etcd later than the last one tested is refused by name, unless one insists; a downgrade is told of.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use strongroom::bolt::Db;
use strongroom::mvcc::{Changes, database_facts, rewrite};

use crate::etcd_server::{Etcd, Version};
use crate::fake_etcd::{self, Script, good_steps};
use crate::member::Plan;
use crate::place::{Place, exits, text, write_secret};
use crate::proxy_gate::{Program, keyring, output};
use crate::support::small_database;

const ALLOW: &str = "--allow-untested-etcd";
const REFUSED: &str = "etcd 3.8.0 is later than 3.7, the last version tested";

fn database() -> Vec<u8> {
    let mut database = fs::read(small_database()).unwrap();
    database.truncate(database.len() / 4096 * 4096);
    database
}

/// A snapshot file of an etcd 3.8, with the downgrade that `record` says.
fn later(to: &Path, record: Option<&str>) -> PathBuf {
    let meta = BTreeMap::from([(b"storageVersion".to_vec(), b"3.8.0".to_vec())]);
    let cluster = record.map(|record| {
        let version = (b"clusterVersion".to_vec(), b"3.8.0".to_vec());
        BTreeMap::from([version, (b"downgrade".to_vec(), record.as_bytes().to_vec())])
    });
    let buckets = cluster.map(|records| (b"cluster".to_vec(), records)).into_iter().collect();
    let (source, changes) = (database(), Changes { meta, buckets, ..Changes::default() });
    let db = Db::open(source.as_slice()).unwrap();
    let path = to.join("later.db");
    rewrite(&db, &changes, fs::File::create(&path).unwrap()).unwrap();
    let digest = Sha256::digest(fs::read(&path).unwrap());
    fs::File::options().append(true).open(&path).unwrap().write_all(&digest).unwrap();
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_refuse_it() {
    let steps = good_steps(&database());
    let script = Script { version: "3.8.0".into(), steps, ..Script::default() };
    let endpoint = fake_etcd::start(script).await;
    let place = Place::new();
    let error = place.fail(1, &["backup", "--endpoints", &endpoint]);
    assert!(
        error.contains(REFUSED) && error.contains(ALLOW) && error.contains(&endpoint),
        "{error}"
    );
    assert_eq!(place.snapshots().len(), 0);
    place.succeed(&["backup", "--endpoints", &endpoint, ALLOW]);
    let mut command = place.command(&["backup", "--endpoints", &endpoint]);
    exits(0, command.env("STRONGROOM_ALLOW_UNTESTED_ETCD", "true"));
    fs::write(place.path("config"), "[etcd]\nallow_untested = true").unwrap();
    place.succeed(&["--config", "config", "backup", "--endpoints", &endpoint]);
    assert_eq!(place.snapshots().len(), 3);

    let script = Script { version: String::new(), ..Script::default() };
    let error = place.fail(1, &["backup", "--endpoints", &fake_etcd::start(script).await]);
    assert!(error.contains("\"\" is not a version of etcd"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_refuses_it() {
    let script = Script { version: "3.8.0".into(), ..Script::default() };
    let endpoint = fake_etcd::start(script).await;
    let place = Place::new();
    let args = ["proxy", "--listen", "127.0.0.1:0", "--endpoints", &endpoint];
    let error = place.fail(1, &args);
    assert!(error.contains(REFUSED) && error.contains(ALLOW), "{error}");
}

/// etcd 3.5 tells its version to the role root alone.
#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_starts_as_a_user_with_few_rights() {
    for version in Version::ALL {
        let etcd = Etcd::builder(version).with_auth().start().await;
        etcd.etcdctl(&["role", "add", "proxy"]);
        let grant = ["role", "grant-permission", "--prefix", "proxy", "readwrite", "/strongroom/"];
        etcd.etcdctl(&grant);
        etcd.etcdctl(&["user", "add", "proxy:secret"]);
        etcd.etcdctl(&["user", "grant-role", "proxy", "proxy"]);
        let dir = tempfile::tempdir().unwrap();
        let (key, password) = (keyring(dir.path()), dir.path().join("password"));
        write_secret(&password, "secret");
        let args = ["-k", &key, "--endpoints", etcd.endpoint(), "--user", "proxy"];
        let args = [&args[..], &["--password-file", password.to_str().unwrap()]].concat();
        let (code, told) = output(&[&["value", "init"], &args[..]].concat());
        // It may not look whether there are encrypted values.
        assert_eq!(code, Some(1), "{told}");
        let (code, told) = output(&[&["value", "init", "--force"], &args[..]].concat());
        assert_eq!(code, Some(0), "{told}");
        Program::start(&args).end();
    }
}

#[test]
fn drills_refuse_it() {
    let place = Place::new();
    place.backup();
    fs::create_dir(place.path("scratch")).unwrap();
    let script = "#!/bin/sh\necho 'etcd Version: 3.8.0'\n";
    fs::write(place.path("etcd"), script).unwrap();
    fs::set_permissions(place.path("etcd"), fs::Permissions::from_mode(0o755)).unwrap();
    let drill = ["drill", "--etcd", "./etcd", "--scratch-dir", "scratch"];
    let error = place.fail(1, &drill);
    assert!(error.contains(REFUSED) && error.contains(ALLOW), "{error}");
    // The snapshot's version still counts.
    let error = place.fail(1, &[&drill[..], &[ALLOW]].concat());
    assert!(error.contains("starts with 3.5 or 3.6"), "{error}");
}

#[test]
fn restores_refuse_its_database() {
    let place = Place::new();
    let path = later(place.dir.path(), None);
    place.succeed(&["backup", "--file", path.to_str().unwrap()]);
    for args in [&["--data-dir", "data"][..], &["--output", "then.db", "--revision", "20"]] {
        let restore = [&["restore", "latest"], args].concat();
        let error = place.fail(1, &restore);
        assert!(error.contains(REFUSED) && error.contains(ALLOW), "{error}");
        assert!(!place.path(args[1]).exists());
        let told = text(&place.succeed(&[&restore[..], &[ALLOW]].concat()).stderr);
        assert!(place.path(args[1]).exists());
        assert!(!told.contains("downgrade"), "{told}");
    }
    // As it is, whatever its version.
    place.succeed(&["restore", "latest", "--output", "whole.db"]);
    assert_eq!(fs::read(place.path("whole.db")).unwrap(), fs::read(path).unwrap());
}

#[test]
fn a_downgrade_in_a_database() {
    let dir = tempfile::tempdir().unwrap();
    let facts = |record| {
        let file = fs::read(later(dir.path(), Some(record))).unwrap();
        database_facts(&Db::open(&file[..file.len() - 32]).unwrap())
    };
    let enabled = facts(r#"{"target-version":"3.7.0","enabled":true}"#).unwrap();
    assert_eq!(enabled.downgrade.as_deref(), Some("3.7.0"));
    for none in ["{}", r#"{"target-version":"","enabled":false}"#] {
        assert_eq!(facts(none).unwrap().downgrade, None);
    }
    for wrong in
        ["", "null", r#"{"enabled":"yes"}"#, r#"{"target-version":"\u001b","enabled":true}"#]
    {
        assert!(facts(wrong).is_err(), "{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_in_downgrade_is_told_of() {
    let etcd = Etcd::start(Version::V3_7).await;
    etcd.put("a", "b").await;
    etcd.etcdctl(&["downgrade", "enable", "3.6.0"]);
    let place = Place::new();
    place.succeed(&["--endpoints", etcd.endpoint(), "backup"]);
    let told = text(&place.succeed(&["restore", "latest", "--output", "whole.db"]).stderr);
    assert!(told.contains("downgraded to etcd 3.6.0"), "{told}");
    let plan = Plan::new(Version::V3_7, 1);
    let (data, cluster) = (place.path("data"), plan.initial_cluster(1));
    let restore = ["restore", "latest", "--data-dir", "data", "--name", "m0", "--initial-cluster"];
    let told = place.succeed(&[&restore[..], &[&cluster]].concat());
    assert!(text(&told.stderr).contains("downgraded to etcd 3.6.0"), "{}", text(&told.stderr));
    // etcd itself says so, too.
    let _running = plan.start(0, &data, &[]);
    let mut client = plan.client(0).await;
    assert_eq!(client.get("a", None).await.unwrap().kvs()[0].value(), b"b");
    let cancel = plan.ctl(0).args(["downgrade", "cancel"]).output().unwrap();
    assert!(cancel.status.success(), "{}", text(&cancel.stderr));
}
