//! A new configuration under way: what changed is in force, what did not stays warm, and a bad file
//! changes nothing, loudly.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::channel;

use crate::fleet::{ask, expect_text, fleet, good, model, model_with, provider, saying};
use crate::support::gateway::ADMIN_TOKEN;
use crate::support::process::{Process, foretoken, run};
use crate::support::upstream::{delta, finish};
use crate::support::{
    Answer, Gateway, Raw, Scripted, Setup, SimServer, WAIT, chat, client, eventually, post, request,
};

const CHAT: &str = "/v1/chat/completions";
/// A fault on line 1, and one whose cure names what was meant.
const BAD: &str = "[sever]\nlisten = [\"127.0.0.1:0\"]\n";

fn status(gateway: &Gateway) -> serde_json::Value {
    gateway.admin("GET", "/admin/v1/status").json()
}

/// Writes as editors do: a new file, renamed over the old one.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("new");
    std::fs::write(&new, text).expect("written");
    std::fs::rename(&new, path).expect("renamed");
}

#[test]
fn case_44_a_bad_file_changes_nothing_and_is_told_everywhere() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let well = saying("well");
    let setup = fleet(&[well.addr], "");
    let gateway = setup.start_file(&path);
    let generation = status(&gateway)["generation"].clone();
    assert_eq!(gateway.metric("foretoken_config_last_reload_success", &[]), 1.0);

    replace(&path, BAD);
    let problems = gateway.running().reload().expect_err("a bad file");
    assert_eq!(problems[0].line, Some(1), "{problems:?}");
    assert!(problems[0].message.contains("server"), "{problems:?}");
    expect_text(&ask(gateway.addr, false), "well");
    let now = status(&gateway);
    assert_eq!(now["generation"], generation);
    assert_eq!(now["reload"]["last_ok"], false, "{now}");
    assert!(now["reload"]["failures"].as_u64().is_some_and(|n| n > 0), "{now}");
    assert_eq!(now["reload"]["problems"][0]["line"], 1, "{now}");
    assert_eq!(gateway.metric("foretoken_config_last_reload_success", &[]), 0.0);

    // As a file looks while it is being written.
    let text = setup.text();
    for cut in [0, text.find("[[key]]").expect("keys come last")] {
        replace(&path, &text[..cut]);
        gateway.running().reload().expect_err("half a file");
        expect_text(&ask(gateway.addr, false), "well");
    }

    replace(&path, &setup.text());
    gateway.running().reload().expect("a good file");
    let now = status(&gateway);
    assert_eq!(now["reload"]["last_ok"], true, "{now}");
    assert_eq!(gateway.metric("foretoken_config_last_reload_success", &[]), 1.0);
    expect_text(&ask(gateway.addr, false), "well");

    std::fs::remove_file(&path).expect("removed");
    gateway.running().reload().expect_err("no file");
    expect_text(&ask(gateway.addr, false), "well");
}

/// 2:1 of the main file would be looked at.
#[test]
fn a_fault_of_a_file_of_prices_is_told_with_its_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let well = saying("well");
    let setup = fleet(&[well.addr], "");
    let gateway = setup.start_file(&path);
    let prices = dir.path().join("prices.toml");
    std::fs::write(&prices, "# Prices\n[[prise]]\n").expect("written");
    replace(&path, &format!("{}[prices]\ninclude = [\"prices.toml\"]\n", setup.text()));
    let problems = gateway.running().reload().expect_err("a bad file of prices");
    let file = prices.display().to_string();
    assert_eq!(problems[0].file.as_deref(), Some(file.as_str()), "{problems:?}");
    assert!(problems[0].to_string().starts_with(&format!("{file}:2:")), "{}", problems[0]);
    let now = status(&gateway);
    assert_eq!(now["reload"]["problems"][0]["file"], file, "{now}");
}

