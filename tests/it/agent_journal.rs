//! The agent records between its snapshots: its lead moves, it is killed, it takes snapshots where there is a gap.

use std::fs;
use std::time::{Duration, Instant};

use etcd_client::Client;
use serde_json::{Value, json};

use crate::agent::{Agent, config};
use crate::blind::{Blind, exits_with};
use crate::etcd_server::{Etcd, Version};
use crate::place::Place;

const REVISION: &str = "strongroom_journal_revision{";
const VERIFIED: &str = "strongroom_journal_verified_revision{";

/// Records every second; snapshots but for the first only where they are needed.
pub(crate) fn continuous(etcd: &Etcd) -> String {
    config(etcd, "[journal]\ninterval = \"1s\"\n").replace("@every 1s", "@every 1d")
        + "continuous = true\n"
}

pub(crate) fn until(what: &str, agent: &Agent, is: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is() {
        let lines = agent.lines.lock().unwrap();
        assert!(begun.elapsed() < Duration::from_secs(40), "{what}: {lines:#?}");
        drop(lines);
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Waits until it has stored all up to `revision`.
pub(crate) fn stored(agent: &Agent, revision: i64) {
    let is_there = || agent.metric_if_there(REVISION).is_some_and(|at| at >= revision as f64);
    until("nothing is stored", agent, is_there);
}

pub(crate) fn events(agent: &Agent, event: &str) -> Vec<Value> {
    let lines = agent.lines.lock().unwrap();
    lines.iter().filter(|line| line["event"] == event).cloned().collect()
}

pub(crate) async fn put(client: &mut Client, key: &str, times: usize) -> i64 {
    let mut revision = 0;
    for n in 0..times {
        let put = client.put(key, n.to_string(), None).await.unwrap();
        revision = put.header().unwrap().revision();
    }
    revision
}

fn restored(place: &Place) -> i64 {
    let report = place.json(&["restore", "--newest", "--output", "newest.db"]);
    fs::remove_file(place.path("newest.db")).unwrap();
    report["revision"].as_i64().unwrap()
}

/// An agent that is killed loses what it had not stored. The next begins within the lease's time and takes no snapshot.
#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_is_killed_is_followed_without_a_gap() {
    let etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    put(&mut client, "before", 3).await;
    let place = Place::new();
    let mut first = Agent::start(&place, &continuous(&etcd));
    first.wait("journal_started", 1);
    let second = Agent::start(&place, &continuous(&etcd));
    stored(&first, put(&mut client, "during", 100).await);
    assert!(second.metric_if_there(REVISION).is_none());
    let page = first.get("/").1;
    assert!(page.contains("<dd id=recorded><time"), "{page}");
    first.child.kill().unwrap();
    let unstored = put(&mut client, "between", 20).await;
    second.wait("journal_started", 1);
    stored(&second, unstored);
    let last = put(&mut client, "after", 20).await;
    stored(&second, last);
    assert_eq!(events(&second, "backup_started"), Vec::<Value>::new());
    second.end();
    assert_eq!(place.snapshots().len(), 1);
    let list = place.json(&["journal", "list"]);
    assert_eq!(list["gaps"], json!([]), "{list}");
    assert_eq!(list["journals"].as_array().unwrap().len(), 2, "{list}");
    assert_eq!(restored(&place), last);
    assert_eq!(place.json(&["journal", "verify"])["findings"], json!([]));
}

/// A journal ends with the lead, and the next agent goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_recording_ends_with_the_lead() {
    let etcd = Etcd::start(Version::V3_6).await;
    let mut client = etcd.client().await;
    let place = Place::new();
    put(&mut client, "a", 2).await;
    let agents = [(); 2].map(|()| Agent::start(&place, &continuous(&etcd)));
    let leads = |agent: &&Agent| agent.metric("strongroom_agent_leads") > 0.0;
    until("nobody leads", &agents[0], || agents.iter().any(|agent| leads(&agent)));
    let leader = agents.iter().find(leads).unwrap();
    stored(leader, put(&mut client, "a", 10).await);
    free_the_lead(&mut client).await;
    leader.wait("leader_lost", 1);
    leader.wait("journal_ended", 1);
    let ended = events(leader, "journal_ended").remove(0);
    assert_eq!(ended["reason"], "another agent leads", "{ended}");
    let begun = || agents.iter().map(|agent| events(agent, "journal_started").len()).sum::<usize>();
    until("nobody records", &agents[0], || begun() >= 2);
    let last = put(&mut client, "b", 10).await;
    let reached = |agent: &Agent| agent.metric_if_there(REVISION).unwrap_or(0.0) >= last as f64;
    until("nothing is stored", &agents[0], || agents.iter().any(reached));
    agents.into_iter().for_each(Agent::end);
    let list = place.json(&["journal", "list"]);
    assert_eq!(list["gaps"], json!([]), "{list}");
    assert_eq!(restored(&place), last);
    assert_eq!(place.snapshots().len(), 1);
}

