//! Log lines on standard error, and panics among them.

use std::fmt::Write as _;
use std::io;
use std::panic::PanicHookInfo;

use tracing::dispatcher;
use tracing::field::Field;
use tracing::subscriber::SetGlobalDefaultError;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::fmt::format::{self, Writer};
use tracing_subscriber::fmt::{FormatFields, MakeWriter};

use super::TelemetryConfig;
use super::escape::{EscapingWriter, JsonWriter};

/// Why logging could not begin.
#[derive(Debug, thiserror::Error)]
pub enum LoggingError {
    /// `telemetry.log` is not a filter; [`TelemetryConfig::problems`] finds it earlier.
    #[error("telemetry.log is not a log filter")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Something else logs already.
    #[error("logging has already begun")]
    AlreadySet(#[source] SetGlobalDefaultError),
}

/// Begins to log to standard error, and to log and count panics.
///
/// # Errors
/// When the filter cannot be read, or when called twice.
pub fn init(config: &TelemetryConfig) -> Result<(), LoggingError> {
    let filter = filter(&config.log).map_err(LoggingError::Filter)?;
    let set = if config.is_text() {
        tracing::subscriber::set_global_default(text_lines(filter, io::stderr))
    } else {
        tracing::subscriber::set_global_default(json_lines(filter, || JsonWriter(io::stderr())))
    };
    set.map_err(LoggingError::AlreadySet)?;
    install_panic_hook();
    Ok(())
}

/// Reads a filter. What a migration does is told by who runs it; each of its steps is for those who ask for them by name.
fn filter(log: &str) -> Result<EnvFilter, tracing_subscriber::filter::ParseError> {
    // What an empty filter means by itself.
    let log = if log.is_empty() { "error" } else { log };
    EnvFilter::try_new(format!("sea_orm_migration=warn,{log}"))
}

fn json_lines<W>(filter: EnvFilter, writer: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_writer(writer)
        .finish()
}

fn text_lines<W>(filter: EnvFilter, writer: W) -> impl tracing::Subscriber + Send + Sync
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    tracing_subscriber::fmt()
        // Colours would be escape sequences among those that are not let through.
        .with_ansi(false)
        .fmt_fields(escaped_fields())
        .with_env_filter(filter)
        .log_internal_errors(false)
        .with_writer(writer)
        .finish()
}

/// Writes fields as `name=value`, with all that comes from outside escaped.
fn escaped_fields() -> impl for<'w> FormatFields<'w> + Clone + Send + Sync + 'static {
    let write = |writer: &mut Writer<'_>, field: &Field, value: &dyn std::fmt::Debug| {
        if field.name() != "message" {
            write!(writer, "{}=", field.name())?;
        }
        write!(EscapingWriter(writer), "{value:?}")
    };
    format::debug_fn(write).delimited(" ")
}

/// Makes a panic a log line and a number, instead of stray text that no operator's tools read.
fn install_panic_hook() {
    let previous = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        metrics::counter!("warren_panics_total").increment(1);
        if dispatcher::has_been_set() {
            report(panic);
        } else {
            previous(panic);
        }
    }));
}

fn report(panic: &PanicHookInfo<'_>) {
    let message = panic.payload_as_str().unwrap_or("no message");
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    tracing::error!(
        panic = message,
        place,
        thread = thread.name().unwrap_or("unnamed"),
        "a task panicked"
    );
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Captured {
        fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    fn log_something_hostile() {
        let span = tracing::info_span!("request", peer = %"x\u{1b}[31m");
        let _entered = span.enter();
        tracing::warn!(reason = %"first\nFATAL forged line", quoted = "a\u{202e}b", "could not \u{1b}[2Jstore");
    }

    #[test]
    fn a_text_line_is_one_line_whatever_a_client_put_into_it() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = text_lines(EnvFilter::new("info"), move || writer.clone());
        tracing::subscriber::with_default(subscriber, log_something_hostile);
        let text = captured.text();
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(
            text.contains(r"could not \u{1b}[2Jstore reason=first\nFATAL forged line"),
            "{text:?}"
        );
        assert!(!text.contains('\u{1b}') && !text.contains('\u{202e}'), "{text:?}");
    }

    #[test]
    fn steps_of_migrations_are_logged_only_when_they_are_asked_for() {
        let logged = |log: &str| {
            let captured = Captured::default();
            let writer = captured.clone();
            let subscriber = text_lines(filter(log).unwrap(), move || writer.clone());
            tracing::subscriber::with_default(subscriber, || {
                tracing::info!(target: "sea_orm_migration::migrator::exec", "a step");
                tracing::info!("ready");
            });
            captured.text().lines().count()
        };
        assert_eq!(logged("info"), 1);
        assert_eq!(logged("debug"), 1);
        assert_eq!(logged("info,sea_orm_migration=info"), 2);
        assert_eq!(logged(""), 0);
        assert!(filter("info,=").is_err());
    }

    #[test]
    fn a_json_line_holds_every_field_and_no_raw_control_character() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = json_lines(EnvFilter::new("info"), move || JsonWriter(writer.clone()));
        tracing::subscriber::with_default(subscriber, log_something_hostile);
        let text = captured.text();
        assert_eq!(text.matches('\n').count(), 1, "{text:?}");
        assert!(!text.contains('\u{202e}'), "{text:?}");
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(line["message"], "could not \u{1b}[2Jstore");
        assert_eq!(line["reason"], "first\nFATAL forged line");
        assert_eq!(line["level"], "WARN");
    }
}
