//! What the field names of the price map mean: a kind of unit, and where among the prices it stands.

use super::super::prices::Kind;

/// A field that is a price.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Field {
    pub kind: Kind,
    /// The tier it is valid in.
    pub tier: Option<&'static str>,
    /// The length of input above which it is valid.
    pub above_tokens: Option<u64>,
}

/// The end of a field name that says the tier.
const TIERS: &[(&str, &str)] = &[
    ("_batches", "batch"),
    ("_flex", "flex"),
    ("_priority", "priority"),
    ("_balanced", "balanced"),
    ("_ultrafast", "ultrafast"),
];

const KINDS: &[(&str, Kind)] = &[
    ("input_cost_per_token", Kind::Input),
    ("output_cost_per_token", Kind::Output),
    ("output_cost_per_reasoning_token", Kind::Reasoning),
    ("cache_read_input_token_cost", Kind::CachedRead),
    ("input_cost_per_token_cache_hit", Kind::CachedRead),
    ("cache_read_input_audio_token_cost", Kind::CachedReadAudio),
    ("cache_creation_input_token_cost", Kind::CacheWrite),
    ("cache_creation_input_token_cost_above_1hr", Kind::CacheWrite1h),
    ("input_cost_per_audio_token", Kind::AudioIn),
    ("output_cost_per_audio_token", Kind::AudioOut),
    ("input_cost_per_image_token", Kind::ImageIn),
    ("output_cost_per_image_token", Kind::ImageOut),
    ("input_cost_per_video_token", Kind::VideoIn),
    ("output_cost_per_image", Kind::Image),
    ("input_cost_per_second", Kind::Second),
    ("input_cost_per_character", Kind::Characters),
    ("input_cost_per_request", Kind::Request),
];

/// The meaning of a field name; `None` if it is none of the known prices.
pub(super) fn field(name: &str) -> Option<Field> {
    let (mut rest, mut tier, mut above_tokens) = (name, None, None);
    loop {
        if let Some((kept, known)) =
            TIERS.iter().find_map(|(end, tier)| Some((rest.strip_suffix(end)?, *tier)))
        {
            if tier.replace(known).is_some() {
                return None;
            }
            rest = kept;
        } else if let Some((kept, tokens)) = above(rest) {
            if above_tokens.replace(tokens).is_some() {
                return None;
            }
            rest = kept;
        } else {
            break;
        }
    }
    let (_, kind) = KINDS.iter().find(|(known, _)| *known == rest)?;
    Some(Field { kind: *kind, tier, above_tokens })
}

/// `…_above_200k_tokens` without its end, and the number.
fn above(name: &str) -> Option<(&str, u64)> {
    let (kept, thousands) = name.strip_suffix("k_tokens")?.rsplit_once("_above_")?;
    Some((kept, thousands.parse::<u64>().ok()?.checked_mul(1000)?))
}

/// Why a field that costs something is not taken.
pub(super) fn reason(name: &str) -> &'static str {
    let has = |part: &str| name.contains(part);
    match () {
        () if has("uplift") => "a surcharge by region is not known here",
        () if has("off_peak") => "prices by the time of day are not known here",
        () if has("pixel") => "the price of a pixel; write the price of an `image`",
        () if has("_per_image_") => "a price by the size of an image is not known here",
        () if has("per_page") || has("per_credit") => "pages are not counted",
        () if has("video") => "seconds of video are not counted",
        () if has("per_second") => "only seconds of a transcription are counted",
        () if has("image") => "images of the input are counted as tokens",
        () if has("above_12hr") => "caches of that lifetime are not told apart",
        () if has("audio_token_cost") => "audio written to a cache is not counted apart",
        () => "what it is the price of is not counted",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiers_and_thresholds_are_read_off_the_end_of_a_name() {
        for (name, kind, tier, above_tokens) in [
            ("input_cost_per_token", Kind::Input, None, None),
            ("input_cost_per_token_batches", Kind::Input, Some("batch"), None),
            ("output_cost_per_token_above_128k_tokens", Kind::Output, None, Some(128_000)),
            (
                "cache_read_input_token_cost_above_272k_tokens_priority",
                Kind::CachedRead,
                Some("priority"),
                Some(272_000),
            ),
            (
                "cache_read_input_token_cost_priority_above_272k_tokens",
                Kind::CachedRead,
                Some("priority"),
                Some(272_000),
            ),
            (
                "cache_creation_input_token_cost_above_1hr_above_200k_tokens",
                Kind::CacheWrite1h,
                None,
                Some(200_000),
            ),
            ("output_cost_per_audio_token_flex", Kind::AudioOut, Some("flex"), None),
        ] {
            assert_eq!(field(name), Some(Field { kind, tier, above_tokens }), "{name}");
        }
        for name in [
            "input_cost_per_pixel",
            "input_cost_per_token_decisions",
            "cache_creation_input_token_cost_above_12hr",
            "input_cost_per_token_flex_batches",
            "input_cost_per_token_above_xk_tokens",
            "input_cost_per_token_above_128k_tokens_above_256k_tokens",
            "max_tokens",
        ] {
            assert_eq!(field(name), None, "{name}");
        }
    }
}
