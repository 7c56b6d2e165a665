//! How the provider misbehaves: by the name of the model for one request, or by a switch at run
//! time for all of them. The list of names, their meaning and the help text are one table.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sim::settings::Distribution;

macro_rules! behaviours {
    ($($name:literal $fault:ident $help:literal)*) => {
        /// What is done to one answer.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(super) enum Fault {
            /// A well-behaved answer.
            None,
            /// An error answer with this status.
            Status(u16),
            $(#[doc = $help] $fault,)*
        }

        const FAULTS: &[(&str, Fault)] = &[$(($name, Fault::$fault)),*];

        /// The models and switches, for `foretoken sim --help`.
        pub const HELP: &str = concat!(
            "Models: every name answers (unless models are listed). A name with \"reason\" in it thinks\n",
            "first. A name that is, or ends in, one of these misbehaves (\"gpt-4o-sim-cut\" does too):\n\n",
            "  sim-error-NNN\n      an error answer with status NNN (400-599)\n",
            $("  sim-", $name, "\n      ", $help, "\n",)*
            "\nThe text holds canary:TOKEN if the last user message does. A tool is called when tool_choice\n",
            "forces it or the last user message names it.\n",
            "\nAt run time, for all requests (a change is merged into the current state):\n\n",
            "  POST /sim/behaviour  {\"mode\": \"normal|slow|slow_read|errors|stall|reject429|stall_head|cut|\n",
            "                       blackhole\", \"factor\": 5, \"status\": 500, \"percent\": 100,\n",
            "                       \"for_ms\": 1000, \"ttft\": \"20ms\", \"gap\": \"lognormal(5ms, 20ms)\"}\n",
            "  GET  /sim/stats      counters and the last 100 cancels\n",
            "  GET  /sim/books      the tokens told as usage (of chat, completions, responses, embeddings)\n",
            "                       by model, `user` of the request and key: begun, completed, cut\n",
            "  GET  /sim/requests?last=N\n                       the last requests as they were received\n",
            "  POST /sim/goaway     ends all connections gracefully (h2: GOAWAY)\n",
            "  POST /sim/reset      counters, books and log emptied, behaviour normal\n",
        );
    };
}

behaviours! {
    "429" RateLimited "429 rate_limit_exceeded with retry-after, retry-after-ms and x-ratelimit-*"
    "quota" Quota "429 insufficient_quota, which waiting does not cure"
    "401" Unauthorized "401 invalid_api_key"
    "404" Missing "404 model_not_found"
    "400-context" ContextLength "400 context_length_exceeded"
    "stall" Stall "the head, then nothing for ever"
    "stall-head" StallHead "nothing at all"
    "stall-mid" StallMid "nothing more after three content chunks (of one JSON answer: after half)"
    "cut" Cut "the connection closes after three chunks or half the answer (h2: RST_STREAM)"
    "reset" Reset "a TCP reset before any answer byte (h2: RST_STREAM)"
    "truncate" Truncate "a clean end without finish_reason or [DONE] (JSON: half of it)"
    "inband-error" InbandError "an error frame after three chunks (not a stream: 500)"
    "inband-first" InbandFirst "an error frame as the first frame (not a stream: 500)"
    "200-error" OkError "HTTP 200 with an error object as JSON"
    "no-usage" NoUsage "never any usage"
    "usage-every" UsageEvery "cumulative usage on every chunk"
    "finish-usage" FinishUsage "usage on the finishing chunk"
    "cached" Cached "half of the prompt counts as cached"
    "no-done" NoDone "no [DONE] at the end"
    "comments" Comments "the head and ': OPENROUTER PROCESSING' comments at once, the tokens later"
    "slow" Slow "ten times slower"
    "gzip" Gzip "a gzip body although it was not asked for"
    "big" Big "one MiB of text"
    "endless" Endless "one line without an end (it stops at 256 MiB)"
    "echo" Echo "the text is the SHA-256 (hex) and the length of the request body"
}

