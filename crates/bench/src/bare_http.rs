//! The ceiling of HTTP: a server that reads a request, answers 202 and keeps nothing.
//!
//! The same HTTP library as the intake's, in a process of its own, under the same load: what the machine has left
//! for everything else when requests come one message at a time.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;

use crate::cost::Watch;
use crate::load::Load;
use crate::report::Figures;
use crate::servers::Servers;

/// An answer as the intake gives it for one message.
const ANSWER: &str =
    r#"{"accepted":1,"rejected":0,"ids":["019aa0c0-7c1e-7d35-a5d2-8b1a3c6e2f40"],"errors":[]}"#;

/// How long the server may take to listen.
const START: Duration = Duration::from_secs(10);

/// Serves until it is killed; says where on standard output.
///
/// # Errors
/// It cannot listen.
pub(crate) async fn serve() -> Result<()> {
    let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(async move {
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
            if let Err(error) = served.await {
                eprintln!("bare-http: {error}");
            }
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let status = match request.into_body().collect().await {
        Ok(_) => StatusCode::ACCEPTED,
        Err(_) => StatusCode::BAD_REQUEST,
    };
    let mut response = Response::new(Full::from(ANSWER));
    *response.status_mut() = status;
    Ok(response)
}

/// Puts a load on such a server.
///
/// # Errors
/// The server did not start, or the load failed.
pub(crate) async fn measure(servers: &Servers, load: Load) -> Result<Figures> {
    let mut server = Command::new(std::env::current_exe()?)
        .arg("bare-http")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()?;
    let output = server.stdout.take().context("no output of bare-http")?;
    let line = timeout(START, BufReader::new(output).lines().next_line()).await;
    let line = line
        .context("bare-http does not start")??
        .context("bare-http ended")?;
    let address: SocketAddr = line.parse()?;
    let pids = [("bare-http", server.id().context("bare-http ended")?)];
    let watch = Watch::start(&servers.with(&pids))?;
    let mut outcome = Load { address, ..load }.run().await?;
    let mut figures = Figures {
        accepted_per_second: Some(outcome.accepted as f64 / outcome.elapsed.as_secs_f64()),
        p50_ms: outcome.waits.percentile(0.5),
        p99_ms: outcome.waits.percentile(0.99),
        refused: outcome.refused,
        ..Figures::default()
    };
    figures.add_costs(&watch.end()?, outcome.accepted);
    server.kill().await?;
    Ok(figures)
}
