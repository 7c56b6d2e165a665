//! Rotation: a new secret, while the old one stays good for a while.

use serde_json::Value;

use super::create::secret_field;
use super::fields::{Fields, rfc3339};
use super::names::not_deleted;
use super::perform::{Act, Plan};
use super::{Refusal, Reply};
use crate::store::objects::SecretRow;

const GRACE_DEFAULT_MS: u64 = 24 * 3_600_000;
const GRACE_MAX_MS: u64 = 90 * 86_400_000;

impl Act<'_> {
    /// At most two secrets are good at any time: the new one, and the one before it until its grace is
    /// over. What was older is gone.
    pub(super) fn rotate(&mut self) -> Result<Plan, Refusal> {
        let before = self.target()?;
        not_deleted(&before)?;
        let options = Fields::of(&self.body, "", &["grace"])?;
        let grace_ms = options.duration_ms("grace", GRACE_MAX_MS)?.unwrap_or(GRACE_DEFAULT_MS);
        // Whoever hands out a token hands out what its principal may do.
        self.check_rights(&before)?;
        let (new, shown) = self.next_secret(&before)?;
        let end_unix_ms = self.now.unix_ms.saturating_add(grace_ms);
        let (mut secrets, gone) = (vec![new], self.secrets_of(&before)?);
        let (current, gone): (Vec<SecretRow>, Vec<SecretRow>) = gone
            .into_iter()
            .partition(|secret| secret.valid_until_unix_ms.is_none() && grace_ms > 0);
        secrets.extend(
            current
                .into_iter()
                .map(|secret| SecretRow { valid_until_unix_ms: Some(end_unix_ms), ..secret }),
        );
        let gone: Vec<_> = gone.into_iter().map(|secret| secret.digest).collect();

        let mut after = before.clone();
        after.stored.prefix = secrets[0].prefix.clone();
        let (mut plan, after) = self.writing(Some(&before), after);
        plan.change.secrets_put = secrets.clone();
        plan.change.secrets_remove = gone.clone();
        plan.effects = self.effects(Some(&before), &after, &secrets, gone, false)?;
        let mut body = self.directory.shown(&after);
        body.insert(secret_field(self.kind).to_owned(), shown.reveal().into());
        if secrets.len() > 1 {
            body.insert("previous_valid_until".to_owned(), rfc3339(end_unix_ms).into());
        }
        plan.reply = Reply { status: 200, body: Value::Object(body) };
        Ok(plan)
    }
}