impl Fault {
    /// The fault that a model's name asks for.
    pub(super) fn of_model(model: &str) -> Fault {
        let Some(at) = model.rfind("sim-") else { return Fault::None };
        // "sim-" inside a word ("mysim-cut") is someone else's name.
        if model[..at].ends_with(|c: char| c.is_alphanumeric()) {
            return Fault::None;
        }
        let name = &model[at + 4..];
        if let Some(status) = name.strip_prefix("error-").and_then(|text| text.parse().ok()) {
            return if (400..600).contains(&status) { Fault::Status(status) } else { Fault::None };
        }
        FAULTS.iter().find(|(known, _)| *known == name).map_or(Fault::None, |&(_, fault)| fault)
    }

    /// Names for `GET /models`.
    pub(super) fn model_names() -> impl Iterator<Item = String> {
        FAULTS.iter().map(|(name, _)| format!("sim-{name}")).chain([
            "sim-error-500".to_owned(),
            "sim-error-503".to_owned(),
            "sim-chat".to_owned(),
            "sim-reason".to_owned(),
            "sim-embedding".to_owned(),
        ])
    }
}

/// What the run-time switch does to all requests.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Nothing.
    #[default]
    Normal,
    /// All times are multiplied by `factor`, also in streams that have begun.
    Slow,
    /// Request bodies are read slowly: `factor` times 20 ms between two reads.
    SlowRead,
    /// Errors with `status`.
    Errors,
    /// The head, then nothing.
    Stall,
    /// 429 with headers.
    Reject429,
    /// Nothing at all.
    StallHead,
    /// The connection closes after three chunks.
    Cut,
    /// Nothing on any connection, new or old; streams that have begun freeze. Ends for them when
    /// the mode ends; requests that came meanwhile stay unanswered.
    Blackhole,
}

/// The state that the run-time switch has set.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Behaviour {
    pub(super) mode: Mode,
    pub(super) factor: f64,
    pub(super) status: u16,
    pub(super) percent: u8,
    pub(super) until: Option<Instant>,
    pub(super) ttft: Option<Distribution>,
    pub(super) gap: Option<Distribution>,
}

impl Default for Behaviour {
    fn default() -> Self {
        Behaviour {
            mode: Mode::Normal,
            factor: 5.0,
            status: 500,
            percent: 100,
            until: None,
            ttft: None,
            gap: None,
        }
    }
}

/// A change of behaviour; what is `None` stays as it was.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// What happens to requests.
    pub mode: Option<Mode>,
    /// How much slower `slow` and `slow_read` are; 0.01 to 1000.
    pub factor: Option<f64>,
    /// The status of `errors`; 400 to 599.
    pub status: Option<u16>,
    /// How many requests in a hundred the mode hits.
    pub percent: Option<u8>,
    /// After so many milliseconds everything is back to normal, `ttft` and `gap` included.
    pub for_ms: Option<u64>,
    /// Replaces the time to the first token, in the text form of [`Distribution`].
    pub ttft: Option<String>,
    /// Replaces the time between tokens.
    pub gap: Option<String>,
}

impl Behaviour {
    /// This behaviour with `change` merged in, or why the change is no good.
    pub(super) fn merged(&self, change: &Change, now: Instant) -> Result<Behaviour, String> {
        let mut next = if self.over(now) { Behaviour::default() } else { self.clone() };
        next.mode = change.mode.unwrap_or(next.mode);
        if let Some(factor) = change.factor {
            if !(0.01..=1000.0).contains(&factor) {
                return Err(format!("factor {factor} is not within 0.01 to 1000"));
            }
            next.factor = factor;
        }
        if let Some(status) = change.status {
            if !(400..600).contains(&status) {
                return Err(format!("status {status} is not within 400 to 599"));
            }
            next.status = status;
        }
        if let Some(percent) = change.percent {
            if percent > 100 {
                return Err(format!("percent {percent} is above 100"));
            }
            next.percent = percent;
        }
        if let Some(text) = &change.ttft {
            next.ttft = Some(text.parse()?);
        }
        if let Some(text) = &change.gap {
            next.gap = Some(text.parse()?);
        }
        next.until = change.for_ms.and_then(|ms| now.checked_add(Duration::from_millis(ms)));
        Ok(next)
    }

