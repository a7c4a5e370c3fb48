//! What a backup finds when it compares the members of a cluster, and what `verify --deep` makes of it.

use std::fs;
use std::io::Cursor;
use std::ops::ControlFlow;

use strongroom::backup::{BackupOptions, Source, backup};
use strongroom::bolt::{Db, Writer};
use strongroom::mvcc::{HashKv, check_history, database_facts, hash_kv};
use strongroom::task::Control;

use crate::etcd_server::{Etcd, Version};
use crate::fake_etcd::{self, Script, good_steps};
use crate::place::{Place, exits};
use crate::support::{TestRepo, keys, small_database};

/// Writes the database anew with another last byte in one record, counted from the last: one member that is silently
/// corrupt.
pub(crate) fn corrupt(database: &[u8], back: usize) -> Vec<u8> {
    let db = Db::open(database).unwrap();
    let mut writer = Writer::new(Cursor::new(Vec::new()), 4096).unwrap();
    for (name, bucket) in db.buckets().unwrap() {
        let mut records = Vec::new();
        let collect = |key: &[u8], value: &[u8]| {
            records.push((key.to_vec(), value.to_vec()));
            Ok(ControlFlow::Continue(()))
        };
        bucket.for_each(b"", collect).unwrap();
        if name == b"key" {
            let at = records.len() - 1 - back;
            *records[at].1.last_mut().unwrap() ^= 1;
        }
        writer.bucket(&name).unwrap();
        records.iter().for_each(|(key, value)| writer.put(key, value).unwrap());
    }
    writer.finish().unwrap().0.into_inner()
}

