//! `foretoken requests` and `foretoken requests show ID`: the usage records.

use clap::{Args, Subcommand};
use serde_json::Value;

use super::objects::more;
use super::remote::{Asking, RemoteArgs, encoded, help, with_query};
use super::table::{Set, Table, cell, pico, printable, rounded};
use super::{BAD_USAGE, Failure, print, when};

#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct RequestsArgs {
    #[command(subcommand)]
    command: Option<RequestsCommand>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Subcommand)]
enum RequestsCommand {
    /// Show one record with its attempts
    #[command(after_help = help(&[
        "requests show 01JDXK3V5M8Q2W7RZ4T6Y9BCDE",
        "requests show 01JDXK3V5M8Q2W7RZ4T6Y9BCDE --json",
    ]))]
    Show(ShowArgs),
}

#[derive(Args)]
struct ShowArgs {
    /// The record's id, as the caller saw it in x-request-id
    id: String,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Args)]
struct ListArgs {
    /// Only of this key
    #[arg(long, value_name = "NAME")]
    key: Option<String>,
    /// Only of this alias
    #[arg(long)]
    model: Option<String>,
    /// Only of this project
    #[arg(long, value_name = "NAME")]
    project: Option<String>,
    /// Only of this account
    #[arg(long, value_name = "NAME")]
    account: Option<String>,
    /// Only this HTTP status (429), or this class (4xx)
    #[arg(long)]
    status: Option<String>,
    /// Only since: a span ago (2h), a date (UTC), or RFC 3339
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only until, exclusive
    #[arg(long, value_name = "WHEN")]
    until: Option<String>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..=1000))]
    limit: u64,
    /// Where to go on, as the page before said
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

impl ListArgs {
    fn asking(&self, now_unix_ms: u64) -> Result<Asking, Failure> {
        let time = |text: &Option<String>| {
            let read = text.as_ref().map(|text| when::ago(text, now_unix_ms));
            read.transpose().map_err(|why| Failure::new(BAD_USAGE, why))
        };
        let path = with_query(
            "/admin/v1/requests",
            &[
                ("key", self.key.clone()),
                ("model", self.model.clone()),
                ("project", self.project.clone()),
                ("account", self.account.clone()),
                ("status", self.status.clone()),
                ("since", time(&self.since)?),
                ("until", time(&self.until)?),
                ("cursor", self.cursor.clone()),
                ("limit", Some(self.limit.to_string())),
            ],
        );
        Ok(Asking::new("GET", path))
    }
}

pub(crate) fn run(args: &RequestsArgs) -> Result<(), Failure> {
    if let Some(RequestsCommand::Show(show)) = &args.command {
        return run_show(show);
    }
    let list = &args.list;
    let answer = list.remote.send(&list.asking(crate::clock::unix_ms())?)?;
    if list.remote.is_json() {
        print(&format!("{answer:#}\n"));
        return Ok(());
    }
    let (told, note) = list_text(&answer);
    print(&told);
    eprint!("{note}");
    Ok(())
}

fn run_show(args: &ShowArgs) -> Result<(), Failure> {
    if args.id.is_empty() {
        return Err(Failure::new(BAD_USAGE, "the id of the request is empty"));
    }
    let path = format!("/admin/v1/requests/{}", encoded(&args.id));
    let answer = args.remote.send(&Asking::new("GET", path))?;
    match args.remote.is_json() {
        true => print(&format!("{answer:#}\n")),
        false => print(&record_text(&answer)),
    }
    Ok(())
}

fn list_text(answer: &Value) -> (String, String) {
    let rows = answer["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        let note = match answer["next_cursor"].is_string() {
            // A filter that fits little: what was searched so far held nothing.
            true => more(answer),
            false => "no requests\n".to_owned(),
        };
        return (String::new(), note);
    }
    let mut table = Table::new(&[
        ("ID", Set::Whole),
        ("TIME", Set::Whole),
        ("ST", Set::Right),
        ("KEY", Set::Cut),
        ("MODEL", Set::Cut),
        ("COST", Set::Right),
    ]);
    for row in rows {
        table.row(vec![
            cell(&row["id"]),
            // `2026-01-31T12:34:56.789Z` → `01-31 12:34`
            cell(&row["time"]).chars().skip(5).take(11).collect::<String>().replace('T', " "),
            cell(&row["status"]),
            cell(&row["key"]["name"]),
            cell(&row["model"]),
            pico(&row["cost"]).map_or_else(|| "-".to_owned(), rounded),
        ]);
    }
    (table.render(), more(answer))
}

