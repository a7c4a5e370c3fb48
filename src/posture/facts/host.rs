//! The host that etcd runs on: its process, settings, files. Everything is read below one root, which a container mounts
//! and a test makes.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::fact::Fact;
use super::certificate::Certificate;
use super::disk::{self, Disk, Mount, Swap};
use super::file::{below, read, resolved};
use super::filter::{self, Filter};
use super::settings::Settings;
use super::stray::{self, Stray};
use crate::error::{Error, Result};

/// Processes that are looked at.
const MAX_PROCESSES: usize = 100_000;
/// Where kubeadm puts the static pod of etcd.
const MANIFEST: &str = "etc/kubernetes/manifests/etcd.yaml";

/// Where to look.
#[derive(Clone, Debug, Default)]
pub struct HostOptions {
    /// The root of the file system.
    pub root: PathBuf,
    /// etcd's process, if it is not the only one.
    pub pid: Option<u32>,
    /// etcd's configuration file, if no process names it.
    pub config_file: Option<PathBuf>,
}

/// A file or directory, and who may use it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mode {
    pub(crate) path: String,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
}

impl Mode {
    /// Whether others than its owner may read or write it.
    pub(crate) fn is_loose(&self) -> bool {
        self.mode & 0o077 != 0
    }
}

impl std::fmt::Display for Mode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} has mode {:04o}, owner {}", self.path, self.mode & 0o7777, self.uid)
    }
}

/// What was read of the host.
pub(crate) struct Host {
    /// For a reader of the report.
    pub(crate) name: String,
    pub(crate) settings: Fact<Settings>,
    /// The user that etcd runs as.
    pub(crate) user: Fact<u32>,
    /// The data directory, and the database and logs in it.
    pub(crate) data: Fact<Vec<Mode>>,
    pub(crate) keys: Fact<Vec<Mode>>,
    pub(crate) certificates: Fact<Vec<(String, Vec<Certificate>)>>,
    /// The CA of Kubernetes, if the host has it.
    pub(crate) cluster_ca: Fact<Option<Certificate>>,
    pub(crate) mounts: Fact<Vec<Mount>>,
    pub(crate) disks: Fact<Vec<Disk>>,
    pub(crate) swaps: Fact<Vec<Swap>>,
    /// Unencrypted databases of etcd that are not the member's own.
    pub(crate) strays: Fact<Vec<Stray>>,
    /// The rules of the packet filter.
    pub(crate) filter: Fact<Filter>,
    /// The static pod, if there is one.
    pub(crate) manifest: Fact<Option<Mode>>,
}

impl Host {
    /// Reads the host.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) when no etcd is found, or several.
    pub(crate) async fn read(options: &HostOptions) -> Result<Self> {
        let reader = Reader::find(options)?;
        let settings = reader.settings(options);
        let paths = Paths::of(&settings, &reader);
        let data = paths.data.as_deref().map_err(Clone::clone);
        let mounts = reader.mounts(data.clone(), &settings);
        let disks = match &mounts {
            Fact::Known { value, source } => {
                let each: Vec<_> =
                    value.iter().map(|mount| disk::under(&options.root, mount)).collect();
                Fact::known(each, source.clone())
            }
            Fact::Unknown(why) => Fact::unknown(why.clone()),
        };
        Ok(Self {
            name: reader.name(),
            user: reader.user(),
            data: Fact::read(reader.data(data.clone()), "the file system"),
            keys: Fact::read(
                reader.modes(paths.keys.as_deref().map_err(Clone::clone)),
                "the file system",
            ),
            certificates: Fact::read(
                reader.certificates(paths.certificates.as_deref().map_err(Clone::clone)),
                "the file system",
            ),
            cluster_ca: Fact::read(cluster_ca(&options.root), "/etc/kubernetes/pki/ca.crt"),
            mounts,
            disks,
            swaps: Fact::read(disk::swaps(&options.root), "/proc/swaps"),
            strays: Fact::read(strays(&options.root, data), "the file system"),
            filter: filter::read(&options.root).await,
            manifest: Fact::read(optional_mode(&options.root, MANIFEST), "the file system"),
            settings,
        })
    }
}

/// The files that the settings name.
struct Paths {
    /// The data directory, and the directory of the logs if it is another.
    data: std::result::Result<Vec<String>, String>,
    keys: std::result::Result<Vec<String>, String>,
    certificates: std::result::Result<Vec<String>, String>,
}

