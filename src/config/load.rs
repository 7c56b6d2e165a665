//! The way of a file: read, parse, build, check; and every file it names is read once, on the way.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use toml::de::{DeTable, DeValue};

use super::build::{self, Included};
use super::check;
use super::fault::{Fault, Faults, Sink, Wrong, position, quote};
use super::keys::{PRICE_FILE, ROOT};
use super::read::Reader;
use super::settings::{Config, PemFile};
use super::values::{Document, Item, Node, Value};
use crate::money::Currency;
use crate::price::RateRow;

/// Far above any configuration that somebody writes, and little enough to hold.
const LARGEST_CONFIG_BYTES: u64 = 8 << 20;
/// For a secret, a chain of certificates, a bundle of roots.
const LARGEST_FILE_BYTES: u64 = 4 << 20;

/// A configuration that may be used.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub config: Config,
    /// The configuration file, if there is one, and every file it names.
    pub files: Vec<PathBuf>,
    /// What these files held: hand it to the watch, and no change in between is lost.
    pub fingerprint: Fingerprint,
    /// What may be a mistake.
    pub warnings: Vec<Fault>,
    /// Currencies without a rate in the file: a fault unless the store has one. They are among the
    /// warnings, too.
    pub unrated: Vec<Unrated>,
}

/// What is charged in one currency and costs another, with no rate in the file between the two.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unrated {
    pub charged: Currency,
    pub priced: Currency,
    /// For whoever knows that there is no such rate anywhere.
    pub fault: Fault,
    /// For whoever knows the file alone.
    pub warning: Fault,
}

impl Unrated {
    /// Does one of these rates serve?
    pub fn is_met_by(&self, rates: &[RateRow]) -> bool {
        rates.iter().any(|row| build::is_between(row, self.charged, self.priced))
    }
}

/// Files and digests of what they hold; none for a file that cannot be read.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Fingerprint(BTreeMap<PathBuf, Option<[u8; 32]>>);

impl Fingerprint {
    /// The files.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.keys().map(PathBuf::as_path)
    }

    /// The same files as they are now. Reads all of them: not for a busy thread.
    pub fn now(&self) -> Fingerprint {
        let digest = |path: &PathBuf| {
            let bytes = read_bounded(path, LARGEST_CONFIG_BYTES).ok();
            (path.clone(), bytes.map(|bytes| Sha256::digest(&bytes).into()))
        };
        Fingerprint(self.0.keys().map(digest).collect())
    }

    fn note(&mut self, path: &Path, bytes: Option<&[u8]>) {
        self.0.insert(path.to_owned(), bytes.map(|bytes| Sha256::digest(bytes).into()));
    }
}

/// Loads a configuration file. `env` looks up environment variables.
pub fn load(path: &Path, env: &dyn Fn(&str) -> Option<String>) -> Result<Loaded, Faults> {
    let name = path.display().to_string();
    let mut fingerprint = Fingerprint::default();
    let bytes = read_bounded(path, LARGEST_CONFIG_BYTES);
    fingerprint.note(path, bytes.as_ref().ok().map(Vec::as_slice));
    let text = bytes
        .map_err(|error| (format!("cannot be read: {error}"), cure_of(&error)))
        .and_then(|bytes| {
            String::from_utf8(bytes).map_err(|error| {
                let at = error.utf8_error().valid_up_to();
                (format!("is not UTF-8 from byte {at} on"), "save it as UTF-8")
            })
        });
    match text {
        Ok(text) => {
            let base_dir = path.parent().unwrap_or(Path::new(""));
            parse_with(&text, &name, base_dir, env, fingerprint)
        }
        Err((message, cure)) => {
            let cure = cure.to_owned();
            let fault = Fault { file: name, line: 0, column: 0, message, cure };
            Err(Faults { faults: vec![fault], fingerprint })
        }
    }
}

