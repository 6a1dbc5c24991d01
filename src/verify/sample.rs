//! What is passed through a model where nobody says what: a text of hoist's own, or token ids without any meaning.

use std::num::NonZeroU64;

/// A text of about 4,096 tokens: prose, code, Chinese, Japanese, Russian, Arabic, digits and tables, chat markup. Changed,
/// it changes every figure that was taken on it.
pub const TEXT: &str = include_str!("sample.txt");

/// Token ids for a model without a tokenizer, all below `vocabulary`: the same ones for the same two numbers.
pub fn fallback_ids(vocabulary: u64, count: usize) -> Vec<u32> {
    let most = vocabulary.min(u64::from(u32::MAX) + 1);
    let Some(most) = NonZeroU64::new(most) else { return Vec::new() };
    // The remainder favours small ids by less than 2⁻³².
    (1..=count as u64).map(|n| (split_mix(n) % most) as u32).collect()
}

/// The n-th number of SplitMix64 from seed 0 (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014).
fn split_mix(n: u64) -> u64 {
    let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_the_vocabulary() {
        assert_eq!(split_mix(1), 0xe220_a839_7b1d_cdaf, "the generator's published first number from seed 0");
        let ids = fallback_ids(100, 1000);
        assert!(ids.len() == 1000 && ids.iter().all(|&id| id < 100));
        assert!((0..100).all(|id| ids.contains(&id)));
        assert_eq!(fallback_ids(1, 3), [0, 0, 0]);
        assert_eq!(fallback_ids(0, 3), [] as [u32; 0]);
        assert_eq!(fallback_ids(u64::MAX, 3).len(), 3);
    }

    #[test]
    fn the_text_is_of_many_kinds() {
        assert!((13_000..18_000).contains(&TEXT.len()), "{} bytes", TEXT.len());
        for part in ["fn ", "def ", "SELECT ", "<|im_start|>", "的", "ます", "ни", "ال", "🙂", "| 421.0"]
        {
            assert!(TEXT.contains(part), "no {part}");
        }
    }
}
