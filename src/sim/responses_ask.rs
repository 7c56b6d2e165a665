//! Reading a `responses` request, strictly.

use serde_json::{Value, json};

use crate::sim::ask::{Prompt, mentions_json, read_tier, reasons};
use crate::sim::ask_tools::{named_choice, read_choice_word, read_schema, read_tool};
use crate::sim::plan::{Ask, Choice, Format, Job, Tool};
use crate::sim::refusal::Refusal;
use crate::sim::validate::{Fields, missing, wrong_type};

const KNOWN: &[&str] = &[
    "model",
    "input",
    "instructions",
    "previous_response_id",
    "conversation",
    "stream",
    "stream_options",
    "background",
    "store",
    "max_output_tokens",
    "max_tool_calls",
    "temperature",
    "top_p",
    "top_logprobs",
    "reasoning",
    "text",
    "tools",
    "tool_choice",
    "parallel_tool_calls",
    "include",
    "truncation",
    "prompt",
    "context_management",
    "service_tier",
    "metadata",
    "safety_identifier",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "user",
    "moderation",
];

/// A request, and what of it the answer repeats.
#[derive(Debug)]
pub(super) struct ResponsesAsk {
    pub(super) ask: Ask,
    pub(super) instructions: Value,
    pub(super) max_output_tokens: Value,
    pub(super) metadata: Value,
    pub(super) parallel_tool_calls: bool,
    pub(super) previous_response_id: Value,
    pub(super) reasoning: Value,
    pub(super) store: bool,
    pub(super) temperature: f64,
    pub(super) top_p: f64,
    pub(super) text: Value,
    pub(super) tool_choice: Value,
    pub(super) tools: Value,
}

/// Checks the whole request and takes from it what shapes the answer.
pub(super) fn read_responses(body: &Value, job: &Job<'_>) -> Result<ResponsesAsk, Refusal> {
    let fields = Fields::of_body(body)?;
    fields.refuse_unknown(KNOWN, job.settings.refuse_unknown_fields)?;
    let model = fields.required_text("model")?.to_owned();
    let mut prompt = Prompt::new(job);
    prompt.read(fields.text("instructions")?.unwrap_or_default());
    read_input(&fields, &mut prompt)?;
    check_the_rest(&fields)?;
    let tools = read_tools(&fields, &mut prompt)?;
    let format = read_format(&fields)?;
    if format == Format::JsonObject && !mentions_json(fields.value("input")) {
        let message = "Response input messages must contain the word 'json' in some form to use 'text.format' of type 'json_object'.";
        return Err(fields.unfit("input", message));
    }
    let budget = fields.integer("max_output_tokens", 16, 10_000_000)?;
    let parallel = fields.flag("parallel_tool_calls")?.unwrap_or(true);
    let echo = |name: &str, default: Value| fields.value(name).cloned().unwrap_or(default);
    Ok(ResponsesAsk {
        instructions: echo("instructions", Value::Null),
        max_output_tokens: json!(budget),
        metadata: echo("metadata", json!({})),
        parallel_tool_calls: parallel,
        previous_response_id: echo("previous_response_id", Value::Null),
        reasoning: echo("reasoning", json!({"effort": null, "summary": null})),
        store: fields.flag("store")?.unwrap_or(true),
        temperature: fields.number("temperature", 0.0, 2.0)?.unwrap_or(1.0),
        top_p: fields.number("top_p", 0.0, 1.0)?.unwrap_or(1.0),
        text: echo("text", json!({"format": {"type": "text"}})),
        tool_choice: echo("tool_choice", json!("auto")),
        tools: echo("tools", json!([])),
        ask: Ask {
            reasons: reasons(&model),
            model,
            stream: fields.flag("stream")?.unwrap_or(false),
            include_usage: true,
            hash: prompt.hash(),
            prompt_tokens: prompt.tokens(),
            after_tool: prompt.after_tool,
            last_user: prompt.last_user,
            budget: budget.map(|tokens| tokens as u64),
            stops: Vec::new(),
            n: 1,
            logprobs: None,
            format,
            choice: read_choice(&fields, &tools)?,
            tools,
            parallel,
            tier: read_tier(&fields)?,
        },
    })
}

