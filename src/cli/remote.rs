//! Commands that ask a running gateway: `reload`, `status`, `routes`; and how the other ones ask.

use clap::Args;
use serde_json::Value;

use super::local::{Local, Token};
use super::table::printable;
use super::{BAD_USAGE, ConfigArgs, FAILED, Failure, UNREACHABLE, print, variable};
use crate::admin;
use crate::auth::Secret;

/// Examples, and what the three commands have in common.
pub(crate) fn help(examples: &[&str]) -> String {
    let examples: String =
        examples.iter().map(|example| format!("\n  foretoken {example}")).collect();
    format!(
        "Examples:{examples}

Finds the gateway by the configuration's [admin] table; --admin and FORETOKEN_ADMIN_URL say otherwise. \
The token comes from FORETOKEN_ADMIN_TOKEN, from admin.token, or from the file that a gateway on this \
host keeps beside its store.

Exit codes: 0 done, 1 refused, 2 bad usage, 3 cannot reach the admin API."
    )
}

#[derive(Args)]
pub(crate) struct RemoteArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// The admin API, for example http://127.0.0.1:9090 [env: FORETOKEN_ADMIN_URL]
    #[arg(long, value_name = "URL")]
    admin: Option<String>,
    /// The admin token [env: FORETOKEN_ADMIN_TOKEN]
    #[arg(long, value_name = "TOKEN")]
    token: Option<String>,
    /// Print the answer as JSON
    #[arg(long)]
    json: bool,
}

/// An option, else its variable, with the name of the one that counts.
fn said(
    option: &Option<String>,
    flag: &str,
    name: &str,
) -> Result<Option<(String, String)>, Failure> {
    if let Some(value) = option {
        return Ok(Some((value.clone(), flag.to_owned())));
    }
    let Some(value) = variable(name) else { return Ok(None) };
    match value.into_string() {
        Ok(value) => Ok(Some((value, name.to_owned()))),
        Err(_) => Err(Failure::new(BAD_USAGE, format!("{name} is not UTF-8"))),
    }
}

impl RemoteArgs {
    /// Whether JSON is wanted.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// The status and the answer, and where the token came from or why there was none.
    fn call(&self, ask: &admin::Ask<'_>) -> Result<(u16, Value, String), Failure> {
        let url = said(&self.admin, "--admin", "FORETOKEN_ADMIN_URL")?;
        let token = said(&self.token, "--token", "FORETOKEN_ADMIN_TOKEN")?;
        let local = Local::read(&self.config, url.is_none() || token.is_none())?;
        let url = match (url, local.listen.as_deref()) {
            (Some((url, _)), _) => url,
            (None, Some("off")) => {
                let message = "the configuration has admin.listen = \"off\": there is no admin API to ask; --admin URL says otherwise";
                return Err(Failure::new(UNREACHABLE, message));
            }
            (None, Some(address)) => format!("http://{address}"),
            (None, None) => "http://127.0.0.1:9090".into(),
        };
        let (token, note) = match (token, local.token) {
            (Some((token, whence)), _) => (Some(Secret::new(token)), from(&whence)),
            (None, Token::Found { secret, whence }) => (Some(secret), from(&whence)),
            (None, Token::Missing(why)) => (None, why),
        };
        match admin::send(base(&url), token.as_ref(), ask) {
            Ok((status, answer)) => Ok((status, answer, note)),
            Err(error) => {
                let code = match error {
                    admin::ClientError::Unreachable { .. } => UNREACHABLE,
                    admin::ClientError::Usage(_) => BAD_USAGE,
                    admin::ClientError::Garbled { .. } => FAILED,
                };
                Err(Failure::new(code, error.to_string()))
            }
        }
    }

    fn ask(&self, method: &'static str, path: &str) -> Result<Value, Failure> {
        self.send(&Asking::new(method, path.to_owned()))
    }

