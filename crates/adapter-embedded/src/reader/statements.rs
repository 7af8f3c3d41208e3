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

/// How many of the outer keys of a path are looked for: SQLite takes no expression that is a thousand conditions deep.
const MOST_OUTER_KEYS: usize = 8;

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

    /// Returns a condition that holds for whatever is meant: its keys are in the JSON as this program writes it, and behind
    /// the last of them a value that may be one of those that are meant.
    fn attribute(&mut self, test: &AttributeTest) -> String {
        let values: Option<Vec<_>> = test.values().iter().map(beginning).collect();
        // Any value will do where it may be written in several ways.
        let values = values.unwrap_or_else(|| vec![String::new()]);
        let mut has = |key: &str, values: &[String]| {
            let key = serde_json::Value::from(key);
            let any: Vec<_> = (values.iter())
                .map(|value| format!("instr(attributes, {}) > 0", self.text(format!("{key}:{value}"))))
                .collect();
            format!("({})", any.join(" or "))
        };
        let flat = has(test.key(), &values);
        let path: Vec<_> = test.path().collect();
        let (Some((last, outer)), true) = (path.split_last(), path.len() > 1) else {
            return flat;
        };
        let outer = outer.iter().take(MOST_OUTER_KEYS);
        let mut nested: Vec<_> = outer.map(|key| has(key, &[String::new()])).collect();
        nested.push(has(last, &values));
        format!("({flat} or {})", nested.join(" and "))
    }
}

/// Returns what the JSON of every value begins with that equals this one, if there is such a thing.
fn beginning(value: &serde_json::Value) -> Option<String> {
    // Beyond it floats and integers that are written otherwise are the same.
    const EXACT: f64 = 9_007_199_254_740_992.0;
    match value.as_f64() {
        // 0.0 and -0.0, and whatever an exponent is for.
        Some(number) if number == 0.0 || number.abs() >= EXACT => None,
        // 42, and 42.0 as well.
        Some(number) if number.fract() == 0.0 => Some(format!("{number:.0}")),
        _ => Some(value.to_string()),
    }
}

const fn direction(order: Order) -> &'static str {
    match order {
        Order::NewestFirst => "desc",
        Order::OldestFirst => "asc",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value as Json, json};

    use super::*;

    #[test]
    fn a_value_is_looked_for_as_it_is_written() {
        for (value, text) in [
            (json!("a\"b"), Some("\"a\\\"b\"")),
            (json!(null), Some("null")),
            (json!(true), Some("true")),
            (json!(42), Some("42")),
            (json!(42.0), Some("42")),
            (json!(-7.5), Some("-7.5")),
            (json!(1e-9), Some("1e-9")),
            (json!(0), None),
            (json!(-0.0), None),
            (json!(9_007_199_254_740_993_i64), None),
            (json!(-1e300), None),
        ] {
            assert_eq!(beginning(&value).as_deref(), text, "{value}");
        }
    }

    fn numbers() -> impl Strategy<Value = String> {
        prop_oneof![
            any::<i64>().prop_map(|number| number.to_string()),
            any::<u64>().prop_map(|number| number.to_string()),
            any::<f64>().prop_map(|number| format!("{number:e}")),
            (-3..4_i32).prop_map(|number| number.to_string()),
            (-3..4_i32).prop_map(|number| format!("{number}.0")),
            (-3..4_i32).prop_map(|number| format!("{number}e-1")),
            (-3..4_i32, -2..20_i32).prop_map(|(number, power)| format!("{number}e{power}")),
        ]
    }

    proptest! {
        #[test]
        fn whatever_equals_a_number_begins_as_is_looked_for(asked in numbers(), stored in numbers()) {
            let (asked, stored): (Json, Json) =
                (serde_json::from_str(&asked).unwrap(), serde_json::from_str(&stored).unwrap());
            let same = asked == stored || (!both_integers(&asked, &stored) && asked.as_f64() == stored.as_f64());
            if let (true, Some(beginning)) = (same, beginning(&asked)) {
                prop_assert!(stored.to_string().starts_with(&beginning), "{asked} and {stored}");
            }
        }
    }

    fn both_integers(one: &Json, other: &Json) -> bool {
        [one, other]
            .iter()
            .all(|number| number.is_i64() || number.is_u64())
    }
}
