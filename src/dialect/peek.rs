//! One scan over the top level of a request's JSON body: which model, streamed or not, how much
//! output at most. Nothing is copied and nothing is changed.
//!
//! What is decided here (may this key use that model?) must be what the upstream will read. So the
//! scan goes over the whole top level and refuses whatever two parsers could read differently:
//! a key twice, a key written with escapes, a key in another case (Go's parser ignores case, and
//! folds `ſ` to s and the Kelvin sign to k), and text that is not quite JSON.

use std::borrow::Cow;
use std::ops::Range;

use super::endpoint::Endpoint;
use super::json::{Cursor, Fault, Text, What};
use super::keys::{Key, acted_on, folded, key};
use crate::error::{Error, Kind};

/// The longest model name in bytes.
pub const MODEL_BYTES_MAX: usize = 256;
/// The longest end-user id that is recorded, in bytes.
pub const END_USER_BYTES_MAX: usize = 256;

/// What a request asks for. Spans are byte ranges of the body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked<'a> {
    pub endpoint: Endpoint,
    pub model: Model<'a>,
    pub stream: bool,
    pub stream_options: Option<StreamOptions>,
    /// The most output tokens per choice that any reading of the request allows.
    pub max_output_tokens: Option<u64>,
    /// Choices per prompt, at least 1.
    pub n: Option<u32>,
    /// Candidates per prompt of which `n` are shown (completions), at least 1. All are billed.
    pub best_of: Option<u32>,
    /// Prompts in one request (completions), at least 1.
    pub prompts: u32,
    /// Whether sending the request twice has no effect but the second answer's price: nothing is
    /// stored, referred to by id, or done by a tool of the provider.
    pub duplicate_safe: bool,
    /// What requests with the same prompt prefix share: `prompt_cache_key`, else the end user.
    /// The string as it stands in the body, without quotes.
    pub affinity: Option<Range<usize>>,
    /// `safety_identifier`, else `user`.
    pub end_user: Option<Cow<'a, str>>,
    /// Whether `api_base`, `base_url`, `models` or `provider` occur. They are never acted on.
    pub foreign: bool,
    /// Just after the opening brace.
    pub insert_at: usize,
    pub has_members: bool,
    /// A base for estimates of tokens: the length of the body.
    pub estimate_bytes: usize,
}

/// The model asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Model<'a> {
    /// The name, decoded.
    pub name: Cow<'a, str>,
    /// Where its value stands, with the quotes. `None`: the endpoint's default was taken.
    pub span: Option<Range<usize>>,
}

/// The value of `stream_options`: an object or null.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamOptions {
    pub span: Range<usize>,
    pub is_null: bool,
    pub has_members: bool,
    /// The member of that name; null counts as absent here, but has a span.
    pub include_usage: Option<bool>,
    pub include_usage_span: Option<Range<usize>>,
}

impl Asked<'_> {
    /// Whether the caller wants a usage chunk at the end of the stream.
    pub fn wants_usage(&self) -> bool {
        self.stream_options.as_ref().and_then(|o| o.include_usage) == Some(true)
    }

    /// How many choices the answer has.
    pub fn choices(&self) -> u32 {
        self.n.unwrap_or(1).saturating_mul(self.prompts)
    }

    /// How many answers are generated and billed.
    pub fn candidates(&self) -> u32 {
        self.n.max(self.best_of).unwrap_or(1).saturating_mul(self.prompts)
    }
}

/// Reads what `body` asks of `endpoint`.
///
/// # Errors
/// `InvalidJson` with the byte offset, or `InvalidRequest` with the field at fault; both are the
/// caller's.
pub fn peek(body: &[u8], endpoint: Endpoint) -> Result<Asked<'_>, Error> {
    let mut scan = Scan {
        body,
        cursor: Cursor::new(body),
        seen: 0,
        user: None,
        safety_identifier: None,
        prompt_cache_key: None,
        store: None,
        asked: Asked {
            endpoint,
            model: Model { name: Cow::Borrowed(""), span: None },
            stream: false,
            stream_options: None,
            max_output_tokens: None,
            n: None,
            best_of: None,
            prompts: 1,
            duplicate_safe: true,
            affinity: None,
            end_user: None,
            foreign: false,
            insert_at: 0,
            has_members: false,
            estimate_bytes: body.len(),
        },
    };
    scan.top()?;
    scan.finish()
}

struct Scan<'a> {
    body: &'a [u8],
    cursor: Cursor<'a>,
    /// The keys that occurred, one bit each.
    seen: u32,
    user: Option<Text>,
    safety_identifier: Option<Text>,
    prompt_cache_key: Option<Text>,
    store: Option<bool>,
    asked: Asked<'a>,
}

