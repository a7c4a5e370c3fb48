//! Help of the commands that run unattended and keep a repository in order.

pub(crate) const PRUNE: &str = "\
Remove the snapshots that no --keep-… rule keeps.

The plan is printed first, with the date that --keep-within reaches back to, and nothing is asked: --dry-run prints it and stops. The rules apply to each cluster separately, \
in UTC. Rules given as flags replace those of the environment and the configuration file. A snapshot that any rule keeps stays; so does a pinned one, and the last one that a stored report (`verify --record`, \
`drill`) says is good. If no rule keeps a snapshot of a cluster, its newest one stays; --allow-empty removes it too. Without any rule, here or in the configuration file, nothing is done.

Only snapshots that an available key authenticates count and are removed: someone who can write to the store but has no key cannot push good ones out with planted ones. A snapshot with a time in the future does not count either.

A removed snapshot is in no list any more, but its objects stay for a day (--grace): until then --undo brings it back. A \
later prune deletes them. Objects of backups that never finished are deleted too, at the earliest two days after the last \
of them was written. What the store refuses to delete (an object lock) stays and is reported, with exit status 3; so is a \
folder with an object that a newer strongroom may have written.

--quarantine is for objects that somebody else put into the repository. It lists the folders that no available key \
authenticates. After you have looked at one, `--quarantine ID` removes it: it is in no list any more, and the same command 30 days later \
deletes its objects. It is refused for a folder whose seal names a key that is not available or comes from a newer version, and if the keys given open nothing at all. `--quarantine ID --seals` deletes the failing seals of a snapshot that has a good one.";
pub(crate) const PRUNE_MORE: &str = "\
Examples:
  strongroom prune --keep-last 24 --keep-daily 14 --keep-monthly 12 --dry-run
  strongroom prune --cluster prod --keep-hourly 48 --keep-daily 30 --keep-weekly 12
  strongroom prune --undo 01J9ZB0G7W8D5VQ3M2K4T6XYRA
  strongroom prune --remove 01J9ZB0G7W8D5VQ3M2K4T6XYRA --dry-run
  strongroom prune --keep-daily 14 --keep-tag before-upgrade
  strongroom prune --quarantine
  strongroom prune --quarantine 01J9ZB0G7W8D5VQ3M2K4T6XYRA";

pub(crate) const COPY: &str = "\
Replicate snapshots to a second repository: another region, provider or disk.

Snapshots are copied as they are: the same keys open the copy, and it has the same repository id. With a master key only \
snapshots that count are copied, and the others are named; without one, all. Each \
object's SHA-256 is checked on the way, and a snapshot shows in the copy only when all of it is there. What is there is \
not sent again, so an interrupted copy continues where it stopped. With a master key that seals, each snapshot and journal that the copy already has is read once and compared with its \
SHA-256, up to 64 of each in a run; sealed reports in the copy record which. A host without a key that opens cannot read \
these: it compares a few at random.

Nothing is deleted in the copy: run `prune` there too, with the same --keep-… rules or wider ones. What narrower rules \
removed there is copied again once its objects are deleted. Seals that `key reseal` wrote are copied too; old ones stay \
until they are removed there. Where the copy has another seal of the same number, exit status 3 says so: run \
`strongroom key reseal --all` with the copy as the repository.";
pub(crate) const COPY_MORE: &str = "\
Examples:
  strongroom copy --to s3://other-bucket/etcd
  strongroom copy latest --to /mnt/usb/etcd

Credentials of the second store come from the cloud's usual variables; where the two differ, from the configuration \
file's [copy.options].";

pub(crate) const SETUP_AUTH: &str = "\
Prepare etcd's users and roles, with the least that strongroom needs.

etcd streams its database only to a user with the role root, so the backup user can also do everything else. To \
limit that, the user has no password, so that only a client certificate with that common name can be this user (etcd with \
--client-cert-auth). Keep the certificate's key only where the agent runs, best on a member itself, with \
--endpoints https://127.0.0.1:2379 and readable by nobody else.

The proxy needs no more than its keys under the reserved prefix: each client reaches etcd as the user it logs in as. A \
client's role needs nothing there.";
pub(crate) const SETUP_AUTH_MORE: &str = "\
Examples:
  strongroom setup-auth --print
  strongroom setup-auth --apply --user root --password-file root-password

What exists already is left as it is. Authentication is switched on by you, when the users and roles of all your \
clients are there: etcdctl auth enable.";

pub(crate) const AGENT: &str = "\
Back up, replicate, prune, verify, drill and audit on a schedule, unattended.

