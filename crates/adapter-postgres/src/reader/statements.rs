//! What PostgreSQL is asked. Everything that comes from outside is a parameter.

use std::ops::Range;

use bytes::BytesMut;
use serde_json::Value;
use tokio_postgres::types::{IsNull, ToSql, Type, accepts, to_sql_checked};
use uuid::Uuid;
use warren_domain::ports::{Counts, MOST_SOURCES, Order, TimeRange};
use warren_domain::search::{IdRange, Meaning, SourceTest};
use warren_domain::{AttributeTest, MessageId, Severity, SeveritySet};

use crate::row::{micros_of_minute, severity_number};

/// What a message is read from.
pub(super) const COLUMNS: &str =
    "id, severity, source, body, attributes, occurred_at, received_at, stored_at";

/// How many messages each minute has, folded.
const TOTALS: &str = "message_minutes";
/// The filters of words.
const WORDS: &str = "message_words";
/// Counts by minute, severity and source, folded.
const MINUTES: &str = "message_counts_minutes";
/// The same by quarters of an hour.
const QUARTERS: &str = "message_counts_quarters";
/// The same by minute, appended since and not folded yet.
const DELTAS: &str = "message_count_deltas";

/// A statement with its parameters.
#[derive(Debug, Default)]
pub(super) struct Statement<'v> {
    text: String,
    values: Vec<(Box<dyn ToSql + Sync + Send + 'v>, Type)>,
}

impl<'v> Statement<'v> {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn parameters(&self) -> Vec<(&(dyn ToSql + Sync), Type)> {
        let parameters = self.values.iter();
        parameters
            .map(|(value, kind)| (&**value as &(dyn ToSql + Sync), kind.clone()))
            .collect()
    }

    /// Takes a value; returns how the text names it.
    fn value(&mut self, value: impl ToSql + Sync + Send + 'v, kind: Type) -> String {
        self.values.push((Box::new(value), kind));
        format!("${}", self.values.len())
    }

    fn number(&mut self, number: usize) -> String {
        self.value(i64::try_from(number).unwrap_or(i64::MAX), Type::INT8)
    }

    fn minute(&mut self, minute: i64) -> String {
        self.value(Minute(minute), Type::TIMESTAMPTZ)
    }

    /// Reads a row of each table of counts and, if wanted, of the filters of words, if they have one.
    pub(super) fn some_counts(words: bool) -> Self {
        let words = words.then_some(WORDS);
        let tables = [TOTALS, MINUTES, QUARTERS, DELTAS].into_iter().chain(words);
        let some: Vec<_> = tables
            .map(|table| format!("(select 1 from {table} limit 1)"))
            .collect();
        Self {
            text: some.join(" union all "),
            ..Self::default()
        }
    }

    /// Finds messages by their ids.
    pub(super) fn fetch(ids: &[MessageId]) -> Self {
        let mut statement = Self::default();
        let ids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
        let ids = statement.value(ids, Type::UUID_ARRAY);
        statement.text = format!("select {COLUMNS} from messages where id = any({ids})");
        statement
    }

