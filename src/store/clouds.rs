//! The object storage of each provider that this strongroom is built with.

use std::collections::BTreeMap;
use std::sync::Arc;

use object_store::ObjectStore;
use object_store::path::Path as ObjectPath;

use super::url::Cloud;
use crate::error::{Error, Result};

type Options = BTreeMap<String, String>;
/// A store, and what its user should know.
type Store = (Arc<dyn ObjectStore>, Vec<String>);

/// Gives the store of `bucket`; asks nothing of it yet. See [`connect_with`](super::connect_with).
///
/// # Errors
/// Those of [`connect_with`](super::connect_with).
pub(super) fn connect(
    cloud: Cloud,
    bucket: &str,
    prefix: &ObjectPath,
    options: &Options,
    environment: &Options,
) -> Result<Store> {
    match cloud {
        #[cfg(feature = "s3")]
        Cloud::S3 => s3::connect(bucket, prefix, options, environment),
        #[cfg(feature = "gcs")]
        Cloud::Google => gcs::connect(bucket, prefix, options, environment),
        #[cfg(feature = "azure")]
        Cloud::Azure => azure::connect(bucket, prefix, options, environment),
        #[cfg(not(all(feature = "s3", feature = "gcs", feature = "azure")))]
        cloud => {
            let _ = (bucket, prefix, options, environment);
            let (scheme, feature) = (cloud.scheme(), cloud.feature());
            let text = format!("this strongroom is built without {scheme}:// repositories");
            Err(Error::unsupported(text).hint(format!("build it with the feature {feature}")))
        }
    }
}

#[cfg(feature = "aws-kms")]
pub(super) use s3::service;

#[cfg(feature = "s3")]
mod s3 {
    #[cfg(feature = "aws-kms")]
    use object_store::aws::AwsCredentialProvider;
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
    #[cfg(feature = "aws-kms")]
    use object_store::client::HttpClient;
    use object_store::path::Path as ObjectPath;

    use super::common::{
        apply, check_client, client, connector, is_true, prefixed, retries, unbuilt,
    };
    use super::{Error, Options, Result, Store};
    use crate::error::ErrorKind;
    #[cfg(feature = "aws-kms")]
    use crate::store::ask;
    use crate::store::http::Connector;
    use crate::store::options;
    use crate::store::url::Cloud;

    pub(super) fn connect(
        bucket: &str,
        prefix: &ObjectPath,
        options: &Options,
        environment: &Options,
    ) -> Result<Store> {
        let client = client(options)?;
        let mut warnings: Vec<_> = unread_profile(options, environment).into_iter().collect();
        let settings = options::read(Cloud::S3, options, environment, replaces)?;
        let builder = AmazonS3Builder::new()
            .with_client_options(client)
            .with_retry(retries())
            // One object is deleted at a time: not every S3 has the bulk request, and its answer hides which refusals
            // are a matter of rights.
            .with_config(AmazonS3ConfigKey::DisableBulkDelete, "true");
        let builder =
            apply(builder, &settings, AmazonS3Builder::with_config).with_bucket_name(bucket);
        let get = |key| builder.get_config_value(&key);
        let endpoint =
            get(AmazonS3ConfigKey::S3Endpoint).or_else(|| get(AmazonS3ConfigKey::Endpoint));
        let connector = checked(get, endpoint, &mut warnings, environment)?;
        let built = builder.with_http_connector(connector).build();
        Ok((prefixed(built.map_err(|e| unbuilt(&e, &settings.secrets))?, prefix, true), warnings))
    }

    /// What makes the HTTP clients of a builder whose settings `get` gives, after these were checked.
    fn checked(
        get: impl Fn(AmazonS3ConfigKey) -> Option<String>,
        endpoint: Option<String>,
        warnings: &mut Vec<String>,
        environment: &Options,
    ) -> Result<Connector> {
        let client = |key| get(AmazonS3ConfigKey::Client(key));
        check_client(warnings, endpoint.clone(), client)?;
        let metadata =
            [AmazonS3ConfigKey::MetadataEndpoint, AmazonS3ConfigKey::ContainerCredentialsFullUri];
        let metadata: Vec<String> = metadata.into_iter().filter_map(&get).collect();
        let connector = connector(client, endpoint.as_deref(), &metadata, environment)?;
        if is_true(environment.get("AWS_EC2_METADATA_DISABLED")) {
            need_credentials(&get)?;
        }
        if let Some(path) = get(AmazonS3ConfigKey::ContainerAuthorizationTokenFile) {
            check_token(&path)?;
        }
        Ok(connector)
    }

