//! What the simulated model decides to say: the same for a stream and for one document.

use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::Serialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::sim::behaviour::Fault;
use crate::sim::json::{Object, hex};
use crate::sim::schema::fill;
use crate::sim::settings::{Settings, TOKENS_MAX};
use crate::sim::text::{TOKEN_BYTES, canary, cut, mix, tokens_in, write_text};

const REASONING_TOKENS: u64 = 24;
const BIG_BYTES: usize = 1 << 20;
const BIG_PIECE_BYTES: usize = 4096;
/// All choices of one answer together never have more tokens.
const TOKENS_ALL_MAX: u64 = 65_536;

/// The request at hand, for the endpoints.
pub(super) struct Job<'a> {
    pub(super) settings: &'a Settings,
    pub(super) body: &'a [u8],
    pub(super) fault: Fault,
    /// 32 hex digits, for ids.
    pub(super) unique: &'a str,
    /// Seconds since 1970.
    pub(super) created: u64,
}

/// How the answer must look.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Format {
    Text,
    JsonObject,
    Schema(Value),
}

/// A tool that may be called.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Tool {
    pub(super) name: String,
    pub(super) schema: Value,
    /// Takes free text, not arguments.
    pub(super) custom: bool,
}

/// Whether tools are called.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Choice {
    Never,
    Auto,
    Required,
    Named(String),
}

/// A request for text, whatever endpoint it came by.
#[derive(Clone, Debug)]
pub(super) struct Ask {
    pub(super) model: String,
    pub(super) stream: bool,
    /// The model thinks before it speaks.
    pub(super) reasons: bool,
    pub(super) include_usage: bool,
    /// Of everything the model reads.
    pub(super) hash: u64,
    pub(super) prompt_tokens: u64,
    pub(super) last_user: String,
    /// The last message is a tool's result: the model answers with text.
    pub(super) after_tool: bool,
    pub(super) budget: Option<u64>,
    pub(super) stops: Vec<String>,
    pub(super) n: u64,
    /// `top_logprobs`, when logprobs are wanted.
    pub(super) logprobs: Option<usize>,
    pub(super) format: Format,
    pub(super) tools: Vec<Tool>,
    pub(super) choice: Choice,
    pub(super) parallel: bool,
    pub(super) tier: &'static str,
}

/// A tool call.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) id: String,
    pub(super) name: String,
    /// JSON, or free text for a custom tool.
    pub(super) arguments: String,
    pub(super) custom: bool,
}

/// One choice of an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) reasoning: String,
    pub(super) text: String,
    pub(super) calls: Vec<Call>,
    /// The token limit ended it.
    pub(super) cut: bool,
}

/// The tokens of an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Usage {
    pub(super) prompt: u64,
    pub(super) cached: u64,
    pub(super) completion: u64,
    pub(super) reasoning: u64,
}

impl Plan {
    /// Tokens of the calls, the reasoning and the text.
    pub(super) fn tokens(&self) -> u64 {
        let calls: u64 = self.calls.iter().map(Call::tokens).sum();
        self.reasoning_tokens() + tokens_in(self.text.len()) + calls
    }

    pub(super) fn reasoning_tokens(&self) -> u64 {
        tokens_in(self.reasoning.len())
    }
}

impl Call {
    pub(super) fn tokens(&self) -> u64 {
        self.name_tokens() + tokens_in(self.arguments.len())
    }

    pub(super) fn name_tokens(&self) -> u64 {
        tokens_in(self.name.len())
    }
}

impl Ask {
    /// All choices of the answer.
    pub(super) fn plans(&self, job: &Job<'_>) -> Vec<Plan> {
        (0..self.n).map(|choice| self.plan(job, choice)).collect()
    }

    /// How many bytes of text one chunk carries.
    pub(super) fn piece_bytes(&self, job: &Job<'_>) -> usize {
        if job.fault == Fault::Big { BIG_PIECE_BYTES } else { TOKEN_BYTES }
    }

    /// What an answer of `plans` costs, prompt included.
    pub(super) fn usage(&self, job: &Job<'_>, plans: &[Plan]) -> Usage {
        Usage {
            prompt: self.prompt_tokens,
            cached: if job.fault == Fault::Cached { self.prompt_tokens / 2 } else { 0 },
            completion: plans.iter().map(Plan::tokens).sum(),
            reasoning: plans.iter().map(Plan::reasoning_tokens).sum(),
        }
    }

    /// Whether the answer tells its usage, which streams do when they are asked to.
    pub(super) fn told(&self, job: &Job<'_>, usage: Usage) -> Option<Usage> {
        match job.fault {
            Fault::NoUsage => None,
            Fault::UsageEvery | Fault::FinishUsage => Some(usage),
            _ => (!self.stream || self.include_usage).then_some(usage),
        }
    }