fn names(members: &serde_json::Value) -> Vec<&str> {
    let hashes = members["hashes"].as_array().unwrap();
    let agree = hashes.iter().filter(|member| member["agrees"] == true);
    agree.map(|member| member["name"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_agree_and_one_that_differs() {
    for version in Version::ENDS {
        let mut etcd = Etcd::builder(version).members(3).start().await;
        etcd.fill(200, 300).await;
        etcd.etcdctl(&["compact", "100"]);
        let place = Place::new();
        // One endpoint is given: the others are found through it.
        let endpoint = etcd.endpoint().to_owned();
        let backup = ["--endpoints", &endpoint, "backup"];
        let report = place.json(&backup);
        let members = &report["members"];
        assert_eq!(names(members).len(), 3, "{members}");
        assert_eq!(
            (&members["revision"], &members["left_out"]),
            (&201.into(), &serde_json::json!([]))
        );
        let shown = place.json(&["show", "latest"]);
        assert_eq!(shown["hash_kv"], members["hashes"][0]["hash"]);
        assert_eq!(shown["hash_kv_agreed_by"].as_array().unwrap().len(), 3);
        let spared = place.json(&[&backup[..], &["--no-compare"]].concat());
        assert!(spared["members"].is_null());

        let deep = &place.json(&["verify", "latest", "--deep"])["snapshots"][0]["deep"];
        assert_eq!(deep["hash_kv"], "not recorded");
        for id in place.snapshots().iter().take(1) {
            let deep = &place.json(&["verify", id, "--deep"])["snapshots"][0]["deep"];
            assert_eq!(deep["hash_kv"], "equal", "{deep}");
            assert!(deep["records"].as_u64().unwrap() > 100 && deep["pages"].as_u64().unwrap() > 5);
        }

        etcd.kill(2);
        let said = exits(0, &mut place.command(&backup));
        assert!(said.contains("not compared: member m2"), "{said}");
        let database = etcd.database(2);
        fs::write(&database, corrupt(&fs::read(&database).unwrap(), 0)).unwrap();
        etcd.restart(2);
        let mut command = place.command(&backup);
        let said = exits(3, &mut command);
        assert!(said.contains("member m2") && said.contains("other data"), "{said}");
        let said = exits(0, &mut place.command(&["verify", "latest", "--deep"]));
        assert!(said.contains("disagreed"), "{said}");
        let shown = place.json(&["show", "latest"]);
        assert_eq!(shown["hash_kv_agreed_by"].as_array().unwrap().len(), 2);
        assert_eq!(shown["hash_kv_differing"].as_array().unwrap().len(), 1);
    }
}

/// A member whose disk is not what it answers from.
#[tokio::test(flavor = "multi_thread")]
async fn a_hash_that_is_not_the_databases() {
    let database = fs::read(small_database()).unwrap();
    let database = &database[..database.len() / 4096 * 4096];
    let db = Db::open(database).unwrap();
    let facts = database_facts(&db).unwrap();
    let (revision, compacted) = (facts.revision, facts.compact_revision);
    let HashKv::Hash(hash) = hash_kv(&db, revision, compacted).unwrap() else { panic!() };
    let place = Place::new();
    for (answer, code, says) in [
        ((hash, compacted), 0, "HashKV as etcd answered it"),
        ((hash ^ 1, compacted), 13, "etcd's members answered"),
        ((hash, compacted - 1), 0, "HashKV inconclusive: a compaction at revision"),
    ] {
        let script =
            Script { steps: good_steps(database), hash: Some(answer), ..Script::default() };
        let endpoint = fake_etcd::start(script).await;
        let mut backup = place.command(&["--endpoints", &endpoint, "backup"]);
        tokio::task::spawn_blocking(move || exits(0, &mut backup)).await.unwrap();
        let said = exits(code, &mut place.command(&["verify", "latest", "--deep"]));
        assert!(said.contains(says), "{said}");
        // What is not deep does not know.
        place.succeed(&["verify", "latest"]);
    }
}

/// A snapshot file that is what its trailer says, and no sound database.
#[test]
fn pages_and_history_that_do_not_hold() {
    let database = fs::read(small_database()).unwrap();
    let place = Place::new();
    let good = Db::open(&database[..]).unwrap();
    let records = |skip: usize| {
        let mut writer = Writer::new(Cursor::new(Vec::new()), 4096).unwrap();
        for (name, bucket) in good.buckets().unwrap() {
            writer.bucket(&name).unwrap();
            let mut at = 0;
            let copy = |key: &[u8], value: &[u8]| {
                at += 1;
                if name != b"key" || at != skip {
                    writer.put(key, value).unwrap();
                }
                Ok(ControlFlow::Continue(()))
            };
            bucket.for_each(b"", copy).unwrap();
        }
        writer.finish().unwrap().0.into_inner()
    };
    let count = check_history(&good).unwrap().records as usize;
    for (database, code, says) in
        [(records(0), 0, "no HashKV recorded"), (records(count - 1), 13, "changes are missing")]
    {
        fs::write(place.path("etcd.db"), database).unwrap();
        place.succeed(&["backup", "--file", "etcd.db"]);
        let said = exits(code, &mut place.command(&["verify", "latest", "--deep"]));
        assert!(said.contains(says), "{said}");
        place.succeed(&["verify", "latest"]);
    }
}

/// A program that has a client of its own gives that. Other members are not sought: how to reach them is not known.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_callers_own() {
    let etcd = Etcd::builder(Version::NEWEST).members(3).start().await;
    etcd.fill(20, 100).await;
    let channel = tonic::transport::Channel::from_shared(etcd.endpoint().to_owned()).unwrap();
    let channel = etcd_client::Channel::Tonic(channel.connect_lazy());
    let client = etcd_client::Client::from_channel(channel, None).await.unwrap();
    let (repo, keys) = (TestRepo::new().await, keys(&[1]));
    let (options, control) = (BackupOptions::default(), Control::default());
    let source = Source::Client(Box::new(client));
    let taken = backup(&repo.repository, &keys, source, &options, &control).await.unwrap();
    assert_eq!(taken.revision, 21);
    let members = taken.members.unwrap();
    assert_eq!((members.answers.len(), members.left_out.len()), (1, 2), "{members:?}");
    let restored = repo.restore(&keys, taken.id).await.unwrap();
    assert_eq!(database_facts(&Db::open(&restored[..]).unwrap()).unwrap().revision, 21);
}
