//! What this program was built from.

/// The features that a build may have or not, with whether this one has them.
const FEATURES: &[(&str, bool)] = &[
    ("s3", cfg!(feature = "s3")),
    ("gcs", cfg!(feature = "gcs")),
    ("azure", cfg!(feature = "azure")),
    ("vault", cfg!(feature = "vault")),
    ("pkcs11", cfg!(feature = "pkcs11")),
    ("aws-kms", cfg!(feature = "aws-kms")),
    ("age-plugins", cfg!(feature = "age-plugins")),
];

/// The version, the commit where scripts/package or the Dockerfile has named it, and the features.
pub(crate) fn version() -> String {
    let commit = option_env!("STRONGROOM_COMMIT").filter(|commit| !commit.is_empty());
    let features: Vec<_> = FEATURES.iter().filter(|(_, has)| *has).map(|(name, _)| *name).collect();
    format!(
        "{} (commit {}; features: {})",
        env!("CARGO_PKG_VERSION"),
        commit.unwrap_or("unknown"),
        if features.is_empty() { "none".into() } else { features.join(" ") }
    )
}
