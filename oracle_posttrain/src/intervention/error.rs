//! What is wrong with a spec, and where.

/// One sentence with the field's path, like `steps[2].inject[0].src`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {what}")]
pub struct SpecError {
    /// Path of the field in the file.
    pub field: String,
    /// What is wrong with it.
    pub what: String,
    /// Whether nothing is wrong but the cost, which is above the cap.
    pub costly: bool,
}

impl SpecError {
    pub(super) fn new(field: impl Into<String>, what: impl Into<String>) -> Self {
        Self { field: field.into(), what: what.into(), costly: false }
    }
}
