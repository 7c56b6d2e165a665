//! The tables of prices, price groups and rates of exchange.

use super::super::schema::{Key, Kind, Table, joined};

/// A price for a million tokens or characters.
const fn per_million(name: &'static str, example: &'static str, doc: &'static str) -> Key {
    Key::optional(name, Kind::PerMillion, doc).example(example)
}

/// A price for one.
const fn each(name: &'static str, example: &'static str, doc: &'static str) -> Key {
    Key::optional(name, Kind::Each, doc).example(example)
}

/// The names of [`crate::price::Prices`], which a test compares.
#[rustfmt::skip]
pub(in crate::config) const UNITS: [Key; 20] = [
    per_million("input", "0.15", "Uncached input; also what stands in for every other input price that is absent.").also(&["prompt", "input_cost_per_token"]),
    per_million("output", "0.60", "Output; also what stands in for every other output price that is absent.").also(&["completion", "output_cost_per_token"]),
    per_million("cached_read", "0.075", "Input read from a cache.").also(&["cached", "cached_input", "cache_read"]),
    per_million("cached_read_audio", "20", "Audio input read from a cache."),
    per_million("cache_write", "3.75", "Input written to a cache."),
    per_million("cache_write_5m", "3.75", "Input written to a cache of five minutes."),
    per_million("cache_write_1h", "6", "Input written to a cache of an hour."),
    per_million("reasoning", "0.60", "Output spent on reasoning."),
    per_million("audio_in", "40", "Audio input."),
    per_million("audio_out", "80", "Audio output."),
    per_million("image_in", "5", "Image input."),
    per_million("image_out", "40", "Image output, in tokens."),
    per_million("video_in", "1", "Video input."),
    per_million("tool_in", "0.15", "Results of server-side tools fed back."),
    each("request", "0.0001", "Each request."),
    each("web_search", "0.01", "Each web search."),
    each("search_unit", "0.002", "Each unit of a rerank."),
    each("image", "0.04", "Each image made."),
    per_million("characters", "15", "Text to speak, for a million characters."),
    each("second", "0.0001", "Each second of audio to transcribe."),
];

pub(super) const PRICE: Table = Table {
    label: "[[price]]",
    doc: "What a model of a provider costs, or what a price group pays for it. Prices are text, so that \
          they stay exact: for a million tokens where nothing else is said.",
    keys: &PRICE_KEYS,
    later: &["geo"],
};

const PRICE_KEYS: [Key; 27] = joined(
    &[
        Key::required("provider", Kind::Name, "The name of a [[provider]].").example("openai"),
        Key::required(
            "model",
            Kind::Name,
            "The model's name there; a \"*\" at its end stands for any text.",
        )
        .example("gpt-4o-mini"),
        Key::optional(
            "group",
            Kind::Name,
            "What this [[price_group]] is charged, instead of what the model costs.",
        )
        .example("resale")
        .also(&["price_group"]),
        Key::with("currency", Kind::Currency, "USD", "Three letters after ISO 4217."),
        Key::optional(
            "valid_from",
            Kind::Time,
            "In force from then on, until the next one: RFC 3339.",
        )
        .example("2026-01-01T00:00:00Z")
        .also(&["from", "since", "effective_from"]),
        Key::with(
            "tiers",
            Kind::Named(&TIER),
            "{}",
            "Other prices for tiers of service, by their names.",
        )
        .example("{ batch = { input = \"0.075\", output = \"0.30\" } }")
        .also(&["tier", "service_tier"]),
        Key::with(
            "long_context",
            Kind::Inlines(&STEP),
            "[]",
            "Other prices for all tokens of a request with more input than so many.",
        )
        .example("[{ above = 200000, input = \"0.30\", output = \"1.20\" }]"),
    ],
    &UNITS,
);

const TIER: Table = Table {
    label: "tiers of [[price]]",
    doc: "Prices of one tier; what is absent costs what it costs without a tier.",
    keys: &TIER_KEYS,
    later: &[],
};

const TIER_KEYS: [Key; 21] = joined(
    &[Key::with("long_context", Kind::Inlines(&STEP), "[]", "As below, but within this tier.")],
    &UNITS,
);

const STEP: Table = Table {
    label: "long_context of [[price]]",
    doc: "Prices above a size of the input; what is absent costs what it costs below.",
    keys: &STEP_KEYS,
    later: &[],
};

const STEP_KEYS: [Key; 21] = joined(
    &[Key::required("above", Kind::Integer { min: 1, max: 1_000_000_000 }, "Tokens of input.")
        .example("200000")
        .also(&["above_tokens", "threshold"])],
    &UNITS,
);

pub(super) const PRICES: Table = Table {
    label: "[prices]",
    doc: "Prices from elsewhere. A [[price]] of this file for the same model goes before them.",
    keys: &[
        Key::optional(
            "import",
            Kind::Document,
            "LiteLLM's price map, relative to this file. Its providers are names or presets of [[provider]].",
        )
        .example("model_prices_and_context_window.json"),
        Key::with(
            "include",
            Kind::List(&Kind::Document),
            "[]",
            "Files with tables [[price]], relative to this one; the provider there may be a preset, too.",
        )
        .example("[\"prices.toml\"]")
        .also(&["files"]),
        Key::optional(
            "default",
            Kind::Inline(&DEFAULT_PRICE),
            "For models without a price whose \"unpriced\" is \"default\"; with the keys of [[price]].",
        )
        .example("{ input = \"5\", output = \"15\" }"),
    ],
    later: &[],
};

const DEFAULT_PRICE: Table = Table {
    label: "default of [prices]",
    doc: "The price of what has none.",
    keys: &DEFAULT_KEYS,
    later: &[],
};

const DEFAULT_KEYS: [Key; 21] = joined(
    &[Key::with("currency", Kind::Currency, "USD", "Three letters after ISO 4217.")],
    &UNITS,
);

pub(super) const PRICE_GROUP: Table = Table {
    label: "[[price_group]]",
    doc: "Accounts that are charged alike: by prices of their own, else cost x markup.",
    keys: &[
        Key::required("name", Kind::Name, "Its name.").example("resale"),
        Key::with(
            "markup",
            Kind::Markup,
            "1",
            "A factor: \"1.2\" is 20 percent on top of the cost.",
        )
        .example("1.2")
        .also(&["factor", "ratio", "multiplier"]),
    ],
    later: &[],
};

pub(super) const RATE: Table = Table {
    label: "[[rate]]",
    doc: "A rate of exchange, for accounts in another currency than that of a price. It serves both ways.",
    keys: &[
        Key::required("from", Kind::Currency, "Three letters after ISO 4217.").example("EUR"),
        Key::required("to", Kind::Currency, "Three letters after ISO 4217.").example("USD"),
        Key::required("rate", Kind::Amount, "What one unit of \"from\" is in \"to\".")
            .example("1.08"),
        Key::optional(
            "valid_from",
            Kind::Time,
            "In force from then on, until the next one: RFC 3339.",
        )
        .example("2026-01-01T00:00:00Z"),
    ],
    later: &[],
};