impl Paths {
    fn of(settings: &Fact<Settings>, reader: &Reader) -> Self {
        let all = |names: &[&str]| match settings.need() {
            Err(unknown) => Err(unknown.0),
            Ok(settings) => names
                .iter()
                .filter_map(|name| settings.value(name).transpose())
                .map(|value| {
                    value.map_err(|unknown| unknown.0).and_then(|path| reader.absolute(path))
                })
                .collect(),
        };
        let data = all(&["data-dir"]).and_then(|mut paths: Vec<String>| {
            if paths.is_empty() {
                return Err("data-dir is not set: it is in etcd's working directory".to_owned());
            }
            paths.extend(all(&["wal-dir"])?);
            Ok(paths)
        });
        Self {
            data,
            keys: all(&["key-file", "peer-key-file"]),
            certificates: all(&[
                "cert-file",
                "peer-cert-file",
                "trusted-ca-file",
                "peer-trusted-ca-file",
            ]),
        }
    }
}

/// Reads below a root, as one process sees it.
pub(crate) struct Reader {
    root: PathBuf,
    pid: Option<u32>,
}

impl Reader {
    pub(crate) fn find(options: &HostOptions) -> Result<Self> {
        let root = options.root.clone();
        if options.pid.is_some() {
            return Ok(Self { root, pid: options.pid });
        }
        let found = processes(&root);
        match (found.as_slice(), &options.config_file) {
            ([pid], _) => Ok(Self { root, pid: Some(*pid) }),
            ([], Some(_)) => Ok(Self { root, pid: None }),
            ([], None) => {
                Err(Error::usage(format!("no process etcd below {}", root.join("proc").display()))
                    .hint("name it with --pid, or give its --etcd-config"))
            }
            (several, _) => {
                let pids: Vec<_> = several.iter().map(u32::to_string).collect();
                Err(Error::usage(format!("several processes are etcd: {}", pids.join(", ")))
                    .hint("name one with --pid"))
            }
        }
    }

    /// The host's name, by which a waiver finds it also after a restart.
    fn name(&self) -> String {
        let name = read(&self.root.join("etc/hostname")).unwrap_or_default();
        match String::from_utf8_lossy(&name).trim() {
            "" => "host".into(),
            name => format!("host {}", crate::text::clean(name)),
        }
    }

    fn process(&self) -> String {
        self.pid.map_or_else(|| "no process".into(), |pid| format!("process {pid}"))
    }

    fn proc(&self, name: &str) -> std::result::Result<PathBuf, String> {
        let pid = self.pid.ok_or("no process of etcd")?;
        Ok(self.root.join(format!("proc/{pid}/{name}")))
    }

    fn settings(&self, options: &HostOptions) -> Fact<Settings> {
        let line = self.proc("cmdline").and_then(|path| read(&path));
        let settings = match (line, &options.config_file) {
            (Ok(line), _) => {
                let environ = self.proc("environ").and_then(|path| read(&path)).map(|bytes| {
                    let pairs = split(&bytes);
                    let pairs = pairs.iter().filter_map(|pair| pair.split_once('='));
                    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
                });
                Settings::of_process(&split(&line), environ)
            }
            (Err(_), Some(path)) => return self.file(path),
            (Err(why), None) => return Fact::unknown(why),
        };
        // etcd then reads nothing else.
        match settings.value("config-file") {
            Ok(Some(path)) => match self.absolute(path) {
                Ok(path) => match self.file(Path::new(&path)) {
                    Fact::Known { value, source } => Fact::known(value.beside(settings), source),
                    unknown => unknown,
                },
                Err(why) => Fact::unknown(why),
            },
            // A variable may name one.
            Err(unknown) => Fact::unknown(unknown.0),
            Ok(None) => Fact::known(settings, self.process()),
        }
    }

    fn file(&self, path: &Path) -> Fact<Settings> {
        let read = self.seen(path).and_then(|path| read(&path));
        let text = read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let settings = text.and_then(|text| Settings::of_file(&text));
        Fact::read(settings, path.display().to_string())
    }

    /// The process's own root if that can be read, which in a container is another.
    fn own_root(&self) -> PathBuf {
        let own = self.proc("root").ok().filter(|own| own.read_dir().is_ok());
        own.unwrap_or_else(|| self.root.clone())
    }

    /// `path` of the process, without links.
    fn resolved(&self, path: &Path) -> std::result::Result<PathBuf, String> {
        resolved(&self.own_root(), path).map_err(|error| format!("{}: {error}", path.display()))
    }

    /// Where `path` of the process is.
    pub(crate) fn seen(&self, path: &Path) -> std::result::Result<PathBuf, String> {
        Ok(below(&self.own_root(), &self.resolved(path)?))
    }

    fn mode(&self, path: &str) -> std::result::Result<Mode, String> {
        mode(&self.seen(Path::new(path))?, path)
    }

    /// A path of the settings, which may be relative to the process's working directory.
    pub(crate) fn absolute(&self, path: &str) -> std::result::Result<String, String> {
        if path.starts_with('/') {
            return Ok(path.to_owned());
        }
        let folder = self.proc("cwd").and_then(|link| {
            fs::read_link(&link).map_err(|error| format!("{}: {error}", link.display()))
        })?;
        Ok(folder.join(path).display().to_string())
    }

