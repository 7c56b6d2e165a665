//! What limits have counted is there again after the end of the process, however it came.

use std::path::Path;

use foretoken::sim::{Change, Lengths, Mode};

use crate::ledger::{Line, Price, ask};
use crate::support::process::Process;
use crate::support::{KEY, Setup, SimServer, WAIT, eventually};

/// One dollar for a million tokens of any kind.
const PRICE: Price =
    Price { input: 1_000_000, cached: 1_000_000, output: 1_000_000, reasoning: 1_000_000 };
const REQUESTS_MAX: usize = 200;

fn serve(sim: &SimServer, dir: &Path, limits: &str) -> Process {
    let config = dir.join("edge.toml");
    let models = "[[model]]\nname = \"m\"\nmax_output = 16\n\
                  targets = [{ provider = \"up\", model = \"served\" }]\n";
    let key = format!("[[key]]\nname = \"caller\"\nsecret = \"{KEY}\"\nlimits = {{ {limits} }}\n");
    let setup = Setup::to(sim.addr).store(&dir.join("edge.db")).models(models).keys(&key);
    setup.more(&PRICE.table("up", "served")).write(&config);
    Process::serve(&config)
}

/// Asks until `most` were served or a limit refuses; gives how many were served.
fn served(process: &Process, most: usize) -> usize {
    let mut line = Line::connect(process.addr, false);
    for count in 0..most {
        match line.complete(KEY, &ask("m", "someone", count % 2 == 0, 3)) {
            Ok(_) => {}
            Err(answer) => {
                let answer = answer.expect("an answer");
                assert_eq!(answer.status, 429, "{}", answer.text());
                return count;
            }
        }
    }
    most
}

fn end(mut process: Process, signal: i32) {
    process.signal(signal);
    process.wait();
}

#[test]
fn limits_hold_over_a_clean_restart_and_over_kill_9() {
    for limits in [
        "rpm = 9",
        "tpm = 500, overrun = \"strict\"",
        "tpd = 500, overrun = \"strict\"",
        "budget = [{ amount = \"0.0005\", per = \"monthly\", overrun = \"strict\" }]",
        "budget = [{ amount = \"0.0005\", per = \"total\", overrun = \"strict\" }]",
    ] {
        let sim = SimServer::with(|settings| settings.tokens = Lengths::constant(4));
        let whole = tempfile::tempdir().expect("a directory");
        let process = serve(&sim, whole.path(), limits);
        let room = served(&process, REQUESTS_MAX);
        assert!((4..REQUESTS_MAX).contains(&room), "{limits}: {room}");
        for signal in [libc::SIGTERM, libc::SIGKILL] {
            let dir = tempfile::tempdir().expect("a directory");
            let process = serve(&sim, dir.path(), limits);
            assert_eq!(served(&process, room - 2), room - 2, "{limits}");
            end(process, signal);
            let process = serve(&sim, dir.path(), limits);
            assert_eq!(served(&process, REQUESTS_MAX), 2, "{limits} after signal {signal}");
            // Used up, it stays so.
            end(process, signal);
            let process = serve(&sim, dir.path(), limits);
            assert_eq!(served(&process, 1), 0, "{limits} after signal {signal}, used up");
        }
    }
}

#[test]
fn what_was_under_way_at_kill_9_counts_until_it_is_resolved() {
    let sim = SimServer::with(|settings| settings.tokens = Lengths::constant(4));
    let dir = tempfile::tempdir().expect("a directory");
    let limits = "rpm = 9, budget = [{ amount = \"1\", per = \"monthly\" }]";
    let process = serve(&sim, dir.path(), limits);
    assert_eq!(served(&process, 5), 5);
    let silent = Change { mode: Some(Mode::StallHead), ..Change::default() };
    sim.set_behaviour(&silent).expect("a good change");
    let addr = process.addr;
    let waiting = std::thread::spawn(move || {
        Line::connect(addr, false).complete(KEY, &ask("m", "someone", false, 3)).is_err()
    });
    eventually("it went upstream", || sim.stats().in_flight == 1);
    end(process, libc::SIGKILL);
    assert!(waiting.join().expect("no panic"), "an answer within {WAIT:?} of a kill");
    sim.reset();
    let process = serve(&sim, dir.path(), limits);
    assert_eq!(served(&process, REQUESTS_MAX), 3, "nine, less five, less the one under way");
}
