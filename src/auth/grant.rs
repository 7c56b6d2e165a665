//! What one key may do, and for whom it pays.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use thiserror::Error;

use super::shared::Names;
use crate::error::Kind;
use crate::ident::{AccountId, Alias, KeyId, ProjectId, glob};
use crate::limits::LimitSet;

/// Names that callers use, and the alias that each stands for.
pub type Aliases = BTreeMap<Arc<str>, Alias>;

/// What a key may do. Made when the key is defined, never changed afterwards: an edit makes a new one.
/// There may be a million: whatever many keys have in common (owners, lists) is held once, see
/// [`super::Shared`].
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grant {
    /// Who is asking.
    pub key_id: KeyId,
    /// The name for logs and reports.
    pub key_name: Arc<str>,
    /// Who pays.
    pub account: AccountId,
    /// What it is booked under.
    pub project: ProjectId,
    /// The person who owns the key.
    pub user: Option<Arc<str>>,
    /// Globs of the aliases that may be asked for. An empty list allows nothing: a forgotten field must
    /// not open everything, so whoever means "all" writes `*`.
    pub models: Names,
    /// Globs of aliases that may not be asked for; they win over `models`.
    pub deny_models: Names,
    /// Globs of the aliases that the project may ask for, whatever the key says. `None` allows all.
    pub project_models: Option<Names>,
    /// What the caller's names for models mean, where they are not aliases themselves.
    pub aliases: Option<Arc<Aliases>>,
    /// Globs of the endpoints that may be called (`chat`, `embeddings`, …). Empty allows all.
    pub endpoints: Names,
    /// Where calls may come from. Empty allows every address.
    pub cidrs: Arc<[Cidr]>,
    /// The wall-clock time from which the key is no longer good.
    pub expires_at_unix_ms: Option<u64>,
    /// Switched off by an operator.
    pub blocked: bool,
    /// Labels that every record of the key carries.
    pub tags: Names,
    /// What the key may use up; its owners have limits of their own.
    pub limits: Option<Arc<LimitSet>>,
    /// Whatever the operator wants to keep with the key, as one JSON object; opaque here.
    pub metadata: Option<Arc<str>>,
}

impl Grant {
    /// A grant that allows every model, endpoint and address and never expires: the base on which a
    /// definition puts its restrictions.
    pub fn open(key_id: KeyId, account: AccountId, project: ProjectId) -> Self {
        Grant {
            key_name: key_id.0.clone(),
            key_id,
            account,
            project,
            user: None,
            models: Names::from(["*".into()]),
            deny_models: Names::default(),
            project_models: None,
            aliases: None,
            endpoints: Names::default(),
            cidrs: Arc::default(),
            expires_at_unix_ms: None,
            blocked: false,
            tags: Names::default(),
            limits: None,
            metadata: None,
        }
    }

    /// Whether the alias may be asked for. Names are case-sensitive, as in the routing table.
    pub fn allows_model(&self, alias: &str) -> bool {
        matches_any(&self.models, alias)
            && !matches_any(&self.deny_models, alias)
            && self.project_models.as_ref().is_none_or(|globs| matches_any(globs, alias))
    }

    /// The alias that the caller's name for a model stands for with this key; `None` if it stands for
    /// itself. It is the alias, not the name, that must be allowed.
    pub fn alias_of(&self, name: &str) -> Option<&Alias> {
        self.aliases.as_ref()?.get(name)
    }

    /// Whether the endpoint may be called.
    pub fn allows_endpoint(&self, endpoint: &str) -> bool {
        self.endpoints.is_empty() || matches_any(&self.endpoints, endpoint)
    }

    /// Whether a call may come from `address`. IPv4 inside IPv6 (`::ffff:10.0.0.1`, which is how a
    /// dual-stack listener reports IPv4 callers) counts as IPv4.
    pub fn allows_address(&self, address: IpAddr) -> bool {
        self.cidrs.is_empty() || self.cidrs.iter().any(|cidr| cidr.contains(address))
    }

