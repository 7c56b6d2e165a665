//! The rooms of `src/` know only what lies below them. This test reads every source file and fails
//! on an import that goes upwards, sideways, or down to a room that was not meant to be known.
//!
//! Modules under `#[cfg(test)]` obey too: a test that reaches upwards ties two rooms together as
//! firmly as any other code. Files in `tests/` and `benches/` are outside and use what they like.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// A room, its rank, and the rooms that it may import from besides [`BASICS`].
struct Room(&'static str, u8, &'static [&'static str]);

/// What every room above rank 0 may use: names, time and errors say nothing of HTTP or of sockets.
const BASICS: [&str; 5] = ["ident", "clock", "error", "money", "limits"];

/// Every room. What is missing in a list is missing on purpose: the room must not know it.
#[rustfmt::skip]
const ROOMS: &[Room] = &[
    Room("ident",     0, &[]),
    Room("clock",     0, &[]),
    Room("error",     0, &[]),
    Room("money",     0, &[]),
    Room("limits",    0, &[]),
    Room("wire",      0, &["error"]),
    Room("net",       0, &["clock"]),
    Room("exchange",  0, &["error", "wire"]),

    Room("framing",   1, &[]),
    Room("dialect",   1, &["framing"]),
    Room("health",    1, &[]),
    Room("store",     1, &[]),
    Room("auth",      1, &[]),
    Room("telemetry", 1, &[]),
    Room("listener",  1, &["wire", "net", "exchange"]),
    Room("upstream",  1, &["wire", "net"]),

    Room("route",     2, &["health"]),
    Room("meter",     2, &["store"]),
    Room("price",     2, &["store"]),

    Room("admit",     3, &[]),

    // Not `listener`, `store` or `config`: a request is served the same whichever socket it came
    // by, wherever its record ends up, and whatever file the settings were written in.
    Room("proxy",     4, &["wire", "net", "exchange", "dialect", "health", "auth", "telemetry",
                           "upstream", "route", "meter", "price", "admit"]),

    // Not `proxy` or `config`: what it changes takes effect through the keyring and the accounts.
    Room("directory", 4, &["dialect", "store", "auth", "meter", "price", "admit"]),

    Room("config",    5, &["price"]),
    Room("admin",     5, &["auth", "directory"]),
    // Not even `framing` or `dialect`: a provider simulated with the gateway's own parsers would
    // agree with their faults.
    Room("sim",       5, &[]),
    // Not even `config`: what it writes is text, as a person would write it.
    Room("import",    5, &[]),

    Room("app",       6, &["wire", "net", "exchange", "health", "store", "auth", "telemetry",
                           "listener", "upstream", "route", "meter", "price", "admit",
                           "directory", "proxy", "config", "admin"]),
    Room("cli",       6, &["auth", "telemetry", "directory", "config", "admin", "sim", "import", "app"]),
    Room("lib",       6, &[]),
    Room("main",      6, &["cli"]),
];

/// Imports within one rank, each with its reason.
const SIDEWAYS: &[(&str, &str, &str)] = &[
    ("net", "clock", "a timer asks whether it fired late, and only the clock reads the time"),
    ("wire", "error", "what is wrong with a message is said in the one type for faults"),
    ("exchange", "error", "reading a request body can fail, and the fault has an answer"),
    ("exchange", "wire", "an answer begins with a header list"),
    ("dialect", "framing", "a dialect's stream is a sequence of frames"),
    ("cli", "app", "the commands start and stop the process that `app` puts together"),
    ("main", "cli", "the program is its command line"),
];

fn room(name: &str) -> Option<&'static Room> {
    ROOMS.iter().find(|room| room.0 == name)
}

#[test]
fn rooms_import_downwards_only() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut faults = String::new();
    let files = sources(&root);
    assert!(files.len() > 100, "only {} source files were found", files.len());
    for file in files {
        let source = std::fs::read_to_string(&file).expect("a source file is readable text");
        let path = file.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
        for fault in check(&path, &source) {
            let _ = writeln!(faults, "{fault}");
        }
    }
    assert!(faults.is_empty(), "\n{faults}");
}

/// A row for a room that is gone would let its name be used again unseen; a room without a row
/// would not be checked.
#[test]
fn the_table_names_the_rooms_that_exist() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut exist: Vec<String> = std::fs::read_dir(src)
        .expect("src")
        .map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned())
        .map(|name| name.trim_end_matches(".rs").to_owned())
        .collect();
    let mut known: Vec<&str> = ROOMS.iter().map(|room| room.0).collect();
    exist.sort();
    known.sort();
    assert_eq!(known, exist);
}

