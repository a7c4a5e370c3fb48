//! The etcd client: against real servers, and against a fake that breaks the protocol.

use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use strongroom::bolt::Db;
use strongroom::etcd::{Choice, EtcdSettings, choose_member};
use strongroom::mvcc::{DatabaseFacts, database_facts};
use strongroom::secret::SecretBytes;
use strongroom::{ErrorKind, Result};

use crate::etcd_server::{Etcd, Version, free_ports};
use crate::fake_etcd::{self, Script, Step, good_steps};

/// The whole stream, its digest checked once more from outside.
pub(crate) async fn download(choice: &Choice) -> Result<Vec<u8>> {
    let mut stream = choice.snapshot().await?;
    let mut database = Vec::new();
    while let Some(bytes) = stream.next().await? {
        assert!(stream.sha256().is_none());
        database.extend_from_slice(&bytes);
    }
    assert_eq!(stream.total(), database.len() as u64);
    assert_eq!(stream.sha256().unwrap(), <[u8; 32]>::from(Sha256::digest(&database)));
    Ok(database)
}

fn facts(database: &[u8]) -> DatabaseFacts {
    database_facts(&Db::open(database).unwrap()).unwrap()
}

async fn matches_status(etcd: &Etcd) {
    etcd.fill(300, 1000).await;
    etcd.etcdctl(&["compact", "150"]);
    let choice = choose_member(&etcd.settings()).await.unwrap();
    assert_eq!(choice.warnings, Vec::<String>::new());
    let database = download(&choice).await.unwrap();
    let facts = facts(&database);
    let member = &choice.member;
    assert_eq!(facts.revision, member.revision);
    assert_eq!(facts.compact_revision, 150);
    // Entries that change no key (compaction, logins) count for etcd before its database knows of them.
    assert!(facts.raft_index.abs_diff(member.raft_applied) <= 5, "{facts:?} {member:?}");
    assert_eq!(facts.raft_term.unwrap_or(member.raft_term), member.raft_term);
    assert_eq!(facts.database_bytes, database.len() as u64);
    assert_eq!(facts.cluster_version.unwrap()[..3], member.version[..3]);
    assert!(member.leader && member.name == "m0" && member.db_size > 0);
    assert!(choice.reason.contains("the only endpoint"), "{}", choice.reason);
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_match_status() {
    for version in Version::ENDS {
        matches_status(&Etcd::start(version).await).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn facts_match_status_over_mutual_tls() {
    for version in Version::ENDS {
        let etcd = Etcd::builder(version).with_tls().start().await;
        matches_status(&etcd).await;
        let plain = etcd.endpoint().replace("https", "http");
        let cases = [
            (EtcdSettings { cert: None, key: None, ..etcd.settings() }, "client certificate"),
            (EtcdSettings { cacert: None, ..etcd.settings() }, "the CA that signed"),
            (EtcdSettings { endpoints: vec![plain], ..EtcdSettings::default() }, "write https://"),
        ];
        for (settings, words) in cases {
            // TLS 1.3 refuses after the handshake: now and then the connection is gone before the request is on it, and
            // only the time limit ends that.
            let settings = EtcdSettings { command_timeout: Duration::from_secs(5), ..settings };
            let mut error = choose_member(&settings).await.err().unwrap();
            for _ in 0..3 {
                assert_eq!(error.kind(), ErrorKind::Unreachable, "{error}");
                if !error.to_string().contains("no answer") {
                    break;
                }
                error = choose_member(&settings).await.err().unwrap();
            }
            assert!(error.hint_text().is_some_and(|hint| hint.contains(words)), "{error:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_where_there_is_none() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let endpoints = vec![etcd.endpoint().replace("http", "https")];
    let error =
        choose_member(&EtcdSettings { endpoints, ..EtcdSettings::default() }).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(error.hint_text().is_some_and(|hint| hint.contains("write http://")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn authentication() {
    for version in Version::ENDS {
        let etcd = Etcd::builder(version).with_tls().with_auth().start().await;
        matches_status(&etcd).await;
        let login = |user: &str, password: &str| EtcdSettings {
            user: Some(user.into()),
            password: Some(SecretBytes::new(password.into())),
            ..etcd.settings()
        };
        let nobody = EtcdSettings { user: None, password: None, ..etcd.settings() };
        for (settings, hint) in [
            (login("reader", "reader"), "root"),
            (nobody, "root"),
            (login("root", "hunter2"), "password"),
        ] {
            // 3.4 tells its status to anyone and refuses the stream.
            let error = match choose_member(&settings).await {
                Ok(choice) => choice.snapshot().await.err().unwrap(),
                Err(error) => error,
            };
            assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
            assert!(error.hint_text().unwrap().contains(hint), "{error}");
            assert!(!format!("{error:?}").contains("hunter2"));
        }
    }
}

/// A login lasts 300 s unless etcd is told otherwise, and a backup may take longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_that_ends_during_a_backup_is_made_again() {
    for version in Version::ENDS {
        let etcd = Etcd::builder(version).with_auth().arg("--auth-token-ttl=1").start().await;
        let settings = etcd.settings();
        let choice = choose_member(&settings).await.unwrap();
        let revision = choice.member.revision;
        tokio::time::sleep(std::time::Duration::from_secs(4)).await;
        let compared = choice.compare(&settings, revision).await;
        assert!(compared.left_out.is_empty(), "{:?}", compared.left_out);
        assert_eq!(compared.answers.len(), 1);
    }
}

/// Endpoints that etcdctl or an operator's notes may have, and this program does not take.
#[tokio::test]
async fn endpoints_that_are_refused_by_name() {
    for (endpoint, says) in [
        ("unix:///run/etcd.sock", "unix sockets"),
        ("unixs://localhost:1", "unix sockets"),
        ("srv://example.com", "ETCDCTL_DISCOVERY_SRV"),
        ("etcd.example", "has no port"),
        ("https://etcd.example", "has no port"),
        ("https://[::1]", "has no port"),
        ("http://h:2379/v3", "a scheme, a host and a port"),
        ("", "no etcd endpoint"),
    ] {
        let settings = EtcdSettings { endpoints: vec![endpoint.into()], ..EtcdSettings::default() };
        let error = choose_member(&settings).await.err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Usage, "{endpoint}");
        assert!(error.to_string().contains(says), "{endpoint}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_where_authentication_is_off() {
    let etcd = Etcd::start(Version::NEWEST).await;
    let settings = EtcdSettings {
        user: Some("root".into()),
        password: Some(SecretBytes::new(b"x".to_vec())),
        ..etcd.settings()
    };
    let choice = choose_member(&settings).await.unwrap();
    assert!(
        choice.warnings.iter().any(|text| text.contains("authentication is off")),
        "{:?}",
        choice.warnings
    );
    download(&choice).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members() {
    let mut etcd = Etcd::builder(Version::NEWEST).members(3).start().await;
    etcd.fill(50, 100).await;
    let choice = choose_member(&etcd.settings()).await.unwrap();
    assert!(!choice.member.leader, "{}", choice.reason);
    assert_eq!(choice.rejected.len(), 2);
    let dead =
        etcd.endpoints().iter().position(|endpoint| *endpoint == choice.member.endpoint).unwrap();
    etcd.kill(dead);
    let second = choose_member(&etcd.settings()).await.unwrap();
    assert_ne!(second.member.id, choice.member.id);
    let endpoint = &choice.member.endpoint;
    assert!(
        second.warnings.iter().any(|text| text.contains(endpoint) && text.contains("refused")),
        "{:?}",
        second.warnings
    );
    assert_eq!(facts(&download(&second).await.unwrap()).revision, 51);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_learner_is_the_last_resort() {
    let mut etcd = Etcd::start(Version::NEWEST).await;
    etcd.fill(20, 100).await;
    etcd.add_learner();
    let choice = choose_member(&etcd.settings()).await.unwrap();
    assert!(
        !choice.member.learner && choice.rejected[0].why.contains("learner"),
        "{:?}",
        choice.rejected
    );
    let learner = EtcdSettings { endpoints: etcd.endpoints()[1..].to_vec(), ..etcd.settings() };
    let choice = choose_member(&learner).await.unwrap();
    assert!(
        choice.warnings.iter().any(|text| text.contains("it is a learner")),
        "{:?}",
        choice.warnings
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nospace_is_told_and_no_obstacle() {
    let etcd = Etcd::builder(Version::NEWEST).arg("--quota-backend-bytes=1048576").start().await;
    let mut client = etcd.client().await;
    let mut full = false;
    for at in 0..64 {
        full = full || client.put(format!("{at}"), vec![0; 100_000], None).await.is_err();
        // The quota is compared with what is committed, and etcd commits ten times a second.
        tokio::time::sleep(Duration::from_millis(if full { 0 } else { 20 })).await;
    }
    assert!(full);
    let choice = choose_member(&etcd.settings()).await.unwrap();
    assert!(
        choice.warnings.iter().any(|text| text.contains("NOSPACE by member m0")),
        "{:?}",
        choice.warnings
    );
    download(&choice).await.unwrap();
}

#[tokio::test]
async fn nobody_answers() {
    let ports = free_ports(2);
    let endpoints: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    let settings = EtcdSettings { endpoints: endpoints.clone(), ..EtcdSettings::default() };
    let error = choose_member(&settings).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
    assert!(
        endpoints.iter().all(|endpoint| error.to_string().contains(endpoint.as_str())),
        "{error}"
    );
    assert!(error.to_string().contains("refused"), "{error}");
}

fn impatient(endpoints: Vec<String>) -> EtcdSettings {
    EtcdSettings {
        endpoints,
        command_timeout: Duration::from_millis(500),
        ..EtcdSettings::default()
    }
}

async fn play(script: Script) -> Result<Choice> {
    choose_member(&impatient(vec![fake_etcd::start(script).await])).await
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_streams() {
    let good = good_steps(&vec![7; 100 * 1024]);
    let with = |edit: &dyn Fn(&mut Vec<Step>)| {
        let mut steps = good.clone();
        edit(&mut steps);
        steps
    };
    let blob = vec![7; 32 * 1024];
    let left = 68 * 1024;
    let cases: Vec<(&str, Vec<Step>, ErrorKind)> = vec![
        ("dies", with(&|all| all[2] = Step::Fail("gone")), ErrorKind::Unreachable),
        ("stalls", with(&|all| all[2] = Step::Stall), ErrorKind::Unreachable),
        ("never begins", vec![Step::Stall], ErrorKind::Unreachable),
        ("never ends", with(&|all| all.push(Step::Stall)), ErrorKind::Unreachable),
        ("empty for ever", with(&|all| all[1] = Step::Forever(vec![], left)), ErrorKind::Protocol),
        (
            "same for ever",
            with(&|all| all[1] = Step::Forever(blob.clone(), left)),
            ErrorKind::Protocol,
        ),
        ("too much", with(&|all| all.insert(4, Step::Send(vec![7; 4096], 0))), ErrorKind::Protocol),
        ("too little", with(&|all| all.truncate(2)), ErrorKind::Protocol),
        ("wrong digest", with(&|all| all[4] = Step::Send(vec![1; 32], 0)), ErrorKind::Tampered),
        (
            "wrong byte",
            with(&|all| all[1] = Step::Send(vec![8; 32 * 1024], 36 * 1024)),
            ErrorKind::Tampered,
        ),
        ("no digest", with(&|all| all.truncate(4)), ErrorKind::Protocol),
        (
            "message after the digest",
            with(&|all| all.push(Step::Send(vec![], 0))),
            ErrorKind::Protocol,
        ),
        ("hostile length", vec![Step::Forever(blob.clone(), 1 << 60)], ErrorKind::Protocol),
        ("nothing", vec![], ErrorKind::Protocol),
        ("huge message", vec![Step::Send(vec![0; 8 << 20], 0)], ErrorKind::Protocol),
    ];
    for (name, steps, kind) in cases {
        let begun = Instant::now();
        let choice = play(Script { steps, ..Script::default() }).await.unwrap();
        let error = download(&choice).await.err().unwrap_or_else(|| panic!("{name} is accepted"));
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{name} takes {:?}", begun.elapsed());
    }
    let choice = play(Script::default()).await.unwrap();
    assert_eq!(download(&choice).await.unwrap(), vec![7; 100 * 1024]);
}

#[tokio::test]
async fn a_silent_member_is_left_out() {
    let silent = fake_etcd::start(Script { silent: true, ..Script::default() }).await;
    let sound = fake_etcd::start(Script { member_id: 2, ..Script::default() }).await;
    let choice = choose_member(&impatient(vec![silent.clone(), sound])).await.unwrap();
    assert_eq!(choice.member.id, 2);
    assert!(
        choice.rejected[0].endpoint == silent
            && choice.rejected[0].why.contains("no answer within")
    );
    let error = choose_member(&impatient(vec![silent])).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Unreachable);
}

#[tokio::test]
async fn the_sound_one_is_chosen() {
    let leader =
        fake_etcd::start(Script { raft_index: 9000, raft_applied: 9000, ..Script::default() })
            .await;
    let behind = fake_etcd::start(Script { member_id: 2, ..Script::default() }).await;
    let alarms = vec![(3, 2)];
    let corrupt = fake_etcd::start(Script {
        member_id: 3,
        raft_index: 9000,
        raft_applied: 9000,
        alarms,
        ..Script::default()
    })
    .await;
    let follower = fake_etcd::start(Script {
        member_id: 4,
        raft_index: 9000,
        raft_applied: 8990,
        ..Script::default()
    })
    .await;
    let all = vec![leader.clone(), behind.clone(), corrupt.clone(), follower];
    let choice = choose_member(&impatient(all)).await.unwrap();
    assert_eq!(choice.member.id, 4, "{}", choice.reason);
    assert!(
        choice.warnings.iter().any(|text| text.contains("CORRUPT for member 3")),
        "{:?}",
        choice.warnings
    );
    let choice =
        choose_member(&impatient(vec![corrupt.clone(), behind.clone(), leader])).await.unwrap();
    assert_eq!(choice.member.id, 1, "{}", choice.reason);
    assert!(
        choice
            .rejected
            .iter()
            .any(|other| other.endpoint == behind && other.why.contains("8900 log entries"))
    );
    let choice = choose_member(&impatient(vec![corrupt.clone(), behind])).await.unwrap();
    assert_eq!(choice.member.id, 2, "{}", choice.reason);
    assert!(
        choice.warnings.iter().any(|text| text.contains("behind, and no better")),
        "{:?}",
        choice.warnings
    );
    let choice = choose_member(&impatient(vec![corrupt])).await.unwrap();
    assert!(
        choice.warnings.iter().any(|text| text.contains("CORRUPT") && text.contains("care")),
        "{:?}",
        choice.warnings
    );
}

#[tokio::test]
async fn endpoints_of_two_clusters() {
    let one = fake_etcd::start(Script::default()).await;
    let other = fake_etcd::start(Script { cluster_id: 0xc2, ..Script::default() }).await;
    let error = choose_member(&impatient(vec![one, other])).await.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.to_string().contains("c1") && error.to_string().contains("c2"), "{error}");
}

#[tokio::test]
async fn etcds_text_cannot_write_to_the_terminal() {
    let errors = vec!["\x1b[2J".repeat(1000)];
    let version = "3.5.16\x1b]0;x\x07".into();
    let choice = play(Script { errors, version, ..Script::default() }).await.unwrap();
    assert!(!choice.member.version.contains('\x1b'));
    assert!(choice.warnings.iter().all(|text| text.len() < 500 && !text.contains('\x1b')));
}
