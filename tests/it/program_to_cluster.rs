//! `restore --to-cluster`, the program.

use std::time::Duration;

use etcd_client::{Client, GetOptions, PutOptions};
use serde_json::Value;

use crate::etcd_server::{Etcd, ROOT_PASSWORD, Version};
use crate::place::write_secret;
use crate::place::{Place, exits, text};

/// With TLS and a user: dry run, restore, deletion, and who may not.
async fn the_program_restores(version: Version) {
    let etcd = Etcd::builder(version).with_tls().with_auth().start().await;
    for (key, value) in [("p/1", "one"), ("p/2", "two")] {
        etcd.put(key, value).await;
    }
    let mut client = etcd.client().await;
    let place = Place::new();
    let settings = etcd.settings();
    write_secret(&place.path("password"), ROOT_PASSWORD);
    write_secret(&place.path("reader"), "reader");
    let path = |path: Option<std::path::PathBuf>| path.unwrap().display().to_string();
    let (ca, cert, key) = (path(settings.cacert), path(settings.cert), path(settings.key));
    let connection =
        ["--endpoints", etcd.endpoint(), "--cacert", &ca, "--cert", &cert, "--key", &key];
    let root = [&connection[..], &["--user", "root", "--password-file", "password"]].concat();
    place.json(&[&["backup"], root.as_slice()].concat());
    client.delete("p/1", None).await.unwrap();
    client.put("p/2", "changed", None).await.unwrap();
    client.put("p/\x1b[2J", "extra", None).await.unwrap();
    let revision = async |client: &mut Client| {
        client.get("x", None).await.unwrap().header().unwrap().revision()
    };
    let before = revision(&mut client).await;

    let restore = |more: &[&'static str]| {
        let args = ["restore", "latest", "--to-cluster", "--prefix", "p/"];
        [&args[..], root.as_slice(), more].concat()
    };
    let plan = place.json(&restore(&["--dry-run", "--delete"]));
    assert_eq!(revision(&mut client).await, before);
    for (name, count) in [("create", 1), ("change", 1), ("delete", 1), ("unchanged", 0)] {
        assert_eq!(plan[name], count, "{name} of {plan}");
    }
    assert_eq!((&plan["dry_run"], &plan["live_revision"]), (&true.into(), &before.into()));
    assert_eq!(plan["keys"][0]["action"], "delete");
    assert_eq!(plan["keys"][0]["key_base64"], "cC8bWzJK");
    let shown = place.succeed(&restore(&["--dry-run"]));
    let (table, notes) = (text(&shown.stdout), text(&shown.stderr));
    assert!(table.contains("p/\\u{1b}[2J") && table.contains("would-delete"), "{table}");
    assert!(notes.contains("nothing is written") && notes.contains("--delete would"), "{notes}");
    assert_eq!(revision(&mut client).await, before);

    let done = place.json(&restore(&["--rate", "1000"]));
    for (name, count) in [("created", 1), ("changed", 1), ("deleted", 0), ("only_in_etcd", 1)] {
        assert_eq!(done[name], count, "{name} of {done}");
    }
    assert_eq!((&done["stopped"], &done["left"]), (&Value::Null, &0.into()));
    assert_eq!(client.get("p/2", None).await.unwrap().kvs()[0].value(), b"two");
    let done = place.json(&restore(&["--delete"]));
    assert_eq!((&done["unchanged"], &done["deleted"]), (&2.into(), &1.into()));
    assert_eq!(revision(&mut client).await, before + 3);

    // Who may not write is told so.
    client.delete("p/1", None).await.unwrap();
    let reader = ["--user", "reader", "--password-file", "reader"];
    let args = ["restore", "latest", "--to-cluster", "--only", "p/1"];
    let args = [&args[..], &connection[..], &reader[..]].concat();
    let told = exits(3, &mut place.command(&args));
    assert!(told.contains("permission denied"), "{told}");
    assert!(told.contains("allowed to write this key"), "{told}");
    assert!(client.get("p/1", None).await.unwrap().kvs().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_and_auth_3_4() {
    the_program_restores(Version::V3_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn with_tls_and_auth_3_7() {
    the_program_restores(Version::V3_7).await;
}

/// SIGINT ends it between changes, and it says how to go on; a refused key makes the exit status 3.
#[tokio::test(flavor = "multi_thread")]
async fn the_program_interrupted_and_refused_3_4() {
    let etcd = Etcd::start(Version::OLDEST).await;
    etcd.fill(400, 10).await;
    let mut client = etcd.client().await;
    let lease = client.lease_grant(900, None).await.unwrap().id();
    let options = PutOptions::new().with_lease(lease);
    client.put("leased", "v", Some(options)).await.unwrap();
    client.put("/registry/configmaps/a/b", "k8s\0", None).await.unwrap();
    let place = Place::new();
    let endpoint = etcd.endpoint();
    place.json(&["backup", "--endpoints", endpoint]);
    client.delete("key/", Some(etcd_client::DeleteOptions::new().with_prefix())).await.unwrap();
    client.lease_revoke(lease).await.unwrap();
    let args = ["restore", "latest", "--to-cluster", "--endpoints", endpoint, "--prefix", "key/"];
    let mut command = place.command(&[&args[..], &["--rate", "100", "-w", "json"]].concat());
    let pipe = std::process::Stdio::piped;
    let child = command.stdout(pipe()).stderr(pipe()).spawn().unwrap();
    let count = GetOptions::new().with_prefix().with_count_only();
    while client.get("key/", Some(count.clone())).await.unwrap().count() < 20 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let interrupt =
        std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    let out = child.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(130), "{}", text(&out.stderr));
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let there = client.get("key/", Some(count.clone())).await.unwrap().count();
    assert_eq!((&report["created"], &report["stopped"]), (&there.into(), &"interrupted".into()));
    assert!(text(&out.stderr).contains("run it again"), "{}", text(&out.stderr));
    let report = place.json(&[&args[..], &["--rate", "5000"]].concat());
    assert_eq!(report["unchanged"], there);
    assert_eq!(client.get("key/", Some(count)).await.unwrap().count(), 400);

    client.delete("/registry/configmaps/a/b", None).await.unwrap();
    let objects =
        ["restore", "latest", "--to-cluster", "--endpoints", endpoint, "--prefix", "/reg"];
    let told = exits(0, &mut place.command(&objects));
    assert!(told.contains("see these as ordinary changes"), "{told}");
    let only = ["restore", "latest", "--to-cluster", "--endpoints", endpoint, "--only", "leased"];
    let told = exits(3, &mut place.command(&[&only[..], &["--leases", "keep"]].concat()));
    assert!(told.contains("refused      leased") && told.contains("--leases new"), "{told}");
    let told = exits(0, &mut place.command(&only));
    assert!(told.contains("vanishes") && told.contains("1 created"), "{told}");
}
