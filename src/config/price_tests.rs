//! Prices, price groups and rates of exchange.

use std::path::Path;

use super::keys::UNITS;
use super::tests::{HEAD, config, env, fault, read, warnings};
use super::*;
use crate::money::{Currency, PICO};
use crate::price::Prices;

const PRICE: &str = r#"
[[price]]
provider = "p"
model = "m"
input = "0.15"
output = "0.60"
tiers = { batch = { input = "0.075", long_context = [{ above = 5, input = "1" }] } }
long_context = [{ above = 200000, input = "0.30" }]
"#;

#[test]
fn every_unit_of_the_price_book_can_be_written() {
    let mut own: Vec<&str> = UNITS.iter().map(|unit| unit.name).collect();
    let mut known = Prices::NAMES.to_vec();
    own.sort_unstable();
    known.sort_unstable();
    assert_eq!(own, known);
    for unit in UNITS {
        let text =
            format!("{HEAD}[[price]]\nprovider = \"p\"\nmodel = \"m\"\n{} = \"0.5\"\n", unit.name);
        let price = &config(&text).prices[0];
        assert_eq!(price.base.get(unit.name).as_deref(), Some("0.5"), "{}", unit.name);
    }
}

#[test]
fn prices_groups_and_rates_are_read() {
    let text = format!(
        "{HEAD}{PRICE}{}valid_from = \"2026-01-01T00:00:00Z\"\ngroup = \"g\"\ncurrency = \"EUR\"\n\
         [[price_group]]\nname = \"g\"\n[[rate]]\nfrom = \"EUR\"\nto = \"USD\"\nrate = \"1.08\"\n\
         valid_from = \"2026-01-01T00:00:00Z\"\n[prices]\ndefault = {{ input = \"5\", output = \"15\" }}\n",
        PRICE.replace("0.15", "0.2")
    );
    let config = config(&text);
    let [cost, selling] = &config.prices[..] else { panic!("two prices") };
    assert_eq!((cost.provider.as_str(), cost.model.as_str()), ("p", "m"));
    assert_eq!((cost.currency, cost.valid_from_unix_ms, &cost.group), (Currency::USD, 0, &None));
    assert_eq!(cost.base.get("input").as_deref(), Some("0.15"));
    assert_eq!(cost.tiers[0].name, "batch");
    assert_eq!(cost.tiers[0].long_context[0].above_tokens, 5);
    assert_eq!(cost.long_context[0].above_tokens, 200_000);
    assert_eq!(selling.currency.as_str(), "EUR");
    assert_eq!(selling.group.as_deref(), Some("g"));
    assert_eq!(selling.valid_from_unix_ms, 1_767_225_600_000);
    let rate = config.rates[0];
    assert_eq!((rate.from.as_str(), rate.to.as_str()), ("EUR", "USD"));
    assert_eq!((rate.rate_pico, rate.valid_from_unix_ms), (108 * PICO / 100, 1_767_225_600_000));
    assert_eq!(config.price_groups[0].markup_bps, UNCHANGED_BPS);
    let default = config.default_price.as_ref().expect("a default");
    assert_eq!(default.base.get("output").as_deref(), Some("15"));
    let json = config.masked();
    assert_eq!(json["price"][0]["tiers"]["batch"]["input"], "0.075");
    assert_eq!(json["prices"]["default"]["input"], "5");
    assert_eq!(json["rate"][0]["rate"], "1.08");
    assert_eq!(json["rate"][0]["valid_from"], "2026-01-01T00:00:00.000Z");
}

