//! A moment that every store can hold.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use time::format_description::well_known::Rfc3339;
use time::{Date, Month, OffsetDateTime};

/// A moment between 1970 and the end of 2261, in microseconds.
///
/// Microseconds are what PostgreSQL keeps; finer digits of an input are cut off, not rounded, so that a time never
/// moves into the future. The end of the range is where a signed 64-bit count of nanoseconds, which many programs
/// use, ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The first moment: 1970-01-01T00:00:00Z.
    pub const MIN: Self = Self(0);
    /// The last moment: 2261-12-31T23:59:59.999999Z.
    pub const MAX: Self = Self(9_214_646_399_999_999);

    /// Returns the time of the system's clock, brought into the range if the clock is outside it.
    pub fn now() -> Self {
        let micros = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_micros());
        Self(
            i64::try_from(micros)
                .unwrap_or(i64::MAX)
                .clamp(Self::MIN.0, Self::MAX.0),
        )
    }

    /// Returns the moment `micros` microseconds after 1970-01-01T00:00:00Z, or `None` outside the range.
    pub const fn from_unix_micros(micros: i64) -> Option<Self> {
        if micros < Self::MIN.0 || micros > Self::MAX.0 {
            None
        } else {
            Some(Self(micros))
        }
    }

    /// Returns the microseconds since 1970-01-01T00:00:00Z.
    pub const fn unix_micros(self) -> i64 {
        self.0
    }
}

/// What is wrong with a text that should be a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTimestamp {
    /// Not RFC 3339, no such day, or a leap second.
    #[error("is not a time as RFC 3339 writes it")]
    Syntax,
    /// A time no store can be trusted with.
    #[error("is outside 1970–2261")]
    Range,
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    /// Takes RFC 3339 with any offset and any number of fractional digits; refuses leap seconds.
    fn from_str(text: &str) -> Result<Self, InvalidTimestamp> {
        // What we have written ourselves is most of what is read.
        if let Some(timestamp) = Self::of_written(text) {
            return Ok(timestamp);
        }
        // A leap second cannot be stored as itself, and storing its neighbour would alter the message.
        if text.get(17..19) == Some("60") {
            return Err(InvalidTimestamp::Syntax);
        }
        let moment = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| InvalidTimestamp::Syntax)?;
        let micros = moment.unix_timestamp_nanos().div_euclid(1_000);
        i64::try_from(micros)
            .ok()
            .and_then(Self::from_unix_micros)
            .ok_or(InvalidTimestamp::Range)
    }
}

impl fmt::Display for Timestamp {
    /// Writes RFC 3339 in UTC with six fractional digits: `2026-11-22T13:00:00.123000Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.written().as_str())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.written().as_str())
    }
}

/// How long a time is as we write it, in bytes.
const WRITTEN: usize = "2026-11-22T13:00:00.123000Z".len();

/// A time as text; written digit by digit, as two stand in every message.
struct Written([u8; WRITTEN]);

impl Written {
    fn as_str(&self) -> &str {
        // Only ASCII is put into it.
        str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Writes `value` with leading zeros over the bytes of `place`.
    fn put(&mut self, place: std::ops::Range<usize>, mut value: u64) {
        for byte in self.0[place].iter_mut().rev() {
            *byte = b'0' + (value % 10) as u8;
            value /= 10;
        }
    }
}

impl Timestamp {
    fn written(self) -> Written {
        let mut written = Written(*b"1970-01-01T00:00:00.000000Z");
        // Not negative, as the range begins at 0.
        let micros = self.0.unsigned_abs();
        let (seconds, micros) = (micros / 1_000_000, micros % 1_000_000);
        let (days, second) = (seconds / 86_400, seconds % 86_400);
        let (year, month, day) = civil(days);
        for (place, value) in [
            (0..4, year),
            (5..7, month),
            (8..10, day),
            (11..13, second / 3_600),
            (14..16, second / 60 % 60),
            (17..19, second % 60),
            (20..26, micros),
        ] {
            written.put(place, value);
        }
        written
    }

