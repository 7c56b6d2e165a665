//! What is taken from a price map, at which prices, and what is told about the rest.

use serde_json::{Value, json};

use super::import;
use crate::price::{Book, Entry};
use crate::store::Units;

fn read(map: &Value) -> (Vec<Entry>, Vec<String>) {
    import(&map.to_string(), 7).expect("a price map")
}

/// The only entry, in the names of a configuration.
fn one(model: Value) -> (Value, Vec<String>) {
    let (entries, notes) = read(&json!({"m": model}));
    assert_eq!(entries.len(), 1, "{notes:?}");
    assert_eq!((entries[0].valid_from_unix_ms, entries[0].group.as_deref()), (7, None));
    let mut body = entries[0].to_json();
    assert_eq!(
        Entry::from_json(&body).as_ref(),
        Ok(&entries[0]),
        "what is imported can be written"
    );
    let body_map = body.as_object_mut().expect("an object");
    for key in ["provider", "model", "currency", "valid_from"] {
        body_map.remove(key);
    }
    (body, notes)
}

#[test]
fn prices_tiers_and_thresholds_come_out_exactly() {
    let map = r#"{
        "sample_spec": {"litellm_provider": "one of", "input_cost_per_token": 0.0},
        "gemini/gemini-x": {
            "litellm_provider": "gemini", "mode": "chat", "max_tokens": 8192,
            "input_cost_per_token": 1.25e-06, "output_cost_per_token": 0.00001,
            "input_cost_per_token_above_200k_tokens": 2.5E-6,
            "output_cost_per_token_above_200k_tokens": "1.5e-05",
            "cache_read_input_token_cost": 1.25e-07,
            "cache_read_input_token_cost_above_200k_tokens": 2.5e-07,
            "cache_creation_input_token_cost": 1.5625e-06,
            "cache_creation_input_token_cost_above_1hr": 2.5e-06,
            "input_cost_per_audio_token": 3e-06, "output_cost_per_image_token": 3e-05,
            "input_cost_per_token_batches": 6.25e-07, "output_cost_per_token_batches": 5e-06,
            "input_cost_per_token_above_200k_tokens_batches": 1.25e-06,
            "input_cost_per_token_priority": 2.25e-06, "output_cost_per_token_flex": 5e-06,
            "search_context_cost_per_query": {
                "search_context_size_high": 0.035, "search_context_size_low": 0.035,
                "search_context_size_medium": 0.035
            }
        }
    }"#;
    let (entries, notes) = import(map, 0).expect("a price map");
    assert_eq!(notes, Vec::<String>::new());
    let want = json!({
        "provider": "gemini", "model": "gemini-x", "currency": "USD",
        "input": "1.25", "output": "10", "cached_read": "0.125", "cache_write": "1.5625",
        "cache_write_1h": "2.5", "audio_in": "3", "image_out": "30", "web_search": "0.035",
        "long_context": [
            {"above": 200000, "input": "2.5", "output": "15", "cached_read": "0.25"},
        ],
        "tiers": {
            "batch": {
                "input": "0.625", "output": "5",
                "long_context": [{"above": 200000, "input": "1.25"}],
            },
            "priority": {"input": "2.25"},
            "flex": {"output": "5"},
        },
    });
    assert_eq!(entries.len(), 1);
    assert_eq!(entries[0].to_json(), want);
}

#[test]
fn prices_that_are_not_of_tokens() {
    let (body, _) = one(json!({
        "litellm_provider": "openai", "mode": "audio_transcription",
        "input_cost_per_second": 0.0001, "output_cost_per_second": 0.0,
    }));
    assert_eq!(body, json!({"second": "0.0001"}));
    let (body, _) = one(json!({
        "litellm_provider": "openai", "mode": "audio_speech", "input_cost_per_character": 1.5e-5,
    }));
    assert_eq!(body, json!({"characters": "15"}));
    let (body, _) = one(json!({
        "litellm_provider": "cohere", "mode": "rerank", "input_cost_per_query": 0.002,
    }));
    assert_eq!(body, json!({"search_unit": "0.002"}));
    let (body, _) = one(json!({
        "litellm_provider": "openai", "mode": "image_generation", "output_cost_per_image": 0.04,
    }));
    assert_eq!(body, json!({"image": "0.04"}));
    let (body, _) = one(json!({
        "litellm_provider": "perplexity", "input_cost_per_request": 0.005,
        "input_cost_per_token": 1e-6,
    }));
    assert_eq!(body, json!({"request": "0.005", "input": "1"}));
}