#[test]
fn the_table_obeys_its_own_rule() {
    for Room(name, rank, imports) in ROOMS {
        for import in *imports {
            let Some(Room(_, below, _)) = room(import) else { panic!("{name}: no room {import}") };
            let excepted = SIDEWAYS.iter().any(|(from, to, _)| from == name && to == import);
            assert!(below < rank || (below == rank && excepted), "{name} may import {import}?");
        }
    }
    for (from, to, why) in SIDEWAYS {
        assert!(room(from).is_some_and(|room| room.2.contains(to)), "{from} -> {to} is not in use");
        assert!(why.split(' ').count() > 3, "{from} -> {to} needs a reason");
    }
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a readable directory") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The faults of one file, which is named by its path below `src`.
fn check(path: &str, source: &str) -> Vec<String> {
    let own = path.split('/').next().unwrap_or(path).trim_end_matches(".rs");
    let mut faults = Vec::new();
    let Some(Room(_, rank, imports)) = room(own) else {
        return vec![format!("src/{path}: `{own}` has no row in the table of rooms")];
    };
    // By line and name: `use crate::{a::{b, c}}` is one import.
    let mut seen = BTreeMap::new();
    for (line, name) in imported(source, depth(path)) {
        seen.entry((line, name)).or_insert(());
    }
    for (line, name) in seen.into_keys() {
        let is_basic = *rank > 0 && BASICS.contains(&name.as_str());
        if name == own || is_basic || imports.contains(&name.as_str()) {
            continue;
        }
        let rule = match room(&name) {
            None => "that is no room; name the room and what is meant in it".to_owned(),
            Some(Room(_, other, _)) if other > rank => {
                format!("rank {rank} must not know rank {other}, which is above it")
            }
            Some(Room(_, other, _)) if other == rank => {
                format!("both have rank {rank}, and SIDEWAYS names no reason for it")
            }
            Some(_) => format!("it lies below, but `{own}` is not meant to know it (see ROOMS)"),
        };
        faults.push(format!("src/{path}:{line}: `{own}` imports `{name}`: {rule}"));
    }
    faults
}

/// How many `super` lead from the top of a file to the root of the crate.
fn depth(path: &str) -> usize {
    let parts = path.trim_end_matches(".rs").split('/');
    parts.filter(|part| !["mod", "lib", "main"].contains(part)).count()
}

/// The rooms that are named after `crate::`, with the line: in `use`, in braces, and in paths.
fn imported(source: &str, depth: usize) -> Vec<(usize, String)> {
    let tokens = tokens(source);
    let text = |at: usize| tokens.get(at).map_or("", |token| token.1.as_str());
    let mut found = Vec::new();
    // Whether each open brace is that of an inline module, where `super` has one step more to go.
    let mut braces: Vec<bool> = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        match text(at) {
            "{" => braces.push(at >= 2 && text(at - 2) == "mod"),
            "}" => {
                braces.pop();
            }
            "crate" | "foretoken" if text(at + 1) == "::" => heads(&tokens, at + 2, &mut found),
            "super" if at == 0 || text(at - 1) != "::" || text(at.saturating_sub(2)) == "self" => {
                let mut steps = 0;
                while text(at + 2 * steps) == "super" && text(at + 2 * steps + 1) == "::" {
                    steps += 1;
                }
                let inline = braces.iter().filter(|is_module| **is_module).count();
                if steps > 0 && steps >= depth + inline {
                    heads(&tokens, at + 2 * steps, &mut found);
                }
            }
            _ => {}
        }
        at += 1;
    }
    found
}

/// Adds the first names of the path, or of the list of paths, that begins at `at`.
fn heads(tokens: &[(usize, String)], at: usize, found: &mut Vec<(usize, String)>) {
    let Some((line, first)) = tokens.get(at) else { return };
    if first != "{" {
        found.push((*line, first.clone()));
        return;
    }
    let mut open = 0;
    for pair in tokens[at..].windows(2) {
        match pair[0].1.as_str() {
            "{" => open += 1,
            "}" => open -= 1,
            _ => {}
        }
        let begins = ["{", ","].contains(&pair[0].1.as_str()) && open == 1;
        if begins && pair[1].1 != "}" {
            found.push(pair[1].clone());
        }
        if open == 0 {
            return;
        }
    }
}

/// Names, `::` and single characters with their lines; no comments, no texts.
fn tokens(source: &str) -> Vec<(usize, String)> {
    let chars: Vec<char> = source.chars().collect();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1);
    while at < chars.len() {
        let start = at;
        match chars[at] {
            '/' if chars.get(at + 1) == Some(&'/') => at = find(&chars, at, "\n"),
            '/' if chars.get(at + 1) == Some(&'*') => at = block_comment(&chars, at),
            '"' => at = text(&chars, at),
            '\'' => at = character(&chars, at),
            ':' if chars.get(at + 1) == Some(&':') => {
                tokens.push((line, "::".to_owned()));
                at += 2;
            }
            c if c.is_alphanumeric() || c == '_' => {
                while chars.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_') {
                    at += 1;
                }
                let name: String = chars[start..at].iter().collect();
                let hashes = chars[at..].iter().take_while(|c| **c == '#').count();
                let is_raw = ["r", "br", "cr"].contains(&name.as_str());
                if is_raw && chars.get(at + hashes) == Some(&'"') {
                    at = find(&chars, at + hashes + 1, &format!("\"{}", "#".repeat(hashes)));
                } else {
                    tokens.push((line, name));
                }
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push((line, c.to_string()));
                }
                at += 1;
            }
        }
        line += chars[start..at].iter().filter(|c| **c == '\n').count();
    }
    tokens
}

