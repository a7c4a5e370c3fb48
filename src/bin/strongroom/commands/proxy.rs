//! `strongroom proxy`.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use strongroom::audit_log::{AuditLog, Options};
use strongroom::proxy::{Access, Proxy, ProxyOptions, ServerTls, bind, listen};
use strongroom::settings::ProxySettings;
use strongroom::values::Scope;
use strongroom::{Error, Result};
use tokio::net::{TcpListener, TcpSocket};
use tracing::warn;

use super::Context;
use super::values::masters;
use crate::log;

/// Connections that may wait to be accepted.
const BACKLOG: u32 = 1024;

pub(super) async fn proxy(mut args: ProxySettings, context: &Context) -> Result<ExitCode> {
    log::begin(args.log)?;
    let (log, max_bytes) = (args.audit_log.take(), args.audit_log_max_size << 20);
    let (address, metrics) = (std::mem::take(&mut args.listen), args.metrics_listen.take());
    let masters = masters(&args.values.keys, context).await?;
    let mut options = options(args, context)?;
    let unencrypted = options.tls.is_none();
    let socket = bind(&address).await?;
    let metrics = match metrics {
        None => None,
        Some(address) => Some(listen(&address).await?),
    };
    // Opened last, so that wrong settings do not leave a log that was not closed.
    if let Some(path) = log {
        options.audit = Some(AuditLog::open(path, Options { max_bytes }, Arc::clone(&masters))?);
    }
    let audit = options.audit.clone();
    let stop = context.stop.clone();
    let prepared = Proxy::prepare_when_reachable(options, masters, metrics.as_ref(), stop).await;
    // A proxy that serves closes its log itself.
    if let (Ok(None) | Err(_), Some(log)) = (&prepared, audit) {
        // If this fails, verifying the log says so.
        let _ = log.close().await;
    }
    let Some(proxy) = prepared? else { return Ok(ExitCode::SUCCESS) };
    let (listener, address) = listening(socket)?;
    if unencrypted && !address.ip().is_loopback() {
        warn!(event = "clients_unencrypted", hint = "give --listen-cert and --listen-key");
    }
    let served = proxy.serve(listener, metrics, context.stop.clone()).await;
    served.map(|()| ExitCode::SUCCESS)
}

/// How to serve, without the audit log.
fn options(args: ProxySettings, context: &Context) -> Result<ProxyOptions> {
    let bytes = |names: Vec<String>| names.into_iter().map(String::into_bytes).collect();
    let tls = args.listen_cert.zip(args.listen_key).map(|(cert, key)| ServerTls {
        cert,
        key,
        trusted_ca: args.listen_trusted_ca,
    });
    Ok(ProxyOptions {
        etcd: context.settings.etcd()?,
        client_certificate: args.client_cert.zip(args.client_key),
        insecure_no_client_auth: args.insecure_no_client_auth,
        prefix: args.values.reserved_prefix.into_bytes(),
        scope: Scope::new(bytes(args.include), bytes(args.exclude)),
        tls,
        access: Access::parse(args.allow.iter().map(String::as_str))?,
        audit: None,
        audit_fail_open: args.audit_fail_open,
        advertise: args.advertise_client_url,
        unreadable: args.unreadable_values,
        max_memory: (args.max_memory as usize) << 20,
        max_request: (args.max_request_bytes as usize).saturating_add(512 << 10),
    })
}

fn listening(socket: TcpSocket) -> Result<(TcpListener, SocketAddr)> {
    let failed = |error| Error::io("the listener", error);
    let listener = socket.listen(BACKLOG).map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    Ok((listener, address))
}
