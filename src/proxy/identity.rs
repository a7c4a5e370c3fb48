//! Who a client is to etcd: never the proxy.
//!
//! etcd takes the common name in a certificate for a user's when a call has no token. Where etcd asks for certificates
//! the proxy shows one for its clients' calls too, and the rights of its user are not theirs. So while etcd's
//! authentication is on, such a call is refused here, as etcd refuses it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};

use super::Shared;
use crate::error::{Error, ErrorKind, Result};
use crate::etcd::EtcdSettings;
use crate::limit::limited;
use crate::protobuf::fields::auth_status_response;
use crate::protobuf::{Field, Fields};
use crate::values::{Failure, Method, Shim};

/// How often etcd is asked whether authentication is on.
const ASK: Duration = Duration::from_secs(10);
/// How often while that is not known, or calls would run with the proxy's rights as soon as it is on.
const ASK_SOON: Duration = Duration::from_secs(1);
/// How long etcd may take to answer.
const LIMIT: Duration = Duration::from_secs(5);
/// How often a message that waits looks again.
const PAUSE: Duration = Duration::from_millis(100);
/// Where clients of etcd put their token; grpc-gateway uses the second.
const TOKENS: [HeaderName; 2] = [HeaderName::from_static("token"), http::header::AUTHORIZATION];
/// A token that is nobody's. While authentication is off, etcd ignores it; from the moment that it is on, etcd refuses
/// the call instead of taking the certificate's name.
const NOBODY: HeaderValue = HeaderValue::from_static("strongroom: no user");

/// etcd's authentication.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Auth {
    Unknown = 0,
    Off = 1,
    On = 2,
}

pub(super) struct Identity {
    auth: AtomicU8,
    /// The certificate that etcd is shown for clients' calls has a common name.
    named: AtomicBool,
    /// etcd ignores [`NOBODY`] while authentication is off.
    ignores_tokens: AtomicBool,
    /// The listener takes clients without certificates, and is not told to: etcd has to tell them apart.
    everybody: bool,
    ask: Notify,
}

impl Identity {
    pub(super) fn new(everybody: bool) -> Self {
        Self {
            auth: AtomicU8::new(Auth::Unknown as u8),
            named: AtomicBool::new(true),
            ignores_tokens: AtomicBool::new(false),
            everybody,
            ask: Notify::new(),
        }
    }

    fn auth(&self) -> Auth {
        match self.auth.load(Ordering::Acquire) {
            1 => Auth::Off,
            2 => Auth::On,
            _ => Auth::Unknown,
        }
    }

    /// Whether clients can be served; else why not.
    pub(super) fn ready(&self) -> Result<(), String> {
        match self.auth() {
            Auth::Off if self.everybody => Err(EVERYBODY.into()),
            Auth::Unknown if self.asks() => Err(UNKNOWN.into()),
            _ => Ok(()),
        }
    }

    fn pause(&self) -> Duration {
        let soon = match self.auth() {
            Auth::Unknown => self.asks(),
            Auth::Off => {
                self.named.load(Ordering::Acquire) && !self.ignores_tokens.load(Ordering::Acquire)
            }
            Auth::On => false,
        };
        if soon { ASK_SOON } else { ASK }
    }

    fn asks(&self) -> bool {
        self.everybody || self.named.load(Ordering::Acquire)
    }

    /// Refuses a call that would run with the proxy's rights, or that anybody could make.
    pub(super) fn check(&self, method: Method, headers: &HeaderMap) -> Result<(), Status> {
        if is_free(method) || !self.asks() {
            return Ok(());
        }
        match self.auth() {
            Auth::Off if self.everybody => {
                Err(Status::permission_denied(format!("strongroom: {EVERYBODY}")))
            }
            Auth::Off => Ok(()),
            _ if has_token(headers) => Ok(()),
            // etcd decides: the call is nobody's.
            Auth::On if !self.named.load(Ordering::Acquire) => Ok(()),
            // As etcd words it.
            Auth::On => Err(Status::invalid_argument("etcdserver: user name is empty")),
            Auth::Unknown => Err(Status::unavailable(format!("strongroom: {UNKNOWN}"))),
        }
    }

