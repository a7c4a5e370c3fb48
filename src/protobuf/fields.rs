//! Numbers of the fields of etcd's messages, each module named for its message (`rpc.proto`, `kv.proto`, `v3lock.proto`,
//! `v3election.proto`, `lease.proto`, `raft.proto`, `walpb/record.proto`, `snappb/snap.proto`).

#![allow(dead_code, reason = "which of them are used depends on the features")]

/// The header, of every answer of etcd's API.
pub(crate) const HEADER: u64 = 1;

macro_rules! messages {
    ($($(#[$doc:meta])* $message:ident { $($field:ident = $number:literal),* $(,)? })*) => {
        $($(#[$doc])* pub(crate) mod $message { $(pub(crate) const $field: u64 = $number;)* })*
    };
}

messages! {
    /// `mvccpb.KeyValue`
    key_value { KEY = 1, CREATE_REVISION = 2, MOD_REVISION = 3, VERSION = 4, VALUE = 5, LEASE = 6 }
    /// `mvccpb.Event`
    event { TYPE = 1, KV = 2, PREV_KV = 3 }
    /// `leasepb.Lease`
    lease { ID = 1, TTL = 2, REMAINING_TTL = 3 }
    /// `ResponseHeader`
    header { CLUSTER_ID = 1, MEMBER_ID = 2, REVISION = 3, RAFT_TERM = 4 }

    /// `RangeRequest`
    range {
        KEY = 1, RANGE_END = 2, LIMIT = 3, REVISION = 4, SORT_ORDER = 5, SORT_TARGET = 6, SERIALIZABLE = 7, KEYS_ONLY = 8,
        COUNT_ONLY = 9, MIN_MOD_REVISION = 10, MAX_CREATE_REVISION = 13,
    }
    /// `RangeResponse`
    range_response { KVS = 2, MORE = 3, COUNT = 4 }
    /// `RangeStreamResponse`
    range_stream_response { RANGE_RESPONSE = 1 }
    /// `PutRequest`
    put { KEY = 1, VALUE = 2, LEASE = 3, IGNORE_VALUE = 5 }
    /// `PutResponse`
    put_response { PREV_KV = 2 }
    /// `DeleteRangeRequest`
    delete_range { KEY = 1, RANGE_END = 2 }
    /// `DeleteRangeResponse`
    delete_range_response { DELETED = 2, PREV_KVS = 3 }
    /// `RequestOp`, and `ResponseOp` likewise
    op { RANGE = 1, PUT = 2, DELETE_RANGE = 3, TXN = 4 }
    /// `TxnRequest`
    txn { COMPARE = 1, SUCCESS = 2, FAILURE = 3 }
    /// `TxnResponse`
    txn_response { SUCCEEDED = 2, RESPONSES = 3 }
    /// `Compare`
    compare {
        RESULT = 1, TARGET = 2, KEY = 3, VERSION = 4, MOD_REVISION = 6, VALUE = 7, LEASE = 8, RANGE_END = 64,
    }

    /// `WatchRequest`
    watch { CREATE = 1, CANCEL = 2 }
    /// `WatchCreateRequest`
    watch_create { KEY = 1, RANGE_END = 2, START_REVISION = 3, PROGRESS_NOTIFY = 4, FRAGMENT = 8 }
    /// `WatchCancelRequest`
    watch_cancel { WATCH_ID = 1 }
    /// `WatchResponse`
    watch_response {
        WATCH_ID = 2, CREATED = 3, CANCELED = 4, COMPACT_REVISION = 5, CANCEL_REASON = 6, FRAGMENT = 7, EVENTS = 11,
    }

    /// `LeaseGrantRequest`
    lease_grant { TTL = 1, ID = 2 }
    /// `LeaseGrantResponse`
    lease_grant_response { ID = 2 }
    /// `LeaseTimeToLiveRequest`; the requests for one lease have the same first field
    lease_time_to_live { ID = 1, KEYS = 2 }
    /// `LeaseTimeToLiveResponse`
    lease_time_to_live_response { KEYS = 5 }

    /// `LockRequest`
    lock { NAME = 1, LEASE = 2 }
    /// `UnlockRequest`
    unlock { KEY = 1 }
    /// `LeaderKey`
    leader_key { KEY = 2, LEASE = 4 }
    /// `CampaignRequest`; of a `LockRequest` and a `LeaderRequest` the first are the same
    campaign { NAME = 1, LEASE = 2, VALUE = 3 }
    /// `ProclaimRequest`; the first of a `ResignRequest` is the same
    proclaim { LEADER = 1, VALUE = 2 }
    /// `LeaderResponse`
    leader_response { KV = 2 }

    /// `MemberListResponse`, and the answers to changes
    member_list_response { MEMBERS = 2 }
    /// `MemberAddResponse`
    member_add_response { MEMBERS = 3 }
    /// `Member`
    member { CLIENT_URLS = 4 }
    /// `MemberUpdateRequest`; the requests for one member have the same first field
    member_update { ID = 1 }
    /// `MemberAddRequest`
    member_add { PEER_URLS = 1 }
    /// `AlarmRequest`
    alarm { ACTION = 1 }
    /// `CompactionRequest`, and `HashKVRequest` likewise
    compaction { REVISION = 1 }
    /// `DowngradeRequest`
    downgrade { VERSION = 2 }
    /// `AuthStatusResponse`
    auth_status_response { ENABLED = 2, AUTH_REVISION = 3 }
    /// The requests about a user or a role begin with its name
    named { NAME = 1, ROLE = 2 }
    /// `AuthenticateResponse`
    authenticate_response { TOKEN = 2 }
    /// `AuthRoleGrantPermissionRequest`
    grant_permission { PERMISSION = 2 }
    /// `Permission`, and `AuthRoleRevokePermissionRequest` likewise
    permission { KEY = 2, RANGE_END = 3 }

    /// `walpb.Record`
    record { TYPE = 1, CRC = 2, DATA = 3 }
    /// `etcdserverpb.Metadata`
    metadata { NODE_ID = 1, CLUSTER_ID = 2 }
    /// `raftpb.Entry`
    entry { TYPE = 1, TERM = 2, INDEX = 3, DATA = 4 }
    /// `raftpb.ConfChange`
    conf_change { ID = 1, TYPE = 2, NODE_ID = 3, CONTEXT = 4 }
    /// `raftpb.HardState`
    hard_state { TERM = 1, VOTE = 2, COMMIT = 3 }
    /// `raftpb.ConfState`
    conf_state { VOTERS = 1, AUTO_LEAVE = 5 }
    /// `walpb.Snapshot`
    wal_snapshot { INDEX = 1, TERM = 2, CONF_STATE = 3 }
    /// `snappb.Snapshot`
    snap_file { CRC = 1, DATA = 2 }
    /// `raftpb.Snapshot`
    snapshot { DATA = 1, METADATA = 2 }
    /// `raftpb.SnapshotMetadata`
    snapshot_metadata { CONF_STATE = 1, INDEX = 2, TERM = 3 }
}
