//! Keys, teams and users from exports of LiteLLM's database. A key is stored there as the SHA-256 of
//! what callers present, so it goes on working.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use super::{Work, limits};
use crate::import::names::{Names, is_name};
use crate::import::plan::{Key, Limits, Project, User};
use crate::import::report::At;
use crate::import::tables::{Row, Table, cell};
use crate::import::{Fault, hex};

/// Columns that nothing here answers to, if there is something in them.
const WITHOUT_COUNTERPART: [&str; 8] = [
    "permissions",
    "config",
    "router_settings",
    "allowed_cache_controls",
    "policies",
    "budget_id",
    "object_permission_id",
    "access_group_ids",
];

/// Routes of LiteLLM as endpoints of foretoken.
const ROUTES: [(&str, &str); 8] = [
    ("/chat/completions", "chat"),
    ("/completions", "completions"),
    ("/embeddings", "embeddings"),
    ("/responses", "responses"),
    ("/moderations", "moderations"),
    ("/images/generations", "images"),
    ("/audio/speech", "speech"),
    ("/models", "models"),
];

/// What became of the teams and users that keys refer to, by their ids there. `Err`: why everything
/// of theirs is left out.
#[derive(Default)]
struct Owners {
    teams: BTreeMap<String, Result<String, String>>,
    users: BTreeMap<String, Result<(String, Limits), String>>,
}

