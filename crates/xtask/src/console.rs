//! The console: its own checks, what a person does with it in a browser, and pictures of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use warren_test_servers::{
    AMQP_VARIABLE, CHROMIUM_VARIABLE, POSTGRES_VARIABLE, Servers, find, find_chromium, find_npm,
    find_pngquant,
};

use crate::bounded;
use crate::cargo::{Workspace, run as run_command};

/// Where its files and its tests are.
const FOLDER: &str = "crates/adapter-http/console";

/// What the journeys need: the programs that have a console or are beside it, and what starts them.
const PACKAGES: [&str; 6] = [
    "warren",
    "warren-ingest-api",
    "warren-store-worker",
    "warren-severity-consumer",
    "warren-query-api",
    "warren-e2e",
];

/// The variable that names the program which starts a server for each file of journeys.
const SERVER_VARIABLE: &str = "WARREN_TEST_CONSOLE_SERVER";

/// Where the pictures are, and how large one may be, bytes.
const PICTURES: &str = "docs/images";
const MOST_PICTURE: u64 = 200_000;

/// Has pngquant write a picture of few colours over the one it reads; the file's name follows twice.
const PNGQUANT: [&str; 4] = ["--force", "--strip", "--speed=1", "--output"];

/// How long all of it may take, without the build: several times what it takes on a machine that has nothing else to do,
/// because one that is busy is no failure.
const TIME: Duration = Duration::from_secs(300);

/// What npm says of a registry that it cannot reach.
const UNREACHABLE: &[&str] = &[
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "EHOSTUNREACH",
    "ENETUNREACH",
    "ENOTCACHED",
    "ENOTFOUND",
    "ERR_SOCKET_TIMEOUT",
    "ETIMEDOUT",
];

/// What there is to test it with, or what is missing.
#[derive(Debug)]
pub(crate) struct Tools {
    npm: Result<PathBuf>,
    browser: Result<PathBuf>,
}

/// What has come of the tests.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// What was tested.
    Passed(String),
    Failed(String),
    /// Some of it cannot be run here: what was tested, if anything, and what is missing.
    NotRun {
        tested: String,
        missing: String,
    },
}

impl Tools {
    /// Looks for them, and installs a browser where that is allowed.
    pub(crate) fn find() -> Self {
        let npm = find_npm();
        let browser = match &npm {
            Ok(_) => find_chromium(|line| eprintln!("{line}")),
            // Of no use alone.
            Err(_) => Err(anyhow::anyhow!("npm is missing")),
        };
        let tools = Self { npm, browser };
        if let Some(missing) = tools.missing() {
            eprintln!("console: not all of its tests can be run: {missing}");
        }
        tools
    }

    fn missing(&self) -> Option<String> {
        let first = self.npm.as_ref().err().or(self.browser.as_ref().err());
        first.map(|error| format!("{error:#}"))
    }

    /// Builds the server, then checks and tests the console; returns what cannot be run here, if anything.
    pub(crate) fn step(&self, workspace: &Workspace) -> Result<Option<String>> {
        build(workspace)?;
        match self.test(workspace) {
            Outcome::Passed(_) => Ok(None),
            Outcome::Failed(why) => bail!(why),
            Outcome::NotRun { tested, missing } if tested.is_empty() => Ok(Some(missing)),
            Outcome::NotRun { missing, .. } => Ok(Some(format!("the journeys: {missing}"))),
        }
    }

    /// Checks and tests the console; the server is built.
    pub(crate) fn test(&self, workspace: &Workspace) -> Outcome {
        let end = Instant::now() + TIME;
        let Ok(npm) = &self.npm else {
            return Outcome::not_run("", self.missing());
        };
        let npm = Npm {
            program: npm,
            workspace,
            end,
        };
        let tested = match npm.checks() {
            Ok(tested) => tested,
            Err(Stopped::Failed(why)) => return Outcome::Failed(why),
            Err(Stopped::Unreachable(why)) => return Outcome::not_run("", Some(why)),
        };
        let browser = match &self.browser {
            Ok(browser) => browser,
            Err(error) if is_named(&[CHROMIUM_VARIABLE]) => return Outcome::Failed(format!("{error:#}")),
            Err(_) => return Outcome::not_run(&tested, self.missing()),
        };
        let say = |line: &str| eprintln!("{line}");
        let servers = match find(say).and_then(|found| found.start(say)) {
            Ok(servers) => servers,
            Err(error) if is_named(&[AMQP_VARIABLE, POSTGRES_VARIABLE]) => {
                return Outcome::Failed(format!("{error:#}"));
            }
            Err(error) => return Outcome::not_run(&tested, Some(format!("{error:#}"))),
        };
        match npm.tests("journeys", Some((browser, &servers))) {
            Ok(passed) => Outcome::Passed(format!("{tested}, {passed} journeys")),
            Err(error) => Outcome::Failed(format!("{error:#}")),
        }
    }
}

