use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

pub(super) const HEAD: &str = r#"
[[provider]]
name = "p"
base_url = "http://127.0.0.1:1/v1"
[[model]]
name = "m"
targets = [{ provider = "p" }]
[[key]]
name = "k"
secret = "sk-0123456789"
"#;

pub(super) fn env(name: &str) -> Option<String> {
    match name {
        "EMPTY" => Some(String::new()),
        "TWO_LINES" => Some("sk-canary\nx".into()),
        "OPENAI_API_KEY" | "OPENAI_API_KEY_2" => Some(format!("sk-canary-{name}")),
        "CHAT_BACKEND_KEY" | "FORETOKEN_ADMIN_TOKEN" => Some(format!("sk-canary-{name}")),
        _ => None,
    }
}

pub(super) fn read(text: &str) -> Result<Loaded, Faults> {
    parse(text, "f.toml", Path::new("/nonexistent"), &env)
}

pub(super) fn config(text: &str) -> Config {
    read(text).unwrap_or_else(|faults| panic!("{faults}")).config
}

pub(super) fn faults(text: &str) -> Vec<String> {
    let Err(faults) = read(text) else { panic!("this should be refused:\n{text}") };
    faults.faults.iter().map(Fault::to_string).collect()
}

/// The only fault of `HEAD` with `text` after it, without its place.
pub(super) fn fault(text: &str) -> String {
    let list = faults(&format!("{HEAD}{text}"));
    assert_eq!(list.len(), 1, "{list:#?}");
    list[0].split_once(": ").expect("a place").1.to_owned()
}

pub(super) fn warnings(text: &str) -> Vec<String> {
    let loaded = read(text).unwrap_or_else(|faults| panic!("{faults}"));
    loaded.warnings.iter().map(Fault::to_string).collect()
}

#[test]
fn three_tables_are_a_complete_configuration() {
    let text = include_str!("../../config/minimal.toml");
    let loaded = read(text).expect("minimal.toml");
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(config.server.listen, ["127.0.0.1:8080".parse().expect("address")]);
    assert_eq!(config.server.workers, 0);
    assert_eq!(config.server.limits.body_bytes, 32 << 20);
    assert_eq!(config.server.timeouts.idle, Duration::from_secs(620));
    assert_eq!(config.server.keep_alive_comment, None);
    assert_eq!(config.server.tls, None);
    assert_eq!(config.server.retry.attempts, 3);
    assert_eq!(config.admin.listen, Some("127.0.0.1:9090".parse().expect("address")));
    assert_eq!(config.admin.token, None);
    assert_eq!(config.store.fsync, Fsync::Every(Duration::from_millis(50)));
    assert_eq!(config.log.access, AccessLog::Stdout);
    let provider = config.provider("openai").expect("the provider");
    assert_eq!(provider.base_url.to_string(), "https://api.openai.com/v1");
    assert_eq!(provider.api_keys[0].expose(), "sk-canary-OPENAI_API_KEY");
    assert_eq!(provider.timeouts.total, None);
    assert!(provider.include_usage);
    assert_eq!(config.models[0].policy, Policy::Priority);
    assert_eq!(config.models[0].targets[0].model, TargetModel::Named("gpt-4o-mini".into()));
    let key = &config.keys[0];
    assert_eq!((key.project.as_str(), key.account.as_str()), ("default", "default"));
    assert_eq!(key.sha256, Secret::new("sk-canary-CHAT_BACKEND_KEY").digest());
    assert_eq!(key.models, ["*"]);
}

#[test]
fn the_example_file_is_what_init_prints_and_it_loads() {
    let text = include_str!("../../config/foretoken.toml");
    assert!(text == init(), "config/foretoken.toml differs from `foretoken config init`");
    let loaded = read(text).expect("the example");
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config, config(include_str!("../../config/minimal.toml")));
}

