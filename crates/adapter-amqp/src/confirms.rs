//! Which packets are on their way, by delivery tag.

use std::collections::VecDeque;

/// A confirm for something that was never published: the count of publishes is wrong, and with it every other tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a confirm for delivery tag {tag}, but {published} packets were published")]
pub(crate) struct UnknownTag {
    tag: u64,
    published: u64,
}

/// What was published on one channel and not confirmed yet.
///
/// AMQP numbers the publishes of a channel from 1, in both ends by counting: the n-th [`Confirms::push`] has to be
/// the n-th publish since `confirm.select`, and nobody else may publish on the channel.
#[derive(Debug)]
pub(crate) struct Confirms<T> {
    /// What has tags from `first` on; a confirmed one leaves a gap until all before it are confirmed.
    slots: VecDeque<Option<T>>,
    first: u64,
    unconfirmed: usize,
}

impl<T> Confirms<T> {
    pub(crate) fn new() -> Self {
        Self {
            slots: VecDeque::new(),
            first: 1,
            unconfirmed: 0,
        }
    }

    /// Begins with the wrong number.
    #[cfg(feature = "planted-bugs")]
    pub(crate) fn off_by_one() -> Self {
        Self {
            first: 0,
            ..Self::new()
        }
    }

    /// Returns how many are unconfirmed.
    pub(crate) fn len(&self) -> usize {
        self.unconfirmed
    }

    /// Notes one publish.
    pub(crate) fn push(&mut self, item: T) {
        self.slots.push_back(Some(item));
        self.unconfirmed += 1;
    }

    /// Returns what was published first and is unconfirmed.
    pub(crate) fn oldest(&self) -> Option<&T> {
        self.slots.iter().find_map(Option::as_ref)
    }

    /// Iterates over what is unconfirmed, in the order of publishing.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.slots.iter_mut().filter_map(Option::as_mut)
    }

    /// Removes what a confirm covers: `tag`, or with `multiple` every one up to it. A confirm that comes twice
    /// covers nothing.
    ///
    /// # Errors
    /// [`UnknownTag`]: the channel has to be given up.
    pub(crate) fn settle(&mut self, tag: u64, multiple: bool) -> Result<Vec<T>, UnknownTag> {
        let end = self.first + self.slots.len() as u64;
        // AMQP lets tag 0 with `multiple` stand for everything so far.
        let tag = if tag == 0 && multiple { end - 1 } else { tag };
        if tag >= end || (tag == 0 && !multiple) {
            let published = end - 1;
            return Err(UnknownTag { tag, published });
        }
        let mut settled = Vec::new();
        if let Some(index) = tag
            .checked_sub(self.first)
            .and_then(|index| usize::try_from(index).ok())
        {
            let from = if multiple { 0 } else { index };
            settled.extend(self.slots.range_mut(from..=index).filter_map(Option::take));
        }
        self.unconfirmed -= settled.len();
        while let Some(None) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
        Ok(settled)
    }

    /// Ends the tracking and returns what stays unconfirmed, in the order of publishing.
    pub(crate) fn into_unconfirmed(self) -> impl Iterator<Item = T> {
        self.slots.into_iter().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn published(count: u64) -> Confirms<u64> {
        let mut confirms = Confirms::new();
        (1..=count).for_each(|tag| confirms.push(tag));
        confirms
    }

    #[test]
    fn a_confirm_of_many_covers_all_before_it() {
        let mut confirms = published(5);
        assert_eq!(confirms.settle(2, false), Ok(vec![2]));
        assert_eq!(confirms.settle(4, true), Ok(vec![1, 3, 4]));
        assert_eq!(confirms.settle(4, true), Ok(vec![]));
        assert_eq!(confirms.settle(3, false), Ok(vec![]));
        assert_eq!((confirms.len(), confirms.oldest()), (1, Some(&5)));
        confirms.push(6);
        assert_eq!(confirms.settle(0, true), Ok(vec![5, 6]));
        assert_eq!(confirms.settle(0, true), Ok(vec![]));
    }

    #[test]
    fn a_confirm_of_what_was_never_published_is_a_fault() {
        let mut confirms = published(2);
        assert_eq!(
            confirms.settle(3, false),
            Err(UnknownTag { tag: 3, published: 2 })
        );
        assert_eq!(
            confirms.settle(0, false),
            Err(UnknownTag { tag: 0, published: 2 })
        );
        assert_eq!(confirms.settle(2, true), Ok(vec![1, 2]));
        assert!(confirms.settle(3, true).is_err());
    }

    #[cfg(feature = "planted-bugs")]
    #[test]
    fn planted_confirms_that_are_off_by_one_are_taken_for_those_of_the_next_packet() {
        let mut confirms = Confirms::off_by_one();
        confirms.push("first");
        confirms.push("second");
        assert_eq!(confirms.settle(1, false), Ok(vec!["second"]));
        assert!(confirms.settle(2, false).is_err());
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Publish,
        Confirm { tag: u64, multiple: bool },
    }

    fn operation() -> impl Strategy<Value = Operation> {
        prop_oneof![
            Just(Operation::Publish),
            (0..40_u64, any::<bool>()).prop_map(|(tag, multiple)| Operation::Confirm { tag, multiple }),
        ]
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_set_of_tags(operations in prop::collection::vec(operation(), 0..120)) {
            let (mut confirms, mut model, mut count) = (Confirms::new(), BTreeSet::new(), 0);
            for operation in operations {
                match operation {
                    Operation::Publish => {
                        count += 1;
                        confirms.push(count);
                        model.insert(count);
                    }
                    Operation::Confirm { tag, multiple } => {
                        let covered: Vec<u64> = match (tag, multiple) {
                            (0, true) => model.iter().copied().collect(),
                            (_, true) => model.range(..=tag).copied().collect(),
                            (_, false) => model.get(&tag).into_iter().copied().collect(),
                        };
                        let known = tag <= count && (tag > 0 || multiple);
                        let settled = confirms.settle(tag, multiple);
                        prop_assert_eq!(settled.is_ok(), known);
                        if known {
                            prop_assert_eq!(settled, Ok(covered.clone()));
                            covered.iter().for_each(|tag| { model.remove(tag); });
                        }
                    }
                }
                prop_assert_eq!(confirms.len(), model.len());
                prop_assert_eq!(confirms.oldest(), model.first());
                prop_assert!(confirms.iter_mut().map(|tag| *tag).eq(model.iter().copied()));
            }
            prop_assert!(confirms.into_unconfirmed().eq(model));
        }
    }
}
