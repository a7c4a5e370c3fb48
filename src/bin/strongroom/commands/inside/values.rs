//! Values that the proxy or the library encrypted, opened with the value keyring of their own snapshot.

use strongroom::backup::Inside;
use strongroom::contents;
use strongroom::custody;
use strongroom::error::Context as _;
use strongroom::keys::KeySet;
use strongroom::mvcc::RecordSource;
use strongroom::settings::ValueSettings;
use strongroom::values::{ValueCipher, keyring};
use strongroom::{ErrorKind, Result};

use super::Context;
use crate::args::Which;

/// The cipher with the value keys that a snapshot holds.
pub(in crate::commands) async fn cipher_of(
    snapshot: &Which,
    values: &ValueSettings,
    context: &Context,
) -> Result<ValueCipher> {
    let (prefix, own) = (values.reserved_prefix.clone(), own_masters(values).await?);
    let look = move |inside: &Inside, _, masters: &KeySet| {
        cipher(inside, &prefix, own.as_ref().unwrap_or(masters))
    };
    Ok(context.look_with_keys(snapshot, None, look).await?.answer)
}

/// The master keys that are for values; without any those of the snapshot are tried.
pub(super) async fn own_masters(values: &ValueSettings) -> Result<Option<KeySet>> {
    match values.keys.master_keys() {
        Ok(uris) => custody::open(&uris, None).await.map(Some),
        Err(_) => Ok(None),
    }
}

/// The cipher with the value keys in `inside`, as they were last.
pub(super) fn cipher(
    inside: &Inside,
    reserved_prefix: &str,
    masters: &KeySet,
) -> Result<ValueCipher> {
    let key = format!("{reserved_prefix}keyring");
    let named = "the value keyring in the snapshot";
    // Where a recorded moment is looked at, the keyring is the one of then.
    let records = inside.records();
    let state = contents::get(&records, key.as_bytes(), None).map_err(|error| {
        let kind = error.kind();
        let error = error.context(named);
        if kind == ErrorKind::NotFound {
            error.hint(
                "give --reserved-prefix if it is under another one; an older snapshot may hold it",
            )
        } else {
            error
        }
    })?;
    let record = records.value(state.modified).context(named)?;
    ValueCipher::new(&keyring::open_at_once(&record, masters).context(named)?)
}
