//! What most commands and services need: a repository, master keys, etcd.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{TrustSettings, credentials};
use crate::backup::{CopySettings, LONGEST_BACKUP, open_replica};
use crate::custody::{
    self, InRepository, KmsRole, MasterKeyUri, MasterKeyUris, NamedKey, PassphraseSettings,
};
use crate::error::{Error, Result};
use crate::etcd::EtcdSettings;
use crate::format::{ClusterName, KeyId, KeyState, Uuid};
use crate::keys::{KeySet, unsigned_refused, would_not_count};
use crate::secret::SecretBytes;
use crate::store::{
    Connected, Repository, RepositorySettings, RepositoryUrl, connect_with, create_directory,
    sweep_staged,
};
use crate::task::run_blocking;

/// What most commands and services need: a repository, master keys, etcd.
#[derive(Default)]
#[cfg_attr(feature = "cli", derive(clap::Args))]
pub struct CommonSettings {
    #[cfg_attr(feature = "cli", command(flatten))]
    /// The repository.
    pub repository: RepositorySettings,
    /// File with the store's secrets, in lines such as AWS_ACCESS_KEY_ID=…; variables that are set win
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "credentials_file",
            long = "credentials-file",
            value_name = "FILE",
            env = "STRONGROOM_CREDENTIALS_FILE"
        )
    )]
    pub credentials_file: Option<PathBuf>,
    /// Your name for the etcd cluster [default for backups: default]
    #[cfg_attr(
        feature = "cli",
        arg(id = "cluster", long, value_name = "NAME", env = "STRONGROOM_CLUSTER")
    )]
    pub cluster: Option<ClusterName>,
    /// Master key: file:PATH, passphrase:KEYID, recipient:age1…, identity:FILE, or a key that a service keeps (kmsv2:, transit:, pkcs11:, aws-kms:); several (repeated, or separated by commas or line breaks) all seal, any one opens
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "master_keys",
            short = 'k',
            long = "master-key",
            value_name = "URI",
            env = "STRONGROOM_MASTER_KEY"
        )
    )]
    pub master_keys: Vec<MasterKeyUris>,
    /// Id of the recovery key that snapshots are sealed to elsewhere, by key reseal: backups do not warn then that
    /// only one key seals them
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "keys.recovery",
            long = "recovery-key",
            value_name = "KEYID",
            env = "STRONGROOM_RECOVERY_KEY"
        )
    )]
    pub recovery: Option<KeyId>,
    /// Id of a master key without which nothing is backed up; repeat for several. Otherwise a snapshot is stored without the
    /// keys of services that are down, with a warning
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "keys.require",
            long = "require-key",
            value_name = "KEYID",
            env = "STRONGROOM_REQUIRE_KEY",
            value_delimiter = ','
        )
    )]
    pub require: Vec<KeyId>,
    /// The least number of master keys that must seal a snapshot
    #[cfg_attr(
        feature = "cli",
        arg(
            id = "keys.min_sealers",
            long = "min-sealers",
            value_name = "NUMBER",
            env = "STRONGROOM_MIN_SEALERS",
            default_value_t = 1
        )
    )]
    pub min_sealers: usize,
    #[cfg_attr(feature = "cli", command(flatten))]
    /// Where the passphrase comes from, if a master key needs one.
    pub passphrase: PassphraseSettings,
    #[cfg_attr(feature = "cli", command(flatten))]
    /// What signs, and whom to trust.
    pub trust: TrustSettings,
    #[cfg_attr(feature = "cli", command(flatten))]
    /// etcd's connection.
    pub etcd: EtcdSettings,
}

/// An opened repository.
pub struct Opened {
    /// The repository.
    pub repository: Repository,
    /// Where it is.
    pub url: RepositoryUrl,
    /// Its directory, if it is in one.
    pub directory: Option<PathBuf>,
    /// Sentences for a person about its settings.
    pub warnings: Vec<String>,
}

impl Opened {
    /// Removes what killed backups were still writing: in a directory nobody else does.
    ///
    /// # Errors
    /// Those of [`sweep_staged`].
    pub async fn sweep(&self) -> Result<()> {
        match self.directory.clone() {
            Some(directory) => {
                run_blocking(move || sweep_staged(&directory, LONGEST_BACKUP)).await.map(drop)
            }
            None => Ok(()),
        }
    }
}

impl CommonSettings {
    /// The repository's URL.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when none is set.
    pub fn repository_url(&self) -> Result<&RepositoryUrl> {
        self.repository.url.as_ref().ok_or_else(|| {
            Error::usage("no repository given")
                .hint("give one with --repository, STRONGROOM_REPOSITORY or the configuration file")
        })
    }

    /// Gives the store at `url`, with the credentials of the environment and of the file.
    ///
    /// # Errors
    /// Those of [`connect_with`] and of reading the file.
    pub fn connect(
        &self,
        url: &RepositoryUrl,
        options: &BTreeMap<String, String>,
    ) -> Result<Connected> {
        if url.directory().is_some() {
            return connect_with(url, options, &BTreeMap::new());
        }
        let environment = self.environment()?;
        connect_with(url, options, &environment)
    }