fn check_the_rest(fields: &Fields<'_>) -> Result<(), Refusal> {
    if let Some(options) = fields.object("stream_options")? {
        if !fields.flag("stream")?.unwrap_or(false) {
            let message =
                "The 'stream_options' parameter is only allowed when 'stream' is enabled.";
            return Err(fields.unfit("stream_options", message));
        }
        // `include_usage` belongs to chat; here usage always comes.
        options.refuse_unknown(&["include_obfuscation"], true)?;
    }
    if fields.flag("background")?.unwrap_or(false) {
        return Err(fields.unfit("background", "Background mode is not simulated."));
    }
    if let Some(id) = fields.text("previous_response_id")? {
        let message = format!("Previous response with id '{id}' not found.");
        return Err(Refusal::bad(
            "previous_response_id",
            Some("previous_response_not_found"),
            message,
        ));
    }
    fields.integer("top_logprobs", 0, 20)?;
    fields.integer("max_tool_calls", 1, i64::MAX)?;
    fields.texts("include", 64)?;
    fields.one_of("truncation", &["auto", "disabled"])?;
    fields.metadata()?;
    fields.text("user")?;
    fields.text("prompt_cache_key")?;
    fields.text("safety_identifier")?;
    if let Some(reasoning) = fields.object("reasoning")? {
        let efforts = ["none", "minimal", "low", "medium", "high", "xhigh", "max"];
        reasoning.one_of("effort", &efforts)?;
        reasoning.one_of("summary", &["auto", "concise", "detailed"])?;
    }
    Ok(())
}

fn read_input(fields: &Fields<'_>, prompt: &mut Prompt) -> Result<(), Refusal> {
    match fields.required("input")? {
        Value::String(text) => {
            prompt.begin("user");
            prompt.heard("user", text);
            Ok(())
        }
        Value::Array(_) => {
            fields.required_list("input")?;
            let mut calls: Vec<&str> = Vec::new();
            for item in fields.objects("input")? {
                read_item(&item, prompt, &mut calls)?;
            }
            Ok(())
        }
        other => Err(wrong_type("input", "a string or an array of objects", other)),
    }
}

fn read_item<'a>(
    item: &Fields<'a>,
    prompt: &mut Prompt,
    calls: &mut Vec<&'a str>,
) -> Result<(), Refusal> {
    match item.text("type")?.unwrap_or("message") {
        "message" => read_message(item, prompt),
        kind @ ("function_call" | "custom_tool_call") => {
            calls.push(item.required_text("call_id")?);
            prompt.begin("assistant");
            prompt.read(item.required_text("name")?);
            let input = if kind == "function_call" { "arguments" } else { "input" };
            match item.text(input)? {
                Some(text) => prompt.read(text),
                None => return Err(missing(item.path_of(input))),
            }
            Ok(())
        }
        "function_call_output" | "custom_tool_call_output" => {
            let id = item.required_text("call_id")?;
            if !calls.contains(&id) {
                let message =
                    format!("No tool call found for function call output with call_id {id}.");
                return Err(Refusal::bad("input", None, message));
            }
            prompt.begin("tool");
            match item.required("output")? {
                Value::String(text) => prompt.read(text),
                Value::Array(_) => {
                    for part in item.objects("output")? {
                        read_part(&part, "tool", prompt)?;
                    }
                }
                other => {
                    let expected = "a string or an array of objects";
                    return Err(wrong_type(&item.path_of("output"), expected, other));
                }
            }
            Ok(())
        }
        "reasoning" => match item.list("summary")? {
            Some(_) => Ok(()),
            None => Err(missing(item.path_of("summary"))),
        },
        "item_reference" => item.required_text("id").map(|_| ()),
        // Built-in calls of other tools: taken as they are.
        kind if kind.ends_with("_call") || kind.ends_with("_output") => Ok(()),
        "compaction" | "mcp_list_tools" | "mcp_approval_request" | "mcp_approval_response" => {
            Ok(())
        }
        other => {
            let why = format!("unknown item type '{other}'");
            Err(item.bad_value("type", why))
        }
    }
}

fn read_message(item: &Fields<'_>, prompt: &mut Prompt) -> Result<(), Refusal> {
    let roles = ["user", "assistant", "system", "developer"];
    let role = item.required_one_of("role", &roles)?;
    prompt.begin(role);
    match item.required("content")? {
        Value::String(text) => prompt.heard(role, text),
        Value::Array(_) => {
            for part in item.objects("content")? {
                read_part(&part, role, prompt)?;
            }
        }
        other => {
            let expected = "a string or an array of objects";
            return Err(wrong_type(&item.path_of("content"), expected, other));
        }
    }
    Ok(())
}

fn read_part(part: &Fields<'_>, role: &str, prompt: &mut Prompt) -> Result<(), Refusal> {
    let known: &[&str] = match role {
        "assistant" => &["output_text", "refusal"],
        _ => &["input_text", "input_image", "input_file"],
    };
    let kind = part.required_one_of("type", known)?;
    match kind {
        "input_text" | "output_text" => match part.text("text")? {
            Some(text) => prompt.heard(role, text),
            None => return Err(missing(part.path_of("text"))),
        },
        "refusal" => prompt.read(part.required_text("refusal")?),
        "input_image" => {
            part.one_of("detail", &["low", "high", "auto", "original"])?;
            if part.value("file_id").is_none() {
                // A plain string here, other than in chat.
                part.required_text("image_url")?;
            }
            prompt.attachment();
        }
        _ => prompt.attachment(),
    }
    Ok(())
}

