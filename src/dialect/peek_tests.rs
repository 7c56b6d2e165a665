//! What the scan of a request's body reads and what it refuses.

use super::endpoint::Endpoint::{self, *};
use super::peek::*;
use crate::error::{Error, Kind};

fn chat(body: &str) -> Result<Asked<'_>, Error> {
    peek(body.as_bytes(), ChatCompletions)
}

fn code(endpoint: Endpoint, body: &[u8]) -> (Kind, Option<String>) {
    match peek(body, endpoint) {
        Ok(asked) => panic!("{:?} {asked:?}", String::from_utf8_lossy(body)),
        Err(error) => (error.kind, error.param),
    }
}

#[test]
fn a_full_request_is_read() {
    let body = include_bytes!("../../tests/samples/openai-chat-request.json");
    let asked = peek(body, ChatCompletions).expect("valid");
    let want: serde_json::Value = serde_json::from_slice(body).expect("json");
    assert_eq!(asked.model.name, want["model"].as_str().expect("model"));
    assert_eq!(asked.stream, want["stream"].as_bool().unwrap_or(false));
    assert_eq!(asked.max_output_tokens, want["max_completion_tokens"].as_u64());
    assert_eq!(asked.estimate_bytes, body.len());
    let body = include_bytes!("../../tests/samples/responses-request.json");
    peek(body, Responses).expect("valid");
}

#[test]
fn every_field_is_found_wherever_it_stands() {
    let body = r#" { "messages":[{"model":"no","n":[]}], "stream" : true ,"n":3,
        "stream_options":{"include_obfuscation":false, "include_usage": true},
        "max_tokens":7,"max_completion_tokens":9,"user":"u","safety_identifier":"s",
        "prompt_cache_key":"k","model":"a\u002fb","models":["x"] } "#;
    let asked = chat(body).expect("valid");
    assert_eq!(asked.model.name, "a/b");
    assert_eq!(&body[asked.model.span.clone().expect("span")], r#""a\u002fb""#);
    assert!(asked.stream && asked.wants_usage() && asked.foreign && asked.has_members);
    assert_eq!((asked.max_output_tokens, asked.choices()), (Some(9), 3));
    assert_eq!(&body[asked.affinity.clone().expect("affinity")], "k");
    assert_eq!(asked.end_user.as_deref(), Some("s"));
    assert_eq!(&body[..asked.insert_at], " {");
    assert!(asked.duplicate_safe);
}