    /// Finds the message of some parts that so many others of them come before. The parts are in order.
    pub(super) fn edge(parts: &[IdRange], order: Order, passing: usize) -> Self {
        let mut statement = Self::default();
        let conditions = statement.among(parts).join(" and ");
        let (passing, order) = (statement.number(passing), direction(order));
        statement.text = if parts.len() > 1 {
            let parts = statement.parts(parts);
            format!(
                "select found.id from {parts}, lateral (
                    select id from messages where {conditions} order by id {order} limit {passing} + 1
                ) as found order by id {order} limit 1 offset {passing}"
            )
        } else {
            format!("select id from messages where {conditions} order by id {order} limit 1 offset {passing}")
        };
        statement
    }

    /// Counts by minute what is stored, over about so many minutes and filters, and asks the filters that are right by that count
    /// whether they may have the texts that these hashes are of.
    ///
    /// All of it in one snapshot, which `words` says why. Of a filter that is large it fetches the one piece that a bit is in,
    /// and no bit behind the first that is not set. A minute without filters has one row, and nothing in the columns of theirs. The
    /// last column tells whether the minute has anything that is meant by severity and source, if there is a filter that may have
    /// the texts, or none.
    pub(super) fn words(
        meaning: &'v Meaning<'_>,
        hashes: &'v [i32],
        order: Order,
        minutes: &Range<i64>,
        most: usize,
    ) -> Self {
        let mut statement = Self::default();
        let meant = statement.meant(meaning);
        let (from, until) = (statement.minute(minutes.start), statement.minute(minutes.end));
        let (most, direction) = (statement.number(most), direction(order));
        let hashes = statement.value(hashes, Type::INT4_ARRAY);
        let edges = [("minute", TOTALS), ("minute, part", WORDS)].map(|(key, table)| {
            let key = key.replace(',', &format!(" {direction},"));
            format!(
                "(select minute from {table} where minute >= {from} and minute < {until}
                order by {key} {direction} limit 1 offset {most})"
            )
        });
        let (edges, nearest) = (edges.join(", "), nearest(order));
        let (edge, within) = within_edge(order, &from, &until);
        // Whether what is folded is meant is looked up in the end, for the minutes that are left.
        let folded = if selects(meaning) {
            format!("exists (select from {MINUTES} as folded where folded.minute = asked.minute and {meant})")
        } else {
            "true".to_owned()
        };
        statement.text = format!(
            "with edge as materialized (select {nearest}({edges}) as minute),
            counted as (
                select minute, sum(stored)::bigint as stored, bool_or(meant) as meant
                from (
                    select minute, stored, false as meant from {TOTALS} where {within}
                    union all
                    select minute, sum(count), bool_or({meant}) from {DELTAS} where {within} group by minute
                ) as counts group by minute
            ),
            asked as materialized (
                select counted.minute, counted.stored, meant, part, first_id, last_id, not exists (
                    select from unnest({hashes}) as pieces (hash) where get_bit(
                        substring(filter from (hash & (octet_length(filter) * 8 - 1)) / 8 + 1 for 1), hash & 7
                    ) = 0
                ) as may
                from counted left join {WORDS} as words
                    on words.minute = counted.minute and words.stored = counted.stored
            )
            select {minute}, stored, {edge_minute}, first_id, last_id, may, may and (meant or {folded})
            from asked order by minute {direction}, part",
            minute = since_1970("minute"),
            edge_minute = since_1970(edge),
        );
        statement
    }

    /// Finds what is meant among some ids: at most so many messages, and no more of them than it takes for so many bytes of
    /// sources, bodies and attributes. The last column sums these up.
    ///
    /// The parts are in order. It may find more than what is meant.
    pub(super) fn look(
        meaning: &'v Meaning<'_>,
        parts: &[IdRange],
        order: Order,
        most: usize,
        most_bytes: usize,
    ) -> Self {
        let mut statement = Self::default();
        let mut conditions = statement.among(parts);
        conditions.extend(statement.selected(meaning));
        for (text, negated) in &meaning.texts {
            // In this collation `lower` changes the letters from A to Z alone.
            let text = statement.value(text.to_ascii_lowercase(), Type::TEXT);
            let is = if *negated { "=" } else { ">" };
            conditions.push(format!("strpos(lower(body collate \"C\"), {text}) {is} 0"));
        }
        for (attribute, negated) in &meaning.attributes {
            // The condition may hold for others, too, so its opposite might not hold for all that are meant.
            if !negated {
                conditions.push(statement.attribute(attribute));
            }
        }
        let (conditions, order) = (conditions.join(" and "), direction(order));
        let (most, most_bytes) = (statement.number(most), statement.number(most_bytes));
        let mut rows = format!(
            "select {COLUMNS}, octet_length(source) + octet_length(body) + octet_length(attributes::text) as bytes
            from messages where {conditions} order by id {order} limit {most}"
        );
        if parts.len() > 1 {
            let parts = statement.parts(parts);
            rows = format!(
                "select found.* from {parts}, lateral ({rows}) as found order by id {order} limit {most}"
            );
        }
        statement.text = format!(
            "select {COLUMNS}, total from (
                select *, sum(bytes) over (order by id {order} rows unbounded preceding)::bigint as total
                from ({rows}) as found
            ) as measured
            where total - bytes < {most_bytes}
            order by id {order}"
        );
        statement
    }

    /// Returns the conditions for ids that are in one of these parts, of which [`Self::parts`] are a table if there are several.
    ///
    /// The bounds of all of them are known to the planner, and so are the partitions that they are in.
    fn among(&mut self, parts: &[IdRange]) -> Vec<String> {
        let all = parts.iter().copied().reduce(IdRange::joined);
        let (from, until) = all.map_or_else(Default::default, |all| (all.from(), all.until()));
        let (from, until) = (self.value(from, Type::UUID), self.value(until, Type::UUID));
        let mut conditions = vec![format!("id >= {from}"), format!("id < {until}")];
        if parts.len() > 1 {
            conditions.extend(["id >= part.first", "id < part.behind"].map(str::to_owned));
        }
        conditions
    }

    /// Returns parts of ids as a table.
    fn parts(&mut self, parts: &[IdRange]) -> String {
        let (first, behind): (Vec<_>, Vec<_>) = parts.iter().map(|part| (part.from(), part.until())).unzip();
        let (first, behind) = (
            self.value(first, Type::UUID_ARRAY),
            self.value(behind, Type::UUID_ARRAY),
        );
        format!("unnest({first}, {behind}) as part (first, behind)")
    }

    /// Counts by minute what is stored and what of it is meant, over about as many rows of counts as are wanted; only minutes
    /// with something meant, and the last one that was counted, which the last column has if there are others.
    pub(super) fn walk_counts(
        meaning: &'v Meaning<'_>,
        order: Order,
        minutes: &Range<i64>,
        most: usize,
    ) -> Self {
        let mut statement = Self::default();
        let meant = statement.meant(meaning);
        let (from, until) = (statement.minute(minutes.start), statement.minute(minutes.end));
        let (most, direction) = (statement.number(most), direction(order));
        // Who means everything needs one row of a minute.
        let (table, count) = if selects(meaning) {
            (MINUTES, "count")
        } else {
            (TOTALS, "stored")
        };
        let edges = [table, DELTAS].map(|table| {
            format!(
                "(select minute from {table} where minute >= {from} and minute < {until}
                order by minute {direction} limit 1 offset {most})"
            )
        });
        let (edges, nearest) = (edges.join(", "), nearest(order));
        let (edge, within) = within_edge(order, &from, &until);
        let columns = if selects(meaning) {
            "minute, severity, source"
        } else {
            "minute"
        };
        let counts = [(table, count), (DELTAS, "count")]
            .map(|(table, count)| format!("select {columns}, {count} as count from {table} where {within}"))
            .join(" union all ");
        statement.text = format!(
            "with edge as materialized (select {nearest}({edges}) as minute),
            counted as (
                select minute, sum(count)::bigint as stored,
                    coalesce(sum(count) filter (where {meant}), 0)::bigint as meant
                from ({counts}) as counts group by minute
            )
            select {minute}, stored, meant, {edge_minute}
            from counted where meant > 0 or minute = {edge} order by minute {direction}",
            minute = since_1970("minute"),
            edge_minute = since_1970(edge),
        );
        statement
    }

    /// Finds the first quarter of an hour that has something meant among so many counts by quarters, the first minute that
    /// has among those that were appended since, and the quarter that was not read whole any more, if there is one.
    pub(super) fn leap(meaning: &'v Meaning<'_>, order: Order, minutes: &Range<i64>, most: usize) -> Self {
        let mut statement = Self::default();
        let meant = statement.meant(meaning);
        let quarter = statement.minute(minutes.start / QUARTER * QUARTER);
        let (from, until) = (statement.minute(minutes.start), statement.minute(minutes.end));
        let (most, direction) = (statement.number(most), direction(order));
        let within = format!("quarter >= {quarter} and quarter < {until}");
        let edge = "(select quarter from edge)";
        let (before, first) = match order {
            Order::NewestFirst => (format!("quarter > coalesce({edge}, '-infinity')"), "max"),
            Order::OldestFirst => (format!("quarter < coalesce({edge}, 'infinity')"), "min"),
        };
        statement.text = format!(
            "with edge as materialized (
                select (
                    select quarter from {QUARTERS} where {within} order by quarter {direction} limit 1 offset {most}
                ) as quarter
            ), found as (
                select (
                    select quarter from {QUARTERS} where {within} and {before} and {meant}
                    order by quarter {direction} limit 1
                ) as quarter, (
                    select {first}(minute) from {DELTAS} where minute >= {from} and minute < {until} and {meant}
                ) as appended
            )
            select {quarter_minute}, {appended_minute}, {edge_minute} from found",
            quarter_minute = since_1970("quarter"),
            appended_minute = since_1970("appended"),
            edge_minute = since_1970(edge),
        );
        statement
    }

    /// Sums counts up by bucket and severity.
    pub(super) fn counts(wanted: &'v Counts) -> Self {
        let mut statement = Self::default();
        let mut conditions: Vec<_> = statement
            .severities(wanted.selection.severities)
            .into_iter()
            .collect();
        if !wanted.selection.sources.is_empty() {
            conditions.push(statement.source(&SourceTest {
                patterns: &wanted.selection.sources,
                negated: false,
            }));
        }
        let by_quarters = i64::from(wanted.minutes.get()) % QUARTER == 0;
        let counts = statement.counted(&wanted.range.minutes(), by_quarters, &conditions);
        let width = statement.value(i64::from(wanted.minutes.get()) * 60, Type::INT8);
        statement.text = format!(
            "select date_part('epoch', minute)::bigint / {width} as bucket, severity::bigint, sum(count)::bigint
            from ({counts}) as counts group by 1, 2 order by 1"
        );
        statement
    }

    /// Sums counts up by source, a column for each severity; one more than may be listed.
    pub(super) fn sources(range: TimeRange, severities: SeveritySet) -> Self {
        let mut statement = Self::default();
        let conditions: Vec<_> = statement.severities(severities).into_iter().collect();
        let counts = statement.counted(&range.minutes(), true, &conditions);
        let sums: Vec<_> = Severity::ALL
            .into_iter()
            .map(|severity| {
                let severity = severity_number(severity);
                format!("coalesce(sum(count) filter (where severity = {severity}), 0)::bigint")
            })
            .collect();
        let (sums, most) = (sums.join(", "), statement.number(MOST_SOURCES + 1));
        statement.text = format!(
            "select source, {sums} from ({counts}) as counts
            group by source having sum(count) > 0 order by source collate \"C\" limit {most}"
        );
        statement
    }

    /// Selects the counts of a stretch of time from wherever they are.
    fn counted(&mut self, minutes: &Range<i64>, by_quarters: bool, conditions: &[String]) -> String {
        let places: Vec<_> = (places(minutes, by_quarters).into_iter())
            .map(|(table, minutes)| {
                let time = if table == QUARTERS { "quarter" } else { "minute" };
                let (from, until) = (self.minute(minutes.start), self.minute(minutes.end));
                let within = [format!("{time} >= {from} and {time} < {until}")];
                let conditions = [&within[..], conditions].concat().join(" and ");
                format!("select {time} as minute, severity, source, count from {table} where {conditions}")
            })
            .collect();
        places.join(" union all ")
    }

    /// Returns the condition on severity and source, which rows and counts have alike.
    fn meant(&mut self, meaning: &Meaning<'_>) -> String {
        let selected = self.selected(meaning);
        if selected.is_empty() {
            "true".to_owned()
        } else {
            selected.join(" and ")
        }
    }

    /// Returns the conditions on severity and source.
    fn selected(&mut self, meaning: &Meaning<'_>) -> Vec<String> {
        let mut conditions: Vec<_> = self.severities(meaning.severities).into_iter().collect();
        for test in &meaning.sources {
            conditions.push(self.source(test));
        }
        conditions
    }

    fn severities(&mut self, severities: SeveritySet) -> Option<String> {
        if severities == SeveritySet::ALL {
            return None;
        }
        let numbers: Vec<_> = severities.iter().map(severity_number).collect();
        // One of them as itself: only so an index by severity has them in the order of their ids.
        Some(match numbers[..] {
            [number] => format!("severity = {}", self.value(number, Type::INT2)),
            _ => format!("severity = any({})", self.value(numbers, Type::INT2_ARRAY)),
        })
    }

    fn source(&mut self, test: &SourceTest<'_>) -> String {
        let is_pattern = |pattern: &&str| pattern.split('.').any(|segment| matches!(segment, "*" | "#"));
        let (patterns, names): (Vec<_>, Vec<_>) =
            (test.patterns.iter().map(|pattern| pattern.as_str())).partition(is_pattern);
        let mut any = Vec::new();
        if !names.is_empty() {
            let names: Vec<_> = names.into_iter().map(str::to_owned).collect();
            any.push(format!("source = any({})", self.value(names, Type::TEXT_ARRAY)));
        }
        if !patterns.is_empty() {
            let regex = self.value(regex(&patterns), Type::TEXT);
            any.push(format!("(source || '.') collate \"C\" ~ {regex}"));
        }
        let not = if test.negated { "not " } else { "" };
        format!("{not}({})", any.join(" or "))
    }

    /// Returns a condition that holds for whatever is meant, and for little else.
    fn attribute(&mut self, test: &AttributeTest) -> String {
        let key = self.value(test.key().to_owned(), Type::TEXT);
        let path: Vec<_> = test.path().map(str::to_owned).collect();
        let path = self.value(path, Type::TEXT_ARRAY);
        let (flat, nested) = (format!("attributes -> {key}"), format!("attributes #> {path}"));
        let values = test.values();
        if values.iter().all(is_the_same_in_decimals) {
            let values = self.value(values, Type::JSONB_ARRAY);
            format!("({flat} = any({values}) or {nested} = any({values}))")
        } else {
            format!("({flat} is not null or {nested} is not null)")
        }
    }
}

