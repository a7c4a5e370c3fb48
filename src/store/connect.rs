//! From a URL and options to a store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use object_store::ObjectStore;

use crate::error::{Error, ErrorKind, Result};

use super::clouds;
use super::directory::Directory;
use super::url::{Place, RepositoryUrl};

/// A store whose root is the repository's, and what its user should know.
#[derive(Debug)]
pub struct Connected {
    /// The store; object names are relative to the repository's root.
    pub store: Arc<dyn ObjectStore>,
    /// The root of a local repository, for [`sweep_staged`](super::sweep_staged).
    pub directory: Option<PathBuf>,
    /// Sentences for a person: settings that are risky or will not do what was hoped.
    pub warnings: Vec<String>,
}

/// Gives the store at `url`; asks nothing of it yet.
///
/// `options` are `object_store`'s configuration keys (`aws_endpoint`, …) and `ca_certificate`, the
/// path of a PEM file with authorities to trust besides the system's. Below them stand the
/// variables `AWS_*`, `GOOGLE_*` and `AZURE_*` of the environment. TLS is on; a plain HTTP endpoint
/// needs `allow_http`. A request may take 2 minutes, with its retries about 4.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) for an option that is unknown or makes no sense,
/// [`Unsupported`](ErrorKind::Unsupported) for a provider that this strongroom is built without (features `s3`, `gcs`,
/// `azure`),
/// [`NoRepository`](ErrorKind::NoRepository) when the directory does not exist.
pub fn connect(url: &RepositoryUrl, options: &BTreeMap<String, String>) -> Result<Connected> {
    let environment = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    connect_with(url, options, &environment)
}

/// As [`connect`], with `environment` in place of the process's own.
///
/// # Errors
/// Those of [`connect`].
pub fn connect_with(
    url: &RepositoryUrl,
    options: &BTreeMap<String, String>,
    environment: &BTreeMap<String, String>,
) -> Result<Connected> {
    match url.place() {
        Place::Directory(path) => directory(path, options),
        Place::Bucket { cloud, bucket, prefix } => {
            let (store, warnings) = clouds::connect(*cloud, bucket, prefix, options, environment)?;
            Ok(Connected { store, directory: None, warnings })
        }
    }
}

fn directory(path: &std::path::Path, options: &BTreeMap<String, String>) -> Result<Connected> {
    if let Some(name) = options.keys().next() {
        return Err(Error::usage(format!(
            "a local repository takes no options, and \"{name}\" is set"
        )));
    }
    let root = std::fs::canonicalize(path).map_err(|e| match e.kind() {
        std::io::ErrorKind::NotFound => {
            Error::new(ErrorKind::NoRepository, "there is no such directory")
                .hint("Create a repository there with: strongroom init")
        }
        _ => Error::io(path, e),
    })?;
    let store = Directory::open(&root).map_err(|e| Error::io(&root, e))?;
    let warnings = store.warning(&root).into_iter().collect();
    Ok(Connected { store: Arc::new(store), directory: Some(root), warnings })
}

/// What of a URL is not built in is refused by name.
#[cfg(all(test, not(feature = "azure")))]
mod tests_without {
    use super::*;

    #[test]
    fn a_provider_that_is_not_built_in_is_named() {
        let none = BTreeMap::new();
        let error = connect_with(&"az://c/p".parse().unwrap(), &none, &none).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("az://"), "{error}");
        assert!(error.hint_text().unwrap().contains("feature azure"), "{error:?}");
    }
}

#[cfg(all(test, feature = "s3", feature = "gcs", feature = "azure"))]
mod tests {
    use super::*;

    fn map(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn at(url: &str, options: &[(&str, &str)], environment: &[(&str, &str)]) -> Result<Connected> {
        connect_with(&url.parse().unwrap(), &map(options), &map(environment))
    }

    #[test]
    fn unknown_options_are_refused_with_the_nearest() {
        for (url, name, near) in [
            ("s3://b", "aws_endpiont", "aws_endpoint"),
            ("gs://b", "service_acount", "google_service_account"),
            ("az://c", "azure_storage_acount_name", "azure_storage_account_name"),
        ] {
            let error = at(url, &[(name, "x")], &[]).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Usage);
            assert!(error.to_string().contains(name), "{error}");
            assert!(error.hint_text().unwrap().contains(near), "{error:?}");
        }
        let error = at(".", &[("aws_region", "x")], &[]).unwrap_err();
        assert!(error.to_string().contains("aws_region"), "{error}");
    }

    #[test]
    fn unknown_variables_are_nobody_s_business() {
        at("s3://b", &[], &[("AWS_PAGER", "less"), ("AWS_REGION", "eu-west-1")]).unwrap();
    }

    #[test]
    fn plain_http_must_be_asked_for() {
        let error = at("s3://b", &[("aws_endpoint", "http://127.0.0.1:1")], &[]).unwrap_err();
        assert!(error.hint_text().unwrap().contains("allow_http"), "{error:?}");
        at("s3://b", &[("aws_endpoint", "http://127.0.0.1:1"), ("allow_http", "true")], &[])
            .unwrap();
        at("s3://b", &[("aws_endpoint", "http://127.0.0.1:1")], &[("AWS_ALLOW_HTTP", "true")])
            .unwrap();
    }

    #[test]
    fn options_win_over_variables() {
        let plain = ("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:1");
        at("s3://b", &[], &[plain]).unwrap_err();
        at("s3://b", &[("aws_endpoint", "https://127.0.0.1:1")], &[plain]).unwrap();
    }

    #[test]
    fn a_bucket_is_named_by_the_url_alone() {
        for (url, name) in
            [("s3://b", "aws_bucket"), ("gs://b", "bucket"), ("az://b", "container_name")]
        {
            assert_eq!(
                at(url, &[(name, "x")], &[]).unwrap_err().kind(),
                ErrorKind::Usage,
                "{name}"
            );
        }
    }

    #[test]
    fn a_profile_is_not_read_and_that_is_said() {
        let warnings = at("s3://b", &[], &[("AWS_PROFILE", "x")]).unwrap().warnings;
        assert!(warnings.first().unwrap().contains("export-credentials"), "{warnings:?}");
        let keys =
            [("AWS_PROFILE", "x"), ("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")];
        assert!(at("s3://b", &[], &keys).unwrap().warnings.is_empty());
    }

    #[test]
    fn a_builder_s_complaint_holds_no_secret() {
        let error =
            at("gs://b", &[("google_service_account_key", "\"hunter2hunter2\"")], &[]).unwrap_err();
        assert!(!format!("{error}{error:?}").contains("hunter2"), "{error}");
        let error = at("s3://b", &[("aws_endpoint", "https://a:hunter2@h")], &[]).unwrap_err();
        assert!(!format!("{error}{error:?}").contains("hunter2"), "{error}");
    }

    #[test]
    fn a_missing_directory_is_no_repository() {
        let error = at("/nonexistent/strongroom", &[], &[]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NoRepository);
    }
}
