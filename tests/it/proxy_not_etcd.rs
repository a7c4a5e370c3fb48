//! What answers in place of etcd, such as a load balancer that has lost it: clients are to try again.

use std::convert::Infallible;

use bytes::Bytes;
use etcd_client::Channel;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use strongroom::values::{DEFAULT_PREFIX, Namespace, Scope, Shim};
use tonic::body::Body;
use tonic::{Code, Status};
use tower::Service;

use crate::etcd_server::{Etcd, Version};
use crate::proxied::{NOW, masters};
use crate::raw::{bytes, encode, framed, message};

/// One answer to everything.
struct Always {
    http: u16,
    headers: &'static [(&'static str, &'static str)],
    data: &'static [u8],
    trailers: &'static [(&'static str, &'static str)],
}

static SHAPES: [(&str, Always); 5] = [
    (
        "a load balancer without etcd",
        Always { http: 503, headers: &[], data: b"<html>", trailers: &[] },
    ),
    ("a page", Always { http: 200, headers: &[], data: b"<html>gone</html>", trailers: &[] }),
    ("nothing", Always { http: 200, headers: &[], data: b"", trailers: &[] }),
    (
        "an end without a message",
        Always { http: 200, headers: &[("grpc-status", "0")], data: b"", trailers: &[] },
    ),
    (
        "trailers without a status",
        Always { http: 200, headers: &[], data: b"", trailers: &[("x", "y")] },
    ),
];

async fn serve(shape: &'static Always) -> Channel {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let service = service_fn(move |_: Request<Incoming>| async move {
                let mut response = Response::builder().status(shape.http);
                for (name, value) in shape.headers {
                    response = response.header(*name, *value);
                }
                let trailers = shape.trailers.iter().map(|(name, value)| {
                    (name.parse::<http::HeaderName>().unwrap(), value.parse().unwrap())
                });
                let mut frames = vec![Frame::data(Bytes::from_static(shape.data))];
                if !shape.trailers.is_empty() {
                    frames.push(Frame::trailers(trailers.collect()));
                }
                let frames = frames.into_iter().map(Ok::<_, Infallible>);
                let body = StreamBody::new(futures::stream::iter(frames));
                Ok::<_, Infallible>(response.body(body).unwrap())
            });
            let http = http2::Builder::new(TokioExecutor::new());
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{address}")).unwrap();
    Channel::Tonic(endpoint.connect_lazy())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_etcd_is_unavailable() {
    let etcd = Etcd::start(Version::V3_5).await;
    let namespace = Namespace::init(etcd.client().await, DEFAULT_PREFIX.as_bytes(), masters(), NOW)
        .await
        .unwrap();
    for (name, shape) in &SHAPES {
        let channel = serve(shape).await;
        for (path, request) in [
            ("/etcdserverpb.KV/Range", encode(&[bytes(1, "k")])),
            ("/etcdserverpb.KV/Put", encode(&[bytes(1, "k"), bytes(2, "plaintext")])),
            ("/v3electionpb.Election/Observe", encode(&[bytes(1, "k")])),
            ("/etcdserverpb.Maintenance/Snapshot", Vec::new()),
            ("/etcdserverpb.Watch/Watch", encode(&[message(1, [bytes(1, "k")])])),
        ] {
            let streams = !path.contains("KV/");
            if streams && shape.headers.contains(&("grpc-status", "0")) {
                // A stream may end without a message.
                continue;
            }
            let mut shim = Shim::new(channel.clone(), namespace.clone(), Scope::default());
            let body = Body::new(http_body_util::Full::new(Bytes::from(framed(&request))));
            let request = Request::post(format!("http://etcd{path}")).body(body).unwrap();
            let (head, body) = shim.call(request).await.unwrap().into_parts();
            let end = body.collect().await.unwrap();
            let status = Status::from_header_map(&head.headers)
                .or_else(|| Status::from_header_map(end.trailers()?));
            let code = status.map(|status| status.code());
            assert_eq!(code, Some(Code::Unavailable), "{name}: {path}");
        }
    }
}
