//! Ranges that stream (etcd 3.7): through the proxy as from etcd itself, with the values decrypted.

use strongroom::values::DEFAULT_PREFIX;

use crate::etcd_server::Version;
use crate::proxied::Pair;
use crate::raw::{Answer, Node, OK, Raw, bytes, choice, decode, encode, number, number_of};

const RANGE_STREAM: &str = "/etcdserverpb.KV/RangeStream";
const PUT: &str = "/etcdserverpb.KV/Put";

/// What the messages of a stream say together. etcd cuts them by size, which encryption changes.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    status: Option<i32>,
    message: String,
    key_values: Vec<Vec<u8>>,
    more: u64,
    count: u64,
    revision: u64,
    /// How many of the messages have a header: the last one.
    headers: usize,
}

fn said(answer: &Answer) -> Said {
    assert_eq!(answer.broken, None, "{answer:?}");
    let (mut key_values, mut headers, mut last) = (Vec::new(), 0, Vec::new());
    let mut rest = &answer.body[..];
    while let Some((prefix, after)) = rest.split_at_checked(5) {
        let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
        let (message, after) = after.split_at(length);
        rest = after;
        let range = decode(message).into_iter().find(|(field, ..)| *field == 1).unwrap().2;
        for (field, _, content) in decode(&range) {
            match field {
                1 => {
                    headers += 1;
                    assert!(rest.is_empty(), "a header before the last message");
                    last = content;
                }
                2 => key_values.push(content),
                _ => assert!(rest.is_empty(), "field {field} before the last message"),
            }
        }
        if rest.is_empty() {
            let (more, count) = (number_of(&range, 3), number_of(&range, 4));
            let (status, message) = (answer.status, answer.message.clone());
            let revision = number_of(&last, 3);
            return Said { status, message, key_values, more, count, revision, headers };
        }
    }
    let (status, message) = (answer.status, answer.message.clone());
    Said { status, message, key_values, more: 0, count: 0, revision: 0, headers }
}

fn limited(limit: u64) -> Vec<Node> {
    vec![bytes(1, "\0"), bytes(2, "\0"), number(3, limit)]
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_that_stream_are_etcds() {
    let pair = Pair::start(Version::V3_7).await;
    let direct = Raw::connect(pair.direct.endpoint().trim_start_matches("http://")).await;
    let proxied = Raw::connect(pair.proxy.endpoint.trim_start_matches("http://")).await;
    // On both sides of the reserved prefix; more than etcd sends in its first message.
    for at in 0..120 {
        let side = if at % 2 == 0 { "#" } else { "~" };
        let put = encode(&[bytes(1, format!("{side}{at:03}")), bytes(2, vec![b'v'; 3000 + at])]);
        for client in [&direct, &proxied] {
            client.call(PUT, &put).await.assert_ok("put");
        }
    }
    let with = |nodes: &[Node]| [limited(0), nodes.to_vec()].concat();
    let mut requests = vec![
        with(&[choice(8, 1)]),
        with(&[choice(9, 1)]),
        with(&[choice(7, 1)]),
        with(&[number(4, 50)]),
        with(&[number(4, 5000)]),
        // etcd refuses every order but its own, and every filter.
        with(&[choice(5, 2), choice(6, 4)]),
        with(&[choice(5, 1), choice(6, 4)]),
        with(&[choice(6, 4)]),
        with(&[choice(5, 1)]),
        with(&[choice(5, 2)]),
        with(&[number(10, 7)]),
        with(&[number(13, 7)]),
        vec![bytes(1, "#"), bytes(2, "$")],
        vec![bytes(1, "#000")],
        vec![bytes(1, "none")],
        vec![bytes(1, "/strongroom0"), bytes(2, "\0")],
        [limited(3), vec![choice(8, 1)]].concat(),
        [limited(3), vec![choice(9, 1)]].concat(),
        vec![],
    ];
    requests.extend([1, 2, 10, 59, 60, 61, 119, 120, 121].map(limited));
    for nodes in requests {
        let request = encode(&nodes);
        let expected = said(&direct.call(RANGE_STREAM, &request).await);
        let got = said(&proxied.call(RANGE_STREAM, &request).await);
        assert_eq!(got, expected, "{nodes:?}");
        let refused = expected.status != Some(OK);
        assert_eq!(expected.headers, usize::from(!refused), "{nodes:?}: {expected:?}");
    }
    let reserved = encode(&[bytes(1, DEFAULT_PREFIX), bytes(2, "/strongroom0")]);
    let nothing = said(&proxied.call(RANGE_STREAM, &reserved).await);
    assert_eq!((nothing.status, nothing.count, nothing.key_values.len()), (Some(OK), 0, 0));

    // A stream that fails on its way has a status.
    let mut behind = pair.behind.client().await;
    behind.put("#150", "unencrypted", None).await.unwrap();
    let failed = proxied.call(RANGE_STREAM, &encode(&limited(0))).await;
    assert_eq!((failed.status, &failed.broken), (Some(crate::raw::DATA_LOSS), &None));
    pair.proxy.stop().await;
}

/// An etcd without such ranges says so itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_etcd_has_none() {
    let pair = Pair::start(Version::V3_5).await;
    let proxied = Raw::connect(pair.proxy.endpoint.trim_start_matches("http://")).await;
    let answer = proxied.call(RANGE_STREAM, &encode(&limited(0))).await;
    answer.assert_refused(crate::raw::UNIMPLEMENTED, "an older etcd");
}
