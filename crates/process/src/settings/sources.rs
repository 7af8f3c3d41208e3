//! Reads the file, the environment and the flags into layers of the same form.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use config::{ConfigError, Map, Source, Value, ValueKind};
use toml::de::{DeTable, DeValue};

use super::mask::mask;
use super::origin::{Origin, PREFIX};
use super::problem::Problem;

/// The configuration file that is read when none is named, in the working directory.
pub const DEFAULT_FILE: &str = "warren.toml";

/// The first segments of every setting of every program of Warren.
///
/// One `warren.toml` and one set of variables may serve all programs of an installation, so what belongs to another
/// program is no mistake.
pub const SECTIONS: &[&str] = &[
    "amqp",
    "embedded",
    "http",
    "intake",
    "maintenance",
    "pipeline",
    "postgres",
    "reader",
    "retention_days",
    "spool",
    "tail",
    "tally",
    "telemetry",
    "worker",
];

/// Bytes; beyond it a configuration or secret file is the wrong file.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Where a program's settings come from. Everything is an argument, so that a test needs no process of its own.
#[derive(Clone, Debug)]
pub struct Sources {
    pub(super) file: Option<PathBuf>,
    pub(super) environment: Vec<(OsString, OsString)>,
    pub(super) flags: Vec<(String, String, String)>,
    pub(super) presets: Vec<(String, String)>,
    pub(super) sections: BTreeSet<&'static str>,
}

impl Sources {
    /// Takes the file of `--config` or `WARREN_CONFIG`, the process's environment, and every `--set`.
    #[must_use]
    pub fn of_process(args: &crate::cli::SettingsArgs) -> Self {
        let mut sources = Self::of(args.config.clone(), std::env::vars_os());
        for (key, value) in &args.set {
            sources = sources.flag("--set", key, value);
        }
        sources
    }

    /// Takes a named file, which must exist (else `warren.toml` here, if it does), and an environment.
    #[must_use]
    pub fn of<E, K, V>(file: Option<PathBuf>, environment: E) -> Self
    where
        E: IntoIterator<Item = (K, V)>,
        K: Into<OsString>,
        V: Into<OsString>,
    {
        Self {
            file,
            environment: environment
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
            flags: Vec::new(),
            presets: Vec::new(),
            sections: SECTIONS.iter().copied().collect(),
        }
    }

    /// Lets a setting have another default in this program than its section has; the program's own `Default` must say
    /// the same.
    #[must_use]
    pub fn preset(mut self, key: &str, value: &str) -> Self {
        self.presets.push((key.to_owned(), value.to_owned()));
        self
    }

    /// Adds one setting from the command line; `flag` is how the user wrote it (`--set`, `--listen`).
    #[must_use]
    pub fn flag(mut self, flag: &str, key: &str, value: &str) -> Self {
        self.flags
            .push((flag.to_owned(), key.to_owned(), value.to_owned()));
        self
    }
}

/// One value of one source.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) value: ValueKind,
    pub(super) origin: Origin,
}

/// What one source says, ready to be merged.
#[derive(Clone, Debug, Default)]
pub(super) struct Layer(pub(super) Vec<Entry>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        let mut root = Map::new();
        for entry in &self.0 {
            let mut table = &mut root;
            let mut segments = entry.key.split('.').peekable();
            while let Some(segment) = segments.next() {
                if segments.peek().is_none() {
                    table.insert(
                        segment.to_owned(),
                        Value::new(Some(&entry.origin.to_string()), entry.value.clone()),
                    );
                    break;
                }
                let child = table.entry(segment.to_owned()).or_default();
                if !matches!(child.kind, ValueKind::Table(_)) {
                    child.kind = ValueKind::Table(Map::new());
                }
                let ValueKind::Table(next) = &mut child.kind else {
                    break;
                };
                table = next;
            }
        }
        Ok(root)
    }
}

/// Reads the configuration file; an absent file is an empty layer unless it was named.
pub(super) fn file(named: Option<&Path>, problems: &mut Vec<Problem>) -> (Layer, Option<PathBuf>) {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    let text = match read(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return (Layer::default(), None);
        }
        Err(error) => {
            problems.push(file_problem(path, 1, &format!("cannot be read: {error}")));
            return (Layer::default(), None);
        }
    };
    let mut layer = Layer::default();
    match DeTable::parse(&text) {
        Ok(table) => {
            let lines = Lines::of(&text);
            walk(table.get_ref(), "", path, &lines, &mut layer.0);
        }
        Err(error) => {
            // The library's own rendering quotes the line, which may hold a secret.
            let line = error.span().map_or(1, |span| Lines::of(&text).at(span.start));
            problems.push(file_problem(
                path,
                line,
                &format!("is not TOML: {}", error.message()),
            ));
        }
    }
    (layer, Some(path.to_owned()))
}

fn file_problem(path: &Path, line: usize, problem: &str) -> Problem {
    let origin = Origin::File {
        path: path.to_owned(),
        line,
    };
    Problem::new("configuration file", None, &origin, problem)
}

fn read(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    std::fs::File::open(path)?
        .take(MAX_FILE_BYTES + 1)
        .read_to_string(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(std::io::Error::other(format!(
            "larger than {MAX_FILE_BYTES} bytes"
        )));
    }
    Ok(text)
}

/// Byte offsets of line starts.
struct Lines(Vec<usize>);

impl Lines {
    fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(at, _)| at + 1).collect())
    }

    fn at(&self, offset: usize) -> usize {
        self.0.partition_point(|start| *start <= offset) + 1
    }
}

