//! One configuration from defaults, file, environment and flags, or all of its problems at once.
//!
//! A binary composes its own struct of sections (`http`, `amqp`, …), all of them `#[serde(default)]`, and
//! [`load`]s it. Later sources win:
//!
//! 1. the defaults of the struct;
//! 2. `warren.toml` in the working directory if there is one, or the file of `--config`, which must exist;
//! 3. the environment: `WARREN_AMQP__URL` is `amqp.url`, `WARREN_AMQP__URL_FILE` names a file that holds it (one
//!    newline at its end is cut; both at once are an error), lists are separated by commas, and an empty value
//!    unsets what may be unset;
//! 4. flags: `--set amqp.prefix=test`.
//!
//! Nothing is guessed: text is parsed as the type of its field and only so, thus the password `0123` stays `0123`.
//! Unknown keys are errors, because a misspelt setting that is silently ignored is the worst kind of default; what
//! belongs to another program of Warren ([`SECTIONS`]) is tolerated in the file and the environment, which programs
//! share, and refused as a flag, which they do not.

mod flatten;
mod mask;
mod origin;
mod problem;
mod sources;
mod value;

use std::collections::BTreeMap;
use std::path::PathBuf;

use config::{Config, Value, ValueKind};
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use flatten::flatten;
pub use mask::mask;
pub use origin::{Origin, variable_name};
pub use problem::{Problem, SettingsErrors};
pub use sources::{DEFAULT_FILE, SECTIONS, Sources};

use crate::exit::Exit;
use sources::{Entry, Layer};
use value::{ValueError, ValueReader, What};

/// What the types of a settings struct cannot express.
pub trait CheckSettings {
    /// Lists what is wrong: the dotted key and, in words, the problem and what to do.
    fn problems(&self) -> Vec<(String, String)>;
}

/// Puts a section's name before the fields that its own `problems()` names.
pub fn within(
    section: &str,
    problems: impl IntoIterator<Item = (&'static str, String)>,
) -> impl Iterator<Item = (String, String)> {
    problems
        .into_iter()
        .map(move |(field, problem)| (format!("{section}.{field}"), problem))
}

/// One setting as it is in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// The setting, dotted.
    pub key: String,
    /// Its value, secrets masked.
    pub value: String,
    /// Where the value came from.
    pub origin: String,
}

/// A whole configuration, and where each value of it came from.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// The settings.
    pub settings: T,
    /// The configuration file that was read, if any.
    pub file: Option<PathBuf>,
    effective: Vec<Effective>,
}

impl<T> Loaded<T> {
    /// Lists every setting in force, sorted by key, secrets masked.
    #[must_use]
    pub fn effective(&self) -> &[Effective] {
        &self.effective
    }

    /// Returns the settings in force as an aligned table for people: key, value, origin.
    #[must_use]
    pub fn table(&self) -> String {
        let width = |of: fn(&Effective) -> &str, least: usize| {
            self.effective
                .iter()
                .map(|row| of(row).chars().count())
                .max()
                .unwrap_or(0)
                .max(least)
        };
        let (keys, values) = (width(|row| &row.key, 7), width(|row| &row.value, 5).min(60));
        let mut table = format!("{:keys$}  {:values$}  FROM\n", "SETTING", "VALUE");
        for row in &self.effective {
            let line = format!(
                "{:keys$}  {:values$}  {}",
                row.key,
                row.value.escape_debug().to_string(),
                row.origin
            );
            table.push_str(&line);
            table.push('\n');
        }
        table
    }

    /// Returns the settings in force as JSON: `{"file","settings":[{"key","value","origin"}]}`.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        serde_json::json!({ "file": self.file, "settings": self.effective })
    }
}