The schedules are in the configuration file's table [agent], as crontab fields and a time zone, or as @every and a duration. \
The settings of [backup], [prune], [copy], [drill] and [audit], their variables and their flags mean the same here as for those commands: \
see `strongroom help backup` and so on. \
The agent also records every change between the snapshots, as `strongroom journal record` does, with the settings of [journal]: \
a disaster then costs seconds, and daily snapshots are enough. With continuous = false it does not record, and takes hourly snapshots unless told otherwise. \
While it records it takes a snapshot at once where the recording has a gap and when users or roles are changed. \
Work that was missed while no agent ran is done at once. An agent keeps nothing on its host: it reads from the repository what \
was done and when. If several agents run for one cluster, one of them leads, by a lease in the cluster's etcd; another one takes over within twenty seconds.

What fails is logged and tried again, after two seconds at first and up to five minutes later. A verification, drill or audit \
that finds something is an error in the log and in the metrics, and runs again at its next time.";
pub(crate) const AGENT_MORE: &str = "\
Examples:
  strongroom agent --config /etc/strongroom/strongroom.toml

  [agent]
  backup = \"0 2 * * *\"                  # every 24 hours without this line
  prune = \"30 3 * * * Europe/Berlin\"    # by the rules of [prune]
  verify = \"0 5 * * *\"                  # the newest and a random other one
  verify_all = \"0 6 * * 0\"
  drill = \"0 7 * * 1\"
  audit = \"0 8 * * *\"                 # live and repository: how the cluster is set up
  jitter = \"5m\"
  listen = \"127.0.0.1:9481\"             # status page, /metrics, /healthz, /readyz
  log = \"json\"

SIGHUP reads the configuration again, except listen, log and the cluster. SIGTERM ends the agent and leaves no \
half-written snapshot. Under systemd it reports when it is ready and serves the watchdog.";

pub(crate) const KMS_PLUGIN: &str = "\
Serve Kubernetes' API servers as their KMS (KMS v2): they encrypt Secrets with keys of a keyring, or with one that a service keeps.

The API server on each control-plane node talks to the plugin on the same node through a Unix socket. All nodes have the \
same keyring file, or the same key of a service. A keyring is for Kubernetes only: do not use the keyring of the backups. Backups of the cluster's etcd hold the \
Secrets encrypted, so keep a copy of this keyring with the copies of the backup's keys.";
pub(crate) const KMS_PLUGIN_MORE: &str = "\
Examples:
  strongroom key generate -o /etc/strongroom-kms/keyring
  strongroom kms-plugin -k file:/etc/strongroom-kms/keyring

  strongroom kms-plugin -k transit:k8s@https://vault.example:8200/transit/k8s

  # EncryptionConfiguration of the API server
  - kms: {apiVersion: v2, name: strongroom, endpoint: unix:///run/strongroom-kms/kms.sock}

To rotate the key, run `strongroom key rotate --staged`, copy the keyring to every node, run `strongroom key promote KEYID --at \
TIME` with a time some minutes ahead, and copy the keyring again. At that time all nodes change to the new key. The plugin \
reads the file again when it has changed, at the latest when the API server asks for the status, every minute. \
It keeps the keyring in use and reports the reason to the API server if the new file is damaged, lacks a key that is in use, or \
makes a key primary again that was primary before.

With a key that a service keeps, rotate it at the service: the next status has another key id. While the service is down the \
status says so, and after three minutes the API server refuses writes of what it encrypts.

Only root and the plugin's own user may connect, and the users of --allow-uid. Encrypted data that names a key which the \
keyring does not have is refused; /readyz then names the key for five minutes, and the status stays ok. SIGHUP reads the keyring and the settings \
again and logs which of the changes need a restart.";

pub(crate) const CONFIG: &str = "\
Show what a configuration means, or print an example of one.

A setting comes from its flag, else its STRONGROOM_* variable, else the configuration file, else, for the connection to \
etcd, the ETCDCTL_* variable. An empty variable is unset.";
pub(crate) const CONFIG_MORE: &str = "\
Examples:
  strongroom config check
  strongroom config example > strongroom.toml";

pub(crate) const CONFIG_CHECK: &str = "\
Show each setting and where it comes from, and list everything that is wrong.

The file, the environment and the flags are read as the agent reads them, and as the proxy and the KMS plugin do if the file has a table \
[proxy] or [kms_plugin]. Secrets are not shown. Nothing is opened: neither the repository, nor keys, nor etcd.";
pub(crate) const CONFIG_CHECK_MORE: &str = "\
Examples:
  strongroom config check
  strongroom config check --for backup -- --level 3
  strongroom config check -w json

Exit status 2 if anything is wrong.";

pub(crate) const CONFIG_EXAMPLE: &str = "\
Print a configuration file with every setting, its help and its default, all of it commented out.";
