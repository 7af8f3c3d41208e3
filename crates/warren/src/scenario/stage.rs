//! What a scenario runs on.

use std::time::Duration;

use anyhow::{Context as _, Result};
use tempfile::TempDir;
use tokio::time::sleep;
use warren_client::{Logger, WhenFull};
use warren_pipeline::tally::GroupReport;
use warren_process::cli::SettingsArgs;

use super::GROUPS;
use super::child::NamedLog;
use super::embedded::Embedded;
use super::environment::Environment;
use super::rabbit::Rabbit;
use crate::settings::Settings;

/// The most messages that were sent and are not kept yet: few, so that what happens after so many sent does happen
/// about then, and some, so that it happens in the middle of things.
const MAX_ON_THEIR_WAY: usize = 2_000;

/// What a scenario runs on.
#[derive(Debug)]
pub(super) enum Stage {
    Rabbit(Box<Rabbit>),
    Embedded(Box<Embedded>),
}

/// What is done once so many messages were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Act {
    /// A consumer that was killed comes back; before anything else, as it may be killed again.
    Revive(usize),
    Pause(Duration),
    /// A consumer is killed and comes back at once.
    Crash(usize),
    /// A consumer is killed, and stays away.
    Kill(usize),
}

impl Act {
    pub(super) fn words(self) -> String {
        match self {
            Self::Revive(group) => format!("the consumer of {} comes back", GROUPS[group]),
            Self::Pause(lasting) => format!("a pause of {lasting:?}"),
            Self::Crash(group) | Self::Kill(group) => format!("the consumer of {} is killed", GROUPS[group]),
        }
    }
}

impl Stage {
    pub(super) fn new(
        embedded: bool,
        settings: &Settings,
        flags: &SettingsArgs,
        folder: &TempDir,
    ) -> Result<Self> {
        let environment = Environment::of(flags);
        Ok(if embedded {
            Self::Embedded(Box::new(Embedded::new(environment, folder.path())?))
        } else {
            Self::Rabbit(Box::new(Rabbit::new(&settings.amqp, environment, folder.path())?))
        })
    }

    pub(super) const fn is_embedded(&self) -> bool {
        matches!(self, Self::Embedded(_))
    }

    pub(super) async fn start(&mut self) -> Result<()> {
        match self {
            Self::Rabbit(rabbit) => rabbit.start().await,
            Self::Embedded(embedded) => embedded.start().await,
        }
    }

    /// Starts a logger that loses nothing: where there is no room, the scenario waits.
    pub(super) fn logger(&self) -> Result<Logger> {
        let builder = Logger::builder()
            .when_full(WhenFull::Wait)
            .max_messages(MAX_ON_THEIR_WAY);
        match self {
            Self::Rabbit(rabbit) => rabbit.logger(builder),
            Self::Embedded(embedded) => embedded.logger(builder),
        }
    }

    pub(super) async fn act(&mut self, act: Act) -> Result<()> {
        match (self, act) {
            (_, Act::Pause(lasting)) => {
                sleep(lasting).await;
                Ok(())
            }
            (Self::Rabbit(rabbit), Act::Crash(group)) => {
                rabbit.kill(group).await?;
                rabbit.revive(group)
            }
            (Self::Rabbit(rabbit), Act::Kill(group)) => rabbit.kill(group).await,
            (Self::Rabbit(rabbit), Act::Revive(group)) => rabbit.revive(group),
            (Self::Embedded(embedded), Act::Crash(_) | Act::Kill(_)) => embedded.crash().await,
            (Self::Embedded(_), Act::Revive(_)) => Ok(()),
        }
    }

    pub(super) async fn reports(&mut self) -> Result<[Option<GroupReport>; 4]> {
        match self {
            Self::Rabbit(rabbit) => rabbit.reports(),
            Self::Embedded(embedded) => embedded.reports().await,
        }
    }

    pub(super) async fn finish(&mut self) -> Result<[GroupReport; 4]> {
        match self {
            Self::Rabbit(rabbit) => rabbit.finish().await,
            Self::Embedded(embedded) => embedded.finish().await,
        }
    }

    pub(super) fn logs(&self) -> Vec<NamedLog> {
        match self {
            Self::Rabbit(rabbit) => rabbit.logs(),
            Self::Embedded(embedded) => embedded.logs(),
        }
    }

    /// Ends what still runs, and removes what was made unless it is to be kept.
    pub(super) async fn clear_away(&mut self, keep: bool, folder: TempDir) -> Result<()> {
        let cleared = match self {
            Self::Rabbit(rabbit) if keep => {
                rabbit.end().await;
                eprintln!(
                    "kept: the exchanges and queues whose names begin with {}",
                    rabbit.prefix()
                );
                Ok(())
            }
            Self::Rabbit(rabbit) => rabbit.clear_away().await,
            Self::Embedded(embedded) => {
                embedded.end().await;
                Ok(())
            }
        };
        if keep {
            eprintln!("kept: {}", folder.keep().display());
            return cleared;
        }
        let path = folder.path().to_owned();
        let removed = folder
            .close()
            .with_context(|| format!("{} is left behind", path.display()));
        cleared.and(removed)
    }
}