    /// A client for another service of AWS, at `endpoint`, and the credentials that a repository without options would have.
    ///
    /// # Errors
    /// [`Usage`](ErrorKind::Usage) for a variable that makes no sense; [`Denied`](ErrorKind::Denied) without credentials.
    #[cfg(feature = "aws-kms")]
    pub(in super::super) fn service(
        endpoint: &str,
        environment: &Options,
    ) -> Result<(HttpClient, AwsCredentialProvider)> {
        let none = Options::new();
        let settings = options::read(Cloud::S3, &none, environment, replaces)?;
        let builder =
            AmazonS3Builder::new().with_client_options(client(&none)?).with_retry(retries());
        let builder =
            apply(builder, &settings, AmazonS3Builder::with_config).with_bucket_name("none");
        let get = |key| builder.get_config_value(&key);
        let connector = checked(get, Some(endpoint.to_owned()), &mut Vec::new(), environment)?;
        // What was checked may be without TLS.
        let client = ask::client(&connector, &[], endpoint.starts_with("http:"))?;
        let unbuilt = |error: object_store::Error| unbuilt(&error, &settings.secrets);
        let built = builder.with_http_connector(connector).build().map_err(unbuilt)?;
        Ok((client, built.credentials().clone()))
    }

    /// An endpoint given as an option beats that of a variable for S3 alone, and keys are not mixed
    /// with another account's session token.
    fn replaces(option: AmazonS3ConfigKey, variable: AmazonS3ConfigKey) -> bool {
        use AmazonS3ConfigKey as K;
        match option {
            K::Endpoint => matches!(variable, K::Endpoint | K::S3Endpoint),
            K::AccessKeyId => matches!(variable, K::AccessKeyId | K::SecretAccessKey | K::Token),
            _ => option == variable,
        }
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
        if keys.into_iter().any(|key| get(key).is_some()) || is_true(get(K::SkipSignature).as_ref())
        {
            return Ok(());
        }
        let text = "no credentials: none are set, and AWS_EC2_METADATA_DISABLED forbids asking the metadata service";
        Err(Error::new(ErrorKind::Denied, text)
            .hint("Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or [repository.options]."))
    }

    /// That the token in the file `path` makes a header; one that cannot be read is told of when it is needed.
    fn check_token(path: &str) -> Result<()> {
        let token = std::fs::read(path).unwrap_or_default();
        if token.iter().all(|byte| matches!(byte, 0x20..=0x7e)) {
            return Ok(());
        }
        let text = "a character that no token has, such as a line break";
        Err(Error::usage(format!("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE: {path} holds {text}")))
    }

    /// `object_store` reads no profile, and goes on to ask the metadata service.
    fn unread_profile(options: &Options, environment: &Options) -> Option<String> {
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
}

#[cfg(feature = "gcs")]
mod gcs {
    use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
    use object_store::path::Path as ObjectPath;

    use super::common::{apply, check_client, client, connector, prefixed, retries, unbuilt};
    use super::{Error, Options, Result, Store};
    use crate::store::options;
    use crate::store::url::Cloud;

    /// Variables that `object_store` itself reads, as hosts of metadata services.
    const METADATA: [&str; 3] = ["GCE_METADATA_HOST", "GCE_METADATA_ROOT", "GCE_METADATA_IP"];

    pub(super) fn connect(
        bucket: &str,
        prefix: &ObjectPath,
        options: &Options,
        environment: &Options,
    ) -> Result<Store> {
        let (client, mut warnings) = (client(options)?, Vec::new());
        let metadata = metadata(environment)?;
        let settings = options::read(Cloud::Google, options, environment, |a, b| a == b)?;
        let builder =
            GoogleCloudStorageBuilder::new().with_client_options(client).with_retry(retries());
        let builder = apply(builder, &settings, GoogleCloudStorageBuilder::with_config)
            .with_bucket_name(bucket);
        let get = |key| builder.get_config_value(&key);
        let client = |key| get(GoogleConfigKey::Client(key));
        let endpoint = get(GoogleConfigKey::BaseUrl);
        check_client(&mut warnings, endpoint.clone(), client)?;
        let connector = connector(client, endpoint.as_deref(), &metadata, environment)?;
        let built = builder.with_http_connector(connector).build();
        Ok((prefixed(built.map_err(|e| unbuilt(&e, &settings.secrets))?, prefix, true), warnings))
    }

