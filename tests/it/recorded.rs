//! What the record of one request tells, to the operator who has to explain it.

use foretoken::sim::Lengths;
use serde_json::{Value, json};

use crate::fleet::{model, provider};
use crate::ledger::{Price, Tokens, admin, ask, pico};
use crate::support::client::encode;
use crate::support::upstream::json as answer_of;
use crate::support::{H2, KEY, Raw, Scripted, Setup, SimServer, eventually};

const PRICE: Price = Price { input: 150_000, cached: 75_000, output: 600_000, reasoning: 600_000 };

/// The record of a request, once it is in the store.
#[track_caller]
fn record(gateway: &crate::support::Gateway, id: &str) -> Value {
    let path = format!("/admin/v1/requests/{id}");
    eventually("it is in the store", || gateway.admin("GET", &path).status == 200);
    admin(gateway.admin, &path)
}

#[test]
fn a_record_tells_everything_with_each_attempt_and_its_cost() {
    let failing = Scripted::answering(|_| {
        answer_of(500, &json!({"error": {"message": "broken", "type": "server_error"}}).to_string())
    });
    let sim = SimServer::with(|settings| settings.tokens = Lengths::constant(6));
    let people = "[[account]]\nname = \"acme\"\ncurrency = \"EUR\"\nmarkup = \"1.50\"\n\
                  [[project]]\nname = \"search\"\naccount = \"acme\"\n\
                  [[user]]\nname = \"ada\"\naccount = \"acme\"\n\
                  [[rate]]\nfrom = \"USD\"\nto = \"EUR\"\nrate = \"0.5\"\n";
    let key = format!(
        "[[key]]\nname = \"backend\"\nproject = \"search\"\nuser = \"ada\"\nsecret = \"{KEY}\"\n\
         tags = [\"of-the-key\"]\n"
    );
    let gateway = Setup::to(failing.addr)
        .models(&model("m", 2))
        .keys(&key)
        .more(&provider("second", sim.addr, ""))
        .more(people)
        .more(&PRICE.table("up", "served"))
        .more(&PRICE.table("second", "served"))
        .start();
    let bearer = format!("Bearer {KEY}");
    let headers = [("authorization", bearer.as_str()), ("x-foretoken-tags", "of-the-request")];
    for stream in [false, true] {
        let body = ask("m", "customer-7", stream, 5);
        let answer = if stream {
            let kind = ("content-type", "application/json");
            let headers = [headers[0], headers[1], kind];
            H2::connect(gateway.addr).request(
                "POST",
                "/v1/chat/completions",
                &headers,
                body.as_bytes(),
            )
        } else {
            let mut raw = Raw::connect(gateway.addr);
            raw.send(encode("POST", "/v1/chat/completions", &headers, &body));
            raw.answer()
        };
        assert_eq!(answer.status, 200, "{}", answer.text());
        let id = answer.header("x-request-id").expect("an id");
        let record = record(&gateway, id);
        for (name, value) in [
            ("id", json!(id)),
            ("project", json!("search")),
            ("user", json!("ada")),
            ("account", json!("acme")),
            ("end_user", json!("customer-7")),
            ("client", json!("127.0.0.1")),
            ("model", json!("m")),
            ("model_served", json!("served")),
            ("target", json!("second/served")),
            ("stream", json!(stream)),
            ("state", json!("settled")),
            ("status", json!(200)),
            ("error", Value::Null),
            ("currency", json!("EUR")),
            ("unpriced", json!(false)),
            ("upstream_request_id", json!(answer.header("x-upstream-request-id").expect("an id"))),
        ] {
            assert_eq!(record[name], value, "{name}: {record}");
        }
        assert_eq!(record["key"]["name"], "backend", "{record}");
        let tags = record["tags"].as_array().expect("tags");
        for tag in ["of-the-key", "of-the-request"] {
            assert!(tags.contains(&json!(tag)), "{tag}: {record}");
        }
        let time = record["time"].as_str().expect("a time");
        assert!(time.ends_with('Z') && time.len() >= 20, "{record}");
        assert!(record["endpoint"].as_str().is_some_and(|name| name.contains("chat")), "{record}");
        for name in ["total_ms", "overhead_ms"] {
            assert!(record[name].as_f64() > Some(0.0), "{name}: {record}");
        }
        assert_eq!(record["ttft_ms"].is_number(), stream, "{record}");
        assert!(record["candidates"].as_array().is_some_and(|list| list.len() == 2), "{record}");

        // Half a dollar's worth of euros, and the account's markup; all of it is exact here.
        let tokens = Tokens::booked(&record["units"]);
        assert_eq!(tokens.output, 6, "{record}");
        let cost = PRICE.cost(tokens) / 2;
        assert_eq!(pico(&record["cost"]), cost, "{record}");
        assert_eq!(pico(&record["charge"]), cost * 3 / 2, "{record}");
        assert_eq!(pico(&record["fx_rate"]), 500_000_000_000, "{record}");
        assert!(record["price_version"].is_string(), "{record}");

        let attempts = record["attempts"].as_array().expect("attempts");
        let [lost, won] = &attempts[..] else { panic!("two attempts: {record}") };
        assert_eq!(lost["target"], "up/served", "{record}");
        assert_ne!(lost["outcome"], "ok", "{record}");
        assert_eq!(
            (won["target"].clone(), won["outcome"].clone()),
            (json!("second/served"), json!("ok"))
        );
        assert_eq!(won["units"], record["units"], "{record}");
        assert_eq!(pico(&won["cost"]), cost, "{record}");
        // The cost of a request is that of all its attempts.
        assert_eq!(pico(&lost["cost"]) + pico(&won["cost"]), cost, "{record}");
    }
}