/// Reads a configuration from memory. `name` stands for the file in messages; paths in it are
/// relative to `base_dir`.
pub fn parse(
    text: &str,
    name: &str,
    base_dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, Faults> {
    parse_with(text, name, base_dir, env, Fingerprint::default())
}

fn parse_with(
    text: &str,
    name: &str,
    base_dir: &Path,
    env: &dyn Fn(&str) -> Option<String>,
    fingerprint: Fingerprint,
) -> Result<Loaded, Faults> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let files = Files { base_dir, fingerprint, pems: BTreeMap::new() };
    let partial = !errors.is_empty();
    if partial && let Some(span) = yaml(text) {
        let mut sink = Sink::new(name, text);
        let message = "this looks like YAML, and the configuration is TOML";
        sink.fault(&span, message, "`foretoken config init` prints one to start from");
        return Err(Faults { faults: sink.finish().0, fingerprint: files.fingerprint });
    }
    let mut reader = Reader { sink: Sink::new(name, text), files, env, partial };
    for error in &errors {
        let span = error.span().unwrap_or(0..0);
        reader.sink.syntax(&span, error.message());
    }
    let root = reader.table(&ROOT, &(0..0), table.get_ref());
    let Reader { mut sink, files: Files { fingerprint, .. }, .. } = reader;
    let documents = included(&root);
    let mut included: Vec<Included<'_>> =
        documents.iter().map(|(name, text)| include(name, text)).collect();
    // What two tables say of each other is only known if all of the text could be read.
    let config = (!partial).then(|| {
        check::names(&root, &mut sink);
        for file in &mut included {
            check::price_groups(&root, &file.nodes, &mut file.sink);
        }
        build::config(&root, &mut included, &mut sink)
    });
    let unrated = config.as_ref().map(|config| build::currencies(config, &root, &mut sink));
    let unrated = unrated.unwrap_or_default();
    let is_clean = sink.is_clean() && included.iter().all(|file| file.sink.is_clean());
    let (mut faults, mut warnings) = sink.finish();
    for file in included {
        let (more_faults, more_warnings) = file.sink.finish();
        faults.extend(more_faults);
        warnings.extend(more_warnings);
    }
    match config.filter(|_| is_clean) {
        Some(config) => {
            let files = fingerprint.files().map(Path::to_owned).collect();
            Ok(Loaded { config, files, fingerprint, warnings, unrated })
        }
        None => Err(Faults { faults, fingerprint }),
    }
}

/// Names and texts of the further files of prices.
fn included(root: &Node) -> Vec<(String, Arc<str>)> {
    let document = |item: &Item| match &item.value {
        Value::Document(file) => Some((file.path.display().to_string(), Arc::clone(&file.text))),
        _ => None,
    };
    build::documents(root.node("prices")).filter_map(document).collect()
}

/// Reads a file of prices. Nothing in it names further files or variables.
fn include<'t>(name: &'t str, text: &'t str) -> Included<'t> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let files = Files {
        base_dir: Path::new(""),
        fingerprint: Fingerprint::default(),
        pems: BTreeMap::new(),
    };
    let partial = !errors.is_empty();
    let mut reader = Reader { sink: Sink::new(name, text), files, env: &|_| None, partial };
    for error in &errors {
        reader.sink.syntax(&error.span().unwrap_or(0..0), error.message());
    }
    let root = reader.table(&PRICE_FILE, &(0..0), table.get_ref());
    Included { sink: reader.sink, nodes: root.nodes("price").to_vec() }
}

/// Where YAML begins, in a text that is no TOML: its first line is `name:` or `name: value`, and no
/// line is one of TOML's.
fn yaml(text: &str) -> Option<Range<usize>> {
    let is_name = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-".contains(&b))
    };
    let mut first = None;
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        let (start, line) = (at, line.trim());
        at += text[at..].find('\n').map_or(text.len() - at, |end| end + 1);
        if line.is_empty() || line.starts_with('#') || line == "---" {
            continue;
        }
        let name = line.strip_prefix("- ").unwrap_or(line).split_once(':');
        let is_pair = name.is_some_and(|(name, value)| {
            is_name(name) && (value.is_empty() || value.starts_with(' '))
        });
        let is_toml = line.starts_with('[')
            || line.split_once('=').is_some_and(|(name, _)| is_name(name.trim_end()));
        if is_toml || (first.is_none() && !is_pair) {
            return None;
        }
        first = first.or(Some(start..start + line.len()));
    }
    first
}

