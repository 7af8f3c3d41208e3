//! `console-server warren|services`: starts what has a console for a test in another language, prints its URL, and behind a
//! blank that of the intake where it is another, and keeps it until standard input ends.
//!
//! `warren` is that program over an empty folder; `services` are all the programs beside RabbitMQ and PostgreSQL, with a
//! member of each consumer group that Warren ships. Each line of the input is a command, and is answered with `ok` once it
//! is done:
//!
//! - `refuse`, `accept`: from now on the store refuses messages whose attribute `amount` is below 0, or takes them;
//! - of `warren`: `hold N`, `release`: a dead letter cannot be removed while there are no more than N, or can be;
//! - of `warren`: `restart`: the process is killed and started again, over the same folder and at the same address;
//! - of `services`: `leave GROUP`, `join GROUP`: the member of a group stops, or starts again; `leave worker`, `join worker`: the
//!   one that stores does;
//! - of `services`: `halt GROUP`, `go on GROUP`: the member of a group hangs, or goes on;
//! - of `services`: `close book GROUP`, `open book GROUP`: the book of a group cannot be written, or can be;
//! - of `services`: `hide intake`, `tell intake`: `query-api` is started again, without `pipeline.intake_url` or with it.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, stdin, stdout};
use tokio_postgres::Client;
use warren_e2e::bed::{Bed, lend};
use warren_e2e::counting::start_consuming;
use warren_e2e::environment;
use warren_e2e::process::Service;
use warren_e2e::sqlite::{self, DataFolder};

/// How long a program may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

/// The consumer groups that Warren ships.
const GROUPS: [&str; 4] = ["all", "debug-info", "error", "critical"];

/// The setting by which `query-api` knows where messages are sent to.
const INTAKE_URL: &str = "WARREN_PIPELINE__INTAKE_URL";

#[tokio::main]
async fn main() -> Result<()> {
    match std::env::args().nth(1).as_deref() {
        Some("warren") => {
            let mut embedded = Embedded::start().await?;
            say(&url(&embedded.warren)).await?;
            obey(async |words| embedded.obey(words).await).await?;
            embedded.warren.stop(PATIENCE).await
        }
        Some("services") => {
            let (amqp, postgres) = (environment::amqp_url(), environment::postgres_url());
            lend(&amqp, &postgres, async |bed| {
                let mut services = Services::start(bed).await?;
                say(&format!("{} {}", url(&services.query), url(&services.ingest))).await?;
                obey(async |words| services.obey(words).await).await?;
                services.stop().await
            })
            .await
        }
        _ => bail!("usage: console-server warren|services"),
    }
}

async fn say(line: &str) -> Result<()> {
    let mut output = stdout();
    output.write_all(format!("{line}\n").as_bytes()).await?;
    Ok(output.flush().await?)
}

/// Does what the lines of the input say, until it ends.
async fn obey(mut command: impl AsyncFnMut(&[&str]) -> Result<()>) -> Result<()> {
    let mut lines = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        let words: Vec<_> = line.split_whitespace().collect();
        command(&words).await.with_context(|| line.clone())?;
        say("ok").await?;
    }
    Ok(())
}

fn url(service: &Service) -> String {
    format!("http://{}", service.address())
}

struct Embedded {
    folder: DataFolder,
    warren: Service,
}

impl Embedded {
    async fn start() -> Result<Self> {
        let folder = DataFolder::create()?;
        // So many refusals at once would be held as a defect; and a tail that comes back is told little, so that a few
        // messages are a gap.
        let mut warren = folder
            .warren()?
            .setting("WARREN_WORKER__BREAKER_REFUSED", "0")
            .setting("WARREN_TAIL__RESUME_MESSAGES", "20");
        warren.start_ready().await?;
        Ok(Self { folder, warren })
    }

