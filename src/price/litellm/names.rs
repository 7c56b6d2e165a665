//! Whose model it is: the names of the price map in those of a configuration.

/// Providers whose name here is another.
const PROVIDERS: &[(&str, &str)] = &[
    ("azure_text", "azure"),
    ("bedrock_converse", "bedrock"),
    ("bedrock_mantle", "bedrock"),
    ("cohere_chat", "cohere"),
    ("fireworks_ai", "fireworks"),
    ("nvidia_nim", "nvidia"),
    ("together_ai", "together"),
    ("vertex_ai", "vertex"),
];

/// The provider as the presets of a configuration call it.
pub(super) fn provider_name(named: &str) -> String {
    let named = plain(named);
    let known = PROVIDERS.iter().find(|(theirs, _)| *theirs == named);
    known.map_or(named, |(_, ours)| ours).to_owned()
}

/// The model as its provider calls it: without the provider before it.
pub(super) fn model_name<'a>(name: &'a str, named: &str, provider: &str) -> &'a str {
    match name.split_once('/') {
        Some((first, rest)) if [named, plain(named), provider].contains(&first) => rest,
        _ => name,
    }
}

/// The provider without the kind of model: `vertex_ai-language-models`, `text-completion-openai`.
fn plain(named: &str) -> &str {
    let named = named.strip_prefix("text-completion-").unwrap_or(named);
    match named.split_once('-') {
        Some((provider, kind)) if kind.ends_with("models") => provider,
        _ => named,
    }
}

/// Whether a name is that of one size or quality of a model's images: `1024-x-1024/dall-e-3`.
pub(super) fn is_of_one_size(name: &str) -> bool {
    name.split('/').any(|part| {
        let number = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let is_size = part.split_once("-x-").is_some_and(|(x, y)| number(x) && number(y));
        is_size || part.strip_suffix("-steps").is_some_and(|n| n == "max" || number(n))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_and_models_get_the_names_of_a_configuration() {
        for (name, named, provider, model) in [
            ("gpt-4o", "openai", "openai", "gpt-4o"),
            ("groq/openai/gpt-oss-20b", "groq", "groq", "openai/gpt-oss-20b"),
            (
                "gpt-3.5-turbo-instruct",
                "text-completion-openai",
                "openai",
                "gpt-3.5-turbo-instruct",
            ),
            ("vertex_ai/claude-opus-4", "vertex_ai-anthropic_models", "vertex", "claude-opus-4"),
            ("gemini-2.5-pro", "vertex_ai-language-models", "vertex", "gemini-2.5-pro"),
            ("bedrock/claude", "bedrock_converse", "bedrock", "claude"),
            ("together_ai/meta/llama", "together_ai", "together", "meta/llama"),
            (
                "fireworks_ai/accounts/a/models/b",
                "fireworks_ai",
                "fireworks",
                "accounts/a/models/b",
            ),
            ("a/e5", "fireworks_ai-embedding-models", "fireworks", "a/e5"),
            ("scx-ai/m", "scx-ai", "scx-ai", "m"),
        ] {
            let ours = provider_name(named);
            assert_eq!(
                (ours.as_str(), model_name(name, named, &ours)),
                (provider, model),
                "{name}"
            );
        }
    }

    #[test]
    fn sizes_are_told_from_models() {
        for name in ["1024-x-1024/dall-e-2", "azure/hd/1024-x-1792/dall-e-3", "a/50-steps/b"] {
            assert!(is_of_one_size(name), "{name}");
        }
        for name in ["dall-e-3", "grok-x-1", "vendor/x-x-large", "two-steps/m"] {
            assert!(!is_of_one_size(name), "{name}");
        }
    }
}
