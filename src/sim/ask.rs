//! Reading a `chat/completions` request, strictly.

use serde_json::Value;

use crate::sim::ask_tools::{read_choice, read_format, read_tools};
use crate::sim::plan::{Ask, Format, Job};
use crate::sim::refusal::Refusal;
use crate::sim::text::{Hash, TOKEN_BYTES};
use crate::sim::validate::{Fields, missing, wrong_type};

/// The fields of the API, and those that vendors have added and clients send.
const KNOWN: &[&str] = &[
    "model",
    "messages",
    "stream",
    "stream_options",
    "max_completion_tokens",
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "stop",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "top_logprobs",
    "seed",
    "response_format",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "functions",
    "function_call",
    "reasoning_effort",
    "verbosity",
    "modalities",
    "audio",
    "prediction",
    "web_search_options",
    "service_tier",
    "store",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "user",
    "moderation",
    "top_k",
    "min_p",
    "repetition_penalty",
    "reasoning",
    "provider",
    "models",
    "transforms",
    "plugins",
    "thinking",
    "enable_thinking",
    "chat_template_kwargs",
    "safe_prompt",
];

const TOKEN_LIMIT_MAX: i64 = 10_000_000;

/// What the prompt comes to while it is read.
pub(super) struct Prompt {
    hash: Hash,
    bytes: usize,
    extra_tokens: u64,
    pub(super) last_user: String,
    pub(super) after_tool: bool,
}

impl Prompt {
    pub(super) fn new(job: &Job<'_>) -> Self {
        Prompt {
            hash: Hash::new(job.settings.seed),
            bytes: 0,
            extra_tokens: 3,
            last_user: String::new(),
            after_tool: false,
        }
    }

    /// Text that the model reads.
    pub(super) fn read(&mut self, text: &str) {
        self.hash.add(text.as_bytes());
        self.bytes += text.len();
    }

    /// A message begins, said by `role`.
    pub(super) fn begin(&mut self, role: &str) {
        self.hash.add(role.as_bytes());
        self.extra_tokens += 3;
        self.after_tool = role == "tool";
        if role == "user" {
            self.last_user.clear();
        }
    }

    /// What the last user says.
    pub(super) fn heard(&mut self, role: &str, text: &str) {
        if role == "user" {
            self.last_user.push_str(text);
        }
        self.read(text);
    }

    /// An image, a file or a sound.
    pub(super) fn attachment(&mut self) {
        self.extra_tokens += 85;
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash.0
    }

    pub(super) fn tokens(&self) -> u64 {
        self.bytes.div_ceil(TOKEN_BYTES) as u64 + self.extra_tokens
    }
}

/// Checks the whole request and takes from it what shapes the answer.
pub(super) fn read_chat(body: &Value, job: &Job<'_>) -> Result<Ask, Refusal> {
    let fields = Fields::of_body(body)?;
    fields.refuse_unknown(KNOWN, job.settings.refuse_unknown_fields)?;
    let model = fields.required_text("model")?.to_owned();
    let mut prompt = Prompt::new(job);
    read_messages(&fields, &mut prompt)?;
    let (stream, include_usage) = read_stream(&fields)?;
    let tools = read_tools(&fields, &mut prompt)?;
    let choice = read_choice(&fields, &tools)?;
    if tools.is_empty() && fields.value("parallel_tool_calls").is_some() {
        let message = "'parallel_tool_calls' is only allowed when 'tools' are specified.";
        return Err(fields.unfit("parallel_tool_calls", message));
    }
    let format = read_format(&fields)?;
    if format == Format::JsonObject && !mentions_json(fields.value("messages")) {
        let message = "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'.";
        return Err(fields.unfit("messages", message));
    }
    let logprobs = read_sampling(&fields)?;
    Ok(Ask {
        reasons: reasons(&model),
        model,
        stream,
        include_usage,
        hash: prompt.hash(),
        prompt_tokens: prompt.tokens(),
        after_tool: prompt.after_tool,
        last_user: prompt.last_user,
        budget: read_budget(&fields)?,
        stops: fields.texts("stop", 4)?.into_iter().map(str::to_owned).collect(),
        n: fields.integer("n", 1, 128)?.unwrap_or(1) as u64,
        logprobs,
        format,
        tools,
        choice,
        parallel: fields.flag("parallel_tool_calls")?.unwrap_or(true),
        tier: read_tier(&fields)?,
    })
}

