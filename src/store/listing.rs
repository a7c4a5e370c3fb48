//! Listing a bucket to its end, whatever keys are in it and whatever its store says of the end.
//!
//! A listing is over only when one that begins after its last key has nothing to show.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
};

use super::fault::Fault;
use super::key;

/// Pages without a key that a listing may have.
const EMPTY_PAGES: u32 = 1000;

/// A store that lists whatever keys there are, to the last.
#[derive(Debug)]
pub(super) struct Listed<T> {
    store: Arc<T>,
    /// It can list from any key on. Azure's page says itself whether it is the last.
    lists_from: bool,
}

impl<T> Listed<T> {
    pub(super) fn new(store: T, lists_from: bool) -> Self {
        Self { store: Arc::new(store), lists_from }
    }
}

/// Where a listing goes on.
#[derive(Default)]
struct Position {
    token: Option<String>,
    offset: Option<String>,
    /// The last key of all pages so far.
    last: Option<String>,
    seen: BTreeSet<String>,
    empty: u32,
}

fn wrong(what: &'static str) -> Error {
    Error::Generic { store: "listing", source: Box::new(Fault::Listing(what)) }
}

/// The next page, and where the one after it begins.
async fn next_page(
    store: &dyn PaginatedListStore,
    prefix: Option<&str>,
    most: Option<usize>,
    lists_from: bool,
    mut at: Position,
) -> Result<(Vec<ObjectMeta>, Option<Position>)> {
    let begin = at.offset.take();
    let options = PaginatedListOptions {
        offset: begin.clone(),
        page_token: at.token.take(),
        max_keys: most,
        ..PaginatedListOptions::default()
    };
    let page = store.list_paginated(prefix, options).await?;
    let objects = page.result.objects;
    let keys = objects.iter().map(|meta| key::key_of(meta.location.as_ref()));
    let last = keys.filter_map(|key| String::from_utf8(key).ok()).max();
    if begin.is_some() && last.is_some() && last <= begin {
        return Err(wrong(
            "the store does not list from a key on (start-after), so the end of a listing cannot be verified",
        ));
    }
    at.empty = if objects.is_empty() { at.empty + 1 } else { 0 };
    if at.empty > EMPTY_PAGES {
        return Err(wrong("the store sends one empty page of the listing after the other"));
    }
    let is_empty = objects.is_empty();
    at.last = at.last.max(last);
    let next = match page.page_token {
        Some(token) if !at.seen.insert(token.clone()) => {
            return Err(wrong("the store's listing never ends: a continuation token is repeated"));
        }
        Some(token) => Some(Position { token: Some(token), ..at }),
        // What was written meanwhile, or kept back, comes after the last key.
        None if lists_from && !is_empty => Some(Position { offset: at.last.clone(), ..at }),
        None => None,
    };
    Ok((objects, next))
}

impl<T: ObjectStore + PaginatedListStore> Listed<T> {
    fn pages(
        &self,
        prefix: Option<&Path>,
        most: Option<usize>,
        offset: Option<String>,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        let (store, lists_from) = (Arc::clone(&self.store), self.lists_from);
        let prefix = prefix.filter(|prefix| !prefix.is_root()).map(|prefix| format!("{prefix}/"));
        let first = Position { offset, ..Position::default() };
        let pages = stream::try_unfold(Some(first), move |at| {
            let (store, prefix) = (Arc::clone(&store), prefix.clone());
            async move {
                match at {
                    None => Ok(None),
                    Some(at) => next_page(store.as_ref(), prefix.as_deref(), most, lists_from, at)
                        .await
                        .map(Some),
                }
            }
        });
        pages.map_ok(|page| stream::iter(page.into_iter().map(Ok))).try_flatten().boxed()
    }
}

impl<T: fmt::Display> fmt::Display for Listed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

