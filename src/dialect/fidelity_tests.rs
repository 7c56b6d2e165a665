//! Generated bodies: what the scan reads is what a parser reads, and what is changed is only what
//! was meant to be. Random bytes: nothing panics.

use proptest::prelude::*;
use serde_json::Value;

use super::endpoint::{ENDPOINTS, Endpoint, find};
use super::errors::{classify, scrub};
use super::peek::peek;
use super::retry_after::reset_ms;
use super::splice::splice;
use super::stream::{StreamKind, StreamReader};
use super::unary::{UnaryReader, inspect};
use crate::error::Kind;

fn blank() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just(""), 1 => Just(" "), 1 => Just("\n\t"), 1 => Just("\r\n ")]
}

/// A JSON string in odd spellings.
fn string() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a-zA-Z0-9/:._-]{0,8}",
        1 => any::<char>().prop_map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if (c as u32) < 0x20 => format!("\\u{:04x}", c as u32),
            c => c.to_string(),
        }),
        1 => prop::sample::select(vec![
            "\\n", "\\\"", "\\\\", "\\u00e9", "\\ud83c\\udf0d", "\\/", "]}", "{[", "\\ud800", "\\x",
            "\n", "'", "//",
        ]).prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..4).prop_map(|parts| format!("\"{}\"", parts.concat()))
}

fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        string(),
        prop::sample::select(vec![
            "null",
            "true",
            "false",
            "0",
            "-1",
            "1.5e-7",
            "123456789012345678901234567890",
            "7",
            "01",
            "nul",
            "1e999",
            "{}",
            "[]",
        ])
        .prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec((blank(), inner.clone()), 0..4).prop_map(|items| {
                let items: Vec<_> = items.iter().map(|(b, v)| format!("{b}{v}{b}")).collect();
                format!("[{}]", items.join(","))
            }),
            prop::collection::vec((string(), blank(), inner), 0..4).prop_map(|items| {
                let items: Vec<_> =
                    items.iter().map(|(k, b, v)| format!("{b}{k}{b}:{b}{v}")).collect();
                format!("{{{}}}", items.join(","))
            }),
        ]
    })
}

fn member() -> impl Strategy<Value = String> {
    let keys = prop::sample::select(vec![
        "model",
        "stream",
        "stream_options",
        "max_tokens",
        "n",
        "messages",
        "tools",
        "user",
        "store",
        "prompt",
        "Model",
        "mod\\u0065l",
        "ſtream",
        "temperature",
        "x",
        "models",
        "metadata",
    ]);
    let flags = prop::sample::select(vec!["true", "false", "null"]).prop_map(str::to_owned);
    let options = prop_oneof![
        Just("null".to_owned()),
        Just("{}".to_owned()),
        (blank(), flags.clone()).prop_map(|(b, f)| format!("{{{b}\"include_usage\"{b}:{f}{b}}}")),
        (value(), flags.clone()).prop_map(|(v, f)| format!("{{\"a\":{v},\"include_usage\":{f}}}")),
    ];
    let fitting = prop_oneof![
        3 => string().prop_map(|model| format!("\"model\":{model}")),
        2 => flags.prop_map(|flag| format!("\"stream\":{flag}")),
        1 => options.prop_map(|options| format!("\"stream_options\":{options}")),
        1 => any::<i16>().prop_map(|n| format!("\"n\":{n}")),
        1 => any::<i64>().prop_map(|n| format!("\"max_tokens\":{n}")),
        3 => (string(), blank(), value()).prop_map(|(k, b, v)| format!("{k}{b}:{b}{v}")),
    ];
    prop_oneof![
        6 => fitting,
        1 => (keys, blank(), value()).prop_map(|(k, b, v)| format!("\"{k}\"{b}:{b}{v}")),
    ]
}

