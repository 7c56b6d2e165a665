//! Provider presets: one row adds one. Each can be overridden key by key in `[[provider]]`.

use super::choices::{Choices, Dialect};

/// What `preset = "name"` fills in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProviderPreset {
    /// The word in the configuration.
    pub name: &'static str,
    /// The default of `base_url`.
    pub base_url: &'static str,
    /// The default of `dialect`.
    pub dialect: Dialect,
    /// The default of `include_usage`: false where the server refuses requests with `stream_options`
    /// (it then sends the usage unasked).
    pub include_usage: bool,
}

/// A server of OpenAI's dialect that knows `stream_options`.
const fn openai(name: &'static str, base_url: &'static str) -> ProviderPreset {
    ProviderPreset { name, base_url, dialect: Dialect::OpenAi, include_usage: true }
}

/// All presets. Local servers have their own default ports.
pub const PROVIDERS: &[ProviderPreset] = &[
    openai("openai", "https://api.openai.com/v1"),
    openai("openrouter", "https://openrouter.ai/api/v1"),
    openai("groq", "https://api.groq.com/openai/v1"),
    openai("deepseek", "https://api.deepseek.com/v1"),
    // Answers 422 "Extra inputs are not permitted" to `stream_options`.
    ProviderPreset { include_usage: false, ..openai("mistral", "https://api.mistral.ai/v1") },
    openai("together", "https://api.together.xyz/v1"),
    openai("fireworks", "https://api.fireworks.ai/inference/v1"),
    openai("cerebras", "https://api.cerebras.ai/v1"),
    openai("xai", "https://api.x.ai/v1"),
    openai("moonshot", "https://api.moonshot.ai/v1"),
    openai("nvidia", "https://integrate.api.nvidia.com/v1"),
    openai("ollama", "http://127.0.0.1:11434/v1"),
    openai("vllm", "http://127.0.0.1:8000/v1"),
    openai("sglang", "http://127.0.0.1:30000/v1"),
    openai("llamacpp", "http://127.0.0.1:8080/v1"),
    openai("lmstudio", "http://127.0.0.1:1234/v1"),
];

const NAMES: [&str; PROVIDERS.len()] = {
    let mut names = [""; PROVIDERS.len()];
    let mut at = 0;
    while at < names.len() {
        names[at] = PROVIDERS[at].name;
        at += 1;
    }
    names
};

pub(super) const PRESETS: Choices =
    Choices { now: &NAMES, later: &["azure", "anthropic", "gemini", "vertex", "bedrock"] };

/// The preset of this name.
pub(super) fn find(name: &str) -> Option<&'static ProviderPreset> {
    PROVIDERS.iter().find(|preset| preset.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::net::BaseUrl;

    #[test]
    fn every_preset_has_a_name_of_its_own_and_a_base_url() {
        for (at, preset) in PROVIDERS.iter().enumerate() {
            let url = BaseUrl::parse(preset.base_url).expect(preset.name);
            assert_eq!(url.to_string(), preset.base_url, "as it would be printed");
            assert!(PROVIDERS[..at].iter().all(|other| other.name != preset.name));
            assert_eq!(find(preset.name), Some(preset));
        }
    }
}
