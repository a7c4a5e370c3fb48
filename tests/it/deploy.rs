//! What lies in scripts/deploy, checked by the tools that will read it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::end_to_end::run;
use crate::place::text;

pub fn deploy(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("scripts/deploy").join(name)
}

fn promtool() -> Command {
    tool("promtool")
}

/// Prometheus's or Alertmanager's.
pub fn tool(name: &str) -> Command {
    let given = std::env::var_os("STRONGROOM_TEST_PROMTOOL").map(PathBuf::from);
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let path = given.unwrap_or_else(|| root.join(".tools/promtool/promtool")).with_file_name(name);
    assert!(path.exists(), "{} is missing: run scripts/get-tools", path.display());
    Command::new(path)
}

#[test]
fn the_alerts_fire_and_stay_silent_where_they_should() {
    run(promtool().args(["check", "rules"]).arg(deploy("prometheus/strongroom.rules.yml")));
    let tests =
        ["prometheus/strongroom.test.yml", "prometheus/strongroom.slow.test.yml"].map(deploy);
    run(promtool().args(["test", "rules"]).args(&tests));
    // Each has a test, and each runbook a heading in the guide.
    let rules = std::fs::read_to_string(deploy("prometheus/strongroom.rules.yml")).unwrap();
    let tests = tests.map(|path| std::fs::read_to_string(path).unwrap()).concat();
    let guide = include_str!("../../src/guide/operations.md").to_lowercase();
    let after = |word: &'static str, text: &str| -> Vec<String> {
        let lines = text.lines().filter_map(|line| line.trim().strip_prefix(word));
        lines.map(|name| name.trim().trim_matches('"').to_owned()).collect()
    };
    let alerts = after("- alert:", &rules);
    assert_eq!(alerts.len(), 37);
    for alert in &alerts {
        assert!(tests.matches(alert.as_str()).count() >= 2, "{alert}");
    }
    let runbooks = after("runbook:", &rules);
    assert_eq!(runbooks.len(), alerts.len());
    for (alert, runbook) in alerts.iter().zip(runbooks) {
        let heading = runbook.strip_prefix("src/guide/operations.md#").unwrap().replace('-', " ");
        assert!(guide.contains(&format!("# {heading}\n")), "no heading {heading}");
        // Without a URL of the guide the name is all that a reader has.
        let name = alert.strip_prefix("Strongroom").unwrap().to_lowercase();
        let is_row = |line: &str| {
            let cells: Vec<_> = line.split('|').map(str::trim).collect();
            matches!(cells[..], ["", names, to, ""] if to == heading && names.split(", ").any(|one| one == name))
        };
        assert!(guide.lines().any(is_row), "{alert} is not in the guide's table");
    }
    assert_eq!(rules.matches("severity: critical").count(), 4);
}

#[test]
fn a_dead_agent_holds_back_what_follows_from_it_but_no_page() {
    run(tool("amtool").arg("check-config").arg(deploy("prometheus/alertmanager.yml")));
    let manager = std::fs::read_to_string(deploy("prometheus/alertmanager.yml")).unwrap();
    let rules = std::fs::read_to_string(deploy("prometheus/strongroom.rules.yml")).unwrap();
    let list = manager.split_once("alertname=~\"Strongroom(").unwrap().1.split_once(")\"").unwrap();
    let held: Vec<_> = list.0.split('|').collect();
    assert!(held.contains(&"NobodyLeads") && held.contains(&"VerifyStale"));
    for name in held {
        let rule = rules.split_once(&format!("- alert: Strongroom{name}\n")).expect(name).1;
        let rule = rule.split("- alert:").next().unwrap();
        assert!(rule.contains("{severity: warning}"), "{name}");
    }
}

/// The names of our metrics in an expression or a scrape.
fn names(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !word(c)).filter(|word| word.starts_with("strongroom_"));
    words.map(str::to_owned).collect()
}

/// Whether whatever rules and dashboard ask for is in `scrape`, which promtool finds well-formed.
pub fn asked_for_is_there(scrape: &str, begins: &str) {
    let rules = std::fs::read_to_string(deploy("prometheus/strongroom.rules.yml")).unwrap();
    let exprs: String = rules.lines().filter(|line| !line.contains(": \"")).collect();
    let mut asked = names(&exprs);
    for (_, expr) in expressions() {
        asked.extend(names(&expr));
    }
    let there = names(scrape);
    let services = ["strongroom_proxy_", "strongroom_kms_"];
    let ours = |name: &&String| {
        let service = services.into_iter().find(|service| name.starts_with(service));
        service == services.into_iter().find(|service| *service == begins)
    };
    let missing: Vec<_> = asked.iter().filter(ours).filter(|name| !there.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?} are not in {scrape}");
}

