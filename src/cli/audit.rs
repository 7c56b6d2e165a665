//! `foretoken audit list|verify|export`: what was administered, and whether the log is whole.

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::objects::more;
use super::remote::{Asking, RemoteArgs, help, with_query};
use super::table::{Set, Table, cell, printable};
use super::{BAD_USAGE, FAILED, Failure, print};

/// Entries of a page of an export.
const PAGE: u64 = 1000;

#[derive(Subcommand)]
pub(crate) enum AuditCommand {
    /// List administrative acts, oldest first
    #[command(after_help = help(&["audit list", "audit list --since 1200 --limit 1000 --json"]))]
    List(ListArgs),
    /// Recompute the chain of hashes. A cut-off tail is found only with a head that was kept elsewhere
    #[command(after_help = help(&[
        "audit verify",
        "audit verify --head 17:9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    ]))]
    Verify(VerifyArgs),
    /// Print all entries as CSV or JSON lines
    #[command(after_help = help(&[
        "audit export > audit.csv",
        "audit export --format json --since 1200",
    ]))]
    Export(ExportArgs),
}

#[derive(Args)]
pub(crate) struct ListArgs {
    /// Only entries after the one with this number
    #[arg(long, value_name = "SEQ")]
    since: Option<u64>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=1000))]
    limit: u64,
    /// Where to go on, as the page before said
    #[arg(long)]
    cursor: Option<String>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Args)]
pub(crate) struct VerifyArgs {
    /// A head that was kept, as `verify` and the log print it
    #[arg(long, value_name = "COUNT:HASH", value_parser = head)]
    head: Option<Value>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Args)]
pub(crate) struct ExportArgs {
    /// One row or one JSON object a line
    #[arg(long, value_enum, default_value_t = Format::Csv)]
    format: Format,
    /// Only entries after the one with this number
    #[arg(long, value_name = "SEQ")]
    since: Option<u64>,
    #[command(flatten)]
    remote: RemoteArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Format {
    Csv,
    Json,
}

/// `17:9f86…`
fn head(text: &str) -> Result<Value, String> {
    let (count, hash) = text.split_once(':').unwrap_or((text, ""));
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    match count.parse::<u64>() {
        Ok(count) if is_hash => Ok(json!({ "count": count, "hash": hash.to_ascii_lowercase() })),
        _ => Err("write COUNT:HASH, the hash as 64 hexadecimal digits".to_owned()),
    }
}

pub(crate) fn run(command: &AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::List(args) => list(args),
        AuditCommand::Verify(args) => verify(args),
        AuditCommand::Export(args) => export(args),
    }
}

fn asking(since: Option<u64>, cursor: Option<String>, limit: u64) -> Asking {
    let query = [
        ("since", since.map(|seq| seq.to_string())),
        ("cursor", cursor),
        ("limit", Some(limit.to_string())),
    ];
    Asking::new("GET", with_query("/admin/v1/audit", &query))
}

fn list(args: &ListArgs) -> Result<(), Failure> {
    let answer = args.remote.send(&asking(args.since, args.cursor.clone(), args.limit))?;
    if args.remote.is_json() {
        print(&format!("{answer:#}\n"));
        return Ok(());
    }
    print(&list_text(&answer));
    eprint!("{}", more(&answer));
    Ok(())
}

fn list_text(answer: &Value) -> String {
    let mut table = Table::new(&[
        ("SEQ", Set::Right),
        ("TIME", Set::Whole),
        ("ACTOR", Set::Cut),
        ("FROM", Set::Cut),
        ("ACTION", Set::Cut),
        ("OBJECT", Set::Cut),
    ]);
    let entries = answer["data"].as_array().map(Vec::as_slice).unwrap_or_default();
    if entries.is_empty() {
        return String::new();
    }
    for entry in entries {
        let object = &entry["object"];
        let name = [&object["name"], &object["id"]].map(cell);
        table.row(vec![
            cell(&entry["seq"]),
            cell(&entry["time"]).chars().take(19).collect::<String>().replace('T', " "),
            cell(&entry["actor"]),
            cell(&entry["from"]),
            cell(&entry["action"]),
            name.into_iter().find(|name| !name.is_empty()).unwrap_or_default(),
        ]);
    }
    let told = table.render();
    let mut lines = told.lines();
    let mut out = String::new();
    let heads = std::iter::once(String::new());
    for below in heads.chain(entries.iter().map(attempt)) {
        out += lines.next().unwrap_or_default();
        out.push('\n');
        out += &below;
    }
    out
}

/// A line below its entry: what was tried in vain, and why. Nothing for what was done.
fn attempt(entry: &Value) -> String {
    if entry["action"] != "denied" {
        return String::new();
    }
    let parts = [&entry["after"]["attempt"], &entry["after"]["reason"]].map(cell);
    let said: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    if said.is_empty() { String::new() } else { format!("     {}\n", printable(&said.join(": "))) }
}

fn verify(args: &VerifyArgs) -> Result<(), Failure> {
    let body = args.head.as_ref().map_or(json!({}), |head| json!({ "head": head }));
    let asking = Asking::new("POST", "/admin/v1/audit/verify".to_owned()).with(body);
    let answer = args.remote.send(&asking)?;
    if args.remote.is_json() {
        print(&format!("{answer:#}\n"));
    }
    match verdict(&answer) {
        Ok(told) => {
            if !args.remote.is_json() {
                print(&told);
            }
            Ok(())
        }
        Err(why) => Err(Failure::new(FAILED, why)),
    }
}

