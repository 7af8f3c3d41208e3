//! How much may be on its way: rounds, packets and bytes.

use std::collections::VecDeque;

/// The bounds of a [`Window`], each at least 1.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WindowLimits {
    pub(crate) rounds: usize,
    pub(crate) packets: usize,
    pub(crate) bytes: usize,
}

/// How much another round may hold. The packet that crosses `bytes` is the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) packets: usize,
    pub(crate) bytes: usize,
}

/// What is on its way on one channel.
///
/// Counted in rounds first: were it packets alone, then 64 clients that post one message at a time would never fill
/// it, every message would go out by itself, and nothing would ever be packed. With a few rounds on their way
/// whatever arrives meanwhile gathers for the next one.
#[derive(Debug)]
pub(crate) struct Window {
    limits: WindowLimits,
    /// How many packets of each round are unconfirmed, from round `first` on.
    rounds: VecDeque<usize>,
    first: u64,
    open_rounds: usize,
    packets: usize,
    bytes: usize,
}

impl Window {
    pub(crate) fn new(limits: WindowLimits) -> Self {
        Self {
            limits,
            rounds: VecDeque::new(),
            first: 0,
            open_rounds: 0,
            packets: 0,
            bytes: 0,
        }
    }

    /// Returns how much another round may hold, or `None` while the window is full.
    pub(crate) fn room(&self) -> Option<Room> {
        let limits = self.limits;
        let full =
            self.open_rounds >= limits.rounds || self.packets >= limits.packets || self.bytes >= limits.bytes;
        (!full).then(|| Room {
            packets: limits.packets - self.packets,
            bytes: limits.bytes - self.bytes,
        })
    }

    /// Notes a round, one size in bytes for each of its packets; returns its number.
    pub(crate) fn open_round(&mut self, sizes: impl Iterator<Item = usize>) -> u64 {
        let (packets, bytes) = sizes.fold((0, 0), |(packets, bytes), size| (packets + 1, bytes + size));
        let number = self.first + self.rounds.len() as u64;
        self.rounds.push_back(packets);
        self.open_rounds += usize::from(packets > 0);
        self.packets += packets;
        self.bytes += bytes;
        number
    }

    /// Notes that a packet of `bytes` of the round is no longer on its way.
    pub(crate) fn confirmed(&mut self, round: u64, bytes: usize) {
        let index = round
            .checked_sub(self.first)
            .and_then(|index| usize::try_from(index).ok());
        if let Some(unconfirmed) = index.and_then(|index| self.rounds.get_mut(index))
            && *unconfirmed > 0
        {
            *unconfirmed -= 1;
            self.open_rounds -= usize::from(*unconfirmed == 0);
            self.packets -= 1;
            self.bytes -= bytes;
        }
        while let Some(0) = self.rounds.front() {
            self.rounds.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: WindowLimits = WindowLimits {
        rounds: 2,
        packets: 8,
        bytes: 100,
    };

    #[test]
    fn a_round_ends_with_its_last_packet() {
        let mut window = Window::new(LIMITS);
        let first = window.open_round([1, 1].into_iter());
        let second = window.open_round([1].into_iter());
        assert_eq!(window.room(), None);
        window.confirmed(first, 1);
        assert_eq!(window.room(), None);
        window.confirmed(second, 1);
        assert_eq!(
            window.room(),
            Some(Room {
                packets: 7,
                bytes: 99
            })
        );
    }

    #[test]
    fn packets_and_bytes_fill_it_too() {
        let mut window = Window::new(LIMITS);
        let round = window.open_round([1; 8].into_iter());
        assert_eq!(window.room(), None);
        (0..8).for_each(|_| window.confirmed(round, 1));
        let round = window.open_round([1_000].into_iter());
        assert_eq!(window.room(), None);
        window.confirmed(round, 1_000);
        assert_eq!(
            window.room(),
            Some(Room {
                packets: 8,
                bytes: 100
            })
        );
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_list(operations in prop::collection::vec((any::<bool>(), 0..6_usize, 1..40_usize), 0..80)) {
            let (mut window, mut model) = (Window::new(LIMITS), Vec::<(u64, usize)>::new());
            for (publish, n, size) in operations {
                if publish {
                    let round = window.open_round(std::iter::repeat_n(size, n));
                    model.extend(std::iter::repeat_n((round, size), n));
                } else if !model.is_empty() {
                    let (round, size) = model.remove(n % model.len());
                    window.confirmed(round, size);
                }
                let mut rounds: Vec<_> = model.iter().map(|(round, _)| *round).collect();
                rounds.dedup();
                rounds.sort_unstable();
                rounds.dedup();
                let bytes: usize = model.iter().map(|(_, size)| *size).sum();
                let full = rounds.len() >= 2 || model.len() >= 8 || bytes >= 100;
                prop_assert_eq!(window.room().is_none(), full);
            }
            model.into_iter().for_each(|(round, size)| window.confirmed(round, size));
            prop_assert_eq!(window.room(), Some(Room { packets: 8, bytes: 100 }));
        }
    }
}
