//! What is in the memory of a program that has done its work: none of the keys that opened or sealed a snapshot.
//!
//! Read as root reads it, or a core dump holds it: the writable memory of the process, at rest after the work.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use memchr::memmem;
use strongroom::crypto::{random, sha256, system_rng};
use strongroom::envelope::DataKey;
use strongroom::format::{KeyId, KeyState, Seal, Sha256, Stanza};
use strongroom::keys::{Binding, HpkeIdentity, Identity, IdentityFile, KeyFuture, KeySet};
use strongroom::secret::SecretKey;

use crate::agent::Agent;
use crate::blind::Blind;
use crate::etcd_server::{Etcd, Version};
use crate::support::open_seal;

/// How long a program may take to end its work.
const PATIENCE: Duration = Duration::from_secs(30);
/// Memory that is read at once.
const BLOCK: usize = 4 << 20;

/// What must not be there, and its name.
type Needles = Vec<(&'static str, Vec<u8>)>;

/// The names of `needles` that the process has in its writable memory, and in which mapping. None where that cannot be read.
fn found(pid: u32, needles: &Needles) -> Option<Vec<String>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let memory = File::open(format!("/proc/{pid}/mem")).ok()?;
    let longest = needles.iter().map(|(_, bytes)| bytes.len()).max()?;
    let (mut there, mut block) = (Vec::new(), vec![0; BLOCK + longest]);
    for line in maps.lines() {
        let (range, rest) = line.split_once(' ')?;
        if !rest.starts_with("rw") {
            continue;
        }
        let (from, to) = range.split_once('-')?;
        let [mut at, to] = [from, to].map(|text| u64::from_str_radix(text, 16).unwrap());
        while at < to {
            let length = usize::try_from(to - at).unwrap().min(block.len());
            // A mapping may be gone by now.
            if memory.read_exact_at(&mut block[..length], at).is_ok() {
                let has =
                    |(_, bytes): &&(_, Vec<u8>)| memmem::find(&block[..length], bytes).is_some();
                let place = rest.split_whitespace().nth(4).unwrap_or(range);
                let named = needles.iter().filter(has).map(|(name, _)| format!("{name} ({place})"));
                there.extend(named);
            }
            at += BLOCK as u64;
        }
    }
    there.sort_unstable();
    there.dedup();
    Some(there)
}

