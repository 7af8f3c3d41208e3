//! What is measured, in which order, how often.

use std::time::Duration;

use anyhow::{Result, ensure};
use warren_e2e::bed::{Bed, lend};
use warren_e2e::postgres;

use crate::bare_http;
use crate::cost::{Watch, settle};
use crate::group_catch_up;
use crate::load::Pace;
use crate::messages::Mix;
use crate::raw_consume;
use crate::raw_copy;
use crate::raw_publish::RawPublish;
use crate::report::{Figures, Report, Row};
use crate::servers::Servers;
use crate::subject::Subject;
use crate::whole_path::{Programs, catch_up, embedded_catch_up, load};

/// The window of the raw publisher: beyond it a broker gives no more messages a second, only longer waits.
const RAW_WINDOW: usize = 128;

/// What one run does.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How long each load runs.
    pub(crate) load: Duration,
    pub(crate) repetitions: u32,
    /// The most messages that one load sends.
    pub(crate) most_messages: u64,
    pub(crate) connections: usize,
    pub(crate) mix: Mix,
    /// Settings of the programs that differ from their defaults: environment variables and values.
    pub(crate) settings: Vec<(String, String)>,
    pub(crate) subjects: Vec<Subject>,
}

impl Plan {
    /// Measures everything, repetition by repetition.
    ///
    /// # Errors
    /// A server or a program failed, or a message was lost; figures of a path that loses messages mean nothing.
    pub(crate) async fn run(&self) -> Result<Report> {
        let servers = Servers::find().await?;
        let mut report = Report::new(self, &servers);
        for repetition in 1..=self.repetitions {
            eprintln!("repetition {repetition} of {}", self.repetitions);
            self.repetition(&servers, &mut report).await?;
        }
        Ok(report)
    }

    fn wants(&self, subject: Subject) -> bool {
        self.subjects.contains(&subject)
    }

    async fn repetition(&self, servers: &Servers, report: &mut Report) -> Result<()> {
        if self.wants(Subject::RawPublish) {
            self.raw_publish(servers, RAW_WINDOW, None, Row::RawConfirmed, report)
                .await?;
            self.raw_publish(servers, 1, None, Row::RawOneAtATime, report)
                .await?;
        }
        if self.wants(Subject::RawCopy) {
            report.add(Row::RawCopy, self.raw_copy(servers).await?);
        }
        if self.wants(Subject::BareHttp) {
            eprintln!("  {}", Row::BareHttp.name());
            report.add(
                Row::BareHttp,
                bare_http::measure(servers, load(self, 1, Pace::Closed)).await?,
            );
        }
        let mut peak = None;
        if self.wants(Subject::Singles) || self.wants(Subject::Latency) {
            let figures = self.distributed(servers, 1, Pace::Closed).await?;
            peak = figures.accepted_per_second;
            report.add(Row::Singles, figures);
        }
        if self.wants(Subject::Batches) {
            report.add(
                Row::Batches100,
                self.distributed(servers, 100, Pace::Closed).await?,
            );
            report.add(
                Row::Batches1000,
                self.distributed(servers, 1_000, Pace::Closed).await?,
            );
        }
        if self.wants(Subject::CatchUp) {
            let caught_up = lend(&servers.amqp, &servers.postgres, async |bed| {
                let figures = catch_up(bed, servers, self).await?;
                Ok(figures)
            });
            report.add(Row::CatchUp, caught_up.await?);
        }
        if self.wants(Subject::Consume) {
            report.add(Row::RawConsume, self.raw_consume(servers).await?);
            eprintln!("  {}", Row::GroupCatchUp.name());
            let caught_up = lend(&servers.amqp, &servers.postgres, async |bed| {
                group_catch_up::measure(bed, servers, self).await
            });
            report.add(Row::GroupCatchUp, caught_up.await?);
        }
        if let (true, Some(peak)) = (self.wants(Subject::Latency), peak) {
            let rate = peak / 10.0;
            self.raw_publish(servers, RAW_WINDOW, Some(rate), Row::RawTenth, report)
                .await?;
            report.add(Row::Tenth, self.distributed(servers, 1, Pace::Open(rate)).await?);
        }
        if self.wants(Subject::Embedded) {
            self.embedded(servers, report).await?;
        }
        Ok(())
    }

