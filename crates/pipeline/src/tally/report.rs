//! What a consumer group has counted at a moment.

use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};
use warren_domain::ports::{GroupName, Tally, Unacknowledged};
use warren_domain::{BySeverity, SeverityCounts, Timestamp};

/// What a consumer group has counted, how fast, and how far behind it is, at one moment.
///
/// Written and read as one line of JSON, whose members `docs/consumers.md` describes: programs rely on it.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupReport {
    /// Whose it is.
    pub group: GroupName,
    /// What the process that reports is doing.
    pub state: GroupState,
    /// When it was made.
    pub at: Timestamp,
    /// The messages counted by all members that share the book, each once.
    pub received: SeverityCounts,
    /// The messages that came again and were not counted again.
    pub duplicates: u64,
    /// Messages counted in a second, lowest severity first; a mean over the last seconds.
    pub per_second: [f64; 5],
    /// When a message of each severity was last counted, lowest severity first.
    pub last_seen: [Option<Timestamp>; 5],
    /// What waits for the group; `None` while it is not known.
    pub lag: Option<ReportedLag>,
    /// What was delivered to this process for the group and is not acknowledged yet; `None` while it is not known.
    pub unacknowledged: Option<Unacknowledged>,
}

/// What a process that counts for a group is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupState {
    /// Not consuming yet, or not at the moment.
    Connecting,
    /// In the group: what is published from now on is counted.
    Consuming,
    /// It has ended.
    Stopped,
}

impl GroupState {
    /// Returns the word for it in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Consuming => "consuming",
            Self::Stopped => "stopped",
        }
    }
}

/// What waits for a group, not counting what its members hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReportedLag {
    /// The packets that are ready to be delivered.
    pub packets: u64,
    /// The messages in them, where that is known.
    pub messages: Option<u64>,
    /// How old the oldest of them is, where that is known; 0 when nothing waits.
    pub oldest_seconds: Option<f64>,
}

