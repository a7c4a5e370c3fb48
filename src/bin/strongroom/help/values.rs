//! Help of `value`, `proxy` and `audit-log`.

pub(crate) const VALUE: &str = "\
Encrypt single values of etcd.

The value keys are in etcd itself, in one record under the reserved prefix: the value keyring, sealed by the master \
keys. Every program that encrypts follows that record, so a rotation reaches all of them within a second.";
pub(crate) const VALUE_MORE: &str = "\
Examples:
  strongroom value init -k file:/etc/strongroom/values-keyring
  strongroom value status
  strongroom value rotate --older-than 90d
  strongroom value migrate --prefix /app/ --dry-run";

pub(crate) const VALUE_INIT: &str = "\
Create the value keyring in etcd, if there is none.

Run it once, before the first proxy: nothing else creates a keyring. It is safe to run it again, or several times at \
once: all use the same keyring. It refuses when etcd holds encrypted values but no keyring, as a new keyring would \
not open them; --force creates one even then, for a second namespace under another --reserved-prefix.";
pub(crate) const VALUE_INIT_MORE: &str = "\
Examples:
  strongroom value init -k file:/etc/strongroom/values-keyring --endpoints https://10.0.0.1:2379

Back up the keyring afterwards, with a backup of etcd or with `strongroom value keyring export`: without it no value \
opens. The keyring takes one key and one revision of etcd, so revisions of a new etcd are one higher than without \
strongroom. Each program that encrypts has one watcher on it, and reads it every 3 seconds.";

pub(crate) const VALUE_SEAL: &str = "\
Encrypt one value: standard input to standard output.

The value is bound to the etcd key that is given.";
pub(crate) const VALUE_SEAL_MORE: &str = "\
Examples:
  printf hunter2 | strongroom value seal /app/password | etcdctl put /app/password";

pub(crate) const VALUE_OPEN: &str = "\
Decrypt one value: standard input to standard output.

A value that was changed, or moved here from another key, is refused with exit status 13. etcdctl adds a line break \
to a value that it prints: use --write-out=json, or remove the line break with head.

With --snapshot no etcd is needed: the value keyring inside the snapshot is used.";
pub(crate) const VALUE_OPEN_MORE: &str = "\
Examples:
  etcdctl get --print-value-only /app/password | head -c -1 | strongroom value open /app/password
  strongroom value open /app/password --snapshot latest < value

To read a value of a snapshot use `strongroom get latest /app/password --show-value`.";

pub(crate) const VALUE_STATUS: &str = "\
Show the value keys, how many values are encrypted under each, how many values are not encrypted, and the phase of \
each prefix under migration.

Reads all values with the prefix. USED counts how many values a key has encrypted; programs report it every minute.";
pub(crate) const VALUE_STATUS_MORE: &str = "\
Examples:
  strongroom value status
  strongroom value status --prefix /app/ -w json";

pub(crate) const VALUE_ROTATE: &str = "\
Create a new value key, which encrypts from now on.

The key is first staged for the time of --settle, so that every program has it before one encrypts with it. The \
previous key still opens what it encrypted; `value migrate` encrypts those values with the new key.";
pub(crate) const VALUE_ROTATE_MORE: &str = "\
Examples:
  strongroom value rotate
  strongroom value rotate --older-than 90d --used 4000000000";

pub(crate) const VALUE_MIGRATE: &str = "\
Encrypt stored values, encrypt them with a new key, or decrypt them, phase by phase.

Programs behind the proxy and programs that still use etcd directly continue to work. A phase applies to \
all keys with the prefix. It is stored in the value keyring: every proxy follows within a second, or refuses writes.

  admit       read both, write unencrypted
  encrypt     read both, write encrypted; encrypts stored values
  done        read and write encrypted values only; refused while there are unencrypted values
  admit-back  read both, write encrypted
  decrypt     read both, write unencrypted; decrypts stored values
  off         read and write unencrypted values only; refused while there are encrypted values

No phase can be skipped; each can be taken back. Keys without a phase are in done. The command waits for the time of \
--settle before it changes the phase, and again before it converts values: by then every proxy has followed.

Without --phase, values are converted to what their phase writes. After `value rotate` they are encrypted with the \
new key.

A value is converted only if no other client changed it in between; leases stay. Each conversion is a write: it takes a \
revision, and watches see it. The command can be interrupted and run again.";
pub(crate) const VALUE_MIGRATE_MORE: &str = "\
Examples:
  strongroom value migrate --prefix /app/ --phase admit       # then move programs to the proxy, one by one
  strongroom value migrate --prefix /app/ --phase encrypt --rate 200
  strongroom value migrate --prefix /app/ --phase done
  strongroom value migrate --prefix /app/ --dry-run

Stay in admit while programs use etcd directly: they cannot read encrypted values.
etcd keeps the previous values as old revisions until it is compacted, and in free pages until it is defragmented. \
Compact before done and before off: after that, reads and watches of those revisions are refused. Older backups hold \
the previous values too.
Exit status 3 if some values do not open; they are listed and stay as they are.";

pub(crate) const VALUE_DISABLE: &str = "\
Disable a value key: values that it encrypted do not open until it is enabled again.

The primary key cannot be disabled: run `strongroom value rotate` first.";
pub(crate) const VALUE_DISABLE_MORE: &str = "\
Examples:
  strongroom value disable 1a2b3c4d";

