//! Storing beside those who look on through `query-api`: consoles, and live tails.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};
use warren_e2e::bed::lend;
use warren_e2e::http::Client;
use warren_e2e::request::Request;

use super::storing::{Pairs, by_turns};
use super::{Reading, Table};
use crate::load::{Load, Pace};
use crate::messages::{self, Mix};
use crate::report::Figures;
use crate::servers::Servers;
use crate::whole_path::{Programs, with};

/// How many consoles are open beside it.
pub(crate) const CONSOLES: usize = 10;
/// How many tails of errors are.
pub(crate) const TAILS: usize = 100;

/// How long a tail may take to begin.
const BEGIN: Duration = Duration::from_secs(10);
/// How long the program that is looked at may take to end.
const END: Duration = Duration::from_secs(30);

/// Messages a second that come steadily.
pub(crate) const STEADY: f64 = 20_000.0;
/// Messages in each request.
const REQUEST: u64 = 100;

const MIX: Mix = Mix {
    severities: 5,
    sources: 4,
};

/// What an open page asks for again and again, and how often; as `console/*.js` has it.
const POLLED: [(&str, Duration); 4] = [
    ("/v1/counts?from=-1h&bucket=1m", Duration::from_secs(4)),
    ("/v1/groups", Duration::from_secs(2)),
    ("/v1/pipeline", Duration::from_secs(2)),
    ("/v1/sources?from=-1h", Duration::from_secs(15)),
];
/// The same of a page that shows a day.
const POLLED_OF_A_DAY: [(&str, Duration); 4] = [
    ("/v1/counts?from=-1d&bucket=15m", Duration::from_secs(4)),
    ("/v1/groups", Duration::from_secs(2)),
    ("/v1/pipeline", Duration::from_secs(2)),
    ("/v1/sources?from=-1d", Duration::from_secs(15)),
];
/// What it asks for when it is opened, before its tail.
const LISTED: &str = "/v1/messages?from=-1h&order=newest&limit=200";

/// What was measured alone and beside those who look on.
#[derive(Clone, Debug, Default)]
pub(crate) struct Watched {
    pub(crate) stored: Pairs,
    /// Processor seconds a million messages, by program: each time alone, and each time beside them.
    pub(crate) processor: BTreeMap<&'static str, [Vec<f64>; 2]>,
}

/// Who looks on.
#[derive(Clone, Copy, Debug)]
enum Audience {
    Consoles,
    Tails,
}

/// Stores what comes through RabbitMQ into a large table, alone and beside open consoles: at a steady rate, and as fast as
/// it goes.
///
/// # Errors
/// A server or a program failed.
pub(crate) async fn by_consoles(servers: &Servers, table: &Table, reading: &Reading) -> Result<[Watched; 2]> {
    let reading = Reading {
        settings: [
            reading.settings.clone(),
            vec![("WARREN_POSTGRES__URL".to_owned(), table.database.url())],
        ]
        .concat(),
        ..reading.clone()
    };
    at_both_paces(servers, &reading, Audience::Consoles).await
}

/// Stores what comes through RabbitMQ, alone and while tails of errors are open: at a steady rate, and as fast as it goes.
///
/// # Errors
/// A server or a program failed.
pub(crate) async fn by_tails(servers: &Servers, reading: &Reading) -> Result<[Watched; 2]> {
    at_both_paces(servers, reading, Audience::Tails).await
}

async fn at_both_paces(servers: &Servers, reading: &Reading, audience: Audience) -> Result<[Watched; 2]> {
    let steady = Pace::Open(STEADY / REQUEST as f64);
    Ok([
        watched(servers, reading, steady, audience).await?,
        watched(servers, reading, Pace::Closed, audience).await?,
    ])
}

