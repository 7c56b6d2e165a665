//! Embeddings, moderations, rerank and the list of models: small documents.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};

use crate::sim::behaviour::Fault;
use crate::sim::completions::prompts;
use crate::sim::json::{Object, base64, percent_decode, push_json, push_list};
use crate::sim::plan::{Job, Usage};
use crate::sim::refusal::Refusal;
use crate::sim::script::Script;
use crate::sim::settings::Settings;
use crate::sim::text::{Hash, tokens_in};
use crate::sim::validate::{Fields, missing, wrong_type};

const DIMENSIONS_DEFAULT: i64 = 1536;
const INPUTS_MAX: usize = 2048;
const DOCUMENTS_MAX: usize = 10_000;

/// `POST /embeddings`.
pub(super) fn embeddings(body: &Value, job: &Job<'_>) -> Result<Script, Refusal> {
    let fields = Fields::of_body(body)?;
    let known = ["model", "input", "encoding_format", "dimensions", "user"];
    fields.refuse_unknown(&known, job.settings.refuse_unknown_fields)?;
    let model = fields.required_text("model")?;
    fields.required("input")?;
    let inputs = prompts(fields.value("input"), "input")?;
    if inputs.len() > INPUTS_MAX {
        return Err(fields.bad_value("input", format!("at most {INPUTS_MAX} inputs")));
    }
    if let Some(at) = inputs.iter().position(String::is_empty) {
        return Err(fields.bad_value("input", format!("input {at} is an empty string")));
    }
    let as_base64 = fields.one_of("encoding_format", &["float", "base64"])? == Some("base64");
    let dimensions = fields.integer("dimensions", 1, 3072)?.unwrap_or(DIMENSIONS_DEFAULT) as usize;
    fields.text("user")?;
    let tokens: u64 = inputs.iter().map(|input| tokens_in(input.len())).sum();
    let mut out = Vec::with_capacity(inputs.len() * dimensions * 12);
    let head = Object::new(&mut out)
        .field("object", "list")
        .nest("data", |out| {
            push_list(out, inputs.iter().enumerate(), |out, (index, input)| {
                let vector = embedding(job.settings.seed, input, dimensions);
                Object::new(out)
                    .field("object", "embedding")
                    .field("index", index)
                    .nest("embedding", |out| write_vector(out, &vector, as_base64))
                    .end();
            });
        })
        .field("model", model);
    match job.fault {
        Fault::NoUsage => head.end(),
        _ => head.field("usage", json!({"prompt_tokens": tokens, "total_tokens": tokens})).end(),
    }
    let usage = Usage { prompt: tokens, ..Usage::default() };
    let told = (job.fault != Fault::NoUsage).then_some(usage);
    Ok(Script::document(out, 1).telling(told))
}

/// A vector of length one that depends on the text alone.
fn embedding(seed: u64, input: &str, dimensions: usize) -> Vec<f32> {
    let mut hash = Hash::new(seed);
    hash.add(input.as_bytes());
    let mut rng = SmallRng::seed_from_u64(hash.0);
    let mut vector: Vec<f32> = (0..dimensions).map(|_| rng.random_range(-1.0..1.0)).collect();
    let norm = vector.iter().map(|x| x * x).sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    vector.iter_mut().for_each(|x| *x /= norm);
    vector
}

fn write_vector(out: &mut Vec<u8>, vector: &[f32], as_base64: bool) {
    if as_base64 {
        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        push_json(out, base64(&bytes));
    } else {
        push_json(out, vector);
    }
}

const CATEGORIES: [&str; 13] = [
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
];

