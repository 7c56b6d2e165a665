//! Every key of the configuration, described once. Reading, faults, `config reference` and
//! `config init` follow from here; so does the commented example in the repository.

use super::choices::{Dialect, Level, OnDisconnect, Policy, Protocol, Unpriced, WhenFull};
use super::presets::PRESETS;
use super::schema::{GIB, KIB, Key, Kind, MIB, TIB, Table, duration, duration_or};

mod callers;
mod prices;

use callers::{ACCOUNT, KEY, PROJECT, QUEUE, USER};
pub(super) use prices::UNITS;
use prices::{PRICE, PRICE_GROUP, PRICES, RATE};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const NAMES: Kind = Kind::List(&Kind::Name);
const ADDRESSES: Kind = Kind::List(&Kind::Address { off: false });
const NETWORKS: Kind = Kind::List(&Kind::Network);

/// The file as a whole.
pub(super) const ROOT: Table = Table {
    label: "the file",
    doc: "Durations are whole numbers with a unit (us, ms, s, m, h, d), sizes likewise (B, KB, MB, \
          GB, KiB, MiB, GiB, TiB). A secret is \"env:NAME\" (an environment variable), \"file:PATH\" (a \
          file, relative to this one; the line break at its end does not count) or the secret itself. \
          The tables [[provider]], [[model]] and [[key]] alone make a complete configuration.",
    keys: &[
        Key::with("server", Kind::Section(&SERVER), "{}", SERVER.doc).shown(),
        Key::with("admin", Kind::Section(&ADMIN), "{}", ADMIN.doc).shown(),
        Key::with("store", Kind::Section(&STORE), "{}", STORE.doc).shown(),
        Key::with("log", Kind::Section(&LOG), "{}", LOG.doc).shown(),
        Key::optional("provider", Kind::Sections(&PROVIDER), PROVIDER.doc)
            .shown()
            .also(&["upstream", "backend"]),
        Key::optional("model", Kind::Sections(&MODEL), MODEL.doc).shown().also(&[
            "model_list",
            "route",
            "alias",
        ]),
        Key::optional("account", Kind::Sections(&ACCOUNT), ACCOUNT.doc),
        Key::optional("project", Kind::Sections(&PROJECT), PROJECT.doc).also(&["team"]),
        Key::optional("user", Kind::Sections(&USER), USER.doc),
        Key::optional("key", Kind::Sections(&KEY), KEY.doc).shown().also(&["virtual_key"]),
        Key::optional("price", Kind::Sections(&PRICE), PRICE.doc).also(&["pricing", "cost"]),
        Key::with("prices", Kind::Section(&PRICES), "{}", PRICES.doc),
        Key::optional("price_group", Kind::Sections(&PRICE_GROUP), PRICE_GROUP.doc)
            .also(&["price_groups", "group"]),
        Key::optional("rate", Kind::Sections(&RATE), RATE.doc).also(&["rates", "fx"]),
    ],
    later: &["alerts", "limits", "billing", "principal", "principals"],
};

/// A further file of prices: nothing but `[[price]]`.
pub(super) const PRICE_FILE: Table = Table {
    label: "a file of prices",
    doc: "",
    keys: &[Key::optional("price", Kind::Sections(&PRICE), PRICE.doc)],
    later: &[],
};

