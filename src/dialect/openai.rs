//! What one frame of an OpenAI stream says: a walk over its JSON that builds nothing.
//!
//! Chat and completions (§5 of the chat API: choices, deltas, usage, errors), Responses, image and
//! speech events. A frame that is cut, because it is too long to hold, says what it said so far.

use std::ops::Range;

use super::json::{Cursor, Fault, Text, What, truthy};
use super::stream::StreamKind;

/// What one frame says. Slices point into its data.
#[derive(Debug, Default)]
pub(super) struct Seen<'a> {
    pub event: Event,
    /// The frame carries content in the sense of a first token.
    pub content: bool,
    /// Bytes of text as they stand in the JSON, a rough base for an estimate.
    pub content_bytes: u64,
    /// An object: the last one wins.
    pub usage: Option<&'a [u8]>,
    /// A truthy `error`.
    pub error: bool,
    /// `"choices":[]`.
    pub no_choices: bool,
    pub choices: Choices,
    pub model: Option<&'a [u8]>,
    pub service_tier: Option<&'a [u8]>,
    pub sequence_number: Option<u64>,
    /// Text values, and where in the data the last of them stands, without its quotes.
    pub texts: u32,
    pub text: Range<usize>,
    /// Something other than text counts as content.
    pub other_content: bool,
    /// The data is one whole JSON object.
    pub whole: bool,
}

/// What a named event means.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Event {
    #[default]
    Other,
    /// A delta of an answer, a partial image.
    Content,
    /// The last event of a stream.
    Terminal,
    /// As `Terminal`, and the answer failed.
    Failed,
    Error,
    /// A tool that the provider runs has begun or gone on: asking again would run it again.
    ServerTool,
    /// The same with content.
    ServerToolContent,
    /// A search of the provider's has ended: it costs apart from tokens.
    SearchDone,
    /// An item whose own type decides.
    ItemAdded,
}

/// The choices of which something was seen, one bit each.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Choices {
    pub seen: u128,
    pub finished: u128,
    /// An index above the last bit: only `[DONE]` ends such a stream.
    pub beyond: bool,
}

impl Choices {
    fn add(&mut self, index: u64, finished: bool) {
        match u32::try_from(index).ok().and_then(|index| 1u128.checked_shl(index)) {
            Some(bit) => {
                self.seen |= bit;
                self.finished |= if finished { bit } else { 0 };
            }
            None => self.beyond = true,
        }
    }

    pub fn merge(&mut self, other: Choices) {
        self.seen |= other.seen;
        self.finished |= other.finished;
        self.beyond |= other.beyond;
    }
}

/// Reads the data of one frame; `name` is its `event` field.
pub(super) fn look<'a>(kind: StreamKind, name: Option<&[u8]>, data: &'a [u8]) -> Seen<'a> {
    let mut walk = Walk { cursor: Cursor::new(data), kind, seen: Seen::default() };
    walk.cursor.blanks();
    if let Some(name) = name {
        walk.seen.event = event(kind, name);
    }
    let walked = walk.top();
    walk.seen.whole = walked.is_ok();
    match walk.seen.event {
        Event::Content | Event::ServerToolContent => walk.seen.content = true,
        Event::Terminal if kind == StreamKind::Image => walk.seen.content = true,
        _ => {}
    }
    walk.seen
}

/// What the type of an event means.
fn event(kind: StreamKind, name: &[u8]) -> Event {
    if name == b"error" {
        return Event::Error;
    }
    match kind {
        StreamKind::Responses => responses_event(name),
        StreamKind::Image if name.ends_with(b".partial_image") => Event::Content,
        StreamKind::Image if name.ends_with(b".completed") => Event::Terminal,
        StreamKind::Speech if name == b"speech.audio.delta" => Event::Content,
        StreamKind::Speech if name == b"speech.audio.done" => Event::Terminal,
        _ => Event::Other,
    }
}

fn responses_event(name: &[u8]) -> Event {
    let Some(rest) = name.strip_prefix(b"response.") else { return Event::Other };
    match rest {
        b"completed" | b"incomplete" => return Event::Terminal,
        b"failed" => return Event::Failed,
        b"output_item.added" => return Event::ItemAdded,
        b"web_search_call.completed" => return Event::SearchDone,
        _ => {}
    }
    let subject = rest.split(|&b| b == b'.').next().unwrap_or_default();
    let server_tool = subject == b"mcp_list_tools"
        || subject.starts_with(b"mcp_call")
        || subject.starts_with(b"code_interpreter_call")
        || (subject.ends_with(b"_call") && server_item(subject));
    match (server_tool, rest.ends_with(b".delta")) {
        (true, true) => Event::ServerToolContent,
        (true, false) => Event::ServerTool,
        (false, true) => Event::Content,
        (false, false) => Event::Other,
    }
}

