//! A recorder that is far behind does not catch up: etcd reads all that is missing for each part of it, while writers wait.
//! It takes a snapshot, and begins again there.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use etcd_client::Client;

use crate::etcd_server::{Etcd, Version};
use crate::journal::{Recording, revision_of};
use crate::place::Place;

/// What a recorder may catch up on.
const MOST: u64 = 20_000;
const WRITERS: usize = 64;

/// Events that etcd has handed to its watches since it was started. Here each revision has one.
fn events_sent(etcd: &Etcd) -> u64 {
    let mut stream = TcpStream::connect(etcd.endpoint().strip_prefix("http://").unwrap()).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let line = text.lines().find(|line| line.starts_with("etcd_debugging_mvcc_events_total "));
    let count: f64 = line.unwrap().rsplit_once(' ').unwrap().1.parse().unwrap();
    count as u64
}

/// Writes so many revisions. Their values are long enough that the connection holds few of them.
async fn put_many(client: &Client, count: usize) {
    let writers = (0..WRITERS).map(|writer| {
        let mut client = client.clone();
        async move {
            for _ in 0..count / WRITERS {
                client.put(format!("many/{writer}"), "x".repeat(500), None).await.unwrap();
            }
        }
    });
    futures::future::join_all(writers).await;
}

/// The longest that a writer waited while `what` ran.
async fn slowest_put(client: &mut Client, what: impl FnOnce() + Send + 'static) -> Duration {
    let running = tokio::task::spawn_blocking(what);
    let mut slowest = Duration::ZERO;
    while !running.is_finished() {
        let begun = Instant::now();
        client.put("felt", "x", None).await.unwrap();
        slowest = slowest.max(begun.elapsed());
    }
    running.await.unwrap();
    slowest
}

/// How a recorder comes to be far behind.
#[derive(Clone, Copy, Debug, PartialEq)]
enum How {
    /// It did not run.
    Stopped,
    /// It was suspended, and its watch is open.
    Suspended,
    /// Its watch has ended meanwhile.
    Disconnected,
}

async fn far_behind(how: How, missing: usize) {
    let mut etcd = Etcd::start(Version::V3_5).await;
    let mut client = etcd.client().await;
    client.put("before", "x", None).await.unwrap();
    let place = Place::new();
    let mut recording = Some(Recording::start(&place, &etcd));
    let alone = slowest_put(&mut client, || std::thread::sleep(Duration::from_secs(3))).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    match how {
        How::Stopped => drop(recording.take().unwrap().stop()),
        How::Suspended | How::Disconnected => recording.as_ref().unwrap().signal("-STOP"),
    }
    if how == How::Disconnected {
        etcd.kill(0);
        etcd.restart(0);
        client = etcd.client().await;
    }
    let before = events_sent(&etcd);
    put_many(&client, missing).await;
    let endpoint = etcd.endpoint().to_owned();
    let (sender, receiver) = std::sync::mpsc::channel();
    let during = slowest_put(&mut client, move || {
        let is_new = recording.is_none();
        let recording = recording.unwrap_or_else(|| Recording::start_at(&place, &endpoint));
        if !is_new {
            recording.signal("-CONT");
        }
        recording.until("too many revisions are missing");
        recording.until_times("begins with revision", if is_new { 1 } else { 2 });
        sender.send((place, recording)).unwrap();
    });
    let during = during.await;
    let sent = events_sent(&etcd) - before;
    let (place, recording) = receiver.recv().unwrap();
    println!(
        "{how:?}, {missing} revisions behind: etcd sent {sent}; the slowest put took {during:?}, and {alone:?} before"
    );
    // A snapshot holds what is missing. What is written meanwhile is sent.
    assert!(sent < MOST, "{how:?}: etcd sent {sent} revisions");
    let last = client.put("after", "x", None).await.unwrap().header().unwrap().revision();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    recording.stop();
    let list = place.json(&["journal", "list"]);
    assert_eq!(list["gaps"].as_array().unwrap().len(), 1, "{list}");
    assert_eq!(place.snapshots().len(), 2);
    let restored = place.json(&["restore", "--newest", "--output", "newest.db"]);
    assert_eq!(revision_of(&restored), last, "{restored}");
}

/// What etcd answers about its revision may be older than what the watch has sent meanwhile: that is no other history.
#[tokio::test(flavor = "multi_thread")]
async fn a_busy_etcd_is_recorded_without_a_gap() {
    let etcd = Etcd::start(Version::V3_6).await;
    let mut client = etcd.client().await;
    client.put("before", "x", None).await.unwrap();
    let place = Place::new();
    let recording = Recording::start(&place, &etcd);
    let writers = (0..4).map(|writer| {
        let (mut client, begun) = (client.clone(), Instant::now());
        async move {
            while begun.elapsed() < Duration::from_secs(6) {
                client.put(format!("busy/{writer}"), "x", None).await.unwrap();
            }
        }
    });
    futures::future::join_all(writers).await;
    let last = client.put("after", "x", None).await.unwrap().header().unwrap().revision();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    let said = recording.stop();
    let list = place.json(&["journal", "list"]);
    assert_eq!(list["journals"].as_array().unwrap().len(), 1, "{said}");
    assert_eq!(list["journals"][0]["last_revision"], last, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: 80,000 revisions, three times"]
async fn long_a_recorder_that_is_far_behind_does_not_catch_up() {
    for how in [How::Stopped, How::Suspended, How::Disconnected] {
        far_behind(how, 80_000).await;
    }
}
