//! Reads an answer that is one JSON body while it passes: usage, model, tier. Bodies may be large
//! (pictures, embeddings) and are not held for it.

use super::capture::{
    ARGUMENTS, B64_JSON, BILLED_UNITS, CONTENT, Capture, Lengths, MODEL, REASONING, SERVICE_TIER,
    Seeker, TEXT, TYPE, URL, USAGE,
};
use super::endpoint::Endpoint;
use super::json::{Cursor, truthy};
use super::said::StreamError;
use super::stream::USAGE_BYTES_MAX;
use super::usage::Usage;

/// Bytes of a model name or tier that are kept.
const NAME_BYTES_MAX: usize = 256;

/// Reads one JSON answer, cut anywhere. Memory: one usage object.
pub struct UnaryReader {
    usage: Capture,
    search_units: Option<Capture>,
    pictures: Option<[(Seeker, u64); 2]>,
    /// Kinds of items, of which searches of the provider's cost apart.
    items: Option<Capture>,
    /// What a model has written, for answers without usage.
    written: Option<[Lengths; 4]>,
    model: Capture,
    service_tier: Capture,
    found: Found,
}

#[derive(Default)]
struct Found {
    usage: Option<Usage>,
    search_units: Option<u64>,
    web_searches: u64,
    model: String,
    service_tier: String,
}

impl UnaryReader {
    /// For an answer of `endpoint`.
    pub fn new(endpoint: Endpoint) -> Self {
        let rerank = endpoint == Endpoint::Rerank;
        let images = endpoint == Endpoint::ImageGenerations;
        let writes = matches!(
            endpoint,
            Endpoint::ChatCompletions | Endpoint::Completions | Endpoint::Responses
        );
        UnaryReader {
            written: writes.then(|| [&CONTENT, &TEXT, &REASONING, &ARGUMENTS].map(Lengths::new)),
            usage: Capture::new(&USAGE, USAGE_BYTES_MAX),
            search_units: rerank.then(|| Capture::new(&BILLED_UNITS, USAGE_BYTES_MAX)),
            pictures: images.then(|| [(Seeker::new(&B64_JSON), 0), (Seeker::new(&URL), 0)]),
            items: (endpoint == Endpoint::Responses).then(|| Capture::new(&TYPE, NAME_BYTES_MAX)),
            model: Capture::new(&MODEL, NAME_BYTES_MAX),
            service_tier: Capture::new(&SERVICE_TIER, NAME_BYTES_MAX),
            found: Found::default(),
        }
    }

    /// Reads the next piece.
    pub fn feed(&mut self, piece: &[u8]) {
        let found = &mut self.found;
        self.usage.feed(piece, |raw| found.usage = Usage::parse(raw).or(found.usage));
        if let Some(search_units) = &mut self.search_units {
            search_units.feed(piece, |raw| {
                found.search_units = Usage::parse(raw).and_then(|usage| usage.search_units);
            });
        }
        self.written.iter_mut().flatten().for_each(|lengths| lengths.feed(piece));
        for (seeker, count) in self.pictures.iter_mut().flatten() {
            let mut at = 0;
            while let Some(value) = seeker.next(piece, at) {
                *count += u64::from(piece[value] == b'"');
                at = value;
            }
        }
        if let Some(items) = &mut self.items {
            items.feed(piece, |raw| {
                found.web_searches += u64::from(raw == b"\"web_search_call\"");
            });
        }
        if found.model.is_empty() {
            self.model.feed(piece, |raw| {
                if found.model.is_empty() {
                    found.model = name(raw);
                }
            });
        }
        self.service_tier.feed(piece, |raw| found.service_tier = name(raw));
    }

    /// The last usage that makes sense.
    pub fn usage(&self) -> Option<Usage> {
        match (self.found.usage, self.found.search_units) {
            (usage, None) => usage,
            (usage, search_units) => Some(Usage { search_units, ..usage.unwrap_or_default() }),
        }
    }

    /// Bytes of text, reasoning and arguments, as escaped.
    pub fn content_bytes(&self) -> u64 {
        self.written.iter().flatten().map(|lengths| lengths.bytes).sum()
    }

    /// The model that the upstream says it used.
    pub fn model_served(&self) -> Option<&str> {
        Some(&self.found.model[..]).filter(|name| !name.is_empty())
    }

    /// The service tier that was used; it decides the price.
    pub fn service_tier(&self) -> Option<&str> {
        Some(&self.found.service_tier[..]).filter(|name| !name.is_empty())
    }

    /// Searches that the provider made for this answer.
    pub fn web_searches(&self) -> u64 {
        self.found.web_searches
    }

    /// Pictures in the answer of an image model, for those priced by the picture.
    pub fn images(&self) -> u64 {
        self.pictures.iter().flatten().map(|(_, count)| *count).max().unwrap_or(0)
    }
}

/// A captured string without its quotes; empty for anything else.
fn name(raw: &[u8]) -> String {
    if raw.first() != Some(&b'"') {
        return String::new();
    }
    serde_json::from_slice(raw).unwrap_or_default()
}

