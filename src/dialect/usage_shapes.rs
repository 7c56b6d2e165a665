//! The usage objects of all dialects: how each counts, as the one set of disjoint units.
//!
//! OpenAI's own are read in `usage.rs`, on the path of every answer and without an allocation. Those
//! of the other dialects count otherwise: Anthropic and Bedrock leave what was cached out of the
//! input, Gemini leaves thoughts out of the output, most of the time.

use serde_json::Value;

use super::endpoint::Endpoint;
use super::usage::{ABSURD, Units, Usage, count, take};

/// Whose usage object it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UsageShape {
    /// OpenAI's, of an answer of that endpoint, and those of compatible servers.
    OpenAi(Endpoint),
    /// OpenAI's of a transcription: tokens, or seconds.
    Transcription,
    /// OpenAI's of one response of a realtime session.
    Realtime,
    /// Anthropic's: of a message, or of a whole stream merged.
    Anthropic,
    /// Gemini's `usageMetadata`.
    Gemini,
    /// Bedrock's of the Converse API.
    Bedrock,
}

/// Why there is nothing to bill by. The caller estimates, and flags the record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoUsage {
    /// No object, no counts, or only zeros.
    Missing,
    /// A main count is negative, no integer, or larger than any one request's.
    Absurd,
}

/// The units that an answer with this usage object is billed by. Details that disagree with the
/// totals are cut to fit, never below zero; a detail that makes no sense counts as missing.
///
/// # Errors
/// There is nothing to bill by.
pub fn units(shape: UsageShape, raw: &[u8]) -> Result<Units, NoUsage> {
    let value: Value = serde_json::from_slice(raw).map_err(|_| NoUsage::Missing)?;
    let units = match shape {
        UsageShape::OpenAi(endpoint) => return openai(&value, raw, endpoint),
        UsageShape::Transcription | UsageShape::Realtime => {
            return openai(&value, raw, Endpoint::ChatCompletions);
        }
        UsageShape::Anthropic => anthropic(&value)?,
        UsageShape::Gemini => gemini(&value)?,
        UsageShape::Bedrock => bedrock(&value)?,
    };
    let all = units.input().saturating_add(units.output());
    match all {
        0 => Err(NoUsage::Missing),
        1..=ABSURD => Ok(units),
        _ => Err(NoUsage::Absurd),
    }
}

fn openai(value: &Value, raw: &[u8], endpoint: Endpoint) -> Result<Units, NoUsage> {
    let names = [
        "prompt_tokens",
        "input_tokens",
        "completion_tokens",
        "output_tokens",
        "total_tokens",
        "search_units",
        "seconds",
    ];
    let says_something = |name| !matches!(value.get(name), None | Some(Value::Null));
    let is_zero = |name| value[name].as_u64() == Some(0);
    match Usage::parse(raw) {
        Some(usage) => Ok(usage.units(endpoint)),
        None if names.iter().any(|name| says_something(name) && !is_zero(name)) => {
            Err(NoUsage::Absurd)
        }
        None => Err(NoUsage::Missing),
    }
}

