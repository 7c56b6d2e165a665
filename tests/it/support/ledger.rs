//! Books as a user reads them from the admin API, and callers who know what they were told.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::client::encode;
use crate::support::{ADMIN_TOKEN, Answer, H2, Raw, request};

/// Tokens as they are told as usage: `input` includes `cached`, `output` includes `reasoning`.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Tokens {
    pub input: u64,
    pub cached: u64,
    pub output: u64,
    pub reasoning: u64,
}

impl Tokens {
    /// Of a usage object of chat completions.
    pub fn told(usage: &Value) -> Tokens {
        let number = |at: &str| usage.pointer(at).and_then(Value::as_u64).unwrap_or_default();
        Tokens {
            input: number("/prompt_tokens"),
            cached: number("/prompt_tokens_details/cached_tokens"),
            output: number("/completion_tokens"),
            reasoning: number("/completion_tokens_details/reasoning_tokens"),
        }
    }

    /// Of the units of a record or of a sum. There must be none but those of text.
    #[track_caller]
    pub fn booked(units: &Value) -> Tokens {
        let units = units.as_object().expect("units");
        let known = ["in_text", "in_cache_read", "out_text", "out_reasoning", "requests"];
        let strange: Vec<_> = units.keys().filter(|name| !known.contains(&name.as_str())).collect();
        assert!(strange.is_empty(), "units that nobody used: {strange:?}");
        let number = |name: &str| units.get(name).and_then(Value::as_u64).unwrap_or_default();
        Tokens {
            input: number("in_text") + number("in_cache_read"),
            cached: number("in_cache_read"),
            output: number("out_text") + number("out_reasoning"),
            reasoning: number("out_reasoning"),
        }
    }

    pub fn add(&mut self, other: Tokens) {
        self.input += other.input;
        self.cached += other.cached;
        self.output += other.output;
        self.reasoning += other.reasoning;
    }
}

/// What a model costs, in 10^-12 of the currency per token.
#[derive(Clone, Copy)]
pub struct Price {
    pub input: u128,
    pub cached: u128,
    pub output: u128,
    pub reasoning: u128,
}

impl Price {
    pub fn cost(&self, tokens: Tokens) -> u128 {
        u128::from(tokens.input - tokens.cached) * self.input
            + u128::from(tokens.cached) * self.cached
            + u128::from(tokens.output - tokens.reasoning) * self.output
            + u128::from(tokens.reasoning) * self.reasoning
    }

    /// The `[[price]]` of a model.
    pub fn table(&self, provider: &str, model: &str) -> String {
        // A price for a million tokens, in whole millionths.
        let text = |pico: u128| format!("{}.{:06}", pico / 1_000_000, pico % 1_000_000);
        format!(
            "[[price]]\nprovider = \"{provider}\"\nmodel = \"{model}\"\ncurrency = \"USD\"\n\
             input = \"{}\"\ncached_read = \"{}\"\noutput = \"{}\"\nreasoning = \"{}\"\n",
            text(self.input),
            text(self.cached),
            text(self.output),
            text(self.reasoning)
        )
    }
}

