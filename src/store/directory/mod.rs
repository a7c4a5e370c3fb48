//! A store for a directory in which somebody else may have planted something: no link is followed, only regular files
//! with one name are read, and what is created replaces nothing.
//!
//! The directory itself may be reached by a link: its path is the operator's own. File systems mounted below it are
//! entered, since only an administrator can mount one.

mod files;

use std::fmt;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    Attributes, CopyOptions, Error, GetOptions, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, RenameOptions, Result, UploadPart,
};
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use super::key;
use super::repository::PROBE_PREFIX;
use files::{Found, Root, Staged};

/// Entries of a listing that wait to be taken.
const WAITING: usize = 256;

/// The store; cloning is cheap.
#[derive(Clone, Debug)]
pub(super) struct Directory(Arc<Root>);

impl Directory {
    /// # Errors
    /// Those of the file system.
    pub(super) fn open(path: &FilePath) -> io::Result<Self> {
        Root::open(path).map(|root| Self(Arc::new(root)))
    }

    /// A sentence for a person when others may write in the directory.
    pub(super) fn warning(&self, path: &FilePath) -> Option<String> {
        let path = path.display();
        self.0.is_open_to_others().then(|| {
            format!(
                "others than the owner may write in {path}, and so remove or replace snapshots: \
                 `chmod go-w {path}`, or mount the file system with umask=077"
            )
        })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        name: &Path,
        work: impl FnOnce(&Root, &str) -> io::Result<T> + Send + 'static,
    ) -> Result<T> {
        let (root, path) = (Arc::clone(&self.0), name.to_string());
        let done = spawn_blocking(move || work(&root, &path)).await;
        done.map_err(|error| generic(error.into()))?.map_err(|error| failed(name, error))
    }
}

impl fmt::Display for Directory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("directory")
    }
}

fn generic(source: Box<dyn std::error::Error + Send + Sync>) -> Error {
    Error::Generic { store: "directory", source }
}

fn failed(name: &Path, error: io::Error) -> Error {
    let path = name.to_string();
    match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound { path, source: error.into() },
        io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source: error.into() },
        _ => generic(error.into()),
    }
}

fn unsupported(what: &str) -> Error {
    Error::NotSupported { source: what.into() }
}

fn done() -> PutResult {
    PutResult { e_tag: None, version: None, extensions: Default::default() }
}

fn meta(location: Path, size: i64, modified: SystemTime) -> ObjectMeta {
    ObjectMeta {
        location,
        last_modified: modified.into(),
        size: u64::try_from(size).unwrap_or_default(),
        e_tag: None,
        version: None,
    }
}

#[async_trait::async_trait]
#[deny(clippy::missing_trait_methods)]
impl ObjectStore for Directory {
    async fn put_opts(
        &self,
        to: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let create = match options.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return Err(unsupported("no update in a directory")),
        };
        let put = move |root: &Root, name: &str| {
            let mut staged = root.stage(name)?;
            staged.write(payload.iter().map(Bytes::as_ref))?;
            if create { staged.create() } else { staged.overwrite() }
        };
        self.blocking(to, put).await.map(|()| done())
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let staged = self.blocking(to, |root, name| root.stage(name)).await?;
        Ok(Box::new(Upload { store: self.clone(), to: to.clone(), staged: Some(staged), end: 0 }))
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        let (file, stat) = self.blocking(from, |root, name| root.read(name)).await?;
        let meta = meta(from.clone(), stat.st_size, files::modified(&stat));
        options.check_preconditions(&meta)?;
        let range = match &options.range {
            Some(range) => range.as_range(meta.size).map_err(|error| generic(error.into()))?,
            None => 0..meta.size,
        };
        let payload = if options.head {
            GetResultPayload::Stream(stream::empty().boxed())
        } else {
            GetResultPayload::File(file, self.0.path_of(from.as_ref()))
        };
        let (attributes, extensions) = (Attributes::default(), Default::default());
        Ok(GetResult { payload, meta, range, attributes, extensions })
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let mut found = Vec::new();
        for range in ranges {
            let options = GetOptions { range: Some(range.clone().into()), ..GetOptions::default() };
            found.push(self.get_opts(from, options).await?.bytes().await?);
        }
        Ok(found)
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let store = self.clone();
        let remove = move |path: Path| {
            let store = store.clone();
            async move {
                store.blocking(&path, |root, name| root.remove(name)).await?;
                Ok(path)
            }
        };
        locations.and_then(remove).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (sender, receiver) = mpsc::channel(WAITING);
        let (root, prefix) = (Arc::clone(&self.0), prefix.cloned().unwrap_or_default());
        spawn_blocking(move || {
            let walked = root.walk(prefix.as_ref(), files::DEPTH, &mut |found| {
                Ok(!sender.is_closed()
                    && listed(found).is_none_or(|meta| sender.blocking_send(Ok(meta)).is_ok()))
            });
            if let Err(error) = walked {
                let _ = sender.blocking_send(Err(failed(&prefix, error)));
            }
        });
        stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|item| (item, receiver))
        })
        .boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let offset = offset.clone();
        let after = move |meta: &ObjectMeta| std::future::ready(meta.location > offset);
        self.list(prefix).try_filter(after).boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(unsupported("no listing of one level"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(unsupported("no copy within a directory"))
    }

    async fn rename_opts(&self, _: &Path, _: &Path, _: RenameOptions) -> Result<()> {
        Err(unsupported("no rename within a directory"))
    }
}

