//! What `--help` says of `audit`.

pub(crate) const AUDIT_CLUSTER: &str = "\
Check how the cluster is set up: TLS, certificates, users, versions, exposure.

Each check is a measurement and not a look at settings: a handshake without a certificate, a call without a login, a \
ClientHello with weak cipher suites. A check passes, fails, is not applicable, or is unknown; what could not be measured is \
never passed. Nothing is written to etcd, and connections are made one after the other.

Scopes: live asks the endpoints (the default); host reads a member's process, settings, files and devices; kubernetes reads \
the files of the API server; repository reads the backups, and users and roles from the newest snapshot, without a login to etcd.";
pub(crate) const AUDIT_CLUSTER_MORE: &str = "\
Examples:
  strongroom audit --endpoints https://10.0.0.1:2379,https://10.0.0.2:2379 --cacert ca.crt
  strongroom audit --user root --password-file FILE      # also users and roles
  strongroom audit --host                                # also this member's host
  strongroom audit --scope live,repository --report      # keep the outcome, and show what changed
  strongroom audit --encryption-config enc.yaml --waivers waivers.toml --sarif audit.sarif
  strongroom audit --junit audit.xml --markdown audit.md     # everything that was measured
  strongroom audit --prometheus http://127.0.0.1:9090 --audit-log /var/log/strongroom/audit.log
  strongroom audit --list                                # every check
  strongroom audit --only TLS-7,UPD-1 -w json

Give every member as an endpoint: each check of a missing one is unknown. At most 20 connections are made to each endpoint, 12 of them \
to ask for versions and cipher suites: three with --probe gentle, none with --probe none.

Exit status 0 if all checks of the severity --fail-on or above pass or are waived, 3 if one fails or is unknown, 4 if no endpoint answers.";
