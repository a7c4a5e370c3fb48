//! Every setting, by flag, by variable and in the file: the same effect, or the same refusal, in every command.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::etcd_server::Version;
use crate::place::{Place, text, write_secret};

const BAD_DURATION: &str = "5";
const UUID: &str = "f81d4fae-7dec-41d0-a765-00a0c91e6bf6";

const KEY: &str = "0123456789abcdef0123456789abcdef";

/// A setting: its path in the file, flag, variable, a good value, and one that is refused, if there is any.
struct Row(&'static str, &'static str, &'static str, &'static str, &'static str);

/// Lists, whose values are separated by commas here.
const LISTS: [&str; 13] = [
    "master_keys",
    "keys.require",
    "etcd.endpoints",
    "backup.include",
    "backup.tags",
    "prune.keep_tag",
    "values.master_keys",
    "proxy.include",
    "proxy.exclude",
    "proxy.allow",
    "trust.signers",
    "kms_plugin.master_keys",
    "kms_plugin.allow_uid",
];

#[rustfmt::skip]
const ROWS: &[Row] = &[
    Row("repository.url", "--repository", "STRONGROOM_REPOSITORY", "s3://bucket/prefix", "ftp://x"),
    Row("repository.id", "--repository-id", "STRONGROOM_REPOSITORY_ID", UUID, "12"),
    Row("cluster", "--cluster", "STRONGROOM_CLUSTER", "prod", "Bad/Name"),
    Row("master_keys", "--master-key", "STRONGROOM_MASTER_KEY", "file:keyring", "kms:x"),
    Row("credentials_file", "--credentials-file", "STRONGROOM_CREDENTIALS_FILE", "store.env", ""),
    Row("keys.recovery", "--recovery-key", "STRONGROOM_RECOVERY_KEY", KEY, "12"),
    Row("keys.require", "--require-key", "STRONGROOM_REQUIRE_KEY", KEY, "12"),
    Row("keys.min_sealers", "--min-sealers", "STRONGROOM_MIN_SEALERS", "2", "-1"),
    Row("keys.passphrase_file", "--passphrase-file", "STRONGROOM_PASSPHRASE_FILE", "word", ""),
    Row("keys.passphrase_command", "--passphrase-command", "STRONGROOM_PASSPHRASE_COMMAND", "echo hunter2", ""),
    Row("keys.signing_key", "--signing-key", "STRONGROOM_SIGNING_KEY", "signing-key", ""),
    Row("keys.mix_quantum_weak", "--mix-quantum-weak", "STRONGROOM_MIX_QUANTUM_WEAK", "true", ""),
    Row("trust.signers", "--signers", "STRONGROOM_SIGNERS", "signers", ""),
    Row("etcd.endpoints", "--endpoints", "STRONGROOM_ENDPOINTS", "https://a:1,https://b:2", ""),
    Row("etcd.cacert", "--cacert", "STRONGROOM_CACERT", "ca.crt", ""),
    Row("etcd.cert", "--cert", "STRONGROOM_CERT", "client.crt", ""),
    Row("etcd.key", "--key", "STRONGROOM_KEY", "client.key", ""),
    Row("etcd.user", "--user", "STRONGROOM_USER", "root", ""),
    Row("etcd.password_file", "--password-file", "STRONGROOM_PASSWORD_FILE", "word", ""),
    Row("etcd.dial_timeout", "--dial-timeout", "STRONGROOM_DIAL_TIMEOUT", "3s", BAD_DURATION),
    Row("etcd.command_timeout", "--command-timeout", "STRONGROOM_COMMAND_TIMEOUT", "1m", BAD_DURATION),
    Row(
        "etcd.insecure_skip_tls_verify",
        "--insecure-skip-tls-verify",
        "STRONGROOM_INSECURE_SKIP_TLS_VERIFY",
        "true",
        "",
    ),
    Row("etcd.allow_untested", "--allow-untested-etcd", "STRONGROOM_ALLOW_UNTESTED_ETCD", "true", ""),
    Row("backup.level", "--level", "STRONGROOM_LEVEL", "-3", "20"),
    Row("backup.suite", "--suite", "STRONGROOM_SUITE", "chacha20-poly1305", "rot13"),
    Row("backup.read_ahead", "--read-ahead", "STRONGROOM_READ_AHEAD", "64", "3"),
    Row("backup.unsigned", "--unsigned", "STRONGROOM_UNSIGNED", "true", ""),
    Row("backup.include", "--include", "", "/etc/a,/etc/b", ""),
    Row("backup.tags", "--tag", "", "hourly,before upgrade", ""),
    Row("prune.keep_last", "--keep-last", "STRONGROOM_KEEP_LAST", "1", "-1"),
    Row("prune.keep_hourly", "--keep-hourly", "STRONGROOM_KEEP_HOURLY", "2", "x"),
    Row("prune.keep_daily", "--keep-daily", "STRONGROOM_KEEP_DAILY", "3", "1.5"),
    Row("prune.keep_weekly", "--keep-weekly", "STRONGROOM_KEEP_WEEKLY", "4", "x"),
    Row("prune.keep_monthly", "--keep-monthly", "STRONGROOM_KEEP_MONTHLY", "5", "x"),
    Row("prune.keep_yearly", "--keep-yearly", "STRONGROOM_KEEP_YEARLY", "6", "x"),
    Row("prune.keep_within", "--keep-within", "STRONGROOM_KEEP_WITHIN", "2d", "6min"),
    Row("prune.keep_continuous", "--keep-continuous", "STRONGROOM_KEEP_CONTINUOUS", "7d", "6min"),
    Row("prune.keep_tag", "--keep-tag", "", "monthly,before upgrade", ""),
    Row("prune.grace", "--grace", "STRONGROOM_GRACE", "36h", BAD_DURATION),
    Row("copy.url", "--to", "STRONGROOM_COPY_URL", "s3://second", "ftp://x"),
    Row("drill.etcd", "--etcd", "STRONGROOM_DRILL_ETCD", "ETCD", ""),
    Row("drill.scratch_dir", "--scratch-dir", "STRONGROOM_DRILL_SCRATCH_DIR", "/scratch", ""),
    Row("journal.interval", "--interval", "STRONGROOM_JOURNAL_INTERVAL", "10s", "61s"),
    Row("journal.spool", "--spool", "STRONGROOM_JOURNAL_SPOOL", "/spool", ""),
    Row("journal.spool_max", "--spool-max", "STRONGROOM_JOURNAL_SPOOL_MAX", "64", "x"),
    Row("copy.continuous", "--copy-continuous", "STRONGROOM_COPY_CONTINUOUS", "true", ""),
    Row("agent.continuous", "--continuous", "STRONGROOM_AGENT_CONTINUOUS", "false", ""),
    Row("agent.backup", "--backup", "STRONGROOM_AGENT_BACKUP", "@every 1h", "61 * * * *"),
    Row("agent.prune", "--prune", "STRONGROOM_AGENT_PRUNE", "0 3 * * *", "nightly"),
    Row("agent.verify", "--verify", "STRONGROOM_AGENT_VERIFY", "0 4 * * * Europe/Berlin", "0 4 * * * Mars/Olympus"),
    Row("agent.verify_all", "--verify-all", "STRONGROOM_AGENT_VERIFY_ALL", "0 5 * * 0", "x"),
    Row("agent.drill", "--drill", "STRONGROOM_AGENT_DRILL", "0 6 * * 1", "@every 5"),
    Row("agent.audit", "--audit", "STRONGROOM_AGENT_AUDIT", "0 8 * * *", "daily"),
    Row("audit.waivers", "--waivers", "STRONGROOM_AUDIT_WAIVERS", "waivers.toml", ""),
    Row("audit.advisories", "--advisories", "STRONGROOM_AUDIT_ADVISORIES", "advisories.json", ""),
    Row("audit.expect_root", "--expect-root", "STRONGROOM_AUDIT_EXPECT_ROOT", "2", "x"),
    Row("agent.jitter", "--jitter", "STRONGROOM_AGENT_JITTER", "5m", BAD_DURATION),
    Row("agent.listen", "--listen", "STRONGROOM_AGENT_LISTEN", "127.0.0.1:9481", "127.0.0.1"),
    Row("agent.log", "--log", "STRONGROOM_AGENT_LOG", "json", "yaml"),
    Row("agent.name", "--name", "STRONGROOM_AGENT_NAME", "cp-1", ""),
    Row("values.reserved_prefix", "--reserved-prefix", "STRONGROOM_RESERVED_PREFIX", "/own/", ""),
    Row("values.master_keys", "--values-master-key", "STRONGROOM_VALUES_MASTER_KEY", "file:values", "kms:x"),
    Row("proxy.listen", "--listen", "STRONGROOM_PROXY_LISTEN", "127.0.0.1:1", ":1"),
    Row("proxy.listen_cert", "--listen-cert", "STRONGROOM_PROXY_LISTEN_CERT", "a.crt", ""),
    Row("proxy.listen_key", "--listen-key", "STRONGROOM_PROXY_LISTEN_KEY", "a.key", ""),
    Row("proxy.listen_trusted_ca", "--listen-trusted-ca", "STRONGROOM_PROXY_LISTEN_TRUSTED_CA", "ca.crt", ""),
    Row("proxy.insecure_no_client_auth", "--insecure-no-client-auth", "STRONGROOM_PROXY_INSECURE_NO_CLIENT_AUTH", "true", ""),
    Row("proxy.client_cert", "--client-cert", "STRONGROOM_PROXY_CLIENT_CERT", "b.crt", ""),
    Row("proxy.client_key", "--client-key", "STRONGROOM_PROXY_CLIENT_KEY", "b.key", ""),
    Row("proxy.advertise_client_url", "--advertise-client-url", "STRONGROOM_PROXY_ADVERTISE_CLIENT_URL", "https://p:1", "p:1"),
    Row("proxy.unreadable_values", "--unreadable-values", "STRONGROOM_PROXY_UNREADABLE_VALUES", "omit", "drop"),
    Row("proxy.include", "--include", "", "/a/,/b/", ""),
    Row("proxy.exclude", "--exclude", "", "/a/x/", ""),
    Row("proxy.audit_log", "--audit-log", "STRONGROOM_PROXY_AUDIT_LOG", "audit.log", ""),
    Row("proxy.audit_log_max_size", "--audit-log-max-size", "STRONGROOM_PROXY_AUDIT_LOG_MAX_SIZE", "5", "0"),
    Row("proxy.audit_fail_open", "--audit-fail-open", "STRONGROOM_PROXY_AUDIT_FAIL_OPEN", "true", ""),
    Row("proxy.allow", "--allow", "", "app=/app/,b=/b/", "app"),
    Row("proxy.metrics_listen", "--metrics-listen", "STRONGROOM_PROXY_METRICS_LISTEN", "127.0.0.1:2", "127.0.0.1:99999"),
    Row("proxy.log", "--log", "STRONGROOM_PROXY_LOG", "json", "yaml"),
    Row("proxy.max_request_bytes", "--max-request-bytes", "STRONGROOM_PROXY_MAX_REQUEST_BYTES", "2048", "1"),
    Row("proxy.max_memory", "--max-memory", "STRONGROOM_PROXY_MAX_MEMORY", "64", "8"),
    Row("kms_plugin.listen", "--listen", "STRONGROOM_KMS_LISTEN", "unix:///run/k.sock", ""),
    Row("kms_plugin.master_keys", "--kms-plugin-master-key", "STRONGROOM_KMS_MASTER_KEY", "file:kms", "kms:x"),
    Row("kms_plugin.allow_uid", "--allow-uid", "", "1000,1001", "x"),
    Row("kms_plugin.metrics_listen", "--metrics-listen", "STRONGROOM_KMS_METRICS_LISTEN", "127.0.0.1:3", "localhost"),
    Row("kms_plugin.log", "--log", "STRONGROOM_KMS_LOG", "json", "yaml"),
];

#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Flag,
    Variable,
    File,
}

