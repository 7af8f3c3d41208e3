//! Whether what was accepted is stored, a duplicate, a dead letter, or in flight.
//!
//! Each term is known exactly, or within bounds: what was in flight at the ends of the window, publications answered
//! with 5xx that may have arrived, packets that were published again, duplicates of deliveries that may be
//! repetitions. So what is missing lies between two numbers: above nothing, messages are lost; below, more came than
//! was accepted; and in between the books hold, within the larger of them.

use anyhow::Result;
use warren_domain::{Severity, SeverityCounts};
use warren_pipeline::flow::Page;

use super::cut::{Cut, InFlight, counted, dying};

/// What was counted until a moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Account {
    /// Answered with 202, before and after the rest was read.
    accepted: [SeverityCounts; 2],
    /// Given to the broker, which has not answered.
    publishing: SeverityCounts,
    /// Not accepted, but possibly on its way; and published again though it may have arrived.
    unknown: SeverityCounts,
    inserted: SeverityCounts,
    duplicate_first: SeverityCounts,
    duplicate_again: SeverityCounts,
    dead_first: SeverityCounts,
    dead_again: SeverityCounts,
    /// Dead letters put back on their way, of all severities.
    redriven: u64,
    /// Messages of packets that the broker gave up, of all severities; some may be stored.
    given_up: u64,
    /// Letters that were moved from the broker to where they are kept, of any kind.
    kept: u64,
    /// Messages of packets in the broker's queue of dead letters, at most; those that workers refused are among them.
    dying: u64,
    pub(crate) in_flight: InFlight,
}

impl Account {
    /// Reads what was counted until a moment.
    ///
    /// # Errors
    /// What is in flight cannot be known.
    pub(crate) fn read(cut: &Cut) -> Result<Self> {
        let accepted = |pages| counted(pages, "warren_intake_accepted_messages_total", &[]);
        let stored = |name, delivery| counted(&cut.workers, name, &[("delivery", delivery)]);
        let mut unknown = counted(
            &cut.after,
            "warren_intake_unpublished_messages_total",
            &[("verdict", "unavailable")],
        );
        unknown += counted(&cut.after, "warren_amqp_republished_messages_total", &[]);
        unknown += counted(&cut.after, "warren_spool_repeated_messages_total", &[]);
        let letters = |name: &str, labels: &[(&str, &str)]| -> u64 {
            cut.workers.iter().filter_map(|page| page.sum(name, labels)).sum()
        };
        let mut dead_first = stored("warren_store_dead_lettered_messages_total", "first");
        dead_first += counted(&cut.after, "warren_spool_dead_lettered_messages_total", &[]);
        Ok(Self {
            accepted: [accepted(&cut.before), accepted(&cut.after)],
            publishing: counted(&cut.after, "warren_intake_publishing_messages", &[]),
            unknown,
            inserted: counted(&cut.workers, "warren_store_inserted_messages_total", &[]),
            duplicate_first: stored("warren_store_duplicate_messages_total", "first"),
            duplicate_again: stored("warren_store_duplicate_messages_total", "again"),
            dead_first,
            dead_again: stored("warren_store_dead_lettered_messages_total", "again"),
            redriven: letters("warren_dead_letters_redriven_total", &[]) + of_spools(cut),
            given_up: letters("warren_dead_letters_kept_total", &[("reason", "delivery_limit")]),
            kept: letters("warren_dead_letters_kept_total", &[]),
            dying: dying(cut)?,
            in_flight: InFlight::read(cut)?,
        })
    }
}

/// Returns how many messages programs that only take in have redriven: their spools have dead letters, too.
fn of_spools(cut: &Cut) -> u64 {
    let others = cut.after.iter().filter(|page| {
        let same = |worker: &Page| worker.started() == page.started();
        !cut.workers.iter().any(same)
    });
    others
        .filter_map(|page| page.sum("warren_dead_letters_redriven_total", &[]))
        .sum()
}

impl Account {
    /// Returns how many messages the broker gave up between `start` and this moment, at most.
    fn given_up_since(&self, start: &Self) -> u64 {
        let kept = self.given_up.saturating_sub(start.given_up);
        // While nothing was taken out of the broker's queue, what was there before is there still.
        let before = if self.kept == start.kept { start.dying } else { 0 };
        kept + self.dying.saturating_sub(before)
    }
}

