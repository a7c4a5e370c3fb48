//! Export and import of the keyring's record, sealed as it is.

use std::time::Duration;

use etcd_client::Client;

use super::namespace::Namespace;
use super::pages::{Values, is_encrypted};
use super::record::{self, Record};
use super::{ValueCipher, follow, keyring};
use crate::error::{Error, ErrorKind, Result};
use crate::format::ValueKeyring;
use crate::keys::KeySet;
use crate::text::printable;

/// How many encrypted values an import tries, and for how long it looks for them.
const TRIED: u64 = 100;
const SEARCH: Duration = Duration::from_secs(10);

impl Namespace {
    /// The keyring's record as etcd holds it under `prefix`: sealed by the master keys.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) when there is none, and those of etcd.
    pub async fn export(client: &Client, prefix: &[u8]) -> Result<Vec<u8>> {
        record::check_prefix(prefix)?;
        let record = record::read(client, prefix).await?;
        record.map(|record| record.bytes).ok_or_else(|| {
            let text = format!("etcd holds no value keyring under {}", printable(prefix));
            Error::new(ErrorKind::NotFound, text)
        })
    }

    /// Puts an exported record into etcd, under `prefix`; whether it was not there already. With `force` it replaces
    /// any other and is not tried on the values.
    ///
    /// # Errors
    /// Those of [`keyring::open`] and of etcd. [`Refused`](ErrorKind::Refused) without `force` when etcd holds a
    /// keyring that is newer, of another namespace or does not open, and when no encrypted value opens with this one.
    pub async fn import(
        client: &Client,
        prefix: &[u8],
        masters: &KeySet,
        bytes: &[u8],
        force: bool,
    ) -> Result<bool> {
        record::check_prefix(prefix)?;
        let keyring = keyring::open(bytes, masters)
            .await
            .map_err(|error| error.context("the exported value keyring"))?;
        let there = record::read(client, prefix).await?;
        match &there {
            Some(record) if record.bytes == bytes => return Ok(false),
            Some(record) if !force => check_older(record, &keyring, masters).await?,
            _ => {}
        }
        if !force {
            check_values(client, prefix, &keyring).await?;
        }
        let revision = there.map_or(0, |record| record.revision);
        if record::put_if_unchanged(client, &record::key(prefix), revision, bytes.into()).await? {
            return Ok(true);
        }
        Err(Error::new(
            ErrorKind::Refused,
            "another process wrote the value keyring at the same time",
        )
        .hint("check `strongroom value status` before you run the command again"))
    }
}

/// Checks that the record in etcd is an older one of the same namespace.
async fn check_older(record: &Record, keyring: &ValueKeyring, masters: &KeySet) -> Result<()> {
    let refused = |text: String| {
        Error::new(ErrorKind::Refused, text)
            .hint("--force replaces it; export it first: values encrypted with it open with no other keyring")
    };
    let there = follow::open(&record.bytes, masters)
        .await
        .map_err(|error| refused(format!("{error}: whether it is older is unknown")))?;
    if there.namespace != keyring.namespace {
        return Err(refused(format!(
            "the value keyring in etcd belongs to another namespace: {}, the exported one to {}",
            there.namespace, keyring.namespace
        )));
    }
    if there.serial >= keyring.serial {
        return Err(refused(format!(
            "the value keyring in etcd is not older: serial {}, the exported one has {}",
            there.serial, keyring.serial
        )));
    }
    Ok(())
}

/// Checks that the keyring opens encrypted values, if there are any.
async fn check_values(client: &Client, prefix: &[u8], keyring: &ValueKeyring) -> Result<()> {
    let cipher = ValueCipher::new(keyring)?;
    let (mut values, mut tried, mut failed) = (Values::new(client, prefix, b""), 0_u64, None);
    let search = async {
        while let Some(page) = values.next().await? {
            for kv in page.iter().filter(|kv| is_encrypted(kv)) {
                match cipher.open(kv.key(), kv.value()) {
                    Ok(_) => return Ok(None),
                    Err(error) => failed = Some(error),
                }
                tried = tried.saturating_add(1);
                if tried >= TRIED {
                    return Ok(failed);
                }
            }
        }
        Ok(failed)
    };
    let failed = tokio::time::timeout(SEARCH, search).await.unwrap_or_else(|_| {
        let text = format!("not all values could be read in {SEARCH:?}");
        Err(Error::new(ErrorKind::Unreachable, text))
    })?;
    let Some(error) = failed else { return Ok(()) };
    let text = format!("no encrypted value in etcd opens with this keyring: {error}");
    Err(Error::new(ErrorKind::Refused, text)
        .hint("it may belong to another cluster; --force imports it anyway"))
}
