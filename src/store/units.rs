//! What a request used, in billable units.

macro_rules! units {
    ($( $(#[$doc:meta])* $name:ident, )*) => {
        /// What one request, one attempt or a whole period used. The counters are disjoint: the
        /// `in_*` ones add up to the upstream's total input, the `out_*` ones to its total output.
        ///
        /// The order is part of the journal's format: append, never reorder, and raise the record
        /// version when a counter is added.
        #[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
        pub struct Units {
            $( $(#[$doc])* pub $name: u64, )*
        }

        impl Units {
            /// How many counters there are.
            pub const COUNT: usize = Self::NAMES.len();

            /// Their names, as shown and recorded.
            pub const NAMES: &'static [&'static str] = &[$( stringify!($name) ),*];

            /// All counters, in the order of [`Units::NAMES`].
            pub fn values(&self) -> [u64; Self::COUNT] {
                [$( self.$name ),*]
            }

            /// The inverse of [`Units::values`].
            pub fn from_values(values: [u64; Self::COUNT]) -> Self {
                let [$( $name ),*] = values;
                Units { $( $name ),* }
            }
        }
    };
}

units! {
    /// Uncached input tokens billed at the plain rate.
    in_text,
    /// Uncached audio input tokens.
    in_audio,
    /// Uncached image input tokens.
    in_image,
    /// Uncached video input tokens.
    in_video,
    /// Tokens of server-side tool results fed back.
    in_tool,
    /// Input tokens served from a prompt cache.
    in_cache_read,
    /// Audio input tokens served from a prompt cache.
    in_cache_read_audio,
    /// Input tokens written to a five-minute cache.
    in_cache_write_5m,
    /// Input tokens written to a one-hour cache.
    in_cache_write_1h,
    /// Input tokens written to a cache of another kind.
    in_cache_write_other,
    /// Output tokens.
    out_text,
    /// Output tokens spent on reasoning.
    out_reasoning,
    /// Audio output tokens.
    out_audio,
    /// Image output tokens.
    out_image,
    /// Server-side web searches.
    web_search,
    /// Units of a rerank.
    search_units,
    /// Unicode scalar values of a text to speak.
    chars_in,
    /// Images made.
    images_out,
    /// Audio to transcribe, in thousandths of a second.
    seconds_in_milli,
}

impl Units {
    /// Adds `other`, counter by counter; sums stop at the largest `u64`.
    pub fn add(&mut self, other: &Units) {
        let (mut sum, other) = (self.values(), other.values());
        for (sum, more) in sum.iter_mut().zip(other) {
            *sum = sum.saturating_add(more);
        }
        *self = Units::from_values(sum);
    }

    /// Takes away `other`, counter by counter.
    pub(super) fn subtract(&mut self, other: &Units) {
        let (mut sum, other) = (self.values(), other.values());
        for (sum, less) in sum.iter_mut().zip(other) {
            *sum = sum.saturating_sub(less);
        }
        *self = Units::from_values(sum);
    }

    /// All input tokens, cached or not.
    pub fn input_total(&self) -> u64 {
        [
            self.in_text,
            self.in_audio,
            self.in_image,
            self.in_video,
            self.in_tool,
            self.in_cache_read,
            self.in_cache_read_audio,
            self.in_cache_write_5m,
            self.in_cache_write_1h,
            self.in_cache_write_other,
        ]
        .into_iter()
        .fold(0, u64::saturating_add)
    }

    /// All output tokens, reasoning included.
    pub fn output_total(&self) -> u64 {
        [self.out_text, self.out_reasoning, self.out_audio, self.out_image]
            .into_iter()
            .fold(0, u64::saturating_add)
    }

    /// Input and output tokens together: what token limits count.
    pub fn tokens(&self) -> u64 {
        self.input_total().saturating_add(self.output_total())
    }

    /// Whether nothing at all was used.
    pub fn is_zero(&self) -> bool {
        *self == Units::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_token_counter_is_in_exactly_one_total() {
        for (at, name) in Units::NAMES.iter().enumerate() {
            let mut values = [0; Units::COUNT];
            values[at] = 7;
            let units = Units::from_values(values);
            let is_input = name.starts_with("in_");
            let is_output = name.starts_with("out_");
            assert_eq!(units.input_total(), if is_input { 7 } else { 0 }, "{name}");
            assert_eq!(units.output_total(), if is_output { 7 } else { 0 }, "{name}");
        }
    }

    #[test]
    fn sums_never_wrap() {
        let mut sum = Units { in_text: u64::MAX, in_audio: 1, ..Units::default() };
        sum.add(&Units { in_text: 1, in_audio: 2, ..Units::default() });
        assert_eq!((sum.in_text, sum.in_audio), (u64::MAX, 3));
        assert_eq!(sum.tokens(), u64::MAX);
    }
}
