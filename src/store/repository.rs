//! A repository's rules over a store: objects are written once and read within bounds.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use data_encoding::HEXLOWER;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    GetOptions, GetRange, GetResult, GetResultPayload, ObjectStore, ObjectStoreExt, PutMode,
    PutPayload,
};

use crate::crypto::{self, CryptoRng};
use crate::error::{Context, Error, ErrorKind, Result};
use crate::format::{MAX_REPOSITORY, ObjectName, RepositoryInfo, Uuid, names};
use crate::text::clean;

use super::failure::failed;
use super::key;
use super::upload::Upload;

/// What `init` writes to test the store, before 32 random hex digits.
pub(super) const PROBE_PREFIX: &str = "probe-";
/// Most objects one listing returns: twenty times what ten thousand snapshots hold.
const LIST_LIMIT: usize = 1_000_000;
/// Most keys one listing goes through: what the store can list in an hour.
const SEEN_LIMIT: usize = 10_000_000;
/// Attempts at a create that is refused although nothing is there: another is in flight, or a removal has just won. With
/// growing pauses they take as long as those at a store that fails.
const CREATE_ATTEMPTS: u32 = 12;
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// Names of foreign objects that a listing gives out; the rest are counted.
const FOREIGN_LIMIT: usize = 1_000;

/// What a listing says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Name relative to the repository's root.
    pub name: String,
    /// Length in bytes.
    pub len: u64,
    /// When it was written, by the store's own clock.
    pub modified: SystemTime,
}

/// How the tests of the store went.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Probe {
    /// The store was trusted unprobed.
    Skipped,
    /// Proven, and the probe removed.
    Proven,
    /// Proven; the folder of this name stays, since the credentials may not delete.
    ProvenAndLeft(String),
}

/// A repository on a store. Cloning is cheap, and clones share the store's connections.
///
/// Names are relative to the repository's root, their parts divided by `/`.
#[derive(Clone, Debug)]
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    id: Uuid,
}

impl Repository {
    /// Verifies that the store refuses to create an object that exists, and that its listings can be followed to their end.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) if it does not; those of the store.
    async fn probe(&self, rng: &mut (dyn CryptoRng + Send)) -> Result<Probe> {
        let folder = format!("{PROBE_PREFIX}{}", HEXLOWER.encode(&crypto::random::<16>(rng)));
        let names = ["1", "2", "3"].map(|name| format!("{folder}/{name}"));
        let probed = self.probe_with(&folder, &names).await;
        let mut left = Ok(());
        for name in &names {
            left = self.delete(name).await.and(left);
        }
        probed?;
        match left {
            Ok(()) => Ok(Probe::Proven),
            Err(e) if e.kind() == ErrorKind::Denied => Ok(Probe::ProvenAndLeft(folder)),
            Err(e) => Err(e),
        }
    }

    async fn probe_with(&self, folder: &str, names: &[String; 3]) -> Result<()> {
        let (first, second) = (Bytes::from_static(b"first"), Bytes::from_static(b"second"));
        let put = async |name: &str, bytes: &Bytes| {
            let path = path_of(name)?;
            let created = self.store.put_opts(&path, bytes.clone().into(), PutMode::Create.into());
            created.await.map_err(|e| failed(name, &e))
        };
        for name in names {
            put(name, &first).await?;
        }
        let [name, ..] = names;
        match put(name, &second).await {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
            Ok(_) => return Err(lying("The store accepted a second create of the same object.")),
        }
        if self.get(name, 16).await? != first {
            return Err(lying("The store refused a second create but stored its bytes."));
        }
        // Page by page, from the first name on; and at once.
        let paged = self.store.list_with_offset(Some(&path_of(folder)?), &path_of(name)?);
        let paged: Vec<_> = paged.try_collect().await.map_err(|e| failed("list", &e))?;
        let mut paged: Vec<_> = paged.into_iter().map(|meta| meta.location.to_string()).collect();
        paged.sort_unstable();
        let listed = self.list(folder).await?;
        let listed: Vec<_> = listed.into_iter().map(|info| info.name).collect();
        if paged.as_slice() != names.get(1..).unwrap_or_default() || listed != *names {
            return Err(Error::unsupported("the store does not list what was just written")
                .hint("Snapshots would not be found: use a store whose listings are complete."));
        }
        Ok(())
    }

