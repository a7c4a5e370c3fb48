//! An opened snapshot: authenticated in the order of SPEC.md §6, then read frame by frame.

use super::facts;
use super::folder::{self, Folder};
use super::reader::DatabaseReader;
use super::seals::{Authentic, authenticate};
use crate::compress::decompress_padded;
use crate::crypto;
use crate::envelope::{DataKey, Judged, ObjectOpener, Opened, wrong_key};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{
    Facts, INDEX_BLOCK, Index, KeyId, MAX_INDEX, MAX_MANIFEST, Manifest, ObjectEntry, Part, Role,
    Seal, SnapshotId,
};
use crate::keys::KeySet;
use crate::keys::trust::{Distrust, Standing};
use crate::secret::SecretKey;
use crate::store::Repository;
use zeroize::Zeroizing;

/// A snapshot whose seal, manifest and index have proved themselves.
pub(crate) struct OpenSnapshot {
    pub(crate) manifest: Manifest,
    pub(crate) opened_by: KeyId,
    pub(crate) standing: Standing,
    /// Seal generations that did not open, and why. The snapshot opens all the same.
    pub(crate) findings: Vec<String>,
    pub(crate) facts: Facts,
    pub(crate) data_key: DataKey,
    pub(crate) database: DatabaseReader,
}

/// A manifest and the seal of it that is worth most: headers, no payload.
pub(crate) struct Unsealed {
    pub(crate) manifest: Manifest,
    pub(crate) seal: Seal,
    /// None when a trusted signature shows that it is genuine and no available key opens it, or when it is not signed.
    pub(crate) opened: Option<Opened>,
    pub(crate) standing: Standing,
    /// Why none of the available keys opened what is signed.
    unopened: Option<Error>,
    pub(crate) findings: Vec<String>,
}

impl Unsealed {
    /// What opened it.
    ///
    /// # Errors
    /// [`ErrorKind::WrongKey`], naming the keys that would open it; [`ErrorKind::Refused`] when it was not tried because no
    /// trusted signer signed it.
    pub(crate) fn opened(&self) -> Result<&Opened> {
        match &self.opened {
            Some(opened) => Ok(opened),
            None if self.standing.counts() => {
                Err(self.unopened.as_ref().map_or_else(|| wrong_key(&self.seal), Error::repeated))
            }
            None => Err(untrusted(self.standing)),
        }
    }

    /// That a key or a trusted signature has authenticated the manifest.
    ///
    /// # Errors
    /// As [`opened`](Self::opened).
    pub(crate) fn check_authentic(&self) -> Result<()> {
        match self.standing.counts() {
            true => Ok(()),
            false => self.opened().map(drop),
        }
    }

    /// Refuses what does not count, unless the caller was told to accept it.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`].
    pub(crate) fn check_trusted(&self, keys: &KeySet) -> Result<()> {
        if self.standing.counts() || keys.accepts_untrusted() {
            return Ok(());
        }
        Err(untrusted(self.standing))
    }
}

/// Why a snapshot is not opened.
fn untrusted(standing: Standing) -> Error {
    let hint = match standing {
        Standing::NotTrusted(Distrust::Revoked) => {
            "what was genuine before the revocation counts again with `strongroom key vouch --before TIME --signer OLD`"
        }
        Standing::NotTrusted(Distrust::Public) => {
            "anyone may have made it: give --signers FILE; if you know that it is genuine, give its full id and --accept-untrusted"
        }
        Standing::NotTrusted(Distrust::Unsigned) => {
            "if you know that it is genuine, `strongroom key vouch ID` signs it; to open it without, give its full id and --accept-untrusted"
        }
        _ => {
            "anyone who has that key may have made it; if you know that it is genuine, give its full id and --accept-untrusted"
        }
    };
    Error::new(ErrorKind::Refused, standing.to_string()).hint(hint)
}

/// Reads the manifest of `id` and checks what needs no key: its path and its origin.
pub(crate) async fn read_manifest(repository: &Repository, id: SnapshotId) -> Result<Manifest> {
    let name = Part::Manifest.of(id);
    let bytes = repository.get(&name, MAX_MANIFEST as u64).await?;
    let manifest = Manifest::parse(&bytes).context(name.clone())?;
    check_place(repository, id, &manifest, "manifest").context(name)?;
    Ok(manifest)
}

