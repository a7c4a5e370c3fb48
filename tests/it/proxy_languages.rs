//! Clients in other languages whose watches outlive etcd: through the proxy as many as directly.

use std::process::Command;
use std::time::Duration;

use etcd_client::{Client, WatchOptions};

use crate::behind::{Behind, Talk, blocking, client};
use crate::etcd_server::{Etcd, Version};
use crate::proxy_go::AWAY;

const WATCHES: usize = 24;

fn kill_and_restart(etcd: &mut Etcd) {
    etcd.kill(0);
    std::thread::sleep(AWAY);
    etcd.restart(0);
}

/// `command` is told the address and a prefix of its own.
fn survive(command: impl Fn(&str, &str) -> Command) {
    let mut behind = Behind::start(Version::NEWEST);
    let proxy = behind.proxy(&[]);
    let direct = behind.etcd.endpoint().trim_start_matches("http://").to_owned();
    let mut talks =
        [(&*direct, "direct/"), (&*proxy.address, "through/")].map(|(address, prefix)| {
            let mut talk = Talk::start(command(address, prefix));
            talk.wait_for("watching");
            talk
        });
    kill_and_restart(&mut behind.etcd);
    talks.iter_mut().for_each(Talk::go_on);
    let [direct, through] = talks.map(Talk::end);
    assert_eq!(direct, format!("alive {WATCHES}\n"));
    assert_eq!(through, direct);
}

#[test]
fn watches_of_aetcd_come_back() {
    survive(|address, prefix| {
        let (host, port) = address.rsplit_once(':').unwrap();
        let mut command = crate::support::python();
        command.arg(client("survival_aetcd.py")).args([host, port, prefix, &WATCHES.to_string()]);
        command
    });
}

#[test]
fn watches_of_etcd3_come_back() {
    survive(|address, prefix| {
        let mut command = Command::new("node");
        command.arg(client("survival_etcd3.cjs"));
        command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/.tools/node/node_modules"));
        command.args([address, prefix, &WATCHES.to_string()]);
        command
    });
}

/// jetcd of Maven: it builds itself, so only in the long run.
#[test]
#[ignore = "long: Maven fetches jetcd"]
fn long_watches_of_jetcd_come_back() {
    let jar = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("jetcd");
    let built = Command::new("mvn")
        .args(["-q", "-B", "package", &format!("-Dbuild={}", jar.display())])
        .current_dir(client("java"))
        .status();
    if built.is_err() && std::env::var_os("CI").is_none() {
        println!("SKIPPED: jetcd needs mvn, which is not here");
        return;
    }
    assert!(built.expect("mvn runs").success(), "tests/clients/java does not build");
    survive(|address, prefix| {
        let mut command = Command::new("java");
        command.arg("-cp").arg(format!("{0}/classes:{0}/lib/*", jar.display()));
        command.args(["Survival", &format!("http://{address}"), prefix, &WATCHES.to_string()]);
        command
    });
}

/// A watch of the Rust client, which is opened again when it fails. tonic tells a broken connection by a code of its own;
/// a proxy that lives on must say that etcd was away.
async fn watch(
    endpoint: String,
    key: String,
    revision: i64,
    is_direct: bool,
    created: tokio::sync::oneshot::Sender<()>,
) {
    let mut created = Some(created);
    loop {
        let Ok(mut client) = Client::connect([&endpoint], None).await else {
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let options = WatchOptions::new().with_start_revision(revision);
        let ended = match client.watch(&*key, Some(options)).await {
            Err(error) => error,
            Ok(mut stream) => loop {
                match stream.message().await {
                    Ok(Some(response)) if response.created() => {
                        created.take().map(|created| created.send(()));
                    }
                    Ok(Some(response)) if !response.events().is_empty() => return,
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{key}: the watch ended without a failure"),
                    Err(error) => break error,
                }
            },
        };
        let etcd_client::Error::GRpcStatus(status) = &ended else { panic!("{key}: {ended}") };
        assert!(is_direct || status.code() == tonic::Code::Unavailable, "{key}: {status}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn watches_of_the_rust_client_come_back() {
    let mut behind = Behind::start(Version::NEWEST);
    let proxy = behind.proxy(&[]);
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let ends = [behind.etcd.endpoint().to_owned(), proxy.endpoint()];
    let revision = runtime.block_on(async {
        let mut client = behind.etcd.client().await;
        client.get("none", None).await.unwrap().header().unwrap().revision() + 1
    });
    let mut watches = Vec::new();
    for endpoint in &ends {
        for at in 0..WATCHES {
            let (created, wait) = tokio::sync::oneshot::channel();
            let key = format!("{endpoint}/{at}");
            watches.push(runtime.spawn(watch(
                endpoint.clone(),
                key,
                revision,
                *endpoint == ends[0],
                created,
            )));
            runtime.block_on(wait).unwrap();
        }
    }
    kill_and_restart(&mut behind.etcd);
    blocking(async {
        for endpoint in &ends {
            let mut client = Client::connect([endpoint], None).await.unwrap();
            for at in 0..WATCHES {
                client.put(format!("{endpoint}/{at}"), "plaintext-after", None).await.unwrap();
            }
        }
    });
    let mut alive = Vec::new();
    for watch in watches {
        let ended =
            runtime.block_on(async { tokio::time::timeout(Duration::from_secs(15), watch).await });
        alive.push(matches!(ended, Ok(Ok(()))));
    }
    let count = |alive: &[bool]| alive.iter().filter(|one| **one).count();
    let (direct, through) = alive.split_at(WATCHES);
    assert_eq!((count(direct), count(through)), (WATCHES, WATCHES));
}
