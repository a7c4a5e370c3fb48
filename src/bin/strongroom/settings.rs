//! What was typed, and what it means: flags, else `STRONGROOM_*` (both through clap), else the
//! configuration file, else `ETCDCTL_*` for etcd's connection.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use strongroom::agent::Schedule;
use strongroom::backup::BackupOptions;
use strongroom::crypto::Suite;
use strongroom::custody::{MasterKeyUri, NamedKey};
use strongroom::etcd::EtcdSettings;
use strongroom::format::{ClusterName, Uuid};
use strongroom::secret::SecretBytes;
use strongroom::store::RepositoryUrl;
use strongroom::{Error, ErrorKind, Result};

use crate::args::{EtcdArgs, Global, KeepArgs, LEVELS, READ_AHEAD_MIB};
use crate::duration::Span;
use crate::log::LogFormat;
use crate::secrets;

const DEFAULT_CONFIG: &str = "/etc/strongroom/strongroom.toml";

/// The configuration file. An unknown key is an error: a misspelt one would be silently without effect.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Config {
    cluster: Option<String>,
    master_keys: Vec<String>,
    repository: RepositoryConfig,
    etcd: EtcdConfig,
    backup: BackupConfig,
    prune: KeepArgs,
    copy: CopyConfig,
    agent: AgentConfig,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RepositoryConfig {
    url: Option<String>,
    id: Option<String>,
    options: BTreeMap<String, String>,
}

/// The agent: when it does what, and where it tells.
#[derive(Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct AgentConfig {
    pub(crate) backup: Option<Schedule>,
    pub(crate) prune: Option<Schedule>,
    pub(crate) verify: Option<Schedule>,
    pub(crate) verify_all: Option<Schedule>,
    pub(crate) drill: Option<Schedule>,
    pub(crate) jitter: Option<Span>,
    /// host:port of the status page and the metrics.
    pub(crate) listen: Option<String>,
    /// text or json.
    pub(crate) log: LogFormat,
    /// The etcd that drills start.
    pub(crate) etcd: Option<PathBuf>,
    /// Which agent this is, for people.
    pub(crate) name: Option<String>,
}

/// The second repository.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct CopyConfig {
    pub(crate) url: Option<String>,
    /// Of its store; without them those of the first.
    pub(crate) options: Option<BTreeMap<String, String>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct EtcdConfig {
    endpoints: Vec<String>,
    cacert: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
    dial_timeout: Option<Span>,
    command_timeout: Option<Span>,
    allow_untested: bool,
}

/// Defaults for `backup`.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct BackupConfig {
    /// MiB.
    pub(crate) read_ahead: Option<u32>,
    pub(crate) level: Option<i32>,
    #[serde(deserialize_with = "suite")]
    pub(crate) suite: Option<Suite>,
    /// Files and directories to store beside each snapshot.
    pub(crate) include: Vec<PathBuf>,
}

fn suite<'de, D: serde::Deserializer<'de>>(
    from: D,
) -> std::result::Result<Option<Suite>, D::Error> {
    String::deserialize(from)?.parse().map(Some).map_err(serde::de::Error::custom)
}

/// What the flags, variables and files come to.
pub(crate) struct Settings {
    repository: Option<String>,
    pub(crate) repository_id: Option<Uuid>,
    pub(crate) options: BTreeMap<String, String>,
    pub(crate) cluster: Option<ClusterName>,
    pub(crate) master_keys: Vec<MasterKeyUri>,
    pub(crate) backup: BackupConfig,
    pub(crate) prune: KeepArgs,
    pub(crate) copy: CopyConfig,
    pub(crate) agent: AgentConfig,
    etcd: EtcdArgs,
}

impl Settings {
    /// Puts the sources together.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for a configuration file that is wrong or a value that makes no sense.
    pub(crate) fn resolve(global: Global) -> Result<Self> {
        let config = read_config(global.config.as_deref())?;
        refuse_password(global.etcd.user.as_deref().or(config.etcd.user.as_deref()))?;
        check_backup(&config.backup)?;
        let parse = |text: String| text.parse::<MasterKeyUri>();
        let master_keys = either(split_keys(&global.master_keys), config.master_keys);
        let cluster = config.cluster.map(|name| name.parse()).transpose();
        let id = config.repository.id.map(|id| id.parse()).transpose();
        Ok(Self {
            repository: global.repository.or(config.repository.url),
            repository_id: global.repository_id.or(named("repository.id", id)?),
            options: config.repository.options,
            cluster: global.cluster.or(named("cluster", cluster)?),
            master_keys: master_keys.into_iter().map(parse).collect::<Result<_>>()?,
            backup: config.backup,
            prune: config.prune,
            copy: config.copy,
            agent: config.agent,
            etcd: merge(global.etcd, config.etcd),
        })
    }