/// That a manifest, or a tombstone, is of this snapshot and was made in this repository.
fn check_place(
    repository: &Repository,
    id: SnapshotId,
    manifest: &Manifest,
    what: &str,
) -> Result<()> {
    let body = manifest.body();
    if body.snapshot != id {
        return Err(Error::tampered(format!("it is the {what} of another snapshot")));
    }
    if body.origin != repository.id() {
        return Err(Error::tampered(format!("it was made in repository {}", body.origin))
            .hint("it was copied here by hand: use the repository it was made in"));
    }
    Ok(())
}

/// What the tombstone of `id` keeps of its manifest. Nothing of it is authenticated.
pub(crate) async fn read_tombstone(repository: &Repository, id: SnapshotId) -> Result<Manifest> {
    let name = Part::Tombstone.of(id);
    let bytes = repository.get(&name, MAX_MANIFEST as u64).await?;
    let tombstone = Manifest::parse(&bytes).context(name.clone())?;
    check_place(repository, id, &tombstone, "tombstone").context(name)?;
    Ok(tombstone)
}

/// Reads the manifest of `id`, or its tombstone if it was removed.
pub(crate) async fn read_head(
    repository: &Repository,
    id: SnapshotId,
    folder: &Folder,
) -> Result<Manifest> {
    match (&folder.manifest, &folder.tombstone) {
        (None, None) => Err(missing_manifest(id, folder)),
        (None, Some(_)) => read_tombstone(repository, id).await,
        (Some(_), _) => read_manifest(repository, id).await,
    }
}

/// Opens manifest and seal of `id`.
pub(crate) async fn unseal(
    repository: &Repository,
    id: SnapshotId,
    folder: &Folder,
    keys: &KeySet,
) -> Result<Unsealed> {
    if folder.manifest.is_none() {
        return Err(missing_manifest(id, folder));
    }
    let manifest = read_manifest(repository, id).await?;
    let Authentic { seal, judged, findings } =
        authenticate(repository, folder, keys, &manifest).await?;
    let Judged { opened, standing, unopened } = judged;
    Ok(Unsealed { manifest, seal, opened, standing, unopened, findings })
}

pub(crate) fn missing_manifest(id: SnapshotId, folder: &Folder) -> Error {
    if folder.seals.is_empty() && folder.objects.is_empty() {
        return Error::new(ErrorKind::NotFound, format!("no snapshot {id}"))
            .hint("`strongroom snapshots` lists what is there");
    }
    Error::truncated(format!("snapshot {id} has no manifest"))
        .hint("an interrupted backup leaves such a folder; otherwise the manifest was deleted")
}

impl OpenSnapshot {
    /// Opens `id` as far as its index, if it counts; frames are fetched as they are asked for.
    pub(crate) async fn open(
        repository: &Repository,
        id: SnapshotId,
        keys: &KeySet,
    ) -> Result<Self> {
        Self::open_as(repository, id, keys, true).await
    }

    /// As [`open`](Self::open), whether it counts or not.
    pub(crate) async fn open_any(
        repository: &Repository,
        id: SnapshotId,
        keys: &KeySet,
    ) -> Result<Self> {
        Self::open_as(repository, id, keys, false).await
    }

    async fn open_as(
        repository: &Repository,
        id: SnapshotId,
        keys: &KeySet,
        trusted: bool,
    ) -> Result<Self> {
        let opened = async {
            let folder = folder::list_or_look_up(repository, id).await?;
            let unsealed = unseal(repository, id, &folder, keys).await?;
            if trusted {
                unsealed.check_trusted(keys)?;
            }
            check_lengths(&unsealed.manifest, &folder)?;
            let facts = open_facts(&unsealed)?;
            let index = read_index(repository, &unsealed).await?;
            let Unsealed { manifest, opened, standing, findings, seal, .. } = unsealed;
            let Opened { data_key, opened_by, .. } = opened.ok_or_else(|| wrong_key(&seal))?;
            let payload_len = object(&manifest, &Part::Payload)?.length;
            let database =
                DatabaseReader::open(repository, id, &data_key, payload_len, index).await?;
            Ok(Self { manifest, opened_by, standing, findings, facts, data_key, database })
        };
        opened.await.context(format!("snapshot {id}"))
    }
}

