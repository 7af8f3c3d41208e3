//! What is wrong with a configuration, all of it.

use std::fmt;

use serde::Serialize;
use strsim::damerau_levenshtein;

use super::mask::{mask, mask_in};
use super::origin::Origin;

/// One thing that is wrong: what, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The setting, dotted (`http.listen`); a file or variable name where no setting can be told.
    pub key: String,
    /// The value as given, secrets masked; `None` where there is none to show.
    pub value: Option<String>,
    /// Where the value came from.
    pub origin: String,
    /// What is wrong and what to do, secrets masked.
    pub problem: String,
}

impl Problem {
    /// Masks `value` and whatever of it stands in `problem`.
    pub(super) fn new(key: &str, value: Option<&str>, origin: &Origin, problem: &str) -> Self {
        Self {
            key: key.to_owned(),
            value: value.map(|value| mask(key, value)),
            origin: origin.to_string(),
            problem: value.map_or_else(|| problem.to_owned(), |value| mask_in(problem, key, value)),
        }
    }

    /// A key that is no setting, with the nearest of `known` as its origin spells it.
    pub(super) fn unknown<'a>(
        key: &str,
        value: Option<&str>,
        origin: &Origin,
        known: impl Iterator<Item = &'a str>,
    ) -> Self {
        let problem = match nearest(key, known) {
            Some(nearest) => format!("no such setting; did you mean {}?", origin.spell(nearest)),
            None => "no such setting; docs/configuration.md lists them all".to_owned(),
        };
        // Under a misspelt name nobody can tell a secret from a harmless value.
        let value = value.filter(|value| !value.is_empty()).map(|_| super::mask::MASK);
        Self::new(key, value, origin, &problem)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            write!(f, " = {value:?}")?;
        }
        write!(f, " ({}): {}", self.origin, self.problem)
    }
}

/// Returns the known key that `key` was probably meant to be.
///
/// Underscores and dots count alike: `WARREN_HTTP_LISTEN` with one underscore is the commonest slip.
fn nearest<'a>(key: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let simple = |text: &str| text.replace(['.', '-'], "_").to_ascii_lowercase();
    let wanted = simple(key);
    known
        .map(|known| (damerau_levenshtein(&wanted, &simple(known)), known))
        .min()
        .filter(|(distance, _)| *distance <= wanted.len() / 3)
        .map(|(_, known)| known)
}

/// Everything that is wrong with a configuration, found in one go.
#[derive(Clone, Debug, thiserror::Error)]
pub struct SettingsErrors {
    problems: Vec<Problem>,
}

impl SettingsErrors {
    pub(super) fn new(mut problems: Vec<Problem>) -> Self {
        problems.sort_by(|a, b| a.key.cmp(&b.key));
        Self { problems }
    }

    /// Lists the problems, sorted by key; there is at least one.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    /// Returns the problems as JSON: `{"problems":[{"key","value","origin","problem"}]}`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "problems": self.problems })
    }
}

impl fmt::Display for SettingsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("the configuration has a problem, nothing was started:")?,
            count => write!(f, "the configuration has {count} problems, nothing was started:")?,
        }
        self.problems
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}
