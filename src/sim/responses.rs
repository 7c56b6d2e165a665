//! `POST /responses`: one document, or events in their full order with consecutive numbers.

use serde_json::Value;

use crate::sim::behaviour::Fault;
use crate::sim::json::{Object, push_list};
use crate::sim::plan::{Call, Job, Plan, Usage};
use crate::sim::refusal::Refusal;
use crate::sim::responses_ask::{ResponsesAsk, read_responses};
use crate::sim::script::{Kind, Script, step_tokens};
use crate::sim::text::{TOKEN_BYTES, pieces};

const ARGUMENT_BYTES: usize = 8;

/// Checks the request and writes the answer.
pub(super) fn answer(body: &Value, job: &Job<'_>) -> Result<Script, Refusal> {
    let read = read_responses(body, job)?;
    let plans = read.ask.plans(job);
    let usage = read.ask.usage(job, &plans);
    let mut reply = Reply { read: &read, job, usage, items: items(&plans, job), cut: false };
    reply.cut = plans.iter().any(|plan| plan.cut);
    let told = (job.fault != Fault::NoUsage).then_some(usage);
    if read.ask.stream {
        return Ok(reply.stream().telling(told));
    }
    let mut out = Vec::new();
    reply.write(&mut out, true);
    Ok(Script::document(out, usage.completion).telling(told))
}

/// One element of `output`.
struct Item {
    id: String,
    content: Content,
}

enum Content {
    Reasoning(String),
    Message(String),
    Call(Call),
}

fn items(plans: &[Plan], job: &Job<'_>) -> Vec<Item> {
    let mut items = Vec::new();
    let mut push = |prefix: &str, content: Content| {
        let id = format!("{prefix}_{}{:02x}", job.unique, items.len());
        items.push(Item { id, content });
    };
    for plan in plans {
        if !plan.reasoning.is_empty() {
            push("rs", Content::Reasoning(plan.reasoning.clone()));
        }
        if plan.calls.is_empty() {
            push("msg", Content::Message(plan.text.clone()));
        }
        for call in &plan.calls {
            let prefix = if call.custom { "ctc" } else { "fc" };
            push(prefix, Content::Call(call.clone()));
        }
    }
    items
}

/// An answer before it is written.
struct Reply<'a> {
    read: &'a ResponsesAsk,
    job: &'a Job<'a>,
    usage: Usage,
    items: Vec<Item>,
    /// The token limit ended it.
    cut: bool,
}

/// Events so far.
struct Events {
    script: Script,
    number: u64,
}

impl Events {
    /// One event; `write` adds the fields between `type` and `sequence_number`.
    fn push(
        &mut self,
        kind: Kind,
        tokens: u32,
        name: &str,
        write: impl for<'o> FnOnce(Object<'o>) -> Object<'o>,
    ) {
        let number = self.number;
        self.number += 1;
        self.script.step(kind, tokens, |out| {
            out.extend_from_slice(b"event: ");
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(b"\ndata: ");
            write(Object::new(out).field("type", name)).field("sequence_number", number).end();
            out.extend_from_slice(b"\n\n");
        });
    }
}