/// Line and column, from 1, of a setting, for faults that only show when it is put to work.
/// `setting` is its way from the top: names of keys, and numbers from 0 for tables of a list, with
/// points between, as in `provider.0.tls.ca`. Where the file has only a part of that way, the place
/// of that part.
pub fn place(text: &str, setting: &str) -> Option<(usize, usize)> {
    let (root, _) = DeTable::parse_recoverable(text);
    let mut steps = setting.split('.');
    let mut at = root.get_ref().get(steps.next()?)?;
    for step in steps {
        let next = match at.get_ref() {
            DeValue::Table(table) => table.get(step),
            DeValue::Array(array) => step.parse().ok().and_then(|at: usize| array.get(at)),
            _ => None,
        };
        let Some(next) = next else { break };
        at = next;
    }
    Some(position(text, at.span().start))
}

/// The files that a configuration names.
pub(super) struct Files<'f> {
    base_dir: &'f Path,
    fingerprint: Fingerprint,
    /// Read once, so that two users of a file see the same.
    pems: BTreeMap<PathBuf, PemFile>,
}

impl Files<'_> {
    /// The bytes of a file, which is relative to the configuration's directory.
    pub(super) fn read(&mut self, path: &Path) -> Result<Vec<u8>, Wrong> {
        if path.as_os_str().is_empty() {
            return Err(Wrong::new("names no file", "write \"file:PATH\""));
        }
        self.read_up_to(path, LARGEST_FILE_BYTES).map(|(_, bytes)| bytes)
    }

    fn read_up_to(&mut self, path: &Path, most: u64) -> Result<(PathBuf, Vec<u8>), Wrong> {
        let full = self.base_dir.join(path);
        let bytes = read_bounded(&full, most);
        self.fingerprint.note(&full, bytes.as_ref().ok().map(Vec::as_slice));
        match bytes {
            Ok(bytes) => Ok((full, bytes)),
            Err(error) => {
                let path = quote(&full.to_string_lossy());
                let problem = format!("names the file {path}, which cannot be read: {error}");
                Err(Wrong::new(problem, cure_of(&error)))
            }
        }
    }

    /// A file of text, for a table of its own.
    pub(super) fn document(&mut self, path: &Path) -> Result<Document, Wrong> {
        let (full, bytes) = self.read_up_to(path, LARGEST_CONFIG_BYTES)?;
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Document { path: full, text: text.into() }),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let path = quote(&full.to_string_lossy());
                let problem =
                    format!("names the file {path}, which is not UTF-8 from byte {at} on");
                Err(Wrong::new(problem, "save it as UTF-8"))
            }
        }
    }

    /// A PEM file with at least one block whose label ends in `label`.
    pub(super) fn pem(&mut self, path: &Path, label: &str) -> Result<PemFile, Wrong> {
        let full = self.base_dir.join(path);
        let file = match self.pems.get(&full) {
            Some(file) => file.clone(),
            None => PemFile { bytes: self.read(path)?.into(), path: full.clone() },
        };
        let end = format!("{label}-----");
        let begins = |line: &[u8]| {
            let line = line.trim_ascii();
            line.starts_with(b"-----BEGIN ") && line.ends_with(end.as_bytes())
        };
        if !file.bytes.split(|b| *b == b'\n').any(begins) {
            let path = quote(&full.to_string_lossy());
            return Err(Wrong::new(
                format!("names the file {path}, which holds no {label} in PEM"),
                format!("it must have a line -----BEGIN {label}-----"),
            ));
        }
        self.pems.insert(full, file.clone());
        Ok(PemFile { path: file.path, bytes: Arc::clone(&file.bytes) })
    }
}

/// What to do about a file that cannot be read.
fn cure_of(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "create it, or name another",
        io::ErrorKind::PermissionDenied => "let the user that foretoken runs as read it",
        io::ErrorKind::FileTooLarge => "name a smaller file",
        _ => "name a file that can be read",
    }
}

fn read_bounded(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    // A pipe could block for ever, even while it is being opened, and a device never end.
    let file = File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(most + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > most {
        return Err(io::Error::new(
            io::ErrorKind::FileTooLarge,
            format!("larger than {most} bytes"),
        ));
    }
    Ok(bytes)
}