    /// The URLs of the metadata services that the environment names.
    fn metadata(environment: &Options) -> Result<Vec<String>> {
        let mut urls = Vec::new();
        for name in METADATA {
            let Some(value) = environment.get(name) else {
                continue;
            };
            let url = format!("http://{value}/");
            let uri = url.parse::<http::Uri>().ok();
            let authority = uri.as_ref().and_then(http::Uri::authority);
            let is_host = authority.is_some_and(|one| one.as_str() == value.as_str());
            if !is_host || value.is_empty() || value.contains('@') || url::Url::parse(&url).is_err()
            {
                return Err(Error::usage(format!("{name} is not a host or host:port")));
            }
            urls.push(url);
        }
        Ok(urls)
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::error::ErrorKind;

        #[test]
        fn hosts_of_metadata_services_are_hosts_or_refused_by_name() {
            for name in METADATA {
                let with = |value: &str| Options::from([(name.to_owned(), value.to_owned())]);
                for bad in ["bad host", "", "a/b", "a?b", "u@h", "http://h"] {
                    let (options, root) = (Options::new(), ObjectPath::default());
                    let found = connect("bucket", &root, &options, &with(bad));
                    let error = found.map(drop).unwrap_err();
                    assert_eq!(error.kind(), ErrorKind::Usage, "{bad}");
                    assert!(error.to_string().starts_with(name), "{error}");
                }
                for good in ["h", "h:80", "10.0.0.1:8080", "[::1]:80"] {
                    assert_eq!(metadata(&with(good)).unwrap(), [format!("http://{good}/")]);
                }
            }
            assert!(metadata(&Options::new()).unwrap().is_empty());
        }
    }
}

#[cfg(feature = "azure")]
mod azure {
    use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
    use object_store::path::Path as ObjectPath;

    use super::common::{apply, check_client, client, connector, prefixed, retries, unbuilt};
    use super::{Options, Result, Store};
    use crate::store::options;
    use crate::store::url::Cloud;

    pub(super) fn connect(
        container: &str,
        prefix: &ObjectPath,
        options: &Options,
        environment: &Options,
    ) -> Result<Store> {
        let (client, mut warnings) = (client(options)?, Vec::new());
        let settings = options::read(Cloud::Azure, options, environment, |a, b| a == b)?;
        let builder =
            MicrosoftAzureBuilder::new().with_client_options(client).with_retry(retries());
        let builder = apply(builder, &settings, MicrosoftAzureBuilder::with_config)
            .with_container_name(container);
        let get = |key| builder.get_config_value(&key);
        let client = |key| get(AzureConfigKey::Client(key));
        let endpoint = get(AzureConfigKey::Endpoint);
        check_client(&mut warnings, endpoint.clone(), client)?;
        let metadata: Vec<String> = get(AzureConfigKey::MsiEndpoint).into_iter().collect();
        let connector = connector(client, endpoint.as_deref(), &metadata, environment)?;
        let built = builder.with_http_connector(connector).build();
        Ok((prefixed(built.map_err(|e| unbuilt(&e, &settings.secrets))?, prefix, false), warnings))
    }
}

/// What all of them need.
#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod common {
    use std::sync::Arc;
    use std::time::Duration;

    use object_store::list::PaginatedListStore;
    use object_store::path::Path as ObjectPath;
    use object_store::prefix::PrefixStore;
    use object_store::{
        BackoffConfig, Certificate, ClientConfigKey, ClientOptions, ObjectStore, RetryConfig,
    };

    use super::{Error, Options, Result};
    use crate::store::http::Connector;
    use crate::store::listing::Listed;
    use crate::store::options::{CA_CERTIFICATE, Settings};
    use crate::store::proxy::Proxies;

