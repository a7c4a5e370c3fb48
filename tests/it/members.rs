//! What a backup finds when it compares the members of a cluster, and what `verify --deep` makes of it.

use std::fs;
use std::io::Cursor;
use std::ops::ControlFlow;

use strongroom::bolt::{Db, Writer};

use crate::etcd_server::{Etcd, Version};
use crate::place::{Place, exits};

/// Writes the database anew with another last byte in its last record: one member that is silently corrupt.
fn corrupt(database: &[u8]) -> Vec<u8> {
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
            *records.last_mut().unwrap().1.last_mut().unwrap() ^= 1;
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
    for version in Version::ALL {
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

        etcd.kill(2);
        let said = exits(0, &mut place.command(&backup));
        assert!(said.contains("not compared: member m2"), "{said}");
        let database = etcd.database(2);
        fs::write(&database, corrupt(&fs::read(&database).unwrap())).unwrap();
        etcd.restart(2);
        let mut command = place.command(&backup);
        let said = exits(3, &mut command);
        assert!(said.contains("member m2") && said.contains("other data"), "{said}");
        let shown = place.json(&["show", "latest"]);
        assert_eq!(shown["hash_kv_agreed_by"].as_array().unwrap().len(), 2);
        assert_eq!(shown["hash_kv_differing"].as_array().unwrap().len(), 1);
    }
}