#[test]
fn each_mistake_about_prices_has_its_own_sentence_and_cure() {
    let price = |text: &str| fault(&format!("[[price]]\nprovider = \"p\"\nmodel = \"m\"\n{text}"));
    for (text, want) in [
        (
            "inptu = \"1\"\noutput = \"1\"",
            r#"unknown key "inptu" in [[price]]; did you mean "input"?"#,
        ),
        (
            "input_cost_per_token = \"1\"\noutput = \"1\"",
            r#"unknown key "input_cost_per_token" in [[price]]; did you mean "input"?"#,
        ),
        (
            "input = 0.15",
            r#""input" in [[price]] must be text, so that it stays exact, not the number 0.15; write "0.15""#,
        ),
        (
            "input = \"-0.15\"",
            r#""input" in [[price]] must be a number like "12.50": digits, and a point where there is a fraction, not "-0.15"; write for example "12.50""#,
        ),
        (
            "input = \"0.0000001\"",
            r#""input" in [[price]] has more than 6 digits after the point: "0.0000001"; round it"#,
        ),
        (
            "input = \"99999999999999999999\"",
            r#""input" in [[price]] is too large: "99999999999999999999"; write less"#,
        ),
        ("", r#""input" in [[price]] is missing, as is any other price; what is free costs "0""#),
        (
            "input = \"1\"\ntiers = { batch = { inptu = \"1\" } }",
            r#"unknown key "inptu" in tiers of [[price]]; did you mean "input"?"#,
        ),
        (
            "input = \"1\"\nlong_context = [{ above = 5, input = \"2\" }, { above = 5, input = \"3\" }]",
            r#""long_context[1].above" in [[price]] is the same as in a step before"#,
        ),
        (
            "input = \"1\"\nlong_context = [{ input = \"2\" }]",
            r#"long_context of [[price]] lacks the key "above"; add for example above = 200000"#,
        ),
        (
            "input = \"1\"\ngroup = \"gold\"",
            r#""group" in [[price]] names "gold", which is no [[price_group]]; there is no [[price_group]] yet"#,
        ),
        (
            "input = \"1\"\nvalid_from = \"2026-01-01\"",
            r#""valid_from" in [[price]] must be a time of RFC 3339, and "2026-01-01" has no time of day; write for example "2027-01-31T00:00:00Z""#,
        ),
    ] {
        assert_eq!(price(text), want, "{text}");
    }
    for (text, want) in [
        (
            "[[price]]\nprovider = \"p\"\nmodel = \"a*b\"\ninput = \"1\"",
            r#""model" in [[price]] may have one `*`, at its end, for all that begin so"#,
        ),
        (
            "[[rate]]\nfrom = \"USD\"\nto = \"USD\"\nrate = \"1\"",
            "[[rate]] is from USD to itself; name two currencies, or remove it",
        ),
        (
            "[[rate]]\nfrom = \"USD\"\nto = \"EUR\"\nrate = \"0\"",
            r#""rate" in [[rate]] is zero: everything would be free; write for example "1.08""#,
        ),
        (
            "[[rate]]\nfrom = \"USD\"\nto = \"EUR\"\nrate = \"0.9\"\n[[rate]]\nfrom = \"EUR\"\nto = \"USD\"\nrate = \"1.1\"",
            "[[rate]] has EUR and USD twice; remove one, or give the newer a valid_from",
        ),
        (
            "[[price_group]]\nname = \"g\"\n[[price_group]]\nname = \"g\"",
            r#"[[price_group]] has the name "g" twice; choose another name, or merge the two"#,
        ),
        (
            "[[model]]\nname = \"x\"\ntargets = [{ provider = \"p\" }]\nunpriced = \"default\"",
            r#""unpriced" in [[model]] is "default", and [prices] has no default; add for example default = { input = "5", output = "15" } to [prices]"#,
        ),
        (
            "[prices]\nimport = \"gone.json\"",
            r#""import" in [prices] names the file "/nonexistent/gone.json", which cannot be read: No such file or directory (os error 2); create it, or name another"#,
        ),
    ] {
        assert_eq!(fault(text), want, "{text}");
    }
    assert_eq!(
        fault(&format!("{PRICE}{PRICE}")),
        r#"[[price]] has "p/m" twice; remove one, or give the newer a valid_from"#
    );
}

#[test]
fn an_account_in_another_currency_needs_a_rate() {
    let account = "[[account]]\nname = \"a\"\ncurrency = \"EUR\"\n";
    let text = format!("{HEAD}{PRICE}{account}");
    let loaded = read(&text).unwrap_or_else(|faults| panic!("{faults}"));
    let unrated: Vec<String> = loaded.unrated.iter().map(|it| it.fault.to_string()).collect();
    assert_eq!(
        unrated,
        [
            r#"f.toml:21:12: [[account]] "a" is charged in EUR, and there are prices in USD, but no [[rate]] between the two; add a [[rate]] with from = "USD" and to = "EUR", or change the currency"#
        ]
    );
    assert_eq!(
        warnings(&text),
        [
            r#"f.toml:21:12: [[account]] "a" is charged in EUR, and there are prices in USD, but no [[rate]] between the two, unless one was made by `foretoken rates create`; add a [[rate]] with from = "USD" and to = "EUR", or change the currency"#
        ]
    );
    let rate = "[[rate]]\nfrom = \"EUR\"\nto = \"USD\"\nrate = \"1.08\"\n";
    assert_eq!(warnings(&format!("{HEAD}{PRICE}{account}{rate}")), [""; 0], "either way round");
    let of_default = PRICE.replace("model = \"m\"", "model = \"m\"\ncurrency = \"EUR\"");
    let told = warnings(&format!("{HEAD}{of_default}"));
    assert!(told.len() == 1 && told[0].contains("[[account]] \"default\""), "{told:?}");
    // Nobody pays by the account that is not written down, and no account has this group's prices.
    let other = HEAD
        .replace("[[key]]", "[[project]]\nname = \"x\"\naccount = \"a\"\n[[key]]\nproject = \"x\"");
    let text = format!(
        "{other}{}{account}",
        PRICE.replace("input = \"0.15\"", "input = \"0.15\"\ncurrency = \"EUR\"")
    );
    assert_eq!(warnings(&text), [""; 0]);
    let group = "[[price_group]]\nname = \"g\"\n";
    let text = format!("{HEAD}{PRICE}currency = \"EUR\"\ngroup = \"g\"\n{group}");
    assert_eq!(warnings(&text), [""; 0]);
}

#[test]
fn what_will_be_refused_for_want_of_a_price_is_warned_of() {
    let text = HEAD.replace("name = \"m\"", "name = \"m\"\nunpriced = \"refuse\"");
    assert_eq!(
        warnings(&text),
        [
            r#"f.toml:7:12: [[model]] "m" refuses what has no price, and its target "p/m" has none; add a [[price]], or change unpriced"#
        ]
    );
    assert_eq!(warnings(&format!("{text}{PRICE}")), [""; 0]);
    assert_eq!(warnings(&format!("{text}{}", PRICE.replace("\"m\"", "\"*\""))), [""; 0]);
    assert_eq!(warnings(&format!("{text}{}", PRICE.replace("\"m\"", "\"n*\""))).len(), 1);
    assert_eq!(
        warnings(&format!("{HEAD}{}", PRICE.replace("\"p\"", "\"pp\""))),
        [
            r#"f.toml:13:12: "provider" in [[price]] names "pp", which is no [[provider]]; did you mean "p"?"#
        ]
    );
}

/// A directory with a configuration whose prices are in further files.
struct Files(tempfile::TempDir);

impl Files {
    fn new(prices: &str, map: &str) -> Files {
        let files = Files(tempfile::tempdir().expect("a directory"));
        let text = format!(
            "{HEAD}[[provider]]\nname = \"groq-eu\"\npreset = \"groq\"\napi_key = \"sk-0123456789\"\n\
             {PRICE}[prices]\ninclude = [\"list.toml\"]\nimport = \"map.json\"\n"
        );
        files.write("f.toml", &text);
        files.write("list.toml", prices);
        files.write("map.json", map);
        files
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.0.path().join(name), text).expect("write");
    }

    fn load(&self) -> Result<Loaded, Faults> {
        load(&self.0.path().join("f.toml"), &env)
    }

    fn printed(&self) -> String {
        let Err(faults) = self.load() else { panic!("refused") };
        faults.to_string().replace(&*self.0.path().to_string_lossy(), "D")
    }
}

