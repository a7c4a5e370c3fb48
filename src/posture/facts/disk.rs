//! Whether a directory lies on an encrypted device: from the mount table down through partitions, LVM, RAID and dm-crypt,
//! as /sys shows them.

use std::fs;
use std::path::{Path, PathBuf};

use super::file::read;

/// Devices below a mount that are followed.
const MAX_DEVICES: usize = 64;
/// Kinds of dm-crypt; other targets have uuids that start with CRYPT- too.
const CRYPT: [&str; 7] = ["LUKS1", "LUKS2", "PLAIN", "TCRYPT", "BITLK", "FVAULT2", "LOOPAES"];
/// File systems in memory.
const IN_MEMORY: [&str; 2] = ["tmpfs", "ramfs"];
/// File systems of other machines.
const NETWORK: [&str; 8] = ["nfs", "nfs4", "cifs", "smb3", "ceph", "9p", "glusterfs", "afs"];

/// The file system that holds a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Mount {
    /// The directory.
    pub(crate) path: String,
    pub(crate) kind: String,
    device: String,
    source: String,
}

impl Mount {
    pub(crate) fn in_memory(&self) -> bool {
        IN_MEMORY.contains(&self.kind.as_str())
    }

    /// Whether both are the same file system.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        (&self.kind, &self.device, &self.source) == (&other.kind, &other.device, &other.source)
    }

    pub(crate) fn is_network(&self) -> bool {
        NETWORK.contains(&self.kind.as_str()) || self.kind.starts_with("fuse.")
    }
}

/// What is below a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    /// Every way down meets dm-crypt.
    Encrypted(String),
    /// One does not.
    Plain(String),
    /// It cannot be told from here.
    Untold(String),
    /// It is on no disk.
    Memory(String),
}

/// A device that memory is written to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Swap {
    pub(crate) name: String,
    pub(crate) disk: Disk,
}

/// The mount that holds `path`, from the text of a `mountinfo`: the longest, and of equals the last.
pub(crate) fn mount_of(table: &str, path: &str) -> Result<Mount, String> {
    let mut best: Option<(usize, Mount)> = None;
    for line in table.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let left: Vec<&str> = left.split(' ').collect();
        let mut right = right.split(' ');
        let (Some(device), Some(point)) = (left.get(2), left.get(4)) else { continue };
        let (Some(kind), Some(source)) = (right.next(), right.next()) else { continue };
        let point = unescaped(point);
        let holds = Path::new(path).starts_with(&point);
        if holds && best.as_ref().is_none_or(|(length, _)| point.len() >= *length) {
            let mount = Mount {
                path: path.to_owned(),
                kind: kind.to_owned(),
                device: (*device).to_owned(),
                source: unescaped(source),
            };
            best = Some((point.len(), mount));
        }
    }
    best.map(|(_, mount)| mount).ok_or_else(|| format!("{path}: no mount holds it"))
}

/// Blanks, tabs, newlines and backslashes are written in octal digits.
fn unescaped(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (code, plain)| text.replace(code, plain))
}

/// What is below `mount`.
pub(crate) fn under(root: &Path, mount: &Mount) -> Disk {
    let place = format!("{} on {} ({})", mount.path, mount.source, mount.kind);
    if mount.in_memory() {
        return Disk::Memory(place);
    }
    let mut walk = Walk { root, seen: 0 };
    let found = if mount.device.starts_with("0:") {
        match mount.kind.as_str() {
            "btrfs" => walk.btrfs(&mount.source),
            _ => Disk::Untold(format!("a {} file system shows no device", mount.kind)),
        }
    } else {
        match fs::canonicalize(root.join("sys/dev/block").join(&mount.device)) {
            Ok(device) => walk.device(&device),
            Err(error) => Disk::Untold(format!("/sys/dev/block/{}: {error}", mount.device)),
        }
    };
    match found {
        Disk::Encrypted(why) => Disk::Encrypted(format!("{place}: {why}")),
        Disk::Plain(why) => Disk::Plain(format!("{place}: {why}")),
        Disk::Untold(why) => Disk::Untold(format!("{place}: {why}")),
        Disk::Memory(why) => Disk::Memory(why),
    }
}

