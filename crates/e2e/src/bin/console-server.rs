//! `console-server`: starts `warren` over an empty folder for a test in another language, prints its URL, and keeps it until
//! standard input ends.
//!
//! Each line of the input is a command, and is answered with `ok` once it is done:
//!
//! - `refuse`, `accept`: from now on the store refuses messages whose attribute `amount` is below 0, or takes them;
//! - `hold N`, `release`: a dead letter cannot be removed while there are no more than N, or can be;
//! - `restart`: the process is killed and started again, over the same folder and at the same address.

use std::io::{Write as _, stdin, stdout};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::runtime::Runtime;
use warren_e2e::process::Service;
use warren_e2e::sqlite::DataFolder;

/// How long it may take to end.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> Result<()> {
    let runtime = Runtime::new().context("no runtime")?;
    let mut subject = runtime.block_on(Subject::start())?;
    say(&format!("http://{}", subject.warren.address()))?;
    for line in stdin().lines() {
        runtime.block_on(subject.obey(&line?))?;
        say("ok")?;
    }
    runtime.block_on(subject.warren.stop(PATIENCE))
}

fn say(line: &str) -> Result<()> {
    let mut output = stdout().lock();
    writeln!(output, "{line}")?;
    Ok(output.flush()?)
}

struct Subject {
    folder: DataFolder,
    warren: Service,
}

impl Subject {
    async fn start() -> Result<Self> {
        let folder = DataFolder::create()?;
        // So many refusals at once would be held as a defect.
        let mut warren = folder.warren()?.setting("WARREN_WORKER__BREAKER_REFUSED", "0");
        warren.start_ready().await?;
        Ok(Self { folder, warren })
    }

    async fn obey(&mut self, command: &str) -> Result<()> {
        let words: Vec<_> = command.split_whitespace().collect();
        match words[..] {
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
            _ => bail!("no such command: {command:?}"),
        }
    }
}
