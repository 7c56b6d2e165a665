//! The command line: one file per subcommand. Exit codes: 0 done, 1 failed, 2 bad usage or
//! configuration, 3 cannot reach the admin API.

mod address;
mod audit;
mod check;
mod config;
mod demo;
mod import;
mod limits;
mod local;
mod objects;
mod remote;
mod requests;
mod serve;
mod sim;
mod table;
mod usage;
mod when;

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, CommandFactory, Parser, Subcommand};

/// Exit codes.
pub(crate) const FAILED: u8 = 1;
pub(crate) const BAD_USAGE: u8 = 2;
pub(crate) const UNREACHABLE: u8 = 3;

/// Where a configuration is looked for when none is named.
const PLACES: [&str; 2] = ["foretoken.toml", "/etc/foretoken/foretoken.toml"];

#[derive(Parser)]
#[command(
    name = "foretoken",
    version,
    about = "A latency-optimised edge router for LLM traffic, OpenAI-compatible by base_url alone",
    after_help = "Examples:
  foretoken demo                              try it: gateway, simulated provider, ready key
  foretoken config init > foretoken.toml      a commented configuration to start from
  foretoken check                             read the configuration and say what is wrong
  foretoken serve                             serve it
  foretoken status                            how the running gateway is doing
  foretoken keys create chat-backend          a key for callers
  foretoken usage --by key                    what was used, and what it cost

Exit codes: 0 done, 1 failed, 2 bad usage or configuration, 3 cannot reach the admin API."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the configuration
    #[command(after_help = "Examples:
  foretoken serve
  foretoken serve --config edge.toml

SIGTERM or Ctrl-C drains: readiness goes false, streams finish within server.timeouts.drain; a
second signal stops at once. SIGHUP reloads the configuration and reopens the access log. Edits of
the file are noticed by themselves.")]
    Serve(ConfigArgs),
    /// Try it: a gateway with two simulated providers and a ready key on 127.0.0.1:8080
    Demo(demo::DemoArgs),
    /// Read the configuration and report every fault with its place and cure
    #[command(after_help = "Examples:
  foretoken check
  foretoken check --config edge.toml --json

Looks at certificates, roots, and the places of the journal and of the access log as well.
Nothing is opened or written. Check as the user that will serve.

Exit codes: 0 good (perhaps with warnings), 2 faults.")]
    Check(check::CheckArgs),
    /// Tell the running gateway to load its configuration again
    #[command(after_help = remote::help(&[
        "reload",
        "reload --admin http://10.0.0.5:9090",
    ]))]
    Reload(remote::RemoteArgs),
    /// Show how the running gateway is doing
    #[command(after_help = remote::help(&[
        "status",
        "status --config edge.toml --json",
    ]))]
    Status(remote::RemoteArgs),
    /// Show the routes of the running gateway: targets, load, times, health
    #[command(after_help = remote::help(&[
        "routes",
        "routes --json | jq '.data[].targets[].credentials'",
    ]))]
    Routes(remote::RemoteArgs),
    #[command(flatten)]
    Objects(Box<objects::ObjectsCommand>),
    /// Sum up requests, tokens, cost and charge
    #[command(after_help = remote::help(&[
        "usage",
        "usage --from 30d --by day,model",
        "usage --from 2026-01-01 --to 2026-02-01 --by key --project search --json",
    ]))]
    Usage(usage::UsageArgs),
    /// List usage records, newest first, or show one
    #[command(after_help = remote::help(&[
        "requests --key chat-backend --since 1h",
        "requests --status 4xx --limit 20",
        "requests show 01JDXK3V5M8Q2W7RZ4T6Y9BCDE",
    ]))]
    Requests(requests::RequestsArgs),
    /// The log of administrative acts: list, verify, export
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Run the simulated provider alone
    Sim(sim::SimArgs),
    /// Print the reference of all settings, or a commented file to start from
    #[command(subcommand)]
    Config(config::ConfigCommand),
    /// Make a configuration of that of another gateway: its keys go on working
    #[command(subcommand)]
    Import(import::ImportCommand),
    /// Print shell completions
    #[command(after_help = "Example:
  foretoken completions bash > /etc/bash_completion.d/foretoken")]
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
}

const CONFIG_HELP: &str = "The configuration file [env: FORETOKEN_CONFIG] [default: foretoken.toml \
here, else /etc/foretoken/foretoken.toml]";

/// An environment variable of ours. An empty one says nothing: unit files and shells pass on what was
/// never set that way.
fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name).filter(|value| !value.is_empty())
}

/// Which configuration.
#[derive(Args, Clone)]
pub(crate) struct ConfigArgs {
    #[arg(long, short, value_name = "PATH", help = CONFIG_HELP)]
    pub config: Option<PathBuf>,
}

impl ConfigArgs {
    /// The file that the option or the variable names.
    pub(crate) fn named(&self) -> Option<PathBuf> {
        self.config.clone().or_else(|| variable("FORETOKEN_CONFIG").map(PathBuf::from))
    }

    /// The file that is meant.
    pub(crate) fn path(&self) -> Result<PathBuf, String> {
        if let Some(path) = self.named() {
            return Ok(path);
        }
        PLACES.iter().map(PathBuf::from).find(|path| path.exists()).ok_or_else(|| {
            format!(
                "no configuration: neither {} nor {} exists; name one with --config PATH, or make one with `foretoken config init > foretoken.toml`",
                PLACES[0], PLACES[1]
            )
        })
    }
}

/// Runs the program.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Demo(args) => demo::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Reload(args) => remote::reload(&args),
        Command::Status(args) => remote::status(&args),
        Command::Routes(args) => remote::routes(&args),
        Command::Objects(command) => objects::run(&command),
        Command::Usage(args) => usage::run(&args),
        Command::Requests(args) => requests::run(&args),
        Command::Audit(command) => audit::run(&command),
        Command::Sim(args) => sim::run(args),
        Command::Config(command) => config::run(&command),
        Command::Import(command) => import::run(&command),
        Command::Completions { shell } => {
            let mut out = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "foretoken", &mut out);
            print(&String::from_utf8_lossy(&out));
            Ok(())
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure { code, message }) => {
            if !message.is_empty() {
                eprintln!("foretoken: {message}");
            }
            ExitCode::from(code)
        }
    }
}

/// Why a command did not succeed.
pub(crate) struct Failure {
    pub code: u8,
    /// Empty if everything has been said already.
    pub message: String,
}

impl Failure {
    pub(crate) fn new(code: u8, message: impl Into<String>) -> Self {
        Failure { code, message: message.into() }
    }
}

/// Prints to stdout; a closed pipe (`foretoken … | head`) is no failure.
pub(crate) fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// Loads the configuration, printing its warnings.
pub(crate) fn load(args: &ConfigArgs) -> Result<(PathBuf, crate::config::Loaded), Failure> {
    let path = args.path().map_err(|message| Failure::new(BAD_USAGE, message))?;
    let loaded = crate::config::load(&path, &|name| std::env::var(name).ok());
    match loaded {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                eprintln!("warning: {warning}");
            }
            Ok((path, loaded))
        }
        Err(faults) => Err(refused(&path, &faults)),
    }
}

/// Prints the faults of a configuration.
pub(crate) fn refused(path: &Path, faults: &crate::config::Faults) -> Failure {
    eprintln!("{faults}");
    let n = faults.faults.len();
    let s = if n == 1 { "" } else { "s" };
    Failure::new(BAD_USAGE, format!("{n} fault{s} in {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
