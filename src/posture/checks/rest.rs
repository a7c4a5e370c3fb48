//! Data at rest on the host: devices, modes, databases that lie about.

use super::super::fact::{Evidence, Judgement, Severity, Unknown, Verdict};
use super::super::facts::Facts;
use super::super::facts::disk::Disk;
use super::super::facts::host::Host;

/// REST-1
pub(crate) fn devices(host: &Host, _: &Facts) -> Judgement {
    let disks = host.disks.need()?;
    let (mut plain, mut seen): (Vec<Evidence>, Vec<&str>) = (Vec::new(), Vec::new());
    let mut untold = None;
    for disk in disks.get() {
        match disk {
            Disk::Encrypted(why) | Disk::Memory(why) => seen.push(why),
            Disk::Plain(why) => plain.push(disks.saw(why.clone())),
            Disk::Untold(why) => untold = Some(why),
        }
    }
    match untold {
        Some(why) if plain.is_empty() => Err(Unknown(why.clone())),
        _ => Ok(Verdict::none_of(plain, disks.saw(seen.join("; ")))),
    }
}

/// REST-2
pub(crate) fn data_modes(host: &Host, _: &Facts) -> Judgement {
    let data = host.data.need()?;
    let mut found: Vec<_> =
        data.iter().filter(|one| one.is_loose()).map(|one| data.saw(one.to_string())).collect();
    let user = host.user.need()?;
    let others = data.iter().filter(|one| one.uid != *user.get());
    found.extend(others.map(|one| data.saw(format!("{one}; etcd runs as {}", user.get()))));
    let all: Vec<_> = data.iter().map(ToString::to_string).collect();
    Ok(Verdict::none_of(found, data.saw(all.join("; "))))
}

/// REST-5
pub(crate) fn strays(host: &Host, _: &Facts) -> Judgement {
    let strays = host.strays.need()?;
    let found = strays.iter().map(|one| {
        let (path, mode, length) = (&one.path, one.mode & 0o7777, one.length);
        strays.saw(format!("{path}: an unencrypted database, mode {mode:04o}, {length} bytes"))
    });
    let otherwise =
        "no unencrypted database beside the data directory, in /var/backups, /root and /tmp";
    Ok(Verdict::none_of(found.collect(), strays.saw(otherwise)))
}

/// REST-6
pub(crate) fn places(host: &Host, _: &Facts) -> Judgement {
    let mounts = host.mounts.need()?;
    let odd = mounts.iter().filter(|mount| mount.in_memory() || mount.is_network());
    let mut found: Vec<_> =
        odd.map(|mount| mounts.saw(format!("{} is on {}", mount.path, mount.kind))).collect();
    let swaps = host.swaps.need()?;
    let mut untold = None;
    for swap in swaps.get() {
        match &swap.disk {
            Disk::Plain(why) => found.push(swaps.saw(format!("swap {}: {why}", swap.name))),
            Disk::Untold(why) => untold = Some(why),
            Disk::Encrypted(_) | Disk::Memory(_) => {}
        }
    }
    match untold {
        Some(why) if found.is_empty() => Err(Unknown(why.clone())),
        _ => {
            let kinds: Vec<_> = mounts.iter().map(|mount| mount.kind.as_str()).collect();
            Ok(Verdict::none_of(
                found,
                mounts.saw(format!("on {}; no unencrypted swap", kinds.join(", "))),
            ))
        }
    }
}

/// REST-7
pub(crate) fn manifest(host: &Host, _: &Facts) -> Judgement {
    let manifest = host.manifest.need()?;
    let Some(file) = manifest.get() else {
        return Ok(Verdict::NotApplicable(manifest.saw("no static pod of etcd")));
    };
    let said = manifest.saw(file.to_string());
    Ok(match file.is_loose() || file.uid != 0 {
        // A manifest that others can write is theirs.
        true if file.mode & 0o022 != 0 => Verdict::fail_as(Severity::Critical, said),
        true => Verdict::fail(said),
        false => Verdict::Pass(said),
    })
}