/// Reads, merges and checks the settings of a program.
///
/// # Errors
/// [`SettingsErrors`] with everything that is wrong. Nothing but files has been opened; end with
/// [`Exit::Configuration`].
pub fn load<T>(sources: &Sources) -> Result<Loaded<T>, SettingsErrors>
where
    T: Default + Serialize + DeserializeOwned + CheckSettings,
{
    let mut problems = Vec::new();
    let listed =
        |settings: &T| flatten(settings).map_err(|error| SettingsErrors::new(vec![not_listable(&error)]));
    let known: BTreeMap<String, String> = listed(&T::default())?.into_iter().collect();

    debug_assert!(
        known.keys().all(|key| sources.sections.contains(first(key))),
        "a section of this program is missing from SECTIONS: the other programs would refuse a shared file"
    );

    let (file, read) = sources::file(sources.file.as_deref(), &mut problems);
    let own = |key: &str| known.keys().any(|known| first(known) == first(key));
    let foreign = |key: &str| !own(key) && sources.sections.contains(first(key));
    let environment = sources::environment(&sources.environment, &known, foreign, &mut problems);
    let flags = sources.flags.iter().map(|(flag, key, value)| Entry {
        key: key.clone(),
        value: value.as_str().into(),
        origin: Origin::Flag(format!("{flag} {key}")),
    });

    let presets = sources.presets.iter().map(|(key, value)| Entry {
        key: key.clone(),
        value: value.as_str().into(),
        origin: Origin::Default,
    });

    let mut origins = BTreeMap::new();
    let mut builder = Config::builder();
    for layer in [
        Layer(presets.collect()),
        file,
        environment,
        Layer(flags.collect()),
    ] {
        let mut kept = Layer::default();
        for entry in layer.0 {
            if let Some(problem) = misplaced(&entry, &known, own, foreign) {
                problems.push(problem);
            } else if !foreign(&entry.key) {
                origins.insert(entry.key.clone(), entry.origin.clone());
                kept.0.push(entry);
            }
        }
        builder = builder.add_source(kept);
    }
    let tree = match builder.build() {
        Ok(config) => config.cache,
        Err(error) => return Err(SettingsErrors::new(vec![not_listable(&error)])),
    };

    let settings: Option<T> = read_all(tree, &known, &origins, &mut problems);
    let settings = match settings {
        Some(settings) => settings,
        None => return Err(SettingsErrors::new(problems)),
    };
    let values = listed(&settings)?;
    let origin_of = |key: &str| origins.get(key).unwrap_or(&Origin::Default);
    for (key, problem) in settings.problems() {
        // A value that could not be read was replaced by its default, about which there is nothing to say.
        if !problems.iter().any(|known| known.key == key) {
            let value = values
                .iter()
                .find(|(known, _)| *known == key)
                .map(|(_, value)| value.as_str());
            problems.push(Problem::new(&key, value, origin_of(&key), &problem));
        }
    }
    if !problems.is_empty() {
        return Err(SettingsErrors::new(problems));
    }
    let effective = values
        .into_iter()
        .map(|(key, value)| Effective {
            value: mask(&key, &value),
            origin: origin_of(&key).to_string(),
            key,
        })
        .collect();
    Ok(Loaded {
        settings,
        file: read,
        effective,
    })
}

/// Loads the settings as [`load`] does and prints what came of it: the body of `config check`.
///
/// The table or, with `json`, the JSON object goes to standard output either way, so that a script has one place to
/// look; problems in words go to standard error.
pub fn check<T>(sources: &Sources, json: bool) -> Exit
where
    T: Default + Serialize + DeserializeOwned + CheckSettings,
{
    match load::<T>(sources) {
        Ok(loaded) if json => println!("{:#}", loaded.to_json()),
        Ok(loaded) => print!("{}", loaded.table()),
        Err(errors) => {
            if json {
                println!("{:#}", errors.to_json());
            } else {
                eprintln!("{errors}");
            }
            return Exit::Configuration;
        }
    }
    Exit::Clean
}

/// Returns the part of a key before its first dot.
fn first(key: &str) -> &str {
    key.split('.').next().unwrap_or(key)
}