impl Row {
    fn values<'a>(&self, value: &'a str) -> Vec<&'a str> {
        if LISTS.contains(&self.0) { value.split(',').collect() } else { vec![value] }
    }

    /// As a line of the file's table.
    fn line(&self, value: &str) -> String {
        let name = self.0.rsplit_once('.').map_or(self.0, |(_, name)| name);
        let quoted: Vec<_> = self.values(value).iter().map(|one| format!("{one:?}")).collect();
        let value = match value {
            "true" | "false" => value.to_owned(),
            _ if LISTS.contains(&self.0) => format!("[{}]", quoted.join(", ")),
            _ if value.parse::<i64>().is_ok() => value.to_owned(),
            _ => quoted.concat(),
        };
        format!("{name} = {value}\n")
    }

    fn table(&self) -> &str {
        self.0.rsplit_once('.').map_or("", |(table, _)| table)
    }
}

/// What `config check` says of `rows` that are set `by`, read as `command` does.
fn check(place: &Place, command: &str, by: By, rows: &[(&Row, &str)]) -> (Value, Option<i32>) {
    let mut asked = place.bare(&["-w", "json", "config", "check", "--for", command]);
    let mut file: BTreeMap<&str, String> = BTreeMap::new();
    let mut flags = Vec::new();
    for (row, value) in rows {
        match by {
            By::Flag if *value == "true" => flags.push(row.1.to_owned()),
            By::Flag => {
                flags.extend(row.values(value).iter().map(|one| format!("{}={one}", row.1)));
            }
            By::Variable if !row.2.is_empty() => {
                asked.env(row.2, value);
            }
            By::Variable => {}
            By::File => *file.entry(row.table()).or_default() += &row.line(value),
        }
    }
    let text_of = |(table, lines): (&&str, &String)| match *table {
        "" => lines.clone(),
        table => format!("[{table}]\n{lines}"),
    };
    let config: String = file.iter().map(text_of).collect();
    fs::write(place.path("settings.toml"), config).unwrap();
    asked.env("STRONGROOM_CONFIG", "settings.toml").arg("--").args(flags);
    let out = asked.output().unwrap();
    let json = serde_json::from_slice(&out.stdout)
        .unwrap_or_else(|_| panic!("{}{}", text(&out.stdout), text(&out.stderr)));
    (json, out.status.code())
}

