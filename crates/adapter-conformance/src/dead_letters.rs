//! The contract of [`DeadLetters`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use tokio::task::JoinSet;
use warren_domain::ports::{
    DeadLetter, DeadLetterFilter, DeadLetterId, DeadLetters, Death, KeptLetter, LetterFacts, LetterText,
    MOST_LISTED, Revision, SourceBranch,
};
use warren_domain::{Severity, SeveritySet, Timestamp};

/// A place of dead letters with nothing in it, isolated from every other test.
#[async_trait]
pub trait DeadLettersUnderTest: Send + Sync + 'static {
    /// Returns the place.
    fn letters(&self) -> Arc<dyn DeadLetters>;

    /// Removes what the test has left.
    async fn tear_down(&self);
}

/// Runs every test of the contract on what `$make` yields.
#[macro_export]
macro_rules! dead_letters_suite {
    ($make:expr) => {
        $crate::suite!(
            dead_letters,
            $make,
            a_kept_letter_reads_back_with_every_field_and_every_byte,
            a_letter_is_shown_with_no_more_of_its_bytes_than_is_asked_for,
            nothing_at_all_is_kept_counted_and_removed_without_a_fault,
            the_same_death_again_changes_nothing,
            another_death_of_a_letter_is_no_second_letter,
            deaths_of_one_letter_in_one_call_all_count,
            a_call_with_many_deaths_of_one_letter_changes_nothing_the_second_time,
            a_time_of_death_never_moves_back,
            a_letter_that_died_again_is_not_removed_by_whoever_saw_the_earlier_death,
            a_letter_that_was_removed_and_came_back_is_another_one,
            pages_lead_through_every_letter_once_the_last_death_first,
            a_letter_that_dies_again_between_two_pages_is_not_met_twice,
            every_condition_of_a_filter_holds,
            what_has_died_since_a_count_is_not_among_what_it_counted,
            a_page_is_bounded_whatever_is_asked_for,
            concurrent_keepers_make_one_letter_of_one,
        );
    };
}

#[doc(hidden)]
pub async fn tear_down(letters: &dyn DeadLettersUnderTest) {
    letters.tear_down().await;
}

/// A moment of tests, so many seconds after a fixed one.
pub fn moment(second: i64) -> Timestamp {
    Timestamp::from_unix_micros(1_795_352_400_000_000 + second * 1_000_000).unwrap()
}

/// Makes a letter whose line is no message, that died at `moment(second)`.
pub fn letter(line: &[u8], second: i64) -> DeadLetter {
    let exchange = "warren.error";
    DeadLetter {
        facts: LetterFacts {
            id: DeadLetterId::of_content(exchange, "shop.web", line),
            reason: "undecodable".into(),
            detail: "not JSON".into(),
            exchange: exchange.into(),
            routing_key: "shop.web".into(),
            queue: "warren.store".into(),
            severity: Some(Severity::Error),
            source: Some("shop.web".parse().unwrap()),
            message_type: Some("warren.v1".into()),
            content_encoding: None,
            attempts: 1,
            first_at: moment(0),
            last_at: moment(second),
        },
        death: Death::of([line, &second.to_be_bytes()]),
        content: line.to_vec(),
    }
}

/// Makes `count` letters, one a second.
pub fn letters(count: usize) -> Vec<DeadLetter> {
    (0..count)
        .map(|n| letter(format!("line {n}").as_bytes(), i64::try_from(n).unwrap()))
        .collect()
}

fn ids(letters: &[KeptLetter]) -> Vec<DeadLetterId> {
    letters.iter().map(|letter| letter.facts.id).collect()
}

async fn all(letters: &dyn DeadLetters) -> Vec<KeptLetter> {
    matching(letters, &DeadLetterFilter::default()).await
}

async fn matching(letters: &dyn DeadLetters, filter: &DeadLetterFilter) -> Vec<KeptLetter> {
    letters.list(filter, None, MOST_LISTED).await.unwrap()
}

/// Returns the letter as it is kept.
async fn one(letters: &dyn DeadLetters, id: DeadLetterId) -> KeptLetter {
    let mut found = letters.read(&[id]).await.unwrap();
    assert_eq!(found.len(), 1);
    found.pop().unwrap().0
}

