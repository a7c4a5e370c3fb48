//! What scripts/package and the Dockerfile make, used as an operator does: in a Debian of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde_json::Value;

use crate::deploy::deploy;
use crate::end_to_end::run;
use crate::etcd_server::{Etcd, Version};
use crate::place::{Place, text};
use crate::s3_server::{self, Flavour};
use crate::units::{Walk, commands, is_allowed};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The packages of the last commit, from a clone of its own below `dir`.
fn packages(dir: &Path) -> PathBuf {
    let (clone, out) = (dir.join("clone"), dir.join("packages"));
    run(Command::new("git").args(["clone", "-q"]).arg(root()).arg(&clone));
    let mut package = Command::new(clone.join("scripts/package"));
    package.arg(&out).env_remove("CARGO_TARGET_DIR").env_remove("RUSTFLAGS");
    run(&mut package);
    out
}

/// Those that the tests share; STRONGROOM_TEST_PACKAGES names some that are there already.
fn shared() -> &'static Path {
    if let Some(dir) = std::env::var_os("STRONGROOM_TEST_PACKAGES") {
        return Box::leak(PathBuf::from(dir).into_boxed_path());
    }
    static DIR: OnceLock<tempfile::TempDir> = OnceLock::new();
    let dir = DIR.get_or_init(|| {
        let dir = tempfile::tempdir().unwrap();
        packages(dir.path());
        dir
    });
    Box::leak(dir.path().join("packages").into_boxed_path())
}

fn package() -> PathBuf {
    let mut entries = fs::read_dir(shared()).unwrap().map(|entry| entry.unwrap().path());
    entries.find(|path| path.extension().is_some_and(|end| end == "deb")).unwrap()
}

/// A small Debian in `to`, with this machine's settings of apt.
fn debian(to: &Path) -> bool {
    let tree = root().join(".tools/debian/root.tar");
    if !tree.exists() || !rustix::process::geteuid().is_root() || !is_allowed() {
        println!("SKIPPED: it needs root, and the Debian that scripts/get-tools --long fetches");
        return false;
    }
    fs::create_dir(to).unwrap();
    run(Command::new("tar").arg("-C").arg(to).arg("-xf").arg(tree));
    let script = "cp /etc/resolv.conf /etc/hosts \"$0/etc/\"; mkdir -p \"$0/etc/ssl\"; cp -rL /etc/ssl/certs \"$0/etc/ssl/\"; \
        apt-config dump | grep '^Acquire::https*::' >\"$0/etc/apt/apt.conf.d/90machine\"; :";
    run(Command::new("sh").args(["-c", script]).arg(to));
    true
}

/// A shell in that Debian, in namespaces of its own. The programs of etcd are in its path.
fn inside(root: &Path, user: &str, script: &str) -> Command {
    let begin = "set -eu\nmount --make-rprivate /\nmount -t proc none \"$R/proc\"\nmount --rbind /dev \"$R/dev\"\n\
        mount -t tmpfs none \"$R/tmp\"\nchmod 1777 \"$R/tmp\"\n\
        exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 \
        DEBIAN_FRONTEND=noninteractive chroot --userspec=\"$U\" \"$R\" sh -c \"$SCRIPT\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "-p", "-f", "--kill-child", "sh", "-c", begin]);
    command.env("R", root).env("U", user).env("SCRIPT", script);
    command
}

/// README from the installation of the package to a restore, and the package's removal.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a release"]
async fn long_readme_from_the_package_to_a_restore() {
    let place = Place::new();
    let system = place.path("debian");
    if !debian(&system) {
        return;
    }
    let etcd = Etcd::builder(Version::V3_5).with_tls().start().await;
    etcd.put("/registry/configmaps/prod/settings", "1").await;
    fs::create_dir_all(place.path("s3/acme-etcd-backups")).unwrap();
    let store = s3_server::start(&place.path("s3"), Flavour::S3).await;
    let said = tokio::task::spawn_blocking(move || {
        let walk = Walk::of_readme(&place, &etcd, &store);
        let install = commands("Install");
        let install = install.lines().find(|line| line.contains("apt install")).unwrap();
        let home = system.join("root");
        fs::copy(package(), home.join(package().file_name().unwrap())).unwrap();
        for file in ["strongroom.toml", "store.env"] {
            fs::copy(place.path(file), home.join(file)).unwrap();
        }
        run(Command::new("cp").arg("-r").arg(place.path("etc/kubernetes")).arg(system.join("etc")));
        for program in ["etcd", "etcdctl", "etcdutl"] {
            let from = Version::V3_5.programs().join(program);
            fs::copy(from, system.join("usr/local/bin").join(program)).unwrap();
        }
        let script = format!(
            "set -eu\nexport D=/root\ncd \"$D\"\nsudo() {{ \"$@\"; }}\nmkdir -p /media/usb\napt-get -qq update\n\
             {}\n\
             stat -c 'modes %a %a' /etc/strongroom /etc/strongroom-kms\nid strongroom-agent\nstrongroom -V\n\
             ls /usr/share/man/man1/strongroom-key-list.1.gz /usr/share/man/man5/strongroom.toml.5.gz \
             /usr/share/bash-completion/completions/strongroom /usr/lib/systemd/system/strongroom-agent.service\n\
             {}\n\
             apt-get -y -qq purge strongroom\nls /etc/strongroom/keyring\ntest ! -e /usr/bin/strongroom\n",
            install.replace("apt install", "apt-get -y -qq install").replace("./target/packages/", "./"),
            walk.script,
        );
        let out = inside(&system, "0:0", &script).output().unwrap();
        let said = text(&out.stdout) + &text(&out.stderr);
        assert!(out.status.success(), "{said}");
        walk.assert_done(&said);
        said
    })
    .await
    .unwrap();
    assert!(said.contains("modes 700 700") && said.contains("strongroom-agent"), "{said}");
    let version = said.lines().find(|line| line.contains("(commit ")).unwrap();
    assert!(!version.contains("unknown") && version.contains("pkcs11"), "{version}");
}

