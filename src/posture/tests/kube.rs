//! The API server.

use super::*;

/// Servers for single resources are servers too, and a list can be given in parts.
#[test]
fn the_api_servers_other_servers() {
    let status = |more: &[&str]| {
        let mut facts = good();
        let line = [
            "a",
            "--etcd-servers=https://a:1",
            "--etcd-cafile=/a",
            "--etcd-certfile=/b",
            "--etcd-keyfile=/c",
        ];
        let line: Vec<_> = line.iter().chain(more).map(|word| (*word).to_owned()).collect();
        in_kubernetes(&mut facts).apiserver = known(Settings::of_process(&line, Ok(Vec::new())));
        judged(&facts).checks.iter().find(|one| one.id == "TLS-11").unwrap().status
    };
    let of = "--etcd-servers-overrides";
    for (more, wanted) in [
        (vec![], Status::Pass),
        (vec![format!("{of}=/events#https://b:1;https://c:1,apps/x#https://d:1")], Status::Pass),
        (vec![format!("{of}=/events#https://b:1;http://c:1")], Status::Fail),
        (vec![format!("{of}=/events#http://b:1"), format!("{of}=/x#https://c:1")], Status::Fail),
        (vec![format!("{of}=nonsense")], Status::Fail),
        (
            vec!["--etcd-servers=http://b:1".into(), "--etcd-servers=https://c:1".into()],
            Status::Fail,
        ),
    ] {
        let more: Vec<_> = more.iter().map(String::as_str).collect();
        assert_eq!(status(&more), wanted, "{more:?}");
    }
}
