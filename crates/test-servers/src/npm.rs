//! An npm with its Node.js, in which the console is checked and tested.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::programs;

/// The oldest Node.js that the console's checks and tests run in; `engines` in the console's package.json says the same.
const LEAST_NODE: u32 = 20;

/// Finds npm, with a Node.js that is new enough. It installs none: what Debian packs is often too old.
///
/// # Errors
/// When one is missing or too old; the error says where to get it.
pub fn find_npm() -> Result<PathBuf> {
    let remedy = format!("install Node.js {LEAST_NODE} or later, which brings both: https://nodejs.org");
    let found =
        |name: &str| programs::find(name, &[]).with_context(|| format!("{name} is not installed: {remedy}"));
    let (npm, node) = (found("npm")?, found("node")?);
    let output = Command::new(&node)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{} does not start", node.display()))?;
    let said = String::from_utf8_lossy(&output.stdout);
    let version = said.trim();
    ensure!(
        major(version).is_some_and(|major| major >= LEAST_NODE),
        "{} is {version}, too old: {remedy}",
        node.display()
    );
    Ok(npm)
}

/// Returns the first number of a version such as `v20.19.1`.
fn major(version: &str) -> Option<u32> {
    version.strip_prefix('v')?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_has_a_major_number() {
        assert_eq!(major("v20.19.1"), Some(20));
        assert_eq!(major("v8"), Some(8));
        for text in ["", "20.1.1", "v", "vx.1"] {
            assert_eq!(major(text), None, "{text}");
        }
    }
}