/// The dashboard's queries, by their panel's title.
fn expressions() -> Vec<(String, String)> {
    let json = std::fs::read(deploy("grafana/strongroom.json")).unwrap();
    let dashboard: Value = serde_json::from_slice(&json).unwrap();
    let mut found = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        for target in panel["targets"].as_array().unwrap() {
            let title = panel["title"].as_str().unwrap().to_owned();
            found.push((title, target["expr"].as_str().unwrap().to_owned()));
        }
    }
    found
}

#[test]
fn every_query_of_the_dashboard_parses() {
    let rules: Vec<_> = expressions()
        .iter()
        .enumerate()
        .map(|(at, (_, expr))| format!("  - record: panel:{at}\n    expr: {expr:?}\n"))
        .collect();
    assert!(rules.len() >= 13);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("dashboard.yml");
    std::fs::write(&path, format!("groups:\n- name: dashboard\n  rules:\n{}", rules.concat()))
        .unwrap();
    run(promtool().args(["check", "rules"]).arg(path));
}

/// The proxy's panels too follow the choice of clusters, and each number that should be small or fresh has its limit.
#[test]
fn the_dashboard_follows_the_cluster_and_has_thresholds() {
    for (title, expr) in expressions() {
        assert!(expr.contains("cluster=~\"$cluster\""), "{title}: {expr}");
    }
    let json = std::fs::read(deploy("grafana/strongroom.json")).unwrap();
    let dashboard: Value = serde_json::from_slice(&json).unwrap();
    for panel in dashboard["panels"].as_array().unwrap() {
        let steps = &panel["fieldConfig"]["defaults"]["thresholds"]["steps"];
        if panel["type"] == "stat" {
            assert!(steps.as_array().is_some_and(|steps| steps.len() >= 2), "{}", panel["title"]);
        }
    }
}

/// The audit of hosts may read all of a node, and nothing else.
#[test]
fn the_audit_of_hosts_only_reads() {
    let manifest = deploy("kubernetes/components/audit/audit.yaml");
    let manifest = std::fs::read_to_string(manifest).unwrap();
    for wanted in [
        "capabilities: {drop: [ALL], add: [DAC_READ_SEARCH, SYS_PTRACE]}",
        "allowPrivilegeEscalation: false",
        "readOnlyRootFilesystem: true",
        "automountServiceAccountToken: false",
        "{name: host, mountPath: /host, readOnly: true, recursiveReadOnly: Enabled}",
    ] {
        assert_eq!(manifest.matches(wanted).count(), 1, "{wanted}");
    }
    for absent in ["hostNetwork", "hostPID", "privileged", "secret", "envFrom"] {
        assert!(!manifest.contains(absent), "{absent}");
    }
    assert_eq!(manifest.matches("mountPath:").count(), 1);
}

#[test]
fn the_units_are_hardened() {
    for (unit, most) in [
        ("strongroom-agent.service", 1.5),
        ("strongroom-journal.service", 1.5),
        ("strongroom-proxy.service", 1.5),
        // It runs as root, without any privilege of root.
        ("strongroom-kms-plugin.service", 1.6),
    ] {
        let mut command = Command::new("systemd-analyze");
        let out = run(command.args(["security", "--no-pager", "--offline=true"]).arg(deploy(unit)));
        let line = out.lines().find(|line| line.contains("Overall exposure level")).unwrap();
        let number = line.rsplit_once(": ").unwrap().1.split(' ').next().unwrap();
        assert!(number.parse::<f64>().unwrap() <= most, "{line}");
    }
}

/// The program and arguments of a unit's ExecStart, with its credentials in `credentials`.
pub fn exec_start(unit: &str, credentials: &str) -> Vec<String> {
    let text = std::fs::read_to_string(deploy(unit)).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap().to_owned();
    line.replace("%d", credentials).split(' ').map(str::to_owned).collect()
}

