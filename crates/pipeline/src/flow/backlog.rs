//! What waits for the store, as the programs that store tell it.

use super::page::Page;
use crate::metrics::{BACKLOG_KNOWN, BACKLOG_MESSAGES, BACKLOG_PACKETS, BACKLOG_UNACKNOWLEDGED};

/// What waits between intake and store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Packets that wait to be delivered; `None` if nobody knows now.
    pub packets: Option<u64>,
    /// Messages in them, where the broker can tell.
    pub messages: Option<u64>,
    /// Packets that were delivered to those that store, and are not acknowledged yet.
    pub unacknowledged: Option<u64>,
    /// Whether somebody would say, and does not know now, such as without a connection to the broker.
    pub is_uncertain: bool,
}

impl Backlog {
    /// Reads it from what programs count. All that store see the same queue, and each holds its own part of what is
    /// unacknowledged; one that does not know has the numbers of before.
    pub fn read<'p>(pages: impl IntoIterator<Item = &'p Page>) -> Self {
        let mut backlog = Self::default();
        for page in pages {
            if page.sum(BACKLOG_KNOWN, &[]) == Some(0) {
                backlog.is_uncertain = true;
                continue;
            }
            backlog.packets = backlog.packets.max(page.sum(BACKLOG_PACKETS, &[]));
            backlog.messages = backlog.messages.max(page.sum(BACKLOG_MESSAGES, &[]));
            if let Some(held) = page.sum(BACKLOG_UNACKNOWLEDGED, &[]) {
                backlog.unacknowledged = Some(backlog.unacknowledged.unwrap_or(0).saturating_add(held));
            }
        }
        backlog
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pages: &[&str]) -> Backlog {
        let pages: Vec<_> = pages.iter().map(|text| Page::parse(text)).collect();
        Backlog::read(&pages)
    }

    #[test]
    fn the_largest_of_those_that_know_is_told() {
        let away = "warren_store_backlog_known 0\nwarren_store_backlog_packets 90\nwarren_store_unacknowledged_packets 9\n";
        let knows = "warren_store_backlog_known 1\nwarren_store_backlog_packets 3\nwarren_store_backlog_messages 30\n\
                     warren_store_unacknowledged_packets 4\n";
        let early = "warren_store_backlog_known 1\nwarren_store_backlog_packets 2\n\
                     warren_store_unacknowledged_packets 1\n";
        assert_eq!(
            read(&[away, knows, early]),
            Backlog {
                packets: Some(3),
                messages: Some(30),
                unacknowledged: Some(5),
                is_uncertain: true
            }
        );
        assert_eq!(
            read(&[away]),
            Backlog {
                is_uncertain: true,
                ..Backlog::default()
            }
        );
        assert_eq!(read(&["process_start_time_seconds 1\n"]), Backlog::default());
    }
}
