//! `foretoken demo`: a gateway, two simulated providers and a ready key.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::serve::{Signals, failure};
use super::{BAD_USAGE, FAILED, Failure, address, print};
use crate::app::{Options, StartFault, start};
use crate::sim::{self, Distribution, Lengths, Settings, Sim};
use crate::{config, telemetry};

/// Good on the loopback interface and for as long as the demo runs.
const KEY: &str = "sk-ft-demo";

#[derive(Args)]
#[command(after_help = "Examples:
  foretoken demo
  foretoken demo --listen 8081 --log")]
pub(crate) struct DemoArgs {
    /// Where the gateway listens: a port alone is on 127.0.0.1
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8080", value_parser = address::parse)]
    listen: SocketAddr,
    /// Where the admin API listens; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", value_parser = address::parse)]
    admin: SocketAddr,
    /// Print the access log to stderr
    #[arg(long)]
    log: bool,
}

pub(crate) fn run(args: &DemoArgs) -> Result<(), Failure> {
    let failed = |error: std::io::Error| Failure::new(FAILED, error.to_string());
    telemetry::log::init("warn").map_err(|message| Failure::new(FAILED, message))?;
    let sims = Sims::start().map_err(failed)?;
    let text = configuration(args, &sims);
    let loaded = config::parse(&text, "demo", Path::new("."), &|_| None)
        .map_err(|faults| Failure::new(BAD_USAGE, faults.to_string()))?;
    let options = Options { loaded, path: None, fault_hook: None };
    let running = start(options).map_err(|fault| failure(&fault, option(&fault, args)))?;
    let signals = Signals::take().map_err(failed)?;
    let address = running.listen.first().copied().unwrap_or(args.listen);
    print(&welcome(address, running.admin, running.made_token.as_deref()));
    signals.serve(running);
    sims.stop();
    Ok(())
}

/// The option that takes another address.
fn option(fault: &StartFault, args: &DemoArgs) -> &'static str {
    match fault {
        StartFault::Listen { address, .. } if *address == args.listen => {
            " (--listen takes another address)"
        }
        StartFault::Listen { .. } => " (--admin takes another address)",
        _ => "",
    }
}

fn welcome(address: SocketAddr, admin: Option<SocketAddr>, token: Option<&str>) -> String {
    let admin = admin.map_or(String::new(), |admin| {
        let token = token.unwrap_or("");
        format!(
            "Govern it and see what it does, from another shell (docs/guides/keys-and-limits.md is a walk):

  export FORETOKEN_ADMIN_URL=http://{admin} FORETOKEN_ADMIN_TOKEN={token}
  foretoken keys create chat --rpm 20 --budget 5/monthly
  foretoken usage --by key,day
  foretoken routes
  curl http://{admin}/metrics

"
        )
    });
    format!(
        "foretoken demo on http://{address}/v1, in front of two simulated providers

A ready key: {KEY}

Stream an answer:

  curl -N http://{address}/v1/chat/completions -H 'authorization: Bearer {KEY}' -H 'content-type: application/json' -d '{{\"model\":\"demo\",\"stream\":true,\"messages\":[{{\"role\":\"user\",\"content\":\"Hello!\"}}]}}'

Point an OpenAI SDK at it:

  Python   client = openai.OpenAI(base_url=\"http://{address}/v1\", api_key=\"{KEY}\")
  Node     const client = new OpenAI({{ baseURL: \"http://{address}/v1\", apiKey: \"{KEY}\" }})
  any      export OPENAI_BASE_URL=http://{address}/v1 OPENAI_API_KEY={KEY}

{admin}Every model name is answered here, by the route \"*\": a wrong one is refused only by a configuration
without that route.

Ctrl-C ends it.
"
    )
}

fn configuration(args: &DemoArgs, sims: &Sims) -> String {
    let access = if args.log { "stderr" } else { "off" };
    format!(
        "[server]
listen = [\"{}\"]
[server.limits]
connections = 256
[admin]
listen = \"{}\"
[store]
path = \":memory:\"
[log]
access = \"{access}\"
[[provider]]
name = \"sim-near\"
base_url = \"http://{}/v1\"
[[provider]]
name = \"sim-far\"
base_url = \"http://{}/v1\"
[[model]]
name = \"demo\"
policy = \"weighted\"
targets = [
  {{ provider = \"sim-near\", model = \"demo-small\", weight = 2 }},
  {{ provider = \"sim-far\", model = \"demo-small\", weight = 1 }},
]
[[model]]
name = \"*\"
targets = [{{ provider = \"sim-near\", model = \"*\" }}]
[[key]]
name = \"demo\"
secret = \"{KEY}\"
[[price]]
provider = \"sim-near\"
model = \"*\"
input = \"2.50\"
output = \"10\"
[[price]]
provider = \"sim-far\"
model = \"*\"
input = \"2.50\"
output = \"10\"
",
        args.listen, args.admin, sims.addresses[0], sims.addresses[1]
    )
}

/// The providers, on a thread and a runtime of their own.
struct Sims {
    addresses: [SocketAddr; 2],
    stop: tokio::sync::oneshot::Sender<()>,
    thread: std::thread::JoinHandle<()>,
}

impl Sims {
    fn start() -> std::io::Result<Sims> {
        let (started, addresses) = std::sync::mpsc::channel();
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let thread = std::thread::Builder::new().name("sim".into()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let outcome = runtime.and_then(|runtime| {
                runtime.block_on(async {
                    let near = provider("sim-near", 180, 600).await?;
                    let far = provider("sim-far", 420, 1400).await?;
                    let _ = started.send(Ok([near.addr, far.addr]));
                    let _ = stopped.await;
                    near.shutdown().await;
                    far.shutdown().await;
                    Ok(())
                })
            });
            if let Err(error) = outcome {
                let _ = started.send(Err(error));
            }
        })?;
        let addresses = addresses.recv().map_err(std::io::Error::other)??;
        Ok(Sims { addresses, stop, thread })
    }

    fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.thread.join();
    }
}

async fn provider(name: &str, median_ms: u64, p99_ms: u64) -> std::io::Result<Sim> {
    let ms = Duration::from_millis;
    sim::start(Settings {
        name: name.into(),
        ttft: Distribution::lognormal(ms(median_ms), ms(p99_ms)),
        gap: Distribution::lognormal(ms(18), ms(60)),
        tokens: Lengths::lognormal(80, 300),
        ..Settings::default()
    })
    .await
}