impl<'a> Scan<'a> {
    fn top(&mut self) -> Result<(), Error> {
        self.cursor.blanks();
        match self.cursor.byte() {
            Some(b'{') => {}
            None => return Err(invalid_json("The body is empty: send a JSON object.".to_owned())),
            Some(_) if self.body.starts_with(b"\xef\xbb\xbf") => {
                return Err(invalid_json(
                    "The body begins with a byte order mark (byte 0): send plain UTF-8.".to_owned(),
                ));
            }
            Some(_) => {
                return Err(fault(Fault { at: self.cursor.at, what: What::Object }));
            }
        }
        self.cursor.enter().map_err(fault)?;
        self.asked.insert_at = self.cursor.at;
        let mut first = true;
        while let Some(name) = self.cursor.next_key(&mut first).map_err(fault)? {
            match self.identify(&name)? {
                Some(key) => self.member(key)?,
                None => self.cursor.skip().map_err(fault)?,
            }
        }
        self.asked.has_members = !first;
        self.cursor.blanks();
        if self.cursor.byte().is_some() {
            return Err(fault(Fault { at: self.cursor.at, what: What::Trailing }));
        }
        Ok(())
    }

    /// The key that `name` is, if it is one to act on.
    fn identify(&mut self, name: &Text) -> Result<Option<Key>, Error> {
        let raw = &self.body[name.span.clone()];
        let endpoint = self.asked.endpoint;
        if name.escaped {
            let Ok(decoded) = serde_json::from_slice::<String>(&self.body[name.quoted()]) else {
                return Err(invalid_json(format!(
                    "The key at byte {} is not valid Unicode.",
                    name.span.start
                )));
            };
            return match folded(&decoded) {
                Some(key) if acted_on(key, endpoint) => Err(refused(&decoded, "escapes")),
                key => Ok(self.note_foreign(key)),
            };
        }
        if let Some(key) = key(raw) {
            if !acted_on(key, endpoint) {
                return Ok(self.note_foreign(Some(key)));
            }
            let bit = 1 << key as u32;
            if self.seen & bit != 0 {
                let name = String::from_utf8_lossy(raw);
                return Err(invalid(
                    &name,
                    format!("The key \"{name}\" occurs twice: send it once."),
                ));
            }
            self.seen |= bit;
            return Ok(Some(key));
        }
        if raw.iter().all(|&b| b.is_ascii() & !b.is_ascii_uppercase()) {
            return Ok(None);
        }
        let Ok(text) = std::str::from_utf8(raw) else {
            return Err(invalid_json(format!("The key at byte {} is not UTF-8.", name.span.start)));
        };
        match folded(text) {
            Some(key) if acted_on(key, endpoint) => Err(refused(text, "another case")),
            key => Ok(self.note_foreign(key)),
        }
    }

    fn note_foreign(&mut self, key: Option<Key>) -> Option<Key> {
        self.asked.foreign |= key == Some(Key::Foreign);
        None
    }

    fn member(&mut self, key: Key) -> Result<(), Error> {
        match key {
            Key::Model => self.model()?,
            Key::Stream => self.asked.stream = self.flag("stream")?.unwrap_or(false),
            Key::StreamOptions => self.stream_options()?,
            Key::MaxTokens | Key::MaxCompletionTokens | Key::MaxOutputTokens => {
                self.output_limit(key)?
            }
            Key::N => self.asked.n = self.count("n")?,
            Key::BestOf => self.asked.best_of = self.count("best_of")?,
            Key::Store => self.store = self.flag("store")?,
            Key::Background => {
                self.asked.duplicate_safe &= self.flag("background")? != Some(true);
            }
            Key::Prompt if self.asked.endpoint == Endpoint::Completions => self.prompts()?,
            Key::PreviousResponseId | Key::Conversation | Key::Prompt | Key::WebSearchOptions => {
                self.asked.duplicate_safe &= self.cursor.byte() == Some(b'n');
                self.cursor.skip().map_err(fault)?;
            }
            Key::Tools => self.tools()?,
            Key::Affinity => self.prompt_cache_key = self.id()?,
            Key::User => self.user = self.id()?,
            Key::SafetyIdentifier => self.safety_identifier = self.id()?,
            Key::Foreign => self.cursor.skip().map_err(fault)?,
        }
        Ok(())
    }

    fn model(&mut self) -> Result<(), Error> {
        if self.cursor.byte() != Some(b'"') {
            self.cursor.skip().map_err(fault)?;
            return Err(invalid("model", "\"model\" must be a string.".to_owned()));
        }
        let text = self.cursor.string().map_err(fault)?;
        let Some(name) = self.decode(&text) else {
            return Err(invalid("model", "\"model\" is not valid UTF-8.".to_owned()));
        };
        if name.is_empty() || name.len() > MODEL_BYTES_MAX {
            return Err(invalid(
                "model",
                format!("\"model\" must have 1 to {MODEL_BYTES_MAX} bytes."),
            ));
        }
        if name.chars().any(char::is_control) {
            return Err(invalid("model", "\"model\" holds control characters.".to_owned()));
        }
        self.asked.model = Model { name, span: Some(text.quoted()) };
        Ok(())
    }

