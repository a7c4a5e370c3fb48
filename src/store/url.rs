//! placeholder
use crate::error::{Error, Result};
use object_store::ObjectStore;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Url.
pub struct RepositoryUrl(String);
impl FromStr for RepositoryUrl {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self> {
        Ok(Self(s.into()))
    }
}
impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
/// Connected.
pub struct Connected {
    /// Store.
    pub store: Arc<dyn ObjectStore>,
    /// Warnings.
    pub warnings: Vec<String>,
}
/// Connects.
pub fn connect(url: &RepositoryUrl, _options: &BTreeMap<String, String>) -> Result<Connected> {
    std::fs::create_dir_all(&url.0).map_err(|e| Error::io(&url.0, e))?;
    let store = object_store::local::LocalFileSystem::new_with_prefix(&url.0)
        .map_err(|e| Error::usage(e.to_string()))?;
    Ok(Connected { store: Arc::new(store.with_fsync(true)), warnings: vec![] })
}