    pub(super) fn prefixed(
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
    pub(super) fn retries() -> RetryConfig {
        RetryConfig {
            backoff: BackoffConfig::default(),
            max_retries: 10,
            retry_timeout: Duration::from_secs(120),
        }
    }

    pub(super) fn client(options: &Options) -> Result<ClientOptions> {
        let mut client = ClientOptions::new()
            .with_config(
                ClientConfigKey::UserAgent,
                concat!("strongroom/", env!("CARGO_PKG_VERSION")),
            )
            .with_connect_timeout(Duration::from_secs(10))
            .with_timeout(Duration::from_secs(120));
        if let Some(path) = options.get(CA_CERTIFICATE) {
            let pem =
                std::fs::read(path).map_err(|e| Error::io(path, e).context(CA_CERTIFICATE))?;
            let bundle = Certificate::from_pem_bundle(&pem).unwrap_or_default();
            if bundle.is_empty() {
                return Err(Error::usage(format!(
                    "{CA_CERTIFICATE}: {path} holds no PEM certificate"
                )));
            }
            client = bundle.into_iter().fold(client, ClientOptions::with_root_certificate);
        }
        Ok(client)
    }

    pub(super) fn apply<B, K: Copy>(
        builder: B,
        settings: &Settings<K>,
        with: impl Fn(B, K, String) -> B,
    ) -> B {
        settings
            .pairs
            .iter()
            .fold(builder, |builder, (key, value)| with(builder, *key, value.clone()))
    }

    /// What makes the HTTP clients: with the proxies in force, and the hosts of metadata services at `urls`, except
    /// that of the store's own `endpoint`.
    pub(super) fn connector(
        get: impl Fn(ClientConfigKey) -> Option<String>,
        endpoint: Option<&str>,
        urls: &[String],
        environment: &Options,
    ) -> Result<Connector> {
        let (proxy, excludes) =
            (get(ClientConfigKey::ProxyUrl), get(ClientConfigKey::ProxyExcludes));
        let proxies = Proxies::read(proxy.as_deref(), excludes.as_deref(), environment)?;
        let ours = endpoint.and_then(authority);
        let ours_in_short = endpoint.and_then(short_authority);
        let is_ours = |url: &str| {
            (ours.is_some() && authority(url) == ours)
                || (ours_in_short.is_some() && short_authority(url) == ours_in_short)
        };
        let metadata = urls.iter().filter(|url| !is_ours(url)).filter_map(|url| authority(url));
        Ok(Connector::new(proxies, metadata))
    }

    /// Host and port, as they are written.
    fn authority(url: &str) -> Option<String> {
        Some(url.parse::<http::Uri>().ok()?.authority()?.as_str().to_owned())
    }

    /// Host in small letters, and port unless it is the scheme's own.
    fn short_authority(url: &str) -> Option<(String, Option<u16>)> {
        let url = url::Url::parse(url).ok()?;
        Some((url.host_str()?.to_owned(), url.port()))
    }

    #[cfg(feature = "s3")]
    pub(super) fn is_true(value: Option<&String>) -> bool {
        value.is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    pub(super) fn check_client(
        warnings: &mut Vec<String>,
        endpoint: Option<String>,
        get: impl Fn(ClientConfigKey) -> Option<String>,
    ) -> Result<()> {
        let on = |key| {
            get(key).is_some_and(|value| {
                matches!(
                    value.to_ascii_lowercase().as_str(),
                    "true" | "1" | "yes" | "on" | "y" | "t"
                )
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

    /// A builder's complaint, which may quote a value.
    pub(super) fn unbuilt(error: &object_store::Error, secrets: &[String]) -> Error {
        let text =
            secrets.iter().fold(error.to_string(), |text, secret| text.replace(secret, "***"));
        Error::usage(format!("the repository's options do not work: {text}"))
    }

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_store_s_endpoint_is_no_metadata_service() {
            let urls = ["http://store:9000/".to_owned(), "http://other:1/".to_owned()];
            let hosts = |endpoint| {
                let made = connector(|_| None, endpoint, &urls, &Options::new()).unwrap();
                [made.metadata.contains("store:9000"), made.metadata.contains("other:1")]
            };
            assert_eq!(hosts(None), [true, true]);
            assert_eq!(hosts(Some("http://store:9000")), [false, true]);
            assert_eq!(hosts(Some("https://STORE:9000/x")), [false, true]);
        }
    }
}
