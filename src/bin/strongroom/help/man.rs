//! What the manual pages say beside the help.

pub(crate) const MAN: &str = "\
Write the manual pages into a directory, or the main one to standard output.

The directory must exist. Its subdirectories man1 and man5 are created: a page for each command, and strongroom.toml(5).";
pub(crate) const MAN_MORE: &str = "\
Examples:
  strongroom man | man -l -
  strongroom man /usr/local/share/man";

/// As in the guide, operations.md.
pub(crate) const EXIT_STATUS: &[(&str, &str)] = &[
    ("0", "done"),
    ("1", "any other failure"),
    ("2", "wrong usage or settings"),
    (
        "3",
        "done, with findings, such as: members or clocks that differ, a diff, a failed drill, a key that could not seal, an object that the store refused to delete, a journal that a restore could not use, a result that could not be printed",
    ),
    ("4", "etcd or the store cannot be reached; try again"),
    ("10", "no repository at this place"),
    ("12", "no available master key opens it; the message names the keys that would"),
    ("13", "integrity: changed, truncated or corrupt"),
    ("70", "internal error, a fault of this program: please report the line that it prints"),
    ("130", "interrupted; nothing half-written is visible"),
];

/// What no flag has.
pub(crate) const ENVIRONMENT: &[(&str, &str)] = &[
    (
        "ETCDCTL_*",
        "etcd's connection, as etcdctl reads it, where neither flags nor the configuration file say it",
    ),
    (
        "AWS_*, GOOGLE_*, AZURE_*",
        "credentials and options of the store; they win over the credentials file",
    ),
    ("HTTPS_PROXY, HTTP_PROXY, ALL_PROXY, NO_PROXY", "the proxy on the way to the store"),
    (
        "TMPDIR",
        "where verify --deep stores the database, encrypted under a key that is never written",
    ),
];

/// The first one is for every command.
pub(crate) const FILES: &[(&str, &str)] = &[
    ("/etc/strongroom/strongroom.toml", "the settings of all commands, see strongroom.toml(5)"),
    (
        "/etc/strongroom/keyring",
        "the master keys of the host, where the settings name it; mode 600",
    ),
    (
        "/etc/strongroom/store.env",
        "the credentials of the store, where the settings name it; mode 600",
    ),
    ("/etc/strongroom-kms/keyring", "the keys of the KMS plugin"),
    (
        "/var/lib/strongroom/spool",
        "journals that the store has not taken yet, where the settings name it",
    ),
];

pub(crate) const SETTINGS_FILE: &str = "\
The settings of every command, in TOML. Flags win over STRONGROOM_* variables, variables over this file. An unknown setting is an error.
`strongroom config check` shows each setting and where it comes from, and lists everything that is wrong.
Below is every setting with its help. Settings that are commented out show their default, or a word for a value that has none.";
