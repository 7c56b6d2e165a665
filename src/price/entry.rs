//! What one model costs from one moment on, what a request therefore cost, and what it can cost at
//! most.

use sha2::{Digest, Sha256};

use super::prices::{Kind, LINES, Layers, Prices};
use super::rates::UNCHANGED_BPS;
use crate::money::{Currency, PICO, mul_div_half_even};
use crate::store::Units;

/// The prices of one model of one provider, valid from one moment until those of the next entry.
///
/// A price is looked up in the long-context step that the request reached, then in the tier it was
/// served by, then in `base`: each names only what differs. Where none names a kind of unit, the
/// kind that stands in for it is looked up the same way: `input` for any input, `output` for any
/// output.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The provider's name.
    pub provider: String,
    /// The model as the provider calls it. With `*` at its end: all that begin so.
    pub model: String,
    /// Of a selling price: the price group. `None`: what the upstream charges.
    pub group: Option<String>,
    pub currency: Currency,
    /// 0 is "always".
    pub valid_from_unix_ms: u64,
    pub base: Prices,
    /// What differs by the tier that served a request.
    pub tiers: Vec<Tier>,
    /// What differs for requests with long input.
    pub long_context: Vec<LongContext>,
    /// Names the content: equal entries have equal versions, so that a record that carries it can
    /// be computed again. [`Entry::stamped`] sets it.
    pub version: u64,
}

/// The prices of a service tier, where they differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tier {
    /// As upstreams name it in their answers: `batch`, `flex`, `priority`.
    pub name: String,
    pub prices: Prices,
    /// If there is any, it takes the place of the entry's.
    pub long_context: Vec<LongContext>,
}

/// The prices of all tokens of a request whose whole input is above a threshold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LongContext {
    /// Exactly so many tokens are not yet long.
    pub above_tokens: u64,
    pub prices: Prices,
}

impl Entry {
    /// The cost of one request that used `units` and was served by `tier`, in pico-units of the
    /// entry's currency. `None`: something was used that has no price, or the cost overflows.
    /// Does not allocate.
    pub fn cost_pico(&self, units: &Units, tier: Option<&str>) -> Option<u128> {
        self.cost_in(&self.layers_of(units, tier), units)
    }

    /// The prices that apply to a request.
    fn layers_of(&self, units: &Units, tier: Option<&str>) -> Layers<'_> {
        let tier = tier.and_then(|name| self.tiers.iter().find(|tier| tier.name == name));
        let input_tokens = units.input_total();
        let reached = self.steps(tier).iter().filter(|step| input_tokens > step.above_tokens);
        self.layers(tier, reached.max_by_key(|step| step.above_tokens))
    }

    fn cost_in(&self, layers: &Layers<'_>, units: &Units) -> Option<u128> {
        let mut cost = u128::from(layers.pico(&[Kind::Request]).unwrap_or(0));
        for (count, line) in units.values().into_iter().zip(&LINES) {
            if count == 0 {
                continue;
            }
            let (count, price) = (u128::from(count), u128::from(layers.pico(line.chain)?));
            let part = match line.per {
                1 => count.checked_mul(price)?,
                per => mul_div_half_even(count, price, per)?,
            };
            cost = cost.checked_add(part)?;
        }
        Some(cost)
    }

    /// As [`Entry::cost_pico`], but what has no price is left out, and it is said whether there was
    /// such. `None` if the cost overflows. Does not allocate.
    pub fn cost_of_priced(&self, units: &Units, tier: Option<&str>) -> Option<(u128, bool)> {
        let mut priced = *units;
        let (mut values, mut is_whole) = (units.values(), true);
        let layers = self.layers_of(units, tier);
        for (count, line) in values.iter_mut().zip(&LINES) {
            let is_priced = layers.pico(line.chain).is_some();
            if *count > 0 && !is_priced {
                *count = 0;
                is_whole = false;
            }
        }
        if !is_whole {
            priced = Units::from_values(values);
        }
        // The tier and the step are those of what was really used.
        Some((self.cost_in(&layers, &priced)?, is_whole))
    }

    /// Whether tokens of these directions have a price.
    pub fn prices_tokens(&self, input: bool, output: bool) -> bool {
        let layers = self.layers(None, None);
        (!input || layers.pico(&[Kind::Input]).is_some())
            && (!output || layers.pico(&[Kind::Output]).is_some())
    }

    /// What a token and a request can cost at most, whichever tier serves it, however long its
    /// input is and whatever kind its tokens are. No request whose usage is tokens alone costs more.
    pub fn ceiling(&self) -> Ceiling {
        let mut ceiling = Ceiling::default();
        for tier in std::iter::once(None).chain(self.tiers.iter().map(Some)) {
            let steps = self.steps(tier).iter().map(Some);
            for step in std::iter::once(None).chain(steps) {
                ceiling = ceiling.max(Ceiling::of(&self.layers(tier, step)));
            }
        }
        ceiling
    }

    /// With the version that its content has: the first eight bytes of the SHA-256 of its JSON with
    /// sorted keys.
    pub fn stamped(mut self) -> Entry {
        let digest = Sha256::digest(self.canonical_json().as_bytes());
        let first = digest.iter().take(8);
        self.version = first.fold(0, |version, byte| version << 8 | u64::from(*byte));
        self
    }

    fn steps<'a>(&'a self, tier: Option<&'a Tier>) -> &'a [LongContext] {
        match tier {
            Some(tier) if !tier.long_context.is_empty() => &tier.long_context,
            _ => &self.long_context,
        }
    }

    fn layers<'a>(&'a self, tier: Option<&'a Tier>, step: Option<&'a LongContext>) -> Layers<'a> {
        let step = step.map(|step| &step.prices);
        Layers([step, tier.map(|tier| &tier.prices), Some(&self.base)])
    }
}