    /// Whether the key is good at this time, else the refusal that the caller gets.
    pub fn usable_at(&self, unix_ms: u64) -> Result<(), Kind> {
        let expired = self.expires_at_unix_ms.is_some_and(|end| unix_ms >= end);
        if self.blocked || expired { Err(Kind::KeyDisabled) } else { Ok(()) }
    }
}

fn matches_any(patterns: &[Arc<str>], name: &str) -> bool {
    patterns.iter().any(|pattern| glob(pattern, name))
}

/// A range of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Cidr {
    /// The first address of the range, IPv4 as IPv4-mapped IPv6.
    network: u128,
    /// How many leading bits count, of 128.
    prefix_bits: u32,
}

/// Why a text is no range of addresses.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum CidrError {
    /// The part before the slash.
    #[error("`{0}` is not an IP address")]
    Address(String),
    /// The part after the slash.
    #[error("`/{0}` is not a prefix length: write 0 to {1}")]
    Prefix(String, u32),
    /// Bits after the prefix: a typing error more often than not.
    #[error("`{0}` has bits set beyond its prefix: did you mean `{1}`?")]
    HostBits(String, String),
}

const MAPPED_BITS: u32 = 96;

impl Cidr {
    /// Reads `address/prefix` or a single address.
    pub fn parse(text: &str) -> Result<Self, CidrError> {
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix)),
            None => (text, None),
        };
        let address: IpAddr =
            address.parse().map_err(|_| CidrError::Address(address.to_owned()))?;
        let (width, offset) = if address.is_ipv4() { (32, MAPPED_BITS) } else { (128, 0) };
        let bits = match prefix {
            None => width,
            Some(digits) => parse_prefix(digits, width)
                .ok_or_else(|| CidrError::Prefix(digits.to_owned(), width))?,
        };
        let prefix_bits = offset + bits;
        let network = mapped(address) & mask(prefix_bits);
        if network != mapped(address) {
            let first = IpAddr::V6(Ipv6Addr::from(network));
            let first = if offset == 0 { first } else { first.to_canonical() };
            return Err(CidrError::HostBits(text.to_owned(), format!("{first}/{bits}")));
        }
        Ok(Cidr { network, prefix_bits })
    }

    /// Whether the address lies in the range. An IPv4 address lies in no IPv6 range but those of the
    /// mapped form (`::ffff:0:0/96`) and `::/0`, which means everybody.
    pub fn contains(&self, address: IpAddr) -> bool {
        mapped(address) & mask(self.prefix_bits) == self.network
    }
}

impl fmt::Display for Cidr {
    /// As [`Cidr::parse`] reads it; a mapped range as the IPv4 range that it is.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = Ipv6Addr::from(self.network);
        match first.to_ipv4_mapped() {
            Some(v4) if self.prefix_bits >= MAPPED_BITS => {
                write!(f, "{v4}/{}", self.prefix_bits - MAPPED_BITS)
            }
            _ => write!(f, "{first}/{}", self.prefix_bits),
        }
    }
}

impl std::str::FromStr for Cidr {
    type Err = CidrError;

    fn from_str(text: &str) -> Result<Self, CidrError> {
        Cidr::parse(text)
    }
}

/// Digits only: `parse::<u32>` alone would take `+8`.
fn parse_prefix(digits: &str, width: u32) -> Option<u32> {
    let plain = !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    digits.parse().ok().filter(|&bits| plain && bits <= width)
}

