//! Makes reports of what programs count.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::time::Instant;
use warren_domain::{Severity, SeverityCounts, Timestamp};

use super::backlog::Backlog;
use super::means::{Means, counts};
use super::page::Page;
use super::report::{Accepted, Dead, FlowReport, InFlight, Missing, Queued, StageName, Stages, Stored};
use super::source::{CounterSource, Counters};
use crate::dead_letters::metrics::WAITING;
use crate::metrics::{
    DEAD, DRAINED, DUPLICATES, HELD, PAUSED, PUBLISHING, RECEIVED, SPOOL_DEAD, SPOOL_WAITING, SPOOLED, STORED,
};
use crate::tally::tenths;

/// How many messages a packet on RabbitMQ holds at most, as those say that publish there.
const PACKET_MAX_MESSAGES: &str = "warren_amqp_packet_max_messages";

/// Tells how far messages have come, whenever it is asked.
///
/// Cloning is cheap; the clones share what was read last. Nothing is read while nobody asks.
#[derive(Clone, Debug)]
pub struct Flow(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    source: Arc<dyn CounterSource>,
    queue: StageName,
    hint: &'static str,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    last: Option<(Instant, FlowReport)>,
    means: [Means<1>; 4],
}

impl Flow {
    /// Makes it. `queue` is what the stage between intake and store is called; `hint` says what to do where no program
    /// counts for a stage.
    pub fn new(source: Arc<dyn CounterSource>, queue: StageName, hint: &'static str) -> Self {
        Self(Arc::new(Shared {
            source,
            queue,
            hint,
            state: Mutex::default(),
        }))
    }

    /// Reports what the source says now. Takes as long as that may.
    pub async fn report(&self) -> FlowReport {
        let counters = self.0.source.counters().await;
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        match &state.last {
            Some((at, report)) if *at >= counters.at => report.clone(),
            _ => {
                let report = self.0.report(&mut state.means, &counters);
                state.last = Some((counters.at, report.clone()));
                report
            }
        }
    }
}

impl Shared {
    fn report(&self, means: &mut [Means<1>; 4], counters: &Counters) -> FlowReport {
        let pages: Vec<&Page> = counters.counting.iter().map(|counting| &counting.page).collect();
        let taking = with(&pages, RECEIVED);
        let storing = with(&pages, PAUSED);
        let backlog = Backlog::read(storing.iter().copied());
        // Of a spool, each its own; of the store, everybody the same.
        let (spools, others): (Vec<_>, Vec<_>) = pages
            .iter()
            .partition(|page| page.sum(SPOOL_WAITING, &[]).is_some());
        let mut means = means.iter_mut();
        let mut rate = |of: &dyn Fn(&Page) -> Option<SeverityCounts>| {
            let counted = counts(counters, |page| Some([of(page)?.total()]));
            let [mean] = means.next()?.note(counters.at, counted)?;
            Some(tenths(mean))
        };
        let (taken, keeps) = (!taking.is_empty(), !storing.is_empty());
        let stages = Stages {
            accepted: Accepted {
                stage: StageName::Accepted,
                total: taken.then(|| counted(&taking, accepted)),
                per_second: rate(&accepted),
                confirmed: taken.then(|| counted(&taking, confirmed)),
                confirmed_per_second: rate(&confirmed),
                publishing: taken.then(|| sum(&taking, PUBLISHING)),
                spooled: (!spools.is_empty()).then(|| sum(&spools, SPOOL_WAITING)),
            },
            queued: Queued {
                stage: self.queue,
                packets: backlog.packets,
                messages: backlog.messages,
                unacknowledged: backlog.unacknowledged,
                held: keeps.then(|| sum(&storing, HELD)),
            },
            stored: Stored {
                stage: StageName::Stored,
                total: keeps.then(|| counted(&storing, stored)),
                per_second: rate(&stored),
                duplicates: keeps.then(|| sum(&storing, DUPLICATES)),
            },
            dead: Dead {
                stage: StageName::Dead,
                total: (keeps || !spools.is_empty()).then(|| counted(&pages, dead)),
                per_second: rate(&dead),
                letters: largest(&others, WAITING),
                in_spools: Some(with(&spools, WAITING))
                    .filter(|spools| !spools.is_empty())
                    .map(|spools| sum(&spools, WAITING)),
            },
        };
        let missing = self.missing(&stages, counters);
        let packet_max = pages
            .iter()
            .filter_map(|page| page.sum(PACKET_MAX_MESSAGES, &[]))
            .max();
        FlowReport {
            at: Timestamp::now(),
            in_flight: in_flight(&stages, packet_max, counters.silent.is_empty()),
            stages,
            missing,
        }
    }

