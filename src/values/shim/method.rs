//! The methods of etcd's gRPC API that are served. Everything else is refused here and never sent to etcd.

use http::Uri;

use super::schema::{self, Refused, Schema};

/// How the messages of a method travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One request, one answer.
    Unary,
    /// One request, one answer that may take as long as another client likes: a lock, a campaign.
    Waits,
    /// One request, a stream of answers.
    Answers,
    /// Streams in both directions.
    Streams,
}

/// Which clients with a key prefix may call a method.
#[cfg(feature = "proxy")]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Those whose prefixes hold all keys that the request is about.
    Keys,
    /// Those whose prefixes hold all keys of the lease.
    Lease,
    /// All of them.
    Nothing,
    /// None of them: the method is about the whole cluster.
    Everything,
}

macro_rules! methods {
    ($($method:ident $path:literal $shape:ident $needs:ident $schema:ident;)*) => {
        /// A method of etcd's gRPC API.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(crate) enum Method { $($method),* }

        impl Method {
            /// All of them.
            #[cfg(any(test, feature = "internals"))]
            pub(crate) const ALL: &[Self] = &[$(Self::$method),*];

            /// The method with exactly this path.
            pub(crate) fn parse(path: &str) -> Option<Self> {
                match path { $($path => Some(Self::$method),)* _ => None }
            }

            /// Its path.
            pub(crate) fn path(self) -> &'static str {
                match self { $(Self::$method => $path),* }
            }

            /// How its messages travel.
            pub(crate) fn shape(self) -> Shape {
                match self { $(Self::$method => Shape::$shape),* }
            }

            /// Which clients with a key prefix may call it.
            #[cfg(feature = "proxy")]
            pub(crate) fn needs(self) -> Needs {
                match self { $(Self::$method => Needs::$needs),* }
            }

            pub(super) fn schema(self) -> &'static Schema {
                match self { $(Self::$method => &schema::$schema),* }
            }
        }
    };
}