pub async fn a_kept_letter_reads_back_with_every_field_and_every_byte(subject: &dyn DeadLettersUnderTest) {
    let every_byte: Vec<u8> = (0..=255).chain(0..=255).collect();
    let plain = letter(&every_byte, 5);
    let extreme = DeadLetter {
        facts: LetterFacts {
            reason: LetterText::from("é\0".repeat(10_000)),
            detail: "'; drop table dead_letters; -- \u{1}\u{7f}👩‍👩‍👧‍👦".into(),
            exchange: "".into(),
            routing_key: "\u{202e}".into(),
            queue: "".into(),
            severity: None,
            source: None,
            message_type: None,
            content_encoding: Some("gzip".into()),
            attempts: u32::MAX.into(),
            first_at: Timestamp::MIN,
            last_at: Timestamp::MAX,
            ..letter(b"", 1).facts
        },
        ..letter(b"", 1)
    };
    let large = letter(&b"\xff\0large".repeat(1 << 20), 6);
    let letters = subject.letters();
    let kept = [plain, extreme, large];
    letters.keep(&kept).await.unwrap();
    let asked: Vec<_> = kept.iter().map(|letter| letter.facts.id).collect();
    let found = letters.read(&asked).await.unwrap();
    assert_eq!(found.len(), 3);
    for (found, content) in found {
        let expected = kept
            .iter()
            .find(|letter| letter.facts.id == found.facts.id)
            .unwrap();
        assert_eq!(found.facts, expected.facts);
        assert!(content == expected.content, "other bytes");
        assert_eq!(found.bytes, content.len() as u64);
    }
    let listed = all(&*letters).await;
    assert_eq!(ids(&listed), [asked[1], asked[2], asked[0]]);
    assert_eq!(listed[1].bytes, kept[2].content.len() as u64);
}

pub async fn a_letter_is_shown_with_no_more_of_its_bytes_than_is_asked_for(
    subject: &dyn DeadLettersUnderTest,
) {
    let letters = subject.letters();
    let kept = letter(b"\xff\0\\x41", 1);
    letters.keep(&[kept.clone(), letter(b"other", 2)]).await.unwrap();
    let id = kept.facts.id;
    for most in [0, 1, 5, 6, usize::MAX] {
        let (shown, content) = letters.show(id, most).await.unwrap().unwrap();
        assert_eq!(content, kept.content[..kept.content.len().min(most)]);
        assert_eq!(shown, one(&*letters, id).await);
    }
    let unknown = letter(b"x", 0).facts.id;
    assert_eq!(letters.show(unknown, 6).await.unwrap(), None);
}

pub async fn nothing_at_all_is_kept_counted_and_removed_without_a_fault(subject: &dyn DeadLettersUnderTest) {
    let letters = subject.letters();
    letters.keep(&[]).await.unwrap();
    assert_eq!(all(&*letters).await, []);
    let count = letters.count(&DeadLetterFilter::default()).await.unwrap();
    assert_eq!((count.total(), count.by_reason.len()), (0, 0));
    assert_eq!(letters.read(&[]).await.unwrap(), []);
    let unknown = letter(b"x", 0).facts.id;
    assert_eq!(letters.read(&[unknown]).await.unwrap(), []);
    assert_eq!(letters.remove(&[]).await.unwrap(), 0);
}

pub async fn the_same_death_again_changes_nothing(subject: &dyn DeadLettersUnderTest) {
    let letters = subject.letters();
    let batch = super::dead_letters::letters(20);
    letters.keep(&batch).await.unwrap();
    let before = all(&*letters).await;
    assert_eq!(before.len(), 20);
    letters.keep(&batch).await.unwrap();
    letters.keep(&batch[3..7]).await.unwrap();
    assert_eq!(all(&*letters).await, before);
}

pub async fn another_death_of_a_letter_is_no_second_letter(subject: &dyn DeadLettersUnderTest) {
    let letters = subject.letters();
    let first = letter(b"x", 1);
    letters.keep(std::slice::from_ref(&first)).await.unwrap();
    let before = one(&*letters, first.facts.id).await;
    let again = DeadLetter {
        facts: LetterFacts {
            reason: "refused_by_store".into(),
            detail: "again".into(),
            queue: "warren.group.all".into(),
            attempts: 20,
            first_at: moment(8),
            ..letter(b"x", 9).facts
        },
        ..letter(b"x", 9)
    };
    letters.keep(&[again]).await.unwrap();
    let after = one(&*letters, first.facts.id).await;
    assert_ne!(after.revision, before.revision);
    let expected = LetterFacts {
        reason: "refused_by_store".into(),
        detail: "again".into(),
        queue: "warren.group.all".into(),
        attempts: 21,
        last_at: moment(9),
        ..first.facts
    };
    assert_eq!(after.facts, expected, "the first time stays, the last one moves");
    assert_eq!(all(&*letters).await, [after]);
    let count = letters.count(&DeadLetterFilter::default()).await.unwrap();
    assert_eq!(
        count.by_reason,
        BTreeMap::from([("refused_by_store".to_owned(), 1)])
    );
}

