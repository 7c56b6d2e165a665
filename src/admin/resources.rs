//! The kinds of objects: what can be done with each, by whom, and which fields it has. The directory
//! checks the values; what is said here goes into the list of calls and into the OpenAPI document.

use super::calls::ROLES;
use super::query::{Parameter, Shape};
use crate::directory::{Resource, Role, Verb};

/// One kind.
pub(super) struct Kind {
    pub(super) resource: Resource,
    /// As in paths.
    pub(super) plural: &'static str,
    /// With its article.
    pub(super) one: &'static str,
    pub(super) noun: &'static str,
    /// The name of its schema.
    pub(super) schema: &'static str,
    /// A sentence on what it is.
    pub(super) about: &'static str,
    /// What showing one adds to what a list holds.
    pub(super) shown: &'static str,
    pub(super) verbs: &'static [Verb],
    /// Who may change it, at most: each within its scope.
    pub(super) writers: &'static [Role],
    pub(super) readers: &'static [Role],
    /// Query parameters of the list.
    pub(super) filters: &'static [Parameter],
    /// Query parameters of calls on a single one.
    pub(super) single: &'static [Parameter],
    /// Query parameters of `DELETE` beside those.
    pub(super) deleting: &'static [Parameter],
    /// What a block does, where there is one.
    pub(super) blocking: &'static str,
    /// Whose block `unblock` takes back.
    pub(super) blocked: &'static str,
    pub(super) fields: &'static [Field],
}

/// One field.
pub(super) struct Field {
    pub(super) name: &'static str,
    pub(super) form: Form,
    pub(super) place: Place,
    pub(super) about: &'static str,
}

/// Where a field may stand.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In every body and answer; the first of a creation.
    Needed,
    /// In every body and answer.
    Free,
    /// Said once, when the object is made; shown ever after.
    Fixed,
    /// In the body of a creation only: never shown.
    Given,
    /// In answers only.
    Told,
}

/// What a value looks like.
#[derive(Clone, Copy)]
pub(super) enum Form {
    Text,
    Texts,
    Flag,
    /// A decimal string: never a number, which would be read as a float.
    Money,
    Currency,
    Time,
    Enum(&'static [&'static str]),
    /// Texts by name.
    Map,
    /// Any object.
    Free,
    /// Another schema of the document.
    Schema(&'static str),
}

const fn field(name: &'static str, form: Form, place: Place, about: &'static str) -> Field {
    Field { name, form, place, about }
}

#[rustfmt::skip]
const NAME: Field = field("name", Form::Text, Place::Needed, "Unique among those not deleted.");
#[rustfmt::skip]
const LIMITS: Field = field("limits", Form::Schema("Limits"), Place::Free, "What may be used.");
#[rustfmt::skip]
const METADATA: Field = field("metadata", Form::Free, Place::Free, "Notes of yours, up to 4 KiB as JSON.");
#[rustfmt::skip]
const TAGS: Field = field("tags", Form::Texts, Place::Free, "Labels by which usage is grouped.");
#[rustfmt::skip]
const USAGE: Field =
    field("usage", Form::Schema("ScopeUsage"), Place::Told, "Current use of each limit.");
#[rustfmt::skip]
const PREVIOUS: Field = field("previous_valid_until", Form::Time, Place::Told, "After a rotation: until when the old secret works.");
#[rustfmt::skip]
const REPLAYED: Field = field("replayed", Form::Flag, Place::Told, "True for an answer that was given before: its secret is null.");
#[rustfmt::skip]
const KEYS: Field = field("keys", Form::Schema("KeysChanged"), Place::Told, "After an act on all its keys: how many.");
#[rustfmt::skip]
const ID: Field = field("id", Form::Text, Place::Told, "Of objects of the configuration file: the name.");

/// What every answer holds beside its own fields.
#[rustfmt::skip]
pub(super) const COMMON: &[Field] = &[
    ID,
    field("status", Form::Enum(&["active", "blocked", "deleted", "purged"]), Place::Told, "Whether it counts."),
    field("created_at", Form::Time, Place::Told, "When it was made."),
    field("updated_at", Form::Time, Place::Told, "When it was last changed."),
    field("created_by", Form::Text, Place::Told, "The principal that made it."),
    field("managed_by", Form::Enum(&["api", "file"]), Place::Told, "What `file` holds is read-only here."),
];

