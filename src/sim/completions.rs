//! `POST /completions`, the legacy endpoint: text in, text out.

use serde_json::Value;

use crate::sim::ask::{Prompt, read_stream};
use crate::sim::behaviour::Fault;
use crate::sim::json::{Object, push_list};
use crate::sim::plan::{Ask, Choice, Format, Job, Plan, Usage};
use crate::sim::refusal::Refusal;
use crate::sim::script::{Kind, Script, step_tokens};
use crate::sim::text::{pieces, tokens_in};
use crate::sim::validate::{Fields, missing, wrong_type};

const KNOWN: &[&str] = &[
    "model",
    "prompt",
    "max_tokens",
    "temperature",
    "top_p",
    "n",
    "best_of",
    "stream",
    "stream_options",
    "logprobs",
    "echo",
    "stop",
    "suffix",
    "presence_penalty",
    "frequency_penalty",
    "logit_bias",
    "seed",
    "user",
];

const MAX_TOKENS_DEFAULT: i64 = 16;
const PROMPTS_MAX: usize = 128;

/// Checks the request and writes the answer.
pub(super) fn answer(body: &Value, job: &Job<'_>) -> Result<Script, Refusal> {
    let fields = Fields::of_body(body)?;
    fields.refuse_unknown(KNOWN, job.settings.refuse_unknown_fields)?;
    let asks = read(&fields, job)?;
    let Some(ask) = asks.first() else { return Err(missing("prompt".to_owned())) };
    let plans: Vec<Plan> = asks.iter().flat_map(|ask| ask.plans(job)).collect();
    let usage =
        Usage { prompt: asks.iter().map(|ask| ask.prompt_tokens).sum(), ..ask.usage(job, &plans) };
    let script = match ask.stream {
        true => stream(ask, job, &plans, usage),
        false => document(ask, job, &plans, usage),
    };
    Ok(script.telling(ask.told(job, usage)))
}

/// One ask per prompt.
fn read(fields: &Fields<'_>, job: &Job<'_>) -> Result<Vec<Ask>, Refusal> {
    let model = fields.required_text("model")?;
    let (stream, include_usage) = read_stream(fields)?;
    fields.number("temperature", 0.0, 2.0)?;
    fields.number("top_p", 0.0, 1.0)?;
    fields.number("presence_penalty", -2.0, 2.0)?;
    fields.number("frequency_penalty", -2.0, 2.0)?;
    fields.integer("logprobs", 0, 5)?;
    fields.integer("seed", i64::MIN, i64::MAX)?;
    fields.object("logit_bias")?;
    fields.text("suffix")?;
    fields.text("user")?;
    fields.flag("echo")?;
    let n = fields.integer("n", 1, 128)?.unwrap_or(1);
    if fields.integer("best_of", 1, 20)?.is_some_and(|best_of| best_of < n) {
        return Err(fields.bad_value("best_of", "expected at least 'n'".to_owned()));
    }
    let stops = fields.texts("stop", 4)?;
    let budget = fields.integer("max_tokens", 1, 1_000_000)?.unwrap_or(MAX_TOKENS_DEFAULT);
    let ask = |text: &str, prompt: Prompt| Ask {
        reasons: false,
        model: model.to_owned(),
        stream,
        include_usage,
        hash: prompt.hash(),
        prompt_tokens: tokens_in(text.len()),
        last_user: text.to_owned(),
        after_tool: false,
        budget: Some(budget as u64),
        stops: stops.iter().map(|stop| (*stop).to_owned()).collect(),
        n: n as u64,
        logprobs: None,
        format: Format::Text,
        tools: Vec::new(),
        choice: Choice::Never,
        parallel: false,
        tier: "default",
    };
    let read = |text: &str| {
        let mut prompt = Prompt::new(job);
        prompt.read(text);
        ask(text, prompt)
    };
    let prompts = prompts(fields.value("prompt"), "prompt")?;
    Ok(prompts.iter().take(PROMPTS_MAX).map(|text| read(text)).collect())
}

