//! Masks secrets in a text of an upstream before a caller or a log sees it.

use std::borrow::Cow;

use serde_json::Value;

use crate::error::Error;

const MASK: &str = "***";

/// What keys of well-known providers begin with.
const PREFIXES: &[&str] = &["sk-", "gsk_", "xai-", "AIza", "ek_"];
/// Shorter secrets are not looked for.
const SECRET_BYTES_MIN: usize = 6;
/// Characters, the prefix counted, that make a key and not a word.
const KEY_CHARS_MIN: usize = 10;

/// `text` with each of `secrets` masked, and whatever looks like a key (`sk-…`) or follows
/// `Bearer`. Borrowed if there is nothing to mask.
pub fn scrub<'a>(text: &'a str, secrets: &[&str]) -> Cow<'a, str> {
    let mut clean = Cow::Borrowed(text);
    for secret in secrets {
        // A shorter one would mask parts of plain words.
        if secret.len() >= SECRET_BYTES_MIN && clean.contains(secret) {
            clean = Cow::Owned(clean.replace(secret, MASK));
        }
    }
    let mut out = String::new();
    let mut kept_to = 0;
    let mut at = 0;
    while at < clean.len() {
        match secret_at(&clean, at) {
            Some((start, end)) => {
                out.push_str(&clean[kept_to..start]);
                out.push_str(MASK);
                kept_to = end;
                at = end;
            }
            None => at += clean[at..].chars().next().map_or(1, char::len_utf8),
        }
    }
    if kept_to == 0 {
        return clean;
    }
    out.push_str(&clean[kept_to..]);
    Cow::Owned(out)
}

/// Masks `secrets` in every word of an upstream's that an error carries.
pub fn scrub_error(error: &mut Error, secrets: &[&str]) {
    let mask = |text: &mut String| {
        if let Cow::Owned(clean) = scrub(text, secrets) {
            *text = clean;
        }
    };
    mask(&mut error.message);
    for text in [&mut error.param, &mut error.code, &mut error.cause] {
        text.as_mut().map(mask);
    }
    if let Some(body) = &mut error.body {
        *body = scrub_json(body, secrets);
    }
}

/// A JSON text with its strings masked, in whatever way they are escaped; untouched if there is
/// nothing to mask.
fn scrub_json(body: &[u8], secrets: &[&str]) -> Vec<u8> {
    fn walk(value: &mut Value, secrets: &[&str]) -> bool {
        match value {
            Value::String(text) => match scrub(text, secrets) {
                Cow::Owned(clean) => {
                    *text = clean;
                    true
                }
                Cow::Borrowed(_) => false,
            },
            // All of them, so no short circuit.
            Value::Array(items) => items.iter_mut().fold(false, |any, v| walk(v, secrets) | any),
            Value::Object(map) => map.values_mut().fold(false, |any, v| walk(v, secrets) | any),
            _ => false,
        }
    }
    if let Ok(mut value) = serde_json::from_slice::<Value>(body)
        && walk(&mut value, secrets)
    {
        return value.to_string().into_bytes();
    }
    // Also the names of members, and what is no JSON after all.
    scrub(&String::from_utf8_lossy(body), secrets).into_owned().into_bytes()
}

/// The range to mask if a secret begins at `at`, which is a character boundary.
fn secret_at(text: &str, at: usize) -> Option<(usize, usize)> {
    let bytes = text.as_bytes();
    if at > 0 && bytes[at - 1].is_ascii_alphanumeric() {
        return None;
    }
    let rest = &bytes[at..];
    let start = if rest.len() > 7 && rest[..7].eq_ignore_ascii_case(b"bearer ") {
        at + 7
    } else if PREFIXES.iter().any(|prefix| rest.starts_with(prefix.as_bytes())) {
        at
    } else {
        return None;
    };
    let key = |b: &u8| b.is_ascii_alphanumeric() || b"-_.*~+/=".contains(b);
    let length = bytes[start..].iter().take_while(|b| key(b)).count();
    (length >= KEY_CHARS_MIN).then_some((start, start + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_in_json_is_masked_however_it_is_escaped() {
        let secret = "prov/AbCdEfGh/0123456789";
        let all: String = secret.chars().map(|c| format!("\\u{:04x}", c as u32)).collect();
        for written in [secret.to_owned(), secret.replace('/', "\\/"), all] {
            let body = format!(r#"{{"error":{{"message":"bad key {written}!","n":1.50}}}}"#);
            let clean = scrub_json(body.as_bytes(), &[secret]);
            let clean: Value = serde_json::from_slice(&clean).expect("JSON");
            assert_eq!(clean["error"]["message"], "bad key ***!", "{written}");
        }
        let plain = br#"{"error" : {"message":"fine \/ as it is"}}"#;
        assert_eq!(scrub_json(plain, &[secret]), plain);
    }

    #[test]
    fn secrets_are_masked_and_words_are_not() {
        for (text, want) in [
            ("Incorrect API key provided: sk-proj-abc***xyz.", "Incorrect API key provided: ***"),
            ("bad header 'Bearer abcdefgh1234' sent", "bad header 'Bearer ***' sent"),
            ("see secret-7 and secret-7", "see *** and ***"),
            ("a risk-assessment-of-things", "a risk-assessment-of-things"),
            ("sk-short é", "sk-short é"),
            ("é sk-0123456789 é", "é *** é"),
            ("bearer", "bearer"),
            ("", ""),
        ] {
            assert_eq!(scrub(text, &["secret-7", ""]), want, "{text}");
        }
        assert!(matches!(scrub("plain", &["x1"]), Cow::Borrowed(_)));
    }
}
