//! Exchange rates over time, and what a cost is in another currency.

use std::collections::HashMap;

use crate::money::{Currency, PICO, mul_div_half_even};

/// A markup of nothing: 100 %, in basis points.
pub(super) const UNCHANGED_BPS: u128 = 10_000;

/// What one unit of a currency is worth in another, from a moment on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RateRow {
    pub from: Currency,
    pub to: Currency,
    /// So many 10^-12 of `to` for one of `from`.
    pub rate_pico: u128,
    /// Until the next row of the same pair. 0 is "always".
    pub valid_from_unix_ms: u64,
}

/// All exchange rates.
#[derive(Clone, Default, Debug)]
pub struct Rates {
    /// By `valid_from`, each time once.
    pairs: HashMap<(Currency, Currency), Vec<(u64, u128)>>,
}

impl Rates {
    /// Of two rows of one pair and time the later counts. A rate of 0 is none: it would make
    /// everything free.
    pub fn new(rows: Vec<RateRow>) -> Rates {
        let mut rates = Rates::default();
        for row in rows.into_iter().filter(|row| row.rate_pico > 0) {
            let times = rates.pairs.entry((row.from, row.to)).or_default();
            let at = times.partition_point(|(from, _)| *from < row.valid_from_unix_ms);
            let new = (row.valid_from_unix_ms, row.rate_pico);
            match times.get_mut(at) {
                Some(same) if same.0 == row.valid_from_unix_ms => *same = new,
                _ => times.insert(at, new),
            }
        }
        rates
    }

    /// How many 10^-12 of `to` one of `from` is worth at that time. Where the pair has no row yet,
    /// the pair the other way round serves, its inverse rounded half-even. `None`: neither has.
    pub fn rate(&self, from: Currency, to: Currency, at_unix_ms: u64) -> Option<u128> {
        if from == to {
            return Some(PICO);
        }
        self.direct(from, to, at_unix_ms).or_else(|| {
            let inverse = self.direct(to, from, at_unix_ms)?;
            mul_div_half_even(PICO, PICO, inverse).filter(|&rate| rate > 0)
        })
    }

    fn direct(&self, from: Currency, to: Currency, at_unix_ms: u64) -> Option<u128> {
        let times = self.pairs.get(&(from, to))?;
        let after = times.partition_point(|(valid_from, _)| *valid_from <= at_unix_ms);
        times[..after].last().map(|(_, rate_pico)| *rate_pico)
    }
}

/// A cost in another currency, with a markup in basis points (10_000 leaves it as it is), rounded
/// half-even once, at the end. `None`: it overflows.
pub fn convert(cost_pico: u128, rate_pico: u128, markup_bps: u32) -> Option<u128> {
    // The usual case, on the path of every request.
    if rate_pico == PICO && u128::from(markup_bps) == UNCHANGED_BPS {
        return Some(cost_pico);
    }
    let numerator = rate_pico.checked_mul(u128::from(markup_bps))?;
    let denominator = PICO * UNCHANGED_BPS;
    // Without what both have in common the product stays small: most often nothing is left at all.
    let common = common_divisor(numerator, denominator);
    mul_div_half_even(cost_pico, numerator / common, denominator / common)
}

fn common_divisor(mut one: u128, mut other: u128) -> u128 {
    while other > 0 {
        (one, other) = (other, one % other);
    }
    one
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn currency(text: &str) -> Currency {
        Currency::parse(text).expect("a currency")
    }

    fn row(from: &str, to: &str, rate_pico: u128, valid_from_unix_ms: u64) -> RateRow {
        RateRow { from: currency(from), to: currency(to), rate_pico, valid_from_unix_ms }
    }

    #[test]
    fn rates_are_valid_from_their_time_until_the_next() {
        let rates = Rates::new(vec![
            row("USD", "EUR", 930_000_000_000, 200),
            row("USD", "EUR", 900_000_000_000, 100),
            row("USD", "EUR", 920_000_000_000, 200),
            row("USD", "JPY", 0, 0),
        ]);
        let rate = |from, to, at| rates.rate(currency(from), currency(to), at);
        assert_eq!(rate("USD", "EUR", 99), None);
        assert_eq!(rate("USD", "EUR", 199), Some(900_000_000_000));
        assert_eq!(rate("USD", "EUR", 200), Some(920_000_000_000), "the later row counts");
        assert_eq!(rate("EUR", "EUR", 0), Some(PICO));
        assert_eq!(rate("USD", "JPY", 5), None, "nothing is no rate");
        assert_eq!(rate("JPY", "USD", 5), None);
    }

    #[test]
    fn the_inverse_serves_until_there_is_a_row() {
        let rates = Rates::new(vec![
            row("USD", "EUR", 900_000_000_000, 0),
            row("EUR", "USD", 1_100_000_000_000, 100),
        ]);
        let rate = |at| rates.rate(currency("EUR"), currency("USD"), at);
        assert_eq!(rate(0), Some(1_111_111_111_111));
        assert_eq!(rate(100), Some(1_100_000_000_000));
        let tiny = Rates::new(vec![row("USD", "EUR", 3 * PICO * PICO, 0)]);
        assert_eq!(tiny.rate(currency("EUR"), currency("USD"), 0), None, "it would be nothing");
    }

    #[test]
    fn a_charge_is_rounded_once() {
        assert_eq!(convert(2_935_200_000, PICO, 10_000), Some(2_935_200_000));
        assert_eq!(convert(2_935_200_000, PICO, 12_500), Some(3_669_000_000));
        assert_eq!(convert(2_935_200_000, 920_000_000_000, 11_000), Some(2_970_422_400));
        assert_eq!(convert(100, PICO, 0), Some(0));
        // 1 x 0.6 x 1.5 is 0.9; rounded after each step it would become 1, then 1.5, then 2.
        assert_eq!(convert(1, 600_000_000_000, 15_000), Some(1));
        assert_eq!((convert(1, PICO, 5_000), convert(3, PICO, 5_000)), (Some(0), Some(2)));
    }

    #[test]
    fn sums_that_do_not_fit_are_no_sums() {
        assert_eq!(convert(u128::MAX, PICO, 10_000), Some(u128::MAX), "nothing to multiply");
        assert_eq!(convert(u128::MAX, PICO, 10_001), None);
        assert_eq!(convert(1, u128::MAX, 10_000), None);
    }

    proptest! {
        #[test]
        fn reducing_the_fraction_changes_nothing(
            cost in 0u128..1 << 50, rate in 1u128..1 << 50, bps in 0u32..40_000,
        ) {
            let plain = mul_div_half_even(cost, rate * u128::from(bps), PICO * UNCHANGED_BPS);
            if let Some(plain) = plain {
                prop_assert_eq!(convert(cost, rate, bps), Some(plain));
            }
        }
    }
}
