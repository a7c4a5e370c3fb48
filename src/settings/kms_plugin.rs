//! What a KMS plugin is set to do.

use std::path::Path;

use super::LogFormat;
use crate::custody::{KmsRole, MasterKeyUri, MasterKeyUris};
use crate::error::{Error, Result};

/// What a KMS plugin is set to do.
#[derive(Clone, Debug)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct KmsPluginSettings {
    /// Socket to listen at, as in the API server's EncryptionConfiguration
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "kms_plugin.listen",
            long = "listen",
            value_name = "unix://PATH",
            default_value_t = KmsPluginSettings::default().listen,
            env = "STRONGROOM_KMS_LISTEN"
        )
    )]
    pub listen: String,
    /// Key for Kubernetes: a keyring, or a key that a service keeps; --master-key of the same command overrides it
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "kms_plugin.master_keys",
            long = "kms-plugin-master-key",
            value_name = "URI",
            env = "STRONGROOM_KMS_MASTER_KEY",
            hide = true
        )
    )]
    pub master_keys: Vec<MasterKeyUris>,
    /// Also serve processes of the user with this id; repeat for several. Root and the plugin's own user are always served
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "kms_plugin.allow_uid",
            long = "allow-uid",
            value_name = "UID",
            value_parser = uid
        )
    )]
    pub allow_uid: Vec<u32>,
    /// Address of /metrics, /healthz and /readyz
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "kms_plugin.metrics_listen",
            long = "metrics-listen",
            value_name = "HOST:PORT",
            env = "STRONGROOM_KMS_METRICS_LISTEN",
            value_parser = crate::status_server::parse_address
        )
    )]
    pub metrics_listen: Option<String>,
    /// Format of the log on standard error
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "kms_plugin.log",
            long = "log",
            value_name = "FORMAT",
            value_enum,
            default_value_t,
            env = "STRONGROOM_KMS_LOG"
        )
    )]
    pub log: LogFormat,
}

#[cfg(feature = "cli")]
fn uid(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| "not the number of a user: `id -u NAME` prints it".into())
}

impl Default for KmsPluginSettings {
    fn default() -> Self {
        Self {
            listen: "unix:///run/strongroom-kms/kms.sock".into(),
            master_keys: Vec::new(),
            allow_uid: Vec::new(),
            metrics_listen: None,
            log: LogFormat::default(),
        }
    }
}

impl KmsPluginSettings {
    /// The path of the socket to listen at.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when `listen` is not `unix://` and an absolute path.
    pub fn socket(&self) -> Result<&Path> {
        let path = self.listen.strip_prefix("unix://").map(Path::new);
        path.filter(|path| path.is_absolute() && path.file_name().is_some()).ok_or_else(|| {
            Error::usage(format!("cannot listen at {:?}: it is not unix://PATH", self.listen))
                .hint("write an absolute path, as in unix:///run/strongroom-kms/kms.sock")
        })
    }

    /// The key, of which there must be one: a keyring file, or a key of a service that seals and opens.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when there is none, or another kind of key.
    pub fn key(&self) -> Result<&MasterKeyUri> {
        let mut uris = self.master_keys.iter().flat_map(|uris| &uris.0);
        match (uris.next(), uris.next()) {
            (Some(uri @ MasterKeyUri::File(_)), None) => Ok(uri),
            (Some(uri @ MasterKeyUri::Kms(kms)), None) if kms.role() == KmsRole::default() => {
                Ok(uri)
            }
            _ => Err(Error::usage(
                "the KMS plugin needs exactly one key: a keyring file, or a key of a service that seals and opens",
            )
            .hint(
                "give --master-key file:PATH, kmsv2:…, transit:…, pkcs11:… or aws-kms:…, or master_keys in the \
                 configuration file's [kms_plugin]; use a key of its own, not that of the backups",
            )),
        }
    }

    /// That the settings go together.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) for what is wrong with them.
    pub fn check(&self) -> Result<()> {
        self.socket()?;
        self.key().map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_has_an_absolute_path() {
        let socket = |listen: &str| {
            let settings = KmsPluginSettings { listen: listen.into(), ..Default::default() };
            settings.socket().map(Path::to_owned)
        };
        assert_eq!(socket("unix:///run/kms.sock").unwrap(), Path::new("/run/kms.sock"));
        for bad in ["/run/kms.sock", "unix://", "unix://kms.sock", "unix:///", "tcp://a:1", ""] {
            assert!(socket(bad).is_err(), "{bad}");
        }
    }
}