    fn plan(&self, job: &Job<'_>, choice: u64) -> Plan {
        let mut rng = SmallRng::seed_from_u64(mix(self.hash.wrapping_add(choice)));
        let mut plan = Plan::default();
        let mut budget = self.budget.unwrap_or(u64::MAX);
        let plain = !matches!(job.fault, Fault::Big | Fault::Echo);
        if plain && self.reasons {
            let tokens = REASONING_TOKENS.min(budget / 2);
            plan.reasoning = write_text(mix(self.hash ^ 0x0074_6869_6e6b), tokens);
            budget -= tokens;
        }
        plan.calls = if plain { self.calls(job, choice, &mut rng) } else { Vec::new() };
        if !plan.calls.is_empty() {
            plan.cut = cut_calls(&mut plan.calls, budget);
            return plan;
        }
        plan.text = self.text(job, choice, &mut rng);
        if plain {
            let stop =
                self.stops.iter().filter(|s| !s.is_empty()).filter_map(|s| plan.text.find(s));
            if let Some(at) = stop.min() {
                plan.text.truncate(at);
            }
            if tokens_in(plan.text.len()) > budget {
                cut(&mut plan.text, budget as usize * TOKEN_BYTES);
                plan.cut = true;
            }
        }
        plan
    }

    fn text(&self, job: &Job<'_>, choice: u64, rng: &mut SmallRng) -> String {
        match job.fault {
            Fault::Big => return write_text(self.hash, (BIG_BYTES / TOKEN_BYTES) as u64),
            Fault::Echo => {
                return format!("{} {}", hex(&Sha256::digest(job.body)), job.body.len());
            }
            _ => {}
        }
        let seed = mix(self.hash ^ choice.wrapping_mul(0x6368_6f69_6365));
        match &self.format {
            Format::Schema(schema) => fill(schema, rng).to_string(),
            Format::JsonObject => json!({"answer": write_text(seed, 12), "sure": true}).to_string(),
            Format::Text => {
                let longest = TOKENS_MAX.min(TOKENS_ALL_MAX / self.n.max(1));
                let tokens = job.settings.tokens.sample(rng).min(longest);
                match canary(&self.last_user) {
                    Some(canary) => format!("{canary} {}", write_text(seed, tokens)),
                    None => write_text(seed, tokens),
                }
            }
        }
    }

    /// The calls this choice makes: what is forced; else the tools that the last user message
    /// names. With `parallel_tool_calls`, two tools are called where two are asked for.
    fn calls(&self, job: &Job<'_>, choice: u64, rng: &mut SmallRng) -> Vec<Call> {
        let named = |tool: &&Tool| self.last_user.contains(tool.name.as_str());
        let chosen: Vec<&Tool> = match &self.choice {
            Choice::Never => Vec::new(),
            Choice::Auto if self.after_tool => Vec::new(),
            Choice::Auto => self.tools.iter().filter(named).collect(),
            Choice::Required => {
                let mut tools: Vec<_> = self.tools.iter().filter(named).collect();
                if tools.is_empty() {
                    tools = self.tools.iter().take(2).collect();
                }
                tools
            }
            Choice::Named(name) => self.tools.iter().filter(|t| t.name == *name).take(1).collect(),
        };
        let most = if self.parallel { chosen.len() } else { 1 };
        let call = |(at, tool): (usize, &Tool)| Call {
            id: format!("call_{}{choice:03x}{at:03x}", &job.unique[10..]),
            name: tool.name.clone(),
            arguments: match tool.custom {
                true => "free text, \"quoted\"".to_owned(),
                false => fill(&tool.schema, rng).to_string(),
            },
            custom: tool.custom,
        };
        chosen.into_iter().take(most).enumerate().map(call).collect()
    }
}

/// Shortens the calls to `budget` tokens, as a model that runs into its limit does: the arguments
/// end in the middle. The first call always keeps its name.
fn cut_calls(calls: &mut Vec<Call>, mut budget: u64) -> bool {
    for at in 0..calls.len() {
        let call = &mut calls[at];
        let tokens = call.tokens();
        if tokens > budget {
            let left = budget.saturating_sub(call.name_tokens()) as usize;
            cut(&mut call.arguments, left.saturating_mul(TOKEN_BYTES));
            calls.truncate(at + 1);
            return true;
        }
        budget -= tokens;
    }
    false
}

impl Usage {
    /// As `chat/completions` and `completions` print it.
    pub(super) fn write_chat(&self, out: &mut Vec<u8>) {
        let cached = self.cached;
        let reasoning = self.reasoning;
        Object::new(out)
            .field("prompt_tokens", self.prompt)
            .field("completion_tokens", self.completion)
            .field("total_tokens", self.prompt + self.completion)
            .nest("prompt_tokens_details", |out| {
                Object::new(out)
                    .field("cached_tokens", cached)
                    .field("cache_write_tokens", 0)
                    .field("audio_tokens", 0)
                    .end();
            })
            .nest("completion_tokens_details", |out| {
                Object::new(out)
                    .field("reasoning_tokens", reasoning)
                    .field("audio_tokens", 0)
                    .field("accepted_prediction_tokens", 0)
                    .field("rejected_prediction_tokens", 0)
                    .end();
            })
            .end();
    }

