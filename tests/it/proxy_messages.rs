//! Messages that two parsers could read differently, each of them in every place of every request: all are refused.
//!
//! etcd keeps the low 32 bits of a field's number and the last of several values.

use crate::behind::contains;
use crate::proxy_raw::{DELETE, KEYRING, Lab, PUT, RANGE, TXN, WATCH};
use crate::raw::{
    INVALID_ARGUMENT, Node, OK, bytes, bytes_of, choice, decode, encode, many, message, number,
    number_of, varint,
};

/// Requests of all kinds, as clients send them.
fn requests() -> Vec<(&'static str, Vec<Node>)> {
    let put = || [bytes(1, "/app/raw"), bytes(2, "plaintext-raw"), choice(4, 1)];
    let range = || {
        [
            bytes(1, "/app/a"),
            bytes(2, "/app/z"),
            number(3, 5),
            choice(5, 1),
            choice(6, 1),
            choice(7, 1),
        ]
    };
    let delete = || [bytes(1, "/gone/a"), bytes(2, "/gone/b"), choice(3, 1)];
    let by_revision = || [choice(1, 1), choice(2, 1), bytes(3, "/app/a"), number(5, 1)];
    let by_value = || {
        [
            choice(1, 1),
            choice(2, 3),
            bytes(3, "/app/a"),
            bytes(7, "plaintext-"),
            bytes(64, "/app/b"),
        ]
    };
    let leader = || [bytes(1, "office"), bytes(2, "office/1"), number(3, 5), number(4, 9)];
    let create = || {
        let options = [number(3, 1), choice(4, 1), number(7, 3)];
        [
            vec![bytes(1, "/app/"), bytes(2, "/app0")],
            options.to_vec(),
            vec![choice(6, 1), choice(8, 1)],
        ]
        .concat()
    };
    vec![
        (RANGE, range().to_vec()),
        (
            RANGE,
            vec![
                bytes(1, KEYRING),
                choice(8, 1),
                choice(9, 1),
                number(4, 1),
                number(10, 1),
                number(13, 9),
            ],
        ),
        ("/etcdserverpb.KV/RangeStream", range().to_vec()),
        (PUT, put().to_vec()),
        (PUT, vec![bytes(1, "/app/a"), choice(5, 1), choice(6, 1)]),
        (DELETE, delete().to_vec()),
        (
            TXN,
            vec![
                many(1, by_revision()),
                many(2, [message(2, put())]),
                many(3, [message(1, range())]),
            ],
        ),
        (
            TXN,
            vec![
                many(1, by_value()),
                many(2, [message(3, delete())]),
                many(3, [message(2, put())]),
            ],
        ),
        (TXN, vec![many(2, [message(4, [many(1, by_value()), many(2, [message(2, put())])])])]),
        (WATCH, vec![Node::Message(1, create())]),
        (WATCH, vec![message(2, [number(1, 3)])]),
        (WATCH, vec![message(3, [])]),
        ("/etcdserverpb.Lease/LeaseGrant", vec![number(1, 60), number(2, 7_000_001)]),
        ("/etcdserverpb.Lease/LeaseRevoke", vec![number(1, 7_000_002)]),
        ("/etcdserverpb.Lease/LeaseKeepAlive", vec![number(1, 7_000_002)]),
        ("/etcdserverpb.Lease/LeaseTimeToLive", vec![number(1, 7_000_002), choice(2, 1)]),
        ("/v3lockpb.Lock/Lock", vec![bytes(1, "lock"), number(2, 7_000_002)]),
        ("/v3lockpb.Lock/Unlock", vec![bytes(1, "lock/1")]),
        (
            "/v3electionpb.Election/Campaign",
            vec![bytes(1, "office"), number(2, 7_000_002), bytes(3, "plaintext-c")],
        ),
        ("/v3electionpb.Election/Proclaim", vec![message(1, leader()), bytes(2, "plaintext-p")]),
        ("/v3electionpb.Election/Resign", vec![message(1, leader())]),
        ("/v3electionpb.Election/Leader", vec![bytes(1, "office")]),
        ("/v3electionpb.Election/Observe", vec![bytes(1, "office")]),
    ]
}

/// The request's bytes, with `change` instead of the node at `path`.
fn encode_with(nodes: &[Node], path: &[usize], change: &dyn Fn(&Node) -> Vec<u8>) -> Vec<u8> {
    let mut out = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        match (node, path) {
            (_, [only]) if *only == at => out.extend(change(node)),
            (Node::Message(field, inner) | Node::Many(field, inner), [first, rest @ ..])
                if *first == at =>
            {
                out.extend(encode(&[bytes(*field, encode_with(inner, rest, change))]));
            }
            _ => out.extend(encode(std::slice::from_ref(node))),
        }
    }
    out
}

