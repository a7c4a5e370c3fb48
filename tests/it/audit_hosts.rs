//! The seven rules of kube-bench for etcd (CIS 2.1 to 2.7), beside ours, on the same hosts.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::audit::{audit, fake_host};
use crate::etcd_server::make_tls;

/// What kube-bench finds of a flag in the line of `ps`: its value, or `true` for one without.
fn flag(line: &str, name: &str) -> Option<String> {
    let rest = line.split(' ').find_map(|word| {
        let rest = word.strip_prefix(name)?;
        (rest.is_empty() || rest.starts_with('=')).then_some(rest)
    })?;
    Some(rest.strip_prefix('=').filter(|value| !value.is_empty()).unwrap_or("true").to_owned())
}

/// Its rules, as cfg/cis-1.12/etcd.yaml has them: of the process's line alone.
fn kube_bench(line: &str) -> Vec<&'static str> {
    let set = |name: &str| flag(line, name).is_some();
    let is = |name: &str, value: &str| flag(line, name).as_deref() == Some(value);
    let off = |name: &str| !set(name) || is(name, "false");
    let rules = [
        ("2.1", set("--cert-file") && set("--key-file")),
        ("2.2", is("--client-cert-auth", "true")),
        ("2.3", off("--auto-tls")),
        ("2.4", set("--peer-cert-file") && set("--peer-key-file")),
        ("2.5", is("--peer-client-cert-auth", "true")),
        ("2.6", off("--peer-auto-tls")),
        ("2.7", set("--trusted-ca-file")),
    ];
    rules.into_iter().filter(|(_, passes)| *passes).map(|(id, _)| id).collect()
}

/// The items that no check of ours fails or leaves unknown.
fn ours(root: &std::path::Path) -> Vec<String> {
    let args = ["--scope", "host", "--host", root.to_str().unwrap(), "-w", "json"];
    let out = audit("http://127.0.0.1:1", None, &args);
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    let checks = document["checks"].as_array().unwrap();
    let items = (1..=7).map(|number| format!("2.{number}"));
    let passes = |item: &String| {
        let mut of = checks
            .iter()
            .filter(|one| one["cis"].as_array().unwrap().contains(&item.as_str().into()));
        of.all(|one| one["status"] == "pass" || one["status"] == "not-applicable")
    };
    items.filter(passes).collect()
}

const GOOD: &str = "--listen-client-urls=https://10.0.0.1:2379 --listen-peer-urls=https://10.0.0.1:2380 \
    --initial-advertise-peer-urls=https://10.0.0.1:2380 --cert-file=/pki/server.crt --client-cert-auth=true \
    --trusted-ca-file=/pki/ca.crt --peer-cert-file=/pki/server.crt --peer-key-file=/pki/server.key \
    --peer-client-cert-auth=true --peer-trusted-ca-file=/pki/ca.crt";

/// A host with these flags and variables, and a CA of Kubernetes that is etcd's own or another one.
fn compared(flags: &str, environ: &str, one_ca: bool) -> (Vec<&'static str>, Vec<String>) {
    let root = fake_host(flags, environ);
    let [own, other] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let tls = make_tls(own.path());
    let cluster_ca = if one_ca { tls.ca.clone() } else { make_tls(other.path()).ca };
    fs::create_dir_all(root.path().join("etc/kubernetes/pki")).unwrap();
    for (from, to) in [
        (&tls.ca, "pki/ca.crt"),
        (&tls.cert, "pki/server.crt"),
        (&cluster_ca, "etc/kubernetes/pki/ca.crt"),
    ] {
        fs::copy(from, root.path().join(to)).unwrap();
    }
    let file = "data-dir: /var/lib/etcd\nlisten-client-urls: http://10.0.0.1:2379\n";
    fs::write(root.path().join("etc/etcd.yaml"), file).unwrap();
    let line = fs::read_to_string(root.path().join("proc/77/cmdline")).unwrap();
    (kube_bench(&line.replace('\0', " ")), ours(root.path()))
}

/// Where kube-bench passes what we do not, and the other way round: the guide lists these cases.
#[test]
fn beside_kube_bench() {
    let all = ["2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "2.7"];
    assert_eq!(compared(GOOD, "", false), (all.to_vec(), all.map(str::to_owned).to_vec()));
    let changed = |from: &str, to: &str| GOOD.replace(from, to);
    let cases: &[(&str, String, &str, bool, &[&str])] = &[
        (
            "etcd reads the configuration file alone",
            format!("{GOOD} --config-file=/etc/etcd.yaml"),
            "",
            false,
            &["2.1", "2.2", "2.4", "2.5"],
        ),
        ("a variable", GOOD.into(), "ETCD_AUTO_TLS=true", false, &["2.3"]),
        ("a variable", GOOD.into(), "ETCD_PEER_AUTO_TLS=true", false, &["2.6"]),
        (
            "certificates, and no TLS for clients",
            changed("urls=https://10.0.0.1:2379", "urls=http://10.0.0.1:2379"),
            "",
            false,
            &["2.1"],
        ),
        (
            "certificates, and no TLS for members",
            changed("https://10.0.0.1:2380", "http://10.0.0.1:2380"),
            "",
            false,
            &["2.4", "2.5"],
        ),
        ("the CA of Kubernetes", GOOD.into(), "", true, &["2.7"]),
    ];
    for (why, flags, environ, one_ca, wanted) in cases {
        let (theirs, ours) = compared(flags, environ, *one_ca);
        let differ = theirs.iter().filter(|id| !ours.iter().any(|one| one == **id));
        assert_eq!(differ.copied().collect::<Vec<_>>(), *wanted, "{why}");
    }
    // What is set by variables, kube-bench does not see.
    let by_variable = "ETCD_CLIENT_CERT_AUTH=true";
    let (theirs, ours) = compared(&changed(" --client-cert-auth=true", ""), by_variable, false);
    assert!(!theirs.contains(&"2.2") && ours.contains(&"2.2".to_owned()), "{theirs:?} {ours:?}");
}

/// A host whose files may not be read: no check passes.
#[test]
fn a_host_that_cannot_be_read_passes_nothing() {
    let root = fake_host(GOOD, "");
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o000)).unwrap();
    let program = env!("CARGO_BIN_EXE_strongroom");
    let mut command = match fs::read_dir(root.path()) {
        // Root reads it all the same, unless these capabilities are gone.
        Ok(_) => {
            let mut command = Command::new("setpriv");
            command.args(["--bounding-set=-dac_override,-dac_read_search", program]);
            command
        }
        Err(_) => Command::new(program),
    };
    command.env_clear().current_dir("/").args(["-w", "json", "audit", "--scope", "host"]);
    command.args(["--etcd-config", "/etc/etcd.yaml", "--host"]).arg(root.path());
    let out = command.output().unwrap();
    fs::set_permissions(root.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let document: Value = serde_json::from_slice(&out.stdout).unwrap();
    let checks = document["checks"].as_array().unwrap();
    assert!(checks.len() > 15);
    for one in checks.iter().filter(|one| one["id"] != "UPD-5") {
        assert_eq!(one["status"], "unknown", "{one}");
    }
    assert_eq!(out.status.code(), Some(3));
}
