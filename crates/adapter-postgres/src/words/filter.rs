//! Filters: which texts some bodies may have in them.
//!
//! A filter is a bit set. Each piece of three bytes and each of five that a body has, the letters from A to Z taken for those
//! from a to z, sets the bit that its hash names. A text can only be in a body if all its pieces are, so one bit that is not set
//! rules it out, wherever in a word the text begins. Pieces of three are for short texts and names; pieces of five tell numbers
//! and hexadecimal names apart, of which a few thousand messages have all that can be made of three digits.
//!
//! Filters rest in the database, so what is here is a format: changing it takes a migration that empties the table.

/// How many bits a filter has before it is folded, half a MiB of them.
const MOST_BITS: usize = 1 << 22;
/// How many it has at least.
const LEAST_BITS: usize = 1 << 10;
/// Folded until more than one bit of so many would be set.
const SPARSE: usize = 4;

/// The lengths of pieces, bytes.
const SHORT: usize = 3;
const LONG: usize = 5;

/// A text is looked for by so many of its pieces: each leaves a fifth of the filters that do not have it, or less.
const MOST_OF_A_TEXT: usize = 12;
/// All texts of a search together by so many.
const MOST: usize = 48;

/// Makes filters, one after the other.
#[derive(Debug)]
pub(crate) struct Filter {
    words: Vec<u64>,
}

impl Filter {
    pub(crate) fn new() -> Self {
        Self {
            words: vec![0; MOST_BITS / 64],
        }
    }

    /// Adds a body.
    pub(crate) fn add(&mut self, body: &str) {
        let mut last = 0_u64;
        for (place, byte) in body.bytes().enumerate() {
            last = last << 8 | u64::from(byte.to_ascii_lowercase());
            for length in [SHORT, LONG] {
                if place + 1 >= length {
                    let bit = hash(last, length) as usize;
                    self.words[bit / 64] |= 1 << (bit % 64);
                }
            }
        }
    }

    /// Returns the filter of what was added, as small as is sensible, and begins the next.
    ///
    /// Its length is a power of two; bit `n` is bit `n % 8` of byte `n / 8`, as `get_bit` of PostgreSQL counts.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        let mut words = self.words.len();
        let set = |words: &[u64]| words.iter().map(|word| word.count_ones() as usize).sum::<usize>();
        let mut ones = set(&self.words);
        while words * 64 > LEAST_BITS && ones * SPARSE <= words * 64 / 2 {
            let (low, high) = self.words[..words].split_at_mut(words / 2);
            low.iter_mut().zip(high).for_each(|(low, high)| *low |= *high);
            words /= 2;
            ones = set(&self.words[..words]);
        }
        let bytes = self.words[..words]
            .iter()
            .flat_map(|word| word.to_le_bytes())
            .collect();
        self.words.fill(0);
        bytes
    }
}

/// Returns the hashes of pieces that all of these texts need: in a filter of `n` bits, bit `hash % n` of each.
///
/// None when nothing can be ruled out: a text of one or two bytes has no piece.
pub(crate) fn hashes<'t>(texts: impl IntoIterator<Item = &'t str>) -> Vec<i32> {
    let mut all = Vec::new();
    for text in texts {
        let text: Vec<u8> = text.bytes().map(|byte| byte.to_ascii_lowercase()).collect();
        let pieces = |length: usize| text.windows(length).map(of_piece);
        let mut hashes: Vec<_> = pieces(LONG).collect();
        if hashes.len() < MOST_OF_A_TEXT {
            hashes.extend(pieces(SHORT).take(MOST_OF_A_TEXT - hashes.len()));
        }
        let step = hashes.len().div_ceil(MOST_OF_A_TEXT).max(1);
        all.extend(hashes.into_iter().step_by(step));
    }
    all.truncate(MOST);
    all
}

fn of_piece(piece: &[u8]) -> i32 {
    let last = piece.iter().fold(0, |last, byte| last << 8 | u64::from(*byte));
    // Less than 2^22.
    hash(last, piece.len()) as i32
}