    /// Reads the form that [`Timestamp`] is written in, and no other.
    fn of_written(text: &str) -> Option<Self> {
        let bytes: &[u8; WRITTEN] = text.as_bytes().try_into().ok()?;
        let punctuation = [
            (4, b'-'),
            (7, b'-'),
            (10, b'T'),
            (13, b':'),
            (16, b':'),
            (19, b'.'),
            (26, b'Z'),
        ];
        if punctuation.iter().any(|(at, byte)| bytes[*at] != *byte) {
            return None;
        }
        let number = |place: std::ops::Range<usize>| {
            bytes[place].iter().try_fold(0_i64, |value, byte| {
                byte.is_ascii_digit().then(|| value * 10 + i64::from(byte - b'0'))
            })
        };
        let year = i32::try_from(number(0..4)?).ok()?;
        let month = Month::try_from(u8::try_from(number(5..7)?).ok()?).ok()?;
        let date = Date::from_calendar_date(year, month, u8::try_from(number(8..10)?).ok()?).ok()?;
        let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let days = i64::from(date.to_julian_day() - EPOCH_JULIAN_DAY);
        let seconds = days * 86_400 + hour * 3_600 + minute * 60 + second;
        Self::from_unix_micros(seconds * 1_000_000 + number(20..26)?)
    }
}

/// The Julian day of 1970-01-01.
const EPOCH_JULIAN_DAY: i32 = 2_440_588;

/// Returns year, month and day of a day after 1970-01-01.
///
/// <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>
const fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + (month <= 2) as u64;
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_written_and_read_as_the_calendar_has_it(micros in 0..=Timestamp::MAX.0) {
            let moment = OffsetDateTime::from_unix_timestamp_nanos(i128::from(micros) * 1_000).unwrap();
            let format = time::macros::format_description!(
                "[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:6]Z"
            );
            let text = Timestamp(micros).to_string();
            prop_assert_eq!(&text, &moment.format(&format).unwrap());
            prop_assert_eq!(Timestamp::of_written(&text), Some(Timestamp(micros)));
        }
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        for micros in [0, 1, 999_999, 1_795_352_400_123_456, Timestamp::MAX.0] {
            let timestamp = Timestamp(micros);
            assert_eq!(timestamp.to_string().parse(), Ok(timestamp));
        }
        assert_eq!(Timestamp::MAX.to_string(), "2261-12-31T23:59:59.999999Z");
    }

    #[test]
    fn offsets_are_honoured_and_nanoseconds_cut_off() {
        let expected = "2026-11-22T12:00:00.123456Z".parse::<Timestamp>();
        assert_eq!("2026-11-22T13:00:00.123456789+01:00".parse(), expected);
        assert_eq!(
            "2026-11-22T12:00:00Z"
                .parse::<Timestamp>()
                .map(|t| t.to_string())
                .as_deref(),
            Ok("2026-11-22T12:00:00.000000Z")
        );
    }

    #[test]
    fn hostile_times_are_refused() {
        use InvalidTimestamp::{Range, Syntax};
        for (text, reason) in [
            ("", Syntax),
            ("now", Syntax),
            ("infinity", Syntax),
            ("1763816400", Syntax),
            ("2026-11-22", Syntax),
            ("2026-11-22T13:00:00", Syntax),
            ("2026-02-30T00:00:00Z", Syntax),
            ("2026-06-30T23:59:60Z", Syntax),
            ("2026-11-22T25:00:00Z", Syntax),
            ("+12026-11-22T00:00:00Z", Syntax),
            ("1969-12-31T23:59:59.999999Z", Range),
            ("2262-01-01T00:00:00Z", Range),
            ("9999-12-31T23:59:59Z", Range),
        ] {
            assert_eq!(text.parse::<Timestamp>(), Err(reason), "{text:?}");
        }
    }
}
