//! How large one message may be.

/// How large one message may be; a setting at the intake, [`MessageLimits::CEILING`] everywhere behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MessageLimits {
    /// The longest body, in bytes of UTF-8.
    pub body_bytes: usize,
    /// The largest attributes, in bytes of compact JSON.
    pub attributes_bytes: usize,
    /// The deepest attributes, in levels; the attributes object itself is the first.
    pub attributes_depth: usize,
}

impl MessageLimits {
    /// What no setting may exceed, and what a queue may hold.
    ///
    /// A body of 1 MiB of control characters is 6 MiB of JSON; RabbitMQ 4 refuses messages over 16 MiB.
    pub const CEILING: Self = Self {
        body_bytes: 1 << 20,
        attributes_bytes: 1 << 20,
        attributes_depth: 64,
    };
}

impl Default for MessageLimits {
    /// Body 256 KiB, attributes 64 KiB and 32 levels.
    fn default() -> Self {
        Self {
            body_bytes: 256 << 10,
            attributes_bytes: 64 << 10,
            attributes_depth: 32,
        }
    }
}
