//! `config …`

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Arg, ArgAction};
use serde_json::json;
use strongroom::{Error, ErrorKind, Result};

use super::{Context, kms_plugin};
use crate::args::{Command, ConfigCommand};
use crate::output::{table, write_stdout};
use crate::service::told;
use crate::settings::{Row, Sources, is_setting};
use crate::{settings, usage};

pub(super) async fn run(command: ConfigCommand, context: &Context) -> Result<ExitCode> {
    match command {
        ConfigCommand::Example => {
            write_stdout(example().trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
        ConfigCommand::Check { command, args } => check(command, args, context).await,
    }
}

/// What was found for one command.
struct Found {
    rows: Vec<Row>,
    problems: Vec<Error>,
}

async fn check(
    command: Option<String>,
    args: Vec<OsString>,
    context: &Context,
) -> Result<ExitCode> {
    let own: Vec<_> = std::env::args_os().collect();
    let typed = Sources::read(usage::command(), &own, &settings::environment);
    let globals = typed.map(|sources| sources.typed()).unwrap_or_default();
    let line = |name: &str| {
        let head = [OsString::from("strongroom")].into_iter().chain(globals.iter().cloned());
        let words = match name {
            "journal" => &["journal", "record"][..],
            name => &[name][..],
        };
        head.chain(words.iter().map(OsString::from)).chain(args.iter().cloned()).collect::<Vec<_>>()
    };
    let first = Sources::read(usage::command(), &line("agent"), &settings::environment);
    let has = |table| first.as_ref().is_ok_and(|sources| sources.file.has_table(table));
    let names: Vec<String> = match command {
        Some(command) => vec![command],
        None => {
            let served = [("proxy", "proxy"), ("kms_plugin", "kms-plugin")];
            let served: Vec<_> = served.into_iter().filter(|(table, _)| has(table)).collect();
            // On a host that runs only one of these the file has nothing for an agent.
            let agent = served.is_empty() || has("agent") || has("repository");
            let names = agent.then_some("agent").into_iter();
            names.chain(served.into_iter().map(|(_, name)| name)).map(str::to_owned).collect()
        }
    };
    let (mut rows, mut problems): (Vec<Row>, Vec<Error>) = (Vec::new(), Vec::new());
    for name in &names {
        let found = inspect(&line(name)).await;
        let new = |row: &Row| !rows.iter().any(|known| known.id == row.id);
        let more: Vec<_> = found.rows.into_iter().filter(new).collect();
        rows.extend(more);
        for problem in found.problems {
            if !problems.iter().any(|known| known.to_string() == problem.to_string()) {
                problems.push(problem);
            }
        }
    }
    report(&names, &rows, &problems, context)
}

/// The settings of a command, and all that is wrong with them.
async fn inspect(line: &[OsString]) -> Found {
    let sources = match Sources::read(usage::command(), line, &settings::environment) {
        Ok(sources) => sources,
        Err(mistake) => return Found { rows: Vec::new(), problems: vec![told(mistake)] },
    };
    let (rows, mut problems) = sources.inspect();
    if problems.is_empty() {
        let whole = match settings::parse(usage::command(), line) {
            Ok(parsed) => parsed,
            Err(mistake) => return Found { rows, problems: vec![told(mistake)] },
        };
        problems.extend(together(whole).await.err());
    }
    Found { rows, problems }
}

/// Whether the settings go together, as the command checks it before it begins.
async fn together(parsed: settings::Parsed) -> Result<()> {
    let common = parsed.cli.global.common;
    match parsed.cli.command {
        Command::Agent(settings) => settings.with_common(common).check().await,
        Command::KmsPlugin(settings) => {
            kms_plugin::given(settings, parsed.explicit_keys, &common).check()
        }
        Command::Proxy(settings) => {
            common.etcd()?;
            if !parsed.explicit_keys {
                settings.values.keys.master_keys()?;
            }
            settings.check()
        }
        Command::Backup(args) => {
            common.check_signing(args.options.unsigned)?;
            common.etcd().map(drop)
        }
        _ => common.etcd().map(drop),
    }
}

fn report(
    names: &[String],
    rows: &[Row],
    problems: &[Error],
    context: &Context,
) -> Result<ExitCode> {
    let row = |row: &Row| {
        json!({
            "setting": row.id, "values": row.shown(), "source": row.source,
            "default": row.default.as_ref().filter(|_| row.values.is_empty()),
        })
    };
    let wrong = |error: &Error| json!({"message": error.to_string(), "hint": error.hint_text()});
    let json = json!({
        "commands": names,
        "settings": rows.iter().map(row).collect::<Vec<_>>(),
        "problems": problems.iter().map(wrong).collect::<Vec<_>>(),
    });
    context.output.result(json, || {
        let value = |row: &Row| match (&row.default, row.values.is_empty()) {
            (Some(default), true) => format!("({default})"),
            (None, true) => "-".into(),
            _ => row.shown().iter().map(|value| shortened(value)).collect::<Vec<_>>().join(", "),
        };
        let line = |row: &Row| vec![row.id.clone(), value(row), row.source.clone()];
        table(&["SETTING", "VALUE", "SOURCE"], &[], rows.iter().map(line).collect())
    })?;
    let seals = names.iter().any(|name| ["backup", "agent"].contains(&name.as_str()));
    if seals && context.settings.has_unsigned_recipients() {
        context.output.warn(
            "without a signing key, the public keys open a snapshot only with --accept-untrusted",
        );
    }
    if seals && context.settings.has_recipients() {
        context.output.note(
            "before you rely on a recipient, run `strongroom key prove -k identity:FILE` where its identity is: `strongroom key list` \
             shows when it was last tested",
        );
    }
    for problem in problems {
        context.output.warn(&match problem.hint_text() {
            Some(hint) => format!("{problem}; {hint}"),
            None => problem.to_string(),
        });
    }
    match problems.len() {
        0 => {
            context.output.note(&format!("no problem found for {}", names.join(" and ")));
            Ok(ExitCode::SUCCESS)
        }
        _ => Ok(ExitCode::from(ErrorKind::Usage.exit_code())),
    }
}

/// Recipients have up to 2,000 characters: the last ones tell them apart.
fn shortened(value: &str) -> String {
    let short = |uri: &str| match uri.split_once("age1") {
        Some((before, key)) if before.ends_with("recipient:") && key.len() > 100 => {
            let kind = if key.starts_with("pq1") { "age1pq1" } else { "age1" };
            format!("{before}{kind}…{}", key.get(key.len() - 8..).unwrap_or_default())
        }
        _ => uri.to_owned(),
    };
    value.split(',').map(short).collect::<Vec<_>>().join(",")
}

/// A configuration file with every setting, all commented out.
pub(super) fn example() -> String {
    let mut text = String::from(
        "# strongroom's settings, as /etc/strongroom/strongroom.toml. Flags and STRONGROOM_* variables win over this \
         file.\n# An unknown setting is an error. `strongroom config check` shows what each setting is.\n",
    );
    let mut args: Vec<Arg> = Vec::new();
    collect(&usage::command(), &mut args);
    let table_of = |arg: &Arg| match arg.get_id().as_str().rsplit_once('.') {
        Some((table, _)) => table.to_owned(),
        None => String::new(),
    };
    let mut tables: Vec<String> = Vec::new();
    for arg in &args {
        let table = table_of(arg);
        if !tables.contains(&table) {
            tables.push(table);
        }
    }
    // What is in no table comes first.
    tables.sort_by_key(|table| !table.is_empty());
    for table in tables {
        if !table.is_empty() {
            text += &format!("\n[{table}]\n");
        }
        for arg in args.iter().filter(|arg| table_of(arg) == table) {
            text += &entry(arg);
        }
        if table == "repository" || table == "copy" {
            text += &format!(
                "\n# The store's own options, such as aws_region; they are for {table}.url only.\n[{table}.options]\n# aws_region = \"eu-central-1\"\n"
            );
        }
    }
    text
}

fn collect(command: &clap::Command, args: &mut Vec<Arg>) {
    for arg in command.get_arguments().filter(|arg| is_setting(arg.get_id().as_str())) {
        if !args.iter().any(|known| known.get_id() == arg.get_id()) {
            args.push(arg.clone());
        }
    }
    command.get_subcommands().for_each(|command| collect(command, args));
}

/// One setting: its help, and its default or what kind of value it takes.
fn entry(arg: &Arg) -> String {
    let id = arg.get_id().as_str();
    let name = id.rsplit_once('.').map_or(id, |(_, name)| name);
    let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
    let kind = || {
        let names = arg.get_value_names().into_iter().flatten().next();
        names.map(|name| name.to_string()).unwrap_or_default()
    };
    let default: Vec<_> =
        arg.get_default_values().iter().map(|value| value.to_string_lossy().into_owned()).collect();
    let quoted = |value: &str| match value.parse::<i64>() {
        Ok(number) => number.to_string(),
        Err(_) if value.parse::<bool>().is_ok() => value.to_owned(),
        Err(_) => format!("{value:?}"),
    };
    let value = match (arg.get_action(), default.as_slice()) {
        (ArgAction::SetTrue, _) => "false".into(),
        (ArgAction::Append, []) => format!("[{:?}]", kind()),
        (ArgAction::Append, many) => {
            format!(
                "[{}]",
                many.iter().map(|one| format!("{one:?}")).collect::<Vec<_>>().join(", ")
            )
        }
        (_, [one, ..]) => quoted(one),
        (_, []) => format!("{:?}", kind()),
    };
    format!("# {help}\n# {name} = {value}\n")
}

/// The settings that an example names, to be compared with another file's.
#[cfg(test)]
pub(crate) fn settings_in(text: &str) -> std::collections::BTreeSet<String> {
    let (mut table, mut names) = (String::new(), std::collections::BTreeSet::new());
    for line in text.lines() {
        let line = line.strip_prefix("#=").or(line.strip_prefix('#')).unwrap_or(line).trim();
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            table = format!("{name}.");
        } else if let Some((name, _)) = line.split_once(" = ")
            && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
            && !table.ends_with("options.")
            && name != "options"
        {
            names.insert(format!("{table}{name}"));
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use strongroom::settings::File;

    use super::*;

    #[test]
    fn the_example_is_a_file_with_every_setting() {
        let text = example();
        let mut args = Vec::new();
        collect(&usage::command(), &mut args);
        let ids: std::collections::BTreeSet<_> =
            args.iter().map(|arg| arg.get_id().to_string()).collect();
        assert_eq!(settings_in(&text), ids);
        // It parses as it is, and with its lines in force.
        File::parse("a".as_ref(), &text).unwrap();
        let is_setting = |line: &str| {
            line.strip_prefix("# ").is_some_and(|rest| {
                rest.split_once(" = ").is_some_and(|(name, _)| {
                    name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
                })
            })
        };
        let active: Vec<_> = text
            .lines()
            .map(|line| if is_setting(line) { line.trim_start_matches("# ") } else { line })
            .collect();
        let file = File::parse("a".as_ref(), &active.join("\n")).unwrap();
        assert!(ids.iter().all(|id| file.get(id).is_some()));
        // So does the one that is deployed.
        let deployed = include_str!("../../../../scripts/deploy/strongroom.toml");
        assert_eq!(settings_in(deployed), ids);
    }
}
