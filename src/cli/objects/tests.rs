//! What is typed becomes a call; what comes back becomes text.

use clap::Parser;
use serde_json::{Value, json};

use super::kinds::{AccountFields, KeyFields, PriceFields, PrincipalFields};
use super::*;

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: ObjectsCommand,
}

const NOW: u64 = 1_700_000_000_000;

/// The call of a line of words; `'…'` keeps a word together.
fn asked(line: &str) -> Result<Asking, String> {
    let mut words = vec!["foretoken".to_owned()];
    for (at, part) in line.split('\'').enumerate() {
        match at % 2 {
            0 => words.extend(part.split_whitespace().map(str::to_owned)),
            _ => words.push(part.to_owned()),
        }
    }
    let line = Line::try_parse_from(words).map_err(|error| error.to_string())?;
    let asking = match &line.command {
        ObjectsCommand::Keys(command) => of_secretive(command),
        ObjectsCommand::Accounts(command) => of_blockable(command),
        ObjectsCommand::Projects(command) => of_blockable(command),
        ObjectsCommand::Users(command) => of_blockable(command),
        ObjectsCommand::Prices(command) => command.asking(NOW),
        ObjectsCommand::Rates(command) => command.asking(NOW),
        ObjectsCommand::Principals(command) => of_secretive(command),
    };
    asking.map_err(|failure| {
        assert_eq!(failure.code, BAD_USAGE);
        failure.message
    })
}

fn of_blockable<K: Kind>(command: &Blockable<K>) -> Result<Asking, Failure> {
    match command {
        Blockable::Common(command) => command.asking(NOW),
        Blockable::Block(args) => args.asking(),
        Blockable::Unblock(args) => unblocking(args),
    }
}

fn of_secretive<K: Kind>(command: &Secretive<K>) -> Result<Asking, Failure> {
    match command {
        Secretive::Blockable(command) => of_blockable(command),
        Secretive::Rotate(args) => args.asking(),
    }
}

#[track_caller]
fn is(line: &str, method: &str, path: &str, body: Value) {
    let asking = asked(line).expect(line);
    let body = (!body.is_null()).then_some(body);
    let path = format!("/admin/v1/{path}");
    assert_eq!((asking.method, asking.path, asking.body), (method, path, body), "{line}");
}

#[test]
fn creations() {
    is("keys create chat", "POST", "keys", json!({"name": "chat"}));
    is("keys create --name chat", "POST", "keys", json!({"name": "chat"}));
    is(
        "keys create chat --project p --user u --models gpt-*,o4 --models x --denied-models gpt-5 \
         --endpoints chat --cidrs 10.0.0.0/8 --expires 30d --tag a --tag b --metadata k=v=w \
         --alias fast=gpt-4o-mini --rpm 600 --tpm 200000 --tpd 9 --parallel 50 --overrun cut \
         --budget 100/monthly --budget 80/monthly/soft",
        "POST",
        "keys",
        json!({"name": "chat", "project": "p", "user": "u", "models": ["gpt-*", "o4", "x"],
            "deny_models": ["gpt-5"], "endpoints": ["chat"], "cidrs": ["10.0.0.0/8"],
            "expires_at": "2023-12-14T22:13:20.000Z", "tags": ["a", "b"], "metadata": {"k": "v=w"},
            "aliases": {"fast": "gpt-4o-mini"},
            "limits": {"rpm": 600, "tpm": 200_000, "tpd": 9, "parallel": 50, "overrun": "cut",
                "budget": [{"amount": "100", "per": "monthly"},
                    {"amount": "80", "per": "monthly", "soft": true}]}}),
    );
    is(
        "keys create a --rpm 5 --set 'limits.models={\"m\": {\"rpm\": 1}}'",
        "POST",
        "keys",
        json!({"name": "a", "limits": {"rpm": 5, "models": {"m": {"rpm": 1}}}}),
    );
    is(
        "accounts create acme --currency EUR --billing prepaid --balance 250 --timezone Europe/Berlin \
         --price-group g --markup 1.25 --queue-wait 2s --queue-depth 100",
        "POST",
        "accounts",
        json!({"name": "acme", "currency": "EUR", "billing": "prepaid", "balance": "250",
            "timezone": "Europe/Berlin", "price_group": "g", "markup": "1.25",
            "queue": {"wait": "2s", "depth": 100}}),
    );
    is("projects create s --account a", "POST", "projects", json!({"name": "s", "account": "a"}));
    is("users create ana --email a@b", "POST", "users", json!({"name": "ana", "email": "a@b"}));
    is(
        "prices create --provider openai --model m --input 0.15 --output 0.6 --price audio_in=40",
        "POST",
        "prices",
        json!({"provider": "openai", "model": "m", "input": "0.15", "output": "0.6", "audio_in": "40"}),
    );
    is(
        "rates create --from USD --to EUR --rate 0.92 --valid-from 2026-02-01",
        "POST",
        "rates",
        json!({"from": "USD", "to": "EUR", "rate": "0.92", "valid_from": "2026-02-01T00:00:00.000Z"}),
    );
    is(
        "rates create --from USD --to EUR --rate 0.92 --valid-from now",
        "POST",
        "rates",
        json!({"from": "USD", "to": "EUR", "rate": "0.92", "valid_from": "2023-11-14T22:13:20.000Z"}),
    );
    is(
        "principals create ci --role manager --project p --expires never",
        "POST",
        "principals",
        json!({"name": "ci", "role": "manager", "project": "p", "expires_at": null}),
    );
    let once = asked("keys create a --idempotency-key k1").expect("a call");
    assert_eq!(once.idempotency_key.as_deref(), Some("k1"));
}

