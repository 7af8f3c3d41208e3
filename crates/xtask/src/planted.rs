//! The bugs on purpose: that they compile, and that nothing but the run that has to find them builds them.
//!
//! `deny.toml` keeps them out of every default, and a build without debug assertions refuses them. What is left is a
//! command that asks for them: only `torture teeth` and this step may.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use crate::cargo::{Workspace, run as run_command};

/// What asks for bugs: their feature, and every feature there is.
const ASKS: &[&str] = &["planted-bugs", "--all-features"];

/// Where commands that build are written down. The programs' manifests are not among them: a feature has to be
/// declared somewhere, and that no default has it is for `deny.toml` to say.
const BUILDS: &[&str] = &[
    ".cargo",
    ".ci",
    ".github",
    "Dockerfile",
    "deploy",
    "docker-compose.yml",
    "crates/xtask/src",
];

/// The one file of those that may ask for them.
const HERE: &str = "crates/xtask/src/planted.rs";

/// The programs that can have bugs.
const PROGRAMS: &[&str] = &["warren-ingest-api", "warren-store-worker", "warren"];

/// Compiles the programs with their bugs, and looks for whoever else does.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let askers = askers(&workspace.root)?;
    ensure!(
        askers.is_empty(),
        "only `torture teeth` may build planted bugs, but these ask for them: {}",
        askers.join(", ")
    );
    let packages = PROGRAMS.iter().flat_map(|package| ["--package", package]);
    run_command(
        workspace
            .cargo(["clippy", "--features", "planted-bugs"])
            .args(packages)
            .args(["--", "-D", "warnings"]),
    )
}

/// Returns every file in which a build asks for bugs, and the line.
fn askers(root: &Path) -> Result<Vec<String>> {
    let mut files = Vec::new();
    for place in BUILDS {
        collect(&root.join(place), &mut files)?;
    }
    let mut askers = Vec::new();
    for file in files.into_iter().filter(|file| *file != root.join(HERE)) {
        let text = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        let text = String::from_utf8_lossy(&text);
        let lines = text.lines().zip(1..);
        let asking = lines.filter(|(line, _)| ASKS.iter().any(|asks| line.contains(asks)));
        askers.extend(asking.map(|(_, number)| {
            let file = file.strip_prefix(root).unwrap_or(&file);
            format!("{}:{number}", file.display())
        }));
    }
    Ok(askers)
}

/// Adds every file at or below a place, if there is one.
fn collect(place: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    if place.is_file() {
        files.push(place.to_owned());
    } else if place.is_dir() {
        let entries = fs::read_dir(place).with_context(|| format!("cannot list {}", place.display()))?;
        for entry in entries {
            collect(&entry?.path(), files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
    }

    #[test]
    fn no_build_of_the_repository_asks_for_bugs() {
        assert_eq!(askers(&root()).unwrap(), Vec::<String>::new());
        // It looks at something.
        let mut files = Vec::new();
        for place in ["Dockerfile", ".ci", "crates/xtask/src"] {
            let before = files.len();
            collect(&root().join(place), &mut files).unwrap();
            assert!(files.len() > before, "{place}");
        }
    }
}
