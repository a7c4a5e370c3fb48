//! Keys of AWS KMS (provider `aws-kms`).

use std::collections::BTreeMap;

use data_encoding::BASE64;
use serde::{Deserialize, Serialize};
use url::form_urlencoded;
use zeroize::Zeroizing;

use super::KmsUri;
use super::service::{Call, Failure, Service, decoded, parsed};
use crate::error::{Error, Result};
use crate::format::{put_field, take_field};
use crate::secret::{SecretBytes, SecretKey};
use crate::store::{Answer, AwsService};
use crate::text::clean;

/// What every call says about the purpose: policies of keys can ask for it, and nothing else opens with it.
const CONTEXT: (&str, &str) = ("strongroom", "wrapping-key/1");
/// More pairs, or longer ones, are refused.
const MAX_PAIRS: usize = 16;
const MAX_PAIR: usize = 512;

type Pairs = BTreeMap<String, String>;

/// Takes what follows `aws-kms:` apart: what names the key, and the way to it.
pub(super) fn parse(rest: &str) -> Result<(String, String)> {
    let (arn, query) = rest.split_once('?').unwrap_or((rest, ""));
    let arn = Arn::parse(arn)?;
    pairs(query)?;
    Ok((arn.identity(), format!("{}?{query}", arn.region)))
}

/// `arn:PARTITION:kms:REGION:ACCOUNT:key/ID`.
struct Arn<'a> {
    partition: &'a str,
    region: &'a str,
    account: &'a str,
    key: &'a str,
}

impl<'a> Arn<'a> {
    fn parse(text: &'a str) -> Result<Self> {
        let parts: Vec<_> = text.split(':').collect();
        let name = |part: &str| {
            let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
            (1..=64).contains(&part.len()) && part.bytes().all(plain)
        };
        match parts.as_slice() {
            ["arn", partition, "kms", region, account, resource] => {
                let key = resource.strip_prefix("key/");
                let key = key.filter(|key| {
                    [partition, region, account, key].into_iter().all(|part| name(part))
                });
                match key {
                    Some(key) => Ok(Self { partition, region, account, key }),
                    None if resource.starts_with("alias/") => Err(Error::usage(
                        "an alias can name another key tomorrow, which would not open what this one sealed",
                    )
                    .hint(format!("give the key itself: aws kms describe-key --key-id {text}"))),
                    None => Err(not_an_arn()),
                }
            }
            _ => Err(not_an_arn()),
        }
    }

    /// Whatever region it is in: a key of several regions is one key.
    fn identity(&self) -> String {
        let region = if self.key.starts_with("mrk-") { "*" } else { self.region };
        self.in_region(region)
    }

    fn in_region(&self, region: &str) -> String {
        format!("arn:{}:kms:{region}:{}:key/{}", self.partition, self.account, self.key)
    }

    fn host(&self, region: &str) -> String {
        let domain = if self.partition == "aws-cn" { "amazonaws.com.cn" } else { "amazonaws.com" };
        format!("kms.{region}.{domain}")
    }
}

fn not_an_arn() -> Error {
    Error::usage("this is not the ARN of a key of AWS KMS")
        .hint("write aws-kms:arn:aws:kms:REGION:ACCOUNT:key/ID")
}

/// The pairs of an encryption context, `context.NAME=VALUE&…`.
fn pairs(query: &str) -> Result<Pairs> {
    let mut pairs = Pairs::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        let Some(name) = name.strip_prefix("context.").filter(|name| !name.is_empty()) else {
            return Err(Error::usage(format!(
                "{name:?} is not known after the ? of an aws-kms: URI"
            ))
            .hint("pairs of the encryption context are written context.NAME=VALUE"));
        };
        let fits = name.len().max(value.len()) <= MAX_PAIR && pairs.len() < MAX_PAIRS;
        let is_free = name != CONTEXT.0 && !pairs.contains_key(name);
        if !fits || !is_free || name.starts_with("aws:") {
            let text = format!("{name:?} cannot be a pair of the encryption context");
            return Err(Error::usage(text).hint(format!(
                "at most {MAX_PAIRS} pairs of {MAX_PAIR} bytes, each once, and neither {} nor aws:…", CONTEXT.0
            )));
        }
        pairs.insert(name.to_owned(), value.into_owned());
    }
    Ok(pairs)
}

/// Seals wrapping keys with a key of AWS KMS.
pub(super) struct Aws {
    service: AwsService,
    arn: String,
    pairs: Pairs,
}

impl Aws {
    /// Asks nothing of the service yet.
    pub(super) fn new(uri: &KmsUri, environment: &BTreeMap<String, String>) -> Result<Self> {
        let (region, query) = uri.way().split_once('?').unwrap_or((uri.way(), ""));
        // The region of a key of several is in the way alone.
        let identity = uri.identity().replace('*', region);
        let arn = Arn::parse(&identity)?;
        let service = AwsService::new("kms", region, &arn.host(region), environment)?;
        Ok(Self { service, arn: arn.in_region(region), pairs: pairs(query)? })
    }

