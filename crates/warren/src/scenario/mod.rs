//! Scenarios: which messages are sent, and the metric that each consumer must then print.

mod file;
mod plan;
mod problem;
mod verdict;
mod written;

use warren_domain::SeverityCounts;

/// The names of the consumer groups that Warren ships, in the order in which they are shown.
pub(crate) const GROUPS: [&str; 4] = ["all", "debug-info", "critical", "error"];

/// What a number of messages is for each of [`GROUPS`].
pub(crate) type GroupCounts = [SeverityCounts; 4];

#[cfg(test)]
mod tests {
    use warren_domain::ports::NamedGroup;

    use super::*;

    #[test]
    fn the_groups_are_those_that_are_shipped() {
        assert_eq!(NamedGroup::shipped().map(|group| group.name.to_string()), GROUPS);
    }
}
