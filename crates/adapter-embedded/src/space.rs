//! How much of `embedded.max_bytes`, or of `spool.max_bytes`, is taken.

use std::sync::Mutex;

use bytesize::ByteSize;

use crate::section::Section;
use crate::sync::lock;

/// What one file takes on the disk, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Footprint {
    /// Pages with something in them.
    pub(crate) used: u64,
    /// Pages of the file that will be written again before the file grows.
    pub(crate) free: u64,
    /// The write-ahead log beside the file.
    pub(crate) wal: u64,
}

impl Footprint {
    pub(crate) const fn total(self) -> u64 {
        self.used + self.free + self.wal
    }

    /// Returns the total after `bytes` more are written: free pages are filled before the file grows, and the
    /// write-ahead log grows to `wal` at least.
    fn grown(self, bytes: u64, wal: u64) -> u64 {
        self.wal.max(wal) + (self.used + self.free).max(self.used + bytes)
    }
}

/// Decides whether the data directory has room, from what was last measured.
#[derive(Debug)]
pub(crate) struct Space {
    section: Section,
    max: u64,
    wal: u64,
    measured: Mutex<Measured>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Measured {
    queue: Footprint,
    store: Footprint,
}

impl Space {
    /// Keeps the directory within `max`; each file's write-ahead log may take `wal` bytes at any moment.
    pub(crate) fn new(section: Section, max: ByteSize, wal: u64) -> Self {
        Self {
            section,
            max: max.as_u64(),
            wal,
            measured: Mutex::default(),
        }
    }

    pub(crate) const fn max(&self) -> u64 {
        self.max
    }

    /// Tells whether the store's write-ahead log is larger than it is to be at rest.
    pub(crate) fn is_store_log_large(&self) -> bool {
        self.store().wal > self.wal
    }

    pub(crate) fn set_queue(&self, footprint: Footprint) {
        lock(&self.measured).queue = footprint;
    }

    pub(crate) fn set_store(&self, footprint: Footprint) {
        lock(&self.measured).store = footprint;
    }

    /// Adds what was stored since the store was measured.
    pub(crate) fn add_store(&self, bytes: u64) {
        lock(&self.measured).store.used += bytes;
    }

    pub(crate) fn queue(&self) -> Footprint {
        lock(&self.measured).queue
    }

    pub(crate) fn store(&self) -> Footprint {
        lock(&self.measured).store
    }

    /// Tells whether `bytes` of messages more may be queued, while `backlog` bytes wait to be stored.
    ///
    /// Every queued message will need its room a second time, in the store, before the queue gives up the first:
    /// so what the directory will hold once all is stored must be within the limit, or a full queue could
    /// never be drained. A message takes about as much in a row of the store as on a line of the queue.
    /// What leaves a spool needs no room there.
    ///
    /// # Errors
    /// The reason, naming the setting and the figures.
    pub(crate) fn admit(&self, bytes: u64, backlog: u64) -> Result<(), String> {
        let Measured { queue, store } = *lock(&self.measured);
        let stored = match self.section {
            Section::Embedded => store.grown(backlog + bytes, self.wal),
            Section::Spool => 0,
        };
        if queue.grown(bytes, self.wal) + stored <= self.max {
            return Ok(());
        }
        let size = |bytes| ByteSize::b(bytes).display().iec();
        if self.section == Section::Spool {
            return Err(format!(
                "spool.max_bytes of {} is used up: the spool takes {}, of which {} wait for the broker; raise \
                 spool.max_bytes, or bring the broker back",
                size(self.max),
                size(queue.total()),
                size(backlog),
            ));
        }
        Err(format!(
            "embedded.max_bytes of {} is used up: the queue takes {}, the store {}, and {} that wait to be stored \
             have their room reserved; raise embedded.max_bytes or lower retention_days",
            size(self.max),
            size(queue.total()),
            size(store.total()),
            size(backlog),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(queue: Footprint, store: Footprint) -> Space {
        let space = Space::new(Section::Embedded, ByteSize::b(1_000), 0);
        space.set_queue(queue);
        space.set_store(store);
        space
    }

    const fn used(used: u64) -> Footprint {
        Footprint {
            used,
            free: 0,
            wal: 0,
        }
    }

    #[test]
    fn a_queued_message_reserves_its_room_in_the_store() {
        let space = space(used(300), used(200));
        // 300 + 100 queued, 200 + 300 + 100 once stored.
        assert!(space.admit(100, 301).is_err());
        assert!(space.admit(100, 300).is_ok());
    }

    #[test]
    fn free_pages_are_filled_before_the_file_grows() {
        let (queue, store) = (
            Footprint {
                used: 100,
                free: 300,
                wal: 100,
            },
            used(200),
        );
        assert!(space(queue, store).admit(150, 0).is_ok());
        assert!(space(queue, store).admit(301, 0).is_err());
    }

    #[test]
    fn the_write_ahead_logs_have_room_of_their_own() {
        let space = Space::new(Section::Embedded, ByteSize::b(1_000), 100);
        assert!(space.admit(400, 0).is_ok());
        assert!(space.admit(401, 0).is_err());
    }

    #[test]
    fn a_spool_has_all_the_room_for_itself_and_says_so() {
        let space = Space::new(Section::Spool, ByteSize::b(1_000), 100);
        space.set_queue(used(600));
        assert!(space.admit(300, 600).is_ok());
        let reason = space.admit(301, 600).unwrap_err();
        assert!(reason.contains("spool.max_bytes of 1000 B"), "{reason}");
        assert!(reason.contains("600 B wait for the broker"), "{reason}");
    }

    #[test]
    fn the_reason_names_the_setting_and_the_figures() {
        let reason = space(used(600), used(390)).admit(100, 0).unwrap_err();
        assert!(reason.contains("embedded.max_bytes of 1000 B"), "{reason}");
        assert!(reason.contains("queue takes 600 B, the store 390 B"), "{reason}");
    }
}
