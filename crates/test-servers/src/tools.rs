//! Small programs that are packed under their own names.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{find, programs};

/// Finds strace, which shows in what order a program asks the system for things, or installs it where that is allowed.
///
/// # Errors
/// There is none, and it cannot be installed.
pub fn find_strace(say: impl Fn(&str)) -> Result<PathBuf> {
    find_tool("strace", say)
}

/// Finds pngquant, which makes pictures small, or installs it where that is allowed.
///
/// # Errors
/// There is none, and it cannot be installed.
pub fn find_pngquant(say: impl Fn(&str)) -> Result<PathBuf> {
    find_tool("pngquant", say)
}

fn find_tool(name: &str, say: impl Fn(&str)) -> Result<PathBuf> {
    if let Some(tool) = programs::find(name, &[]) {
        return Ok(tool);
    }
    find::install(&[name], &say)?;
    programs::find(name, &[]).with_context(|| {
        format!("{name} is not installed: sudo apt-get install --no-install-recommends {name}")
    })
}
