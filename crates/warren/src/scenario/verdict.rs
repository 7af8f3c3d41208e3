//! What the consumers printed beside what the file says.

use std::fmt::Write as _;
use std::time::Duration;

use anstyle::{AnsiColor, Style};
use serde_json::{Value, json};
use warren_domain::{Severity, SeverityCounts};

use super::{GROUPS, GroupCounts};
use crate::command::grouped;

const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const FAINT: Style = Style::new().dimmed();

/// How a scenario went.
#[derive(Debug)]
pub(crate) struct Verdict {
    pub(crate) scenario: String,
    /// In one process, not on RabbitMQ.
    pub(crate) embedded: bool,
    /// How many messages were sent, copies included.
    pub(crate) sent: u64,
    pub(crate) took: Duration,
    pub(crate) expected: GroupCounts,
    pub(crate) printed: GroupCounts,
    /// How many messages came more than once and were not counted again, by group.
    pub(crate) duplicates: [u64; 4],
}

/// One count that is not as expected.
struct Difference {
    group: &'static str,
    severity: Severity,
    expected: u64,
    printed: u64,
}

impl Verdict {
    pub(crate) fn passed(&self) -> bool {
        self.expected == self.printed
    }

    /// Tells whether the counts of a group differ; `None` asks for any group.
    pub(crate) fn concerns(&self, group: Option<usize>) -> bool {
        match group {
            Some(group) => self.expected[group] != self.printed[group],
            None => !self.passed(),
        }
    }

    /// Returns it for people: one line when it passed, and with `verbose` or a difference the counts side by side.
    pub(crate) fn text(&self, verbose: bool, colours: bool) -> String {
        let paint = |style: Style| if colours { style } else { Style::new() };
        let (style, word) = match self.passed() {
            true => (paint(GOOD), "passed"),
            false => (paint(BAD), "FAILED"),
        };
        let mut text = format!(
            "{style}{word}{style:#}  {}  {} messages {} in {:.1} s",
            self.scenario,
            grouped(self.sent),
            if self.embedded {
                "in one process"
            } else {
                "on RabbitMQ"
            },
            self.took.as_secs_f64()
        );
        let differing = self.differences().len();
        if differing > 0 {
            let all = GROUPS.len() * Severity::ALL.len();
            text.push_str(&format!(": {differing} of {all} counts differ"));
        }
        text.push('\n');
        if verbose || differing > 0 {
            self.table(&mut text, paint);
        }
        text
    }

    /// Every count side by side; the differing ones marked, so that they are found without colours too.
    fn table(&self, text: &mut String, paint: impl Fn(Style) -> Style) {
        let columns = ["group", "severity", "expected", "printed", "difference"];
        let mut line = |cells: [&str; 5], style: Style| {
            let [group, severity, expected, printed, difference] = cells;
            let row = format!("{group:<10}  {severity:<8}  {expected:>10}  {printed:>10}  {difference}");
            // Writing into memory cannot fail.
            writeln!(text, "  {style}{}{style:#}", row.trim_end()).ok();
        };
        line(columns, paint(FAINT));
        for (index, group) in GROUPS.into_iter().enumerate() {
            let (expected, printed) = (&self.expected[index], &self.printed[index]);
            for (row, (severity, wanted)) in expected.iter().enumerate() {
                let got = printed.get(severity);
                let (style, difference) = match signed(wanted, got) {
                    None if wanted == 0 => (paint(FAINT), String::new()),
                    None => (Style::new(), String::new()),
                    Some(difference) => (paint(BAD), difference),
                };
                line(
                    [
                        if row == 0 { group } else { "" },
                        severity.as_str(),
                        &grouped(wanted),
                        &grouped(got),
                        &difference,
                    ],
                    style,
                );
            }
            if self.duplicates[index] > 0 {
                let again = format!(
                    "({} came again and were not counted twice)",
                    grouped(self.duplicates[index])
                );
                line(["", &again, "", "", ""], paint(FAINT));
            }
        }
    }

