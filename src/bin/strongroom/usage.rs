//! What clap has to say, also for programs.

use std::ffi::OsString;
use std::process::ExitCode;

use clap::builder::ArgPredicate;
use clap::error::{ContextKind, ContextValue, ErrorKind as Clap};
use clap::{Command, CommandFactory};
use strongroom::{Error, ErrorKind};

use crate::args::{Cli, WriteOut};
use crate::output::Output;
use crate::settings::prepared;

/// What stands below each command's help.
const GLOBALS: &str = "`strongroom help globals` prints the options of every command: repository, keys, output, etcd.";

/// The command. The options of every command are folded in the help of each: they fill two screens.
pub(crate) fn command() -> Command {
    let restore = |restore: Command| {
        // What is restored is then chosen by revision or time.
        restore.mut_arg("id", |id| {
            id.required(false)
                .required_unless_present_any(["newest", "to_time", "revision"])
                .default_value_ifs([
                    ("newest", ArgPredicate::Equals("true".into()), "latest"),
                    ("to_time", ArgPredicate::IsPresent, "latest"),
                    ("revision", ArgPredicate::IsPresent, "latest"),
                ])
        })
    };
    folded(prepared(Cli::command())).mut_subcommand("restore", restore).mut_subcommand(
        "agent",
        |agent| {
            // What it borrows from other commands is in their help.
            agent.mut_args(|arg| {
                if arg.get_id().as_str().starts_with("agent.") { arg } else { arg.hide(true) }
            })
        },
    )
}

fn folded(command: Command) -> Command {
    let more = command.get_after_long_help().map(|more| format!("{}\n\n{GLOBALS}", more.ansi()));
    command
        .after_help(GLOBALS)
        .after_long_help(more.unwrap_or_else(|| GLOBALS.into()))
        .mut_args(|arg| if arg.is_global_set() { arg.hide(true) } else { arg })
        .mut_subcommands(folded)
}

/// The help of the options that every command has, if it was asked for.
pub(crate) fn globals() -> Option<String> {
    if !std::env::args_os().skip(1).eq(["help", "globals"]) {
        return None;
    }
    let cli = prepared(Cli::command());
    let globals = cli.get_arguments().filter(|arg| arg.is_global_set()).cloned();
    let mut command = Command::new("strongroom")
        .disable_help_flag(true)
        .override_usage("strongroom [GLOBAL OPTIONS] <COMMAND>")
        .help_template("Options of every command, before or after its name.\n\n{usage-heading} {usage}\n\n{all-args}")
        .args(globals);
    Some(command.render_long_help().to_string())
}

/// Prints help and version, or the mistake in what was typed; the exit status.
pub(crate) fn explain(mut error: clap::Error) -> ExitCode {
    let tip = tip(&error);
    let mistake =
        error.use_stderr() && error.kind() != Clap::DisplayHelpOnMissingArgumentOrSubcommand;
    if mistake && output().format == WriteOut::Json {
        let hint = tip.unwrap_or("see strongroom --help");
        output().error(&Error::usage(message(&error.to_string())).hint(hint));
        return ExitCode::from(ErrorKind::Usage.exit_code());
    }
    if let Some(tip) = tip {
        error.remove(ContextKind::SuggestedSubcommand);
        error.remove(ContextKind::SuggestedArg);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![tip.into()]));
    }
    if let Err(failed) = error.print() {
        // As `head` does: who closes the pipe has read enough.
        if !error.use_stderr() && failed.kind() != std::io::ErrorKind::BrokenPipe {
            let failed = Error::io("standard output", failed);
            output().error(&failed);
            return ExitCode::from(failed.kind().exit_code());
        }
    }
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(ErrorKind::Usage.exit_code()))
}

