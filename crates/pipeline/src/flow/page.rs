//! What a program counts, as its `/metrics` says it.

use std::collections::HashMap;

use warren_domain::{Severity, SeverityCounts};

/// The numbers of one program at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    series: HashMap<String, Vec<(Labels, f64)>>,
}

type Labels = Vec<(String, String)>;

impl Page {
    /// Reads the Prometheus text format; lines that are none of it, or whose value is not finite, are left out.
    pub fn parse(text: &str) -> Self {
        let mut page = Self::default();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        for (name, labels, value) in lines.filter_map(series) {
            page.series.entry(name).or_default().push((labels, value));
        }
        page
    }

    /// Adds up the series of a name that have all of these labels; `None` when there is none of the name.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        let series = self.series.get(name)?;
        let chosen = series
            .iter()
            .filter(|(known, _)| labels.iter().all(|label| has(known, label)));
        let counts = chosen.map(|(_, value)| count(*value));
        Some(counts.fold(0, u64::saturating_add))
    }

    /// Returns the count of a series that has all of these labels, if there is one.
    pub fn count(&self, name: &str, labels: &[(&str, &str)]) -> Option<u64> {
        self.value(name, labels).map(count)
    }

    /// Returns the value of a series that has all of these labels, if there is one.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        let series = self.series.get(name)?.iter();
        let mut chosen = series.filter(|(known, _)| labels.iter().all(|label| has(known, label)));
        chosen.next().map(|(_, value)| *value)
    }

    /// Adds up the series of a name for each severity; what was never counted is 0.
    pub fn by_severity(&self, name: &str, labels: &[(&str, &str)]) -> SeverityCounts {
        let mut counts = SeverityCounts::default();
        for severity in Severity::ALL {
            let labels = [labels, &[("severity", severity.as_str())]].concat();
            counts.add(severity, self.sum(name, &labels).unwrap_or(0));
        }
        counts
    }

    /// Returns the name of the process, which is the same at each address that it has.
    pub fn process(&self) -> Option<&str> {
        let (labels, _) = self.series.get("warren_process_info")?.first()?;
        let (_, process) = labels.iter().find(|(name, _)| name == "id")?;
        Some(process)
    }

    /// Returns when the program was started, in seconds since 1970.
    pub fn started(&self) -> Option<f64> {
        let series = self.series.get("process_start_time_seconds")?;
        series.first().map(|(_, value)| *value)
    }
}

/// The largest count that is told: beyond it not every number is one of 64 bits with a point, and sums of these have room.
const MOST: f64 = (1_u64 << 53) as f64;

fn count(value: f64) -> u64 {
    value.clamp(0.0, MOST).round() as u64
}

fn has(labels: &Labels, (name, value): &(&str, &str)) -> bool {
    labels.iter().any(|(known, is)| known == name && is == value)
}

fn series(line: &str) -> Option<(String, Labels, f64)> {
    let (head, value) = line.rsplit_once(' ')?;
    let value = value.parse().ok().filter(|value: &f64| value.is_finite())?;
    let Some((name, labels)) = head.split_once('{') else {
        return Some((head.to_owned(), Vec::new(), value));
    };
    Some((name.to_owned(), parse_labels(labels.strip_suffix('}')?)?, value))
}

/// Reads `a="b",c="d"`; a value may hold commas, braces, and quotes after a backslash.
fn parse_labels(mut text: &str) -> Option<Labels> {
    let mut labels = Vec::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"")?;
        let mut value = String::new();
        let mut chars = rest.char_indices();
        let end = loop {
            match chars.next()? {
                (at, '"') => break at,
                (_, '\\') => match chars.next()?.1 {
                    'n' => value.push('\n'),
                    escaped => value.push(escaped),
                },
                (_, other) => value.push(other),
            }
        };
        labels.push((name.to_owned(), value));
        text = rest[end + 1..].trim_start_matches(',');
    }
    Some(labels)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_read_by_name_and_labels() {
        let page = Page::parse(
            "# HELP a_total Help with {braces} 7\na_total{severity=\"info\",delivery=\"first\"} 3\n\
             a_total{delivery=\"again\",severity=\"info\"} 4\na_total_more 100\n\nb 1.5\n\
             d NaN\nd{e=\"+Inf\"} +Inf\nhuge{a=\"1\"} 1e300\nhuge{a=\"2\"} 1e300\n\
             c{x=\"a \\\"quoted\\\", {odd} one\",severity=\"error\"} 2\nprocess_start_time_seconds 1790000000.25\n\
             warren_process_info{id=\"7f\"} 1\n",
        );
        assert_eq!(page.process(), Some("7f"));
        assert_eq!(Page::default().process(), None);
        assert_eq!(page.sum("a_total", &[]), Some(7));
        assert_eq!(page.sum("a_total", &[("delivery", "first")]), Some(3));
        assert_eq!(page.sum("a_total", &[("delivery", "never")]), Some(0));
        assert_eq!(page.sum("d", &[]), None);
        assert_eq!(page.sum("huge", &[]), Some(2 << 53));
        assert_eq!(page.count("b", &[]), Some(2));
        assert_eq!(page.value("a_total", &[("delivery", "again")]), Some(4.0));
        assert_eq!(page.value("a_total", &[("delivery", "never")]), None);
        assert_eq!(page.by_severity("a_total", &[]).get(Severity::Info), 7);
        assert_eq!(page.by_severity("c", &[]).get(Severity::Error), 2);
        assert_eq!(page.started(), Some(1_790_000_000.25));
    }
}