/// A rate may be in the file or in the store.
#[test]
fn a_rate_of_the_store_counts_for_an_account_in_another_currency() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let well = saying("well");
    let setup = fleet(&[well.addr], "").store(&dir.path().join("foretoken.db"));
    let gateway = setup.start_file(&path);
    let text = setup.text()
        + "[[price]]\nprovider = \"up\"\nmodel = \"m\"\ninput = \"1\"\n"
        + "[[account]]\nname = \"euro\"\ncurrency = \"EUR\"\n";
    replace(&path, &text);
    let problems = gateway.running().reload().expect_err("no rate anywhere");
    assert!(problems[0].message.contains("no [[rate]] between the two; add"), "{problems:?}");
    assert!(problems[0].line.is_some(), "{problems:?}");
    let options = || {
        let loaded = foretoken::config::load(&path, &|_| None).expect("no fault of the file alone");
        assert!(loaded.warnings.iter().any(|it| it.message.contains("foretoken rates create")));
        foretoken::app::Options { loaded, path: None, fault_hook: None }
    };

    let token = format!("Bearer {ADMIN_TOKEN}");
    let head = [("authorization", token.as_str()), ("content-type", "application/json")];
    let rate = br#"{"from": "USD", "to": "EUR", "rate": "0.9"}"#;
    let made = request(gateway.admin, "POST", "/admin/v1/rates", &head, rate);
    assert_eq!(made.status, 201, "{}", made.text());
    let report = gateway.running().reload().expect("the store has the rate");
    assert_eq!(report["warnings"], serde_json::json!([]), "{report}");
    drop(gateway);
    drop(foretoken::app::start(options()).expect("it starts by the same rate"));

    std::fs::remove_file(dir.path().join("foretoken.db")).expect("removed");
    let Err(fault) = foretoken::app::start(options()) else { panic!("it started without a rate") };
    assert!(
        fault.is_of_the_configuration() && fault.to_string().contains("no [[rate]]"),
        "{fault}"
    );
}

#[test]
fn case_45_a_stream_outlives_its_route() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let (go, wait) = channel::<()>();
    let wait = Mutex::new(wait);
    let first = Scripted::start(move |peer| {
        while peer.request().is_some() {
            peer.start_events();
            peer.chunk(delta("one"));
            let _ = wait.lock().expect("the gate").recv_timeout(WAIT);
            peer.chunk(delta("two") + &finish());
            peer.last_chunk();
        }
    });
    let well = saying("well");
    let both = fleet(&[first.addr, well.addr], "")
        .models(&(model("m", 1) + &model("other", 1).replace("\"up\"", "\"second\"")));
    let gateway = both.start_file(&path);
    let mut caller = Raw::connect(gateway.addr);
    caller.send(client::encode_post(CHAT, chat("m", true, "Hello")));
    let mut answer = caller.head();
    caller.read_until(&mut answer, "one");

    // Neither the model nor its provider is left.
    fleet(&[well.addr], "").models(&model("other", 1)).write(&path);
    gateway.running().reload().expect("a good file");
    post(gateway.addr, CHAT, chat("m", false, "Hello")).expect_error(404, "model_not_found");
    expect_text(&post(gateway.addr, CHAT, chat("other", false, "Hello")), "well");

    go.send(()).expect("the upstream waits");
    caller.rest_of(&mut answer);
    expect_text(&answer, "onetwo");
    // The caller's connection is as good as before.
    caller.send(client::encode_post(CHAT, chat("other", false, "Hello")));
    expect_text(&caller.answer(), "well");
}

#[test]
fn what_did_not_change_stays_warm() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let (well, other) = (saying("well"), saying("other"));
    let gateway = fleet(&[well.addr], "").start_file(&path);
    expect_text(&ask(gateway.addr, false), "well");

    let more = fleet(&[well.addr, other.addr], "")
        .models(&(model("m", 1) + &model("new", 1).replace("\"up\"", "\"second\"")));
    more.write(&path);
    let report = gateway.running().reload().expect("a good file");
    assert!(report["changes"].to_string().contains("new"), "{report}");
    expect_text(&ask(gateway.addr, false), "well");
    expect_text(&post(gateway.addr, CHAT, chat("new", false, "Hello")), "other");
    assert_eq!(well.connections(), 1, "the connection was kept");
    eventually("counters go on", || {
        gateway.metric("foretoken_requests_total", &["model=\"m\""]) == 2.0
    });

    // Settings of the connection itself are another matter.
    fleet(&[well.addr], "pool = { min_warm = 0, max_age = \"10m\" }").write(&path);
    gateway.running().reload().expect("a good file");
    expect_text(&ask(gateway.addr, false), "well");
    assert_eq!(well.connections(), 2);
}

#[test]
fn a_rate_limit_is_not_forgotten_by_a_reload() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let limited = Scripted::answering(|_| {
        crate::support::upstream::answer(429, &[("retry-after", "30")], "")
    });
    let setup = fleet(&[limited.addr], "");
    let gateway = setup.start_file(&path);
    ask(gateway.addr, false).expect_error(429, "upstream_rate_limited");
    setup.more(&provider("new", limited.addr, "")).write(&path);
    gateway.running().reload().expect("a good file");
    ask(gateway.addr, false).expect_error(429, "upstream_rate_limited");
    assert_eq!(limited.count(), 1);
}