fn read_tools(fields: &Fields<'_>, prompt: &mut Prompt) -> Result<Vec<Tool>, Refusal> {
    let mut tools = Vec::new();
    for tool in fields.objects("tools")? {
        // Built-in tools are accepted and never called.
        if let kind @ ("function" | "custom") = tool.required_text("type")? {
            tools.push(read_tool(&tool, kind == "custom", prompt)?);
        }
    }
    Ok(tools)
}

fn read_choice(fields: &Fields<'_>, tools: &[Tool]) -> Result<Choice, Refusal> {
    match fields.value("tool_choice") {
        None => Ok(Choice::Auto),
        Some(Value::String(word)) => {
            if word == "required" && fields.objects("tools")?.is_empty() {
                let message = "Tool choice 'required' must be specified with 'tools' parameter.";
                return Err(fields.unfit("tool_choice", message));
            }
            read_choice_word(fields, "tool_choice")
        }
        Some(value) => {
            let choice = Fields::of(value, "tool_choice".to_owned())?;
            match choice.required_text("type")? {
                "function" | "custom" => named_choice(&choice, tools),
                "allowed_tools" => read_choice_word(&choice, "mode"),
                _ => Ok(Choice::Auto),
            }
        }
    }
}

fn read_format(fields: &Fields<'_>) -> Result<Format, Refusal> {
    let Some(text) = fields.object("text")? else { return Ok(Format::Text) };
    text.one_of("verbosity", &["low", "medium", "high"])?;
    let Some(format) = text.object("format")? else { return Ok(Format::Text) };
    match format.required_one_of("type", &["text", "json_object", "json_schema"])? {
        "json_object" => Ok(Format::JsonObject),
        // Flat here, nested in chat.
        "json_schema" => {
            format.required("schema")?;
            read_schema(&format)
        }
        _ => Ok(Format::Text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::behaviour::Fault;
    use crate::sim::settings::Settings;

    fn read(body: Value) -> Result<ResponsesAsk, Refusal> {
        let settings = Settings::default();
        let unique = "0123456789abcdef0123456789abcdef";
        let job = Job { settings: &settings, body: b"", fault: Fault::None, unique, created: 1 };
        read_responses(&body, &job)
    }

    #[test]
    fn items_and_parts_are_read() {
        let read = read(json!({"model": "m", "instructions": "be kind", "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "rain?"}]},
            {"type": "reasoning", "id": "r", "summary": []},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": "no"}],
            "tools": [{"type": "function", "name": "f", "parameters": {}, "strict": true},
                {"type": "web_search"}],
            "tool_choice": {"type": "function", "name": "f"}, "max_output_tokens": 16}))
        .expect("valid");
        assert_eq!((read.ask.last_user.as_str(), read.ask.after_tool), ("rain?", true));
        assert_eq!((read.ask.tools.len(), read.store), (1, true));
        assert_eq!(read.ask.choice, Choice::Named("f".into()));
    }

    #[test]
    fn bad_requests_name_the_field() {
        for (change, param) in [
            (json!({"input": null}), "input"),
            (json!({"input": 5}), "input"),
            (json!({"input": [{"role": "tool", "content": ""}]}), "input[0].role"),
            (json!({"input": [{"role": "user"}]}), "input[0].content"),
            (json!({"input": [{"type": "odd"}]}), "input[0].type"),
            (
                json!({"input": [{"role": "user", "content": [{"type": "text", "text": ""}]}]}),
                "input[0].content[0].type",
            ),
            (
                json!({"input": [{"type": "function_call_output", "call_id": "x", "output": ""}]}),
                "input",
            ),
            (json!({"max_output_tokens": 15}), "max_output_tokens"),
            (
                json!({"stream": true, "stream_options": {"include_usage": true}}),
                "stream_options.include_usage",
            ),
            (json!({"tool_choice": "required"}), "tool_choice"),
            (json!({"tools": [{"type": "function", "function": {"name": "f"}}]}), "tools[0].name"),
            (
                json!({"text": {"format": {"type": "json_schema", "name": "x"}}}),
                "text.format.schema",
            ),
            (json!({"previous_response_id": "resp_1"}), "previous_response_id"),
        ] {
            let mut body = json!({"model": "m", "input": "x"});
            if let (Value::Object(body), Value::Object(change)) = (&mut body, change) {
                body.extend(change);
            }
            let refusal = read(body).expect_err(param);
            assert_eq!(refusal.param.as_deref(), Some(param), "{}", refusal.message);
        }
    }
}