/// The books of one severity, or of all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// Answered with 202.
    pub(crate) accepted: u64,
    /// May have arrived besides: answered with 5xx, or published twice.
    pub(crate) unknown: u64,
    /// Stored for the first time.
    pub(crate) stored: u64,
    pub(crate) duplicate: u64,
    pub(crate) dead: u64,
    /// At most in flight at the end.
    pub(crate) in_flight: u64,
    /// What is missing: at least, and at most; below nothing, more came than was accepted.
    pub(crate) missing: (i64, i64),
}

/// What a row says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finding {
    Exact,
    /// So many could be missing at most.
    Within(u64),
    /// So many are missing at least.
    Lost(u64),
    /// So many more came at least.
    Surplus(u64),
}

impl Row {
    pub(crate) const fn finding(&self) -> Finding {
        match self.missing {
            (least @ 1.., _) => Finding::Lost(least.unsigned_abs()),
            (_, most @ ..0) => Finding::Surplus(most.unsigned_abs()),
            (0, 0) => Finding::Exact,
            (_, most) => Finding::Within(most.unsigned_abs()),
        }
    }
}

/// The books of a window.
#[derive(Clone, Debug)]
pub(crate) struct Books {
    /// In the order of the severities.
    pub(crate) rows: [Row; 5],
    pub(crate) total: Row,
    /// At the end of the window.
    pub(crate) in_flight: InFlight,
}

impl Books {
    /// Closes the books of the time between two moments.
    pub(crate) fn of(start: &Account, end: &Account) -> Self {
        let row = |of: &dyn Fn(&SeverityCounts) -> u64, in_flight: [u64; 2]| {
            let during =
                |counts: fn(&Account) -> &SeverityCounts| of(counts(end)).saturating_sub(of(counts(start)));
            let redriven = end.redriven.saturating_sub(start.redriven);
            let given_up = end.given_up_since(start);
            let unknown = during(|account| &account.unknown) + of(&end.publishing) + redriven;
            let inserted = during(|account| &account.inserted);
            let duplicate = [
                during(|account| &account.duplicate_first),
                during(|account| &account.duplicate_again),
            ];
            let dead = [
                during(|account| &account.dead_first),
                during(|account| &account.dead_again),
            ];
            // What was being published when the window began may have been stored before it did.
            let least_accepted =
                of(&end.accepted[0]).saturating_sub(of(&start.accepted[1]) + of(&start.publishing));
            let most_accepted = of(&end.accepted[1]).saturating_sub(of(&start.accepted[0]));
            let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            let surely_here = inserted + duplicate[0] + dead[0];
            let least = signed(least_accepted)
                - signed(surely_here + duplicate[1] + dead[1] + given_up + in_flight[1]);
            let most = signed(most_accepted + unknown + in_flight[0]) - signed(surely_here);
            Row {
                accepted: most_accepted,
                unknown,
                stored: inserted,
                duplicate: duplicate.iter().sum(),
                dead: dead.iter().sum(),
                in_flight: in_flight[1],
                missing: (least, most),
            }
        };
        let rows = Severity::ALL.map(|severity| {
            let in_flight = [start, end].map(|account| account.in_flight.of[severity.index()]);
            row(&|counts| counts.get(severity), in_flight)
        });
        let in_flight = [start, end].map(|account| account.in_flight.all);
        let mut total = row(&SeverityCounts::total, in_flight);
        // Which severities they are of, nobody counts.
        total.dead += end.given_up.saturating_sub(start.given_up);
        Self {
            rows,
            total,
            in_flight: end.in_flight,
        }
    }

