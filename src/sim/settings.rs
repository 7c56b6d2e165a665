//! What a simulated provider is started with, and the distributions its times are drawn from.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

/// An answer never has more tokens than this, whatever the distribution says.
pub(super) const TOKENS_MAX: u64 = 16_384;

/// Standard normal quantile of 0.99: how a lognormal is fixed by its median and p99.
const Z99: f64 = 2.326_347_874;

/// Everything that can be set before the start. `Settings::default()` is a hosted chat model on a
/// free port of 127.0.0.1 that takes any key.
#[derive(Clone)]
pub struct Settings {
    /// Where to listen; port 0 takes a free one (see [`Sim::addr`](super::Sim)).
    pub listen: SocketAddr,
    /// The provider's name: `owned_by` of its models and the `x-sim-name` header of every answer.
    pub name: String,
    /// Decides texts, lengths and times. Same seed and prompt, same text.
    pub seed: u64,
    /// From the end of the request to the first token.
    pub ttft: Distribution,
    /// Between two tokens.
    pub gap: Distribution,
    /// How long answers are, before `max_tokens` and `stop`.
    pub tokens: Lengths,
    /// Accepted bearer keys. Empty: no key is asked for.
    pub keys: Vec<String>,
    /// The models that exist, besides the `sim-…` ones. Empty: every name does.
    pub models: Vec<String>,
    /// Sends the head (but no frame) of a stream at once, not together with the first token.
    pub early_head: bool,
    /// Refuses every top-level field that the API does not define (400 `unknown_parameter`).
    /// Otherwise only fields that a gateway has made up itself are refused.
    pub refuse_unknown_fields: bool,
    /// Longest request body in bytes; a longer one gets 413.
    pub body_limit_bytes: usize,
    /// How many received requests are kept for `GET /sim/requests`, at most 1000. 0 switches the
    /// log off (load tests).
    pub log_requests: usize,
    /// `SETTINGS_MAX_CONCURRENT_STREAMS` of an HTTP/2 connection.
    pub max_streams: u32,
    /// Whether HTTP/2 is spoken at all.
    pub h2: bool,
    /// With this, TLS connections are served too, next to cleartext ones. ALPN decides the
    /// protocol; without ALPN it is HTTP/1.1.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            name: "sim".into(),
            seed: 0,
            ttft: Distribution(Shape::Lognormal { median: 0.25, p99: 0.9 }),
            gap: Distribution(Shape::Lognormal { median: 0.012, p99: 0.04 }),
            tokens: Lengths(Shape::Lognormal { median: 120.0, p99: 600.0 }),
            keys: Vec::new(),
            models: Vec::new(),
            early_head: false,
            refuse_unknown_fields: false,
            body_limit_bytes: 64 << 20,
            log_requests: 1000,
            max_streams: 1000,
            h2: true,
            tls: None,
        }
    }
}

/// A distribution of durations: `"20ms"`, `"constant(20ms)"` or `"lognormal(250ms, 900ms)"`
/// (median, p99).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Distribution(Shape);

impl Distribution {
    /// Always the same.
    pub fn constant(value: Duration) -> Self {
        Distribution(Shape::Constant(value.as_secs_f64()))
    }

    /// Lognormal by its median and 99th percentile; `p99` below `median` counts as `median`.
    pub fn lognormal(median: Duration, p99: Duration) -> Self {
        let median = median.as_secs_f64();
        Distribution(Shape::Lognormal { median, p99: p99.as_secs_f64().max(median) })
    }

    /// One draw. Never above four times the p99, so that a test has a bound to rely on.
    pub fn sample(&self, rng: &mut SmallRng) -> Duration {
        Duration::from_secs_f64(self.0.sample(rng))
    }
}

impl FromStr for Distribution {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse_shape(text, parse_seconds).map(Distribution)
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, |seconds| format!("{:?}", Duration::from_secs_f64(seconds)))
    }
}

/// A distribution of token counts: `"64"`, `"constant(64)"` or `"lognormal(120, 600)"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lengths(Shape);

impl Lengths {
    /// Always `tokens`.
    pub fn constant(tokens: u32) -> Self {
        Lengths(Shape::Constant(f64::from(tokens)))
    }

    /// Lognormal by its median and 99th percentile.
    pub fn lognormal(median: u32, p99: u32) -> Self {
        Lengths(Shape::Lognormal { median: f64::from(median), p99: f64::from(p99.max(median)) })
    }

    /// One draw, between 1 and 16,384.
    pub fn sample(&self, rng: &mut SmallRng) -> u64 {
        (self.0.sample(rng).round() as u64).clamp(1, TOKENS_MAX)
    }
}

impl FromStr for Lengths {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let count = |text: &str| match text.parse::<u32>() {
            Ok(tokens) => Ok(f64::from(tokens)),
            Err(_) => Err(format!("{text:?} is not a number of tokens")),
        };
        parse_shape(text, count).map(Lengths)
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.write(f, |tokens| tokens.to_string())
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Shape {
    Constant(f64),
    Lognormal { median: f64, p99: f64 },
}

impl Shape {
    fn sample(&self, rng: &mut SmallRng) -> f64 {
        match *self {
            Shape::Constant(value) => value,
            Shape::Lognormal { median, p99 } if p99 > median && median > 0.0 => {
                let sigma = (p99 / median).ln() / Z99;
                (median * (sigma * normal(rng)).exp()).min(p99 * 4.0)
            }
            Shape::Lognormal { median, .. } => median,
        }
    }

