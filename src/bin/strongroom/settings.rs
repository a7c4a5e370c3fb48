//! Where settings come from: flags, else `STRONGROOM_*` variables, else the configuration file, else, for etcd's
//! connection, `ETCDCTL_*` variables. A setting is an argument whose id is its path in the file, so that clap checks it
//! wherever it comes from.

mod rows;

use std::any::TypeId;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::Path;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind as Clap};
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command, FromArgMatches};
use strongroom::custody::{MasterKeyUri, MasterKeyUris};
use strongroom::secret::SecretBytes;
use strongroom::settings::{File, Shape, check_user};
use strongroom::store::RepositoryUrl;
use strongroom::{Error, Result};

use crate::args::{self, Cli};

pub(crate) use rows::Row;

const DEFAULT_CONFIG: &str = "/etc/strongroom/strongroom.toml";
/// Rules for what to keep: those of the first source that has any count, and no others.
const KEEP: &str = "prune.keep_";

/// What was typed and set.
pub(crate) struct Parsed {
    pub(crate) cli: Cli,
    /// The master keys come from a flag or a variable, and so are for this command.
    pub(crate) explicit_keys: bool,
    /// What the operator should know about the settings.
    pub(crate) notes: Vec<String>,
}

/// What is wrong with what was typed or set.
pub(crate) enum Mistake {
    /// Clap's own errors, help and version among them.
    Typed(clap::Error),
    /// A setting.
    Set(Error),
}

/// Gives a variable of the environment.
type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// A variable of this process; one that is empty is unset.
pub(crate) fn environment(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Puts together what was typed, the environment and the file.
///
/// # Errors
/// Help and version too are errors, of clap's.
pub(crate) fn parse(command: Command, args: &[OsString]) -> Result<Parsed, Mistake> {
    parse_with(command, args, &environment)
}

fn parse_with(
    command: Command,
    args: &[OsString],
    variables: Variables<'_>,
) -> Result<Parsed, Mistake> {
    let sources = Sources::read(command, args, variables)?;
    if let Some(error) = sources.problems().into_iter().next() {
        return Err(Mistake::Set(error));
    }
    let matches = sources.matches(&BTreeSet::new()).map_err(|error| sources.explain(error))?;
    let mut cli = Cli::from_arg_matches(&matches).map_err(Mistake::Typed)?;
    let mut notes = Vec::new();
    sources.complete(&mut cli, variables, &mut notes).map_err(Mistake::Set)?;
    Ok(Parsed { cli, explicit_keys: sources.given.contains_key("master_keys"), notes })
}

/// The command as it is defined, with what holds for all its arguments.
pub(crate) fn prepared(command: Command) -> Command {
    all_args(command.mut_args(|arg| arg.global(true)), &|arg| {
        let empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
        if empty { arg.env(None::<&str>) } else { arg.hide_env_values(true) }
    })
}

/// `command` with each argument changed, those of its subcommands too.
pub(crate) fn all_args(command: Command, change: &dyn Fn(Arg) -> Arg) -> Command {
    command.mut_args(change).mut_subcommands(|command| all_args(command, change))
}

/// Whether the argument with this id is a setting, and not for one run only.
pub(crate) fn is_setting(id: &str) -> bool {
    id.contains('.') || matches!(id, "cluster" | "credentials_file" | "master_keys")
}

/// What is typed, set and filed, before it is one.
pub(crate) struct Sources {
    command: Command,
    args: Vec<OsString>,
    /// Arguments that a flag or a variable gives.
    given: BTreeMap<String, ValueSource>,
    /// Names of the chosen subcommands.
    path: Vec<String>,
    pub(crate) file: File,
    etcdctl: BTreeMap<&'static str, (&'static str, Vec<String>)>,
}

/// Where a value comes from.
pub(crate) enum Place {
    /// This flag.
    Flag(String),
    /// This variable.
    Variable(String),
    /// This line of the file.
    Line(usize),
    /// Nowhere.
    Default,
}

