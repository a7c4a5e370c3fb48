//! The proxy as a service: what systemd is told, and what SIGHUP does.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::etcd_server::{Etcd, Version};
use crate::proxy_gate::{init, keyring};

struct Service {
    child: Child,
    dir: TempDir,
    systemd: UnixDatagram,
}

impl Service {
    /// Waits until systemd was told `state`.
    fn told(&self, state: &str) {
        let begun = Instant::now();
        let mut buffer = [0; 512];
        loop {
            let length = self.systemd.recv(&mut buffer).unwrap_or(0);
            if String::from_utf8_lossy(&buffer[..length]).lines().any(|line| line == state) {
                return;
            }
            assert!(begun.elapsed() < Duration::from_secs(20), "{state}: {}", self.log());
        }
    }

    /// Waits for a line of the log.
    fn logged(&self, part: &str) {
        let begun = Instant::now();
        while !self.log().contains(part) {
            assert!(begun.elapsed() < Duration::from_secs(20), "{part}: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap()
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    fn configure(&self, more: &str) {
        let path = self.dir.path().join("strongroom.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(path, format!("{text}{more}\n")).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_is_told_and_a_hangup_reads_the_file_again() {
    let dir = TempDir::new().unwrap();
    let key = keyring(dir.path());
    let etcd = Etcd::start(Version::NEWEST).await;
    init(etcd.endpoint(), &key, "/strongroom/");
    let config = dir.path().join("strongroom.toml");
    // The backup's keys are there as well, and are not used.
    let text = format!(
        "master_keys = [\"file:/nonexistent\"]\n[etcd]\nendpoints = [{:?}]\n[values]\nmaster_keys = [{key:?}]\n\
         [proxy]\nlisten = \"127.0.0.1:0\"\nlog = \"json\"\n",
        etcd.endpoint()
    );
    fs::write(&config, text).unwrap();
    let socket = dir.path().join("notify");
    let systemd = UnixDatagram::bind(&socket).unwrap();
    systemd.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_strongroom"))
        .arg("proxy")
        .env("STRONGROOM_CONFIG", &config)
        .env("NOTIFY_SOCKET", &socket)
        .env("WATCHDOG_USEC", "300000")
        .stdin(Stdio::null())
        .stderr(File::create(dir.path().join("log")).unwrap())
        .spawn()
        .unwrap();
    let mut service = Service { child, dir, systemd };
    service.told("READY=1");
    service.told("WATCHDOG=1");
    service.logged("\"event\":\"started\"");

    service.signal("-HUP");
    service.told("RELOADING=1");
    service.told("READY=1");
    service.logged("\"event\":\"config_reloaded\"");
    service.configure("max_memory = 64");
    service.signal("-HUP");
    service.logged("\"event\":\"restart_needed\",\"settings\":\"proxy.max_memory\"");
    service.configure("allow = [\"a=/a/\"]");
    service.signal("-HUP");
    service.logged("\"event\":\"config_rejected\"");
    service.logged("--allow needs --listen-trusted-ca");

    service.signal("-TERM");
    service.told("STOPPING=1");
    let ended = service.child.wait().unwrap();
    assert!(ended.success(), "{ended}: {}", service.log());
}