/// The fault that a whole body of a 2xx answer tells of: a truthy `error` at its top, or the
/// status `failed` of a response.
pub fn inspect(whole: &[u8]) -> Option<StreamError> {
    let mut cursor = Cursor::new(whole);
    cursor.blanks();
    if cursor.byte() != Some(b'{') || cursor.enter().is_err() {
        return None;
    }
    let (mut first, mut failed) = (true, false);
    // Text that is no JSON is no error body; the caller gets it as it is.
    while let Ok(Some(key)) = cursor.next_key(&mut first) {
        let start = cursor.at;
        failed |= match &whole[key.span] {
            b"error" => truthy(&whole[start..]),
            b"status" => whole[start..].starts_with(b"\"failed\""),
            _ => false,
        };
        if cursor.skip().is_err() {
            break;
        }
    }
    failed.then(|| StreamError::from_frame(whole))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use serde_json::Value;

    fn read(endpoint: Endpoint, body: &[u8], cut: usize) -> UnaryReader {
        let mut reader = UnaryReader::new(endpoint);
        reader.feed(&body[..cut]);
        reader.feed(&body[cut..]);
        reader
    }

    fn part(json: &str, path: &[&str]) -> Vec<u8> {
        let value: Value = serde_json::from_str(json).expect("json");
        path.iter().fold(&value, |value, key| &value[*key]).to_string().into_bytes()
    }

    #[test]
    fn usage_is_found_in_every_shape_however_it_is_cut() {
        let rerank = include_str!("../../tests/samples/rerank.json");
        let images = include_str!("../../tests/samples/images.json");
        let chat = include_str!("../../tests/samples/openai-chat-response.json");
        let responses = include_str!("../../tests/samples/responses-response.json");
        let embeddings = include_str!("../../tests/samples/embeddings-base64.json");
        for (endpoint, body) in [
            (Endpoint::ChatCompletions, chat.as_bytes().to_vec()),
            (Endpoint::Responses, responses.as_bytes().to_vec()),
            (Endpoint::Embeddings, part(embeddings, &["response"])),
            (Endpoint::ImageGenerations, part(images, &["response"])),
            (Endpoint::Rerank, part(rerank, &["jina", "response"])),
            (Endpoint::Rerank, part(rerank, &["cohere_v2", "response"])),
        ] {
            let value: Value = serde_json::from_slice(&body).expect("json");
            let usage = match &value["usage"] {
                Value::Null => &value["meta"]["billed_units"],
                usage => usage,
            };
            let want = Usage::parse(usage.to_string().as_bytes());
            assert!(want.is_some());
            for cut in 0..=body.len() {
                let reader = read(endpoint, &body, cut);
                assert_eq!(reader.usage(), want, "{endpoint:?} {cut}");
                assert_eq!(reader.model_served(), value["model"].as_str());
                assert_eq!(reader.service_tier(), value["service_tier"].as_str());
                let images = value["data"][0].get("b64_json").is_some();
                assert_eq!(reader.images(), u64::from(images));
            }
        }
    }

    #[test]
    fn searches_of_the_provider_are_counted() {
        let body = br#"{"output":[{"type":"web_search_call","status":"completed"},
            {"type":"message","content":[{"type":"output_text","text":"\"type\":\"web_search_call\""}]},
            {"type" : "web_search_call"}],"tools":[{"type":"web_search"}]}"#;
        for cut in 0..body.len() {
            assert_eq!(read(Endpoint::Responses, body, cut).web_searches(), 2, "{cut}");
        }
        assert_eq!(read(Endpoint::ChatCompletions, body, 0).web_searches(), 0);
    }

    #[test]
    fn a_models_text_about_usage_is_not_usage() {
        let body = br#"{"choices":[{"message":{"content":"\"usage\":{\"prompt_tokens\":7}"}}],
            "tools":[{"parameters":{"properties":{"usage":{"type":"string"}}}}],"usage":null}"#;
        assert_eq!(read(Endpoint::ChatCompletions, body, 0).usage(), None);
    }

    #[test]
    fn faults_in_a_200_are_seen() {
        for (body, want) in [
            (r#"{"id":"x","error":null,"choices":[]}"#, None),
            (r#"{"error":{},"choices":[{"message":{"content":"\"error\":1"}}]}"#, None),
            (r#"{"choices":[{"error":{"message":"inner"}}]}"#, None),
            ("not json", None),
            (r#"{"error":{"code":429,"message":"slow down"}}"#, Some(Kind::RateLimited)),
            (r#"{"error":"boom"}"#, Some(Kind::ServerError)),
            (
                r#"{"status":"failed","error":{"code":"server_error","message":"m"}}"#,
                Some(Kind::ServerError),
            ),
            (r#"{"status":"failed","error":null}"#, Some(Kind::ServerError)),
            (r#"{"status":"completed","error":null}"#, None),
        ] {
            assert_eq!(inspect(body.as_bytes()).map(|error| error.kind), want, "{body}");
        }
    }
}
