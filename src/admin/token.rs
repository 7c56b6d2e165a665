//! The token that opens the admin API, and where the command line on the same host finds one that was
//! made at start.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use crate::auth::secret::{self, Digest, Secret};

/// What is added to the store's path.
const SUFFIX: &str = ".admin-token";
/// The most that is read of a token file.
const MAX_FILE_BYTES: u64 = 4096;

/// The token as the server keeps it: a digest.
#[derive(Clone)]
pub struct Token(Digest);

impl Token {
    /// The token with this text. `None` if it is empty (an unset variable, a blank file): such a token
    /// would open the door to everybody, so the start must be refused.
    pub fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        (!text.is_empty()).then(|| Token(secret::digest(text.as_bytes())))
    }

    /// Whether the caller showed the right token. Takes the same time wherever they differ.
    pub fn matches(&self, presented: &[u8]) -> bool {
        secret::same(&self.0, &secret::digest(presented))
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// A fresh token, for a loopback listener without a configured one. Whoever calls prints it once.
pub fn make(random: [u8; 32]) -> Secret {
    let key = secret::generate(random);
    let body = key.reveal().trim_start_matches(secret::KEY_PREFIX);
    Secret::new(format!("ft-admin-{body}"))
}

/// Where a made token is kept: beside the store. `None` for a store in memory or behind a URL.
pub fn token_file(store_path: &str) -> Option<PathBuf> {
    let elsewhere = store_path.is_empty() || store_path == ":memory:" || store_path.contains("://");
    (!elsewhere).then(|| PathBuf::from(format!("{store_path}{SUFFIX}")))
}

/// Writes a made token, readable by the owner only. The file appears whole or not at all, and a link that
/// somebody has put in its place is replaced, not followed.
pub fn save(path: &Path, token: &Secret) -> io::Result<()> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(fresh);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = write_new(&fresh, token).and_then(|()| fs::rename(&fresh, path));
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}

fn write_new(path: &Path, token: &Secret) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{}", token.reveal())
}

/// Reads a saved token; `None` if there is none.
pub fn load(path: &Path) -> io::Result<Option<Secret>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut text = String::new();
    file.take(MAX_FILE_BYTES).read_to_string(&mut text)?;
    let text = text.trim();
    Ok((!text.is_empty()).then(|| Secret::new(text)))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn only_the_whole_token_opens() {
        let token = Token::new(" s3cret-token\n").expect("not empty");
        assert!(token.matches(b"s3cret-token"));
        for wrong in ["", "s3cret-toke", "s3cret-token2", "S3cret-token", " s3cret-token"] {
            assert!(!token.matches(wrong.as_bytes()), "{wrong}");
        }
        assert_eq!(format!("{token:?}"), "***");
    }

    #[test]
    fn case_46_an_empty_token_is_refused() {
        assert!(Token::new("").is_none() && Token::new(" \n").is_none());
    }

    #[test]
    fn a_made_token_is_found_by_its_owner_only() {
        let dir = tempfile::tempdir().expect("dir");
        let store = dir.path().join("foretoken.db");
        let path = token_file(store.to_str().expect("text")).expect("a file");
        assert_eq!(path, dir.path().join("foretoken.db.admin-token"));
        assert_eq!(load(&path).expect("no fault"), None);

        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").expect("write");
        symlink(&victim, &path).expect("link");
        for byte in [1, 2] {
            let made = make([byte; 32]);
            assert!(made.reveal().starts_with("ft-admin-") && made.reveal().len() == 9 + 43);
            save(&path, &made).expect("saved");
            assert_eq!(load(&path).expect("readable"), Some(made));
            let mode = fs::symlink_metadata(&path).expect("metadata").permissions().mode();
            assert_eq!(mode & 0o7777, 0o600);
        }
        assert_eq!(fs::read_to_string(&victim).expect("still there"), "precious");
        assert_eq!(fs::read_dir(dir.path()).expect("dir").count(), 2, "nothing is left over");
    }

    #[test]
    fn a_store_elsewhere_has_no_file_beside_it() {
        for store in [":memory:", "", "postgres://db/foretoken"] {
            assert_eq!(token_file(store), None, "{store}");
        }
    }
}
