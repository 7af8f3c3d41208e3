//! Where the log ends, and how much was ever appended to it.

use std::iter::Sum;
use std::ops::{AddAssign, Sub};

use sea_orm::sqlx::sqlite::SqliteRow;
use sea_orm::sqlx::{self, Row};
use warren_domain::{Severity, SeveritySet};

/// A number of messages, the bytes of their lines, and the rows that hold them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
    pub(crate) packets: u64,
}

impl Amount {
    /// Reads the messages and bytes of one row of the log from two columns, beginning at `index`.
    pub(crate) fn of_row(row: &SqliteRow, index: usize) -> Result<Self, sqlx::Error> {
        let number = |index: usize| row.try_get::<i64, _>(index).map(i64::unsigned_abs);
        Ok(Self {
            messages: number(index)?,
            bytes: number(index + 1)?,
            packets: 1,
        })
    }
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
        self.packets += other.packets;
    }
}

impl Sub for Amount {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            messages: self.messages.saturating_sub(other.messages),
            bytes: self.bytes.saturating_sub(other.bytes),
            packets: self.packets.saturating_sub(other.packets),
        }
    }
}

impl Sum for Amount {
    fn sum<I: Iterator<Item = Self>>(amounts: I) -> Self {
        amounts.fold(Self::default(), |mut sum, amount| {
            sum += amount;
            sum
        })
    }
}

/// Where the log ends, and how much was ever appended to it.
///
/// How far a group lags is then a subtraction, however much waits for it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Head {
    /// The last row.
    pub(crate) seq: i64,
    offered: [Amount; 5],
}

impl Head {
    pub(crate) const fn at(seq: i64, offered: [Amount; 5]) -> Self {
        Self { seq, offered }
    }

    /// Appends a row.
    pub(crate) fn append(&mut self, severity: Severity, amount: Amount) {
        self.seq += 1;
        self.offered[severity.index()] += amount;
    }

    pub(crate) const fn offered(&self, severity: Severity) -> Amount {
        self.offered[severity.index()]
    }

    pub(crate) fn total(&self) -> Amount {
        self.offered.into_iter().sum()
    }

    pub(crate) fn offered_to(&self, severities: SeveritySet) -> Amount {
        severities.iter().map(|severity| self.offered(severity)).sum()
    }
}
