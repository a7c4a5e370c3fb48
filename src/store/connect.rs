//! From a URL and options to a store.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::list::PaginatedListStore;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{
    BackoffConfig, Certificate, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig,
};

use crate::error::{Error, ErrorKind, Result};

use super::directory::Directory;
use super::listing::Tolerant;
use super::options::{self, CA_CERTIFICATE, Settings};
use super::url::{Cloud, Place, RepositoryUrl};

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
    let (cloud, bucket, prefix) = match url.place() {
        Place::Directory(path) => return directory(path, options),
        Place::Bucket { cloud, bucket, prefix } => (*cloud, bucket, prefix),
    };
    let mut warnings = Vec::new();
    let client = client(options)?;
    let store = match cloud {
        Cloud::S3 => {
            warnings.extend(unread_profile(options, environment));
            let settings = options::read(cloud, options, environment, s3_replaces)?;
            refuse(&settings, &[AmazonS3ConfigKey::Bucket])?;
            let builder = AmazonS3Builder::new()
                .with_client_options(client)
                .with_retry(retries())
                // One object is deleted at a time: not every S3 has the bulk request, and its
                // answer hides which refusals are a matter of rights.
                .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");
            let builder =
                apply(builder, &settings, AmazonS3Builder::with_config).with_bucket_name(bucket);
            let get = |key| builder.get_config_value(&key);
            let endpoint =
                get(AmazonS3ConfigKey::S3Endpoint).or_else(|| get(AmazonS3ConfigKey::Endpoint));
            check_client(&mut warnings, endpoint, |key| get(AmazonS3ConfigKey::Client(key)))?;
            prefixed(builder.build().map_err(|e| unbuilt(&e, &settings.secrets))?, prefix)
        }
        Cloud::Google => {
            let settings = options::read(cloud, options, environment, |a, b| a == b)?;
            refuse(&settings, &[GoogleConfigKey::Bucket])?;
            let builder =
                GoogleCloudStorageBuilder::new().with_client_options(client).with_retry(retries());
            let builder = apply(builder, &settings, GoogleCloudStorageBuilder::with_config)
                .with_bucket_name(bucket);
            let get = |key| builder.get_config_value(&key);
            check_client(&mut warnings, get(GoogleConfigKey::BaseUrl), |key| {
                get(GoogleConfigKey::Client(key))
            })?;
            prefixed(builder.build().map_err(|e| unbuilt(&e, &settings.secrets))?, prefix)
        }
        Cloud::Azure => {
            let settings = options::read(cloud, options, environment, |a, b| a == b)?;
            refuse(&settings, &[AzureConfigKey::ContainerName])?;
            let builder =
                MicrosoftAzureBuilder::new().with_client_options(client).with_retry(retries());
            let builder = apply(builder, &settings, MicrosoftAzureBuilder::with_config)
                .with_container_name(bucket);
            let get = |key| builder.get_config_value(&key);
            check_client(&mut warnings, get(AzureConfigKey::Endpoint), |key| {
                get(AzureConfigKey::Client(key))
            })?;
            prefixed(builder.build().map_err(|e| unbuilt(&e, &settings.secrets))?, prefix)
        }
    };
    Ok(Connected { store, directory: None, warnings })
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

fn prefixed(
    store: impl ObjectStore + PaginatedListStore,
    prefix: &ObjectPath,
) -> Arc<dyn ObjectStore> {
    let store = Tolerant::new(store);
    if prefix.is_root() {
        Arc::new(store)
    } else {
        Arc::new(PrefixStore::new(store, prefix.clone()))
    }
}

/// `object_store` signs a request once for all its retries, and a signature ages: it asks for less than 5 minutes.
fn retries() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig::default(),
        max_retries: 10,
        retry_timeout: Duration::from_secs(120),
    }
}

