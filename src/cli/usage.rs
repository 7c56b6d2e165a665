//! `foretoken usage`: requests, tokens, cost and charge, summed up.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::Value;

use super::remote::{Asking, RemoteArgs, with_query};
use super::table::{Set, Table, cell, grouped, pico, rounded};
use super::{BAD_USAGE, Failure, print, when};

#[derive(Args)]
pub(crate) struct UsageArgs {
    /// Start: a span ago (30d), a date (UTC), or RFC 3339; without it, from the beginning
    #[arg(long, value_name = "WHEN")]
    from: Option<String>,
    /// End, exclusive; without it, now
    #[arg(long, value_name = "WHEN")]
    to: Option<String>,
    /// What the rows tell apart, comma-separated: key, model, project, user, account, target, end_user,
    /// tag, day, hour; `total` for sums only
    #[arg(long, value_name = "GROUPS", default_value = "model")]
    by: String,
    /// Only of this key
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Only of this alias
    #[arg(long)]
    model: Option<String>,
    /// Only of this project
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// Only of this user
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Only of this account
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

impl UsageArgs {
    fn asking(&self, now_unix_ms: u64) -> Result<Asking, Failure> {
        let time = |text: &Option<String>| {
            let read = text.as_ref().map(|text| when::ago(text, now_unix_ms));
            read.transpose().map_err(|why| Failure::new(BAD_USAGE, why))
        };
        let (from, to) = (time(&self.from)?, time(&self.to)?);
        // Written alike, they compare as texts.
        if let (Some(from), Some(to)) = (&from, &to)
            && from > to
        {
            let why = format!("--from {from} is later than --to {to}: exchange the two");
            return Err(Failure::new(BAD_USAGE, why));
        }
        let path = with_query(
            "/admin/v1/usage",
            &[
                ("from", from),
                ("to", to),
                ("group_by", (self.by != "total").then(|| self.by.clone())),
                ("key", self.key.clone()),
                ("model", self.model.clone()),
                ("project", self.project.clone()),
                ("user", self.user.clone()),
                ("account", self.account.clone()),
            ],
        );
        Ok(Asking::new("GET", path))
    }
}

pub(crate) fn run(args: &UsageArgs) -> Result<(), Failure> {
    let answer = args.remote.send(&args.asking(crate::clock::unix_ms())?)?;
    if args.remote.is_json() {
        print(&format!("{answer:#}\n"));
        return Ok(());
    }
    let (told, note) = text(&answer, &args.by);
    print(&told);
    eprint!("{note}");
    Ok(())
}

/// Sums of one currency.
#[derive(Default)]
struct Sums {
    requests: u128,
    errors: u128,
    input: u128,
    output: u128,
    cost_pico: i128,
    charge_pico: i128,
}

impl Sums {
    fn of(row: &Value) -> Self {
        let number = |name: &str| u128::from(row[name].as_u64().unwrap_or(0));
        let units = |prefix: &str| -> u128 {
            let all = row["units"].as_object().into_iter().flatten();
            let own = all.filter(|(name, _)| name.starts_with(prefix));
            own.map(|(_, count)| u128::from(count.as_u64().unwrap_or(0))).sum()
        };
        Sums {
            requests: number("requests"),
            errors: number("errors"),
            input: units("in_"),
            output: units("out_"),
            cost_pico: pico(&row["cost"]).unwrap_or(0),
            charge_pico: pico(&row["charge"]).unwrap_or(0),
        }
    }

    fn add(&mut self, other: &Sums) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.input += other.input;
        self.output += other.output;
        self.cost_pico = self.cost_pico.saturating_add(other.cost_pico);
        self.charge_pico = self.charge_pico.saturating_add(other.charge_pico);
    }

    fn cells(&self, currency: &str) -> [String; 7] {
        [
            grouped(self.requests),
            grouped(self.errors),
            grouped(self.input),
            grouped(self.output),
            rounded(self.cost_pico),
            rounded(self.charge_pico),
            currency.to_owned(),
        ]
    }
}

