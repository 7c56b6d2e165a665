//! Images and speech: opaque bytes in the right wrapping.

use serde_json::{Value, json};

use crate::sim::json::{Object, base64};
use crate::sim::plan::Job;
use crate::sim::refusal::Refusal;
use crate::sim::script::{Kind, Script};
use crate::sim::text::tokens_in;
use crate::sim::validate::{Fields, missing};

/// A valid PNG of one pixel.
const PNG: &[u8] = &[
    0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x48, 0x44, 0x52,
    0x00, 0x00, 0x00, 0x01, 0x00, 0x00, 0x00, 0x01, 0x08, 0x06, 0x00, 0x00, 0x00, 0x1f, 0x15, 0xc4,
    0x89, 0x00, 0x00, 0x00, 0x0d, 0x49, 0x44, 0x41, 0x54, 0x78, 0xda, 0x63, 0x64, 0xf8, 0xcf, 0x50,
    0x0f, 0x00, 0x03, 0x86, 0x01, 0x80, 0x5a, 0x34, 0x7d, 0x6b, 0x00, 0x00, 0x00, 0x00, 0x49, 0x45,
    0x4e, 0x44, 0xae, 0x42, 0x60, 0x82,
];

const IMAGE_TOKENS: u64 = 272;
const SPEECH_BYTES_PER_CHARACTER: usize = 400;
const SPEECH_PIECE_BYTES: usize = 4096;
const SPEECH_CHARACTERS_MAX: usize = 4096;

/// `POST /images/generations`.
pub(super) fn images(body: &Value, job: &Job<'_>) -> Result<Script, Refusal> {
    let fields = Fields::of_body(body)?;
    let known = [
        "prompt",
        "model",
        "n",
        "size",
        "quality",
        "response_format",
        "output_format",
        "output_compression",
        "background",
        "moderation",
        "style",
        "stream",
        "partial_images",
        "user",
    ];
    fields.refuse_unknown(&known, job.settings.refuse_unknown_fields)?;
    let prompt = fields.required_text("prompt")?;
    fields.text("model")?;
    let n = fields.integer("n", 1, 10)?.unwrap_or(1);
    let size = fields.text("size")?.unwrap_or("1024x1024");
    let known = ["auto", "low", "medium", "high", "standard", "hd"];
    let quality = fields.one_of("quality", &known)?.unwrap_or("low");
    let as_url = fields.one_of("response_format", &["url", "b64_json"])? == Some("url");
    fields.one_of("output_format", &["png", "jpeg", "webp"])?;
    let stream = fields.flag("stream")?.unwrap_or(false);
    let partial = fields.integer("partial_images", 0, 3)?;
    if partial.is_some() && !stream {
        let message = "The 'partial_images' parameter is only allowed when 'stream' is enabled.";
        return Err(fields.unfit("partial_images", message));
    }
    let prompt_tokens = tokens_in(prompt.len());
    let output_tokens = IMAGE_TOKENS * n as u64;
    let usage = json!({
        "input_tokens": prompt_tokens,
        "input_tokens_details": {"text_tokens": prompt_tokens, "image_tokens": 0},
        "output_tokens": output_tokens,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": output_tokens},
        "total_tokens": prompt_tokens + output_tokens
    });
    let picture = Picture { created: job.created, size, quality };
    if stream {
        return Ok(picture.stream(partial.unwrap_or(0), &usage));
    }
    let one = match as_url {
        true => json!({"url": "https://images.example.com/simulated.png"}),
        false => json!({"b64_json": base64(PNG)}),
    };
    let mut out = Vec::new();
    picture
        .write(Object::new(&mut out))
        .field("data", vec![one; n as usize])
        .field("usage", usage)
        .end();
    Ok(Script::document(out, 1))
}

struct Picture<'a> {
    created: u64,
    size: &'a str,
    quality: &'a str,
}

impl Picture<'_> {
    fn write<'o>(&self, object: Object<'o>) -> Object<'o> {
        object
            .field("created", self.created)
            .field("background", "opaque")
            .field("output_format", "png")
            .field("quality", self.quality)
            .field("size", self.size)
    }

    fn stream(&self, partial: i64, usage: &Value) -> Script {
        let mut script = Script::events();
        let mut push = |kind: Kind, name: &str, index: Option<i64>, usage: Option<&Value>| {
            script.step(kind, 0, |out| {
                out.extend_from_slice(b"event: ");
                out.extend_from_slice(name.as_bytes());
                out.extend_from_slice(b"\ndata: ");
                Object::new(out)
                    .field("type", name)
                    .field("b64_json", base64(PNG))
                    .field("created_at", self.created)
                    .field("size", self.size)
                    .field("quality", self.quality)
                    .field("background", "opaque")
                    .field("output_format", "png")
                    .some("partial_image_index", index)
                    .some("usage", usage)
                    .end();
                out.extend_from_slice(b"\n\n");
            });
        };
        for index in 0..partial {
            push(Kind::Content, "image_generation.partial_image", Some(index), None);
        }
        push(Kind::Closing, "image_generation.completed", None, Some(usage));
        script
    }
}

