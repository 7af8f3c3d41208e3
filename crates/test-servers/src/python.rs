//! A Python with pika: the client in another language that interoperability is tested with.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::{find, programs};

/// The environment variable that names the Python of the tests.
pub const PYTHON_VARIABLE: &str = "WARREN_TEST_PYTHON";

/// The Debian package that brings both.
const PACKAGE: &str = "python3-pika";

/// Finds an interpreter that can import pika: the named one, else the first of those installed, else one that it
/// installs where that is allowed.
///
/// # Errors
/// When the named one cannot, or there is none: the error says which commands mend it.
pub fn find_python(say: impl Fn(&str)) -> Result<PathBuf> {
    if let Some(named) = find::named(PYTHON_VARIABLE) {
        imports_pika(Path::new(&named))
            .with_context(|| format!("{PYTHON_VARIABLE} names {named}, which cannot be used"))?;
        say(&format!("Python with pika: {named}, from {PYTHON_VARIABLE}"));
        return Ok(named.into());
    }
    let python = match installed() {
        Some(python) => python,
        None => {
            find::install(&[PACKAGE], &say)?;
            installed().ok_or_else(missing)?
        }
    };
    say(&format!("Python with pika: {}", python.display()));
    Ok(python)
}

fn installed() -> Option<PathBuf> {
    // The system's own is looked at too: what a package brings is not seen by another Python that comes first.
    let candidates = [programs::find("python3", &[]), Some("/usr/bin/python3".into())];
    candidates
        .into_iter()
        .flatten()
        .find(|python| imports_pika(python).is_ok())
}

/// Says what is missing, and each way to mend it.
fn missing() -> anyhow::Error {
    anyhow::anyhow!(
        "a Python with pika is needed for the tests of the packet format, and there is none.\nDo one of:\n  sudo apt-get \
         install --no-install-recommends {PACKAGE}    # Debian, Ubuntu\n  python3 -m venv VENV && VENV/bin/pip install \
         pika && export {PYTHON_VARIABLE}=VENV/bin/python"
    )
}

fn imports_pika(python: &Path) -> Result<()> {
    let output = Command::new(python)
        .args(["-c", "import pika"])
        .stdin(Stdio::null())
        .output()
        .context("it does not start")?;
    if !output.status.success() {
        bail!(
            "it cannot import pika: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
