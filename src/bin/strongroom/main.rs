//! strongroom: encrypted backups of etcd, and restores that prove what they restored.

#![cfg_attr(
    test,
    allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod args;
mod commands;
mod duration;
mod harden;
mod help;
mod output;
mod progress;
mod secrets;
mod settings;
mod usage;

use std::future;
use std::process::ExitCode;
use std::time::Duration;

use strongroom::{Error, ErrorKind, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::args::Cli;
use crate::commands::Context;
use crate::output::Output;

fn main() -> ExitCode {
    harden::process();
    std::panic::set_hook(Box::new(panicked));
    if let Some(help) = usage::globals() {
        return match output::write_stdout(help.trim_end()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => ExitCode::from(error.kind().exit_code()),
        };
    }
    let cli = match usage::parse() {
        Ok(cli) => cli,
        Err(error) => return usage::explain(&error),
    };
    let output =
        Output { format: cli.global.write_out.unwrap_or_default(), quiet: cli.global.quiet };
    match run(cli, output) {
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

fn run(cli: Cli, output: Output) -> Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Error::new(ErrorKind::Io, "cannot start threads").because(error))?;
    let done = runtime.block_on(async {
        let stop = on_signal(output, cli.command.reloads())?;
        let progress = cli.global.progress.unwrap_or_default();
        let control = progress::control(progress, output).stop_when(stop.clone());
        let stopped = stop.clone();
        let settings = settings::Settings::resolve(cli.global.clone())?;
        let grace = cli.command.grace();
        let context = Context { global: cli.global, settings, output, control, stop: stopped };
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
            if sender.send_replace(true) {
                std::process::exit(i32::from(ErrorKind::Interrupted.exit_code()));
            }
            output.note("stopping; a second signal ends it at once");
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
