//! The settings that a whole comparison runs with.

use lm::{AdapterConfig, FitConfig};
use oracle_posttrain::PretrainConfig;
use recipes::{Check, EpisodeOptions, Recipe, SampleRequest, Split};

/// Reader settings of a full run, or of a smoke run.
pub fn reader_fit(smoke: bool, max_steps: Option<usize>, seed: u64) -> FitConfig {
    if smoke {
        return FitConfig {
            adapter: AdapterConfig::all_linear(2, 4.0),
            batch: 8,
            evaluate_every: max_steps.unwrap_or(4),
            warmup_steps: 2,
            ..FitConfig::reader(max_steps.unwrap_or(4), seed)
        };
    }
    FitConfig { evaluate_every: 16, warmup_steps: 12, ..FitConfig::reader(max_steps.unwrap_or(48), seed) }
}

/// The same for oracles, which learn best at twice the rate (LOG.md).
pub fn oracle_fit(smoke: bool, max_steps: Option<usize>, seed: u64) -> FitConfig {
    FitConfig { learning_rate: 1e-3, ..reader_fit(smoke, max_steps, seed) }
}

/// How many phrasings are asked.
pub fn episode_options(smoke: bool) -> EpisodeOptions {
    if smoke {
        return EpisodeOptions { train_phrasings: 2, validation_phrasings: 1, ..EpisodeOptions::default() };
    }
    EpisodeOptions::default()
}

/// Prompts whose replies are the texts of context prediction, when no corpus is given.
const TEXT_PROMPTS: [&str; 12] = [
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

/// What to sample for context prediction.
pub fn text_requests(smoke: bool) -> Vec<SampleRequest> {
    let replies = if smoke { 1 } else { 6 };
    TEXT_PROMPTS
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

/// Common nouns that name no value of any of the recipes, in either number: more labels for pretraining than one recipe
/// has training values, and none that another holds out.
pub fn nouns(recipes: &[Recipe]) -> Vec<String> {
    let values: Vec<Check> =
        recipes.iter().flat_map(|r| r.expand(1)).map(|b| Check::Mentions(b.value)).collect();
    include_str!("nouns.txt")
        .split_whitespace()
        .filter(|noun| !values.iter().any(|v| v.passes(noun)))
        .map(str::to_owned)
        .collect()
}

/// Pretraining on `texts`, on the training labels of the recipe and on [`nouns`] outside `recipes` (all that readers may be
/// asked about); the recipe's validation labels decide when to stop. No label of a test split is named.
pub fn pretrain_config(
    topic: &Recipe,
    recipes: &[Recipe],
    texts: Vec<String>,
    smoke: bool,
    max_steps: Option<usize>,
    seed: u64,
) -> PretrainConfig {
    let values = |split: Split| -> Vec<String> {
        let few = if smoke { 8 } else { usize::MAX };
        topic.expand(seed).into_iter().filter(|b| b.split == split).map(|b| b.value).take(few).collect()
    };
    let mut labels = values(Split::Train);
    if !smoke {
        labels.extend(nouns(recipes));
    }
    PretrainConfig {
        fit: FitConfig {
            evaluate_every: if smoke { 4 } else { 40 },
            ..oracle_fit(smoke, max_steps.or(Some(if smoke { 4 } else { 160 })), seed)
        },
        labels,
        validation_labels: values(Split::Validation),
        questions: topic.questions.train.clone(),
        texts,
        context_share: 0.15,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pretraining_names_no_label_that_readers_are_tested_or_stopped_on() {
        let all = recipes::builtin();
        let topic = all.iter().find(|r| r.name == "topic").unwrap();
        let config = pretrain_config(topic, &all, vec![], false, None, 1);
        assert!(config.labels.len() > 500, "{}", config.labels.len());
        for b in all.iter().flat_map(|r| r.expand(1)).filter(|b| b.split != Split::Train) {
            let named = Check::Mentions(b.value.clone());
            assert!(!config.labels.iter().any(|l| named.passes(l)), "{}", b.value);
        }
    }
}
