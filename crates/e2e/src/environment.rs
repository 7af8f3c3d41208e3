//! Where the binaries and the servers of a test are.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

/// Returns the value of an environment variable, if it is set and not empty.
#[expect(
    clippy::disallowed_methods,
    reason = "a test harness is told its servers by the environment alone"
)]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Returns the URL of the RabbitMQ that tests share: `WARREN_TEST_AMQP_URL`, else the one on this machine.
pub fn amqp_url() -> String {
    variable("WARREN_TEST_AMQP_URL").unwrap_or_else(|| "amqp://guest:guest@127.0.0.1:5672/%2f".to_owned())
}

/// Returns the URL of the PostgreSQL that tests share: `WARREN_TEST_POSTGRES_URL`, else the one on this machine.
pub fn postgres_url() -> String {
    variable("WARREN_TEST_POSTGRES_URL")
        .unwrap_or_else(|| "postgres://postgres@127.0.0.1:5432/postgres".to_owned())
}

/// Finds a program of this workspace: in `WARREN_BIN_DIR`, else beside the running test.
///
/// # Errors
/// It is not there; the message says which command builds it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = match variable("WARREN_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => target_folder()?,
    };
    find(&folder, name)
}

/// Finds a program of this workspace in a folder.
///
/// # Errors
/// It is not there; the message says which command builds it.
pub fn find(folder: &Path, name: &str) -> Result<PathBuf> {
    let path = folder.join(format!("{name}{}", std::env::consts::EXE_SUFFIX));
    if !path.is_file() {
        bail!(
            "{} is not there: run `cargo build --workspace --bins` first, or set WARREN_BIN_DIR",
            path.display()
        );
    }
    Ok(path)
}

/// Returns the folder that cargo puts programs into: the one above a test's `deps`, or the program's own.
fn target_folder() -> Result<PathBuf> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let folder = program.parent().context("this program lies in no folder")?;
    let above = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    Ok(above.to_path_buf())
}
