//! Requests that etcd and the proxy could read differently. Whatever they are: nothing unencrypted reaches etcd, and
//! nothing of strongroom's own leaves it.

use etcd_client::{GetOptions, KeyValue};

use crate::behind::{Behind, Proxy, contains};
use crate::etcd_server::Version;
use crate::raw::{
    Node, OK, PERMISSION_DENIED, Raw, UNIMPLEMENTED, bytes, bytes_of, choice, encode, framed, many,
    message, number, number_of, write_http2,
};

pub(crate) const RANGE: &str = "/etcdserverpb.KV/Range";
pub(crate) const PUT: &str = "/etcdserverpb.KV/Put";
pub(crate) const DELETE: &str = "/etcdserverpb.KV/DeleteRange";
pub(crate) const TXN: &str = "/etcdserverpb.KV/Txn";
pub(crate) const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub(crate) const KEYRING: &str = "/strongroom/keyring";

/// A proxy, and the etcd behind it without the proxy.
pub(crate) struct Lab {
    pub(crate) behind: Behind,
    pub(crate) proxy: Proxy,
    pub(crate) raw: Raw,
    pub(crate) direct: etcd_client::Client,
}

impl Lab {
    /// Before etcd as it listens without TLS, and with it: there Go's HTTP server, which reads paths otherwise, stands before gRPC.
    pub(crate) async fn both() -> [Self; 2] {
        let start = |tls: bool| async move {
            let behind = tokio::task::spawn_blocking(move || match tls {
                false => Behind::start(Version::NEWEST),
                true => Behind::start_with_tls(Version::NEWEST),
            });
            Self::before(behind.await.unwrap()).await
        };
        [start(false).await, start(true).await]
    }

    pub(crate) async fn plain() -> Self {
        let behind = tokio::task::spawn_blocking(|| Behind::start(Version::NEWEST));
        Self::before(behind.await.unwrap()).await
    }

    async fn before(behind: Behind) -> Self {
        let proxy = behind.proxy(&[]);
        let raw = Raw::connect(&proxy.address).await;
        let direct = behind.etcd.client().await;
        let lab = Self { behind, proxy, raw, direct };
        lab.put("/app/a", "plaintext-a").await;
        lab
    }

    pub(crate) async fn put(&self, key: &str, value: &str) {
        self.raw.call(PUT, &encode(&[bytes(1, key), bytes(2, value)])).await.assert_ok("put");
    }

    /// What etcd itself holds.
    pub(crate) async fn stored(&self, key: &str) -> Option<Vec<u8>> {
        let got = self.direct.clone().get(key, None).await.unwrap();
        got.kvs().first().map(|kv| kv.value().to_vec())
    }

    /// The newest change of any key, but for the counts that the proxy keeps of its value keys.
    pub(crate) async fn revision(&self) -> i64 {
        let all = GetOptions::new().with_all_keys().with_keys_only();
        let got = self.direct.clone().get("", Some(all)).await.unwrap();
        let counted = |kv: &&KeyValue| !kv.key().starts_with(b"/strongroom/usage/");
        got.kvs().iter().filter(counted).map(KeyValue::mod_revision).max().unwrap()
    }

    /// That since `revision` nothing was written, and that nothing is stored without encryption.
    pub(crate) async fn assert_untouched(&self, revision: i64) {
        assert_eq!(self.revision().await, revision, "something was written");
        self.assert_encrypted();
    }

