//! The drill on real etcd, and the evidence that it leaves.

use std::fs;
use std::time::{Duration, Instant};

use crate::etcd_server::{Etcd, ROOT_PASSWORD, Version};
use crate::members::corrupt;
use crate::place::{Place, exits, text, write_secret};

fn drill<'a>(
    place: &Place,
    version: Version,
    etcd: &'a Etcd,
    more: &[&'a str],
) -> std::process::Command {
    let program = version.programs().join("etcd");
    let mut command = place.command(&["-w", "json", "--endpoints", etcd.endpoint(), "drill"]);
    command.arg("--etcd").arg(program).args(["--scratch-dir", "scratch"]).args(more);
    command
}

fn outcome<'a>(report: &'a serde_json::Value, name: &str) -> &'a str {
    let checks = report["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["name"] == name);
    check.unwrap_or_else(|| panic!("{report}"))["outcome"].as_str().unwrap()
}

fn json(out: std::process::Output) -> serde_json::Value {
    assert!(!out.stdout.is_empty(), "{}", text(&out.stderr));
    serde_json::from_slice(&out.stdout).unwrap()
}

const LIVE: &str = "HashKV of the live cluster";

#[tokio::test(flavor = "multi_thread")]
async fn it_serves_the_same() {
    for version in Version::ENDS {
        let mut etcd = Etcd::builder(version).members(3).start().await;
        etcd.fill(300, 200).await;
        etcd.etcdctl(&["compact", "50"]);
        let place = Place::new();
        fs::create_dir(place.path("scratch")).unwrap();
        let id = place.json(&["--endpoints", etcd.endpoint(), "backup"])["id"].clone();
        // The live cluster goes on.
        etcd.put("later", "").await;
        let out = drill(&place, version, &etcd, &[]).output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{}", text(&out.stderr));
        let report = json(out);
        for name in ["revision", "HashKV", "keys", "values", LIVE] {
            assert_eq!(outcome(&report, name), "passed", "{name}: {report}");
        }
        let names = report["steps"].as_array().unwrap().iter().map(|step| &step["name"]);
        assert!(names.eq(["restore", "boot", "compare"]));
        assert!(report["recovery_seconds"].as_f64().unwrap() > 0.0);
        assert_eq!(fs::read_dir(place.path("scratch")).unwrap().count(), 0);

        // A member of the live cluster has other data now than the snapshot of it.
        etcd.kill(2);
        let database = etcd.database(2);
        fs::write(&database, corrupt(&fs::read(&database).unwrap(), 5)).unwrap();
        etcd.restart(2);
        let out = drill(&place, version, &etcd, &[]).output().unwrap();
        assert_eq!(out.status.code(), Some(3), "{}", text(&out.stderr));
        let report = json(out);
        assert_eq!((outcome(&report, "HashKV"), outcome(&report, LIVE)), ("passed", "failed"));

        let listed = place.json(&["reports"]);
        let outcomes: Vec<_> =
            listed.as_array().unwrap().iter().map(|one| one["outcome"].as_str().unwrap()).collect();
        assert_eq!(outcomes, ["passed", "failed"]);
        assert_eq!(listed[0]["snapshot"], id);
        let shown = place.json(&["reports", listed[1]["id"].as_str().unwrap()]);
        assert_eq!(shown["checks"], report["checks"]);
    }
}

/// With users whose passwords nobody has, a live cluster that is gone, and one that is another.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_the_live_cluster_is() {
    let version = Version::NEWEST;
    let etcd = Etcd::builder(version).with_tls().with_auth().start().await;
    etcd.fill(20, 10).await;
    let place = Place::new();
    fs::create_dir(place.path("scratch")).unwrap();
    write_secret(&place.path("password"), ROOT_PASSWORD);
    let settings = etcd.settings();
    let path = |path: Option<std::path::PathBuf>| path.unwrap().display().to_string();
    let (ca, cert, key) = (path(settings.cacert), path(settings.cert), path(settings.key));
    place.succeed(&[
        "--endpoints",
        etcd.endpoint(),
        "--cacert",
        &ca,
        "--cert",
        &cert,
        "--key",
        &key,
        "--user",
        "root",
        "--password-file",
        "password",
        "backup",
    ]);
    let other = Etcd::start(version).await;
    let report = json(drill(&place, version, &other, &[]).output().unwrap());
    assert_eq!((report["passed"].as_bool(), outcome(&report, LIVE)), (Some(true), "skipped"));
    drop(etcd);
    let mut gone = Etcd::start(version).await;
    gone.kill(0);
    let report = json(drill(&place, version, &gone, &[]).output().unwrap());
    assert_eq!((report["passed"].as_bool(), outcome(&report, LIVE)), (Some(true), "skipped"));
}

