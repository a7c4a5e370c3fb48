//! strongroom: encrypted backups of etcd, and restores that prove what they restored.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod args;
mod commands;
mod complete;
mod harden;
mod help;
mod log;
mod output;
#[cfg(feature = "age-plugins")]
mod plugins;
mod progress;
mod secrets;
mod service;
mod settings;
mod usage;
mod version;

use std::future;
use std::num::NonZero;
use std::process::ExitCode;
use std::time::Duration;

use strongroom::backup::exec_guarded;
use strongroom::{Error, ErrorKind, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::commands::Context;
use crate::output::Output;
use crate::settings::{Mistake, Parsed};

fn main() -> ExitCode {
    if let Err(error) = exec_guarded(std::env::args_os()) {
        Output { format: Default::default(), quiet: false }.error(&error);
        return ExitCode::from(error.kind().exit_code());
    }
    match complete::answer() {
        Ok(false) => {}
        Ok(true) => return ExitCode::SUCCESS,
        Err(error) => {
            Output { format: Default::default(), quiet: false }.error(&error);
            return ExitCode::from(error.kind().exit_code());
        }
    }
    harden::process();
    std::panic::set_hook(Box::new(panicked));
    if let Some(help) = usage::globals() {
        return match output::write_stdout(help.trim_end()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => ExitCode::from(error.kind().exit_code()),
        };
    }
    let args: Vec<_> = std::env::args_os().collect();
    let parsed = match settings::parse(usage::command(), &args) {
        Ok(parsed) => parsed,
        Err(Mistake::Typed(error)) => return usage::explain(error),
        Err(Mistake::Set(error)) => {
            usage::output().error(&error);
            return ExitCode::from(error.kind().exit_code());
        }
    };
    let global = &parsed.cli.global;
    let output = Output { format: global.write_out.unwrap_or_default(), quiet: global.quiet };
    match run(parsed, output) {
        Ok(code) => code,
        Err(error) => {
            output.error(&error);
            ExitCode::from(error.kind().exit_code())
        }
    }
}

/// Says in one line that this program has a fault, without what formatted texts may hold. On the main thread that is the
/// end; what another thread did ends as an error of the job that waits for it.
fn panicked(panic: &std::panic::PanicHookInfo<'_>) {
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let text = panic.payload().downcast_ref::<&'static str>().copied().unwrap_or("panic");
    output::write_stderr(&format!(
        "strongroom: internal error, please report it: {text} at {place}"
    ));
    if std::thread::current().name() == Some("main") {
        std::process::exit(i32::from(ErrorKind::Internal.exit_code()));
    }
}

fn run(parsed: Parsed, output: Output) -> Result<ExitCode> {
    let Parsed { cli, explicit_keys, notes } = parsed;
    notes.iter().for_each(|note| output.note(note));
    // Half the cores: compression, hashing and files have threads of their own, and each message that one worker
    // hands to another wakes it (two workers on two cores cost a backup 7 % more processor time: `perf stat`, four runs each).
    let cores = std::thread::available_parallelism().map_or(2, NonZero::get);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads((cores / 2).max(1))
        .enable_all()
        .build()
        .map_err(|error| Error::new(ErrorKind::Io, "cannot start threads").because(error))?;
    #[cfg(feature = "age-plugins")]
    plugins::answer(&cli.command, output);
    let done = runtime.block_on(async {
        let stop = on_signal(output, cli.command.reloads())?;
        let progress = cli.global.progress.unwrap_or_default();
        let control = progress::control(progress, output).stop_when(stop.clone());
        let stopped = stop.clone();
        let grace = cli.command.grace();
        let (settings, config) = (cli.global.common, cli.global.config);
        let context =
            Context { settings, config, explicit_keys, output, progress, control, stop: stopped };
        tokio::select! {
            done = commands::run(cli.command, &context) => done,
            () = given_up(stop, grace) => Err(Error::new(ErrorKind::Interrupted, "interrupted")),
        }
    });
    // A blocking read of a dead store or terminal must not keep the program from ending.
    runtime.shutdown_background();
    done
}

/// Turns true at the first SIGINT, SIGTERM or, unless the command reloads, SIGHUP; the second ends the program at once.
fn on_signal(output: Output, reloads: bool) -> Result<watch::Receiver<bool>> {
    let listen = |kind| signal(kind).map_err(|error| Error::io("signals", error));
    let mut interrupt = listen(SignalKind::interrupt())?;
    let mut terminate = listen(SignalKind::terminate())?;
    let mut hangup = listen(SignalKind::hangup())?;
    let (sender, stop) = watch::channel(false);
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
                _ = hangup.recv() => if reloads { continue },
            }
            if *sender.borrow() {
                output::show_bar(None);
                std::process::exit(i32::from(ErrorKind::Interrupted.exit_code()));
            }
            if log::is_on() {
                tracing::info!(event = "stopping");
            } else {
                output.note("stopping; a second signal ends it at once");
            }
            sender.send_replace(true);
        }
    });
    Ok(stop)
}

/// Resolves `grace` after a signal: a store that does not answer must not hold a command for ever.
async fn given_up(mut stop: watch::Receiver<bool>, grace: Duration) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        future::pending::<()>().await;
    }
    tokio::time::sleep(grace).await;
}