const SERVER: Table = Table {
    label: "[server]",
    doc: "The data port: what callers connect to.",
    keys: &[
        Key::with(
            "listen",
            ADDRESSES,
            "[\"127.0.0.1:8080\"]",
            "Addresses for HTTP/1.1 and HTTP/2 by prior knowledge, in clear. May be empty if [server.tls] \
             listens.",
        )
        .shown()
        .also(&["port", "bind", "address", "host"]),
        Key::with("workers", Kind::Integer { min: 0, max: 1024 }, "0", "Threads; 0 is one per core.")
            .also(&["threads", "worker_processes"]),
        Key::with(
            "trusted_proxies",
            NETWORKS,
            "[]",
            "Networks whose X-Forwarded-For is believed.",
        )
        .example("[\"10.0.0.0/8\", \"fd00::/8\"]"),
        Key::with(
            "keep_alive_comment",
            duration_or("off", 1_000, HOUR_MS),
            "off",
            "Send an SSE comment whenever a stream has been silent for so long before its first content: \
             for proxies on the way that cut silent connections.",
        )
        .example("15s"),
        Key::with(
            "over_budget_status",
            Kind::OneOf(&[429, 402]),
            "429",
            "The status of a refusal because a budget or a balance is used up.",
        ),
        Key::optional("tls", Kind::Section(&TLS), TLS.doc),
        Key::with("limits", Kind::Section(&LIMITS), "{}", LIMITS.doc).shown(),
        Key::with("timeouts", Kind::Section(&TIMEOUTS), "{}", TIMEOUTS.doc).shown(),
        Key::with("retry", Kind::Section(&RETRY), "{}", RETRY.doc).shown().also(&["retries"]),
    ],
    later: &["proxy_protocol"],
};

const TLS: Table = Table {
    label: "[server.tls]",
    doc: "TLS on ports of its own: HTTP/2 and HTTP/1.1 by ALPN.",
    keys: &[
        Key::required("listen", ADDRESSES, "Addresses for TLS.").example("[\"0.0.0.0:8443\"]"),
        Key::required(
            "certificates",
            Kind::Inlines(&CERTIFICATE),
            "The name that a caller asks for picks one; the first serves the rest. Read again when the \
             files change.",
        )
        .example("[{ cert = \"file:edge.pem\", key = \"file:edge.key\" }]"),
        Key::with("http3", Kind::Bool, "false", "HTTP/3; not available in this version."),
    ],
    later: &["client_ca", "min_version"],
};

const CERTIFICATE: Table = Table {
    label: "certificates of [server.tls]",
    doc: "One certificate.",
    keys: &[
        Key::required(
            "cert",
            Kind::Pem("CERTIFICATE"),
            "The chain in PEM, the server's own first.",
        )
        .example("file:edge.pem")
        .also(&["certificate", "crt"]),
        Key::required("key", Kind::Pem("PRIVATE KEY"), "Its private key in PEM.")
            .example("file:edge.key")
            .also(&["private_key"]),
    ],
    later: &[],
};

const LIMITS: Table = Table {
    label: "[server.limits]",
    doc: "What one request, one connection and all together may use up.",
    keys: &[
        Key::with(
            "body",
            Kind::Size { min: KIB, max: 16 * GIB },
            "32MiB",
            "One request body; above: 413.",
        )
        .also(&["client_max_body_size", "max_body"]),
        Key::with(
            "headers",
            Kind::Size { min: KIB, max: 16 * MIB },
            "64KiB",
            "The head of one request; above: 431.",
        ),
        Key::with(
            "header_count",
            Kind::Integer { min: 8, max: 256 },
            "100",
            "Header lines of one request; above: 431.",
        ),
        Key::with(
            "uri",
            Kind::Size { min: 256, max: MIB },
            "8KiB",
            "Path and query of one request; longer ones are refused.",
        ),
        Key::with(
            "connections",
            Kind::Integer { min: 1, max: 10_000_000 },
            "20000",
            "Open connections of callers, all workers together.",
        )
        .also(&["max_connections", "worker_connections"]),
        Key::with(
            "streams_per_connection",
            Kind::Integer { min: 1, max: 10_000 },
            "100",
            "Parallel requests on one HTTP/2 connection.",
        ),
        Key::with(
            "requests",
            Kind::Integer { min: 1, max: 10_000_000 },
            "20000",
            "Requests in flight, all workers together; above: 503.",
        ),
        Key::with(
            "body_memory",
            Kind::Size { min: MIB, max: TIB },
            "1GiB",
            "Request bodies held in memory, all together; above: 503.",
        ),
    ],
    later: &["header"],
};

