//! Storing beside live tails, through the programs.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use warren_e2e::bed::lend;
use warren_e2e::environment;

use super::Reading;
use super::storing::Pairs;
use crate::load::{Load, Pace};
use crate::messages::{self, Mix};
use crate::servers::Servers;
use crate::whole_path::Programs;

/// How many read.
pub(crate) const TAILS: usize = 100;
/// How long each load runs.
const LOAD: Duration = Duration::from_secs(4);
/// How long a tail may take to begin.
const BEGIN: Duration = Duration::from_secs(10);

/// Messages a second that come steadily.
pub(crate) const STEADY: f64 = 20_000.0;
/// Messages in each request.
const REQUEST: u64 = 100;

/// Stores what comes through RabbitMQ, alone and while tails of errors are open: at a steady rate, and as fast as it goes.
///
/// # Errors
/// A server or a program failed.
pub(crate) async fn measure(postgres: &str, reading: &Reading) -> Result<[Pairs; 2]> {
    let servers = Servers::at(environment::amqp_url(), postgres.to_owned()).await?;
    let steady = Pace::Open(STEADY / REQUEST as f64);
    Ok([
        pairs(&servers, reading, steady).await?,
        pairs(&servers, reading, Pace::Closed).await?,
    ])
}

async fn pairs(servers: &Servers, reading: &Reading, pace: Pace) -> Result<Pairs> {
    let mut measured = Pairs::default();
    for pair in 1..=reading.pairs {
        eprintln!(
            "  storing alone and beside {TAILS} live tails, {pair} of {}",
            reading.pairs
        );
        let alone = rate(servers, reading, pace, 0).await?;
        let beside = rate(servers, reading, pace, TAILS).await?;
        measured.add(alone, beside);
    }
    Ok(measured)
}

async fn rate(servers: &Servers, reading: &Reading, pace: Pace, tails: usize) -> Result<f64> {
    lend(&servers.amqp, &servers.postgres, async |bed| {
        let programs = Programs::distributed(bed, &reading.settings).await?;
        let mut open = JoinSet::new();
        for _ in 0..tails {
            let mut stream = begin(programs.store().address()).await?;
            open.spawn(async move {
                let mut buffer = vec![0; 16 << 10];
                while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
            });
        }
        let load = Load {
            address: ([127, 0, 0, 1], 0).into(),
            requests: messages::requests(REQUEST as usize, MIX),
            messages: REQUEST,
            connections: 16,
            duration: LOAD,
            most_messages: u64::MAX,
            pace,
            goes_first: false,
        };
        let (figures, _) = programs.measure(servers, load).await?;
        figures.stored_per_second.context("nothing was stored")
    })
    .await
}

const MIX: Mix = Mix {
    severities: 5,
    sources: 4,
};

/// Opens a tail and waits until it has begun.
async fn begin(address: SocketAddr) -> Result<TcpStream> {
    let beginning = async {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"GET /v1/tail?severity=error%2B HTTP/1.1\r\nhost: bench\r\n\r\n")
            .await?;
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
