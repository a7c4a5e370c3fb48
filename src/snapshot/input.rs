//! Where a backup's database comes from: etcd's stream, or a snapshot file.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use etcd_client::Client;
use sha2::{Digest, Sha256 as Hasher};

use super::stored::StoredInput;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::etcd::{self, Choice, EtcdSettings, Member, SnapshotStream};
use crate::format::EtcdFacts;
use crate::task::run_blocking;
use crate::task::{Control, Step};

/// Bytes read from a file at a time.
const READ_LEN: usize = 1 << 20;
/// etcd's trailer: the SHA-256 of the database before it.
const TRAILER_LEN: u64 = 32;
/// bolt pages are multiples of this, so that a trailer shows in the length (etcd `hasChecksum`).
const SECTOR: u64 = 512;

/// Where the database comes from.
#[non_exhaustive]
pub enum Source {
    /// A live etcd.
    Etcd(EtcdSettings),
    /// A live etcd through a client of the caller's own, which reaches one member: by `Client::from_channel` of a
    /// channel, for example. Its HashKV is not compared with that of other members.
    Client(Box<Client>),
    /// A snapshot file that exists already, with or without etcd's 32-byte trailer.
    File(PathBuf),
}

/// The etcd that is backed up.
pub(crate) struct Live {
    pub(crate) choice: Choice,
    pub(crate) settings: EtcdSettings,
}

/// An open source.
pub(crate) enum Input {
    Etcd { live: Arc<Live>, stream: Box<SnapshotStream> },
    File(FileInput),
    Stored(Box<StoredInput>),
}

impl Input {
    pub(crate) async fn open(source: Source, control: &Control) -> Result<Self> {
        match source {
            Source::Etcd(settings) => {
                let choice = etcd::choose_member(&settings).await?;
                Self::live_etcd(choice, settings, control).await
            }
            Source::Client(client) => {
                let choice = etcd::member_of(*client).await?;
                Self::live_etcd(choice, EtcdSettings::default(), control).await
            }
            Source::File(path) => Ok(Self::File(FileInput::open(path)?)),
        }
    }

    async fn live_etcd(choice: Choice, settings: EtcdSettings, control: &Control) -> Result<Self> {
        control.step(Step::Note(choice.reason.clone()));
        let stream = Box::new(choice.snapshot().await?);
        Ok(Self::Etcd { live: Arc::new(Live { choice, settings }), stream })
    }

    /// Bytes that will come.
    pub(crate) fn total(&self) -> Option<u64> {
        match self {
            Self::Etcd { stream, .. } => Some(stream.total()),
            Self::File(file) => Some(file.size),
            Self::Stored(stored) => Some(stored.size()),
        }
    }

    pub(crate) fn member(&self) -> Option<Member> {
        match self {
            Self::Etcd { live, .. } => Some(live.choice.member.clone()),
            Self::File(_) | Self::Stored(_) => None,
        }
    }

    pub(crate) fn reason(&self) -> Option<String> {
        match self {
            Self::Etcd { live, .. } => Some(live.choice.reason.clone()),
            Self::File(_) | Self::Stored(_) => None,
        }
    }

    pub(crate) fn warnings(&self) -> Vec<String> {
        match self {
            Self::Etcd { live, .. } => live.choice.warnings.clone(),
            Self::File(file) if file.trailer.is_none() => vec![format!(
                "{} has no SHA-256 trailer: it cannot be verified that it is as etcd wrote it",
                file.path.display()
            )],
            Self::File(_) | Self::Stored(_) => Vec::new(),
        }
    }

    /// The etcd it comes from, to be asked more.
    pub(crate) fn live(&self) -> Option<Arc<Live>> {
        match self {
            Self::Etcd { live, .. } => Some(live.clone()),
            Self::File(_) | Self::Stored(_) => None,
        }
    }

