//! Numbers as others write them, kept as decimals: a price that went through a float would not be the
//! price any more.

/// The most digits after the point that a number may have here.
const MOST_PLACES: u32 = 60;

/// A number that is not negative: `digits` times 10^-`places`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Decimal {
    digits: u128,
    places: u32,
}

impl Decimal {
    pub(super) const ZERO: Decimal = Decimal { digits: 0, places: 0 };

    /// A whole number.
    pub(super) fn whole(number: u64) -> Decimal {
        Decimal { digits: number.into(), places: 0 }
    }

    /// Reads `12`, `0.15`, `.5`, `5.`, `1.5e-07`, `1_000`. `None` for what is negative, no number, or has
    /// more digits than fit.
    pub(super) fn parse(text: &str) -> Option<Decimal> {
        let text = text.trim();
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, exponent.parse::<i32>().ok()?),
            None => (text, 0),
        };
        let number = number.strip_prefix('+').unwrap_or(number);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let mut digits: u128 = 0;
        for letter in whole.bytes().filter(|b| *b != b'_').chain(fraction.bytes()) {
            let digit = char::from(letter).to_digit(10)?;
            digits = digits.checked_mul(10)?.checked_add(digit.into())?;
        }
        let places = u32::try_from(fraction.len()).ok().filter(|places| *places <= MOST_PLACES)?;
        Decimal { digits, places }.shifted(exponent)
    }

    pub(super) fn is_zero(self) -> bool {
        self.digits == 0
    }

    /// Times 10^`by`.
    pub(super) fn shifted(self, by: i32) -> Option<Decimal> {
        if self.digits == 0 {
            return Some(Decimal::ZERO);
        }
        let places = i64::from(self.places) - i64::from(by);
        if places >= 0 {
            let places = u32::try_from(places).ok()?;
            return Some(Decimal { digits: self.digits, places }.plain())
                .filter(|it| it.places <= MOST_PLACES);
        }
        let factor = 10u128.checked_pow(u32::try_from(-places).ok()?)?;
        Some(Decimal { digits: self.digits.checked_mul(factor)?, places: 0 })
    }

    pub(super) fn times(self, other: Decimal) -> Option<Decimal> {
        let (a, b) = (self.plain(), other.plain());
        let product =
            Decimal { digits: a.digits.checked_mul(b.digits)?, places: a.places + b.places };
        Some(product.plain())
    }

    /// Divided by a whole number; what is beyond 18 more digits is cut off.
    pub(super) fn divided(self, by: u64) -> Option<Decimal> {
        const MORE: u32 = 18;
        let plain = self.plain();
        let digits = plain.digits.checked_mul(10u128.pow(MORE))?.checked_div(by.into())?;
        Some(Decimal { digits, places: plain.places + MORE }.plain())
    }

    /// `None` if that is below zero, or has more digits than fit.
    pub(super) fn minus(self, other: Decimal) -> Option<Decimal> {
        let (a, b) = (self.plain(), other.plain());
        let places = a.places.max(b.places);
        let scaled = |it: Decimal| it.digits.checked_mul(10u128.checked_pow(places - it.places)?);
        Some(Decimal { digits: scaled(a)?.checked_sub(scaled(b)?)?, places }.plain())
    }

    /// The whole number that this is, if it is one.
    pub(super) fn to_whole(self) -> Option<u64> {
        let plain = self.plain();
        (plain.places == 0).then(|| u64::try_from(plain.digits).ok()).flatten()
    }

    /// As text with at most so many digits after the point, and whether that is exact. What is beyond
    /// is cut off with `down`, else a half goes to the even neighbour.
    pub(super) fn text(self, places: u32, down: bool) -> (String, bool) {
        let plain = self.plain();
        let Some(beyond) = plain.places.checked_sub(places).filter(|beyond| *beyond > 0) else {
            return (plain.to_string(), true);
        };
        // With more digits after the point than 128 bits have, nothing of the number is left.
        let Some(scale) = 10u128.checked_pow(beyond) else { return ("0".to_owned(), false) };
        let (mut digits, rest) = (plain.digits / scale, plain.digits % scale);
        let half = rest.cmp(&(scale - rest));
        if !down && (half.is_gt() || (half.is_eq() && digits % 2 == 1)) {
            digits += 1;
        }
        (Decimal { digits, places }.plain().to_string(), false)
    }

    /// Without zeros at the end of the fraction.
    fn plain(mut self) -> Decimal {
        while self.places > 0 && self.digits.is_multiple_of(10) {
            self.digits /= 10;
            self.places -= 1;
        }
        self
    }
}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let places = self.places as usize;
        let digits = format!("{:0>width$}", self.digits, width = places + 1);
        let (whole, fraction) = digits.split_at(digits.len() - places);
        match fraction {
            "" => f.write_str(whole),
            fraction => write!(f, "{whole}.{fraction}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::parse(text).expect(text)
    }

    #[test]
    fn numbers_are_read_as_decimals() {
        for (text, want) in [
            ("12", "12"),
            ("0.150", "0.15"),
            (".5", "0.5"),
            ("5.", "5"),
            ("1.5e-07", "0.00000015"),
            ("2E3", "2000"),
            ("0.000002", "0.000002"),
            ("12.300000000000001", "12.300000000000001"),
            ("1_000_000", "1000000"),
            ("0e9999", "0"),
        ] {
            assert_eq!(decimal(text).plain().to_string(), want, "{text}");
        }
        for text in ["", ".", "-1", "1e", "1e999", "1e-999", "x", "1.2.3", "nan", "inf", "١"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
        assert_eq!(Decimal::parse(&"9".repeat(60)), None);
    }

    #[test]
    fn a_price_per_token_becomes_a_price_per_million_exactly() {
        for (token, million) in [("1.5e-07", "0.15"), ("0.0000025", "2.5"), ("3e-5", "30")] {
            let shifted = decimal(token).shifted(6).expect("fits");
            assert_eq!(shifted.text(6, false), (million.to_owned(), true));
        }
        // Just under a third of a dollar: told to be inexact.
        let third = decimal("3.3333333333e-07").shifted(6).expect("fits");
        assert_eq!(third.text(6, false), ("0.333333".to_owned(), false));
        assert_eq!(decimal("0.00000025").text(7, false), ("0.0000002".to_owned(), false));
        assert_eq!(decimal("0.00000035").text(7, false), ("0.0000004".to_owned(), false));
        assert_eq!(decimal("0.00000039").text(7, true), ("0.0000003".to_owned(), false));
    }

    #[test]
    fn sums_are_exact_or_refused() {
        assert_eq!(decimal("100").minus(decimal("12.3")), Some(decimal("87.7")));
        assert_eq!(decimal("1").minus(decimal("1.01")), None);
        assert_eq!(decimal("0.075").times(decimal("2")), Some(decimal("0.15")));
        assert_eq!(Decimal::whole(250_000).times(decimal("0.000002")), Some(decimal("0.5")));
        assert_eq!(decimal("123456").divided(500_000), Some(decimal("0.246912")));
        assert_eq!(decimal("1").divided(0), None);
        assert_eq!(decimal("1e30").times(decimal("1e30")), None);
        assert_eq!(decimal("7.0").to_whole(), Some(7));
        assert_eq!(decimal("7.5").to_whole(), None);
    }
}
