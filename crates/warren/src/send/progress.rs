//! What a person sees while messages are sent, and what a log keeps of it.

use std::borrow::Cow;
use std::io::{self, IsTerminal as _};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::command::grouped;

/// How often a terminal is drawn again.
const REDRAW: Duration = Duration::from_millis(100);

/// A bar on standard error when that is a terminal; else nothing but the notes.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
}

impl Progress {
    /// Begins; with `length`, which is of whatever `advance` is told, there is a bar, without it a count.
    pub(crate) fn begin(length: Option<u64>) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let target = ProgressDrawTarget::stderr();
            let (bar, style) = match length {
                Some(length) => (
                    ProgressBar::with_draw_target(Some(length), target),
                    "{bar:30.green} {percent:>3} %  {wide_msg}",
                ),
                None => (
                    ProgressBar::with_draw_target(None, target),
                    "{spinner:.green} {wide_msg}",
                ),
            };
            // The templates are constants, so that the plain style is never needed.
            bar.set_style(
                ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_spinner()),
            );
            bar.enable_steady_tick(REDRAW);
            bar
        });
        Self {
            bar,
            began: Instant::now(),
        }
    }

    /// Shows how far it is: `position` of the length, and a text.
    pub(crate) fn advance(&self, position: u64, message: impl Into<Cow<'static, str>>) {
        if let Some(bar) = &self.bar {
            bar.set_position(position);
            bar.set_message(message);
        }
    }

    /// Shows a text, as far as it is.
    pub(crate) fn tell(&self, message: impl Into<Cow<'static, str>>) {
        if let Some(bar) = &self.bar {
            bar.set_message(message);
        }
    }

    /// Writes a line above the bar, or into the log.
    pub(crate) fn note(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.suspend(|| eprintln!("{line}")),
            None => eprintln!("{line}"),
        }
    }

    /// Returns a count with its rate since the beginning.
    pub(crate) fn rate(&self, count: u64) -> String {
        format!(
            "{} ({}/s)",
            grouped(count),
            grouped(per_second(count, self.began.elapsed()))
        )
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

/// Returns a whole number of things a second.
pub(crate) fn per_second(count: u64, time: Duration) -> u64 {
    let seconds = time.as_secs_f64().max(0.001);
    (count as f64 / seconds).round() as u64
}