/// Finds keys that would be lost or misread in the merge, which only the single layer can tell.
fn misplaced(
    entry: &Entry,
    known: &BTreeMap<String, String>,
    own: impl Fn(&str) -> bool,
    foreign: impl Fn(&str) -> bool,
) -> Option<Problem> {
    let text = shown(&entry.value);
    if foreign(&entry.key) {
        let is_flag = matches!(entry.origin, Origin::Flag(_));
        let problem = format!(
            "`{}` belongs to another program of Warren; this one does not read it",
            first(&entry.key)
        );
        return is_flag.then(|| Problem::new(&entry.key, text.as_deref(), &entry.origin, &problem));
    }
    if !own(&entry.key) {
        return Some(Problem::unknown(
            &entry.key,
            text.as_deref(),
            &entry.origin,
            known.keys().map(String::as_str),
        ));
    }
    let section = format!("{}.", entry.key);
    let inside: Vec<_> = known
        .keys()
        .filter_map(|known| known.strip_prefix(&section))
        .collect();
    (!inside.is_empty()).then(|| {
        let problem = format!("is a section, not a value; it holds {}", inside.join(", "));
        Problem::new(&entry.key, text.as_deref(), &entry.origin, &problem)
    })
}

/// Reads `T`, and whenever a value does not fit, notes it, takes it out and reads again: so one run finds them all.
fn read_all<T: DeserializeOwned>(
    mut tree: Value,
    known: &BTreeMap<String, String>,
    origins: &BTreeMap<String, Origin>,
    problems: &mut Vec<Problem>,
) -> Option<T> {
    loop {
        let error = match T::deserialize(ValueReader(&tree)) {
            Ok(settings) => return Some(settings),
            Err(error) => error,
        };
        let path = error.path();
        let removed = remove(&mut tree, &path);
        problems.push(described(&error, &path, removed.as_ref(), known, origins));
        removed?;
    }
}

fn described(
    error: &ValueError,
    path: &[String],
    value: Option<&Value>,
    known: &BTreeMap<String, String>,
    origins: &BTreeMap<String, Origin>,
) -> Problem {
    let mut key = path.join(".");
    if let What::Missing(field) = &error.what {
        key = if key.is_empty() {
            field.clone()
        } else {
            format!("{key}.{field}")
        };
    }
    let below = format!("{key}.");
    let origin = origins
        .get(&key)
        .or_else(|| {
            origins
                .iter()
                .find(|(known, _)| known.starts_with(&below))
                .map(|(_, origin)| origin)
        })
        .unwrap_or(&Origin::Default);
    let value = value.and_then(|value| shown(&value.kind));
    match &error.what {
        What::Unknown => Problem::unknown(&key, value.as_deref(), origin, known.keys().map(String::as_str)),
        What::Missing(_) | What::Invalid(_) => {
            Problem::new(&key, value.as_deref(), origin, &error.to_string())
        }
    }
}

/// Returns a value as the user wrote it, or nothing for a whole section.
fn shown(value: &ValueKind) -> Option<String> {
    match value {
        ValueKind::Table(_) | ValueKind::Nil => None,
        ValueKind::Array(items) => Some(
            items
                .iter()
                .filter_map(|item| shown(&item.kind))
                .collect::<Vec<_>>()
                .join(","),
        ),
        scalar => Some(scalar.to_string()),
    }
}

/// Takes the value at `path` out of the tree.
fn remove(tree: &mut Value, path: &[String]) -> Option<Value> {
    let ValueKind::Table(table) = &mut tree.kind else {
        return None;
    };
    match path {
        [] => None,
        [name] => table.remove(name),
        [name, rest @ ..] => {
            let child = table.get_mut(name)?;
            // Inside a list there is nothing to take out alone: the whole list goes.
            if matches!(child.kind, ValueKind::Table(_)) {
                remove(child, rest)
            } else {
                table.remove(name)
            }
        }
    }
}

fn not_listable(error: &dyn std::error::Error) -> Problem {
    Problem::new("settings", None, &Origin::Default, &error.to_string())
}