const STATUS: Parameter = Parameter {
    name: "status",
    shape: Shape::One(&["active", "blocked", "deleted", "all"]),
    about: "Only these; without it, all that are not deleted.",
};
const ACCOUNT: Parameter = Parameter {
    name: "account",
    shape: Shape::Text,
    about: "Only of this account: a name or an id.",
};
const PROJECT: Parameter = Parameter {
    name: "project",
    shape: Shape::Text,
    about: "Only of this project: a name or an id.",
};
/// Names of keys are unique within their project only.
const IN_PROJECT: Parameter = Parameter {
    name: "project",
    shape: Shape::Text,
    about: "Where to look for the name, if several projects have a key of this name.",
};
const USER: Parameter =
    Parameter { name: "user", shape: Shape::Text, about: "Only of this user: a name or an id." };
const CASCADE: Parameter = Parameter {
    name: "cascade",
    shape: Shape::Flag,
    about: "Deletes what belongs to it as well; without it, something living refuses.",
};

const COMMON_VERBS: &[Verb] =
    &[Verb::Create, Verb::List, Verb::Show, Verb::Update, Verb::Delete, Verb::Restore, Verb::Purge];
const SECRET_VERBS: &[Verb] = &[
    Verb::Create,
    Verb::List,
    Verb::Show,
    Verb::Update,
    Verb::Delete,
    Verb::Rotate,
    Verb::Block,
    Verb::Unblock,
    Verb::Restore,
    Verb::Purge,
];
const OWNER_VERBS: &[Verb] = &[
    Verb::Create,
    Verb::List,
    Verb::Show,
    Verb::Update,
    Verb::Delete,
    Verb::Block,
    Verb::Unblock,
    Verb::Restore,
    Verb::Purge,
];

const OWNER: &[Role] = &[Role::Owner];
const ADMINS: &[Role] = &[Role::Owner, Role::Admin];
const MANAGERS: &[Role] = &[Role::Owner, Role::Admin, Role::Manager];
const NO_MANAGER: &[Role] = &[Role::Owner, Role::Admin, Role::Viewer];
const OWNER_VIEWER: &[Role] = &[Role::Owner, Role::Viewer];

/// What the kinds have in common.
const BASE: Kind = Kind {
    resource: Resource::Keys,
    plural: "",
    one: "",
    noun: "",
    schema: "",
    about: "",
    shown: "",
    verbs: COMMON_VERBS,
    writers: OWNER,
    readers: ROLES,
    filters: &[STATUS],
    single: &[],
    deleting: &[],
    blocking: "",
    blocked: "",
    fields: &[],
};

/// All kinds.
pub(super) static KINDS: &[Kind] = &[
    Kind {
        resource: Resource::Keys,
        plural: "keys",
        one: "a key",
        noun: "key",
        schema: "Key",
        about: "Its secret is shown in this answer and never again.",
        shown: " With its current use of each limit.",
        verbs: SECRET_VERBS,
        writers: MANAGERS,
        filters: &[ACCOUNT, PROJECT, USER, STATUS],
        single: &[IN_PROJECT],
        blocking: "Blocks a key: new requests are refused. With `now`, running streams end as well.",
        blocked: "a key",
        fields: KEY,
        ..BASE
    },
    Kind {
        resource: Resource::Accounts,
        plural: "accounts",
        one: "an account",
        noun: "account",
        schema: "Account",
        about: "Accounts pay.",
        shown: " With its current use of each limit.",
        verbs: OWNER_VERBS,
        writers: ADMINS,
        readers: NO_MANAGER,
        deleting: &[CASCADE],
        blocking: "Blocks all keys of an account. With `now`, running streams end as well.",
        blocked: "all keys of an account",
        fields: ACCOUNT_FIELDS,
        ..BASE
    },
    Kind {
        resource: Resource::Projects,
        plural: "projects",
        one: "a project",
        noun: "project",
        schema: "Project",
        about: "Keys belong to projects, projects to accounts.",
        shown: " With its current use of each limit.",
        verbs: OWNER_VERBS,
        writers: MANAGERS,
        filters: &[ACCOUNT, STATUS],
        deleting: &[CASCADE],
        blocking: "Blocks all keys of a project. With `now`, running streams end as well.",
        blocked: "all keys of a project",
        fields: PROJECT_FIELDS,
        ..BASE
    },
    Kind {
        resource: Resource::Users,
        plural: "users",
        one: "a user",
        noun: "user",
        schema: "User",
        about: "Users are people who own keys within an account.",
        shown: " With its current use of each limit.",
        verbs: OWNER_VERBS,
        writers: ADMINS,
        filters: &[ACCOUNT, STATUS],
        deleting: &[CASCADE],
        blocking: "Blocks all keys of a user. With `now`, running streams end as well.",
        blocked: "all keys of a user",
        fields: USER_FIELDS,
        ..BASE
    },
    Kind {
        resource: Resource::Prices,
        plural: "prices",
        one: "a price",
        noun: "price",
        schema: "Price",
        about: "A price holds from `valid_from` until a later one does.",
        readers: OWNER_VIEWER,
        fields: PRICE,
        ..BASE
    },
    Kind {
        resource: Resource::Rates,
        plural: "rates",
        one: "an exchange rate",
        noun: "exchange rate",
        schema: "Rate",
        about: "A rate holds from `valid_from` until a later one does.",
        readers: OWNER_VIEWER,
        fields: RATE,
        ..BASE
    },
    Kind {
        resource: Resource::Principals,
        plural: "principals",
        one: "a principal",
        noun: "principal",
        schema: "Principal",
        about: "Its token is shown in this answer and never again.",
        verbs: SECRET_VERBS,
        writers: ADMINS,
        readers: NO_MANAGER,
        filters: &[ACCOUNT, PROJECT, STATUS],
        blocking: "Blocks a principal: its token is refused.",
        blocked: "a principal",
        fields: PRINCIPAL,
        ..BASE
    },
];

