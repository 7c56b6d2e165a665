//! The keys of a request's body that are acted on, and the forms in which they could hide.

use super::endpoint::Endpoint;

/// A key at the top level of a request's body that means something to us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(super) enum Key {
    Model,
    Stream,
    StreamOptions,
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    N,
    BestOf,
    Store,
    Background,
    PreviousResponseId,
    Conversation,
    Prompt,
    Tools,
    WebSearchOptions,
    Affinity,
    User,
    SafetyIdentifier,
    /// One that is only noted.
    Foreign,
}

/// The longest key of the list below, written with `ſ` and the Kelvin sign, is shorter.
const KEY_BYTES_MAX: usize = 48;

/// The key of exactly this name.
pub(super) fn key(name: &[u8]) -> Option<Key> {
    Some(match name {
        b"model" => Key::Model,
        b"stream" => Key::Stream,
        b"stream_options" => Key::StreamOptions,
        b"max_tokens" => Key::MaxTokens,
        b"max_completion_tokens" => Key::MaxCompletionTokens,
        b"max_output_tokens" => Key::MaxOutputTokens,
        b"n" => Key::N,
        b"best_of" => Key::BestOf,
        b"store" => Key::Store,
        b"background" => Key::Background,
        b"previous_response_id" => Key::PreviousResponseId,
        b"conversation" => Key::Conversation,
        b"prompt" => Key::Prompt,
        b"tools" => Key::Tools,
        b"web_search_options" => Key::WebSearchOptions,
        b"prompt_cache_key" => Key::Affinity,
        b"user" => Key::User,
        b"safety_identifier" => Key::SafetyIdentifier,
        b"api_base" | b"base_url" | b"models" | b"provider" => Key::Foreign,
        _ => return None,
    })
}

/// Whether `key` is acted on at `endpoint`. The names mean other things elsewhere: the background
/// of an image is a colour.
pub(super) fn acted_on(key: Key, endpoint: Endpoint) -> bool {
    match key {
        Key::Foreign => false,
        Key::Background | Key::PreviousResponseId | Key::Conversation => {
            endpoint == Endpoint::Responses
        }
        Key::Prompt => matches!(endpoint, Endpoint::Responses | Endpoint::Completions),
        _ => true,
    }
}

/// The key that a parser which ignores case would take `name` for.
pub(super) fn folded(name: &str) -> Option<Key> {
    let mut buffer = [0u8; KEY_BYTES_MAX];
    let mut length = 0;
    for c in name.chars() {
        *buffer.get_mut(length)? = match c {
            'ſ' => b's',
            '\u{212a}' => b'k',
            c if c.is_ascii() => c.to_ascii_lowercase() as u8,
            _ => return None,
        };
        length += 1;
    }
    key(&buffer[..length])
}
