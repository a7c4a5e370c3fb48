//! `/health` and `/version` through the proxy, and the rest of HTTP/1.1.

use std::process::Command;

use tempfile::TempDir;

use crate::etcd_server::{Etcd, Version, make_tls};
use crate::proxied::{Running, masters};

/// The status, content type and body of curl's answer.
fn curl(args: &[&str]) -> (String, String) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--max-time", "15"]);
    command.args(["--write-out", "%{http_code} %{content_type} HTTP/%{http_version}\n"]);
    let out = command.args(args).output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", String::from_utf8_lossy(&out.stderr));
    let text = String::from_utf8(out.stdout).unwrap();
    let (body, line) = text.trim_end().rsplit_once('\n').unwrap_or(("", text.trim_end()));
    // etcd's body of health has no line's end.
    match line.rsplit_once('}') {
        Some((end, line)) => (line.into(), format!("{body}{end}}}")),
        None => (line.into(), body.into()),
    }
}

const PAGES: [&str; 4] =
    ["/health", "/version", "/health?serializable=true", "/health?exclude=NOSPACE"];

#[tokio::test(flavor = "multi_thread")]
async fn pages_are_etcds() {
    for version in Version::ALL {
        for with_tls in [false, true] {
            let builder = Etcd::builder(version);
            let etcd = if with_tls { builder.with_tls() } else { builder }.start().await;
            let dir = TempDir::new().unwrap();
            let files = make_tls(dir.path());
            let [ca, cert, key] =
                [&files.ca, &files.cert, &files.key].map(|path| path.to_str().unwrap().to_owned());
            let tls =
                with_tls.then(|| (files.cert.clone(), files.key.clone(), Some(files.ca.clone())));
            let proxy = Running::start(etcd.settings(), tls, masters()).await;
            let settings = etcd.settings();
            let text = |path: Option<std::path::PathBuf>| {
                path.map(|path| path.to_str().unwrap().to_owned()).unwrap_or_default()
            };
            let [etcd_ca, etcd_cert, etcd_key] =
                [settings.cacert, settings.cert, settings.key].map(text);
            for page in PAGES {
                let (direct, through) =
                    (format!("{}{page}", etcd.endpoint()), format!("{}{page}", proxy.endpoint));
                let (asked, asks) = if with_tls {
                    (
                        vec!["--cacert", &*etcd_ca, "--cert", &*etcd_cert, "--key", &*etcd_key],
                        vec!["--cacert", &*ca, "--cert", &*cert, "--key", &*key],
                    )
                } else {
                    (vec![], vec![])
                };
                let expected = curl(&[&asked[..], &["--http1.1", &direct]].concat());
                assert!(expected.0.starts_with("200 "), "{expected:?}");
                let plain = curl(&[&asks[..], &["--http1.1", &through]].concat());
                assert_eq!(plain, expected, "{version:?} {page}");
                let two = if with_tls { "--http2" } else { "--http2-prior-knowledge" };
                let two = curl(&[&asks[..], &[two, &through]].concat());
                assert_eq!(two.1, expected.1);
                assert_eq!(two.0, expected.0.replace("HTTP/1.1", "HTTP/2"));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_etcds_and_not_the_proxys() {
    let mut etcd = Etcd::start(Version::NEWEST).await;
    let proxy = Running::start(etcd.settings(), None, masters()).await;
    let url = format!("{}/health", proxy.endpoint);
    assert!(curl(&[&url]).0.starts_with("200 "));
    let mut client = etcd.client().await;
    client
        .alarm(etcd_client::AlarmAction::Activate, etcd_client::AlarmType::Nospace, None)
        .await
        .unwrap();
    let (line, body) = curl(&[&url]);
    assert!(line.starts_with("503 ") && body.contains("ALARM NOSPACE"), "{line} {body}");
    let (line, _) = curl(&[&format!("{url}?exclude=NOSPACE")]);
    assert!(line.starts_with("200 "), "{line}");
    etcd.kill(0);
    let (line, body) = curl(&[&url]);
    assert!(line.starts_with("503 "), "{line}");
    assert!(body.starts_with(r#"{"health":"false","reason":"strongroom: "#), "{body}");
    assert!(curl(&[&format!("{}/version", proxy.endpoint)]).0.starts_with("503 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_requests_of_http_1_are_told_what_is_served() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let proxy = Running::start(etcd.settings(), None, masters()).await;
    let url = |path: &str| format!("{}{path}", proxy.endpoint);
    for args in [
        &["-d", r#"{"key":"YQ==","value":"Yg=="}"#, &url("/v3/kv/put")][..],
        &[&url("/")],
        &[&url("/metrics")],
        &[&url("/debug/pprof/heap")],
        &["-X", "PUT", &url("/health")],
        &["-d", "value=x", "-X", "PUT", &url("/v2/keys/a")],
        &["-H", "content-type: application/grpc", "-d", "x", &url("/etcdserverpb.KV/Put")],
    ] {
        let (line, body) = curl(args);
        assert_eq!(line.trim_end(), "501  HTTP/1.1", "{args:?}");
        assert!(body.starts_with("strongroom: ") && body.lines().count() == 1, "{body}");
    }
    assert_eq!(etcd.client().await.get("a", None).await.unwrap().count(), 0);
}
