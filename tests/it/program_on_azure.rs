//! The whole program against Azurite, Microsoft's own emulator of Azure Blob.

use std::fs;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::end_to_end::program;
use crate::etcd_server::free_ports;
use crate::support::{python, small_database};

/// Creates a container with a signed PUT (Shared Key, as Azure documents it): `object_store` creates none.
/// Account and key are Azurite's own, public ones.
const CREATE_CONTAINER: &str = r#"
import base64, email.utils, hashlib, hmac, sys, urllib.request
url, name = sys.argv[1:]
key = base64.b64decode("Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==")
date = email.utils.formatdate(usegmt=True)
canonical = f"x-ms-date:{date}\nx-ms-version:2021-08-06\n/devstoreaccount1/devstoreaccount1/{name}\nrestype:container"
text = "PUT" + "\n" * 12 + canonical
signature = base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()
headers = {"x-ms-date": date, "x-ms-version": "2021-08-06", "Authorization": f"SharedKey devstoreaccount1:{signature}"}
urllib.request.urlopen(urllib.request.Request(f"{url}/devstoreaccount1/{name}?restype=container", method="PUT", headers=headers))
"#;

struct Azurite {
    child: Child,
    url: String,
}

impl Azurite {
    fn start() -> Self {
        let port = free_ports(1)[0];
        let server = std::env::var_os("STRONGROOM_TEST_AZURITE").map_or_else(
            || {
                Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join(".tools/node/node_modules/.bin/azurite-blob")
            },
            PathBuf::from,
        );
        let child = Command::new(server)
            .args(["--blobHost", "127.0.0.1", "--blobPort", &port.to_string()])
            .args(["--inMemoryPersistence", "--disableTelemetry", "--skipApiVersionCheck"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("Azurite: run scripts/get-tools");
        let azurite = Self { child, url: format!("http://127.0.0.1:{port}") };
        let deadline = Instant::now() + Duration::from_secs(60);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < deadline, "Azurite does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
        azurite
    }

    fn run(&self, args: &[&str]) -> (i32, String) {
        let mut command = program();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AZURE_") {
                command.env_remove(name);
            }
        }
        let output = command
            .env("AZURE_STORAGE_USE_EMULATOR", "true")
            .env("AZURITE_BLOB_STORAGE_URL", &self.url)
            .env("AZURE_ALLOW_HTTP", "true")
            .args(["-r", "az://backups/some/prefix"])
            .args(args)
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Azurite {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn the_program_on_azure() {
    let azurite = Azurite::start();
    let created =
        python().args(["-c", CREATE_CONTAINER, &azurite.url, "backups"]).status().unwrap();
    assert!(created.success());
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let keyring = format!("file:{}", path("keyring"));
    let succeeds = |args: &[&str]| {
        let (code, error) = azurite.run(args);
        assert_eq!(code, 0, "{args:?}: {error}");
    };
    succeeds(&["key", "generate", "-o", &path("keyring")]);
    assert_eq!(azurite.run(&["snapshots"]).0, 10);
    succeeds(&["init"]);
    assert_eq!(azurite.run(&["init"]).0, 1, "a repository is made once");
    let database = small_database();
    succeeds(&["-k", &keyring, "backup", "--file", database.to_str().unwrap()]);
    succeeds(&["-k", &keyring, "verify", "--all"]);
    succeeds(&["key", "rotate", "-k", &keyring]);
    succeeds(&["-k", &keyring, "key", "reseal", "--all"]);
    succeeds(&["-k", &keyring, "restore", "latest", "--output", &path("etcd.db")]);
    assert_eq!(fs::read(path("etcd.db")).unwrap(), fs::read(database).unwrap());
}
