//! From the plan to the text of a configuration that people go on to edit.

use std::fmt::Write as _;

use super::plan::{
    Account, Budget, Key, Limits, Model, Plan, Price, Project, Provider, Secret, User,
};

/// How to get at the prices that LiteLLM has not from its configuration.
const PRICE_MAP: &str =
    "# Other prices are in LiteLLM's own list. With that file beside this one, take away two signs:
#[prices]
#import = \"model_prices_and_context_window.json\"
";

/// The plan as TOML with comments.
pub(super) fn toml(plan: &Plan) -> String {
    let mut out = String::new();
    head(plan, &mut out);
    section(&mut out, "Where models run.", !plan.providers.is_empty());
    plan.providers.iter().for_each(|it| provider(it, &mut out));
    section(&mut out, "The names that callers use.", !plan.models.is_empty());
    plan.models.iter().for_each(|it| model(it, plan, &mut out));
    let prices = !plan.prices.is_empty() || !plan.price_groups.is_empty() || plan.price_map;
    section(&mut out, "What a million tokens cost.", prices);
    if plan.price_map {
        out.push_str(PRICE_MAP);
    }
    plan.prices.iter().for_each(|it| price(it, plan, &mut out));
    for group in &plan.price_groups {
        let _ = writeln!(out, "\n[[price_group]]\nname = {}", quoted(&group.name));
        let _ = writeln!(out, "markup = {}", quoted(&group.markup));
    }
    let payers = !plan.accounts.is_empty() || !plan.projects.is_empty() || !plan.users.is_empty();
    section(&mut out, "Who pays, and groups of keys.", payers);
    plan.accounts.iter().for_each(|it| account(it, &mut out));
    plan.projects.iter().for_each(|it| project(it, &mut out));
    plan.users.iter().for_each(|it| user(it, &mut out));
    let keys = "The keys that callers go on to present: only the SHA-256 of each is known here.";
    section(&mut out, keys, !plan.keys.is_empty());
    plan.keys.iter().for_each(|it| key(it, &mut out));
    out
}

fn section(out: &mut String, title: &str, is_there: bool) {
    if is_there {
        let _ = writeln!(out, "\n# {title}");
    }
}

fn head(plan: &Plan, out: &mut String) {
    let _ = writeln!(out, "# Configuration of foretoken, imported from {}.", comment(&plan.source));
    out.push_str(
        "# `foretoken check` reads it; `foretoken config reference` explains every key.\n\n",
    );
    let _ = writeln!(out, "[server]\nlisten = [\"127.0.0.1:{}\"]", free_port(plan, 8080));
    if let Some(requests) = plan.requests {
        let _ = writeln!(out, "limits = {{ requests = {requests} }}");
    }
    if let Some(attempts) = plan.attempts {
        let _ = writeln!(out, "retry = {{ attempts = {attempts} }}");
    }
    let _ = writeln!(out, "\n[admin]\nlisten = \"127.0.0.1:{}\"", free_port(plan, 9090));
    if let Some(token) = &plan.admin_token {
        let _ = writeln!(out, "token = {}", secret(token));
    }
}

/// The first port from `wish` on that no provider is asked at: a local one may well be on 8080.
fn free_port(plan: &Plan, wish: u16) -> u16 {
    let is_used = |port: u16| {
        let own = format!(":{port}");
        plan.providers.iter().any(|provider| match &provider.base_url {
            Some(url) => url.split('/').any(|part| part.ends_with(&own)),
            None => provider.preset == Some("llamacpp") && port == 8080,
        })
    };
    (wish..wish + 100).find(|port| !is_used(*port)).unwrap_or(wish)
}

fn provider(provider: &Provider, out: &mut String) {
    let _ = writeln!(out, "\n[[provider]]\nname = {}", quoted(&provider.name));
    if let Some(preset) = provider.preset {
        let _ = writeln!(out, "preset = {}", quoted(preset));
    }
    if let Some(url) = &provider.base_url {
        let _ = writeln!(out, "base_url = {}", quoted(url));
    }
    match provider.api_keys.as_slice() {
        [] => {}
        [one] => {
            let _ = writeln!(out, "api_key = {}", secret(one));
        }
        several => {
            let list: Vec<String> = several.iter().map(secret).collect();
            let _ = writeln!(out, "api_keys = [{}]", list.join(", "));
        }
    }
    if !provider.headers.is_empty() {
        let pair =
            |(name, value): &(String, Secret)| format!("{} = {}", quoted(name), secret(value));
        let list: Vec<String> = provider.headers.iter().map(pair).collect();
        let _ = writeln!(out, "headers = {{ {} }}", list.join(", "));
    }
    let timeouts = [("first_content", provider.first_content_ms), ("total", provider.total_ms)];
    let pair =
        |(name, ms): (&str, Option<u64>)| ms.map(|ms| format!("{name} = \"{}\"", duration(ms)));
    let timeouts: Vec<String> = timeouts.into_iter().filter_map(pair).collect();
    if !timeouts.is_empty() {
        let _ = writeln!(out, "timeouts = {{ {} }}", timeouts.join(", "));
    }
}