    /// What is known of the etcd it comes from; revisions are read back from the stored bytes.
    pub(crate) fn facts(&self) -> EtcdFacts {
        match self {
            Self::Etcd { live, .. } => EtcdFacts {
                cluster_id: Some(live.choice.member.cluster_id),
                member_id: Some(live.choice.member.id),
                member_name: Some(live.choice.member.name.clone()),
                version: Some(live.choice.member.version.clone()),
                ..EtcdFacts::default()
            },
            Self::File(_) => EtcdFacts::default(),
            Self::Stored(stored) => stored.facts(),
        }
    }

    /// The next bytes; none at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>> {
        match self {
            Self::Etcd { stream, .. } => stream.next().await,
            Self::File(file) => file.next().await,
            Self::Stored(stored) => stored.next().await,
        }
    }

    /// The database's SHA-256, once all is read and it agrees with etcd's own.
    pub(crate) async fn finish(self) -> Result<[u8; 32]> {
        match self {
            Self::Etcd { stream, .. } => stream.sha256().ok_or_else(|| {
                Error::new(ErrorKind::Protocol, "etcd's stream ended without a digest")
            }),
            Self::File(file) => file.finish(),
            Self::Stored(stored) => stored.finish(),
        }
    }
}

/// A database's length and trailer are read before the rest of it.
fn not_a_file(path: &Path, what: &str) -> Error {
    Error::usage(format!("{} is {what}, not a snapshot file", path.display()))
        .hint("write the database to a file first, and give its name")
}

/// A snapshot file being read.
pub(crate) struct FileInput {
    path: PathBuf,
    file: Option<File>,
    hasher: Hasher,
    size: u64,
    read: u64,
    trailer: Option<[u8; 32]>,
}

impl FileInput {
    fn open(path: PathBuf) -> Result<Self> {
        let io = |error| Error::io(&path, error);
        let found = path.metadata().map_err(|error| match path.as_os_str() == "-" {
            true => not_a_file(&path, "standard input"),
            false => io(error),
        })?;
        if !found.is_file() {
            let what = if found.is_dir() { "a directory" } else { "a pipe or a device" };
            return Err(not_a_file(&path, what));
        }
        let file = File::open(&path).map_err(io)?;
        let length = found.len();
        let mut trailer = None;
        if length % SECTOR == TRAILER_LEN {
            let mut digest = [0; TRAILER_LEN as usize];
            file.read_exact_at(&mut digest, length - TRAILER_LEN).map_err(io)?;
            trailer = Some(digest);
        }
        let size = if trailer.is_some() { length - TRAILER_LEN } else { length };
        if size == 0 {
            return Err(Error::truncated(format!("{} holds no database", path.display())));
        }
        Ok(Self { path, file: Some(file), hasher: Hasher::new(), size, read: 0, trailer })
    }

    async fn next(&mut self) -> Result<Option<Bytes>> {
        let want = (self.size - self.read).min(READ_LEN as u64) as usize;
        let Some(mut file) = self.file.take().filter(|_| want > 0) else { return Ok(None) };
        let mut hasher = std::mem::take(&mut self.hasher);
        let path = self.path.clone();
        let (file, hasher, bytes) = run_blocking(move || {
            let mut bytes = vec![0; want];
            file.read_exact(&mut bytes).map_err(|error| Error::io(&path, error))?;
            hasher.update(&bytes);
            Ok((file, hasher, bytes))
        })
        .await?;
        (self.file, self.hasher) = (Some(file), hasher);
        self.read += want as u64;
        Ok(Some(bytes.into()))
    }

    fn finish(self) -> Result<[u8; 32]> {
        let digest: [u8; 32] = self.hasher.finalize().into();
        if self.trailer.is_some_and(|trailer| trailer != digest) {
            return Err(Error::tampered("its SHA-256 is not the one in its trailer")
                .hint("the file is damaged: take the snapshot again"))
            .context(self.path.display().to_string());
        }
        Ok(digest)
    }
}
