//! Where installed programs are, and how missing ones are installed.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Folders of PostgreSQL's server programs, which Debian and Red Hat keep out of the path.
pub(crate) const POSTGRES: &[&str] = &[
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/*/bin",
];
/// Folders of RabbitMQ's own scripts: Debian puts wrappers in the path that insist on one user and one place.
pub(crate) const RABBITMQ: &[&str] = &[
    "/usr/lib/rabbitmq/bin",
    "/usr/lib/rabbitmq/lib/*/sbin",
    "/opt/rabbitmq/sbin",
    "/opt/homebrew/sbin",
];

/// Finds a program in `folders`, in which one `*` stands for any name (the last one wins), then in the path.
pub(crate) fn find(program: &str, folders: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let known = folders.iter().flat_map(|pattern| expand(pattern));
    let usual = ["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from);
    known
        .chain(std::env::split_paths(&path))
        .chain(usual)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn expand(pattern: &str) -> Vec<PathBuf> {
    let Some((before, after)) = pattern.split_once('*') else {
        return vec![pattern.into()];
    };
    let (parent, prefix) = before.rsplit_once('/').unwrap_or(("", before));
    let Ok(entries) = std::fs::read_dir(parent) else {
        return Vec::new();
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| name.starts_with(prefix))
        .collect();
    // Numerically, so that 17 comes before 9.
    names.sort_by_key(|name| {
        let number: String = name.chars().filter(char::is_ascii_digit).collect();
        std::cmp::Reverse(number.parse::<u64>().unwrap_or(0))
    });
    names
        .into_iter()
        .map(|name| PathBuf::from(format!("{parent}/{name}{after}")))
        .collect()
}

/// Returns whether packages can be installed here: a Debian family, and root.
pub(crate) fn can_install() -> bool {
    Path::new("/etc/debian_version").exists()
        && find("apt-get", &[]).is_some()
        && rustix::process::geteuid().is_root()
}

/// Installs Debian packages, without starting the services that come with them.
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let apt = find("apt-get", &[]).context("apt-get is not installed")?;
    run(Command::new(&apt).args(["update", "-q"]))?;
    run(Command::new(&apt)
        // A service manager that believes in runlevel 1 starts nothing: private servers are started instead.
        .env("RUNLEVEL", "1")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["install", "-q", "-y", "--no-install-recommends"])
        .args(packages))
}

fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let status = command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("cannot start {shown}"))?;
    if !status.success() {
        bail!("{shown} failed: {status}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_version_comes_first() {
        let folder = tempfile::tempdir().unwrap();
        for version in ["9", "17", "15"] {
            std::fs::create_dir_all(folder.path().join(version).join("bin")).unwrap();
            std::fs::write(folder.path().join(version).join("bin/tool"), "").unwrap();
        }
        let pattern = format!("{}/*/bin", folder.path().display());
        assert_eq!(find("tool", &[&pattern]), Some(folder.path().join("17/bin/tool")));
        assert_eq!(find("no-such-tool", &[&pattern]), None);
    }
}