    /// How backups are taken.
    pub(crate) fn backup_options(&self) -> BackupOptions {
        let (mut options, config) = (BackupOptions::default(), &self.backup);
        options.cluster = self.cluster.clone().unwrap_or_default();
        options.level = config.level.unwrap_or(options.level);
        options.suite = config.suite.unwrap_or(options.suite);
        options.include = config.include.clone();
        options.read_ahead =
            config.read_ahead.map_or(options.read_ahead, |mib| (mib as usize) << 20);
        options
    }

    /// Whether a repository is named, well or not.
    pub(crate) fn has_repository(&self) -> bool {
        self.repository.is_some()
    }

    /// The repository's URL.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when none is set.
    pub(crate) fn repository_url(&self) -> Result<RepositoryUrl> {
        self.repository
            .as_deref()
            .ok_or_else(|| {
                Error::usage("no repository given").hint(
                    "give one with --repository, STRONGROOM_REPOSITORY or the configuration file",
                )
            })?
            .parse()
    }

    /// The one keyring file among the master keys, for commands that change it.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] when there is none, or more than one.
    pub(crate) fn keyring_path(&self) -> Result<&Path> {
        let mut files = self.keyring_paths();
        match (files.next(), files.next()) {
            (Some(path), None) => Ok(path),
            _ => Err(Error::usage("exactly one keyring file is needed here")
                .hint("give it with --master-key file:PATH")),
        }
    }

    /// The keyring files given.
    pub(crate) fn keyring_paths(&self) -> impl Iterator<Item = &Path> {
        self.master_keys.iter().filter_map(|key| match key {
            MasterKeyUri::File(path) => Some(path.as_path()),
            MasterKeyUri::Passphrase(_) => None,
        })
    }

    /// The passphrase keys given; `None` is one without a name.
    pub(crate) fn passphrases(&self) -> impl Iterator<Item = Option<NamedKey>> {
        self.master_keys.iter().filter_map(|key| match key {
            MasterKeyUri::File(_) => None,
            MasterKeyUri::Passphrase(named) => Some(*named),
        })
    }

    /// Whether to go on with an etcd later than the last one tested.
    pub(crate) fn allow_untested_etcd(&self) -> bool {
        self.etcd.allow_untested_etcd
    }

    /// etcd's connection, `ETCDCTL_*` variables last, so that a stray one never redirects a backup.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] for contradictions, [`ErrorKind::Io`] for a password file that cannot be read.
    pub(crate) fn etcd(&self) -> Result<EtcdSettings> {
        self.etcd_with(&|name| std::env::var(name).ok())
    }

    fn etcd_with(&self, variables: &dyn Fn(&str) -> Option<String>) -> Result<EtcdSettings> {
        let variable = |name: &str| variables(name).filter(|value| !value.is_empty());
        let path = |given: &Option<PathBuf>, name| given.clone().or(variable(name).map(Into::into));
        let args = &self.etcd;
        let default = EtcdSettings::default();
        let mut endpoints = args.endpoints.clone();
        if endpoints.is_empty() {
            endpoints = match variable("ETCDCTL_ENDPOINTS") {
                Some(list) => list.split(',').map(|endpoint| endpoint.trim().into()).collect(),
                None => default.endpoints,
            };
        }
        let (user, password) = self.credentials(&variable)?;
        let span = |given: Option<Span>, name| match (given, variable(name)) {
            (Some(span), _) => Ok(Some(span.0)),
            (None, Some(text)) => text.parse::<Span>().map(|span| Some(span.0)),
            (None, None) => Ok(None),
        };
        Ok(EtcdSettings {
            endpoints,
            cacert: path(&args.cacert, "ETCDCTL_CACERT"),
            cert: path(&args.cert, "ETCDCTL_CERT"),
            key: path(&args.key, "ETCDCTL_KEY"),
            user,
            password,
            dial_timeout: span(args.dial_timeout, "ETCDCTL_DIAL_TIMEOUT")?
                .unwrap_or(default.dial_timeout),
            command_timeout: span(args.command_timeout, "ETCDCTL_COMMAND_TIMEOUT")?
                .unwrap_or(default.command_timeout),
            allow_untested: self.allow_untested_etcd(),
        })
    }