fn map(model: &str) -> String {
    format!(
        "{{\"{model}\": {{\"litellm_provider\": \"groq\", \"mode\": \"chat\", \
         \"input_cost_per_token\": 1e-06, \"output_cost_per_token\": 0.000002}}}}"
    )
}

#[test]
fn further_files_of_prices_are_for_names_and_presets_and_are_watched() {
    let list = format!(
        "{}{}{}",
        PRICE.replace("\"p\"", "\"groq\"").replace("\"m\"", "\"x\""),
        PRICE.replace("0.15", "9"),
        PRICE.replace("\"p\"", "\"elsewhere\""),
    );
    let files = Files::new(&list, &map("y"));
    let loaded = files.load().unwrap_or_else(|faults| panic!("{faults}"));
    let names: Vec<String> = loaded
        .config
        .prices
        .iter()
        .map(|price| {
            format!("{}/{} {}", price.provider, price.model, price.base.get("input").expect("it"))
        })
        .collect();
    assert_eq!(names, ["groq-eu/y 1", "groq-eu/x 0.15", "p/m 0.15"], "the file's own holds");
    let watched: Vec<&Path> = loaded.fingerprint.files().collect();
    for name in ["list.toml", "map.json"] {
        assert!(watched.contains(&files.0.path().join(name).as_path()), "{name}");
    }
    assert_eq!(loaded.warnings, []);
    assert_eq!(
        diff(&loaded.config, &files.load().expect("again").config),
        [],
        "no time of ours in it"
    );
    // A changed list is a changed configuration.
    files.write("list.toml", &list.replace("\"x\"", "\"z\""));
    let told: Vec<String> = diff(&loaded.config, &files.load().expect("good").config)
        .iter()
        .map(|change| format!("{:?} {}", change.how, change.what))
        .collect();
    assert_eq!(told, ["Added [[price]] \"groq-eu/z\"", "Removed [[price]] \"groq-eu/x\""]);
}

