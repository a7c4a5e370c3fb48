//! Listing a bucket in which somebody may have put keys that `object_store` takes for no paths.
//!
//! It then refuses the whole page, and with it the listing: one key such as `snapshots//x` would stop whatever lists. Here
//! such a key is found by asking for shorter pages, is listed under a name that no object of ours has, and passed.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::{self, Path, PathPart};
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

/// The longest page that every store gives.
const PAGE: usize = 1000;

/// A store that lists whatever keys there are.
#[derive(Debug)]
pub(super) struct Tolerant<T>(Arc<T>);

impl<T> Tolerant<T> {
    pub(super) fn new(store: T) -> Self {
        Self(Arc::new(store))
    }
}

/// Where a listing goes on.
struct Position {
    token: Option<String>,
    offset: Option<String>,
    most: usize,
}

/// The next page, and where the one after it begins.
async fn next_page(
    store: &dyn PaginatedListStore,
    prefix: Option<&str>,
    mut at: Position,
) -> Result<(Vec<ObjectMeta>, Option<Position>)> {
    loop {
        let options = PaginatedListOptions {
            offset: at.offset.clone(),
            page_token: at.token.clone(),
            max_keys: (at.most < PAGE).then_some(at.most),
            ..PaginatedListOptions::default()
        };
        match store.list_paginated(prefix, options).await {
            Ok(page) => {
                let most = at.most.saturating_mul(2).min(PAGE);
                let next = page.page_token.map(|token| Position {
                    token: Some(token),
                    offset: None,
                    most,
                });
                return Ok((page.result.objects, next));
            }
            Err(Error::InvalidPath { .. }) if at.most > 1 => at.most /= 2,
            Err(Error::InvalidPath { source }) => {
                let Some(key) = key_of(&source).filter(|key| at.offset.as_ref() < Some(key)) else {
                    return Err(Error::InvalidPath { source });
                };
                let found = ObjectMeta {
                    location: name_of(prefix.unwrap_or_default(), &key),
                    last_modified: UNIX_EPOCH.into(),
                    size: 0,
                    e_tag: None,
                    version: None,
                };
                let next = Position { token: None, offset: Some(key), most: 2 };
                return Ok((vec![found], Some(next)));
            }
            Err(error) => return Err(error),
        }
    }
}

/// The key that is no path.
fn key_of(error: &path::Error) -> Option<String> {
    match error {
        path::Error::EmptySegment { path } | path::Error::BadSegment { path, .. } => {
            Some(path.clone())
        }
        _ => None,
    }
}

/// A path that stands for `key`: its good parts, then the rest with `/` escaped.
fn name_of(prefix: &str, key: &str) -> Path {
    let mut name = Path::from(prefix);
    let mut rest = key.strip_prefix(prefix).unwrap_or(key);
    while let Some((part, after)) = rest.split_once('/') {
        let Some(part) = PathPart::parse(part).ok().filter(|part| !part.as_ref().is_empty()) else {
            break;
        };
        name = name.join(part);
        rest = after;
    }
    // A slash at the end makes it a name that this program gives to nothing.
    name.join(format!("{rest}/"))
}

impl<T: fmt::Display> fmt::Display for Tolerant<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[async_trait::async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: ObjectStore + PaginatedListStore> ObjectStore for Tolerant<T> {
    async fn put_opts(
        &self,
        to: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.0.put_opts(to, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.0.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.0.get_opts(from, options).await
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.0.get_ranges(from, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.0.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let store = Arc::clone(&self.0);
        let prefix = prefix.filter(|prefix| !prefix.is_root()).map(|prefix| format!("{prefix}/"));
        let first = Position { token: None, offset: None, most: PAGE };
        let pages = stream::try_unfold(Some(first), move |at| {
            let (store, prefix) = (Arc::clone(&store), prefix.clone());
            async move {
                match at {
                    None => Ok(None),
                    Some(at) => next_page(store.as_ref(), prefix.as_deref(), at).await.map(Some),
                }
            }
        });
        pages.map_ok(|page| stream::iter(page.into_iter().map(Ok))).try_flatten().boxed()
    }

    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.0.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.0.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.0.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.0.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use object_store::list::PaginatedListResult;

    use super::*;

    /// Lists its keys as S3 does, and refuses a page with a key that is no path as `object_store` does.
    struct Bucket(BTreeSet<String>);

    #[async_trait::async_trait]
    impl PaginatedListStore for Bucket {
        async fn list_paginated(
            &self,
            prefix: Option<&str>,
            options: PaginatedListOptions,
        ) -> Result<PaginatedListResult> {
            let after = options.page_token.or(options.offset).unwrap_or_default();
            let keys = self.0.iter().filter(|key| key.starts_with(prefix.unwrap_or_default()));
            let mut keys: Vec<&String> = keys.filter(|key| **key > after).collect();
            let most = options.max_keys.unwrap_or(PAGE);
            let page_token = (keys.len() > most).then(|| keys[most - 1].clone());
            keys.truncate(most);
            let meta = |key: &String| {
                Ok(ObjectMeta {
                    location: Path::parse(key)?,
                    last_modified: UNIX_EPOCH.into(),
                    size: 1,
                    e_tag: None,
                    version: None,
                })
            };
            let objects = keys.into_iter().map(meta).collect::<Result<_>>()?;
            let result =
                ListResult { common_prefixes: Vec::new(), objects, extensions: Default::default() };
            Ok(PaginatedListResult { result, page_token })
        }
    }

    async fn listed(bucket: &Bucket) -> Vec<String> {
        let mut at = Some(Position { token: None, offset: None, most: PAGE });
        let mut found = Vec::new();
        while let Some(position) = at {
            let (page, next) = next_page(bucket, Some("at/"), position).await.unwrap();
            found.extend(page.into_iter().map(|meta| meta.location.to_string()));
            at = next;
        }
        found
    }

    #[tokio::test]
    async fn a_key_that_is_no_path_hides_nothing() {
        let good: BTreeSet<String> = (0..2500).map(|n| format!("at/snapshots/{n:04}/x")).collect();
        assert_eq!(listed(&Bucket(good.clone())).await.len(), 2500);
        let bad = ["at//x", "at/../x", "at/snapshots//x", "at/snapshots/1200/\u{1}", "at/zz//"];
        let all = good.iter().cloned().chain(bad.map(String::from)).collect();
        let found = listed(&Bucket(all)).await;
        let missing: Vec<_> = good.iter().filter(|key| !found.contains(key)).collect();
        assert!(missing.is_empty(), "{missing:?}");
        let others: Vec<_> = found.iter().filter(|key| !good.contains(*key)).collect();
        assert_eq!(
            others,
            [
                "at/..%2Fx%2F",
                "at/%2Fx%2F",
                "at/snapshots/%2Fx%2F",
                "at/snapshots/1200/%01%2F",
                "at/zz/%2F%2F",
            ]
        );
    }
}