/// The settings that a command has.
fn settings_of(place: &Place, command: &str) -> BTreeSet<String> {
    let (json, _) = check(place, command, By::File, &[]);
    let rows = json["settings"].as_array().unwrap();
    rows.iter().map(|row| row["setting"].as_str().unwrap().to_owned()).collect()
}

const COMMANDS: [&str; 4] = ["backup", "agent", "proxy", "kms-plugin"];

#[test]
fn every_setting_has_a_row() {
    let place = Place::new();
    let all: BTreeSet<_> =
        COMMANDS.iter().flat_map(|command| settings_of(&place, command)).collect();
    let rows: BTreeSet<_> = ROWS.iter().map(|row| row.0.to_owned()).collect();
    assert_eq!(all, rows);
    // None is missing because no command of the three has it.
    let mut example = place.bare(&["config", "example"]);
    let example = text(&example.output().unwrap().stdout);
    for row in &rows {
        let name = row.rsplit_once('.').map_or(row.as_str(), |(_, name)| name);
        assert!(example.contains(&format!("\n# {name} = ")), "{row}");
    }
}

#[test]
fn a_good_value_has_the_same_effect_from_everywhere() {
    let place = Place::new();
    write_secret(&place.path("word"), "horse");
    write_secret(&place.path("store.env"), "AWS_SECRET_ACCESS_KEY=hunter2\n");
    // What the agent reads when its settings are checked.
    fs::write(place.path("waivers.toml"), "").unwrap();
    let table = include_str!("../../src/posture/advisories.json");
    fs::write(place.path("advisories.json"), table).unwrap();
    let etcd = Version::NEWEST.programs().join("etcd");
    let etcd = etcd.to_str().unwrap();
    for command in COMMANDS {
        let has = settings_of(&place, command);
        // This one contradicts another.
        let (apart, together): (Vec<_>, Vec<_>) = ROWS
            .iter()
            .filter(|row| has.contains(row.0))
            .map(|row| (row, if row.3 == "ETCD" { etcd } else { row.3 }))
            .partition(|(row, _)| row.0 == "proxy.insecure_no_client_auth");
        for by in [By::Flag, By::Variable, By::File] {
            for rows in [&together, &apart].into_iter().filter(|rows| !rows.is_empty()) {
                let (json, status) = check(&place, command, by, rows);
                assert!(!json.to_string().contains("hunter2"), "{json}");
                if rows.len() > 1 && by != By::Variable {
                    assert_eq!(status, Some(0), "{command} {by:?}: {}", json["problems"]);
                }
                for (row, value) in
                    rows.iter().filter(|(row, _)| by != By::Variable || !row.2.is_empty())
                {
                    let found = json["settings"].as_array().unwrap();
                    let found = found.iter().find(|found| found["setting"] == row.0).unwrap();
                    let secret = row.0 == "keys.passphrase_command";
                    let shown = if secret { vec!["(set)"] } else { row.values(value) };
                    assert_eq!(found["values"], Value::from(shown), "{command} {} {by:?}", row.0);
                    let source = found["source"].as_str().unwrap();
                    match by {
                        By::Flag => assert_eq!(source, format!("flag {}", row.1)),
                        By::Variable => assert_eq!(source, format!("variable {}", row.2)),
                        By::File => assert!(source.starts_with("settings.toml, line "), "{source}"),
                    }
                }
            }
        }
    }
}