impl Reply<'_> {
    fn status(&self) -> &'static str {
        if self.cut { "incomplete" } else { "completed" }
    }

    /// The response object: as it begins, or as it ends.
    fn write(&self, out: &mut Vec<u8>, ended: bool) {
        let ResponsesAsk { ask, .. } = self.read;
        let (status, items) =
            if ended { (self.status(), &self.items[..]) } else { ("in_progress", &[][..]) };
        let head = Object::new(out)
            .field("id", format_args!("resp_{}", self.job.unique))
            .field("object", "response")
            .field("created_at", self.job.created)
            .field("status", status)
            .field("background", false)
            .field("error", ())
            .nest("incomplete_details", |out| {
                if ended && self.cut {
                    Object::new(out).field("reason", "max_output_tokens").end();
                } else {
                    out.extend_from_slice(b"null");
                }
            })
            .field("instructions", &self.read.instructions)
            .field("max_output_tokens", &self.read.max_output_tokens)
            .field("model", &ask.model)
            .nest("output", |out| {
                let last = items.len().saturating_sub(1);
                push_list(out, items.iter().enumerate(), |out, (at, item)| {
                    let status = if at == last { status } else { "completed" };
                    item.write(out, status);
                });
            })
            .field("parallel_tool_calls", self.read.parallel_tool_calls)
            .field("previous_response_id", &self.read.previous_response_id)
            .field("reasoning", &self.read.reasoning)
            .field("service_tier", ask.tier)
            .field("store", self.read.store)
            .field("temperature", self.read.temperature)
            .field("text", &self.read.text)
            .field("tool_choice", &self.read.tool_choice)
            .field("tools", &self.read.tools)
            .field("top_p", self.read.top_p)
            .field("truncation", "disabled");
        let with_usage = ended && self.job.fault != Fault::NoUsage;
        let head = match with_usage {
            true => head.nest("usage", |out| self.usage.write_responses(out)),
            false => head.field("usage", ()),
        };
        head.field("metadata", &self.read.metadata).end();
    }

    fn stream(&self) -> Script {
        let mut events = Events { script: Script::events(), number: 0 };
        for name in ["response.created", "response.in_progress"] {
            events.push(Kind::Opening, 0, name, |object| {
                object.nest("response", |out| self.write(out, false))
            });
        }
        let piece_bytes = self.read.ask.piece_bytes(self.job);
        for (index, item) in self.items.iter().enumerate() {
            events.push(Kind::Opening, 0, "response.output_item.added", |object| {
                object.field("output_index", index).nest("item", |out| item.write_empty(out))
            });
            match &item.content {
                Content::Reasoning(text) => item.stream_reasoning(&mut events, index, text),
                Content::Message(text) => item.stream_text(&mut events, index, text, piece_bytes),
                Content::Call(call) => item.stream_call(&mut events, index, call),
            }
            let last = index + 1 == self.items.len();
            let status = if last { self.status() } else { "completed" };
            // After all content, but not what makes the answer complete.
            events.push(Kind::Opening, 0, "response.output_item.done", |object| {
                object.field("output_index", index).nest("item", |out| item.write(out, status))
            });
        }
        let name = if self.cut { "response.incomplete" } else { "response.completed" };
        events.push(Kind::Closing, 0, name, |object| {
            object.nest("response", |out| self.write(out, true))
        });
        events.script
    }
}

impl Item {
    fn write(&self, out: &mut Vec<u8>, status: &str) {
        match &self.content {
            Content::Reasoning(text) => {
                self.open(out, "reasoning")
                    .nest("summary", |out| push_list(out, [text], |out, t| write_summary(out, t)))
                    .end();
            }
            Content::Message(text) => {
                self.open(out, "message")
                    .field("status", status)
                    .field("role", "assistant")
                    .nest("content", |out| push_list(out, [text], |out, t| write_part(out, t)))
                    .end();
            }
            Content::Call(call) => self.write_call(out, call, status, &call.arguments),
        }
    }

    /// As it is when it is added.
    fn write_empty(&self, out: &mut Vec<u8>) {
        match &self.content {
            Content::Reasoning(_) => {
                let none = |out: &mut Vec<u8>| out.extend_from_slice(b"[]");
                self.open(out, "reasoning").nest("summary", none).end();
            }
            Content::Message(_) => {
                self.open(out, "message")
                    .field("status", "in_progress")
                    .field("role", "assistant")
                    .nest("content", |out| out.extend_from_slice(b"[]"))
                    .end();
            }
            Content::Call(call) => self.write_call(out, call, "in_progress", ""),
        }
    }

