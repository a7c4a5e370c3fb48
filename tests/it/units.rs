//! The set-up as README and the systemd units describe it, run in a mount namespace with its own /etc, /run and /var.

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::deploy::{deploy, exec_start};
use crate::etcd_server::{Etcd, Version};
use crate::place::{Place, text, write_secret};
use crate::s3_server::{self, ACCESS_KEY, Flavour, SECRET_KEY};

/// What every script begins with. `$D` is the test's own directory, `$BIN` the program.
const LAYOUT: &str = r#"
set -eu
mount --make-rprivate /
for file in passwd group hosts nsswitch.conf resolv.conf; do cp "/etc/$file" "$D/etc/" 2>/dev/null || :; done
cp -a /etc/ssl "$D/etc/"
mount --bind "$D/etc" /etc
mount -t tmpfs -o mode=755 none /usr/local/bin
touch /usr/local/bin/strongroom
mount --bind "$BIN" /usr/local/bin/strongroom
"#;

/// As systemd does for the unit: credentials that only it can read, a read-only system, and no environment.
const UNIT: &str = r#"
mkdir -m 700 /etc/strongroom
echo "not for the unit" >/etc/strongroom/keyring
mount -t tmpfs -o mode=755 none /run
mkdir -p "/run/credentials/$UNIT"
cp "$D"/credentials/* "/run/credentials/$UNIT/"
chgrp 61184 "/run/credentials/$UNIT" "/run/credentials/$UNIT"/*
chmod 440 "/run/credentials/$UNIT"/*
chmod 550 "/run/credentials/$UNIT"
mount -t proc -o subset=pid,hidepid=2 none /proc
for dir in /root /home /tmp; do mount -t tmpfs -o mode=1777 none "$dir"; done
chmod 755 /root /home
mount -t tmpfs -o mode=755 none /var/log
install -d -m 700 -o 61184 -g 61184 "/var/log/${LOGS:-unused}"
for dir in /etc /run /usr/local/bin /; do mount -o remount,bind,ro "$dir"; done
cd /
umask 0077
exec env -i PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8 CREDENTIALS_DIRECTORY="/run/credentials/$UNIT" \
    setpriv --pdeathsig KILL --reuid 61184 --regid 61184 --clear-groups --no-new-privs --bounding-set -all --inh-caps -all \
    -- $EXEC
"#;

pub fn is_allowed() -> bool {
    let tried = Command::new("unshare").args(["-m", "-p", "-f", "true"]).status();
    if tried.is_ok_and(|status| status.success()) {
        return true;
    }
    println!("SKIPPED: namespaces are not allowed here");
    false
}

/// A test's directory with `etc`, ready for a script in a namespace of its own.
fn script(place: &Place, script: &str) -> Command {
    fs::create_dir_all(place.path("etc")).unwrap();
    let mut command = Command::new("unshare");
    command.args(["-m", "-p", "-f", "--kill-child", "sh", "-c", &format!("{LAYOUT}{script}")]);
    command.env("D", place.dir.path()).env("BIN", env!("CARGO_BIN_EXE_strongroom"));
    command.current_dir(place.dir.path()).stdin(Stdio::null());
    command
}

/// The etcd's certificates where kubeadm has them, below `place`'s etc.
fn kubernetes_pki(place: &Place, etcd: &Etcd) {
    let pki = place.path("etc/kubernetes/pki/etcd");
    fs::create_dir_all(&pki).unwrap();
    let settings = etcd.settings();
    for (from, to) in [
        (settings.cacert, "ca.crt"),
        (settings.cert, "healthcheck-client.crt"),
        (settings.key, "healthcheck-client.key"),
    ] {
        fs::copy(from.unwrap(), pki.join(to)).unwrap();
    }
}

/// README's settings, for this etcd and this store.
fn settings(etcd: &Etcd, store: &str) -> String {
    let readme = include_str!("../../README.md");
    let text = readme.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let endpoints = text.lines().find(|line| line.starts_with("endpoints = ")).unwrap();
    let text = text.replace(endpoints, &format!("endpoints = [{:?}]", etcd.endpoint()));
    let options = format!(
        "[repository.options]\naws_endpoint = {store:?}\naws_region = \"us-east-1\"\nallow_http = \"true\"\n\n[etcd]"
    );
    text.replace("[etcd]", &options)
}

fn secrets() -> String {
    format!(
        "# for sudo, cron and systemd\nAWS_ACCESS_KEY_ID={ACCESS_KEY}\nAWS_SECRET_ACCESS_KEY={SECRET_KEY}\n"
    )
}

/// The program on the host, with the same files.
fn on_host(place: &Place, args: &[&str]) -> String {
    let mut command = place.bare(args);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("AWS_") {
            command.env_remove(name);
        }
    }
    let credentials = place.path("credentials");
    command.env("STRONGROOM_CONFIG", credentials.join("strongroom.toml"));
    command.env("STRONGROOM_CREDENTIALS_FILE", credentials.join("store.env"));
    command.env("STRONGROOM_MASTER_KEY", format!("file:{}", credentials.join("keyring").display()));
    let out = command.output().unwrap();
    assert!(out.status.success(), "{args:?}: {}", text(&out.stderr));
    text(&out.stdout)
}

/// A unit that runs, until this is dropped.
struct Unit(Child);

impl Drop for Unit {
    fn drop(&mut self) {
        // unshare's signal to its child does not survive the change of user.
        let id = self.0.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"));
        for child in children.unwrap_or_default().split_whitespace() {
            let _ = Command::new("kill").args(["-KILL", child]).status();
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs the unit's ExecStart until its log has `event`.
fn runs_until(place: &Place, unit: &str, event: &str) -> Unit {
    let exec = exec_start(unit, &format!("/run/credentials/{unit}"));
    let mut command = script(place, UNIT);
    command.env("UNIT", unit).env("EXEC", exec.join(" "));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let text = fs::read_to_string(deploy(unit)).unwrap();
    if let Some(logs) = text.lines().find_map(|line| line.strip_prefix("LogsDirectory=")) {
        command.env("LOGS", logs);
    }
    let mut unit = Unit(command.spawn().unwrap());
    let lines = BufReader::new(unit.0.stderr.take().unwrap()).lines();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let (begun, mut log) = (Instant::now(), String::new());
    while let Ok(line) = receiver.recv_timeout(Duration::from_secs(25)) {
        log += &format!("{line}\n");
        if line.contains(event) {
            return unit;
        }
        assert!(begun.elapsed() < Duration::from_secs(25), "{log}");
    }
    panic!("no {event} in {log}");
}

fn credentials(place: &Place, etcd: &Etcd, settings: &str) {
    let dir = place.path("credentials");
    fs::create_dir(&dir).unwrap();
    kubernetes_pki(place, etcd);
    write_secret(&dir.join("strongroom.toml"), settings);
    write_secret(&dir.join("store.env"), &secrets());
    fs::copy(etcd.settings().key.unwrap(), dir.join("etcd-client.key")).unwrap();
    for name in ["keyring", "values-keyring"] {
        fs::copy(place.path("keyring"), dir.join(name)).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_agents_unit_backs_up_and_the_journals_records() {
    if !is_allowed() {
        return;
    }
    let (place, etcd) = (Place::new(), Etcd::builder(Version::V3_5).with_tls().start().await);
    etcd.put("/registry/configmaps/prod/settings", "1").await;
    fs::create_dir_all(place.path("s3/acme-etcd-backups")).unwrap();
    let store = s3_server::start(&place.path("s3"), Flavour::S3).await;
    credentials(&place, &etcd, &settings(&etcd, &store));
    tokio::task::spawn_blocking(move || {
        let pki = place.path("etc/kubernetes/pki/etcd").display().to_string();
        // The host has no /etc/kubernetes.
        let toml = place.path("credentials/strongroom.toml");
        let unit = fs::read_to_string(&toml).unwrap();
        write_secret(&toml, &unit.replace("/etc/kubernetes/pki/etcd", &pki));
        on_host(&place, &["init", "--trust-store"]);
        write_secret(&toml, &unit);
        drop(runs_until(&place, "strongroom-agent.service", "backup_finished"));
        let listed = on_host(&place, &["-w", "json", "snapshots"]);
        let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
        assert_eq!(listed.as_array().unwrap().len(), 1, "{listed}");
        fs::remove_dir_all(place.path("etc/strongroom")).unwrap();
        let _unit = runs_until(&place, "strongroom-journal.service", "begins with revision");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxys_unit_serves() {
    if !is_allowed() {
        return;
    }
    let (place, etcd) = (Place::new(), Etcd::builder(Version::V3_5).with_tls().start().await);
    let tls = etcd.settings();
    let port = crate::etcd_server::free_ports(1)[0];
    let settings = format!(
        "[etcd]\nendpoints = [{:?}]\ncacert = \"/etc/kubernetes/pki/etcd/ca.crt\"\n\
         cert = \"/etc/kubernetes/pki/etcd/healthcheck-client.crt\"\n\
         [proxy]\nlisten = \"127.0.0.1:{port}\"\nlisten_cert = \"/etc/kubernetes/pki/etcd/healthcheck-client.crt\"\n\
         listen_trusted_ca = \"/etc/kubernetes/pki/etcd/ca.crt\"\naudit_log = \"/var/log/strongroom/audit.log\"\n",
        etcd.endpoint()
    );
    credentials(&place, &etcd, &settings);
    fs::copy(tls.key.as_ref().unwrap(), place.path("credentials/proxy.key")).unwrap();
    tokio::task::spawn_blocking(move || {
        let mut init = place.bare(&["value", "init", "-k", "file:keyring"]);
        init.args(["--endpoints", etcd.endpoint()]);
        for (flag, path) in [("--cacert", tls.cacert), ("--cert", tls.cert), ("--key", tls.key)] {
            init.arg(flag).arg(path.unwrap());
        }
        crate::place::exits(0, &mut init);
        let _unit = runs_until(&place, "strongroom-proxy.service", "started");
    })
    .await
    .unwrap();
}

/// The commands of a section of README, one a line, without what is typed by hand or not for a test.
pub fn commands(section: &str) -> String {
    let readme = include_str!("../../README.md");
    let section = readme.split(&format!("\n## {section}\n")).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
    lines.map(|line| line.replace(" …", "") + "\n").collect()
}

/// README's sections from the first backup to the restore, as a script; `$D` is where what is typed by hand lies.
pub struct Walk {
    pub script: String,
}

impl Walk {
    /// Against this etcd and store. Puts the certificates, and what README has its reader type, into `place`.
    pub fn of_readme(place: &Place, etcd: &Etcd, store: &str) -> Self {
        kubernetes_pki(place, etcd);
        fs::write(place.path("strongroom.toml"), settings(etcd, store)).unwrap();
        fs::write(place.path("store.env"), secrets()).unwrap();
        let (backup, restore) = (commands("First backup"), commands("First restore"));
        assert!(backup.lines().count() >= 10 && restore.lines().count() >= 8, "{backup}{restore}");
        let by_hand = "\ncat \"$D/strongroom.toml\" >/etc/strongroom/strongroom.toml\n\
            cat \"$D/store.env\" >/etc/strongroom/store.env\nset -x\nsudo strongroom init";
        let backup = backup.replace("\nsudo strongroom init", by_hand);
        Self { script: format!("set -x\n{backup}\ncd \"$D\"\n{restore}") }
    }

    pub fn assert_done(&self, said: &str) {
        for word in ["1 re-sealed", "serves the snapshot's data", "etcd.db: snapshot", "--dry-run"]
        {
            assert!(said.contains(word), "no {word} in {said}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readme_is_walked_command_by_command() {
    if !is_allowed() {
        return;
    }
    let (place, etcd) = (Place::new(), Etcd::builder(Version::V3_5).with_tls().start().await);
    etcd.put("/registry/configmaps/prod/settings", "1").await;
    fs::create_dir_all(place.path("s3/acme-etcd-backups")).unwrap();
    let store = s3_server::start(&place.path("s3"), Flavour::S3).await;
    let walk = Walk::of_readme(&place, &etcd, &store);
    let programs = Version::V3_5.programs();
    // The workstation has the host's settings for the store, but not its keys.
    let lines = format!(
        "sudo() {{ \"$@\"; }}\nPATH={}:/usr/local/bin:$PATH\nunset STRONGROOM_CONFIG\n\
         mount -t tmpfs none /media && mkdir /media/usb\nmount -t tmpfs none /var/lib\n{}",
        programs.display(),
        walk.script
    );
    let mut command = script(&place, &lines);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if ["STRONGROOM_", "AWS_", "ETCDCTL_"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(name);
        }
    }
    let out = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let said = text(&out.stdout) + &text(&out.stderr);
    assert!(out.status.success(), "{said}");
    walk.assert_done(&said);
}
