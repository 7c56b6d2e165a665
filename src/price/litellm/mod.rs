//! Import of the price map `model_prices_and_context_window.json`, as LiteLLM publishes it: one
//! object with a member for each model, whose fields are prices of single units in USD.
//!
//! Its numbers are read as the decimal text that they are. What is finer than a pico-unit is rounded
//! and told; what has no counterpart here is left out and told.

mod fields;
mod names;
mod number;

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use self::fields::{Field, field, reason};
use self::names::{is_of_one_size, model_name, provider_name};
use self::number::{pico, times, whole};
use super::entry::{Entry, LongContext, Tier};
use super::prices::{Kind, Prices};
use crate::money::{Currency, format_pico};

/// One model of the map: its fields as they stand in the text.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// The entries of a price map, valid from `unix_ms` on, in the order of the map's names; and a line
/// for everything that was left out, rounded or chosen, which begins with the model's name.
///
/// # Errors
/// The text is no JSON object; the sentence says where.
pub fn import(map: &str, unix_ms: u64) -> Result<(Vec<Entry>, Vec<String>), String> {
    let models: BTreeMap<String, &RawValue> = serde_json::from_str(map)
        .map_err(|fault| format!("is no price map, an object with a member per model: {fault}"))?;
    let mut read = BTreeMap::new();
    let mut notes = Vec::new();
    for (name, model) in models {
        match serde_json::from_str::<Fields<'_>>(model.get()) {
            _ if name == "sample_spec" => {}
            Ok(fields) => {
                read.insert(name, fields);
            }
            Err(_) => notes.push(format!("{name}: left out: it is no object")),
        }
    }
    let mut entries: Vec<Entry> = Vec::new();
    let mut places: BTreeMap<(String, String), (usize, &str)> = BTreeMap::new();
    for (name, fields) in &read {
        let entry = match entry(name, fields, &read, &mut notes) {
            Ok(entry) => entry,
            Err(why) => {
                notes.push(format!("{name}: left out: {why}"));
                continue;
            }
        };
        let entry = Entry { valid_from_unix_ms: unix_ms, ..entry }.stamped();
        match places.get(&(entry.provider.clone(), entry.model.clone())) {
            Some((place, _)) if entries[*place] == entry => {}
            Some((_, other)) => {
                notes.push(format!("{name}: left out: {other} is the same model at other prices"));
            }
            None => {
                let key = (entry.provider.clone(), entry.model.clone());
                places.insert(key, (entries.len(), name));
                entries.push(entry);
            }
        }
    }
    Ok((entries, notes))
}

fn entry(
    name: &str,
    fields: &Fields<'_>,
    all: &BTreeMap<String, Fields<'_>>,
    notes: &mut Vec<String>,
) -> Result<Entry, String> {
    if is_of_one_size(name) {
        return Err("its price hangs on size and quality, which a model's name does not say".into());
    }
    let fields = match text(fields, "alias_of") {
        None => fields,
        Some(other) => all.get(&other).ok_or(format!("it stands for {other}, which is missing"))?,
    };
    let named = text(fields, "litellm_provider").ok_or("it names no provider")?;
    let mut draft = Draft { model: name, notes, base: Layer::default(), tiers: BTreeMap::new() };
    draft.read(fields);
    draft.settle()?;
    let provider = provider_name(&named);
    let model = model_name(name, &named, &provider).to_owned();
    let tiers = draft.tiers.into_iter().map(|(name, layer)| {
        let (prices, long_context) = layer.parts();
        Tier { name: name.to_owned(), prices, long_context }
    });
    let tiers = tiers.collect();
    let (base, long_context) = draft.base.parts();
    Ok(Entry {
        provider,
        model,
        group: None,
        currency: Currency::USD,
        valid_from_unix_ms: 0,
        base,
        tiers,
        long_context,
        version: 0,
    })
}

/// A field that is a text.
fn text(fields: &Fields<'_>, name: &str) -> Option<String> {
    serde_json::from_str(fields.get(name)?.get()).ok()
}

/// The prices of the base or of one tier.
#[derive(Default)]
struct Layer {
    prices: Prices,
    long: BTreeMap<u64, Prices>,
}