/// Waits until the process has no needle in its memory; `is_there` is what it must have there all the time.
fn forgets(pid: u32, what: &str, needles: &Needles, is_there: &str) {
    let control = vec![("control", is_there.as_bytes().to_vec())];
    let begun = Instant::now();
    loop {
        let (Some(known), Some(there)) = (found(pid, &control), found(pid, needles)) else {
            println!("SKIPPED: the memory of other processes cannot be read here");
            return;
        };
        assert!(!known.is_empty(), "{what}: the memory was not read");
        if there.is_empty() {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: {there:?} in memory");
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// An identity that tells which data keys it opened.
struct Telling(HpkeIdentity, Mutex<Vec<Vec<u8>>>);

impl Identity for Telling {
    fn ids(&self) -> Vec<KeyId> {
        self.0.ids()
    }

    fn unwrap<'a>(
        &'a self,
        stanza: &'a Stanza,
        binding: &'a Binding,
    ) -> KeyFuture<'a, Option<SecretKey>> {
        Box::pin(async move {
            let key = self.0.unwrap(stanza, binding).await?;
            self.1.lock().unwrap().extend(key.iter().map(|key| key.expose().to_vec()));
            Ok(key)
        })
    }
}

/// The keys of the only snapshot in `repo`, opened with the owner's identity.
fn keys_of_snapshot(blind: &Blind) -> Needles {
    let text = fs::read_to_string(blind.place.path("identity")).unwrap();
    let identity = IdentityFile::parse(&text).unwrap().identities.remove(0);
    let telling = Arc::new(Telling(identity, Mutex::default()));
    let mut keys = KeySet::new();
    keys.add_identity(Arc::clone(&telling) as _, KeyState::Sealing);
    let objects = blind.place.objects();
    let read = |name: &str| {
        let path = objects.iter().find(|path| path.ends_with(name)).unwrap();
        fs::read(path).unwrap()
    };
    let seal = Seal::parse(&read("seal.1")).unwrap();
    let object = Sha256(sha256(&[&read("manifest")]));
    let key: DataKey = open_seal(&seal, object, &keys).unwrap().data_key;
    let data_key = telling.1.lock().unwrap().remove(0);
    let mut needles = vec![("data key", data_key)];
    let derived = [
        ("payload key", key.payload_key()),
        ("index key", key.index_key()),
        ("facts key", key.facts_key()),
    ];
    needles.extend(derived.map(|(name, key)| (name, key.expose().to_vec())));
    needles
}

/// The secret line of a file of keys, as it is written and as bytes.
fn secret(blind: &Blind, file: &str, name: [&'static str; 2]) -> Needles {
    let text = fs::read_to_string(blind.place.path(file)).unwrap();
    let line = text.lines().last().unwrap().to_owned();
    let (_, bytes) = bech32::decode(&line.to_lowercase()).unwrap();
    vec![(name[0], line.into_bytes()), (name[1], bytes)]
}

/// A pipe that takes nothing until somebody reads: what a program writes there stops it at that place.
fn full_pipe() -> (std::io::PipeReader, std::io::PipeWriter) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    while writer.write(&[b' '; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    (reader, writer)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blind_host_keeps_no_key_of_what_it_stored() {
    let etcd = Etcd::start(Version::NEWEST).await;
    etcd.fill(20, 200).await;
    // It is stopped where it prints what it did.
    let blind = Blind::new();
    let (reader, writer) = full_pipe();
    let mut backup = blind.host(&["-w", "json", "backup", "--endpoints", etcd.endpoint()]);
    let mut child = backup.stdout(writer).stderr(Stdio::null()).spawn().unwrap();
    drop(backup);
    let begun = Instant::now();
    while !blind.place.objects().iter().any(|path| path.ends_with("manifest")) {
        assert!(begun.elapsed() < PATIENCE);
        std::thread::sleep(Duration::from_millis(20));
    }
    forgets(child.id(), "backup", &keys_of_snapshot(&blind), &blind.recipient);
    drop(reader);
    assert_eq!(child.wait().unwrap().code(), Some(3), "a result that nobody reads");
    // An agent, at rest between two backups. Its signing key is read for each.
    let blind = Blind::new();
    fs::write(blind.place.path("recipients"), format!("{}\n", blind.recipient)).unwrap();
    let name: [u8; 16] = random(&mut system_rng());
    let name = data_encoding::HEXLOWER.encode(&name);
    let config = |keys: &str, work: &str| {
        format!(
            "master_keys = [\"{keys}\"]\n[repository]\nurl = \"repo\"\n[etcd]\nendpoints = [\"{}\"]\n\
             [agent]\nlog = \"json\"\nlisten = \"LISTEN\"\nname = \"{name}\"\n{work}\n",
            etcd.endpoint()
        )
    };
    let host = config("recipient:@recipients", "[keys]\nsigning_key = \"signing\"");
    let agent = Agent::start_with(&blind.place, &host, &[]);
    agent.wait("backup_finished", 1);
    let mut needles = keys_of_snapshot(&blind);
    needles.extend(secret(&blind, "signing", ["signing key's line", "signing key"]));
    forgets(agent.child.id(), "blind agent", &needles, &name);
    agent.end();
    // An agent that opens: its identity is read for each verification.
    let opens = config(
        "identity:identity",
        "verify = \"@every 8s\"\nbackup = \"@every 1h\"\n[trust]\nsigners = [\"signers\"]",
    );
    let opens = opens.replace("[etcd]", "[keys]\nsigning_key = \"signing\"\n[etcd]");
    let agent = Agent::start_with(&blind.place, &opens, &[]);
    agent.wait("verify_finished", 1);
    needles.extend(secret(&blind, "identity", ["identity's line", "identity"]));
    forgets(agent.child.id(), "opening agent", &needles, &name);
    agent.end();
}
