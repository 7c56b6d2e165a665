//! `foretoken sim`: the simulated provider alone.

use std::net::SocketAddr;

use clap::Args;

use super::{FAILED, Failure, address};
use crate::sim::{self, Distribution, Lengths, Settings};

const EXAMPLES: &str = "Examples:
  foretoken sim
  foretoken sim --listen 9002 --ttft 'lognormal(250ms, 900ms)' --gap 12ms
  foretoken sim --key sk-only-this-one --model gpt-4o-mini";

#[derive(Args)]
#[command(
    after_long_help = format!("{EXAMPLES}\n\n{}", sim::HELP),
    after_help = format!("{EXAMPLES}\n\n`foretoken sim --help` lists the models that misbehave and the switches at run time.")
)]
pub(crate) struct SimArgs {
    /// Where to listen: a port alone is on 127.0.0.1, port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:9001", value_parser = address::parse)]
    listen: SocketAddr,
    /// Decides texts, lengths and times
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Time to the first token: 20ms, or lognormal(MEDIAN, P99)
    #[arg(long, default_value = "lognormal(250ms, 900ms)")]
    ttft: Distribution,
    /// Time between tokens
    #[arg(long, default_value = "lognormal(12ms, 40ms)")]
    gap: Distribution,
    /// Tokens per answer: 64, or lognormal(MEDIAN, P99)
    #[arg(long, default_value = "lognormal(120, 600)")]
    tokens: Lengths,
    /// A key to accept; may be given several times [default: any key]
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<String>,
    /// A model that exists; may be given several times [default: every name]
    #[arg(long = "model", value_name = "NAME")]
    models: Vec<String>,
    /// The provider's name in its answers
    #[arg(long, default_value = "sim")]
    name: String,
}

pub(crate) fn run(args: SimArgs) -> Result<(), Failure> {
    let listen = args.listen;
    let settings = Settings {
        listen,
        name: args.name,
        seed: args.seed,
        ttft: args.ttft,
        gap: args.gap,
        tokens: args.tokens,
        keys: args.keys,
        models: args.models,
        ..Settings::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(FAILED, error.to_string()))?;
    runtime.block_on(async {
        let sim = sim::start(settings).await.map_err(|error| {
            Failure::new(
                FAILED,
                format!("cannot listen on {listen}: {error}; choose another with --listen"),
            )
        })?;
        eprintln!("simulated provider on http://{}/v1 (Ctrl-C ends it)", sim.addr);
        let _ = tokio::signal::ctrl_c().await;
        sim.shutdown().await;
        Ok(())
    })
}
