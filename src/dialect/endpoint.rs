//! Which endpoint a method and a path mean, and the sentence for those that mean none.

use crate::ident::Class;

/// An endpoint that is served.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Endpoint {
    ChatCompletions,
    Completions,
    Embeddings,
    Responses,
    Moderations,
    ImageGenerations,
    Speech,
    Rerank,
    /// The list of models, answered from our own table.
    Models,
}

use Endpoint::*;

/// All endpoints.
pub const ENDPOINTS: [Endpoint; 9] = [
    ChatCompletions,
    Completions,
    Embeddings,
    Responses,
    Moderations,
    ImageGenerations,
    Speech,
    Rerank,
    Models,
];

impl Endpoint {
    /// What a request that does not stream waits for; one that streams is [`Class::Stream`].
    pub fn class(self) -> Class {
        match self {
            ChatCompletions | Completions | Responses => Class::Unary,
            _ => Class::Other,
        }
    }

    /// The path at an upstream whose base URL ends in `/v1`.
    pub fn path(self) -> &'static str {
        match self {
            ChatCompletions => "/chat/completions",
            Completions => "/completions",
            Embeddings => "/embeddings",
            Responses => "/responses",
            Moderations => "/moderations",
            ImageGenerations => "/images/generations",
            Speech => "/audio/speech",
            Rerank => "/rerank",
            Models => "/models",
        }
    }

    /// The name in configuration, logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            ChatCompletions => "chat",
            Completions => "completions",
            Embeddings => "embeddings",
            Responses => "responses",
            Moderations => "moderations",
            ImageGenerations => "images",
            Speech => "speech",
            Rerank => "rerank",
            Models => "models",
        }
    }

    /// The endpoint of that [`Endpoint::name`].
    pub fn from_name(name: &str) -> Option<Endpoint> {
        ENDPOINTS.into_iter().find(|endpoint| endpoint.name() == name)
    }

    /// The model that is meant where the body names none.
    pub fn default_model(self) -> Option<&'static str> {
        match self {
            Moderations => Some("omni-moderation-latest"),
            _ => None,
        }
    }

    /// The only method that is answered.
    pub fn method(self) -> &'static str {
        match self {
            Models => "GET",
            _ => "POST",
        }
    }
}

/// What a method and a path mean.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Found {
    /// An endpoint.
    Endpoint(Endpoint),
    /// One model of the list, by its id.
    Model(String),
    /// What the caller's own key has used.
    OwnUsage,
    /// What the caller's own key is and may do.
    OwnKey,
    /// The path is served, by another method: the value of the `allow` header.
    WrongMethod { allow: &'static str },
    /// Nothing that is served. The sentence says why and what to do.
    Unknown { hint: String },
}

/// First segments of OpenAI's API that are not served, or only one path below them is.
const NOT_SERVED: &[&str] = &[
    "assistants",
    "audio",
    "batches",
    "chat",
    "chatkit",
    "containers",
    "conversations",
    "edits",
    "engines",
    "evals",
    "files",
    "fine-tunes",
    "fine_tuning",
    "images",
    "organization",
    "realtime",
    "responses",
    "skills",
    "threads",
    "uploads",
    "vector_stores",
    "videos",
];

const GENERAL: &str = "Unknown URL. Set the base URL to this gateway's address followed by /v1; \
                       GET /v1/models lists the models.";
const ANTHROPIC: &str = "Anthropic's API is not spoken here: call POST /v1/chat/completions.";
const BASE_TOO_LONG: &str = "The base URL is given too long: leave out the endpoint at its end \
                             (for example http://host/v1), the client adds it.";

/// What `method` and `path` mean. The path may lack `/v1` or have it twice, may hold `//`, a
/// trailing slash and a query, which is ignored.
pub fn find(method: &str, path: &str) -> Found {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    match usual(path).or_else(|| unusual(path)) {
        None if path.ends_with("/usage") || path.ends_with("/key") => own(method, path),
        Some(endpoint) if method == endpoint.method() => Found::Endpoint(endpoint),
        Some(endpoint) => Found::WrongMethod { allow: endpoint.method() },
        None => beyond(method, path),
    }
}

/// What a key may see of itself.
fn own(method: &str, path: &str) -> Found {
    let found = match segments(path)[..] {
        ["usage"] => Found::OwnUsage,
        ["key"] => Found::OwnKey,
        _ => return beyond(method, path),
    };
    if method == "GET" { found } else { Found::WrongMethod { allow: "GET" } }
}

/// The spellings that nearly every client uses. Does not allocate.
fn usual(path: &str) -> Option<Endpoint> {
    Some(match path.strip_prefix("/v1").unwrap_or(path) {
        "/chat/completions" => ChatCompletions,
        "/completions" => Completions,
        "/embeddings" => Embeddings,
        "/responses" => Responses,
        "/moderations" => Moderations,
        "/images/generations" => ImageGenerations,
        "/audio/speech" => Speech,
        "/rerank" => Rerank,
        "/models" => Models,
        _ => return None,
    })
}

/// The segments after any `/v1` or `/v1/v1`, and whether the path began with a version.
fn segments(path: &str) -> Vec<&str> {
    let mut segments: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    for _ in 0..2 {
        if segments.first() == Some(&"v1") {
            segments.remove(0);
        }
    }
    segments
}

fn unusual(path: &str) -> Option<Endpoint> {
    // The rest of the path of a model is its id, whatever it looks like.
    let segments = segments(path);
    if segments == ["v2", "rerank"] {
        return Some(Rerank);
    }
    let is = |endpoint: &Endpoint| endpoint.path().split('/').skip(1).eq(segments.iter().copied());
    ENDPOINTS.into_iter().find(is)
}

