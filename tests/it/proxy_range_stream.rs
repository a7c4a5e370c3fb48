//! `RangeStream` of etcd 3.7: through the proxy what etcd answers directly, decrypted.

use crate::behind::Behind;
use crate::etcd_server::{Etcd, Version};
use crate::raw::{
    Answer, Node, Raw, bytes, bytes_of, choice, decode, encode, framed, number, number_of,
};

/// What the chunks of a stream say together.
#[derive(Debug, PartialEq, Default)]
struct Whole {
    status: Option<i32>,
    message: String,
    broken: Option<String>,
    /// Key, value's length, value's first bytes, version.
    kvs: Vec<(Vec<u8>, usize, Vec<u8>, u64)>,
    more: u64,
    count: u64,
}

fn whole(answer: Answer) -> Whole {
    let mut whole = Whole {
        status: answer.status,
        message: answer.message,
        broken: answer.broken,
        ..Whole::default()
    };
    let mut rest = &answer.body[..];
    while !rest.is_empty() {
        let end = 5 + u32::from_be_bytes(rest[1..5].try_into().unwrap()) as usize;
        let range = bytes_of(&rest[5..end], 1);
        rest = &rest[end..];
        for (field, _, kv) in decode(&range) {
            if field == 2 {
                let value = bytes_of(&kv, 5);
                let first = value[..value.len().min(20)].to_vec();
                whole.kvs.push((bytes_of(&kv, 1), value.len(), first, number_of(&kv, 4)));
            }
        }
        whole.more |= number_of(&range, 3);
        whole.count += number_of(&range, 4);
    }
    whole
}