    /// Makes the place a repository of a fresh id: probes the store, unless `trust_store`, then writes
    /// `repository.json`.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) if it is one, [`Unsupported`](ErrorKind::Unsupported)
    /// if the store does not honour create-if-absent; those of the store.
    pub async fn init(
        store: Arc<dyn ObjectStore>,
        trust_store: bool,
        rng: &mut (dyn CryptoRng + Send),
    ) -> Result<(Self, Probe)> {
        let id = Uuid::from_random(crypto::random(rng));
        Self::init_as(store, id, trust_store, rng).await
    }

    /// As [`init`](Self::init), with the id of the repository that it is to be a copy of.
    ///
    /// # Errors
    /// As [`init`](Self::init).
    pub async fn init_as(
        store: Arc<dyn ObjectStore>,
        id: Uuid,
        trust_store: bool,
        rng: &mut (dyn CryptoRng + Send),
    ) -> Result<(Self, Probe)> {
        let repository = Self { store, id };
        let already = || Error::new(ErrorKind::AlreadyExists, "there is a repository already");
        match repository.len(names::REPOSITORY).await {
            Ok(_) => return Err(already()),
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let probe = if trust_store { Probe::Skipped } else { repository.probe(rng).await? };
        let info = RepositoryInfo { id: repository.id }.print();
        match repository.put_once(names::REPOSITORY, info.into()).await {
            Err(e) if e.kind() == ErrorKind::AlreadyExists => Err(already()),
            other => other.map(|()| (repository, probe)),
        }
    }

    /// Opens the repository; with `pinned`, only if that is its id.
    ///
    /// # Errors
    /// [`NoRepository`](ErrorKind::NoRepository) if there is none, [`Refused`](ErrorKind::Refused) if it is
    /// another than the pinned one; those of [`RepositoryInfo::parse`] and of the store.
    pub async fn open(store: Arc<dyn ObjectStore>, pinned: Option<Uuid>) -> Result<Self> {
        let repository = Self { store, id: Uuid([0; 16]) };
        match repository.get(names::REPOSITORY, MAX_REPOSITORY as u64).await {
            Ok(info) => {
                let id = RepositoryInfo::parse(&info).map_err(|e| not_ours(&info, e))?.id;
                if let Some(pinned) = pinned.filter(|pinned| *pinned != id) {
                    return Err(Error::new(
                        ErrorKind::Refused,
                        format!("this is repository {id}, not {pinned}"),
                    )
                    .hint(
                        "Somebody replaced the repository, or the URL or the pinned id is wrong",
                    ));
                }
                Ok(Self { id, ..repository })
            }
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Err(Error::new(ErrorKind::NoRepository, "there is no repository")
                    .hint("Check the URL, or create a repository there with: strongroom init"))
            }
            Err(e) => Err(e),
        }
    }

    /// Its id, which every manifest in it names as its origin.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Writes an object that must not exist. If it does, with these very bytes, that is success:
    /// a request repeated by the network layer is refused by its own first try.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists) if other bytes are there; those of the store.
    pub async fn put_once(&self, name: &str, bytes: Bytes) -> Result<()> {
        self.create(name, bytes.into()).await
    }

    pub(super) async fn create(&self, name: &str, payload: PutPayload) -> Result<()> {
        let path = path_of(name)?;
        let length = u64::try_from(payload.content_length()).unwrap_or(u64::MAX);
        let mut attempt = 1;
        loop {
            let put = self.store.put_opts(&path, payload.clone(), PutMode::Create.into()).await;
            let refused = match put.map_err(|e| failed(name, &e)) {
                Ok(_) => return Ok(()),
                // It may have been done all the same, and the answer lost.
                Err(e) if matches!(e.kind(), ErrorKind::AlreadyExists | ErrorKind::Unreachable) => {
                    e
                }
                Err(e) => return Err(e),
            };
            let conflicts = refused.kind() == ErrorKind::AlreadyExists;
            match self.get(name, length).await {
                Ok(there) if there == Bytes::from(payload.clone()) => return Ok(()),
                Err(e) if e.kind() == ErrorKind::NotFound && conflicts => {
                    if attempt == CREATE_ATTEMPTS {
                        let text = format!(
                            "{name}: the store keeps refusing to create it, although it does not exist"
                        );
                        return Err(Error::new(ErrorKind::Unreachable, text).because(refused));
                    }
                    let pause = Duration::from_millis(200) * (1 << attempt.min(8));
                    tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
                    attempt += 1;
                }
                Err(e) if e.kind() == ErrorKind::Unreachable => return Err(e),
                Ok(_) if conflicts => {
                    return Err(Error::new(
                        ErrorKind::AlreadyExists,
                        format!("{name}: exists already and is not overwritten"),
                    ));
                }
                Ok(_) | Err(_) => return Err(refused),
            }
        }
    }

