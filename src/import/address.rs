//! Addresses of upstreams, as other gateways write them.

/// A base URL without a slash at its end, and whether the path of an endpoint was cut off.
pub(super) fn clean(url: &str) -> Result<(String, bool), String> {
    let url = url.trim();
    let is_web = ["http://", "https://"].iter().any(|scheme| url.starts_with(scheme));
    // Not repeated: what stands before an "@" or behind a "?" may be a secret.
    if !is_web
        || !url.bytes().all(|b| b.is_ascii_graphic())
        || url.contains(['@', '#', '"', '<', '>', '\\'])
    {
        return Err("its address is no plain http or https address".to_owned());
    }
    let bare = url.split('?').next().unwrap_or(url).trim_end_matches('/');
    for end in ["/chat/completions", "/completions", "/embeddings", "/responses", "/messages"] {
        if let Some(base) = bare.strip_suffix(end) {
            return Ok((base.to_owned(), true));
        }
    }
    Ok((bare.to_owned(), bare.len() < url.trim_end_matches('/').len()))
}

pub(super) fn host(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// Azure's address without what other gateways let stand behind it.
pub(super) fn azure(url: &str) -> &str {
    let url = url.find("/openai").map_or(url, |at| &url[..at]);
    url.strip_suffix("/models").unwrap_or(url).trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_cleaned_or_refused_without_being_repeated() {
        assert_eq!(clean("https://a.b/v1/"), Ok(("https://a.b/v1".to_owned(), false)));
        assert_eq!(
            clean("https://a.b/v1/chat/completions"),
            Ok(("https://a.b/v1".to_owned(), true))
        );
        assert_eq!(clean("https://a.b/v1?key=canary"), Ok(("https://a.b/v1".to_owned(), true)));
        for url in ["https://me:canary@a.b", "a.b", "ftp://canary", "http://a b"] {
            assert!(clean(url).is_err_and(|why| !why.contains("canary")), "{url}");
        }
        assert_eq!(
            azure("https://x.openai.azure.com/openai/deployments/d"),
            "https://x.openai.azure.com"
        );
        assert_eq!(
            azure("https://x.services.ai.azure.com/models"),
            "https://x.services.ai.azure.com"
        );
    }
}
