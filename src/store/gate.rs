//! The one way in for values of the environment and of options: below it, a value that makes no URL or no header would be
//! a panic.

use url::Url;

use crate::error::{Error, Result};

/// Whole files as values.
const FILES: &[&str] = &["service_account_key", "proxy_ca_certificate"];
/// Parts of host names.
const HOST_PARTS: &[&str] = &["region", "account_name", "tenant_id", "authority_id"];
/// Values that are URLs, by how their names end.
const URLS: &[&str] = &[
    "endpoint",
    "endpoint_url",
    "_s3",
    "_sts",
    "_kms",
    "base_url",
    "full_uri",
    "authority_host",
    "service_url",
];
/// Paths of local files, which may hold any letters.
const PATHS: &[&str] =
    &["_file", "application_credentials", "service_account", "service_account_path"];

/// The value of `name` as it is used; `None`, if it is as good as not set.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage), which names `name` and repeats no secret.
pub(super) fn value(name: &str, text: &str) -> Result<Option<String>> {
    let lower = name.to_ascii_lowercase();
    let is = |ends: &[&str]| ends.iter().any(|end| lower.ends_with(end));
    // Secrets come from files, and files end in a line break.
    let text = if is_secret(&lower) { without_line_break(text) } else { text };
    if text.is_empty() {
        return Ok(None);
    }
    if is(FILES) {
        return Ok(Some(text.to_owned()));
    }
    if text.chars().any(char::is_control) {
        return Err(Error::usage(format!(
            "{name} holds a control character, such as a line break"
        ))
        .hint("Set it again without."));
    }
    if !is(PATHS) && !text.is_ascii() {
        return Err(Error::usage(format!("{name} holds a character that is not ASCII")));
    }
    if is(URLS) && !lower.contains("use_") {
        url(name, text)?;
    }
    if is(HOST_PARTS) && !text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b)) {
        return Err(Error::usage(format!("{name} holds a character that no such name has")));
    }
    if is(&["relative_uri"])
        && (!text.starts_with('/') || format!("http://h{text}").parse::<http::Uri>().is_err())
    {
        return Err(Error::usage(format!("{name} is not an absolute path without blanks")));
    }
    Ok(Some(text.to_owned()))
}

pub(super) fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    ["key", "secret", "token", "password", "sas", "proxy"].iter().any(|part| name.contains(part))
}

fn without_line_break(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

fn url(name: &str, text: &str) -> Result<()> {
    let form = || {
        Error::usage(format!("{name} is not a URL of the form https://host or https://host:port"))
    };
    let parsed = Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
    let Some(url) = parsed.filter(|_| !text.contains(' ') && text.parse::<http::Uri>().is_ok())
    else {
        let bare = |c: char| c.is_ascii_alphanumeric() || ".-_:[]/".contains(c);
        let guess = format!("https://{text}");
        return Err(match Url::parse(&guess) {
            Ok(_) if !text.contains("://") && text.chars().all(bare) => form()
                .hint(format!("Write {guess}, or http:// where nobody can listen in between.")),
            _ => form(),
        });
    };
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Error::usage(format!("{name} holds a user or password"))
            .hint("Set keys and tokens as options or variables of their own."));
    }
    if url.host_str().unwrap_or_default().is_empty()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err(form());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_absolute_or_refused_by_name() {
        for name in [
            "AWS_ENDPOINT_URL",
            "aws_endpoint",
            "AWS_ENDPOINT_URL_S3",
            "AWS_METADATA_ENDPOINT",
            "GOOGLE_BASE_URL",
            "AZURE_STORAGE_ENDPOINT",
            "IDENTITY_ENDPOINT",
            "AZURE_AUTHORITY_HOST",
            "AWS_ENDPOINT_URL_STS",
            "AWS_ENDPOINT_URL_KMS",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
        ] {
            for text in [
                "minio.example:9000",
                "127.0.0.1:9000",
                "http://127.0.0.1:9 ",
                "http://127.0.0.1:9\n",
                "http://",
                "http://127.0.0.1:99999",
                "\"http://127.0.0.1:9\"",
                "ftp://h",
                "https://h?x=y",
                "https://h/#x",
                "https://u:hunter2@h",
                "https://h\u{e9}",
            ] {
                let error = value(name, text).unwrap_err();
                assert_eq!(error.kind().exit_code(), 2, "{name}={text}");
                assert!(error.to_string().contains(name), "{name}={text}: {error}");
                assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
            }
            assert_eq!(value(name, "").unwrap(), None);
            for text in ["https://h", "http://127.0.0.1:9000/", "http://[::1]:9/x"] {
                assert_eq!(value(name, text).unwrap().as_deref(), Some(text));
            }
        }
        let error = value("AWS_ENDPOINT_URL", "minio.example:9000").unwrap_err();
        assert!(error.hint_text().unwrap().contains("https://minio.example:9000"), "{error:?}");
    }

    #[test]
    fn a_secret_loses_one_line_break_and_holds_no_other() {
        for (text, kept) in [
            ("ab", Some("ab")),
            ("ab\n", Some("ab")),
            ("ab\r\n", Some("ab")),
            ("\n", None),
            ("", None),
        ] {
            assert_eq!(value("AWS_SECRET_ACCESS_KEY", text).unwrap().as_deref(), kept);
        }
        for text in ["ab\n\n", "a\nb", "a\u{0}b", "a\u{e9}b"] {
            let error = value("AWS_SECRET_ACCESS_KEY", text).unwrap_err();
            assert!(error.to_string().contains("AWS_SECRET_ACCESS_KEY"), "{error}");
        }
        value("google_service_account_key", "{\n\"a\": 1\n}\n").unwrap();
        value("AWS_WEB_IDENTITY_TOKEN_FILE", "/run/\u{e9}").unwrap();
        assert!(value("AWS_REGION", "eu west").is_err());
        assert!(value("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "x y").is_err());
    }
}
