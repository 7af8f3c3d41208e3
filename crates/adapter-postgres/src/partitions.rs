//! Which ids a day has: the arithmetic of the partitions.

use time::Date;
use uuid::Uuid;
use warren_domain::Timestamp;

const DAY_MICROS: i64 = 86_400_000_000;

/// The Julian day number of 1970-01-01.
const EPOCH_JULIAN: i32 = 2_440_588;

/// The partition of whatever has no other.
pub(crate) const DEFAULT_PARTITION: &str = "messages_default";

/// What the name of a day's partition begins with.
const PREFIX: &str = "messages_";

/// A UTC day, from 1970 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Day(i32);

impl Day {
    /// Returns the day that `moment` lies in.
    pub(crate) fn of(moment: Timestamp) -> Self {
        // At most 2261: some 106,000 days.
        Self(i32::try_from(moment.unix_micros() / DAY_MICROS).unwrap_or(i32::MAX / 2))
    }

    /// Returns the day `days` before, or the first of all.
    pub(crate) fn before(self, days: u32) -> Self {
        Self(self.0.saturating_sub_unsigned(days).max(0))
    }

    /// Returns the day `days` after.
    pub(crate) fn after(self, days: u32) -> Self {
        Self(self.0.saturating_add_unsigned(days))
    }

    /// Lists the days from this one to `last`, both included.
    pub(crate) fn through(self, last: Self) -> impl Iterator<Item = Self> {
        (self.0..=last.0).map(Self)
    }

    /// Returns the first id of the day: its milliseconds in the first 48 bits, and zeros.
    ///
    /// No message has it, because version and variant are not zero; every id of the day is greater, and every id of
    /// the day before is less.
    pub(crate) fn first_id(self) -> Uuid {
        let millis = u128::from(self.0.unsigned_abs()) * 86_400_000;
        Uuid::from_u128(millis << 80)
    }

    /// Returns the start of the day.
    pub(crate) fn start(self) -> Timestamp {
        Timestamp::from_unix_micros(i64::from(self.0) * DAY_MICROS).unwrap_or(Timestamp::MAX)
    }

    /// Returns the name of the day's partition: `messages_20261122`.
    pub(crate) fn partition(self) -> String {
        let date = Date::from_julian_day(EPOCH_JULIAN.saturating_add(self.0)).unwrap_or(Date::MAX);
        let (year, month, day) = date.to_calendar_date();
        format!("{PREFIX}{year:04}{:02}{day:02}", u8::from(month))
    }

    /// Returns the day whose partition has this name, or `None` for any other table.
    pub(crate) fn of_partition(name: &str) -> Option<Self> {
        let digits = name.strip_prefix(PREFIX)?;
        if digits.len() != 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return None;
        }
        let (year, month, day) = (
            digits[..4].parse().ok()?,
            digits[4..6].parse::<u8>().ok()?,
            digits[6..].parse().ok()?,
        );
        let date = Date::from_calendar_date(year, month.try_into().ok()?, day).ok()?;
        let days = date.to_julian_day() - EPOCH_JULIAN;
        (days >= 0).then_some(Self(days))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use warren_domain::MessageId;

    use super::*;

    fn day(text: &str) -> Day {
        Day::of(text.parse().unwrap())
    }

    #[test]
    fn a_day_has_the_ids_made_in_it() {
        let today = day("2026-11-22T13:00:00Z");
        assert_eq!(today.partition(), "messages_20261122");
        assert_eq!(
            today.first_id().to_string(),
            "01a2008d-7400-0000-0000-000000000000"
        );
        assert_eq!(today.after(1).partition(), "messages_20261123");
        assert_eq!(today.before(22).partition(), "messages_20261031");
        assert_eq!(
            day("2028-02-28T23:59:59.999999Z").after(1).partition(),
            "messages_20280229"
        );
        assert_eq!(day("1970-01-01T00:00:00Z").before(3), day("1970-01-01T12:00:00Z"));
        assert_eq!(day("1970-01-01T00:00:00Z").first_id(), Uuid::nil());
    }

    #[test]
    fn only_names_of_days_are_partitions() {
        for name in [
            "messages",
            "messages_default",
            "messages_2026112",
            "messages_20261132",
            "messages_20261122x",
            "messages_+0261122",
            "messages_19691231",
            "other_20261122",
        ] {
            assert_eq!(Day::of_partition(name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn an_id_lies_between_the_first_ids_of_its_day_and_the_next(
            micros in 0..=Timestamp::MAX.unix_micros(),
            random in any::<u128>(),
        ) {
            let moment = Timestamp::from_unix_micros(micros).unwrap();
            let millis = u128::try_from(micros / 1_000).unwrap();
            let bits = millis << 80 | 7 << 76 | 2 << 62 | random & !(u128::MAX << 62) | random & (0xfff << 64);
            let id = MessageId::try_from(Uuid::from_u128(bits)).unwrap();
            let day = Day::of(id.timestamp());
            prop_assert_eq!(day, Day::of(moment));
            prop_assert!(day.first_id() < id.as_uuid() && id.as_uuid() < day.after(1).first_id());
            prop_assert_eq!(Day::of_partition(&day.partition()), Some(day));
            prop_assert!(day.start() <= moment);
        }
    }
}