fn anthropic(usage: &Value) -> Result<Units, NoUsage> {
    // Each iteration of an answer, such as a compaction before the message, is billed; the counts
    // at the top are those of the last.
    let iterations = usage["iterations"].as_array().filter(|entries| !entries.is_empty());
    let entries = iterations.map_or(std::slice::from_ref(usage), |entries| &entries[..]);
    let mut units = Units::default();
    let (mut written, mut output, mut hours, mut thoughts) = (0u64, 0u64, None, None);
    for entry in entries {
        let hour = &entry["cache_creation"]["ephemeral_1h_input_tokens"];
        let minutes = &entry["cache_creation"]["ephemeral_5m_input_tokens"];
        let split = detail(hour) + detail(minutes);
        written += main(&entry["cache_creation_input_tokens"])?.unwrap_or(split);
        units.in_text += main(&entry["input_tokens"])?.unwrap_or(0);
        units.in_cache_read += main(&entry["cache_read_input_tokens"])?.unwrap_or(0);
        output += main(&entry["output_tokens"])?.unwrap_or(0);
        let thinking = &entry["output_tokens_details"]["thinking_tokens"];
        for (sum, part) in [(&mut hours, hour), (&mut thoughts, thinking)] {
            if !part.is_null() {
                *sum = Some(sum.unwrap_or(0) + detail(part));
            }
        }
    }
    // Iterations need not repeat how the sums are made up.
    let top = &usage["cache_creation"]["ephemeral_1h_input_tokens"];
    let hours = hours.unwrap_or_else(|| detail(top));
    let top = &usage["output_tokens_details"]["thinking_tokens"];
    let thoughts = thoughts.unwrap_or_else(|| detail(top));
    units.in_cache_write_1h = take(&mut written, Some(hours));
    units.in_cache_write_5m = written;
    units.out_reasoning = take(&mut output, Some(thoughts));
    units.out_text = output;
    units.web_search = detail(&usage["server_tool_use"]["web_search_requests"]);
    Ok(units)
}

fn gemini(usage: &Value) -> Result<Units, NoUsage> {
    let number = |name: &str| main(&usage[name]).map(|count| count.unwrap_or(0));
    let (prompt, thoughts) = (number("promptTokenCount")?, number("thoughtsTokenCount")?);
    let tool = number("toolUsePromptTokenCount")?;
    let mut answer = number("candidatesTokenCount")?;
    let total = main(&usage["totalTokenCount"])?;
    if thoughts > 0 && total == Some(prompt + answer + tool) {
        // This model counted its thoughts among the candidates.
        answer = answer.saturating_sub(thoughts);
    }
    let modality = |list: &str, name: &str| -> u64 {
        let of_name = |part: &&Value| part["modality"].as_str() == Some(name);
        let parts = usage[list].as_array().map_or(&[][..], |parts| parts);
        parts.iter().filter(of_name).map(|part| detail(&part["tokenCount"])).sum()
    };
    let cached = number("cachedContentTokenCount")?.min(prompt);
    let mut units = Units { in_tool: tool, out_reasoning: thoughts, ..Units::default() };
    let mut room = cached;
    units.in_cache_read_audio = take(&mut room, Some(modality("cacheTokensDetails", "AUDIO")));
    units.in_cache_read = room;

    let mut room = prompt - cached;
    for (name, unit) in [
        ("AUDIO", &mut units.in_audio),
        ("IMAGE", &mut units.in_image),
        ("VIDEO", &mut units.in_video),
    ] {
        let whole = modality("promptTokensDetails", name);
        let uncached = whole.saturating_sub(modality("cacheTokensDetails", name));
        *unit = take(&mut room, Some(uncached));
    }
    units.in_text = room;

    let mut room = answer;
    units.out_audio = take(&mut room, Some(modality("candidatesTokensDetails", "AUDIO")));
    units.out_image = take(&mut room, Some(modality("candidatesTokensDetails", "IMAGE")));
    units.out_text = room;
    Ok(units)
}

fn bedrock(usage: &Value) -> Result<Units, NoUsage> {
    let number = |name: &str| main(&usage[name]).map(|count| count.unwrap_or(0));
    let details = usage["cacheDetails"].as_array().map_or(&[][..], |details| details);
    let of_an_hour = details.iter().filter(|part| part["ttl"].as_str() == Some("1h"));
    let hours = of_an_hour.map(|part| detail(&part["inputTokens"])).sum();
    let mut written = number("cacheWriteInputTokens")?;
    Ok(Units {
        in_text: number("inputTokens")?,
        in_cache_read: number("cacheReadInputTokens")?,
        in_cache_write_1h: take(&mut written, Some(hours)),
        in_cache_write_5m: written,
        out_text: number("outputTokens")?,
        ..Units::default()
    })
}