    /// Says what is not known, and what is known in part: a program that does not answer may do anything.
    fn missing(&self, stages: &Stages, counters: &Counters) -> Vec<Missing> {
        let mut missing = Vec::new();
        let nobody = [
            (
                StageName::Accepted,
                stages.accepted.total.is_none(),
                "takes messages in",
            ),
            (
                self.queue,
                stages.queued.packets.is_none(),
                "tells what waits for the store",
            ),
            (
                StageName::Stored,
                stages.stored.total.is_none(),
                "stores messages",
            ),
            (
                StageName::Dead,
                stages.dead.letters.is_none(),
                "has counted dead letters yet",
            ),
        ];
        for silent in &counters.silent {
            for (stage, unknown, _) in nobody {
                // What waits, and what is dead in the store, is the same whoever tells it.
                let shared = stage == self.queue || stage == StageName::Dead;
                if unknown || !shared {
                    missing.push(Missing {
                        stage,
                        reason: silent.reason.clone(),
                        hint: "what it counts is left out; start it, or take it out of the list of programs"
                            .to_owned(),
                    });
                }
            }
        }
        for (stage, _, what) in nobody.into_iter().filter(|(_, unknown, _)| *unknown) {
            missing.push(Missing {
                stage,
                reason: format!("no program that answers {what}"),
                hint: self.hint.to_owned(),
            });
        }
        missing
    }
}

/// Returns those pages that have a series of a name.
fn with<'p>(pages: &[&'p Page], name: &str) -> Vec<&'p Page> {
    let has = |page: &&&Page| page.sum(name, &[]).is_some();
    pages.iter().filter(has).copied().collect()
}

/// Returns what waits or is being stored. Only `all` programs together know the most that it can be.
fn in_flight(stages: &Stages, packet_max: Option<u64>, all: bool) -> InFlight {
    let Queued {
        packets: Some(packets),
        messages,
        unacknowledged,
        held,
        ..
    } = stages.queued
    else {
        return InFlight::default();
    };
    let (held, spooled) = (held.unwrap_or(0), stages.accepted.spooled.unwrap_or(0));
    let (least, most) = match messages {
        Some(messages) => {
            let exact = messages.saturating_add(held);
            (exact, Some(exact))
        }
        // What is held came in packets that are not acknowledged; and a packet holds a message at least.
        None => {
            let unacknowledged = unacknowledged.unwrap_or(0);
            let out = packets.saturating_add(unacknowledged);
            let most = match (out, packet_max) {
                (0, _) => Some(held),
                (_, Some(max)) => Some(out.saturating_mul(max).max(held)),
                (_, None) => None,
            };
            (packets.saturating_add(unacknowledged.max(held)), most)
        }
    };
    InFlight {
        at_least: Some(least.saturating_add(spooled)),
        at_most: most.filter(|_| all).map(|most| most.saturating_add(spooled)),
    }
}

/// What a program has taken in, if it does.
fn accepted(page: &Page) -> Option<SeverityCounts> {
    page.sum(RECEIVED, &[]).map(|_| page.by_severity(RECEIVED, &[]))
}

