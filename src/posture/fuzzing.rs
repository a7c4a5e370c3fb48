//! One function for each parser of what servers, hosts and files say: takes any bytes, must not panic. For fuzz targets and
//! tests.

use super::advisories::Advisories;
use super::facts::certificate::Certificate;
use super::facts::disk::mount_of;
use super::facts::filter::Filter;
use super::facts::hello;
use super::facts::kube::Encryption;
use super::facts::refused::Refused;
use super::facts::settings::Settings;

/// Takes any bytes.
pub type Parser = fn(&[u8]);

/// All of them, by name.
pub const ALL: &[(&str, Parser)] = &[
    ("server_hello", server_hello),
    ("certificate", certificate),
    ("metrics", metrics),
    ("packet_filter", packet_filter),
    ("settings", settings),
    ("encryption", encryption),
    ("mounts", mounts),
    ("advisories", advisories),
];

/// The first answer of a server to our ClientHello.
pub fn server_hello(data: &[u8]) {
    let _ = hello::parse(data);
}

/// A server's certificate, or a PEM file.
pub fn certificate(data: &[u8]) {
    let _ = Certificate::parse(data);
    let _ = Certificate::of_pem(data);
}

/// The metrics of a server, or the detail of a report.
pub fn metrics(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = Refused::of_metrics(&text);
    let _ = Refused::of_report(&text);
}

/// What nft prints.
pub fn packet_filter(data: &[u8]) {
    let _ = Filter::parse(data);
}

/// A configuration file of etcd, or the words of its command line.
pub fn settings(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = Settings::of_file(&text);
    let words: Vec<_> = text.split('\0').map(str::to_owned).collect();
    let _ = Settings::of_process(&words, Ok(Vec::new())).is_on("auto-tls");
}

/// An EncryptionConfiguration of Kubernetes.
pub fn encryption(data: &[u8]) {
    let _ = Encryption::parse(data, 0);
}

/// A process's mountinfo.
pub fn mounts(data: &[u8]) {
    let _ = mount_of(&String::from_utf8_lossy(data), "/data");
}

/// A table of known vulnerabilities.
pub fn advisories(data: &[u8]) {
    let _ = Advisories::parse(&String::from_utf8_lossy(data));
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_bytes_are_no_panic(data in prop::collection::vec(any::<u8>(), 0..400), text in "[ -~\\n]{0,200}") {
            for (_, parser) in ALL {
                parser(&data);
                parser(text.as_bytes());
            }
        }
    }
}
