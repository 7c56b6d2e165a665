//! The types of channels in One-API and new-api: numbers that mean the same up to 25, and different
//! things above.

/// How a channel is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Way {
    /// OpenAI's dialect at an address of its own or at this one; `/v1` stands behind it.
    Host(&'static str),
    /// OpenAI's dialect at exactly this base URL, or at an address of its own with this path.
    Base(&'static str, &'static str),
    /// As `Base`, where the gateway spoke another dialect.
    Compatible(&'static str, &'static str),
    /// An address of its own, with `/v1` behind it; there is no other.
    Own,
    /// Azure's address, with the path of its OpenAI-compatible interface.
    Azure,
    /// Its own dialect only.
    Foreign,
}

/// Which of the two gateways the tables are of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Flavour {
    OneApi,
    NewApi,
}

const ALI: (&str, &str) =
    ("https://dashscope.aliyuncs.com/compatible-mode/v1", "/compatible-mode/v1");
const ARK: (&str, &str) = ("https://ark.cn-beijing.volces.com/api/v3", "/api/v3");
const GLM: (&str, &str) = ("https://open.bigmodel.cn/api/paas/v4", "/api/paas/v4");
const QIANFAN: (&str, &str) = ("https://qianfan.baidubce.com/v2", "/v2");

/// The name of a type of channel, and its way.
#[rustfmt::skip]
pub(super) fn find(number: u64, flavour: Flavour) -> (&'static str, Way) {
    match (number, flavour) {
        (1, _) => ("OpenAI", Way::Host("https://api.openai.com")),
        (2, Flavour::OneApi) => ("API2D", Way::Host("https://oa.api2d.net")),
        (3, _) => ("Azure", Way::Azure),
        (4, Flavour::NewApi) | (30, Flavour::OneApi) => ("Ollama", Way::Host("http://127.0.0.1:11434")),
        (4, Flavour::OneApi) => ("CloseAI", Way::Host("https://api.closeai-proxy.xyz")),
        (5, Flavour::OneApi) => ("OpenAI-SB", Way::Host("https://api.openai-sb.com")),
        (6, _) => ("OpenAIMax", Way::Host("https://api.openaimax.com")),
        (7, _) => ("OhMyGPT", Way::Host("https://api.ohmygpt.com")),
        (8, Flavour::OneApi) => ("Custom", Way::Own),
        (10, _) => ("AIProxy", Way::Host("https://api.aiproxy.io")),
        (12, _) => ("API2GPT", Way::Host("https://api.api2gpt.com")),
        (13, _) => ("AIGC2D", Way::Host("https://api.aigc2d.com")),
        (14, _) => ("Anthropic", Way::Compatible("https://api.anthropic.com/v1", "/v1")),
        (16, _) => ("Zhipu", Way::Compatible(GLM.0, GLM.1)),
        (17, _) => ("Ali", Way::Compatible(ALI.0, ALI.1)),
        (20, _) => ("OpenRouter", Way::Host("https://openrouter.ai/api")),
        (24, _) => ("Gemini", Way::Compatible("https://generativelanguage.googleapis.com/v1beta/openai", "/v1beta/openai")),
        (25, _) => ("Moonshot", Way::Host("https://api.moonshot.cn")),
        (19, _) => ("360", Way::Host("https://api.360.cn")),
        (31, _) => ("LingYiWanWu", Way::Host("https://api.lingyiwanwu.com")),
        (26, Flavour::NewApi) => ("ZhipuV4", Way::Base(GLM.0, GLM.1)),
        (27, Flavour::NewApi) => ("Perplexity", Way::Base("https://api.perplexity.ai", "")),
        (34, Flavour::NewApi) | (35, Flavour::OneApi) => ("Cohere", Way::Compatible("https://api.cohere.ai/compatibility/v1", "/compatibility/v1")),
        (35, Flavour::NewApi) | (27, Flavour::OneApi) => ("MiniMax", Way::Compatible("https://api.minimax.chat/v1", "/v1")),
        (40, Flavour::NewApi) | (44, Flavour::OneApi) => ("SiliconFlow", Way::Host("https://api.siliconflow.cn")),
        (42, Flavour::NewApi) | (28, Flavour::OneApi) => ("Mistral", Way::Host("https://api.mistral.ai")),
        (43, Flavour::NewApi) | (36, Flavour::OneApi) => ("DeepSeek", Way::Host("https://api.deepseek.com")),
        (45, Flavour::NewApi) | (40, Flavour::OneApi) => ("Volcengine", Way::Base(ARK.0, ARK.1)),
        (46, Flavour::NewApi) | (47, Flavour::OneApi) => ("BaiduV2", Way::Base(QIANFAN.0, QIANFAN.1)),
        (47, Flavour::NewApi) => ("Xinference", Way::Own),
        (48, Flavour::NewApi) | (45, Flavour::OneApi) => ("xAI", Way::Host("https://api.x.ai")),
        (26, Flavour::OneApi) => ("Baichuan", Way::Host("https://api.baichuan-ai.com")),
        (29, Flavour::OneApi) => ("Groq", Way::Host("https://api.groq.com/openai")),
        (32, Flavour::OneApi) => ("StepFun", Way::Host("https://api.stepfun.com")),
        (39, Flavour::OneApi) => ("TogetherAI", Way::Host("https://api.together.xyz")),
        (41, Flavour::OneApi) => ("Novita", Way::Base("https://api.novita.ai/v3/openai", "")),
        (49, Flavour::OneApi) => ("AliBailian", Way::Base(ALI.0, ALI.1)),
        (50, Flavour::OneApi) => ("OpenAICompatible", Way::Own),
        (51, Flavour::OneApi) => ("GeminiOpenAICompatible", Way::Base("https://generativelanguage.googleapis.com/v1beta/openai", "")),
        (33, _) => ("AWS", Way::Foreign),
        (15, _) => ("Baidu", Way::Foreign),
        (18, _) => ("Xunfei", Way::Foreign),
        (23, _) => ("Tencent", Way::Foreign),
        (41, Flavour::NewApi) | (42, Flavour::OneApi) => ("Vertex AI", Way::Foreign),
        (39, Flavour::NewApi) | (37, Flavour::OneApi) => ("Cloudflare", Way::Foreign),
        _ => ("of a kind that is not known", Way::Foreign),
    }
}

/// Presets of foretoken by their base URL.
pub(super) fn preset(base_url: &str) -> Option<&'static str> {
    Some(match base_url {
        "https://api.openai.com/v1" => "openai",
        "https://openrouter.ai/api/v1" => "openrouter",
        "https://api.groq.com/openai/v1" => "groq",
        "https://api.deepseek.com/v1" => "deepseek",
        "https://api.mistral.ai/v1" => "mistral",
        "https://api.together.xyz/v1" => "together",
        "https://api.x.ai/v1" => "xai",
        "http://127.0.0.1:11434/v1" => "ollama",
        _ => return None,
    })
}