#[rustfmt::skip]
const KEY: &[Field] = &[
    field("name", Form::Text, Place::Needed, "Unique within its project."),
    field("project", Form::Text, Place::Free, "A name or an id; without it, the project `default`."),
    field("project_id", Form::Text, Place::Told, "The project's id."),
    field("account", Form::Text, Place::Told, "Who pays."),
    field("account_id", Form::Text, Place::Told, "The account's id."),
    field("user", Form::Text, Place::Free, "The owner: a name or an id."),
    field("user_id", Form::Text, Place::Told, "The owner's id."),
    field("models", Form::Texts, Place::Free, "Allowed models; `*` at the end matches the rest. Without it: all."),
    field("deny_models", Form::Texts, Place::Free, "Models that are refused although `models` allows them."),
    field("aliases", Form::Map, Place::Free, "Names that this key's callers use, with the alias meant."),
    field("endpoints", Form::Texts, Place::Free, "Allowed endpoints, as `chat`. Without it: all."),
    field("cidrs", Form::Texts, Place::Free, "Addresses from which the key works. Without it: from everywhere."),
    LIMITS,
    field("expires_at", Form::Time, Place::Free, "From then on the key is refused."),
    TAGS,
    METADATA,
    field("secret", Form::Text, Place::Given, "A secret of your own (16 characters or more), for imported keys. In answers: the new secret, after creation and rotation only."),
    field("sha256", Form::Text, Place::Given, "The hash of an imported secret, as 64 hexadecimal digits."),
    field("prefix", Form::Text, Place::Told, "The first characters of the secret."),
    PREVIOUS,
    REPLAYED,
    field("last_used_at", Form::Time, Place::Told, "When it was last used."),
    USAGE,
];

#[rustfmt::skip]
const ACCOUNT_FIELDS: &[Field] = &[
    NAME,
    field("currency", Form::Currency, Place::Fixed, "In which it is charged; `USD` if not said."),
    field("billing", Form::Enum(&["postpaid", "prepaid"]), Place::Free, "Prepaid: refused when the balance is used up."),
    field("balance", Form::Money, Place::Free, "What was paid in, for prepaid accounts."),
    field("timezone", Form::Text, Place::Free, "Where budgets begin anew (IANA name); `UTC` if not said."),
    field("price_group", Form::Text, Place::Free, "Whose selling prices and markup hold."),
    field("markup", Form::Text, Place::Free, "Factor on the upstream's cost, as `1.25`."),
    LIMITS,
    field("queue", Form::Schema("Queue"), Place::Free, "Waiting instead of an instant refusal."),
    METADATA,
    USAGE,
    KEYS,
];