/// A decimal text in 10^-12, exactly.
#[track_caller]
pub fn pico(value: &Value) -> u128 {
    let text = value.as_str().unwrap_or_else(|| panic!("money is text, not {value}"));
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    assert!(part.len() <= 12, "more than twelve decimals: {text}");
    format!("{whole}{part:0<12}").parse().unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// A chat request whose answer tells its usage. `user` marks it in the books of both sides.
pub fn ask(model: &str, user: &str, stream: bool, words: usize) -> String {
    let mut body = json!({
        "model": model,
        "user": user,
        "messages": [{"role": "user", "content": "word ".repeat(words)}],
    });
    if stream {
        body["stream"] = true.into();
        body["stream_options"] = json!({"include_usage": true});
    }
    body.to_string()
}

/// What a caller got to the end.
#[derive(Clone, Debug)]
pub struct Seen {
    /// `x-request-id`
    pub id: String,
    pub told: Tokens,
}

impl Seen {
    /// `None` if it is not whole, or no good answer.
    fn of(answer: &Answer, is_stream: bool) -> Option<Seen> {
        if answer.status != 200 || answer.broken {
            return None;
        }
        let id = answer.header("x-request-id")?.to_owned();
        let usage = if is_stream {
            let lines = answer.data_lines();
            if lines.last().is_none_or(|line| line != "[DONE]") {
                return None;
            }
            let chunks = lines.iter().filter_map(|l| serde_json::from_str::<Value>(l).ok());
            chunks.filter_map(|chunk| chunk.get("usage").cloned()).rfind(Value::is_object)?
        } else {
            serde_json::from_slice::<Value>(&answer.body).ok()?.get("usage")?.clone()
        };
        Some(Seen { id, told: Tokens::told(&usage) })
    }
}

/// A connection that is used again, until it breaks.
pub enum Line {
    H1(Raw),
    H2(H2),
}

impl Line {
    #[track_caller]
    pub fn connect(addr: SocketAddr, is_h2: bool) -> Line {
        if is_h2 { Line::H2(H2::connect(addr)) } else { Line::H1(Raw::connect(addr)) }
    }

    /// Asks once. `None`: the connection broke before there was an answer.
    pub fn ask(&mut self, secret: &str, body: &str) -> Option<Answer> {
        let bearer = format!("Bearer {secret}");
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        match self {
            Line::H1(raw) => {
                let bytes = encode("POST", "/v1/chat/completions", &headers[..1], body);
                raw.try_send(bytes).ok()?;
                let mut answer = raw.try_head()?;
                raw.rest_of(&mut answer);
                Some(answer)
            }
            Line::H2(h2) => {
                let path = "/v1/chat/completions";
                let mut stream = h2.try_open("POST", path, &headers, Some(body.as_bytes())).ok()?;
                let mut answer = stream.try_head().ok()?;
                stream.rest_of(&mut answer);
                Some(answer)
            }
        }
    }

    /// Asks once; `Err` with what came instead of a whole good answer.
    pub fn complete(&mut self, secret: &str, body: &str) -> Result<Seen, Option<Answer>> {
        let answer = self.ask(secret, body).ok_or(None)?;
        let is_stream = body.contains("\"stream\":true");
        Seen::of(&answer, is_stream).ok_or(Some(answer))
    }
}

/// A GET of the admin API.
#[track_caller]
pub fn admin(addr: SocketAddr, path: &str) -> Value {
    let token = format!("Bearer {ADMIN_TOKEN}");
    let answer = request(addr, "GET", path, &[("authorization", &token)], b"");
    assert_eq!(answer.status, 200, "{path}: {}", answer.text());
    answer.json()
}

/// One row of sums.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Sum {
    pub requests: u64,
    pub errors: u64,
    pub unsettled: u64,
    pub tokens: Tokens,
    pub cost_pico: u128,
    pub charge_pico: u128,
    pub reserved_pico: u128,
}

impl Sum {
    /// Adds a record of the list.
    #[track_caller]
    pub fn add_record(&mut self, record: &Value) {
        self.requests += 1;
        self.errors += u64::from(!record["error"].is_null());
        self.tokens.add(Tokens::booked(&record["units"]));
        if record["state"] == "unsettled" {
            self.unsettled += 1;
            self.reserved_pico += pico(&record["reserved"]);
        } else {
            self.cost_pico += pico(&record["cost"]);
            self.charge_pico += pico(&record["charge"]);
        }
    }
}

/// Sums of usage by `groups`, in their order. All must be in US dollars.
#[track_caller]
pub fn usage(addr: SocketAddr, groups: &[&str]) -> BTreeMap<Vec<String>, Sum> {
    let answer = admin(addr, &format!("/admin/v1/usage?group_by={}", groups.join(",")));
    let mut sums = BTreeMap::new();
    for row in answer["data"].as_array().expect("rows") {
        assert!(row["currency"] == "USD" || row["currency"] == "", "{row}");
        let values: Vec<String> =
            groups.iter().map(|group| row[*group].as_str().expect("a name").to_owned()).collect();
        let number = |name: &str| row[name].as_u64().expect("a count");
        let sum = Sum {
            requests: number("requests"),
            errors: number("errors"),
            unsettled: number("unsettled"),
            tokens: Tokens::booked(&row["units"]),
            cost_pico: pico(&row["cost"]),
            charge_pico: pico(&row["charge"]),
            reserved_pico: pico(&row["reserved"]),
        };
        assert!(sums.insert(values, sum).is_none(), "a group twice: {row}");
    }
    sums
}

/// The sum over everything.
#[track_caller]
pub fn total(addr: SocketAddr) -> Sum {
    usage(addr, &[]).remove(&Vec::new()).unwrap_or_default()
}

/// All records of requests since a time, newest first; `query` begins with `&` if there is any.
#[track_caller]
pub fn records(addr: SocketAddr, query: &str) -> Vec<Value> {
    let mut all = Vec::new();
    let mut cursor = String::new();
    loop {
        let path = format!("/admin/v1/requests?limit=1000{query}{cursor}");
        let mut page = admin(addr, &path);
        let Value::Array(data) = page["data"].take() else { panic!("no records: {page}") };
        all.extend(data);
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return all,
        }
    }
}

/// A number from the environment, for longer runs.
pub fn from_env(name: &str, default: usize) -> usize {
    std::env::var(name).ok().map_or(default, |text| text.parse().expect("a number"))
}
