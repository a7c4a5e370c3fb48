//! Random histories of requests, at an etcd directly and through the proxy: every answer is the same, field by field, and
//! so are all events. Only what names the server and its term is left out.

use std::collections::BTreeMap;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::etcd_server::Version;
use crate::proxied::Pair;
use crate::proxy_answers::{Field, Kind, fields, settle};
use crate::proxy_raw::{DELETE, PUT, RANGE, TXN, WATCH};
use crate::raw::{
    Answer, INVALID_ARGUMENT, Node, OK, Raw, bytes, choice, encode, many, message, number,
    number_of,
};

const COMPACT: &str = "/etcdserverpb.KV/Compact";
const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
const LEASES: &str = "/etcdserverpb.Lease/LeaseLeases";
const LOCK: &str = "/v3lockpb.Lock/Lock";
const UNLOCK: &str = "/v3lockpb.Lock/Unlock";
const CAMPAIGN: &str = "/v3electionpb.Election/Campaign";
const PROCLAIM: &str = "/v3electionpb.Election/Proclaim";
const LEADER: &str = "/v3electionpb.Election/Leader";
const RESIGN: &str = "/v3electionpb.Election/Resign";

/// Keys of clients, on both sides of the reserved prefix and next to it.
const KEYS: [&str; 8] = ["!", "/s", "/strongroom", "/strongroom0", "a", "b", "c", "~"];
/// Where ranges end; an empty one is no range.
const ENDS: [&str; 8] =
    ["\0", "/strongroom/", "/strongroom/m", "/strongroom0", "a", "c", "~", "~~"];
/// Where ranges begin that only read.
const RESERVED: [&str; 3] = ["/strongroom/", "/strongroom/keyring", "/strongroom/z"];
const VALUES: [&[u8]; 8] = [b"", b"1", b"2", b"2", b"3", b"30", b"\0SR", b"\xff\0"];

type Request = (&'static str, Vec<Node>);

fn key() -> impl Strategy<Value = &'static str> + Clone {
    select(&KEYS[..])
}

fn end() -> impl Strategy<Value = &'static str> {
    prop_oneof![3 => Just(""), 4 => select(&ENDS[..])]
}

fn value() -> impl Strategy<Value = &'static [u8]> + Clone {
    select(&VALUES[..])
}

/// One of five, of which the last is never granted.
fn lease() -> impl Strategy<Value = u64> + Clone {
    prop_oneof![8 => 101_u64..105, 1 => Just(105_u64)]
}

/// Set once in `times`.
fn flag(field: u64, times: u32) -> impl Strategy<Value = Node> {
    prop_oneof![times - 1 => Just(choice(field, 0)), 1 => Just(choice(field, 1))]
}

/// A revision near `now`, a future one or none.
fn revision(now: i64) -> impl Strategy<Value = u64> {
    prop_oneof![20 => now - 30..=now, 1 => now + 1..now + 3, 1 => -1_i64..2]
        .prop_map(|revision| revision as u64)
}

fn maybe(
    field: u64,
    times: u32,
    number: impl Strategy<Value = u64> + 'static,
) -> impl Strategy<Value = Node> {
    prop_oneof![times - 1 => Just(0_u64), 1 => number.boxed()]
        .prop_map(move |value| Node::Number(field, value))
}

fn range(now: i64) -> impl Strategy<Value = Vec<Node>> {
    let begin = prop_oneof![9 => key(), 2 => Just("\0"), 1 => select(&RESERVED[..])];
    let limit = prop_oneof![1 => 1_u64..4, 1 => Just(100_u64), 1 => Just(-1_i64 as u64)];
    let order = prop_oneof![2 => Just((0, 0)), 3 => (0_u64..3, 0_u64..5)];
    let options = (maybe(3, 3, limit), maybe(4, 3, revision(now)), order);
    let flags = (flag(7, 3), flag(8, 5), flag(9, 6));
    let filters = [10, 11, 12, 13].map(|field| maybe(field, 8, revision(now)));
    (begin, end(), options, flags, filters).prop_map(
        |(key, end, (limit, at, order), flags, filters)| {
            let mut request = vec![bytes(1, key), bytes(2, end), limit, at];
            request.extend([choice(5, order.0), choice(6, order.1), flags.0, flags.1, flags.2]);
            request.extend(filters);
            request
        },
    )
}

