//! `config/prices.toml`: that it can be read, and that it says what its readers will rely on.

use serde_json::Value;

use super::{Book, Entry};
use crate::store::Units;

const LIST: &str = include_str!("../../config/prices.toml");

fn entries() -> Vec<Entry> {
    let list: toml::Table = LIST.parse().expect("the list is TOML");
    assert_eq!(list.keys().collect::<Vec<_>>(), ["price"]);
    let list = serde_json::to_value(list).expect("TOML without dates is JSON");
    let tables = list["price"].as_array().expect("[[price]]");
    let entry =
        |table: &Value| Entry::from_json(table).unwrap_or_else(|f| panic!("{table}: {f:?}"));
    tables.iter().map(entry).collect()
}

fn cost(book: &Book, provider: &str, model: &str, at: &str, tier: Option<&str>) -> Option<u128> {
    let at: jiff::Timestamp = at.parse().expect("a time");
    let list = book.find(provider, model, None)?;
    let used = Units { in_text: 1000, in_cache_read: 500, out_text: 100, ..Units::default() };
    list.at(at.as_millisecond().unsigned_abs())?.cost_pico(&used, tier)
}

#[test]
fn the_list_is_read_without_a_fault_and_says_nothing_twice() {
    let entries = entries();
    assert!(entries.len() > 100, "{}", entries.len());
    let count = entries.len();
    assert_eq!(Book::new(entries.clone()).entries().len(), count, "a model is in it twice");
    for entry in &entries {
        assert_eq!(entry.currency.as_str(), "USD", "{}", entry.model);
        assert_eq!(entry.group, None, "{}: it says what upstreams charge", entry.model);
    }
    for provider in ["openai", "anthropic", "gemini", "mistral", "deepseek", "groq"] {
        assert!(entries.iter().any(|entry| entry.provider == provider), "{provider}");
    }
}

#[test]
fn a_slip_of_the_decimal_point_would_be_seen() {
    let micro = |entry: &Entry, name: &str| {
        let text = entry.base.get(name)?;
        Some(crate::money::parse_amount(&text).expect("an amount"))
    };
    for entry in entries() {
        let name = &entry.model;
        let [input, output, read] =
            ["input", "output", "cached_read"].map(|name| micro(&entry, name));
        if let (Some(input), Some(output)) = (input, output) {
            assert!(output >= input && output <= input * 20, "{name}: output");
            assert!(input <= 200 * crate::money::PICO, "{name}: input");
        }
        if let (Some(input), Some(read)) = (input, read) {
            assert!(read * 2 <= input && read * 60 >= input, "{name}: cached_read");
        }
        let plain = Units { in_text: 10, out_text: 10, ..Units::default() };
        let Some(base) = entry.cost_pico(&plain, None) else { continue };
        for tier in ["batch", "flex"] {
            let cost = entry.cost_pico(&plain, Some(tier)).expect("priced");
            assert!(cost == base || cost * 2 == base, "{name}: {tier}");
        }
        for tier in ["priority", "fast"] {
            let cost = entry.cost_pico(&plain, Some(tier)).expect("priced");
            assert!(cost >= base && cost * 2 <= base * 5, "{name}: {tier}");
        }
    }
}

#[test]
fn models_are_found_by_the_names_that_callers_use() {
    let book = Book::new(entries());
    let now = "2026-11-24T00:00:00Z";
    for (provider, model, want) in [
        ("openai", "gpt-4o", Some(2_500_000_000 + 625_000_000 + 1_000_000_000)),
        ("openai", "gpt-4o-2024-08-06", Some(2_500_000_000 + 625_000_000 + 1_000_000_000)),
        ("openai", "gpt-4o-2024-05-13", Some(5_000_000_000 + 2_500_000_000 + 1_500_000_000)),
        ("openai", "gpt-4o-mini-2024-07-18", Some(150_000_000 + 37_500_000 + 60_000_000)),
        ("openai", "gpt-4.1-mini-2025-04-14", Some(400_000_000 + 50_000_000 + 160_000_000)),
        (
            "anthropic",
            "claude-sonnet-4-20250514",
            Some(3_000_000_000 + 150_000_000 + 1_500_000_000),
        ),
        ("anthropic", "claude-haiku-4-5", Some(1_000_000_000 + 50_000_000 + 500_000_000)),
        ("groq", "openai/gpt-oss-120b", Some(150_000_000 + 37_500_000 + 60_000_000)),
        // No price at all is better than that of another model.
        ("openai", "gpt-4o-unheard-of", None),
        ("openai", "gpt-99", None),
    ] {
        assert_eq!(cost(&book, provider, model, now, None), want, "{model}");
    }
}

#[test]
fn what_ends_with_the_year_ends_with_the_year() {
    let book = Book::new(entries());
    let cost = |at| cost(&book, "gemini", "gemini-3.8-flash", at, None);
    let half = 750_000_000 + 37_500_000 + 375_000_000;
    assert_eq!(cost("2026-12-31T23:59:59.999Z"), Some(half));
    assert_eq!(cost("2027-01-01T00:00:00Z"), Some(2 * half));
}
