//! The `.snap` file: the membership as etcd's old store has it, and how far the log had come
//! (`server/etcdserver/api/snap/snapshotter.go`, `v2store/store.go`).

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::cluster::{Cluster, TERM, go_json};
use crate::protobuf::Message;
use crate::protobuf::fields::{snap_file, snapshot, snapshot_metadata};

/// Raft term in the file's name.
pub const SNAP_NAME_TERM: u64 = TERM;

/// Events that the old store remembers.
const HISTORY: usize = 1000;
const CREATED: &str = "createSuccess";
/// What the old store counts.
const STATISTICS: [&str; 16] = [
    "getsSuccess",
    "getsFail",
    "setsSuccess",
    "setsFail",
    "deleteSuccess",
    "deleteFail",
    "updateSuccess",
    "updateFail",
    CREATED,
    "createFail",
    "compareAndSwapSuccess",
    "compareAndSwapFail",
    "compareAndDeleteSuccess",
    "compareAndDeleteFail",
    "expireCount",
    "watchers",
];
const NONE: [(&str, Value); 0] = [];

impl Cluster {
    /// Name of the file: raft term and index.
    #[must_use]
    pub fn snap_name(&self) -> String {
        format!("{SNAP_NAME_TERM:016x}-{:016x}.snap", self.index())
    }

    /// The file.
    #[must_use]
    pub fn snap(&self) -> Vec<u8> {
        let metadata = Message::default()
            .message(snapshot_metadata::CONF_STATE, self.conf_state())
            .number(snapshot_metadata::INDEX, self.index())
            .number(snapshot_metadata::TERM, TERM);
        let snapshot = Message::default()
            .bytes(snapshot::DATA, self.old_store().as_bytes())
            .message(snapshot::METADATA, metadata)
            .into_bytes();
        let crc = crc32c::crc32c(&snapshot);
        let file = Message::default().number(snap_file::CRC, crc.into());
        file.bytes(snap_file::DATA, &snapshot).into_bytes()
    }

    /// The old store, which creates each member's attributes once, byte for byte as etcd writes it.
    fn old_store(&self) -> String {
        let (mut members, mut events) = (BTreeMap::new(), Vec::new());
        for (index, member) in (1_u64..).zip(&self.members) {
            let path = format!("/0/members/{}", member.hex());
            let key = format!("{path}/raftAttributes");
            let value = go_json(&json!({"peerURLs": member.peer_urls}));
            let attributes = node(&key, index, &value, Value::Null);
            // Go sorts a map by its keys.
            members.insert(member.hex(), folder(&path, index, [("raftAttributes", attributes)]));
            events.push(json!({
                "action": "create",
                "node": {"key": key, "value": value, "modifiedIndex": index, "createdIndex": index},
            }));
        }
        let (count, first) = (self.index(), 1);
        events.resize(HISTORY, Value::Null);
        let members = folder("/0/members", first, members);
        let prefixes =
            [("0", folder("/0", 0, [("members", members)])), ("1", folder("/1", 0, NONE))];
        let statistics: Map<String, Value> = STATISTICS
            .into_iter()
            .map(|name| (name.to_owned(), json!(if name == CREATED { count } else { 0 })))
            .collect();
        go_json(&json!({
            "Root": folder("/", 0, prefixes),
            "WatcherHub": {"EventHistory": {
                "Queue": {
                    "Events": events, "Size": count, "Front": 0, "Back": count, "Capacity": HISTORY,
                },
                "StartIndex": first, "LastIndex": count,
            }},
            "CurrentIndex": count,
            "Stats": statistics,
            "CurrentVersion": 2,
        }))
    }
}

fn folder<N: Into<String>>(
    path: &str,
    index: u64,
    children: impl IntoIterator<Item = (N, Value)>,
) -> Value {
    let children = children.into_iter().map(|(name, child)| (name.into(), child));
    node(path, index, "", Value::Object(children.collect()))
}

fn node(path: &str, index: u64, value: &str, children: Value) -> Value {
    json!({
        "Path": path, "CreatedIndex": index, "ModifiedIndex": index,
        "ExpireTime": "0001-01-01T00:00:00Z", "Value": value, "Children": children,
    })
}
