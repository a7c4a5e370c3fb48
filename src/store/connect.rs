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
use super::http::Connector;
use super::listing::Listed;
use super::options::{self, CA_CERTIFICATE, Settings};
use super::proxy::Proxies;
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
    let store = match cloud {
        Cloud::S3 => s3((bucket, prefix), options, environment, &mut warnings)?,
        Cloud::Google => {
            let settings = options::read(cloud, options, environment, |a, b| a == b)?;
            let builder = GoogleCloudStorageBuilder::new()
                .with_client_options(client(options)?)
                .with_retry(retries());
            let builder = apply(builder, &settings, GoogleCloudStorageBuilder::with_config)
                .with_bucket_name(bucket);
            let get = |key| builder.get_config_value(&key);
            let client = |key| get(GoogleConfigKey::Client(key));
            check_client(&mut warnings, get(GoogleConfigKey::BaseUrl), client)?;
            let connector = connector(client, [], environment)?;
            let built = builder.with_http_connector(connector).build();
            prefixed(built.map_err(|e| unbuilt(&e, &settings.secrets))?, prefix, true)
        }
        Cloud::Azure => {
            let settings = options::read(cloud, options, environment, |a, b| a == b)?;
            let builder = MicrosoftAzureBuilder::new()
                .with_client_options(client(options)?)
                .with_retry(retries());
            let builder = apply(builder, &settings, MicrosoftAzureBuilder::with_config)
                .with_container_name(bucket);
            let get = |key| builder.get_config_value(&key);
            let client = |key| get(AzureConfigKey::Client(key));
            check_client(&mut warnings, get(AzureConfigKey::Endpoint), client)?;
            let connector = connector(client, [get(AzureConfigKey::MsiEndpoint)], environment)?;
            let built = builder.with_http_connector(connector).build();
            prefixed(built.map_err(|e| unbuilt(&e, &settings.secrets))?, prefix, false)
        }
    };
    Ok(Connected { store, directory: None, warnings })
}

fn s3(
    (bucket, prefix): (&str, &ObjectPath),
    options: &BTreeMap<String, String>,
    environment: &BTreeMap<String, String>,
    warnings: &mut Vec<String>,
) -> Result<Arc<dyn ObjectStore>> {
    warnings.extend(unread_profile(options, environment));
    let settings = options::read(Cloud::S3, options, environment, s3_replaces)?;
    let builder = AmazonS3Builder::new()
        .with_client_options(client(options)?)
        .with_retry(retries())
        // One object is deleted at a time: not every S3 has the bulk request, and its
        // answer hides which refusals are a matter of rights.
        .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");
    let builder = apply(builder, &settings, AmazonS3Builder::with_config).with_bucket_name(bucket);
    let get = |key| builder.get_config_value(&key);
    let endpoint = get(AmazonS3ConfigKey::S3Endpoint).or_else(|| get(AmazonS3ConfigKey::Endpoint));
    let client = |key| get(AmazonS3ConfigKey::Client(key));
    check_client(warnings, endpoint, client)?;
    let metadata =
        [AmazonS3ConfigKey::MetadataEndpoint, AmazonS3ConfigKey::ContainerCredentialsFullUri];
    let connector = connector(client, metadata.map(get), environment)?;
    if is_true(environment.get("AWS_EC2_METADATA_DISABLED")) {
        need_credentials(get)?;
    }
    let built = builder.with_http_connector(connector).build();
    Ok(prefixed(built.map_err(|e| unbuilt(&e, &settings.secrets))?, prefix, true))
}

/// What makes the HTTP clients: with the proxies in force, and the hosts of metadata services at `urls`.
fn connector<const N: usize>(
    get: impl Fn(ClientConfigKey) -> Option<String>,
    urls: [Option<String>; N],
    environment: &BTreeMap<String, String>,
) -> Result<Connector> {
    let (proxy, excludes) = (get(ClientConfigKey::ProxyUrl), get(ClientConfigKey::ProxyExcludes));
    let proxies = Proxies::read(proxy.as_deref(), excludes.as_deref(), environment)?;
    let hosts = urls
        .into_iter()
        .flatten()
        .filter_map(|url| Some(url.parse::<http::Uri>().ok()?.authority()?.as_str().to_owned()));
    Ok(Connector::new(proxies, hosts))
}

fn is_true(value: Option<&String>) -> bool {
    value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
}

/// That there are credentials, where the metadata service is not to be asked for any.
fn need_credentials(get: impl Fn(AmazonS3ConfigKey) -> Option<String>) -> Result<()> {
    use AmazonS3ConfigKey as K;
    let keys = [
        K::AccessKeyId,
        K::WebIdentityTokenFile,
        K::ContainerCredentialsRelativeUri,
        K::ContainerCredentialsFullUri,
    ];
    if keys.into_iter().any(|key| get(key).is_some()) || is_true(get(K::SkipSignature).as_ref()) {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Denied,
        "no credentials: none are set, and AWS_EC2_METADATA_DISABLED forbids asking the metadata service",
    )
    .hint("Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or [repository.options]."))
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
    lists_from: bool,
) -> Arc<dyn ObjectStore> {
    let store = Listed::new(store, lists_from);
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