impl Work<'_> {
    /// Takes the tables of all exports.
    pub(super) fn tables(&mut self, tables: &[Table]) -> Result<(), Fault> {
        let is = |table: &Table, name: &str, columns: &[&str]| match table.name.as_str() {
            "" => columns.iter().all(|column| table.has(column)),
            own => own == name,
        };
        let keys = |table: &Table| is(table, "LiteLLM_VerificationToken", &["token"]);
        let teams = |table: &Table| {
            is(table, "LiteLLM_TeamTable", &["team_id"])
                && !table.has("token")
                && !table.has("user_id")
        };
        let users =
            |table: &Table| is(table, "LiteLLM_UserTable", &["user_id"]) && !table.has("token");
        if !tables.iter().any(|table| keys(table) || teams(table) || users(table)) {
            return Err(Fault::new(
                "it holds no table of keys, teams or users: a column token, team_id or user_id is expected",
            ));
        }
        let mut owners = Owners::default();
        let (mut projects, mut people, mut names) =
            (Names::default(), Names::default(), Names::default());
        // Keys without a team belong to the project that is always there.
        let _ = projects.name("default", "");
        for row in tables.iter().filter(|table| teams(table)).flat_map(Table::rows) {
            self.team(&row, &mut projects, &mut owners);
        }
        for row in tables.iter().filter(|table| users(table)).flat_map(Table::rows) {
            self.user(&row, &mut people, &mut owners);
        }
        let mut seen = BTreeMap::new();
        for row in tables.iter().filter(|table| keys(table)).flat_map(Table::rows) {
            let name = row.get("key_alias").or(row.get("key_name")).unwrap_or("key");
            let at = At::new(format!("keys[{name}]"), row.line);
            match self.key(&row, &at, &owners) {
                Err(why) => self.report.none(&at, format!("left out: {why}")),
                Ok(key) => {
                    if let Some(other) = seen.get(&key.sha256) {
                        self.report.none(&at, format!("left out: it is the key {other} once more"));
                        continue;
                    }
                    let key = Key { name: names.name(name, "key"), ..key };
                    self.report.taken(&at, format!("the key {}", key.name));
                    seen.insert(key.sha256.clone(), key.name.clone());
                    self.plan.keys.push(key);
                }
            }
        }
        Ok(())
    }

    fn team(&mut self, row: &Row<'_>, names: &mut Names, owners: &mut Owners) {
        let Some(id) = row.get("team_id") else { return };
        let wish = row.get("team_alias").unwrap_or(id);
        let at = At::new(format!("teams[{wish}]"), row.line);
        let made = if row.is_true("blocked") {
            Err("it is blocked".to_owned())
        } else {
            self.team_terms(row, &at)
        };
        let made = made.map(|(models, limits)| {
            let name = names.name(wish, "team");
            self.report.taken(&at, format!("the project {name}"));
            self.plan.projects.push(Project {
                name: name.clone(),
                models,
                limits,
                ..Project::default()
            });
            name
        });
        if let Err(why) = &made {
            self.report.none(&at, format!("left out with its keys: {why}"));
        }
        self.leftovers(row, &at);
        owners.teams.insert(id.to_owned(), made);
    }

    fn team_terms(
        &mut self,
        row: &Row<'_>,
        at: &At,
    ) -> Result<(Option<Vec<String>>, Limits), String> {
        Ok((self.models_of(row, at)?, limits::of(row, at, &mut self.report)?))
    }

    fn user(&mut self, row: &Row<'_>, names: &mut Names, owners: &mut Owners) {
        let Some(id) = row.get("user_id") else { return };
        let wish = row.get("user_alias").or(row.get("user_email")).unwrap_or(id);
        let at = At::new(format!("users[{wish}]"), row.line);
        let made = limits::of(row, &at, &mut self.report).map(|limits| {
            let name = names.name(wish, "user");
            let email = row.get("user_email").filter(|email| is_name(email) && email.contains('@'));
            self.report.taken(&at, format!("the user {name}"));
            self.plan.users.push(User {
                name: name.clone(),
                email: email.map(str::to_owned),
                limits: limits.clone(),
            });
            (name, limits)
        });
        if let Err(why) = &made {
            self.report.none(&at, format!("left out with the keys of its own: {why}"));
        }
        if row.get("password").is_some() {
            self.report.none(&at.part("password", row.line), "nobody logs in with it here");
        }
        if !row.list("models").is_empty() {
            let said = "a user has no models of its own: give them to the keys";
            self.report.none(&at.part("models", row.line), said);
        }
        self.leftovers(row, &at);
        owners.users.insert(id.to_owned(), made);
    }

    fn key(&mut self, row: &Row<'_>, at: &At, owners: &Owners) -> Result<Key, String> {
        let sha256 = digest(row.get("token").ok_or("it has no token")?)?;
        if row.is_true("blocked") {
            return Err("it is blocked".to_owned());
        }
        let expires_at = row.get("expires").map(|text| self.expiry(text)).transpose()?;
        let project = match row.get("team_id").map(|id| (id, owners.teams.get(id))) {
            None => None,
            Some((_, Some(Ok(name)))) => Some(name.clone()),
            Some((_, Some(Err(why)))) => return Err(format!("of its team: {why}")),
            Some((id, None)) => {
                let said = "its team is in no export: it is in the project default, without the team's limits";
                self.report.changed(&at.part("team_id", row.line), format!("{said} ({id})"));
                None
            }
        };
        let user = match row.get("user_id").and_then(|id| owners.users.get(id)) {
            None => None,
            // The limits of a user are for keys without a team only.
            Some(Ok((_, limits))) if row.get("team_id").is_some() && !limits.is_empty() => None,
            Some(Ok((name, _))) => Some(name.clone()),
            Some(Err(why)) if row.get("team_id").is_none() => {
                return Err(format!("of its user: {why}"));
            }
            Some(Err(_)) => None,
        };
        let models = self.models_of(row, at)?;
        let endpoints = self.endpoints(row, at)?;
        let limits = limits::of(row, at, &mut self.report)?;
        let (tags, metadata) = self.metadata(row, at);
        let alias =
            |(name, raw): (String, Box<serde_json::value::RawValue>)| Some((name, cell(&raw)?));
        let aliases = row.object("aliases").into_iter().filter_map(alias);
        let aliases = aliases.filter(|(name, to)| is_name(name) && is_name(to)).collect();
        self.leftovers(row, at);
        Ok(Key {
            name: String::new(),
            project,
            user,
            sha256,
            models,
            aliases,
            endpoints,
            cidrs: Vec::new(),
            expires_at,
            tags,
            metadata,
            limits,
        })
    }

    fn expiry(&self, text: &str) -> Result<String, String> {
        let time = time(text).ok_or_else(|| format!("it expires at {text}, which is no time"))?;
        match u64::try_from(time.as_millisecond()) {
            Ok(unix_ms) if unix_ms > self.options.now_unix_ms => Ok(time.to_string()),
            _ => Err(format!("it expired at {time}")),
        }
    }

    /// The models of a key or team: `None` is every one.
    fn models_of(&mut self, row: &Row<'_>, at: &At) -> Result<Option<Vec<String>>, String> {
        let list = row.list("models");
        let has = |name: &str| list.iter().any(|model| model == name);
        if list.is_empty() || has("*") || has("all-proxy-models") || has("all-team-models") {
            return Ok(None);
        }
        let at = at.part("models", row.line);
        let mut models: Vec<String> = Vec::new();
        for name in list.iter().filter(|name| *name != "no-default-models") {
            let groups = self.access_groups.iter().filter(|(group, _)| group == name);
            let mut found: Vec<String> = groups.map(|(_, model)| model.clone()).collect();
            if found.is_empty() && is_name(name) {
                found.push(name.clone());
            } else {
                self.report.changed(&at, format!("the group {name} is its models of today"));
            }
            found.retain(|model| !models.contains(model));
            models.extend(found);
        }
        match models.is_empty() {
            true => Err("it may use no model".to_owned()),
            false => Ok(Some(models)),
        }
    }

    fn endpoints(&mut self, row: &Row<'_>, at: &At) -> Result<Vec<&'static str>, String> {
        let routes = row.list("allowed_routes");
        if routes.is_empty() || routes.iter().any(|route| route == "llm_api_routes") {
            return Ok(Vec::new());
        }
        let at = at.part("allowed_routes", row.line);
        let mut endpoints = Vec::new();
        for route in &routes {
            let bare = route.strip_prefix("/v1").unwrap_or(route);
            match ROUTES.iter().find(|(path, _)| *path == bare) {
                Some((_, endpoint)) if !endpoints.contains(endpoint) => endpoints.push(*endpoint),
                Some(_) => {}
                None => self.report.none(&at, format!("{route} is no endpoint here")),
            }
        }
        match endpoints.is_empty() {
            true => Err("none of its allowed_routes is an endpoint here".to_owned()),
            false => Ok(endpoints),
        }
    }

    /// Tags, and what else is plain text and no secret.
    fn metadata(&mut self, row: &Row<'_>, at: &At) -> (Vec<String>, Vec<(String, String)>) {
        let (mut tags, mut metadata) = (Vec::new(), Vec::new());
        for (name, raw) in row.object("metadata") {
            let lower = name.to_ascii_lowercase();
            let is_secret =
                ["key", "secret", "token", "password"].iter().any(|word| lower.contains(word));
            let at = at.part("metadata", row.line).part(&name, row.line);
            match raw.get().as_bytes().first() {
                Some(b'[') if name == "tags" => {
                    let list: Vec<String> = serde_json::from_str(raw.get()).unwrap_or_default();
                    tags.extend(list.into_iter().filter(|tag| is_name(tag)));
                }
                Some(b'[' | b'{') if ["model_rpm_limit", "model_tpm_limit"].contains(&&*name) => {}
                Some(b'[' | b'{') => self.report.none(&at, "no plain text"),
                _ if is_secret => self.report.none(&at, "it may be a secret"),
                _ => {
                    metadata.extend(cell(&raw).filter(|_| is_name(&name)).map(|text| (name, text)))
                }
            }
        }
        (tags, metadata)
    }

    fn leftovers(&mut self, row: &Row<'_>, at: &At) {
        for column in WITHOUT_COUNTERPART {
            let text = row.get(column).filter(|text| !["{}", "[]", "null"].contains(text));
            if text.is_some() {
                self.report.none(&at.part(column, row.line), "foretoken has nothing like it");
            }
        }
    }
}

