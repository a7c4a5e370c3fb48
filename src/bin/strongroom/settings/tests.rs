use clap::CommandFactory;
use strongroom::ErrorKind;
use strongroom::etcd::EtcdSettings;

use super::*;

fn parsed(config: &str, args: &[&str], variables: &[(&str, &str)]) -> Result<Parsed> {
    let mut line = vec!["strongroom", "--config", config];
    line.extend(args);
    if !args.iter().any(|arg| arg.starts_with(char::is_alphabetic) && *arg == "backup") {
        line.push("snapshots");
    }
    let line: Vec<_> = line.into_iter().map(OsString::from).collect();
    let variable = |wanted: &str| {
        let found = variables.iter().find(|(name, _)| *name == wanted);
        found.map(|(_, value)| (*value).to_owned()).filter(|value| !value.is_empty())
    };
    parse_with(prepared(Cli::command()), &line, &variable).map_err(|mistake| match mistake {
        Mistake::Typed(error) => Error::usage(error.to_string()),
        Mistake::Set(error) => error,
    })
}

/// With a configuration file that says `text`.
fn filed(text: &str, args: &[&str], variables: &[(&str, &str)]) -> Result<Parsed> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("strongroom.toml");
    std::fs::write(&path, text).unwrap();
    parsed(path.to_str().unwrap(), args, variables)
}

#[test]
fn the_sample_configuration_parses() {
    let text = include_str!("../../../../scripts/deploy/strongroom.toml");
    let all = text.lines().map(|line| line.strip_prefix("#= ").unwrap_or(line));
    let all: Vec<&str> = all.collect();
    filed(text, &[], &[]).unwrap();
    let all = filed(&all.join("\n"), &["backup"], &[]).unwrap();
    assert!(all.cli.global.common.repository.id.is_some());
}

#[test]
fn an_unknown_key_is_an_error() {
    for text in ["repo = 1", "[repository]\nurll = \"x\"", "[etcd]\npassword = \"x\""] {
        assert_eq!(filed(text, &[], &[]).err().unwrap().kind(), ErrorKind::Usage, "{text}");
    }
    let error = filed("\n[repository]\nurll = \"x\"", &[], &[]).err().unwrap();
    assert!(error.to_string().ends_with("line 3: unknown setting repository.urll"), "{error}");
    assert_eq!(error.hint_text(), Some("did you mean repository.url?"));
}

#[test]
fn a_password_beside_the_user_is_refused() {
    let typed = parsed("/dev/null", &["--user", "root:hunter2"], &[]).err().unwrap();
    let filed = filed("[etcd]\nuser = \"root:hunter2\"", &[], &[]).err().unwrap();
    for error in [typed, filed] {
        assert_eq!(error.kind(), ErrorKind::Usage);
        assert!(!error.to_string().contains("hunter2"));
        assert!(error.hint_text().unwrap().contains("--password-file"));
    }
}

fn etcd(text: &str, args: &[&str], variables: &[(&str, &str)]) -> Result<EtcdSettings> {
    filed(text, args, variables).unwrap().cli.global.common.etcd()
}

#[test]
fn etcdctls_variables_come_last() {
    let variables = [
        ("ETCDCTL_ENDPOINTS", "http://stray:2379, http://other:2379"),
        ("ETCDCTL_CACERT", "/stray"),
        ("ETCDCTL_DIAL_TIMEOUT", "7s"),
    ];
    let text = "[etcd]\nendpoints = [\"http://filed:2379\"]\ndial_timeout = \"1m30s\"";
    let settings = etcd(text, &["--endpoints", "http://typed:2379"], &variables).unwrap();
    assert_eq!(settings.endpoints, ["http://typed:2379"]);
    let settings = etcd(text, &[], &variables).unwrap();
    assert_eq!(settings.endpoints, ["http://filed:2379"]);
    assert_eq!(settings.dial_timeout.as_secs(), 90);
    assert_eq!(settings.cacert.as_deref(), Some(Path::new("/stray")));
    let settings = etcd("", &[], &variables).unwrap();
    assert_eq!(settings.endpoints, ["http://stray:2379", "http://other:2379"]);
    assert_eq!(settings.dial_timeout.as_secs(), 7);
    let settings = etcd("", &[], &[("ETCDCTL_ENDPOINTS", ""), ("ETCDCTL_CACERT", "")]).unwrap();
    assert_eq!(settings.endpoints, EtcdSettings::default().endpoints);
    assert_eq!(settings.cacert, None);
    let error = filed("", &[], &[("ETCDCTL_DIAL_TIMEOUT", "7")]).err().unwrap();
    assert!(error.to_string().starts_with("ETCDCTL_DIAL_TIMEOUT: "), "{error}");
}

