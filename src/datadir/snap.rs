//! The `.snap` file: the membership as etcd's old store has it, and how far the log had come
//! (`server/etcdserver/api/snap/snapshotter.go`, `v2store/store.go`).

use serde_json::{Map, Value, json};

use super::cluster::{Cluster, TERM};
use super::proto::Message;

/// Raft term in the file's name.
pub const SNAP_NAME_TERM: u64 = TERM;

/// Events that the old store would remember.
const HISTORY: u64 = 1000;

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
            .message(1, self.conf_state())
            .number(2, self.index())
            .number(3, TERM);
        let snapshot = Message::default()
            .bytes(1, self.old_store().to_string().as_bytes())
            .message(2, metadata)
            .into_bytes();
        let crc = crc32c::crc32c(&snapshot);
        Message::default().number(1, crc.into()).bytes(2, &snapshot).into_bytes()
    }

    fn old_store(&self) -> Value {
        let members = (1..).zip(&self.members).map(|(index, member)| {
            let path = format!("/0/members/{}", member.hex());
            let attributes = json!({"peerURLs": member.peer_urls}).to_string();
            let attributes = leaf(&format!("{path}/raftAttributes"), index, &attributes);
            let children = [("raftAttributes".to_owned(), attributes)];
            (member.hex(), folder(&path, index, children.into_iter().collect()))
        });
        let members = folder("/0/members", 1, members.collect());
        let prefixes = [
            (
                "0".to_owned(),
                folder("/0", 0, [("members".to_owned(), members)].into_iter().collect()),
            ),
            ("1".to_owned(), folder("/1", 0, Map::new())),
        ];
        json!({
            "Root": folder("/", 0, prefixes.into_iter().collect()),
            "WatcherHub": {"EventHistory": {
                "Queue": {"Events": vec![Value::Null; HISTORY as usize], "Size": 0, "Front": 0, "Back": 0, "Capacity": HISTORY},
                "StartIndex": 0, "LastIndex": 0,
            }},
            "CurrentIndex": self.index(),
            "Stats": {},
            "CurrentVersion": 2,
        })
    }
}

fn folder(path: &str, index: u64, children: Map<String, Value>) -> Value {
    node(path, index, "", Value::Object(children))
}

fn leaf(path: &str, index: u64, value: &str) -> Value {
    node(path, index, value, Value::Null)
}

fn node(path: &str, index: u64, value: &str, children: Value) -> Value {
    json!({
        "Path": path, "CreatedIndex": index, "ModifiedIndex": index,
        "ExpireTime": "0001-01-01T00:00:00Z", "Value": value, "Children": children,
    })
}
