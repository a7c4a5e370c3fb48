//! Stub upload.

use std::sync::Arc;

use bytes::Bytes;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt, WriteMultipart};

use super::failure::explain;
use crate::error::Result;

/// An upload.
pub struct Upload {
    write: WriteMultipart,
    name: String,
}

impl Upload {
    pub(super) async fn new(store: Arc<dyn ObjectStore>, name: &str) -> Result<Self> {
        let upload = store.put_multipart(&Path::from(name)).await.map_err(|e| explain(name, e))?;
        Ok(Self { write: WriteMultipart::new_with_chunk_size(upload, 8 << 20), name: name.into() })
    }

    /// Writes.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.write.wait_for_capacity(2).await.map_err(|e| explain(&self.name, e))?;
        self.write.put(bytes);
        Ok(())
    }

    /// Finishes.
    pub async fn finish(self) -> Result<()> {
        self.write.finish().await.map(drop).map_err(|e| explain(&self.name, e))
    }

    /// Aborts.
    pub async fn abort(self) {
        let _ = self.write.abort().await;
    }
}