    fn user(&self) -> Fact<u32> {
        let status = self.proc("status").and_then(|path| read(&path));
        let uid = status.and_then(|bytes| {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let line = text.lines().find_map(|line| line.strip_prefix("Uid:"));
            let effective = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
            effective.ok_or_else(|| "the process's status has no Uid".to_owned())
        });
        Fact::read(uid, "/proc/PID/status")
    }

    fn modes(
        &self,
        paths: std::result::Result<&[String], String>,
    ) -> std::result::Result<Vec<Mode>, String> {
        paths?.iter().map(|path| self.mode(path)).collect()
    }

    /// The directories of `paths`, and the database in the first.
    fn data(
        &self,
        paths: std::result::Result<&[String], String>,
    ) -> std::result::Result<Vec<Mode>, String> {
        let paths = paths?;
        let mut modes = self.modes(Ok(paths))?;
        if let Some(first) = paths.first() {
            for inner in ["member/snap", "member/snap/db", "member/wal"] {
                let path = format!("{first}/{inner}");
                match self.mode(&path) {
                    Ok(mode) => modes.push(mode),
                    // The logs may be elsewhere.
                    Err(why) if inner == "member/wal" && paths.len() > 1 => drop(why),
                    Err(why) => return Err(why),
                }
            }
        }
        Ok(modes)
    }

    fn certificates(
        &self,
        paths: std::result::Result<&[String], String>,
    ) -> std::result::Result<Vec<(String, Vec<Certificate>)>, String> {
        let read = |path: &String| {
            let pem = read(&self.seen(Path::new(path))?)?;
            let parsed = Certificate::of_pem(&pem).map_err(|why| format!("{path}: {why}"))?;
            Ok((path.clone(), parsed))
        };
        paths?.iter().map(read).collect()
    }

    /// The file systems that hold the data. Each directory, and the database, can be a link to another one.
    fn mounts(
        &self,
        paths: std::result::Result<&[String], String>,
        settings: &Fact<Settings>,
    ) -> Fact<Vec<Mount>> {
        let pid = self.pid.map_or_else(|| "self".to_owned(), |pid| pid.to_string());
        let table = self.root.join(format!("proc/{pid}/mountinfo"));
        let found = paths.and_then(|paths| {
            let text = read(&table).map(|bytes| String::from_utf8_lossy(&bytes).into_owned())?;
            let has_wal_dir = settings
                .need()
                .and_then(|settings| settings.value("wal-dir").map(|path| path.is_some()))
                .map_err(|unknown| unknown.0)?;
            let mut mounts: Vec<Mount> = Vec::new();
            for path in held(paths, has_wal_dir) {
                let real = self.resolved(Path::new(&path))?.display().to_string();
                let mut mount = disk::mount_of(&text, &real)?;
                if real != path {
                    mount.path = format!("{path} ({real})");
                }
                if !mounts.iter().any(|one| one.is_same(&mount)) {
                    mounts.push(mount);
                }
            }
            Ok::<_, String>(mounts)
        });
        Fact::read(found, format!("/proc/{pid}/mountinfo, /sys"))
    }
}

/// What etcd keeps its data in: the directories that its settings name, the data directory first, and those below it.
fn held(paths: &[String], has_wal_dir: bool) -> Vec<String> {
    let mut all = paths.to_vec();
    if let Some(data) = paths.first() {
        let inner = ["member", "member/snap", "member/snap/db", "member/wal"];
        let inner = inner.into_iter().filter(|inner| !(has_wal_dir && *inner == "member/wal"));
        all.extend(inner.map(|inner| format!("{data}/{inner}")));
    }
    all
}

/// The processes that are called etcd.
fn processes(root: &Path) -> Vec<u32> {
    let entries = fs::read_dir(root.join("proc")).into_iter().flatten().flatten();
    let pids = entries
        .take(MAX_PROCESSES)
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_etcd = |pid: &u32| {
        let line = read(&root.join(format!("proc/{pid}/cmdline"))).unwrap_or_default();
        let words = split(&line);
        let program = words.first().and_then(|word| Path::new(word).file_name());
        // `etcd gateway` and `etcd grpc-proxy` serve no data.
        program.is_some_and(|name| name == "etcd")
            && words.get(1).is_none_or(|word| word.is_empty() || word.starts_with('-'))
    };
    let mut found: Vec<_> = pids.filter(is_etcd).collect();
    found.sort_unstable();
    found
}

