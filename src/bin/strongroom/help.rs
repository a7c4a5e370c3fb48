//! What `--help` says of each command, for an operator on the worst day.

mod audit;
mod drill;
mod inside;
mod journal;
mod man;
mod unattended;
mod upgrade;
mod values;

pub(crate) use audit::*;
pub(crate) use drill::*;
pub(crate) use inside::*;
pub(crate) use journal::*;
pub(crate) use man::*;
pub(crate) use unattended::*;
pub(crate) use upgrade::*;
pub(crate) use values::*;

pub(crate) const PROGRAM: &str = "\
Encrypted backups of etcd, and verified restores.

Settings come from flags, else STRONGROOM_* variables, else the configuration file, else (for etcd's \
connection) ETCDCTL_* variables. Secrets never go on the command line.";
pub(crate) const PROGRAM_MORE: &str = "\
Examples:
  strongroom key generate -o /etc/strongroom/keyring
  strongroom key generate --recipient -o identity            # off the host
  strongroom key generate --signing -o /etc/strongroom/signing-key
  strongroom init -r s3://bucket/prefix
  strongroom backup --endpoints https://10.0.0.1:2379 \\
      --cacert ca.crt --cert client.crt --key client.key
  strongroom snapshots
  strongroom restore latest --output etcd.db

Exit status: 0 done, 1 failure, 2 usage, 3 done with findings, 4 etcd or store unreachable, 10 no repository, \
12 no key opens it, 13 integrity, 70 internal error, 130 interrupted.";

pub(crate) const INIT: &str = "\
Create a repository, and test its store.

Run it once for each place. It tests that the store never overwrites an object that it was asked to create. Prints the \
repository's id: if somebody else could replace the repository, pin the id with --repository-id or in the configuration file. With --master-key passphrase it also creates a master key and \
stores it in the repository, sealed by the passphrase; on a terminal it asks twice. It prints what to configure: \
passphrase:KEYID. A bare `passphrase` opens snapshots but cannot seal new ones. In an existing repository without a \
passphrase key it creates only that key.";
pub(crate) const INIT_MORE: &str = "\
Examples:
  strongroom init -r /var/backups/etcd
  strongroom init -r s3://bucket/prefix -k passphrase     # and a master key

A store that overwrites objects is refused: two writers could destroy each other's snapshots.";

pub(crate) const BACKUP: &str = "\
Take one encrypted snapshot of a live etcd.

The database is streamed from one healthy member, compressed, encrypted and stored; it is never written to a disk \
unencrypted. The snapshot exists only once its last object is written: an interrupted backup leaves nothing that looks like \
one. Seal it to two master keys that are kept in different places: if you have only one and lose it, you lose the backups.";
pub(crate) const BACKUP_MORE: &str = "\
Examples:
  strongroom backup --endpoints https://10.0.0.1:2379 \\
      --cacert ca.crt --cert client.crt --key client.key
  strongroom backup -k file:/etc/strongroom/keyring -k passphrase:KEYID
  strongroom backup --file snapshot.db   # of `etcdctl snapshot save`
  strongroom backup --tag before-upgrade

Every snapshot stands alone: it needs no other one to be restored.

Of several endpoints, it reads a healthy follower. During the stream, etcd holds one read transaction open and its \
database grows: --read-ahead lets etcd run ahead of a slow store.

After the stream, strongroom asks every member, one after the other, for a hash of its data at the snapshot's revision (HashKV). If members differ, the exit status is 3. While a member reads all its data for this, it writes nothing; \
--no-compare skips this, and `verify --deep` then has no hash to compare with.";

pub(crate) const SNAPSHOTS: &str = "\
List the snapshots; needs no key.

Oldest first, of all clusters, or of one with --cluster. IDs are shortened to their ends; `show` and -w json print them in full. What is listed is what the manifests say. With a keyring file, \
TRUST says whether a snapshot counts: a key that is in use opens it. \"not trusted: sealed by a retired key\" means that anyone who kept an old keyring may have made it; see `strongroom key rotate --help`. Without a keyring file it is \"unverified\": \
passphrases are not asked for. Unknown objects in the repository are reported.";
pub(crate) const SNAPSHOTS_MORE: &str = "\
Examples:
  strongroom snapshots
  strongroom snapshots --cluster prod -w json
  strongroom snapshots --tag before-upgrade";

pub(crate) const SHOW: &str = "\
Show what is known about one snapshot.

With a key: its facts, authenticated, and whether it counts. Without: what the manifest says, and which master keys open it.";
pub(crate) const SHOW_MORE: &str = "\
Examples:
  strongroom show latest -k file:/etc/strongroom/keyring
  strongroom show latest --before yesterday";

pub(crate) const VERIFY: &str = "\
Verify snapshots.

By default every byte is fetched, decrypted and hashed, and nothing is written: a snapshot that verifies can be restored \
with the same key. Run it with each copy of your keys, including the one kept off-site.";
pub(crate) const VERIFY_MORE: &str = "\
Examples:
  strongroom verify latest                        # every byte
  strongroom verify latest -k file:/mnt/usb/copy  # with this copy of the key
  strongroom verify latest --deep                 # and etcd's structure in it
  strongroom verify --all --quick                 # manifests, seals, lengths
  strongroom verify --all --digests               # SHA-256, without any key
  strongroom verify --subset 5% --record          # the newest, and 5 % of the others

--deep also checks every page and record: the B+ trees are consistent, no revision is missing, and HashKV is what etcd's \
members answered when the backup was taken (\"inconclusive\" where it cannot be computed). While it runs, it stores the database in TMPDIR, encrypted under a key that is never written. Where journals were recorded, it also \
rebuilds each snapshot from the one before it and the journals between them, as `journal verify --deep` does.
--all looks at every cluster's snapshots, or with --cluster at one cluster's. Each snapshot names the one before it: one that disappeared is \
reported, unless a removal explains it. Folders that somebody planted fail too: `strongroom prune --quarantine` lists them.
--subset draws other snapshots each time, always with the newest.
Exit status 13 if any fails, else 12 if any cannot be opened, else 3 if one is missing or not trusted.";

pub(crate) const RESTORE: &str = "\
Restore a snapshot to one of these targets:

  --data-dir DIR        a member's data directory, from which etcd can start;
  --from-manifest FILE  the same, with the settings of a static pod, such as kubeadm's etcd.yaml
  --output FILE         a snapshot file that etcdutl and etcdctl accept
  --to-cluster          single keys, into the running etcd of --endpoints

File and directory get their name only when every byte is verified; an existing file is not replaced without --force. They \
hold every secret of the cluster unencrypted. Delete a snapshot file when you do not need it any more.

latest often contains the mistake itself: --before picks the last snapshot begun before it, and --revision goes back within \
one snapshot, to any revision between its compact revision and its last (`show` prints both).

Where the agent or `strongroom journal record` has recorded what changed after a snapshot, --newest, --to-time and --revision restore any \
recorded revision or moment; without an ID, from the newest snapshot that reaches it. A revision that two histories have, because \
etcd was restored to an earlier one, is refused with exit status 2: give a snapshot's id. `strongroom journal list` shows what is recorded.

Only snapshots that count are latest or restored: a master key that is in use opens them, or, with --signers, a trusted signer signed them. Others are named and skipped. \
If you know that one is genuine, give its full id and --accept-untrusted.

With --to-cluster no cluster is replaced: one key, or all keys with a prefix, are written to the running etcd of --endpoints. \
--dry-run shows first what would be created and changed, and what only etcd has: that stays unless --delete is given. Each key is written only if it is unchanged since it was compared: a key that another client changed in between is not written but listed, with exit status 3. An interrupted run can be started again and continues.

A key that had a lease gets a new one, granted for as long as the old one was. Without a lease, a lock or a \
registration would stay permanently although nobody holds it; use --leases drop only for data that is to stay.";
pub(crate) const RESTORE_MORE: &str = "\
Examples:
  strongroom restore latest --data-dir /var/lib/etcd --name cp1 \\
      --initial-cluster cp1=https://10.0.0.1:2380,cp2=https://10.0.0.2:2380
  strongroom restore latest --from-manifest /root/etcd.yaml
  strongroom restore latest --output etcd.db
  strongroom restore latest --output etcd.db --dry-run     # writes nothing
  strongroom restore latest --before 2026-11-23T09:00:00Z --output etcd.db
  strongroom restore latest --before 2h --output etcd.db   # two hours ago
  strongroom restore 01KB2 --revision 48211 --output etcd.db
  strongroom restore --newest --data-dir /var/lib/etcd --name cp1
  strongroom restore --to-time 2026-11-26T09:11:55Z --output etcd.db
  strongroom restore 01KB2 --output - | ssh node 'cat > etcd.db'
  strongroom restore latest --to-cluster --dry-run \\
      --only /registry/configmaps/prod/settings
  strongroom restore 01KB2 --revision 48211 --to-cluster \\
      --prefix /registry/secrets/prod/
  strongroom restore latest --to-cluster --prefix app/ --to-prefix restored/app/
  strongroom restore latest --to-cluster --prefix app/ --to-time 2026-11-26T09:11:55Z

Trust data that went through a pipe only if strongroom exits with 0.

Run --data-dir on every node, each with its own --name: the nodes form the same cluster. After --output run on every \
member, with a token that was never used before:
  etcdutl snapshot restore etcd.db --data-dir /var/lib/etcd-new \\
      --name … --initial-cluster … --initial-cluster-token NEW \\
      --initial-advertise-peer-urls …
On Kubernetes stop the API servers first, and give etcdutl --bump-revision 1000000000 --mark-compacted; --data-dir \
does that by itself.

With --to-cluster the API servers keep running: they and all who watch them see ordinary changes. An object whose owner \
(ownerReferences) is gone is collected as garbage again, so restore the owner as well. Values that the API server encrypted \
(k8s:enc:) are bound to their key: below another prefix it cannot decrypt them.";

pub(crate) const KEY: &str = "\
Create, list, rotate and remove master keys.

A snapshot has a data key of its own, and each master key seals it: any one of them opens the snapshot. A keyring file \
holds several master keys, of which the primary one seals new snapshots. Without a copy of one of these keys there is no \
restore: keep a copy off the host and outside the repository.";
pub(crate) const KEY_MORE: &str = "\
Examples:
  strongroom key generate -o /etc/strongroom/keyring
  strongroom key list -k file:/etc/strongroom/keyring
  strongroom key rotate -k file:/etc/strongroom/keyring";

pub(crate) const KEY_GENERATE: &str = "\
Create a keyring file with one new master key, a key pair or a signing key.

The file is readable by its owner only. An existing file is not overwritten.

With --recipient it is an identity file, as age writes them, and its recipient is printed: hosts that have only the recipient \
seal snapshots and cannot open them. With --signing it is a key that signs snapshots and reports, and its signer is printed: \
hosts that restore trust it with --signers. Anyone can seal to a public key, so snapshots sealed to recipients count only if a \
trusted signer signed them.";
pub(crate) const KEY_GENERATE_MORE: &str = "\
Example:
  strongroom key generate -o /etc/strongroom/keyring

Copy it off the host at once: without it there is no restore.";

pub(crate) const KEY_LIST: &str = "\
List the master keys that are available or in the repository, and count the snapshots that only one key opens.

Needs no repository to list a keyring. STATE says what a key may do: staged (opens), sealing and primary (seal and open), \
retiring (opens; what it sealed still counts), retired (opens only), destroyed. Keys that seal a snapshot and were not given are listed as \
elsewhere. A passphrase key is retired unless its id is configured (passphrase:KEYID).

OPENS counts the snapshots that count and that a key opens, ALONE those that no other key opens: losing that key loses them. Only seals \
that a key here opens are counted, because anyone who can write to the repository can plant others; ? means that no key here can tell. \
VERIFIED is when a key last opened every byte of a snapshot, TESTED when `key prove` last did it with that key alone.";
pub(crate) const KEY_LIST_MORE: &str = "\
Example:
  strongroom key list -k file:/etc/strongroom/keyring";

pub(crate) const KEY_PROVE: &str = "\
Show that each key opens the newest snapshots by itself, and record it.

Of each cluster, or of --cluster, the newest snapshot that counts is read, every byte, with one key at a time: each key given that seals and \
opens. A report of each is stored, signed with --signing-key. `key list`, `key custody` and the backups of hosts that trust that signer \
then know it. Run it where the key is, after you make a key or a copy of one, and every quarter.";
pub(crate) const KEY_PROVE_MORE: &str = "\
Examples:
  strongroom key prove -k identity:FILE --signers signers --signing-key my-key
  strongroom key prove -k file:/media/usb/daily-keyring      # this copy opens them";

pub(crate) const KEY_CUSTODY: &str = "\
Report who can open the snapshots: what each key depends on, and when it was last tested.

INDEPENDENT counts the ways to open a cluster's newest snapshot that do not depend on one another: no loss of one host, passphrase or service \
takes two of them. All files given here depend on this host. A recipient, a key that is elsewhere and the key of keys.recovery depend on a place of their own; a key counts once it opens the snapshot. \
Whether copies exist, or lie at one place, is unknown here.

With -w json it is a document for auditors. Exits with status 3 when there is something to look at.";
pub(crate) const KEY_CUSTODY_MORE: &str = "\
Examples:
  strongroom key custody -k file:/etc/strongroom/keyring
  strongroom -w json key custody > custody.json";

pub(crate) const KEY_ROTATE: &str = "\
Replace the sealing key with a new one, and seal the snapshots to it.

A rotation has three steps. `key rotate` makes a new primary key; the old one is retiring: it still opens, and what it sealed \
still counts. Then it seals every snapshot and journal that counts to the new key too. Before the last step restart `journal record`, or reload the agent (SIGHUP): until then they seal journals to the old key alone. `key rotate --finish`, when every host that \
backs up has the new key, seals what still needs the old one, takes the old one out of the seals and retires it. It is \
refused while the newest snapshot of a cluster is sealed by the old key alone. An interrupted step continues when it is run again.

A snapshot that only a retired key sealed does not count: it is never `latest`, does not cause `prune` to remove others, and is neither copied nor sealed again. So nobody with an old keyring can make a snapshot that counts.

With a keyring file the new key is added to the file. With --master-key passphrase:KEYID it is a new key in the repository, \
behind the same passphrase; the command prints what to configure.";
pub(crate) const KEY_ROTATE_MORE: &str = "\
Examples:
  strongroom key rotate -k file:/etc/strongroom/keyring
  strongroom key rotate --finish -k file:/etc/strongroom/keyring
  strongroom key rotate --offline     # the key only; later key reseal --all
  strongroom key rotate --staged      # a key that does not seal yet; later key promote
  strongroom key rotate --compromised 2026-11-23T09:00:00Z

--compromised is for a keyring that was stolen. All its keys are retired at once. A snapshot is sealed to the new key only if its \
id and the store's time of its manifest are both before TIME; the others are listed with both times. Look at each of them; \
`strongroom key reseal ID --accept-untrusted` makes one count again. If the stolen key was rotated out before the theft was known, run it with the present keyring and the same TIME. In a local directory, anyone with write access can set a file's time.";

pub(crate) const KEY_PROMOTE: &str = "\
Make a staged key of the keyring the primary one.

`key rotate --staged` adds a key that opens and does not seal. Copy the keyring to every host that uses it, then promote \
the key on one host and copy the keyring again. With --at all hosts change to the new key at the same time, by their own \
clocks. The key before it is retiring from then on: it still opens.

A key that was primary never becomes primary again.";
pub(crate) const KEY_PROMOTE_MORE: &str = "\
Examples:
  strongroom key rotate --staged -k file:/etc/strongroom-kms/keyring
  strongroom key promote 261fc941a63181bf10a68c6a7ccdf85f -k file:/etc/strongroom-kms/keyring
  strongroom key promote 261fc941a63181bf10a68c6a7ccdf85f --at 2026-11-23T09:00:00Z";

pub(crate) const KEY_SPLIT: &str = "\
Print a key of a keyring or an identity file as shares on paper: as many as --threshold bring it back.

Each share is one page with 33 English words (SLIP-39). Fewer shares than --threshold tell nothing about the key. Any \
other program for SLIP-39 reads them too: the secret is the 32 bytes of the key, without a passphrase.

A set of shares holds one key. Of a keyring it is the primary one, unless --key-id names another; of an identity file the only one, or that of --key-id. Split each key that a \
snapshot still needs: `strongroom key list` shows how many snapshots a key opens alone. After `strongroom key rotate` make new shares.

Standard output gets the pages, with a form feed between them, for a printer. The shares are not stored anywhere.";
pub(crate) const KEY_SPLIT_MORE: &str = "\
Examples:
  strongroom key split --shares 5 --threshold 3 -k file:/etc/strongroom/keyring | lpr
  strongroom key split --shares 5 --threshold 3 -k identity:recovery-identity | lpr

Keep each page at another place. Verify the pages before you need them: type some into `strongroom key combine`, and \
run `strongroom verify latest` with the keyring that it writes.";

pub(crate) const KEY_KIT: &str = "\
Print a page with what a restore needs.

It has the repository's URL and id, the keys that open its snapshots and where they are, the trusted signers, and the \
commands of a restore. It holds no secret: print it, and fill in where the copies of the keys and the store's credentials are.";
pub(crate) const KEY_KIT_MORE: &str = "\
Examples:
  strongroom key kit -r s3://bucket/prefix -k file:/etc/strongroom/keyring | lpr";

pub(crate) const KEY_COMBINE: &str = "\
Bring a key back from its shares.

On a terminal it asks for one share after the other, until there are enough. Words may be typed in any case, over several \
lines. A word that is not on the list, or a share with a wrong word, is refused at once. Do it on a machine that you trust: what is typed is visible.

The key's id is computed from the key. It must be the one on the pages: if the files have it, or with --expect, another \
key is refused. The keyring file that is written has this key as its primary one. \
Typed words do not show whether the key is of a keyring or of an identity file; --expect with the id on the pages decides.";
pub(crate) const KEY_COMBINE_MORE: &str = "\
Examples:
  strongroom key combine -o recovered-keyring
  strongroom key combine -o recovered-keyring share-1.txt share-4.txt share-5.txt
  strongroom verify latest -k file:recovered-keyring";

pub(crate) const KEY_RESEAL: &str = "\
Seal snapshots' data keys to the present master keys; payloads stay as they are.

Only snapshots that count are sealed again; the others are named, with their times. A new seal is written and opened before \
an old one is deleted, and an old one is deleted only if the new one holds all that it holds. A snapshot that cannot be \
sealed again stays as it was, and is named. Removed snapshots that can be brought back are included. With --all, journals are sealed again too.";
pub(crate) const KEY_RESEAL_MORE: &str = "\
Examples:
  strongroom key reseal --all                                # after key rotate --offline
  strongroom key reseal --all --cluster prod                 # one cluster's only
  strongroom key reseal --all -k file:keyring -k file:second # adds a key
  strongroom key reseal --all --drop KEYID                   # drops a key
  strongroom key reseal ID --accept-untrusted                # makes it count

A public key that some snapshot is not sealed to yet is added only if you confirm it, on the terminal or with --expect KEYID. \
Stanzas of keys that are not available or are retiring are kept unless dropped. Only seals change, so nothing is revoked. \
Anyone who kept an old seal and its master key can still open that snapshot.";

pub(crate) const KEY_REENCRYPT: &str = "\
Write snapshots again under new data keys, so that a key that was stolen does not open them.

`key reseal` changes seals only: a thief who copied an old seal and has its key still opens that snapshot. This reads every byte of a \
snapshot, encrypts it under a new data key, and seals that to the present master keys. Time, tags, facts and companions stay the same, the id \
changes. A new snapshot is read back before it exists. When all are written, the old ones are removed as by `prune --remove`: `prune --undo` brings one \
back until the grace period is over, and `prune` deletes them after it. An interrupted run continues when it is run again.

What the thief copied before stays readable to him: rotate the secrets inside etcd, too. Journals are not encrypted again, and are named.";
pub(crate) const KEY_REENCRYPT_MORE: &str = "\
Examples:
  strongroom key reencrypt --all -k file:keyring              # after key rotate
  strongroom key reencrypt --all -k 'identity:old?retired' -k identity:new --signing-key my-key
  strongroom key reencrypt ID --drop KEYID                    # without a key that is not here

A snapshot is refused while a key opens it that would not open the new one: give that key or its recipient, retire it, or name it with --drop. \
A pinned snapshot, or one with a seal of a newer version, is refused unless --keep-old is given.";

pub(crate) const KEY_VOUCH: &str = "\
Sign what counts with the signing key, so that it counts wherever that signer is trusted.

A new seal with the signature is written; nothing else of a snapshot changes. It signs the snapshots that count: those that a trusted signer \
has signed, and those that a sealing master key opens. With --all, journals are signed too. It needs a key that opens the snapshots.

With --before and --signer it replaces the signatures of a signer that is to be revoked: a snapshot that only that signer has signed gets the new signature \
if its id says that it is older than TIME, and the store says so of its manifest and of its seal; the others are listed.";
pub(crate) const KEY_VOUCH_MORE: &str = "\
Examples:
  strongroom key vouch --all -k file:keyring --signing-key new-key
  strongroom key vouch --all --before 2026-11-23 --signer KEYID --signing-key new-key -k identity:FILE
  strongroom key vouch ID --accept-untrusted                 # after you have looked at it";

pub(crate) const KEY_REMOVE: &str = "\
Destroy a key of the keyring, or a passphrase key; refused while a snapshot opens only with it.

Also refused while a snapshot opens with no other key that is available: give the keys that are to remain with \
--master-key too, because a key that a seal names may have been destroyed elsewhere. Only the snapshots of the given \
repository are considered: other repositories may still need the key.

What opens neither with the key nor without it is named and passed over: it is damaged, or somebody planted it.";
pub(crate) const KEY_REMOVE_MORE: &str = "\
Example:
  strongroom key reseal --all -k file:keyring
  strongroom key remove KEYID -k file:keyring";

pub(crate) const KEY_PASSPHRASE: &str = "\
Change the passphrase that opens the repository's master key.

The key itself stays the same, and so do all snapshots.";
pub(crate) const KEY_PASSPHRASE_MORE: &str = "\
Example:
  strongroom key passphrase -r s3://bucket/prefix

The old passphrase is read from the terminal, or comes from STRONGROOM_PASSPHRASE_FILE or STRONGROOM_PASSPHRASE_COMMAND; \
the new one from STRONGROOM_NEW_PASSPHRASE_FILE or STRONGROOM_NEW_PASSPHRASE_COMMAND. Copies of the repository made before \
still open with the old one.";

pub(crate) const COMPLETIONS: &str = "\
Print a completion script for a shell.

The script asks strongroom for candidates: commands and flags, and the ids, clusters and keys of the repository that \
environment and configuration file name. A repository that does not answer within 3 s gives none.";
pub(crate) const COMPLETIONS_MORE: &str = "\
Examples:
  source <(strongroom completions bash)     # in ~/.bashrc
  source <(strongroom completions zsh)      # in ~/.zshrc

Write the line, not its output, into a file: script and program belong to the same version.";
