//! What is wrong with a query, and where.

/// A text that is no query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("column {column}: {detail}; {hint}")]
pub struct InvalidQuery {
    /// Where the fault begins, in characters from 1.
    pub column: usize,
    /// How many characters it spans, at least 1.
    pub length: usize,
    /// What is wrong.
    pub detail: String,
    /// What to write instead.
    pub hint: &'static str,
}
