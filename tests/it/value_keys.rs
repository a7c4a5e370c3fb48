//! Value keys in etcd: made once, followed, rotated; values migrated where they stand.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use etcd_client::{GetOptions, PutOptions};
use strongroom::ErrorKind;
use strongroom::crypto::system_rng;
use strongroom::format::{KeyState, MigrationPhase};
use strongroom::keys::KeySet;
use strongroom::keys::trust::{Distrust, Standing};
use strongroom::secret::SecretBytes;
use strongroom::values::{DEFAULT_PREFIX, Namespace, Scope, Shim, error_kind, keyring};

use crate::etcd_server::{Etcd, Version};
use crate::proxied::{NOW, masters};
use crate::support::{key, keys};

const PREFIX: &[u8] = DEFAULT_PREFIX.as_bytes();

#[tokio::test(flavor = "multi_thread")]
async fn of_many_that_create_it_all_use_the_same_3_4() {
    let etcd = Etcd::start(Version::OLDEST).await;
    let masters = masters();
    let mut made = Vec::new();
    for _ in 0..20 {
        let (client, masters) = (etcd.client().await, masters.clone());
        made.push(tokio::spawn(async move {
            Namespace::init(client, PREFIX, masters, NOW).await.unwrap()
        }));
    }
    let mut first = None;
    for made in made {
        let made = made.await.unwrap();
        let is = (made.cipher().namespace(), made.cipher().primary());
        assert_eq!(*first.get_or_insert(is), is);
    }
    let record = etcd.client().await.get([PREFIX, b"keyring"].concat(), None).await.unwrap();
    assert_eq!(record.kvs()[0].version(), 1);
    let stranger = Namespace::open(etcd.client().await, PREFIX, crate::proxied::masters()).await;
    assert_eq!(stranger.err().unwrap().kind(), ErrorKind::WrongKey);
    let none = Namespace::open(etcd.client().await, b"/other/", masters).await;
    assert_eq!(none.err().unwrap().kind(), ErrorKind::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_reaches_all_within_a_second() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let masters = masters();
    let open = |client| Namespace::init(client, PREFIX, masters.clone(), NOW);
    let one = open(etcd.client().await).await.unwrap();
    let mut others = Vec::new();
    for _ in 0..5 {
        others.push(open(etcd.client().await).await.unwrap());
    }
    let before = one.cipher();
    let old = before.seal(b"k", b"old").unwrap();
    let id = one.rotate(NOW, Duration::from_millis(500)).await.unwrap();
    let begun = Instant::now();
    while others.iter().any(|other| other.cipher().primary() != id) {
        assert!(begun.elapsed() < Duration::from_secs(10), "they never learn of it");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let new = others[0].cipher().seal(b"k", b"new").unwrap();
    assert_eq!(one.cipher().open(b"k", &new).unwrap(), b"new");
    assert_eq!(one.cipher().open(b"k", &old).unwrap(), b"old");
    one.change(|ring| keyring::disable(ring, before.primary())).await.unwrap();
    assert_eq!(one.cipher().open(b"k", &old).unwrap_err().kind(), ErrorKind::WrongKey);
    assert!(one.change(|ring| keyring::disable(ring, id)).await.is_err());
}

/// An old record that somebody puts back is not taken into use.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_keyring_is_refused() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let namespace = Namespace::init(etcd.client().await, PREFIX, masters(), NOW).await.unwrap();
    let mut client = etcd.client().await;
    let key = [PREFIX, b"keyring"].concat();
    let old = client.get(&*key, None).await.unwrap().kvs()[0].value().to_vec();
    let id = namespace.rotate(NOW, Duration::ZERO).await.unwrap();
    client.put(&*key, old, None).await.unwrap();
    let begun = Instant::now();
    while namespace.refused().is_none() {
        assert!(begun.elapsed() < Duration::from_secs(10), "it was taken");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(namespace.cipher().primary(), id);
    assert_eq!(namespace.writable().err().unwrap().kind(), ErrorKind::Unreachable);
}

/// Without its keyring a namespace reads on and does not write; no other keyring is made in its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_keyring_stops_writes_until_it_is_back() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let masters = masters();
    let namespace =
        Namespace::init(etcd.client().await, PREFIX, masters.clone(), NOW).await.unwrap();
    let mut client = etcd.client().await;
    let record = Namespace::export(&client, PREFIX).await.unwrap();
    let sealed = namespace.writable().unwrap().seal(b"/app/x", b"secret").unwrap();
    client.put("/app/x", sealed.clone(), None).await.unwrap();
    client.put("/app/y", "unencrypted", None).await.unwrap();
    let until = async |writable: bool| {
        let begun = Instant::now();
        while namespace.writable().is_ok() != writable {
            assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", namespace.refused());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    client.delete([PREFIX, b"keyring"].concat(), None).await.unwrap();
    until(false).await;
    let error = namespace.writable().err().unwrap();
    assert!(error.to_string().contains("was deleted"), "{error}");
    assert_eq!(namespace.cipher().open(b"/app/x", &sealed).unwrap(), b"secret");

    let error = Namespace::open(client.clone(), PREFIX, masters.clone()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("/app/x") && !error.to_string().contains("/app/y"));
    let error = Namespace::init(client.clone(), PREFIX, masters.clone(), NOW).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("/app/x"), "{error}");

    // Another's keyring is none for these values.
    let other = keyring::generate(NOW, &mut system_rng());
    let other = keyring::seal_at_once(&other, &masters, &mut system_rng()).unwrap();
    let import = async |record: &Vec<u8>, force| {
        Namespace::import(&etcd.client().await, PREFIX, &masters, record, force).await
    };
    let error = import(&other, false).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(import(&record, false).await.unwrap());
    until(true).await;
    assert!(!import(&record, false).await.unwrap(), "it is there already");

    // A newer or another one is replaced on demand only.
    namespace.rotate(NOW, Duration::ZERO).await.unwrap();
    for wrong in [&other, &record] {
        assert_eq!(import(wrong, false).await.unwrap_err().kind(), ErrorKind::Refused);
    }
    let strangers = crate::proxied::masters();
    let error = Namespace::import(&client, PREFIX, &strangers, &record, true).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WrongKey);
    assert!(import(&record, true).await.unwrap());
    until(false).await;
    assert!(namespace.refused().unwrap().contains("older than the one in use"));
}

/// A process that lost touch with etcd stops writing before a change of the keyring may be relied on.
#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_without_etcd_stops_writing() {
    let mut etcd = Etcd::start(Version::NEWEST).await;
    let client = etcd.settings().connect().await.unwrap();
    let namespace = Namespace::init(client, PREFIX, masters(), NOW).await.unwrap();
    etcd.kill(0);
    let killed = Instant::now();
    namespace.writable().unwrap();
    while namespace.writable().is_ok() {
        assert!(killed.elapsed() < strongroom::values::SETTLE, "it would write");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(namespace.refused().unwrap().contains("not confirmed"));
    etcd.restart(0);
    let restarted = Instant::now();
    while namespace.writable().is_err() {
        assert!(restarted.elapsed() < Duration::from_secs(20), "{:?}", namespace.refused());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Values of a megabyte: a page of many would be longer than any message.
#[tokio::test(flavor = "multi_thread")]
async fn large_values_are_surveyed_and_migrated() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let namespace = Namespace::init(etcd.client().await, PREFIX, masters(), NOW).await.unwrap();
    let mut client = etcd.client().await;
    for at in 0..80 {
        client.put(format!("/large/{at:02}"), vec![b'x'; 1 << 20], None).await.unwrap();
    }
    assert_eq!(namespace.survey(b"").await.unwrap().unencrypted, 80);
    for phase in [MigrationPhase::AdmitBack, MigrationPhase::Encrypt] {
        namespace.set_phase(b"", phase, Duration::ZERO).await.unwrap();
    }
    let done = namespace.migrate(b"", None).await.unwrap();
    assert_eq!((done.sealed, done.failed.len()), (80, 0));
    assert_eq!(namespace.survey(b"").await.unwrap().unencrypted, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn migration() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let namespace = Namespace::init(etcd.client().await, PREFIX, masters(), NOW).await.unwrap();
    let shim = Shim::new(
        etcd_client::Channel::Tonic(
            tonic::transport::Channel::from_shared(etcd.endpoint().to_owned())
                .unwrap()
                .connect_lazy(),
        ),
        namespace.clone(),
        Scope::default(),
    );
    let (mut raw, mut client) = (etcd.client().await, shim.client(None).await.unwrap());
    let lease = raw.lease_grant(600, None).await.unwrap().id();
    for at in 0..600 {
        let options = (at == 5).then(|| PutOptions::new().with_lease(lease));
        raw.put(format!("app/{at:04}"), format!("clear {at}"), options).await.unwrap();
    }
    client.put("app/sealed", "as it was", None).await.unwrap();
    raw.put("other/x", "clear", None).await.unwrap();
    let error = client.get("app/0001", None).await.unwrap_err();
    assert_eq!(error_kind(&error), Some(ErrorKind::Tampered), "{error}");
    let error = client.get("", None).await.unwrap_err();
    assert_eq!(error_kind(&error), None, "etcd's own: {error}");
    let error = client.put("/strongroom/keyring", "x", None).await.unwrap_err();
    assert_eq!(error_kind(&error), Some(ErrorKind::Refused), "{error}");
    let phase = async |phase| namespace.set_phase(b"app/", phase, Duration::ZERO).await;
    phase(MigrationPhase::AdmitBack).await.unwrap();
    phase(MigrationPhase::Encrypt).await.unwrap();
    assert_eq!(client.get("app/0001", None).await.unwrap().kvs()[0].value(), b"clear 1");
    assert!(client.get("other/x", None).await.is_err());

    let survey = namespace.survey(b"").await.unwrap();
    assert_eq!((survey.unencrypted, survey.keys[&namespace.cipher().primary()]), (601, 1));
    let dry = namespace.plan(b"app/", None).await.unwrap();
    assert_eq!((dry.sealed, dry.unchanged), (600, 1));
    assert_eq!(namespace.survey(b"").await.unwrap(), survey);

    // While it runs, another client changes a value through the shim, and another one directly.
    let rate = NonZeroU32::new(2000);
    let (done, ()) = tokio::join!(namespace.migrate(b"app/", rate), async {
        client.put("app/0599", "changed", None).await.unwrap();
        raw.put("app/0598", "changed unencrypted", None).await.unwrap();
    });
    let done = done.unwrap();
    assert!(done.failed.is_empty() && done.sealed >= 598, "{done:?}");
    let again = namespace.migrate(b"app/", None).await.unwrap();
    assert_eq!(again.sealed + again.unchanged, 601);
    phase(MigrationPhase::Done).await.unwrap();
    assert_eq!(namespace.survey(b"app/").await.unwrap().unencrypted, 0);
    let all = client.get("app/", Some(GetOptions::new().with_prefix())).await.unwrap();
    assert_eq!(all.kvs().len(), 601);
    assert_eq!(all.kvs()[5].lease(), lease);
    assert_eq!(all.kvs()[598].value(), b"changed unencrypted");
    assert_eq!(all.kvs()[599].value(), b"changed");

    let old = namespace.cipher().primary();
    namespace.rotate(NOW, Duration::ZERO).await.unwrap();
    raw.put("app/odd", b"a\0S".to_vec(), None).await.unwrap();
    let done = namespace.migrate(b"app/", None).await.unwrap();
    assert_eq!(done.resealed, 601, "{done:?}");
    assert!(!namespace.survey(b"app/").await.unwrap().keys.contains_key(&old));
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_counted() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let masters = masters();
    let open = |client| Namespace::init(client, PREFIX, masters.clone(), NOW);
    let (one, two) =
        (open(etcd.client().await).await.unwrap(), open(etcd.client().await).await.unwrap());
    for _ in 0..30 {
        one.cipher().seal(b"k", b"").unwrap();
        two.cipher().seal(b"k", b"").unwrap();
    }
    two.flush_usage().await.unwrap();
    assert_eq!(one.describe().await.unwrap().0[0].used, 60);
}

/// The user that `setup-auth` makes for a proxy reads its own keys only: what else there is, is unknown.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_of_the_reserved_keys_alone() {
    let etcd = Etcd::builder(Version::NEWEST).with_auth().start().await;
    for args in [
        &["role", "add", "proxy"][..],
        &["role", "grant-permission", "proxy", "--prefix=true", "readwrite", "/strongroom/"],
        &["user", "add", "proxy:proxy"],
        &["user", "grant-role", "proxy", "proxy"],
    ] {
        etcd.etcdctl(args);
    }
    let mut settings = etcd.settings();
    settings.user = Some("proxy".into());
    settings.password = Some(SecretBytes::new("proxy".into()));
    let client = async || settings.connect().await.unwrap();
    let masters = masters();
    let init = Namespace::init(client().await, PREFIX, masters.clone(), NOW).await;
    let error = init.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.to_string().contains("is unknown"), "{error}");
    let error = Namespace::open(client().await, PREFIX, masters.clone()).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("is unknown"), "{error}");
    Namespace::init(etcd.client().await, PREFIX, masters.clone(), NOW).await.unwrap();
    let namespace = Namespace::open(client().await, PREFIX, masters).await.unwrap();
    namespace.writable().unwrap();
    namespace.rotate(NOW, Duration::ZERO).await.unwrap();
}

/// A keyring that a retired master key sealed opens, for a rotation must stop no program; and that is told.
#[tokio::test(flavor = "multi_thread")]
async fn a_keyring_under_a_retired_master_key() {
    let etcd = Etcd::start(Version::NEWEST).await;
    Namespace::init(etcd.client().await, PREFIX, Arc::new(keys(&[1])), NOW).await.unwrap();
    let mut rotated = KeySet::new();
    rotated.add(Arc::new(key(1)), KeyState::Retired);
    rotated.add(Arc::new(key(2)), KeyState::Primary);
    let open = Namespace::open(etcd.client().await, PREFIX, Arc::new(rotated));
    let namespace = open.await.unwrap();
    assert_eq!(namespace.standing().await.unwrap(), Standing::NotTrusted(Distrust::Retired));
    namespace.writable().unwrap();
    namespace.rotate(NOW, Duration::ZERO).await.unwrap();
    assert_eq!(namespace.standing().await.unwrap(), Standing::Counts);
}