/// The heading of a group, as a table can hold it.
fn head(group: &str) -> Option<&'static str> {
    Some(match group {
        "key" => "KEY",
        "model" => "MODEL",
        "project" => "PROJECT",
        "user" => "USER",
        "account" => "ACCOUNT",
        "target" => "TARGET",
        "end_user" => "END USER",
        "tag" => "TAG",
        "day" => "DAY",
        "hour" => "HOUR",
        _ => return None,
    })
}

/// The table with a total for each currency, and how fresh it is.
fn text(answer: &Value, by: &str) -> (String, String) {
    let rows = answer["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return (String::new(), "no usage in this time\n".to_owned());
    }
    let groups: Vec<&str> =
        by.split(',').map(str::trim).filter(|group| head(group).is_some()).collect();
    let mut heads = Vec::new();
    for group in &groups {
        let is_time = ["day", "hour"].contains(group);
        heads.push((head(group).unwrap_or(""), if is_time { Set::Whole } else { Set::Cut }));
    }
    // By tag, a request is in a row for each of its tags: a sum of the rows would count it so often.
    let is_by_tag = groups.contains(&"tag");
    // Without groups the rows are the totals already.
    let has_totals = !groups.is_empty() && !is_by_tag;
    if !groups.is_empty() {
        for name in ["REQUESTS", "ERRORS", "IN", "OUT", "COST", "CHARGE"] {
            heads.push((name, Set::Right));
        }
    } else {
        heads.extend(
            ["REQUESTS", "ERRORS", "TOKENS IN", "TOKENS OUT", "COST", "CHARGE"]
                .map(|name| (name, Set::Right)),
        );
    }
    heads.push(("CUR", Set::Whole));
    let mut table = Table::new(&heads);
    let mut totals: BTreeMap<String, Sums> = BTreeMap::new();
    for row in rows {
        let sums = Sums::of(row);
        let currency = cell(&row["currency"]);
        let mut cells: Vec<String> = groups.iter().map(|group| group_cell(group, row)).collect();
        cells.extend(sums.cells(&currency));
        table.row(cells);
        totals.entry(currency).or_default().add(&sums);
    }
    if has_totals {
        for (currency, sums) in &totals {
            let mut cells = vec![String::new(); groups.len()];
            cells[0] = "total".to_owned();
            cells.extend(sums.cells(currency));
            table.row(cells);
        }
    }
    let mut note = String::new();
    if is_by_tag {
        note += "a request counts for each of its tags: the rows have no total, `--by total` has\n";
    }
    let unpriced: u64 = rows.iter().filter_map(|row| row["unpriced"].as_u64()).sum();
    if unpriced > 0 {
        let of = if is_by_tag { "some requests" } else { &requests(unpriced) };
        note += &format!(
            "{of} had no price and cost nothing here: `foretoken prices create` sets one\n"
        );
    }
    if let Some(until) = answer["complete_until"].as_str() {
        note += &format!("complete until {until}\n");
    }
    (table.render(), note)
}

fn requests(count: u64) -> String {
    if count == 1 { "1 request".to_owned() } else { format!("{} requests", grouped(count.into())) }
}

