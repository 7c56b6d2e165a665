//! Unit prices: one for each kind of unit, and which is taken where a kind has none of its own.

use crate::money::{self, AmountError};
use crate::store::Units;

/// What has a price.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    Input,
    CachedRead,
    CachedReadAudio,
    CacheWrite,
    CacheWrite5m,
    CacheWrite1h,
    Output,
    Reasoning,
    AudioIn,
    AudioOut,
    ImageIn,
    ImageOut,
    VideoIn,
    ToolIn,
    Request,
    WebSearch,
    SearchUnit,
    Image,
    Second,
    Characters,
}

const COUNT: usize = Kind::Characters as usize + 1;

/// The kinds that are written as the price of one; all others as the price of a million.
const EACH: &[Kind] =
    &[Kind::Request, Kind::WebSearch, Kind::SearchUnit, Kind::Image, Kind::Second];

/// The largest price of one unit, in pico-units: with it no count can overflow a `u128`.
const MAX_PICO: u64 = u64::MAX / 4;

/// A price for each kind of unit, or none: pico-units of a currency for one unit. What a currency
/// that is, and when the prices are valid, is said where they are used.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Prices([Option<u64>; COUNT]);

impl Prices {
    /// The names in configuration and JSON, in the order of [`Kind`]. Tokens and `characters` are
    /// priced by the million, the others by the piece.
    pub const NAMES: &'static [&'static str] = &[
        "input",
        "cached_read",
        "cached_read_audio",
        "cache_write",
        "cache_write_5m",
        "cache_write_1h",
        "output",
        "reasoning",
        "audio_in",
        "audio_out",
        "image_in",
        "image_out",
        "video_in",
        "tool_in",
        "request",
        "web_search",
        "search_unit",
        "image",
        "second",
        "characters",
    ];

    /// Sets the price of this name from its text: `"0.15"` for a million tokens, or for one search.
    ///
    /// # Errors
    /// A sentence about the text, with the cure; or that the name is not known.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), String> {
        let at = position(name)
            .ok_or_else(|| format!("is no price; there are {}", Prices::NAMES.join(", ")))?;
        let price = if is_each(at) {
            money::parse_amount(text).and_then(|pico| {
                let pico = u64::try_from(pico).ok().filter(|&pico| pico <= MAX_PICO);
                pico.ok_or(AmountError::TooLarge)
            })
        } else {
            money::parse_per_million(text)
        };
        let price = price.map_err(|fault| match (fault, is_each(at)) {
            (AmountError::Form, _) => AmountError::Form.to_string(),
            (fault @ AmountError::TooFine(_), false) => {
                format!("{fault}; it is the price of a million, and 0.000001 the smallest")
            }
            (fault @ AmountError::TooFine(_), true) => {
                format!("{fault}; 0.000000000001 is the smallest price")
            }
            (AmountError::TooLarge, false) => {
                "is too large; write the price of a million".to_owned()
            }
            (AmountError::TooLarge, true) => "is too large; write the price of one".to_owned(),
        })?;
        self.0[at] = Some(price);
        Ok(())
    }

    /// The text of a price; `None` if it is not set, or the name not known.
    pub fn get(&self, name: &str) -> Option<String> {
        let at = position(name)?;
        let pico = self.0[at]?;
        Some(if is_each(at) {
            money::format_pico(i128::from(pico))
        } else {
            money::format_per_million(pico)
        })
    }

    /// Whether no price is set.
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    /// The price of one unit, in pico-units.
    pub(super) fn pico(&self, kind: Kind) -> Option<u64> {
        self.0[kind as usize]
    }

    /// Sets the price of one unit, or takes it away. False: it is too large.
    pub(super) fn set_pico(&mut self, kind: Kind, pico: Option<u64>) -> bool {
        let fits = pico.is_none_or(|pico| pico <= MAX_PICO);
        if fits {
            self.0[kind as usize] = pico;
        }
        fits
    }

    /// Whether every price that is set is 0.
    pub(super) fn is_free(&self) -> bool {
        self.0.iter().flatten().all(|pico| *pico == 0)
    }

    /// Keeps only the prices of tokens, each as `change` makes it of pico-units.
    pub(super) fn keep_tokens(&mut self, change: impl Fn(u64) -> Option<u64>) {
        let (tokens, others) = self.0.split_at_mut(Kind::Request as usize);
        for price in tokens {
            *price = price.and_then(&change).filter(|pico| *pico <= MAX_PICO);
        }
        others.fill(None);
    }
}

fn position(name: &str) -> Option<usize> {
    Prices::NAMES.iter().position(|known| *known == name)
}

fn is_each(at: usize) -> bool {
    EACH.iter().any(|kind| *kind as usize == at)
}

/// How one counter of [`Units`] is priced.
pub(super) struct Line {
    /// Its own price first, then those that stand in for it.
    pub chain: &'static [Kind],
    /// How many of the counter make one priced unit.
    pub per: u128,
}