methods! {
    Range "/etcdserverpb.KV/Range" Unary Keys RANGE;
    RangeStream "/etcdserverpb.KV/RangeStream" Answers Keys RANGE;
    Put "/etcdserverpb.KV/Put" Unary Keys PUT;
    DeleteRange "/etcdserverpb.KV/DeleteRange" Unary Keys DELETE_RANGE;
    Txn "/etcdserverpb.KV/Txn" Unary Keys TXN;
    Compact "/etcdserverpb.KV/Compact" Unary Everything COMPACTION;
    Watch "/etcdserverpb.Watch/Watch" Streams Keys WATCH;
    LeaseGrant "/etcdserverpb.Lease/LeaseGrant" Unary Nothing LEASE_GRANT;
    LeaseRevoke "/etcdserverpb.Lease/LeaseRevoke" Unary Lease LEASE_ID;
    LeaseKeepAlive "/etcdserverpb.Lease/LeaseKeepAlive" Streams Lease LEASE_ID;
    LeaseTimeToLive "/etcdserverpb.Lease/LeaseTimeToLive" Unary Lease LEASE_TIME_TO_LIVE;
    LeaseLeases "/etcdserverpb.Lease/LeaseLeases" Unary Everything EMPTY;
    Lock "/v3lockpb.Lock/Lock" Waits Keys LOCK;
    Unlock "/v3lockpb.Lock/Unlock" Unary Keys UNLOCK;
    Campaign "/v3electionpb.Election/Campaign" Waits Keys CAMPAIGN;
    Proclaim "/v3electionpb.Election/Proclaim" Unary Keys PROCLAIM;
    Leader "/v3electionpb.Election/Leader" Unary Keys LEADER;
    Observe "/v3electionpb.Election/Observe" Answers Keys LEADER;
    Resign "/v3electionpb.Election/Resign" Unary Keys RESIGN;
    MemberAdd "/etcdserverpb.Cluster/MemberAdd" Unary Everything MEMBER_ADD;
    MemberRemove "/etcdserverpb.Cluster/MemberRemove" Unary Everything MEMBER_ID;
    MemberUpdate "/etcdserverpb.Cluster/MemberUpdate" Unary Everything MEMBER_UPDATE;
    MemberList "/etcdserverpb.Cluster/MemberList" Unary Nothing MEMBER_LIST;
    MemberPromote "/etcdserverpb.Cluster/MemberPromote" Unary Everything MEMBER_ID;
    Alarm "/etcdserverpb.Maintenance/Alarm" Unary Everything ALARM;
    Status "/etcdserverpb.Maintenance/Status" Unary Nothing EMPTY;
    Defragment "/etcdserverpb.Maintenance/Defragment" Unary Everything EMPTY;
    Hash "/etcdserverpb.Maintenance/Hash" Unary Everything EMPTY;
    HashKv "/etcdserverpb.Maintenance/HashKV" Unary Everything HASH_KV;
    Snapshot "/etcdserverpb.Maintenance/Snapshot" Answers Everything EMPTY;
    MoveLeader "/etcdserverpb.Maintenance/MoveLeader" Unary Everything MEMBER_ID;
    Downgrade "/etcdserverpb.Maintenance/Downgrade" Unary Everything DOWNGRADE;
    AuthEnable "/etcdserverpb.Auth/AuthEnable" Unary Everything EMPTY;
    AuthDisable "/etcdserverpb.Auth/AuthDisable" Unary Everything EMPTY;
    AuthStatus "/etcdserverpb.Auth/AuthStatus" Unary Nothing EMPTY;
    Authenticate "/etcdserverpb.Auth/Authenticate" Unary Nothing TWO_NAMES;
    UserAdd "/etcdserverpb.Auth/UserAdd" Unary Everything USER_ADD;
    UserGet "/etcdserverpb.Auth/UserGet" Unary Everything NAME;
    UserList "/etcdserverpb.Auth/UserList" Unary Everything EMPTY;
    UserDelete "/etcdserverpb.Auth/UserDelete" Unary Everything NAME;
    UserChangePassword "/etcdserverpb.Auth/UserChangePassword" Unary Everything CHANGE_PASSWORD;
    UserGrantRole "/etcdserverpb.Auth/UserGrantRole" Unary Everything TWO_NAMES;
    UserRevokeRole "/etcdserverpb.Auth/UserRevokeRole" Unary Everything TWO_NAMES;
    RoleAdd "/etcdserverpb.Auth/RoleAdd" Unary Everything NAME;
    RoleGet "/etcdserverpb.Auth/RoleGet" Unary Everything NAME;
    RoleList "/etcdserverpb.Auth/RoleList" Unary Everything EMPTY;
    RoleDelete "/etcdserverpb.Auth/RoleDelete" Unary Everything NAME;
    RoleGrantPermission "/etcdserverpb.Auth/RoleGrantPermission" Unary Everything GRANT_PERMISSION;
    RoleRevokePermission "/etcdserverpb.Auth/RoleRevokePermission" Unary Everything REVOKE_PERMISSION;
    HealthCheck "/grpc.health.v1.Health/Check" Unary Nothing NAME;
    HealthWatch "/grpc.health.v1.Health/Watch" Answers Nothing NAME;
}

impl Method {
    /// The method of a request, from its path without query or anything else.
    pub(crate) fn of(uri: &Uri) -> Option<Self> {
        let path = uri.path_and_query()?.as_str();
        Self::parse(path)
    }

    /// Its path as the URI that is sent to etcd.
    pub(super) fn uri(self) -> Uri {
        Uri::from_static(self.path())
    }

    /// The canonical encoding of a request message.
    ///
    /// # Errors
    /// When the message holds anything that is unknown, out of range or ambiguous.
    pub(super) fn canonical(self, message: &[u8]) -> Result<Vec<u8>, Refused> {
        self.schema().canonical(message)
    }

    /// Whether the method acts on the one member that it is sent to, and on no other.
    #[cfg(feature = "proxy")]
    pub(crate) fn is_about_one_member(self) -> bool {
        matches!(self, Self::Defragment | Self::Hash | Self::HashKv | Self::MoveLeader)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_exact() {
        for method in Method::ALL {
            assert_eq!(Method::parse(method.path()), Some(*method));
            assert_eq!(Method::of(&method.uri()), Some(*method));
        }
        for path in [
            "",
            "/",
            "etcdserverpb.KV/Range",
            "//etcdserverpb.KV/Range",
            "/etcdserverpb.KV/Range/",
            "/etcdserverpb.KV/range",
            "/%65tcdserverpb.KV/Range",
            "/v3/kv/range",
            "/v3alpha/kv/range",
            "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        ] {
            assert_eq!(Method::parse(path), None, "{path}");
        }
        for uri in ["/etcdserverpb.KV/Range?", "/etcdserverpb.KV/Range?x=1"] {
            assert_eq!(Method::of(&Uri::from_static(uri)), None, "{uri}");
        }
    }
}
