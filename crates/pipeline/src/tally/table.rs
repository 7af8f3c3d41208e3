//! Reports as people read them.

use warren_domain::ports::Unacknowledged;
use warren_domain::{Severity, SeverityCounts, Timestamp};

use super::report::{GroupReport, ReportedLag};
use super::watch::WatchedGroup;

/// The widest line of a table, in characters.
const MAX_COLUMNS: usize = 100;
/// The longest name of a group that is shown whole.
const NAME_COLUMNS: usize = 20;

/// Writes reports as one aligned table of lines at most 100 characters wide.
///
/// Each group has a row for each severity and one for the total, and below them a line that says what it is doing.
pub fn table(reports: &[GroupReport]) -> String {
    table_of(reports.iter().map(Shown::from))
}

/// Writes what is known of groups that count elsewhere in the same way, with a dash where something is not known.
pub fn watched_table(groups: &[WatchedGroup]) -> String {
    table_of(groups.iter().map(Shown::from))
}

/// What a table shows of a group.
struct Shown<'g> {
    group: &'g str,
    state: &'static str,
    at: Timestamp,
    received: Option<SeverityCounts>,
    duplicates: u64,
    per_second: Option<[f64; 5]>,
    last_seen: [Option<Timestamp>; 5],
    lag: Option<ReportedLag>,
    unacknowledged: Option<Unacknowledged>,
}

impl<'g> From<&'g GroupReport> for Shown<'g> {
    fn from(report: &'g GroupReport) -> Self {
        Self {
            group: report.group.as_str(),
            state: report.state.as_str(),
            at: report.at,
            received: Some(report.received),
            duplicates: report.duplicates,
            per_second: Some(report.per_second),
            last_seen: report.last_seen,
            lag: report.lag,
            unacknowledged: report.unacknowledged,
        }
    }
}

impl<'g> From<&'g WatchedGroup> for Shown<'g> {
    fn from(group: &'g WatchedGroup) -> Self {
        Self {
            group: group.group.as_str(),
            state: group.state.as_str(),
            at: group.at,
            received: group.counted.map(|(counts, _)| counts),
            duplicates: group.counted.map_or(0, |(_, duplicates)| duplicates),
            per_second: group.per_second,
            last_seen: [None; 5],
            lag: group.lag,
            unacknowledged: group.unacknowledged,
        }
    }
}

fn table_of<'g>(groups: impl Iterator<Item = Shown<'g>>) -> String {
    let mut rows = vec![Cells {
        group: "GROUP".to_owned(),
        severity: "SEVERITY",
        received: "RECEIVED".to_owned(),
        per_second: "PER SECOND".to_owned(),
        last_seen: "LAST SEEN".to_owned(),
    }];
    let mut status = Vec::new();
    for group in groups {
        rows.extend(cells(&group));
        status.push((rows.len(), status_of(&group)));
    }
    let width = |of: fn(&Cells) -> &str| {
        let widths = rows.iter().map(|row| of(row).chars().count());
        widths.max().unwrap_or_default()
    };
    let (group, received, per_second) = (
        width(|row| &row.group),
        width(|row| &row.received),
        width(|row| &row.per_second),
    );
    let mut lines = Vec::with_capacity(rows.len() + status.len());
    let mut status = status.into_iter().peekable();
    for (n, row) in rows.iter().enumerate() {
        let (severity, last_seen) = (row.severity, &row.last_seen);
        lines.push(format!(
            "{:group$}  {severity:8}  {:>received$}  {:>per_second$}  {last_seen}",
            row.group, row.received, row.per_second
        ));
        if let Some((_, words)) = status.next_if(|(after, _)| *after == n + 1) {
            lines.push(format!("{:group$}  {words}", ""));
        }
    }
    let mut text = String::new();
    for line in lines {
        text.push_str(&clipped(line.trim_end(), MAX_COLUMNS));
        text.push('\n');
    }
    text
}

struct Cells {
    group: String,
    severity: &'static str,
    received: String,
    per_second: String,
    last_seen: String,
}

fn cells(report: &Shown<'_>) -> impl Iterator<Item = Cells> + use<> {
    let unknown = || "–".to_owned();
    let received = |of: &dyn Fn(SeverityCounts) -> u64| {
        report
            .received
            .map_or_else(unknown, |counts| thousands(of(counts)))
    };
    let per_second =
        |of: &dyn Fn([f64; 5]) -> f64| report.per_second.map_or_else(unknown, |rates| rate(of(rates)));
    let severities = Severity::ALL.map(|severity| {
        let place = severity.index();
        let seen = report.last_seen[place];
        Cells {
            group: String::new(),
            severity: severity.as_str(),
            received: received(&|counts| counts.get(severity)),
            per_second: per_second(&|rates| rates[place]),
            last_seen: seen.map_or_else(unknown, |seen| ago(seen, report.at)),
        }
    });
    let total = Cells {
        group: String::new(),
        severity: "total",
        received: received(&|counts| counts.total()),
        per_second: per_second(&|rates| rates.iter().sum()),
        last_seen: String::new(),
    };
    let mut name = Some(clipped(report.group, NAME_COLUMNS));
    severities.into_iter().chain([total]).map(move |cells| Cells {
        group: name.take().unwrap_or_default(),
        ..cells
    })
}