    fn credentials(
        &self,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<(Option<String>, Option<SecretBytes>)> {
        let mut password =
            self.etcd.password_file.as_deref().map(secrets::read_file).transpose()?;
        let user = match &self.etcd.user {
            Some(user) => Some(user.clone()),
            // etcdctl takes name:password here, and so do we: a variable is not an argument.
            None => variable("ETCDCTL_USER").map(|both| match both.split_once(':') {
                Some((user, word)) => {
                    password.get_or_insert_with(|| SecretBytes::new(word.into()));
                    user.into()
                }
                None => both,
            }),
        };
        if user.is_some() && password.is_none() {
            password = variable("ETCDCTL_PASSWORD").map(|word| SecretBytes::new(word.into_bytes()));
        }
        if let (Some(user), None) = (&user, &password) {
            return Err(Error::usage(format!("no password for etcd user {user}"))
                .hint("give --password-file FILE or ETCDCTL_PASSWORD"));
        }
        Ok((user, password))
    }
}

/// A name with a colon is a name with a password, as etcdctl takes it.
fn refuse_password(user: Option<&str>) -> Result<()> {
    if user.is_some_and(|user| user.contains(':')) {
        return Err(Error::usage(
            "the user is a name without a password: \
             every process on this host can read one on the command line",
        )
        .hint("give --user NAME and --password-file FILE, or ETCDCTL_USER and ETCDCTL_PASSWORD"));
    }
    Ok(())
}

/// The bounds that clap keeps for the flags.
fn check_backup(config: &BackupConfig) -> Result<()> {
    let read_ahead = config.read_ahead.is_none_or(|mib| READ_AHEAD_MIB.contains(&mib.into()));
    let level = config.level.is_none_or(|level| LEVELS.contains(&level.into()));
    for (good, name, range) in
        [(read_ahead, "read_ahead", READ_AHEAD_MIB), (level, "level", LEVELS)]
    {
        if !good {
            let (low, high) = range.into_inner();
            return Err(Error::usage(format!(
                "configuration: backup.{name}: must be from {low} to {high}"
            )));
        }
    }
    Ok(())
}

/// A variable can hold several keys, but is one value.
fn split_keys(given: &[String]) -> Vec<String> {
    let parts = given.iter().flat_map(|keys| keys.split([',', '\n']));
    parts.map(str::trim).filter(|key| !key.is_empty()).map(Into::into).collect()
}

fn either<T>(first: Vec<T>, second: Vec<T>) -> Vec<T> {
    if first.is_empty() { second } else { first }
}

fn named<T>(name: &str, result: Result<T>) -> Result<T> {
    result.map_err(|error| Error::usage(format!("configuration: {name}: {error}")))
}

fn merge(args: EtcdArgs, config: EtcdConfig) -> EtcdArgs {
    EtcdArgs {
        endpoints: either(args.endpoints, config.endpoints),
        cacert: args.cacert.or(config.cacert),
        cert: args.cert.or(config.cert),
        key: args.key.or(config.key),
        user: args.user.or(config.user),
        password_file: args.password_file.or(config.password_file),
        dial_timeout: args.dial_timeout.or(config.dial_timeout),
        command_timeout: args.command_timeout.or(config.command_timeout),
        allow_untested_etcd: args.allow_untested_etcd || config.allow_untested,
    }
}

fn read_config(given: Option<&Path>) -> Result<Config> {
    let path = given.unwrap_or(Path::new(DEFAULT_CONFIG));
    match std::fs::read_to_string(path) {
        Ok(text) => parse_config(&text)
            .map_err(|error| error.context(format!("configuration {}", path.display()))),
        Err(error) if given.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            Ok(Config::default())
        }
        Err(error) => Err(Error::new(ErrorKind::Usage, format!("{}: {error}", path.display()))),
    }
}

