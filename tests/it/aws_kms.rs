//! Master keys of AWS KMS: moto, and before it a proxy that answers what moto does not.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::{fs, thread};

use serde_json::{Value, json};

use crate::end_to_end::{program, run};
use crate::kms::Variables;
use crate::program_on_s3::Moto;
use crate::support::{python, small_database};

/// What is answered in the place of moto: the operation, a status and a body.
type Answer = Option<(&'static str, u16, String)>;

/// A request as it came.
#[derive(Clone)]
struct Request {
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn read(from: &TcpStream) -> Option<Self> {
        let (mut from, mut head, mut length) = (BufReader::new(from), String::new(), 0);
        loop {
            let mut line = String::new();
            if from.read_line(&mut line).ok()? == 0 {
                return None;
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            head += &line;
            if line == "\r\n" {
                break;
            }
        }
        let mut body = vec![0; length];
        from.read_exact(&mut body).ok()?;
        Some(Self { head, body })
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn is(&self, operation: &str) -> bool {
        self.head.contains(&format!("TrentService.{operation}\r\n"))
    }
}

/// moto, a proxy, a key of several regions and a repository.
pub struct Kms {
    _moto: Moto,
    port: u16,
    seen: Arc<Mutex<Vec<Request>>>,
    answer: Arc<Mutex<Answer>>,
    arn: String,
    dir: tempfile::TempDir,
}

impl Kms {
    pub fn new() -> Self {
        let moto = Moto::start();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (port, behind) = (listener.local_addr().unwrap().port(), moto.port);
        let (seen, answer) =
            (Arc::<Mutex<Vec<Request>>>::default(), Arc::<Mutex<Answer>>::default());
        let (requests, answers) = (Arc::clone(&seen), Arc::clone(&answer));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let Some(request) = Request::read(&stream) else { continue };
                requests.lock().unwrap().push(request.clone());
                let canned = answers.lock().unwrap().clone();
                let canned = canned.filter(|(operation, ..)| request.is(operation));
                let _ = respond(stream, &request, canned, behind);
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let mut kms = Self { _moto: moto, port, seen, answer, arn: String::new(), dir };
        kms.arn = kms.create_key("");
        run(program().args(["init", "-r", &kms.path("repository")]));
        run(program().args(["key", "generate", "-o", &kms.path("keyring")]));
        kms
    }

    pub fn path(&self, name: &str) -> String {
        self.dir.path().join(name).to_str().unwrap().to_owned()
    }

    /// Makes a key with AWS' own client; its ARN.
    fn create_key(&self, arguments: &str) -> String {
        let code = format!(
            "import boto3, sys
kms = boto3.client('kms', region_name='eu-west-1', endpoint_url=sys.argv[1],
                   aws_access_key_id='test', aws_secret_access_key='test')
print(kms.create_key({arguments})['KeyMetadata']['Arn'])"
        );
        let url = format!("http://127.0.0.1:{}", self.port);
        run(python().args(["-c", &code, &url])).trim().to_owned()
    }

    pub fn uri(&self) -> String {
        format!("aws-kms:{}?context.team=etcd", self.arn)
    }

    fn program(&self) -> Command {
        let mut command = program();
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("AWS_") {
                command.env_remove(name);
            }
        }
        command.envs(self.variables()).args(["-r", &self.path("repository")]);
        command
    }

    /// A repository with a snapshot that only this key opens, and the last wrapping key, in base64.
    pub fn repository(&self) -> (String, String) {
        let (code, text) = self.backup(&[&self.uri()]);
        assert_eq!(code, 0, "{text}");
        let seen = self.seen.lock().unwrap();
        let sealed = seen.iter().rfind(|request| request.is("Encrypt")).unwrap();
        (self.path("repository"), sealed.json()["Plaintext"].as_str().unwrap().to_owned())
    }

    /// What `args` come to on `repository` with the key `arn`, whose service answers with a wrapping key, in base64.
    pub fn answering(
        &self,
        repository: &str,
        arn: &str,
        key: &str,
        args: &[&str],
    ) -> (i32, String) {
        self.answers("Decrypt", 200, &json!({"KeyId": arn, "Plaintext": key}));
        let mut command = program();
        command.envs(self.variables()).args(["-r", repository, "-k", &format!("aws-kms:{arn}")]);
        finish(command.args(args))
    }

    pub fn variables(&self) -> Variables {
        vec![
            ("AWS_ENDPOINT_URL_KMS", format!("http://127.0.0.1:{}", self.port)),
            ("AWS_ALLOW_HTTP", "true".into()),
            ("AWS_ACCESS_KEY_ID", "test".into()),
            ("AWS_SECRET_ACCESS_KEY", "the-secret-access-key".into()),
        ]
    }

    fn on(&self, args: &[&str]) -> (i32, String) {
        finish(self.program().args(args))
    }

    fn backup(&self, keys: &[&str]) -> (i32, String) {
        let keys: Vec<_> = keys.iter().flat_map(|key| ["-k", key]).collect();
        let database = small_database();
        let backup = ["backup", "--cluster", "c", "--file", database.to_str().unwrap()];
        self.on(&[&keys, &backup[..]].concat())
    }

    fn restore(&self) -> (i32, String) {
        let out = self.path("restored");
        let _ = fs::remove_file(&out);
        self.on(&["-k", &self.uri(), "restore", "latest", "--output", &out])
    }

    fn answers(&self, operation: &'static str, status: u16, body: &Value) {
        self.seen.lock().unwrap().clear();
        *self.answer.lock().unwrap() = Some((operation, status, body.to_string()));
    }

    fn refuses(&self, operation: &'static str, status: u16, kind: &str) {
        self.answers(operation, status, &json!({ "__type": kind, "message": "as told" }));
    }

    fn count(&self, operation: &str) -> usize {
        self.seen.lock().unwrap().iter().filter(|request| request.is(operation)).count()
    }
}

fn finish(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

fn respond(
    mut stream: TcpStream,
    request: &Request,
    canned: Answer,
    behind: u16,
) -> std::io::Result<()> {
    if let Some((_, status, body)) = canned {
        let length = body.len();
        let head =
            format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
        return stream.write_all((head + &body).as_bytes());
    }
    let mut moto = TcpStream::connect(("127.0.0.1", behind))?;
    let head = request.head.replacen("\r\n", "\r\nConnection: close\r\n", 1);
    moto.write_all(head.as_bytes())?;
    moto.write_all(&request.body)?;
    std::io::copy(&mut moto, &mut stream).map(drop)
}

/// Signs a request again with AWS' own code.
const SIGNATURE: &str = r"
import sys
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
head, body = open(sys.argv[1], 'rb').read().split(b'\r\n\r\n', 1)
lines = head.decode().split('\r\n')
assert lines[0] == 'POST / HTTP/1.1', lines[0]
headers = {name.lower(): value for name, value in (line.split(': ', 1) for line in lines[1:])}
given = headers['authorization']
signed = given.split('SignedHeaders=')[1].split(',')[0].split(';')
assert {'host', 'x-amz-date', 'x-amz-target'} <= set(signed), signed
url = 'http://' + headers['host'] + '/'
request = AWSRequest('POST', url, data=body, headers={name: headers[name] for name in signed})
request.context['timestamp'] = headers['x-amz-date']
auth = SigV4Auth(Credentials('test', 'the-secret-access-key'), 'kms', 'eu-west-1')
text = auth.string_to_sign(request, auth.canonical_request(request))
assert '/eu-west-1/kms/aws4_request' in given
assert given.endswith('Signature=' + auth.signature(text, request)), (given, text)
print('signed')
";

#[test]
fn a_key_of_aws_seals_what_only_it_opens() {
    let kms = Kms::new();
    let (code, text) = kms.backup(&[&kms.uri()]);
    assert_eq!(code, 0, "{text}");
    let sealed =
        kms.seen.lock().unwrap().iter().rfind(|request| request.is("Encrypt")).cloned().unwrap();
    let request = sealed.json();
    assert_eq!(request["KeyId"], kms.arn.as_str());
    assert_eq!(
        request["EncryptionContext"],
        json!({"strongroom": "wrapping-key/1", "team": "etcd"})
    );
    assert_eq!(kms.count("Encrypt"), 1, "it was seen before etcd is read, and used then");
    fs::write(kms.path("request"), [sealed.head.as_bytes(), &sealed.body].concat()).unwrap();
    assert_eq!(run(python().args(["-c", SIGNATURE, &kms.path("request")])), "signed\n");
    // The pairs come from the seal.
    let uri = kms.uri().replace("?context.team=etcd", "");
    let out = kms.path("out");
    let (code, text) = kms.on(&["-k", &uri, "restore", "latest", "--output", &out]);
    assert_eq!(code, 0, "{text}");
    assert_eq!(fs::read(out).unwrap(), fs::read(small_database()).unwrap());
    let asked =
        kms.seen.lock().unwrap().iter().rfind(|request| request.is("Decrypt")).unwrap().json();
    assert_eq!(asked["EncryptionContext"], request["EncryptionContext"]);
    assert_eq!(asked["KeyId"], kms.arn.as_str());
}

/// moto does not open what such a key sealed: its ciphertexts have no room for the key's name.
#[test]
fn a_key_of_several_regions_is_asked_in_the_region_that_is_given() {
    let kms = Kms::new();
    let uri = format!("aws-kms:{}", kms.create_key("MultiRegion=True"));
    assert_eq!(kms.backup(&[&uri]).0, 0);
    let elsewhere = uri.replace("eu-west-1", "us-east-1");
    kms.answers("Decrypt", 200, &json!({"KeyId": "x", "Plaintext": ""}));
    let (code, text) = kms.on(&["-k", &elsewhere, "verify", "latest"]);
    assert!(code == 13 && text.contains("it used another key: x"), "{code} {text}");
    assert!(kms.seen.lock().unwrap().last().unwrap().head.contains("/us-east-1/kms/"));
}

/// Exit status, text, and how often the service was asked.
#[test]
fn each_answer_has_its_class() {
    let kms = Kms::new();
    assert_eq!(kms.backup(&[&kms.uri()]).0, 0);
    for (status, kind, code, calls) in [
        (400, "DisabledException", 12, 1),
        (400, "KMSInvalidStateException", 12, 1),
        (400, "com.amazon.coral.service#AccessDeniedException", 12, 1),
        (400, "InvalidCiphertextException", 13, 1),
        (400, "ThrottlingException", 4, 2),
        (500, "KMSInternalException", 4, 2),
    ] {
        kms.refuses("Decrypt", status, kind);
        let (found, text) = kms.restore();
        assert!(found == code && text.contains("as told"), "{kind}: {found} {text}");
        assert_eq!(kms.count("Decrypt"), calls, "{kind}");
    }
    let zeros = data_encoding::BASE64.encode(&[0; 32]);
    for (body, text) in [
        (json!({"KeyId": kms.arn, "Plaintext": zeros}), ""),
        (json!({"KeyId": kms.arn, "Plaintext": "AAAA"}), ""),
        (json!({"KeyId": kms.arn, "Plaintext": "%"}), "base64"),
        (json!({"KeyId": "arn:other", "Plaintext": zeros}), "it used another key: arn:other"),
        (json!({"KeyId": kms.arn}), "not what was asked for"),
        (json!({"x": "y".repeat(70 << 10)}), "longer than 65536 bytes"),
    ] {
        kms.answers("Decrypt", 200, &body);
        let (found, output) = kms.restore();
        assert!(found == 13 && output.contains(text), "{text}: {found} {output}");
        assert_eq!(kms.count("Decrypt"), 1);
    }
    *kms.answer.lock().unwrap() = None;
    assert_eq!(kms.restore().0, 0);
}

#[test]
fn a_service_that_refuses_does_not_stop_a_backup_with_another_key() {
    let kms = Kms::new();
    let (local, remote) = (format!("file:{}", kms.path("keyring")), kms.uri());
    for kind in ["DisabledException", "ThrottlingException"] {
        kms.refuses("Encrypt", 400, kind);
        let (code, text) = kms.backup(&[&local, &remote]);
        assert!(code == 3 && text.contains(kind), "{code} {text}");
        let (code, text) = kms.backup(&[&remote]);
        assert!(matches!(code, 4 | 12) && text.contains(kind), "{code} {text}");
    }
    let count = fs::read_dir(kms.dir.path().join("repository/snapshots")).unwrap().count();
    assert_eq!(count, 2);
}

#[test]
fn what_is_set_wrongly_is_told() {
    let kms = Kms::new();
    let alias = "aws-kms:arn:aws:kms:eu-west-1:111122223333:alias/backups";
    let (code, text) = kms.backup(&[alias]);
    assert!(code == 2 && text.contains("aws kms describe-key --key-id"), "{code} {text}");
    let database = small_database();
    let uri = kms.uri();
    let backup = ["-k", &uri, "backup", "--cluster", "c", "--file", database.to_str().unwrap()];
    for (name, value, text) in [
        ("AWS_ALLOW_HTTP", "false", "http://, without TLS"),
        ("AWS_ENDPOINT_URL_KMS", "kms.example", "AWS_ENDPOINT_URL_KMS is not a URL"),
    ] {
        let (code, output) = finish(kms.program().env(name, value).args(backup));
        assert!(code == 2 && output.contains(text), "{name}: {code} {output}");
    }
    let mut without = kms.program();
    without.env_remove("AWS_ACCESS_KEY_ID").env("AWS_EC2_METADATA_DISABLED", "true").args(backup);
    let (code, text) = finish(&mut without);
    assert!(code == 1 && text.contains("no credentials"), "{code} {text}");
    // The file that holds the store's credentials holds those of the service too.
    let file = kms.path("credentials");
    crate::place::write_secret(file.as_ref(), "AWS_ACCESS_KEY_ID=test\n");
    let mut with = kms.program();
    with.env_remove("AWS_ACCESS_KEY_ID").args(["--credentials-file", &file]).args(backup);
    let (code, text) = finish(&mut with);
    assert_eq!(code, 0, "{text}");
}