#[async_trait::async_trait]
#[deny(clippy::missing_trait_methods)]
impl<T: ObjectStore + PaginatedListStore> ObjectStore for Listed<T> {
    async fn put_opts(
        &self,
        to: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        self.store.put_opts(to, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        to: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.store.put_multipart_opts(to, options).await
    }

    async fn get_opts(&self, from: &Path, options: GetOptions) -> Result<GetResult> {
        self.store.get_opts(from, options).await
    }

    async fn get_ranges(&self, from: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.store.get_ranges(from, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        self.store.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix, None, None)
    }

    /// In pages of one key each, so that who calls it learns whether the store can page at all.
    fn list_with_offset(
        &self,
        prefix: Option<&Path>,
        offset: &Path,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.pages(prefix, Some(1), Some(offset.to_string()))
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.store.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.store.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.store.rename_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use object_store::list::PaginatedListResult;

    use super::*;

    /// Lists its keys as S3 does, but for its faults.
    #[derive(Default)]
    struct Bucket {
        keys: BTreeSet<String>,
        /// Says that it is at the end after so many keys.
        stops: Option<usize>,
        same_token: bool,
        ignores_offset: bool,
    }

    #[async_trait::async_trait]
    impl PaginatedListStore for Bucket {
        async fn list_paginated(
            &self,
            prefix: Option<&str>,
            options: PaginatedListOptions,
        ) -> Result<PaginatedListResult> {
            let offset = options.offset.filter(|_| !self.ignores_offset);
            let after = options.page_token.or(offset).unwrap_or_default();
            let keys = self.keys.iter().filter(|key| key.starts_with(prefix.unwrap_or_default()));
            let mut keys: Vec<&String> = keys.filter(|key| **key > after).collect();
            let most = options.max_keys.unwrap_or(1000);
            let mut page_token = (keys.len() > most).then(|| keys[most - 1].clone());
            keys.truncate(most);
            if let Some(stops) = self.stops {
                keys.truncate(stops);
                page_token = None;
            }
            if self.same_token {
                page_token = Some("x".into());
            }
            let meta = |key: &String| ObjectMeta {
                location: key::path_of(key.as_bytes()),
                last_modified: UNIX_EPOCH.into(),
                size: 1,
                e_tag: None,
                version: None,
            };
            let objects = keys.into_iter().map(meta).collect();
            let result =
                ListResult { common_prefixes: Vec::new(), objects, extensions: Default::default() };
            Ok(PaginatedListResult { result, page_token })
        }
    }

    async fn listed(bucket: &Bucket) -> Result<Vec<String>> {
        let mut at = Some(Position::default());
        let mut found = Vec::new();
        while let Some(position) = at {
            let (page, next) = next_page(bucket, Some("at/"), None, true, position).await?;
            found.extend(page.into_iter().map(|meta| key::name_of(meta.location.as_ref())));
            at = next;
        }
        Ok(found)
    }

    fn keys() -> BTreeSet<String> {
        let good = (0..2500).map(|n| format!("at/snapshots/{n:04}/x"));
        let bad = ["at//x", "at/../x", "at/snapshots//x", "at/snapshots/1200/\u{1}", "at/zz//"];
        good.chain(bad.map(String::from)).collect()
    }

    #[tokio::test]
    async fn every_key_is_listed_even_if_the_store_stops_early() {
        let expected: Vec<String> =
            keys().into_iter().map(|key| key.replace('\u{1}', "\\u{1}")).collect();
        for stops in [None, Some(12), Some(1000)] {
            let bucket = Bucket { keys: keys(), stops, ..Bucket::default() };
            assert_eq!(listed(&bucket).await.unwrap(), expected, "{stops:?}");
        }
    }

    #[tokio::test]
    async fn a_listing_without_end_is_an_error() {
        let bucket = Bucket { keys: keys(), same_token: true, ..Bucket::default() };
        assert!(listed(&bucket).await.unwrap_err().to_string().contains("never ends"));
        let bucket = Bucket { same_token: true, ..Bucket::default() };
        assert!(listed(&bucket).await.unwrap_err().to_string().contains("never ends"));
    }

    #[tokio::test]
    async fn an_end_that_cannot_be_verified_is_an_error() {
        let bucket = Bucket { keys: keys(), ignores_offset: true, ..Bucket::default() };
        assert!(listed(&bucket).await.unwrap_err().to_string().contains("start-after"));
        assert!(listed(&Bucket::default()).await.unwrap().is_empty());
    }
}