    fn open<'o>(&self, out: &'o mut Vec<u8>, kind: &str) -> Object<'o> {
        Object::new(out).field("id", &self.id).field("type", kind)
    }

    fn write_call(&self, out: &mut Vec<u8>, call: &Call, status: &str, input: &str) {
        let (kind, field) = if call.custom {
            ("custom_tool_call", "input")
        } else {
            ("function_call", "arguments")
        };
        self.open(out, kind)
            .field("status", status)
            .field("call_id", &call.id)
            .field("name", &call.name)
            .field(field, input)
            .end();
    }

    fn stream_reasoning(&self, events: &mut Events, index: usize, text: &str) {
        events.push(Kind::Opening, 0, "response.reasoning_summary_part.added", |object| {
            self.place(object, index, "summary_index").nest("part", |out| write_summary(out, ""))
        });
        for piece in pieces(text, TOKEN_BYTES) {
            let name = "response.reasoning_summary_text.delta";
            events.push(Kind::Content, step_tokens(piece), name, |object| {
                self.place(object, index, "summary_index").field("delta", piece)
            });
        }
        events.push(Kind::Opening, 0, "response.reasoning_summary_text.done", |object| {
            self.place(object, index, "summary_index").field("text", text)
        });
        events.push(Kind::Opening, 0, "response.reasoning_summary_part.done", |object| {
            self.place(object, index, "summary_index").nest("part", |out| write_summary(out, text))
        });
    }

    fn stream_text(&self, events: &mut Events, index: usize, text: &str, piece_bytes: usize) {
        let none = |out: &mut Vec<u8>| out.extend_from_slice(b"[]");
        events.push(Kind::Opening, 0, "response.content_part.added", |object| {
            self.place(object, index, "content_index").nest("part", |out| write_part(out, ""))
        });
        for piece in pieces(text, piece_bytes) {
            events.push(
                Kind::Content,
                step_tokens(piece),
                "response.output_text.delta",
                |object| {
                    let object = self.place(object, index, "content_index");
                    object.field("delta", piece).nest("logprobs", none)
                },
            );
        }
        events.push(Kind::Opening, 0, "response.output_text.done", |object| {
            let object = self.place(object, index, "content_index");
            object.field("text", text).nest("logprobs", none)
        });
        events.push(Kind::Opening, 0, "response.content_part.done", |object| {
            self.place(object, index, "content_index").nest("part", |out| write_part(out, text))
        });
    }

    fn stream_call(&self, events: &mut Events, index: usize, call: &Call) {
        let (delta, done) = if call.custom {
            ("response.custom_tool_call_input.delta", "response.custom_tool_call_input.done")
        } else {
            ("response.function_call_arguments.delta", "response.function_call_arguments.done")
        };
        let mut name_tokens = call.name_tokens() as u32;
        for piece in pieces(&call.arguments, ARGUMENT_BYTES) {
            let tokens = step_tokens(piece) + std::mem::take(&mut name_tokens);
            events.push(Kind::Content, tokens, delta, |object| {
                object.field("item_id", &self.id).field("output_index", index).field("delta", piece)
            });
        }
        events.push(Kind::Opening, 0, done, |object| {
            let object = object.field("item_id", &self.id).field("output_index", index);
            match call.custom {
                true => object.field("input", &call.arguments),
                false => object.field("name", &call.name).field("arguments", &call.arguments),
            }
        });
    }

    fn place<'o>(&self, object: Object<'o>, index: usize, inner: &str) -> Object<'o> {
        object.field("item_id", &self.id).field("output_index", index).field(inner, 0)
    }
}

fn write_summary(out: &mut Vec<u8>, text: &str) {
    Object::new(out).field("type", "summary_text").field("text", text).end();
}