/// Tells whether somebody has named one of what the journeys need, and so wants them to run.
fn is_named(variables: &[&str]) -> bool {
    let named = |variable: &&str| std::env::var_os(variable).is_some_and(|named| !named.is_empty());
    variables.iter().any(named)
}

impl Outcome {
    fn not_run(tested: &str, missing: Option<String>) -> Self {
        Self::NotRun {
            tested: tested.to_owned(),
            missing: missing.unwrap_or_default(),
        }
    }

    /// Prints it, and returns whether nothing failed.
    pub(crate) fn tell(&self) -> bool {
        match self {
            Self::Passed(tested) => println!("console: {tested} passed"),
            Self::Failed(why) => println!("console: FAILED: {why}"),
            Self::NotRun { tested, missing } if tested.is_empty() => println!("console: not run: {missing}"),
            Self::NotRun { tested, missing } => {
                println!("console: {tested} passed; journeys not run: {missing}");
            }
        }
        !matches!(self, Self::Failed(_))
    }
}

/// Why the checks did not come to their end.
#[derive(Debug)]
enum Stopped {
    Failed(String),
    Unreachable(String),
}

impl From<anyhow::Error> for Stopped {
    fn from(error: anyhow::Error) -> Self {
        Self::Failed(format!("{error:#}"))
    }
}

/// npm in the console's folder, until a moment.
#[derive(Debug)]
struct Npm<'t> {
    program: &'t Path,
    workspace: &'t Workspace,
    end: Instant,
}

impl Npm<'_> {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.program);
        command
            .current_dir(self.workspace.root.join(FOLDER))
            .args(arguments);
        command
    }

    /// Installs what the lock file names, checks the modules, and runs the tests without a page.
    fn checks(&self) -> Result<String, Stopped> {
        self.install()?;
        self.must(self.command(&["run", "check"]))?;
        let passed = self.tests("test", None)?;
        Ok(format!("format, lint, types, {passed} tests"))
    }

    fn install(&self) -> Result<(), Stopped> {
        let mut unreachable = None;
        let arguments = [
            "ci",
            "--prefer-offline",
            "--fetch-retries=1",
            "--fetch-timeout=20000",
        ];
        let status = bounded::run(self.command(&arguments), self.end, |line| {
            eprintln!("{line}");
            unreachable = unreachable.or_else(|| unreachable_by(line));
        })?;
        match (status.success(), unreachable) {
            (true, _) => Ok(()),
            (false, Some(code)) => Err(Stopped::Unreachable(format!(
                "npm cannot fetch the packages of {FOLDER}/package-lock.json ({code}): it needs its registry, or a cache"
            ))),
            (false, None) => Err(Stopped::Failed(format!("npm ci: {status}"))),
        }
    }

    /// Runs a script of tests, and returns how many passed.
    fn tests(&self, script: &str, needed: Option<(&Path, &Servers)>) -> Result<u64> {
        let mut command = self.command(&["run", script]);
        if let Some((browser, servers)) = needed {
            let program = self.workspace.target.join("debug/console-server");
            command
                .env(CHROMIUM_VARIABLE, browser)
                .env(SERVER_VARIABLE, program)
                .env(AMQP_VARIABLE, &servers.amqp_url)
                .env(POSTGRES_VARIABLE, &servers.postgres_url);
        }
        let mut tally = Tally::default();
        let status = bounded::run(command, self.end, |line| {
            println!("{line}");
            tally.note(line);
        })?;
        ensure!(
            status.success(),
            "npm run {script}: {} failed, see above",
            tally.failed
        );
        ensure!(tally.passed > 0, "npm run {script} has tested nothing");
        ensure!(
            tally.skipped == 0,
            "npm run {script}: {} skipped, see above",
            tally.skipped
        );
        Ok(tally.passed)
    }

    fn must(&self, command: Command) -> Result<()> {
        let status = bounded::run(command, self.end, |line| eprintln!("{line}"))?;
        ensure!(status.success(), "npm: {status}, see above");
        Ok(())
    }
}

