//! Help of `drill` and `reports`.

pub(crate) const DRILL: &str = "\
Restore a snapshot, start etcd from it, and verify that it serves the same data.

The snapshot is restored into a scratch directory and an etcd started from it on loopback. Its revision, HashKV, number \
of keys and a sample of values are compared with the snapshot, and HashKV with the running cluster where that answers. \
Then etcd is stopped and the directory removed. Where journals lead from the snapshot before to this one, every second drill \
restores that one and the journals instead: the result must be the same. The report, with how long each step took, is stored in the repository, \
sealed: `reports` lists them.";
pub(crate) const DRILL_MORE: &str = "\
Examples:
  strongroom drill
  strongroom drill latest --before 2026-11-23T09:00:00Z
  strongroom drill 01KB2 --etcd /opt/etcd-3.5/etcd --scratch-dir /var/lib/strongroom

The time to recover is that of the steps restore and boot. During the drill the data is in the scratch directory, \
unencrypted and readable only by the user who drills. If the drill is killed, its etcd ends with it and the next drill \
removes the directory. The etcd accepts only clients with a certificate made for this \
drill. A restore keeps etcd's users; a drill leaves them out, because it has no password.
Exit status 3 if anything differs.";

pub(crate) const REPORTS: &str = "\
List what was verified, and when: evidence for an auditor.

A report is stored by each drill, `verify --record`, `journal verify --record`, `key prove` and `audit --report`, by each \
`prune` and `key reencrypt` that removes something, by `copy` for what it compared, and by the agent's operations. A report is sealed to the master keys of its time and never changed. `key reseal` leaves reports as they are: if you destroy a key, the reports that only it opens can no longer be opened.";
pub(crate) const REPORTS_MORE: &str = "\
Examples:
  strongroom reports
  strongroom reports 01KB3 -w json";
