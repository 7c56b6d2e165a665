//! Where LiteLLM's providers are in the terms of foretoken: one row for each prefix of a model.

/// How requests reach a vendor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// A preset of foretoken.
    Preset(&'static str),
    /// OpenAI's dialect at this base URL.
    Base(&'static str),
    /// OpenAI's dialect at this base URL, where LiteLLM speaks another one.
    Compatible(&'static str),
    /// OpenAI's dialect below an address that the configuration must say.
    Own,
    /// A local server: as `Preset`, with `/v1` behind an address of its own, where LiteLLM speaks
    /// another dialect.
    Local(&'static str),
    /// Azure's address, with the path of its OpenAI-compatible interface behind it.
    Azure,
    /// Its own dialect only.
    Foreign,
}

/// A vendor.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Vendor {
    /// LiteLLM's prefix.
    pub prefix: &'static str,
    pub way: Way,
    /// Where LiteLLM looks for the key if the configuration says nothing.
    pub key: Option<&'static str>,
}

const fn row(prefix: &'static str, way: Way, key: &'static str) -> Vendor {
    Vendor { prefix, way, key: Some(key) }
}

const fn keyless(prefix: &'static str, way: Way) -> Vendor {
    Vendor { prefix, way, key: None }
}

#[rustfmt::skip]
const VENDORS: &[Vendor] = &[
    row("openai", Way::Preset("openai"), "OPENAI_API_KEY"),
    row("text-completion-openai", Way::Preset("openai"), "OPENAI_API_KEY"),
    row("azure", Way::Azure, "AZURE_API_KEY"),
    row("azure_text", Way::Azure, "AZURE_API_KEY"),
    row("azure_ai", Way::Azure, "AZURE_AI_API_KEY"),
    row("anthropic", Way::Compatible("https://api.anthropic.com/v1"), "ANTHROPIC_API_KEY"),
    row("gemini", Way::Compatible("https://generativelanguage.googleapis.com/v1beta/openai"), "GEMINI_API_KEY"),
    row("cohere", Way::Compatible("https://api.cohere.ai/compatibility/v1"), "COHERE_API_KEY"),
    row("cohere_chat", Way::Compatible("https://api.cohere.ai/compatibility/v1"), "COHERE_API_KEY"),
    row("openrouter", Way::Preset("openrouter"), "OPENROUTER_API_KEY"),
    row("groq", Way::Preset("groq"), "GROQ_API_KEY"),
    row("deepseek", Way::Preset("deepseek"), "DEEPSEEK_API_KEY"),
    row("mistral", Way::Preset("mistral"), "MISTRAL_API_KEY"),
    row("codestral", Way::Base("https://codestral.mistral.ai/v1"), "CODESTRAL_API_KEY"),
    row("together_ai", Way::Preset("together"), "TOGETHERAI_API_KEY"),
    row("fireworks_ai", Way::Preset("fireworks"), "FIREWORKS_AI_API_KEY"),
    row("cerebras", Way::Preset("cerebras"), "CEREBRAS_API_KEY"),
    row("xai", Way::Preset("xai"), "XAI_API_KEY"),
    row("moonshot", Way::Preset("moonshot"), "MOONSHOT_API_KEY"),
    row("nvidia_nim", Way::Preset("nvidia"), "NVIDIA_NIM_API_KEY"),
    row("perplexity", Way::Base("https://api.perplexity.ai"), "PERPLEXITYAI_API_KEY"),
    row("deepinfra", Way::Base("https://api.deepinfra.com/v1/openai"), "DEEPINFRA_API_KEY"),
    row("sambanova", Way::Base("https://api.sambanova.ai/v1"), "SAMBANOVA_API_KEY"),
    row("github", Way::Base("https://models.github.ai/inference"), "GITHUB_API_KEY"),
    row("nebius", Way::Base("https://api.studio.nebius.ai/v1"), "NEBIUS_API_KEY"),
    row("novita", Way::Base("https://api.novita.ai/v3/openai"), "NOVITA_API_KEY"),
    row("hyperbolic", Way::Base("https://api.hyperbolic.xyz/v1"), "HYPERBOLIC_API_KEY"),
    row("dashscope", Way::Base("https://dashscope-intl.aliyuncs.com/compatible-mode/v1"), "DASHSCOPE_API_KEY"),
    row("volcengine", Way::Base("https://ark.cn-beijing.volces.com/api/v3"), "VOLCENGINE_API_KEY"),
    row("zai", Way::Base("https://api.z.ai/api/paas/v4"), "ZAI_API_KEY"),
    row("ai21", Way::Base("https://api.ai21.com/studio/v1"), "AI21_API_KEY"),
    row("featherless_ai", Way::Base("https://api.featherless.ai/v1"), "FEATHERLESS_AI_API_KEY"),
    keyless("ollama", Way::Local("ollama")),
    keyless("ollama_chat", Way::Local("ollama")),
    keyless("hosted_vllm", Way::Preset("vllm")),
    keyless("vllm", Way::Preset("vllm")),
    keyless("lm_studio", Way::Preset("lmstudio")),
    keyless("llamafile", Way::Preset("llamacpp")),
    keyless("openai_like", Way::Own),
    keyless("custom_openai", Way::Own),
    keyless("litellm_proxy", Way::Own),
    keyless("databricks", Way::Own),
    keyless("infinity", Way::Own),
    keyless("bedrock", Way::Foreign),
    keyless("bedrock_converse", Way::Foreign),
    keyless("sagemaker", Way::Foreign),
    keyless("sagemaker_chat", Way::Foreign),
    keyless("vertex_ai", Way::Foreign),
    keyless("vertex_ai_beta", Way::Foreign),
    keyless("watsonx", Way::Foreign),
    keyless("huggingface", Way::Foreign),
    keyless("replicate", Way::Foreign),
    keyless("cloudflare", Way::Foreign),
    keyless("snowflake", Way::Foreign),
    keyless("oci", Way::Foreign),
    keyless("triton", Way::Foreign),
    keyless("petals", Way::Foreign),
    keyless("voyage", Way::Foreign),
    keyless("jina_ai", Way::Foreign),
    keyless("github_copilot", Way::Foreign),
];

/// Families of models that LiteLLM knows without a prefix.
const FAMILIES: &[(&str, &str)] = &[
    ("gpt-", "openai"),
    ("chatgpt-", "openai"),
    ("o1", "openai"),
    ("o3", "openai"),
    ("o4", "openai"),
    ("text-embedding-", "openai"),
    ("omni-moderation-", "openai"),
    ("dall-e-", "openai"),
    ("tts-", "openai"),
    ("whisper-", "openai"),
    ("claude-", "anthropic"),
    ("gemini-", "vertex_ai"),
    ("command", "cohere"),
];

/// The vendor of a model in LiteLLM's notation, and the model's name there. `provider` is
/// `custom_llm_provider`, `has_base` whether an address is given.
pub(super) fn find<'m>(
    model: &'m str,
    provider: Option<&str>,
    has_base: bool,
) -> Result<(Vendor, &'m str), String> {
    let known = |prefix: &str| VENDORS.iter().find(|vendor| vendor.prefix == prefix).copied();
    if let Some(prefix) = provider {
        let vendor = known(prefix).ok_or_else(|| format!("the provider {prefix} is not known"))?;
        let own = model.strip_prefix(prefix).and_then(|rest| rest.strip_prefix('/'));
        return Ok((vendor, own.unwrap_or(model)));
    }
    if let Some((prefix, rest)) = model.split_once('/')
        && let Some(vendor) = known(prefix)
    {
        return Ok((vendor, rest));
    }
    let family = FAMILIES.iter().find(|(start, _)| model.starts_with(start));
    match family.and_then(|(_, prefix)| known(prefix)) {
        Some(vendor) => Ok((vendor, model)),
        None if has_base => Ok((keyless("openai_like", Way::Own), model)),
        None => Err(format!("the model {model} does not say whose it is")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_name_their_vendor_by_prefix_by_family_or_not_at_all() {
        for (model, provider, want) in [
            ("openai/gpt-4o", None, Some(("openai", "gpt-4o"))),
            ("openrouter/anthropic/claude-3", None, Some(("openrouter", "anthropic/claude-3"))),
            ("gpt-4o", None, Some(("openai", "gpt-4o"))),
            ("claude-3-opus", None, Some(("anthropic", "claude-3-opus"))),
            ("x", Some("groq"), Some(("groq", "x"))),
            ("groq/x", Some("groq"), Some(("groq", "x"))),
            ("x", Some("nobody"), None),
            ("meta/llama", None, None),
        ] {
            let found = find(model, provider, false);
            let found = found.as_ref().ok().map(|(vendor, model)| (vendor.prefix, *model));
            assert_eq!(found, want, "{model}");
        }
        let (vendor, model) = find("meta/llama", None, true).expect("an address is given");
        assert_eq!((vendor.way, model), (Way::Own, "meta/llama"));
    }

    #[test]
    fn every_prefix_stands_once() {
        for (at, vendor) in VENDORS.iter().enumerate() {
            assert!(VENDORS[..at].iter().all(|other| other.prefix != vendor.prefix), "{vendor:?}");
        }
    }
}
