//! What this host's configuration says of the admin API. Read by itself, because the commands that
//! ask a gateway must work while the rest of the file is broken, or holds variables that only the
//! gateway has.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use super::{BAD_USAGE, ConfigArgs, Failure};
use crate::admin::{self, token_file};
use crate::auth::Secret;

/// Where the store is if nothing says otherwise.
const DEFAULT_STORE: &str = "foretoken.db";

/// The admin API by the configuration.
pub(super) struct Local {
    /// Its address; `off` too.
    pub listen: Option<String>,
    pub token: Token,
}

/// A token, or where it was looked for in vain.
pub(super) enum Token {
    Found {
        secret: Secret,
        /// Where it comes from, for messages.
        whence: String,
    },
    /// Why there is none, and what to do.
    Missing(String),
}

impl Local {
    /// Reads what can be read. `is_needed`: neither address nor token are known otherwise.
    ///
    /// # Errors
    /// A file that was named, and cannot be read.
    pub(super) fn read(args: &ConfigArgs, is_needed: bool) -> Result<Local, Failure> {
        let Ok(path) = args.path() else {
            let said = Said { token: None, store: None, listen: None };
            return Ok(said.local(Path::new("")));
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            // A variable that is meant for the gateway must not stand in the way.
            Err(error) if args.config.is_some() || (args.named().is_some() && is_needed) => {
                let message = format!("{}: cannot be read: {error}", path.display());
                return Err(Failure::new(BAD_USAGE, message));
            }
            Err(error) => {
                if is_needed {
                    eprintln!("note: {}: cannot be read: {error}", path.display());
                }
                String::new()
            }
        };
        let (said, is_whole) = Said::read(&text);
        if !is_whole && is_needed {
            eprintln!(
                "note: {} is no TOML in places (`foretoken check` tells where); [admin] and [store] are taken from the rest",
                path.display()
            );
        }
        Ok(said.local(&path))
    }
}

/// The three settings.
#[derive(Default, PartialEq, Eq, Debug)]
struct Said {
    listen: Option<String>,
    token: Option<String>,
    store: Option<String>,
}

impl Said {
    /// What a text says, and whether all of it could be read.
    fn read(text: &str) -> (Said, bool) {
        let (root, errors) = DeTable::parse_recoverable(text);
        let text_of = |section: &str, key: &str| -> Option<String> {
            let DeValue::Table(table) = root.get_ref().get(section)?.get_ref() else { return None };
            let DeValue::String(text) = table.get(key)?.get_ref() else { return None };
            Some(text.to_string())
        };
        let is_whole = errors.is_empty();
        // A value at the very place of an error may be half of itself.
        let is_address = |text: &String| text == "off" || text.parse::<SocketAddr>().is_ok();
        let said = Said {
            listen: text_of("admin", "listen").filter(is_address),
            token: text_of("admin", "token").filter(|text| is_whole || !text.is_empty()),
            store: text_of("store", "path").filter(|text| !text.is_empty()),
        };
        (said, is_whole)
    }

    fn local(self, config: &Path) -> Local {
        let token = match &self.token {
            Some(text) => match resolve(text, config) {
                Ok(secret) => Token::Found { secret, whence: "admin.token".into() },
                Err(why) => Token::Missing(format!(
                    "admin.token {why}; give the token in FORETOKEN_ADMIN_TOKEN"
                )),
            },
            None => saved(self.store.as_deref().unwrap_or(DEFAULT_STORE)),
        };
        Local { listen: self.listen, token }
    }
}

/// The text of a secret: literal, from the environment or from a file.
fn resolve(text: &str, config: &Path) -> Result<Secret, String> {
    let found = if let Some(name) = text.strip_prefix("env:") {
        std::env::var(name)
            .map_err(|_| format!("names the environment variable {name}, which is not set here"))?
    } else if let Some(file) = text.strip_prefix("file:") {
        let file = config.parent().unwrap_or(Path::new("")).join(file);
        let held = std::fs::read_to_string(&file);
        held.map_err(|error| format!("names the file {}: {error}", file.display()))?
            .trim_end()
            .to_owned()
    } else {
        text.to_owned()
    };
    if found.is_empty() { Err("is empty".to_owned()) } else { Ok(Secret::new(found)) }
}

/// The token that a gateway has made and kept beside its store.
fn saved(store: &str) -> Token {
    let Some(file) = token_file(store) else {
        return Token::Missing(
            "a store in memory has no token file: take the token that the gateway printed at its \
             start, or set admin.token"
                .to_owned(),
        );
    };
    let whole = std::path::absolute(&file).unwrap_or_else(|_| file.clone());
    let why = match admin::token::load(&file) {
        Ok(Some(secret)) => {
            return Token::Found { secret, whence: format!("the file {}", whole.display()) };
        }
        Ok(None) if file.exists() => "is empty".to_owned(),
        Ok(None) => "does not exist".to_owned(),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            "may not be read by this user".to_owned()
        }
        Err(error) => format!("cannot be read: {error}"),
    };
    Token::Missing(story(&file, &whole, &why))
}

fn story(file: &Path, whole: &Path, why: &str) -> String {
    let hint = if file.is_absolute() {
        ""
    } else {
        " (store.path is relative to the gateway's working directory: ask from there)"
    };
    let file = PathBuf::from(whole);
    format!(
        "the token file {} {why}{hint}; give the token in FORETOKEN_ADMIN_TOKEN, or set admin.token",
        file.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_can_be_read_of_a_broken_file_is_used() {
        let text =
            "[admin]\nlisten = \"127.0.0.1:9999\"\n[store]\npath = \"/x/db\"\n[server\nlisten =\n";
        let (said, is_whole) = Said::read(text);
        assert!(!is_whole);
        assert_eq!(said.listen.as_deref(), Some("127.0.0.1:9999"));
        assert_eq!(said.store.as_deref(), Some("/x/db"));
        let (said, is_whole) = Said::read("[admin]\nlisten = \"127.0.0.1:99\ntoken = \"abc\"\n");
        assert!(!is_whole);
        assert_eq!(said.token.as_deref(), Some("abc"));
        assert_eq!(Said::read("model_list:\n  - a: b\n").0, Said::default());
        assert_eq!(Said::read("admin = 3").0, Said::default());
    }

    #[test]
    fn a_missing_token_is_told_with_its_place() {
        let Token::Missing(why) = saved(":memory:") else { panic!("found") };
        assert!(why.contains("in memory") && why.contains("admin.token"), "{why}");
        let Token::Missing(why) = saved("/nonexistent/db") else { panic!("found") };
        assert!(
            why.starts_with("the token file /nonexistent/db.admin-token does not exist;"),
            "{why}"
        );
        let Token::Missing(why) = saved("nonexistent.db") else { panic!("found") };
        assert!(
            why.contains("/nonexistent.db.admin-token does not exist (store.path is relative"),
            "{why}"
        );
        let Err(why) = resolve("env:FORETOKEN_TEST_UNSET", Path::new("")) else { panic!("found") };
        assert!(why.contains("FORETOKEN_TEST_UNSET, which is not set here"), "{why}");
    }
}
