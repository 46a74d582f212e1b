//! The settings that a whole comparison runs with.

use lm::{AdapterConfig, FitConfig};
use oracle_posttrain::PretrainConfig;
use recipes::{EpisodeOptions, Recipe, SampleRequest, Split};

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
    FitConfig::reader(max_steps.unwrap_or(120), seed)
}

/// The same for oracles, which learn best at twice the rate.
pub fn oracle_fit(smoke: bool, max_steps: Option<usize>, seed: u64) -> FitConfig {
    FitConfig { learning_rate: 1e-3, ..reader_fit(smoke, max_steps, seed) }
}

/// How many phrasings are asked.
pub fn episode_options(smoke: bool) -> EpisodeOptions {
    EpisodeOptions { train_phrasings: if smoke { 2 } else { 8 }, ..EpisodeOptions::default() }
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
    let replies = if smoke { 1 } else { 12 };
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

/// Pretraining on `texts` and on the training and validation labels of the recipe. No label of a test split is named.
pub fn pretrain_config(
    topic: &Recipe,
    texts: Vec<String>,
    smoke: bool,
    max_steps: Option<usize>,
    seed: u64,
) -> PretrainConfig {
    let values = |split: Split| -> Vec<String> {
        let few = if smoke { 8 } else { usize::MAX };
        topic.expand(seed).into_iter().filter(|b| b.split == split).map(|b| b.value).take(few).collect()
    };
    PretrainConfig {
        fit: oracle_fit(smoke, max_steps.or(Some(if smoke { 4 } else { 160 })), seed),
        labels: values(Split::Train),
        validation_labels: values(Split::Validation),
        questions: topic.questions.train.clone(),
        texts,
        context_share: 0.4,
    }
}
