//! The identity of a message.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};
use uuid::{Builder, Uuid, Variant, Version};

use crate::Timestamp;

/// The identity of a message: a UUID of version 7, so that ids sort by the time they were made.
///
/// Whoever sends the same id again means the same message; the first one stored wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(Uuid);

impl MessageId {
    /// Makes a new id from the clock and random bits; ids of one process ascend.
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// Makes the id of what was made at `moment`, in whole milliseconds, from 74 of the other bits.
    ///
    /// The same parts make the same id, so the bits must be those of a hash.
    pub(crate) fn of_parts(moment: Timestamp, bits: [u8; 16]) -> Self {
        // Never before 1970: a timestamp is not.
        let millis = (moment.unix_micros() / 1_000).unsigned_abs();
        let [_, _, _, _, _, _, bits @ ..] = bits;
        Self(Builder::from_unix_timestamp_millis(millis, &bits).into_uuid())
    }

    /// Returns the id as a UUID.
    pub const fn as_uuid(self) -> Uuid {
        self.0
    }

    /// Returns the time that the id carries in its first 48 bits, whole milliseconds.
    pub const fn timestamp(self) -> Timestamp {
        match Timestamp::from_unix_micros(millis(self.0) * 1_000) {
            Some(timestamp) => timestamp,
            None => Timestamp::MAX,
        }
    }
}

/// Returns the first 48 bits of a UUID: in version 7, milliseconds since 1970.
const fn millis(uuid: Uuid) -> i64 {
    (uuid.as_u128() >> 80) as i64
}

/// A UUID that is not of version 7, or no UUID at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// Not a UUID.
    #[error("is not a UUID")]
    NotUuid,
    /// A UUID of another version or variant.
    #[error("is a UUID, but not of version 7")]
    NotVersion7,
    /// A UUID of version 7 whose time no store can be trusted with.
    #[error("carries a time outside 1970–2261")]
    TimeOutOfRange,
}

impl TryFrom<Uuid> for MessageId {
    type Error = InvalidId;

    fn try_from(uuid: Uuid) -> Result<Self, InvalidId> {
        let version_7 =
            uuid.get_version() == Some(Version::SortRand) && uuid.get_variant() == Variant::RFC4122;
        if !version_7 {
            return Err(InvalidId::NotVersion7);
        }
        if Timestamp::from_unix_micros(millis(uuid) * 1_000).is_none() {
            return Err(InvalidId::TimeOutOfRange);
        }
        Ok(Self(uuid))
    }
}

impl FromStr for MessageId {
    type Err = InvalidId;

    /// Takes the hyphenated form, as RFC 9562 writes it, in any letter case.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if text.len() != 36 {
            return Err(InvalidId::NotUuid);
        }
        Self::try_from(Uuid::try_parse(text).map_err(|_| InvalidId::NotUuid)?)
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0.as_hyphenated(), f)
    }
}

impl Serialize for MessageId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_ids_ascend_and_carry_the_time() {
        let ids: Vec<_> = (0..1_000).map(|_| MessageId::generate()).collect();
        assert!(ids.is_sorted());
        assert!(
            Timestamp::now()
                .unix_micros()
                .abs_diff(ids[0].timestamp().unix_micros())
                < 60_000_000
        );
        assert_eq!(ids[7].to_string().parse(), Ok(ids[7]));
    }

    #[test]
    fn only_version_7_is_taken() {
        for (text, reason) in [
            ("", InvalidId::NotUuid),
            ("019aa0c0", InvalidId::NotUuid),
            ("019aa0c000007000800000000000000z", InvalidId::NotUuid),
            ("019aa0c0000070008000000000000001", InvalidId::NotUuid),
            ("{019aa0c0-0000-7000-8000-000000000001}", InvalidId::NotUuid),
            ("f47ac10b-58cc-4372-a567-0e02b2c3d479", InvalidId::NotVersion7),
            ("00000000-0000-0000-0000-000000000000", InvalidId::NotVersion7),
            ("019aa0c0-0000-7000-c000-000000000001", InvalidId::NotVersion7),
            ("ffffffff-ffff-7000-8000-000000000001", InvalidId::TimeOutOfRange),
        ] {
            assert_eq!(text.parse::<MessageId>(), Err(reason), "{text:?}");
        }
        assert!(
            "019AA0C0-0000-7000-8000-000000000001"
                .parse::<MessageId>()
                .is_ok()
        );
    }
}