/// README names the oldest glibc, and what is compiled in is listed.
#[test]
#[ignore = "builds a release twice"]
fn long_two_clones_give_the_same_packages() {
    let dir = tempfile::tempdir().unwrap();
    let deeper = dir.path().join("another/place");
    fs::create_dir_all(&deeper).unwrap();
    let second = packages(&deeper);
    let sums = |dir: &Path| fs::read_to_string(dir.join("SHA256SUMS")).unwrap();
    assert_eq!(sums(shared()), sums(&second));
    assert_eq!(sums(&second).lines().count(), 3);
    let mut files = fs::read_dir(&second).unwrap().map(|entry| entry.unwrap().path());
    let list = files.find(|path| path.to_string_lossy().ends_with(".cdx.json")).unwrap();
    let list: Value = serde_json::from_slice(&fs::read(list).unwrap()).unwrap();
    let parts = list["components"].as_array().unwrap();
    for name in ["aws-lc-sys", "object_store", "cryptoki"] {
        assert!(parts.iter().any(|part| part["name"] == name), "{name}");
    }
    let control = run(Command::new("dpkg-deb").arg("-f").arg(package()).arg("Depends"));
    let glibc = control.split("libc6 (>= ").nth(1).unwrap().split(')').next().unwrap();
    let readme = include_str!("../../README.md");
    assert!(
        readme.contains(&format!("glibc {glibc} or later")),
        "README names another glibc than {control}"
    );
}

/// The image's parts, assembled by umoci: its program backs up and drills as the Dockerfile's user.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "builds a release"]
async fn long_the_image_works_as_its_user() {
    let place = Place::new();
    let base = place.path("base");
    if !debian(&base) {
        return;
    }
    let dockerfile = fs::read_to_string(deploy("container/Dockerfile")).unwrap();
    let last = |word: &str| {
        let line = dockerfile.lines().rev().find_map(|line| line.strip_prefix(word));
        line.unwrap().trim().to_owned()
    };
    let (user, entry) = (last("USER "), last("ENTRYPOINT "));
    let entry: Vec<String> = serde_json::from_str(&entry).unwrap();
    let etcd = Etcd::start(Version::V3_5).await;
    etcd.put("/a", "1").await;
    tokio::task::spawn_blocking(move || {
        let image = format!("{}:strongroom", place.path("image").display());
        let umoci = |args: &[&str]| run(Command::new("umoci").args(args));
        umoci(&["init", "--layout", place.path("image").to_str().unwrap()]);
        umoci(&["new", "--image", &image]);
        let (built, started) = (place.path("built"), place.path("started"));
        umoci(&["unpack", "--image", &image, built.to_str().unwrap()]);
        let rootfs = built.join("rootfs");
        run(Command::new("cp").arg("-a").arg(base.join(".")).arg(&rootfs));
        run(Command::new("dpkg-deb").arg("-x").arg(package()).arg(&rootfs));
        fs::copy(Version::V3_5.programs().join("etcd"), rootfs.join("usr/bin/etcd")).unwrap();
        umoci(&["repack", "--image", &image, built.to_str().unwrap()]);
        let entry_flag = format!("--config.entrypoint={}", entry[0]);
        umoci(&["config", "--image", &image, "--config.user", &user, &entry_flag]);
        umoci(&["unpack", "--image", &image, started.to_str().unwrap()]);
        let config: Value = serde_json::from_slice(&fs::read(started.join("config.json")).unwrap()).unwrap();
        let uid = config["process"]["user"]["uid"].as_u64().unwrap();
        assert!(uid != 0 && user == format!("{uid}:{uid}"), "{user}");
        assert_eq!(config["process"]["args"][0], entry[0].as_str());
        let script = format!(
            "set -eu\nid -u\ncd /tmp\nexport STRONGROOM_REPOSITORY=/tmp/repo STRONGROOM_MASTER_KEY=file:/tmp/keyring\n\
             {0} -V\n{0} key generate -o keyring\n{0} init\n{0} backup --endpoints {1}\n{0} drill latest\n",
            entry[0],
            etcd.endpoint()
        );
        let out = inside(&started.join("rootfs"), &user, &script).output().unwrap();
        let said = text(&out.stdout) + &text(&out.stderr);
        assert!(out.status.success() && said.starts_with(&format!("{uid}\n")), "{said}");
        assert!(said.contains("serves the snapshot's data"), "{said}");
    })
    .await
    .unwrap();
}

