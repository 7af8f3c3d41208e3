//! Consumer groups whose members run elsewhere, as far as they can be known.

use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::Instant;
use warren_domain::ports::{GroupName, GroupQueue, GroupQueues, Unacknowledged};
use warren_domain::{BySeverity, Severity, SeverityCounts, Timestamp};

use super::metrics::{
    CONSUMED, DUPLICATES, MESSAGES, OLDEST_SECONDS, UNACKNOWLEDGED_MESSAGES, UNACKNOWLEDGED_PACKETS,
};
use super::report::{ReportedLag, tenths};
use crate::flow::{CounterSource, Counters, FRESH, Means, Page, counts};

/// Tells of groups what their queues and their members say.
///
/// Cloning is cheap; the clones share everything. Nothing is asked while nobody asks.
#[derive(Clone, Debug)]
pub struct GroupWatch(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    groups: Vec<GroupName>,
    queues: Arc<dyn GroupQueues>,
    members: Arc<dyn CounterSource>,
    rates: Mutex<Rates>,
    /// What was told last.
    last: tokio::sync::Mutex<Option<(Instant, WatchReport)>>,
}

/// How fast each group counts.
#[derive(Debug, Default)]
struct Rates {
    /// When it was last looked at.
    at: Option<Instant>,
    /// Of each group: what was read, and what it came to.
    of: Vec<(Means<5>, Option<[f64; 5]>)>,
}

/// What is known of groups, written as JSON that `docs/consumers.md` describes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WatchReport {
    /// Each of them.
    pub groups: Vec<WatchedGroup>,
    /// Why something is not known: a sentence each, for people.
    pub missing: Vec<String>,
}

/// What is known of a group.
#[derive(Clone, Debug, PartialEq)]
pub struct WatchedGroup {
    /// Its name.
    pub group: GroupName,
    /// Whether somebody counts.
    pub state: WatchedState,
    /// When this was so.
    pub at: Timestamp,
    /// What its largest book holds, and what came again; `None` where no member was heard that counts for it.
    pub counted: Option<(SeverityCounts, u64)>,
    /// Messages counted in a second by the members that were heard, lowest severity first.
    pub per_second: Option<[f64; 5]>,
    /// What waits for it; `None` while the broker does not say.
    pub lag: Option<ReportedLag>,
    /// What was delivered to its members and is not acknowledged yet; `None` unless every one of them says.
    pub unacknowledged: Option<Unacknowledged>,
    /// How many consume from its queue; `None` while the broker does not say.
    pub members: Option<u64>,
}

/// Whether somebody counts for a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WatchedState {
    /// It has a member.
    Consuming,
    /// It has a queue, which fills, and no member.
    Unattended,
    /// It has no queue: no member has ever begun, or the last one has been gone for long.
    Absent,
    /// The broker does not say.
    Unknown,
}

impl WatchedState {
    /// Returns the word for it in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Consuming => "consuming",
            Self::Unattended => "unattended",
            Self::Absent => "absent",
            Self::Unknown => "unknown",
        }
    }
}

impl GroupWatch {
    /// Makes it of the groups to watch, who sees their queues, and whose counters may be those of members.
    pub fn new(
        groups: Vec<GroupName>,
        queues: Arc<dyn GroupQueues>,
        members: Arc<dyn CounterSource>,
    ) -> Self {
        let rates = Rates {
            at: None,
            of: groups.iter().map(|_| Default::default()).collect(),
        };
        Self(Arc::new(Shared {
            rates: Mutex::new(rates),
            last: tokio::sync::Mutex::default(),
            groups,
            queues,
            members,
        }))
    }

    /// Tells what is known now. Both are asked once a second at most, however many want to know; that takes as long as the
    /// slower of the two may.
    pub async fn report(&self) -> WatchReport {
        // Whoever comes meanwhile waits for the same answer.
        let mut last = self.0.last.lock().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < FRESH
        {
            return report.clone();
        }
        let report = self.look().await;
        *last = Some((Instant::now(), report.clone()));
        report
    }