    /// Reads a whole object of at most `limit` bytes; for small ones, since it must arrive within one request's time.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), [`Tampered`](ErrorKind::Tampered) if it is longer,
    /// [`Truncated`](ErrorKind::Truncated) if it ends early; those of the store.
    pub async fn get(&self, name: &str, limit: u64) -> Result<Bytes> {
        let result = self.store.get(&path_of(name)?).await.map_err(|e| failed(name, &e))?;
        if result.meta.size > limit {
            return Err(too_long(name, limit));
        }
        let expected = result.meta.size;
        collect(name, result, expected).await
    }

    /// Reads exactly the bytes `range` of an object.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), [`Truncated`](ErrorKind::Truncated) if the object ends
    /// before the range does; those of the store.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let Some(expected) = range.end.checked_sub(range.start).filter(|length| *length > 0) else {
            return Ok(Bytes::new());
        };
        let options =
            GetOptions { range: Some(GetRange::Bounded(range.clone())), ..GetOptions::default() };
        let result = match self.store.get_opts(&path_of(name)?, options).await {
            Ok(result) if result.range == range => result,
            Ok(_) => return Err(too_short(name, range.end)),
            Err(e) => {
                let error = failed(name, &e);
                // Stores word a range beyond the end in many ways; the length tells.
                let ends_early = error.kind() != ErrorKind::NotFound
                    && self.len(name).await.is_ok_and(|length| length < range.end);
                return Err(if ends_early { too_short(name, range.end) } else { error });
            }
        };
        collect(name, result, expected).await
    }

    /// The length of an object in bytes.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); those of the store.
    pub async fn len(&self, name: &str) -> Result<u64> {
        Ok(self.info(name).await?.len)
    }

    /// What the store says of the object `name`.
    ///
    /// # Errors
    /// As [`len`](Self::len).
    pub async fn info(&self, name: &str) -> Result<ObjectInfo> {
        let meta = self.store.head(&path_of(name)?).await.map_err(|e| failed(name, &e))?;
        Ok(ObjectInfo {
            name: name.to_owned(),
            len: meta.size,
            modified: meta.last_modified.into(),
        })
    }

    /// All objects below the folder `prefix` (empty: the whole repository), ascending by name.
    ///
    /// Of foreign ones a thousand at most, then one entry that says how many more there are. An empty object whose key
    /// ends in `/` is a folder to the programs that make it, and is not listed.
    ///
    /// # Errors
    /// Those of the store; [`Protocol`](ErrorKind::Protocol) for a listing that does not end, is not complete, or holds
    /// more than a million objects.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let folder = Path::parse(prefix).map_err(|_| odd_name(prefix))?;
        let mut stream = self.store.list((!folder.is_root()).then_some(&folder));
        let what = format!("list {prefix}");
        let (mut found, mut seen, mut foreign) = (Vec::new(), 0, 0);
        while let Some(meta) = stream.try_next().await.map_err(|e| failed(what.trim(), &e))? {
            seen += 1;
            if found.len() == LIST_LIMIT || seen == SEEN_LIMIT {
                return Err(too_many(what.trim(), seen));
            }
            let name = key::name_of(meta.location.as_ref());
            if meta.size == 0 && name.ends_with('/') {
                continue;
            }
            if ObjectName::parse(&name).is_none() {
                foreign += 1;
                if foreign > FOREIGN_LIMIT {
                    continue;
                }
            }
            let modified = SystemTime::from(meta.last_modified);
            found.push(ObjectInfo { name, len: meta.size, modified });
        }
        if let Some(more) = foreign.checked_sub(FOREIGN_LIMIT).filter(|more| *more > 0) {
            let name = format!("{}/… and {more} more", prefix.trim_end_matches('/'));
            found.push(ObjectInfo { name, len: 0, modified: SystemTime::UNIX_EPOCH });
        }
        found.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// Begins to write an object of unknown length, which must not exist.
    ///
    /// Multipart uploads have no create-if-absent, so nobody else may write this name: give it a fresh ULID.
    ///
    /// # Errors
    /// [`AlreadyExists`](ErrorKind::AlreadyExists); those of the store.
    pub async fn upload(&self, name: &str) -> Result<Upload> {
        match self.len(name).await {
            Ok(_) => Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("{name}: exists already and is not overwritten"),
            )),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                Ok(Upload::new(self.clone(), name.to_owned(), path_of(name)?))
            }
            Err(e) => Err(e),
        }
    }

    /// Removes an object; one that is not there is no failure.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) if the credentials may not; those of the store.
    pub async fn delete(&self, name: &str) -> Result<()> {
        match self.store.delete(&path_of(name)?).await.map_err(|e| failed(name, &e)) {
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
            other => other.context("delete"),
        }
    }

    pub(super) fn store(&self) -> &Arc<dyn ObjectStore> {
        &self.store
    }
}

