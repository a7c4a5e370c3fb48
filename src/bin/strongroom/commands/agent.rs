//! `agent`

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use strongroom::agent::{self, AgentOptions, OpenReplica, Places, Schedule, Schedules, listen};
use strongroom::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::warn;

use super::Context;
use super::copy::replica;
use crate::log;
use crate::settings::Settings;

pub(super) async fn run(context: &Context) -> Result<ExitCode> {
    let first = options(context)?;
    let config = &context.settings.agent;
    let listener = match &config.listen {
        None => None,
        Some(address) => Some(listen(address).await?),
    };
    log::begin(config.log)?;
    let (sender, changes) = watch::channel(Arc::new(first));
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| Error::io("signals", error))?;
    let reload = async {
        while hangup.recv().await.is_some() {
            notify(&[sd_notify::NotifyState::Reloading]);
            match again(context).and_then(|context| options(&context)) {
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

/// The same, with the settings read again.
fn again(context: &Context) -> Result<Context> {
    Ok(Context {
        global: context.global.clone(),
        settings: Settings::resolve(context.global.clone())?,
        output: context.output,
        control: context.control.clone(),
        stop: context.stop.clone(),
    })
}

fn options(context: &Context) -> Result<AgentOptions> {
    let (settings, config) = (&context.settings, &context.settings.agent);
    let or = |schedule: &Option<Schedule>, otherwise: &str| {
        schedule.clone().map_or_else(|| otherwise.parse(), Ok)
    };
    let retention = settings.prune.retention();
    if config.prune.is_some() && retention.is_empty() {
        return Err(Error::usage("configuration: agent.prune without any prune.keep_…"));
    }
    // Whatever is wrong with them is to be said now, not at night.
    settings.repository_url()?;
    settings.etcd()?;
    if settings.master_keys.is_empty() {
        return Err(Error::usage("no master key given").hint("name one in the configuration file"));
    }
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let own = Arc::new(again(context)?);
    let (places, second, etcd) = (Arc::clone(&own), Arc::clone(&own), own);
    let replica: OpenReplica = Box::new(move |source| {
        let context = Arc::clone(&second);
        Box::pin(async move { Ok(replica(&source, None, false, &context).await?.0) })
    });
    Ok(AgentOptions {
        cluster: settings.cluster.clone().unwrap_or_default(),
        name: config.name.clone().unwrap_or(host),
        places: Box::new(move || {
            let context = Arc::clone(&places);
            Box::pin(async move { open(&context).await })
        }),
        replica: settings.copy.url.is_some().then_some(replica),
        etcd: Box::new(move || etcd.settings.etcd()),
        backup: settings.backup_options(),
        retention,
        schedules: Schedules {
            backup: or(&config.backup, "0 * * * *")?,
            prune: config.prune.clone(),
            verify: config.verify.clone(),
            verify_all: config.verify_all.clone(),
            drill: config.drill.clone(),
        },
        jitter: config.jitter.map(|span| span.0).unwrap_or_default(),
        drill_etcd: config.etcd.clone().unwrap_or_else(|| "etcd".into()),
    })
}

async fn open(context: &Context) -> Result<Places> {
    let repository = context.swept_repository().await?;
    let keys = context.needed_keys(&repository).await?;
    Ok(Places { repository, keys })
}
