//! `POST /chat/completions`: one document, or chunks.

use serde_json::{Value, json};

use crate::sim::ask::read_chat;
use crate::sim::behaviour::Fault;
use crate::sim::json::{Object, push_json, push_list};
use crate::sim::plan::{Ask, Call, Job, Plan, Usage};
use crate::sim::refusal::Refusal;
use crate::sim::script::{Kind, Script, step_tokens};
use crate::sim::text::{TOKEN_BYTES, pieces};

/// Bytes of arguments in one delta: a few deltas even for a short call.
const ARGUMENT_BYTES: usize = 8;

/// Checks the request and writes the answer.
pub(super) fn answer(body: &Value, job: &Job<'_>) -> Result<Script, Refusal> {
    let ask = read_chat(body, job)?;
    let plans = ask.plans(job);
    let usage = ask.usage(job, &plans);
    let script = match ask.stream {
        true => stream(&ask, job, &plans, usage),
        false => document(&ask, job, &plans, usage),
    };
    Ok(script.telling(ask.told(job, usage)))
}

/// Why a choice ended.
fn finish_reason(plan: &Plan) -> &'static str {
    match plan {
        Plan { cut: true, .. } => "length",
        Plan { calls, .. } if calls.is_empty() => "stop",
        _ => "tool_calls",
    }
}

fn document(ask: &Ask, job: &Job<'_>, plans: &[Plan], usage: Usage) -> Script {
    let mut out = Vec::with_capacity(512);
    let head = Object::new(&mut out)
        .field("id", format_args!("chatcmpl-{}", job.unique))
        .field("object", "chat.completion")
        .field("created", job.created)
        .field("model", &ask.model)
        .nest("choices", |out| {
            push_list(out, plans.iter().enumerate(), |out, (index, plan)| {
                Object::new(out)
                    .field("index", index)
                    .nest("message", |out| write_message(out, plan))
                    .nest("logprobs", |out| write_logprobs(out, ask, &plan.text))
                    .field("finish_reason", finish_reason(plan))
                    .end();
            });
        });
    let head = match job.fault {
        Fault::NoUsage => head,
        _ => head.nest("usage", |out| usage.write_chat(out)),
    };
    head.field("service_tier", ask.tier).field("system_fingerprint", "fp_sim").end();
    Script::document(out, usage.completion)
}

fn write_message(out: &mut Vec<u8>, plan: &Plan) {
    let content = plan.calls.is_empty().then_some(&plan.text);
    let reasoning = (!plan.reasoning.is_empty()).then_some(&plan.reasoning);
    let message = Object::new(out)
        .field("role", "assistant")
        .field("content", content)
        .some("reasoning_content", reasoning)
        .field("refusal", ());
    if plan.calls.is_empty() {
        message.nest("annotations", |out| out.extend_from_slice(b"[]")).end();
    } else {
        message
            .nest("tool_calls", |out| {
                push_list(out, &plan.calls, |out, call| {
                    write_call(out, None, call, &call.arguments)
                });
            })
            .end();
    }
}

/// A call with its id and name; `index` only in streams.
fn write_call(out: &mut Vec<u8>, index: Option<usize>, call: &Call, input: &str) {
    let (kind, field) = kind_of(call);
    Object::new(out)
        .some("index", index)
        .field("id", &call.id)
        .field("type", kind)
        .nest(kind, |out| Object::new(out).field("name", &call.name).field(field, input).end())
        .end();
}

fn kind_of(call: &Call) -> (&'static str, &'static str) {
    if call.custom { ("custom", "input") } else { ("function", "arguments") }
}

/// `{"content":[…],"refusal":null}` for the tokens of `text`, or `null` when not asked for.
fn write_logprobs(out: &mut Vec<u8>, ask: &Ask, text: &str) {
    match ask.logprobs {
        Some(top) if !text.is_empty() => Object::new(out)
            .nest("content", |out| {
                push_list(out, pieces(text, TOKEN_BYTES), |out, piece| {
                    push_json(out, logprob(piece, top));
                });
            })
            .field("refusal", ())
            .end(),
        _ => out.extend_from_slice(b"null"),
    }
}