/// Why the value of `row` is refused, if the source is named as it should be.
fn reason(problems: &Value, by: By, row: &Row) -> Option<String> {
    let begins = match by {
        By::Flag => format!("{}: ", row.1),
        By::Variable => format!("{}: ", row.2),
        By::File => format!(": {}: ", row.0),
    };
    problems.as_array().unwrap().iter().find_map(|problem| {
        let message = problem["message"].as_str().unwrap();
        let (head, reason) = message.split_once(&begins)?;
        let fits = match by {
            By::File => head.starts_with("settings.toml, line "),
            _ => head.is_empty(),
        };
        fits.then(|| reason.to_owned())
    })
}

#[test]
fn a_bad_value_is_refused_from_everywhere_for_the_same_reason() {
    let place = Place::new();
    for command in COMMANDS {
        let has = settings_of(&place, command);
        let bad: Vec<_> = ROWS
            .iter()
            .filter(|row| has.contains(row.0) && !row.4.is_empty())
            .map(|row| (row, row.4))
            .collect();
        let reasons = |by: By| -> BTreeMap<&str, String> {
            let asked = bad.iter().filter(|(row, _)| by != By::Variable || !row.2.is_empty());
            // All that is wrong in file and environment is told at once; of flags the first is.
            let runs: Vec<Vec<_>> = match by {
                By::Flag => asked.map(|pair| vec![*pair]).collect(),
                By::Variable | By::File => vec![asked.copied().collect()],
            };
            let mut reasons = BTreeMap::new();
            for rows in runs {
                let (json, status) = check(&place, command, by, &rows);
                assert_eq!(status, Some(2), "{json}");
                for (row, _) in rows {
                    let reason = reason(&json["problems"], by, row);
                    reasons.insert(
                        row.0,
                        reason.unwrap_or_else(|| panic!("{} {by:?}: {json:#}", row.0)),
                    );
                }
            }
            reasons
        };
        let (filed, typed, set) = (reasons(By::File), reasons(By::Flag), reasons(By::Variable));
        assert_eq!(filed, typed, "{command}");
        assert!(set.iter().all(|(id, reason)| filed[id] == *reason), "{set:#?} {filed:#?}");
    }
}