#[test]
fn programs_that_are_no_etcd() {
    let place = Place::new();
    place.backup();
    fs::create_dir(place.path("scratch")).unwrap();
    for (program, says) in [("/no/such/etcd", "No such file"), ("/bin/false", "does not print")] {
        let args = ["drill", "--etcd", program, "--scratch-dir", "scratch"];
        let error = place.fail(1, &args);
        assert!(error.contains(says), "{error}");
    }
    // One that says it is etcd and dies.
    let script = "#!/bin/sh\n[ \"$1\" = --version ] && echo 'etcd Version: 3.5.99' && exit\necho panic: dying; exit 7\n";
    fs::write(place.path("dying"), script).unwrap();
    exits(0, std::process::Command::new("chmod").arg("+x").arg(place.path("dying")));
    let error = place.fail(1, &["drill", "--etcd", "./dying", "--scratch-dir", "scratch"]);
    assert!(error.contains("exit status: 7") && error.contains("panic: dying"), "{error}");
    fs::write(place.path("dying"), script.replace("3.5.99", "3.7.0")).unwrap();
    let error = place.fail(1, &["drill", "--etcd", "./dying", "--scratch-dir", "scratch"]);
    assert!(error.contains("starts with 3.5 or 3.6"), "{error}");
    assert_eq!(fs::read_dir(place.path("scratch")).unwrap().count(), 0);
    assert_eq!(place.json(&["reports"]), serde_json::json!([]));
}

/// A drill that is killed takes its etcd with it, and the next one removes the unencrypted database.
#[test]
fn a_killed_drill_leaves_nothing_behind() {
    let place = Place::new();
    place.backup();
    fs::create_dir(place.path("scratch")).unwrap();
    let version = "[ \"$1\" = --version ] && echo 'etcd Version: 3.5.99' && exit\n";
    let script = format!("#!/bin/sh\n{version}echo $$ > pid.new; mv pid.new pid; exec sleep 600\n");
    fs::write(place.path("silent"), script).unwrap();
    exits(0, std::process::Command::new("chmod").arg("+x").arg(place.path("silent")));
    let args = ["drill", "--etcd", "./silent", "--scratch-dir", "scratch"];
    let mut drill = place.command(&args).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !place.path("pid").exists() {
        assert!(Instant::now() < deadline, "no etcd was started");
        std::thread::sleep(Duration::from_millis(20));
    }
    let pid = fs::read_to_string(place.path("pid")).unwrap();
    let process = std::path::Path::new("/proc").join(pid.trim());
    let runs = || {
        let stat = fs::read_to_string(process.join("stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    };
    assert!(runs());
    drill.kill().unwrap();
    drill.wait().unwrap();
    while runs() {
        assert!(Instant::now() < deadline, "etcd outlives the drill");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(fs::read_dir(place.path("scratch")).unwrap().count(), 1);

    fs::write(place.path("silent"), format!("#!/bin/sh\n{version}exit 7\n")).unwrap();
    let error = place.fail(1, &args);
    assert!(error.contains("exit status: 7"), "{error}");
    assert_eq!(fs::read_dir(place.path("scratch")).unwrap().count(), 0);
}

#[test]
fn what_was_verified_is_recorded() {
    let place = Place::new();
    place.backup();
    let id = place.json(&["verify", "--all", "--record"])["report"].clone();
    let listed = place.json(&["reports"]);
    assert_eq!((&listed[0]["id"], &listed[0]["kind"]), (&id, &"verify".into()));
    // Altered evidence shows, and so does evidence that no available key opens.
    let object = place.path("repo/reports").join(id.as_str().unwrap());
    let good = fs::read_to_string(&object).unwrap();
    fs::write(&object, good.replace("report ", "report A")).unwrap();
    assert_eq!(place.json(&["reports"])[0]["outcome"], "broken");
    place.fail(13, &["reports", id.as_str().unwrap()]);
    fs::write(&object, good).unwrap();
    place.succeed(&["key", "generate", "-o", "other"]);
    let said = exits(0, &mut place.command_with("file:other", &["reports"]));
    assert!(said.contains("unverified"), "{said}");
    // The program that lists nothing but snapshots is not confused by it.
    assert_eq!(place.snapshots().len(), 1);
    place.succeed(&["verify", "--all"]);
}