fn logprob(piece: &str, top: usize) -> Value {
    let first = -0.01 * (1 + piece.len() % 7) as f64;
    let one = |token: &str, logprob: f64| json!({"token": token, "logprob": logprob, "bytes": token.as_bytes()});
    let mut entry = one(piece, first);
    let others = (1..top).map(|at| one(&format!("~{at}"), first - at as f64));
    let alternatives = (top > 0).then(|| one(piece, first)).into_iter().chain(others);
    entry["top_logprobs"] = alternatives.collect();
    entry
}

/// One chunk's news for one choice.
enum Delta<'a> {
    Role,
    Reasoning(&'a str),
    Text(&'a str),
    CallStart(usize, &'a Call),
    CallInput(usize, &'a Call, &'a str),
    Finish(&'static str),
}

fn deltas<'a>(plan: &'a Plan, piece_bytes: usize) -> Vec<Delta<'a>> {
    let mut out = vec![Delta::Role];
    out.extend(pieces(&plan.reasoning, piece_bytes).map(Delta::Reasoning));
    out.extend(pieces(&plan.text, piece_bytes).map(Delta::Text));
    for (at, call) in plan.calls.iter().enumerate() {
        out.push(Delta::CallStart(at, call));
        let inputs = pieces(&call.arguments, ARGUMENT_BYTES);
        out.extend(inputs.map(|piece| Delta::CallInput(at, call, piece)));
    }
    out.push(Delta::Finish(finish_reason(plan)));
    out
}

/// What is the same in every chunk of one answer, and the count for cumulative usage.
struct Chunks<'a> {
    ask: &'a Ask,
    fault: Fault,
    usage: Usage,
    so_far: Usage,
    /// From `{` up to the colon of `"choices":`.
    head: Vec<u8>,
    script: Script,
}

