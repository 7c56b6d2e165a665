//! Ten thousand request bodies over real sockets: what the upstream receives is what the caller
//! sent, byte for byte, but for the model's name and the option that asks for usage; or the caller
//! is told what is wrong with it, and the upstream sees nothing.

use std::sync::mpsc::channel;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::fleet::events;
use crate::support::upstream::{completion, finish, json};
use crate::support::{Raw, Scripted, Setup, WAIT, client};

const BODIES: usize = 10_000;
const ALIAS: &str = "the/alias-1";
/// Needs escapes, so that a name that is only pasted in would break the body.
const SERVED: &str = "served \"model\" \\ é";

/// A piece of a body: what is sent and what must arrive. `Err`: the whole body must be refused.
#[derive(Debug, Clone)]
struct Piece {
    sent: String,
    arrives: Result<String, ()>,
}

/// Passed on as it is.
fn same(text: impl Into<String>) -> Piece {
    let sent = text.into();
    Piece { arrives: Ok(sent.clone()), sent }
}

fn changed(sent: impl Into<String>, arrives: impl Into<String>) -> Piece {
    Piece { sent: sent.into(), arrives: Ok(arrives.into()) }
}

fn refused(sent: impl Into<String>) -> Piece {
    Piece { sent: sent.into(), arrives: Err(()) }
}

fn blank() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["", "", "", "", " ", "\n\t", "\r\n  ", "   "])
}

/// A string in odd spellings, quotes included.
fn string() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[a-zA-Z0-9/:._ -]{0,12}",
        2 => any::<char>().prop_map(|c| match c {
            '"' | '\\' => format!("\\{c}"),
            c if (c as u32) < 0x20 => format!("\\u{:04x}", c as u32),
            c => c.to_string(),
        }),
        1 => prop::sample::select(vec![
            "\\n", "\\\"", "\\\\", "\\u00e9", "\\ud83c\\udf0d", "\\/", "]}", "{[",
            "\\\"model\\\":\\\"x\\\"", "\\\"stream\\\":true", "//", "'",
        ]).prop_map(str::to_owned),
    ];
    prop::collection::vec(part, 0..4).prop_map(|parts| format!("\"{}\"", parts.concat()))
}

/// Any JSON value, with keys that matter only at the top.
fn value() -> impl Strategy<Value = String> {
    let number = prop::sample::select(vec![
        "0",
        "-1",
        "1.50",
        "1e2",
        "1.5E-7",
        "123456789012345678901234567890",
        "-0.0",
    ]);
    let leaf = prop_oneof![
        string(),
        number.prop_map(str::to_owned),
        prop::sample::select(vec!["null", "true", "false", "{}", "[]"]).prop_map(str::to_owned),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let key = prop_oneof![
            3 => string(),
            1 => prop::sample::select(vec![
                "\"model\"", "\"stream\"", "\"stream_options\"", "\"Model\"",
            ]).prop_map(str::to_owned),
        ];
        prop_oneof![
            prop::collection::vec((blank(), inner.clone()), 0..4).prop_map(|items| {
                let items: Vec<_> = items.iter().map(|(b, v)| format!("{b}{v}{b}")).collect();
                format!("[{}]", items.join(","))
            }),
            prop::collection::vec((key, blank(), inner), 0..4).prop_map(|items| {
                let items: Vec<_> =
                    items.iter().map(|(k, b, v)| format!("{b}{k}{b}:{b}{v}")).collect();
                format!("{{{}}}", items.join(","))
            }),
        ]
    })
}

/// A member that nobody acts on. Each comes once, so the names are numbered.
fn other(at: usize) -> impl Strategy<Value = Piece> {
    (blank(), value(), any::<bool>()).prop_map(move |(b, v, escaped)| {
        let name = if escaped { format!("\\u0078-{at}") } else { format!("x_{at}") };
        same(format!("\"{name}\"{b}:{b}{v}"))
    })
}

fn model() -> impl Strategy<Value = Piece> {
    let name = prop::sample::select(vec![
        ALIAS.to_owned(),
        ALIAS.replace('/', "\\/"),
        ALIAS.replace('a', "\\u0061"),
    ]);
    (name, blank()).prop_map(|(name, b)| {
        let served = serde_json::Value::from(SERVED);
        changed(format!("\"model\"{b}:{b}\"{name}\""), format!("\"model\"{b}:{b}{served}"))
    })
}

/// `stream_options` as it may stand beside `"stream":true`, and what must become of it.
fn options() -> impl Strategy<Value = Piece> {
    (0..6, blank(), value()).prop_map(|(which, b, v)| {
        let of = |sent: String, arrives: String| {
            let member = |value| format!("\"stream_options\"{b}:{b}{value}");
            changed(member(sent), member(arrives))
        };
        match which {
            0 => of("null".into(), "{\"include_usage\":true}".into()),
            1 => of("{}".into(), "{\"include_usage\":true}".into()),
            2 => of(
                format!("{{{b}\"include_usage\"{b}:{b}false{b}}}"),
                format!("{{{b}\"include_usage\"{b}:{b}true{b}}}"),
            ),
            3 => of(
                format!("{{\"include_usage\":null,\"x\":{v}}}"),
                format!("{{\"include_usage\":true,\"x\":{v}}}"),
            ),
            4 => {
                of(format!("{{\"x\"{b}:{v}}}"), format!("{{\"include_usage\":true,\"x\"{b}:{v}}}"))
            }
            _ => {
                let asked = format!("{{\"x\":{v},\"include_usage\":{b}true}}");
                of(asked.clone(), asked)
            }
        }
    })
}