/// Tells whether a value equals the same others for PostgreSQL, which compares decimals, as for us, who compare floats
/// where one of two is a float: all that 53 bits hold does.
fn is_the_same_in_decimals(value: &Value) -> bool {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    value.as_f64().is_none_or(|number| number.abs() < EXACT)
}

/// How many minutes [`QUARTERS`] sums up.
pub(super) const QUARTER: i64 = 15;

/// Returns where the counts of a stretch of time are: of its whole quarters by quarters, if they may be.
fn places(minutes: &Range<i64>, by_quarters: bool) -> Vec<(&'static str, Range<i64>)> {
    let Range { start, end } = *minutes;
    let (first, last) = ((start + QUARTER - 1) / QUARTER * QUARTER, end / QUARTER * QUARTER);
    let folded = if by_quarters && first < last {
        vec![
            (MINUTES, start..first),
            (QUARTERS, first..last),
            (MINUTES, last..end),
        ]
    } else {
        vec![(MINUTES, start..end)]
    };
    let places = folded.into_iter().chain([(DELTAS, start..end)]);
    places.filter(|(_, minutes)| !minutes.is_empty()).collect()
}

const fn direction(order: Order) -> &'static str {
    match order {
        Order::NewestFirst => "desc",
        Order::OldestFirst => "asc",
    }
}

