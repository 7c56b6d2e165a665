//! The commands as somebody uses them who has made a mistake: what they say, and their exit codes.

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use crate::fleet::{fleet, saying};
use crate::support::gateway::ADMIN_TOKEN;
use crate::support::process::{Process, foretoken, run};
use crate::support::tls::Authority;
use crate::support::{Setup, eventually};

/// The binary in a directory of its own, with no variable that could say otherwise.
fn at(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = foretoken();
    command.current_dir(dir).args(arguments);
    for name in ["FORETOKEN_CONFIG", "FORETOKEN_ADMIN_URL", "FORETOKEN_ADMIN_TOKEN"] {
        command.env_remove(name);
    }
    command
}

#[test]
fn a_broken_file_still_says_where_the_gateway_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let well = saying("well");
    fleet(&[well.addr], "").write(&path);
    let process = Process::serve(&path);

    let broken = format!(
        "[server\n[admin]\nlisten = \"{}\"\ntoken = \"{ADMIN_TOKEN}\"\n[[provider]\nname = \n",
        process.admin
    );
    std::fs::write(&path, broken).expect("written");
    let (code, out, err) = run(&mut at(dir.path(), &["status"]));
    assert!(code == 0 && out.contains("ready"), "{code} {out}{err}");
    assert!(err.contains("foretoken.toml is no TOML in places"), "{err}");
    let (code, out, err) = run(&mut at(dir.path(), &["routes"]));
    assert!(code == 0 && out.contains("up/served"), "{code} {out}{err}");
}

#[test]
fn a_token_that_was_not_found_is_told_with_the_place_that_was_looked_at() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let well = saying("well");
    fleet(&[well.addr], "").write(&path);
    let process = Process::serve(&path);
    let url = format!("http://{}", process.admin);
    std::fs::write(&path, "[store]\npath = \"books.db\"\n").expect("written");

    let status = |token: Option<&str>| {
        let mut command = at(dir.path(), &["status", "--admin", &url]);
        if let Some(token) = token {
            command.env("FORETOKEN_ADMIN_TOKEN", token);
        }
        run(&mut command)
    };
    let file = dir.path().join("books.db.admin-token");
    for token in [None, Some("")] {
        let (code, _, err) = status(token);
        assert_eq!(code, 1, "{err}");
        assert!(err.contains(&format!("{} does not exist", file.display())), "{err}");
        assert!(err.contains("working directory"), "{err}");
    }
    let (code, _, err) = status(Some("not-the-token"));
    assert!(code == 1 && err.contains("it came from FORETOKEN_ADMIN_TOKEN"), "{code} {err}");
    std::fs::write(&file, "not-the-token").expect("written");
    let (code, _, err) = status(None);
    assert!(code == 1 && err.contains("it came from the file"), "{code} {err}");
    std::fs::write(&file, ADMIN_TOKEN).expect("written");
    assert_eq!(status(None).0, 0);
}

#[test]
fn a_configuration_that_was_named_must_be_there() {
    let dir = tempfile::tempdir().expect("a directory");
    for command in ["status", "reload", "routes", "check", "serve"] {
        let (code, _, err) = run(&mut at(dir.path(), &[command, "--config", "none.toml"]));
        assert!(
            code == 2 && err.contains("none.toml: cannot be read: "),
            "{command}: {code} {err}"
        );
    }
    let (code, _, err) = run(at(dir.path(), &["status"]).env("FORETOKEN_CONFIG", "none.toml"));
    assert!(code == 2 && err.contains("none.toml: cannot be read: "), "{code} {err}");
}

#[test]
fn an_empty_variable_is_no_variable() {
    let dir = tempfile::tempdir().expect("a directory");
    let well = saying("well");
    fleet(&[well.addr], "").write(&dir.path().join("foretoken.toml"));
    let (code, out, err) = run(at(dir.path(), &["check"]).env("FORETOKEN_CONFIG", ""));
    assert!(code == 0 && out.starts_with("foretoken.toml: good"), "{code} {out}{err}");
    // Nobody listens on port 0, wherever the address came from.
    let mut status = at(dir.path(), &["status"]);
    let (code, _, err) = run(status.env("FORETOKEN_ADMIN_URL", "").env("FORETOKEN_CONFIG", ""));
    assert!(code == 3 && err.contains("http://127.0.0.1:0"), "{code} {err}");
}

