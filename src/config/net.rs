//! Addresses as the configuration writes them: networks and base URLs.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Serialize, Serializer};

use super::fault::{Wrong, quote};

/// A network: an address and how many of its leading bits count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    /// The first address of the network.
    pub address: IpAddr,
    /// At most 32 or 128.
    pub prefix_bits: u8,
}

impl Cidr {
    /// Is `address` in this network? An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.address, address.to_canonical()) {
            (IpAddr::V4(own), IpAddr::V4(other)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix_bits)).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            (IpAddr::V6(own), IpAddr::V6(other)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_bits)).unwrap_or(0);
                own.to_bits() & mask == other.to_bits() & mask
            }
            _ => false,
        }
    }

    /// Reads `10.0.0.0/8`, `fd00::/8` or a single address.
    pub(super) fn parse(text: &str) -> Result<Cidr, Wrong> {
        let wrong = || {
            Wrong::new(
                format!("must be a network, and {} is none", quote(text)),
                "write for example \"10.0.0.0/8\", \"fd00::/8\" or a single address",
            )
        };
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix_bits = match bits {
            Some(bits) if bits.starts_with('+') => return Err(wrong()),
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= most).ok_or_else(wrong)?,
            None => most,
        };
        let first = first_address(address, prefix_bits);
        if first != address {
            let problem = format!("has bits beyond the prefix in {}", quote(text));
            return Err(Wrong::new(problem, format!("write \"{first}/{prefix_bits}\"")));
        }
        Ok(Cidr { address, prefix_bits })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix_bits)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn first_address(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Ipv4Addr::from_bits(v4.to_bits() & mask).into()
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Ipv6Addr::from_bits(v6.to_bits() & mask).into()
        }
    }
}

/// What requests add to a base URL. Not `/models` alone: there are bases that end so.
const ENDPOINTS: &[&str] = &[
    "/chat/completions",
    "/completions",
    "/embeddings",
    "/responses",
    "/moderations",
    "/images/generations",
    "/audio/speech",
    "/rerank",
    "/messages",
];

/// Where a provider is reached: an `http` or `https` URL without query, fragment or user.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct BaseUrl {
    /// TLS, or in clear.
    pub https: bool,
    /// A name in lower case, or an address; an IPv6 address without its brackets.
    pub host: String,
    /// Never 0.
    pub port: u16,
    /// Empty, or begins with a slash and does not end in one.
    pub path: String,
}

impl BaseUrl {
    /// Reads a base URL; a trailing slash is dropped.
    pub(super) fn parse(text: &str) -> Result<BaseUrl, Wrong> {
        let example = "write for example \"https://api.example.com/v1\"";
        let wrong = |problem: &str| Wrong::new(format!("{problem} in {}", quote(text)), example);
        // These texts are not repeated: what stands before an "@" or after a "?" is often a secret.
        if text.contains('@') {
            return Err(Wrong::new("must not hold a user or a password", "use api_key"));
        }
        if text.contains(['?', '#']) {
            return Err(Wrong::new("must not have a query or a fragment", example));
        }
        if let Some(odd) = text.chars().find(|c| !c.is_ascii_graphic()) {
            return Err(wrong(&format!("has the character {odd:?}")));
        }
        let (https, rest) = match text.split_once("://") {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("https") => (true, rest),
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("http") => (false, rest),
            Some((scheme, _)) => return Err(wrong(&format!("has the unknown scheme {scheme}"))),
            None => return Err(wrong("must begin with https:// or http://, which is missing")),
        };
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if path.contains(['\\', '"', '<', '>']) {
            return Err(wrong("has a character that no path holds"));
        }
        let (host, port) = split_authority(authority, https).map_err(wrong)?;
        let url = BaseUrl { https, host, port, path: path.trim_end_matches('/').to_owned() };
        match ENDPOINTS.iter().find(|end| url.path.ends_with(*end)) {
            None => Ok(url),
            Some(end) => {
                let problem =
                    format!("ends in {end}, which each request brings along, in {}", quote(text));
                let path = url.path[..url.path.len() - end.len()].to_owned();
                let base = BaseUrl { path, ..url };
                Err(Wrong::new(problem, format!("write \"{base}\"")))
            }
        }
    }

    /// `host` or `host:port`, as the `host` header has it: the port only if it is not the scheme's.
    pub fn authority(&self) -> String {
        let host =
            if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let usual = if self.https { 443 } else { 80 };
        if self.port == usual { host } else { format!("{host}:{}", self.port) }
    }