    async fn call(&self, operation: &str, request: &Request<'_>) -> Result<Answer, Failure> {
        // Room for all of it: growing would leave copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(64 << 10));
        let written = serde_json::to_writer(&mut *body, request);
        written.map_err(|_| Failure::Wrong("a request that cannot be written".into()))?;
        let target = format!("TrentService.{operation}");
        let answer = self.service.call(&target, body).await.map_err(Failure::of)?;
        match answer.status {
            200 => Ok(answer),
            status => Err(refused(status, &answer.body)),
        }
    }

    fn request<'a>(&'a self, pairs: &'a Pairs) -> Request<'a> {
        let context = pairs.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let context = context.chain([CONTEXT]).collect();
        Request { key_id: &self.arn, context, plaintext: None, blob: None }
    }

    async fn seal(&self, key: &SecretKey) -> Result<Vec<u8>, Failure> {
        let text = encoded(key);
        let request = Request { plaintext: Some(&text), ..self.request(&self.pairs) };
        let answer = self.call("Encrypt", &request).await?;
        let answer: Encrypted<'_> = parsed(&answer.body)?;
        self.check_key(answer.key_id)?;
        let sealed = decoded(answer.blob)?;
        printed(&self.pairs, &sealed).ok_or_else(|| Failure::Wrong("its answer is too long".into()))
    }

    async fn open(&self, blob: &[u8]) -> Result<SecretBytes, Failure> {
        let (pairs, sealed) = taken(blob)
            .ok_or_else(|| Failure::Wrong("the sealed wrapping key is malformed".into()))?;
        let text = BASE64.encode(sealed);
        let request = Request { blob: Some(&text), ..self.request(&pairs) };
        let answer = self.call("Decrypt", &request).await?;
        let answer: Decrypted<'_> = parsed(&answer.body)?;
        self.check_key(answer.key_id)?;
        decoded(answer.plaintext).map(SecretBytes::new)
    }

    fn check_key(&self, answered: &str) -> Result<(), Failure> {
        match answered == self.arn {
            true => Ok(()),
            false => Err(Failure::Wrong(format!("it used another key: {}", clean(answered)))),
        }
    }
}

impl Service for Aws {
    fn shows_by_sealing(&self) -> bool {
        true
    }

    fn wrap<'a>(&'a self, key: &'a SecretKey) -> Call<'a, Vec<u8>> {
        Box::pin(self.seal(key))
    }

    fn unwrap<'a>(&'a self, blob: &'a [u8]) -> Call<'a, SecretBytes> {
        Box::pin(self.open(blob))
    }

    /// Keys are rotated under one name, and the service knows by the ciphertext which of them to take.
    fn version(&self, _: &[u8]) -> Option<String> {
        None
    }
}

#[derive(Serialize)]
struct Request<'a> {
    #[serde(rename = "KeyId")]
    key_id: &'a str,
    #[serde(rename = "EncryptionContext")]
    context: BTreeMap<&'a str, &'a str>,
    #[serde(rename = "Plaintext", skip_serializing_if = "Option::is_none")]
    plaintext: Option<&'a str>,
    #[serde(rename = "CiphertextBlob", skip_serializing_if = "Option::is_none")]
    blob: Option<&'a str>,
}

/// Borrowed, so that no copy of a secret is left behind.
#[derive(Deserialize)]
struct Decrypted<'a> {
    #[serde(rename = "KeyId")]
    key_id: &'a str,
    #[serde(rename = "Plaintext")]
    plaintext: &'a str,
}

#[derive(Deserialize)]
struct Encrypted<'a> {
    #[serde(rename = "KeyId")]
    key_id: &'a str,
    #[serde(rename = "CiphertextBlob")]
    blob: &'a str,
}

#[derive(Default, Deserialize)]
struct Refusal {
    #[serde(default, rename = "__type")]
    kind: String,
    #[serde(default, alias = "Message")]
    message: String,
}

/// What an answer means that is no success. With the service's own word.
fn refused(status: u16, body: &[u8]) -> Failure {
    let Refusal { kind, message } = serde_json::from_slice(body).unwrap_or_default();
    let kind = clean(kind.rsplit('#').next().unwrap_or_default());
    let text = match (kind.is_empty(), message.is_empty()) {
        (true, _) => format!("status {status}"),
        (false, true) => kind.clone(),
        (false, false) => format!("{kind}: {}", clean(&message)),
    };
    match kind.as_str() {
        "InvalidCiphertextException" | "IncorrectKeyException" => Failure::Wrong(text),
        "KeyUnavailableException" | "DependencyTimeoutException" | "KMSInternalException" => {
            Failure::Down(text)
        }
        _ if status >= 500 || status == 429 || status == 408 => Failure::Down(text),
        _ if kind.contains("Throttl") || kind.contains("TooManyRequests") => Failure::Down(text),
        _ => Failure::Refused(text),
    }
}

