//! `agent`

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use strongroom::agent::{self, AgentOptions, OpenReplica, Places, listen};
use strongroom::settings::AgentSettings;
use strongroom::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::warn;

use super::Context;
use crate::args::Command;
use crate::log;
use crate::output::Output;
use crate::settings::{Mistake, parse};
use crate::usage;

pub(super) async fn run(context: &Context) -> Result<ExitCode> {
    let first = options(context)?;
    let settings = read()?;
    let listener = match &settings.listen {
        None => None,
        Some(address) => Some(listen(address).await?),
    };
    log::begin(settings.log)?;
    let (sender, changes) = watch::channel(Arc::new(first));
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| Error::io("signals", error))?;
    let reload = async {
        while hangup.recv().await.is_some() {
            notify(&[sd_notify::NotifyState::Reloading]);
            match options(context) {
                Ok(again) if again.cluster == sender.borrow().cluster => {
                    sender.send_replace(Arc::new(again));
                }
                Ok(_) => warn!(
                    event = "config_rejected",
                    error = "the name of the cluster has changed",
                    hint = "restart the agent",
                ),
                Err(error) => warn!(
                    event = "config_rejected",
                    error = %error,
                    kind = error.kind().name(),
                    hint = error.hint_text(),
                ),
            }
            notify(&[sd_notify::NotifyState::Ready]);
        }
    };
    notify(&[sd_notify::NotifyState::Ready]);
    let mut stop = context.stop.clone();
    let stopping = async {
        let _ = stop.wait_for(|stop| *stop).await;
        notify(&[sd_notify::NotifyState::Stopping]);
        std::future::pending::<()>().await
    };
    tokio::select! {
        done = agent::run(changes, listener, context.stop.clone()) => done?,
        () = reload => {}
        () = stopping => {}
        () = watchdog() => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Tells systemd; where there is none, nobody.
fn notify(state: &[sd_notify::NotifyState<'_>]) {
    let _ = sd_notify::notify(state);
}

/// Tells systemd that this process still runs its tasks.
async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let mut beat = tokio::time::interval((limit / 3).max(Duration::from_millis(10)));
    loop {
        beat.tick().await;
        notify(&[sd_notify::NotifyState::Watchdog]);
    }
}

/// The settings as they are now.
fn read() -> Result<AgentSettings> {
    let args: Vec<_> = std::env::args_os().collect();
    let parsed = parse(usage::command(), &args).map_err(|mistake| match mistake {
        Mistake::Set(error) => error,
        Mistake::Typed(error) => Error::usage(error.to_string()),
    })?;
    match parsed.cli.command {
        Command::Agent(mut settings) => {
            settings.common = parsed.cli.global.common;
            Ok(*settings)
        }
        _ => Err(Error::usage("another command")),
    }
}

fn options(context: &Context) -> Result<AgentOptions> {
    let settings = Arc::new(read()?);
    let common = &settings.common;
    if settings.schedules.prune.is_some() && settings.retention.is_empty() {
        return Err(Error::usage("agent.prune is set, and none of prune.keep_…")
            .hint("say what to keep, such as keep_daily = 14 in [prune]"));
    }
    // Whatever is wrong with them is to be said now, not at night.
    common.repository_url()?;
    common.etcd()?;
    common.check_keys()?;
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let output = context.output;
    let (places, second, etcd) =
        (Arc::clone(&settings), Arc::clone(&settings), Arc::clone(&settings));
    let replica: OpenReplica = Box::new(move |source| {
        let settings = Arc::clone(&second);
        Box::pin(async move {
            Ok(settings.common.open_replica(&settings.copy, &source, false).await?.repository)
        })
    });
    let mut backup = settings.backup.clone();
    backup.cluster = common.cluster.clone().unwrap_or_default();
    Ok(AgentOptions {
        cluster: backup.cluster.clone(),
        name: settings.name.clone().unwrap_or(host),
        places: Box::new(move || {
            let settings = Arc::clone(&places);
            Box::pin(async move { open(&settings, output).await })
        }),
        replica: settings.copy.url.is_some().then_some(replica),
        etcd: Box::new(move || etcd.common.etcd()),
        backup,
        retention: settings.retention.clone(),
        schedules: settings.schedules.clone(),
        jitter: settings.jitter.unwrap_or_default(),
        drill_etcd: settings.drill.etcd.clone(),
    })
}

async fn open(settings: &AgentSettings, output: Output) -> Result<Places> {
    let opened = settings.common.open_repository().await?;
    opened.warnings.iter().for_each(|warning| output.warn(warning));
    if let Err(error) = opened.sweep().await {
        output.warn(&format!("files of killed backups could not be removed: {error}"));
    }
    let ask = || {
        Err(Error::usage("a passphrase is needed")
            .hint("set STRONGROOM_PASSPHRASE_FILE or STRONGROOM_PASSPHRASE_COMMAND"))
    };
    let keys = settings.common.open_keys(&opened.repository, ask).await?;
    Ok(Places { repository: opened.repository, keys })
}