fn duration(ms: u64) -> String {
    if ms.is_multiple_of(1000) { format!("{}s", ms / 1000) } else { format!("{ms}ms") }
}

fn model(model: &Model, plan: &Plan, out: &mut String) {
    let _ = writeln!(out, "\n[[model]]\nname = {}", quoted(&model.name));
    let _ = writeln!(out, "policy = {}", quoted(model.policy));
    out.push_str("targets = [\n");
    for target in &model.targets {
        let provider = quoted(&plan.providers[target.provider].name);
        let _ = write!(out, "  {{ provider = {provider}, model = {}", quoted(&target.model));
        if target.weight != 1 {
            let _ = write!(out, ", weight = {}", target.weight);
        }
        if target.priority != 0 {
            let _ = write!(out, ", priority = {}", target.priority);
        }
        out.push_str(" },\n");
    }
    out.push_str("]\n");
    if !model.fallbacks.is_empty() {
        let _ = writeln!(out, "fallbacks = {}", texts(&model.fallbacks));
    }
    if let Some(tokens) = model.max_output {
        let _ = writeln!(out, "max_output = {tokens}");
    }
}

fn price(price: &Price, plan: &Plan, out: &mut String) {
    let mut table = String::from("[[price]]\n");
    let _ = writeln!(table, "provider = {}", quoted(&plan.providers[price.provider].name));
    let _ = writeln!(table, "model = {}\ncurrency = \"USD\"", quoted(&price.model));
    for (name, amount) in &price.amounts {
        let _ = writeln!(table, "{name} = {}", quoted(amount));
    }
    out.push('\n');
    let Some(missing) = price.missing else {
        out.push_str(&table);
        return;
    };
    let _ = writeln!(out, "# To be completed with {missing}, which the source does not say:");
    for line in table.lines().chain([format!("{missing} = \"\"").as_str()]) {
        let _ = writeln!(out, "#{line}");
    }
}

fn account(account: &Account, out: &mut String) {
    let _ = writeln!(out, "\n[[account]]\nname = {}\ncurrency = \"USD\"", quoted(&account.name));
    if let Some(balance) = &account.balance {
        let _ = writeln!(out, "billing = \"prepaid\"\nbalance = {}", quoted(balance));
    }
    if let Some(group) = &account.price_group {
        let _ = writeln!(out, "price_group = {}", quoted(group));
    }
    limits(&account.limits, out);
}

fn project(project: &Project, out: &mut String) {
    let _ = writeln!(out, "\n[[project]]\nname = {}", quoted(&project.name));
    if let Some(account) = &project.account {
        let _ = writeln!(out, "account = {}", quoted(account));
    }
    if let Some(models) = &project.models {
        let _ = writeln!(out, "models = {}", texts(models));
    }
    limits(&project.limits, out);
}

fn user(user: &User, out: &mut String) {
    let _ = writeln!(out, "\n[[user]]\nname = {}", quoted(&user.name));
    if let Some(email) = &user.email {
        let _ = writeln!(out, "email = {}", quoted(email));
    }
    limits(&user.limits, out);
}

fn key(key: &Key, out: &mut String) {
    let _ = writeln!(out, "\n[[key]]\nname = {}", quoted(&key.name));
    let mut line = |name: &str, value: String| {
        let _ = writeln!(out, "{name} = {value}");
    };
    if let Some(project) = &key.project {
        line("project", quoted(project));
    }
    if let Some(user) = &key.user {
        line("user", quoted(user));
    }
    line("sha256", quoted(&key.sha256));
    if let Some(models) = &key.models {
        line("models", texts(models));
    }
    if !key.aliases.is_empty() {
        line("aliases", pairs(&key.aliases));
    }
    if !key.endpoints.is_empty() {
        let endpoints: Vec<String> = key.endpoints.iter().map(|it| (*it).to_owned()).collect();
        line("endpoints", texts(&endpoints));
    }
    if !key.cidrs.is_empty() {
        line("cidrs", texts(&key.cidrs));
    }
    if let Some(time) = &key.expires_at {
        line("expires_at", quoted(time));
    }
    if !key.tags.is_empty() {
        line("tags", texts(&key.tags));
    }
    if !key.metadata.is_empty() {
        line("metadata", pairs(&key.metadata));
    }
    limits(&key.limits, out);
}

