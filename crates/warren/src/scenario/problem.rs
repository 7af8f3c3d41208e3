//! What is wrong with a scenario file, and where in it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Everything that is wrong with one file; shown with the lines in question.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FileProblems {
    path: PathBuf,
    problems: Vec<Problem>,
}

/// One thing that is wrong, and where.
#[derive(Debug, PartialEq, Eq)]
struct Problem {
    place: Option<Place>,
    text: String,
}

/// A place in a file, as editors count.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    line: usize,
    column: usize,
    quoted: String,
    /// How many characters of the line are meant, at least one.
    width: usize,
}

impl FileProblems {
    /// Says something of the file as a whole.
    pub(super) fn of_file(path: &Path, text: impl Into<String>) -> Self {
        let problem = Problem {
            place: None,
            text: text.into(),
        };
        Self {
            path: path.to_owned(),
            problems: vec![problem],
        }
    }

    /// Says what the parser found; it names the key itself, as the parser only knows where it is.
    pub(super) fn of_parser(path: &Path, text: &str, error: &toml::de::Error) -> Self {
        let key = error
            .span()
            .and_then(|span| key_at(text, &span))
            .map(|key| format!("{key}: "))
            .unwrap_or_default();
        let message = error.message().replace(" field `", " key `").replace('\n', " ");
        let mut found = Found::default();
        found.say(error.span(), format!("{key}{message}"));
        found.into_problems(path, text)
    }
}

/// Problems while they are gathered, by the bytes they stand at.
#[derive(Debug, Default)]
pub(super) struct Found(Vec<(Option<Range<usize>>, String)>);

impl Found {
    pub(super) fn say(&mut self, span: Option<Range<usize>>, text: impl Into<String>) {
        self.0.push((span, text.into()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn into_problems(mut self, path: &Path, text: &str) -> FileProblems {
        self.0
            .sort_by_key(|(span, _)| span.as_ref().map_or(usize::MAX, |span| span.start));
        let problems = self.0.into_iter().map(|(span, said)| Problem {
            place: span.map(|span| Place::of(text, &span)),
            text: said,
        });
        FileProblems {
            path: path.to_owned(),
            problems: problems.collect(),
        }
    }
}

impl Place {
    fn of(text: &str, span: &Range<usize>) -> Self {
        let start = floor(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |at| start + at);
        let end = floor(text, span.end).clamp(start, line_end);
        Self {
            line: text[..line_start].matches('\n').count() + 1,
            column: text[line_start..start].chars().count() + 1,
            quoted: text[line_start..line_end].trim_end().to_owned(),
            width: text[start..end].chars().count().max(1),
        }
    }
}

/// Returns the nearest place before `at` where a character begins.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len()))
        .rev()
        .find(|at| text.is_char_boundary(*at))
        .unwrap_or(0)
}

impl fmt::Display for FileProblems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            let Some(place) = &problem.place else {
                write!(f, "{path}: {}", problem.text)?;
                continue;
            };
            let Place {
                line,
                column,
                quoted,
                width,
            } = place;
            let number = line.to_string();
            writeln!(f, "{path}:{line}:{column}: {}", problem.text)?;
            // Tabs stay tabs, so that the marks stand below what they mean.
            let indent: String = quoted
                .chars()
                .take(column - 1)
                .map(|c| if c == '\t' { c } else { ' ' })
                .collect();
            writeln!(f, "  {number} | {quoted}")?;
            write!(
                f,
                "  {:blank$} | {indent}{}",
                "",
                "^".repeat(*width),
                blank = number.len()
            )?;
        }
        Ok(())
    }
}

/// Returns the key at a place as one would say it: `send[2].count`, lists counted from 1.
fn key_at(text: &str, span: &Range<usize>) -> Option<String> {
    let table = DeTable::parse(text).ok()?;
    let mut path = String::new();
    within_table(table.get_ref(), span, &mut path);
    (!path.is_empty()).then_some(path)
}

fn within_table(table: &DeTable<'_>, span: &Range<usize>, path: &mut String) {
    for (key, value) in table {
        let on_key = holds(&key.span(), span);
        if on_key || holds(&value.span(), span) || has(value, span) {
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(key.get_ref());
            if !on_key {
                within_value(value, span, path);
            }
            return;
        }
    }
}

fn within_value(value: &Spanned<DeValue<'_>>, span: &Range<usize>, path: &mut String) {
    match value.get_ref() {
        DeValue::Table(table) => within_table(table, span, path),
        DeValue::Array(items) => {
            let holder = items
                .iter()
                .enumerate()
                .find(|(_, item)| holds(&item.span(), span) || has(item, span));
            if let Some((index, item)) = holder {
                path.push_str(&format!("[{}]", index + 1));
                within_value(item, span, path);
            }
        }
        _ => {}
    }
}

/// Tells whether something inside holds the place: a table under a header does not hold its own lines.
fn has(value: &Spanned<DeValue<'_>>, span: &Range<usize>) -> bool {
    match value.get_ref() {
        DeValue::Table(table) => table
            .iter()
            .any(|(key, value)| holds(&key.span(), span) || holds(&value.span(), span) || has(value, span)),
        DeValue::Array(items) => items
            .iter()
            .any(|item| holds(&item.span(), span) || has(item, span)),
        _ => false,
    }
}

fn holds(outer: &Range<usize>, inner: &Range<usize>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end && outer.start < outer.end
}
