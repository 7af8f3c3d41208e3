//! strace, which shows in what order a program asks the system for things.

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{find, programs};

const PACKAGE: &str = "strace";

/// Finds strace, or installs it where that is allowed.
///
/// # Errors
/// There is none, and it cannot be installed.
pub fn find_strace(say: impl Fn(&str)) -> Result<PathBuf> {
    if let Some(strace) = programs::find(PACKAGE, &[]) {
        return Ok(strace);
    }
    find::install(&[PACKAGE], &say)?;
    programs::find(PACKAGE, &[]).context("strace is not installed: sudo apt-get install strace")
}