/// `POST /audio/speech`.
pub(super) fn speech(body: &Value, job: &Job<'_>) -> Result<Script, Refusal> {
    let fields = Fields::of_body(body)?;
    let known =
        ["model", "voice", "input", "instructions", "response_format", "speed", "stream_format"];
    fields.refuse_unknown(&known, job.settings.refuse_unknown_fields)?;
    fields.required_text("model")?;
    let input = fields.required_text("input")?;
    if input.chars().count() > SPEECH_CHARACTERS_MAX {
        let message = format!(
            "Invalid 'input': string too long. Expected a string with maximum length {SPEECH_CHARACTERS_MAX}."
        );
        return Err(Refusal::bad("input", Some("string_above_max_length"), message));
    }
    match fields.value("voice") {
        Some(Value::Object(_)) => {}
        Some(_) => drop(fields.required_text("voice")?),
        None => return Err(missing("voice".to_owned())),
    }
    fields.text("instructions")?;
    fields.number("speed", 0.25, 4.0)?;
    let formats = ["mp3", "opus", "aac", "flac", "wav", "pcm"];
    let format = fields.one_of("response_format", &formats)?.unwrap_or("mp3");
    let events = fields.one_of("stream_format", &["audio", "sse"])? == Some("sse");
    let sound = sound(input, format);
    let pieces = sound.chunks(SPEECH_PIECE_BYTES);
    if !events {
        let mut script = Script::pieces(content_type(format));
        let last = pieces.len() - 1;
        for (at, piece) in pieces.enumerate() {
            // The last piece is what makes it complete.
            let kind = if at == last && at > 0 { Kind::Closing } else { Kind::Content };
            script.step(kind, 0, |out| out.extend_from_slice(piece));
        }
        return Ok(script);
    }
    let mut script = Script::events();
    let (input_tokens, output_tokens) = (tokens_in(input.len()), pieces.len() as u64 * 10);
    for piece in pieces {
        script.frame(Kind::Content, 10, |out| {
            Object::new(out)
                .field("type", "speech.audio.delta")
                .field("audio", base64(piece))
                .end();
        });
    }
    let usage = json!({"input_tokens": input_tokens, "output_tokens": output_tokens,
        "total_tokens": input_tokens + output_tokens});
    script.frame(Kind::Closing, 0, |out| {
        Object::new(out).field("type", "speech.audio.done").field("usage", usage).end();
    });
    Ok(script)
}

fn content_type(format: &str) -> &'static str {
    match format {
        "opus" => "audio/ogg",
        "aac" => "audio/aac",
        "flac" => "audio/flac",
        "wav" => "audio/wav",
        "pcm" => "audio/pcm",
        _ => "audio/mpeg",
    }
}

/// Bytes that depend on the input, behind the mark of their format; nothing one could listen to.
fn sound(input: &str, format: &str) -> Vec<u8> {
    let mark: &[u8] = match format {
        "opus" => b"OggS",
        "aac" => b"\xff\xf1",
        "flac" => b"fLaC",
        "wav" => b"RIFF\xff\xff\xff\xffWAVEfmt ",
        "pcm" => b"",
        _ => b"ID3\x04",
    };
    let noise = input.bytes().cycle().zip(0u8..=255).map(|(a, b)| a ^ b);
    let length = input.chars().count() * SPEECH_BYTES_PER_CHARACTER;
    let noise: Vec<u8> = noise.collect();
    mark.iter().copied().chain(noise.iter().copied().cycle().take(length)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::behaviour::Fault;
    use crate::sim::settings::Settings;

    type Answer = fn(&Value, &Job<'_>) -> Result<Script, Refusal>;

    fn run(answer: Answer, body: Value) -> Result<Script, Refusal> {
        let settings = Settings::default();
        let unique = "0123456789abcdef0123456789abcdef";
        let job = Job { settings: &settings, body: b"", fault: Fault::None, unique, created: 7 };
        answer(&body, &job)
    }

    #[test]
    fn images_come_as_documents_and_streams() {
        let script = run(images, json!({"prompt": "a tower", "n": 2})).expect("valid");
        let whole: Value = serde_json::from_slice(&script.bytes).expect("JSON");
        assert_eq!(whole["data"].as_array().map(Vec::len), Some(2));
        assert!(whole["data"][0]["b64_json"].as_str().expect("data").starts_with("iVBORw0KGgo"));
        assert_eq!(whole["usage"]["output_tokens"], 544);
        let body = json!({"prompt": "a tower", "stream": true, "partial_images": 2});
        let stream = run(images, body).expect("valid");
        let text = String::from_utf8(stream.bytes).expect("UTF-8");
        assert_eq!(text.matches("event: image_generation.partial_image\n").count(), 2);
        assert_eq!(text.matches("event: image_generation.completed\n").count(), 1);
        assert!(run(images, json!({"prompt": "x", "partial_images": 1})).is_err());
    }

    #[test]
    fn the_png_has_right_checksums() {
        let mut at = 8;
        while at < PNG.len() {
            let len = u32::from_be_bytes(PNG[at..at + 4].try_into().expect("four bytes")) as usize;
            let sum =
                u32::from_be_bytes(PNG[at + 8 + len..at + 12 + len].try_into().expect("four"));
            assert_eq!(crc32fast::hash(&PNG[at + 4..at + 8 + len]), sum);
            at += 12 + len;
        }
        assert_eq!(at, PNG.len());
    }

    #[test]
    fn speech_comes_in_pieces_or_events() {
        let body = json!({"model": "tts", "voice": "a", "input": "hello there, you"});
        let script = run(speech, body.clone()).expect("valid");
        assert_eq!(script.content_type, "audio/mpeg");
        assert!(script.bytes.starts_with(b"ID3") && script.steps.len() == 2 && !script.sized);
        let mut events = body.clone();
        events["stream_format"] = json!("sse");
        let text = String::from_utf8(run(speech, events).expect("valid").bytes).expect("UTF-8");
        assert_eq!(text.matches("speech.audio.delta").count(), 2);
        assert!(text.trim_end().ends_with("\"total_tokens\":24}}"), "{text}");
        let mut long = body;
        long["input"] = json!("x".repeat(4097));
        assert!(run(speech, long).is_err());
        assert!(run(speech, json!({"model": "tts", "input": "x"})).is_err());
    }
}