async fn stream(raw: &Raw, request: &[Node]) -> Whole {
    let path = "/etcdserverpb.KV/RangeStream";
    whole(raw.send(raw.request(path), &framed(&encode(request))).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_answers_as_etcd() {
    let behind = tokio::task::spawn_blocking(|| Behind::start(Version::V3_7)).await.unwrap();
    let (etcd, proxy) = (Etcd::start(Version::V3_7).await, behind.proxy(&[]));
    let direct = Raw::connect(etcd.endpoint().trim_start_matches("http://")).await;
    let through = Raw::connect(&proxy.address).await;
    // The keyring is one revision of the other.
    etcd.put("x", "").await;
    let filler = "-".repeat(30_000);
    for raw in [&direct, &through] {
        for at in 0..150 {
            let value = format!("plaintext-{:03}{filler}", (at * 77) % 150);
            let request = [bytes(1, format!("/s/{at:03}")), bytes(2, value)];
            raw.call("/etcdserverpb.KV/Put", &encode(&request)).await.assert_ok("put");
        }
        for key in ["/s/007", "/a", "/z"] {
            let request = [bytes(1, key), bytes(2, "plaintext-again")];
            raw.call("/etcdserverpb.KV/Put", &encode(&request)).await.assert_ok("put");
        }
        raw.call("/etcdserverpb.KV/DeleteRange", &encode(&[bytes(1, "x")])).await;
    }
    let prefix = || [bytes(1, "/s/"), bytes(2, "/s0")];
    let mut requests = vec![
        vec![bytes(1, "\0"), bytes(2, "\0")],
        vec![bytes(1, "/"), bytes(2, "\0")],
        vec![bytes(1, "/a"), bytes(2, "/t")],
        vec![bytes(1, "/s/007")],
        vec![bytes(1, "/none")],
        vec![bytes(1, "")],
        vec![bytes(2, "/s0")],
        vec![bytes(1, "/z"), bytes(2, "/a")],
    ];
    let options = [
        vec![],
        vec![choice(7, 1)],
        vec![choice(8, 1)],
        vec![choice(9, 1)],
        vec![number(3, 1)],
        vec![number(3, 2)],
        vec![number(3, 149)],
        vec![number(3, 150)],
        vec![number(3, 1000)],
        vec![number(3, 2), choice(8, 1)],
        vec![number(3, 2), choice(9, 1)],
        vec![number(4, 60)],
        vec![number(4, 60), number(3, 7)],
        vec![number(4, 100_000)],
        vec![number(4, -1_i64 as u64)],
        vec![number(3, -1_i64 as u64)],
        vec![number(10, 50)],
        vec![number(11, 50)],
        vec![number(12, 50)],
        vec![number(13, 50), number(3, 3)],
    ];
    requests.extend(options.into_iter().map(|option| [&prefix()[..], &option].concat()));
    for target in 0..=4 {
        for order in 0..=2 {
            let sorted = [&prefix()[..], &[choice(5, order), choice(6, target)]].concat();
            requests.push(sorted.clone());
            requests.push([&sorted[..], &[number(3, 2)]].concat());
            requests.push([&sorted[..], &[choice(8, 1)]].concat());
        }
    }
    let (mut failed, mut kvs) = (Vec::new(), 0);
    for request in &requests {
        let (expected, got) = (stream(&direct, request).await, stream(&through, request).await);
        assert!(expected.status.is_some() && expected.broken.is_none(), "{request:?} {expected:?}");
        kvs += expected.kvs.len();
        // etcd 3.7.3 sorts each chunk by its values here, and goes on after the last: keys come twice or not at all. Once is
        // right, and so is a refusal.
        let sorts_chunks =
            matches!(request[..], [_, _, Node::Choice(5, 0), Node::Choice(6, 1..), ..]);
        let keys: std::collections::BTreeSet<_> = got.kvs.iter().map(|kv| &kv.0).collect();
        let once = keys.len() == got.kvs.len() && (got.more == 1 || keys.len() == 150);
        if sorts_chunks && got.broken.is_none() && (once || got.status != Some(0)) {
            continue;
        }
        if got != expected {
            let brief = |whole: &Whole| {
                let keys: Vec<_> = whole.kvs.iter().take(4).collect();
                let (status, message) = (&whole.status, &whole.message);
                let (more, count, broken) = (whole.more, whole.count, &whole.broken);
                let number = whole.kvs.len();
                format!(
                    "{status:?} {message} {broken:?} more {more} count {count}, {number}: {keys:?}"
                )
            };
            failed.push(format!(
                "{request:?}\n  etcd:  {}\n  proxy: {}",
                brief(&expected),
                brief(&got)
            ));
        }
    }
    assert!(kvs > 1000, "{kvs}");
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), requests.len(), failed.join("\n"));
    tokio::task::block_in_place(|| behind.assert_encrypted());
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_keys_and_failures() {
    const PATH: &str = "/etcdserverpb.KV/RangeStream";
    let behind = tokio::task::spawn_blocking(|| Behind::start(Version::V3_7)).await.unwrap();
    let proxy = behind.proxy(&[]);
    let through = Raw::connect(&proxy.address).await;
    let put = [bytes(1, "~a"), bytes(2, "plaintext")];
    through.call("/etcdserverpb.KV/Put", &encode(&put)).await.assert_ok("put");
    let nothing = stream(&through, &[bytes(1, "/strongroom/"), bytes(2, "/strongroom0")]).await;
    assert_eq!((nothing.status, nothing.count, nothing.kvs.len()), (Some(0), 0, 0));
    // A stream that fails has a status.
    behind.etcd.put("~b", "unencrypted").await;
    let failed = through.call(PATH, &encode(&[bytes(1, "\0"), bytes(2, "\0")])).await;
    assert_eq!((failed.status, &failed.broken), (Some(crate::raw::DATA_LOSS), &None));
    assert!(failed.message.contains("~b"), "{failed:?}");
}

/// An etcd without such ranges says so itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_etcd_has_none() {
    let behind = tokio::task::spawn_blocking(|| Behind::start(Version::OLDEST)).await.unwrap();
    let proxy = behind.proxy(&[]);
    let answer = Raw::connect(&proxy.address).await;
    let request = encode(&[bytes(1, "a")]);
    let answer = answer.call("/etcdserverpb.KV/RangeStream", &request).await;
    answer.assert_refused(crate::raw::UNIMPLEMENTED, "an older etcd");
}