    async fn raw_publish(
        &self,
        servers: &Servers,
        window: usize,
        rate: Option<f64>,
        row: Row,
        report: &mut Report,
    ) -> Result<()> {
        eprintln!("  {}", row.name());
        let publish = RawPublish {
            window,
            rate,
            duration: self.load,
            most_messages: self.most_messages,
            mix: self.mix,
        };
        settle().await?;
        let watch = Watch::start(&servers.with(&[]))?;
        let mut published = publish.run(&servers.amqp).await?;
        let costs = watch.end()?;
        let mut figures = Figures {
            accepted_per_second: Some(published.confirmed as f64 / published.elapsed.as_secs_f64()),
            p50_ms: published.waits.percentile(0.5),
            p99_ms: published.waits.percentile(0.99),
            ..Figures::default()
        };
        figures.add_costs(&costs, published.confirmed);
        report.add(row, figures);
        Ok(())
    }

    async fn raw_copy(&self, servers: &Servers) -> Result<Figures> {
        eprintln!("  {}", Row::RawCopy.name());
        lend(&servers.amqp, &servers.postgres, async |bed| {
            let client = postgres::connect(&bed.database.url()).await?;
            settle().await?;
            let watch = Watch::start(&servers.with(&[]))?;
            let (rows, elapsed) = raw_copy::run(&client, self.load, self.most_messages, self.mix).await?;
            let costs = watch.end()?;
            let stored_per_second = Some(rows as f64 / elapsed.as_secs_f64());
            let mut figures = Figures {
                stored_per_second,
                ..Figures::default()
            };
            figures.add_costs(&costs, rows);
            Ok(figures)
        })
        .await
    }

    async fn raw_consume(&self, servers: &Servers) -> Result<Figures> {
        eprintln!("  {}", Row::RawConsume.name());
        let (messages, elapsed, costs) = raw_consume::run(servers, self.most_messages, self.mix).await?;
        let mut figures = Figures {
            stored_per_second: Some(messages as f64 / elapsed.as_secs_f64()),
            ..Figures::default()
        };
        figures.add_costs(&costs, messages);
        Ok(figures)
    }

    async fn distributed(&self, servers: &Servers, messages: usize, pace: Pace) -> Result<Figures> {
        eprintln!(
            "  through RabbitMQ to PostgreSQL, {messages} a request, {}",
            said(pace)
        );
        lend(&servers.amqp, &servers.postgres, async |bed: &Bed| {
            let programs = Programs::distributed(bed, &self.settings).await?;
            let (figures, accepted) = programs.measure(servers, load(self, messages, pace)).await?;
            let rows = bed.database.count().await?;
            ensure!(rows >= accepted, "{rows} rows for {accepted} accepted messages");
            Ok(figures)
        })
        .await
    }

    async fn embedded(&self, servers: &Servers, report: &mut Report) -> Result<()> {
        let measure = async |messages: usize, pace: Pace| {
            eprintln!("  in one process, {messages} a request, {}", said(pace));
            let programs = Programs::embedded(&self.settings).await?;
            let (figures, _) = programs.measure(servers, load(self, messages, pace)).await?;
            anyhow::Ok(figures)
        };
        let singles = measure(1, Pace::Closed).await?;
        let peak = singles.accepted_per_second;
        report.add(Row::EmbeddedSingles, singles);
        report.add(Row::EmbeddedBatches100, measure(100, Pace::Closed).await?);
        report.add(Row::EmbeddedBatches1000, measure(1_000, Pace::Closed).await?);
        eprintln!("  in one process, {}", Row::EmbeddedCatchUp.name());
        report.add(Row::EmbeddedCatchUp, embedded_catch_up(servers, self).await?);
        if let Some(peak) = peak {
            report.add(Row::EmbeddedTenth, measure(1, Pace::Open(peak / 10.0)).await?);
        }
        Ok(())
    }
}

fn said(pace: Pace) -> String {
    match pace {
        Pace::Closed => "as fast as answers come".to_owned(),
        Pace::Open(rate) => format!("{rate:.0} a second"),
    }
}
