//! What runs by itself, and what keeps a repository in order.

pub(crate) const PRUNE: &str = "\
Remove the snapshots that no --keep-… rule wants.

The plan is printed first, and nothing is asked: --dry-run prints it and stops. The rules hold for each cluster by \
itself, in UTC, and a snapshot that any rule wants stays; so does the last one that a stored report (`verify --record`, `drill`) proves, and every \
payload that a kept snapshot uses. Without any rule, here or in the configuration file, nothing is done.

Only snapshots that a key at hand authenticates count and are removed: whoever can write to the store but holds no key \
cannot push good ones out with planted ones. A snapshot from the future counts neither.

A removed snapshot's payload stays for a day, since a backup that runs beside may be leaning on it; a later prune frees \
it. What the store refuses to delete (an object lock) stays, is reported, and makes exit status 3.";
pub(crate) const PRUNE_MORE: &str = "\
Examples:
  strongroom prune --keep-last 24 --keep-daily 14 --keep-monthly 12 --dry-run
  strongroom prune --cluster prod --keep-hourly 48 --keep-daily 30 --keep-weekly 12";
