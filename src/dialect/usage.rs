//! What was used: an upstream's usage object as numbers, and the disjoint units that are billed.

use super::endpoint::Endpoint;
use super::json::{Cursor, Text};

/// A count above this is no count of one request.
pub(super) const ABSURD: u64 = 1_000_000_000;

/// The numbers of one usage object in OpenAI's shapes and those of compatible servers. Missing
/// numbers are `None`; a detail that makes no sense counts as missing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// `prompt_tokens` or `input_tokens`: all input, cached and written to the cache included.
    pub input: Option<u64>,
    /// `completion_tokens` or `output_tokens`: all output, reasoning included.
    pub output: Option<u64>,
    pub total: Option<u64>,
    pub cache_read: Option<u64>,
    pub cache_write: Option<u64>,
    pub in_audio: Option<u64>,
    pub in_image: Option<u64>,
    /// Of `cache_read`; in the counts of that kind they are as well.
    pub cache_read_audio: Option<u64>,
    pub cache_read_image: Option<u64>,
    pub reasoning: Option<u64>,
    pub out_audio: Option<u64>,
    pub out_image: Option<u64>,
    pub out_text: Option<u64>,
    /// Rerank: what `meta.billed_units` says.
    pub search_units: Option<u64>,
    /// Transcription: how much was listened to, in thousandths of a second.
    pub seconds_milli: Option<u64>,
}

/// Disjoint counters of one request: the input ones add up to the whole input, the output ones to
/// the whole output. One request is implied.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Units {
    pub in_text: u64,
    pub in_audio: u64,
    pub in_image: u64,
    pub in_video: u64,
    pub in_tool: u64,
    pub in_cache_read: u64,
    pub in_cache_read_audio: u64,
    pub in_cache_write_5m: u64,
    pub in_cache_write_1h: u64,
    pub in_cache_write_other: u64,
    pub out_text: u64,
    pub out_reasoning: u64,
    pub out_audio: u64,
    pub out_image: u64,
    pub web_search: u64,
    pub seconds_in_milli: u64,
    pub chars_in: u64,
    pub images_out: u64,
    pub search_units: u64,
    /// The upstream reported nothing or nonsense; the numbers are our own guess.
    pub estimated: bool,
}

impl Units {
    /// All input tokens.
    pub fn input(&self) -> u64 {
        let cache = self.in_cache_write_5m + self.in_cache_write_1h + self.in_cache_write_other;
        let plain = self.in_text + self.in_audio + self.in_image + self.in_video + self.in_tool;
        plain + self.in_cache_read + self.in_cache_read_audio + cache
    }

    /// All output tokens.
    pub fn output(&self) -> u64 {
        self.out_text + self.out_reasoning + self.out_audio + self.out_image
    }
}

impl Usage {
    /// Reads a usage object, or rerank's `billed_units`. `None`: it is no object, names no main
    /// count, names only zeros, or a main count is absurd (negative, no integer, above 10⁹); the
    /// caller then estimates. Does not allocate.
    pub fn parse(raw: &[u8]) -> Option<Usage> {
        let mut reader = Reader { cursor: Cursor::new(raw), usage: Usage::default(), ok: true };
        reader.object(Place::Top)?;
        let usage = reader.usage;
        let main =
            [usage.input, usage.output, usage.total, usage.search_units, usage.seconds_milli];
        let any = main.into_iter().flatten().any(|count| count > 0);
        (reader.ok && any).then_some(usage)
    }

    /// The units that an answer of `endpoint` with this usage is billed by. Details that disagree
    /// with the totals are cut to fit, never below zero.
    pub fn units(&self, endpoint: Endpoint) -> Units {
        let mut units = Units {
            search_units: self.search_units.unwrap_or(0),
            seconds_in_milli: self.seconds_milli.unwrap_or(0),
            ..Units::default()
        };
        let total = self.total.unwrap_or(0);
        // Some servers name only the total (rerank), or only one of the two.
        let output = match endpoint {
            Endpoint::Embeddings | Endpoint::Rerank | Endpoint::Moderations => {
                self.output.unwrap_or(0)
            }
            _ => self.output.unwrap_or(total.saturating_sub(self.input.unwrap_or(total))),
        };
        let input = self.input.unwrap_or(total.saturating_sub(output));

        units.in_cache_read = self.cache_read.unwrap_or(0).min(input);
        let mut room = input - units.in_cache_read;
        units.in_cache_write_other = take(&mut room, self.cache_write);
        // What was cached is in these counts too, where the upstream says how much of each was.
        let uncached = |count: Option<u64>, cached: Option<u64>| {
            count.map(|count| count.saturating_sub(cached.unwrap_or(0)))
        };
        units.in_audio = take(&mut room, uncached(self.in_audio, self.cache_read_audio));
        units.in_image = take(&mut room, uncached(self.in_image, self.cache_read_image));
        units.in_text = room;
        units.in_cache_read_audio = take(&mut units.in_cache_read, self.cache_read_audio);

        let mut room = output;
        units.out_reasoning = take(&mut room, self.reasoning);
        units.out_audio = take(&mut room, self.out_audio);
        match endpoint {
            Endpoint::ImageGenerations => {
                units.out_text = take(&mut room, self.out_text);
                units.out_image = room;
            }
            Endpoint::Speech => {
                units.out_text = take(&mut room, self.out_text);
                units.out_audio += room;
            }
            _ => {
                units.out_image = take(&mut room, self.out_image);
                units.out_text = room;
            }
        }
        units
    }
}

