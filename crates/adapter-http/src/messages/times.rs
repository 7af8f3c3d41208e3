//! Times and widths as requests write them.

use std::num::NonZeroU32;

use warren_domain::Timestamp;
use warren_domain::ports::TimeRange;

/// How many buckets a range has at most whose width was not said; it has half as many at least, if it is long enough.
pub(super) const MOST_CHOSEN: i64 = 120;

/// Widths that people expect, minutes; each at most twice the one before. Further ones double.
const WIDTHS: [u32; 16] = [
    1, 2, 3, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1_440, 2_880, 5_760, 10_080,
];

/// Reads a time: RFC 3339, `now`, or so long before now as `-15m`, `-1h` or `-7d`.
pub(crate) fn moment(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if text == "now" {
        return Ok(now);
    }
    let Some(ago) = text.strip_prefix('-') else {
        return text.parse().map_err(|error| format!("{error}"));
    };
    let seconds: i64 = match ago.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 3_600,
        Some(b'd') => 86_400,
        Some(b'w') => 7 * 86_400,
        _ => return Err("ends in no unit, which is one of s, m, h, d and w".to_owned()),
    };
    let number = digits(&ago[..ago.len() - 1]).ok_or("has no whole number before its unit, such as -15m")?;
    let micros = (seconds * 1_000_000).saturating_mul(number.into());
    // What is before 1970 is before every message.
    let then = Timestamp::from_unix_micros(now.unix_micros().saturating_sub(micros));
    Ok(then.unwrap_or(Timestamp::MIN))
}

/// Reads the width of a bucket, such as `5m`, `1h` or `1d`.
pub(super) fn bucket(text: &str) -> Result<NonZeroU32, &'static str> {
    let minutes = match text.as_bytes().last() {
        Some(b'm') => 1,
        Some(b'h') => 60,
        Some(b'd') => 1_440,
        _ => return Err("ends in no unit, which is one of m, h and d"),
    };
    digits(&text[..text.len() - 1])
        .and_then(|number| number.checked_mul(minutes))
        .and_then(NonZeroU32::new)
        .ok_or("has no whole number before its unit that is at least 1 and not too large")
}

fn digits(text: &str) -> Option<u32> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| plain)
}

/// Chooses a width for a range: 60 to 120 buckets, fewer only where minutes are too long for that.
pub(super) fn chosen_width(range: TimeRange) -> NonZeroU32 {
    let minutes = range.minutes();
    let minutes = minutes.end - minutes.start;
    let fits = |width: &u32| minutes <= MOST_CHOSEN * i64::from(*width);
    let [.., last] = WIDTHS;
    let doubled = std::iter::successors(last.checked_mul(2), |width| width.checked_mul(2));
    let width = WIDTHS.into_iter().chain(doubled).find(fits);
    width.and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_taken_as_people_write_them() {
        let now: Timestamp = "2026-11-22T13:00:00Z".parse().unwrap();
        for (text, time) in [
            ("now", "2026-11-22T13:00:00Z"),
            ("-0s", "2026-11-22T13:00:00Z"),
            ("-90s", "2026-11-22T12:58:30Z"),
            ("-15m", "2026-11-22T12:45:00Z"),
            ("-1h", "2026-11-22T12:00:00Z"),
            ("-7d", "2026-11-15T13:00:00Z"),
            ("-1w", "2026-11-15T13:00:00Z"),
            ("-4294967295w", "1970-01-01T00:00:00Z"),
            ("2026-11-22T14:00:00+01:00", "2026-11-22T13:00:00Z"),
        ] {
            assert_eq!(moment(text, now), Ok(time.parse().unwrap()), "{text}");
        }
        for text in [
            "",
            "-",
            "-h",
            "-1",
            "1h",
            "-1.5h",
            "--1h",
            "-+1h",
            "-1é",
            "-4294967296s",
            "Now",
            "-1h ",
        ] {
            assert!(moment(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn widths_are_whole_minutes() {
        for (text, minutes) in [("1m", 1), ("90m", 90), ("1h", 60), ("7d", 10_080)] {
            assert_eq!(bucket(text).map(NonZeroU32::get), Ok(minutes), "{text}");
        }
        for text in ["", "m", "0m", "1", "1s", "-1m", "+1m", "1é", "4294967295d"] {
            assert!(bucket(text).is_err(), "{text}");
        }
    }
}
