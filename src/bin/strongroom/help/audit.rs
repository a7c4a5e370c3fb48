//! What `--help` says of `audit`.

pub(crate) const AUDIT_CLUSTER: &str = "\
Check how the cluster is set up: TLS, certificates, users, versions, exposure.

Each check is a measurement at the endpoints, and not a look at settings: a handshake without a certificate, a call without a login, \
a ClientHello with weak cipher suites. A check passes, fails, is not applicable, or is unknown; what could not be measured is \
never passed. Nothing is written to etcd, and connections are made one after the other.

Most checks need no login. Give the client certificate to see what a client sees, and a user with the role root to check users \
and roles.";
pub(crate) const AUDIT_CLUSTER_MORE: &str = "\
Examples:
  strongroom audit --endpoints https://10.0.0.1:2379,https://10.0.0.2:2379 \\
      --cacert ca.crt --cert client.crt --key client.key
  strongroom audit --user root --password-file word      # also users and roles
  strongroom audit --list                                # every check
  strongroom audit --only TLS-7,UPD-1 -w json
  strongroom audit --fail-on critical --unknown warn

Give every member as an endpoint: of those that are missing, every check is unknown. For each endpoint there are at most 20 \
connections, 13 of them to ask for versions and cipher suites; --probe gentle makes three of these, --probe none none.

Exit status 0 if all checks of the severity --fail-on or above pass, 3 if one fails or is unknown, 4 if no endpoint answers.";
