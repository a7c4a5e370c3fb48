//! Where the value keyring is, and which master keys open it.

use crate::custody::{MasterKeyUri, MasterKeyUris};
use crate::error::{Error, Result};
use crate::values::DEFAULT_PREFIX;

/// Where the value keyring is, and which master keys open it.
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct ValueSettings {
    /// Prefix of the keys in etcd that strongroom keeps for itself; ends with a slash
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "values.reserved_prefix",
            long = "reserved-prefix",
            value_name = "PREFIX",
            env = "STRONGROOM_RESERVED_PREFIX",
            default_value = DEFAULT_PREFIX
        )
    )]
    pub reserved_prefix: String,
    #[cfg_attr(feature = "cli", command(flatten))]
    /// The master keys that open it.
    pub keys: ValueKeys,
}

/// Which master keys open the value keyring.
#[derive(Clone, Debug, Default)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct ValueKeys {
    /// Master keys of the value keyring; --master-key of the same command overrides it
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "values.master_keys",
            long = "values-master-key",
            value_name = "URI",
            env = "STRONGROOM_VALUES_MASTER_KEY",
            hide = true
        )
    )]
    pub master_keys: Vec<MasterKeyUris>,
}

impl Default for ValueSettings {
    fn default() -> Self {
        Self { reserved_prefix: DEFAULT_PREFIX.into(), keys: ValueKeys::default() }
    }
}

impl ValueKeys {
    /// The master keys, of which there must be one.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when there is none.
    pub fn master_keys(&self) -> Result<Vec<MasterKeyUri>> {
        let uris: Vec<_> = self.master_keys.iter().flat_map(|uris| &uris.0).cloned().collect();
        if uris.is_empty() {
            return Err(Error::usage("no master key for values given").hint(
                "give --master-key file:PATH, or master_keys in the configuration file's [values]: \
                 the backup's master keys are not used for values",
            ));
        }
        Ok(uris)
    }
}
