//! `foretoken import litellm|one-api`: reads the files, writes the configuration, prints the report.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};

use super::{BAD_USAGE, FAILED, Failure, print, variable};
use crate::clock;
use crate::import::{self, Database, Imported, Options, Source};

/// More than any source may have; the imports have smaller bounds of their own.
const MOST_BYTES: u64 = 512 << 20;

#[derive(Subcommand)]
pub(crate) enum ImportCommand {
    /// LiteLLM: its config.yaml, and exports of its tables of keys, teams and users
    #[command(after_help = "Examples:
  foretoken import litellm config.yaml
  psql $DATABASE_URL -c '\\copy \"LiteLLM_VerificationToken\" to keys.csv csv header'
  foretoken import litellm config.yaml --keys keys.csv --keys teams.csv --keys users.csv
  foretoken import litellm config.yaml --keys dump.sql --out edge.toml --json

Exports may be CSV with a head, a JSON array, or what pg_dump writes; which table it is shows in its
columns. Keys go on working: the database holds the SHA-256 of each, and so does the result.
Variables that hold addresses (os.environ/…) are looked up in this environment.")]
    Litellm(LitellmArgs),
    /// One-API or new-api: its SQLite file, or a dump of its MySQL database
    #[command(after_help = "Examples:
  foretoken import one-api one-api.db
  mysqldump oneapi channels abilities tokens users options > oneapi.sql
  foretoken import one-api oneapi.sql --with-secrets

Tokens go on working: only the SHA-256 of each is in the result.")]
    OneApi(OneApiArgs),
}

#[derive(Args)]
pub(crate) struct LitellmArgs {
    /// The config.yaml
    file: PathBuf,
    /// An export of keys, teams or users; may be given several times
    #[arg(long, value_name = "FILE")]
    keys: Vec<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
pub(crate) struct OneApiArgs {
    /// The SQLite file, or a dump in SQL
    file: PathBuf,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Args)]
pub(crate) struct OutputArgs {
    /// Where the configuration goes
    #[arg(long, value_name = "PATH", default_value = "foretoken.toml")]
    out: PathBuf,
    /// Replace what is there
    #[arg(long)]
    force: bool,
    /// Write the upstreams' keys into the file, instead of names of variables to set
    #[arg(long)]
    with_secrets: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(command: &ImportCommand) -> Result<(), Failure> {
    match command {
        ImportCommand::Litellm(args) => litellm(args),
        ImportCommand::OneApi(args) => one_api(args),
    }
}

fn litellm(args: &LitellmArgs) -> Result<(), Failure> {
    args.output.refuse_to_overwrite()?;
    let config = read(&args.file)?;
    let exports = args.keys.iter().map(|path| read(path)).collect::<Result<Vec<_>, _>>()?;
    let exports: Vec<Source<'_>> = exports.iter().map(Input::source).collect();
    args.output.finish(&|options| import::litellm(&config.source(), &exports, options))
}

fn one_api(args: &OneApiArgs) -> Result<(), Failure> {
    args.output.refuse_to_overwrite()?;
    let mut head = [0; 16];
    let is_sqlite = open(&args.file)
        .and_then(|mut file| file.read_exact(&mut head))
        .is_ok_and(|()| import::is_sqlite(&head));
    if is_sqlite {
        let database = Database::Sqlite(&args.file);
        return args.output.finish(&|options| import::one_api(&database, options));
    }
    let dump = read(&args.file)?;
    let database = Database::Dump(dump.source());
    args.output.finish(&|options| import::one_api(&database, options))
}

/// A file that has been read.
struct Input {
    name: String,
    bytes: Vec<u8>,
}

impl Input {
    fn source(&self) -> Source<'_> {
        Source { name: &self.name, bytes: &self.bytes }
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    // A pipe could block for ever while it is being opened.
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(std::io::Error::other("it is no regular file")),
    }
}

fn read(path: &Path) -> Result<Input, Failure> {
    let name = path.display().to_string();
    let wrong = |why: String| Failure::new(BAD_USAGE, format!("{name}: cannot be read: {why}"));
    let mut bytes = Vec::new();
    let file = open(path).map_err(|error| wrong(error.to_string()))?;
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes).map_err(|error| wrong(error.to_string()))?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(wrong(format!("it is larger than {} MiB", MOST_BYTES >> 20)));
    }
    Ok(Input { name, bytes })
}

impl OutputArgs {
    /// Asked first: nobody wants to hear it after a long import.
    fn refuse_to_overwrite(&self) -> Result<(), Failure> {
        if self.out.exists() && !self.force {
            let out = self.out.display();
            let message = format!("{out} exists: choose another file with --out, or give --force");
            return Err(Failure::new(BAD_USAGE, message));
        }
        Ok(())
    }

    fn finish(
        &self,
        import: &dyn Fn(&Options<'_>) -> Result<Imported, import::Fault>,
    ) -> Result<(), Failure> {
        let options = Options {
            with_secrets: self.with_secrets,
            variable: &|name| variable(name).and_then(|value| value.into_string().ok()),
            now_unix_ms: clock::unix_ms(),
        };
        let imported =
            import(&options).map_err(|fault| Failure::new(BAD_USAGE, fault.to_string()))?;
        let out = self.out.display().to_string();
        self.write(&imported.config)
            .map_err(|error| Failure::new(FAILED, format!("{out}: cannot be written: {error}")))?;
        if self.json {
            let mut report = imported.report.to_json();
            report["out"] = out.into();
            print(&format!("{report:#}\n"));
        } else {
            let next = format!("wrote {out}; next: foretoken check --config {out}\n");
            print(&format!("{}\n{next}", imported.report.text()));
        }
        Ok(())
    }

    /// Writes the file for its owner only: whole, or not at all.
    fn write(&self, config: &str) -> std::io::Result<()> {
        let mut name = self.out.as_os_str().to_owned();
        name.push(format!(".{}.new", std::process::id()));
        let beside = PathBuf::from(name);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
        let done =
            file.write_all(config.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| {
                match self.force {
                    true => std::fs::rename(&beside, &self.out),
                    // Unlike a renaming this fails if the file has come to be meanwhile.
                    false => std::fs::hard_link(&beside, &self.out),
                }
            });
        let _ = std::fs::remove_file(&beside);
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn args(out: PathBuf, force: bool) -> OutputArgs {
        OutputArgs { out, force, with_secrets: false, json: false }
    }

    #[test]
    fn the_file_is_its_owners_and_is_replaced_on_request_only() {
        let dir = tempfile::tempdir().expect("a directory");
        let out = dir.path().join("foretoken.toml");
        args(out.clone(), false).write("a").expect("written");
        let mode = std::fs::metadata(&out).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(args(out.clone(), false).refuse_to_overwrite().is_err());
        assert!(args(out.clone(), false).write("b").is_err());
        assert_eq!(std::fs::read_to_string(&out).expect("there"), "a");
        args(out.clone(), true).write("c").expect("replaced");
        assert_eq!(std::fs::read_to_string(&out).expect("there"), "c");
        let left = std::fs::read_dir(dir.path()).expect("readable").count();
        assert_eq!(left, 1, "nothing is left beside it");
    }
}
