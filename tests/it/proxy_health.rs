//! What load balancers and kubelets ask: health and version over HTTP, and gRPC's own health service.

use std::io::{Read, Write};

use crate::behind::Behind;
use crate::etcd_server::Version;
use crate::raw::{Answer, Raw, UNIMPLEMENTED, bytes, encode, framed};

/// The answer to a request in HTTP/1.1: the code of its first line, and its body.
fn http1(address: &str, request: &str) -> (u16, String) {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(10))).unwrap();
    write!(stream, "{request} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_default();
    let code = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_default();
    (code, body.into())
}

#[test]
fn health_and_version_over_http_1() {
    for version in Version::ALL {
        let mut behind = Behind::start(version);
        let proxy = behind.proxy(&[]);
        let direct = behind.etcd.endpoint().trim_start_matches("http://").to_owned();
        for path in ["/health", "/version", "/health?serializable=true", "/health?exclude=NOSPACE"]
        {
            let expected = http1(&direct, &format!("GET {path}"));
            assert_eq!(expected.0, 200, "{path}");
            assert_eq!(http1(&proxy.address, &format!("GET {path}")), expected, "{path}");
        }
        for request in [
            "GET /",
            "GET /v3/kv/range",
            "POST /v3/kv/range",
            "POST /v3/kv/put",
            "GET /v2/keys/x",
            "GET /metrics",
            "GET /debug/vars",
            "POST /etcdserverpb.KV/Put",
            "GET //health",
            "GET /%68ealth",
        ] {
            let (code, body) = http1(&proxy.address, request);
            assert_eq!(code, 501, "{request}: {body}");
            assert!(body.trim_end().lines().count() == 1, "{request}: one sentence, not {body:?}");
        }
        behind.etcd.kill(0);
        assert_eq!(http1(&proxy.address, "GET /health").0, 503, "without etcd");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_and_version_over_http_2() {
    let behind = tokio::task::spawn_blocking(|| Behind::start(Version::NEWEST)).await.unwrap();
    let proxy = behind.proxy(&[]);
    let raw = Raw::connect(&proxy.address).await;
    let direct = behind.etcd.endpoint().trim_start_matches("http://").to_owned();
    for path in ["/health", "/version"] {
        let mut request = raw.request(path).method("GET");
        request.headers_mut().unwrap().clear();
        let answer = raw.send(request, b"").await;
        let expected = http1(&direct, &format!("GET {path}"));
        let body = String::from_utf8(answer.body).unwrap();
        assert_eq!((answer.http, body), expected, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_health_service_of_grpc() {
    const CHECK: &str = "/grpc.health.v1.Health/Check";
    let behind = tokio::task::spawn_blocking(|| Behind::start(Version::NEWEST)).await.unwrap();
    let proxy = behind.proxy(&[]);
    let direct = behind.etcd.endpoint().trim_start_matches("http://").to_owned();
    let (direct, through) = (Raw::connect(&direct).await, Raw::connect(&proxy.address).await);
    let parts = |answer: Answer| (answer.status, answer.message, answer.body, answer.broken);
    for service in ["", "unknown", "etcdserverpb.KV"] {
        let request = encode(&[bytes(1, service)]);
        let expected = parts(direct.call(CHECK, &request).await);
        assert_eq!(parts(through.call(CHECK, &request).await), expected, "{service}");
    }
    let mut watches = [
        direct.open("/grpc.health.v1.Health/Watch").await,
        through.open("/grpc.health.v1.Health/Watch").await,
    ];
    let mut states = Vec::new();
    for watch in &mut watches {
        watch.send(&[]).await;
        watch.close();
        states.push(watch.next().await.unwrap());
    }
    assert_eq!(states[0], states[1]);
}

/// A compressed request is refused in the words of an etcd that lacks the compression.
#[tokio::test(flavor = "multi_thread")]
async fn compressed_requests_are_refused() {
    let behind = tokio::task::spawn_blocking(|| Behind::start(Version::NEWEST)).await.unwrap();
    let proxy = behind.proxy(&[]);
    let direct = behind.etcd.endpoint().trim_start_matches("http://").to_owned();
    let (direct, through) = (Raw::connect(&direct).await, Raw::connect(&proxy.address).await);
    let mut body = framed(&encode(&[bytes(1, "/app/x"), bytes(2, "plaintext")]));
    body[0] = 1;
    for encoding in ["gzip", "deflate", "snappy", "zstd"] {
        let send = |raw: &Raw| {
            let request = raw.request("/etcdserverpb.KV/Put").header("grpc-encoding", encoding);
            let (raw, body) = (raw.clone(), body.clone());
            async move { raw.send(request, &body).await }
        };
        let (expected, answer) = (send(&direct).await, send(&through).await);
        answer.assert_refused(UNIMPLEMENTED, encoding);
        let accepted = answer.headers.get("grpc-accept-encoding").map(|value| value.as_bytes());
        assert!(matches!(accepted, None | Some(b"identity")), "{encoding}: {answer:?}");
        if encoding != "gzip" {
            assert_eq!(expected.status, Some(UNIMPLEMENTED), "{encoding}");
        }
    }
}