#[test]
fn keys_that_two_parsers_could_read_differently_are_refused() {
    for (body, param) in [
        (r#"{"model":"a","model":"b"}"#, "model"),
        (r#"{"model":"a","mod\u0065l":"b"}"#, "mod\u{65}l"),
        (r#"{"mod\u0065l":"b"}"#, "model"),
        (r#"{"model":"a","Model":"b"}"#, "Model"),
        (r#"{"MODEL":"b"}"#, "MODEL"),
        (r#"{"model":"a","ſtream":true}"#, "ſtream"),
        (r#"{"model":"a","max_to\u212aens":1}"#, "max_to\u{212a}ens"),
        ("{\"model\":\"a\",\"max_to\u{212a}ens\":1}", "max_to\u{212a}ens"),
        (r#"{"model":"a","stream":true,"stream":true}"#, "stream"),
        (
            r#"{"model":"a","stream_options":{"include_usage":true,"include_usage":false}}"#,
            "stream_options.include_usage",
        ),
        (
            r#"{"model":"a","stream_options":{"include_uſage":true}}"#,
            "stream_options.include_usage",
        ),
        (
            r#"{"model":"a","stream_options":{"include\u005fusage":true}}"#,
            "stream_options.include_usage",
        ),
    ] {
        let got = code(ChatCompletions, body.as_bytes());
        assert_eq!(got, (Kind::InvalidRequest, Some(param.to_owned())), "{body}");
    }
    // Keys that nobody acts on may come in any form.
    chat(r#"{"model":"a","x":1,"x":2,"X":3,"\u0078":4,"Models":5,"Background":6}"#).expect("valid");
}

#[test]
fn values_of_the_wrong_kind_are_refused_with_the_fields_name() {
    for (value, param) in [
        (r#""model":1"#, "model"),
        (r#""model":null"#, "model"),
        (r#""model":"""#, "model"),
        (r#""model":"a\u0000b""#, "model"),
        (r#""model":"a\r\nb""#, "model"),
        (r#""model":"\ud800""#, "model"),
        (r#""x":1"#, "model"),
        (r#""model":"a","stream":1"#, "stream"),
        (r#""model":"a","stream":"true""#, "stream"),
        (r#""model":"a","stream_options":[]"#, "stream_options"),
        (r#""model":"a","stream_options":{"include_usage":1}"#, "stream_options.include_usage"),
        (r#""model":"a","max_tokens":"9""#, "max_tokens"),
        (r#""model":"a","max_tokens":1e3"#, "max_tokens"),
        (r#""model":"a","n":0"#, "n"),
        (r#""model":"a","n":-1"#, "n"),
        (r#""model":"a","n":99999999999999999999999"#, "n"),
    ] {
        let body = format!("{{{value}}}");
        let got = code(ChatCompletions, body.as_bytes());
        assert_eq!(got, (Kind::InvalidRequest, Some(param.to_owned())), "{body}");
    }
    let long = format!(r#"{{"model":"{}"}}"#, "é".repeat(MODEL_BYTES_MAX / 2));
    assert!(chat(&long).is_ok());
    let long = format!(r#"{{"model":"{}x"}}"#, "é".repeat(MODEL_BYTES_MAX / 2));
    assert!(chat(&long).is_err());
    assert_eq!(
        code(ChatCompletions, b"{\"model\":\"\xff\"}"),
        (Kind::InvalidRequest, Some("model".to_owned()))
    );
}

#[test]
fn text_that_is_not_json_is_refused_with_its_place() {
    for (body, at) in [
        (&b""[..], None),
        (b"  ", None),
        (b"\xef\xbb\xbf{\"model\":\"a\"}", Some(0)),
        (b"[]", Some(0)),
        (b"null", Some(0)),
        (b"{\"model\":\"a\"} x", Some(14)),
        (b"{\"model\":\"a\"}{}", Some(13)),
        (b"{\"model\":\"a\"", Some(12)),
        (b"{\"model\":\"a\",}", Some(13)),
        (b"{,\"model\":\"a\"}", Some(1)),
        (b"{\"model\" \"a\"}", Some(9)),
        (b"{\"model\":\"a\",\"x\":[1}}", Some(19)),
        (b"{\"model\":\"a\",\"x\":tru}", Some(17)),
        (b"{\"model\":\"a\",\"x\":01}", Some(18)),
        (b"{\"model\":\"a\",\"x\":\"\n\"}", Some(18)),
        (b"{\"model\":\"a\",'x':1}", Some(13)),
        (b"{\"model\":\"a\",\"x\xff\":1}", Some(14)),
    ] {
        let error = peek(body, ChatCompletions).expect_err("invalid");
        assert_eq!(error.kind, Kind::InvalidJson, "{body:?}");
        if let Some(at) = at {
            assert!(error.message.contains(&format!("byte {at}")), "{body:?} {error}");
        }
    }
    let deep = format!("{{\"model\":\"a\",\"x\":{}", "[".repeat(100_000));
    assert_eq!(code(ChatCompletions, deep.as_bytes()).0, Kind::InvalidJson);
    let deep = |depth: usize| {
        format!("{{\"model\":\"a\",\"x\":{}{}}}", "[".repeat(depth), "]".repeat(depth))
    };
    assert!(chat(&deep(999)).is_ok());
    assert!(chat(&deep(1000)).is_err());
}

#[test]
fn only_what_has_no_second_effect_may_be_sent_twice() {
    for (endpoint, member, safe) in [
        (ChatCompletions, r#""store":null"#, true),
        (ChatCompletions, r#""store":true"#, false),
        (ChatCompletions, r#""web_search_options":{}"#, false),
        (ChatCompletions, r#""web_search_options":null"#, true),
        (ChatCompletions, r#""background":true"#, true),
        (ChatCompletions, r#""tools":[{"type":"function","function":{"type":"x"}}]"#, true),
        (ChatCompletions, r#""tools":[{"type":"custom"},{"type":"web_search"}]"#, false),
        (ChatCompletions, r#""tools":[{"typ\u0065":"mcp"}]"#, false),
        (ChatCompletions, r#""tools":[{"Type":"mcp"}]"#, false),
        (ChatCompletions, r#""tools":null"#, true),
        (ImageGenerations, r#""background":"opaque","prompt":"x""#, true),
        (Responses, r#""input":"x""#, false),
        (Responses, r#""store":true"#, false),
        (Responses, r#""store":false"#, true),
        (Responses, r#""store":false,"background":true"#, false),
        (Responses, r#""store":false,"background":false"#, true),
        (Responses, r#""store":false,"previous_response_id":"resp_1""#, false),
        (Responses, r#""store":false,"previous_response_id":null"#, true),
        (Responses, r#""store":false,"conversation":{"id":"c"}"#, false),
        (Responses, r#""store":false,"prompt":{"id":"p"}"#, false),
    ] {
        let body = format!("{{\"model\":\"m\",{member}}}");
        let asked = peek(body.as_bytes(), endpoint).expect("valid");
        assert_eq!(asked.duplicate_safe, safe, "{endpoint:?} {member}");
    }
}

#[test]
fn what_bounds_the_output_depends_on_the_endpoint() {
    for (endpoint, member, limit) in [
        (ChatCompletions, r#""max_tokens":5,"max_output_tokens":9"#, Some(5)),
        (ChatCompletions, r#""max_tokens":5,"max_completion_tokens":2"#, Some(5)),
        (ChatCompletions, r#""max_tokens":null"#, None),
        (ChatCompletions, r#""max_tokens":-1"#, None),
        (Completions, r#""max_tokens":5,"max_completion_tokens":9"#, Some(5)),
        (Responses, r#""max_output_tokens":5,"max_tokens":9"#, Some(5)),
    ] {
        let body = format!("{{\"model\":\"m\",{member}}}");
        let asked = peek(body.as_bytes(), endpoint).expect("valid");
        assert_eq!(asked.max_output_tokens, limit, "{endpoint:?} {member}");
    }
    let body = br#"{"model":"m","prompt":["a","b",[1,2]],"n":2,"best_of":4}"#;
    let asked = peek(body, Completions).expect("valid");
    assert_eq!((asked.choices(), asked.candidates()), (6, 12));
    let asked = peek(br#"{"model":"m","prompt":[1,2,3]}"#, Completions).expect("valid");
    assert_eq!(asked.choices(), 1);
}

#[test]
fn moderations_have_a_default_model() {
    let asked = peek(br#"{"input":"x"}"#, Moderations).expect("valid");
    assert_eq!(asked.model.name, "omni-moderation-latest");
    assert_eq!(asked.model.span, None);
    let asked = peek(b"{}", Moderations).expect("valid");
    assert!(!asked.has_members);
}

#[test]
fn an_end_user_that_is_too_long_or_odd_is_left_out() {
    for (id, kept) in [("a".repeat(256), true), ("a".repeat(257), false), ("a\\nb".into(), false)] {
        let body = format!(r#"{{"model":"m","user":"{id}"}}"#);
        let asked = chat(&body).expect("valid");
        assert_eq!(asked.end_user.is_some(), kept);
        assert!(asked.affinity.is_some());
    }
}