#[test]
fn what_repeats_the_price_of_plain_tokens_is_not_said_twice() {
    let (body, _) = one(json!({
        "litellm_provider": "p", "input_cost_per_token": 1e-6, "input_cost_per_audio_token": 1e-6,
        "output_cost_per_token": 4e-6, "output_cost_per_reasoning_token": 4e-6,
        "input_cost_per_token_batches": 5e-7, "output_cost_per_token_batches": 2e-6,
    }));
    // Had `reasoning` stayed, the batch tier would charge its full price.
    let batch = json!({"input": "0.5", "output": "2"});
    assert_eq!(body, json!({"input": "1", "output": "4", "tiers": {"batch": batch}}));
    let (body, _) = one(json!({
        "litellm_provider": "p", "output_cost_per_token": 4e-6,
        "output_cost_per_reasoning_token": 3e-6,
    }));
    assert_eq!(body, json!({"output": "4", "reasoning": "3"}));
}

#[test]
fn ranges_of_input_become_thresholds() {
    let (body, notes) = one(json!({
        "litellm_provider": "dashscope",
        "tiered_pricing": [
            {"range": [0, 256000.0], "input_cost_per_token": 5e-8, "output_cost_per_token": 4e-7},
            {"range": [256000.0, 1e6], "input_cost_per_token": 2.5e-7, "output_cost_per_token": 2e-6},
            {"input_cost_per_token": 1e-6},
        ],
    }));
    let step = json!({"above": 256000, "input": "0.25", "output": "2"});
    assert_eq!(body, json!({"input": "0.05", "output": "0.4", "long_context": [step]}));
    assert_eq!(notes, ["m: tiered_pricing: a range without bounds is left out"]);
}

#[test]
fn a_tier_without_a_good_threshold_keeps_those_of_the_base() {
    let (body, notes) = one(json!({
        "litellm_provider": "p", "input_cost_per_token": 1e-6,
        "input_cost_per_token_above_200k_tokens": 2e-6, "input_cost_per_token_batches": 5e-7,
        "input_cost_per_token_above_200k_tokens_batches": 9e6,
    }));
    let long = json!([{"above": 200000, "input": "2"}]);
    let want = json!({"input": "1", "long_context": long, "tiers": {"batch": {"input": "0.5"}}});
    assert_eq!(body, want);
    let field = "input_cost_per_token_above_200k_tokens_batches";
    assert_eq!(notes, [format!("m: {field} is left out: it is too large")]);
}

#[test]
fn fast_answers_are_a_tier_at_their_factor() {
    let (body, notes) = one(json!({
        "litellm_provider": "anthropic", "input_cost_per_token": 4e-6,
        "cache_read_input_token_cost": 2e-7, "output_cost_per_token": 2e-5,
        "search_context_cost_per_query": {"search_context_size_medium": 0.01},
        "provider_specific_entry": {"us": 1.1, "fast": 2.5, "some_flag": 1},
    }));
    let fast = json!({"input": "10", "cached_read": "0.5", "output": "50"});
    assert_eq!(body["tiers"], json!({"fast": fast}));
    assert_eq!(
        notes,
        ["m: us, a factor of 1.1, is left out: a surcharge by region is not known here"]
    );
}

