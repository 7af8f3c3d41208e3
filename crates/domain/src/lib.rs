//! The words of Warren as types, and the ports its parts meet at.
//!
//! Nothing here reads a socket, starts a task or knows a product: a [`Message`] is valid because it exists, and a
//! port is its written contract. Adapters implement the ports ([`ports`]); `adapter-conformance` holds the
//! contracts as test suites.

pub mod attributes;
pub mod draft;
pub mod id;
pub mod idempotency;
mod json;
pub mod limits;
pub mod message;
pub mod ports;
pub mod rejection;
pub mod search;
pub mod selection;
pub mod severity;
pub mod source;
pub mod timestamp;
pub mod trace;

pub use attributes::Attributes;
pub use draft::Draft;
pub use id::MessageId;
pub use idempotency::{Idempotency, IdempotencyKey, KeyedRequest};
pub use limits::MessageLimits;
pub use message::{Body, Message};
pub use rejection::{Rejection, RejectionCode};
pub use search::{AttributeTest, InvalidQuery, Query, Term, Test};
pub use selection::{InvalidSourcePattern, Selection, SourcePattern};
pub use severity::{BySeverity, InvalidSeveritySet, Severity, SeverityCounts, SeveritySet};
pub use source::Source;
pub use timestamp::Timestamp;
pub use trace::TraceContext;
