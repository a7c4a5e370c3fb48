//! The repository itself.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, PutMode, PutOptions};

use super::failure::explain;
use super::upload::Upload;
use crate::crypto::{self, CryptoRng};
use crate::error::{Error, ErrorKind, Result};
use crate::format::{MAX_REPOSITORY, RepositoryInfo, Uuid, names};

/// One object as the store lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name within the repository.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// When it was last written, by the store's clock.
    pub modified: SystemTime,
}

/// A repository. Cheap to clone.
#[derive(Clone)]
pub struct Repository {
    store: Arc<dyn ObjectStore>,
    id: Uuid,
}

impl Repository {
    /// Creates.
    pub async fn init(
        store: Arc<dyn ObjectStore>,
        _trust: bool,
        rng: &mut dyn CryptoRng,
    ) -> Result<Uuid> {
        let id = Uuid::from_random(crypto::random(rng));
        let this = Self { store, id };
        this.put_once(names::REPOSITORY, RepositoryInfo { id }.print().into()).await?;
        Ok(id)
    }

    /// Opens.
    pub async fn open(store: Arc<dyn ObjectStore>, _pinned: Option<Uuid>) -> Result<Self> {
        let mut this = Self { store, id: Uuid([0; 16]) };
        let bytes = this.get(names::REPOSITORY, MAX_REPOSITORY as u64).await?;
        this.id = RepositoryInfo::parse(&bytes)?.id;
        Ok(this)
    }

    /// Its id.
    pub fn id(&self) -> Uuid {
        self.id
    }

    /// Puts.
    pub async fn put_once(&self, name: &str, bytes: Bytes) -> Result<()> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        match self.store.put_opts(&Path::from(name), bytes.clone().into(), options).await {
            Ok(_) => Ok(()),
            Err(error) => {
                let error = explain(name, error);
                if error.kind() == ErrorKind::AlreadyExists
                    && self.get(name, bytes.len() as u64).await.is_ok_and(|found| found == bytes)
                {
                    return Ok(());
                }
                Err(error)
            }
        }
    }

    /// Gets.
    pub async fn get(&self, name: &str, max_len: u64) -> Result<Bytes> {
        let got = self.store.get(&Path::from(name)).await.map_err(|e| explain(name, e))?;
        if got.meta.size > max_len {
            return Err(Error::tampered(format!("{name}: longer than {max_len} bytes")));
        }
        got.bytes().await.map_err(|e| explain(name, e))
    }

    /// Gets a range.
    pub async fn get_range(&self, name: &str, range: Range<u64>) -> Result<Bytes> {
        let want = range.end - range.start;
        let bytes =
            self.store.get_range(&Path::from(name), range).await.map_err(|e| explain(name, e))?;
        if bytes.len() as u64 != want {
            return Err(Error::truncated(format!("{name}: shorter than expected")));
        }
        Ok(bytes)
    }

    /// Lists.
    pub async fn list(&self, prefix: &str) -> Result<Vec<ObjectInfo>> {
        let prefix = Path::from(prefix);
        let mut all: Vec<ObjectInfo> = self
            .store
            .list(Some(&prefix))
            .map_ok(|meta| ObjectInfo {
                name: meta.location.to_string(),
                len: meta.size,
                modified: meta.last_modified.into(),
            })
            .try_collect()
            .await
            .map_err(|e| explain(prefix.as_ref(), e))?;
        all.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(all)
    }

    /// Uploads.
    pub async fn upload(&self, name: &str) -> Result<Upload> {
        Upload::new(self.store.clone(), name).await
    }

    /// Deletes.
    pub async fn delete(&self, name: &str) -> Result<()> {
        match self.store.delete(&Path::from(name)).await {
            Err(object_store::Error::NotFound { .. }) | Ok(()) => Ok(()),
            Err(error) => Err(explain(name, error)),
        }
    }
}