/// What must never be passed on.
fn bad() -> impl Strategy<Value = Piece> {
    prop::sample::select(vec![
        "\"model\":\"second\"",
        "\"Model\":\"x\"",
        "\"mod\\u0065l\":\"x\"",
        "\"\u{17f}tream\":true",
        "\"stream\":\"yes\"",
        "\"stream\":1",
        "\"n\":0",
        "\"x\":01",
        "\"x\":nul",
        "\"x\":\"a\nb\"",
        "\"x\":'a'",
        "\"x\":\"\\q\"",
        "\"x\" 1",
        "x:1",
    ])
    .prop_map(refused)
}

/// A body: what is sent, and what must arrive if it may.
#[derive(Debug, Clone)]
struct Body {
    sent: String,
    arrives: Option<String>,
    stream: bool,
}

fn body() -> impl Strategy<Value = Body> {
    let others = (0..4usize).prop_flat_map(|count| (0..count).map(other).collect::<Vec<_>>());
    let stream = prop::option::of(any::<bool>());
    let extra = prop_oneof![4 => Just(None), 1 => bad().prop_map(Some)];
    (others, model(), stream, prop::option::of(options()), extra, blank(), any::<u64>()).prop_map(
        |(others, model, stream, options, bad, b, shuffle)| {
            let streamed = stream == Some(true);
            let has_options = options.is_some();
            // Without a stream the options are none of our business.
            let options = options.map(|piece| if streamed { piece } else { same(piece.sent) });
            let stream = stream.map(|flag| same(format!("\"stream\"{b}:{b}{flag}")));
            let mut pieces: Vec<Piece> = others;
            for (nth, piece) in
                [Some(model), stream, options, bad].into_iter().flatten().enumerate()
            {
                let at = (shuffle >> (8 * nth)) as usize % (pieces.len() + 1);
                pieces.insert(at, piece);
            }
            assemble(&pieces, b, streamed, streamed && !has_options)
        },
    )
}

/// `inserts`: the option that asks for usage is put first.
fn assemble(pieces: &[Piece], b: &str, stream: bool, inserts: bool) -> Body {
    let join = |parts: Vec<&str>, insert: &str| {
        format!("{b}{{{insert}{b}{}{b}}}{b}", parts.join(&format!("{b},{b}")))
    };
    let sent = join(pieces.iter().map(|piece| piece.sent.as_str()).collect(), "");
    let parts: Result<Vec<&str>, &()> =
        pieces.iter().map(|piece| piece.arrives.as_deref()).collect();
    let insert = if inserts { "\"stream_options\":{\"include_usage\":true}," } else { "" };
    Body { sent, arrives: parts.ok().map(|parts| join(parts, insert)), stream }
}

#[test]
fn bodies_arrive_as_they_were_sent() {
    let (sender, bodies) = channel();
    let upstream = Scripted::start(move |peer| {
        // Requests are handed over one by one; keeping ten thousand would only cost memory.
        while let Some(request) = peer.request() {
            let stream = request.json()["stream"] == true;
            let _ = sender.send(request.body);
            peer.write(if stream { events(&finish()) } else { json(200, &completion("well")) });
        }
    });
    let served = serde_json::Value::from(SERVED).to_string();
    let model = format!(
        "[[model]]\nname = \"{ALIAS}\"\ntargets = [{{ provider = \"up\", model = {served} }}]\n"
    );
    let gateway = Setup::to(upstream.addr).models(&model).start();
    let mut caller = Raw::connect(gateway.addr);

    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, b"the same bodies in every run....");
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let (mut passed, mut stopped) = (0, 0);
    let strategy = body();
    for _ in 0..BODIES {
        let body = strategy.new_tree(&mut runner).expect("a body").current();
        caller.send(client::encode_post("/v1/chat/completions", &body.sent));
        let answer = caller.answer();
        match &body.arrives {
            Some(want) => {
                assert_eq!(answer.status, 200, "{:?}: {}", body.sent, answer.text());
                let got = bodies.recv_timeout(WAIT).expect("the upstream was asked");
                let got = String::from_utf8(got).expect("text");
                assert_eq!(&got, want, "{:?}", body.sent);
                let is_stream = answer.header("content-type") == Some("text/event-stream");
                assert_eq!(is_stream, body.stream);
                passed += 1;
            }
            None => {
                assert_eq!(answer.status, 400, "{:?}: {}", body.sent, answer.text());
                let error = &answer.json()["error"];
                assert_eq!(error["type"], "invalid_request_error", "{error}");
                stopped += 1;
            }
        }
        assert!(bodies.try_recv().is_err(), "the upstream was asked: {:?}", body.sent);
    }
    assert!(passed > BODIES / 2 && stopped > BODIES / 20, "{passed} passed, {stopped} stopped");
}