/// The digest of a key: as it is stored, or of a key that an old version stored as it was.
fn digest(token: &str) -> Result<String, String> {
    let is_digest = token.len() == 64 && token.bytes().all(|b| b.is_ascii_hexdigit());
    if is_digest {
        return Ok(token.to_ascii_lowercase());
    }
    if token.starts_with("sk-") && token.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(hex(&Sha256::digest(token.as_bytes())));
    }
    Err("its token is neither a SHA-256 nor a key".to_owned())
}

/// A time as databases write it; without a zone it is UTC.
fn time(text: &str) -> Option<jiff::Timestamp> {
    let zoned = text.parse::<jiff::Timestamp>().ok().or_else(|| {
        // PostgreSQL writes "+00".
        let (rest, zone) = text.rsplit_once('+')?;
        (zone == "00").then(|| format!("{rest}Z").parse().ok()).flatten()
    });
    zoned.or_else(|| {
        let civil: jiff::civil::DateTime = text.parse().ok()?;
        jiff::tz::TimeZone::UTC.to_timestamp(civil).ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_kept_and_an_old_key_becomes_one() {
        let abc = "BA7816BF8F01CFEA414140DE5DAE2223B00361A396177A9CB410FF61F20015AD";
        assert_eq!(digest(abc), Ok(abc.to_ascii_lowercase()));
        assert_eq!(digest("sk-1234").map(|hex| hex.len()), Ok(64));
        assert!(digest("canary").is_err_and(|why| !why.contains("canary")));
    }

    #[test]
    fn times_are_read_as_databases_write_them() {
        let want = "2030-01-31T12:00:00Z";
        for text in [
            "2030-01-31 12:00:00",
            "2030-01-31T12:00:00Z",
            "2030-01-31 12:00:00+00",
            "2030-01-31T13:00:00+01:00",
            "2030-01-31T12:00:00.000",
        ] {
            assert_eq!(time(text).map(|time| time.to_string()).as_deref(), Some(want), "{text}");
        }
        assert_eq!(time("soon"), None);
    }
}
