//! Shows the reports of a group: a table that is painted over itself, or lines of JSON.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};
use warren_pipeline::tally::{GroupReport, GroupState, table};
use warren_process::terminal::{Painter, Size};

/// How long the first line waits for what the book says.
const FIRST_PATIENCE: Duration = Duration::from_secs(1);

/// How reports are shown.
#[derive(Debug)]
pub(crate) enum Form {
    /// One line of JSON each.
    Lines,
    /// A table over the one before.
    Painting(Painter),
    /// A table at the end alone: whoever reads a file or a pipe wants the result.
    LastTable,
}

impl Form {
    /// Chooses the form for standard output.
    pub(crate) fn of_output(json: bool) -> Self {
        match (json, io::stdout().is_terminal()) {
            (true, _) => Self::Lines,
            (false, true) => Self::Painting(Painter::default()),
            (false, false) => Self::LastTable,
        }
    }

    fn text(&mut self, report: &GroupReport) -> Option<String> {
        match self {
            Self::Lines => Some(format!("{}\n", report.to_json())),
            Self::Painting(painter) => {
                Some(painter.paint(&table(std::slice::from_ref(report)), Size::of(io::stdout())))
            }
            Self::LastTable => {
                (report.state == GroupState::Stopped).then(|| table(std::slice::from_ref(report)))
            }
        }
    }
}

/// Shows the report at once, whenever its state changes, and `every` so often; ends after the one that says stopped.
///
/// # Errors
/// `output` cannot be written.
pub(crate) async fn show(
    mut reports: watch::Receiver<GroupReport>,
    mut form: Form,
    every: Duration,
    mut output: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    // What the book says makes the first change.
    drop(timeout(FIRST_PATIENCE, reports.changed()).await);
    let mut ticks = interval_at(Instant::now() + every, every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut shown = None;
    loop {
        let report = reports.borrow_and_update().clone();
        if shown != Some(report.state) {
            print(&mut form, &report, &mut output).await?;
            shown = Some(report.state);
        }
        if report.state == GroupState::Stopped {
            return Ok(());
        }
        tokio::select! {
            changed = reports.changed() => {
                // Nobody reports any more: the loop has failed, and says so elsewhere.
                if changed.is_err() { return Ok(()) }
            }
            _ = ticks.tick() => print(&mut form, &report, &mut output).await?,
        }
    }
}

async fn print(
    form: &mut Form,
    report: &GroupReport,
    output: &mut (impl AsyncWrite + Unpin),
) -> io::Result<()> {
    if let Some(text) = form.text(report) {
        output.write_all(text.as_bytes()).await?;
        output.flush().await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncBufReadExt as _, BufReader, duplex};
    use warren_domain::{Severity, Timestamp};

    use super::*;

    fn reports() -> watch::Sender<GroupReport> {
        let group = "error".parse().unwrap();
        watch::Sender::new(GroupReport::unknown(group, Timestamp::MIN))
    }

    #[tokio::test]
    async fn a_line_comes_at_the_start_at_every_change_of_state_at_the_interval_and_at_the_end() {
        let (sender, (output, input)) = (reports(), duplex(1 << 16));
        let every = Duration::from_millis(10);
        let showing = tokio::spawn(show(sender.subscribe(), Form::Lines, every, output));
        let mut lines = BufReader::new(input).lines();
        let mut until = async |state: GroupState, total: u64| loop {
            let line = lines.next_line().await.unwrap().unwrap();
            let report: GroupReport = line.parse().unwrap();
            if (report.state, report.received.total()) == (state, total) {
                return;
            }
        };
        until(GroupState::Connecting, 0).await;
        sender.send_modify(|report| report.state = GroupState::Consuming);
        until(GroupState::Consuming, 0).await;
        sender.send_modify(|report| report.received.add(Severity::Error, 5));
        until(GroupState::Consuming, 5).await;
        until(GroupState::Consuming, 5).await;
        sender.send_modify(|report| report.state = GroupState::Stopped);
        until(GroupState::Stopped, 5).await;
        assert_eq!(lines.next_line().await.unwrap(), None);
        showing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_change_of_state_does_not_wait_for_the_interval() {
        let (sender, (output, input)) = (reports(), duplex(1 << 16));
        let every = Duration::from_secs(3_600);
        let showing = tokio::spawn(show(sender.subscribe(), Form::Lines, every, output));
        let mut lines = BufReader::new(input).lines();
        for state in [GroupState::Consuming, GroupState::Connecting, GroupState::Stopped] {
            sender.send_modify(|report| report.state = state);
            let line = lines.next_line().await.unwrap().unwrap();
            assert!(line.contains(state.as_str()), "{line}");
        }
        showing.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn where_nobody_looks_the_table_comes_once_at_the_end() {
        let (sender, mut output) = (reports(), Vec::new());
        let showing = show(
            sender.subscribe(),
            Form::LastTable,
            Duration::from_millis(1),
            &mut output,
        );
        let ending = async {
            for state in [GroupState::Consuming, GroupState::Stopped] {
                sender.send_modify(|report| report.state = state);
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let (shown, ()) = tokio::join!(showing, ending);
        shown.unwrap();
        let text = String::from_utf8(output).unwrap();
        assert_eq!(text.matches("SEVERITY").count(), 1, "{text}");
        assert!(text.ends_with("stopped\n"), "{text}");
    }

    #[tokio::test]
    async fn a_reader_that_has_gone_is_an_error_of_its_kind() {
        let (sender, (output, input)) = (reports(), duplex(1 << 16));
        drop(input);
        let error = show(sender.subscribe(), Form::Lines, Duration::from_secs(2), output)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