#[test]
fn check_finds_what_serve_would_stumble_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let authority = Authority::new();
    let (cert, _) = authority.issue(&["a.test"]).write(dir.path(), "a");
    let (_, key) = authority.issue(&["b.test"]).write(dir.path(), "b");
    let roots = dir.path().join("roots.pem");
    std::fs::write(&roots, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        .expect("written");
    let log = dir.path().join("none").join("access.log");
    let tls = format!(
        "[server.tls]\nlisten = [\"127.0.0.1:0\"]\ncertificates = [{{ cert = \"{}\", key = \"{}\" }}]\n",
        cert.display(),
        key.display()
    );
    let setup = Setup::to_url("https://127.0.0.1:1/v1")
        .server(&tls)
        .provider(&format!("tls = {{ ca = \"{}\" }}", roots.display()))
        .access_log(&log);
    setup.write(&path);

    let (code, _, err) = run(&mut at(dir.path(), &["check"]));
    assert!(code == 2 && err.contains("3 faults in foretoken.toml"), "{code} {err}");
    let text = setup.text();
    let line = |part: &str| text.lines().position(|line| line.contains(part)).expect(part) + 1;
    for (part, file) in [("certificates", &key), ("tls = {", &roots), ("access =", &log)] {
        let place = format!("foretoken.toml:{}:", line(part));
        let told = err.lines().find(|told| told.starts_with(&place));
        let told = told.unwrap_or_else(|| panic!("{part}: {err}"));
        assert!(told.contains(&*file.display().to_string()) && told.contains("; "), "{told}");
    }
    let (code, out, _) = run(&mut at(dir.path(), &["check", "--json"]));
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert!(code == 2 && report["ok"] == false, "{report}");
    assert_eq!(report["faults"].as_array().map(Vec::len), Some(3), "{report}");
    assert_eq!(run(&mut at(dir.path(), &["serve"])).0, 2);
}

#[test]
fn a_start_that_fails_names_the_place_and_whose_fault_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound");
    let setup = Setup::to(address);

    setup.clone().listen(&format!("\"{address}\"")).provider("preset = \"vllm\"").write(&path);
    let (code, _, err) = run(&mut at(dir.path(), &["serve"]));
    assert!(code == 2 && err.contains("would ask itself"), "{code} {err}");

    let setup = Setup::to_url("http://127.0.0.1:1/v1");
    setup.clone().listen(&format!("\"{address}\"")).write(&path);
    let (code, _, err) = run(&mut at(dir.path(), &["serve"]));
    assert!(code == 1 && err.contains(&address.to_string()), "{code} {err}");

    setup.clone().access_log(Path::new("./none/access.log")).write(&path);
    let (code, _, err) = run(&mut at(dir.path(), &["serve"]));
    let whole = dir.path().join("none/access.log").display().to_string();
    assert!(code == 2 && err.contains(&whole) && err.contains("create its directory"), "{err}");

    std::fs::write(dir.path().join("file"), "").expect("written");
    setup.store(Path::new("file/foretoken.db")).write(&path);
    let (code, _, err) = run(&mut at(dir.path(), &["serve"]));
    let whole = dir.path().join("file/foretoken.db.journal").display().to_string();
    assert!(code == 2 && err.contains(&whole) && err.contains("store.path"), "{code} {err}");
}

#[test]
fn the_demo_takes_a_port_and_says_which_option_moves_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("bound").port().to_string();
    let (code, _, err) = run(&mut at(dir.path(), &["demo", "--listen", &port]));
    assert!(code == 1 && err.contains("(--listen takes"), "{code} {err}");
    let admin = format!("localhost:{port}");
    let arguments = ["demo", "--listen", ":0", "--admin", &admin];
    let (code, _, err) = run(&mut at(dir.path(), &arguments));
    assert!(code == 1 && err.contains("(--admin takes"), "{code} {err}");
    let (code, _, err) = run(&mut at(dir.path(), &["sim", "--listen", &port]));
    assert!(code == 1 && err.contains("--listen"), "{code} {err}");
    for command in ["demo", "sim"] {
        let (code, _, err) = run(&mut at(dir.path(), &[command, "--listen", "here"]));
        assert!(code == 2 && err.contains("for example 8081"), "{code} {err}");
    }
}

