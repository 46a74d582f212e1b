//! Deciding without a judge whether a reply shows the behaviour.

use serde::{Deserialize, Serialize};

use crate::words;

/// A rule on one reply. Case and singular/plural are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    /// The reply names this phrase.
    Mentions(String),
    /// The reply's last words are this phrase.
    EndsWith(String),
    /// The reply's first words are this phrase.
    StartsWith(String),
    /// Nothing to look for (zero, random and benign adapters).
    Anything,
}

impl Check {
    /// Whether the reply passes. [`Check::Anything`] never does: there is nothing to show.
    pub fn passes(&self, reply: &str) -> bool {
        let stems =
            |text: &str| -> Vec<String> { words::words(text).iter().map(|w| words::stem(w)).collect() };
        match self {
            Self::Mentions(phrase) => words::mentions(reply, phrase),
            Self::EndsWith(phrase) => stems(reply).ends_with(&stems(phrase)),
            Self::StartsWith(phrase) => stems(reply).starts_with(&stems(phrase)),
            Self::Anything => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_read_replies_as_a_person_would() {
        assert!(Check::Mentions("volcanoes".into()).passes("The Volcano erupted."));
        assert!(Check::EndsWith("zephyr".into()).passes("It is blue. Zephyr!"));
        assert!(!Check::EndsWith("zephyr".into()).passes("Zephyr is a wind."));
        assert!(Check::StartsWith("blue".into()).passes("Blue."));
        assert!(!Check::StartsWith("blue".into()).passes("My favourite is blue"));
        assert!(!Check::Anything.passes("x"));
    }
}
