//! Help of `journal …`.

pub(crate) const JOURNAL: &str = "\
Record the changes between snapshots, so that a restore reaches any revision and any moment.

A journal holds every change of etcd since a revision, encrypted under a data key of its own, in segments of a few seconds. \
Any revision in a snapshot or in the journals that follow it can be restored: see `strongroom restore` with --newest, \
--to-time and --revision.";
pub(crate) const JOURNAL_MORE: &str = "\
Examples:
  strongroom journal record --endpoints https://10.0.0.1:2379 --interval 5s
  strongroom journal list
  strongroom journal verify
  strongroom journal verify --deep --since 2d --record
  strongroom restore latest --to-time 2026-11-26T09:12:00Z --output etcd.db";

pub(crate) const JOURNAL_RECORD: &str = "\
Record every change of etcd until it is stopped.

It watches all keys of one member, a follower if one answers, and stores what changed every few seconds. Where the recording \
cannot follow what was recorded before, because etcd has compacted it or because too much is missing, it takes a snapshot and \
begins again there: the gap is in no journal.

What the store does not take waits in memory, up to 32 MiB, or with --spool in a \
directory, encrypted as it will be stored; when that is full too, the recording begins again after the store is back.

A watch that catches up makes etcd's writers wait, and longer the more revisions it \
has missed, so it never catches up on more than 20,000.

Each hour another journal begins, and the segments of the one before are \
stored again as one object; an hour later they are deleted, unless an object lock keeps them.

SIGINT and SIGTERM end it after \
the last segment is stored. If the store does not take that within 8 s, it names the revisions that are missing, or in the spool: \
exit status 3. A recorder that is started again stores what is in the spool first, and records the rest if etcd still has it.

With --copy-continuous the second repository gets the same objects at once. The recording does not wait for it; `copy` brings \
what it misses.

Without authentication, any user that may read all keys can record; snapshots need the role root. Users, roles and alarms are \
not recorded: a restore has those of its snapshot, and warns if they were changed after it.";
pub(crate) const JOURNAL_RECORD_MORE: &str = "\
Examples:
  strongroom journal record --endpoints https://10.0.0.1:2379 \\
      --cacert ca.crt --cert client.crt --key client.key
  strongroom journal record --interval 1s --spool /var/lib/strongroom/spool

The last seconds of the newest journal can be removed by someone who may delete objects in the store, without a trace in \
the repository: keep a copy elsewhere or use an object lock.";

pub(crate) const JOURNAL_LIST: &str = "\
List the journals: which revisions each holds, and why it ended.

Heads and ends are authenticated, segments are not read: `journal verify` opens them all. A journal without an end is being \
recorded, or its recorder was killed: its last revision is shown only if the next journal tells it.

A second table shows what lies between two snapshots, and whether a deep verification that left a report has rebuilt the second \
from the first and the journals: deep, differs, or not yet; and which revisions were compared with the second when that was taken beside \
the recording.";

pub(crate) const JOURNAL_LIST_MORE: &str = "\
Examples:
  strongroom journal list
  strongroom journal list --cluster prod -w json";

pub(crate) const JOURNAL_VERIFY_MORE: &str = "\
Examples:
  strongroom journal verify
  strongroom journal verify --deep --since 2d --record";

pub(crate) const JOURNAL_VERIFY: &str = "\
Open every segment of the journals, and compare journals that overlap.

Each segment is decrypted, must follow the one before it, and every change in it must follow the change before it. Journals \
that hold the same revisions must hold the same changes. Exit status 3 if something is missing, does not open or differs.

--deep also rebuilds each snapshot from the one before it and the journals between them, compacts it as etcd does, and compares \
it with the snapshot record by record, and with the HashKV that etcd's members answered. It reads both databases, and while it runs it keeps them and \
the journals in TMPDIR, encrypted. --record stores the result; `journal list` and `reports` show it.";
