//! Who a client is to an etcd that takes users from certificates: never the proxy.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use futures::future::join_all;
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use tempfile::TempDir;

use crate::behind::Behind;
use crate::etcd_server::{Etcd, ROOT_PASSWORD, Version};
use crate::proxy_gate::{Authority, Program, keyring, output};

fn refusal(error: &Error) -> (i32, String) {
    match error {
        Error::GRpcStatus(status) => (status.code() as i32, status.message().to_owned()),
        other => panic!("{other:?}"),
    }
}

const INVALID_ARGUMENT: i32 = 3;
const PERMISSION_DENIED: i32 = 7;
const UNAUTHENTICATED: i32 = 16;

/// The arguments of a proxy before `behind`, which etcd takes for the user root.
fn as_root(behind: &Behind) -> Vec<String> {
    let settings = behind.etcd.settings();
    let ca = settings.cacert.unwrap();
    let file = |name: &str| ca.with_file_name(name).display().to_string();
    ["-k", &behind.key, "--endpoints", behind.etcd.endpoint()]
        .map(str::to_owned)
        .into_iter()
        .chain([
            format!("--cacert={}", ca.display()),
            format!("--cert={}", file("root.pem")),
            format!("--key={}", file("root-key.pem")),
        ])
        .collect()
}

fn start(args: &[String], more: &[&str]) -> Program {
    let args: Vec<_> = args.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Program::start(&args)
}

/// A client of etcd itself, with a certificate that names nobody.
async fn direct(etcd: &Etcd) -> Client {
    let settings = etcd.settings();
    let read = |path: Option<std::path::PathBuf>| std::fs::read(path.unwrap()).unwrap();
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read(settings.cacert)))
        .identity(Identity::from_pem(read(settings.cert), read(settings.key)));
    let options = ConnectOptions::new().with_tls(tls);
    Client::connect([etcd.endpoint()], Some(options)).await.unwrap()
}

async fn logged_in(address: &str) -> Client {
    let options = ConnectOptions::new().with_user("root", ROOT_PASSWORD);
    Client::connect([address], Some(options)).await.unwrap()
}

/// That `client`, who is nobody, can do nothing.
async fn can_do_nothing(client: &mut Client, expected: &(i32, String)) {
    let errors = [
        client.get("secret", None).await.err(),
        client.put("secret", "x", None).await.err(),
        client.delete("secret", None).await.err(),
        client.txn(etcd_client::Txn::new()).await.err(),
        client.compact(1, None).await.err(),
        client.lease_grant(60, None).await.err(),
        client.lock("lock", None).await.err(),
        client.campaign("election", "me", 1).await.err(),
        client.user_list().await.err(),
        client.user_add("intruder", "x", None).await.err(),
        client.role_list().await.err(),
        client.auth_disable().await.err(),
        client.member_list().await.err(),
        client.hash_kv(0).await.err(),
        client.watch("secret", None).await.err(),
    ];
    for (at, error) in errors.iter().enumerate() {
        let error = error.as_ref().unwrap_or_else(|| panic!("call {at} is answered"));
        assert_eq!(&refusal(error), expected, "call {at}");
    }
    let snapshot = match client.snapshot().await {
        Ok(mut stream) => stream.message().await.err(),
        Err(error) => Some(error),
    };
    assert_eq!(&refusal(&snapshot.expect("no snapshot")), expected);
}