    /// Returns what is wrong with any row, the worst first, and of which severity; else what all together say.
    ///
    /// What could be in flight could be of any severity, so that each row alone allows for all of it.
    pub(crate) fn verdict(&self) -> (Finding, Option<Severity>) {
        let badness = |finding: Finding| match finding {
            Finding::Exact | Finding::Within(_) => None,
            Finding::Surplus(more) => Some((0, more)),
            Finding::Lost(least) => Some((1, least)),
        };
        let all = (self.total.finding(), None);
        let rows = Severity::ALL.into_iter().zip(&self.rows);
        let rows = rows.map(|(severity, row)| (row.finding(), Some(severity)));
        // Of equals the last is taken: a severity says more than all together.
        let wrong = [all].into_iter().chain(rows);
        let wrong = wrong.filter(|(finding, _)| badness(*finding).is_some());
        wrong.max_by_key(|(finding, _)| badness(*finding)).unwrap_or(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: &str = "warren_store_backlog_packets 0\n";

    fn account(ingest: &str, worker: &str) -> Account {
        let ingest = format!("warren_amqp_packet_max_messages 10\n{ingest}");
        Account::read(&Cut {
            before: vec![Page::parse(&ingest)],
            workers: vec![Page::parse(&format!("{QUIET}{worker}"))],
            after: vec![Page::parse(&ingest)],
        })
        .unwrap()
    }

    fn info(name: &str, labels: &str, value: u64) -> String {
        format!("warren_{name}{{severity=\"info\"{labels}}} {value}\n")
    }

    fn accepted(n: u64) -> String {
        info("intake_accepted_messages_total", "", n)
    }

    fn inserted(n: u64) -> String {
        info("store_inserted_messages_total", "", n)
    }

    fn duplicates(delivery: &str, n: u64) -> String {
        let labels = format!(",delivery=\"{delivery}\"");
        info("store_duplicate_messages_total", &labels, n)
    }

    fn dead(n: u64) -> String {
        info("store_dead_lettered_messages_total", ",delivery=\"first\"", n)
    }

    fn verdict(ingest: &str, worker: &str) -> (Finding, Option<Severity>) {
        Books::of(&Account::default(), &account(ingest, worker)).verdict()
    }

    #[test]
    fn books_that_balance_hold_exactly() {
        let worker = inserted(90) + &duplicates("first", 7) + &dead(3);
        assert_eq!(verdict(&accepted(100), &worker).0, Finding::Exact);
        assert_eq!(verdict("", "").0, Finding::Exact);
    }

    #[test]
    fn one_message_that_is_nowhere_is_lost() {
        let found = verdict(&accepted(100), &(inserted(98) + &dead(1)));
        assert_eq!(found, (Finding::Lost(1), Some(Severity::Info)));
    }

    #[test]
    fn a_loss_of_one_severity_is_not_made_good_by_another() {
        let ingest = accepted(10) + "warren_intake_accepted_messages_total{severity=\"error\"} 10\n";
        let worker = inserted(9) + "warren_store_inserted_messages_total{severity=\"error\"} 11\n";
        assert_eq!(
            verdict(&ingest, &worker),
            (Finding::Lost(1), Some(Severity::Info))
        );
    }

    #[test]
    fn what_may_be_in_flight_may_be_missing() {
        let worker = inserted(95) + "warren_amqp_unsettled_packets 1\n";
        assert_eq!(verdict(&accepted(100), &worker).0, Finding::Within(5));
        let worker = inserted(85) + "warren_amqp_unsettled_packets 1\n";
        assert_eq!(verdict(&accepted(100), &worker).0, Finding::Lost(5));
    }

    #[test]
    fn an_answer_of_5xx_explains_a_surplus_and_may_hide_a_loss_of_its_size() {
        let unknown = |n| info("intake_unpublished_messages_total", ",verdict=\"unavailable\"", n);
        let refused = info("intake_unpublished_messages_total", ",verdict=\"refused\"", 50);
        let ingest = accepted(100) + &unknown(5) + &refused;
        assert_eq!(verdict(&ingest, &inserted(105)).0, Finding::Within(0));
        assert_eq!(verdict(&ingest, &inserted(103)).0, Finding::Within(2));
        assert_eq!(verdict(&ingest, &inserted(100)).0, Finding::Within(5));
        assert_eq!(verdict(&ingest, &inserted(99)).0, Finding::Lost(1));
        assert_eq!(verdict(&ingest, &inserted(106)).0, Finding::Surplus(1));
    }

    #[test]
    fn what_the_spool_gave_the_broker_once_more_explains_a_surplus() {
        let repeated = info("spool_repeated_messages_total", "", 4);
        let worker = inserted(100) + &duplicates("first", 4);
        assert_eq!(
            verdict(&(accepted(100) + &repeated), &worker).0,
            Finding::Within(0)
        );
        let worker = inserted(100) + &duplicates("first", 5);
        assert_eq!(
            verdict(&(accepted(100) + &repeated), &worker).0,
            Finding::Surplus(1)
        );
    }

    #[test]
    fn duplicates_of_what_came_again_neither_make_a_loss_good_nor_a_surplus() {
        let again = |stored| inserted(stored) + &duplicates("again", 20);
        assert_eq!(verdict(&accepted(100), &again(100)).0, Finding::Within(0));
        assert_eq!(verdict(&accepted(100), &again(90)).0, Finding::Within(10));
        assert_eq!(verdict(&accepted(100), &again(70)).0, Finding::Lost(10));
    }

    #[test]
    fn only_what_happened_in_the_window_counts() {
        let start = account(&accepted(1_000), &inserted(900));
        let end = account(&accepted(1_100), &inserted(1_000));
        assert_eq!(Books::of(&start, &end).verdict().0, Finding::Exact);
        let end = account(&accepted(1_100), &inserted(999));
        assert_eq!(Books::of(&start, &end).verdict().0, Finding::Lost(1));
    }

    #[test]
    fn what_was_in_flight_when_the_window_began_explains_a_surplus() {
        let start = account(
            &accepted(1_000),
            &(inserted(990) + "warren_amqp_unsettled_packets 1\n"),
        );
        let end = account(&accepted(1_100), &inserted(1_100));
        let (found, _) = Books::of(&start, &end).verdict();
        assert_eq!(found, Finding::Within(0));
    }

    #[test]
    fn what_the_publisher_has_not_answered_for_is_neither_lost_nor_too_much() {
        let publishing = info("intake_publishing_messages", "", 10);
        let ingest = accepted(100) + &publishing;
        assert_eq!(verdict(&ingest, &inserted(100)).0, Finding::Within(10));
        assert_eq!(verdict(&ingest, &inserted(110)).0, Finding::Within(0));
        // Stored before the window began, and accepted in it.
        let start = account(&ingest, &inserted(110));
        let end = account(&accepted(110), &inserted(110));
        assert_eq!(Books::of(&start, &end).verdict().0, Finding::Within(10));
    }

    #[test]
    fn a_dead_letter_of_the_spool_is_one_and_may_be_put_back_from_there() {
        let dead = info("spool_dead_lettered_messages_total", "", 2);
        let started = |at: u32| format!("process_start_time_seconds {at}\n");
        let ingest = accepted(100) + &dead + &started(1);
        assert_eq!(verdict(&ingest, &(inserted(98) + &started(2))).0, Finding::Exact);
        let ingest = ingest + "warren_dead_letters_redriven_total 2\n";
        assert_eq!(
            verdict(&ingest, &(inserted(100) + &started(2))).0,
            Finding::Within(0)
        );
        // Of one program that does both they count once.
        let one = accepted(100) + &started(1) + "warren_dead_letters_redriven_total 2\n";
        let worker = inserted(103) + &started(1) + "warren_dead_letters_redriven_total 2\n";
        assert_eq!(verdict(&one, &worker).0, Finding::Surplus(1));
    }

    #[test]
    fn dead_letters_that_were_put_back_explain_a_surplus() {
        let worker = inserted(105) + "warren_dead_letters_redriven_total 5\n";
        assert_eq!(verdict(&accepted(100), &worker).0, Finding::Within(0));
    }

    #[test]
    fn dead_letters_of_the_brokers_own_are_not_missing() {
        let given_up = |n| format!("warren_dead_letters_kept_total{{reason=\"delivery_limit\"}} {n}\n");
        let books = |worker: String| Books::of(&Account::default(), &account(&accepted(100), &worker));
        assert_eq!(books(inserted(95) + &given_up(5)).verdict().0, Finding::Within(5));
        assert_eq!(books(inserted(94) + &given_up(5)).verdict().0, Finding::Lost(1));
        assert_eq!(books(inserted(95) + &given_up(5)).total.dead, 5);
    }

    #[test]
    fn what_lies_in_the_brokers_queue_of_dead_letters_is_not_missing() {
        let dying = |n| format!("warren_amqp_dead_packets {n}\nwarren_amqp_dead_unsettled_packets 1\n");
        let end = |worker: String| account(&accepted(100), &worker);
        let books = |start: &Account, worker: String| Books::of(start, &end(worker)).verdict().0;
        let start = Account::default();
        assert_eq!(books(&start, inserted(80) + &dying(1)), Finding::Within(20));
        assert_eq!(books(&start, inserted(79) + &dying(1)), Finding::Lost(1));
        // What was there before the window is not of it, unless something was taken out meanwhile.
        let start = account("", &dying(7));
        assert_eq!(books(&start, inserted(90) + &dying(8)), Finding::Within(10));
        assert_eq!(books(&start, inserted(89) + &dying(8)), Finding::Lost(1));
        let kept = "warren_dead_letters_kept_total{reason=\"refused_by_store\"} 1\n";
        assert_eq!(
            books(&start, inserted(11) + &dying(8) + kept),
            Finding::Within(89)
        );
    }
}
