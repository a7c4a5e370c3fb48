//! A KMS plugin that misbehaves by script: in this process, behind a socket of its own.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use data_encoding::HEXLOWER;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use strongroom::crypto::{random, system_rng};
use tokio::net::UnixListener;
use tokio::task::JoinHandle;

use crate::kms::{field, fields};
use crate::raw::framed;

/// What is wrong with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// It never answers.
    Silent,
    /// Every method but `Status` fails with this code and message.
    Code(i32, &'static str),
    /// `Status` says so too.
    Unhealthy(&'static str),
    /// `Status` is of another version.
    Version(&'static str),
    /// `Encrypt` answers with a ciphertext of so many bytes.
    Ciphertext(usize),
    /// `Encrypt` answers with an annotation of this name.
    Annotation(&'static str),
    /// `Decrypt` answers with random bytes, so many.
    Plaintext(usize),
}

/// What the plugin knows, and what it was asked.
#[derive(Default)]
pub struct State {
    pub fault: Fault,
    pub key_id: String,
    /// Ciphertext to plaintext and key id.
    sealed: HashMap<Vec<u8>, (Vec<u8>, String)>,
    pub calls: Vec<&'static str>,
}

/// A plugin under a name of its own.
pub struct Plugin {
    pub dir: tempfile::TempDir,
    pub name: String,
    state: Arc<Mutex<State>>,
    running: Option<JoinHandle<()>>,
}

impl Plugin {
    pub fn start() -> Self {
        Self::named(format!("t{:x}", u64::from_be_bytes(random(&mut system_rng()))))
    }

    /// One that answers as `spec` of a golden vector says.
    pub fn answering(spec: &Value) -> Self {
        let plugin = Self::named(spec["name"].as_str().unwrap().into());
        let hex = |value: &Value| HEXLOWER.decode(value.as_str().unwrap().as_bytes()).unwrap();
        plugin.set(|state| {
            for answer in spec["answers"].as_array().unwrap() {
                let key_id = answer["key_id"].as_str().unwrap().to_owned();
                state
                    .sealed
                    .insert(hex(&answer["ciphertext"]), (hex(&answer["plaintext"]), key_id));
            }
        });
        plugin
    }

    /// What [`answering`](Self::answering) takes.
    pub fn answers(&self) -> Value {
        let state = self.state.lock().unwrap();
        let answers = state.sealed.iter().map(|(ciphertext, (plaintext, key_id))| {
            json!({
                "key_id": key_id,
                "ciphertext": HEXLOWER.encode(ciphertext),
                "annotations": {"a.test.example": "1"},
                "plaintext": HEXLOWER.encode(plaintext),
            })
        });
        json!({"name": self.name, "answers": answers.collect::<Vec<_>>()})
    }

    pub fn named(name: String) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let state = State { key_id: "key-1".into(), ..State::default() };
        let mut plugin = Self { dir, name, state: Arc::new(Mutex::new(state)), running: None };
        plugin.listen();
        plugin
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("kms.sock")
    }

    pub fn uri(&self) -> String {
        format!("kmsv2:{}@unix://{}", self.name, self.socket().display())
    }

    pub fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state.lock().unwrap());
    }

    pub fn fault(&self, fault: Fault) {
        self.set(|state| state.fault = fault);
    }

    /// How often `method` was called.
    pub fn calls(&self, method: &str) -> usize {
        self.state.lock().unwrap().calls.iter().filter(|call| **call == method).count()
    }

    /// Nobody listens any more.
    pub fn stop(&mut self) {
        if let Some(running) = self.running.take() {
            running.abort();
        }
        std::fs::remove_file(self.socket()).unwrap();
    }

    pub fn listen(&mut self) {
        let listener = UnixListener::bind(self.socket()).unwrap();
        let state = Arc::clone(&self.state);
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(self.socket(), std::fs::Permissions::from_mode(0o600)).unwrap();
        self.running = Some(tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&state);
                let service = service_fn(move |request: Request<Incoming>| {
                    let state = Arc::clone(&state);
                    async move { Ok::<_, Infallible>(answer(&state, request).await) }
                });
                let http = http2::Builder::new(TokioExecutor::new());
                connections.spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        }));
    }
}