#[test]
fn etcdctls_credentials_are_taken_as_etcdctl_takes_them() {
    let both = |variables: &[_]| {
        let etcd = etcd("", &[], variables).unwrap();
        let password = etcd.password.map(|word| String::from_utf8(word.expose().to_vec()));
        (etcd.user, password.transpose().unwrap())
    };
    let root = |password: &str| (Some("root".to_owned()), Some(password.to_owned()));
    assert_eq!(both(&[("ETCDCTL_USER", "root:a:b")]), root("a:b"));
    assert_eq!(both(&[("ETCDCTL_USER", "root"), ("ETCDCTL_PASSWORD", "x")]), root("x"));
    assert_eq!(both(&[("ETCDCTL_PASSWORD", "x")]), (None, None));
}

#[test]
fn a_users_password_is_never_anothers() {
    let error = etcd("[etcd]\nuser = \"backup\"", &[], &[("ETCDCTL_USER", "root:stray")]);
    assert_eq!(error.err().unwrap().kind(), ErrorKind::Usage);
}

#[test]
fn the_file_keeps_the_flags_bounds() {
    for bad in ["read_ahead = 3", "read_ahead = 65537", "level = 20", "level = -8", "level = true"]
    {
        let error = filed(&format!("[backup]\n{bad}"), &["backup"], &[]).err().unwrap();
        let name = bad.split(' ').next().unwrap();
        assert_eq!(error.kind(), ErrorKind::Usage, "{bad}");
        assert!(error.to_string().contains(&format!("line 2: backup.{name}: ")), "{error}");
    }
    for good in ["read_ahead = 4", "read_ahead = 65536", "level = 19", "level = -7"] {
        assert!(filed(&format!("[backup]\n{good}"), &["backup"], &[]).is_ok(), "{good}");
    }
}

#[test]
fn several_master_keys_fit_into_one_value() {
    let keys =
        |parsed: Parsed| -> Vec<_> { parsed.cli.global.common.master_keys().cloned().collect() };
    let file = |path: &str| MasterKeyUri::File(path.into());
    let settings = parsed("/dev/null", &["-k", "file:/a, passphrase\nfile:/b\n"], &[]).unwrap();
    assert_eq!(keys(settings), [file("/a"), MasterKeyUri::Passphrase(None), file("/b")]);
    let settings = filed("master_keys = [\"file:/a,b\"]", &[], &[]).unwrap();
    assert!(!settings.explicit_keys);
    assert_eq!(keys(settings), [file("/a,b")]);
}

#[test]
fn flags_win_over_the_file() {
    let text = "cluster = \"filed\"\n[repository]\nurl = \"/filed\"\n";
    let common = filed(text, &["--cluster", "typed"], &[]).unwrap().cli.global.common;
    assert_eq!(common.cluster.as_ref().unwrap().as_str(), "typed");
    assert_eq!(common.repository_url().unwrap().to_string(), "/filed");
}

#[test]
fn a_stores_options_are_for_its_url_only() {
    let text = "[repository]\nurl = \"s3://a\"\n[repository.options]\naws_region = \"x\"\n";
    let options = |text: &str, args: &[&str]| {
        let parsed = filed(text, args, &[]).unwrap();
        (parsed.cli.global.common.repository.options.len(), parsed.notes.len())
    };
    assert_eq!(options(text, &[]), (1, 0));
    assert_eq!(options(text, &["-r", "s3://a/"]), (1, 0));
    assert_eq!(options(text, &["-r", "s3://b"]), (0, 1));
    assert_eq!(options(text, &["-r", "/mnt/usb"]), (0, 0));
    let anywhere = "[repository.options]\naws_region = \"x\"\n";
    assert_eq!(options(anywhere, &["-r", "s3://b"]), (1, 0));
}