/// The commands themselves, not only what is said of them.
#[test]
fn the_commands_refuse_what_the_check_refuses() {
    let place = Place::new();
    let file = "[backup]\nlevel = 30\n[proxy]\nmax_memory = 8\n[values]\nmaster_keys = [\"file:keyring\"]\n";
    fs::write(place.path("bad.toml"), file).unwrap();
    for (command, reason) in [
        ("backup", "bad.toml, line 2: backup.level: 30 is not in -7..=19"),
        ("agent", "bad.toml, line 2: backup.level: 30 is not in -7..=19"),
        ("proxy", "bad.toml, line 4: proxy.max_memory: 8 is not in 16..=1048576"),
    ] {
        let mut asked = place.bare(&["--config", "bad.toml", command]);
        assert!(crate::place::exits(2, &mut asked).contains(reason), "{command}");
    }
    for command in ["backup", "agent"] {
        let mut asked = place.bare(&[command]);
        let error = crate::place::exits(2, asked.env("STRONGROOM_LEVEL", "30"));
        assert!(error.contains("STRONGROOM_LEVEL: 30 is not in -7..=19"), "{error}");
    }
    // An empty variable is unset.
    let out = place.command(&["snapshots"]).env("STRONGROOM_DIAL_TIMEOUT", "").output().unwrap();
    assert!(out.status.success(), "{}", text(&out.stderr));
}

