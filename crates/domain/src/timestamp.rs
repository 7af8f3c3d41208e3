//! A moment that every store can hold.

use std::fmt;
use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

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
        let seconds = self.0.div_euclid(1_000_000);
        let moment = OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| fmt::Error)?;
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:06}Z",
            moment.year(),
            u8::from(moment.month()),
            moment.day(),
            moment.hour(),
            moment.minute(),
            moment.second(),
            self.0.rem_euclid(1_000_000),
        )
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