fn client(options: &BTreeMap<String, String>) -> Result<ClientOptions> {
    let mut client = ClientOptions::new()
        .with_config(ClientConfigKey::UserAgent, concat!("strongroom/", env!("CARGO_PKG_VERSION")))
        .with_connect_timeout(Duration::from_secs(10))
        .with_timeout(Duration::from_secs(120));
    if let Some(path) = options.get(CA_CERTIFICATE) {
        let pem = std::fs::read(path).map_err(|e| Error::io(path, e).context(CA_CERTIFICATE))?;
        let bundle = Certificate::from_pem_bundle(&pem).unwrap_or_default();
        if bundle.is_empty() {
            return Err(Error::usage(format!("{CA_CERTIFICATE}: {path} holds no PEM certificate")));
        }
        client = bundle.into_iter().fold(client, ClientOptions::with_root_certificate);
    }
    Ok(client)
}

fn apply<B, K: Copy>(builder: B, settings: &Settings<K>, with: impl Fn(B, K, String) -> B) -> B {
    settings.pairs.iter().fold(builder, |builder, (key, value)| with(builder, *key, value.clone()))
}

/// The URL alone says which bucket.
fn refuse<K: PartialEq>(settings: &Settings<K>, keys: &[K]) -> Result<()> {
    if settings.pairs.iter().any(|(key, _)| keys.contains(key)) {
        return Err(Error::usage("an option names a bucket: the repository URL alone does that"));
    }
    Ok(())
}

/// An endpoint given as an option beats that of a variable for S3 alone, and keys are not mixed
/// with another account's session token.
fn s3_replaces(option: AmazonS3ConfigKey, variable: AmazonS3ConfigKey) -> bool {
    use AmazonS3ConfigKey as K;
    match option {
        K::Endpoint => matches!(variable, K::Endpoint | K::S3Endpoint),
        K::AccessKeyId => matches!(variable, K::AccessKeyId | K::SecretAccessKey | K::Token),
        _ => option == variable,
    }
}

fn check_client(
    warnings: &mut Vec<String>,
    endpoint: Option<String>,
    get: impl Fn(ClientConfigKey) -> Option<String>,
) -> Result<()> {
    let on = |key| {
        get(key).is_some_and(|value| {
            matches!(value.to_ascii_lowercase().as_str(), "true" | "1" | "yes" | "on" | "y" | "t")
        })
    };
    if on(ClientConfigKey::AllowInvalidCertificates) {
        warnings.push(
            "allow_invalid_certificates is on: anybody in between can pose as the store. \
             ca_certificate trusts a private authority safely."
                .to_owned(),
        );
    }
    let Some(endpoint) = endpoint.and_then(|endpoint| url::Url::parse(&endpoint).ok()) else {
        return Ok(());
    };
    if !endpoint.username().is_empty() || endpoint.password().is_some() {
        return Err(Error::usage(
            "the store's endpoint holds a user or password: set the keys as options",
        ));
    }
    if endpoint.scheme() == "http" && !on(ClientConfigKey::AllowHttp) {
        return Err(Error::usage("the store's endpoint is http://, without TLS")
            .hint("Use https://, or set the option allow_http = \"true\" if nobody can listen in between."));
    }
    Ok(())
}

/// `object_store` reads no profile, and goes on to ask the metadata service.
fn unread_profile(
    options: &BTreeMap<String, String>,
    environment: &BTreeMap<String, String>,
) -> Option<String> {
    let keys = |name: &String| name.to_ascii_lowercase().ends_with("access_key_id");
    if !environment.contains_key("AWS_PROFILE")
        || environment.keys().chain(options.keys()).any(keys)
    {
        return None;
    }
    Some(
        "AWS_PROFILE is set, but the files in ~/.aws are not read. Export the profile's keys first: \
         eval \"$(aws configure export-credentials --profile \"$AWS_PROFILE\" --format env)\""
            .to_owned(),
    )
}

/// A builder's complaint, which may quote a value.
fn unbuilt(error: &object_store::Error, secrets: &[String]) -> Error {
    let text = secrets.iter().fold(error.to_string(), |text, secret| text.replace(secret, "***"));
    Error::usage(format!("the repository's options do not work: {text}"))
}

#[cfg(test)]
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