/// Returns the function that chooses what comes first of several.
const fn nearest(order: Order) -> &'static str {
    match order {
        Order::NewestFirst => "greatest",
        Order::OldestFirst => "least",
    }
}

/// Tells whether only some severities or sources are meant.
fn selects(meaning: &Meaning<'_>) -> bool {
    meaning.severities != SeveritySet::ALL || !meaning.sources.is_empty()
}

/// Returns the minute that a count ends with, and the condition for it and what comes before it, in this order.
fn within_edge(order: Order, from: &str, until: &str) -> (&'static str, String) {
    const EDGE: &str = "(select minute from edge)";
    let within = match order {
        Order::NewestFirst => format!("minute >= coalesce({EDGE}, {from}) and minute < {until}"),
        Order::OldestFirst => {
            format!("minute >= {from} and minute < coalesce({EDGE} + interval '1 minute', {until})")
        }
    };
    (EDGE, within)
}

/// Returns an expression for the minutes since 1970 of another one.
fn since_1970(time: &str) -> String {
    format!("date_part('epoch', {time})::bigint / 60")
}

/// Writes patterns of sources as one regular expression over a source with a dot behind it, so that every segment has one.
///
/// Their alphabet has nothing but the dot that means something in a regular expression.
fn regex(patterns: &[&str]) -> String {
    let segment = |segment: &str| match segment {
        "*" => r"[^.]+\.".to_owned(),
        "#" => r"(?:[^.]+\.)*".to_owned(),
        name => format!(r"{name}\."),
    };
    let pattern = |pattern: &&str| pattern.split('.').map(segment).collect::<String>();
    let patterns: Vec<_> = patterns.iter().map(pattern).collect();
    format!("^(?:{})$", patterns.join("|"))
}