/// What a listing says of what a walk met. What is no plain file goes by a name that no object has.
fn listed(found: &Found<'_>) -> Option<ObjectMeta> {
    let location = match found.oddity() {
        None if found.is_folder() || files::is_staged(found.part) => return None,
        None => key::path_of(found.name),
        Some(what) => key::stand_in(&[found.name, b" (", what.as_bytes(), b")"].concat()),
    };
    Some(meta(location, found.stat.st_size, found.modified()))
}

/// A file written part by part.
#[derive(Debug)]
struct Upload {
    store: Directory,
    to: Path,
    staged: Option<Staged>,
    end: u64,
}

#[async_trait::async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let begin = self.end;
        self.end += u64::try_from(data.content_length()).unwrap_or_default();
        let file = self.staged.as_ref().map(Staged::file);
        let (store, to) = (self.store.clone(), self.to.clone());
        Box::pin(async move {
            let file = file.ok_or_else(|| unsupported("the upload is over"))?;
            store.blocking(&to, move |_, _| write_at(&file?, begin, &data)).await
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let staged = self.staged.take().ok_or_else(|| unsupported("the upload is over"))?;
        self.store.blocking(&self.to, |_, _| staged.create()).await.map(|()| done())
    }

    async fn abort(&mut self) -> Result<()> {
        let staged = self.staged.take();
        self.store
            .blocking(&self.to, |root, name| {
                drop(staged);
                // The folder may have been made for this file alone.
                root.remove_empty_folders(name)
            })
            .await
    }
}

fn write_at(file: &File, begin: u64, data: &PutPayload) -> io::Result<()> {
    let mut at = begin;
    for piece in data {
        file.write_all_at(piece, at)?;
        at += u64::try_from(piece.len()).unwrap_or_default();
    }
    Ok(())
}

/// Removes what interrupted writes left in the directory `root`: staged files, last written longer than `older_than`
/// ago. Returns how many.
///
/// A folder left empty goes too, so that it does not look like a snapshot. Blocks.
///
/// # Errors
/// [`Io`](crate::ErrorKind::Io) when a folder cannot be read or a file not removed.
pub fn sweep_staged(root: &FilePath, older_than: Duration) -> crate::Result<u64> {
    let Some(before) = SystemTime::now().checked_sub(older_than) else {
        return Ok(0);
    };
    let failed = |path: PathBuf| move |error| crate::Error::io(path, error);
    let opened = Root::open(root).map_err(failed(root.to_owned()))?;
    let mut removed = 0;
    let mut folders = vec!["keys".to_owned(), "reports".to_owned(), "snapshots".to_owned()];
    let mut sweep_top = |found: &Found<'_>| {
        let name = String::from_utf8_lossy(found.name);
        if found.is_folder() && name.starts_with(PROBE_PREFIX) {
            folders.push(name.into_owned());
        } else if name.starts_with("repository.json#") && is_left(found, before) {
            found.remove().map(|()| removed += 1)?;
        }
        Ok(true)
    };
    opened.walk("", 0, &mut sweep_top).map_err(failed(root.to_owned()))?;
    for folder in folders {
        let mut sweep = |found: &Found<'_>| {
            if is_left(found, before) {
                match found.remove() {
                    // Its writer was still alive, and has finished.
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    other => other.map(|()| removed += 1)?,
                }
            } else if found.is_folder() && found.modified() < before {
                // This removes an empty one only.
                let _ = found.remove();
            }
            Ok(true)
        };
        opened.walk(&folder, files::DEPTH, &mut sweep).map_err(failed(root.join(&folder)))?;
    }
    Ok(removed)
}

fn is_left(found: &Found<'_>, before: SystemTime) -> bool {
    !found.is_folder() && files::is_staged(found.part) && found.modified() < before
}
