//! An index of what bodies have in them, made behind the writers' backs.
//!
//! # Why not an index of PostgreSQL's
//!
//! Writers would pay for it with each row; `cargo xtask bench indexes` prints what GIN indexes over words and over trigrams take of
//! the rate and of the disk, beside these filters. So the maintenance makes filters ([`filter`]) of minutes that are
//! over, reading each row once. A search reads a few bits of the filters of the minutes that lie before it, and looks at the
//! rows of only those that may have its texts. What has no filter yet is looked at as it would be without any.
//!
//! # Why it misses nothing
//!
//! A filter is of a minute, or of a part of one, as it was when the minute had a certain count ([`message_counts`]). Rows and
//! their counts are committed together and counts only grow, so as long as the count is the same, no row has come since: late
//! ones, of which queues deliver many after an outage, make their minute differ, and it is looked at in full until its
//! filters are made anew. The filters and the count of a minute are read in one snapshot when they are made, and in one
//! snapshot when they are used. That one has the filters, and so has whatever the snapshot had that they were made in; if it has
//! no more of the minute by its count, the filters are of all that it has.
//!
//! A minute gets filters only if as many rows were read as are counted. What is stored but not in sight, as while an operator has
//! a partition detached, would come back into minutes whose filters do not know of it.
//!
//! It holds on a standby, too. That sees commits in the order of the log, which may be another one than its primary saw them in, but
//! what the makers of a filter saw was in the log before the filter. And it holds on a subscriber of logical replication that has all
//! of Warren's tables by one subscription and has copied them.
//!
//! Counts are removed with the days they are of, and then might begin to grow again; the filters are removed before them.
//!
//! # What it costs
//!
//! Writers nothing but the room and what the maintenance takes of the machine: folding the counts of a minute makes it due, and each
//! round of the maintenance works for a bounded time, half of it on minutes that are settled, the newest of them first. While it is
//! behind, rounds are longer. `cargo xtask bench reading` prints the rest.
//!
//! [`message_counts`]: crate::counts

pub(crate) mod build;
pub(crate) mod filter;
pub(crate) mod narrow;
