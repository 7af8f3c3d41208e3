//! Why one record was not taken.

use std::borrow::Cow;
use std::fmt;

use serde::{Serialize, Serializer};

/// Why one record was not taken: where, what, and how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, thiserror::Error)]
#[error("{pointer}: {detail}")]
pub struct Rejection {
    /// Where in the record, as a JSON pointer (RFC 6901); empty for the record as a whole.
    pub pointer: String,
    /// What kind of fault, for programs.
    pub code: RejectionCode,
    /// What is wrong, for people. Never quotes a body.
    pub detail: String,
    /// How to mend it.
    pub hint: Cow<'static, str>,
}

impl Rejection {
    /// Makes a rejection of the value at `pointer`.
    pub fn new(
        code: RejectionCode,
        pointer: impl Into<String>,
        detail: impl Into<String>,
        hint: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            pointer: pointer.into(),
            code,
            detail: detail.into(),
            hint: hint.into(),
        }
    }
}

/// The kinds of fault a record can have. The names are part of the HTTP interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RejectionCode {
    /// Not JSON, or JSON that no text can hold (a lone surrogate, a number beyond a finite f64, invalid UTF-8).
    InvalidJson,
    /// JSON, but not an object.
    NotAnObject,
    /// A required field is absent.
    MissingField,
    /// A field nobody knows.
    UnknownField,
    /// A field that only Warren sets.
    ReadOnlyField,
    /// The same key twice in one object.
    DuplicateField,
    /// A value of another type than the field's.
    WrongType,
    /// A severity nobody uses.
    UnknownSeverity,
    /// Not a dotted name.
    InvalidSource,
    /// Not a UUID of version 7.
    InvalidId,
    /// Not a time as RFC 3339 writes it.
    InvalidTimestamp,
    /// Not what Warren writes about the key of a request.
    InvalidIdempotency,
    /// A time outside 1970–2261.
    TimestampOutOfRange,
    /// Over a size limit.
    TooLarge,
    /// Over the limit of levels.
    TooDeep,
}

impl RejectionCode {
    /// Returns the name that programs see.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidJson => "invalid_json",
            Self::NotAnObject => "not_an_object",
            Self::MissingField => "missing_field",
            Self::UnknownField => "unknown_field",
            Self::ReadOnlyField => "read_only_field",
            Self::DuplicateField => "duplicate_field",
            Self::WrongType => "wrong_type",
            Self::UnknownSeverity => "unknown_severity",
            Self::InvalidSource => "invalid_source",
            Self::InvalidId => "invalid_id",
            Self::InvalidTimestamp => "invalid_timestamp",
            Self::InvalidIdempotency => "invalid_idempotency",
            Self::TimestampOutOfRange => "timestamp_out_of_range",
            Self::TooLarge => "too_large",
            Self::TooDeep => "too_deep",
        }
    }
}

impl fmt::Display for RejectionCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for RejectionCode {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}