    /// Asks, and gives the answer; a refusal is told as a failure.
    pub(crate) fn send(&self, asking: &Asking) -> Result<Value, Failure> {
        let (status, answer, note) = self.call(&admin::Ask {
            method: asking.method,
            path: &asking.path,
            body: asking.body.as_ref(),
            idempotency_key: asking.idempotency_key.as_deref(),
        })?;
        if status < 300 {
            return Ok(answer);
        }
        // Whoever reads the answer of a reload as JSON reads its faults so, too.
        if self.json && answer["error"]["problems"].is_array() {
            print(&format!("{answer:#}\n"));
            return Err(Failure::new(FAILED, ""));
        }
        if is_of_the_data_port(&answer) {
            return Err(Failure::new(UNREACHABLE, DATA_PORT));
        }
        let message = answer["error"]["message"].as_str().unwrap_or("the gateway refused");
        let message = &in_options(message);
        for problem in answer["error"]["problems"].as_array().into_iter().flatten() {
            eprintln!("{}", problem_text(problem));
        }
        let hint = match (status, answer["error"]["field"].as_str()) {
            (401, _) => format!(": {note}"),
            // The message names it mostly; where it does not, the place would be missing.
            (_, Some(field)) if !message.contains(field) => format!(" (field {field})"),
            _ => String::new(),
        };
        Err(Failure::new(FAILED, printable(&format!("{message}{hint}"))))
    }
}

const DATA_PORT: &str = "this address answers as the data port, which callers use (server.listen): \
    the admin API is on another, admin.listen of the configuration, 127.0.0.1:9090 if it says none";

/// The admin API's refusals have no type; OpenAI's have, as those of the data port.
fn is_of_the_data_port(answer: &Value) -> bool {
    answer["error"]["code"] == "unknown_url" || answer["error"]["type"].is_string()
}

/// The URL as it is documented, and as it stands in front of every path.
fn base(url: &str) -> &str {
    let url = url.trim_end_matches('/');
    url.strip_suffix("/admin/v1").unwrap_or(url)
}

/// What the API says of its fields and parameters, said of the options that set them.
fn in_options(message: &str) -> String {
    let message = message.replace("with cascade=true", "with --cascade");
    for field in ["role", "from", "to", "rate", "provider", "model", "balance"] {
        if let Some(rest) = message.strip_prefix(&format!("`{field}` is missing")) {
            return format!("--{field} is missing{rest}");
        }
    }
    message
}

/// A call as a command makes it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Asking {
    pub method: &'static str,
    pub path: String,
    pub body: Option<Value>,
    pub idempotency_key: Option<String>,
}

impl Asking {
    pub(crate) fn new(method: &'static str, path: String) -> Self {
        Asking { method, path, body: None, idempotency_key: None }
    }

    pub(crate) fn with(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }
}

/// One piece of a path or a value of a query, percent-encoded.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' | b'.' => {
                out.push(byte as char);
            }
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}

/// A path with those parameters that were said.
pub(crate) fn with_query(path: &str, pairs: &[(&str, Option<String>)]) -> String {
    let said = pairs.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
    let query: Vec<String> =
        said.map(|(name, value)| format!("{name}={}", encoded(value))).collect();
    if query.is_empty() { path.to_owned() } else { format!("{path}?{}", query.join("&")) }
}

fn from(whence: &str) -> String {
    format!("it came from {whence}")
}

fn problem_text(problem: &Value) -> String {
    let place = match (problem["line"].as_u64(), problem["column"].as_u64()) {
        (Some(line), Some(column)) => format!("{line}:{column}: "),
        _ => String::new(),
    };
    // Of an included file; the places of the main one need no name.
    let file = problem["file"].as_str().map(|file| format!("{file}:")).unwrap_or_default();
    format!("{file}{place}{}", problem["message"].as_str().unwrap_or(""))
}

pub(crate) fn reload(args: &RemoteArgs) -> Result<(), Failure> {
    let answer = args.ask("POST", "/admin/v1/reload")?;
    if args.json {
        print(&format!("{answer:#}\n"));
        return Ok(());
    }
    print(&format!("generation {} is serving\n", answer["generation"]));
    for change in answer["changes"].as_array().into_iter().flatten() {
        print(&format!("  {} {}\n", text(&change["how"]), text(&change["what"])));
    }
    for what in answer["needs_restart"].as_array().into_iter().flatten() {
        print(&format!("  {} takes effect only after a restart\n", text(what)));
    }
    for warning in answer["warnings"].as_array().into_iter().flatten() {
        eprintln!("warning: {}", text(warning));
    }
    Ok(())
}

