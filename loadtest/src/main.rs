//! The seed of the load test: it measures nothing yet, and says so instead of pretending.

use std::process::ExitCode;

const MESSAGE: &str = "\
loadtest: there is no load test in this version.
What can be measured now:
  cargo bench                            the hot paths, each by itself
  cargo bench --bench relay              the whole path over sockets, beside the direct connection
  cargo run --release -- sim --help      an upstream for a load generator of your own";

fn main() -> ExitCode {
    eprintln!("{MESSAGE}");
    ExitCode::from(2)
}
