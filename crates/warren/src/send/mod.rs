//! `warren send`: messages from the command line.

mod attributes;
mod input;
mod outcome;
pub(crate) mod progress;
mod target;

use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Map, Value};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use warren_client::{Logger, NotLogged, WhenFull};
use warren_domain::{Attributes, Severity, Source};
use warren_process::exit::Exit;
use warren_process::settings::Sources;
use warren_process::shutdown;
use warren_process::telemetry::escape::Escaped;

use crate::command;
use attributes::Attribute;
use input::Input;
use outcome::Outcome;
use progress::Progress;
use target::Target;

/// How long an interrupted command waits for what is on its way.
const INTERRUPTED_WAIT: Duration = Duration::from_secs(3);

/// How often is looked whether anything still gets through.
const WATCH: Duration = Duration::from_millis(100);

/// Longer than anybody waits.
const FOREVER: Duration = Duration::from_secs(365 * 86_400);

/// After what time somebody who waits is told why.
const TELL_AFTER: Duration = Duration::from_secs(1);

/// So many lines that cannot be sent are told one by one.
const FAULTS_TOLD: u64 = 10;

/// What to send, and where to.
#[derive(Debug, clap::Args)]
pub(crate) struct SendArgs {
    /// How grave it is: debug, info, warning, error or critical
    #[arg(long, default_value = "info", value_parser = severity)]
    severity: Severity,
    /// Who says it: segments joined by dots, such as billing.api
    #[arg(long, default_value = "default", value_parser = source)]
    source: Source,
    /// Add an attribute; may be repeated. VALUE is JSON where it is some (42, true, null, "text", […], {…}), else text
    #[arg(short, long = "attribute", value_name = "KEY=VALUE", value_parser = Attribute::parse)]
    attribute: Vec<Attribute>,
    /// Send to a server of Warren (http://…, https://…) or straight to RabbitMQ (amqp://…, amqps://…, or amqp for that of amqp.url) [default: the server of http.listen]
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Print the id of each message on standard output; all of them are kept once the command ends with 0
    #[arg(long, conflicts_with = "json")]
    ids: bool,
    /// Print what came of it as one line of JSON
    #[arg(long)]
    json: bool,
    /// Give up when nothing got through for so long
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = command::patience)]
    timeout: Duration,
    /// What is said; - reads standard input, each line one message
    #[arg(value_name = "TEXT|-", allow_hyphen_values = false)]
    text: String,
}

/// Reads a severity as people write it.
fn severity(text: &str) -> Result<Severity, String> {
    text.parse()
        .map_err(|_| "expected debug, info, warning, error, critical, or one of their aliases".to_owned())
}

/// Reads a source, and says what one is.
fn source(text: &str) -> Result<Source, String> {
    text.parse().map_err(|problem| {
        format!(
            "it {problem}; expected segments of A–Z, a–z, 0–9, _ and - joined by dots, such as billing.api"
        )
    })
}

/// Sends what the arguments say.
pub(crate) async fn run(arguments: SendArgs, sources: &Sources) -> Exit {
    let settings = match command::settings(sources) {
        Ok(settings) => settings,
        Err(exit) => return exit,
    };
    let target = match Target::of(arguments.to.as_deref(), &settings) {
        Ok(target) => target,
        Err(problem) => return command::usage(problem),
    };
    let attributes = match attributes::gather(arguments.attribute.clone()) {
        Ok(attributes) => attributes,
        Err(key) => return command::usage(format!("the attribute '{}' is given twice", Escaped(&key))),
    };
    let limits = settings.intake.message_limits();
    if let Err(rejection) = Attributes::new(attributes.clone(), &limits) {
        return command::usage(format!("the attributes cannot be sent: {}", rejection.detail));
    }
    let sent = async {
        let stop = shutdown::on_signals()?;
        let logger = Logger::builder().when_full(WhenFull::Wait).limits(limits);
        let logger = target.start(logger).await?;
        let sending = Sending {
            logger,
            attributes,
            arguments: &arguments,
            progress: Progress::begin(input_length(&arguments.text)),
        };
        sending.run(&target, limits.body_bytes, stop).await
    };
    command::end(sent.await)
}

/// Returns how many bytes there are to read, where standard input is a file.
fn input_length(text: &str) -> Option<u64> {
    let input = (text == "-")
        .then(|| Path::new("/dev/stdin").metadata().ok())
        .flatten()?;
    input.is_file().then_some(input.len())
}

/// What is being sent.
struct Sending<'a> {
    logger: Logger,
    attributes: Map<String, Value>,
    arguments: &'a SendArgs,
    progress: Progress,
}

/// Why no more is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// There is no more.
    Done,
    /// Somebody pressed Ctrl-C.
    Interrupted,
    /// Nothing gets through.
    Stalled,
}

/// What happened to lines that never became messages.
#[derive(Debug, Default)]
struct Faults {
    lines: u64,
    broken: Option<io::Error>,
    /// Messages that were given up while they waited for room.
    given_up: u64,
}

