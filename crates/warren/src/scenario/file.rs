//! A scenario file that has been read.

use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use warren_domain::{Attributes, Severity, SeverityCounts, Source};

use super::problem::FileProblems;
use super::{GroupCounts, written};

/// The most messages that one file may send, copies included: their order is kept in memory.
pub(crate) const MAX_MESSAGES: u64 = 10_000_000;

/// Bytes; beyond it a file is the wrong file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// A scenario, whole and consistent.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) path: PathBuf,
    pub(crate) title: String,
    pub(crate) about: String,
    /// With a seed: everything is shuffled by it. Without: as it is written.
    pub(crate) shuffle: Option<u64>,
    pub(crate) steps: Vec<Step>,
    /// What happens on the way, by ascending place.
    pub(crate) events: Vec<Event>,
    /// What each group must print.
    pub(crate) expected: GroupCounts,
}

/// Some messages of one kind.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) severity: Severity,
    pub(crate) source: Source,
    /// Where it holds `{n}`, the number of the message within the step stands, from 1.
    pub(crate) body: String,
    pub(crate) attributes: Attributes,
    pub(crate) count: u64,
    /// So many of them are sent twice, under the same ids.
    pub(crate) twice: u64,
}

/// Something that happens once so many messages were sent.
#[derive(Debug)]
pub(crate) struct Event {
    pub(crate) after: u64,
    pub(crate) what: Happening,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// Nothing is sent for so long.
    Pause(Duration),
    /// The consumer of the group is killed as a crash would, and comes back once `away` more messages were sent.
    Kill { group: usize, away: u64 },
}

impl Step {
    /// Writes the body of the `n`th message, from 0.
    pub(crate) fn body(&self, n: u64) -> String {
        self.body.replace("{n}", &(n + 1).to_string())
    }
}

impl Scenario {
    /// Reads a file.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub(crate) fn read(path: &Path) -> Result<Self, FileProblems> {
        let unreadable =
            |error: &dyn fmt::Display| FileProblems::of_file(path, format!("cannot be read: {error}"));
        let mut bytes = Vec::new();
        std::fs::File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes))
            .map_err(|error| unreadable(&error))?;
        if bytes.len() as u64 > MAX_FILE_BYTES {
            return Err(FileProblems::of_file(
                path,
                "is larger than 1 MiB; this is no scenario",
            ));
        }
        let text = String::from_utf8(bytes).map_err(|error| unreadable(&error.utf8_error()))?;
        written::parse(path, &text)
    }

    /// Returns the name that it is shown under: that of its file, without ending.
    pub(crate) fn name(&self) -> String {
        self.path
            .file_stem()
            .map_or_else(|| self.title.clone(), |stem| stem.to_string_lossy().into_owned())
    }

    /// Returns how many messages are sent, copies included.
    pub(crate) fn total(&self) -> u64 {
        self.steps.iter().map(|step| step.count + step.twice).sum()
    }

    /// Returns how many different messages are sent, by severity.
    pub(crate) fn distinct(&self) -> SeverityCounts {
        self.sum(|step| step.count)
    }

    /// Returns how many messages are sent once more, by severity.
    pub(crate) fn copies(&self) -> SeverityCounts {
        self.sum(|step| step.twice)
    }

    fn sum(&self, of: impl Fn(&Step) -> u64) -> SeverityCounts {
        let mut counts = SeverityCounts::default();
        for step in &self.steps {
            counts.add(step.severity, of(step));
        }
        counts
    }
}
