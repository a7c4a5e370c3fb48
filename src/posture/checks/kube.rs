//! What the API server of Kubernetes does with etcd.

use super::super::fact::{Evidence, Judgement, Severity, Verdict};
use super::super::facts::Facts;
use super::super::facts::kube::{Kubernetes, Provider};

/// REST-4
pub(crate) fn encryption(kube: &Kubernetes, _: &Facts) -> Judgement {
    let file = kube.encryption.need()?;
    let said = |what: &str| file.saw(what);
    Ok(match file.of_secrets().map(|providers| providers.first()) {
        None => Verdict::fail(said("no group of resources covers secrets")),
        Some(None) => Verdict::fail(said("secrets have no provider")),
        Some(Some(Provider::Identity)) => Verdict::fail(said(
            "identity is the first provider of secrets: they are written unencrypted",
        )),
        Some(Some(Provider::Local(name))) if file.is_loose => Verdict::fail(said(&format!(
            "the key of {name} is in the file, and others may read it (mode {:04o})",
            file.mode & 0o7777
        ))),
        Some(Some(Provider::Local(name))) => Verdict::fail_as(
            Severity::High,
            said(&format!("{name}: the key is in a file on the disk of the API server")),
        ),
        Some(Some(Provider::Kms1)) => {
            Verdict::fail_as(Severity::Medium, said("kms v1, which Kubernetes has deprecated"))
        }
        Some(Some(Provider::Kms2)) => {
            Verdict::Pass(said("kms v2 is the first provider of secrets"))
        }
        Some(Some(Provider::Other)) => Verdict::fail_as(
            Severity::High,
            said("the first provider of secrets is not a known one"),
        ),
    })
}

/// TLS-11
pub(crate) fn to_etcd(kube: &Kubernetes, _: &Facts) -> Judgement {
    let settings = kube.apiserver.need()?;
    let mut found: Vec<Evidence> = Vec::new();
    let servers = settings.value("etcd-servers")?.unwrap_or_default();
    if servers.is_empty() || servers.split(',').any(|url| !url.starts_with("https://")) {
        found.push(settings.saw(settings.said("etcd-servers")));
    }
    // GROUP/RESOURCE#SERVER;SERVER,…
    let overrides = settings.value("etcd-servers-overrides")?.unwrap_or_default();
    let of_resource = |one: &str| {
        let servers = one.split_once('#').map(|(_, servers)| servers);
        servers.is_some_and(|all| all.split(';').all(|url| url.starts_with("https://")))
    };
    if !overrides.is_empty() && !overrides.split(',').all(of_resource) {
        found.push(settings.saw(settings.said("etcd-servers-overrides")));
    }
    for name in ["etcd-cafile", "etcd-certfile", "etcd-keyfile"] {
        if settings.value(name)?.is_none() {
            found.push(settings.saw(settings.said(name)));
        }
    }
    Ok(Verdict::none_of(found, settings.saw(settings.said("etcd-servers"))))
}
