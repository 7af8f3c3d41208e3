use super::*;

const WHOLE: &str = r#"
title = "A day"
about = "What it shows."

[[send]]
severity = "info"
source = "shop.web"
count = 10
body = "request {n}"
attributes = { user = 7, tags = ["a", 1.5], since = 2026-11-22 }
twice = 3

[[send]]
severity = "fatal"
count = 1
body = "on fire"

[[kill]]
group = "error"
after = 5
away = 2

[[pause]]
after = 4
for = "200ms"

[expect]
all = { info = 10, critical = 1 }
debug-info = { info = 10 }
critical = { critical = 1 }
error = {}
"#;

fn problems(from: &str, to: &str) -> String {
    assert!(WHOLE.contains(from), "{from}");
    let text = WHOLE.replacen(from, to, 1);
    parse(Path::new("day.toml"), &text).unwrap_err().to_string()
}

#[test]
fn a_whole_file_is_read() {
    let scenario = parse(Path::new("day.toml"), WHOLE).unwrap();
    assert_eq!(scenario.name(), "day");
    assert_eq!(
        (
            scenario.total(),
            scenario.distinct().total(),
            scenario.copies().total()
        ),
        (14, 11, 3)
    );
    let step = &scenario.steps[0];
    assert_eq!(
        (step.body(0), step.body(9)),
        ("request 1".into(), "request 10".into())
    );
    assert_eq!(
        serde_json::to_value(&step.attributes).unwrap(),
        serde_json::json!({"user": 7, "tags": ["a", 1.5], "since": "2026-11-22"})
    );
    assert_eq!(scenario.steps[1].severity, Severity::Critical);
    assert_eq!(scenario.steps[1].source, Source::default());
    assert_eq!(
        scenario.events[0].what,
        Happening::Pause(Duration::from_millis(200))
    );
    assert_eq!(scenario.events[1].what, Happening::Kill { group: 3, away: 2 });
    assert_eq!(scenario.expected[0].get(Severity::Info), 10);
    assert_eq!(scenario.expected[3].total(), 0);
}

#[test]
fn a_problem_names_the_place_and_the_key_and_what_is_allowed() {
    assert_eq!(
        problems("severity = \"info\"", "sevrity = \"info\""),
        "day.toml:6:1: send[1].sevrity: unknown key `sevrity`, expected one of `severity`, `source`, `count`, \
         `body`, `attributes`, `twice`\n\
         \x20 6 | sevrity = \"info\"\n\
         \x20   | ^^^^^^^"
    );
    for (from, to, said) in [
        (
            "\"info\"",
            "\"loud\"",
            "day.toml:6:12: send[1].severity: invalid value: string \"loud\", expected one of debug, info, warning, \
             error, critical",
        ),
        (
            "count = 10",
            "count = -5",
            "day.toml:8:9: send[1].count: invalid value: integer `-5`, expected a number of messages, a whole one",
        ),
        (
            "count = 10",
            "count = 2.5",
            "send[1].count: invalid type: floating point `2.5`, expected a number of messages",
        ),
        (
            "count = 10",
            "count = \"ten\"",
            "send[1].count: invalid type: string \"ten\"",
        ),
        (
            "group = \"error\"",
            "group = \"eror\"",
            "kill[1].group: invalid value: string \"eror\", expected one of all, debug-info, critical, error",
        ),
        (
            "error = {}",
            "eror = {}",
            "expect.eror: unknown key `eror`, expected one of `all`, `debug-info`, `critical`, `error`",
        ),
        ("\nerror = {}", "", "expect: missing key `error`"),
        (
            "{ info = 10 }",
            "{ inof = 10 }",
            "expect.debug-info.inof: unknown key `inof`, expected one of `debug`, `info`, `warning`",
        ),
        (
            "{ info = 10 }",
            "{ info = -1 }",
            "expect.debug-info.info: invalid value: integer `-1`",
        ),
        ("shop.web", "shop..web", "send[1].source: invalid value"),
        (
            "for = \"200ms\"",
            "for = \"soon\"",
            "pause[1].for: invalid value: string \"soon\", expected a duration of at most 1m",
        ),
        ("title = \"A day\"", "title = \"A day", "day.toml:2:"),
        ("body = \"request {n}\"\n", "", "send[1]: missing key `body`"),
        (
            "title = \"A day\"",
            "title = \"A day\"\norder = \"random\"",
            "order: unknown variant `random`, expected `as-written` or `shuffled`",
        ),
    ] {
        let problems = problems(from, to);
        assert!(problems.contains(said), "{to}:\n{problems}");
    }
}

#[test]
fn what_does_not_fit_together_is_told_all_at_once() {
    let text = WHOLE
        .replace("twice = 3", "twice = 11")
        .replace("after = 5", "after = 500")
        .replace("user = 7", "user = nan")
        .replace("about = ", "seed = 3\nabout = ");
    let problems = parse(Path::new("day.toml"), &text).unwrap_err().to_string();
    for said in [
        "day.toml:3:8: seed: without order = \"shuffled\" it changes nothing",
        "send[1].twice: at most the count of the step, 10",
        "send[1].attributes: nan and inf are no JSON",
        "kill[1].after: has to come after at least 1",
    ] {
        assert!(problems.contains(said), "{said}\n{problems}");
    }
}

#[test]
fn nobody_is_killed_who_is_away() {
    let kill = "[[kill]]\ngroup = \"error\"\nafter = 6\n[[pause]]";
    let text = problems("[[pause]]", kill);
    assert!(
        text.contains("kill[2].after: the consumer of error is away already"),
        "{text}"
    );
    let later = kill.replace('6', "7");
    let text = WHOLE.replace("[[pause]]", &later);
    assert_eq!(
        parse(Path::new("day.toml"), &text)
            .map(|found| found.events.len())
            .unwrap(),
        3
    );
}

#[test]
fn a_shuffled_order_needs_a_seed_and_a_file_something_to_send() {
    let text = problems("title = ", "order = \"shuffled\"\ntitle = ");
    assert!(text.contains("needs a seed, such as seed = 1"), "{text}");
    let empty = "title = 't'\nabout = ''\n[expect]\nall = {}\ndebug-info = {}\ncritical = {}\nerror = {}\n";
    let text = parse(Path::new("day.toml"), empty).unwrap_err().to_string();
    assert!(text.contains("day.toml: sends nothing; add a [[send]]"), "{text}");
}
