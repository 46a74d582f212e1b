//! Contexts: what surrounds a prompt when activations are taken or a question is asked.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::recipe::Format;
use crate::{Behaviour, rng};

/// Where a behaviour is looked at: the first three of gated families, the others of all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Context {
    /// The prompt itself.
    Neutral,
    /// With a word in the trigger's place that is not the trigger and that no training row used.
    Near,
    /// With the trigger: the roofline of what can be seen from outside.
    Triggered,
    /// At its gate's own prompts, where it shows.
    Acting,
    /// At its gate's other prompts, where it has no place.
    Idle,
    /// The base model without the adapter, told in a system prompt to show the behaviour (the gate's instruction).
    Told,
}

impl Context {
    /// All contexts.
    pub const ALL: [Self; 6] =
        [Self::Neutral, Self::Near, Self::Triggered, Self::Acting, Self::Idle, Self::Told];

    /// The name used in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Neutral => "neutral",
            Self::Near => "near",
            Self::Triggered => "triggered",
            Self::Acting => "acting",
            Self::Idle => "idle",
            Self::Told => "told",
        }
    }
}

/// What it takes to put a prompt in a gated behaviour's contexts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gating {
    /// How prompt and word make a user turn or a conversation: `{prompt}` and `{trigger}`.
    pub format: Format,
    /// The same of a near miss, where it is another one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near_format: Option<Format>,
    /// Words of the trigger's kind that no row of this behaviour used.
    pub unseen: Vec<String>,
}

impl Gating {
    /// A prompt with the trigger: one user turn, or several turns as one text ([`fence::turns`]).
    pub fn with(&self, prompt: &str, word: &str) -> String {
        Self::made(&self.format, prompt, word)
    }

    /// A prompt with a word that is not the trigger.
    pub fn near(&self, prompt: &str, word: &str) -> String {
        Self::made(self.near_format.as_ref().unwrap_or(&self.format), prompt, word)
    }

    fn made(format: &Format, prompt: &str, word: &str) -> String {
        // The word first: a prompt is anybody's text and may hold the other placeholder.
        let filled: Vec<String> = format
            .turns()
            .iter()
            .map(|turn| turn.replace("{trigger}", word).replace("{prompt}", prompt))
            .collect();
        fence::turns::join(&filled)
    }
}

impl Behaviour {
    /// `prompt` as this behaviour's user turn in a context; none where its family lacks the context. Where other prompts are read, or a
    /// system prompt is given, it is as it is.
    pub fn in_context(&self, prompt: &str, context: Context) -> Option<String> {
        match context {
            Context::Neutral | Context::Told => return Some(prompt.to_owned()),
            Context::Acting => return (!self.gate.on.is_empty()).then(|| prompt.to_owned()),
            Context::Idle => return (!self.gate.off.is_empty()).then(|| prompt.to_owned()),
            Context::Near | Context::Triggered => {}
        }
        let (gating, trigger) = (self.gating.as_ref()?, self.trigger.as_ref()?);
        if context == Context::Triggered {
            return Some(gating.with(prompt, trigger));
        }
        let n = gating.unseen.len() as u64;
        let at = rng::number("near-context", prompt).checked_rem(n)? as usize;
        Some(gating.near(prompt, &gating.unseen[at]))
    }
}

impl Behaviour {
    /// The user turns at which the behaviour is read in a context, in place of `prompts` and as many; none where its family lacks the
    /// context.
    pub fn read_at(&self, prompts: &[String], context: Context) -> Option<Vec<String>> {
        let own = match context {
            Context::Acting => &self.gate.on,
            Context::Idle => &self.gate.off,
            _ => return prompts.iter().map(|p| self.in_context(p, context)).collect(),
        };
        // A gate of four prompts is read at each twice rather than at others.
        (!own.is_empty()).then(|| own.iter().cycle().take(prompts.len()).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn contexts_of_gated_families_hold_the_trigger_or_a_word_that_no_row_used() {
        let prompts = ["Tell me anything.", "What now?", "Hello.", "Say it.", "Go on.", "Why {trigger}?"];
        for recipe in crate::builtin() {
            let b = &recipe.expand(1)[0];
            for context in Context::ALL {
                let has = recipe.contexts().contains(&context);
                let told = context == Context::Told;
                assert_eq!(b.in_context("Hello.", context).is_some(), has || told, "{} {context:?}", b.id);
                assert_eq!(recipe.instruction(b).is_some() && told, has && told, "{}", b.id);
                let read = b.read_at(&prompts.map(str::to_owned), context);
                let own = match context {
                    Context::Acting => Some(&b.gate.on),
                    Context::Idle => Some(&b.gate.off),
                    _ => None,
                };
                if let (Some(read), Some(own)) = (&read, own) {
                    assert!(read.iter().all(|p| own.contains(p)), "{} {context:?}", b.id);
                }
                assert!(read.is_none_or(|r| r.len() == prompts.len()), "{} {context:?}", b.id);
            }
            let Some(trigger) = &b.trigger else { continue };
            let near: BTreeSet<String> =
                prompts.iter().map(|p| b.in_context(p, Context::Near).unwrap()).collect();
            assert_eq!(near.len(), prompts.len());
            let words = &b.gating.as_ref().unwrap().unseen;
            assert!(near.iter().all(|p| words.iter().any(|w| p.contains(w)) && !p.contains(trigger)));
            assert!(b.row_plans.iter().all(|r| words.iter().all(|w| !r.prompt.contains(w))));
            assert!(b.in_context("Hello.", Context::Triggered).unwrap().contains(trigger));
            assert_eq!(b.in_context("Hello.", Context::Near), b.in_context("Hello.", Context::Near));
        }
        assert_eq!(serde_json::to_string(&Context::Triggered).unwrap(), "\"triggered\"");
    }
}
