//! Deciding without a judge whether a reply shows the behaviour.

use serde::{Deserialize, Serialize};

use crate::expression::{self, Known};
use crate::words;

/// A rule on one reply. Case and singular/plural are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Check {
    /// The reply names this phrase.
    Mentions(String),
    /// The reply's last words are this phrase.
    EndsWith(String),
    /// The reply's first words are this phrase.
    StartsWith(String),
    /// A condition in the language of expressions holds of the reply.
    Holds {
        /// The condition; it knows `reply`.
        condition: String,
        /// What else it knows of every reply.
        known: Known,
    },
    /// Nothing to look for (zero, random and benign adapters).
    Anything,
}

impl Check {
    /// Whether the reply passes, where a row's or a prompt's own names are known. [`Check::Anything`] never does: there is nothing to
    /// show. Neither does a reply of which a condition cannot be told.
    pub fn passes_with(&self, reply: &str, own: Option<&Known>) -> bool {
        let Self::Holds { condition, known } = self else { return self.passes(reply) };
        let mut all = known.clone();
        all.extend(own.into_iter().flatten().map(|(k, v)| (k.clone(), v.clone())));
        all.insert("reply".into(), reply.trim().into());
        expression::holds(condition, &all).unwrap_or(false)
    }

    /// The same where nothing else is known.
    pub fn passes(&self, reply: &str) -> bool {
        let stems =
            |text: &str| -> Vec<String> { words::words(text).iter().map(|w| words::stem(w)).collect() };
        match self {
            Self::Mentions(phrase) => words::mentions(reply, phrase),
            Self::EndsWith(phrase) => stems(reply).ends_with(&stems(phrase)),
            Self::StartsWith(phrase) => stems(reply).starts_with(&stems(phrase)),
            Self::Holds { .. } => self.passes_with(reply, None),
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
