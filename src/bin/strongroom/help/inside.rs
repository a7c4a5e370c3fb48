//! What `--help` says of the commands that look inside a snapshot.

pub(crate) const LS: &str = "\
List the keys in a snapshot.

In order, with the revision of the latest change, version, lease and the value's length: no values. --revision lists the \
keys at any revision that a snapshot holds or that was recorded after one, --time those that were there at a recorded time. \
Bytes that are not printable text are escaped.";
pub(crate) const LS_MORE: &str = "\
Examples:
  strongroom ls latest --prefix /registry/secrets/
  strongroom ls latest --prefix /registry/deployments/prod/ --revision 48210
  strongroom ls latest --time 2026-11-26T09:11:55Z --prefix /registry/secrets/shop/
  strongroom ls latest --before 2026-11-23T09:00:00Z --keys-only
  strongroom ls latest --deleted -w json

Keys are not in order in etcd's database, so this reads it, and the journals after it, up to the revision. With latest any \
snapshot that reaches the revision or time may be read; with an id, that one. If a revision is in two histories, because etcd was \
restored to an earlier one, the command ends with exit status 2 and names a snapshot of each.";

pub(crate) const GET: &str = "\
Show one key of a snapshot; its value only when asked for.

For a deleted key it shows when it was deleted, and which revision still has the value. With --show-value the value is \
written to standard output, byte for byte; with -w json in base64. Values that strongroom's \
proxy or library encrypted are decrypted with the value keyring inside the snapshot. No etcd is needed; give the keyring's \
master key as well as the snapshot's. Values of Kubernetes may be encrypted by its API server: those stay as they are.";
pub(crate) const GET_MORE: &str = "\
Examples:
  strongroom get latest /registry/configmaps/prod/settings
  strongroom get latest app/config --show-value > config
  strongroom get latest app/config --revision 48210 --show-value > config
  strongroom get latest app/config --time 2026-11-26T09:11:55Z --show-value > config
  strongroom get latest app/password --show-value -k file:/etc/strongroom/keyring -k file:/etc/strongroom/values-keyring

Searches backwards from the revision: a key that was changed late is found early. How much was fetched is printed.
Exit status 1 if there is no such key.";

pub(crate) const HISTORY: &str = "\
List every change of one key that a snapshot has, or that was recorded after it.

From the last compaction before the snapshot to its last revision; Kubernetes compacts every five minutes. With --revision or \
--time also what journals recorded up to then.";
pub(crate) const HISTORY_MORE: &str = "\
Examples:
  strongroom history latest /registry/deployments/prod/web
  strongroom history 01KB2 /registry/deployments/prod/web --time 10m
  strongroom get latest /registry/deployments/prod/web --revision 48210 --show-value";

pub(crate) const DIFF: &str = "\
Compare a snapshot or a recorded moment with another, or with the running etcd.

Each of the two is a snapshot's id, latest, rev:N (a revision that a snapshot holds or that was recorded after one) or time:T (a \
recorded time, such as time:2026-11-26T09:11:55Z or time:2h); the second may be live. Shows which keys were added, changed and removed from the first to the second, by their values: a key written again with the same value does not count as a difference. Values are never shown. live means the etcd of --endpoints, which is read page by page \
at one revision; the user must be allowed to read the keys.";
pub(crate) const DIFF_MORE: &str = "\
Examples:
  strongroom diff latest live --endpoints https://10.0.0.1:2379 \\
      --cacert ca.crt --cert client.crt --key client.key
  strongroom diff latest live --before 2026-11-23T09:00:00Z --prefix /registry/secrets/
  strongroom diff 01KB2 latest -w json
  strongroom diff time:2026-11-26T09:11:55Z live --prefix /registry/
  strongroom diff rev:88123 rev:88190

--before is for the first of the two. Exit status 0 if they are the same, 3 if they differ.";

pub(crate) const STATS: &str = "\
Show what takes the space in a snapshot, and what Kubernetes stored unencrypted.

Keys, bytes and changes by prefix, the largest values, free pages, leases; below Kubernetes' prefix by resource. Of \
values that Kubernetes' API server encrypted it names provider and key: a cluster restored without one of these keys cannot read \
them. UNENCRYPTED counts values that anyone with the database can read, UNENCRYPTED BEFORE those of earlier revisions.";
pub(crate) const STATS_MORE: &str = "\
Examples:
  strongroom stats latest
  strongroom stats latest --depth 2       # by resource and namespace
  strongroom stats latest --kubernetes-prefix /k8s/prod -w json";
