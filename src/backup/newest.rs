//! The newest snapshot of a cluster that proves itself.

use std::time::SystemTime;

use futures::{StreamExt, stream};

use super::folder;
use super::snapshot;
use crate::error::{ErrorKind, Result};
use crate::format::{ClusterName, ManifestBody};
use crate::keys::MasterKeys;
use crate::store::Repository;

/// Manifests read ahead: the first is mostly the one.
const AHEAD: usize = 2;

/// The manifest of `cluster`'s newest snapshot that `keys` authenticate, but for those from the future.
///
/// # Errors
/// Those of the store.
pub(crate) async fn newest_authentic(
    repository: &Repository,
    keys: &MasterKeys,
    cluster: &ClusterName,
) -> Result<Option<ManifestBody>> {
    let now = SystemTime::now();
    let folders = folder::list_all(repository).await?.snapshots;
    let ids = folders
        .iter()
        .rev()
        .filter(|(id, folder)| folder.manifest.is_some() && !folder::is_ahead(**id, now));
    let mut manifests = stream::iter(ids)
        .map(|(id, folder)| async move { (folder, snapshot::read_manifest(repository, *id).await) })
        .buffered(AHEAD);
    while let Some((folder, manifest)) = manifests.next().await {
        let proved = match manifest {
            Ok(manifest) if manifest.body().cluster != *cluster => continue,
            Ok(manifest) => {
                snapshot::authenticate(repository, folder, keys, &manifest, &mut Vec::new())
                    .await
                    .map(|_| manifest)
            }
            Err(error) => Err(error),
        };
        match proved {
            Ok(manifest) => return Ok(Some(manifest.body().clone())),
            Err(error) if error.kind() == ErrorKind::Unreachable => return Err(error),
            Err(_) => {}
        }
    }
    Ok(None)
}