#[test]
fn reads_and_verbs() {
    let none = Value::Null;
    is("keys list", "GET", "keys?limit=100", none.clone());
    is(
        "keys list --project p --user u --status deleted --limit 5 --cursor c",
        "GET",
        "keys?project=p&user=u&status=deleted&cursor=c&limit=5",
        none.clone(),
    );
    is("keys show 'a/b é'", "GET", "keys/a%2Fb%20%C3%A9", none.clone());
    is("keys update a --rpm 5", "PATCH", "keys/a", json!({"limits": {"rpm": 5}}));
    is("keys update a --name b", "PATCH", "keys/a", json!({"name": "b"}));
    is("keys update a --clear limits", "PATCH", "keys/a", json!({"limits": null}));
    is(
        "keys update a --rpm 5 --clear tpm,expires --set user=ana",
        "PATCH",
        "keys/a",
        json!({"limits": {"rpm": 5, "tpm": null}, "expires_at": null, "user": "ana"}),
    );
    is("keys rotate a", "POST", "keys/a/rotate", json!({}));
    is("keys rotate a --grace 1h", "POST", "keys/a/rotate", json!({"grace": "1h"}));
    is("keys block a", "POST", "keys/a/block", json!({}));
    is("keys block a --now", "POST", "keys/a/block", json!({"now": true}));
    is("keys unblock a", "POST", "keys/a/unblock", none.clone());
    is("keys delete a", "DELETE", "keys/a", none.clone());
    is("keys restore a", "POST", "keys/a/restore", none.clone());
    is("keys purge a --yes", "POST", "keys/a/purge", none.clone());
    is("projects block p --now", "POST", "projects/p/block", json!({"now": true}));
    is("projects unblock p", "POST", "projects/p/unblock", none.clone());
    is("users block ana", "POST", "users/ana/block", json!({}));
    is("principals block ana", "POST", "principals/ana/block", json!({}));
    is("keys show a --in p", "GET", "keys/a?project=p", none.clone());
    is("keys delete a --project p", "DELETE", "keys/a?project=p", none.clone());
    is("keys rotate a --in p", "POST", "keys/a/rotate?project=p", json!({}));
    is("keys update a --in p --project q", "PATCH", "keys/a?project=p", json!({"project": "q"}));
    is("accounts delete a --cascade", "DELETE", "accounts/a?cascade=true", none.clone());
    is("principals rotate ana", "POST", "principals/ana/rotate", json!({}));
    is("rates list --status active", "GET", "rates?status=active&limit=100", none);
}

#[test]
fn mistakes_are_told_before_anything_is_asked() {
    for (line, cure) in [
        ("keys create", "keys create NAME"),
        ("keys create a --name b", "twice"),
        ("keys create a --budget 100", "AMOUNT/PERIOD"),
        ("keys create a --rpm -5", "--rpm"),
        ("keys create a --rpm 1k", "whole number in digits alone"),
        ("keys create a --overrun perhaps", "finish, cut, strict"),
        ("keys create a --expires soon", "30d"),
        ("keys create a --secret-from /nowhere/at/all", "cannot be read"),
        ("keys create a --sha256 x --secret-from y", "cannot be used with"),
        ("keys update a", "nothing to change"),
        ("keys update a --set x", "FIELD=VALUE"),
        ("keys show ''", "empty"),
        ("keys list --limit 1001", "1000"),
        ("keys list --status gone", "active, blocked, deleted, all"),
        ("keys revoke a", "unrecognized"),
        ("accounts create a --queue-wait 2s", "--queue-depth"),
        ("accounts create a --billing later", "postpaid, prepaid"),
        ("accounts rotate a", "unrecognized"),
        ("prices create m --input 1", "no name"),
        ("principals create a --role king", "owner, admin, manager, viewer"),
    ] {
        let why = asked(line).expect_err(line);
        assert!(why.contains(cure), "{line}: {why}");
    }
}