const TIMEOUTS: Table = Table {
    label: "[server.timeouts]",
    doc: "How long callers may take.",
    keys: &[
        Key::with("header", duration(100, HOUR_MS), "10s", "For the head of a request."),
        Key::with("body", duration(100, DAY_MS), "60s", "For the whole body of a request."),
        Key::with(
            "idle",
            duration(1_000, DAY_MS),
            "620s",
            "A connection without a request stays open for so long.",
        )
        .also(&["keepalive", "keep_alive"]),
        Key::with(
            "write",
            duration(100, HOUR_MS),
            "60s",
            "A caller who reads nothing is cut off after so long.",
        ),
        Key::with("tls_handshake", duration(100, HOUR_MS), "10s", "For the TLS handshake."),
        Key::with(
            "drain",
            duration(0, DAY_MS),
            "30s",
            "At the end of the process: for requests in flight to finish.",
        )
        .also(&["shutdown", "grace"]),
    ],
    later: &["request"],
};

const RETRY: Table = Table {
    label: "[server.retry]",
    doc: "Further attempts at a request of which the caller has seen nothing yet.",
    keys: &[
        Key::with(
            "attempts",
            Kind::Integer { min: 1, max: 8 },
            "3",
            "At most so many for one request, the first included.",
        )
        .also(&["num_retries", "max_retries"]),
        Key::with(
            "budget",
            Kind::Number { min: 0.0, max: 1.0 },
            "0.2",
            "Further attempts as a share of all requests.",
        ),
        Key::with(
            "budget_min",
            Kind::Integer { min: 0, max: 10_000 },
            "10",
            "So many further attempts per second, for each worker, are free of the budget.",
        ),
        Key::with(
            "hold_max",
            duration(0, HOUR_MS),
            "10s",
            "The start of an answer is held back for so long while there is no content in it.",
        ),
        Key::with(
            "hold_bytes",
            Kind::Size { min: KIB, max: 16 * MIB },
            "64KiB",
            "The start of an answer is held back up to this size.",
        ),
    ],
    later: &[],
};

const ADMIN: Table = Table {
    label: "[admin]",
    doc: "The admin port: API, /metrics, /health/live, /health/ready.",
    keys: &[
        Key::with("listen", Kind::Address { off: true }, "127.0.0.1:9090", "Its address, or \"off\".").shown(),
        Key::optional(
            "token",
            Kind::Secret,
            "What callers of the API must present. May be missing only on a loopback address: then one is \
             made at each start and printed once.",
        )
        .example("env:FORETOKEN_ADMIN_TOKEN")
        .also(&["master_key", "password"]),
    ],
    later: &["principals", "oidc"],
};

const STORE: Table = Table {
    label: "[store]",
    doc: "Where usage is kept: a journal beside this path, in PATH.journal.",
    keys: &[
        Key::with(
            "path",
            Kind::Path,
            "foretoken.db",
            "A file, relative to the working directory; \":memory:\" keeps nothing.",
        )
        .also(&["file", "database"]),
        Key::with(
            "journal",
            Kind::Size { min: MIB, max: TIB },
            "64MiB",
            "The largest size of the local journal.",
        ),
        Key::with(
            "fsync",
            duration_or("always", 1, 60_000),
            "50ms",
            "The journal reaches the disk at least so often; \"always\": before each request is sent on.",
        ),
        Key::with(
            "flush",
            duration(100, 60_000),
            "1s",
            "The journal is moved to the database so often.",
        )
        .also(&["flush_interval"]),
        Key::with(
            "when_full",
            Kind::Choice(&WhenFull::CHOICES),
            "refuse",
            "What becomes of requests when the journal is full: refused, or served with their records \
             dropped and counted.",
        ),
        Key::with(
            "retention",
            duration_or("forever", DAY_MS, 36_500 * DAY_MS),
            "90d",
            "Records of single requests are kept for so long; sums by hour and day stay.",
        ),
    ],
    later: &["url"],
};

const LOG: Table = Table {
    label: "[log]",
    doc: "What is written about requests and about the process.",
    keys: &[
        Key::with(
            "access",
            Kind::Output,
            "stdout",
            "One line of JSON for each request: stdout, stderr, off or a path.",
        )
        .also(&["access_log"]),
        Key::with(
            "level",
            Kind::Choice(&Level::CHOICES),
            "info",
            "What the process tells of itself on the standard error output.",
        )
        .also(&["log_level"]),
    ],
    later: &["format"],
};