    /// [`check`](Self::check) for a message of a stream that was admitted: while etcd does not tell, it waits.
    pub(super) async fn check_message(
        &self,
        method: Method,
        headers: &HeaderMap,
    ) -> Result<(), Status> {
        let checked = async {
            loop {
                match self.check(method, headers) {
                    Err(status) if status.code() == Code::Unavailable => sleep(PAUSE).await,
                    checked => return checked,
                }
            }
        };
        timeout(LIMIT, checked).await.unwrap_or_else(|_| self.check(method, headers))
    }

    /// [`check`](Self::check) at a call's beginning. What it does to `headers` holds for all that etcd is asked for it.
    pub(super) fn admit(&self, method: Method, headers: &mut HeaderMap) -> Result<(), Status> {
        self.check(method, headers)?;
        let marks = self.named.load(Ordering::Acquire)
            && self.ignores_tokens.load(Ordering::Acquire)
            && !is_free(method)
            && !has_token(headers);
        if marks {
            let [token, _] = TOKENS;
            headers.insert(token, NOBODY);
        }
        Ok(())
    }

    /// A client's call of `method` has succeeded.
    pub(super) fn done(&self, method: Method) {
        match method {
            Method::AuthEnable => self.auth.store(Auth::On as u8, Ordering::Release),
            Method::AuthDisable => self.ask.notify_one(),
            _ => {}
        }
    }

    /// Asks etcd once. `shim` has the proxy's own connection, and `clients` is how etcd is reached for clients' calls.
    pub(super) async fn learn(&self, shim: &Shim, clients: &EtcdSettings) {
        let named = clients.shows_a_name();
        self.named.store(named, Ordering::Release);
        if !self.asks() {
            return;
        }
        let ask = || async { timeout(LIMIT, ask(shim.clone())).await.unwrap_or(Auth::Unknown) };
        let auth = match ask().await {
            // A leader may just have been elected.
            Auth::Unknown => ask().await,
            known => known,
        };
        if auth == Auth::Off && named && !self.ignores_tokens.load(Ordering::Acquire) {
            let ignores = timeout(LIMIT, ignores_tokens(shim.clone())).await.unwrap_or(false);
            self.ignores_tokens.store(ignores, Ordering::Release);
        }
        self.auth.store(auth as u8, Ordering::Release);
    }

    /// # Errors
    /// [`Refused`](ErrorKind::Refused) when everybody could do everything.
    pub(super) fn begin(&self) -> Result<()> {
        if self.everybody && self.auth() == Auth::Off {
            return Err(Error::new(ErrorKind::Refused, EVERYBODY).hint(
                "give --listen-trusted-ca, switch on etcd's authentication, or serve all clients with --insecure-no-client-auth",
            ));
        }
        Ok(())
    }
}

const EVERYBODY: &str =
    "clients show no certificates and etcd's authentication is off: anybody could read everything";
const UNKNOWN: &str = "etcd does not say whether its authentication is on";