#[test]
fn the_list_prices_that_we_bring_along_are_good() {
    let files = Files::new(include_str!("../../config/prices.toml"), &map("y"));
    let loaded = files.load().unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(loaded.warnings, []);
    let of_groq = loaded.config.prices.iter().filter(|price| price.provider == "groq-eu").count();
    assert!(of_groq > 1, "some of the list, by the preset");
}

/// Else the operator's own price would end when the list's next one begins.
#[test]
fn an_own_price_goes_before_later_ones_of_a_list() {
    let price = "[[price]]\nprovider = \"p\"\nmodel = \"m\"\n";
    let list = format!(
        "{price}input = \"1\"\n{price}valid_from = \"2030-01-01T00:00:00Z\"\ninput = \"2\"\n"
    );
    let files = Files::new(&list, &map("y"));
    let inputs = |own: &str| {
        let text = format!("{HEAD}{own}[prices]\ninclude = [\"list.toml\"]\n");
        files.write("f.toml", &text);
        let config = files.load().unwrap_or_else(|faults| panic!("{faults}")).config;
        config.prices.iter().map(|price| price.base.get("input").expect("it")).collect::<Vec<_>>()
    };
    assert_eq!(inputs(PRICE), ["0.15"]);
    assert_eq!(inputs(""), ["1", "2"]);
    let late = format!("{price}valid_from = \"2029-01-01T00:00:00Z\"\ninput = \"7\"\n");
    assert_eq!(inputs(&late), ["1", "7"], "until then the list's holds");
}