const PROVIDER: Table = Table {
    label: "[[provider]]",
    doc: "A server that models run on.",
    keys: &[
        Key::required("name", Kind::Slug, "Its name in targets, logs and metrics.").example("openai"),
        Key::optional(
            "preset",
            Kind::Choice(&PRESETS),
            "Fills in dialect, base_url and include_usage; each can be set beside it.",
        )
        .example("openai")
        .shown()
        .also(&["type", "kind"]),
        Key::with("dialect", Kind::Choice(&Dialect::CHOICES), "openai", "The wire format it speaks.")
            .also(&["format", "api_type"]),
        Key::optional("base_url", Kind::Url, "Where it is, with the path up to and including /v1; needed without a preset.")
            .example("https://api.openai.com/v1")
            .also(&["api_base", "url", "endpoint", "host", "base"]),
        Key::optional("api_key", Kind::Secret, "The key presented to it; without one none is sent.")
            .example("env:OPENAI_API_KEY")
            .shown()
            .also(&["key", "token", "secret"]),
        Key::optional("api_keys", Kind::List(&Kind::Secret), "Several keys, each with limits of its own, instead of api_key.")
            .example("[\"env:OPENAI_API_KEY\", \"env:OPENAI_API_KEY_2\"]"),
        Key::with("protocol", Kind::Choice(&Protocol::CHOICES), "auto", "HTTP version: auto is HTTP/2 where TLS agrees on it.")
            .also(&["http_version"]),
        Key::with("timeouts", Kind::Inline(&PROVIDER_TIMEOUTS), "{}", PROVIDER_TIMEOUTS.doc).also(&["timeout"]),
        Key::with("pool", Kind::Inline(&POOL), "{}", POOL.doc),
        Key::with("tls", Kind::Inline(&PROVIDER_TLS), "{}", PROVIDER_TLS.doc)
            .example("{ ca = \"file:root.pem\", server_name = \"llm.internal\" }"),
        Key::optional(
            "include_usage",
            Kind::Bool,
            "Ask for usage in streams whose caller did not: true, unless the preset says otherwise.",
        )
        .example("true"),
        Key::with("headers", Kind::Headers, "{}", "Further header lines sent with each request; the values are secrets.")
            .example("{ x-title = \"foretoken\" }"),
        Key::optional("on_disconnect", Kind::Choice(&OnDisconnect::CHOICES), "For its targets; see [[model]].")
            .example("drain"),
    ],
    later: &["price", "prices", "limits", "hedge", "region", "proxy", "deployment", "api_version"],
};

const PROVIDER_TIMEOUTS: Table = Table {
    label: "timeouts of [[provider]]",
    doc: "How long the server may take.",
    keys: &[
        Key::with(
            "connect",
            duration(10, HOUR_MS),
            "5s",
            "For name, TCP, TLS and HTTP/2 together.",
        ),
        Key::with(
            "first_content",
            duration(10, DAY_MS),
            "600s",
            "Until the first content of an answer.",
        )
        .also(&["first_token", "first_byte", "ttft"]),
        Key::with("idle", duration(10, DAY_MS), "120s", "Between two pieces of an answer."),
        Key::with(
            "total",
            duration_or("off", 0, DAY_MS),
            "off",
            "For an answer as a whole; \"off\" or \"0s\": no bound.",
        )
        .also(&["timeout", "request"]),
        Key::with(
            "drain_max",
            duration(100, HOUR_MS),
            "30s",
            "For the rest of an answer whose caller has left, where on_disconnect is \"drain\".",
        ),
    ],
    later: &[],
};