pub async fn deaths_of_one_letter_in_one_call_all_count(subject: &dyn DeadLettersUnderTest) {
    let letters = subject.letters();
    let (first, second) = (letter(b"x", 1), letter(b"x", 2));
    let other = letter(b"y", 3);
    let deaths = [first.clone(), other, second.clone(), second, letter(b"x", 4)];
    letters.keep(&deaths).await.unwrap();
    assert_eq!(all(&*letters).await.len(), 2);
    let kept = one(&*letters, first.facts.id).await;
    assert_eq!((kept.facts.attempts, kept.facts.last_at), (3, moment(4)));
}

pub async fn a_call_with_many_deaths_of_one_letter_changes_nothing_the_second_time(
    subject: &dyn DeadLettersUnderTest,
) {
    let letters = subject.letters();
    let deaths: Vec<_> = (0..128).map(|death| letter(b"x", death)).collect();
    letters.keep(&deaths).await.unwrap();
    let before = all(&*letters).await;
    assert_eq!(before[0].facts.attempts, 128);
    letters.keep(&deaths).await.unwrap();
    letters.keep(&deaths[..1]).await.unwrap();
    letters.keep(&deaths[30..]).await.unwrap();
    assert_eq!(all(&*letters).await, before);
    letters.keep(&[letter(b"x", 128)]).await.unwrap();
    letters.keep(&deaths[1..]).await.unwrap();
    assert_eq!(all(&*letters).await[0].facts.attempts, 129);
}

pub async fn a_time_of_death_never_moves_back(subject: &dyn DeadLettersUnderTest) {
    // The clock of another program may be behind.
    let letters = subject.letters();
    letters.keep(&[letter(b"x", 10)]).await.unwrap();
    letters.keep(&[letter(b"x", 2)]).await.unwrap();
    let kept = one(&*letters, letter(b"x", 0).facts.id).await;
    assert_eq!((kept.facts.last_at, kept.facts.attempts), (moment(10), 2));
}

pub async fn a_letter_that_died_again_is_not_removed_by_whoever_saw_the_earlier_death(
    subject: &dyn DeadLettersUnderTest,
) {
    let letters = subject.letters();
    letters.keep(&[letter(b"x", 1), letter(b"y", 1)]).await.unwrap();
    let seen: Vec<_> = all(&*letters)
        .await
        .iter()
        .map(|kept| (kept.facts.id, kept.revision))
        .collect();
    letters.keep(&[letter(b"x", 2)]).await.unwrap();
    assert_eq!(letters.remove(&seen).await.unwrap(), 1);
    let left = all(&*letters).await;
    assert_eq!(ids(&left), [letter(b"x", 0).facts.id]);
    assert_eq!(letters.remove(&seen).await.unwrap(), 0);
    let seen = [(left[0].facts.id, left[0].revision)];
    assert_eq!(letters.remove(&seen).await.unwrap(), 1);
    assert_eq!(all(&*letters).await, []);
}

pub async fn a_letter_that_was_removed_and_came_back_is_another_one(subject: &dyn DeadLettersUnderTest) {
    let letters = subject.letters();
    letters.keep(&[letter(b"x", 1)]).await.unwrap();
    let before = one(&*letters, letter(b"x", 0).facts.id).await;
    let seen = [(before.facts.id, before.revision)];
    assert_eq!(letters.remove(&seen).await.unwrap(), 1);
    letters.keep(&[letter(b"x", 1)]).await.unwrap();
    assert_eq!(letters.remove(&seen).await.unwrap(), 0);
    assert_eq!(all(&*letters).await.len(), 1);
}

pub async fn pages_lead_through_every_letter_once_the_last_death_first(subject: &dyn DeadLettersUnderTest) {
    let letters = subject.letters();
    // Five of them died in each second.
    let batch: Vec<_> = (0..100_i64)
        .map(|n| letter(format!("line {n}").as_bytes(), n / 5))
        .collect();
    letters.keep(&batch).await.unwrap();
    let (mut read, mut after) = (Vec::new(), None);
    loop {
        let page = letters
            .list(&DeadLetterFilter::default(), after, 7)
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        assert!(page.len() <= 7);
        after = Some(last.place());
        read.extend(page);
    }
    let times: Vec<_> = read.iter().map(|letter| letter.facts.last_at).collect();
    assert!(times.is_sorted_by(|a, b| a >= b));
    let met: BTreeSet<_> = ids(&read).into_iter().collect();
    assert_eq!((read.len(), met.len()), (100, 100));
}

