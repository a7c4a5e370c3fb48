//! Functions that take any bytes and must not panic. For fuzz targets and tests.

use super::{Cluster, StaticPod, read_snap, read_wal};

/// Takes any bytes.
pub type Target = fn(&[u8]);

/// All of them, by name.
pub const ALL: &[(&str, Target)] =
    &[("wal", wal), ("snap", snap), ("manifest", manifest), ("cluster", cluster)];

/// A log.
pub fn wal(data: &[u8]) {
    if let Ok(records) = read_wal(data) {
        let read: usize = records.iter().map(|record| record.data.len()).sum();
        assert!(read <= data.len());
    }
}

/// A snapshot file.
pub fn snap(data: &[u8]) {
    let _ = read_snap(data);
}

/// A static pod.
pub fn manifest(data: &[u8]) {
    if let Ok(yaml) = std::str::from_utf8(data) {
        let _ = StaticPod::parse(yaml);
    }
}

/// What follows `--initial-cluster`.
pub fn cluster(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(cluster) = Cluster::parse(text, "token") else { return };
    assert!(Cluster::parse(&cluster.initial_cluster(), "token").is_ok_and(|same| same == cluster));
    assert!(read_snap(&cluster.snap()).is_ok());
    for member in &cluster.members {
        assert!(read_wal(&cluster.wal(member)).is_ok());
    }
}
