//! Money as integers. Amounts are in pico-units: 10^-12 of a currency's main unit, so that the price
//! of one token is a whole number. No floats anywhere, and no rounding but where it is asked for by
//! name.

use std::fmt;

/// Pico-units in one unit of a currency.
pub const PICO: u128 = 1_000_000_000_000;

/// The largest amount that can be written: a billion units. Sums of such amounts cannot overflow an
/// `i128`.
pub const AMOUNT_MAX_PICO: u128 = 1_000_000_000 * PICO;

/// Why a text is no amount.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum AmountError {
    #[error("must be a number like \"12.50\": digits, and a point where there is a fraction")]
    Form,
    #[error("has more than {0} digits after the point")]
    TooFine(u32),
    #[error("is more than a billion")]
    TooLarge,
}

/// An amount of money, never negative, as pico-units: `"12.5"` is 12_500_000_000_000. At most twelve
/// digits after the point.
pub fn parse_amount(text: &str) -> Result<u128, AmountError> {
    decimal(text, 12)
        .and_then(|pico| if pico > AMOUNT_MAX_PICO { Err(AmountError::TooLarge) } else { Ok(pico) })
}

/// A price for a million units, as pico-units for one: `"0.15"` is 150_000. At most six digits after
/// the point, so that the result is whole.
pub fn parse_per_million(text: &str) -> Result<u64, AmountError> {
    let pico = decimal(text, 6)?;
    u64::try_from(pico).ok().filter(|&pico| pico <= u64::MAX / 4).ok_or(AmountError::TooLarge)
}

/// Digits, a point, at most `places` digits: the number times 10^`places`.
fn decimal(text: &str, places: u32) -> Result<u128, AmountError> {
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => return Err(AmountError::Form),
        Some((whole, fraction)) => (whole, fraction),
        None => (text, ""),
    };
    let plain = |digits: &str| digits.bytes().all(|digit| digit.is_ascii_digit());
    if whole.is_empty() || !plain(whole) || !plain(fraction) {
        return Err(AmountError::Form);
    }
    let fraction = fraction.trim_end_matches('0');
    let missing = places.checked_sub(fraction.len() as u32).ok_or(AmountError::TooFine(places))?;
    let digits = whole.bytes().chain(fraction.bytes());
    let scaled = digits
        .chain((0..missing).map(|_| b'0'))
        .try_fold(0u128, |sum, digit| sum.checked_mul(10)?.checked_add(u128::from(digit - b'0')));
    scaled.ok_or(AmountError::TooLarge)
}

/// Pico-units as a decimal text without needless zeros: 2_935_200_000 is `0.0029352`.
pub fn format_pico(pico: i128) -> String {
    format_scaled(pico, 12)
}

/// Pico-units for one as the price of a million: the inverse of [`parse_per_million`].
pub fn format_per_million(pico: u64) -> String {
    format_scaled(i128::from(pico), 6)
}

fn format_scaled(value: i128, places: usize) -> String {
    let sign = if value < 0 { "-" } else { "" };
    let scale = 10u128.pow(places as u32);
    let (whole, fraction) = (value.unsigned_abs() / scale, value.unsigned_abs() % scale);
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let fraction = format!("{fraction:0places$}");
    format!("{sign}{whole}.{}", fraction.trim_end_matches('0'))
}

/// `value * numerator / denominator`, a half rounded to the even neighbour. `None` if that is too
/// large, or if the denominator is zero.
pub fn mul_div_half_even(value: u128, numerator: u128, denominator: u128) -> Option<u128> {
    let product = value.checked_mul(numerator)?;
    let (quotient, rest) = (product.checked_div(denominator)?, product % denominator);
    let up = match rest.cmp(&(denominator - rest)) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Greater => true,
        std::cmp::Ordering::Equal => quotient % 2 == 1,
    };
    quotient.checked_add(u128::from(up))
}

/// A currency by its three capital letters (ISO 4217).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency([u8; 3]);

impl Currency {
    /// The US dollar: the default everywhere.
    pub const USD: Currency = Currency(*b"USD");

    /// `None` unless the text is three capital letters.
    pub fn parse(text: &str) -> Option<Currency> {
        let letters: [u8; 3] = text.as_bytes().try_into().ok()?;
        letters.iter().all(u8::is_ascii_uppercase).then_some(Currency(letters))
    }

    /// The three letters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("letters are ASCII")
    }

    /// The three letters, for a record.
    pub fn to_bytes(self) -> [u8; 3] {
        self.0
    }

    /// The inverse of [`Currency::to_bytes`].
    pub fn from_bytes(letters: [u8; 3]) -> Option<Currency> {
        letters.iter().all(u8::is_ascii_uppercase).then_some(Currency(letters))
    }
}

impl Default for Currency {
    fn default() -> Self {
        Currency::USD
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_exactly_or_refused() {
        for (text, want) in [
            ("0", Ok(0)),
            ("100", Ok(100 * PICO)),
            ("0.15", Ok(150_000_000_000)),
            ("0.000000000001", Ok(1)),
            ("1.5000000000000000", Ok(3 * PICO / 2)),
            ("1000000000", Ok(AMOUNT_MAX_PICO)),
            ("1000000000.1", Err(AmountError::TooLarge)),
            ("0.0000000000001", Err(AmountError::TooFine(12))),
            ("99999999999999999999999999999999999999", Err(AmountError::TooLarge)),
        ] {
            assert_eq!(parse_amount(text), want, "{text}");
        }
        for text in ["", ".", ".5", "5.", "-1", "+1", "1e3", "1,5", " 1", "١", "0x1", "1.2.3"] {
            assert_eq!(parse_amount(text), Err(AmountError::Form), "{text}");
        }
        assert_eq!(parse_per_million("0.15"), Ok(150_000));
        assert_eq!(parse_per_million("0.0000001"), Err(AmountError::TooFine(6)));
    }

    #[test]
    fn amounts_are_written_as_they_are_read() {
        for pico in [0, 1, 150_000, 2_935_200_000, 10i128.pow(12), 123_456_789_012_345_678] {
            let text = format_pico(pico);
            assert_eq!(parse_amount(&text), Ok(pico as u128), "{text}");
            assert_eq!(format_pico(-pico), if pico == 0 { text } else { format!("-{text}") });
        }
        assert_eq!(format_pico(2_935_200_000), "0.0029352");
        assert_eq!(format_per_million(150_000), "0.15");
    }

    #[test]
    fn halves_go_to_the_even_neighbour() {
        for (value, want) in [(1, 0), (3, 2), (5, 2), (7, 4), (4, 2), (6, 3)] {
            assert_eq!(mul_div_half_even(value, 1, 2), Some(want), "{value} / 2");
        }
        assert_eq!(mul_div_half_even(2, 2, 3), Some(1));
        assert_eq!(mul_div_half_even(u128::MAX, 2, 3), None);
        assert_eq!(mul_div_half_even(1, 1, 0), None);
    }

    #[test]
    fn currencies_are_three_capitals() {
        assert_eq!(Currency::parse("EUR").map(|c| c.to_string()).as_deref(), Some("EUR"));
        for text in ["eur", "EURO", "E1R", "", "Ü$"] {
            assert_eq!(Currency::parse(text), None, "{text}");
        }
    }
}
