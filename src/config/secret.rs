//! Secrets: what they look like in the file, and a type that never prints itself.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// What stands in place of a secret wherever one might be printed.
pub(super) const MASK: &str = "***";

/// A secret. Prints `***`, also as JSON; compare it only with another of the configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Arc<str>);

impl Secret {
    /// Takes a text as a secret.
    pub fn new(text: &str) -> Secret {
        Secret(text.into())
    }

    /// The secret itself. Every call of this is a place where it may leak.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// The SHA-256 of the secret's bytes.
    pub fn digest(&self) -> Digest {
        Digest(Sha256::digest(self.0.as_bytes()).into())
    }
}

/// The SHA-256 of a key's secret. Masked as well: a short secret could be guessed from it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest(pub [u8; 32]);

impl Digest {
    /// Reads 64 hexadecimal digits.
    pub(super) fn from_hex(text: &str) -> Option<Digest> {
        let digits = text.as_bytes();
        if digits.len() != 64 {
            return None;
        }
        let mut out = [0; 32];
        for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
            let high = char::from(pair[0]).to_digit(16)?;
            let low = char::from(pair[1]).to_digit(16)?;
            *byte = (high * 16 + low) as u8;
        }
        Some(Digest(out))
    }
}

macro_rules! masked {
    ($type:ty) => {
        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(MASK)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(MASK)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(MASK)
            }
        }
    };
}

masked!(Secret);
masked!(Digest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_never_prints_itself() {
        let secret = Secret::new("sk-canary");
        let json = serde_json::to_string(&secret).expect("a string");
        for printed in [format!("{secret}"), format!("{secret:?}"), format!("{secret:#?}"), json] {
            assert!(printed.contains("***") && !printed.contains("canary"), "{printed}");
        }
        assert_eq!(format!("{:?}", secret.digest()), "***");
        assert_eq!(secret.expose(), "sk-canary");
    }

    #[test]
    fn a_digest_is_64_hexadecimal_digits() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015AD";
        assert!(Digest::from_hex(abc) == Some(Secret::new("abc").digest()));
        assert!(Digest::from_hex(&abc[1..]).is_none());
        assert!(Digest::from_hex(&abc.replace('b', "g")).is_none());
        assert!(Digest::from_hex(&"é".repeat(32)).is_none());
    }
}
