//! A double of the transit engine of Vault and OpenBao, neither of which can be had where these tests run: what
//! `POST /v1/MOUNT/{encrypt,decrypt}/KEY` takes and answers, by their documentation. It has not been compared with them.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use data_encoding::BASE64;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use serde_json::{Value, json};
use strongroom::crypto::{random, system_rng};

pub const TOKEN: &str = "hvs.test-only";

#[derive(Default)]
struct State {
    version: u32,
    /// The versions below are given up.
    least: u32,
    sealed: HashMap<String, String>,
    /// What is answered in place of everything.
    fault: Option<(u16, &'static str)>,
    /// What `decrypt` answers in place of the plaintext.
    plaintext: Option<Vec<u8>>,
    calls: Vec<String>,
}

pub struct Transit {
    address: String,
    state: Arc<Mutex<State>>,
}

impl Transit {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let state = Arc::new(Mutex::new(State { version: 1, ..State::default() }));
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let state = Arc::clone(&shared);
                let service = service_fn(move |request: Request<Incoming>| {
                    let state = Arc::clone(&state);
                    async move {
                        let (status, body) = answer(&state, request).await;
                        let body = Full::new(Bytes::from(body.to_string()));
                        Ok::<_, Infallible>(Response::builder().status(status).body(body).unwrap())
                    }
                });
                tokio::spawn(async move {
                    let http = Builder::new(TokioExecutor::new());
                    let _ = http.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { address, state }
    }

    pub fn uri(&self, name: &str) -> String {
        format!("transit:{name}@http://{}/team/transit/backup-key", self.address)
    }

    /// What it has sealed, by the ciphertext, in base64.
    pub fn sealed(&self) -> HashMap<String, String> {
        self.state.lock().unwrap().sealed.clone()
    }

    /// Knows what was sealed elsewhere.
    pub fn knows(&self, ciphertext: &str, plaintext: &str) {
        self.state.lock().unwrap().sealed.insert(ciphertext.into(), plaintext.into());
    }

    pub fn rotate(&self) {
        self.state.lock().unwrap().version += 1;
    }

    /// As a service that was restored from an old copy.
    pub fn go_back(&self) {
        self.state.lock().unwrap().version -= 1;
    }

    /// As one whose key was made again under the same name.
    pub fn forget(&self) {
        self.state.lock().unwrap().sealed.clear();
    }

    /// Gives up the older versions.
    pub fn trim(&self) {
        let mut state = self.state.lock().unwrap();
        state.least = state.version;
    }

    pub fn fault(&self, fault: Option<(u16, &'static str)>) {
        self.state.lock().unwrap().fault = fault;
    }

    pub fn plaintext(&self, plaintext: Option<Vec<u8>>) {
        self.state.lock().unwrap().plaintext = plaintext;
    }

    pub fn calls(&self, operation: &str) -> usize {
        self.state.lock().unwrap().calls.iter().filter(|call| *call == operation).count()
    }
}

async fn answer(state: &Mutex<State>, request: Request<Incoming>) -> (u16, Value) {
    let path = request.uri().path().to_owned();
    let is_post = request.method() == http::Method::POST;
    let token =
        request.headers().get("x-vault-token").map(|token| token.to_str().unwrap().to_owned());
    let asked = request.headers().contains_key("x-vault-request");
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let failed = |status, text: &str| (status, json!({"errors": [text]}));
    let mut state = state.lock().unwrap();
    if let Some((status, text)) = state.fault {
        return failed(status, text);
    }
    if token.as_deref() != Some(TOKEN) || !is_post || !asked {
        return failed(403, "permission denied");
    }
    let operation = match path.as_str() {
        "/v1/team/transit/encrypt/backup-key" => "encrypt",
        "/v1/team/transit/decrypt/backup-key" => "decrypt",
        _ => return failed(404, "no handler for route"),
    };
    state.calls.push(operation.into());
    let text = |name: &str| body[name].as_str().unwrap().to_owned();
    if operation == "encrypt" {
        let sealed = BASE64.encode(&random::<44>(&mut system_rng()));
        let ciphertext = format!("vault:v{}:{sealed}", state.version);
        state.sealed.insert(ciphertext.clone(), text("plaintext"));
        let version = state.version;
        return (200, json!({"data": {"ciphertext": ciphertext, "key_version": version}}));
    }
    let ciphertext = text("ciphertext");
    let version: u32 = ciphertext[7..].split(':').next().unwrap().parse().unwrap();
    match (state.sealed.get(&ciphertext), &state.plaintext) {
        _ if version < state.least => {
            failed(400, "ciphertext or signature version is disallowed by policy (too old)")
        }
        (_, Some(other)) => (200, json!({"data": {"plaintext": BASE64.encode(other)}})),
        (Some(plaintext), None) => (200, json!({"data": {"plaintext": plaintext}})),
        (None, None) => failed(400, "cipher: message authentication failed"),
    }
}