/// Every commented setting is a valid one: only what excludes each other and the files that are
/// not there may be at fault when all of them are switched on.
#[test]
fn every_setting_of_the_example_is_valid() {
    let active: String = init()
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(setting) if !setting.starts_with(' ') => format!("{setting}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    let expected = [
        "cannot be read",
        "has both",
        "names \"gpt-4o\", which is no [[model]]",
        "a project of the account",
    ];
    let list = faults(&active);
    let unexpected: Vec<&String> =
        list.iter().filter(|fault| !expected.iter().any(|part| fault.contains(part))).collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
    // The two files of the certificate, the root, two files of prices; both kinds of key, both
    // kinds of secret.
    assert_eq!(list.len(), 5 + 2 + 1 + 1, "{list:#?}");
}

#[test]
fn the_reference_names_every_key_of_the_example() {
    let reference = reference();
    for line in init().lines() {
        let line = line.strip_prefix('#').unwrap_or(line);
        if line.starts_with('[') {
            assert!(reference.contains(&format!("## {line}\n")), "{line}");
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with(' ')) {
            assert!(reference.contains(&format!("| `{key}` |")), "{key}");
        }
    }
    for preset in PROVIDERS {
        assert!(reference.contains(&format!("| `{}` |", preset.name)));
    }
    assert!(reference.contains("Not available in this version: `hedge`"));
}

#[test]
fn all_faults_of_a_file_are_told_at_once_and_in_its_order() {
    let text = r#"[server]
listen = [":8080", "localhost:80"]
workers = "4"
keep_alive_comment = 15
wrkers = 3
[server.limits]
body = 33554432
[[provider]]
name = "p"
preset = "opnai"
api_key = "env:NOPE"
timeouts = { connect = "5sec" }
[[model]]
name = "m"
    polcy = "weighted"
targets = [{ provider = "q" }]
"#;
    assert_eq!(
        faults(text),
        [
            r#"f.toml:2:11: "listen" in [server] must be an address with a port, and ":8080" is none; write "0.0.0.0:8080" or "[::]:8080" for all addresses of this machine"#,
            r#"f.toml:2:20: "listen" in [server] must be an address with a port, and "localhost:80" is none; write "127.0.0.1:80" or "[::1]:80""#,
            r#"f.toml:3:11: "workers" in [server] must be a whole number, not a string; write a number without quotes"#,
            r#"f.toml:4:22: "keep_alive_comment" in [server] has no unit in 15; write "15s" for seconds, or use us, ms, m, h or d"#,
            r#"f.toml:5:1: unknown key "wrkers" in [server]; did you mean "workers"?"#,
            r#"f.toml:7:8: "body" in [server.limits] has no unit in 33554432; write "33554432B" for bytes, or use KB, MB, GB, KiB, MiB, GiB or TiB"#,
            r#"f.toml:10:10: "preset" in [[provider]] has the unknown value "opnai"; did you mean "openai"?"#,
            r#"f.toml:11:11: "api_key" in [[provider]] names the environment variable NOPE, which is not set; set it, or remove the key"#,
            r#"f.toml:12:24: "connect" in timeouts of [[provider]] has the unknown unit "sec"; use us, ms, s, m, h or d"#,
            r#"f.toml:15:5: unknown key "polcy" in [[model]]; did you mean "policy"?"#,
            r#"f.toml:16:25: "provider" in targets of [[model]] names "q", which is no [[provider]]; did you mean "p"?"#,
        ]
    );
    let Err(list) = read(text) else { panic!("refused") };
    let json = serde_json::to_value(&list).expect("JSON");
    assert_eq!(
        json[4],
        serde_json::json!({
            "file": "f.toml", "line": 5, "column": 1,
            "message": "unknown key \"wrkers\" in [server]", "cure": "did you mean \"workers\"?",
        })
    );
}