#[rustfmt::skip]
const PROJECT_FIELDS: &[Field] = &[
    NAME,
    field("account", Form::Text, Place::Fixed, "Who pays: a name or an id; without it, `default`."),
    field("account_id", Form::Text, Place::Told, "The account's id."),
    field("models", Form::Texts, Place::Free, "Models that its keys may use at most."),
    LIMITS,
    TAGS,
    METADATA,
    USAGE,
    KEYS,
];

#[rustfmt::skip]
const USER_FIELDS: &[Field] = &[
    NAME,
    field("account", Form::Text, Place::Fixed, "The account: a name or an id; without it, `default`."),
    field("account_id", Form::Text, Place::Told, "The account's id."),
    field("email", Form::Text, Place::Free, "Where to write to."),
    LIMITS,
    METADATA,
    USAGE,
    KEYS,
];

#[rustfmt::skip]
const PRICE: &[Field] = &[
    field("provider", Form::Text, Place::Needed, "The provider's name."),
    field("model", Form::Text, Place::Needed, "The upstream's model; `*` at the end matches the rest."),
    field("group", Form::Text, Place::Free, "The price group to which it is sold. Without it: what the upstream costs."),
    field("currency", Form::Currency, Place::Free, "`USD` if not said."),
    field("valid_from", Form::Time, Place::Free, "From when it holds."),
    field("input", Form::Money, Place::Free, "Per million tokens, as all up to `tool_in`."),
    field("cached_read", Form::Money, Place::Free, "Input read from a cache."),
    field("cached_read_audio", Form::Money, Place::Free, "Audio read from a cache."),
    field("cache_write", Form::Money, Place::Free, "Input written to a cache."),
    field("cache_write_5m", Form::Money, Place::Free, "For five minutes."),
    field("cache_write_1h", Form::Money, Place::Free, "For one hour."),
    field("output", Form::Money, Place::Free, "Output tokens."),
    field("reasoning", Form::Money, Place::Free, "Reasoning tokens, if priced apart."),
    field("audio_in", Form::Money, Place::Free, "Audio tokens in."),
    field("audio_out", Form::Money, Place::Free, "Audio tokens out."),
    field("image_in", Form::Money, Place::Free, "Image tokens in."),
    field("image_out", Form::Money, Place::Free, "Image tokens out."),
    field("video_in", Form::Money, Place::Free, "Video tokens in."),
    field("tool_in", Form::Money, Place::Free, "Results of the upstream's own tools."),
    field("request", Form::Money, Place::Free, "Each request."),
    field("web_search", Form::Money, Place::Free, "Each search of the web."),
    field("search_unit", Form::Money, Place::Free, "Each search unit of a rerank."),
    field("image", Form::Money, Place::Free, "Each image made."),
    field("second", Form::Money, Place::Free, "Each second of audio."),
    field("characters", Form::Money, Place::Free, "Per million characters."),
    field("tiers", Form::Free, Place::Free, "Other prices by service tier: `{\"batch\": {\"input\": \"0.07\"}}`."),
    field("long_context", Form::Schema("LongContext"), Place::Free, "Other prices above so many input tokens."),
    field("version", Form::Text, Place::Told, "What records are stamped with."),
];

#[rustfmt::skip]
const RATE: &[Field] = &[
    field("from", Form::Currency, Place::Needed, "One unit of this …"),
    field("to", Form::Currency, Place::Needed, "… in this currency …"),
    field("rate", Form::Money, Place::Needed, "… is worth so much."),
    field("valid_from", Form::Time, Place::Free, "From when it holds."),
];

#[rustfmt::skip]
const PRINCIPAL: &[Field] = &[
    NAME,
    field("role", Form::Enum(&["owner", "admin", "manager", "viewer"]), Place::Needed, "Everything; one account; one project; reading."),
    field("account", Form::Text, Place::Free, "The account it is bound to: a name or an id."),
    field("account_id", Form::Text, Place::Told, "The account's id."),
    field("project", Form::Text, Place::Free, "The project it is bound to: a name or an id."),
    field("project_id", Form::Text, Place::Told, "The project's id."),
    field("expires_at", Form::Time, Place::Free, "From then on the token is refused."),
    field("prefix", Form::Text, Place::Told, "The first characters of the token."),
    field("token", Form::Text, Place::Told, "The token, after creation and rotation only."),
    PREVIOUS,
    REPLAYED,
];
