//! `foretoken serve`.

use std::io;
use std::path::Path;

use tokio::runtime::{Builder, Runtime};
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
    let signals = Signals::take().map_err(|error| Failure::new(FAILED, error.to_string()))?;
    announce(&running, &path);
    signals.serve(running);
    Ok(())
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

/// The signals that end or reload the process, taken from here on: one that comes early waits.
pub(crate) struct Signals {
    runtime: Runtime,
    hangup: Signal,
    term: Signal,
    int: Signal,
}

impl Signals {
    /// To be called before anybody is told that the process runs.
    pub(crate) fn take() -> io::Result<Signals> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let inside = runtime.enter();
        let (hangup, term) = (signal(SignalKind::hangup())?, signal(SignalKind::terminate())?);
        let int = signal(SignalKind::interrupt())?;
        drop(inside);
        Ok(Signals { runtime, hangup, term, int })
    }

    /// Serves until told to stop, and to the end of what is under way then.
    pub(crate) fn serve(self, running: Running) {
        let Signals { runtime, mut hangup, mut term, mut int } = self;
        runtime.block_on(async {
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
        });
        // Waits for the thread that closes the books.
        drop(runtime);
        eprintln!("stopped");
    }
}

async fn either(a: &mut Signal, b: &mut Signal) {
    tokio::select! {
        _ = a.recv() => {}
        _ = b.recv() => {}
    }
}