#[test]
fn the_last_line_tells_that_it_has_stopped() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let well = saying("well");
    fleet(&[well.addr], "").write(&path);
    let mut process = Process::serve(&path);
    process.signal(libc::SIGTERM);
    assert!(process.wait().success());
    eventually("it says so", || process.said().ends_with("stopped\n"));
}

/// Commands that ask a running gateway and change nothing.
const READS: [&str; 13] = [
    "keys list",
    "keys show caller",
    "accounts list",
    "projects list",
    "users list",
    "prices list",
    "rates list",
    "principals list",
    "usage --by key,day",
    "requests",
    "audit list",
    "audit verify",
    "status",
];

#[test]
fn commands_that_ask_say_what_came_or_why_nothing_did() {
    let dir = tempfile::tempdir().expect("a directory");
    let well = saying("well");
    let path = dir.path().join("foretoken.toml");
    Setup::to(well.addr).write(&path);
    let process = Process::serve(&path);
    let url = format!("http://{}", process.admin);
    std::fs::remove_file(&path).expect("removed");
    let ask = |line: &str, url: &str, token: &str| {
        let arguments: Vec<&str> = line.split(' ').collect();
        let mut command = at(dir.path(), &arguments);
        run(command.env("FORETOKEN_ADMIN_URL", url).env("FORETOKEN_ADMIN_TOKEN", token))
    };
    let changes =
        ["keys create k", "keys rotate k", "keys block k", "keys purge k --yes", "audit export"];
    for line in READS.iter().chain(&changes) {
        let (code, out, err) = ask(line, "http://127.0.0.1:9", ADMIN_TOKEN);
        assert_eq!((code, out.as_str()), (3, ""), "{line}: {err}");
        assert!(err.contains("http://127.0.0.1:9") && err.contains("--admin"), "{line}: {err}");
        let (code, out, err) = ask(line, &url, "not-the-token");
        assert_eq!((code, out.as_str()), (1, ""), "{line}: {err}");
        assert!(err.contains("it came from FORETOKEN_ADMIN_TOKEN"), "{line}: {err}");
    }
    for line in READS {
        let (code, out, err) = ask(line, &url, ADMIN_TOKEN);
        assert_eq!(code, 0, "{line}: {out}{err}");
        let long = out.lines().find(|line| line.chars().count() > 120);
        assert!(long.is_none(), "{line}: {long:?}");
        let (code, out, err) = ask(&format!("{line} --json"), &url, ADMIN_TOKEN);
        assert_eq!(code, 0, "{line}: {out}{err}");
        let json: serde_json::Value = serde_json::from_str(&out).expect(line);
        assert!(json.is_object(), "{line}: {out}");
    }
    for (line, says) in [
        ("keys create", "say a name"),
        ("keys create k --rpm -1", "in digits alone, for example 1000"),
        ("keys create k --rpm 1k", "in digits alone, for example 1000"),
        ("keys create k --budget 5", "100/monthly"),
        ("keys create k --expires soon", "30d"),
        ("keys update caller", "nothing to change"),
        ("keys show", "NAME|ID"),
        ("keys frobnicate", "unrecognized subcommand"),
        ("usage --from soon", "30d"),
        ("usage --from 1d --to 2d", "is later than --to"),
        ("requests --limit 0", "1..=1000"),
        ("audit verify --head 7", "COUNT:HASH"),
    ] {
        let (code, out, err) = ask(line, &url, ADMIN_TOKEN);
        assert!(code == 2 && out.is_empty() && err.contains(says), "{line}: {code} {out}{err}");
    }
    for (line, says) in [
        ("keys show none", "there is no key `none`"),
        ("keys block caller", "configuration file"),
        ("keys create caller", "choose another"),
        ("usage --key none", "key"),
        ("requests show none", "no record"),
        ("principals create ana", "--role is missing"),
    ] {
        let (code, out, err) = ask(line, &url, ADMIN_TOKEN);
        assert!(code == 1 && out.is_empty() && err.contains(says), "{line}: {code} {out}{err}");
    }
}