/// The sealed facts, which repeat what the manifest says of the database unencrypted.
pub(crate) fn open_facts(unsealed: &Unsealed) -> Result<Facts> {
    let facts = facts::open(&unsealed.manifest, &unsealed.opened()?.data_key)?;
    let manifest = unsealed.manifest.body();
    if facts.etcd.revision != manifest.revision || facts.database_size != manifest.database_bytes {
        return Err(Error::tampered("the sealed facts and the manifest disagree"));
    }
    Ok(facts)
}

/// What the manifest says of the object `role`.
fn object<'a>(manifest: &'a Manifest, part: &Part) -> Result<&'a ObjectEntry> {
    let entry = manifest.body().object(part);
    entry.ok_or_else(|| Error::tampered(format!("the manifest names no {part}")))
}

/// Every object that the manifest names is there, as long as it says.
pub(crate) fn check_lengths(manifest: &Manifest, folder: &Folder) -> Result<()> {
    for object in &manifest.body().objects {
        let part = &object.part;
        match folder.length(part) {
            None => return Err(Error::truncated(format!("{part} is missing"))),
            Some(found) if found < object.length => {
                let message = format!("{part} is {found} bytes instead of {}", object.length);
                return Err(Error::truncated(message));
            }
            Some(found) if found > object.length => {
                let message = format!("{part} is {found} bytes instead of {}", object.length);
                return Err(Error::tampered(message));
            }
            Some(_) => {}
        }
    }
    Ok(())
}

/// Reads the object `part` whole, proves it by the manifest's digest and opens its message, of at most `most` bytes.
pub(crate) async fn read_message(
    repository: &Repository,
    manifest: &Manifest,
    (part, role): (Part, Role),
    key: &SecretKey,
    most: u64,
) -> Result<Zeroizing<Vec<u8>>> {
    let object = object(manifest, &part)?;
    let id = manifest.body().snapshot;
    let name = part.of(id);
    let message = async {
        let longest = crypto::sealed_len(most) + ObjectOpener::HEAD_LEN;
        let mut bytes = repository.get(&name, object.length.min(longest)).await?.to_vec();
        if bytes.len() as u64 != object.length {
            return Err(Error::truncated("its length differs from the one in the manifest"));
        }
        if crypto::sha256(&[&bytes]) != object.sha256.0 {
            return Err(Error::tampered("its SHA-256 differs from the one in the manifest"));
        }
        let (head, sealed) = bytes
            .split_at_mut_checked(ObjectOpener::HEAD_LEN as usize)
            .ok_or_else(|| Error::truncated("shorter than its header"))?;
        let opener = ObjectOpener::new(head, role, id, key, object.length)?;
        let message = opener.open(&(0..opener.message_len()), sealed)?.len();
        // In place: no second copy of what is secret.
        bytes.drain(..ObjectOpener::HEAD_LEN as usize);
        bytes.truncate(message);
        Ok(Zeroizing::new(bytes))
    };
    message.await.context(name)
}

async fn read_index(repository: &Repository, unsealed: &Unsealed) -> Result<Index> {
    let manifest = unsealed.manifest.body();
    let payload_len = object(&unsealed.manifest, &Part::Payload)?.length;
    let key = unsealed.opened()?.data_key.index_key();
    let most = MAX_INDEX as u64;
    let place = (Part::Index, Role::Index);
    let message = read_message(repository, &unsealed.manifest, place, &key, most).await?;
    let parsed = decompress_padded(&message, INDEX_BLOCK, most)
        .map(Zeroizing::new)
        .and_then(|json| Index::parse(&json, payload_len));
    let index = parsed.context(Part::Index.of(manifest.snapshot))?;
    if index.database().size != manifest.database_bytes {
        return Err(Error::tampered("manifest and index name different database sizes"));
    }
    Ok(index)
}
