//! Names that the configuration accepts, made of names that others have chosen.

use std::collections::BTreeSet;

/// The longest name of a provider, and of anything else (bytes).
const SLUG_MOST: usize = 64;
const NAME_MOST: usize = 256;

/// Names of one kind that are in use.
#[derive(Default)]
pub(super) struct Names(BTreeSet<String>);

impl Names {
    /// A name of its own for a provider: letters, digits, `.`, `_` and `-`.
    pub(super) fn slug(&mut self, wish: &str, otherwise: &str) -> String {
        let mut slug = String::new();
        for letter in wish.chars() {
            let fits = letter.is_ascii_alphanumeric() || "._".contains(letter);
            if fits {
                slug.push(letter.to_ascii_lowercase());
            } else if !slug.ends_with('-') && !slug.is_empty() {
                slug.push('-');
            }
        }
        slug.truncate(SLUG_MOST - 8);
        let slug = slug.trim_end_matches(['-', '.', '_']);
        self.unique(if slug.is_empty() { otherwise } else { slug })
    }

    /// A name of its own for anything else; what a name may not have in it is left out.
    pub(super) fn name(&mut self, wish: &str, otherwise: &str) -> String {
        let kept: String = wish.chars().filter(|letter| !letter.is_control()).collect();
        let mut end = kept.len().min(NAME_MOST - 8);
        while !kept.is_char_boundary(end) {
            end -= 1;
        }
        let name = kept[..end].trim();
        self.unique(if name.is_empty() { otherwise } else { name })
    }

    /// The name, or the first of `name-2`, `name-3`, … that is free.
    fn unique(&mut self, name: &str) -> String {
        let mut free = name.to_owned();
        for number in 2u64.. {
            if self.0.insert(free.clone()) {
                break;
            }
            free = format!("{name}-{number}");
        }
        free
    }
}

/// Does the configuration accept this as a name?
pub(super) fn is_name(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= NAME_MOST
        && text.trim() == text
        && !text.chars().any(char::is_control)
}

/// Does the configuration accept this as the name of a model: a star at the end only, alone or behind
/// a slash?
pub(super) fn is_alias(text: &str) -> bool {
    let star = match text.find('*') {
        Some(at) => at + 1 == text.len() && (at == 0 || text[..at].ends_with('/')),
        None => true,
    };
    is_name(text) && star
}

/// Is this the name of a variable of the environment?
pub(super) fn is_variable(name: &str) -> bool {
    let first = |b: &u8| b.is_ascii_alphabetic() || *b == b'_';
    name.as_bytes().first().is_some_and(first)
        && name.len() <= NAME_MOST
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// A variable's name made of another name: `azure-eu` and `API_KEY` are `AZURE_EU_API_KEY`.
pub(super) fn variable(name: &str, end: &str) -> String {
    let letter = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' };
    let name: String = name.chars().map(letter).collect();
    let start = if name.starts_with(|c: char| c.is_ascii_digit()) { "_" } else { "" };
    format!("{start}{name}_{end}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_fit_and_never_twice() {
        let mut names = Names::default();
        assert_eq!(names.slug("Azure EU (West)", "x"), "azure-eu-west");
        assert_eq!(names.slug("azure eu west", "x"), "azure-eu-west-2");
        assert_eq!(names.slug("主渠道", "channel-3"), "channel-3");
        assert_eq!(names.slug("主渠道", "channel-3"), "channel-3-2");
        assert!(names.slug(&"a".repeat(300), "x").len() <= SLUG_MOST);
        let mut names = Names::default();
        assert_eq!(names.name(" 主\u{7}渠道\n", "x"), "主渠道");
        assert!(is_name(&names.name(&"渠".repeat(300), "x")));
        assert_eq!(names.name("\n", "key-1"), "key-1");
        assert_eq!(variable("azure-eu.2", "API_KEY"), "AZURE_EU_2_API_KEY");
        assert!(is_variable(&variable("360", "API_KEY")));
    }

    #[test]
    fn stars_stand_at_the_end_of_an_alias_only() {
        for (text, want) in [
            ("*", true),
            ("openai/*", true),
            ("gpt-4o", true),
            ("gpt-*", false),
            ("*/x", false),
            ("", false),
            (" x", false),
        ] {
            assert_eq!(is_alias(text), want, "{text}");
        }
    }
}
