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

#[cfg(feature = "s3")]
mod s3 {
    use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
    use object_store::path::Path as ObjectPath;

    use super::common::{apply, check_client, client, prefixed, refuse, retries, unbuilt};
    use super::{Options, Result, Store};
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
        refuse(&settings, &[AmazonS3ConfigKey::Bucket])?;
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
        check_client(&mut warnings, endpoint, |key| get(AmazonS3ConfigKey::Client(key)))?;
        let store = builder.build().map_err(|e| unbuilt(&e, &settings.secrets))?;
        Ok((prefixed(store, prefix), warnings))
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

    use super::common::{apply, check_client, client, prefixed, refuse, retries, unbuilt};
    use super::{Options, Result, Store};
    use crate::store::options;
    use crate::store::url::Cloud;

    pub(super) fn connect(
        bucket: &str,
        prefix: &ObjectPath,
        options: &Options,
        environment: &Options,
    ) -> Result<Store> {
        let (client, mut warnings) = (client(options)?, Vec::new());
        let settings = options::read(Cloud::Google, options, environment, |a, b| a == b)?;
        refuse(&settings, &[GoogleConfigKey::Bucket])?;
        let builder =
            GoogleCloudStorageBuilder::new().with_client_options(client).with_retry(retries());
        let builder = apply(builder, &settings, GoogleCloudStorageBuilder::with_config)
            .with_bucket_name(bucket);
        let get = |key| builder.get_config_value(&key);
        check_client(&mut warnings, get(GoogleConfigKey::BaseUrl), |key| {
            get(GoogleConfigKey::Client(key))
        })?;
        let store = builder.build().map_err(|e| unbuilt(&e, &settings.secrets))?;
        Ok((prefixed(store, prefix), warnings))
    }
}

#[cfg(feature = "azure")]
mod azure {
    use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
    use object_store::path::Path as ObjectPath;

    use super::common::{apply, check_client, client, prefixed, refuse, retries, unbuilt};
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
        refuse(&settings, &[AzureConfigKey::ContainerName])?;
        let builder =
            MicrosoftAzureBuilder::new().with_client_options(client).with_retry(retries());
        let builder = apply(builder, &settings, MicrosoftAzureBuilder::with_config)
            .with_container_name(container);
        let get = |key| builder.get_config_value(&key);
        check_client(&mut warnings, get(AzureConfigKey::Endpoint), |key| {
            get(AzureConfigKey::Client(key))
        })?;
        let store = builder.build().map_err(|e| unbuilt(&e, &settings.secrets))?;
        Ok((prefixed(store, prefix), warnings))
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
    use crate::store::listing::Tolerant;
    use crate::store::options::{CA_CERTIFICATE, Settings};

    pub(super) fn prefixed(
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

    /// The URL alone says which bucket.
    pub(super) fn refuse<K: PartialEq>(settings: &Settings<K>, keys: &[K]) -> Result<()> {
        if settings.pairs.iter().any(|(key, _)| keys.contains(key)) {
            return Err(Error::usage(
                "an option names a bucket: the repository URL alone does that",
            ));
        }
        Ok(())
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
}
