//! Help of `value` and `proxy`.

pub(crate) const VALUE: &str = "\
Encrypt single values of etcd.

The value keys lie in etcd itself, in one record under the reserved prefix that the master keys seal. Every program that \
encrypts follows that record: a rotation reaches all within a second.";
pub(crate) const VALUE_MORE: &str = "\
Examples:
  strongroom value init -k file:/etc/strongroom/keyring
  strongroom value status
  strongroom value rotate --older-than 90d
  strongroom value migrate --prefix /app/ --dry-run";

pub(crate) const VALUE_INIT: &str = "\
Make the value keyring in etcd, if there is none.

Nothing else makes one: a proxy without it does not start. Any number of programs may run this at once: one of them makes \
the keyring. Refused when etcd holds encrypted values and no keyring: a new one would not open \
them. --force makes one nevertheless, as for a second namespace under another --reserved-prefix.";
pub(crate) const VALUE_INIT_MORE: &str = "\
Examples:
  strongroom value init -k file:/etc/strongroom/keyring --endpoints https://10.0.0.1:2379

Back etcd up afterwards: the value keyring is part of its data, and without it no value opens. The record is one key: \
it takes one revision of etcd, so that a new etcd behind the proxy counts one more than one without, and each program \
that encrypts has one watcher on it.";

pub(crate) const VALUE_SEAL: &str = "\
Encrypt one value: standard input to standard output.

The value is bound to the etcd key that is given.";
pub(crate) const VALUE_SEAL_MORE: &str = "\
Examples:
  printf hunter2 | strongroom value seal /app/password | etcdctl put /app/password";

pub(crate) const VALUE_OPEN: &str = "\
Decrypt one value: standard input to standard output.

A value that was changed, or moved here from another key, is refused with exit status 13. etcdctl ends what it prints \
with a line break that is not part of the value: --write-out=json, or head, takes it off.

With --snapshot no etcd is needed: the keyring is the one inside the snapshot.";
pub(crate) const VALUE_OPEN_MORE: &str = "\
Examples:
  etcdctl get --print-value-only /app/password | head -c -1 | strongroom value open /app/password
  strongroom value open /app/password --snapshot latest < value

`strongroom get latest /app/password --show-value` opens a value of a snapshot by itself.";

pub(crate) const VALUE_STATUS: &str = "\
Tell which value keys there are, how many values are under each, how many are not encrypted, and what is under migration.

Reads all values under the prefix. USED counts what a key sealed as far as programs have reported it, each minute.";
pub(crate) const VALUE_STATUS_MORE: &str = "\
Examples:
  strongroom value status
  strongroom value status --prefix /app/ -w json";

pub(crate) const VALUE_ROTATE: &str = "\
Make a new value key, which seals from now on.

The key is first staged, so that every program has it before any seals by it. The key before it goes on opening what it \
sealed; `value migrate` encrypts those values again.";
pub(crate) const VALUE_ROTATE_MORE: &str = "\
Examples:
  strongroom value rotate
  strongroom value rotate --older-than 90d --used 4000000000";

pub(crate) const VALUE_MIGRATE: &str = "\
Bring stored values to encryption, to a new key, or back, phase by phase.

Programs behind the proxy and programs that still talk to etcd itself go on meanwhile. A phase is of all keys with the \
prefix; it is in the value keyring, so that every proxy follows within a second or refuses to write:

  admit       read both, write unencrypted
  encrypt     read both, write encrypted; stored values are encrypted
  done        read and write encrypted values only; refused while an unencrypted one is left
  admit-back  read both, write encrypted
  decrypt     read both, write unencrypted; stored values are decrypted
  off         read and write unencrypted values only; refused while an encrypted one is left

No phase can be skipped; back is possible from each. Keys under no migration are in phase done. Before it changes the \
phase, and before it converts values, this waits for the time of --settle: until then every proxy has followed.

Without --phase the values are brought to what their phase writes: after `value rotate`, to the new key.

Each value is written only if nobody changed it in between; leases stay. A conversion is a write: it takes a revision, \
and watches see it. It may be interrupted and run again.";
pub(crate) const VALUE_MIGRATE_MORE: &str = "\
Examples:
  strongroom value migrate --prefix /app/ --phase admit       # then move programs to the proxy, one by one
  strongroom value migrate --prefix /app/ --phase encrypt --rate 200
  strongroom value migrate --prefix /app/ --phase done
  strongroom value migrate --prefix /app/ --dry-run

While programs talk to etcd itself stay in admit: they cannot read encrypted values.
etcd keeps the values of before as old revisions until they are compacted, and in free pages until it is defragmented. \
Compact before done and before off: a read or a watch of an old revision would be refused. Older backups hold them too.
Exit status 3 if some values do not open; they are listed and left as they are.";

pub(crate) const VALUE_DISABLE: &str = "\
Take a value key out of use: what it sealed does not open until it is enabled again.";
pub(crate) const VALUE_DISABLE_MORE: &str = "\
Examples:
  strongroom value disable 1a2b3c4d";