fn group_cell(group: &str, row: &Value) -> String {
    let cell = cell(&row[group]);
    match group {
        "day" => cell.chars().take(10).collect(),
        // `2026-01-31T12:00:00Z` → `2026-01-31 12:00`
        "hour" => cell.chars().take(16).collect::<String>().replace('T', " "),
        _ if cell.is_empty() => "-".to_owned(),
        _ => cell,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: UsageArgs,
    }

    fn asked(line: &str) -> Result<String, String> {
        let words = std::iter::once("usage").chain(line.split_whitespace());
        let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
        let asking = line.args.asking(1_700_000_000_000).map_err(|failure| failure.message)?;
        assert_eq!((asking.method, &asking.body), ("GET", &None));
        Ok(asking.path)
    }

    #[test]
    fn arguments_become_a_query() {
        assert_eq!(asked("").as_deref(), Ok("/admin/v1/usage?group_by=model"));
        assert_eq!(asked("--by total").as_deref(), Ok("/admin/v1/usage"));
        assert_eq!(
            asked("--from 1d --to 2023-11-14 --by key,model,day --key a/b --model gpt-*")
                .as_deref(),
            Ok("/admin/v1/usage?from=2023-11-13T22%3A13%3A20.000Z&to=2023-11-14T00%3A00%3A00.000Z\
                &group_by=key%2Cmodel%2Cday&key=a%2Fb&model=gpt-%2A")
        );
        assert!(asked("--from soon").is_err_and(|why| why.contains("30d")));
        let turned = asked("--from 1d --to 2d");
        assert!(turned.is_err_and(|why| why.contains("is later than --to 2023-11-12T")));
        assert!(asked("--from 1d --to 1d").is_ok());
    }

    #[test]
    fn totals_are_exact_and_stand_under_their_columns() {
        let row = |key: &str, cost: &str, currency: &str| {
            json!({"key": key, "key_id": "key_1", "day": "2026-01-31T00:00:00Z", "requests": 1200, "errors": 3,
                "units": {"in_text": 1_000_000, "in_cache_read": 5, "out_text": 20, "requests": 1200},
                "cost": cost, "charge": cost, "currency": currency})
        };
        let answer = json!({"complete_until": "2026-02-01T00:00:00Z", "data": [
            row("chat-backend-with-a-rather-long-name-for-a-key", "0.000000400001", "USD"),
            row("b", "0.000000600001", "USD"),
            row("b", "1", "EUR"),
        ]});
        let (told, note) = text(&answer, "key,day");
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{told}");
        assert_eq!(lines.len(), 6, "{told}");
        let words =
            |line: &str| -> Vec<String> { line.split_whitespace().map(str::to_owned).collect() };
        assert_eq!(words(lines[2])[..5], ["b", "2026-01-31", "1,200", "3", "1,000,005"]);
        assert_eq!(
            words(lines[4]),
            ["total", "1,200", "3", "1,000,005", "20", "1.000000", "1.000000", "EUR"]
        );
        // Each of the two rounds to 0.000000 or 0.000001; their sum is 0.000001000002.
        assert_eq!(words(lines[5])[1..6], ["2,400", "6", "2,000,010", "40", "0.000001"], "{told}");
        let end = |line: &str| line.rfind("EUR").or(line.rfind("CUR"));
        assert_eq!(end(lines[0]), end(lines[3]), "{told}");
        assert_eq!(note, "complete until 2026-02-01T00:00:00Z\n");
        assert_eq!(text(&json!({"data": []}), "key").0, "");
    }

    #[test]
    fn sums_alone_have_no_total_below() {
        let answer = json!({"data": [{"requests": 5, "errors": 0, "units": {}, "cost": null,
            "charge": "0.5", "currency": "USD"}]});
        let (told, _) = text(&answer, "total");
        assert_eq!(told.lines().count(), 2, "{told}");
        assert!(told.contains("TOKENS IN") && told.contains("0.500000"), "{told}");
    }

    #[test]
    fn by_tag_nothing_is_counted_twice() {
        let row = |tag: &str| json!({"tag": tag, "model": "m", "requests": 1, "units": {}, "cost": "1", "currency": "USD"});
        let answer = json!({"data": [row("a"), row("b")]});
        for by in ["tag", "tag,model", "model, tag"] {
            let (told, note) = text(&answer, by);
            assert_eq!(told.lines().count(), 3, "{told}");
            assert!(!told.contains("total") && told.contains(" IN "), "{told}");
            assert!(note.starts_with("a request counts for each of its tags"), "{note}");
        }
        assert!(text(&answer, "model").0.contains("total"));
    }

    #[test]
    fn what_had_no_price_is_told() {
        let row =
            |tag: &str| json!({"tag": tag, "requests": 5, "units": {}, "unpriced": 2, "cost": "0"});
        let answer = json!({"data": [row("a"), row("b")]});
        assert!(text(&answer, "model").1.starts_with("4 requests had no price"));
        assert!(text(&answer, "tag").1.contains("\nsome requests had no price"));
    }
}