pub(super) fn take(room: &mut u64, wanted: Option<u64>) -> u64 {
    let taken = wanted.unwrap_or(0).min(*room);
    *room -= taken;
    taken
}

#[derive(Clone, Copy)]
enum Place {
    Top,
    Input,
    /// Within `Input`: what of it was cached.
    Cached,
    Output,
}

struct Reader<'a> {
    cursor: Cursor<'a>,
    usage: Usage,
    /// No main count was absurd.
    ok: bool,
}

impl Reader<'_> {
    fn object(&mut self, place: Place) -> Option<()> {
        if self.cursor.byte() != Some(b'{') {
            return None;
        }
        self.cursor.enter().ok()?;
        let mut first = true;
        while let Some(name) = self.cursor.next_key(&mut first).ok()? {
            self.member(place, &name)?;
        }
        Some(())
    }

    fn member(&mut self, place: Place, name: &Text) -> Option<()> {
        let name = &self.cursor.text[name.span.clone()];
        if self.cursor.byte() == Some(b'{') {
            return match (place, name) {
                (
                    Place::Top,
                    b"prompt_tokens_details" | b"input_tokens_details" | b"input_token_details",
                ) => self.object(Place::Input),
                (
                    Place::Top,
                    b"completion_tokens_details"
                    | b"output_tokens_details"
                    | b"output_token_details",
                ) => self.object(Place::Output),
                (Place::Input, b"cached_tokens_details") => self.object(Place::Cached),
                _ => self.cursor.skip().ok(),
            };
        }
        let span = self.cursor.span().ok()?;
        let raw = &self.cursor.text[span];
        let usage = &mut self.usage;
        let slot = match (place, name) {
            (Place::Top, b"prompt_tokens" | b"input_tokens") => &mut usage.input,
            (Place::Top, b"completion_tokens" | b"output_tokens") => &mut usage.output,
            (Place::Top, b"total_tokens") => &mut usage.total,
            (Place::Top, b"search_units") => &mut usage.search_units,
            (Place::Top, b"seconds") => {
                match thousandths(raw) {
                    Ok(seconds) => usage.seconds_milli = seconds,
                    Err(()) => self.ok = false,
                }
                return Some(());
            }
            (Place::Input, b"cached_tokens") => &mut usage.cache_read,
            // Vendors that name it at the top; the details win.
            (Place::Top, b"prompt_cache_hit_tokens" | b"cached_tokens")
                if usage.cache_read.is_none() =>
            {
                &mut usage.cache_read
            }
            (Place::Input, b"cache_write_tokens" | b"cache_creation_tokens") => {
                &mut usage.cache_write
            }
            (Place::Input, b"audio_tokens") => &mut usage.in_audio,
            (Place::Input, b"image_tokens") => &mut usage.in_image,
            (Place::Cached, b"audio_tokens") => &mut usage.cache_read_audio,
            (Place::Cached, b"image_tokens") => &mut usage.cache_read_image,
            (Place::Output, b"reasoning_tokens") => &mut usage.reasoning,
            (Place::Output, b"audio_tokens") => &mut usage.out_audio,
            (Place::Output, b"image_tokens") => &mut usage.out_image,
            (Place::Output, b"text_tokens") => &mut usage.out_text,
            _ => return Some(()),
        };
        match count(raw) {
            Ok(Some(value)) => *slot = Some(value),
            Ok(None) => {}
            Err(()) => {
                self.ok &= !matches!(
                    (place, name),
                    (
                        Place::Top,
                        b"prompt_tokens"
                            | b"input_tokens"
                            | b"completion_tokens"
                            | b"output_tokens"
                            | b"total_tokens"
                            | b"search_units"
                    )
                );
            }
        }
        Some(())
    }
}

/// A number of seconds in thousandths, to the nearest; null is `None`, nonsense an error.
fn thousandths(raw: &[u8]) -> Result<Option<u64>, ()> {
    if raw == b"null" {
        return Ok(None);
    }
    let text = std::str::from_utf8(raw).map_err(|_| ())?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let seconds = whole.parse::<u64>().ok().filter(|seconds| *seconds <= ABSURD).ok_or(())?;
    if fraction.is_empty() || !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return Err(());
    }
    let digit = |at| u64::from(fraction.as_bytes().get(at).map_or(0, |digit| digit - b'0'));
    let milli = digit(0) * 100 + digit(1) * 10 + digit(2) + u64::from(digit(3) >= 5);
    Ok(Some(seconds * 1000 + milli))
}