pub(crate) const VALUE_ENABLE: &str = "\
Put a disabled value key back into use, for opening.";
pub(crate) const VALUE_ENABLE_MORE: &str = "\
Examples:
  strongroom value enable 1a2b3c4d";

pub(crate) const VALUE_DESTROY: &str = "\
Forget a disabled value key for ever: no value that it sealed opens again.

Refused while values under it are left.";
pub(crate) const VALUE_DESTROY_MORE: &str = "\
Examples:
  strongroom value destroy 1a2b3c4d";

pub(crate) const VALUE_KEYRING: &str = "\
Take the value keyring's record out of etcd, or put it back.

The record is sealed by the master keys: who has it and none of them opens nothing.";
pub(crate) const VALUE_KEYRING_MORE: &str = "\
Examples:
  strongroom value keyring export -o keyring.sealed
  strongroom value keyring import keyring.sealed -k file:/etc/strongroom/keyring";

pub(crate) const VALUE_EXPORT: &str = "\
Write the value keyring's record, sealed as etcd holds it. Needs no master key.

Each backup of etcd holds the record too. Export it again after each rotation: an older one does not open newer values.";
pub(crate) const VALUE_EXPORT_MORE: &str = "\
Examples:
  strongroom value keyring export -o keyring.sealed
  strongroom value keyring export > keyring.sealed";

pub(crate) const VALUE_IMPORT: &str = "\
Put an exported record into etcd, where it was deleted or damaged.

A master key must open it, and it must open an encrypted value if etcd holds any. A record in etcd that is newer, of \
another namespace, or that does not open is replaced only with --force. Programs that run take the record up within a \
second, unless it is older than the one they have: start them again then.";
pub(crate) const VALUE_IMPORT_MORE: &str = "\
Examples:
  strongroom value keyring import keyring.sealed -k file:/etc/strongroom/keyring";

pub(crate) const PROXY: &str = "\
Serve etcd's gRPC API, and encrypt the values on their way.

Programs talk to the proxy as to etcd; what etcd holds are values that only the master key opens. Keys, sizes and times \
stay visible. Clients log in with etcd's own users; a certificate that a client shows the proxy does not reach etcd.";
pub(crate) const PROXY_MORE: &str = "\
Examples:
  strongroom proxy -k file:/etc/strongroom/keyring --endpoints http://127.0.0.1:2379
  strongroom proxy --listen 0.0.0.0:2479 --listen-cert proxy.crt --listen-key proxy.key \\
      --listen-trusted-ca ca.crt --endpoints https://10.0.0.1:2379 --cacert ca.crt --cert client.crt --key client.key
  strongroom proxy --audit-log /var/log/strongroom/audit.log --metrics-listen 127.0.0.1:9480
  strongroom proxy --include /app/ --exclude /app/public/

etcd that holds unencrypted values already: `strongroom value migrate --prefix … --phase admit` first, or they are refused.
It needs the keyring that `strongroom value init` makes. Started before etcd it waits: it does not listen until it has the \
keyring, and /readyz says why. Whenever the keyring in etcd is not the one it has (it was deleted, or etcd did not confirm \
it for 8 seconds), it refuses writes of encrypted values as UNAVAILABLE and goes on reading.
Differences from etcd: keys under the reserved prefix do not exist for clients; the largest value is 48 bytes shorter; \
/v3 (JSON) is not served. Certificates are read again when their files change. SIGTERM ends it once the calls under \
way are done, after five seconds at most.";

pub(crate) const AUDIT: &str = "\
Verify and search a proxy's audit log.

`proxy --audit-log` writes a line of JSON for each request: time, client, user, peer, method, keys, revision, outcome and \
duration, never a value. Each line is chained to the one before; checkpoints carry a MAC whose key the master keys seal.";
pub(crate) const AUDIT_MORE: &str = "\
Examples:
  strongroom audit-log verify /var/log/strongroom/audit.log -k file:/etc/strongroom/keyring
  strongroom audit-log query /var/log/strongroom/audit.log --touched /app/password";

pub(crate) const AUDIT_VERIFY: &str = "\
Prove that a proxy's audit log was not changed.

Reads all files of the log and checks every line against the one before it, and every checkpoint's MAC. Keep the number \
and the chain value that it prints elsewhere: a later log that does not continue them was cut.";
pub(crate) const AUDIT_VERIFY_MORE: &str = "\
Examples:
  strongroom audit-log verify audit.log -k file:/etc/strongroom/keyring
  strongroom audit-log verify audit.log -w json

Exit status: 0 whole; 3 something to look at, such as a crash or a log in use; 12 no key opens it; 13 it was changed.";

pub(crate) const AUDIT_QUERY: &str = "\
Tell who touched which key, and when.

Needs no key. Prints the requests that match all that is asked for, oldest first. A request for a range counts for each \
key in it.";
pub(crate) const AUDIT_QUERY_MORE: &str = "\
Examples:
  strongroom audit-log query audit.log --touched /app/password --since 2026-11-23T09:00:00Z
  strongroom audit-log query audit.log --prefix /app/ --method Put -w json
  strongroom audit-log query audit.log --outcome PERMISSION_DENIED";