/// Where each node of a request is.
fn paths(nodes: &[Node]) -> Vec<Vec<usize>> {
    let mut all = Vec::new();
    for (at, node) in nodes.iter().enumerate() {
        all.push(vec![at]);
        if let Node::Message(_, inner) | Node::Many(_, inner) = node {
            all.extend(paths(inner).into_iter().map(|path| [vec![at], path].concat()));
        }
    }
    all
}

type Change = (&'static str, fn(&Node) -> Option<Vec<u8>>);

/// The node under another tag.
fn tagged(node: &Node, tag: impl Fn(u64) -> Vec<u8>) -> Option<Vec<u8>> {
    let (kind, content) = node.content();
    Some([tag(node.field() << 3 | kind), content].concat())
}

fn of_varint(number: u64) -> Vec<u8> {
    let mut out = Vec::new();
    varint(number, &mut out);
    out
}

/// A varint of so many bytes, of which the last one is `last`.
fn padded(number: u64, length: usize, last: u8) -> Vec<u8> {
    let mut out = of_varint(number);
    *out.last_mut().unwrap() |= 0x80;
    out.resize(length - 1, 0x80);
    out.push(last);
    out
}

fn replaced(node: &Node, kind: u64, content: &[u8]) -> Option<Vec<u8>> {
    Some([of_varint(node.field() << 3 | kind), content.to_vec()].concat())
}

fn chosen(node: &Node, number: u64) -> Option<Vec<u8>> {
    matches!(node, Node::Choice(..)).then(|| encode(&[Node::Number(node.field(), number)]))
}

/// What is no message of etcd's API, or what two parsers read differently.
const REFUSED: &[Change] = &[
    ("number + 2^32", |node| tagged(node, |tag| of_varint(tag + (1 << 35)))),
    ("number + 2^33", |node| tagged(node, |tag| of_varint(tag + (1 << 36)))),
    ("number + 2^60", |node| tagged(node, |tag| of_varint(tag | 1 << 63))),
    ("number + 2^29", |node| tagged(node, |tag| of_varint(tag + (1 << 32)))),
    ("number 0", |node| tagged(node, |tag| of_varint(tag & 7))),
    ("number 2^29 - 1", |node| tagged(node, |tag| of_varint((((1 << 29) - 1) << 3) | tag & 7))),
    ("a tag of 65 bits", |node| tagged(node, |tag| padded(tag, 10, 2))),
    ("a tag of eleven bytes", |node| tagged(node, |tag| padded(tag, 11, 0))),
    ("fixed64", |node| replaced(node, 1, &[1; 8])),
    ("fixed32", |node| replaced(node, 5, &[1; 4])),
    ("a group", |node| replaced(node, 3, &of_varint(node.field() << 3 | 4))),
    ("a group around it", |node| {
        let inner = encode(std::slice::from_ref(node));
        let end = of_varint(node.field() << 3 | 4);
        replaced(node, 3, &[inner, end].concat())
    }),
    ("an end of a group", |node| replaced(node, 4, &[])),
    ("wire type 6", |node| replaced(node, 6, &[1])),
    ("wire type 7", |node| replaced(node, 7, &[1])),
    ("a number instead of bytes", |node| {
        (node.content().0 == 2).then(|| replaced(node, 0, &[1])).flatten()
    }),
    ("bytes instead of a number", |node| {
        (node.content().0 == 0).then(|| replaced(node, 2, &[1, 1])).flatten()
    }),
    ("twice", |node| {
        (!matches!(node, Node::Many(..))).then(|| encode(&[node.clone(), node.clone()]))
    }),
    ("choice 100", |node| chosen(node, 100)),
    ("choice 2^31", |node| chosen(node, 1 << 31)),
    ("choice 2^32", |node| chosen(node, 1 << 32)),
    ("choice 2^32 + 1", |node| chosen(node, (1 << 32) + 1)),
    ("choice -1", |node| chosen(node, u64::MAX)),
    ("a number of 65 bits", |node| {
        (node.content().0 == 0).then(|| replaced(node, 0, &padded(1, 10, 2))).flatten()
    }),
    ("a length beyond the message", |node| {
        (node.content().0 == 2).then(|| replaced(node, 2, &of_varint(1 << 31))).flatten()
    }),
    ("a length of 2^64 - 1", |node| {
        (node.content().0 == 2).then(|| replaced(node, 2, &of_varint(u64::MAX))).flatten()
    }),
    ("an unknown field before it", |node| {
        Some([encode(&[number(100, 1)]), encode(std::slice::from_ref(node))].concat())
    }),
    ("unknown bytes after it", |node| {
        Some(
            [encode(std::slice::from_ref(node)), encode(&[bytes(63, "plaintext-unknown")])]
                .concat(),
        )
    }),
];

/// Other ways to write the same: taken for the same, or refused.
const EQUAL: &[Change] = &[
    ("a tag of two bytes more", |node| {
        tagged(node, |tag| padded(tag, of_varint(tag).len() + 2, 0))
    }),
    ("a tag of ten bytes", |node| tagged(node, |tag| padded(tag, 10, 0))),
    ("a longer length", |node| {
        let (kind, content) = node.content();
        let Node::Bytes(_, bytes) = node else { return None };
        let length = padded(bytes.len() as u64, of_varint(bytes.len() as u64).len() + 1, 0);
        assert_eq!(kind, 2, "{content:?}");
        replaced(node, kind, &[length, bytes.clone()].concat())
    }),
];

/// Whether `request` is refused as invalid: by a status, or within a stream of watches by a watch that is canceled as it
/// is created.
async fn refused(lab: &Lab, method: &str, request: &[u8]) -> Result<(), String> {
    if method == WATCH {
        let mut stream = lab.raw.open(method).await;
        stream.send(request).await;
        let answer = stream.next().await.map_err(|answer| format!("{answer:?}"))?;
        let canceled = (number_of(&answer, 3), number_of(&answer, 4)) == (1, 1);
        let reason = bytes_of(&answer, 6);
        return match canceled && contains(&reason, b"code = InvalidArgument desc = strongroom: ") {
            true => Ok(()),
            false => Err(format!("{answer:?}")),
        };
    }
    let call = lab.raw.call(method, request);
    match tokio::time::timeout(std::time::Duration::from_secs(5), call).await {
        Err(_) => Err("no answer".into()),
        Ok(answer) if answer.status == Some(INVALID_ARGUMENT) && answer.body.is_empty() => Ok(()),
        Ok(answer) => Err(format!("{answer:?}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_two_parsers_read_differently_is_refused() {
    for lab in Lab::both().await {
        let (mut failed, mut asked) = (Vec::new(), 0);
        let revision = lab.revision().await;
        for (method, nodes) in requests() {
            for path in paths(&nodes) {
                for (name, change) in REFUSED {
                    // A change that does not apply to this node leaves everything as it was.
                    let applies = std::cell::Cell::new(true);
                    let request = encode_with(&nodes, &path, &|node| {
                        change(node).unwrap_or_else(|| {
                            applies.set(false);
                            Vec::new()
                        })
                    });
                    // Nothing may tell this one from another field of the message.
                    if !applies.get() || failed.len() > 24 {
                        continue;
                    }
                    asked += 1;
                    if let Err(what) = refused(&lab, method, &request).await {
                        failed.push(format!("{method} {path:?} {name}: {what}"));
                    }
                }
            }
        }
        assert!(
            failed.is_empty(),
            "{} of {asked} were not refused:\n{}",
            failed.len(),
            failed.join("\n")
        );
        assert!(asked > 2000, "{asked}");
        lab.assert_untouched(revision).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_written_differently_means_the_same() {
    let lab = Lab::plain().await;
    for (method, nodes) in requests() {
        // These do not end by themselves.
        if ["Watch", "Observe", "Campaign", "/Lock"].iter().any(|name| method.ends_with(name)) {
            continue;
        }
        // What the other test changes is understood when it is not changed.
        let answer = lab.raw.call(method, &encode(&nodes)).await;
        assert!(answer.status.is_some() && answer.broken.is_none(), "{method}: {answer:?}");
        assert!(!answer.message.starts_with("strongroom"), "{method}: {answer:?}");
        for path in paths(&nodes) {
            for (name, change) in EQUAL {
                let same = |node: &Node| {
                    change(node).unwrap_or_else(|| encode(std::slice::from_ref(node)))
                };
                let answer = lab.raw.call(method, &encode_with(&nodes, &path, &same)).await;
                assert!(
                    answer.status.is_some() && answer.broken.is_none(),
                    "{method} {name}: {answer:?}"
                );
                assert!(!contains(&answer.body, b"strongroom-seal"), "{method} {name}");
                assert!(!contains(&answer.body, b"\0SR"), "{method} {name}");
            }
        }
    }
    for (method, nodes) in requests().into_iter().filter(|(method, _)| *method == WATCH) {
        let creates = nodes[0].field() == 1;
        for path in paths(&nodes) {
            for (_, change) in EQUAL {
                let same = |node: &Node| {
                    change(node).unwrap_or_else(|| encode(std::slice::from_ref(node)))
                };
                let mut stream = lab.raw.open(method).await;
                stream.send(&encode_with(&nodes, &path, &same)).await;
                if creates && let Ok(created) = stream.next().await {
                    assert_eq!(
                        (number_of(&created, 2), number_of(&created, 4)),
                        (3, 0),
                        "{path:?}"
                    );
                }
            }
        }
        let mut stream = lab.raw.open(method).await;
        stream.send(&encode(&nodes)).await;
        assert!(!creates || stream.next().await.is_ok());
    }
    lab.assert_encrypted();
}

/// The instances that were found first: what each of them did.
#[tokio::test(flavor = "multi_thread")]
async fn field_numbers_beyond_32_bits_do_nothing() {
    const BIG: u64 = 1 << 32;
    for lab in Lab::both().await {
        let keyring = lab.stored(KEYRING).await;
        let put = |key: &str, big: u64| [bytes(big + 1, key), bytes(big + 2, "plaintext-hidden")];
        for (method, request) in [
            (PUT, put("/app/hidden", BIG).to_vec()),
            (PUT, put("/strongroom/evil", BIG).to_vec()),
            (RANGE, vec![bytes(BIG + 1, KEYRING)]),
            (RANGE, vec![bytes(BIG + 1, "/app/a")]),
            (RANGE, vec![bytes(1, "/app/a"), bytes(BIG + 1, KEYRING)]),
            (DELETE, vec![bytes(BIG + 1, KEYRING)]),
            (DELETE, vec![bytes(1, "/none"), bytes(BIG + 1, KEYRING)]),
            (TXN, vec![many(BIG + 2, [message(2, put("/app/hidden", 0))])]),
            (TXN, vec![many(2, [message(BIG + 2, put("/strongroom/evil", 0))])]),
            (TXN, vec![many(2, [message(2, put("/app/hidden", BIG))])]),
            (TXN, vec![many(2, [message(4, [many(2, [message(BIG + 3, [bytes(1, KEYRING)])])])])]),
            (WATCH, vec![message(BIG + 1, [bytes(1, KEYRING), number(3, 1)])]),
            (WATCH, vec![message(1, [bytes(BIG + 1, KEYRING), number(3, 1)])]),
            ("/v3lockpb.Lock/Unlock", vec![bytes(BIG + 1, KEYRING)]),
            ("/v3electionpb.Election/Resign", vec![message(1, [bytes(BIG + 2, KEYRING)])]),
        ] {
            let answered = refused(&lab, method, &encode(&request)).await;
            assert_eq!(answered, Ok(()), "{method} {request:?}");
        }
        for key in ["/app/hidden", "/strongroom/evil"] {
            assert_eq!(lab.stored(key).await, None, "{key}");
        }
        assert_eq!(lab.stored(KEYRING).await, keyring);
        lab.assert_encrypted();
    }
}

/// A transaction within a transaction within …
#[tokio::test(flavor = "multi_thread")]
async fn transactions_may_be_nested_as_deep_as_they_are_understood() {
    let lab = Lab::plain().await;
    for depth in [2, 50, 99, 120, 1000, 20_000] {
        let mut request =
            encode(&[many(2, [message(2, [bytes(1, "/app/deep"), bytes(2, "plaintext-deep")])])]);
        for _ in 0..depth {
            request = encode(&[bytes(2, encode(&[bytes(4, request)]))]);
        }
        let answer = lab.raw.call(TXN, &request).await;
        assert_eq!(answer.broken, None, "{depth}");
        let expected = if depth < 100 { OK } else { INVALID_ARGUMENT };
        assert_eq!(answer.status, Some(expected), "{depth}: {}", answer.message);
    }
    lab.assert_encrypted();
}

/// A bad message in a stream of watches cancels that watch, and the others go on; one that keeps leases alive ends with a
/// status.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_message_in_a_stream_has_a_status() {
    let lab = Lab::plain().await;
    let bad = encode(&[bytes((1 << 32) + 1, "plaintext-x")]);
    let mut stream = lab.raw.open(WATCH).await;
    stream.send(&encode(&[message(1, [bytes(1, "/app/after")])])).await;
    assert!(stream.next().await.is_ok());
    for _ in 0..3 {
        stream.send(&bad).await;
        let answer = stream.next().await.unwrap();
        assert_eq!((number_of(&answer, 3), number_of(&answer, 4)), (1, 1), "{answer:?}");
    }
    lab.put("/app/after", "plaintext-after").await;
    assert!(contains(&stream.next().await.unwrap(), b"plaintext-after"));

    const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
    let mut stream = lab.raw.open(KEEP_ALIVE).await;
    stream.send(&encode(&[number(1, 9)])).await;
    assert!(!decode(&stream.next().await.unwrap()).is_empty());
    stream.send(&bad).await;
    stream.next().await.unwrap_err().assert_refused(INVALID_ARGUMENT, KEEP_ALIVE);
    // At once, too.
    let mut stream = lab.raw.open(KEEP_ALIVE).await;
    stream.send(&bad).await;
    stream.next().await.unwrap_err().assert_refused(INVALID_ARGUMENT, KEEP_ALIVE);
    lab.put("/app/after", "plaintext-after").await;
}