pub async fn a_letter_that_dies_again_between_two_pages_is_not_met_twice(subject: &dyn DeadLettersUnderTest) {
    let letters = subject.letters();
    letters.keep(&super::dead_letters::letters(10)).await.unwrap();
    let filter = DeadLetterFilter::default();
    let first = letters.list(&filter, None, 5).await.unwrap();
    // One that was met, and by a clock that is behind; one that was not; and a new one.
    letters
        .keep(&[letter(b"line 7", -5), letter(b"line 2", 100), letter(b"new", 100)])
        .await
        .unwrap();
    let rest = letters
        .list(&filter, Some(first[4].place()), MOST_LISTED)
        .await
        .unwrap();
    let expected: Vec<_> = [4, 3, 1, 0]
        .map(|n| letter(format!("line {n}").as_bytes(), 0).facts.id)
        .into();
    assert_eq!(ids(&rest), expected);
}

pub async fn every_condition_of_a_filter_holds(subject: &dyn DeadLettersUnderTest) {
    let letters = subject.letters();
    let made = |n: i64, reason: &str, severity: Option<Severity>, source: Option<&str>| {
        let letter = letter(format!("{n}").as_bytes(), n);
        DeadLetter {
            facts: LetterFacts {
                reason: reason.into(),
                severity,
                source: source.map(|source| source.parse().unwrap()),
                ..letter.facts
            },
            ..letter
        }
    };
    let batch = [
        made(0, "a", Some(Severity::Info), Some("shop")),
        made(1, "b", Some(Severity::Error), Some("shop.web")),
        made(2, "b", Some(Severity::Critical), Some("shop.web.cart")),
        made(3, "c", Some(Severity::Error), Some("shop_web")),
        made(4, "a", Some(Severity::Error), Some("shopper")),
        made(5, "a", None, None),
    ];
    letters.keep(&batch).await.unwrap();
    let all = DeadLetterFilter::default;
    let branch = |text: &str| text.parse::<SourceBranch>().ok();
    let severities = |severities: &[Severity]| Some(severities.iter().copied().collect::<SeveritySet>());
    let cases: Vec<(DeadLetterFilter, &[usize])> = vec![
        (all(), &[0, 1, 2, 3, 4, 5]),
        (
            DeadLetterFilter {
                reasons: vec!["a".into()],
                ..all()
            },
            &[0, 4, 5],
        ),
        (
            DeadLetterFilter {
                reasons: vec!["b".into(), "c".into()],
                ..all()
            },
            &[1, 2, 3],
        ),
        (
            DeadLetterFilter {
                severities: severities(&[Severity::Error]),
                ..all()
            },
            &[1, 3, 4],
        ),
        (
            DeadLetterFilter {
                severities: severities(&Severity::ALL),
                ..all()
            },
            &[0, 1, 2, 3, 4],
        ),
        (
            DeadLetterFilter {
                source: branch("shop"),
                ..all()
            },
            &[0],
        ),
        (
            DeadLetterFilter {
                source: branch("shop.#"),
                ..all()
            },
            &[0, 1, 2],
        ),
        (
            DeadLetterFilter {
                source: branch("shop.web.#"),
                ..all()
            },
            &[1, 2],
        ),
        (
            DeadLetterFilter {
                since: Some(moment(2)),
                ..all()
            },
            &[2, 3, 4, 5],
        ),
        (
            DeadLetterFilter {
                until: Some(moment(2)),
                ..all()
            },
            &[0, 1],
        ),
        (
            DeadLetterFilter {
                since: Some(moment(1)),
                until: Some(moment(2)),
                ..all()
            },
            &[1],
        ),
        (
            DeadLetterFilter {
                ids: vec![batch[3].facts.id, batch[0].facts.id],
                ..all()
            },
            &[0, 3],
        ),
        (
            DeadLetterFilter {
                ids: vec![batch[3].facts.id, batch[1].facts.id],
                reasons: vec!["b".into()],
                severities: severities(&[Severity::Error]),
                source: branch("shop.#"),
                since: Some(moment(0)),
                until: Some(moment(9)),
                ..all()
            },
            &[1],
        ),
        (
            DeadLetterFilter {
                reasons: vec!["' or 1=1 --".into()],
                ..all()
            },
            &[],
        ),
    ];
    for (filter, expected) in cases {
        let listed = matching(&*letters, &filter).await;
        let wanted: Vec<_> = expected.iter().rev().map(|n| batch[*n].facts.id).collect();
        assert_eq!(ids(&listed), wanted, "{filter:?}");
        let mut by_reason = BTreeMap::new();
        for n in expected {
            *by_reason
                .entry(batch[*n].facts.reason.as_str().to_owned())
                .or_insert(0) += 1;
        }
        assert_eq!(
            letters.count(&filter).await.unwrap().by_reason,
            by_reason,
            "{filter:?}"
        );
    }
}

