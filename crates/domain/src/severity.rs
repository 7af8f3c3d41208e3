//! How grave a message is; decides the exchange it goes to.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize, Serializer};

/// How grave a message is, from [`Severity::Debug`] up to [`Severity::Critical`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Of use while looking for a fault.
    Debug,
    /// The ordinary course of things.
    Info,
    /// Not wrong yet.
    Warning,
    /// Something failed.
    Error,
    /// Somebody has to act now.
    Critical,
}

impl Severity {
    /// Every severity, lowest first.
    pub const ALL: [Self; 5] = [
        Self::Debug,
        Self::Info,
        Self::Warning,
        Self::Error,
        Self::Critical,
    ];

    /// Returns the canonical lower-case name: the one in JSON, in exchange names and in metric labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Debug => "debug",
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
            Self::Critical => "critical",
        }
    }

    /// Returns the place in [`Severity::ALL`], 0 for debug.
    pub const fn index(self) -> usize {
        self as usize
    }

    /// Returns the OpenTelemetry severity number (5, 9, 13, 17 or 21), the form that databases keep.
    ///
    /// <https://opentelemetry.io/docs/specs/otel/logs/data-model/#field-severitynumber>
    pub const fn number(self) -> u8 {
        match self {
            Self::Debug => 5,
            Self::Info => 9,
            Self::Warning => 13,
            Self::Error => 17,
            Self::Critical => 21,
        }
    }

    /// Returns the severity whose band holds an OpenTelemetry number (1–24); trace (1–4) counts as debug.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1..=8 => Some(Self::Debug),
            9..=12 => Some(Self::Info),
            13..=16 => Some(Self::Warning),
            17..=20 => Some(Self::Error),
            21..=24 => Some(Self::Critical),
            _ => None,
        }
    }
}

/// A severity name nobody uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not one of debug, info, warning, error, critical, nor one of their aliases")]
pub struct UnknownSeverity;

impl FromStr for Severity {
    type Err = UnknownSeverity;

    /// Takes the canonical names and the aliases that loggers use, in any letter case.
    fn from_str(text: &str) -> Result<Self, UnknownSeverity> {
        const NAMES: [(Severity, &[&str]); 5] = [
            (
                Severity::Info,
                &["info", "information", "informational", "notice"],
            ),
            (
                Severity::Debug,
                &["debug", "dbg", "trace", "verbose", "fine", "silly"],
            ),
            (Severity::Warning, &["warning", "warn"]),
            (Severity::Error, &["error", "err", "severe"]),
            (
                Severity::Critical,
                &[
                    "critical",
                    "crit",
                    "fatal",
                    "alert",
                    "emergency",
                    "emerg",
                    "panic",
                ],
            ),
        ];
        NAMES
            .into_iter()
            .find(|(_, names)| names.iter().any(|name| name.eq_ignore_ascii_case(text)))
            .map(|(severity, _)| severity)
            .ok_or(UnknownSeverity)
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Severity {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// A set of severities: what a consumer group listens to.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct SeveritySet(u8);

impl SeveritySet {
    /// Every severity.
    pub const ALL: Self = Self(0b1_1111);

    /// Tells whether `severity` is in the set.
    pub const fn contains(self, severity: Severity) -> bool {
        self.0 & (1 << severity.index()) != 0
    }

    /// Tells whether nothing is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Lists what is in the set, lowest first.
    pub fn iter(self) -> impl Iterator<Item = Severity> {
        Severity::ALL
            .into_iter()
            .filter(move |severity| self.contains(*severity))
    }
}

impl FromIterator<Severity> for SeveritySet {
    fn from_iter<I: IntoIterator<Item = Severity>>(severities: I) -> Self {
        Self(
            severities
                .into_iter()
                .fold(0, |bits, severity| bits | 1 << severity.index()),
        )
    }
}

impl fmt::Debug for SeveritySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// What is wrong with a text that should name severities.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSeveritySet {
    /// No severity at all.
    #[error(
        "names no severity; write some of debug, info, warning, error, critical, such as error,critical or error+"
    )]
    Empty,
    /// A name nobody uses.
    #[error("{0:?} is not one of debug, info, warning, error, critical, nor one of their aliases")]
    Unknown(String),
}

impl FromStr for SeveritySet {
    type Err = InvalidSeveritySet;

    /// Reads names joined by commas; `error+` means error and everything graver, `all` every severity.
    fn from_str(text: &str) -> Result<Self, InvalidSeveritySet> {
        let mut chosen = Vec::new();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            if word.eq_ignore_ascii_case("all") {
                chosen.extend(Severity::ALL);
                continue;
            }
            let (name, and_graver) = match word.strip_suffix('+') {
                Some(name) => (name, true),
                None => (word, false),
            };
            let least: Severity = name
                .parse()
                .map_err(|_| InvalidSeveritySet::Unknown(name.to_owned()))?;
            chosen.push(least);
            if and_graver {
                chosen.extend(Severity::ALL.into_iter().filter(|severity| *severity > least));
            }
        }
        if chosen.is_empty() {
            return Err(InvalidSeveritySet::Empty);
        }
        Ok(chosen.into_iter().collect())
    }
}

impl fmt::Display for SeveritySet {
    /// Writes the names joined by commas, lowest first, as [`FromStr`] reads them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<_> = self.iter().map(Severity::as_str).collect();
        f.pad(&names.join(","))
    }
}

/// A number of messages for each severity.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SeverityCounts([u64; 5]);

impl SeverityCounts {
    /// Counts `n` more messages of `severity`.
    pub fn add(&mut self, severity: Severity, n: u64) {
        self.0[severity.index()] += n;
    }