/// Each snapshot is compared with what was recorded; one is taken when users or roles change, and where there is a gap.
#[tokio::test(flavor = "multi_thread")]
async fn snapshots_are_taken_where_the_recording_needs_them_and_compared() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let mut client = etcd.client().await;
    put(&mut client, "before", 3).await;
    let place = Place::new();
    let agent = Agent::start(&place, &continuous(&etcd));
    agent.wait("journal_started", 1);
    let recorded = put(&mut client, "during", 30).await;
    stored(&agent, recorded);
    // Once the state of authentication is known, a change shows.
    std::thread::sleep(Duration::from_secs(2));
    client.role_add("reader").await.unwrap();
    agent.wait("backup_finished", 2);
    let reasons = |agent: &Agent| -> Vec<Value> {
        events(agent, "backup_started").iter().map(|line| line["reason"].clone()).collect()
    };
    assert_eq!(reasons(&agent), ["first", "auth"]);
    until("it was not compared", &agent, || agent.metric_if_there(VERIFIED).is_some());
    assert_eq!(agent.metric(VERIFIED), recorded as f64);
    assert_eq!(agent.metric("strongroom_journal_disagreements_total{"), 0.0);
    assert_eq!(
        agent.metric("strongroom_journal_gaps_total{cluster=\"prod\",reason=\"compacted\"}"),
        0.0
    );
    agent.end();
    // What etcd compacts while nobody records is a gap.
    let missing = put(&mut client, "missing", 10).await;
    client.compact(missing, None).await.unwrap();
    let agent = Agent::start(&place, &continuous(&etcd));
    agent.wait("journal_gap", 1);
    assert_eq!(events(&agent, "journal_gap")[0]["reason"], "compacted");
    agent.wait("backup_finished", 1);
    let last = put(&mut client, "after", 10).await;
    stored(&agent, last);
    // Where etcd has compacted what this snapshot holds last, the next one joins.
    let held = events(&agent, "backup_finished")[0]["revision"].as_i64().unwrap();
    if held <= missing {
        until("nothing joins", &agent, || reasons(&agent) == ["gap", "gap"]);
        agent.wait("backup_finished", 2);
    }
    assert_eq!(
        agent.metric("strongroom_journal_gaps_total{cluster=\"prod\",reason=\"compacted\"}"),
        1.0
    );
    agent.end();
    assert_eq!(restored(&place), last);
}

/// The settings of a host that seals to a recipient and signs.
fn blind_config(blind: &Blind, etcd: &Etcd) -> String {
    format!(
        "master_keys = [\"recipient:{}\"]\n[keys]\nsigning_key = \"signing\"\n[repository]\nurl = \"repo\"\n\
         [etcd]\nendpoints = [\"{}\"]\n[journal]\ninterval = \"1s\"\n[agent]\nlog = \"json\"\n\
         listen = \"LISTEN\"\nbackup = \"@every 1d\"\ncontinuous = true\n",
        blind.recipient,
        etcd.endpoint()
    )
}

/// The lead of an agent that was killed is free when its lease has run out.
pub(crate) async fn free_the_lead(client: &mut Client) {
    for lease in client.leases().await.unwrap().leases() {
        client.lease_revoke(lease.id()).await.unwrap();
    }
}

/// What etcd compacted while nobody recorded is missing, whether the host can open what was recorded or not: a snapshot is
/// taken, or nothing could be restored behind the gap until the next one.
#[tokio::test(flavor = "multi_thread")]
async fn a_blind_agent_takes_a_snapshot_where_something_is_missing() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let mut client = etcd.client().await;
    put(&mut client, "before", 3).await;
    let blind = Blind::new();
    let config = blind_config(&blind, &etcd);
    let mut agent = Agent::start(&blind.place, &config);
    agent.wait("journal_started", 1);
    let first = put(&mut client, "one", 100).await;
    stored(&agent, first);
    agent.child.kill().unwrap();
    free_the_lead(&mut client).await;
    let missing = put(&mut client, "missing", 100).await;
    client.compact(missing, None).await.unwrap();
    let agent = Agent::start(&blind.place, &config);
    agent.wait("journal_gap", 1);
    assert_eq!(events(&agent, "journal_gap")[0]["reason"], "compacted");
    agent.wait("backup_finished", 1);
    let last = put(&mut client, "after", 10).await;
    stored(&agent, last);
    // Where etcd has compacted what this snapshot holds last, the next one joins.
    let held = events(&agent, "backup_finished")[0]["revision"].as_i64().unwrap();
    agent.wait("backup_finished", if held <= missing { 2 } else { 1 });
    agent.end();
    let restore = ["-w", "json", "restore", "--newest", "--output", "newest.db"];
    let report: Value = serde_json::from_str(&exits_with(&mut blind.owner(&restore))).unwrap();
    assert_eq!(report["revision"], last);
}