/// What stands where a repository's own object should: a login page, another program's file.
fn not_ours(bytes: &[u8], error: Error) -> Error {
    if bytes.trim_ascii_start().starts_with(b"{") {
        return error;
    }
    let start = String::from_utf8_lossy(bytes.get(..40).unwrap_or(bytes)).into_owned();
    let text =
        format!("this is not a repository: {} begins with {:?}", names::REPOSITORY, clean(&start));
    Error::new(error.kind(), text)
        .hint("Check the URL and the endpoint. A proxy or captive portal may answer instead of the store.")
}

fn path_of(name: &str) -> Result<Path> {
    Path::parse(name).ok().filter(|path| !path.is_root()).ok_or_else(|| odd_name(name))
}

fn odd_name(name: &str) -> Error {
    Error::usage(format!("{name:?} is not an object's name"))
}

fn too_long(name: &str, limit: u64) -> Error {
    Error::tampered(format!("{name}: is longer than {limit} bytes"))
}

fn too_short(name: &str, end: u64) -> Error {
    Error::truncated(format!("{name}: ends before byte {end}"))
}

/// Reads a body of exactly `expected` bytes, whatever its length was said to be.
async fn collect(name: &str, result: GetResult, expected: u64) -> Result<Bytes> {
    let start = result.range.start;
    let short = || too_short(name, start.saturating_add(expected));
    if let GetResultPayload::File(..) = result.payload {
        // One read; the stream of a file comes in 8 KiB pieces.
        let bytes = result.bytes().await.map_err(|e| failed(name, &e))?;
        return if u64::try_from(bytes.len()).is_ok_and(|length| length == expected) {
            Ok(bytes)
        } else {
            Err(short())
        };
    }
    let expected = usize::try_from(expected).map_err(|_| too_long(name, expected))?;
    let mut body = result.into_stream();
    let mut bytes = BytesMut::new();
    while let Some(piece) = body.next().await {
        let piece = piece.map_err(|e| failed(name, &e))?;
        if piece.len() > expected - bytes.len() {
            return Err(Error::new(
                ErrorKind::Protocol,
                format!("{name}: the store sends more than was asked for"),
            ));
        }
        if piece.len() == expected {
            return Ok(piece);
        }
        bytes.reserve(expected - bytes.len());
        bytes.extend_from_slice(&piece);
    }
    if bytes.len() == expected { Ok(bytes.freeze()) } else { Err(short()) }
}

fn too_many(what: &str, seen: usize) -> Error {
    Error::new(ErrorKind::Protocol, format!("{what}: more than {seen} objects")).hint(
        "Somebody fills the repository. `restore`, `verify` and `show` with a snapshot's full id need no listing; \
         look in the bucket for what does not belong there, and remove it.",
    )
}

fn lying(what: &str) -> Error {
    Error::unsupported(format!("the store does not honour create-if-absent. {what}"))
        .hint(
            "Two writers could then overwrite each other's snapshots and master keys unnoticed. \
             Use a store that honours If-None-Match (AWS S3, MinIO, Ceph, Cloudflare R2, Google, Azure), or trust this \
             one with `init --trust-store` if only one host will ever write.",
        )
}