    /// Whether the time given by `for_ms` has passed.
    pub(super) fn over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now >= until)
    }

    /// What all times are multiplied by.
    pub(super) fn slowness(&self, now: Instant) -> f64 {
        if self.mode == Mode::Slow && !self.over(now) { self.factor } else { 1.0 }
    }

    /// Whether nothing may be answered at all.
    pub(super) fn dark(&self, now: Instant) -> bool {
        self.mode == Mode::Blackhole && !self.over(now)
    }

    /// The fault for a request whose draw (0 to 99) is `roll`.
    pub(super) fn fault(&self, now: Instant, roll: u64) -> Fault {
        if self.over(now) || roll >= u64::from(self.percent) {
            return Fault::None;
        }
        match self.mode {
            Mode::Normal | Mode::Slow | Mode::SlowRead => Fault::None,
            Mode::Errors => Fault::Status(self.status),
            Mode::Stall => Fault::Stall,
            Mode::Reject429 => Fault::RateLimited,
            Mode::StallHead | Mode::Blackhole => Fault::StallHead,
            Mode::Cut => Fault::Cut,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn model_names_choose_the_fault() {
        for (model, want) in [
            ("sim-cut", Fault::Cut),
            ("gpt-4o-sim-cut", Fault::Cut),
            ("vendor/sim-stall-head", Fault::StallHead),
            ("sim-error-503", Fault::Status(503)),
            ("sim-error-200", Fault::None),
            ("sim-chat", Fault::None),
            ("mysim-cut", Fault::None),
            ("gpt-4o", Fault::None),
            ("世sim-cut", Fault::None),
        ] {
            assert_eq!(Fault::of_model(model), want, "{model}");
        }
        for (name, fault) in FAULTS {
            assert_eq!(Fault::of_model(&format!("sim-{name}")), *fault);
            assert!(HELP.contains(&format!("  sim-{name}\n")), "{name} is not in the help");
        }
    }

    #[test]
    fn changes_merge_and_end_by_themselves() {
        let now = clock::instant();
        let change = |json: &str| serde_json::from_str::<Change>(json).expect(json);
        let slow = Behaviour::default()
            .merged(&change(r#"{"mode":"slow","factor":3,"ttft":"1ms"}"#), now)
            .expect("valid");
        assert_eq!(slow.slowness(now), 3.0);
        let errors = slow
            .merged(&change(r#"{"mode":"errors","percent":25,"for_ms":10}"#), now)
            .expect("valid");
        assert_eq!((errors.ttft, errors.factor), (slow.ttft, 3.0));
        assert_eq!(errors.fault(now, 24), Fault::Status(500));
        assert_eq!(errors.fault(now, 25), Fault::None);
        let later = now + Duration::from_millis(10);
        assert_eq!(errors.fault(later, 0), Fault::None);
        let fresh = errors.merged(&change(r#"{"mode":"cut"}"#), later).expect("valid");
        assert_eq!((fresh.ttft, fresh.percent), (None, 100));
    }

    #[test]
    fn faulty_changes_are_refused() {
        let now = clock::instant();
        for json in
            [r#"{"factor":0}"#, r#"{"status":200}"#, r#"{"percent":101}"#, r#"{"gap":"20"}"#]
        {
            let change: Change = serde_json::from_str(json).expect("parses");
            assert!(Behaviour::default().merged(&change, now).is_err(), "{json}");
        }
        assert!(serde_json::from_str::<Change>(r#"{"modus":"cut"}"#).is_err());
        assert!(serde_json::from_str::<Change>(r#"{"mode":"odd"}"#).is_err());
    }
}