/// The highest prices that can apply to a request, in pico-units.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Ceiling {
    /// Of one input token.
    pub input_pico: u64,
    /// Of one output token.
    pub output_pico: u64,
    /// Of the request itself.
    pub request_pico: u64,
    /// Of one image made.
    pub image_pico: u64,
    /// Of one character to speak.
    pub character_pico: u64,
    /// Of one unit of a rerank.
    pub search_unit_pico: u64,
}

impl Ceiling {
    fn of(layers: &Layers<'_>) -> Ceiling {
        let mut ceiling = Ceiling::default();
        for (name, line) in Units::NAMES.iter().zip(&LINES) {
            let price = layers.pico(line.chain).unwrap_or(0);
            if name.starts_with("in_") {
                ceiling.input_pico = ceiling.input_pico.max(price);
            } else if name.starts_with("out_") {
                ceiling.output_pico = ceiling.output_pico.max(price);
            } else {
                match *name {
                    "images_out" => ceiling.image_pico = price,
                    "chars_in" => ceiling.character_pico = price,
                    "search_units" => ceiling.search_unit_pico = price,
                    _ => {}
                }
            }
        }
        ceiling.request_pico = layers.pico(&[Kind::Request]).unwrap_or(0);
        ceiling
    }

    /// The higher price of each kind: for a request that may go to either of two targets.
    pub fn max(self, other: Ceiling) -> Ceiling {
        Ceiling {
            input_pico: self.input_pico.max(other.input_pico),
            output_pico: self.output_pico.max(other.output_pico),
            request_pico: self.request_pico.max(other.request_pico),
            image_pico: self.image_pico.max(other.image_pico),
            character_pico: self.character_pico.max(other.character_pico),
            search_unit_pico: self.search_unit_pico.max(other.search_unit_pico),
        }
    }

    /// The same in another currency and with a markup, rounded up. Stops at the largest `u64`, which
    /// is millions for one token: what is reserved may then be too little, but never nothing.
    pub fn converted(self, rate_pico: u128, markup_bps: u32) -> Ceiling {
        let convert = |pico: u64| {
            let product = u128::from(pico).saturating_mul(rate_pico);
            let product = product.saturating_mul(u128::from(markup_bps));
            u64::try_from(product.div_ceil(PICO * UNCHANGED_BPS)).unwrap_or(u64::MAX)
        };
        Ceiling {
            input_pico: convert(self.input_pico),
            output_pico: convert(self.output_pico),
            request_pico: convert(self.request_pico),
            image_pico: convert(self.image_pico),
            character_pico: convert(self.character_pico),
            search_unit_pico: convert(self.search_unit_pico),
        }
    }