    async fn obey(&mut self, words: &[&str]) -> Result<()> {
        match words {
            ["refuse"] => {
                let trigger = "create trigger refused before insert on messages \
                    when json_extract(new.attributes, '$.amount') < 0 \
                    begin select raise(abort, 'amount must not be negative'); end";
                self.folder.change("store.db", trigger).await
            }
            ["accept"] => self.folder.change("store.db", "drop trigger refused").await,
            ["hold", count] => {
                let count: u32 = count.parse().context("hold takes a number")?;
                let trigger = format!(
                    "create trigger held before delete on dead_letters \
                     when (select count(*) from dead_letters) <= {count} \
                     begin select raise(abort, 'held'); end"
                );
                self.folder.change("queue.db", &trigger).await
            }
            ["release"] => self.folder.change("queue.db", "drop trigger held").await,
            ["restart"] => {
                self.warren.kill().await?;
                self.warren.start_ready().await
            }
            _ => bail!("there is no such command"),
        }
    }
}

/// All the programs; the books of the groups are gone with it.
struct Services {
    ingest: Service,
    worker: Service,
    query: Service,
    members: [Service; GROUPS.len()],
    database: Client,
    books: TempDir,
}

impl Services {
    async fn start(bed: &Bed) -> Result<Self> {
        let books = tempfile::tempdir()?;
        bed.migrate().await?;
        let mut ingest = bed.ingest()?;
        // So many refusals at once would be held as a defect.
        let mut worker = bed.worker()?.setting("WARREN_WORKER__BREAKER_REFUSED", "0");
        ingest.start_ready().await?;
        worker.start_ready().await?;
        let mut members = Vec::new();
        for group in GROUPS {
            let mut member = bed.consumer(books.path(), &format!("--group {group}"))?;
            start_consuming(&mut member).await?;
            members.push(member);
        }
        let programs: Vec<_> = [&ingest, &worker].into_iter().chain(&members).map(url).collect();
        let mut query = bed
            .query()?
            .setting("WARREN_PIPELINE__PROGRAMS", programs.join(","))
            .setting(INTAKE_URL, url(&ingest));
        query.start_ready().await?;
        let members = members.try_into();
        Ok(Self {
            ingest,
            worker,
            query,
            members: members.map_err(|_| anyhow::anyhow!("a group has no member"))?,
            database: bed.database.connect().await?,
            books,
        })
    }

    async fn obey(&mut self, words: &[&str]) -> Result<()> {
        let change = match words {
            ["refuse"] => {
                "alter table messages add constraint amount_must_not_be_negative \
                 check (coalesce((attributes ->> 'amount')::numeric, 0) >= 0) not valid"
            }
            ["accept"] => "alter table messages drop constraint amount_must_not_be_negative",
            ["leave", "worker"] => return self.worker.stop(PATIENCE).await,
            ["join", "worker"] => return self.worker.start_ready().await,
            ["leave", group] => return self.member(group)?.stop(PATIENCE).await,
            ["join", group] => return start_consuming(self.member(group)?).await,
            ["halt", group] => return self.member(group)?.signal("STOP").await,
            ["go", "on", group] => return self.member(group)?.signal("CONT").await,
            ["close", "book", group] => {
                let trigger =
                    "create trigger closed before insert on counted begin select raise(abort, 'closed'); end";
                return self.change_book(group, trigger).await;
            }
            ["open", "book", group] => return self.change_book(group, "drop trigger closed").await,
            ["hide", "intake"] => return self.tell_intake(None).await,
            ["tell", "intake"] => return self.tell_intake(Some(url(&self.ingest))).await,
            _ => bail!("there is no such command"),
        };
        Ok(self.database.batch_execute(change).await?)
    }

    fn member(&mut self, group: &str) -> Result<&mut Service> {
        let at = GROUPS.iter().position(|name| *name == group);
        Ok(&mut self.members[at.context("there is no such group")?])
    }

    async fn change_book(&self, group: &str, sql: &str) -> Result<()> {
        sqlite::change(&self.books.path().join(format!("{group}.db")), sql).await
    }

    async fn tell_intake(&mut self, url: Option<String>) -> Result<()> {
        self.query.stop(PATIENCE).await?;
        self.query.set(INTAKE_URL, url);
        self.query.start_ready().await
    }

    async fn stop(mut self) -> Result<()> {
        let programs = [&mut self.query, &mut self.ingest, &mut self.worker];
        for service in programs.into_iter().chain(&mut self.members) {
            service.stop(PATIENCE).await?;
        }
        Ok(())
    }
}