    fn write(&self, f: &mut fmt::Formatter<'_>, unit: fn(f64) -> String) -> fmt::Result {
        match *self {
            Shape::Constant(value) => f.write_str(&unit(value)),
            Shape::Lognormal { median, p99 } => {
                write!(f, "lognormal({}, {})", unit(median), unit(p99))
            }
        }
    }
}

/// A standard normal draw (Box and Muller, 1958).
fn normal(rng: &mut SmallRng) -> f64 {
    let (a, b): (f64, f64) = (rng.random(), rng.random());
    // 1 - a is in (0, 1], which keeps the logarithm finite.
    (-2.0 * (1.0 - a).ln()).sqrt() * (std::f64::consts::TAU * b).cos()
}

fn parse_shape(text: &str, value: fn(&str) -> Result<f64, String>) -> Result<Shape, String> {
    let text = text.trim();
    let Some((name, rest)) = text.split_once('(') else {
        return value(text).map(Shape::Constant);
    };
    let Some(inside) = rest.strip_suffix(')') else {
        return Err(format!("{text:?}: the closing bracket is missing"));
    };
    let values = inside.split(',').map(|part| value(part.trim())).collect::<Result<Vec<_>, _>>()?;
    match (name.trim(), values.as_slice()) {
        ("constant", &[value]) => Ok(Shape::Constant(value)),
        ("lognormal", &[median, p99]) if median > 0.0 && p99 >= median => {
            Ok(Shape::Lognormal { median, p99 })
        }
        ("lognormal", [_, _]) => Err(format!("{text:?}: give median > 0, then p99 >= median")),
        ("lognormal", _) => Err(format!("{text:?}: lognormal takes two values, median and p99")),
        ("constant", _) => Err(format!("{text:?}: constant takes one value")),
        (other, _) => Err(format!("unknown distribution {other:?}: use constant or lognormal")),
    }
}

/// `"250ms"`, `"1.5s"`, `"80us"`, `"0ms"` in seconds; at most one hour.
fn parse_seconds(text: &str) -> Result<f64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let scale = match unit {
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "" => return Err(format!("{text:?} has no unit: write for example \"20ms\"")),
        _ => return Err(format!("{text:?}: unknown unit, use us, ms, s or m")),
    };
    match number.parse::<f64>() {
        Ok(value) if value * scale <= 3600.0 => Ok(value * scale),
        Ok(_) => Err(format!("{text:?} is more than an hour")),
        Err(_) => Err(format!("{text:?} is not a duration")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;

    #[test]
    fn distributions_parse_and_print() {
        for (text, printed) in [
            ("20ms", "20ms"),
            (" constant(1.5s) ", "1.5s"),
            ("0ms", "0ns"),
            ("lognormal(250ms, 900ms)", "lognormal(250ms, 900ms)"),
            ("lognormal(80us,1m)", "lognormal(80µs, 60s)"),
        ] {
            let parsed: Distribution = text.parse().expect(text);
            assert_eq!(parsed.to_string(), printed);
        }
        assert_eq!("lognormal(120, 600)".parse::<Lengths>(), Ok(Lengths::lognormal(120, 600)));
        assert_eq!("64".parse::<Lengths>(), Ok(Lengths::constant(64)));
    }

    #[test]
    fn faulty_distributions_say_what_is_wrong() {
        for (text, part) in [
            ("20", "no unit"),
            ("20h", "unknown unit"),
            ("2m0s", "unknown unit"),
            ("-1ms", "unknown unit"),
            ("ms", "not a duration"),
            ("61m", "more than an hour"),
            ("lognormal(1s, 5ms)", "p99 >= median"),
            ("lognormal(1s)", "two values"),
            ("uniform(1s, 2s)", "constant or lognormal"),
            ("lognormal(1s, 2s", "closing bracket"),
        ] {
            let fault = text.parse::<Distribution>().expect_err(text);
            assert!(fault.contains(part), "{text}: {fault}");
        }
        assert!("1.5".parse::<Lengths>().is_err());
    }

    #[test]
    fn a_lognormal_has_the_median_and_p99_it_was_given_and_a_ceiling() {
        let wanted: Distribution = "lognormal(100ms, 400ms)".parse().expect("valid");
        let mut rng = SmallRng::seed_from_u64(1);
        let mut draws: Vec<_> = (0..20_000).map(|_| wanted.sample(&mut rng)).collect();
        draws.sort();
        let near = |at: usize, want_ms: f64| {
            let got_ms = draws[at].as_secs_f64() * 1e3;
            assert!((got_ms / want_ms - 1.0).abs() < 0.1, "{got_ms} is not near {want_ms}");
        };
        near(10_000, 100.0);
        near(19_800, 400.0);
        assert!(draws[19_999] <= Duration::from_millis(1600));
    }

    #[test]
    fn lengths_stay_within_their_bounds() {
        let mut rng = SmallRng::seed_from_u64(1);
        assert_eq!(Lengths::constant(0).sample(&mut rng), 1);
        assert_eq!(Lengths::constant(u32::MAX).sample(&mut rng), TOKENS_MAX);
    }
}
