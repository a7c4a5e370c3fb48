//! Where a repository is.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use object_store::path::Path as ObjectPath;
use url::Url;

use crate::error::{Error, Result};

/// Where a repository is: a path, `file:///…`, `s3://bucket/prefix`, `gs://…` or `az://container/prefix`.
///
/// Holds no credentials: a URL with a user, password, query or fragment is refused, and the
/// refusal does not repeat it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RepositoryUrl(Place);

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    Directory(PathBuf),
    Bucket { cloud: Cloud, bucket: String, prefix: ObjectPath },
}

/// Whose object storage it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cloud {
    S3,
    Google,
    Azure,
}

impl Cloud {
    pub(super) const fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gs",
            Self::Azure => "az",
        }
    }

    /// The feature that it is built in with.
    #[cfg(not(all(feature = "s3", feature = "gcs", feature = "azure")))]
    pub(super) const fn feature(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Google => "gcs",
            Self::Azure => "azure",
        }
    }

    fn of_scheme(scheme: &str) -> Option<Self> {
        [Self::S3, Self::Google, Self::Azure].into_iter().find(|cloud| cloud.scheme() == scheme)
    }
}

const FORMS: &str = "a repository is a path, file:///…, s3://bucket/prefix, gs://bucket/prefix \
                     or az://container/prefix";

impl RepositoryUrl {
    /// The directory, if the repository is a local one.
    pub fn directory(&self) -> Option<&Path> {
        match &self.0 {
            Place::Directory(path) => Some(path),
            Place::Bucket { .. } => None,
        }
    }

    pub(super) fn place(&self) -> &Place {
        &self.0
    }

    fn bucket(cloud: Cloud, url: &Url, text: &str) -> Result<Self> {
        let form = format!("{}://bucket/prefix", cloud.scheme());
        let bucket = url.host_str().unwrap_or_default();
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '$');
        if bucket.is_empty() || !bucket.chars().all(plain) || url.port().is_some() {
            return Err(Error::usage(format!("the repository URL names no bucket: use {form}"))
                .hint("An endpoint goes into the options, such as aws_endpoint."));
        }
        let odd = |part: &str| {
            let part = part.to_ascii_lowercase().replace("%2e", ".");
            part == "." || part == ".."
        };
        if text.split(['?', '#']).next().unwrap_or_default().split('/').any(odd) {
            return Err(Error::usage(format!(
                "the prefix in the repository URL holds . or ..: use {form}"
            )));
        }
        let prefix = ObjectPath::from_url_path(url.path().trim_matches('/')).map_err(|_| {
            Error::usage(format!("the prefix in the repository URL is malformed: use {form}"))
        })?;
        Ok(Self(Place::Bucket { cloud, bucket: bucket.to_owned(), prefix }))
    }
}

impl FromStr for RepositoryUrl {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        // A URL is parsed without them: it would name another place than the one that was written.
        if text.contains(char::is_control) {
            return Err(Error::usage(
                "the repository URL holds a control character, such as a line break",
            ));
        }
        let Some((scheme, _)) = text.split_once(':').filter(|(scheme, rest)| {
            rest.starts_with("//") || *scheme == "file" || Cloud::of_scheme(scheme).is_some()
        }) else {
            if text.is_empty() {
                return Err(Error::usage("the repository URL is empty").hint(FORMS));
            }
            return Ok(Self(Place::Directory(PathBuf::from(text))));
        };
        let url = Url::parse(text).map_err(|e| {
            Error::usage(format!("the repository URL cannot be read: {e}")).hint(FORMS)
        })?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Error::usage(
                "the repository URL holds a user or password: do not put secrets there",
            )
            .hint(
                "Use the cloud's variables (AWS_*, GOOGLE_*, AZURE_*) or [repository.options].",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(Error::usage("the repository URL holds a query or fragment").hint(format!(
                "Options and tokens go into the cloud's variables or [repository.options]; {FORMS}."
            )));
        }
        match (Cloud::of_scheme(url.scheme()), scheme) {
            (Some(cloud), _) => Self::bucket(cloud, &url, text),
            (None, "file") => match url.to_file_path() {
                Ok(path) => Ok(Self(Place::Directory(path))),
                Err(()) => Err(Error::usage("a file URL is file:///absolute/path, on this host")),
            },
            (None, other) => {
                Err(Error::usage(format!("\"{other}://\" cannot hold a repository")).hint(FORMS))
            }
        }
    }
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Place::Directory(path) => path.display().fmt(f),
            Place::Bucket { cloud, bucket, prefix } => {
                write!(f, "{}://{bucket}", cloud.scheme())?;
                if prefix.is_root() { Ok(()) } else { write!(f, "/{prefix}") }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        text.parse::<RepositoryUrl>().unwrap().to_string()
    }

    #[test]
    fn forms_are_read_and_shown() {
        assert_eq!(shown("backups/etcd"), "backups/etcd");
        assert_eq!(shown("a:b"), "a:b");
        assert_eq!(shown("file:///var/my%20backups"), "/var/my backups");
        assert_eq!(shown("s3://bucket"), "s3://bucket");
        assert_eq!(shown("s3://bucket/"), "s3://bucket");
        assert_eq!(shown("gs://b_1/a/b/"), "gs://b_1/a/b");
        assert_eq!(shown("az://container/p"), "az://container/p");
    }

    #[test]
    fn what_is_no_repository_is_refused() {
        for text in [
            "",
            "s3:bucket",
            "s3://",
            "s3:https://host/bucket",
            "s3://b:9000/x",
            "http://host/x",
            "file://host/x",
            "gcs://bucket",
            "s3://b%2Fc/x",
            "s3://b/a//b",
            "s3://a/../b",
            "s3://a/./b",
            "s3://a/b/%2E%2e/c",
            "s3://a/b/.\n./.\n./c",
            "s3://a/b\tc",
            "s3://a/b\n",
            "/mnt/usb\n",
        ] {
            assert_eq!(text.parse::<RepositoryUrl>().unwrap_err().kind().exit_code(), 2, "{text}");
        }
    }

    #[test]
    fn secrets_are_refused_and_not_repeated() {
        for text in [
            "s3://id:hunter2@bucket/x",
            "az://hunter2@c/x",
            "az://c/x?sig=hunter2",
            "gs://b#hunter2",
        ] {
            let error = text.parse::<RepositoryUrl>().unwrap_err();
            assert!(!format!("{error}{error:?}").contains("hunter2"), "{error}");
        }
    }
}