fn put() -> impl Strategy<Value = Vec<Node>> {
    let key = prop_oneof![30 => key(), 1 => Just("")];
    (key, value(), maybe(3, 4, lease()), flag(4, 2), flag(5, 8), flag(6, 8)).prop_map(
        |(key, value, lease, prev, ignore_value, ignore_lease)| {
            // Nearly all requests that keep the value bring none.
            let keeps = matches!(ignore_value, Node::Choice(_, 1)) && value != b"3";
            let value = if keeps { b"" } else { value };
            vec![bytes(1, key), bytes(2, value), lease, prev, ignore_value, ignore_lease]
        },
    )
}

fn delete() -> impl Strategy<Value = Vec<Node>> {
    let begin = prop_oneof![9 => key(), 1 => Just("\0")];
    (begin, end(), flag(3, 2)).prop_map(|(key, end, prev)| vec![bytes(1, key), bytes(2, end), prev])
}

fn compare(now: i64) -> impl Strategy<Value = Node> {
    let begin = prop_oneof![9 => key(), 1 => Just("\0"), 1 => select(&RESERVED[..])];
    // The field of the target, or now and then another's, which etcd takes for zero.
    let target = (0_u64..6).prop_map(|target| target.min(3)).prop_flat_map(|target| {
        let field = if target == 3 { 7 } else { target + 4 };
        (Just(target), prop_oneof![15 => Just(field), 1 => Just(7_u64), 1 => Just(4_u64)])
    });
    let target = prop_oneof![6 => target, 1 => Just((4, 8))];
    (0_u64..4, target, begin, end(), value(), revision(now), 0_u64..4, lease()).prop_map(
        |(result, (target, field), key, end, value, revision, version, lease)| {
            let union = match field {
                7 => bytes(7, value),
                4 => Node::Number(4, version),
                8 => Node::Number(8, if version == 0 { 0 } else { lease }),
                field => Node::Number(field, revision),
            };
            many(1, [choice(1, result), choice(2, target), bytes(3, key), union, bytes(64, end)])
        },
    )
}

fn txn(now: i64) -> impl Strategy<Value = Vec<Node>> {
    let leaf = prop_oneof![
        4 => put().prop_map(|request| vec![Node::Message(2, request)]),
        4 => range(now).prop_map(|request| vec![Node::Message(1, request)]),
        2 => delete().prop_map(|request| vec![Node::Message(3, checked(request))]),
    ];
    let op = leaf.prop_recursive(2, 8, 2, move |op| {
        of_ops(now, op.boxed()).prop_map(|request| vec![Node::Message(4, request)])
    });
    of_ops(now, op.boxed())
}

/// A deletion whose end etcd knows when it looks for keys that a transaction changes twice: by a fault of its own it does
/// not see those in a range that ends in `\0`. It sees them in the two ranges that the proxy makes of it.
fn checked(request: Vec<Node>) -> Vec<Node> {
    let end = |node| match node {
        Node::Bytes(2, end) if end == b"\0" => bytes(2, "~~"),
        node => node,
    };
    request.into_iter().map(end).collect()
}

fn of_ops(now: i64, op: BoxedStrategy<Vec<Node>>) -> impl Strategy<Value = Vec<Node>> {
    let ops =
        |field| prop::collection::vec(op.clone().prop_map(move |op| Node::Many(field, op)), 0..3);
    let compares = prop::collection::vec(compare(now), 0..3);
    (compares, ops(2), ops(3)).prop_map(|(compares, yes, no)| [compares, yes, no].concat())
}

