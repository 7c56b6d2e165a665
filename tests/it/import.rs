//! Configurations of other gateways, imported by the built binary: the result is good as it is, and
//! the keys that callers have go on working with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::process::{Process, foretoken, run};
use crate::support::{Answer, SimServer, chat, eventually, request};

/// What LiteLLM's database has the hash of.
const LITELLM_SECRET: &str = "sk-imported-1";
/// One-API keeps keys without what callers put before them. The user pays from a balance.
const ONE_API_SECRET: &str = "sk-canaryKey000000000000000000000000000000000000002";

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples/import").join(name)
}

/// Imports into `dir` and returns the path of the result, and the variables that it wants.
#[track_caller]
fn import(dir: &Path, arguments: &[&str]) -> (PathBuf, Vec<String>) {
    let out = dir.join("imported.toml");
    let mut command = foretoken();
    command.current_dir(dir).arg("import").args(arguments).arg("--out").arg(&out);
    command.env_remove("AZURE_EU_BASE");
    let (code, told, err) = run(&mut command);
    assert_eq!(code, 0, "{told}{err}");
    let (lines, wanted) = told.split_once("\nset before serving:\n").expect("the variables");
    for word in ["taken", "changed", "no counterpart"] {
        assert!(lines.lines().any(|line| line.starts_with(word)), "{word}: {told}");
    }
    let result = std::fs::read_to_string(&out).expect("the result");
    let all = [told.as_str(), &err, &result].concat().to_ascii_lowercase();
    assert!(!all.contains("canary"), "a secret: {told}{result}");
    let wanted = wanted.lines().take_while(|line| line.starts_with("  "));
    let names = wanted.filter_map(|line| line.split_whitespace().next().map(str::to_owned));
    (out, names.collect())
}

/// A command with these variables set.
fn with(variables: &[String], arguments: &[&str], config: &Path) -> Command {
    let mut command = foretoken();
    command.args(arguments).arg("--config").arg(config);
    command.current_dir(config.parent().expect("a directory"));
    for name in variables {
        command.env(name, format!("value-of-{name}"));
    }
    command
}

#[track_caller]
fn check(config: &Path, variables: &[String]) {
    let (code, _, err) = run(&mut with(&[], &["check"], config));
    assert!(code == 2 && variables.iter().any(|name| err.contains(name)), "unset: {code} {err}");
    let (code, out, err) = run(&mut with(variables, &["check"], config));
    assert!(code == 0 && out.contains(": good"), "{code} {out}{err}");
}

/// Serves the result with every provider at `upstream`, on ports of its own.
#[track_caller]
fn serve(config: &Path, variables: &[String], upstream: &SimServer) -> Process {
    let text = std::fs::read_to_string(config).expect("the result");
    let mut edited = String::new();
    let mut is_provider = false;
    for line in text.lines() {
        let is_head = line.starts_with('[');
        is_provider = if is_head { line == "[[provider]]" } else { is_provider };
        let kept = match line.split(" = ").next() {
            Some("base_url") if is_provider => continue,
            Some("listen") if line.contains('[') => "listen = [\"127.0.0.1:0\"]",
            Some("listen") => "listen = \"127.0.0.1:0\"",
            _ => line,
        };
        edited.push_str(kept);
        edited.push('\n');
        if line == "[[provider]]" {
            edited.push_str(&format!("base_url = \"http://{}/v1\"\n", upstream.addr));
            edited.push_str("pool = { min_warm = 0 }\n");
        }
    }
    std::fs::write(config, edited).expect("written");
    Process::spawn(with(variables, &["serve"], config))
}

#[track_caller]
fn ask(process: &Process, secret: &str, model: &str) -> Answer {
    let bearer = format!("Bearer {secret}");
    let headers = [("authorization", bearer.as_str())];
    request(process.addr, "POST", "/v1/chat/completions", &headers, chat(model, false, "Hello"))
}

#[track_caller]
fn usage(process: &Process, secret: &str) -> Value {
    let bearer = format!("Bearer {secret}");
    let answer = request(process.addr, "GET", "/v1/usage", &[("authorization", &bearer)], b"");
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.json()["data"][0].clone()
}

#[test]
fn keys_of_litellm_go_on_working() {
    let dir = tempfile::tempdir().expect("a directory");
    let yaml = sample("litellm.yaml").display().to_string();
    let keys = sample("litellm-keys.json").display().to_string();
    let (config, variables) = import(dir.path(), &["litellm", &yaml, "--keys", &keys]);
    assert!(variables.contains(&"OPENAI_API_KEY".to_owned()), "{variables:?}");
    check(&config, &variables);

    let upstream = SimServer::with(|_| {});
    let process = serve(&config, &variables, &upstream);
    let answer = ask(&process, LITELLM_SECRET, "gpt-4o");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-ratelimit-limit-requests"), Some("600"));
    assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("200000"));
    // Its own alias, and what it may not ask for.
    assert_eq!(ask(&process, LITELLM_SECRET, "gpt-4").status, 200);
    ask(&process, LITELLM_SECRET, "gemini-flash").expect_error(403, "model_not_allowed");
    ask(&process, "sk-...ed-1", "gpt-4o").expect_error(401, "invalid_api_key");
    // The price came along: 2.5 and 10 a million.
    eventually("it is booked", || usage(&process, LITELLM_SECRET)["units"]["out_text"].is_u64());
    let booked = usage(&process, LITELLM_SECRET);
    assert_ne!(booked["cost"], "0", "{booked}");
}

#[test]
fn keys_of_one_api_go_on_working() {
    let dir = tempfile::tempdir().expect("a directory");
    let dump = sample("one-api.sql").display().to_string();
    let (config, variables) = import(dir.path(), &["one-api", &dump]);
    assert!(variables.contains(&"CHANNEL_1_API_KEY_2".to_owned()), "{variables:?}");
    check(&config, &variables);

    // Not written over unasked.
    let mut again = foretoken();
    again.args(["import", "one-api", &dump, "--out"]).arg(&config);
    let (code, _, err) = run(&mut again);
    assert!(code == 2 && err.contains("--force"), "{code} {err}");

    let upstream = SimServer::with(|_| {});
    let process = serve(&config, &variables, &upstream);
    let answer = ask(&process, ONE_API_SECRET, "gpt-4o");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("x-foretoken-target"), Some("channel-1/gpt-4o"));
    // The model was mapped at its channel.
    let answer = ask(&process, ONE_API_SECRET, "gpt-4");
    assert_eq!(answer.header("x-foretoken-target"), Some("channel-1/gpt-4-turbo"));
    // Others: bound to a network, switched off, of nobody.
    let of = |number: u8| format!("sk-canaryKey00000000000000000000000000000000000000{number}");
    ask(&process, &of(1), "gpt-4o").expect_error(403, "address_not_allowed");
    ask(&process, &of(4), "gpt-4o").expect_error(401, "invalid_api_key");
    ask(&process, ONE_API_SECRET.strip_prefix("sk-").expect("so"), "gpt-4o")
        .expect_error(401, "invalid_api_key");
    eventually("it is booked", || usage(&process, ONE_API_SECRET)["requests"] == 2);
}