pub(crate) fn status(args: &RemoteArgs) -> Result<(), Failure> {
    let status = args.ask("GET", "/admin/v1/status")?;
    if args.json {
        print(&format!("{status:#}\n"));
        return Ok(());
    }
    let reload = &status["reload"];
    print(&format!(
        "foretoken {} (pid {}), {}, up {} s\n",
        text(&status["version"]),
        status["pid"],
        if status["ready"] == true { "ready" } else { "not ready" },
        status["uptime_s"]
    ));
    print(&format!(
        "configuration  generation {} of {}, {} reloads, {} failed\n",
        status["generation"],
        status["config"].as_str().unwrap_or("memory"),
        reload["count"],
        reload["failures"]
    ));
    if reload["last_ok"] == false {
        print("               THE LAST RELOAD FAILED; the generation above goes on serving:\n");
        for problem in reload["problems"].as_array().into_iter().flatten() {
            print(&format!("               {}\n", problem_text(problem)));
        }
    }
    for what in reload["needs_restart"].as_array().into_iter().flatten() {
        print(&format!("               {} takes effect only after a restart\n", text(what)));
    }
    print(&format!("keys           {}\n", status["keys"]));
    print(&format!(
        "requests       {} under way (limit {})\n",
        status["requests"]["running"], status["requests"]["limit"]
    ));
    for (at, worker) in status["workers"].as_array().into_iter().flatten().enumerate() {
        print(&format!(
            "worker {at:<8}{} connections, {} streams\n",
            worker["connections"], worker["streams"]
        ));
    }
    let journal = &status["journal"];
    print(&format!(
        "journal        {} of {} bytes pending, {} requests refused\n",
        journal["pending_bytes"], journal["bound_bytes"], journal["refused"]
    ));
    print(&journal_text(journal));
    Ok(())
}

/// What is wrong with the books, a line each; nothing if nothing is.
fn journal_text(journal: &Value) -> String {
    let mut out = String::new();
    if journal["sync_failed"] == true {
        out += "               THE DISK REFUSED A SYNC: no request is let in until a restart\n";
    }
    if journal["last_error"].is_string() {
        let lag_s = journal["flush_lag_ms"].as_u64().unwrap_or(0) / 1000;
        let error = text(&journal["last_error"]);
        out += &format!("               THE STORE TAKES NOTHING IN, {lag_s} s behind: {error}\n");
    }
    out
}

pub(crate) fn routes(args: &RemoteArgs) -> Result<(), Failure> {
    let answer = args.ask("GET", "/admin/v1/routes")?;
    if args.json {
        print(&format!("{answer:#}\n"));
        return Ok(());
    }
    print(&routes_text(&answer));
    Ok(())
}

/// One line for each target, in columns.
fn routes_text(answer: &Value) -> String {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut out = String::new();
    let routes = list(&answer["data"]);
    let targets = routes.iter().flat_map(|route| list(&route["targets"]));
    let cells: Vec<[String; 5]> = targets.map(|target| cells(&target)).collect();
    let width = |at: usize| cells.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths = [width(0), width(1), width(2), width(3), width(4)];
    let mut rows = cells.iter();
    for route in &routes {
        out += &format!("{}  ({})\n", text(&route["model"]), text(&route["policy"]));
        for (target, row) in list(&route["targets"]).iter().zip(rows.by_ref()) {
            let [name, in_flight, streams, p50, p99] = row;
            out += &format!(
                "  {name:<0$}  {in_flight:>1$} in flight; {streams:>2$} streams, TTFT p50 {p50:>3$} p99 {p99:>4$}{rests}\n",
                widths[0],
                widths[1],
                widths[2],
                widths[3],
                widths[4],
                rests = rests(target)
            );
        }
    }
    out
}