#[test]
fn syntax_errors_have_a_place_and_do_not_hide_the_rest() {
    let text = "[server\nworkers = 3\n[admin]\nlisten = \"127.0.0.1:9090\ntoke = \"x\"\n\
                [[provider]]\nname = \"a\"\nname = \"b\"\nbase_url = http://x\n";
    assert_eq!(
        faults(text),
        [
            "f.toml:1:8: unclosed table, expected `]`",
            "f.toml:4:25: invalid basic string, expected `\"`",
            "f.toml:5:1: unknown key \"toke\" in [admin]; did you mean \"token\"?",
            "f.toml:8:1: duplicate key \"name\"; remove one of the two",
            "f.toml:9:12: string values must be quoted, expected literal string",
        ]
    );
}

#[test]
fn each_mistake_has_its_own_sentence_and_cure() {
    for (text, want) in [
        ("[kee]", r#"unknown key "kee" in the file; did you mean "key"?"#),
        (
            "[[provider]]\nname = \"x\"\napi_base = \"http://x\"\nbase_url = \"http://x\"",
            r#"unknown key "api_base" in [[provider]]; did you mean "base_url"?"#,
        ),
        (
            "[store]\nurl = \"env:X\"",
            r#""url" is not available in this version of foretoken; remove it: nothing would act on it"#,
        ),
        (
            "[alerts]\nwebhook = \"http://x\"",
            r#""alerts" is not available in this version of foretoken; remove it: nothing would act on it"#,
        ),
        (
            "[[provider]]\nname = \"a\"",
            r#"[[provider]] lacks the key "base_url"; add for example base_url = "https://api.openai.com/v1", or a preset"#,
        ),
        (
            "[[provider]]\nbase_url = \"http://x\"",
            r#"[[provider]] lacks the key "name"; add for example name = "openai""#,
        ),
        (
            "[[provider]]\nname = \"x\"\nbase_url = \"https://llm.test:8443/v1/chat/completions/\"",
            r#""base_url" in [[provider]] ends in /chat/completions, which each request brings along, in "https://llm.test:8443/v1/chat/completions/"; write "https://llm.test:8443/v1""#,
        ),
        (
            "[[provider]]\nname = \"x\"\npreset = \"llamacpp\"",
            r#"[[provider]] "x" is at http://127.0.0.1:8080/v1, where [server] listens (127.0.0.1:8080): this gateway would ask itself; change base_url, or "listen" and the callers' base URL"#,
        ),
        (
            "[[provider]]\nname = \"x\"\nbase_url = \"http://localhost:9090/v1\"",
            r#"[[provider]] "x" is at http://localhost:9090/v1, where [admin] listens (127.0.0.1:9090): this gateway would ask itself; change base_url, or "listen" and the callers' base URL"#,
        ),
        (
            "[[provider]]\nname = \"p\"\npreset = \"vllm\"",
            r#"[[provider]] has the name "p" twice; choose another name, or merge the two"#,
        ),
        (
            "[[provider]]\nname = \"x\"\npreset = \"anthropic\"",
            r#""preset" in [[provider]] is "anthropic", which is not available in this version of foretoken; valid: openai, openrouter, groq, deepseek, mistral, together, fireworks, cerebras, xai, moonshot, nvidia, ollama, vllm, sglang, llamacpp, lmstudio"#,
        ),
        (
            "[[provider]]\nname = \"x\"\npreset = \"vllm\"\nprotocol = \"h3\"",
            r#""protocol" in [[provider]] is "h3", which is not available in this version of foretoken; valid: auto, h1, h2"#,
        ),
        (
            "[[provider]]\nname = \"x\"\npreset = \"vllm\"\napi_key = \"sk-a-secret\"\napi_keys = [\"sk-b-secret\"]",
            r#"[[provider]] has both "api_key" and "api_keys"; remove one of the two"#,
        ),
        (
            "[[provider]]\nname = \"x\"\npreset = \"vllm\"\napi_keys = [\"sk-canary\", \"sk-canary\"]",
            r#""api_keys" in [[provider]] has the same key twice; remove one"#,
        ),
        (
            "[[provider]]\nname = \"x\"\npreset = \"vllm\"\nheaders = { Host = \"x\" }",
            r#""headers" in [[provider]] has a header that is set for each request: "Host"; remove it"#,
        ),
        (
            "[[provider]]\nname = \"x\"\npreset = \"vllm\"\nheaders = { \"a b\" = \"x\" }",
            r#""headers" in [[provider]] has a name that is no header name: "a b"; use letters, digits and hyphens"#,
        ),
        (
            "[[provider]]\nname = \"x\"\npreset = \"vllm\"\nheaders = { a = \"x\", A = \"y\" }",
            r#""headers" in [[provider]] has the same header twice: "a"; remove one"#,
        ),
        (
            "[[provider]]\nname = \"x\"\npreset = \"vllm\"\ntls = { ca = \"root.pem\" }",
            r#""ca" in tls of [[provider]] names the file "/nonexistent/root.pem", which cannot be read: No such file or directory (os error 2); create it, or name another"#,
        ),
        (
            "[[model]]\nname = \"x\"\ntargets = []",
            r#""targets" in [[model]] is empty; add for example { provider = "openai" }"#,
        ),
        (
            "[[model]]\nname = \"x\"\ntargets = [\"p\"]",
            r#""targets" in [[model]] must hold tables, not a string; write { … }"#,
        ),
        (
            "[[model]]\nname = \"x\"\ntargets = [{ provider = \"p\", weight = 0 }]",
            r#""targets" in [[model]] all have the weight 0: none is ever asked; give one of them a weight"#,
        ),
        (
            "[[model]]\nname = \"x\"\ntargets = [{ provider = \"p\" }, { provider = \"p\", model = \"x\" }]",
            r#""targets" in [[model]] has p/x twice; remove one, and give the other its weight"#,
        ),
        (
            "[[model]]\nname = \"x*y\"\ntargets = [{ provider = \"p\" }]",
            r#""name" in [[model]] has a misplaced star: "x*y"; write a whole name, "prefix/*" or "*""#,
        ),
        (
            "[[model]]\nname = \"x/*\"\ntargets = [{ provider = \"p\", model = \"y/*\" }]",
            r#""model" in targets of [[model]] has a misplaced star: "y/*"; write the model's name, or "*" to pass on what was asked for"#,
        ),
        (
            "[[model]]\nname = \"x\"\npolicy = \"ttft\"\ntargets = [{ provider = \"p\" }]",
            r#""policy" in [[model]] is "ttft", which is not available in this version of foretoken; valid: priority, weighted, least_outstanding"#,
        ),
        (
            "[[model]]\nname = \"x\"\ntargets = [{ provider = \"p\" }]\nhedge = { budget = 0.05 }",
            r#""hedge" is not available in this version of foretoken; remove it: nothing would act on it"#,
        ),
        (
            "[[model]]\nname = \"x\"\ntargets = [{ provider = \"p\" }]\nfallbacks = [\"mm\"]",
            r#""fallbacks" in [[model]] names "mm", which is no [[model]]; did you mean "m"?"#,
        ),
        (
            "[[model]]\nname = \"x\"\ntargets = [{ provider = \"p\" }]\nfallbacks = [\"x\"]",
            r#""fallbacks" in [[model]] go in a circle: x -> x; remove one of them"#,
        ),
        (
            "[[key]]\nname = \"x\"",
            r#"[[key]] has neither "secret" nor "sha256"; add for example secret = "env:CHAT_BACKEND_KEY""#,
        ),
        (
            "[[key]]\nname = \"x\"\nsecret = \"sk-0123456789\"",
            r#"[[key]] "x" has the same secret as "k"; give each key a secret of its own"#,
        ),
        (
            "[[key]]\nname = \"x\"\nsha256 = \"ab\"",
            r#""sha256" in [[key]] must be 64 hexadecimal digits; print it with: printf %s SECRET | sha256sum"#,
        ),
        (
            "[[key]]\nname = \"x\"\nsecret = \"\"",
            r#""secret" in [[key]] is empty; give it a value, or remove the key"#,
        ),
        (
            "[[key]]\nname = \"x\"\nsecret = \"env:EMPTY\"",
            r#""secret" in [[key]] names the environment variable EMPTY, which is empty; give it a value, or remove the key"#,
        ),
        (
            "[[key]]\nname = \"x\"\nsecret = \"env:TWO_LINES\"",
            r#""secret" in [[key]] names the environment variable TWO_LINES, which has a line break or another control character in it; remove that"#,
        ),
        (
            "[[key]]\nname = \"x\"\nsecret = \"${CHAT_KEY}\"",
            r#""secret" in [[key]] is written like a variable of the shell, which is not looked up; write "env:CHAT_KEY""#,
        ),
        (
            "[[key]]\nname = \"x\"\nsecret = \"sk-abcdefgh\"\nproject = \"chat\"",
            r#""project" in [[key]] names "chat", which is no [[project]]; valid: default"#,
        ),
        (
            "[[key]]\nname = \"x\"\nsecret = \"sk-abcdefgh\"\nuser = \"ada\"",
            r#""user" in [[key]] names "ada", which is no [[user]]; there is no [[user]] yet"#,
        ),
        (
            "[[key]]\nname = \"x\"\nsecret = \"sk-abcdefgh\"\nendpoints = [\"caht\"]",
            r#""endpoints" in [[key]] has the unknown value "caht"; did you mean "chat"?"#,
        ),
        (
            "[[key]]\nname = \"x\"\nsecret = \"sk-abcdefgh\"\ncidrs = [\"10.0.0.1/8\"]",
            r#""cidrs" in [[key]] has bits beyond the prefix in "10.0.0.1/8"; write "10.0.0.0/8""#,
        ),
        (
            "[[key]]\nname = \"x\"\nsecret = \"sk-abcdefgh\"\nexpires_at = \"2030-01-01\"",
            r#""expires_at" in [[key]] must be a time of RFC 3339, and "2030-01-01" has no time of day; write for example "2027-01-31T00:00:00Z""#,
        ),
        (
            "[[key]]\nname = \"a\\u0000b\"\nsecret = \"sk-abcdefgh\"",
            r#""name" in [[key]] has a control character in "a\0b"; remove it"#,
        ),
        (
            "[[project]]\nname = \"x\"\naccount = \"acme\"",
            r#""account" in [[project]] names "acme", which is no [[account]]; valid: default"#,
        ),
        (
            "[[account]]\nname = \"x\"\ncurrency = \"usd\"",
            r#""currency" in [[account]] must be three capital letters, not "usd"; write for example "USD""#,
        ),
        (
            "[admin]\nlisten = \"0.0.0.0:9090\"",
            r#"[admin] listens on 0.0.0.0:9090, which others can reach, without a token; add token = "env:FORETOKEN_ADMIN_TOKEN""#,
        ),
        (
            "[admin]\ntoken = \"\"",
            r#""token" in [admin] is empty; give it a value, or remove the key"#,
        ),
        (
            "[admin]\nlisten = \"127.0.0.1:8080\"",
            r#""listen" in [admin] has 127.0.0.1:8080, which [server] has already; choose another port"#,
        ),
        (
            "[server]\nlisten = []",
            r#""listen" in [server] is empty, and there is no [server.tls]; write listen = ["127.0.0.1:8080"]"#,
        ),
        (
            "[server.limits]\nbody = \"2GiB\"",
            r#""body_memory" in [server.limits] is less than body: no body of that size fits; raise body_memory, or lower body"#,
        ),
        (
            "[server.limits]\nheader_count = 0",
            r#""header_count" in [server.limits] must be 8 to 256, not 0; write 8 to 256"#,
        ),
        (
            "[server.timeouts]\nheader = \"9999h\"",
            r#""header" in [server.timeouts] must be 100ms to 1h, not 9999h; write 100ms to 1h"#,
        ),
        (
            "[server.retry]\nbudget = 1.5",
            r#""budget" in [server.retry] must be 0 to 1, not 1.5; write 0 to 1"#,
        ),
        (
            "[[server]]\nworkers = 1",
            r#""server" in the file must be one table, not a list; write [server]"#,
        ),
        (
            "[log]\naccess = \"stdot\"",
            r#""access" in [log] has the unknown value "stdot"; did you mean "stdout"? A file is written as "./stdot""#,
        ),
        (
            "[store]\nfsync = \"never\"",
            r#""fsync" in [store] must be a whole number and a unit, and "never" is not; write for example "10s", or "always""#,
        ),
    ] {
        assert_eq!(fault(text), want, "{text}");
    }
}

#[test]
fn a_wrong_table_does_not_drag_others_along() {
    let text =
        "[provider]\nname = \"p\"\n[[model]]\nname = \"m\"\ntargets = [{ provider = \"p\" }]\n";
    let want = "f.toml:1:1: \"provider\" in the file must be a list of tables, not a table; write [[provider]]";
    assert_eq!(faults(text), [want]);
}

#[test]
fn circles_of_fallbacks_are_found_and_shared_ones_are_none() {
    let model = |name: &str, fallbacks: &str| {
        format!(
            "[[model]]\nname = \"{name}\"\ntargets = [{{ provider = \"p\" }}]\nfallbacks = [{fallbacks}]\n"
        )
    };
    let fine =
        [model("a", "\"b\", \"c\""), model("b", "\"c\", \"m\""), model("c", "\"m\"")].concat();
    assert_eq!(config(&format!("{HEAD}{fine}")).models[1].fallbacks, ["b", "c"]);
    let round = [model("a", "\"b\""), model("b", "\"c\""), model("c", "\"m\", \"b\"")].concat();
    assert_eq!(
        fault(&round),
        "\"fallbacks\" in [[model]] go in a circle: b -> c -> b; remove one of them"
    );
}

#[test]
fn globs_pass_on_what_was_asked() {
    let text = format!(
        "{HEAD}[[model]]\nname = \"*\"\ntargets = [{{ provider = \"p\", model = \"*\" }}]\n\
         [[model]]\nname = \"x/*\"\ntargets = [{{ provider = \"p\" }}]\n\
         [[model]]\nname = \"y/*\"\ntargets = [{{ provider = \"p\", model = \"z\" }}]\n"
    );
    let config = config(&text);
    let names: Vec<&TargetModel> =
        config.models.iter().map(|model| &model.targets[0].model).collect();
    let named = |name: &str| TargetModel::Named(name.into());
    assert_eq!(names, [&named("m"), &TargetModel::AsAsked, &TargetModel::AsAsked, &named("z")]);
}

#[test]
fn presets_fill_in_and_are_overridden() {
    let provider = |text: &str| {
        config(&format!("{HEAD}[[provider]]\nname = \"x\"\n{text}"))
            .provider("x")
            .expect("it")
            .clone()
    };
    let mistral = provider("preset = \"mistral\"");
    assert_eq!(mistral.base_url.to_string(), "https://api.mistral.ai/v1");
    assert!(!mistral.include_usage);
    let own =
        provider("preset = \"mistral\"\nbase_url = \"http://127.0.0.1/v1/\"\ninclude_usage = true");
    assert_eq!(own.base_url.to_string(), "http://127.0.0.1/v1");
    assert!(own.include_usage);
}

#[test]
fn durations_may_be_off_and_times_may_be_written_plainly() {
    let text = format!(
        "{HEAD}expires_at = 2030-01-31T00:00:00Z\n[[provider]]\nname = \"x\"\npreset = \"vllm\"\n\
         timeouts = {{ total = \"0s\" }}\npool = {{ max_age = \"off\" }}\n[server]\nkeep_alive_comment = \"15s\"\n"
    );
    let config = config(&text);
    assert_eq!(config.keys[0].expires_at_unix_ms, Some(1_896_048_000_000));
    assert_eq!(config.masked()["key"][0]["expires_at"], "2030-01-31T00:00:00.000Z");
    let provider = config.provider("x").expect("it");
    assert_eq!((provider.timeouts.total, provider.pool.max_age), (None, None));
    assert_eq!(config.server.keep_alive_comment, Some(Duration::from_secs(15)));
}

#[test]
fn keys_belong_to_the_account_of_their_project() {
    let text = "[[account]]\nname = \"acme\"\n[[project]]\nname = \"chat\"\naccount = \"acme\"\n\
                [[user]]\nname = \"ada\"\naccount = \"acme\"\n[[user]]\nname = \"bob\"\n\
                [[key]]\nname = \"x\"\nsecret = \"sk-abcdefgh\"\nproject = \"chat\"\nuser = \"ada\"\n";
    let all = config(&format!("{HEAD}{text}"));
    assert_eq!(
        (all.keys[1].account.as_str(), all.accounts.len(), all.projects.len()),
        ("acme", 2, 2)
    );
    assert_eq!(
        fault(&text.replace("user = \"ada\"", "user = \"bob\"")),
        "[[key]] \"x\" has a project of the account \"acme\" and a user of the account \"default\"; choose a user of the same account"
    );
}

#[test]
fn no_secret_is_ever_printed() {
    let text = format!(
        "{HEAD}[[provider]]\nname = \"x\"\npreset = \"openai\"\napi_keys = [\"env:OPENAI_API_KEY\", \"sk-canary-2\"]\n\
         headers = {{ x-team = \"sk-canary-3\" }}\n[admin]\ntoken = \"sk-canary-4\"\n\
         [[key]]\nname = \"y\"\nsecret = \"sk-canary-5\"\n"
    );
    let config = config(&text);
    for printed in [format!("{config:?}"), config.masked().to_string()] {
        assert!(!printed.contains("canary"), "{printed}");
        assert!(printed.contains("***"));
    }
    assert_eq!(config.masked()["provider"][1]["headers"]["x-team"], "***");
    for text in [
        "token = 1234567890",
        "token = \"env:sk-canary-6\"",
        "token = \"sk-canary \"",
        "token = \"env:TWO_LINES\"",
        "token = [\"sk-canary\"]",
    ] {
        let message = fault(&format!("[admin]\n{text}"));
        assert!(!message.contains("canary") && !message.contains("123"), "{message}");
    }
}

#[test]
fn masked_output_has_the_shape_and_the_units_of_the_file() {
    let json = config(HEAD).masked();
    assert_eq!(json["server"]["limits"]["body"], "32MiB");
    assert_eq!(json["server"]["timeouts"]["idle"], "620s");
    assert_eq!(json["server"]["keep_alive_comment"], "off");
    assert_eq!(json["store"]["fsync"], "50ms");
    assert_eq!(json["model"][0]["targets"][0]["provider"], "p");
    assert_eq!(json["provider"][0]["base_url"], "http://127.0.0.1:1/v1");
}

#[test]
fn files_are_read_relative_to_the_configuration_and_noted() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = |name: &str| dir.path().join(name);
    std::fs::write(path("api.key"), "sk-from-a-file\r\n").expect("write");
    std::fs::write(path("root.pem"), "-----BEGIN CERTIFICATE-----\nAA==\n").expect("write");
    std::fs::write(path("no.pem"), "nothing\n").expect("write");
    let text = format!(
        "{HEAD}[[provider]]\nname = \"x\"\npreset = \"openai\"\napi_key = \"file:api.key\"\ntls = {{ ca = \"file:root.pem\" }}\n"
    );
    std::fs::write(path("f.toml"), &text).expect("write");
    let loaded = load(&path("f.toml"), &env).expect("it loads");
    assert_eq!(loaded.files, [path("api.key"), path("f.toml"), path("root.pem")]);
    let provider = loaded.config.provider("x").expect("it");
    assert_eq!(provider.api_keys[0].expose(), "sk-from-a-file");
    assert_eq!(provider.tls.ca.as_ref().expect("a root").bytes.len(), 33);

    // The same file with other bytes is another configuration.
    std::fs::write(path("root.pem"), "-----BEGIN CERTIFICATE-----\nBB==\n").expect("write");
    let again = load(&path("f.toml"), &env).expect("it loads").config;
    let changes = diff(&loaded.config, &again);
    assert_eq!(changes, [Change { what: "[[provider]] \"x\"".into(), how: How::Changed }]);

    std::fs::write(
        path("f.toml"),
        text.replace("root.pem", "no.pem").replace("api.key", "gone.key"),
    )
    .expect("write");
    let Err(faults) = load(&path("f.toml"), &env) else { panic!("refused") };
    let printed = faults.to_string();
    assert!(printed.contains("no.pem\", which holds no CERTIFICATE in PEM"), "{printed}");
    assert!(printed.contains("gone.key\", which cannot be read"), "{printed}");
    let watched: Vec<&Path> = faults.fingerprint.files().collect();
    assert!(watched.contains(&path("gone.key").as_path()), "its coming may be the cure");
}