/// Those of them that the broker has confirmed: at once, or out of the spool.
fn confirmed(page: &Page) -> Option<SeverityCounts> {
    let (accepted, spooled) = (accepted(page)?, page.by_severity(SPOOLED, &[]));
    let drained = page.by_severity(DRAINED, &[]);
    let mut confirmed = SeverityCounts::default();
    for severity in Severity::ALL {
        // What is put into the spool counts a moment before it counts as accepted.
        let durable = accepted.get(severity).saturating_add(drained.get(severity));
        confirmed.add(severity, durable.saturating_sub(spooled.get(severity)));
    }
    Some(confirmed)
}

/// What a program has stored, if it does.
fn stored(page: &Page) -> Option<SeverityCounts> {
    page.sum(PAUSED, &[]).map(|_| page.by_severity(STORED, &[]))
}

/// What a program has given up that stores or has a spool.
fn dead(page: &Page) -> Option<SeverityCounts> {
    page.sum(PAUSED, &[]).or_else(|| page.sum(SPOOL_WAITING, &[]))?;
    let mut dead = page.by_severity(DEAD, &[]);
    dead += page.by_severity(SPOOL_DEAD, &[]);
    Some(dead)
}

fn counted(pages: &[&Page], of: impl Fn(&Page) -> Option<SeverityCounts>) -> SeverityCounts {
    let mut counts = SeverityCounts::default();
    pages
        .iter()
        .filter_map(|page| of(page))
        .for_each(|counted| counts += counted);
    counts
}

fn sum(pages: &[&Page], name: &str) -> u64 {
    let each = pages.iter().filter_map(|page| page.sum(name, &[]));
    each.fold(0, u64::saturating_add)
}