/// Keeps what is known of etcd's authentication up to date until `stop` turns true.
pub(super) async fn follow(shared: Arc<Shared>, mut stop: watch::Receiver<bool>) {
    let identity = &shared.identity;
    loop {
        tokio::select! {
            () = sleep(identity.pause()) => {}
            () = identity.ask.notified() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        let before = identity.ready();
        identity.learn(&shared.shim, &shared.clients_etcd).await;
        if let Err(why) = identity.ready()
            && before.is_ok()
        {
            limited!(warn, event = "requests_refused", error = why);
        }
    }
}

/// Calls that etcd answers without a user.
fn is_free(method: Method) -> bool {
    matches!(
        method,
        Method::Authenticate | Method::AuthStatus | Method::HealthCheck | Method::HealthWatch
    )
}

fn has_token(headers: &HeaderMap) -> bool {
    TOKENS.iter().any(|name| headers.contains_key(name))
}

async fn ask(mut shim: Shim) -> Auth {
    match shim.ask(Method::AuthStatus, &HeaderMap::new(), b"").await {
        Ok(answer) if is_enabled(&answer.message) == Some(false) => Auth::Off,
        Ok(_) => Auth::On,
        Err(failure) => match failure.status().code() {
            // 3.4 has no such call. It refuses an empty name without looking further, and says so if it has no users.
            Code::Unimplemented => match shim
                .ask(Method::Authenticate, &HeaderMap::new(), b"")
                .await
                .map_err(Failure::status)
            {
                Err(status) if status.code() == Code::FailedPrecondition => Auth::Off,
                Err(status) if is_lost(status.code()) => Auth::Unknown,
                _ => Auth::On,
            },
            code if is_lost(code) => Auth::Unknown,
            // Who is refused is refused by somebody.
            _ => Auth::On,
        },
    }
}

/// Whether etcd answered nothing about users.
fn is_lost(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Internal
            | Code::ResourceExhausted
            | Code::Aborted
    )
}

/// The field `enabled` of an `AuthStatusResponse`.
fn is_enabled(message: &[u8]) -> Option<bool> {
    let (mut fields, mut enabled) = (Fields(message), false);
    while let Some((number, field)) = fields.next().ok()? {
        if number == auth_status_response::ENABLED {
            enabled = Field::int64(field).ok()? != 0;
        }
    }
    Some(enabled)
}

/// Whether etcd, whose authentication is off, answers a call with [`NOBODY`]: some versions read tokens nevertheless.
async fn ignores_tokens(mut shim: Shim) -> bool {
    let [token, _] = TOKENS;
    let headers = HeaderMap::from_iter([(token, NOBODY)]);
    // One key, `serializable` and `count_only`.
    let message = b"\x0a\x01\0\x38\x01\x48\x01";
    shim.ask(Method::Range, &headers, message).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(identity: &Identity, method: Method, token: bool) -> Code {
        let mut headers = HeaderMap::new();
        if token {
            headers.insert("token", HeaderValue::from_static("x"));
        }
        identity.check(method, &headers).map_or_else(|status| status.code(), |()| Code::Ok)
    }

    #[test]
    fn what_is_not_known_counts_as_on() {
        let set = |everybody, auth: Auth, named| {
            let identity = Identity::new(everybody);
            identity.auth.store(auth as u8, Ordering::Release);
            identity.named.store(named, Ordering::Release);
            identity
        };
        let fresh = Identity::new(false);
        assert_eq!(code(&fresh, Method::Range, false), Code::Unavailable);
        assert_eq!(code(&fresh, Method::Range, true), Code::Ok);
        for method in [Method::Authenticate, Method::AuthStatus, Method::HealthCheck] {
            assert_eq!(code(&fresh, method, false), Code::Ok);
        }
        let on = set(false, Auth::On, true);
        assert_eq!(code(&on, Method::MemberList, false), Code::InvalidArgument);
        assert_eq!(code(&on, Method::MemberList, true), Code::Ok);
        assert_eq!(code(&set(false, Auth::Off, true), Method::Range, false), Code::Ok);
        for auth in [Auth::Unknown, Auth::Off, Auth::On] {
            assert_eq!(code(&set(false, auth, false), Method::Range, false), Code::Ok);
        }
        // Without certificates of the clients.
        assert_eq!(code(&set(true, Auth::On, false), Method::Range, false), Code::Ok);
        assert_eq!(code(&set(true, Auth::Unknown, false), Method::Range, false), Code::Unavailable);
        for token in [false, true] {
            let off = set(true, Auth::Off, false);
            assert_eq!(code(&off, Method::Range, token), Code::PermissionDenied);
            assert!(off.begin().is_err() && off.ready().is_err());
        }
    }
}