const POOL: Table = Table {
    label: "pool of [[provider]]",
    doc: "Connections to the server.",
    keys: &[
        Key::with(
            "min_warm",
            Kind::Integer { min: 0, max: 1024 },
            "1",
            "Kept open ahead of need, for the whole process.",
        ),
        Key::with(
            "max_streams",
            Kind::Integer { min: 1, max: 1024 },
            "64",
            "Parallel requests on one HTTP/2 connection.",
        ),
        Key::with(
            "max_connections",
            Kind::Integer { min: 1, max: 65_535 },
            "20000",
            "Open at once, for each worker.",
        ),
        Key::with(
            "max_age",
            duration_or("off", 1_000, 7 * DAY_MS),
            "30m",
            "A connection takes no new request after about so long.",
        ),
        Key::with(
            "idle",
            duration_or("off", 100, DAY_MS),
            "55s",
            "An unused connection is closed after so long: less than the server's own bound.",
        ),
    ],
    later: &[],
};

const PROVIDER_TLS: Table = Table {
    label: "tls of [[provider]]",
    doc: "Whom to trust, beside the system's roots.",
    keys: &[
        Key::optional("ca", Kind::Pem("CERTIFICATE"), "Further roots in PEM.")
            .example("file:root.pem"),
        Key::optional(
            "server_name",
            Kind::Name,
            "The name expected in the certificate, if it is not the host of base_url.",
        )
        .example("llm.internal")
        .also(&["sni"]),
    ],
    later: &["cert", "key"],
};

const MODEL: Table = Table {
    label: "[[model]]",
    doc: "A name that callers use for a model, and the targets behind it.",
    keys: &[
        Key::required("name", Kind::Name, "The name; \"prefix/*\" stands for all that begin so, \"*\" for all that no other has.")
            .example("gpt-4o-mini")
            .also(&["model_name", "alias", "id"]),
        Key::with(
            "policy",
            Kind::Choice(&Policy::CHOICES),
            "priority",
            "How targets are ordered: by priority, by weight, or the one with the fewest requests in flight.",
        )
        .also(&["strategy", "routing", "routing_strategy"]),
        Key::required("targets", Kind::Inlines(&TARGET), "Where it may be served; the next is tried when one fails.")
            .example("[{ provider = \"openai\", model = \"gpt-4o-mini\" }]")
            .also(&["providers", "upstreams", "deployments"]),
        Key::with("fallbacks", NAMES, "[]", "Other models of this file, tried in this order when every target fails.")
            .example("[\"gpt-4o\"]"),
        Key::with("rewrite_model", Kind::Bool, "false", "Answers name the model as it was asked for, not as the upstream calls it."),
        Key::optional("max_output", Kind::Integer { min: 1, max: 1_000_000_000 }, "The most tokens that one answer may have: what strict limits reserve.")
            .example("16384")
            .also(&["max_tokens", "max_output_tokens"]),
        Key::with(
            "unpriced",
            Kind::Choice(&Unpriced::CHOICES),
            "free",
            "What becomes of requests to a target without a price: served for nothing and marked so, refused, or billed at the default of [prices].",
        ),
        Key::optional("queue", Kind::Inline(&QUEUE), "When every target is busy, requests wait instead of being refused.")
            .example("{ wait = \"2s\", depth = 100 }"),
        Key::optional(
            "on_disconnect",
            Kind::Choice(&OnDisconnect::CHOICES),
            "What becomes of the upstream's answer when the caller has left: ended at once, or read on so that its usage is known. The target's word counts, else the model's, else the provider's, else cancel.",
        )
        .example("cancel"),
    ],
    later: &["hedge", "price", "limits", "sticky", "context"],
};

const TARGET: Table = Table {
    label: "targets of [[model]]",
    doc: "One place where a model may be served.",
    keys: &[
        Key::required("provider", Kind::Name, "The name of a [[provider]].").example("openai"),
        Key::optional("model", Kind::Name, "The model's name there: that of the [[model]] if absent; \"*\" passes on what was asked for.")
            .example("gpt-4o-mini"),
        Key::with("weight", Kind::Integer { min: 0, max: 1_000_000 }, "1", "Its share among targets of the same priority. 0 means no traffic while another one can be asked."),
        Key::with("priority", Kind::Integer { min: 0, max: 1000 }, "0", "Lower ones first.").also(&["order"]),
        Key::optional("on_disconnect", Kind::Choice(&OnDisconnect::CHOICES), "See on_disconnect below.")
            .example("cancel"),
    ],
    later: &["price", "limits", "rpm", "tpm"],
};