/// Authentication is switched on, not through the proxy, while it runs.
async fn switched_on(version: Version) {
    let mut behind =
        tokio::task::spawn_blocking(move || Behind::start_with_tls(version)).await.unwrap();
    let proxy = start(&as_root(&behind), &[]);
    let mut client = Client::connect([&proxy.address], None).await.unwrap();
    client.put("secret", "plaintext", None).await.unwrap();
    let mut watches = client.watch("before", None).await.unwrap();
    assert!(watches.message().await.unwrap().unwrap().created());

    behind.etcd.enable_auth();
    let begun = Instant::now();
    // As etcd refuses a client without a certificate.
    let expected = (INVALID_ARGUMENT, "etcdserver: user name is empty".to_owned());
    loop {
        match client.get("secret", None).await {
            // Until the proxy knows, etcd itself refuses.
            Err(error) if refusal(&error) == expected => break,
            Err(error) => assert_eq!(refusal(&error).0, UNAUTHENTICATED, "{version:?}"),
            Ok(_) => assert!(version == Version::V3_4, "{version:?}: the proxy's rights are used"),
        }
        assert!(begun.elapsed() < Duration::from_secs(25), "{version:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    can_do_nothing(&mut client, &expected).await;
    watches.watch("secret", None).await.unwrap();
    let watch = watches.message().await;
    assert!(watch.as_ref().map_or(true, |one| one.as_ref().unwrap().canceled()), "{watch:?}");

    // Those that log in are who they say.
    let mut root = logged_in(&proxy.address).await;
    root.put("secret", "plaintext again", None).await.unwrap();
    assert_eq!(root.get("secret", None).await.unwrap().kvs()[0].value(), b"plaintext again");
    let options = ConnectOptions::new().with_user("reader", "reader");
    let mut reader = Client::connect([&proxy.address], Some(options)).await.unwrap();
    assert_eq!(reader.get("secret", None).await.unwrap().kvs().len(), 1);
    let denied = refusal(&reader.put("secret", "x", None).await.unwrap_err());
    assert_eq!(denied.0, PERMISSION_DENIED);

    // Switched off and on through the proxy, it is known at once.
    root.auth_disable().await.unwrap();
    let begun = Instant::now();
    while let Err(error) = client.get("secret", None).await {
        assert_eq!(refusal(&error), expected);
        assert!(begun.elapsed() < Duration::from_secs(25), "{version:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    client.auth_enable().await.unwrap();
    can_do_nothing(&mut client, &expected).await;
    proxy.end();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_never_has_the_rights_of_the_proxys_certificate() {
    let all = Version::ALL.into_iter().map(|version| tokio::spawn(switched_on(version)));
    for done in join_all(all).await {
        done.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_certificate_for_clients_etcd_decides() {
    let mut behind =
        tokio::task::spawn_blocking(|| Behind::start_with_tls(Version::V3_5)).await.unwrap();
    let settings = behind.etcd.settings();
    let [nobody, key] = [settings.cert, settings.key].map(|file| file.unwrap());
    let root = as_root(&behind);
    let root_key = Path::new(&nobody).with_file_name("root-key.pem");
    let named = Path::new(&nobody).with_file_name("root.pem");
    let args = |cert: &Path, key: &Path| {
        [format!("--client-cert={}", cert.display()), format!("--client-key={}", key.display())]
    };
    let [cert, key_arg] = args(&named, &root_key);
    let mut refused = vec!["proxy"];
    refused.extend(root.iter().map(String::as_str));
    refused.extend([&*cert, &*key_arg, "--listen=127.0.0.1:0"]);
    let (status, text) = output(&refused);
    assert!(status == Some(2) && text.contains("common name"), "{status:?} {text}");

    behind.etcd.enable_auth();
    let [cert, key_arg] = args(&nobody, &key);
    let proxy = start(&root, &[&cert, &key_arg]);
    let expected = refusal(&direct(&behind.etcd).await.get("secret", None).await.unwrap_err());
    let mut client = Client::connect([&proxy.address], None).await.unwrap();
    assert_eq!(refusal(&client.get("secret", None).await.unwrap_err()), expected);
    // The proxy itself is root: it reads its keyring.
    let mut root = logged_in(&proxy.address).await;
    root.put("secret", "plaintext", None).await.unwrap();
    assert_eq!(root.get("secret", None).await.unwrap().kvs()[0].value(), b"plaintext");
    behind.assert_encrypted();
    proxy.end();
}

/// A client with TLS and without a certificate.
async fn without_certificate(authority: &Authority, proxy: &Program, user: bool) -> Client {
    let ca = std::fs::read(authority.path("ca.crt")).unwrap();
    let tls = TlsOptions::new().ca_certificate(Certificate::from_pem(ca));
    let mut options = ConnectOptions::new().with_tls(tls);
    if user {
        options = options.with_user("root", ROOT_PASSWORD);
    }
    let endpoint = format!("https://{}", proxy.address);
    Client::connect([endpoint], Some(options)).await.unwrap()
}

/// The certificate for clients, the one for clients' calls to etcd, and the one for the proxy's own calls.
#[test]
fn a_key_of_another_certificate_is_named() {
    let dir = TempDir::new().unwrap();
    let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
    params.distinguished_name = DistinguishedName::new();
    let own = KeyPair::generate().unwrap();
    let [cert, key] =
        ["tls.crt", "tls.key"].map(|name| dir.path().join(name).display().to_string());
    fs::write(&cert, params.self_signed(&own).unwrap().pem()).unwrap();
    fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
    let keyring = keyring(dir.path());
    for (cert_flag, key_flag) in
        [("--listen-cert", "--listen-key"), ("--client-cert", "--client-key"), ("--cert", "--key")]
    {
        let args = ["proxy", "-k", &keyring, "--endpoints=https://127.0.0.1:1"];
        let files = ["--listen=127.0.0.1:0", cert_flag, &cert, key_flag, &key];
        let (status, text) = output(&[&args[..], &files].concat());
        assert_eq!(status, Some(2), "{cert_flag}: {text}");
        let wanted = format!("{key}: this key does not belong to the certificate in {cert}");
        assert!(text.contains(&wanted), "{cert_flag}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_without_certificates_of_clients_is_not_for_everybody() {
    let mut behind = tokio::task::spawn_blocking(|| Behind::start(Version::V3_5)).await.unwrap();
    let dir = TempDir::new().unwrap();
    let authority = Authority::new(dir.path());
    authority.certify("proxy");
    let files = ["proxy.crt", "proxy.key"].map(|name| authority.path(name));
    let endpoint = behind.etcd.endpoint().to_owned();
    let args = ["-k", &behind.key, "--endpoints", &endpoint, "--listen-cert", &files[0]];
    let args = [&args[..], &["--listen-key", &files[1]]].concat();
    let (status, text) = output(&[&["proxy", "--listen=127.0.0.1:0"], &args[..]].concat());
    assert_eq!(status, Some(1), "{text}");
    assert!(text.contains("--listen-trusted-ca") && text.contains("--insecure"), "{text}");

    let open = Program::start(&[&args[..], &["--insecure-no-client-auth"]].concat());
    without_certificate(&authority, &open, false).await.put("a", "x", None).await.unwrap();
    open.end();

    behind.etcd.enable_auth();
    let settings = behind.etcd.settings();
    let password = dir.path().join("password");
    crate::place::write_secret(&password, ROOT_PASSWORD);
    let user = format!("--user={}", settings.user.unwrap());
    let password = format!("--password-file={}", password.display());
    let proxy = Program::start(&[&args[..], &[&user, &password]].concat());
    let mut nobody = without_certificate(&authority, &proxy, false).await;
    let refused = refusal(&nobody.get("a", None).await.unwrap_err());
    assert_eq!(refused, (INVALID_ARGUMENT, "etcdserver: user name is empty".into()));
    let mut root = without_certificate(&authority, &proxy, true).await;
    root.put("a", "y", None).await.unwrap();
    behind.etcd.client().await.auth_disable().await.unwrap();
    let begun = Instant::now();
    while nobody.get("a", None).await.map_or_else(|error| refusal(&error).0, |_| 0)
        != PERMISSION_DENIED
    {
        assert!(begun.elapsed() < Duration::from_secs(25));
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    proxy.end();
}
