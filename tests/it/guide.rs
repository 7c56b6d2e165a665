//! The guides, as somebody follows them: their commands run in their order in one shell against the
//! demo, and what they print is what the guide shows, apart from ids, secrets and times.
//!
//! A block ```` ```sh ```` is run; a block ```` ```text ```` or ```` ```json ```` right after it is what
//! it prints, stderr included. ```` ```sh again ```` is run until it prints that: what is told there
//! comes some seconds late. Other blocks are only shown.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::process::foretoken;

/// The simulated providers take their time; far above what a whole guide needs.
const WAIT: Duration = Duration::from_secs(120);

/// The demo's port, and its line of variables, as the guide writes them.
const PORT: &str = "127.0.0.1:8080";
const VARIABLES: &str = "export FORETOKEN_ADMIN_URL=http://127.0.0.1:9090";

#[test]
fn keys_and_limits() {
    follow(include_str!("../../docs/guides/keys-and-limits.md"));
}

#[track_caller]
fn follow(guide: &str) {
    if Command::new("curl").arg("--version").output().is_err() {
        assert!(std::env::var("CI").as_deref() != Ok("true"), "curl is missing");
        eprintln!("skipped: the guide's commands need curl, which is not installed");
        return;
    }
    let dir = tempfile::tempdir().expect("a directory");
    let demo = Demo::start(dir.path());
    let mut shell = Shell::start(dir.path());
    let end = Instant::now() + WAIT;
    let blocks = blocks(guide);
    assert!(blocks.iter().filter(|block| block.wanted.is_some()).count() > 10, "{}", blocks.len());
    for block in blocks {
        let commands = demo.in_place(&block.commands);
        loop {
            let got = shell.run(&commands, end);
            let Some((format, wanted)) = &block.wanted else {
                assert_eq!(got, "", "nothing is shown, but printed after\n{commands}");
                break;
            };
            match difference(format, wanted, &got) {
                None => break,
                Some(_) if block.again && Instant::now() < end => {
                    std::thread::sleep(Duration::from_millis(50));
                }
                Some(how) => panic!("{how}\n--- after\n{commands}\n--- it printed\n{got}"),
            }
        }
    }
}

/// Commands, and what they print.
struct Block {
    commands: String,
    again: bool,
    /// The format and the text.
    wanted: Option<(String, String)>,
}

fn blocks(guide: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = guide.lines();
    // Whether nothing but blank lines stands between the last block of commands and here.
    let mut is_after = false;
    while let Some(line) = lines.next() {
        let Some(kind) = line.strip_prefix("```") else {
            is_after &= line.is_empty();
            continue;
        };
        let body: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        let body = body.join("\n");
        match kind {
            "sh" | "sh again" => {
                blocks.push(Block { commands: body, again: kind != "sh", wanted: None });
                is_after = true;
            }
            "text" | "json" if is_after => {
                let block = blocks.last_mut().expect("there was one");
                block.wanted = Some((kind.to_owned(), body));
                is_after = false;
            }
            "text" | "json" => {}
            other => panic!("a block of another kind: {other}"),
        }
    }
    blocks
}

/// How what was printed differs from what was to be printed; `None` if it does not.
fn difference(format: &str, wanted: &str, got: &str) -> Option<String> {
    if format == "json" {
        let read = |text: &str| serde_json::from_str::<Value>(text);
        let wanted = read(wanted).expect("the guide's JSON");
        let Ok(got) = read(got) else { return Some("it is no JSON".to_owned()) };
        let (wanted, got) = (masked(&wanted.to_string()), masked(&got.to_string()));
        return (wanted != got).then(|| format!("wanted: {wanted}\n   got: {got}"));
    }
    let (wanted, got) = (masked(wanted), masked(got));
    let mut lines = wanted.lines().zip(got.lines());
    match lines.find(|(wanted, got)| wanted != got) {
        Some((wanted, got)) => Some(format!("wanted: {wanted}\n   got: {got}")),
        None if wanted.lines().count() != got.lines().count() => {
            Some(format!("lines: {} wanted", wanted.lines().count()))
        }
        None => None,
    }
}

/// A text without what is another one each time, and with single spaces: columns are as wide as what
/// is in them.
fn masked(text: &str) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let mut masked: Vec<String> = words.iter().map(|word| masked_word(word)).collect();
        for at in 1..words.len() {
            // How long one has to wait: "again in 59 s", or "1 min" for who is quick.
            if words[at - 1] == "in" && words[at].parse::<u64>().is_ok() {
                masked[at] = "N".to_owned();
                if let Some(unit) = masked.get_mut(at + 1).filter(|unit| unit.starts_with("min")) {
                    *unit = unit.replacen("min", "s", 1);
                }
            }
        }
        out.push_str(&masked.join(" "));
        out.push('\n');
    }
    out
}

