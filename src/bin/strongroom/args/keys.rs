//! `key …`

use std::path::PathBuf;

use clap::{Args, Subcommand};
use strongroom::format::KeyId;

use super::moment::{appointed, moment};
use crate::help;

/// `key …`
#[derive(Subcommand)]
pub(crate) enum KeyCommand {
    /// Create a keyring file with one new master key, a key pair or a signing key
    #[command(long_about = help::KEY_GENERATE, after_long_help = help::KEY_GENERATE_MORE)]
    Generate(GenerateArgs),
    /// List the master keys, and count the snapshots that only one key opens
    #[command(long_about = help::KEY_LIST, after_long_help = help::KEY_LIST_MORE)]
    List,
    /// Show that each key opens the newest snapshots by itself, and record it
    #[command(long_about = help::KEY_PROVE, after_long_help = help::KEY_PROVE_MORE)]
    Prove,
    /// Report who can open the snapshots: what each key depends on, and when it was last tested
    #[command(long_about = help::KEY_CUSTODY, after_long_help = help::KEY_CUSTODY_MORE)]
    Custody,
    /// Replace the sealing key with a new one, and seal the snapshots to it
    #[command(long_about = help::KEY_ROTATE, after_long_help = help::KEY_ROTATE_MORE)]
    Rotate(RotateKeyArgs),
    /// Make a staged key of the keyring the primary one, at once or at a time
    #[command(long_about = help::KEY_PROMOTE, after_long_help = help::KEY_PROMOTE_MORE)]
    Promote {
        /// The staged key's id, as key list prints it
        key_id: KeyId,
        /// When it becomes primary, such as 2026-11-23T09:00:00Z or 2026-11-23 (UTC) [default: now]
        #[arg(long, value_name = "TIME", value_parser = appointed)]
        at: Option<jiff::Timestamp>,
    },
    /// Seal snapshots' data keys to the present master keys; payloads stay as they are
    #[command(long_about = help::KEY_RESEAL, after_long_help = help::KEY_RESEAL_MORE)]
    Reseal(ResealArgs),
    /// Write snapshots again under new data keys, so that a key that was stolen does not open them
    #[command(long_about = help::KEY_REENCRYPT, after_long_help = help::KEY_REENCRYPT_MORE)]
    Reencrypt(ReencryptArgs),
    /// Sign what counts with the signing key, so that it counts wherever that signer is trusted
    #[command(long_about = help::KEY_VOUCH, after_long_help = help::KEY_VOUCH_MORE)]
    Vouch(VouchArgs),
    /// Destroy a key of the keyring, or a passphrase key; refused while a snapshot opens only with it
    #[command(long_about = help::KEY_REMOVE, after_long_help = help::KEY_REMOVE_MORE)]
    Remove {
        /// The key's id, as key list prints it
        key_id: KeyId,
        /// No backup is running: do not wait a day after a rotation, or for a folder that a backup may still be writing
        #[arg(long)]
        now: bool,
    },
    /// Print a key as shares on paper: as many as --threshold bring it back
    #[command(long_about = help::KEY_SPLIT, after_long_help = help::KEY_SPLIT_MORE)]
    Split(SplitArgs),
    /// Print a page with what a restore needs
    #[command(long_about = help::KEY_KIT, after_long_help = help::KEY_KIT_MORE)]
    Kit,
    /// Bring a key back from its shares
    #[command(long_about = help::KEY_COMBINE, after_long_help = help::KEY_COMBINE_MORE)]
    Combine {
        /// Files with shares, as key split prints them [default: standard input; on a terminal it asks for each share]
        files: Vec<PathBuf>,
        /// Keyring or identity file to write; an existing file is not overwritten
        #[arg(short, long, value_name = "FILE")]
        output: PathBuf,
        /// Refuse another key than this one: the id on the pages
        #[arg(long, value_name = "KEYID")]
        expect: Option<KeyId>,
    },
    /// Change the passphrase that opens the repository's master key
    #[command(long_about = help::KEY_PASSPHRASE, after_long_help = help::KEY_PASSPHRASE_MORE)]
    Passphrase {
        /// Which key, if the old passphrase opens several
        key_id: Option<KeyId>,
    },
}