    /// Opens the repository.
    ///
    /// # Errors
    /// Those of [`repository_url`](Self::repository_url), [`connect`](Self::connect) and [`Repository::open`].
    pub async fn open_repository(&self) -> Result<Opened> {
        self.open_at(self.repository_url()?, &self.repository.options, self.repository.id).await
    }

    /// Opens the second repository as it is, to look at it.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when `copy` names none; those of [`connect`](Self::connect) and
    /// [`Repository::open`].
    pub async fn open_copy(&self, copy: &CopySettings, source: &Repository) -> Result<Opened> {
        let url = copy.url.as_ref().ok_or_else(|| {
            Error::usage("no second repository is named (--to URL, or url in [copy])")
        })?;
        let options = copy.options.as_ref().unwrap_or(&self.repository.options);
        self.open_at(url, options, Some(source.id())).await
    }

    async fn open_at(
        &self,
        url: &RepositoryUrl,
        options: &BTreeMap<String, String>,
        id: Option<Uuid>,
    ) -> Result<Opened> {
        let url = url.clone();
        let named = |error: Error| error.context(format!("repository {url}"));
        let connected = self.connect(&url, options).map_err(named)?;
        let opened = Repository::open(connected.store, id).await;
        let (directory, warnings) = (connected.directory, connected.warnings);
        // What may be why it does not open.
        let opened = opened.map_err(|error| {
            let hints = error.hint_text().into_iter().chain(warnings.iter().map(String::as_str));
            let hints = hints.collect::<Vec<_>>().join(" ");
            named(if hints.is_empty() { error } else { error.hint(hints) })
        });
        Ok(Opened { repository: opened?, directory, warnings, url })
    }

    /// Opens the repository that snapshots of `source` are copied to, and makes it if there is none.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when `copy` names none; those of [`connect`](Self::connect) and
    /// [`open_replica`].
    pub async fn open_replica(
        &self,
        copy: &CopySettings,
        source: &Repository,
        trust_store: bool,
    ) -> Result<Opened> {
        let url = copy.url.clone();
        let url = url.ok_or_else(|| {
            Error::usage("no repository to copy to").hint("give one with --to URL")
        })?;
        create_directory(&url)?;
        let options = copy.options.as_ref().unwrap_or(&self.repository.options);
        let connected = self.connect(&url, options)?;
        let named = |error: Error| error.context(format!("repository {url}"));
        let opened = open_replica(source, connected.store, trust_store).await;
        let (directory, warnings) = (connected.directory, connected.warnings);
        Ok(Opened { repository: opened.map_err(named)?.0, directory, warnings, url })
    }

    /// Opens the master keys; `ask` gives a passphrase that is needed and comes from neither file nor command.
    ///
    /// # Errors
    /// Those of [`custody::open`], of the passphrase's source and of `ask`.
    pub async fn open_keys(
        &self,
        repository: &Repository,
        ask: impl FnOnce() -> Result<SecretBytes> + Send,
    ) -> Result<KeySet> {
        let uris: Vec<_> = self.master_keys().cloned().collect();
        let word = || match self.passphrase.read()? {
            Some(word) => Ok(word),
            None => ask(),
        };
        let environment = self.environment_of_services()?;
        let mut place = InRepository::new(repository, word);
        let mut keys = custody::open_in(&environment, &uris, Some(&mut place)).await?;
        keys.require(self.require.clone(), self.min_sealers);
        self.trust.add_to(&mut keys)?;
        Ok(keys)
    }

    /// As [`open_keys`](Self::open_keys), without the keys that a person would be asked for.
    ///
    /// # Errors
    /// Those of [`custody::open`].
    pub async fn open_keys_unasked(&self, repository: &Repository) -> Result<KeySet> {
        let asks = |uri: &MasterKeyUri| {
            matches!(uri, MasterKeyUri::Passphrase(_))
                || matches!(uri, MasterKeyUri::Identity(path, _) if path.as_os_str() == "-")
        };
        let uris: Vec<_> = self.master_keys().filter(|uri| !asks(uri)).cloned().collect();
        let never = || Err(Error::usage("a passphrase is not asked for here"));
        let environment = self.environment_of_services()?;
        let mut place = InRepository::new(repository, never);
        let mut keys = custody::open_in(&environment, &uris, Some(&mut place)).await?;
        self.trust.add_to(&mut keys)?;
        Ok(keys)
    }

    /// That what is sealed shows who made it: by a signature, or by a key that only its owner has. `unsigned` insists.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage).
    pub fn check_signing(&self, unsigned: bool) -> Result<()> {
        let only_public =
            self.master_keys().next().is_some() && self.master_keys().all(MasterKeyUri::is_public);
        match unsigned || self.trust.signing_key.is_some() {
            true => Ok(()),
            false if only_public => Err(unsigned_refused()),
            false if !self.trust.signers.is_empty() => Err(would_not_count()),
            false => Ok(()),
        }
    }