#[test]
fn a_secret_of_a_file_never_stands_on_the_command_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("old.key");
    std::fs::write(&path, "sk-old-secret-of-ours\n").expect("written");
    let asking = asked(&format!("keys create a --secret-from {}", path.display())).expect("a call");
    assert_eq!(asking.body, Some(json!({"name": "a", "secret": "sk-old-secret-of-ours"})));
    std::fs::write(&path, " \n").expect("written");
    let why = asked(&format!("keys create a --secret-from {}", path.display())).expect_err("empty");
    assert!(why.contains("holds no secret"), "{why}");
}

#[test]
fn a_secret_is_alone_on_stdout() {
    let key = json!({"id": "key_1", "name": "chat", "secret": "sk-ft-abc"});
    let (told, note) = tell::made_text::<KeyFields>(&key, false);
    assert_eq!(told, "sk-ft-abc\n");
    assert!(note.contains("key chat (key_1)") && note.contains("only once"), "{note}");
    let (told, note) = tell::made_text::<KeyFields>(&key, true);
    assert_eq!(serde_json::from_str::<Value>(&told).expect("JSON"), key);
    assert!(note.contains("only once") && !note.contains("sk-ft-abc"), "{note}");
    let (told, note) = tell::rotated_text::<KeyFields>(&key, false);
    assert!(told == "sk-ft-abc\n" && note.contains("only once"), "{note}");
    let principal = json!({"id": "prn_1", "name": "ana", "token": "ft-admin-x"});
    assert_eq!(tell::made_text::<PrincipalFields>(&principal, false).0, "ft-admin-x\n");

    let again = json!({"id": "key_1", "name": "chat", "secret": null, "replayed": true});
    for (told, note) in [
        tell::made_text::<KeyFields>(&again, false),
        tell::rotated_text::<KeyFields>(&again, false),
    ] {
        assert!(told.is_empty() && note.contains("not shown again"), "{told}{note}");
    }
    let account = json!({"id": "acc_1", "name": "acme"});
    let made = tell::made_text::<AccountFields>(&account, false);
    assert_eq!(made, ("account acme (acc_1) created\n".to_owned(), String::new()));
}

#[test]
fn an_act_on_all_keys_says_how_many() {
    let answer =
        json!({"id": "prj_1", "name": "search", "keys": {"changed": 12, "managed_by_file": 1}});
    assert_eq!(
        tell::done_text::<ProjectFields>(&answer, "search", "blocked"),
        "project search (prj_1) blocked: 12 keys; 1 of the configuration file stay as they are\n"
    );
    let answer = json!({"id": "chat", "name": "chat"});
    assert_eq!(tell::done_text::<KeyFields>(&answer, "chat", "deleted"), "key chat deleted\n");
    assert_eq!(tell::done_text::<KeyFields>(&Value::Null, "chat", "purged"), "key chat purged\n");
}

#[test]
fn lists_fit_into_eighty_columns() {
    let id = "key_01JDXK3V5M8Q2W7RZ4T6Y9BCDE";
    let row = json!({"name": "a-key-with-quite-a-long-name-that-needs-room", "project": "default",
        "status": "active", "expires_at": "2026-01-31T00:00:00Z", "id": id});
    let (told, note) = tell::list_text::<KeyFields>(&json!({"data": [row], "next_cursor": "c1"}));
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{told}");
    assert!(lines[0].contains("EXPIRES ") && !lines[0].contains('@'), "{told}");
    assert!(lines[1].contains("2026-01-31") && lines[1].ends_with(id), "{told}");
    assert_eq!(note, "there are more: --cursor c1\n");
    let (told, note) = tell::list_text::<KeyFields>(&json!({"data": [], "next_cursor": null}));
    assert_eq!((told.as_str(), note.as_str()), ("", "no keys\n"));
}

