//! Numbers of JSON as they stand in the text: a price in units of a currency as whole pico-units.

use crate::money::mul_div_half_even;

/// Digits that are read; the shortest form of a double has at most 17.
const DIGITS_MAX: usize = 25;

/// A price in pico-units.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Pico {
    pub pico: u64,
    /// False: it was finer than a pico-unit, and rounded half-even.
    pub exact: bool,
}

/// Reads `1.5e-07`, `0.00000015`, `12` or any of them in quotes.
///
/// # Errors
/// Why it is no price, as the end of a sentence.
pub(super) fn pico(text: &str) -> Result<Pico, &'static str> {
    let (mantissa, exponent) = parts(text)?;
    let shift = exponent + 12;
    let ten = |places: i64| 10u128.checked_pow(u32::try_from(places).ok()?);
    let (value, exact) = if mantissa == 0 {
        (0, true)
    } else if shift >= 0 {
        (ten(shift).and_then(|scale| mantissa.checked_mul(scale)).ok_or("is too large")?, true)
    } else {
        match ten(-shift) {
            Some(scale) => {
                let value = mul_div_half_even(mantissa, 1, scale).ok_or("is too large")?;
                (value, mantissa.is_multiple_of(scale))
            }
            None => (0, false),
        }
    };
    let pico = u64::try_from(value).map_err(|_| "is too large")?;
    Ok(Pico { pico, exact })
}

/// `value` times a factor such as `1.25`, rounded half-even to a pico-unit.
pub(super) fn times(value: u64, factor: &str) -> Option<u64> {
    let (mantissa, exponent) = parts(factor).ok()?;
    let scale = |places: i64| 10u128.checked_pow(u32::try_from(places.max(0)).ok()?);
    let (up, down) = (scale(exponent)?, scale(-exponent)?);
    u64::try_from(mul_div_half_even(u128::from(value), mantissa.checked_mul(up)?, down)?).ok()
}

/// A number that is whole, in whatever form: `256000.0`, `1e6`.
pub(super) fn whole(text: &str) -> Option<u64> {
    let (mantissa, exponent) = parts(text).ok()?;
    let scale = 10u128.checked_pow(u32::try_from(exponent.max(0)).ok()?)?;
    let value = mantissa.checked_mul(scale).filter(|_| exponent >= 0 || mantissa == 0)?;
    u64::try_from(value).ok()
}

/// A number as digits and a power of ten.
fn parts(text: &str) -> Result<(u128, i64), &'static str> {
    let text = text.trim_matches('"').trim();
    if text.starts_with('-') {
        return Err("is negative");
    }
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().map_err(|_| NO_NUMBER)?),
        None => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let plain = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !plain(whole) || !plain(fraction) {
        return Err(NO_NUMBER);
    }
    let fraction = fraction.trim_end_matches('0');
    let all = [whole, fraction].concat();
    let all = all.trim_start_matches('0');
    if all.len() > DIGITS_MAX {
        return Err("has too many digits");
    }
    let mantissa = if all.is_empty() { 0 } else { all.parse().map_err(|_| NO_NUMBER)? };
    Ok((mantissa, i64::from(exponent) - fraction.len() as i64))
}

const NO_NUMBER: &str = "is no number";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_become_pico_units_without_ever_being_floats() {
        for (text, want, exact) in [
            ("1.5e-07", 150_000, true),
            ("0.00000015", 150_000, true),
            ("\"1.5E-7\"", 150_000, true),
            ("3e-06", 3_000_000, true),
            ("0.002", 2_000_000_000, true),
            ("1", 1_000_000_000_000, true),
            ("1e+2", 100_000_000_000_000, true),
            ("0.0", 0, true),
            ("0e500", 0, true),
            ("5.46875e-07", 546_875, true),
            ("1e-12", 1, true),
            // What a double leaves of 0.1 + 0.2 and of a third.
            ("3.0000000000000004e-07", 300_000, false),
            ("0.0005666666666666667", 566_666_667, false),
            ("5e-13", 0, false),
            ("1.5e-12", 2, false),
            ("1e-300", 0, false),
        ] {
            assert_eq!(pico(text), Ok(Pico { pico: want, exact }), "{text}");
        }
    }

    #[test]
    fn what_is_no_price_is_refused() {
        for (text, want) in [
            ("-1e-7", "is negative"),
            ("free", "is no number"),
            ("", "is no number"),
            (".5", "is no number"),
            ("1e", "is no number"),
            ("1.2.3", "is no number"),
            ("1e400", "is too large"),
            ("99999999", "is too large"),
            ("0.11111111111111111111111111", "has too many digits"),
        ] {
            assert_eq!(pico(text), Err(want), "{text}");
        }
    }

    #[test]
    fn factors_are_exact_too() {
        assert_eq!(times(5_000_000, "2"), Some(10_000_000));
        assert_eq!(times(5_000_000, "1.1"), Some(5_500_000));
        assert_eq!(times(3, "0.5"), Some(2));
        assert_eq!(times(u64::MAX, "2"), None);
        assert_eq!(
            (whole("256000.0"), whole("1e6"), whole("0")),
            (Some(256_000), Some(1_000_000), Some(0))
        );
        assert_eq!((whole("0.5"), whole("-1"), whole("1e99")), (None, None, None));
    }
}
