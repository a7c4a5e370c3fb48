//! The whole program against s3s-fs in this process, and against a double of Google Cloud Storage.

use std::fs;
use std::process::Command;

use crate::end_to_end::program;
use crate::s3_server::{ACCESS_KEY, Flavour, SECRET_KEY, start};
use crate::support::small_database;

/// The main job over `url`, with what `with` gives the program.
fn main_job(url: &str, with: impl Fn(&mut Command)) {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let keyring = format!("file:{}", path("keyring"));
    let run = |args: &[&str]| {
        let mut command = program();
        with(&mut command);
        let output = command.args(["-r", url, "-k", &keyring]).args(args).output().unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let succeeds = |args: &[&str]| {
        let (code, error) = run(args);
        assert_eq!(code, 0, "{args:?}: {error}");
    };
    succeeds(&["key", "generate", "-o", &path("keyring")]);
    assert_eq!(run(&["snapshots"]).0, 10);
    succeeds(&["init"]);
    assert_eq!(run(&["init"]).0, 1, "a repository is made once");
    let database = small_database();
    succeeds(&["backup", "--file", database.to_str().unwrap()]);
    succeeds(&["verify", "--all"]);
    succeeds(&["verify", "--all", "--digests"]);
    succeeds(&["key", "rotate"]);
    succeeds(&["key", "reseal", "--all"]);
    succeeds(&["restore", "latest", "--output", &path("etcd.db")]);
    assert_eq!(fs::read(path("etcd.db")).unwrap(), fs::read(database).unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_on_s3s_fs() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("backups")).unwrap();
    let url = start(dir.path(), Flavour::S3).await;
    let job = move || {
        main_job("s3://backups/prefix", |command| {
            command
                .env("AWS_ENDPOINT_URL", &url)
                .env("AWS_ALLOW_HTTP", "true")
                .env("AWS_REGION", "us-east-1")
                .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
                .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
        });
    };
    tokio::task::spawn_blocking(job).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_program_on_a_double_of_google() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("backups")).unwrap();
    let url = start(dir.path(), Flavour::Google).await;
    let account = format!(
        r#"{{"private_key":"x","private_key_id":"x","client_email":"x","disable_oauth":true,"gcs_base_url":"{url}"}}"#
    );
    let job = move || {
        main_job("gs://backups/prefix", |command| {
            command.env("GOOGLE_SERVICE_ACCOUNT_KEY", &account).env("GOOGLE_ALLOW_HTTP", "true");
        });
    };
    tokio::task::spawn_blocking(job).await.unwrap();
}