#[test]
fn the_words_of_the_api_are_those_of_the_command_line() {
    let dir = tempfile::tempdir().expect("a directory");
    let well = saying("well");
    let path = dir.path().join("foretoken.toml");
    fleet(&[well.addr], "").write(&path);
    let process = Process::serve(&path);
    let ask = |line: &str, url: &str| {
        let arguments: Vec<&str> = line.split(' ').collect();
        let mut command = at(dir.path(), &arguments);
        run(command.env("FORETOKEN_ADMIN_URL", url).env("FORETOKEN_ADMIN_TOKEN", ADMIN_TOKEN))
    };
    // As the guide writes the API's paths, so somebody writes the URL.
    let url = format!("http://{}/admin/v1/", process.admin);
    for line in ["users create ana", "keys create k --user ana"] {
        let (code, out, err) = ask(line, &url);
        assert_eq!(code, 0, "{line}: {out}{err}");
    }
    let (code, _, err) = ask("users delete ana", &url);
    assert!(code == 1 && err.contains("with --cascade all at once"), "{code} {err}");

    let data = format!("http://{}", process.addr);
    for line in ["status", "keys list --json", "keys create other", "reload"] {
        let (code, out, err) = ask(line, &data);
        assert!(code == 3 && out.is_empty(), "{line}: {code} {out}{err}");
        assert!(err.contains("the data port") && err.contains("admin.listen"), "{line}: {err}");
    }

    std::fs::write(&path, "[server]\nlisten = 3\n").expect("written");
    let (code, out, err) = ask("reload --json", &url);
    let told: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert!(code == 1 && err.is_empty(), "{code} {err}");
    assert!(told["error"]["problems"][0]["line"].is_number(), "{told}");
    let (code, out, err) = ask("reload", &url);
    assert!(code == 1 && out.is_empty() && err.contains("2:"), "{code} {out}{err}");
}

#[test]
fn every_help_has_an_example() {
    let dir = tempfile::tempdir().expect("a directory");
    for command in
        ["serve", "demo", "check", "reload", "status", "routes", "sim", "config reference"]
    {
        for flag in ["--help", "-h"] {
            let mut arguments: Vec<&str> = command.split(' ').collect();
            arguments.push(flag);
            let (code, out, err) = run(&mut at(dir.path(), &arguments));
            assert_eq!(code, 0, "{command}: {err}");
            let example = format!("\n  foretoken {command}");
            assert!(out.contains("Examples:") && out.contains(&example), "{command}: {out}");
        }
    }
    for command in ["check", "status", "reload", "routes"] {
        let (_, out, _) = run(&mut at(dir.path(), &[command, "--help"]));
        assert!(out.contains("Exit codes: 0 "), "{command}: {out}");
    }
}

/// Who reads a kind in the log must find it in the guide, with what the caller saw.
#[test]
fn the_guide_has_every_kind_of_fault() {
    let guide = include_str!("../../docs/OPERATIONS.md");
    let (_, table) = guide.split_once("### Kinds of fault").expect("the chapter");
    let (table, _) = table.split_once("\n## ").expect("its end");
    for row in foretoken::error::TABLE {
        let name = format!("`{}`", row.name);
        let line = table.lines().find(|line| {
            line.strip_prefix("| ")
                .is_some_and(|line| line.split(" |").next().unwrap_or("").contains(&name))
        });
        let line = line.unwrap_or_else(|| panic!("{name} is not in the table"));
        let own_words = ["bad_request", "context_length", "content_filter"];
        if !own_words.contains(&row.name) {
            assert!(line.contains(&row.status.to_string()), "{name}: {line}");
        }
    }
}
