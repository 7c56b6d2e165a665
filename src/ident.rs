//! Names of things: small types that keep one kind of identifier from being used as another.
//!
//! Nothing in here knows how a thing is stored or reached.

use std::fmt;
use std::sync::Arc;

/// The id of one request: a ULID (48 bits of Unix milliseconds, 80 random bits), printed as 26
/// characters of Crockford base32. It is the `x-request-id` of the answer and the key of its record.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(u128);

const CROCKFORD: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";

impl RequestId {
    /// `unix_ms` is wall-clock time; `random` supplies the low 80 bits.
    pub fn new(unix_ms: u64, random: u128) -> Self {
        RequestId((u128::from(unix_ms) & ((1 << 48) - 1)) << 80 | random & ((1 << 80) - 1))
    }

    /// The raw 128 bits, as kept in the journal.
    pub fn to_u128(self) -> u128 {
        self.0
    }

    /// The inverse of [`RequestId::to_u128`].
    pub fn from_u128(raw: u128) -> Self {
        RequestId(raw)
    }

    /// The printed form, without an allocation.
    pub fn text(self) -> [u8; 26] {
        let mut out = [0; 26];
        let mut rest = self.0;
        for digit in out.iter_mut().rev() {
            *digit = CROCKFORD[(rest & 31) as usize];
            rest >>= 5;
        }
        out
    }
}

impl std::str::FromStr for RequestId {
    type Err = ();

    /// Reads the printed form; letters of either case.
    fn from_str(text: &str) -> Result<Self, ()> {
        if text.len() != 26 {
            return Err(());
        }
        let mut raw = 0u128;
        for byte in text.bytes() {
            let upper = byte.to_ascii_uppercase();
            let digit = CROCKFORD.iter().position(|&known| known == upper).ok_or(())?;
            raw = raw.checked_mul(32).ok_or(())? | digit as u128;
        }
        Ok(RequestId(raw))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.text();
        f.write_str(std::str::from_utf8(&text).expect("base32 is ASCII"))
    }
}

impl fmt::Debug for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What kind of answer a request waits for. Learned times are kept apart by class: a whole answer
/// is not a first token.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Class {
    /// A stream of events.
    Stream,
    /// One JSON answer of a text model.
    Unary,
    /// Embeddings, moderations, images, audio, rerank.
    Other,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
        pub struct $name(pub Arc<str>);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                $name(text.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name_type!(
    /// The model name that callers use: a `[[model]]` of the configuration.
    Alias
);
name_type!(
    /// The printable name of a target: `provider/upstream-model`.
    TargetId
);
name_type!(
    /// The id of a virtual key. Never the secret.
    KeyId
);
name_type!(
    /// The id of a paying account.
    AccountId
);
name_type!(
    /// The name of a project.
    ProjectId
);

/// Whether `name` matches `pattern`, in which `*` stands for any run of characters (also none).
/// Linear in `name` for the usual one star, quadratic at worst; no allocation.
pub fn glob(pattern: &str, name: &str) -> bool {
    let (p, n) = (pattern.as_bytes(), name.as_bytes());
    let (mut pi, mut ni) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while ni < n.len() {
        if pi < p.len() && p[pi] == b'*' {
            star = Some((pi, ni));
            pi += 1;
        } else if pi < p.len() && p[pi] == n[ni] {
            pi += 1;
            ni += 1;
        } else if let Some((star_pi, star_ni)) = star {
            pi = star_pi + 1;
            ni = star_ni + 1;
            star = Some((star_pi, star_ni + 1));
        } else {
            return false;
        }
    }
    p[pi..].iter().all(|&c| c == b'*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn request_ids_print_as_ulids_and_sort_by_time() {
        let id = RequestId::new(1_469_922_850_259, 0);
        assert_eq!(&id.to_string()[..10], "01ARZ3NDEK");
        assert!(RequestId::new(1, u128::MAX) < RequestId::new(2, 0));
        assert_eq!(RequestId::from_u128(id.to_u128()), id);
        assert_eq!(id.to_string().to_lowercase().parse(), Ok(id));
        for text in ["", "01ARZ3NDEK", "U1ARZ3NDEKTSV4RRFFQ69G5FAV", "ZZZZZZZZZZZZZZZZZZZZZZZZZZ"] {
            assert_eq!(text.parse::<RequestId>(), Err(()), "{text}");
        }
    }

    #[test]
    fn globs() {
        for (pattern, name, want) in [
            ("*", "", true),
            ("gpt-*", "gpt-4o", true),
            ("gpt-*", "xgpt-4o", false),
            ("*/mini", "a/b/mini", true),
            ("a*b*c", "a__b__b_c", true),
            ("a*b*c", "a__b__b_", false),
            ("exact", "exact", true),
            ("exact", "exactly", false),
            ("", "", true),
            ("", "x", false),
        ] {
            assert_eq!(glob(pattern, name), want, "{pattern} {name}");
        }
    }
}