#[test]
fn a_file_that_is_none_is_one_fault() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("f.toml");
    let message = |path: &Path| {
        let Err(faults) = load(path, &env) else { panic!("refused") };
        faults.to_string().replace(&*dir.path().to_string_lossy(), "D")
    };
    assert_eq!(
        message(&path),
        "D/f.toml: cannot be read: No such file or directory (os error 2); create it, or name another"
    );
    assert_eq!(
        message(dir.path()),
        "D: cannot be read: it is no regular file; name a file that can be read"
    );
    std::fs::write(&path, b"a = \"\xff\"").expect("write");
    assert_eq!(message(&path), "D/f.toml: is not UTF-8 from byte 5 on; save it as UTF-8");
}

#[test]
fn differences_are_told_in_the_words_of_the_file() {
    let old = config(HEAD);
    assert_eq!(diff(&old, &old), []);
    let text = HEAD.replace("name = \"m\"", "name = \"n\"");
    let new = config(&format!(
        "{text}[server]\nworkers = 2\n[[key]]\nname = \"l\"\nsecret = \"sk-abcdefgh\"\n"
    ));
    let told: Vec<String> =
        diff(&old, &new).iter().map(|change| format!("{:?} {}", change.how, change.what)).collect();
    assert_eq!(
        told,
        [
            "Changed [server]",
            "Added [[model]] \"n\"",
            "Removed [[model]] \"m\"",
            "Added [[key]] \"l\""
        ]
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever is cut out of the example or put into it, the answer is a configuration or faults
    /// with a place.
    #[test]
    fn a_damaged_example_never_panics(
        uncommented: bool,
        from in 0usize..15_000,
        length in 0usize..400,
        put in "[\\[\\]{}=\"',.#a-z0-9*\n\\\\\u{e9}\u{0}]{0,12}",
        keep_rest: bool,
    ) {
        let mut text: Vec<char> = init().replace("\n#", if uncommented { "\n" } else { "\n#" }).chars().collect();
        let from = from.min(text.len());
        let to = if keep_rest { (from + length).min(text.len()) } else { text.len() };
        text.splice(from..to, put.chars());
        let text: String = text.into_iter().collect();
        if let Err(faults) = read(&text) {
            prop_assert!(!faults.faults.is_empty());
            for fault in &faults.faults {
                prop_assert!(fault.line >= 1 && fault.column >= 1);
                prop_assert!(!fault.to_string().contains(['\n', '\0']), "{fault}");
                prop_assert!(!fault.to_string().contains("canary"), "{fault}");
            }
        }
    }
}
