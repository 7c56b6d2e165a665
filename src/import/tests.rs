//! Whole imports: what a person who changes over would look at in the result and in the report.

use sha2::{Digest as _, Sha256};
use toml::{Table, Value};

use super::{Database, Fate, Fault, Imported, Options, Source, hex, litellm, one_api};

const CONFIG: &str = include_str!("../../tests/samples/import/litellm.yaml");
const KEYS: &str = include_str!("../../tests/samples/import/litellm-keys.json");
const TEAMS: &str = include_str!("../../tests/samples/import/litellm-teams.csv");
const USERS: &str = include_str!("../../tests/samples/import/litellm-users.sql");
const DUMP: &str = include_str!("../../tests/samples/import/one-api.sql");

/// 2026-01-01.
const NOW_UNIX_MS: u64 = 1_767_225_600_000;

fn options(with_secrets: bool) -> Options<'static> {
    Options { with_secrets, variable: &|_| None, now_unix_ms: NOW_UNIX_MS }
}

fn source<'s>(name: &'s str, text: &'s str) -> Source<'s> {
    Source { name, bytes: text.as_bytes() }
}

fn from_litellm(with_secrets: bool) -> Imported {
    let exports =
        [source("keys.json", KEYS), source("teams.csv", TEAMS), source("users.sql", USERS)];
    litellm(&source("config.yaml", CONFIG), &exports, &options(with_secrets)).expect("imported")
}

fn from_dump(with_secrets: bool) -> Imported {
    one_api(&Database::Dump(source("dump.sql", DUMP)), &options(with_secrets)).expect("imported")
}

fn parsed(imported: &Imported) -> Table {
    imported.config.parse().unwrap_or_else(|error| panic!("{error}\n{}", imported.config))
}

/// The table of a list whose `key` is `value`.
fn entry<'t>(table: &'t Table, list: &str, key: &str, value: &str) -> &'t Value {
    let all = table.get(list).and_then(Value::as_array).unwrap_or_else(|| panic!("no {list}"));
    let found = all.iter().find(|it| it.get(key).and_then(Value::as_str) == Some(value));
    found.unwrap_or_else(|| panic!("no {list} with {key} = {value}:\n{table}"))
}

/// Fate and sentence of the line for a place.
#[track_caller]
fn told(imported: &Imported, fate: Fate, place: &str, words: &str) {
    let lines = imported.report.lines();
    let found = lines
        .iter()
        .any(|line| line.fate == fate && line.at.place == place && line.what.contains(words));
    assert!(found, "no {fate:?} at {place} with {words:?}:\n{}", imported.report.text());
}