/// The start of a minute since 1970, which may be one more than the last that a message can have.
#[derive(Debug)]
struct Minute(i64);

impl ToSql for Minute {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        bytes::BufMut::put_i64(out, micros_of_minute(self.0));
        Ok(IsNull::No)
    }

    accepts!(TIMESTAMPTZ);
    to_sql_checked!();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn patterns_become_one_regular_expression() {
        assert_eq!(
            regex(&["billing.*", "#.a-b_c"]),
            r"^(?:billing\.[^.]+\.|(?:[^.]+\.)*a-b_c\.)$"
        );
    }

    #[test]
    fn whole_quarters_are_counted_by_quarters() {
        let deltas = |minutes| (DELTAS, minutes);
        for (minutes, by_quarters, expected) in [
            (0..30, true, vec![(QUARTERS, 0..30), deltas(0..30)]),
            (0..30, false, vec![(MINUTES, 0..30), deltas(0..30)]),
            (14..29, true, vec![(MINUTES, 14..29), deltas(14..29)]),
            (
                14..31,
                true,
                vec![
                    (MINUTES, 14..15),
                    (QUARTERS, 15..30),
                    (MINUTES, 30..31),
                    deltas(14..31),
                ],
            ),
            (15..16, true, vec![(MINUTES, 15..16), deltas(15..16)]),
        ] {
            assert_eq!(places(&minutes, by_quarters), expected);
        }
    }

    #[test]
    fn only_numbers_that_floats_tell_apart_are_compared_by_postgresql() {
        for (value, same) in [
            (json!("9007199254740993"), true),
            (json!(null), true),
            (json!(9_007_199_254_740_991_i64), true),
            (json!(9_007_199_254_740_993_i64), false),
            (json!(-1e300), false),
            (json!(0.1), true),
        ] {
            assert_eq!(is_the_same_in_decimals(&value), same, "{value}");
        }
    }
}