    /// Returns the count of one severity.
    pub const fn get(&self, severity: Severity) -> u64 {
        self.0[severity.index()]
    }

    /// Returns the sum over all severities.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Returns the sum over the severities of a set.
    pub fn total_of(&self, severities: SeveritySet) -> u64 {
        severities.iter().map(|severity| self.get(severity)).sum()
    }

    /// Lists each severity with its count, zeros too, lowest severity first.
    pub fn iter(&self) -> impl Iterator<Item = (Severity, u64)> {
        Severity::ALL.into_iter().zip(self.0)
    }
}

impl std::ops::AddAssign for SeverityCounts {
    fn add_assign(&mut self, other: Self) {
        for (mine, theirs) in self.0.iter_mut().zip(other.0) {
            *mine += theirs;
        }
    }
}

impl FromIterator<Severity> for SeverityCounts {
    fn from_iter<I: IntoIterator<Item = Severity>>(severities: I) -> Self {
        let mut counts = Self::default();
        for severity in severities {
            counts.add(severity, 1);
        }
        counts
    }
}

/// A value for each severity, written as a JSON object with a member for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BySeverity<T> {
    debug: T,
    info: T,
    warning: T,
    error: T,
    critical: T,
}

impl<T> BySeverity<T> {
    /// Makes it of values in the order of [`Severity::ALL`].
    pub fn new(values: [T; 5]) -> Self {
        let [debug, info, warning, error, critical] = values;
        Self {
            debug,
            info,
            warning,
            error,
            critical,
        }
    }

    /// Returns the values in the order of [`Severity::ALL`].
    pub fn into_array(self) -> [T; 5] {
        [self.debug, self.info, self.warning, self.error, self.critical]
    }
}

impl From<SeverityCounts> for BySeverity<u64> {
    fn from(counts: SeverityCounts) -> Self {
        Self::new(counts.0)
    }
}

impl From<BySeverity<u64>> for SeverityCounts {
    fn from(counts: BySeverity<u64>) -> Self {
        Self(counts.into_array())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_by_severity_stand_under_their_names() {
        let counts: SeverityCounts = [Severity::Error, Severity::Error, Severity::Debug]
            .into_iter()
            .collect();
        let written = serde_json::to_string(&BySeverity::from(counts)).unwrap();
        assert_eq!(
            written,
            r#"{"debug":1,"info":0,"warning":0,"error":2,"critical":0}"#
        );
        let read: BySeverity<u64> = serde_json::from_str(&written).unwrap();
        assert_eq!(SeverityCounts::from(read), counts);
        let names = Severity::ALL.map(Severity::as_str);
        let written = serde_json::to_value(BySeverity::new(names)).unwrap();
        assert!(names.iter().all(|name| written[name] == *name), "{written}");
    }

    #[test]
    fn every_name_and_alias_is_taken_in_any_case() {
        for severity in Severity::ALL {
            assert_eq!(severity.as_str().parse(), Ok(severity));
            assert_eq!(severity.as_str().to_uppercase().parse(), Ok(severity));
            assert_eq!(Severity::from_number(severity.number()), Some(severity));
        }
        assert_eq!("Warn".parse(), Ok(Severity::Warning));
        assert_eq!("FATAL".parse(), Ok(Severity::Critical));
        assert_eq!("notice".parse(), Ok(Severity::Info));
        assert_eq!("".parse::<Severity>(), Err(UnknownSeverity));
        assert_eq!("inf".parse::<Severity>(), Err(UnknownSeverity));
    }

    #[test]
    fn severities_are_ordered_and_their_numbers_too() {
        assert!(Severity::ALL.is_sorted());
        assert!(Severity::ALL.map(Severity::number).is_sorted());
        assert_eq!(Severity::from_number(0), None);
        assert_eq!(Severity::from_number(25), None);
    }

    #[test]
    fn a_set_holds_what_it_was_made_of() {
        let set: SeveritySet = [Severity::Error, Severity::Debug].into_iter().collect();
        assert_eq!(set.iter().collect::<Vec<_>>(), [Severity::Debug, Severity::Error]);
        assert!(!set.contains(Severity::Info));
        assert_eq!(
            Severity::ALL.into_iter().collect::<SeveritySet>(),
            SeveritySet::ALL
        );
        assert!(SeveritySet::default().is_empty());
    }

    #[test]
    fn counts_add_up_by_severity() {
        let mut counts: SeverityCounts = [Severity::Info, Severity::Error, Severity::Info]
            .into_iter()
            .collect();
        counts += counts;
        assert_eq!(
            (
                counts.get(Severity::Info),
                counts.get(Severity::Error),
                counts.total()
            ),
            (4, 2, 6)
        );
    }

    #[test]
    fn a_set_is_read_as_people_write_it() {
        let set = |severities: &[Severity]| severities.iter().copied().collect::<SeveritySet>();
        use Severity::{Critical, Debug, Error, Info};
        assert_eq!("error+".parse(), Ok(set(&[Error, Critical])));
        assert_eq!("debug, INFO".parse(), Ok(set(&[Debug, Info])));
        assert_eq!("all".parse(), Ok(SeveritySet::ALL));
        assert_eq!("trace+".parse(), Ok(SeveritySet::ALL));
        assert_eq!("fatal,debug".parse(), Ok(set(&[Debug, Critical])));
        assert_eq!(set(&[Critical, Debug]).to_string(), "debug,critical");
        assert_eq!(" , ".parse::<SeveritySet>(), Err(InvalidSeveritySet::Empty));
        assert_eq!(
            "error,loud".parse::<SeveritySet>(),
            Err(InvalidSeveritySet::Unknown("loud".to_owned()))
        );
    }
}