/// Whether an item of this type is work of a tool that the provider runs. Calls that the caller
/// answers are not; a call of an unknown kind is taken for one.
fn server_item(item: &[u8]) -> bool {
    match item {
        b"function_call" | b"custom_tool_call" | b"computer_call" | b"local_shell_call"
        | b"shell_call" | b"apply_patch_call" => false,
        b"mcp_list_tools" | b"mcp_approval_request" => true,
        _ => item.ends_with(b"_call"),
    }
}

struct Walk<'a> {
    cursor: Cursor<'a>,
    kind: StreamKind,
    seen: Seen<'a>,
}

impl<'a> Walk<'a> {
    fn name(&self, text: &Text) -> &'a [u8] {
        &self.cursor.text[text.span.clone()]
    }

    fn top(&mut self) -> Result<(), Fault> {
        if self.cursor.byte() != Some(b'{') {
            return Err(Fault { at: 0, what: What::Object });
        }
        self.cursor.enter()?;
        let mut first = true;
        while let Some(name) = self.cursor.next_key(&mut first)? {
            match self.name(&name) {
                b"choices" if self.chatty() => self.choices()?,
                b"type" if !self.chatty() => {
                    if let Some(name) = self.string()? {
                        self.seen.event = event(self.kind, name);
                    }
                }
                b"response" if self.kind == StreamKind::Responses => self.response()?,
                b"item" if self.seen.event == Event::ItemAdded => self.item()?,
                b"delta" => self.text()?,
                b"usage" => self.usage()?,
                b"x_groq" => self.usage_within()?,
                b"error" => {
                    self.seen.error |= truthy(&self.cursor.text[self.cursor.at..]);
                    self.cursor.skip()?;
                }
                b"model" => self.seen.model = self.string()?,
                b"service_tier" => self.seen.service_tier = self.string()?,
                b"sequence_number" => self.seen.sequence_number = self.number()?,
                _ => self.cursor.skip()?,
            }
        }
        self.cursor.blanks();
        match self.cursor.byte() {
            None => Ok(()),
            Some(_) => Err(Fault { at: self.cursor.at, what: What::Trailing }),
        }
    }

    fn chatty(&self) -> bool {
        matches!(self.kind, StreamKind::Chat | StreamKind::Completions)
    }

    /// The string at the cursor, without quotes; `None` for another value or an empty string.
    fn string(&mut self) -> Result<Option<&'a [u8]>, Fault> {
        if self.cursor.byte() != Some(b'"') {
            self.cursor.skip()?;
            return Ok(None);
        }
        let text = self.cursor.string()?;
        Ok((!text.span.is_empty()).then(|| self.name(&text)))
    }

    fn number(&mut self) -> Result<Option<u64>, Fault> {
        let span = self.cursor.span()?;
        let text = std::str::from_utf8(&self.cursor.text[span]).ok();
        Ok(text.and_then(|text| text.parse().ok()))
    }

    /// A text value: counts its bytes. Whether it holds anything.
    fn has_text(&mut self) -> Result<bool, Fault> {
        let at = self.cursor.at;
        let rest = &self.cursor.text[at..];
        // Looked at before it is stepped over: the string may be cut.
        let some = matches!(rest, [b'"', second, ..] if *second != b'"');
        self.cursor.skip()?;
        if some {
            self.seen.content_bytes += (self.cursor.at - at).saturating_sub(2) as u64;
            self.seen.texts += 1;
            self.seen.text = at + 1..self.cursor.at.saturating_sub(1);
        }
        Ok(some)
    }

    fn text(&mut self) -> Result<(), Fault> {
        self.has_text().map(|_| ())
    }

    fn usage(&mut self) -> Result<(), Fault> {
        let span = self.cursor.span()?;
        if self.cursor.text[span.start] == b'{' {
            self.seen.usage = Some(&self.cursor.text[span]);
        }
        Ok(())
    }

    /// Enters the object at the cursor, if it is one; other values are stepped over.
    fn enter(&mut self, open: u8) -> Result<bool, Fault> {
        if self.cursor.byte() != Some(open) {
            self.cursor.skip()?;
            return Ok(false);
        }
        self.cursor.enter()?;
        Ok(true)
    }

    fn usage_within(&mut self) -> Result<(), Fault> {
        if !self.enter(b'{')? {
            return Ok(());
        }
        let mut first = true;
        while let Some(name) = self.cursor.next_key(&mut first)? {
            match self.name(&name) {
                b"usage" => self.usage()?,
                _ => self.cursor.skip()?,
            }
        }
        Ok(())
    }

    fn choices(&mut self) -> Result<(), Fault> {
        if !self.enter(b'[')? {
            return Ok(());
        }
        let mut first = true;
        while self.cursor.next_item(&mut first)? {
            self.choice()?;
        }
        self.seen.no_choices = first;
        Ok(())
    }

    fn choice(&mut self) -> Result<(), Fault> {
        if !self.enter(b'{')? {
            return Ok(());
        }
        let (mut index, mut finished) = (0, false);
        let mut first = true;
        let mut walk = || -> Result<(), Fault> {
            while let Some(name) = self.cursor.next_key(&mut first)? {
                match self.name(&name) {
                    b"index" => index = self.number()?.unwrap_or(0),
                    b"finish_reason" => finished |= self.string()?.is_some(),
                    b"delta" => self.delta()?,
                    b"text" => self.seen.content |= self.content()?,
                    b"usage" => self.usage()?,
                    _ => self.cursor.skip()?,
                }
            }
            Ok(())
        };
        let walked = walk();
        self.seen.choices.add(index, finished);
        walked
    }

    fn delta(&mut self) -> Result<(), Fault> {
        if !self.enter(b'{')? {
            return Ok(());
        }
        let mut first = true;
        while let Some(name) = self.cursor.next_key(&mut first)? {
            match self.name(&name) {
                b"content" | b"reasoning_content" | b"reasoning" | b"refusal" => {
                    self.seen.content |= self.content()?;
                }
                b"tool_calls" => {
                    self.seen.other_content = true;
                    self.tool_calls()?;
                }
                b"function_call" | b"audio" => {
                    self.seen.other_content = true;
                    self.seen.content |= self.cursor.byte() == Some(b'{');
                    self.cursor.skip()?;
                }
                _ => self.cursor.skip()?,
            }
        }
        Ok(())
    }

    /// Text, or Mistral's array of parts. A cut one already counts as content.
    fn content(&mut self) -> Result<bool, Fault> {
        if self.cursor.byte() == Some(b'[') {
            let span = self.cursor.span()?;
            self.seen.content_bytes += span.len() as u64;
            self.seen.other_content = true;
            return Ok(span.len() > 2);
        }
        let rest = &self.cursor.text[self.cursor.at..];
        self.seen.content |= matches!(rest, [b'"', second, ..] if *second != b'"');
        self.has_text()
    }

    fn tool_calls(&mut self) -> Result<(), Fault> {
        if !self.enter(b'[')? {
            return Ok(());
        }
        let mut first = true;
        while self.cursor.next_item(&mut first)? {
            self.seen.content = true;
            if !self.enter(b'{')? {
                continue;
            }
            let mut first = true;
            while let Some(name) = self.cursor.next_key(&mut first)? {
                match self.name(&name) {
                    b"function" | b"custom" => self.arguments()?,
                    _ => self.cursor.skip()?,
                }
            }
        }
        Ok(())
    }

    fn arguments(&mut self) -> Result<(), Fault> {
        if !self.enter(b'{')? {
            return Ok(());
        }
        let mut first = true;
        while self.cursor.next_key(&mut first)?.is_some() {
            self.text()?;
        }
        Ok(())
    }

    fn response(&mut self) -> Result<(), Fault> {
        if !self.enter(b'{')? {
            return Ok(());
        }
        let mut first = true;
        while let Some(name) = self.cursor.next_key(&mut first)? {
            match self.name(&name) {
                b"usage" => self.usage()?,
                b"model" => self.seen.model = self.string()?,
                b"service_tier" => self.seen.service_tier = self.string()?,
                _ => self.cursor.skip()?,
            }
        }
        Ok(())
    }

    fn item(&mut self) -> Result<(), Fault> {
        if !self.enter(b'{')? {
            return Ok(());
        }
        let mut first = true;
        while let Some(name) = self.cursor.next_key(&mut first)? {
            match self.name(&name) {
                b"type" => {
                    if self.string()?.is_some_and(server_item) {
                        self.seen.event = Event::ServerTool;
                    }
                }
                _ => self.cursor.skip()?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn content(kind: StreamKind, data: &str) -> bool {
        look(kind, None, data.as_bytes()).content
    }

    #[test]
    fn what_counts_as_the_first_token() {
        for (delta, want) in [
            (r#"{"role":"assistant","content":"","refusal":null}"#, false),
            (r#"{"content":null,"reasoning_content":""}"#, false),
            (r#"{"content":"a"}"#, true),
            (r#"{"content":"\n"}"#, true),
            (r#"{"refusal":"no"}"#, true),
            (r#"{"content":null,"reasoning_content":"x"}"#, true),
            (r#"{"reasoning":"x"}"#, true),
            (r#"{"content":[]}"#, false),
            (r#"{"content":[{"type":"thinking"}]}"#, true),
            (r#"{"tool_calls":[]}"#, false),
            (r#"{"tool_calls":[{"index":0,"id":"c","function":{"arguments":""}}]}"#, true),
            (r#"{"function_call":{"name":"f"}}"#, true),
            (r#"{"audio":{"id":"a"}}"#, true),
            (r#"{"audio":null}"#, false),
            (r#"{}"#, false),
            ("null", false),
        ] {
            let data = format!(r#"{{"choices":[{{"index":0,"delta":{delta}}}]}}"#);
            assert_eq!(content(StreamKind::Chat, &data), want, "{delta}");
        }
        assert!(!content(
            StreamKind::Chat,
            r#"{"choices":[{"index":0,"content_filter_offsets":{}}]}"#
        ));
        assert!(content(StreamKind::Completions, r#"{"choices":[{"text":"a"}]}"#));
        assert!(!content(StreamKind::Completions, r#"{"choices":[{"text":""}]}"#));
        assert!(content(StreamKind::Speech, r#"{"type":"speech.audio.delta","audio":"x"}"#));
    }

    #[test]
    fn server_tools_are_told_from_the_callers_own() {
        for (data, want) in [
            (r#"{"type":"response.web_search_call.searching"}"#, Event::ServerTool),
            (r#"{"type":"response.web_search_call.completed"}"#, Event::SearchDone),
            (r#"{"type":"response.mcp_call_arguments.delta"}"#, Event::ServerToolContent),
            (r#"{"type":"response.mcp_list_tools.in_progress"}"#, Event::ServerTool),
            (r#"{"type":"response.code_interpreter_call_code.done"}"#, Event::ServerTool),
            (r#"{"type":"response.function_call_arguments.delta"}"#, Event::Content),
            (r#"{"type":"response.custom_tool_call_input.done"}"#, Event::Other),
            (
                r#"{"type":"response.output_item.added","item":{"type":"web_search_call"}}"#,
                Event::ServerTool,
            ),
            (
                r#"{"type":"response.output_item.added","item":{"type":"function_call"}}"#,
                Event::ItemAdded,
            ),
        ] {
            let event = look(StreamKind::Responses, None, data.as_bytes()).event;
            assert_eq!(event, want, "{data}");
        }
    }

    #[test]
    fn usage_is_found_where_vendors_put_it() {
        for data in [
            r#"{"choices":[],"usage":{"a":1}}"#,
            r#"{"choices":[{"index":0,"usage":{"a":1}}],"usage":null}"#,
            r#"{"choices":[],"x_groq":{"id":"x","usage":{"a":1}}}"#,
        ] {
            let seen = look(StreamKind::Chat, None, data.as_bytes());
            assert_eq!(seen.usage, Some(&br#"{"a":1}"#[..]), "{data}");
        }
        let content = r#"{"choices":[{"index":0,"delta":{"content":"\"usage\":{\"a\":1}"}}]}"#;
        assert_eq!(look(StreamKind::Chat, None, content.as_bytes()).usage, None);
    }

    #[test]
    fn a_cut_frame_says_what_it_said_so_far() {
        let seen = look(
            StreamKind::Chat,
            None,
            br#"{"model":"m","choices":[{"index":1,"delta":{"content":"abc"#,
        );
        assert!(seen.content && !seen.whole);
        assert_eq!(seen.choices.seen, 2);
        let seen = look(
            StreamKind::Responses,
            None,
            br#"{"type":"response.completed","response":{"output":[{"te"#,
        );
        assert_eq!(seen.event, Event::Terminal);
    }
}