#[test]
fn edits_are_noticed_whichever_way_they_are_made() {
    let dir = tempfile::tempdir().expect("a directory");
    let well = saying("well");
    let generations = |n: usize| -> String {
        let names: String = (0..n).map(|n| model(&format!("m{n}"), 1)).collect();
        fleet(&[well.addr], "").models(&names).text()
    };
    let serves = |gateway: &Gateway, model: &str| {
        post(gateway.addr, CHAT, chat(model, false, "Hello")).status == 200
    };

    let path = dir.path().join("foretoken.toml");
    let gateway = fleet(&[well.addr], "").start_file(&path);
    std::fs::write(&path, generations(1)).expect("written");
    eventually("written in place", || serves(&gateway, "m0"));
    replace(&path, &generations(2));
    eventually("renamed over", || serves(&gateway, "m1"));

    // As Kubernetes mounts a map: the file is a link into `..data`, which is a link that is swapped.
    let mount = dir.path().join("mount");
    for (version, text) in [("..1", generations(1)), ("..2", generations(2))] {
        std::fs::create_dir_all(mount.join(version)).expect("a directory");
        std::fs::write(mount.join(version).join("foretoken.toml"), text).expect("written");
    }
    let link = |to: &str, name: &str| {
        let new = mount.join("..new");
        std::os::unix::fs::symlink(to, &new).expect("a link");
        std::fs::rename(&new, mount.join(name)).expect("renamed");
    };
    link("..1", "..data");
    link("..data/foretoken.toml", "foretoken.toml");
    let path = mount.join("foretoken.toml");
    let loaded = foretoken::config::load(&path, &|_| None).expect("a good file");
    let options = foretoken::app::Options { loaded, path: Some(path), fault_hook: None };
    let running = foretoken::app::start(options).expect("started");
    let addr = running.listen[0];
    assert_eq!(post(addr, CHAT, chat("m1", false, "Hello")).status, 404);
    link("..2", "..data");
    eventually("the link is swapped", || {
        post(addr, CHAT, chat("m1", false, "Hello")).status == 200
    });
}

/// A call of the admin API of a process, with the token.
fn admin(process: &Process, method: &str, path: &str) -> Answer {
    let bearer = format!("Bearer {ADMIN_TOKEN}");
    request(process.admin, method, path, &[("authorization", &bearer)], "")
}

#[test]
fn the_program_reloads_on_sighup_and_complains_aloud() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let well = saying("well");
    fleet(&[well.addr], "").write(&path);
    let process = Process::serve(&path);
    let count = || admin(&process, "GET", "/admin/v1/status").json()["reload"]["count"].clone();
    assert_eq!(count(), 0);
    process.signal(libc::SIGHUP);
    eventually("SIGHUP reloads", || count() == 1);
    expect_text(&ask(process.addr, false), "well");

    replace(&path, BAD);
    eventually("the log says so", || {
        let said = process.said();
        said.contains("ERROR") && said.contains("was not reloaded") && said.contains("sever")
    });
    expect_text(&ask(process.addr, false), "well");
}

#[test]
fn the_commands_tell_by_their_exit_codes() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let bad = dir.path().join("bad.toml");
    std::fs::write(&bad, BAD).expect("written");
    let well = saying("well");
    let setup = fleet(&[well.addr], "");
    setup.write(&path);
    let cli = |config: &Path, arguments: &[&str]| {
        run(foretoken().args(arguments).arg("--config").arg(config))
    };

    let (code, out, err) = cli(&path, &["check"]);
    assert_eq!(code, 0, "{out}{err}");
    let (code, _, err) = cli(&bad, &["check"]);
    assert!(code == 2 && err.contains("bad.toml:1:"), "{code} {err}");
    let (code, out, _) = cli(&bad, &["check", "--json"]);
    let report: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert!(code == 2 && report["ok"] == false && report["faults"][0]["line"] == 1, "{report}");
    let (code, _, err) = cli(&dir.path().join("none.toml"), &["check"]);
    assert!(code == 2 && err.contains("none.toml"), "{code} {err}");
    assert_eq!(cli(&bad, &["serve"]).0, 2);
    assert_eq!(cli(&path, &["status", "--no-such-flag"]).0, 2);

    let process = Process::serve(&path);
    let url = format!("http://{}", process.admin);
    let remote = |arguments: &[&str], token: &str| {
        let command = &mut foretoken();
        run(command.args(arguments).args(["--admin", &url, "--token", token]))
    };
    let (code, out, err) = remote(&["status"], ADMIN_TOKEN);
    assert!(code == 0 && out.contains("ready"), "{code} {out}{err}");
    let (code, out, err) = remote(&["status", "--json"], ADMIN_TOKEN);
    let status: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert!(code == 0 && status["ready"] == true, "{code} {out}{err}");
    let (code, out, err) = remote(&["reload"], ADMIN_TOKEN);
    assert!(code == 0 && out.contains("generation"), "{code} {out}{err}");
    let (code, _, err) = remote(&["status"], "not-the-token");
    assert_eq!(code, 1, "{err}");
    replace(&path, BAD);
    let (code, out, err) = remote(&["reload"], ADMIN_TOKEN);
    assert!(code == 1 && err.contains("1:"), "{code} {out}{err}");
    let (code, out, _) = remote(&["status"], ADMIN_TOKEN);
    assert!(code == 0 && out.contains("THE LAST RELOAD FAILED"), "{code} {out}");
    drop(process);
    let (code, _, err) = remote(&["status"], ADMIN_TOKEN);
    assert_eq!(code, 3, "{err}");
    assert_eq!(remote(&["reload"], ADMIN_TOKEN).0, 3);
}