#[test]
fn a_budget_without_prices_is_warned_of() {
    let budget = "limits = { budget = [{ amount = \"1\" }] }\n";
    assert_eq!(
        warnings(&format!("{HEAD}{budget}")),
        [
            "f.toml:11:21: [[key]] \"k\" has a budget, and there are no prices: nothing costs anything; add a [[price]], or prices by [prices]"
        ]
    );
    assert_eq!(warnings(&format!("{HEAD}{budget}{PRICE}")), [""; 0]);
}

#[test]
fn faults_of_further_files_have_their_own_places() {
    let files =
        Files::new("[[price]]\nprovider = \"p\"\nmodel = \"m\"\ninptu = \"1\"\noutput = 2\n", "[]");
    let printed = files.printed();
    let lines: Vec<&str> = printed.lines().collect();
    assert!(
        lines[0].starts_with(
            "D/f.toml:25:10: \"import\" in [prices]: \"D/map.json\" is no price map, an object"
        ),
        "{lines:#?}"
    );
    assert_eq!(
        lines[1],
        "D/list.toml:4:1: unknown key \"inptu\" in [[price]]; did you mean \"input\"?"
    );
    assert_eq!(
        lines[2],
        "D/list.toml:5:10: \"output\" in [[price]] must be text, so that it stays exact, not the number 2; write \"2\""
    );
    assert_eq!(lines.len(), 3, "{lines:#?}");
    files.write("map.json", "{}");
    files.write("list.toml", &format!("{PRICE}group = \"gold\"\n"));
    assert_eq!(
        files.printed(),
        "D/list.toml:9:9: \"group\" in [[price]] names \"gold\", which is no [[price_group]]; there is no [[price_group]] yet"
    );
    files.write("list.toml", "[[key]]\nname = \"x\"\n[[price]\n");
    let printed = files.printed();
    assert!(
        printed.contains("D/list.toml:1:3: unknown key \"key\" in a file of prices; "),
        "{printed}"
    );
    assert!(printed.contains("D/list.toml:3:"), "{printed}");
}

#[test]
fn what_a_further_file_does_not_say_is_warned_of() {
    let files = Files::new(
        &PRICE.replace("\"p\"", "\"elsewhere\""),
        "{\"p/m\": {\"litellm_provider\": \"p\"}}",
    );
    let told = || -> Vec<String> {
        let loaded = files.load().unwrap_or_else(|faults| panic!("{faults}"));
        let warnings = loaded.warnings.iter().map(Fault::to_string);
        warnings.map(|text| text.replace(&*files.0.path().to_string_lossy(), "D")).collect()
    };
    let list = told();
    assert!(list[0].starts_with("D/f.toml:24:12: \"include\" in [prices] names \"D/list.toml\", which has no price for a [[provider]] here; "), "{list:#?}");
    assert!(
        list.iter().any(|text| text.contains("\"import\" in [prices]: p/m: left out: ")),
        "{list:#?}"
    );
    assert!(
        list.iter().any(|text| text.contains("names \"D/map.json\", which has no price")),
        "{list:#?}"
    );
    // Nobody is told of the thousand models that are no targets here.
    files.write("list.toml", PRICE);
    files
        .write("map.json", &map("y").replacen('{', "{\"p/n\": {\"litellm_provider\": \"p\"}, ", 1));
    assert_eq!(told(), [""; 0]);
}

#[test]
fn hundreds_of_changed_prices_are_one_line() {
    let with = |input: &str| {
        let price =
            |at: usize| PRICE.replace("\"m\"", &format!("\"m{at}\"")).replace("0.15", input);
        config(&format!("{HEAD}{}", (0..300).map(price).collect::<String>()))
    };
    assert_eq!(
        diff(&with("0.15"), &with("0.16")),
        [Change { what: "[[price]] of 300 models".into(), how: How::Changed }]
    );
}
