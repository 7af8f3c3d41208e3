//! Keeps the written configuration reference equal to the code.

use std::collections::{BTreeMap, BTreeSet};

/// Compares the tables of `markdown` with `settings`, the keys and defaults of the code, and returns what differs.
///
/// A row counts when its first cell is a key in backticks. Its default stands in the column headed `Default`
/// (the second, if no column is), in backticks or not; a dash or `none` says that nothing is set. Any other cell is
/// the meaning, and one of them must not be empty. Rows of sections that `settings` has nothing of belong to another
/// program and are passed over, so that one reference serves all programs. Where a program has another default than
/// the others, the meaning says so: ``In `program`: `value`.``
#[must_use]
pub fn compare(program: &str, markdown: &str, settings: &[(String, String)]) -> Vec<String> {
    let own_default = format!("In `{program}`: `");
    let mut differences = Vec::new();
    let mut documented = BTreeMap::new();
    let mut default_column = 1;
    let mut in_table = false;
    for (number, line) in markdown
        .lines()
        .enumerate()
        .map(|(index, line)| (index + 1, line.trim()))
    {
        let Some(cells) = cells(line) else {
            in_table = false;
            continue;
        };
        if !in_table {
            in_table = true;
            default_column = cells
                .iter()
                .position(|cell| cell.eq_ignore_ascii_case("default"))
                .unwrap_or(1);
            continue;
        }
        let Some(key) = key(cells[0]) else { continue };
        let own = cells.iter().find_map(|cell| cell.split_once(&own_default));
        let default = match own {
            Some((_, rest)) => rest.split('`').next().unwrap_or_default(),
            None => cells.get(default_column).map_or("", |cell| plain(cell)),
        };
        let others = cells
            .iter()
            .enumerate()
            .filter(|(column, _)| *column != 0 && *column != default_column);
        if others.clone().count() > 0 && others.map(|(_, cell)| cell).all(|cell| cell.is_empty()) {
            differences.push(format!("line {number}: `{key}` has no meaning beside it"));
        }
        if documented
            .insert(key.to_owned(), (number, default.to_owned()))
            .is_some()
        {
            differences.push(format!("line {number}: `{key}` is documented twice"));
        }
    }
    for (key, default) in settings {
        match documented.remove(key) {
            None => differences.push(format!("`{key}` (default `{default}`) is not documented")),
            Some((number, written)) if written != *default => differences.push(format!(
                "line {number}: `{key}` is documented with the default `{written}`, the code has `{default}`"
            )),
            Some(_) => {}
        }
    }
    let section = |key: &str| key.split('.').next().map(str::to_owned);
    let own: BTreeSet<_> = settings.iter().map(|(key, _)| section(key)).collect();
    for (key, (number, _)) in documented
        .into_iter()
        .filter(|(key, _)| own.contains(&section(key)))
    {
        differences.push(format!("line {number}: `{key}` is documented but is no setting"));
    }
    differences
}

/// Splits a table row into its trimmed cells; `\|` is no border.
fn cells(line: &str) -> Option<Vec<&str>> {
    let inner = line.strip_prefix('|')?;
    let inner = inner.strip_suffix('|').unwrap_or(inner);
    let mut cells = Vec::new();
    let mut start = 0;
    for (at, _) in inner.match_indices('|') {
        if !inner[..at].ends_with('\\') {
            cells.push(inner[start..at].trim());
            start = at + 1;
        }
    }
    cells.push(inner[start..].trim());
    Some(cells)
}

fn key(cell: &str) -> Option<&str> {
    let key = cell.strip_prefix('`')?.strip_suffix('`')?;
    let is_key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.');
    (!key.is_empty() && key.chars().all(is_key)).then_some(key)
}

fn plain(cell: &str) -> &str {
    let text = cell
        .strip_prefix('`')
        .and_then(|cell| cell.strip_suffix('`'))
        .unwrap_or(cell);
    if matches!(text, "-" | "–" | "—" | "none") {
        ""
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARKDOWN: &str = "\
Words with a `code.word` in them.

| Key | Meaning | Default |
| --- | --- | --- |
| `http.listen` | where to listen | `127.0.0.1:8080` |
| `http.ca` | a \\| b | — |
| `http.old` | gone | 1 |

| Key | Default | Meaning |
| --- | --- | --- |
| `retention_days` | 30 | |
";

    fn settings(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn every_difference_is_told_with_its_line() {
        let code = settings(&[
            ("http.listen", "127.0.0.1:8080"),
            ("retention_days", "7"),
            ("amqp.prefix", "warren"),
        ]);
        assert_eq!(
            compare("program", MARKDOWN, &code),
            [
                "line 11: `retention_days` has no meaning beside it",
                "line 11: `retention_days` is documented with the default `30`, the code has `7`",
                "`amqp.prefix` (default `warren`) is not documented",
                "line 6: `http.ca` is documented but is no setting",
                "line 7: `http.old` is documented but is no setting",
            ]
        );
    }

    #[test]
    fn equal_lists_have_no_difference() {
        let markdown =
            "| Key | Default | Meaning |\n|---|---|---|\n| `a.b` | `1` | one |\n| `a.c` | none | two |\n";
        assert!(compare("program", markdown, &settings(&[("a.b", "1"), ("a.c", "")])).is_empty());
    }

    #[test]
    fn the_settings_of_another_program_are_passed_over() {
        let markdown =
            "| Key | Default | Meaning |\n|---|---|---|\n| `a.b` | `1` | one |\n| `z.y` | `2` | two |\n";
        assert!(compare("program", markdown, &settings(&[("a.b", "1")])).is_empty());
    }

    #[test]
    fn a_program_may_have_a_default_of_its_own() {
        let markdown =
            "| Key | Default | Meaning |\n|---|---|---|\n| `a.b` | `1` | one. In `special`: `2`. |\n";
        for (program, default) in [("special", "2"), ("other", "1")] {
            let code = settings(&[("a.b", default)]);
            assert!(compare(program, markdown, &code).is_empty(), "{program}");
        }
        assert_eq!(compare("special", markdown, &settings(&[("a.b", "1")])).len(), 1);
    }
}
