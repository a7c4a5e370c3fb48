//! Connections: to one member, or to whichever of several is up.

#[cfg(feature = "proxy")]
use std::path::PathBuf;
use std::time::Duration;
#[cfg(any(feature = "proxy", feature = "agent"))]
use std::time::SystemTime;

use etcd_client::{Channel, Client, ConnectOptions};
use tokio::time::timeout;
use tower::service_fn;
use tower::util::BoxCloneSyncService;

use super::balance::Balanced;
use super::dial::Dial;
#[cfg(feature = "proxy")]
use super::direct::{Direct, MAX_WINDOW};
use super::failure;
use super::settings::{EtcdSettings, Target};
use crate::error::Result;

impl EtcdSettings {
    /// A client that spreads its requests over all endpoints, leaving out those that cannot be reached.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) or [`Io`](crate::ErrorKind::Io) for wrong settings;
    /// [`Denied`](crate::ErrorKind::Denied) and [`Unreachable`](crate::ErrorKind::Unreachable) when a user is to log
    /// in and cannot. Without a user nothing connects yet.
    pub async fn connect(&self) -> Result<Client> {
        login(self, self.balanced()?, &mut Vec::new()).await
    }

    /// The endpoints as one channel, without a user. Connects when it is first used.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) or [`Io`](crate::ErrorKind::Io) for wrong settings.
    pub fn balanced(&self) -> Result<Channel> {
        self.channel_of(|target| Ok(Dial::Plain(target.channel)))
    }

    /// As [`balanced`](Self::balanced), where an answer that nobody reads holds back no other: each has `window` bytes
    /// that may be under way unread, and all together no limit. What is written to it is gathered.
    #[cfg(feature = "proxy")]
    pub(crate) fn independent(&self, window: u32) -> Result<Channel> {
        self.channel_of(|target| {
            let endpoint = target.channel.initial_stream_window_size(window);
            Ok(Dial::Gathering(endpoint.initial_connection_window_size(MAX_WINDOW)))
        })
    }

    /// As [`independent`](Self::independent), for calls with one message and one answer, which take a shorter way.
    #[cfg(feature = "proxy")]
    pub(crate) fn direct(&self, window: u32) -> Result<Channel> {
        self.channel_of(|target| {
            Ok(Dial::Direct(Direct::new(self, target.channel.uri().clone(), window)?))
        })
    }

    fn channel_of(&self, dial: impl Fn(Target) -> Result<Dial>) -> Result<Channel> {
        let dials = self.plan()?.targets.into_iter().map(dial).collect::<Result<Vec<_>>>()?;
        Ok(match &dials[..] {
            [only] => only.lazily(),
            _ => {
                let members = Balanced::new(dials);
                let service = service_fn(move |request| members.clone().send(request));
                Channel::Custom(BoxCloneSyncService::new(service))
            }
        })
    }

    /// The same etcd for others than the settings' user, with another certificate if one is given.
    #[cfg(feature = "proxy")]
    pub(crate) fn without_user(&self, certificate: Option<(PathBuf, PathBuf)>) -> Self {
        let own = || self.cert.clone().zip(self.key.clone());
        let (cert, key) = certificate.or_else(own).unzip();
        Self { cert, key, user: None, password_file: None, password: None, ..self.duplicate() }
    }

    /// Whether the certificate that etcd is shown has a common name, which etcd may take for a user's; true if it
    /// cannot be read.
    #[cfg(feature = "proxy")]
    pub(crate) fn shows_a_name(&self) -> bool {
        let Some(path) = &self.cert else { return false };
        let Ok(pem) = super::settings::read_pem(path) else { return true };
        let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&pem) else { return true };
        pem.parse_x509().map_or(true, |certificate| {
            let mut names = certificate.subject().iter_common_name();
            names.any(|name| !name.as_slice().is_empty())
        })
    }

    /// When the certificate that etcd is shown expires, if there is one that can be read.
    #[cfg(feature = "agent")]
    pub(crate) fn certificate_expires(&self) -> Option<SystemTime> {
        let pem = std::fs::read(self.cert.as_ref()?).ok()?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
        let expires = pem.parse_x509().ok()?.validity().not_after.timestamp();
        Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(expires).ok()?))
    }

    /// What is wrong with the dates of the certificate that etcd is shown, if it can be read and anything is.
    pub(super) fn outdated_certificate(&self) -> Option<String> {
        let path = self.cert.as_ref()?;
        let pem = super::settings::read_pem(path).ok()?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(&pem).ok()?;
        let parsed = pem.parse_x509().ok()?;
        let (validity, path) = (parsed.validity(), path.display());
        let now = x509_parser::time::ASN1Time::now();
        if now > validity.not_after {
            Some(format!(
                "the client certificate {path} expired on {}: renew it",
                validity.not_after
            ))
        } else if now < validity.not_before {
            Some(format!(
                "the client certificate {path} is not valid before {}: check this machine's clock",
                validity.not_before
            ))
        } else {
            None
        }
    }

    /// When the TLS files last changed.
    #[cfg(feature = "proxy")]
    pub(crate) fn files_changed(&self) -> Vec<Option<SystemTime>> {
        let changed = |path: &PathBuf| path.metadata().and_then(|file| file.modified()).ok();
        [&self.cacert, &self.cert, &self.key].into_iter().flatten().map(changed).collect()
    }
}

/// A client over `channel`, logged in if the settings name a user.
pub(super) async fn login(
    settings: &EtcdSettings,
    channel: Channel,
    warnings: &mut Vec<String>,
) -> Result<Client> {
    let Some((user, password)) = settings.credentials()? else {
        return answer("connect", settings.command_timeout, Client::from_channel(channel, None))
            .await;
    };
    let options =
        ConnectOptions::new().with_user(user, password.as_str()).with_auto_token_refresh(true);
    let login = Client::from_channel(channel.clone(), Some(options));
    match timeout(settings.command_timeout, login).await {
        Err(_) => Err(failure::timed_out("log in", settings.command_timeout)),
        Ok(Ok(client)) => Ok(client),
        Ok(Err(error)) if failure::auth_is_off(&error) => {
            warnings.push("a user is given, but authentication is off in etcd: anyone who reaches it can read it".into());
            answer("connect", settings.command_timeout, Client::from_channel(channel, None)).await
        }
        Ok(Err(error)) => Err(failure::from_client("log in", &error)),
    }
}

/// What `call` comes to within `limit`.
pub(super) async fn answer<T>(
    what: &str,
    limit: Duration,
    call: impl Future<Output = std::result::Result<T, etcd_client::Error>>,
) -> Result<T> {
    timeout(limit, call)
        .await
        .map_err(|_| failure::timed_out(what, limit))?
        .map_err(|error| failure::from_client(what, &error))
}
