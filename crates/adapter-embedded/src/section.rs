//! Whose files these are, in the words of the configuration.

/// The section of the configuration that a directory belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Section {
    /// Queue and store of the one process that does everything.
    Embedded,
    /// What waits while the broker is away.
    Spool,
}

impl Section {
    /// Returns the setting that names the directory.
    pub(crate) const fn place(self) -> &'static str {
        match self {
            Self::Embedded => "embedded.path",
            Self::Spool => "spool.path",
        }
    }

    /// Returns the setting that bounds the wait for a commit of the log.
    pub(crate) const fn publish_timeout(self) -> &'static str {
        match self {
            Self::Embedded => "embedded.publish_timeout",
            Self::Spool => "spool.publish_timeout",
        }
    }

    /// Returns what people know the way out of the log by: beside the consumer groups, into the store or to the broker.
    pub(crate) const fn way_out(self) -> &'static str {
        match self {
            Self::Embedded => "store",
            Self::Spool => "spool",
        }
    }

    /// Returns the name of the log's file without its ending: what metrics call it too.
    pub(crate) const fn log(self) -> &'static str {
        match self {
            Self::Embedded => "queue",
            // Another name, so that neither takes the other's directory for its own.
            Self::Spool => "spool",
        }
    }
}