/// A count that money hangs on; one that makes no sense spoils the whole.
fn main(value: &Value) -> Result<Option<u64>, NoUsage> {
    match value {
        Value::Null => Ok(None),
        Value::Number(number) => count(number.to_string().as_bytes()).map_err(|()| NoUsage::Absurd),
        _ => Err(NoUsage::Absurd),
    }
}

/// A count within another; one that makes no sense is 0.
fn detail(value: &Value) -> u64 {
    main(value).ok().flatten().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const VECTORS: &str = include_str!("../../tests/samples/usage-vectors.json");

    fn named(units: &Units) -> serde_json::Map<String, Value> {
        let all = [
            ("in_text", units.in_text),
            ("in_audio", units.in_audio),
            ("in_image", units.in_image),
            ("in_video", units.in_video),
            ("in_tool", units.in_tool),
            ("in_cache_read", units.in_cache_read),
            ("in_cache_read_audio", units.in_cache_read_audio),
            ("in_cache_write_5m", units.in_cache_write_5m),
            ("in_cache_write_1h", units.in_cache_write_1h),
            ("in_cache_write_other", units.in_cache_write_other),
            ("out_text", units.out_text),
            ("out_reasoning", units.out_reasoning),
            ("out_audio", units.out_audio),
            ("out_image", units.out_image),
            ("web_search", units.web_search),
            ("seconds_in_milli", units.seconds_in_milli),
            ("chars_in", units.chars_in),
            ("images_out", units.images_out),
            ("search_units", units.search_units),
        ];
        let used = all.into_iter().filter(|(_, count)| *count > 0);
        used.map(|(name, count)| (name.to_owned(), json!(count))).collect()
    }

    fn read(shape: UsageShape, usage: Value) -> Result<Value, NoUsage> {
        units(shape, usage.to_string().as_bytes()).map(|units| Value::Object(named(&units)))
    }

    #[test]
    fn all_vectors_come_out_in_units() {
        let vectors: Value = serde_json::from_str(VECTORS).expect("json");
        let vectors = vectors["vectors"].as_array().expect("vectors");
        assert_eq!(vectors.len(), 20);
        for vector in vectors {
            let shape = match vector["dialect"].as_str().expect("a dialect") {
                "openai_chat" => UsageShape::OpenAi(Endpoint::ChatCompletions),
                "openai_responses" => UsageShape::OpenAi(Endpoint::Responses),
                "images" => UsageShape::OpenAi(Endpoint::ImageGenerations),
                "transcription" => UsageShape::Transcription,
                "realtime" => UsageShape::Realtime,
                "anthropic" => UsageShape::Anthropic,
                "gemini" => UsageShape::Gemini,
                "bedrock" => UsageShape::Bedrock,
                other => panic!("{other}"),
            };
            let mut want = vector["units"].as_object().expect("units").clone();
            assert_eq!(want.remove("requests"), Some(json!(1)));
            if let Some(seconds) = want.remove("seconds_in") {
                let milli = seconds.as_u64().expect("seconds") * 1000;
                want.insert("seconds_in_milli".to_owned(), json!(milli));
            }
            let got = read(shape, vector["usage"].clone());
            assert_eq!(got, Ok(Value::Object(want)), "{}", vector["name"]);
        }
    }

    #[test]
    fn details_never_exceed_their_totals() {
        let anthropic = read(
            UsageShape::Anthropic,
            json!({
                "input_tokens": 1, "output_tokens": 5, "cache_creation_input_tokens": 10,
                "cache_creation": {"ephemeral_1h_input_tokens": 99},
                "output_tokens_details": {"thinking_tokens": 7},
            }),
        );
        let want = json!({"in_text": 1, "in_cache_write_1h": 10, "out_reasoning": 5});
        assert_eq!(anthropic, Ok(want));
        let gemini = read(
            UsageShape::Gemini,
            json!({
                "promptTokenCount": 10, "cachedContentTokenCount": 99, "candidatesTokenCount": 3,
                "promptTokensDetails": [{"modality": "AUDIO", "tokenCount": 50}, 7],
                "candidatesTokensDetails": [{"modality": "IMAGE", "tokenCount": 50}],
            }),
        );
        assert_eq!(gemini, Ok(json!({"in_cache_read": 10, "out_image": 3})));
        let bedrock = read(
            UsageShape::Bedrock,
            json!({
                "inputTokens": 1, "cacheWriteInputTokens": 5,
                "cacheDetails": [{"ttl": "1h", "inputTokens": 9}],
            }),
        );
        assert_eq!(bedrock, Ok(json!({"in_text": 1, "in_cache_write_1h": 5})));
    }

    #[test]
    fn iterations_share_what_only_the_top_tells() {
        let usage = json!({
            "input_tokens": 1, "output_tokens": 1,
            "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
            "output_tokens_details": {"thinking_tokens": 4},
            "server_tool_use": {"web_search_requests": 1},
            "iterations": [
                {"input_tokens": 5, "output_tokens": 6, "cache_creation_input_tokens": 25},
                {"input_tokens": 7, "output_tokens": 8, "cache_creation_input_tokens": 5},
            ],
        });
        let want = json!({
            "in_text": 12, "in_cache_write_5m": 10, "in_cache_write_1h": 20, "out_text": 10,
            "out_reasoning": 4, "web_search": 1,
        });
        assert_eq!(read(UsageShape::Anthropic, usage), Ok(want));
    }

    #[test]
    fn cached_media_of_gemini_are_not_counted_twice() {
        let usage = json!({
            "promptTokenCount": 300, "cachedContentTokenCount": 120, "candidatesTokenCount": 9,
            "promptTokensDetails": [
                {"modality": "TEXT", "tokenCount": 50}, {"modality": "AUDIO", "tokenCount": 150},
                {"modality": "VIDEO", "tokenCount": 100},
            ],
            "cacheTokensDetails": [
                {"modality": "AUDIO", "tokenCount": 100}, {"modality": "VIDEO", "tokenCount": 20},
            ],
            "candidatesTokensDetails": [{"modality": "AUDIO", "tokenCount": 4}],
        });
        let want = json!({
            "in_text": 50, "in_audio": 50, "in_video": 80, "in_cache_read": 20,
            "in_cache_read_audio": 100, "out_text": 5, "out_audio": 4,
        });
        assert_eq!(read(UsageShape::Gemini, usage), Ok(want));
    }

    #[test]
    fn case_25_absurd_usage_is_told_from_missing_usage() {
        use UsageShape::{Anthropic, Bedrock, Gemini, OpenAi, Transcription};
        let chat = OpenAi(Endpoint::ChatCompletions);
        for absurd in [json!(-1), json!(1.5), json!(1_000_000_001), json!("9"), json!([1])] {
            for (shape, name) in [
                (chat, "prompt_tokens"),
                (Transcription, "seconds"),
                (Anthropic, "input_tokens"),
                (Anthropic, "cache_creation_input_tokens"),
                (Gemini, "thoughtsTokenCount"),
                (Gemini, "cachedContentTokenCount"),
                (Bedrock, "cacheReadInputTokens"),
            ] {
                if name == "seconds" && absurd == json!(1.5) {
                    continue;
                }
                let usage = json!({name: absurd});
                assert_eq!(read(shape, usage), Err(NoUsage::Absurd), "{name} {absurd}");
            }
        }
        let sum = json!({"iterations": [
            {"input_tokens": 900_000_000}, {"input_tokens": 900_000_000}]});
        assert_eq!(read(Anthropic, sum), Err(NoUsage::Absurd));
        for shape in [chat, Transcription, Anthropic, Gemini, Bedrock] {
            for text in ["", "null", "[]", "{", "{}", "7", r#"{"input_tokens":0}"#] {
                let got = units(shape, text.as_bytes());
                assert_eq!(got, Err(NoUsage::Missing), "{shape:?} {text}");
            }
        }
    }
}