impl Sending<'_> {
    async fn run(self, target: &Target, longest: usize, stop: CancellationToken) -> Result<Exit> {
        let began = Instant::now();
        let mut faults = Faults::default();
        // Cancelled by the signal, and by whoever sees that nothing gets through.
        let halt = stop.child_token();
        let (end, ()) = {
            let reading = async {
                let end = self.send_all(longest, &halt, &mut faults).await;
                if matches!(end, Ok(End::Done)) {
                    // Room is one thing, arrival another.
                    self.arrived(&halt).await;
                }
                // Ends the watch.
                let halted = halt.is_cancelled();
                halt.cancel();
                end.map(|end| if halted { End::Stalled } else { end })
            };
            tokio::join!(reading, self.watch(&halt))
        };
        let end = match end? {
            End::Stalled if stop.is_cancelled() => End::Interrupted,
            end => end,
        };
        let wait = match end {
            End::Interrupted => INTERRUPTED_WAIT,
            End::Done | End::Stalled => WATCH,
        };
        let trouble = self.logger.stats().trouble;
        let report = self.logger.close(wait).await;
        self.progress.end();
        let outcome = Outcome::new(&report, trouble, &faults, end, began.elapsed());
        if self.arguments.json {
            command::print(&format!("{}\n", outcome.to_json(target)))?;
        }
        eprintln!("{}", outcome.text(target));
        Ok(if outcome.is_complete() {
            Exit::Clean
        } else {
            Exit::Failure
        })
    }

    /// Hands everything over to the logger.
    async fn send_all(&self, longest: usize, halt: &CancellationToken, faults: &mut Faults) -> Result<End> {
        if self.arguments.text != "-" {
            self.send(None, self.arguments.text.clone(), halt, faults).await?;
            return Ok(End::Done);
        }
        let mut lines = input::lines(io::stdin(), longest).context("cannot read standard input")?;
        while let Some(Some(input)) = halt.run_until_cancelled(lines.recv()).await {
            match input {
                Input::Line {
                    number,
                    text,
                    position,
                } => {
                    self.send(Some(number), text, halt, faults).await?;
                    self.progress.advance(position, self.shown());
                }
                Input::Fault { number, fault } => {
                    self.fault(number, &fault.to_string(), faults);
                }
                Input::Broken(error) => {
                    self.progress
                        .note(&format!("standard input cannot be read on: {error}"));
                    faults.broken = Some(error);
                }
            }
        }
        Ok(End::Done)
    }

    async fn send(
        &self,
        line: Option<u64>,
        text: String,
        halt: &CancellationToken,
        faults: &mut Faults,
    ) -> Result<()> {
        let mut entry = self
            .logger
            .log(self.arguments.severity, text)
            .source(self.arguments.source.clone());
        if !self.attributes.is_empty() {
            entry = entry.attributes(self.attributes.clone());
        }
        match halt.run_until_cancelled(entry.into_future()).await {
            // Whoever wanted the ids may have seen enough; the messages are sent all the same.
            Some(Ok(id)) if self.arguments.ids => command::print(&format!("{id}\n"))?,
            Some(Ok(_)) => {}
            Some(Err(NotLogged::Rejected(rejection))) => {
                let said = format!("{}; {}", rejection.detail, rejection.hint);
                match line {
                    Some(number) => self.fault(number, &said, faults),
                    None => self.progress.note(&format!("not sent: {said}")),
                }
            }
            Some(Err(error)) => return Err(error.into()),
            None => faults.given_up += 1,
        }
        Ok(())
    }

    /// Tells of a line that cannot be sent.
    fn fault(&self, number: u64, said: &str, faults: &mut Faults) {
        faults.lines += 1;
        match faults.lines {
            ..=FAULTS_TOLD => self.progress.note(&format!("line {number} is not sent: {said}")),
            _ if faults.lines == FAULTS_TOLD + 1 => {
                self.progress
                    .note("further lines that cannot be sent are counted only");
            }
            _ => {}
        }
    }

    /// Waits until nothing is on its way.
    async fn arrived(&self, halt: &CancellationToken) {
        // The watch is what ends this.
        drop(halt.run_until_cancelled(self.logger.flush(FOREVER)).await);
    }

    /// Shows how far it is, says why it does not go on, and halts it when nothing got through for too long.
    async fn watch(&self, halt: &CancellationToken) {
        let mut ticks = interval(WATCH);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut through, mut since, mut told) = (0, Instant::now(), false);
        while halt.run_until_cancelled(ticks.tick()).await.is_some() {
            let stats = self.logger.stats();
            let settled = stats.published.total() + stats.failed.total();
            if settled != through || stats.waiting.total() == 0 {
                (through, since, told) = (settled, Instant::now(), false);
            }
            self.progress.tell(self.shown());
            let waited = since.elapsed();
            if let Some(why) = stats.trouble.filter(|_| !told && waited >= TELL_AFTER) {
                self.progress
                    .note(&format!("waiting: {}; Ctrl-C gives up", Escaped(&why)));
                told = true;
            }
            if waited >= self.arguments.timeout {
                halt.cancel();
            }
        }
    }

    fn shown(&self) -> String {
        let stats = self.logger.stats();
        format!("{} kept", self.progress.rate(stats.published.total()))
    }
}
