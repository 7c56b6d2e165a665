//! The built binary as a child process.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use super::WAIT;

/// The binary, ready to be given arguments; its output is not shown.
pub fn foretoken() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foretoken"));
    command.stdin(Stdio::null());
    command
}

/// A running `foretoken serve`; killed when dropped.
pub struct Process {
    child: Child,
    pub addr: SocketAddr,
    pub admin: SocketAddr,
    said: Arc<Mutex<String>>,
}

impl Process {
    /// Serves a configuration file and waits until it does.
    #[track_caller]
    pub fn serve(config: &Path) -> Process {
        let mut command = foretoken();
        command.arg("serve").arg("--config").arg(config);
        Process::spawn(command)
    }

    /// Runs `command`, which must end up serving, and waits until it does.
    #[track_caller]
    pub fn spawn(mut command: Command) -> Process {
        let mut child = command
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary can be run");
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let said = Arc::new(Mutex::new(String::new()));
        let (sender, lines) = channel();
        let log = said.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
                drop(log);
                let _ = sender.send(line);
            }
        });
        let addresses = addresses(&lines);
        let Some((addr, admin)) = addresses else {
            let _ = child.kill();
            let status = child.wait();
            panic!("it does not serve: {status:?}\n{}", lock(&said));
        };
        Process { child, addr, admin, said }
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("pids are small")
    }

    /// Sends a signal.
    #[track_caller]
    pub fn signal(&self, signal: i32) {
        // SAFETY: a signal to a child that has not been waited for yet, so the pid is its own.
        let sent = unsafe { libc::kill(self.pid(), signal) };
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    }

    /// What it wrote to its standard error output so far.
    pub fn said(&self) -> String {
        lock(&self.said)
    }

    /// Whether it is still running.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        wait(&mut self.child).unwrap_or_else(|| panic!("it did not end:\n{}", self.said()))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- the process said:\n{}---", self.said());
        }
    }
}

fn lock(said: &Mutex<String>) -> String {
    said.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn addresses(lines: &Receiver<String>) -> Option<(SocketAddr, SocketAddr)> {
    let end = Instant::now() + WAIT;
    let after = |line: &str, text: &str| -> Option<SocketAddr> {
        let rest = line.split_once(text)?.1;
        rest.split('/').next()?.trim().parse().ok()
    };
    let mut data = None;
    loop {
        match lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                data = data.or_else(|| after(&line, "serving on http://"));
                if let Some(admin) = after(&line, "/health on http://") {
                    return data.map(|data| (data, admin));
                }
            }
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// Waits for a child's end, bounded; `None` if it goes on.
pub fn wait(child: &mut Child) -> Option<ExitStatus> {
    let end = Instant::now() + WAIT;
    loop {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        if Instant::now() > end {
            return None;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

/// Runs a command to its end: exit code, standard output, standard error output.
#[track_caller]
pub fn run(command: &mut Command) -> (i32, String, String) {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let mut child = child.expect("the binary can be run");
    let mut readers = Vec::new();
    let pipes: [Box<dyn std::io::Read + Send>; 2] = [
        Box::new(child.stdout.take().expect("it is piped")),
        Box::new(child.stderr.take().expect("it is piped")),
    ];
    for mut pipe in pipes {
        readers.push(std::thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = pipe.read_to_end(&mut bytes);
            String::from_utf8_lossy(&bytes).into_owned()
        }));
    }
    let status = wait(&mut child);
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let texts: Vec<String> =
        readers.into_iter().map(|reader| reader.join().expect("no panic")).collect();
    let status = status.unwrap_or_else(|| panic!("it did not end:\n{}\n{}", texts[0], texts[1]));
    (status.code().unwrap_or(-1), texts[0].clone(), texts[1].clone())
}