/// The place behind the next `end`.
fn find(chars: &[char], from: usize, end: &str) -> usize {
    let end: Vec<char> = end.chars().collect();
    let found = chars[from..].windows(end.len()).position(|window| window == end);
    found.map_or(chars.len(), |at| from + at + end.len())
}

fn block_comment(chars: &[char], mut at: usize) -> usize {
    let mut open = 0;
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (open, at) = (open + 1, at + 2),
            ('*', Some('/')) => (open, at) = (open - 1, at + 2),
            _ => at += 1,
        }
        if open == 0 {
            break;
        }
    }
    at
}

fn text(chars: &[char], mut at: usize) -> usize {
    at += 1;
    while at < chars.len() && chars[at] != '"' {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    (at + 1).min(chars.len())
}

/// A character literal as a whole; of a lifetime only the quote.
fn character(chars: &[char], at: usize) -> usize {
    match (chars.get(at + 1), chars.get(at + 2)) {
        (Some('\\'), _) => find(chars, at + 3, "'"),
        (Some(_), Some('\'')) => at + 3,
        _ => at + 1,
    }
}

#[test]
fn bad_imports_are_caught_and_named() {
    for (path, source, want) in [
        (
            "health/target.rs",
            "use crate::proxy::Worker;",
            "src/health/target.rs:1: `health` imports `proxy`: rank 1 must not know rank 4",
        ),
        (
            "route/table.rs",
            "\n\nuse crate::meter::Meter;",
            "src/route/table.rs:3: `route` imports `meter`: both have rank 2",
        ),
        (
            "proxy/serve.rs",
            "use crate::{\n    auth::Grant,\n    store::{Database, Journal},\n};",
            "src/proxy/serve.rs:3: `proxy` imports `store`: it lies below",
        ),
        ("store/codec.rs", "fn f() { let _ = crate::meter::x(); }", "`store` imports `meter`"),
        ("auth/grant.rs", "use crate::wire::Headers;", "`auth` imports `wire`: it lies below"),
        ("ident.rs", "use crate::error::Error;", "`ident` imports `error`: both have rank 0"),
        (
            "dialect/peek.rs",
            "#[cfg(test)]\nmod tests { use crate::config::Config; }",
            "src/dialect/peek.rs:2: `dialect` imports `config`",
        ),
        (
            "framing/sse.rs",
            "macro_rules! m { () => { $crate::dialect::x() } }",
            "`framing` imports `dialect`",
        ),
        ("framing/sse.rs", "use super::super::dialect::Peek;", "`framing` imports `dialect`"),
        ("framing/mod.rs", "use super::dialect::Peek;", "`framing` imports `dialect`"),
        (
            "framing/mod.rs",
            "mod a { use super::super::dialect::Peek; }",
            "`framing` imports `dialect`",
        ),
        ("listener/h1.rs", "use crate::*;", "`listener` imports `*`: that is no room"),
        ("sim/chat.rs", "use crate::{self as all};", "`sim` imports `self`: that is no room"),
        ("main.rs", "fn main() { foretoken::app::start() }", "`main` imports `app`"),
        ("attic/mod.rs", "", "`attic` has no row"),
    ] {
        let faults = check(path, source);
        assert_eq!(faults.len(), 1, "{path}: {source}: {faults:?}");
        assert!(faults[0].contains(want), "{}", faults[0]);
    }
}

#[test]
fn good_imports_and_mere_words_pass() {
    for (path, source) in [
        ("proxy/serve.rs", "use crate::{auth::{Grant, Held}, clock, error::Error};"),
        ("health/target.rs", "use crate::clock;\nuse crate::health::credential::left;"),
        ("dialect/mod.rs", "//! See [`crate::proxy`].\n/* crate::proxy /* nested */ crate::app */"),
        (
            "dialect/mod.rs",
            r##"const A: &str = "use crate::proxy \" crate::app"; const B: &str = r#"" crate::app"#;"##,
        ),
        (
            "dialect/mod.rs",
            "const C: [char; 3] = ['\"', '\\'', '\\u{22}']; fn f<'a>(_: &'a str) {}",
        ),
        ("telemetry/access.rs", "pub(in crate::telemetry) fn line() {}"),
        ("store/tests.rs", "mod a { use super::super::journal::Journal; }"),
        ("main.rs", "fn main() { foretoken::cli::main() }"),
    ] {
        assert_eq!(check(path, source), Vec::<String>::new(), "{source}");
    }
}