/// Each unit reads its settings and keys from its credentials alone, as a user that may read nothing in /etc/strongroom.
#[test]
fn the_units_read_what_systemd_gives_them() {
    let dir = tempfile::tempdir().unwrap();
    let credentials = dir.path().join("credentials");
    std::fs::create_dir(&credentials).unwrap();
    let given = credentials.to_str().unwrap();
    let settings = "cluster = \"prod\"\nmaster_keys = [\"file:/etc/strongroom/keyring\"]\n\
        [repository]\nurl = \"s3://bucket\"\n[etcd]\nkey = \"/etc/strongroom/etcd-client.key\"\n\
        [proxy]\nlisten_cert = \"proxy.crt\"\nlisten_key = \"/etc/strongroom/proxy.key\"\n";
    std::fs::write(credentials.join("strongroom.toml"), settings).unwrap();
    crate::place::write_secret(&credentials.join("store.env"), "AWS_ACCESS_KEY_ID=a\n");
    for (unit, key) in [
        ("strongroom-agent.service", "file:CREDENTIALS/keyring"),
        ("strongroom-proxy.service", "file:CREDENTIALS/values-keyring"),
    ] {
        let text = std::fs::read_to_string(deploy(unit)).unwrap();
        let exec = exec_start(unit, given);
        // What is named is given.
        for arg in exec.iter().filter_map(|arg| arg.split_once(given)) {
            let name = arg.1.trim_start_matches('/');
            assert!(
                text.contains(&format!("LoadCredential={name}:/etc/strongroom/{name}\n")),
                "{name}"
            );
        }
        // The command as it would run, but for what it opens.
        let (command, args) = exec[1..].split_first().unwrap();
        let mut check = Command::new(env!("CARGO_BIN_EXE_strongroom"));
        check.env_clear().env("CREDENTIALS_DIRECTORY", given).current_dir("/");
        check.args(["-w", "json", "config", "check", "--for", command, "--"]).args(args);
        // The options of every command are before the bar.
        let config = args.iter().position(|arg| arg == "--config").unwrap();
        check.env("STRONGROOM_CONFIG", &args[config + 1]);
        let out = check.output().unwrap();
        let json: Value = serde_json::from_slice(&out.stdout).unwrap();
        assert!(out.status.success(), "{unit}: {json:#}");
        let row = |id: &str| {
            let rows = json["settings"].as_array().unwrap();
            rows.iter().find(|row| row["setting"] == id).unwrap()["values"][0].clone()
        };
        assert_eq!(row("master_keys"), key.replace("CREDENTIALS", given).as_str());
        assert_eq!(row("etcd.key"), format!("{given}/etcd-client.key").as_str());
        if *command == "proxy" {
            assert_eq!(row("proxy.listen_key"), format!("{given}/proxy.key").as_str());
        }
    }
}

/// The commented lines for a blind host name the same files, and no keyring.
#[test]
fn the_agent_of_a_blind_host_reads_what_systemd_gives_it() {
    let text = std::fs::read_to_string(deploy("strongroom-agent.service")).unwrap();
    let exec = text.lines().find_map(|line| line.strip_prefix("#ExecStart=")).unwrap();
    assert!(!exec.contains("--master-key") && exec.contains("--signing-key %d/signing-key"));
    let names = exec.split(' ').filter_map(|word| word.strip_prefix("%d/")).collect::<Vec<_>>();
    assert_eq!(names.len(), 5);
    for name in names {
        let line = format!("LoadCredential={name}:/etc/strongroom/{name}\n");
        assert!(text.contains(&line), "{name}");
    }
    let dir = tempfile::tempdir().unwrap();
    let settings = "master_keys = [\"recipient:age1xwingisnotlookedathere\"]\n";
    std::fs::write(dir.path().join("strongroom.toml"), settings).unwrap();
    let exec = exec.replace("%d", dir.path().to_str().unwrap());
    let mut check = Command::new(env!("CARGO_BIN_EXE_strongroom"));
    check.env_clear().current_dir("/").env("STRONGROOM_CONFIG", dir.path().join("strongroom.toml"));
    check.args(["config", "check", "--for", "agent", "--"]).args(exec.split(' ').skip(2));
    let said = text_of(&check.output().unwrap());
    // The flags are known; the recipient comes from the file alone.
    assert!(said.contains("strongroom.toml, line 1") && !said.contains("unexpected"), "{said}");
}

#[test]
fn systemd_takes_the_units() {
    let dir = tempfile::tempdir().unwrap();
    for unit in [
        "strongroom-agent.service",
        "strongroom-journal.service",
        "strongroom-proxy.service",
        "strongroom-kms-plugin.service",
    ] {
        let text = std::fs::read_to_string(deploy(unit)).unwrap();
        let text = text.replace("/usr/local/bin/strongroom", env!("CARGO_BIN_EXE_strongroom"));
        let path = dir.path().join(unit);
        std::fs::write(&path, text).unwrap();
        let mut command = Command::new("systemd-analyze");
        let out = command.args(["verify", "--man=no"]).arg(&path).output().unwrap();
        let said = text_of(&out);
        assert!(out.status.success() && !said.contains(unit), "{said}");
    }
}

fn text_of(out: &std::process::Output) -> String {
    text(&out.stdout) + &text(&out.stderr)
}
