//! What the faults of a link have done.

use std::ops::Sub;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Makes the counters and what is read from them out of one list.
macro_rules! bites {
    ($($(#[$doc:meta])* $name:ident,)+) => {
        /// What has happened on a link; all but `connections` is a fault's doing.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Bites {
            $($(#[$doc])* pub $name: u64,)+
        }

        #[derive(Debug, Default)]
        pub(super) struct Counters {
            $($name: AtomicU64,)+
        }

        impl Counters {
            pub(super) fn read(&self) -> Bites {
                Bites { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }

            $(pub(super) fn $name(&self, count: u64) {
                self.$name.fetch_add(count, Ordering::Relaxed);
            })+
        }

        impl Sub for Bites {
            type Output = Self;

            fn sub(self, before: Self) -> Self {
                Self { $($name: self.$name.saturating_sub(before.$name),)+ }
            }
        }
    };
}

bites! {
    /// Connections that were accepted.
    connections,
    /// Connections that were reset.
    reset,
    /// Connections that were reset before they stood.
    refused,
    /// Connections that had to wait before they stood.
    waited,
    /// Bytes that waited for the end of a hole.
    held,
    /// Bytes that were taken and lost.
    swallowed,
    /// Bytes that came later, by latency or for want of bandwidth.
    delayed,
    /// Pieces that something was cut into.
    sliced,
}

impl Bites {
    /// Tells whether a fault had any effect.
    #[must_use]
    pub fn any(&self) -> bool {
        let harmless = Self {
            connections: self.connections,
            ..Self::default()
        };
        *self != harmless
    }
}