/// What the verdict says; `Err` for a broken chain.
fn verdict(answer: &Value) -> Result<String, String> {
    let count = answer["count"].as_u64().unwrap_or(0);
    if answer["ok"] == true {
        // The head may come as a hash, or as `{count, hash}`.
        let hash = answer["head"].as_str().or_else(|| answer["head"]["hash"].as_str());
        let hash = hash.unwrap_or("");
        return Ok(format!("the audit log is whole: {count} entries, head {count}:{hash}\n"));
    }
    let fault = answer["fault"].as_str().unwrap_or("the chain of hashes does not hold");
    Err(format!("THE AUDIT LOG IS BROKEN: {fault} ({count} entries)"))
}

fn export(args: &ExportArgs) -> Result<(), Failure> {
    if args.remote.is_json() && args.format == Format::Csv {
        let cure = "--json and --format csv are at odds: say --format json";
        return Err(Failure::new(BAD_USAGE, cure));
    }
    let mut cursor = None;
    let mut last = None;
    let mut is_first = true;
    loop {
        let answer = args.remote.send(&asking(args.since, cursor.take(), PAGE))?;
        // Not before something came: a head alone would look like an empty log.
        if std::mem::take(&mut is_first) && args.format == Format::Csv {
            print(CSV_HEAD);
        }
        for entry in answer["data"].as_array().into_iter().flatten() {
            // The pages must go on, or a faulty peer would keep us for ever.
            let seq = entry["seq"].as_u64();
            if seq.is_none() || seq <= last {
                return Err(Failure::new(FAILED, "the entries do not come in their order"));
            }
            last = seq;
            match args.format {
                Format::Csv => print(&csv_row(entry)),
                Format::Json => print(&format!("{entry}\n")),
            }
        }
        let is_empty = answer["data"].as_array().is_none_or(Vec::is_empty);
        match answer["next_cursor"].as_str() {
            Some(next) if !is_empty => cursor = Some(next.to_owned()),
            _ => return Ok(()),
        }
    }
}

const CSV_HEAD: &str = "seq,time,actor,from,action,kind,id,name,before,after,hash\r\n";

/// RFC 4180. Objects are JSON within their cell.
fn csv_row(entry: &Value) -> String {
    let object = &entry["object"];
    let json = |value: &Value| if value.is_null() { String::new() } else { value.to_string() };
    let cells = [
        cell(&entry["seq"]),
        cell(&entry["time"]),
        cell(&entry["actor"]),
        cell(&entry["from"]),
        cell(&entry["action"]),
        cell(&object["kind"]),
        cell(&object["id"]),
        cell(&object["name"]),
        json(&entry["before"]),
        json(&entry["after"]),
        cell(&entry["hash"]),
    ];
    let quoted = cells.map(|cell| match cell.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", cell.replace('"', "\"\"")),
        false => cell,
    });
    format!("{}\r\n", quoted.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> Value {
        json!({"seq": 17, "time": "2026-01-31T12:34:56.789Z", "actor": "owner", "from": "127.0.0.1",
            "action": "key.block", "object": {"kind": "key", "id": "key_1", "name": "a, \"b\""},
            "before": {"status": "active"}, "after": null, "hash": "ab"})
    }

    #[test]
    fn heads_are_read() {
        let hash = "AB".repeat(32);
        let read = head(&format!("17:{hash}")).expect("a head");
        assert_eq!(read, json!({"count": 17, "hash": "ab".repeat(32)}));
        for bad in ["17", "17:", "x:ab", &format!("-1:{hash}"), &format!("17:{hash}0"), &hash] {
            assert!(head(bad).is_err_and(|why| why.contains("COUNT:HASH")), "{bad}");
        }
    }

    #[test]
    fn lists_fit_and_rows_are_quoted() {
        let told = list_text(&json!({"data": [entry()]}));
        let row = told.lines().nth(1).expect("a row");
        assert_eq!(
            row.split_whitespace().collect::<Vec<_>>(),
            ["17", "2026-01-31", "12:34:56", "owner", "127.0.0.1", "key.block", "a,", "\"b\""]
        );
        assert_eq!(list_text(&json!({"data": []})), "");
        assert_eq!(told.lines().count(), 2, "{told}");
        let mut denied = entry();
        denied["action"] = json!("denied");
        denied["after"] = json!({"attempt": "key.create", "field": null, "reason": "not yours"});
        let told = list_text(&json!({"data": [denied, entry()]}));
        let lines: Vec<&str> = told.lines().collect();
        assert_eq!(lines.len(), 4, "{told}");
        assert!(lines[1].contains(" denied ") && lines[3].contains("key.block"), "{told}");
        assert_eq!(lines[2], "     key.create: not yours");
        let want = "17,2026-01-31T12:34:56.789Z,owner,127.0.0.1,key.block,key,key_1,\
            \"a, \"\"b\"\"\",\"{\"\"status\"\":\"\"active\"\"}\",,ab\r\n";
        assert_eq!(csv_row(&entry()), want);
        assert_eq!(CSV_HEAD.split(',').count(), 11);
    }

    #[test]
    fn a_broken_chain_is_a_failure() {
        let good = json!({"ok": true, "count": 3, "head": "ab"});
        assert_eq!(verdict(&good).as_deref(), Ok("the audit log is whole: 3 entries, head 3:ab\n"));
        let headed = json!({"ok": true, "count": 3, "head": {"count": 3, "hash": "ab"}});
        assert_eq!(verdict(&headed), verdict(&good));
        let bad = json!({"ok": false, "count": 3, "fault": "row 2 was changed"});
        assert!(verdict(&bad).is_err_and(|why| why.contains("row 2 was changed")));
        assert!(verdict(&json!({})).is_err());
    }
}
