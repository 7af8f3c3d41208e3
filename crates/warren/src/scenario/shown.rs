//! What a scenario would send, for people.

use warren_domain::Severity;

use super::GROUPS;
use super::file::{Happening, Scenario};
use crate::command::grouped;

/// Returns what is sent, in which order, what happens on the way, and what is expected.
pub(crate) fn text(scenario: &Scenario) -> String {
    let mut lines = vec![
        format!("{}  {}", scenario.path.display(), scenario.title),
        String::new(),
    ];
    lines.extend(scenario.about.lines().map(|line| format!("  {line}")));
    let order = match scenario.shuffle {
        Some(seed) => format!("shuffled by the seed {seed}"),
        None => "as written".to_owned(),
    };
    lines.push(format!(
        "\n  sends {} messages, {} of them a second time, {order}",
        grouped(scenario.total()),
        grouped(scenario.copies().total())
    ));
    for step in &scenario.steps {
        let twice = match step.twice {
            0 => String::new(),
            twice => format!(", {} twice", grouped(twice)),
        };
        lines.push(format!(
            "  {:>10}  {:<8}  {}  {:?}{twice}",
            grouped(step.count),
            step.severity.as_str(),
            step.source,
            step.body(0)
        ));
    }
    for event in &scenario.events {
        let what = match event.what {
            Happening::Pause(lasting) => format!("pauses for {lasting:?}"),
            Happening::Kill { group, away: 0 } => format!("kills the consumer of {}", GROUPS[group]),
            Happening::Kill { group, away } => format!(
                "kills the consumer of {}, which comes back {} messages later",
                GROUPS[group],
                grouped(away)
            ),
        };
        lines.push(format!("  after {} messages: {what}", grouped(event.after)));
    }
    let head: String = Severity::ALL
        .iter()
        .map(|severity| format!("  {:>10}", severity.as_str()))
        .collect();
    lines.push(format!("\n  {:<10}{head}", "expects"));
    for (group, expected) in GROUPS.iter().zip(&scenario.expected) {
        let counts: String = expected
            .iter()
            .map(|(_, count)| format!("  {:>10}", grouped(count)))
            .collect();
        lines.push(format!("  {group:<10}{counts}"));
    }
    lines.join("\n") + "\n\n"
}