fn body() -> impl Strategy<Value = String> {
    let simple = "[a-z0-9-]{1,12}".prop_map(|model| Some(format!("\"model\":\"{model}\"")));
    let model = prop_oneof![3 => simple, 1 => Just(None)];
    (prop::collection::vec(member(), 0..5), model, any::<prop::sample::Index>(), blank()).prop_map(
        |(mut members, model, at, blank)| {
            if let Some(model) = model {
                members.retain(|member| !member.starts_with("\"model\""));
                let at = at.index(members.len() + 1);
                members.insert(at, model);
            }
            let comma = format!("{blank},{blank}");
            format!("{blank}{{{blank}{}{blank}}}{blank}", members.join(&comma))
        },
    )
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    prop_oneof![
        4 => Just(Endpoint::ChatCompletions),
        1 => prop::sample::select(ENDPOINTS.to_vec()),
    ]
}

/// Whether `value` is the same but for the members that may be changed.
fn same_rest(before: &Value, after: &Value) -> bool {
    let strip = |value: &Value| {
        let mut value = value.clone();
        let object = value.as_object_mut().expect("object");
        object.remove("model");
        object.remove("stream_options");
        value
    };
    strip(before) == strip(after)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 10_000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_scan_and_a_parser_read_the_same(body in body(), endpoint in endpoint()) {
        let parsed = serde_json::from_str::<Value>(&body);
        let asked = match peek(body.as_bytes(), endpoint) {
            Ok(asked) => asked,
            Err(error) => {
                prop_assert!(matches!(error.kind, Kind::InvalidJson | Kind::InvalidRequest));
                return Ok(());
            }
        };
        // What lies inside values that nobody acts on may still be refused by the upstream.
        let Ok(parsed) = parsed else { return Ok(()) };
        let model = parsed["model"].as_str().or(endpoint.default_model());
        prop_assert_eq!(Some(&asked.model.name[..]), model);
        prop_assert_eq!(asked.stream, parsed["stream"].as_bool().unwrap_or(false));
        prop_assert_eq!(
            asked.wants_usage(),
            parsed["stream_options"]["include_usage"].as_bool().unwrap_or(false)
        );

        for (to, force_usage) in [(None, false), (Some("other \"model\""), true), (None, true)] {
            let edits = splice(&asked, to, force_usage);
            let out: Vec<u8> = edits.pieces(body.as_bytes()).flatten().copied().collect();
            prop_assert_eq!(out.len(), edits.new_len(body.len()));
            let after: Value = serde_json::from_slice(&out).expect("still JSON");
            prop_assert!(same_rest(&parsed, &after));
            match to {
                Some(name) => prop_assert_eq!(after["model"].as_str(), Some(name)),
                None => prop_assert_eq!(&after["model"], &parsed["model"]),
            }
            let streams = matches!(endpoint, Endpoint::ChatCompletions | Endpoint::Completions);
            if force_usage && asked.stream && streams {
                prop_assert_eq!(&after["stream_options"]["include_usage"], &Value::Bool(true));
            } else {
                prop_assert_eq!(&after["stream_options"], &parsed["stream_options"]);
            }
            if to.is_none() && !force_usage {
                prop_assert_eq!(out, body.as_bytes());
            }
        }
    }

    #[test]
    fn bytes_at_random_never_panic(
        bytes in prop::collection::vec(
            prop_oneof![
                3 => prop::sample::select(b"{}[]\",:\\ \n\rdatauevnt0null".to_vec()),
                1 => any::<u8>(),
            ],
            0..200,
        ),
        cut in any::<prop::sample::Index>(),
    ) {
        for endpoint in [Endpoint::ChatCompletions, Endpoint::Responses, Endpoint::Completions] {
            let _ = peek(&bytes, endpoint);
            let mut reader = UnaryReader::new(endpoint);
            reader.feed(&bytes);
            let _ = (reader.usage(), inspect(&bytes));
        }
        let _ = classify(400, |_| None, &bytes, 0);
        let text = String::from_utf8_lossy(&bytes);
        let _ = (find("GET", &text), scrub(&text, &["\"{"]), reset_ms(&text, 0));
        let (head, tail) = bytes.split_at(cut.index(bytes.len() + 1));
        for kind in [StreamKind::Chat, StreamKind::Responses, StreamKind::Image] {
            let mut reader = StreamReader::new(kind, true);
            let mut out = Vec::new();
            reader.feed(head, &mut out);
            reader.feed(tail, &mut out);
            reader.end(&mut out);
        }
    }
}