fn walk(table: &DeTable<'_>, prefix: &str, path: &Path, lines: &Lines, entries: &mut Vec<Entry>) {
    for (name, value) in table {
        let key = if prefix.is_empty() {
            name.get_ref().to_string()
        } else {
            format!("{prefix}.{}", name.get_ref())
        };
        match value.get_ref() {
            DeValue::Table(inner) => walk(inner, &key, path, lines, entries),
            leaf => {
                let origin = Origin::File {
                    path: path.to_owned(),
                    line: lines.at(name.span().start),
                };
                entries.push(Entry {
                    key,
                    value: leaf_value(leaf),
                    origin,
                });
            }
        }
    }
}

fn leaf_value(value: &DeValue<'_>) -> ValueKind {
    match value {
        DeValue::String(text) => ValueKind::String(text.to_string()),
        DeValue::Boolean(flag) => ValueKind::Boolean(*flag),
        // A number too large for its type goes on as text, and is refused with the range of the field.
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_or_else(|_| ValueKind::String(number.as_str().to_owned()), ValueKind::I64),
        DeValue::Float(number) => number.as_str().parse().map_or_else(
            |_| ValueKind::String(number.as_str().to_owned()),
            ValueKind::Float,
        ),
        DeValue::Datetime(time) => ValueKind::String(time.to_string()),
        DeValue::Array(items) => ValueKind::Array(
            items
                .iter()
                .map(|item| Value::new(None, leaf_value(item.get_ref())))
                .collect(),
        ),
        DeValue::Table(table) => ValueKind::Table(
            table
                .iter()
                .map(|(name, value)| {
                    (
                        name.get_ref().to_string(),
                        Value::new(None, leaf_value(value.get_ref())),
                    )
                })
                .collect(),
        ),
    }
}

/// Reads every `WARREN_…` variable; `known` tells a `…_FILE` twin from a setting whose own name ends so.
pub(super) fn environment(
    variables: &[(OsString, OsString)],
    known: &BTreeMap<String, String>,
    foreign: impl Fn(&str) -> bool,
    problems: &mut Vec<Problem>,
) -> Layer {
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    let mut variables: Vec<_> = variables.iter().collect();
    variables.sort();
    for (name, value) in variables {
        let Some(name) = name.to_str() else { continue };
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let text = value.to_str();
        if is_not_a_setting(name, rest, text.unwrap_or_default()) {
            continue;
        }
        let key = rest.replace("__", ".").to_ascii_lowercase();
        if foreign(&key) {
            continue;
        }
        let Some(text) = text else {
            let origin = Origin::Variable(name.to_owned());
            problems.push(Problem::new(
                &key,
                None,
                &origin,
                "is not UTF-8; give the value in UTF-8",
            ));
            continue;
        };
        let entry = match key.strip_suffix("_file").filter(|twin| known.contains_key(*twin)) {
            Some(twin) if !known.contains_key(&key) => match secret(name, text) {
                Ok(value) => {
                    let origin = Origin::VariableFile {
                        variable: name.to_owned(),
                        path: text.into(),
                    };
                    Entry {
                        key: twin.to_owned(),
                        value: value.into(),
                        origin,
                    }
                }
                Err(problem) => {
                    problems.push(Problem {
                        key: twin.to_owned(),
                        ..problem
                    });
                    continue;
                }
            },
            _ => Entry {
                key,
                value: text.into(),
                origin: Origin::Variable(name.to_owned()),
            },
        };
        if let Some(earlier) = entries.get(&entry.key) {
            let problem = format!("is given twice, also by the {}; keep one of them", earlier.origin);
            problems.push(Problem::new(&entry.key, None, &entry.origin, &problem));
            continue;
        }
        entries.insert(entry.key.clone(), entry);
    }
    Layer(entries.into_values().collect())
}

/// Reads the file of a `…_FILE` variable; one newline at the end belongs to the file, not to the secret.
fn secret(variable: &str, path: &str) -> Result<String, Problem> {
    match read(Path::new(path)) {
        Ok(text) => {
            let text = text
                .strip_suffix('\n')
                .map(|line| line.strip_suffix('\r').unwrap_or(line))
                .unwrap_or(&text);
            Ok(text.to_owned())
        }
        Err(error) => Err(Problem::new(
            variable,
            None,
            &Origin::Variable(variable.to_owned()),
            // Whoever put the URL itself in place of its file's name must not read it in a log.
            &format!(
                "names the file {}, which cannot be read: {error}",
                mask("url", path)
            ),
        )),
    }
}

/// Variables that carry our prefix and are no settings: those of the tests, the one that names the file, and those
/// that Kubernetes and Docker put into every container beside a service called `warren…`.
fn is_not_a_setting(name: &str, rest: &str, value: &str) -> bool {
    // A program without bugs on purpose takes it for a setting that does not exist, and does not start.
    #[cfg(feature = "planted-bugs")]
    if name == warren_planted::VARIABLE {
        return true;
    }
    name == "WARREN_CONFIG"
        || rest.starts_with("TEST_")
        || rest.starts_with("BENCH_")
        || rest.ends_with("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || ["tcp://", "udp://", "sctp://"]
            .iter()
            .any(|scheme| value.starts_with(scheme))
            && rest.contains("PORT")
        || ["_TCP_", "_UDP_", "_SCTP_"].iter().any(|protocol| {
            rest.contains("PORT_")
                && ["PROTO", "PORT", "ADDR"]
                    .iter()
                    .any(|part| rest.ends_with(&format!("{protocol}{part}")))
        })
}
