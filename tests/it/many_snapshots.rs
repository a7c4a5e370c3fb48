//! Ten thousand snapshots, by whose seals it is decided: with a master key that opens them, and on a host that opens none, by
//! signatures.

use std::fs;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use strongroom::backup::{Retention, judged, plan_prune};
use strongroom::crypto::{Kem, sha256, system_rng};
use strongroom::envelope::{DataKey, NewSeal};
use strongroom::format::{KeyState, Manifest, ManifestBody, Sha256, SnapshotId, Subject};
use strongroom::keys::{HpkeIdentity, KeySet, SigningKey};
use strongroom::task::Control;

use crate::support::{TestRepo, keys, seal_data_key};

const SNAPSHOTS: u64 = 10_000;
const HOUR: u64 = 3_600_000;

/// Stores copies of one snapshot, an hour apart, each with a manifest and a seal of its own.
async fn filled(keys: &KeySet) -> TestRepo {
    let repo = TestRepo::new().await;
    let first = repo.backup(keys).await.id;
    let manifest = Manifest::parse(&fs::read(repo.object(first, "manifest")).unwrap()).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64;
    for at in 1..SNAPSHOTS {
        let id = SnapshotId::new(now - at * HOUR, [7; 10]);
        let data_key = DataKey::generate(Subject::Snapshot(id), &mut system_rng());
        let commitment = data_key.commitment();
        let body = ManifestBody { snapshot: id, commitment, ..manifest.body().clone() };
        let mac = data_key.manifest_mac(&body.signed_bytes().unwrap());
        let manifest = Manifest::finish(body, mac).unwrap().print();
        let new = NewSeal::first(Sha256(sha256(&[&manifest])));
        let seal = seal_data_key(&data_key, new, keys, &mut system_rng()).unwrap();
        fs::create_dir(repo.object(id, "")).unwrap();
        for name in ["payload", "index"] {
            fs::hard_link(repo.object(first, name), repo.object(id, name)).unwrap();
        }
        fs::write(repo.object(id, "manifest"), manifest).unwrap();
        fs::write(repo.object(id, "seal.1"), seal.print()).unwrap();
    }
    repo
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: twice ten thousand snapshots"]
async fn long_ten_thousand_snapshots_are_listed_and_pruned() {
    let mut blind = KeySet::new();
    let identity = HpkeIdentity::generate(Kem::XWing, &mut system_rng()).unwrap();
    blind.add_recipient(Arc::new(identity.recipient().clone()), KeyState::Sealing);
    blind.sign_with(SigningKey::generate(&mut system_rng()));
    for (how, keys) in [("a keyring", keys(&[1])), ("signatures", blind)] {
        let repo = filled(&keys).await;
        let begun = Instant::now();
        let listing = judged(&repo.repository, &keys, None).await.unwrap();
        println!("listed {SNAPSHOTS} by {how}: {:.2} s", begun.elapsed().as_secs_f64());
        let counting = listing.snapshots.iter().filter(|one| one.standing.counts()).count();
        assert_eq!(counting as u64, SNAPSHOTS);
        let retention = Retention { daily: 30, monthly: 12, ..Retention::default() };
        let begun = Instant::now();
        let control = Control::default();
        let plan = plan_prune(&repo.repository, &keys, &retention, None, &control).await.unwrap();
        println!("planned by {how}: {:.2} s", begun.elapsed().as_secs_f64());
        assert!((40..=44).contains(&plan.keep.len()), "{}", plan.keep.len());
        assert_eq!((plan.keep.len() + plan.remove.len()) as u64, SNAPSHOTS);
    }
}
