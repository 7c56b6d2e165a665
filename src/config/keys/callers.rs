//! The tables of those who call and those who pay, and what limits them.

use super::super::choices::{Billing, Choices, Endpoint};
use super::super::schema::{Key, Kind, Table, duration, joined};
use super::{HOUR_MS, NAMES, NETWORKS};
use crate::limits::Overrun;

const LIMITS_ALSO: &[&str] =
    &["budget", "rpm", "tpm", "tpd", "parallel", "max_budget", "rpm_limit", "tpm_limit", "quota"];

const LIMITS_EXAMPLE: &str = "{ rpm = 6000, tpd = 50000000, models = { \"gpt-4o-mini\" = { rpm = 600 } }, \
     budget = [{ amount = \"1000\", per = \"monthly\" }, { amount = \"800\", per = \"monthly\", soft = true }] }";

const MOST_REQUESTS: Kind = Kind::Integer { min: 0, max: 1_000_000_000 };
const MOST_TOKENS: Kind = Kind::Integer { min: 0, max: 1_000_000_000_000 };
const OVERRUN: Choices = Choices { now: &Overrun::NAMES, later: &[] };

/// What the limits for all models and those for one have in common.
const LIMIT_KEYS: [Key; 6] = [
    Key::optional("rpm", MOST_REQUESTS, "Requests in any 60 seconds.").example("600").also(&[
        "requests",
        "rpm_limit",
        "requests_per_minute",
    ]),
    Key::optional("tpm", MOST_TOKENS, "Tokens in any 60 seconds.").example("200000").also(&[
        "tokens",
        "tpm_limit",
        "tokens_per_minute",
    ]),
    Key::optional("tpd", MOST_TOKENS, "Tokens in any 24 hours.")
        .example("10000000")
        .also(&["tokens_per_day"]),
    Key::optional("parallel", MOST_REQUESTS, "Requests at the same time.")
        .example("50")
        .also(&["max_parallel_requests", "concurrency"]),
    Key::with(
        "overrun",
        Kind::Choice(&OVERRUN),
        "finish",
        "What tpm and tpd do about an answer that gets longer than was expected: let it finish, cut it \
         off, or reserve its upper bound from the start.",
    ),
    Key::with("budget", Kind::Inlines(&BUDGET), "[]", "Money, for several periods at once.")
        .also(&["budgets", "max_budget", "money"]),
];

const LIMITS: Table = Table {
    label: "limits",
    doc: "What an account, a project, a user or a key may use. What is absent is not limited.",
    keys: &LIMITS_KEYS,
    later: &["images", "audio"],
};

const LIMITS_KEYS: [Key; 7] = joined(
    &LIMIT_KEYS,
    &[Key::with(
        "models",
        Kind::Named(&LIMITS_OF_MODEL),
        "{}",
        "The same for single models, besides.",
    )
    .also(&["model"])],
);

const LIMITS_OF_MODEL: Table = Table {
    label: "limits of a model",
    doc: "What may be used of one model, besides the limits for all models.",
    keys: &LIMIT_KEYS,
    later: &["images", "audio"],
};

const BUDGET: Table = Table {
    label: "budget of limits",
    doc: "So much money in each period.",
    keys: &[
        Key::required("amount", Kind::Amount, "In the account's currency.").example("100").also(&[
            "max",
            "limit",
            "max_budget",
        ]),
        Key::with("per", Kind::Period, "total", "total, daily, weekly, monthly, or days as in 7d.")
            .example("monthly")
            .also(&["period", "budget_duration", "duration"]),
        Key::with(
            "overrun",
            Kind::Choice(&OVERRUN),
            "finish",
            "What it does about an answer that gets dearer than was expected: as in limits.",
        ),
        Key::with("soft", Kind::Bool, "false", "Nothing is refused; passing it raises an alert."),
    ],
    later: &[],
};

pub(super) const QUEUE: Table = Table {
    label: "queue",
    doc: "Waiting instead of a refusal.",
    keys: &[
        Key::required("wait", duration(1, HOUR_MS), "A request waits at most so long.")
            .example("2s")
            .also(&["timeout", "max_wait"]),
        Key::with(
            "depth",
            Kind::Integer { min: 1, max: 100_000 },
            "100",
            "So many requests may wait; what comes then is refused.",
        )
        .also(&["size", "max"]),
    ],
    later: &[],
};

pub(super) const ACCOUNT: Table = Table {
    label: "[[account]]",
    doc: "Who pays. The account \"default\" exists without being written down.",
    keys: &[
        Key::required("name", Kind::Name, "Its name.").example("acme"),
        Key::with("currency", Kind::Currency, "USD", "Three letters after ISO 4217."),
        Key::with(
            "billing",
            Kind::Choice(&Billing::CHOICES),
            "postpaid",
            "Prepaid: it is served as long as its balance lasts.",
        )
        .example("prepaid"),
        Key::optional(
            "balance",
            Kind::Amount,
            "What a prepaid account has to spend, in its currency.",
        )
        .example("100.00")
        .also(&["credit", "quota"]),
        Key::with(
            "timezone",
            Kind::TimeZone,
            "UTC",
            "Where the days of its budgets begin: a name of the IANA database.",
        )
        .example("Europe/Berlin")
        .also(&["tz", "time_zone"]),
        Key::optional(
            "price_group",
            Kind::Name,
            "The [[price_group]] whose prices and markup it has.",
        )
        .example("resale")
        .also(&["group"]),
        Key::optional(
            "markup",
            Kind::Markup,
            "Instead of the price group's: charge = cost x markup.",
        )
        .example("1.25"),
        Key::optional(
            "queue",
            Kind::Inline(&QUEUE),
            "When its limits have no room, requests wait instead of being refused.",
        )
        .example("{ wait = \"2s\", depth = 100 }"),
        Key::optional("limits", Kind::Inline(&LIMITS), "What all of it may use together.")
            .example(LIMITS_EXAMPLE)
            .also(LIMITS_ALSO),
        Key::with("metadata", Kind::Anything, "{}", "Anything; kept with the account.")
            .example("{ contact = \"ada\" }"),
    ],
    later: &["top_ups"],
};