/// Hashes the last bytes of what was read, `length` of them; less than [`MOST_BITS`].
fn hash(last: u64, length: usize) -> u32 {
    const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
    let piece = last & (u64::MAX >> (64 - 8 * length));
    // The length is beyond the longest piece, so a short piece is no long one that begins with zeros.
    let mixed = (piece | (length as u64) << 56).wrapping_mul(ODD);
    let mixed = (mixed ^ mixed >> 29).wrapping_mul(ODD);
    (mixed >> (64 - MOST_BITS.trailing_zeros())) as u32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Does what the statement does that asks for filters.
    fn may_have(filter: &[u8], texts: &[&str]) -> bool {
        hashes(texts.iter().copied()).into_iter().all(|hash| {
            let bit = hash as usize % (filter.len() * 8);
            filter[bit / 8] >> (bit % 8) & 1 == 1
        })
    }

    fn filter_of<'b>(bodies: impl IntoIterator<Item = &'b str>) -> Vec<u8> {
        let mut filter = Filter::new();
        bodies.into_iter().for_each(|body| filter.add(body));
        filter.take()
    }

    proptest! {
        #[test]
        fn no_text_is_ruled_out_that_a_body_has(
            bodies in prop::collection::vec("[a-zA-Z0-9 éÉİßẞ\u{212a}\u{fffd}✓-]{0,40}", 1..20),
            (which, from, length) in (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 0_usize..30),
            upper in any::<bool>(),
        ) {
            let body: Vec<_> = which.get(&bodies).chars().collect();
            let from = if body.is_empty() { 0 } else { from.index(body.len()) };
            let text: String = body[from..].iter().take(length).collect();
            let text = if upper { text.to_ascii_uppercase() } else { text.to_ascii_lowercase() };
            prop_assert!(may_have(&filter_of(bodies.iter().map(String::as_str)), &[&text]));
        }
    }

    #[test]
    fn texts_that_no_body_has_are_ruled_out_mostly() {
        let bodies: Vec<_> = (0..4_096)
            .map(|n| {
                format!(
                    "order {} was declined in {} ms, request {:016x}",
                    n * 7_919,
                    n % 997,
                    n * 0x9e37_79b9_7f4a_u64
                )
            })
            .collect();
        let filter = filter_of(bodies.iter().map(String::as_str));
        assert!(filter.len().is_power_of_two() && filter.len() <= MOST_BITS / 8);
        let ones: u32 = filter.iter().map(|byte| byte.count_ones()).sum();
        assert!(
            ones as usize * 2 < filter.len() * 8,
            "{ones} of {} bits",
            filter.len() * 8
        );
        let absent: Vec<_> = (0..1_000_u64)
            .map(|n| format!("{:012x}", n * 0x1234_5678_9abd))
            .collect();
        let wrong = absent.iter().filter(|text| may_have(&filter, &[text])).count();
        assert!(wrong < 20, "{wrong} of 1,000");
        assert!(!may_have(&filter, &["kangaroo"]) && !may_have(&filter, &["declined", "refused"]));
        assert!(may_have(&filter, &["DECLINED", "ms, req"]));
    }

    #[test]
    fn a_filter_begins_anew_and_is_small_for_little() {
        let mut filter = Filter::new();
        filter.add("something long enough");
        assert_eq!(filter.take().len(), LEAST_BITS / 8);
        assert!(!may_have(&filter.take(), &["something"]));
    }

    #[test]
    fn short_texts_rule_nothing_out_and_long_ones_are_asked_for_by_a_bounded_number_of_pieces() {
        assert!(hashes(["", "é", "ab"]).is_empty());
        assert_eq!(hashes(["abc"]).len(), 1);
        assert!(hashes(["a".repeat(2_000).as_str()]).len() <= MOST_OF_A_TEXT);
        assert!(hashes((0..20).map(|_| "abcdefghijklmnopqrstuvw")).len() <= MOST);
    }

    /// What is in databases has been made with these.
    #[test]
    fn hashes_are_a_format() {
        assert_eq!(hashes(["abc"]), [33_287]);
        assert_eq!(
            hashes(["Timeout"]),
            [
                2_990_725, 429_653, 484_733, 2_257_154, 3_399_041, 2_503_095, 2_194_567, 230_055
            ]
        );
    }
}