/// One field a line, units on one, and a line for each attempt.
fn record_text(record: &Value) -> String {
    let ms = |name: &str| record[name].as_f64().map_or(String::new(), |ms| format!("{ms} ms"));
    let with_id = |name: &str, id: &Value| match id.as_str().filter(|id| *id != name) {
        Some(id) => format!("{name} ({id})"),
        None => name.to_owned(),
    };
    let money = |value: &Value| match value.as_str() {
        Some(amount) => format!("{amount} {}", cell(&record["currency"])),
        None => String::new(),
    };
    let status = match record["error"].as_str() {
        Some(error) => format!("{} ({error})", cell(&record["status"])),
        None => cell(&record["status"]),
    };
    let unpriced = if record["unpriced"] == true { "yes: the model has no price" } else { "" };
    let mut lines = vec![
        ("id", cell(&record["id"])),
        ("time", cell(&record["time"])),
        ("key", with_id(&cell(&record["key"]["name"]), &record["key"]["id"])),
        ("project", cell(&record["project"])),
        ("user", cell(&record["user"])),
        ("account", cell(&record["account"])),
        ("end user", cell(&record["end_user"])),
        ("tags", cell(&record["tags"])),
        ("model", cell(&record["model"])),
        ("model served", cell(&record["model_served"])),
        ("target", cell(&record["target"])),
        ("status", status),
        ("state", cell(&record["state"])),
        ("units", units(&record["units"])),
        ("cost", money(&record["cost"])),
        ("charge", money(&record["charge"])),
        ("unpriced", unpriced.to_owned()),
        ("first content", ms("ttft_ms")),
        ("total", ms("total_ms")),
        ("overhead", ms("overhead_ms")),
        ("upstream id", cell(&record["upstream_request_id"])),
    ];
    lines.retain(|(_, value)| !value.is_empty());
    let mut out = String::new();
    for (name, value) in lines {
        out += &format!("{name:13}  {}\n", printable(&value));
    }
    for (at, attempt) in record["attempts"].as_array().into_iter().flatten().enumerate() {
        let parts = [
            cell(&attempt["target"]),
            cell(&attempt["outcome"]),
            cell(&attempt["status"]),
            units(&attempt["units"]),
            money(&attempt["cost"]),
        ];
        let said: Vec<&str> =
            parts.iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
        out += &format!("{:13}  {}\n", format!("attempt {}", at + 1), printable(&said.join(", ")));
    }
    out
}

/// `in_text 12, out_text 345`.
fn units(units: &Value) -> String {
    let all = units.as_object().into_iter().flatten();
    let used = all.filter(|(name, count)| *name != "requests" && count.as_u64() != Some(0));
    used.map(|(name, count)| format!("{name} {}", cell(count))).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use serde_json::json;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: RequestsArgs,
    }

    fn parsed(line: &str) -> Result<RequestsArgs, String> {
        let words = std::iter::once("requests").chain(line.split_whitespace());
        Line::try_parse_from(words).map(|line| line.args).map_err(|error| error.to_string())
    }

    #[test]
    fn arguments_become_a_query() {
        let path = |line: &str| {
            let args = parsed(line).expect(line);
            args.list.asking(1_700_000_000_000).map(|asking| asking.path).map_err(|why| why.message)
        };
        assert_eq!(path("").as_deref(), Ok("/admin/v1/requests?limit=50"));
        assert_eq!(
            path("--key k --model m --status 4xx --since 1h --limit 7 --cursor a+b").as_deref(),
            Ok("/admin/v1/requests?key=k&model=m&status=4xx&since=2023-11-14T21%3A13%3A20.000Z\
                &cursor=a%2Bb&limit=7")
        );
        assert!(path("--since soon").is_err());
        assert!(parsed("--limit 0").is_err() && parsed("--limit 1001").is_err());
        let shown = parsed("show 01JD --json").expect("show");
        assert!(matches!(shown.command, Some(RequestsCommand::Show(show)) if show.id == "01JD"));
        assert!(parsed("--key k show 01JD").is_err() && parsed("show").is_err());
    }

    #[test]
    fn a_list_fits_and_shows_the_whole_id() {
        let id = "01JDXK3V5M8Q2W7RZ4T6Y9BCDE";
        let row = json!({"id": id, "time": "2026-01-31T12:34:56.789Z", "status": 200,
            "key": {"id": "key_1", "name": "a-key-with-quite-a-long-name"},
            "model": "meta-llama/Llama-3.1-8B-Instruct", "cost": "0.000123456789"});
        let mut unsettled = row.clone();
        unsettled["cost"] = Value::Null;
        let answer = json!({"data": [row, unsettled], "next_cursor": "abc"});
        let (told, note) = list_text(&answer);
        let lines: Vec<&str> = told.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= 80), "{told}");
        assert!(lines[1].starts_with(&format!("{id}  01-31 12:34  200  a-key")), "{told}");
        assert!(lines[1].ends_with("0.000123") && lines[2].ends_with(" -"), "{told}");
        assert_eq!(note, "there are more: --cursor abc\n");
        assert_eq!(list_text(&json!({"data": []})).1, "no requests\n");
        assert!(list_text(&json!({"data": [], "next_cursor": "x"})).1.contains("--cursor x"));
    }

    #[test]
    fn a_record_shows_its_attempts_and_exact_money() {
        let record = json!({"id": "01JD", "key": {"id": "key_1", "name": "chat"}, "status": 200,
            "units": {"in_text": 12, "out_text": 0, "requests": 1}, "cost": "0.000000000001",
            "currency": "USD", "unpriced": false, "ttft_ms": 12.5, "error": null, "tags": ["a", "b"],
            "attempts": [
                {"target": "openai/m", "outcome": "failed", "status": 503},
                {"target": "azure/m", "outcome": "won", "status": 200, "units": {"in_text": 12},
                    "cost": "0.000000000001"}]});
        let told = record_text(&record);
        for line in [
            "key            chat (key_1)",
            "tags           a, b",
            "units          in_text 12",
            "cost           0.000000000001 USD",
            "first content  12.5 ms",
            "attempt 1      openai/m, failed, 503",
            "attempt 2      azure/m, won, 200, in_text 12, 0.000000000001 USD",
        ] {
            assert!(told.lines().any(|got| got == line), "{line}\n{told}");
        }
        assert!(!told.contains("unpriced") && !told.contains("user"), "{told}");
    }
}