const fn line(chain: &'static [Kind]) -> Line {
    Line { chain, per: 1 }
}

/// For each counter, in the order of [`Units::NAMES`]. A cache write without a price of its own
/// takes that of cache writes in general before that of plain input.
pub(super) const LINES: [Line; Units::COUNT] = [
    line(&[Kind::Input]),
    line(&[Kind::AudioIn, Kind::Input]),
    line(&[Kind::ImageIn, Kind::Input]),
    line(&[Kind::VideoIn, Kind::Input]),
    line(&[Kind::ToolIn, Kind::Input]),
    line(&[Kind::CachedRead, Kind::Input]),
    line(&[Kind::CachedReadAudio, Kind::CachedRead, Kind::Input]),
    line(&[Kind::CacheWrite5m, Kind::CacheWrite, Kind::Input]),
    line(&[Kind::CacheWrite1h, Kind::CacheWrite, Kind::Input]),
    line(&[Kind::CacheWrite, Kind::Input]),
    line(&[Kind::Output]),
    line(&[Kind::Reasoning, Kind::Output]),
    line(&[Kind::AudioOut, Kind::Output]),
    line(&[Kind::ImageOut, Kind::Output]),
    line(&[Kind::WebSearch]),
    line(&[Kind::SearchUnit]),
    line(&[Kind::Characters]),
    line(&[Kind::Image]),
    Line { chain: &[Kind::Second], per: 1000 },
];

/// Prices over prices: the first layer that names a price decides.
#[derive(Clone, Copy)]
pub(super) struct Layers<'a>(pub [Option<&'a Prices>; 3]);

impl Layers<'_> {
    /// The price of one unit: the first kind of the chain that any layer names.
    pub fn pico(&self, chain: &[Kind]) -> Option<u64> {
        chain.iter().find_map(|&kind| self.0.iter().flatten().find_map(|layer| layer.pico(kind)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prices_are_read_by_the_million_or_by_the_piece_and_written_as_read() {
        let mut prices = Prices::default();
        for (name, text, pico) in [
            ("input", "0.15", 150_000),
            ("characters", "15", 15_000_000),
            ("request", "0.005", 5_000_000_000),
            ("web_search", "0.01", 10_000_000_000),
            ("search_unit", "0.002", 2_000_000_000),
            ("image", "0.04", 40_000_000_000),
            ("second", "0.0001", 100_000_000),
            ("cache_write_1h", "0.000001", 1),
            ("output", "0", 0),
        ] {
            prices.set(name, text).expect(name);
            assert_eq!(prices.0[position(name).expect(name)], Some(pico), "{name}");
            assert_eq!(prices.get(name).as_deref(), Some(text));
        }
        assert_eq!((prices.get("reasoning"), prices.get("nothing")), (None, None));
    }

    #[test]
    fn bad_prices_are_refused_with_the_cure_and_change_nothing() {
        let mut prices = Prices::default();
        for (name, text, want) in [
            ("input", "1e-6", "must be a number like"),
            ("input", "-1", "must be a number like"),
            ("input", "", "must be a number like"),
            ("input", "0.0000001", "0.000001 the smallest"),
            ("input", "99999999999999", "write the price of a million"),
            ("image", "9999999", "write the price of one"),
            ("image", "0.0000000000001", "0.000000000001 is the smallest"),
            ("inptu", "1", "there are input, cached_read"),
        ] {
            let fault = prices.set(name, text).expect_err(text);
            assert!(fault.contains(want), "{name} {text}: {fault}");
        }
        assert!(prices.is_empty());
    }

    #[test]
    fn every_counter_has_its_line_and_every_name_its_kind() {
        assert_eq!(Prices::NAMES.len(), COUNT);
        for (name, want) in [
            ("in_text", Kind::Input),
            ("in_tool", Kind::ToolIn),
            ("in_cache_read_audio", Kind::CachedReadAudio),
            ("in_cache_write_5m", Kind::CacheWrite5m),
            ("in_cache_write_other", Kind::CacheWrite),
            ("out_reasoning", Kind::Reasoning),
            ("out_image", Kind::ImageOut),
            ("search_units", Kind::SearchUnit),
            ("chars_in", Kind::Characters),
            ("images_out", Kind::Image),
            ("seconds_in_milli", Kind::Second),
        ] {
            let at = Units::NAMES.iter().position(|known| *known == name).expect(name);
            assert_eq!(LINES[at].chain[0], want, "{name}");
        }
        for (at, line) in LINES.iter().enumerate() {
            let name = Units::NAMES[at];
            assert_eq!(line.per, if name.ends_with("_milli") { 1000 } else { 1 }, "{name}");
            let last = line.chain.last().copied();
            if name.starts_with("in_") {
                assert_eq!(last, Some(Kind::Input), "{name}");
            } else if name.starts_with("out_") {
                assert_eq!(last, Some(Kind::Output), "{name}");
            }
        }
    }
}