fn masked_word(word: &str) -> String {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    let mut out = String::new();
    let mut rest = word;
    while !rest.is_empty() {
        if let Some(end) = time_at(rest) {
            out.push_str("TIME");
            rest = &rest[end..];
            continue;
        }
        let end = rest.find(|c| !is_inner(c)).unwrap_or(rest.len());
        if end == 0 {
            let sign = rest.chars().next().expect("not empty");
            out.push(sign);
            rest = &rest[sign.len_utf8()..];
            continue;
        }
        let (part, after) = rest.split_at(end);
        out.push_str(match part {
            _ if part.starts_with("key_") && part.len() == 30 => "ID",
            _ if part.starts_with("sk-ft-") && part.len() == 49 => "SECRET",
            _ if part.starts_with("sk-ft-") && part.len() == 12 => "PREFIX",
            _ if part.len() == 64 && part.bytes().all(|b| b.is_ascii_hexdigit()) => "HASH",
            _ => part,
        });
        rest = after;
    }
    out
}

/// Where a time ends that stands at the beginning: `2026-11-24`, `21:20:24`, or both with a T and a Z.
fn time_at(text: &str) -> Option<usize> {
    let fits = |shape: &str| {
        let head = text.as_bytes().get(..shape.len())?;
        let is_so = |(got, want): (&u8, u8)| match want {
            b'0' => got.is_ascii_digit(),
            _ => *got == want,
        };
        head.iter().zip(shape.bytes()).all(is_so).then_some(shape.len())
    };
    ["0000-00-00T00:00:00.000Z", "0000-00-00T00:00:00Z", "0000-00-00", "00:00:00"]
        .into_iter()
        .find_map(fits)
}

/// A running demo; it ends with this.
struct Demo {
    child: Child,
    /// Where it serves: `127.0.0.1:41234`.
    address: String,
    /// The line that it prints for the shell.
    variables: String,
}

impl Demo {
    #[track_caller]
    fn start(dir: &Path) -> Demo {
        let mut command = foretoken();
        command.current_dir(dir).args(["demo", "--listen", "127.0.0.1:0"]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the binary can be run");
        let lines = lines_of(child.stdout.take().expect("it is piped"));
        let mut demo = Demo { child, address: String::new(), variables: String::new() };
        let end = Instant::now() + WAIT;
        while demo.address.is_empty() || demo.variables.is_empty() {
            let line = lines.recv_timeout(end.saturating_duration_since(Instant::now()));
            let line = line.expect("the demo prints an address, and variables for the shell");
            if let Some(rest) = line.strip_prefix("foretoken demo on http://") {
                demo.address = rest.split('/').next().unwrap_or_default().to_owned();
            }
            if line.trim_start().starts_with("export FORETOKEN_ADMIN_URL=") {
                demo.variables = line.trim().to_owned();
            }
        }
        demo
    }

    /// The guide's commands with the addresses and the token of this one.
    fn in_place(&self, commands: &str) -> String {
        let lines = commands.lines().map(|line| match line.starts_with(VARIABLES) {
            true => self.variables.clone(),
            false => line.replace(PORT, &self.address),
        });
        lines.collect::<Vec<_>>().join("\n")
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A shell that keeps its variables from block to block.
struct Shell {
    child: Child,
    stdin: ChildStdin,
    lines: Receiver<String>,
}

const MARK: &str = "--- that was it ---";

impl Shell {
    #[track_caller]
    fn start(dir: &Path) -> Shell {
        let own = Path::new(env!("CARGO_BIN_EXE_foretoken")).parent().expect("a directory");
        let path = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths(
            std::iter::once(own.to_owned()).chain(std::env::split_paths(&path)),
        );
        let mut command = Command::new("bash");
        command.args(["--noprofile", "--norc"]).current_dir(dir);
        command.env("PATH", path.expect("a path"));
        for name in ["FORETOKEN_CONFIG", "FORETOKEN_ADMIN_URL", "FORETOKEN_ADMIN_TOKEN"] {
            command.env_remove(name);
        }
        for name in ["http_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY", "CURL_HOME"] {
            command.env_remove(name);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("there is a bash");
        let mut stdin = child.stdin.take().expect("it is piped");
        writeln!(stdin, "exec 2>&1").expect("it reads");
        let lines = lines_of(child.stdout.take().expect("it is piped"));
        Shell { child, stdin, lines }
    }

    /// What the commands print, without blank lines at its end.
    #[track_caller]
    fn run(&mut self, commands: &str, end: Instant) -> String {
        // Commands must not read what comes after them.
        writeln!(self.stdin, "{{\n{commands}\n}} </dev/null\nprintf '\\n%s\\n' '{MARK}'")
            .expect("it reads");
        let mut got = String::new();
        loop {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) if line == MARK => return got.trim_end().to_owned(),
                Ok(line) => {
                    got.push_str(&line);
                    got.push('\n');
                }
                Err(_) => panic!("it did not end:\n{commands}\n--- it printed\n{got}"),
            }
        }
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(out: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