    async fn look(&self) -> WatchReport {
        let Shared {
            groups,
            queues,
            members,
            ..
        } = &*self.0;
        let (seen, counters) = tokio::join!(queues.look(groups), members.counters());
        let mut missing: Vec<_> = counters
            .silent
            .iter()
            .map(|silent| format!("{}; what it has counted for groups is left out", silent.reason))
            .collect();
        let seen =
            seen.map_err(|away| missing.insert(0, format!("it is not known what waits for groups: {away}")));
        let rates = self.0.rates(&counters);
        let at = Timestamp::now();
        let mut unheard = Vec::new();
        let groups = groups
            .iter()
            .zip(rates)
            .enumerate()
            .map(|(place, (group, per_second))| {
                let queue = seen.as_ref().map(|queues| queues.get(place).copied().flatten());
                let (state, members) = match queue {
                    Ok(Some(GroupQueue { members: 0, .. })) => (WatchedState::Unattended, Some(0)),
                    Ok(Some(GroupQueue { members, .. })) => (WatchedState::Consuming, Some(members)),
                    Ok(None) => (WatchedState::Absent, Some(0)),
                    Err(()) => (WatchedState::Unknown, None),
                };
                let queue = queue.ok().flatten();
                let unacknowledged = queue.and_then(|GroupQueue { members, .. }| {
                    let held = held(group, members, &counters);
                    held.map_err(|heard| unheard.push(format!("{group} ({heard} of {members})")))
                        .ok()
                });
                WatchedGroup {
                    group: group.clone(),
                    state,
                    at,
                    counted: counted(group, &counters),
                    per_second,
                    lag: queue.map(|queue| lag(group, queue, &counters)),
                    unacknowledged,
                    members,
                }
            });
        let groups = groups.collect();
        if !unheard.is_empty() {
            missing.push(format!(
                "what members hold unacknowledged is not known where not all of them tell it: {}; name every \
                 severity-consumer in pipeline.programs",
                unheard.join(", ")
            ));
        }
        WatchReport { groups, missing }
    }
}

impl Shared {
    /// Returns how fast each group counts.
    fn rates(&self, counters: &Counters) -> Vec<Option<[f64; 5]>> {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        if rates.at.is_none_or(|last| last < counters.at) {
            rates.at = Some(counters.at);
            for (group, (means, rate)) in self.groups.iter().zip(&mut rates.of) {
                let consumed = counts(counters, |page| of_each(page, CONSUMED, group));
                *rate = means.note(counters.at, consumed);
            }
        }
        rates.of.iter().map(|(_, rate)| *rate).collect()
    }
}

fn pages(counters: &Counters) -> impl Iterator<Item = &Page> {
    counters.counting.iter().map(|counting| &counting.page)
}

fn of_each(page: &Page, name: &str, group: &GroupName) -> Option<[u64; 5]> {
    let of = |severity: Severity| {
        let labels = [("group", group.as_str()), ("severity", severity.as_str())];
        page.count(name, &labels)
    };
    let counts = Severity::ALL.map(of);
    counts
        .iter()
        .any(Option::is_some)
        .then(|| counts.map(Option::unwrap_or_default))
}

/// Returns what the largest book holds: members on one machine share one, and nobody tells which they are.
fn counted(group: &GroupName, counters: &Counters) -> Option<(SeverityCounts, u64)> {
    let books = pages(counters).filter_map(|page| {
        let mut counts = SeverityCounts::default();
        let of_each = of_each(page, MESSAGES, group)?;
        for (severity, n) in Severity::ALL.into_iter().zip(of_each) {
            counts.add(severity, n);
        }
        let duplicates = page.count(DUPLICATES, &[("group", group.as_str())]);
        Some((counts, duplicates.unwrap_or(0)))
    });
    books.max_by_key(|(counts, _)| counts.total())
}

/// Returns what the members hold together, of whom the broker knows so many.
///
/// # Errors
/// Not all of them say it; how many do.
fn held(group: &GroupName, members: u64, counters: &Counters) -> Result<Unacknowledged, u64> {
    let labels = [("group", group.as_str())];
    let each = pages(counters).filter_map(|page| {
        let packets = page.count(UNACKNOWLEDGED_PACKETS, &labels)?;
        let messages = page.count(UNACKNOWLEDGED_MESSAGES, &labels);
        Some(Unacknowledged { packets, messages })
    });
    let each: Vec<_> = each.collect();
    let heard = each.len() as u64;
    if heard < members {
        return Err(heard);
    }
    let sum = each.into_iter().reduce(|all, one| Unacknowledged {
        packets: all.packets.saturating_add(one.packets),
        messages: all
            .messages
            .zip(one.messages)
            .map(|(all, one)| all.saturating_add(one)),
    });
    Ok(sum.unwrap_or_default())
}