/// Says what a group is doing: its state, what came twice, what waits, what its members hold.
fn status_of(report: &Shown<'_>) -> String {
    let mut words = vec![report.state.to_owned()];
    if report.duplicates > 0 {
        words.push(counted(report.duplicates, "duplicate"));
    }
    match report.lag {
        None => {}
        Some(ReportedLag { packets: 0, .. }) => words.push("nothing waits".to_owned()),
        Some(lag) => {
            let mut waiting = counted(lag.packets, "packet");
            if let Some(messages) = lag.messages {
                waiting = format!("{waiting} with {}", counted(messages, "message"));
            }
            let verb = if lag.packets == 1 { "waits" } else { "wait" };
            words.push(format!("{waiting} {verb}"));
            if let Some(seconds) = lag.oldest_seconds {
                words.push(format!("oldest {}", span(seconds)));
            }
        }
    }
    match report.unacknowledged {
        None | Some(Unacknowledged { packets: 0, .. }) => {}
        Some(held) => words.push(format!("{} unacknowledged", counted(held.packets, "packet"))),
    }
    words.join(", ")
}

fn counted(n: u64, what: &str) -> String {
    let plural = if n == 1 { "" } else { "s" };
    format!("{} {what}{plural}", thousands(n))
}

/// Writes a number with a comma between each three digits.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn rate(per_second: f64) -> String {
    let tenths = (per_second * 10.0).round() as u64;
    format!("{}.{}", thousands(tenths / 10), tenths % 10)
}

fn ago(moment: Timestamp, now: Timestamp) -> String {
    let micros = now.unix_micros().saturating_sub(moment.unix_micros());
    if micros < 1_000_000 {
        return "now".to_owned();
    }
    format!("{} ago", span(micros as f64 / 1e6))
}

fn span(seconds: f64) -> String {
    const UNITS: [(f64, &str); 3] = [(86_400.0, "days"), (3_600.0, "h"), (60.0, "min")];
    match UNITS.iter().find(|(length, _)| seconds >= 2.0 * length) {
        Some((length, unit)) => format!("{} {unit}", (seconds / length) as u64),
        None => format!("{} s", seconds as u64),
    }
}

/// Cuts a line at `columns` characters; what is cut shows.
fn clipped(line: &str, columns: usize) -> String {
    if line.chars().count() <= columns {
        return line.to_owned();
    }
    line.chars()
        .take(columns.saturating_sub(1))
        .chain(['…'])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tally::GroupState;
    use crate::tally::report::tests::report;

    #[test]
    fn several_groups_stand_in_one_table() {
        let mut all = report();
        all.group = "debug-info".parse().unwrap();
        all.state = GroupState::Connecting;
        all.received.add(Severity::Debug, 1_234_567);
        all.per_second[0] = 20_345.67;
        all.last_seen[0] = Some("2026-11-25T12:00:00Z".parse().unwrap());
        all.last_seen[1] = Some("2026-11-24T11:00:00Z".parse().unwrap());
        all.last_seen[3] = Some("2026-11-25T11:57:00Z".parse().unwrap());
        all.duplicates = 61_728;
        all.unacknowledged = None;
        all.lag = Some(ReportedLag {
            packets: 2_469,
            messages: Some(1_234_500),
            oldest_seconds: Some(119.9),
        });
        assert_eq!(
            table(&[all, report()]),
            "\
GROUP       SEVERITY   RECEIVED  PER SECOND  LAST SEEN
debug-info  debug     1,234,567    20,345.7  now
            info              0         0.0  25 h ago
            warning           0         0.0  –
            error            12         1.3  3 min ago
            critical          0         0.0  –
            total     1,234,579    20,346.9
            connecting, 61,728 duplicates, 2,469 packets with 1,234,500 messages wait, oldest 119 s
error       debug             0         0.0  –
            info              0         0.0  –
            warning           0         0.0  –
            error            12         1.3  1 s ago
            critical          0         0.0  –
            total            12         1.3
            consuming, 1 duplicate, 3 packets wait, oldest 0 s, 2 packets unacknowledged
"
        );
    }

    #[test]
    fn no_line_is_wider_than_a_hundred_characters() {
        let mut wide = report();
        wide.group = "g".repeat(64).parse().unwrap();
        wide.received.add(Severity::Info, u64::MAX / 2);
        wide.duplicates = u64::MAX;
        wide.per_second = [1e12; 5];
        wide.lag = Some(ReportedLag {
            packets: u64::MAX,
            messages: Some(u64::MAX),
            oldest_seconds: Some(1e9),
        });
        let text = table(&[wide]);
        let widths: Vec<_> = text.lines().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width <= 100), "{widths:?}\n{text}");
        assert!(text.contains("ggggggggggggggggggg…  debug"), "{text}");
        assert!(text.contains('…'));
    }

    #[test]
    fn a_group_that_has_nothing_says_so() {
        let mut idle = report();
        idle.duplicates = 0;
        idle.state = GroupState::Stopped;
        idle.lag = Some(ReportedLag::default());
        idle.unacknowledged = Some(Unacknowledged::default());
        assert!(table(&[idle.clone()]).ends_with("       stopped, nothing waits\n"));
        idle.lag = None;
        assert!(table(&[idle]).ends_with("       stopped\n"));
        assert_eq!(table(&[]), "GROUP  SEVERITY  RECEIVED  PER SECOND  LAST SEEN\n");
    }

    #[test]
    fn numbers_are_written_in_threes() {
        for (n, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(thousands(n), text);
        }
        assert_eq!(thousands(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!(rate(0.04), "0.0");
    }
}
