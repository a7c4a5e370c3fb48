//! What services have in common: signals, and notifications to systemd.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use strongroom::{Error, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::settings::{Mistake, Parsed, Row, Sources, environment, parse};
use crate::usage;

static READY: AtomicBool = AtomicBool::new(false);

/// Tells systemd; where there is none, nobody.
fn notify(state: NotifyState<'_>) {
    let _ = sd_notify::notify(&[state]);
}

/// The service does its work from now on.
pub(crate) fn ready() {
    READY.store(true, Ordering::Relaxed);
    notify(NotifyState::Ready);
}

/// Does `work` until it ends; `reload` is called at each SIGHUP. Notifies systemd, its watchdog included.
///
/// # Errors
/// Those of `work`.
pub(crate) async fn serve(
    mut stop: watch::Receiver<bool>,
    mut reload: impl AsyncFnMut() -> Result<()>,
    work: impl Future<Output = Result<()>>,
) -> Result<()> {
    let mut hangup = signal(SignalKind::hangup()).map_err(|error| Error::io("signals", error))?;
    let reloading = async {
        while hangup.recv().await.is_some() {
            notify(NotifyState::Reloading);
            if let Err(error) = reload().await {
                warn!(
                    event = "config_rejected",
                    error = %error,
                    kind = error.kind().name(),
                    hint = error.hint_text(),
                );
            }
            if READY.load(Ordering::Relaxed) {
                notify(NotifyState::Ready);
            }
        }
    };
    let stopping = async {
        let _ = stop.wait_for(|stop| *stop).await;
        notify(NotifyState::Stopping);
        std::future::pending::<()>().await
    };
    tokio::select! {
        // Stopping first: the work may end at the same moment, and systemd must still be notified.
        biased;
        () = stopping => Ok(()),
        () = reloading => Ok(()),
        () = watchdog() => Ok(()),
        done = work => done,
    }
}

/// Tells systemd that this process still runs its tasks.
async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    let mut beat = tokio::time::interval((limit / 3).max(Duration::from_millis(10)));
    loop {
        beat.tick().await;
        notify(NotifyState::Watchdog);
    }
}

/// The settings of this service as they are now.
///
/// # Errors
/// Whatever is wrong with them.
pub(crate) fn rows() -> Result<Vec<Row>> {
    let args: Vec<_> = std::env::args_os().collect();
    let sources = Sources::read(usage::command(), &args, &environment).map_err(told)?;
    Ok(sources.inspect().0)
}

/// Logs which settings in `tables` have changed since the start: they take effect only after a restart.
///
/// # Errors
/// Those of [`rows`].
pub(crate) fn report_changes(began_with: &[Row], tables: &[&str]) -> Result<()> {
    let now = rows()?;
    let changed: Vec<_> = now
        .iter()
        .filter(|row| tables.iter().any(|table| row.id.starts_with(table)))
        .filter(|row| !began_with.iter().any(|old| old.id == row.id && old.values == row.values))
        .map(|row| row.id.as_str())
        .collect();
    if changed.is_empty() {
        info!(event = "config_reloaded");
    } else {
        warn!(event = "restart_needed", settings = changed.join(", "));
    }
    Ok(())
}

/// What is wrong, as one error.
pub(crate) fn told(mistake: Mistake) -> Error {
    match mistake {
        Mistake::Set(error) => error,
        Mistake::Typed(error) => Error::usage(usage::message(&error.to_string())),
    }
}

/// What was typed and set, with the file as it is now.
///
/// # Errors
/// Whatever is wrong with it.
pub(crate) fn read() -> Result<Parsed> {
    let args: Vec<_> = std::env::args_os().collect();
    parse(usage::command(), &args).map_err(told)
}