    /// As `responses` prints it.
    pub(super) fn write_responses(&self, out: &mut Vec<u8>) {
        #[derive(Serialize)]
        struct Input {
            cached_tokens: u64,
            cache_write_tokens: u64,
        }
        #[derive(Serialize)]
        struct Output {
            reasoning_tokens: u64,
        }
        let input = Input { cached_tokens: self.cached, cache_write_tokens: 0 };
        Object::new(out)
            .field("input_tokens", self.prompt)
            .field("input_tokens_details", input)
            .field("output_tokens", self.completion)
            .field("output_tokens_details", Output { reasoning_tokens: self.reasoning })
            .field("total_tokens", self.prompt + self.completion)
            .end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::settings::Lengths;

    fn ask() -> Ask {
        Ask {
            model: "m".into(),
            stream: false,
            reasons: false,
            include_usage: false,
            hash: 5,
            prompt_tokens: 10,
            last_user: "hello".into(),
            after_tool: false,
            budget: None,
            stops: Vec::new(),
            n: 1,
            logprobs: None,
            format: Format::Text,
            tools: Vec::new(),
            choice: Choice::Auto,
            parallel: true,
            tier: "default",
        }
    }

    fn tool(name: &str) -> Tool {
        let schema = json!({"type": "object", "properties": {"city": {"type": "string"}}});
        Tool { name: name.into(), schema, custom: false }
    }

    fn planned(ask: &Ask, fault: Fault) -> Vec<Plan> {
        let settings = Settings { tokens: Lengths::constant(40), ..Settings::default() };
        let unique = "0123456789abcdef0123456789abcdef";
        ask.plans(&Job { settings: &settings, body: b"{}", fault, unique, created: 1 })
    }

    #[test]
    fn limits_and_stops_end_the_text() {
        let whole = planned(&ask(), Fault::None).remove(0);
        assert_eq!((whole.tokens(), whole.cut), (40, false));
        assert_eq!(planned(&ask(), Fault::None)[0], whole);
        let short = planned(&Ask { budget: Some(9), ..ask() }, Fault::None).remove(0);
        assert_eq!((short.tokens(), short.cut), (9, true));
        assert!(whole.text.starts_with(&short.text));
        let word = whole.text.split(' ').nth(3).expect("four words").to_owned();
        let stops = vec!["never there".into(), word.clone()];
        let stopped = planned(&Ask { stops, ..ask() }, Fault::None).remove(0);
        assert!(!stopped.cut && !stopped.text.contains(&word));
        assert!(whole.text.starts_with(&stopped.text));
    }

    #[test]
    fn choices_differ_and_reasoning_counts() {
        let plans = planned(&Ask { n: 3, ..ask() }, Fault::None);
        assert_ne!(plans[0].text, plans[1].text);
        let reasoner = Ask { reasons: true, budget: Some(30), ..ask() };
        let plan = planned(&reasoner, Fault::None).remove(0);
        assert_eq!((plan.reasoning_tokens(), plan.tokens(), plan.cut), (15, 30, true));
    }

    #[test]
    fn tools_are_called_when_forced_or_named() {
        let names = |ask: &Ask| -> Vec<String> {
            planned(ask, Fault::None).remove(0).calls.into_iter().map(|call| call.name).collect()
        };
        let tools = vec![tool("rain"), tool("wind"), tool("snow")];
        let with = |choice: Choice, last_user: &str| Ask {
            choice,
            last_user: last_user.into(),
            tools: tools.clone(),
            ..ask()
        };
        assert!(names(&with(Choice::Auto, "hello")).is_empty());
        assert_eq!(names(&with(Choice::Auto, "use wind")), ["wind"]);
        assert!(names(&Ask { after_tool: true, ..with(Choice::Auto, "use wind") }).is_empty());
        assert!(names(&with(Choice::Never, "use wind")).is_empty());
        assert_eq!(names(&with(Choice::Required, "hello")), ["rain", "wind"]);
        assert_eq!(names(&with(Choice::Required, "snow?")), ["snow"]);
        let one = Ask { parallel: false, ..with(Choice::Required, "hello") };
        assert_eq!(names(&one), ["rain"]);
        assert_eq!(names(&with(Choice::Named("snow".into()), "hello")), ["snow"]);
        let cut = Ask { budget: Some(3), ..with(Choice::Named("snow".into()), "hello") };
        let plan = planned(&cut, Fault::None).remove(0);
        assert_eq!((plan.tokens(), plan.cut), (3, true));
    }

    #[test]
    fn canaries_and_echoes() {
        let bird = Ask { last_user: "say canary:abc-1 please".into(), ..ask() };
        assert!(planned(&bird, Fault::None)[0].text.contains("canary:abc-1 "));
        let digest = hex(&Sha256::digest(b"{}"));
        assert_eq!(planned(&ask(), Fault::Echo)[0].text, format!("{digest} 2"));
        assert_eq!(planned(&ask(), Fault::Big)[0].text.len(), BIG_BYTES);
    }
}