impl Sources {
    /// # Errors
    /// Help, version, and a file that cannot be read.
    pub(crate) fn read(
        command: Command,
        args: &[OsString],
        variables: Variables<'_>,
    ) -> Result<Self, Mistake> {
        // Mistakes are for the second look, when all is there.
        let lenient = command.clone().ignore_errors(true);
        let first = lenient.try_get_matches_from(args).map_err(Mistake::Typed)?;
        let (mut path, mut leaf) = (Vec::new(), &first);
        while let Some((name, inner)) = leaf.subcommand() {
            path.push(name.to_owned());
            leaf = inner;
        }
        let given = leaf.ids().filter_map(|id| {
            let source = leaf.value_source(id.as_str())?;
            (source != ValueSource::DefaultValue).then(|| (id.to_string(), source))
        });
        let given = given.collect();
        // What `config check` looks at must not keep it from working.
        if path.first().is_some_and(|name| name == "config") {
            let command = all_args(command, &|arg| {
                if is_setting(arg.get_id().as_str()) { arg.env(None::<&str>) } else { arg }
            });
            let (file, etcdctl) = (File::default(), BTreeMap::new());
            return Ok(Self { command, args: args.to_vec(), given, path, file, etcdctl });
        }
        let config = first.get_one::<std::path::PathBuf>("config").map(|path| path.as_path());
        let file = File::read(config.unwrap_or(Path::new(DEFAULT_CONFIG)), config.is_some())
            .map_err(Mistake::Set)?;
        let etcdctl = etcdctl(variables);
        Ok(Self { command, args: args.to_vec(), given, path, file, etcdctl })
    }

    /// What is wrong with the file as a whole.
    pub(crate) fn problems(&self) -> Vec<Error> {
        let mut known = BTreeMap::new();
        settings_of(&self.command, &mut known);
        let mut problems = self.file.unknown(&known.keys().cloned().collect::<Vec<_>>());
        for (id, (expected, how)) in &known {
            if let Some(entry) = self.file.get(id).filter(|entry| entry.shape != *expected) {
                problems.push(self.file.error(entry.line, &format!("{id}: write {how}")));
            }
        }
        problems
    }

    /// Parses it all, but for the arguments `without`, for which file and environment do not count.
    pub(crate) fn matches(&self, without: &BTreeSet<String>) -> Result<ArgMatches, clap::Error> {
        self.filled(without).try_get_matches_from(&self.args)
    }

    pub(crate) fn filled(&self, without: &BTreeSet<String>) -> Command {
        let keep = self.given.iter().filter(|(id, _)| id.starts_with(KEEP));
        let keep = keep.map(|(_, source)| *source).max();
        all_args(self.command.clone(), &|arg| {
            let id = arg.get_id().to_string();
            if without.contains(&id) {
                return arg.env(None::<&str>);
            }
            if self.given.contains_key(&id)
                && (!id.starts_with(KEEP) || self.given.get(&id).copied() == keep)
            {
                return arg;
            }
            if id.starts_with(KEEP) && keep.is_some() {
                return arg.env(None::<&str>);
            }
            let (values, filed) = match (self.file.get(&id), self.etcdctl.get(id.as_str())) {
                (Some(entry), _) if !entry.values.is_empty() => (&entry.values, true),
                (_, Some((_, values))) => (values, false),
                _ => return arg,
            };
            let arg = arg.value_delimiter(None).default_values(values);
            if filed && id.ends_with("master_keys") {
                arg.value_parser(ValueParser::new(one_key))
            } else {
                arg
            }
        })
    }

    /// Where the argument's value comes from, as far as it has one.
    pub(crate) fn place(&self, arg: &Arg) -> Place {
        let id = arg.get_id().as_str();
        let flag = || arg.get_long().map_or_else(|| arg.to_string(), |long| format!("--{long}"));
        match self.given.get(id) {
            Some(ValueSource::CommandLine) => Place::Flag(flag()),
            Some(_) => {
                let name = arg.get_env().unwrap_or_default();
                Place::Variable(name.to_string_lossy().into_owned())
            }
            None => match (self.file.get(id), self.etcdctl.get(id)) {
                (Some(entry), _) if !entry.values.is_empty() => Place::Line(entry.line),
                (_, Some((name, _))) => Place::Variable((*name).into()),
                _ => Place::Default,
            },
        }
    }

    /// The argument that a clap error is about, of the command that was chosen.
    pub(crate) fn culprit(&self, error: &clap::Error) -> Option<Arg> {
        let Some(ContextValue::String(shown)) = error.get(ContextKind::InvalidArg) else {
            return None;
        };
        let leaf = self.leaf()?;
        leaf.get_arguments().find(|arg| arg.to_string() == *shown).cloned()
    }