/// A text that is no report.
#[derive(Debug, thiserror::Error)]
#[error("not a report of a consumer group")]
pub struct InvalidReport(#[source] serde_json::Error);

impl GroupReport {
    /// Makes the report of a group of which nothing is known yet.
    pub fn unknown(group: GroupName, at: Timestamp) -> Self {
        Self {
            group,
            state: GroupState::Connecting,
            at,
            received: SeverityCounts::default(),
            duplicates: 0,
            per_second: [0.0; 5],
            last_seen: [None; 5],
            lag: None,
            unacknowledged: None,
        }
    }

    /// Takes what the group's book says, unless it is older than what is there.
    pub(super) fn take(&mut self, tally: &Tally) {
        let ahead = |tally: &Tally| tally.counts.total() + tally.duplicates.total();
        if ahead(tally) >= self.received.total() + self.duplicates {
            self.received = tally.counts;
            self.duplicates = tally.duplicates.total();
            self.last_seen = tally.last_counted;
        }
    }

    /// Returns the report as one line of JSON, without the line's end.
    pub fn to_json(&self) -> String {
        // Keys are strings and the numbers are finite, so writing cannot fail.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl FromStr for GroupReport {
    type Err = InvalidReport;

    fn from_str(text: &str) -> Result<Self, InvalidReport> {
        serde_json::from_str(text).map_err(InvalidReport)
    }
}

impl Serialize for GroupReport {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Line::from(self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for GroupReport {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Line::deserialize(deserializer)?
            .into_report()
            .map_err(serde::de::Error::custom)
    }
}

/// The members of the JSON object, in the order in which they are written.
#[derive(Serialize, Deserialize)]
struct Line {
    group: String,
    state: GroupState,
    at: String,
    received: BySeverity<u64>,
    total: u64,
    duplicates: u64,
    per_second: BySeverity<f64>,
    last_seen: BySeverity<Option<String>>,
    lag: Option<ReportedLag>,
    unacknowledged: Option<Unacknowledged>,
}

/// One digit is more than a mean over some seconds has to say.
pub(crate) fn tenths(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

impl From<&GroupReport> for Line {
    fn from(report: &GroupReport) -> Self {
        Self {
            group: report.group.to_string(),
            state: report.state,
            at: report.at.to_string(),
            received: report.received.into(),
            total: report.received.total(),
            duplicates: report.duplicates,
            per_second: BySeverity::new(report.per_second.map(tenths)),
            last_seen: BySeverity::new(report.last_seen.map(|seen| seen.map(|seen| seen.to_string()))),
            lag: report.lag.map(|lag| ReportedLag {
                oldest_seconds: lag.oldest_seconds.map(tenths),
                ..lag
            }),
            unacknowledged: report.unacknowledged,
        }
    }
}

impl Line {
    fn into_report(self) -> Result<GroupReport, String> {
        let moment = |text: &str| {
            text.parse::<Timestamp>()
                .map_err(|error| format!("the time {text:?} {error}"))
        };
        let mut last_seen = [None; 5];
        for (seen, text) in last_seen.iter_mut().zip(self.last_seen.into_array()) {
            *seen = text.map(|text| moment(&text)).transpose()?;
        }
        Ok(GroupReport {
            group: self
                .group
                .parse()
                .map_err(|error| format!("the group {:?}: {error}", self.group))?,
            state: self.state,
            at: moment(&self.at)?,
            received: self.received.into(),
            duplicates: self.duplicates,
            per_second: self.per_second.into_array(),
            last_seen,
            lag: self.lag,
            unacknowledged: self.unacknowledged,
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use warren_domain::Severity;

    use super::*;

    pub(crate) fn report() -> GroupReport {
        let at = "2026-11-25T12:00:00Z".parse().unwrap();
        let mut report = GroupReport::unknown("error".parse().unwrap(), at);
        report.state = GroupState::Consuming;
        report.received.add(Severity::Error, 12);
        report.duplicates = 1;
        report.per_second[Severity::Error.index()] = 1.26;
        report.last_seen[Severity::Error.index()] = Some("2026-11-25T11:59:58.5Z".parse().unwrap());
        report.lag = Some(ReportedLag {
            packets: 3,
            messages: None,
            oldest_seconds: Some(0.25),
        });
        report.unacknowledged = Some(Unacknowledged {
            packets: 2,
            messages: None,
        });
        report
    }

    #[test]
    fn a_report_is_one_line_of_json_with_every_member_in_its_place() {
        let line = report().to_json();
        assert_eq!(
            line,
            concat!(
                r#"{"group":"error","state":"consuming","at":"2026-11-25T12:00:00.000000Z","#,
                r#""received":{"debug":0,"info":0,"warning":0,"error":12,"critical":0},"total":12,"duplicates":1,"#,
                r#""per_second":{"debug":0.0,"info":0.0,"warning":0.0,"error":1.3,"critical":0.0},"#,
                r#""last_seen":{"debug":null,"info":null,"warning":null,"#,
                r#""error":"2026-11-25T11:59:58.500000Z","critical":null},"#,
                r#""lag":{"packets":3,"messages":null,"oldest_seconds":0.3},"#,
                r#""unacknowledged":{"packets":2,"messages":null}}"#
            )
        );
    }

    #[test]
    fn what_is_written_reads_back_equal_but_for_the_digits_cut_off() {
        let line = report().to_json();
        let read: GroupReport = line.parse().unwrap();
        assert_eq!(read.to_json(), line);
        assert_eq!(
            (read.received, read.last_seen),
            (report().received, report().last_seen)
        );
    }

    #[test]
    fn a_line_that_is_no_report_is_refused() {
        let line = report().to_json();
        for broken in [
            line.replace("\"error\",\"state\"", "\"Error!\",\"state\""),
            line.replace("consuming", "sleeping"),
            line.replace("2026-11-25T12", "yesterday"),
            line.replace("\"total\":12,", ""),
            String::new(),
        ] {
            assert!(broken.parse::<GroupReport>().is_err(), "{broken}");
        }
    }

    #[test]
    fn an_older_tally_does_not_take_the_place_of_a_newer_one() {
        let mut report = report();
        report.take(&Tally::default());
        assert_eq!(report.received.total(), 12);
        let newer = Tally {
            counts: [Severity::Error; 13].into_iter().collect(),
            ..Tally::default()
        };
        report.take(&newer);
        assert_eq!((report.received.total(), report.duplicates), (13, 0));
    }
}
