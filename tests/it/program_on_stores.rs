//! The whole program against s3s-fs in this process, and against a double of Google Cloud Storage.

use std::fs;
use std::process::Command;

use crate::end_to_end::program;
use crate::s3_server::{ACCESS_KEY, Flavour, SECRET_KEY, Seen, start, start_recording};
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
        main_job("s3://backups/prefix", |command| aws(command, &url));
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

fn aws(command: &mut Command, url: &str) {
    command
        .env("AWS_ENDPOINT_URL", url)
        .env("AWS_ALLOW_HTTP", "true")
        .env("AWS_REGION", "us-east-1")
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY);
}

/// Bucket policies that demand SSE-KMS look at these headers: on every put, and where a multipart upload begins.
#[tokio::test(flavor = "multi_thread")]
async fn sse_kms_headers_are_on_puts_and_multipart_uploads() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("backups")).unwrap();
    let seen = Seen::default();
    let url = start_recording(dir.path(), Flavour::S3, seen.clone()).await;
    let options = std::collections::BTreeMap::from(
        [
            ("aws_server_side_encryption", "aws:kms"),
            ("aws_sse_kms_key_id", "alias/backups"),
            ("aws_endpoint", url.as_str()),
            ("aws_region", "us-east-1"),
            ("allow_http", "true"),
            ("aws_access_key_id", ACCESS_KEY),
            ("aws_secret_access_key", SECRET_KEY),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned())),
    );
    let place = "s3://backups/prefix".parse().unwrap();
    let store =
        strongroom::store::connect_with(&place, &options, &Default::default()).unwrap().store;
    let rng = &mut strongroom::crypto::system_rng();
    let (repository, _) = strongroom::store::Repository::init(store, true, rng).await.unwrap();
    let mut upload = repository.upload("snapshots/long").await.unwrap();
    for _ in 0..9 {
        upload.write(vec![7; 1 << 20].into()).await.unwrap();
    }
    upload.finish().await.unwrap();
    let seen = seen.lock().unwrap();
    let of =
        |what: &str| seen.iter().filter(|(request, _)| request.contains(what)).collect::<Vec<_>>();
    let (put, begun) = (
        of("PUT /backups/prefix/repository.json"),
        of("POST /backups/prefix/snapshots/long?uploads"),
    );
    assert_eq!((put.len(), begun.len()), (1, 1), "{seen:?}");
    for (request, encryption) in put.into_iter().chain(begun) {
        assert_eq!(encryption.as_deref(), Some("aws:kms"), "{request}");
    }
}

#[test]
fn a_profile_is_not_read_and_that_is_said() {
    let mut command = program();
    aws(&mut command, "http://127.0.0.1:1");
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY");
    command.env("AWS_PROFILE", "prod").env("AWS_METADATA_ENDPOINT", "http://127.0.0.1:1");
    let output = command.args(["-r", "s3://backups", "snapshots"]).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(error.contains("AWS_PROFILE") && error.contains("export-credentials"), "{error}");
}

#[test]
fn an_unknown_store_option_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("strongroom.toml");
    let text = "[repository]\nurl = \"s3://backups\"\n[repository.options]\naws_regoin = \"x\"\n";
    fs::write(&config, text).unwrap();
    let output = program().arg("--config").arg(&config).arg("snapshots").output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{error}");
    assert!(error.contains("aws_regoin") && error.contains("aws_region"), "{error}");
}
