//! Users and roles on a real etcd with authentication switched on.

use serde_json::Value;

use crate::end_to_end::program;
use crate::etcd_server::{Etcd, ROOT_PASSWORD, Version};
use crate::place::{exits, text, write_secret};

/// etcd grants what is granted already without a word.
fn made_nothing(done: &Value) {
    let commands = done["commands"].as_array().unwrap();
    assert!(
        commands.iter().all(|command| command[1].as_str().unwrap().starts_with("grant-")),
        "{done}"
    );
}

async fn on(version: Version) {
    let etcd = Etcd::builder(version).with_auth().start().await;
    let dir = tempfile::tempdir().unwrap();
    let password = dir.path().join("password");
    write_secret(&password, ROOT_PASSWORD);
    let run = |args: &[&str]| {
        let mut command = program();
        command.args(["--endpoints", etcd.endpoint(), "setup-auth", "-w", "json"]).args(args);
        command
    };
    let root = ["--apply", "--user", "root", "--password-file", password.to_str().unwrap()];
    let apply = || {
        let out = run(&root).output().unwrap();
        assert!(out.status.success(), "{}", text(&out.stderr));
        serde_json::from_slice::<Value>(&out.stdout).unwrap()
    };
    // Without rights nothing is done.
    exits(1, &mut run(&["--apply"]));
    let done = apply();
    assert!(done["commands"].as_array().unwrap().len() >= 6, "{done}");
    made_nothing(&apply());
    let backup = etcd.etcdctl(&["user", "get", "strongroom-backup"]);
    assert!(backup.contains("Roles: root"), "{backup}");
    let proxy = etcd.etcdctl(&["role", "get", "strongroom-proxy"]);
    assert!(proxy.contains("/strongroom/, /strongroom0"), "{proxy}");
    // What --print says is what etcdctl would do.
    let printed = run(&["--print"]).output().unwrap();
    let printed: Value = serde_json::from_slice(&printed.stdout).unwrap();
    let commands = printed["commands"].as_array().unwrap();
    assert_eq!(commands.len(), 7);
    etcd.etcdctl(&["user", "delete", "strongroom-proxy"]);
    etcd.etcdctl(&["role", "delete", "strongroom-proxy"]);
    for command in &commands[3..] {
        let words: Vec<_> =
            command.as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        etcd.etcdctl(&words);
    }
    assert_eq!(etcd.etcdctl(&["role", "get", "strongroom-proxy"]), proxy);
    made_nothing(&apply());
}

#[tokio::test(flavor = "multi_thread")]
async fn on_3_4() {
    on(Version::V3_4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_3_7() {
    on(Version::V3_7).await;
}
