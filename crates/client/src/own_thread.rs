//! Which threads belong to a sender: what they log must not be sent by it again.

use std::cell::Cell;

thread_local! {
    static SENDING: Cell<bool> = const { Cell::new(false) };
}

/// Makes this thread one of a sender's, for as long as it lives.
pub(crate) fn mark() {
    SENDING.set(true);
}

/// Tells whether this thread is a sender's.
pub(crate) fn is_marked() -> bool {
    // A thread that is being torn down logs nothing of its own any more.
    SENDING.try_with(Cell::get).unwrap_or(true)
}