/// A string, strings, token ids or lists of token ids, each as text: a token id counts as the four
/// bytes of one token.
pub(super) fn prompts(value: Option<&Value>, path: &str) -> Result<Vec<String>, Refusal> {
    let expected = "a string, an array of strings, or an array of token ids";
    let ids = |list: &[Value], path: &str| -> Result<String, Refusal> {
        let id = |value: &Value| value.as_u64().map(|id| format!("{:04x}", id & 0xffff));
        let read = |value| id(value).ok_or_else(|| wrong_type(path, expected, value));
        list.iter().map(read).collect()
    };
    match value {
        None => Ok(vec!["<|endoftext|>".to_owned()]),
        Some(Value::String(text)) => Ok(vec![text.clone()]),
        Some(Value::Array(list)) => match list.first() {
            None => {
                let message = format!("Invalid '{path}': empty array.");
                Err(Refusal::bad(path, Some("empty_array"), message))
            }
            Some(Value::Number(_)) => ids(list, path).map(|text| vec![text]),
            Some(_) => {
                let one = |(at, value): (usize, &Value)| match value {
                    Value::String(text) => Ok(text.clone()),
                    Value::Array(inner) if !inner.is_empty() => {
                        ids(inner, &format!("{path}[{at}]"))
                    }
                    other => Err(wrong_type(&format!("{path}[{at}]"), expected, other)),
                };
                list.iter().enumerate().map(one).collect()
            }
        },
        Some(other) => Err(wrong_type(path, expected, other)),
    }
}

fn finish_reason(plan: &Plan) -> &'static str {
    if plan.cut { "length" } else { "stop" }
}

fn write_head<'a>(out: &'a mut Vec<u8>, ask: &Ask, job: &Job<'_>) -> Object<'a> {
    Object::new(out)
        .field("id", format_args!("cmpl-{}", job.unique))
        .field("object", "text_completion")
        .field("created", job.created)
        .field("model", &ask.model)
}

fn write_choice(out: &mut Vec<u8>, index: usize, text: &str, finish: Option<&str>) {
    Object::new(out)
        .field("text", text)
        .field("index", index)
        .field("logprobs", ())
        .field("finish_reason", finish)
        .end();
}

fn document(ask: &Ask, job: &Job<'_>, plans: &[Plan], usage: Usage) -> Script {
    let mut out = Vec::new();
    let head = write_head(&mut out, ask, job).nest("choices", |out| {
        push_list(out, plans.iter().enumerate(), |out, (index, plan)| {
            write_choice(out, index, &plan.text, Some(finish_reason(plan)));
        });
    });
    match job.fault {
        Fault::NoUsage => head.end(),
        _ => head.nest("usage", |out| usage.write_chat(out)).end(),
    }
    Script::document(out, usage.completion)
}