/// Target, in flight, streams, p50, p99.
fn cells(target: &Value) -> [String; 5] {
    let ttft = &target["ttft_us"];
    let ms = |value: &Value| {
        value.as_f64().map_or("-".to_owned(), |us| format!("{:.1} ms", us / 1000.0))
    };
    [
        text(&target["target"]).to_owned(),
        target["in_flight"].to_string(),
        ttft["count"].to_string(),
        ms(&ttft["p50"]),
        ms(&ttft["p99"]),
    ]
}

/// Why the target, or a key of its provider, is not asked now.
fn rests(target: &Value) -> String {
    let seconds = |ms: &Value| ms.as_u64().map(|ms| ms.div_ceil(1000));
    let mut out =
        seconds(&target["resting_ms"]).map_or(String::new(), |s| format!(", resting {s} s"));
    for credential in target["credentials"].as_array().into_iter().flatten() {
        let name = text(&credential["name"]);
        for (key, word) in [("cooling_ms", "cooling"), ("parked_ms", "parked")] {
            if let Some(s) = seconds(&credential[key]) {
                out += &format!(", {name} {word} {s} s");
            }
        }
    }
    out
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_store_that_takes_nothing_in_is_told_of() {
        let sound = json!({"sync_failed": false, "last_error": null, "flush_lag_ms": 900});
        assert_eq!(journal_text(&sound), "");
        let ill = json!({
            "sync_failed": true, "last_error": "x.db: database is locked", "flush_lag_ms": 7100,
        });
        let told = journal_text(&ill);
        assert!(told.contains("7 s behind: x.db: database is locked\n"), "{told}");
        assert!(told.contains("until a restart"), "{told}");
    }

    #[test]
    fn what_the_api_says_becomes_options() {
        for (said, want) in [
            ("delete it first, or with cascade=true all", "delete it first, or with --cascade all"),
            ("`role` is missing", "--role is missing"),
            ("`limits.rpm` must be 1 or more", "`limits.rpm` must be 1 or more"),
        ] {
            assert_eq!(in_options(said), want);
        }
        for url in ["http://a:1", "http://a:1/", "http://a:1/admin/v1", "http://a:1/admin/v1/"] {
            assert_eq!(base(url), "http://a:1");
        }
        assert_eq!(base("a:1/behind/admin/v1"), "a:1/behind");
        let other = json!({"error": {"type": "invalid_request_error", "code": "unknown_url"}});
        assert!(is_of_the_data_port(&other));
        assert!(!is_of_the_data_port(&json!({"error": {"code": "not_found"}})));
    }

    #[test]
    fn routes_stand_in_columns_and_tell_what_rests() {
        let target = |name: &str, count: u64, resting: Value, credentials: Value| {
            json!({"target": name, "in_flight": count, "resting_ms": resting, "credentials": credentials,
                "ttft_us": {"count": count * 11, "p50": count * 1000, "p99": null}})
        };
        let long = "provider-with-a-long-name/meta-llama/Llama-3.1-8B-Instruct";
        let cooling = json!([
            {"name": "a#1", "cooling_ms": 400, "parked_ms": null},
            {"name": "a#2", "cooling_ms": null, "parked_ms": 60_000},
        ]);
        let answer = json!({"data": [
            {"model": "m", "policy": "priority", "targets": [
                target("a/x", 100, json!(1500), cooling), target(long, 2, Value::Null, json!([]))]},
            {"model": "n", "policy": "weighted", "targets": [target("b/y", 3, Value::Null, json!([]))]},
        ]});
        let told = routes_text(&answer);
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 5, "{told}");
        assert_eq!((lines[0], lines[3]), ("m  (priority)", "n  (weighted)"));
        assert!(
            lines[1].ends_with("p99 -, resting 2 s, a#1 cooling 1 s, a#2 parked 60 s"),
            "{told}"
        );
        let at = |line: &str| ["in flight", "streams", "p99"].map(|word| line.find(word));
        assert_eq!(at(lines[1]), at(lines[2]), "{told}");
        assert_eq!(at(lines[1]), at(lines[4]), "{told}");
        assert!(lines[2].starts_with(&format!("  {long}  ")), "{told}");
        assert_eq!(routes_text(&json!({})), "");
    }
}