fn encoded(key: &SecretKey) -> Zeroizing<String> {
    Zeroizing::new(BASE64.encode(key.expose()))
}

/// count u16 ‖ (name ‖ value)… ascending ‖ ciphertext.
fn printed(pairs: &Pairs, sealed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = u16::try_from(pairs.len()).ok()?.to_be_bytes().to_vec();
    for (name, value) in pairs {
        put_field(&mut bytes, name.as_bytes())?;
        put_field(&mut bytes, value.as_bytes())?;
    }
    bytes.extend_from_slice(sealed);
    Some(bytes)
}

/// The reverse. The pairs are not secret, and the service checks them.
fn taken(blob: &[u8]) -> Option<(Pairs, &[u8])> {
    let (count, mut rest) = blob.split_first_chunk()?;
    let count = u16::from_be_bytes(*count);
    if usize::from(count) > MAX_PAIRS {
        return None;
    }
    let mut pairs = Pairs::new();
    for _ in 0..count {
        let mut text = || String::from_utf8(take_field(&mut rest)?.to_vec()).ok();
        let (name, value) = (text()?, text()?);
        let ascends = pairs.last_key_value().is_none_or(|(last, _)| *last < name);
        if !ascends || name == CONTEXT.0 {
            return None;
        }
        pairs.insert(name, value);
    }
    Some((pairs, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "arn:aws:kms:eu-west-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

    #[test]
    fn a_key_of_several_regions_has_one_name() {
        assert_eq!(parse(KEY).unwrap(), (KEY.to_owned(), "eu-west-1?".to_owned()));
        let in_region = |region: &str| format!("arn:aws:kms:{region}:111122223333:key/mrk-1234");
        let (one, _) = parse(&in_region("eu-west-1")).unwrap();
        let (other, way) = parse(&(in_region("us-east-1") + "?context.team=etcd")).unwrap();
        assert_eq!((one.as_str(), &one), (in_region("*").as_str(), &other));
        assert_eq!(way, "us-east-1?context.team=etcd");
        assert_eq!(Arn::parse(KEY).unwrap().host("eu-west-1"), "kms.eu-west-1.amazonaws.com");
        let china = KEY.replace("arn:aws:", "arn:aws-cn:");
        assert_eq!(Arn::parse(&china).unwrap().host("x"), "kms.x.amazonaws.com.cn");
        for bad in [
            "",
            "alias/x",
            "arn:aws:kms:eu-west-1:111122223333:alias/x",
            "arn:aws:s3:eu-west-1:111122223333:key/x",
            "arn:aws:kms:*:111122223333:key/x",
            "arn:aws:kms:a/b:111122223333:key/x",
            "arn:aws:kms:eu-west-1:111122223333:key/",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        for bad in [
            "x=1",
            "context.=1",
            "context.strongroom=1",
            "context.a=1&context.a=2",
            "context.aws:x=1",
        ] {
            assert!(parse(&format!("{KEY}?{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn pairs_stand_before_the_ciphertext() {
        let pairs =
            Pairs::from([("a".to_owned(), "1".to_owned()), ("b".to_owned(), String::new())]);
        let bytes = printed(&pairs, b"sealed").unwrap();
        assert_eq!(bytes, b"\0\x02\0\x01a\0\x011\0\x01b\0\0sealed");
        assert_eq!(taken(&bytes).unwrap(), (pairs, &b"sealed"[..]));
        for bad in [
            &b""[..],
            b"\0\x01\0\x01a",
            b"\0\x02\0\x01a\0\0\0\x01a\0\0",
            b"\0\x02\0\x01b\0\0\0\x01a\0\0",
            b"\xff\xff",
        ] {
            assert!(taken(bad).is_none(), "{bad:x?}");
        }
    }

    #[test]
    fn answers_have_a_class() {
        let class = |status, kind: &str| {
            let body = format!(r#"{{"__type":"com.amazonaws.kms#{kind}","message":"why"}}"#);
            refused(status, body.as_bytes())
        };
        for kind in [
            "DisabledException",
            "KMSInvalidStateException",
            "AccessDeniedException",
            "NotFoundException",
        ] {
            assert!(
                matches!(class(400, kind), Failure::Refused(why) if why == format!("{kind}: why"))
            );
        }
        for (status, kind) in
            [(400, "ThrottlingException"), (500, "KMSInternalException"), (503, ""), (429, "")]
        {
            assert!(matches!(class(status, kind), Failure::Down(_)), "{kind}");
        }
        assert!(matches!(class(400, "InvalidCiphertextException"), Failure::Wrong(_)));
        assert!(matches!(refused(418, b"\xff"), Failure::Refused(why) if why == "status 418"));
    }
}