/// Returns the code by which npm says in a line that it reaches no registry.
fn unreachable_by(line: &str) -> Option<&'static str> {
    let code = line.strip_prefix("npm error code ")?.trim();
    UNREACHABLE.iter().copied().find(|known| *known == code)
}

/// What Node's test runner says at its end.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Tally {
    fn note(&mut self, line: &str) {
        let mut words = line.split_whitespace();
        let (Some("ℹ"), Some(what), Some(Ok(count)), None) = (
            words.next(),
            words.next(),
            words.next().map(str::parse),
            words.next(),
        ) else {
            return;
        };
        match what {
            "pass" => self.passed = count,
            "fail" => self.failed = count,
            "skipped" => self.skipped = count,
            _ => {}
        }
    }
}

/// Builds the server, then checks and tests the console; returns whether nothing failed.
pub(crate) fn test(workspace: &Workspace) -> Result<bool> {
    let tools = Tools::find();
    build(workspace)?;
    Ok(tools.test(workspace).tell())
}

/// Builds what the journeys need.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let packages = PACKAGES.iter().flat_map(|package| ["--package", package]);
    run_command(workspace.cargo(["build", "--bins"]).args(packages))
}

/// Takes the pictures of the docs.
pub(crate) fn screenshots(workspace: &Workspace) -> Result<()> {
    let (npm, browser) = match Tools::find() {
        Tools {
            npm: Ok(npm),
            browser: Ok(browser),
        } => (npm, browser),
        Tools { npm: Err(error), .. }
        | Tools {
            browser: Err(error), ..
        } => return Err(error),
    };
    let pngquant = find_pngquant(|line| eprintln!("{line}"))?;
    build(workspace)?;
    let npm = Npm {
        program: &npm,
        workspace,
        end: Instant::now() + TIME,
    };
    if let Err(Stopped::Failed(why) | Stopped::Unreachable(why)) = npm.install() {
        bail!(why);
    }
    let folder = workspace.root.join(PICTURES);
    let mut command = npm.command(&["run", "screenshots", "--"]);
    command
        .arg(&folder)
        .env(CHROMIUM_VARIABLE, browser)
        .env(SERVER_VARIABLE, workspace.target.join("debug/console-server"));
    npm.must(command)?;
    for entry in folder.read_dir()? {
        let picture = entry?.path();
        run_command(Command::new(&pngquant).args(PNGQUANT).arg(&picture).arg(&picture))?;
        let size = picture.metadata()?.len();
        eprintln!("{}: {size} bytes", picture.display());
        ensure!(
            size <= MOST_PICTURE,
            "{} is over {MOST_PICTURE} bytes",
            picture.display()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_test_run_is_read() {
        let mut tally = Tally::default();
        for line in [
            "✔ a thing (3ms)",
            "ℹ tests 30",
            "ℹ pass 27",
            "ℹ fail 2",
            "ℹ skipped 1",
            "ℹ pass on it",
        ] {
            tally.note(line);
        }
        let expected = Tally {
            passed: 27,
            failed: 2,
            skipped: 1,
        };
        assert_eq!(tally, expected);
    }

    #[test]
    fn a_registry_that_cannot_be_reached_is_told_from_a_lock_file_that_does_not_fit() {
        assert_eq!(unreachable_by("npm error code ENOTFOUND"), Some("ENOTFOUND"));
        for line in [
            "npm error code EUSAGE",
            "npm warn code ENOTFOUND",
            "code ENOTFOUND",
        ] {
            assert_eq!(unreachable_by(line), None, "{line}");
        }
    }
}
