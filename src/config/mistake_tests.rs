//! What may be a mistake, and what is one of another program's making.

use super::place;
use super::tests::{HEAD, faults, warnings};

#[test]
fn what_may_be_a_mistake_is_warned_of() {
    let text = HEAD.replace("sk-0123456789\"", "short\"\nmodels = [\"n*\", \"m\", \"*\"]");
    assert_eq!(
        warnings(&text),
        [
            "f.toml:10:10: \"secret\" in [[key]] has fewer than 8 characters and can be guessed; use a longer one",
            "f.toml:11:11: \"models\" in [[key]] has \"n*\", which is no [[model]] here; valid: m",
        ]
    );
    let text = HEAD.replace("127.0.0.1:1/v1\"", "llm.example.com/v1\"\napi_key = \"sk-canary-0\"");
    assert_eq!(
        warnings(&text),
        [
            "f.toml:4:12: the keys of [[provider]] \"p\" go over http://llm.example.com/v1 in clear; use https"
        ]
    );
    let text =
        HEAD.replace("sk-0123456789\"", "CHAT_BACKEND_KEY\"\nexpires_at = 2020-01-31T00:00:00Z");
    assert_eq!(
        warnings(&text),
        [
            "f.toml:10:10: \"secret\" in [[key]] looks like the name of an environment variable, and is taken as it stands; did you mean \"env:CHAT_BACKEND_KEY\"?",
            "f.toml:11:14: [[key]] \"k\" has expired already; set a later time, or remove the key",
        ]
    );
    assert_eq!(warnings("").len(), 3, "an empty file serves nothing");
    assert_eq!(warnings(HEAD), [""; 0]);
}

#[test]
fn a_hosted_provider_needs_a_key() {
    let with = |lines: &str| {
        warnings(&format!("{HEAD}[[provider]]\nname = \"x\"\npreset = \"groq\"\n{lines}\n"))
    };
    assert_eq!(
        with(""),
        [
            "f.toml:13:10: [[provider]] \"x\" has no key, and groq refuses requests without one; add for example api_key = \"env:GROQ_API_KEY\""
        ]
    );
    for fine in [
        "api_key = \"env:OPENAI_API_KEY\"",
        "headers = { Authorization = \"Bearer sk-canary\" }",
        "base_url = \"http://127.0.0.1:1/v1\"",
    ] {
        assert_eq!(with(fine), [""; 0], "{fine}");
    }
    assert_eq!(
        warnings(&format!("{HEAD}[[provider]]\nname = \"x\"\npreset = \"vllm\"\n")),
        [""; 0]
    );
}

/// The word might be a secret after all.
#[test]
fn what_looks_like_a_variable_is_repeated_only_if_it_is_none_but_that() {
    let with = |text: &str| {
        warnings(&format!("{HEAD}[[provider]]\nname = \"x\"\npreset = \"vllm\"\n{text}"))
    };
    let told = with("api_keys = [\"ABCDEFGH2345\", \"GROQ_API_KEY_2\", \"sk-ABC_KEY\"]");
    assert_eq!(told.len(), 2, "{told:#?}");
    assert!(told[0].ends_with("did you mean \"env:NAME\"?"), "{told:#?}");
    assert!(told[1].ends_with("did you mean \"env:GROQ_API_KEY_2\"?"), "{told:#?}");
    assert_eq!(with("headers = { x-mode = \"FAST\" }"), [""; 0]);
    assert_eq!(with("api_key = \"env:OPENAI_API_KEY\""), [""; 0]);
}

#[test]
fn yaml_is_one_fault() {
    let yaml = "# of another gateway\nmodel_list:\n  - model_name: gpt-4o\n    litellm_params:\n      model: openai/gpt-4o\n      api_base: http://x/?a=b\n";
    let want = "f.toml:2:1: this looks like YAML, and the configuration is TOML; `foretoken config init` prints one to start from";
    assert_eq!(faults(yaml), [want]);
    assert_eq!(faults(&format!("---\n{yaml}")).len(), 1);
    let broken = faults(&format!("{HEAD}[server]\nworkers: 3\n"));
    assert!(!broken[0].contains("YAML"), "{broken:#?}");
    assert!(!faults("workers: 3\n[server]\n")[0].contains("YAML"));
}

#[test]
fn a_setting_is_found_by_its_way() {
    let text = format!("{HEAD}tls = {{ ca = \"file:root.pem\" }}\n[server]\n")
        .replace("\n[[model]]", "\ntls = { ca = \"a\" }\n[[model]]");
    assert_eq!(place(&text, "provider.0.tls.ca"), Some((5, 14)));
    assert_eq!(place(&text, "provider.0.tls.nothing"), Some((5, 7)), "as far as it goes");
    assert_eq!(place(&text, "provider.7"), place(&text, "provider"));
    assert_eq!(place(&text, "log.access"), None);
}