/// A count; null is `None`, nonsense an error. `12.0` is a count: some servers print floats.
pub(super) fn count(raw: &[u8]) -> Result<Option<u64>, ()> {
    if raw == b"null" {
        return Ok(None);
    }
    let text = std::str::from_utf8(raw).map_err(|_| ())?;
    let digits = match text.split_once('.') {
        Some((whole, fraction)) if fraction.bytes().all(|b| b == b'0') => whole,
        Some(_) => return Err(()),
        None => text,
    };
    match digits.parse::<u64>() {
        Ok(value) if value <= ABSURD => Ok(Some(value)),
        _ => Err(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nonsense_is_not_billed() {
        for raw in [
            "null",
            "[]",
            "{}",
            "",
            "{",
            r#"{"prompt_tokens":-1,"completion_tokens":2}"#,
            r#"{"prompt_tokens":1.5,"completion_tokens":2}"#,
            r#"{"prompt_tokens":1,"completion_tokens":1000000001}"#,
            r#"{"prompt_tokens":99999999999999999999999,"completion_tokens":2}"#,
            r#"{"prompt_tokens":"9","completion_tokens":2}"#,
            r#"{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}"#,
            r#"{"prompt_tokens":null}"#,
            r#"{"type":"duration","seconds":-3}"#,
            r#"{"type":"duration","seconds":1e3}"#,
            r#"{"type":"duration","seconds":1000000001}"#,
            r#"{"type":"duration","seconds":"3"}"#,
            r#"{"type":"duration","seconds":0}"#,
            r#"{"type":"object","properties":{"prompt_tokens":1}}"#,
        ] {
            assert_eq!(Usage::parse(raw.as_bytes()), None, "{raw}");
        }
    }

    #[test]
    fn details_never_exceed_their_totals() {
        let raw = br#"{"prompt_tokens":10,"completion_tokens":4,
            "prompt_tokens_details":{"cached_tokens":8,"cache_write_tokens":9,"audio_tokens":-3},
            "completion_tokens_details":{"reasoning_tokens":3,"audio_tokens":50}}"#;
        let units = Usage::parse(raw).expect("usage").units(Endpoint::ChatCompletions);
        assert_eq!((units.input(), units.output()), (10, 4));
        assert_eq!((units.in_cache_read, units.in_cache_write_other, units.in_audio), (8, 2, 0));
        assert_eq!((units.out_reasoning, units.out_audio, units.out_text), (3, 1, 0));
    }

    #[test]
    fn parts_of_a_second_are_counted() {
        for (seconds, milli) in [("3", 3000), ("3.5", 3500), ("0.0016", 2), ("9.0004", 9000)] {
            let raw = format!(r#"{{"type":"duration","seconds":{seconds}}}"#);
            let units = Usage::parse(raw.as_bytes()).expect("usage").units(Endpoint::Speech);
            assert_eq!((units.seconds_in_milli, units.input()), (milli, 0), "{seconds}");
        }
    }

    #[test]
    fn cached_audio_is_told_apart_and_counted_once() {
        let raw = br#"{"input_tokens":200,"output_tokens":1,"input_token_details":{
            "audio_tokens":90,"image_tokens":20,"cached_tokens":100,
            "cached_tokens_details":{"text_tokens":50,"audio_tokens":40,"image_tokens":10}}}"#;
        let units = Usage::parse(raw).expect("usage").units(Endpoint::ChatCompletions);
        assert_eq!((units.in_cache_read, units.in_cache_read_audio), (60, 40));
        assert_eq!((units.in_audio, units.in_image, units.in_text), (50, 10, 40));
        assert_eq!(units.input(), 200);
    }

    #[test]
    fn other_shapes() {
        let units =
            |raw: &str, endpoint| Usage::parse(raw.as_bytes()).expect("usage").units(endpoint);
        let embedding = units(r#"{"prompt_tokens":8.0,"total_tokens":8}"#, Endpoint::Embeddings);
        assert_eq!((embedding.in_text, embedding.output()), (8, 0));
        let jina = units(r#"{"total_tokens":18}"#, Endpoint::Rerank);
        assert_eq!((jina.in_text, jina.output()), (18, 0));
        let cohere = units(r#"{"search_units":1}"#, Endpoint::Rerank);
        assert_eq!((cohere.search_units, cohere.input()), (1, 0));
        let raw = r#"{"input_tokens":6,"output_tokens":41,"total_tokens":47}"#;
        let speech = units(raw, Endpoint::Speech);
        assert_eq!((speech.in_text, speech.out_audio), (6, 41));
        let top = units(
            r#"{"prompt_tokens":5,"completion_tokens":1,"cached_tokens":4}"#,
            Endpoint::ChatCompletions,
        );
        assert_eq!((top.in_text, top.in_cache_read), (1, 4));
    }
}