pub(crate) const VALUE_ENABLE: &str = "\
Enable a disabled value key: values that it encrypted open again. It encrypts no new values.";
pub(crate) const VALUE_ENABLE_MORE: &str = "\
Examples:
  strongroom value enable 1a2b3c4d";

pub(crate) const VALUE_DESTROY: &str = "\
Delete a disabled value key permanently: values that it encrypted never open again.

Refused while etcd holds values under it. Values in older backups are not counted.";
pub(crate) const VALUE_DESTROY_MORE: &str = "\
Examples:
  strongroom value destroy 1a2b3c4d";

pub(crate) const VALUE_KEYRING: &str = "\
Export the value keyring from etcd, or import it.

The exported keyring is sealed by the master keys and is useless without one of them.";
pub(crate) const VALUE_KEYRING_MORE: &str = "\
Examples:
  strongroom value keyring export -o keyring.sealed
  strongroom value keyring import keyring.sealed -k file:/etc/strongroom/values-keyring";

pub(crate) const VALUE_EXPORT: &str = "\
Write the value keyring to a file, sealed as in etcd. Needs no master key.

Backups of etcd hold the keyring too. Export it again after each rotation: an older keyring does not open newer \
values. A file that exists is not overwritten.";
pub(crate) const VALUE_EXPORT_MORE: &str = "\
Examples:
  strongroom value keyring export -o keyring.sealed
  strongroom value keyring export > keyring.sealed";

pub(crate) const VALUE_IMPORT: &str = "\
Put an exported value keyring into etcd, where it was deleted or damaged.

A master key must open the keyring, and the keyring must open an encrypted value if etcd holds any. A keyring in \
etcd that is newer, belongs to another namespace or does not open is replaced only with --force. Running programs \
follow the imported keyring within a second. If it is older than the one they have, they refuse writes: restart \
them.";
pub(crate) const VALUE_IMPORT_MORE: &str = "\
Examples:
  strongroom value keyring import keyring.sealed -k file:/etc/strongroom/values-keyring";

pub(crate) const PROXY: &str = "\
Serve etcd's gRPC API, and encrypt values on the way to etcd.

Programs use the proxy as they would use etcd; etcd holds values that only the master key opens. Keys, sizes and \
times stay visible. Users log in by name, as to etcd; a client's certificate is checked by the proxy and does not \
reach etcd.

Run `strongroom value init` once before the first start.";
pub(crate) const PROXY_MORE: &str = "\
Examples:
  strongroom proxy -k file:/etc/strongroom/values-keyring --endpoints http://127.0.0.1:2379
  strongroom proxy --listen 0.0.0.0:2479 --listen-cert proxy.crt --listen-key proxy.key \\
      --listen-trusted-ca ca.crt --endpoints https://10.0.0.1:2379 \\
      --cacert ca.crt --cert client.crt --key client.key
  strongroom proxy --audit-log /var/log/strongroom/audit.log --metrics-listen 127.0.0.1:9480
  strongroom proxy --include /app/ --exclude /app/public/

If etcd already holds unencrypted values, run `strongroom value migrate --prefix … --phase admit` first: the proxy \
refuses to read them otherwise.
Without a value keyring the proxy does not start. Started before etcd, it waits: it listens once it has the keyring, \
and /readyz says why it is not ready. If the keyring in etcd was deleted, or etcd did not confirm it for 8 seconds, \
the proxy refuses writes of encrypted values with UNAVAILABLE and continues to serve reads.
Differences from etcd: keys under the reserved prefix are hidden from clients; the largest value is 48 bytes \
shorter; /v3 (JSON) is not served; while etcd is unreachable a call fails at once with UNAVAILABLE, where a direct \
client would wait. Certificates are read again when their files change; SIGHUP reads the settings again and logs which \
of the changes need a restart. On SIGTERM the proxy finishes the calls in \
progress, for at most five seconds.";

pub(crate) const AUDIT: &str = "\
Verify and search a proxy's audit log.

`proxy --audit-log` writes a line of JSON for each request: time, client, user, peer, method, keys, revision, outcome and \
duration, never a value. Each line is chained to the one before; checkpoints carry a MAC whose key the master keys seal.";
pub(crate) const AUDIT_MORE: &str = "\
Examples:
  strongroom audit-log verify /var/log/strongroom/audit.log -k file:/etc/strongroom/values-keyring
  strongroom audit-log query /var/log/strongroom/audit.log --touched /app/password";

pub(crate) const AUDIT_VERIFY: &str = "\
Verify that a proxy's audit log was not changed.

Reads all files of the log, and verifies the chain of lines and the MAC of every checkpoint. Store the last line's \
number and chain value in another place: a later log that does not contain them was cut.";
pub(crate) const AUDIT_VERIFY_MORE: &str = "\
Examples:
  strongroom audit-log verify audit.log -k file:/etc/strongroom/values-keyring
  strongroom audit-log verify audit.log -w json

Exit status: 0 verified; 3 verified, with findings such as a crash or a log in use; 12 no master key opens it; 13 \
changed.";

pub(crate) const AUDIT_QUERY: &str = "\
Show who used which keys, and when.

Needs no master key, and does not verify the log. Prints the requests that match all filters, oldest first. A \
request for a range matches each key in it.";
pub(crate) const AUDIT_QUERY_MORE: &str = "\
Examples:
  strongroom audit-log query audit.log --touched /app/password --since 2026-11-23T09:00:00Z
  strongroom audit-log query audit.log --prefix /app/ --method Put -w json
  strongroom audit-log query audit.log --outcome PERMISSION_DENIED";