    pub(crate) fn assert_encrypted(&self) {
        tokio::task::block_in_place(|| self.behind.assert_encrypted());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_exact_paths_reach_etcd() {
    for lab in Lab::both().await {
        let revision = lab.revision().await;
        let put = encode(&[bytes(1, "/app/path"), bytes(2, "plaintext-path")]);
        let read = encode(&[bytes(1, KEYRING)]);
        for method in [PUT, RANGE] {
            let name = method.rsplit('/').next().unwrap();
            let message = if method == PUT { &put } else { &read };
            let encoded = method.replace('e', "%65");
            for path in [
                &*method.replace("/etcd", "/%65tcd"),
                &method.replace("KV", "%4bV"),
                &encoded,
                &method[1..],
                &format!("http://x{method}"),
                &format!("http://127.0.0.1:1{method}"),
                &format!("/{method}"),
                &format!("{method}/"),
                &format!("{method}?"),
                &format!("{method}?x=1"),
                &format!("{method}%3fx"),
                &format!("{method}%00"),
                &format!("{method};x"),
                &format!("{method} "),
                &format!("/.{method}"),
                &format!("/x/..{method}"),
                &format!("/etcdserverpb.KV//{name}"),
                &format!("/etcdserverpb.KV/./{name}"),
                &format!("/etcdserverpb.KV%2f{name}"),
                &format!("/etcdserverpb%2eKV/{name}"),
                &method.to_uppercase(),
                &method.to_lowercase(),
                &format!("/etcdserverpb.KV/{name}x"),
                &format!("/etcdserverpb.KV\\{name}"),
                "/v3/kv/put",
                "/v3/kv/range",
                "/v3beta/kv/put",
                "/v2/keys/x",
                "/debug/vars",
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                "/etcdserverpb.KV/Unknown",
                "/strongroom.Unknown/Put",
                "/",
                "*",
                "",
            ] {
                let headers = [
                    (":method", "POST"),
                    (":scheme", "http"),
                    (":path", path),
                    (":authority", "localhost"),
                    ("te", "trailers"),
                    ("content-type", "application/grpc"),
                ];
                let wire = write_http2(&lab.proxy.address, &headers, &framed(message)).await;
                assert!(wire.data.is_empty(), "{path}: {wire:?}");
                // What is a URI is answered in words.
                let uri = http::uri::PathAndQuery::try_from(path);
                if uri.is_ok_and(|uri| uri.as_str() == path && path.starts_with('/')) {
                    let answer = lab.raw.call(path, message).await;
                    answer.assert_refused(UNIMPLEMENTED, path);
                }
            }
        }
        lab.assert_untouched(revision).await;
    }
}

/// The HTTP library drops what follows a `#`, as RFC 9110 has it for URIs. What is left is the method, with all that
/// belongs to it.
#[tokio::test(flavor = "multi_thread")]
async fn a_fragment_changes_nothing() {
    for lab in Lab::both().await {
        for (method, message) in [
            (PUT, encode(&[bytes(1, "/app/path"), bytes(2, "plaintext-path")])),
            (PUT, encode(&[bytes(1, "/strongroom/x"), bytes(2, "plaintext-path")])),
            (RANGE, encode(&[bytes(1, KEYRING)])),
        ] {
            let path = format!("{method}#x");
            let headers = [
                (":method", "POST"),
                (":scheme", "http"),
                (":path", &*path),
                (":authority", "localhost"),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
            ];
            let wire = write_http2(&lab.proxy.address, &headers, &framed(&message)).await;
            assert!(!contains(&wire.data, b"strongroom-seal"), "{path}: {wire:?}");
        }
        assert_eq!(lab.stored("/strongroom/x").await, None);
        lab.assert_encrypted();
    }
}

/// etcd's server with TLS serves JSON too, by the path alone.
#[tokio::test(flavor = "multi_thread")]
async fn json_is_no_way_around() {
    let text = |text: &str| data_encoding::BASE64.encode(text.as_bytes());
    let (key, value) = (text("/app/json"), text("plaintext-json"));
    for lab in Lab::both().await {
        let revision = lab.revision().await;
        for kind in [
            "application/grpc",
            "application/grpc+proto",
            "application/grpc+json",
            "application/json",
        ] {
            for (path, body) in [
                ("/v3/kv/put", format!(r#"{{"key":"{key}","value":"{value}"}}"#)),
                ("/v3/kv/range", format!(r#"{{"key":"{}"}}"#, text(KEYRING))),
                ("/v3/kv/txn", format!(r#"{{"success":[{{"requestPut":{{"key":"{key}"}}}}]}}"#)),
                (PUT, format!(r#"{{"key":"{key}","value":"{value}"}}"#)),
            ] {
                let mut request = lab.raw.request(path);
                request.headers_mut().unwrap().insert("content-type", kind.parse().unwrap());
                let answer = lab.raw.send(request, body.as_bytes()).await;
                assert!(
                    answer.body.is_empty() && answer.broken.is_none(),
                    "{path} {kind}: {answer:?}"
                );
                assert_ne!(answer.status, Some(OK), "{path} {kind}: {answer:?}");
            }
        }
        lab.assert_untouched(revision).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn other_content_types_and_methods_are_refused() {
    for lab in Lab::both().await {
        let put = |value| framed(&encode(&[bytes(1, "/app/kind"), bytes(2, value)]));
        for kind in ["application/grpc", "application/grpc+proto"] {
            let mut request = lab.raw.request(PUT);
            request.headers_mut().unwrap().insert("content-type", kind.parse().unwrap());
            lab.raw.send(request, &put("plaintext-kind")).await.assert_ok(kind);
        }
        let revision = lab.revision().await;
        for kind in [
            "application/grpc+json",
            "application/grpc+thrift",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpc-web-text",
            "application/grpcx",
            "application/grpc;x=y",
            "application/grpc+proto;charset=utf-8",
            "application/grpc+",
            "APPLICATION/GRPC",
        ] {
            let mut request = lab.raw.request(PUT);
            request.headers_mut().unwrap().insert("content-type", kind.parse().unwrap());
            let answer = lab.raw.send(request, &put("plaintext-other")).await;
            answer.assert_refused(UNIMPLEMENTED, kind);
        }
        for kind in [None, Some("text/plain"), Some("application/x-protobuf")] {
            let mut request = lab.raw.request(PUT);
            let headers = request.headers_mut().unwrap();
            headers.remove("content-type");
            kind.map(|kind| headers.insert("content-type", kind.parse().unwrap()));
            let answer = lab.raw.send(request, &put("plaintext-other")).await;
            let refused = answer.http >= 400 || answer.status == Some(UNIMPLEMENTED);
            assert!(
                refused && answer.body.is_empty() && answer.broken.is_none(),
                "{kind:?}: {answer:?}"
            );
        }
        for method in ["GET", "PUT", "HEAD", "OPTIONS", "PATCH", "DELETE", "TRACE", "post", "X"] {
            let request = lab.raw.request(PUT).method(method);
            let answer = lab.raw.send(request, &put("plaintext-other")).await;
            let refused = answer.http >= 400 || answer.status.is_some_and(|status| status != OK);
            assert!(refused && answer.body.is_empty(), "{method}: {answer:?}");
        }
        lab.assert_untouched(revision).await;
    }
}

/// gRPC's frames: none, several, cut, too long, compressed.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_not_one_message() {
    let lab = Lab::plain().await;
    let revision = lab.revision().await;
    let put = framed(&encode(&[bytes(1, "/app/body"), bytes(2, "plaintext-body")]));
    let flagged = |flag: u8| [&[flag], &put[1..]].concat();
    for method in [PUT, TXN, WATCH, "/v3lockpb.Lock/Lock", "/etcdserverpb.Lease/LeaseKeepAlive"] {
        for (name, body) in [
            ("cut", put[..put.len() - 1].to_vec()),
            ("a head alone", vec![0, 0, 0, 0, 5]),
            ("half a head", vec![0, 0]),
            ("4 GiB", vec![0, 255, 255, 255, 255, 1]),
            ("compressed", flagged(1)),
            ("another flag", flagged(2)),
        ] {
            let answer = lab.raw.send(lab.raw.request(method), &body).await;
            let refused = answer.status.is_some_and(|status| status != OK);
            assert!(refused && answer.broken.is_none(), "{method} {name}: {answer:?}");
        }
    }
    for (name, body) in [("nothing", Vec::new()), ("two", [&put[..], &put[..]].concat())] {
        for method in [PUT, TXN, RANGE, "/v3lockpb.Lock/Lock"] {
            let answer = lab.raw.send(lab.raw.request(method), &body).await;
            let refused = answer.status.is_some_and(|status| status != OK);
            assert!(refused && answer.broken.is_none(), "{method} {name}: {answer:?}");
        }
    }
    // As etcd says it: it names what it could read.
    let request = lab.raw.request(PUT).header("grpc-encoding", "snappy");
    lab.raw.send(request, &flagged(1)).await.assert_refused(UNIMPLEMENTED, "compressed by snappy");
    lab.assert_untouched(revision).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reserved_keys_by_every_honest_request() {
    let lab = Lab::plain().await;
    let keyring = lab.stored(KEYRING).await;
    let put = |key: &str| [bytes(1, key), bytes(2, "plaintext-reserved")];
    let leader = |key: &str| message(1, [bytes(1, "x"), bytes(2, key), number(3, 1), number(4, 1)]);
    let nested = |op: Node| vec![many(2, [message(4, [many(2, [op])])])];
    for (method, request) in [
        (PUT, put(KEYRING).to_vec()),
        (PUT, put("/strongroom/usage/x").to_vec()),
        (PUT, vec![bytes(1, KEYRING), choice(5, 1)]),
        (DELETE, vec![bytes(1, KEYRING)]),
        (TXN, vec![many(2, [message(2, put(KEYRING))])]),
        (TXN, vec![many(3, [message(2, put(KEYRING))])]),
        (TXN, nested(message(2, put(KEYRING)))),
        ("/v3lockpb.Lock/Lock", vec![bytes(1, "/strongroom")]),
        ("/v3lockpb.Lock/Lock", vec![bytes(1, "/strongroom/x")]),
        ("/v3lockpb.Lock/Unlock", vec![bytes(1, KEYRING)]),
        (
            "/v3electionpb.Election/Campaign",
            vec![bytes(1, "/strongroom/x"), bytes(3, "plaintext-v")],
        ),
        ("/v3electionpb.Election/Proclaim", vec![leader(KEYRING), bytes(2, "plaintext-v")]),
        ("/v3electionpb.Election/Resign", vec![leader(KEYRING)]),
    ] {
        let answer = lab.raw.call(method, &encode(&request)).await;
        answer.assert_refused(PERMISSION_DENIED, &format!("{method} {request:?}"));
    }
    // Ranges over it leave it out.
    for (from, to) in
        [("/s", "/t"), ("/strongroom/", "/strongroom0"), (KEYRING, "/strongroom/l"), ("/b", "\0")]
    {
        lab.put("/s", "plaintext-s").await;
        let range = [bytes(1, from), bytes(2, to)];
        let answer = lab.raw.call(RANGE, &encode(&range)).await;
        assert!(!contains(answer.assert_ok(from), b"strongroom"), "{from}: {answer:?}");
        let nested = encode(&nested(message(1, range.clone())));
        let answer = lab.raw.call(TXN, &nested).await;
        assert!(!contains(answer.assert_ok(from), b"strongroom"), "{from}: {answer:?}");
        let delete = [bytes(1, from), bytes(2, to), choice(3, 1)];
        for answer in [
            lab.raw.call(DELETE, &encode(&delete)).await,
            lab.raw.call(TXN, &encode(&[many(2, [message(3, delete.clone())])])).await,
        ] {
            // Within it alone there is nothing that a client could delete.
            assert!(matches!(answer.status, Some(OK | PERMISSION_DENIED)), "{from}: {answer:?}");
            assert!(!contains(&answer.body, b"strongroom"), "{from}: {answer:?}");
        }
    }
    // A comparison would tell what is there.
    for (target, field) in
        [(0, number(4, 0)), (1, number(5, 0)), (2, number(6, 0)), (4, number(8, 0))]
    {
        let compare = many(1, [choice(1, 1), choice(2, target), bytes(3, KEYRING), field]);
        let answer = lab.raw.call(TXN, &encode(&[compare])).await;
        let told = answer.status == Some(OK) && number_of(answer.first(), 2) == 1;
        assert!(!told, "target {target}: {answer:?}");
    }
    assert_eq!(lab.stored(KEYRING).await, keyring);
    lab.assert_encrypted();
}

/// After a write has happened the answer is OK, whatever it cannot show.
#[tokio::test(flavor = "multi_thread")]
async fn effects_are_told_even_where_a_value_does_not_open() {
    const UNREADABLE: &str = "strongroom-unreadable-keys";
    let lab = Lab::plain().await;
    let unreadable =
        || async { lab.direct.clone().put("/bad/k", "unencrypted", None).await.unwrap() };
    let put = |key: &str, value: &str| [bytes(1, key), bytes(2, value)];
    lab.put("/bad/a", "plaintext-good").await;

    unreadable().await;
    let list = encode(&[bytes(1, "/bad/"), bytes(2, "/bad0")]);
    let answer = lab.raw.call(RANGE, &list).await;
    answer.assert_refused(crate::raw::DATA_LOSS, "a list");
    assert!(answer.message.contains("/bad/k"), "{answer:?}");
    let keys =
        lab.raw.call(RANGE, &encode(&[bytes(1, "/bad/"), bytes(2, "/bad0"), choice(8, 1)])).await;
    assert_eq!(number_of(keys.assert_ok("keys only"), 4), 2);
    let count =
        lab.raw.call(RANGE, &encode(&[bytes(1, "/bad/"), bytes(2, "/bad0"), choice(9, 1)])).await;
    assert_eq!(number_of(count.assert_ok("count only"), 4), 2);

    let named = |answer: &crate::raw::Answer, what: &str| {
        let names = answer.headers.get(UNREADABLE).map(|names| names.to_str().unwrap());
        assert_eq!(names, Some("/bad/k"), "{what}: {answer:?}");
    };
    let request = [put("/bad/k", "plaintext-new").to_vec(), vec![choice(4, 1)]].concat();
    let answer = lab.raw.call(PUT, &encode(&request)).await;
    let previous = bytes_of(answer.assert_ok("put with the previous value"), 2);
    named(&answer, "put");
    assert_eq!((bytes_of(&previous, 1), bytes_of(&previous, 5)), (b"/bad/k".to_vec(), Vec::new()));
    let now = lab.raw.call(RANGE, &encode(&[bytes(1, "/bad/k")])).await;
    assert_eq!(bytes_of(&bytes_of(now.assert_ok("get"), 2), 5), b"plaintext-new");

    unreadable().await;
    let request = [
        many(2, [message(2, put("/bad/a", "plaintext-changed"))]),
        many(2, [message(1, [bytes(1, "/bad/k")])]),
    ];
    let answer = lab.raw.call(TXN, &encode(&request)).await;
    assert_eq!(number_of(answer.assert_ok("transaction"), 2), 1);
    named(&answer, "transaction");
    let now = lab.raw.call(RANGE, &encode(&[bytes(1, "/bad/a")])).await;
    assert_eq!(bytes_of(&bytes_of(now.assert_ok("get"), 2), 5), b"plaintext-changed");
    // One that only reads has done nothing: it may fail.
    let reads = encode(&[many(2, [message(1, [bytes(1, "/bad/k")])])]);
    let answer = lab.raw.call(TXN, &reads).await;
    assert!(answer.status != Some(OK) || answer.headers.contains_key(UNREADABLE), "{answer:?}");

    let answer = lab.raw.call(DELETE, &encode(&[bytes(1, "/bad/k"), choice(3, 1)])).await;
    assert_eq!(number_of(answer.assert_ok("delete"), 2), 1);
    named(&answer, "delete");
    assert_eq!(lab.stored("/bad/k").await, None);

    // Nothing that a client sends is taken for our own ciphertext.
    let sealed = lab.stored("/bad/a").await.unwrap();
    let again = encode(&[bytes(1, "/bad/a"), bytes(2, &sealed)]);
    lab.raw.call(PUT, &again).await.assert_ok("put of ciphertext");
    let now = lab.raw.call(RANGE, &encode(&[bytes(1, "/bad/a")])).await;
    assert_eq!(bytes_of(&bytes_of(now.assert_ok("get"), 2), 5), sealed);
    lab.assert_encrypted();
}
