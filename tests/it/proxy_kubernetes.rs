//! Kubernetes' own tests of its storage in etcd, through the proxy.

use std::path::Path;

use crate::behind::{Behind, blocking, contains, go};
use crate::etcd_server::{Etcd, Version};

#[test]
#[ignore = "long: it builds the storage of Kubernetes' API server"]
fn long_kubernetes_storage_through_the_proxy() {
    let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("kubernetes-storage");
    let built = go("kubernetes").args(["test", "-c", "-o"]).arg(&program).arg(".").status();
    assert!(built.expect("go runs").success(), "tests/clients/kubernetes does not build");
    // The API server expects a word from etcd now and then.
    let etcd = Etcd::builder(Version::V3_5).arg("--experimental-watch-progress-notify-interval=1s");
    let behind = Behind::new(blocking(etcd.start()));
    let proxy = behind.proxy(&[]);
    let output = std::process::Command::new(program)
        .args(["-test.v", "-test.timeout=10m"])
        .env("STRONGROOM_TEST_ENDPOINT", proxy.endpoint())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let failed: Vec<_> = text.lines().filter(|line| line.contains("--- FAIL")).collect();
    assert!(output.status.success() && failed.is_empty(), "{failed:#?}");
    assert!(text.matches("--- PASS").count() > 150, "{text}");
    let stored = behind.database();
    assert!(contains(&stored, b"/pods/") && !contains(&stored, b"plaintext!"));
}