#[test]
fn what_is_left_out_rounded_or_chosen_is_told() {
    let (entries, notes) = read(&json!({
        "a": {"litellm_provider": "p", "input_cost_per_token": 3.0000000000000004e-7},
        "b": {"litellm_provider": "p", "input_cost_per_token": 1e-6, "input_cost_per_pixel": 1e-8,
              "output_cost_per_pixel": 0.0, "fedramp_uplift_multiplier": 1.1,
              "cache_creation_input_token_cost_above_12hr": 1e-6},
        "c": {"litellm_provider": "p", "max_tokens": 5},
        "d": {"litellm_provider": "p", "input_cost_per_token": -1e-6, "output_cost_per_token": "x"},
        "e": {"input_cost_per_token": 1e-6},
        "f": 5,
        "g": {"litellm_provider": "p", "input_cost_per_token": 0.0, "output_cost_per_token": 0},
        "h": {"litellm_provider": "p", "search_context_cost_per_query": {
              "search_context_size_low": 0.03, "search_context_size_medium": 0.035}},
        "hd/1024-x-1024/dall-e-3": {"litellm_provider": "p", "output_cost_per_image": 0.08},
        "i": {"litellm_provider": "p", "input_cost_per_token": null, "output_cost_per_token": 1e-6},
        "j": {"litellm_provider": "p", "mode": "chat", "input_cost_per_token": 1e-6,
              "input_cost_per_second": 0.5},
        "k": {"litellm_provider": "p", "output_cost_per_image": 0.04,
              "output_cost_per_image_token": 3e-5},
        "p/a": {"litellm_provider": "p", "input_cost_per_token": 9e-6},
        "p/i": {"litellm_provider": "p", "output_cost_per_token": 1e-6},
        "z": {"alias_of": "p/i"},
        "zz": {"alias_of": "gone"},
    }));
    let models: Vec<&str> = entries.iter().map(|entry| &entry.model[..]).collect();
    assert_eq!(models, ["a", "b", "g", "h", "i", "j", "k", "z"]);
    assert_eq!(entries[0].base.get("input").as_deref(), Some("0.3"));
    assert_eq!(entries[7].base.get("output").as_deref(), Some("1"), "an alias has its prices");
    let told = notes.join("\n");
    for want in [
        "a: input_cost_per_token is 3.0000000000000004e-7, finer than is counted: taken as 0.0000003",
        "b: input_cost_per_pixel is left out: the price of a pixel",
        "b: fedramp_uplift_multiplier is left out: a surcharge by region",
        "b: cache_creation_input_token_cost_above_12hr is left out: caches of that lifetime",
        "c: left out: it has no price",
        "d: input_cost_per_token is left out: it is negative",
        "d: output_cost_per_token is left out: it is no number",
        "d: left out: it has no price",
        "e: left out: it names no provider",
        "f: left out: it is no object",
        "g: all its prices are 0: taken as free",
        "h: search_context_cost_per_query has search_context_size_low 0.03, \
         search_context_size_medium 0.035; search_context_size_medium is taken",
        "hd/1024-x-1024/dall-e-3: left out: its price hangs on size",
        "j: input_cost_per_second is left out: only seconds of a transcription are counted",
        "k: output_cost_per_image is left out: the tokens of images are priced",
        "p/a: left out: a is the same model at other prices",
        "zz: left out: it stands for gone, which is missing",
    ] {
        assert!(told.contains(want), "{want}\n---\n{told}");
    }
    assert_eq!(notes.len(), 17, "{told}");
}

#[test]
fn a_text_that_is_no_map_is_refused() {
    for text in ["", "[]", "5", "{", r#"{"a": {}"#, "\u{0}"] {
        let fault = import(text, 0).expect_err(text);
        assert!(fault.starts_with("is no price map"), "{fault}");
    }
    let deep = format!(r#"{{"a": {}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    let (entries, notes) = import(&deep, 0).expect("an object");
    assert_eq!((entries.len(), &notes[..]), (0, &["a: left out: it is no object".to_owned()][..]));
}

#[test]
fn an_imported_price_is_charged() {
    let (entries, _) = read(&json!({
        "openai/m": {"litellm_provider": "openai", "input_cost_per_token": 1.5e-7,
                     "output_cost_per_token": 6e-7},
    }));
    let book = Book::new(entries);
    let list = book.find("openai", "m", None).expect("a price");
    let used = Units { in_text: 1000, out_text: 10, ..Units::default() };
    let cost = list.at(7).and_then(|entry| entry.cost_pico(&used, None));
    assert_eq!(cost, Some(150_000_000 + 6_000_000));
}