fn lag(group: &GroupName, queue: GroupQueue, counters: &Counters) -> ReportedLag {
    let oldest = pages(counters).filter_map(|page| page.value(OLDEST_SECONDS, &[("group", group.as_str())]));
    let oldest = oldest.reduce(f64::max);
    ReportedLag {
        packets: queue.packets,
        messages: None,
        oldest_seconds: if queue.packets == 0 { Some(0.0) } else { oldest },
    }
}

/// The members of the JSON object: those of a group that counts in this process, of which more may be unknown.
#[derive(Serialize, Deserialize)]
struct Line {
    group: String,
    state: WatchedState,
    at: String,
    received: Option<BySeverity<u64>>,
    total: Option<u64>,
    duplicates: Option<u64>,
    per_second: Option<BySeverity<f64>>,
    /// No member tells it to others.
    last_seen: (),
    lag: Option<ReportedLag>,
    unacknowledged: Option<Unacknowledged>,
    members: Option<u64>,
}

impl Serialize for WatchedGroup {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let counts = self.counted.map(|(counts, _)| counts);
        Line {
            group: self.group.to_string(),
            state: self.state,
            at: self.at.to_string(),
            received: counts.map(BySeverity::from),
            total: counts.map(|counts| counts.total()),
            duplicates: self.counted.map(|(_, duplicates)| duplicates),
            per_second: self.per_second.map(|rates| BySeverity::new(rates.map(tenths))),
            last_seen: (),
            lag: self.lag.map(|lag| ReportedLag {
                oldest_seconds: lag.oldest_seconds.map(tenths),
                ..lag
            }),
            unacknowledged: self.unacknowledged,
            members: self.members,
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for WatchedGroup {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let line = Line::deserialize(deserializer)?;
        let wrong = |what: String| serde::de::Error::custom(what);
        let group = line
            .group
            .parse()
            .map_err(|error| wrong(format!("the group {:?}: {error}", line.group)))?;
        let at = line
            .at
            .parse()
            .map_err(|error| wrong(format!("the time {:?} {error}", line.at)))?;
        let counted = line
            .received
            .map(|received| (received.into(), line.duplicates.unwrap_or_default()));
        Ok(Self {
            group,
            state: line.state,
            at,
            counted,
            per_second: line.per_second.map(BySeverity::into_array),
            lag: line.lag,
            unacknowledged: line.unacknowledged,
            members: line.members,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::time::Duration;

    use async_trait::async_trait;
    use serde_json::{Value, json};
    use tokio::time::advance;
    use warren_domain::ports::Unhealthy;

    use super::*;
    use crate::flow::{Counting, Silent};
    use crate::tally::watched_table;

    #[derive(Debug)]
    struct Queues(Result<Vec<Option<GroupQueue>>, Unhealthy>, AtomicU32);

    #[async_trait]
    impl GroupQueues for Queues {
        async fn look(&self, _: &[GroupName]) -> Result<Vec<Option<GroupQueue>>, Unhealthy> {
            self.1.fetch_add(1, Ordering::Relaxed);
            self.0.clone()
        }
    }

    /// Members on two machines, who count ten messages a second each.
    #[derive(Debug)]
    struct Members(Instant);

    #[async_trait]
    impl CounterSource for Members {
        async fn counters(&self) -> Arc<Counters> {
            let page = |book: u64| {
                let counted = 10 * self.0.elapsed().as_secs();
                Page::parse(&format!(
                    "warren_group_messages_total{{group=\"error\",severity=\"error\"}} {book}\n\
                     warren_group_consumed_messages_total{{group=\"error\",severity=\"error\"}} {counted}\n\
                     warren_group_duplicates_total{{group=\"error\"}} 1\n\
                     warren_group_unacknowledged_packets{{group=\"error\"}} 2\n\
                     warren_group_oldest_seconds{{group=\"error\"}} 2.04\n"
                ))
            };
            let counting = |(program, book): (&str, u64)| Counting {
                program: program.to_owned(),
                page: page(book),
            };
            let silent = Silent {
                program: "c".to_owned(),
                reason: "c does not answer".to_owned(),
            };
            Arc::new(Counters {
                at: Instant::now(),
                counting: [("a", 100), ("b", 70)].map(counting).into(),
                silent: vec![silent],
            })
        }
    }

    fn watch(queues: Result<Vec<Option<GroupQueue>>, Unhealthy>) -> GroupWatch {
        let groups = ["error", "all", "critical"].map(|name| name.parse().unwrap());
        let members = Arc::new(Members(Instant::now()));
        GroupWatch::new(
            groups.into(),
            Arc::new(Queues(queues, AtomicU32::new(0))),
            members,
        )
    }

    #[tokio::test(start_paused = true)]
    async fn many_who_ask_at_once_cost_one_question() {
        let queues = Arc::new(Queues(Ok(vec![None]), AtomicU32::new(0)));
        let members = Arc::new(Members(Instant::now()));
        let watch = GroupWatch::new(vec!["all".parse().unwrap()], queues.clone(), members);
        for asked in 1..=3 {
            for _ in 0..20 {
                watch.report().await;
            }
            assert_eq!(queues.1.load(Ordering::Relaxed), asked);
            advance(FRESH).await;
        }
    }

    async fn said(watch: &GroupWatch) -> Value {
        serde_json::to_value(watch.report().await).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_told_and_the_rest_is_unknown_and_never_nothing() {
        let queue = |packets, members| Some(GroupQueue { packets, members });
        let watch = watch(Ok(vec![queue(3, 2), queue(0, 0), None]));
        said(&watch).await;
        advance(Duration::from_secs(2)).await;
        let mut report = said(&watch).await;
        let read: WatchReport = serde_json::from_value(report.clone()).unwrap();
        assert_eq!(
            serde_json::to_value(&read).unwrap(),
            report,
            "it reads back equal"
        );
        let table = watched_table(&read.groups);
        assert!(
            table.contains("consuming, 1 duplicate, 3 packets wait, oldest 2 s, 4 packets unacknowledged"),
            "{table}"
        );
        assert!(table.contains("absent") && table.contains('–'), "{table}");
        for group in report["groups"].as_array_mut().unwrap() {
            assert!(group.as_object_mut().unwrap().remove("at").is_some());
        }
        let counts = |n: Value| {
            let none = if n.is_f64() { json!(0.0) } else { json!(0) };
            json!({"debug": none, "info": none, "warning": none, "error": n, "critical": none})
        };
        let unknown = json!({
            "received": null, "total": null, "duplicates": null, "per_second": null, "last_seen": null, "members": 0,
            "unacknowledged": null,
        });
        let group = |known: Value| {
            let mut group = unknown.clone();
            group
                .as_object_mut()
                .unwrap()
                .extend(known.as_object().unwrap().clone());
            group
        };
        assert_eq!(
            report,
            json!({
                "groups": [
                    group(json!({
                        "group": "error", "state": "consuming", "received": counts(json!(100)), "total": 100,
                        "duplicates": 1, "per_second": counts(json!(20.0)), "members": 2,
                        "lag": {"packets": 3, "messages": null, "oldest_seconds": 2.0},
                        "unacknowledged": {"packets": 4, "messages": null},
                    })),
                    group(json!({
                        "group": "all", "state": "unattended",
                        "lag": {"packets": 0, "messages": null, "oldest_seconds": 0.0},
                        "unacknowledged": {"packets": 0, "messages": null},
                    })),
                    group(json!({"group": "critical", "state": "absent", "lag": null})),
                ],
                "missing": ["c does not answer; what it has counted for groups is left out"],
            })
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_members_hold_is_unknown_while_one_of_them_is_not_heard() {
        let queue = |members| Some(GroupQueue { packets: 3, members });
        let watch = watch(Ok(vec![queue(3), queue(1), None]));
        let report = said(&watch).await;
        for (place, members) in [(0, 3), (1, 1)] {
            let group = &report["groups"][place];
            assert_eq!(
                (&group["unacknowledged"], &group["members"]),
                (&Value::Null, &json!(members))
            );
        }
        let missing = report["missing"][1].as_str().unwrap();
        assert!(
            missing.contains("tell it: error (2 of 3), all (0 of 1);"),
            "{missing}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_is_away_leaves_what_members_say() {
        let watch = watch(Err(Unhealthy("no connection".to_owned())));
        let report = said(&watch).await;
        let error = &report["groups"][0];
        assert_eq!(
            (&error["state"], &error["total"]),
            (&json!("unknown"), &json!(100))
        );
        for unknown in ["lag", "members", "unacknowledged"] {
            assert_eq!(error[unknown], Value::Null, "{unknown}");
        }
        assert!(report["missing"][0].as_str().unwrap().contains("no connection"));
    }
}