#[test]
fn the_dockerfile_is_linted() {
    let hadolint = PathBuf::from(crate::support::python().get_program()).with_file_name("hadolint");
    if cfg!(not(target_arch = "x86_64")) && !hadolint.exists() {
        println!("SKIPPED: there is no hadolint for this machine");
        return;
    }
    let path = deploy("container/Dockerfile");
    run(Command::new(&hadolint).arg(&path));
    let text = fs::read_to_string(&path).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let wrong = dir.path().join("Dockerfile");
    fs::write(&wrong, text.replace("USER 65532:65532", "USER root")).unwrap();
    assert!(!Command::new(&hadolint).arg(&wrong).output().unwrap().status.success());
    // The Rust that the crate asks for, and all that a build needs gets past .dockerignore.
    assert!(text.contains(&format!("FROM rust:{}-", env!("CARGO_PKG_RUST_VERSION"))));
    let ignore = fs::read_to_string(root().join(".dockerignore")).unwrap();
    let context = dir.path().join("context");
    fs::create_dir(&context).unwrap();
    for name in ignore.lines().filter_map(|line| line.strip_prefix('!')) {
        run(Command::new("cp").arg("-r").arg(root().join(name)).arg(&context));
    }
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--no-deps", "--offline", "--locked", "--format-version", "1"]);
    let found = run(cargo.current_dir(&context));
    assert!(found.contains("src/bin/strongroom/main.rs"));
}

/// What cargo would publish builds and documents the crate, without the tests.
#[test]
fn cargo_packages_the_crate() {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["package", "--list", "--allow-dirty", "--offline"]).current_dir(root());
    let list = run(&mut cargo);
    let files: Vec<&str> = list.lines().collect();
    for file in ["Cargo.lock", "README.md", "LICENSE-MIT", "LICENSE-APACHE", "src/lib.rs"] {
        assert!(files.contains(&file), "{file}");
    }
    assert!(files.contains(&"src/format/SPEC.md") && files.contains(&"src/guide/restore.md"));
    let outside =
        |file: &&&str| ["tests/", ".ci", "scripts/bench"].iter().any(|dir| file.starts_with(dir));
    assert_eq!(files.iter().find(outside), None);
}

#[test]
fn the_manual_has_every_section() {
    let dir = tempfile::tempdir().unwrap();
    let program = || Command::new(env!("CARGO_BIN_EXE_strongroom"));
    run(program().arg("man").arg(dir.path()));
    let page = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap();
    let pages = fs::read_dir(dir.path().join("man1")).unwrap();
    let pages: Vec<_> =
        pages.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(pages.len() > 55);
    for name in &pages {
        let page = page(&format!("man1/{name}"));
        for section in ["NAME", "SYNOPSIS", "ENVIRONMENT", "\"EXIT STATUS\"", "FILES"] {
            assert!(page.contains(&format!("\n.SH {section}\n")), "{name} has no {section}");
        }
        assert!(page.contains("\"strongroom "), "{name} does not name the version");
    }
    let main = page("man1/strongroom.1");
    for word in [".SH EXAMPLES\n", "STRONGROOM_CONFIG", "ETCDCTL", "strongroom.toml"] {
        assert!(main.contains(word), "{word}");
    }
    assert!(page("man5/strongroom.toml.5").contains("# keep_daily = "));
    // The same words as in the guide.
    let guide = include_str!("../../src/guide/operations.md");
    let table = guide.split("| exit status | means |\n|---|---|\n").nth(1).unwrap();
    let rows: Vec<_> = table.lines().take_while(|line| line.starts_with('|')).collect();
    assert_eq!(rows.len(), 10);
    for row in rows {
        let (status, means) = row.trim_matches('|').split_once('|').unwrap();
        let item = format!("\\fB{}\\fR\n{}\n", status.trim(), means.trim().replace('-', "\\-"));
        assert!(main.contains(&item), "{item}");
    }
    let version = run(program().arg("-V"));
    let begin = concat!("strongroom ", env!("CARGO_PKG_VERSION"), " (commit ");
    assert!(
        version.starts_with(begin) && version.contains("; features: s3 gcs azure"),
        "{version}"
    );
}