#[test]
fn the_backups_master_keys_are_not_those_of_values() {
    let place = Place::new();
    let backups =
        "master_keys = [\"file:keyring\"]\n[etcd]\nendpoints = [\"http://127.0.0.1:1\"]\n";
    fs::write(place.path("one.toml"), backups).unwrap();
    fs::write(
        place.path("two.toml"),
        format!("{backups}[values]\nmaster_keys = [\"file:none\"]\n"),
    )
    .unwrap();
    for args in [&["proxy"][..], &["value", "status"]] {
        let refused = crate::place::exits(2, place.bare(&["--config", "one.toml"]).args(args));
        assert!(refused.contains("[values]"), "{refused}");
        // Those of values are opened, and those that are for this command go first.
        let own = crate::place::exits(1, place.bare(&["--config", "two.toml"]).args(args));
        assert!(own.contains("none: No such file"), "{own}");
        let typed = ["--config", "two.toml", "-k", "file:typed"];
        let typed = crate::place::exits(1, place.bare(&typed).args(args));
        assert!(typed.contains("typed: No such file"), "{typed}");
    }
}

#[test]
fn the_options_of_a_store_are_not_anothers() {
    let place = Place::new();
    place.backup();
    let config = "[repository]\nurl = \"s3://away\"\n[repository.options]\naws_region = \"x\"\n";
    fs::write(place.path("s3.toml"), config).unwrap();
    // On the worst day a copy in a directory is listed with the settings of the store that is gone.
    let mut listed = place.bare(&["--config", "s3.toml", "-r", "repo", "-q", "snapshots"]);
    let out = listed.output().unwrap();
    assert!(out.status.success() && out.stderr.is_empty(), "{}", text(&out.stderr));
    let mut other =
        place.bare(&["--config", "s3.toml", "config", "check", "-r", "s3://b", "--for", "backup"]);
    assert!(other.output().unwrap().status.success());
}
