//! `Idempotency-Key`: what was done once is not done twice, however often it is asked.

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::fields::text_fault;
use super::perform::Directory;
use super::{Call, Caller, Refusal, Reply, Verb};
use crate::clock::Now;
use crate::store::objects::{REMEMBERED_MS, Remembered};

/// The longest `Idempotency-Key`.
const KEY_CHARS_MAX: usize = 255;

/// The fields of an answer that are shown once and kept nowhere.
const SECRETS: [&str; 2] = ["secret", "token"];

/// A request that may be repeated.
pub(super) struct Fingerprint {
    key: String,
    of: [u8; 32],
}

/// `None`: the call carries no key, or repeating it does no harm.
pub(super) fn fingerprint(call: &Call) -> Result<Option<Fingerprint>, Refusal> {
    let Some(key) = call.idempotency_key.as_deref() else { return Ok(None) };
    if matches!(call.verb, Verb::Update | Verb::Delete) || call.verb.is_read() {
        return Ok(None);
    }
    if let Some(why) = text_fault(key, KEY_CHARS_MAX) {
        let message = format!("`Idempotency-Key` {why}");
        return Err(Refusal::new(400, "invalid_request", message).of("Idempotency-Key"));
    }
    let mut hash = Sha256::new();
    for part in [call.resource.name(), call.verb.name(), call.id.as_deref().unwrap_or("")] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(canonical(&call.body).to_string());
    Ok(Some(Fingerprint { key: key.to_owned(), of: hash.finalize().into() }))
}

/// With the fields of each object in order, however they were sent.
fn canonical(value: &Value) -> Value {
    match value {
        Value::Object(map) => {
            let mut fields: Vec<_> = map.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields = fields
                .into_iter()
                .map(|(name, value)| Value::Array(vec![name.as_str().into(), canonical(value)]));
            Value::Array([Value::from("{}")].into_iter().chain(fields).collect())
        }
        Value::Array(items) => Value::Array(items.iter().map(canonical).collect()),
        scalar => scalar.clone(),
    }
}

/// What is kept of an answer. A secret is not: a repetition gets null in its place.
pub(super) fn remember(
    principal: &str,
    known: &Fingerprint,
    reply: &Reply,
    time_unix_ms: u64,
) -> Remembered {
    let mut body = reply.body.clone();
    if let Some(map) = body.as_object_mut() {
        let mut had_secret = false;
        for name in SECRETS {
            if let Some(secret) = map.get_mut(name) {
                *secret = Value::Null;
                had_secret = true;
            }
        }
        if had_secret {
            map.insert("replayed".to_owned(), true.into());
        }
    }
    Remembered {
        principal: principal.to_owned(),
        key: known.key.clone(),
        fingerprint: known.of,
        status: reply.status,
        body: body.to_string(),
        time_unix_ms,
    }
}

impl Directory {
    /// The answer that the same request got before.
    pub(super) fn replayed(
        &self,
        caller: &Caller,
        known: &Fingerprint,
        now: Now,
    ) -> Result<Option<Reply>, Refusal> {
        let answer = self.objects.remembered(&caller.name, &known.key);
        let Some(answer) = answer.map_err(|error| Refusal::store(&error))? else {
            return Ok(None);
        };
        if now.unix_ms >= answer.time_unix_ms.saturating_add(REMEMBERED_MS) {
            return Ok(None);
        }
        if answer.fingerprint != known.of {
            let message = "this `Idempotency-Key` came with another request before; use a new one";
            return Err(Refusal::conflict("idempotency_conflict", message).of("Idempotency-Key"));
        }
        let body = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
        Ok(Some(Reply { status: answer.status, body }))
    }
}
