//! The process log: what the program itself has to say, on stderr, apart from the access log.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

/// Starts the process log. `filter` is a level (`info`) or a list of directives
/// (`info,foretoken::upstream=debug`).
/// Errors name what is wrong with the filter, or that a log was started before.
pub fn init(filter: &str) -> Result<(), String> {
    let filter = parse_filter(filter)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_target(false)
        .with_writer(OneLine)
        .try_init()
        .map_err(|error| format!("the process log cannot be started: {error}"))
}

/// Reads a filter, for checking a configuration without starting anything.
pub fn parse_filter(filter: &str) -> Result<EnvFilter, String> {
    let builder = EnvFilter::builder();
    builder.parse(filter).map_err(|error| {
        format!("`{filter}` is no log filter ({error}): use error, warn, info, debug or trace")
    })
}

/// Stderr, with every event kept to one line: an upstream's message with a line feed in it must not look
/// like an entry of ours.
#[derive(Clone, Copy)]
struct OneLine;

impl MakeWriter<'_> for OneLine {
    type Writer = OneLine;

    fn make_writer(&self) -> OneLine {
        OneLine
    }
}

impl Write for OneLine {
    /// Takes a whole event, which is how the subscriber writes. A closed stderr is nobody's fault.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().lock().write_all(&one_line(event));
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The event with control characters made visible, but for the line feed at its end.
fn one_line(event: &[u8]) -> Vec<u8> {
    let body = event.strip_suffix(b"\n").unwrap_or(event);
    let mut out = Vec::with_capacity(event.len() + 1);
    for &byte in body {
        match byte {
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\t' => out.push(byte),
            0..=0x1f | 0x7f => out.extend_from_slice(format!("\\x{byte:02x}").as_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'\n');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_faults_explained() {
        for good in ["info", "warn", "off", "info,foretoken::upstream=debug"] {
            assert!(parse_filter(good).is_ok(), "{good}");
        }
        let fault = parse_filter("foretoken=loud").expect_err("no such level");
        assert!(fault.contains("foretoken=loud") && fault.contains("debug"), "{fault}");
    }

    #[test]
    fn case_57_an_event_cannot_forge_another() {
        let event = b"WARN upstream said: a\r\n2026 ERROR forged\x1b[31m\0 \xc3\xa4\n";
        let want = "WARN upstream said: a\\x0d\\n2026 ERROR forged\\x1b[31m\\x00 ä\n";
        assert_eq!(String::from_utf8(one_line(event)).expect("text"), want);
    }
}
