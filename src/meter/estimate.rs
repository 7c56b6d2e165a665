//! What is learned about each model, so that a request can be weighed before it is sent: tokens per
//! byte of request, and how long its answers get. No tokenizer on the request path.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use dashmap::DashMap;

use crate::ident::Alias;

/// Models that are told apart; those above share one estimate.
const MODELS_MAX: usize = 10_000;

/// Before anything is learned: a token for four bytes, as of English text.
const TOKENS_PER_BYTE_START: f32 = 0.25;
/// Below: a request that is mostly something else than text. Above: every byte a token and more.
const TOKENS_PER_BYTE: std::ops::RangeInclusive<f32> = 0.001..=2.0;
/// The weight of the newest request.
const WEIGHT: f32 = 1.0 / 16.0;

/// Before anything is learned: the tokens of a long answer.
const OUTPUT_P99_START: f32 = 1024.0;
const OUTPUT_P99: std::ops::RangeInclusive<f32> = 16.0..=1e6;
/// How far one answer moves the quantile, as a part of it.
const STEP: f32 = 0.05;

/// What is known of one model. Shared by all workers: an update that is lost to another one at the
/// same moment is no harm, so there are only plain loads and stores.
#[derive(Debug)]
pub struct ModelEstimate {
    tokens_per_byte: AtomicU32,
    output_p99: AtomicU32,
}

impl Default for ModelEstimate {
    fn default() -> Self {
        ModelEstimate {
            tokens_per_byte: AtomicU32::new(TOKENS_PER_BYTE_START.to_bits()),
            output_p99: AtomicU32::new(OUTPUT_P99_START.to_bits()),
        }
    }
}

impl ModelEstimate {
    /// The input tokens that a request body of so many bytes (without base64 payloads) will have.
    pub fn estimate_input(&self, body_bytes: u64) -> u64 {
        (body_bytes as f64 * f64::from(read(&self.tokens_per_byte))).ceil() as u64
    }

    /// The output tokens that 99 of 100 answers stay below.
    pub fn estimate_output(&self) -> u64 {
        read(&self.output_p99).ceil() as u64
    }

    /// Learns from the upstream's own count of a request's input: a moving average.
    pub fn learn_input(&self, tokens: u64, body_bytes: u64) {
        if tokens == 0 || body_bytes == 0 {
            return;
        }
        let seen = (tokens as f64 / body_bytes as f64) as f32;
        let seen = seen.clamp(*TOKENS_PER_BYTE.start(), *TOKENS_PER_BYTE.end());
        let old = read(&self.tokens_per_byte);
        self.tokens_per_byte.store((old + (seen - old) * WEIGHT).to_bits(), Ordering::Relaxed);
    }

    /// Learns from the length of an answer. Stochastic approximation of a quantile: up by 99 steps
    /// when it was exceeded, down by one when not, so that it rests where one in a hundred exceeds.
    pub fn learn_output(&self, tokens: u64) {
        if tokens == 0 {
            return;
        }
        let old = read(&self.output_p99);
        let step = old * STEP;
        let new = if tokens as f32 > old { old + step * 0.99 } else { old - step * 0.01 };
        let new = new.clamp(*OUTPUT_P99.start(), *OUTPUT_P99.end());
        self.output_p99.store(new.to_bits(), Ordering::Relaxed);
    }
}

fn read(bits: &AtomicU32) -> f32 {
    f32::from_bits(bits.load(Ordering::Relaxed))
}

/// The estimates of all models. They outlive a reload: a model keeps what was learned for as long as
/// its name stays.
#[derive(Default, Debug)]
pub struct Estimates {
    models: DashMap<Alias, Arc<ModelEstimate>>,
    other: Arc<ModelEstimate>,
}

impl Estimates {
    /// The estimate of a model. To be kept with the compiled routes, not asked for per request.
    pub fn model(&self, model: &Alias) -> Arc<ModelEstimate> {
        if let Some(known) = self.models.get(model) {
            return known.clone();
        }
        if self.models.len() >= MODELS_MAX {
            return self.other.clone();
        }
        self.models.entry(model.clone()).or_default().clone()
    }

    /// Forgets the models for which `is_kept` says no.
    pub fn retain(&self, is_kept: impl Fn(&Alias) -> bool) {
        self.models.retain(|model, _| is_kept(model));
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::SmallRng;
    use rand::{Rng, SeedableRng};

    use super::*;

    #[test]
    fn tokens_per_byte_follow_what_the_upstream_counts() {
        let model = ModelEstimate::default();
        assert_eq!(model.estimate_input(4000), 1000);
        for _ in 0..200 {
            model.learn_input(500, 1000);
        }
        let learned = model.estimate_input(10_000);
        assert!((4990..=5010).contains(&learned), "{learned}");
    }

    #[test]
    fn lies_do_not_leave_the_bounds() {
        let model = ModelEstimate::default();
        for (tokens, bytes) in [(u64::MAX, 1), (0, 100), (5, 0)] {
            for _ in 0..500 {
                model.learn_input(tokens, bytes);
                model.learn_output(tokens);
            }
        }
        assert!(model.estimate_input(100) <= 200);
        assert!(model.estimate_output() <= 1_000_000);
        assert_eq!(model.estimate_input(0), 0);
    }

    #[test]
    fn about_one_answer_in_a_hundred_is_longer_than_estimated() {
        let model = ModelEstimate::default();
        let mut rng = SmallRng::seed_from_u64(1);
        let mut longer = 0;
        for n in 0..40_000 {
            let tokens = rng.random_range(1..=5000);
            if n >= 20_000 && tokens > model.estimate_output() {
                longer += 1;
            }
            model.learn_output(tokens);
        }
        assert!((100..=400).contains(&longer), "{longer} of 20000");
    }

    #[test]
    fn models_keep_what_they_learned_until_they_go() {
        let estimates = Estimates::default();
        let model = Alias::from("m");
        estimates.model(&model).learn_input(2, 1);
        let learned = estimates.model(&model).estimate_input(1000);
        assert!(learned > 250);
        estimates.retain(|known| known.as_str() != "m");
        assert_eq!(estimates.model(&model).estimate_input(1000), 250);
    }
}