/// `POST /moderations`: a text is flagged with the categories it names.
pub(super) fn moderations(body: &Value, job: &Job<'_>) -> Result<Script, Refusal> {
    let fields = Fields::of_body(body)?;
    fields.refuse_unknown(&["model", "input"], job.settings.refuse_unknown_fields)?;
    let model = fields.text("model")?.unwrap_or("omni-moderation-latest");
    let texts: Vec<String> = match fields.required("input")? {
        Value::String(text) => vec![text.clone()],
        Value::Array(list) if list.iter().all(Value::is_string) && !list.is_empty() => {
            list.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        Value::Array(_) => vec![read_parts(&fields)?],
        other => return Err(wrong_type("input", "a string or an array", other)),
    };
    let results: Vec<Value> = texts.iter().map(|text| judge(text)).collect();
    let mut out = Vec::new();
    Object::new(&mut out)
        .field("id", format_args!("modr-{}", job.unique))
        .field("model", model)
        .field("results", results)
        .end();
    Ok(Script::document(out, 1))
}

/// Parts are judged together.
fn read_parts(fields: &Fields<'_>) -> Result<String, Refusal> {
    fields.required_list("input")?;
    let mut all = String::new();
    for part in fields.objects("input")? {
        match part.required_one_of("type", &["text", "image_url"])? {
            "text" => all.push_str(part.required_text("text")?),
            _ => match part.object("image_url")? {
                Some(image) => drop(image.required_text("url")?),
                None => return Err(missing(part.path_of("image_url"))),
            },
        }
    }
    Ok(all)
}

fn judge(text: &str) -> Value {
    let (mut categories, mut scores, mut types) = (Map::new(), Map::new(), Map::new());
    for name in CATEGORIES {
        let flagged = text.contains(name);
        categories.insert(name.into(), json!(flagged));
        scores.insert(name.into(), json!(if flagged { 0.97 } else { 0.00001 }));
        types.insert(name.into(), json!(["text"]));
    }
    let flagged = categories.values().any(|flag| flag == true);
    json!({"flagged": flagged, "categories": categories, "category_scores": scores,
        "category_applied_input_types": types})
}

/// `POST /v2/rerank` (Cohere's shape) and `POST /rerank` (Jina's).
pub(super) fn rerank(body: &Value, job: &Job<'_>, v2: bool) -> Result<Script, Refusal> {
    let fields = Fields::of_body(body)?;
    let known = [
        "model",
        "query",
        "documents",
        "top_n",
        "return_documents",
        "max_tokens_per_doc",
        "rank_fields",
        "max_chunks_per_doc",
        "truncation",
        "priority",
    ];
    fields.refuse_unknown(&known, job.settings.refuse_unknown_fields)?;
    let model = fields.required_text("model")?;
    let query = fields.required_text("query")?;
    let list = fields.required_list("documents")?;
    if list.len() > DOCUMENTS_MAX {
        return Err(fields.bad_value("documents", format!("at most {DOCUMENTS_MAX} documents")));
    }
    let read = |(at, value): (usize, &Value)| {
        let text = value.as_str().or_else(|| value.get("text").and_then(Value::as_str));
        let path = format!("documents[{at}]");
        text.map(str::to_owned).ok_or_else(|| wrong_type(&path, "a string", value))
    };
    let documents = list.iter().enumerate().map(read).collect::<Result<Vec<_>, _>>()?;
    let top = fields.integer("top_n", 1, i64::MAX)?.map_or(documents.len(), |top| top as usize);
    let show = fields.flag("return_documents")?.unwrap_or(false);
    let mut scores: Vec<(usize, f64)> = documents
        .iter()
        .enumerate()
        .map(|(at, document)| (at, relevance(job.settings.seed, query, document)))
        .collect();
    scores.sort_by(|a, b| b.1.total_cmp(&a.1));
    let results: Vec<Value> = scores
        .iter()
        .take(top)
        .map(|&(at, score)| match show {
            true => {
                json!({"index": at, "relevance_score": score, "document": {"text": documents[at]}})
            }
            false => json!({"index": at, "relevance_score": score}),
        })
        .collect();
    let bytes: usize = documents.iter().map(|d| d.len() + query.len()).sum();
    let mut out = Vec::new();
    if v2 {
        let units = documents.len().div_ceil(100);
        let meta =
            json!({"api_version": {"version": "2"}, "billed_units": {"search_units": units}});
        let id = format!("rr-{}", job.unique);
        Object::new(&mut out).field("id", id).field("results", results).field("meta", meta).end();
    } else {
        Object::new(&mut out)
            .field("model", model)
            .field("object", "list")
            .field("usage", json!({"total_tokens": tokens_in(bytes)}))
            .field("results", results)
            .end();
    }
    Ok(Script::document(out, 1))
}

/// Shared words make a document relevant; the rest is a stable blur.
fn relevance(seed: u64, query: &str, document: &str) -> f64 {
    let mut hash = Hash::new(seed);
    hash.add(query.as_bytes());
    hash.add(document.as_bytes());
    let blur = (hash.0 >> 11) as f64 / (1u64 << 53) as f64;
    let words: Vec<&str> = query.split_whitespace().collect();
    let shared = words.iter().filter(|word| document.contains(**word)).count();
    0.7 * shared as f64 / words.len().max(1) as f64 + 0.29 * blur
}

/// Whether requests for `model` are served.
pub(super) fn exists(settings: &Settings, model: &str) -> bool {
    let listed = |name: &String| name == model;
    settings.models.is_empty() || model.contains("sim-") || settings.models.iter().any(listed)
}

/// The refusal for a model that does not exist.
pub(super) fn unknown_model(model: &str) -> Refusal {
    let message = format!("The model `{model}` does not exist or you do not have access to it.");
    let code = Some("model_not_found");
    Refusal::new(404, "invalid_request_error", code, message).param("model")
}

/// `GET /models` and, with the rest of the path, `GET /models/{id}`.
pub(super) fn models(settings: &Settings, id: Option<&str>) -> Result<Script, Refusal> {
    let mut out = Vec::new();
    match id {
        Some(id) => {
            let id = percent_decode(id);
            if !exists(settings, &id) || Fault::of_model(&id) == Fault::Missing {
                return Err(unknown_model(&id));
            }
            write_model(&mut out, settings, &id);
        }
        None => {
            let names: Vec<String> =
                settings.models.iter().cloned().chain(Fault::model_names()).collect();
            Object::new(&mut out)
                .field("object", "list")
                .nest("data", |out| {
                    push_list(out, &names, |out, name| write_model(out, settings, name));
                })
                .end();
        }
    }
    Ok(Script::document(out, 1))
}

fn write_model(out: &mut Vec<u8>, settings: &Settings, id: &str) {
    Object::new(out)
        .field("id", id)
        .field("object", "model")
        .field("created", 1_767_225_600)
        .field("owned_by", &settings.name)
        .end();
}

#[cfg(test)]
mod tests {
    use super::*;

    type Answer = fn(&Value, &Job<'_>) -> Result<Script, Refusal>;

    fn run(answer: Answer, body: Value) -> Result<Value, Refusal> {
        let settings = Settings::default();
        let unique = "0123456789abcdef0123456789abcdef";
        let job = Job { settings: &settings, body: b"", fault: Fault::None, unique, created: 7 };
        answer(&body, &job).map(|s| serde_json::from_slice(&s.bytes).expect("JSON"))
    }

    #[test]
    fn both_encodings_carry_the_same_unit_vector() {
        let ask = |format: &str| {
            let body = json!({"model": "m", "input": ["a", "b"], "dimensions": 8,
                "encoding_format": format});
            run(embeddings, body).expect("valid")
        };
        let floats = ask("float");
        let vector: Vec<f32> =
            serde_json::from_value(floats["data"][1]["embedding"].clone()).expect("numbers");
        assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
        assert_ne!(floats["data"][0]["embedding"], floats["data"][1]["embedding"]);
        let bytes: Vec<u8> = vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(ask("base64")["data"][1]["embedding"], base64(&bytes));
        assert_eq!(floats["usage"], json!({"prompt_tokens": 2, "total_tokens": 2}));
        let by_default = run(embeddings, json!({"model": "m", "input": "a"})).expect("valid");
        assert_eq!(by_default["data"][0]["embedding"].as_array().map(Vec::len), Some(1536));
        assert!(run(embeddings, json!({"model": "m", "input": ""})).is_err());
        assert!(run(embeddings, json!({"model": "m"})).is_err());
    }

    #[test]
    fn moderation_flags_what_it_is_told() {
        let body = json!({"input": ["peace", "violence"]});
        let answer = run(moderations, body).expect("valid");
        assert_eq!(answer["results"][0]["flagged"], false);
        assert_eq!(answer["results"][1]["categories"]["violence"], true);
        let parts = json!({"input": [{"type": "text", "text": "hate"}]});
        assert_eq!(run(moderations, parts).expect("valid")["results"][0]["flagged"], true);
        assert!(run(moderations, json!({"input": []})).is_err());
    }

    #[test]
    fn rerank_sorts_and_points_back() {
        let body = json!({"model": "m", "query": "capital of France", "top_n": 2,
            "documents": ["Berlin", "the capital of France", {"text": "of"}],
            "return_documents": true});
        let answer = run(|body, job| rerank(body, job, false), body.clone()).expect("valid");
        let results = answer["results"].as_array().expect("results");
        assert_eq!((results.len(), &results[0]["index"]), (2, &json!(1)));
        assert_eq!(results[0]["document"]["text"], "the capital of France");
        assert!(results[0]["relevance_score"].as_f64() >= results[1]["relevance_score"].as_f64());
        let cohere = run(|body, job| rerank(body, job, true), body).expect("valid");
        assert_eq!(cohere["meta"]["billed_units"]["search_units"], 1);
    }

    #[test]
    fn models_are_listed_and_found() {
        let settings = Settings { models: vec!["org/m:1".into()], ..Settings::default() };
        let list = models(&settings, None).expect("a list");
        let list: Value = serde_json::from_slice(&list.bytes).expect("JSON");
        assert_eq!(list["data"][0]["id"], "org/m:1");
        assert!(models(&settings, Some("org%2Fm:1")).is_ok());
        assert_eq!(models(&settings, Some("gpt")).expect_err("unknown").status, 404);
        assert!(models(&Settings::default(), Some("gpt")).is_ok());
    }
}