    /// Returns it for programs.
    pub(crate) fn to_json(&self) -> Value {
        let of = |counts: &SeverityCounts| {
            counts
                .iter()
                .map(|(severity, count)| (severity.to_string(), json!(count)))
                .collect::<serde_json::Map<_, _>>()
        };
        let groups: serde_json::Map<_, _> = (0..)
            .zip(GROUPS)
            .map(|(index, group): (usize, _)| {
                let group_json = json!({
                    "expected": of(&self.expected[index]),
                    "printed": of(&self.printed[index]),
                    "duplicates": self.duplicates[index],
                });
                (group.to_owned(), group_json)
            })
            .collect();
        let differences: Vec<_> = self
            .differences()
            .into_iter()
            .map(|found| {
                json!({
                    "group": found.group,
                    "severity": found.severity,
                    "expected": found.expected,
                    "printed": found.printed,
                })
            })
            .collect();
        json!({
            "scenario": self.scenario,
            "on": if self.embedded { "embedded" } else { "rabbitmq" },
            "passed": self.passed(),
            "sent": self.sent,
            "seconds": (self.took.as_secs_f64() * 1_000.0).round() / 1_000.0,
            "groups": groups,
            "differences": differences,
        })
    }

    fn differences(&self) -> Vec<Difference> {
        let groups = GROUPS.into_iter().zip(self.expected.iter().zip(&self.printed));
        groups
            .flat_map(|(group, (expected, printed))| {
                expected.iter().map(move |(severity, wanted)| Difference {
                    group,
                    severity,
                    expected: wanted,
                    printed: printed.get(severity),
                })
            })
            .filter(|found| found.expected != found.printed)
            .collect()
    }
}

fn signed(expected: u64, printed: u64) -> Option<String> {
    match printed.checked_sub(expected) {
        Some(0) => None,
        Some(more) => Some(format!("+{}", grouped(more))),
        None => Some(format!("-{}", grouped(expected - printed))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict() -> Verdict {
        let mut counts = GroupCounts::default();
        counts[0].add(Severity::Info, 40_000);
        counts[0].add(Severity::Error, 12);
        counts[1].add(Severity::Info, 40_000);
        counts[3].add(Severity::Error, 12);
        Verdict {
            scenario: "burst".to_owned(),
            embedded: false,
            sent: 40_012,
            took: Duration::from_millis(2_340),
            expected: counts,
            printed: counts,
            duplicates: [0; 4],
        }
    }

    #[test]
    fn what_is_as_expected_takes_one_line() {
        assert_eq!(
            verdict().text(false, false),
            "passed  burst  40,012 messages on RabbitMQ in 2.3 s\n"
        );
        assert_eq!(verdict().to_json()["passed"], true);
    }

    #[test]
    fn a_difference_stands_beside_what_was_expected() {
        let mut verdict = verdict();
        verdict.printed[0].add(Severity::Critical, 1);
        verdict.printed[1] = [Severity::Info; 1].into_iter().collect();
        verdict.duplicates[1] = 7;
        let text = verdict.text(false, false);
        assert!(
            text.starts_with(
                "FAILED  burst  40,012 messages on RabbitMQ in 2.3 s: 2 of 20 counts differ\n\
                 \x20 group       severity    expected     printed  difference\n\
                 \x20 all         debug              0           0\n\
                 \x20             info          40,000      40,000\n\
                 \x20             warning            0           0\n\
                 \x20             error             12          12\n\
                 \x20             critical           0           1  +1\n\
                 \x20 debug-info  debug              0           0\n\
                 \x20             info          40,000           1  -39,999\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("(7 came again and were not counted twice)"),
            "{text}"
        );
        assert!(!text.contains('\u{1b}'));
        assert!(verdict.text(false, true).contains('\u{1b}'));
        let json = verdict.to_json();
        assert_eq!(
            json["differences"][1],
            json!({"group": "debug-info", "severity": "info", "expected": 40_000, "printed": 1})
        );
    }
}