/// `key rotate`
#[derive(Args)]
pub(crate) struct RotateKeyArgs {
    /// End the rotation: seal what still needs the old key to the new one, then retire the old key
    #[arg(long, conflicts_with_all = ["offline", "compromised"])]
    pub(crate) finish: bool,
    /// Change the key only; seal the snapshots later, with key reseal --all
    #[arg(long, conflicts_with = "compromised")]
    pub(crate) offline: bool,
    /// Only add a new key that opens and does not seal; key promote makes it the primary one
    #[arg(long, conflicts_with_all = ["finish", "offline", "compromised"])]
    pub(crate) staged: bool,
    /// The keyring was stolen at TIME, such as 2026-11-23T09:00:00Z, yesterday or 2h (ago): retire its keys now, and
    /// trust only what is older
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub(crate) compromised: Option<jiff::Timestamp>,
    /// Confirm that the snapshots may be sealed to this public key, which not all of their seals name yet
    #[arg(long, value_name = "KEYID")]
    pub(crate) expect: Vec<KeyId>,
}

/// `key split`
#[derive(Args)]
pub(crate) struct SplitArgs {
    /// How many shares to print
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(2..=16))]
    pub(crate) shares: u8,
    /// How many of them bring the key back
    #[arg(long, value_name = "T", value_parser = clap::value_parser!(u8).range(2..=16))]
    pub(crate) threshold: u8,
    /// Split this key [default: the primary one of the keyring, the only one of the identity file]
    #[arg(long, value_name = "KEYID")]
    pub(crate) key_id: Option<KeyId>,
    /// Also print to a terminal
    #[arg(long)]
    pub(crate) force: bool,
}

/// `key generate`
#[derive(Args)]
pub(crate) struct GenerateArgs {
    /// File to write; an existing file is not overwritten
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: PathBuf,
    /// Create a key pair: hosts seal to the recipient, which is printed, and only the file opens
    #[arg(long, conflicts_with = "signing")]
    pub(crate) recipient: bool,
    /// Create a key that signs what a host writes; its public half, which is printed, verifies
    #[arg(long)]
    pub(crate) signing: bool,
    /// Use X25519 instead of X-Wing: shorter, and broken by a quantum computer
    #[arg(long, requires = "recipient")]
    pub(crate) x25519: bool,
}

/// Which snapshots a key is about.
#[derive(Args)]
pub(crate) struct Chosen {
    /// Snapshots: ids, or latest
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    pub(crate) ids: Vec<String>,
    /// Every snapshot of the repository that counts
    #[arg(long)]
    pub(crate) all: bool,
}

/// What an operator says of keys that are not available here.
#[derive(Args)]
pub(crate) struct Recipients {
    /// Leave out this key, although it is not available
    #[arg(long, value_name = "KEYID")]
    pub(crate) drop: Vec<KeyId>,
    /// Confirm that the snapshots may be sealed to this public key, which not all of their seals name yet
    #[arg(long, value_name = "KEYID")]
    pub(crate) expect: Vec<KeyId>,
}

/// `key vouch`
#[derive(Args)]
pub(crate) struct VouchArgs {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    /// Sign what --signer signed only if both its id and the store say that it is older than TIME
    #[arg(long, value_name = "TIME", requires = "signer", value_parser = moment)]
    pub(crate) before: Option<jiff::Timestamp>,
    /// The signer whose signatures are to be replaced, which is treated as revoked
    #[arg(long, value_name = "KEYID", requires = "before")]
    pub(crate) signer: Option<KeyId>,
    /// Also sign snapshots that are not trusted. Only after you have looked at each of them
    #[arg(long, conflicts_with_all = ["all", "before"])]
    pub(crate) accept_untrusted: bool,
}

/// `key reencrypt`
#[derive(Args)]
pub(crate) struct ReencryptArgs {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    #[command(flatten)]
    pub(crate) recipients: Recipients,
    /// Do not remove the old snapshots
    #[arg(long)]
    pub(crate) keep_old: bool,
}

/// `key reseal`
#[derive(Args)]
pub(crate) struct ResealArgs {
    #[command(flatten)]
    pub(crate) chosen: Chosen,
    #[command(flatten)]
    pub(crate) recipients: Recipients,
    /// Also seal snapshots that are not trusted: from then on they count. Only after you have looked at each of them
    #[arg(long, conflicts_with = "all")]
    pub(crate) accept_untrusted: bool,
}
