//! What `--help` says of `upgrade-check`.

pub(crate) const UPGRADE_CHECK: &str = "\
Check whether the cluster can be upgraded, rehearse it, and print the plan.

It has 14 gates: the versions and the health of the members, learners and alarms, members and data that an upgrade would bring \
back, settings that the target does not have, the size of the database, whether all members have the same data, a recent and \
verified snapshot, a rehearsal of the upgrade and of the way back, and known vulnerabilities of the target. A gate passes, fails, is not \
applicable, or is unknown; what could not be measured is never passed. Nothing is written to etcd.

The endpoints answer UG-1, 2, 3, 8, 9, 10 and 14; the newest snapshot of the repository UG-4, 5 and 11; the members' hosts UG-6 and 7 \
(run it on each, with --host); the programs of --etcd and --current-etcd UG-12 and 13.";
pub(crate) const UPGRADE_CHECK_MORE: &str = "\
Examples:
  strongroom upgrade-check --to 3.6 --endpoints https://10.0.0.1:2379,https://10.0.0.2:2379,https://10.0.0.3:2379
  strongroom upgrade-check --to 3.6 --backup --etcd /opt/etcd-3.6/etcd --current-etcd /usr/bin/etcd
  strongroom upgrade-check --to 3.6 --host               # also this member's host
  strongroom upgrade-check --to 3.7 --save before.json   # keep what must not change
  strongroom upgrade-check --after before.json           # after the upgrade

Give every member as an endpoint: each gate of a missing one is unknown. HashKV and the number of keys need the role root where \
authentication is on. Each member reads all its data once for HashKV, and writes nothing during that.

A rehearsal restores the newest snapshot into a scratch directory and starts etcd from it, as `drill` does. It shows that the \
target reads the data, and how long a restore takes; it does not show that members find each other.

With --after the checks are UA-1 to UA-5: versions, members, alarms, HashKV and the number of keys at the revision of before. They are \
unknown if etcd was compacted since.

Exit status 0 if every gate passes, is not applicable or is waived, 3 if one fails or is unknown, 4 if no endpoint answers.";