pub(super) const PROJECT: Table = Table {
    label: "[[project]]",
    doc: "A group of keys of one account. The project \"default\" exists without being written down.",
    keys: &[
        Key::required("name", Kind::Name, "Its name.").example("chat"),
        Key::with("account", Kind::Name, "default", "The [[account]] that pays.").example("acme"),
        Key::with(
            "models",
            NAMES,
            "[\"*\"]",
            "The models that its keys may use at most; \"*\" stands for any text.",
        )
        .example("[\"gpt-*\"]")
        .also(&["allowed_models"]),
        Key::optional("limits", Kind::Inline(&LIMITS), "What its keys may use together.")
            .example("{ tpm = 100000 }")
            .also(LIMITS_ALSO),
        Key::with("tags", NAMES, "[]", "Words for grouping usage, beside those of the key.")
            .example("[\"team-a\"]"),
        Key::with("metadata", Kind::Anything, "{}", "Anything; kept with the project.")
            .example("{ owner = \"ada\" }"),
    ],
    later: &["deny_models"],
};

pub(super) const USER: Table = Table {
    label: "[[user]]",
    doc: "A person who has keys.",
    keys: &[
        Key::required("name", Kind::Name, "The name.").example("ada"),
        Key::with("account", Kind::Name, "default", "The [[account]] that the person belongs to.")
            .example("acme"),
        Key::optional("email", Kind::Name, "Where the person is reached.")
            .example("ada@example.com"),
        Key::optional("limits", Kind::Inline(&LIMITS), "What the person's keys may use together.")
            .example("{ rpm = 60 }")
            .also(LIMITS_ALSO),
    ],
    later: &["role", "tags", "metadata"],
};

pub(super) const KEY: Table = Table {
    label: "[[key]]",
    doc: "A key that callers present, and what it may do.",
    keys: &[
        Key::required("name", Kind::Name, "Its name in logs and usage.").example("chat-backend"),
        Key::with("project", Kind::Name, "default", "The [[project]] it belongs to."),
        Key::optional("user", Kind::Name, "The [[user]] it belongs to.").example("ada"),
        Key::optional("secret", Kind::Secret, "What callers present; this or sha256.")
            .example("env:CHAT_BACKEND_KEY")
            .shown()
            .also(&["token", "value", "api_key", "key"]),
        Key::optional("sha256", Kind::Sha256, "The SHA-256 of the secret instead of the secret.")
            .example("f2d4b279b82ad92867af5878fe7482caebdd7b75499868d0362a6e63ff51f046")
            .also(&["hash"]),
        Key::with("models", NAMES, "[\"*\"]", "The models it may use; \"*\" stands for any text.")
            .example("[\"gpt-*\"]")
            .also(&["allowed_models"]),
        Key::with("deny_models", NAMES, "[]", "Models that it may not use, whatever models says.")
            .example("[\"gpt-4o\"]"),
        Key::with(
            "aliases",
            Kind::Names,
            "{}",
            "Other names that its callers may ask for, each with the [[model]] that it stands for.",
        )
        .example("{ \"gpt-4\" = \"gpt-4o-mini\" }")
        .also(&["model_aliases", "model_mapping"]),
        Key::with(
            "endpoints",
            Kind::List(&Kind::Choice(&Endpoint::CHOICES)),
            "[]",
            "What it may call; empty is everything.",
        )
        .example("[\"chat\", \"embeddings\", \"models\"]"),
        Key::with("cidrs", NETWORKS, "[]", "Networks that it may be used from; empty is all.")
            .example("[\"10.0.0.0/8\"]")
            .also(&["allowed_ips", "subnet"]),
        Key::optional("limits", Kind::Inline(&LIMITS), "What it may use.")
            .example(
                "{ rpm = 600, tpm = 200000, parallel = 50, budget = [{ amount = \"100\", per = \"monthly\" }] }",
            )
            .also(LIMITS_ALSO),
        Key::optional("expires_at", Kind::Time, "It is refused from then on: RFC 3339.")
            .example("2030-01-31T00:00:00Z")
            .also(&["expires", "expiry"]),
        Key::with("tags", NAMES, "[]", "Words for grouping usage.").example("[\"team-a\"]"),
        Key::with("metadata", Kind::Anything, "{}", "Anything; kept with the key.")
            .example("{ owner = \"ada\" }"),
    ],
    later: &["price_group", "blocked"],
};
