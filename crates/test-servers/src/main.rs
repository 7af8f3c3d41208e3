//! `private-server rabbitmq|postgres`: starts a private server, prints its URL, and keeps it until standard input
//! ends.

use std::io::Read as _;

use anyhow::{Result, bail};
use warren_test_servers::{PrivatePostgres, PrivateRabbit};

fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("rabbitmq") => keep(PrivateRabbit::start()?, PrivateRabbit::url),
        Some("postgres") => keep(PrivatePostgres::start()?, PrivatePostgres::url),
        _ => bail!("usage: private-server rabbitmq|postgres"),
    }
}

fn keep<S>(server: S, url: fn(&S) -> String) -> Result<()> {
    println!("{}", url(&server));
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
