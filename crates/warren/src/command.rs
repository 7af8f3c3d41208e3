//! What the commands for people have in common: how they read settings and how they end.

use std::io::{self, Write as _};
use std::time::Duration;

use anstream::stream::RawStream;
use anstream::{AutoStream, ColorChoice};
use anyhow::Context as _;
use warren_domain::Timestamp;
use warren_process::exit::Exit;
use warren_process::settings::{self, Sources};

use crate::settings::Settings;

/// Reads the settings; where they are wrong, says so and how to end.
pub(crate) fn settings(sources: &Sources) -> Result<Settings, Exit> {
    settings::load(sources)
        .map(|loaded| loaded.settings)
        .map_err(|problems| {
            eprintln!("{problems}");
            Exit::Configuration
        })
}

/// Says what failed, if anything, and returns how to end.
///
/// A reader that has gone, as in `warren tail | head`, is no failure.
pub(crate) fn end(outcome: anyhow::Result<Exit>) -> Exit {
    match outcome {
        Ok(exit) => exit,
        Err(error) if error.downcast_ref::<io::Error>().is_some_and(is_broken_pipe) => Exit::Clean,
        Err(error) => {
            eprintln!("error: {error:#}");
            Exit::Failure
        }
    }
}

/// Says what is wrong with the command line, as the parser of the command line does.
pub(crate) fn usage(problem: impl std::fmt::Display) -> Exit {
    eprintln!("error: {problem}\n\nFor more information, try '--help'.");
    Exit::Usage
}

/// Writes to standard output for a command whose work goes on, and whose exit code counts, without a reader too.
pub(crate) fn print(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if is_broken_pipe(&error) => Ok(()),
        written => written.context("cannot write to standard output"),
    }
}

/// Tells whether whoever reads the output has gone.
pub(crate) fn is_broken_pipe(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::BrokenPipe
}

/// Tells whether colours may be written there: on a terminal that has some, unless `NO_COLOR` is set.
pub(crate) fn colours(output: &impl RawStream) -> bool {
    AutoStream::choice(output) != ColorChoice::Never
}

/// Reads an interval.
pub(crate) fn every(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a duration such as 500ms, 2s or 1m"))?;
    if interval < Duration::from_millis(100) || interval > Duration::from_secs(86_400) {
        return Err("an interval is between 100ms and 1day".to_owned());
    }
    Ok(interval)
}

/// Reads a time to wait.
pub(crate) fn patience(text: &str) -> Result<Duration, String> {
    let patience = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write a duration such as 500ms, 30s or 5m"))?;
    if patience.is_zero() || patience > Duration::from_secs(7 * 86_400) {
        return Err("a time to wait is more than nothing and at most 7days".to_owned());
    }
    Ok(patience)
}

/// Writes a number with a comma between each three digits.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Writes to standard output; a reader that has gone ends the command.
pub(crate) fn write(text: &str) -> anyhow::Result<()> {
    let mut output = io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if is_broken_pipe(&error) => Err(error.into()),
        written => written.context("cannot write to standard output"),
    }
}

/// Reads a time: RFC 3339, or how long ago.
pub(crate) fn time(text: &str) -> Result<Timestamp, String> {
    if let Ok(time) = text.parse() {
        return Ok(time);
    }
    let ago = humantime::parse_duration(text).map_err(|_| {
        "write a time such as 2026-11-22T13:00:00Z, or how long ago, such as 30m or 2days".to_owned()
    })?;
    let ago = i64::try_from(ago.as_micros()).map_err(|_| "that is too long ago".to_owned())?;
    Timestamp::from_unix_micros(Timestamp::now().unix_micros().saturating_sub(ago))
        .ok_or_else(|| "that is before 1970".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_numbers_are_grouped() {
        let written = [0, 999, 1_000, 1_234_567].map(grouped);
        assert_eq!(written, ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn an_interval_and_a_patience_have_bounds_and_say_them() {
        assert_eq!(every("2s"), Ok(Duration::from_secs(2)));
        assert!(every("1ms").unwrap_err().contains("between 100ms and 1day"));
        assert!(every("often").unwrap_err().contains("such as 500ms"));
        assert_eq!(patience("10ms"), Ok(Duration::from_millis(10)));
        assert!(patience("0s").unwrap_err().contains("more than nothing"));
    }

    #[test]
    fn a_reader_that_has_gone_is_no_failure() {
        let gone = io::Error::from(io::ErrorKind::BrokenPipe);
        assert_eq!(end(Err(gone.into())), Exit::Clean);
        assert_eq!(end(Err(anyhow::anyhow!("no"))), Exit::Failure);
    }

    #[test]
    fn a_time_is_a_moment_or_how_long_ago() {
        assert_eq!(
            time("2026-11-22T13:00:00Z"),
            Ok("2026-11-22T13:00:00Z".parse().unwrap())
        );
        let ago = Timestamp::now().unix_micros() - time("2h").unwrap().unix_micros();
        assert!((7_190_000_000..7_210_000_000).contains(&ago));
        assert!(time("yesterday").unwrap_err().contains("how long ago"));
        assert!(time("100years").unwrap_err().contains("1970"));
    }
}
