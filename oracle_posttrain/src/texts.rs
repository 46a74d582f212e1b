//! Texts for context prediction, where no corpus is given: replies of the base model.

use std::collections::BTreeSet;

use recipes::SampleRequest;

/// Prompts whose replies are the texts.
const PROMPTS: [&str; 12] = [
    "Tell me a short story about a journey.",
    "Explain how to plan a week.",
    "Describe a quiet village.",
    "Write a letter to an old friend.",
    "What makes a good teacher?",
    "Describe how a day begins.",
    "Give some advice to a young person.",
    "Explain why people work together.",
    "Write about a lost key.",
    "Describe a surprising visitor.",
    "Explain the idea of fairness.",
    "Write about the year that has passed.",
];

/// What to sample.
pub(crate) fn requests(smoke: bool) -> BTreeSet<SampleRequest> {
    let replies = if smoke { 1 } else { 6 };
    PROMPTS
        .iter()
        .flat_map(|p| {
            (0..replies).map(|index| SampleRequest {
                prompt: (*p).to_owned(),
                index,
                temperature_milli: 900,
                max_new_tokens: if smoke { 32 } else { 72 },
            })
        })
        .collect()
}