    /// The error, with the source of the value that is wrong instead of the value, which may be a secret.
    pub(crate) fn explain(&self, error: clap::Error) -> Mistake {
        let invalid = matches!(error.kind(), Clap::ValueValidation | Clap::InvalidValue);
        let Some(arg) = self.culprit(&error).filter(|_| invalid) else {
            return Mistake::Typed(error);
        };
        // What was typed or set before the mistake was found is known; the rest is found out.
        let only = BTreeSet::from([arg.get_id().to_string()]);
        let typed =
            self.matches(&only).is_err_and(|without| without.to_string() == error.to_string());
        let place = if typed {
            Place::Flag(arg.get_long().map_or_else(|| arg.to_string(), |long| format!("--{long}")))
        } else if let Some(name) = arg
            .get_env()
            .filter(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
        {
            Place::Variable(name.to_string_lossy().into_owned())
        } else {
            self.place(&arg)
        };
        let cause = std::error::Error::source(&error);
        let ours = cause.and_then(|cause| cause.downcast_ref::<Error>());
        let what = match (ours, cause, error.get(ContextKind::ValidValue)) {
            (Some(ours), ..) => ours.to_string(),
            (None, Some(cause), _) => cause.to_string(),
            (None, None, Some(ContextValue::Strings(valid))) if !valid.is_empty() => {
                format!("must be one of {}", valid.join(", "))
            }
            _ => return Mistake::Typed(error),
        };
        let mistake = match place {
            Place::Flag(name) | Place::Variable(name) => Error::usage(format!("{name}: {what}")),
            Place::Line(line) => self.file.error(line, &format!("{}: {what}", arg.get_id())),
            Place::Default => return Mistake::Typed(error),
        };
        Mistake::Set(match ours.and_then(Error::hint_text) {
            Some(hint) => mistake.hint(hint.to_owned()),
            None => mistake,
        })
    }

    /// What clap does not see: a store's options, and passwords.
    fn complete(
        &self,
        cli: &mut Cli,
        variables: Variables<'_>,
        notes: &mut Vec<String>,
    ) -> Result<()> {
        let common = &mut cli.global.common;
        common.repository.options =
            self.options("repository", common.repository.url.as_ref(), notes).unwrap_or_default();
        let copy = match &mut cli.command {
            args::Command::Copy(args) => Some(&mut args.copy),
            args::Command::Agent(settings) => Some(&mut settings.copy),
            args::Command::Audit(args) => Some(&mut args.copy),
            _ => None,
        };
        if let Some(copy) = copy {
            let own = self.options("copy", copy.url.as_ref(), notes);
            let options = own.unwrap_or_else(|| self.shared_options(copy.url.as_ref()));
            notes.extend(self.no_options(copy.url.as_ref(), &options));
            copy.options = Some(options);
        }
        self.password(cli, variables);
        check_user(&cli.global.common.etcd)
    }

    /// The options in the file's table of `table`'s store: those of another URL are not for this one.
    fn options(
        &self,
        table: &str,
        url: Option<&RepositoryUrl>,
        notes: &mut Vec<String>,
    ) -> Option<BTreeMap<String, String>> {
        let options = self.file.options(&format!("{table}.options"))?;
        let Some(url) = url else { return Some(options.clone()) };
        match self.filed_url(table) {
            Some(filed) if filed.as_ref() != Some(url) => {
                if url.directory().is_none() && !options.is_empty() {
                    notes.push(format!(
                        "{}: [{table}.options] belong to its {table}.url and are not used for {url}",
                        self.file.path().display()
                    ));
                }
                Some(BTreeMap::new())
            }
            _ => Some(options.clone()),
        }
    }

    /// The options of the first store, for a second one in the file that has none of its own.
    fn shared_options(&self, url: Option<&RepositoryUrl>) -> BTreeMap<String, String> {
        let filed = self.filed_url("copy").flatten();
        let shared = url.filter(|url| url.directory().is_none() && filed.as_ref() == Some(*url));
        let options = self.file.options("repository.options").filter(|_| shared.is_some());
        options.cloned().unwrap_or_default()
    }

    /// That a second store elsewhere has no options, although the first one has some.
    fn no_options(
        &self,
        url: Option<&RepositoryUrl>,
        options: &BTreeMap<String, String>,
    ) -> Option<String> {
        let url = url.filter(|url| url.directory().is_none() && options.is_empty())?;
        let of_first = self.file.options("repository.options").is_some_and(|all| !all.is_empty());
        let named = self.file.options("copy.options").is_some();
        (of_first && !named).then(|| {
            format!(
                "{}: no options apply to {url}: those of its store belong in [copy.options], beside copy.url",
                self.file.path().display()
            )
        })
    }

    fn filed_url(&self, table: &str) -> Option<Option<RepositoryUrl>> {
        let entry = self.file.get(&format!("{table}.url"))?;
        Some(entry.values.first().and_then(|url| url.parse().ok()))
    }

    /// etcdctl takes name:password in its variable, and so do we: a variable is not an argument.
    fn password(&self, cli: &mut Cli, variables: Variables<'_>) {
        let etcd = &mut cli.global.common.etcd;
        if etcd.user.is_none() || etcd.password_file.is_some() {
            return;
        }
        let elsewhere =
            self.given.contains_key("etcd.user") || self.file.get("etcd.user").is_some();
        let both = variables("ETCDCTL_USER").filter(|_| !elsewhere);
        let word = both.and_then(|both| both.split_once(':').map(|(_, word)| word.to_owned()));
        let word = word.or_else(|| variables("ETCDCTL_PASSWORD"));
        etcd.password = word.map(|word| SecretBytes::new(word.into_bytes()));
    }
}

/// The settings of `command` and its subcommands: how each is written in the file, and in words.
fn settings_of(command: &Command, known: &mut BTreeMap<String, (Shape, &'static str)>) {
    const BOOL: (Shape, &str) = (Shape::Bool, "true or false");
    for arg in command.get_arguments().filter(|arg| is_setting(arg.get_id().as_str())) {
        let shape = match arg.get_action() {
            ArgAction::Append => (Shape::List, "a list, such as [\"…\"]"),
            ArgAction::SetTrue => BOOL,
            _ if arg.get_value_parser().type_id() == TypeId::of::<bool>() => BOOL,
            _ => (Shape::Single, "one value, without [ ]"),
        };
        known.insert(arg.get_id().to_string(), shape);
    }
    command.get_subcommands().for_each(|command| settings_of(command, known));
}

/// A list in the file needs no separators: there a comma belongs to the path.
fn one_key(text: &str) -> Result<MasterKeyUris> {
    text.parse::<MasterKeyUri>().map(|uri| MasterKeyUris(vec![uri]))
}

/// What etcdctl's variables say of its connection.
fn etcdctl(variables: Variables<'_>) -> BTreeMap<&'static str, (&'static str, Vec<String>)> {
    const NAMES: [(&str, &str); 8] = [
        ("etcd.endpoints", "ETCDCTL_ENDPOINTS"),
        ("etcd.cacert", "ETCDCTL_CACERT"),
        ("etcd.cert", "ETCDCTL_CERT"),
        ("etcd.key", "ETCDCTL_KEY"),
        ("etcd.insecure_skip_tls_verify", "ETCDCTL_INSECURE_SKIP_TLS_VERIFY"),
        ("etcd.user", "ETCDCTL_USER"),
        ("etcd.dial_timeout", "ETCDCTL_DIAL_TIMEOUT"),
        ("etcd.command_timeout", "ETCDCTL_COMMAND_TIMEOUT"),
    ];
    let values = |id: &str, value: String| match id {
        "etcd.endpoints" => value.split(',').map(|endpoint| endpoint.trim().to_owned()).collect(),
        "etcd.user" => value.split(':').take(1).map(str::to_owned).collect(),
        _ => vec![value],
    };
    let set = NAMES.into_iter().filter_map(|(id, name)| {
        let value = variables(name).filter(|value| !value.is_empty())?;
        Some((id, (name, values(id, value))))
    });
    let mut set: BTreeMap<_, _> = set.collect();
    // An endpoint that is refused where etcd is asked, rather than another cluster's that is there.
    const SRV: &str = "ETCDCTL_DISCOVERY_SRV";
    if let Some(domain) = variables(SRV).filter(|domain| !domain.is_empty()) {
        set.entry("etcd.endpoints").or_insert((SRV, vec![format!("srv://{domain}")]));
    }
    set
}

#[cfg(test)]
mod tests;