fn parse_config(text: &str) -> Result<Config> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        // The offending line, or a value in the message, may be a store's secret.
        let message = match error.message().rsplit_once(", expected ") {
            Some((_, expected)) => format!("expected {expected}"),
            None => error.message().to_owned(),
        };
        Error::usage(format!("line {line}: {message}"))
            .hint("`scripts/deploy/strongroom.toml` shows every setting")
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_sample_configuration_parses() {
        let text = include_str!("../../../scripts/deploy/strongroom.toml");
        let all = text.lines().map(|line| line.strip_prefix("#= ").unwrap_or(line));
        let all: Vec<&str> = all.collect();
        let config = parse_config(&all.join("\n")).unwrap();
        assert!(config.repository.id.is_some() && config.backup.suite.is_some());
        assert!(!config.backup.include.is_empty());
        parse_config(text).unwrap();
    }

    #[test]
    fn an_unknown_key_is_an_error() {
        for text in ["repo = 1", "[repository]\nurll = \"x\"", "[etcd]\npassword = \"x\""] {
            assert_eq!(parse_config(text).err().unwrap().kind(), ErrorKind::Usage, "{text}");
        }
    }

    fn resolve(config: &str, args: &[&str]) -> Result<Settings> {
        use clap::Parser;
        let args = [&["strongroom", "--config", config], args, &["snapshots"]].concat();
        Settings::resolve(crate::args::Cli::try_parse_from(args).unwrap().global)
    }

    /// Settings from a configuration file that says `text`.
    fn filed(text: &str, args: &[&str]) -> Result<Settings> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("strongroom.toml");
        std::fs::write(&path, text).unwrap();
        resolve(path.to_str().unwrap(), args)
    }

    #[test]
    fn a_password_beside_the_user_is_refused() {
        let typed = resolve("/dev/null", &["--user", "root:hunter2"]).err().unwrap();
        let filed = filed("[etcd]\nuser = \"root:hunter2\"", &[]).err().unwrap();
        for error in [typed, filed] {
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(!error.to_string().contains("hunter2"));
            assert!(error.hint_text().unwrap().contains("--password-file"));
        }
    }

    /// etcd's settings, in an environment that holds `variables` and nothing else.
    fn etcd(settings: &Settings, variables: &[(&str, &str)]) -> Result<EtcdSettings> {
        settings.etcd_with(&|wanted| {
            let found = variables.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn etcdctls_variables_come_last() {
        let variables = [
            ("ETCDCTL_ENDPOINTS", "http://stray:2379, http://other:2379"),
            ("ETCDCTL_CACERT", "/stray"),
            ("ETCDCTL_DIAL_TIMEOUT", "7s"),
        ];
        let etcd = |text, args: &[&str], variables: &[_]| {
            etcd(&filed(text, args).unwrap(), variables).unwrap()
        };
        let text = "[etcd]\nendpoints = [\"http://filed:2379\"]\ndial_timeout = \"1m30s\"";
        let settings = etcd(text, &["--endpoints", "http://typed:2379"], &variables);
        assert_eq!(settings.endpoints, ["http://typed:2379"]);
        let settings = etcd(text, &[], &variables);
        assert_eq!(settings.endpoints, ["http://filed:2379"]);
        assert_eq!(settings.dial_timeout, Duration::from_secs(90));
        assert_eq!(settings.cacert.as_deref(), Some(Path::new("/stray")));
        let settings = etcd("", &[], &variables);
        assert_eq!(settings.endpoints, ["http://stray:2379", "http://other:2379"]);
        assert_eq!(settings.dial_timeout, Duration::from_secs(7));
        let settings = etcd("", &[], &[("ETCDCTL_ENDPOINTS", ""), ("ETCDCTL_CACERT", "")]);
        assert_eq!(settings.endpoints, EtcdSettings::default().endpoints);
        assert_eq!(settings.cacert, None);
    }

    #[test]
    fn etcdctls_credentials_are_taken_as_etcdctl_takes_them() {
        let both = |variables: &[_]| {
            let etcd = etcd(&filed("", &[]).unwrap(), variables).unwrap();
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
        let settings = filed("[etcd]\nuser = \"backup\"", &[]).unwrap();
        let error = etcd(&settings, &[("ETCDCTL_USER", "root:stray")]).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }

    #[test]
    fn the_files_numbers_keep_the_flags_bounds() {
        for bad in ["read_ahead = 3", "read_ahead = 65537", "level = 20", "level = -8"] {
            let error = filed(&format!("[backup]\n{bad}"), &[]).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Usage, "{bad}");
        }
        for good in ["read_ahead = 4", "read_ahead = 65536", "level = 19", "level = -7"] {
            assert!(filed(&format!("[backup]\n{good}"), &[]).is_ok(), "{good}");
        }
    }

    #[test]
    fn several_master_keys_fit_into_one_value() {
        let settings = resolve("/dev/null", &["-k", "file:/a, passphrase\nfile:/b\n"]).unwrap();
        let file = |path: &str| MasterKeyUri::File(path.into());
        assert_eq!(settings.master_keys, [file("/a"), MasterKeyUri::Passphrase(None), file("/b")]);
        // A file's list needs no separators: there a comma belongs to the path.
        let settings = filed("master_keys = [\"file:/a,b\"]", &[]).unwrap();
        assert_eq!(settings.master_keys, [file("/a,b")]);
    }

    #[test]
    fn flags_win_over_the_file() {
        let text = "cluster = \"filed\"\n[repository]\nurl = \"/filed\"\n";
        let settings = filed(text, &["--cluster", "typed"]).unwrap();
        assert_eq!(settings.cluster.unwrap().as_str(), "typed");
        assert_eq!(settings.repository.as_deref(), Some("/filed"));
    }
}
