//! What only shows when a configuration is put to work: everything that a start builds is built, and
//! nothing is opened, written or left behind.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use crate::app::build::{Builder, certificates, origin_settings};
use crate::app::governance::Stored;
use crate::app::run::{journal_dir, journal_settings, whole, worker_count};
use crate::clock;
use crate::config::{self, Config};
use crate::listener::ServerTls;
use crate::telemetry::Registry;
use crate::upstream;

/// Why a configuration without faults could not be served here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Trouble {
    /// The way to the setting, as [`config::place`] takes it.
    pub setting: String,
    pub message: String,
    pub cure: String,
}

impl Trouble {
    fn new(setting: impl Into<String>, message: String, cure: &str) -> Trouble {
        Trouble { setting: setting.into(), message, cure: cure.to_owned() }
    }
}

/// Builds what a start would build, and looks at the places that it would write to.
pub fn verify(config: &Config) -> Vec<Trouble> {
    let mut troubles = Vec::new();
    own_certificates(config, &mut troubles);
    roots(config, &mut troubles);
    access_log(config, &mut troubles);
    journal(config, &mut troubles);
    if troubles.is_empty() {
        let mut builder = Builder::new(1, Registry::new(1, clock::unix_ms()));
        if let Err(fault) = builder.build(config, &Stored::default(), 1) {
            troubles.push(Trouble::new("", fault.to_string(), ""));
        }
    }
    troubles
}

fn own_certificates(config: &Config, troubles: &mut Vec<Trouble>) {
    let Some(tls) = &config.server.tls else { return };
    for (at, pair) in certificates(tls).into_iter().enumerate() {
        let Err(fault) = ServerTls::new(std::slice::from_ref(&pair)) else { continue };
        let is_key = fault.file == pair.key_name && pair.key_name != pair.cert_name;
        let (key, cure) = if is_key {
            ("key", "name the private key that the certificate was made with, in PEM")
        } else {
            ("cert", "name the chain in PEM, the server's own certificate first")
        };
        let setting = format!("server.tls.certificates.{at}.{key}");
        let message = format!("\"{key}\" in certificates of [server.tls]: the file {fault}");
        troubles.push(Trouble::new(setting, message, cure));
    }
}

fn roots(config: &Config, troubles: &mut Vec<Trouble>) {
    for (at, provider) in config.providers.iter().enumerate() {
        let Some(ca) = provider.tls.ca.as_ref().filter(|_| provider.base_url.https) else {
            continue;
        };
        let settings = origin_settings(provider);
        if let Err(fault) = upstream::client_config(settings.ca.as_deref(), settings.protocol) {
            let message = format!(
                "\"ca\" in tls of [[provider]] \"{}\": the file {} cannot be used: {fault}",
                provider.name,
                ca.path.display()
            );
            let cure = "name a file with the root certificates in PEM";
            troubles.push(Trouble::new(format!("provider.{at}.tls.ca"), message, cure));
        }
    }
}

fn access_log(config: &Config, troubles: &mut Vec<Trouble>) {
    let config::AccessLog::File(path) = &config.log.access else { return };
    let path = whole(path);
    let directory = path.parent().unwrap_or(Path::new("/"));
    let problem = if path.is_dir() {
        "is a directory"
    } else if !directory.is_dir() {
        "is in a directory that does not exist"
    } else if !may_write(if path.exists() { &path } else { directory }) {
        "cannot be written by this user"
    } else {
        return;
    };
    let message = format!("\"access\" in [log]: {} {problem}", path.display());
    troubles.push(Trouble::new("log.access", message, cure_of(problem)));
}

/// The journal's directory is made at the start, with what is missing above it.
fn journal(config: &Config, troubles: &mut Vec<Trouble>) {
    let workers = worker_count(config);
    let settings = journal_settings(config, workers);
    let needed = settings.bound_bytes_min() as u64;
    if config.store.journal_bytes < needed {
        let message = format!(
            "\"journal\" in [store] is too small for {workers} workers: they need {}",
            config::print_size(needed)
        );
        troubles.push(Trouble::new("store.journal", message, "raise it, or lower server.workers"));
    }
    let Some(dir) = journal_dir(config) else { return };
    let Some(there) = dir.ancestors().find(|path| path.exists()) else { return };
    let problem = if !there.is_dir() {
        "is no directory"
    } else if !may_write(there) {
        "cannot be written by this user"
    } else {
        return;
    };
    let message = format!("\"path\" in [store]: {} {problem}", there.display());
    troubles.push(Trouble::new("store.path", message, cure_of(problem)));
}

fn cure_of(problem: &str) -> &'static str {
    match problem {
        "is in a directory that does not exist" => "create the directory, or name another file",
        "cannot be written by this user" => {
            "let the user that foretoken runs as write there (and check as that user), or name another"
        }
        _ => "name another",
    }
}

/// May this process write to a file, or make one in a directory? Asks the system, since modes are
/// not all that decides.
fn may_write(path: &Path) -> bool {
    let Ok(name) = CString::new(path.as_os_str().as_bytes()) else { return false };
    let mode = if path.is_dir() { libc::W_OK | libc::X_OK } else { libc::W_OK };
    // SAFETY: the pointer is to a text that ends in a zero and outlives the call.
    unsafe { libc::access(name.as_ptr(), mode) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn troubles(lines: &str) -> Vec<Trouble> {
        let text = format!(
            "{lines}\n[[provider]]\nname = \"p\"\nbase_url = \"http://127.0.0.1:1/v1\"\n\
             [[model]]\nname = \"m\"\ntargets = [{{ provider = \"p\" }}]\n\
             [[key]]\nname = \"k\"\nsecret = \"sk-0123456789\"\n"
        );
        let loaded = config::parse(&text, "f.toml", Path::new("/"), &|_| None);
        verify(&loaded.unwrap_or_else(|faults| panic!("{faults}")).config)
    }

    #[test]
    fn places_that_cannot_be_written_are_told_and_nothing_is_made() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(at("file"), "").expect("written");
        let store = |path: &str| troubles(&format!("[store]\npath = \"{path}\""));
        let log = |path: &str| {
            troubles(&format!("[store]\npath = \":memory:\"\n[log]\naccess = \"{path}\""))
        };
        assert_eq!(store(&at("new/deep/foretoken.db")), []);
        assert_eq!(log(&at("access.log")), []);
        let below = store(&at("file/foretoken.db"));
        assert_eq!(below[0].setting, "store.path");
        assert!(below[0].message.ends_with("/file is no directory"), "{below:?}");
        for path in [at("none/access.log"), dir.path().display().to_string()] {
            let told = log(&path);
            assert!(told.len() == 1 && told[0].setting == "log.access", "{told:?}");
            assert!(told[0].message.contains(&path) && !told[0].cure.is_empty(), "{told:?}");
        }
        assert_eq!(std::fs::read_dir(dir.path()).expect("it").count(), 1, "nothing was made");
    }

    #[test]
    fn a_journal_too_small_for_its_workers_is_told() {
        let told =
            troubles("[server]\nworkers = 64\n[store]\npath = \":memory:\"\njournal = \"1MiB\"");
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0].setting, "store.journal");
    }
}