    /// Would anybody between here and there see what is sent in clear? True for `http` to a public
    /// name or address.
    pub(super) fn is_exposed(&self) -> bool {
        if self.https {
            return false;
        }
        match self.host.parse::<IpAddr>().map(|address| address.to_canonical()) {
            Ok(IpAddr::V4(v4)) => !(v4.is_loopback() || v4.is_private() || v4.is_link_local()),
            Ok(IpAddr::V6(v6)) => {
                !(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local())
            }
            Err(_) => {
                let top = self.host.rsplit('.').next().unwrap_or("");
                self.host.contains('.')
                    && !["local", "internal", "localhost", "test", "svc", "lan"].contains(&top)
            }
        }
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.path)
    }
}

impl Serialize for BaseUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

fn split_authority(authority: &str, https: bool) -> Result<(String, u16), &'static str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (inside, after) = rest.split_once(']').ok_or("has a \"[\" without its \"]\"")?;
            inside.parse::<Ipv6Addr>().map_err(|_| "has no IPv6 address between the brackets")?;
            if !after.is_empty() && !after.starts_with(':') {
                return Err("has something other than a port after the \"]\"");
            }
            (inside, after.strip_prefix(':'))
        }
        None => match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        },
    };
    if host.is_empty() {
        return Err("has no host");
    }
    if !authority.starts_with('[') && !is_host_name(host) {
        return Err("has a host that is neither a name nor an address");
    }
    let port = match port {
        None => Some(if https { 443 } else { 80 }),
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
        Some(_) => None,
    };
    let port = port.filter(|port| *port > 0).ok_or("has no port of 1 to 65535 after the \":\"")?;
    Ok((host.to_ascii_lowercase(), port))
}

/// Letters, digits, hyphens, underscores (container networks use them) and dots, 253 at most.
pub(super) fn is_host_name(text: &str) -> bool {
    let label = |label: &str| {
        let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
        !label.is_empty() && label.len() <= 63 && label.bytes().all(inner)
    };
    text.len() <= 253 && text.strip_suffix('.').unwrap_or(text).split('.').all(label)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_contain_what_they_should() {
        let cidr = |text| Cidr::parse(text).expect(text);
        let ip = |text: &str| text.parse::<IpAddr>().expect("address");
        assert!(cidr("10.0.0.0/8").contains(ip("10.255.0.1")));
        assert!(!cidr("10.0.0.0/8").contains(ip("11.0.0.1")));
        assert!(cidr("10.0.0.0/8").contains(ip("::ffff:10.1.2.3")), "mapped into IPv6");
        assert!(cidr("0.0.0.0/0").contains(ip("192.0.2.1")));
        assert!(!cidr("0.0.0.0/0").contains(ip("2001:db8::1")));
        assert!(cidr("2001:db8::/32").contains(ip("2001:db8:1::1")));
        assert!(cidr("::1").contains(ip("::1")) && !cidr("::1").contains(ip("::2")));
        assert!(Cidr::parse("10.0.0.1/8").expect_err("bits").cure.contains("10.0.0.0/8"));
        for text in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/+8", "host/8", "10.0.0.0/"]
        {
            assert!(Cidr::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn base_urls_read_and_print() {
        for (text, printed) in [
            ("https://api.openai.com/v1", "https://api.openai.com/v1"),
            ("https://API.OpenAI.com:443/v1/", "https://api.openai.com/v1"),
            ("http://127.0.0.1:9900/v1", "http://127.0.0.1:9900/v1"),
            ("http://[::1]:8000", "http://[::1]:8000"),
            ("HTTP://vllm_1:80//", "http://vllm_1"),
        ] {
            assert_eq!(BaseUrl::parse(text).expect(text).to_string(), printed);
        }
        assert_eq!(BaseUrl::parse("http://[::1]/").expect("url").host, "::1");
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for (text, problem) in [
            ("api.openai.com/v1", "https://"),
            ("ftp://x/", "scheme"),
            ("https://", "no host"),
            ("https://:443/v1", "no host"),
            ("https://x:0/", "port"),
            ("https://x:99999/", "port"),
            ("https://x:+1/", "port"),
            ("https://x?key=1", "query"),
            ("https://x/#a", "fragment"),
            ("https://[::1", "]"),
            ("https://[::1]x/", "after"),
            ("https://a b/", "character"),
            ("https://a\r\nb/", "character"),
            ("https://a..b/", "neither"),
        ] {
            let wrong = BaseUrl::parse(text).expect_err(text);
            assert!(wrong.problem.contains(problem), "{text}: {}", wrong.problem);
        }
        let wrong = BaseUrl::parse("https://user:hunter2@x/").expect_err("user");
        assert!(!wrong.problem.contains("hunter2"), "a password is not repeated");
    }
}
