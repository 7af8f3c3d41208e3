//! Places as readers carry them away and bring them back.

use std::fmt;
use std::str::FromStr;

use warren_domain::{Severity, SeverityCounts, Timestamp};

use super::kept::Place;
use super::mark::Mark;

/// A place in what one hub has heard, and in the store; a text whose parts are nobody else's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    /// Which hub; another process has another. [`STORE`]: what was told last came from the store.
    pub(super) hub: u64,
    pub(super) place: Place,
}

/// No hub.
pub(super) const STORE: u64 = 0;

/// A text that no hub has given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is no cursor; give back what was sent as the id of an event, unchanged")]
pub struct InvalidCursor;

/// Above what any hub counts to, and far enough from overflowing when summed.
const MOST: u64 = 1 << 56;

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Place {
            passed,
            gaps,
            at,
            mark,
        } = self.place;
        write!(f, "{:x}-{:x}", self.hub, at.unix_micros())?;
        for (_, count) in passed.iter() {
            write!(f, "-{count:x}")?;
        }
        let Mark { highest, sums } = mark;
        write!(f, "-{gaps:x}-{highest:x}-{:x}-{:x}", sums[0], sums[1])
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        // As long as the longest that is ever written.
        if text.len() > 224 {
            return Err(InvalidCursor);
        }
        let mut parts = text.split('-').map(|part| {
            let plain = part.bytes().all(|byte| byte.is_ascii_hexdigit());
            u128::from_str_radix(part, 16)
                .ok()
                .filter(|_| plain)
                .ok_or(InvalidCursor)
        });
        let mut wide = || parts.next().unwrap_or(Err(InvalidCursor));
        let mut next = || wide().and_then(|part| u64::try_from(part).map_err(|_| InvalidCursor));
        let (hub, at) = (next()?, next()?);
        let at = i64::try_from(at).ok().and_then(Timestamp::from_unix_micros);
        let at = at.ok_or(InvalidCursor)?;
        let mut count = || {
            next().and_then(|count| {
                if count < MOST {
                    Ok(count)
                } else {
                    Err(InvalidCursor)
                }
            })
        };
        let mut passed = SeverityCounts::default();
        for severity in Severity::ALL {
            passed.add(severity, count()?);
        }
        let gaps = count()?;
        let highest = wide()?;
        let mut sum = || wide().and_then(|part| u32::try_from(part).map_err(|_| InvalidCursor));
        let mark = Mark {
            highest,
            sums: [sum()?, sum()?],
        };
        let place = Place {
            passed,
            gaps,
            at,
            mark,
        };
        match parts.next() {
            None => Ok(Self { hub, place }),
            Some(_) => Err(InvalidCursor),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_comes_back_from_its_text_and_nothing_else_does() {
        let mut passed = SeverityCounts::default();
        passed.add(Severity::Error, 77);
        let place = Place {
            passed,
            gaps: 3,
            at: Timestamp::now(),
            mark: Mark {
                highest: u128::MAX,
                sums: [0, u32::MAX],
            },
        };
        let cursor = Cursor { hub: u64::MAX, place };
        let text = cursor.to_string();
        assert_eq!(text.parse(), Ok(cursor));
        let huge = format!("{}-ffffffffffffffff", text.rsplit_once('-').unwrap().0);
        for wrong in ["", "7", "-", &format!("{text}-0"), &format!("+{text}"), &huge] {
            assert_eq!(wrong.parse::<Cursor>(), Err(InvalidCursor), "{wrong}");
        }
    }
}