fn stream(ask: &Ask, job: &Job<'_>, plans: &[Plan], usage: Usage) -> Script {
    let mut script = Script::events();
    let mut so_far = Usage { completion: 0, ..usage };
    let piece_bytes = ask.piece_bytes(job);
    let mut texts: Vec<_> = plans.iter().map(|plan| pieces(&plan.text, piece_bytes)).collect();
    let mut open = vec![true; plans.len()];
    let mut left = plans.len();
    while left > 0 {
        for (index, plan) in plans.iter().enumerate() {
            if !open[index] {
                continue;
            }
            let piece = texts[index].next();
            let (kind, text, finish) = match piece {
                Some(text) => (Kind::Content, text, None),
                None => (Kind::Closing, "", Some(finish_reason(plan))),
            };
            so_far.completion += tokens_in(text.len());
            open[index] = piece.is_some();
            left -= usize::from(piece.is_none());
            let shown = match job.fault {
                Fault::UsageEvery => Some(&so_far),
                Fault::FinishUsage if left == 0 => Some(&usage),
                _ => None,
            };
            let nulls =
                ask.include_usage && !matches!(job.fault, Fault::NoUsage | Fault::FinishUsage);
            script.frame(kind, step_tokens(text), |out| {
                let head = write_head(out, ask, job).nest("choices", |out| {
                    push_list(out, [text], |out, text| write_choice(out, index, text, finish));
                });
                match shown {
                    Some(usage) => head.nest("usage", |out| usage.write_chat(out)).end(),
                    None if nulls => head.field("usage", ()).end(),
                    None => head.end(),
                }
            });
        }
    }
    if ask.include_usage && !matches!(job.fault, Fault::NoUsage | Fault::FinishUsage) {
        script.frame(Kind::Closing, 0, |out| {
            write_head(out, ask, job)
                .nest("choices", |out| out.extend_from_slice(b"[]"))
                .nest("usage", |out| usage.write_chat(out))
                .end();
        });
    }
    script.done();
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::settings::Settings;
    use serde_json::json;

    fn bytes(body: &Value) -> Result<Vec<u8>, Refusal> {
        let settings = Settings::default();
        let unique = "0123456789abcdef0123456789abcdef";
        let job = Job { settings: &settings, body: b"", fault: Fault::None, unique, created: 7 };
        answer(body, &job).map(|script| script.bytes)
    }

    #[test]
    fn every_prompt_has_its_choices_and_the_default_limit_is_16_tokens() {
        let body = json!({"model": "m", "prompt": ["a", "b"], "n": 2});
        let whole: Value = serde_json::from_slice(&bytes(&body).expect("valid")).expect("JSON");
        assert_eq!(whole["choices"].as_array().map(Vec::len), Some(4));
        assert_eq!(whole["choices"][3]["finish_reason"], "length");
        assert_eq!(whole["usage"]["completion_tokens"], 64);
        let ids = json!({"model": "m", "prompt": [1, 2, 3], "max_tokens": 1});
        let whole: Value = serde_json::from_slice(&bytes(&ids).expect("valid")).expect("JSON");
        assert_eq!(whole["usage"]["prompt_tokens"], 3);
    }

    #[test]
    fn a_stream_says_what_the_document_says() {
        let mut body = json!({"model": "m", "prompt": "tell me", "max_tokens": 12});
        let whole: Value = serde_json::from_slice(&bytes(&body).expect("valid")).expect("JSON");
        body["stream"] = json!(true);
        body["stream_options"] = json!({"include_usage": true});
        let text = String::from_utf8(bytes(&body).expect("valid")).expect("UTF-8");
        let frames = text.split_terminator("\n\n").filter_map(|f| f.strip_prefix("data: {"));
        let chunks: Vec<Value> =
            frames.map(|f| serde_json::from_str(&format!("{{{f}")).expect("JSON")).collect();
        let streamed: String =
            chunks.iter().filter_map(|chunk| chunk["choices"][0]["text"].as_str()).collect();
        assert_eq!(whole["choices"][0]["text"], streamed);
        assert_eq!(chunks.last().expect("chunks")["usage"], whole["usage"]);
        assert!(text.ends_with("data: [DONE]\n\n"));
    }

    #[test]
    fn bad_requests_name_the_field() {
        for (change, param) in [
            (json!({"prompt": 5}), "prompt"),
            (json!({"prompt": []}), "prompt"),
            (json!({"prompt": ["a", 1]}), "prompt[1]"),
            (json!({"prompt": [1, "a"]}), "prompt"),
            (json!({"n": 3, "best_of": 2}), "best_of"),
            (json!({"logprobs": true}), "logprobs"),
            (json!({"model": 1}), "model"),
        ] {
            let mut body = json!({"model": "m", "prompt": "x"});
            if let (Value::Object(body), Value::Object(change)) = (&mut body, change) {
                body.extend(change);
            }
            assert_eq!(bytes(&body).expect_err(param).param.as_deref(), Some(param));
        }
    }
}
