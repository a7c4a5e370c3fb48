//! The audit log's files: every change of them shows, nothing that was confirmed is lost.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use strongroom::ErrorKind;
use strongroom::audit_log::{
    AuditLog, Filter, KeyFilter, KeyRange, Options, Record, files, query, verify,
};
use strongroom::keys::KeySet;
use tempfile::TempDir;

use crate::proxied::masters;

fn record(at: usize) -> Record {
    Record {
        time: "2026-01-31T12:00:00Z".parse().unwrap(),
        client: Some("app".into()),
        user: None,
        peer: "10.0.0.1:4711".into(),
        method: "/etcdserverpb.KV/Put".into(),
        keys: vec![KeyRange::key(format!("/app/{at}"))],
        more: 0,
        subject: None,
        repeats: 0,
        revision: Some(at as i64),
        outcome: "OK".into(),
        duration_us: 1,
    }
}

struct Log {
    _dir: TempDir,
    path: PathBuf,
    masters: Arc<KeySet>,
}

impl Log {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("audit.log");
        Self { _dir: dir, path, masters: masters() }
    }

    fn open(&self, max_bytes: u64) -> AuditLog {
        AuditLog::open(&self.path, Options { max_bytes }, Arc::clone(&self.masters)).unwrap()
    }

    async fn write(&self, count: usize, max_bytes: u64) {
        let log = self.open(max_bytes);
        for at in 0..count {
            log.record(record(at)).await.unwrap();
        }
        log.close().await.unwrap();
    }

    fn worst(&self) -> Option<ErrorKind> {
        verify(&files(&self.path).unwrap(), &self.masters).unwrap().worst()
    }

    fn is_whole(&self) -> bool {
        verify(&files(&self.path).unwrap(), &self.masters).unwrap().findings.is_empty()
    }
}

#[tokio::test]
async fn any_flipped_byte_shows() {
    let log = Log::new();
    log.write(3, 1 << 20).await;
    assert!(log.is_whole());
    let bytes = fs::read(&log.path).unwrap();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        fs::write(&log.path, &changed).unwrap();
        assert!(!log.is_whole(), "byte {at} of {}", bytes.len());
        // The last line's end could be a crash's.
        let innocent = at + 1 == bytes.len();
        assert_eq!(log.worst().is_none(), innocent, "byte {at} of {}", bytes.len());
    }
}

#[tokio::test]
async fn lines_removed_repeated_or_swapped_show() {
    let log = Log::new();
    log.write(6, 1 << 20).await;
    let text = fs::read_to_string(&log.path).unwrap();
    let lines: Vec<_> = text.lines().collect();
    let put = |lines: &[&str]| fs::write(&log.path, format!("{}\n", lines.join("\n"))).unwrap();
    for at in 0..lines.len() - 1 {
        let mut fewer = lines.clone();
        fewer.remove(at);
        put(&fewer);
        assert_eq!(log.worst(), Some(ErrorKind::Tampered), "without line {at}");
        let mut twice = lines.clone();
        twice.insert(at, lines[at]);
        put(&twice);
        assert_eq!(log.worst(), Some(ErrorKind::Tampered), "line {at} twice");
        let mut swapped = lines.clone();
        swapped.swap(at, at + 1);
        put(&swapped);
        assert_eq!(log.worst(), Some(ErrorKind::Tampered), "line {at} swapped");
    }
    // A cut at the end is a finding: it may be a crash.
    put(&lines[..lines.len() - 1]);
    assert!(!log.is_whole());
    for cut in 1..60 {
        fs::write(&log.path, &text[..text.len() - cut]).unwrap();
        assert!(!log.is_whole(), "{cut} bytes cut");
    }
}

#[tokio::test]
async fn files_are_rotated_and_linked() {
    let log = Log::new();
    log.write(200, 8 << 10).await;
    log.write(100, 8 << 10).await;
    let all = files(&log.path).unwrap();
    assert!(all.len() > 5, "{}", all.len());
    let report = verify(&all, &log.masters).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    assert_eq!(report.records, 300);
    let filter = Filter { key: Some(KeyFilter::Exact(b"/app/7".to_vec())), ..Filter::default() };
    assert_eq!(query(all.clone(), filter).count(), 2);
    let prefix = Filter { key: Some(KeyFilter::Prefix(b"/app/1".to_vec())), ..Filter::default() };
    // 1, 10 to 19, 100 to 199; and of the second run 1, 10 to 19.
    assert_eq!(query(all.clone(), prefix).count(), 111 + 11);
    for at in 1..all.len() - 1 {
        let fewer: Vec<_> = all
            .iter()
            .enumerate()
            .filter(|(one, _)| *one != at)
            .map(|(_, file)| file.clone())
            .collect();
        let report = verify(&fewer, &log.masters).unwrap();
        assert_eq!(report.worst(), Some(ErrorKind::Tampered), "without file {at}");
    }
    assert_eq!(verify(&all, &masters()).unwrap().worst(), Some(ErrorKind::WrongKey));
}

#[tokio::test]
async fn one_writer_at_a_time() {
    let log = Log::new();
    let held = log.open(1 << 20);
    let second = AuditLog::open(&log.path, Options::default(), Arc::clone(&log.masters));
    assert_eq!(second.err().unwrap().kind(), ErrorKind::Refused);
    held.close().await.unwrap();
    assert_eq!(held.record(record(1)).await.unwrap_err().kind(), ErrorKind::Refused);
    log.write(1, 1 << 20).await;
    assert!(log.is_whole());
}

#[tokio::test]
async fn a_torn_end_is_cut_and_told() {
    let log = Log::new();
    log.write(4, 1 << 20).await;
    let bytes = fs::read(&log.path).unwrap();
    fs::write(&log.path, &bytes[..bytes.len() - 300]).unwrap();
    log.write(4, 1 << 20).await;
    let report = verify(&files(&log.path).unwrap(), &log.masters).unwrap();
    assert_eq!(report.worst(), None, "{:?}", report.findings);
    assert!(
        report.findings.iter().any(|finding| finding.problem.to_string().contains("incomplete"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_at_once() {
    let log = Log::new();
    let open = Arc::new(log.open(1 << 20));
    let mut tasks = Vec::new();
    for at in 0..10_000 {
        let open = Arc::clone(&open);
        tasks.push(tokio::spawn(async move { open.record(record(at)).await.unwrap() }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    open.close().await.unwrap();
    let all = files(&log.path).unwrap();
    let report = verify(&all, &log.masters).unwrap();
    assert!(report.findings.is_empty(), "{:?}", report.findings);
    let mut seen: Vec<_> = query(all, Filter::default())
        .map(|entry| entry.unwrap().record.revision.unwrap())
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..10_000).collect::<Vec<i64>>());
}

#[test]
fn what_is_no_log_is_left_alone() {
    let log = Log::new();
    fs::write(&log.path, "somebody's notes\n").unwrap();
    let opened = AuditLog::open(&log.path, Options::default(), Arc::clone(&log.masters));
    assert_eq!(opened.err().unwrap().kind(), ErrorKind::Tampered);
    assert_eq!(fs::read_to_string(&log.path).unwrap(), "somebody's notes\n");
    assert!(files(Path::new("/nowhere/audit.log")).is_err());
}
