//! The same operations on an etcd and through the proxy: the same answers, field by field.

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, EventType, GetOptions, PutOptions, SortOrder,
    SortTarget, Txn, TxnOp, WatchOptions,
};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use strongroom::format::MigrationPhase;
use strongroom::values::DEFAULT_PREFIX;

use crate::etcd_server::Version;
use crate::proxied::{Pair, plain};

/// One operation of the table.
#[derive(Clone, Debug)]
enum Do {
    Put(&'static str, &'static str, fn() -> PutOptions),
    Get(&'static str, fn() -> GetOptions),
    Delete(&'static str, fn() -> DeleteOptions),
    Txn(fn() -> Txn),
    Compact(i64),
    Grant,
    Defragment,
}

async fn run(client: &mut Client, operation: &Do) -> String {
    match operation {
        Do::Put(key, value, options) => plain(&client.put(*key, *value, Some(options())).await),
        Do::Get(key, options) => plain(&client.get(*key, Some(options())).await),
        Do::Delete(key, options) => plain(&client.delete(*key, Some(options())).await),
        Do::Txn(txn) => plain(&client.txn(txn()).await),
        Do::Compact(revision) => plain(&client.compact(*revision, None).await),
        Do::Grant => plain(
            &client.lease_grant(600, Some(etcd_client::LeaseGrantOptions::new().with_id(7))).await,
        ),
        Do::Defragment => plain(&client.defragment().await),
    }
}

fn all() -> GetOptions {
    GetOptions::new().with_all_keys()
}

fn by_value(order: SortOrder) -> GetOptions {
    all().with_sort(SortTarget::Value, order)
}

fn value(key: &str, op: CompareOp, value: &str) -> Compare {
    Compare::value(key, op, value)
}

fn put(key: &str, value: &str) -> TxnOp {
    TxnOp::put(key, value, None)
}

fn get(key: &str) -> TxnOp {
    TxnOp::get(key, None)
}

/// A transaction that says which way it went.
fn when(compares: impl Into<Vec<Compare>>) -> Txn {
    Txn::new()
        .when(compares)
        .and_then([put("went", "yes"), get("a")])
        .or_else([put("went", "no"), TxnOp::get("", Some(all()))])
}

fn table() -> Vec<Do> {
    use CompareOp::{Equal, Greater, Less, NotEqual};
    let none = PutOptions::new;
    vec![
        Do::Put("a", "1", none),
        Do::Put("a", "2", || PutOptions::new().with_prev_key()),
        Do::Put("b", "", none),
        Do::Put("b", "", || PutOptions::new().with_prev_key()),
        Do::Put("", "no key", none),
        Do::Put("c", "3", || PutOptions::new().with_lease(99)),
        Do::Grant,
        Do::Put("c", "3", || PutOptions::new().with_lease(7)),
        Do::Put("c", "", || PutOptions::new().with_ignore_value().with_prev_key()),
        Do::Put("c", "given", || PutOptions::new().with_ignore_value()),
        Do::Put("c", "4", || PutOptions::new().with_ignore_lease().with_prev_key()),
        Do::Put("none", "", || PutOptions::new().with_ignore_value()),
        Do::Put("d", "same", none),
        Do::Put("e", "same", none),
        Do::Put("~", "after the reserved prefix", none),
        Do::Put("#", "before it", none),
        Do::Get("a", GetOptions::new),
        Do::Get("none", GetOptions::new),
        Do::Get("", GetOptions::new),
        Do::Get("", all),
        Do::Get("", || all().with_limit(1)),
        Do::Get("", || all().with_limit(2)),
        Do::Get("", || all().with_limit(7)),
        Do::Get("", || all().with_limit(100)),
        Do::Get("", || all().with_keys_only()),
        Do::Get("", || all().with_count_only()),
        Do::Get("", || all().with_serializable()),
        Do::Get("", || all().with_revision(5)),
        Do::Get("", || all().with_revision(5000)),
        Do::Get("a", || GetOptions::new().with_revision(5000)),
        Do::Get("", || all().with_min_mod_revision(8).with_limit(2)),
        Do::Get("", || all().with_max_create_revision(6)),
        Do::Get("", || all().with_sort(SortTarget::Key, SortOrder::Descend).with_limit(3)),
        Do::Get("", || all().with_sort(SortTarget::Mod, SortOrder::Descend).with_limit(3)),
        Do::Get("", || all().with_sort(SortTarget::Version, SortOrder::Descend).with_limit(1)),
        Do::Get("", || all().with_sort(SortTarget::Create, SortOrder::Ascend)),
        Do::Get("a", || {
            GetOptions::new().with_range("d").with_sort(SortTarget::Value, SortOrder::Descend)
        }),
        Do::Get("", || by_value(SortOrder::Ascend).with_limit(1)),
        Do::Get("", || by_value(SortOrder::Descend).with_limit(3)),
        Do::Get("", || by_value(SortOrder::None).with_limit(2)),
        Do::Get("a", || {
            GetOptions::new()
                .with_range("d")
                .with_sort(SortTarget::Value, SortOrder::None)
                .with_limit(2)
        }),
        Do::Get("a", || {
            GetOptions::new()
                .with_range("d")
                .with_sort(SortTarget::Value, SortOrder::Ascend)
                .with_keys_only()
        }),
        Do::Get("z", || GetOptions::new().with_range("a")),
        Do::Txn(|| when([value("a", Equal, "2")])),
        Do::Txn(|| when([value("a", Equal, "1")])),
        Do::Txn(|| when([value("a", NotEqual, "1")])),
        Do::Txn(|| when([value("a", Greater, "1"), value("c", Less, "5")])),
        Do::Txn(|| when([value("a", Greater, "2")])),
        Do::Txn(|| when([value("b", Equal, "")])),
        Do::Txn(|| when([value("none", Equal, "")])),
        Do::Txn(|| when([value("none", NotEqual, "x")])),
        Do::Txn(|| when([value("", Equal, "x")])),
        Do::Txn(|| when([value("d", Equal, "same").with_range("f")])),
        Do::Txn(|| when([value("a", NotEqual, "zzz").with_range("zz")])),
        Do::Txn(|| when([value("c", Equal, "same").with_range("f")])),
        Do::Txn(|| when([value("n", Equal, "same").with_range("o")])),
        Do::Txn(|| when([value("a", Equal, "2"), Compare::version("none", Equal, 0)])),
        Do::Txn(|| when([value("a", Equal, "2"), Compare::version("n", Equal, 0).with_range("o")])),
        Do::Txn(|| when([value("a", Equal, "2"), Compare::mod_revision("a", Greater, 5000)])),
        Do::Txn(|| {
            when([
                value("a", Equal, "2"),
                Compare::create_revision("a", Less, 5000).with_range("z"),
            ])
        }),
        Do::Txn(|| when([value("c", Equal, "4"), Compare::lease("c", Equal, 7)])),
        Do::Txn(|| when([Compare::version("a", Equal, 2)])),
        Do::Txn(|| when([])),
        Do::Txn(|| {
            let inner = Txn::new()
                .when([value("d", Equal, "same")])
                .and_then([
                    put("f", "nested"),
                    TxnOp::delete("e", Some(DeleteOptions::new().with_prev_key())),
                ])
                .or_else([put("f", "other")]);
            Txn::new()
                .when([value("a", Equal, "2")])
                .and_then([put("g", "1"), TxnOp::txn(inner), get("g")])
                .or_else([get("a")])
        }),
        Do::Txn(|| {
            let inner = Txn::new().when([value("f", Equal, "nested")]).and_then([get("f")]);
            Txn::new().when([value("a", Equal, "no")]).or_else([TxnOp::txn(inner), get("a")])
        }),
        Do::Txn(|| {
            Txn::new().when([value("a", Equal, "2")]).and_then([put("h", "1"), put("h", "2")])
        }),
        Do::Txn(|| {
            Txn::new().when([value("a", Equal, "2")]).or_else([put("h", "1"), put("h", "2")])
        }),
        Do::Txn(|| {
            let many: Vec<_> = (0..200).map(|at| put(&format!("k{at}"), "v")).collect();
            Txn::new().when([value("a", Equal, "2")]).and_then(many)
        }),
        Do::Txn(|| {
            let many: Vec<_> = (0..128)
                .map(|at| value("d", Equal, if at == 0 { "same" } else { "SAME" }))
                .collect();
            when(many)
        }),
        Do::Txn(|| {
            let many: Vec<_> = (0..128)
                .map(|at| value(&format!("d{at}"), NotEqual, "x").with_range("f"))
                .collect();
            when(many)
        }),
        Do::Txn(|| {
            Txn::new().and_then([
                TxnOp::delete("", Some(DeleteOptions::new().with_from_key())),
                put("i", "1"),
            ])
        }),
        Do::Txn(|| {
            Txn::new().and_then([
                put("i", "1"),
                get("i"),
                TxnOp::get("", Some(by_value(SortOrder::Descend))),
            ])
        }),
        Do::Delete("d", || DeleteOptions::new().with_prev_key()),
        Do::Delete("none", DeleteOptions::new),
        Do::Delete("", DeleteOptions::new),
        Do::Delete("#", || DeleteOptions::new().with_range("b").with_prev_key()),
        Do::Compact(6),
        Do::Compact(5),
        Do::Compact(5000),
        Do::Get("", || all().with_revision(5)),
        Do::Get("a", || GetOptions::new().with_revision(5)),
        Do::Get("", || all().with_revision(7)),
        Do::Delete("", || DeleteOptions::new().with_all_keys().with_prev_key()),
        Do::Get("", all),
        Do::Put("a", "at last", none),
        Do::Get("", all),
        Do::Defragment,
    ]
}

async fn conform(version: Version, mixed: bool) {
    let pair = Pair::start(version).await;
    let (mut direct, mut proxied) = (pair.direct.client().await, pair.proxy.client().await);
    let mut behind = pair.behind.client().await;
    if mixed {
        // Admitting clear values changes the keyring's record: a revision that the other side is to have too.
        let back = MigrationPhase::AdmitBack;
        pair.proxy.namespace.set_phase(b"", back, Duration::ZERO).await.unwrap();
        direct.delete("~", None).await.unwrap();
        direct.put("~", "", None).await.unwrap();
        direct.delete("~", None).await.unwrap();
        behind.put(format!("{DEFAULT_PREFIX}x"), "", None).await.unwrap();
    }
    for (at, operation) in table().iter().enumerate() {
        let clear = mixed && at % 2 == 0 && matches!(operation, Do::Put(..));
        let expected = run(&mut direct, operation).await;
        let got = run(if clear { &mut behind } else { &mut proxied }, operation).await;
        if !clear {
            assert_eq!(got, expected, "{at}: {operation:?}");
        }
    }
    let history = |mut client: Client| async move {
        let options = WatchOptions::new().with_all_keys().with_prev_key().with_start_revision(7);
        let mut stream = client.watch("", Some(options)).await.unwrap();
        let mut seen = Vec::new();
        while let Some(response) = stream.message().await.unwrap() {
            for event in response.events() {
                seen.push(plain(event));
                if event.kv().unwrap().value() == b"at last" {
                    return seen;
                }
            }
        }
        panic!("the watch ended")
    };
    let (expected, got) = (history(direct).await, history(proxied).await);
    assert!(expected.len() > 20, "{}", expected.len());
    if !mixed {
        assert_eq!(got, expected);
    }
    assert_eq!(got.len(), expected.len());
    pair.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_etcds_3_4() {
    conform(Version::V3_4, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_etcds_3_5() {
    conform(Version::V3_5, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_etcds_3_6() {
    conform(Version::V3_6, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_etcds_3_7() {
    conform(Version::V3_7, false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_are_etcds_with_clear_values_among_them() {
    conform(Version::NEWEST, true).await;
}

fn compare() -> impl Strategy<Value = Compare> {
    let op = prop_oneof![
        Just(CompareOp::Equal),
        Just(CompareOp::NotEqual),
        Just(CompareOp::Greater),
        Just(CompareOp::Less)
    ];
    let key = prop_oneof!["[a-e]", Just("/strongroom/keyring".to_owned()), Just("!".to_owned())];
    let end = prop_oneof![3 => Just(String::new()), 1 => "[b-f]", 1 => Just("\0".to_owned())];
    (0..5, op, key, end, "[0-3]?", 0_i64..6).prop_map(|(target, op, key, end, value, number)| {
        let compare = match target {
            0 => Compare::version(key, op, number),
            1 => Compare::create_revision(key, op, number * 4),
            2 => Compare::mod_revision(key, op, number * 8),
            _ => Compare::value(key, op, value),
        };
        if end.is_empty() { compare } else { compare.with_range(end) }
    })
}

fn txn_op() -> impl Strategy<Value = TxnOp> {
    let leaf = prop_oneof![
        3 => ("[a-e]", "[0-3]?").prop_map(|(key, value)| put(&key, &value)),
        1 => "[a-e]".prop_map(|key| TxnOp::put(key, "2", Some(PutOptions::new().with_prev_key()))),
        1 => "[a-e]".prop_map(|key| TxnOp::delete(key, Some(DeleteOptions::new().with_prev_key()))),
        1 => ("[a-c]", "[b-e]").prop_map(|(key, end)| TxnOp::delete(key, Some(DeleteOptions::new().with_range(end)))),
        2 => (0_i64..4).prop_map(|limit| TxnOp::get("", Some(all().with_limit(limit)))),
        1 => Just(TxnOp::get("", Some(by_value(SortOrder::Ascend)))),
    ];
    leaf.prop_recursive(2, 8, 3, |op| txn(op).prop_map(TxnOp::txn))
}

fn txn(op: impl Strategy<Value = TxnOp> + 'static) -> impl Strategy<Value = Txn> {
    let op = op.boxed();
    (
        prop::collection::vec(compare(), 0..4),
        prop::collection::vec(op.clone(), 0..4),
        prop::collection::vec(op, 0..4),
    )
        .prop_map(|(compares, yes, no)| Txn::new().when(compares).and_then(yes).or_else(no))
}

/// Values that are equal come in etcd in no certain order when sorted by: here they are told apart by their number.
#[tokio::test(flavor = "multi_thread")]
async fn random_transactions() {
    let pair = Pair::start(Version::NEWEST).await;
    let (mut direct, mut proxied) = (pair.direct.client().await, pair.proxy.client().await);
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    for at in 0..600 {
        let txn = txn(txn_op()).new_tree(&mut runner).unwrap().current();
        let expected = plain(&direct.txn(txn.clone()).await);
        let got = plain(&proxied.txn(txn.clone()).await);
        assert_eq!(unordered(&got), unordered(&expected), "{at}: {txn:?}\n{got}\n{expected}");
    }
    let expected = plain(&direct.get("", Some(all())).await);
    assert_eq!(plain(&proxied.get("", Some(all())).await), expected);
}

/// The text's words in order: two answers with the same have the same keys and values.
fn unordered(text: &str) -> Vec<&str> {
    let mut words: Vec<_> = text.split(' ').collect();
    words.sort_unstable();
    words
}

/// Counters that are only ever changed by comparing their values: no increment is lost, none is made twice.
#[tokio::test(flavor = "multi_thread")]
async fn increments_by_comparison_of_values() {
    for version in Version::ENDS {
        let pair = Pair::start(version).await;
        pair.proxy.client().await.put("n", "0", None).await.unwrap();
        let mut writers = Vec::new();
        for _ in 0..8 {
            let mut client = pair.proxy.client().await;
            writers.push(tokio::spawn(async move {
                let mut done = 0;
                while done < 25 {
                    let answer = client.get("n", None).await.unwrap();
                    let now = answer.kvs()[0].value_str().unwrap().to_owned();
                    let next = (now.parse::<u32>().unwrap() + 1).to_string();
                    let txn = Txn::new()
                        .when([value("n", CompareOp::Equal, &now)])
                        .and_then([put("n", &next)]);
                    done += u32::from(client.txn(txn).await.unwrap().succeeded());
                }
            }));
        }
        for writer in writers {
            writer.await.unwrap();
        }
        let mut client = pair.proxy.client().await;
        assert_eq!(client.get("n", None).await.unwrap().kvs()[0].value(), b"200");
        assert_eq!(client.get("n", None).await.unwrap().kvs()[0].version(), 201);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_what_was_written() {
    let pair = Pair::start(Version::NEWEST).await;
    let mut client = pair.proxy.client().await;
    let options = WatchOptions::new().with_prefix().with_prev_key();
    let mut stream = client.watch("w", Some(options)).await.unwrap();
    assert!(stream.message().await.unwrap().unwrap().created());
    client.put("w", "one", None).await.unwrap();
    client.delete("w", None).await.unwrap();
    let mut events = Vec::new();
    while events.len() < 2 {
        events.extend(stream.message().await.unwrap().unwrap().events().to_vec());
    }
    assert_eq!(events[0].kv().unwrap().value(), b"one");
    assert_eq!(events[1].event_type(), EventType::Delete);
    assert_eq!(events[1].prev_kv().unwrap().value(), b"one");
}