    fn decode(&self, text: &Text) -> Option<Cow<'a, str>> {
        if text.escaped {
            return serde_json::from_slice(&self.body[text.quoted()]).ok().map(Cow::Owned);
        }
        std::str::from_utf8(&self.body[text.span.clone()]).ok().map(Cow::Borrowed)
    }

    /// A boolean; null is `None`.
    fn flag(&mut self, name: &str) -> Result<Option<bool>, Error> {
        let span = self.cursor.span().map_err(fault)?;
        match &self.body[span] {
            b"true" => Ok(Some(true)),
            b"false" => Ok(Some(false)),
            b"null" => Ok(None),
            _ => Err(invalid(name, format!("\"{name}\" must be true or false."))),
        }
    }

    /// An integer; null is `None`. One that is negative or too large for 64 bits is clamped.
    fn integer(&mut self, name: &str) -> Result<Option<i64>, Error> {
        let span = self.cursor.span().map_err(fault)?;
        let text = &self.body[span];
        if text == b"null" {
            return Ok(None);
        }
        let digits = text.strip_prefix(b"-").unwrap_or(text);
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(invalid(name, format!("\"{name}\" must be an integer.")));
        }
        let size = digits.iter().fold(0i64, |sum, &digit| {
            sum.saturating_mul(10).saturating_add(i64::from(digit - b'0'))
        });
        Ok(Some(if digits.len() < text.len() { -size } else { size }))
    }

    /// A count of at least 1: less would make a reservation of nothing.
    fn count(&mut self, name: &str) -> Result<Option<u32>, Error> {
        match self.integer(name)? {
            None => Ok(None),
            Some(count) => match u32::try_from(count) {
                Ok(count) if count > 0 => Ok(Some(count)),
                _ => Err(invalid(name, format!("\"{name}\" must be at least 1 and below 2^32."))),
            },
        }
    }

    /// Keeps the largest limit that an upstream may go by. Some servers take a negative number for
    /// no limit, so it counts as none.
    fn output_limit(&mut self, key: Key) -> Result<(), Error> {
        let (name, counts) = match key {
            Key::MaxTokens => ("max_tokens", self.asked.endpoint != Endpoint::Responses),
            Key::MaxCompletionTokens => {
                ("max_completion_tokens", self.asked.endpoint == Endpoint::ChatCompletions)
            }
            _ => ("max_output_tokens", self.asked.endpoint == Endpoint::Responses),
        };
        let limit = self.integer(name)?.and_then(|limit| u64::try_from(limit).ok());
        if counts {
            self.asked.max_output_tokens = self.asked.max_output_tokens.max(limit);
        }
        Ok(())
    }

    fn stream_options(&mut self) -> Result<(), Error> {
        let start = self.cursor.at;
        let mut options = StreamOptions {
            span: start..start,
            is_null: self.cursor.byte() == Some(b'n'),
            has_members: false,
            include_usage: None,
            include_usage_span: None,
        };
        match self.cursor.byte() {
            Some(b'{') => {
                self.cursor.enter().map_err(fault)?;
                let mut first = true;
                while let Some(name) = self.cursor.next_key(&mut first).map_err(fault)? {
                    self.stream_option(&name, &mut options)?;
                }
                options.has_members = !first;
            }
            _ => {
                self.cursor.skip().map_err(fault)?;
                if !options.is_null {
                    return Err(invalid(
                        "stream_options",
                        "\"stream_options\" must be an object.".to_owned(),
                    ));
                }
            }
        }
        options.span.end = self.cursor.at;
        self.asked.stream_options = Some(options);
        Ok(())
    }

    fn stream_option(&mut self, name: &Text, options: &mut StreamOptions) -> Result<(), Error> {
        const NAME: &str = "stream_options.include_usage";
        let Some(text) = self.decode(name) else {
            return Err(invalid_json(format!(
                "The key at byte {} is not valid UTF-8.",
                name.span.start
            )));
        };
        // No `k` occurs in the name, so that only the long s can stand in for a letter.
        let folded = text.replace('ſ', "s");
        if !folded.eq_ignore_ascii_case("include_usage") {
            return self.cursor.skip().map_err(fault);
        }
        if name.escaped || text != "include_usage" {
            return Err(refused(NAME, "escapes or in another case"));
        }
        if options.include_usage_span.is_some() {
            return Err(invalid(NAME, format!("The key \"{NAME}\" occurs twice: send it once.")));
        }
        let start = self.cursor.at;
        options.include_usage = self.flag(NAME)?;
        options.include_usage_span = Some(start..self.cursor.at);
        Ok(())
    }

    /// Looks for tools that the provider runs itself: any type but `function` and `custom`.
    fn tools(&mut self) -> Result<(), Error> {
        if self.cursor.byte() != Some(b'[') {
            self.asked.duplicate_safe &= self.cursor.byte() == Some(b'n');
            return self.cursor.skip().map_err(fault);
        }
        self.cursor.enter().map_err(fault)?;
        let mut first = true;
        while self.cursor.next_item(&mut first).map_err(fault)? {
            if self.cursor.byte() != Some(b'{') {
                self.cursor.skip().map_err(fault)?;
                continue;
            }
            self.cursor.enter().map_err(fault)?;
            let mut first = true;
            while let Some(name) = self.cursor.next_key(&mut first).map_err(fault)? {
                let raw = &self.body[name.span.clone()];
                let value = self.cursor.span().map_err(fault)?;
                // In doubt it is not safe: that costs a retry, the contrary costs a double effect.
                if name.escaped || raw.eq_ignore_ascii_case(b"type") {
                    let known = matches!(&self.body[value], b"\"function\"" | b"\"custom\"");
                    self.asked.duplicate_safe &= known;
                }
            }
        }
        Ok(())
    }

    /// Counts the prompts: each string or array of the array is one, numbers are one together.
    fn prompts(&mut self) -> Result<(), Error> {
        if self.cursor.byte() != Some(b'[') {
            return self.cursor.skip().map_err(fault);
        }
        self.cursor.enter().map_err(fault)?;
        let (mut first, mut prompts) = (true, 0u32);
        while self.cursor.next_item(&mut first).map_err(fault)? {
            prompts += u32::from(matches!(self.cursor.byte(), Some(b'"' | b'[')));
            self.cursor.skip().map_err(fault)?;
        }
        self.asked.prompts = prompts.max(1);
        Ok(())
    }

    /// A non-empty string; anything else says nothing.
    fn id(&mut self) -> Result<Option<Text>, Error> {
        if self.cursor.byte() != Some(b'"') {
            self.cursor.skip().map_err(fault)?;
            return Ok(None);
        }
        let text = self.cursor.string().map_err(fault)?;
        Ok((!text.span.is_empty()).then_some(text))
    }

    fn finish(mut self) -> Result<Asked<'a>, Error> {
        if self.asked.model.span.is_none() {
            match self.asked.endpoint.default_model() {
                Some(name) => self.asked.model.name = Cow::Borrowed(name),
                None => {
                    let mut error = invalid(
                        "model",
                        "\"model\" is missing: name a model; GET /v1/models lists them.".to_owned(),
                    );
                    error.code = Some("missing_required_parameter".to_owned());
                    return Err(error);
                }
            }
        }
        let stored = match self.asked.endpoint {
            // There the provider stores unless it is told not to.
            Endpoint::Responses => self.store != Some(false),
            _ => self.store == Some(true),
        };
        self.asked.duplicate_safe &= !stored;
        let end_user = self.safety_identifier.as_ref().or(self.user.as_ref());
        self.asked.end_user = end_user
            .and_then(|text| self.decode(text))
            .filter(|id| id.len() <= END_USER_BYTES_MAX && !id.chars().any(char::is_control));
        let affinity = self.prompt_cache_key.as_ref().or(self.user.as_ref());
        let affinity = affinity.or(self.safety_identifier.as_ref());
        self.asked.affinity = affinity.map(|text| text.span.clone());
        Ok(self.asked)
    }
}

/// The characters (Unicode scalar values) of the text that a request for speech brings; 0 if there is
/// none. For the few requests that are billed by them.
pub fn spoken_chars(body: &[u8]) -> u64 {
    #[derive(serde::Deserialize)]
    struct Speech<'a> {
        #[serde(borrow, default)]
        input: Cow<'a, str>,
    }
    serde_json::from_slice::<Speech<'_>>(body)
        .map_or(0, |speech| speech.input.chars().count() as u64)
}

fn fault(fault: Fault) -> Error {
    invalid_json(format!("The body is not valid JSON at byte {}: {}.", fault.at, fault.what.text()))
}

fn invalid_json(message: String) -> Error {
    Error::downstream(Kind::InvalidJson, message)
}

fn invalid(param: &str, message: String) -> Error {
    Error::downstream(Kind::InvalidRequest, message).param(param)
}

fn refused(name: &str, how: &str) -> Error {
    let message = format!(
        "The key \"{name}\" is written with {how}: write it plainly, in lower case and once."
    );
    invalid(name, message)
}