#[test]
fn a_sheet_shows_limits_and_their_use() {
    let key = json!({"id": "key_1", "name": "chat\u{1b}[2J", "status": "active", "user": null,
        "models": ["gpt-*", "o4"], "tags": [],
        "limits": {"rpm": 600, "budget": [{"amount": "100", "per": "monthly", "overrun": "finish"}]},
        "usage": {"rpm": {"limit": 600, "used": 12},
            "budget": [{"amount": "100", "per": "monthly", "spent": "3.2", "reserved": "0.1",
                "remaining": "96.7", "resets_at": "2026-02-01T00:00:00Z"}],
            "models": {"gpt-4o": {"rpm": {"limit": 10, "used": 1}}}}});
    let told = tell::sheet_text(&key);
    let lines: Vec<String> =
        told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        lines,
        [
            "name chat\u{fffd}[2J",
            "id key_1",
            "status active",
            "limits.budget 100 monthly, finish",
            "limits.rpm 600",
            "models gpt-*, o4",
            "used budget 100 monthly: 3.2 spent, 0.1 reserved, 96.7 left, anew at 2026-02-01T00:00:00Z",
            "used gpt-4o rpm 1 of 10",
            "used rpm 12 of 600",
        ]
    );
}

#[test]
fn a_prepaid_account_shows_what_is_left() {
    let account = json!({"id": "acc_1", "name": "acme", "billing": "prepaid", "balance": "100",
        "currency": "EUR",
        "limits": {"budget": [{"amount": "9", "per": "daily", "soft": true, "overrun": "finish"}]},
        "usage": {"balance": {"amount": "100", "per": "total", "spent": "3.2", "reserved": "0.1",
            "remaining": "96.7", "resets_at": null, "soft": false},
            "budget": [{"amount": "9", "per": "daily", "spent": "1", "reserved": "0",
                "remaining": "8", "resets_at": null, "soft": true}]}});
    let told = tell::sheet_text(&account);
    for line in [
        "balance        100 EUR",
        "limits.budget  9 EUR daily, soft",
        "used balance   100 EUR paid in: 3.2 EUR spent, 0.1 EUR reserved, 96.7 EUR left",
        "used budget    9 EUR daily, soft: 1 EUR spent, 0 EUR reserved, 8 EUR left",
    ] {
        assert!(told.lines().any(|got| got == line), "{line}\n{told}");
    }
    let (told, _) = tell::list_text::<AccountFields>(&json!({"data": [account]}));
    assert!(told.contains("PAID IN") && !told.contains("BALANCE"), "{told}");
}

#[test]
fn prices_tell_their_group_and_from_when_they_hold() {
    let price = json!({"id": "prc_01JDXK3V5M8Q2W7RZ4T6Y9BCDE", "provider": "up", "model": "m",
        "currency": "USD", "input": "1", "output": "2"});
    let mut later = price.clone();
    later["group"] = json!("resellers");
    later["valid_from"] = json!("2026-02-01T00:00:00Z");
    let (told, _) = tell::list_text::<PriceFields>(&json!({"data": [later, price]}));
    let lines: Vec<&str> = told.lines().collect();
    assert!(lines[0].contains("GROUP") && lines[0].contains("VALID FROM "), "{told}");
    assert!(lines[1].contains("rese") && lines[1].contains("2026-02-01"), "{told}");
}

#[test]
fn every_command_has_examples_that_parse() {
    let mut seen = 0;
    for kind in ["keys", "accounts", "projects", "users", "prices", "rates", "principals"] {
        for verb in [
            "create", "list", "show", "update", "rotate", "block", "unblock", "delete", "restore",
            "purge",
        ] {
            let words = ["foretoken", kind, verb, "--help"];
            let Err(help) = Line::try_parse_from(words) else { panic!("{words:?} is no help") };
            if help.kind() != clap::error::ErrorKind::DisplayHelp {
                continue;
            }
            let help = help.to_string();
            let examples: Vec<&str> =
                help.lines().filter_map(|line| line.strip_prefix("  foretoken ")).collect();
            assert!(!examples.is_empty(), "{kind} {verb}: {help}");
            for example in examples {
                // A longer one would be wrapped, and could not be copied.
                assert!(example.len() <= 68, "{example}");
                let example = example.replace(" --secret-from old.key", "");
                asked(&example).unwrap_or_else(|why| panic!("{example}: {why}"));
                seen += 1;
            }
        }
    }
    assert!(seen > 60, "{seen}");
}