fn leases() -> impl Strategy<Value = Request> {
    let ttl = prop_oneof![9 => 100_000_u64..200_000, 1 => Just(9_000_000_001)];
    prop_oneof![
        4 => (ttl, 101_u64..105).prop_map(|(ttl, id)| (GRANT, vec![number(1, ttl), number(2, id)])),
        1 => lease().prop_map(|id| (REVOKE, vec![number(1, id)])),
        3 => (lease(), flag(2, 2)).prop_map(|(id, keys)| (TIME_TO_LIVE, vec![number(1, id), keys])),
        1 => Just((LEASES, Vec::new())),
    ]
}

/// Locks and elections. They are never waited for: see [`History::next`].
fn concurrency() -> impl Strategy<Value = Request> {
    let lock = (select(&["lock/a", "lock/b"][..]), lease());
    let leader = (select(&["elect/a", "elect/b"][..]), lease(), 0_u64..8);
    let leader = leader.prop_map(|(name, lease, guess)| {
        let key = format!("{name}/{lease:x}");
        message(1, [bytes(1, name), bytes(2, key), number(3, guess), number(4, lease)])
    });
    let election = (select(&["elect/a", "elect/b"][..]), lease(), value());
    prop_oneof![
        2 => lock.clone().prop_map(|(name, id)| (LOCK, vec![bytes(1, name), number(2, id)])),
        1 => lock.prop_map(|(name, id)| (UNLOCK, vec![bytes(1, format!("{name}/{id:x}"))])),
        3 => election.clone().prop_map(|(name, id, value)| {
            (CAMPAIGN, vec![bytes(1, name), number(2, id), bytes(3, value)])
        }),
        2 => (leader.clone(), value()).prop_map(|(leader, value)| (PROCLAIM, vec![leader, bytes(2, value)])),
        2 => election.prop_map(|(name, ..)| (LEADER, vec![bytes(1, name)])),
        1 => leader.prop_map(|leader| (RESIGN, vec![leader])),
    ]
}

fn request(now: i64) -> impl Strategy<Value = Request> {
    let compaction = (now - 60..now - 5, flag(2, 2));
    prop_oneof![
        25 => put().prop_map(|request| (PUT, request)),
        25 => range(now).prop_map(|request| (RANGE, request)),
        8 => delete().prop_map(|request| (DELETE, request)),
        30 => txn(now).prop_map(|request| (TXN, request)),
        1 => compaction.prop_map(|(at, physical)| (COMPACT, vec![number(1, at as u64), physical])),
        8 => leases(),
        12 => concurrency(),
    ]
}

/// Two etcds that are asked the same.
struct History {
    pair: Pair,
    direct: Raw,
    proxied: Raw,
    runner: TestRunner,
    seed: u64,
    at: usize,
    revision: i64,
    /// How many requests of a method were answered, and how many were refused.
    told: BTreeMap<&'static str, [u32; 2]>,
}

