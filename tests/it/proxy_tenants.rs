//! Clients that may touch some keys only: what they cannot reach by leases, and what a refusal within a stream does.

use std::fs;
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::behind::{Behind, Proxy, contains};
use crate::etcd_server::Version;
use crate::proxy_gate::output;
use crate::raw::{
    OK, PERMISSION_DENIED, Raw, bytes, bytes_of, choice, decode, encode, message, number, number_of,
};

const GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
const REVOKE: &str = "/etcdserverpb.Lease/LeaseRevoke";
const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";
const TIME_TO_LIVE: &str = "/etcdserverpb.Lease/LeaseTimeToLive";
const LEASES: &str = "/etcdserverpb.Lease/LeaseLeases";
const PUT: &str = "/etcdserverpb.KV/Put";
const RANGE: &str = "/etcdserverpb.KV/Range";
const WATCH: &str = "/etcdserverpb.Watch/Watch";

/// Two clients with a prefix each, and one without limits.
struct Tenants {
    behind: Behind,
    proxy: Proxy,
}

impl Tenants {
    async fn start() -> Self {
        let behind = tokio::task::spawn_blocking(|| Behind::start(Version::NEWEST)).await.unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let path = |name: String| behind.dir.path().join(name).display().to_string();
        fs::write(path("ca.crt".into()), params.self_signed(&key).unwrap().pem()).unwrap();
        let issuer = Issuer::new(params, key);
        for name in ["server", "app", "other", "admin"] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
            params.distinguished_name.push(DnType::CommonName, name);
            fs::write(path(format!("{name}.crt")), params.signed_by(&key, &issuer).unwrap().pem())
                .unwrap();
            fs::write(path(format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        let args = [
            format!("--listen-cert={}", path("server.crt".into())),
            format!("--listen-key={}", path("server.key".into())),
            format!("--listen-trusted-ca={}", path("ca.crt".into())),
            "--allow=app=/app/".into(),
            "--allow=other=/other/".into(),
            "--allow=admin=".into(),
            format!("--audit-log={}", path("audit.log".into())),
        ];
        let proxy = behind.proxy(&args.each_ref().map(String::as_str));
        Self { behind, proxy }
    }

    async fn client(&self, name: &str) -> Raw {
        let path = |file: String| self.behind.dir.path().join(file);
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(path("ca.crt".into())).unwrap()).unwrap();
        let certificate = CertificateDer::from_pem_file(path(format!("{name}.crt"))).unwrap();
        let key = PrivateKeyDer::from_pem_file(path(format!("{name}.key"))).unwrap();
        let mut config = ClientConfig::builder()
            .with_root_certificates(roots)
            .with_client_auth_cert(vec![certificate], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".into()];
        let stream = TcpStream::connect(&self.proxy.address).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let server = ServerName::try_from("127.0.0.1").unwrap();
        let stream = TlsConnector::from(Arc::new(config)).connect(server, stream).await.unwrap();
        Raw::over(stream, &self.proxy.address).await
    }

    fn audit(&self, args: &[&str]) -> String {
        let log = self.behind.dir.path().join("audit.log").display().to_string();
        let (status, text) = output(&[&["audit-log", "query", &log][..], args].concat());
        assert_eq!(status, Some(0), "{text}");
        text
    }
}

async fn grant(client: &Raw) -> u64 {
    number_of(client.call(GRANT, &encode(&[number(1, 600)])).await.assert_ok("grant"), 2)
}

async fn put(client: &Raw, key: &str, lease: u64) {
    let request = [bytes(1, key), bytes(2, "plaintext-leased"), number(3, lease)];
    client.call(PUT, &encode(&request)).await.assert_ok(key);
}

/// The lease's keys, or the refusal's code.
async fn keys_of(client: &Raw, lease: u64) -> Result<Vec<Vec<u8>>, i32> {
    let answer = client.call(TIME_TO_LIVE, &encode(&[number(1, lease), choice(2, 1)])).await;
    assert_eq!(answer.broken, None, "{answer:?}");
    match answer.status {
        Some(OK) => {
            let fields = decode(answer.first()).into_iter();
            Ok(fields.filter(|(field, ..)| *field == 5).map(|(.., key)| key).collect())
        }
        status => Err(status.expect("a status")),
    }
}

async fn kept_alive(client: &Raw, lease: u64) -> Result<u64, i32> {
    let mut stream = client.open(KEEP_ALIVE).await;
    stream.send(&encode(&[number(1, lease)])).await;
    match stream.next().await {
        Ok(answer) => Ok(number_of(&answer, 3)),
        Err(answer) => {
            assert_eq!(answer.broken, None, "{answer:?}");
            Err(answer.status.expect("a status"))
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_belongs_to_who_may_touch_its_keys() {
    let tenants = Tenants::start().await;
    let (app, other) = (tenants.client("app").await, tenants.client("other").await);
    let admin = tenants.client("admin").await;
    let (theirs, both, own) = (grant(&other).await, grant(&other).await, grant(&app).await);
    let empty = grant(&app).await;
    put(&other, "/other/leader", theirs).await;
    put(&other, "/other/shared", both).await;
    put(&admin, "/app/shared", both).await;
    // A key that joined another's lease would stop the other from keeping it alive.
    for lease in [theirs, both] {
        let request = [bytes(1, "/app/joins"), bytes(2, "plaintext-joins"), number(3, lease)];
        let answer = app.call(PUT, &encode(&request)).await;
        answer.assert_refused(PERMISSION_DENIED, "a key that joins");
    }
    put(&app, "/app/own", own).await;

    for lease in [theirs, both] {
        assert_eq!(keys_of(&app, lease).await, Err(PERMISSION_DENIED));
        let answer = app.call(TIME_TO_LIVE, &encode(&[number(1, lease)])).await;
        answer.assert_refused(PERMISSION_DENIED, "time to live");
        assert_eq!(kept_alive(&app, lease).await, Err(PERMISSION_DENIED));
        let answer = app.call(REVOKE, &encode(&[number(1, lease)])).await;
        answer.assert_refused(PERMISSION_DENIED, "revoke");
    }
    let list = app.call(LEASES, &[]).await;
    assert_eq!(list.broken, None);
    for (field, _, lease) in decode(list.first()) {
        let lease = if field == 2 { number_of(&lease, 1) } else { 0 };
        assert!(lease != theirs && lease != both, "the list shows another's lease");
    }
    for (client, key) in [(&other, "/other/leader"), (&other, "/other/shared"), (&app, "/app/own")]
    {
        let answer = client.call(RANGE, &encode(&[bytes(1, key)])).await;
        assert_eq!(number_of(answer.assert_ok(key), 4), 1, "{key} is gone");
    }

    // Its own, an empty one, and none at all are answered as etcd does.
    assert_eq!(keys_of(&app, own).await, Ok(vec![b"/app/own".to_vec()]));
    assert_eq!(kept_alive(&app, own).await, Ok(600));
    assert_eq!(keys_of(&app, empty).await, Ok(vec![]));
    assert_eq!(kept_alive(&app, empty).await, Ok(600));
    app.call(REVOKE, &encode(&[number(1, own)])).await.assert_ok("revoke");
    app.call(REVOKE, &encode(&[number(1, empty)])).await.assert_ok("revoke");
    let answer = app.call(REVOKE, &encode(&[number(1, own)])).await;
    answer.assert_refused(5, "a lease that is gone");
    assert_eq!(kept_alive(&app, own).await, Ok(0));
    assert_eq!(keys_of(&admin, both).await.unwrap().len(), 2);
    assert_eq!(kept_alive(&admin, both).await, Ok(600));
    admin.call(REVOKE, &encode(&[number(1, both)])).await.assert_ok("revoke");
}

/// A lease that another client's key joins while it is kept alive.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "long: leases are looked at every 30 s"]
async fn long_keep_alive_ends_when_the_lease_is_no_longer_the_clients() {
    let tenants = Tenants::start().await;
    let (app, admin) = (tenants.client("app").await, tenants.client("admin").await);
    let lease = grant(&app).await;
    let mut stream = app.open(KEEP_ALIVE).await;
    stream.send(&encode(&[number(1, lease)])).await;
    assert_eq!(number_of(&stream.next().await.unwrap(), 3), 600);
    put(&admin, "/other/joined", lease).await;
    for _ in 0..45 {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        stream.send(&encode(&[number(1, lease)])).await;
        if let Err(answer) = stream.next().await {
            answer.assert_refused(PERMISSION_DENIED, "keep alive");
            return;
        }
    }
    panic!("it is kept alive for another's key");
}

fn create(key: &str, end: &str, id: u64) -> Vec<u8> {
    encode(&[message(1, [bytes(1, key), bytes(2, end), number(7, id)])])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_watch_is_created_and_canceled_and_others_live_on() {
    let tenants = Tenants::start().await;
    let app = tenants.client("app").await;
    let mut stream = app.open(WATCH).await;
    stream.send(&create("/app/", "/app0", 7)).await;
    let created = stream.next().await.unwrap();
    assert_eq!((number_of(&created, 2), number_of(&created, 3), number_of(&created, 4)), (7, 1, 0));

    for (key, end) in
        [("/other/", "/other0"), ("/", "\0"), ("/app/", "/b"), ("\0", "\0"), ("/other/x", "")]
    {
        stream.send(&create(key, end, 0)).await;
        let refused = stream.next().await.unwrap();
        // As etcd: created and canceled at once, with the reason.
        assert_eq!((number_of(&refused, 3), number_of(&refused, 4)), (1, 1), "{key} {refused:?}");
        assert_ne!(number_of(&refused, 2), 7, "{key}");
        assert!(contains(&bytes_of(&refused, 6), b"permission denied"), "{key} {refused:?}");
        assert!(stream.silent().await, "{key}: more than one answer");
    }
    // A stream of which the first watch is refused goes on too.
    let mut second = app.open(WATCH).await;
    second.send(&create("/other/", "/other0", 0)).await;
    assert_eq!(number_of(&second.next().await.unwrap(), 4), 1);
    second.send(&create("/app/", "/app0", 9)).await;
    assert_eq!(number_of(&second.next().await.unwrap(), 2), 9);

    put(&app, "/app/x", 0).await;
    put(&tenants.client("other").await, "/other/x", 0).await;
    for (stream, id) in [(&mut stream, 7), (&mut second, 9)] {
        let event = stream.next().await.unwrap();
        assert_eq!(number_of(&event, 2), id);
        let kv = bytes_of(&bytes_of(&event, 11), 2);
        assert_eq!(
            (bytes_of(&kv, 1), bytes_of(&kv, 5)),
            (b"/app/x".to_vec(), b"plaintext-leased".to_vec())
        );
        assert!(stream.silent().await);
    }
    let lines = tenants.audit(&["--method", "Watch"]);
    let denied = lines.lines().filter(|line| line.contains("PERMISSION_DENIED")).count();
    assert!((1..=12).contains(&denied), "{denied} lines for six refused watches:\n{lines}");
    assert!(lines.contains("/other/"), "{lines}");
}

/// Locks and elections hold a lease and a key of their own.
#[tokio::test(flavor = "multi_thread")]
async fn locks_and_elections_of_others() {
    let tenants = Tenants::start().await;
    let (app, other) = (tenants.client("app").await, tenants.client("other").await);
    let lease = grant(&other).await;
    let campaign =
        encode(&[bytes(1, "/other/office"), number(2, lease), bytes(3, "plaintext-other")]);
    let won = other.call("/v3electionpb.Election/Campaign", &campaign).await;
    let leader = bytes_of(won.assert_ok("campaign"), 2);
    for (path, request) in [
        ("/v3electionpb.Election/Leader", vec![bytes(1, "/other/office")]),
        ("/v3electionpb.Election/Observe", vec![bytes(1, "/other/office")]),
        ("/v3electionpb.Election/Proclaim", vec![bytes(1, &leader), bytes(2, "plaintext-app")]),
        ("/v3electionpb.Election/Resign", vec![bytes(1, &leader)]),
        (
            "/v3electionpb.Election/Campaign",
            vec![bytes(1, "/other/office"), bytes(3, "plaintext-app")],
        ),
        ("/v3lockpb.Lock/Lock", vec![bytes(1, "/other/lock")]),
        ("/v3lockpb.Lock/Unlock", vec![bytes(1, bytes_of(&leader, 2))]),
        // The lock's key would be below `/ap/`.
        ("/v3lockpb.Lock/Lock", vec![bytes(1, "/ap")]),
    ] {
        let answer = app.call(path, &encode(&request)).await;
        answer.assert_refused(PERMISSION_DENIED, path);
    }
    let still =
        other.call("/v3electionpb.Election/Leader", &encode(&[bytes(1, "/other/office")])).await;
    assert_eq!(bytes_of(&bytes_of(still.assert_ok("leader"), 2), 5), b"plaintext-other");
    for path in [
        "/etcdserverpb.Maintenance/Snapshot",
        "/etcdserverpb.KV/Compact",
        "/etcdserverpb.Auth/UserList",
    ] {
        app.call(path, &[]).await.assert_refused(PERMISSION_DENIED, path);
    }
}

/// etcd attaches what a leader proclaims to the lease that the request names, whoever's that is.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_has_no_lease_of_others() {
    let tenants = Tenants::start().await;
    let (app, other) = (tenants.client("app").await, tenants.client("other").await);
    let theirs = grant(&other).await;
    put(&other, "/other/own", theirs).await;
    let own = grant(&app).await;
    let campaign = encode(&[bytes(1, "/app/office"), number(2, own), bytes(3, "plaintext-app")]);
    let won = app.call("/v3electionpb.Election/Campaign", &campaign).await;
    let leader = bytes_of(won.assert_ok("campaign"), 2);
    let leader = |lease| {
        let (key, revision) = (bytes_of(&leader, 2), number_of(&leader, 3));
        message(1, [bytes(1, "/app/office"), bytes(2, key), number(3, revision), number(4, lease)])
    };
    let proclaim = |lease| encode(&[leader(lease), bytes(2, "plaintext-again")]);
    let path = "/v3electionpb.Election/Proclaim";
    app.call(path, &proclaim(own)).await.assert_ok("proclaim");
    app.call(path, &proclaim(theirs)).await.assert_refused(PERMISSION_DENIED, "proclaim");
    let path = "/v3electionpb.Election/Resign";
    let answer = app.call(path, &encode(&[leader(theirs)])).await;
    answer.assert_refused(PERMISSION_DENIED, "resign");
    assert_eq!(keys_of(&other, theirs).await, Ok(vec![b"/other/own".to_vec()]));
    assert_eq!(kept_alive(&other, theirs).await, Ok(600));
    app.call(path, &encode(&[leader(own)])).await.assert_ok("resign");
}

/// Whoever may write some keys cannot spoil the answers of those who read them all.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_makes_no_value_that_others_cannot_read() {
    let tenants = Tenants::start().await;
    let (app, admin) = (tenants.client("app").await, tenants.client("admin").await);
    let mut watch = admin.open(WATCH).await;
    watch.send(&create("/", "0", 7)).await;
    assert_eq!(number_of(&watch.next().await.unwrap(), 2), 7);
    let lease = grant(&app).await;
    let lock = encode(&[bytes(1, "/app/lock"), number(2, lease)]);
    let locked = app.call("/v3lockpb.Lock/Lock", &lock).await;
    let key = bytes_of(locked.assert_ok("lock"), 2);
    // The lock's value, which is empty and not encrypted, under no lease and under another.
    for lease in [0, grant(&app).await] {
        let keeps_value = encode(&[bytes(1, &key), number(3, lease), choice(5, 1)]);
        app.call(PUT, &keeps_value).await.assert_ok("put");
    }
    // Go prints this lease as -5.
    let negative = -5_i64 as u64;
    let leased = encode(&[number(1, 600), number(2, negative)]);
    app.call(GRANT, &leased).await.assert_ok("grant");
    let campaign = [bytes(1, "/app/office"), number(2, negative), bytes(3, "plaintext-app")];
    app.call("/v3electionpb.Election/Campaign", &encode(&campaign)).await.assert_ok("campaign");
    let lock = encode(&[bytes(1, "/app/lock2"), number(2, negative)]);
    app.call("/v3lockpb.Lock/Lock", &lock).await.assert_ok("lock");
    let leader = encode(&[bytes(1, "/app/office")]);
    let leader = app.call("/v3electionpb.Election/Leader", &leader).await;
    assert_eq!(bytes_of(&bytes_of(leader.assert_ok("leader"), 2), 5), b"plaintext-app");

    let list = admin.call(RANGE, &encode(&[bytes(1, "/"), bytes(2, "0")])).await;
    assert_eq!(number_of(list.assert_ok("list"), 4), 3);
    for _ in 0..5 {
        let event = watch.next().await.unwrap();
        assert_eq!((number_of(&event, 2), number_of(&event, 4)), (7, 0), "{event:?}");
        assert!(!bytes_of(&event, 11).is_empty());
    }
}