fn beyond(method: &str, path: &str) -> Found {
    let segments = segments(path);
    if segments.first() == Some(&"models") {
        return match method {
            "GET" => Found::Model(model_id(path)),
            _ => Found::WrongMethod { allow: "GET" },
        };
    }
    let doubled = ENDPOINTS.into_iter().any(|endpoint| {
        let own: Vec<&str> = endpoint.path().split('/').skip(1).collect();
        segments.len() > own.len()
            && segments.starts_with(&own)
            && ENDPOINTS.iter().any(|last| path.trim_end_matches('/').ends_with(last.path()))
    });
    if doubled {
        return Found::Unknown { hint: BASE_TOO_LONG.to_owned() };
    }
    match segments.first() {
        Some(&"messages") => Found::Unknown { hint: ANTHROPIC.to_owned() },
        Some(&"responses") if segments.len() > 1 => Found::Unknown {
            hint: "What stands below /v1/responses is not served here, only POST /v1/responses \
                   is: stored responses belong to the upstream that made them."
                .to_owned(),
        },
        Some(first) if NOT_SERVED.contains(first) => {
            let shown = segments.iter().take(2).filter(|part| plain(part));
            let shown: Vec<&str> = shown.copied().collect();
            let shown = shown.join("/");
            Found::Unknown { hint: format!("The endpoint /v1/{shown} is not served here.") }
        }
        _ => Found::Unknown { hint: GENERAL.to_owned() },
    }
}

/// Whether a segment may be repeated in a sentence: the name of an endpoint, not an id.
fn plain(segment: &str) -> bool {
    segment.len() <= 24 && segment.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')
}

/// What follows `/models/`, percent-decoded. Ids may hold `/` and `:`.
fn model_id(path: &str) -> String {
    let rest = path.split_once("models").map_or("", |(_, rest)| rest);
    let rest = rest.trim_start_matches('/').as_bytes();
    let mut id = Vec::with_capacity(rest.len());
    let mut at = 0;
    while at < rest.len() {
        let hex = |from: usize| rest.get(from).and_then(|&b| char::from(b).to_digit(16));
        match (rest[at], hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                id.push((high * 16 + low) as u8);
                at += 3;
            }
            (byte, _, _) => {
                id.push(byte);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&id).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_path_is_found() {
        for endpoint in ENDPOINTS {
            let path = endpoint.path();
            for spelling in [
                path.to_owned(),
                format!("/v1{path}"),
                format!("//v1/{path}"),
                format!("/v1/v1{path}"),
                format!("/v1{path}/"),
                format!("/v1{path}?api-version=1&x=/y"),
                format!("/v1{}", path.replace('/', "//")),
            ] {
                let found = find(endpoint.method(), &spelling);
                assert_eq!(found, Found::Endpoint(endpoint), "{spelling}");
                let allow = endpoint.method();
                assert_eq!(find("PUT", &spelling), Found::WrongMethod { allow }, "{spelling}");
            }
            assert_eq!(Endpoint::from_name(endpoint.name()), Some(endpoint));
        }
        assert_eq!(find("POST", "/v2/rerank"), Found::Endpoint(Rerank));
        assert_eq!(find("POST", "/v1/models"), Found::WrongMethod { allow: "GET" });
    }

    #[test]
    fn a_models_id_is_the_rest_of_the_path() {
        for (path, id) in [
            ("/v1/models/gpt-4o", "gpt-4o"),
            ("/models/org/name:free", "org/name:free"),
            ("/v1/models/org%2Fname%3Afree?x=1", "org/name:free"),
            ("/v1/models/a%zzb%", "a%zzb%"),
            ("//v1//models/models/chat/completions", "models/chat/completions"),
        ] {
            assert_eq!(find("GET", path), Found::Model(id.to_owned()), "{path}");
        }
        assert_eq!(find("DELETE", "/v1/models/x"), Found::WrongMethod { allow: "GET" });
    }

    #[test]
    fn a_key_finds_what_is_said_of_itself() {
        for (path, want) in [
            ("/v1/usage", Found::OwnUsage),
            ("/usage?from=2026-01-01", Found::OwnUsage),
            ("//v1//key", Found::OwnKey),
            ("/v1/models/key", Found::Model("key".into())),
        ] {
            assert_eq!(find("GET", path), want, "{path}");
        }
        assert_eq!(find("POST", "/v1/key"), Found::WrongMethod { allow: "GET" });
        assert!(matches!(find("GET", "/v1/chat/usage"), Found::Unknown { .. }));
    }

    #[test]
    fn what_is_not_served_is_told_with_the_reason() {
        let hint = |path: &str| match find("POST", path) {
            Found::Unknown { hint } => hint,
            found => panic!("{path}: {found:?}"),
        };
        for path in [
            "/chat/completions/chat/completions",
            "/v1/chat/completions/v1/chat/completions",
            "/v1/chat/completions/embeddings",
            "/v1/responses/responses/",
        ] {
            assert_eq!(hint(path), BASE_TOO_LONG, "{path}");
        }
        for path in [
            "/v1/assistants",
            "/v1/files/file-1",
            "/v1/batches",
            "/v1/realtime",
            "/v1/audio/transcriptions",
            "/v1/images/edits",
            "/v1/responses/resp_1",
            "/v1/chat/completions/chatcmpl-1",
            "/v1/fine_tuning/jobs",
        ] {
            assert!(hint(path).contains("is not served here"), "{path}");
        }
        assert!(!hint("/v1/files/file-1").contains("file-1"));
        for path in ["/", "", "/v1", "/admin", "/admin/keys", "/metrics", "/health", "/v3/rerank"] {
            assert_eq!(hint(path), GENERAL, "{path}");
        }
    }
}
