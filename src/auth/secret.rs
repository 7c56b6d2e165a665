//! Secrets: how they are made, hashed and kept out of logs.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

/// SHA-256 of a secret: the only form in which a caller's key is kept.
pub type Digest = [u8; 32];

/// What every generated key begins with.
pub const KEY_PREFIX: &str = "sk-ft-";

/// How many characters of a key may be shown in lists: the prefix and six more.
const SHOWN_CHARS: usize = 12;

/// SHA-256 of `secret`. Plain SHA-256 is enough because generated keys carry 256 random bits; an imported
/// or hand-written key is as strong as it was.
pub fn digest(secret: &[u8]) -> Digest {
    Sha256::digest(secret).into()
}

/// Whether two digests are equal, in a time that does not depend on where they differ.
pub fn same(left: &Digest, right: &Digest) -> bool {
    left.ct_eq(right).into()
}

/// What every generated token of a principal begins with.
pub const TOKEN_PREFIX: &str = "ft-admin-";

/// A new key: `sk-ft-` and 43 characters of base64url from 256 random bits.
pub fn generate(random: [u8; 32]) -> Secret {
    Secret::new(format!("{KEY_PREFIX}{}", base64url(&random)))
}

/// A new token for a principal: `ft-admin-` and as many random characters.
pub fn generate_token(random: [u8; 32]) -> Secret {
    Secret::new(format!("{TOKEN_PREFIX}{}", base64url(&random)))
}

/// A text that must not be seen by accident: `Debug` prints `***`, and there is no `Display`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text into custody.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself, for the one place that must send or show it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// The beginning that may be kept for display. Nothing of a short secret is shown.
    pub fn shown(&self) -> &str {
        match self.0.char_indices().nth(SHOWN_CHARS) {
            Some((end, _)) if self.0.len() >= 3 * SHOWN_CHARS => &self.0[..end],
            _ => "",
        }
    }

    /// The digest under which it is found.
    pub fn digest(&self) -> Digest {
        digest(self.0.as_bytes())
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Base64 with the URL alphabet and without padding (RFC 4648 section 5).
fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let mut word = [0; 3];
        word[..group.len()].copy_from_slice(group);
        let bits = u32::from_be_bytes([0, word[0], word[1], word[2]]);
        for at in 0..=group.len() {
            let index = bits >> (18 - 6 * at) & 63;
            out.push(char::from(ALPHABET[index as usize]));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_sha_256() {
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let hex: String = digest(b"abc").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, want);
        assert!(same(&digest(b"abc"), &digest(b"abc")));
        assert!(!same(&digest(b"abc"), &digest(b"abd")));
    }

    #[test]
    fn base64url_follows_the_rfc() {
        for (plain, want) in [
            ("", ""),
            ("f", "Zg"),
            ("fo", "Zm8"),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg"),
            ("foobar", "Zm9vYmFy"),
        ] {
            assert_eq!(base64url(plain.as_bytes()), want);
        }
        assert_eq!(base64url(&[0xfb, 0xff]), "-_8");
    }

    #[test]
    fn generated_keys_have_the_promised_form_and_all_the_bits() {
        let one = generate([0xa5; 32]);
        assert_eq!(one.reveal().len(), 6 + 43);
        let body = one.reveal().strip_prefix("sk-ft-").expect("prefix");
        assert!(body.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-' || c == b'_'));
        for bit in 0..256 {
            let mut random = [0xa5; 32];
            random[bit / 8] ^= 1 << (bit % 8);
            assert_ne!(generate(random), one, "bit {bit} is lost");
        }
    }

    #[test]
    fn secrets_do_not_show_themselves() {
        let secret = generate([7; 32]);
        assert_eq!(format!("{secret:?}"), "***");
        assert_eq!(format!("{:?}", Some(&secret)), "Some(***)");
        assert_eq!(secret.shown(), &secret.reveal()[..12]);
        assert_eq!(Secret::new("hunter2").shown(), "");
        assert_eq!(Secret::new("ä".repeat(40)).shown(), "ä".repeat(12));
    }
}