fn largest(pages: &[&Page], name: &str) -> Option<u64> {
    pages.iter().filter_map(|page| page.sum(name, &[])).max()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use async_trait::async_trait;
    use serde_json::{Value, json};
    use tokio::time::advance;

    use super::super::source::{Counting, Silent};
    use super::*;

    /// What is read next.
    #[derive(Debug, Default)]
    struct Told(Mutex<(Vec<Counting>, Vec<Silent>)>);

    impl Told {
        fn set(&self, pages: &[(&str, &str)], silent: &[&str]) {
            let counting = pages.iter().map(|(program, text)| Counting {
                program: (*program).to_owned(),
                page: Page::parse(text),
            });
            let silent = silent.iter().map(|program| Silent {
                program: (*program).to_owned(),
                reason: format!("{program} does not answer"),
            });
            *self.0.lock().unwrap() = (counting.collect(), silent.collect());
        }
    }

    #[async_trait]
    impl CounterSource for Told {
        async fn counters(&self) -> Arc<Counters> {
            let (counting, silent) = self.0.lock().unwrap().clone();
            let at = Instant::now();
            Arc::new(Counters { at, counting, silent })
        }
    }

    fn flow() -> (Arc<Told>, Flow) {
        let told = Arc::new(Told::default());
        let flow = Flow::new(told.clone(), StageName::InRabbitmq, "name one");
        (told, flow)
    }

    async fn said(flow: &Flow) -> Value {
        serde_json::to_value(flow.report().await).unwrap()
    }

    fn intake(started: u32, accepted: u32) -> String {
        format!(
            "warren_intake_accepted_messages_total{{severity=\"error\"}} {accepted}\n\
             warren_amqp_packet_max_messages 10\nprocess_start_time_seconds {started}\n"
        )
    }

    fn store(stored: u32) -> String {
        format!(
            "warren_store_paused 0\nwarren_store_backlog_packets 3\nwarren_dead_letters_waiting 2\n\
             warren_store_held_messages{{severity=\"info\"}} 7\nwarren_store_unacknowledged_packets 4\n\
             warren_store_dead_lettered_messages_total{{severity=\"info\",delivery=\"first\"}} 2\n\
             warren_store_inserted_messages_total{{severity=\"info\"}} {stored}\n\
             warren_store_duplicate_messages_total{{severity=\"info\",delivery=\"first\"}} 5\n\
             process_start_time_seconds 9\n"
        )
    }

    #[tokio::test(start_paused = true)]
    async fn programs_are_added_up_and_what_they_share_is_not() {
        let (told, flow) = flow();
        told.set(
            &[
                ("a", &intake(1, 10)),
                ("b", &intake(2, 20)),
                ("c", &store(5)),
                ("d", &store(6)),
            ],
            &[],
        );
        let mut report = said(&flow).await;
        report.as_object_mut().unwrap().remove("at").unwrap();
        let counts = |severity: &str, n: u32| {
            let mut counts = json!({"debug": 0, "info": 0, "warning": 0, "error": 0, "critical": 0});
            counts[severity] = n.into();
            counts
        };
        assert_eq!(
            report,
            json!({"stages": [
                {"stage": "accepted", "total": counts("error", 30), "per_second": null,
                 "confirmed": counts("error", 30), "confirmed_per_second": null, "publishing": 0, "spooled": null},
                {"stage": "in_rabbitmq", "packets": 3, "messages": null, "unacknowledged": 8, "held": 14},
                {"stage": "stored", "total": counts("info", 11), "per_second": null, "duplicates": 10},
                {"stage": "dead", "total": counts("info", 4), "per_second": null, "letters": 2, "in_spools": null},
            ], "in_flight": {"at_least": 17, "at_most": 110}, "missing": []})
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_spools_keep_is_not_what_the_store_has() {
        let (told, flow) = flow();
        let spool = |waiting: u32, dead: u32| {
            let page = intake(1, 10);
            format!(
                "{page}warren_spool_messages {waiting}\nwarren_dead_letters_waiting {dead}\n\
                 warren_spool_spooled_messages_total{{severity=\"error\"}} 9\n\
                 warren_spool_drained_messages_total{{severity=\"error\"}} {}\n\
                 warren_spool_dead_lettered_messages_total{{severity=\"error\"}} 1\n",
                8 - waiting
            )
        };
        told.set(
            &[("a", &spool(7, 100)), ("b", &spool(1, 3)), ("c", &store(5))],
            &[],
        );
        let report = said(&flow).await;
        let stages = &report["stages"];
        assert_eq!(stages[0]["spooled"], 8);
        // 20 were accepted; 18 went into spools, and 8 of these to the broker.
        assert_eq!(stages[0]["confirmed"]["error"], 10);
        assert_eq!(stages[3]["total"]["error"], 2);
        // What waits in spools is in flight, beside 3 packets and 7 messages in 4 others, of 10 each.
        assert_eq!(report["in_flight"], json!({"at_least": 18, "at_most": 78}));
        assert_eq!(
            (&stages[3]["letters"], &stages[3]["in_spools"]),
            (&json!(2), &json!(103))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_does_not_depend_on_programs_that_do_something_else_or_are_silent_now_and_then() {
        let (told, flow) = flow();
        for second in 0..20_u32 {
            // One consumer is started anew all the time, one intake answers every other time.
            let consumer = format!("process_start_time_seconds {second}\n");
            let (steady, flapping) = (intake(1, 100 * second), intake(2, 10 * second));
            let mut pages = vec![("a", steady.as_str()), ("e", &consumer)];
            let silent: &[&str] = if second % 2 == 0 {
                pages.push(("b", &flapping));
                &[]
            } else {
                &["b"]
            };
            told.set(&pages, silent);
            let rate = said(&flow).await["stages"][0]["per_second"].clone();
            let expected = match second {
                0 => Value::Null,
                _ if second % 2 == 0 => json!(110.0),
                _ => json!(100.0),
            };
            assert_eq!(rate, expected, "second {second}");
            advance(Duration::from_secs(1)).await;
        }
        // Of one that has just begun nobody knows how fast it is.
        told.set(&[("a", &intake(1, 2_000)), ("n", &intake(20, 3))], &[]);
        assert_eq!(said(&flow).await["stages"][0]["per_second"], Value::Null);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_in_flight_is_exact_where_messages_are_known() {
        let (told, flow) = flow();
        let store = store(5) + "warren_store_backlog_messages 30\n";
        told.set(&[("a", &intake(1, 10)), ("c", &store)], &[]);
        assert_eq!(
            said(&flow).await["in_flight"],
            json!({"at_least": 37, "at_most": 37})
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_without_its_broker_does_not_know_what_waits() {
        let (told, flow) = flow();
        let away = store(5) + "warren_store_backlog_known 0\n";
        told.set(&[("a", &intake(1, 10)), ("c", &away)], &[]);
        let report = said(&flow).await;
        assert_eq!(report["stages"][1]["packets"], Value::Null);
        assert_eq!(report["in_flight"], json!({"at_least": null, "at_most": null}));
        assert_eq!(report["missing"][0]["stage"], "in_rabbitmq");
        advance(Duration::from_secs(1)).await;
        let back = store(5) + "warren_store_backlog_known 1\n";
        told.set(&[("a", &intake(1, 10)), ("c", &away), ("d", &back)], &[]);
        let report = said(&flow).await;
        assert_eq!(report["stages"][1]["packets"], 3);
        assert_eq!(report["missing"].as_array().unwrap().len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rate_is_a_mean_over_the_last_seconds_and_unknown_after_a_program_has_begun_anew() {
        let (told, flow) = flow();
        for second in 0..30_u32 {
            told.set(&[("a", &intake(1, 100 * second)), ("c", &store(7 * second))], &[]);
            let stages = said(&flow).await["stages"].clone();
            let expected =
                [json!(100.0), json!(7.0)].map(|rate| if second == 0 { Value::Null } else { rate });
            assert_eq!(
                [&stages[0]["per_second"], &stages[2]["per_second"]],
                [&expected[0], &expected[1]]
            );
            advance(Duration::from_secs(1)).await;
        }
        told.set(&[("a", &intake(31, 0)), ("c", &store(250))], &[]);
        assert_eq!(said(&flow).await["stages"][0]["per_second"], Value::Null);
        advance(Duration::from_secs(2)).await;
        told.set(&[("a", &intake(31, 50)), ("c", &store(251))], &[]);
        let stages = said(&flow).await["stages"].clone();
        assert_eq!(
            [&stages[0]["per_second"], &stages[2]["per_second"]],
            [&json!(25.0), &json!(9.7)],
            "who goes on is not touched by who has begun anew"
        );
        advance(Duration::from_secs(1)).await;
        told.set(&[("a", &intake(31, 70)), ("c", &store(251))], &[]);
        // A third, of which tenths are enough.
        assert_eq!(said(&flow).await["stages"][0]["per_second"], json!(23.3));
        // After a pause in which nobody asked, what was read before it says nothing of now.
        advance(Duration::from_secs(600)).await;
        assert_eq!(said(&flow).await["stages"][0]["per_second"], Value::Null);
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_counts_is_unknown_and_a_silent_program_is_named() {
        let (told, flow) = flow();
        told.set(&[], &[]);
        let report = said(&flow).await;
        for stage in report["stages"].as_array().unwrap() {
            let figures = stage
                .as_object()
                .unwrap()
                .iter()
                .filter(|(name, _)| *name != "stage");
            assert!(figures.map(|(_, figure)| figure).all(Value::is_null), "{stage}");
        }
        let missing = report["missing"].as_array().unwrap();
        assert_eq!(missing.len(), 4);
        assert!(
            missing.iter().all(|missing| missing["hint"] == "name one"),
            "{missing:?}"
        );

        advance(Duration::from_secs(1)).await;
        told.set(&[("a", &intake(1, 10)), ("c", &store(5))], &["b"]);
        let report = said(&flow).await;
        assert_eq!(report["stages"][0]["total"]["error"], 10);
        assert_eq!(
            report["in_flight"],
            json!({"at_least": 10, "at_most": null}),
            "nobody knows what b may keep"
        );
        let missing: Vec<_> = report["missing"]
            .as_array()
            .unwrap()
            .iter()
            .map(|missing| {
                (
                    missing["stage"].as_str().unwrap(),
                    missing["reason"].as_str().unwrap(),
                )
            })
            .collect();
        let reason = "b does not answer";
        assert_eq!(missing, [("accepted", reason), ("stored", reason)]);
    }
}