/// Resident memory of a process in KiB.
fn rss_kib(process: &Process) -> u64 {
    let path = format!("/proc/{}/status", process.pid());
    let text = std::fs::read_to_string(path).expect("a running process");
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Asks on one connection until told to stop; every answer must be a good one.
fn ask_all_the_time(process: &Process, stream: bool, stop: &AtomicBool, asked: &AtomicU64) {
    let mut caller = Raw::connect(process.addr);
    while !stop.load(Relaxed) {
        caller.send(client::encode_post(CHAT, chat("m", stream, "Hello")));
        let answer = caller.answer();
        assert!(answer.status == 200 && !answer.broken, "{}: {}", answer.status, answer.text());
        assert!(!answer.text().contains("\"error\""), "{}", answer.text());
        asked.fetch_add(1, Relaxed);
    }
}

/// `FORETOKEN_RELOADS` asks for a longer proof than the usual hundred.
#[test]
fn reloads_under_load_fail_no_request_and_keep_no_memory() {
    let reloads: u64 = std::env::var("FORETOKEN_RELOADS")
        .map_or(100, |text| text.parse().expect("FORETOKEN_RELOADS is a number"));
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let sim = SimServer::start();
    let text = |n: u64| {
        let lines = format!("rewrite_model = {}", n.is_multiple_of(2));
        let models = model_with("m", 1, &lines) + &model(&format!("other-{}", n % 7), 1);
        fleet(&[sim.addr], "").workers(2).models(&models).text()
    };
    std::fs::write(&path, text(0)).expect("written");
    let process = Process::serve(&path);
    let (stop, asked) = (AtomicBool::new(false), AtomicU64::new(0));
    let (early, late) = std::thread::scope(|scope| {
        let _stop = StopOnDrop(&stop);
        for caller in 0..4 {
            let (process, stop, asked) = (&process, &stop, &asked);
            scope.spawn(move || ask_all_the_time(process, caller % 2 == 0, stop, asked));
        }
        let mut early = 0;
        for n in 1..=reloads {
            let before = asked.load(Relaxed);
            eventually("requests are under way", || asked.load(Relaxed) > before + 2);
            replace(&path, &text(n));
            let answer = admin(&process, "POST", "/admin/v1/reload");
            assert_eq!(answer.status, 200, "{}", answer.text());
            if n == reloads.div_ceil(10) {
                early = rss_kib(&process);
            }
        }
        (early, rss_kib(&process))
    });
    let generation = admin(&process, "GET", "/admin/v1/status").json()["generation"].clone();
    assert!(generation.as_u64().is_some_and(|n| n > reloads), "{generation}");
    let asked = asked.load(Relaxed);
    println!("{reloads} reloads, {asked} requests, {early} KiB early, {late} KiB at the end");
    // Allocators and the journal warm up by some 3 MiB; what a generation leaves behind shows in the
    // long proof.
    assert!(late < early + 6 * 1024, "memory grew from {early} to {late} KiB");
}

/// Lets the callers end when an assertion fails between them.
struct StopOnDrop<'a>(&'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn what_needs_a_restart_is_said() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("foretoken.toml");
    let upstream = Scripted::answering(|request| good(request, "well"));
    let gateway = Setup::to(upstream.addr).start_file(&path);
    Setup::to(upstream.addr).workers(2).write(&path);
    let report = gateway.running().reload().expect("a good file");
    assert_eq!(report["needs_restart"], serde_json::json!(["server.workers"]), "{report}");
    assert_eq!(status(&gateway)["reload"]["needs_restart"][0], "server.workers");
}