/// Whether a model of this name thinks before it speaks.
pub(super) fn reasons(model: &str) -> bool {
    model.contains("reason")
}

/// `stream` and `stream_options.include_usage`.
pub(super) fn read_stream(fields: &Fields<'_>) -> Result<(bool, bool), Refusal> {
    let stream = fields.flag("stream")?.unwrap_or(false);
    let Some(options) = fields.object("stream_options")? else { return Ok((stream, false)) };
    if !stream {
        let message = "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
        return Err(fields.unfit("stream_options", message));
    }
    options.refuse_unknown(&["include_usage", "include_obfuscation"], true)?;
    options.flag("include_obfuscation")?;
    Ok((stream, options.flag("include_usage")?.unwrap_or(false)))
}

/// Numbers that only need checking; gives the number of alternatives wanted with logprobs.
fn read_sampling(fields: &Fields<'_>) -> Result<Option<usize>, Refusal> {
    fields.number("temperature", 0.0, 2.0)?;
    fields.number("top_p", 0.0, 1.0)?;
    fields.number("presence_penalty", -2.0, 2.0)?;
    fields.number("frequency_penalty", -2.0, 2.0)?;
    fields.integer("seed", i64::MIN, i64::MAX)?;
    fields.object("logit_bias")?;
    fields.flag("store")?;
    fields.metadata()?;
    fields.text("user")?;
    fields.text("prompt_cache_key")?;
    if fields.text("safety_identifier")?.is_some_and(|id| id.len() > 64) {
        return Err(fields.bad_value("safety_identifier", "at most 64 characters".to_owned()));
    }
    let efforts = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
    fields.one_of("reasoning_effort", &efforts)?;
    fields.one_of("verbosity", &["low", "medium", "high"])?;
    fields.texts("modalities", 2)?;
    let wanted = fields.flag("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0, 20)?;
    if top.is_some() && !wanted {
        let message = "'top_logprobs' is only allowed when 'logprobs' is enabled.";
        return Err(fields.unfit("top_logprobs", message));
    }
    Ok(wanted.then_some(top.unwrap_or(0) as usize))
}

fn read_budget(fields: &Fields<'_>) -> Result<Option<u64>, Refusal> {
    let new = fields.integer("max_completion_tokens", 1, TOKEN_LIMIT_MAX)?;
    let old = fields.integer("max_tokens", 1, TOKEN_LIMIT_MAX)?;
    if new.is_some() && old.is_some() {
        let message =
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.";
        return Err(fields.unfit("max_tokens", message));
    }
    Ok(new.or(old).map(|tokens| tokens as u64))
}

/// The tier that the answer names.
pub(super) fn read_tier(fields: &Fields<'_>) -> Result<&'static str, Refusal> {
    let known = ["auto", "default", "flex", "scale", "priority", "fast"];
    Ok(match fields.one_of("service_tier", &known)? {
        Some("flex") => "flex",
        Some("scale") => "scale",
        Some("priority" | "fast") => "priority",
        _ => "default",
    })
}

fn read_messages(fields: &Fields<'_>, prompt: &mut Prompt) -> Result<(), Refusal> {
    fields.required_list("messages")?;
    // Calls that the next messages must answer.
    let mut open: Vec<&str> = Vec::new();
    let roles = ["system", "developer", "user", "assistant", "tool", "function"];
    for message in fields.objects("messages")? {
        let role = message.required_one_of("role", &roles)?;
        if role != "tool" && !open.is_empty() {
            return Err(message.unfit("role", unanswered(&open)));
        }
        prompt.begin(role);
        message.text("name")?;
        if role == "tool" {
            let id = message.required_text("tool_call_id")?;
            let Some(at) = open.iter().position(|known| *known == id) else {
                let text = "Invalid parameter: messages with role 'tool' must be a response to a preceding message with 'tool_calls'.";
                return Err(message.unfit("role", text));
            };
            open.swap_remove(at);
        }
        if role == "assistant" {
            read_past_calls(&message, prompt, &mut open)?;
        }
        read_content(&message, role, prompt)?;
    }
    if open.is_empty() { Ok(()) } else { Err(fields.unfit("messages", unanswered(&open))) }
}

fn unanswered(open: &[&str]) -> String {
    format!(
        "An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'. The following tool_call_ids did not have response messages: {}",
        open.join(", ")
    )
}

fn read_past_calls<'a>(
    message: &Fields<'a>,
    prompt: &mut Prompt,
    open: &mut Vec<&'a str>,
) -> Result<(), Refusal> {
    if message.value("tool_calls").is_some() {
        message.required_list("tool_calls")?;
    }
    for call in message.objects("tool_calls")? {
        open.push(call.required_text("id")?);
        let kind = call.required_one_of("type", &["function", "custom"])?;
        call.required(kind)?;
        let Some(inner) = call.object(kind)? else { continue };
        prompt.read(inner.required_text("name")?);
        let input = if kind == "function" { "arguments" } else { "input" };
        match inner.text(input)? {
            Some(text) => prompt.read(text),
            None => return Err(missing(inner.path_of(input))),
        }
    }
    Ok(())
}

fn read_content(message: &Fields<'_>, role: &str, prompt: &mut Prompt) -> Result<(), Refusal> {
    match message.value("content") {
        Some(Value::String(text)) => prompt.heard(role, text),
        Some(Value::Array(_)) => {
            message.required_list("content")?;
            for part in message.objects("content")? {
                read_part(&part, role, prompt)?;
            }
        }
        Some(other) => {
            let expected = "a string or an array of objects";
            return Err(wrong_type(&message.path_of("content"), expected, other));
        }
        None => {
            let instead = ["tool_calls", "function_call", "refusal", "audio"];
            let has_other = instead.iter().any(|name| message.value(name).is_some());
            if role != "assistant" || !has_other {
                return Err(missing(message.path_of("content")));
            }
        }
    }
    Ok(())
}

fn read_part(part: &Fields<'_>, role: &str, prompt: &mut Prompt) -> Result<(), Refusal> {
    let known: &[&str] = match role {
        "user" => &["text", "image_url", "input_audio", "file"],
        "assistant" => &["text", "refusal"],
        _ => &["text"],
    };
    let kind = part.required_one_of("type", known)?;
    if let "text" | "refusal" = kind {
        match part.text(kind)? {
            Some(text) => prompt.heard(role, text),
            None => return Err(missing(part.path_of(kind))),
        }
        return Ok(());
    }
    prompt.attachment();
    part.required(kind)?;
    let Some(inner) = part.object(kind)? else { return Ok(()) };
    match kind {
        "image_url" => {
            let url = inner.required_text("url")?;
            if !["http://", "https://", "data:"].iter().any(|scheme| url.starts_with(scheme)) {
                return Err(inner.bad_value("url", "expected an http(s) or data URL".to_owned()));
            }
            inner.one_of("detail", &["auto", "low", "high"])?;
        }
        "input_audio" => {
            inner.required_text("data")?;
            inner.required_one_of("format", &["wav", "mp3"])?;
        }
        _ => {
            if inner.value("file_id").is_none() {
                inner.required_text("file_data")?;
            }
        }
    }
    Ok(())
}

/// Whether the word occurs anywhere in the messages.
pub(super) fn mentions_json(value: Option<&Value>) -> bool {
    match value {
        Some(Value::String(text)) => text.to_ascii_lowercase().contains("json"),
        Some(Value::Array(list)) => list.iter().any(|value| mentions_json(Some(value))),
        Some(Value::Object(map)) => map.values().any(|value| mentions_json(Some(value))),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::behaviour::Fault;
    use crate::sim::plan::Choice;
    use crate::sim::settings::Settings;
    use serde_json::json;

    fn read(change: Value) -> Result<Ask, Refusal> {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        if let (Value::Object(body), Value::Object(change)) = (&mut body, change) {
            body.extend(change);
        }
        let settings = Settings::default();
        let unique = "0123456789abcdef0123456789abcdef";
        let job = Job { settings: &settings, body: b"", fault: Fault::None, unique, created: 1 };
        read_chat(&body, &job)
    }

    #[test]
    fn good_requests_pass() {
        let call =
            json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}});
        let ask = read(json!({
            "messages": [
                {"role": "developer", "content": [{"type": "text", "text": "be brief"}]},
                {"role": "user", "content": [{"type": "text", "text": "look "},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}},
                    {"type": "text", "text": "here"}]},
                {"role": "assistant", "content": null, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "c", "content": "42"}
            ],
            "tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}],
            "tool_choice": {"type": "function", "function": {"name": "f"}},
            "stream": true, "stream_options": {"include_usage": true}, "stop": null,
            "max_completion_tokens": 5, "logprobs": true, "top_logprobs": 2, "top_k": 4
        }))
        .expect("valid");
        assert_eq!((ask.last_user.as_str(), ask.after_tool), ("look here", true));
        assert_eq!((ask.stream, ask.include_usage, ask.logprobs), (true, true, Some(2)));
        assert_eq!((ask.budget, ask.choice), (Some(5), Choice::Named("f".into())));
    }

    #[test]
    fn bad_requests_name_the_field() {
        let call =
            json!({"id": "c", "type": "function", "function": {"name": "f", "arguments": ""}});
        for (change, param) in [
            (json!({"model": null}), "model"),
            (json!({"model": ""}), "model"),
            (json!({"messages": []}), "messages"),
            (json!({"messages": "hi"}), "messages"),
            (json!({"messages": [{"role": "bot", "content": ""}]}), "messages[0].role"),
            (json!({"messages": [{"role": "user"}]}), "messages[0].content"),
            (json!({"messages": [{"role": "assistant"}]}), "messages[0].content"),
            (
                json!({"messages": [{"role": "user", "content": [{"type": "video"}]}]}),
                "messages[0].content[0].type",
            ),
            (
                json!({"messages": [{"role": "tool", "tool_call_id": "c", "content": ""}]}),
                "messages[0].role",
            ),
            (json!({"messages": [{"role": "assistant", "tool_calls": [call]}]}), "messages"),
            (json!({"stream": "yes"}), "stream"),
            (json!({"stream_options": {"include_usage": true}}), "stream_options"),
            (json!({"stream": true, "stream_options": {"odd": 1}}), "stream_options.odd"),
            (json!({"n": 129}), "n"),
            (json!({"temperature": 2.5}), "temperature"),
            (json!({"stop": ["a", "b", "c", "d", "e"]}), "stop"),
            (json!({"top_logprobs": 2}), "top_logprobs"),
            (json!({"max_tokens": 1, "max_completion_tokens": 1}), "max_tokens"),
            (json!({"max_tokens": 0}), "max_tokens"),
            (json!({"tools": []}), "tools"),
            (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
            (
                json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}),
                "tools[0].function.name",
            ),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"parallel_tool_calls": true}), "parallel_tool_calls"),
            (json!({"response_format": {"type": "xml"}}), "response_format.type"),
            (json!({"response_format": {"type": "json_object"}}), "messages"),
            (json!({"service_tier": "gold"}), "service_tier"),
            (json!({"foretoken_tags": {}}), "foretoken_tags"),
        ] {
            let refusal = read(change.clone()).expect_err(param);
            assert_eq!(refusal.param.as_deref(), Some(param), "{change} {}", refusal.message);
            assert!(refusal.invalid && refusal.status == 400);
        }
    }

    #[test]
    fn every_word_of_the_prompt_shapes_the_answer() {
        let hash = |text: &str| {
            read(json!({"messages": [{"role": "user", "content": text}]})).expect("valid").hash
        };
        assert_eq!(hash("a"), hash("a"));
        assert_ne!(hash("a"), hash("b"));
    }
}