fn sha256(secret: &str) -> String {
    hex(&Sha256::digest(secret.as_bytes()))
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().map(|list| list.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

#[test]
fn litellm_models_become_providers_targets_and_prices() {
    let imported = from_litellm(false);
    let table = parsed(&imported);
    let gpt = entry(&table, "model", "name", "gpt-4o");
    let targets = gpt["targets"].as_array().expect("targets");
    assert_eq!(targets.len(), 2);
    assert_eq!(targets[0]["provider"].as_str(), Some("openai"));
    assert_eq!(targets[0].get("weight"), None, "latency-based-routing looks at no rpm");
    told(&imported, Fate::NoCounterpart, "model_list[0].litellm_params.rpm", "does not draw by it");
    assert_eq!(targets[1]["model"].as_str(), Some("gpt4o-eu"));
    assert_eq!(gpt["policy"].as_str(), Some("least_outstanding"));
    assert_eq!(gpt["max_output"].as_integer(), Some(16384));
    assert_eq!(texts(&gpt["fallbacks"]), ["claude"]);
    let azure = entry(&table, "provider", "name", "azure");
    assert_eq!(azure["base_url"].as_str(), Some("https://example-eu.openai.azure.com/openai/v1"));
    assert_eq!(azure["api_key"].as_str(), Some("env:AZURE_API_KEY"));
    let openai = entry(&table, "provider", "name", "openai");
    assert_eq!(openai["preset"].as_str(), Some("openai"));
    assert_eq!(openai["api_key"].as_str(), Some("env:OPENAI_API_KEY"));
    assert_eq!(openai["timeouts"]["total"].as_str(), Some("600s"));
    let price = entry(&table, "price", "model", "gpt-4o");
    assert_eq!(price["input"].as_str(), Some("2.5"));
    assert_eq!(price["output"].as_str(), Some("10"));
    assert_eq!(price["cached_read"].as_str(), Some("1.25"));
    assert_eq!(entry(&table, "price", "model", "gpt-4o-mini")["output"].as_str(), Some("0.6"));
    let claude = entry(&table, "model", "name", "claude");
    assert_eq!(claude["policy"].as_str(), Some("priority"));
    assert_eq!(claude["targets"][1]["priority"].as_integer(), Some(2));
    let alias = entry(&table, "model", "name", "gpt-4");
    assert_eq!(alias["targets"].as_array(), gpt["targets"].as_array());
    assert_eq!(texts(&alias["fallbacks"]), ["claude"]);
    told(&imported, Fate::Changed, "model_list", "6 targets have no price here");
    assert!(imported.config.contains("\n#[prices]\n#import = "), "{}", imported.config);
    assert_eq!(entry(&table, "model", "name", "*")["targets"][0]["model"].as_str(), Some("*"));
    assert_eq!(table["server"]["retry"]["attempts"].as_integer(), Some(3));
    assert_eq!(texts(&table["server"]["listen"]), ["127.0.0.1:8081"], "8080 is the local model's");
    assert_eq!(table["admin"]["token"].as_str(), Some("env:FORETOKEN_ADMIN_TOKEN"));
    let budget = &entry(&table, "account", "name", "default")["limits"]["budget"][0];
    assert_eq!((budget["amount"].as_str(), budget["per"].as_str()), (Some("1000"), Some("30d")));
}

#[test]
fn litellm_settings_are_told_line_by_line() {
    let imported = from_litellm(false);
    told(&imported, Fate::Taken, "model_list[0]", "gpt-4o -> openai/gpt-4o");
    told(
        &imported,
        Fate::Changed,
        "model_list[1]",
        "asked at https://example-eu.openai.azure.com/openai/v1",
    );
    told(&imported, Fate::Changed, "model_list[3]", "anthropic is asked in OpenAI's dialect");
    told(
        &imported,
        Fate::NoCounterpart,
        "model_list[7]",
        "not taken: bedrock has a dialect of its own",
    );
    told(&imported, Fate::NoCounterpart, "model_list[8]", "name the models one by one");
    told(&imported, Fate::Changed, "router_settings.routing_strategy", "not the fastest");
    told(&imported, Fate::NoCounterpart, "router_settings.redis_host", "nothing like it");
    told(
        &imported,
        Fate::NoCounterpart,
        "litellm_settings.fallbacks.gpt-4o",
        "titan, which is no model",
    );
    told(&imported, Fate::NoCounterpart, "litellm_settings.fallbacks.claude", "a circle");
    told(&imported, Fate::NoCounterpart, "general_settings.database_url", "keeps its own");
    told(&imported, Fate::Changed, "general_settings.master_key", "no key for callers");
    let line = imported.report.lines().iter().find(|line| line.at.place == "model_list[1]");
    assert_eq!(line.map(|line| line.at.line), Some(17));
}

#[test]
fn litellm_keys_keep_their_secret_and_their_limits() {
    let imported = from_litellm(false);
    let table = parsed(&imported);
    let key = entry(&table, "key", "name", "chat backend");
    assert_eq!(key["sha256"].as_str(), Some(sha256("sk-imported-1").as_str()));
    assert_eq!(key["project"].as_str(), Some("search"));
    assert_eq!(texts(&key["models"]), ["gpt-4o"], "the group holds the same model");
    assert_eq!(key["aliases"]["gpt-4"].as_str(), Some("gpt-4o"));
    assert_eq!(texts(&key["tags"]), ["prod"]);
    assert_eq!(key["metadata"]["owner"].as_str(), Some("ada"));
    let limits = &key["limits"];
    let numbers = ["rpm", "tpm", "parallel"].map(|name| limits[name].as_integer());
    assert_eq!(numbers, [Some(600), Some(200_000), Some(50)]);
    assert_eq!(limits["budget"][0]["amount"].as_str(), Some("100"));
    assert_eq!(limits["budget"][0]["per"].as_str(), Some("30d"));
    assert!(key.get("user").is_none(), "a user's limits are not for keys of a team");
    let own = entry(&table, "key", "name", "sk-...ed-2");
    assert_eq!(own["user"].as_str(), Some("ada@example.com"));
    assert_eq!(own["expires_at"].as_str(), Some("2099-01-31T00:00:00Z"));
    assert!(own.get("project").is_none() && own.get("models").is_none());
    assert_eq!(own["limits"]["budget"][0]["per"].as_str(), Some("total"));
    let project = entry(&table, "project", "name", "search");
    assert_eq!(texts(&project["models"]), ["gpt-4o", "claude"]);
    assert_eq!(project["limits"]["budget"][0]["per"].as_str(), Some("monthly"));
    assert_eq!(project["limits"]["models"]["claude"]["budget"][0]["per"].as_str(), Some("daily"));
    assert_eq!(
        entry(&table, "user", "name", "ada@example.com")["limits"]["rpm"].as_integer(),
        Some(120)
    );
    assert_eq!(table["key"].as_array().map(Vec::len), Some(2), "no blocked, no expired key");
    told(
        &imported,
        Fate::Changed,
        "keys[chat backend].max_budget",
        "spent so far: 12.3 of 100: counts from zero",
    );
    told(&imported, Fate::NoCounterpart, "keys[blocked one]", "it is blocked");
    told(&imported, Fate::NoCounterpart, "keys[old]", "it expired at 2020-01-01T00:00:00Z");
    told(&imported, Fate::NoCounterpart, "keys[of a blocked team]", "of its team: it is blocked");
    told(
        &imported,
        Fate::NoCounterpart,
        "keys[chat backend].metadata.langfuse_secret_key",
        "may be a secret",
    );
}

#[test]
fn one_api_channels_become_providers_with_ranks_and_prices() {
    let imported = from_dump(false);
    let table = parsed(&imported);
    let main = entry(&table, "provider", "name", "channel-1");
    assert_eq!(main["preset"].as_str(), Some("openai"));
    assert_eq!(texts(&main["api_keys"]), ["env:CHANNEL_1_API_KEY", "env:CHANNEL_1_API_KEY_2"]);
    let azure = entry(&table, "provider", "name", "azure-eu");
    assert_eq!(azure["base_url"].as_str(), Some("https://example-eu.openai.azure.com/openai/v1"));
    let gpt = entry(&table, "model", "name", "gpt-4o");
    assert_eq!(gpt["policy"].as_str(), Some("priority"));
    let ranks: Vec<_> = gpt["targets"].as_array().expect("targets").iter().collect();
    assert_eq!(ranks[0]["provider"].as_str(), Some("channel-1"));
    assert!(ranks[0].get("priority").is_none(), "10 is before 0 there, 0 before 1 here");
    assert_eq!(ranks[1]["priority"].as_integer(), Some(1));
    let mapped = entry(&table, "model", "name", "gpt-4");
    assert_eq!(mapped["targets"][0]["model"].as_str(), Some("gpt-4-turbo"));
    let price = entry(&table, "price", "model", "gpt-4o");
    assert_eq!((price["input"].as_str(), price["output"].as_str()), (Some("2.5"), Some("10")));
    assert_eq!(entry(&table, "price", "model", "gpt-4o-mini")["input"].as_str(), Some("0.15"));
    let prices = table["price"].as_array().expect("prices");
    assert!(prices.iter().all(|price| price["model"].as_str() != Some("gpt-4-turbo")));
    assert!(imported.config.contains("#model = \"gpt-4-turbo\"\n"), "{}", imported.config);
    assert!(imported.config.contains("#input = \"10\"\n#output = \"\"\n"), "{}", imported.config);
    assert_eq!(entry(&table, "price_group", "name", "vip")["markup"].as_str(), Some("0.8"));
    told(&imported, Fate::Changed, "channels[3]", "Anthropic is asked in OpenAI's dialect");
    told(&imported, Fate::NoCounterpart, "channels[4]", "AWS has a dialect of its own");
    told(&imported, Fate::NoCounterpart, "channels[5]", "switched off after failures");
    told(&imported, Fate::NoCounterpart, "channels[2].other", "nothing like it");
    told(
        &imported,
        Fate::Changed,
        "options.ModelRatio",
        "channel-1/gpt-4-turbo has no ratio in CompletionRatio",
    );
    told(
        &imported,
        Fate::NoCounterpart,
        "options.ModelRatio",
        "claude/claude-3-5-sonnet has no ratio",
    );
    told(&imported, Fate::NoCounterpart, "options.SMTPToken", "nothing like it");
}

#[test]
fn one_api_tokens_keep_their_secret_and_what_is_left_of_their_quota() {
    let imported = from_dump(false);
    let table = parsed(&imported);
    let key = entry(&table, "key", "name", "backend");
    let presented = "sk-canaryKey000000000000000000000000000000000000001";
    assert_eq!(key["sha256"].as_str(), Some(sha256(presented).as_str()));
    assert_eq!(key["project"].as_str(), Some("ada"));
    assert_eq!(texts(&key["models"]), ["gpt-4o", "gpt-4o-mini"]);
    assert_eq!(texts(&key["cidrs"]), ["10.0.0.0/8"]);
    let budget = &key["limits"]["budget"][0];
    assert_eq!(
        (budget["amount"].as_str(), budget["per"].as_str()),
        (Some("0.246912"), Some("total"))
    );
    let unnamed = entry(&table, "key", "name", "token-2");
    assert_eq!(unnamed["expires_at"].as_str(), Some("2100-01-01T00:00:00Z"));
    assert!(unnamed.get("limits").is_none());
    // The group default is not served Claude, the group vip not everything else.
    assert_eq!(texts(&unnamed["models"]), ["gpt-4", "gpt-4o", "gpt-4o-mini"]);
    let vip = entry(&table, "key", "name", "vip");
    assert!(vip.get("models").is_none(), "its group is served every model");
    assert_eq!(table["key"].as_array().map(Vec::len), Some(3));
    let account = entry(&table, "account", "name", "bob");
    assert_eq!(account["billing"].as_str(), Some("prepaid"));
    assert_eq!(account["balance"].as_str(), Some("5.000002"));
    assert_eq!(account["price_group"].as_str(), Some("vip"));
    assert_eq!(entry(&table, "project", "name", "bob")["account"].as_str(), Some("bob"));
    told(&imported, Fate::NoCounterpart, "tokens[4]", "switched off");
    told(&imported, Fate::NoCounterpart, "tokens[5]", "its quota is used up");
    told(&imported, Fate::NoCounterpart, "tokens[6]", "of its user: it is switched off");
    told(&imported, Fate::NoCounterpart, "tokens[7]", "office is no network");
    told(&imported, Fate::NoCounterpart, "users[1]", "it has no key");
}

#[test]
fn a_sqlite_file_gives_what_a_dump_gives() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("one-api.db");
    let database = rusqlite::Connection::open(&path).expect("opened");
    // The same statements in SQLite's dialect.
    let start = |line: &&str| !["LOCK", "UNLOCK", "/*!"].iter().any(|word| line.starts_with(word));
    let text: Vec<&str> = DUMP.lines().filter(start).collect();
    let text = text
        .join("\n")
        .replace(" ENGINE=InnoDB DEFAULT CHARSET=utf8mb4", "")
        .replace(",\n  KEY `idx_channels_name` (`name`)", "")
        .replace("UNIQUE KEY `idx_tokens_key` (`key`)", "UNIQUE (`key`)")
        .replace(" unsigned", "")
        .replace(" AUTO_INCREMENT", "")
        .replace("\\\"", "\"")
        .replace("\\'", "''")
        .replace(
            "'sk-canary-one\\nsk-canary-two'",
            "'sk-canary-one' || char(10) || 'sk-canary-two'",
        );
    database.execute_batch(&text).expect("made");
    drop(database);
    let head = std::fs::read(&path).expect("readable");
    assert!(super::is_sqlite(&head) && !super::is_sqlite(DUMP.as_bytes()));
    let imported = one_api(&Database::Sqlite(&path), &options(false)).expect("imported");
    assert_eq!(imported.config, from_dump(false).config);
}

#[test]
fn new_api_has_columns_and_numbers_of_its_own() {
    let dump = "CREATE TABLE `channels` (`id` int, `type` int, `key` text, `status` int, `name` text, `weight` int, `models` text, `group` text, `priority` int, `auto_ban` int);
        INSERT INTO `channels` VALUES (1,43,'k',1,'ds',5,'deepseek-chat','default',0,1),(2,4,'k',1,'local',0,'deepseek-chat,image','default',0,1);
        CREATE TABLE `options` (`key` text, `value` text);
        INSERT INTO `options` VALUES ('ModelRatio','{\"deepseek-chat\":0.135}'),('CompletionRatio','{\"deepseek-chat\":4.07407407}'),('CacheRatio','{\"deepseek-chat\":0.25}'),('ModelPrice','{\"image\":0.04}');
        CREATE TABLE `tokens` (`id` int, `user_id` int, `key` text, `status` int, `unlimited_quota` int, `model_limits_enabled` int, `model_limits` text, `allow_ips` text, `name` text);
        INSERT INTO `tokens` VALUES (1,1,'a',1,1,1,'image','10.0.0.1\\n10.0.0.2','t'),(2,1,'b',1,1,0,'image','','u');
        CREATE TABLE `users` (`id` int, `username` text, `status` int, `quota` int);
        INSERT INTO `users` VALUES (1,'ada',1,-5);";
    let imported = one_api(&Database::Dump(source("d", dump)), &options(false)).expect("imported");
    let table = parsed(&imported);
    assert_eq!(entry(&table, "provider", "name", "ds")["preset"].as_str(), Some("deepseek"));
    assert_eq!(entry(&table, "provider", "name", "local")["preset"].as_str(), Some("ollama"));
    let targets = &entry(&table, "model", "name", "deepseek-chat")["targets"];
    assert_eq!(targets[0]["weight"].as_integer(), Some(5));
    let price = entry(&table, "price", "provider", "ds");
    assert_eq!(price["input"].as_str(), Some("0.27"));
    assert_eq!(price["cached_read"].as_str(), Some("0.0675"));
    assert_eq!(price["output"].as_str(), Some("1.1"), "rounded");
    let image = entry(&table, "price", "model", "image");
    assert_eq!((image["request"].as_str(), image["input"].as_str()), (Some("0.04"), Some("0")));
    let key = entry(&table, "key", "name", "t");
    assert_eq!(texts(&key["models"]), ["image"]);
    assert_eq!(texts(&key["cidrs"]), ["10.0.0.1/32", "10.0.0.2/32"]);
    assert!(entry(&table, "key", "name", "u").get("models").is_none());
    assert_eq!(entry(&table, "account", "name", "ada")["balance"].as_str(), Some("0"));
}

#[test]
fn secrets_are_in_the_file_on_request_only_and_never_in_a_report() {
    for imported in [from_litellm(false), from_dump(false)] {
        assert!(!imported.config.contains("canary"), "{}", imported.config);
        assert!(!imported.report.variables().is_empty());
    }
    for imported in [from_litellm(true), from_dump(true), from_litellm(false), from_dump(false)] {
        let report = format!("{}{}", imported.report.text(), imported.report.to_json());
        assert!(!report.contains("canary"), "{report}");
        assert!(!imported.config.contains("canaryKey"), "callers' keys are never there");
    }
    let table = parsed(&from_litellm(true));
    assert_eq!(
        entry(&table, "provider", "name", "azure")["api_key"].as_str(),
        Some("sk-canary-azure")
    );
    assert_eq!(table["admin"]["token"].as_str(), Some("sk-canary-master"));
    let table = parsed(&from_dump(true));
    let keys = &entry(&table, "provider", "name", "channel-1")["api_keys"];
    assert_eq!(texts(keys), ["sk-canary-one", "sk-canary-two"]);
}

#[test]
fn what_cannot_be_read_is_one_fault_with_its_place() {
    let yaml = |text: &str| litellm(&source("c.yaml", text), &[], &options(false)).err();
    let dump = |text: &str| one_api(&Database::Dump(source("d", text)), &options(false)).err();
    let keys = |text: &str| {
        litellm(&source("c.yaml", CONFIG), &[source("k", text)], &options(false)).err()
    };
    let at = |fault: Option<Fault>| fault.map(|fault| (fault.file, fault.line));
    assert_eq!(
        at(yaml("model_list:\n  - a: [\n")).map(|(file, _)| file).as_deref(),
        Some("c.yaml")
    );
    assert_eq!(at(yaml("just a text")), Some(("c.yaml".into(), 1)));
    assert_eq!(at(yaml("")), Some(("c.yaml".into(), 0)));
    assert_eq!(at(dump("model_list: []")), Some(("d".into(), 0)));
    assert_eq!(
        at(dump("CREATE TABLE `channels` (`id` int);\nINSERT INTO `channels` VALUES (")),
        Some(("d".into(), 2))
    );
    assert_eq!(at(keys("a,b\n1,2\n")).map(|(file, _)| file).as_deref(), Some("k"));
    assert_eq!(at(keys("[{]")), Some(("k".into(), 1)));
    let binary = Source { name: "b", bytes: b"model_list:\n\xff\xfe" };
    assert_eq!(at(litellm(&binary, &[], &options(false)).err()), Some(("b".into(), 2)));
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("x.db");
    let mut bytes = b"SQLite format 3\0".to_vec();
    bytes.resize(8192, 0xa5);
    std::fs::write(&path, bytes).expect("written");
    let fault = one_api(&Database::Sqlite(&path), &options(false)).err().expect("no database");
    assert!(fault.message.contains("cannot be read as a database"), "{fault}");
}

#[test]
fn a_hundred_megabytes_are_refused_before_they_are_read_as_yaml() {
    let huge = "a: 1\n".repeat(20 << 20);
    let fault = litellm(&source("c.yaml", &huge), &[], &options(false)).err().expect("too large");
    assert_eq!(fault.to_string(), "c.yaml: it is larger than 4 MiB");
}

/// simple-shuffle draws by what the first deployment states, the other strategies by no weight at all.
#[test]
fn weights_of_litellm_are_what_litellm_makes_of_them() {
    let import = |first: &str, second: &str, strategy: &str| {
        let item = |model: &str, weight: &str| {
            format!("  - model_name: m\n    litellm_params: {{model: openai/{model}{weight}}}\n")
        };
        let text = format!(
            "model_list:\n{}{}router_settings: {{routing_strategy: {strategy}}}\n",
            item("a", first),
            item("b", second)
        );
        litellm(&source("c.yaml", &text), &[], &options(false)).expect("imported")
    };
    let weights = |imported: &Imported| -> Vec<i64> {
        let table = parsed(imported);
        let model = entry(&table, "model", "name", "m");
        let targets = model["targets"].as_array().expect("targets").iter();
        targets
            .map(|target| target.get("weight").map_or(1, |it| it.as_integer().unwrap()))
            .collect()
    };
    let even = import("", ", weight: 3", "simple-shuffle");
    assert_eq!(weights(&even), [1, 1]);
    told(&even, Fate::Changed, "model_list[1]", "counts for nothing");
    let one = import(", weight: 3", "", "simple-shuffle");
    assert_eq!(weights(&one), [1, 0]);
    told(&one, Fate::Changed, "model_list[1]", "its weight is 0");
    let ignored = import(", weight: 3", ", weight: 1", "least-busy");
    assert_eq!(weights(&ignored), [1, 1]);
    told(
        &ignored,
        Fate::NoCounterpart,
        "model_list[0].litellm_params.weight",
        "does not draw by it",
    );
    assert_eq!(weights(&import(", weight: 3, order: 2", ", order: 1", "simple-shuffle")), [1, 1]);
}

#[test]
fn odd_values_in_the_right_places_are_told_and_break_nothing() {
    let text = "model_list:\n  - 5\n  - model_name: [x]\n  - {model_name: a, litellm_params: x}\n  - model_name: \"b\\u0007\"\n    litellm_params: {model: gpt-4o}\n  - model_name: c\n    litellm_params: {model: gpt-4o, api_base: [], rpm: -1, weight: x, order: 99999999999999999999, timeout: -3, input_cost_per_token: free, extra_headers: {host: a, x-a: b}}\nrouter_settings: [1]\nlitellm_settings: {num_retries: many, fallbacks: {a: b}, max_budget: lots}\ngeneral_settings: {master_key: {a: b}}\n";
    let imported =
        litellm(&source("c.yaml", text), &[], &options(false)).expect("what can be read is");
    told(&imported, Fate::NoCounterpart, "model_list[0]", "no model_name");
    told(&imported, Fate::NoCounterpart, "model_list[3]", "star");
    told(&imported, Fate::NoCounterpart, "model_list[4]", "a text is expected");
    told(&imported, Fate::NoCounterpart, "litellm_settings.num_retries", "no number of retries");
    told(&imported, Fate::NoCounterpart, "litellm_settings.max_budget", "no amount");
    parsed(&imported);
}
