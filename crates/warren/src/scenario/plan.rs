//! The order in which the messages of a scenario are sent.

use super::file::Scenario;

/// One message to send: which step, which number in it, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sending {
    pub(crate) step: u32,
    pub(crate) number: u32,
}

/// Returns every sending of a scenario in order. A message that is sent twice is in it twice.
///
/// As written, the copies of a step follow its messages; shuffled, they are anywhere.
pub(crate) fn order(scenario: &Scenario) -> Vec<Sending> {
    let mut order = Vec::new();
    for (step, written) in (0..).zip(&scenario.steps) {
        // A scenario has at most ten million messages.
        let numbers = |count: u64| 0..u32::try_from(count).unwrap_or(u32::MAX);
        order.extend(
            numbers(written.count)
                .chain(numbers(written.twice))
                .map(|number| Sending { step, number }),
        );
    }
    if let Some(seed) = scenario.shuffle {
        fastrand::Rng::with_seed(seed).shuffle(&mut order);
    }
    order
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::written::parse;
    use super::*;

    fn scenario(order: &str) -> Scenario {
        let text = format!(
            "title = 't'\nabout = ''\n{order}\n\
             [[send]]\nseverity = 'info'\ncount = 300\nbody = '{{n}}'\ntwice = 2\n\
             [[send]]\nseverity = 'error'\ncount = 1\nbody = 'x'\n\
             [expect]\nall = {{}}\ndebug-info = {{}}\ncritical = {{}}\nerror = {{}}\n"
        );
        parse(Path::new("t.toml"), &text).unwrap()
    }

    #[test]
    fn as_written_means_step_by_step_with_the_copies_at_the_end_of_each() {
        let order = order(&scenario(""));
        let of = |step, number| Sending { step, number };
        assert_eq!(order[..2], [of(0, 0), of(0, 1)]);
        assert_eq!(order[299..], [of(0, 299), of(0, 0), of(0, 1), of(1, 0)]);
    }

    #[test]
    fn a_seed_makes_the_same_order_every_time_of_the_same_messages() {
        let shuffled = scenario("order = 'shuffled'\nseed = 7");
        let (mut once, again) = (order(&shuffled), order(&shuffled));
        assert_eq!(once, again);
        assert_ne!(once, order(&scenario("")));
        assert_ne!(once, order(&scenario("order = 'shuffled'\nseed = 8")));
        let mut written = order(&scenario(""));
        once.sort_unstable();
        written.sort_unstable();
        assert_eq!(once, written);
    }
}