pub async fn what_has_died_since_a_count_is_not_among_what_it_counted(subject: &dyn DeadLettersUnderTest) {
    let letters = subject.letters();
    let counts = letters.count(&DeadLetterFilter::default()).await.unwrap();
    assert_eq!(counts.newest, None);
    letters.keep(&super::dead_letters::letters(5)).await.unwrap();
    let counts = letters.count(&DeadLetterFilter::default()).await.unwrap();
    let kept = all(&*letters).await;
    assert_eq!(counts.newest, kept.iter().map(|kept| kept.revision).max());
    let then = DeadLetterFilter {
        as_of: counts.newest,
        ..DeadLetterFilter::default()
    };
    assert_eq!(letters.count(&then).await.unwrap(), counts);
    // New ones, of whatever time, and one that dies again.
    letters
        .keep(&[letter(b"old", -100), letter(b"new", 100), letter(b"line 2", 100)])
        .await
        .unwrap();
    let listed = matching(&*letters, &then).await;
    let expected: Vec<_> = [4, 3, 1, 0]
        .map(|n| letter(format!("line {n}").as_bytes(), 0).facts.id)
        .into();
    assert_eq!(ids(&listed), expected);
    assert_eq!(letters.count(&then).await.unwrap().total(), 4);
    let never = DeadLetterFilter {
        as_of: Some(Revision::NONE),
        ..DeadLetterFilter::default()
    };
    assert_eq!(letters.count(&never).await.unwrap().total(), 0);
}

pub async fn a_page_is_bounded_whatever_is_asked_for(subject: &dyn DeadLettersUnderTest) {
    let letters = subject.letters();
    letters
        .keep(&super::dead_letters::letters(MOST_LISTED + 50))
        .await
        .unwrap();
    let everything = DeadLetterFilter::default();
    let page = letters.list(&everything, None, usize::MAX).await.unwrap();
    assert_eq!(page.len(), MOST_LISTED);
    assert_eq!(letters.list(&everything, None, 0).await.unwrap(), []);
    assert_eq!(
        letters.count(&everything).await.unwrap().total(),
        MOST_LISTED as u64 + 50
    );
    let seen: Vec<_> = page.iter().map(|kept| (kept.facts.id, kept.revision)).collect();
    assert_eq!(letters.remove(&seen).await.unwrap(), MOST_LISTED as u64);
    assert_eq!(all(&*letters).await.len(), 50);
}

pub async fn concurrent_keepers_make_one_letter_of_one(subject: &dyn DeadLettersUnderTest) {
    const DEATHS: i64 = 8;
    let mut keepers = JoinSet::new();
    for death in 0..DEATHS {
        let letters = subject.letters();
        keepers.spawn(async move {
            let mut batch: Vec<_> = (0..50)
                .map(|n| letter(format!("line {n}").as_bytes(), death))
                .collect();
            if death % 2 == 1 {
                batch.reverse();
            }
            let keeping = async {
                while let Err(failure) = letters.keep(&batch).await {
                    assert!(
                        matches!(
                            failure,
                            warren_domain::ports::DeadLettersError::Unavailable { .. }
                        ),
                        "{failure}"
                    );
                    tokio::task::yield_now().await;
                }
            };
            tokio::time::timeout(crate::PATIENCE, keeping).await.unwrap();
        });
    }
    keepers.join_all().await;
    let kept = all(&*subject.letters()).await;
    assert_eq!(kept.len(), 50);
    for letter in kept {
        assert_eq!(letter.facts.attempts, DEATHS.unsigned_abs());
        assert_eq!(letter.facts.last_at, moment(DEATHS - 1));
    }
}