/// What users of etcdctl, restic and the like type, and what does that here.
const TIPS: &[(&str, &str)] = &[
    ("forget", "`strongroom prune` removes snapshots by rules"),
    ("check", "`strongroom verify` verifies snapshots"),
    (
        "dump",
        "`strongroom restore ID --output -` writes the database, `strongroom get ID KEY` one key",
    ),
    ("snapshot", "`strongroom backup` takes a snapshot, `strongroom snapshots` lists them"),
    ("save", "`strongroom backup` takes a snapshot"),
    ("create", "`strongroom backup` takes a snapshot"),
    ("list", "`strongroom snapshots` lists the snapshots, `strongroom ls ID` the keys in one"),
    ("status", "`strongroom show latest` describes the newest snapshot"),
    ("delete", "`strongroom prune --remove ID` removes a snapshot"),
    ("rm", "`strongroom prune --remove ID` removes a snapshot"),
    ("tag", "`strongroom backup --tag TAG` tags a snapshot, `strongroom prune --pin ID` keeps one"),
    ("cat", "`strongroom show ID` describes a snapshot, `strongroom get ID KEY` shows one key"),
    ("find", "`strongroom history ID KEY` lists the changes of a key"),
    ("mount", "`strongroom ls ID` and `strongroom get ID KEY` look inside a snapshot"),
    ("rewrap", "`strongroom key reseal` seals snapshots to the present keys"),
    ("sync", "`strongroom copy --to URL` replicates snapshots"),
    ("serve", "`strongroom agent` and `strongroom proxy` are the services"),
    ("unlock", "nothing is ever locked: `strongroom prune` removes what interrupted backups left"),
    (
        "add",
        "`strongroom key generate -o FILE` makes a key; every --master-key that is given seals",
    ),
    ("keygen", "`strongroom key generate -o FILE` makes a key"),
    ("passwd", "`strongroom key passphrase` changes a passphrase"),
    ("put", "`etcdctl put` writes; `strongroom restore ID --to-cluster` brings keys back"),
    ("del", "`etcdctl del` deletes a key; `strongroom prune --remove ID` removes a snapshot"),
    (
        "watch",
        "`strongroom journal record` records changes, `strongroom history ID KEY` lists them",
    ),
    ("member", "`etcdctl member list` lists the members; `strongroom audit` checks them"),
    (
        "endpoint",
        "`etcdctl endpoint health` asks etcd; `strongroom backup` names the member it reads",
    ),
    ("version", "`strongroom --version` prints the version"),
    ("--target", "`--output FILE` or `--data-dir DIR` says where to restore to"),
    ("--json", "-w json prints JSON"),
    ("-o", "-w json prints JSON"),
    ("--repo", "-r URL or --repository URL names the repository"),
    ("--read-data-subset", "`--subset 5%` verifies a part of the snapshots"),
    ("--password", "a password comes from --password-file FILE or ETCDCTL_PASSWORD"),
];

fn tip(error: &clap::Error) -> Option<&'static str> {
    let kinds = [ContextKind::InvalidSubcommand, ContextKind::InvalidArg];
    let typed = kinds.into_iter().find_map(|kind| match error.get(kind) {
        Some(ContextValue::String(typed)) => Some(typed),
        _ => None,
    })?;
    TIPS.iter().find(|(name, _)| name == typed).map(|(_, tip)| *tip)
}

/// The text that reports a mistake.
pub(crate) fn output() -> Output {
    let variable = std::env::var("STRONGROOM_WRITE_OUT").ok();
    let json = wants_json(std::env::args_os(), variable.as_deref());
    Output { format: if json { WriteOut::Json } else { WriteOut::Table }, quiet: true }
}

/// Whether JSON was asked for. What was typed did not parse, so that clap cannot say.
fn wants_json(args: impl Iterator<Item = OsString>, variable: Option<&str>) -> bool {
    let mut wanted = variable.map(str::to_owned);
    let mut awaited = false;
    for arg in args.skip(1) {
        let arg = arg.to_string_lossy();
        if arg == "--" {
            break;
        }
        let joined = arg
            .strip_prefix("--write-out=")
            .or_else(|| arg.strip_prefix("-w").map(|value| value.trim_start_matches('=')));
        if awaited {
            wanted = Some(arg.into_owned());
            awaited = false;
        } else if arg == "-w" || arg == "--write-out" {
            awaited = true;
        } else if let Some(value) = joined {
            wanted = Some(value.to_owned());
        }
    }
    wanted.as_deref() == Some("json")
}

/// The first paragraph of clap's text, on one line.
pub(crate) fn message(text: &str) -> String {
    let text = text.strip_prefix("error: ").unwrap_or(text);
    let first = text.split("\n\n").next().unwrap_or(text);
    first.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_recognised_however_it_is_spelt() {
        let asks = |line: &str, variable| wants_json(line.split(' ').map(OsString::from), variable);
        for line in
            ["s -w json x", "s x -wjson", "s -w=json", "s --write-out json", "s x --write-out=json"]
        {
            assert!(asks(line, None), "{line}");
            assert!(asks(line, Some("table")), "{line}");
        }
        for line in ["s x", "s -w table", "s json", "s -w", "s -- -w json", "s -wjson -w table"] {
            assert!(!asks(line, None), "{line}");
        }
        assert!(asks("s x", Some("json")));
        assert!(!asks("s -w table", Some("json")));
    }

    #[test]
    fn the_message_is_the_first_paragraph() {
        let text = "error: these are missing:\n  --output <FILE>\n\nUsage: strongroom\n";
        assert_eq!(message(text), "these are missing: --output <FILE>");
    }
}