/// The strings, each before a zero byte. An empty one may be the value of a flag.
fn split(bytes: &[u8]) -> Vec<String> {
    let parts = bytes.strip_suffix(&[0]).unwrap_or(bytes).split(|byte| *byte == 0);
    parts.map(|part| String::from_utf8_lossy(part).into_owned()).collect()
}

fn mode(at: &Path, shown: &str) -> std::result::Result<Mode, String> {
    let metadata = fs::metadata(at).map_err(|error| format!("{shown}: {error}"))?;
    Ok(mode_of(&metadata, shown))
}

fn mode_of(metadata: &Metadata, shown: &str) -> Mode {
    Mode { path: shown.to_owned(), mode: metadata.mode(), uid: metadata.uid() }
}

/// Unencrypted databases. Where the data directory is not known, that none was found says nothing.
fn strays(
    root: &Path,
    data: std::result::Result<&[String], String>,
) -> std::result::Result<Vec<Stray>, String> {
    let first = data.as_ref().ok().and_then(|all| all.first());
    let found = stray::find(root, first.map(String::as_str))?;
    match data {
        Err(why) if found.is_empty() => Err(why),
        _ => Ok(found),
    }
}

fn cluster_ca(root: &Path) -> std::result::Result<Option<Certificate>, String> {
    let path = Path::new("/etc/kubernetes/pki/ca.crt");
    match resolved(root, path) {
        Ok(real) => Ok(Certificate::of_pem(&read(&below(root, &real))?)?.into_iter().next()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

fn optional_mode(root: &Path, path: &str) -> std::result::Result<Option<Mode>, String> {
    let found = resolved(root, Path::new(path)).and_then(|real| fs::metadata(below(root, &real)));
    match found {
        Ok(metadata) => Ok(Some(mode_of(&metadata, &format!("/{path}")))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("/{path}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A host with one etcd, whose /var/lib/etcd is the mount 8:1.
    async fn host(flags: &str, change: impl FnOnce(&Path)) -> Host {
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("proc/77/cmdline", &format!("etcd {flags}").replace(' ', "\0"));
        put("proc/77/environ", "");
        let table =
            "1 0 8:2 / / rw - ext4 /dev/root rw\n2 1 8:1 / /var/lib/etcd rw - ext4 /dev/data rw\n";
        put("proc/77/mountinfo", table);
        put("proc/swaps", "Filename Type Size Used Priority\n");
        put("var/lib/etcd/member/snap/db", "");
        put("var/lib/etcd/member/wal/0.wal", "");
        put("plain/member/snap/db", "");
        put("plain/member/wal/0.wal", "");
        change(root.path());
        let options = HostOptions { root: root.path().to_owned(), ..HostOptions::default() };
        Host::read(&options).await.unwrap()
    }

    /// The paths of the file systems that are looked at.
    fn paths(host: &Host) -> Vec<String> {
        host.mounts.need().unwrap().iter().map(|mount| mount.path.clone()).collect()
    }

    #[tokio::test]
    async fn links_are_followed_to_the_disk() {
        assert_eq!(paths(&host("--data-dir=/var/lib/etcd", |_| {}).await), ["/var/lib/etcd"]);
        let linked = host("--data-dir=/var/lib/etcd/link", |root| {
            symlink("/plain", root.join("var/lib/etcd/link")).unwrap();
        })
        .await;
        assert_eq!(paths(&linked), ["/var/lib/etcd/link (/plain)"]);
        for inner in ["wal", "snap"] {
            let found = host("--data-dir=/var/lib/etcd", |root| {
                let at = root.join("var/lib/etcd/member").join(inner);
                fs::remove_dir_all(&at).unwrap();
                symlink(format!("/plain/member/{inner}"), at).unwrap();
            })
            .await;
            let wanted = format!("/var/lib/etcd/member/{inner} (/plain/member/{inner})");
            assert_eq!(paths(&found), ["/var/lib/etcd".to_owned(), wanted]);
        }
        let logs = host("--data-dir=/var/lib/etcd --wal-dir=/plain/member/wal", |root| {
            fs::remove_dir_all(root.join("var/lib/etcd/member/wal")).unwrap();
        })
        .await;
        assert_eq!(paths(&logs), ["/var/lib/etcd", "/plain/member/wal"]);
    }

    #[tokio::test]
    async fn what_is_not_known_of_the_data_is_unknown() {
        let logs_alone = host("--wal-dir=/plain/member/wal", |_| {}).await;
        assert!(logs_alone.mounts.need().is_err() && logs_alone.disks.need().is_err());
        assert!(logs_alone.data.need().is_err() && logs_alone.strays.need().is_err());
        let gone = host("--data-dir=/var/lib/etcd", |root| {
            fs::remove_dir_all(root.join("var/lib/etcd/member/wal")).unwrap();
        })
        .await;
        assert!(gone.mounts.need().is_err());
    }
}