fn mapped(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().to_bits(),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn mask(prefix_bits: u32) -> u128 {
    u128::MAX.checked_shl(128 - prefix_bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant() -> Grant {
        Grant::open("key-1".into(), "acme".into(), "web".into())
    }

    fn list(items: &[&str]) -> Names {
        items.iter().map(|&item| item.into()).collect()
    }

    #[test]
    fn models_are_allowed_by_glob_and_denials_win() {
        let mut grant = grant();
        assert!(grant.allows_model("anything"));
        grant.models = list(&["gpt-*", "claude"]);
        grant.deny_models = list(&["*-audio"]);
        for (model, want) in [
            ("gpt-4o", true),
            ("claude", true),
            ("claude-2", false),
            ("GPT-4o", false),
            ("gpt-4o-audio", false),
            ("", false),
        ] {
            assert_eq!(grant.allows_model(model), want, "{model}");
        }
        grant.models = list(&[]);
        assert!(!grant.allows_model("gpt-4o"), "an empty list must not open everything");
    }

    #[test]
    fn a_project_narrows_its_keys() {
        let mut grant = grant();
        grant.models = list(&["gpt-*"]);
        grant.project_models = Some(list(&["*-mini"]));
        assert!(grant.allows_model("gpt-4o-mini"));
        assert!(!grant.allows_model("gpt-4o") && !grant.allows_model("o3-mini"));
        grant.project_models = Some(list(&[]));
        assert!(!grant.allows_model("gpt-4o-mini"));
    }

    #[test]
    fn a_caller_s_name_may_stand_for_an_alias() {
        let mut grant = grant();
        assert_eq!(grant.alias_of("gpt-4"), None);
        grant.aliases = Some(Arc::new([("gpt-4".into(), Alias::from("gpt-4o"))].into()));
        assert_eq!(grant.alias_of("gpt-4"), Some(&Alias::from("gpt-4o")));
        assert_eq!(grant.alias_of("gpt-4o"), None);
    }

    #[test]
    fn endpoints_are_open_unless_listed() {
        let mut grant = grant();
        assert!(grant.allows_endpoint("chat"));
        grant.endpoints = list(&["chat", "images*"]);
        assert!(grant.allows_endpoint("chat") && grant.allows_endpoint("images.generations"));
        assert!(!grant.allows_endpoint("embeddings"));
    }

    #[test]
    fn blocked_and_expired_keys_are_disabled() {
        let mut grant = grant();
        assert_eq!(grant.usable_at(u64::MAX), Ok(()));
        grant.expires_at_unix_ms = Some(1_000);
        assert_eq!(grant.usable_at(999), Ok(()));
        assert_eq!(grant.usable_at(1_000), Err(Kind::KeyDisabled));
        grant.expires_at_unix_ms = None;
        grant.blocked = true;
        assert_eq!(grant.usable_at(0), Err(Kind::KeyDisabled));
    }

    #[test]
    fn addresses_are_held_to_the_ranges() {
        let mut grant = grant();
        let from = |grant: &Grant, text: &str| grant.allows_address(text.parse().expect("address"));
        assert!(from(&grant, "203.0.113.9"));
        let ranges = ["10.1.0.0/16", "192.0.2.7", "2001:db8::/33"];
        grant.cidrs = ranges.iter().map(|text| Cidr::parse(text).expect(text)).collect();
        for (address, want) in [
            ("10.1.255.255", true),
            ("10.2.0.0", false),
            ("::ffff:10.1.2.3", true),
            ("::10.1.2.3", false),
            ("192.0.2.7", true),
            ("192.0.2.8", false),
            ("2001:db8:7fff::1", true),
            ("2001:db8:8000::1", false),
        ] {
            assert_eq!(from(&grant, address), want, "{address}");
        }
    }

    #[test]
    fn whole_families_have_a_range() {
        let v4 = Cidr::parse("0.0.0.0/0").expect("v4");
        assert!(v4.contains("255.0.0.1".parse().expect("v4")));
        assert!(!v4.contains("2001:db8::1".parse().expect("v6")));
        assert!(Cidr::parse("::/0").expect("all").contains("2001:db8::1".parse().expect("v6")));
        assert!(Cidr::parse("::ffff:10.0.0.0/104") == Cidr::parse("10.0.0.0/8"));
        for text in ["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/33", "0.0.0.0/0", "::/0"] {
            assert_eq!(Cidr::parse(text).expect(text).to_string(), text);
        }
    }

    #[test]
    fn faulty_ranges_are_refused_with_a_cure() {
        for text in ["", "10.0.0", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "::/129", "a/8"] {
            assert!(Cidr::parse(text).is_err(), "{text}");
        }
        let error = Cidr::parse("10.1.2.3/8").expect_err("host bits").to_string();
        assert!(error.contains("`10.0.0.0/8`"), "{error}");
        let error = Cidr::parse("2001:db8::1/32").expect_err("host bits").to_string();
        assert!(error.contains("`2001:db8::/32`"), "{error}");
    }
}