fn limits(limits: &Limits, out: &mut String) {
    if !limits.is_empty() {
        let _ = writeln!(out, "limits = {}", inline(limits));
    }
}

fn inline(limits: &Limits) -> String {
    let numbers = [("rpm", limits.rpm), ("tpm", limits.tpm), ("parallel", limits.parallel)];
    let mut parts: Vec<String> = numbers
        .into_iter()
        .filter_map(|(name, number)| number.map(|number| format!("{name} = {number}")))
        .collect();
    let budget = |budget: &Budget| {
        let soft = if budget.soft { ", soft = true" } else { "" };
        format!("{{ amount = {}, per = {}{soft} }}", quoted(&budget.amount), quoted(&budget.per))
    };
    if !limits.budgets.is_empty() {
        let list: Vec<String> = limits.budgets.iter().map(budget).collect();
        parts.push(format!("budget = [{}]", list.join(", ")));
    }
    if !limits.models.is_empty() {
        let of =
            |(name, limits): (&String, &Limits)| format!("{} = {}", quoted(name), inline(limits));
        let list: Vec<String> = limits.models.iter().map(of).collect();
        parts.push(format!("models = {{ {} }}", list.join(", ")));
    }
    format!("{{ {} }}", parts.join(", "))
}

fn pairs(pairs: &[(String, String)]) -> String {
    let pair = |(name, value): &(String, String)| format!("{} = {}", quoted(name), quoted(value));
    format!("{{ {} }}", pairs.iter().map(pair).collect::<Vec<_>>().join(", "))
}

fn texts(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
}

fn secret(secret: &Secret) -> String {
    match secret {
        Secret::Variable(name) => quoted(&format!("env:{name}")),
        Secret::Literal(text) => quoted(text),
    }
}

/// A basic string of TOML.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

/// A text within a comment: a line break would end it.
fn comment(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::import::plan::Target;

    #[test]
    fn odd_names_are_read_again_as_they_are() {
        for text in ["a\"b\\c", "tab\tnew\nline\u{7f}\u{85}", "渠道 = [[key]]", "'''", ""] {
            let table: toml::Table = toml::from_str(&format!("x = {}", quoted(text))).expect(text);
            assert_eq!(table["x"].as_str(), Some(text));
        }
    }

    #[test]
    fn the_gateway_does_not_listen_where_a_provider_is() {
        let at =
            |base_url: &str| Provider { base_url: Some(base_url.into()), ..Provider::default() };
        let local = Provider { preset: Some("llamacpp"), ..Provider::default() };
        let plan = Plan {
            providers: vec![local, at("http://localhost:8081/v1"), at("http://a:80/9090")],
            ..Plan::default()
        };
        assert_eq!((free_port(&plan, 8080), free_port(&plan, 9090)), (8082, 9090));
    }

    #[test]
    fn a_plan_is_toml_and_a_source_cannot_break_out_of_its_comment() {
        let budget = Budget { amount: "1.5".into(), per: "7d".into(), soft: true };
        let mut own = Limits { rpm: Some(3), budgets: vec![budget], ..Limits::default() };
        own.models.insert("m".into(), Limits { tpm: Some(9), ..Limits::default() });
        let plan = Plan {
            source: "a\n[key]".into(),
            attempts: Some(4),
            providers: vec![Provider {
                name: "p".into(),
                total_ms: Some(1500),
                first_content_ms: Some(60_000),
                ..Provider::default()
            }],
            models: vec![Model {
                name: "m".into(),
                policy: "weighted",
                targets: vec![Target { provider: 0, model: "*".into(), weight: 2, priority: 1 }],
                ..Model::default()
            }],
            prices: vec![Price { model: "x".into(), missing: Some("output"), ..Price::default() }],
            keys: vec![Key { name: "k".into(), limits: own, ..Key::default() }],
            ..Plan::default()
        };
        let text = toml(&plan);
        let table: toml::Table = toml::from_str(&text).expect("TOML");
        assert_eq!(table["server"]["retry"]["attempts"].as_integer(), Some(4));
        assert_eq!(table["provider"][0]["timeouts"]["total"].as_str(), Some("1500ms"));
        assert_eq!(table["provider"][0]["timeouts"]["first_content"].as_str(), Some("60s"));
        assert_eq!(table["model"][0]["targets"][0]["weight"].as_integer(), Some(2));
        let limits = &table["key"][0]["limits"];
        assert_eq!(limits["budget"][0]["soft"].as_bool(), Some(true));
        assert_eq!(limits["models"]["m"]["tpm"].as_integer(), Some(9));
        assert!(!table.contains_key("price"), "what is not complete is a comment");
        assert!(text.contains("#output = \"\"\n"), "{text}");
    }
}
