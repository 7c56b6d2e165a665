//! `foretoken serve`.

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};

use super::{BAD_USAGE, ConfigArgs, FAILED, Failure};
use crate::app::{Options, Running, StartFault, Stop, start};
use crate::telemetry;

pub(crate) fn run(args: &ConfigArgs) -> Result<(), Failure> {
    let (path, loaded) = super::load(args)?;
    telemetry::log::init(loaded.config.log.level.name())
        .map_err(|message| Failure::new(FAILED, message))?;
    crate::app::raise_limit();
    let options = Options { loaded, path: Some(path.clone()), fault_hook: None };
    let running = start(options).map_err(|fault| failure(&fault, ""))?;
    announce(&running, &path);
    wait_for_signals(running).map_err(|error| Failure::new(FAILED, error.to_string()))
}

/// Why it could not start. The same file may do another time if the machine is at fault.
pub(crate) fn failure(fault: &StartFault, hint: &str) -> Failure {
    let code = if fault.is_of_the_configuration() { BAD_USAGE } else { FAILED };
    Failure::new(code, format!("{fault}{hint}"))
}

fn announce(running: &Running, path: &Path) {
    for address in &running.listen {
        eprintln!("foretoken {} serving on http://{address}/v1", env!("CARGO_PKG_VERSION"));
    }
    for address in &running.listen_tls {
        eprintln!("foretoken {} serving on https://{address}/v1", env!("CARGO_PKG_VERSION"));
    }
    if let Some(admin) = running.admin {
        eprintln!("admin API, /metrics and /health on http://{admin}");
    }
    if let Some(token) = &running.made_token {
        eprintln!("admin token for this run (set admin.token to choose your own): {token}");
    }
    eprintln!("configuration: {} (edits are noticed)", path.display());
}

/// Serves until told to stop, and to the end of what is under way then.
pub(crate) fn wait_for_signals(running: Running) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let mut hangup = signal(SignalKind::hangup())?;
        let mut term = signal(SignalKind::terminate())?;
        let mut int = signal(SignalKind::interrupt())?;
        let reload = running.reloader();
        loop {
            tokio::select! {
                _ = hangup.recv() => reload(),
                () = either(&mut term, &mut int) => break,
            }
        }
        eprintln!("draining; a second signal stops at once");
        running.stop(Stop::Gracefully);
        let stopper = running.stopper();
        let waiting = tokio::task::spawn_blocking(move || running.wait());
        tokio::select! {
            _ = waiting => {}
            () = either(&mut term, &mut int) => {
                stopper(Stop::Now);
            }
        }
        Ok(())
    });
    // Waits for the thread that closes the books.
    drop(runtime);
    if outcome.is_ok() {
        eprintln!("stopped");
    }
    outcome
}

async fn either(a: &mut Signal, b: &mut Signal) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
    }
}