fn stream(ask: &Ask, job: &Job<'_>, plans: &[Plan], usage: Usage) -> Script {
    let mut head = Vec::with_capacity(256);
    Object::new(&mut head)
        .field("id", format_args!("chatcmpl-{}", job.unique))
        .field("object", "chat.completion.chunk")
        .field("created", job.created)
        .field("model", &ask.model)
        .field("service_tier", ask.tier)
        .field("system_fingerprint", "fp_sim")
        .end();
    head.pop();
    head.extend_from_slice(br#","choices":"#);
    let so_far = Usage { completion: 0, reasoning: 0, ..usage };
    let fault = job.fault;
    let mut chunks = Chunks { ask, fault, usage, so_far, head, script: Script::events() };
    let piece_bytes = ask.piece_bytes(job);
    let mut choices: Vec<_> =
        plans.iter().map(|plan| (plan, deltas(plan, piece_bytes).into_iter())).collect();
    let mut left = choices.len();
    while left > 0 {
        for (index, (plan, deltas)) in choices.iter_mut().enumerate() {
            if let Some(delta) = deltas.next() {
                let last = left == 1 && matches!(delta, Delta::Finish(_));
                left -= usize::from(matches!(delta, Delta::Finish(_)));
                chunks.push(index, plan, &delta, last);
            }
        }
    }
    let at_finish = matches!(fault, Fault::NoUsage | Fault::FinishUsage);
    if ask.include_usage && !at_finish {
        let Chunks { script, head, .. } = &mut chunks;
        script.frame(Kind::Closing, 0, |out| {
            out.extend_from_slice(head);
            out.extend_from_slice(br#"[],"usage":"#);
            usage.write_chat(out);
            out.push(b'}');
        });
    }
    chunks.script.done();
    chunks.script
}

impl Chunks<'_> {
    fn push(&mut self, index: usize, plan: &Plan, delta: &Delta<'_>, last: bool) {
        let (kind, tokens) = match delta {
            Delta::Role => (Kind::Opening, 0),
            Delta::Reasoning(piece) | Delta::Text(piece) => (Kind::Content, step_tokens(piece)),
            Delta::CallStart(_, call) => (Kind::Content, call.name_tokens() as u32),
            Delta::CallInput(_, _, piece) => (Kind::Content, step_tokens(piece)),
            Delta::Finish(_) => (Kind::Closing, 0),
        };
        self.so_far.completion += u64::from(tokens);
        if matches!(delta, Delta::Reasoning(_)) {
            self.so_far.reasoning += u64::from(tokens);
        }
        let Chunks { ask, fault, usage, so_far, head, script } = self;
        script.frame(kind, tokens, |out| {
            out.extend_from_slice(head);
            out.push(b'[');
            let logprobs = if let Delta::Text(piece) = delta { piece } else { "" };
            let finish = if let Delta::Finish(reason) = delta { Some(*reason) } else { None };
            Object::new(out)
                .field("index", index)
                .nest("delta", |out| write_delta(out, plan, delta))
                .nest("logprobs", |out| write_logprobs(out, ask, logprobs))
                .field("finish_reason", finish)
                .end();
            out.push(b']');
            match fault {
                Fault::UsageEvery => write_usage(out, so_far),
                Fault::FinishUsage if last => write_usage(out, usage),
                Fault::NoUsage | Fault::FinishUsage => {}
                _ if ask.include_usage => out.extend_from_slice(br#","usage":null"#),
                _ => {}
            }
            out.push(b'}');
        });
    }
}

fn write_usage(out: &mut Vec<u8>, usage: &Usage) {
    out.extend_from_slice(br#","usage":"#);
    usage.write_chat(out);
}

fn write_delta(out: &mut Vec<u8>, plan: &Plan, delta: &Delta<'_>) {
    let object = Object::new(out);
    match delta {
        Delta::Role => {
            let content = plan.calls.is_empty().then_some("");
            object.field("role", "assistant").field("content", content).field("refusal", ())
        }
        Delta::Reasoning(piece) => object.field("reasoning_content", piece),
        Delta::Text(piece) => object.field("content", piece),
        Delta::CallStart(at, call) => object.nest("tool_calls", |out| {
            push_list(out, [call], |out, call| write_call(out, Some(*at), call, ""));
        }),
        Delta::CallInput(at, call, piece) => object.nest("tool_calls", |out| {
            let (kind, field) = kind_of(call);
            push_list(out, [piece], |out, piece| {
                Object::new(out)
                    .field("index", at)
                    .nest(kind, |out| Object::new(out).field(field, piece).end())
                    .end();
            });
        }),
        Delta::Finish(_) => object,
    }
    .end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::settings::{Lengths, Settings};

    fn script(change: Value, fault: Fault) -> Script {
        let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
        if let (Value::Object(body), Value::Object(change)) = (&mut body, change) {
            body.extend(change);
        }
        let settings = Settings { tokens: Lengths::constant(20), ..Settings::default() };
        let unique = "0123456789abcdef0123456789abcdef";
        let job = Job { settings: &settings, body: b"", fault, unique, created: 7 };
        answer(&body, &job).expect("valid")
    }

    fn unary(change: Value) -> Value {
        serde_json::from_slice(&script(change, Fault::None).bytes).expect("JSON")
    }

    fn chunks(mut change: Value, fault: Fault) -> Vec<Value> {
        change["stream"] = json!(true);
        let bytes = script(change, fault).bytes;
        let text = String::from_utf8(bytes).expect("UTF-8");
        let frames: Vec<_> = text.split_terminator("\n\n").collect();
        assert_eq!(frames.last(), Some(&"data: [DONE]"));
        let parse = |frame: &&str| {
            serde_json::from_str(frame.strip_prefix("data: ").expect("a data line")).expect("JSON")
        };
        frames[..frames.len() - 1].iter().map(parse).collect()
    }

    fn joined(chunks: &[Value], index: u64, field: &str) -> String {
        let choices = chunks.iter().flat_map(|c| c["choices"].as_array().expect("choices"));
        let own = choices.filter(|choice| choice["index"] == index);
        own.filter_map(|choice| choice["delta"][field].as_str()).collect()
    }

    #[test]
    fn a_stream_says_what_the_document_says() {
        for change in [json!({}), json!({"n": 3}), json!({"model": "reason", "max_tokens": 9})] {
            let whole = unary(change.clone());
            let mut with_usage = change.clone();
            with_usage["stream_options"] = json!({"include_usage": true});
            let chunks = chunks(with_usage, Fault::None);
            for choice in whole["choices"].as_array().expect("choices") {
                let index = choice["index"].as_u64().expect("index");
                let message = &choice["message"];
                assert_eq!(message["content"], joined(&chunks, index, "content"));
                let reasoning = message["reasoning_content"].as_str().unwrap_or_default();
                assert_eq!(reasoning, joined(&chunks, index, "reasoning_content"));
                assert_eq!("assistant", joined(&chunks, index, "role"));
            }
            let (last, others) = chunks.split_last().expect("chunks");
            assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &whole["usage"]));
            assert!(
                others.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some())
            );
        }
        assert!(chunks(json!({}), Fault::None).iter().all(|chunk| chunk.get("usage").is_none()));
    }

    #[test]
    fn the_limit_shows_in_finish_reason_and_usage() {
        let cut = unary(json!({"max_tokens": 5}));
        assert_eq!(cut["choices"][0]["finish_reason"], "length");
        assert_eq!(cut["usage"]["completion_tokens"], 5);
        let whole = unary(json!({"max_completion_tokens": 50}));
        assert_eq!(whole["choices"][0]["finish_reason"], "stop");
        assert_eq!(whole["usage"]["completion_tokens"], 20);
        assert_eq!(whole["choices"][0]["message"]["refusal"], Value::Null);
    }

    #[test]
    fn calls_are_streamed_in_pieces_with_one_id_and_name() {
        let parameters = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        let tool = |name: &str| json!({"type": "function", "function": {"name": name, "parameters": parameters}});
        let change = json!({"tools": [tool("rain"), tool("wind")], "tool_choice": "required"});
        let whole = unary(change.clone());
        assert_eq!(whole["choices"][0]["finish_reason"], "tool_calls");
        assert_eq!(whole["choices"][0]["message"]["content"], Value::Null);
        let calls = &whole["choices"][0]["message"]["tool_calls"];
        let streamed = chunks(change, Fault::None);
        for at in 0..2 {
            let deltas: Vec<_> = streamed
                .iter()
                .map(|chunk| &chunk["choices"][0]["delta"]["tool_calls"][0])
                .filter(|delta| delta["index"] == at)
                .collect();
            assert!(deltas.len() >= 3);
            let text = |field: &str| -> String {
                deltas.iter().filter_map(|d| d["function"][field].as_str()).collect()
            };
            assert_eq!(calls[at]["function"]["name"], text("name"));
            assert_eq!(calls[at]["function"]["arguments"], text("arguments"));
            assert_eq!(deltas.iter().filter(|delta| delta.get("id").is_some()).count(), 1);
            let arguments: Value = serde_json::from_str(&text("arguments")).expect("JSON");
            assert!(arguments["city"].is_string());
        }
    }

    #[test]
    fn usage_faults_move_the_usage() {
        let asked = json!({"stream_options": {"include_usage": true}});
        let total = unary(json!({}))["usage"]["completion_tokens"].clone();
        let every = chunks(json!({}), Fault::UsageEvery);
        let counts: Vec<_> = every
            .iter()
            .map(|c| c["usage"]["completion_tokens"].as_u64().expect("usage"))
            .collect();
        assert!(counts.is_sorted() && counts.last() == total.as_u64().as_ref());
        let finish = chunks(asked.clone(), Fault::FinishUsage);
        let (last, others) = finish.split_last().expect("chunks");
        assert_eq!(last["choices"][0]["finish_reason"], "stop");
        assert_eq!(last["usage"]["completion_tokens"], total);
        assert!(others.iter().all(|chunk| chunk.get("usage").is_none()));
        assert!(chunks(asked, Fault::NoUsage).iter().all(|chunk| chunk.get("usage").is_none()));
    }

    #[test]
    fn logprobs_cover_every_token() {
        let whole = unary(json!({"logprobs": true, "top_logprobs": 2}));
        let entries = whole["choices"][0]["logprobs"]["content"].as_array().expect("entries");
        let text: String = entries.iter().filter_map(|entry| entry["token"].as_str()).collect();
        assert_eq!(whole["choices"][0]["message"]["content"], text);
        assert_eq!(entries[0]["top_logprobs"].as_array().map(Vec::len), Some(2));
        let streamed = chunks(json!({"logprobs": true}), Fault::None);
        assert!(streamed[1]["choices"][0]["logprobs"]["content"][0]["bytes"].is_array());
    }

    #[test]
    fn structured_answers_parse() {
        let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}}});
        let format = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": schema}});
        let whole = unary(json!({"response_format": format}));
        let text = whole["choices"][0]["message"]["content"].as_str().expect("text");
        assert!(serde_json::from_str::<Value>(text).expect("JSON")["a"].is_i64());
    }
}