type Frames = futures::stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>;

async fn answer(state: &Mutex<State>, request: Request<Incoming>) -> Response<StreamBody<Frames>> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await.unwrap().to_bytes();
    if state.lock().unwrap().fault == Fault::Silent {
        tokio::time::sleep(Duration::from_secs(3600)).await;
    }
    let answered = state.lock().unwrap().call(&path, body.get(5..).unwrap_or_default());
    let mut trailers = HeaderMap::new();
    let (code, message) = match &answered {
        Ok(_) => (0, ""),
        Err((code, message)) => (*code, *message),
    };
    trailers.insert("grpc-status", code.into());
    trailers.insert("grpc-message", message.replace(' ', "%20").parse().unwrap());
    let data = answered.ok().map(|message| Frame::data(Bytes::from(framed(&message))));
    let frames = data.into_iter().chain([Frame::trailers(trailers)]).map(Ok).collect::<Vec<_>>();
    let response = Response::builder().header("content-type", "application/grpc");
    response.body(StreamBody::new(futures::stream::iter(frames))).unwrap()
}

impl State {
    fn call(&mut self, path: &str, request: &[u8]) -> Result<Vec<u8>, (i32, &'static str)> {
        let method = ["Status", "Encrypt", "Decrypt"];
        let method = method.into_iter().find(|method| path.ends_with(method)).unwrap();
        self.calls.push(method);
        let key_id = self.key_id.clone();
        match (method, &self.fault) {
            ("Status", fault) => {
                let version = if let Fault::Version(version) = fault { version } else { "v2" };
                let health = if let Fault::Unhealthy(why) = fault { why } else { "ok" };
                let parts = [version.as_bytes(), health.as_bytes(), key_id.as_bytes()];
                Ok([field(1, parts[0]), field(2, parts[1]), field(3, parts[2])].concat())
            }
            (_, Fault::Code(code, message)) => Err((*code, message)),
            (_, Fault::Unhealthy(why)) => Err((2, why)),
            ("Encrypt", fault) => {
                let [plaintext, _uid] = fields(request);
                let mut ciphertext = random::<16>(&mut system_rng()).to_vec();
                if let Fault::Ciphertext(length) = fault {
                    ciphertext.resize(*length, 7);
                }
                let name =
                    if let Fault::Annotation(name) = fault { name } else { "a.test.example" };
                let annotation = [field(1, name.as_bytes()), field(2, b"1")].concat();
                self.sealed.insert(ciphertext.clone(), (plaintext, key_id.clone()));
                let parts =
                    [field(1, &ciphertext), field(2, key_id.as_bytes()), field(3, &annotation)];
                Ok(parts.concat())
            }
            (_, Fault::Plaintext(length)) => {
                let mut plaintext = vec![0; *length];
                system_rng_fill(&mut plaintext);
                Ok(field(1, &plaintext))
            }
            (_, _) => {
                let [ciphertext, _uid, key_id, annotation] = fields(request);
                let (plaintext, by) =
                    self.sealed.get(&ciphertext).ok_or((3, "no such ciphertext"))?;
                let told: [Vec<u8>; 2] = fields(&annotation);
                let told = told == [b"a.test.example".to_vec(), b"1".to_vec()];
                match by.as_bytes() == key_id && told {
                    true => Ok(field(1, plaintext)),
                    false => Err((3, "not what Encrypt answered")),
                }
            }
        }
    }
}

fn system_rng_fill(bytes: &mut [u8]) {
    use rand_core::Rng;
    system_rng().fill_bytes(bytes);
}
