//! What a certificate says.

use std::net::IpAddr;

use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry::Oid;
use x509_parser::public_key::PublicKey;

use crate::text::clean;

/// Names of one certificate that are kept.
const MAX_NAMES: usize = 64;
/// Signatures with SHA-1 or MD5: RSA's two, ECDSA's, DSA's.
const OLD_HASHES: [&str; 4] =
    ["1.2.840.113549.1.1.5", "1.2.840.113549.1.1.4", "1.2.840.10045.4.1", "1.2.840.10040.4.3"];

/// A certificate, as far as the checks need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Certificate {
    pub(crate) subject: String,
    /// The common name of the subject, which etcd takes for a user.
    pub(crate) common_name: Option<String>,
    pub(crate) issuer: String,
    /// The issuer is the subject.
    pub(crate) self_issued: bool,
    /// The organization of the issuer, such as the `etcd` of `--auto-tls`.
    pub(crate) issuer_organization: Option<String>,
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
    /// Such as `RSA 2048`.
    pub(crate) key: String,
    pub(crate) weak_key: bool,
    pub(crate) old_hash: bool,
    pub(crate) is_ca: bool,
    pub(crate) dns_names: Vec<String>,
    pub(crate) addresses: Vec<IpAddr>,
    /// Made for servers; nothing if it does not say what for.
    pub(crate) for_servers: Option<bool>,
    /// SHA-256 of the public key, in hexadecimal digits.
    pub(crate) key_digest: String,
}

impl Certificate {
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(der: &[u8]) -> Result<Self, String> {
        let (_, parsed) = x509_parser::parse_x509_certificate(der)
            .map_err(|_| "a certificate cannot be parsed".to_owned())?;
        let (key, weak_key) = key_of(&parsed);
        let (dns_names, addresses) = names(&parsed);
        let purposes = parsed.extended_key_usage().ok().flatten();
        let organization =
            parsed.issuer().iter_organization().next().and_then(|one| one.as_str().ok());
        Ok(Self {
            subject: clean(&parsed.subject().to_string()),
            common_name: parsed
                .subject()
                .iter_common_name()
                .find(|name| !name.as_slice().is_empty())
                .map(|name| clean(&String::from_utf8_lossy(name.as_slice()))),
            issuer: clean(&parsed.issuer().to_string()),
            self_issued: parsed.subject() == parsed.issuer(),
            issuer_organization: organization.map(clean),
            not_before: parsed.validity().not_before.timestamp(),
            not_after: parsed.validity().not_after.timestamp(),
            key,
            weak_key,
            old_hash: OLD_HASHES
                .contains(&parsed.signature_algorithm.algorithm.to_id_string().as_str()),
            is_ca: parsed.is_ca(),
            dns_names,
            addresses,
            for_servers: purposes.map(|uses| uses.value.server_auth || uses.value.any),
            key_digest: data_encoding::HEXLOWER.encode(&Sha256::digest(parsed.public_key().raw)),
        })
    }

    /// The certificates of a PEM file.
    ///
    /// # Errors
    /// What is wrong with it; that there is none.
    pub(crate) fn of_pem(pem: &[u8]) -> Result<Vec<Self>, String> {
        let blocks = x509_parser::pem::Pem::iter_from_buffer(pem).take(MAX_NAMES);
        let blocks = blocks.collect::<Result<Vec<_>, _>>();
        let blocks = blocks.map_err(|_| "not a PEM file".to_owned())?;
        let certificates = blocks.iter().filter(|block| block.label == "CERTIFICATE");
        let parsed: Vec<_> =
            certificates.map(|block| Self::parse(&block.contents)).collect::<Result<_, _>>()?;
        if parsed.is_empty() { Err("no certificate in it".into()) } else { Ok(parsed) }
    }

    /// Whether it is for the server that is called `host`.
    pub(crate) fn names_host(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = host.parse::<IpAddr>() {
            return self.addresses.contains(&address);
        }
        self.dns_names.iter().any(|name| match name.strip_prefix("*.") {
            Some(parent) => {
                host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(parent))
            }
            None => name.eq_ignore_ascii_case(host),
        })
    }

    /// The subject, or the first name where it is empty.
    pub(crate) fn name(&self) -> String {
        match (self.subject.as_str(), self.dns_names.first(), self.addresses.first()) {
            ("", Some(name), _) => name.clone(),
            ("", None, Some(address)) => address.to_string(),
            ("", None, None) => "a certificate without a name".into(),
            (subject, ..) => subject.to_owned(),
        }
    }
}

fn key_of(parsed: &X509Certificate<'_>) -> (String, bool) {
    match parsed.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => {
            // A leading zero byte of the modulus is no bit of it.
            let bits = key.modulus.iter().skip_while(|byte| **byte == 0).count().saturating_mul(8);
            (format!("RSA {bits}"), bits < 2048)
        }
        Ok(PublicKey::EC(point)) => {
            // P-521 has 66 bytes a coordinate.
            let bits = point.key_size();
            (format!("EC {bits}"), bits < 256)
        }
        Ok(PublicKey::DSA(_)) => ("DSA".into(), true),
        _ => {
            let known: Option<&Oid<'_>> = Some(&parsed.public_key().algorithm.algorithm);
            let is_ed25519 = known.is_some_and(|oid| oid.to_id_string() == "1.3.101.112");
            (if is_ed25519 { "Ed25519" } else { "of an unknown kind" }.into(), false)
        }
    }
}

fn names(parsed: &X509Certificate<'_>) -> (Vec<String>, Vec<IpAddr>) {
    let (mut dns_names, mut addresses) = (Vec::new(), Vec::new());
    let all = parsed.subject_alternative_name().ok().flatten();
    for name in all.iter().flat_map(|all| &all.value.general_names).take(MAX_NAMES) {
        match name {
            GeneralName::DNSName(name) => dns_names.push(clean(name)),
            GeneralName::IPAddress(bytes) => {
                let four = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
                let address = four.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from));
                addresses.extend(address);
            }
            _ => {}
        }
    }
    (dns_names, addresses)
}