impl History {
    async fn start(version: Version, seed: u64) -> Self {
        println!("a random history on etcd {}: STRONGROOM_TEST_SEED={seed}", version.name());
        let pair = Pair::start(version).await;
        let address = |endpoint: &str| endpoint.trim_start_matches("http://").to_owned();
        let direct = Raw::connect(&address(pair.direct.endpoint())).await;
        let proxied = Raw::connect(&address(&pair.proxy.endpoint)).await;
        let mut bits = [0; 32];
        bits[..8].copy_from_slice(&seed.to_le_bytes());
        let config = Config { failure_persistence: None, ..Config::default() };
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bits);
        let runner = TestRunner::new_with_rng(config, rng);
        let told = BTreeMap::new();
        let mut history = Self { pair, direct, proxied, runner, seed, at: 0, revision: 0, told };
        // What made both etcds' revisions equal is different on the two sides.
        history.ask(RANGE, &[bytes(1, "a")]).await;
        history.ask(COMPACT, &[number(1, history.revision as u64)]).await;
        for id in 101..104 {
            history.ask(GRANT, &[number(1, 100_000 + id), number(2, id)]).await;
        }
        history
    }

    /// The next request, such that it does not wait for another one.
    async fn next(&mut self) -> Request {
        let strategy = request(self.revision);
        let (path, mut request) = strategy.new_tree(&mut self.runner).unwrap().current();
        match (path, &mut request[..]) {
            (LOCK | CAMPAIGN, [Node::Bytes(_, name), Node::Number(_, lease), ..]) => {
                let name = String::from_utf8(name.clone()).unwrap();
                let all = [bytes(1, format!("{name}/")), bytes(2, format!("{name}0"))];
                let others = self.direct.call(RANGE, &encode(&all)).await;
                let own = format!("{name}/{lease:x}").into_bytes();
                let kvs = fields(Kind::Range, others.assert_ok(&name));
                for kv in kvs.iter().filter(|field| field.number == 2) {
                    if kv.inner(1).bytes != own {
                        return (UNLOCK, vec![bytes(1, &kv.inner(1).bytes)]);
                    }
                }
            }
            // Most are of the leader that there is.
            (PROCLAIM | RESIGN, [Node::Message(_, leader), ..]) => {
                if let [
                    Node::Bytes(_, name),
                    Node::Bytes(_, key),
                    Node::Number(_, at),
                    Node::Number(_, lease),
                ] = &mut leader[..]
                    && *at > 0
                {
                    let now = self.direct.call(LEADER, &encode(&[bytes(1, &*name)])).await;
                    let now = fields(Kind::Leader, now.first());
                    if let Some(kv) = now.iter().find(|field| field.number == 2) {
                        *key = kv.inner(1).bytes.clone();
                        *at = kv.inner(2).value;
                        *lease = kv.inner(6).value;
                    }
                }
            }
            _ => {}
        }
        (path, request)
    }

    async fn ask(&mut self, path: &'static str, request: &[Node]) {
        let sent = encode(&usual(request));
        let (expected, got) =
            tokio::join!(self.direct.call(path, &sent), self.proxied.call(path, &sent));
        assert_eq!(
            told(path, request, &got),
            told(path, request, &expected),
            "the proxy's answer (left) is not etcd's: seed {}, step {}: {path} {request:?}",
            self.seed,
            self.at
        );
        let ok = expected.status == Some(OK);
        self.told.entry(path).or_default()[usize::from(!ok)] += 1;
        if ok {
            self.revision = number_of(&crate::raw::bytes_of(expected.first(), 1), 3) as i64;
        }
    }
}

/// A request as clients encode it, without what is empty or zero. etcd takes an empty `range_end` that is there for one
/// that is `\0`, which the proxy does not.
fn usual(request: &[Node]) -> Vec<Node> {
    let is_there = |node: &&Node| match node {
        // The union of a comparison, and what is never zero.
        Node::Bytes(7, _) | Node::Number(4..=8, _) => true,
        Node::Bytes(_, bytes) => !bytes.is_empty(),
        Node::Number(_, number) | Node::Choice(_, number) => *number != 0,
        Node::Message(..) | Node::Many(..) => true,
    };
    let inner = |node: &Node| match node {
        Node::Message(field, nodes) => Node::Message(*field, usual(nodes)),
        Node::Many(field, nodes) => Node::Many(*field, usual(nodes)),
        node => node.clone(),
    };
    request.iter().filter(is_there).map(inner).collect()
}

/// What of an answer must be the same.
fn told(path: &str, request: &[Node], answer: &Answer) -> (u16, Option<i32>, String, Vec<Field>) {
    assert_eq!(answer.broken, None, "{path} {request:?}");
    let kind = match path {
        RANGE => Kind::Range,
        PUT => Kind::Put,
        DELETE => Kind::Delete,
        TXN => Kind::Txn,
        TIME_TO_LIVE => Kind::TimeToLive,
        LEASES => Kind::Leases,
        LEADER => Kind::Leader,
        CAMPAIGN => Kind::Campaign,
        _ => Kind::Other,
    };
    if path == TXN && answer.status == Some(INVALID_ARGUMENT) {
        // One of its faults is named, and not always the same one.
        return (answer.http, answer.status, String::new(), Vec::new());
    }
    let mut message = fields(kind, answer.first());
    settle(kind, request, &mut message);
    (answer.http, answer.status, answer.message.clone(), message)
}

