//! What SQLite is asked. Everything that comes from outside is a parameter.

use std::ops::Range;

use sea_orm::sqlx::query::Query;
use sea_orm::sqlx::sqlite::SqliteArguments;
use sea_orm::sqlx::{self, AssertSqlSafe, Sqlite};
use uuid::Uuid;
use warren_domain::ports::{Counts, MOST_SOURCES, Order, TimeRange};
use warren_domain::search::{IdRange, Meaning, SourceTest};
use warren_domain::{AttributeTest, MessageId, Severity, SeveritySet};

/// What a message is read from.
pub(super) const COLUMNS: &str =
    "id, severity, source, body, attributes, occurred_at, received_at, stored_at";

/// A statement with its parameters.
#[derive(Debug, Default)]
pub(super) struct Statement {
    text: String,
    values: Vec<Value>,
}

#[derive(Clone, Debug)]
enum Value {
    Number(i64),
    Text(String),
    Id(Uuid),
}

impl Statement {
    /// Returns it for sqlx, which does not keep it: there are many, and preparing one takes some microseconds.
    pub(super) fn query(&self) -> Query<'_, Sqlite, SqliteArguments> {
        let query = sqlx::query(AssertSqlSafe(self.text.clone())).persistent(false);
        self.values.iter().fold(query, |query, value| match value {
            Value::Number(number) => query.bind(*number),
            Value::Text(text) => query.bind(text.clone()),
            Value::Id(id) => query.bind(*id),
        })
    }

    /// Takes a value; returns how the text names it.
    fn value(&mut self, value: Value) -> String {
        self.values.push(value);
        format!("?{}", self.values.len())
    }

    fn number(&mut self, number: impl TryInto<i64>) -> String {
        self.value(Value::Number(number.try_into().unwrap_or(i64::MAX)))
    }

    fn text(&mut self, text: impl Into<String>) -> String {
        self.value(Value::Text(text.into()))
    }

    fn within(&mut self, ids: IdRange) -> Vec<String> {
        vec![
            format!("id >= {}", self.value(Value::Id(ids.from()))),
            format!("id < {}", self.value(Value::Id(ids.until()))),
        ]
    }

    /// Finds messages by their ids.
    pub(super) fn fetch(ids: &[MessageId]) -> Self {
        let mut statement = Self::default();
        let ids: Vec<_> = ids.iter().map(|id| id.as_uuid().simple().to_string()).collect();
        let ids = statement.text(serde_json::Value::from(ids).to_string());
        statement.text =
            format!("select {COLUMNS} from messages where id in (select unhex(value) from json_each({ids}))");
        statement
    }

    /// Finds the message that so many others come before; it reads the index alone.
    pub(super) fn edge(ids: IdRange, order: Order, passing: usize) -> Self {
        let mut statement = Self::default();
        let (conditions, passing) = (statement.within(ids).join(" and "), statement.number(passing));
        let order = direction(order);
        statement.text = format!(
            "select id from messages where {conditions} order by id {order} limit 1 offset {passing}"
        );
        statement
    }

    /// Finds what is meant among some ids, and perhaps more.
    pub(super) fn look(meaning: &Meaning<'_>, ids: IdRange, order: Order, most: usize) -> Self {
        let mut statement = Self::default();
        let mut conditions = statement.within(ids);
        conditions.extend(statement.selected(meaning));
        for (text, negated) in &meaning.texts {
            // SQLite's own `lower` changes the letters from A to Z alone.
            let text = statement.text(text.to_ascii_lowercase());
            let is = if *negated { "=" } else { ">" };
            conditions.push(format!("instr(lower(body), {text}) {is} 0"));
        }
        for (attribute, negated) in &meaning.attributes {
            // The condition may hold for others, too, so its opposite might not hold for all that are meant.
            if !negated {
                conditions.push(statement.attribute(attribute));
            }
        }
        let (conditions, order, most) = (conditions.join(" and "), direction(order), statement.number(most));
        statement.text =
            format!("select {COLUMNS} from messages where {conditions} order by id {order} limit {most}");
        statement
    }

    /// Counts by minute what is stored and what of it is meant, over about as many rows of counts as are wanted; only minutes
    /// with something meant, and the last one that was counted, which the last column has if there are others.
    pub(super) fn walk_counts(
        meaning: &Meaning<'_>,
        order: Order,
        minutes: &Range<i64>,
        most: usize,
    ) -> Self {
        let mut statement = Self::default();
        let selected = statement.selected(meaning);
        let meant = if selected.is_empty() {
            "true".to_owned()
        } else {
            selected.join(" and ")
        };
        let (from, until) = (statement.number(minutes.start), statement.number(minutes.end));
        let (most, direction) = (statement.number(most), direction(order));
        let (first, end) = match order {
            Order::NewestFirst => (
                format!("coalesce((select minute from edge), {from})"),
                until.clone(),
            ),
            Order::OldestFirst => (
                from.clone(),
                format!("coalesce((select minute from edge) + 1, {until})"),
            ),
        };
        statement.text = format!(
            "with edge (minute) as materialized (
                select (
                    select minute from message_counts where minute >= {from} and minute < {until}
                    order by minute {direction} limit 1 offset {most}
                )
            )
            select minute, sum(messages), sum(iif({meant}, messages, 0)) as meant, (select minute from edge)
            from message_counts where minute >= {first} and minute < {end}
            group by minute having meant > 0 or minute = (select minute from edge)
            order by minute {direction}"
        );
        statement
    }

    /// Sums counts up by bucket, severity and source, perhaps of more sources than are meant; of them all, without asking
    /// which, where every source is meant.
    pub(super) fn counts(wanted: &Counts) -> Self {
        let mut statement = Self::default();
        let mut conditions = statement.minutes(wanted.range);
        conditions.extend(statement.severities(wanted.selection.severities));
        let patterns = &wanted.selection.sources[..];
        let source = if patterns.is_empty() { "'any'" } else { "source" };
        if !patterns.is_empty() {
            conditions.extend(statement.source(&SourceTest {
                patterns,
                negated: false,
            }));
        }
        let (conditions, width) = (conditions.join(" and "), statement.number(wanted.minutes.get()));
        statement.text = format!(
            "select minute / {width} as bucket, severity, {source}, sum(messages) from message_counts
            where {conditions} group by 1, 2, 3 order by 1"
        );
        statement
    }

    /// Sums counts up by source, a column for each severity; one more than may be listed.
    pub(super) fn sources(range: TimeRange, severities: SeveritySet) -> Self {
        let mut statement = Self::default();
        let mut conditions = statement.minutes(range);
        conditions.extend(statement.severities(severities));
        let sums: Vec<_> = Severity::ALL
            .into_iter()
            .map(|severity| {
                let severity = statement.number(severity.number());
                format!("sum(iif(severity = {severity}, messages, 0))")
            })
            .collect();
        let (sums, conditions) = (sums.join(", "), conditions.join(" and "));
        let most = statement.number(MOST_SOURCES + 1);
        statement.text = format!(
            "select source, {sums} from message_counts where {conditions} group by source order by source limit {most}"
        );
        statement
    }

    fn minutes(&mut self, range: TimeRange) -> Vec<String> {
        let minutes = range.minutes();
        vec![
            format!("minute >= {}", self.number(minutes.start)),
            format!("minute < {}", self.number(minutes.end)),
        ]
    }

    /// Returns the conditions on severity and source, which rows and counts have alike.
    fn selected(&mut self, meaning: &Meaning<'_>) -> Vec<String> {
        let mut conditions: Vec<_> = self.severities(meaning.severities).into_iter().collect();
        for test in &meaning.sources {
            conditions.extend(self.source(test));
        }
        conditions
    }

    fn severities(&mut self, severities: SeveritySet) -> Option<String> {
        if severities == SeveritySet::ALL {
            return None;
        }
        let numbers: Vec<_> = (severities.iter())
            .map(|severity| self.number(severity.number()))
            .collect();
        Some(format!("severity in ({})", numbers.join(", ")))
    }

    /// Returns a condition that holds for all that are meant, if there is one.
    fn source(&mut self, test: &SourceTest<'_>) -> Option<String> {
        let patterns: Vec<Vec<&str>> = (test.patterns.iter())
            .map(|pattern| pattern.as_str().split('.').collect())
            .collect();
        let loose = patterns.iter().any(|segments| segments.contains(&"#"));
        if test.negated && loose {
            return None;
        }
        let any: Vec<_> = patterns.iter().map(|segments| self.pattern(segments)).collect();
        let not = if test.negated { "not " } else { "" };
        Some(format!("{not}({})", any.join(" or ")))
    }

    /// Returns a condition that holds for the sources of a pattern, and for others where there is a `#` in it.
    fn pattern(&mut self, segments: &[&str]) -> String {
        let is_wild = |segment: &&str| matches!(*segment, "*" | "#");
        if !segments.iter().any(is_wild) {
            return format!("source = {}", self.text(segments.join(".")));
        }
        if segments.contains(&"#") {
            let before = segments.iter().take_while(|segment| !is_wild(segment));
            let behind = segments.iter().rev().take_while(|segment| !is_wild(segment));
            let (before, mut behind): (Vec<_>, Vec<_>) =
                (before.copied().collect(), behind.copied().collect());
            behind.reverse();
            // One star: what comes before it and what comes behind it may share no letter, but a dot that both have.
            let glob = format!("{}*{}", before.join("."), behind.join("."));
            return format!("source glob {}", self.text(glob));
        }
        // As many dots as in the pattern, so that no star stands for one.
        let glob: Vec<_> = segments
            .iter()
            .map(|segment| if *segment == "*" { "?*" } else { segment })
            .collect();
        let (dots, glob) = (self.number(segments.len() - 1), self.text(glob.join(".")));
        format!("(length(source) - length(replace(source, '.', '')) = {dots} and source glob {glob})")
    }

    /// Returns a condition that holds for whatever is meant: its keys are in the JSON, as this program writes it.
    fn attribute(&mut self, test: &AttributeTest) -> String {
        let mut has = |key: &str| {
            let key = format!("{}:", serde_json::Value::from(key));
            format!("instr(attributes, {}) > 0", self.text(key))
        };
        let flat = has(test.key());
        let nested: Vec<_> = test.path().map(has).collect();
        format!("({flat} or {})", nested.join(" and "))
    }
}

const fn direction(order: Order) -> &'static str {
    match order {
        Order::NewestFirst => "desc",
        Order::OldestFirst => "asc",
    }
}
