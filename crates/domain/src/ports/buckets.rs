//! Counts, as a store yields them, summed up to what is shown.

use super::reader::{Bucket, Counts, MOST_SOURCES, Sources};
use crate::{Severity, SeverityCounts, Source, Timestamp};

const MINUTE_MICROS: i64 = 60_000_000;

/// Sums counts up by bucket, of which there are no more than [`Counts::check`] allows.
#[derive(Clone, Debug)]
pub struct Buckets {
    micros: i64,
    buckets: Vec<Bucket>,
}

impl Buckets {
    /// Begins with none.
    pub fn of(wanted: &Counts) -> Self {
        Self {
            micros: i64::from(wanted.minutes.get()) * MINUTE_MICROS,
            buckets: Vec::new(),
        }
    }

    /// Adds a count to a bucket, which is none before the last that was added to. It is numbered by its widths since 1970.
    ///
    /// What no message can have, a severity that is none or a time beyond [`Timestamp::MAX`], is left out.
    pub fn add(&mut self, bucket: i64, severity: i64, count: i64) {
        let start = (bucket.checked_mul(self.micros)).and_then(Timestamp::from_unix_micros);
        let severity = u8::try_from(severity).ok().and_then(Severity::from_number);
        let (Some(start), Some(severity)) = (start, severity) else {
            return;
        };
        if self.buckets.last().is_none_or(|last| last.start != start) {
            let counts = SeverityCounts::default();
            self.buckets.push(Bucket { start, counts });
        }
        if let Some(last) = self.buckets.last_mut() {
            last.counts.add(severity, count.unsigned_abs());
        }
    }

    /// Returns them.
    pub fn into_vec(self) -> Vec<Bucket> {
        self.buckets
    }
}

impl Sources {
    /// Lists at most [`MOST_SOURCES`] of what was found, which is to be one more where there are more.
    pub fn listed(mut sources: Vec<(Source, SeverityCounts)>) -> Self {
        let more = sources.len() > MOST_SOURCES;
        sources.truncate(MOST_SOURCES);
        Self { sources, more }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::ports::TimeRange;
    use crate::{Selection, SeveritySet};

    #[test]
    fn counts_of_one_bucket_are_summed_up_and_what_no_message_can_have_is_left_out() {
        let mut buckets = Buckets::of(&Counts {
            selection: Selection::of(SeveritySet::ALL),
            range: TimeRange::ALL,
            minutes: NonZeroU32::new(5).unwrap(),
        });
        for (bucket, severity, count) in [
            (1, 9, 2),
            (1, 17, 3),
            (1, 9, 4),
            (2, 0, 1),
            (i64::MAX, 9, 1),
            (3, 9, 1),
        ] {
            buckets.add(bucket, severity, count);
        }
        let counted: Vec<_> = (buckets.into_vec().iter())
            .map(|bucket| {
                let counts = bucket.counts;
                let minute = bucket.start.unix_micros() / MINUTE_MICROS;
                (minute, counts.get(Severity::Info), counts.get(Severity::Error))
            })
            .collect();
        assert_eq!(counted, [(5, 6, 3), (15, 1, 0)]);
    }
}
