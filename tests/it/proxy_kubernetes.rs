//! Kubernetes' own tests of its storage in etcd, through the proxy.

use std::path::Path;
use std::process::Command;

use crate::behind::{Behind, blocking, contains, go};
use crate::etcd_server::{Etcd, Version};

/// The minor of an etcd 3.
fn minor(version: Version) -> u32 {
    let text = version.program("etcd").arg("--version").output().unwrap().stdout;
    let text = String::from_utf8(text).unwrap();
    text.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap()
}

#[test]
#[ignore = "long: it builds the storage of Kubernetes' API server"]
fn long_kubernetes_storage_through_the_proxy() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubernetes-storage");
    let built = go("kubernetes").args(["test", "-c", "-o"]).arg(&program).arg(".").status();
    assert!(built.expect("go runs").success(), "tests/clients/kubernetes does not build");
    // 3.4 is older than what this Kubernetes talks to.
    for version in Version::ALL.into_iter().filter(|version| *version != Version::V3_4) {
        // The API server expects a word from etcd now and then.
        let experimental = if minor(version) < 6 { "experimental-" } else { "" };
        let notify = format!("--{experimental}watch-progress-notify-interval=1s");
        let etcd = Etcd::builder(version).arg(&notify);
        let behind = Behind::new(blocking(etcd.start()));
        let proxy = behind.proxy(&[]);
        let output = Command::new(&program)
            .args(["-test.v", "-test.timeout=10m"])
            .env("STRONGROOM_TEST_ENDPOINT", proxy.endpoint())
            .env("STRONGROOM_TEST_RANGE_STREAM", if minor(version) < 7 { "0" } else { "1" })
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let failed: Vec<_> = text.lines().filter(|line| line.contains("--- FAIL")).collect();
        assert!(output.status.success() && failed.is_empty(), "{version:?}: {failed:#?}");
        assert!(text.matches("--- PASS").count() > 150, "{version:?}: {text}");
        let stored = behind.database();
        assert!(contains(&stored, b"/pods/") && !contains(&stored, b"plaintext!"));
    }
}
