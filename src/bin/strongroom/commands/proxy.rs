//! `strongroom proxy`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use strongroom::audit_log::{AuditLog, Options};
use strongroom::proxy::{Proxy, bind, listen};
use strongroom::settings::ProxySettings;
use strongroom::{Error, Result};
use tokio::net::{TcpListener, TcpSocket};
use tracing::warn;

use super::Context;
use super::values::masters;
use crate::args::Command;
use crate::{log, service, settings};

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

pub(super) async fn proxy(mut settings: ProxySettings, context: &Context) -> Result<ExitCode> {
    settings.etcd = context.settings.etcd()?;
    settings.cluster.clone_from(&context.settings.cluster);
    settings.check()?;
    log::begin(settings.log)?;
    let began_with = service::rows()?;
    let reload = async || reload(&began_with);
    service::serve(context.stop.clone(), reload, run(settings, context)).await?;
    Ok(ExitCode::SUCCESS)
}

async fn run(settings: ProxySettings, context: &Context) -> Result<()> {
    let masters = masters(&settings.values.keys, context).await?;
    let unencrypted = settings.listen_cert.is_none();
    let socket = bind(&settings.listen).await?;
    let metrics = match &settings.metrics_listen {
        None => None,
        Some(address) => Some(listen(address).await?),
    };
    // Opened last, so that wrong settings do not leave a log that was not closed.
    let options = Options { max_bytes: settings.audit_log_max_size << 20 };
    let audit = settings.audit_log.clone();
    let audit =
        audit.map(|path| AuditLog::open(path, options, Arc::clone(&masters))).transpose()?;
    let (log, stop) = (audit.clone(), context.stop.clone());
    let prepared =
        Proxy::prepare_when_reachable(settings, masters, audit, metrics.as_ref(), stop).await;
    // A proxy that serves closes its log itself.
    if let (Ok(None) | Err(_), Some(log)) = (&prepared, log) {
        // If this fails, verifying the log says so.
        let _ = log.close().await;
    }
    let Some(proxy) = prepared? else { return Ok(()) };
    let (listener, address) = listening(socket)?;
    if unencrypted && !address.ip().is_loopback() {
        warn!(event = "clients_unencrypted", hint = "give --listen-cert and --listen-key");
    }
    service::ready();
    proxy.serve(listener, metrics, context.stop.clone()).await
}

/// Checks the settings as they are now. Certificates are read again whenever their files change; all else is fixed.
fn reload(began_with: &[settings::Row]) -> Result<()> {
    let parsed = service::read()?;
    if let Command::Proxy(settings) = &parsed.cli.command {
        settings.check()?;
    }
    service::report_changes(began_with, &["proxy.", "values.", "etcd."])
}

fn listening(socket: TcpSocket) -> Result<(TcpListener, SocketAddr)> {
    let failed = |error| Error::io("the listener", error);
    let listener = socket.listen(BACKLOG).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}