    /// The cost at these prices. Stops at the largest `u128`, which no budget has room for.
    pub fn cost_pico(&self, input_tokens: u64, output_tokens: u64) -> u128 {
        let part = |price: u64, count: u64| u128::from(price) * u128::from(count);
        part(self.input_pico, input_tokens)
            .saturating_add(part(self.output_pico, output_tokens))
            .saturating_add(u128::from(self.request_pico))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    const VECTORS: &str = include_str!("../../tests/samples/usage-vectors.json");

    fn entry(body: Value) -> Entry {
        let mut whole = json!({"provider": "p", "model": "m"});
        let fields = body.as_object().expect("an object").clone();
        whole.as_object_mut().expect("an object").extend(fields);
        Entry::from_json(&whole).expect("a good entry")
    }

    fn units(pairs: &[(&str, u64)]) -> Units {
        let mut values = [0; Units::COUNT];
        for (name, count) in pairs {
            let at = Units::NAMES.iter().position(|known| known == name).expect("a counter");
            values[at] = *count;
        }
        Units::from_values(values)
    }

    /// The prices of the vectors, as they would be written in a configuration.
    fn vector_prices() -> Entry {
        entry(json!({
            "input": "3", "audio_in": "32", "image_in": "5", "video_in": "3", "tool_in": "3",
            "cached_read": "0.3", "cache_write_5m": "3.75", "cache_write_1h": "6",
            "cache_write": "3.75", "output": "15", "reasoning": "15", "audio_out": "64",
            "image_out": "40", "request": "0", "web_search": "0.01", "second": "0.0001",
            "search_unit": "0.002",
        }))
    }

    #[test]
    fn the_vectors_cost_what_they_must_to_the_pico_unit() {
        let vectors: Value = serde_json::from_str(VECTORS).expect("json");
        let entry = vector_prices();
        let vectors = vectors["vectors"].as_array().expect("vectors");
        assert_eq!(vectors.len(), 20);
        for vector in vectors {
            let mut used = Vec::new();
            for (name, count) in vector["units"].as_object().expect("units") {
                let count = count.as_u64().expect("a count");
                match name.as_str() {
                    "requests" => assert_eq!(count, 1),
                    "seconds_in" => used.push(("seconds_in_milli", count * 1000)),
                    name => used.push((name, count)),
                }
            }
            let want = vector["cost_pico_usd"].as_u64().map(u128::from);
            assert_eq!(entry.cost_pico(&units(&used), None), want, "{}", vector["name"]);
        }
    }

    #[test]
    fn kinds_without_a_price_take_that_of_plain_tokens() {
        let entry = entry(json!({"input": "3", "output": "15"}));
        for name in Units::NAMES {
            let want = match () {
                () if name.starts_with("in_") => Some(3_000_000),
                () if name.starts_with("out_") => Some(15_000_000),
                () => None,
            };
            assert_eq!(entry.cost_pico(&units(&[(name, 1)]), None), want, "{name}");
        }
        let entry = vector_prices();
        assert_eq!(entry.cost_pico(&units(&[("in_cache_read_audio", 1)]), None), Some(300_000));
    }

    #[test]
    fn a_used_unit_without_a_price_makes_the_request_unpriced() {
        let entry = entry(json!({"input": "3", "request": "0.5"}));
        let used = units(&[("in_text", 1), ("out_text", 1)]);
        let input_and_request = 3_000_000 + 500_000_000_000;
        assert_eq!(entry.cost_of_priced(&used, None), Some((input_and_request, false)));
        let whole = entry.cost_of_priced(&units(&[("in_text", 1)]), None);
        assert_eq!(whole, Some((input_and_request, true)));
        assert!(entry.prices_tokens(true, false) && !entry.prices_tokens(true, true));
        assert_eq!(entry.cost_pico(&units(&[("in_text", 1), ("out_text", 1)]), None), None);
        assert_eq!(entry.cost_pico(&units(&[("in_text", 1), ("web_search", 1)]), None), None);
        assert_eq!(entry.cost_pico(&Units::default(), None), Some(500_000_000_000));
    }

    #[test]
    fn the_tier_that_served_decides_and_an_unknown_one_costs_the_base_price() {
        let entry = entry(json!({
            "input": "4", "cached_read": "1", "output": "8",
            "tiers": {"batch": {"input": "2", "output": "4"}, "priority": {"input": "7"}},
        }));
        let used = units(&[("in_text", 1), ("in_cache_read", 1), ("out_text", 1)]);
        let cost = |tier| entry.cost_pico(&used, tier);
        assert_eq!(cost(None), Some(13_000_000));
        assert_eq!(cost(Some("default")), Some(13_000_000));
        assert_eq!(cost(Some("batch")), Some(7_000_000), "the cached read is not named: base");
        assert_eq!(cost(Some("priority")), Some(16_000_000));
    }

    #[test]
    fn long_input_of_any_kind_reprices_every_token() {
        let entry = entry(json!({
            "input": "1", "cached_read": "0.1", "output": "10",
            "long_context": [
                {"above": 500, "input": "4", "output": "40"},
                {"above": 200, "input": "2", "cached_read": "0.2", "output": "20"},
            ],
        }));
        let cost = |text, cached| {
            let used = units(&[("in_text", text), ("in_cache_read", cached), ("out_text", 1)]);
            entry.cost_pico(&used, None).expect("priced")
        };
        assert_eq!(cost(100, 100), 100_000_000 + 10_000_000 + 10_000_000, "200 is not above");
        assert_eq!(cost(101, 100), 202_000_000 + 20_000_000 + 20_000_000);
        assert_eq!(cost(1, 500), 4_000_000 + 50_000_000 + 40_000_000, "steps do not add up");
    }

    #[test]
    fn a_tier_has_its_own_long_context_or_that_of_the_base() {
        let entry = entry(json!({
            "input": "2", "output": "10",
            "long_context": [{"above": 200, "input": "4"}],
            "tiers": {
                "batch": {"input": "1", "long_context": [{"above": 300, "input": "2.5"}]},
                "flex": {"input": "1.5", "output": "6"},
            },
        }));
        let cost = |tier, tokens| {
            entry.cost_pico(&units(&[("in_text", tokens), ("out_text", 1)]), Some(tier))
        };
        assert_eq!(cost("batch", 250), Some(250_000_000 + 10_000_000));
        assert_eq!(cost("batch", 400), Some(1_000_000_000 + 10_000_000));
        assert_eq!(cost("flex", 200), Some(300_000_000 + 6_000_000));
        assert_eq!(cost("flex", 400), Some(1_600_000_000 + 6_000_000));
    }

    #[test]
    fn parts_of_a_second_are_rounded_once_a_half_to_the_even_neighbour() {
        let entry = entry(json!({"second": "0.000000000003"}));
        let cost = |milli| entry.cost_pico(&units(&[("seconds_in_milli", milli)]), None);
        assert_eq!((cost(1000), cost(500), cost(1500)), (Some(3), Some(2), Some(4)));
        assert_eq!((cost(166), cost(167)), (Some(0), Some(1)));
    }

    #[test]
    fn absurd_counts_overflow_to_no_cost_and_never_wrap() {
        let mut entry = entry(json!({"input": "1", "output": "1"}));
        entry.base.set("input", "4000000000000").expect("a price");
        entry.base.set("output", "4000000000000").expect("a price");
        let full = units(&[
            ("in_text", u64::MAX),
            ("in_audio", u64::MAX),
            ("in_image", u64::MAX),
            ("out_text", u64::MAX),
            ("out_audio", u64::MAX),
        ]);
        assert_eq!(entry.cost_pico(&full, None), None);
        let ceiling = entry.ceiling();
        let most = Ceiling { request_pico: u64::MAX, ..ceiling };
        assert!(most.cost_pico(u64::MAX, u64::MAX) > u128::from(u64::MAX));
    }

    #[test]
    fn the_version_names_the_content() {
        let body = json!({"input": "3", "output": "15", "tiers": {"batch": {"input": "1.5"}}});
        let (one, same) = (entry(body.clone()), entry(body));
        assert_eq!(one.version, same.version);
        // Records carry it: it must not change from one build to the next.
        assert_eq!(one.version, VERSION, "{}", one.canonical_json());
        let other = entry(json!({"input": "3.0", "output": "15.000001"}));
        assert_ne!(one.version, other.version);
        let zeros = entry(json!({"input": "3.00", "output": "15.000001"}));
        assert_eq!(zeros.version, other.version, "the same number in another form");
    }

    const VERSION: u64 = 1_782_776_403_796_669_806;

    fn price_text() -> impl Strategy<Value = String> {
        (0u64..200_000_000).prop_map(crate::money::format_per_million)
    }

    prop_compose! {
        fn prices()(
            named in prop::collection::vec((0..14usize, price_text()), 0..8),
            request in prop::option::of(0u64..1000),
        ) -> Value {
            let mut body = serde_json::Map::new();
            for (at, text) in named {
                body.insert(Prices::NAMES[at].to_owned(), Value::from(text));
            }
            if let Some(request) = request {
                body.insert("request".to_owned(), Value::from(request.to_string()));
            }
            Value::Object(body)
        }
    }

    prop_compose! {
        fn steps()(steps in prop::collection::btree_map(1u64..2000, prices(), 0..3)) -> Value {
            let steps = steps.into_iter().map(|(above, mut step)| {
                step["above"] = Value::from(above);
                step
            });
            Value::from(steps.collect::<Vec<_>>())
        }
    }

    prop_compose! {
        fn any_entry()(
            mut body in prices(), long in steps(), mut tier in prices(), tier_long in steps(),
        ) -> Entry {
            tier["long_context"] = tier_long;
            body["input"] = Value::from("1.25");
            body["output"] = Value::from("0.75");
            body["long_context"] = long;
            body["tiers"] = json!({"flex": tier});
            entry(body)
        }
    }

    proptest! {
        #[test]
        fn no_request_costs_more_than_the_ceiling(
            entry in any_entry(),
            counts in prop::array::uniform14(0u64..1000),
            tier in prop::option::of(Just("flex")),
        ) {
            let mut values = [0; Units::COUNT];
            values[..14].copy_from_slice(&counts);
            let used = Units::from_values(values);
            let cost = entry.cost_pico(&used, tier).expect("every token has a price");
            let most = entry.ceiling().cost_pico(used.input_total(), used.output_total());
            prop_assert!(cost <= most, "{cost} > {most}");
        }

        #[test]
        fn json_keeps_everything(entry in any_entry()) {
            prop_assert_eq!(Entry::from_json(&entry.to_json()), Ok(entry));
        }
    }
}