impl Layer {
    fn each(&mut self) -> impl Iterator<Item = &mut Prices> {
        std::iter::once(&mut self.prices).chain(self.long.values_mut())
    }

    fn parts(self) -> (Prices, Vec<LongContext>) {
        let steps = self.long.into_iter();
        let steps = steps.map(|(above_tokens, prices)| LongContext { above_tokens, prices });
        (self.prices, steps.collect())
    }
}

/// The prices of one model while they are gathered.
struct Draft<'a> {
    model: &'a str,
    notes: &'a mut Vec<String>,
    base: Layer,
    tiers: BTreeMap<&'static str, Layer>,
}

impl Draft<'_> {
    fn note(&mut self, what: std::fmt::Arguments<'_>) {
        self.notes.push(format!("{}: {what}", self.model));
    }

    fn read(&mut self, fields: &Fields<'_>) {
        let mode = text(fields, "mode").unwrap_or_default();
        for (name, raw) in fields {
            let raw = raw.get();
            match name.as_str() {
                "search_context_cost_per_query" => self.search(raw),
                "tiered_pricing" => self.ranges(raw),
                "input_cost_per_query" => {
                    let kind = if mode == "rerank" { Kind::SearchUnit } else { Kind::Request };
                    self.take(name, Field { kind, tier: None, above_tokens: None }, raw);
                }
                // Elsewhere it is the price of a machine, or of a film.
                "input_cost_per_second"
                    if !["", "audio_transcription", "realtime"].contains(&mode.as_str()) =>
                {
                    self.leave(name, raw);
                }
                _ => match field(name) {
                    Some(field) => self.take(name, field, raw),
                    None => self.leave(name, raw),
                },
            }
        }
        if let Some(raw) = fields.get("provider_specific_entry") {
            self.factors(raw.get());
        }
    }

    /// Takes a price over; the first of two for the same counts.
    fn take(&mut self, name: &str, field: Field, raw: &str) {
        if raw == "null" {
            return;
        }
        let price = match pico(raw) {
            Ok(price) => price,
            Err(why) => return self.note(format_args!("{name} is left out: it {why}")),
        };
        let layer = match field.tier {
            Some(tier) => self.tiers.entry(tier).or_default(),
            None => &mut self.base,
        };
        let prices = match field.above_tokens {
            Some(above) => layer.long.entry(above).or_default(),
            None => &mut layer.prices,
        };
        if prices.pico(field.kind).is_some() {
            return;
        }
        if !prices.set_pico(field.kind, Some(price.pico)) {
            return self.note(format_args!("{name} is left out: it is too large"));
        }
        if !price.exact {
            let taken = format_pico(i128::from(price.pico));
            self.note(format_args!("{name} is {raw}, finer than is counted: taken as {taken}"));
        }
    }

    /// Tells what is left out, unless it costs nothing or is no price at all.
    fn leave(&mut self, name: &str, raw: &str) {
        let is_cost = name.contains("cost") && !name.contains("dbu");
        let is_cost = is_cost || name.contains("uplift") || name.contains("_pricing");
        let is_free = pico(raw).is_ok_and(|price| price.pico == 0 && price.exact);
        if is_cost && !is_free && raw != "null" {
            self.note(format_args!("{name} is left out: {}", reason(name)));
        }
    }

    /// A web search, whose price may hang on how much of its results is read.
    fn search(&mut self, raw: &str) {
        let name = "search_context_cost_per_query";
        let Ok(sizes) = serde_json::from_str::<Fields<'_>>(raw) else {
            return self.note(format_args!("{name} is left out: it is no object"));
        };
        let sizes: Vec<_> = sizes.iter().map(|(name, raw)| (&name[..], raw.get())).collect();
        let medium = sizes.iter().find(|(name, _)| name.ends_with("medium")).or(sizes.first());
        let Some(&(chosen, price)) = medium else { return };
        if sizes.iter().any(|(_, other)| pico(other) != pico(price)) {
            let all: Vec<_> = sizes.iter().map(|(name, price)| format!("{name} {price}")).collect();
            self.note(format_args!("{name} has {}; {chosen} is taken", all.join(", ")));
        }
        let field = Field { kind: Kind::WebSearch, tier: None, above_tokens: None };
        self.take(name, field, price);
    }

    /// Prices by ranges of input: what a range begins with is the threshold.
    fn ranges(&mut self, raw: &str) {
        let Ok(ranges) = serde_json::from_str::<Vec<Fields<'_>>>(raw) else {
            return self.note(format_args!("tiered_pricing is left out: it is no list of ranges"));
        };
        for range in ranges {
            let bounds = range.get("range").map(|raw| serde_json::from_str(raw.get()));
            let start = match bounds {
                Some(Ok::<Vec<&RawValue>, _>(bounds)) => {
                    bounds.first().and_then(|at| whole(at.get()))
                }
                _ => None,
            };
            let Some(start) = start else {
                self.note(format_args!("tiered_pricing: a range without bounds is left out"));
                continue;
            };
            for (name, raw) in range.iter().filter(|(name, _)| *name != "range") {
                match field(name) {
                    Some(field) if field.above_tokens.is_none() => {
                        let above_tokens = (start > 0).then_some(start);
                        self.take(name, Field { above_tokens, ..field }, raw.get());
                    }
                    _ => self.leave(name, raw.get()),
                }
            }
        }
    }

    /// Factors on all prices, among flags that concern nobody here. That of fast answers makes a
    /// tier; those of regions have names of two letters.
    fn factors(&mut self, raw: &str) {
        let Ok(factors) = serde_json::from_str::<Fields<'_>>(raw) else { return };
        for (name, factor) in factors {
            let factor = factor.get();
            if name != "fast" {
                if name.len() == 2 {
                    let why = reason("uplift");
                    self.note(format_args!("{name}, a factor of {factor}, is left out: {why}"));
                }
                continue;
            }
            let mut fast = Layer { prices: self.base.prices, long: self.base.long.clone() };
            for prices in fast.each() {
                prices.keep_tokens(|price| times(price, factor));
            }
            self.tiers.insert("fast", fast);
        }
    }

    /// Takes out what says nothing, and refuses a model that then has no price.
    fn settle(&mut self) -> Result<(), String> {
        if self.base.prices.pico(Kind::ImageOut).is_some()
            && self.base.prices.pico(Kind::Image).is_some()
        {
            self.base.prices.set_pico(Kind::Image, None);
            let why = "the tokens of images are priced";
            self.note(format_args!("output_cost_per_image is left out: {why}"));
        }
        for (kind, stand_in) in STAND_INS {
            let mut layers = self.layers();
            let says_nothing = |prices: &Prices| {
                prices.pico(*kind).is_none() || prices.pico(*kind) == prices.pico(*stand_in)
            };
            if layers.iter().all(|prices| says_nothing(prices)) {
                for prices in &mut layers {
                    prices.set_pico(*kind, None);
                }
            }
        }
        // A step without prices would still keep the base's steps from its tier.
        self.base.long.retain(|_, prices| !prices.is_empty());
        self.tiers.retain(|_, layer| {
            layer.long.retain(|_, prices| !prices.is_empty());
            !layer.prices.is_empty() || !layer.long.is_empty()
        });
        let layers = self.layers();
        if layers.iter().all(|prices| prices.is_empty()) {
            return Err("it has no price that is known here".into());
        }
        if layers.iter().all(|prices| prices.is_free()) {
            self.note(format_args!("all its prices are 0: taken as free"));
        }
        Ok(())
    }

    fn layers(&mut self) -> Vec<&mut Prices> {
        self.base.each().chain(self.tiers.values_mut().flat_map(Layer::each)).collect()
    }
}

/// Kinds whose price the map often repeats, with the kind whose price is repeated. Said twice it
/// would not follow a tier that names only the latter.
const STAND_INS: &[(Kind, Kind)] = &[
    (Kind::AudioIn, Kind::Input),
    (Kind::ImageIn, Kind::Input),
    (Kind::VideoIn, Kind::Input),
    (Kind::Reasoning, Kind::Output),
    (Kind::AudioOut, Kind::Output),
    (Kind::ImageOut, Kind::Output),
];

#[cfg(test)]
mod tests;
