//! How far somebody has come by the ids of messages, so that a store can tell what came after.

use warren_domain::ports::TimeRange;
use warren_domain::{MessageId, Timestamp};

/// How far clocks may be apart, microseconds: an id of a later time than that is of its sender's own making.
pub(super) const SKEW: i64 = 1_000_000;

/// How long a span is, milliseconds. The sums are those of two of them, so of the last four to eight seconds.
const SPAN: u128 = 1 << 12;

/// The highest id of what was heard, and sums over what was heard in the seconds before it.
///
/// Ids sort by when messages were taken in, and messages are heard in the order in which they were published. What is
/// above the highest id was certainly not heard. Whether everything was that is a little below it, the sums tell: they
/// are those of the store if and only if nothing was missed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// 0: nothing was heard yet.
    pub(super) highest: u128,
    /// Over its span, and over the span before it.
    pub(super) sums: [u32; 2],
}

const fn span(id: u128) -> u128 {
    (id >> 80) / SPAN
}

impl Mark {
    /// Returns the one below every message of `time`.
    pub(super) fn before(time: Timestamp) -> Self {
        let millis = u128::from(time.unix_micros().unsigned_abs() / 1_000);
        Self {
            highest: millis << 80,
            sums: [0, 0],
        }
    }

    /// Takes in a message that is heard at `now`.
    pub(super) fn pass(&mut self, id: MessageId, now: Timestamp) {
        if id.timestamp().unix_micros() > now.unix_micros().saturating_add(SKEW) {
            return;
        }
        let id = id.as_uuid().as_u128();
        let (at, latest) = (span(id), span(self.highest));
        if at > latest {
            let before = if at == latest + 1 { self.sums[0] } else { 0 };
            self.sums = [0, before];
        }
        if at >= latest {
            self.sums[0] = self.sums[0].wrapping_add(mixed(id));
        } else if at + 1 == latest {
            self.sums[1] = self.sums[1].wrapping_add(mixed(id));
        }
        self.highest = self.highest.max(id);
    }

    /// Returns the time of the highest id.
    pub(super) fn at(&self) -> Timestamp {
        let millis = i64::try_from(self.highest >> 80).unwrap_or(i64::MAX);
        Timestamp::from_unix_micros(millis.saturating_mul(1_000)).unwrap_or(Timestamp::MAX)
    }

    /// Returns the time that the sums are over; of its last millisecond only what is not above the highest id.
    pub(super) fn range(&self) -> Option<TimeRange> {
        let first = span(self.highest).saturating_sub(1) * SPAN;
        let from = Timestamp::from_unix_micros(i64::try_from(first).ok()?.checked_mul(1_000)?)?;
        let until = Timestamp::from_unix_micros(self.at().unix_micros().checked_add(1_000)?)?;
        TimeRange::new(from, until).ok()
    }

    /// Tells whether an id is above the highest.
    pub(super) fn is_below(&self, id: MessageId) -> bool {
        id.as_uuid().as_u128() > self.highest
    }
}

/// Spreads an id over all bits of a number, so that sums of different ids differ.
const fn mixed(id: u128) -> u32 {
    let folded = (id >> 64) as u64 ^ (id as u64).rotate_left(31);
    (folded.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(millis: u64, low: u8) -> MessageId {
        let text = format!(
            "{:08x}-{:04x}-7000-8000-0000000000{low:02x}",
            millis >> 16,
            millis & 0xffff
        );
        text.parse().unwrap()
    }

    const NOW: u64 = 0x0199_0000_0f00;

    fn after(ids: &[MessageId]) -> Mark {
        let now = Timestamp::from_unix_micros(NOW as i64 * 1_000).unwrap();
        let mut mark = Mark::default();
        for id in ids {
            mark.pass(*id, now);
        }
        mark
    }

    #[test]
    fn the_order_in_which_messages_are_heard_does_not_matter_and_each_of_them_does() {
        let ids = [
            id(NOW - 5_000, 1),
            id(NOW - 4_200, 2),
            id(NOW - 100, 3),
            id(NOW, 4),
        ];
        let mark = after(&ids);
        assert_eq!(mark.at().unix_micros(), NOW as i64 * 1_000);
        assert_eq!(after(&[ids[3], ids[1], ids[2]]), after(&ids[1..]));
        for left_out in 1..3 {
            let mut others = ids.to_vec();
            others.remove(left_out);
            assert_ne!(after(&others), mark, "{left_out}");
        }
        let range = mark.range().unwrap();
        assert!(range.holds(ids[1].timestamp()) && range.holds(ids[3].timestamp()));
        assert!(mark.is_below(id(NOW, 5)) && !mark.is_below(ids[3]));
    }

    #[test]
    fn ids_of_the_future_and_of_long_ago_are_their_senders_own() {
        let ordinary = [id(NOW - 10, 1), id(NOW, 2)];
        let others = [
            ordinary[0],
            id(NOW + 3_600_000, 3),
            id(NOW - 3_600_000, 4),
            ordinary[1],
        ];
        assert_eq!(after(&others), after(&ordinary));
    }
}
