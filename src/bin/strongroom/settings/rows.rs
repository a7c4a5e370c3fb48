//! What each setting is, and where it comes from.

use std::collections::BTreeSet;
use std::ffi::OsString;

use clap::{Arg, ArgMatches, Command};
use strongroom::Error;

use super::{Mistake, Place, Sources, is_setting};

/// One setting of a command.
pub(crate) struct Row {
    /// Its path in the configuration file.
    pub(crate) id: String,
    /// Its value, or the values of a list.
    pub(crate) values: Vec<String>,
    /// Where they come from.
    pub(crate) source: String,
    /// What holds without a value, in words.
    pub(crate) default: Option<String>,
}

impl Row {
    /// The values as they may be shown: no secret is among them.
    pub(crate) fn shown(&self) -> Vec<String> {
        let show = |value: &String| {
            let (url, rest) = match value.split_once("://") {
                Some((_, rest)) => (true, rest),
                None => (false, value.as_str()),
            };
            let hidden = match self.id.as_str() {
                "keys.passphrase_command" => return "(set)".to_owned(),
                id if id.contains(".options.") => return "(set)".to_owned(),
                "etcd.user" => value.contains(':'),
                "etcd.endpoints" | "repository.url" | "copy.url" => rest.contains('@'),
                _ => url && rest.contains('@'),
            };
            if hidden { "(not shown)".to_owned() } else { value.clone() }
        };
        self.values.iter().map(show).collect()
    }
}

/// What the help says of a setting that is not set.
fn default(arg: &Arg) -> Option<String> {
    let help = arg.get_help()?.to_string();
    let (_, rest) = help.split_once("[default: ")?;
    rest.split_once(']').map(|(default, _)| default.to_owned())
}

impl Sources {
    /// The settings of the chosen command, those of a wrong value left out, and what is wrong.
    pub(crate) fn inspect(&self) -> (Vec<Row>, Vec<Error>) {
        let mut problems = self.problems();
        let mut without = BTreeSet::new();
        loop {
            let error = match self.matches(&without) {
                Ok(matches) => return (self.rows(&matches, &without), problems),
                Err(error) => error,
            };
            let culprit = self.culprit(&error).map(|arg| arg.get_id().to_string());
            // A flag's value is there the second time as well.
            let again = culprit.as_ref().is_some_and(|id| without.contains(id));
            if again {
                return (Vec::new(), problems);
            }
            problems.push(match self.explain(error) {
                Mistake::Set(error) => error,
                Mistake::Typed(error) => Error::usage(crate::usage::message(&error.to_string())),
            });
            match culprit {
                Some(id) => without.insert(id),
                None => return (Vec::new(), problems),
            };
        }
    }

    /// The settings of the chosen command; the values of those in `without` are wrong.
    fn rows(&self, matches: &ArgMatches, without: &BTreeSet<String>) -> Vec<Row> {
        let (mut matches, mut rows) = (matches, Vec::new());
        while let Some((_, inner)) = matches.subcommand() {
            matches = inner;
        }
        let Some(leaf) = self.leaf() else { return rows };
        for arg in leaf.get_arguments().filter(|arg| is_setting(arg.get_id().as_str())) {
            let id = arg.get_id().as_str();
            let raw = matches.get_raw(id).into_iter().flatten();
            let source = match self.place(arg) {
                Place::Flag(name) => format!("flag {name}"),
                Place::Variable(name) => format!("variable {name}"),
                Place::Line(line) => format!("{}, line {line}", self.file.path().display()),
                Place::Default => "default".into(),
            };
            let mut values: Vec<_> =
                raw.map(|value| value.to_string_lossy().into_owned()).collect();
            if without.contains(id) {
                values = vec!["(invalid)".into()];
            }
            rows.push(Row { id: id.to_owned(), values, source, default: default(arg) });
        }
        for table in ["repository.options", "copy.options"] {
            let names = self.file.options(table).into_iter().flatten().map(|(name, _)| name);
            rows.extend(names.map(|name| Row {
                id: format!("{table}.{name}"),
                values: vec![String::new()],
                source: self.file.path().display().to_string(),
                default: None,
            }));
        }
        rows
    }

    /// What was typed of the options of every command, as arguments.
    pub(crate) fn typed(&self) -> Vec<OsString> {
        let mut typed = Vec::new();
        let Ok(matches) = self.matches(&BTreeSet::new()) else { return typed };
        for arg in self.command.get_arguments() {
            let (id, Place::Flag(flag)) = (arg.get_id().as_str(), self.place(arg)) else {
                continue;
            };
            if !arg.get_action().takes_values() {
                typed.push(flag.into());
                continue;
            }
            for value in matches.get_raw(id).into_iter().flatten() {
                let mut joined = OsString::from(format!("{flag}="));
                joined.push(value);
                typed.push(joined);
            }
        }
        typed
    }

    /// The chosen command, complete.
    pub(super) fn leaf(&self) -> Option<Command> {
        let mut command = self.command.clone();
        command.build();
        let mut leaf = &command;
        for name in &self.path {
            leaf = leaf.find_subcommand(name)?;
        }
        Some(leaf.clone())
    }
}