    /// Whether only public keys are named, or none: nothing opens here.
    pub fn is_blind(&self) -> bool {
        let opens_nothing = |uri: &MasterKeyUri| match uri {
            MasterKeyUri::Kms(uri) => uri.role() == KmsRole::SealOnly,
            other => is_recipient(other),
        };
        self.master_keys().all(opens_nothing)
    }

    /// Whether public keys are named whose identities are not here.
    #[must_use]
    pub fn has_recipients(&self) -> bool {
        self.master_keys().any(is_recipient)
    }

    /// Whether public keys seal and nothing is signed: what only they open does not count where they are.
    #[must_use]
    pub fn has_unsigned_recipients(&self) -> bool {
        self.trust.signing_key.is_none() && self.master_keys().any(MasterKeyUri::is_public)
    }

    /// The master keys that are named.
    pub fn master_keys(&self) -> impl Iterator<Item = &MasterKeyUri> {
        self.master_keys.iter().flat_map(|uris| &uris.0)
    }

    /// That there is a master key, or a signer to decide by.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when none is named.
    pub fn check_keys(&self) -> Result<()> {
        let signed = !self.trust.signers.is_empty() || self.trust.signing_key.is_some();
        match self.master_keys().next() {
            Some(_) => Ok(()),
            None if signed => Ok(()),
            None => Err(Error::usage("no master key given")
                .hint("give one with --master-key file:PATH or --master-key passphrase:KEYID")),
        }
    }

    /// The variables of this process and, for those that are not set, the lines of the file with the store's secrets.
    ///
    /// # Errors
    /// Those of reading the file.
    pub fn environment(&self) -> Result<BTreeMap<String, String>> {
        credentials::environment(self.credentials_file.as_deref())
    }

    /// [`environment`](Self::environment) if a service keeps a master key; otherwise nothing is read.
    fn environment_of_services(&self) -> Result<BTreeMap<String, String>> {
        match self.master_keys().any(|uri| matches!(uri, MasterKeyUri::Kms(_))) {
            true => self.environment(),
            false => Ok(BTreeMap::new()),
        }
    }

    /// That the file with the store's secrets can be read, if there is one.
    ///
    /// # Errors
    /// Those of reading it.
    pub fn check_credentials(&self) -> Result<()> {
        self.environment().map(drop)
    }

    /// The keyring files among the master keys.
    pub fn keyring_paths(&self) -> impl Iterator<Item = &Path> {
        self.master_keys().filter_map(|key| match key {
            MasterKeyUri::File(path) => Some(path.as_path()),
            _ => None,
        })
    }

    /// The one keyring file among the master keys, for commands that change it.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when there is none, or more than one.
    pub fn keyring_path(&self) -> Result<&Path> {
        let mut files = self.keyring_paths();
        match (files.next(), files.next()) {
            (Some(path), None) => Ok(path),
            _ => Err(Error::usage("exactly one keyring file is needed here")
                .hint("give it with --master-key file:PATH")),
        }
    }

    /// The passphrase keys among the master keys; `None` is one without a name.
    pub fn passphrases(&self) -> impl Iterator<Item = Option<NamedKey>> {
        self.master_keys().filter_map(|key| match key {
            MasterKeyUri::Passphrase(named) => Some(*named),
            _ => None,
        })
    }

    /// etcd's settings with the user's password, read from its file.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when a user has no password or its name holds one; those of
    /// [`custody::read_secret`].
    pub fn etcd(&self) -> Result<EtcdSettings> {
        open_etcd(&self.etcd)
    }
}

fn is_recipient(uri: &MasterKeyUri) -> bool {
    use MasterKeyUri::{Plugin, Recipient, Recipients};
    matches!(uri, Recipient(_) | Plugin(_) | Recipients(_))
}

/// What the operator should know about keys that are being replaced.
#[must_use]
pub fn retiring(keys: &KeySet) -> Vec<String> {
    let tell = |id| {
        format!(
            "master key {id} is being retired: `strongroom key rotate --finish` ends the rotation"
        )
    };
    keys.in_state(KeyState::Retiring).map(tell).collect()
}

/// etcd's settings with the user's password, read from its file.
///
/// # Errors
/// As [`CommonSettings::etcd`].
pub fn open_etcd(settings: &EtcdSettings) -> Result<EtcdSettings> {
    check_user(settings)?;
    let mut opened = settings.duplicate();
    if let Some(path) = &settings.password_file {
        opened.password = Some(custody::read_secret(path)?);
    }
    if let (Some(user), None) = (&opened.user, &opened.password) {
        return Err(Error::usage(format!("no password for etcd user {user}"))
            .hint("give --password-file FILE or ETCDCTL_PASSWORD"));
    }
    Ok(opened)
}

/// A name with a colon is a name with a password, as etcdctl takes it.
///
/// # Errors
/// [`Usage`](crate::ErrorKind::Usage); it does not repeat the name.
pub fn check_user(settings: &EtcdSettings) -> Result<()> {
    if settings.user.as_ref().is_some_and(|user| user.contains(':')) {
        return Err(Error::usage(
            "give the user without a password: every process on this host can read the command line",
        )
        .hint("give --user NAME and --password-file FILE, or ETCDCTL_USER and ETCDCTL_PASSWORD"));
    }
    Ok(())
}
