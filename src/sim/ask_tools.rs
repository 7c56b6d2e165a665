//! The part of a request that is about tools and structured output: for chat, and in pieces for
//! `responses`, which has the same things less nested.

use crate::sim::ask::Prompt;
use crate::sim::plan::{Choice, Format, Tool};
use crate::sim::refusal::Refusal;
use crate::sim::validate::Fields;

const TOOLS_MAX: usize = 1024;

/// `tools`: functions and custom tools.
pub(super) fn read_tools(fields: &Fields<'_>, prompt: &mut Prompt) -> Result<Vec<Tool>, Refusal> {
    if fields.value("tools").is_some() {
        fields.required_list("tools")?;
    }
    let mut tools = Vec::new();
    for tool in fields.objects("tools")?.into_iter().take(TOOLS_MAX) {
        let kind = tool.required_one_of("type", &["function", "custom"])?;
        tool.required(kind)?;
        if let Some(inner) = tool.object(kind)? {
            tools.push(read_tool(&inner, kind == "custom", prompt)?);
        }
    }
    Ok(tools)
}

/// A tool as chat nests it and `responses` does not.
pub(super) fn read_tool(
    inner: &Fields<'_>,
    custom: bool,
    prompt: &mut Prompt,
) -> Result<Tool, Refusal> {
    let name = inner.required_text("name")?;
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if name.len() > 64 || !name.chars().all(fits) {
        let why = "string does not match pattern. Expected a string that matches the pattern '^[a-zA-Z0-9_-]{1,64}$'";
        return Err(inner.bad_value("name", why.to_owned()));
    }
    prompt.read(name);
    prompt.read(inner.text("description")?.unwrap_or_default());
    inner.flag("strict")?;
    inner.object("parameters")?;
    let schema = inner.value("parameters").filter(|_| !custom).cloned();
    let schema = schema.unwrap_or_else(|| serde_json::json!({"type": "object"}));
    prompt.read(&schema.to_string());
    Ok(Tool { name: name.to_owned(), schema, custom })
}

/// `tool_choice`, which must fit the tools.
pub(super) fn read_choice(fields: &Fields<'_>, tools: &[Tool]) -> Result<Choice, Refusal> {
    let Some(value) = fields.value("tool_choice") else { return Ok(Choice::Auto) };
    if tools.is_empty() && value.as_str() != Some("none") {
        let message = "'tool_choice' is only allowed when 'tools' are specified.";
        return Err(fields.unfit("tool_choice", message));
    }
    if value.is_string() {
        return read_choice_word(fields, "tool_choice");
    }
    let Some(choice) = fields.object("tool_choice")? else { return Ok(Choice::Auto) };
    let kind = choice.required_one_of("type", &["function", "custom", "allowed_tools"])?;
    choice.required(kind)?;
    let Some(inner) = choice.object(kind)? else { return Ok(Choice::Auto) };
    if kind == "allowed_tools" {
        inner.required_list("tools")?;
        return read_choice_word(&inner, "mode");
    }
    named_choice(&inner, tools)
}

/// A choice that names a tool, which must exist.
pub(super) fn named_choice(inner: &Fields<'_>, tools: &[Tool]) -> Result<Choice, Refusal> {
    let name = inner.required_text("name")?;
    if !tools.iter().any(|tool| tool.name == name) {
        let message = format!("Tool choice '{name}' not found in 'tools' parameter.");
        return Err(Refusal::bad("tool_choice", None, message));
    }
    Ok(Choice::Named(name.to_owned()))
}

/// `none`, `auto` or `required`.
pub(super) fn read_choice_word(fields: &Fields<'_>, name: &str) -> Result<Choice, Refusal> {
    Ok(match fields.required_one_of(name, &["none", "auto", "required"])? {
        "none" => Choice::Never,
        "required" => Choice::Required,
        _ => Choice::Auto,
    })
}

/// `response_format`.
pub(super) fn read_format(fields: &Fields<'_>) -> Result<Format, Refusal> {
    let Some(format) = fields.object("response_format")? else { return Ok(Format::Text) };
    match format.required_one_of("type", &["text", "json_object", "json_schema"])? {
        "json_object" => Ok(Format::JsonObject),
        "json_schema" => {
            format.required("json_schema")?;
            match format.object("json_schema")? {
                Some(inner) => read_schema(&inner),
                None => Ok(Format::Text),
            }
        }
        _ => Ok(Format::Text),
    }
}

/// `name`, `schema`, `strict`, as both APIs have them.
pub(super) fn read_schema(inner: &Fields<'_>) -> Result<Format, Refusal> {
    inner.required_text("name")?;
    inner.flag("strict")?;
    inner.text("description")?;
    inner.object("schema")?;
    let any = || serde_json::json!({"type": "object"});
    Ok(Format::Schema(inner.value("schema").cloned().unwrap_or_else(any)))
}
