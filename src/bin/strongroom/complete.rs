//! Completion in shells: the words of the command line, and the ids, clusters and keys of the configured repository.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command as Process, Stdio};
use std::time::{Duration, Instant};

use clap::{Arg, Command, CommandFactory};
use clap_complete::env::Shells;
use clap_complete::{ArgValueCandidates, CompleteEnv, CompletionCandidate};
use serde_json::Value;
use strongroom::{Error, Result};

use crate::args::Cli;
use crate::settings::{all_args, prepared};

/// The variable by which a shell asks for candidates.
const VARIABLE: &str = "STRONGROOM_COMPLETE";
/// A shell waits no longer for a repository that is far away.
const PATIENCE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(10);

/// Answers the shell, if that is what this process was started for.
pub(crate) fn answer() -> Result<bool> {
    let env = CompleteEnv::with_factory(command).var(VARIABLE);
    let here = std::env::current_dir().ok();
    env.try_complete(std::env::args_os(), here.as_deref())
        .map_err(|error| Error::usage(error.to_string()))
}

/// The script that makes `shell` ask this program.
pub(crate) fn script(shell: &str) -> Result<Vec<u8>> {
    let shells = Shells::builtins();
    let found = shells.completer(shell);
    let found =
        found.ok_or_else(|| Error::usage(format!("no completion for the shell {shell}")))?;
    let mut script = Vec::new();
    found
        .write_registration(VARIABLE, "strongroom", "strongroom", "strongroom", &mut script)
        .map_err(|error| Error::io("completion script", error))?;
    Ok(script)
}

fn command() -> Command {
    all_args(prepared(Cli::command()), &|arg: Arg| match arg.get_id().as_str() {
        "id" | "ids" | "other" | "undo" | "pin" | "unpin" | "remove" => {
            arg.add(ArgValueCandidates::new(snapshots))
        }
        "cluster" => arg.add(ArgValueCandidates::new(clusters)),
        "key_id" | "drop" | "expect" | "keys.recovery" => arg.add(ArgValueCandidates::new(keys)),
        _ => arg,
    })
}

fn snapshots() -> Vec<CompletionCandidate> {
    let described = |one: &Value| {
        let text = |name| one.get(name).and_then(Value::as_str).unwrap_or_default();
        let help = format!("{}, {}", text("cluster"), text("created"));
        CompletionCandidate::new(text("id")).help(Some(help.into()))
    };
    let newest_first = ask(&["snapshots"]);
    let newest_first = newest_first.iter().rev().map(described);
    std::iter::once(CompletionCandidate::new("latest")).chain(newest_first).collect()
}

fn clusters() -> Vec<CompletionCandidate> {
    let found = ask(&["snapshots"]);
    let names = found.iter().filter_map(|one| one.get("cluster")?.as_str());
    let names: std::collections::BTreeSet<_> = names.collect();
    names.into_iter().map(CompletionCandidate::new).collect()
}

fn keys() -> Vec<CompletionCandidate> {
    let found = ask(&["key", "list"]);
    let described = |one: &Value| {
        let text = |name| one.get(name).and_then(Value::as_str).unwrap_or_default();
        CompletionCandidate::new(text("id")).help(Some(text("state").to_owned().into()))
    };
    found.iter().map(described).collect()
}

/// What another run of this program lists, with the settings of environment and file; nothing if it fails.
fn ask(args: &[&str]) -> Vec<Value> {
    let listed = std::env::current_exe().ok().and_then(|program| run(&program, args));
    let listed = listed.and_then(|text| serde_json::from_slice(&text).ok());
    listed.and_then(|list: Value| list.as_array().cloned()).unwrap_or_default()
}

fn run(program: &Path, args: &[&str]) -> Option<Vec<u8>> {
    let quiet = ["-q", "-w", "json"].map(OsString::from);
    let mut child = Process::new(program)
        .args(quiet)
        .args(args)
        // Nobody is asked for a passphrase in the middle of a line.
        .env("STRONGROOM_PASSPHRASE_COMMAND", "false")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    let out = child.stdout.take()?;
    // Read on a thread: a pipe that is full would keep the child from ending.
    let reading = std::thread::spawn(move || {
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut { out }, &mut text).map(|_| text).ok()
    });
    let begun = Instant::now();
    loop {
        match child.try_wait() {
            Ok(Some(status)) if status.success() => return reading.join().ok()?,
            Ok(None) if begun.elapsed() < PATIENCE => std::thread::sleep(PAUSE),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}
