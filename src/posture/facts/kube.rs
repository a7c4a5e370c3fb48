//! The settings of Kubernetes' API server: its static pod, and its encryption of resources.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde::Deserialize;
use serde::de::IgnoredAny;
use zeroize::Zeroizing;

use super::super::fact::Fact;
use super::file::read;
use super::settings::Settings;
use crate::datadir::command_line;

/// Which files to read.
#[derive(Clone, Debug, Default)]
pub struct KubernetesOptions {
    /// The static pod of the API server.
    pub apiserver: Option<PathBuf>,
    /// Its `EncryptionConfiguration`.
    pub encryption: Option<PathBuf>,
}

/// What was read of Kubernetes.
pub(crate) struct Kubernetes {
    pub(crate) apiserver: Fact<Settings>,
    pub(crate) encryption: Fact<Encryption>,
}

/// An `EncryptionConfiguration`, without its keys.
#[derive(Clone, Debug)]
pub(crate) struct Encryption {
    /// For each group of resources, the providers in order.
    pub(crate) groups: Vec<(Vec<String>, Vec<Provider>)>,
    /// Others may read the file.
    pub(crate) is_loose: bool,
    pub(crate) mode: u32,
}

/// How resources are encrypted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Provider {
    /// Not at all.
    Identity,
    /// With a key in the file.
    Local(&'static str),
    Kms1,
    Kms2,
    Other,
}

#[derive(Deserialize)]
struct File {
    kind: String,
    resources: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    resources: Vec<String>,
    providers: Vec<Named>,
}

/// Keys are skipped while the file is parsed.
#[derive(Deserialize)]
struct Named {
    identity: Option<IgnoredAny>,
    aescbc: Option<IgnoredAny>,
    aesgcm: Option<IgnoredAny>,
    secretbox: Option<IgnoredAny>,
    kms: Option<Kms>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Kms {
    api_version: Option<String>,
}

impl Named {
    fn provider(&self) -> Provider {
        let local = [
            ("aescbc", self.aescbc.is_some()),
            ("aesgcm", self.aesgcm.is_some()),
            ("secretbox", self.secretbox.is_some()),
        ];
        match (&self.kms, local.iter().find(|(_, is_set)| *is_set)) {
            _ if self.identity.is_some() => Provider::Identity,
            (_, Some((name, _))) => Provider::Local(name),
            (Some(kms), _) if kms.api_version.as_deref() == Some("v2") => Provider::Kms2,
            (Some(_), _) => Provider::Kms1,
            (None, None) => Provider::Other,
        }
    }
}

impl Kubernetes {
    pub(crate) fn read(options: &KubernetesOptions) -> Self {
        let apiserver = options.apiserver.as_ref().map(|path| {
            let words = read(path).and_then(|bytes| {
                let yaml = String::from_utf8_lossy(&bytes).into_owned();
                command_line(&yaml, "kube-apiserver").map_err(|error| error.to_string())
            });
            let settings = words.map(|words| Settings::of_process(&words, Ok(Vec::new())));
            Fact::read(settings, path.display().to_string())
        });
        let encryption = options.encryption.as_ref().map(|path| {
            let text = read(path).map(Zeroizing::new);
            let mode = fs::metadata(path).map_err(|error| error.to_string());
            let parsed = text.and_then(|text| Encryption::parse(&text, mode?.mode()));
            Fact::read(parsed, path.display().to_string())
        });
        Self {
            apiserver: apiserver.unwrap_or_else(|| Fact::unknown("needs --apiserver-manifest")),
            encryption: encryption.unwrap_or_else(|| Fact::unknown("needs --encryption-config")),
        }
    }
}

impl Encryption {
    pub(crate) fn parse(yaml: &[u8], mode: u32) -> Result<Self, String> {
        let text = std::str::from_utf8(yaml).map_err(|_| "it is not UTF-8".to_owned())?;
        // What the parser says may hold a part of the file, which has keys.
        let file: File = serde_saphyr::from_str(text)
            .map_err(|_| "it is not an EncryptionConfiguration in YAML".to_owned())?;
        if file.kind != "EncryptionConfiguration" {
            return Err("it is not an EncryptionConfiguration".into());
        }
        let group = |group: &Group| {
            (group.resources.clone(), group.providers.iter().map(Named::provider).collect())
        };
        let groups = file.resources.iter().map(group).collect();
        Ok(Self { groups, is_loose: mode & 0o077 != 0, mode })
    }

    /// The providers for Secrets: those of the first group that covers them.
    pub(crate) fn of_secrets(&self) -> Option<&[Provider]> {
        let covers = |resources: &[String]| {
            resources
                .iter()
                .any(|one| matches!(one.as_str(), "secrets" | "secrets." | "*." | "*.*"))
        };
        let found = self.groups.iter().find(|(resources, _)| covers(resources));
        found.map(|(_, providers)| providers.as_slice())
    }
}
