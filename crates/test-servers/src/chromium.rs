//! A Chromium: the browser that the console is tested in.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::{find, programs};

/// The environment variable that names the browser of the console's tests.
pub const CHROMIUM_VARIABLE: &str = "WARREN_TEST_CHROMIUM";

/// The Debian package that brings one.
const PACKAGE: &str = "chromium";

/// What it is called, by who packs it.
const NAMES: &[&str] = &["chromium", "chromium-browser", "google-chrome"];

/// Finds a Chromium: the named one, else the first of those installed, else one that it installs where that is allowed.
///
/// # Errors
/// When the named one does not start, or there is none: the error says which commands mend it.
pub fn find_chromium(say: impl Fn(&str)) -> Result<PathBuf> {
    if let Some(named) = find::named(CHROMIUM_VARIABLE) {
        starts(Path::new(&named))
            .with_context(|| format!("{CHROMIUM_VARIABLE} names {named}, which cannot be used"))?;
        say(&format!("Chromium: {named}, from {CHROMIUM_VARIABLE}"));
        return Ok(named.into());
    }
    let browser = match installed() {
        Some(browser) => browser,
        None => {
            find::install(&[PACKAGE], &say)?;
            installed().with_context(missing)?
        }
    };
    say(&format!("Chromium: {}", browser.display()));
    Ok(browser)
}

fn installed() -> Option<PathBuf> {
    NAMES
        .iter()
        .filter_map(|name| programs::find(name, &[]))
        .find(|browser| starts(browser).is_ok())
}

fn missing() -> String {
    format!(
        "Chromium is not installed: sudo apt-get install --no-install-recommends {PACKAGE} (Debian), or export \
         {CHROMIUM_VARIABLE}=/path/to/chromium"
    )
}

fn starts(browser: &Path) -> Result<()> {
    let output = Command::new(browser)
        .arg("--version")
        .stdin(Stdio::null())
        .output()
        .context("it does not start")?;
    if !output.status.success() {
        bail!("--version fails: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
