//! Whether a PostgreSQL can be used: logs in, and asks whether databases may be created.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use crate::address::Address;
use crate::programs;

/// Protocol 3.0, as the first message names it.
const PROTOCOL: u32 = 196_608;
/// Bytes; nothing asked for here is longer.
const MAX_MESSAGE: usize = 64 << 10;

const MAY_CREATE: &str = "select rolsuper or rolcreatedb from pg_roles where rolname = current_user";

/// Tries everything a test would need of the server behind `url`.
///
/// # Errors
/// When one of the steps fails, with the server's own words where it gave some.
pub(crate) fn probe(url: &str) -> Result<()> {
    let answer = match ask(url, MAY_CREATE)? {
        Asked::Answered(answer) => answer,
        // SCRAM and TLS are left to those who have them already.
        Asked::NeedsMore(what) => match programs::find("psql", programs::POSTGRES) {
            Some(psql) => through_psql(&psql, url)?,
            None => bail!("asks for {what}, which cannot be tried without `psql`: install postgresql-client"),
        },
    };
    ensure!(
        answer.as_deref() == Some("t"),
        "does not let this user create databases"
    );
    Ok(())
}

fn through_psql(psql: &std::path::Path, url: &str) -> Result<Option<String>> {
    let output = Command::new(psql)
        .env("PGCONNECT_TIMEOUT", "5")
        .args([
            "--no-psqlrc",
            "--no-password",
            "--tuples-only",
            "--no-align",
            "--command",
            MAY_CREATE,
            url,
        ])
        .output()
        .context("cannot start psql")?;
    ensure!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(Some(String::from_utf8_lossy(&output.stdout).trim().to_owned()))
}

/// What came of a query.
enum Asked {
    /// The first column of the first row.
    Answered(Option<String>),
    /// The server wants to be spoken to in a way this module cannot.
    NeedsMore(&'static str),
}

fn ask(url: &str, query: &str) -> Result<Asked> {
    let address = Address::parse(url)?;
    ensure!(
        matches!(address.scheme.as_str(), "postgres" | "postgresql"),
        "expected postgres://…"
    );
    let mut server = Server(address.connect(5432).context("cannot connect")?);
    let user = if address.user.is_empty() {
        "postgres"
    } else {
        &address.user
    };
    let database = if address.path.is_empty() {
        user
    } else {
        &address.path
    };
    let mut startup = PROTOCOL.to_be_bytes().to_vec();
    startup.extend(format!("user\0{user}\0database\0{database}\0\0").as_bytes());
    server.send(None, &startup)?;
    loop {
        let (kind, body) = server.receive()?;
        match (kind, authentication(&body)) {
            (b'R', Some(0)) => {}
            (b'R', Some(3)) => server.send(Some(b'p'), format!("{}\0", address.password).as_bytes())?,
            (b'R', Some(5)) => return Ok(Asked::NeedsMore("an MD5 password")),
            (b'R', _) => return Ok(Asked::NeedsMore("a SCRAM password")),
            (b'Z', _) => break,
            (b'E', _) => {
                let error = error_text(&body);
                if error.contains("no encryption") || error.contains("SSL off") {
                    return Ok(Asked::NeedsMore("an encrypted connection"));
                }
                bail!("{error}");
            }
            _ => {}
        }
    }
    server.send(Some(b'Q'), format!("{query}\0").as_bytes())?;
    let mut answer = None;
    loop {
        let (kind, body) = server.receive()?;
        match kind {
            b'D' => answer = first_column(&body),
            b'E' => bail!("{}", error_text(&body)),
            b'Z' => break,
            _ => {}
        }
    }
    server.send(Some(b'X'), &[])?;
    Ok(Asked::Answered(answer))
}

struct Server(TcpStream);

impl Server {
    fn send(&mut self, kind: Option<u8>, body: &[u8]) -> Result<()> {
        let mut message: Vec<u8> = kind.into_iter().collect();
        message.extend((body.len() as u32 + 4).to_be_bytes());
        message.extend(body);
        Ok(self.0.write_all(&message)?)
    }

    fn receive(&mut self) -> Result<(u8, Vec<u8>)> {
        let mut head = [0; 5];
        self.0
            .read_exact(&mut head)
            .context("the server hung up or fell silent")?;
        let size = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        ensure!(
            (4..=MAX_MESSAGE).contains(&size),
            "does not speak PostgreSQL's protocol"
        );
        let mut body = vec![0; size - 4];
        self.0.read_exact(&mut body)?;
        Ok((head[0], body))
    }
}

fn authentication(body: &[u8]) -> Option<u32> {
    body.first_chunk().map(|code| u32::from_be_bytes(*code))
}

fn first_column(row: &[u8]) -> Option<String> {
    let size = u32::from_be_bytes(row.get(2..6)?.try_into().ok()?) as usize;
    Some(String::from_utf8_lossy(row.get(6..6 + size)?).into_owned())
}

/// Returns the message (`M`) of an error response.
fn error_text(body: &[u8]) -> String {
    let fields = body.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let message = fields
        .into_iter()
        .find_map(|field| field.strip_prefix('M').map(ToOwned::to_owned));
    message.unwrap_or_else(|| "refused without a word".to_owned())
}
