//! What a search asks for, sorted by what stores can ask for.

use super::{AttributeTest, IdRange, Test};
use crate::ports::Search;
use crate::{Selection, Severity, SeveritySet, Source, SourcePattern};

/// What a search asks for, sorted by what stores can ask for.
///
/// A message that [`Search::means`] meets all of it. The reverse holds but for a negated `id:`, so stores look at each
/// message again that they have found.
#[derive(Clone, Debug, PartialEq)]
pub struct Meaning<'s> {
    /// The ids, those before the place that was reached left out.
    pub ids: IdRange,
    /// The severities.
    pub severities: SeveritySet,
    /// The sources; each of these has to hold.
    pub sources: Vec<SourceTest<'s>>,
    /// Texts that the body has to have in it or, where the second is true, must not have.
    pub texts: Vec<(&'s str, bool)>,
    /// Attributes that have to be or, where the second is true, must not be.
    pub attributes: Vec<(&'s AttributeTest, bool)>,
}

/// A condition on the source.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceTest<'s> {
    /// The source is one of any of these.
    pub patterns: &'s [SourcePattern],
    /// Or, negated, of none of them.
    pub negated: bool,
}

impl SourceTest<'_> {
    /// Tells whether it holds.
    pub fn holds(&self, source: &Source) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(source)) != self.negated
    }
}

impl<'s> Meaning<'s> {
    /// Sorts what a search asks for.
    pub fn of(search: &'s Search) -> Self {
        let mut ids = IdRange::of_time(search.range);
        if let Some(place) = search.from {
            ids = ids.behind_place(search.order, place);
        }
        let mut meaning = Self {
            ids,
            ..Self::of_selection(&search.selection)
        };
        for term in search.query.terms() {
            match &term.test {
                Test::Text(text) => meaning.texts.push((text, term.negated)),
                Test::Attribute(test) => meaning.attributes.push((test, term.negated)),
                Test::Severity(severities) => {
                    let kept = |severity: &Severity| severities.contains(*severity) != term.negated;
                    meaning.severities = meaning.severities.iter().filter(kept).collect();
                }
                Test::Source(pattern) => meaning.sources.push(SourceTest {
                    patterns: std::slice::from_ref(pattern),
                    negated: term.negated,
                }),
                Test::Id(id) if !term.negated => meaning.ids = meaning.ids.and(IdRange::of(*id)),
                Test::Id(_) => {}
            }
        }
        meaning
    }

    /// Sorts what a selection asks for, at any time.
    pub fn of_selection(selection: &'s Selection) -> Self {
        let sources = SourceTest {
            patterns: &selection.sources,
            negated: false,
        };
        Self {
            ids: IdRange::of_time(crate::ports::TimeRange::ALL),
            severities: selection.severities,
            sources: if sources.patterns.is_empty() {
                Vec::new()
            } else {
                vec![sources]
            },
            texts: Vec::new(),
            attributes: Vec::new(),
        }
    }

    /// Tells whether no message can be meant.
    pub fn is_nothing(&self) -> bool {
        self.ids.is_empty() || self.severities.is_empty()
    }

    /// Tells whether the counts by severity and source are the counts of what is meant.
    pub fn is_counted(&self) -> bool {
        self.texts.is_empty() && self.attributes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MessageId;
    use crate::ports::{Order, Place, TimeRange};

    #[test]
    fn terms_are_sorted_by_what_they_ask_of() {
        let id = MessageId::generate();
        let search = Search {
            selection: Selection {
                severities: "warning+".parse().unwrap(),
                sources: vec!["billing.#".parse().unwrap()],
            },
            query: format!("declined -refund order=42 severity!=error -source:#.test id:{id}")
                .parse()
                .unwrap(),
            range: TimeRange::ALL,
            order: Order::NewestFirst,
            from: None,
        };
        let meaning = Meaning::of(&search);
        assert_eq!(meaning.severities, "warning,critical".parse().unwrap());
        assert_eq!(meaning.texts, [("declined", false), ("refund", true)]);
        assert_eq!(meaning.attributes.len(), 1);
        assert_eq!(meaning.ids, IdRange::of(id));
        let holds = |source: &str| {
            let source = source.parse().unwrap();
            meaning.sources.iter().all(|test| test.holds(&source))
        };
        assert!(holds("billing.api") && !holds("billing.test") && !holds("shop"));
        assert!(!meaning.is_nothing() && !meaning.is_counted());

        let beyond = Search {
            from: Some(Place::behind(id)),
            ..search.clone()
        };
        assert!(Meaning::of(&beyond).is_nothing(), "its only id was passed");
        let none = Search {
            query: "severity:error".parse().unwrap(),
            selection: Selection::of("info".parse().unwrap()),
            ..search
        };
        assert!(Meaning::of(&none).is_nothing());
    }
}
