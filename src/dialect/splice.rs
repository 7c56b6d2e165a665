//! Changes a request's body where it must be changed, and nowhere else: another model name, and a
//! usage chunk asked for. Everything else goes out bit for bit, because any other change of a
//! prompt breaks the provider's cache of it.

use std::borrow::Cow;
use std::ops::Range;

use super::endpoint::Endpoint;
use super::json::quote_into;
use super::peek::Asked;

/// A few replacements in a body, in order of place.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Edits {
    edits: [Option<Edit>; 2],
}

/// Replaces a range of the body; an empty range inserts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Edit {
    pub range: Range<usize>,
    pub text: Cow<'static, [u8]>,
}

const WANTED: &[u8] = b"{\"include_usage\":true}";
const WANTED_MEMBER: &[u8] = b"\"include_usage\":true";
const WANTED_FIRST: &[u8] = b"\"include_usage\":true,";
const OPTIONS_FIRST: &[u8] = b"\"stream_options\":{\"include_usage\":true},";

/// What to change in the body that `asked` was read from. `upstream_model`: the name to send in
/// place of the one asked for. `force_usage`: have a usage chunk sent at the end of a stream of
/// chat or completions, whatever the caller said; elsewhere it changes nothing.
pub fn splice(asked: &Asked<'_>, upstream_model: Option<&str>, force_usage: bool) -> Edits {
    let usage = if force_usage { usage_edit(asked) } else { None };
    let model = upstream_model.and_then(|name| model_edit(asked, name));
    let mut edits = [model, usage];
    if let [Some(model), Some(usage)] = &edits
        && usage.range.start < model.range.start
    {
        edits.swap(0, 1);
    }
    Edits { edits }
}

fn model_edit(asked: &Asked<'_>, name: &str) -> Option<Edit> {
    if asked.model.name == name {
        return None;
    }
    let mut text = Vec::with_capacity(name.len() + 16);
    let Some(span) = asked.model.span.clone() else {
        text.extend_from_slice(b"\"model\":");
        quote_into(&mut text, name);
        if asked.has_members {
            text.push(b',');
        }
        return Some(Edit { range: asked.insert_at..asked.insert_at, text: Cow::Owned(text) });
    };
    quote_into(&mut text, name);
    Some(Edit { range: span, text: Cow::Owned(text) })
}

fn usage_edit(asked: &Asked<'_>) -> Option<Edit> {
    let streamed = matches!(asked.endpoint, Endpoint::ChatCompletions | Endpoint::Completions);
    if !streamed || !asked.stream || asked.wants_usage() {
        return None;
    }
    let (range, text) = match &asked.stream_options {
        // There are other members: `stream` is one.
        None => (asked.insert_at..asked.insert_at, OPTIONS_FIRST),
        Some(options) if options.is_null => (options.span.clone(), WANTED),
        Some(options) => match &options.include_usage_span {
            Some(span) => (span.clone(), &b"true"[..]),
            None => {
                let at = options.span.start + 1;
                (at..at, if options.has_members { WANTED_FIRST } else { WANTED_MEMBER })
            }
        },
    };
    Some(Edit { range, text: Cow::Borrowed(text) })
}

impl Edits {
    /// The replacements, in order of place.
    pub fn iter(&self) -> impl Iterator<Item = &Edit> {
        self.edits.iter().flatten()
    }

    /// Whether nothing is changed.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// The length of a body of `body_len` bytes after the changes.
    pub fn new_len(&self, body_len: usize) -> usize {
        self.iter().fold(body_len, |len, edit| len - edit.range.len() + edit.text.len())
    }

    /// The changed body as non-empty pieces, at most five.
    pub fn pieces<'a>(&'a self, body: &'a [u8]) -> impl Iterator<Item = &'a [u8]> {
        let mut pieces: [&[u8]; 5] = [&[]; 5];
        let mut kept_to = 0;
        let mut at = 0;
        for edit in self.iter() {
            pieces[at] = &body[kept_to..edit.range.start];
            pieces[at + 1] = &edit.text;
            kept_to = edit.range.end;
            at += 2;
        }
        pieces[at] = &body[kept_to..];
        pieces.into_iter().filter(|piece| !piece.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::super::peek::peek;
    use super::*;

    fn changed(body: &str, endpoint: Endpoint, model: Option<&str>, usage: bool) -> String {
        let asked = peek(body.as_bytes(), endpoint).expect("valid");
        let edits = splice(&asked, model, usage);
        let out: Vec<u8> = edits.pieces(body.as_bytes()).flatten().copied().collect();
        assert_eq!(out.len(), edits.new_len(body.len()));
        assert_eq!(edits.is_empty(), out == body.as_bytes());
        String::from_utf8(out).expect("utf-8")
    }

    #[test]
    fn only_the_models_value_changes() {
        let chat = |body, model| changed(body, Endpoint::ChatCompletions, Some(model), false);
        assert_eq!(chat(r#"{ "model" : "a" , "x":1}"#, "b\"\n"), r#"{ "model" : "b\"\n" , "x":1}"#);
        // The same name stays as it was written.
        assert_eq!(chat(r#"{"model":"\u0061"}"#, "a"), r#"{"model":"\u0061"}"#);
    }

    #[test]
    fn a_default_model_is_written_out_only_when_it_must_be() {
        let to = |body, model| changed(body, Endpoint::Moderations, Some(model), true);
        assert_eq!(to(r#"{"input":1}"#, "m"), r#"{"model":"m","input":1}"#);
        assert_eq!(to(r#"{}"#, "m"), r#"{"model":"m"}"#);
        assert_eq!(to(r#"{"input":1}"#, "omni-moderation-latest"), r#"{"input":1}"#);
    }

    #[test]
    fn usage_is_asked_for_in_every_case() {
        for (body, want) in [
            (
                r#"{"stream":true,"model":"a"}"#,
                r#"{"stream_options":{"include_usage":true},"stream":true,"model":"b"}"#,
            ),
            (
                r#"{"model":"a","stream":true,"stream_options":null}"#,
                r#"{"model":"b","stream":true,"stream_options":{"include_usage":true}}"#,
            ),
            (
                r#"{"model":"a","stream_options":{ },"stream":true}"#,
                r#"{"model":"b","stream_options":{"include_usage":true },"stream":true}"#,
            ),
            (
                r#"{"stream_options":{"x":1},"model":"a","stream":true}"#,
                r#"{"stream_options":{"include_usage":true,"x":1},"model":"b","stream":true}"#,
            ),
            (
                r#"{"stream_options":{"include_usage": false},"model":"a","stream":true}"#,
                r#"{"stream_options":{"include_usage": true},"model":"b","stream":true}"#,
            ),
            (
                r#"{"stream_options":{"include_usage":true},"model":"a","stream":true}"#,
                r#"{"stream_options":{"include_usage":true},"model":"b","stream":true}"#,
            ),
            (r#"{"model":"a","stream":false}"#, r#"{"model":"b","stream":false}"#),
        ] {
            for endpoint in [Endpoint::ChatCompletions, Endpoint::Completions] {
                assert_eq!(changed(body, endpoint, Some("b"), true), want);
            }
            let other = changed(body, Endpoint::Responses, None, true);
            assert_eq!(other, body);
        }
    }
}
