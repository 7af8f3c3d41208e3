//! `warren tail`: what is published now.

use std::io::{self, BufWriter, Write as _};

use anyhow::{Context as _, Result};
use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;
use warren_adapter_amqp::{AmqpTail, TailEvent};
use warren_domain::{Selection, SeveritySet, SourcePattern};
use warren_process::exit::Exit;
use warren_process::settings::Sources;
use warren_process::shutdown;
use warren_process::telemetry::escape::Escaped;

use crate::command::{self, grouped};
use crate::line::{self, Moment};
use crate::settings::Settings;

/// Bytes that are written at once while more is there.
const OUTPUT_BYTES: usize = 64 << 10;

/// What to listen to, and how to show it.
#[derive(Debug, clap::Args)]
pub(crate) struct TailArgs {
    /// Only these severities, such as `error,critical` or `error+` for it and everything graver
    #[arg(long, value_name = "SEVERITIES", default_value = "all")]
    severity: SeveritySet,
    /// Only these sources, such as `billing.#`: `*` stands for one segment, `#` for any number; may be repeated
    #[arg(long, value_name = "PATTERN")]
    source: Vec<SourcePattern>,
    /// Print each message as its line of JSON
    #[arg(long)]
    json: bool,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Shows what is published to RabbitMQ from now on.
pub(crate) async fn run(arguments: TailArgs, sources: &Sources) -> Exit {
    let settings = match command::settings(sources) {
        Ok(settings) => settings,
        Err(exit) => return exit,
    };
    command::end(follow(&arguments, settings).await.map(|()| Exit::Clean))
}

async fn follow(arguments: &TailArgs, settings: Settings) -> Result<()> {
    let stop = shutdown::on_signals()?;
    let selection = Selection {
        severities: arguments.severity,
        sources: arguments.source.clone(),
    };
    let mut tail = AmqpTail::start(settings.amqp, selection).context("cannot listen to RabbitMQ")?;
    let shown = show(arguments, &mut tail, &stop).await;
    tail.close().await;
    shown
}

async fn show(arguments: &TailArgs, tail: &mut AmqpTail, stop: &CancellationToken) -> Result<()> {
    let colours = command::colours(&io::stdout());
    let mut output = BufWriter::with_capacity(OUTPUT_BYTES, io::stdout());
    let mut shown = 0;
    loop {
        // What is there already goes out together.
        let event = match tail.next().now_or_never() {
            Some(event) => event,
            None => {
                output.flush()?;
                match stop.run_until_cancelled(tail.next()).await {
                    Some(event) => event,
                    None => return Ok(()),
                }
            }
        };
        match event.context("the tail has ended by itself")? {
            TailEvent::Message(message) if arguments.json => {
                output.write_all(line::json(&message).as_bytes())?;
            }
            TailEvent::Message(message) => {
                output.write_all(line::text(&message, Moment::Time, colours).as_bytes())?;
            }
            event => {
                // Everything before it first, so that it stands where it belongs.
                output.flush()?;
                eprintln!("{}", note(&event, arguments));
                continue;
            }
        }
        shown += 1;
        if arguments.count == Some(shown) || stop.is_cancelled() {
            return output.flush().map_err(Into::into);
        }
    }
}

/// Says what a person has to know who reads on.
fn note(event: &TailEvent, arguments: &TailArgs) -> String {
    match event {
        TailEvent::Message(_) => String::new(),
        TailEvent::Listening => {
            let sources: Vec<_> = arguments.source.iter().map(SourcePattern::as_str).collect();
            let of = match sources.is_empty() {
                true => "every source".to_owned(),
                false => sources.join(", "),
            };
            format!("listening to {} of {of}; Ctrl-C ends", arguments.severity)
        }
        TailEvent::Missed { messages } => format!(
            "missed {} here: they came faster than they were read",
            match messages.total() {
                1 => "1 message".to_owned(),
                many => format!("{} messages", grouped(many)),
            }
        ),
        TailEvent::Overrun => {
            "missed messages here, it is not known how many: RabbitMQ dropped them, as they came \
                               faster than it could send them"
                .to_owned()
        }
        TailEvent::Undecodable { lines, reason } => format!(
            "passed over {} lines that are no messages: {}",
            grouped(*lines),
            Escaped(reason)
        ),
        TailEvent::Disconnected { reason } => {
            format!("not connected: {}; trying again", Escaped(reason))
        }
        TailEvent::Reconnected => "connected again; what was published in between is not shown".to_owned(),
    }
}