/// All events of a watcher until the one of `revision`.
async fn events(stream: &mut crate::raw::Stream, revision: i64) -> Vec<Field> {
    let mut events: Vec<Field> = Vec::new();
    let last =
        |events: &[Field]| events.last().map_or(0, |event| event.inner(2).inner(3).value as i64);
    while last(&events) < revision {
        let message = fields(Kind::Watch, &stream.next().await.expect("the watcher lives"));
        assert!(!message.iter().any(|field| field.number == 4), "it was canceled: {message:?}");
        events.extend(message.into_iter().filter(|field| field.number == 11));
    }
    events
}

async fn watch(raw: &Raw, from: i64) -> crate::raw::Stream {
    let stream = raw.open(WATCH).await;
    let create = [bytes(1, "\0"), bytes(2, "\0"), number(3, from as u64), choice(6, 1)];
    stream.send(&encode(&[message(1, create)])).await;
    stream
}

async fn histories_are_equal(version: Version, seed: u64, steps: usize) {
    let mut history = History::start(version, seed).await;
    let mut watchers = [watch(&history.direct, 0).await, watch(&history.proxied, 0).await];
    for watcher in &mut watchers {
        let created = fields(Kind::Watch, &watcher.next().await.unwrap());
        assert!(created.iter().any(|field| field.number == 3), "{created:?}");
    }
    let (mut seen, mut compacted) = (history.revision, history.revision);
    let mut count = 0;
    for at in 0..=steps {
        history.at = at;
        let (path, request) = history.next().await;
        // What was before an event is told as long as it is not compacted.
        if (path == COMPACT || at == steps) && history.revision > seen {
            let [direct, proxied] = &mut watchers;
            let (expected, got) =
                tokio::join!(events(direct, history.revision), events(proxied, history.revision));
            assert_eq!(got, expected, "events: seed {seed}, step {at}");
            (seen, count) = (history.revision, count + expected.len());
        }
        let before = history.told.get(COMPACT).map_or(0, |told| told[0]);
        history.ask(path, &request).await;
        if history.told.get(COMPACT).map_or(0, |told| told[0]) > before {
            compacted = number_of(&encode(&request), 1) as i64;
        }
    }
    // All that is left, to watchers that come late.
    if history.revision > compacted {
        let from = compacted + 1;
        let mut late = [watch(&history.direct, from).await, watch(&history.proxied, from).await];
        let [direct, proxied] = &mut late;
        let (expected, got) =
            tokio::join!(events(direct, history.revision), events(proxied, history.revision));
        assert_eq!(got, expected, "events of the past: seed {seed}");
    }
    let all: [u32; 2] = [0, 1].map(|at| history.told.values().map(|told| told[at]).sum());
    println!("{count} events; answered and refused: {:?}", history.told);
    assert!(all[0] as usize > steps / 2 && all[1] > 0 && count > steps / 5, "{count} {all:?}");
    history.pair.proxy.stop().await;
}

const STEPS: usize = 400;

#[tokio::test(flavor = "multi_thread")]
async fn histories_are_equal_3_4() {
    histories_are_equal(Version::V3_4, 1, STEPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_are_equal_3_5() {
    histories_are_equal(Version::V3_5, 2, STEPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_are_equal_3_6() {
    histories_are_equal(Version::V3_6, 3, STEPS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn histories_are_equal_3_7() {
    histories_are_equal(Version::V3_7, 4, STEPS).await;
}

/// Seeds that nobody has seen before; `STRONGROOM_TEST_SEED` runs one again.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: 48 random histories"]
async fn long_histories_are_equal() {
    use rand_core::Rng;
    let given = std::env::var("STRONGROOM_TEST_SEED").ok().map(|seed| seed.parse().unwrap());
    let seeds = given.map_or_else(
        || (0..24).map(|_| strongroom::crypto::system_rng().next_u64()).collect(),
        |seed| vec![seed],
    );
    for seed in seeds {
        for version in Version::ENDS {
            histories_are_equal(version, seed, STEPS).await;
        }
    }
}