/// A host that opens nothing goes on behind a signed end, and behind a killed recorder as far back as etcd allows: it takes
/// no snapshot for that.
#[tokio::test(flavor = "multi_thread")]
async fn a_blind_agent_takes_no_snapshot_at_each_start() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let mut client = etcd.client().await;
    put(&mut client, "before", 3).await;
    let blind = Blind::new();
    let place = &blind.place;
    let config = blind_config(&blind, &etcd);
    let agent = Agent::start(place, &config);
    agent.wait("journal_started", 1);
    stored(&agent, put(&mut client, "one", 100).await);
    agent.end();
    let mut agent = Agent::start(place, &config);
    agent.wait("journal_started", 1);
    let at = events(&agent, "journal_started")[0]["revision"].as_i64().unwrap();
    assert!(at > 4, "it begins again at {at}");
    stored(&agent, put(&mut client, "two", 100).await);
    agent.child.kill().unwrap();
    free_the_lead(&mut client).await;
    let agent = Agent::start(place, &config);
    agent.wait("journal_started", 1);
    let last = put(&mut client, "three", 10).await;
    stored(&agent, last);
    agent.end();
    assert_eq!(fs::read_dir(place.path("repo/snapshots")).unwrap().count(), 1);
    let list = exits_with(&mut blind.owner(&["-w", "json", "journal", "list"]));
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["gaps"], json!([]), "{list}");
    assert_eq!(list["journals"].as_array().unwrap().len(), 3, "{list}");
    let restore = ["-w", "json", "restore", "--newest", "--output", "newest.db"];
    let report: Value = serde_json::from_str(&exits_with(&mut blind.owner(&restore))).unwrap();
    assert_eq!(report["revision"], last);
}

/// A journal follows the snapshot that was encrypted again as it followed the old one, which is removed. It is not encrypted
/// again itself, and is named where the old key opens it.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_is_encrypted_again_is_followed_by_its_journal() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let mut client = etcd.client().await;
    put(&mut client, "before", 3).await;
    let place = Place::new();
    let agent = Agent::start(&place, &continuous(&etcd));
    agent.wait("journal_started", 1);
    stored(&agent, put(&mut client, "during", 30).await);
    std::thread::sleep(Duration::from_secs(2));
    client.role_add("reader").await.unwrap();
    agent.wait("backup_finished", 2);
    let last = put(&mut client, "after", 10).await;
    stored(&agent, last);
    agent.end();
    let stretch = || place.json(&["journal", "list"])["stretches"][0].clone();
    let (before, old) = (stretch(), place.snapshots());
    assert!(before["compared_to"].as_i64() > before["compared_from"].as_i64(), "{before}");
    // With the same keys nothing of the journal is left to an older one.
    let report = place.json(&["key", "reencrypt", "--all"]);
    assert_eq!((&report["journals"], &report["left"]), (&json!([]), &json!([])), "{report}");
    assert_eq!(report["removed"].as_array().unwrap().len(), 2);
    let after = stretch();
    for name in ["compared_from", "compared_to", "first_revision", "last_revision"] {
        assert_eq!(after[name], before[name], "{name}: {before} {after}");
    }
    assert!(place.snapshots().iter().all(|id| !old.contains(id)));
    assert_eq!(restored(&place), last);
    // After a rotation the retired key still opens the journal by its first seal.
    fs::copy(place.path("keyring"), place.path("stolen")).unwrap();
    place.succeed(&["key", "rotate"]);
    place.succeed(&["key", "rotate", "--finish"]);
    let out = place.run(&["-w", "json", "key", "reencrypt", &place.snapshots()[0]]);
    assert!(out.status.success(), "journals are not looked at for one snapshot");
    let out = place.run(&["-w", "json", "key", "reencrypt", "--all"]);
    assert_eq!(out.status.code(), Some(3), "{out:?}");
    let report: Value = serde_json::from_slice(&out.stdout).unwrap();
    let said = String::from_utf8(out.stderr).unwrap();
    let journal = place.json(&["journal", "list"])["journals"][0]["id"].clone();
    assert_eq!(report["journals"], json!([journal]), "{report}");
    assert!(said.contains("not encrypted again, and an old key may open them"), "{said}");
    assert_eq!(restored(&place), last);
    place.succeed(&["prune", "--remove", journal.as_str().unwrap()]);
    // Nor is the other snapshot, whose seal of before the rotation may have been copied.
    let named = place.snapshots()[1].clone();
    assert!(said.contains(&format!("{named} was encrypted again before")), "{said}");
    place.succeed(&["key", "reencrypt", &named]);
    let report = place.json(&["key", "reencrypt", "--all"]);
    assert_eq!(report["journals"], json!([]), "{report}");
}