struct Walk<'a> {
    root: &'a Path,
    seen: usize,
}

impl Walk<'_> {
    /// A directory of /sys that stands for a block device.
    fn device(&mut self, at: &Path) -> Disk {
        self.seen = self.seen.saturating_add(1);
        let name = at.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if self.seen > MAX_DEVICES {
            return Disk::Untold(format!("more than {MAX_DEVICES} devices"));
        }
        let text = |file: &str| {
            read(&at.join(file)).ok().map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        let uuid = text("dm/uuid").unwrap_or_default();
        let kind = uuid.strip_prefix("CRYPT-").and_then(|rest| rest.split('-').next());
        if let Some(kind) = kind.filter(|kind| CRYPT.contains(kind)) {
            return Disk::Encrypted(format!("{name} is dm-crypt ({kind})"));
        }
        match fs::read_dir(at.join("slaves")) {
            Ok(entries) => {
                let below: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
                if !below.is_empty() {
                    return self.all(&name, below);
                }
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Disk::Untold(format!("{name}: {error}")),
        }
        if at.join("partition").exists() {
            return match at.parent() {
                Some(disk) => self.device(disk),
                None => Disk::Untold(format!("{name}: the disk of this partition is not shown")),
            };
        }
        leaf(&name)
    }

    /// Each of these devices must be encrypted: `name` is made of them.
    fn all(&mut self, name: &str, below: Vec<PathBuf>) -> Disk {
        if below.is_empty() {
            return Disk::Untold(format!("the devices of {name} are not shown"));
        }
        let (mut encrypted, mut untold) = (Vec::new(), None);
        for link in below {
            let found = match fs::canonicalize(&link) {
                Ok(device) => self.device(&device),
                Err(error) => Disk::Untold(format!("{}: {error}", link.display())),
            };
            match found {
                Disk::Encrypted(why) => encrypted.push(why),
                Disk::Plain(why) => return Disk::Plain(format!("{name} on {why}")),
                Disk::Untold(why) | Disk::Memory(why) => untold = Some(why),
            }
        }
        match untold {
            Some(why) => Disk::Untold(format!("{name} on {why}")),
            None => Disk::Encrypted(format!("{name} on {}", encrypted.join(", "))),
        }
    }

    /// Every device of a btrfs of which `source` is one.
    fn btrfs(&mut self, source: &str) -> Disk {
        let Some(name) = self.block_name(source) else {
            return Disk::Untold(format!("{source} is not in /sys"));
        };
        let systems = fs::read_dir(self.root.join("sys/fs/btrfs")).into_iter().flatten().flatten();
        let mut devices = systems.map(|system| system.path().join("devices"));
        match devices.find(|devices| devices.join(&name).exists()) {
            Some(devices) => {
                let below = fs::read_dir(devices).into_iter().flatten().flatten();
                self.all("btrfs", below.map(|entry| entry.path()).collect())
            }
            None => Disk::Untold(format!("no btrfs in /sys has the device {name}")),
        }
    }

    /// The kernel's name of a device that is called `/dev/…`.
    fn block_name(&self, source: &str) -> Option<String> {
        let name = Path::new(source).file_name()?.to_str()?.to_owned();
        let blocks = self.root.join("sys/class/block");
        if blocks.join(&name).exists() {
            return Some(name);
        }
        let mut all = fs::read_dir(&blocks).ok()?.flatten();
        let mapped = all.find(|entry| {
            read(&entry.path().join("dm/name"))
                .is_ok_and(|bytes| bytes.trim_ascii_end() == name.as_bytes())
        });
        mapped.and_then(|entry| entry.file_name().into_string().ok())
    }
}

/// A disk with nothing below it. That of a cloud or an NVMe may encrypt by itself.
fn leaf(name: &str) -> Disk {
    let may_encrypt = ["vd", "xvd", "nvme", "mmcblk", "loop", "nbd", "rbd", "drbd"];
    if may_encrypt.iter().any(|prefix| name.starts_with(prefix)) {
        return Disk::Untold(format!(
            "{name} has no dm-crypt; the provider or the disk may encrypt: waive it with evidence"
        ));
    }
    if name.starts_with("zram") {
        return Disk::Memory(format!("{name} is in memory"));
    }
    Disk::Plain(format!("{name}, without dm-crypt"))
}

/// The swap devices.
///
/// # Errors
/// Why they are not known.
pub(crate) fn swaps(root: &Path) -> Result<Vec<Swap>, String> {
    let bytes = read(&root.join("proc/swaps"))?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut walk = Walk { root, seen: 0 };
    let lines = text.lines().skip(1).take(MAX_DEVICES);
    let swap = |line: &str| {
        let mut words = line.split_whitespace();
        let (name, kind) =
            (unescaped(words.next().unwrap_or_default()), words.next().unwrap_or_default());
        let disk = match walk.block_name(&name) {
            Some(block) if kind == "partition" => {
                match fs::canonicalize(root.join("sys/class/block").join(block)) {
                    Ok(device) => walk.device(&device),
                    Err(error) => Disk::Untold(format!("{name}: {error}")),
                }
            }
            _ => Disk::Untold(format!("{name} is a {kind}, whose disk is not looked for")),
        };
        Swap { name, disk }
    };
    Ok(lines.map(swap).collect())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// Name, parent, dm uuid, what it is made of.
    type Device = (&'static str, &'static str, &'static str, &'static [&'static str]);

    /// A sysfs with these devices.
    fn sysfs(devices: &[Device]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str, parent: &str| root.path().join("sys/devices").join(parent).join(name);
        let path = |name: &str| {
            let found = devices.iter().find(|device| device.0 == name).unwrap();
            at(name, found.1)
        };
        for folder in ["sys/dev/block", "sys/class/block"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        for (number, (name, parent, uuid, below)) in devices.iter().enumerate() {
            let device = at(name, parent);
            fs::create_dir_all(device.join("slaves")).unwrap();
            if !parent.is_empty() {
                fs::write(device.join("partition"), "1\n").unwrap();
            }
            if !uuid.is_empty() {
                fs::create_dir(device.join("dm")).unwrap();
                fs::write(device.join("dm/uuid"), format!("{uuid}\n")).unwrap();
                fs::write(device.join("dm/name"), format!("{name}-mapped\n")).unwrap();
            }
            for slave in *below {
                symlink(path(slave), device.join("slaves").join(slave)).unwrap();
            }
            symlink(&device, root.path().join(format!("sys/dev/block/8:{number}"))).unwrap();
            symlink(&device, root.path().join("sys/class/block").join(name)).unwrap();
        }
        root
    }

    fn kind(disk: &Disk) -> &'static str {
        match disk {
            Disk::Encrypted(_) => "encrypted",
            Disk::Plain(_) => "plain",
            Disk::Untold(_) => "untold",
            Disk::Memory(_) => "memory",
        }
    }

    #[test]
    fn what_is_below_a_mount() {
        let luks = "CRYPT-LUKS2-0123-data";
        let lvm = "LVM-abc";
        #[rustfmt::skip]
        let cases: &[(&str, &[Device])] = &[
            ("plain", &[("sda", "", "", &[])]),
            ("plain", &[("sda1", "sda", "", &[]), ("sda", "", "", &[])]),
            ("encrypted", &[("dm-0", "", luks, &["sda1"]), ("sda1", "sda", "", &[]), ("sda", "", "", &[])]),
            // LVM on LUKS, LUKS on LVM.
            ("encrypted", &[("dm-1", "", lvm, &["dm-0"]), ("dm-0", "", luks, &["sda"]), ("sda", "", "", &[])]),
            ("encrypted", &[("dm-1", "", luks, &["dm-0"]), ("dm-0", "", lvm, &["sda"]), ("sda", "", "", &[])]),
            ("plain", &[("dm-0", "", lvm, &["sda"]), ("sda", "", "", &[])]),
            // RAID of two, and one of them plain.
            ("encrypted", &[("md0", "", "", &["dm-0", "dm-1"]), ("dm-0", "", luks, &["sda"]), ("dm-1", "", luks, &["sdb"]), ("sda", "", "", &[]), ("sdb", "", "", &[])]),
            ("plain", &[("md0", "", "", &["dm-0", "sdb"]), ("dm-0", "", luks, &["sda"]), ("sda", "", "", &[]), ("sdb", "", "", &[])]),
            // dm-verity and dm-integrity encrypt nothing.
            ("plain", &[("dm-0", "", "CRYPT-VERITY-0123-data", &["sda"]), ("sda", "", "", &[])]),
            ("encrypted", &[("dm-1", "", "CRYPT-INTEGRITY-x", &["dm-0"]), ("dm-0", "", luks, &["sda"]), ("sda", "", "", &[])]),
            ("untold", &[("nvme0n1p1", "nvme0n1", "", &[]), ("nvme0n1", "", "", &[])]),
            ("untold", &[("vda", "", "", &[])]),
            ("untold", &[("loop0", "", "", &[])]),
        ];
        for (wanted, devices) in cases {
            let root = sysfs(devices);
            let table =
                "1 0 0:1 / / rw - overlay overlay rw\n2 1 8:0 / /var/lib rw - ext4 /dev/x rw\n";
            let mount = mount_of(table, "/var/lib/etcd").unwrap();
            let disk = under(root.path(), &mount);
            assert_eq!(kind(&disk), *wanted, "{devices:?}: {disk:?}");
        }
        let root = sysfs(&[]);
        for (line, wanted) in [
            ("1 0 0:1 / / rw - overlay overlay rw", "untold"),
            ("1 0 0:1 / / rw - zfs tank rw", "untold"),
            ("1 0 0:1 / / rw - tmpfs tmpfs rw", "memory"),
            ("1 0 8:99 / / rw - ext4 /dev/x rw", "untold"),
            ("1 0 0:2 / / rw - btrfs /dev/sda rw", "untold"),
        ] {
            assert_eq!(
                kind(&under(root.path(), &mount_of(line, "/data").unwrap())),
                wanted,
                "{line}"
            );
        }
    }

    #[test]
    fn a_btrfs_of_two_devices() {
        let luks = "CRYPT-LUKS2-0123-data";
        for (second, wanted) in [(luks, "encrypted"), ("", "plain")] {
            let root = sysfs(&[("dm-0", "", luks, &[]), ("sdb", "", second, &[])]);
            let devices = root.path().join("sys/fs/btrfs/uuid/devices");
            fs::create_dir_all(&devices).unwrap();
            for name in ["dm-0", "sdb"] {
                symlink(root.path().join("sys/class/block").join(name), devices.join(name))
                    .unwrap();
            }
            let line = "1 0 0:2 / / rw - btrfs /dev/mapper/dm-0-mapped rw";
            assert_eq!(kind(&under(root.path(), &mount_of(line, "/data").unwrap())), wanted);
        }
    }

    #[test]
    fn the_innermost_mount_counts() {
        let table = "1 0 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n\
                     2 1 8:2 / /var rw - xfs /dev/sda2 rw\n\
                     3 2 8:3 / /var/lib/etcd\\040x rw - ext4 /dev/sda3 rw\nnonsense\n";
        let device = |path: &str| mount_of(table, path).unwrap().device;
        assert_eq!(device("/var/lib/etcd"), "8:2");
        assert_eq!(device("/var/lib/etcd x/member"), "8:3");
        assert_eq!(device("/variable"), "8:1");
        assert!(mount_of("", "/x").is_err());
    }

    #[test]
    fn swap_devices() {
        let root = sysfs(&[
            ("sda2", "sda", "", &[]),
            ("sda", "", "", &[]),
            ("dm-3", "", "CRYPT-PLAIN-swap", &["sda2"]),
            ("zram0", "", "", &[]),
        ]);
        fs::create_dir(root.path().join("proc")).unwrap();
        let table = "Filename Type Size Used Priority\n/dev/sda2 partition 1 0 -2\n/dev/dm-3 partition 1 0 -3\n/dev/zram0 partition 1 0 5\n/swapfile file 1 0 -4\n";
        fs::write(root.path().join("proc/swaps"), table).unwrap();
        let found: Vec<_> =
            swaps(root.path()).unwrap().iter().map(|swap| kind(&swap.disk)).collect();
        assert_eq!(found, ["plain", "encrypted", "memory", "untold"]);
    }
}
