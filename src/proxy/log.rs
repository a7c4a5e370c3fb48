//! Lines of the service's log; the guide lists them all.

use std::net::SocketAddr;

use tokio::net::TcpListener;
use tonic::{Code, Status};
use tracing::{info, warn};

use super::Shared;
use crate::limit::limited;
use crate::values::{Method, Namespace};

/// How the proxy serves.
pub(super) fn started(shared: &Shared, listener: &TcpListener) {
    info!(
        event = "started",
        version = env!("CARGO_PKG_VERSION"),
        listen = listener.local_addr().ok().map(|address| address.to_string()),
        tls = shared.acceptor.is_some(),
        audit_log = shared.audit.is_some(),
        members = shared.members,
        namespace = %shared.namespace.cipher().namespace(),
    );
}

/// When writing becomes impossible, and when it is possible again. Runs until it is dropped.
pub(super) async fn report(namespace: Namespace) {
    let log = |why: Option<&str>| match why {
        Some(why) => warn!(event = "writes_refused", error = why),
        None => info!(event = "writes_accepted"),
    };
    namespace.report(log).await;
}

/// A client may not do what it asked for, if that is what `status` says.
pub(super) fn denied(client: Option<&str>, peer: SocketAddr, method: Method, status: &Status) {
    if matches!(status.code(), Code::PermissionDenied | Code::Unauthenticated) {
        limited!(
            warn,
            event = "request_denied",
            client = client,
            peer = %peer,
            method = method.path(),
            error = status.message()
        );
    }
}