fn write_part(out: &mut Vec<u8>, text: &str) {
    let none = |out: &mut Vec<u8>| out.extend_from_slice(b"[]");
    Object::new(out)
        .field("type", "output_text")
        .nest("annotations", none)
        .nest("logprobs", none)
        .field("text", text)
        .end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::settings::{Lengths, Settings};
    use serde_json::json;

    fn bytes(change: Value) -> Vec<u8> {
        let mut body = json!({"model": "m", "input": "hi"});
        if let (Value::Object(body), Value::Object(change)) = (&mut body, change) {
            body.extend(change);
        }
        let settings = Settings { tokens: Lengths::constant(20), ..Settings::default() };
        let unique = "0123456789abcdef0123456789abcdef";
        let job = Job { settings: &settings, body: b"", fault: Fault::None, unique, created: 7 };
        answer(&body, &job).expect("valid").bytes
    }

    fn events(mut change: Value) -> Vec<Value> {
        change["stream"] = json!(true);
        let text = String::from_utf8(bytes(change)).expect("UTF-8");
        let parse = |frame: &str| {
            let (event, data) = frame.split_once("\ndata: ").expect("two lines");
            let data: Value = serde_json::from_str(data).expect("JSON");
            assert_eq!(event.strip_prefix("event: "), data["type"].as_str());
            data
        };
        text.split_terminator("\n\n").map(parse).collect()
    }

    /// The types, with runs of one type shown once.
    fn order(events: &[Value]) -> Vec<&str> {
        let mut types: Vec<_> = events.iter().filter_map(|event| event["type"].as_str()).collect();
        types.dedup();
        types.iter().map(|name| name.strip_prefix("response.").unwrap_or(name)).collect()
    }

    #[test]
    fn a_thought_and_a_text_come_in_full_order() {
        let change = json!({"model": "reason"});
        let events = events(change.clone());
        let numbers: Vec<_> = events.iter().filter_map(|e| e["sequence_number"].as_u64()).collect();
        assert_eq!(numbers, (0..events.len() as u64).collect::<Vec<_>>());
        assert_eq!(
            order(&events),
            [
                "created",
                "in_progress",
                "output_item.added",
                "reasoning_summary_part.added",
                "reasoning_summary_text.delta",
                "reasoning_summary_text.done",
                "reasoning_summary_part.done",
                "output_item.done",
                "output_item.added",
                "content_part.added",
                "output_text.delta",
                "output_text.done",
                "content_part.done",
                "output_item.done",
                "completed",
            ]
        );
        let whole: Value = serde_json::from_slice(&bytes(change)).expect("JSON");
        assert_eq!(events.last().expect("events")["response"], whole);
        assert_eq!(whole["usage"]["output_tokens_details"]["reasoning_tokens"], 24);
        assert_eq!(whole["usage"]["output_tokens"], 44);
        let deltas = events.iter().filter(|e| e["type"] == "response.output_text.delta");
        let text: String = deltas.filter_map(|event| event["delta"].as_str()).collect();
        assert_eq!(whole["output"][1]["content"][0]["text"], text);
    }

    #[test]
    fn calls_come_one_after_the_other() {
        let tool = |name: &str| {
            let parameters = json!({"type": "object", "properties": {"a": {"type": "string"}}});
            json!({"type": "function", "name": name, "parameters": parameters})
        };
        let events = events(json!({"tools": [tool("f"), tool("g")], "tool_choice": "required"}));
        let call = [
            "output_item.added",
            "function_call_arguments.delta",
            "function_call_arguments.done",
            "output_item.done",
        ];
        let body = [&["created", "in_progress"][..], &call, &call, &["completed"]].concat();
        assert_eq!(order(&events), body);
        let done = events.iter().filter(|e| e["type"] == "response.function_call_arguments.done");
        let names: Vec<_> = done.map(|event| event["name"].clone()).collect();
        assert_eq!(names, ["f", "g"]);
    }

    #[test]
    fn the_limit_makes_it_incomplete() {
        let events = events(json!({"max_output_tokens": 16}));
        let last = events.last().expect("events");
        assert_eq!(last["type"], "response.incomplete");
        assert_eq!(last["response"]["incomplete_details"]["reason"], "max_output_tokens");
        assert_eq!(last["response"]["output"][0]["status"], "incomplete");
        assert_eq!(last["response"]["usage"]["output_tokens"], 16);
    }
}
