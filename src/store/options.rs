//! Which options a store takes. `object_store` drops unknown ones without a word; here they are refused.

use std::collections::BTreeMap;
use std::str::FromStr;

use crate::error::{Error, Result};
use crate::text::distance;

use super::gate;
use super::url::Cloud;

/// Path of a PEM file with certificate authorities to trust beside the system's: our own option.
pub(super) const CA_CERTIFICATE: &str = "ca_certificate";

/// Names worth proposing to who mistyped one; more are accepted (see `object_store`'s config keys).
const COMMON: &[&str] = &[
    CA_CERTIFICATE,
    "allow_http",
    "allow_invalid_certificates",
    "connect_timeout",
    "timeout",
    "proxy_url",
];
const S3: &[&str] = &[
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_region",
    "aws_endpoint",
    "aws_virtual_hosted_style_request",
    "aws_unsigned_payload",
    "aws_checksum_algorithm",
    "aws_web_identity_token_file",
    "aws_role_arn",
    "aws_role_session_name",
    "aws_endpoint_url_sts",
    "aws_server_side_encryption",
    "aws_sse_kms_key_id",
    "aws_sse_bucket_key_enabled",
    "aws_sse_customer_key_base64",
    "aws_metadata_endpoint",
    "aws_request_payer",
    "aws_skip_signature",
];
const GOOGLE: &[&str] = &[
    "google_service_account",
    "google_service_account_key",
    "google_application_credentials",
    "google_bearer_token",
    "google_base_url",
    "google_skip_signature",
];
const AZURE: &[&str] = &[
    "azure_storage_account_name",
    "azure_storage_account_key",
    "azure_storage_sas_key",
    "azure_storage_token",
    "azure_storage_endpoint",
    "azure_storage_use_emulator",
    "azure_client_id",
    "azure_client_secret",
    "azure_tenant_id",
    "azure_authority_host",
    "azure_federated_token_file",
    "azure_use_azure_cli",
    "azure_msi_endpoint",
    "azure_credential_type",
    "azure_storage_encryption_key",
];

/// A cloud's settings: those of the environment first, the options after, so that these win.
#[derive(Default)]
pub(super) struct Settings<K> {
    pub(super) pairs: Vec<(K, String)>,
    /// Values that must not appear in a message.
    pub(super) secrets: Vec<String>,
}

/// Reads the options and those variables that the cloud knows.
///
/// `replaces(option, variable)`: the option makes the variable void, though it is another key.
pub(super) fn read<K: FromStr + Copy>(
    cloud: Cloud,
    options: &BTreeMap<String, String>,
    environment: &BTreeMap<String, String>,
    replaces: fn(K, K) -> bool,
) -> Result<Settings<K>> {
    let mut own = Vec::new();
    for (name, value) in options.iter().filter(|(name, _)| *name != CA_CERTIFICATE) {
        let lower = name.to_ascii_lowercase();
        let key = lower.parse::<K>().map_err(|_| unknown(cloud, name))?;
        if BUCKETS.contains(&without_prefix(cloud, &lower)) {
            return Err(Error::usage(format!(
                "the option {name} names a bucket: the repository URL alone does that"
            )));
        }
        let value = gate::value(name, value)?;
        own.push((key, value.ok_or_else(|| Error::usage(format!("the option {name} is empty")))?));
    }
    let prefix = variables(cloud);
    let mut found = Vec::new();
    for (name, value) in environment {
        if !name.starts_with(prefix) && (cloud != Cloud::Azure || name != "IDENTITY_ENDPOINT") {
            continue;
        }
        let lower = name.to_ascii_lowercase();
        let Ok(key) = lower.parse::<K>() else { continue };
        // What other programs make of it is not this repository's bucket.
        let is_void = BUCKETS.contains(&without_prefix(cloud, &lower))
            || own.iter().any(|(option, _)| replaces(*option, key));
        if let Some(value) = gate::value(name, value)?.filter(|_| !is_void) {
            found.push((key, value));
        }
    }
    let secrets = options
        .iter()
        .chain(environment)
        .filter(|(name, value)| gate::is_secret(name) && value.len() > 3);
    Ok(Settings {
        secrets: secrets.map(|(_, value)| value.clone()).collect(),
        pairs: found.into_iter().chain(own).collect(),
    })
}

/// Options that name a bucket, without their cloud's prefix.
const BUCKETS: &[&str] = &["bucket", "bucket_name", "container_name"];

fn without_prefix(cloud: Cloud, lower: &str) -> &str {
    let prefix = variables(cloud);
    match lower.get(..prefix.len()) {
        Some(start) if start.eq_ignore_ascii_case(prefix) => {
            lower.get(prefix.len()..).unwrap_or_default()
        }
        _ => lower,
    }
}

const fn variables(cloud: Cloud) -> &'static str {
    match cloud {
        Cloud::S3 => "AWS_",
        Cloud::Google => "GOOGLE_",
        Cloud::Azure => "AZURE_",
    }
}

fn unknown(cloud: Cloud, name: &str) -> Error {
    let error = Error::usage(format!("unknown repository option \"{name}\""));
    match nearest(cloud, name) {
        Some(known) => error.hint(format!("Did you mean {known}?")),
        None => error.hint(format!("Known are {}.", names(cloud).collect::<Vec<_>>().join(", "))),
    }
}

fn names(cloud: Cloud) -> impl Iterator<Item = &'static str> {
    let own = match cloud {
        Cloud::S3 => S3,
        Cloud::Google => GOOGLE,
        Cloud::Azure => AZURE,
    };
    own.iter().chain(COMMON).copied()
}

/// The known name that is at most a third of its length away, with or without the cloud's prefix.
fn nearest(cloud: Cloud, name: &str) -> Option<&'static str> {
    let name = name.to_ascii_lowercase();
    let prefix = variables(cloud).to_ascii_lowercase();
    names(cloud)
        .map(|known| {
            let short = known.strip_prefix(&prefix).unwrap_or(known);
            (distance(&name, known).min(distance(&name, short)), known)
        })
        .filter(|(steps, known)| *steps <= known.len() / 3)
        .min()
        .map(|(_, known)| known)
}

#[cfg(all(test, feature = "s3", feature = "gcs", feature = "azure"))]
mod tests {
    use object_store::aws::AmazonS3ConfigKey;
    use object_store::azure::AzureConfigKey;
    use object_store::gcp::GoogleConfigKey;

    use super::*;

    #[test]
    fn every_name_proposed_is_accepted() {
        for name in names(Cloud::S3).filter(|name| *name != CA_CERTIFICATE) {
            name.parse::<AmazonS3ConfigKey>().unwrap();
        }
        for name in names(Cloud::Google).filter(|name| *name != CA_CERTIFICATE) {
            name.parse::<GoogleConfigKey>().unwrap();
        }
        for name in names(Cloud::Azure).filter(|name| *name != CA_CERTIFICATE) {
            name.parse::<AzureConfigKey>().unwrap();
        }
    }

    #[test]
    fn the_nearest_name_is_proposed() {
        assert_eq!(nearest(Cloud::S3, "aws_endpont"), Some("aws_endpoint"));
        assert_eq!(nearest(Cloud::S3, "regoin"), Some("aws_region"));
        assert_eq!(nearest(Cloud::Google, "ca_cert"), None);
        assert_eq!(nearest(Cloud::Azure, "ca-certificate"), Some("ca_certificate"));
    }
}