async fn watched(servers: &Servers, reading: &Reading, pace: Pace, audience: Audience) -> Result<Watched> {
    let mut processor: BTreeMap<_, [Vec<f64>; 2]> = BTreeMap::new();
    let what = match audience {
        Audience::Consoles => format!("beside {CONSOLES} consoles"),
        Audience::Tails => format!("beside {TAILS} live tails"),
    };
    let stored = by_turns(&what, reading.pairs, async |beside| {
        let figures = figures(servers, reading, pace, beside.then_some(audience)).await?;
        for (program, seconds) in figures.processor_seconds_per_million {
            processor.entry(program).or_default()[usize::from(beside)].push(seconds);
        }
        figures.stored_per_second.context("nothing was stored")
    })
    .await?;
    Ok(Watched { stored, processor })
}

async fn figures(
    servers: &Servers,
    reading: &Reading,
    pace: Pace,
    audience: Option<Audience>,
) -> Result<Figures> {
    lend(&servers.amqp, &servers.postgres, async |bed| {
        let programs = Programs::distributed(bed, &reading.settings).await?;
        let asked = programs
            .addresses()
            .map(|address| format!("http://{address}"))
            .join(",");
        let query = bed.query()?.setting("WARREN_PIPELINE__PROGRAMS", asked);
        let mut query = with(query, &reading.settings);
        query.start_ready().await?;
        let mut looking = look_on(query.address(), audience).await?;
        let load = Load {
            address: ([127, 0, 0, 1], 0).into(),
            requests: messages::requests(REQUEST as usize, MIX),
            messages: REQUEST,
            connections: 16,
            duration: reading.load,
            most_messages: u64::MAX,
            pace,
            goes_first: false,
        };
        let other = query.pid().map(|pid| ("query-api", pid));
        let (figures, _) = programs.measure_beside(servers, other, load).await?;
        if let Some(ended) = looking.try_join_next() {
            ended?.context("one that looked on failed")?;
        }
        looking.shutdown().await;
        query.stop(END).await?;
        Ok(figures)
    })
    .await
}

/// Has them begin; each goes on until it is aborted.
async fn look_on(address: SocketAddr, audience: Option<Audience>) -> Result<JoinSet<Result<()>>> {
    let mut looking = JoinSet::new();
    match audience {
        None => {}
        Some(Audience::Tails) => {
            for _ in 0..TAILS {
                let tail = begin(address, "severity=error%2B").await?;
                looking.spawn(drain(tail));
            }
        }
        Some(Audience::Consoles) => {
            for number in 0..CONSOLES {
                get(&mut Client::new(address), LISTED).await?;
                looking.spawn(drain(begin(address, "").await?));
                let polled = if number % 2 == 0 { POLLED } else { POLLED_OF_A_DAY };
                for (target, every) in polled {
                    // People do not open their pages at the same time.
                    let late = every.mul_f64(number as f64 / CONSOLES as f64);
                    looking.spawn(poll(address, target, every, late));
                }
            }
        }
    }
    Ok(looking)
}

async fn poll(address: SocketAddr, target: &'static str, every: Duration, late: Duration) -> Result<()> {
    let mut client = Client::new(address);
    sleep(late).await;
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        get(&mut client, target).await?;
    }
}

async fn get(client: &mut Client, target: &str) -> Result<()> {
    let answer = client.send(&Request::get(target)).await?;
    ensure!(
        answer.status == 200,
        "{target}: {} {}",
        answer.status,
        answer.text_start()
    );
    Ok(())
}

/// Opens a tail and waits until it has begun.
async fn begin(address: SocketAddr, query: &str) -> Result<TcpStream> {
    let beginning = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /v1/tail?{query} HTTP/1.1\r\nhost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut head = Vec::new();
        while !head.windows(4).any(|end| end == b"\r\n\r\n") {
            ensure!(stream.read_buf(&mut head).await? > 0, "the tail ended at once");
        }
        ensure!(
            head.starts_with(b"HTTP/1.1 200"),
            "the tail was refused: {}",
            String::from_utf8_lossy(&head)
        );
        anyhow::Ok(stream)
    };
    timeout(BEGIN, beginning).await.context("a tail does not begin")?
}

async fn drain(mut tail: TcpStream) -> Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        ensure!(tail.read(&mut buffer).await? > 0, "a tail has ended");
    }
}
